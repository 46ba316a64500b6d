//! What a container may not do.

use super::Podman;
use serde_json::json;

/// A line of /proc/self/status in a container.
#[track_caller]
fn status(podman: &Podman, options: &[&str], key: &str) -> String {
    let text = podman.run(options, &["cat", "/proc/self/status"]).ok();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{key} is missing: {text}")).trim().to_owned()
}

pub fn read_only(podman: &Podman) {
    let said =
        podman.shell(&["--read-only"], "touch /file 2>&1; touch /tmp/file && echo tmp; touch /run/file && echo run");
    assert!(said.contains("Read-only file system") && said.ends_with("tmp\nrun"), "{said}");
    let output = podman.run(&["--read-only", "--read-only-tmpfs=false"], &["touch", "/tmp/file"]);
    assert_ne!(output.code, 0, "{output:#?}");
}

pub fn capabilities_dropped(podman: &Podman) {
    assert_eq!(status(podman, &["--cap-drop", "all"], "CapBnd"), "0000000000000000");
    let one = status(podman, &["--cap-drop", "all", "--cap-add", "chown"], "CapEff");
    assert_eq!(one, "0000000000000001");
    let output = podman.run(&["--cap-drop", "chown"], &["chown", "1", "/tmp"]);
    assert_ne!(output.code, 0, "{output:#?}");
}

pub fn capability_added(podman: &Podman) {
    let bits = u64::from_str_radix(&status(podman, &["--cap-add", "net_admin"], "CapEff"), 16).unwrap();
    assert_ne!(bits & 1 << 12, 0, "{bits:x}");
}

/// A user without rights has none, and ambient ones if they were asked for.
pub fn capabilities_of_user(podman: &Podman) {
    assert_eq!(status(podman, &["--user", "user"], "CapEff"), "0000000000000000");
    assert_eq!(status(podman, &["--user", "user"], "CapInh"), "0000000000000000");
    let options = ["--user", "user", "--cap-add", "net_bind_service"];
    assert_eq!(status(podman, &options, "CapEff"), "0000000000000400");
    assert_eq!(status(podman, &options, "CapAmb"), "0000000000000400");
}

pub fn no_new_privileges(podman: &Podman) {
    assert_eq!(status(podman, &["--security-opt", "no-new-privileges"], "NoNewPrivs"), "1");
}

pub fn seccomp_default(podman: &Podman) {
    assert_eq!(status(podman, &[], "Seccomp"), "2");
    let output = podman.run(&[], &["sh", "-c", "mount -t tmpfs t /mnt"]);
    assert_ne!(output.code, 0, "{output:#?}");
}

pub fn seccomp_unconfined(podman: &Podman) {
    assert_eq!(status(podman, &["--security-opt", "seccomp=unconfined"], "Seccomp"), "0");
}

pub fn seccomp_profile(podman: &Podman) {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
    });
    let file = podman.file("profile.json", &profile.to_string());
    let said = podman.shell(&["--security-opt", &format!("seccomp={file}")], "mkdir /tmp/x 2>&1 || true");
    assert!(said.contains("Function not implemented"), "{said}");
}

pub fn masked_paths(podman: &Podman) {
    assert_eq!(
        podman.shell(
            &[],
            "cat /proc/keys /proc/timer_list; ls /proc/scsi /sys/firmware 2>&1 | grep -c '^[a-z]*$' | wc -l"
        ),
        "1"
    );
    let said = podman.shell(&[], "(echo name >/proc/sys/kernel/hostname) 2>&1 || true");
    assert!(said.contains("Read-only file system"), "{said}");
    let unmasked = ["--security-opt", "unmask=/proc/timer_list"];
    assert_eq!(podman.shell(&unmasked, "stat -c %s,%F /proc/timer_list"), "0,regular empty file");
}

pub fn privileged(podman: &Podman) {
    assert_eq!(status(podman, &["--privileged"], "Seccomp"), "0");
    // A device of the host's, and a writable /sys.
    let said =
        podman.shell(&["--privileged"], "ls /dev | grep -xc full; grep -c ' /proc/sys .*ro' /proc/mounts || true");
    assert_eq!(said, "1\n0");
}
