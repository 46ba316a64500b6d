//! `root`, `mounts`, devices and the paths that are hidden: the file system that the container sees.

use super::Input;
use super::builder::{Builder, cpath, cstring, slots};
use super::cgroup_mounts;
use super::devices::Dev;
use crate::cgroup::layout::Mode;
use crate::error::{Error, Result};
use crate::init::{Create, Op, Rule, Slot, Source, Step};
use crate::path;
use crate::spec::mount_options::{self, MountOptions};
use crate::sys::mount::Attributes;
use oci_spec::runtime::{LinuxDevice, LinuxIdMapping, LinuxNamespaceType, Mount, Spec};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The directory in the container's state directory where the root is, for a container without a mount namespace.
pub const HOST_ROOT: &str = "root";

/// Places below /proc over which a mount is allowed: files that tell of load and memory, which LXCFS and its like
/// replace, and two that CRIU and FIPS need. A mount anywhere else on procfs could fake what LSMs and the runtime
/// read (CVE-2019-16884).
const PROC_EXCEPTIONS: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// One entry of `mounts`, understood.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// "mounts[3]".
    pub field: String,
    /// The destination, absolute and without "." and "..".
    pub destination: PathBuf,
    /// `type`; "bind" where the options say so.
    pub kind: &'a str,
    /// `source`.
    pub source: Option<&'a Path>,
    /// `options`.
    pub options: MountOptions,
    /// `uidMappings` and `gidMappings`.
    pub mappings: Option<(&'a [LinuxIdMapping], &'a [LinuxIdMapping])>,
}

impl<'a> Entry<'a> {
    fn new(index: usize, mount: &'a Mount, rootfs: &Path) -> Result<Self> {
        let field = format!("mounts[{index}]");
        let options = mount.options().iter().flatten().map(String::as_str);
        let options = MountOptions::parse(format_args!("{field}.options"), options)?;
        let kind = if options.bind.is_some() { "bind" } else { mount.typ().as_deref().unwrap_or("bind") };
        let mappings = match (mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref()) {
            (Some(uids), Some(gids)) if !uids.is_empty() && !gids.is_empty() => Some((uids, gids)),
            _ => None,
        };
        Ok(Self {
            // As runc, a path of the host that leads into the root means the same place.
            destination: path::absolute(mount.destination().strip_prefix(rootfs).unwrap_or(mount.destination())),
            kind,
            source: mount.source().as_deref(),
            options,
            mappings,
            field,
        })
    }

    /// All of `spec`, in their order.
    pub fn all(spec: &'a Spec, rootfs: &Path) -> Result<Vec<Self>> {
        let mounts = spec.mounts().iter().flatten().enumerate();
        mounts.map(|(index, mount)| Self::new(index, mount, rootfs)).collect()
    }

    /// What the place of the mount must be.
    pub fn rule(&self) -> Rule {
        match self.kind {
            "proc" | "sysfs" => Rule::PlainDirectory,
            _ if PROC_EXCEPTIONS.iter().any(|path| self.is_at(path)) => Rule::Any,
            _ => Rule::OffProc,
        }
    }

    /// Whether the destination is `path`, which is written as destinations are.
    fn is_at(&self, path: &str) -> bool {
        self.destination.as_os_str() == path
    }

    /// The name of the destination, if that lies straight in the directory `parent`, which ends with a slash.
    fn name_in(&self, parent: &str) -> Option<&str> {
        self.destination.to_str()?.strip_prefix(parent).filter(|name| !name.contains('/'))
    }

    fn path(&self) -> Result<CString> {
        cpath(format_args!("{}.destination", self.field), &self.destination)
    }
}

/// A user namespace that the runtime has to make for an id-mapped mount.
#[derive(Debug)]
pub struct IdMapping {
    /// Where its descriptor goes.
    pub slot: Slot,
    /// The user ids.
    pub uids: Vec<LinuxIdMapping>,
    /// The group ids.
    pub gids: Vec<LinuxIdMapping>,
}

/// What the runtime does for the mounts before the clone.
#[derive(Debug, Default)]
pub struct Outside {
    /// Steps in the runtime's own namespaces.
    pub steps: Vec<Step>,
    /// Whether they are taken in a copy of the runtime's mount namespace that belongs to another user namespace, as the container's does.
    pub is_locked: bool,
    /// User namespaces to make first.
    pub id_mappings: Vec<IdMapping>,
    /// Where the user namespace is that the container joins, if it joins one.
    pub joined_user_namespace: Option<Slot>,
}

