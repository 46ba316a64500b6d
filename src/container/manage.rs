//! The verbs that look at a container or end it: state, list, kill, delete.

use super::hooks;
use super::launch::hooks as hooks_of;
use super::prepare;
use super::process::Process;
use super::resctrl;
use super::state::{Report, State, Status};
use super::store::{Entry, Locking, Store};
use crate::cgroup::{Driver, Handle};
use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::spec;
use crate::sys::process;
use nix::errno::Errno;
use oci_spec::runtime::{Hooks, Spec};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// How long a killed init may take to be gone, as long as runc waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long others may take to leave the cgroups of a container that has ended by itself: an `exec` that came too late is gone in
/// milliseconds, and whom somebody has put there is not the container's to kill.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_secs(2);

/// What `state ID` reports.
///
/// # Errors
/// No such container, or one whose state cannot be read.
pub fn state(store: &Store, id: &str) -> Result<Report> {
    let entry = store.find(id)?;
    let (state, status, init) = entry.look()?;
    Ok(state.report(status, init.map_or(0, |init| init.pid)))
}

/// One container of a list.
#[derive(Debug)]
pub struct Listed {
    /// What `state` says of it.
    pub report: Report,
    /// The user who created it.
    pub owner: u32,
}

/// What `list` finds.
#[derive(Debug, Default)]
pub struct Listing {
    /// The containers, by id.
    pub containers: Vec<Listed>,
    /// What is wrong with those that cannot be read.
    pub errors: Vec<Error>,
}

/// All containers, and what is wrong with those that cannot be read.
///
/// # Errors
/// A state root that cannot be read.
pub fn list(store: &Store) -> Result<Listing> {
    let mut listing = Listing::default();
    for entry in store.all()? {
        let report = entry.look().map(|(state, status, init)| Listed {
            report: state.report(status, init.map_or(0, |init| init.pid)),
            owner: state.owner,
        });
        match report {
            Ok(listed) => listing.containers.push(listed),
            // One that is being made or deleted at this moment is not there yet, or not any more.
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(error) => listing.errors.push(error),
        }
    }
    Ok(listing)
}

/// Sends `signal` to init, or with `all` to every process of the container; that it has none left is no error then.
///
/// # Errors
/// No such container, one that does not run, a signal that cannot be sent.
pub fn kill(store: &Store, id: &str, signal: i32, all: bool) -> Result<()> {
    let entry = store.find(id)?;
    let (state, _, init) = entry.look()?;
    // Without a pid namespace of its own others outlive init, and may be there though init is not. A rootless container may have no
    // cgroup to find them by.
    if (all || signal == libc::SIGKILL && state.shares_pids) && state.cgroup.exists() {
        return state.cgroup.kill(signal);
    }
    let sent = match init {
        Some(init) => init.signal(signal),
        None => Err(Errno::ESRCH),
    };
    match sent {
        // Engines ask for all of a container that has just ended, and then there is nothing left to do.
        Err(Errno::ESRCH) if all => return Ok(()),
        Err(Errno::ESRCH) => Err(Error::new(Kind::WrongState, "container not running")),
        sent => sent.doing(|| format!("send signal {signal} to the container's init")),
    }?;
    // A frozen v1 cgroup keeps its processes from dying. It may have been frozen since the status was looked at.
    if signal == libc::SIGKILL && state.cgroup.is_frozen().unwrap_or(false) {
        state.cgroup.thaw()?;
    }
    Ok(())
}

/// Removes the container `id`. With `force` it is killed first, and a container of which anything at all is left over
/// is removed; one that does not exist is then no error. `rootless` is how it was made, for where nothing else tells of its cgroups.
///
/// # Errors
/// A container that still runs, or something of it that cannot be removed. Failing poststop hooks are returned as
/// warnings.
pub fn delete(store: &Store, id: &str, force: bool, rootless: bool) -> Result<Vec<Error>> {
    delete_by(store, id, Manner { force, rootless, remove })
}

