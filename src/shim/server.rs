//! The main thread of a shim: it waits for everything, and does what takes no time itself.

use super::events::{Events, Way};
use super::reactor::{Handler, Reactor, Token};
use super::service::Shim;
use super::stream::{BUFFER, Stream};
use super::task::Caller;
use super::ttrpc::{Code, Connection, Incoming, Status};
use super::workers::Workers;
use crate::cgroup;
use crate::error::{Doing, Result};
use crate::log;
use crate::sys::{fs as sys_fs, own, process, signalfd, socket};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::epoll::EpollFlags;
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// containerd's services. The third version has the same calls as the second, and more that nobody needs to have.
const TASK: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];
/// Ours, between `start` and a shim that runs: `Join` with a container's id makes it stay for that container.
pub(super) const OWN: &str = "microrun.shim.v1.Shim";
/// Descriptors that there is room for from the beginning: a table that grows while there are threads waits for RCU.
const DESCRIPTORS: i32 = 1024;
/// How long containerd may take to acknowledge the last events.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often those who are expected are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// What a shim begins with.
pub(super) struct Start {
    /// The containerd namespace.
    pub namespace: String,
    /// The container that it was started for.
    pub id: String,
    /// The socket, listening.
    pub listener: OwnedFd,
    /// Where it is.
    pub place: Place,
    /// Where events go.
    pub events: Way,
}

/// Where a socket is in the file system.
#[derive(Debug, Clone)]
pub(super) struct Place {
    path: PathBuf,
    /// Its device and inode: who gives up on a shim that does not answer puts another's socket in its place.
    inode: (u64, u64),
}

impl Place {
    /// Of the socket that is at `path` now.
    pub fn of(path: &Path) -> Result<Self> {
        let inode = inode_at(path).doing(|| format!("look at {}", path.display()))?;
        Ok(Self { path: path.to_owned(), inode })
    }

    /// Removes the socket, and no other one.
    pub fn remove(&self) {
        let removed = match inode_at(&self.path) {
            Ok(inode) if inode == self.inode => std::fs::remove_file(&self.path),
            Ok(_) => return log::warn(format!("{} is another shim's by now: it stays", self.path.display())),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            log::warn(format!("remove {}: {error}", self.path.display()));
        }
    }
}

