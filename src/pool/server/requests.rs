//! What is asked for, and the answers: a sandbox, parts, or that one begin cold.

use super::{Given, Server, Settings};
use crate::container::store::Store;
use crate::error::{Doing, Error, Kind, Result};
use crate::pool::answers::{Unsaid, say};
use crate::pool::asked::{Asked, No, hand_over, limits};
use crate::pool::parts::{Parts, Taker};
use crate::pool::streams::Streams;
use crate::pool::template::{Identity, identity};
use crate::sys::request::{self, answer};
use crate::sys::socket::{self, Received};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::stat::fstat;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long who asks waits for a sandbox that is being made: as long as a cold start takes on a machine on which sandboxes run out.
const PATIENCE: Duration = Duration::from_millis(10);

/// How many do at a time.
const MOST_WAITING: usize = 16;

/// How many who do not read a long answer at once are waited for. Others get the beginning.
const MOST_UNSAID: usize = 16;

impl Server {
    /// Takes a request. If there are more, that is heard of again.
    pub(super) fn take_request(&mut self) {
        let mut data = [0u8; request::MOST];
        let Ok(received) = socket::receive_what_fits(self.requests.as_raw_fd(), &mut data) else { return };
        let message = data.get(..received.count).unwrap_or_default();
        self.take(message, received);
    }

    fn take(&mut self, message: &[u8], received: Received) {
        let Received { fds, sender, pidfd, is_cut, .. } = received;
        let mut fds = fds.into_iter();
        let Some(answers) = fds.next() else { return };
        if is_cut {
            let reason =
                "the request has not come whole: it is of another version, or the pool has too many descriptors";
            return say(&answers, answer::COLD, reason);
        }
        let (Some(request), Some(sender), Some(bundle), request::DESCRIPTORS) =
            (request::parse(message), sender, fds.next(), fds.len() + 2)
        else {
            return say(&answers, answer::COLD, "the request is malformed: it is of another version");
        };
        let request::Parsed { header, root, id } = request;
        if let Some(refusal) = self.place.refusal(&header, sender, pidfd.as_ref()) {
            return say(&answers, answer::COLD, refusal);
        }
        if matches!(header.kind, request::FILL | request::DRAIN) {
            say(&answers, answer::WORKING, "");
        }
        let done = match header.kind {
            request::RUN | request::LEASE => {
                let (root, id, stdio) = (OsStr::from_bytes(root).into(), id.into(), Streams::of(fds.collect()));
                return self.start(Asked { header, root, id, answers, bundle, stdio, since: None });
            }
            request::MAKE => {
                let known = self.known(&bundle);
                // Of what it is started with nothing is known.
                let taker = Taker { wanted: header.flags, is_closed: false };
                return self.lend(known, taker, answers, "no part is ready");
            }
            request::FILL => {
                path_of(&bundle).and_then(|path| self.fill(&path, header.count as usize)).map(|()| String::new())
            }
            request::DRAIN => self.drain(&bundle).map(|()| String::new()),
            request::STATUS => Ok(self.status()),
            _ => Err(Error::new(Kind::Usage, "the pool does not know what that is: it is of another version")),
        };
        match done {
            Ok(text) => self.tell(Unsaid::new(answers, answer::DONE, text)),
            Err(error) => self.tell(Unsaid::new(answers, answer::FAILED, error.to_string())),
        }
    }

