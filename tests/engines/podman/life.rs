//! A container's life, and what is asked of it meanwhile.

use super::{Podman, SLEEP};
use crate::common::eventually;
use crate::image;
use crate::process::{on_terminal_of, output};
use std::fs;

/// Ends with 5 on SIGTERM and with 6 on SIGUSR1.
const TRAPS: &[&str] =
    &["sh", "-c", "trap 'exit 5' TERM; trap 'exit 6' USR1; echo ready; while :; do usleep 10000; done"];

/// Starts a container that says when its traps are set.
fn trapping(podman: &Podman, options: &[&str]) {
    podman.started("c", options, TRAPS);
    eventually(|| podman.podman(&["logs", "c"]).ok() == "ready");
}

fn status(podman: &Podman, name: &str) -> String {
    podman.inspect(name, "{{.State.Status}}")
}

fn exit_code(podman: &Podman, name: &str) -> String {
    podman.inspect(name, "{{.State.ExitCode}}")
}

pub fn create_and_start(podman: &Podman) {
    podman.podman(&["create", "--name", "c", "--network", "none", image::NAME, "echo", "started"]).ok();
    assert_eq!(status(podman, "c"), "created");
    assert_eq!(podman.podman(&["start", "--attach", "c"]).ok(), "started");
    // Initialised alone is "created" for the runtime, too.
    podman.podman(&["create", "--name", "d", "--network", "none", image::NAME, "echo", "started"]).ok();
    podman.podman(&["container", "init", "d"]).ok();
    assert_eq!(status(podman, "d"), "initialized");
    assert_eq!(podman.podman(&["start", "--attach", "d"]).ok(), "started");
}

pub fn stop(podman: &Podman) {
    trapping(podman, &[]);
    podman.podman(&["stop", "--time", "20", "c"]).ok();
    assert_eq!((status(podman, "c").as_str(), exit_code(podman, "c").as_str()), ("exited", "5"));
}

pub fn stop_signal(podman: &Podman) {
    trapping(podman, &["--stop-signal", "USR1"]);
    podman.podman(&["stop", "--time", "20", "c"]).ok();
    assert_eq!(exit_code(podman, "c"), "6");
}

pub fn stop_kills_after_the_timeout(podman: &Podman) {
    podman.started("c", &[], &["sh", "-c", "trap '' TERM; while :; do usleep 10000; done"]);
    podman.podman(&["stop", "--time", "1", "c"]).ok();
    assert_eq!(exit_code(podman, "c"), "137");
}

pub fn kill(podman: &Podman) {
    trapping(podman, &[]);
    podman.podman(&["kill", "--signal", "USR1", "c"]).ok();
    assert_eq!(podman.podman(&["wait", "c"]).ok(), "6");
    podman.started("d", &[], SLEEP);
    podman.podman(&["kill", "d"]).ok();
    assert_eq!(podman.podman(&["wait", "d"]).ok(), "137");
    let said = podman.podman(&["kill", "d"]).failed();
    assert!(said.contains("can only kill running containers"), "{said}");
}

pub fn remove_by_force(podman: &Podman) {
    podman.started("c", &[], SLEEP);
    assert!(!podman.podman(&["rm", "c"]).failed().is_empty());
    podman.podman(&["rm", "--force", "--time", "0", "c"]).ok();
    assert_eq!(podman.podman(&["container", "exists", "c"]).code, 1);
}

pub fn restart(podman: &Podman) {
    podman.started("c", &[], SLEEP);
    let first = podman.inspect("c", "{{.State.Pid}}");
    podman.podman(&["restart", "--time", "0", "c"]).ok();
    assert_eq!(status(podman, "c"), "running");
    assert_ne!(podman.inspect("c", "{{.State.Pid}}"), first);
    let policy = ["--name", "d", "--restart", "on-failure:2"];
    let output = podman.podman(
        &[&["run", "--network", "none"], &policy[..], &[image::NAME, "sh", "-c", "echo again; exit 3"]].concat(),
    );
    assert_eq!(output.code, 3, "{output:#?}");
    eventually(|| podman.inspect("d", "{{.RestartCount}}") == "2");
}

pub fn wait(podman: &Podman) {
    podman.started("c", &[], &["sh", "-c", "usleep 200000; exit 9"]);
    assert_eq!(podman.podman(&["wait", "c"]).ok(), "9");
}

