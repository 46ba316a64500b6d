//! From a prepared bundle to a running init: the start path.
//!
//! ```text
//! prepare ─▶ state directory ─▶ cgroups ─▶ clone3 ─┬─▶ record the pid, restrict devices, copy config.json
//!                                                  └─▶ init: mounts, pivot, rights … ─▶ exec
//! ```
//!
//! Everything right of the clone happens at the same time. Nothing waits for anything that it does not need: init
//! waits only before it executes what is not ours, until it is recorded and its devices are restricted.

use super::ahead::{Ahead, Helper};
use super::gates::{self, Outcome};
use super::netdev::Devices;
use super::notify::{self, Proxy};
use super::outside;
use super::pid_file;
use super::prepare::{Bundle, Options, Prepared};
use super::process::Process;
use super::resctrl;
use super::state::{State, Status};
use super::store::{Entry, Lock};
use crate::cgroup::Cgroup;
use crate::error::{Doing, Error, Kind, Result};
use crate::init::{self, Init, Slot, Slots};
use crate::log;
use crate::plan::builder::slots;
use crate::plan::{self, Plan, Wait, explain};
use crate::sys::clone::{self, Child, Loan};
use crate::sys::process::SchedAttr;
use crate::sys::shared::{Report, Shared};
use crate::sys::{fs as sys_fs, park, process, socket};
use nix::errno::Errno;
use oci_spec::runtime::{Hook, Spec};
use std::cell::RefCell;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// A container whose init exists.
#[derive(Debug)]
pub struct Launched {
    /// Its directory.
    pub entry: Entry,
    /// What is recorded of it.
    pub state: State,
    /// Its init.
    pub child: Child,
    /// What the bundle and the options amounted to.
    pub prepared: Arc<Prepared>,
    /// The helper that made its network namespace, still to be reaped in the foreground.
    pub(super) helper: Option<Helper>,
    /// How far init is.
    pub report: Arc<Shared<Report>>,
    /// What init uses of this process's memory.
    pub(super) loan: Option<Loan<Cradle>>,
    /// The terminal's master, in the foreground.
    pub terminal: Option<OwnedFd>,
    /// Where it says that it is ready, unless it waits for `start`.
    pub(super) notify: Option<Proxy>,
    /// When the clone returned, in nanoseconds of the monotonic clock.
    pub cloned_at: u64,
    /// In the foreground: nobody else removes the container while this process sees to it.
    pub lock: Option<Lock>,
}

/// Brings a container into being: up to its program with [`Wait::Start`], into it otherwise.
///
/// When it fails nothing is left: no process, cgroup, directory or file.
///
/// # Errors
/// One sentence: what could not be done, for which field.
pub(super) fn launch(options: &Options, prepared: Prepared, ahead: Ahead) -> Result<Launched> {
    log_plan(&prepared.plan);
    let (entry, lock) = options.store.reserve(&options.id)?;
    let mut undo = Undo::new(entry.clone());
    match launch_into(options, prepared, ahead, entry, &mut undo) {
        Ok(launched) if options.foreground => Ok(Launched { lock: Some(lock), ..launched }),
        Ok(launched) => {
            lock.release();
            Ok(launched)
        }
        Err(error) => Err(undo.everything().into_iter().fold(error, Error::and)),
    }
}

/// What has been made so far, to be removed when the rest fails.
pub(super) struct Undo {
    entry: Entry,
    pub cgroup: Option<Cgroup>,
    pub resctrl: Vec<PathBuf>,
    pub child: Option<Child>,
    /// What it uses of this process's memory.
    pub loan: Option<Loan<Cradle>>,
    helper: Option<Helper>,
    /// Network devices of the host.
    pub devices: Option<Devices>,
    /// With the pid that is in it.
    pub pid_file: Option<(PathBuf, i32)>,
    /// The container whose poststop hooks are due: one that began to exist.
    pub begun: Option<Arc<Prepared>>,
}

