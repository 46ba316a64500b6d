//! What a container uses, in the JSON that `events --stats` prints under `data`: the fields, names and units that
//! runc's users know (nanoseconds and bytes; a limit of 2^64-1 is "none").

mod parse;
mod v1;
mod v2;

use super::handle::Handle;
use crate::Result;
use serde::Serialize;
use std::collections::BTreeMap;

fn zero(value: &u64) -> bool {
    *value == 0
}

/// Whether a value is what it is by default, and left out.
fn default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// CPU time and throttling.
    pub cpu: Cpu,
    /// The v1 cpuset controller's settings.
    pub cpuset: CpuSet,
    /// Memory and swap.
    pub memory: Memory,
    /// Processes and threads.
    pub pids: Pids,
    /// Block devices.
    pub blkio: BlockIo,
    /// Huge pages, by size ("2MB").
    pub hugetlb: BTreeMap<String, Hugetlb>,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Some tasks waited.
    #[serde(skip_serializing_if = "default")]
    pub some: Stall,
    /// All tasks waited.
    #[serde(skip_serializing_if = "default")]
    pub full: Stall,
}

/// Shares of time in percent, and a total in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[allow(missing_docs)] // named after the kernel's keys
pub struct Stall {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

/// CPU time and throttling.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Time used.
    #[serde(skip_serializing_if = "default")]
    pub usage: CpuUsage,
    /// What the quota took away.
    #[serde(skip_serializing_if = "default")]
    pub throttling: Throttling,
    /// Pressure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Nanoseconds of CPU time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[allow(missing_docs)] // the names say all
pub struct CpuUsage {
    #[serde(skip_serializing_if = "zero")]
    pub total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    pub kernel: u64,
    pub user: u64,
}

/// What the quota took away.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods that have passed.
    #[serde(skip_serializing_if = "zero")]
    pub periods: u64,
    /// Those in which the quota was used up.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_periods: u64,
    /// Nanoseconds that tasks waited for the next period.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_time: u64,
    /// Periods in which more was used than the quota, from what was left before (v2), of which users of the JSON know nothing.
    #[serde(skip)]
    pub bursts: u64,
    /// Nanoseconds that were used so, likewise.
    #[serde(skip)]
    pub burst_time: u64,
}

/// The v1 cpuset controller's settings (Documentation/admin-guide/cgroup-v1/cpusets.rst).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[allow(missing_docs)] // named after the files
pub struct CpuSet {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Memory and swap.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Page cache, in bytes.
    #[serde(skip_serializing_if = "zero")]
    pub cache: u64,
    /// Memory.
    #[serde(skip_serializing_if = "default")]
    pub usage: MemoryEntry,
    /// Memory and swap together.
    #[serde(skip_serializing_if = "default")]
    pub swap: MemoryEntry,
    /// Swap alone (v2), of which users of the JSON know nothing.
    #[serde(skip)]
    pub swap_alone: MemoryEntry,
    /// memory.events as it is (v2), or memory.oom_control (v1), likewise.
    #[serde(skip)]
    pub events: BTreeMap<String, u64>,
    /// The kernel's own memory (v1).
    #[serde(skip_serializing_if = "default")]
    pub kernel: MemoryEntry,
    /// TCP buffers (v1).
    #[serde(rename = "kernelTCP", skip_serializing_if = "default")]
    pub kernel_tcp: MemoryEntry,
    /// memory.stat as it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Pressure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One kind of memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MemoryEntry {
    /// The limit.
    pub limit: u64,
    /// What is used.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// The most that was used.
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// How often the limit was hit (v1).
    pub failcnt: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pids {
    /// How many there are.
    #[serde(skip_serializing_if = "zero")]
    pub current: u64,
    /// How many there may be; 0 for no limit.
    #[serde(skip_serializing_if = "zero")]
    pub limit: u64,
}

/// A number of one block device.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[allow(missing_docs)] // the names say all
pub struct BlockIoEntry {
    #[serde(skip_serializing_if = "zero")]
    pub major: u64,
    #[serde(skip_serializing_if = "zero")]
    pub minor: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    #[serde(skip_serializing_if = "zero")]
    pub value: u64,
}

/// Block devices.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // named after the v1 files
pub struct BlockIo {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlockIoEntry>,
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Hugetlb {
    /// What is used.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// The most that was used (v1).
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
    /// The limit (v2), of which users of the JSON know nothing.
    #[serde(skip)]
    pub limit: u64,
}

impl Handle {
    /// Reads the container's usage from every cgroup that it is in. A controller that it has not joined counts
    /// nothing and leaves its part empty; CPU time and the number of processes are known even then where there is
    /// cgroup v2.
    ///
    /// # Errors
    /// A file whose text is not what the kernel's documentation says, or that cannot be read though it is there.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        if let Some(directory) = &self.unified {
            v2::read(directory, &mut stats)?;
        }
        for (controller, directory) in &self.v1 {
            v1::read(controller, directory, &mut stats)?;
        }
        Ok(stats)
    }
}
