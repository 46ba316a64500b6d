//! The process between runtime and init: setns(2) into a pid or user namespace takes effect for children alone.
//!
//! It shares the runtime's descriptors, so that the pidfd of the init that it clones is the runtime's, and makes init
//! its sibling (CLONE_PARENT), so that the runtime waits for it like for any child of its own.

use super::launch::Cradle;
use crate::error::{Doing, Error, Result};
use crate::init::{self, Op};
use crate::plan::Plan;
use crate::sys::clone::{self, CLONE_NEWTIME, Child, Request};
use crate::sys::shared::{Shared, Stage};
use crate::sys::{fs, process};
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the stage needs to know.
#[derive(Debug)]
struct Staged {
    /// How init is cloned.
    request: Request,
    init: Arc<Cradle>,
    found: Shared<Stage>,
}

/// Clones init by way of a stage that runs `plan.stage`.
///
/// The stage runs in this process's memory: it is over before this function returns, it is never in the container's
/// pid namespace, and a copy would cost more than all that it does. Only for a time namespace it gets one: setns(2)
/// changes what is mapped there.
///
/// Init gets a copy in any case. The container's other processes see it, and one with CAP_SYS_PTRACE could reach through
/// it into our own memory; a tenth of an `exec` would be gained.
///
/// # Errors
/// The step that failed, or what clone3(2) answered.
pub(super) fn spawn(request: &Request, init: Arc<Cradle>) -> Result<Child> {
    let doing = || "start a process that joins the namespaces";
    let (cgroup_of_stage, cgroup) =
        if init.plan.stage_in_cgroup { (request.cgroup, None) } else { (None, request.cgroup) };
    let request = Request { flags: request.flags | libc::CLONE_PARENT as u64, cgroup, exit_signal: 0 };
    let staged = Arc::new(Staged { request, init, found: Shared::new().doing(doing)? });
    let Staged { init, found, .. } = &*staged;
    let memory = if joins_time(&init.plan) { 0 } else { clone::SHARE_MEMORY };
    let flags = libc::CLONE_FILES as u64 | memory;
    let stage = Request { flags, cgroup: cgroup_of_stage, exit_signal: libc::SIGCHLD };
    let (child, _loan) = clone::spawn(&stage, run, Arc::clone(&staged)).doing(doing)?;
    let ended = process::wait(child.pid, 0);
    fs::close(child.pidfd);
    ended.doing(doing)?;
    match (found.pid.load(Ordering::Acquire), found.errno.load(Ordering::Acquire)) {
        (0, 0) => Err(Error::system(doing(), Errno::ECHILD)),
        (0, errno) => Err(match init.plan.stage.get(found.step.load(Ordering::Relaxed) as usize) {
            Some(step) => Error::system(format!("{}: {}", step.field, step.op), Errno::from_raw(errno)),
            None => clone_error(&staged.request, Errno::from_raw(errno)),
        }),
        (pid, _) => Ok(Child { pid, pidfd: found.pidfd.load(Ordering::Relaxed) }),
    }
}

fn joins_time(plan: &Plan) -> bool {
    plan.stage.iter().any(|step| matches!(step.op, Op::EnterNamespace { kinds, .. } if kinds & CLONE_NEWTIME != 0))
}

/// The stage. It lives by the rules of init: it allocates nothing, locks nothing and never panics.
fn run(staged: &Staged) -> ! {
    let Staged { request, init, found } = staged;
    let stage = &init.plan.stage;
    let mut slots = init.slots;
    let result = init::run_here(stage, &mut slots, &init.plan.exec, &init.report)
        .and_then(|()| clone::spawn_copy(request, Cradle::run, init).map_err(|errno| (stage.len(), errno)));
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
}

/// What is said when clone3(2) fails.
pub(super) fn clone_error(request: &Request, errno: Errno) -> Error {
    let kinds = request.flags as i32 & !(libc::CLONE_VM | libc::CLONE_PARENT);
    Error::system(format!("linux.namespaces: clone3({})", init::namespace_names(kinds)), errno)
}
