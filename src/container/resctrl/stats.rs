//! What `events` says of a container's resctrl group, in runc's words.

use super::Group;
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::str::FromStr;

/// `intel_rdt`. What cannot be read is left out.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct IntelRdt {
    #[serde(skip_serializing_if = "Option::is_none")]
    l3_cache_info: Option<L3CacheInfo>,
    /// The machine's line for the L3 cache, and the group's.
    #[serde(skip_serializing_if = "Option::is_none")]
    l3_cache_schema_root: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    l3_cache_schema: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_bw_info: Option<MemBwInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_bw_schema_root: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_bw_schema: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    schemata: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mbm_stats: Option<Vec<Bandwidth>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmt_stats: Option<Vec<Occupancy>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct L3CacheInfo {
    cbm_mask: String,
    min_cbm_bits: u64,
    num_closids: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct MemBwInfo {
    bandwidth_gran: u64,
    delay_linear: u64,
    min_bandwidth: u64,
    num_closids: u64,
}

/// Bytes that went between one L3 cache and memory.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Bandwidth {
    mbm_total_bytes: u64,
    mbm_local_bytes: u64,
}

/// Bytes of one L3 cache that are in use.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Occupancy {
    llc_occupancy: u64,
}

/// What there is to say of `group`; `root` is where the file system is mounted.
pub fn read(root: &Path, group: &Group) -> IntelRdt {
    let schemata = |directory: &Path| -> Vec<String> {
        let text = fs::read_to_string(directory.join("schemata")).unwrap_or_default();
        text.lines().map(|line| line.trim().to_owned()).collect()
    };
    let of = |lines: &[String], resource: &str| lines.iter().find(|line| line.starts_with(resource)).cloned();
    let (of_root, of_group) = (schemata(root), schemata(&group.path));
    let l3_cache_info = l3_cache_info(&root.join("info/L3"));
    let mem_bw_info = mem_bw_info(&root.join("info/MB"));
    let features = fs::read_to_string(root.join("info/L3_MON/mon_features")).unwrap_or_default();
    let has = |prefix: &str| features.lines().any(|feature| feature.starts_with(prefix));
    let monitored = group.monitor.as_deref().unwrap_or(&group.path);
    IntelRdt {
        l3_cache_schema_root: l3_cache_info.as_ref().and_then(|_| of(&of_root, "L3")),
        l3_cache_schema: l3_cache_info.as_ref().and_then(|_| of(&of_group, "L3")),
        l3_cache_info,
        mem_bw_schema_root: mem_bw_info.as_ref().and_then(|_| of(&of_root, "MB")),
        mem_bw_schema: mem_bw_info.as_ref().and_then(|_| of(&of_group, "MB")),
        mem_bw_info,
        schemata: of_group,
        mbm_stats: has("mbm_").then(|| of_caches(monitored, bandwidth)),
        cmt_stats: has("llc_occupancy").then(|| of_caches(monitored, occupancy)),
    }
}

/// One value from a file; `None` also where the kernel says "Unavailable".
fn value<T: FromStr>(directory: &Path, name: &str) -> Option<T> {
    fs::read_to_string(directory.join(name)).ok()?.trim().parse().ok()
}

fn l3_cache_info(info: &Path) -> Option<L3CacheInfo> {
    Some(L3CacheInfo {
        cbm_mask: value(info, "cbm_mask")?,
        min_cbm_bits: value(info, "min_cbm_bits")?,
        num_closids: value(info, "num_closids")?,
    })
}

fn mem_bw_info(info: &Path) -> Option<MemBwInfo> {
    Some(MemBwInfo {
        bandwidth_gran: value(info, "bandwidth_gran")?,
        delay_linear: value(info, "delay_linear")?,
        min_bandwidth: value(info, "min_bandwidth")?,
        num_closids: value(info, "num_closids")?,
    })
}

fn bandwidth(cache: &Path) -> Option<Bandwidth> {
    let total = value(cache, "mbm_total_bytes");
    let local = value(cache, "mbm_local_bytes");
    // A machine may count one of the two.
    total.or(local)?;
    Some(Bandwidth { mbm_total_bytes: total.unwrap_or(0), mbm_local_bytes: local.unwrap_or(0) })
}

fn occupancy(cache: &Path) -> Option<Occupancy> {
    Some(Occupancy { llc_occupancy: value(cache, "llc_occupancy")? })
}

/// What `read` finds for each L3 cache ("mon_L3_00", ...) of a group, in their order.
fn of_caches<T>(group: &Path, read: impl Fn(&Path) -> Option<T>) -> Vec<T> {
    let entries = fs::read_dir(group.join("mon_data")).into_iter().flatten().flatten();
    let mut caches: Vec<_> = entries.map(|entry| entry.path()).collect();
    caches.sort();
    caches.iter().filter_map(|cache| read(cache)).collect()
}