impl Undo {
    /// Nothing yet but the directory.
    pub fn new(entry: Entry) -> Self {
        Self {
            entry,
            cgroup: None,
            resctrl: Vec::new(),
            child: None,
            loan: None,
            helper: None,
            devices: None,
            pid_file: None,
            begun: None,
        }
    }

    /// Removes everything; what could not be removed, and the errors of poststop hooks.
    pub fn everything(self) -> Vec<Error> {
        // The kernel would bring them back down and with the names that they had in the container, or not at all.
        let mut left = self.devices.map(Devices::take_back).unwrap_or_default();
        let helper = self.helper.as_ref().map(|(helper, _)| *helper);
        for child in [self.child, helper].into_iter().flatten() {
            child.end();
            sys_fs::close(child.pidfd);
        }
        if let Some(cgroup) = self.cgroup {
            // Init's hooks may outlive it where it has no pid namespace.
            left.extend(cgroup.end().err());
            left.extend(cgroup.undo());
        }
        left.extend(self.resctrl.iter().rev().filter_map(|group| resctrl::remove(group).err()));
        left.extend(self.pid_file.and_then(|(path, pid)| pid_file::remove(Some(&path), pid).err()));
        left.extend(self.entry.remove().err());
        if let Some(prepared) = self.begun {
            let Prepared { bundle, state, .. } = &*prepared;
            let hooks = hooks(&bundle.loaded.spec, oci_spec::runtime::Hooks::poststop);
            left.extend(super::hooks::run_all("poststop", hooks, &state.report(Status::Stopped, 0)));
        }
        left
    }
}

