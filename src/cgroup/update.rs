//! Changing the limits of a running container.

use super::create;
use super::handle::Handle;
use super::layout::{Layout, Mode, Needs};
use super::limits::{self, Limits, Version};
use super::systemd;
use super::tree;
use super::write::{Target, Write};
use crate::error::{Doing, Kind};
use crate::{Error, Result};
use nix::errno::Errno;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice};
use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The limits in force after an update by `new` of a container with the limits `old`.
///
/// A field that `new` leaves out keeps its value, except those that the kernel keeps by itself when they are not
/// written: cpus, mems, burst, pids and unified hold only what `new` says. Device rules stay as they are: tools
/// that give a running container further devices must not be undone by a change of its memory limit.
pub fn merge(old: &LinuxResources, new: &LinuxResources) -> LinuxResources {
    let mut merged = old.clone();
    merged.set_memory(merge_memory(old.memory().as_ref(), new.memory().as_ref()));
    merged.set_cpu(merge_cpu(old.cpu().as_ref(), new.cpu().as_ref()));
    merged.set_block_io(merge_block_io(old.block_io().as_ref(), new.block_io().as_ref()));
    merged.set_pids(*new.pids());
    merged.set_unified(new.unified().clone());
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
    let lifted = new.limit() == Some(-1) && new.swap().is_none();
    merged.set_limit(new.limit().or(merged.limit()));
    merged.set_swap(if lifted { Some(0) } else { new.swap().or(merged.swap()) });
    merged.set_reservation(new.reservation().or(merged.reservation()));
    merged.set_swappiness(new.swappiness().or(merged.swappiness()));
    merged.set_disable_oom_killer(new.disable_oom_killer().or(merged.disable_oom_killer()));
    merged.set_check_before_update(new.check_before_update().or(merged.check_before_update()));
    Some(merged)
}

fn merge_cpu(old: Option<&LinuxCpu>, new: Option<&LinuxCpu>) -> Option<LinuxCpu> {
    let mut merged = old.cloned().unwrap_or_default();
    let none = LinuxCpu::default();
    let new = new.unwrap_or(&none);
    let quota = new.quota().filter(|quota| *quota != 0);
    let period = new.period().filter(|period| *period != 0);
    // One of the two alone is taken with the other's old value; none of them resets nothing.
    if quota.is_some() {
        merged.set_quota(quota);
    }
    if period.is_some() {
        merged.set_period(period);
    }
    let shares = new.shares().filter(|shares| *shares != 0);
    merged.set_shares(shares.or(merged.shares()));
    // A weight is for a container that is not idle: who sets one ends that, unless he says otherwise.
    let idle = if shares.is_some() { merged.idle().map(|_| 0) } else { merged.idle() };
    merged.set_idle(new.idle().or(idle));
    merged.set_realtime_period(new.realtime_period().or(merged.realtime_period()));
    merged.set_realtime_runtime(new.realtime_runtime().or(merged.realtime_runtime()));
    merged.set_burst(new.burst());
    merged.set_cpus(new.cpus().clone());
    merged.set_mems(new.mems().clone());
    Some(merged)
}

fn merge_block_io(old: Option<&LinuxBlockIo>, new: Option<&LinuxBlockIo>) -> Option<LinuxBlockIo> {
    let Some(new) = new else { return old.cloned() };
    let mut merged = old.cloned().unwrap_or_default();
    merged.set_weight(new.weight().or(merged.weight()));
    merged.set_leaf_weight(new.leaf_weight().or(merged.leaf_weight()));
    let weights = merge_weights(merged.weight_device().as_deref(), new.weight_device().as_deref());
    merged.set_weight_device(weights);
    let rates = |old: &Option<Vec<LinuxThrottleDevice>>, new: &Option<Vec<LinuxThrottleDevice>>| {
        merge_rates(old.as_deref(), new.as_deref())
    };
    let read_bps = rates(merged.throttle_read_bps_device(), new.throttle_read_bps_device());
    let write_bps = rates(merged.throttle_write_bps_device(), new.throttle_write_bps_device());
    let read_iops = rates(merged.throttle_read_iops_device(), new.throttle_read_iops_device());
    let write_iops = rates(merged.throttle_write_iops_device(), new.throttle_write_iops_device());
    merged.set_throttle_read_bps_device(read_bps);
    merged.set_throttle_write_bps_device(write_bps);
    merged.set_throttle_read_iops_device(read_iops);
    merged.set_throttle_write_iops_device(write_iops);
    Some(merged)
}

/// The list `old` in which entries for the same device as one in `new` are replaced by it.
fn merge_devices<T: Clone>(old: Option<&[T]>, new: Option<&[T]>, same: impl Fn(&T, &T) -> bool) -> Option<Vec<T>> {
    let Some(new) = new else { return old.map(<[T]>::to_vec) };
    let mut merged = old.unwrap_or_default().to_vec();
    for device in new {
        merged.retain(|known| !same(known, device));
        merged.push(device.clone());
    }
    Some(merged)
}

