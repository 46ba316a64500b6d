//! What a container may do.

use super::Docker;
use crate::cases;
use crate::process::output;
use crate::runner::Case;
use serde_json::json;
use std::fs;

pub fn cases() -> Vec<Case<Docker>> {
    cases![
        capabilities,
        privileged,
        default_seccomp,
        seccomp_unconfined,
        seccomp_profile,
        no_new_privileges,
        masked_paths,
        devices,
        cgroup_namespace,
    ]
}

/// The effective capabilities in a container.
fn effective(engine: &Docker, options: &[&str]) -> u64 {
    let text = engine.run(options, &["grep", "CapEff", "/proc/self/status"]).ok();
    u64::from_str_radix(text.split_whitespace().last().unwrap(), 16).unwrap()
}

pub fn capabilities(engine: &Docker) {
    const CHOWN: u64 = 1;
    const KILL: u64 = 1 << 5;
    const NET_ADMIN: u64 = 1 << 12;
    let default = effective(engine, &[]);
    assert_eq!(default & (CHOWN | KILL | NET_ADMIN), CHOWN | KILL);
    assert_eq!(effective(engine, &["--cap-drop", "ALL"]), 0);
    assert_eq!(effective(engine, &["--cap-drop", "ALL", "--cap-add", "KILL"]), KILL);
    assert_eq!(effective(engine, &["--cap-add", "NET_ADMIN"]), default | NET_ADMIN);
    assert_eq!(engine.shell(&["--cap-drop", "CHOWN"], "chown 1 /tmp 2>/dev/null || echo no").ok(), "no");
}

pub fn privileged(engine: &Docker) {
    let script = "mount -t tmpfs t /mnt && ls /dev/kmsg && echo x >/proc/sys/kernel/domainname && grep Seccomp: /proc/self/status";
    let output = engine.shell(&["--privileged"], script).ok();
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["/dev/kmsg", "Seccomp:", "0"]);
}

pub fn default_seccomp(engine: &Docker) {
    assert!(engine.run(&[], &["grep", "Seccomp:", "/proc/self/status"]).ok().ends_with('2'));
    // With the capability, a mount is allowed by the profile that Docker generates; without, unshare is not.
    assert_eq!(engine.shell(&["--cap-add", "SYS_ADMIN"], "mount -t tmpfs t /mnt && echo yes").ok(), "yes");
    assert_eq!(engine.shell(&[], "mount -t tmpfs t /mnt 2>/dev/null || echo no").ok(), "no");
}

pub fn seccomp_unconfined(engine: &Docker) {
    let options = ["--security-opt", "seccomp=unconfined"];
    assert!(engine.run(&options, &["grep", "Seccomp:", "/proc/self/status"]).ok().ends_with('0'));
}

pub fn seccomp_profile(engine: &Docker) {
    let profile = engine.directory("seccomp").join("profile.json");
    let text = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]
    });
    fs::write(&profile, text.to_string()).unwrap();
    let option = format!("seccomp={}", profile.display());
    let output = engine.shell(&["--security-opt", &option], "mkdir /tmp/x");
    assert!(output.stderr.to_lowercase().contains("not supported"), "{output:?}");
}

pub fn no_new_privileges(engine: &Docker) {
    let grep = ["grep", "NoNewPrivs", "/proc/self/status"];
    assert!(engine.run(&["--security-opt", "no-new-privileges"], &grep).ok().ends_with('1'));
    assert!(engine.run(&[], &grep).ok().ends_with('0'));
}

pub fn masked_paths(engine: &Docker) {
    let script = "wc -c </proc/keys; echo 1 2>/dev/null >/proc/sys/kernel/sysrq || echo no";
    assert_eq!(engine.shell(&[], script).ok(), "0\nno");
    let output = engine.shell(&["--security-opt", "systempaths=unconfined"], "grep -c /proc/sys /proc/mounts");
    assert_eq!(output.stdout, "0");
}

pub fn devices(engine: &Docker) {
    let script = "mknod /tmp/d c 10 229 && (: </tmp/d) 2>/dev/null && echo yes || echo no";
    assert_eq!(engine.shell(&[], script).ok(), "no");
    assert_eq!(engine.shell(&["--device", "/dev/zero:/dev/other"], "head -c 3 /dev/other | wc -c").ok(), "3");
    let rule = engine.run_command(
        &["--device-cgroup-rule", "c 1:8 rwm"],
        &["sh", "-c", "mknod /tmp/d c 1 8; head -c 3 /tmp/d | wc -c"],
    );
    assert_eq!(output(rule, "").ok(), "3");
}

pub fn cgroup_namespace(engine: &Docker) {
    let read = ["readlink", "/proc/self/ns/cgroup"];
    let own = fs::read_link("/proc/self/ns/cgroup").unwrap();
    assert_eq!(engine.run(&["--cgroupns=host"], &read).ok(), own.to_str().unwrap());
    assert_ne!(engine.run(&["--cgroupns=private"], &read).ok(), own.to_str().unwrap());
}
