//! The verbs that look at a running container and act on it: ps, pause, resume, update, events, kill, list, state.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Guard, Lab, all_at_once, eventually, eventually_is, limit, output, push};
use microrun::sys::process;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

/// A container that sleeps, and its init's pid.
fn sleeper(lab: &Lab, change: impl FnOnce(&mut Value)) -> (Bundle, i32) {
    let bundle = lab.sleeping(change);
    let pid = lab.started(&bundle);
    (bundle, pid)
}

fn status(lab: &Lab, bundle: &Bundle) -> String {
    lab.status(&bundle.id)
}

#[test]
fn what_is_not_there() {
    let lab = lab!();
    for verb in ["state", "ps", "pause", "resume", "update", "events", "kill", "start", "delete"] {
        let said = lab.microrun(&[verb, "nosuch"]).failed();
        assert!(said.contains("container does not exist"), "{verb}: {said}");
    }
    lab.microrun(&["delete", "--force", "nosuch"]).ok();
    assert_eq!(lab.microrun(&["list", "--format", "json"]).ok(), "null");
}

#[test]
fn what_has_stopped() {
    let lab = lab!();
    let (bundle, _) = sleeper(&lab, |_| {});
    lab.microrun(&["kill", &bundle.id, "KILL"]).ok();
    eventually(|| status(&lab, &bundle) == "stopped");
    for (verb, words) in [
        ("pause", "container not running"),
        ("resume", "container not paused"),
        ("update", "container not running"),
        ("events", "is not running"),
        ("kill", "container not running"),
        ("start", "cannot start a container that has stopped"),
    ] {
        let said = lab.microrun(&[verb, &bundle.id]).failed();
        assert!(said.contains(words), "{verb}: {said}");
    }
    lab.microrun(&["kill", "--all", &bundle.id]).ok();
    assert_eq!(lab.microrun(&["ps", "-f", "json", &bundle.id]).ok(), "null");
    assert_eq!(lab.microrun(&["ps", &bundle.id]).ok().lines().count(), 1);
    lab.microrun(&["delete", &bundle.id]).ok();
}

