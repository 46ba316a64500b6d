//! Files and directories, by descriptor (openat2(2), mkdirat(2), mknodat(2), ...).

use super::raw::call;
use nix::errno::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;

/// The result of a system call.
pub type Sys<T = ()> = Result<T, Errno>;

/// The working directory, where a system call takes a directory descriptor (`AT_FDCWD`).
pub const CWD: RawFd = libc::AT_FDCWD;

/// `path`, as system calls take it.
///
/// # Errors
/// EINVAL for one with a NUL byte.
pub fn c_path(path: &Path) -> Sys<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

/// How often `openat2` is tried again when the kernel cannot decide whether a rename raced with `..` (EAGAIN).
const OPEN_RETRIES: u32 = 128;

/// Opens `path` below `dir` with the `RESOLVE_*` rules of openat2(2). `O_CLOEXEC` is always set.
///
/// A resolution that a concurrent rename disturbed (EAGAIN) is tried again, up to 128 times.
pub fn open_resolved(dir: RawFd, path: &CStr, flags: i32, mode: u32, resolve: u64) -> Sys<RawFd> {
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: u64::from(mode), resolve };
    let mut tries = 0;
    loop {
        // SAFETY: path and how outlive the call; the size is how's own.
        match unsafe { call!(libc::SYS_openat2, dir, path.as_ptr(), &raw const how, size_of::<OpenHow>()) } {
            Err(Errno::EAGAIN | Errno::EINTR) if tries < OPEN_RETRIES => tries += 1,
            result => return result.map(|fd| fd as RawFd),
        }
    }
}

/// struct open_how of openat2(2).
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens `path` below `dir` (openat(2)) with `O_CLOEXEC`: for paths that the host owns.
pub fn open(dir: RawFd, path: &CStr, flags: i32, mode: u32) -> Sys<RawFd> {
    // SAFETY: path outlives the call.
    unsafe { call!(libc::SYS_openat, dir, path.as_ptr(), flags | libc::O_CLOEXEC, mode) }.map(|fd| fd as RawFd)
}

/// Closes a descriptor. An invalid one is no error: the descriptor is gone either way.
pub fn close(fd: RawFd) {
    // SAFETY: callers own what they close; a wrong number fails with EBADF.
    let _ = unsafe { call!(libc::SYS_close, fd) };
}

/// The name that procfs has for the open descriptor `fd`, and a null.
pub fn link_of(fd: RawFd) -> [u8; 26] {
    let mut name = [0; 26];
    // The longest number leaves room for the null.
    let _ = write!(&mut name[..], "/proc/self/fd/{fd}");
    name
}

/// Where `path` leads, without symbolic links: as [`std::fs::canonicalize`], which asks the kernel about each of its parts.
///
/// # Errors
/// As there.
pub fn real_path(path: &Path) -> std::io::Result<PathBuf> {
    let slowly = || std::fs::canonicalize(path);
    // One without symbolic links is the answer; the other way is by procfs, and dear for who has not used that.
    if let Ok(clean) = std::path::absolute(path)
        && !clean.components().any(|part| part == Component::ParentDir)
        && let Ok(opened) = open_resolved(CWD, &c_path(&clean)?, libc::O_PATH, 0, libc::RESOLVE_NO_SYMLINKS)
    {
        close(opened);
        return Ok(clean.components().collect());
    }
    let opened = open(CWD, &c_path(path)?, libc::O_PATH, 0)?;
    let mut buffer = [0u8; 512];
    let length = CStr::from_bytes_until_nul(&link_of(opened)).map(|name| readlink(CWD, name, &mut buffer));
    close(opened);
    match length {
        // One that is cut short, and a name for what has none: " (deleted)", "(unreachable)".
        Ok(Ok(length)) if length < buffer.len() && buffer[0] == b'/' && buffer[length - 1] != b')' => {
            Ok(Path::new(OsStr::from_bytes(&buffer[..length])).to_owned())
        }
        _ => slowly(),
    }
}