/// As `delete --force`, of what was made ahead and never became a container: its hooks have nothing to see.
///
/// # Errors
/// Something of it that cannot be removed.
pub fn discard(store: &Store, id: &str, rootless: bool) -> Result<()> {
    let remove = |entry: &Entry, state: &State| remove_all(entry, state, None);
    delete_by(store, id, Manner { force: true, rootless, remove }).map(drop)
}

/// How a container is deleted.
#[derive(Clone, Copy)]
struct Manner {
    force: bool,
    /// As the runtime was when it made the container, for one of which no state tells.
    rootless: bool,
    /// Removes a container whose init is gone.
    remove: fn(&Entry, &State) -> Result<Vec<Error>>,
}

fn delete_by(store: &Store, id: &str, manner: Manner) -> Result<Vec<Error>> {
    let Manner { force, .. } = manner;
    let entry = match store.find(id) {
        Err(error) if force && error.kind() == Kind::NoContainer => return Ok(Vec::new()),
        entry => entry?,
    };
    if let Some(_lock) = entry.try_lock()? {
        return delete_alone(&entry, manner, true);
    }
    // Who makes it, or runs it in the foreground, cleans up when its init is gone; so does who else deletes it.
    let left = Left::find(&entry, manner, false)?;
    left.end(force, false)?;
    if force {
        left.kill()?;
    }
    match entry.lock_within(PATIENCE)? {
        Locking::Locked(_lock) => delete_alone(&entry, manner, true),
        Locking::Gone => Ok(Vec::new()),
        Locking::Busy if force => delete_alone(&entry, manner, false),
        Locking::Busy => {
            let problem = format!("container {id} is in use by another command: wait for it, or use --force");
            Err(Error::new(Kind::WrongState, problem))
        }
    }
}

/// `locked` tells whether we have it locked: then what was never finished is not being made by anybody.
fn delete_alone(entry: &Entry, manner: Manner, locked: bool) -> Result<Vec<Error>> {
    let left = Left::find(entry, manner, locked)?;
    left.end(manner.force, locked)?;
    match &left.state {
        Some(state) => (manner.remove)(entry, state),
        None => {
            left.kill()?;
            left.cgroup.iter().try_for_each(Handle::destroy)?;
            entry.remove()?;
            Ok(Vec::new())
        }
    }
}

/// What there is of a container that is to be deleted.
struct Left<'a> {
    entry: &'a Entry,
    /// `None` where state.json is missing or damaged.
    state: Option<State>,
    /// From the state or, without one, as config.json has it.
    cgroup: Option<Handle>,
    status: Status,
    init: Option<Process>,
}

impl<'a> Left<'a> {
    /// Looks; with force a state that cannot be read is no error, and none that is missing where we have it `locked`.
    fn find(entry: &'a Entry, manner: Manner, locked: bool) -> Result<Self> {
        let state = match entry.load() {
            Err(error) if manner.force || locked && error.errno() == Some(Errno::ENOENT) => None,
            state => Some(state?),
        };
        let cgroup = match &state {
            Some(state) => Some(state.cgroup.clone()),
            None => cgroup_by_config(entry, manner.rootless),
        };
        let (status, init) = entry.status(state.as_ref())?;
        Ok(Self { entry, state, cgroup, status, init })
    }

    /// Ends init, if that is allowed.
    fn end(&self, force: bool, locked: bool) -> Result<()> {
        match (self.status, self.init) {
            (Status::Stopped, _) => Ok(()),
            // Who was making it has been killed.
            (Status::Creating, None) if force || locked => Ok(()),
            (Status::Created, Some(init)) => end(self.cgroup.as_ref(), init),
            (_, Some(init)) if force => end(self.cgroup.as_ref(), init),
            (status, _) => {
                let (id, status) = (self.entry.id(), status.name());
                let problem =
                    format!("cannot delete container {id} that is not stopped: {status}: stop it or use --force");
                Err(Error::new(Kind::WrongState, problem))
            }
        }
    }

    /// Kills whoever is in the cgroup.
    fn kill(&self) -> Result<()> {
        self.cgroup.iter().try_for_each(|cgroup| cgroup.kill(libc::SIGKILL))
    }
}

