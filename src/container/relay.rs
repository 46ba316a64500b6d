//! The standard streams of a command in the foreground, where a container must not have them themselves.
//!
//! A pipe it may have. Of a terminal it would own what is the user's, and could change its settings; what is a file of the host's it
//! could open again for writing, by /proc/self/fd, or cut short, by /dev/stdout; and a socket it could not open again at all. In their
//! place it gets pipes, and a thread copies, as in runc, which does so with every stream. /dev/null is the container's own anyway.

use super::console::{End, Flow, asks_to_end, drain, lost, watch};
use crate::error::{Doing, Error, Result};
use crate::log;
use crate::spec;
use crate::sys::{fs as sys_fs, own, process, signalfd};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{pipe2, read, write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Where our own descriptors begin: what --preserve-fds and sd_listen_fds(3) hand on is below.
const OWN: RawFd = 256;

/// How long the thread may take to end that was told to make haste: one that reads or writes what cannot be told not to block never does.
const HASTE: Duration = Duration::from_millis(500);

/// Pipes in the place of standard streams, and a thread that serves them. When dropped it puts the streams back.
#[derive(Debug)]
pub struct Relay {
    originals: Vec<(RawFd, OwnedFd)>,
    /// Has the thread end, once it has passed on what is there; the second time at once. (The end of a pipe would not do: a child
    /// may have it open, too.)
    stop: Arc<OwnedFd>,
    /// The thread has ended.
    ended: Arc<OwnedFd>,
    thread: Option<JoinHandle<Vec<Error>>>,
}

/// One direction.
struct Way {
    flow: Flow,
    /// Our side of the pipe. Closed, it tells the container that there is no more, or nobody to read.
    _pipe: OwnedFd,
    _end: End,
    stream: &'static str,
    is_output: bool,
}

impl Way {
    /// What could not be passed on.
    fn loss(&self) -> Option<Error> {
        self.flow.loss().map(|errno| lost(self.stream, errno))
    }
}

impl Relay {
    /// A relay, if a stream is no pipe and the program has no terminal of its own, which is asked only then.
    ///
    /// # Errors
    /// Too many open files.
    pub fn if_needed(has_terminal: impl FnOnce() -> bool) -> Result<Option<Self>> {
        let may_be_shared = (0..3).all(sys_fs::may_be_shared);
        if may_be_shared || has_terminal() { Ok(None) } else { Self::begin().map(Some) }
    }

    fn begin() -> Result<Self> {
        let doing = || "relay stdin, stdout and stderr";
        // Nothing may execute this program again from here on.
        super::sealed::ensure_for_all()?;
        let (stop, ended) = (event().doing(doing)?, event().doing(doing)?);
        let mut relay =
            Self { originals: Vec::new(), stop: Arc::clone(&stop), ended: Arc::clone(&ended), thread: None };
        let mut ways = Vec::new();
        for (number, stream) in crate::sys::standard_descriptors().into_iter().enumerate() {
            let number = number as RawFd;
            if sys_fs::may_be_shared(number) {
                continue;
            }
            let original = far(stream).doing(doing)?;
            if number == 2 && relay.originals.iter().any(|(number, stdout)| *number == 1 && is_same(stdout, &original))
            {
                // So what is written to the two keeps its order.
                sys_fs::dup_onto(1, number).doing(doing)?;
                relay.originals.push((number, original));
                continue;
            }
            let is_output = number != 0;
            let (reading, writing) = pipe2(OFlag::O_CLOEXEC).doing(doing)?;
            let (theirs, ours) = if is_output { (writing, reading) } else { (reading, writing) };
            let ours = far(ours.as_fd()).doing(doing)?;
            // Who has the other end could open this one, too, and be faster between a poll and what follows.
            fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).doing(doing)?;
            let end = End::of(original.as_raw_fd(), if is_output { libc::O_WRONLY } else { libc::O_RDONLY });
            let flow = if is_output {
                Flow::new(ours.as_raw_fd(), end.fd())
            } else {
                Flow::new(end.fd(), ours.as_raw_fd()).of_ours()
            };
            let stream = ["stdin", "stdout", "stderr"][number as usize];
            ways.push(Way { flow, _pipe: ours, _end: end, stream, is_output });
            sys_fs::dup_onto(theirs.as_raw_fd(), number).doing(doing)?;
            relay.originals.push((number, original));
        }
        // A signal is for the thread that waits for the container.
        let mask = process::set_signal_mask(u64::MAX).doing(doing)?;
        let thread = thread::Builder::new().spawn(move || {
            let lost = serve(ways, &stop);
            tell(&ended);
            lost
        });
        process::set_signal_mask(mask).doing(doing)?;
        relay.thread = Some(thread.doing(doing)?);
        Ok(relay)
    }

    /// Puts the streams back and waits until all that the container wrote has been passed on, or a signal asks to end; what could not be.
    pub fn end(mut self) -> Vec<Error> {
        self.finish()
    }

    fn finish(&mut self) -> Vec<Error> {
        for (number, original) in &self.originals {
            // It fails for a number that no process can have, if at all.
            let _ = sys_fs::dup_onto(original.as_raw_fd(), *number);
        }
        let Some(thread) = self.thread.take() else { return Vec::new() };
        tell(&self.stop);
        // The container has ended: a signal that asks to end is for us. Another, and one that comes later, finds nobody.
        let mask = process::set_signal_mask(u64::MAX);
        let signals = signalfd::open(u64::MAX).map(own);
        let mut news = signals.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let has_ended = loop {
            let limit = (news < 0).then_some(HASTE);
            let mut fds = [watch(self.ended.as_raw_fd(), libc::POLLIN), watch(news, libc::POLLIN)];
            match sys_fs::retry(|| process::poll(&mut fds, limit)) {
                Ok(0) | Err(_) => break false,
                Ok(_) => {}
            }
            let [ended, signal] = fds.map(|fd| fd.revents);
            if ended != 0 {
                break true;
            }
            if signal != 0 && asks_to_end(news) {
                news = -1;
                tell(&self.stop);
            }
        };
        // It fails for a mask that is none.
        let _ = mask.and_then(process::set_signal_mask);
        if has_ended {
            return thread.join().unwrap_or_default();
        }
        // The thread ends with the process at the latest.
        vec![lost("stdout and stderr", Errno::EINTR)]
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.finish().into_iter().for_each(log::warn);
    }
}