/// Reads once into `buffer`; the number of bytes, 0 at the end.
pub fn read(fd: RawFd, buffer: &mut [u8]) -> Sys<usize> {
    retry(|| {
        // SAFETY: the kernel writes at most buffer.len() bytes into buffer.
        unsafe { call!(libc::SYS_read, fd, buffer.as_mut_ptr(), buffer.len()) }
    })
}

/// Reads from `offset` on, wherever the file's own is (pread(2)).
pub fn read_at(fd: RawFd, buffer: &mut [u8], offset: usize) -> Sys<usize> {
    retry(|| {
        // SAFETY: the kernel writes at most buffer.len() bytes into buffer.
        unsafe { call!(libc::SYS_pread64, fd, buffer.as_mut_ptr(), buffer.len(), offset) }
    })
}

/// Writes all of `data`; control files take it in one call.
pub fn write(fd: RawFd, mut data: &[u8]) -> Sys {
    while !data.is_empty() {
        let written = write_some(fd, data)?;
        data = data.get(written..).unwrap_or(&[]);
    }
    Ok(())
}

/// Writes once; the number of bytes, which may be less than `data` has.
pub fn write_some(fd: RawFd, data: &[u8]) -> Sys<usize> {
    retry(|| {
        // SAFETY: the kernel reads at most data.len() bytes of data.
        unsafe { call!(libc::SYS_write, fd, data.as_ptr(), data.len()) }
    })
}

/// As [`read`], from a socket, which it does not wait for: `EAGAIN` where nothing has come (recv(2)).
pub fn receive_now(socket: RawFd, buffer: &mut [u8]) -> Sys<usize> {
    let nothing = ptr::null_mut::<libc::sockaddr>();
    retry(|| {
        // SAFETY: the kernel writes at most buffer.len() bytes into buffer, and no address.
        unsafe {
            call!(libc::SYS_recvfrom, socket, buffer.as_mut_ptr(), buffer.len(), libc::MSG_DONTWAIT, nothing, nothing)
        }
    })
}

/// As [`write_some`], to a socket, which it does not wait for: `EAGAIN` where there is no room (send(2)).
pub fn send_now(socket: RawFd, data: &[u8]) -> Sys<usize> {
    let (flags, nobody) = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL, ptr::null::<libc::sockaddr>());
    retry(|| {
        // SAFETY: the kernel reads at most data.len() bytes of data, and no address.
        unsafe { call!(libc::SYS_sendto, socket, data.as_ptr(), data.len(), flags, nobody, 0) }
    })
}

/// How many bytes wait in the pipe `fd` to be read (`FIONREAD`); 0 for what has no such number.
pub fn waiting(fd: RawFd) -> usize {
    let mut count: i32 = 0;
    // SAFETY: the kernel writes one int.
    let asked = unsafe { call!(libc::SYS_ioctl, fd, libc::FIONREAD, &raw mut count) };
    asked.ok().and_then(|_| usize::try_from(count).ok()).unwrap_or(0)
}

/// Whether the terminal `fd` is this process's controlling one and another job has it: who reads gets `SIGTTIN` or, with that blocked,
/// `EIO` (tcgetpgrp(3)).
pub fn is_in_background(fd: RawFd) -> bool {
    let mut group: libc::pid_t = 0;
    // SAFETY: the kernel writes one pid_t.
    let asked = unsafe { call!(libc::SYS_ioctl, fd, libc::TIOCGPGRP, &raw mut group) };
    asked.is_ok() && group != nix::unistd::getpgrp().as_raw()
}

/// A file in memory, `O_CLOEXEC` (memfd_create(2)).
pub fn memory_file() -> Sys<RawFd> {
    /// Linux 6.3; a machine may be set to refuse files in memory that could be executed (vm.memfd_noexec).
    const MFD_NOEXEC_SEAL: u32 = 8;
    let make = |flags: u32| {
        // SAFETY: the name is static.
        unsafe { call!(libc::SYS_memfd_create, c"microrun".as_ptr(), libc::MFD_CLOEXEC | flags) }.map(|fd| fd as RawFd)
    };
    match make(MFD_NOEXEC_SEAL) {
        Err(Errno::EINVAL) => make(0),
        made => made,
    }
}

