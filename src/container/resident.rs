//! Containers of a process that stays and serves many of them, such as containerd's shim: created, started and entered
//! by the same code as the verbs', with what is known of them in memory instead of files read again.
//!
//! Their directories are written all the same, so that whoever comes after a process that was killed finds what to remove.

use super::control;
use super::exec;
use super::gates;
use super::launch::{self, Cradle};
use super::manage;
use super::prepare::{self, Options};
use super::process::Process;
use super::restore::{self, Restored};
use super::start;
use super::state::State;
use super::stdio;
use super::store::Entry;
use crate::cgroup::Handle;
use crate::cgroup::events::Events;
use crate::cgroup::stats::Stats;
use crate::error::{Doing, Error, Kind, Result};
use crate::plan::Wait;
use crate::plan::seccomp::Filter;
use crate::sys::clone::{Child, Loan};
use crate::sys::{own, process};
use nix::errno::Errno;
use oci_spec::runtime::{LinuxResources, Spec};
use std::os::fd::{AsRawFd, OwnedFd};

/// A container.
#[derive(Debug)]
pub struct Resident {
    entry: Entry,
    target: exec::Target,
    filter: Option<Filter>,
    /// What init uses of this process's memory until it is started.
    loan: Option<Loan<Cradle>>,
    is_removed: bool,
}

/// A container that waits to be started, or that has been restored.
#[derive(Debug)]
pub struct Created {
    /// The container.
    pub container: Resident,
    /// Its terminal's master, if it has one.
    pub terminal: Option<OwnedFd>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Creates a container; `options` must have [`Options::stdio`].
///
/// # Errors
/// One sentence; then nothing is left of it.
pub fn create(options: &Options) -> Result<Created> {
    let options = Options { wait: Wait::Start, foreground: false, timings: false, ..options.clone() };
    let (prepared, ahead) = prepare::prepare_ahead(&options)?;
    let warnings = prepared.warnings.clone();
    let spec = &prepared.bundle.loaded.spec;
    if let (Some(given), Some(process)) = (&options.stdio, spec.process()) {
        stdio::give(prepare::raw(given), process.user(), spec);
    }
    let launched = launch::launch(&options, prepared, ahead)?;
    let child = launched.child;
    let pidfd = own(child.pidfd);
    let bundle = &launched.prepared.bundle;
    let spec = what_lasts(&bundle.loaded.spec);
    let init = identify(child, &launched.entry, &launched.state, &spec)?;
    let target = exec::Target { state: launched.state, init, pidfd, spec };
    let filter = bundle.filter.clone();
    let container = Resident { entry: launched.entry, target, filter, loan: launched.loan, is_removed: false };
    Ok(Created { container, terminal: launched.terminal, warnings })
}

/// Restores a container from a checkpoint: it runs then. `options` must have [`Options::stdio`].
///
/// # Errors
/// One sentence; then nothing is left of it.
pub fn restore(options: &restore::Options) -> Result<Created> {
    let Restored { entry, state, child, prepared, terminal, .. } = restore::bring_back(options)?;
    let bundle = &prepared.bundle;
    let pidfd = own(child.pidfd);
    let spec = what_lasts(&bundle.loaded.spec);
    let init = identify(child, &entry, &state, &spec)?;
    let target = exec::Target { state, init, pidfd, spec };
    let container = Resident { entry, target, filter: bundle.filter.clone(), loan: None, is_removed: false };
    Ok(Created { container, terminal, warnings: prepared.warnings.clone() })
}

/// The init of a new container, which is removed if that cannot be found out (too many open files, for one).
fn identify(child: Child, entry: &Entry, state: &State, spec: &Spec) -> Result<Process> {
    Process::of(child.pid).doing(|| format!("read /proc/{}/stat", child.pid)).map_err(|error| {
        child.end();
        let left = manage::remove_empty(entry, state, Some(spec)).unwrap_or_else(|error| vec![error]);
        left.into_iter().fold(error, Error::and)
    })
}

/// What is looked at again once a container exists. Its mounts are most of a configuration.
fn what_lasts(spec: &Spec) -> Box<Spec> {
    let mut spec = Box::new(spec.clone());
    spec.set_mounts(None);
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(None).set_masked_paths(None).set_readonly_paths(None).set_devices(None).set_sysctl(None);
    }
    spec
}

