//! Parts of containers, made ahead for those that are started cold: network namespaces and cgroups.
//!
//! ```text
//! who starts                              the loop                          the maker, a thread
//!    │ what fits the bundle? ───────────────▶ │ ◀── a namespace, a cgroup ─────── │ unshare, mkdir, limits
//!    │ ◀── parts: which config.json, name; [namespace]                            │
//!    │ taken: it is recorded as mine ───────▶ │                                   │
//!    │ hangs up ────────────────────────────▶ │ what was not taken, what is left ▶│ rmdir, close
//! ```
//!
//! A network namespace is of use for any bundle, known or not; a cgroup for the one that it was made for.
//!
//! Nothing is lent to two at a time. A cgroup that was lent never comes back; a network namespace does only where that is asked for
//! ([`super::network`]).

use super::cleaner::{Rested, receive_within};
use super::memory::{self, ANY_CGROUP, NETWORK, Room};
use super::network::{Inspector, Look, Network, Resting};
use super::pace::{Budget, Ledger, Pace};
use super::stock::PAUSE;
use super::template::{Identity, Template};
use crate::container::store::new_id;
use crate::error::{Doing, Error, Result};
use crate::log;
use crate::sys::request::{self, Given, SPOILT, TAKEN, answer};
use crate::sys::socket;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many namespaces wait for their destruction at most.
const MOST_PENDING: usize = 64;

/// How long they wait, for others to be destroyed with them: the kernel takes any number apart in about the time of one.
const GATHERING: Duration = Duration::from_millis(20);

/// How long after a failure nothing is made.
const BACK_OFF: Duration = Duration::from_secs(1);

/// What wakes the loop because the maker has something; all other keys are those of who has been lent something.
const MADE: u64 = 0;

/// A cgroup in which nobody has been: one directory in each hierarchy that its configuration asks for.
#[derive(Debug)]
struct Cgroup {
    name: String,
    directories: Vec<PathBuf>,
    /// The file that tells the next pool of it, if this one is killed.
    record: PathBuf,
}

impl Cgroup {
    /// Makes one for `template`.
    fn new(template: &Template, records: &Path) -> Result<Self> {
        let name = new_id()?;
        let plan = template.cgroup(&name)?;
        let directories: Vec<PathBuf> = plan.handle().directories().into_iter().map(Path::to_owned).collect();
        let record = records.join(&name);
        let lines: Vec<_> = directories.iter().map(|path| path.to_string_lossy()).collect();
        fs::write(&record, lines.join("\n")).doing(|| format!("write {}", record.display()))?;
        let cgroup = Self { name, directories, record };
        let made = plan.create().and_then(|made| match made.restrict_devices() {
            Ok(()) => Ok(()),
            Err(error) => Err(made.undo().into_iter().fold(error, Error::and)),
        });
        made.inspect_err(|_| cgroup.forget())?;
        Ok(cgroup)
    }

    /// It is a container's, or there is none any more.
    fn forget(&self) {
        if let Err(error) = fs::remove_file(&self.record) {
            log::warn(format_args!("pool: remove {}: {error}", self.record.display()));
        }
    }

    /// Removes it, unless there is somebody in it: who has recorded it as his then removes it.
    fn remove(self) {
        self.directories.iter().for_each(|directory| remove_unused(directory));
        self.forget();
    }
}

fn remove_unused(directory: &Path) {
    match fs::remove_dir(directory) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ResourceBusy) => {
            log::warn(format_args!("pool: remove the cgroup {}: {error}", directory.display()));
        }
        _ => {}
    }
}

/// Removes the cgroups that a pool has left which was killed, as its `records` have them.
fn clean_up(records: &Path) -> Result<()> {
    match fs::create_dir(records) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made.doing(|| format!("create {}", records.display()))?,
    }
    for entry in fs::read_dir(records).doing(|| format!("list {}", records.display()))? {
        let record = entry.doing(|| format!("list {}", records.display()))?.path();
        let text = fs::read_to_string(&record).doing(|| format!("read {}", record.display()))?;
        text.lines().for_each(|line| remove_unused(Path::new(line)));
        fs::remove_file(&record).doing(|| format!("remove {}", record.display()))?;
    }
    Ok(())
}

