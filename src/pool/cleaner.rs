//! Takes away what is left of containers, in a thread of its own.
//!
//! At leisure, one each millisecond: who waited for the end uses the CPU now, and who asks next. When more than [`MOST_PENDING`] wait for it, there
//! is no pause any more, and the pool makes nothing new until there are fewer: what has ended is not to outgrow what waits.

use super::filler::Part;
use crate::container::park::Parked;
use crate::container::{launch, manage};
use crate::log;
use crate::sys::{request, socket};
use oci_spec::runtime::Hooks;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How many ended containers may wait for their removal before nothing new is made.
pub const MOST_PENDING: usize = 64;

/// How long a container that has ended is left alone.
const PAUSE: Duration = Duration::from_millis(1);

/// A container that has ended, and has been waited for.
#[derive(Debug)]
struct Job {
    part: Part,
    then: Then,
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

/// The thread, as the pool sees it.
#[derive(Debug)]
pub struct Cleaner {
    jobs: Sender<Job>,
    /// How many are not done yet.
    pending: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Cleaner {
    /// Begins the thread.
    pub fn begin() -> Self {
        let (jobs, to_do) = channel();
        let pending = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&pending);
        Self { jobs, pending, thread: thread::spawn(move || run(&to_do, &counted)) }
    }

    /// Leaves a container to it.
    pub fn take(&self, part: Part, then: Then) {
        self.pending.fetch_add(1, Ordering::Relaxed);
        // The thread is there for as long as this is.
        let _ = self.jobs.send(Job { part, then });
    }

    /// How many ended containers are not gone yet.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Whether that is more than may be, so that nothing more is to be made.
    pub fn is_behind(&self) -> bool {
        self.pending() > MOST_PENDING
    }

    /// Waits until all are gone.
    pub fn end(self) {
        drop(self.jobs);
        let _ = self.thread.join();
    }
}

/// Cleans up until there is nobody left to do so for.
fn run(jobs: &Receiver<Job>, pending: &AtomicUsize) {
    let is_behind = || pending.load(Ordering::Relaxed) > MOST_PENDING;
    thread::scope(|hooks| {
        for Job { part, then } in jobs {
            match then {
                Then::Leave => {}
                Then::Remove => {
                    if !is_behind() {
                        thread::sleep(PAUSE);
                    }
                    let text = remove(&part.parked);
                    if !text.is_empty() {
                        eprint!("{text}");
                    }
                }
                // Hooks take as long as they like, and who waits for them is nobody else.
                Then::Tell(answers, code) => {
                    hooks.spawn(move || {
                        tell_end(&answers, code, &remove(&part.parked));
                        drop(part);
                        pending.fetch_sub(1, Ordering::Relaxed);
                    });
                    continue;
                }
            }
            // The namespace goes last, and the kernel takes its time.
            drop(part);
            pending.fetch_sub(1, Ordering::Relaxed);
        }
    });
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
