//! Being told when the container runs out of memory, and when it ends.

use super::handle::Handle;
use super::tree;
use crate::Result;
use crate::error::Doing;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long a v1 signal waits for the kill that it announces (the kernel signals first), looked for this many times.
const ANNOUNCED: (u32, Duration) = (10, Duration::from_millis(1));

/// What happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The kernel killed a process of it for want of memory; on v1 with the OOM killer disabled, a process waits for
    /// memory.
    OutOfMemory,
    /// Its last process has ended, or its cgroup was removed.
    Ended,
    /// The deadline passed.
    Timeout,
}

/// A watch on a container's memory and life.
#[derive(Debug)]
pub struct Events {
    memory: Option<Memory>,
    /// cgroup.events of the v2 directory.
    life: Option<OwnedFd>,
}

/// Where the number of kills is read, and what wakes the reader.
#[derive(Debug)]
struct Memory {
    /// memory.events (v2) or memory.oom_control (v1).
    counter: OwnedFd,
    /// On v2 the counter wakes by itself, and counts what is below too.
    signal: Option<Signal>,
    kills: u64,
}

/// What v1 has instead of a counter that wakes.
#[derive(Debug)]
struct Signal {
    /// Signalled through cgroup.event_control.
    wake: EventFd,
    directory: PathBuf,
    /// The numbers of kills in the cgroups that the container has made below its own: each counts its own victims alone, whichever
    /// limit they hit.
    below: HashMap<PathBuf, u64>,
}

impl Handle {
    /// Starts to watch. Without a memory cgroup (on v1, if config.json needed none) only the end is seen; without
    /// cgroup v2, the end is seen only when the memory cgroup is removed, and the caller had better watch the init.
    ///
    /// # Errors
    /// A kernel that refuses to watch.
    pub fn events(&self) -> Result<Events> {
        let open = |path: &Path| match tree::open_file(path) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno).doing(|| format!("open {}", path.display())),
        };
        let mut life = None;
        let mut memory = None;
        if let Some(directory) = &self.unified {
            life = open(&directory.join("cgroup.events"))?;
            memory = open(&directory.join("memory.events"))?.map(|counter| Memory { counter, signal: None, kills: 0 });
        }
        if let Some(directory) = self.v1.get("memory")
            && let Some(counter) = open(&directory.join("memory.oom_control"))?
        {
            let wake = watch_v1(directory, &counter)?;
            memory = Some(Memory { counter, signal: Some(Signal::new(wake, directory)), kills: 0 });
        }
        if let Some(memory) = &mut memory {
            memory.kills = memory.count().unwrap_or(0);
        }
        Ok(Events { memory, life })
    }
}

/// Asks for a signal whenever the v1 memory cgroup `directory` runs out of memory or is removed
/// (Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control").
fn watch_v1(directory: &Path, counter: &OwnedFd) -> Result<EventFd> {
    let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).doing(|| "eventfd")?;
    let line = format!("{} {}", wake.as_fd().as_raw_fd(), counter.as_raw_fd());
    tree::put(directory, "cgroup.event_control", &line)
        .doing(|| format!("write {line:?} to {}/cgroup.event_control", directory.display()))?;
    Ok(wake)
}

/// The number after `name` in the lines of a cgroup file of the flat keyed format
/// (Documentation/admin-guide/cgroup-v2.rst, "Format").
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

impl Memory {
    fn count(&self) -> Result<u64, Errno> {
        Ok(field(&tree::reread(&self.counter)?, "oom_kill").unwrap_or(0))
    }

    /// Whether memory has run out since this was asked last.
    ///
    /// A v1 signal alone is no proof: while the killed process still dies, each other process that wants memory
    /// signals again (mem_cgroup_oom_notify in mm/memcontrol-v1.c), hundreds of times where it takes long.
    fn has_run_out(&mut self) -> Result<bool, Errno> {
        let mut signal = self.signal.as_mut().filter(|signal| signal.wake.read().is_ok());
        let signalled = signal.is_some();
        let (tries, pause) = if signalled { ANNOUNCED } else { (0, Duration::ZERO) };
        for left in (0..=tries).rev() {
            let text = tree::reread(&self.counter)?;
            let kills = field(&text, "oom_kill").unwrap_or(0);
            if kills > self.kills || (signalled && field(&text, "oom_kill_disable") == Some(1)) {
                self.kills = kills;
                return Ok(true);
            }
            if signal.as_mut().is_some_and(|signal| signal.has_killed_below()) {
                return Ok(true);
            }
            if left > 0 {
                thread::sleep(pause);
            }
        }
        Ok(false)
    }

