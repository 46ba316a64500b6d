//! Parts of a container that a pool has made ahead: its network namespace, its cgroup.

use crate::error::{Doing, Error, Kind, Result};
use crate::sys::request::{Given, SPOILT, TAKEN, answer};
use crate::sys::socket;
use nix::sys::stat::{FileStat, stat};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

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
        let (count, fd) = socket::receive_fd(lender.as_raw_fd(), &mut text).doing(doing)?;
        let network = fd.map(crate::sys::own);
        let message = text.get(..count).and_then(|message| message.strip_prefix(&[answer::PARTS]));
        let read = message.and_then(Given::read);
        let name = read.and_then(|(_, name)| str::from_utf8(name).ok());
        let (Some((of, _)), Some(name)) = (read, name) else {
            return Err(Error::new(
                Kind::WrongState,
                "the pool's parts are not understood: it has ended, or is another",
            ));
        };
        let cgroup = (!name.is_empty()).then(|| name.to_owned());
        Ok(Self { lender, of, network, cgroup })
    }

    /// These, if they were made for the config.json of `bundle`, which has been read before.
    pub(super) fn for_bundle(self: &Arc<Self>, bundle: &Path) -> Option<Arc<Self>> {
        let about = stat(&bundle.join("config.json")).ok()?;
        (version(&about) == self.of).then(|| Arc::clone(self))
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