#[test]
fn ps_shows_the_containers_processes() {
    let lab = lab!();
    let (bundle, pid) = sleeper(&lab, |config| {
        config["process"]["args"] = json!(["sh", "-c", "sleep 1001 & exec sleep 1000"]);
    });
    let pids =
        || serde_json::from_str::<Vec<i32>>(&lab.microrun(&["ps", "--format", "json", &bundle.id]).ok()).unwrap();
    eventually(|| pids().len() == 2);
    assert!(pids().contains(&pid));
    if !common::host("sh", &["-c", "ps --version 2>&1 || true"]).contains("procps") {
        println!("skipped: the rest needs the ps of procps");
        return;
    }
    let table = lab.microrun(&["ps", &bundle.id]).ok();
    assert!(table.starts_with("UID ") && table.contains("sleep 1001") && table.contains("sleep 1000"), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
    let table = lab.microrun(&["ps", &bundle.id, "-e", "-o", "pid,args"]).ok();
    assert!(table.trim_start().starts_with("PID COMMAND") && table.lines().count() == 3, "{table}");
    assert!(lab.microrun(&["ps", &bundle.id, "-o", "args"]).failed().contains("couldn't find PID field"));
    assert!(lab.microrun(&["ps", "-f", "xml", &bundle.id]).failed().contains("invalid format option"));
}

#[test]
fn pause_and_resume() {
    let lab = lab!();
    let (bundle, _) = sleeper(&lab, |_| {});
    assert!(lab.microrun(&["resume", &bundle.id]).failed().contains("container not paused"));
    lab.microrun(&["pause", &bundle.id]).ok();
    assert_eq!(status(&lab, &bundle), "paused");
    assert!(lab.microrun(&["pause", &bundle.id]).failed().contains("container not running"));
    lab.microrun(&["update", "--pids-limit", "30", &bundle.id]).ok();
    assert_eq!(status(&lab, &bundle), "paused");
    lab.microrun(&["resume", &bundle.id]).ok();
    assert_eq!(status(&lab, &bundle), "running");
    lab.microrun(&["pause", &bundle.id]).ok();
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
}

/// A created container is paused first of all, and created again when it is resumed.
#[test]
fn pause_and_resume_before_start() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    lab.created(&bundle);
    let paused = || {
        lab.microrun(&["pause", &bundle.id]).ok();
        assert_eq!(status(&lab, &bundle), "paused");
    };
    paused();
    for (verb, words) in [
        (&["start"][..], "cannot start a container in the paused state: resume it first"),
        (&["pause"], "container not running"),
        (&["delete"], "that is not stopped: paused"),
        (&["checkpoint", "--image-path", "/nosuch"], "cannot be checkpointed in created state"),
    ] {
        let said = lab.microrun(&[verb, &[bundle.id.as_str()]].concat()).failed();
        assert!(said.contains(words), "{verb:?}: {said}");
    }
    let said = lab.exec(&bundle, &[], &["true"]).failed();
    assert!(said.contains("cannot exec in a paused container"), "{said}");
    lab.microrun(&["update", "--pids-limit", "30", &bundle.id]).ok();
    lab.microrun(&["resume", &bundle.id]).ok();
    assert_eq!(status(&lab, &bundle), "created");
    assert!(lab.microrun(&["resume", &bundle.id]).failed().contains("container not paused"));
    paused();
    lab.microrun(&["resume", &bundle.id]).ok();
    lab.microrun(&["start", &bundle.id]).ok();
    assert_eq!(status(&lab, &bundle), "running");
    lab.microrun(&["delete", "--force", &bundle.id]).ok();

    lab.created(&bundle);
    paused();
    lab.microrun(&["kill", &bundle.id, "KILL"]).ok();
    eventually_is(|| status(&lab, &bundle), &"stopped".to_owned());
    lab.microrun(&["delete", &bundle.id]).ok();
    lab.created(&bundle);
    paused();
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
    assert_eq!(lab.cgroups_of(&bundle), [] as [std::path::PathBuf; 0]);
}