impl Resident {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.target.state.id
    }

    /// Its init.
    pub fn pid(&self) -> i32 {
        self.target.init.pid
    }

    /// Its init, readable once that has ended.
    pub fn pidfd(&self) -> &OwnedFd {
        &self.target.pidfd
    }

    /// Its cgroups.
    pub fn cgroup(&self) -> &Handle {
        &self.target.state.cgroup
    }

    /// Whether processes of it may outlive its init.
    pub fn shares_pids(&self) -> bool {
        self.target.state.shares_pids
    }

    /// Lets init execute the program.
    ///
    /// # Errors
    /// A failing hook, a program that cannot be executed.
    pub fn start(&mut self) -> Result<()> {
        let waiting = gates::Context {
            spec: &self.target.spec,
            listener: self.filter.as_ref().and_then(|filter| filter.listener.as_ref()),
            state: &self.target.state,
            child: Child { pid: self.target.init.pid, pidfd: self.target.pidfd.as_raw_fd() },
            joins: None,
            devices: None,
        };
        start::go(&self.entry, &waiting, None)?;
        // Init has left this memory by now.
        self.loan = None;
        Ok(())
    }

    /// What an [`exec::exec_in`] has to know: it may take a while, during which nobody should be kept from this container.
    ///
    /// # Errors
    /// Too many open files.
    pub fn target(&self) -> Result<(exec::Target, Option<Filter>)> {
        let exec::Target { state, init, pidfd, spec } = &self.target;
        let pidfd = pidfd.try_clone().doing(|| "duplicate the descriptor of the container's init")?;
        Ok((exec::Target { state: state.clone(), init: *init, pidfd, spec: spec.clone() }, self.filter.clone()))
    }

    /// What signals are sent through.
    pub fn reach(&self) -> Reach<'_> {
        Reach { init: &self.target.pidfd, cgroup: self.cgroup(), shares_pids: self.shares_pids() }
    }

    /// Changes the limits to what `change` says on top of those in force.
    ///
    /// # Errors
    /// What the kernel refuses; then the old limits hold, but the container may be in other cgroups all the same.
    pub fn update(&mut self, change: &LinuxResources) -> Result<()> {
        // From the record: the command line may have changed them meanwhile.
        match control::update_alone(&self.entry, change, &control::Schemata::default()) {
            Ok(state) => self.target.state = state,
            Err(error) => {
                // What it has joined until then is on record, and is not left again.
                if let Ok(state) = self.entry.load() {
                    self.target.state = state;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// What it uses.
    ///
    /// # Errors
    /// Cgroups that cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        self.cgroup().stats()
    }

    /// A watch on its memory.
    ///
    /// # Errors
    /// A kernel that refuses to watch.
    pub fn events(&self) -> Result<Events> {
        self.cgroup().events()
    }

    /// Removes a container whose init has ended and was waited for, and runs its poststop hooks, whose errors are returned
    /// as warnings. One that has been removed is passed over: its poststop hooks run once.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn remove(&mut self) -> Result<Vec<Error>> {
        if self.is_removed {
            return Ok(Vec::new());
        }
        let state = &self.target.state;
        if self.shares_pids() {
            state.cgroup.kill(libc::SIGKILL)?;
        }
        let warnings = manage::remove_empty(&self.entry, state, Some(&self.target.spec))?;
        self.is_removed = true;
        Ok(warnings)
    }
}

/// What signals are sent to a container through, whatever else is being done to it meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Reach<'a> {
    /// A pidfd of its init.
    pub init: &'a OwnedFd,
    /// Its cgroups.
    pub cgroup: &'a Handle,
    /// Whether processes of it may outlive its init.
    pub shares_pids: bool,
}

impl Reach<'_> {
    /// Sends `signal` to init, or with `all` to every process, if any is left. A frozen container that is to die is thawed.
    ///
    /// # Errors
    /// An init that has ended, a signal that cannot be sent.
    pub fn kill(self, signal: i32, all: bool) -> Result<()> {
        let Self { init, cgroup, shares_pids } = self;
        if (all || signal == libc::SIGKILL && shares_pids) && cgroup.exists() {
            return cgroup.kill(signal);
        }
        match process::pidfd_send_signal(init.as_raw_fd(), signal) {
            Err(Errno::ESRCH) if all => return Ok(()),
            Err(Errno::ESRCH) => return Err(Error::new(Kind::WrongState, "process already finished")),
            sent => sent.doing(|| format!("send signal {signal} to the container's init"))?,
        }
        if signal == libc::SIGKILL && cgroup.is_frozen().unwrap_or(false) { cgroup.thaw() } else { Ok(()) }
    }
}
