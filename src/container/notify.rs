//! sd_notify(3): what a container says to the service manager that started the runtime.
//!
//! A service manager names a socket in `$NOTIFY_SOCKET`. The container gets one of its own instead, as in runc:
//!
//! ```text
//! program ─READY=1─▶ /run/notify/notify.sock ─▶ <root>/<id>/notify/notify.sock ─runtime─▶ $NOTIFY_SOCKET
//! ```
//!
//! The runtime passes on that the container is ready, who its main process is, and nothing else: what a container says
//! is not to be trusted with the rest of the protocol. Then its part is over. Who listens is who executes the program:
//! `run`, or `start` after `create`.

use super::store::Entry;
use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::sys::{process, socket};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use oci_spec::runtime::{Mount, Spec};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The variable.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// The directory in the container.
const INSIDE: &str = "/run/notify";
/// The directory in that of the container's state.
const DIRECTORY: &str = "notify";
/// The socket in both.
const SOCKET: &str = "notify.sock";
/// The longest message that is looked at; systemd's own limit.
const MESSAGE_BYTES: usize = 4096;
/// How long a service manager may take to have read what it was sent, as long as runc waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// The service manager's address, if there is one.
pub fn address_in_environment() -> Option<OsString> {
    std::env::var_os(VARIABLE).filter(|address| !address.is_empty())
}

/// Gives the container with the state directory `state` the mount and the variable.
pub(super) fn add_to(spec: &mut Spec, state: &Path) {
    let mut mount = Mount::default();
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned);
    mount.set_destination(INSIDE.into()).set_typ(None).set_source(Some(state.join(DIRECTORY)));
    mount.set_options(Some(options.into()));
    spec.mounts_mut().get_or_insert_default().push(mount);
    if let Some(process) = spec.process_mut() {
        process.env_mut().get_or_insert_default().push(format!("{VARIABLE}={INSIDE}/{SOCKET}"));
    }
}

/// Makes the directory that is mounted.
///
/// # Errors
/// What the file system says.
pub(super) fn make_directory(entry: &Entry) -> Result<()> {
    let path = entry.path().join(DIRECTORY);
    let made = DirBuilder::new().mode(0o755).create(&path);
    // Whatever the umask: the container's user has to get through.
    let made = made.and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)));
    made.doing(|| format!("{VARIABLE}: make the directory {}", path.display()))
}

/// Where that directory is mounted in the container, and the directory, if there is one.
pub(super) fn mount(entry: &Entry) -> Option<(PathBuf, PathBuf)> {
    let directory = entry.path().join(DIRECTORY);
    directory.exists().then(|| (INSIDE.into(), directory))
}

/// The container's socket, and the service manager's address.
#[derive(Debug)]
pub(super) struct Proxy {
    socket: UnixDatagram,
    manager: OsString,
}

impl Proxy {
    /// Binds the socket of the container, for the service manager at `manager`. `None` if the container was created
    /// without one, or if another `start` was first.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn bind(entry: &Entry, manager: &OsStr) -> Result<Option<Self>> {
        let doing = || format!("{VARIABLE}: make a socket in {}", entry.path().join(DIRECTORY).display());
        let directory = match fs::File::open(entry.path().join(DIRECTORY)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            directory => directory.doing(doing)?,
        };
        // A socket's path has room for 107 bytes, an id may have 1024.
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
        let socket = match UnixDatagram::bind(&path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(None),
            socket => socket.doing(doing)?,
        };
        // Who may write to it may connect to it: the container's user, whoever that is.
        fs::set_permissions(&path, Permissions::from_mode(0o777)).doing(doing)?;
        Ok(Some(Self { socket, manager: manager.to_owned() }))
    }

    /// Waits until the container says that it is ready, and passes that on with `main` as its main process; or until the
    /// process of `pidfd` ends. The container runs in any case, so a service manager that cannot be told is a warning.
    pub(super) fn forward(&self, pidfd: RawFd, main: u32) {
        if let Err(error) = self.wait(pidfd).and_then(|ready| ready.map_or(Ok(()), |line| self.tell(&line, main))) {
            log::warn(&error);
        }
    }

    /// As [`Proxy::forward`], while the caller does something else and leaves the descriptor open.
    pub(super) fn forward_meanwhile(self, pidfd: RawFd, main: u32) -> Option<JoinHandle<()>> {
        let thread = thread::Builder::new().spawn(move || self.forward(pidfd, main));
        let thread = thread.doing(|| format!("{VARIABLE}: listen to the container"));
        thread.inspect_err(|error| log::warn(error)).ok()
    }

    /// The line that says that the container is ready; `None` if it ended before.
    fn wait(&self, pidfd: RawFd) -> Result<Option<Vec<u8>>> {
        let doing = || format!("{VARIABLE}: listen to the container");
        let mut message = [0u8; MESSAGE_BYTES];
        loop {
            let mut fds =
                [self.socket.as_raw_fd(), pidfd].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
            match process::poll(&mut fds, None) {
                Err(Errno::EINTR) => continue,
                polled => polled.doing(doing)?,
            };
            // What was said last, too.
            if fds[0].revents == 0 {
                return Ok(None);
            }
            let count = self.socket.recv(&mut message).doing(doing)?;
            let mut lines = message.get(..count).unwrap_or_default().split(|byte| *byte == b'\n');
            if let Some(line) = lines.find(|line| line.starts_with(b"READY=")) {
                return Ok(Some(line.to_owned()));
            }
        }
    }

    /// Tells the service manager, and waits until it has read it: it finds out who told by this process, which may end
    /// then (sd_notify_barrier(3)).
    fn tell(&self, ready: &[u8], main: u32) -> Result<()> {
        let doing = || format!("{VARIABLE}: tell the service manager at {}", self.manager.display());
        let address = address(&self.manager).doing(doing)?;
        let manager = UnixDatagram::unbound().doing(doing)?;
        manager.connect_addr(&address).doing(doing)?;
        manager.send(&[ready, b"\n"].concat()).doing(doing)?;
        manager.send(format!("MAINPID={main}\n").as_bytes()).doing(doing)?;
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).doing(doing)?;
        socket::send_fd(manager.as_raw_fd(), b"BARRIER=1", theirs.as_raw_fd()).doing(doing)?;
        drop(theirs);
        if is_closed_within(&ours, PATIENCE).doing(doing)? {
            return Ok(());
        }
        let problem = format!("the service manager at {} has not read it within 30 s", self.manager.display());
        Err(Error::new(Kind::System, format!("{VARIABLE}: {problem}")))
    }
}

/// Whether all other ends of a pipe are closed within `patience`.
fn is_closed_within(pipe: &OwnedFd, patience: Duration) -> Result<bool, Errno> {
    let deadline = Instant::now() + patience;
    loop {
        let mut fds = [libc::pollfd { fd: pipe.as_raw_fd(), events: 0, revents: 0 }];
        match process::poll(&mut fds, Some(deadline.saturating_duration_since(Instant::now()))) {
            Err(Errno::EINTR) => {}
            polled => return Ok(polled? > 0),
        }
    }
}

/// The address that the variable has: a path, or "@" and an abstract name (sd_notify(3)).
fn address(text: &OsStr) -> io::Result<SocketAddr> {
    match text.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(text),
    }
}
