//! A container as a transient systemd unit: its name, its slice, its properties (systemd.resource-control(5),
//! org.freedesktop.systemd1(5)).

use super::value::{self, Value};
use crate::cgroup::convert;
use crate::cgroup::devices::{Kind, Policy};
use crate::cgroup::limits::{DEFAULT_PERIOD, Version};
use crate::cpu_list;
use crate::{Error, Result};
use oci_spec::runtime::{LinuxCpu, LinuxResources};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;

const CGROUPS_PATH: &str = "linux.cgroupsPath";
/// systemd's "infinity".
const INFINITY: u64 = u64::MAX;
/// cpu.weight of a cgroup that nobody gave one (Documentation/admin-guide/cgroup-v2.rst, "Weights").
const DEFAULT_WEIGHT: u64 = 100;

/// A property of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
    /// The first systemd that knows it. An older one does without: the limit is written to the cgroup file too.
    #[serde(skip_serializing_if = "is_zero")]
    pub since: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(since: &u32) -> bool {
    *since == 0
}

impl Property {
    fn new(name: impl Into<String>, value: Value) -> Self {
        Self { name: name.into(), value, since: 0 }
    }

    fn since(self, since: u32) -> Self {
        Self { since, ..self }
    }
}

/// Where linux.cgroupsPath, "slice:prefix:name", puts the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The slice's name: "machine.slice".
    pub slice: String,
    /// The unit's name: "prefix-name.scope".
    pub unit: String,
    /// The unit's cgroup, relative to that of the manager.
    pub path: PathBuf,
}

impl Place {
    /// Reads linux.cgroupsPath; without one, the unit is "microrun-ID.scope" in system.slice, or user.slice for a user.
    ///
    /// # Errors
    /// Another form than "slice:prefix:name", or a name that no slice can have.
    pub fn of(cgroups_path: Option<&str>, id: &str, user: bool) -> Result<Self> {
        let (slice, prefix, name) = match cgroups_path {
            None => ("", "microrun", id),
            Some(path) => match path.split(':').collect::<Vec<_>>()[..] {
                [slice, prefix, name] if !name.is_empty() => (slice, prefix, name),
                _ => {
                    let problem = format!(
                        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
                    );
                    return Err(Error::config(CGROUPS_PATH, problem));
                }
            },
        };
        let slice = match slice {
            "" if user => "user.slice",
            "" => "system.slice",
            slice => slice,
        };
        let unit = format!("{prefix}-{name}.scope");
        if unit.contains(['/', '\0']) {
            return Err(Error::config(CGROUPS_PATH, format!("the unit's name would be {unit:?}: leave the slash out")));
        }
        let path = expand_slice(slice)?.join(&unit);
        Ok(Self { slice: slice.to_owned(), unit, path })
    }
}

/// The cgroup of a slice: "a-b.slice" is inside "a.slice" (systemd.slice(5)).
fn expand_slice(slice: &str) -> Result<PathBuf> {
    let wrong =
        || Error::config(CGROUPS_PATH, format!("invalid slice name: {slice:?}: use a name such as \"machine.slice\""));
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty() && !name.contains('/')).ok_or_else(wrong)?;
    let mut path = PathBuf::new();
    if name == "-" {
        return Ok(path);
    }
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return Err(wrong());
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}

/// The properties that every container's unit has, whatever its limits.
pub fn base_properties(id: &str, place: &Place, version: Version) -> Vec<Property> {
    let accounting = match version {
        Version::V1 => ["MemoryAccounting", "CPUAccounting", "BlockIOAccounting", "TasksAccounting"],
        Version::V2 => ["MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"],
    };
    let mut properties = vec![
        Property::new("Description", Value::str(format!("microrun container {id}"))),
        Property::new("Slice", Value::str(&place.slice)),
        // What is inside the unit is the container's, not systemd's.
        Property::new("Delegate", Value::Bool(true)),
        Property::new("DefaultDependencies", Value::Bool(false)),
    ];
    properties.extend(accounting.map(|name| Property::new(name, Value::Bool(true))));
    properties
}

