//! What only microrun's own shim does: one for all containers of a pod or a node, loggers, its memory.

use super::survival::at_once;
use super::{Ctr, SLEEP};
use crate::cases;
use crate::common::pool::why_it_cannot_be;
use crate::common::{eventually, host};
use crate::process::{limited, output};
use crate::runner::{Case, skip};
use crate::world::{Inventory, SHIM, describe_process, processes_named};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case<Ctr>> {
    cases![
        pod,
        shim_of_a_pod_is_killed,
        node,
        two_hundred_on_a_node,
        memory_of_a_pod,
        log_file,
        log_program,
        exec_leaves_a_process,
        orphans,
        stdio_of_another_user,
        nothing_of_the_shim,
        unknown_option,
        network_of_a_pool,
        info,
    ]
    .into_iter()
    .map(Case::of_ours_alone)
    .collect()
}

/// The annotation by which CRI names a pod.
const POD: [&str; 2] = ["--annotation", "io.kubernetes.cri.sandbox-id=pod"];

fn shims() -> Vec<i32> {
    processes_named(SHIM)
}

fn remove(engine: &Ctr, id: &str) {
    engine.ctr(&["task", "kill", "--signal", "SIGKILL", id]).ok();
    eventually(|| engine.task_status(id) == "STOPPED");
    assert_eq!(engine.delete_task(id), 137);
    engine.ctr(&["container", "delete", id]).ok();
}

fn pod(engine: &Ctr) {
    let before = Inventory::now();
    for id in ["a", "b", "c"] {
        engine.start_detached(&POD, id, SLEEP);
    }
    engine.start_detached(&[], "alone", SLEEP);
    eventually(|| shims().len() == 2);
    remove(engine, "a");
    assert_eq!(engine.exec(&[], "b", &["echo", "b"]).ok(), "b");
    engine.start_detached(&POD, "a", SLEEP);
    eventually(|| shims().len() == 2);
    for id in ["alone", "b", "c", "a"] {
        remove(engine, id);
    }
    engine.nothing_more_than(&before);
}

fn shim_of_a_pod_is_killed(engine: &Ctr) {
    let before = Inventory::now();
    let ids = ["a", "b", "c"];
    ids.iter().for_each(|id| engine.start_detached(&POD, id, SLEEP));
    let pids = ids.map(|id| engine.task_pid(id));
    let shims = shims();
    assert_eq!(shims.len(), 1, "{shims:?}");
    kill(Pid::from_raw(shims[0]), Signal::SIGKILL).unwrap();
    for pid in pids {
        eventually(|| !describe_process(pid).contains("sleep"));
    }
    for id in ids {
        eventually(|| engine.runtime(&["state", id]).code != 0);
        engine.ctr(&["task", "delete", "--force", id]);
        engine.ctr(&["container", "delete", id]).ok();
    }
    engine.nothing_more_than(&before);
}

/// A configuration by which all containers share a shim.
fn of_node(engine: &Ctr) -> [String; 2] {
    let path = engine.containerd.dir.join("node.toml");
    fs::write(&path, "# one shim for all\nGroup = \"node\"\n").unwrap();
    ["--runtime-config-path".into(), path.to_str().unwrap().into()]
}

fn node(engine: &Ctr) {
    let before = Inventory::now();
    let options = of_node(engine);
    let options = [options[0].as_str(), options[1].as_str()];
    engine.start_detached(&options, "a", SLEEP);
    engine.start_detached(&options, "b", SLEEP);
    eventually(|| shims().len() == 1);
    engine.containerd.restart();
    assert_eq!(engine.exec(&[], "a", &["echo", "a"]).ok(), "a");
    engine.start_detached(&options, "c", SLEEP);
    eventually(|| shims().len() == 1);
    for id in ["a", "b", "c"] {
        remove(engine, id);
    }
    engine.nothing_more_than(&before);
}

/// As `two_hundred`, of a shim that comes and goes with each batch, and is killed in the middle of one.
fn two_hundred_on_a_node(engine: &Ctr) {
    const AT_A_TIME: usize = 20;
    let before = Inventory::now();
    let options = of_node(engine);
    let options = [options[0].as_str(), options[1].as_str()];
    for batch in 0..10 {
        let ids: Vec<String> = (0..AT_A_TIME).map(|number| format!("node{batch}-{number}")).collect();
        at_once(&ids, |id| engine.start_detached(&options, id, SLEEP));
        eventually(|| shims().len() == 1);
        if batch == 4 {
            engine.containerd.restart();
        }
        if batch == 7 {
            kill(Pid::from_raw(shims()[0]), Signal::SIGKILL).unwrap();
            eventually(|| engine.ctr(&["task", "list", "--quiet"]).ok().is_empty());
            at_once(&ids, |id| drop(engine.ctr(&["container", "delete", id]).ok()));
            continue;
        }
        at_once(&ids, |id| remove(engine, id));
    }
    engine.nothing_more_than(&before);
}

