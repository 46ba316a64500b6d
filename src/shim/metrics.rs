//! What a container uses, in the messages of containerd's cgroups library (cgroup1/stats/metrics.proto and
//! cgroup2/stats/metrics.proto). They are numbers by the hundred with a tag each, so they are written from tables.

use super::messages::Any;
use crate::cgroup::Handle;
use crate::cgroup::stats::{BlockIoEntry, MemoryEntry, Pressure, Stall, Stats};
use crate::error::Result;
use prost::encoding::{bytes, double, string, uint64};
use std::collections::BTreeMap;

/// Reads the usage of the cgroups: as those of v1 if the container is in any of them.
///
/// # Errors
/// Files that cannot be read.
pub(super) fn read(cgroup: &Handle) -> Result<Any> {
    let stats = cgroup.stats()?;
    let (type_url, value) = if cgroup.v1.is_empty() {
        ("io.containerd.cgroups.v2.Metrics", v2(&stats))
    } else {
        ("io.containerd.cgroups.v1.Metrics", v1(&stats))
    };
    Ok(Any { type_url: type_url.to_owned(), value: value.0 })
}

/// A message in the making. Numbers that are 0 are left out, which is what their absence means.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(mut self, tag: u32, value: u64) -> Self {
        if value != 0 {
            uint64::encode(tag, &value, &mut self.0);
        }
        self
    }

    fn numbers(mut self, tag: u32, values: &[u64]) -> Self {
        if !values.is_empty() {
            uint64::encode_packed(tag, values, &mut self.0);
        }
        self
    }

    fn real(mut self, tag: u32, value: f64) -> Self {
        if value != 0.0 {
            double::encode(tag, &value, &mut self.0);
        }
        self
    }

    fn text(mut self, tag: u32, value: &String) -> Self {
        if !value.is_empty() {
            string::encode(tag, value, &mut self.0);
        }
        self
    }

    /// Another message, which is there even if it is empty.
    fn message(mut self, tag: u32, message: Self) -> Self {
        bytes::encode(tag, &message.0, &mut self.0);
        self
    }

    fn messages(self, tag: u32, messages: impl Iterator<Item = Self>) -> Self {
        messages.fold(self, |all, message| all.message(tag, message))
    }

    /// Those of `values` that have a tag.
    fn table(self, tags: &[(u32, &str)], values: &BTreeMap<String, u64>) -> Self {
        tags.iter().fold(self, |all, (tag, key)| all.number(*tag, values.get(*key).copied().unwrap_or(0)))
    }
}

/// MemoryStat of v1, by the keys of memory.stat (Documentation/admin-guide/cgroup-v1/memory.rst, 5.2).
const MEMORY_V1: [(u32, &str); 32] = [
    (1, "cache"),
    (2, "rss"),
    (3, "rss_huge"),
    (4, "mapped_file"),
    (5, "dirty"),
    (6, "writeback"),
    (7, "pgpgin"),
    (8, "pgpgout"),
    (9, "pgfault"),
    (10, "pgmajfault"),
    (11, "inactive_anon"),
    (12, "active_anon"),
    (13, "inactive_file"),
    (14, "active_file"),
    (15, "unevictable"),
    (16, "hierarchical_memory_limit"),
    (17, "hierarchical_memsw_limit"),
    (18, "total_cache"),
    (19, "total_rss"),
    (20, "total_rss_huge"),
    (21, "total_mapped_file"),
    (22, "total_dirty"),
    (23, "total_writeback"),
    (24, "total_pgpgin"),
    (25, "total_pgpgout"),
    (26, "total_pgfault"),
    (27, "total_pgmajfault"),
    (28, "total_inactive_anon"),
    (29, "total_active_anon"),
    (30, "total_inactive_file"),
    (31, "total_active_file"),
    (32, "total_unevictable"),
];

/// MemoryStat of v2, by the keys of memory.stat (Documentation/admin-guide/cgroup-v2.rst, "Memory Interface Files").
const MEMORY_V2: [(u32, &str); 35] = [
    (1, "anon"),
    (2, "file"),
    (3, "kernel_stack"),
    (4, "slab"),
    (5, "sock"),
    (6, "shmem"),
    (7, "file_mapped"),
    (8, "file_dirty"),
    (9, "file_writeback"),
    (10, "anon_thp"),
    (11, "inactive_anon"),
    (12, "active_anon"),
    (13, "inactive_file"),
    (14, "active_file"),
    (15, "unevictable"),
    (16, "slab_reclaimable"),
    (17, "slab_unreclaimable"),
    (18, "pgfault"),
    (19, "pgmajfault"),
    (20, "workingset_refault"),
    (21, "workingset_activate"),
    (22, "workingset_nodereclaim"),
    (23, "pgrefill"),
    (24, "pgscan"),
    (25, "pgsteal"),
    (26, "pgactivate"),
    (27, "pgdeactivate"),
    (28, "pglazyfree"),
    (29, "pglazyfreed"),
    (30, "thp_fault_alloc"),
    (31, "thp_collapse_alloc"),
    (39, "workingset_refault_anon"),
    (40, "workingset_refault_file"),
    (41, "workingset_activate_anon"),
    (42, "workingset_activate_file"),
];