    fn poll_fd(&self) -> (BorrowedFd<'_>, PollFlags) {
        match &self.signal {
            Some(signal) => (signal.wake.as_fd(), PollFlags::POLLIN),
            None => (self.counter.as_fd(), PollFlags::POLLPRI),
        }
    }
}

impl Signal {
    /// Of the memory cgroup `directory`. What was killed below it before is no news.
    fn new(wake: EventFd, directory: &Path) -> Self {
        Self { wake, directory: directory.to_owned(), below: kills_below(directory) }
    }

    /// Whether somebody below was killed since this was asked last.
    fn has_killed_below(&mut self) -> bool {
        let kills = kills_below(&self.directory);
        let more = kills.iter().any(|(path, kills)| kills > self.below.get(path).unwrap_or(&0));
        self.below = kills;
        more
    }
}

/// The numbers of kills of all memory cgroups below `directory`. One that is gone has none.
fn kills_below(directory: &Path) -> HashMap<PathBuf, u64> {
    let mut all = HashMap::new();
    for child in tree::children(directory).unwrap_or_default() {
        all.extend(kills_below(&child));
        let text = fs::read_to_string(child.join("memory.oom_control")).unwrap_or_default();
        all.insert(child, field(&text, "oom_kill").unwrap_or(0));
    }
    all
}

impl Events {
    /// What to poll for, for a caller with a poll loop of its own: when one of these is ready, [`Events::next`] knows
    /// more.
    pub fn descriptors(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let life = self.life.iter().map(|life| (life.as_fd(), PollFlags::POLLPRI));
        self.memory.iter().map(Memory::poll_fd).chain(life).collect()
    }

    /// Waits for the next event, at most until `deadline`.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn next(&mut self, deadline: Instant) -> Result<Event> {
        loop {
            if let Some(event) = self.pending().doing(|| "read the container's cgroup events")? {
                return Ok(event);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds: Vec<_> = self.descriptors().into_iter().map(|(fd, flags)| PollFd::new(fd, flags)).collect();
            match poll(&mut fds, timeout) {
                Ok(0) => return Ok(Event::Timeout),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).doing(|| "wait for the container's cgroup events"),
            }
        }
    }

    /// What has happened already and was not told yet. Reading the files also makes them silent until the next change.
    fn pending(&mut self) -> Result<Option<Event>, Errno> {
        if let Some(memory) = &mut self.memory {
            match memory.has_run_out() {
                Ok(true) => return Ok(Some(Event::OutOfMemory)),
                Ok(false) => {}
                // A removed cgroup signals too, but then the counter is gone.
                Err(Errno::ENODEV) => return Ok(Some(Event::Ended)),
                Err(errno) => return Err(errno),
            }
        }
        let Some(life) = &self.life else { return Ok(None) };
        match tree::reread(life) {
            Ok(text) if text.contains("populated 0") => Ok(Some(Event::Ended)),
            Ok(_) => Ok(None),
            Err(Errno::ENODEV) => Ok(Some(Event::Ended)),
            Err(errno) => Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_below_are_told_once_and_those_before_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let count = |cgroup: &str, kills: u64| {
            let path = directory.path().join(cgroup);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("memory.oom_control"), format!("under_oom 0\noom_kill {kills}\n")).unwrap();
        };
        count("old", 3);
        let mut signal = Signal::new(EventFd::new().unwrap(), directory.path());
        assert!(!signal.has_killed_below());
        count("old/new", 1);
        assert!(signal.has_killed_below());
        assert!(!signal.has_killed_below());
        count("old", 4);
        assert!(signal.has_killed_below());
        fs::remove_dir_all(directory.path().join("old")).unwrap();
        assert!(!signal.has_killed_below());
    }
}