/// The properties that annotations "org.systemd.property.NAME" ask for, sorted by name.
///
/// # Errors
/// A name that is none, or a value that is not in the text form of GVariant.
pub fn annotated_properties(annotations: &HashMap<String, String>) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    let mut sorted: Vec<_> = annotations.iter().collect();
    sorted.sort();
    for (key, text) in sorted {
        let Some(name) = key.strip_prefix("org.systemd.property.") else { continue };
        let field = format!("annotations[{key:?}]");
        if name.len() < 3 || !name.bytes().all(|letter| letter.is_ascii_alphabetic()) {
            return Err(Error::config(
                &field,
                "names no property of systemd: use letters only, such as \"CollectMode\"",
            ));
        }
        let parsed = value::parse(text).map_err(|problem| {
            Error::config(
                &field,
                format!("{text:?} is no value: {problem}: use GVariant's text form, such as \"uint64 5\""),
            )
        })?;
        // "TimeoutStopSec" is what users know; the bus knows "TimeoutStopUSec".
        let seconds = name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
        properties.push(match seconds {
            None => Property::new(name, parsed),
            Some(stem) => {
                let microseconds = parsed.seconds_to_microseconds();
                let microseconds =
                    microseconds.ok_or_else(|| Error::config(&field, format!("{text:?} is no number of seconds")))?;
                Property::new(format!("{stem}USec"), microseconds)
            }
        });
    }
    Ok(properties)
}

/// What of linux.resources systemd takes at the start of a scope alone: afterwards, a call that names it is refused whole.
pub fn oom_policy(resources: &LinuxResources) -> Option<Property> {
    let kills = resources.unified().as_ref()?.get("memory.oom.group")?.trim() == "1";
    Some(Property::new("OOMPolicy", Value::str(if kills { "kill" } else { "continue" })).since(253))
}

/// linux.resources as properties, as far as systemd knows them and takes them at any time; the rest is written to cgroup
/// files alone. Without `policy`, device rules stay as they are.
///
/// # Errors
/// A value that is out of systemd's range.
pub fn resource_properties(
    resources: &LinuxResources,
    version: Version,
    policy: Option<&Policy>,
) -> Result<Vec<Property>> {
    let mut properties = policy.map(device_properties).unwrap_or_default();
    if let Some(memory) = resources.memory() {
        let (limit, swap) = (memory.limit().unwrap_or(0), memory.swap().unwrap_or(0));
        if limit != 0 {
            let name = if version == Version::V1 { "MemoryLimit" } else { "MemoryMax" };
            properties.push(Property::new(name, bytes(limit)));
        }
        if version == Version::V2 {
            if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
                properties.push(Property::new("MemoryLow", bytes(reservation)));
            }
            let swap = convert::swap_limit(limit, swap);
            let swap = swap.map_err(|problem| Error::config("linux.resources.memory.swap", problem))?;
            properties.extend(swap.map(|swap| Property::new("MemorySwapMax", bytes(swap))));
        }
    }
    if let Some(cpu) = resources.cpu() {
        properties.extend(cpu_properties(cpu, version)?);
    }
    if let Some(pids) = resources.pids() {
        let limit = match pids.limit() {
            0 => 1,
            limit => u64::try_from(limit).unwrap_or(INFINITY),
        };
        properties.push(Property::new("TasksMax", Value::U64(limit)));
    }
    let weight = resources.block_io().as_ref().and_then(|io| io.weight()).filter(|weight| *weight != 0);
    if let (Version::V1, Some(weight)) = (version, weight) {
        properties.push(Property::new("BlockIOWeight", Value::U64(u64::from(weight))));
    }
    properties.extend(unified_properties(resources)?);
    Ok(properties)
}

/// What a unit is to be told that has been told `properties`, to be as it was: `before`, and of what that does not name, what
/// systemd takes for no setting. Without a setting a unit could have `processes` at most, if that is known.
pub fn taken_back(properties: &[Property], before: Vec<Property>, processes: Option<u64>) -> Vec<Property> {
    let mut all = before;
    for Property { name, value, since } in properties {
        if all.iter().all(|known| known.name != *name) {
            let value = match (name.as_str(), value) {
                ("MemoryLow" | "MemoryMin", _) => Value::U64(0),
                ("TasksMax", _) => Value::U64(processes.unwrap_or(INFINITY)),
                // A list without entries.
                (_, Value::Array(..)) => Value::bytes(&[]),
                // No limit; of a weight and of a period, the usual one.
                _ => Value::U64(INFINITY),
            };
            all.push(Property { name: name.clone(), value, since: *since });
        }
    }
    all
}

