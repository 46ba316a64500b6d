//! Hooks (runtime-spec config.md, "POSIX-platform Hooks"): programs of the operator that look at a container at six
//! points of its life. The runtime runs those of its own namespaces; createContainer and startContainer are init's.

use super::sealed;
use super::state::Report;
use crate::error::{Doing, Error, Kind, Result};
use crate::init::{self, Environment, Slots};
use crate::plan::hooks::{self as plan, Manner, State};
use crate::sys::shared::{Shared, Strings};
use oci_spec::runtime::Hook;
use std::path::Path;

/// Runs `hooks` one after the other, with `report` on their stdin, in the bundle.
///
/// # Errors
/// The first hook that cannot be run, fails or does not end in time. Those after it are not run.
pub fn run(name: &str, hooks: &[Hook], report: &Report) -> Result<()> {
    hooks.iter().enumerate().try_for_each(|(index, hook)| run_one(name, index, hook, report))
}

/// Runs `hooks` whatever happens to each; what went wrong, for the log.
pub fn run_all(name: &str, hooks: &[Hook], report: &Report) -> Vec<Error> {
    hooks.iter().enumerate().filter_map(|(index, hook)| run_one(name, index, hook, report).err()).collect()
}

fn run_one(name: &str, index: usize, hook: &Hook, report: &Report) -> Result<()> {
    let state = state(report)?;
    // A bundle may be gone before its container is.
    let directory = Some(report.bundle.as_path()).filter(|bundle| bundle.is_dir()).unwrap_or(Path::new("/"));
    let manner = Manner { name, state: &state, directory: Some(directory), umask: None, inherits_environment: true };
    let hook = plan::compile(index, hook, &manner, Vec::new())?;
    // One without `env` has that of who runs it, as with runc.
    let strings = if hook.inherits_environment { sealed::environment()? } else { Strings::new(Vec::new()) };
    let environment = Environment { strings, home_room: false };
    let caller = init::Caller {
        pid: report.pid,
        environment: &environment,
        signal_mask: 0,
        slots: &Slots::default(),
        report: &*Shared::new().doing(|| format!("map memory for the {name} hooks"))?,
    };
    let mut words = init::Words::default();
    if init::run_hook(&hook, &caller, &mut words) {
        return Ok(());
    }
    Err(plan::failure(&hook, &String::from_utf8_lossy(words.bytes())))
}

/// The text of `report`, to be completed with the pid.
///
/// # Errors
/// A report that cannot be written as JSON.
pub(super) fn state(report: &Report) -> Result<State> {
    const PID: &str = "\"pid\":0";
    let text = serde_json::to_string(&Report { pid: 0, ..report.clone() })
        .map_err(|error| Error::new(Kind::System, format!("describe the container to a hook: {error}")))?;
    // Before it there are runtime-spec's version and the id, in which there are no quotes.
    let Some((before, after)) = text.split_once(PID) else {
        return Err(Error::new(Kind::System, "describe the container to a hook: it has no pid"));
    };
    Ok([format!("{before}\"pid\":").into_bytes(), after.as_bytes().to_vec()])
}
