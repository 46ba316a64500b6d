//! Runs the steps.

use super::attributes::{self, Setter};
use super::op::{Create, Exec, Gate, Op, Source, Step};
use super::slots::{Slot, Slots};
use super::{console, mounts, program, rights, target};
use crate::sys::fs::{self, Sys};
use crate::sys::shared::Report;
use crate::sys::{clone, cpus, mount, process, socket};
use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

/// The exit status of a child that could not execute its program; nobody but the runtime sees it.
const FAILED: i32 = 1;

/// What the runtime writes once it has recorded the pid. It may come while init waits for something else.
pub const RECORDED: u8 = 1;
/// What init writes once it waits for `start`.
pub const READY: u8 = b'r';
/// What init writes to `start`, before the errno and a sentence, when a step failed.
pub const FAILURE: u8 = b'e';

/// All that the child needs.
#[derive(Debug)]
pub struct Init<'a> {
    /// What to do.
    pub steps: &'a [Step],
    /// What to execute in the end.
    pub exec: &'a Exec,
    /// Descriptors that the runtime opened before the clone.
    pub slots: Slots,
    /// What it keeps of a runtime that serves other containers too.
    pub inherited: Option<Inherited<'a>>,
    /// The child's end of the pair that connects it with the runtime.
    pub sync: RawFd,
    /// The runtime's end, which the child must not keep.
    pub sync_of_parent: RawFd,
    /// Where the child says how far it is.
    pub report: &'a Report,
    /// Whether to note when each step ended.
    pub timings: bool,
    /// The signal mask of the program.
    pub signal_mask: u64,
    /// How it is scheduled in the end, if that is not as its parent is.
    pub scheduling: Option<process::SchedAttr>,
    /// The name of its session keyring, if its steps do not say.
    pub keyring: Option<&'a CStr>,
    /// Where a sandbox that stays in its maker's memory has room for its request.
    pub room: Option<&'a clone::Room>,
    /// For each step and, last, for exec: what `start` says when it fails. Only with [`Op::AwaitStart`].
    pub failures: &'a [String],
}

/// The only descriptors that a child keeps of its parent's.
#[derive(Debug, Clone, Copy)]
pub struct Inherited<'a> {
    /// What become its stdin, stdout and stderr; numbers from 3 up.
    pub stdio: [RawFd; 3],
    /// What it keeps as it is, from 3 up, sorted.
    pub kept: &'a [RawFd],
}

impl Inherited<'_> {
    /// Takes its own, closes what is not: the other end of another container's pipe would stay open otherwise, and who
    /// waits for the end of that file would wait for this child.
    fn take(&self) -> Sys {
        for (number, fd) in self.stdio.iter().enumerate() {
            fs::dup_onto(*fd, number as RawFd)?;
        }
        let mut first = 3;
        for kept in self.kept.iter().map(|fd| fd.unsigned_abs()) {
            if kept > first {
                fs::close_range(first, kept - 1)?;
            }
            first = first.max(kept + 1);
        }
        fs::close_range(first, u32::MAX)
    }
}

/// The state while steps run.
struct Executor<'a> {
    slots: Slots,
    exec: &'a Exec,
    report: &'a Report,
    /// The runtime, or `start` once that has connected.
    sync: RawFd,
    /// Whether `start` has connected.
    started: bool,
    /// The candidate to execute.
    candidate: usize,
    /// The signal mask of the program, and of hooks.
    signal_mask: u64,
    /// The stand-ins for masked paths.
    masks: mounts::Masks,
    /// What gives mounts their attributes.
    setter: Setter,
    /// By how many nanoseconds this process's monotonic clock is ahead of the runtime's, modulo 2^64.
    clock_ahead: u64,
    /// Whether the working directory has been entered.
    in_cwd: bool,
    /// The name of the session keyring, if the step does not say.
    keyring: Option<&'a CStr>,
    /// How it is scheduled in the end.
    scheduling: Option<process::SchedAttr>,
}

