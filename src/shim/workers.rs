//! Threads for what may take a while. There are as many as there is work at a time, and after a moment of quiet there
//! is none: a shim is quiet for nearly all of its life, and a thread's stack is memory.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The most threads at a time. What comes on top of that waits.
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
    /// Called when the last job is done.
    idle: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    waiting: usize,
    /// Jobs that are being done.
    busy: usize,
}

impl Workers {
    pub fn new(idle: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), more: Condvar::new(), idle: Box::new(idle) }))
    }

    /// Has `job` done as soon as possible.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.jobs.push_back(Box::new(job));
        if state.jobs.len() <= state.waiting {
            self.0.more.notify_one();
            return;
        }
        if state.threads >= THREADS {
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

    /// Does `action` while no job is being done, and none begins; `None` if one is.
    pub fn while_idle<T>(&self, action: impl FnOnce() -> T) -> Option<T> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.busy == 0).then(action)
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.busy += 1;
                drop(state);
                job();
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.busy -= 1;
                if state.busy == 0 {
                    (self.idle)();
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
