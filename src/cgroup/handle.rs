//! A container's cgroups as saved in state.json, and what can be done with them: list, join, kill, wait, remove.
//! Freezing, statistics, events and updates have files of their own.

use super::freezer::Outcome;
use super::plan::Driver;
use super::systemd::Unit;
use super::tree;
use super::write::Target;
use crate::error::{Doing, Kind};
use crate::sys::process;
use crate::{Error, Result, log};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where a container's cgroups are. It holds no descriptor and may outlive the cgroups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handle {
    /// Who made the cgroups.
    pub driver: Driver,
    /// The systemd unit that they belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// The v2 directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unified: Option<PathBuf>,
    /// The v1 directory of each controller joined.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub v1: BTreeMap<String, PathBuf>,
}

impl Handle {
    pub(super) fn new(driver: Driver) -> Self {
        Self { driver, unit: None, unified: None, v1: BTreeMap::new() }
    }

    /// Every directory, each once. The v2 directory comes first: it can tell when it is empty.
    pub fn directories(&self) -> Vec<&Path> {
        let mut directories: Vec<&Path> = Vec::new();
        for path in self.unified.iter().chain(self.v1.values()) {
            if !directories.contains(&path.as_path()) {
                directories.push(path);
            }
        }
        directories
    }

    /// The directory that lists the container's processes, if it has any cgroup at all (rootless ones may not).
    pub(super) fn main_directory(&self) -> Option<&Path> {
        let v1 = ["devices", "freezer"].iter().find_map(|controller| self.v1.get(*controller));
        self.unified.as_ref().or(v1).or_else(|| self.v1.values().next()).map(PathBuf::as_path)
    }

    /// Whether there is a cgroup that freezes, kills and lists the container's processes, and nothing else.
    pub fn exists(&self) -> bool {
        self.main_directory().is_some_and(Path::exists)
    }

    /// The container's processes, with `recursive` those in cgroups that it made itself too. Removed cgroups have none.
    ///
    /// # Errors
    /// Those of reading cgroup.procs.
    pub fn pids(&self, recursive: bool) -> Result<Vec<i32>> {
        let Some(directory) = self.main_directory() else { return Ok(Vec::new()) };
        match tree::pids(directory, recursive) {
            Err(error) if tree::is_gone(&error) => Ok(Vec::new()),
            result => result.doing(|| format!("read the processes of {}", directory.display())),
        }
    }

    /// Sends `signal`, by its number, to every process of the container, so that none can escape by forking meanwhile: SIGKILL through
    /// cgroup.kill (Linux 5.14), others while the container is frozen. A paused container stays paused, but for
    /// SIGKILL, which a v1 freezer would hold back. One that does not freeze gets the signal all the same. Removed cgroups have no
    /// process, which is no error.
    ///
    /// # Errors
    /// A kernel that refuses.
    pub fn kill(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL
            && let Some(directory) = &self.unified
        {
            match tree::put(directory, "cgroup.kill", "1") {
                Ok(()) | Err(Errno::ENODEV) => return Ok(()),
                Err(Errno::ENOENT) if tree::is_covered(directory) => return Err(tree::covered(directory)),
                Err(Errno::ENOENT) if directory.exists() => {}
                Err(Errno::ENOENT) => return Ok(()),
                // It is threaded.
                Err(Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(Error::system(format!("write {}/cgroup.kill", directory.display()), errno)),
            }
        }
        let Some(directory) = self.main_directory().filter(|directory| directory.exists()) else { return Ok(()) };
        // Whatever the record says: at the root of a hierarchy are the processes of the whole machine.
        if tree::is_covered(directory) {
            return Err(tree::covered(directory));
        }
        let paused = self.is_frozen()?;
        // Who thaws it meanwhile wants its processes to go on; they get the signal all the same.
        let is_stopped = paused
            || match self.try_freeze() {
                Ok(Outcome::Empty) => return Ok(()),
                Ok(Outcome::Frozen | Outcome::Thawed) => true,
                // One that hangs in the kernel does not keep the others from what they are to hear.
                Err(error) => {
                    log::warn(error);
                    false
                }
            };
        let sent = self.send(signal);
        if is_stopped && (!paused || signal == libc::SIGKILL) {
            self.thaw()?;
        }
        sent
    }

    fn send(&self, signal: i32) -> Result<()> {
        for pid in self.pids(true)? {
            match process::kill(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(Error::system(format!("send signal {signal} to process {pid}"), errno)),
            }
        }
        Ok(())
    }

    /// Moves the process `pid` into the container's cgroups, with systemd's help where there is a unit: for a user
    /// whose process may not go there by itself, as [`Handle::join`] would have it.
    ///
    /// # Errors
    /// What systemd or the kernel refuses.
    pub fn attach(&self, pid: i32) -> Result<()> {
        if let Some(unit) = &self.unit {
            return unit.attach(pid, "/");
        }
        self.directories().into_iter().try_for_each(|directory| {
            let doing = || format!("move process {pid} to {}", directory.display());
            tree::put(directory, "cgroup.procs", &pid.to_string()).doing(doing)
        })
    }

    /// Removes the cgroups and all that was made inside them, once their processes have been killed. Those that are still
    /// exiting are waited for; those of a systemd unit are ended by systemd. Where that does not answer, it finds out by itself that
    /// the directories are gone, and a warning says so.
    ///
    /// # Errors
    /// A directory that still holds processes, or that the kernel will not remove; then also what systemd said.
    pub fn destroy(&self) -> Result<()> {
        self.destroy_within(tree::REMOVAL_TIMEOUT)
    }

    /// As [`Handle::destroy`], with less patience: `patience` for all of the processes together.
    ///
    /// # Errors
    /// As there.
    pub fn destroy_within(&self, patience: Duration) -> Result<()> {
        let stopped = self.unit.as_ref().map_or(Ok(()), Unit::stop);
        let deadline = Instant::now() + patience;
        let mut removed = Ok(());
        for directory in self.directories() {
            removed = removed.and(tree::remove(directory, deadline));
        }
        match (stopped, removed) {
            (Err(error), Ok(())) => {
                log::warn(format!("the container's cgroups have been removed without systemd: {error}"));
                Ok(())
            }
            (Err(error), Err(other)) => Err(error.and(other)),
            (Ok(()), removed) => removed,
        }
    }

    /// Runs `action` on the opened directory `path`.
    pub(super) fn with_target<T>(path: &Path, action: impl FnOnce(&Target<'_>) -> Result<T>) -> Result<T> {
        let fd = tree::open_directory(path).map_err(|errno| match errno {
            Errno::ENOENT => {
                Error::new(Kind::System, format!("the cgroup {} is gone: the container has ended", path.display()))
            }
            errno => Error::system(format!("open {}", path.display()), errno),
        })?;
        action(&Target { directory: fd.as_fd(), path })
    }
}