/// What was compiled of the mounts.
#[derive(Debug)]
pub(super) struct Mounted {
    /// New file systems that are to be read-only in the end ([`finish`]): the field, and where the mount is.
    read_only: Vec<(String, Slot)>,
    /// Whether there is a procfs at /proc that does not wait for the network namespace.
    has_proc: bool,
    /// Whether /dev is bound, with what is in it.
    pub has_bound_dev: bool,
}

/// Compiles everything from the first mount to the last.
pub(super) fn compile(
    builder: &mut Builder,
    input: &Input<'_>,
    entries: &[Entry<'_>],
    outside: &mut Outside,
) -> Result<Mounted> {
    root(builder, input)?;
    let (at_once, waiting) = entries.split_at(first_to_wait(builder, input, entries));
    let mut new_dev = false;
    let mut read_only = Vec::new();
    let mut compile = |builder: &mut Builder, entry: &Entry<'_>| {
        if (entry.is_at("/dev") || entry.is_at("/")) && !entry.options.remount {
            new_dev = is_dev_tmpfs(entry);
        }
        let in_dev = entry.name_in("/dev/").filter(|_| new_dev);
        if shows_network(builder, entry) {
            builder.need_network();
        }
        match entry.kind {
            _ if entry.options.remount => remount(builder, entry),
            "cgroup" | "cgroup2" => cgroup_mounts::compile(builder, input, entry, &mut read_only),
            "bind" => bind(builder, input, entry, outside),
            _ => filesystem(builder, input, entry, in_dev, &mut read_only),
        }
    };
    at_once.iter().try_for_each(|entry| compile(builder, entry))?;
    builder.after_network(|builder| waiting.iter().try_for_each(|entry| compile(builder, entry)))?;
    let has_proc = at_once.iter().any(|entry| entry.kind == "proc" && entry.is_at("/proc"));
    let has_bound_dev =
        entries.iter().any(|entry| entry.kind == "bind" && !entry.options.remount && entry.is_at("/dev"));
    let dev = match has_bound_dev {
        true => Dev::Bound,
        false if new_dev => Dev::New,
        false => Dev::Other,
    };
    super::devices::compile(builder, input, dev)?;
    Ok(Mounted { read_only, has_proc, has_bound_dev })
}

/// Whether what is mounted may depend on the network namespace of who mounts it: a sysfs and some others show it, and so does what can be bound from
/// procfs or sysfs, by whatever path. These are known not to.
fn shows_network(builder: &Builder, entry: &Entry<'_>) -> bool {
    let is_apart = matches!(entry.kind, "proc" | "tmpfs" | "devpts" | "mqueue" | "cgroup" | "cgroup2" | "ramfs")
        || entry.kind == "bind" && builder.begins_with_root;
    !entry.options.remount && !is_apart
}

/// From which of `entries` on they may wait for the network namespace: the first that may show it, with all that come after it. Devices, the terminal and
/// what is hidden below /proc come before them then, so none may wait if that could be in one of them.
fn first_to_wait(builder: &Builder, input: &Input<'_>, entries: &[Entry<'_>]) -> usize {
    let devices = input.linux().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let apart = |entry: &Entry<'_>| {
        !entry.is_at("/") && !entry.destination.starts_with("/dev") && !entry.destination.starts_with("/proc")
    };
    let first = entries.iter().position(|entry| shows_network(builder, entry)).unwrap_or(entries.len());
    let in_dev = |device: &LinuxDevice| path::absolute(device.path()).starts_with("/dev");
    let may_wait = devices.iter().all(in_dev) && entries.iter().skip(first).all(apart);
    if may_wait { first } else { entries.len() }
}

/// Everything that is done to the mounts once all of them are there and the root has been changed.
pub(super) fn finish(builder: &mut Builder, input: &Input<'_>, mounted: Mounted) {
    for (field, mount) in mounted.read_only {
        // Only now: device nodes and places of other mounts had to be made in it.
        builder.push(field, set(mount, libc::MOUNT_ATTR_RDONLY));
    }
    if input.spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
        builder.push("root.readonly", set(slots::ROOT, libc::MOUNT_ATTR_RDONLY));
    }
}

fn set(mount: Slot, set: u64) -> Op {
    Op::SetAttributes { mount, attributes: Attributes { set, ..Attributes::default() }, recursive: false }
}

