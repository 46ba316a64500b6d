//! The terminal of a container that runs in the foreground: bytes to and fro, sizes, signals.

use crate::error::{Doing, Result};
use crate::sys::clone::Child;
use crate::sys::process::{self, Exit};
use crate::sys::{fs, own, signalfd};
use nix::errno::Errno;
use nix::sys::termios::{self, OutputFlags, SetArg, Termios};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Our own terminal in raw mode but for the processing of output, put back when dropped.
///
/// The container's terminal leaves line ends alone, so that they reach a pipe as the program wrote them; ours makes them
/// what its screen needs.
struct Raw {
    before: Option<Termios>,
}

impl Raw {
    /// Puts stdin into raw mode if it is a terminal.
    fn new() -> Self {
        let before = termios::tcgetattr(std::io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            termios::cfmakeraw(&mut raw);
            raw.output_flags |= OutputFlags::OPOST;
            let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw);
        }
        Self { before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// Serves the terminal until init has ended and everything it wrote has been passed on. All signals must be blocked.
///
/// # Errors
/// What the kernel refuses.
pub(super) fn serve(child: Child, terminal: &OwnedFd) -> Result<Exit> {
    relay(terminal, child.pidfd, -1, |_| process::wait(child.pid, libc::WNOHANG).doing(|| "wait for the container"))
}

/// As [`serve`], for an init that may be somebody else's child. Whenever there is a SIGCHLD, or `news` is readable, `ended` says
/// how init has ended, if it has; it may look out for something else from then on. `news` is -1 if SIGCHLD is enough.
///
/// # Errors
/// What the kernel refuses, and what `ended` returns.
pub fn relay<T>(
    terminal: &OwnedFd,
    pidfd: RawFd,
    mut news: RawFd,
    mut ended: impl FnMut(&mut RawFd) -> Result<Option<T>>,
) -> Result<T> {
    let signals = own(signalfd::open(u64::MAX).doing(|| "make a descriptor for signals")?);
    let _raw = Raw::new();
    resize(terminal);
    let mut exit = None;
    let mut reading_stdin = true;
    let mut reading_terminal = true;
    let mut buffer = vec![0u8; 16 * 1024];
    loop {
        if let Some(exit) = exit.take_if(|_| !reading_terminal) {
            return Ok(exit);
        }
        let watch = |fd: RawFd, wanted: bool| libc::pollfd {
            fd: if wanted { fd } else { -1 },
            events: libc::POLLIN,
            revents: 0,
        };
        let mut fds = [
            watch(signals.as_raw_fd(), exit.is_none()),
            watch(terminal.as_raw_fd(), reading_terminal),
            watch(libc::STDIN_FILENO, reading_stdin && exit.is_none()),
            watch(news, exit.is_none() && news >= 0),
        ];
        match process::poll(&mut fds, None) {
            Err(Errno::EINTR) => continue,
            result => result.doing(|| "wait for the terminal")?,
        };
        let [signal, output, input, told] = fds.map(|fd| fd.revents != 0);
        if (signal && handle_signal(pidfd, terminal, &signals)?) || told {
            exit = ended(&mut news)?;
        }
        if output {
            // EIO: nobody has the other side open any more.
            reading_terminal = copy(terminal.as_raw_fd(), libc::STDOUT_FILENO, &mut buffer);
        }
        if input {
            reading_stdin = copy(libc::STDIN_FILENO, terminal.as_raw_fd(), &mut buffer);
        }
        if let Some(exit) = exit.take_if(|_| !output) {
            // Init is gone and nothing was waiting; what its children may still write is not waited for.
            return Ok(exit);
        }
    }
}

/// Passes on what is left in the terminal of a process that has ended.
pub(super) fn drain(terminal: &OwnedFd) {
    let mut buffer = vec![0u8; 4096];
    while copy(terminal.as_raw_fd(), libc::STDOUT_FILENO, &mut buffer) {}
}

/// Passes on what is there; whether more may come.
fn copy(from: RawFd, to: RawFd, buffer: &mut [u8]) -> bool {
    match fs::read(from, buffer) {
        Ok(0) | Err(_) => false,
        Ok(count) => fs::write(to, buffer.get(..count).unwrap_or_default()).is_ok(),
    }
}

/// Whether a child has ended.
fn handle_signal(pidfd: RawFd, terminal: &OwnedFd, signals: &OwnedFd) -> Result<bool> {
    match signalfd::next(signals.as_raw_fd()).doing(|| "read a signal")? {
        libc::SIGCHLD => return Ok(true),
        libc::SIGWINCH => resize(terminal),
        libc::SIGPIPE | libc::SIGURG => {}
        signal => {
            // An init that just ended is found out by its SIGCHLD.
            let _ = process::pidfd_send_signal(pidfd, signal);
        }
    }
    Ok(false)
}

/// Gives the container's terminal the size of ours, if we have one.
fn resize(terminal: &OwnedFd) {
    if let Some((rows, columns)) = fs::terminal_size(libc::STDIN_FILENO) {
        // A terminal without a size is still a terminal.
        let _ = fs::set_terminal_size(terminal.as_raw_fd(), rows, columns);
    }
}