/// Goes back to the beginning of an open file (lseek(2)).
pub fn seek_start(fd: RawFd) -> Sys {
    seek(fd, 0)
}

fn seek(fd: RawFd, offset: i64) -> Sys {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_lseek, fd, offset, libc::SEEK_SET) }.map(drop)
}

/// Repeats a call that a signal interrupted.
pub fn retry<T>(mut call: impl FnMut() -> Sys<T>) -> Sys<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// Makes one directory (mkdirat(2)).
pub fn mkdir(dir: RawFd, name: &CStr, mode: u32) -> Sys {
    // SAFETY: name outlives the call.
    unsafe { call!(libc::SYS_mkdirat, dir, name.as_ptr(), mode) }.map(drop)
}

/// Makes a device node, FIFO or regular file (mknodat(2)).
pub fn mknod(dir: RawFd, name: &CStr, mode: u32, dev: u64) -> Sys {
    // SAFETY: name outlives the call.
    unsafe { call!(libc::SYS_mknodat, dir, name.as_ptr(), mode, dev) }.map(drop)
}

/// Makes a symbolic link `name` in `dir` that points at `target` (symlinkat(2)).
pub fn symlink(target: &CStr, dir: RawFd, name: &CStr) -> Sys {
    // SAFETY: both strings outlive the call.
    unsafe { call!(libc::SYS_symlinkat, target.as_ptr(), dir, name.as_ptr()) }.map(drop)
}

/// Locks or unlocks an open file (flock(2)); `operation` is `LOCK_EX` and its like.
pub fn lock(fd: RawFd, operation: i32) -> Sys {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_flock, fd, operation) }.map(drop)
}

/// Removes a name (unlinkat(2)); `flags` is 0 or `AT_REMOVEDIR`.
pub fn unlink(dir: RawFd, name: &CStr, flags: i32) -> Sys {
    // SAFETY: name outlives the call.
    unsafe { call!(libc::SYS_unlinkat, dir, name.as_ptr(), flags) }.map(drop)
}

/// Gives a file to a user and group (fchownat(2)), without following a last symbolic link; an empty `name` with
/// `AT_EMPTY_PATH` means `dir` itself.
pub fn chown(dir: RawFd, name: &CStr, uid: u32, gid: u32) -> Sys {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: name outlives the call.
    unsafe { call!(libc::SYS_fchownat, dir, name.as_ptr(), uid, gid, flags) }.map(drop)
}

/// Sets the permission bits of an open file (fchmod(2)).
pub fn chmod(fd: RawFd, mode: u32) -> Sys {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_fchmod, fd, mode) }.map(drop)
}

/// Sets the permission bits of `name` in `dir` (fchmodat(2)), which must not be a symbolic link: it would be followed.
pub fn chmod_at(dir: RawFd, name: &CStr, mode: u32) -> Sys {
    // SAFETY: name outlives the call.
    unsafe { call!(libc::SYS_fchmodat, dir, name.as_ptr(), mode) }.map(drop)
}

/// What fstat(2) says of an open file; `O_PATH` descriptors too.
pub fn stat(fd: RawFd) -> Sys<libc::stat> {
    stat_at(fd, c"", libc::AT_EMPTY_PATH)
}

/// Whether what fstat(2) says is of a null device: character device 1:3.
pub fn is_null(stat: &libc::stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3)
}

/// Whether what fstat(2) says is of a device, whose node has an owner and a mode for everybody who uses it.
pub fn is_device(stat: &libc::stat) -> bool {
    matches!(stat.st_mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK)
}

