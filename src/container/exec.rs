//! `exec`: another process in a container that exists.
//!
//! ```text
//! find, load ─▶ pidfd of init ─▶ compile ─▶ stage: non-dumpable, setns ─▶ clone3 ─▶ process: rights … ─▶ exec
//! ```
//!
//! The pidfd is opened before it is looked whether init lives, so it is init's and nobody else's. The stage is gone
//! by the time that the process runs, which is the runtime's child.

mod process;

pub use process::{Changes, Wanted};

use super::gates;
use super::launch::{self, Manner};
use super::prepare::{self, Stdio};
use super::process::Process;
use super::state::{State, Status};
use super::store::Store;
use super::{console, host, pid_file, sealed, stdio, wait};
use crate::cgroup::Join;
use crate::cgroup::join::SubCgroups;
use crate::error::{Doing, Error, Kind, Result};
use crate::init::{Op, RECORDED, Slots};
use crate::log;
use crate::plan::builder::slots;
use crate::plan::{self, Plan, seccomp};
use crate::spec::{self, Seccomp, Warning};
use crate::sys::clone::{CLONE_NEWTIME, Child};
use crate::sys::shared::{Report, Shared};
use crate::sys::{fs as sys_fs, process as sys_process};
use nix::errno::Errno;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long an init may take to end after its pid namespace has become unusable: it waits for all others there.
const ENDING: Duration = Duration::from_secs(1);

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where containers are recorded.
    pub store: Store,
    /// The container's id.
    pub id: String,
    /// The process.
    pub wanted: Wanted,
    /// Whether the caller lacks the rights of root.
    pub rootless: bool,
    /// --detach
    pub detach: bool,
    /// --ignore-paused
    pub ignore_paused: bool,
    /// --preserve-fds
    pub preserve_fds: u32,
    /// --pid-file
    pub pid_file: Option<PathBuf>,
    /// --console-socket
    pub console_socket: Option<PathBuf>,
    /// --pidfd-socket
    pub pidfd_socket: Option<PathBuf>,
    /// --cgroup
    pub sub_cgroups: SubCgroups,
    /// As [`prepare::Options::stdio`].
    pub stdio: Option<Stdio>,
}

/// The container and what it is joined by.
#[derive(Debug)]
pub struct Target {
    /// What is recorded of it.
    pub state: State,
    /// Its init, which runs.
    pub init: Process,
    /// The same.
    pub pidfd: OwnedFd,
    /// Its configuration.
    pub spec: Box<Spec>,
}

/// A process in a container, to be waited for by the caller.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: Child,
    /// Its terminal's master, if it has one.
    pub terminal: Option<OwnedFd>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// What the options and the container amount to, before anything exists.
struct Prepared {
    spec: Box<Spec>,
    filter: Option<seccomp::Filter>,
    machine: plan::Host,
    namespaces: i32,
    warnings: Vec<String>,
}

/// Runs a process in the container; in the foreground until it ends. The exit status to end with: the program's, or 128 plus the signal
/// that ended it, or 0 when detached. `warn` hears what the user should know beforehand.
///
/// # Errors
/// One sentence: a container that does not run, a process that cannot be started.
pub fn exec(options: &Options, warn: &dyn Fn(&[String])) -> Result<i32> {
    prepare::require_inherited(0, options.preserve_fds)?;
    let (target, profile) = find(options)?;
    exec_by(options, &target, profile, warn).map_err(|error| target.init.or_ended(error, stopped))
}

fn exec_by(options: &Options, target: &Target, profile: Option<Seccomp>, warn: &dyn Fn(&[String])) -> Result<i32> {
    let mut warnings = Vec::new();
    let filter = host::seccomp(profile.as_ref(), options.store.root(), &mut warnings)?;
    let prepared = prepare(options, target, filter, warnings)?;
    warn(&prepared.warnings);
    if !options.detach {
        stdio::give_own(prepared.process()?, &target.spec);
    }
    let (started, terminal) = start(options, target, &prepared, &|_| ())?;
    if options.detach { Ok(0) } else { finish(&started, terminal).map_err(|error| started.end(options, error)) }
}

