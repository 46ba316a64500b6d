//! `start`: the word that a created init waits for.
//!
//! Init listens on `start.sock` in the container's directory. The first connection is the word; init keeps it and
//! executes the program, at which the connection is closed. So `start` sees the end of the file when the program runs,
//! and init's sentence when it does not. A second `start` finds nobody who accepts.

use super::gates;
use super::state::{Entry, Status, Store};
use super::{host, launch};
use crate::error::{Doing, Error, Kind, Result};
use crate::spec;
use crate::sys::clone::Child;
use crate::sys::{own as sys_own, process};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

/// The socket on which init will wait.
pub(super) fn listen(entry: &Entry) -> Result<OwnedFd> {
    let path = entry.start_socket();
    let listener = short(entry, UnixListener::bind);
    listener.map(OwnedFd::from).doing(|| format!("listen on {}", path.display()))
}

/// A socket's path has room for 107 bytes, an id may have 1024: so the directory is named by a descriptor.
fn short<T>(entry: &Entry, call: impl Fn(PathBuf) -> std::io::Result<T>) -> std::io::Result<T> {
    let directory = fs::File::open(entry.path())?;
    call(PathBuf::from(format!("/proc/self/fd/{}/start.sock", directory.as_raw_fd())))
}

/// Starts the created container `id`.
///
/// # Errors
/// A container that is not waiting, a failing hook, a program that cannot be executed.
pub fn start(store: &Store, id: &str) -> Result<()> {
    let entry = store.find(id)?;
    let state = entry.load()?;
    let (status, init) = entry.status(Some(&state))?;
    let (Status::Created, Some(init)) = (status, init) else {
        let problem = match status {
            Status::Stopped => "cannot start a container that has stopped",
            _ => "cannot start an already running container",
        };
        return Err(Error::new(Kind::WrongState, problem));
    };
    // While it waits: once it has the word it may end, and be reaped, at any moment.
    let pidfd = sys_own(process::pidfd_open(init.pid).doing(|| format!("open process {}", init.pid))?);
    let stream = match short(&entry, UnixStream::connect) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::ENOENT)) => {
            return Err(Error::new(Kind::WrongState, "cannot start an already running container"));
        }
        stream => stream.doing(|| format!("connect to {}", entry.start_socket().display()))?,
    };
    // From here on it counts as started: a second `start` must not wait for an init that will never accept again.
    let _ = fs::remove_file(entry.start_socket());
    let loaded = spec::load_file(&entry.config())?;
    let listener = match &loaded.seccomp {
        Some(profile) => host::seccomp(profile, store.root())?.filter.and_then(|filter| filter.listener),
        None => None,
    };
    let context = gates::Context {
        spec: &loaded.spec,
        listener: listener.as_ref(),
        state: &state,
        child: Child { pid: init.pid, pidfd: pidfd.as_raw_fd() },
    };
    gates::serve(&context, stream.as_raw_fd())?;
    launch::poststart(&loaded.spec, &state, init.pid).inspect_err(|_| {
        let _ = init.signal(libc::SIGKILL);
    })
}
