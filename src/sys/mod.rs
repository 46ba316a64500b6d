//! Typed wrappers of system calls: the only `unsafe` code of the crate.
//!
//! Two layers. [`raw`] issues a system call and returns the kernel's answer; it touches no errno, no lock and no
//! thread-local variable, so a cloned child that shares its parent's memory may use it. The modules beside it give
//! the calls their types. What is not needed on the start path comes from `nix`.

#![allow(unsafe_code)]

pub mod arena;
pub mod bpf;
pub mod clone;
pub mod cpus;
#[cfg(target_env = "musl")]
pub mod entry;
pub mod fs;
#[cfg(target_env = "musl")]
mod in_place;
pub mod interrupt;
pub mod ipc;
pub mod loop_device;
pub mod mount;
pub mod net;
pub mod netlink;
pub mod park;
pub mod pidfd;
pub mod process;
pub mod raw;
pub mod request;
pub mod search;
pub mod shared;
pub mod signalfd;
pub mod socket;

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Takes over a descriptor that a system call of this module just returned.
pub fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the wrappers return descriptors that nobody else has a number for yet.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// stdin, stdout and stderr of this process. One that is closed is refused by the kernel when it is used.
pub fn standard_descriptors() -> [BorrowedFd<'static>; 3] {
    // SAFETY: Rust's runtime opens those that it finds closed, and nothing in this crate closes them.
    [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO].map(|fd| unsafe { BorrowedFd::borrow_raw(fd) })
}