pub fn logs(podman: &Podman) {
    podman.started("c", &[], &["sh", "-c", "echo to stdout; echo to stderr >&2"]);
    podman.podman(&["wait", "c"]).ok();
    let output = podman.podman(&["logs", "c"]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("to stdout", "to stderr"));
}

pub fn inspect(podman: &Podman) {
    podman.started("c", &["--env", "A=b", "--annotation", "key=value"], SLEEP);
    let runtime = podman.runtime.path.to_str().unwrap();
    assert_eq!(podman.inspect("c", "{{.OCIRuntime}}"), runtime);
    assert_eq!(podman.inspect("c", "{{.State.Running}}"), "true");
    assert_eq!(podman.inspect("c", "{{.Config.Annotations.key}}"), "value");
    // What conmon and Podman have read of the runtime's pid file.
    let pid = podman.inspect("c", "{{.State.Pid}}");
    assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().starts_with("sleep"));
}

pub fn list(podman: &Podman) {
    podman.started("c", &[], SLEEP);
    assert_eq!(podman.podman(&["ps", "--format", "{{.Names}}"]).ok(), "c");
    let namespaces = podman.podman(&["ps", "--namespace", "--format", "{{.PIDNS}}"]).ok();
    assert!(namespaces.parse::<u64>().is_ok(), "{namespaces}");
}

pub fn top(podman: &Podman) {
    podman.started("c", &["--user", "user"], SLEEP);
    let shown = podman.podman(&["top", "c", "pid", "user", "args", "seccomp"]).ok();
    let line = shown.lines().nth(1).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["1", "user", "sleep", "1000", "filter"], "{shown}");
    // By ps(1), run in the container.
    assert!(podman.podman(&["top", "c", "-o", "pid,args"]).stdout.contains("sleep 1000"));
}

pub fn attach(podman: &Podman) {
    podman.started("c", &["-i"], &["sh", "-c", "read line; echo got $line; exit 4"]);
    let output = output(podman.command(&["attach", "c"]), "it\n");
    // Podman's own exit code depends on whether it comes before conmon's notice of the end.
    assert_eq!(output.stdout, "got it", "{output:#?}");
    assert_eq!(podman.podman(&["wait", "c"]).ok(), "4");
}

pub fn attach_to_terminal(podman: &Podman) {
    let script = "read line; until [ \"$(stty size)\" = '20 60' ]; do usleep 10000; done; echo got $line; exit 4";
    podman.started("c", &["-it"], &["sh", "-c", script]);
    let output = on_terminal_of(&podman.command(&["attach", "c"]), "it\n", Some((20, 60)));
    assert!(output.stdout.contains("got it"), "{output:#?}");
    assert_eq!(podman.podman(&["wait", "c"]).ok(), "4");
}

pub fn copy(podman: &Podman) {
    podman.started("c", &["--tmpfs", "/files"], SLEEP);
    let file = podman.file("there", "and back");
    // Into a mount that only the container's mount namespace has.
    podman.podman(&["cp", &file, "c:/files/there"]).ok();
    assert_eq!(podman.exec("c", "cat /files/there"), "and back");
    let back = format!("{file}.back");
    podman.podman(&["cp", "c:/files/there", &back]).ok();
    assert_eq!(fs::read_to_string(back).unwrap(), "and back");
}