/// Whether a container may have the stream `fd` itself: a pipe, or /dev/null, in whose place it gets its own. Of any other device it would
/// have the host's node, whose mode its root could change, and its owner if it were given to its user. What is closed is nobody's.
pub fn may_be_shared(fd: RawFd) -> bool {
    stat(fd).map_or(true, |stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO || is_null(&stat))
}

/// What fstatat(2) says of `name` in `dir`.
pub fn stat_at(dir: RawFd, name: &CStr, flags: i32) -> Sys<libc::stat> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel fills a struct stat, which is valid when zeroed as well.
    unsafe {
        call!(libc::SYS_newfstatat, dir, name.as_ptr(), stat.as_mut_ptr(), flags)?;
        Ok(stat.assume_init())
    }
}

/// Whether this process may use `name` in `dir` as `mode` (`X_OK`, ...) says, by its effective ids (faccessat2(2)). Where
/// that is missing (before Linux 5.8) or hidden by a seccomp filter, by its real ids (faccessat(2)): those of who has
/// just become a user are the same.
pub fn access(dir: RawFd, name: &CStr, mode: i32) -> Sys {
    // SAFETY: name outlives the call.
    match unsafe { call!(libc::SYS_faccessat2, dir, name.as_ptr(), mode, libc::AT_EACCESS) } {
        Err(Errno::ENOSYS | Errno::EPERM) => {
            // SAFETY: as above.
            unsafe { call!(libc::SYS_faccessat, dir, name.as_ptr(), mode) }.map(drop)
        }
        answer => answer.map(drop),
    }
}

/// The magic number of the file system that `fd` lies on (fstatfs(2)).
pub fn file_system(fd: RawFd) -> Sys<i64> {
    Ok(statfs(fd)?.f_type as i64)
}

/// What fstatfs(2) says of the file system that `fd` lies on.
pub fn statfs(fd: RawFd) -> Sys<libc::statfs> {
    let mut info = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the kernel fills a struct statfs, which is valid when zeroed as well.
    unsafe {
        call!(libc::SYS_fstatfs, fd, info.as_mut_ptr())?;
        Ok(info.assume_init())
    }
}

/// The flags of the mount that `fd` lies on, and of its file system: `ST_*` (fstatfs(2)).
pub fn mount_flags(fd: RawFd) -> Sys<u64> {
    // The kernel's struct statfs on 64-bit machines is 15 words; the C libraries do not agree on a name for the eleventh.
    let mut info = [0u64; 15];
    // SAFETY: the kernel fills a struct statfs, for which there is room.
    unsafe { call!(libc::SYS_fstatfs, fd, info.as_mut_ptr()) }?;
    Ok(info[10])
}

/// `STATX_ATTR_*` of an open file (statx(2)).
pub fn file_attributes(fd: RawFd) -> Sys<u64> {
    let mut info = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the kernel fills a struct statx, which is valid when zeroed as well.
    unsafe {
        call!(libc::SYS_statx, fd, c"".as_ptr(), libc::AT_EMPTY_PATH, 0, info.as_mut_ptr())?;
        Ok(info.assume_init().stx_attributes)
    }
}

/// What tells an open file from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Type and permission bits.
    pub mode: u32,
    /// The number in its file system.
    pub inode: u64,
    /// The device of the file system (makedev(3)).
    pub device: u64,
    /// The device that it is, if it is one (makedev(3)).
    pub special: u64,
    /// The number of the mount, as in /proc/PID/mountinfo; `None` before Linux 5.8.
    pub mount: Option<u64>,
}

/// The [`Identity`] of an open file (statx(2)).
pub fn identity(fd: RawFd) -> Sys<Identity> {
    let mask = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
    let mut info = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the kernel fills a struct statx, which is valid when zeroed as well.
    let info = unsafe {
        call!(libc::SYS_statx, fd, c"".as_ptr(), libc::AT_EMPTY_PATH, mask, info.as_mut_ptr())?;
        info.assume_init()
    };
    Ok(Identity {
        mode: info.stx_mode.into(),
        inode: info.stx_ino,
        device: libc::makedev(info.stx_dev_major, info.stx_dev_minor),
        special: libc::makedev(info.stx_rdev_major, info.stx_rdev_minor),
        mount: (info.stx_mask & libc::STATX_MNT_ID != 0).then_some(info.stx_mnt_id),
    })
}

