//! What a shim knows of its containers and their processes.

use super::io::{Io, Paths};
use super::messages::Timestamp;
use super::options::Options;
use super::reactor::Token;
use super::ttrpc::{Answer, Connection};
use crate::cgroup::Handle;
use crate::cgroup::events::Events;
use crate::container::resident::{Reach, Resident};
use crate::error::Result;
use oci_spec::runtime::{LinuxResources, Process as Spec};
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Whom to answer.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub connection: Arc<Connection>,
    pub stream: u32,
}

impl Caller {
    /// Answers. Who is gone hears nothing.
    pub fn answer(&self, answer: Answer) {
        // What does not fit goes when there is room.
        let _ = self.connection.answer(self.stream, answer);
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exit {
    pub status: u32,
    pub at: Timestamp,
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It waits to be started.
    Created,
    /// It is being started: its end, if it comes, is told of afterwards.
    Starting,
    Running,
    Stopped(Exit),
}

/// A container's init, or an exec.
#[derive(Debug)]
pub(super) struct Process {
    /// 0 for an exec that was not started.
    pub pid: i32,
    pub pidfd: Option<Arc<OwnedFd>>,
    pub phase: Phase,
    /// The watch for its end: its number with the reactor.
    pub watch: Option<Token>,
    /// That it has ended, while it is [`Phase::Starting`].
    pub ended: Option<Exit>,
    pub paths: Paths,
    pub io: Io,
    /// Who waits for its end.
    pub waiters: Vec<Caller>,
    /// What an exec is to run.
    pub spec: Option<Box<Spec>>,
}

impl Process {
    pub fn new(paths: Paths) -> Self {
        Self {
            pid: 0,
            pidfd: None,
            phase: Phase::Created,
            watch: None,
            ended: None,
            paths,
            io: Io::default(),
            waiters: Vec::new(),
            spec: None,
        }
    }

    pub fn exit(&self) -> Option<Exit> {
        match self.phase {
            Phase::Stopped(exit) => Some(exit),
            _ => None,
        }
    }
}

/// Whether a container is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freezing {
    Thawed,
    Pausing,
    Paused,
}

/// What there is of a container.
#[derive(Debug)]
pub(super) enum Body {
    /// A checkpoint in this directory: the start restores it.
    Saved(PathBuf),
    Exists(Existing),
}

/// A container that exists.
#[derive(Debug, Clone)]
pub(super) struct Existing {
    /// What is done to it is done one after the other, but for signals.
    pub container: Arc<Mutex<Resident>>,
    /// Apart from it, for those who do not wait. An update may have others joined.
    cgroup: Arc<Mutex<Arc<Handle>>>,
    /// Whether it may have processes that outlive init.
    pub shares_pids: bool,
}

impl Existing {
    pub fn new(container: Resident) -> Self {
        let (cgroup, shares_pids) = (Arc::new(container.cgroup().clone()), container.shares_pids());
        Self { container: Arc::new(Mutex::new(container)), cgroup: Arc::new(Mutex::new(cgroup)), shares_pids }
    }

    /// Its cgroups.
    pub fn cgroup(&self) -> Arc<Handle> {
        Arc::clone(&self.known_cgroup())
    }

    fn known_cgroup(&self) -> MutexGuard<'_, Arc<Handle>> {
        self.cgroup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `signal`, as [`Reach::kill`], by a pidfd of its init: nobody else is waited for.
    ///
    /// # Errors
    /// As there.
    pub fn kill(&self, init: &OwnedFd, signal: i32, all: bool) -> Result<()> {
        Reach { init, cgroup: &self.cgroup(), shares_pids: self.shares_pids }.kill(signal, all)
    }

    /// Changes its limits, as [`Resident::update`]; and whether it is in other cgroups since then: on v1 it joins those that a limit needs,
    /// also where the limit is refused.
    pub fn update(&self, change: &LinuxResources) -> (bool, Result<()>) {
        let mut container = self.lock();
        let updated = container.update(change);
        let mut known = self.known_cgroup();
        let is_other = **known != *container.cgroup();
        if is_other {
            *known = Arc::new(container.cgroup().clone());
        }
        (is_other, updated)
    }

    /// The container, once nobody else does anything to it.
    pub fn lock(&self) -> MutexGuard<'_, Resident> {
        self.container.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A container.
#[derive(Debug)]
pub(super) struct Task {
    pub bundle: String,
    pub body: Body,
    pub init: Process,
    pub execs: HashMap<String, Process>,
    pub freezing: Freezing,
    /// A watch on its memory, and its number with the reactor.
    pub memory: Option<(Events, Token)>,
    /// How often it has run out of memory while it was being started: that is told of after the start, as an end is.
    pub untold_ooms: u32,
    pub options: Arc<Options>,
    /// Its rootfs, if it was mounted by us.
    pub mounted: Option<PathBuf>,
}

impl Task {
    /// What there is of it, if it is more than a checkpoint.
    pub fn existing(&self) -> Option<&Existing> {
        match &self.body {
            Body::Exists(existing) => Some(existing),
            Body::Saved(_) => None,
        }
    }

    /// Its init, or the exec of that id.
    pub fn process(&mut self, exec: &str) -> Option<&mut Process> {
        if exec.is_empty() { Some(&mut self.init) } else { self.execs.get_mut(exec) }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    pub all: HashMap<String, Task>,
    /// The ids of containers that are being created.
    pub creating: HashSet<String>,
    /// Those of them that were deleted meanwhile: who asked for them has given up.
    pub given_up: HashSet<String>,
    /// The ids for which containerd has been given our address, and when: until they are created we stay.
    pub expected: HashMap<String, Instant>,
    /// Whether to end as soon as nobody needs us.
    pub ends: bool,
}
