//! `create` and `run`.

use super::launch::{self, Launched};
use super::prepare::{self, Options};
use super::state::State;
use super::store::Entry;
use super::{manage, pid_file, stdio, wait};
use crate::error::{Doing, Error, Result};
use crate::sys::clone::Child;
use crate::sys::process;
use oci_spec::runtime::Spec;
use std::mem::ManuallyDrop;

/// What became of a `run`.
#[derive(Debug)]
pub struct Finished {
    /// The exit status to end with: the program's, or 128 plus the signal that ended it. 0 when detached.
    pub status: i32,
    /// What could not be removed, and the errors of poststop hooks.
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

/// Runs a container; in the foreground until it ends, and then removes it unless `keep`. `warn` hears what the user should know
/// beforehand.
///
/// # Errors
/// One sentence; then nothing is left of it.
pub fn run(options: &Options, keep: bool, warn: &dyn Fn(&[String])) -> Result<Finished> {
    let (prepared, ahead) = prepare::prepare_ahead(options)?;
    warn(&prepared.warnings);
    let spec = &prepared.bundle.loaded.spec;
    if let Some(process) = spec.process().as_ref().filter(|_| options.foreground) {
        stdio::give_own(process, spec);
    }
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
            return Err(undo(options, &launched).into_iter().fold(error, Error::and));
        }
        if let Some(notify) = notify {
            notify.forward(launched.child.pidfd, launched.child.pid.unsigned_abs());
        }
        let timings = timings(&launched);
        return Ok(Finished { status: 0, warnings: Vec::new(), timings });
    }
    // A service manager follows the process that it started, which is this one.
    let notify = notify.and_then(|notify| notify.forward_meanwhile(launched.child.pidfd, std::process::id()));
    let waited = match &launched.terminal {
        Some(terminal) => super::console::serve(launched.child, terminal),
        None => wait::foreground(launched.child, launched.helper.as_ref().map(|(helper, _)| *helper))
            .doing(|| "wait for the container"),
    };
    if waited.is_err() {
        // Nobody would look after it any more.
        end(launched.child, &launched.state);
    }
    // What the container said last is still passed on.
    if let Some(thread) = notify {
        let _ = thread.join();
    }
    let plan = &launched.prepared.plan;
    let failed = launch::failure_of_reaped(plan, &launched.report);
    let failed = failed.map(|error| launch::in_foreground(error, plan, &launched.report));
    let timings = timings(&launched);
    let outcome = match failed.or(poststart.err()) {
        Some(error) => waited.and(Err(error)),
        None => waited,
    };
    match outcome {
        Err(error) => Err(undo(options, &launched).into_iter().fold(error, Error::and)),
        Ok(exit) => {
            let problems = if keep { Vec::new() } else { remove_launched(&launched) };
            let warnings = problems.iter().map(Error::to_string).collect();
            Ok(Finished { status: exit.status(), warnings, timings })
        }
    }
}

/// Ends a container that cannot be waited for any more.
pub(super) fn end(init: Child, state: &State) {
    // A frozen one would not die, on v1. One without a freezer is not frozen.
    let _ = state.cgroup.thaw();
    init.end();
}

/// Removes a container whose init has ended, for somebody who wants to know how that ended, whatever becomes of the rest: what could
/// not be removed, which is left for `delete`, and the errors of poststop hooks.
pub(super) fn remove(entry: &Entry, state: &State, spec: &Spec) -> Vec<Error> {
    // The kernel has ended all others in init's pid namespace with it (pid_namespaces(7)).
    let killed = if state.shares_pids { state.cgroup.kill(libc::SIGKILL) } else { Ok(()) };
    let removed = killed.and_then(|()| manage::remove_empty(entry, state, Some(spec)));
    removed.unwrap_or_else(|error| vec![error])
}

/// As [`remove`], for a container that has not become what was asked for: nothing tells of it.
fn undo(options: &Options, launched: &Launched) -> Vec<Error> {
    let mut problems = remove_launched(launched);
    problems.extend(pid_file::remove(options.pid_file.as_deref(), launched.child.pid).err());
    problems
}

fn remove_launched(launched: &Launched) -> Vec<Error> {
    if let Some(parts) = launched.prepared.bundle.parts.as_ref().filter(|_| launched.entry.was_visited()) {
        parts.spoil();
    }
    remove(&launched.entry, &launched.state, &launched.prepared.bundle.loaded.spec)
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
