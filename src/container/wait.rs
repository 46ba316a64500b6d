//! Waiting for processes, by event.

use crate::sys::clone::Child;
use crate::sys::process::{self, Exit};
use nix::errno::Errno;

/// All signals but those that stop or kill without being asked.
const ALL: u64 = u64::MAX;

/// Waits for init to end and passes every signal that comes meanwhile on to it; reaps the helper by the way. All signals must be blocked.
///
/// # Errors
/// What rt_sigtimedwait(2) or wait4(2) answers.
pub(super) fn foreground(child: Child, mut helper: Option<Child>) -> Result<Exit, Errno> {
    loop {
        match process::wait_signal(ALL)? {
            libc::SIGCHLD => {
                if let Some(ended) = helper
                    && process::wait(ended.pid, libc::WNOHANG)?.is_some()
                {
                    helper = None;
                }
                if let Some(exit) = process::wait(child.pid, libc::WNOHANG)? {
                    return Ok(exit);
                }
            }
            // What our own writes cause, what the kernel sends for our own descriptors, and what becomes of our own terminal is not the
            // container's, which has none: some end when they hear of a new size.
            libc::SIGPIPE | libc::SIGURG | libc::SIGWINCH => {}
            // An init that just ended is found out by its SIGCHLD.
            signal => drop(process::pidfd_send_signal(child.pidfd, signal)),
        }
    }
}
