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

pub use load::{Loaded, load_file, parse, read_config};
pub use process::{load_process, load_resources, parse_process, parse_resources};
pub use seccomp::Seccomp;
pub use validate::{validate, validate_process, validate_rootless};
pub use warning::Warning;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

/// Whether `spec` has a namespace of this kind, new or joined.
pub fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    namespaces.iter().any(|namespace| namespace.typ() == kind)
}

#[cfg(test)]
mod tests;
