//! What outlives what: containers and containerd, shims and containers, many at once.

use super::{Ctr, SLEEP};
use crate::cases;
use crate::common::eventually;
use crate::process::output;
use crate::runner::Case;
use crate::world::{Inventory, processes_named};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

pub fn cases() -> Vec<Case<Ctr>> {
    cases![containerd_restarts, shims_are_killed, two_hundred]
}

fn containerd_restarts(engine: &Ctr) {
    engine.start_detached(&[], "c", SLEEP);
    let pid = engine.task_pid("c");
    engine.containerd.restart();
    assert_eq!(engine.task_status("c"), "RUNNING");
    assert_eq!(engine.task_pid("c"), pid);
    assert_eq!(engine.exec(&[], "c", &["echo", "still"]).ok(), "still");
    engine.ctr(&["task", "kill", "--signal", "SIGKILL", "c"]).ok();
    eventually(|| engine.task_status("c") == "STOPPED");
    assert_eq!(engine.delete_task("c"), 137);
}

/// Twenty shims killed at the same time: containerd notices, and each container is deleted, with its processes.
fn shims_are_killed(engine: &Ctr) {
    let before = Inventory::now();
    let ids: Vec<String> = (0..20).map(|number| format!("orphan{number}")).collect();
    at_once(&ids, |id| engine.start_detached(&[], id, SLEEP));
    remove_by_killing_shims(engine, &ids);
    engine.nothing_more_than(&before);
}

/// Kills the shims of all containers, which are `ids`, and removes what is left.
fn remove_by_killing_shims(engine: &Ctr, ids: &[String]) {
    let shims = processes_named("containerd-shim");
    assert_eq!(shims.len(), ids.len(), "{shims:?}");
    for shim in shims {
        kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    }
    at_once(ids, |id| {
        eventually(|| engine.runtime(&["state", id]).code != 0);
        engine.ctr(&["task", "delete", "--force", id]);
        engine.ctr(&["container", "delete", id]).ok();
    });
    if !engine.runtime.has_own_shim {
        // Nobody removes the socket of a runc shim that was killed.
        for socket in fs::read_dir("/run/containerd/s").unwrap().flatten() {
            fs::remove_file(socket.path()).unwrap();
        }
    }
}

/// 200 containers, 20 at a time: started, killed and removed. In the middle containerd is restarted, and later the shims
/// of a batch are killed.
fn two_hundred(engine: &Ctr) {
    const ALL: usize = 200;
    const AT_A_TIME: usize = 20;
    let before = Inventory::now();
    for (batch, first) in (0..ALL).step_by(AT_A_TIME).enumerate() {
        let ids: Vec<String> = (first..first + AT_A_TIME).map(|number| format!("many{number}")).collect();
        at_once(&ids, |id| engine.start_detached(&[], id, SLEEP));
        if batch == 5 {
            engine.containerd.restart();
        }
        let listed = engine.ctr(&["task", "list", "--quiet"]).ok();
        assert_eq!(listed.lines().count(), AT_A_TIME, "{listed}");
        if batch == 7 {
            // Those of the batch before may be about to end.
            eventually(|| processes_named("containerd-shim").len() == AT_A_TIME);
            remove_by_killing_shims(engine, &ids);
            continue;
        }
        at_once(&ids, |id| {
            engine.ctr(&["task", "kill", "--signal", "SIGKILL", id]).ok();
            eventually(|| engine.task_status(id) == "STOPPED");
            assert_eq!(engine.delete_task(id), 137);
            engine.ctr(&["container", "delete", id]).ok();
        });
    }
    assert_eq!(engine.ctr(&["container", "list", "--quiet"]).ok(), "");
    engine.nothing_more_than(&before);
    assert!(output(engine.command(&["--detach"], "c", SLEEP), "").code == 0);
}

/// Does something for every id, all at the same time.
pub(super) fn at_once(ids: &[String], what: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = ids.iter().map(|id| scope.spawn(|| what(id))).collect();
        for thread in threads {
            thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        }
    });
}
