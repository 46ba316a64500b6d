//! Changing the limits of a running container.

use super::create;
use super::freezer::Outcome;
use super::handle::Handle;
use super::layout::{Layout, Mode, Needs};
use super::limits::{self, Limits, Version, set};
use super::systemd;
use super::systemd::unit::Property;
use super::tree;
use super::write::{Missing, Target, Write};
use crate::error::{Doing, Kind};
use crate::{Error, Result};
use nix::errno::Errno;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice};
use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The limits on record after an update by `new` of a container with the limits `old`: a field that `new` does not name
/// keeps its value. What is written is [`named`]. Device rules stay as they are: tools that give a running container
/// further devices must not be undone by a change of its memory limit.
pub fn merge(old: &LinuxResources, new: &LinuxResources) -> LinuxResources {
    let mut merged = old.clone();
    merged.set_memory(merge_memory(old.memory().as_ref(), new.memory().as_ref()));
    merged.set_cpu(merge_cpu(old.cpu().as_ref(), new.cpu().as_ref()));
    merged.set_block_io(merge_block_io(old.block_io().as_ref(), new.block_io().as_ref()));
    merged.set_pids(new.pids().or(*old.pids()));
    if let Some(new) = new.unified() {
        let mut unified = old.unified().clone().unwrap_or_default();
        unified.extend(new.clone());
        merged.set_unified(Some(unified));
    }
    if new.hugepage_limits().is_some() {
        merged.set_hugepage_limits(new.hugepage_limits().clone());
    }
    if new.network().is_some() {
        merged.set_network(new.network().clone());
    }
    if new.rdma().is_some() {
        merged.set_rdma(new.rdma().clone());
    }
    merged
}

fn merge_memory(old: Option<&LinuxMemory>, new: Option<&LinuxMemory>) -> Option<LinuxMemory> {
    let Some(new) = new else { return old.copied() };
    let mut merged = old.copied().unwrap_or_default();
    // A limit that is lifted lifts the swap limit with it, whatever that was.
    let lifted = new.limit() == Some(-1) && set(new.swap()).is_none();
    merged.set_limit(set(new.limit()).or(merged.limit()));
    merged.set_swap(if lifted { Some(0) } else { set(new.swap()).or(merged.swap()) });
    merged.set_reservation(set(new.reservation()).or(merged.reservation()));
    merged.set_swappiness(limits::swappiness(new).or(merged.swappiness()));
    merged.set_disable_oom_killer(new.disable_oom_killer().or(merged.disable_oom_killer()));
    // It is asked for by each update anew.
    merged.set_check_before_update(None);
    Some(merged)
}

fn merge_cpu(old: Option<&LinuxCpu>, new: Option<&LinuxCpu>) -> Option<LinuxCpu> {
    let Some(new) = new else { return old.cloned() };
    let mut merged = old.cloned().unwrap_or_default();
    let shares = set(new.shares());
    // A weight is for a container that is not idle: who sets one ends that, unless he says otherwise.
    let idle = if shares.is_some() { merged.idle().map(|_| 0) } else { merged.idle() };
    merged.set_idle(new.idle().or(idle));
    merged.set_shares(shares.or(merged.shares()));
    merged.set_quota(set(new.quota()).or(merged.quota()));
    merged.set_period(set(new.period()).or(merged.period()));
    merged.set_realtime_period(set(new.realtime_period()).or(merged.realtime_period()));
    merged.set_realtime_runtime(set(new.realtime_runtime()).or(merged.realtime_runtime()));
    merged.set_burst(new.burst().or(merged.burst()));
    let (cpus, mems) = (merged.cpus().clone(), merged.mems().clone());
    merged.set_cpus(list(new.cpus()).cloned().or(cpus));
    merged.set_mems(list(new.mems()).cloned().or(mems));
    Some(merged)
}

