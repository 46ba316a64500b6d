//! A program that gets what a container writes (containerd's `binary://` and `binary-v2://` URIs): stdout on descriptor 3,
//! stderr on 4, and on 5 a pipe by which it says that it listens.

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
    /// Whether it says so by a byte (`binary-v2`, containerd 2.2): the first version may also close the pipe, as it does by dying.
    says_byte: bool,
}

impl Logger {
    /// The logger that `uri` names, if it is one.
    pub fn named(uri: &str) -> Option<Named> {
        let (scheme, rest) = uri.split_once("://")?;
        let says_byte = match scheme {
            "binary" => false,
            "binary-v2" => true,
            _ => return None,
        };
        let (program, query) = rest.split_once('?').unwrap_or((rest, ""));
        let words = query.split('&').filter(|pair| !pair.is_empty()).flat_map(|pair| match pair.split_once('=') {
            Some((key, value)) => vec![unescape(key), unescape(value)],
            None => vec![unescape(pair), String::new()],
        });
        let arguments = words.filter(|word| !word.is_empty()).collect();
        Some(Named { program: path_of(program), arguments, says_byte })
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
            return Err(self.is_silent("close descriptor 5"));
        }
        if self.says_byte && sys_fs::read(ready.as_raw_fd(), &mut [0]).doing(doing)? == 0 {
            return Err(self.is_silent("write a byte to descriptor 5 before it closes that, or use binary://"));
        }
        Ok((logger, [out, err]))
    }

    fn is_silent(&self, remedy: &str) -> Error {
        let problem = format!("the logger {} does not say that it listens: it should {remedy}", self.program);
        Error::new(Kind::System, problem)
    }
}

/// A copy with a number that is out of the way of 3 to 5.
fn far(fd: &OwnedFd) -> nix::Result<OwnedFd> {
    fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(16)).map(crate::sys::own)
}

/// The path of a URI, of which the scheme has been taken away.
pub(super) fn path_of(rest: &str) -> String {
    let path = rest.split_once('?').map_or(rest, |(path, _)| path);
    // A plus stands for a space in a query alone.
    unescape(&path.replace('+', "%2B"))
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
    fn a_logger_of_the_second_version_says_a_byte() {
        let owner = Owner { namespace: "n", id: "i", uid: 0, gid: 0 };
        let start = |scheme: &str, says: &str| {
            let uri = format!("{scheme}:///bin/sh?-c={says}");
            Logger::named(&uri).unwrap().start(&owner).map(|(logger, _)| logger.end())
        };
        start("binary-v2", "echo%20%3E%265").unwrap();
        start("binary", "true").unwrap();
        let refused = start("binary-v2", "true").unwrap_err().to_string();
        assert!(refused.starts_with("the logger /bin/sh does not say that it listens"), "{refused}");
    }

    #[test]
    fn a_uri_names_a_program_and_its_arguments() {
        let named = Logger::named("binary:///usr/bin/log%20ger?--id=a%2Fb&-v").unwrap();
        assert_eq!(named.program, "/usr/bin/log ger");
        assert_eq!(named.arguments, ["--id", "a/b", "-v"]);
        assert!(!named.says_byte);
        let second = Logger::named("binary-v2:///usr/bin/g++").unwrap();
        assert!(second.says_byte && second.program == "/usr/bin/g++");
        assert_eq!(Logger::named("/run/fifo"), None);
        assert_eq!(Logger::named("file:///x"), None);
        assert_eq!(Logger::named("binary:///x").unwrap().arguments, [""; 0]);
    }
}
