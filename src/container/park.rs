//! A sandbox made ahead: the container's Plan has run to its last step, and init waits for a request.

use super::ahead;
use super::gates::{self, Outcome};
use super::ground::{self, Ground, Rooms};
use super::launch::{self, Cradle, Manner, Sandbox, Undo};
use super::outside;
use super::prepare::{Options, Prepared};
use super::state::State;
use super::store::{Entry, Lock, Locking, Store};
use crate::error::{Doing, Error, Kind, Result};
use crate::init::{self, Slots};
use crate::log;
use crate::plan::builder::slots;
use crate::plan::overlay::{ANNOTATION, Overlay};
use crate::plan::process::{KEEP_GROUPS, keeps_groups};
use crate::plan::seccomp::Filter;
use crate::plan::{self, Wait};
use crate::spec::is_bind;
use crate::sys::clone::{Child, Loan, Stack};
use crate::sys::socket::Received;
use crate::sys::{park, process, socket};
use nix::errno::Errno;
use oci_spec::runtime::{Hook, Hooks, Mount, Spec};
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// A sandbox that waits.
#[derive(Debug)]
pub struct Parked {
    /// Its directory, in the store of its [`Options`].
    pub entry: Entry,
    /// What is recorded of it.
    pub state: State,
    /// Its init.
    pub child: Child,
    /// Where its init waits for a [`Message`](crate::sys::park::Message). When nobody has it any more, init ends.
    /// `None` once it is another's.
    pub lease: Option<OwnedFd>,
    /// The terminal's master, if the configuration asks for one.
    pub terminal: Option<OwnedFd>,
    /// Its hooks, for the end.
    pub spec: Arc<Spec>,
    /// Nobody else removes it, for as long as it is there.
    pub lock: Option<Lock>,
    /// Where it was made, and as what.
    home: Store,
    name: String,
    /// It was found that its program cannot be executed.
    is_lost: bool,
}

/// How long an init has for its end that is about to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fails if the configuration asks for something that only a cold start can give.
///
/// # Errors
/// The field.
pub fn require_parkable(spec: &Spec, options: &Options) -> Result<()> {
    type Pick = fn(&Hooks) -> &Option<Vec<Hook>>;
    let early: [(&str, Pick); 5] = [
        ("hooks.prestart", Hooks::prestart),
        ("hooks.createRuntime", Hooks::create_runtime),
        ("hooks.createContainer", Hooks::create_container),
        ("hooks.startContainer", Hooks::start_container),
        ("hooks.poststart", Hooks::poststart),
    ];
    if let Some((name, _)) = early.into_iter().find(|(_, pick)| !launch::hooks(spec, pick).is_empty()) {
        return Err(Error::config(
            name,
            "is to see the container that is asked for, not one made ahead: start it cold",
        ));
    }
    let linux = spec.linux().as_ref();
    if linux.is_some_and(|linux| linux.cgroups_path().is_some()) {
        let problem = "names one cgroup, and a pool has many containers: leave it out, and each gets its own";
        return Err(Error::config("linux.cgroupsPath", problem));
    }
    if linux.is_some_and(|linux| linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty())) {
        return Err(Error::config(
            "linux.netDevices",
            "moves devices that there are once: start such a container cold",
        ));
    }
    if linux.is_some_and(|linux| linux.intel_rdt().is_some()) {
        let problem = "names a group by the container's id, which a sandbox has not yet: start such a container cold";
        return Err(Error::config("linux.intelRdt", problem));
    }
    if let Some(Overlay::Directory(_)) = Overlay::annotated(spec, &options.bundle) {
        let field = format!("annotations[{ANNOTATION:?}]");
        return Err(Error::config(field, "names a directory that only one overlay may use at a time: start it cold"));
    }
    let is_upper = |option: &String| option.starts_with("upperdir=");
    let mut mounts = spec.mounts().iter().flatten();
    if let Some(at) = mounts.position(|mount| mount.options().iter().flatten().any(is_upper)) {
        let field = format!("mounts[{at}].options (upperdir)");
        return Err(Error::config(field, "is a directory that only one overlay may use at a time: start it cold"));
    }
    let mut mounts = spec.mounts().iter().flatten().enumerate();
    if let Some((at, part)) = mounts.find_map(|(at, mount)| names_host(mount).map(|part| (at, part))) {
        let problem = "names a path of the host that only a cold start looks up anew: bind it, or start it cold";
        return Err(Error::config(format!("mounts[{at}].{part}"), problem));
    }
    if keeps_groups(spec) {
        let field = format!("annotations[{KEEP_GROUPS:?}]");
        return Err(Error::config(field, "is about the groups of who asks for the container: start it cold"));
    }
    if options.preserve_fds > 0 || options.activation.is_some() || options.notify.is_some() {
        return Err(Error::new(
            Kind::Usage,
            "descriptors and a service manager's socket are handed over in a cold start",
        ));
    }
    Ok(())
}