/// Proportional set size in KiB (proc_pid_smaps_rollup(5)).
fn pss(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn memory_of_a_pod(engine: &Ctr) {
    const POD_KIB: u64 = 3 * 1024;
    const FURTHER_KIB: u64 = 3 * 1024 / 10;
    const CONTAINERS: usize = 10;
    if std::env::var_os("MICRORUN_SHIM").is_none() {
        skip("the memory of a build that is not for release says nothing: name one in MICRORUN_SHIM");
    }
    let mut used = Vec::new();
    for number in 0..CONTAINERS {
        let id = format!("c{number}");
        engine.start_detached(&POD, &id, SLEEP);
        engine.exec(&[], &id, &["true"]).ok();
        if [1, 2, CONTAINERS].contains(&(number + 1)) {
            // Threads that have nothing to do end.
            // That of the case before may be about to end.
            eventually(|| shims().len() == 1);
            let shim = shims()[0];
            eventually(|| fs::read_dir(format!("/proc/{shim}/task")).unwrap().count() == 1);
            used.push(pss(shim));
        }
    }
    println!("        shim of 1, 2 and {CONTAINERS} containers: {used:?} KiB PSS");
    assert!(used[0] <= POD_KIB, "{used:?}");
    assert!(used[2] - used[0] <= (CONTAINERS as u64 - 1) * FURTHER_KIB, "{used:?}");
}

fn log_file(engine: &Ctr) {
    let path = engine.containerd.dir.join("logs/c.log");
    let uri = format!("file://{}", path.display());
    engine.start_detached(&["--log-uri", &uri], "c", &["sh", "-c", "echo out; echo err >&2"]);
    eventually(|| engine.task_status("c") == "STOPPED");
    assert_eq!(engine.delete_task("c"), 0);
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains("out\n") && text.contains("err\n"), "{text}");
}

fn log_program(engine: &Ctr) {
    let dir = engine.containerd.dir.join("logger");
    fs::create_dir_all(&dir).unwrap();
    let program: PathBuf = dir.join("log");
    let script = "#!/bin/sh\nexec 5>&-\nd=$2\ncat <&4 >$d/err &\ncat <&3 >$d/out\nwait\necho $CONTAINER_NAMESPACE/$CONTAINER_ID >$d/end\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let uri = format!("binary://{}?dir={}", program.display(), dir.display());
    engine.start_detached(&["--log-uri", &uri], "c", &["sh", "-c", "echo out; echo err >&2"]);
    eventually(|| engine.task_status("c") == "STOPPED");
    assert_eq!(engine.delete_task("c"), 0);
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    eventually(|| read("end") == "default/c\n");
    assert_eq!((read("out").as_str(), read("err").as_str()), ("out\n", "err\n"));
}

/// Output ends with the process that was asked for, even if another one still has it open.
fn exec_leaves_a_process(engine: &Ctr) {
    engine.start_detached(&[], "c", SLEEP);
    assert_eq!(engine.exec(&[], "c", &["sh", "-c", "sleep 500 & echo done"]).ok(), "done");
    remove(engine, "c");
}