/// What the maker is to make.
#[derive(Debug)]
enum Wanted {
    /// A network namespace.
    Network,
    /// A cgroup for a bundle.
    Cgroup(Identity, Arc<Template>),
}

/// What the maker is to do.
#[derive(Debug)]
enum Order {
    /// Make this, as soon as there is nothing else to do and the limits allow it.
    Make(Wanted),
    /// Make no more cgroups of this.
    Forget(Arc<Template>),
    /// Remove a cgroup.
    Remove(Cgroup),
    /// Let go of a network namespace.
    Destroy(Network),
    /// See whether a network namespace can be used again for its bundle.
    Inspect(Rested<Network>),
}

/// What the maker has made.
#[derive(Debug)]
enum Made {
    Network(Result<Network>),
    Cgroup(Identity, Arc<Template>, Result<Cgroup>),
    /// One that can be used again.
    Again(Rested<Network>),
}

struct Maker {
    orders: Receiver<Order>,
    /// What has not been made yet.
    wanted: VecDeque<Wanted>,
    /// What it has of the pool's limits, and how long it rests because of them.
    budget: Budget,
    rests_until: Instant,
    made: Sender<Made>,
    bell: Arc<EventFd>,
    records: PathBuf,
    /// How many orders are not done that take something away.
    undone: Arc<AtomicUsize>,
    /// Namespaces to be destroyed, and since when the first waits.
    pending: Vec<Network>,
    since: Instant,
    /// Namespaces that are to be inspected.
    resting: Resting<Rested<Network>>,
    /// Whether namespaces may be used again.
    reuse: bool,
}