/// Whether two descriptors are of one file, to be written to in the same way.
fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    let about = |fd: &OwnedFd| {
        let stat = sys_fs::stat(fd.as_raw_fd()).ok()?;
        let flags = fcntl(fd, FcntlArg::F_GETFL).ok()?;
        Some((stat.st_dev, stat.st_ino, stat.st_rdev, flags))
    };
    about(one).is_some_and(|one| Some(one) == about(other))
}

/// An event, to be told to another thread (eventfd(2)).
fn event() -> nix::Result<Arc<OwnedFd>> {
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    far(event.as_fd()).map(Arc::new)
}

fn tell(event: &OwnedFd) {
    // It fails after 2^64 times.
    let _ = write(event, &1u64.to_ne_bytes());
}

/// Whether the program of `bundle` gets a terminal of its own. What is wrong with its config.json is found out later.
pub fn has_terminal(bundle: &Path) -> bool {
    /// Of a configuration, what is looked at.
    #[derive(serde::Deserialize)]
    struct Config {
        process: Option<Process>,
    }
    #[derive(serde::Deserialize)]
    struct Process {
        terminal: Option<bool>,
    }
    let text = spec::read_config(bundle).unwrap_or_default();
    let config: Option<Config> = serde_json::from_slice(&text).ok();
    config.and_then(|config| config.process?.terminal).unwrap_or(false)
}

/// A copy that is out of the way of what a container may inherit.
fn far(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let copy = |from| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(from)).map(own);
    // EINVAL where RLIMIT_NOFILE allows no such number.
    copy(OWN).or_else(|_| copy(3))
}

/// What could not be passed on.
fn serve(mut ways: Vec<Way>, stop: &OwnedFd) -> Vec<Error> {
    let mut losses = Vec::new();
    loop {
        let mut fds = vec![watch(stop.as_raw_fd(), libc::POLLIN)];
        fds.extend(ways.iter_mut().map(|way| way.flow.awaited()));
        let pause = ways.iter().find_map(|way| way.flow.pause());
        if let Err(errno) = sys_fs::retry(|| process::poll(&mut fds, pause)) {
            losses.push(lost("stdout and stderr", errno));
            return losses;
        }
        let [stopped, fds @ ..] = fds.as_slice() else { return losses };
        ways.iter_mut().zip(fds).for_each(|(way, fd)| way.flow.go_on(fd.revents));
        ways.retain(|way| {
            losses.extend(way.loss());
            way.flow.is_open()
        });
        if stopped.revents != 0 {
            break;
        }
    }
    // From now on it tells that there is no time left.
    let _ = read(stop, &mut [0; 8]);
    // What has not been read of the input by now never will be.
    ways.retain(|way| way.is_output);
    drain(ways.iter_mut().map(|way| &mut way.flow), stop.as_raw_fd(), |_| true);
    losses.extend(ways.iter().filter_map(Way::loss));
    losses
}
