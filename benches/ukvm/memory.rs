//! The guest's memory: the only code with `unsafe`.

#![allow(unsafe_code)]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use std::io;
use std::ptr::NonNull;

/// Anonymous memory that the guest has from address 0 on. It stays mapped until the process ends, so that no virtual machine
/// can outlive it.
pub struct Memory {
    base: NonNull<u8>,
    size: usize,
}

impl Memory {
    /// Maps `size` bytes, a multiple of 4096. They are zero.
    ///
    /// # Errors
    /// What mmap(2) fails with.
    pub fn new(size: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, at an address that the kernel chooses, takes nothing away.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, size })
    }

    /// Gives the memory to `machine`.
    ///
    /// # Errors
    /// What KVM_SET_USER_MEMORY_REGION fails with.
    pub fn give_to(&self, machine: &VmFd) -> Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: self.size as u64,
            userspace_addr: self.base.as_ptr() as u64,
        };
        // SAFETY: the region is ours, is never unmapped, and Rust sees it through copies alone: no reference into it is alive
        // while the guest runs.
        unsafe { machine.set_user_memory_region(region) }
    }

    /// Copies `bytes` to `address`; none where they do not fit.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Option<()> {
        let to = self.place(address, bytes.len())?;
        // SAFETY: `place` found the whole range inside the mapping, which `bytes`, being memory of Rust's, does not overlap.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Some(())
    }

    /// A copy of what is at `address`; none where that is not wholly inside of the memory.
    pub fn read<const SIZE: usize>(&self, address: u64) -> Option<[u8; SIZE]> {
        let from = self.place(address, SIZE)?;
        // SAFETY: `place` found the whole range inside the mapping, every byte of which has a value, and an array of bytes may lie
        // anywhere. The guest's only processor runs on this thread, so nobody writes meanwhile.
        Some(unsafe { from.cast().read() })
    }

    /// Writes what is at `address` to standard output; none where that is not wholly inside of the memory.
    pub fn print(&self, address: u64, length: usize) -> Option<io::Result<()>> {
        let mut done = 0;
        while done < length {
            let from = self.place(address + done as u64, length - done)?;
            // SAFETY: `place` found the whole range inside the mapping, and the kernel does no more than read it.
            let written = unsafe { libc::write(libc::STDOUT_FILENO, from.as_ptr().cast(), length - done) };
            match usize::try_from(written) {
                Ok(written) => done += written,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Some(Err(error)),
                },
            }
        }
        Some(Ok(()))
    }

    fn place(&self, address: u64, length: usize) -> Option<NonNull<u8>> {
        let start = usize::try_from(address).ok()?;
        let end = start.checked_add(length)?;
        // SAFETY: `start` is not past the end of the mapping.
        (end <= self.size).then(|| unsafe { self.base.add(start) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_or_written_outside() {
        let mut memory = Memory::new(4096).unwrap();
        assert_eq!(memory.write(4090, b"inside"), Some(()));
        assert_eq!(memory.read(4090), Some(*b"inside"));
        assert_eq!(memory.write(4091, b"across"), None);
        assert_eq!(memory.read(4096), Some([]));
        assert_eq!(memory.read::<0>(4097), None);
        assert_eq!(memory.read::<2>(u64::MAX), None);
        assert!(memory.print(4095, 2).is_none());
        assert!(memory.print(u64::MAX, 1).is_none());
        assert!(memory.print(1, usize::MAX).is_none());
    }
}