/// Whether the mount is a fresh file system at /dev, which holds the device nodes.
fn is_dev_tmpfs(entry: &Entry<'_>) -> bool {
    entry.is_at("/dev") && entry.kind == "tmpfs" && !entry.options.remount
}

/// The root itself: a mount of its own, since only a mount can become the root of the namespace.
fn root(builder: &mut Builder, input: &Input<'_>) -> Result<()> {
    let path = cpath("root.path", input.rootfs)?;
    if input.namespace(LinuxNamespaceType::Mount).is_none() {
        prepare_masks(builder, input)?;
        return root_among_the_hosts(builder, input, path);
    }
    let propagation = root_propagation(input)?;
    let of_host = host_propagation(propagation);
    if builder.begins_with_root {
        prepare_masks(builder, input)?;
        builder.push("root.path", Op::RootNamespace { path, into: slots::ROOT });
        builder.push("linux.rootfsPropagation", Op::RootPropagation { propagation: of_host });
        return Ok(());
    }
    builder.push("linux.rootfsPropagation", Op::RootPropagation { propagation: of_host });
    if matches!(propagation, Some((libc::MS_SHARED, _))) {
        builder.push("linux.rootfsPropagation", Op::ParentPrivate { path: path.clone() });
    }
    // A copy made before would be a peer of the host's mount: what is mounted on a masked path would be on the host's /dev/null.
    prepare_masks(builder, input)?;
    match input.overlay {
        Some(overlay) => super::overlay::compile(builder, input.rootfs, input.state_dir, overlay)?,
        None => {
            let source = Source::Path(path.clone());
            builder.push("root.path", Op::CloneTree { source, recursive: true, into: slots::ROOT });
        }
    }
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    builder.push("root.path", Op::OpenHost { path, flags, into: slots::TARGET });
    builder.push("root.path", Op::Attach { mount: slots::ROOT, target: slots::TARGET });
    Ok(())
}

/// Whether the container's mount namespace may be made of the root alone. What is looked up on the host is looked up before, so there must be nothing that is to be found
/// in another order, or by somebody who expects the host's mounts to be there until the root is changed: hooks.
pub(super) fn may_begin_with_root(input: &Input<'_>, entries: &[Entry<'_>]) -> Result<bool> {
    /// They are mounted without a look at a path.
    const WITHOUT_PATHS: [&str; 6] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "ramfs"];
    /// Each may take two slots for what is looked up before.
    const MANY: usize = 100;
    /// CAP_SYS_CHROOT, without which no mount namespace is entered (setns(2)), and CAP_MKNOD, without which devices are binds of the host's.
    const NEEDED: u64 = 1 << 18 | 1 << 27;
    if !input.host.makes_root_namespaces
        || !input.creates(LinuxNamespaceType::Mount)
        || input.has_user_namespace()
        || input.overlay.is_some()
        || input.no_pivot.is_some()
        || input.host.capabilities.permitted & NEEDED != NEEDED
        || input.hooks().is_some_and(super::runs_hooks_before_the_root)
        || input.linux().is_some_and(|linux| linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()))
        || !matches!(root_propagation(input)?, None | Some((libc::MS_SLAVE, _)))
        || entries.len() > MANY
    {
        return Ok(false);
    }
    let fits = |entry: &Entry<'_>| {
        let is_short = |text: &[u8]| text.len() <= LONGEST_VALUE;
        let mut values = entry.options.data.iter().filter_map(|(_, value)| value.as_deref().map(str::as_bytes));
        let is_found_before = match entry.kind {
            _ if entry.options.remount => true,
            "bind" => entry.source.is_some_and(|source| !input.bundle.join(source).starts_with(input.rootfs)),
            "cgroup" | "cgroup2" => input.layout.mode == Mode::Unified && input.may_mount_cgroups(),
            kind => {
                WITHOUT_PATHS.contains(&kind)
                    && entry.source.is_none_or(|source| is_short(source.as_os_str().as_bytes()))
            }
        };
        is_found_before && !entry.is_at("/") && values.all(is_short)
    };
    Ok(entries.iter().all(fits))
}

/// How the host's mounts, and copies of them, propagate in the container's mount namespace.
fn host_propagation(of_root: Option<(u64, bool)>) -> u64 {
    match of_root {
        None => libc::MS_SLAVE,
        // What cannot be bound could not become the container's root either: that gets it in the end.
        Some((libc::MS_UNBINDABLE, _)) => libc::MS_PRIVATE,
        Some((kind, _)) => kind,
    }
}

