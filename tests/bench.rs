//! `microrun bench` from outside, with small counts: what it measures is not judged, that it measures is.

#![allow(clippy::unwrap_used)] // In helpers of tests, which the lint takes for something else.

mod common;

use common::{Guard, program};
use serde_json::Value;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// `bench` with `words`, of the microrun under test.
fn bench(directory: &TempDir, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_microrun-bench"));
    command.arg("--microrun").arg(program()).args(words).current_dir(directory.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end: exit code, stdout and stderr.
fn said(command: &mut Command) -> (Option<i32>, String, String) {
    ended(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// As [`said`], of one that runs.
fn ended(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What one measurement finds left behind another may have made, but for what is called after that: who makes such a thing
/// is alone with it.
static LEFT: RwLock<()> = RwLock::new(());

/// Nobody makes anything that one would find.
macro_rules! undisturbed {
    () => {
        let _undisturbed = LEFT.read().unwrap_or_else(PoisonError::into_inner);
    };
}

/// Runs it to its end, after which there is nothing left of it; what it says.
fn measured(directory: &TempDir, words: &[&str]) -> String {
    undisturbed!();
    let child = bench(directory, words).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{text}{errors}");
    assert!(text.contains("left behind: nothing"), "{text}");
    assert_eq!(remains(pid), Vec::<String>::new());
    text.into_owned()
}

fn record(directory: &TempDir, name: &str) -> Value {
    serde_json::from_slice(&fs::read(directory.path().join(name)).unwrap()).unwrap()
}

fn row<'a>(record: &'a Value, name: &str) -> &'a Value {
    record["rows"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap()
}

fn medians(row: &Value) -> usize {
    row["latency"][0]["reaped_us"].as_array().unwrap().iter().filter(|sample| sample.is_number()).count()
}

/// Whether the highest rate that is kept up is certain to be looked for: the search begins at 0.7 of the best closed loop, and makes no
/// trial below one start in two seconds.
fn is_searched(load: &Value) -> bool {
    let best = load["closed"].as_array().unwrap().iter().map(|closed| closed["per_second"].as_f64().unwrap());
    best.fold(0.0, f64::max) >= 0.8
}

/// What it needs: root, and a kernel that lets it make a mount namespace and a cgroup.
macro_rules! root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            skip!("the benchmark makes mounts and cgroups, which takes root");
        }
    };
}

/// What of a measurement by the process `pid` is on the machine.
fn remains(pid: u32) -> Vec<String> {
    let name = format!("microrun-bench-{pid}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found: Vec<String> = mounts.lines().filter(|line| line.contains(&name)).map(str::to_owned).collect();
    let tops = common::hierarchies().into_iter().chain([std::env::temp_dir()]);
    found.extend(tops.map(|top| top.join(&name)).filter(|path| path.exists()).map(|path| path.display().to_string()));
    found
}

/// Whether `process` is in a mount namespace of the measurement by the process `pid`.
fn in_views_of(pid: u32, process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap().contains(&format!("microrun-bench-{pid} "))
}

fn interrupt(child: &Child) {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
}

#[test]
fn a_small_measurement_from_end_to_end() {
    root!();
    let directory = tempfile::tempdir().unwrap();
    let words = [
        "--quick",
        "--rounds",
        "4",
        "--gap",
        "0,1ms",
        "--trial",
        "300ms",
        "--workers",
        "1,2",
        "--timeout",
        "60s",
        "--parts",
        "latency,throughput,steps",
        "--only",
        "process,floor,microrun,shell",
        "--peer",
        "shell=sh -c 'echo Hello'",
        "--json",
        "a.json",
        "--csv",
        "a.csv",
        "--report",
        "page",
    ];
    let text = measured(&directory, &words);

    let record = record(&directory, "a.json");
    for name in ["process: static hello", "process: /bin/echo", "floor", "microrun", "shell"] {
        let row = row(&record, name);
        assert_eq!(medians(row), 4, "{name}: {text}");
        let load = &row["load"];
        let closed = load["closed"].as_array().unwrap();
        let has_starts = |closed: &Value| closed["per_second"].as_f64().unwrap() > 0.0;
        assert!(closed.len() == 2 && closed.iter().all(has_starts), "{name}: {text}");
        // Whether any rate is kept up is the machine's affair.
        let kept_up = load["open"].as_array().unwrap().iter().filter(|trial| trial["kept_up"] == true);
        let highest = kept_up.map(|trial| trial["offered"].as_f64().unwrap()).reduce(f64::max);
        assert_eq!(load["knee"].as_f64(), highest, "{name}: {text}");
        assert!(!load["open"].as_array().unwrap().is_empty() || !is_searched(load), "{name}: {text}");
    }
    let knee = row(&record, "process: static hello")["load"]["knee"].as_f64();
    assert!(record["ceiling"].as_f64() >= knee && record["ceiling"].is_null() == knee.is_none(), "{text}");
    assert!(!record["steps"].as_array().unwrap().is_empty());

    let page = fs::read_to_string(directory.path().join("page/index.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>"));
    assert!(fs::read_to_string(directory.path().join("page/figure.svg")).unwrap().starts_with("<svg"));
    let csv = fs::read_to_string(directory.path().join("a.csv")).unwrap();
    assert!(csv.lines().filter(|line| line.starts_with("microrun,latency,0,reaped_us,")).count() == 4, "{csv}");

    let (code, again, _) = said(&mut bench(&directory, &["--from", "a.json", "--json", "b.json"]));
    assert_eq!(code, Some(0));
    let report = text.lines().filter(|line| !line.starts_with("the page: "));
    assert!(again.lines().eq(report), "{text}{again}");
    let (code, compared, errors) = said(&mut bench(&directory, &["--compare", "a.json", "b.json"]));
    assert_eq!(code, Some(0), "{errors}");
    assert!(compared.contains("+0.0%"), "{compared}");
}

#[test]
fn who_never_succeeds_is_given_up_with_the_reason() {
    root!();
    let directory = tempfile::tempdir().unwrap();
    let words = ["--only", "process,fails,hangs,silent", "--parts", "latency", "--rounds", "2", "--gap", "0"];
    let peers = ["fails=sh -c 'echo broken >&2; exit 3'", "hangs=sleep 62.5", "silent=true"];
    let peers = peers.iter().flat_map(|peer| ["--peer", peer]);
    let words: Vec<&str> = words.into_iter().chain(peers).chain(["--timeout", "5s", "--json", "a.json"]).collect();
    let text = measured(&directory, &words);
    let record = record(&directory, "a.json");
    for (name, why) in [("fails", "exit code 3: broken"), ("hangs", "timed out"), ("silent", "wrote \"\"")] {
        let given_up = row(&record, name)["latency"][0]["given_up"].as_str().unwrap_or_default();
        assert!(given_up.contains(why), "{name}: {given_up}");
        assert!(text.contains(why), "{name}: {text}");
    }
}

#[test]
fn another_runtime_is_measured_beside_microrun() {
    root!();
    let directory = tempfile::tempdir().unwrap();
    let words = ["--only", "microrun,runc", "--parts", "latency", "--rounds", "4", "--gap", "0"];
    let text = measured(&directory, &[&words[..], &["--timeout", "60s", "--json", "a.json"]].concat());
    if text.contains("runc: not on PATH") {
        skip!("there is no runc");
    }
    let record = record(&directory, "a.json");
    for name in ["microrun", "runc", "runc + overlay"] {
        assert_eq!(medians(row(&record, name)), 4, "{name}: {text}");
    }
}

#[test]
fn a_signal_ends_it_cleanly_and_shows_what_there_is() {
    root!();
    undisturbed!();
    let directory = tempfile::tempdir().unwrap();
    let started = directory.path().join("started");
    let peer = format!("peer=sh -c 'echo x >>{}; echo Hello'", started.display());
    let words =
        ["--only", "process,microrun,peer", "--peer", &peer, "--rounds", "100000", "--gap", "0", "--json", "a.json"];
    let mut child: Child = bench(&directory, &words).spawn().unwrap();
    let pid = child.id();
    // Three are the warm-up.
    let deadline = Instant::now() + Duration::from_secs(200);
    while fs::read(&started).map_or(0, |text| text.len()) < 2 * 6 {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it does not measure");
        sleep(Duration::from_millis(20));
    }
    interrupt(&child);
    let asked = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(asked.elapsed() < Duration::from_secs(200), "it does not end");
        sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("interrupted") && text.contains("left behind: nothing"), "{text}");
    assert_eq!(remains(pid), Vec::<String>::new());
    let record = record(&directory, "a.json");
    assert!(medians(row(&record, "process: static hello")) > 0, "{text}");
    assert_eq!(record["interrupted"], true);
}

#[test]
fn what_a_killed_one_has_left_goes_with_the_next() {
    root!();
    let directory = tempfile::tempdir().unwrap();
    let words = ["--only", "process,microrun", "--rounds", "100000", "--gap", "0", "--parts", "latency"];
    let mut killed = Guard(bench(&directory, &words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let mut living = Guard(bench(&directory, &words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    for pid in [killed.0.id(), living.0.id()] {
        common::eventually(|| remains(pid).len() > common::hierarchies().len());
    }
    let container = Guard(Command::new("sleep").arg("1000").spawn().unwrap());
    // A cpuset of v1 takes nobody before it has CPUs and nodes.
    for hierarchy in common::hierarchies().into_iter().filter(|hierarchy| !hierarchy.ends_with("cpuset")) {
        let cgroup = hierarchy.join(format!("microrun-bench-{}/microrun-0", killed.0.id()));
        fs::create_dir_all(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.procs"), container.0.id().to_string()).unwrap();
    }
    // A command that is at work, where it finds its state.
    let namespace = format!("-m/proc/{}/ns/mnt", killed.0.id());
    let stray = Guard(Command::new("nsenter").args([&namespace, "sleep", "1000"]).spawn().unwrap());
    common::eventually(|| in_views_of(killed.0.id(), stray.0.id()));
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    let quick = ["--quick", "--only", "process", "--rounds", "1", "--gap", "0", "--parts", "latency"];
    let (code, text, errors) = said(&mut bench(&directory, &quick));
    assert_eq!(code, Some(0), "{text}{errors}");
    assert_eq!(remains(killed.0.id()), Vec::<String>::new());
    for mut ended in [container, stray] {
        let signal = || ended.0.try_wait().unwrap().and_then(|status| status.signal());
        common::eventually_is(signal, &Some(libc::SIGKILL));
    }
    assert!(!remains(living.0.id()).is_empty());
    interrupt(&living.0);
    assert_eq!(living.0.wait().unwrap().code(), Some(130));
    assert_eq!(remains(living.0.id()), Vec::<String>::new());
}

/// What it makes is locked before anybody may take it for what a killed one has left.
#[test]
fn one_that_has_just_begun_is_left_alone() {
    root!();
    if let Err(why) = common::require_strace() {
        skip!("{why}");
    }
    let directory = tempfile::tempdir().unwrap();
    let quick = ["--quick", "--only", "process", "--rounds", "1", "--gap", "0", "--parts", "latency"];
    let bench = bench(&directory, &quick);
    let trace = directory.path().join("trace");
    let mut slow = Command::new("strace");
    slow.arg("-o").arg(&trace).args(["-e", "trace=/^mkdir|^flock", "-e", "inject=flock:delay_enter=3000000"]);
    slow.arg(bench.get_program()).args(bench.get_args()).current_dir(directory.path());
    let slow = slow.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    common::eventually(|| fs::read_to_string(&trace).is_ok_and(|text| text.contains("microrun-bench-")));
    measured(&directory, &quick);
    let (code, text, errors) = ended(slow);
    assert_eq!(code, Some(0), "{text}{errors}");
}

#[test]
fn growth_with_the_smallest_sizes() {
    root!();
    undisturbed!();
    let directory = tempfile::tempdir().unwrap();
    let words = ["--quick", "--parts", "growth", "--only", "microrun", "--timeout", "60s", "--json", "a.json"];
    let (code, text, errors) = said(&mut bench(&directory, &words));
    assert_eq!(code, Some(0), "{text}{errors}");
    assert!(text.contains("left behind: nothing"), "{text}");
    let record = record(&directory, "a.json");
    let curves = record["growth"].as_array().unwrap();
    assert_eq!(curves.len(), 3, "{text}");
    assert!(curves.iter().all(|curve| curve["points"].as_array().unwrap().len() == 2), "{curves:?}");
    assert!(record["memory"][0]["runtime_pss_kib"].as_u64().unwrap() > 0, "{text}");
}

#[test]
fn parked_sandboxes_are_measured_and_the_pool_is_gone_afterwards() {
    root!();
    undisturbed!();
    let directory = tempfile::tempdir().unwrap();
    let words = [
        "--quick",
        "--action",
        "--only",
        "process,microrun with parts,microrun parked,microrun parked (ns reused),\
         microrun parked (library + ns reused)",
        "--parts",
        "latency,throughput,pool",
        "--pool-size",
        "3",
    ];
    let more =
        ["--rounds", "4", "--gap", "0", "--trial", "200ms", "--workers", "2", "--timeout", "60s", "--json", "a.json"];
    let (code, text, errors) = said(&mut bench(&directory, &[&words[..], &more].concat()));
    assert_eq!(code, Some(0), "{text}{errors}");
    if text.contains("only a binary that is linked with musl can be a pool") {
        skip!("only a binary that is linked with musl can be a pool: set MICRORUN to one");
    }
    assert!(text.contains("left behind: nothing"), "{text}");
    let record = record(&directory, "a.json");
    assert_eq!(record["config"]["process"]["user"]["uid"], 65534, "{text}");
    for name in [
        "microrun with parts",
        "microrun parked",
        "microrun parked (ns reused)",
        "microrun parked (library)",
        "microrun parked (library + ns reused)",
    ] {
        let row = row(&record, name);
        assert_eq!(medians(row), 4, "{text}");
        let load = &row["load"];
        let has_hits = |trial: &Value| trial["hits"].is_number();
        assert!(load["open"].as_array().unwrap().iter().any(has_hits) || !is_searched(load), "{load}");
    }
    let pool = &record["pool"];
    let count = |name: &str| pool[name].as_array().unwrap().len();
    assert!(count("hits_us") >= 3, "{text}");
    assert_eq!((count("hits_us") + count("misses_us"), count("cold_us")), (30, 30), "{text}");
    let memory = &record["memory"][0];
    assert_eq!(memory["row"], "microrun parked");
    assert!(memory["runtime_pss_kib"].as_u64().unwrap() > 0, "{text}");
}

/// A cgroup at the top of whichever hierarchies it is in, which goes however the test ends.
struct Garbage<'a>(&'a str);

impl Garbage<'_> {
    /// In how many it was.
    fn remove(&self) -> usize {
        common::hierarchies().into_iter().filter(|top| fs::remove_dir(top.join(self.0)).is_ok()).count()
    }
}

impl Drop for Garbage<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

#[test]
fn what_a_peer_leaves_behind_is_named() {
    root!();
    let _alone = LEFT.write().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir().unwrap();
    let (mount, cgroup) = (directory.path().join("mount"), format!("microrun-garbage-{}", std::process::id()));
    fs::create_dir(&mount).unwrap();
    let script = "sleep 64.5 & mkdir -p /sys/fs/cgroup/$1; mountpoint -q $2 || mount -t tmpfs left $2; echo Hello";
    let peer = format!("garbage=sh -c '{script}' sh {cgroup} {}", mount.display());
    let words = ["--only", "process,garbage", "--parts", "latency,steps", "--rounds", "2", "--gap", "0"];
    let garbage = Garbage(&cgroup);
    let (code, text, errors) = said(&mut bench(&directory, &[&words[..], &["--peer", &peer]].concat()));
    let removed = garbage.remove();
    assert_eq!(code, Some(0), "{text}{errors}");
    let left = text.split("left behind: ").nth(1).unwrap();
    // Three starts to warm up, two that count.
    assert!(left.contains("(sleep): sleep 64.5 and 4 more (of garbage)"), "{text}");
    let is_mount = |line: &str| line.contains(" - tmpfs left rw") && line.ends_with(" (of garbage)");
    assert!(left.lines().any(is_mount), "{text}");
    // Where no cgroup2 mount is at /sys/fs/cgroup, it is in a hierarchy that is not mounted there.
    assert!(removed == 0 || left.contains(&format!("{cgroup}, since the warm-up of garbage")), "{text}");
    assert!(common::require_strace().is_err() || text.contains("system calls: garbage: timed out"), "{text}");
}

#[test]
fn engines_that_are_there_are_measured_and_nothing_is_left_of_them() {
    root!();
    let directory = tempfile::tempdir().unwrap();
    let rows = "process,ctr: microrun,podman: microrun,docker: microrun";
    let words =
        ["--quick", "--engines", "--only", rows, "--parts", "latency,throughput,steps,growth", "--workers", "1"];
    let more =
        ["--rounds", "6", "--gap", "0", "--trial", "200ms", "--timeout", "30s", "--json", "a.json", "--report", "page"];
    let text = measured(&directory, &[&words[..], &more].concat());
    let record = record(&directory, "a.json");
    let mut missing = 0;
    for engine in ["ctr", "podman", "docker"] {
        let name = format!("{engine}: microrun");
        if record["rows"].as_array().unwrap().iter().any(|row| row["name"] == *name) {
            let row = row(&record, &name);
            // In the first round and in the sixth.
            assert_eq!(medians(row), 2, "{name}: {text}");
            assert_eq!((&row["kind"], &row["load"]), (&"engine".into(), &Value::Null));
        } else {
            let why = record["skipped"].as_array().unwrap().iter().find_map(|why| {
                let why = why.as_str().unwrap();
                why.starts_with(&format!("{engine}: ")).then_some(why)
            });
            println!("{}", why.unwrap());
            missing += 1;
        }
    }
    if missing == 3 {
        skip!("there is no engine here");
    }
    let page = fs::read_to_string(directory.path().join("page/index.html")).unwrap();
    assert!(page.contains("By way of an engine") && page.contains("With an engine"));
}

#[test]
fn engines_that_are_not_there_or_not_asked_for_are_skipped_with_the_reason() {
    root!();
    let directory = tempfile::tempdir().unwrap();
    let empty = tempfile::tempdir().unwrap();
    let words = ["--only", "process", "--parts", "latency", "--rounds", "1", "--gap", "0"];
    let with = |more: &[&str]| {
        let (code, text, errors) = said(bench(&directory, &[&words[..], more].concat()).env("PATH", empty.path()));
        assert_eq!(code, Some(0), "{text}{errors}");
        text
    };
    let text = with(&["--engines"]);
    for why in ["ctr: there is no containerd on PATH", "podman: there is no podman", "docker: there is no dockerd"] {
        assert!(text.contains(why), "{text}");
    }
    assert!(with(&[]).contains("engines: not asked for: --engines measures ctr, podman, docker"));
}

#[test]
fn mistakes_on_the_command_line() {
    let directory = tempfile::tempdir().unwrap();
    for (words, wanted) in [
        (["--peer", "x"], "give NAME=COMMAND"),
        (["--parts", "all"], "give latency, throughput, steps, growth or pool"),
        (["--workers", "0"], "give numbers from 1 to 64"),
        (["--pool-size", "0"], "give a number from 1 to 1000"),
        (["--gap", "soon"], "give a duration"),
        (["--compare", "a.json"], "--compare takes two records"),
        (["--from", "/nonexistent"], "read /nonexistent"),
        (["--from", "/dev/null"], "give a file that `bench --json` of this version wrote"),
    ] {
        let (code, _, errors) = said(&mut bench(&directory, &words));
        assert!(code == Some(1) && errors.contains(wanted), "{words:?}: {errors}");
    }
}

#[test]
fn the_verb_executes_the_program_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let (own, other) = (directory.path().join("microrun"), directory.path().join("microrun-bench"));
    fs::copy(program(), &own).unwrap();
    let call = || said(Command::new(&own).args(["bench", "--compare", "x.json"]).env("PATH", "/nonexistent"));
    let (code, _, errors) = call();
    assert!(code == Some(1) && errors.contains("make bench builds it"), "{errors}");
    fs::copy(env!("CARGO_BIN_EXE_microrun-bench"), other).unwrap();
    let (code, _, errors) = call();
    assert!(code == Some(1) && errors.contains("--compare takes two records"), "{errors}");
}
