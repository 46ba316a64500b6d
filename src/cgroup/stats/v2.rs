//! Statistics of a cgroup v2 directory (Documentation/admin-guide/cgroup-v2.rst).

use super::{BlockIoEntry, Hugetlb, MemoryEntry, Pressure, Stall, Stats, parse};
use crate::Result;
use crate::cgroup::tree;
use crate::error::Doing;
use std::fs;
use std::path::Path;

/// Fills `stats` with what `directory` has.
pub fn read(directory: &Path, stats: &mut Stats) -> Result<()> {
    cpu(directory, stats)?;
    memory(directory, stats)?;
    pids(directory, stats)?;
    block_io(directory, stats)?;
    hugetlb(directory, stats)?;
    stats.cpu.psi = pressure(directory, "cpu.pressure")?;
    stats.memory.psi = pressure(directory, "memory.pressure")?;
    stats.blkio.psi = pressure(directory, "io.pressure")?;
    Ok(())
}

fn cpu(directory: &Path, stats: &mut Stats) -> Result<()> {
    const NANOSECONDS: u64 = 1000;
    for (key, value) in parse::pairs(directory, "cpu.stat")? {
        let (usage, throttling) = (&mut stats.cpu.usage, &mut stats.cpu.throttling);
        match key.as_str() {
            "usage_usec" => usage.total = value * NANOSECONDS,
            "user_usec" => usage.user = value * NANOSECONDS,
            "system_usec" => usage.kernel = value * NANOSECONDS,
            "nr_periods" => throttling.periods = value,
            "nr_throttled" => throttling.throttled_periods = value,
            "throttled_usec" => throttling.throttled_time = value * NANOSECONDS,
            "nr_bursts" => throttling.bursts = value,
            "burst_usec" => throttling.burst_time = value * NANOSECONDS,
            _ => {}
        }
    }
    Ok(())
}

fn memory(directory: &Path, stats: &mut Stats) -> Result<()> {
    let memory = &mut stats.memory;
    memory.raw = parse::pairs(directory, "memory.stat")?.into_iter().collect();
    memory.cache = memory.raw.get("file").copied().unwrap_or(0);
    memory.events = parse::pairs(directory, "memory.events")?.into_iter().collect();
    let entry = |name: &str| -> Result<Option<MemoryEntry>> {
        let Some(usage) = parse::number(directory, &format!("{name}.current"))? else { return Ok(None) };
        let limit = parse::number(directory, &format!("{name}.max"))?.unwrap_or(0);
        let max = parse::number(directory, &format!("{name}.peak"))?.unwrap_or(0);
        Ok(Some(MemoryEntry { limit, usage, max, failcnt: 0 }))
    };
    let Some(usage) = entry("memory")? else { return Ok(()) };
    let swap = entry("memory.swap")?.unwrap_or_default();
    // v1 counts memory and swap together, and that is what users of the field expect.
    memory.swap = MemoryEntry {
        usage: swap.usage + usage.usage,
        limit: if swap.limit == u64::MAX { u64::MAX } else { swap.limit.saturating_add(usage.limit) },
        max: 0,
        failcnt: 0,
    };
    memory.swap_alone = swap;
    memory.usage = usage;
    Ok(())
}

fn pids(directory: &Path, stats: &mut Stats) -> Result<()> {
    let Some(current) = parse::number(directory, "pids.current")? else {
        return match tree::pids(directory, false) {
            Ok(pids) => {
                stats.pids.current = pids.len() as u64;
                Ok(())
            }
            Err(error) if tree::is_gone(&error) => Ok(()),
            Err(error) => Err(error).doing(|| format!("read {}/cgroup.procs", directory.display())),
        };
    };
    stats.pids.current = current;
    stats.pids.limit = parse::number(directory, "pids.max")?.filter(|limit| *limit != u64::MAX).unwrap_or(0);
    Ok(())
}

fn block_io(directory: &Path, stats: &mut Stats) -> Result<()> {
    let text = parse::read(directory, "io.stat")?.unwrap_or_default();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let Some((major, minor)) = fields.next().and_then(parse::device) else { continue };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let (op, table) = match key {
                "rbytes" => ("Read", &mut stats.blkio.io_service_bytes_recursive),
                "wbytes" => ("Write", &mut stats.blkio.io_service_bytes_recursive),
                "rios" => ("Read", &mut stats.blkio.io_serviced_recursive),
                "wios" => ("Write", &mut stats.blkio.io_serviced_recursive),
                _ => continue,
            };
            let value = parse::count(value).unwrap_or(0);
            table.push(BlockIoEntry { major, minor, op: op.to_owned(), value });
        }
    }
    Ok(())
}

