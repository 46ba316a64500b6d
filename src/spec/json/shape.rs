//! Objects that are written as arrays.
//!
//! serde takes an array for a struct, with the members in the order of their declaration; runtime-spec does not.

use crate::spec::load::places;
use serde_json::Value;

/// Members that are objects.
const OBJECTS: [&str; 20] = [
    "blockIO",
    "capabilities",
    "consoleSize",
    "cpu",
    "execCPUAffinity",
    "hooks",
    "intelRdt",
    "ioPriority",
    "linux",
    "memory",
    "memoryPolicy",
    "network",
    "personality",
    "pids",
    "process",
    "resources",
    "root",
    "scheduler",
    "seccomp",
    "user",
];

/// Members that are objects from a name of the user's to an object.
const MAPS: [&str; 3] = ["netDevices", "rdma", "timeOffsets"];

/// Members that are arrays of objects; `args` are that in seccomp.
const LISTS: [&str; 21] = [
    "args",
    "createContainer",
    "createRuntime",
    "devices",
    "gidMappings",
    "hugepageLimits",
    "mounts",
    "namespaces",
    "poststart",
    "poststop",
    "prestart",
    "priorities",
    "rlimits",
    "startContainer",
    "syscalls",
    "throttleReadBpsDevice",
    "throttleReadIOPSDevice",
    "throttleWriteBpsDevice",
    "throttleWriteIOPSDevice",
    "uidMappings",
    "weightDevice",
];

/// Members that are arrays of strings or numbers.
const SIMPLE: [&str; 14] = [
    "additionalGids",
    "ambient",
    "architectures",
    "bounding",
    "effective",
    "env",
    "flags",
    "inheritable",
    "maskedPaths",
    "names",
    "options",
    "permitted",
    "readonlyPaths",
    "schemata",
];

/// Whether `text`, which is JSON, may have an array where it should have an object: a glance at what stands before each
/// bracket, which every start can afford. A bracket in a string may look like one.
pub(super) fn is_doubtful(text: &str) -> bool {
    places(text.as_bytes(), b"[", b'[').any(|at| {
        let before = text.get(..at).unwrap_or_default().trim_ascii_end();
        match before.strip_suffix(':') {
            Some(name) => !is_list(name.trim_ascii_end()),
            None => before.is_empty() || before.ends_with(['[', ',']),
        }
    })
}

/// Whether a text that ends in a member's name, in quotes, names an array.
fn is_list(text: &str) -> bool {
    let name = text.strip_suffix('"').and_then(|text| text.rsplit('"').next()).unwrap_or_default();
    LISTS.contains(&name) || SIMPLE.contains(&name)
}

/// The path of the first array below `document` that should be an object.
pub(super) fn misplaced_array(document: &Value) -> Option<String> {
    if document.is_array() { Some(String::new()) } else { in_members(document) }
}

fn in_members(object: &Value) -> Option<String> {
    object.as_object()?.iter().find_map(|(name, member)| {
        let below = if OBJECTS.contains(&name.as_str()) {
            misplaced_array(member)
        } else if MAPS.contains(&name.as_str()) {
            member.as_object()?.iter().find_map(|(key, item)| Some(format!(".{key}{}", misplaced_array(item)?)))
        } else if LISTS.contains(&name.as_str()) {
            let items = member.as_array()?.iter().enumerate();
            items.into_iter().find_map(|(index, item)| Some(format!("[{index}]{}", misplaced_array(item)?)))
        } else {
            None
        };
        below.map(|below| format!(".{name}{below}"))
    })
}
