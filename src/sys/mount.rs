//! Mounts by descriptor: fsopen(2), fspick(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2); and what there is of them:
//! listmount(2), statmount(2).

use super::fs::{Sys, null};
use super::raw::call;
use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::RawFd;
use std::ptr;

/// Flags of fsconfig(2).
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSCONFIG_CMD_RECONFIGURE: u32 = 7;

/// The attributes of a mount, as mount_setattr(2) takes them (struct mount_attr).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`; 0 leaves the propagation alone.
    pub propagation: u64,
    /// The user namespace of an id-mapped mount (with `MOUNT_ATTR_IDMAP`).
    pub userns_fd: u64,
}

/// A new file system of the type `name`, to be configured (fsopen(2)).
pub fn fsopen(name: &CStr) -> Sys<RawFd> {
    const FSOPEN_CLOEXEC: u32 = 1;
    // SAFETY: name outlives the call.
    unsafe { call!(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) }.map(|fd| fd as RawFd)
}

/// The file system of the mount that `mount` is the root of, to be configured anew (fspick(2)).
pub fn fspick(mount: RawFd) -> Sys<RawFd> {
    const FSPICK_CLOEXEC: u32 = 1;
    const FSPICK_EMPTY_PATH: u32 = 8;
    // SAFETY: the string is static.
    unsafe { call!(libc::SYS_fspick, mount, c"".as_ptr(), FSPICK_CLOEXEC | FSPICK_EMPTY_PATH) }.map(|fd| fd as RawFd)
}

/// Sets a parameter of a file system that is being made or changed; without a value it is a flag (fsconfig(2)).
pub fn fsconfig_set(fs: RawFd, key: &CStr, value: Option<&CStr>) -> Sys {
    let (command, value) = match value {
        Some(value) => (FSCONFIG_SET_STRING, value.as_ptr()),
        None => (FSCONFIG_SET_FLAG, null()),
    };
    // SAFETY: the strings outlive the call.
    unsafe { call!(libc::SYS_fsconfig, fs, command, key.as_ptr(), value, 0) }.map(drop)
}

/// Makes the superblock (FSCONFIG_CMD_CREATE of fsconfig(2)).
pub fn fsconfig_create(fs: RawFd) -> Sys {
    // SAFETY: the command takes no strings.
    unsafe { call!(libc::SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, null(), null(), 0) }.map(drop)
}

/// Changes the superblock (FSCONFIG_CMD_RECONFIGURE of fsconfig(2)).
pub fn fsconfig_reconfigure(fs: RawFd) -> Sys {
    // SAFETY: the command takes no strings.
    unsafe { call!(libc::SYS_fsconfig, fs, FSCONFIG_CMD_RECONFIGURE, null(), null(), 0) }.map(drop)
}

/// A detached mount of the file system, with `MOUNT_ATTR_*` attributes (fsmount(2)).
pub fn fsmount(fs: RawFd, attributes: u64) -> Sys<RawFd> {
    const FSMOUNT_CLOEXEC: u32 = 1;
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes) }.map(|fd| fd as RawFd)
}

/// A mount (or, with `AT_RECURSIVE`, the tree of mounts) at `path` below `dir`, copied and detached (open_tree(2)
/// with `OPEN_TREE_CLONE`). An empty path means `dir` itself.
pub fn open_tree_clone(dir: RawFd, path: &CStr, flags: u32) -> Sys<RawFd> {
    let flags = flags | libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    // SAFETY: path outlives the call.
    unsafe { call!(libc::SYS_open_tree, dir, path.as_ptr(), flags) }.map(|fd| fd as RawFd)
}

/// Flag of open_tree(2), Linux 7.0.
const OPEN_TREE_NAMESPACE: u32 = 2;

/// A new mount namespace whose root is a copy of the tree of mounts at `path`, and which has no others (open_tree(2) with `OPEN_TREE_NAMESPACE`,
/// Linux 7.0): setns(2) enters it. Copies are peers of the mounts that they are copies of.
pub fn open_tree_namespace(path: &CStr) -> Sys<RawFd> {
    let flags = OPEN_TREE_NAMESPACE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as u32;
    // SAFETY: path outlives the call.
    unsafe { call!(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) }.map(|fd| fd as RawFd)
}

/// Whether the kernel has [`open_tree_namespace`], and lets this process use it. One that does not know the flag refuses it before it looks at the
/// descriptor.
pub fn has_open_tree_namespace() -> bool {
    let flags = OPEN_TREE_NAMESPACE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    // SAFETY: the string is static.
    let opened = unsafe { call!(libc::SYS_open_tree, -1, c"".as_ptr(), flags) };
    opened.err() == Some(Errno::EBADF)
}

