//! Who asks.

use crate::container::parts::Parts;
use crate::container::store::Store;
use crate::container::{console, manage, pid_file};
use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::sys::request::{self, Id, Outcome, Request, answer};
use crate::sys::{fs as sys_fs, own, process, socket};
use nix::errno::Errno;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long one waits until a pool says something. It does at once, unless it is overwhelmed.
const PATIENCE: Duration = Duration::from_secs(10);

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
    /// Whether parts of it are taken if there is no sandbox.
    pub parts: bool,
}

/// What came of wanting a container.
#[derive(Debug)]
pub enum Got {
    /// It has ended, or has been started and nobody waits: the exit code to end with.
    Done(i32),
    /// There is none, but parts for one.
    Parts(Arc<Parts>),
    /// There is none of this bundle, as it is, but perhaps parts for who asks for those.
    Unknown,
    /// There is none, and why.
    Nothing(String),
}

/// Has the pool that listens on `socket` start a container, and waits for its end unless it is detached.
///
/// # Errors
/// A container that was started and cannot be followed.
pub fn run(socket: &Path, wanted: &Wanted<'_>) -> Result<Got> {
    let nothing = |why: &str| Ok(Got::Nothing(why.to_owned()));
    let Ok(bundle) = sys_fs::c_path(wanted.bundle) else { return nothing("no such bundle") };
    // Who has no pool makes no other call than this.
    if let Err(errno) = request::look_at(socket) {
        return nothing(why_not(errno));
    }
    let signal_mask = process::set_signal_mask(u64::MAX).doing(|| "block signals")?;
    let asked = request::ask(&Request {
        flags: request::TERMINAL
            | if wanted.detached { request::DETACHED } else { 0 }
            | if wanted.parts { request::PARTS } else { 0 },
        root: wanted.store.root().as_os_str().as_bytes(),
        id: wanted.id.unwrap_or_default().as_bytes(),
        signal_mask,
        ..Request::new(socket.as_os_str().as_bytes(), request::RUN, &bundle)
    });
    let got = asked.map_or_else(|errno| nothing(why_not(errno)), |answers| see_through(own(answers), wanted));
    // Whoever runs next in this process wants to be told of signals.
    process::set_signal_mask(signal_mask).doing(|| "unblock signals")?;
    got
}

/// Why a pool cannot even be asked.
fn why_not(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT | Errno::ECONNREFUSED => "no pool listens",
        Errno::EACCES => "the pool belongs to another user",
        Errno::EAGAIN => "the pool is overwhelmed",
        Errno::EMSGSIZE => "--root or the id are too long",
        Errno::EBADF => "stdin, stdout or stderr is closed",
        Errno::EPERM => "this process may not gain privileges or has a seccomp filter, which the pool has not",
        Errno::ENOTDIR => "the bundle is not a directory",
        errno => errno.desc(),
    }
}

/// A container that a pool has started, or a sandbox that it has leased.
#[derive(Debug)]
pub(super) struct Started {
    /// The pid of its init.
    pub pid: i32,
    /// Its id.
    pub id: Vec<u8>,
    /// Its init.
    pub pidfd: OwnedFd,
    /// The terminal's master, or the lease.
    pub more: Option<OwnedFd>,
}

/// What a pool has instead of a container.
#[derive(Debug)]
pub(super) enum Instead {
    /// Parts of one, which come next.
    Parts,
    /// Nothing for this bundle.
    Unknown,
    /// Nothing, and why.
    Nothing(String),
}

impl Instead {
    /// As a sentence, for who wants nothing else than a container.
    pub fn why(self) -> String {
        match self {
            Self::Parts => "the pool has parts of one".to_owned(),
            Self::Unknown => "the pool does not know the bundle".to_owned(),
            Self::Nothing(why) => why,
        }
    }
}

/// Waits for the pool's first answer: what it has started, or what it has instead.
pub(super) fn hear_start(answers: &OwnedFd) -> Result<Started, Instead> {
    let nothing = |why: &str| Err(Instead::Nothing(why.to_owned()));
    let is_told = request::is_told(answers.as_raw_fd());
    if !is_told {
        // What has been answered by now counts, and nothing else: the pool cannot answer any more.
        socket::hang_up(answers.as_raw_fd());
    }
    let mut text = vec![0; request::ANSWER];
    let received = socket::receive_fds(answers.as_raw_fd(), &mut text);
    let (count, fds) = received.map(|received| (received.count, received.fds)).unwrap_or_default();
    let text = text.get(..count).unwrap_or_default();
    let mut fds = fds.into_iter();
    match (text.first(), text.get(1..5).and_then(|pid| pid.try_into().ok()), fds.next()) {
        (Some(&answer::STARTED), Some(pid), Some(pidfd)) => {
            let id = text.get(5..).unwrap_or_default().to_vec();
            Ok(Started { pid: i32::from_ne_bytes(pid), id, pidfd, more: fds.next() })
        }
        (Some(&answer::PARTS), ..) => Err(Instead::Parts),
        (Some(&answer::UNKNOWN), ..) => Err(Instead::Unknown),
        (Some(_), ..) if count > 1 => nothing(&String::from_utf8_lossy(text.get(1..).unwrap_or_default())),
        _ if is_told => nothing("the pool has ended"),
        _ => nothing("the pool does not answer"),
    }
}

