//! `ctr task`.

use super::{Ctr, SIZE, SLEEP, TRAPS};
use crate::cases;
use crate::common::eventually;
use crate::process::{on_terminal_of, output_after};
use crate::runner::Case;
use std::fs;
use std::time::Duration;

pub fn cases() -> Vec<Case<Ctr>> {
    cases![
        list_and_processes,
        start_apart_from_create,
        attach,
        exec,
        exec_exit_code,
        exec_stdin,
        exec_tty,
        exec_detached,
        exec_user_and_cwd,
        exec_no_such_program,
        exec_not_executable,
        exec_while_paused,
        kill_exec,
        pause_and_resume,
        kill,
        kill_by_number,
        kill_all,
        metrics,
        events,
        remove,
        remove_by_force,
    ]
}

fn list_and_processes(engine: &Ctr) {
    engine.start_detached(&[], "c", &["sh", "-c", "sleep 1000 & sleep 1000; :"]);
    assert_eq!(engine.ctr(&["task", "list", "--quiet"]).ok(), "c");
    eventually(|| engine.ctr(&["task", "ps", "c"]).ok().lines().count() == 4);
    let processes = engine.ctr(&["task", "ps", "c"]).ok();
    assert!(processes.contains(&engine.task_pid("c").to_string()), "{processes}");
}

/// Without --runc-binary: by the name `runc`, which containerd's PATH leads to.
fn start_apart_from_create(engine: &Ctr) {
    engine.ctr(&["container", "create", crate::image::NAME, "c", "sleep", "1000"]).ok();
    assert_eq!(engine.task_status("c"), "");
    engine.ctr(&["task", "start", "--detach", "c"]).ok();
    assert_eq!(engine.task_status("c"), "RUNNING");
}

fn attach(engine: &Ctr) {
    let start = engine.command(&["--detach", "--tty"], "c", &["sh", "-c", "read x; echo got $x; exit 9"]);
    on_terminal_of(&start, "", None).ok();
    let mut command = engine.containerd.ctr();
    command.args(["task", "attach", "c"]);
    let output = on_terminal_of(&command, "typed\n", Some((24, 80)));
    assert_eq!(output.code, 9, "{output:?}");
    assert!(output.stdout.contains("got typed"), "{output:?}");
}

fn exec(engine: &Ctr) {
    engine.start_detached(&["--env", "A=b"], "c", SLEEP);
    let output = engine.exec(&[], "c", &["sh", "-c", "echo $A; echo err >&2; readlink /proc/self/ns/pid"]).ok();
    let pid = engine.task_pid("c");
    assert_eq!(output, format!("b\n{}", fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap().display()));
    // The same exec id again: the first one is gone.
    assert_eq!(engine.exec(&[], "c", &["echo", "again"]).ok(), "again");
}

fn exec_exit_code(engine: &Ctr) {
    engine.start_detached(&[], "c", SLEEP);
    assert_eq!(engine.exec(&[], "c", &["sh", "-c", "exit 7"]).code, 7);
    assert_eq!(engine.exec(&[], "c", &["sh", "-c", "kill -9 $$"]).code, 137);
}

fn exec_stdin(engine: &Ctr) {
    engine.start_detached(&[], "c", SLEEP);
    let started = || engine.ctr(&["task", "ps", "c"]).ok().lines().count() > 2;
    let output = output_after(engine.exec_command(&[], "c", &["wc", "-c"]), started, "12345");
    assert_eq!(output.ok(), "5");
}

fn exec_tty(engine: &Ctr) {
    engine.start_detached(&[], "c", SLEEP);
    let script = format!("tty; {SIZE}; read x; echo got $x; exit 4");
    let command = engine.exec_command(&["--tty"], "c", &["sh", "-c", &script]);
    let output = on_terminal_of(&command, "typed\n", Some((31, 77)));
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stdout.contains("/dev/pts/0"), "{output:?}");
    assert!(output.stdout.contains("31 77") && output.stdout.contains("got typed"), "{output:?}");
}

fn exec_detached(engine: &Ctr) {
    engine.start_detached(&[], "c", SLEEP);
    engine.exec(&["--detach"], "c", &["sh", "-c", "echo done >/tmp/file; sleep 1000"]).ok();
    eventually(|| engine.runtime_exec("c", &["cat", "/tmp/file"]) == "done");
    assert_eq!(engine.ctr(&["task", "ps", "c"]).ok().lines().filter(|line| line.contains("c-exec")).count(), 1);
}

fn exec_user_and_cwd(engine: &Ctr) {
    let script = "id -u; id -g; pwd";
    let output = engine.exec_in_sleeping(&["--user", "1000:1000", "--cwd", "/tmp"], &["sh", "-c", script]);
    assert_eq!(output.ok(), "1000\n1000\n/tmp");
}

fn exec_no_such_program(engine: &Ctr) {
    let output = engine.exec_in_sleeping(&[], &["nosuch"]);
    assert!(output.stderr.contains("\"nosuch\": executable file not found in $PATH"), "{output:?}");
    assert_ne!(output.code, 0);
}

fn exec_not_executable(engine: &Ctr) {
    let output = engine.exec_in_sleeping(&[], &["/etc/passwd"]);
    assert!(output.stderr.contains("\"/etc/passwd\": ") && output.stderr.contains("permission denied"), "{output:?}");
}

fn exec_while_paused(engine: &Ctr) {
    engine.start_detached(&[], "c", SLEEP);
    engine.ctr(&["task", "pause", "c"]).ok();
    let output = engine.exec(&[], "c", &["true"]);
    assert!(output.stderr.contains("paused"), "{output:?}");
    engine.ctr(&["task", "resume", "c"]).ok();
    engine.exec(&[], "c", &["true"]).ok();
}