/// MemoryEvents of v2, by the keys of memory.events.
const MEMORY_EVENTS: [(u32, &str); 6] =
    [(1, "low"), (2, "high"), (3, "max"), (4, "oom"), (5, "oom_kill"), (6, "oom_group_kill")];

/// MemoryOomControl of v1, by the keys of memory.oom_control.
const OOM_CONTROL: [(u32, &str); 3] = [(1, "oom_kill_disable"), (2, "under_oom"), (3, "oom_kill")];

/// io.containerd.cgroups.v1.Metrics
fn v1(stats: &Stats) -> Message {
    let entry = |entry: &MemoryEntry| {
        Message::default().number(1, entry.limit).number(2, entry.usage).number(3, entry.max).number(4, entry.failcnt)
    };
    let memory = Message::default()
        .table(&MEMORY_V1, &stats.memory.raw)
        .message(33, entry(&stats.memory.usage))
        .message(34, entry(&stats.memory.swap))
        .message(35, entry(&stats.memory.kernel))
        .message(36, entry(&stats.memory.kernel_tcp));
    let usage = &stats.cpu.usage;
    let usage = Message::default()
        .number(1, usage.total)
        .number(2, usage.kernel)
        .number(3, usage.user)
        .numbers(4, &usage.percpu);
    let throttling = &stats.cpu.throttling;
    let throttling = Message::default()
        .number(1, throttling.periods)
        .number(2, throttling.throttled_periods)
        .number(3, throttling.throttled_time);
    let hugetlb = stats.hugetlb.iter().map(|(size, pages)| {
        Message::default().number(1, pages.usage).number(2, pages.max).number(3, pages.failcnt).text(4, size)
    });
    Message::default()
        .messages(1, hugetlb)
        .message(2, Message::default().number(1, stats.pids.current).number(2, stats.pids.limit))
        .message(3, Message::default().message(1, usage).message(2, throttling))
        .message(4, memory)
        .message(5, block_io(stats))
        .messages(9, happened(&OOM_CONTROL, stats))
}

/// BlkIOStat of v1.
fn block_io(stats: &Stats) -> Message {
    let io = &stats.blkio;
    let tables = [
        &io.io_service_bytes_recursive,
        &io.io_serviced_recursive,
        &io.io_queued_recursive,
        &io.io_service_time_recursive,
        &io.io_wait_time_recursive,
        &io.io_merged_recursive,
        &io.io_time_recursive,
        &io.sectors_recursive,
    ];
    let entry = |entry: &BlockIoEntry| {
        Message::default().text(1, &entry.op).number(3, entry.major).number(4, entry.minor).number(5, entry.value)
    };
    tables.iter().zip(1..).fold(Message::default(), |all, (table, tag)| all.messages(tag, table.iter().map(entry)))
}

/// io.containerd.cgroups.v2.Metrics
fn v2(stats: &Stats) -> Message {
    const NANOSECONDS: u64 = 1000;
    let (usage, throttling) = (&stats.cpu.usage, &stats.cpu.throttling);
    let cpu = Message::default()
        .number(1, usage.total / NANOSECONDS)
        .number(2, usage.user / NANOSECONDS)
        .number(3, usage.kernel / NANOSECONDS)
        .number(4, throttling.periods)
        .number(5, throttling.throttled_periods)
        .number(6, throttling.throttled_time / NANOSECONDS)
        .messages(7, stats.cpu.psi.iter().map(pressure))
        .number(8, throttling.bursts)
        .number(9, throttling.burst_time / NANOSECONDS);
    let (usage, swap) = (&stats.memory.usage, &stats.memory.swap_alone);
    let memory = Message::default()
        .table(&MEMORY_V2, &stats.memory.raw)
        .number(32, usage.usage)
        .number(33, usage.limit)
        .number(34, swap.usage)
        .number(35, swap.limit)
        .number(36, usage.max)
        .number(37, swap.max)
        .messages(38, stats.memory.psi.iter().map(pressure));
    let hugetlb = stats.hugetlb.iter().map(|(size, pages)| {
        Message::default().number(1, pages.usage).number(2, pages.limit).text(3, size).number(4, pages.failcnt)
    });
    let pids = &stats.pids;
    // Without a limit it is "max", as with all of v2.
    let most = if pids.limit == 0 && pids.current > 0 { u64::MAX } else { pids.limit };
    Message::default()
        .message(1, Message::default().number(1, pids.current).number(2, most))
        .message(2, cpu)
        .message(4, memory)
        .message(6, io(stats))
        .messages(7, hugetlb)
        .messages(8, happened(&MEMORY_EVENTS, stats))
}