/// Which part of a mount that is no bind names a path of the host. Nobody looks whether that still leads to the same, and a sandbox may be made where
/// what the host has mounted there is not to be seen ([`ground`]): an overlay would have an empty layer.
fn names_host(mount: &Mount) -> Option<String> {
    /// Their source is no more than a name.
    const WITHOUT_SOURCE: [&str; 8] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "ramfs", "cgroup", "cgroup2"];
    /// What an overlay takes by paths, which may be relative ones.
    const LAYERS: [&str; 4] = ["lowerdir", "lowerdir+", "datadir+", "workdir"];
    if is_bind(mount) || mount.typ().as_deref().is_some_and(|kind| WITHOUT_SOURCE.contains(&kind)) {
        return None;
    }
    if mount.source().as_ref().is_some_and(|source| source.is_absolute()) {
        return Some("source".to_owned());
    }
    let mut data = mount.options().iter().flatten().filter_map(|option| option.split_once('='));
    let (key, _) = data.find(|(key, value)| LAYERS.contains(key) || value.starts_with('/'))?;
    Some(format!("options ({key})"))
}

/// What init waits for: under the filter already, if that allows what waiting takes (it is the longest of what is left to do
/// when a request comes), and in its network namespace if it is `networked`; in its maker's memory if that may be `shared`.
pub fn wait(filter: Option<&Filter>, networked: bool, shared: bool) -> Wait {
    let filtered = filter.is_some_and(|filter| filter.allows(&park::CALLS));
    Wait::Lease { filtered, networked, furnished: false, shared }
}

/// What a sandbox uses of its maker's memory, until it executes its program or ends. It is to be kept until then, or else what is used is lost to its maker.
#[derive(Debug)]
pub struct Memory(Loan<Cradle>);

impl Memory {
    /// Whether it is not used any more.
    pub fn is_over(&self) -> bool {
        self.0.is_over()
    }

    /// The stack, for another sandbox, if it is over and has left nothing there.
    pub fn end(self) -> Option<Stack> {
        self.0.end()
    }

    /// How many bytes there are that nobody else uses.
    pub fn bytes(&self) -> usize {
        self.0.stack().map_or(0, Stack::resident)
    }
}

/// Descriptors of a sandbox, for [`Parked::take_over`].
#[derive(Debug)]
pub struct Descriptors {
    /// Where its init waits.
    pub lease: OwnedFd,
    /// The right to remove it.
    pub lock: OwnedFd,
    /// The terminal's master, if it has one.
    pub terminal: Option<OwnedFd>,
}

/// The network namespace in which a sandbox is cloned, and the one to come back to.
#[derive(Debug, Clone, Copy)]
pub struct Networks<'a> {
    /// Where it is cloned.
    pub its: BorrowedFd<'a>,
    /// This process's own.
    pub home: BorrowedFd<'a>,
}

impl Networks<'_> {
    /// Does `work` in the sandbox's.
    fn within<T>(self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let its = process::setns(self.its.as_raw_fd(), libc::CLONE_NEWNET);
        its.doing(|| "enter the network namespace of a sandbox")?;
        let done = work();
        ground::come_back(self.home, libc::CLONE_NEWNET);
        done
    }
}

/// Where a sandbox is cloned.
#[derive(Debug, Default)]
pub struct Place<'a> {
    /// The ground, and rooms that others have come to from there.
    pub ground: Option<(&'a Ground, Option<&'a Rooms>)>,
    /// The network namespaces.
    pub networks: Option<Networks<'a>>,
    /// The stack of another one, in this memory.
    pub stack: Option<Stack>,
}

impl Place<'_> {
    /// Does `work` there.
    fn within<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let work = || match self.ground {
            Some((ground, None)) => ground.on(work),
            Some((ground, Some(rooms))) => ground.within(rooms, work),
            None => work(),
        };
        match self.networks {
            Some(networks) => networks.within(work),
            None => work(),
        }
    }
}

