//! How many sandboxes there may be, by their number and by the memory that they and parts take.

use super::stock::Stock;
use crate::container::park::Parked;
use crate::spec::makes_namespace;
use oci_spec::runtime::LinuxNamespaceType;
use std::fs;
use std::path::PathBuf;

/// The most of what waits, of all bundles together.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How many sandboxes.
    pub parts: usize,
    /// How much memory they and the parts for cold starts may take, in bytes; any, without it.
    pub memory: Option<u64>,
}

/// What the kernel keeps of a sandbox besides what its process has and what its cgroup is charged with, in bytes: namespaces, mounts, cgroups,
/// the stack of its thread. docs/pools.md says how it was measured.
const KERNEL: u64 = 100 << 10;

/// What it keeps of a network namespace, in bytes: the tables of parameters, mostly.
pub const NETWORK: u64 = 230 << 10;

/// What it keeps of a mount namespace with a handful of mounts and of an IPC namespace, in bytes.
pub const ROOMS: u64 = 30 << 10;

/// What it keeps of a directory of a cgroup that nobody is in, in bytes, and of one with the memory controller.
const CGROUP: u64 = 8 << 10;
const MEMORY_CGROUP: u64 = 120 << 10;

/// What a cgroup takes of which nothing is known yet, in bytes.
pub const ANY_CGROUP: u64 = MEMORY_CGROUP + 4 * CGROUP;

/// The memory that the kernel keeps of a cgroup with these `directories` that nobody is in, in bytes.
pub fn of_cgroup(directories: &[PathBuf]) -> u64 {
    let of_one = |directory: &PathBuf| if directory.join("memory.stat").exists() { MEMORY_CGROUP } else { CGROUP };
    directories.iter().map(of_one).sum()
}

/// The memory of the process itself, in bytes, where this process may not look.
const PROCESS: u64 = 64 << 10;

/// The memory that comes and goes with a sandbox, in bytes: what its process has of its maker's memory, or if that is nothing, for itself and its page tables
/// (proc_pid_smaps(5), Anonymous; proc_pid_status(5), VmPTE), or what its cgroup is charged with if that is more, and what the kernel has besides.
pub fn of(parked: &Parked, of_maker: u64) -> u64 {
    let number = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{}/{file}", parked.child.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    let own = match of_maker {
        0 => number("smaps_rollup", "Anonymous:")
            .zip(number("status", "VmPTE:"))
            .map_or(PROCESS, |(own, tables)| own + tables),
        of_maker => of_maker,
    };
    let charged = parked.state.cgroup.stats().map_or(0, |stats| stats.memory.usage.usage);
    let network = if makes_namespace(&parked.spec, LinuxNamespaceType::Network) { NETWORK } else { 0 };
    own.max(charged) + KERNEL + network
}

/// What is left of the bounds.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    parts: usize,
    memory: Option<u64>,
}

impl Room {
    /// What the `stocks` leave, and the parts that take `memory_of_parts`.
    pub fn beside<'a>(bounds: Bounds, stocks: impl Iterator<Item = &'a Stock>, memory_of_parts: u64) -> Self {
        let (parts, memory) = stocks
            .fold((0, memory_of_parts), |(parts, memory), stock| (parts + stock.parts(), memory + stock.memory()));
        Self {
            parts: bounds.parts.saturating_sub(parts),
            memory: bounds.memory.map(|most| most.saturating_sub(memory)),
        }
    }

    /// Takes room for up to `wanted` sandboxes of `size` bytes each; for how many there was some. What a sandbox takes is only known
    /// when there is one: without `size` it is one.
    pub fn take(&mut self, wanted: usize, size: Option<u64>) -> usize {
        let fitting = match (self.memory, size) {
            (None, _) => usize::MAX,
            (Some(0), _) => 0,
            (Some(_), None) => 1,
            (Some(memory), Some(size)) => usize::try_from(memory / size.max(1)).unwrap_or(usize::MAX),
        };
        let count = wanted.min(self.parts).min(fitting);
        self.parts -= count;
        self.memory = self.memory.map(|memory| memory.saturating_sub(size.unwrap_or(KERNEL) * count as u64));
        count
    }

    /// How much memory is left, in bytes.
    pub fn memory(&self) -> u64 {
        self.memory.unwrap_or(u64::MAX)
    }

    /// Takes room for up to `wanted` things of `size` bytes each that are no sandboxes; for how many there was some.
    pub fn take_memory(&mut self, wanted: usize, size: u64) -> usize {
        let Some(memory) = &mut self.memory else { return wanted };
        let count = usize::try_from(*memory / size.max(1)).unwrap_or(usize::MAX).min(wanted);
        *memory -= size * count as u64;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_made_than_there_is_room_for() {
        let mut room = Room { parts: 10, memory: None };
        assert_eq!((room.take(4, None), room.take(7, Some(1 << 40)), room.take(1, None)), (4, 6, 0));
        let mut room = Room { parts: 100, memory: Some(10 << 20) };
        // One, to find out what it takes.
        assert_eq!(room.take(8, None), 1);
        assert_eq!((room.take(3, Some(1 << 20)), room.take(8, Some(1 << 20)), room.take(8, Some(1 << 20))), (3, 6, 0));
        let mut room = Room { parts: 100, memory: Some(0) };
        assert_eq!((room.take(8, None), room.take(8, Some(1))), (0, 0));
        let mut room = Room { parts: 0, memory: Some(10) };
        assert_eq!((room.take_memory(2, 4), room.take_memory(2, 2), room.take_memory(1, 1)), (2, 1, 0));
        assert_eq!(Room { parts: 0, memory: None }.take_memory(7, 1 << 40), 7);
    }
}
