//! A created container waits for `start`.

use crate::sys::fs::{self, Sys};
use crate::sys::{process, signalfd, socket};
use std::os::fd::RawFd;

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

/// Waits for `start` to connect; the connection.
///
/// A signal that would end the process ends it: the first process of a pid namespace is spared by the kernel
/// (pid_namespaces(7)), and all signals are blocked until exec, but who created a container can change his mind.
pub fn await_start(listener: RawFd) -> Sys<RawFd> {
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
            fs::close(signals);
            return socket::accept(listener);
        }
    }
}