/// Starts a process in a container of which the caller knows all that there is to know, and has [`Options::stdio`] for it.
/// The process is to be waited for. `begun` is told of it as soon as it exists: it may hang on the way to its program, and
/// can be killed then.
///
/// # Errors
/// One sentence: a process that cannot be started. Then nothing is left of it.
pub fn exec_in(
    options: &Options,
    target: &Target,
    filter: Option<seccomp::Filter>,
    begun: &dyn Fn(Child),
) -> Result<Running> {
    let prepared = prepare(options, target, filter, Vec::new())?;
    if let Some(given) = &options.stdio {
        stdio::give(prepare::raw(given), prepared.process()?.user(), &target.spec);
    }
    let (started, socket) = start(options, target, &prepared, begun)?;
    let terminal = socket.map(|socket| launch::receive_terminal(&socket)).transpose();
    let terminal = terminal.map_err(|error| started.end(options, error))?.flatten();
    Ok(Running { child: started.child, terminal, warnings: prepared.warnings })
}

fn stopped() -> Error {
    Error::new(Kind::WrongState, "cannot exec in a stopped container")
}

fn find(options: &Options) -> Result<(Target, Option<Seccomp>)> {
    let entry = options.store.find(&options.id)?;
    let state = entry.load()?;
    let init = entry.init()?.ok_or_else(stopped)?;
    let pidfd = init.open()?.ok_or_else(stopped)?;
    match entry.status(Some(&state))? {
        (Status::Paused, _) if !options.ignore_paused => {
            Err(Error::new(Kind::WrongState, "cannot exec in a paused container (use --ignore-paused to override)"))
        }
        // It is not in its place: who joined it might find the host's files.
        (Status::Creating, _) => {
            let problem = "cannot exec in a container that is still being created: wait for that";
            Err(Error::new(Kind::WrongState, problem))
        }
        (_, Some(alive)) if alive == init => {
            let loaded = spec::load_file(&entry.config());
            let loaded = loaded.map_err(|error| init.or_ended(error, stopped))?;
            Ok((Target { state, init, pidfd, spec: loaded.spec }, loaded.seccomp))
        }
        _ => Err(stopped()),
    }
}

fn prepare(
    options: &Options,
    target: &Target,
    filter: Option<seccomp::Filter>,
    mut warnings: Vec<String>,
) -> Result<Prepared> {
    let mut spec = target.spec.clone();
    let mut notes = Vec::new();
    let containers = spec.process_mut().take().unwrap_or_default();
    let mut process = process::resolve(&options.wanted, &containers, &mut notes)?;
    spec::validate_process(&process)?;
    if !options.detach {
        console::give_own_size(&mut process);
    }
    sealed::ensure(Some(&process))?;
    spec.set_process(Some(process));
    warnings.extend(notes.iter().map(Warning::to_string));
    let machine = host::facts(&spec, Some(target.init.pid), None);
    warnings.extend(prepare::left_out(&spec, &machine));
    let time = if target.state.own_time { CLONE_NEWTIME } else { 0 };
    let namespaces = namespaces(&spec, target.init.pid) | time;
    Ok(Prepared { spec, filter, machine, namespaces, warnings })
}

/// The kinds of namespaces that the container has. Its user namespace counts only if it is not ours as well: setns(2)
/// refuses that.
fn namespaces(spec: &Spec, init: i32) -> i32 {
    let linux = spec.linux().as_ref();
    let listed = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let kinds = listed.iter().map(oci_spec::runtime::LinuxNamespace::typ);
    kinds
        .filter(|kind| *kind != LinuxNamespaceType::User || !shares_user_namespace(init))
        .fold(0, |all, kind| all | plan::namespace_flag(kind))
}

fn shares_user_namespace(init: i32) -> bool {
    let namespace =
        |process: &str| fs::metadata(format!("/proc/{process}/ns/user")).map(|file| (file.dev(), file.ino()));
    matches!((namespace("self"), namespace(&init.to_string())), (Ok(ours), Ok(theirs)) if ours == theirs)
}

/// A process that exists.
struct Started {
    /// Whether systemd still has to move it into the container's cgroups.
    to_be_attached: bool,
    plan: Arc<Plan>,
    child: Child,
    sync: OwnedFd,
    report: Arc<Shared<Report>>,
}

impl Started {
    /// Ends it because of this error.
    fn end(&self, options: &Options, error: Error) -> Error {
        let _ = sys_process::pidfd_send_signal(self.child.pidfd, libc::SIGKILL);
        let _ = sys_process::wait(self.child.pid, 0);
        self.forget(options, error)
    }

    /// That it has ended, with this error: nothing tells of it any more.
    fn forget(&self, options: &Options, error: Error) -> Error {
        sys_fs::close(self.child.pidfd);
        let removed = pid_file::remove(options.pid_file.as_deref(), self.child.pid);
        removed.err().into_iter().fold(error, Error::and)
    }
}

