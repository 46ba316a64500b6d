//! Pausing a container: cgroup.freeze (v2, Linux 5.2) or the v1 freezer.

use super::handle::Handle;
use super::tree;
use super::write::Target;
use crate::error::{Doing, Kind};
use crate::{Error, Result};
use nix::errno::Errno;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long a container may take to freeze: a process in an uninterruptible sleep does not.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether somebody has thawed what is to freeze: no event tells of that.
const TICK: Duration = Duration::from_millis(10);
/// How often the v1 freezer is told again to freeze a cgroup that it finds FREEZING.
const V1_TRIES: u32 = 1000;

/// What came of freezing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Every process is stopped.
    Frozen,
    /// Somebody else has let the processes go on.
    Thawed,
    /// No process is left, or the cgroup is gone.
    Empty,
}

impl Handle {
    /// The directory whose switch stops the container's processes.
    pub fn freezer(&self) -> Option<&Path> {
        self.unified.as_ref().or_else(|| self.v1.get("freezer")).map(PathBuf::as_path)
    }

    /// Stops every process of the container where it is, and returns when all are stopped.
    ///
    /// # Errors
    /// A kernel without a freezer, or processes that do not stop within 10 s; then they go on. Processes that somebody
    /// thaws or ends meanwhile.
    pub fn freeze(&self) -> Result<()> {
        let problem = match self.try_freeze()? {
            Outcome::Frozen => return Ok(()),
            Outcome::Thawed => {
                "the container was thawed while it was being paused, by a resume or by a signal that ends it: see its \
                 state"
            }
            Outcome::Empty => "container not running: no process is left in its cgroup",
        };
        Err(Error::new(Kind::WrongState, problem))
    }

    /// As [`Handle::freeze`], for who can do with any outcome.
    pub(super) fn try_freeze(&self) -> Result<Outcome> {
        let Some(directory) = self.freezer() else { return Err(no_freezer()) };
        let Some(freezer) = Freezer::open(directory)? else { return Ok(Outcome::Empty) };
        match if self.unified.is_some() { freezer.freeze_v2() } else { freezer.freeze_v1() } {
            Err(_) if freezer.is_gone() => Ok(Outcome::Empty),
            Err(error) => self.thaw().and(Err(error)),
            Ok(Outcome::Empty) => {
                // It may be gone at any moment.
                let _ = self.thaw();
                Ok(Outcome::Empty)
            }
            outcome => outcome,
        }
    }

    /// Lets the container's processes go on. In a cgroup that is gone there are none.
    ///
    /// # Errors
    /// A kernel without a freezer, or one that refuses.
    pub fn thaw(&self) -> Result<()> {
        if self.unified.is_none() && !self.v1.contains_key("freezer") {
            return Err(no_freezer());
        }
        if let Some(directory) = &self.unified {
            unset(directory, "cgroup.freeze", "0")?;
        }
        // On a hybrid machine it may have been frozen on the v1 side by someone else.
        match self.v1.get("freezer") {
            Some(directory) if self.unified.is_none() || frozen_v1(directory) => {
                unset(directory, "freezer.state", "THAWED")
            }
            _ => Ok(()),
        }
    }

    /// Whether the container is paused, by this cgroup's own switch: being below a frozen cgroup does not count.
    ///
    /// # Errors
    /// A cgroup that exists but cannot be read.
    pub fn is_frozen(&self) -> Result<bool> {
        if let Some(directory) = &self.unified
            && is_set_v2(directory)?
        {
            return Ok(true);
        }
        Ok(self.v1.get("freezer").is_some_and(|directory| frozen_v1(directory)))
    }
}

fn no_freezer() -> Error {
    Error::new(Kind::System, "cannot toggle freezer: cgroups not configured for container")
}

fn unset(directory: &Path, file: &str, value: &str) -> Result<()> {
    let Some(freezer) = Freezer::open(directory)? else { return Ok(()) };
    match freezer.set(file, value) {
        Err(_) if freezer.is_gone() => Ok(()),
        result => result,
    }
}

/// Whether the switch is on; that of a cgroup that is gone is not.
fn is_set_v2(directory: &Path) -> Result<bool> {
    let file = directory.join("cgroup.freeze");
    // It says one digit, and `start` reads it too: so one read(2).
    let mut digit = [0];
    match fs::File::open(&file).and_then(|mut file| file.read(&mut digit)) {
        Ok(_) => Ok(digit == *b"1"),
        Err(error) if tree::is_gone(&error) => Ok(false),
        Err(error) => Err(Error::io(format!("read {}", file.display()), &error)),
    }
}

