//! A created container waits for `start`.

use crate::sys::fs::{self, Sys};
use crate::sys::{process, signalfd, socket};
use nix::errno::Errno;
use std::os::fd::RawFd;

/// What `start` writes. Who connects and does not only asks whether init still waits.
pub const GO: u8 = b'g';
/// What init answers.
pub const GOING: u8 = b'a';

/// The signals that do not end a process that does nothing about them (signal(7)).
const HARMLESS: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGURG,
    libc::SIGWINCH,
];

/// How many connections on which nothing was said are kept; one more, and the oldest is closed.
const SILENT: usize = 16;

/// What [`await_start`] looks at: the listener, the signals, then connections on which nothing was said, the oldest first.
struct Watched {
    fds: [libc::pollfd; 2 + SILENT],
    /// How many there are: poll(2) refuses a longer list than the process may have descriptors, whatever is in it.
    used: usize,
}

impl Watched {
    /// The place of the oldest connection.
    const OLDEST: usize = 2;

    fn new(listener: RawFd, signals: RawFd) -> Self {
        let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [watch(-1); 2 + SILENT];
        fds[0] = watch(listener);
        fds[1] = watch(signals);
        Self { fds, used: Self::OLDEST }
    }

    fn wait(&mut self) -> Sys {
        fs::retry(|| process::poll(&mut self.fds[..self.used], None)).map(drop)
    }

    fn is_ready(&self, place: usize) -> bool {
        self.fds[place].revents != 0
    }

    /// Looks at the connection in `place` no longer.
    fn take(&mut self, place: usize) -> RawFd {
        let connection = self.fds[place].fd;
        self.fds.copy_within(place + 1..self.used, place);
        self.used -= 1;
        connection
    }

    /// Takes the next connection. If there is no room for it, or no descriptor (`process.rlimits`), the oldest is closed.
    fn accept(&mut self) -> Sys {
        if self.used == self.fds.len() {
            fs::close(self.take(Self::OLDEST));
        }
        let accepted = match socket::accept(self.fds[0].fd) {
            Err(Errno::EMFILE) if self.used > Self::OLDEST => {
                fs::close(self.take(Self::OLDEST));
                socket::accept(self.fds[0].fd)
            }
            accepted => accepted,
        };
        self.fds[self.used] = libc::pollfd { fd: accepted?, events: libc::POLLIN, revents: 0 };
        self.used += 1;
        Ok(())
    }

    /// Closes all but the listener.
    fn close(self) {
        self.fds[1..self.used].iter().for_each(|watched| fs::close(watched.fd));
    }
}

/// Waits on a listening socket for `start` to connect and say [`GO`]; the connection. Who connects and says nothing, for he
/// may have been stopped, keeps nobody else from being heard.
///
/// A signal that would end the process ends it: the first process of a pid namespace is spared by the kernel
/// (pid_namespaces(7)), and all signals are blocked until exec, but who created a container can change his mind.
pub fn await_start(listener: RawFd) -> Sys<RawFd> {
    let deadly = HARMLESS.iter().fold(u64::MAX, |mask, signal| mask & !(1 << (signal - 1)));
    let signals = signalfd::open(deadly)?;
    let mut watched = Watched::new(listener, signals);
    loop {
        watched.wait()?;
        if watched.is_ready(1) {
            process::exit(128 + signalfd::next(signals)?);
        }
        let mut place = Watched::OLDEST;
        while place < watched.used {
            if !watched.is_ready(place) {
                place += 1;
                continue;
            }
            let connection = watched.take(place);
            let mut word = [0u8];
            if fs::read(connection, &mut word) == Ok(1) && word == [GO] {
                watched.close();
                return Ok(connection);
            }
            fs::close(connection);
        }
        if watched.is_ready(0) {
            watched.accept()?;
        }
    }
}
