//! Parts of a container that a pool has made ahead: its network namespace, its cgroup.
//!
//! Who starts a container asks for them as soon as it has the text of config.json, and hears the answer when it has understood
//! that. Whatever a pool says or does not say, there is a container in the end: what is not given is made here.

use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::sys::request::{self, Given, Request, SPOILT, TAKEN, answer};
use crate::sys::{fs as sys_fs, own, process, socket};
use nix::sys::stat::{FileStat, stat};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// For how long nobody is asked after a pool has not answered in time.
const GRUDGE: Duration = Duration::from_secs(10);

/// Until when nobody is asked, by [`process::now`]: a process that serves many containers does not wait for each in vain.
static SILENT_UNTIL: AtomicU64 = AtomicU64::new(0);

/// A pool that may have parts.
#[derive(Debug, Clone)]
pub struct Lender {
    /// Where it listens.
    pub socket: PathBuf,
    /// Whether it is to give cgroups as well as network namespaces.
    pub cgroups: bool,
}

/// A pool that has been asked.
#[derive(Debug)]
pub(super) struct Asked {
    answers: OwnedFd,
    cgroups: bool,
}

impl Lender {
    /// Asks for parts of a container of `bundle`, a network namespace among them if it `wants_network`; `None` if nobody is to be asked.
    pub(super) fn ask(&self, bundle: &Path, wants_network: bool) -> Option<Asked> {
        let wanted = [(wants_network, request::NETWORK), (self.cgroups, request::CGROUP)];
        let flags = wanted.iter().filter(|(is_wanted, _)| *is_wanted).fold(0, |flags, (_, flag)| flags | flag);
        let socket = self.socket.as_os_str().as_bytes();
        if flags == 0
            || request::look_at(&self.socket).is_err()
            || process::now() < SILENT_UNTIL.load(Ordering::Relaxed)
        {
            return None;
        }
        let bundle = sys_fs::c_path(bundle).ok()?;
        match request::ask(&Request { flags, ..Request::new(socket, request::MAKE, &bundle) }) {
            Ok(answers) => Some(Asked { answers: own(answers), cgroups: self.cgroups }),
            Err(errno) => {
                log::debug(|| format!("no pool can be asked for parts: {}", errno.desc()));
                None
            }
        }
    }
}

impl Asked {
    /// What the pool gives, if anything, waiting for as long as one waits for parts.
    pub(super) fn receive(self) -> Option<Parts> {
        if !request::is_told_within(self.answers.as_raw_fd(), request::PATIENCE_FOR_PARTS) {
            SILENT_UNTIL.store(process::now() + GRUDGE.as_nanos() as u64, Ordering::Relaxed);
            // What the pool may send now it takes back: nobody has it.
            log::debug(|| "the pool gives no parts: it does not answer".to_owned());
            return None;
        }
        let mut text = [0; request::ANSWER];
        let (count, fd) = socket::receive_fd(self.answers.as_raw_fd(), &mut text).ok()?;
        drop(fd.map(own));
        let said = text.get(..count).unwrap_or_default();
        if said.first() != Some(&answer::PARTS) {
            let why = String::from_utf8_lossy(said.get(1..).unwrap_or(b"it has ended")).into_owned();
            log::debug(|| format!("the pool gives no parts: {why}"));
            return None;
        }
        let parts = Parts::receive(self.answers).inspect_err(|error| log::debug(|| error.to_string())).ok()?;
        let cgroup = parts.cgroup.clone().filter(|_| self.cgroups);
        Some(Parts { cgroup, ..parts })
    }
}

/// What a pool gives to who makes a container himself.
#[derive(Debug)]
pub struct Parts {
    /// Hung up when this process ends: then what it has not taken is the pool's again.
    lender: OwnedFd,
    /// Of which config.json they are.
    of: Given,
    /// A network namespace in which nobody has been, its loopback device up.
    pub network: Option<OwnedFd>,
    /// The name of a cgroup in which nobody has been, with the limits and device rules of the configuration.
    pub cgroup: Option<String>,
}

