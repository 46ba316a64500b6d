//! What a pool needs before it can serve: its directory, its socket, and knowing its own place.

use crate::container::activation::Activation;
use crate::container::manage;
use crate::container::prepare::Stdio;
use crate::container::process::Process;
use crate::container::state::Status;
use crate::container::store::{Entry, Store};
use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::sys::request::{self, Header};
use crate::sys::{own, pidfd, process, socket as sys_socket};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, getsockopt, setsockopt, socket, sockopt};
use nix::sys::stat::{Mode, stat, umask};
use nix::unistd::geteuid;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

/// Makes the directory of the socket, for nobody else, and takes it: no other pool has it for as long as the answer is there. One that is there already
/// has to be one in which nobody else can put anything in the place of what is the pool's, unless a service manager has chosen it, `is_given`.
///
/// # Errors
/// What the file system says; another pool, or another user who has it.
pub fn take_directory(socket: &Path, is_given: bool) -> Result<Flock<File>> {
    let directory = socket.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let doing = || format!("create the pool's directory {}", directory.display());
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.doing(doing)?,
    }
    let opened = File::open(directory).doing(doing)?;
    if !is_given {
        require_own(directory, &opened.metadata().doing(doing)?)?;
        // Somebody may have made these while he could.
        for own in ["parked", "parts"].map(|name| directory.join(name)) {
            match DirBuilder::new().mode(0o700).create(&own) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let about = fs::symlink_metadata(&own).doing(|| format!("look at {}", own.display()))?;
                    require_own(&own, &about)?;
                }
                made => made.doing(|| format!("create {}", own.display()))?,
            }
        }
    }
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EAGAIN => {
            let problem = format!("another pool has {}: end it, or give a --socket elsewhere", directory.display());
            Error::new(Kind::Exists, problem)
        }
        errno => Error::system(doing(), errno),
    })
}

/// Fails if somebody else may change what is in a directory of the pool: root apart, its owner, or who may write to it. A sticky bit, as /tmp has,
/// does not help: whoever has the socket's name first while there is no pool would be taken for one.
fn require_own(path: &Path, about: &Metadata) -> Result<()> {
    let (own, owner, mode) = (geteuid().as_raw(), about.uid(), about.mode() & 0o7777);
    let path = path.display();
    let problem = if owner != own && owner != 0 {
        format!(
            "{path} belongs to the user {owner}, who could change what the pool has there: give a --socket elsewhere"
        )
    } else if mode & 0o022 != 0 && !about.is_symlink() {
        format!(
            "{path} has the mode {mode:o}, so that others could change what the pool has there, or take its place: give a \
             --socket in a directory of its own, or chmod go-w this one"
        )
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::WrongState, problem))
}

/// The socket that a service manager has made, if it has (sd_listen_fds(3)).
///
/// # Errors
/// Something else than a datagram socket.
pub fn activated() -> Result<Option<OwnedFd>> {
    let Some(given) = Activation::of_this_process() else { return Ok(None) };
    let wrong = || Error::new(Kind::Usage, "the service manager must hand over one datagram socket (ListenDatagram=)");
    // Systemd's are numbered from here on.
    let socket = own(3);
    let is_datagram = getsockopt(&socket, sockopt::SockType) == Ok(SockType::Datagram);
    if given.descriptors != 1 || !is_datagram {
        return Err(wrong());
    }
    let doing = || "set up the socket of the service manager";
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).doing(doing)?;
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).doing(doing)?;
    know_senders(&socket).doing(doing)?;
    Ok(Some(socket))
}

/// The socket of a new pool, which learns who sends.
///
/// # Errors
/// Another pool's socket, or what the kernel says.
pub fn listen(path: &Path) -> Result<OwnedFd> {
    let doing = || format!("make the pool's socket {}", path.display());
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let ours = socket(AddressFamily::Unix, SockType::Datagram, flags, None).doing(doing)?;
    let address = UnixAddr::new(path).doing(doing)?;
    // A pool that was killed leaves its socket.
    if fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket()) {
        let _ = fs::remove_file(path);
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = bind(ours.as_raw_fd(), &address);
    umask(before);
    bound.doing(doing)?;
    know_senders(&ours).doing(doing)?;
    Ok(ours)
}

/// Has the socket say who sends.
fn know_senders(socket: &OwnedFd) -> Result<(), Errno> {
    setsockopt(socket, sockopt::PassCred, &true)?;
    // On older kernels a sender that has ended at once may be taken for who got its pid.
    let _ = sys_socket::ask_for_sender(socket.as_raw_fd());
    Ok(())
}

