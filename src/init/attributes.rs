//! Attributes of mounts, with or without mount_setattr(2) (Linux 5.12).
//!
//! Without it there is mount(2), which takes a path, knows one mount at a time, and only mounts that are attached. The
//! path is that of the descriptor below a procfs; what is detached gets its attributes as soon as it is
//! attached, when nobody but init is there yet.

use super::mounts::below;
use crate::sys::fs::{self, Sys};
use crate::sys::mount::{self, Attributes};
use nix::errno::Errno;
use std::ffi::CStr;
use std::io::Write;
use std::os::fd::RawFd;

/// The bits of an attribute set that say how access times are kept (mount_setattr(2), MOUNT_ATTR__ATIME).
const ACCESS_TIMES: u64 = 0x70;

/// `MOUNT_ATTR_*`, what statfs(2) calls it (linux/statfs.h, `ST_*`), and what mount(2) does.
const NAMES: [(u64, u64, u64); 6] = [
    (libc::MOUNT_ATTR_RDONLY, 0x1, libc::MS_RDONLY),
    (libc::MOUNT_ATTR_NOSUID, 0x2, libc::MS_NOSUID),
    (libc::MOUNT_ATTR_NODEV, 0x4, libc::MS_NODEV),
    (libc::MOUNT_ATTR_NOEXEC, 0x8, libc::MS_NOEXEC),
    (libc::MOUNT_ATTR_NODIRATIME, 0x800, libc::MS_NODIRATIME),
    (libc::MOUNT_ATTR_NOSYMFOLLOW, 0x2000, 256),
];

/// Sets attributes.
#[derive(Debug)]
pub struct Setter {
    /// The directory of this process's descriptors, once it is needed; -1 before.
    descriptors: RawFd,
    /// Detached mounts, what each is owed, and which of that is not cleared if it is locked. There are two at most: one that is attached
    /// next, and the stand-in for masked files, which stays if there is none.
    owed: [Option<(RawFd, Attributes, u64)>; 2],
}

impl Setter {
    /// Without any need for mount(2) so far.
    pub const fn new() -> Self {
        Self { descriptors: -1, owed: [None; 2] }
    }

    /// Changes the mount that `mount` is the root of; if `recursive`, all below it too.
    ///
    /// # Errors
    /// What mount_setattr(2) or mount(2) answers; ENOSYS for what only the former can do.
    pub fn set(&mut self, mount: RawFd, recursive: bool, attributes: &Attributes) -> Sys {
        match mount::set_attributes(mount, c"", below(recursive), attributes) {
            Err(Errno::ENOSYS) => self.set_by_mount(mount, recursive, attributes),
            result => result,
        }
    }

    /// Changes how the mount propagates that `place` is the root of.
    ///
    /// # Errors
    /// As [`Setter::set`]; EINVAL where it is the root of none; without mount_setattr(2), of one that is attached nowhere, too.
    pub fn propagate(&mut self, place: RawFd, propagation: u64) -> Sys {
        let attributes = Attributes { propagation, ..Attributes::default() };
        match mount::set_attributes(place, c"", 0, &attributes) {
            Err(Errno::ENOSYS) => self.mount(place, propagation),
            result => result,
        }
    }

    /// As [`Setter::set`], for one mount, from which the attributes `implied` are taken, too, unless its user namespace locks any.
    ///
    /// # Errors
    /// As there; EPERM also where `attributes` contradict what the mount keeps then.
    pub fn set_of_bind(&mut self, mount: RawFd, attributes: &Attributes, implied: u64) -> Sys {
        let attributes = Attributes { clear: attributes.clear | implied, ..*attributes };
        let result = self.set(mount, false, &attributes);
        if let Some((_, _, of_owed)) = self.owed.iter_mut().flatten().find(|(owed, ..)| *owed == mount) {
            *of_owed = implied;
        }
        self.unless_locked(mount, &attributes, implied, result)
    }

    /// Leaves `implied` as it is, where `result` says that this is why `attributes` were refused.
    fn unless_locked(&mut self, mount: RawFd, attributes: &Attributes, implied: u64, result: Sys) -> Sys {
        match result {
            Err(Errno::EPERM) if implied != 0 => {
                self.set_locked(mount, &Attributes { clear: attributes.clear & !implied, ..*attributes })
            }
            result => result,
        }
    }

    /// As [`super::mounts::set_locked`], for one mount.
    ///
    /// # Errors
    /// As there, and as [`Setter::set`].
    pub fn set_locked(&mut self, mount: RawFd, attributes: &Attributes) -> Sys {
        const LOCKED: u64 = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        const ACCESS_TIMES: u64 = libc::MS_NOATIME | libc::MS_NODIRATIME | libc::MS_RELATIME | libc::MS_STRICTATIME;
        match super::mounts::set_locked(mount, attributes) {
            Err(Errno::ENOSYS) => {
                let present = fs::mount_flags(mount)?;
                let (before, after) = (flags_of(present, 0, 0), flags_of(present, attributes.set, attributes.clear));
                let changed = before & !after & LOCKED | (before ^ after) & ACCESS_TIMES;
                if changed == 0 { self.set_by_mount(mount, false, attributes) } else { Err(Errno::EPERM) }
            }
            result => result,
        }
    }

