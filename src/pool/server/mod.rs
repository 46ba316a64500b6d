//! The pool's own process: one loop over all that it hears of.
//!
//! [requests] has what is asked for, [making] what is ordered and made, [ends] what becomes of what was given away, [leftovers] what becomes of the rest.

mod ends;
mod leftovers;
mod making;
mod requests;

use super::answers::Unsaid;
use super::asked::Asked;
use super::cleaner::Cleaner;
use super::filler::{Filler, Part};
use super::memory::Bounds;
use super::pace::{Ledger, Pace};
use super::parts::Parts;
use super::setup::{self, Place};
use super::stock::{PAUSE, Stock};
use super::template::{Identity, Template};
use crate::cgroup;
use crate::container::prepare::Options;
use crate::container::store::Entry;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::park;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a pool is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens.
    pub socket: PathBuf,
    /// How parts are made, but for the bundle and the id. The store is the pool's own.
    pub options: Options,
    /// The bundles to begin with, and how many parts each gets.
    pub bundles: Vec<(PathBuf, usize)>,
    /// How fast parts are made.
    pub pace: Pace,
    /// A bundle that nobody has asked for in this time is given up; never, without it.
    pub idle: Option<Duration>,
    /// The most of all bundles together.
    pub bounds: Bounds,
    /// How many network namespaces, and cgroups of each bundle, are kept for cold starts.
    pub parts: usize,
    /// Whether network namespaces that are as good as new are used again.
    pub reuse_networks: bool,
}

/// Who an epoll event is about. From `FIRST` on: twice the key of a container, and one more for who waits for its end.
const REQUESTS: u64 = 0;
const NEWS: u64 = 1;
const SIGNALS: u64 = 2;
const PARTS: u64 = 3;
const KILLED: u64 = 4;
/// The first key.
const FIRST: u64 = 3;

/// With more than this many starts since, it is time to complete their records.
const MOST_UNANNOUNCED: usize = 64;

/// A container or a sandbox.
struct Held {
    part: Part,
    bundle: Identity,
    template: Arc<Template>,
    given: Option<Given>,
}

impl Held {
    /// Whether nobody has it, or has heard that he has: who hears nothing of a detached one starts it cold when the pool ends.
    fn is_nobodys(&self) -> bool {
        self.given.as_ref().is_none_or(|given| given.is_detached)
    }
}

/// To whom a sandbox was given.
struct Given {
    /// Who waits: for the end, or if it is detached, for its program's begin; `None` when nobody does.
    answers: Option<OwnedFd>,
    is_detached: bool,
}

struct Server {
    settings: Settings,
    epoll: Epoll,
    requests: OwnedFd,
    place: Place,
    held: HashMap<u64, Held>,
    stocks: HashMap<Identity, Stock>,
    next: u64,
    /// The limit.
    most_descriptors: i32,
    /// Whether something is to be ordered after a pause.
    is_waiting: bool,
    /// Containers whose record is to be completed after it.
    unannounced: Vec<u64>,
    /// Containers whose end has been heard of and cannot be waited for yet: whoever traces them comes first (ptrace(2)).
    traced: Vec<u64>,
    /// Who waits for a sandbox that is being made.
    waiting: Vec<Asked>,
    /// Answers that take longer.
    unsaid: HashMap<u64, Unsaid>,
    /// Sandboxes that have been killed because nobody wants them, by their keys.
    unwanted: HashMap<u64, Part>,
    /// Makers and others that have been killed, and have not been waited for.
    killed: Vec<OwnedFd>,
    /// Until when something may end of which nothing is known.
    strangers_until: Option<Instant>,
    /// What was being made then, and had not ended when the rest was taken away.
    unfinished: Vec<Entry>,
    /// Nobody, where it has ended and nothing is to be made.
    filler: Option<Filler>,
    cleaner: Cleaner,
    /// What has been used of the pace.
    ledger: Ledger,
    /// For who finds no sandbox.
    parts: Option<Parts>,
}

