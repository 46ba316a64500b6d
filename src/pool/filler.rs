//! Makes sandboxes, in processes of their own: one or two makers for each template, which the filler clones.
//!
//! ```text
//! pool                                   filler            maker
//!   │ BEGIN: version, path; its socket ───▶ │ ── clones ──────▶ │ reads the bundle
//!   │ ◀────────────────── BEGUN: its pidfd ─┤                   │
//!   │ MAKE ───────────────────────────────────────────────────▶ │ clone3, waits until it is parked
//!   │ ◀────────────────────────── MADE: its id; [descriptors] ──┤
//! ```
//!
//! A sandbox runs in the memory of its maker, if it can, and so a maker has nothing there that another container may not know: the filler is cloned
//! before the pool has heard of anything, and of bundles a maker reads one. It has one thread and few descriptors besides, which makes cloning cheap.
//! The pool is the parent of all (`CLONE_PARENT`), and hears of the end of each. Nobody is waited for here: a process that is killed may take its time, in
//! an I/O that hangs or because somebody traces it.
//!
//! A maker answers in the order of what it is asked for, and only those of one template work at a time. With two of them a CPU is not left to others while one waits for its sandbox to get
//! ready. They end when the pool does, and are begun anew if they end before.

use super::network::Network;
use super::pace::{Ledger, Pace};
use super::template::{Identity, Template};
use super::workshop;
use crate::container::ground::Rooms;
use crate::container::park::{Descriptors, Parked};
use crate::container::prepare::Options;
use crate::container::store::Entry;
use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::sys::clone::Child;
use crate::sys::socket::Received;
use crate::sys::{pidfd, process, socket};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A sandbox, and what keeps the kernel from taking it apart while somebody waits.
#[derive(Debug)]
pub struct Part {
    /// The sandbox.
    pub parked: Parked,
    /// Its init.
    pub pidfd: OwnedFd,
    /// Its network namespace, if that may be used again.
    pub network: Option<Network>,
    /// Whether that was another's before.
    pub has_used_network: bool,
    /// How many bytes it has for itself of its maker's memory; 0 if it has a memory of its own.
    pub memory: u64,
    /// Its mount and IPC namespaces, if they may be used again.
    pub rooms: Option<Rooms>,
    /// Whether they were another's before.
    pub is_furnished: bool,
    /// Whether it was to be made in those of another and could not. Of that attempt there may be a process that has ended.
    pub is_second_attempt: bool,
    /// Its mount namespace otherwise: the last who holds one waits until all its mounts are gone (fs/namespace.c, put_mnt_ns).
    pub _mounts: Option<OwnedFd>,
}

/// What became of it: the first byte of an answer.
pub(super) mod news {
    /// Of the filler: a maker has been begun, whose pidfd comes along.
    pub const BEGUN: u8 = b'b';
    /// Made: seven bytes that tell which descriptors come along; the pid, what is seen of a new network namespace, how many bytes of its maker's memory
    /// it has for itself, what is seen of new rooms, and the id follow.
    pub const MADE: u8 = b'm';
    /// Not made, or not begun: why.
    pub const FAILED: u8 = b'e';
}

/// The most bytes of a message of a maker, and of the pool to it.
pub(super) const MOST: usize = 8192;

/// How many bytes of [`news::MADE`] tell of descriptors, and how many come before the id.
const FDS: usize = 7;
const ABOUT: usize = FDS + 4 * size_of::<u64>();

/// How many sandboxes are asked for ahead: a maker never waits for the pool, and a pool that ends does not wait long for it.
const AHEAD: usize = 8;

/// How many makers a template has at most, unless making is limited: then it is one, whose share nobody else takes.
const MAKERS: usize = 2;

/// How long makers have for their end, before they are killed: a sandbox takes a few milliseconds. And how long the filler has for beginning one.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a maker takes for a sandbox at most before others do not wait for it any more, and how long before it is ended.
const USUAL: Duration = Duration::from_secs(2);
const MOST_PATIENCE: Duration = Duration::from_secs(10);

/// The key of the filler itself, of what is watched.
const FILLER: u64 = 0;