/// A number of bytes, -1 for no limit.
fn bytes(value: i64) -> Value {
    Value::U64(u64::try_from(value).unwrap_or(INFINITY))
}

fn cpu_properties(cpu: &LinuxCpu, version: Version) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    let shares = cpu.shares().filter(|shares| *shares != 0);
    match (version, cpu.idle(), shares) {
        (Version::V1, _, Some(shares)) => properties.push(Property::new("CPUShares", Value::U64(shares))),
        // systemd spells cpu.idle as a weight of 0.
        (Version::V2, Some(1), _) => properties.push(Property::new("CPUWeight", Value::U64(0)).since(252)),
        (Version::V2, _, Some(shares)) => {
            properties.push(Property::new("CPUWeight", Value::U64(convert::cpu_weight(shares))));
        }
        (Version::V2, Some(0), None) => properties.push(not_idle()),
        _ => {}
    }
    properties.extend(quota_properties(cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0)));
    for (name, field, list) in [("AllowedCPUs", "cpus", cpu.cpus()), ("AllowedMemoryNodes", "mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            let field = format!("linux.resources.cpu.{field}");
            properties.push(Property::new(name, Value::bytes(&bitmap(list, &field)?)).since(244));
        }
    }
    Ok(properties)
}

/// What takes back a weight of 0: the one that the kernel gives a cgroup that is idle no more. Without, systemd would make it idle again
/// with the next property that is set.
fn not_idle() -> Property {
    Property::new("CPUWeight", Value::U64(DEFAULT_WEIGHT)).since(252)
}

fn quota_properties(quota: i64, period: u64) -> Vec<Property> {
    let mut properties = Vec::new();
    if period != 0 {
        properties.push(Property::new("CPUQuotaPeriodUSec", Value::U64(period)).since(242));
    }
    if quota != 0 || period != 0 {
        let share = if quota > 0 { per_second(quota, period) } else { INFINITY };
        properties.push(Property::new("CPUQuotaPerSecUSec", Value::U64(share)));
    }
    properties
}

/// Microseconds of CPU time a second. systemd keeps whole percents, so this is rounded up to 10 ms.
fn per_second(quota: i64, period: u64) -> u64 {
    let period = if period == 0 { DEFAULT_PERIOD } else { period };
    let share = u128::from(quota.unsigned_abs()) * 1_000_000 / u128::from(period);
    u64::try_from(share.next_multiple_of(10_000)).unwrap_or(INFINITY)
}

/// The quota that systemd makes of `quota`: what is written to the cgroup file must be the same, or the two would
/// change each other's value in turn.
fn rounded_quota(quota: i64, period: u64) -> i64 {
    if quota <= 0 {
        return quota;
    }
    let of_period = if period == 0 { DEFAULT_PERIOD } else { period };
    i64::try_from(u128::from(per_second(quota, period)) * u128::from(of_period) / 1_000_000).unwrap_or(quota)
}