/// Without a mount namespace the container's mounts are among the host's. They hang from a bind of the root in the
/// container's state directory, so that taking that one away takes all of them away.
fn root_among_the_hosts(builder: &mut Builder, input: &Input<'_>, path: CString) -> Result<()> {
    let field = "root.path";
    if input.overlay.is_some() {
        let problem = "has no mount namespace, which an overlay needs: add one";
        return Err(Error::config("linux.namespaces", problem));
    }
    let private = Attributes { propagation: libc::MS_PRIVATE, ..Attributes::default() };
    let keep_private = || Op::SetAttributes { mount: slots::ROOT, attributes: private, recursive: true };
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let place = input.state_dir.join(HOST_ROOT);
    builder.push(field, Op::OpenHost { path: cpath(field, input.state_dir)?, flags, into: slots::TARGET });
    builder.push(field, Op::MakeDirectory { dir: slots::TARGET, path: cstring(field, HOST_ROOT)?, mode: 0o700 });
    builder.push(field, Op::OpenHost { path: cpath(field, &place)?, flags, into: slots::TARGET });
    builder.push(field, Op::CloneTree { source: Source::Path(path), recursive: true, into: slots::ROOT });
    // Neither is what the bundle's mounts share with others to be changed, nor do others get the container's: a mount
    // becomes shared when it is attached to a shared one.
    builder.push(field, keep_private());
    builder.push(field, Op::Attach { mount: slots::ROOT, target: slots::TARGET });
    builder.push(field, keep_private());
    Ok(())
}

/// `linux.rootfsPropagation`: `MS_SHARED` and its like, and whether recursive.
pub(super) fn root_propagation(input: &Input<'_>) -> Result<Option<(u64, bool)>> {
    let Some(name) =
        input.linux().and_then(|linux| linux.rootfs_propagation().as_deref()).filter(|name| !name.is_empty())
    else {
        return Ok(None);
    };
    let options = MountOptions::parse("linux.rootfsPropagation", [name])?;
    match options.propagation.first() {
        Some(propagation) => Ok(Some(*propagation)),
        None => Err(Error::config(
            "linux.rootfsPropagation",
            format!(
                "{name:?} is unknown: use shared, slave, private or unbindable, or one of these with an \"r\" before"
            ),
        )),
    }
}

/// A new file system: proc, tmpfs, devpts, sysfs, ... `in_dev` is the name of its place in a new /dev. If something may still have to be
/// written there, `read_only` gets it instead of its being read-only at once.
fn filesystem(
    builder: &mut Builder,
    input: &Input<'_>,
    entry: &Entry<'_>,
    in_dev: Option<&str>,
    read_only: &mut Vec<(String, Slot)>,
) -> Result<()> {
    if entry.kind != "proc" && entry.is_at("/proc") {
        let problem = "\"/proc\" cannot be mounted because it is not of type proc, and other files there would be \
                       taken for the kernel's: mount a procfs";
        return Err(Error::config(&entry.field, problem));
    }
    let mut attributes = entry.options.of_new_mount();
    let label = super::lsm::root_label(input.linux(), entry.kind, input.host);
    let may_be_written = entry.kind == "tmpfs" || entry.is_at("/dev") || label.is_some();
    let waits = may_be_written && attributes & libc::MOUNT_ATTR_RDONLY != 0;
    let into = match is_dev_tmpfs(entry) {
        true => slots::DEV,
        false if waits => builder.slot(&entry.field)?,
        false => slots::MOUNT,
    };
    if into == slots::DEV {
        // The one before is covered.
        read_only.retain(|(_, mount)| *mount != into);
    }
    if waits {
        attributes &= !libc::MOUNT_ATTR_RDONLY;
        read_only.push((entry.field.clone(), into));
    }
    let options = filesystem_options(input, entry)?;
    let op = if entry.kind == "tmpfs" && !entry.options.data.iter().any(|(key, _)| key == "mode") {
        Op::TmpfsLike { root: slots::ROOT, path: entry.path()?, options, attributes, into }
    } else {
        let kind = cstring(format_args!("{}.type", entry.field), entry.kind)?;
        new_filesystem(input.private_place(), &format!("{}.options", entry.field), kind, options, attributes, into)?
    };
    builder.push(entry.field.clone(), op);
    if let Some(label) = label {
        builder.push("linux.mountLabel", Op::SetLabel { mount: into, label: cstring("linux.mountLabel", label)? });
    }
    if let Some(name) = in_dev {
        // It is missing there, and finding that out and making it from the root down takes eleven calls.
        let path = cstring(format_args!("{}.destination", entry.field), name)?;
        builder.push(entry.field.clone(), Op::MakeDirectory { dir: slots::DEV, path, mode: 0o755 });
    }
    builder.push(
        entry.field.clone(),
        Op::Target {
            root: slots::ROOT,
            path: entry.path()?,
            create: Create::Directory,
            rule: entry.rule(),
            into: slots::TARGET,
        },
    );
    if entry.options.copy_up && entry.kind == "tmpfs" {
        builder.push(entry.field.clone(), Op::CopyUp { from: slots::TARGET, to: into });
    }
    attach(builder, entry, into);
    propagate(builder, entry, into);
    Ok(())
}

