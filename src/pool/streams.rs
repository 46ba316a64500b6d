//! What a container gets for stdin, stdout and stderr.

use nix::sys::stat::fstat;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// What is to be stdin, stdout and stderr.
#[derive(Debug)]
pub struct Streams {
    /// In this order.
    pub fds: Vec<OwnedFd>,
    /// Whether one may be a socket.
    pub have_socket: bool,
    /// Those that are not /dev/null, which is nobody's.
    pub owned: Vec<RawFd>,
}

impl Streams {
    /// Looks at each once.
    pub fn of(fds: Vec<OwnedFd>) -> Self {
        let (mut have_socket, mut owned) = (false, Vec::new());
        for fd in &fds {
            let about = fstat(fd).ok();
            let kind = about.map(|about| (about.st_mode & libc::S_IFMT, about.st_rdev));
            have_socket |= kind.is_none_or(|(kind, _)| kind == libc::S_IFSOCK);
            if kind != Some((libc::S_IFCHR, libc::makedev(1, 3))) {
                owned.push(fd.as_raw_fd());
            }
        }
        Self { fds, have_socket, owned }
    }
}
