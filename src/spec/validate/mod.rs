//! What a configuration may say: all that can be refused is refused here, before anything exists.
//!
//! One function for each rule; [`validate`] goes through them in the order of their list. runtime-spec's MUST
//! decides; where it leaves room, runc's practice. Limits that depend on the machine's cgroups are the cgroup
//! module's to check, and what the kernel or its security modules lack is the Plan's.

use super::warning::Warning;
use crate::error::{Error, Result};
use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};
use std::path::Path;

mod devices;
mod hooks;
mod ids;
mod linux;
mod mounts;
mod namespaces;
mod process;
mod root;
mod scheduling;
mod sysctl;

pub(super) use hooks::HOOKS;

/// One rule: it refuses the configuration with an error, or adds warnings.
type Rule = fn(&mut Check<'_>) -> Result<()>;

/// All rules, in the order in which their errors are reported.
const RULES: &[Rule] = &[
    root::version,
    root::root,
    root::annotations,
    process::process,
    hooks::hooks,
    namespaces::listed,
    namespaces::names,
    namespaces::time_offsets,
    namespaces::network_devices,
    ids::user_namespace,
    ids::process_ids,
    mounts::mounts,
    devices::devices,
    linux::hidden_paths,
    linux::rootfs_propagation,
    linux::intel_rdt,
    linux::memory_policy,
    linux::personality,
    sysctl::sysctl,
];

/// A configuration that is being checked.
struct Check<'a> {
    spec: &'a Spec,
    warnings: Vec<Warning>,
}

impl<'a> Check<'a> {
    fn warn(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.warnings.push(Warning::new(field, problem));
    }

    fn linux(&self) -> Option<&'a Linux> {
        self.spec.linux().as_ref()
    }

    /// As [`super::namespace`].
    fn namespace(&self, kind: LinuxNamespaceType) -> Option<&'a Path> {
        super::namespace(self.spec, kind)
    }

    fn has_namespace(&self, kind: LinuxNamespaceType) -> bool {
        super::has_namespace(self.spec, kind)
    }
}

/// Checks `spec`, which came from [`parse`](super::parse), and returns what has to be logged.
///
/// # Errors
/// The first rule that `spec` breaks, in one sentence that names the field.
pub fn validate(spec: &Spec) -> Result<Vec<Warning>> {
    let mut check = Check { spec, warnings: Vec::new() };
    for rule in RULES {
        rule(&mut check)?;
    }
    Ok(check.warnings)
}

/// Checks what is asked of a configuration that is started without the rights of root.
///
/// # Errors
/// A sentence that names the field which needs a right that only a user namespace gives.
pub fn validate_rootless(spec: &Spec) -> Result<()> {
    ids::rootless(&Check { spec, warnings: Vec::new() })
}

/// Checks a process object by itself, as `exec` gets it.
///
/// # Errors
/// The first rule that it breaks, in one sentence that names the field.
pub fn validate_process(process: &Process) -> Result<()> {
    process::check(process)
}

/// Refuses a path that does not begin with a slash.
fn absolute(field: impl FnOnce() -> String, path: &Path) -> Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    let problem = if path.as_os_str().is_empty() {
        "is empty: give an absolute path".into()
    } else {
        format!("{path:?} is not absolute: begin it with a slash")
    };
    Err(Error::config(field(), problem))
}

/// Refuses an environment entry that is not NAME=VALUE.
fn environment(field: impl FnOnce() -> String, entry: &str) -> Result<()> {
    match entry.find('=') {
        Some(at) if at > 0 => Ok(()),
        Some(_) => Err(Error::config(field(), format!("{entry:?} has no name: write NAME=VALUE"))),
        None => Err(Error::config(field(), format!("{entry:?} has no \"=\": write NAME=VALUE"))),
    }
}

#[cfg(test)]
mod tests;
