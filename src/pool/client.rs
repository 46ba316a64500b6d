//! Who asks.

use crate::container::pid_file;
use crate::container::state::Store;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::request::{self, Outcome, Request, answer};
use crate::sys::{own, process, socket};
use nix::errno::Errno;
use std::ffi::CString;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What is wanted of a pool, besides containers.
#[derive(Debug, Clone, Copy)]
pub enum Wish<'a> {
    /// To hear what there is, as JSON.
    Status,
    /// So many parts of a bundle.
    Fill(&'a Path, usize),
    /// No more parts of a bundle.
    Drain(&'a Path),
}

/// A container that is wanted of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The bundle.
    pub bundle: &'a Path,
    /// Where it is to be recorded.
    pub store: &'a Store,
    /// Its id; `None` for any.
    pub id: Option<&'a str>,
    /// Whether nobody waits for its end.
    pub detached: bool,
    /// Where its pid is to be written.
    pub pid_file: Option<&'a Path>,
}

/// What came of wanting a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// It has ended, or has been started and nobody waits: the exit code to end with.
    Done(i32),
    /// There is none, and why.
    Nothing(String),
}

/// Has the pool that listens on `socket` start a container, and waits for its end unless it is detached.
///
/// # Errors
/// A container that was started and cannot be followed.
pub fn run(socket: &Path, wanted: &Wanted<'_>) -> Result<Got> {
    let nothing = |why: &str| Ok(Got::Nothing(why.to_owned()));
    let Ok(bundle) = CString::new(wanted.bundle.as_os_str().as_bytes()) else { return nothing("no such bundle") };
    let signal_mask = process::set_signal_mask(u64::MAX).doing(|| "block signals")?;
    let asked = request::ask(&Request {
        socket: socket.as_os_str().as_bytes(),
        kind: request::RUN,
        flags: if wanted.detached { request::DETACHED } else { 0 },
        count: 0,
        root: wanted.store.root().as_os_str().as_bytes(),
        id: wanted.id.unwrap_or_default().as_bytes(),
        bundle: &bundle,
        signal_mask,
    });
    let got = asked.map_or_else(|errno| nothing(errno.desc()), |answers| see_through(&own(answers), wanted));
    // Whoever runs next in this process wants to be told of signals.
    process::set_signal_mask(signal_mask).doing(|| "unblock signals")?;
    got
}

fn see_through(answers: &OwnedFd, wanted: &Wanted<'_>) -> Result<Got> {
    let mut text = vec![0; request::ANSWER];
    let (count, pidfd) = socket::receive_fd(answers.as_raw_fd(), &mut text).unwrap_or_default();
    let pidfd = pidfd.map(own);
    let text = text.get(..count).unwrap_or_default();
    let Some((pidfd, pid)) = pidfd.zip(text.get(1..5).and_then(|pid| pid.try_into().ok())) else {
        let why = String::from_utf8_lossy(text.get(1..).unwrap_or_default()).into_owned();
        return Ok(Got::Nothing(if why.is_empty() { "the pool has ended".to_owned() } else { why }));
    };
    if let Some(path) = wanted.pid_file {
        pid_file::write(path, i32::from_ne_bytes(pid)).inspect_err(|_| {
            let _ = process::pidfd_send_signal(pidfd.as_raw_fd(), libc::SIGKILL);
        })?;
    }
    if wanted.detached {
        return Ok(Got::Done(0));
    }
    match request::follow(answers.as_raw_fd(), pidfd.into_raw_fd()) {
        Outcome::Ended(code) => Ok(Got::Done(code)),
        Outcome::Cold => Ok(Got::Nothing("the program could not be executed".to_owned())),
        Outcome::Lost => {
            let problem = "the pool has ended, and with it the knowledge of how the container ends: see state";
            Err(Error::new(Kind::System, problem))
        }
    }
}

/// Asks the pool that listens on `socket`; its answer.
///
/// # Errors
/// No pool, or one that cannot.
pub fn ask(socket: &Path, wish: Wish<'_>) -> Result<String> {
    let (kind, bundle, count) = match wish {
        Wish::Status => (request::STATUS, Path::new("/"), 0),
        Wish::Fill(bundle, count) => (request::FILL, bundle, u32::try_from(count).unwrap_or(u32::MAX)),
        Wish::Drain(bundle) => (request::DRAIN, bundle, 0),
    };
    let path = CString::new(bundle.as_os_str().as_bytes())
        .map_err(|_| Error::new(Kind::Usage, "the path of a bundle has a NUL byte in it"))?;
    let asked = request::ask(&Request {
        socket: socket.as_os_str().as_bytes(),
        kind,
        flags: 0,
        count,
        root: b"",
        id: b"",
        bundle: &path,
        signal_mask: 0,
    });
    let answers = match asked {
        Err(Errno::ENOENT | Errno::ECONNREFUSED) if !socket.exists() || asked == Err(Errno::ECONNREFUSED) => {
            let problem = format!("no pool listens on {}: start one with pool serve", socket.display());
            return Err(Error::new(Kind::WrongState, problem));
        }
        asked => own(asked.doing(|| format!("ask the pool for {}", bundle.display()))?),
    };
    let mut text = vec![0; request::ANSWER];
    let (count, _) = socket::receive_fd(answers.as_raw_fd(), &mut text).doing(|| "hear the pool's answer")?;
    let words = |from: usize| String::from_utf8_lossy(text.get(from..count).unwrap_or_default()).into_owned();
    match text.first() {
        Some(&answer::DONE) if count > 0 => Ok(words(1)),
        _ if count > 0 => Err(Error::new(Kind::WrongState, words(1))),
        _ => Err(Error::new(Kind::WrongState, "the pool ended before it answered")),
    }
}