/// Removes what a pool that was killed has left in `store`: the sandboxes have ended with it.
///
/// # Errors
/// A directory that cannot be read.
pub fn clean_up_after_others(store: &Store) -> Result<()> {
    for entry in store.all()? {
        if let Err(error) = manage::discard(store, entry.id(), false) {
            log::warn(error);
        }
    }
    Ok(())
}

/// Removes what makers that were killed have left in `store`: all that nobody has locked. What somebody has, a sandbox that waits, or one that was being
/// made and has not ended yet.
///
/// # Errors
/// A directory that cannot be read.
pub fn clean_up_after_makers(store: &Store) -> Result<Vec<Entry>> {
    Ok(store.all()?.into_iter().filter(|entry| !is_removed(store, entry)).collect())
}

/// Removes what is left of a sandbox that was being made, unless somebody has it locked: whether it is gone.
pub fn is_removed(store: &Store, entry: &Entry) -> bool {
    let left = match entry.try_lock() {
        Ok(Some(lock)) => {
            lock.release();
            match is_ending(entry) {
                Ok(true) => return false,
                Ok(false) => manage::discard(store, entry.id(), false),
                Err(errno) => Err(Error::system(format!("kill the sandbox {}", entry.id()), errno)),
            }
        }
        // Somebody else may have removed it.
        Ok(None) => return !entry.path().exists(),
        Err(error) => Err(error),
    };
    match left {
        // There will be some again.
        Err(error) if matches!(error.errno(), Some(Errno::EMFILE | Errno::ENFILE)) => false,
        left => {
            left.unwrap_or_else(log::warn);
            true
        }
    }
}

/// Whether its first process is still to end, which is not waited for: it is killed.
fn is_ending(entry: &Entry) -> Result<bool, Errno> {
    match entry.look() {
        Ok((_, status, Some(init))) if status != Status::Stopped => match init.signal(libc::SIGKILL) {
            Err(Errno::ESRCH) => Ok(false),
            sent => sent.map(|()| true),
        },
        // What is wrong with its record is said when it is removed.
        _ => Ok(false),
    }
}

/// What a sandbox has for stdin, stdout and stderr until it gets those of who asks.
///
/// # Errors
/// What the kernel says.
pub fn no_stdio() -> Result<Stdio> {
    let open =
        || File::options().read(true).write(true).open("/dev/null").doing(|| "open /dev/null").map(OwnedFd::from);
    Ok(Arc::new([open()?, open()?, open()?]))
}

/// Takes every signal but the real-time ones as it comes by default: what whoever started the pool has it ignore, as a shell does for what it starts in the
/// background, is not to be ignored in containers.
pub fn ignore_no_signal() {
    // Of SIGPIPE, which this program ignores, init sees to itself.
    (libc::SIGHUP..=libc::SIGSYS).filter(|signal| *signal != libc::SIGPIPE).for_each(process::default_signal);
}

/// The signals by which a pool ends, and those that must not end it otherwise: whoever has it ignore the end of a terminal (nohup(1)) wants it to go on.
pub fn ending_signals() -> (SigSet, SigSet) {
    let ignored = Process::with_ignored(process::getpid()).map_or(0, |(_, ignored)| ignored);
    let is_ignored = |signal: Signal| ignored >> (signal as i32 - 1) & 1 == 1;
    let all = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    // A shell has what it starts in the background ignore SIGINT, but nobody sends that to a pool by the way.
    let heard = all.into_iter().filter(|signal| *signal != Signal::SIGHUP || !is_ignored(*signal)).collect();
    (heard, all.into_iter().collect())
}

/// A part takes five descriptors. How many there may be.
pub fn raise_descriptor_limit() -> i32 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return i32::MAX };
    // With fewer there are fewer parts.
    let most = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    i32::try_from(most).unwrap_or(i32::MAX)
}

/// Whether the process `pid` and this one have the same namespace of the kind that procfs calls `name`.
fn share_namespace(pid: i32, name: &str) -> bool {
    let inode = |place: &str| stat(format!("/proc/{place}/ns/{name}").as_str()).map(|about| about.st_ino);
    inode("self").is_ok_and(|own| inode(&pid.to_string()) == Ok(own))
}

/// The place of this process: who asks from another would have another container by a cold start.
#[derive(Debug)]
pub struct Place {
    header: Header,
    user_namespace: u64,
    capabilities: u64,
    uid: u32,
}