/// What tells one version of a config.json from others.
pub fn version(about: &FileStat) -> Given {
    let nanoseconds = about.st_ctime.cast_unsigned().wrapping_mul(1_000_000_000);
    Given {
        device: about.st_dev,
        inode: about.st_ino,
        size: about.st_size.cast_unsigned(),
        changed: nanoseconds.wrapping_add(about.st_ctime_nsec.cast_unsigned()),
    }
}

impl Parts {
    /// Waits for what the pool sends on `lender`.
    ///
    /// # Errors
    /// A pool that has ended, or is of another version.
    pub fn receive(lender: OwnedFd) -> Result<Self> {
        let mut text = [0; 512];
        let doing = || "receive what the pool has made ahead";
        if !request::is_told(lender.as_raw_fd()) {
            return Err(Error::new(Kind::WrongState, "the pool does not send what it has promised"));
        }
        let (count, fd) = socket::receive_fd(lender.as_raw_fd(), &mut text).doing(doing)?;
        let network = fd.map(own);
        let message = text.get(..count).and_then(|message| message.strip_prefix(&[answer::PARTS]));
        let read = message.and_then(Given::read);
        let name = read.and_then(|(_, name)| str::from_utf8(name).ok());
        // It takes back what was lent to who has hung up, or has done so before it ended: nobody else is to be in that cgroup.
        if !socket::is_listening(lender.as_raw_fd()) {
            return Err(Error::new(Kind::WrongState, "the pool's parts have come too late, or it has ended"));
        }
        let (Some((of, _)), Some(name)) = (read, name) else {
            return Err(Error::new(
                Kind::WrongState,
                "the pool's parts are not understood: it has ended, or is another",
            ));
        };
        let cgroup = (!name.is_empty()).then(|| name.to_owned());
        Ok(Self { lender, of, network, cgroup })
    }

    /// Whether they were made for the config.json of `bundle`, which has been read before, or for any.
    pub(super) fn are_for(&self, bundle: &Path) -> bool {
        self.of == Given::default() || stat(&bundle.join("config.json")).is_ok_and(|about| version(&about) == self.of)
    }

    /// Says that the cgroup is recorded as the container's.
    pub(super) fn take(&self) {
        // Where there is no pool any more, nobody else will remove it.
        let _ = socket::send_fds_now(self.lender.as_raw_fd(), &[&[TAKEN]], &[]);
    }

    /// Says that others have been in the network namespace.
    pub(super) fn spoil(&self) {
        let _ = socket::send_fds_now(self.lender.as_raw_fd(), &[&[SPOILT]], &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool's end of the answers, on which it lends a cgroup, and the other one.
    fn lent() -> (OwnedFd, OwnedFd) {
        let (pool, ours) = socket::packets().unwrap();
        let given = Given::default().bytes();
        socket::send_fds_now(pool.as_raw_fd(), &[&[answer::PARTS], &given, b"name"], &[]).unwrap();
        (pool, ours)
    }

    #[test]
    fn what_is_lent_is_taken() {
        let (pool, ours) = lent();
        let parts = Parts::receive(ours).unwrap();
        assert_eq!(parts.cgroup.as_deref(), Some("name"));
        parts.take();
        let mut word = [0; 4];
        assert_eq!(socket::receive_fds(pool.as_raw_fd(), &mut word).unwrap().count, 1);
        assert_eq!(word[0], TAKEN);
    }

    #[test]
    fn what_the_pool_takes_back_is_not_used() {
        // Whoever has hung up cannot say that he takes it.
        let (_pool, ours) = lent();
        socket::hang_up(ours.as_raw_fd());
        assert!(Parts::receive(ours).is_err());
        let (pool, ours) = lent();
        drop(pool);
        assert!(Parts::receive(ours).is_err());
    }
}
