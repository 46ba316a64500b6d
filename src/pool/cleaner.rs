//! Takes away what is left of containers, in a thread of its own.

use super::filler::Part;
use crate::container::park::Parked;
use crate::container::{launch, manage};
use crate::log;
use crate::sys::{request, socket};
use oci_spec::runtime::Hooks;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// A container that has ended, and has been waited for.
#[derive(Debug)]
pub struct Job {
    /// What there was.
    pub part: Part,
    /// What is to be done.
    pub then: Then,
}

/// What is to be done after the end of a container.
#[derive(Debug)]
pub enum Then {
    /// Everything is removed, at leisure.
    Remove,
    /// Everything is removed, and then who waits is told, with the exit code.
    Tell(OwnedFd, i32),
    /// `delete` removes it.
    Leave,
}

/// Whether the end may be told before everything is gone: there is no hook to run first.
pub fn may_wait(part: &Part) -> bool {
    launch::hooks(&part.parked.spec, Hooks::poststop).is_empty()
}

/// How long a container that has ended is left alone: who waited for it uses the CPU now.
const PAUSE: Duration = Duration::from_millis(1);

/// Cleans up until there is nobody left to do so for.
pub fn run(jobs: &Receiver<Job>) {
    for Job { part, then } in jobs {
        match then {
            Then::Leave => {}
            Then::Remove => {
                std::thread::sleep(PAUSE);
                let text = remove(&part.parked);
                if !text.is_empty() {
                    eprint!("{text}");
                }
            }
            Then::Tell(answers, code) => tell_end(&answers, code, &remove(&part.parked)),
        }
        // The namespace goes last, and the kernel takes its time.
        drop(part);
    }
}

/// Removes what there is; what the user should know, as lines of the log.
fn remove(parked: &Parked) -> String {
    let killed = if parked.state.shares_pids { parked.state.cgroup.kill(libc::SIGKILL) } else { Ok(()) };
    match killed.and_then(|()| manage::remove_empty(&parked.entry, &parked.state, Some(&parked.spec))) {
        Ok(warnings) => warnings.iter().map(log::warning_line).collect(),
        Err(error) => log::warning_line(&error),
    }
}

/// Says that a container has ended. Who does not listen any more has not missed anything.
pub fn tell_end(answers: &OwnedFd, status: i32, text: &str) {
    let text = text.get(..text.len().min(request::ANSWER - 5)).unwrap_or_default();
    let parts: [&[u8]; 3] = [&[request::answer::EXITED], &status.to_ne_bytes(), text.as_bytes()];
    let _ = socket::send_fds_now(answers.as_raw_fd(), &parts, &[]);
}