/// Processes of a container without a pid namespace whose parents have ended become the shim's, which reaps them; those
/// that are left end with the container.
fn orphans(engine: &Ctr) {
    let namespace = "pid:/proc/1/ns/pid";
    let script = "(usleep 1000 &); (sleep 501 &); exec sleep 1000";
    engine.start_detached(&["--with-ns", namespace], "c", &["sh", "-c", script]);
    // That of the case before may be about to end.
    eventually(|| shims().len() == 1);
    let shim = shims()[0];
    let children = || {
        let pids = host("ps", &["-o", "stat=,args=", "--ppid", &shim.to_string()]);
        pids.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    eventually(|| children().iter().any(|line| line.contains("sleep 501")));
    eventually(|| children().iter().all(|line| !line.starts_with('Z')));
    remove(engine, "c");
    eventually(|| processes_named("sleep").is_empty());
}

/// Whoever the program is, it can open its stdio again.
fn stdio_of_another_user(engine: &Ctr) {
    let script = "echo one >/dev/stdout; echo two >/proc/self/fd/2";
    let output = engine.exec_in_sleeping(&["--user", "1000:1000"], &["sh", "-c", script]);
    // containerd's client may have something to say before.
    assert!(output.code == 0 && output.stdout.trim() == "one" && output.stderr.trim().ends_with("two"), "{output:?}");
}

/// A process gets no descriptor, no blocked or ignored signal and no working directory of the process that made it.
fn nothing_of_the_shim(engine: &Ctr) {
    let script = "ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/1/status; for fd in 0 1 2; do readlink /proc/1/fd/$fd | cut -d: -f1; done";
    engine.start_detached(&POD, "a", SLEEP);
    engine.start_detached(&POD, "c", SLEEP);
    let said = engine.exec(&[], "c", &["sh", "-c", script]).ok();
    let lines: Vec<&str> = said.lines().collect();
    // ls has the directory itself open.
    assert_eq!(lines.first(), Some(&"4"), "{said}");
    let signals = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
    // What containerd was started with may be ignored; SIGPIPE is ignored by every Rust program.
    assert_eq!((signals(lines[1]), signals(lines[2]) & 1 << (libc::SIGPIPE - 1)), (0, 0), "{said}");
    assert_eq!(&lines[3..], ["pipe"; 3], "{said}");
    remove(engine, "a");
    remove(engine, "c");
}

fn unknown_option(engine: &Ctr) {
    let path = engine.containerd.dir.join("wrong.toml");
    fs::write(&path, "BinaryName = \"crun\"\n").unwrap();
    let command = engine.command(&["--runtime-config-path", path.to_str().unwrap(), "--detach"], "c", SLEEP);
    let said = output(command, "").failed();
    assert!(said.contains("BinaryName: is not an option of this runtime"), "{said}");
}

fn info(engine: &Ctr) {
    let program = engine.containerd.dir.join("bin").join(SHIM);
    let asked = |flag: &str| {
        let mut command = limited(&program);
        command.arg(flag);
        output(command, "").ok()
    };
    assert!(asked("-v").contains("Version:"));
    let info = asked("-info");
    assert!(info.contains("io.containerd.microrun.v1") && info.contains("\"ociVersionMax\""), "{info}");
}

/// The network namespace of a process.
fn network(pid: i32) -> String {
    fs::read_link(format!("/proc/{pid}/ns/net")).unwrap().display().to_string()
}

/// A container of containerd's, whose bundle no pool can know, in a network namespace that a pool has made; then without one, with one
/// that was killed, and with one that does not answer.
fn network_of_a_pool(engine: &Ctr) {
    let before = Inventory::now();
    let directory = engine.containerd.dir.join("pool");
    let socket = directory.join("socket").to_str().unwrap().to_owned();
    let options = engine.containerd.dir.join("pool.toml");
    fs::write(&options, format!("Pool = \"{socket}\"\n")).unwrap();
    let microrun = |args: &[&str]| {
        let mut command = limited(&engine.runtime.path);
        command.args(args);
        output(command, "")
    };
    let status = || microrun(&["pool", "status", "--format", "json", "--socket", &socket]);
    let run = |id: &str| {
        let begun = Instant::now();
        engine.start_detached(&["--runtime-config-path", options.to_str().unwrap()], id, SLEEP);
        let (network, time) = (network(engine.task_pid(id)), begun.elapsed());
        assert_eq!(engine.exec(&[], id, &["cat", "/sys/class/net/lo/flags"]).ok(), "0x9");
        remove(engine, id);
        assert!(time < Duration::from_secs(20), "{time:?}");
        network
    };
    run("none");
    let mut pool = Command::new(&engine.runtime.path);
    pool.args(["pool", "serve", "--size", "0", "--parts", "2", "--socket", &socket]).stdin(Stdio::null());
    let said = engine.containerd.dir.join("pool-said");
    pool.stderr(fs::File::create(&said).unwrap());
    let mut pool = pool.spawn().unwrap();
    eventually(|| status().stdout.contains("\"networks\":2") || pool.try_wait().unwrap().is_some());
    if pool.try_wait().unwrap().is_some() {
        skip(why_it_cannot_be(&fs::read_to_string(&said).unwrap()));
    }
    let listed = fs::read_dir(format!("/proc/{}/fd", pool.id())).unwrap().flatten();
    let made: Vec<String> =
        listed.filter_map(|entry| fs::read_link(entry.path()).ok()).map(|link| link.display().to_string()).collect();
    let found = run("lent");
    assert!(made.contains(&found), "{found}, {made:?}");
    assert!(status().stdout.contains("\"served\":1"), "{}", status().stdout);
    let server = Pid::from_raw(pool.id().cast_signed());
    kill(server, Signal::SIGSTOP).unwrap();
    run("stopped");
    pool.kill().unwrap();
    pool.wait().unwrap();
    assert!(Path::new(&socket).exists());
    run("dead");
    fs::remove_dir_all(&directory).unwrap();
    engine.nothing_more_than(&before);
}
