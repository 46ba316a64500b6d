//! bpf(2), as far as a cgroup's device program needs it: load, attach, detach, list.
//!
//! Every `union bpf_attr` handed to the kernel is [`ATTR_BYTES`] long and zeroed: Linux 6.17 up to a fix in 7.2 writes
//! past a short one in `BPF_PROG_QUERY`, and a longer one whose tail is zero is accepted by every kernel.

use super::raw;
use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// More than any kernel's `sizeof(union bpf_attr)` so far (168 bytes in Linux 6.18).
const ATTR_BYTES: usize = 256;

const BPF_PROG_LOAD: usize = 5;
const BPF_PROG_ATTACH: usize = 8;
const BPF_PROG_DETACH: usize = 9;
const BPF_PROG_GET_FD_BY_ID: usize = 13;
const BPF_PROG_QUERY: usize = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

/// The kernel's limit of programs of one type on one cgroup (linux/bpf-cgroup.h, `BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;

/// `union bpf_attr`, filled field by field at the offsets of linux/bpf.h.
#[repr(C, align(8))]
struct Attr([u8; ATTR_BYTES]);

impl Attr {
    fn new() -> Self {
        Self([0; ATTR_BYTES])
    }

    fn u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn fd(self, offset: usize, fd: BorrowedFd<'_>) -> Self {
        self.u32(offset, fd.as_raw_fd() as u32)
    }

    fn pointer<T>(mut self, offset: usize, pointer: *const T) -> Self {
        self.0[offset..offset + 8].copy_from_slice(&(pointer as u64).to_ne_bytes());
        self
    }

    fn read_u32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[offset..offset + 4]);
        u32::from_ne_bytes(bytes)
    }

    /// # Safety
    /// Every pointer in the attribute must be valid for what `command` does with it.
    unsafe fn call(&mut self, command: usize) -> Result<usize, Errno> {
        let attr = self.0.as_mut_ptr() as usize;
        // SAFETY: the attribute is ATTR_BYTES long and writable; its pointers are the caller's promise.
        unsafe { raw::syscall(libc::SYS_bpf, [command, attr, ATTR_BYTES, 0, 0, 0]) }
    }
}

/// The new descriptor in an answer of bpf(2); it is close-on-exec.
fn descriptor(number: usize) -> OwnedFd {
    super::own(number as i32)
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`; its descriptor is close-on-exec.
///
/// # Errors
/// `EPERM` without `CAP_BPF` (or `CAP_SYS_ADMIN` before Linux 5.8) and, before Linux 5.11, when `RLIMIT_MEMLOCK` is
/// exhausted; `EINVAL` for a program that the verifier refuses, or on a kernel without `CONFIG_CGROUP_BPF`.
pub fn load_device_program(instructions: &[u64]) -> Result<OwnedFd, Errno> {
    const LICENSE: &CStr = c"Apache-2.0";
    let mut attr = Attr::new()
        .u32(0, BPF_PROG_TYPE_CGROUP_DEVICE)
        .u32(4, instructions.len() as u32)
        .pointer(8, instructions.as_ptr())
        .pointer(16, LICENSE.as_ptr());
    attr.0[48..63].copy_from_slice(b"microrun_device");
    // SAFETY: both pointers outlive the call and the kernel only reads them; no log buffer is asked for.
    unsafe { attr.call(BPF_PROG_LOAD) }.map(descriptor)
}

/// Attaches `program` to the cgroup v2 directory `cgroup` beside those that are there. Where `replaced` is given,
/// `program` takes its place in one step, so that no moment passes without a rule.
///
/// # Errors
/// `EINVAL` where the kernel knows no replacement (before Linux 5.6), `EBADF` for a directory that is not cgroup v2,
/// `ENOENT` when `replaced` is not attached, `EPERM` when an ancestor forbids further programs.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut attr = Attr::new().fd(0, cgroup).fd(4, program).u32(8, BPF_CGROUP_DEVICE);
    attr = match replaced {
        None => attr.u32(12, BPF_F_ALLOW_MULTI),
        Some(old) => attr.u32(12, BPF_F_ALLOW_MULTI | BPF_F_REPLACE).fd(16, old),
    };
    // SAFETY: the attribute holds no pointer.
    unsafe { attr.call(BPF_PROG_ATTACH) }.map(drop)
}

/// Takes `program` off the cgroup v2 directory `cgroup`.
///
/// # Errors
/// `ENOENT` when it is not attached there.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attr = Attr::new().fd(0, cgroup).fd(4, program).u32(8, BPF_CGROUP_DEVICE);
    // SAFETY: the attribute holds no pointer.
    unsafe { attr.call(BPF_PROG_DETACH) }.map(drop)
}

/// The device programs attached to the cgroup v2 directory `cgroup` itself. Those that the kernel does not let this
/// process open (a security module may forbid it) are left out: a further device program can only forbid more.
///
/// # Errors
/// Those of `BPF_PROG_QUERY`: `EINVAL` without `CONFIG_CGROUP_BPF`, `EPERM` without `CAP_NET_ADMIN`, ...
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let mut ids = [0u32; MAX_PROGRAMS];
    let mut attr =
        Attr::new().fd(0, cgroup).u32(4, BPF_CGROUP_DEVICE).pointer(16, ids.as_mut_ptr()).u32(24, MAX_PROGRAMS as u32);
    // SAFETY: the kernel writes at most MAX_PROGRAMS ids, for which there is room.
    unsafe { attr.call(BPF_PROG_QUERY)? };
    let count = (attr.read_u32(24) as usize).min(MAX_PROGRAMS);
    let mut programs = Vec::with_capacity(count);
    for id in &ids[..count] {
        match program_by_id(*id) {
            Ok(program) => programs.push(program),
            Err(Errno::EACCES | Errno::EPERM | Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(programs)
}

fn program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: the attribute holds no pointer.
    unsafe { Attr::new().u32(0, id).call(BPF_PROG_GET_FD_BY_ID) }.map(descriptor)
}