/// The processes that make sandboxes, as the pool sees them.
#[derive(Debug)]
pub struct Filler {
    pidfd: OwnedFd,
    socket: OwnedFd,
    /// What is readable when there is news of anybody.
    watched: Epoll,
    makers: Vec<Maker>,
    /// The key of the last maker.
    last: u64,
    /// How fast sandboxes are made, and what of that has been used. A maker does not know of it: it makes what it is asked for.
    pace: Pace,
    ledger: Ledger,
    /// When the next may be asked for, if that takes a while.
    rests_until: Option<Instant>,
    /// What nobody has been asked for yet.
    waiting: VecDeque<Order>,
    /// Whether nobody is to be asked for more at the moment.
    is_held: bool,
    /// Why no maker could be begun for what is waited for, if that has been said.
    complaint: Option<String>,
    /// Whether it has been killed because it did not begin a maker.
    is_lost: bool,
    /// Who has been killed, and not been waited for.
    killed: Vec<OwnedFd>,
    /// What has been made and could not be taken over.
    lost: Vec<Entry>,
    /// Whether a maker has been begun of which nothing is known.
    has_begun_a_stranger: bool,
}

/// Who makes the sandboxes of a template.
#[derive(Debug)]
struct Maker {
    key: u64,
    template: Weak<Template>,
    pidfd: OwnedFd,
    socket: OwnedFd,
    /// What it has been asked for, and has not answered yet.
    asked: VecDeque<Order>,
    /// Since when it is at the first of it.
    since: Instant,
    /// Nothing more is to be made but that, and then it is told so.
    is_done: bool,
}

#[derive(Debug)]
struct Order {
    bundle: Identity,
    template: Arc<Template>,
    /// Where it is made.
    place: Place,
}

/// Namespaces that were used before, in which a sandbox is made.
#[derive(Debug, Default)]
pub struct Place {
    /// Its network namespace.
    pub network: Option<Network>,
    /// Its mount and IPC namespaces.
    pub rooms: Option<Rooms>,
}

impl Place {
    /// Whether there is none.
    pub const fn is_none(&self) -> bool {
        self.network.is_none() && self.rooms.is_none()
    }
}

/// Why there is no maker.
enum Unbegun {
    /// Something is short: descriptors, processes, memory. There will be some again.
    Later(Error),
    /// The filler has ended, or does not answer.
    Never,
}

/// What the pool hears of its makers.
#[derive(Debug)]
pub enum News {
    /// What became of the order of a sandbox: for which bundle, as what.
    Of(Identity, Arc<Template>, Result<Box<Part>>),
    /// Nothing more at the moment.
    Nothing,
    /// One of them has ended, and nothing will come of what was ordered.
    Ended,
}

