//! linux.resources as writes to cgroup files, controller by controller, for v1 and for v2.
//!
//! 0 means "not set" wherever the kernel has no use for it, as engines send it so.

use super::convert;
use super::write::Write;
use crate::{Error, Result};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

/// The period that the kernel assumes (Documentation/admin-guide/cgroup-v2.rst, cpu.max).
pub(super) const DEFAULT_PERIOD: u64 = 100_000;

const MEMORY: &str = "linux.resources.memory";
const CPU: &str = "linux.resources.cpu";
const BLOCK_IO: &str = "linux.resources.blockIO";

/// The writes that one controller needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The controller's name in the hierarchy it was compiled for.
    pub controller: &'static str,
    /// Its writes, in order.
    pub writes: Vec<Write>,
}

/// The two interfaces of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy of its own.
    V1,
    /// The unified hierarchy.
    V2,
}

/// A controller's name in both versions, and what compiles its writes.
struct Controller {
    v1: &'static str,
    v2: Option<&'static str>,
    compile: fn(&LinuxResources, Version) -> Result<Vec<Write>>,
}

const CONTROLLERS: [Controller; 9] = [
    Controller { v1: "pids", v2: Some("pids"), compile: pids },
    Controller { v1: "memory", v2: Some("memory"), compile: memory },
    Controller { v1: "blkio", v2: Some("io"), compile: block_io },
    Controller { v1: "cpu", v2: Some("cpu"), compile: cpu },
    Controller { v1: "cpuset", v2: Some("cpuset"), compile: cpuset },
    Controller { v1: "hugetlb", v2: Some("hugetlb"), compile: hugetlb },
    Controller { v1: "rdma", v2: Some("rdma"), compile: rdma },
    Controller { v1: "net_cls", v2: None, compile: net_cls },
    Controller { v1: "net_prio", v2: None, compile: net_prio },
];

/// The limits of `resources`, for each controller in the version that `version` says it has here.
///
/// # Errors
/// A value that contradicts another or is out of range, or a field that the controller's version does not know.
pub fn compile(resources: &LinuxResources, version: impl Fn(&str, Option<&str>) -> Version) -> Result<Vec<Limits>> {
    let mut limits = Vec::new();
    for Controller { v1, v2, compile } in CONTROLLERS {
        let chosen = version(v1, v2);
        let writes = compile(resources, chosen)?;
        if !writes.is_empty() {
            let controller = if chosen == Version::V2 { v2.unwrap_or(v1) } else { v1 };
            limits.push(Limits { controller, writes });
        }
    }
    Ok(limits)
}

/// Whether `resources` asks for anything beyond device rules.
pub fn any(resources: &LinuxResources) -> bool {
    resources.memory().is_some()
        || resources.cpu().is_some()
        || resources.pids().is_some()
        || resources.block_io().is_some()
        || resources.hugepage_limits().as_ref().is_some_and(|l| !l.is_empty())
        || resources.network().is_some()
        || resources.rdma().as_ref().is_some_and(|l| !l.is_empty())
        || resources.unified().as_ref().is_some_and(|l| !l.is_empty())
}

/// The writes of linux.resources.unified, by name, a line each.
///
/// # Errors
/// A name that is no plain file name of a controller.
pub fn unified(resources: &LinuxResources) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    let Some(map) = resources.unified() else { return Ok(writes) };
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort();
    if map.get("cpu.idle").is_some_and(|idle| idle.trim() == "1") {
        entries.retain(|(file, _)| *file != "cpu.weight");
    }
    for (file, value) in entries {
        let field = format!("linux.resources.unified[{file:?}]");
        if file.contains(['/', '\0']) {
            return Err(Error::config(&field, "must be a file name (no slashes)"));
        }
        if file.find('.').is_none_or(|dot| dot == 0) {
            return Err(Error::config(&field, "must be in the form CONTROLLER.PARAMETER, such as \"memory.high\""));
        }
        writes.extend(value.lines().map(|line| Write::new(file, line, &field)));
    }
    Ok(writes)
}