/// What happened for want of memory, if that is known.
fn happened(tags: &[(u32, &str)], stats: &Stats) -> impl Iterator<Item = Message> {
    let events = &stats.memory.events;
    (!events.is_empty()).then(|| Message::default().table(tags, events)).into_iter()
}

/// IOStat of v2: one message for each device, which the statistics have in tables by kind.
fn io(stats: &Stats) -> Message {
    let tag = |serviced: bool, op: &str| match (serviced, op) {
        (false, "Read") => 3,
        (false, _) => 4,
        (true, "Read") => 5,
        (true, _) => 6,
    };
    let mut devices: BTreeMap<(u64, u64), Message> = BTreeMap::new();
    for (serviced, table) in
        [(false, &stats.blkio.io_service_bytes_recursive), (true, &stats.blkio.io_serviced_recursive)]
    {
        for entry in table {
            let device = devices.entry((entry.major, entry.minor)).or_default();
            *device = std::mem::take(device).number(tag(serviced, &entry.op), entry.value);
        }
    }
    let device = |((major, minor), numbers): ((u64, u64), Message)| {
        let mut message = Message::default().number(1, major).number(2, minor);
        message.0.extend(numbers.0);
        message
    };
    Message::default().messages(1, devices.into_iter().map(device)).messages(2, stats.blkio.psi.iter().map(pressure))
}

/// PSIStats
fn pressure(pressure: &Pressure) -> Message {
    let stall = |stall: &Stall| {
        Message::default().real(1, stall.avg10).real(2, stall.avg60).real(3, stall.avg300).number(4, stall.total)
    };
    Message::default().message(1, stall(&pressure.some)).message(2, stall(&pressure.full))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::stats::{Hugetlb, Memory};

    #[test]
    fn numbers_have_the_tags_of_the_proto_files() {
        let mut stats = Stats::default();
        (stats.pids.current, stats.pids.limit) = (3, 7);
        stats.memory.raw = [("anon".to_owned(), 5)].into();
        stats.memory.usage.usage = 300;
        let bytes = v2(&stats).0;
        // pids { current: 3, limit: 7 }, cpu {}, memory { anon: 5, usage: 300 }, io {}
        assert_eq!(bytes, [0x0a, 4, 8, 3, 16, 7, 0x12, 0, 0x22, 6, 8, 5, 0x80, 2, 0xac, 2, 0x32, 0]);
        // Swap has a limit of its own, and memory none.
        stats.memory = Memory::default();
        stats.memory.usage.limit = u64::MAX;
        stats.memory.swap_alone = MemoryEntry { limit: 300, usage: 5, max: 6, failcnt: 0 };
        stats.memory.events = [("low".to_owned(), 0), ("oom".to_owned(), 4), ("oom_kill".to_owned(), 3)].into();
        let bytes = v2(&stats).0;
        // swap_usage, swap_limit, swap_max_usage; memory_events { oom: 4, oom_kill: 3 } at the end
        let swap = [0x90, 2, 5, 0x98, 2, 0xac, 2, 0xa8, 2, 6];
        assert!(bytes.windows(swap.len()).any(|window| window == swap), "{bytes:?}");
        assert!(bytes.ends_with(&[0x42, 4, 32, 4, 40, 3]), "{bytes:?}");
        // Bursts, the limit of huge pages, and no limit of processes.
        (stats.cpu.throttling.bursts, stats.cpu.throttling.burst_time) = (2, 3000);
        stats.hugetlb = [("2MB".to_owned(), Hugetlb { usage: 1, limit: 4, ..Hugetlb::default() })].into();
        stats.pids.limit = 0;
        let bytes = v2(&stats).0;
        let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(has(&[0x12, 4, 64, 2, 72, 3]) && has(&[0x3a, 9, 8, 1, 16, 4, 26, 3, b'2', b'M', b'B']), "{bytes:?}");
        let none = [&[0x0a, 13, 8, 3, 16][..], &[0xff; 9], &[1]].concat();
        assert!(bytes.starts_with(&none), "{bytes:?}");
        stats.memory.raw = [("total_rss".to_owned(), 7)].into();
        let bytes = v1(&stats).0;
        assert!(bytes.windows(3).any(|window| window == [0x98, 1, 7]), "{bytes:?}");
        // memory_oom_control { oom_kill: 3 }
        assert!(bytes.ends_with(&[0x4a, 2, 24, 3]), "{bytes:?}");
    }

    #[test]
    fn a_device_is_one_entry() {
        let mut stats = Stats::default();
        let entry = |op: &str, value| BlockIoEntry { major: 8, minor: 0, op: op.into(), value };
        stats.blkio.io_service_bytes_recursive = vec![entry("Read", 10), entry("Write", 20)];
        stats.blkio.io_serviced_recursive = vec![entry("Read", 1), entry("Write", 2)];
        assert_eq!(io(&stats).0, [0x0a, 10, 8, 8, 24, 10, 32, 20, 40, 1, 48, 2]);
    }
}
