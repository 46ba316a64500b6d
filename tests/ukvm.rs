//! The benchmark's unikernel row: dist/ukvm, as `make dist/ukvm` builds it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod common;

use common::{Output, output};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Command;

fn ukvm() -> Result<PathBuf, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/ukvm");
    if !cfg!(target_arch = "x86_64") {
        return Err("the unikernel is for x86-64".into());
    }
    path.exists().then_some(path).ok_or_else(|| "there is no dist/ukvm (make dist/ukvm)".into())
}

/// What it says in a mount namespace where `script` has changed /dev.
fn with_devices(script: &str) -> Result<Output, String> {
    let path = ukvm()?;
    if !nix::unistd::geteuid().is_root() {
        return Err("another /dev takes root".into());
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &format!("mount -t tmpfs none /dev; {script}")]).arg(path);
    Ok(output(command))
}

#[test]
fn the_guest_says_hello() {
    let path = match ukvm() {
        Ok(path) => path,
        Err(why) => skip!("{why}"),
    };
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        skip!("/dev/kvm: {error}");
    }
    assert_eq!(output(Command::new(&path)).ok(), "Hello");

    let mut full = Command::new("sh");
    full.args(["-c", "exec \"$0\" >/dev/full"]).arg(&path);
    let words = output(full).failed();
    assert!(words.starts_with("ukvm: standard output does not take the guest's line: No space left"), "{words}");
}

#[test]
fn a_machine_without_kvm() {
    match with_devices("exec \"$0\"") {
        Ok(said) => assert!(said.failed().starts_with("ukvm: there is no /dev/kvm: load kvm_intel or kvm_amd")),
        Err(why) => skip!("{why}"),
    }
}

#[test]
fn a_user_who_may_not() {
    let other = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "test", "-x"];
    let can =
        ukvm().is_ok_and(|path| Command::new("setpriv").args(other).arg(path).status().is_ok_and(|it| it.success()));
    if !Path::new("/dev/kvm").exists() {
        skip!("there is no /dev/kvm, nor a driver behind a node of that number");
    }
    if !can {
        skip!("setpriv(1) cannot run dist/ukvm as another user here");
    }
    let script = "mknod -m 600 /dev/kvm c 10 232; exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\"";
    match with_devices(script) {
        Ok(said) => assert!(said.failed().starts_with("ukvm: no permission to open /dev/kvm: be root")),
        Err(why) => skip!("{why}"),
    }
}

#[test]
fn a_kvm_that_refuses() {
    match with_devices("mknod /dev/kvm c 1 3; exec \"$0\"") {
        Ok(said) => assert!(said.failed().starts_with("ukvm: KVM refuses KVM_CREATE_VM: ")),
        Err(why) => skip!("{why}"),
    }
}

#[test]
fn a_word_too_many() {
    match ukvm() {
        Ok(path) => {
            let mut command = Command::new(path);
            command.arg("guest.bin");
            assert_eq!(output(command).failed(), "ukvm: takes no arguments");
        }
        Err(why) => skip!("{why}"),
    }
}