/// The same for linux.resources.
pub fn round_quota(mut resources: Cow<'_, LinuxResources>) -> Cow<'_, LinuxResources> {
    let Some(cpu) = resources.cpu() else { return resources };
    let Some(quota) = cpu.quota() else { return resources };
    let rounded = rounded_quota(quota, cpu.period().unwrap_or(0));
    if rounded != quota {
        let mut cpu = cpu.clone();
        cpu.set_quota(Some(rounded));
        resources.to_mut().set_cpu(Some(cpu));
    }
    resources
}

/// A list of CPUs or memory nodes ("0-3,7") as a bitmap, lowest first, without zeros at its end.
fn bitmap(list: &str, field: &str) -> Result<Vec<u8>> {
    let mask = cpu_list::parse(field, list)?;
    let mut bytes: Vec<u8> = mask.into_iter().flat_map(u64::to_le_bytes).collect();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    Ok(bytes)
}

/// Device rules in systemd's terms, which know neither deny lists nor a minor number of every major. What is lost here
/// holds all the same: the container's own device program comes on top.
fn device_properties(policy: &Policy) -> Vec<Property> {
    let allow = |entries| Property::new("DeviceAllow", Value::Array("(ss)".to_owned(), entries));
    let mode = if policy.allows_all() { "auto" } else { "strict" };
    // An empty list takes back what was allowed before.
    let mut properties = vec![allow(Vec::new()), Property::new("DevicePolicy", Value::str(mode))];
    if !policy.default_allow {
        let entries = policy.exceptions().filter_map(|exception| {
            let kind = match exception.devices.kind {
                Kind::Block => "block",
                Kind::Char => "char",
            };
            let devices = match (exception.devices.major, exception.devices.minor) {
                (None, None) => format!("{kind}-*"),
                (Some(major), None) => format!("{kind}-{major}"),
                (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
                (None, Some(_)) => return None,
            };
            Some(Value::Struct(vec![Value::str(devices), Value::str(exception.access.to_string())]))
        });
        properties.push(allow(entries.collect()));
    }
    properties
}

/// linux.resources.unified as properties; names that systemd has none for are written to the files alone.
fn unified_properties(resources: &LinuxResources) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    let Some(map) = resources.unified() else { return Ok(properties) };
    let idle = map.get("cpu.idle").is_some_and(|idle| idle.trim() == "1");
    let has_weight = map.contains_key("cpu.weight")
        || resources.cpu().as_ref().and_then(LinuxCpu::shares).is_some_and(|shares| shares != 0);
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort();
    for (file, text) in entries {
        let (text, field) = (text.trim(), format!("linux.resources.unified[{file:?}]"));
        let number = |text: &str| match text {
            "max" => Ok(INFINITY),
            text => {
                text.parse::<u64>().map_err(|_| Error::config(&field, format!("is {text:?}: use a number or \"max\"")))
            }
        };
        let name = match file.as_str() {
            "cpu.idle" if idle => {
                properties.push(Property::new("CPUWeight", Value::U64(0)).since(252));
                continue;
            }
            "cpu.idle" if text == "0" && !has_weight => {
                properties.push(not_idle());
                continue;
            }
            "cpu.max" => {
                let (quota, period) = text.split_once(char::is_whitespace).unwrap_or((text, "100000"));
                let quota = if quota == "max" { 0 } else { i64::try_from(number(quota)?).unwrap_or(i64::MAX) };
                properties.extend(quota_properties(quota, number(period.trim())?));
                continue;
            }
            "cpuset.cpus" | "cpuset.mems" => {
                let name = if file == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
                properties.push(Property::new(name, Value::bytes(&bitmap(text, &field)?)).since(244));
                continue;
            }
            "cpu.weight" if !idle => "CPUWeight",
            "memory.high" => "MemoryHigh",
            "memory.low" => "MemoryLow",
            "memory.min" => "MemoryMin",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            _ => continue,
        };
        let value = number(text)?;
        properties.push(Property::new(name, Value::U64(if name == "TasksMax" { value.max(1) } else { value })));
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(properties: &[Property]) -> Vec<String> {
        properties.iter().map(|p| format!("{}={}", p.name, p.value)).collect()
    }

    #[test]
    fn slices_are_nested_by_their_names() {
        let place = Place::of(Some("kubepods-pod1.slice:cri:box"), "x", false).unwrap();
        assert_eq!(place.path, PathBuf::from("kubepods.slice/kubepods-pod1.slice/cri-box.scope"));
        assert_eq!(Place::of(None, "box", false).unwrap().path, PathBuf::from("system.slice/microrun-box.scope"));
        assert_eq!(Place::of(Some(":p:box"), "x", true).unwrap().path, PathBuf::from("user.slice/p-box.scope"));
        assert_eq!(Place::of(Some("-.slice:p:box"), "x", true).unwrap().path, PathBuf::from("p-box.scope"));
        // As runc and crun name it.
        assert_eq!(Place::of(Some("a.slice::box"), "x", false).unwrap().path, PathBuf::from("a.slice/-box.scope"));
        for wrong in
            ["/a/b", "a:b", "a:b:c", "a--b.slice:p:n", ".slice:p:n", "a/b.slice:p:n", "a.slice:p:n/m", "a.slice:p:"]
        {
            let error = Place::of(Some(wrong), "x", false).unwrap_err().to_string();
            assert!(error.starts_with("config.json: linux.cgroupsPath: "), "{error}");
        }
    }

    #[test]
    fn limits_become_properties() {
        let json = r#"{"memory": {"limit": 100, "swap": 150, "reservation": -1}, "pids": {"limit": 0},
            "cpu": {"shares": 1024, "quota": 1234, "period": 100000, "cpus": "0,2-3,9"}, "blockIO": {"weight": 20},
            "unified": {"memory.high": "max", "pids.max": "0", "cpu.max": "max 5000", "memory.oom.group": "1", "io.max": "x"}}"#;
        let resources = serde_json::from_str(json).unwrap();
        assert_eq!(
            text(&resource_properties(&resources, Version::V2, None).unwrap()),
            [
                "MemoryMax=100",
                "MemoryLow=18446744073709551615",
                "MemorySwapMax=50",
                "CPUWeight=100",
                "CPUQuotaPeriodUSec=100000",
                "CPUQuotaPerSecUSec=20000",
                "AllowedCPUs=[13, 2]",
                "TasksMax=1",
                "CPUQuotaPeriodUSec=5000",
                "CPUQuotaPerSecUSec=18446744073709551615",
                "MemoryHigh=18446744073709551615",
                "TasksMax=1",
            ]
        );
        assert_eq!(text(oom_policy(&resources).as_slice()), ["OOMPolicy=\"kill\""]);
        let resources =
            serde_json::from_str(r#"{"memory": {"limit": -1}, "cpu": {"shares": 7}, "blockIO": {"weight": 20}}"#)
                .unwrap();
        assert_eq!(
            text(&resource_properties(&resources, Version::V1, None).unwrap()),
            ["MemoryLimit=18446744073709551615", "CPUShares=7", "BlockIOWeight=20"]
        );
        assert_eq!(oom_policy(&resources), None);
        assert_eq!((rounded_quota(1234, 100_000), rounded_quota(5000, 0), rounded_quota(-1, 5)), (2000, 5000, -1));
    }

    #[test]
    fn a_container_that_is_idle_no_more_has_a_weight() {
        for (json, expected) in [
            (r#"{"cpu": {"idle": 1, "shares": 2}}"#, "CPUWeight=0"),
            (r#"{"cpu": {"idle": 0}}"#, "CPUWeight=100"),
            (r#"{"cpu": {"idle": 0, "shares": 2}}"#, "CPUWeight=1"),
            (r#"{"unified": {"cpu.idle": "1", "cpu.weight": "7"}}"#, "CPUWeight=0"),
            (r#"{"unified": {"cpu.idle": "0\n"}}"#, "CPUWeight=100"),
            (r#"{"unified": {"cpu.idle": "0", "cpu.weight": "7"}}"#, "CPUWeight=7"),
            (r#"{"unified": {"cpu.idle": "0"}, "cpu": {"shares": 2}}"#, "CPUWeight=1"),
        ] {
            let resources = serde_json::from_str(json).unwrap();
            assert_eq!(text(&resource_properties(&resources, Version::V2, None).unwrap()), [expected], "{json}");
        }
        let idle = serde_json::from_str(r#"{"cpu": {"idle": 0}}"#).unwrap();
        assert_eq!(resource_properties(&idle, Version::V1, None).unwrap(), []);
    }

    #[test]
    fn what_a_unit_was_told_is_taken_back() {
        let compile =
            |json: &str, version| resource_properties(&serde_json::from_str(json).unwrap(), version, None).unwrap();
        let told = r#"{"memory": {"limit": 100, "swap": 150, "reservation": 50}, "pids": {"limit": 7},
            "cpu": {"shares": 2, "quota": 1000, "period": 100000, "cpus": "0", "mems": "0"}, "blockIO": {"weight": 20},
            "unified": {"memory.high": "5", "memory.min": "6", "pids.max": "8"}}"#;
        let back = |before: &str, version, processes| {
            text(&taken_back(&compile(told, version), compile(before, version), processes))
        };
        let none = u64::MAX;
        let rest = [
            "MemoryLow=0".to_owned(),
            format!("MemorySwapMax={none}"),
            format!("CPUWeight={none}"),
            format!("CPUQuotaPeriodUSec={none}"),
            format!("CPUQuotaPerSecUSec={none}"),
            "AllowedCPUs=[]".to_owned(),
            "AllowedMemoryNodes=[]".to_owned(),
        ];
        let unified = [format!("MemoryHigh={none}"), "MemoryMin=0".to_owned()];
        let all = [&[format!("MemoryMax={none}")][..], &rest, &[format!("TasksMax={none}")], &unified].concat();
        assert_eq!(back("{}", Version::V2, None), all);
        // What is on record is said, and first.
        let known = ["MemoryMax=70".to_owned(), "TasksMax=3".to_owned()];
        let before = r#"{"memory": {"limit": 70}, "pids": {"limit": 3}}"#;
        assert_eq!(back(before, Version::V2, Some(9)), [&known[..], &rest, &unified].concat());
        let v1 = back("{}", Version::V1, Some(9));
        for property in [format!("MemoryLimit={none}"), format!("CPUShares={none}"), format!("BlockIOWeight={none}")] {
            assert!(v1.contains(&property), "{v1:?}");
        }
        assert!(v1.contains(&"TasksMax=9".to_owned()), "{v1:?}");
        // An older systemd hears of the same properties as before.
        let (told, none) = (compile(told, Version::V2), Vec::new());
        let since = |all: &[Property]| -> Vec<_> { all.iter().map(|p| (p.name.clone(), p.since)).collect() };
        let back = taken_back(&told, none, None);
        assert!(since(&back).iter().all(|one| since(&told).contains(one)));
        let kind = |name: &str| told.iter().find(|p| p.name == name).map(|p| p.value.signature());
        assert!(back.iter().all(|p| kind(&p.name) == Some(p.value.signature())));
    }

    #[test]
    fn device_rules_are_an_allow_list_or_nothing() {
        let rules = r#"[{"allow": true, "type": "b", "minor": 3, "access": "rw"}, {"allow": true, "type": "b", "major": 8, "access": "r"}]"#;
        let policy = Policy::compile(&serde_json::from_str::<Vec<_>>(rules).unwrap(), &[]).unwrap();
        let properties = text(&device_properties(&policy));
        assert_eq!(properties[..2], ["DeviceAllow=[]", "DevicePolicy=\"strict\""]);
        assert!(properties[2].starts_with(
            r#"DeviceAllow=[("block-8", "r"), ("char-*", "m"), ("block-*", "m"), ("/dev/char/1:3", "rwm")"#
        ));
        let all =
            Policy::compile(&serde_json::from_str::<Vec<_>>(r#"[{"allow": true, "access": "rwm"}]"#).unwrap(), &[])
                .unwrap();
        assert_eq!(text(&device_properties(&all)), ["DeviceAllow=[]", "DevicePolicy=\"auto\""]);
    }

    #[test]
    fn annotations_become_properties() {
        let annotations = HashMap::from([
            ("org.systemd.property.TimeoutStopSec".to_owned(), "5".to_owned()),
            ("org.systemd.property.CollectMode".to_owned(), "'inactive-or-failed'".to_owned()),
            ("other".to_owned(), "x".to_owned()),
        ]);
        assert_eq!(
            text(&annotated_properties(&annotations).unwrap()),
            ["CollectMode=\"inactive-or-failed\"", "TimeoutStopUSec=5000000"]
        );
        for (key, value) in [
            ("org.systemd.property.A1B", "1"),
            ("org.systemd.property.Wants", "open'"),
            ("org.systemd.property.XxSec", "'a'"),
        ] {
            let error =
                annotated_properties(&HashMap::from([(key.to_owned(), value.to_owned())])).unwrap_err().to_string();
            assert!(error.starts_with("config.json: annotations[\"org.systemd.property."), "{error}");
        }
    }
}
