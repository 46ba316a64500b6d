//! From a run to a checkpoint and back.

use crate::common::{criu, eventually};
use crate::{Counter, mounts, pid_of, skip};
use serde_json::json;
use std::fs;
use std::path::Path;

#[test]
fn a_container_goes_on_where_it_was() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    let pid = counter.start(&lab);
    let before = mounts(pid);
    for round in 0..2 {
        counter.checkpoint(&lab, &[]).ok();
        let counted = counter.count();
        assert_eq!(lab.status(counter.id()), "", "round {round}");
        assert!(!lab.path("run").join(counter.id()).exists());

        let file = counter.bundle.path.join("pid");
        counter.restore(&lab, &["--pid-file", file.to_str().unwrap()]).ok();
        counter.counts_on(counted);
        let pid: i32 = fs::read_to_string(&file).unwrap().parse().unwrap();
        assert_eq!(pid, pid_of(&lab, counter.id()));
        assert_eq!(mounts(pid), before, "round {round}");
    }
}

#[test]
fn a_restored_container_is_managed_like_others() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    counter.start(&lab);
    counter.checkpoint(&lab, &[]).ok();
    counter.restore(&lab, &[]).ok();
    let id = counter.id();
    assert_eq!(lab.status(id), "running");
    assert!(lab.microrun(&["list", "-q"]).ok().lines().any(|line| line == id));
    assert_eq!(lab.microrun(&["exec", id, "sh", "-c", "echo $$ && hostname"]).ok().lines().count(), 2);
    // With the container's clocks, which CRIU has set.
    let clocks = lab.microrun(&["exec", id, "readlink", "/proc/self/ns/time"]).ok();
    let of_init = fs::read_link(format!("/proc/{}/ns/time", pid_of(&lab, id))).unwrap();
    assert_eq!(Path::new(&clocks), of_init);

    lab.microrun(&["pause", id]).ok();
    assert_eq!(lab.status(id), "paused");
    let paused_at = counter.count();
    lab.microrun(&["resume", id]).ok();
    counter.counts_on(paused_at);
    assert!(lab.microrun(&["ps", "--format", "json", id]).ok().starts_with('['));
    assert!(lab.microrun(&["events", "--stats", id]).ok().contains("\"type\":\"stats\""));
    lab.microrun(&["kill", id, "KILL"]).ok();
    eventually(|| lab.status(id) == "stopped");
    lab.microrun(&["delete", id]).ok();
    assert_eq!(lab.status(id), "");
}

#[test]
fn a_container_may_be_left_running() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    let pid = counter.start(&lab);
    counter.checkpoint(&lab, &["--leave-running"]).ok();
    counter.counts_on(counter.count());
    assert_eq!(pid_of(&lab, counter.id()), pid);
    assert!(counter.images.join("inventory.img").exists() && counter.images.join("dump.log").exists());
    assert!(counter.images.join("descriptors.json").exists());

    // What was saved is what comes back.
    lab.microrun(&["delete", "--force", counter.id()]).ok();
    let counted = counter.count();
    counter.restore(&lab, &[]).ok();
    eventually(|| counter.count() != counted);
}

#[test]
fn a_paused_container_stays_paused() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    counter.start(&lab);
    lab.microrun(&["pause", counter.id()]).ok();
    counter.checkpoint(&lab, &["--leave-running"]).ok();
    assert_eq!(lab.status(counter.id()), "paused");
    lab.microrun(&["resume", counter.id()]).ok();
    counter.counts_on(counter.count());

    lab.microrun(&["pause", counter.id()]).ok();
    counter.checkpoint(&lab, &[]).ok();
    assert_eq!(lab.status(counter.id()), "");
    counter.restore(&lab, &[]).ok();
    counter.counts_on(counter.count());
}

#[test]
fn memory_is_saved_in_two_rounds() {
    let (lab, _alone) = criu_lab!();
    if criu::run(&["check", "--feature", "mem_dirty_track"]).code != 0 {
        let counter = Counter::new(&lab, |_| {});
        counter.start(&lab);
        let refused = counter.checkpoint(&lab, &["--pre-dump"]).failed();
        assert!(refused.contains("criu is missing features: MemTrack"), "{refused}");
        counter.counts_on(counter.count());
        skip!("this kernel does not track which pages are written to");
    }
    let counter = Counter::new(&lab, |_| {});
    let pid = counter.start(&lab);
    let parent = counter.bundle.path.join("parent");
    lab.microrun(&["checkpoint", "--pre-dump", "--image-path", parent.to_str().unwrap(), counter.id()]).ok();
    counter.counts_on(counter.count());
    assert_eq!(pid_of(&lab, counter.id()), pid);

    counter.checkpoint(&lab, &["--parent-path", "../parent"]).ok();
    assert!(counter.images.join("parent").exists());
    counter.restore(&lab, &[]).ok();
    counter.counts_on(counter.count());
}

#[test]
fn hooks_are_told() {
    let (lab, _alone) = criu_lab!();
    let told = lab.path("told");
    let hook = |name: &str| {
        let script = format!("echo {name} $(tr , '\\n' | grep status) >>{}", told.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
    };
    let counter = Counter::new(&lab, |config| {
        config["hooks"] = json!({
            "prestart": hook("prestart"), "createRuntime": hook("createRuntime"), "poststop": hook("poststop")
        });
    });
    let heard = || {
        let text = fs::read_to_string(&told).unwrap_or_default();
        let _ = fs::remove_file(&told);
        text.lines()
            .map(|line| line.replace(['"', ':'], " ").split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    counter.start(&lab);
    heard();
    counter.checkpoint(&lab, &[]).ok();
    assert_eq!(heard(), ["poststop status stopped"]);
    counter.restore(&lab, &[]).ok();
    assert_eq!(heard(), ["prestart status created", "createRuntime status created"]);
}

#[test]
fn more_options_of_criu_come_from_a_file() {
    let (lab, _alone) = criu_lab!();
    let file = lab.path("criu.conf");
    fs::write(&file, "log-file=other.log\n").unwrap();
    let counter = Counter::new(&lab, |config| {
        config["annotations"] = json!({"org.criu.config": file.to_str().unwrap()});
    });
    counter.start(&lab);
    let work = counter.bundle.path.join("work");
    counter.checkpoint(&lab, &["--work-path", work.to_str().unwrap()]).ok();
    assert!(work.join("other.log").exists() && !work.join("dump.log").exists());
    assert!(!counter.images.join("dump.log").exists());
}