/// Starts the process; detached, it has executed its program. Where its terminal's master will come, if that is ours.
fn start(
    options: &Options,
    target: &Target,
    prepared: &Prepared,
    begun: &dyn Fn(Child),
) -> Result<(Started, Option<OwnedFd>)> {
    if target.state.network_of_pool {
        options.store.find(&options.id)?.note_visit()?;
    }
    let terminal = prepared.process()?.terminal().unwrap_or(false);
    let served = !options.detach || options.stdio.is_some();
    let terminal = launch::terminal_socket(terminal, options.console_socket.as_deref(), served)?;
    let pidfd_socket = options.pidfd_socket.as_ref().map(|path| launch::connect("--pidfd-socket", path)).transpose()?;
    let mut slots = Slots::default();
    slots.set(slots::JOINED, target.pidfd.as_raw_fd());
    for (slot, fd) in [(slots::CONSOLE, &terminal.given), (slots::PIDFD, &pidfd_socket)] {
        if let Some(fd) = fd {
            slots.set(slot, fd.as_raw_fd());
        }
    }
    let adjustment = prepared.oom_score_adj().filter(|_| options.rootless);
    let inherited = adjustment.map(OomScoreAdj::lend).transpose()?;
    let started = clone(options, target, prepared, slots)?;
    drop(inherited);
    begun(started.child);
    drop((terminal.given, pidfd_socket));
    see_through(options, target, prepared, &started).map_err(|error| started.end(options, error))?;
    if options.detach
        && let Some(error) = launch::failure(&started.plan, &started.report, started.child)
    {
        return Err(started.forget(options, error));
    }
    Ok((started, terminal.kept))
}

/// `process.oomScoreAdj` of this process, for a while: the one that is cloned has it then, and is closed to its own user from
/// its first step on. Dropped, it is as before.
struct OomScoreAdj(String);

impl OomScoreAdj {
    const FILE: &str = "/proc/self/oom_score_adj";

    fn lend(adjustment: i32) -> Result<Self> {
        let before = fs::read_to_string(Self::FILE).doing(|| format!("process.oomScoreAdj: read {}", Self::FILE))?;
        launch::set_oom_score_adj("self", adjustment, true)?;
        Ok(Self(before))
    }
}

impl Drop for OomScoreAdj {
    fn drop(&mut self) {
        // What it was may be had again without rights.
        if let Err(error) = fs::write(Self::FILE, self.0.trim()) {
            log::warn(format!("write {}: {error}", Self::FILE));
        }
    }
}

/// Clones the process into the container's cgroups. Where those take none (init has made cgroups below its own and
/// enabled controllers for them: EBUSY; or has moved away, and the cgroup is gone) it goes where init is now, unless
/// --cgroup names a place. Without the rights of root it may not be moved there (EACCES): then systemd moves it, or it
/// stays where it is.
fn clone(options: &Options, target: &Target, prepared: &Prepared, slots: Slots) -> Result<Started> {
    let cgroups = &target.state.cgroup;
    let init = target.init.pid;
    let elsewhere = |error: Error| match cgroups.join_init(init) {
        Ok(join) if options.sub_cgroups.is_empty() => Ok(join),
        _ if options.rootless => Ok(Join::default()),
        _ => Err(error),
    };
    let join = match cgroups.join(&options.sub_cgroups).map_err(adding) {
        Err(error) if error.kind() == Kind::Usage => return Err(error),
        join => join.or_else(elsewhere)?,
    };
    match clone_into(options, target, prepared, slots, &join) {
        Err(error) if matches!(error.errno(), Some(Errno::EBUSY | Errno::ENODEV)) => {
            clone_into(options, target, prepared, slots, &elsewhere(adding(error))?)
        }
        Err(error) if options.rootless && error.errno() == Some(Errno::EACCES) => {
            let started = clone_into(options, target, prepared, slots, &Join::default())?;
            Ok(Started { to_be_attached: cgroups.unit.is_some(), ..started })
        }
        started => started,
    }
}

fn adding(error: Error) -> Error {
    match error.kind() {
        Kind::Usage => error,
        _ => error.context("error adding pid of the new process to cgroups"),
    }
}

