//! What has been killed: it is waited for and taken away when it has ended, and never before. That may take long, in an I/O that hangs or because
//! somebody traces it (ptrace(2)), and who asks is not to wait for it.

use super::{KILLED, Server};
use crate::log;
use crate::pool::cleaner::Then;
use crate::pool::filler::Part;
use crate::pool::setup;
use crate::sys::process;
use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a pool that ends waits for what it has killed, and how long one looks for what ends without being known: that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

impl Server {
    /// Ends the sandbox `key` that nobody wants. The id that it may have been given is free at once.
    pub(super) fn discard(&mut self, key: u64, mut part: Part) {
        let _ = process::pidfd_send_signal(part.pidfd.as_raw_fd(), libc::SIGKILL);
        part.parked.withdraw();
        self.unwanted.insert(key, part);
    }

    /// Such a sandbox has ended.
    pub(super) fn unwanted_ended(&mut self, key: u64) {
        let Some(part) = self.unwanted.remove(&key) else { return };
        // Who traces it comes first.
        if process::wait(part.parked.child.pid, libc::WNOHANG) == Ok(None) {
            match part.pidfd.try_clone() {
                Ok(pidfd) => self.killed.push(pidfd),
                // Without it one cannot tell for how long.
                Err(_) => self.expect_strangers(),
            }
        }
        self.cleaner.take(part, Then::Remove, None);
    }

    /// How many containers and sandboxes have ended, or have been killed, and are not gone yet.
    pub(super) fn pending(&self) -> usize {
        self.cleaner.pending() + self.unwanted.len()
    }

    /// Has it heard when those end that have been killed.
    pub(super) fn watch_killed(&mut self, killed: Vec<OwnedFd>) {
        for pidfd in killed {
            // Once: it stays readable until it is closed. Without it the end is found a second later.
            let _ = self.epoll.add(&pidfd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, KILLED));
            self.killed.push(pidfd);
        }
    }

    /// Whether there is something of which no end has been heard.
    pub(super) fn has_leftovers(&self) -> bool {
        self.strangers_until.is_some()
            || !self.killed.is_empty()
            || !self.unwanted.is_empty()
            || !self.unfinished.is_empty()
    }

    /// What nobody knows of may end in the next moments: what was being made when a maker ended.
    pub(super) fn expect_strangers(&mut self) {
        self.strangers_until = Some(Instant::now() + PATIENCE);
    }

    /// Takes away what has ended by now of what has been killed.
    pub(super) fn see_to_leftovers(&mut self) {
        self.strangers_until = self.strangers_until.filter(|until| Instant::now() < *until);
        let has_ended = |part: &Part| process::has_ended(part.pidfd.as_raw_fd()) == Ok(true);
        let ended: Vec<_> = self.unwanted.iter().filter(|(_, part)| has_ended(part)).map(|(key, _)| *key).collect();
        ended.into_iter().for_each(|key| self.unwanted_ended(key));
        self.reap_strangers();
        // One that has been waited for is no process any more.
        self.killed.retain(|pidfd| process::pidfd_send_signal(pidfd.as_raw_fd(), 0) != Err(Errno::ESRCH));
        self.unfinished.retain(|entry| !setup::is_removed(&self.settings.options.store, entry));
    }

    /// Waits for the ended processes of sandboxes that have not become any, and of others that have been killed. Hooks are the cleaner's children.
    pub(super) fn reap_strangers(&mut self) {
        while let Ok(Some(pid)) = process::ended_child_of_this_thread() {
            let held = self.held.iter().map(|(key, held)| (key, &held.part));
            let mut parts = held.chain(&self.unwanted);
            match parts.find(|(_, part)| part.parked.child.pid == pid).map(|(key, _)| *key) {
                Some(key) => self.ended(key),
                None => drop(process::wait(pid, libc::WNOHANG)),
            }
        }
    }

    /// Waits for what has been killed. What has not ended after a while is left to the next pool.
    pub(super) fn await_leftovers(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let ends = |pidfd: &OwnedFd| {
            process::ends_within(pidfd.as_raw_fd(), deadline.saturating_duration_since(Instant::now())) == Ok(true)
        };
        self.killed.retain(ends);
        for part in self.unwanted.values() {
            ends(&part.pidfd);
        }
        self.see_to_leftovers();
        for part in self.unwanted.values() {
            let id = part.parked.entry.id();
            log::warn(format_args!("pool: the sandbox {id} does not end: the next pool removes what is left of it"));
        }
    }
}
