//! Files as block devices (loop(4)).

use super::fs::Sys;
use super::raw::call;
use std::os::fd::RawFd;

// linux/loop.h
const LOOP_CONFIGURE: u64 = 0x4c0a;
const LOOP_CTL_GET_FREE: u64 = 0x4c82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_config`.
#[repr(C)]
struct Config {
    file: u32,
    block_size: u32,
    /// Of `struct loop_info64`, what is before its flags.
    before: [u32; 13],
    flags: u32,
    /// Names, a key, and what is reserved.
    rest: [u64; 30],
}

const _: () = assert!(size_of::<Config>() == 304);

/// The number of a device that nobody uses, made by the kernel if there is none. Somebody else may be faster. `control` is
/// /dev/loop-control.
///
/// # Errors
/// What ioctl(2) answers.
pub fn free_number(control: RawFd) -> Sys<usize> {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_ioctl, control, LOOP_CTL_GET_FREE) }
}

/// Makes `file` the content of the open `device` (Linux 5.8), until nobody has that open and nothing of it is mounted.
///
/// # Errors
/// What ioctl(2) answers: `EBUSY` for a device in use.
pub fn configure(device: RawFd, file: RawFd, read_only: bool, direct: bool) -> Sys {
    let mut flags = LO_FLAGS_AUTOCLEAR;
    flags |= if read_only { LO_FLAGS_READ_ONLY } else { 0 };
    flags |= if direct { LO_FLAGS_DIRECT_IO } else { 0 };
    let config = Config { file: file.cast_unsigned(), block_size: 0, before: [0; 13], flags, rest: [0; 30] };
    // SAFETY: the kernel reads one struct loop_config.
    unsafe { call!(libc::SYS_ioctl, device, LOOP_CONFIGURE, &raw const config) }.map(drop)
}
