//! Mounts of type cgroup and cgroup2: what the container sees of its cgroups.
//!
//! It sees the hierarchies in which it has a cgroup of its own and no others: what it would see there is the runtime's
//! cgroup, or the whole machine's, and with a writable mount it could change them (CVE-2023-25809). But v2 is shown whole to
//! root's container that shares the host's cgroup namespace, as runc and crun do it.

use super::Input;
use super::builder::{Builder, cpath, cstring, slots};
use super::mounts::{Entry, attach, attributes, filesystem_options, label, propagate};
use crate::cgroup::Layout;
use crate::cgroup::layout::{Mode, V1Mount};
use crate::error::{Error, Result};
use crate::init::{Create, Op, Slot, Source};
use crate::sys::mount::Attributes;
use std::path::{Path, PathBuf};

/// Compiles one such mount. On a machine with v2 alone both types mean v2, as in runc. What is to be read-only once all other mounts are there,
/// `read_only` gets.
pub(super) fn compile(
    builder: &mut Builder,
    input: &Input<'_>,
    entry: &Entry<'_>,
    read_only: &mut Vec<(String, Slot)>,
) -> Result<()> {
    match input.layout.mode {
        Mode::Unified => unified(builder, input, entry),
        Mode::Hybrid | Mode::Legacy if entry.kind == "cgroup" => legacy(builder, input, entry, read_only),
        Mode::Hybrid => unified(builder, input, entry),
        Mode::Legacy | Mode::Absent => {
            Err(Error::config(&entry.field, "needs a cgroup hierarchy that this machine does not mount: remove it"))
        }
    }
}

fn place(builder: &mut Builder, entry: &Entry<'_>, mount: Slot) -> Result<()> {
    builder.push(
        entry.field.clone(),
        Op::Target {
            root: slots::ROOT,
            path: cpath(format_args!("{}.destination", entry.field), &entry.destination)?,
            create: Create::Directory,
            rule: entry.rule(),
            into: slots::TARGET,
        },
    );
    attach(builder, entry, mount);
    propagate(builder, entry, mount);
    Ok(())
}

/// cgroup v2: a mount of its own shows the root of the cgroup namespace; where that may not be, the container's directory is
/// bound, or nothing shown if it has none. What is the host's is bound, too: in the initial cgroup namespace options of a new
/// mount, and the lack of some (nsdelegate, memory_recursiveprot), become those of all others.
fn unified(builder: &mut Builder, input: &Input<'_>, entry: &Entry<'_>) -> Result<()> {
    if input.may_mount_cgroups() {
        builder.push(
            entry.field.clone(),
            Op::NewFilesystem {
                kind: c"cgroup2".into(),
                options: filesystem_options(input, entry)?,
                attributes: entry.options.of_new_mount(),
                into: slots::MOUNT,
            },
        );
    } else if let Some(directory) = input.all_cgroups().or_else(|| input.cgroup_directory("")) {
        bind(builder, entry, directory, slots::MOUNT)?;
    } else {
        let attributes = entry.options.of_new_mount() | libc::MOUNT_ATTR_RDONLY;
        builder.push(entry.field.clone(), tmpfs(input, attributes, slots::MOUNT)?);
    }
    place(builder, entry, slots::MOUNT)
}

fn bind(builder: &mut Builder, entry: &Entry<'_>, directory: &Path, into: Slot) -> Result<()> {
    let source = Source::Path(cpath(&entry.field, directory)?);
    builder.push(entry.field.clone(), Op::CloneTree { source, recursive: false, into });
    // A copy of a shared mount is its peer: what is mounted on it, a mask for instance, would be mounted on the host, too.
    let attributes = Attributes { propagation: libc::MS_PRIVATE, ..attributes(entry.options.of_new_mount(), 0) };
    builder.push(entry.field.clone(), Op::SetAttributes { mount: into, attributes, recursive: false });
    Ok(())
}

fn tmpfs(input: &Input<'_>, attributes: u64, into: Slot) -> Result<Op> {
    let mut options = vec![(c"source".into(), Some(c"tmpfs".into())), (c"mode".into(), Some(c"755".into()))];
    options.extend(label(input, "tmpfs")?);
    Ok(Op::NewFilesystem { kind: c"tmpfs".into(), options, attributes, into })
}

/// The controllers of a v1 hierarchy, as the links in the container have them.
fn names(mount: &V1Mount) -> Vec<&str> {
    mount.controllers.iter().map(|controller| controller.strip_prefix("name=").unwrap_or(controller)).collect()
}

