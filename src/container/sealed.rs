//! The runtime's own binary is out of the container's reach.
//!
//! A container whose program is `/proc/self/exe`, or a script or ELF interpreter of that name, executes the file that
//! init ran before: us. Once in a process of its own it could wait until nobody executes the file any more and write to
//! it through /proc/PID/exe (CVE-2019-5736). So before anything of ours comes near a container, our executable is a file
//! that cannot be written through that link:
//!
//! - it is sealed or under fs-verity, or on a read-only mount that nobody can remount, since the runtime has executed itself from there:
//!   nothing to do;
//! - it is immutable (chattr +i) and the container will not have CAP_LINUX_IMMUTABLE: nothing to do;
//! - otherwise we go on from a read-only copy of the mount it is on, which belongs to no namespace: the release binary has done so
//!   before libc began (`sys::in_place`), else we execute ourselves again from there, or, without the right to mount,
//!   from a sealed copy in memory.

use crate::error::{Doing, Error, Kind, Result};
use crate::sys::mount::{self, Attributes};
use crate::sys::shared::Strings;
use crate::sys::{fs as sys_fs, own, process};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use oci_spec::runtime::{Capability, Process};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// Makes sure that no program of a container can write to the executable of this process, which may execute itself
/// again for that: call it before anything else is done, and again once the container's `process` is known.
///
/// # Errors
/// When our executable can be neither proven safe nor copied.
pub fn ensure(process: Option<&Process>) -> Result<()> {
    ensure_unless(|exe| is_out_of_reach(exe, process))
}

/// As [`ensure`], for containers that are not known yet: call it before anything else is done. Then [`ensure`] does nothing
/// any more.
///
/// # Errors
/// As there.
pub fn ensure_for_all() -> Result<()> {
    ensure_unless(|exe| is_fixed(exe, || false))
}

fn ensure_unless(is_safe: impl FnOnce(&OwnedFd) -> Result<bool, Errno>) -> Result<()> {
    // The release binary has seen to it before libc began.
    #[cfg(target_env = "musl")]
    if crate::sys::entry::is_read_only() {
        return Ok(());
    }
    let doing = || "protect the runtime's own binary from the container: open /proc/self/exe";
    let exe = own(sys_fs::open(sys_fs::CWD, c"/proc/self/exe", libc::O_PATH, 0).doing(doing)?);
    if is_safe(&exe).doing(doing)? {
        return Ok(());
    }
    let (argv, envp) = (arguments()?, environment()?);
    let failed = match read_only_copy(&exe) {
        Ok(copy) => process::execute_fd(copy.as_raw_fd(), &argv, &envp),
        Err(Errno::EPERM | Errno::ENOSYS | Errno::EACCES) => {
            let copy = sealed_copy()?;
            process::execute_fd(copy.as_raw_fd(), &argv, &envp)
        }
        Err(errno) => errno,
    };
    Err(Error::system("protect the runtime's own binary from the container: execute a copy of it", failed))
}

/// Whether a program of the container cannot write to `exe`.
fn is_out_of_reach(exe: &OwnedFd, process: Option<&Process>) -> Result<bool, Errno> {
    is_fixed(exe, || !may_change_attributes(process))
}

/// Whether nobody can write to `exe`. `suffices` tells whether the immutable attribute is enough for that.
fn is_fixed(exe: &OwnedFd, suffices: impl FnOnce() -> bool) -> Result<bool, Errno> {
    /// tmpfs, on which memfds lie.
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    // A mount of the host's may be made writable one day, by who has waited for that as well.
    if process::was_executed_by_descriptor() && fstatvfs(exe)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(true);
    }
    let attributes = sys_fs::file_attributes(exe.as_raw_fd())?;
    if attributes & libc::STATX_ATTR_VERITY as u64 != 0 {
        return Ok(true);
    }
    if attributes & libc::STATX_ATTR_IMMUTABLE as u64 != 0 && suffices() {
        return Ok(true);
    }
    Ok(sys_fs::file_system(exe.as_raw_fd())? == TMPFS_MAGIC && is_sealed())
}

/// Whether the container may take the immutable attribute away.
fn may_change_attributes(process: Option<&Process>) -> bool {
    let sets = process.and_then(|process| process.capabilities().as_ref());
    sets.and_then(|sets| sets.bounding().as_ref()).is_some_and(|set| set.contains(&Capability::LinuxImmutable))
}

/// Whether our executable is a memfd that nobody can write to any more.
fn is_sealed() -> bool {
    let seals = File::open("/proc/self/exe").ok().and_then(|exe| fcntl(exe.as_fd(), FcntlArg::F_GET_SEALS).ok());
    seals.is_some_and(|seals| SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE))
}

/// The executable by way of a read-only mount of its own. The mount is detached, and once the descriptor is closed, by
/// exec, it belongs to no namespace: nobody can make it writable again.
fn read_only_copy(exe: &OwnedFd) -> Result<OwnedFd, Errno> {
    let copy = own(mount::open_tree_clone(exe.as_raw_fd(), c"", 0)?);
    let attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    mount::set_attributes(copy.as_raw_fd(), c"", 0, &attributes)?;
    Ok(copy)
}

/// How often sealing is tried again; the kernel waits up to 150 ms each time (mm/memfd.c, `memfd_wait_for_pins`).
const SEAL_ATTEMPTS: u32 = 20;

fn sealed_copy() -> Result<OwnedFd> {
    let doing = || "protect the runtime's own binary from the container: copy it into memory";
    let mut file = File::from(executable_memory().doing(doing)?);
    std::io::copy(&mut File::open("/proc/self/exe").doing(doing)?, &mut file).doing(doing)?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    let mut result = fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals));
    for _ in 0..SEAL_ATTEMPTS {
        // The kernel has waited, and somebody still holds a page that was just written: the other CPU's list of new pages.
        if result != Err(Errno::EBUSY) {
            break;
        }
        result = fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals));
    }
    result.doing(doing)?;
    Ok(file.into())
}

/// A file in memory that can be executed, and sealed.
fn executable_memory() -> Result<OwnedFd, Errno> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Linux 6.3; without it a machine may be set to make files that cannot be executed (vm.memfd_noexec=1).
    match memfd_create(c"microrun", flags | MFdFlags::from_bits_retain(libc::MFD_EXEC)) {
        Err(Errno::EINVAL) => memfd_create(c"microrun", flags),
        made => made,
    }
}

fn arguments() -> Result<Strings> {
    std::env::args_os().map(|argument| c_string(argument.into_vec())).collect::<Result<_>>().map(Strings::new)
}

/// That of this process.
///
/// # Errors
/// None that can happen: an entry with a NUL byte.
pub(super) fn environment() -> Result<Strings> {
    let entries = std::env::vars_os().map(|(key, value)| {
        let mut entry = key.into_vec();
        entry.push(b'=');
        entry.extend(value.into_vec());
        c_string(entry)
    });
    entries.collect::<Result<_>>().map(Strings::new)
}

/// What the kernel gave us as a C string is one.
fn c_string(bytes: Vec<u8>) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::new(Kind::System, "an argument or environment entry has a NUL byte in it"))
}
