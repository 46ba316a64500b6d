//! Makes sandboxes, in a thread of its own.

use super::pace::{Budget, Pace};
use super::template::{Identity, Template};
use crate::container::ground::Ground;
use crate::container::park::{self, Parked};
use crate::container::prepare::Options;
use crate::container::state::Lock;
use crate::container::state::new_id;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::{process, socket};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};

/// A sandbox, and what keeps the kernel from taking it apart while somebody waits.
#[derive(Debug)]
pub struct Part {
    /// The sandbox.
    pub parked: Parked,
    /// Its init.
    pub pidfd: OwnedFd,
    /// Its mount namespace: the last who holds one waits until all its mounts are gone (fs/namespace.c, put_mnt_ns).
    pub mounts: Option<OwnedFd>,
}

/// What became of an order. The descriptors of a part go another way: this thread has a table of its own, so that what
/// it clones need not close those of all others.
#[derive(Debug)]
pub struct Made {
    /// For which bundle.
    pub bundle: Identity,
    /// As what.
    pub template: Arc<Template>,
    /// What came of it.
    pub made: Result<Box<Parked>>,
}

/// Where the filler tells what it has made: descriptors on the one, the rest on the other, first.
#[derive(Debug)]
pub struct Outlet {
    /// All but descriptors.
    pub made: Sender<Made>,
    /// The descriptors of each, in a message of their own; none, if it could not be made.
    pub descriptors: OwnedFd,
}

/// Where the pool hears of it.
#[derive(Debug)]
pub struct Inlet {
    made: Receiver<Made>,
    /// Readable when there is something.
    pub descriptors: OwnedFd,
}

/// The way from the filler to the pool.
///
/// # Errors
/// What the kernel says.
pub fn way() -> Result<(Outlet, Inlet)> {
    let (sender, receiver) = channel();
    let (ours, theirs) = socket::packets().doing(|| "make a socket pair")?;
    Ok((Outlet { made: sender, descriptors: theirs }, Inlet { made: receiver, descriptors: ours }))
}

impl Outlet {
    /// `None` when nobody listens any more.
    fn tell(&self, order: Order, made: Result<Part>) -> Option<()> {
        let (made, descriptors) = match made {
            Ok(Part { mut parked, pidfd, mounts }) => {
                let (lease, lock) = (parked.lease.take()?, parked.lock.take()?.into_descriptor());
                let terminal = parked.terminal.take();
                let all = [Some(pidfd), Some(lease), Some(lock), mounts, terminal];
                (Ok(Box::new(parked)), all)
            }
            Err(error) => (Err(error), [const { None }; 5]),
        };
        self.made.send(Made { bundle: order.bundle, template: order.template, made }).ok()?;
        let which = descriptors.each_ref().map(|one| u8::from(one.is_some()));
        let numbers: Vec<_> = descriptors.iter().flatten().map(AsRawFd::as_raw_fd).collect();
        socket::send_fds(self.descriptors.as_raw_fd(), &[&which], &numbers).ok()
    }
}

impl Inlet {
    /// What has been made since; `None` for nothing.
    pub fn hear(&self) -> Option<(Identity, Arc<Template>, Result<Part>)> {
        let mut which = [0; 5];
        let received = socket::receive_fds(self.descriptors.as_raw_fd(), &mut which).ok()?;
        let Made { bundle, template, made } = self.made.try_recv().ok()?;
        let mut fds = received.fds.into_iter();
        let mut descriptors = which.map(|is_there| if is_there == 0 { None } else { fds.next() });
        let part = made.and_then(|mut parked| {
            let lost = || Error::new(Kind::System, "the descriptors of a sandbox are lost: the pool has too many");
            let mut take = |index: usize| descriptors.get_mut(index).and_then(Option::take);
            let (Some(pidfd), Some(lease), Some(lock)) = (take(0), take(1), take(2)) else { return Err(lost()) };
            parked.child.pidfd = pidfd.as_raw_fd();
            parked.lease = Some(lease);
            parked.lock = Some(Lock::from_descriptor(lock));
            let mounts = take(3);
            parked.terminal = take(4);
            Ok(Part { parked: *parked, pidfd, mounts })
        });
        Some((bundle, template, part))
    }
}

/// What the filler is to make.
#[derive(Debug)]
pub struct Order {
    /// The bundle.
    pub bundle: Identity,
    /// What it is made from.
    pub template: Arc<Template>,
}

/// Makes what is ordered, until nobody orders any more or the pool `ends`. It says when it is `ready`.
pub fn run(orders: &Receiver<Order>, outlet: &Outlet, pace: Pace, ends: &AtomicBool, ready: &Sender<()>) {
    // Where the table of descriptors stays shared, making a sandbox takes longer the more there are. And what is open at
    // this moment stays open here: nobody who asks must have handed anything over yet.
    let _ = process::unshare(libc::CLONE_FILES);
    if ready.send(()).is_err() {
        return;
    }
    let (mut grounds, mut budget) = (Grounds::new(), Budget::new(pace));
    for order in orders {
        if ends.load(Ordering::Relaxed) {
            return;
        }
        let made = grounds.of(&order).and_then(|ground| make(&order.template, ground));
        let used = budget.used(made.as_ref().ok().map(|part| part.parked.child.pid));
        if outlet.tell(order, made).is_none() {
            return;
        }
        budget.rest(used);
    }
}

/// Where the sandboxes of each template are cloned.
struct Grounds {
    /// Whether this thread may go elsewhere.
    is_free: bool,
    of: HashMap<Identity, (Weak<Template>, Option<Ground>)>,
}

impl Grounds {
    fn new() -> Self {
        Self { is_free: process::unshare(libc::CLONE_FS).is_ok(), of: HashMap::new() }
    }

    fn of(&mut self, order: &Order) -> Result<Option<&Ground>> {
        let is_same = |(template, _): &(Weak<Template>, _)| template.as_ptr() == Arc::as_ptr(&order.template);
        if !self.of.get(&order.bundle).is_some_and(is_same) {
            // Those of templates that nobody has any more go as well.
            self.of.retain(|_, (template, _)| template.strong_count() > 0);
            let wanted = self.is_free && order.template.has_ground;
            let ground = if wanted { Ground::new(&order.template.needed())? } else { None };
            self.of.insert(order.bundle, (Arc::downgrade(&order.template), ground));
        }
        Ok(self.of.get(&order.bundle).and_then(|(_, ground)| ground.as_ref()))
    }
}

fn make(template: &Template, ground: Option<&Ground>) -> Result<Part> {
    let options = Options { id: new_id(), ..template.options.clone() };
    let prepared = template.compile(&options)?;
    let parked = park::park(&options, prepared, ground)?;
    // Without it the end of a container is heard of later, that is all.
    let mounts = File::open(format!("/proc/{}/ns/mnt", parked.child.pid)).ok().map(OwnedFd::from);
    let pidfd = crate::sys::own(parked.child.pidfd);
    Ok(Part { parked, pidfd, mounts })
}
