//! `start`: the word that a created init waits for.
//!
//! Init listens on `start.sock` in the container's directory until somebody connects and says [`GO`]. It keeps that
//! connection and executes the program, at which the connection is closed. So `start` sees the end of the file when the
//! program runs, and init's sentence when it does not. A second `start` finds nobody who accepts; and whoever wants to
//! know whether init waits connects and says nothing, so that it does not matter when a `start` is killed.

use super::gates;
use super::notify::Proxy;
use super::state::Status;
use super::store::{Entry, Store};
use super::{host, launch};
use crate::error::{Doing, Error, Kind, Result};
use crate::init::{GO, GOING};
use crate::spec;
use crate::sys::clone::Child;
use crate::sys::{fs as sys_fs, process};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// How long an init that has failed may take to end.
const ENDING: Duration = Duration::from_secs(10);
/// How long an init that has ended is given to be reaped, for its parent may have no mind to.
const UNREAPED: Duration = Duration::from_millis(200);
/// Nothing tells when it has been.
const TICK: Duration = Duration::from_millis(1);

/// The socket on which init will listen. Until it does, at the end of its Plan, the container is not created yet.
pub(super) fn make_socket(entry: &Entry) -> Result<OwnedFd> {
    let bound = short(entry, |path| {
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // The file gets the mode of the socket, less the umask, which is the caller's and may be 0: nobody else shall say the word.
        sys_fs::chmod(listener.as_raw_fd(), 0o600)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&path)?)?;
        Ok(listener)
    });
    bound.doing(|| format!("make the socket {}", entry.start_socket().display()))
}

/// A socket's path has room for 107 bytes, an id may have 1024: so the directory is named by a descriptor.
fn short<T>(entry: &Entry, call: impl Fn(PathBuf) -> std::io::Result<T>) -> std::io::Result<T> {
    let directory = fs::File::open(entry.path())?;
    call(PathBuf::from(format!("/proc/self/fd/{}/start.sock", directory.as_raw_fd())))
}

/// Whether init waits for [`start`].
pub(super) fn is_awaited(entry: &Entry) -> bool {
    let connected = short(entry, |path| {
        // A frozen init does not accept: nobody must wait for it.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        Ok(connect(socket.as_raw_fd(), &UnixAddr::new(&path)?)?)
    });
    match connected {
        Ok(()) => true,
        Err(error) => error.raw_os_error() == Some(libc::EAGAIN),
    }
}

/// Starts the created container `id`. With `notify`, the service manager's address, it returns when the container is
/// ready or has ended.
///
/// # Errors
/// A container that is not waiting, a failing hook, a program that cannot be executed.
pub fn start(store: &Store, id: &str, notify: Option<&OsStr>) -> Result<()> {
    let entry = store.find(id)?;
    let state = entry.load()?;
    let (status, init) = entry.status(Some(&state))?;
    let (Status::Created, Some(init)) = (status, init) else { return Err(not_created(status)) };
    // While it waits: once it has the word it may end, and be reaped, at any moment.
    let pidfd = init.open()?.ok_or_else(|| not_created(Status::Stopped))?;
    let loaded = spec::load_file(&entry.config());
    let loaded = loaded.map_err(|error| init.or_ended(error, || not_created(Status::Stopped)))?;
    // `create` has told what there is to warn of.
    let filter = host::seccomp(loaded.seccomp.as_ref(), store.root(), &mut Vec::new())?;
    let waiting = gates::Context {
        spec: &loaded.spec,
        listener: filter.as_ref().and_then(|filter| filter.listener.as_ref()),
        state: &state,
        child: Child { pid: init.pid, pidfd: pidfd.as_raw_fd() },
        joins: None,
        devices: None,
    };
    go(&entry, &waiting, notify)
}

/// As [`start`], for an init of which all is known.
pub(super) fn go(entry: &Entry, waiting: &gates::Context<'_>, notify: Option<&OsStr>) -> Result<()> {
    let gates::Context { spec, state, child, .. } = *waiting;
    let stream = match short(entry, UnixStream::connect) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::ENOENT)) => {
            return Err(not_created(entry.status(Some(state))?.0));
        }
        stream => stream.doing(|| format!("connect to {}", entry.start_socket().display()))?,
    };
    let notify = notify.and_then(|manager| Proxy::bind(entry, manager).transpose()).transpose()?;
    say_go(&stream)?;
    // Nobody answers there any more.
    let _ = fs::remove_file(entry.start_socket());
    let poststart = || {
        launch::poststart(spec, state, child.pid).inspect_err(|_| {
            let _ = process::pidfd_send_signal(child.pidfd, libc::SIGKILL);
        })
    };
    if let Err(error) = gates::serve(waiting, stream.as_raw_fd()).and_then(|_| poststart()) {
        // If init is at a gate still, it ends when nobody answers.
        drop(stream);
        await_end(child);
        return Err(error);
    }
    if let Some(notify) = notify {
        notify.forward(child.pidfd, child.pid.unsigned_abs());
    }
    Ok(())
}

/// Waits until an init that cannot go on is no process any more. An engine that hears of the failure deletes the container at once, once,
/// and Docker's shim refuses to while it believes that init is there.
fn await_end(child: Child) {
    let _ = process::ends_within(child.pidfd, ENDING);
    let reaped = || process::pidfd_send_signal(child.pidfd, 0) == Err(Errno::ESRCH);
    let deadline = Instant::now() + UNREAPED;
    while !reaped() && Instant::now() < deadline {
        thread::sleep(TICK);
    }
}

fn not_created(status: Status) -> Error {
    let problem = match status {
        Status::Stopped => "cannot start a container that has stopped",
        Status::Creating => "cannot start a container that is still being created: wait for that",
        Status::Paused => "cannot start a container in the paused state: resume it first",
        _ => "cannot start an already running container",
    };
    Error::new(Kind::WrongState, problem)
}

/// Says [`GO`], and hears whether init goes.
fn say_go(mut stream: &UnixStream) -> Result<()> {
    let mut answer = [0u8];
    match stream.write_all(&[GO]).and_then(|()| stream.read_exact(&mut answer)) {
        Ok(()) if answer == [GOING] => Ok(()),
        Ok(()) => Err(Error::new(Kind::System, format!("init answered {answer:?}, which means nothing"))),
        // Another `start` was first, or init was killed.
        Err(_) => Err(Error::new(
            Kind::WrongState,
            "cannot start the container: another start was first, or its init was killed: see its state",
        )),
    }
}
