//! The standard streams of a command in the foreground, where a container must not have them themselves.
//!
//! A pipe it may have. Of a terminal it would own what is the user's, and could change its settings; what is a file of the host's it
//! could open again for writing, by /proc/self/fd, or cut short, by /dev/stdout; and a socket it could not open again at all. In their
//! place it gets pipes, and a thread copies, as in runc, which does so with every stream. /dev/null is the container's own anyway.

use super::console::{End, Flow, watch};
use crate::error::{Doing, Result};
use crate::sys::{fs as sys_fs, own, process, signalfd};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{pipe2, write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Where our own descriptors begin: what --preserve-fds and sd_listen_fds(3) hand on is below.
const OWN: RawFd = 256;

/// Pipes in the place of standard streams, and a thread that serves them. When dropped it puts the streams back.
#[derive(Debug)]
pub struct Relay {
    originals: Vec<(RawFd, OwnedFd)>,
    /// Has the thread end, once it has passed on what is there. (The end of a pipe would not do: a child may have it open, too.)
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// One direction.
struct Way {
    flow: Flow,
    /// Our side of the pipe. Closed, it tells the container that there is no more, or nobody to read.
    _pipe: OwnedFd,
    _end: End,
    is_output: bool,
}

impl Relay {
    /// A relay for the container of `bundle`, if it needs one: it has no terminal of its own, and a stream is no pipe.
    ///
    /// # Errors
    /// Too many open files.
    pub fn for_bundle(bundle: &Path) -> Result<Option<Self>> {
        if is_needed() && !has_terminal(bundle) { Self::begin().map(Some) } else { Ok(None) }
    }

    /// A relay, if a stream is no pipe.
    ///
    /// # Errors
    /// Too many open files.
    pub fn if_needed() -> Result<Option<Self>> {
        if is_needed() { Self::begin().map(Some) } else { Ok(None) }
    }

    fn begin() -> Result<Self> {
        let doing = || "relay stdin, stdout and stderr";
        // Nothing may execute this program again from here on.
        super::sealed::ensure_for_all()?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).doing(doing)?;
        let stop = Arc::new(far(stop.as_fd()).doing(doing)?);
        let stopped = Arc::clone(&stop);
        let mut relay = Self { originals: Vec::new(), stop, thread: None };
        let mut ways = Vec::new();
        for (number, stream) in crate::sys::standard_descriptors().into_iter().enumerate() {
            let number = number as RawFd;
            if sys_fs::may_be_shared(number) {
                continue;
            }
            let is_output = number != 0;
            let original = far(stream).doing(doing)?;
            let (reading, writing) = pipe2(OFlag::O_CLOEXEC).doing(doing)?;
            let (theirs, ours) = if is_output { (writing, reading) } else { (reading, writing) };
            let ours = far(ours.as_fd()).doing(doing)?;
            let end = End::of(&original, if is_output { libc::O_WRONLY } else { libc::O_RDONLY });
            let (from, to) = if is_output { (ours.as_raw_fd(), end.fd()) } else { (end.fd(), ours.as_raw_fd()) };
            ways.push(Way { flow: Flow::new(from, to), _pipe: ours, _end: end, is_output });
            sys_fs::dup_onto(theirs.as_raw_fd(), number).doing(doing)?;
            relay.originals.push((number, original));
        }
        // A signal is for the thread that waits for the container.
        let mask = process::set_signal_mask(u64::MAX).doing(doing)?;
        let thread = thread::Builder::new().spawn(move || serve(ways, &stopped));
        process::set_signal_mask(mask).doing(doing)?;
        relay.thread = Some(thread.doing(doing)?);
        Ok(relay)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for (number, original) in &self.originals {
            // It fails for a number that no process can have, if at all.
            let _ = sys_fs::dup_onto(original.as_raw_fd(), *number);
        }
        if let Some(thread) = self.thread.take() {
            // It fails after 2^64 times.
            let _ = write(&self.stop, &1u64.to_ne_bytes());
            let _ = thread.join();
        }
    }
}

fn is_needed() -> bool {
    (0..3).any(|fd| !sys_fs::may_be_shared(fd))
}

/// Whether the program of `bundle` gets a terminal of its own. What is wrong with its config.json is found out later.
fn has_terminal(bundle: &Path) -> bool {
    /// Of a configuration, what is looked at.
    #[derive(serde::Deserialize)]
    struct Config {
        process: Option<Process>,
    }
    #[derive(serde::Deserialize)]
    struct Process {
        terminal: Option<bool>,
    }
    let text = std::fs::read(bundle.join("config.json")).unwrap_or_default();
    let config: Option<Config> = serde_json::from_slice(&text).ok();
    config.and_then(|config| config.process?.terminal).unwrap_or(false)
}

/// A copy that is out of the way of what a container may inherit.
fn far(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let copy = |from| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(from)).map(own);
    // EINVAL where RLIMIT_NOFILE allows no such number.
    copy(OWN).or_else(|_| copy(3))
}

fn serve(mut ways: Vec<Way>, stopped: &OwnedFd) {
    loop {
        let mut fds = vec![watch(stopped.as_raw_fd(), libc::POLLIN)];
        fds.extend(ways.iter().map(|way| way.flow.awaited()));
        if sys_fs::retry(|| process::poll(&mut fds, None)).is_err() {
            return;
        }
        let [stop, fds @ ..] = fds.as_slice() else { return };
        ways.iter_mut().zip(fds).for_each(|(way, fd)| way.flow.go_on(fd.revents));
        ways.retain(|way| way.flow.is_open());
        if stop.revents != 0 {
            break;
        }
    }
    let signals = signalfd::open(u64::MAX).map(own);
    let signals = signals.as_ref().map_or(-1, AsRawFd::as_raw_fd);
    // What has not been read of the input by now never will be.
    ways.iter_mut().filter(|way| way.is_output).for_each(|way| way.flow.drain(signals));
}
