//! The loop: takes requests, hands sandboxes over, hears of their end.

use super::answers::{Unsaid, say};
use super::asked::{Asked, No, hand_over, limits, say_started};
use super::cleaner::{self, Cleaner, Then};
use super::filler::{Filler, News, Part};
use super::memory::{self, Bounds, Room};
use super::pace::{Ledger, Pace};
use super::parts::{Parts, Taker};
use super::setup::{self, Place};
use super::stock::{PAUSE, Stock};
use super::streams::Streams;
use super::template::{Identity, Template, identity};
use crate::cgroup;
use crate::container::prepare::Options;
use crate::container::state::{Entry, Store};
use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::sys::park;
use crate::sys::process::{self, Exit};
use crate::sys::request::{self, answer};
use crate::sys::socket::{self, Received};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::fstat;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
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
/// The first key.
const FIRST: u64 = 2;

/// With more than this many starts since, it is time to complete their records.
const MOST_UNANNOUNCED: usize = 64;

/// How long who asks waits for a sandbox that is being made: as long as a cold start takes on a machine on which sandboxes run out.
const PATIENCE: Duration = Duration::from_millis(10);

/// How many do at a time.
const MOST_WAITING: usize = 16;

/// How many who do not read a long answer at once are waited for. Others get the beginning.
const MOST_UNSAID: usize = 16;

/// How many descriptors are left to requests, and to what had been ordered before there were none: eight sandboxes, with six each.
const SPARE_DESCRIPTORS: i32 = 64;

