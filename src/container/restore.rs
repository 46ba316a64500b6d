//! `restore`: a container that `checkpoint` saved comes back, as the bundle describes it and with the memory it had.
//!
//! ```text
//! prepare ─▶ state directory ─▶ cgroups ─▶ criu, in the cgroups ─▶ setup-namespaces: hooks, devices of the network
//!                                            │                  ─▶ post-restore: record the pid, restrict devices
//!                                            └─▶ the processes, as children of the runtime ─▶ they go on
//! ```
//!
//! CRIU makes the namespaces, mounts and processes; all else is the runtime's, as in a start. At `post-restore` nothing
//! of the container has run yet.

use super::criu::rpc::{self, Features, Notice, Switch, Task};
use super::criu::{self, Choices, Directories, Session};
use super::launch::{self, Undo};
use super::prepare::{self, Bundle, Prepared, Stdio};
use super::run::{self, Finished};
use super::state::{State, Status};
use super::store::{Entry, Lock};
use super::{checkpoint, hooks, netdev, notify, pid_file, stdio, wait};
use crate::cgroup::Layout;
use crate::error::{Doing, Error, Kind, Result};
use crate::init::{self, Exec, Slots, Step};
use crate::plan::builder::cpath;
use crate::plan::restore as plan;
use crate::plan::{HOST_ROOT, explain};
use crate::spec::makes_namespace;
use crate::sys::clone::Child;
use crate::sys::shared::{Report, Shared};
use crate::sys::{fs as sys_fs, mount, net, process, socket};
use oci_spec::runtime::{Hooks, LinuxNamespaceType, Spec};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

/// CRIU's log of a restore.
const LOG: &str = "restore.log";
/// The first CRIU that gives processes another LSM profile than they had.
const CHANGES_LSM: i64 = 31_600;

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Options {
    /// What `run` could be asked for as well.
    pub container: prepare::Options,
    /// What a dump could be asked for as well.
    pub choices: Choices,
    /// --lsm-profile
    pub lsm_profile: Option<String>,
    /// --lsm-mount-context
    pub lsm_mount_context: Option<String>,
}

/// Restores the container; in the foreground until it ends, and then removes it.
///
/// # Errors
/// One sentence; then nothing is left of it.
pub fn restore(options: &Options) -> Result<Finished> {
    let Restored { entry, state, child, prepared, terminal, lock: _lock } = bring_back(options)?;
    let mut finished = Finished { status: 0, warnings: prepared.warnings.clone(), timings: Vec::new() };
    if !options.container.foreground {
        return Ok(finished);
    }
    let waited = match &terminal {
        Some(terminal) => super::console::serve(child, terminal),
        None => wait::foreground(child, None).doing(|| "wait for the container"),
    };
    if waited.is_err() {
        run::end(child, &state);
    }
    let problems = run::remove(&entry, &state, &prepared.bundle.loaded.spec);
    match waited {
        Err(error) => {
            let pid_file = pid_file::remove(options.container.pid_file.as_deref(), child.pid);
            Err(problems.into_iter().chain(pid_file.err()).fold(error, Error::and))
        }
        Ok(exit) => {
            finished.status = exit.status();
            finished.warnings.extend(problems.iter().map(Error::to_string));
            Ok(finished)
        }
    }
}

/// A container that runs again.
pub(super) struct Restored {
    pub entry: Entry,
    pub state: State,
    /// Its init, a child of this process.
    pub child: Child,
    pub prepared: Arc<Prepared>,
    /// The terminal's master, if it is the caller's to serve.
    pub terminal: Option<OwnedFd>,
    /// In the foreground: nobody else removes the container while this process sees to it.
    lock: Option<Lock>,
}

/// Restores the container.
///
/// # Errors
/// One sentence; then nothing is left of it.
pub(super) fn bring_back(options: &Options) -> Result<Restored> {
    let container = &options.container;
    let prepared = Arc::new(prepare::prepare(container)?);
    require_criu(options)?;
    let stdio = criu::read_descriptors(&options.choices.images)?;
    let wants_terminal = criu::has_terminal(&prepared.bundle.loaded.spec);
    let served = container.foreground || container.stdio.is_some();
    let terminal = launch::terminal_socket(wants_terminal, container.console_socket.as_deref(), served)?;
    let (entry, lock) = container.store.reserve(&container.id)?;
    let mut work = Restore {
        options,
        prepared: Arc::clone(&prepared),
        stdio,
        // A master that is ours to serve comes to us anyway.
        console: terminal.given.filter(|_| !served),
        state: prepared.state.clone(),
        undo: Undo::new(entry.clone()),
        terminal: None,
        entry,
    };
    let child = match work.all() {
        Ok(child) => child,
        Err(error) => return Err(work.undo.everything().into_iter().fold(error, Error::and)),
    };
    let Restore { entry, state, terminal, .. } = work;
    let lock = if container.foreground {
        Some(lock)
    } else {
        lock.release();
        None
    };
    Ok(Restored { entry, state, child, prepared, terminal, lock })
}

