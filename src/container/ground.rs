//! Where sandboxes are cloned: a mount namespace with nothing in it but what they are made from.
//!
//! A container's mount namespace begins as a copy of its maker's, and all of the copy is taken away again when the root is changed.
//! Machines have tens of mounts, nodes of a cluster hundreds. So a maker keeps a namespace of its own for its template, in which
//! all mounts but those on the way to the paths that the configuration names, and those below them, are gone, and is in it
//! while it clones. What is mounted on the host later comes there as it comes into a container: the mounts are slaves of the host's.

use crate::error::{Doing, Result};
use crate::path;
use crate::sys::{fs as sys_fs, own, process, request};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount as change, umount2};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Two mount namespaces of this thread: where it lives, and where it clones.
#[derive(Debug)]
pub struct Ground {
    home: OwnedFd,
    lean: OwnedFd,
}

impl Ground {
    /// Makes the namespace for sandboxes that need what is mounted at, above and below the paths `needed`. `None` if this
    /// thread may not, or its root is not the root of its mount namespace, to which it would be brought back.
    ///
    /// The thread must share its root and working directory with no other (`CLONE_FS`).
    ///
    /// # Errors
    /// What the kernel says. The thread is where it was.
    pub fn new(needed: &[PathBuf]) -> Result<Option<Self>> {
        let needed = needed.iter().map(|path| fs::canonicalize(path).doing(|| format!("find {}", path.display())));
        let needed = needed.collect::<Result<Vec<_>>>()?;
        if !request::is_root_of_mount().doing(|| "look at the root directory")? {
            return Ok(None);
        }
        let home = namespace_of_this_thread()?;
        match process::unshare(libc::CLONE_NEWNS) {
            Err(Errno::EPERM) => return Ok(None),
            made => made.doing(|| "make a mount namespace")?,
        }
        let lean = clear(&needed);
        enter(&home)?;
        lean.map(|lean| Some(Self { home, lean }))
    }

    /// Does `work` with the namespace as this thread's.
    ///
    /// # Errors
    /// The work's, or a kernel that does not let this thread in or out.
    pub fn on<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        enter(&self.lean)?;
        let done = work();
        enter(&self.home)?;
        done
    }
}

fn enter(namespace: &OwnedFd) -> Result<()> {
    process::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS).doing(|| "enter a mount namespace")
}

fn namespace_of_this_thread() -> Result<OwnedFd> {
    let path = c"/proc/thread-self/ns/mnt";
    sys_fs::open(sys_fs::CWD, path, libc::O_RDONLY, 0).map(own).doing(|| "open the mount namespace")
}

/// Takes away what is not needed in this thread's mount namespace; a descriptor of it.
fn clear(needed: &[PathBuf]) -> Result<OwnedFd> {
    // What is done here is not to be done on the host.
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    change(None::<&str>, "/", None::<&str>, flags, None::<&str>).doing(|| "keep changes of mounts from the host")?;
    let lean = namespace_of_this_thread()?;
    let file = "/proc/thread-self/mountinfo";
    let text = fs::read_to_string(file).doing(|| format!("read {file}"))?;
    // The latest first: it may cover an earlier one.
    let places = text.lines().rev().filter_map(path::mounted).map(|(place, _)| place);
    for place in places.filter(|place| !is_needed(place, needed)) {
        match umount2(&place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // One that went with the one above it, or whose place is covered.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => return Err(errno).doing(|| format!("unmount {}", place.display())),
        }
    }
    Ok(lean)
}

fn is_needed(place: &Path, needed: &[PathBuf]) -> bool {
    needed.iter().any(|path| path.starts_with(place) || place.starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_on_the_way_and_below_are_needed() {
        let needed = ["/var/lib/bundle/rootfs".into(), "/dev/null".into()];
        for place in ["/", "/var", "/var/lib/bundle/rootfs", "/var/lib/bundle/rootfs/data", "/dev"] {
            assert!(is_needed(Path::new(place), &needed), "{place}");
        }
        for place in ["/var/lib/bundle/other", "/proc", "/dev/pts", "/var/lib/bundle/rootfs2"] {
            assert!(!is_needed(Path::new(place), &needed), "{place}");
        }
    }
}