fn merge_block_io(old: Option<&LinuxBlockIo>, new: Option<&LinuxBlockIo>) -> Option<LinuxBlockIo> {
    let Some(new) = new else { return old.cloned() };
    let mut merged = old.cloned().unwrap_or_default();
    merged.set_weight(set(new.weight()).or(merged.weight()));
    merged.set_leaf_weight(set(new.leaf_weight()).or(merged.leaf_weight()));
    let weights = merge_devices(merged.weight_device(), new.weight_device());
    merged.set_weight_device(weights);
    let read_bps = merge_devices(merged.throttle_read_bps_device(), new.throttle_read_bps_device());
    let write_bps = merge_devices(merged.throttle_write_bps_device(), new.throttle_write_bps_device());
    let read_iops = merge_devices(merged.throttle_read_iops_device(), new.throttle_read_iops_device());
    let write_iops = merge_devices(merged.throttle_write_iops_device(), new.throttle_write_iops_device());
    merged.set_throttle_read_bps_device(read_bps);
    merged.set_throttle_write_bps_device(write_bps);
    merged.set_throttle_read_iops_device(read_iops);
    merged.set_throttle_write_iops_device(write_iops);
    Some(merged)
}

/// An entry of a list of which each is for another device.
trait OfDevice: Clone {
    /// Major and minor.
    fn numbers(&self) -> (i64, i64);
}

impl OfDevice for LinuxThrottleDevice {
    fn numbers(&self) -> (i64, i64) {
        (self.major(), self.minor())
    }
}

impl OfDevice for LinuxWeightDevice {
    fn numbers(&self) -> (i64, i64) {
        (self.major(), self.minor())
    }
}

/// The list `old` in which entries for the same device as one in `new` are replaced by it.
fn merge_devices<T: OfDevice>(old: &Option<Vec<T>>, new: &Option<Vec<T>>) -> Option<Vec<T>> {
    let Some(new) = new else { return old.clone() };
    let mut merged = old.clone().unwrap_or_default();
    for device in new {
        merged.retain(|known| known.numbers() != device.numbers());
        merged.push(device.clone());
    }
    Some(merged)
}

/// The entries of the list `of` for devices that `new` has one for, too.
fn named_devices<T: OfDevice>(of: &Option<Vec<T>>, new: &Option<Vec<T>>) -> Option<Vec<T>> {
    let (of, new) = of.as_ref().zip(new.as_ref())?;
    Some(of.iter().filter(|device| new.iter().any(|new| new.numbers() == device.numbers())).cloned().collect())
}

/// A list of CPUs or nodes, unless it is missing or empty.
fn list(value: &Option<String>) -> Option<&String> {
    value.as_ref().filter(|list| !list.is_empty())
}

/// Of the limits `of` those that `new` names, 0 naming none, and what belongs to them: all that an update by `new` writes.
/// Whatever else has changed since it was recorded was changed by somebody else, who is to be left alone.
///
/// Quota and period are one; so are limit and swap, for v2 computes one from both, and the weight and idle, for the
/// kernel resets the weight when a cgroup is idle no more.
pub fn named(of: &LinuxResources, new: &LinuxResources) -> LinuxResources {
    let mut named = LinuxResources::default();
    named.set_devices(None);
    let (memory, cpu, block_io) = (new.memory().as_ref(), new.cpu().as_ref(), new.block_io().as_ref());
    named.set_memory(of.memory().as_ref().zip(memory).map(|(of, new)| named_memory(of, new)));
    named.set_cpu(of.cpu().as_ref().zip(cpu).map(|(of, new)| named_cpu(of, new)));
    named.set_block_io(of.block_io().as_ref().zip(block_io).map(|(of, new)| named_block_io(of, new)));
    named.set_pids(of.pids().filter(|_| new.pids().is_some()));
    named.set_unified(of.unified().as_ref().zip(new.unified().as_ref()).map(|(of, new)| {
        of.iter()
            .filter(|(file, _)| new.contains_key(*file) || *file == "cpu.weight" && new.contains_key("cpu.idle"))
            .map(|(file, value)| (file.clone(), value.clone()))
            .collect()
    }));
    named.set_hugepage_limits(of.hugepage_limits().as_ref().zip(new.hugepage_limits().as_ref()).map(|(of, new)| {
        let is_named = |size: &String| new.iter().any(|limit| limit.page_size() == size);
        of.iter().filter(|limit| is_named(limit.page_size())).cloned().collect()
    }));
    named.set_network(of.network().clone().filter(|_| new.network().is_some()));
    named.set_rdma(of.rdma().as_ref().zip(new.rdma().as_ref()).map(|(of, new)| {
        of.iter().filter(|(name, _)| new.contains_key(*name)).map(|(name, limit)| (name.clone(), *limit)).collect()
    }));
    named
}