/// The longest value that fsconfig(2) takes, in bytes (fs/fsopen.c of Linux).
const LONGEST_VALUE: usize = 255;

/// The most that mount(2) reads of its options, with the zero byte: a page of the smallest size.
const LONGEST_DATA: usize = 4096;

/// Makes a file system with `options` as [`filesystem_options`] returns them.
///
/// Options that are too long for fsconfig(2) take a mount at `place`, a directory of the container's mount namespace if it has one.
///
/// # Errors
/// The options are too long for the kernel; `field` is blamed.
pub(super) fn new_filesystem(
    place: Option<&Path>,
    field: &str,
    kind: CString,
    options: Vec<(CString, Option<CString>)>,
    attributes: u64,
    into: Slot,
) -> Result<Op> {
    if options.iter().filter_map(|(_, value)| value.as_ref()).all(|value| value.count_bytes() <= LONGEST_VALUE) {
        return Ok(Op::NewFilesystem { kind, options, attributes, into });
    }
    let Some(place) = place else {
        let problem = format!("has a value of more than {LONGEST_VALUE} bytes, which needs a mount namespace: add one");
        return Err(Error::config(field, problem));
    };
    let mut source = c"none".to_owned();
    let mut flags = 0;
    let mut data = Vec::new();
    for (key, value) in options {
        match (key.to_bytes(), value) {
            (b"source", Some(value)) => source = value,
            (b"ro", None) => flags |= libc::MS_RDONLY,
            (b"sync", None) => flags |= libc::MS_SYNCHRONOUS,
            (b"dirsync", None) => flags |= libc::MS_DIRSYNC,
            (b"lazytime", None) => flags |= libc::MS_LAZYTIME,
            (b"mand", None) => flags |= libc::MS_MANDLOCK,
            (key, value) => {
                let separator: &[u8] = if data.is_empty() { b"" } else { b"," };
                let value = value.map(|value| [b"=", value.to_bytes()].concat()).unwrap_or_default();
                data.extend([separator, key, &value].concat());
            }
        }
    }
    if data.len() >= LONGEST_DATA {
        let problem =
            format!("has {} bytes of options, of which the kernel reads {LONGEST_DATA}: use fewer", data.len());
        return Err(Error::config(field, problem));
    }
    let place = cpath(field, place)?;
    Ok(Op::NewFilesystemAt { kind, source, data: cstring(field, data)?, flags, attributes, place, into })
}

/// Keys and values for fsconfig(2).
pub(super) fn filesystem_options(input: &Input<'_>, entry: &Entry<'_>) -> Result<Vec<(CString, Option<CString>)>> {
    let mut options = Vec::new();
    if let Some(source) = entry.source {
        options.push((c"source".to_owned(), Some(cpath(format_args!("{}.source", entry.field), source)?)));
    }
    if entry.options.of_new_mount() & libc::MOUNT_ATTR_RDONLY != 0
        && entry.source.is_some_and(|source| source.starts_with("/dev"))
    {
        // A device that is read-only itself can be mounted in no other way.
        options.push((c"ro".to_owned(), None));
    }
    options.extend(own_options(entry)?);
    options.extend(label(input, entry.kind)?);
    Ok(options)
}

/// `linux.mountLabel`, for fsconfig(2).
pub(super) fn label(input: &Input<'_>, kind: &str) -> Result<Option<(CString, Option<CString>)>> {
    let context = super::lsm::mount_context(input.linux(), kind, input.host);
    let option = |(key, value)| Ok((cstring("linux.mountLabel", key)?, Some(cstring("linux.mountLabel", value)?)));
    context.map(option).transpose()
}

