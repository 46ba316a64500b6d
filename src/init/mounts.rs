//! The file system that the container sees: mounts, device nodes, masks and the change of the root.

use super::attributes::Setter;
use super::op::{Create, DeviceNode, Rule};
use super::target;
use crate::sys::fs::{self, Sys};
use crate::sys::mount::{self, Attributes};
use crate::sys::process;
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

/// The flag that makes a call reach all mounts below a mount too.
pub fn below(recursive: bool) -> u32 {
    if recursive { libc::AT_RECURSIVE as u32 } else { 0 }
}

/// Changes how all mounts of this namespace propagate.
pub fn propagate_root(propagation: u64) -> Sys {
    let attributes = Attributes { propagation, ..Attributes::default() };
    match mount::set_attributes(fs::CWD, c"/", below(true), &attributes) {
        // Missing (before Linux 5.12), or the root is mounted on nothing, as an initramfs is (before 6.9).
        Err(Errno::ENOSYS | Errno::EINVAL) => mount::mount(c"none", c"/", propagation | libc::MS_REC),
        result => result,
    }
}

/// Maps the ids of the mount's files as the user namespace does.
pub fn map_ids(mount: RawFd, userns: RawFd, recursive: bool) -> Sys {
    let userns_fd = userns.cast_unsigned().into();
    let attributes = Attributes { set: libc::MOUNT_ATTR_IDMAP, userns_fd, ..Attributes::default() };
    mount::set_attributes(mount, c"", below(recursive), &attributes)
}

/// Sets the attributes of a mount that is not attached yet, within what a user namespace may change of a mount that it
/// has inherited (mount_namespaces(7), "locked"): the kernel knows this one only as the runtime's own.
pub fn set_locked(mount: RawFd, attributes: &Attributes) -> Sys {
    // include/linux/statfs.h: ST_RDONLY, ST_NOSUID, ST_NODEV, ST_NOEXEC; ST_NOATIME, ST_NODIRATIME, ST_RELATIME.
    const LOCKED: u64 = 0xf;
    const ACCESS_TIMES: u64 = 0x1c00;
    // What a file system is by itself, such as read-only, is among them before and after.
    let flags = || fs::mount_flags(mount);
    let before = flags()?;
    mount::set_attributes(mount, c"", 0, attributes)?;
    let after = flags()?;
    let changed = before & !after & LOCKED | (before ^ after) & ACCESS_TIMES;
    if changed == 0 { Ok(()) } else { Err(Errno::EPERM) }
}