fn named_memory(of: &LinuxMemory, new: &LinuxMemory) -> LinuxMemory {
    let mut named = LinuxMemory::default();
    if set(new.limit()).or(set(new.swap())).is_some() {
        named.set_limit(of.limit());
        named.set_swap(of.swap());
    }
    named.set_reservation(of.reservation().filter(|_| set(new.reservation()).is_some()));
    named.set_swappiness(of.swappiness().filter(|_| limits::swappiness(new).is_some()));
    named.set_disable_oom_killer(of.disable_oom_killer().filter(|_| new.disable_oom_killer().is_some()));
    named
}

fn named_cpu(of: &LinuxCpu, new: &LinuxCpu) -> LinuxCpu {
    let mut named = LinuxCpu::default();
    if set(new.quota()).is_some() || set(new.period()).is_some() {
        named.set_quota(of.quota());
        named.set_period(of.period());
    }
    if set(new.shares()).is_some() || new.idle().is_some() {
        named.set_shares(of.shares());
        named.set_idle(of.idle());
    }
    named.set_realtime_period(of.realtime_period().filter(|_| set(new.realtime_period()).is_some()));
    named.set_realtime_runtime(of.realtime_runtime().filter(|_| set(new.realtime_runtime()).is_some()));
    named.set_burst(of.burst().filter(|_| new.burst().is_some()));
    named.set_cpus(of.cpus().clone().filter(|_| list(new.cpus()).is_some()));
    named.set_mems(of.mems().clone().filter(|_| list(new.mems()).is_some()));
    named
}

fn named_block_io(of: &LinuxBlockIo, new: &LinuxBlockIo) -> LinuxBlockIo {
    let mut named = LinuxBlockIo::default();
    named.set_weight(of.weight().filter(|_| set(new.weight()).is_some()));
    named.set_leaf_weight(of.leaf_weight().filter(|_| set(new.leaf_weight()).is_some()));
    named.set_weight_device(named_devices(of.weight_device(), new.weight_device()));
    named.set_throttle_read_bps_device(named_devices(of.throttle_read_bps_device(), new.throttle_read_bps_device()));
    named.set_throttle_write_bps_device(named_devices(of.throttle_write_bps_device(), new.throttle_write_bps_device()));
    named.set_throttle_read_iops_device(named_devices(of.throttle_read_iops_device(), new.throttle_read_iops_device()));
    named.set_throttle_write_iops_device(named_devices(
        of.throttle_write_iops_device(),
        new.throttle_write_iops_device(),
    ));
    named
}

/// What an update has changed so far.
#[derive(Default)]
struct Changed {
    /// What the files held.
    files: Vec<Before>,
    /// What systemd has been told.
    unit: Vec<Property>,
}

impl Handle {
    /// Changes the limits that `new` names of a container with the limits `old`: to what [`merge`] makes of the two. On a
    /// hybrid machine, a limit whose v1 controller the container has not joined makes it join, and this handle is to be
    /// saved, also if that fails: its processes are moved while it is frozen. `note` hears of what is going to be made
    /// for that.
    ///
    /// # Errors
    /// What the kernel refuses, as one sentence; then what the files held is written again. What `note` answers.
    pub fn update(
        &mut self,
        old: &LinuxResources,
        new: &LinuxResources,
        mut note: impl FnMut(&Self) -> Result<()>,
    ) -> Result<()> {
        let layout = Layout::probe(Needs { controllers: true, ..Needs::default() })?;
        if let (Some(directory), Some(memory)) = (&self.unified, new.memory()) {
            check_usage(memory, directory)?;
        }
        let mut changed = Changed::default();
        let merged = merge(old, new);
        let Err(error) = self.apply(&named(&merged, new), &merged, &layout, &mut note, &mut changed) else {
            return Ok(());
        };
        // Of the unit only the record tells what held before. Systemd writes to the files too, so they come last.
        let unit = self.properties_before(old, new, &layout, &changed).and_then(|all| self.set_unit(&all, &layout));
        let left = unit.err().into_iter().chain(put_back(&changed.files));
        Err(left.fold(error, |error, left| error.and(format!("set the old limits again: {left}"))))
    }