pub fn exec(podman: &Podman) {
    podman.started("c", &[], SLEEP);
    assert_eq!(podman.exec("c", "echo inside; cat /proc/1/cmdline | tr '\\0' ' '"), "inside\nsleep 1000");
    assert_eq!(podman.podman(&["exec", "c", "sh", "-c", "exit 8"]).code, 8);
    let output = podman.podman(&["exec", "c", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out", "err"));
}

pub fn exec_stdin(podman: &Podman) {
    podman.started("c", &[], SLEEP);
    let text = "a line\n".repeat(30_000);
    let output = output(podman.command(&["exec", "-i", "c", "wc", "-c"]), &text);
    assert_eq!(output.ok(), text.len().to_string());
}

pub fn exec_terminal(podman: &Podman) {
    podman.started("c", &[], SLEEP);
    let output =
        on_terminal_of(&podman.command(&["exec", "-it", "c", "sh"]), "tty; stty size\nexit 3\n", Some((20, 60)));
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(output.stdout.contains("/dev/pts/0") && output.stdout.contains("20 60"), "{output:#?}");
}

pub fn exec_detached(podman: &Podman) {
    podman.started("c", &["--tmpfs", "/files"], SLEEP);
    podman.podman(&["exec", "--detach", "c", "sh", "-c", "echo done >/files/file; sleep 1000"]).ok();
    eventually(|| podman.podman(&["exec", "c", "cat", "/files/file"]).stdout == "done");
    assert!(podman.podman(&["top", "c", "args"]).ok().contains("sleep 1000"));
}

pub fn exec_options(podman: &Podman) {
    podman.started("c", &[], SLEEP);
    let args =
        ["exec", "--user", "user", "--workdir", "/tmp", "--env", "A=b", "c", "sh", "-c", "id -un; id -G; pwd; echo $A"];
    assert_eq!(podman.podman(&args).ok(), "user\n1000 1001\n/tmp\nb");
    let file = podman.file("fd", "through a descriptor");
    let inner = podman.command(&["exec", "--preserve-fds", "1", "c", "sh", "-c", "cat <&3"]);
    let mut command = crate::process::limited("sh");
    command.args(["-c", "exec \"$@\" 3<\"$FILE\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?)))).env("FILE", &file);
    assert_eq!(output(command, "").ok(), "through a descriptor");
}

pub fn exec_privileged(podman: &Podman) {
    podman.started("c", &["--cap-drop", "all"], SLEEP);
    assert_eq!(podman.exec("c", "grep CapEff /proc/self/status"), "CapEff:\t0000000000000000");
    let said = podman.podman(&["exec", "--privileged", "c", "grep", "CapEff", "/proc/self/status"]).ok();
    assert!(!said.ends_with("0000000000000000"), "{said}");
}

pub fn healthcheck(podman: &Podman) {
    podman.started(
        "c",
        &["--health-cmd", "test ! -e /tmp/ill", "--health-interval", "disable", "--health-retries", "1"],
        SLEEP,
    );
    podman.podman(&["healthcheck", "run", "c"]).ok();
    podman.exec("c", "touch /tmp/ill");
    assert_eq!(podman.podman(&["healthcheck", "run", "c"]).code, 1);
    assert_eq!(podman.inspect("c", "{{.State.Health.Status}}"), "unhealthy");
}

pub fn pause(podman: &Podman) {
    podman.started("c", &[], &["sh", "-c", "while :; do date >>/tmp/ticks; usleep 20000; done"]);
    podman.podman(&["pause", "c"]).ok();
    assert_eq!(status(podman, "c"), "paused");
    let said = podman.podman(&["exec", "c", "true"]).failed();
    assert!(said.contains("can only create exec sessions on running containers"), "{said}");
    podman.podman(&["unpause", "c"]).ok();
    assert_eq!(status(podman, "c"), "running");
    podman.exec("c", "true");
}

/// Podman asks the runtime for `checkpoint --help` before anything else.
pub fn checkpoint(podman: &Podman) {
    if !podman.is_root() {
        crate::runner::skip("Podman checkpoints for root alone");
    }
    podman.started("c", &[], &["sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); usleep 100000; done"]);
    podman.podman(&["container", "checkpoint", "c"]).ok();
    assert_eq!(status(podman, "c"), "exited");
    podman.podman(&["container", "restore", "c"]).ok();
    assert_eq!(status(podman, "c"), "running");
}

pub fn timeout(podman: &Podman) {
    let output = podman.run(&["--timeout", "1"], SLEEP);
    assert_ne!(output.code, 0, "{output:#?}");
}

/// conmon calls `podman container cleanup`, and that `delete`.
pub fn nothing_of_removed_containers(podman: &Podman) {
    for _ in 0..3 {
        podman.shell(&[], "true");
    }
    assert_eq!(podman.podman(&["ps", "--all", "--quiet"]).ok(), "");
    // What begins with a point is no container: a cache of seccomp filters, for example.
    let entries = fs::read_dir(podman.states()).into_iter().flatten().flatten();
    let left: Vec<_> =
        entries.map(|entry| entry.file_name()).filter(|name| name.as_encoded_bytes()[0] != b'.').collect();
    assert!(left.is_empty(), "{left:?}");
}