/// Executes the steps, then the program. Never returns.
pub fn run(init: &Init<'_>) -> ! {
    let mut executor = Executor::new(init.slots, init.exec, init.report, init.sync, init.signal_mask);
    (executor.keyring, executor.scheduling) = (init.keyring, init.scheduling);
    match &init.inherited {
        Some(inherited) => {
            if let Err(errno) = inherited.take() {
                executor.fail(init, 0, errno);
            }
        }
        None => fs::close(init.sync_of_parent),
    }
    fs::umask(0);
    for (index, step) in init.steps.iter().enumerate() {
        init.report.step.store(index as u32 + 1, Ordering::Relaxed);
        if let Op::Park { lease } = step.op {
            let rest = init.steps.get(index + 1..).unwrap_or_default();
            let errno = super::park::park(executor.at(lease), rest, init.exec, executor.candidate, init.room);
            executor.fail(init, index, errno);
        }
        if let Err(errno) = executor.execute(&step.op) {
            executor.fail(init, index, errno);
        }
        if init.timings {
            init.report.set_time(index, process::now().wrapping_sub(executor.clock_ahead));
        }
    }
    init.report.step.store(init.steps.len() as u32 + 1, Ordering::Relaxed);
    let errno = executor.exec_program();
    executor.say_why(errno);
    executor.fail(init, init.steps.len(), errno);
}

/// Executes steps in the calling process: those that the runtime does before the clone, and those of the stage
/// between runtime and init. What the steps open is left in `slots`.
///
/// # Errors
/// The index of the step that failed, and why.
pub fn run_here(steps: &[Step], slots: &mut Slots, exec: &Exec, report: &Report) -> Result<(), (usize, Errno)> {
    let mut executor = Executor::new(*slots, exec, report, -1, 0);
    let result = steps
        .iter()
        .enumerate()
        .try_for_each(|(index, step)| executor.execute(&step.op).map_err(|errno| (index, errno)));
    *slots = executor.slots;
    result
}

impl<'a> Executor<'a> {
    fn new(slots: Slots, exec: &'a Exec, report: &'a Report, sync: RawFd, signal_mask: u64) -> Self {
        Self {
            slots,
            exec,
            report,
            sync,
            started: false,
            candidate: 0,
            signal_mask,
            masks: mounts::Masks::default(),
            setter: Setter::new(),
            clock_ahead: 0,
            in_cwd: false,
            keyring: None,
            scheduling: None,
        }
    }

    /// Tells why it ended, and ends.
    fn fail(&self, init: &Init<'_>, index: usize, errno: Errno) -> ! {
        self.report.errno.store(errno as u32, Ordering::Release);
        if self.started {
            // It is `start` that listens now, and it has no Plan to look into.
            let text = init.failures.get(index).map_or("", String::as_str);
            let _ = fs::write(self.sync, &[FAILURE]);
            let _ = fs::write(self.sync, &(errno as u32).to_ne_bytes());
            let _ = fs::write(self.sync, text.as_bytes());
            for byte in self.report.words() {
                let _ = fs::write(self.sync, &[byte]);
            }
        }
        process::exit(FAILED)
    }

    /// Writes to the program's standard error, its user's place to look, why it could not be executed.
    fn say_why(&self, errno: Errno) {
        let Some(name) = self.exec.args.get(0).map(CStr::to_bytes) else { return };
        let reason = errno.desc();
        let (first, rest) = reason.split_at_checked(1).unwrap_or(("", reason));
        let first = first.bytes().next().unwrap_or(b' ').to_ascii_lowercase();
        for part in [b"exec ", name, b": ", &[first], rest.as_bytes(), b"\n"] {
            let _ = fs::write(libc::STDERR_FILENO, part);
        }
    }

    fn exec_program(&self) -> Errno {
        let Some(path) = self.exec.candidates.get(self.candidate) else { return Errno::ENOENT };
        if let Err(errno) = process::set_signal_mask(self.signal_mask) {
            return errno;
        }
        process::execve(path, &self.exec.args, &self.exec.env.strings)
    }