/// Makes a sandbox at `place`, which waits. It is a child of this process's parent, who has to wait for it even if this fails. When it fails nothing else is
/// left.
///
/// # Errors
/// One sentence: what could not be done, for which field.
pub fn park(options: &Options, prepared: Prepared, place: Place<'_>) -> Result<(Child, Descriptors, Option<Memory>)> {
    let (entry, lock) = options.store.reserve(&options.id)?;
    let mut undo = Undo::new(entry.clone());
    match park_into(options, prepared, place, entry, lock, &mut undo) {
        Ok(made) => Ok(made),
        Err(error) => Err(undo.everything().into_iter().fold(error, Error::and)),
    }
}

fn park_into(
    options: &Options,
    prepared: Prepared,
    mut place: Place<'_>,
    entry: Entry,
    lock: Lock,
    undo: &mut Undo,
) -> Result<(Child, Descriptors, Option<Memory>)> {
    let plan = &prepared.plan;
    if !matches!(options.wait, Wait::Lease { .. }) || !plan.stage.is_empty() {
        let problem = "joins a pid or user namespace by its path: start such a container cold";
        return Err(Error::config("linux.namespaces", problem));
    }
    let mut state = State { network_of_pool: place.networks.is_some(), ..prepared.state.clone() };
    prepared.cgroup.require_unused()?;
    entry.save(&state)?;
    let cgroup = undo.cgroup.insert(prepared.cgroup.create()?);
    if let Some(group) = &mut state.resctrl {
        group.create(&prepared.bundle.loaded.spec, &mut undo.resctrl)?;
        entry.save(&state)?;
    }
    let mut slots = Slots::default();
    let mut kept = launch::open_slots(options, plan, &entry, cgroup, &mut slots)?;
    let (lease, lease_of_child) = socket::packets().doing(|| "make a socket pair")?;
    slots.set(slots::LEASE, lease_of_child.as_raw_fd());
    let report = ahead::report(plan.shares_memory())?;
    outside::run(plan, &mut slots, &report, &mut kept.given)?;
    let birth = cgroup.join().born_in().map(|directory| directory.as_raw_fd());
    let stdio = options.stdio.as_ref().map(super::prepare::raw);
    let manner =
        Manner { wait_for_start: false, timings: false, foreground: false, stdio, scheduling: options.scheduling };
    let keyring = CString::new(format!("_ses.{}", options.id))
        .map_err(|_| Error::new(Kind::Usage, "an id cannot have a null byte"))?;
    let sandbox = Some(Sandbox { keyring, stack: place.stack.take() });
    // Until it waits on the lease it says there what other inits say on a socket of their own.
    let sockets = (lease, lease_of_child);
    let mut spawned = place.within(|| launch::spawn(plan, slots, sockets, birth, &report, manner, sandbox))?;
    let child = spawned.child;
    undo.child = Some(child);
    undo.loan = spawned.loan.take();
    drop(kept.given);
    launch::admit(options, &prepared, &entry, cgroup, &mut state, &spawned, &report)?;
    let spec = &prepared.bundle.loaded.spec;
    let context = gates::Context { spec, listener: None, state: &state, child, joins: None, devices: None };
    if gates::serve(&context, spawned.sync.as_raw_fd())? != Outcome::Ready {
        // It reports until it ends.
        let _ = process::ends_within(child.pidfd, PATIENCE);
        let error = launch::failure(plan, &report, child);
        return Err(error.unwrap_or_else(|| Error::new(Kind::System, "the sandbox ended before it was ready")));
    }
    let terminal = kept.terminal.map(|socket| launch::receive_terminal(&socket)).transpose()?.flatten();
    let descriptors = Descriptors { lease: spawned.sync, lock: lock.into_descriptor(), terminal };
    Ok((child, descriptors, undo.loan.take().map(Memory)))
}

impl Parked {
    /// Takes over the sandbox `id` of `store`, which another process has made as `spec` says.
    ///
    /// # Errors
    /// What is recorded of it cannot be read.
    pub fn take_over(
        store: &Store,
        id: &str,
        child: Child,
        Descriptors { lease, lock, terminal }: Descriptors,
        spec: Arc<Spec>,
    ) -> Result<Self> {
        let entry = store.find(id)?;
        let state = entry.load()?;
        Ok(Self {
            entry,
            state,
            child,
            lease: Some(lease),
            terminal,
            spec,
            lock: Some(Lock::from_descriptor(lock)),
            home: store.clone(),
            name: id.to_owned(),
            is_lost: false,
        })
    }