/// `pause` does not wait for what somebody else has thawed or ended by then.
#[test]
fn a_pause_that_is_overtaken() {
    let lab = lab!();
    if let Err(why) = common::require_strace() {
        skip!("{why}");
    }
    for (verb, words) in [
        (&["resume"][..], "was thawed while it was being paused"),
        (&["kill"], ""),
        (&["delete", "--force"], "container not running"),
    ] {
        let (bundle, _) = sleeper(&lab, |_| {});
        // Long enough after telling the kernel for the other verb to come in between.
        let pause = lab.command(&["pause", &bundle.id]);
        let mut slow = Command::new("strace");
        slow.args(["-f", "-o", "/dev/null", "-e", "trace=write", "-e", "inject=write:delay_exit=3000000:when=1"]);
        slow.arg(pause.get_program()).args(pause.get_args());
        let mut slow = Guard(slow.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        eventually_is(|| status(&lab, &bundle), &"paused".to_owned());
        let signal: &[&str] = if verb[0] == "kill" { &["KILL"] } else { &[] };
        lab.microrun(&[verb, &[bundle.id.as_str()], signal].concat()).ok();
        let ended = slow.0.wait().unwrap();
        let mut said = String::new();
        slow.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(!ended.success() && said.contains(words), "{verb:?}: {ended} {said}");
        if verb[0] == "resume" {
            assert_eq!(status(&lab, &bundle), "running");
        }
        lab.microrun(&["delete", "--force", &bundle.id]).ok();
    }
}

/// `run` in the foreground has the container locked to its end, or a pool for it.
#[test]
fn an_update_of_what_runs_in_the_foreground() {
    let lab = lab!();
    let bundle = lab.sleeping(|_| {});
    let mut command = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let mut run = Guard(command.stdin(Stdio::null()).spawn().unwrap());
    eventually_is(|| (run.0.try_wait().unwrap(), status(&lab, &bundle)), &(None, "running".to_owned()));
    let pid = serde_json::from_str::<Value>(&lab.microrun(&["state", &bundle.id]).ok()).unwrap()["pid"].as_i64();
    lab.microrun(&["update", "--pids-limit", "20", &bundle.id]).ok();
    let pids = limit(pid.unwrap(), ("pids", "pids.max"), "pids.max");
    assert_eq!(pids, "20");
    // Of updates at once none is lost.
    let updates: Vec<Child> = [["--cpu-quota", "60000"], ["--cpu-period", "90000"], ["--memory", "64M"]]
        .iter()
        .map(|options| {
            let args = [&["update"], &options[..], &[bundle.id.as_str()]].concat();
            lab.command(&args).stdin(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut update in updates {
        assert!(update.wait().unwrap().success());
    }
    let directory = lab.path("run").join(&bundle.id);
    let state: Value = serde_json::from_slice(&fs::read(directory.join("state.json")).unwrap()).unwrap();
    let resources = &state["resources"];
    assert_eq!(resources["cpu"]["quota"], 60000, "{resources}");
    assert_eq!(resources["cpu"]["period"], 90000, "{resources}");
    assert_eq!(resources["memory"]["limit"], 64 << 20, "{resources}");
    lab.microrun(&["kill", &bundle.id, "KILL"]).ok();
    assert_eq!(run.0.wait().unwrap().code(), Some(137));
    assert!(!directory.exists());
    assert_eq!(lab.cgroups_of(&bundle), [] as [std::path::PathBuf; 0]);
}

/// Who has ended does not take away what the next one writes.
#[test]
fn updates_one_after_another_are_all_recorded() {
    let lab = lab!();
    let (bundle, _) = sleeper(&lab, |_| {});
    for _ in 0..50 {
        all_at_once(&mut lab.command(&["update", "--pids-limit", "20", &bundle.id]), 8);
    }
    lab.microrun(&["update", "--pids-limit", "19", &bundle.id]).ok();
    let directory = lab.path("run").join(&bundle.id);
    let state: Value = serde_json::from_slice(&fs::read(directory.join("state.json")).unwrap()).unwrap();
    assert_eq!(state["resources"]["pids"]["limit"], 19, "{state}");
    assert!(!directory.join(".state.json.staged").exists());
}

/// Whichever is first, an update of a container that is deleted ends, and leaves nothing.
#[test]
fn an_update_while_the_container_is_deleted() {
    let lab = lab!();
    for _ in 0..20 {
        let (bundle, _) = sleeper(&lab, |_| {});
        let mut command = lab.command(&["update", "--pids-limit", "20", &bundle.id]);
        let updates: Vec<Child> =
            (0..3).map(|_| command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()).collect();
        lab.microrun(&["delete", "--force", &bundle.id]).ok();
        for update in updates {
            let ended = update.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr);
            let is_told = ["container not running", "container does not exist", "being created or deleted"];
            assert!(ended.status.success() || is_told.iter().any(|words| said.contains(words)), "{said}");
        }
        assert!(!lab.path("run").join(&bundle.id).exists());
        assert_eq!(lab.cgroups_of(&bundle), [] as [std::path::PathBuf; 0]);
    }
}

/// On a hybrid machine it has joined cgroups by then, of which the runtime in the foreground knows nothing.
#[test]
fn a_container_whose_update_failed_leaves_no_cgroup() {
    let lab = lab!();
    let update = |bundle: &Bundle| {
        let resources = r#"{"pids": {"limit": 20}, "cpu": {"cpus": "4095"}}"#;
        let resources_file = lab.path("resources.json");
        fs::write(&resources_file, resources).unwrap();
        let file = format!("--resources={}", resources_file.display());
        let said = lab.microrun(&["update", &file, &bundle.id]).failed();
        assert!(said.contains("cpu.cpus"), "{said}");
    };
    let (bundle, _) = sleeper(&lab, |_| {});
    update(&bundle);
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
    assert_eq!(lab.cgroups_of(&bundle), [] as [std::path::PathBuf; 0]);

    let bundle = lab.sleeping(|_| {});
    let mut command = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let mut run = Guard(command.stdin(Stdio::null()).spawn().unwrap());
    eventually_is(|| (run.0.try_wait().unwrap(), status(&lab, &bundle)), &(None, "running".to_owned()));
    update(&bundle);
    lab.microrun(&["kill", &bundle.id, "KILL"]).ok();
    assert_eq!(run.0.wait().unwrap().code(), Some(137));
    assert_eq!(lab.cgroups_of(&bundle), [] as [std::path::PathBuf; 0]);
}

/// A file system of the test's own, with a container that is deleted before it.
struct Mounted<'a>(&'a Lab, String, std::path::PathBuf);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let Self(lab, id, path) = self;
        lab.microrun(&["delete", "--force", id]);
        common::host("umount", &[path.to_str().unwrap()]);
    }
}