/// Those that are the file system's own, for fsconfig(2).
fn own_options(entry: &Entry<'_>) -> Result<Vec<(CString, Option<CString>)>> {
    let option = |text: &str| cstring(format_args!("{}.options", entry.field), text);
    let flags = entry.options.superblock.iter().map(|flag| Ok((option(flag)?, None)));
    let data = entry.options.data.iter();
    flags.chain(data.map(|(key, value)| Ok((option(key)?, value.as_deref().map(option).transpose()?)))).collect()
}

/// A file or directory of the host.
fn bind(builder: &mut Builder, input: &Input<'_>, entry: &Entry<'_>, outside: &mut Outside) -> Result<()> {
    let field = format!("{}.source", entry.field);
    let source = entry.source.ok_or_else(|| Error::config(&field, "is missing: a bind mount needs a source"))?;
    let path = input.bundle.join(source);
    let source = cpath(&field, &path)?;
    let recursive = entry.options.bind.unwrap_or(false);
    let id_mapped = entry.options.idmap.is_some() || entry.mappings.is_some();
    // What the runtime copies, init only puts in place. But a source inside the root may be one of the mounts made here.
    let inside = path.starts_with(input.rootfs);
    let mount = if (id_mapped || input.mounts_from_outside() || builder.begins_with_root) && !inside {
        let slot = builder.slot(&entry.field)?;
        let op = Op::CloneTree { source: Source::Path(source), recursive, into: slot };
        outside.is_locked = input.mounts_from_outside() && input.creates(LinuxNamespaceType::Mount);
        outside.steps.push(Step { op, field: entry.field.clone().into() });
        if id_mapped {
            let userns = id_map(builder, input, entry, outside)?;
            let recursive = entry.options.idmap.unwrap_or(false);
            let op = Op::SetIdMap { mount: slot, userns, recursive };
            outside.steps.push(Step { op, field: entry.field.clone().into() });
        }
        slot
    } else {
        builder
            .push(entry.field.clone(), Op::CloneTree { source: Source::Path(source), recursive, into: slots::MOUNT });
        if id_mapped {
            let userns = id_map(builder, input, entry, outside)?;
            let recursive = entry.options.idmap.unwrap_or(false);
            let mount = slots::MOUNT;
            let op = if input.has_user_namespace() {
                Op::AskForIdMap { mount, userns, recursive }
            } else {
                Op::SetIdMap { mount, userns, recursive }
            };
            builder.push(entry.field.clone(), op);
        }
        slots::MOUNT
    };
    if entry.is_at("/proc") {
        builder.push(entry.field.clone(), Op::RequireProcfs { mount });
    }
    if let Some(attributes) = bind_attributes(&entry.options) {
        // Those that the options do not name are off, as in runc, whose mount(2) says all of them at once.
        let implied = LOCKED & !attributes.set & !attributes.clear;
        let op = if input.has_user_namespace() {
            Op::SetLockedAttributes { mount, attributes }
        } else if implied == 0 {
            Op::SetAttributes { mount, attributes, recursive: false }
        } else {
            Op::SetBindAttributes { mount, attributes, implied }
        };
        builder.push(entry.field.clone(), op);
    }
    attributes_of_all(builder, entry, mount);
    builder.push(
        entry.field.clone(),
        Op::Target {
            root: slots::ROOT,
            path: entry.path()?,
            create: Create::Like(mount),
            rule: entry.rule(),
            into: slots::TARGET,
        },
    );
    attach(builder, entry, mount);
    let from_outside = mount != slots::MOUNT;
    if from_outside && input.namespace(LinuxNamespaceType::Mount).is_some() {
        // A copy of a shared mount is its peer: what the container mounts there would be mounted on the host, too.
        let attributes =
            Attributes { propagation: host_propagation(root_propagation(input)?), ..Attributes::default() };
        builder.push(entry.field.clone(), Op::SetAttributes { mount, attributes, recursive: true });
    }
    propagate(builder, entry, mount);
    if from_outside {
        builder.push(entry.field.clone(), Op::Close { slot: mount });
    }
    Ok(())
}

/// What a user namespace could not take back from a mount of its parent's (mount_namespaces(7), "locked"): it keeps that of a
/// bind mount where the options do not name it.
const LOCKED: u64 =
    libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// The attributes of a bind mount whose options name some, but for [`LOCKED`] ones that they do not name. How access times
