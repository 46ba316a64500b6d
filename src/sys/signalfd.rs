//! Signals as a descriptor (signalfd(2)).

use super::fs::Sys;
use super::raw::call;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, OwnedFd};

/// A descriptor on which every signal that this thread blocks can be read.
///
/// # Errors
/// What signalfd4(2) answers.
pub fn all() -> Sys<OwnedFd> {
    of(u64::MAX)
}

/// As [`all`], for the signals of `mask`: bit 0 is signal 1.
///
/// # Errors
/// What signalfd4(2) answers.
pub fn of(mask: u64) -> Sys<OwnedFd> {
    // SAFETY: the set is one 64-bit word.
    let fd = unsafe { call!(libc::SYS_signalfd4, -1, &raw const mask, 8, libc::SFD_CLOEXEC) }?;
    Ok(super::own(fd as i32))
}

/// Takes the next signal.
///
/// # Errors
/// What read(2) answers.
pub fn next(signals: &OwnedFd) -> Sys<i32> {
    // struct signalfd_siginfo is 128 bytes; the number comes first.
    let mut info = [0u8; 128];
    match super::fs::read(signals.as_raw_fd(), &mut info)? {
        128 => Ok(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
        _ => Err(Errno::EIO),
    }
}