    /// Becomes the container `id` of `store`; with an empty id, the one that it was made with.
    ///
    /// # Errors
    /// An id that is malformed or taken, a store that cannot be written.
    pub fn appear(&mut self, store: &Store, id: &str) -> Result<()> {
        let id = if id.is_empty() { &self.name } else { id };
        if id != self.state.id {
            let state = State { id: id.to_owned(), created: crate::clock::now(), ..self.state.clone() };
            self.entry.save(&state)?;
            self.state = state;
        }
        self.entry = self.entry.move_to(store, &self.state.id)?;
        Ok(())
    }

    /// Is a container no more, if it was one: its id is free. Where the file system does not let it be, that is said, and the id is free once it is removed.
    pub fn withdraw(&mut self) {
        if self.entry.path() == self.home.root().join(&self.name) {
            return;
        }
        match self.entry.move_to(&self.home, &self.name) {
            Ok(entry) => self.entry = entry,
            Err(error) => log::warn(error),
        }
    }

    /// Leaves it to whoever removes it.
    pub fn let_go(&mut self) {
        if let Some(lock) = self.lock.take() {
            lock.release();
        }
    }

    /// Gives its stdin, stdout and stderr to its user, as init does in a cold start.
    pub fn own_stdio(&self, stdio: impl IntoIterator<Item = RawFd>) {
        // Nobody's but the host's root is theirs already, unless ids are mapped.
        if let Some(uid) = super::prepare::user_of_host(&self.spec).filter(|uid| *uid != 0) {
            init::own_stdio(stdio, uid);
        }
    }

    /// Records when it was started, about now, beside what an `update` may have recorded meanwhile. `false` if somebody is doing so at the moment.
    ///
    /// # Errors
    /// What the file system says.
    pub fn announce(&mut self) -> Result<bool> {
        let _lock = match self.entry.try_lock_state()? {
            Locking::Locked(lock) => lock,
            Locking::Gone => return Ok(true),
            Locking::Busy => return Ok(false),
        };
        self.state.created = crate::clock::now();
        let recorded = self.entry.load()?;
        self.entry.stage(&State { created: self.state.created.clone(), ..recorded })?.commit().map(|()| true)
    }

    /// Whether the configuration sets this limit (`RLIMIT_*`).
    pub fn sets_limit(&self, resource: u32) -> bool {
        let limits = self.spec.process().iter().flat_map(|process| process.rlimits().iter().flatten());
        limits.into_iter().any(|limit| plan::process::rlimit(limit.typ()) == resource)
    }

    /// Whether init, which has closed its end of the lease and has not been waited for, has never executed the program. It says so if
    /// it finds that it cannot. If it `may_be_killed` it has perhaps ended without a word: before it has read what is asked for
    /// (ECONNRESET, unix(7)), or after that.
    pub fn never_began(&mut self, may_be_killed: bool) -> bool {
        let Some(lease) = self.lease.as_ref().filter(|_| !self.is_lost) else { return self.is_lost };
        self.is_lost = match socket::receive_fds(lease.as_raw_fd(), &mut [0; 4]) {
            Ok(Received { count: 0, .. }) => may_be_killed && process::is_as_cloned(self.child.pid, park::NAME),
            Ok(_) => true,
            Err(errno) => errno == Errno::ECONNRESET,
        };
        self.is_lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_mount_whose_data_names_the_host_is_told_by_its_part() {
        let part = |mount| names_host(&serde_json::from_value(mount).unwrap());
        let overlay =
            |option: &str| json!({"destination": "/d", "type": "overlay", "source": "x", "options": [option]});
        for option in ["lowerdir=/a:/b", "lowerdir=a", "lowerdir+=/a", "datadir+=/a"] {
            let (key, _) = option.split_once('=').unwrap();
            assert_eq!(part(overlay(option)), Some(format!("options ({key})")));
        }
        assert_eq!(part(overlay("metacopy=on")), None);
        let of = |kind: &str, source: &str, option: &str| {
            part(json!({"destination": "/d", "type": kind, "source": source, "options": [option]}))
        };
        assert_eq!(of("ext4", "/dev/sda1", "ro").as_deref(), Some("source"));
        assert_eq!(of("xfs", "x", "logdev=/dev/sdb").as_deref(), Some("options (logdev)"));
        assert_eq!(of("nfs", "server:/export", "addr=10.0.0.1"), None);
        assert_eq!(of("tmpfs", "/dev/shm", "size=64k"), None);
        // Of those the source is compared.
        assert_eq!(of("bind", "/srv", "ro"), None);
        assert_eq!(of("none", "/srv", "rbind"), None);
        assert_eq!(part(json!({"destination": "/d", "source": "/srv", "options": ["bind"]})), None);
    }
}