fn launch_into(
    options: &Options,
    prepared: Prepared,
    mut ahead: Ahead,
    entry: Entry,
    undo: &mut Undo,
) -> Result<Launched> {
    let prepared = Arc::new(prepared);
    let plan = &prepared.plan;
    let parts = prepared.bundle.parts.as_deref();
    let network_of_pool = plan.network_helper && parts.is_some_and(|parts| parts.network.is_some());
    let mut state = State { network_of_pool, ..prepared.state.clone() };
    let given = parts.filter(|parts| parts.cgroup.is_some());
    // What is recorded is removed by `delete`: not the cgroup of somebody else.
    if given.is_none() {
        prepared.cgroup.require_unused()?;
    }
    entry.save(&state)?;
    let cgroup = match given {
        Some(parts) => {
            parts.take();
            prepared.cgroup.adopt().or_else(|_| prepared.cgroup.create())?
        }
        None => prepared.cgroup.create()?,
    };
    let cgroup = undo.cgroup.insert(cgroup);
    // What it does without is not its to pause or remove: it may be somebody else's.
    if *cgroup.handle() != state.cgroup {
        state.cgroup = cgroup.handle().clone();
        entry.save(&state)?;
    }
    if cgroup.handle().directories().is_empty() && !cgroup.awaits_init() && !plan.has_pid_namespace() {
        log::warn(
            "linux.namespaces: with neither a cgroup nor a pid namespace, not all of the container's processes can be \
             found and killed. Such configuration is strongly discouraged: add a pid namespace",
        );
    }
    if let Some(group) = &mut state.resctrl {
        let planned = group.clone();
        group.create(&prepared.bundle.loaded.spec, &mut undo.resctrl)?;
        if *group != planned {
            entry.save(&state)?;
        }
    }
    let mut notify = None;
    if let Some(manager) = &options.notify {
        notify::make_directory(&entry)?;
        if options.wait == Wait::Nothing {
            notify = Proxy::bind(&entry, manager)?;
        }
    }
    let mut slots = Slots::default();
    if !plan.shares_memory() {
        ahead.share_with_copies()?;
    }
    let report = Arc::clone(&ahead.report);
    match parts.and_then(|parts| parts.network.as_ref()) {
        _ if !plan.network_helper => {}
        Some(network) => {
            init::network_is_made(&report);
            slots.set(slots::NETWORK, network.as_raw_fd());
        }
        None => {
            undo.helper = ahead.take_helper()?;
            undo.helper.iter().for_each(|(helper, _)| slots.set(slots::NETWORK, helper.pidfd));
        }
    }
    // The helper has what is open when it begins, and may end after init has executed its program.
    let mut kept = open_slots(options, plan, &entry, cgroup, &mut slots)?;
    outside::run(plan, &mut slots, &report, &mut kept.given)?;
    drop(ahead);
    let birth = cgroup.join().born_in().map(|directory| directory.as_raw_fd());
    let manner = Manner {
        wait_for_start: options.wait == Wait::Start,
        timings: options.timings,
        foreground: options.foreground,
        stdio: options.stdio.as_ref().map(super::prepare::raw),
        scheduling: None,
    };
    if undo.helper.is_some() {
        init::work_beside(&report);
    }
    let mut spawned = spawn(plan, slots, sync()?, birth, &report, manner, None)?;
    let child = spawned.child;
    undo.loan = spawned.loan.take();
    let cloned_at = if options.timings { process::now() } else { 0 };
    undo.child = Some(child);
    undo.begun = Some(Arc::clone(&prepared));
    drop(kept.given);
    undo.pid_file = options.pid_file.clone().map(|path| (path, child.pid));
    admit(options, &prepared, &entry, cgroup, &mut state, &spawned, &report)?;
    init::worked_beside(&report);
    let terminal_socket = kept.terminal;
    let devices = RefCell::new(None);
    let context = gates::Context {
        spec: &prepared.bundle.loaded.spec,
        listener: prepared.bundle.filter.as_ref().and_then(|filter| filter.listener.as_ref()),
        state: &state,
        child,
        joins: None,
        devices: Some(&devices),
    };
    let waits = !options.foreground || needs_gates(&prepared);
    let outcome = if waits { gates::serve(&context, spawned.sync.as_raw_fd()) } else { Ok(Outcome::Executed) };
    undo.devices = devices.take();
    let outcome = outcome?;
    if outcome != Outcome::Ready
        && waits
        && let Some(error) = failure(plan, &report, child)
    {
        undo.child = None;
        sys_fs::close(child.pidfd);
        if let Some(terminal) = terminal_socket.map(|socket| receive_terminal(&socket)).transpose()?.flatten() {
            super::console::drain_terminal(&terminal);
        }
        return Err(if options.foreground { in_foreground(error, plan, &report) } else { error });
    }
    let mut helper = undo.helper.take();
    if let Some((made, _)) = helper.take_if(|_| !options.foreground) {
        // It has nothing left to do once init is in its namespace.
        let _ = process::wait(made.pid, 0);
        sys_fs::close(made.pidfd);
    }
    let terminal = terminal_socket.map(|socket| receive_terminal(&socket)).transpose()?.flatten();
    let loan = undo.loan.take();
    Ok(Launched { entry, state, child, helper, prepared, report, loan, terminal, notify, cloned_at, lock: None })
}

/// Says with `--debug` what will be done.
pub(super) fn log_plan(plan: &Plan) {
    if log::is_debug() {
        for line in explain::lines(plan) {
            log::debug(|| format!("{}: {} ({})", line.who, line.call, line.field));
        }
    }
}

/// Has a clone go on, which is in its cgroups and its resctrl group from now on, and recorded.
pub(super) fn admit(
    options: &Options,
    prepared: &Prepared,
    entry: &Entry,
    cgroup: &mut Cgroup,
    state: &mut State,
    spawned: &Spawned,
    report: &Report,
) -> Result<()> {
    let child = spawned.child;
    if cgroup.awaits_init() {
        cgroup.admit(child.pid)?;
        state.cgroup = cgroup.handle().clone();
        entry.save(state)?;
    }
    if let Some(group) = &state.resctrl {
        group.join(child.pid)?;
    }
    report.ignored.store(record(options, prepared, entry, cgroup, child)?, Ordering::Release);
    report.recorded.store(child.pid.unsigned_abs(), Ordering::Release);
    // The byte wakes an init that came first. The runtime finds out later about one that is dead by now.
    let _ = sys_fs::write(spawned.sync.as_raw_fd(), &[init::RECORDED]);
    Ok(())
}