    fn set_by_mount(&mut self, mount: RawFd, recursive: bool, attributes: &Attributes) -> Sys {
        let Attributes { set, clear, .. } = *attributes;
        if recursive && set | clear != 0 || set & libc::MOUNT_ATTR_IDMAP != 0 {
            return Err(Errno::ENOSYS);
        }
        let result = self.change(mount, recursive, attributes);
        match self.owed.iter_mut().find(|owed| owed.is_none()) {
            // mount(2) does not reach mounts that are detached.
            Some(owed) if result == Err(Errno::EINVAL) && !recursive => {
                *owed = Some((mount, *attributes, 0));
                Ok(())
            }
            _ => result,
        }
    }

    /// One call of mount(2) for the propagation, one for the rest, as far as they are wanted.
    fn change(&mut self, mount: RawFd, recursive: bool, attributes: &Attributes) -> Sys {
        let Attributes { set, clear, propagation, .. } = *attributes;
        if propagation != 0 {
            self.mount(mount, propagation | if recursive { libc::MS_REC } else { 0 })?;
        }
        if set | clear == 0 { Ok(()) } else { self.mount(mount, remount_flags(mount, set, clear)?) }
    }

    /// Attaches `mount` at the place that `target` holds, and gives it what it is owed.
    ///
    /// # Errors
    /// What move_mount(2) or mount(2) answers.
    pub fn attach(&mut self, mount: RawFd, target: RawFd) -> Sys {
        mount::attach(mount, target)?;
        let is_mounts = |owed: &&mut Option<(RawFd, Attributes, u64)>| owed.is_some_and(|(owed, ..)| owed == mount);
        match self.owed.iter_mut().find(is_mounts).and_then(Option::take) {
            Some((_, attributes, implied)) => {
                let result = self.change(mount, false, &attributes);
                self.unless_locked(mount, &attributes, implied, result)
            }
            None => Ok(()),
        }
    }

    /// mount(2) without source, type and data, on the root of a mount.
    fn mount(&mut self, mount: RawFd, flags: u64) -> Sys {
        if self.descriptors < 0 {
            self.descriptors = own_descriptors()?;
        }
        let mut path = [0u8; 16];
        write!(path.as_mut_slice(), "{mount}\0").map_err(|_| Errno::ENAMETOOLONG)?;
        let path = CStr::from_bytes_until_nul(&path).map_err(|_| Errno::EINVAL)?;
        fs::fchdir(self.descriptors)?;
        let result = mount::mount(c"none", path, flags);
        // No step depends on where the process stands until it enters the container's working directory.
        fs::chdir(c"/").and(result)
    }
}

/// The directory self/fd of a procfs of our own. Nothing is mounted on the way to it.
fn own_descriptors() -> Sys<RawFd> {
    // It stays open: a mount that is attached nowhere ends with its last descriptor.
    let procfs = super::mounts::own_procfs()?;
    let rules = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_MAGICLINKS;
    fs::open_resolved(procfs, c"self/fd", libc::O_PATH | libc::O_DIRECTORY, 0, rules)
}

/// The flags for mount(2) that change what is to be changed and say again what is not.
fn remount_flags(mount: RawFd, set: u64, clear: u64) -> Sys<u64> {
    Ok(libc::MS_REMOUNT | libc::MS_BIND | flags_of(fs::mount_flags(mount)?, set, clear))
}

/// How a mount with these `ST_*` flags keeps access times.
fn access_times_of(present: u64) -> u64 {
    match (present & 0x400, present & 0x1000) {
        (0, 0) => libc::MOUNT_ATTR_STRICTATIME,
        // ST_RELATIME
        (0, _) => libc::MOUNT_ATTR_RELATIME,
        // ST_NOATIME
        _ => libc::MOUNT_ATTR_NOATIME,
    }
}

/// What mount(2) calls the attributes of a new mount.
pub fn flags_of_new(attributes: u64) -> u64 {
    flags_of(0, attributes, ACCESS_TIMES)
}

fn flags_of(present: u64, set: u64, clear: u64) -> u64 {
    let flags = NAMES.iter().fold(0, |flags, (attribute, status, flag)| {
        let on = set & attribute != 0 || present & status != 0 && clear & attribute == 0;
        if on { flags | flag } else { flags }
    });
    let kept = if (set | clear) & ACCESS_TIMES != 0 { set & ACCESS_TIMES } else { access_times_of(present) };
    let access_times = match kept {
        libc::MOUNT_ATTR_NOATIME => libc::MS_NOATIME,
        libc::MOUNT_ATTR_STRICTATIME => libc::MS_STRICTATIME,
        _ => libc::MS_RELATIME,
    };
    flags | access_times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let present = 0x2 | 0x8 | 0x1000;
        let (read_only, no_exec) = (libc::MOUNT_ATTR_RDONLY, libc::MOUNT_ATTR_NOEXEC);
        let flags = flags_of(present, read_only, no_exec);
        assert_eq!(flags, libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_RELATIME);
        let flags = flags_of(present, libc::MOUNT_ATTR_STRICTATIME, ACCESS_TIMES);
        assert_eq!(flags, libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_STRICTATIME);
        assert_eq!(flags_of(0, libc::MOUNT_ATTR_NOSYMFOLLOW, 0), 256 | libc::MS_STRICTATIME);
    }
}
