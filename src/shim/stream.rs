//! What a process writes goes to containerd, and what containerd's clients write goes to the process: bytes from one
//! descriptor to another, as soon as there are some and there is room.

use super::reactor::{Handler, Reactor, Token};
use crate::log;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::unistd::{read, write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// How many bytes are read at a time: what a pipe holds.
pub(super) const BUFFER: usize = 64 * 1024;
/// How many times in a row, before others have their turn.
const TURNS: usize = 8;

/// The two sides.
#[derive(Debug)]
struct Ends {
    from: OwnedFd,
    to: OwnedFd,
    /// The other side of a FIFO, which stays open for as long as this stream does: a containerd that restarts must not
    /// end it.
    _keeper: Option<OwnedFd>,
    /// What was read and could not be written yet.
    rest: Vec<u8>,
    /// Whether there was no space for some of it.
    is_lossy: bool,
}

/// One direction of a process's stdio. Neither side blocks.
#[derive(Debug)]
pub(super) struct Stream {
    /// `None` once it has ended.
    ends: Mutex<Option<Ends>>,
    token: OnceLock<Token>,
}

/// How far a stream has come.
enum Progress {
    /// It waits for something to read.
    Empty,
    /// It waits for room.
    Full,
    /// It goes on when others have had their turn.
    Busy,
    Ended,
}

impl Stream {
    /// A stream, of which the caller says when it [starts](Stream::start).
    pub fn new(from: OwnedFd, to: OwnedFd, keeper: Option<OwnedFd>) -> Arc<Self> {
        let ends = Ends { from, to, _keeper: keeper, rest: Vec::new(), is_lossy: false };
        Arc::new(Self { ends: Mutex::new(Some(ends)), token: OnceLock::new() })
    }

    /// Lets it flow.
    ///
    /// # Errors
    /// A descriptor that cannot be watched.
    pub fn start(self: &Arc<Self>, reactor: &Reactor) -> Result<(), Errno> {
        let token = *self.token.get_or_init(|| reactor.register(Handler::Stream(Arc::clone(self))));
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        match &*ends {
            Some(ends) => reactor.watch(&ends.from, EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, token),
            None => Ok(()),
        }
    }

    /// Passes on what is there. Whether the stream has ended just now.
    pub fn flow(&self, reactor: &Reactor, buffer: &mut [u8]) -> bool {
        let Some(&token) = self.token.get() else { return false };
        let mut guard = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ends) = &mut *guard else { return false };
        let progress = ends.flow(buffer);
        let (fd, flags) = match progress {
            Progress::Empty | Progress::Busy => (&ends.from, EpollFlags::EPOLLIN),
            Progress::Full => (&ends.to, EpollFlags::EPOLLOUT),
            Progress::Ended => {
                reactor.unwatch(&ends.from);
                reactor.unwatch(&ends.to);
                reactor.forget(token);
                *guard = None;
                return true;
            }
        };
        // A descriptor that was watched before can be watched again.
        let _ = reactor.watch(fd, flags | EpollFlags::EPOLLONESHOT, token);
        false
    }

    /// Ends it, whatever is still to come.
    pub fn end(&self, reactor: &Reactor) {
        if let Some(ends) = self.ends.lock().unwrap_or_else(PoisonError::into_inner).take() {
            reactor.unwatch(&ends.from);
            reactor.unwatch(&ends.to);
        }
        if let Some(token) = self.token.get() {
            reactor.forget(*token);
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl Ends {
    fn flow(&mut self, buffer: &mut [u8]) -> Progress {
        for _ in 0..TURNS {
            if let Some(progress) = self.write_rest() {
                return progress;
            }
            match read(&self.from, buffer) {
                Ok(0) => return Progress::Ended,
                Ok(count) => {
                    let data = buffer.get(..count).unwrap_or_default();
                    // Most of the time all of it goes at once.
                    let written = write(&self.to, data).unwrap_or(0);
                    self.rest = data.get(written..).unwrap_or_default().to_vec();
                }
                Err(Errno::EAGAIN) => return Progress::Empty,
                Err(Errno::EINTR) => {}
                // EIO: nobody has the terminal open any more.
                Err(_) => return Progress::Ended,
            }
        }
        self.write_rest().unwrap_or(Progress::Busy)
    }

    /// Writes what is left. `None` once nothing is.
    fn write_rest(&mut self) -> Option<Progress> {
        while !self.rest.is_empty() {
            match write(&self.to, &self.rest) {
                Ok(count) => drop(self.rest.drain(..count)),
                Err(Errno::EAGAIN) => return Some(Progress::Full),
                Err(Errno::EINTR) => {}
                // A log on a full disk has a gap; a program whose output is refused may well end.
                Err(errno @ (Errno::ENOSPC | Errno::EDQUOT)) => {
                    if !std::mem::replace(&mut self.is_lossy, true) {
                        log::warn(format!("a log file does not take what a container writes, which is lost: {errno}"));
                    }
                    break;
                }
                // Nobody will ever read it.
                Err(_) => return Some(Progress::Ended),
            }
        }
        self.rest = Vec::new();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    #[test]
    fn a_log_on_a_full_disk_ends_nothing() {
        let reactor = Reactor::new().unwrap();
        let (from, source) = pipe2(OFlag::O_NONBLOCK).unwrap();
        let full = std::fs::File::options().append(true).open("/dev/full").unwrap();
        let stream = Stream::new(from, full.into(), None);
        stream.start(&reactor).unwrap();
        let mut buffer = vec![0; BUFFER];
        for _ in 0..3 {
            write(&source, b"said").unwrap();
            assert!(!stream.flow(&reactor, &mut buffer));
        }
        drop(source);
        assert!(stream.flow(&reactor, &mut buffer));
    }

    #[test]
    fn bytes_flow_in_order_and_wait_for_room() {
        let reactor = Reactor::new().unwrap();
        let (from, source) = pipe2(OFlag::O_NONBLOCK).unwrap();
        let (sink, to) = pipe2(OFlag::O_NONBLOCK).unwrap();
        let stream = Stream::new(from, to, None);
        stream.start(&reactor).unwrap();
        let sent: Vec<u8> = (0..1_000_000u32).map(|number| number as u8 ^ (number >> 8) as u8).collect();
        let (mut written, mut got, mut buffer, mut part) = (0, Vec::new(), vec![0; BUFFER], vec![0; 10_000]);
        let mut source = Some(source);
        while !stream.has_ended() {
            if let Some(fd) = &source {
                match write(fd, &sent[written..]) {
                    Ok(count) => written += count,
                    Err(errno) => assert_eq!(errno, Errno::EAGAIN),
                }
                if written == sent.len() {
                    source = None;
                }
            }
            for (_, handler) in reactor.wait(Some(std::time::Duration::ZERO)).unwrap() {
                let Handler::Stream(stream) = handler else { panic!() };
                stream.flow(&reactor, &mut buffer);
            }
            if let Ok(count) = read(&sink, &mut part) {
                got.extend_from_slice(&part[..count]);
            }
        }
        while let Ok(count @ 1..) = read(&sink, &mut part) {
            got.extend_from_slice(&part[..count]);
        }
        assert!(got == sent);
    }
}