/// A container or a sandbox.
struct Held {
    part: Part,
    bundle: Identity,
    template: Arc<Template>,
    given: Option<Given>,
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
    /// What was being made when a maker ended may have ended after it.
    may_have_strangers: bool,
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

/// Runs a pool until it gets SIGTERM or SIGINT. What is parked then ends; what runs goes on.
///
/// # Errors
/// A socket that cannot be made, or is another pool's; a bundle that cannot be parked.
pub fn serve(mut settings: Settings) -> Result<()> {
    if !park::is_possible() {
        let problem = "sandboxes can only be parked by the static release binary: see scripts/build";
        return Err(Error::new(Kind::Usage, problem));
    }
    cgroup::keep_programs();
    let _lock = setup::take_directory(&settings.socket)?;
    let (requests, is_ours) = match setup::activated()? {
        Some(socket) => (socket, false),
        None => (setup::listen(&settings.socket)?, true),
    };
    setup::clean_up_after_others(&settings.options.store)?;
    settings.options.stdio = Some(setup::no_stdio()?);
    let place = Place::of_this_process(&requests)?;
    let most_descriptors = setup::raise_descriptor_limit();
    setup::ignore_no_signal();
    let mask = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect::<SigSet>();
    mask.thread_block().doing(|| "block signals")?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC).doing(|| "make a descriptor for signals")?;
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
        may_have_strangers: false,
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
            let timeout = match self.settings.idle {
                _ if !self.waiting.is_empty() => EpollTimeout::from(1u16),
                _ if self.is_waiting || !self.unannounced.is_empty() || !self.traced.is_empty() => {
                    EpollTimeout::from(PAUSE.as_millis() as u16)
                }
                None if !self.has_failed() && !self.may_have_strangers && !self.is_making() => EpollTimeout::NONE,
                _ => EpollTimeout::from(1000u16),
            };
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(nix::errno::Errno::EINTR) => 0,
                count => count.doing(|| "wait for events")?,
            };
            for event in events.iter().take(count) {
                match event.data() {
                    REQUESTS => self.take_request(),
                    NEWS => self.hear(),
                    PARTS => self.parts.iter_mut().for_each(Parts::hear),
                    SIGNALS => return Ok(()),
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
            if count == 0 && std::mem::take(&mut self.may_have_strangers) {
                self.reap_strangers();
                self.unfinished.retain(|entry| !setup::is_removed(&self.settings.options.store, entry));
                self.may_have_strangers = !self.unfinished.is_empty();
            }
            if self.is_making() && self.filler.as_mut().is_some_and(Filler::ends_stuck) {
                self.mourn();
            }
            self.order();
        }
    }

    fn is_making(&self) -> bool {
        self.filler.as_ref().is_some_and(Filler::is_at_work)
    }

    fn has_failed(&self) -> bool {
        self.stocks.values().any(Stock::has_failed) || self.parts.as_ref().is_some_and(Parts::has_failed)
    }

    /// Records when containers were started, and has it heard when nobody waits for them any more. It is done when those who wait have been
    /// served.
    fn announce(&mut self) {
        for key in std::mem::take(&mut self.unannounced) {
            // Those that have ended already need neither.
            let Some(held) = self.held.get_mut(&key) else { continue };
            match held.part.parked.announce() {
                Ok(true) => {}
                Ok(false) => {
                    self.unannounced.push(key);
                    continue;
                }
                Err(error) => log::warn(error),
            }
            if let Some(Given { answers: Some(answers), is_detached: false }) = &held.given {
                watch(&self.epoll, answers, key);
            }
        }
    }

    /// Ends what is parked, once the filler has ended, and waits until it is gone.
    fn end(mut self) {
        self.stocks.clear();
        // What it has made before it ended is heard of.
        while self.filler.as_mut().is_some_and(Filler::ends) {
            self.hear();
        }
        self.mourn();
        // What did not end in time.
        self.filler.take().into_iter().for_each(Filler::reap);
        let parked: Vec<_> = self.held.iter().filter(|(_, held)| held.given.is_none()).map(|(key, _)| *key).collect();
        self.discard_all(parked);
        if let Some(parts) = self.parts.take() {
            parts.end();
        }
        self.cleaner.end();
    }

    /// The filler or a maker has ended, or is ended here: what it was at is taken away.
    fn mourn(&mut self) {
        let Some(mut filler) = self.filler.take() else { return };
        if filler.start_over() {
            self.filler = Some(filler);
        } else {
            let _ = self.epoll.delete(&filler);
            filler.reap();
        }
        for stock in self.stocks.values_mut().filter(|stock| stock.ordered > 0) {
            stock.ordered = 0;
            stock.refuse("what makes sandboxes has ended: it is begun again".into());
        }
        self.reap_strangers();
        self.may_have_strangers = true;
        match setup::clean_up_after_makers(&self.settings.options.store) {
            Ok(locked) => {
                let is_held = |entry: &Entry| self.held.values().any(|held| held.part.parked.entry.id() == entry.id());
                self.unfinished.extend(locked.into_iter().filter(|entry| !is_held(entry)));
            }
            Err(error) => log::warn(error),
        }
    }

    /// Waits for the ended processes of sandboxes that have not become any. Hooks are the cleaner's children.
    fn reap_strangers(&mut self) {
        while let Ok(Some(pid)) = process::ended_child_of_this_thread() {
            let held = self.held.iter().find(|(_, held)| held.part.parked.child.pid == pid).map(|(key, _)| *key);
            match held {
                Some(key) => self.ended(key),
                None => drop(process::wait(pid, 0)),
            }
        }
    }

    /// Orders what is wanted, and gives up what nobody asks for.
    fn order(&mut self) {
        while let Some((bundle, template, network)) = self.cleaner.rested() {
            if let Some(stock) = self.stocks.get_mut(&bundle).filter(|stock| stock.is_of(&template)) {
                stock.keep(network);
            }
        }
        let memory_of_parts = self.parts.as_ref().map_or(0, Parts::memory);
        let mut room = Room::beside(self.settings.bounds, self.stocks.values(), memory_of_parts);
        // What has ended is taken away first.
        let is_behind = self.cleaner.is_behind();
        self.is_waiting = is_behind;
        self.filler.iter_mut().for_each(|filler| filler.hold(is_behind));
        for (bundle, stock) in &mut self.stocks {
            if stock.is_stale
                && stock.may_try()
                && let Err(error) = stock.renew()
            {
                stock.refuse(error.to_string());
            }
            if stock.missing() > 0 && stock.can_wait() {
                self.is_waiting = true;
                continue;
            }
            let wanted = match self.settings.bounds.memory {
                _ if is_behind => 0,
                // Until one has been made nobody knows how many there is room for.
                Some(_) if stock.size.is_none() && stock.ordered > 0 => 0,
                _ => stock.missing(),
            };
            for _ in 0..room.take(wanted, stock.size) {
                let begun = match &mut self.filler {
                    Some(filler) => Ok(filler),
                    none => begin_again(none, &self.settings, &self.ledger, &self.epoll),
                };
                match begun {
                    Ok(filler) => {
                        let network = stock.networks.pop();
                        stock.reused += u64::from(network.is_some());
                        filler.order(*bundle, &stock.template, network);
                    }
                    Err(error) => {
                        stock.refuse(error.to_string());
                        break;
                    }
                }
                stock.order();
            }
        }
        if let Some(parts) = &mut self.parts {
            let current = self.stocks.iter().filter(|(_, stock)| !stock.is_stale);
            let current = current.map(|(bundle, stock)| (bundle, &stock.template));
            // Sandboxes come first: those as well of which nobody knows yet how much they take.
            let is_measured = !self.stocks.values().any(|stock| stock.size.is_none() && stock.ordered > 0);
            let may_be_made = !is_behind && (is_measured || self.settings.bounds.memory.is_none());
            self.is_waiting |= parts.order(current, may_be_made.then_some(&mut room));
        }
        if let Some(idle) = self.settings.idle {
            let over: Vec<_> =
                self.stocks.iter().filter(|(_, stock)| stock.is_idle(idle)).map(|(bundle, _)| *bundle).collect();
            over.iter().for_each(|bundle| self.give_up(bundle));
        }
    }

    /// Takes what the filler has made.
    fn hear(&mut self) {
        while let Some(filler) = &mut self.filler {
            let (bundle, template, made) = match filler.hear() {
                News::Of(bundle, template, made) => (bundle, template, made),
                News::Nothing => return,
                News::Ended => return self.mourn(),
            };
            if made.is_err() {
                self.reap_strangers();
            }
            let stock = self.stocks.get_mut(&bundle).filter(|stock| stock.is_of(&template));
            match (made, stock) {
                (Ok(part), Some(stock)) => {
                    let key = self.next;
                    // Its maker has more descriptors than who asks, as a rule.
                    let [soft, hard] = self.place.descriptors();
                    if !part.parked.sets_limit(process::NOFILE) {
                        let _ = process::set_limit_of(part.parked.child.pid, process::NOFILE, soft, hard);
                    }
                    // Once: it stays readable until it is closed.
                    let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, key * 2);
                    // There are no more of them than its number says, as the kernel gives out the lowest.
                    let is_room = part.pidfd.as_raw_fd().saturating_add(SPARE_DESCRIPTORS) < self.most_descriptors;
                    if is_room && self.epoll.add(&part.pidfd, event).is_ok() {
                        self.next += 1;
                        stock.size.get_or_insert_with(|| memory::of(&part.parked, part.memory));
                        stock.made(key);
                        self.held.insert(key, Held { part: *part, bundle, template, given: None });
                    } else {
                        stock.failed("the pool has too many descriptors".into());
                        self.discard(*part);
                    }
                }
                (Ok(part), None) => self.discard(*part),
                (Err(error), Some(stock)) => stock.failed(error.to_string()),
                (Err(_), None) => {}
            }
        }
    }

    /// Ends a sandbox that nobody wants.
    fn discard(&self, part: Part) {
        let child = part.parked.child;
        let _ = process::kill(child.pid, libc::SIGKILL);
        let _ = process::wait(child.pid, 0);
        self.cleaner.take(part, Then::Remove, None);
    }

    fn give_up(&mut self, bundle: &Identity) {
        if let Some(stock) = self.stocks.remove(bundle) {
            self.filler.iter_mut().for_each(|filler| filler.cancel(&stock.template));
            self.discard_all(stock.ready);
        }
    }

    fn discard_all(&mut self, keys: impl IntoIterator<Item = u64>) {
        for key in keys {
            if let Some(held) = self.held.remove(&key) {
                self.discard(held.part);
            }
        }
    }

    /// Holds `wanted` parts of `bundle`.
    fn fill(&mut self, bundle: &Path, wanted: usize) -> Result<()> {
        let options = Options { bundle: bundle.to_owned(), ..self.settings.options.clone() };
        let about = nix::sys::stat::stat(bundle).doing(|| format!("look at {}", bundle.display()))?;
        let template = Template::new(options, wanted > 0)?;
        self.give_up(&identity(&about));
        self.stocks.insert(identity(&about), Stock::new(Arc::new(template), wanted));
        self.order();
        Ok(())
    }

    /// Takes a request. If there are more, that is heard of again.
    fn take_request(&mut self) {
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
        let is_closed = !stdio.have_socket;
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
    fn serve_waiting(&mut self) {
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
        if stock.template.is_current(bundle) != Ok(true) {
            // Anew, as it is now.
            self.filler.iter_mut().for_each(|filler| filler.cancel(&stock.template));
            let stale = stock.spoil();
            self.discard_all(stale);
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
        let parked = &mut held.part.parked;
        if let Err(reason) = handed {
            if let Err(error) = parked.withdraw() {
                log::warn(error);
            }
            stock.not_served();
            self.discard_all([key]);
            return Err(reason.into());
        }
        held.given = Some(Given { answers: None, is_detached: false });
        // What it could hand over there by a socket, its network namespace in an open file say, would outlive it.
        if asked.stdio.have_socket {
            held.part.network = None;
        }
        self.unannounced.push(key);
        Ok(key)
    }

    /// Tells `answers` of the end of a container, unless nobody wants to know.
    fn watch(&mut self, key: u64, answers: OwnedFd, is_detached: bool) {
        let Some(held) = self.held.get_mut(&key) else { return };
        // The lease is heard of when the program has been executed, or could not be. Who waits is watched later: most need not be.
        if let Some(lease) = held.part.parked.lease.as_ref().filter(|_| is_detached) {
            watch(&self.epoll, lease, key);
        }
        held.given = Some(Given { answers: Some(answers), is_detached });
    }

    fn hear_of(&mut self, key: u64) {
        if self.unsaid.get_mut(&key).is_some_and(Unsaid::say) {
            self.unsaid.remove(&key);
        }
        let Some(held) = self.held.get_mut(&key) else { return };
        match &held.given {
            Some(Given { answers: Some(_), is_detached: false }) => self.nobody_waits(key),
            Some(Given { answers, is_detached: true }) => {
                if let Some(lease) = &held.part.parked.lease {
                    let _ = self.epoll.delete(lease);
                }
                // Of one that could not be executed, or was killed first, the end is heard of.
                if !held.part.parked.never_began(true) {
                    if let Some(answers) = answers {
                        // Who does not listen any more has not missed anything.
                        let _ = say_started(answers, &held.part, None);
                    }
                    held.part.parked.let_go();
                    held.given = Some(Given { answers: None, is_detached: false });
                }
            }
            _ => {}
        }
    }

    /// Who waited has gone: the container goes on like a detached one, unless it was leased and has not been started.
    fn nobody_waits(&mut self, key: u64) {
        let Some(held) = self.held.get_mut(&key) else { return };
        if let Some(lease) = &held.part.parked.lease {
            socket::end_sending(lease.as_raw_fd());
        }
        if let Some(answers) = held.given.as_mut().and_then(|given| given.answers.take()) {
            // The descriptor is closed here in any case.
            let _ = self.epoll.delete(&answers);
            held.part.parked.let_go();
        }
    }

    /// The first process of a container or sandbox has ended.
    fn ended(&mut self, key: u64) {
        let Some(held) = self.held.remove(&key) else { return };
        let Held { mut part, bundle, template, given } = held;
        let pid = part.parked.child.pid;
        // Waited for below: until then one can see whether it was killed before it executed anything.
        let exit = match process::how_ended(pid) {
            Ok(Some(exit)) => exit,
            // It had ended before it was heard of.
            Err(_) => Exit::Code(1),
            Ok(None) => {
                self.held.insert(key, Held { part, bundle, template, given });
                // It is not heard of a second time.
                self.traced.push(key);
                return;
            }
        };
        // The cleaner closes it later, and until then it would be readable for nobody.
        if let Some(lease) =
            part.parked.lease.as_ref().filter(|_| given.as_ref().is_some_and(|given| given.is_detached))
        {
            let _ = self.epoll.delete(lease);
        }
        let is_killed = matches!(exit, Exit::Signal(_));
        let never_began = given.is_some() && exit.status() != 0 && part.parked.never_began(is_killed);
        let then = match given {
            None => {
                if let Some(stock) = self.stocks.get_mut(&bundle) {
                    stock.lost(key);
                    // It is none of those that are being made.
                    stock.refuse("a sandbox ended while it was parked".into());
                }
                Then::Remove
            }
            // A lease that has not been used.
            Some(Given { answers: None, .. }) if never_began => Then::Remove,
            // As after a cold start whose runtime has gone: `delete` removes it.
            Some(Given { answers: None, .. }) => Then::Leave,
            Some(Given { answers: Some(answers), .. }) if never_began => {
                // The id is free again when who asked begins anew.
                if let Err(error) = part.parked.withdraw() {
                    log::warn(error);
                }
                match is_killed {
                    true => say(&answers, answer::KILLED, "the sandbox was killed before it executed the program"),
                    false => say(&answers, answer::COLD, "the program could not be executed"),
                }
                Then::Remove
            }
            Some(Given { answers: Some(answers), is_detached: true }) => {
                let _ = say_started(&answers, &part, None);
                part.parked.let_go();
                Then::Leave
            }
            Some(Given { answers: Some(answers), .. }) if !cleaner::may_wait(&part.parked) => {
                // Of who goes while the hooks run nothing more is heard.
                let _ = self.epoll.delete(&answers);
                Then::Tell(answers, exit.status())
            }
            Some(Given { answers: Some(answers), .. }) => {
                // The id is free again when who waits hears of the end.
                if let Err(error) = part.parked.withdraw() {
                    log::warn(error);
                }
                cleaner::tell_end(&answers, exit.status(), "");
                Then::Remove
            }
        };
        // Nobody waits for this.
        let _ = process::wait(pid, libc::WNOHANG);
        self.cleaner.take(part, then, Some((bundle, template)));
    }

    fn drain(&mut self, bundle: &OwnedFd) -> Result<()> {
        let about = fstat(bundle).doing(|| "look at the bundle")?;
        self.give_up(&identity(&about));
        Ok(())
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
                "secondsOfEach": stock.takes.map(|takes| takes.as_secs_f64()),
                "memoryOfEach": stock.size,
                "failure": stock.failure.as_ref().map(|(_, why)| why),
            })
        });
        serde_json::json!({
            "bundles": stocks.collect::<Vec<_>>(),
            "running": self.held.values().filter(|held| held.given.is_some()).count(),
            "pending": self.cleaner.pending(),
            "memory": self.stocks.values().map(Stock::memory).sum::<u64>() + memory_of_parts,
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

/// Has it heard when something comes from who got the container `key`, or nothing comes any more.
fn watch(epoll: &Epoll, from: impl AsFd, key: u64) {
    if let Err(errno) = epoll.add(from, EpollEvent::new(EpollFlags::EPOLLIN, key * 2 + 1)) {
        log::warn(Error::system("watch who waits for a container", errno));
    }
}

/// Begins the filler anew.
fn begin_again<'a>(
    filler: &'a mut Option<Filler>,
    settings: &Settings,
    ledger: &Ledger,
    epoll: &Epoll,
) -> Result<&'a mut Filler> {
    // What this process has heard of by now is none of a container's business.
    let begun = Filler::begin(&settings.options, settings.pace, ledger, false)?;
    epoll.add(&begun, EpollEvent::new(EpollFlags::EPOLLIN, NEWS)).doing(|| "watch a descriptor")?;
    Ok(filler.insert(begun))
}

/// The path of an open directory.
fn path_of(directory: &OwnedFd) -> Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).doing(|| "find the path of the bundle")
}