/// The refusal of linux.resources.unified where controllers are those of v1.
pub(super) fn unified_on_v1() -> Error {
    let problem =
        "invalid configuration: this machine keeps its controllers on cgroup v1: use the v1 fields of linux.resources";
    Error::config("linux.resources.unified", problem)
}

/// Refuses `field` if it is set: cgroup v2 has nothing like it.
fn refuse(set: bool, field: &str) -> Result<()> {
    if set { Err(Error::config(field, "cgroup v2 has no such limit: leave the field out")) } else { Ok(()) }
}

/// The limit as v2 files take it.
fn or_max(value: i64) -> String {
    if value == -1 { "max".to_owned() } else { value.to_string() }
}

/// The value, unless it is missing or 0.
pub(super) fn set<T: PartialEq + Default>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

fn pids(resources: &LinuxResources, _: Version) -> Result<Vec<Write>> {
    let Some(pids) = resources.pids() else { return Ok(Vec::new()) };
    let limit = match pids.limit() {
        // systemd takes no TasksMax=0, and so both drivers make 1 of it: no difference, the init is there already.
        0 => "1".to_owned(),
        limit if limit < 0 => "max".to_owned(),
        limit => limit.to_string(),
    };
    Ok(vec![Write::new("pids.max", limit, "linux.resources.pids.limit")])
}

fn memory(resources: &LinuxResources, version: Version) -> Result<Vec<Write>> {
    match (resources.memory(), version) {
        (None, _) => Ok(Vec::new()),
        (Some(memory), Version::V1) => memory_v1(memory, None),
        (Some(memory), Version::V2) => memory_v2(memory),
    }
}

pub(super) fn swappiness(memory: &LinuxMemory) -> Option<u64> {
    // Engines write -1 for "not set".
    memory.swappiness().filter(|&swappiness| swappiness != u64::MAX)
}

/// The v1 writes. The kernel holds limit <= memory+swap at every moment, so where both change, the one that widens the
/// room goes first; `current` is the limit in force, `None` on a new cgroup, which has none.
pub(super) fn memory_v1(memory: &LinuxMemory, current: Option<u64>) -> Result<Vec<Write>> {
    let limit = set(memory.limit()).map(|v| Write::new("memory.limit_in_bytes", v, format!("{MEMORY}.limit")));
    let unlimited = memory.limit() == Some(-1) && set(memory.swap()).is_none();
    let swap = if unlimited { Some(-1) } else { set(memory.swap()) };
    let total =
        swap.map(|v| Write::new("memory.memsw.limit_in_bytes", v, format!("{MEMORY}.swap")).ignore_missing(unlimited));
    let widens =
        |swap: i64| swap == -1 || current.is_some_and(|current| u64::try_from(swap).is_ok_and(|s| current < s));
    let total_first = swap.is_some_and(widens);
    let mut writes: Vec<Write> =
        if total_first { [total, limit] } else { [limit, total] }.into_iter().flatten().collect();
    if let Some(v) = set(memory.reservation()) {
        writes.push(Write::new("memory.soft_limit_in_bytes", v, format!("{MEMORY}.reservation")));
    }
    if memory.disable_oom_killer() == Some(true) {
        writes.push(Write::new("memory.oom_control", 1, format!("{MEMORY}.disableOOMKiller")));
    }
    if let Some(v) = swappiness(memory) {
        let field = format!("{MEMORY}.swappiness");
        if v > 100 {
            return Err(Error::config(&field, format!("is {v}: use a number from 0 to 100")));
        }
        writes.push(Write::new("memory.swappiness", v, field));
    }
    Ok(writes)
}