    /// One arm an operation.
    fn execute(&mut self, op: &Op) -> Sys {
        match op {
            Op::JoinCgroup { tasks, required: false } if self.at(*tasks) < 0 => Ok(()),
            Op::JoinCgroup { tasks, .. } => join_cgroup(self.at(*tasks)),
            Op::EnterNamespace { ns, kinds } => process::setns(self.at(*ns), *kinds),
            Op::NewNamespaces { kinds } => process::unshare(*kinds),
            Op::EnterOwnTime { proc } => self.enter_own_time(*proc),
            Op::NewNetwork { helper } => super::network::enter(self.report, self.at(*helper)),
            Op::LoopbackUp => crate::sys::net::loopback_up(),
            Op::Meet(gate) => self.meet(*gate),
            Op::RunHook(hook) => self.run_hook(hook),
            Op::AwaitRecord => self.await_record(),
            Op::AwaitStart { listener } => self.await_start(*listener),
            // What comes after it is not in memory any more: see [`run`].
            Op::Park { .. } => Err(Errno::ENOTSUP),
            Op::WriteFile { dir, path, data } => write_file(self.at(*dir), path, data),
            Op::Dumpable(on) => process::prctl(libc::PR_SET_DUMPABLE, [usize::from(*on), 0, 0, 0]).map(drop),
            Op::RequireProcfs { mount } => mounts::require_procfs(self.at(*mount)),
            Op::BecomeRoot => process::setgid(0).and_then(|()| process::setuid(0)),
            Op::RootPropagation { propagation } => mounts::propagate_root(*propagation),
            Op::ParentPrivate { path } => mounts::make_mount_private(&mut self.setter, path),
            Op::RootNamespace { path, into } => self.put(*into, mounts::root_namespace(path)),
            Op::CloneTree { source, recursive, into } => {
                let (dir, path) = match source {
                    Source::Path(path) => (fs::CWD, path.as_c_str()),
                    Source::Slot(slot) => (self.at(*slot), c""),
                };
                self.put(*into, mount::open_tree_clone(dir, path, mounts::below(*recursive)))
            }
            Op::NewFilesystem { kind, options, attributes, into } => {
                self.put(*into, mounts::new_filesystem(kind, options, None, *attributes))
            }
            Op::OwnProcfs { into } => self.put(*into, mounts::own_procfs()),
            Op::NewFilesystemAt { kind, source, data, flags, attributes, place, into } => {
                let flags = *flags | attributes::flags_of_new(*attributes);
                self.put(*into, mounts::new_filesystem_at(place, source, kind, flags, data))
            }
            Op::TmpfsLike { root, path, options, attributes, into } => {
                self.put(*into, mounts::tmpfs_like(self.at(*root), path, options, *attributes))
            }
            Op::Reconfigure { mount, options } => mounts::reconfigure(self.at(*mount), options),
            Op::SetAttributes { mount, attributes, recursive } => {
                self.setter.set(self.slots.get(*mount), *recursive, attributes)
            }
            Op::SetBindAttributes { mount, attributes, implied } => {
                self.setter.set_of_bind(self.slots.get(*mount), attributes, *implied)
            }
            Op::SetLockedAttributes { mount, attributes } => self.setter.set_locked(self.slots.get(*mount), attributes),
            Op::SetLabel { mount, label } => mounts::set_label(self.at(*mount), label),
            Op::SetIdMap { mount, userns, recursive } => mounts::map_ids(self.at(*mount), self.at(*userns), *recursive),
            Op::AskForIdMap { mount, userns, recursive } => {
                let flags = mounts::below(*recursive).cast_signed();
                self.ask(Gate::IdMap, &[self.at(*mount), self.at(*userns), flags])
            }
            Op::Target { root, path, create, rule, into } => {
                let create = match create {
                    Create::Like(mount) => mounts::kind_of(self.at(*mount))?,
                    create => *create,
                };
                self.put(*into, target::open_target(self.at(*root), path, create, *rule))
            }
            Op::Attach { mount, target } => self.setter.attach(self.slots.get(*mount), self.slots.get(*target)),
            Op::OpenHost { path, flags, into } => self.put(*into, fs::open(fs::CWD, path, *flags, 0)),
            Op::OpenInRoot { root, path, flags, into } => {
                self.put(*into, target::open_in_root(self.at(*root), path, *flags))
            }
            Op::MakeDirectory { dir, path, mode } => mounts::unless_there(fs::mkdir(self.at(*dir), path, *mode)),
            Op::CopyUp { from, to } => super::copy::copy_up(self.at(*from), self.at(*to)),
            Op::MakeDevice { root, device, host } => mounts::make_device(self.at(*root), device, host),
            Op::BindDevice { root, device, host } => mounts::bind_device(self.at(*root), device, host),
            Op::MakeLink { root, path, target } => mounts::make_link(self.at(*root), path, target),
            Op::Console { root, socket, terminal } => console::set_up(self.at(*root), self.at(*socket), terminal),
            Op::Mask { root, path, null, empty } => {
                let (root, null, empty) = (self.slots.get(*root), self.slots.get(*null), self.slots.get(*empty));
                self.masks.cover(&mut self.setter, root, path, null, empty)
            }
            Op::ReadOnly { root, path } => mounts::make_read_only(&mut self.setter, self.slots.get(*root), path),
            Op::PivotRoot { root, shared } => mounts::pivot_root(&mut self.setter, self.slots.get(*root), *shared),
            Op::Hide { path } => mounts::hide(path),
            Op::MoveRoot { root } => mounts::move_root(self.at(*root)),
            Op::ChangeRoot { root } => mounts::change_root(self.at(*root)),
            Op::Close { slot } => {
                self.slots.replace(*slot, -1);
                Ok(())
            }
            Op::Hostname { name } => process::sethostname(name.to_bytes()),
            Op::Domainname { name } => process::setdomainname(name.to_bytes()),
            Op::NewSession => process::setsid(),
            Op::ControllingTerminal => fs::set_controlling_terminal(0),
            Op::SessionKeyring { name } => match name.as_deref().or(self.keyring) {
                Some(name) => rights::join_keyring(name),
                None => Err(Errno::EINVAL),
            },
            Op::ResourceLimit { resource, soft, hard } => process::setrlimit(*resource, *soft, *hard),
            Op::Personality { domain } => process::personality(*domain),
            Op::Scheduler { attributes } => process::sched_setattr(attributes),
            Op::OwnScheduling => self.scheduling.map_or(Ok(()), |own| process::sched_setattr(&own)),
            Op::IoPriority { value } => process::ioprio_set(*value),
            Op::Affinity { mask } => cpus::bind(0, mask),
            Op::MemoryPolicy { mode, nodes } => process::set_mempolicy(*mode, nodes),
            Op::Umask { mask } => {
                fs::umask(*mask);
                Ok(())
            }
            Op::SetHome { uid } => program::set_home(&self.exec.env, *uid),
            Op::ChangeDirectory { path, required } => {
                // Where root could enter, the user stays even if he could not.
                self.in_cwd = self.in_cwd || rights::change_directory(path, *required)?;
                Ok(())
            }
            Op::FindProgram => {
                self.candidate = program::find(self.exec)?;
                Ok(())
            }
            Op::NoNewPrivileges => process::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).map(drop),
            Op::DropBounding { drop } => rights::drop_bounding(*drop),
            Op::OwnNull { root } => rights::own_null(root.map(|root| self.at(root))),
            Op::OwnStdio { uid } => {
                rights::own_stdio(0..3, *uid);
                Ok(())
            }
            Op::BecomeUser { uid, gid, groups, keep_caps } => {
                rights::become_user(*uid, *gid, groups.as_deref(), *keep_caps)
            }
            Op::Capabilities { effective, permitted, inheritable } => {
                process::capset(*effective, *permitted, *inheritable)
            }
            Op::Ambient { raise } => rights::raise_ambient(*raise),
            Op::Seccomp { program, flags, listener } => self.load_filter(program, *flags, *listener),
            Op::CloseBut { first, listener } => {
                rights::close_but(*first, self.sync, listener.map_or(self.sync, |listener| self.at(listener)))
            }
            Op::HoldNull { lease } => {
                rights::hold_null(self.at(*lease));
                Ok(())
            }
            Op::SendPidfd { socket } => rights::send_pidfd(self.at(*socket)),
        }
    }

    /// What `slot` holds.
    fn at(&self, slot: Slot) -> RawFd {
        self.slots.get(slot)
    }

    /// Puts a descriptor that was just opened into a slot.
    fn put(&mut self, slot: Slot, opened: Sys<RawFd>) -> Sys {
        self.slots.replace(slot, opened?);
        Ok(())
    }

    /// The clock jumps meanwhile; what is noted as time goes on as before.
    fn enter_own_time(&mut self, proc: Slot) -> Sys {
        let namespace = fs::open(self.slots.get(proc), c"self/ns/time_for_children", libc::O_RDONLY, 0)?;
        let before = process::now();
        let entered = process::setns(namespace, clone::CLONE_NEWTIME);
        self.clock_ahead = process::now().wrapping_sub(before);
        fs::close(namespace);
        entered
    }

    fn load_filter(&self, program: &[libc::sock_filter], flags: u32, listener: bool) -> Sys {
        let fd = process::load_seccomp(program, flags)?;
        if listener {
            self.report.detail.store(fd as u32, Ordering::Release);
        }
        Ok(())
    }

    /// ECHILD stands for the words in the report.
    fn run_hook(&self, hook: &super::Hook) -> Sys {
        let caller = super::Caller {
            pid: process::getpid(),
            environment: &self.exec.env,
            signal_mask: self.signal_mask,
            slots: &self.slots,
            report: self.report,
        };
        let mut words = super::Words::default();
        if super::hook::run(hook, &caller, &mut words) {
            return Ok(());
        }
        self.report.say(words.bytes());
        Err(Errno::ECHILD)
    }

    /// Sends the gate's byte and waits for the answer. ECANCELED when the runtime says no or is gone.
    fn meet(&self, gate: Gate) -> Sys {
        match gate {
            Gate::Listener => self.ask(gate, &[self.report.detail.load(Ordering::Acquire) as i32]),
            _ => self.ask(gate, &[]),
        }
    }

    /// As [`Executor::meet`], with numbers that the runtime has to know.
    fn ask(&self, gate: Gate, numbers: &[i32]) -> Sys {
        fs::write(self.sync, &[gate.byte()])?;
        for number in numbers {
            fs::write(self.sync, &number.to_ne_bytes())?;
        }
        let mut answer = [RECORDED];
        while answer == [RECORDED] {
            if fs::read(self.sync, &mut answer)? != 1 {
                return Err(Errno::ECANCELED);
            }
        }
        if answer == [gate.byte()] { Ok(()) } else { Err(Errno::ECANCELED) }
    }

    /// The parent sets the flag and writes a byte; the byte is read only if the flag came too late. A parent that died
    /// before leaves the end of the file. Then signals are taken as they come by default: what the runtime ignores (SIGPIPE, SIGXFSZ), and
    /// what its caller has it ignore, survives exec, and a shell cannot take it back.
    fn await_record(&self) -> Sys {
        if self.report.recorded.load(Ordering::Acquire) == 0 {
            let mut answer = [0u8; 1];
            if fs::read(self.sync, &mut answer)? != 1 {
                return Err(Errno::ECANCELED);
            }
        }
        process::default_signals(self.report.ignored.load(Ordering::Acquire));
        Ok(())
    }

    /// Waits for `start`, who is the one to tell from then on.
    fn await_start(&mut self, listener: Slot) -> Sys {
        let listener = self.at(listener);
        // By which the container is created: whoever hears so from `create` may connect at once.
        socket::listen(listener)?;
        fs::write(self.sync, &[READY])?;
        self.sync = super::start::await_start(listener)?;
        self.started = true;
        fs::close(listener);
        fs::write(self.sync, &[super::start::GOING])
    }
}

/// Moves this process into the v1 cgroup of an open `tasks` file, and closes that.
fn join_cgroup(tasks: RawFd) -> Sys {
    fs::write(tasks, b"0")?;
    fs::close(tasks);
    Ok(())
}

fn write_file(dir: RawFd, path: &CStr, data: &[u8]) -> Sys {
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_XDEV;
    let file = fs::open_resolved(dir, path, libc::O_WRONLY, 0, resolve)?;
    let result = fs::write(file, data);
    fs::close(file);
    result
}