/// Gives the file that `fd` holds one name more (linkat(2)): ENOENT if it has none left, or for who has neither CAP_DAC_READ_SEARCH nor, since Linux 6.10,
/// opened it himself.
pub fn link(fd: RawFd, to: &CStr) -> Sys {
    // SAFETY: both strings end with a null.
    unsafe { call!(libc::SYS_linkat, fd, c"".as_ptr(), CWD, to.as_ptr(), libc::AT_EMPTY_PATH) }.map(drop)
}

/// Gives what is at `from` the name `to`, which nobody else may have (renameat2(2), RENAME_NOREPLACE).
pub fn rename_new(from: &CStr, to: &CStr) -> Sys {
    // SAFETY: both strings end with a null.
    unsafe { call!(libc::SYS_renameat2, CWD, from.as_ptr(), CWD, to.as_ptr(), libc::RENAME_NOREPLACE) }.map(drop)
}

/// Sets an extended attribute of an open file (fsetxattr(2)).
pub fn set_extended_attribute(fd: RawFd, name: &CStr, value: &[u8]) -> Sys {
    // SAFETY: the kernel reads the name and value.len() bytes of value, which outlive the call.
    unsafe { call!(libc::SYS_fsetxattr, fd, name.as_ptr(), value.as_ptr(), value.len(), 0) }.map(drop)
}

/// What an extended attribute of an open file is, in `value`; the number of bytes (fgetxattr(2)).
#[cfg(test)]
pub fn extended_attribute(fd: RawFd, name: &CStr, value: &mut [u8]) -> Sys<usize> {
    // SAFETY: the kernel writes at most value.len() bytes into value.
    unsafe { call!(libc::SYS_fgetxattr, fd, name.as_ptr(), value.as_mut_ptr(), value.len()) }
}

/// Changes the working directory to an open one (fchdir(2)).
pub fn fchdir(fd: RawFd) -> Sys {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_fchdir, fd) }.map(drop)
}

/// Changes the working directory (chdir(2)).
pub fn chdir(path: &CStr) -> Sys {
    // SAFETY: path outlives the call.
    unsafe { call!(libc::SYS_chdir, path.as_ptr()) }.map(drop)
}

/// Changes the root directory (chroot(2)).
pub fn chroot(path: &CStr) -> Sys {
    // SAFETY: path outlives the call.
    unsafe { call!(libc::SYS_chroot, path.as_ptr()) }.map(drop)
}

/// The path of the working directory as the kernel knows it, with its final NUL; ENOENT when it was removed or lies
/// outside the root (getcwd(2) then answers "(unreachable)").
pub fn getcwd(buffer: &mut [u8]) -> Sys<usize> {
    // SAFETY: the kernel writes at most buffer.len() bytes into buffer.
    let length = unsafe { call!(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) }?;
    if buffer.first() == Some(&b'/') { Ok(length) } else { Err(Errno::ENOENT) }
}

/// Sets the file mode creation mask (umask(2)).
pub fn umask(mask: u32) {
    // SAFETY: no memory is involved; umask cannot fail.
    let _ = unsafe { call!(libc::SYS_umask, mask) };
}

/// Makes `new` refer to what `old` does (dup3(2)), without `O_CLOEXEC`; nothing to do when they are equal.
pub fn dup_onto(old: RawFd, new: RawFd) -> Sys {
    if old == new {
        return Ok(());
    }
    // SAFETY: `new` is a number the caller gives away.
    unsafe { call!(libc::SYS_dup3, old, new, 0) }.map(drop)
}

