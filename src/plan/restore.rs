//! The part of a restored container that CRIU has to be given: its root, the places of its mounts, and what is mounted
//! from outside.
//!
//! The steps run in the process that becomes CRIU, in a mount namespace of its own, where they leave the root alone at
//! [`HOST_ROOT`] in the container's directory. CRIU wants it to be a mount. Whoever ends, nothing stays mounted.

use super::builder::{Builder, cpath, slots};
use super::devices::DEFAULT_DEVICES;
use super::mounts::{Entry, HOST_ROOT};
use super::{Overlay, cgroup_mounts, overlay};
use crate::cgroup::Layout;
use crate::error::{Error, Kind, Result};
use crate::init::{Create, Op, Rule, Source, Step};
use crate::path;
use crate::sys::mount::Attributes;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use std::path::{Path, PathBuf};

/// Everything that decides what CRIU is given.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// config.json, validated.
    pub spec: &'a Spec,
    /// The bundle, absolute.
    pub bundle: &'a Path,
    /// root.path, absolute.
    pub rootfs: &'a Path,
    /// The machine's cgroup hierarchies.
    pub layout: &'a Layout,
    /// The container's cgroup directories by controller, "" for v2.
    pub cgroup_directories: &'a [(String, PathBuf)],
}

/// A mount of something that is not the container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// Where in the container. A symbolic link of the root may be on the way.
    pub destination: PathBuf,
    /// What, on the host.
    pub source: PathBuf,
}

/// The mounts from outside, by their destination in the configuration.
///
/// # Errors
/// A mount that CRIU could not put back as it was.
pub fn externals(input: &Input<'_>) -> Result<Vec<External>> {
    let linux = input.spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let has = |kind| namespaces.iter().any(|namespace| namespace.typ() == kind);
    if !has(LinuxNamespaceType::Mount) {
        let problem =
            "has no mount namespace, without which CRIU cannot tell the container's mounts from the host's: add one";
        return Err(Error::config("linux.namespaces", problem));
    }
    let mut found = Vec::new();
    for entry in Entry::all(input.spec, input.rootfs)? {
        if entry.mappings.is_some() || entry.options.idmap.is_some() {
            let problem = format!("{} is id-mapped, which CRIU does not restore: remove it", entry.field);
            return Err(Error::new(Kind::Config, problem));
        }
        match (entry.kind, entry.source) {
            ("bind", Some(source)) if !entry.options.remount => {
                found.push(External { destination: entry.destination, source: input.bundle.join(source) });
            }
            ("cgroup" | "cgroup2", _) if !has(LinuxNamespaceType::Cgroup) => {
                let own = |controller: &str| {
                    let directory = input.cgroup_directories.iter().find(|(name, _)| name == controller);
                    directory.map(|(_, path)| path.as_path())
                };
                let all = input.layout.unified.as_deref().filter(|_| !has(LinuxNamespaceType::User));
                let binds = cgroup_mounts::binds(input.layout, entry.kind, &entry.destination, all, own);
                found.extend(binds.into_iter().map(|(destination, source)| External { destination, source }));
            }
            _ => {}
        }
    }
    // Where nodes may not be made they are bound; a mask of a file is bound, too.
    let device = |path: PathBuf| External { destination: path.clone(), source: path };
    found.extend(DEFAULT_DEVICES.iter().map(|(name, ..)| device(Path::new("/dev").join(name))));
    let devices = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    found.extend(devices.iter().map(|each| device(path::absolute(each.path()))));
    Ok(found)
}

/// Steps before [`finish`], which follow an unmount of [`HOST_ROOT`]: the root, and the missing places of mounts.
///
/// # Errors
/// A path that cannot be one.
pub fn places(input: &Input<'_>, over: Option<&Overlay>, state_dir: &Path) -> Result<Vec<Step>> {
    let mut builder = Builder::default();
    builder.push("(restore)", Op::NewNamespaces { kinds: libc::CLONE_NEWNS });
    builder.push("(restore)", Op::RootPropagation { propagation: libc::MS_SLAVE });
    match over {
        Some(Overlay::Scratch) => {
            let problem = "the container's overlay is in memory, of which nothing is left: give --overlay=DIR to both";
            return Err(Error::new(Kind::Config, problem));
        }
        Some(over) => overlay::compile(&mut builder, input.rootfs, state_dir, over)?,
        None => {
            let source = Source::Path(cpath("root.path", input.rootfs)?);
            builder.push("root.path", Op::CloneTree { source, recursive: true, into: slots::ROOT });
        }
    }
    let place = cpath("root.path", &state_dir.join(HOST_ROOT))?;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    builder.push("root.path", Op::OpenHost { path: place.clone(), flags, into: slots::TARGET });
    builder.push("root.path", Op::Attach { mount: slots::ROOT, target: slots::TARGET });
    // The one that stays, without what is mounted below to make places there.
    builder.push("root.path", Op::CloneTree { source: Source::Path(place), recursive: true, into: slots::OTHER });
    let entries = Entry::all(input.spec, input.rootfs)?;
    for (index, entry) in entries.iter().enumerate() {
        let above = entries.get(..index).unwrap_or_default();
        if entry.options.remount || is_made_by_criu(entry, above) {
            continue;
        }
        make_place(&mut builder, input, entry)?;
    }
    Ok(builder.finish())
}

/// Whether the place of `entry` is made when CRIU restores the file system that it is in, one of those `above`.
fn is_made_by_criu(entry: &Entry<'_>, above: &[Entry<'_>]) -> bool {
    let mut over = above.iter().filter(|other| entry.destination.starts_with(&other.destination));
    over.any(|other| other.kind != "bind" && entry.destination != other.destination)
}

fn make_place(builder: &mut Builder, input: &Input<'_>, entry: &Entry<'_>) -> Result<()> {
    let field = &entry.field;
    let source = entry.source.filter(|_| entry.kind == "bind");
    if let Some(source) = source {
        let source = Source::Path(cpath(format_args!("{field}.source"), &input.bundle.join(source))?);
        builder.push(field.clone(), Op::CloneTree { source, recursive: true, into: slots::MOUNT });
    }
    builder.push(
        field.clone(),
        Op::Target {
            root: slots::ROOT,
            path: cpath(format_args!("{field}.destination"), &entry.destination)?,
            create: if source.is_some() { Create::Like(slots::MOUNT) } else { Create::Directory },
            rule: Rule::Any,
            into: slots::TARGET,
        },
    );
    if source.is_some() {
        // For the places of mounts in it.
        builder.push(field.clone(), Op::Attach { mount: slots::MOUNT, target: slots::TARGET });
    }
    Ok(())
}

/// Steps that put the root in its place.
///
/// # Errors
/// A path that cannot be one.
pub fn finish(state_dir: &Path) -> Result<Vec<Step>> {
    let mut builder = Builder::default();
    let path = cpath("root.path", &state_dir.join(HOST_ROOT))?;
    builder.push("root.path", Op::OpenHost { path, flags: libc::O_PATH | libc::O_DIRECTORY, into: slots::TARGET });
    builder.push("root.path", Op::Attach { mount: slots::OTHER, target: slots::TARGET });
    Ok(builder.finish())
}

/// Steps that make the root read-only, in the container's mount namespace.
pub fn read_only_root() -> Vec<Step> {
    let mut builder = Builder::default();
    let attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    builder.push("root.readonly", Op::OpenHost { path: c"/".into(), flags, into: slots::ROOT });
    builder.push("root.readonly", Op::SetAttributes { mount: slots::ROOT, attributes, recursive: false });
    builder.finish()
}
