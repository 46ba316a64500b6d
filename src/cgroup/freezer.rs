//! Pausing a container: cgroup.freeze (v2, Linux 5.2) or the v1 freezer.

use super::handle::Handle;
use super::tree;
use crate::error::{Doing, Kind};
use crate::{Error, Result};
use nix::errno::Errno;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long a container may take to freeze: a process in an uninterruptible sleep does not.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often the v1 freezer is told again to freeze a cgroup that it finds FREEZING.
const V1_TRIES: u32 = 1000;

impl Handle {
    /// The directory whose switch stops the container's processes.
    pub fn freezer(&self) -> Option<&Path> {
        self.unified.as_ref().or_else(|| self.v1.get("freezer")).map(PathBuf::as_path)
    }

    /// Stops every process of the container where it is, and returns when all are stopped.
    ///
    /// # Errors
    /// A kernel without a freezer, or processes that do not stop within 10 s; then they go on.
    pub fn freeze(&self) -> Result<()> {
        let frozen = match (&self.unified, self.v1.get("freezer")) {
            (Some(directory), _) => freeze_v2(directory),
            (None, Some(directory)) => freeze_v1(directory),
            (None, None) => Err(no_freezer()),
        };
        frozen.or_else(|error| self.thaw().and(Err(error)))
    }

    /// Lets the container's processes go on.
    ///
    /// # Errors
    /// A kernel without a freezer, or one that refuses.
    pub fn thaw(&self) -> Result<()> {
        if self.unified.is_none() && !self.v1.contains_key("freezer") {
            return Err(no_freezer());
        }
        if let Some(directory) = &self.unified {
            set(directory, "cgroup.freeze", "0")?;
        }
        // On a hybrid machine it may have been frozen on the v1 side by someone else.
        match self.v1.get("freezer") {
            Some(directory) if self.unified.is_none() || frozen_v1(directory) => {
                set(directory, "freezer.state", "THAWED")
            }
            _ => Ok(()),
        }
    }

    /// Whether the container is paused, by this cgroup's own switch: being below a frozen cgroup does not count.
    ///
    /// # Errors
    /// A cgroup that exists but cannot be read.
    pub fn is_frozen(&self) -> Result<bool> {
        if let Some(directory) = &self.unified {
            let file = directory.join("cgroup.freeze");
            match fs::read_to_string(&file) {
                Ok(text) if text.trim() == "1" => return Ok(true),
                Ok(_) => {}
                Err(error) if tree::is_gone(&error) => {}
                Err(error) => return Err(Error::io(format!("read {}", file.display()), &error)),
            }
        }
        Ok(self.v1.get("freezer").is_some_and(|directory| frozen_v1(directory)))
    }
}

fn no_freezer() -> Error {
    Error::new(Kind::System, "cannot toggle freezer: cgroups not configured for container")
}

fn set(directory: &Path, file: &str, value: &str) -> Result<()> {
    match tree::put(directory, file, value) {
        Err(Errno::ENOENT) if directory.exists() => {
            let problem = format!("this kernel has no {file} in {}: Linux 5.2 or later is needed", directory.display());
            Err(Error::new(Kind::System, problem))
        }
        result => result.doing(|| format!("write {value:?} to {}/{file}", directory.display())),
    }
}

fn freeze_v2(directory: &Path) -> Result<()> {
    set(directory, "cgroup.freeze", "1")?;
    let file = directory.join("cgroup.events");
    let events = tree::open_file(&file).doing(|| format!("open {}", file.display()))?;
    let frozen = tree::wait_event(&events, Instant::now() + TIMEOUT, |text| text.contains("frozen 1"));
    if frozen.doing(|| format!("wait for {}", file.display()))? { Ok(()) } else { Err(does_not_freeze(directory)) }
}

fn does_not_freeze(directory: &Path) -> Error {
    let problem =
        format!("unable to freeze {}: a process in it does not stop (see its state in ps)", directory.display());
    Error::new(Kind::System, problem)
}

/// The v1 freezer does not catch processes that are forked while it works; they are caught by telling it again. It
/// gives no notice of its progress. Now and then all go on for a moment, for the same reason as in a traffic jam.
fn freeze_v1(directory: &Path) -> Result<()> {
    for attempt in 1..=V1_TRIES {
        set(directory, "freezer.state", "FROZEN")?;
        let file = directory.join("freezer.state");
        if fs::read_to_string(&file).doing(|| format!("read {}", file.display()))?.trim() == "FROZEN" {
            return Ok(());
        }
        if attempt % 50 == 0 {
            set(directory, "freezer.state", "THAWED")?;
            thread::sleep(Duration::from_millis(10));
        } else {
            thread::yield_now();
        }
    }
    Err(does_not_freeze(directory))
}

fn frozen_v1(directory: &Path) -> bool {
    let state = fs::read_to_string(directory.join("freezer.state")).unwrap_or_default();
    // FREEZING and FROZEN also tell of a cgroup above; self_freezing (Linux 3.10) tells of this one.
    let own = fs::read_to_string(directory.join("freezer.self_freezing")).map_or(true, |text| text.trim() == "1");
    matches!(state.trim(), "FROZEN" | "FREEZING") && own
}
