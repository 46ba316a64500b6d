//! Makes sandboxes, in a process of its own.
//!
//! A sandbox begins as a copy of its maker, and the less there is to copy the better: a maker with one thread, little memory and
//! few descriptors. The pool is the parent of what it makes all the same (`CLONE_PARENT`), and hears of the end of each.
//!
//! ```text
//! pool                                            filler
//!   │ LOAD: number, version, path of the bundle ───▶ │ reads it
//!   │ MAKE: number ────────────────────────────────▶ │ clone3, waits until it is parked
//!   │ ◀─────────────── MADE: its id; [descriptors] ──┤
//!   │ FORGET: number ──────────────────────────────▶ │
//! ```
//!
//! Answers come in the order of what is asked for. The filler ends when the pool does, and is begun anew if it ends before.

use super::network::Network;
use super::pace::{Ledger, Pace};
use super::template::{Identity, Template};
use super::workshop;
use crate::container::park::{Descriptors, Parked};
use crate::container::prepare::Options;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::clone::Child;
use crate::sys::{process, socket};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A sandbox, and what keeps the kernel from taking it apart while somebody waits.
#[derive(Debug)]
pub struct Part {
    /// The sandbox.
    pub parked: Parked,
    /// Its init.
    pub pidfd: OwnedFd,
    /// Its network namespace, if that may be used again.
    pub network: Option<Network>,
    /// Its mount namespace: the last who holds one waits until all its mounts are gone (fs/namespace.c, put_mnt_ns).
    pub _mounts: Option<OwnedFd>,
}

/// What is to be done: the first byte of a message to the filler. The number of a template follows.
pub(super) mod order {
    /// Read a bundle: its version (8 bytes) and its path follow.
    pub const LOAD: u8 = b'l';
    /// Make a sandbox, in the network namespace that comes along if one does.
    pub const MAKE: u8 = b'm';
    /// It is not needed any more.
    pub const FORGET: u8 = b'f';
}

/// What became of it: the first byte of an answer.
pub(super) mod news {
    /// Made: six bytes that tell which descriptors come along; the pid, what is seen of a new network namespace and the id follow.
    pub const MADE: u8 = b'm';
    /// Not made: why.
    pub const FAILED: u8 = b'e';
}

/// The most bytes of a message, either way.
pub(super) const MOST: usize = 8192;

/// How many sandboxes the filler is asked for ahead: it never waits for the pool, and a pool that ends does not wait long for it.
const AHEAD: usize = 8;

/// How long the filler has for its end, before it is killed: a sandbox takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// The process that makes sandboxes, as the pool sees it.
#[derive(Debug)]
pub struct Filler {
    pid: i32,
    socket: OwnedFd,
    /// The templates that it knows.
    known: Vec<(u32, Weak<Template>)>,
    next: u32,
    /// What it has been asked for, and has not answered yet.
    asked: VecDeque<Order>,
    /// What it has not been asked for yet.
    waiting: VecDeque<Order>,
    /// Whether it is not to be asked for more at the moment.
    is_held: bool,
}

#[derive(Debug)]
struct Order {
    bundle: Identity,
    template: Arc<Template>,
    /// Where it is made.
    network: Option<Network>,
}

/// What the pool hears of its filler.
#[derive(Debug)]
pub enum News {
    /// What became of the order of a sandbox: for which bundle, as what.
    Of(Identity, Arc<Template>, Result<Box<Part>>),
    /// Nothing more at the moment.
    Nothing,
    /// It has ended.
    Ended,
}

