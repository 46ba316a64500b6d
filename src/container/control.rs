//! The verbs that act on a running container by its cgroups: pause, resume, ps, update, events.

use super::process::Process;
use super::resctrl::{self, stats::IntelRdt};
use super::state::{State, Status};
use super::store::{Entry, Store};
use crate::cgroup::events::{Event, Events};
use crate::cgroup::stats::Stats;
use crate::cgroup::update::merge;
use crate::error::{Doing, Error, Kind, Result};
use crate::spec;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::LinuxResources;
use serde::Serialize;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

fn not_running() -> Error {
    Error::new(Kind::WrongState, "container not running")
}

fn find(store: &Store, id: &str) -> Result<(Entry, State, Status, Option<Process>)> {
    let entry = store.find(id)?;
    let (state, status, init) = entry.look()?;
    Ok((entry, state, status, init))
}

/// Stops every process of the container where it is.
///
/// # Errors
/// A container that does not run, or does not stop within 10 s.
pub fn pause(store: &Store, id: &str) -> Result<()> {
    match find(store, id)? {
        (_, state, Status::Running | Status::Created, _) => state.cgroup.freeze(),
        _ => Err(not_running()),
    }
}

/// Lets the processes of a paused container go on.
///
/// # Errors
/// A container that is not paused.
pub fn resume(store: &Store, id: &str) -> Result<()> {
    match find(store, id)? {
        (_, state, Status::Paused, _) => state.cgroup.thaw(),
        _ => Err(Error::new(Kind::WrongState, "container not paused")),
    }
}

/// The container's processes, as the runtime sees them; none once it has ended.
///
/// # Errors
/// No such container, or cgroups that cannot be read.
pub fn processes(store: &Store, id: &str) -> Result<Vec<i32>> {
    let (_, state, _, init) = find(store, id)?;
    let pids = state.cgroup.pids(true)?;
    // A rootless container may have no cgroup at all.
    Ok(if pids.is_empty() { init.map(|init| init.pid).into_iter().collect() } else { pids })
}

/// What `update` changes beyond resources: lines for the container's resctrl group (Documentation/filesystems/resctrl.rst).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schemata {
    /// --l3-cache-schema
    pub l3_cache: Option<String>,
    /// --mem-bw-schema
    pub memory_bandwidth: Option<String>,
}

/// Changes the limits of a container to what `change` says on top of those that it has.
///
/// # Errors
/// A container that does not run, what the kernel refuses, or a state.json that cannot be written; then the old limits hold.
pub fn update(store: &Store, id: &str, change: &LinuxResources, schemata: &Schemata) -> Result<()> {
    let (entry, _, status, init) = find(store, id)?;
    match status {
        Status::Stopped => return Err(not_running()),
        // Who makes it writes its state.json and its limits.
        Status::Creating => {
            let problem = "cannot update a container that is still being created: wait for that";
            return Err(Error::new(Kind::WrongState, problem));
        }
        Status::Created | Status::Running | Status::Paused => {}
    }
    let blame = |error| match init {
        Some(init) => init.or_ended(error, not_running),
        None => error,
    };
    update_alone(&entry, change, schemata).map(drop).map_err(blame)
}

/// Does that for a container that is not known to have ended, and returns the state that is recorded now.
///
/// # Errors
/// As [`update`].
pub(super) fn update_alone(entry: &Entry, change: &LinuxResources, schemata: &Schemata) -> Result<State> {
    // Two updates at once would each start from what the other does not know.
    let Some(_lock) = entry.lock_state()? else { return Err(not_running()) };
    let state = entry.load()?;
    if *schemata == Schemata::default() {
        return update_resources(entry, state, change);
    }
    let resctrl = resctrl::mount_point().unwrap_or_else(|| resctrl::USUAL.into());
    with_schemata(&resctrl, &state.clone(), schemata, || update_resources(entry, state, change))
}

fn update_resources(entry: &Entry, mut state: State, change: &LinuxResources) -> Result<State> {
    let old = match state.resources.clone() {
        Some(resources) => resources,
        None => configured(entry)?,
    };
    let merged = merge(&old, change);
    // Before anything has changed: the disk may be full.
    let staged = entry.stage(&State { resources: Some(merged.clone()), ..state.clone() })?;
    let before = state.cgroup.clone();
    let updated = state.cgroup.update(&old, change, |joined| entry.note_joined(joined));
    if updated.is_ok() {
        state.resources = Some(merged);
    }
    if state.cgroup == before {
        updated?;
        staged.commit()?;
    } else {
        // It has joined another, on a hybrid machine, and stays there whether its limits could be set or not.
        drop(staged);
        let recorded = entry.stage(&state).and_then(|staged| staged.commit());
        updated.and(recorded)?;
    }
    Ok(state)
}