    /// The limits as systemd rounds them, if it is there to do so.
    fn rounded<'a>(&self, resources: &'a LinuxResources) -> Cow<'a, LinuxResources> {
        let resources = Cow::Borrowed(resources);
        if self.unit.is_some() { systemd::unit::round_quota(resources) } else { resources }
    }

    /// The limits in systemd's terms, if it has a unit.
    fn properties(&self, resources: &LinuxResources, layout: &Layout) -> Result<Vec<Property>> {
        let version = if layout.mode == Mode::Unified { Version::V2 } else { Version::V1 };
        if self.unit.is_none() { Ok(Vec::new()) } else { systemd::unit::resource_properties(resources, version, None) }
    }

    /// What the unit was before an update by `new` of the limits `old`: all that it has been told is named, or systemd would
    /// write the rest of that again whenever it sees to the unit.
    fn properties_before(
        &self,
        old: &LinuxResources,
        new: &LinuxResources,
        layout: &Layout,
        changed: &Changed,
    ) -> Result<Vec<Property>> {
        if changed.unit.is_empty() {
            return Ok(Vec::new());
        }
        let on_record = self.properties(&self.rounded(&named(old, new)), layout)?;
        // Of those without a limit on record systemd limits the processes by a default of its own.
        let held = changed.files.iter().find(|before| before.file == "pids.max");
        let processes = held.and_then(|before| before.value.parse().ok());
        Ok(systemd::unit::taken_back(&changed.unit, on_record, processes))
    }

    /// Tells systemd of the limits, if there are any.
    ///
    /// On v1, each time systemd denies the unit all devices before it allows those of its rules again: who runs meanwhile
    /// would fail to open /dev/null, so nobody does.
    fn set_unit(&self, properties: &[Property], layout: &Layout) -> Result<()> {
        let Some(unit) = self.unit.as_ref().filter(|_| !properties.is_empty()) else { return Ok(()) };
        self.while_frozen(layout.mode != Mode::Unified, || unit.set(properties))
    }

    /// Does `action`; while the container is frozen if `wanted`, and if it can be.
    pub(super) fn while_frozen(&self, wanted: bool, action: impl FnOnce() -> Result<()>) -> Result<()> {
        if !wanted || self.freezer().is_none() || self.is_frozen()? || self.try_freeze()? != Outcome::Frozen {
            return action();
        }
        let done = action();
        match (done, self.thaw()) {
            (Err(error), Err(other)) => Err(error.and(other)),
            (done, thawed) => done.and(thawed),
        }
    }

    /// Writes what `resources` say, which are part of those `on_record`. `changed` gets what held until then.
    fn apply(
        &mut self,
        resources: &LinuxResources,
        on_record: &LinuxResources,
        layout: &Layout,
        note: &mut dyn FnMut(&Self) -> Result<()>,
        changed: &mut Changed,
    ) -> Result<()> {
        let resources = self.rounded(resources);
        let resources = resources.as_ref();
        let limits = limits::compile(resources, |v1, v2| layout.version(v1, v2))?;
        let unified = limits::unified(resources)?;
        if !unified.is_empty() && layout.mode != Mode::Unified {
            return Err(limits::unified_on_v1());
        }
        let properties = self.properties(resources, layout)?;
        let again = if properties.is_empty() || layout.mode != Mode::Unified {
            Vec::new()
        } else {
            let named = limits.iter().flat_map(|limits| &limits.writes).chain(&unified);
            written_by_systemd(&self.rounded(on_record), &named.collect::<Vec<_>>())?
        };
        // Before systemd writes to them.
        let mut looked_at = Vec::new();
        for Limits { controller, writes } in &limits {
            if let Some(directory) = self.directory_of(controller, layout) {
                changed.files.extend(Self::with_target(directory, |target| Ok(Before::all(target, writes)))?);
                looked_at.push(*controller);
            }
        }
        for writes in [&unified, &again] {
            if let Some(directory) = self.unified.as_ref().filter(|_| !writes.is_empty()) {
                changed.files.extend(Self::with_target(directory, |target| Ok(Before::all(target, writes)))?);
            }
        }
        changed.unit = properties;
        self.set_unit(&changed.unit, layout)?;
        if let Some(directory) = self.unified.as_ref().filter(|_| !again.is_empty()) {
            Self::with_target(directory, |target| target.write_all(&again))?;
        }
        for Limits { controller, mut writes } in limits {
            let directory = match layout.version_of(controller) {
                Version::V2 => self.unified.clone(),
                Version::V1 => Some(self.v1_directory(controller, layout, &writes, note)?),
            };
            let Some(directory) = directory else { return Err(no_cgroup(&writes)) };
            Self::with_target(&directory, |target| {
                let limit = target.get("memory.limit_in_bytes").ok().and_then(|text| text.trim().parse().ok());
                if let ("memory", Some(memory), Some(current)) = (controller, resources.memory(), limit) {
                    writes = limits::memory_v1(memory, Some(current))?;
                }
                // The container has just joined it.
                if !looked_at.contains(&controller) {
                    changed.files.extend(Before::all(target, &writes));
                }
                target.write_all(&writes)
            })?;
        }
        match &self.unified {
            Some(directory) if !unified.is_empty() => Self::with_target(directory, |target| target.write_all(&unified)),
            _ => Ok(()),
        }
    }

    /// The container's directory with the limits of `controller`, if it has joined one.
    fn directory_of(&self, controller: &str, layout: &Layout) -> Option<&Path> {
        let directory = match layout.version_of(controller) {
            Version::V2 => self.unified.as_ref(),
            Version::V1 => self.v1.get(controller),
        };
        directory.map(PathBuf::as_path)
    }

    /// The container's directory in the v1 hierarchy of `controller`; it is made and joined if need be.
    fn v1_directory(
        &mut self,
        controller: &str,
        layout: &Layout,
        writes: &[Write],
        note: &mut dyn FnMut(&Self) -> Result<()>,
    ) -> Result<PathBuf> {
        if let Some(directory) = self.v1.get(controller) {
            return Ok(directory.clone());
        }
        let relative = match (&self.unified, &layout.unified) {
            (Some(directory), Some(mount)) => directory.strip_prefix(mount).ok(),
            _ => self
                .v1
                .values()
                .find_map(|directory| layout.v1.iter().find_map(|mount| directory.strip_prefix(&mount.mount).ok())),
        };
        let (Some(relative), Some(mount)) = (relative, layout.v1_mount(controller)) else {
            return Err(no_cgroup(writes));
        };
        let directory = mount.mount.join(relative);
        let mut joined = self.clone();
        joined.v1.extend(mount.controllers.iter().map(|controller| (controller.clone(), directory.clone())));
        note(&joined)?;
        create::make_v1(&mount.mount, &directory, controller == "cpuset")?;
        if let Err(error) = self.move_into(&directory) {
            return Err(match tree::remove(&directory, Instant::now() + tree::REMOVAL_TIMEOUT) {
                Ok(()) => error,
                Err(other) => error.and(other),
            });
        }
        *self = joined;
        Ok(directory)
    }

    /// Moves every process of the container to the v1 cgroup `directory`. It is frozen meanwhile, so that none is born
    /// outside.
    fn move_into(&self, directory: &Path) -> Result<()> {
        let paused = self.is_frozen()?;
        if !paused {
            self.freeze()?;
        }
        let moved = self.pids(true).and_then(|pids| {
            pids.iter().try_for_each(|pid| match tree::put(directory, "cgroup.procs", &pid.to_string()) {
                Err(Errno::ESRCH) => Ok(()),
                result => result.doing(|| format!("move process {pid} to {}", directory.display())),
            })
        });
        if !paused {
            self.thaw()?;
        }
        moved
    }
}