#[test]
fn limits_that_cannot_be_recorded_are_not_set() {
    let lab = lab!();
    let bundle = lab.sleeping(|config| config["linux"]["resources"]["pids"] = json!({"limit": 40}));
    let run = lab.path("run");
    common::host("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", run.to_str().unwrap()]);
    let _mounted = Mounted(&lab, bundle.id.clone(), run.clone());
    let pid = lab.started(&bundle);
    let pids = || limit(pid, ("pids", "pids.max"), "pids.max");
    assert_eq!(pids(), "40");
    let full = run.join("full");
    assert!(fs::write(&full, vec![0; 2 << 20]).is_err());
    let said = lab.microrun(&["update", "--pids-limit", "30", &bundle.id]).failed();
    assert!(said.contains("state.json: no space left on device"), "{said}");
    assert_eq!(pids(), "40");
    fs::remove_file(full).unwrap();
    let files = || {
        let mut names: Vec<_> =
            fs::read_dir(run.join(&bundle.id)).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(files(), ["config.json", "init", "state.json"]);
    lab.microrun(&["update", "--pids-limit", "30", &bundle.id]).ok();
    assert_eq!(pids(), "30");
    assert_eq!(files(), ["config.json", "init", "state.json"]);
}

#[test]
fn updates_build_on_each_other() {
    let lab = lab!();
    let (bundle, pid) = sleeper(&lab, |config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20});
        config["linux"]["resources"]["cpu"] = json!({"quota": 50000, "period": 100_000});
    });
    let memory = || limit(pid, ("memory", "memory.limit_in_bytes"), "memory.max");
    let pids = || limit(pid, ("pids", "pids.max"), "pids.max");
    let cpu = || {
        let v2 = limit(pid, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
        if v2.contains(' ') { v2 } else { format!("{v2} {}", limit(pid, ("cpu", "cpu.cfs_period_us"), "-")) }
    };
    if memory().is_empty() {
        println!("skipped: no memory controller");
        return;
    }
    let update = |options: &[&str]| {
        let mut args = vec!["update"];
        args.extend(options);
        args.push(&bundle.id);
        lab.microrun(&args)
    };
    assert_eq!((memory().as_str(), cpu().as_str()), ("33554432", "50000 100000"));
    update(&["--memory", "64M"]).ok();
    update(&["--cpu-period", "90000"]).ok();
    assert_eq!((memory().as_str(), cpu().as_str()), ("67108864", "50000 90000"));
    update(&["--cpu-quota=60000", "--pids-limit", "17"]).ok();
    assert_eq!((pids().as_str(), cpu().as_str()), ("17", "60000 90000"));

    let file = lab.path("resources.json");
    fs::write(&file, json!({"memory": {"limit": 48 << 20}, "pids": {"limit": -1}}).to_string()).unwrap();
    update(&["--resources", file.to_str().unwrap(), "--memory", "1G"]).ok();
    assert_eq!((memory().as_str(), pids().as_str(), cpu().as_str()), ("50331648", "max", "60000 90000"));
    for options in [&["update", "--resources", "-"][..], &["update", "-r=-"]] {
        let mut args = options.to_vec();
        args.push(&bundle.id);
        let mut command = lab.command(&args);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), br#"{"pids": {"limit": 9}}"#).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(pids(), "9");
    }

    for (options, words) in [
        (&["--memory", "much"][..], "invalid value for memory"),
        (&["--cpu-share", "-1"], "invalid value for cpu-share"),
        (&["--resources", "/nosuch"], "/nosuch: no such file or directory"),
        (&["--l3-cache-schema", "L3:0=f"], "l3 cache schema is not enabled"),
        (&["--mem-bw-schema", "MB:0=50"], "memory bandwidth schema is not enabled"),
        (&["--cpu-period", "1"], "invalid argument"),
    ] {
        let said = update(options).failed();
        assert!(said.contains(words), "{options:?}: {said}");
    }
    assert_eq!((memory().as_str(), cpu().as_str()), ("50331648", "60000 90000"));
}