/// The cgroups of a container whose state.json is lost, if its config.json is there.
fn cgroup_by_config(entry: &Entry, rootless: bool) -> Option<Handle> {
    let loaded = spec::load_file(&entry.config()).ok()?;
    let path = loaded.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let is_slice = path.and_then(Path::to_str).is_some_and(|path| path.split(':').count() == 3);
    let driver = if is_slice { Driver::Systemd } else { Driver::Cgroupfs };
    prepare::cgroups(entry.id(), driver, rootless, &loaded.spec).ok().map(|plan| plan.handle())
}

fn end(cgroup: Option<&Handle>, init: Process) -> Result<()> {
    let Some(pidfd) = init.open()? else { return Ok(()) };
    match init.signal(libc::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => return Err(Error::system("kill the container's init", errno)),
    }
    if let Some(cgroup) = cgroup.filter(|cgroup| cgroup.is_frozen().unwrap_or(false)) {
        cgroup.thaw()?;
    }
    let gone = process::ends_within(pidfd.as_raw_fd(), PATIENCE).doing(|| "wait for the container's init")?;
    if gone {
        Ok(())
    } else {
        Err(Error::new(
            Kind::WrongState,
            format!("the container's init {} does not end: see whether it is stuck in I/O", init.pid),
        ))
    }
}

/// Removes everything that a container without a running init has left, then runs its poststop hooks.
///
/// # Errors
/// What cannot be removed.
pub fn remove(entry: &Entry, state: &State) -> Result<Vec<Error>> {
    // Read before the directory goes; a container that never came so far has no hooks to run.
    let loaded = match spec::load_file(&entry.config()) {
        Err(error) if entry.config().exists() => {
            log::warn(format!("poststop hooks are not run: {error}"));
            None
        }
        loaded => loaded.ok(),
    };
    remove_all(entry, state, loaded.as_ref().map(|loaded| &*loaded.spec))
}

/// As [`remove`], with the hooks of `spec`.
fn remove_all(entry: &Entry, state: &State, spec: Option<&Spec>) -> Result<Vec<Error>> {
    // Its own processes may be left where it shares the pid namespace, or after a crash between clone and record. Otherwise the kernel has
    // ended them with init, and who is in the cgroup is somebody else: another container that was given the same one, say.
    let patience = if state.shares_pids || entry.init()?.is_none() {
        state.cgroup.kill(libc::SIGKILL)?;
        PATIENCE
    } else {
        PATIENCE_WITH_OTHERS
    };
    state.cgroup.destroy_within(patience)?;
    remove_resctrl(state)?;
    finish(entry, state, spec)
}

/// Removes the cgroup of a container of which it is known that no process is left but those that have been killed, and its
/// group of resctrl.
///
/// # Errors
/// What cannot be removed.
pub fn remove_groups(state: &State) -> Result<()> {
    // With a pid namespace nobody had to be killed: the kernel has ended all before init could be waited for.
    let patience = if state.shares_pids { PATIENCE } else { PATIENCE_WITH_OTHERS };
    state.cgroup.destroy_within(patience)?;
    remove_resctrl(state)
}

fn remove_resctrl(state: &State) -> Result<()> {
    state.resctrl.iter().try_for_each(resctrl::Group::destroy)
}

/// As [`remove`], for a container of which it is known that no process is left but those that have been killed.
///
/// # Errors
/// What cannot be removed.
pub fn remove_empty(entry: &Entry, state: &State, spec: Option<&Spec>) -> Result<Vec<Error>> {
    remove_groups(state)?;
    finish(entry, state, spec)
}

/// Removes what there is besides the groups of `state`, and runs the poststop hooks.
fn finish(entry: &Entry, state: &State, spec: Option<&Spec>) -> Result<Vec<Error>> {
    // Of which `state` may know nothing: it is older, or who made the container join was killed.
    if let Some(cgroup) = entry.joined() {
        cgroup.destroy_within(PATIENCE_WITH_OTHERS)?;
    }
    entry.remove()?;
    let hooks = spec.map(|spec| hooks_of(spec, Hooks::poststop)).unwrap_or_default();
    Ok(hooks::run_all("poststop", hooks, &state.report(Status::Stopped, 0)))
}
