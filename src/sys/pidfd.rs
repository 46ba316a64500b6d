//! Process descriptors that close themselves.

use nix::errno::Errno;
use nix::sys::stat::{fstat, stat};
use std::os::fd::{AsRawFd, OwnedFd};

/// The inode of the initial user namespace (linux/nsfs.h, USER_NS_INIT_INO).
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// A descriptor of the process `pid` (pidfd_open(2), Linux 5.3), close-on-exec. It polls readable once the process has
/// ended.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn open(pid: i32) -> Result<OwnedFd, Errno> {
    super::process::pidfd_open(pid).map(super::own)
}

/// The inode of the user namespace of the process `pid`. By its name in procfs, which is how it is found without `pidfd` or where the kernel
/// is older than Linux 6.11, it takes three times as long.
///
/// # Errors
/// What the kernel says.
pub fn user_namespace(pid: i32, pidfd: Option<&OwnedFd>) -> Result<u64, Errno> {
    let opened = pidfd.ok_or(Errno::ENOTSUP).and_then(|pidfd| super::process::user_namespace(pidfd.as_raw_fd()));
    let about = match opened {
        Ok(namespace) => fstat(super::own(namespace)),
        Err(_) => stat(format!("/proc/{pid}/ns/user").as_str()),
    };
    about.map(|about| about.st_ino)
}

/// The same of this process.
///
/// # Errors
/// As there.
pub fn own_user_namespace() -> Result<u64, Errno> {
    let pid = super::process::getpid();
    user_namespace(pid, open(pid).ok().as_ref())
}

/// Whether this process is in the initial user namespace.
pub fn in_initial_user_namespace() -> bool {
    own_user_namespace().is_ok_and(|inode| inode == INITIAL_USER_NAMESPACE)
}
