//! `config.json`: read it, check it, and nothing else.
//!
//! [`parse`] turns a `config.json` into runtime-spec types, [`validate`](fn@validate) refuses all that
//! can be refused by looking at it, before anything exists. What the spec writes as text, such as capability
//! names ([`capability`]), is parsed here as well.

pub mod capability;
pub mod default;
mod document;
pub mod features;
mod json;
mod load;
pub mod mount_options;
mod process;
mod seccomp;
pub mod sysctl;
mod validate;
mod warning;

pub use load::{Loaded, contains, load_file, parse, parse_but_seccomp, places, read_config, seccomp_places};
pub use process::{load_process, load_resources, parse_process, parse_resources};
pub use seccomp::Seccomp;
pub use validate::{validate, validate_process, validate_rootless};
pub use warning::Warning;

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use std::path::Path;

/// The namespace of this kind: `None` when the container keeps the runtime's, `Some("")` for a new one, else the path of the one
/// that is joined.
pub fn namespace(spec: &Spec, kind: LinuxNamespaceType) -> Option<&Path> {
    let listed = spec.linux().as_ref()?.namespaces().as_deref()?;
    let namespace = listed.iter().find(|namespace| namespace.typ() == kind)?;
    Some(namespace.path().as_deref().unwrap_or(Path::new("")))
}

/// Whether `spec` has a namespace of this kind, new or joined.
pub fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    namespace(spec, kind).is_some()
}

/// Whether `spec` has a new namespace of this kind.
pub fn makes_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    namespace(spec, kind).is_some_and(|path| path.as_os_str().is_empty())
}

/// The path of the namespace of this kind that `spec` joins.
pub fn joins_namespace(spec: &Spec, kind: LinuxNamespaceType) -> Option<&Path> {
    namespace(spec, kind).filter(|path| !path.as_os_str().is_empty())
}

/// Whether a mount is one of a file or directory that is somewhere already.
pub fn is_bind(mount: &Mount) -> bool {
    let mut options = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind") || options.any(|option| option == "bind" || option == "rbind")
}

/// Whether a mount is of one of the types `kinds`, and not read-only.
pub fn is_writable(mount: &Mount, kinds: &[&str]) -> bool {
    mount.typ().as_deref().is_some_and(|kind| kinds.contains(&kind))
        && !mount.options().iter().flatten().any(|option| option == "ro")
}

/// Whether the container's cgroup on v2 is meant to be written to from inside (runtime-spec config-linux.md, "Cgroup ownership").
pub fn delegates_cgroup(spec: &Spec) -> bool {
    makes_namespace(spec, LinuxNamespaceType::Cgroup)
        && spec.mounts().iter().flatten().any(|mount| is_writable(mount, &["cgroup", "cgroup2"]))
}

#[cfg(test)]
mod tests;