/// Whether the runtime has anything to do between clone and exec that init waits for.
fn needs_gates(prepared: &Prepared) -> bool {
    let meets = |step: &init::Step| matches!(step.op, init::Op::Meet(_));
    let poststart = prepared.bundle.loaded.spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_ref());
    prepared.plan.steps.iter().any(meets) || poststart.is_some_and(|hooks| !hooks.is_empty())
}

/// Descriptors that must live until the clone, and the socket on which the terminal will come.
pub(super) struct Kept {
    pub given: Vec<OwnedFd>,
    pub terminal: Option<OwnedFd>,
}

/// Opens what init gets from outside.
pub(super) fn open_slots(
    options: &Options,
    plan: &Plan,
    entry: &Entry,
    cgroup: &Cgroup,
    to: &mut Slots,
) -> Result<Kept> {
    let mut kept = Kept { given: Vec::new(), terminal: None };
    for (slot, file) in plan.cgroup_slots.iter().zip(cgroup.join().files()) {
        to.set(*slot, file.as_raw_fd());
    }
    let mut give = |slot: Slot, fd: OwnedFd| {
        to.set(slot, fd.as_raw_fd());
        kept.given.push(fd);
    };
    for joined in &plan.joined {
        give(joined.slot, open_namespace(joined)?);
    }
    for mapping in &plan.outside.id_mappings {
        give(mapping.slot, super::idmap::user_namespace(&mapping.uids, &mapping.gids)?);
    }
    if options.wait == Wait::Start {
        give(slots::LISTENER, super::start::make_socket(entry)?);
    }
    if let Some(path) = &options.pidfd_socket {
        give(slots::PIDFD, connect("--pidfd-socket", path)?);
    }
    let wanted = plan.steps.iter().any(|step| matches!(step.op, init::Op::Console { .. }));
    let served = options.foreground || options.stdio.is_some();
    let terminal = terminal_socket(wanted, options.console_socket.as_deref(), served)?;
    if let Some(socket) = terminal.given {
        give(slots::CONSOLE, socket);
    }
    kept.terminal = terminal.kept;
    Ok(kept)
}

/// Where a terminal's master goes: into `given`, and comes out of `kept` if the runtime serves it itself.
#[derive(Debug, Default)]
pub(super) struct TerminalSocket {
    pub given: Option<OwnedFd>,
    pub kept: Option<OwnedFd>,
}

/// The socket for the terminal that a process wants.
///
/// # Errors
/// A process in the background without --console-socket, or that option where it makes no sense.
pub(super) fn terminal_socket(wanted: bool, path: Option<&Path>, foreground: bool) -> Result<TerminalSocket> {
    match (path, wanted) {
        (Some(path), true) if !foreground => {
            Ok(TerminalSocket { given: Some(connect("--console-socket", path)?), kept: None })
        }
        (Some(_), _) => {
            let problem = "cannot use console socket if runc will not detach or allocate tty: leave out \
                           --console-socket, or detach and set process.terminal";
            Err(Error::new(Kind::Usage, problem))
        }
        (None, true) if foreground => {
            let (ours, theirs) = socket::pair().doing(|| "make a socket pair for the terminal")?;
            Ok(TerminalSocket { given: Some(owned(theirs)), kept: Some(owned(ours)) })
        }
        (None, true) => {
            let problem = "process.terminal: cannot allocate tty if runc will detach without setting console socket: give --console-socket";
            Err(Error::new(Kind::Usage, problem))
        }
        (None, false) => Ok(TerminalSocket::default()),
    }
}

/// Takes over a descriptor that a system call just made.
pub(super) fn owned(fd: RawFd) -> OwnedFd {
    crate::sys::own(fd)
}

