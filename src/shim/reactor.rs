//! What the main thread waits for: epoll(7), and who is told of what.

use super::stream::Stream;
use super::ttrpc::Connection;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Who is told that a descriptor is ready.
#[derive(Debug, Clone)]
pub(super) enum Handler {
    /// Somebody connects.
    Listener,
    /// The main thread is wanted.
    Wake,
    /// A child has ended.
    Children,
    /// Calls have come, or answers may go.
    Connection(Arc<Connection>),
    /// The same, for the connection to containerd's events service.
    Events,
    /// A process has ended: the container's id, and the id of an exec or nothing.
    Exit(String, String),
    /// A container may have run out of memory.
    Memory(String),
    /// A stream of a process goes on.
    Stream(Arc<Stream>),
}

/// The number under which a handler is known; never used twice.
pub(super) type Token = u64;

/// Descriptors and their handlers.
#[derive(Debug)]
pub(super) struct Reactor {
    epoll: Epoll,
    handlers: Mutex<Handlers>,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct Handlers {
    last: Token,
    all: HashMap<Token, Handler>,
}

impl Reactor {
    pub fn new() -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let reactor = Self { epoll, handlers: Mutex::default(), wake };
        reactor.add(&reactor.wake, EpollFlags::EPOLLIN, Handler::Wake)?;
        Ok(reactor)
    }

    /// A number for `handler`, which nothing is watched for yet.
    pub fn register(&self, handler: Handler) -> Token {
        let mut handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.last += 1;
        let token = handlers.last;
        handlers.all.insert(token, handler);
        token
    }

    /// Watches `fd` for `handler`.
    pub fn add(&self, fd: impl AsFd, flags: EpollFlags, handler: Handler) -> Result<Token, Errno> {
        let token = self.register(handler);
        match self.watch(fd, flags, token) {
            Ok(()) => Ok(token),
            Err(errno) => {
                self.forget(token);
                Err(errno)
            }
        }
    }

    /// Watches `fd`, or watches it again, for the handler that has `token`.
    pub fn watch(&self, fd: impl AsFd, flags: EpollFlags, token: Token) -> Result<(), Errno> {
        let mut event = EpollEvent::new(flags, token);
        match self.epoll.modify(&fd, &mut event) {
            Err(Errno::ENOENT) => self.epoll.add(&fd, event),
            watched => watched,
        }
    }

    /// Watches `fd` no longer.
    pub fn unwatch(&self, fd: impl AsFd) {
        // One that was not watched is as good.
        let _ = self.epoll.delete(fd);
    }

    /// Takes the handler out. Events that are on their way are for nobody.
    pub fn forget(&self, token: Token) {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner).all.remove(&token);
    }

    /// Makes the main thread look after things.
    pub fn wake(&self) {
        // It fails if nobody has looked for 2^64 times.
        let _ = self.wake.write(1);
    }

    /// Waits for the next events; with `patience`, no longer.
    pub fn wait(&self, patience: Option<Duration>) -> Result<Vec<(Token, Handler)>, Errno> {
        const EVENTS: usize = 32;
        let timeout = patience.map_or(EpollTimeout::NONE, |patience| {
            EpollTimeout::try_from(patience + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX)
        });
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, timeout) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let handler = |event: &EpollEvent| {
            let token = event.data();
            handlers.all.get(&token).map(|handler| (token, handler.clone()))
        };
        Ok(events.iter().take(count).filter_map(handler).collect())
    }

    /// After [`Handler::Wake`].
    pub fn woken(&self) {
        let _ = self.wake.read();
    }
}
