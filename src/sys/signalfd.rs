//! Signals as a descriptor (signalfd(2)).

use super::fs::Sys;
use super::raw::call;
use nix::errno::Errno;
use std::os::fd::RawFd;

/// A descriptor, close-on-exec, on which the signals of `mask` that this thread blocks can be read: bit 0 is signal 1.
/// It does not close itself, for init may use it.
///
/// # Errors
/// What signalfd4(2) answers.
pub fn open(mask: u64) -> Sys<RawFd> {
    // SAFETY: the set is one 64-bit word.
    unsafe { call!(libc::SYS_signalfd4, -1, &raw const mask, 8, libc::SFD_CLOEXEC) }.map(|fd| fd as RawFd)
}

/// Takes the next signal.
///
/// # Errors
/// What read(2) answers.
pub fn next(signals: RawFd) -> Sys<i32> {
    // struct signalfd_siginfo is 128 bytes; the number comes first.
    let mut info = [0u8; 128];
    match super::fs::read(signals, &mut info)? {
        128 => Ok(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
        _ => Err(Errno::EIO),
    }
}
