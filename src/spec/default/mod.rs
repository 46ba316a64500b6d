//! The configurations that `spec` writes.

/// What `runc spec` of runc 1.5 writes on a cgroup v2 host, byte for byte.
const RUNC: &str = include_str!("runc.json");
/// What `runc spec --rootless` writes there, for user and group 0.
const ROOTLESS: &str = include_str!("rootless.json");
/// See [`action`].
const ACTION: &str = include_str!("action.json");
/// The entry that is only there on a cgroup v2 host.
const CGROUP_NAMESPACE: &str = ",\n\t\t\t{\n\t\t\t\t\"type\": \"cgroup\"\n\t\t\t}";

/// runc's default configuration. runc leaves the cgroup namespace out where the hierarchy at /sys/fs/cgroup is not
/// `unified`.
pub fn runc(unified: bool) -> String {
    for_host(RUNC, unified)
}

/// runc's default configuration for a user without the rights of root, who becomes root inside.
pub fn rootless(unified: bool, uid: u32, gid: u32) -> String {
    // The first mapping is of users, the second of groups.
    let [before, between, after] = split(ROOTLESS, "\"hostID\": 0");
    for_host(&format!("{before}\"hostID\": {uid}{between}\"hostID\": {gid}{after}"), unified)
}

/// The leanest safe configuration for one static binary, at the path `program` in the root file system.
///
/// - All of its namespaces are new; the root file system and /dev, the only mount, are read-only. What is not there
///   (/proc, /sys) needs no masking: who adds one should take the masked and read-only paths of [`runc`]'s too. runc
///   itself cannot start it without a /proc.
/// - It runs as nobody, without any capability, and cannot gain one.
/// - It has 128 MiB of memory, one CPU, 64 tasks, no core dumps, and no devices but the default ones.
/// - It may make the system calls that a static program does: read and write, memory, time, signals, waiting, and
///   threads, but no other process, socket or namespace. Anything else returns ENOSYS, which a C library takes as a
///   kernel that is older.
pub fn action(program: &str) -> String {
    ACTION.replace("\"PROGRAM\"", &serde_json::Value::from(program).to_string())
}

fn for_host(text: &str, unified: bool) -> String {
    if unified { text.to_owned() } else { text.replace(CGROUP_NAMESPACE, "") }
}

/// The text around the first two places of `separator`.
fn split<'a>(text: &'a str, separator: &str) -> [&'a str; 3] {
    let mut parts = text.splitn(3, separator);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

#[cfg(test)]
mod tests;