impl Filler {
    /// Begins the process. It makes sandboxes as `options` say, but for the bundle and the id.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn begin(options: &Options, pace: Pace, ledger: &Ledger) -> Result<Self> {
        let (ours, theirs) = socket::packets().doing(|| "make a socket pair")?;
        match process::fork_beside_threads().doing(|| "begin the process that makes sandboxes")? {
            Some(pid) => Ok(Self {
                pid,
                socket: ours,
                known: Vec::new(),
                next: 0,
                asked: VecDeque::new(),
                waiting: VecDeque::new(),
                is_held: false,
            }),
            None => workshop::run(&theirs, options, pace, ledger.clone()),
        }
    }

    /// Orders a sandbox, in `network` if it is given.
    pub fn order(&mut self, bundle: Identity, template: &Arc<Template>, network: Option<Network>) {
        self.waiting.push_back(Order { bundle, template: Arc::clone(template), network });
        self.ask();
    }

    /// Takes back what has not been begun of the sandboxes of `template`.
    pub fn cancel(&mut self, template: &Arc<Template>) {
        self.waiting.retain(|order| !Arc::ptr_eq(&order.template, template));
    }

    /// Has it make no more than what it has been asked for until it is no more `is_held`.
    pub fn hold(&mut self, is_held: bool) {
        if std::mem::replace(&mut self.is_held, is_held) && !is_held {
            self.ask();
        }
    }

    /// One that has ended is heard of by its end; what was asked for is answered then.
    fn ask(&mut self) {
        while self.asked.len() < AHEAD
            && !self.is_held
            && let Some(order) = self.waiting.pop_front()
        {
            let number = self.number_of(&order.template);
            let network = order.network.as_ref().map(AsRawFd::as_raw_fd);
            self.say(&[&[order::MAKE], &number.to_ne_bytes()], network.as_slice());
            self.asked.push_back(order);
        }
    }

    fn say(&self, parts: &[&[u8]], fds: &[RawFd]) {
        // There is room for all that it may be asked for.
        let _ = socket::send_fds_now(self.socket.as_raw_fd(), parts, fds);
    }

    fn number_of(&mut self, template: &Arc<Template>) -> u32 {
        let is_it = |(_, known): &&(u32, Weak<Template>)| known.as_ptr() == Arc::as_ptr(template);
        if let Some((number, _)) = self.known.iter().find(is_it) {
            return *number;
        }
        let (kept, gone) = self.known.drain(..).partition(|(_, known)| known.strong_count() > 0);
        self.known = kept;
        for (number, _) in gone {
            self.say(&[&[order::FORGET], &number.to_ne_bytes()], &[]);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let bundle = template.options.bundle.as_os_str().as_bytes();
        self.say(&[&[order::LOAD], &number.to_ne_bytes(), &template.version().to_ne_bytes(), bundle], &[]);
        self.known.push((number, Arc::downgrade(template)));
        number
    }

    /// The next news; it does not wait.
    pub fn hear(&mut self) -> News {
        let mut data = [0; MOST];
        let received = match socket::receive_fds(self.socket.as_raw_fd(), &mut data) {
            Ok(received) if received.count > 0 => received,
            Err(nix::errno::Errno::EAGAIN) => return News::Nothing,
            _ => return News::Ended,
        };
        let Some(order) = self.asked.pop_front() else { return News::Ended };
        self.ask();
        let part = match data.get(..received.count).and_then(<[u8]>::split_first) {
            Some((&news::MADE, rest)) => take(&order.template, order.network, rest, received.fds),
            Some((_, why)) => Err(Error::new(Kind::System, String::from_utf8_lossy(why))),
            None => Err(lost()),
        };
        News::Of(order.bundle, order.template, part)
    }

    /// Lets it end, once what it is at is done; it is to be heard until then. Whether it has ended.
    pub fn ends(&self) -> bool {
        socket::end_sending(self.socket.as_raw_fd());
        let mut fds = [libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        crate::sys::fs::retry(|| process::poll(&mut fds, Some(PATIENCE))) != Ok(0)
    }

    /// Ends it if it has not ended, and reaps it.
    pub fn reap(self) {
        let _ = process::kill(self.pid, libc::SIGKILL);
        let _ = process::wait(self.pid, 0);
    }
}

impl AsFd for Filler {
    /// Readable when there is news.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn lost() -> Error {
    Error::new(Kind::System, "the descriptors of a sandbox are lost: the pool has too many")
}

/// Takes over what the filler has made of `template`.
fn take(template: &Template, network: Option<Network>, said: &[u8], fds: Vec<OwnedFd>) -> Result<Box<Part>> {
    let mut fds = fds.into_iter();
    let (which, rest) = said.split_first_chunk::<6>().ok_or_else(lost)?;
    let [pidfd, lease, lock, terminal, mounts, made] =
        which.map(|is_there| if is_there == 0 { None } else { fds.next() });
    let (about, id) = rest.split_first_chunk::<16>().ok_or_else(lost)?;
    let (about, _) = about.as_chunks::<8>();
    let mut about = about.iter().map(|number| u64::from_ne_bytes(*number));
    let (Some(pid), Some(seen)) = (about.next(), about.next()) else { return Err(lost()) };
    let pid = pid as i32;
    let taken = match (pidfd, lease, lock) {
        (Some(pidfd), Some(lease), Some(lock)) => {
            let (descriptors, id) = (Descriptors { lease, lock, terminal }, String::from_utf8_lossy(id));
            let child = Child { pid, pidfd: pidfd.as_raw_fd() };
            let parked =
                Parked::take_over(&template.options.store, &id, child, descriptors, Arc::clone(&template.spec));
            let network = network.or_else(|| Some(Network::of(made?, seen)));
            parked.map(|parked| Box::new(Part { parked, pidfd, network, _mounts: mounts }))
        }
        _ => Err(lost()),
    };
    taken.inspect_err(|_| {
        let _ = process::kill(pid, libc::SIGKILL);
        let _ = process::wait(pid, 0);
    })
}
