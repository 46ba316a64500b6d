//! What the figures were taken on.

use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// The machine, in lines of (what, value).
pub fn facts() -> Vec<(&'static str, String)> {
    let cpu = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let hypervisor = field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let model = field("model name").unwrap_or_else(|| "unknown model".into());
    let virtualised = if hypervisor { ", in a virtual machine" } else { "" };
    let memory = read("/proc/meminfo").lines().next().unwrap_or_default().replace("MemTotal:", "").trim().to_owned();
    vec![
        ("machine", format!("{cpus} CPUs, {model}, {} {memory}{virtualised}", std::env::consts::ARCH)),
        ("kernel", first_line("/proc/sys/kernel/osrelease") + ", " + &first_line("/proc/sys/kernel/version")),
        ("system", os_name()),
        ("governor", governor()),
        ("kvm", kvm()),
        ("cgroups", cgroups()),
        ("/run", file_system("/run")),
        ("load", load()),
    ]
}

/// How the frequency of the CPUs is set.
fn governor() -> String {
    let name = first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    if name.is_empty() { "not visible".to_owned() } else { name }
}

/// Whose KVM there is: exits and the making of a machine cost differently in each.
fn kvm() -> String {
    let modules = fs::read_dir("/sys/module").into_iter().flatten().flatten();
    let names = modules.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut found: Vec<String> = names.filter(|name| name.starts_with("kvm_")).collect();
    found.sort();
    if found.is_empty() { "none".to_owned() } else { found.join(" ") }
}

/// The load averages.
pub fn load() -> String {
    first_line("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Facts as JSON.
pub fn to_json(facts: &[(&str, String)]) -> Value {
    Value::Object(facts.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect::<Map<_, _>>())
}

fn os_name() -> String {
    let release = read("/etc/os-release");
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("unknown").trim_matches('"').to_owned()
}

/// The cgroup mounts: "v1: cpu, memory; v2 at /sys/fs/cgroup/unified".
fn cgroups() -> String {
    let mounts = super::world::cgroup_mounts();
    let v1: Vec<String> = mounts
        .iter()
        .filter(|mount| !mount.unified)
        .filter_map(|mount| Some(mount.path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let v2: Vec<String> = mounts
        .iter()
        .filter(|mount| mount.unified)
        .map(|mount| {
            let controllers = first_line(&mount.path.join("cgroup.controllers").to_string_lossy());
            format!(
                "v2 at {} with {}",
                mount.path.display(),
                if controllers.is_empty() { "none" } else { &controllers }
            )
        })
        .collect();
    let v1 = if v1.is_empty() { Vec::new() } else { vec![format!("v1: {}", v1.join(" "))] };
    [v1, v2].concat().join("; ")
}

/// The type of the file system that holds `path`.
fn file_system(path: &str) -> String {
    let mounts = read("/proc/self/mounts");
    let entries = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.nth(1)?, words.next()?))
    });
    let holds = |point: &str| Path::new(path).starts_with(point);
    let found = entries.filter(|(point, _)| holds(point)).max_by_key(|(point, _)| point.len());
    found.map_or("unknown", |(_, kind)| kind).to_owned()
}

/// The text of a file; nothing if it cannot be read.
pub fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn first_line(path: &str) -> String {
    read(path).lines().next().unwrap_or_default().to_owned()
}