/// are kept stays as it is unless an option chooses; then MOUNT_ATTR_NODIRATIME is part of the choice.
fn bind_attributes(options: &MountOptions) -> Option<Attributes> {
    if !options.named {
        return None;
    }
    let access_times = mount_options::ATIME | libc::MOUNT_ATTR_NODIRATIME;
    let chooses = options.clear & mount_options::ATIME != 0 || options.set & libc::MOUNT_ATTR_NODIRATIME != 0;
    let (set, mut clear) = (options.set, options.clear & !access_times | libc::MOUNT_ATTR_NOSYMFOLLOW);
    if chooses {
        clear |= access_times;
    }
    // The kernel wants the whole field cleared where a way to keep access times is set.
    Some(Attributes { set, clear: clear & !(set & !mount_options::ATIME), ..Attributes::default() })
}

pub(super) fn attributes(set: u64, clear: u64) -> Attributes {
    // The kernel wants the whole access time field cleared when it is set to something.
    let atime = if set & mount_options::ATIME != 0 { mount_options::ATIME } else { 0 };
    Attributes { set, clear: clear | atime, ..Attributes::default() }
}

/// What is said of the mount and all below it.
fn attributes_of_all(builder: &mut Builder, entry: &Entry<'_>, mount: Slot) {
    if entry.options.set_all != 0 || entry.options.clear_all != 0 {
        let attributes = attributes(entry.options.set_all, entry.options.clear_all);
        builder.push(entry.field.clone(), Op::SetAttributes { mount, attributes, recursive: true });
    }
}

/// The slot of the user namespace that an id-mapped mount is to have.
fn id_map(builder: &mut Builder, input: &Input<'_>, entry: &Entry<'_>, outside: &mut Outside) -> Result<Slot> {
    let linux = input.linux();
    let own = linux.and_then(|linux| linux.uid_mappings().as_deref().zip(linux.gid_mappings().as_deref()));
    if let (None, Some(joined)) = (entry.mappings, outside.joined_user_namespace) {
        return Ok(joined);
    }
    let Some((uids, gids)) = entry.mappings.or(own) else {
        let problem = "is asked for without uidMappings and gidMappings, and linux has none either: add them";
        return Err(Error::config(format_args!("{}.options (idmap)", entry.field), problem));
    };
    // Mounts with the same mappings share one: each costs a process to clone, and a slot.
    if let Some(made) = outside.id_mappings.iter().find(|made| made.uids == uids[..] && made.gids == gids[..]) {
        return Ok(made.slot);
    }
    let slot = builder.slot(&entry.field)?;
    outside.id_mappings.push(IdMapping { slot, uids: uids.to_vec(), gids: gids.to_vec() });
    Ok(slot)
}

/// Changes a mount that is already there.
fn remount(builder: &mut Builder, entry: &Entry<'_>) -> Result<()> {
    builder.push(
        entry.field.clone(),
        Op::OpenInRoot { root: slots::ROOT, path: entry.path()?, flags: libc::O_PATH, into: slots::TARGET },
    );
    let mount = slots::TARGET;
    let options = own_options(entry)?;
    if entry.options.bind.is_none() && !options.is_empty() {
        builder.push(entry.field.clone(), Op::Reconfigure { mount, options });
    }
    let attributes = attributes(entry.options.set, entry.options.clear);
    builder.push(entry.field.clone(), Op::SetAttributes { mount, attributes, recursive: false });
    attributes_of_all(builder, entry, mount);
    propagate(builder, entry, mount);
    Ok(())
}

/// Puts `mount` in its place, which is in [`slots::TARGET`]. One at "/" is the root from then on.
pub(super) fn attach(builder: &mut Builder, entry: &Entry<'_>, mount: Slot) {
    let (field, root) = (&entry.field, slots::ROOT);
    let is_root = entry.is_at("/");
    if is_root {
        // pivot_root(2) refuses a root that is mounted on a shared one.
        let attributes = Attributes { propagation: libc::MS_PRIVATE, ..Attributes::default() };
        builder.push(field.clone(), Op::SetAttributes { mount: root, attributes, recursive: false });
    }
    builder.push(field.clone(), Op::Attach { mount, target: slots::TARGET });
    if is_root {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        builder.push(field.clone(), Op::OpenInRoot { root: mount, path: c"/".into(), flags, into: root });
    }
}