fn frozen_v1(directory: &Path) -> bool {
    matches!(Freezer::open(directory), Ok(Some(freezer)) if freezer.get("freezer.state").is_ok_and(|state| freezer.is_own_v1(&state)))
}

/// The directory of a cgroup that is frozen or thawed, open: another container's may have its name before all is done.
struct Freezer<'a> {
    directory: OwnedFd,
    path: &'a Path,
}

impl<'a> Freezer<'a> {
    /// `None` if the cgroup is gone.
    fn open(path: &'a Path) -> Result<Option<Self>> {
        match tree::open_directory(path) {
            Ok(directory) => Ok(Some(Self { directory, path })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno).doing(|| format!("open {}", path.display())),
        }
    }

    fn target(&self) -> Target<'_> {
        Target { directory: self.directory.as_fd(), path: self.path }
    }

    fn get(&self, file: &str) -> Result<String, Errno> {
        self.target().get(file)
    }

    fn is_gone(&self) -> bool {
        self.target().is_gone()
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.display();
        match self.target().put(file, value) {
            Err(Errno::ENOENT) if !self.is_gone() && self.get(file) == Err(Errno::ENOENT) => {
                let problem = format!("this kernel has no {file} in {path}: Linux 5.2 or later is needed");
                Err(Error::new(Kind::System, problem))
            }
            result => result.doing(|| format!("write {value:?} to {path}/{file}")),
        }
    }

    fn freeze_v2(&self) -> Result<Outcome> {
        let deadline = Instant::now() + TIMEOUT;
        self.set("cgroup.freeze", "1")?;
        let doing = || format!("wait for {}/cgroup.events", self.path.display());
        let events = self.target().open("cgroup.events").doing(doing)?;
        let is_empty = |text: &str| text.contains("populated 0");
        let is_over = |text: &str| is_empty(text) || text.contains("frozen 1");
        while Instant::now() < deadline {
            if tree::wait_event(&events, deadline.min(Instant::now() + TICK), is_over).doing(doing)? {
                // What cannot be read any more has been removed.
                let is_empty = tree::reread(&events).map_or(true, |text| is_empty(&text));
                return Ok(if is_empty { Outcome::Empty } else { Outcome::Frozen });
            }
            // What cannot be read has been removed, and is told so.
            if self.get("cgroup.freeze").doing(doing)?.trim() != "1" {
                return Ok(Outcome::Thawed);
            }
        }
        Err(self.does_not_freeze())
    }

    /// The v1 freezer does not catch processes that are forked while it works; they are caught by telling it again. It
    /// gives no notice of its progress. Now and then all go on for a moment, for the same reason as in a traffic jam.
    fn freeze_v1(&self) -> Result<Outcome> {
        let path = self.path.display();
        self.set("freezer.state", "FROZEN")?;
        for attempt in 1..=V1_TRIES {
            if attempt % 50 == 0 {
                self.set("freezer.state", "THAWED")?;
                thread::sleep(TICK);
                self.set("freezer.state", "FROZEN")?;
            } else {
                thread::yield_now();
            }
            let state = self.get("freezer.state").doing(|| format!("read {path}/freezer.state"))?;
            if !self.is_own_v1(&state) {
                return Ok(Outcome::Thawed);
            }
            if state.trim() == "FROZEN" {
                let left = tree::pids(self.path, true).doing(|| format!("read the processes of {path}"))?;
                return Ok(if left.is_empty() || self.is_gone() { Outcome::Empty } else { Outcome::Frozen });
            }
            // Right after the look: who thaws it between the two is not noticed.
            self.set("freezer.state", "FROZEN")?;
        }
        Err(self.does_not_freeze())
    }

    fn does_not_freeze(&self) -> Error {
        let path = self.path.display();
        let problem = format!("unable to freeze {path}: a process in it does not stop (see its state in ps)");
        Error::new(Kind::System, problem)
    }

    /// Whether freezer.state says that this cgroup is to be frozen.
    fn is_own_v1(&self, state: &str) -> bool {
        // FREEZING and FROZEN also tell of a cgroup above; self_freezing (Linux 3.10) tells of this one.
        let own = self.get("freezer.self_freezing").map_or(true, |text| text.trim() == "1");
        matches!(state.trim(), "FROZEN" | "FREEZING") && own
    }
}