impl Maker {
    /// Works until nobody orders any more. To take something away comes before making anything, and does not count.
    fn run(mut self) {
        let mut inspector = Inspector::new();
        loop {
            match receive_within(&self.orders, self.patience()) {
                Ok(Order::Make(wanted)) => self.wanted.push_back(wanted),
                Ok(Order::Forget(template)) => {
                    self.wanted.retain(|wanted| !matches!(wanted, Wanted::Cgroup(_, of) if Arc::ptr_eq(of, &template)));
                }
                Ok(Order::Remove(cgroup)) => {
                    cgroup.remove();
                    self.undone.fetch_sub(1, Ordering::Relaxed);
                }
                Ok(Order::Destroy(network)) => self.destroy(network),
                Ok(Order::Inspect(one)) => self.resting.add(one),
                Err(RecvTimeoutError::Timeout) => self.make(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Some((bundle, template, mut network)) = self.resting.next() {
                let unused = network.require_unused(&mut inspector, Look::Whole);
                match unused
                    .and_then(|()| network.require_unchanged(&mut inspector))
                    .and_then(|()| network.require_alone())
                {
                    Ok(()) => {
                        self.undone.fetch_sub(1, Ordering::Relaxed);
                        self.tell(Made::Again((bundle, template, network)));
                    }
                    Err(error) => {
                        log::debug(|| format!("pool: not used again: {error}"));
                        self.destroy(network);
                    }
                }
            }
            if self.pending.len() >= MOST_PENDING || self.since.elapsed() >= GATHERING {
                self.undone.fetch_sub(self.pending.len(), Ordering::Relaxed);
                self.pending.clear();
            }
        }
    }

    /// How long there is nothing to do unless it is ordered; `None` for ever.
    fn patience(&self) -> Option<Duration> {
        let gathers = (!self.pending.is_empty()).then(|| GATHERING.saturating_sub(self.since.elapsed()));
        let rests = (!self.wanted.is_empty()).then(|| self.rests_until.saturating_duration_since(Instant::now()));
        [gathers, rests, self.resting.due()].into_iter().flatten().min()
    }

    /// Makes one of what is wanted, if it is time.
    fn make(&mut self) {
        if Instant::now() < self.rests_until || self.wanted.is_empty() {
            return;
        }
        let rest = self.budget.begin();
        if !rest.is_zero() {
            self.rests_until = Instant::now() + rest;
            return;
        }
        let (made, is_made) = match self.wanted.pop_front() {
            Some(Wanted::Network) => {
                let made = Network::new(self.reuse.then_some(Look::Whole));
                let is_made = made.is_ok();
                (Made::Network(made), is_made)
            }
            Some(Wanted::Cgroup(bundle, template)) => {
                let made = Cgroup::new(&template, &self.records);
                let is_made = made.is_ok();
                (Made::Cgroup(bundle, template, made), is_made)
            }
            None => return,
        };
        let used = self.budget.used(None);
        self.budget.spend(used, is_made);
        self.tell(made);
    }

    fn destroy(&mut self, network: Network) {
        if self.pending.is_empty() {
            self.since = Instant::now();
        }
        self.pending.push(network);
    }

    fn tell(&self, made: Made) {
        // The loop is there for as long as this thread is.
        let _ = self.made.send(made);
        let _ = self.bell.write(1);
    }
}

/// What is of use for one bundle alone.
#[derive(Debug)]
struct OfBundle {
    template: Arc<Template>,
    cgroups: VecDeque<Cgroup>,
    /// How much memory one takes, in bytes.
    size: u64,
    /// How many cgroups are being made.
    ordered: usize,
    /// Namespaces of its containers, as good as new.
    networks: Vec<Network>,
}

/// Who takes parts.
#[derive(Debug, Clone, Copy)]
pub struct Taker {
    /// Which: [`request::NETWORK`], [`request::CGROUP`].
    pub wanted: u32,
    /// Whether what his container has for stdin, stdout and stderr is known, and no socket.
    pub is_closed: bool,
}

/// What somebody has got.
#[derive(Debug)]
struct Lent {
    /// Hung up when he has ended.
    answers: OwnedFd,
    cgroup: Option<Cgroup>,
    network: Option<Network>,
    /// Of which bundle, if the pool knows that.
    of: Option<(Identity, Arc<Template>)>,
    /// [`Taker::is_closed`]
    is_closed: bool,
}

/// The parts that there are, and that are lent.
#[derive(Debug)]
pub struct Parts {
    wanted: usize,
    epoll: Epoll,
    bell: Arc<EventFd>,
    orders: Sender<Order>,
    made: Receiver<Made>,
    maker: JoinHandle<()>,
    /// How many things are still to be taken away.
    undone: Arc<AtomicUsize>,
    /// How much memory more may take that come back, in bytes.
    left: u64,
    /// Whether network namespaces are used again.
    reuse: bool,
    networks: VecDeque<Network>,
    /// How many namespaces are being made.
    ordered: usize,
    of: HashMap<Identity, OfBundle>,
    lent: HashMap<u64, Lent>,
    next: u64,
    last_asked: Instant,
    /// Whether there has been a start of a bundle that the pool does not know.
    is_asked_by_any: bool,
    served: u64,
    missed: u64,
    reused: u64,
    failure: Option<(Instant, String)>,
}

impl Parts {
    /// Keeps `wanted` network namespaces, and as many cgroups for each bundle; `None` for none. With `reuse`, namespaces that
    /// are as good as new are used again for the same bundle. They are made within `pace`, of which `ledger` has what is used. What is to be removed if this process
    /// is killed is written down below `directory`, the pool's; what another has left there is removed.
    ///
    /// # Errors
    /// What the file system or the kernel says.
    pub fn new(wanted: usize, reuse: bool, directory: &Path, (pace, ledger): (Pace, &Ledger)) -> Result<Option<Self>> {
        let records = directory.join("parts");
        clean_up(&records)?;
        if wanted == 0 {
            return Ok(None);
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(|| "make an epoll descriptor")?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).doing(|| "make an eventfd")?;
        epoll.add(&bell, EpollEvent::new(EpollFlags::EPOLLIN, MADE)).doing(|| "watch an eventfd")?;
        let bell = Arc::new(bell);
        let ((orders, to_make), (made, is_made)) = (channel(), channel());
        let undone = Arc::new(AtomicUsize::new(0));
        let (counted, rung, ledger) = (Arc::clone(&undone), Arc::clone(&bell), ledger.clone());
        let maker = move || {
            let maker = Maker {
                orders: to_make,
                wanted: VecDeque::new(),
                budget: Budget::new(pace, ledger),
                rests_until: Instant::now(),
                made,
                bell: rung,
                records,
                undone: counted,
                pending: Vec::new(),
                since: Instant::now(),
                resting: Resting::new(),
                reuse,
            };
            maker.run();
        };
        Ok(Some(Self {
            wanted,
            epoll,
            bell,
            orders,
            made: is_made,
            maker: std::thread::Builder::new().spawn(maker).doing(|| "begin the thread that makes parts")?,
            undone,
            left: 0,
            reuse,
            networks: VecDeque::new(),
            ordered: 0,
            of: HashMap::new(),
            lent: HashMap::new(),
            next: MADE + 1,
            last_asked: Instant::now(),
            is_asked_by_any: false,
            served: 0,
            missed: 0,
            reused: 0,
            failure: None,
        }))
    }

    /// Readable when there is something to [`Parts::hear`].
    pub fn news(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Whether the last attempt failed, so that it is time for another one some time.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Orders what is missing for `templates`, as far as there is room, and gives up what others had. Nothing is made without `room`.
    /// Whether that has to wait for a moment.
    pub fn order<'a>(
        &mut self,
        templates: impl Iterator<Item = (&'a Identity, &'a Arc<Template>)>,
        room: Option<&mut Room>,
    ) -> bool {
        let mut now = HashMap::new();
        for (bundle, template) in templates {
            let same = |old: &OfBundle| Arc::ptr_eq(&old.template, template);
            let kept = if self.of.get(bundle).is_some_and(same) { self.of.remove(bundle) } else { None };
            now.insert(*bundle, kept.unwrap_or_else(|| OfBundle::new(template)));
        }
        for OfBundle { template, cgroups, networks, .. } in std::mem::replace(&mut self.of, now).into_values() {
            self.send(Order::Forget(template));
            cgroups.into_iter().for_each(|cgroup| self.send(Order::Remove(cgroup)));
            networks.into_iter().for_each(|network| self.send(Order::Destroy(network)));
        }
        let Some(room) = room else { return false };
        self.left = room.memory();
        if self.failure.as_ref().is_some_and(|(when, _)| when.elapsed() < BACK_OFF) {
            return false;
        }
        // Where memory is short, it is not for somebody who may never come: sandboxes may be wanted of it yet.
        let wants_network =
            self.is_asked_by_any || self.left == u64::MAX || self.of.values().any(|of| of.template.takes_network);
        let missing = self.wanted.saturating_sub(self.networks.len() + self.ordered);
        let networks = if wants_network { missing } else { 0 };
        let most = self.of.values().map(|of| of.missing(self.wanted)).max().unwrap_or(0).max(networks);
        if most == 0 {
            return false;
        }
        // The CPU is for who has just been served.
        if 2 * most <= self.wanted && self.last_asked.elapsed() < PAUSE {
            return true;
        }
        let mut orders = Vec::new();
        for _ in 0..room.take_memory(networks, NETWORK) {
            self.ordered += 1;
            orders.push(Wanted::Network);
        }
        for (bundle, of) in &mut self.of {
            for _ in 0..room.take_memory(of.missing(self.wanted), of.size) {
                of.ordered += 1;
                orders.push(Wanted::Cgroup(*bundle, Arc::clone(&of.template)));
            }
        }
        self.left = room.memory();
        orders.into_iter().for_each(|wanted| self.send(Order::Make(wanted)));
        false
    }

    /// How much memory they take, those that are being made included, in bytes.
    pub fn memory(&self) -> u64 {
        let of_bundle =
            |of: &OfBundle| of.size * (of.cgroups.len() + of.ordered) as u64 + NETWORK * of.networks.len() as u64;
        NETWORK * (self.networks.len() + self.ordered) as u64 + self.of.values().map(of_bundle).sum::<u64>()
    }

    fn send(&self, order: Order) {
        if matches!(order, Order::Remove(_) | Order::Destroy(_) | Order::Inspect(_)) {
            self.undone.fetch_add(1, Ordering::Relaxed);
        }
        // The maker is there for as long as this is.
        let _ = self.orders.send(order);
    }

    /// Takes what has been made, and hears of those who have ended.
    pub fn hear(&mut self) {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in events.iter().take(count) {
            match event.data() {
                MADE => {
                    let _ = self.bell.read();
                    while let Ok(made) = self.made.try_recv() {
                        self.keep(made);
                    }
                }
                key => self.is_over(key),
            }
        }
    }

    fn keep(&mut self, made: Made) {
        let failed = match made {
            Made::Network(made) => {
                self.ordered = self.ordered.saturating_sub(1);
                made.map(|network| self.networks.push_back(network)).err()
            }
            Made::Cgroup(bundle, template, made) => match (of_bundle(&mut self.of, &bundle, &template), made) {
                (Some(of), made) => {
                    of.ordered = of.ordered.saturating_sub(1);
                    made.map(|cgroup| {
                        of.size = memory::of_cgroup(&cgroup.directories);
                        of.cgroups.push_back(cgroup);
                    })
                    .err()
                }
                (None, Ok(cgroup)) => {
                    self.send(Order::Remove(cgroup));
                    None
                }
                (None, Err(error)) => Some(error),
            },
            Made::Again((bundle, template, network)) => {
                let most = if self.left >= NETWORK { self.wanted } else { 0 };
                match of_bundle(&mut self.of, &bundle, &template).filter(|of| of.networks.len() < most) {
                    Some(of) => {
                        of.networks.push(network);
                        self.left -= NETWORK;
                    }
                    None => self.send(Order::Destroy(network)),
                }
                return;
            }
        };
        let Some(error) = failed else {
            self.failure = None;
            return;
        };
        let why = error.to_string();
        // What is said once is not said again.
        if self.failure.as_ref().is_none_or(|(_, before)| *before != why) {
            log::warn(format_args!("pool: parts: {why}"));
        }
        self.failure = Some((Instant::now(), why));
    }

    /// Gives what there is of what `taker` wants for `bundle` to who hears `answers`.
    ///
    /// # Errors
    /// The way to answer, if there is nothing.
    pub fn lend(
        &mut self,
        bundle: Identity,
        template: &Arc<Template>,
        taker: Taker,
        answers: OwnedFd,
    ) -> Result<(), OwnedFd> {
        let Taker { wanted, is_closed } = taker;
        let takes_network = template.takes_network && wanted & request::NETWORK != 0;
        let mut of = of_bundle(&mut self.of, &bundle, template);
        let used = of.as_mut().filter(|_| takes_network).and_then(|of| of.networks.pop());
        let cgroup = of.filter(|_| wanted & request::CGROUP != 0).and_then(|of| of.cgroups.pop_front());
        let is_used = used.is_some();
        let network = used.or_else(|| if takes_network { self.networks.pop_front() } else { None });
        let of = Some((bundle, Arc::clone(template)));
        let served = self.served;
        self.hand_over(Lent { answers, cgroup, network, of, is_closed })?;
        // Not for who has gone.
        self.reused += u64::from(is_used && self.served > served);
        Ok(())
    }

    /// Gives a network namespace in which nobody has been to who hears `answers`, whatever his bundle is.
    ///
    /// # Errors
    /// The way to answer, if there is none.
    pub fn lend_to_any(&mut self, answers: OwnedFd) -> Result<(), OwnedFd> {
        self.is_asked_by_any = true;
        let network = self.networks.pop_front();
        self.hand_over(Lent { answers, cgroup: None, network, of: None, is_closed: false })
    }

    fn hand_over(&mut self, lent: Lent) -> Result<(), OwnedFd> {
        self.last_asked = Instant::now();
        let Lent { answers, cgroup, network, of, .. } = &lent;
        if network.is_none() && cgroup.is_none() {
            self.missed += 1;
            return Err(lent.answers);
        }
        let kind = [answer::PARTS];
        let of = of.as_ref().map_or(Given::default(), |(_, template)| template.config()).bytes();
        let name = cgroup.as_ref().map_or("", |cgroup| &cgroup.name);
        let fds: Vec<_> = network.iter().map(AsRawFd::as_raw_fd).collect();
        // The first is for the first instructions of a command (`sys::entry`), the other for its `main`.
        let sent = socket::send_fds_now(answers.as_raw_fd(), &[&kind], &[])
            .and_then(|()| socket::send_fds_now(answers.as_raw_fd(), &[&kind, &of, name.as_bytes()], &fds));
        // Its end, once: who has it open as well keeps it watched when it is closed here (epoll(7)).
        let event = EpollEvent::new(EpollFlags::EPOLLONESHOT, self.next);
        if sent.is_err() || self.epoll.add(&lent.answers, event).is_err() {
            self.end_of(lent);
            return Ok(());
        }
        self.served += 1;
        self.lent.insert(self.next, lent);
        self.next += 1;
        Ok(())
    }

    /// Who had been lent something has ended, or has left his container to itself.
    fn is_over(&mut self, key: u64) {
        if let Some(lent) = self.lent.remove(&key) {
            self.end_of(lent);
        }
    }

    fn end_of(&self, Lent { answers, cgroup, network, of, is_closed }: Lent) {
        let mut is_removed = false;
        if let Some(cgroup) = cgroup {
            if is_taken(&answers) {
                cgroup.forget();
                // Its container has ended then, and all that was in it.
                is_removed = cgroup.directories.iter().all(|directory| !directory.exists());
            } else {
                self.send(Order::Remove(cgroup));
            }
        }
        match (network, of) {
            (Some(network), Some((bundle, template)))
                if self.reuse && is_removed && is_closed && template.keeps_network && !is_spoilt(&answers) =>
            {
                self.send(Order::Inspect((bundle, template, network)));
            }
            (Some(network), _) => self.send(Order::Destroy(network)),
            (None, _) => {}
        }
    }

    /// What there is.
    pub fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "wanted": self.wanted,
            "networks": self.networks.len(),
            "cgroups": self.of.values().map(|of| of.cgroups.len()).sum::<usize>(),
            "usedNetworks": self.of.values().map(|of| of.networks.len()).sum::<usize>(),
            "lent": self.lent.len(),
            "beingMade": self.ordered + self.of.values().map(|of| of.ordered).sum::<usize>(),
            "pending": self.undone.load(Ordering::Relaxed),
            "memory": self.memory(),
            "served": self.served,
            "missed": self.missed,
            "reused": self.reused,
            "failure": self.failure.as_ref().map(|(_, why)| why),
        })
    }

    /// Removes what nobody has, and waits until it is gone. What is lent stays who has it.
    pub fn end(mut self) {
        let _ = self.order(std::iter::empty(), None);
        for (_, Lent { answers, cgroup, .. }) in self.lent.drain() {
            if let Some(cgroup) = cgroup.filter(|_| is_taken(&answers)) {
                cgroup.forget();
            }
        }
        drop(self.orders);
        // It has done what was ordered by then.
        let _ = self.maker.join();
        while let Ok(made) = self.made.try_recv() {
            if let Made::Cgroup(_, _, Ok(cgroup)) = made {
                cgroup.remove();
            }
        }
    }
}