impl Filler {
    /// Begins the process. Sandboxes are made as `options` say, but for the bundle and the id; in their maker's memory if this process
    /// `is_clean`, has nothing in its own that no container may know.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn begin(options: &Options, pace: Pace, ledger: &Ledger, is_clean: bool) -> Result<Self> {
        let (ours, theirs) = socket::packets().doing(|| "make a socket pair")?;
        let watched = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(|| "make an epoll descriptor")?;
        watched.add(&ours, EpollEvent::new(EpollFlags::EPOLLIN, FILLER)).doing(|| "watch a descriptor")?;
        let doing = || "begin the process that makes sandboxes";
        let Some(pid) = process::fork_beside_threads().doing(doing)? else {
            workshop::run(&theirs, options, pace, ledger, is_clean)
        };
        // Without it the process ends by itself: nobody has the other end of its socket.
        let pidfd = pidfd::open(pid).doing(doing)?;
        Ok(Self {
            pidfd,
            socket: ours,
            watched,
            makers: Vec::new(),
            last: FILLER,
            pace,
            ledger: ledger.clone(),
            rests_until: None,
            waiting: VecDeque::new(),
            is_held: false,
            complaint: None,
            is_lost: false,
            killed: Vec::new(),
            lost: Vec::new(),
            has_begun_a_stranger: false,
        })
    }

    /// Orders a sandbox, in the namespaces of `place`.
    pub fn order(&mut self, bundle: Identity, template: &Arc<Template>, place: Place) {
        self.waiting.push_back(Order { bundle, template: Arc::clone(template), place });
        self.ask();
    }

    /// Takes back what has not been begun of the sandboxes of `template`, of which none is wanted any more: its makers end.
    pub fn cancel(&mut self, template: &Arc<Template>) {
        self.waiting.retain(|order| !Arc::ptr_eq(&order.template, template));
        self.makers.iter_mut().filter(|maker| maker.makes(template)).for_each(Maker::retire);
    }

    /// Has no more made than what has been asked for until it is no more `is_held`.
    pub fn hold(&mut self, is_held: bool) {
        if std::mem::replace(&mut self.is_held, is_held) && !is_held {
            self.ask();
        }
    }

    /// A maker that has ended is heard of by its end; what was asked for is answered then.
    fn ask(&mut self) {
        while !self.is_held
            && !self.is_lost
            && let Some(order) = self.waiting.front()
            && self.has_time_for(&order.template)
        {
            let template = Arc::clone(&order.template);
            let index = match self.maker_of(&template) {
                Ok(index) => index,
                Err(Unbegun::Later(error)) => return self.complain(error.to_string()),
                Err(Unbegun::Never) => {
                    // Nobody waits until it has ended: another one is begun.
                    kill(&self.pidfd);
                    self.is_lost = true;
                    return;
                }
            };
            self.complaint = None;
            self.rests_until = None;
            if self.pace.is_limited() {
                let rest = self.ledger.begin(self.pace, process::now());
                if !rest.is_zero() {
                    self.rests_until = Some(Instant::now() + rest);
                    return;
                }
            }
            let (Some(maker), Some(order)) = (self.makers.get_mut(index), self.waiting.pop_front()) else { return };
            let network = order.place.network.as_ref().map(AsRawFd::as_raw_fd);
            let rooms = order.place.rooms.as_ref().map(Rooms::descriptors);
            let asked =
                workshop::Asked { network: network.is_some(), rooms: order.place.rooms.as_ref().map(Rooms::seen) };
            let all: Vec<_> = network.into_iter().chain(rooms.into_iter().flatten()).collect();
            // There is room for all that it may be asked for.
            let _ = socket::send_fds_now(maker.socket.as_raw_fd(), &[&asked.bytes()], &all);
            if maker.asked.is_empty() {
                maker.since = Instant::now();
            }
            maker.asked.push_back(order);
        }
    }

    /// Says why no maker can be begun; once.
    fn complain(&mut self, why: String) {
        if self.complaint.as_ref() != Some(&why) {
            log::warn(format_args!("pool: {why}: that is tried again"));
        }
        self.complaint = Some(why);
    }

    /// Whether a sandbox of `template` may be asked for now.
    fn has_time_for(&self, template: &Arc<Template>) -> bool {
        let mut busy = self.makers.iter().filter(|maker| maker.is_at_work() && !maker.is_at_it_for(USUAL));
        let asked: usize = busy.clone().map(|maker| maker.asked.len()).sum();
        // With a limit one at a time: it is known then what the one before has used.
        asked < if self.pace.is_limited() { 1 } else { AHEAD } && busy.all(|maker| maker.makes(template))
    }

    /// The index of the maker of `template` that has the least to do. One is begun if there is none, or none that has nothing to do and not enough.
    fn maker_of(&mut self, template: &Arc<Template>) -> Result<usize, Unbegun> {
        let doing = || "begin a process that makes sandboxes";
        let later = |errno: Errno| Unbegun::Later(Error::system(doing(), errno));
        let own = self.makers.iter().enumerate().filter(|(_, maker)| maker.makes(template));
        let (count, least) = (own.clone().count(), own.min_by_key(|(_, maker)| maker.asked.len()));
        if let Some((index, maker)) = least
            && (maker.asked.is_empty() || count >= if self.pace.is_limited() { 1 } else { MAKERS })
        {
            return Ok(index);
        }
        let (ours, theirs) = socket::packets().map_err(later)?;
        let bundle = template.options.bundle.as_os_str().as_bytes();
        let parts: [&[u8]; 2] = [&template.version().to_ne_bytes(), bundle];
        let mut data = [0; 256];
        let said = socket::send_fds(self.socket.as_raw_fd(), &parts, &[theirs.as_raw_fd()])
            .and_then(|()| if self.has_news_within(PATIENCE) { Ok(()) } else { Err(Errno::ETIMEDOUT) })
            .and_then(|()| socket::receive_what_fits(self.socket.as_raw_fd(), &mut data));
        let Ok(Received { count, fds, .. }) = said else { return Err(Unbegun::Never) };
        let pidfd = match (data.get(..count).and_then(<[u8]>::split_first), fds.into_iter().next()) {
            (Some((&news::BEGUN, _)), Some(pidfd)) => pidfd,
            // It ends when its socket is closed.
            (Some((&news::BEGUN, _)), None) => {
                self.has_begun_a_stranger = true;
                return Err(later(Errno::EMFILE));
            }
            (Some((_, why)), _) => {
                let why = format!("{}: {}", doing(), String::from_utf8_lossy(why));
                return Err(Unbegun::Later(Error::new(Kind::System, why)));
            }
            (None, _) => return Err(Unbegun::Never),
        };
        self.last += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.last);
        if let Err(errno) = self.watched.add(&ours, event) {
            kill(&pidfd);
            self.killed.push(pidfd);
            return Err(later(errno));
        }
        let template = Arc::downgrade(template);
        let asked = VecDeque::new();
        self.makers.push(Maker {
            key: self.last,
            template,
            pidfd,
            socket: ours,
            asked,
            since: Instant::now(),
            is_done: false,
        });
        Ok(self.makers.len() - 1)
    }

    fn has_news_within(&self, patience: Duration) -> bool {
        process::is_readable(self.socket.as_raw_fd(), patience) != Ok(false)
    }

    /// The next news; it does not wait.
    pub fn hear(&mut self) -> News {
        let mut events = [EpollEvent::empty()];
        let mut data = [0; MOST];
        loop {
            match self.watched.wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => return News::Nothing,
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(_) => return News::Ended,
            }
            let key = events[0].data();
            let Some(index) = self.makers.iter().position(|maker| maker.key == key) else { return News::Ended };
            let Some(maker) = self.makers.get_mut(index) else { return News::Ended };
            let received = match socket::receive_what_fits(maker.socket.as_raw_fd(), &mut data) {
                Ok(received) if received.count > 0 => received,
                Err(Errno::EAGAIN) => return News::Nothing,
                _ => {
                    let maker = self.makers.swap_remove(index);
                    let is_over = maker.is_done && maker.asked.is_empty();
                    self.end(maker);
                    if is_over {
                        continue;
                    }
                    return News::Ended;
                }
            };
            let Some(order) = maker.asked.pop_front() else { return News::Ended };
            maker.since = Instant::now();
            if maker.is_done {
                maker.retire();
            }
            self.ask();
            let part = match data.get(..received.count).and_then(<[u8]>::split_first) {
                Some((&news::MADE, rest)) => {
                    let store = &order.template.options.store;
                    // Without its lease it ends. Its maker takes it for the pool's.
                    let lost = |_: &_| self.lost.extend(id_of(rest).and_then(|id| store.find(&id).ok()));
                    take(&order.template, order.place, rest, received).inspect_err(lost)
                }
                Some((_, why)) => Err(Error::new(Kind::System, String::from_utf8_lossy(why))),
                None => Err(lost()),
            };
            return News::Of(order.bundle, order.template, part);
        }
    }

    /// Whether it is at anything, or is to be.
    pub fn is_at_work(&self) -> bool {
        self.is_lost || !self.waiting.is_empty() || self.makers.iter().any(Maker::is_at_work)
    }

    /// How long it is until the next sandbox may be asked for, if that is what is waited for.
    pub fn rest(&self) -> Option<Duration> {
        let until = self.rests_until.filter(|_| !self.waiting.is_empty() && !self.is_held)?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Ends a maker that has been at one sandbox for too long: it has been stopped, or what its bundle lies on does not answer. Whether there was one, or the
    /// filler is one; with others nothing has happened but that they may be asked for more.
    pub fn ends_stuck(&mut self) -> bool {
        if self.is_lost {
            return true;
        }
        let is_stuck = |maker: &Maker| maker.is_at_work() && maker.is_at_it_for(MOST_PATIENCE);
        let Some(index) = self.makers.iter().position(is_stuck) else {
            self.ask();
            return false;
        };
        let maker = self.makers.swap_remove(index);
        self.end(maker);
        true
    }

    /// Lets all end, once what they are at is done; they are to be heard until then. Whether there is something to be heard, or they have not ended in time.
    pub fn ends(&mut self) -> bool {
        self.waiting.clear();
        self.makers.iter_mut().for_each(Maker::finish);
        if self.makers.is_empty() {
            socket::end_sending(self.socket.as_raw_fd());
        }
        process::is_readable(self.as_fd().as_raw_fd(), PATIENCE) != Ok(false)
    }

    /// Forgets what was ordered, and ends all makers. Whether the filler is still there, and can begin others.
    pub fn start_over(&mut self) -> bool {
        self.waiting.clear();
        std::mem::take(&mut self.makers).into_iter().for_each(|maker| self.end(maker));
        !self.is_lost && !self.has_news_within(Duration::ZERO)
    }

    fn end(&mut self, maker: Maker) {
        let _ = self.watched.delete(&maker.socket);
        kill(&maker.pidfd);
        self.killed.push(maker.pidfd);
    }

    /// Who has been killed, and is to be waited for when he has ended.
    pub fn killed(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.killed)
    }

    /// Whether a maker has been begun since this was asked last that ends by itself, and of whose end nothing else tells.
    pub const fn has_begun_a_stranger(&mut self) -> bool {
        std::mem::replace(&mut self.has_begun_a_stranger, false)
    }

    /// What has been made and could not be taken over: it is to be taken away.
    pub fn lost(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.lost)
    }

    /// Ends all that have not ended; who is to be waited for.
    pub fn end_all(mut self) -> Vec<OwnedFd> {
        self.start_over();
        let Self { pidfd, mut killed, .. } = self;
        kill(&pidfd);
        killed.push(pidfd);
        killed
    }
}