/// The directory where a v1 hierarchy is mounted in the container.
fn directory(mount: &V1Mount) -> String {
    mount.mount.file_name().map_or_else(|| names(mount).join(","), |name| name.to_string_lossy().into_owned())
}

/// cgroup v1: a tmpfs with a directory for each hierarchy, and links where one hierarchy has several controllers.
fn legacy(
    builder: &mut Builder,
    input: &Input<'_>,
    entry: &Entry<'_>,
    read_only: &mut Vec<(String, Slot)>,
) -> Result<()> {
    let field = &entry.field;
    let attributes = entry.options.of_new_mount();
    let mut tmp = slots::OTHER;
    if attributes & libc::MOUNT_ATTR_RDONLY != 0 {
        // Later mounts may want a place in it: Podman binds /sys/fs/cgroup/systemd, where the container need not have a cgroup, for `--systemd=always`.
        tmp = builder.slot(field)?;
        read_only.push((field.clone(), tmp));
    }
    builder.push(field.clone(), tmpfs(input, attributes & !libc::MOUNT_ATTR_RDONLY, tmp)?);
    place(builder, entry, tmp)?;
    let namespaced = input.may_mount_cgroups();
    for mount in &input.layout.v1 {
        let controller = mount.controllers.first().map_or("", String::as_str);
        let Some(own) = input.cgroup_directory(controller) else { continue };
        let names = names(mount);
        let directory = directory(mount);
        if namespaced {
            let mut options = vec![(c"source".to_owned(), Some(c"cgroup".to_owned()))];
            for controller in &mount.controllers {
                options.push(match controller.split_once('=') {
                    Some((key, value)) => (cstring(field, key)?, Some(cstring(field, value)?)),
                    None => (cstring(field, controller)?, None),
                });
            }
            builder.push(
                field.clone(),
                Op::NewFilesystem { kind: c"cgroup".into(), options, attributes, into: slots::MOUNT },
            );
        } else {
            bind(builder, entry, own, slots::MOUNT)?;
        }
        sub_mount(builder, entry, tmp, &directory)?;
        for name in names.iter().filter(|name| **name != directory) {
            let path = cstring(field, name)?;
            let target = cstring(field, &directory)?;
            builder.push(field.clone(), Op::MakeLink { root: tmp, path, target });
        }
    }
    if input.layout.mode == Mode::Hybrid
        && let Some(path) = input.cgroup_directory("")
    {
        bind(builder, entry, path, slots::MOUNT)?;
        sub_mount(builder, entry, tmp, "unified")?;
    }
    Ok(())
}

/// The binds of cgroups that a mount of type cgroup or cgroup2 at `destination` amounts to without a cgroup namespace:
/// place and source of each. `own` finds the container's cgroup for a controller, "" for v2, of which it may be shown `all`.
pub(super) fn binds<'a>(
    layout: &Layout,
    kind: &str,
    destination: &Path,
    all: Option<&'a Path>,
    own: impl Fn(&str) -> Option<&'a Path>,
) -> Vec<(PathBuf, PathBuf)> {
    if layout.mode == Mode::Unified || kind == "cgroup2" {
        return all
            .or_else(|| own(""))
            .map(|directory| (destination.to_owned(), directory.to_owned()))
            .into_iter()
            .collect();
    }
    let v1 = layout.v1.iter().filter_map(|mount| {
        let directory_of_own = own(mount.controllers.first()?)?;
        Some((destination.join(directory(mount)), directory_of_own.to_owned()))
    });
    let unified = own("").filter(|_| layout.mode == Mode::Hybrid);
    v1.chain(unified.map(|directory| (destination.join("unified"), directory.to_owned()))).collect()
}

/// Puts what is in [`slots::MOUNT`] into the directory `name` of the tmpfs in `tmp`.
fn sub_mount(builder: &mut Builder, entry: &Entry<'_>, tmp: Slot, name: &str) -> Result<()> {
    builder.push(
        entry.field.clone(),
        Op::Target {
            root: tmp,
            path: cstring(&entry.field, name)?,
            create: Create::Directory,
            rule: crate::init::Rule::Any,
            into: slots::TARGET,
        },
    );
    builder.push(entry.field.clone(), Op::Attach { mount: slots::MOUNT, target: slots::TARGET });
    propagate(builder, entry, slots::MOUNT);
    Ok(())
}