/// Gives the root of a new mount a label of SELinux's.
pub fn set_label(mount: RawFd, label: &CStr) -> Sys {
    let root = fs::open(mount, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let result = fs::set_extended_attribute(root, c"security.selinux", label.to_bytes());
    fs::close(root);
    result
}

/// Makes sure that a mount is a procfs: LSMs would be fooled by another (CVE-2019-16884).
pub fn require_procfs(mount: RawFd) -> Sys {
    match fs::file_system(mount)? {
        target::PROC_SUPER_MAGIC => Ok(()),
        _ => Err(Errno::EPERM),
    }
}

/// [`Create::Like`] resolved: a directory or a file, as the root of the mount is.
pub fn kind_of(mount: RawFd) -> Sys<Create> {
    Ok(if is_directory(mount)? { Create::Directory } else { Create::File })
}

fn is_directory(place: RawFd) -> Sys<bool> {
    Ok(fs::stat(place)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// What exists already is as good as made.
pub fn unless_there(made: Sys) -> Sys {
    match made {
        Err(Errno::EEXIST) => Ok(()),
        made => made,
    }
}

/// A device node (mknodat(2)), or the host's `host` bound where none may be made: by root of a user namespace, for example.
pub fn make_device(root: RawFd, device: &DeviceNode, host: &CStr) -> Sys {
    let made = make_node(root, device);
    if made == Err(Errno::EPERM) && device.mode & libc::S_IFMT != libc::S_IFIFO {
        return bind_device(root, device, host);
    }
    made
}

fn make_node(root: RawFd, device: &DeviceNode) -> Sys {
    target::in_parent(root, &device.path, |dir, name| match fs::mknod(dir, name, device.mode, device.dev) {
        Ok(()) if device.uid != 0 || device.gid != 0 => fs::chown(dir, name, device.uid, device.gid),
        Err(Errno::EEXIST) if device.exact => match fs::stat_at(dir, name, libc::AT_SYMLINK_NOFOLLOW) {
            Ok(found) if is_device(&found, device) => Ok(()),
            found => found.and(Err(Errno::EEXIST)),
        },
        made => unless_there(made),
    })
}

/// Whether `found` is the device (runtime-spec config-linux.md, "Devices").
fn is_device(found: &libc::stat, device: &DeviceNode) -> bool {
    let kind = device.mode & libc::S_IFMT;
    found.st_mode & libc::S_IFMT == kind && (kind == libc::S_IFIFO || found.st_rdev == device.dev)
}

/// The host's device node `host`, bound where a new one may not be made.
///
/// # Errors
/// `ENXIO` if that is another device.
pub fn bind_device(root: RawFd, device: &DeviceNode, host: &CStr) -> Sys {
    let tree = mount::open_tree_clone(fs::CWD, host, 0)?;
    let bind = || {
        if !is_device(&fs::stat(tree)?, device) {
            return Err(Errno::ENXIO);
        }
        let place = target::open_target(root, &device.path, Create::File, Rule::OffProc)?;
        let result = mount::attach(tree, place);
        fs::close(place);
        result
    };
    let result = bind();
    fs::close(tree);
    result
}

/// A symbolic link. What is there already stays, but for what is not the multiplexer of terminals where that is to be.
pub fn make_link(root: RawFd, path: &CStr, target: &CStr) -> Sys {
    target::in_parent(root, path, |dir, name| match fs::symlink(target, dir, name) {
        Err(Errno::EEXIST) if target == MULTIPLEXER && !is_multiplexer(dir, name)? => {
            fs::unlink(dir, name, 0)?;
            fs::symlink(target, dir, name)
        }
        made => unless_there(made),
    })
}

/// What /dev/ptmx leads to (runtime-spec config-linux.md, "Default Devices").
pub const MULTIPLEXER: &CStr = c"pts/ptmx";

/// Whether it leads to the multiplexer of the container's devpts: by that link, or as the device, which looks for "pts" beside itself
/// (Linux 4.7, fs/devpts/inode.c).
fn is_multiplexer(dir: RawFd, name: &CStr) -> Sys<bool> {
    let found = fs::stat_at(dir, name, libc::AT_SYMLINK_NOFOLLOW)?;
    match found.st_mode & libc::S_IFMT {
        libc::S_IFCHR => Ok(found.st_rdev == libc::makedev(5, 2)),
        libc::S_IFLNK => {
            let mut link = [0; 16];
            let length = fs::readlink(dir, name, &mut link)?;
            Ok(link.get(..length) == Some(MULTIPLEXER.to_bytes()))
        }
        _ => Ok(false),
    }
}

/// A tmpfs with the mode of what it is going to cover.
pub fn tmpfs_like(root: RawFd, path: &CStr, options: &[(CString, Option<CString>)], attributes: u64) -> Sys<RawFd> {
    let mode = mode_of(root, path)?;
    let mode = mode.as_ref().and_then(|digits| CStr::from_bytes_with_nul(digits).ok());
    new_filesystem(c"tmpfs", options, mode, attributes)
}

/// The stand-ins for masked paths, and whether that for files and that for directories are attached somewhere.
#[derive(Debug, Default)]
pub struct Masks {
    file_is_attached: bool,
    directory_is_attached: bool,
}

impl Masks {
    /// Covers `path` with `null`, if it is a file, or `empty`. The first file and the first directory get the stand-ins
    /// themselves, all others copies of these: a mount that is attached nowhere can be copied only since Linux 6.15.
    pub fn cover(&mut self, setter: &mut Setter, root: RawFd, path: &CStr, null: RawFd, empty: RawFd) -> Sys {
        let Some((place, is_root)) = existing(root, path)? else { return Ok(()) };
        if is_root {
            // The mask would lie on what stays the root, and hide nothing.
            fs::close(place);
            return Err(Errno::EBUSY);
        }
        let (stand_in, attached) = match is_directory(place)? {
            true => (empty, &mut self.directory_is_attached),
            false => (null, &mut self.file_is_attached),
        };
        let result = if std::mem::replace(attached, true) {
            let tree = mount::open_tree_clone(stand_in, c"", 0)?;
            let result = mount::attach(tree, place);
            fs::close(tree);
            result
        } else {
            setter.attach(stand_in, place)
        };
        fs::close(place);
        result
    }
}

/// Binds `path` over itself, read-only with all below it; without mount_setattr(2) what is mounted below it stays as it is. Where it is
/// the root, that is made read-only itself, as in runc without what is mounted below: what lay on top would not be the root.
pub fn make_read_only(setter: &mut Setter, root: RawFd, path: &CStr) -> Sys {
    let attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    let place = match existing(root, path)? {
        None => return Ok(()),
        Some((place, false)) => place,
        Some((place, true)) => {
            fs::close(place);
            return setter.set(root, false, &attributes);
        }
    };
    let tree = mount::open_tree_clone(place, c"", below(true))?;
    let result = match setter.set(tree, true, &attributes) {
        Err(Errno::ENOSYS) => setter.set(tree, false, &attributes),
        result => result,
    };
    let result = result.and_then(|()| setter.attach(tree, place));
    fs::close(tree);
    fs::close(place);
    result
}

/// Takes a mount of the host out of the namespace, or covers it where a user namespace locks it.
pub fn hide(path: &CStr) -> Sys {
    match mount::umount(path, libc::MNT_DETACH) {
        Err(Errno::EINVAL | Errno::EPERM) => mount::mount_tmpfs(path, libc::MS_RDONLY),
        result => result,
    }
}

/// Moves the root mount `root` onto "/" and makes it the root.
pub fn move_root(root: RawFd) -> Sys {
    fs::fchdir(root)?;
    mount::mount(c".", c"/", libc::MS_MOVE)?;
    fs::chroot(c".")?;
    fs::chdir(c"/")
}

/// Makes the directory `root` the root of this process.
pub fn change_root(root: RawFd) -> Sys {
    fs::fchdir(root)?;
    fs::chroot(c".")?;
    fs::chdir(c"/")
}

/// Opens what exists inside the root, and tells whether it is the root; `None` when it does not exist.
fn existing(root: RawFd, path: &CStr) -> Sys<Option<(RawFd, bool)>> {
    match target::open_place(root, path) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The mode of what is at `path`, in the digits that a tmpfs takes; `None` when there is nothing.
fn mode_of(root: RawFd, path: &CStr) -> Sys<Option<[u8; 5]>> {
    let Some((place, _)) = existing(root, path)? else { return Ok(None) };
    let stat = fs::stat(place);
    fs::close(place);
    let mode = stat?.st_mode;
    let digit = |shift: u32| b'0' + (mode >> shift & 7) as u8;
    Ok(Some([digit(9), digit(6), digit(3), digit(0), 0]))
}

/// A new, detached file system; with `mode`, a tmpfs of that mode.
pub fn new_filesystem(
    kind: &CStr,
    options: &[(CString, Option<CString>)],
    mode: Option<&CStr>,
    attributes: u64,
) -> Sys<RawFd> {
    let context = mount::fsopen(kind)?;
    let made = (|| {
        for (key, value) in options {
            mount::fsconfig_set(context, key, value.as_deref())?;
        }
        if mode.is_some() {
            mount::fsconfig_set(context, c"mode", mode)?;
        }
        mount::fsconfig_create(context)?;
        mount::fsmount(context, attributes)
    })();
    fs::close(context);
    made
}

/// A procfs of our own, on which nothing is mounted. A user namespace may not mount one of its parent's pid namespace, nor
/// where each that it sees is partly covered: then it is the one at /proc, and who looks something up below it must not
/// leave the mount (`RESOLVE_NO_XDEV`).
pub fn own_procfs() -> Sys<RawFd> {
    /// fs/proc/internal.h, PROC_ROOT_INO: a bind of something below it is a procfs, too.
    const ROOT: u64 = 1;
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let made = new_filesystem(c"proc", &[], None, attributes);
    if made != Err(Errno::EPERM) {
        return made;
    }
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let Ok(procfs) = fs::open(fs::CWD, c"/proc", flags, 0) else { return made };
    if require_procfs(procfs).is_ok() && fs::stat(procfs)?.st_ino == ROOT {
        return Ok(procfs);
    }
    fs::close(procfs);
    made
}

/// Gives the file system of `mount` other options.
pub fn reconfigure(mount: RawFd, options: &[(CString, Option<CString>)]) -> Sys {
    let context = mount::fspick(mount)?;
    let changed = options
        .iter()
        .try_for_each(|(key, value)| mount::fsconfig_set(context, key, value.as_deref()))
        .and_then(|()| mount::fsconfig_reconfigure(context));
    fs::close(context);
    changed
}

/// A new file system by mount(2), detached: mounted at `place`, copied, and taken away from there.
pub fn new_filesystem_at(place: &CStr, source: &CStr, kind: &CStr, flags: u64, data: &CStr) -> Sys<RawFd> {
    mount::mount_filesystem(source, place, kind, flags, data)?;
    let copy = mount::open_tree_clone(fs::CWD, place, 0);
    mount::umount(place, libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW)?;
    copy
}

/// Makes the mount that `path` lies on private: the nearest ancestor that is the root of a mount.
pub fn make_mount_private(setter: &mut Setter, path: &CStr) -> Sys {
    let mut place = fs::open(fs::CWD, path, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    loop {
        match setter.propagate(place, libc::MS_PRIVATE) {
            Err(Errno::EINVAL) => {
                let parent = fs::open(place, c"..", libc::O_PATH | libc::O_DIRECTORY, 0)?;
                let (here, above) = (fs::stat(place)?, fs::stat(parent)?);
                fs::close(place);
                place = parent;
                if (here.st_dev, here.st_ino) == (above.st_dev, above.st_ino) {
                    fs::close(place);
                    return Err(Errno::EINVAL);
                }
            }
            result => {
                fs::close(place);
                return result;
            }
        }
    }
}

/// Enters a new mount namespace of nothing but the mounts at `path`, of which its root is open then.
pub fn root_namespace(path: &CStr) -> Sys<RawFd> {
    let namespace = mount::open_tree_namespace(path)?;
    let entered = process::setns(namespace, libc::CLONE_NEWNS);
    fs::close(namespace);
    entered?;
    fs::open(fs::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)
}

/// Makes `root` the root of the namespace and drops the old one. A `shared` old root becomes a slave before.
pub fn pivot_root(setter: &mut Setter, root: RawFd, shared: bool) -> Sys {
    if shared {
        let old = fs::open(fs::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
        let attributes = Attributes { propagation: libc::MS_SLAVE, ..Attributes::default() };
        let result = stack_roots(root).and_then(|()| setter.set(old, true, &attributes));
        fs::close(old);
        result?;
    } else {
        stack_roots(root)?;
    }
    mount::umount(c".", libc::MNT_DETACH)?;
    fs::chdir(c"/")
}

/// With "." for both, the old root is stacked on the new one, and "." still means the old one to umount2(2)
/// (pivot_root(2), "pivot_root(".", ".")").
fn stack_roots(root: RawFd) -> Sys {
    fs::fchdir(root)?;
    mount::pivot_root(c".", c".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// What a mount is held by cannot take an extended attribute itself (open(2), O_PATH).
    #[test]
    fn the_root_of_a_mount_takes_a_label() {
        if Path::new("/sys/fs/selinux/enforce").exists() || !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root, and a machine where any label is one");
            return;
        }
        let mount = new_filesystem(c"tmpfs", &[], None, 0).unwrap();
        set_label(mount, c"u:r:t:s0").unwrap();
        let root = fs::open(mount, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0).unwrap();
        let mut value = [0u8; 16];
        let length = fs::extended_attribute(root, c"security.selinux", &mut value).unwrap();
        assert_eq!(value.get(..length), Some(&b"u:r:t:s0"[..]));
        fs::close(root);
        fs::close(mount);
    }
}