impl Maker {
    /// Whether it makes sandboxes of `template`, now and later.
    fn makes(&self, template: &Arc<Template>) -> bool {
        !self.is_done && self.template.as_ptr() == Arc::as_ptr(template)
    }

    fn is_at_work(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Whether it has been at the first sandbox that it was asked for, and has not answered yet, for so long.
    fn is_at_it_for(&self, time: Duration) -> bool {
        self.since.elapsed() >= time
    }

    /// Has it end when it has made what it was asked for.
    fn retire(&mut self) {
        self.is_done = true;
        if self.asked.is_empty() {
            self.finish();
        }
    }

    /// Tells it that nothing more is to be made, whatever it was asked for.
    fn finish(&mut self) {
        self.is_done = true;
        socket::end_sending(self.socket.as_raw_fd());
    }
}

/// Kills a process, if it has not ended.
fn kill(pidfd: &OwnedFd) {
    let _ = process::pidfd_send_signal(pidfd.as_raw_fd(), libc::SIGKILL);
}

impl AsFd for Filler {
    /// Readable when there is news.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.0.as_fd()
    }
}

fn lost() -> Error {
    Error::new(Kind::System, "the descriptors of a sandbox are lost: the pool has too many")
}

/// Takes over what has been made of `template`.
fn take(template: &Template, place: Place, said: &[u8], received: Received) -> Result<Box<Part>> {
    let Received { fds, is_cut, .. } = received;
    let mut fds = fds.into_iter();
    let (which, rest) = said.split_first_chunk::<FDS>().ok_or_else(lost)?;
    let [pidfd, lease, lock, terminal, mounts, made, ipc] =
        which.map(|is_there| if is_there == 0 { None } else { fds.next() });
    let (about, _) = rest.as_chunks::<8>();
    let mut about = about.iter().map(|number| u64::from_ne_bytes(*number));
    let mut next = || about.next().ok_or_else(lost);
    let (pid, seen, memory, seen_of_rooms) = (next()?, next()?, next()?, next()?);
    let (pid, id) = (pid as i32, id_of(said).ok_or_else(lost)?);
    match (pidfd, lease, lock) {
        (Some(pidfd), Some(lease), Some(lock)) if !is_cut => {
            let descriptors = Descriptors { lease, lock, terminal };
            let child = Child { pid, pidfd: pidfd.as_raw_fd() };
            let parked =
                Parked::take_over(&template.options.store, &id, child, descriptors, Arc::clone(&template.spec));
            let has_used_network = place.network.is_some();
            let network = place.network.or_else(|| Some(Network::of(made?, seen)));
            let was_given = place.rooms.is_some();
            let used = place.rooms.filter(|rooms| mounts.is_none() && rooms.seen() == seen_of_rooms);
            let is_furnished = used.is_some();
            let is_second_attempt = was_given && !is_furnished;
            let (rooms, mounts) = match (mounts, ipc) {
                (Some(mounts), Some(ipc)) => (Some(Rooms::of(mounts, ipc, seen_of_rooms)), None),
                (mounts, _) => (used, mounts),
            };
            parked.map(|parked| {
                Box::new(Part {
                    parked,
                    pidfd,
                    network,
                    has_used_network,
                    memory,
                    rooms,
                    is_furnished,
                    is_second_attempt,
                    _mounts: mounts,
                })
            })
        }
        _ => Err(lost()),
    }
}

/// The id of what has been made.
fn id_of(said: &[u8]) -> Option<String> {
    said.get(ABOUT..).map(|id| String::from_utf8_lossy(id).into_owned())
}