fn merge_rates(
    old: Option<&[LinuxThrottleDevice]>,
    new: Option<&[LinuxThrottleDevice]>,
) -> Option<Vec<LinuxThrottleDevice>> {
    merge_devices(old, new, |a, b| (a.major(), a.minor()) == (b.major(), b.minor()))
}

fn merge_weights(
    old: Option<&[LinuxWeightDevice]>,
    new: Option<&[LinuxWeightDevice]>,
) -> Option<Vec<LinuxWeightDevice>> {
    merge_devices(old, new, |a, b| (a.major(), a.minor()) == (b.major(), b.minor()))
}

impl Handle {
    /// Changes the limits of the container from `old` to `merged`, which [`merge`] has made of them. On a hybrid machine, a
    /// limit whose v1 controller the container has not joined makes it join, and this handle is to be saved, also if
    /// that fails: its processes are moved while it is frozen. `note` hears of what is going to be made for that.
    ///
    /// # Errors
    /// What the kernel refuses, as one sentence; then the old limits are written again. What `note` answers.
    pub fn update(
        &mut self,
        old: &LinuxResources,
        merged: &LinuxResources,
        mut note: impl FnMut(&Self) -> Result<()>,
    ) -> Result<()> {
        let layout = Layout::probe(Needs { controllers: true, ..Needs::default() })?;
        let mut before = Vec::new();
        if let Err(error) = self.apply(merged, &layout, &mut note, &mut before) {
            // The old limits held before; that they hold again is all that can be tried.
            let restored = self.apply(old, &layout, &mut note, &mut Vec::new()).and_then(|()| put_back(&before));
            return Err(match restored {
                Ok(()) => error,
                Err(other) => error.and(format!("set the old limits again: {other}")),
            });
        }
        Ok(())
    }

    /// Writes what `resources` say. `before` gets what the files held until then.
    fn apply(
        &mut self,
        resources: &LinuxResources,
        layout: &Layout,
        note: &mut dyn FnMut(&Self) -> Result<()>,
        before: &mut Vec<Before>,
    ) -> Result<()> {
        let rounded;
        let resources = if self.unit.is_some() {
            rounded = systemd::unit::round_quota(Cow::Borrowed(resources));
            rounded.as_ref()
        } else {
            resources
        };
        let limits = limits::compile(resources, |v1, v2| layout.version(v1, v2))?;
        let unified = limits::unified(resources)?;
        if !unified.is_empty() && layout.mode != Mode::Unified {
            return Err(Error::config(
                "linux.resources.unified",
                "invalid configuration: this machine keeps its controllers on cgroup v1: use the v1 fields",
            ));
        }
        if let (Some(directory), Some(memory)) = (&self.unified, resources.memory()) {
            check_usage(memory, directory)?;
        }
        if let Some(unit) = &self.unit {
            let version = if layout.mode == Mode::Unified { Version::V2 } else { Version::V1 };
            unit.set(&systemd::unit::resource_properties(resources, version, None)?)?;
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
                before.extend(Before::of(target, &directory, &writes));
                target.write_all(&writes)
            })?;
        }
        match &self.unified {
            Some(directory) if !unified.is_empty() => Self::with_target(directory, |target| {
                before.extend(Before::of(target, directory, &unified));
                target.write_all(&unified)
            }),
            _ => Ok(()),
        }
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

/// What a file held before an update.
struct Before {
    directory: PathBuf,
    file: String,
    value: String,
}

impl Before {
    /// Of the files of `writes` that hold one value each. In those that hold lines for devices each line is written by itself.
    fn of(target: &Target<'_>, directory: &Path, writes: &[Write]) -> Vec<Self> {
        let held = |write: &Write| {
            let value = target.get(&write.file).ok()?.trim().to_owned();
            let is_one = !value.is_empty() && !value.contains('\n');
            is_one.then(|| Self { directory: directory.to_owned(), file: write.file.clone(), value })
        };
        writes.iter().filter_map(held).collect()
    }
}

/// Has the files hold what they held `before`: limits that were not set have no old value that is written again. The last comes
/// first, for some bound each other.
fn put_back(before: &[Before]) -> Result<()> {
    before.iter().rev().try_for_each(|Before { directory, file, value }| {
        Handle::with_target(directory, |target| {
            if target.get(file).is_ok_and(|now| now.trim() == value) {
                return Ok(());
            }
            target.put(file, value).doing(|| format!("write {value:?} to {}", directory.join(file).display()))
        })
    })
}

fn no_cgroup(writes: &[Write]) -> Error {
    let field = writes.first().map_or("linux.resources", |write| &write.field);
    let problem = "cannot be set: the container has no cgroup for it, and this machine offers none";
    Error::config(field, problem)
}

/// The check that memory.checkBeforeUpdate asks for: a limit below the usage would have the kernel kill processes.
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
