//! Checkpoints by ctr, which become images, and containers that come back from them. Where CRIU cannot even dump and restore a
//! process that no container has to do with, they are skipped.

use super::Ctr;
use crate::cases;
use crate::common::{criu, eventually};
use crate::process::on_terminal_of;
use crate::runner::{Case, skip};
use crate::world::Inventory;
use std::fs;

pub fn cases() -> Vec<Case<Ctr>> {
    cases![checkpoint, restore, restore_on_a_terminal, checkpoint_and_end]
}

/// Counts in a file of its own memory.
const COUNT: &[&str] = &["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/dev/shm/n; usleep 20000; done"];
/// The name of a checkpoint.
const SAVED: &str = "localhost/saved:1";

fn count(engine: &Ctr, id: &str) -> u64 {
    let mut last = String::new();
    // The file is empty for a moment.
    eventually(|| {
        last = engine.exec(&[], id, &["cat", "/dev/shm/n"]).ok();
        !last.is_empty()
    });
    last.parse().unwrap()
}

fn remove(engine: &Ctr, id: &str) {
    engine.ctr(&["task", "kill", "--signal", "SIGKILL", id]).ok();
    eventually(|| engine.task_status(id) == "STOPPED");
    assert_eq!(engine.delete_task(id), 137);
    engine.ctr(&["container", "delete", id]).ok();
}

/// Ends the case as skipped where CRIU does not work.
fn need_criu() {
    if let Err(why) = criu::works() {
        skip(why);
    }
}

/// Saves `c` as an image, with its memory and its files, and removes it.
fn save(engine: &Ctr) {
    // With what it is made of: ctr cannot save the same again.
    engine.ctr(&["image", "delete", "--sync", SAVED]);
    let output = engine.ctr(&["container", "checkpoint", "--rw", "--image", "--task", "c", SAVED]);
    assert_eq!(engine.task_status("c"), "RUNNING", "{output:?}");
    output.ok();
    remove(engine, "c");
}

fn checkpoint(engine: &Ctr) {
    need_criu();
    engine.start_detached(&[], "c", COUNT);
    let path = engine.containerd.dir.join("checkpoint");
    let output = engine.ctr(&["task", "checkpoint", "--image-path", path.to_str().unwrap(), "c"]);
    assert_eq!(engine.task_status("c"), "RUNNING", "{output:?}");
    output.ok();
    let counted = count(engine, "c");
    eventually(|| count(engine, "c") > counted);
    if is_of_another_shim(engine) {
        // An image has been made instead.
        let name = engine.ctr(&["image", "list", "--quiet"]).ok();
        let name = name.lines().find(|name| name.starts_with("containerd.io/checkpoint/c:"));
        engine.ctr(&["image", "delete", "--sync", name.unwrap()]).ok();
    }
}

fn restore(engine: &Ctr) {
    need_criu();
    let before = Inventory::now();
    engine.start_detached(&[], "c", COUNT);
    engine.exec(&[], "c", &["sh", "-c", "echo kept >/file"]).ok();
    eventually(|| count(engine, "c") > 20);
    save(engine);
    engine.ctr(&["container", "restore", "--rw", "--live", "back", SAVED]).ok();
    assert_eq!(engine.task_status("back"), "RUNNING");
    let counted = count(engine, "back");
    assert!(counted > 20, "{counted}");
    eventually(|| count(engine, "back") > counted);
    assert_eq!(engine.exec(&[], "back", &["cat", "/file"]).ok(), "kept");
    engine.ctr(&["task", "pause", "back"]).ok();
    assert_eq!(engine.task_status("back"), "PAUSED");
    engine.ctr(&["task", "resume", "back"]).ok();
    if engine.runtime.has_own_shim {
        // runc's has none after a restore.
        assert!(engine.ctr(&["task", "metrics", "back"]).ok().contains("memory"));
    }
    remove(engine, "back");
    engine.nothing_more_than(&before);
}

fn restore_on_a_terminal(engine: &Ctr) {
    if is_old(engine) {
        skip("this ctr asks for no terminal when it restores");
    }
    need_criu();
    let start = engine.command(&["--detach", "--tty"], "c", &["sh", "-c", "read x; echo got $x; tty; exit 9"]);
    on_terminal_of(&start, "", None).ok();
    save(engine);
    let mut command = engine.containerd.ctr();
    command.args(["container", "restore", "--rw", "--live", "c", SAVED]);
    let output = on_terminal_of(&command, "typed\n", Some((24, 80)));
    assert_eq!(output.code, 9, "{output:?}");
    assert!(output.stdout.contains("got typed") && output.stdout.contains("/dev/"), "{output:?}");
    engine.ctr(&["container", "delete", "c"]).ok();
}

fn is_old(engine: &Ctr) -> bool {
    engine.containerd.version().contains(" 1.")
}

/// Whether containerd does not pass options of a checkpoint on: before 2.0 it does so to runc's shim alone.
fn is_of_another_shim(engine: &Ctr) -> bool {
    engine.runtime.has_own_shim && is_old(engine)
}

fn checkpoint_and_end(engine: &Ctr) {
    if is_of_another_shim(engine) {
        skip("this containerd tells only runc's shim about the options of a checkpoint");
    }
    need_criu();
    engine.start_detached(&[], "c", COUNT);
    let (images, work) = (engine.containerd.dir.join("images"), engine.containerd.dir.join("work"));
    let [images, work] = [images, work].map(|path| path.to_str().unwrap().to_owned());
    let options = ["task", "checkpoint", "--exit", "--image-path", &images, "--work-path", &work, "c"];
    let output = engine.ctr(&options);
    output.ok();
    eventually(|| engine.task_status("c") == "STOPPED");
    assert_eq!(engine.delete_task("c"), 137);
    assert!(fs::exists(format!("{images}/inventory.img")).unwrap());
    assert!(fs::exists(format!("{work}/dump.log")).unwrap());
}
