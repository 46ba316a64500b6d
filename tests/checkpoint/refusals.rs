//! What cannot be saved or restored: the error, and what is left.

use crate::common::{Output, eventually};
use crate::{Counter, lab, pid_of};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

#[test]
fn the_images_of_a_first_round_are_looked_for() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    counter.start(&lab);
    let absolute = counter.checkpoint(&lab, &["--parent-path", "/tmp"]).failed();
    assert!(absolute.contains("--parent-path must be relative"), "{absolute}");
    let missing = counter.checkpoint(&lab, &["--parent-path", "../missing"]).failed();
    assert!(missing.contains("invalid --parent-path: ") && missing.contains("no such file"), "{missing}");
    counter.counts_on(counter.count());
}

#[test]
fn a_dump_that_fails_leaves_the_container_running() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    let (theirs, ours) = UnixStream::pair().unwrap();
    let run = ["run", "--detach", "--bundle", counter.bundle.path.to_str().unwrap(), counter.id()];
    let mut command = lab.command(&run);
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    drop(command);
    eventually(|| counter.count() > 2);
    let pid = pid_of(&lab, counter.id());
    // Its standard input is half of a connection.
    let refused = counter.checkpoint(&lab, &[]).failed();
    assert!(refused.contains("criu failed: type DUMP errno ") && refused.contains("Error ("), "{refused}");
    assert!(refused.contains(&format!("see {}", counter.images.join("dump.log").display())), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
    assert_eq!(lab.status(counter.id()), "running");
    assert_eq!(pid_of(&lab, counter.id()), pid);
    counter.counts_on(counter.count());
    drop(ours);
}

#[test]
fn without_criu_nothing_happens() {
    let lab = lab!();
    let counter = Counter::new(&lab, |_| {});
    counter.start(&lab);
    let without = |args: &[&str]| {
        let mut command = lab.command(args);
        command.env("PATH", "/nonexistent");
        let refused = output_with_path(command).failed();
        assert!(refused.contains("\\\"criu\\\": executable file not found in $PATH: install CRIU"), "{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    };
    let images = counter.images.to_str().unwrap();
    without(&["checkpoint", "--image-path", images, counter.id()]);
    counter.counts_on(counter.count());
    assert!(!counter.images.exists());
    lab.microrun(&["delete", "--force", counter.id()]).ok();
    without(&counter.restore_args(&[]));
    assert!(!lab.path("run").join(counter.id()).exists());
}

/// Runs a command whose PATH is not that of its tools.
fn output_with_path(mut command: Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Output { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

#[test]
fn images_that_are_none_leave_nothing() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    let left = || lab.path("run").join(counter.id()).exists();
    let missing = counter.restore(&lab, &[]).failed();
    assert!(missing.contains("--image-path: read ") && missing.contains("no such file or directory"), "{missing}");
    assert!(!left());

    counter.start(&lab);
    counter.checkpoint(&lab, &[]).ok();
    let inventory = fs::read(counter.images.join("inventory.img")).unwrap();
    let pstree = fs::read(counter.images.join("pstree.img")).unwrap();
    for (name, whole) in [("inventory.img", inventory), ("pstree.img", pstree)] {
        fs::write(counter.images.join(name), &whole[..whole.len() / 2]).unwrap();
        let broken = counter.restore(&lab, &[]).failed();
        assert!(broken.contains("criu failed: type RESTORE errno "), "{broken}");
        assert_eq!(broken.lines().count(), 1, "{broken}");
        assert!(!left());
        fs::write(counter.images.join(name), &whole).unwrap();
    }
    fs::write(counter.images.join("descriptors.json"), "{").unwrap();
    let broken = counter.restore(&lab, &[]).failed();
    assert!(broken.contains("descriptors.json is damaged"), "{broken}");
    fs::write(counter.images.join("descriptors.json"), "[]").unwrap();
    assert!(!left());
    let taken = lab.bundle(|_| {});
    lab.created(&taken);
    let twice = lab
        .microrun(&[
            "restore",
            "--image-path",
            counter.images.to_str().unwrap(),
            "--bundle",
            taken.path.to_str().unwrap(),
            &taken.id,
        ])
        .failed();
    assert!(twice.contains("container with given ID already exists"), "{twice}");
    assert_eq!(lab.status(&taken.id), "created");
}

#[test]
fn only_what_runs_can_be_saved() {
    let lab = lab!();
    let counter = Counter::new(&lab, |_| {});
    let missing = counter.checkpoint(&lab, &[]).failed();
    assert!(missing.contains("container does not exist"), "{missing}");
    lab.created(&counter.bundle);
    let created = counter.checkpoint(&lab, &[]).failed();
    assert!(created.contains("Container cannot be checkpointed in created state"), "{created}");
    lab.microrun(&["kill", counter.id(), "KILL"]).ok();
    eventually(|| lab.status(counter.id()) == "stopped");
    let stopped = counter.checkpoint(&lab, &[]).failed();
    assert!(stopped.contains("Container cannot be checkpointed in stopped state"), "{stopped}");
}

#[test]
fn options_that_are_wrong_are_refused() {
    let lab = lab!();
    let refused = |args: &[&str], why: &str| {
        let said = lab.microrun(args).failed();
        assert!(said.contains(why), "{args:?}: {said}");
    };
    refused(&["checkpoint", "--empty-ns", "pid", "x"], "is not supported");
    refused(&["checkpoint", "--manage-cgroups-mode", "hard", "x"], "soft, full, strict or ignore");
    refused(&["checkpoint", "--page-server", "nowhere", "x"], "ADDRESS:PORT");
    refused(&["checkpoint", "--network-lock", "ebtables", "x"], "iptables, nftables or skip");
    refused(&["checkpoint", "--status-fd", "nine", "x"], "the number of a descriptor");
    // Podman asks this way whether restores into pods are possible.
    refused(&["restore", "--lsm-mount-context"], "flag needs an argument");
    assert!(lab.microrun(&["checkpoint", "--help"]).ok().contains("--leave-running"));
}

#[test]
fn a_root_in_memory_is_refused() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    counter.start_in_silence(&lab, &["--overlay"]);
    let refused = counter.checkpoint(&lab, &[]).failed();
    assert!(refused.contains("is an overlay in memory"), "{refused}");
    lab.microrun(&["delete", "--force", counter.id()]).ok();

    let directory = lab.path("upper");
    fs::create_dir(&directory).unwrap();
    let overlay = format!("--overlay={}", directory.display());
    counter.start_in_silence(&lab, &[&overlay]);
    counter.checkpoint(&lab, &[]).ok();
    counter.restore_in_silence(&lab, &[&overlay]);
    counter.counts_on(counter.count());
}
