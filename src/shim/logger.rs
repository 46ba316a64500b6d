//! A program that gets what a container writes (containerd's `binary://` URIs): stdout on descriptor 3, stderr on 4, and
//! on 5 a pipe by which it says that it listens.

use super::io::Owner;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::{fs as sys_fs, process};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// How long a program may take to say that it listens, and later to end, as long as runc's shim waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// A logger that runs. Like any other child that nobody waits for it is reaped by the main thread.
#[derive(Debug)]
pub(super) struct Logger {
    pidfd: OwnedFd,
}

/// A logger that is named by a URI.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    program: String,
    arguments: Vec<String>,
}

impl Logger {
    /// The logger that `uri` names, if it is one.
    pub fn named(uri: &str) -> Option<Named> {
        let rest = uri.strip_prefix("binary://")?;
        let (program, query) = rest.split_once('?').unwrap_or((rest, ""));
        let words = query.split('&').filter(|pair| !pair.is_empty()).flat_map(|pair| match pair.split_once('=') {
            Some((key, value)) => vec![unescape(key), unescape(value)],
            None => vec![unescape(pair), String::new()],
        });
        let arguments = words.filter(|word| !word.is_empty()).collect();
        Some(Named { program: unescape(program), arguments })
    }

    /// It has nothing more to read. Whether it ends is looked after meanwhile.
    pub fn end(self) {
        let ended = move |pidfd: RawFd| process::ends_within(pidfd, PATIENCE).unwrap_or(false);
        let wait = move || {
            for signal in [libc::SIGTERM, libc::SIGKILL] {
                if ended(self.pidfd.as_raw_fd()) {
                    break;
                }
                let _ = process::pidfd_send_signal(self.pidfd.as_raw_fd(), signal);
            }
        };
        // Without a thread it ends when it likes.
        let _ = thread::Builder::new().stack_size(64 * 1024).spawn(wait);
    }
}

impl Named {
    /// Starts it: the logger, and where stdout and stderr are written to.
    ///
    /// # Errors
    /// A program that cannot be executed, or that does not say that it listens.
    pub fn start(&self, owner: &Owner<'_>) -> Result<(Logger, [OwnedFd; 2])> {
        let doing = || format!("start the logger {}", self.program);
        let pipe = || pipe2(OFlag::O_CLOEXEC).doing(doing);
        let ((stdout, out), (stderr, err), (ready, says)) = (pipe()?, pipe()?, pipe()?);
        let given = [far(&stdout).doing(doing)?, far(&stderr).doing(doing)?, far(&says).doing(doing)?];
        let numbers = given.each_ref().map(AsRawFd::as_raw_fd);
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env("CONTAINER_ID", owner.id).env("CONTAINER_NAMESPACE", owner.namespace);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        process::before_exec(&mut command, move || {
            numbers.iter().zip(3..).try_for_each(|(from, to): (&RawFd, RawFd)| sys_fs::dup_onto(*from, to))
        });
        let child = command.spawn().doing(doing)?;
        drop((given, stdout, stderr, says));
        let logger = Logger { pidfd: crate::sys::pidfd::open(child.id().cast_signed()).doing(doing)? };
        let mut fds = [libc::pollfd { fd: ready.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        // It says a byte, or closes the pipe.
        if sys_fs::retry(|| process::poll(&mut fds, Some(PATIENCE))).doing(doing)? == 0 {
            let _ = process::pidfd_send_signal(logger.pidfd.as_raw_fd(), libc::SIGKILL);
            let problem =
                format!("the logger {} does not say that it listens: it should close descriptor 5", self.program);
            return Err(Error::new(Kind::System, problem));
        }
        Ok((logger, [out, err]))
    }
}

/// A copy with a number that is out of the way of 3 to 5.
fn far(fd: &OwnedFd) -> nix::Result<OwnedFd> {
    fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(16)).map(crate::sys::own)
}

/// Percent signs and two digits stand for bytes in a URI.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).filter(|_| *first == b'%').and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_a_program_and_its_arguments() {
        let named = Logger::named("binary:///usr/bin/log%20ger?--id=a%2Fb&-v").unwrap();
        assert_eq!(named.program, "/usr/bin/log ger");
        assert_eq!(named.arguments, ["--id", "a/b", "-v"]);
        assert_eq!(Logger::named("/run/fifo"), None);
        assert_eq!(Logger::named("binary:///x").unwrap().arguments, [""; 0]);
    }
}