impl OfBundle {
    fn new(template: &Arc<Template>) -> Self {
        let template = Arc::clone(template);
        Self { template, cgroups: VecDeque::new(), size: ANY_CGROUP, ordered: 0, networks: Vec::new() }
    }

    /// How many cgroups are missing to `wanted`.
    fn missing(&self, wanted: usize) -> usize {
        let wanted = if self.template.takes_cgroup { wanted } else { 0 };
        wanted.saturating_sub(self.cgroups.len() + self.ordered)
    }
}

/// What there is for a bundle as it is now.
fn of_bundle<'a>(
    all: &'a mut HashMap<Identity, OfBundle>,
    bundle: &Identity,
    template: &Arc<Template>,
) -> Option<&'a mut OfBundle> {
    all.get_mut(bundle).filter(|of| Arc::ptr_eq(&of.template, template))
}

/// Whether who hears `answers` has recorded his cgroup.
fn is_taken(answers: &OwnedFd) -> bool {
    says(answers, TAKEN)
}

/// Whether others have been in his container's network namespace; he says so after [`TAKEN`].
fn is_spoilt(answers: &OwnedFd) -> bool {
    says(answers, SPOILT)
}

fn says(answers: &OwnedFd, wanted: u8) -> bool {
    let mut word = [0; 4];
    socket::receive_fds(answers.as_raw_fd(), &mut word).is_ok_and(|received| received.count == 1 && word[0] == wanted)
}
