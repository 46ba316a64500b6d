//! What Go's decoder, and so runc, accepts and serde does not.

use serde_json::{Map, Value};

/// Maps from names to strings: `null` in one of these is a mistake, elsewhere it is the same as absent.
const STRING_MAPS: [&str; 3] = ["annotations", "sysctl", "unified"];

/// Forgives in all of config.json.
pub(super) fn config(document: &mut Value) {
    drop_nulls(document);
    if let Some(inner) = document.get_mut("process") {
        process(inner);
    }
    if let Some(linux) = document.get_mut("linux") {
        if let Some(inner) = linux.get_mut("resources") {
            resources(inner);
        }
        if let Some(inner) = linux.get_mut("seccomp") {
            seccomp(inner);
        }
    }
}

/// Forgives in a process object.
pub(super) fn process(process: &mut Value) {
    drop_nulls(process);
    let flags = process.get_mut("scheduler").and_then(|scheduler| scheduler.get_mut("flags"));
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        // oci_spec 0.10 knows these flags by names of its own only.
        match flag.as_str() {
            Some("SCHED_FLAG_DL_OVERRUN") => *flag = "SCHED_FLAG_D_L_OVERRUN".into(),
            Some("SCHED_FLAG_RESET_ON_FORK") => *flag = "SCHED_RESET_ON_FORK".into(),
            _ => {}
        }
    }
}

/// Forgives in a resources object.
pub(super) fn resources(resources: &mut Value) {
    drop_nulls(resources);
    // A rule without a type is for all types; runc takes an empty type as none.
    for rule in objects(resources.get_mut("devices")) {
        if rule.get("type").is_some_and(|value| value == "") {
            rule.remove("type");
        }
    }
    // These limits are unsigned in runtime-spec, signed in oci_spec; what lies between is "no limit" to the kernel.
    for page in objects(resources.get_mut("hugepageLimits")) {
        if let Some(limit) = page.get_mut("limit").filter(|limit| limit.as_u64().is_some_and(|n| n > i64::MAX as u64)) {
            *limit = i64::MAX.into();
        }
    }
}

/// Forgives in a seccomp object.
pub(super) fn seccomp(seccomp: &mut Value) {
    drop_nulls(seccomp);
    // Without an action and rules the section asks for nothing.
    if let Some(members) = seccomp.as_object_mut() {
        let says_nothing =
            |value: Option<&Value>| value.is_none_or(|value| value == "" || *value == Value::Array(vec![]));
        if says_nothing(members.get("defaultAction")) && says_nothing(members.get("syscalls")) {
            members.insert("defaultAction".into(), "SCMP_ACT_ALLOW".into());
        }
    }
    for syscall in objects(seccomp.get_mut("syscalls")) {
        for argument in objects(syscall.get_mut("args")) {
            argument.entry("index").or_insert(0.into());
            argument.entry("value").or_insert(0.into());
        }
    }
}

/// The objects in `list`, if it is an array.
fn objects(list: Option<&mut Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    list.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Takes every member that is `null` out of every object. The parser has bounded the depth.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            for (name, member) in members {
                if !STRING_MAPS.contains(&name.as_str()) {
                    drop_nulls(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
