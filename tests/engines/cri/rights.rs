//! Security contexts.

use super::{Cri, SLEEP};
use crate::cases;
use crate::runner::Case;
use serde_json::{Value, json};
use std::fs;

pub fn cases() -> Vec<Case<Cri>> {
    cases![
        seccomp_runtime_default,
        seccomp_unconfined,
        seccomp_localhost,
        seccomp_of_the_pod,
        capabilities_dropped,
        capability_added,
        privileged,
        read_only,
        run_as_user,
        run_as_user_by_name,
        supplemental_groups,
        no_new_privileges,
        masked_and_read_only_paths,
    ]
}

/// What `script` says with a security context that `change` has changed.
#[track_caller]
fn said(cri: &Cri, script: &str, change: impl FnOnce(&mut Value)) -> String {
    cri.said(script, |config| change(&mut config["linux"]["security_context"]))
}

/// A line of /proc/self/status.
#[track_caller]
fn status(cri: &Cri, key: &str, change: impl FnOnce(&mut Value)) -> String {
    said(cri, &format!("grep ^{key}: /proc/self/status | cut -f 2"), change)
}

fn seccomp_runtime_default(cri: &Cri) {
    let profile = |context: &mut Value| context["seccomp"] = json!({"profile_type": 0});
    assert_eq!(status(cri, "Seccomp", profile), "2");
    assert!(said(cri, "(mount -t tmpfs t /mnt) 2>&1 || true", profile).contains("denied"));
}

fn seccomp_unconfined(cri: &Cri) {
    assert_eq!(status(cri, "Seccomp", |context| context["seccomp"] = json!({"profile_type": 1})), "0");
}

fn seccomp_localhost(cri: &Cri) {
    let file = cri.dir.join("files/profile.json");
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
    });
    fs::write(&file, profile.to_string()).unwrap();
    let said = said(cri, "mkdir /tmp/x 2>&1 || true", |context| {
        context["seccomp"] = json!({"profile_type": 2, "localhost_ref": file});
    });
    assert!(said.contains("Function not implemented"), "{said}");
}

fn seccomp_of_the_pod(cri: &Cri) {
    let pod = cri.host_pod(|config| config["linux"]["security_context"]["seccomp"] = json!({"profile_type": 0}));
    let id = cri.started(&pod, SLEEP, |config| {
        config["linux"]["security_context"]["seccomp"] = json!({"profile_type": 0});
    });
    assert_eq!(cri.exec(&id, "grep ^Seccomp: /proc/self/status | cut -f 2").ok(), "2");
}

fn capabilities_dropped(cri: &Cri) {
    let none = |context: &mut Value| context["capabilities"] = json!({"drop_capabilities": ["ALL"]});
    assert_eq!(status(cri, "CapBnd", none), "0000000000000000");
    let one = |context: &mut Value| {
        context["capabilities"] = json!({"drop_capabilities": ["ALL"], "add_capabilities": ["CHOWN"]});
    };
    assert_eq!(status(cri, "CapEff", one), "0000000000000001");
}

fn capability_added(cri: &Cri) {
    let text = status(cri, "CapEff", |context| context["capabilities"] = json!({"add_capabilities": ["NET_ADMIN"]}));
    assert_ne!(u64::from_str_radix(&text, 16).unwrap() & 1 << 12, 0, "{text}");
}

fn privileged(cri: &Cri) {
    let pod = cri.host_pod(|config| config["linux"]["security_context"]["privileged"] = json!(true));
    let id = cri.started(&pod, SLEEP, |config| config["linux"]["security_context"]["privileged"] = json!(true));
    let said = cri.exec(
        &id,
        "grep ^Seccomp: /proc/self/status | cut -f 2; grep -c ' /sys sysfs rw' /proc/mounts; ls /dev | grep -cx full",
    );
    assert_eq!(said.ok(), "0\n1\n1");
}

fn read_only(cri: &Cri) {
    let text = said(cri, "(touch /file) 2>&1 || true", |context| context["readonly_rootfs"] = json!(true));
    assert!(text.contains("Read-only file system"), "{text}");
}

fn run_as_user(cri: &Cri) {
    let text = said(cri, "id -u; id -g", |context| {
        context["run_as_user"] = json!({"value": 1234});
        context["run_as_group"] = json!({"value": 55});
    });
    assert_eq!(text, "1234\n55");
}

fn run_as_user_by_name(cri: &Cri) {
    let text = said(cri, "id -u; id -G", |context| context["run_as_username"] = json!("user"));
    assert_eq!(text, "1000\n1000 1001");
}

fn supplemental_groups(cri: &Cri) {
    let text = said(cri, "id -G", |context| {
        context["run_as_user"] = json!({"value": 1234});
        context["supplemental_groups"] = json!([77, 78]);
    });
    assert!(text.ends_with("77 78"), "{text}");
}

fn no_new_privileges(cri: &Cri) {
    assert_eq!(status(cri, "NoNewPrivs", |context| context["no_new_privs"] = json!(true)), "1");
}

fn masked_and_read_only_paths(cri: &Cri) {
    let script = "wc -c </etc/passwd; ls /root | wc -l; (echo x >/tmp/file) 2>&1 || true";
    let text = said(cri, script, |context| {
        context["masked_paths"] = json!(["/etc/passwd", "/root"]);
        context["readonly_paths"] = json!(["/tmp"]);
    });
    assert!(text.starts_with("0\n0\n") && text.contains("Read-only file system"), "{text}");
}
