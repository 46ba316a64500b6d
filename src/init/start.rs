//! A created container waits for `start`.

use crate::sys::fs::{self, Sys};
use crate::sys::{process, signalfd, socket};
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

/// Listens on a bound socket, by which the container is created, and waits for `start` to connect and say [`GO`]; the
/// connection.
///
/// A signal that would end the process ends it: the first process of a pid namespace is spared by the kernel
/// (pid_namespaces(7)), and all signals are blocked until exec, but who created a container can change his mind.
pub fn await_start(listener: RawFd) -> Sys<RawFd> {
    socket::listen(listener)?;
    let deadly = HARMLESS.iter().fold(u64::MAX, |mask, signal| mask & !(1 << (signal - 1)));
    let signals = signalfd::open(deadly)?;
    let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut fds = [watch(listener), watch(signals)];
    loop {
        fs::retry(|| process::poll(&mut fds, None))?;
        let [start, signal] = fds.map(|fd| fd.revents != 0);
        if signal {
            process::exit(128 + signalfd::next(signals)?);
        }
        if start {
            let connection = socket::accept(listener)?;
            let mut word = [0u8];
            if fs::read(connection, &mut word) == Ok(1) && word == [GO] {
                fs::close(signals);
                return Ok(connection);
            }
            fs::close(connection);
        }
    }
}