fn memory_v2(memory: &LinuxMemory) -> Result<Vec<Write>> {
    refuse(memory.disable_oom_killer() == Some(true), &format!("{MEMORY}.disableOOMKiller"))?;
    refuse(swappiness(memory).is_some(), &format!("{MEMORY}.swappiness"))?;
    let (limit, total) = (memory.limit().unwrap_or(0), memory.swap().unwrap_or(0));
    let field = format!("{MEMORY}.swap");
    let swap = convert::swap_limit(limit, total).map_err(|problem| Error::config(&field, problem))?;
    let mut writes = Vec::new();
    if let Some(v) = swap {
        // Without swap accounting, "no limit" and "no swap" hold anyway.
        writes.push(Write::new("memory.swap.max", or_max(v), field).ignore_missing(v <= 0));
    }
    if limit != 0 {
        writes.push(Write::new("memory.max", or_max(limit), format!("{MEMORY}.limit")));
    }
    if let Some(v) = set(memory.reservation()) {
        writes.push(Write::new("memory.low", or_max(v), format!("{MEMORY}.reservation")));
    }
    Ok(writes)
}

fn cpu(resources: &LinuxResources, version: Version) -> Result<Vec<Write>> {
    match (resources.cpu(), version) {
        (None, _) => Ok(Vec::new()),
        (Some(cpu), Version::V1) => Ok(cpu_v1(cpu)),
        (Some(cpu), Version::V2) => cpu_v2(cpu),
    }
}

/// What is to be said when both a weight and `idle` are asked for: the kernel refuses to set the weight of a cgroup that
/// is idle (kernel/sched/core.c, `sched_group_set_shares`).
pub fn weight_of_idle(resources: &LinuxResources) -> Option<&'static str> {
    let cpu = resources.cpu().as_ref();
    if cpu.is_some_and(|cpu| is_idle(cpu) && set(cpu.shares()).is_some()) {
        return Some("linux.resources.cpu: unable to apply both shares and idle: shares is left out");
    }
    let file = |name: &str| resources.unified().as_ref().and_then(|map| map.get(name));
    let both = file("cpu.idle").is_some_and(|idle| idle.trim() == "1") && file("cpu.weight").is_some();
    both.then_some("linux.resources.unified: unable to apply both cpu.weight and cpu.idle: cpu.weight is left out")
}

fn is_idle(cpu: &LinuxCpu) -> bool {
    cpu.idle() == Some(1)
}

fn cpu_v1(cpu: &LinuxCpu) -> Vec<Write> {
    let mut writes = Vec::new();
    let idle = cpu.idle().map(|v| Write::new("cpu.idle", v, format!("{CPU}.idle")).ignore_missing(v == 0));
    writes.extend(idle);
    if let Some(v) = set(cpu.shares()).filter(|_| !is_idle(cpu)) {
        writes.push(Write::new("cpu.shares", v, format!("{CPU}.shares")).checked());
    }
    // Real-time limits come before the task joins, or a SCHED_RR task could not.
    if let Some(v) = set(cpu.realtime_period()) {
        writes.push(Write::new("cpu.rt_period_us", v, format!("{CPU}.realtimePeriod")).retried());
    }
    if let Some(v) = set(cpu.realtime_runtime()) {
        writes.push(Write::new("cpu.rt_runtime_us", v, format!("{CPU}.realtimeRuntime")));
    }
    if let Some(v) = set(cpu.period()) {
        writes.push(Write::new("cpu.cfs_period_us", v, format!("{CPU}.period")).retried());
    }
    if let Some(v) = cpu.burst() {
        // Kernels before 5.14 have none, and runc passes over that here.
        let write = Write::new("cpu.cfs_burst_us", v, format!("{CPU}.burst")).retried();
        writes.push(if v == 0 { write.ignore_missing(true) } else { write.warn_missing() });
    }
    if let Some(v) = set(cpu.quota()) {
        writes.push(Write::new("cpu.cfs_quota_us", v, format!("{CPU}.quota")));
    }
    writes
}

