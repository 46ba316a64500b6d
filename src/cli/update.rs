//! `microrun update`

use super::global::Global;
use super::grammar::{Flag, Verb};
use super::parse::Words;
use super::{value, warn};
use crate::cgroup::limits;
use crate::container::control::{self, Schemata};
use crate::container::store::Store;
use crate::error::{Error, Kind, Result};
use crate::spec;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use std::path::Path;
use std::str::FromStr;

/// The verb.
pub static VERB: Verb = Verb {
    details: "\
What is not mentioned stays as it is. With --resources the other options do not count, but for those of Intel
RDT.",
    flags: &[
        Flag::value(
            "resources",
            "FILE",
            "read the limits from this file, or from standard input with - (JSON, as linux.resources in config.json)",
        )
        .short('r'),
        Flag::value("blkio-weight", "WEIGHT", "share of disk time, 10 to 1000"),
        Flag::value("cpu-period", "MICROSECONDS", "period of the CPU quota"),
        Flag::value("cpu-quota", "MICROSECONDS", "CPU time in each period, -1 for no limit"),
        Flag::value("cpu-burst", "MICROSECONDS", "CPU time that may be saved up for a later period"),
        Flag::value("cpu-share", "SHARES", "share of CPU time, relative to other containers"),
        Flag::value("cpu-rt-period", "MICROSECONDS", "period of the real-time quota"),
        Flag::value("cpu-rt-runtime", "MICROSECONDS", "real-time CPU time in each period"),
        Flag::value("cpuset-cpus", "LIST", "CPUs to use, such as 0-3,7"),
        Flag::value("cpuset-mems", "LIST", "memory nodes to use"),
        Flag::value("kernel-memory", "BYTES", "no longer in the kernel").hide(),
        Flag::value("kernel-memory-tcp", "BYTES", "no longer in the kernel").hide(),
        Flag::value("memory", "BYTES", "memory limit, such as 512M, or -1 for none"),
        Flag::value("cpu-idle", "0|1", "whether it gets CPU time only when nobody else wants it"),
        Flag::value("memory-reservation", "BYTES", "memory that is left to it under pressure"),
        Flag::value("memory-swap", "BYTES", "limit of memory and swap together, -1 for none"),
        Flag::value("pids-limit", "N", "limit of processes and threads, -1 for none"),
        Flag::value("l3-cache-schema", "SCHEMA", "Intel RDT: the L3 cache that it may fill"),
        Flag::value("mem-bw-schema", "SCHEMA", "Intel RDT: the memory bandwidth that it may use"),
    ],
    ..Verb::on_container("update", "change the limits of a container", call)
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    let resources = match words.text("resources")? {
        Some("-") => spec::load_resources(None)?,
        Some(path) => spec::load_resources(Some(Path::new(path)))?,
        None => from_flags(words)?,
    };
    let schemata = Schemata {
        l3_cache: words.text("l3-cache-schema")?.map(str::to_owned),
        memory_bandwidth: words.text("mem-bw-schema")?.map(str::to_owned),
    };
    warn(limits::weight_of_idle(&resources));
    control::update(&Store::new(&global.root), words.id()?, &resources, &schemata)?;
    Ok(0)
}

fn from_flags(words: &Words) -> Result<LinuxResources> {
    if words.value("kernel-memory").or(words.value("kernel-memory-tcp")).is_some() {
        warn(["Kernel memory settings are ignored and will be removed"]);
    }
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(bytes(words, "memory")?)
        .set_reservation(bytes(words, "memory-reservation")?)
        .set_swap(bytes(words, "memory-swap")?);
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(number(words, "cpu-share")?)
        .set_quota(number(words, "cpu-quota")?)
        .set_burst(number(words, "cpu-burst")?)
        .set_period(number(words, "cpu-period")?)
        .set_realtime_runtime(number(words, "cpu-rt-runtime")?)
        .set_realtime_period(number(words, "cpu-rt-period")?)
        .set_idle(number(words, "cpu-idle")?)
        .set_cpus(words.text("cpuset-cpus")?.map(str::to_owned))
        .set_mems(words.text("cpuset-mems")?.map(str::to_owned));
    let pids = number(words, "pids-limit")?.map(|limit| {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        pids
    });
    let mut resources = LinuxResources::default();
    resources.set_devices(None).set_memory(Some(memory)).set_cpu(Some(cpu)).set_pids(pids);
    // As in runc 0 is no weight.
    if let Some(weight) = number(words, "blkio-weight")?.filter(|weight| *weight != 0) {
        let mut block_io = LinuxBlockIo::default();
        block_io.set_weight(Some(weight));
        resources.set_block_io(Some(block_io));
    }
    Ok(resources)
}

fn bytes(words: &Words, name: &str) -> Result<Option<i64>> {
    words.text(name)?.map(|text| value::bytes(name, text)).transpose()
}

fn number<T: FromStr>(words: &Words, name: &str) -> Result<Option<T>> {
    let Some(text) = words.text(name)? else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        Error::new(Kind::Usage, format!("invalid value for {name}: {text:?}: give a whole number in its range"))
    })
}