/// Makes `new`, another number, refer to what `old` does until something is executed (dup3(2), `O_CLOEXEC`).
pub fn dup_onto_until_exec(old: RawFd, new: RawFd) -> Sys {
    // SAFETY: `new` is a number the caller gives away.
    unsafe { call!(libc::SYS_dup3, old, new, libc::O_CLOEXEC) }.map(drop)
}

/// Marks all descriptors from `first` up to be closed on exec (close_range(2)).
///
/// # Errors
/// EINVAL where only closing them at once is known (Linux 5.9 and 5.10).
pub fn cloexec_from(first: u32) -> Sys {
    // SAFETY: no memory is involved.
    let marked = unsafe { call!(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    match marked {
        Err(Errno::ENOSYS | Errno::EPERM) => {
            for_each_open(first, u32::MAX, |fd| {
                let _ = set_cloexec(fd, true);
            });
            Ok(())
        }
        marked => marked.map(drop),
    }
}

/// Closes all descriptors from `first` to `last` (close_range(2), Linux 5.9).
pub fn close_range(first: u32, last: u32) -> Sys {
    // SAFETY: no memory is involved; the caller gives up these descriptors.
    match unsafe { call!(libc::SYS_close_range, first, last, 0) } {
        Err(Errno::ENOSYS | Errno::EPERM) => {
            for_each_open(first, last, close);
            Ok(())
        }
        closed => closed.map(drop),
    }
}

/// Calls `action` for every number from `first` to `last` that may be an open descriptor: for those that procfs lists,
/// or, where /proc is missing or something else, for all that there can be.
fn for_each_open(first: u32, last: u32, action: impl Fn(RawFd)) {
    /// What fs.nr_open is unless someone raises it: no process can have more (proc(5)).
    const MOST: u32 = 1 << 20;
    if for_each_listed(first, last, &action).is_err() {
        (first..=last.min(MOST)).for_each(|fd| action(fd.cast_signed()));
    }
}

/// As above, by /proc/self/fd. The container's owner says what lies there, so it has to be procfs, all of it.
fn for_each_listed(first: u32, last: u32, action: &impl Fn(RawFd)) -> Sys {
    let proc = open(CWD, c"/proc", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    let rules = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_MAGICLINKS;
    let list = match file_system(proc) {
        Ok(libc::PROC_SUPER_MAGIC) => open_resolved(proc, c"self/fd", libc::O_RDONLY | libc::O_DIRECTORY, 0, rules),
        other => Err(other.err().unwrap_or(Errno::EXDEV)),
    };
    close(proc);
    let list = list?;
    let range = first.cast_signed()..=i32::try_from(last).unwrap_or(i32::MAX);
    let result = read_directory(list, |name| {
        let fd = str::from_utf8(name.to_bytes()).ok().and_then(|digits| digits.parse::<RawFd>().ok());
        if let Some(fd) = fd.filter(|fd| *fd != list && range.contains(fd)) {
            action(fd);
        }
        Ok(())
    });
    close(list);
    result
}

/// Calls `action` with each name in the open directory `listing`, "." and ".." too (getdents64(2)).
///
/// # Errors
/// What getdents64(2) answers, and then what `action` does.
pub fn read_directory(listing: RawFd, mut action: impl FnMut(&CStr) -> Sys) -> Sys {
    read_directory_until(listing, |name| action(name).map(|()| false)).map(drop)
}

/// As [`read_directory`], but only up to a name with which `action` is content; whether there was one. What is read of
/// `listing` next comes after that.
///
/// # Errors
/// As there.
pub fn read_directory_until(listing: RawFd, mut action: impl FnMut(&CStr) -> Sys<bool>) -> Sys<bool> {
    let mut buffer = [0u8; 2048];
    loop {
        let filled = getdents(listing, &mut buffer)?;
        if filled == 0 {
            return Ok(false);
        }
        let mut rest = buffer.get(..filled).unwrap_or_default();
        // struct linux_dirent64: inode (8), offset (8), length (2), type (1), name.
        while let Some(&[low, high]) = rest.get(16..18) {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let entry = rest.get(19..length).ok_or(Errno::EIO)?;
            if action(CStr::from_bytes_until_nul(entry).map_err(|_| Errno::EIO)?)? {
                let next =
                    rest.first_chunk::<16>().map(|[.., a, b, c, d, e, f, g, h]| [*a, *b, *c, *d, *e, *f, *g, *h]);
                return seek(listing, i64::from_ne_bytes(next.ok_or(Errno::EIO)?)).map(|()| true);
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// Keeps (`false`) or closes (`true`) a descriptor on exec (fcntl(2) F_SETFD).
pub fn set_cloexec(fd: RawFd, on: bool) -> Sys {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_fcntl, fd, libc::F_SETFD, if on { libc::FD_CLOEXEC } else { 0 }) }.map(drop)
}

/// Whether a descriptor is closed on exec (fcntl(2) F_GETFD).
pub fn is_cloexec(fd: RawFd) -> Sys<bool> {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_fcntl, fd, libc::F_GETFD) }.map(|flags| flags & libc::FD_CLOEXEC as usize != 0)
}

/// Whether this kernel lets nobody but a file's owner, and who may do what he may, give it a hint about its data's life (fcntl(2), `F_SET_RW_HINT`; until
/// 2024 everybody could who had it open, for reading or on a read-only mount as well). Tried once, as nobody, with the hint that the root directory
/// has.
pub fn only_owners_give_hints() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| refuses_hint_of_others().unwrap_or(false))
}

fn refuses_hint_of_others() -> Sys<bool> {
    /// Not in libc for all C libraries (linux/fcntl.h).
    const F_GET_RW_HINT: libc::c_int = 1024 + 11;
    const F_SET_RW_HINT: libc::c_int = 1024 + 12;
    const NOBODY: u32 = 65534;
    let root = super::own(open(CWD, c"/", libc::O_RDONLY | libc::O_DIRECTORY, 0)?);
    let mut hint = 0u64;
    // SAFETY: the kernel writes the hint.
    unsafe { call!(libc::SYS_fcntl, root.as_raw_fd(), F_GET_RW_HINT, &raw mut hint) }?;
    let mut death_signal = 0i32;
    // SAFETY: the kernel writes an int, and the state is a number.
    let is_dumpable = unsafe {
        call!(libc::SYS_prctl, libc::PR_GET_PDEATHSIG, &raw mut death_signal)?;
        call!(libc::SYS_prctl, libc::PR_GET_DUMPABLE)? == 1
    };
    // The rights over files of others go with it, and come back (capabilities(7)); it is this thread's alone.
    // SAFETY: no memory is involved.
    let own = unsafe { call!(libc::SYS_setfsuid, NOBODY) }?;
    // SAFETY: the kernel reads the hint.
    let given = unsafe { call!(libc::SYS_fcntl, root.as_raw_fd(), F_SET_RW_HINT, &raw const hint) };
    // Who changes his ids loses two things besides, which are to be as they were (kernel/cred.c, commit_creds).
    // SAFETY: no memory is involved.
    unsafe {
        call!(libc::SYS_setfsuid, own)?;
        call!(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, death_signal)?;
        if is_dumpable {
            call!(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 1)?;
        }
    }
    Ok(given == Err(Errno::EPERM) && stat(root.as_raw_fd())?.st_uid != NOBODY)
}

/// Reads a directory's raw entries into `buffer` (getdents64(2)); the number of bytes, 0 at the end.
fn getdents(fd: RawFd, buffer: &mut [u8]) -> Sys<usize> {
    // SAFETY: the kernel writes at most buffer.len() bytes into buffer.
    unsafe { call!(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()) }
}

/// The target of the symbolic link that the `O_PATH` descriptor `fd` holds, or of `name` below it (readlinkat(2)).
pub fn readlink(dir: RawFd, name: &CStr, buffer: &mut [u8]) -> Sys<usize> {
    // SAFETY: the kernel writes at most buffer.len() bytes into buffer.
    unsafe { call!(libc::SYS_readlinkat, dir, name.as_ptr(), buffer.as_mut_ptr(), buffer.len()) }
}

/// A pseudoterminal's slave, opened from its master without any path (TIOCGPTPEER, Linux 4.13).
pub fn terminal_peer(master: RawFd) -> Sys<RawFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the request takes an integer.
    unsafe { call!(libc::SYS_ioctl, master, libc::TIOCGPTPEER, flags) }.map(|fd| fd as RawFd)
}

