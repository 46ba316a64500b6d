//! Takes away what is left of containers, in a thread of its own.
//!
//! At leisure, a millisecond after its end: who waited for the end uses the CPU now, and who asks next. When more than [`MOST_PENDING`] wait for it, there
//! is no pause any more, and the pool makes nothing new until there are fewer: what has ended is not to outgrow what waits.

use super::filler::{Part, Place};
use super::network::{Inspector, Resting};
use super::template::{Identity, Template};
use crate::container::park::Parked;
use crate::container::{launch, manage};
use crate::error::{Doing, Result};
use crate::log;
use crate::sys::{request, socket};
use oci_spec::runtime::{Hooks, Spec};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How many ended containers may wait for their removal before nothing new is made.
pub const MOST_PENDING: usize = 64;

/// How long a container that has ended is left alone.
const PAUSE: Duration = Duration::from_millis(1);

/// A container that has ended, and has been waited for.
#[derive(Debug)]
struct Job {
    part: Part,
    then: Then,
    /// Since when.
    since: Instant,
    /// For whom its namespaces may be of use.
    user: Option<(Identity, Arc<Template>)>,
}

/// Namespaces that can be used again, or perhaps, and by whom.
pub type Rested<T = Place> = (Identity, Arc<Template>, T);

/// What is to be done after the end of a container.
#[derive(Debug)]
pub enum Then {
    /// Everything is removed, at leisure. It has no hooks, or never became a container, of which they would be.
    Remove,
    /// Everything is removed, and then who waits is told, with the exit code; after the poststop hooks.
    Tell(OwnedFd, i32),
    /// `delete` removes it.
    Leave,
}

/// Whether the end may be told before everything is gone: there is no hook to run first.
pub fn may_wait(parked: &Parked) -> bool {
    launch::hooks(&parked.spec, Hooks::poststop).is_empty()
}

/// The thread, as the pool sees it.
#[derive(Debug)]
pub struct Cleaner {
    jobs: Sender<Job>,
    /// How many are not done yet.
    pending: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
    rested: Receiver<Rested>,
}

impl Cleaner {
    /// Begins the thread.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn begin() -> Result<Self> {
        let ((jobs, to_do), (rest, rested)) = (channel(), channel());
        let pending = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&pending);
        let thread = thread::Builder::new().spawn(move || run(&to_do, &counted, &rest));
        let thread = thread.doing(|| "begin the thread that takes ended containers away")?;
        Ok(Self { jobs, pending, thread, rested })
    }

    /// Leaves a container to it, whose namespaces may be of use for `user`.
    pub fn take(&self, part: Part, then: Then, user: Option<(Identity, Arc<Template>)>) {
        self.pending.fetch_add(1, Ordering::Relaxed);
        // The thread is there for as long as this is.
        let _ = self.jobs.send(Job { part, then, since: Instant::now(), user });
    }

    /// Namespaces that can be used again.
    pub fn rested(&self) -> Option<Rested> {
        self.rested.try_recv().ok()
    }

    /// How many ended containers are not gone yet.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Waits until all are gone.
    pub fn end(self) {
        drop(self.jobs);
        let _ = self.thread.join();
    }
}

/// Cleans up until there is nobody left to do so for.
fn run(jobs: &Receiver<Job>, pending: &AtomicUsize, rested: &Sender<Rested>) {
    let (mut resting, mut inspector) = (Resting::new(), Inspector::new());
    thread::scope(|hooks| {
        loop {
            match receive_within(jobs, resting.due()) {
                // Hooks take as long as they like, and who waits for them is nobody else.
                Ok(Job { part, then: Then::Tell(answers, code), .. }) => {
                    let job = Arc::new(Mutex::new(Some((part, answers))));
                    let work = move || {
                        let Some((part, answers)) = job.lock().unwrap_or_else(PoisonError::into_inner).take() else {
                            return;
                        };
                        tell_end(&answers, code, &remove(&part.parked, Some(&part.parked.spec)));
                        drop(part);
                        pending.fetch_sub(1, Ordering::Relaxed);
                    };
                    // Where there can be no other thread, others wait.
                    if thread::Builder::new().spawn_scoped(hooks, work.clone()).is_err() {
                        work();
                    }
                }
                Ok(job) => {
                    match clean(job, pending.load(Ordering::Relaxed) > MOST_PENDING) {
                        Some(one) if one.1.look.takes_rest() => resting.add(one),
                        one => one.into_iter().for_each(|one| inspect(one, &mut inspector, rested)),
                    }
                    pending.fetch_sub(1, Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Some(one) = resting.next() {
                inspect(one, &mut inspector, rested);
            }
        }
    });
}

/// Brings namespaces back that are as good as new. What is mounted is looked at when it is used again.
fn inspect((bundle, template, mut place): Rested, inspector: &mut Inspector, rested: &Sender<Rested>) {
    if let Some(network) = &mut place.network
        && let Err(error) = network.require_unused(inspector, template.look)
    {
        log::debug(|| format!("pool: not used again: {error}"));
        place.network = None;
    }
    if !place.is_none() {
        // The loop is there for as long as this thread is.
        let _ = rested.send((bundle, template, place));
    }
}

/// What comes within `patience`, without which it is waited for as long as anybody may send something.
pub fn receive_within<T>(from: &Receiver<T>, patience: Option<Duration>) -> Result<T, RecvTimeoutError> {
    match patience {
        Some(patience) => from.recv_timeout(patience),
        None => from.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// Takes a container away, at once if much `is_behind`; its namespaces, if they may turn out to be of use.
fn clean(Job { mut part, then, since, user }: Job, is_behind: bool) -> Option<Rested> {
    let place = Place { network: part.network.take(), rooms: part.rooms.take() };
    if matches!(then, Then::Leave) {
        return None;
    }
    if !is_behind {
        thread::sleep(PAUSE.saturating_sub(since.elapsed()));
    }
    if !remove_usual(&part.parked) {
        // Somebody has left something there: a mark, if he has entered it ([`Entry::note_visit`]).
        log::show(&remove(&part.parked, None));
        return None;
    }
    // The mount namespace goes last, and the kernel takes its time.
    drop(part);
    let (bundle, template) = user?;
    (!place.is_none()).then_some((bundle, template, place))
}

/// Removes what every container has that ended as it was to; whether that was all.
fn remove_usual(parked: &Parked) -> bool {
    !parked.state.shares_pids
        && manage::remove_groups(&parked.state).is_ok()
        && parked.lock.as_ref().is_some_and(|lock| parked.entry.remove_usual(lock))
}

/// Removes what there is, and runs the poststop hooks of `spec`; what the user should know, as lines of the log.
fn remove(parked: &Parked, spec: Option<&Spec>) -> String {
    let killed = if parked.state.shares_pids { parked.state.cgroup.kill(libc::SIGKILL) } else { Ok(()) };
    match killed.and_then(|()| manage::remove_empty(&parked.entry, &parked.state, spec)) {
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
