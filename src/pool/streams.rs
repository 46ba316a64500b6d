//! What a container gets for stdin, stdout and stderr.
//!
//! Those that are /dev/null become the container's own one, as in a cold start. A sandbox cannot open it any more when it gets them, for its filter may be
//! in force by then: so it has it open while it waits, and here it is fetched from there and sent back in its place. Where that cannot be, it is one
//! that is nobody's.

use crate::init::{NULL_OF_SANDBOX, null_of_nobody};
use crate::sys::fs;
use crate::sys::{own, process};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// What came to be stdin, stdout and stderr.
#[derive(Debug)]
pub struct Streams {
    streams: Vec<Stream>,
    /// They stay open as long as this is there.
    _came: Vec<OwnedFd>,
}

impl Streams {
    /// Looks at each once.
    pub fn of(fds: Vec<OwnedFd>) -> Self {
        Self { streams: fds.iter().map(|fd| Stream::of(fd.as_raw_fd())).collect(), _came: fds }
    }

    /// Whether one may be a socket.
    pub fn have_socket(&self) -> bool {
        self.streams.iter().any(|stream| stream.may_be_socket)
    }

    /// Those that may be given to a user: all but devices, which are the host's.
    pub fn owned(&self) -> impl Iterator<Item = RawFd> {
        self.streams.iter().filter(|stream| !stream.is_device).map(|stream| stream.fd)
    }

    /// What the waiting sandbox gets for them.
    pub fn lend(&self, sandbox: &OwnedFd) -> Lent {
        Lent::of(&self.streams, sandbox)
    }
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    fd: RawFd,
    /// Whether it may be a socket.
    pub may_be_socket: bool,
    /// Whether it is /dev/null.
    is_null: bool,
    /// Whether it is that or another device.
    is_device: bool,
}

impl Stream {
    /// Looks at the open file `fd`.
    pub fn of(fd: RawFd) -> Self {
        let about = fs::stat(fd);
        let is_null = about.is_ok_and(|about| fs::is_null(&about));
        let is_device = about.is_ok_and(|about| fs::is_device(&about));
        let may_be_socket = about.map_or(true, |about| about.st_mode & libc::S_IFMT == libc::S_IFSOCK);
        Self { fd, may_be_socket, is_null, is_device }
    }
}

/// What a sandbox gets.
#[derive(Debug)]
pub struct Lent {
    /// What is to be sent.
    pub fds: Vec<RawFd>,
    _null: Option<OwnedFd>,
}

impl Lent {
    /// For `streams`; `sandbox` is the pidfd of one that waits.
    pub fn of(streams: &[Stream], sandbox: &OwnedFd) -> Self {
        let own = if streams.iter().any(|stream| stream.is_null) { null_of(sandbox) } else { None };
        let instead = || own.as_ref().or_else(|| lent_null()).map(AsRawFd::as_raw_fd);
        let sent = |stream: &Stream| if stream.is_null { instead().unwrap_or(stream.fd) } else { stream.fd };
        Self { fds: streams.iter().map(sent).collect(), _null: own }
    }
}

/// The null device that the sandbox has open.
fn null_of(sandbox: &OwnedFd) -> Option<OwnedFd> {
    let null = own(process::pidfd_getfd(sandbox.as_raw_fd(), NULL_OF_SANDBOX).ok()?);
    fs::stat(null.as_raw_fd()).is_ok_and(|about| fs::is_null(&about)).then_some(null)
}

/// A null device that is nobody's. None where it cannot be made: without rights.
fn lent_null() -> Option<&'static OwnedFd> {
    static NULL: OnceLock<Option<OwnedFd>> = OnceLock::new();
    NULL.get_or_init(|| null_of_nobody().map(own).ok()).as_ref()
}
