//! Who may make, remove or change a container: flock(2) of its directory, or of its state.json.

use super::{Entry, taken};
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::fs as sys_fs;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstat;
use nix::unistd::{AccessFlags, faccessat};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, io};

/// How long who has just made a container's directory waits for who came to lock it first. Such have nothing to wait for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The right to make or remove a container, alone (flock(2) of its directory). The kernel takes it back when the last
/// process that has the descriptor closes it or ends: the one that locked and, up to its exec, the init that it cloned.
#[derive(Debug)]
pub struct Lock(OwnedFd);

/// What came of waiting for a [`Lock`].
#[derive(Debug)]
pub enum Locking {
    /// It is ours.
    Locked(Lock),
    /// Somebody else still has it.
    Busy,
    /// The container has been removed.
    Gone,
}

impl Lock {
    /// The right to the container of this locked directory, or to change this state.json; `None` if it was removed meanwhile.
    /// Another one may have its name by now, and is not locked.
    pub(super) fn of(locked: OwnedFd) -> Result<Option<Self>, Errno> {
        // What is removed has no link left (rmdir(2), unlink(2), rename(2)).
        Ok((fstat(&locked)?.st_nlink > 0).then_some(Self(locked)))
    }

    /// The directory, or the file, that is locked.
    pub(super) fn locked(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The descriptor that holds it, to be handed to another process or table of descriptors.
    pub fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    /// The right that a descriptor from [`Lock::into_descriptor`] holds.
    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Gives the right back, for all who have the descriptor.
    pub fn release(self) {
        // It cannot fail for a descriptor that is open.
        let _ = sys_fs::lock(self.0.as_raw_fd(), libc::LOCK_UN);
    }
}

impl Entry {
    /// Locks the container if nobody else has: `None` if somebody has, or if it is gone.
    ///
    /// # Errors
    /// What the file system says.
    pub fn try_lock(&self) -> Result<Option<Lock>> {
        let Some(directory) = self.open()? else { return Ok(None) };
        match sys_fs::lock(directory.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) {
            Ok(()) => Lock::of(directory),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno),
        }
        .doing(|| format!("lock {}", self.path.display()))
    }

    /// Locks it for who has made its directory at this moment.
    ///
    /// By now there may be another at its path: it was deleted, and somebody else made the same container. Of all who made one it belongs to who locks it
    /// first, while there is nothing in it.
    pub(super) fn lock_new(&self) -> Result<Lock> {
        let locked = match self.try_lock() {
            // Who finds it before looks whether it is locked, or is about to delete it and sees that there is nothing.
            Ok(None) => self.lock_within(PATIENCE),
            locked => locked.map(|lock| lock.map_or(Locking::Gone, Locking::Locked)),
        };
        match locked {
            Ok(Locking::Locked(lock)) => match faccessat(&lock.0, "state.json", AccessFlags::F_OK, AtFlags::empty()) {
                Err(Errno::ENOENT) => Ok(lock),
                Ok(()) => Err(taken(self.id())),
                Err(errno) => Err(Error::system(format!("look at {}/state.json", self.path.display()), errno)),
            },
            // Who makes it, or runs it in the foreground.
            Ok(Locking::Busy) if self.path.join("state.json").exists() => Err(taken(self.id())),
            // What is there is somebody else's.
            Ok(Locking::Gone | Locking::Busy) => {
                Err(Error::new(Kind::WrongState, "the container is deleted while it is being created"))
            }
            Err(error) => {
                // If it is there, it is empty.
                let _ = fs::remove_dir(&self.path);
                Err(error)
            }
        }
    }

    /// Whether somebody makes or removes the container. Who else asks at the same moment is not taken for one.
    pub(super) fn is_locked(&self) -> Result<bool> {
        let Some(directory) = self.open()? else { return Ok(true) };
        match sys_fs::lock(directory.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) {
            Ok(()) => Ok(false),
            Err(Errno::EAGAIN) => Ok(true),
            Err(errno) => Err(errno).doing(|| format!("lock {}", self.path.display())),
        }
    }

    /// Locks the container as soon as nobody else has it locked.
    ///
    /// # Errors
    /// What the file system says.
    pub fn lock_within(&self, patience: Duration) -> Result<Locking> {
        let Some(directory) = self.open()? else { return Ok(Locking::Gone) };
        let (sender, receiver) = mpsc::channel();
        // flock(2) has no timeout. A thread that waits in vain ends with the process.
        let waiting = std::thread::Builder::new().spawn(move || {
            let locked = sys_fs::retry(|| sys_fs::lock(directory.as_raw_fd(), libc::LOCK_EX));
            // Nobody may be there any more to hear it.
            let _ = sender.send(locked.and_then(|()| Lock::of(directory)));
        });
        waiting.doing(|| format!("begin a thread that waits for {}", self.path.display()))?;
        match receiver.recv_timeout(patience) {
            Ok(locked) => {
                let lock = locked.doing(|| format!("lock {}", self.path.display()))?;
                Ok(lock.map_or(Locking::Gone, Locking::Locked))
            }
            Err(_) => Ok(Locking::Busy),
        }
    }

    /// Locks state.json for who is going to [`Entry::stage`] another: as soon as nobody else has it locked, who has it only
    /// for the time of a change. `None` if the container is gone.
    ///
    /// It is not the lock of the container, which a `run` in the foreground holds to the end.
    ///
    /// # Errors
    /// What the file system says.
    pub fn lock_state(&self) -> Result<Option<Lock>> {
        match self.lock_state_as(libc::LOCK_EX)? {
            Locking::Locked(lock) => Ok(Some(lock)),
            Locking::Gone | Locking::Busy => Ok(None),
        }
    }

    /// As [`Entry::lock_state`], if nobody else has it locked.
    ///
    /// # Errors
    /// What the file system says.
    pub fn try_lock_state(&self) -> Result<Locking> {
        self.lock_state_as(libc::LOCK_EX | libc::LOCK_NB)
    }

    fn lock_state_as(&self, how: i32) -> Result<Locking> {
        let path = self.path.join("state.json");
        let locking = || format!("lock {}", path.display());
        loop {
            let file: OwnedFd = match fs::File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Locking::Gone),
                file => file.doing(locking)?.into(),
            };
            match sys_fs::retry(|| sys_fs::lock(file.as_raw_fd(), how)) {
                Err(Errno::EAGAIN) => return Ok(Locking::Busy),
                locked => locked.doing(locking)?,
            }
            // Otherwise another file has taken its place meanwhile, or the container has been removed.
            if let Some(lock) = Lock::of(file).doing(locking)? {
                return Ok(Locking::Locked(lock));
            }
        }
    }
}
