//! Statistics of cgroup v1 directories (Documentation/admin-guide/cgroup-v1/).

use super::{BlockIo, BlockIoEntry, CpuSet, Hugetlb, MemoryEntry, Stats, parse, v2};
use crate::Result;
use std::path::Path;

/// Fills `stats` with what the directory of `controller` has.
pub fn read(controller: &str, directory: &Path, stats: &mut Stats) -> Result<()> {
    match controller {
        "cpu" => cpu(directory, stats),
        "cpuacct" => cpuacct(directory, stats),
        "cpuset" => {
            stats.cpuset = cpuset(directory)?;
            Ok(())
        }
        "memory" => memory(directory, stats),
        "pids" => pids(directory, stats),
        "blkio" => block_io(directory, &mut stats.blkio),
        "hugetlb" => hugetlb(directory, stats),
        _ => Ok(()),
    }
}

fn cpu(directory: &Path, stats: &mut Stats) -> Result<()> {
    for (key, value) in parse::pairs(directory, "cpu.stat")? {
        match key.as_str() {
            "nr_periods" => stats.cpu.throttling.periods = value,
            "nr_throttled" => stats.cpu.throttling.throttled_periods = value,
            "throttled_time" => stats.cpu.throttling.throttled_time = value,
            _ => {}
        }
    }
    Ok(())
}

fn cpuacct(directory: &Path, stats: &mut Stats) -> Result<()> {
    /// Nanoseconds in a tick of USER_HZ, which is 100 in the kernel's interface on every architecture supported here.
    const TICK: u64 = 10_000_000;
    let usage = &mut stats.cpu.usage;
    let Some(total) = parse::number(directory, "cpuacct.usage")? else { return Ok(()) };
    usage.total = total;
    for (key, ticks) in parse::pairs(directory, "cpuacct.stat")? {
        match key.as_str() {
            "user" => usage.user = ticks * TICK,
            "system" => usage.kernel = ticks * TICK,
            _ => {}
        }
    }
    let percpu = parse::read(directory, "cpuacct.usage_percpu")?.unwrap_or_default();
    usage.percpu = percpu.split_whitespace().filter_map(parse::count).collect();
    // "cpu user system", a header and a line for each CPU (Linux 4.6).
    let all = parse::read(directory, "cpuacct.usage_all")?.unwrap_or_default();
    let rows = || all.lines().skip(1).map(|line| line.split(' ').filter_map(parse::count).collect::<Vec<_>>());
    usage.percpu_user = rows().filter_map(|row| row.get(1).copied()).collect();
    usage.percpu_kernel = rows().filter_map(|row| row.get(2).copied()).collect();
    Ok(())
}

fn cpuset(directory: &Path) -> Result<CpuSet> {
    let list = |file: &str| -> Result<Vec<u16>> {
        Ok(parse::read(directory, file)?.and_then(|text| parse::ranges(&text)).unwrap_or_default())
    };
    let number = |file: &str| parse::number(directory, file).map(|number| number.unwrap_or(0));
    let level = parse::read(directory, "cpuset.sched_relax_domain_level")?;
    Ok(CpuSet {
        cpus: list("cpuset.cpus")?,
        cpu_exclusive: number("cpuset.cpu_exclusive")?,
        mems: list("cpuset.mems")?,
        mem_hardwall: number("cpuset.mem_hardwall")?,
        mem_exclusive: number("cpuset.mem_exclusive")?,
        memory_migrate: number("cpuset.memory_migrate")?,
        memory_spread_page: number("cpuset.memory_spread_page")?,
        memory_spread_slab: number("cpuset.memory_spread_slab")?,
        memory_pressure: number("cpuset.memory_pressure")?,
        sched_load_balance: number("cpuset.sched_load_balance")?,
        sched_relax_domain_level: level.and_then(|text| text.trim().parse().ok()).unwrap_or(0),
    })
}

fn memory(directory: &Path, stats: &mut Stats) -> Result<()> {
    let entry = |name: &str| -> Result<MemoryEntry> {
        let number = |what: &str| parse::number(directory, &format!("{name}.{what}")).map(|number| number.unwrap_or(0));
        Ok(MemoryEntry {
            limit: number("limit_in_bytes")?,
            usage: number("usage_in_bytes")?,
            max: number("max_usage_in_bytes")?,
            failcnt: number("failcnt")?,
        })
    };
    let memory = &mut stats.memory;
    memory.raw = parse::pairs(directory, "memory.stat")?.into_iter().collect();
    memory.cache = memory.raw.get("cache").copied().unwrap_or(0);
    memory.events = parse::pairs(directory, "memory.oom_control")?.into_iter().collect();
    memory.usage = entry("memory")?;
    memory.swap = entry("memory.memsw")?;
    memory.kernel = entry("memory.kmem")?;
    memory.kernel_tcp = entry("memory.kmem.tcp")?;
    Ok(())
}