fn kill_exec(engine: &Ctr) {
    engine.start_detached(&[], "c", SLEEP);
    engine.exec(&["--detach"], "c", SLEEP).ok();
    engine.ctr(&["task", "kill", "--signal", "SIGKILL", "--exec-id", "c-exec", "c"]).ok();
    eventually(|| !engine.ctr(&["task", "ps", "c"]).ok().contains("c-exec"));
    assert_eq!(engine.task_status("c"), "RUNNING");
}

fn pause_and_resume(engine: &Ctr) {
    engine.start_detached(&[], "c", SLEEP);
    engine.ctr(&["task", "pause", "c"]).ok();
    assert_eq!(engine.task_status("c"), "PAUSED");
    assert!(engine.ctr(&["task", "pause", "c"]).failed().contains("pause"));
    engine.ctr(&["task", "resume", "c"]).ok();
    assert_eq!(engine.task_status("c"), "RUNNING");
    engine.ctr(&["task", "resume", "c"]).failed();
}

fn kill(engine: &Ctr) {
    for (signal, code) in [("SIGTERM", 5), ("SIGUSR1", 6)] {
        engine.start_detached(&[], "c", TRAPS);
        ready(engine);
        engine.ctr(&["task", "kill", "--signal", signal, "c"]).ok();
        eventually(|| engine.task_status("c") == "STOPPED");
        assert_eq!(engine.delete_task("c"), code);
        engine.ctr(&["container", "delete", "c"]).ok();
    }
}

fn kill_by_number(engine: &Ctr) {
    engine.start_detached(&[], "c", TRAPS);
    ready(engine);
    engine.ctr(&["task", "kill", "--signal", "10", "c"]).ok();
    eventually(|| engine.task_status("c") == "STOPPED");
    assert_eq!(engine.delete_task("c"), 6);
    assert!(engine.ctr(&["task", "kill", "c"]).failed().contains("not found"));
}

/// Waits until [`TRAPS`] has set its traps, and loops.
fn ready(engine: &Ctr) {
    eventually(|| engine.ctr(&["task", "ps", "c"]).ok().lines().count() > 2);
}

fn kill_all(engine: &Ctr) {
    // In the host's pid namespace the end of the first process is not the end of the others.
    let host = "pid:/proc/1/ns/pid";
    engine.start_detached(&["--with-ns", host], "c", &["sh", "-c", "sleep 1000 & sleep 1000; :"]);
    eventually(|| engine.ctr(&["task", "ps", "c"]).ok().lines().count() == 4);
    engine.ctr(&["task", "kill", "--all", "--signal", "SIGKILL", "c"]).ok();
    eventually(|| engine.task_status("c") == "STOPPED");
    engine.ctr(&["task", "delete", "c"]);
}

fn metrics(engine: &Ctr) {
    engine.start_detached(&["--memory-limit", "50000000"], "c", SLEEP);
    let limit = engine.metric("c", ["memory.usage_in_bytes", "memory.usage"]);
    assert!((1..50_000_000).contains(&limit), "{limit}");
    // runc's init has threads until it executes the program.
    eventually(|| engine.metric("c", ["pids.current", "pids.current"]) == 1);
}

fn events(engine: &Ctr) {
    let events = engine.events();
    engine.start_detached(&[], "c", SLEEP);
    engine.exec(&[], "c", &["sh", "-c", "exit 3"]);
    engine.ctr(&["task", "pause", "c"]).ok();
    engine.ctr(&["task", "resume", "c"]).ok();
    engine.ctr(&["task", "kill", "--signal", "SIGKILL", "c"]).ok();
    eventually(|| engine.task_status("c") == "STOPPED");
    engine.ctr(&["task", "delete", "c"]);
    // No "delete": the shim of containerd 2.3 may end before it has sent that.
    let expected = ["create", "start", "exec-added", "exec-started", "paused", "resumed", "exit"];
    let missing =
        || expected.iter().filter(|topic| !events.shown().contains(&format!("/tasks/{topic} "))).collect::<Vec<_>>();
    for _ in 0..100 {
        if missing().is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let shown = events.shown();
    assert!(missing().is_empty(), "no {:?} in {shown}", missing());
    let exits: Vec<&str> = shown.lines().filter(|line| line.contains("/tasks/exit ")).collect();
    assert!(
        exits.iter().any(|line| line.contains("\"id\":\"c-exec\"") && line.contains("\"exit_status\":3")),
        "{shown}"
    );
    assert!(exits.iter().any(|line| line.contains("\"id\":\"c\"") && line.contains("\"exit_status\":137")), "{shown}");
}

fn remove(engine: &Ctr) {
    engine.start_detached(&[], "c", SLEEP);
    assert!(engine.ctr(&["task", "delete", "c"]).stderr.contains("must be stopped"));
    engine.ctr(&["container", "delete", "c"]);
    assert_eq!(engine.task_status("c"), "RUNNING");
    engine.ctr(&["task", "kill", "--signal", "SIGKILL", "c"]).ok();
    eventually(|| engine.task_status("c") == "STOPPED");
    assert_eq!(engine.delete_task("c"), 137);
    engine.ctr(&["container", "delete", "c"]).ok();
    assert!(engine.runtime(&["state", "c"]).failed().contains("does not exist"));
}

fn remove_by_force(engine: &Ctr) {
    engine.start_detached(&[], "c", SLEEP);
    engine.ctr(&["task", "delete", "--force", "c"]);
    assert_eq!(engine.task_status("c"), "");
    assert!(engine.runtime(&["state", "c"]).failed().contains("does not exist"));
}