/// Of the limits on record those in files that systemd writes whenever a property of the unit is set, whichever it is, although it was not
/// told of them, or only roughly (systemd, src/core/cgroup.c, `cgroup_context_apply`). What is `named` is written anyhow.
fn written_by_systemd(on_record: &LinuxResources, named: &[&Write]) -> Result<Vec<Write>> {
    const FILES: [&str; 6] =
        ["cpu.max", "io.bfq.weight", "io.weight", "memory.oom.group", "memory.zswap.max", "memory.zswap.writeback"];
    let limits = limits::compile(on_record, |_, _| Version::V2)?;
    let mut writes: Vec<Write> = limits.into_iter().flat_map(|limits| limits.writes).collect();
    writes.extend(limits::unified(on_record)?);
    // Lines for devices stay.
    let of_all = |write: &Write| key(&write.file, &write.value).is_none();
    writes.retain(|write| {
        FILES.contains(&&*write.file)
            && of_all(write)
            && !named.iter().any(|named| named.file == write.file && of_all(named))
    });
    Ok(writes)
}

/// What a file held before an update, or its line for one device.
struct Before {
    directory: PathBuf,
    file: String,
    /// The device.
    key: Option<String>,
    value: String,
}

impl Before {
    /// Of what `writes` are about to change, as far as it can be known.
    fn all(target: &Target<'_>, writes: &[Write]) -> Vec<Self> {
        let mut all = Vec::new();
        for Write { file, value, missing, .. } in writes {
            // The kernel gives a cgroup that is idle no more the usual weight.
            if file == "cpu.idle" {
                all.extend(["cpu.weight", "cpu.shares"].iter().filter_map(|weight| Self::of(target, weight, "")));
            }
            all.extend(match missing {
                Missing::Instead { file: other, value } if target.get(file) == Err(Errno::ENOENT) => {
                    Self::of(target, other, value)
                }
                _ => Self::of(target, file, value),
            });
        }
        all
    }