fn open_namespace(joined: &plan::Joined) -> Result<OwnedFd> {
    let path = crate::plan::builder::cpath(&joined.field, &joined.path)?;
    // Whoever opens a FIFO waits for a writer otherwise.
    let fd = sys_fs::open(sys_fs::CWD, &path, libc::O_RDONLY | libc::O_NONBLOCK, 0)
        .doing(|| format!("{}.path: open {}", joined.field, joined.path.display()))?;
    let namespace = owned(fd);
    let kind = process::namespace_kind(fd);
    if kind != Ok(joined.kind) {
        let problem = format!("{} is not a namespace of this type: give the path of one", joined.path.display());
        return Err(Error::config(format_args!("{}.path", joined.field), problem));
    }
    Ok(namespace)
}

/// Connects to the Unix socket at `path`.
pub(super) fn connect(flag: &str, path: &Path) -> Result<OwnedFd> {
    use std::os::unix::net::UnixStream;
    let stream = UnixStream::connect(path).doing(|| format!("{flag}: connect to {}", path.display()))?;
    Ok(stream.into())
}

pub(super) fn receive_terminal(socket: &OwnedFd) -> Result<Option<OwnedFd>> {
    let mut name = [0u8; 64];
    match socket::receive_fd(socket.as_raw_fd(), &mut name) {
        Ok((_, fd)) => Ok(fd.map(owned)),
        // The child's end is closed without a message when it failed before: the report says why.
        Err(Errno::ECONNRESET) => Ok(None),
        Err(errno) => Err(Error::system("receive the terminal", errno)),
    }
}

/// How a clone is treated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Whether it waits for `start` before it executes the program.
    pub wait_for_start: bool,
    /// Whether it notes when each step ended.
    pub timings: bool,
    /// Whether the runtime waits for it, with all signals blocked.
    pub foreground: bool,
    /// Its stdin, stdout and stderr, of a runtime that serves other containers too: then it keeps no other descriptor
    /// that is not meant for it.
    pub stdio: Option<[RawFd; 3]>,
    /// How it is scheduled, if that is not as this process is.
    pub scheduling: Option<SchedAttr>,
}

/// What the init of a sandbox has besides, which is a child of this process's parent, who reaps it (`CLONE_PARENT`).
#[derive(Default)]
pub(super) struct Sandbox {
    /// Its session keyring's name, if the Plan does not say.
    pub keyring: CString,
    /// A stack of [`Sandbox::stack`], if there is one.
    pub stack: Option<clone::Stack>,
}

impl Sandbox {
    /// A stack for an init in its maker's memory.
    fn stack() -> Result<clone::Stack> {
        clone::Stack::with_room(park::ROOM).doing(|| "map a stack for init")
    }
}

/// A clone and the runtime's end of the pair.
pub(super) struct Spawned {
    pub child: Child,
    pub sync: OwnedFd,
    /// What the child uses of this memory, unless it has got a copy.
    pub loan: Option<Loan<Cradle>>,
}

/// What a child needs until it executes its program.
#[derive(Debug)]
pub(super) struct Cradle {
    pub plan: Arc<Plan>,
    pub slots: Slots,
    pub report: Arc<Shared<Report>>,
    manner: Manner,
    /// With `manner.stdio`: the descriptors that it keeps, sorted.
    kept: Vec<RawFd>,
    sync: RawFd,
    sync_of_parent: RawFd,
    signal_mask: u64,
    /// Its name, if the Plan does not say.
    keyring: Option<CString>,
    /// Of a sandbox that stays in this memory.
    room: Option<clone::Room>,
    failures: Vec<String>,
}

impl Cradle {
    /// The child.
    pub fn run(&self) -> ! {
        init::run(&Init {
            steps: &self.plan.steps,
            exec: &self.plan.exec,
            slots: self.slots,
            inherited: self.manner.stdio.map(|stdio| init::Inherited { stdio, kept: &self.kept }),
            sync: self.sync,
            sync_of_parent: self.sync_of_parent,
            report: &self.report,
            timings: self.manner.timings,
            signal_mask: self.signal_mask,
            scheduling: self.manner.scheduling,
            keyring: self.keyring.as_deref(),
            room: self.room.as_ref(),
            failures: &self.failures,
        })
    }
}