/// `linux.resources` of the container's config.json.
fn configured(entry: &Entry) -> Result<LinuxResources> {
    let loaded = spec::load_file(&entry.config())?;
    let resources = loaded.spec.linux().as_ref().and_then(|linux| linux.resources().clone());
    Ok(resources.unwrap_or_else(no_limits))
}

/// Resources that limit nothing: `LinuxResources::default()` has device rules.
fn no_limits() -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    resources
}

/// Writes the schemata, and does `the_rest`. If something fails, the old lines are put back.
fn with_schemata<T>(
    resctrl: &Path,
    state: &State,
    schemata: &Schemata,
    the_rest: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (group, lines) = find_schemata(resctrl, state, schemata)?;
    let old = group.lines_like(&lines)?;
    let written = lines.into_iter().try_for_each(|line| group.write("schemata", &format!("{line}\n")));
    written.and_then(|()| the_rest()).map_err(|error| match old.as_str() {
        "" => error,
        old => group.write("schemata", old).err().into_iter().fold(error, Error::and),
    })
}

/// The container's group, and the lines that are to be written to it.
fn find_schemata<'a>(
    resctrl: &Path,
    state: &'a State,
    schemata: &'a Schemata,
) -> Result<(&'a resctrl::Group, Vec<&'a str>)> {
    let enabled = |resource: &str| resctrl.join("info").join(resource).is_dir();
    let mut lines = Vec::new();
    if let Some(schema) = &schemata.l3_cache {
        if !enabled("L3") {
            let problem = format!("Intel RDT/CAT: l3 cache schema is not enabled: {} has no L3", resctrl.display());
            return Err(Error::new(Kind::System, problem));
        }
        lines.push(schema.as_str());
    }
    if let Some(schema) = &schemata.memory_bandwidth {
        if !enabled("MB") {
            let problem =
                format!("Intel RDT/MBA: memory bandwidth schema is not enabled: {} has no MB", resctrl.display());
            return Err(Error::new(Kind::System, problem));
        }
        lines.push(schema.as_str());
    }
    let Some(group) = &state.resctrl else {
        let problem = "updating a non-existent Intel RDT configuration is not supported: set linux.intelRdt";
        return Err(Error::new(Kind::Config, problem));
    };
    Ok((group, lines))
}

/// One line of `events`.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Usage>,
}

/// What `events` says a container uses.
#[derive(Debug, Serialize)]
struct Usage {
    #[serde(flatten)]
    cgroup: Stats,
    intel_rdt: IntelRdt,
    /// Interfaces are the engine's to count: as in runc there are none.
    network_interfaces: Option<[(); 0]>,
}

fn usage(state: &State) -> Result<Usage> {
    let intel_rdt = state.resctrl.as_ref().zip(resctrl::mount_point());
    let intel_rdt = intel_rdt.map(|(group, root)| resctrl::stats::read(&root, group)).unwrap_or_default();
    Ok(Usage { cgroup: state.cgroup.stats()?, intel_rdt, network_interfaces: None })
}

fn find_running(store: &Store, id: &str) -> Result<(State, Option<Process>)> {
    match find(store, id)? {
        (_, state, status, init) if status != Status::Stopped => Ok((state, init)),
        _ => Err(Error::new(Kind::WrongState, format!("container with id {id} is not running"))),
    }
}

