//! What the process itself becomes: its keyring, directory, descriptors, user and capabilities.

use super::target;
use crate::sys::fs::{self, Sys};
use crate::sys::{mount, process, socket};
use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::RawFd;

/// Joins a new session keyring that others cannot search, but whose possessor can.
pub fn join_keyring(name: &CStr) -> Sys {
    const KEY_USR_SEARCH: u32 = 0x08_0000;
    match process::join_session_keyring(name) {
        Ok(serial) => {
            let mask = process::key_permissions(serial)?;
            process::set_key_permissions(serial, mask | KEY_USR_SEARCH)
        }
        // A kernel without keyrings has none to share.
        Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Enters `path`; whether it could.
pub fn change_directory(path: &CStr, required: bool) -> Sys<bool> {
    match fs::chdir(path) {
        Err(Errno::EACCES | Errno::EPERM) if !required => return Ok(false),
        result => result?,
    }
    // What most directories' paths fit in; a page more of stack is a page fault more.
    let mut buffer = [0; 256];
    match fs::getcwd(&mut buffer) {
        Err(Errno::ERANGE) => is_reachable(),
        result => result.map(|_| true),
    }
}

/// That the current directory, with however long a path, is below the root: the kernel says so.
#[inline(never)]
fn is_reachable() -> Sys<bool> {
    let mut buffer = [0; 4096];
    fs::getcwd(&mut buffer).map(|_| true)
}

/// Closes every descriptor from `first` up but for two, which may be one.
pub fn close_but(first: u32, one: RawFd, other: RawFd) -> Sys {
    let mut kept = [one.cast_unsigned(), other.cast_unsigned()];
    kept.sort_unstable();
    let mut from = first;
    for fd in kept {
        if fd > from {
            fs::close_range(from, fd - 1)?;
        }
        from = from.max(fd.saturating_add(1));
    }
    fs::close_range(from, u32::MAX)
}

/// Takes the capabilities in `drop` out of the bounding set, those that are there.
pub fn drop_bounding(drop: u64) -> Sys {
    for bit in (0..64).filter(|bit| drop >> bit & 1 == 1) {
        match process::prctl(libc::PR_CAPBSET_DROP, [bit, 0, 0, 0]) {
            // A kernel that does not know the capability cannot grant it either.
            Ok(_) | Err(Errno::EINVAL) => {}
            Err(_) if process::is_in_bounding_set(bit) == Ok(false) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Puts the null device at /dev/null of `root`, which without one is "/", in the place of each of stdin, stdout and stderr that is a null
/// device. What else a mount, the image or the container has put there takes the place of none: then it is one that is nobody's.
///
/// # Errors
/// Those of [`null_of_nobody`] but for missing rights and an old kernel: then the host's stays.
pub fn own_null(root: Option<RawFd>) -> Sys {
    let mut own = None;
    for fd in 0..3 {
        if !fs::stat(fd).is_ok_and(|stat| fs::is_null(&stat)) {
            continue;
        }
        let null = match own {
            Some(null) => null,
            None => match open_null(root).map_or_else(null_of_nobody, Ok) {
                Ok(null) => *own.insert(null),
                // Without rights, or before Linux 5.2. Who has none cannot change the host's either. What remains is that old kernel, and
                // a device cgroup that denies 1:3 to a root with rights: mknod(2) answers with EPERM there, too.
                Err(Errno::EPERM | Errno::EACCES | Errno::ENOSYS) => return Ok(()),
                // A cgroup without memory left, for one, which the container can bring about.
                Err(errno) => return Err(errno),
            },
        };
        fs::dup_onto(null, fd)?;
    }
    own.into_iter().for_each(fs::close);
    Ok(())
}

/// The null device at /dev/null of `root`, if it is one and can be opened.
fn open_null(root: Option<RawFd>) -> Option<RawFd> {
    let open = |root| target::open_in_root(root, c"dev/null", libc::O_RDWR | libc::O_NOCTTY);
    let null = match root {
        Some(root) => open(root),
        None => fs::open(fs::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0).and_then(|root| {
            let null = open(root);
            fs::close(root);
            null
        }),
    }
    .ok()?;
    if fs::stat(null).is_ok_and(|stat| fs::is_null(&stat)) {
        return Some(null);
    }
    fs::close(null);
    None
}

/// A null device that is nobody's: on a file system of its own that is read-only, where neither owner nor mode can be changed.
///
/// # Errors
/// EPERM or EACCES without the rights of the host's root; ENOSYS before Linux 5.2.
pub fn null_of_nobody() -> Sys<RawFd> {
    let tmpfs = mount::fsopen(c"tmpfs")?;
    let null = mount::fsconfig_create(tmpfs).and_then(|()| mount::fsmount(tmpfs, 0)).and_then(|root| {
        let null = make_null(tmpfs, root);
        fs::close(root);
        null
    });
    fs::close(tmpfs);
    null
}

/// Makes a null device at the `root` of `tmpfs`, which is read-only from then on.
fn make_null(tmpfs: RawFd, root: RawFd) -> Sys<RawFd> {
    // So it is called in /proc/self/fd, too.
    let path = c"dev/null";
    fs::mkdir(root, c"dev", 0o755)?;
    fs::mknod(root, path, libc::S_IFCHR, libc::makedev(1, 3))?;
    fs::chmod_at(root, path, 0o666)?;
    mount::fsconfig_set(tmpfs, c"ro", None)?;
    mount::fsconfig_reconfigure(tmpfs)?;
    fs::open(root, path, libc::O_RDWR | libc::O_NOCTTY, 0)
}

/// The number of the descriptor that a sandbox has of its null device while it waits.
pub const NULL_OF_SANDBOX: RawFd = 3;

/// Has what is at /dev/null open there, if it can be; nothing else but `lease` is open. Whether it is the null device is seen by who fetches it.
pub fn hold_null(lease: RawFd) {
    if lease == NULL_OF_SANDBOX {
        return;
    }
    if let Ok(null) = fs::open(fs::CWD, c"/dev/null", libc::O_RDWR | libc::O_NOCTTY, 0) {
        // EBADF where RLIMIT_NOFILE allows no such number.
        let _ = fs::dup_onto_until_exec(null, NULL_OF_SANDBOX);
        fs::close(null);
    }
}

/// Gives the streams `stdio` to the user `uid`, but for devices: they are the host's, and their owner could take them away from everybody
/// else. The container's own terminal has been given to its user before. What cannot be given (EPERM in a user namespace that does not
/// map its owner, EINVAL, EROFS) stays as it is, as in runc.
pub fn own_stdio(stdio: impl IntoIterator<Item = RawFd>, uid: u32) {
    for fd in stdio {
        let Ok(stat) = fs::stat(fd) else { continue };
        if !fs::is_device(&stat) && stat.st_uid != uid {
            let _ = fs::chown(fd, c"", uid, u32::MAX);
        }
    }
}

/// Becomes the user `uid` with these groups; `groups` of `None` are left as they are.
pub fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>, keep_caps: bool) -> Sys {
    if keep_caps {
        process::prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0])?;
    }
    match groups.map(process::setgroups) {
        // In a user namespace that denies setgroups(2) the groups stay as they are (user_namespaces(7)).
        Some(Err(Errno::EPERM)) if groups.is_some_and(<[u32]>::is_empty) => {}
        set => set.unwrap_or(Ok(()))?,
    }
    process::setgid(gid)?;
    process::setuid(uid)?;
    if keep_caps {
        process::prctl(libc::PR_SET_KEEPCAPS, [0, 0, 0, 0])?;
    }
    Ok(())
}

/// Adds the capabilities in `raise` to the ambient set.
pub fn raise_ambient(raise: u64) -> Sys {
    for bit in (0..64).filter(|bit| raise >> bit & 1 == 1) {
        let raised = process::prctl(libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_RAISE as usize, bit, 0, 0]);
        match raised {
            // What is not permitted and inheritable cannot be ambient: runtime-spec asks for a warning at most.
            Ok(_) | Err(Errno::EPERM | Errno::EINVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Sends a pidfd of this process to `socket`, and closes both.
pub fn send_pidfd(socket: RawFd) -> Sys {
    let pidfd = process::pidfd_open(process::getpid())?;
    socket::send_fd(socket, b"pidfd", pidfd)?;
    fs::close(pidfd);
    fs::close(socket);
    Ok(())
}