/// Runs a pool until it gets SIGTERM, SIGINT or SIGHUP. What is parked then ends; what runs goes on.
///
/// # Errors
/// A socket that cannot be made, or is another pool's; a bundle that cannot be parked.
pub fn serve(mut settings: Settings) -> Result<()> {
    if !park::is_possible() {
        let problem = "only a binary that is linked with musl can be a pool, and this is not one: see scripts/build";
        return Err(Error::new(Kind::Usage, problem));
    }
    cgroup::keep_programs();
    let given = setup::activated()?;
    let _lock = setup::take_directory(&settings.socket, given.is_some())?;
    let (requests, is_ours) = match given {
        Some(socket) => (socket, false),
        None => (setup::listen(&settings.socket)?, true),
    };
    setup::clean_up_after_others(&settings.options.store)?;
    settings.options.stdio = Some(setup::no_stdio()?);
    let place = Place::of_this_process()?;
    let most_descriptors = setup::raise_descriptor_limit();
    let (heard, blocked) = setup::ending_signals();
    setup::ignore_no_signal();
    blocked.thread_block().doing(|| "block signals")?;
    let signals = SignalFd::with_flags(&heard, SfdFlags::SFD_CLOEXEC).doing(|| "make a descriptor for signals")?;
    // Before there are other threads, and before there is much to copy.
    let ledger = Ledger::new()?;
    let filler = Filler::begin(&settings.options, settings.pace, &ledger, true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(|| "make an epoll descriptor")?;
    for (fd, key) in [(requests.as_fd(), REQUESTS), (filler.as_fd(), NEWS), (signals.as_fd(), SIGNALS)] {
        epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, key)).doing(|| "watch a descriptor")?;
    }
    let cleaner = Cleaner::begin()?;
    let directory = settings.socket.parent().unwrap_or(Path::new("")).to_owned();
    let parts = Parts::new(settings.parts, settings.reuse_networks, &directory, (settings.pace, &ledger))?;
    if let Some(parts) = &parts {
        epoll.add(parts.news(), EpollEvent::new(EpollFlags::EPOLLIN, PARTS)).doing(|| "watch a descriptor")?;
    }
    let (held, stocks) = (HashMap::new(), HashMap::new());
    let mut server = Server {
        settings,
        epoll,
        requests,
        place,
        held,
        stocks,
        next: FIRST,
        most_descriptors,
        is_waiting: false,
        unannounced: Vec::new(),
        traced: Vec::new(),
        waiting: Vec::new(),
        unsaid: HashMap::new(),
        unwanted: HashMap::new(),
        killed: Vec::new(),
        strangers_until: None,
        unfinished: Vec::new(),
        filler: Some(filler),
        cleaner,
        ledger,
        parts,
    };
    let mut begin = || {
        for (bundle, count) in server.settings.bundles.clone() {
            let bundle = fs::canonicalize(&bundle).doing(|| format!("find the bundle {}", bundle.display()))?;
            server.fill(&bundle, count)?;
        }
        Ok(())
    };
    let served = begin().and_then(|()| server.run());
    let socket = server.settings.socket.clone();
    server.end();
    let removed = if is_ours { fs::remove_file(&socket) } else { Ok(()) };
    removed.doing(|| format!("remove {}", socket.display())).and(served)
}

impl Server {
    fn run(&mut self) -> Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        self.order();
        loop {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Err(nix::errno::Errno::EINTR) => 0,
                count => count.doing(|| "wait for events")?,
            };
            let mut is_some_killed = false;
            for event in events.iter().take(count) {
                match event.data() {
                    REQUESTS => self.take_request(),
                    NEWS => self.hear(),
                    PARTS => self.parts.iter_mut().for_each(Parts::hear),
                    SIGNALS => return Ok(()),
                    KILLED => is_some_killed = true,
                    token if token % 2 == 0 => self.ended(token / 2),
                    token => self.hear_of(token / 2),
                }
            }
            self.serve_waiting();
            if count == 0 || self.unannounced.len() > MOST_UNANNOUNCED {
                self.announce();
            }
            if count == 0 {
                std::mem::take(&mut self.traced).into_iter().for_each(|key| self.ended(key));
            }
            if is_some_killed || count == 0 && self.has_leftovers() {
                self.see_to_leftovers();
            }
            if self.is_making() && self.filler.as_mut().is_some_and(Filler::ends_stuck) {
                self.mourn();
            }
            self.order();
        }
    }

    /// How long there is nothing to do unless something is heard of.
    fn timeout(&self) -> EpollTimeout {
        const SECOND: u16 = 1000;
        match self.settings.idle {
            _ if !self.waiting.is_empty() => EpollTimeout::from(1u16),
            _ if self.is_waiting || !self.unannounced.is_empty() || !self.traced.is_empty() => {
                EpollTimeout::from(PAUSE.as_millis() as u16)
            }
            None if !self.has_failed() && !self.has_leftovers() && !self.is_making() => EpollTimeout::NONE,
            _ => {
                let rest = self.filler.as_ref().and_then(Filler::rest).map(|rest| rest.as_millis() + 1);
                let rest = rest.and_then(|rest| u16::try_from(rest).ok()).unwrap_or(SECOND);
                EpollTimeout::from(rest.min(SECOND))
            }
        }
    }

    fn is_making(&self) -> bool {
        self.filler.as_ref().is_some_and(Filler::is_at_work)
    }

    fn has_failed(&self) -> bool {
        self.stocks.values().any(Stock::has_failed) || self.parts.as_ref().is_some_and(Parts::has_failed)
    }

    /// Ends what is parked, once the filler has ended, and waits until it is gone; not for long for what does not end.
    fn end(mut self) {
        self.stocks.clear();
        // What it has made before it ended is heard of.
        while self.filler.as_mut().is_some_and(Filler::ends) {
            self.hear();
        }
        self.mourn();
        // What did not end in time.
        let late = self.filler.take().map(Filler::end_all).unwrap_or_default();
        self.watch_killed(late);
        let parked: Vec<_> = self.held.iter().filter(|(_, held)| held.is_nobodys()).map(|(key, _)| *key).collect();
        self.discard_all(parked);
        self.await_leftovers();
        if let Some(parts) = self.parts.take() {
            parts.end();
        }
        self.cleaner.end();
    }
}