/// Tells what the container uses, once.
///
/// # Errors
/// A container that does not run, or what `tell` answers.
pub fn stats(store: &Store, id: &str, mut tell: impl FnMut(&Line<'_>) -> Result<()>) -> Result<()> {
    let (state, _) = find_running(store, id)?;
    tell(&Line { kind: "stats", id, data: Some(usage(&state)?) })
}

/// Tells what the container uses at each `interval`, and each time that it has run out of memory, until it ends or `tell` says so.
///
/// # Errors
/// A container that does not run, cgroups that cannot be watched, or what `tell` answers.
pub fn events(
    store: &Store,
    id: &str,
    interval: Duration,
    mut tell: impl FnMut(&Line<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let (state, init) = find_running(store, id)?;
    let mut events = state.cgroup.events()?;
    // Only cgroup v2 tells when it is empty.
    let init = match init.filter(|_| state.cgroup.unified.is_none()).map(Process::open_running).transpose()? {
        // It has ended since.
        Some(None) => return Ok(()),
        init => init.flatten(),
    };
    // A century is as good as never, and there is such a time.
    let interval = interval.min(Duration::from_secs(100 * 365 * 24 * 3600));
    let mut next = Instant::now() + interval;
    loop {
        let init_has_ended = wait(&events, init.as_ref(), next)?;
        let line = match events.next(Instant::now())? {
            Event::Ended => return Ok(()),
            Event::OutOfMemory => Line { kind: "oom", id, data: None },
            Event::Timeout if init_has_ended => return Ok(()),
            Event::Timeout if Instant::now() >= next => {
                next = Instant::now() + interval;
                match usage(&state) {
                    Ok(usage) => Line { kind: "stats", id, data: Some(usage) },
                    // It may be ending at this moment, of which the next look tells.
                    Err(error) => {
                        crate::log::warn(error);
                        continue;
                    }
                }
            }
            Event::Timeout => continue,
        };
        if tell(&line)?.is_break() {
            return Ok(());
        }
    }
}

/// Waits for an event, the end of `init`, or `deadline`; whether init has ended.
fn wait(events: &Events, init: Option<&OwnedFd>, deadline: Instant) -> Result<bool> {
    let timeout = PollTimeout::try_from(deadline.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX);
    let mut fds: Vec<_> = events.descriptors().into_iter().map(|(fd, flags)| PollFd::new(fd, flags)).collect();
    fds.extend(init.map(|init| PollFd::new(init.as_fd(), PollFlags::POLLIN)));
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno).doing(|| "wait for the container's events"),
    }
    Ok(init.is_some() && fds.last().is_some_and(|fd| fd.any().unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::store::Store;
    use std::fs;

    /// A container on disk, with the resctrl group `group`.
    fn state(group: Option<&Path>) -> State {
        let text = serde_json::json!({
            "id": "c", "ociVersion": "1.3.0", "bundle": "/b", "rootfs": "/b/r", "created": "", "owner": 0,
            "cgroup": {"driver": "cgroupfs"}, "resctrl": group.map(|path| serde_json::json!({"path": path}))
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn schemata_are_written_to_the_group() {
        let resctrl = tempfile::tempdir().unwrap();
        let group = resctrl.path().join("group");
        fs::create_dir(&group).unwrap();
        let wanted = |l3: Option<&str>, mb: Option<&str>| Schemata {
            l3_cache: l3.map(str::to_owned),
            memory_bandwidth: mb.map(str::to_owned),
        };
        let refused =
            |wanted: &Schemata| with_schemata(resctrl.path(), &state(None), wanted, || Ok(())).unwrap_err().to_string();
        assert!(refused(&wanted(Some("L3:0=f"), None)).starts_with("Intel RDT/CAT: l3 cache schema is not enabled"));
        assert!(refused(&wanted(None, Some("MB:0=50"))).starts_with("Intel RDT/MBA: memory bandwidth schema is not"));
        for resource in ["L3", "MB"] {
            fs::create_dir_all(resctrl.path().join("info").join(resource)).unwrap();
        }
        let problem = refused(&wanted(Some("L3:0=f"), None));
        assert!(problem.starts_with("updating a non-existent Intel RDT configuration is not supported"), "{problem}");
        let file = group.join("schemata");
        let old = "    MB:0= 100;1=  70\n    L3:0=7ff;1=7ff\n";
        fs::write(&file, old).unwrap();
        let state = state(Some(&group));
        with_schemata(resctrl.path(), &state, &wanted(None, Some("MB:0=50")), || Ok(())).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "MB:0=50\n");
        // What the rest is refused leaves is what there was of the resources that were written.
        for (change, left) in [
            (wanted(None, Some("MB:0=50")), "    MB:0= 100;1=  70\n"),
            (wanted(Some("L3:0=f\nL2:0=1"), Some("MB:0=50")), old),
        ] {
            fs::write(&file, old).unwrap();
            let refuse = || Err::<(), _>(not_running());
            assert_eq!(
                with_schemata(resctrl.path(), &state, &change, refuse).unwrap_err().to_string(),
                "container not running"
            );
            assert_eq!(fs::read_to_string(&file).unwrap(), left);
        }
    }

    #[test]
    fn lines_are_those_of_runc() {
        let line = Line { kind: "oom", id: "c", data: None };
        assert_eq!(serde_json::to_string(&line).unwrap(), r#"{"type":"oom","id":"c"}"#);
        let usage = Usage { cgroup: Stats::default(), intel_rdt: IntelRdt::default(), network_interfaces: None };
        let text = serde_json::to_string(&Line { kind: "stats", id: "c", data: Some(usage) }).unwrap();
        assert!(text.starts_with(r#"{"type":"stats","id":"c","data":{"cpu":{},"cpuset":{"#), "{text}");
        assert!(text.ends_with(r#""hugetlb":{},"intel_rdt":{},"network_interfaces":null}}"#), "{text}");
    }

    #[test]
    fn what_is_not_there_is_not_controlled() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        for error in [pause(&store, "c"), resume(&store, "c"), processes(&store, "c").map(drop)] {
            assert_eq!(error.unwrap_err().kind(), Kind::NoContainer);
        }
        let entry = store.reserve("c").unwrap().0;
        entry.save(&state(None)).unwrap();
        assert_eq!(pause(&store, "c").unwrap_err().to_string(), "container not running");
        assert_eq!(resume(&store, "c").unwrap_err().to_string(), "container not paused");
    }
}