impl Place {
    /// Ours.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of_this_process() -> Result<Self> {
        let doing = || "look at the pool's own place";
        // A service manager's socket is of the network namespace in which it was made.
        let socket = own(sys_socket::datagram().doing(doing)?);
        Ok(Self {
            header: Header::of_this_process(request::STATUS, 0, socket.as_raw_fd()).doing(doing)?,
            user_namespace: pidfd::own_user_namespace().doing(doing)?,
            capabilities: process::capget().doing(doing)?.0,
            uid: geteuid().as_raw(),
        })
    }

    /// Why who asks cannot be served; `None` if he can.
    ///
    /// With `pidfd`, the sender's, `pid` is known to be nobody else's by now.
    pub fn refusal(
        &self,
        header: &Header,
        (pid, uid, _): (i32, u32, u32),
        pidfd: Option<&OwnedFd>,
    ) -> Option<&'static str> {
        let own = &self.header;
        // Both are 0 where the kernel has no such number.
        let is_another_network = || own.network == 0 && !share_namespace(pid, "net");
        if uid != self.uid {
            return Some("the pool belongs to another user");
        }
        if (header.root_mount, header.root_inode) != (own.root_mount, own.root_inode) {
            return Some("the pool has another mount namespace or root");
        }
        if header.network != own.network || header.pid != pid || is_another_network() {
            return Some("the pool has another network or pid namespace");
        }
        if header.nice != own.nice {
            return Some("the pool has another nice value");
        }
        // Who has fewer rights must not get more by asking; who has more, not a container with fewer.
        let user_namespace = pidfd::user_namespace(pid, pidfd);
        let capabilities = process::capget_of(pid).map(|(effective, ..)| effective);
        let is_container = matches!(header.kind, request::RUN | request::LEASE);
        let are_rights = capabilities.is_ok_and(|effective| match is_container {
            true => effective == self.capabilities,
            false => effective & self.capabilities == self.capabilities,
        });
        if user_namespace != Ok(self.user_namespace) || !are_rights {
            return Some("the pool has other rights than who asks");
        }
        if pidfd.is_some_and(|pidfd| process::has_ended(pidfd.as_raw_fd()) != Ok(false)) {
            return Some("who asks has gone");
        }
        None
    }

    /// Why the process `pid`, which is served otherwise, cannot have a container that shares these of its namespaces.
    pub fn refusal_to_share(&self, pid: i32, namespaces: &[&str]) -> Option<&'static str> {
        let is_shared = namespaces.iter().all(|name| share_namespace(pid, name));
        (!is_shared).then_some("the pool has another IPC or UTS namespace, and the container none of its own")
    }

    /// How many descriptors a container may have, soft and hard, unless its configuration or who asks says otherwise.
    pub fn descriptors(&self) -> [u64; 2] {
        self.header.limits.get(process::NOFILE as usize).copied().unwrap_or_default()
    }

    /// Which limits of who asks are not those that the pool's children have, by their numbers.
    pub fn other_limits<'a>(&'a self, header: &'a Header) -> impl Iterator<Item = (u32, [u64; 2])> + 'a {
        let pairs = header.limits.iter().zip(&self.header.limits).enumerate();
        pairs.filter(|(_, (theirs, ours))| theirs != ours).map(|(resource, (theirs, _))| (resource as u32, *theirs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn networks_are_told_apart_where_the_kernel_has_no_numbers_for_them() {
        let mut place = Place::of_this_process().unwrap();
        // Linux 5.14.
        place.header.network = 0;
        let refusal = |pid: i32| {
            let header = Header { pid, ..place.header };
            place.refusal(&header, (pid, place.uid, 0), pidfd::open(pid).ok().as_ref())
        };
        assert_eq!(refusal(process::getpid()), None);
        let mut elsewhere = Command::new("unshare");
        let elsewhere = elsewhere.args(["-n", "sh", "-c", "echo; read line"]);
        let Ok(mut elsewhere) = elsewhere.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
        else {
            return;
        };
        let is_there = elsewhere.stdout.take().is_some_and(|said| io::Read::bytes(said).next().is_some());
        let told = refusal(elsewhere.id().cast_signed());
        drop(elsewhere.stdin.take());
        elsewhere.wait().unwrap();
        // It takes root.
        assert!(!is_there || told.is_some_and(|told| told.contains("network")), "{told:?}");
    }
}