    fn of(target: &Target<'_>, file: &str, written: &str) -> Option<Self> {
        let key = key(file, written);
        let value = held(&target.get(file).ok()?, file, key)?;
        Some(Self { directory: target.path.to_owned(), file: file.to_owned(), key: key.map(str::to_owned), value })
    }

    fn put_back(&self) -> Result<()> {
        let Self { directory, file, key, value } = self;
        Handle::with_target(directory, |target| {
            let now = target.get(file).ok().and_then(|text| held(&text, file, key.as_deref()));
            if now.as_ref() == Some(value) {
                return Ok(());
            }
            // A list is emptied by an empty line: writing nothing at all does nothing.
            let value = if value.is_empty() { "\n" } else { value };
            target.put(file, value).doing(|| format!("write {value:?} to {}", directory.join(file).display()))
        })
    }
}

/// The device, or interface, whose line in `file` the value `written` replaces, if it holds lines.
fn key<'a>(file: &str, written: &'a str) -> Option<&'a str> {
    let (key, _) = written.split_once(' ')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_device = key.split_once(':').is_some_and(|(major, minor)| is_number(major) && is_number(minor));
    (is_device || matches!(file, "rdma.max" | "net_prio.ifpriomap")).then_some(key)
}

/// What has to be written to `file` for it to hold what its `text` says, of `key` if that is given.
fn held(text: &str, file: &str, key: Option<&str>) -> Option<String> {
    if let Some(key) = key {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(key));
        // Devices without a line are not limited.
        return line.map(|line| line.trim().to_owned()).or_else(|| match file {
            "io.max" => Some(format!("{key} rbps=max wbps=max riops=max wiops=max")),
            _ if file.starts_with("blkio.throttle.") => Some(format!("{key} 0")),
            _ if file.contains("weight") => Some(format!("{key} default")),
            _ => None,
        });
    }
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().trim();
    match file {
        // Its other lines are no settings.
        "memory.oom_control" => first.strip_prefix("oom_kill_disable ").map(str::to_owned),
        // One that is empty stands for all that there are above.
        "cpuset.cpus" | "cpuset.mems" => Some(first.to_owned()),
        _ => (!first.is_empty() && (lines.next().is_none() || first.starts_with("default "))).then(|| first.to_owned()),
    }
}

