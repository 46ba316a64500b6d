//! Takes away what is left of containers, in a thread of its own.

use super::filler::Part;
use crate::container::{launch, manage};
use crate::log;
use crate::sys::{request, socket};
use oci_spec::runtime::Hooks;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::Receiver;

/// A container that has ended, and has been waited for.
#[derive(Debug)]
pub struct Job {
    /// What there was.
    pub part: Part,
    /// Who is to be told of the end, with the status, when all is gone. Else he has been told.
    pub told: Option<(OwnedFd, i32)>,
}

/// Whether the end may be told before everything is gone: there is no hook to run first.
pub fn may_wait(part: &Part) -> bool {
    launch::hooks(&part.parked.spec, Hooks::poststop).is_empty()
}

/// Cleans up until there is nobody left to do so for.
pub fn run(jobs: &Receiver<Job>) {
    for Job { part, told } in jobs {
        let parked = part.parked;
        let mut text = String::new();
        let removed = match parked.state.shares_pids {
            true => parked.state.cgroup.kill(libc::SIGKILL),
            false => Ok(()),
        };
        let removed = removed.and_then(|()| manage::remove_empty(&parked.entry, &parked.state, Some(&parked.spec)));
        match removed {
            Ok(warnings) => warnings.iter().for_each(|warning| text.push_str(&log::warning_line(warning))),
            Err(error) => text.push_str(&log::warning_line(&error)),
        }
        match told {
            Some((answers, status)) => tell_end(&answers, status, &text),
            None if text.is_empty() => {}
            None => eprint!("{text}"),
        }
        drop(part.mounts);
    }
}

/// Says that a container has ended. Who does not listen any more has not missed anything.
pub fn tell_end(answers: &OwnedFd, status: i32, text: &str) {
    let text = text.get(..text.len().min(request::ANSWER - 5)).unwrap_or_default();
    let parts: [&[u8]; 3] = [&[request::answer::EXITED], &status.to_ne_bytes(), text.as_bytes()];
    let _ = socket::send_fds(answers.as_raw_fd(), &parts, &[]);
}