/// Whether the CRIU that is installed can do what is asked.
fn require_criu(options: &Options) -> Result<()> {
    let version = criu::require_version()?;
    if options.choices.has(Switch::LazyPages) {
        criu::require_features(Features { lazy_pages: true, ..Features::default() })?;
    }
    let lsm = [("--lsm-profile", &options.lsm_profile), ("--lsm-mount-context", &options.lsm_mount_context)];
    match lsm.iter().find(|(_, value)| value.is_some()) {
        Some((flag, _)) if version < CHANGES_LSM => {
            Err(Error::new(Kind::System, format!("{flag} requires at least CRIU 3.16: install a newer one")))
        }
        _ => Ok(()),
    }
}

/// A restore on its way.
struct Restore<'a> {
    options: &'a Options,
    prepared: Arc<Prepared>,
    /// The names of the stdio that it had.
    stdio: Vec<String>,
    /// The socket for the terminal, if somebody else serves it.
    console: Option<OwnedFd>,
    entry: Entry,
    state: State,
    undo: Undo,
    /// The terminal's master, if nobody else serves it.
    terminal: Option<OwnedFd>,
}

impl Restore<'_> {
    fn all(&mut self) -> Result<Child> {
        let inherited =
            Inherited::open(&self.prepared.bundle.loaded.spec, &self.stdio, self.options.container.stdio.as_ref())?;
        let root = self.entry.path().join(HOST_ROOT);
        self.make(&root)?;
        if self.options.container.foreground {
            // What comes from now on is the container's. CRIU does not begin with signals blocked.
            process::set_signal_mask(u64::MAX).doing(|| "block signals")?;
        }
        let (mut session, directories) = self.start(&inherited)?;
        self.put_into_cgroups(session.pid())?;
        let response = self.exchange(&mut session, &directories, &inherited, &root)?;
        let ended_well = session.finish()?;
        // It was a place for CRIU alone.
        let _ = fs::remove_dir(&root);
        let child = self.undo.child.filter(|_| response.success && ended_well);
        child.ok_or_else(|| directories.failure(Task::Restore, &response))
    }

    /// Makes all that is there before any process is.
    fn make(&mut self, root: &Path) -> Result<()> {
        // What is recorded is removed by `delete`: not the cgroup of somebody else.
        self.prepared.cgroup.require_unused()?;
        self.entry.save(&self.state)?;
        self.undo.cgroup = Some(self.prepared.cgroup.create()?);
        if let Some(group) = &mut self.state.resctrl {
            group.create(&self.prepared.bundle.loaded.spec, &mut self.undo.resctrl)?;
            self.entry.save(&self.state)?;
        }
        notify::make_directory(&self.entry)?;
        DirBuilder::new().mode(0o700).create(root).doing(|| format!("make the directory {}", root.display()))
    }

    fn plan_input<'b>(&'b self, layout: &'b Layout, directories: &'b [(String, PathBuf)]) -> plan::Input<'b> {
        let Bundle { path, rootfs, loaded, .. } = &*self.prepared.bundle;
        plan::Input { spec: &loaded.spec, bundle: path, rootfs, layout, cgroup_directories: directories }
    }

    /// Starts CRIU with the container's root in its place.
    fn start(&self, inherited: &Inherited) -> Result<(Session, Directories)> {
        let layout = prepare::layout()?;
        let overlay = prepare::overlay(&self.options.container, &self.prepared.bundle);
        let places = plan::places(&self.plan_input(&layout, &[]), overlay.as_ref(), self.entry.path())?;
        let finish = plan::finish(self.entry.path())?;
        let root = cpath("root.path", &self.entry.path().join(HOST_ROOT))?;
        let numbers: Vec<i32> = inherited.numbers().collect();
        let start = || {
            let mut slots = Passing::default();
            run_here(&places, &mut slots)?;
            // With what was mounted below only to make places in it.
            mount::umount(&root, libc::MNT_DETACH).doing(|| "root.path: unmount what was mounted to make places")?;
            run_here(&finish, &mut slots)?;
            // CRIU mounts in these directories, which it can only if they are in its own mount namespace.
            let directories = Directories::open(&self.options.choices, LOG)?;
            let session = Session::start(|command| {
                process::before_exec(command, move || {
                    numbers.iter().try_for_each(|number| sys_fs::set_cloexec(*number, false))
                });
            });
            Ok((session?, directories))
        };
        // What the thread starts inherits its mount namespace.
        in_thread(start)
    }

    /// Puts CRIU where the container will be: what it makes is born there.
    fn put_into_cgroups(&mut self, criu: i32) -> Result<()> {
        if let Some(cgroup) = &mut self.undo.cgroup {
            if cgroup.awaits_init() {
                cgroup.admit(criu)?;
            } else {
                cgroup.handle().attach(criu)?;
            }
            self.state.cgroup = cgroup.handle().clone();
        }
        self.entry.save(&self.state)?;
        self.state.resctrl.as_ref().map_or(Ok(()), |group| group.join(criu))
    }

    fn exchange(
        &mut self,
        session: &mut Session,
        directories: &Directories,
        inherited: &Inherited,
        root: &Path,
    ) -> Result<rpc::Response> {
        let layout = prepare::layout()?;
        let cgroups = prepare::directories(&self.state.cgroup);
        let mut mounts: Vec<_> = plan::externals(&self.plan_input(&layout, &cgroups))?
            .into_iter()
            .map(|external| (external.destination, external.source))
            .collect();
        mounts.extend(notify::mount(&self.entry));
        let config = criu::config(|name| self.state.annotations.get(name));
        let spec = &self.prepared.bundle.loaded.spec;
        let message = {
            let mut request = directories.options(&self.options.choices, root, criu::has_terminal(spec));
            request.switches.extend([Switch::EvasiveDevices, Switch::RestoreAsSibling]);
            request.mounts = mounts;
            request.cgroups = cgroups_of(session.pid())?;
            request.inherited = inherited.0.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect();
            request.joined = namespaces_to_join(spec)?;
            request.config = config.as_deref();
            request.lsm_profile = self.options.lsm_profile.as_deref();
            request.lsm_mount_context = self.options.lsm_mount_context.as_deref();
            rpc::request(Task::Restore, Some(&request))
        };
        session.exchange(&message, Task::Restore, |notice, fd| self.follow(notice, fd))
    }

    /// Does its part of what happens.
    fn follow(&mut self, notice: &Notice, fd: Option<OwnedFd>) -> Result<()> {
        match notice.script.as_str() {
            "setup-namespaces" => self.set_up_namespaces(notice.pid),
            "post-restore" => self.record(notice.pid),
            "orphan-pts-master" => self.take_terminal(fd),
            _ => Ok(()),
        }
    }

    /// Does what init has the runtime do when its namespaces are there.
    fn set_up_namespaces(&mut self, pid: i32) -> Result<()> {
        let pidfd = process::pidfd_open(pid).doing(|| format!("open the restored process {pid}"))?;
        self.undo.child = Some(Child { pid, pidfd });
        self.undo.begun = Some(Arc::clone(&self.prepared));
        let spec = &self.prepared.bundle.loaded.spec;
        if makes_namespace(spec, LinuxNamespaceType::Network) {
            loopback_up(pid)?;
            let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
            if devices.is_some_and(|devices| !devices.is_empty()) {
                self.undo.devices = Some(netdev::move_all(spec, pid)?);
            }
        }
        let report = self.state.report(Status::Created, pid);
        hooks::run("prestart", launch::hooks(spec, Hooks::prestart), &report)?;
        hooks::run("createRuntime", launch::hooks(spec, Hooks::create_runtime), &report)
    }

    /// Records init, before it goes on.
    fn record(&mut self, pid: i32) -> Result<()> {
        let child = match self.undo.child {
            Some(child) => child,
            None => {
                let pidfd = process::pidfd_open(pid).doing(|| format!("open the restored process {pid}"))?;
                Child { pid, pidfd }
            }
        };
        self.undo.child = Some(child);
        let root = self.prepared.bundle.loaded.spec.root().as_ref();
        if root.and_then(|root| root.readonly()).unwrap_or(false) {
            make_root_read_only(pid)?;
        }
        self.state.own_time = has_another_time_namespace(pid);
        self.entry.save(&self.state)?;
        let Some(cgroup) = &self.undo.cgroup else { return Ok(()) };
        self.undo.pid_file = self.options.container.pid_file.clone().map(|path| (path, pid));
        launch::record(&self.options.container, &self.prepared, &self.entry, cgroup, child).map(drop)
    }

    /// Hands the terminal's master on.
    fn take_terminal(&mut self, fd: Option<OwnedFd>) -> Result<()> {
        match (fd, &self.console) {
            (Some(master), Some(socket)) => socket::send_fd(socket.as_raw_fd(), TERMINAL, master.as_raw_fd())
                .doing(|| "--console-socket: send the terminal"),
            (master, _) => {
                self.terminal = master;
                Ok(())
            }
        }
    }
}

