//! From start to end.

use super::{Docker, SLEEP, TRAPS};
use crate::cases;
use crate::common::{eventually, host};
use crate::process::{Background, on_terminal_of};
use crate::runner::Case;
use std::time::Instant;

pub fn cases() -> Vec<Case<Docker>> {
    cases![
        create_and_start,
        logs,
        attach,
        inspect_state,
        top,
        stats,
        events,
        pause_and_unpause,
        stop,
        stop_signal,
        stop_kills_in_the_end,
        kill_by_name_and_number,
        wait,
        restart,
        restart_on_failure,
        restart_always,
        health_check,
        remove_by_force,
        remove_paused_by_force,
        daemon_restarts,
        fifty,
    ]
}

/// A container with [`TRAPS`], which have been set.
fn start_trapping(engine: &Docker, options: &[&str], name: &str) {
    engine.start(options, name, TRAPS);
    eventually(|| engine.docker(&["logs", name]).stdout.contains("ready"));
}

pub fn create_and_start(engine: &Docker) {
    engine
        .docker(&["create", "--network=none", "--name", "box", crate::image::NAME, "sh", "-c", "echo out; exit 3"])
        .ok();
    assert_eq!(engine.status("box"), "created");
    for _ in 0..2 {
        let output = engine.docker(&["start", "--attach", "box"]);
        assert_eq!((output.code, output.stdout.as_str()), (3, "out"));
    }
}

pub fn logs(engine: &Docker) {
    engine.start(&[], "box", &["sh", "-c", "echo one; echo two >&2; echo three"]);
    engine.wait_until_ended("box");
    let output = engine.docker(&["logs", "box"]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("one\nthree", "two"));
    assert!(engine.docker(&["logs", "--timestamps", "box"]).stdout.ends_with("Z three"));
}

pub fn attach(engine: &Docker) {
    engine.start(&["--interactive", "--tty"], "box", &["sh", "-c", "read x; echo got $x; exit 9"]);
    let output = on_terminal_of(&engine.command(&["attach", "box"]), "typed\n", Some((24, 80)));
    assert_eq!(output.code, 9, "{output:?}");
    assert!(output.stdout.contains("got typed"), "{output:?}");
}

pub fn inspect_state(engine: &Docker) {
    engine.start(&[], "box", &["sh", "-c", "sleep 1; exit 8"]);
    let state = engine.state("box");
    assert_eq!((state["Status"].as_str(), state["Running"].as_bool()), (Some("running"), Some(true)));
    assert!(state["Pid"].as_i64().unwrap() > 0);
    engine.wait_until_ended("box");
    let state = engine.state("box");
    assert_eq!(
        (state["ExitCode"].as_i64(), state["Pid"].as_i64(), state["OOMKilled"].as_bool()),
        (Some(8), Some(0), Some(false))
    );
    assert!(state["FinishedAt"].as_str().unwrap() > state["StartedAt"].as_str().unwrap(), "{state}");
    assert_eq!(state["Error"], "");
}

pub fn top(engine: &Docker) {
    engine.start(&[], "box", &["sh", "-c", "sleep 1001 & sleep 1002; :"]);
    eventually(|| engine.docker(&["top", "box"]).ok().lines().count() == 4);
    let processes = engine.docker(&["top", "box", "-o", "pid,args"]).ok();
    assert!(processes.contains("sleep 1001") && processes.contains("sleep 1002"), "{processes}");
}

pub fn stats(engine: &Docker) {
    engine.start(&["--memory", "64m", "--pids-limit", "33"], "box", SLEEP);
    let stats = engine.docker(&["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", "box"]).ok();
    assert!(stats.starts_with("box ") && stats.contains("/ 64MiB") && stats.ends_with(" 1"), "{stats}");
}

pub fn events(engine: &Docker) {
    let events = Background::start(&engine.command(&["events"]), engine.dir.join("events"));
    // Who subscribes too late misses the first ones.
    eventually(|| {
        engine.docker(&["volume", "create", "vol"]).ok();
        engine.docker(&["volume", "rm", "vol"]).ok();
        events.shown().contains("volume destroy")
    });
    engine.start(&[], "box", SLEEP);
    engine.docker(&["exec", "box", "sh", "-c", "exit 3"]);
    engine.docker(&["pause", "box"]).ok();
    engine.docker(&["unpause", "box"]).ok();
    engine.docker(&["kill", "box"]).ok();
    let expected = ["create", "start", "exec_create", "exec_start", "exec_die", "pause", "unpause", "kill", "die"];
    eventually(|| expected.iter().all(|event| events.shown().contains(&format!("container {event}"))));
    let shown = events.shown();
    let die = shown.lines().find(|line| line.contains("container die")).unwrap();
    assert!(die.contains("exitCode=137"), "{die}");
}

pub fn pause_and_unpause(engine: &Docker) {
    engine.start(&[], "box", SLEEP);
    engine.docker(&["pause", "box"]).ok();
    assert_eq!(engine.status("box"), "paused");
    engine.docker(&["pause", "box"]).failed();
    engine.docker(&["unpause", "box"]).ok();
    assert_eq!(engine.status("box"), "running");
}

pub fn stop(engine: &Docker) {
    start_trapping(engine, &[], "box");
    engine.docker(&["stop", "box"]).ok();
    assert_eq!(engine.inspect("box", "{{.State.Status}} {{.State.ExitCode}}"), "exited 5");
}