/// As agents change it that take a container's quota away for a while.
#[test]
fn what_an_update_does_not_name_is_left_to_who_changed_it() {
    let lab = lab!();
    let (bundle, _) = sleeper(&lab, |config| {
        config["linux"]["resources"] = json!({"cpu": {"quota": 50000}, "pids": {"limit": 40}});
    });
    let files = [("cpu.cfs_quota_us", "-1"), ("cpu.max", "max 100000")];
    let quota = lab.cgroups_of(&bundle).into_iter().find_map(|directory| {
        files.iter().map(|(file, none)| (directory.join(file), *none)).find(|(file, _)| file.exists())
    });
    let Some((quota, none)) = quota else { skip!("needs the cpu controller") };
    fs::write(&quota, none).unwrap();
    let file = lab.path("resources.json");
    let path = file.to_str().unwrap();
    for resources in
        [json!({"memory": {}, "cpu": {"quota": 0}, "pids": {"limit": 30}}), json!({"cpu": {"cpus": "4095"}})]
    {
        fs::write(&file, resources.to_string()).unwrap();
        let updated = lab.microrun(&["update", "--resources", path, &bundle.id]);
        assert_eq!(updated.code == 0, resources["cpu"]["cpus"].is_null(), "{updated:?}");
        assert_eq!(fs::read_to_string(&quota).unwrap().trim(), none, "{resources}");
    }
    lab.microrun(&["update", "--cpu-period", "90000", &bundle.id]).ok();
    assert!(fs::read_to_string(&quota).unwrap().starts_with("50000"));
}

/// The kernel takes no weight for a cgroup that is idle.
#[test]
fn idle_or_a_weight() {
    let lab = lab!();
    let (bundle, pid) = sleeper(&lab, |config| config["linux"]["resources"]["cpu"] = json!({"shares": 1024}));
    let update = |options: &[&str]| lab.microrun(&[&["update"], options, &[&bundle.id]].concat());
    let set = update(&["--cpu-idle", "1"]);
    if set.stderr.contains("no such file or directory") {
        skip!("this kernel has no cpu.idle: {}", set.stderr);
    }
    set.ok();
    let idle = || limit(pid, ("cpu", "cpu.idle"), "cpu.idle");
    assert_eq!(idle(), "1");
    // What has nothing to do with it leaves it.
    update(&["--cpu-period", "90000"]).ok();
    assert_eq!(idle(), "1");
    update(&["--cpu-share", "512"]).ok();
    assert_eq!(idle(), "0");
    let both = update(&["--cpu-share", "256", "--cpu-idle", "1"]);
    assert!(both.code == 0 && both.stderr.contains("unable to apply both"), "{both:?}");
    assert_eq!(idle(), "1");
}

