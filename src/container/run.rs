//! `create` and `run`.

use super::launch::{self, Launched};
use super::prepare::{self, Options};
use super::{manage, pid_file, wait};
use crate::error::{Doing, Error, Result};
use crate::sys::process;
use std::mem::ManuallyDrop;

/// What became of a `run`.
#[derive(Debug)]
pub struct Finished {
    /// The exit status to end with: the program's, or 128 plus the signal that ended it. 0 when detached.
    pub status: i32,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// When each step ended, in nanoseconds since the clone, with its call and field; empty unless asked for.
    pub timings: Vec<Timing>,
}

/// When a step ended.
#[derive(Debug, serde::Serialize)]
pub struct Timing {
    /// Nanoseconds since the step before ended (since the clone, for the first).
    pub nanoseconds: u64,
    /// The call.
    pub call: String,
    /// The field of config.json.
    pub field: String,
}

/// Creates a container whose init waits for `start`; the warnings.
///
/// # Errors
/// One sentence; then nothing is left of it.
pub fn create(options: &Options) -> Result<Vec<String>> {
    let (prepared, ahead) = prepare::prepare_ahead(options)?;
    let warnings = prepared.warnings.clone();
    let _launched = ManuallyDrop::new(launch::launch(options, prepared, ahead)?);
    Ok(warnings)
}

/// Runs a container; in the foreground until it ends, and then removes it unless `keep`.
///
/// # Errors
/// One sentence; then nothing is left of it.
pub fn run(options: &Options, keep: bool) -> Result<Finished> {
    let (prepared, ahead) = prepare::prepare_ahead(options)?;
    let mut warnings = prepared.warnings.clone();
    // The process ends soon; what init has borrowed of its memory needs no care.
    let mut launched = ManuallyDrop::new(launch::launch(options, prepared, ahead)?);
    let _lock = launched.lock.take();
    let notify = launched.notify.take();
    let spec = &launched.prepared.bundle.loaded.spec;
    let poststart = launch::poststart(spec, &launched.state, launched.child.pid);
    if poststart.is_err() {
        let _ = process::pidfd_send_signal(launched.child.pidfd, libc::SIGKILL);
    }
    if !options.foreground {
        if let Err(error) = poststart {
            // The container ends here (runtime-spec runtime.md, "Lifecycle").
            let _ = process::wait(launched.child.pid, 0);
            let pid_file = options.pid_file.as_deref().map_or(Ok(()), pid_file::remove);
            return Err(remove(&launched)?.into_iter().chain(pid_file.err()).fold(error, Error::and));
        }
        if let Some(notify) = notify {
            notify.forward(launched.child.pidfd, launched.child.pid.unsigned_abs());
        }
        let timings = timings(&launched);
        return Ok(Finished { status: 0, warnings, timings });
    }
    // A service manager follows the process that it started, which is this one.
    let notify = notify.and_then(|notify| notify.forward_meanwhile(launched.child.pidfd, std::process::id()));
    let exit = match &launched.terminal {
        Some(terminal) => super::console::serve(launched.child, terminal)?,
        None => wait::foreground(launched.child, launched.helper.as_ref().map(|(helper, _)| *helper))
            .doing(|| "wait for the container")?,
    };
    // What the container said last is still passed on.
    if let Some(thread) = notify {
        let _ = thread.join();
    }
    let plan = &launched.prepared.plan;
    let failed = launch::failure_of_reaped(plan, &launched.report);
    let failed = failed.map(|error| launch::in_foreground(error, plan, &launched.report));
    let timings = timings(&launched);
    let failed = failed.or(poststart.err());
    let removed = if failed.is_some() || !keep { remove(&launched)? } else { Vec::new() };
    match failed {
        Some(error) => Err(removed.into_iter().fold(error, Error::and)),
        None => {
            warnings.extend(removed.iter().map(Error::to_string));
            Ok(Finished { status: exit.status(), warnings, timings })
        }
    }
}

/// Removes a container whose init has ended. The kernel has ended all others in its pid namespace with it (pid_namespaces(7)).
fn remove(launched: &Launched) -> Result<Vec<Error>> {
    let spec = &launched.prepared.bundle.loaded.spec;
    if launched.prepared.plan.clone_flags & libc::CLONE_NEWPID as u64 == 0 {
        launched.state.cgroup.kill(libc::SIGKILL)?;
    }
    if let Some(parts) = launched.prepared.bundle.parts.as_ref().filter(|_| launched.entry.was_visited()) {
        parts.spoil();
    }
    manage::remove_empty(&launched.entry, &launched.state, Some(spec))
}

fn timings(launched: &Launched) -> Vec<Timing> {
    let mut last = launched.cloned_at;
    let steps = launched.prepared.plan.steps.iter().enumerate();
    steps
        .filter_map(|(index, step)| {
            let ended = launched.report.time(index)?;
            let nanoseconds = ended.saturating_sub(last);
            last = ended;
            Some(Timing { nanoseconds, call: step.op.to_string(), field: step.field.clone().into_owned() })
        })
        .collect()
}