/// What init and the runtime say to each other.
pub(super) fn sync() -> Result<(OwnedFd, OwnedFd)> {
    let (sync, sync_of_child) = socket::pair().doing(|| "make a socket pair")?;
    Ok((owned(sync), owned(sync_of_child)))
}

/// Clones init, that of a `sandbox` or of a cold start, by way of a stage where the Plan has one. It has the second of the sockets.
pub(super) fn spawn(
    plan: &Arc<Plan>,
    slots: Slots,
    (sync, sync_of_child): (OwnedFd, OwnedFd),
    cgroup: Option<RawFd>,
    report: &Arc<Shared<Report>>,
    manner: Manner,
    sandbox: Option<Sandbox>,
) -> Result<Spawned> {
    let failures = if manner.wait_for_start { failures(plan) } else { Vec::new() };
    let mut kept: Vec<RawFd> = Vec::new();
    if manner.stdio.is_some() {
        kept.extend(slots.open().chain([sync_of_child.as_raw_fd()]));
        kept.sort_unstable();
    }
    let is_shared = plan.shares_memory();
    let is_sandbox = sandbox.is_some();
    let (keyring, used) = sandbox.map_or((None, None), |sandbox| (Some(sandbox.keyring), sandbox.stack));
    let stack = match used.filter(|_| is_shared) {
        None if is_shared && is_sandbox => Some(Sandbox::stack()?),
        None if is_shared => Some(clone::Stack::with_room(0).doing(|| "map a stack for init")?),
        used => used,
    };
    // The child runs with all signals blocked until exec: a handler of ours would run in its context.
    let signal_mask = process::set_signal_mask(u64::MAX).doing(|| "block signals")?;
    let cradle = Arc::new(Cradle {
        plan: Arc::clone(plan),
        slots,
        report: Arc::clone(report),
        manner,
        kept,
        sync: sync_of_child.as_raw_fd(),
        sync_of_parent: sync.as_raw_fd(),
        // What a thread of such a runtime has blocked is not the container's business.
        signal_mask: if manner.stdio.is_some() { 0 } else { signal_mask },
        keyring,
        room: stack.as_ref().filter(|_| is_sandbox).map(clone::Stack::room),
        failures,
    });
    let memory = if is_shared { clone::SHARE_MEMORY } else { 0 };
    let (parent, exit_signal) = if is_sandbox { (libc::CLONE_PARENT as u64, 0) } else { (0, libc::SIGCHLD) };
    let request = clone::Request { flags: plan.clone_flags | memory | parent, cgroup, exit_signal };
    let spawned = if plan.stage.is_empty() {
        let spawned = clone::spawn_on(stack, &request, Cradle::run, cradle).map(|(child, loan)| (child, Some(loan)));
        spawned.map_err(|errno| super::stage::clone_error(&request, errno))
    } else {
        super::stage::spawn(&request, cradle).map(|child| (child, None))
    };
    // In the foreground signals stay blocked: who waits takes them from a descriptor. Who has failed may try again.
    if !manner.foreground || spawned.is_err() {
        process::set_signal_mask(signal_mask).doing(|| "unblock signals")?;
    }
    let (child, loan) = spawned?;
    Ok(Spawned { child, sync, loan })
}

/// What `start` says when a step after its connection fails.
fn failures(plan: &Plan) -> Vec<String> {
    let sentences = (0..=plan.steps.len()).map(|index| match plan.steps.get(index) {
        Some(init::Step { op: init::Op::RunHook(hook), .. }) => plan::hooks::failure(hook, "").to_string(),
        Some(step) => format!("{}: {}", step.field, step.op),
        None => match plan.exec.args.get(0) {
            Some(name) => format!("exec: {:?}", name.to_string_lossy()),
            None => "config.json: process: is missing, so there is nothing to start: set it and create anew".into(),
        },
    });
    sentences.collect()
}