fn cpu_v2(cpu: &LinuxCpu) -> Result<Vec<Write>> {
    refuse(set(cpu.realtime_runtime()).is_some(), &format!("{CPU}.realtimeRuntime"))?;
    refuse(set(cpu.realtime_period()).is_some(), &format!("{CPU}.realtimePeriod"))?;
    let mut writes = Vec::new();
    if let Some(v) = cpu.idle() {
        writes.push(Write::new("cpu.idle", v, format!("{CPU}.idle")).ignore_missing(v == 0));
    }
    if let Some(v) = set(cpu.shares()).filter(|_| !is_idle(cpu)) {
        writes.push(Write::new("cpu.weight", convert::cpu_weight(v), format!("{CPU}.shares")));
    }
    if let Some(v) = cpu.burst() {
        writes.push(Write::new("cpu.max.burst", v, format!("{CPU}.burst")).retried().ignore_missing(v == 0));
    }
    let (quota, period) = (set(cpu.quota()), set(cpu.period()));
    if quota.is_some() || period.is_some() {
        let field = if quota.is_some() { "quota" } else { "period" };
        let quota = quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        let value = format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD));
        writes.push(Write::new("cpu.max", value, format!("{CPU}.{field}")));
    }
    Ok(writes)
}

fn cpuset(resources: &LinuxResources, _: Version) -> Result<Vec<Write>> {
    let Some(cpu) = resources.cpu() else { return Ok(Vec::new()) };
    let lists = [("cpus", cpu.cpus()), ("mems", cpu.mems())];
    Ok(lists
        .into_iter()
        .filter_map(|(name, list)| list.as_ref().filter(|list| !list.is_empty()).map(|list| (name, list)))
        .map(|(name, list)| Write::new(format!("cpuset.{name}"), list, format!("{CPU}.{name}")))
        .collect())
}

fn block_io(resources: &LinuxResources, version: Version) -> Result<Vec<Write>> {
    let Some(io) = resources.block_io() else { return Ok(Vec::new()) };
    let mut writes = match version {
        Version::V1 => weights_v1(io)?,
        Version::V2 => weights_v2(io)?,
    };
    let rates = [
        ("throttleReadBpsDevice", "read_bps", "rbps", io.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", "write_bps", "wbps", io.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", "read_iops", "riops", io.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", "write_iops", "wiops", io.throttle_write_iops_device()),
    ];
    for (field, v1, v2, devices) in rates {
        for (index, device) in devices.iter().flatten().enumerate() {
            let field = format!("{BLOCK_IO}.{field}[{index}]");
            writes.push(match version {
                Version::V1 => {
                    let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
                    Write::new(format!("blkio.throttle.{v1}_device"), value, field)
                }
                Version::V2 => Write::new("io.max", rate_v2(device, v2), field),
            });
        }
    }
    Ok(writes)
}

/// In v1, a rate of 0 takes the limit away; io.max calls that "max".
fn rate_v2(device: &LinuxThrottleDevice, key: &str) -> String {
    let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
    format!("{}:{} {key}={rate}", device.major(), device.minor())
}

/// The weight, checked against the range that the runtime spec gives it.
fn weight(value: Option<u16>, field: &str) -> Result<Option<u16>> {
    match set(value) {
        Some(v) if !(10..=1000).contains(&v) => {
            Err(Error::config(field, format!("is {v}: use a weight from 10 to 1000")))
        }
        v => Ok(v),
    }
}

fn weights_v1(io: &LinuxBlockIo) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    let field = format!("{BLOCK_IO}.weight");
    if let Some(v) = weight(io.weight(), &field)? {
        writes.push(Write::new("blkio.weight", v, field).or_instead("blkio.bfq.weight", v));
    }
    let field = format!("{BLOCK_IO}.leafWeight");
    if let Some(v) = weight(io.leaf_weight(), &field)? {
        writes.push(Write::new("blkio.leaf_weight", v, field));
    }
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        let number = format!("{}:{}", device.major(), device.minor());
        let field = format!("{BLOCK_IO}.weightDevice[{index}].weight");
        if let Some(v) = weight(device.weight(), &field)? {
            let value = format!("{number} {v}");
            writes.push(Write::new("blkio.weight_device", &value, field).or_instead("blkio.bfq.weight_device", &value));
        }
        let field = format!("{BLOCK_IO}.weightDevice[{index}].leafWeight");
        if let Some(v) = weight(device.leaf_weight(), &field)? {
            writes.push(Write::new("blkio.leaf_weight_device", format!("{number} {v}"), field));
        }
    }
    Ok(writes)
}