fn pids(directory: &Path, stats: &mut Stats) -> Result<()> {
    let Some(current) = parse::number(directory, "pids.current")? else { return Ok(()) };
    stats.pids.current = current;
    stats.pids.limit = parse::number(directory, "pids.max")?.filter(|limit| *limit != u64::MAX).unwrap_or(0);
    Ok(())
}

/// The kernel has had several sources of block statistics; the first that has anything is taken: BFQ with debugging,
/// BFQ, the old CFQ scheduler, the throttler with descendants, the throttler.
fn block_io(directory: &Path, stats: &mut BlockIo) -> Result<()> {
    let read = |file: &str| entries(directory, file);
    for prefix in ["blkio.bfq.", "blkio.", "blkio.throttle."] {
        let serviced = read(&format!("{prefix}io_serviced_recursive"))?;
        if serviced.is_empty() {
            continue;
        }
        stats.io_serviced_recursive = serviced;
        stats.io_service_bytes_recursive = read(&format!("{prefix}io_service_bytes_recursive"))?;
        stats.sectors_recursive = read(&format!("{prefix}sectors_recursive"))?;
        stats.io_service_time_recursive = read(&format!("{prefix}io_service_time_recursive"))?;
        stats.io_wait_time_recursive = read(&format!("{prefix}io_wait_time_recursive"))?;
        stats.io_merged_recursive = read(&format!("{prefix}io_merged_recursive"))?;
        stats.io_queued_recursive = read(&format!("{prefix}io_queued_recursive"))?;
        stats.io_time_recursive = read(&format!("{prefix}time_recursive"))?;
        return Ok(());
    }
    stats.io_serviced_recursive = read("blkio.throttle.io_serviced")?;
    stats.io_service_bytes_recursive = read("blkio.throttle.io_service_bytes")?;
    Ok(())
}

/// The lines "8:0 Read 1282048" or "8:0 6792"; the "Total" of all devices is left out.
fn entries(directory: &Path, file: &str) -> Result<Vec<BlockIoEntry>> {
    let text = parse::read(directory, file)?.unwrap_or_default();
    let entry = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (op, value) = match fields[..] {
            [_, op, value] => (op, value),
            [_, value] => ("", value),
            _ => return None,
        };
        let (major, minor) = parse::device(fields[0])?;
        Some(BlockIoEntry { major, minor, op: op.to_owned(), value: parse::count(value)? })
    };
    Ok(text.lines().filter_map(entry).collect())
}

fn hugetlb(directory: &Path, stats: &mut Stats) -> Result<()> {
    for size in v2::page_sizes() {
        for prefix in [format!("hugetlb.{size}.rsvd"), format!("hugetlb.{size}")] {
            let number = |what: &str| parse::number(directory, &format!("{prefix}.{what}"));
            let Some(usage) = number("usage_in_bytes")? else { continue };
            let max = number("max_usage_in_bytes")?.unwrap_or(0);
            let failcnt = number("failcnt")?.unwrap_or(0);
            stats.hugetlb.insert(size, Hugetlb { usage, max, failcnt, limit: 0 });
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn block_statistics_come_from_the_first_source_that_has_any() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("blkio.bfq.io_serviced_recursive", "");
        write("blkio.throttle.io_serviced_recursive", "8:0 Read 3\n8:0 Write 4\nTotal 7\n");
        write("blkio.throttle.io_service_bytes_recursive", "8:0 Read 30\nTotal 30\n");
        let mut stats = Stats::default();
        read("blkio", directory.path(), &mut stats).unwrap();
        let text: Vec<_> = stats
            .blkio
            .io_serviced_recursive
            .iter()
            .map(|e| format!("{}:{} {} {}", e.major, e.minor, e.op, e.value))
            .collect();
        assert_eq!(text, ["8:0 Read 3", "8:0 Write 4"]);
        assert_eq!(stats.blkio.io_service_bytes_recursive.len(), 1);
    }

    #[test]
    fn cpu_time_is_in_nanoseconds() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("cpuacct.usage", "5000\n");
        write("cpuacct.stat", "user 2\nsystem 3\n");
        write("cpuacct.usage_percpu", "10 20 \n");
        write("cpuacct.usage_all", "cpu user system\n0 1 2\n1 3 4\n");
        let mut stats = Stats::default();
        read("cpuacct", directory.path(), &mut stats).unwrap();
        let usage = stats.cpu.usage;
        assert_eq!((usage.total, usage.user, usage.kernel), (5000, 20_000_000, 30_000_000));
        assert_eq!((usage.percpu, usage.percpu_user, usage.percpu_kernel), (vec![10, 20], vec![1, 3], vec![2, 4]));
    }
}
