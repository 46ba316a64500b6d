//! The process between runtime and init: setns(2) into a pid or user namespace takes effect for children alone.
//!
//! It shares the runtime's descriptors, so that the pidfd of the init that it clones is the runtime's, and makes init
//! its sibling (CLONE_PARENT), so that the runtime waits for it like for any child of its own.

use crate::init::{self, Init};
use crate::plan::Plan;
use crate::sys::clone::{self, Child, Request};
use crate::sys::fs::Sys;
use crate::sys::shared::{Shared, Stage};
use crate::sys::{fs, process};
use nix::errno::Errno;
use std::sync::atomic::Ordering;

/// Clones init by way of a stage that runs `plan.stage`.
///
/// # Errors
/// What the stage's steps or clone3(2) answered.
pub(super) fn spawn(plan: &'static Plan, request: &Request, init: &'static Init<'static>) -> Sys<Child> {
    let found: Shared<Stage> = Shared::new()?;
    let stage = Request { flags: libc::CLONE_FILES as u64, cgroup: None, exit_signal: libc::SIGCHLD };
    let argument = (plan, *request, init, &found);
    let child = clone::fork_and(&stage, argument, |(plan, request, init, found)| {
        let mut slots = init.slots;
        let request = Request { flags: request.flags | libc::CLONE_PARENT as u64, exit_signal: 0, ..request };
        let result = init::run_here(&plan.stage, &mut slots, init.exec, init.report)
            .map_err(|(_, errno)| errno)
            .and_then(|()| clone::spawn_static(&request, init::run, init));
        match result {
            Ok(child) => {
                found.pidfd.store(child.pidfd, Ordering::Relaxed);
                found.pid.store(child.pid, Ordering::Release);
            }
            Err(errno) => found.errno.store(errno as i32, Ordering::Release),
        }
        process::exit(0)
    })?;
    let ended = process::wait(child.pid, 0);
    fs::close(child.pidfd);
    ended?;
    match (found.pid.load(Ordering::Acquire), found.errno.load(Ordering::Acquire)) {
        (0, 0) => Err(Errno::ECHILD),
        (0, errno) => Err(Errno::from_raw(errno)),
        (pid, _) => Ok(Child { pid, pidfd: found.pidfd.load(Ordering::Relaxed) }),
    }
}
