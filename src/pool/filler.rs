//! Makes sandboxes, in a thread of its own.

use super::server::Event;
use super::template::{Identity, Template};
use crate::container::park::{self, Parked};
use crate::container::prepare::{self, Options};
use crate::container::state::new_id;
use crate::error::Result;
use crate::sys::fs as sys_fs;
use nix::sys::eventfd::EventFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

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

/// What the filler is to make.
#[derive(Debug)]
pub struct Order {
    /// The bundle.
    pub bundle: Identity,
    /// What it is made from.
    pub template: Arc<Template>,
}

/// How fast the filler may be.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The share of a CPU that it may take, in percent.
    pub cpu: u32,
    /// The most that it may make in a second; 0 for no limit.
    pub rate: u32,
}

/// Makes what is ordered, until nobody orders any more.
pub fn run(orders: &Receiver<Order>, events: &Sender<Event>, wake: &EventFd, pace: Pace) {
    for order in orders {
        let began = Instant::now();
        let made = make(&order.template);
        if events.send(Event::Made { bundle: order.bundle, template: order.template, made: Box::new(made) }).is_err() {
            return;
        }
        // It counts what nobody has read yet, and cannot be full.
        let _ = wake.write(1);
        rest(pace, began.elapsed());
    }
}

/// Leaves the CPU, and the second, to others.
fn rest(pace: Pace, worked: Duration) {
    let share = pace.cpu.clamp(1, 100);
    let for_others = worked * (100 - share) / share;
    let until_next = match pace.rate {
        0 => Duration::ZERO,
        rate => (Duration::from_secs(1) / rate).saturating_sub(worked),
    };
    let pause = for_others.max(until_next);
    if !pause.is_zero() {
        std::thread::sleep(pause);
    }
}

fn make(template: &Template) -> Result<Part> {
    let options = Options { id: new_id(), ..template.options.clone() };
    let prepared = prepare::prepare(&options)?;
    let parked = park::park(&options, prepared)?;
    let path = std::ffi::CString::new(format!("/proc/{}/ns/mnt", parked.child.pid)).unwrap_or_default();
    // Without it the end of a container is heard of later, that is all.
    let mounts = sys_fs::open(sys_fs::CWD, &path, libc::O_RDONLY, 0).ok().map(crate::sys::own);
    let pidfd = crate::sys::own(parked.child.pidfd);
    Ok(Part { parked, pidfd, mounts })
}