/// Unlocks a pseudoterminal's slave (TIOCSPTLCK).
pub fn unlock_terminal(master: RawFd) -> Sys {
    let unlocked: i32 = 0;
    // SAFETY: the kernel reads one int.
    unsafe { call!(libc::SYS_ioctl, master, libc::TIOCSPTLCK, &raw const unlocked) }.map(drop)
}

/// Sets a terminal's size in characters (TIOCSWINSZ).
pub fn set_terminal_size(fd: RawFd, rows: u16, columns: u16) -> Sys {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one struct winsize.
    unsafe { call!(libc::SYS_ioctl, fd, libc::TIOCSWINSZ, &raw const size) }.map(drop)
}

/// Lets line ends that are written to a terminal be (termios(3), ONLCR).
pub fn keep_line_ends(fd: RawFd) -> Sys {
    let mut modes = std::mem::MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: the kernel fills, and then reads, its own struct termios, of which the C library's is an extension: the same
    // members first, and more room for the last. All of them are plain numbers, valid when zeroed.
    unsafe {
        call!(libc::SYS_ioctl, fd, libc::TCGETS, modes.as_mut_ptr())?;
        let mut modes = modes.assume_init();
        modes.c_oflag &= !libc::ONLCR;
        call!(libc::SYS_ioctl, fd, libc::TCSETS, &raw const modes).map(drop)
    }
}

