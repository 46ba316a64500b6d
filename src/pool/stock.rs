//! The parts of one bundle.

use super::template::Template;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long after a failure nothing is made.
const BACK_OFF: Duration = Duration::from_secs(1);

/// How long after a request nothing is made while half of the parts are there: the CPU is for the container then.
pub const PAUSE: Duration = Duration::from_millis(2);

/// The parts of a bundle, and how they have served.
#[derive(Debug)]
pub struct Stock {
    /// What they are made from.
    pub template: Arc<Template>,
    /// How many there are to be.
    pub wanted: usize,
    /// How many are being made.
    pub ordered: usize,
    /// The keys of those that are ready, the oldest first.
    pub ready: VecDeque<u64>,
    /// How many have been given away.
    pub served: u64,
    /// How often there was none.
    pub missed: u64,
    /// When somebody asked last.
    last_asked: Instant,
    /// Why the last could not be made, and when.
    pub failure: Option<(Instant, String)>,
}

impl Stock {
    /// Nothing yet.
    pub fn new(template: Arc<Template>, wanted: usize) -> Self {
        Self {
            template,
            wanted,
            ordered: 0,
            ready: VecDeque::new(),
            served: 0,
            missed: 0,
            last_asked: Instant::now(),
            failure: None,
        }
    }

    /// How many there are, or will be.
    pub fn parts(&self) -> usize {
        self.ready.len() + self.ordered
    }

    /// How many are to be ordered now.
    pub fn missing(&self) -> usize {
        let is_resting = self.failure.as_ref().is_some_and(|(when, _)| when.elapsed() < BACK_OFF);
        if is_resting { 0 } else { self.wanted.saturating_sub(self.parts()) }
    }

    /// Whether what is missing can wait until whoever asked last has been served.
    pub fn can_wait(&self) -> bool {
        2 * self.parts() >= self.wanted && self.last_asked.elapsed() < PAUSE
    }

    /// One has been made.
    pub fn made(&mut self, key: u64) {
        self.ordered = self.ordered.saturating_sub(1);
        self.ready.push_back(key);
        self.failure = None;
    }

    /// One could not be made.
    pub fn failed(&mut self, why: String) {
        self.ordered = self.ordered.saturating_sub(1);
        self.failure = Some((Instant::now(), why));
    }

    /// The next part; `None` if none is ready.
    pub fn take(&mut self) -> Option<u64> {
        self.last_asked = Instant::now();
        let key = self.ready.pop_front();
        if key.is_some() {
            self.served += 1
        } else {
            self.missed += 1
        }
        key
    }

    /// A part that was taken and not used.
    pub fn give_back(&mut self, key: u64) {
        self.served -= 1;
        self.ready.push_front(key);
    }

    /// A part that ended by itself.
    pub fn lost(&mut self, key: u64) {
        self.ready.retain(|ready| *ready != key);
    }

    /// Whether nobody has asked for so long.
    pub fn is_idle(&self, time: Duration) -> bool {
        self.last_asked.elapsed() > time
    }
}
