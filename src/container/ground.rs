//! Where sandboxes are cloned: a mount namespace with nothing in it but what they are made from.
//!
//! A container's mount namespace begins as a copy of its maker's, and all of the copy is taken away again when the root is changed.
//! Machines have tens of mounts, nodes of a cluster hundreds. So a maker keeps a namespace of its own for its template, in which
//! all mounts but those on the way to the paths that the configuration names, and those below them, are gone, and is in it
//! while it clones. What is mounted on the host later comes there as it comes into a container where the host's mounts are shared, as systemd makes them: these are
//! their slaves. What is mounted later on one that is private does not come.

use crate::error::{Doing, Error, Kind, Result};
use crate::init;
use crate::log;
use crate::path;
use crate::sys::{fs as sys_fs, ipc, mount, own, process, request};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount as change, umount2};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// Two mount namespaces of this thread: where it lives, and where it clones.
#[derive(Debug)]
pub struct Ground {
    home: OwnedFd,
    home_of_ipc: OwnedFd,
    lean: OwnedFd,
}

/// The mount and IPC namespaces of a sandbox, in which another one may be cloned once its container has ended: everything is mounted there, and the
/// root is the container's.
#[derive(Debug)]
pub struct Rooms {
    mounts: OwnedFd,
    ipc: OwnedFd,
    /// A number for what was mounted when they were new.
    seen: u64,
}

impl Rooms {
    /// Those that another process has made, as [`Rooms::seen`] says there.
    pub const fn of(mounts: OwnedFd, ipc: OwnedFd, seen: u64) -> Self {
        Self { mounts, ipc, seen }
    }

    /// A number for what was mounted when they were new.
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    /// Their descriptors: the mount namespace, the IPC namespace.
    pub fn descriptors(&self) -> [RawFd; 2] {
        [self.mounts.as_raw_fd(), self.ipc.as_raw_fd()]
    }
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
        let (home, home_of_ipc) = (namespace_of_this_thread()?, ipc_of_this_thread()?);
        match process::unshare(libc::CLONE_NEWNS) {
            Err(Errno::EPERM) => return Ok(None),
            made => made.doing(|| "make a mount namespace")?,
        }
        let lean = clear(&needed);
        come_back(home.as_fd(), libc::CLONE_NEWNS);
        lean.map(|lean| Some(Self { home, home_of_ipc, lean }))
    }

    /// Does `work` with the namespace as this thread's.
    ///
    /// # Errors
    /// The work's, or a kernel that does not let this thread in.
    pub fn on<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        enter(&self.lean)?;
        let done = work();
        self.come_home();
        done
    }

    fn come_home(&self) {
        come_back(self.home.as_fd(), libc::CLONE_NEWNS);
    }

    /// The rooms of a sandbox that has just been made, with `pidfd` for its init.
    ///
    /// # Errors
    /// A kernel that does not tell of them: before Linux 6.11.
    pub fn rooms(&self, pidfd: RawFd) -> Result<Rooms> {
        let mounts = process::mount_namespace(pidfd).map(own).doing(|| "open the mount namespace of a sandbox")?;
        let ipc = process::ipc_namespace(pidfd).map(own).doing(|| "open the IPC namespace of a sandbox")?;
        enter(&mounts)?;
        let seen = see();
        self.come_home();
        Ok(Rooms { mounts, ipc, seen: seen? })
    }

    /// Does `work` in `rooms`, if everything there is as it was when they were new.
    ///
    /// # Errors
    /// The work's, something that is mounted otherwise, System V objects, a kernel that does not let this thread in.
    pub fn within<T>(&self, rooms: &Rooms, work: impl FnOnce() -> Result<T>) -> Result<T> {
        enter_ipc(&rooms.ipc)?;
        let done = enter(&rooms.mounts).and_then(|()| {
            let done = require_as_new(rooms.seen).and_then(|()| work());
            self.come_home();
            done
        });
        come_back(self.home_of_ipc.as_fd(), libc::CLONE_NEWIPC);
        done
    }
}

/// Has this thread enter the namespace that it lives in again. A process that cannot ends: whatever it did next it would do to a container's.
pub fn come_back(home: BorrowedFd<'_>, kind: i32) {
    if let Err(errno) = process::setns(home.as_raw_fd(), kind) {
        let names = init::namespace_names(kind);
        log::warn(Error::system(
            format!("this process ends: it cannot come back to its own namespace ({names})"),
            errno,
        ));
        process::exit(1);
    }
}

fn enter(namespace: &OwnedFd) -> Result<()> {
    process::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS).doing(|| "enter a mount namespace")
}

fn enter_ipc(namespace: &OwnedFd) -> Result<()> {
    process::setns(namespace.as_raw_fd(), libc::CLONE_NEWIPC).doing(|| "enter an IPC namespace")
}

fn ipc_of_this_thread() -> Result<OwnedFd> {
    let path = c"/proc/thread-self/ns/ipc";
    sys_fs::open(sys_fs::CWD, path, libc::O_RDONLY, 0).map(own).doing(|| "open the IPC namespace")
}

/// A number for all mounts of this thread's mount namespace: which they are, with what attributes.
fn see() -> Result<u64> {
    /// More than any container has in which nothing but a few tmpfs are mounted.
    const MOST: usize = 64;
    let mut ids = [0; MOST];
    let doing = || "look at the mounts of a sandbox";
    let count = mount::list(&mut ids).doing(doing)?;
    if count >= MOST {
        return Err(Error::new(Kind::WrongState, "a sandbox has too many mounts to be looked at"));
    }
    let mut seen = DefaultHasher::new();
    for id in ids.into_iter().take(count) {
        mount::about(id).doing(doing)?.hash(&mut seen);
    }
    Ok(seen.finish())
}

/// Fails if something is mounted here otherwise than in `seen`, or there is a System V object.
fn require_as_new(seen: u64) -> Result<()> {
    if see()? != seen {
        return Err(Error::new(Kind::WrongState, "the mounts of an ended container have been changed"));
    }
    if ipc::has_objects().doing(|| "look at an IPC namespace")? {
        return Err(Error::new(Kind::WrongState, "there are objects in the IPC namespace of an ended container"));
    }
    Ok(())
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
