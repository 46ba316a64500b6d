//! The descriptors that steps hand on to each other.

use crate::sys::fs;
use std::fmt;
use std::os::fd::RawFd;

/// The number of a descriptor that one step opens and others use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u8);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.0)
    }
}

/// Descriptors by number. A slot that holds nothing reads as -1, which every system call answers with EBADF.
#[derive(Debug, Clone, Copy)]
pub struct Slots([RawFd; Self::COUNT]);

impl Slots {
    /// How many there are.
    pub const COUNT: usize = 250;

    /// What `slot` holds.
    pub fn get(&self, slot: Slot) -> RawFd {
        self.0.get(usize::from(slot.0)).copied().unwrap_or(-1)
    }

    /// The descriptors that they hold.
    pub fn open(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().copied().filter(|fd| *fd >= 0)
    }

    /// Puts a descriptor into `slot`.
    pub fn set(&mut self, slot: Slot, fd: RawFd) {
        if let Some(place) = self.0.get_mut(usize::from(slot.0)) {
            *place = fd;
        }
    }

    /// Puts a descriptor into `slot`. What the slot held is closed: one step's leftovers are no other step's business.
    pub(super) fn replace(&mut self, slot: Slot, fd: RawFd) {
        let old = self.get(slot);
        if old >= 0 {
            fs::close(old);
        }
        self.set(slot, fd);
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self([-1; Self::COUNT])
    }
}