fn weights_v2(io: &LinuxBlockIo) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    refuse(set(io.leaf_weight()).is_some(), &format!("{BLOCK_IO}.leafWeight"))?;
    let field = format!("{BLOCK_IO}.weight");
    if let Some(v) = weight(io.weight(), &field)? {
        writes.push(Write::new("io.bfq.weight", v, field).or_instead("io.weight", convert::io_weight(v)));
    }
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        let number = format!("{}:{}", device.major(), device.minor());
        let field = format!("{BLOCK_IO}.weightDevice[{index}]");
        refuse(set(device.leaf_weight()).is_some(), &format!("{field}.leafWeight"))?;
        let field = format!("{field}.weight");
        if let Some(v) = weight(device.weight(), &field)? {
            let converted = format!("{number} {}", convert::io_weight(v));
            writes.push(Write::new("io.bfq.weight", format!("{number} {v}"), field).or_instead("io.weight", converted));
        }
    }
    Ok(writes)
}

fn hugetlb(resources: &LinuxResources, version: Version) -> Result<Vec<Write>> {
    let limit = if version == Version::V1 { "limit_in_bytes" } else { "max" };
    let mut writes = Vec::new();
    for (index, page) in resources.hugepage_limits().iter().flatten().enumerate() {
        let field = format!("linux.resources.hugepageLimits[{index}]");
        let (size, value) = (page.page_size(), page.limit());
        let digits = size.trim_end_matches("KB").trim_end_matches("MB").trim_end_matches("GB");
        if digits.len() + 2 != size.len() || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            let problem = format!("is {size:?}: use a size such as \"2MB\" (see /sys/kernel/mm/hugepages)");
            return Err(Error::config(format_args!("{field}.pageSize"), problem));
        }
        if value < 0 {
            return Err(Error::config(format_args!("{field}.limit"), format!("is {value}: use a number of bytes")));
        }
        let field = format!("{field}.limit");
        writes.push(Write::new(format!("hugetlb.{size}.{limit}"), value, &field));
        // Reservations are limited since Linux 5.7.
        writes.push(Write::new(format!("hugetlb.{size}.rsvd.{limit}"), value, &field).ignore_missing(true));
    }
    Ok(writes)
}

fn rdma(resources: &LinuxResources, _: Version) -> Result<Vec<Write>> {
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    let mut writes = Vec::new();
    for (name, limits) in devices {
        let field = format!("linux.resources.rdma[{name:?}]");
        let mut value = name.clone();
        for (key, limit) in [("hca_handle", limits.hca_handles()), ("hca_object", limits.hca_objects())] {
            if let Some(limit) = limit {
                value.push_str(&format!(" {key}={limit}"));
            }
        }
        if value == *name {
            return Err(Error::config(&field, "sets no limit: set hcaHandles or hcaObjects"));
        }
        writes.push(Write::new("rdma.max", value, field));
    }
    Ok(writes)
}

fn net_cls(resources: &LinuxResources, version: Version) -> Result<Vec<Write>> {
    let class = resources.network().as_ref().and_then(|network| set(network.class_id()));
    let field = "linux.resources.network.classID";
    refuse(version == Version::V2 && class.is_some(), field)?;
    Ok(class.map(|class| Write::new("net_cls.classid", class, field)).into_iter().collect())
}

fn net_prio(resources: &LinuxResources, version: Version) -> Result<Vec<Write>> {
    let priorities = resources.network().as_ref().and_then(|network| network.priorities().as_ref());
    let priorities = priorities.map_or(&[][..], |list| list);
    refuse(version == Version::V2 && !priorities.is_empty(), "linux.resources.network.priorities")?;
    Ok(priorities
        .iter()
        .enumerate()
        .map(|(index, p)| {
            let field = format!("linux.resources.network.priorities[{index}]");
            Write::new("net_prio.ifpriomap", format!("{} {}", p.name(), p.priority()), field)
        })
        .collect())
}