fn hugetlb(directory: &Path, stats: &mut Stats) -> Result<()> {
    for size in page_sizes() {
        // Reservations are counted apart since Linux 5.7.
        let reserved = parse::number(directory, &format!("hugetlb.{size}.rsvd.current"))?;
        let Some(usage) =
            reserved.map_or_else(|| parse::number(directory, &format!("hugetlb.{size}.current")), |r| Ok(Some(r)))?
        else {
            continue;
        };
        let events = parse::pairs(directory, &format!("hugetlb.{size}.events"))?;
        let failcnt = events.iter().find(|(key, _)| key == "max").map_or(0, |(_, value)| *value);
        let limit = parse::number(directory, &format!("hugetlb.{size}.max"))?.unwrap_or(0);
        stats.hugetlb.insert(size, Hugetlb { usage, max: 0, failcnt, limit });
    }
    Ok(())
}

/// The huge page sizes of this machine as cgroup files spell them: "64KB", "2MB", "1GB".
pub(super) fn page_sizes() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            page_size(name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?)
        })
        .collect()
}

fn page_size(kilobytes: u64) -> Option<String> {
    Some(match kilobytes {
        0 => return None,
        k if k >= 1 << 20 => format!("{}GB", k >> 20),
        k if k >= 1 << 10 => format!("{}MB", k >> 10),
        k => format!("{k}KB"),
    })
}

fn pressure(directory: &Path, file: &str) -> Result<Option<Pressure>> {
    let Some(text) = parse::read(directory, file)? else { return Ok(None) };
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let stall = match fields.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        *stall = read_stall(fields);
    }
    Ok(Some(pressure))
}

fn read_stall<'a>(fields: impl Iterator<Item = &'a str>) -> Stall {
    let mut stall = Stall::default();
    for (key, value) in fields.filter_map(|field| field.split_once('=')) {
        let share = value.parse().unwrap_or(0.0);
        match key {
            "avg10" => stall.avg10 = share,
            "avg60" => stall.avg60 = share,
            "avg300" => stall.avg300 = share,
            "total" => stall.total = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    stall
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_directory_becomes_the_json_that_engines_read() {
        let directory = tempfile::tempdir().unwrap();
        let files = [
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 2\nthrottled_usec 5\n",
            ),
            ("memory.stat", "anon 7\nfile 9\n"),
            ("memory.current", "100\n"),
            ("memory.max", "1000\n"),
            ("memory.peak", "150\n"),
            ("memory.swap.current", "5\n"),
            ("memory.swap.max", "max\n"),
            ("memory.swap.peak", "6\n"),
            ("memory.events", "low 0\nhigh 0\nmax 2\noom 1\noom_kill 1\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
            ("cpu.pressure", "some avg10=1.50 avg60=0.00 avg300=0.00 total=77\n"),
        ];
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let mut stats = Stats::default();
        read(directory.path(), &mut stats).unwrap();
        assert_eq!(stats.memory.swap_alone, MemoryEntry { limit: u64::MAX, usage: 5, max: 6, failcnt: 0 });
        assert_eq!((stats.memory.events["max"], stats.memory.events["oom_kill"]), (2, 1));
        assert_eq!(
            serde_json::to_value(&stats).unwrap(),
            serde_json::json!({
                "cpu": {
                    "usage": {"total": 30000, "kernel": 10000, "user": 20000},
                    "throttling": {"periods": 4, "throttledPeriods": 2, "throttledTime": 5000},
                    "psi": {"some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 77}},
                },
                "cpuset": {
                    "cpu_exclusive": 0, "mem_hardwall": 0, "mem_exclusive": 0, "memory_migrate": 0, "memory_spread_page": 0,
                    "memory_spread_slab": 0, "memory_pressure": 0, "sched_load_balance": 0, "sched_relax_domain_level": 0,
                },
                "memory": {
                    "cache": 9,
                    "usage": {"limit": 1000, "usage": 100, "max": 150, "failcnt": 0},
                    "swap": {"limit": u64::MAX, "usage": 105, "failcnt": 0},
                    "raw": {"anon": 7, "file": 9},
                },
                "pids": {"current": 3},
                "blkio": {
                    "ioServiceBytesRecursive": [
                        {"major": 8, "op": "Read", "value": 1}, {"major": 8, "op": "Write", "value": 2}],
                    "ioServicedRecursive": [
                        {"major": 8, "op": "Read", "value": 3}, {"major": 8, "op": "Write", "value": 4}],
                },
                "hugetlb": {},
            })
        );
    }

    #[test]
    fn page_sizes_are_spelled_as_in_file_names() {
        assert_eq!(page_size(64).as_deref(), Some("64KB"));
        assert_eq!(page_size(2048).as_deref(), Some("2MB"));
        assert_eq!(page_size(1 << 20).as_deref(), Some("1GB"));
        assert_eq!(page_size(0), None);
    }
}
