//! The stdio of a container, by names that outlive it: `checkpoint` tells CRIU what of it comes from outside, and
//! `restore` what is to take its place.
//!
//! They are noted at the start, as in runc: a shell may have its own somewhere else at the moment when it is saved.

use super::{host, idmap};
use crate::error::{Doing, Result};
use crate::spec;
use crate::sys::fs as sys_fs;
use crate::sys::fs::Identity;
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec, User};
use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

/// The major number of /dev/null and its like (Documentation/admin-guide/devices.txt).
const MEMORY_DEVICES: u32 = 1;
/// The major numbers of pseudoterminals.
const TERMINALS: RangeInclusive<u32> = 136..=143;

/// The names of descriptors; empty for what CRIU has no name for.
pub(super) fn names(descriptors: [RawFd; 3]) -> Vec<String> {
    descriptors.map(|fd| sys_fs::identity(fd).map_or_else(|_| String::new(), |file| name(&file))).into()
}

/// CRIU's name (criu(8), --external and --inherit-fd).
fn name(file: &Identity) -> String {
    let Identity { inode, device, .. } = file;
    let major = libc::major(file.special);
    match (file.mode & libc::S_IFMT, file.mount) {
        (libc::S_IFIFO, _) => format!("pipe:[{inode}]"),
        (libc::S_IFREG, Some(mount)) => format!("file[{mount:x}:{inode:x}]"),
        (libc::S_IFCHR, Some(mount)) if major == MEMORY_DEVICES => format!("file[{mount:x}:{inode:x}]"),
        (libc::S_IFCHR, _) if TERMINALS.contains(&major) => format!("tty[{:x}:{device:x}]", file.special),
        _ => String::new(),
    }
}

/// Gives `stdio`, but for devices, to `user` of the container of `spec`, if ids are mapped there: in its user namespace nobody may take
/// it from an owner who is not mapped. What cannot be given stays as it is. A device is the host's: its new owner could take it away from
/// everybody else.
pub(super) fn give(stdio: [RawFd; 3], user: &User, spec: &Spec) {
    let (uid, gid) = if let Some(joined) = spec::joins_namespace(spec, LinuxNamespaceType::User) {
        // It has mappings of its own, whatever config.json says.
        let Some(process) = host::process_of(joined) else { return };
        let by = |map: &str, id| idmap::of_host_by(&process.join(map), id);
        (by("uid_map", user.uid()), by("gid_map", user.gid()))
    } else {
        let linux = spec.linux().as_ref();
        let uids = linux.and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default();
        let gids = linux.and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default();
        if uids.is_empty() {
            return;
        }
        (idmap::of_host(user.uid(), uids), idmap::of_host(user.gid(), gids))
    };
    let (Some(uid), Some(gid)) = (uid, gid) else { return };
    for fd in stdio {
        if sys_fs::stat(fd).is_ok_and(|stat| !sys_fs::is_device(&stat)) {
            let _ = sys_fs::chown(fd, c"", uid, gid);
        }
    }
}

/// As [`give`], of what this process has and hands on to a container in the foreground without a terminal.
pub(super) fn give_own(process: &Process, spec: &Spec) {
    if !process.terminal().unwrap_or(false) {
        give([0, 1, 2], process.user(), spec);
    }
}

/// The names of the stdio that the process `init` has now, where it is from outside.
///
/// # Errors
/// Its mounts cannot be read.
pub(super) fn of_process(init: i32) -> Result<Vec<String>> {
    let path = format!("/proc/{init}/mountinfo");
    let text = fs::read_to_string(&path).doing(|| format!("read {path}"))?;
    let own: HashSet<u64> = text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    let of = |number: i32| {
        let path = format!("/proc/{init}/fd/{number}");
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).ok()?;
        let file = sys_fs::identity(file.as_raw_fd()).ok()?;
        Some(name(&file)).filter(|_| file.mount.is_none_or(|mount| !own.contains(&mount)))
    };
    Ok((0..=2).map(|number| of(number).unwrap_or_default()).collect())
}

/// Whether CRIU has to be told that what is called so is not in the container; a terminal may only be if `terminals`.
pub(super) fn is_external(name: &str, terminals: bool) -> bool {
    name.starts_with("file[") || terminals && name.starts_with("tty[")
}

/// Whether something else may take the place of what is called so.
pub(super) fn is_replaced(name: &str) -> bool {
    ["pipe:", "file[", "tty["].iter().any(|kind| name.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::pipe;
    use std::fs::File;

    #[test]
    fn names_are_criu_s() {
        let (reader, _writer) = pipe().unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", reader.as_raw_fd())).unwrap();
        let null = File::open("/dev/null").unwrap();
        let directory = File::open("/").unwrap();
        let found = names([reader.as_raw_fd(), null.as_raw_fd(), directory.as_raw_fd()]);
        assert_eq!(found[0], link.to_str().unwrap());
        assert!(is_external(&found[1], false), "{}", found[1]);
        assert_eq!(found[2], "");
        assert!(is_external("tty[8800:1a]", true) && !is_external("tty[8800:1a]", false));
        assert!(!is_external("pipe:[1]", true) && is_replaced("pipe:[1]") && !is_replaced("socket:[1]"));
    }
}