/// Has the files hold what they held `before`, the last first, for some bound each other; what could not be.
fn put_back(before: &[Before]) -> Vec<Error> {
    let (mut refused, mut errors) = (Vec::new(), Vec::new());
    for before in before.iter().rev() {
        match before.put_back() {
            Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::ERANGE)) => refused.push(before),
            result => errors.extend(result.err()),
        }
    }
    errors.extend(refused.into_iter().filter_map(|before| before.put_back().err()));
    errors
}

fn no_cgroup(writes: &[Write]) -> Error {
    let field = writes.first().map_or("linux.resources", |write| &write.field);
    let problem = "cannot be set: the container has no cgroup for it, and this machine offers none";
    Error::config(field, problem)
}

/// The check that memory.checkBeforeUpdate of an update asks for: a limit below the usage would have the kernel kill
/// processes.
fn check_usage(memory: &LinuxMemory, directory: &Path) -> Result<()> {
    if memory.check_before_update() != Some(true) {
        return Ok(());
    }
    let Ok(text) = fs::read_to_string(directory.join("memory.current")) else { return Ok(()) };
    let usage: u64 = text.trim().parse().unwrap_or(0);
    for (what, limit) in [("memory+swap", memory.swap()), ("memory", memory.limit())] {
        if let Some(limit) = limit.filter(|limit| *limit > 0 && limit.unsigned_abs() <= usage) {
            let problem = format!("rejecting {what} limit {limit} <= usage {usage}: use a higher limit");
            return Err(Error::new(Kind::Config, format!("linux.resources.memory: {problem}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    /// What an update by `new` writes, and what is on record then.
    fn update(old: &str, new: &str) -> (String, LinuxResources) {
        let (old, new) = (resources(old), resources(new));
        let merged = merge(&old, &new);
        let limits = limits::compile(&named(&merged, &new), |_, _| Version::V1).unwrap();
        let writes =
            limits.iter().flat_map(|limit| &limit.writes).map(|write| format!("{}={}", write.file, write.value));
        (writes.collect::<Vec<_>>().join(" "), merged)
    }

    #[test]
    fn what_an_update_does_not_name_is_not_written() {
        let old = r#"{"memory": {"limit": 1000, "swap": 2000, "reservation": 800, "checkBeforeUpdate": true},
            "cpu": {"quota": 50000, "period": 100000, "shares": 512, "burst": 10, "cpus": "0", "idle": 0}, "pids": {"limit": 5},
            "blockIO": {"weight": 100, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 10}]}}"#;
        for (new, written) in [
            ("{}", ""),
            (r#"{"memory": {}, "cpu": {}, "blockIO": {}, "network": {}}"#, ""),
            (r#"{"memory": {"limit": 0, "swap": 0, "reservation": 0}, "blockIO": {"weight": 0}}"#, ""),
            (r#"{"cpu": {"quota": 0, "period": 0, "shares": 0, "cpus": "", "realtimePeriod": 0}}"#, ""),
            (r#"{"cpu": {"cpus": "1"}}"#, "cpuset.cpus=1"),
            (r#"{"cpu": {"burst": 0}}"#, "cpu.cfs_burst_us=0"),
            (r#"{"cpu": {"quota": -1}}"#, "cpu.cfs_period_us=100000 cpu.cfs_quota_us=-1"),
            (r#"{"cpu": {"period": 9000}}"#, "cpu.cfs_period_us=9000 cpu.cfs_quota_us=50000"),
            (r#"{"cpu": {"shares": 77}}"#, "cpu.idle=0 cpu.shares=77"),
            (r#"{"cpu": {"idle": 1}}"#, "cpu.idle=1"),
            (r#"{"memory": {"reservation": 700}}"#, "memory.soft_limit_in_bytes=700"),
            (r#"{"memory": {"limit": 900}}"#, "memory.limit_in_bytes=900 memory.memsw.limit_in_bytes=2000"),
            (r#"{"memory": {"limit": -1}}"#, "memory.memsw.limit_in_bytes=-1 memory.limit_in_bytes=-1"),
            (
                r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 3}]}}"#,
                "blkio.throttle.read_bps_device=8:1 3",
            ),
        ] {
            assert_eq!(update(old, new).0, written, "{new}");
        }
        let (_, merged) = update(old, r#"{"memory": {"limit": 0, "swap": 0, "reservation": 600}, "cpu": {"idle": 1}}"#);
        let memory = merged.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap(), memory.reservation()), (Some(1000), Some(2000), Some(600)));
        assert_eq!(memory.check_before_update(), None);
        let cpu = merged.cpu().as_ref().unwrap();
        assert_eq!((cpu.shares(), cpu.idle(), cpu.cpus().as_deref()), (Some(512), Some(1), Some("0")));
    }

    #[test]
    fn what_systemd_writes_unasked_is_written_again() {
        let on_record = resources(
            r#"{"memory": {"limit": 1000}, "pids": {"limit": 5}, "cpu": {"quota": 10000, "period": 200000, "shares": 512},
            "blockIO": {"weight": 200, "weightDevice": [{"major": 8, "minor": 0, "weight": 300}]},
            "unified": {"memory.oom.group": "1", "memory.high": "9", "io.weight": "default 7\n8:16 9"}}"#,
        );
        let again = |named: &[&Write]| -> Vec<String> {
            let writes = written_by_systemd(&on_record, named).unwrap();
            writes.iter().map(|write| format!("{}={}", write.file, write.value)).collect()
        };
        let all = ["io.bfq.weight=200", "cpu.max=10000 200000", "io.weight=default 7", "memory.oom.group=1"];
        assert_eq!(again(&[]), all);
        let named = [Write::new("cpu.max", "5 10", ""), Write::new("io.bfq.weight", "8:0 100", "")];
        assert_eq!(again(&named.each_ref()), [all[0], all[2], all[3]]);
    }

    #[test]
    fn only_the_limits_of_an_update_that_asks_are_checked() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("memory.current"), "5000\n").unwrap();
        let check = |new: &str| check_usage(resources(new).memory().as_ref().unwrap(), directory.path());
        let error = check(r#"{"memory": {"limit": 4096, "checkBeforeUpdate": true}}"#).unwrap_err().to_string();
        assert!(error.contains("rejecting memory limit 4096 <= usage 5000"), "{error}");
        check(r#"{"memory": {"limit": 4096}}"#).unwrap();
        check(r#"{"memory": {"reservation": 1, "checkBeforeUpdate": true}}"#).unwrap();
    }

    #[test]
    fn what_a_file_held_is_known() {
        let held = |file: &str, written: &str, text: &str| held(text, file, key(file, written));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(held("cpu.max", "5 6", "max 100000\n"), some("max 100000"));
        assert_eq!(held("cpuset.cpus", "0", "\n"), some(""));
        assert_eq!(held("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\n"), some("0"));
        assert_eq!(held("io.weight", "50", "default 100\n8:0 20\n"), some("default 100"));
        assert_eq!(held("io.weight", "8:0 50", "default 100\n8:0 20\n"), some("8:0 20"));
        assert_eq!(held("blkio.bfq.weight_device", "8:0 50", ""), some("8:0 default"));
        let lines = "8:16 rbps=1 wbps=max riops=max wiops=max\n8:0 rbps=2 wbps=max riops=max wiops=max\n";
        assert_eq!(held("io.max", "8:0 rbps=7", lines), some("8:0 rbps=2 wbps=max riops=max wiops=max"));
        assert_eq!(held("io.max", "8:1 rbps=7", lines), some("8:1 rbps=max wbps=max riops=max wiops=max"));
        assert_eq!(held("blkio.throttle.read_bps_device", "8:0 9", "8:0 4\n"), some("8:0 4"));
        assert_eq!(held("blkio.throttle.read_bps_device", "8:1 9", "8:0 4\n"), some("8:1 0"));
        assert_eq!(
            held("rdma.max", "mlx5 hca_handle=1", "mlx5 hca_handle=max hca_object=2\n"),
            some("mlx5 hca_handle=max hca_object=2")
        );
        assert_eq!(held("memory.stat", "1", "anon 1\nfile 2\n"), None);
    }
}