/// Whether it is a terminal (isatty(3)).
pub fn is_terminal(fd: RawFd) -> bool {
    // SAFETY: the descriptor is used for this one request; one that is closed is no terminal.
    unsafe { libc::isatty(fd) == 1 }
}

/// A terminal's size in characters: rows, columns (TIOCGWINSZ). `None` for what is no terminal or has no size.
pub fn terminal_size(fd: RawFd) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel fills one struct winsize.
    unsafe { call!(libc::SYS_ioctl, fd, libc::TIOCGWINSZ, &raw mut size) }.ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Makes the terminal `fd` the session's controlling one (TIOCSCTTY).
pub fn set_controlling_terminal(fd: RawFd) -> Sys {
    // SAFETY: the request takes an integer.
    unsafe { call!(libc::SYS_ioctl, fd, libc::TIOCSCTTY, 0) }.map(drop)
}

/// A null pointer for calls that take an optional string.
pub(in crate::sys) fn null() -> *const libc::c_char {
    ptr::null()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::prctl;

    #[test]
    fn to_try_a_hint_changes_nothing_of_who_does() {
        // Of this thread alone; it is ignored by default.
        prctl(libc::PR_SET_PDEATHSIG, [libc::SIGWINCH as usize, 0, 0, 0]).unwrap();
        let is_dumpable = prctl(libc::PR_GET_DUMPABLE, [0; 4]).unwrap();
        // Kernels without hints are none of this.
        let _ = refuses_hint_of_others();
        let mut death_signal = 0i32;
        // SAFETY: the kernel writes an int.
        unsafe { call!(libc::SYS_prctl, libc::PR_GET_PDEATHSIG, &raw mut death_signal) }.unwrap();
        assert_eq!(death_signal, libc::SIGWINCH);
        assert_eq!(prctl(libc::PR_GET_DUMPABLE, [0; 4]), Ok(is_dumpable));
    }
}