/// Slots whose descriptors are closed with them: this process may stay, and restore others.
#[derive(Default)]
struct Passing(Slots);

impl Drop for Passing {
    fn drop(&mut self) {
        self.0.open().for_each(sys_fs::close);
    }
}

/// Does `steps` in this thread.
fn run_here(steps: &[Step], slots: &mut Passing) -> Result<()> {
    let report = Shared::<Report>::new().doing(|| "map memory for the start of criu")?;
    let nothing = Exec::none();
    init::run_here(steps, &mut slots.0, &nothing, &report)
        .map_err(|(index, errno)| explain::failure(steps, &nothing, index, errno))
}

/// What comes with the descriptor of a terminal's master.
const TERMINAL: &[u8] = b"/dev/ptmx";

/// What CRIU takes over from us, by the names that it was saved under: stdio that came from outside, and network and pid
/// namespaces that were there before the container.
struct Inherited(Vec<(String, OwnedFd)>);

impl Inherited {
    fn open(spec: &Spec, names: &[String], given: Option<&Stdio>) -> Result<Self> {
        let mut all = Vec::new();
        let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
        let stdio = match given {
            Some(given) => given.each_ref().map(AsFd::as_fd),
            None => [input.as_fd(), output.as_fd(), error.as_fd()],
        };
        for (name, fd) in names.iter().zip(stdio) {
            if stdio::is_replaced(name) {
                // A copy: CRIU closes what it has taken over, and may look at its own stdio after that.
                let copy = fd.try_clone_to_owned().doing(|| "duplicate standard input, output or error")?;
                all.push((name.clone(), copy));
            }
        }
        for (kind, path) in checkpoint::joined(spec) {
            if let Some((_, name)) = checkpoint::namespace_name(kind) {
                let file = File::open(path).doing(|| format!("linux.namespaces: open {}", path.display()))?;
                all.push((name.to_owned(), file.into()));
            }
        }
        Ok(Self(all))
    }

