//! The process between runtime and init: setns(2) into a pid or user namespace takes effect for children alone.
//!
//! It shares the runtime's descriptors, so that the pidfd of the init that it clones is the runtime's, and makes init
//! its sibling (CLONE_PARENT), so that the runtime waits for it like for any child of its own.

use crate::error::{Doing, Error, Result};
use crate::init::{self, Init};
use crate::plan::Plan;
use crate::sys::clone::{self, Child, Request};
use crate::sys::shared::{Shared, Stage};
use crate::sys::{fs, process};
use nix::errno::Errno;
use std::sync::atomic::Ordering;

/// Clones init by way of a stage that runs `plan.stage`.
///
/// # Errors
/// The step that failed, or what clone3(2) answered.
pub(super) fn spawn(plan: &'static Plan, request: &Request, init: &'static Init<'static>) -> Result<Child> {
    let doing = || "start a process that joins the namespaces";
    let found: Shared<Stage> = Shared::new().doing(doing)?;
    let stage = Request { flags: libc::CLONE_FILES as u64, cgroup: None, exit_signal: libc::SIGCHLD };
    let argument = (plan, *request, init, &found);
    let child = clone::fork_and(&stage, argument, |(plan, request, init, found)| {
        let mut slots = init.slots;
        let request = Request { flags: request.flags | libc::CLONE_PARENT as u64, exit_signal: 0, ..request };
        let result = init::run_here(&plan.stage, &mut slots, init.exec, init.report)
            .and_then(|()| clone::spawn_static(&request, init::run, init).map_err(|errno| (plan.stage.len(), errno)));
        match result {
            Ok(child) => {
                found.pidfd.store(child.pidfd, Ordering::Relaxed);
                found.pid.store(child.pid, Ordering::Release);
            }
            Err((step, errno)) => {
                found.step.store(step as u32, Ordering::Relaxed);
                found.errno.store(errno as i32, Ordering::Release);
            }
        }
        process::exit(0)
    })
    .doing(doing)?;
    let ended = process::wait(child.pid, 0);
    fs::close(child.pidfd);
    ended.doing(doing)?;
    match (found.pid.load(Ordering::Acquire), found.errno.load(Ordering::Acquire)) {
        (0, 0) => Err(Error::system(doing(), Errno::ECHILD)),
        (0, errno) => Err(match plan.stage.get(found.step.load(Ordering::Relaxed) as usize) {
            Some(step) => Error::system(format!("{}: {}", step.field, step.op), Errno::from_raw(errno)),
            None => clone_error(request, Errno::from_raw(errno)),
        }),
        (pid, _) => Ok(Child { pid, pidfd: found.pidfd.load(Ordering::Relaxed) }),
    }
}

/// What is said when clone3(2) fails.
pub(super) fn clone_error(request: &Request, errno: Errno) -> Error {
    let kinds = request.flags as i32 & !(libc::CLONE_VM | libc::CLONE_PARENT);
    Error::system(format!("linux.namespaces: clone3({})", init::namespace_names(kinds)), errno)
}
