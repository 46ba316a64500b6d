//! A network namespace made while init does something else.

use crate::sys::fs::{self, Sys};
use crate::sys::shared::{Report, Shared};
use crate::sys::{cpus, net, process};
use nix::errno::Errno;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// A new network namespace takes the kernel as long as all else of a start together, so a helper makes it at the same
/// time. But CPUs are not always free: a helper that has not begun when init needs the namespace must not be waited
/// for. So the work is claimed, by whoever comes first.
///
/// These are the values of [`Report::network`].
mod state {
    /// Nobody has begun.
    pub const FREE: u32 = 0;
    /// The helper is at it.
    pub const BEGUN: u32 = 1;
    /// The helper stands in the new namespace, for init to join.
    pub const READY: u32 = 2;
    /// Nobody needs the helper any more.
    pub const DONE: u32 = 3;
    /// The helper failed; its errno is added.
    pub const FAILED: u32 = 0x1_0000;
}

fn claim(word: &AtomicU32, to: u32) -> bool {
    word.compare_exchange(state::FREE, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

fn make() -> Sys {
    process::unshare(libc::CLONE_NEWNET)?;
    net::loopback_up()
}

/// The helper: makes the namespace and stays in it until init has joined.
pub fn help(report: &Shared<Report>) -> ! {
    // Without the runtime there is no init to wait for. It may be gone before the kernel knows that we want to know.
    let _ = process::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as usize, 0, 0, 0]);
    if process::getppid() != report.runtime.load(Ordering::Relaxed) {
        process::exit(0);
    }
    let word = &report.network;
    if claim(word, state::BEGUN) {
        match make() {
            Ok(()) => {
                process::set_and_wake(word, state::READY);
                // The CPU that it was moved to may be init's by now, which must not wait for the helper's end: a kernel seldom interrupts itself.
                cpus::allow_those_of(report.runtime.load(Ordering::Relaxed));
                bring_who_works(report);
                close_what_is_no_longer_needed(report);
                // However slow the machine is: who waits here for nobody ends with the runtime.
                while process::wait_while(word, state::READY).is_err() {}
            }
            Err(errno) => process::set_and_wake(word, state::FAILED | errno as u32),
        }
    }
    process::exit(0)
}

/// A value of [`Report::beside`]: the thread is being brought. Others are the thread's id, and 0 for none.
const BRINGING: u32 = u32::MAX;

/// The runtime: from now on this thread works beside init. With two CPUs, of which the helper has one, they share the other: first the one works
/// and then the other, though the helper's may be idle by then.
pub fn work_beside(report: &Report) {
    report.beside.store(process::gettid(), Ordering::Release);
}

/// The runtime: it has done so, and uses the CPUs that it used before.
pub fn worked_beside(report: &Report) {
    let done = |thread| (thread != BRINGING).then_some(0);
    if report.beside.fetch_update(Ordering::AcqRel, Ordering::Acquire, done).is_err() {
        // A helper that is killed now does not say any more that it is done.
        let _ = process::wait_while(&report.beside, BRINGING);
    }
}

/// The helper, whose CPU is about to be idle: who works beside init does so here.
fn bring_who_works(report: &Report) {
    let claim = |thread| (thread != 0).then_some(BRINGING);
    if let Ok(thread) = report.beside.fetch_update(Ordering::AcqRel, Ordering::Acquire, claim) {
        cpus::bring_here(thread.cast_signed());
        process::set_and_wake(&report.beside, 0);
    }
}

/// What takes the kernel a while to close: here nobody waits for it.
fn close_what_is_no_longer_needed(report: &Report) {
    let fd = report.no_longer_needed.load(Ordering::Relaxed);
    if fd > 0 {
        fs::close(fd);
    }
}

/// The namespace is there: init has a descriptor of it where it would have the helper's.
pub fn is_made(report: &Report) {
    report.network.store(state::READY, Ordering::Relaxed);
}

/// Init: into the namespace of the helper, or that was made before, or into one of its own if the helper has not begun.
pub(super) fn enter(report: &Report, helper: RawFd) -> Sys {
    let word = &report.network;
    if claim(word, state::DONE) {
        return make();
    }
    process::wait_while(word, state::BEGUN)?;
    match word.load(Ordering::Acquire) {
        state::READY => {
            let joined = process::setns(helper, libc::CLONE_NEWNET);
            process::set_and_wake(word, state::DONE);
            joined
        }
        failed => Err(Errno::from_raw((failed & !state::FAILED) as i32)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_worked_beside_init_is_not_being_brought_any_more() {
        let report = Shared::<Report>::of_this_memory();
        let beside = || report.beside.load(Ordering::Acquire);
        work_beside(&report);
        assert_eq!(beside(), process::gettid());
        bring_who_works(&report);
        assert_eq!(beside(), 0);
        worked_beside(&report);
        work_beside(&report);
        worked_beside(&report);
        assert_eq!(beside(), 0);
        // The helper finds nobody any more.
        bring_who_works(&report);
        assert_eq!(beside(), 0);
        std::thread::scope(|scope| {
            report.beside.store(BRINGING, Ordering::Release);
            scope.spawn(|| process::set_and_wake(&report.beside, 0));
            worked_beside(&report);
            assert_eq!(beside(), 0);
        });
    }
}