    fn numbers(&self) -> impl Iterator<Item = i32> {
        self.0.iter().map(|(_, fd)| fd.as_raw_fd())
    }
}

/// Kind and path of the other namespaces that are joined.
fn namespaces_to_join(spec: &Spec) -> Result<Vec<(&'static str, &Path)>> {
    let others = checkpoint::joined(spec).filter(|(kind, _)| checkpoint::namespace_name(*kind).is_none());
    let kind_of = |kind| match kind {
        LinuxNamespaceType::Mount => Ok("mnt"),
        LinuxNamespaceType::Uts => Ok("uts"),
        LinuxNamespaceType::Ipc => Ok("ipc"),
        LinuxNamespaceType::User => Ok("user"),
        LinuxNamespaceType::Time => Ok("time"),
        _ => {
            Err(Error::config("linux.namespaces", "CRIU does not join a cgroup namespace by path: leave the path out"))
        }
    };
    others.map(|(kind, path)| Ok((kind_of(kind)?, path))).collect()
}

/// The cgroups that a process is in, by controller and "" for v2.
fn cgroups_of(pid: i32) -> Result<Vec<(String, String)>> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).doing(|| format!("read {path}"))?;
    let mut cgroups = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (fields.next(), fields.next()) {
            cgroups.extend(controllers.split(',').map(|controller| (controller.to_owned(), path.to_owned())));
        }
    }
    Ok(cgroups)
}

/// Brings the loopback of the network namespace of `pid` up: it comes back empty.
fn loopback_up(pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/ns/net");
    let doing = || format!("bring the loopback device of {path} up");
    let namespace = File::open(&path).doing(doing)?;
    in_thread(|| {
        process::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET).and_then(|()| net::loopback_up()).doing(doing)
    })
}

/// Does what changes namespaces in a thread of its own: they are a thread's, but for those of mounts, root and working
/// directory, which it is to have for itself first (unshare(2)).
fn in_thread<T: Send>(action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let joined = thread::scope(|scope| scope.spawn(action).join());
    joined.unwrap_or_else(|_| Err(Error::new(Kind::System, "a thread of the restore ended before its time")))
}

/// Makes sure of `root.readonly`. CRIU before 4 forgets that the root was mounted read-only.
fn make_root_read_only(pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/ns/mnt");
    let doing = || format!("root.readonly: make the root of the restored process {pid} read-only");
    let namespace = File::open(&path).doing(doing)?;
    in_thread(|| {
        process::unshare(libc::CLONE_FS)
            .and_then(|()| process::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS))
            .doing(doing)?;
        run_here(&plan::read_only_root(), &mut Passing::default())
    })
}

/// Whether `pid` is in a time namespace that is not ours: CRIU makes one, so that no clock goes backwards.
fn has_another_time_namespace(pid: i32) -> bool {
    let namespace =
        |process: &str| fs::metadata(format!("/proc/{process}/ns/time")).ok().map(|file| (file.dev(), file.ino()));
    namespace("self") != namespace(&pid.to_string())
}
