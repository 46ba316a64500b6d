//! The parts of one bundle.

use super::filler::Place;
use super::memory::{NETWORK, ROOMS, Room};
use super::network::Network;
use super::template::Template;
use crate::container::ground::Rooms;
use crate::error::Result;
use crate::log;
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
    /// How much memory one takes, in bytes, once one has been made.
    pub size: Option<u64>,
    /// How many are being made.
    pub ordered: usize,
    /// The keys of those that are ready, the oldest first.
    pub ready: VecDeque<u64>,
    /// Network namespaces of containers that have ended, as good as new.
    pub networks: Vec<Network>,
    /// Their mount and IPC namespaces, likewise.
    pub rooms: Vec<Rooms>,
    /// How many network namespaces have been used again, and how many mount and IPC namespaces.
    pub reused: u64,
    pub reused_rooms: u64,
    /// How many have been given away.
    pub served: u64,
    /// How often none was.
    pub missed: u64,
    /// How many of those waited for it to be made.
    pub waited: u64,
    /// How long it takes until the next one is there while some are being made, lately; `None` until one has been.
    pub takes: Option<Duration>,
    /// Since when that is being waited for.
    since: Instant,
    /// When somebody asked last.
    last_asked: Instant,
    /// Why the last could not be made, and when.
    pub failure: Option<(Instant, String)>,
    /// Whether the bundle is another than that of the template.
    pub is_stale: bool,
}

impl Stock {
    /// Nothing yet.
    pub fn new(template: Arc<Template>, wanted: usize) -> Self {
        Self {
            template,
            wanted,
            size: None,
            ordered: 0,
            ready: VecDeque::new(),
            networks: Vec::new(),
            rooms: Vec::new(),
            reused: 0,
            reused_rooms: 0,
            served: 0,
            missed: 0,
            waited: 0,
            takes: None,
            since: Instant::now(),
            last_asked: Instant::now(),
            failure: None,
            is_stale: false,
        }
    }

    /// Whether it is made from `template`, as that is now.
    pub fn is_of(&self, template: &Arc<Template>) -> bool {
        !self.is_stale && Arc::ptr_eq(&self.template, template)
    }

    /// How many there are, or will be.
    pub fn parts(&self) -> usize {
        self.ready.len() + self.ordered
    }

    /// How much memory they take, in bytes.
    pub fn memory(&self) -> u64 {
        self.size.unwrap_or(0) * self.parts() as u64
    }

    /// How much memory the namespaces take that are kept for them, in bytes.
    pub fn kept(&self) -> u64 {
        NETWORK * self.networks.len() as u64 + ROOMS * self.rooms.len() as u64
    }

    /// Keeps no more namespaces than there is `room` for beside sandboxes.
    pub fn keep_within(&mut self, room: &mut Room) {
        self.rooms.truncate(room.take_memory(self.rooms.len(), ROOMS));
        self.networks.truncate(room.take_memory(self.networks.len(), NETWORK));
    }

    /// Takes namespaces back, unless there are enough: as many as sandboxes, and for those that rest.
    pub fn keep(&mut self, place: Place) {
        const MOST_RESTING: usize = 32;
        let most = self.wanted + MOST_RESTING;
        self.networks.extend(place.network.filter(|_| self.networks.len() < most));
        self.rooms.extend(place.rooms.filter(|_| self.rooms.len() < most));
    }

    /// Namespaces for the next sandbox, if there are any that can be used again.
    pub fn place(&mut self) -> Place {
        Place { network: self.networks.pop(), rooms: self.rooms.pop() }
    }

    /// How many are to be ordered now. After a failure it is one, until that has been made.
    pub fn missing(&self) -> usize {
        let most = match self.failure {
            _ if self.is_stale || !self.may_try() => 0,
            Some(_) => usize::from(self.ordered == 0),
            None => usize::MAX,
        };
        self.wanted.saturating_sub(self.parts()).min(most)
    }

    /// Whether the last attempt failed, so that it is time for another one some time.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Whether the last failure is long enough ago.
    pub fn may_try(&self) -> bool {
        self.failure.as_ref().is_none_or(|(when, _)| when.elapsed() >= BACK_OFF)
    }

    /// The bundle has changed: what there is of parts, which are of no use any more.
    pub fn spoil(&mut self) -> VecDeque<u64> {
        // Why it cannot be renewed is not forgotten each time.
        if !std::mem::replace(&mut self.is_stale, true) {
            self.failure = None;
        }
        std::mem::take(&mut self.ready)
    }

    /// Goes on with the bundle as it is now.
    ///
    /// # Errors
    /// A bundle that cannot be parked.
    pub fn renew(&mut self) -> Result<()> {
        self.template = Arc::new(Template::new(self.template.asked(), self.wanted > 0)?);
        // What has been ordered is of the template before.
        (self.is_stale, self.ordered, self.failure, self.size, self.takes) = (false, 0, None, None, None);
        self.networks.clear();
        self.rooms.clear();
        Ok(())
    }

    /// Whether what is missing can wait until whoever asked last has been served.
    pub fn can_wait(&self) -> bool {
        2 * self.parts() >= self.wanted && self.last_asked.elapsed() < PAUSE
    }

    /// One has been ordered.
    pub fn order(&mut self) {
        if self.ordered == 0 {
            self.since = Instant::now();
        }
        self.ordered += 1;
    }

    /// Whether who asks now, after `others` who wait already, has a sandbox within `patience`, as it seems.
    pub fn comes_within(&self, patience: Duration, others: usize) -> bool {
        let is_soon = |takes: Duration| takes.saturating_mul(others as u32 + 1) <= patience;
        self.ordered > others && !self.has_failed() && self.takes.is_some_and(is_soon)
    }

    /// The next one takes more than `time`: nobody waits so long for one until some have been made in less again.
    pub fn delayed(&mut self, time: Duration) {
        self.takes = self.takes.max(Some(2 * time));
    }

    /// One has been made, in the network namespace of another if it `has_used_network`, in the rooms of one if it `is_furnished`.
    pub fn made(&mut self, key: u64, has_used_network: bool, is_furnished: bool) {
        self.reused += u64::from(has_used_network);
        self.reused_rooms += u64::from(is_furnished);
        let took = self.since.elapsed();
        self.since = Instant::now();
        self.takes = Some(self.takes.map_or(took, |before| (3 * before + took) / 4));
        self.ordered = self.ordered.saturating_sub(1);
        self.ready.push_back(key);
        self.failure = None;
    }

    /// One could not be made.
    pub fn failed(&mut self, why: String) {
        self.ordered = self.ordered.saturating_sub(1);
        self.refuse(why);
    }

    /// None can be made now, or none lasts; what is being made comes all the same. What is said once is not said again.
    pub fn refuse(&mut self, why: String) {
        if self.failure.as_ref().is_none_or(|(_, before)| *before != why) {
            log::warn(format_args!("pool: {}: {why}", self.template.options.bundle.display()));
        }
        self.failure = Some((Instant::now(), why));
    }

    /// Somebody asks for it, whatever he gets.
    pub fn asked(&mut self) {
        self.last_asked = Instant::now();
    }

    /// The next part; `None` if none is ready.
    pub fn take(&mut self) -> Option<u64> {
        let key = self.ready.pop_front();
        self.served += u64::from(key.is_some());
        key
    }

    /// A part that was taken and not used.
    pub fn give_back(&mut self, key: u64) {
        self.served -= 1;
        self.missed += 1;
        self.ready.push_front(key);
    }

    /// A part that was taken, and is of no use.
    pub fn not_served(&mut self) {
        self.served -= 1;
        self.missed += 1;
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
