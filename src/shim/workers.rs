//! Threads for what may take a while. There are as many as there is work at a time, and after a moment of quiet there
//! is none: a shim is quiet for nearly all of its life, and a thread's stack is memory.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The most threads at a time. What comes on top of that waits, unless it is [urgent](Workers::run_at_once).
const THREADS: usize = 64;
/// Bytes of stack, of which the kernel gives what is used.
const STACK: usize = 1 << 20;
/// How long a thread waits for more work.
const PATIENCE: Duration = Duration::from_secs(2);

type Job = Box<dyn FnOnce() + Send>;

/// The threads.
#[derive(Clone)]
pub(super) struct Workers(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    more: Condvar,
    /// Called when the last job is done, if that is [awaited](Workers::while_idle).
    idle: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    waiting: usize,
    /// Jobs that are being done.
    busy: usize,
    /// Whether there was something to do that has to wait until none is.
    is_awaited: bool,
}

impl Workers {
    pub fn new(idle: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), more: Condvar::new(), idle: Box::new(idle) }))
    }

    /// Has `job` done as soon as possible.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock();
        state.jobs.push_back(Box::new(job));
        self.attend(state, THREADS);
    }

    /// The same, before all that wait and however many threads there are: they may all be held up by what `job` is to end.
    pub fn run_at_once(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock();
        state.jobs.push_front(Box::new(job));
        self.attend(state, usize::MAX);
    }

    /// Has somebody look at the jobs, by a new thread if there are fewer than `most`.
    fn attend(&self, mut state: MutexGuard<'_, State>, most: usize) {
        if state.jobs.len() <= state.waiting {
            self.0.more.notify_one();
            return;
        }
        if state.threads >= most {
            return;
        }
        let shared = Arc::clone(&self.0);
        if thread::Builder::new().stack_size(STACK).spawn(move || shared.work()).is_ok() {
            state.threads += 1;
        } else if state.threads == 0
            && let Some(job) = state.jobs.pop_front()
        {
            // There is nobody else to do it.
            drop(state);
            job();
        }
    }

    /// Does `action` while no job is being done, and none begins. `None` if one is: then it is told when none is any more.
    pub fn while_idle<T>(&self, action: impl FnOnce() -> T) -> Option<T> {
        let mut state = self.0.lock();
        state.is_awaited = state.busy != 0;
        (!state.is_awaited).then(action)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.busy += 1;
                drop(state);
                job();
                state = self.lock();
                state.busy -= 1;
                if state.busy == 0 && std::mem::take(&mut state.is_awaited) {
                    (self.idle)();
                }
                if state.threads > THREADS {
                    state.threads -= 1;
                    return;
                }
                continue;
            }
            state.waiting += 1;
            let (guard, result) = self.more.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.waiting -= 1;
            if result.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Instant;

    #[test]
    fn who_waits_for_the_last_job_is_told_once() {
        let (idle, told) = channel();
        let workers = Workers::new(move || idle.send(()).unwrap());
        let (said, heard) = channel();
        let (go, gone) = channel::<()>();
        workers.run(move || {
            said.send(()).unwrap();
            let _ = gone.recv();
        });
        heard.recv().unwrap();
        assert!(workers.while_idle(|| ()).is_none());
        drop(go);
        told.recv_timeout(Duration::from_secs(60)).unwrap();
        // The thread that tells has the lock until it has.
        assert!(workers.while_idle(|| ()).is_some());
        let (said, heard) = channel();
        workers.run(move || said.send(()).unwrap());
        heard.recv().unwrap();
        drop(workers);
        // The thread ends, and what it would tell with.
        assert!(told.recv_timeout(Duration::from_secs(60)).is_err());
    }

    #[test]
    fn what_is_urgent_does_not_wait_for_what_hangs() {
        let workers = Workers::new(|| ());
        let hung = Arc::new(Mutex::new(()));
        let held = hung.lock().unwrap();
        let (said, heard) = channel();
        for number in 0..THREADS + 8 {
            let (hung, said) = (Arc::clone(&hung), said.clone());
            workers.run(move || {
                drop(hung.lock());
                said.send(number).unwrap();
            });
        }
        for number in 0..3 {
            let said = said.clone();
            workers.run_at_once(move || said.send(1000 + number).unwrap());
        }
        let mut urgent: Vec<usize> = heard.iter().take(3).collect();
        urgent.sort_unstable();
        assert_eq!(urgent, [1000, 1001, 1002]);
        assert!(workers.while_idle(|| ()).is_none());
        drop(held);
        // Nothing is forgotten.
        let mut rest: Vec<usize> = heard.iter().take(THREADS + 8).collect();
        rest.sort_unstable();
        assert!(rest.into_iter().eq(0..THREADS + 8));
        // A thread ends after its job has said what it had to.
        let deadline = Instant::now() + Duration::from_secs(60);
        while workers.0.lock().threads > THREADS {
            assert!(Instant::now() < deadline, "{}", workers.0.lock().threads);
            thread::sleep(Duration::from_millis(1));
        }
    }
}