    /// Starts a container, or says why not. Who finds no sandbox waits for the next one, once, if that is soon.
    fn start(&mut self, mut asked: Asked) {
        let known = self.known(&asked.bundle);
        let given = known.map_err(No::from).and_then(|bundle| self.give(&asked, bundle));
        if let (Err(No::NotReady), Ok(bundle)) = (&given, known) {
            if asked.since.is_none() && self.is_worth_waiting(bundle) {
                asked.since = Some((bundle, Instant::now()));
                return self.waiting.push(asked);
            }
            self.stocks.get_mut(&bundle).into_iter().for_each(|stock| stock.missed += 1);
        }
        let Asked { header, answers, stdio, since, .. } = asked;
        // Who gets a sandbox does not wait for this.
        let is_closed = !stdio.have_socket();
        drop(stdio);
        let is_run = header.kind == request::RUN;
        let reason = match given {
            Ok(key) => {
                if let Some(stock) = since.and_then(|(bundle, _)| self.stocks.get_mut(&bundle)) {
                    stock.waited += 1;
                }
                return self.watch(key, answers, is_run && header.flags & request::DETACHED != 0);
            }
            Err(No::Terminal) => return say(&answers, answer::TERMINAL, "the container has a terminal"),
            Err(No::NotReady) => "no part is ready",
            Err(No::Because(reason)) => reason,
        };
        if !is_run || header.flags & request::PARTS == 0 {
            return say(&answers, answer::COLD, reason);
        }
        let taker = Taker { wanted: request::NETWORK | request::CGROUP, is_closed };
        match known {
            Err(reason) if self.parts.is_some() => say(&answers, answer::UNKNOWN, reason),
            known => self.lend(known, taker, answers, reason),
        }
    }

    /// Whether a sandbox of `bundle` comes soon enough for one more who asks.
    fn is_worth_waiting(&self, bundle: Identity) -> bool {
        let others = self.waiting.iter().filter(|asked| asked.since.is_some_and(|(other, _)| other == bundle)).count();
        self.waiting.len() < MOST_WAITING
            && !self.settings.pace.is_limited()
            && self.stocks.get(&bundle).is_some_and(|stock| stock.comes_within(PATIENCE, others))
    }

    /// Serves those who wait, and sends away for whom that takes too long.
    pub(super) fn serve_waiting(&mut self) {
        for asked in std::mem::take(&mut self.waiting) {
            let of = asked.since.and_then(|(bundle, since)| Some((self.stocks.get_mut(&bundle)?, since)));
            if let Some((stock, since)) = of
                && stock.ready.is_empty()
                && stock.ordered > 0
            {
                if since.elapsed() < PATIENCE {
                    self.waiting.push(asked);
                    continue;
                }
                stock.delayed(PATIENCE);
            }
            self.start(asked);
        }
    }