pub fn stop_signal(engine: &Docker) {
    start_trapping(engine, &["--stop-signal", "USR1"], "box");
    engine.docker(&["stop", "box"]).ok();
    assert_eq!(engine.inspect("box", "{{.State.ExitCode}}"), "6");
}

pub fn stop_kills_in_the_end(engine: &Docker) {
    engine.start(&[], "box", SLEEP);
    let start = Instant::now();
    engine.docker(&["stop", "--time", "1", "box"]).ok();
    assert!(start.elapsed().as_millis() >= 1000);
    assert_eq!(engine.inspect("box", "{{.State.ExitCode}}"), "137");
}

pub fn kill_by_name_and_number(engine: &Docker) {
    for (signal, code) in [("USR1", "6"), ("SIGTERM", "5"), ("10", "6"), ("KILL", "137")] {
        start_trapping(engine, &[], "box");
        engine.docker(&["kill", "--signal", signal, "box"]).ok();
        engine.wait_until_ended("box");
        assert_eq!(engine.inspect("box", "{{.State.ExitCode}}"), code, "{signal}");
        assert!(engine.docker(&["kill", "box"]).failed().contains("not running"));
        engine.docker(&["rm", "box"]).ok();
    }
}

pub fn wait(engine: &Docker) {
    engine.start(&[], "box", &["sh", "-c", "sleep 1; exit 42"]);
    assert_eq!(engine.docker(&["wait", "box"]).ok(), "42");
    assert_eq!(engine.docker(&["wait", "box"]).ok(), "42");
}

pub fn restart(engine: &Docker) {
    engine.start(&[], "box", SLEEP);
    let pid = engine.inspect("box", "{{.State.Pid}}");
    engine.docker(&["exec", "box", "touch", "/tmp/kept"]).ok();
    engine.docker(&["restart", "--time", "0", "box"]).ok();
    assert_ne!(engine.inspect("box", "{{.State.Pid}}"), pid);
    engine.docker(&["exec", "box", "test", "-e", "/tmp/kept"]).ok();
}

pub fn restart_on_failure(engine: &Docker) {
    engine.start(&["--restart", "on-failure:2"], "box", &["sh", "-c", "echo again; exit 3"]);
    eventually(|| engine.inspect("box", "{{.State.Status}} {{.RestartCount}}") == "exited 2");
    assert_eq!(engine.docker(&["logs", "box"]).stdout, "again\nagain\nagain");
}

pub fn restart_always(engine: &Docker) {
    engine.start(&["--restart", "always"], "box", SLEEP);
    let pid = engine.inspect("box", "{{.State.Pid}}");
    host("kill", &["-KILL", &pid]);
    eventually(|| engine.inspect("box", "{{.State.Status}} {{.RestartCount}}") == "running 1");
    assert_ne!(engine.inspect("box", "{{.State.Pid}}"), pid);
    // A container that is stopped on purpose stays so.
    engine.docker(&["stop", "--time", "0", "box"]).ok();
    assert_eq!(engine.status("box"), "exited");
}

pub fn health_check(engine: &Docker) {
    let options = ["--health-cmd", "test -e /tmp/well", "--health-interval", "300ms", "--health-retries", "2"];
    engine.start(&options, "box", SLEEP);
    eventually(|| engine.inspect("box", "{{.State.Health.Status}}") == "unhealthy");
    engine.docker(&["exec", "box", "touch", "/tmp/well"]).ok();
    eventually(|| engine.inspect("box", "{{.State.Health.Status}}") == "healthy");
}

pub fn remove_by_force(engine: &Docker) {
    engine.start(&[], "box", SLEEP);
    engine.docker(&["rm", "box"]).failed();
    engine.docker(&["rm", "--force", "box"]).ok();
    assert_eq!(engine.docker(&["ps", "--all", "--quiet"]).ok(), "");
}

pub fn remove_paused_by_force(engine: &Docker) {
    engine.start(&[], "box", SLEEP);
    engine.docker(&["pause", "box"]).ok();
    engine.docker(&["rm", "--force", "box"]).ok();
    assert_eq!(engine.docker(&["ps", "--all", "--quiet"]).ok(), "");
}

pub fn daemon_restarts(engine: &Docker) {
    engine.start(&[], "box", SLEEP);
    let pid = engine.inspect("box", "{{.State.Pid}}");
    engine.restart();
    assert_eq!(engine.inspect("box", "{{.State.Status}} {{.State.Pid}}"), format!("running {pid}"));
    assert_eq!(engine.docker(&["exec", "box", "echo", "still"]).ok(), "still");
    engine.docker(&["stop", "--time", "0", "box"]).ok();
    assert_eq!(engine.inspect("box", "{{.State.ExitCode}}"), "137");
}

/// 50 containers, 10 at a time.
pub fn fifty(engine: &Docker) {
    std::thread::scope(|scope| {
        for thread in 0..10 {
            scope.spawn(move || {
                for number in 0..5 {
                    let name = format!("c{thread}-{number}");
                    engine.start(&[], &name, SLEEP);
                    engine.docker(&["rm", "--force", &name]).ok();
                }
            });
        }
    });
    assert_eq!(engine.docker(&["ps", "--all", "--quiet"]).ok(), "");
}