/// Attaches the mount `mount` at the place that `target` holds: descriptors only, no path (move_mount(2)).
pub fn attach(mount: RawFd, target: RawFd) -> Sys {
    const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x04;
    const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: the strings are static.
    unsafe { call!(libc::SYS_move_mount, mount, c"".as_ptr(), target, c"".as_ptr(), flags) }.map(drop)
}

/// Changes the attributes of the mount that `fd` is the root of, `AT_RECURSIVE` for all below it too
/// (mount_setattr(2), Linux 5.12).
pub fn set_attributes(fd: RawFd, path: &CStr, flags: u32, attributes: &Attributes) -> Sys {
    let flags = flags | libc::AT_EMPTY_PATH as u32;
    // SAFETY: path and attributes outlive the call; the size is the struct's.
    unsafe {
        call!(libc::SYS_mount_setattr, fd, path.as_ptr(), flags, ptr::from_ref(attributes), size_of::<Attributes>())
    }
    .map(drop)
}

/// mount(2) with the working directory or another host path as target: only where the mount API by descriptor has
/// no equal (a remount of flags on kernels before 5.12, moving the root onto "/").
pub fn mount(source: &CStr, target: &CStr, flags: u64) -> Sys {
    // SAFETY: the strings outlive the call; no data is passed.
    unsafe { call!(libc::SYS_mount, source.as_ptr(), target.as_ptr(), null(), flags, null()) }.map(drop)
}

/// Mounts a file system of the type `kind` with the options `data`, a page at most, at a path of the host (mount(2)).
pub fn mount_filesystem(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> Sys {
    // SAFETY: the strings outlive the call, which reads data up to its end.
    unsafe { call!(libc::SYS_mount, source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr()) }.map(drop)
}

/// Mounts an empty tmpfs at a path of the host (mount(2)).
pub fn mount_tmpfs(target: &CStr, flags: u64) -> Sys {
    let kind = c"tmpfs".as_ptr();
    // SAFETY: the strings outlive the call; no data is passed.
    unsafe { call!(libc::SYS_mount, kind, target.as_ptr(), kind, flags, null()) }.map(drop)
}

/// Swaps the root mount of the namespace (pivot_root(2)).
pub fn pivot_root(new: &CStr, old: &CStr) -> Sys {
    // SAFETY: both strings outlive the call.
    unsafe { call!(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) }.map(drop)
}

/// Takes a mount out of the namespace (umount2(2)).
pub fn umount(path: &CStr, flags: i32) -> Sys {
    // SAFETY: path outlives the call.
    unsafe { call!(libc::SYS_umount2, path.as_ptr(), flags) }.map(drop)
}

/// What listmount(2) and statmount(2) are asked about (struct mnt_id_req, MNT_ID_REQ_SIZE_VER0).
#[repr(C)]
struct IdRequest {
    size: u32,
    spare: u32,
    mount: u64,
    parameter: u64,
}

impl IdRequest {
    const fn of(mount: u64, parameter: u64) -> Self {
        Self { size: size_of::<Self>() as u32, spare: 0, mount, parameter }
    }
}

/// The ids of all mounts that this thread sees in its mount namespace, as far as there is `room`; how many they are (listmount(2), Linux 6.8).
pub fn list(room: &mut [u64]) -> Sys<usize> {
    /// The same number on every architecture (scripts/syscall.tbl).
    const SYS_LISTMOUNT: libc::c_long = 458;
    const LSMT_ROOT: u64 = u64::MAX;
    let request = IdRequest::of(LSMT_ROOT, 0);
    // SAFETY: the request outlives the call, which writes no more ids than there is room for.
    unsafe { call!(SYS_LISTMOUNT, ptr::from_ref(&request), room.as_mut_ptr(), room.len(), 0) }
}

/// What the kernel says about a mount.
pub type About = [u8; 1024];

/// The file system of the mount with this id, its attributes, its parent, its propagation and its place, as in struct statmount (statmount(2), Linux
/// 6.8).
///
/// # Errors
/// EOVERFLOW for a place whose path is longer than there is room.
pub fn about(mount: u64) -> Sys<About> {
    /// As above.
    const SYS_STATMOUNT: libc::c_long = 457;
    const STATMOUNT_SB_BASIC: u64 = 1;
    const STATMOUNT_MNT_BASIC: u64 = 2;
    const STATMOUNT_MNT_POINT: u64 = 16;
    let request = IdRequest::of(mount, STATMOUNT_SB_BASIC | STATMOUNT_MNT_BASIC | STATMOUNT_MNT_POINT);
    let mut about: About = [0; size_of::<About>()];
    // SAFETY: the request outlives the call, which writes no more than there is room for.
    unsafe { call!(SYS_STATMOUNT, ptr::from_ref(&request), about.as_mut_ptr(), about.len(), 0) }?;
    Ok(about)
}