fn inode_at(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

struct Server {
    shim: Arc<Shim>,
    listener: OwnedFd,
    children: OwnedFd,
    /// That a child ended which nobody may be waiting for.
    orphans: bool,
    /// For streams.
    buffer: Vec<u8>,
    /// A descriptor to do without where there are no more: see [`Server::accept`].
    spare: Option<OwnedFd>,
}

/// Serves until there is nothing more to do.
///
/// # Errors
/// What cannot be set up.
pub(super) fn serve(start: Start) -> Result<()> {
    cgroup::keep_programs();
    let mut server = Server::new(start.namespace, start.listener, start.events)?;
    server.shim.expect(&start.id);
    loop {
        let events = server.shim.reactor.wait(server.patience()).doing(|| "wait for events")?;
        for (token, handler) in events {
            server.handle(token, handler);
        }
        server.shim.events.retry(&server.shim.reactor);
        // A thread that has answered and is not quite done yet says when it is: nothing else may happen any more.
        if server.shim.may_end() && server.shim.workers.while_idle(|| ()).is_some() {
            break;
        }
    }
    // Who finds no socket makes another shim; who is connected and not heard yet finds out by the end of the connection.
    start.place.remove();
    server.last_words();
    Ok(())
}

impl Server {
    fn new(namespace: String, listener: OwnedFd, way: Way) -> Result<Self> {
        let doing = || "set the shim up";
        // A container takes about ten, and the default limit is 1024 (systemd.exec(5), "LimitNOFILE=").
        process::raise_open_files().doing(doing)?;
        let _ = fcntl(listener.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(DESCRIPTORS - 1)).map(own);
        let spare = spare();
        process::prctl(libc::PR_SET_CHILD_SUBREAPER, [1, 0, 0, 0]).doing(doing)?;
        // Threads inherit the mask; what is executed gets an empty one.
        let sigchld = 1 << (libc::SIGCHLD - 1);
        process::set_signal_mask(sigchld).doing(doing)?;
        let children = own(signalfd::open(sigchld).doing(doing)?);
        for fd in [&listener, &children] {
            fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).doing(doing)?;
        }
        let reactor = Arc::new(Reactor::new().doing(doing)?);
        reactor.add(&listener, EpollFlags::EPOLLIN, Handler::Listener).doing(doing)?;
        reactor.add(&children, EpollFlags::EPOLLIN, Handler::Children).doing(doing)?;
        let waker = Arc::clone(&reactor);
        let workers = Workers::new(move || waker.wake());
        let events = Events::new(way, namespace.clone());
        let shim = Arc::new(Shim::new(namespace, reactor, workers, events));
        Ok(Self { shim, listener, children, orphans: false, buffer: Vec::new(), spare })
    }

    /// How long nothing has to be looked after.
    fn patience(&self) -> Option<Duration> {
        let expected = self.shim.waits_for_expected().then_some(LOOK);
        [self.shim.events.patience(), expected].into_iter().flatten().min()
    }

    fn handle(&mut self, token: Token, handler: Handler) {
        match handler {
            Handler::Listener => self.accept(),
            Handler::Wake => {
                self.shim.reactor.woken();
                self.reap_orphans();
            }
            Handler::Children => {
                let _ = signalfd::next(self.children.as_raw_fd());
                self.orphans = true;
                self.reap_orphans();
            }
            Handler::Connection(connection) => self.converse(token, &connection),
            Handler::Events => self.shim.events.ready(&self.shim.reactor),
            Handler::Exit(id, exec) => {
                self.shim.reactor.forget(token);
                self.hear_out(&id, &exec);
                self.shim.ended(&id, &exec);
            }
            Handler::Memory(id) => self.shim.memory_changed(&id),
            Handler::Stream(stream) => self.flow(&stream),
        }
    }

    fn flow(&mut self, stream: &Stream) {
        self.buffer.resize(BUFFER, 0);
        if stream.flow(&self.shim.reactor, &mut self.buffer) {
            self.shim.has_changed();
        }
    }

    /// Passes on what a process that has ended said last: that comes before the news of its end.
    fn hear_out(&mut self, id: &str, exec: &str) {
        for stream in self.shim.outputs(id, exec) {
            self.flow(&stream);
        }
    }

    /// Without a descriptor for it a connection cannot even be refused, and would be announced for ever: the spare one is
    /// for that.
    fn accept(&mut self) {
        let accepted = socket::accept(self.listener.as_raw_fd());
        if matches!(accepted, Err(Errno::EMFILE | Errno::ENFILE)) {
            self.spare = None;
            if let Ok(refused) = socket::accept(self.listener.as_raw_fd()) {
                sys_fs::close(refused);
            }
        } else if self.spare.is_none() {
            self.spare = spare();
        }
        match accepted {
            Ok(socket) => {
                let connection = Arc::new(Connection::new(own(socket)));
                let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
                let handler = Handler::Connection(Arc::clone(&connection));
                if let Err(errno) = self.shim.reactor.add(connection.socket(), flags, handler) {
                    log::warn(format!("watch a connection: {errno}"));
                }
            }
            Err(Errno::EAGAIN) => {}
            Err(errno) => log::warn(format!("accept a connection: {errno}")),
        }
    }

    /// Hears what is said on a connection.
    fn converse(&self, token: Token, connection: &Arc<Connection>) {
        let mut incoming = Vec::new();
        let came = connection.flush().and_then(|_| connection.read(&mut incoming));
        for one in incoming {
            if let Incoming::Call(stream, request) = one {
                let caller = Caller { connection: Arc::clone(connection), stream };
                self.call(caller, &request);
            }
        }
        if came.is_err() {
            self.shim.reactor.unwatch(connection.socket());
            self.shim.reactor.forget(token);
            self.shim.hung_up(connection);
        }
    }

    fn call(&self, caller: Caller, request: &super::ttrpc::Request) {
        log::debug(|| format!("{}.{}", request.service, request.method));
        match (request.service.as_str(), request.method.as_str()) {
            (service, method) if TASK.contains(&service) => self.shim.call(caller, method, &request.payload),
            (OWN, "Join") => {
                self.shim.expect(&String::from_utf8_lossy(&request.payload));
                caller.answer(Ok(Vec::new()));
            }
            (service, _) => caller.answer(Err(Status::new(Code::Unimplemented, format!("no service {service}")))),
        }
    }

    /// Reaps children that became ours when their parents ended: as a subreaper we have those of containers without a pid
    /// namespace. While a thread is at work its children are its own to wait for.
    fn reap_orphans(&mut self) {
        if !self.orphans {
            return;
        }
        let reaped = self.shim.workers.while_idle(|| {
            let mut reaped = Vec::new();
            while let Ok(Some(pid)) = process::ended_child() {
                match process::wait(pid, libc::WNOHANG) {
                    Ok(Some(how)) => reaped.push((pid, how)),
                    _ => break,
                }
            }
            reaped
        });
        let Some(reaped) = reaped else { return };
        self.orphans = false;
        for (pid, how) in reaped {
            if let Some((id, exec)) = self.shim.owner_of(pid) {
                self.hear_out(&id, &exec);
                self.shim.reaped(&id, &exec, how);
            }
        }
    }

    /// Lets the last answers and events go.
    fn last_words(&self) {
        let deadline = Instant::now() + LAST_WORDS;
        while !self.shim.events.is_empty() && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(events) = self.shim.reactor.wait(Some(left)) else { return };
            for (_, handler) in events {
                if let Handler::Events = handler {
                    self.shim.events.ready(&self.shim.reactor);
                }
            }
            if self.shim.events.patience().is_some() {
                // containerd is gone as well.
                return;
            }
        }
    }
}

/// See [`Server::accept`]. It may well be missing.
fn spare() -> Option<OwnedFd> {
    open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()
}

/// The path of the socket of a group: everybody who asks for the same finds the same.
pub(super) fn socket_path(directory: &str, address: &str, namespace: &str, group: &str) -> PathBuf {
    let name = fnv(&[address, namespace, group].join("\0"));
    PathBuf::from(format!("{directory}/microrun-{name:032x}"))
}

/// FNV-1a of 128 bits. Nobody gains anything by two groups of the same name: who may name containers may name groups.
fn fnv(text: &str) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    text.bytes().fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_socket_of_another_shim_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _first = UnixListener::bind(&path).unwrap();
        let first_place = Place::of(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = UnixListener::bind(&path).unwrap();
        let second_place = Place::of(&path).unwrap();
        first_place.remove();
        assert!(path.exists());
        second_place.remove();
        assert!(!path.exists());
        second_place.remove();
    }

    #[test]
    fn names_are_hashed_as_the_hash_is_specified() {
        assert_eq!(fnv(""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(fnv("a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        let path = socket_path("/run/containerd/s", "/run/c.sock", "default", "a");
        assert_eq!(path.to_str().map(str::len), Some("/run/containerd/s/microrun-".len() + 32));
        assert_ne!(path, socket_path("/run/containerd/s", "/run/c.sock", "default", "b"));
    }
}
