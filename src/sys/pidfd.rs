//! Process descriptors that close themselves.

use nix::errno::Errno;
use std::os::fd::OwnedFd;

/// A descriptor of the process `pid` (pidfd_open(2), Linux 5.3), close-on-exec. It polls readable once the process has
/// ended.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn open(pid: i32) -> Result<OwnedFd, Errno> {
    super::process::pidfd_open(pid).map(super::own)
}