fn clone_into(
    options: &Options,
    target: &Target,
    prepared: &Prepared,
    mut slots: Slots,
    join: &Join,
) -> Result<Started> {
    let plan = plan::exec::compile(&plan::exec::Input {
        process: prepared.process()?,
        linux: prepared.spec.linux().as_ref(),
        keeps_groups: plan::process::keeps_groups(&prepared.spec),
        namespaces: prepared.namespaces,
        privileged: nix::unistd::geteuid().is_root(),
        seccomp: prepared.filter.as_ref(),
        host: &prepared.machine,
        keyring: (!target.state.no_new_keyring).then_some(options.id.as_str()),
        cgroups_to_join: join.files().len(),
        preserve_fds: options.preserve_fds,
        pidfd_socket: options.pidfd_socket.is_some(),
        terminal_served: !options.detach,
    })?;
    launch::log_plan(&plan);
    let plan = Arc::new(plan);
    for (slot, file) in plan.cgroup_slots.iter().zip(join.files()) {
        slots.set(*slot, file.as_raw_fd());
    }
    let report: Shared<Report> = Shared::new().doing(|| "map memory to share with the new process")?;
    let report = Arc::new(report);
    let manner = Manner {
        wait_for_start: false,
        timings: false,
        foreground: !options.detach,
        stdio: options.stdio.as_ref().map(prepare::raw),
        scheduling: None,
    };
    let birth = join.born_in().map(|directory| directory.as_raw_fd());
    let sync = launch::sync()?;
    let spawned =
        launch::spawn(&plan, slots, sync, birth, &report, manner, None).map_err(|error| match error.errno() {
            Some(Errno::ESRCH) => stopped(),
            // What clone(2) says of a pid namespace whose init is ending.
            Some(Errno::ENOMEM) if sys_process::ends_within(target.pidfd.as_raw_fd(), ENDING).unwrap_or(false) => {
                stopped()
            }
            _ => error,
        })?;
    Ok(Started { to_be_attached: false, plan, child: spawned.child, sync: spawned.sync, report })
}

impl Prepared {
    fn process(&self) -> Result<&oci_spec::runtime::Process> {
        self.spec.process().as_ref().ok_or_else(|| Error::config("process", "is missing"))
    }

    fn oom_score_adj(&self) -> Option<i32> {
        self.spec.process().as_ref().and_then(oci_spec::runtime::Process::oom_score_adj)
    }
}

/// From the clone to the meetings with the process; detached, to its exec.
fn see_through(options: &Options, target: &Target, prepared: &Prepared, started: &Started) -> Result<()> {
    let Started { to_be_attached, plan, child, sync, report } = started;
    if let Some(unit) = target.state.cgroup.unit.as_ref().filter(|_| *to_be_attached) {
        let below = options.sub_cgroups.get("").and_then(|path| path.to_str());
        match unit.attach(child.pid, below.unwrap_or("/")) {
            // Where it is to be was said by nobody; it stays where it is, as in runc.
            Err(error) if below.is_none() => log::warn(format!("exec: the process stays in this cgroup: {error}")),
            attached => attached?,
        }
    }
    let (_, ignored) = Process::with_ignored(child.pid).doing(|| format!("read /proc/{}/stat", child.pid))?;
    report.ignored.store(ignored, Ordering::Release);
    record(options, target, prepared, *child)?;
    report.recorded.store(child.pid.unsigned_abs(), Ordering::Release);
    // The byte wakes a process that came first. One that is dead by now is found out below.
    let _ = sys_fs::write(sync.as_raw_fd(), &[RECORDED]);
    if options.detach || plan.steps.iter().any(|step| matches!(step.op, Op::Meet(_))) {
        let context = gates::Context {
            spec: &prepared.spec,
            listener: prepared.filter.as_ref().and_then(|filter| filter.listener.as_ref()),
            state: &target.state,
            child: *child,
            joins: Some(target.init.pid),
            devices: None,
        };
        gates::serve(&context, sync.as_raw_fd())?;
    }
    Ok(())
}

/// In the foreground: waits for the process; its status.
fn finish(started: &Started, terminal: Option<OwnedFd>) -> Result<i32> {
    let Started { plan, child, report, .. } = started;
    let terminal = terminal.map(|socket| launch::receive_terminal(&socket)).transpose()?.flatten();
    let waited = match &terminal {
        Some(terminal) => console::serve(*child, terminal),
        None => wait::foreground(*child, None).doing(|| "wait for the process"),
    };
    // Nobody would look after it any more.
    let exit = waited.inspect_err(|_| child.end())?;
    match launch::failure_of_reaped(plan, report) {
        Some(error) => Err(launch::in_foreground(error, plan, report)),
        None => Ok(exit.status()),
    }
}

/// What is owed before the program is executed.
fn record(options: &Options, target: &Target, prepared: &Prepared, child: Child) -> Result<()> {
    if let Some(group) = &target.state.resctrl {
        group.join(child.pid)?;
    }
    if let Some(adjustment) = prepared.oom_score_adj() {
        launch::set_oom_score_adj(&child.pid.to_string(), adjustment, options.rootless)?;
    }
    match &options.pid_file {
        Some(path) => pid_file::write(path, child.pid),
        None => Ok(()),
    }
}