    /// Answers; what there is no room for is said when there is.
    fn tell(&mut self, mut unsaid: Unsaid) {
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, self.next * 2 + 1);
        if !unsaid.say() && self.unsaid.len() < MOST_UNSAID && self.epoll.add(&unsaid, event).is_ok() {
            self.unsaid.insert(self.next, unsaid);
            self.next += 1;
        }
    }

    /// The bundle, if the pool knows it as it is now.
    fn known(&mut self, bundle: &OwnedFd) -> Result<Identity, &'static str> {
        let about = fstat(bundle).map_err(|_| "the bundle cannot be looked at")?;
        let identity = identity(&about);
        let stock = self.stocks.get_mut(&identity).ok_or("the pool has no parts for this bundle")?;
        stock.asked();
        if stock.template.is_current(bundle) != Ok(true) {
            let template = Arc::clone(&stock.template);
            self.spoil(&identity, &template);
            return Err("the bundle has changed");
        }
        Ok(identity)
    }

    /// Gives parts to who makes a container himself, for the `reason` that there is no sandbox.
    fn lend(&mut self, known: Result<Identity, &'static str>, taker: Taker, answers: OwnedFd, reason: &'static str) {
        let stock = known.ok().and_then(|bundle| Some((bundle, &self.stocks.get(&bundle)?.template)));
        let reason = known.err().unwrap_or(reason);
        let lent = match (&mut self.parts, stock) {
            (Some(parts), Some((bundle, template))) => parts.lend(bundle, template, taker, answers),
            (Some(parts), None) if taker.wanted & request::NETWORK != 0 => parts.lend_to_any(answers),
            _ => Err(answers),
        };
        if let Err(answers) = lent {
            say(&answers, answer::COLD, reason);
        }
    }

    /// Gives a sandbox away.
    fn give(&mut self, asked: &Asked, bundle: Identity) -> Result<u64, No> {
        let stock = self.stocks.get_mut(&bundle).ok_or("the pool has no parts for this bundle")?;
        if stock.template.has_terminal {
            if asked.header.flags & request::TERMINAL == 0 {
                return Err(No::Terminal);
            }
            if asked.header.flags & request::DETACHED != 0 {
                return Err("a detached container needs --console-socket for its terminal".into());
            }
        }
        if let Some(reason) = self.place.refusal_to_share(asked.header.pid, &stock.template.inherited) {
            return Err(reason.into());
        }
        let key = stock.take().ok_or(No::NotReady)?;
        let held = self.held.get_mut(&key).ok_or(No::NotReady)?;
        let parked = &mut held.part.parked;
        // What is wrong with the id or the root is said by a cold start.
        let named = std::str::from_utf8(&asked.id).ok().filter(|_| asked.root.is_absolute());
        let recorded = named.is_some_and(|id| parked.appear(&Store::new(&asked.root), id).is_ok());
        if !recorded {
            stock.give_back(key);
            return Err("the container cannot be recorded".into());
        }
        let handed = limits(&self.place, &asked.header, parked).and_then(|()| hand_over(asked, &mut held.part));
        if let Err(reason) = handed {
            stock.not_served();
            self.discard_all([key]);
            return Err(reason.into());
        }
        held.given = Some(Given { answers: None, is_detached: false });
        // What it could hand over there by a socket, its network namespace in an open file say, would outlive it.
        if asked.stdio.have_socket() {
            (held.part.network, held.part.rooms) = (None, None);
        }
        self.unannounced.push(key);
        Ok(key)
    }

    fn drain(&mut self, bundle: &OwnedFd) -> Result<()> {
        let about = fstat(bundle).doing(|| "look at the bundle")?;
        path_of(bundle).map(|path| self.give_up_with_path(&identity(&about), &path))
    }

    fn status(&self) -> String {
        let Settings { pace, bounds, idle, .. } = &self.settings;
        let (made, took) = self.ledger.status();
        let memory_of_parts = self.parts.as_ref().map_or(0, Parts::memory);
        let stocks = self.stocks.values().map(|stock| {
            serde_json::json!({
                "bundle": stock.template.options.bundle,
                "wanted": stock.wanted,
                "ready": stock.ready.len(),
                "beingMade": stock.ordered,
                "served": stock.served,
                "waited": stock.waited,
                "missed": stock.missed,
                "reusedNetworks": stock.reused,
                "reusedMounts": stock.reused_rooms,
                "secondsOfEach": stock.takes.map(|takes| takes.as_secs_f64()),
                "memoryOfEach": stock.size,
                "failure": stock.failure.as_ref().map(|(_, why)| why),
            })
        });
        serde_json::json!({
            "bundles": stocks.collect::<Vec<_>>(),
            "running": self.held.values().filter(|held| held.given.is_some()).count(),
            "pending": self.pending(),
            "memory": self.stocks.values().map(|stock| stock.memory() + stock.kept()).sum::<u64>() + memory_of_parts,
            "made": made,
            "cpuSeconds": took.as_secs_f64(),
            "parts": self.parts.as_ref().map(Parts::status),
            "limits": {
                "max": bounds.parts,
                "memory": bounds.memory,
                "cpu": pace.cpu,
                "rate": (pace.rate > 0).then_some(pace.rate),
                "idle": idle.map(|idle| idle.as_secs()),
            },
        })
        .to_string()
    }
}

/// The path of an open directory.
fn path_of(directory: &OwnedFd) -> Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).doing(|| "find the path of the bundle")
}