#[test]
fn stats_in_runcs_words() {
    let lab = lab!();
    let (bundle, _) = sleeper(&lab, |_| {});
    let text = lab.microrun(&["events", "--stats", &bundle.id]).ok();
    assert!(text.starts_with(&format!(r#"{{"type":"stats","id":"{}","data":{{"#, bundle.id)), "{text}");
    let line: Value = serde_json::from_str(&text).unwrap();
    let data = line["data"].as_object().unwrap();
    let keys: Vec<_> = data.keys().map(String::as_str).collect();
    let expected = ["blkio", "cpu", "cpuset", "hugetlb", "intel_rdt", "memory", "network_interfaces", "pids"];
    assert_eq!(keys, expected);
    assert_eq!(data["pids"]["current"], 1);
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    assert!(lab.microrun(&["events", "--interval", "0s", &bundle.id]).failed().contains("interval"));
}

#[test]
fn events_tell_of_a_lack_of_memory_and_end_with_the_container() {
    let lab = lab!();
    let (bundle, pid) = sleeper(&lab, |config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    });
    if limit(pid, ("memory", "memory.limit_in_bytes"), "memory.max") != "16777216" {
        println!("skipped: no memory controller");
        return;
    }
    let mut command = lab.command(&["events", "--interval", "50ms", &bundle.id]);
    let mut child = Guard(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with(r#"{"type":"stats","#));
    let hog = lab.microrun(&["exec", &bundle.id, "sh", "-c", "x=$(dd if=/dev/zero bs=1M count=64 | tr '\\0' x)"]);
    assert_eq!(hog.code, 137, "{hog:?}");
    let oom = format!(r#"{{"type":"oom","id":"{}"}}"#, bundle.id);
    assert!(lines.by_ref().take(200).any(|line| line == oom));
    let counts = limit(pid, ("memory", "memory.oom_control"), "memory.events");
    let kills: usize = counts.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap();
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
    let rest: Vec<_> = lines.by_ref().take(200).collect();
    assert!(rest.len() < 200, "the stream has no end: {rest:?}");
    let told = 1 + rest.iter().filter(|line| **line == oom).count();
    assert!(told <= kills, "{kills} were killed, {told} were told of: {rest:?}");
    assert!(child.0.wait().unwrap().success());
}

/// They would have to be written for nobody until the container ends.
#[test]
fn events_end_with_their_reader() {
    let lab = lab!();
    let bundle = lab.sleeper(|_| {});
    let mut command = lab.command(&["events", "--interval", "20ms", &bundle.id]);
    let mut events = Guard(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("{\"type\":\"stats\""));
    drop(lines);
    let mut ended = None;
    common::eventually(|| {
        ended = events.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(0));
}

#[test]
fn kill_takes_names_and_numbers() {
    let lab = lab!();
    // Not SIGHUP: under nohup(1) it is ignored, and a shell cannot trap what it was told to ignore.
    let script = "for s in USR1 USR2 35 64; do trap \"echo $s >> /dev/got\" $s; done; echo > /dev/ready; while :; do sleep 0.05; done";
    let (bundle, _) = sleeper(&lab, |config| config["process"]["args"] = json!(["sh", "-c", script]));
    let read = |file: &str| lab.microrun(&["exec", &bundle.id, "cat", file]);
    eventually(|| read("/dev/ready").code == 0);
    let mut expected = String::new();
    for (signal, name) in
        [("USR1", "USR1"), ("SIGUSR2", "USR2"), ("sigusr1", "USR1"), ("10", "USR1"), ("35", "35"), ("RTMAX", "64")]
    {
        lab.microrun(&["kill", &bundle.id, signal]).ok();
        expected = format!("{expected}\n{name}").trim_start().to_owned();
        let status = || status(&lab, &bundle);
        eventually_is(|| (read("/dev/got").stdout, status()), &(expected.clone(), "running".to_owned()));
    }
    lab.microrun(&["kill", &bundle.id, "0"]).ok();
    for signal in ["NOSUCH", "65", "-1"] {
        assert!(lab.microrun(&["kill", &bundle.id, signal]).failed().contains("unknown signal"), "{signal}");
    }
    lab.microrun(&["kill", "--all", &bundle.id, "KILL"]).ok();
    eventually(|| status(&lab, &bundle) == "stopped");
}

#[test]
fn without_a_pid_namespace_all_are_killed() {
    let lab = lab!();
    for init_is_gone in [false, true] {
        let (bundle, init) = sleeper(&lab, |config| {
            config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
            config["process"]["args"] = json!(["sh", "-c", "sleep 1001 & sleep 1002 & exec sleep 1000"]);
        });
        let pids = || {
            serde_json::from_str::<Option<Vec<i32>>>(&lab.microrun(&["ps", "-f", "json", &bundle.id]).ok())
                .unwrap()
                .unwrap_or_default()
        };
        eventually(|| pids().len() == 3);
        if init_is_gone {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::SIGKILL).unwrap();
            eventually(|| status(&lab, &bundle) == "stopped");
        }
        lab.microrun(&["kill", &bundle.id, "KILL"]).ok();
        eventually(|| pids().is_empty());
        lab.microrun(&["delete", &bundle.id]).ok();
    }
}

#[test]
fn list_and_state_agree() {
    let lab = lab!();
    let (one, pid) = sleeper(&lab, |config| config["annotations"] = json!({"k": "v"}));
    let two = lab.bundle(|_| {});
    lab.created(&two);
    let listed: Vec<Value> = serde_json::from_str(&lab.microrun(&["list", "-f", "json"]).ok()).unwrap();
    assert_eq!(listed.len(), 2);
    let state: Value = serde_json::from_str(&lab.microrun(&["state", &one.id]).ok()).unwrap();
    for key in ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations"] {
        assert_eq!(state[key], listed[0][key], "{key}");
        assert!(!state[key].is_null(), "{key}");
    }
    assert_eq!((state["pid"].as_i64(), state["status"].as_str()), (Some(pid.into()), Some("running")));
    assert_eq!((listed[1]["status"].as_str(), listed[1]["owner"].as_str()), (Some("created"), Some("root")));
    assert_eq!(lab.microrun(&["list", "-q"]).ok(), format!("{}\n{}", one.id, two.id));
    let table = lab.microrun(&["list"]).ok();
    assert!(table.starts_with("ID ") && table.lines().count() == 3 && table.contains(&one.id), "{table}");
}

/// `command`, whose caller ignores signals: SIGINT and SIGQUIT as a shell's in the background, SIGCHLD, without which a child that has ended is not waited for.
fn ignoring(mut command: Command) -> Command {
    // SIGHUP to SIGSYS, but for the two that cannot be.
    process::before_exec(&mut command, || {
        (1..32).filter(|signal| ![9, 19].contains(signal)).for_each(process::ignore_signal);
        Ok(())
    });
    command
}

#[test]
fn what_the_caller_ignores_is_not_ignored_inside() {
    let lab = lab!();
    // Not the real-time signals: the C library has what it spawns ignore two of them.
    let ignored = "echo $((0x$(sed -n 's/^SigIgn:\\t//p' /proc/self/status) & 0x7fffffff))";
    let nothing = "0";
    let hook = lab.path("hook");
    common::executable(&hook, &format!("#!/bin/sh\ncat >/dev/null\n{ignored} >{}\n", lab.path("hooked").display()));
    for in_user_namespace in [false, true] {
        let bundle = lab.bundle(|config| {
            config["process"]["args"] = json!(["sh", "-c", format!("{ignored}; exit 5")]);
            config["hooks"] = json!({"prestart": [{"path": hook}]});
            if in_user_namespace {
                let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
                config["linux"]["uidMappings"] = map.clone();
                config["linux"]["gidMappings"] = map;
                push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
            }
        });
        let run = output(ignoring(lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id])));
        assert_eq!((run.code, run.stdout.as_str()), (5, nothing), "{in_user_namespace}: {run:?}");
        assert_eq!(fs::read_to_string(lab.path("hooked")).unwrap().trim(), nothing);
    }
    let bundle = lab.sleeper(|_| {});
    let exec = output(ignoring(lab.command(&["exec", &bundle.id, "sh", "-c", &format!("{ignored}; exit 6")])));
    assert_eq!((exec.code, exec.stdout.as_str()), (6, nothing), "{}", exec.stderr);
    assert!(output(ignoring(lab.command(&["ps", &bundle.id]))).ok().contains("sleep"));
}
