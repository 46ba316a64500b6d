//! `linux.devices`, the devices that every container has, and the links in /dev.

use super::Input;
use super::builder::{Builder, cpath, cstring, slots};
use crate::error::Result;
use crate::init::{DeviceNode, Op, Slot};
use crate::path;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use std::path::Path;

/// Name, major, minor of what runtime-spec config-linux.md, "Default Devices" lists.
pub(super) const DEFAULT_DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The links of runtime-linux.md, "Dev symbolic links", and /dev/ptmx of "Default Devices".
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Where the nodes of /dev are made: straight in the new tmpfs, or by way of the root.
fn place(tmpfs: bool, path: &Path) -> (Slot, &Path) {
    match path.strip_prefix("/dev") {
        Ok(name) if tmpfs && name.components().count() == 1 => (slots::DEV, name),
        _ => (slots::ROOT, path),
    }
}

/// What /dev is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dev {
    /// A new tmpfs, which nobody else can reach yet.
    New,
    /// A directory of the rootfs, or of another file system.
    Other,
    /// A directory of the host, which has its devices and links.
    Bound,
}

/// Compiles nodes and links.
pub(super) fn compile(builder: &mut Builder, input: &Input<'_>, dev: Dev) -> Result<()> {
    let tmpfs = dev == Dev::New;
    let listed = input.linux().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    // What is out of range was refused, but for FIFOs, which have no number.
    let number = |number: i64| u32::try_from(number).unwrap_or(0);
    for device in listed.iter().filter(|device| !is_ptmx(device)) {
        let kind = match device.typ() {
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::P => libc::S_IFIFO,
            _ => libc::S_IFCHR,
        };
        // As destinations of mounts are: where a slash ends a path the kernel makes no node.
        let path = path::absolute(device.path());
        if dev == Dev::Bound && path.starts_with("/dev") {
            continue;
        }
        let (root, place) = place(tmpfs, &path);
        let node = DeviceNode {
            path: cpath("linux.devices", place)?,
            mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
            dev: libc::makedev(number(device.major()), number(device.minor())),
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
            exact: true,
        };
        node_or_bind(builder, input, "linux.devices", root, node, &path)?;
    }
    if dev == Dev::Bound {
        return Ok(());
    }
    // The path of a name in /dev, and where it is made: as `place`, without taking the path apart.
    let in_dev = |name: &str| {
        let path = ["/dev/", name].concat();
        let (root, place) = if tmpfs { (slots::DEV, name) } else { (slots::ROOT, path.as_str()) };
        cstring("(default devices)", place).map(|place| (path, root, place))
    };
    for (name, major, minor) in DEFAULT_DEVICES {
        let (path, root, place) = in_dev(name)?;
        if listed.iter().any(|device| device.path() == Path::new(&path)) {
            continue;
        }
        let node = DeviceNode {
            path: place,
            mode: libc::S_IFCHR | 0o666,
            dev: libc::makedev(major, minor),
            uid: 0,
            gid: 0,
            exact: false,
        };
        node_or_bind(builder, input, "(default devices)", root, node, Path::new(&path))?;
    }
    let kcore = input.host.has_kcore.then_some(("core", "/proc/kcore"));
    for (name, target) in LINKS.into_iter().chain(kcore) {
        let (_, root, path) = in_dev(name)?;
        builder.push("(default links)", Op::MakeLink { root, path, target: cstring("(default links)", target)? });
    }
    Ok(())
}

/// Whether a device is the multiplexer that every container has: its devpts has one, to which the link leads.
fn is_ptmx(device: &LinuxDevice) -> bool {
    let is_char = matches!(device.typ(), LinuxDeviceType::C | LinuxDeviceType::U);
    device.path() == Path::new("/dev/ptmx") && is_char && (device.major(), device.minor()) == (5, 2)
}

/// A node, or the host's node bound: the container's user namespace forbids mknod(2), and so may one that the runtime itself is in.
fn node_or_bind(
    builder: &mut Builder,
    input: &Input<'_>,
    field: &'static str,
    root: Slot,
    device: DeviceNode,
    host: &Path,
) -> Result<()> {
    let host = cpath(field, host)?;
    // Root of a user namespace may make a FIFO (mknod(2)).
    let op = if input.has_user_namespace() && device.mode & libc::S_IFMT != libc::S_IFIFO {
        Op::BindDevice { root, device, host }
    } else {
        Op::MakeDevice { root, device, host }
    };
    builder.push(field, op);
    Ok(())
}
