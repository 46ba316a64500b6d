//! What a container gets for stdin, stdout and stderr.
//!
//! A sandbox cannot open its own /dev/null in the place of the host's, as init does for others: its filter may be in force by then. So it
//! gets another one, on a file system that is read-only, where neither owner nor mode can be changed; a device can be written to there all
//! the same.

use crate::sys::fs::{self, Sys};
use crate::sys::mount;
use crate::sys::own;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// What is to be stdin, stdout and stderr.
#[derive(Debug)]
pub struct Streams {
    /// What is sent of them, in this order: numbers of those that came, or of one in the place of /dev/null.
    pub sent: Vec<RawFd>,
    /// Whether one may be a socket.
    pub have_socket: bool,
    /// Those that are not /dev/null, which is nobody's.
    pub owned: Vec<RawFd>,
    /// Those that came, which stay open as long as this is there.
    _came: Vec<OwnedFd>,
}

impl Streams {
    /// Looks at each once.
    pub fn of(fds: Vec<OwnedFd>) -> Self {
        let (mut sent, mut have_socket, mut owned) = (Vec::with_capacity(fds.len()), false, Vec::new());
        for fd in &fds {
            let stream = Stream::of(fd.as_raw_fd());
            have_socket |= stream.may_be_socket;
            if !stream.is_null {
                owned.push(fd.as_raw_fd());
            }
            sent.push(stream.sent);
        }
        Self { sent, have_socket, owned, _came: fds }
    }
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    /// What is sent of it.
    pub sent: RawFd,
    /// Whether it may be a socket.
    pub may_be_socket: bool,
    /// Whether it is /dev/null.
    pub is_null: bool,
}

impl Stream {
    /// Looks at the open file `fd`.
    pub fn of(fd: RawFd) -> Self {
        let about = fs::stat(fd);
        let is_null = about.is_ok_and(|about| fs::is_null(&about));
        let instead = if is_null { lent_null().map(AsRawFd::as_raw_fd) } else { None };
        let may_be_socket = about.map_or(true, |about| about.st_mode & libc::S_IFMT == libc::S_IFSOCK);
        Self { sent: instead.unwrap_or(fd), may_be_socket, is_null }
    }
}

/// A null device that is nobody's. None where it cannot be made: without rights.
fn lent_null() -> Option<&'static OwnedFd> {
    static NULL: OnceLock<Option<OwnedFd>> = OnceLock::new();
    NULL.get_or_init(|| open_lent_null().ok()).as_ref()
}

fn open_lent_null() -> Sys<OwnedFd> {
    let tmpfs = own(mount::fsopen(c"tmpfs")?);
    mount::fsconfig_create(tmpfs.as_raw_fd())?;
    let mount = own(mount::fsmount(tmpfs.as_raw_fd(), 0)?);
    let root = mount.as_raw_fd();
    // So it is called in /proc/self/fd, too.
    let path = c"dev/null";
    fs::mkdir(root, c"dev", 0o755)?;
    fs::mknod(root, path, libc::S_IFCHR, libc::makedev(1, 3))?;
    fs::chmod_at(root, path, 0o666)?;
    mount::fsconfig_set(tmpfs.as_raw_fd(), c"ro", None)?;
    mount::fsconfig_reconfigure(tmpfs.as_raw_fd())?;
    fs::open(root, path, libc::O_RDWR | libc::O_NOCTTY, 0).map(own)
}
