//! A request for a sandbox, and how one is handed over.

use super::filler::Part;
use super::setup::Place;
use super::streams::Streams;
use super::template::Identity;
use crate::container::park::Parked;
use crate::sys::park::Message;
use crate::sys::process;
use crate::sys::request::{self, Header, answer};
use crate::sys::socket;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

/// A request for a sandbox.
#[derive(Debug)]
pub struct Asked {
    pub header: Header,
    /// Where the container is to be recorded.
    pub root: PathBuf,
    /// Its id; empty for any.
    pub id: Vec<u8>,
    /// Where the answers go.
    pub answers: OwnedFd,
    pub bundle: OwnedFd,
    pub stdio: Streams,
    /// Of who waits: for which bundle's sandbox, since when.
    pub since: Option<(Identity, Instant)>,
}

/// Why a sandbox is not given.
#[derive(Debug)]
pub enum No {
    /// It has a terminal, and who asks cannot serve one.
    Terminal,
    /// There is none at this moment.
    NotReady,
    /// The reason.
    Because(&'static str),
}

impl From<&'static str> for No {
    fn from(reason: &'static str) -> Self {
        Self::Because(reason)
    }
}

/// Has a sandbox become the container that is asked for, unless who asks has gone.
///
/// # Errors
/// What keeps it from that.
pub fn hand_over(asked: &Asked, part: &mut Part) -> Result<(), &'static str> {
    // Nobody else finds out about one that is told of later.
    if asked.header.flags & request::DETACHED != 0 && !socket::is_listening(asked.answers.as_raw_fd()) {
        return Err("nobody waits for the answer");
    }
    let Some(lease) = &part.parked.lease else { return Err("the sandbox has been given away") };
    if asked.header.kind == request::LEASE {
        return say_started(&asked.answers, part, Some(lease)).map_err(|_| "nobody waits for the answer");
    }
    let message = Message { signal_mask: asked.header.signal_mask, arguments: Message::SAME, entries: 0 };
    // Here nobody keeps it: once whoever has it closes it, the program is to find out.
    let terminal = part.parked.terminal.take();
    // A terminal is there already.
    let stdio = terminal.is_none().then(|| {
        part.parked.own_stdio(asked.stdio.owned());
        asked.stdio.lend(&part.pidfd)
    });
    // First: who hears nothing knows that nothing has been started. Of a detached one the begin is told.
    if asked.header.flags & request::DETACHED == 0 {
        say_started(&asked.answers, part, terminal.as_ref()).map_err(|_| "nobody waits for the answer")?;
    }
    let fds = stdio.as_ref().map_or(&[][..], |lent| &lent.fds);
    socket::send_fds_now(lease.as_raw_fd(), &[&message.bytes()], fds).map_err(|_| "the sandbox has ended")
}

/// Says that a container has been started, and hands its terminal's master over; or that a sandbox is leased, and hands over
/// the lease.
///
/// # Errors
/// Nobody listens.
pub fn say_started(answers: &OwnedFd, part: &Part, more: Option<&OwnedFd>) -> Result<(), Errno> {
    let pid = part.parked.child.pid.to_ne_bytes();
    let started: [&[u8]; 3] = [&[answer::STARTED], &pid, part.parked.state.id.as_bytes()];
    let fds = [Some(&part.pidfd), more].into_iter().flatten().map(AsRawFd::as_raw_fd);
    socket::send_fds_now(answers.as_raw_fd(), &started, &fds.collect::<Vec<_>>())
}

/// Gives init the limits of who asks, where its configuration does not say.
///
/// # Errors
/// A limit that the kernel refuses.
pub fn limits(place: &Place, header: &Header, parked: &Parked) -> Result<(), &'static str> {
    for (resource, [soft, hard]) in place.other_limits(header) {
        if !parked.sets_limit(resource) {
            process::set_limit_of(parked.child.pid, resource, soft, hard)
                .map_err(|_| "a limit of who asks cannot be set")?;
        }
    }
    Ok(())
}