/// All that must be on disk, and in force, before init may execute the program. The signals that it ignores ([`Report::ignored`]).
pub(super) fn record(
    options: &Options,
    prepared: &Prepared,
    entry: &Entry,
    cgroup: &Cgroup,
    child: Child,
) -> Result<u32> {
    let (process, ignored) = Process::with_ignored(child.pid).doing(|| format!("read /proc/{}/stat", child.pid))?;
    entry.record(process)?;
    cgroup.restrict_devices()?;
    let Bundle { text, copy, .. } = &*prepared.bundle;
    match options.wait {
        Wait::Lease { .. } => {
            entry.write_alike("config.json", text, &mut copy.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        Wait::Nothing | Wait::Start => entry.write("config.json", text)?,
    }
    if let Some(path) = &options.pid_file {
        pid_file::write(path, child.pid)?;
    }
    let adjustment = prepared.bundle.loaded.spec.process().as_ref().and_then(oci_spec::runtime::Process::oom_score_adj);
    if let Some(adjustment) = adjustment {
        set_oom_score_adj(&child.pid.to_string(), adjustment, options.rootless)?;
    }
    Ok(ignored)
}

/// `process.oomScoreAdj`. Without the rights of root a value below the present one is refused; then the present one
/// stays, as in runc.
pub(super) fn set_oom_score_adj(pid: &str, adjustment: i32, rootless: bool) -> Result<()> {
    let path = format!("/proc/{pid}/oom_score_adj");
    match fs::write(&path, adjustment.to_string()) {
        Err(error) if rootless && error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        written => written.doing(|| format!("process.oomScoreAdj: write {adjustment} to {path}")),
    }
}

/// The error of an init that has not executed its program and never will; `None` if it did execute it.
pub(super) fn failure(plan: &Plan, report: &Report, child: Child) -> Option<Error> {
    // The pair has been closed: by exec, or by an end that may not be complete yet.
    let executed = report.step.load(Ordering::Acquire) as usize > plan.steps.len();
    if !executed || report.errno.load(Ordering::Acquire) != 0 {
        let _ = process::wait(child.pid, 0);
    }
    failure_of_reaped(plan, report)
}

/// As [`failure`], for an init that has been waited for.
pub(super) fn failure_of_reaped(plan: &Plan, report: &Report) -> Option<Error> {
    reported(plan, report).map(Error::in_init)
}

fn reported(plan: &Plan, report: &Report) -> Option<Error> {
    let errno = report.errno.load(Ordering::Acquire);
    let step = report.step.load(Ordering::Acquire) as usize;
    let words: Vec<u8> = report.words().collect();
    if !words.is_empty() {
        return Some(plan.failure_in_words(step.saturating_sub(1), &String::from_utf8_lossy(&words)));
    }
    if errno != 0 {
        return Some(plan.failure(step.saturating_sub(1), Errno::from_raw(errno as i32)));
    }
    // One that has not come to its first step has not executed the program either.
    let at = plan.steps.get(step.saturating_sub(1))?;
    let problem =
        format!("{}: the process was killed while it set itself up (memory limit too low?), at: {}", at.field, at.op);
    Some(Error::new(Kind::System, problem))
}

/// The error of a process in the foreground. If its program was refused it has told so to its standard error, which is
/// ours.
pub(super) fn in_foreground(error: Error, plan: &Plan, report: &Report) -> Error {
    let refused = report.step.load(Ordering::Acquire) as usize > plan.steps.len();
    if refused { error.on_stderr() } else { error }
}

/// The hooks of one kind, empty when there are none.
pub fn hooks(spec: &Spec, pick: impl Fn(&oci_spec::runtime::Hooks) -> &Option<Vec<Hook>>) -> &[Hook] {
    spec.hooks().as_ref().and_then(|hooks| pick(hooks).as_deref()).unwrap_or_default()
}

/// Sends away what `run -d` and `start` owe after the program was executed: poststart hooks. A failing hook stops the
/// container (runc) and is the error.
///
/// # Errors
/// The hook's.
pub fn poststart(spec: &Spec, state: &State, init: i32) -> Result<()> {
    let hooks = hooks(spec, oci_spec::runtime::Hooks::poststart);
    super::hooks::run("poststart", hooks, &state.report(Status::Running, init))
}