pub(super) fn propagate(builder: &mut Builder, entry: &Entry<'_>, mount: Slot) {
    for (propagation, recursive) in &entry.options.propagation {
        let attributes = Attributes { propagation: *propagation, ..Attributes::default() };
        builder.push(entry.field.clone(), Op::SetAttributes { mount, attributes, recursive: *recursive });
    }
}

/// `linux.maskedPaths` and `linux.readonlyPaths`.
pub(super) fn hidden_paths(builder: &mut Builder, input: &Input<'_>, mounted: &Mounted) -> Result<()> {
    let Some(linux) = input.linux() else { return Ok(()) };
    let root = slots::ROOT;
    let hide = |builder: &mut Builder, field: &'static str, path: &str, op: &dyn Fn(CString) -> Op| {
        // With a slash at the end the kernel finds no file. What ".." means depends on links before it, so that stays.
        let tidy: PathBuf = Path::new(path).components().collect();
        let op = op(cpath(field, &tidy)?);
        if mounted.is_complete_at(path) {
            builder.push(field, op);
        } else {
            builder.after_network(|builder| builder.push(field, op));
        }
        Ok(())
    };
    for path in linux.readonly_paths().iter().flatten() {
        hide(builder, "linux.readonlyPaths", path, &|path| Op::ReadOnly { root, path })?;
    }
    // Just before it is attached for the first time: without mount_setattr(2) it gets what it is owed then.
    if !builder.begins_with_root && linux.masked_paths().as_ref().is_some_and(|paths| !paths.is_empty()) {
        protect_null(builder);
    }
    let mut seen = BTreeSet::new();
    // A second mask would cover nothing but the first.
    for path in linux.masked_paths().iter().flatten().filter(|path| seen.insert(path.as_str())) {
        let op = |path| Op::Mask { root, path, null: slots::NULL, empty: slots::EMPTY };
        hide(builder, "linux.maskedPaths", path, &op)?;
    }
    Ok(())
}

impl Mounted {
    /// Whether `path` is what it will be, though the network namespace may still have to be entered: it lies straight in procfs, and is not one of its links.
    /// What procfs has of networks further down, or by a link, is another file in each of them (fs/proc/proc_net.c and net/sysctl_net.c of Linux), and a
    /// mount on the one does not hide the other.
    fn is_complete_at(&self, path: &str) -> bool {
        let name = path.strip_prefix("/proc/").unwrap_or_default();
        let is_other = matches!(name, "" | "." | ".." | "mounts" | "net" | "self" | "thread-self");
        self.has_proc && !is_other && !name.contains('/') && !name.starts_with(|first: char| first.is_ascii_digit())
    }
}

/// Has the copy of the host's /dev/null be nobody's peer, or what is mounted on it would be mounted on the host's; and read-only, or its mode,
/// owner and times would be the container's to change. It can be written to all the same.
fn protect_null(builder: &mut Builder) {
    let attributes =
        Attributes { set: libc::MOUNT_ATTR_RDONLY, propagation: libc::MS_PRIVATE, ..Attributes::default() };
    builder.push("linux.maskedPaths", Op::SetAttributes { mount: slots::NULL, attributes, recursive: false });
}

/// What the masks are made of, fetched while the host's /dev can still be reached.
fn prepare_masks(builder: &mut Builder, input: &Input<'_>) -> Result<()> {
    let masks = input.linux().and_then(|linux| linux.masked_paths().as_ref()).is_some_and(|paths| !paths.is_empty());
    if masks {
        let field = "linux.maskedPaths";
        builder.push(
            field,
            Op::CloneTree { source: Source::Path(c"/dev/null".into()), recursive: false, into: slots::NULL },
        );
        if builder.begins_with_root {
            protect_null(builder);
        }
        let mut options = vec![(c"size".into(), Some(c"0".into())), (c"nr_inodes".into(), Some(c"1".into()))];
        options.extend(label(input, "tmpfs")?);
        builder.push(
            field,
            Op::NewFilesystem {
                kind: c"tmpfs".into(),
                options,
                attributes: libc::MOUNT_ATTR_RDONLY
                    | libc::MOUNT_ATTR_NOSUID
                    | libc::MOUNT_ATTR_NODEV
                    | libc::MOUNT_ATTR_NOEXEC,
                into: slots::EMPTY,
            },
        );
    }
    Ok(())
}
