//! What the runtime does for a container's mounts before init is cloned.

use super::launch::owned;
use crate::error::{Doing, Error, Result};
use crate::init::{self, Exec, Slots};
use crate::plan::{Plan, explain};
use crate::sys::shared::Report;
use crate::sys::{clone, fs as sys_fs, process, socket};
use nix::errno::Errno;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

/// Copies the mounts that init only puts in place. Kept here they would be in use, and could not be unmounted inside: they go to `given`.
///
/// # Errors
/// The step that failed.
pub(super) fn run(plan: &Plan, slots: &mut Slots, report: &Report, given: &mut Vec<OwnedFd>) -> Result<()> {
    let nothing = Exec::none();
    let steps = &plan.outside.steps;
    let mut copy = || init::run_here(steps, slots, &nothing, report);
    let result = if plan.outside.is_locked { in_locked_copy(copy)? } else { copy() };
    let copies = steps.iter().filter_map(|step| match step.op {
        init::Op::CloneTree { into, .. } => Some(slots.get(into)),
        _ => None,
    });
    given.extend(copies.filter(|copy| *copy >= 0).map(owned));
    result.map_err(|(index, errno)| explain::failure(steps, &nothing, index, errno))
}

/// Does `work`, with all rights of this process, in a copy of its mounts in which the kernel has locked what a user namespace may not
/// change: that they are read-only, for one, and what they cover (mount_namespaces(7), "locked"). What is copied from there stays so; the
/// mounts of this process have no locks, and copies of them would be the container's to change.
///
/// Paths mean the same there, though who enters a mount namespace begins at its root: in a chroot(2) the kernel makes no user namespace
/// (kernel/user_namespace.c, `current_chrooted`), so this process's root is that one.
fn in_locked_copy<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    let doing = || "copy the mounts of this process for a user namespace";
    let (ours, theirs) = socket::pair().doing(doing)?;
    let (ours, theirs) = (owned(ours), owned(theirs));
    let flags = (libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u64;
    let request = clone::Request { flags, cgroup: None, exit_signal: libc::SIGCHLD };
    let child = clone::fork_and(&request, (ours.as_raw_fd(), theirs.as_raw_fd()), |(ours, theirs)| {
        sys_fs::close(ours);
        // Until the parent closes its end: then the namespace is held by a descriptor.
        let _ = sys_fs::read(theirs, &mut [0]);
        process::exit(0)
    });
    let child = child.doing(doing)?;
    drop(theirs);
    let namespace = File::open(format!("/proc/{}/ns/mnt", child.pid)).doing(doing);
    drop(ours);
    let _ = process::wait(child.pid, 0);
    sys_fs::close(child.pidfd);
    let namespace = namespace?;
    // A thread of its own: this one goes on among the mounts that it knows.
    thread::scope(|scope| {
        let namespace = &namespace;
        let enter = move || {
            process::unshare(libc::CLONE_FS)?;
            process::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS)
        };
        let thread = thread::Builder::new().spawn_scoped(scope, move || enter().map(|()| work())).doing(doing)?;
        thread.join().unwrap_or(Err(Errno::EIO)).map_err(|errno| Error::system(doing(), errno))
    })
}