fn see_through(answers: OwnedFd, wanted: &Wanted<'_>) -> Result<Got> {
    let Started { pid, id, pidfd, more: terminal } = match hear_start(&answers) {
        Ok(started) => started,
        Err(Instead::Parts) => {
            return Ok(receive(answers).map_or_else(|| Got::Nothing("the pool has ended".to_owned()), Got::Parts));
        }
        Err(Instead::Unknown) => return Ok(Got::Unknown),
        Err(Instead::Nothing(why)) => return Ok(Got::Nothing(why)),
    };
    let disown = || pid_file::remove(wanted.pid_file, pid);
    let give_up = |error| {
        let _ = process::pidfd_send_signal(pidfd.as_raw_fd(), libc::SIGKILL);
        remove_orphan(wanted.store, &id);
        disown().err().into_iter().fold(error, Error::and)
    };
    let written = wanted.pid_file.map_or(Ok(()), |path| pid_file::write(path, pid));
    if let Err(error) = written {
        return Err(give_up(error));
    }
    if wanted.detached {
        return Ok(Got::Done(0));
    }
    let outcome = match terminal {
        None => request::follow(answers.as_raw_fd(), pidfd.into_raw_fd(), &mut Id::new(), &mut [0; request::ANSWER]),
        Some(terminal) => console::relay(&terminal, pidfd.as_raw_fd(), answers.as_raw_fd(), |news| {
            Ok(request::end(news, pidfd.as_raw_fd()))
        })
        .map_err(give_up)?,
    };
    match outcome {
        Outcome::Ended(code) => Ok(Got::Done(code)),
        Outcome::Orphan(code) => {
            remove_orphan(wanted.store, &id);
            Ok(Got::Done(code))
        }
        Outcome::Cold | Outcome::Terminal | Outcome::Parts | Outcome::Unknown => {
            disown()?;
            Ok(Got::Nothing("its sandbox ended before the program was executed".to_owned()))
        }
        Outcome::Lost => {
            remove_orphan(wanted.store, &id);
            let problem = "the pool ended before the container, and this kernel does not tell how that ended";
            Err(Error::new(Kind::System, problem))
        }
    }
}

/// What the pool sends on `answers` as parts.
fn receive(answers: OwnedFd) -> Option<Arc<Parts>> {
    // Who gets none makes his own.
    Parts::receive(answers).inspect_err(|error| log::debug(|| error.to_string())).ok().map(Arc::new)
}

/// The parts that a pool was found to have before libc began.
pub fn given() -> Option<Arc<Parts>> {
    #[cfg(target_env = "musl")]
    return crate::sys::entry::take_parts().and_then(|answers| receive(own(answers)));
    #[cfg(not(target_env = "musl"))]
    None
}

/// Removes a container that has ended after its pool, or has nobody to wait for it.
pub fn remove_orphan(store: &Store, id: &[u8]) {
    let Ok(id) = str::from_utf8(id) else { return };
    match manage::delete(store, id, true, false) {
        Ok(warnings) => warnings.iter().for_each(log::warn),
        Err(error) => log::warn(error),
    }
}

/// Asks the pool that listens on `socket`; its answer.
///
/// # Errors
/// No pool, one that does not answer, or one that cannot.
pub fn ask(socket: &Path, wish: Wish<'_>) -> Result<String> {
    let (kind, bundle, count) = match wish {
        Wish::Status => (request::STATUS, Path::new("/"), 0),
        Wish::Fill(bundle, count) => (request::FILL, bundle, u32::try_from(count).unwrap_or(u32::MAX)),
        Wish::Drain(bundle) => (request::DRAIN, bundle, 0),
    };
    let path = sys_fs::c_path(bundle).doing(|| format!("look at {}", bundle.display()))?;
    let request = Request { count, ..Request::new(socket.as_os_str().as_bytes(), kind, &path) };
    let asked = request::look_at(socket).and_then(|()| request::ask(&request));
    let answers = match asked {
        Err(Errno::EACCES) => {
            let problem = format!("{} belongs to another user, who is not asked: see --socket", socket.display());
            return Err(Error::new(Kind::WrongState, problem));
        }
        Err(Errno::ENOENT | Errno::ECONNREFUSED) if !socket.exists() || asked == Err(Errno::ECONNREFUSED) => {
            let problem = format!("no pool listens on {}: start one with pool serve", socket.display());
            return Err(Error::new(Kind::WrongState, problem));
        }
        Err(Errno::EAGAIN) => return Err(silent(socket)),
        asked => own(asked.doing(|| format!("ask the pool for {}", bundle.display()))?),
    };
    let mut text = vec![0; request::ANSWER];
    let (mut kind, mut words) = (None, Vec::new());
    let mut is_taken_up = false;
    // A long answer comes in parts.
    loop {
        if !is_taken_up && !request::is_told_within(answers.as_raw_fd(), PATIENCE) {
            return Err(silent(socket));
        }
        let (count, _) = socket::receive_fd(answers.as_raw_fd(), &mut text).doing(|| "hear the pool's answer")?;
        let Some((first, rest)) = text.get(..count).and_then(<[u8]>::split_first) else { break };
        if *first == answer::WORKING {
            is_taken_up = true;
            continue;
        }
        kind = Some(*first);
        words.extend_from_slice(rest);
    }
    let words = String::from_utf8_lossy(&words).into_owned();
    match kind {
        Some(answer::DONE) => Ok(words),
        Some(_) => Err(Error::new(Kind::WrongState, words)),
        None => Err(Error::new(Kind::WrongState, "the pool ended before it answered")),
    }
}

/// A pool that does not say anything.
fn silent(socket: &Path) -> Error {
    let problem = format!(
        "the pool on {} does not answer: see whether it has been stopped, and what its log says, or end it and start another",
        socket.display()
    );
    Error::new(Kind::WrongState, problem)
}
