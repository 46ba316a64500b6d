//! Runs the steps.

use super::op::{Environment, Exec, Gate, Op, Slot, Source, Step};
use super::{console, program, target};
use crate::sys::fs::{self, Sys};
use crate::sys::mount::{self, Attributes};
use crate::sys::shared::Report;
use crate::sys::{clone, process, socket};
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

/// Descriptors by number. A slot that holds nothing reads as -1, which every system call answers with EBADF.
#[derive(Debug, Clone, Copy)]
pub struct Slots([RawFd; Self::COUNT]);

impl Slots {
    /// How many there are.
    pub const COUNT: usize = 250;

    /// What `slot` holds.
    pub fn get(&self, slot: Slot) -> RawFd {
        self.0.get(usize::from(slot.0)).copied().unwrap_or(-1)
    }

    /// Puts a descriptor into `slot`.
    pub fn set(&mut self, slot: Slot, fd: RawFd) {
        if let Some(place) = self.0.get_mut(usize::from(slot.0)) {
            *place = fd;
        }
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self([-1; Self::COUNT])
    }
}

/// All that the child needs.
#[derive(Debug)]
pub struct Init<'a> {
    /// What to do.
    pub steps: &'a [Step],
    /// What to execute in the end.
    pub exec: &'a Exec,
    /// Descriptors that the runtime opened before the clone.
    pub slots: Slots,
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
    /// For each step and, last, for exec: what `start` says when it fails. Only with [`Op::AwaitStart`].
    pub failures: &'a [String],
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
    /// Which stand-ins for masked paths are attached, for files and for directories.
    masks_attached: [bool; 2],
    /// By how many nanoseconds this process's monotonic clock is ahead of the runtime's, modulo 2^64.
    clock_ahead: u64,
    /// Whether the working directory has been entered.
    in_cwd: bool,
}

/// Executes the steps, then the program. Never returns.
pub fn run(init: &Init<'_>) -> ! {
    let mut executor = Executor::new(init.slots, init.exec, init.report, init.sync, init.signal_mask);
    fs::close(init.sync_of_parent);
    fs::umask(0);
    // Rust's runtime ignores SIGPIPE, and ignored signals survive exec.
    process::default_signal(libc::SIGPIPE);
    for (index, step) in init.steps.iter().enumerate() {
        init.report.step.store(index as u32 + 1, Ordering::Relaxed);
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
            masks_attached: [false; 2],
            clock_ahead: 0,
            in_cwd: false,
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

    #[allow(clippy::too_many_lines)] // one arm an operation
    fn execute(&mut self, op: &Op) -> Sys {
        match op {
            Op::JoinCgroup { tasks } => {
                let fd = self.slots.get(*tasks);
                fs::write(fd, b"0")?;
                fs::close(fd);
                Ok(())
            }
            Op::EnterNamespace { ns, kinds } => process::setns(self.slots.get(*ns), *kinds),
            Op::NewNamespaces { kinds } => process::unshare(*kinds),
            Op::EnterOwnTime { proc } => self.enter_own_time(*proc),
            Op::NewNetwork { helper } => super::network::enter(self.report, self.slots.get(*helper)),
            Op::LoopbackUp => crate::sys::net::loopback_up(),
            Op::Meet(gate) => self.meet(*gate),
            Op::RunHook(hook) => self.run_hook(hook),
            Op::AwaitRecord => self.await_record(),
            Op::AwaitStart { listener } => {
                let listener = self.slots.get(*listener);
                fs::write(self.sync, &[READY])?;
                self.sync = super::start::await_start(listener)?;
                self.started = true;
                fs::close(listener);
                Ok(())
            }
            Op::WriteFile { dir, path, data } => self.write_file(*dir, path, data),
            Op::Dumpable(on) => process::prctl(libc::PR_SET_DUMPABLE, [usize::from(*on), 0, 0, 0]).map(drop),
            Op::RequireProcfs { mount } => match fs::file_system(self.slots.get(*mount))? {
                target::PROC_SUPER_MAGIC => Ok(()),
                _ => Err(Errno::EPERM),
            },
            Op::BecomeRoot => {
                process::setgid(0)?;
                process::setuid(0)
            }
            Op::RootPropagation { propagation } => {
                let attributes = Attributes { propagation: *propagation, ..Attributes::default() };
                mount::set_attributes(fs::CWD, c"/", libc::AT_RECURSIVE as u32, &attributes)
            }
            Op::ParentPrivate { path } => make_mount_private(path),
            Op::CloneTree { source, recursive, into } => {
                let flags = if *recursive { libc::AT_RECURSIVE as u32 } else { 0 };
                let tree = match source {
                    Source::Path(path) => mount::open_tree_clone(fs::CWD, path, flags)?,
                    Source::Slot(slot) => mount::open_tree_clone(self.slots.get(*slot), c"", flags)?,
                };
                self.put(*into, tree);
                Ok(())
            }
            Op::NewFilesystem { kind, options, attributes, into } => {
                let mounted = new_filesystem(kind, options, None, *attributes)?;
                self.put(*into, mounted);
                Ok(())
            }
            Op::TmpfsLike { root, path, options, attributes, into } => {
                let mode = mode_of(self.slots.get(*root), path)?;
                let mode = mode.as_ref().and_then(|digits| CStr::from_bytes_with_nul(digits).ok());
                let mounted = new_filesystem(c"tmpfs", options, mode, *attributes)?;
                self.put(*into, mounted);
                Ok(())
            }
            Op::SetAttributes { mount, attributes, recursive } => {
                let flags = if *recursive { libc::AT_RECURSIVE as u32 } else { 0 };
                mount::set_attributes(self.slots.get(*mount), c"", flags, attributes)
            }
            Op::SetIdMap { mount, userns, recursive } => {
                let flags = if *recursive { libc::AT_RECURSIVE as u32 } else { 0 };
                let userns_fd = self.slots.get(*userns) as u64;
                let attributes = Attributes { set: libc::MOUNT_ATTR_IDMAP, userns_fd, ..Attributes::default() };
                mount::set_attributes(self.slots.get(*mount), c"", flags, &attributes)
            }
            Op::AskForIdMap { mount, userns, recursive } => {
                let flags = if *recursive { libc::AT_RECURSIVE } else { 0 };
                let numbers = [self.slots.get(*mount), self.slots.get(*userns), flags];
                self.ask(Gate::IdMap, &numbers)
            }
            Op::Target { root, path, create, rule, into } => {
                let create = self.kind_to_create(*create)?;
                let place = target::open_target(self.slots.get(*root), path, create, *rule)?;
                self.put(*into, place);
                Ok(())
            }
            Op::Attach { mount, target } => mount::attach(self.slots.get(*mount), self.slots.get(*target)),
            Op::OpenHost { path, flags, into } => {
                let fd = fs::open(fs::CWD, path, *flags, 0)?;
                self.put(*into, fd);
                Ok(())
            }
            Op::OpenInRoot { root, path, flags, into } => {
                let fd = target::open_in_root(self.slots.get(*root), path, *flags)?;
                self.put(*into, fd);
                Ok(())
            }
            Op::MakeDirectory { dir, path, mode } => match fs::mkdir(self.slots.get(*dir), path, *mode) {
                Err(Errno::EEXIST) => Ok(()),
                result => result,
            },
            Op::CopyUp { from, to } => super::copy::copy_up(self.slots.get(*from), self.slots.get(*to)),
            Op::MakeDevice { root, device } => target::in_parent(self.slots.get(*root), &device.path, |dir, name| {
                match fs::mknod(dir, name, device.mode, device.dev) {
                    Err(Errno::EEXIST) => Ok(()),
                    Ok(()) if device.uid != 0 || device.gid != 0 => fs::chown(dir, name, device.uid, device.gid),
                    result => result,
                }
            }),
            Op::BindDevice { root, device, host } => {
                let tree = mount::open_tree_clone(fs::CWD, host, 0)?;
                let place = target::open_target(
                    self.slots.get(*root),
                    &device.path,
                    super::Create::File,
                    super::Rule::OffProc,
                )?;
                let result = mount::attach(tree, place);
                fs::close(tree);
                fs::close(place);
                result
            }
            Op::MakeLink { root, path, target } => {
                target::in_parent(self.slots.get(*root), path, |dir, name| match fs::symlink(target, dir, name) {
                    Err(Errno::EEXIST) => Ok(()),
                    result => result,
                })
            }
            Op::Console { root, socket, size, owner, bind_console, keep_line_ends } => {
                let socket = self.slots.get(*socket);
                let terminal = console::Terminal {
                    size: *size,
                    owner: *owner,
                    bind_console: *bind_console,
                    keep_line_ends: *keep_line_ends,
                };
                console::set_up(self.slots.get(*root), socket, &terminal)?;
                fs::close(socket);
                Ok(())
            }
            Op::Mask { root, path, null, empty } => self.mask(*root, path, *null, *empty),
            Op::ReadOnly { root, path } => self.make_read_only(*root, path),
            Op::PivotRoot { root, shared } => pivot_root(self.slots.get(*root), *shared),
            Op::Hide { path } => match mount::umount(path, libc::MNT_DETACH) {
                Err(Errno::EINVAL | Errno::EPERM) => mount::mount_tmpfs(path, libc::MS_RDONLY),
                result => result,
            },
            Op::MoveRoot { root } => {
                fs::fchdir(self.slots.get(*root))?;
                mount::mount(c".", c"/", libc::MS_MOVE)?;
                fs::chroot(c".")?;
                fs::chdir(c"/")
            }
            Op::ChangeRoot { root } => {
                fs::fchdir(self.slots.get(*root))?;
                fs::chroot(c".")?;
                fs::chdir(c"/")
            }
            Op::Close { slot } => {
                fs::close(self.slots.get(*slot));
                self.slots.set(*slot, -1);
                Ok(())
            }
            Op::Hostname { name } => process::sethostname(name.to_bytes()),
            Op::Domainname { name } => process::setdomainname(name.to_bytes()),
            Op::NewSession => process::setsid(),
            Op::ControllingTerminal => fs::set_controlling_terminal(0),
            Op::SessionKeyring { name } => join_keyring(name),
            Op::ResourceLimit { resource, soft, hard } => process::setrlimit(*resource, *soft, *hard),
            Op::Personality { domain } => process::personality(*domain),
            Op::Scheduler { attributes } => process::sched_setattr(attributes),
            Op::IoPriority { value } => process::ioprio_set(*value),
            Op::Affinity { mask } => process::sched_setaffinity(mask),
            Op::MemoryPolicy { mode, nodes } => process::set_mempolicy(*mode, nodes),
            Op::Umask { mask } => {
                fs::umask(*mask);
                Ok(())
            }
            Op::SetHome { uid } => program::set_home(&self.exec.env, *uid),
            Op::ChangeDirectory { path, required } => {
                // Where root could enter, the user stays even if he could not.
                self.in_cwd = self.in_cwd || change_directory(path, *required)?;
                Ok(())
            }
            Op::FindProgram => {
                self.candidate = program::find(self.exec)?;
                Ok(())
            }
            Op::NoNewPrivileges => process::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).map(drop),
            Op::DropBounding { drop } => drop_bounding(*drop),
            Op::BecomeUser { uid, gid, groups, keep_caps } => become_user(*uid, *gid, groups.as_deref(), *keep_caps),
            Op::Capabilities { effective, permitted, inheritable } => {
                process::capset(*effective, *permitted, *inheritable)
            }
            Op::Ambient { raise } => raise_ambient(*raise),
            Op::Seccomp { program, flags, listener } => {
                let fd = process::load_seccomp(program, *flags)?;
                if *listener {
                    self.report.detail.store(fd as u32, Ordering::Release);
                }
                Ok(())
            }
            Op::CloseOnExec { first } => fs::cloexec_from(*first),
            Op::CloseBut { first, listener } => close_but(*first, self.sync, self.slots.get(*listener)),
            Op::SendPidfd { socket } => {
                let socket = self.slots.get(*socket);
                let pidfd = process::pidfd_open(process::getpid())?;
                socket::send_fd(socket, b"pidfd", pidfd)?;
                fs::close(pidfd);
                fs::close(socket);
                Ok(())
            }
        }
    }

    /// Puts a descriptor into a slot. What the slot held is closed: one step's leftovers are no other step's business.
    fn put(&mut self, slot: Slot, fd: RawFd) {
        let old = self.slots.get(slot);
        if old >= 0 {
            fs::close(old);
        }
        self.slots.set(slot, fd);
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

    fn kind_to_create(&self, create: super::Create) -> Sys<super::Create> {
        let super::Create::Like(mount) = create else { return Ok(create) };
        let is_directory = fs::stat(self.slots.get(mount))?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        Ok(if is_directory { super::Create::Directory } else { super::Create::File })
    }

    /// ECHILD stands for the words in the report.
    fn run_hook(&self, hook: &super::Hook) -> Sys {
        let caller = super::Caller {
            pid: self.report.recorded.load(Ordering::Acquire) as i32,
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
    /// before leaves the end of the file.
    fn await_record(&self) -> Sys {
        if self.report.recorded.load(Ordering::Acquire) != 0 {
            return Ok(());
        }
        let mut answer = [0u8; 1];
        match fs::read(self.sync, &mut answer)? {
            1 => Ok(()),
            _ => Err(Errno::ECANCELED),
        }
    }

    fn write_file(&self, dir: Slot, path: &CStr, data: &[u8]) -> Sys {
        let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_XDEV;
        let file = fs::open_resolved(self.slots.get(dir), path, libc::O_WRONLY, 0, resolve)?;
        let result = fs::write(file, data);
        fs::close(file);
        result
    }

    /// The first file and the first directory get the stand-ins themselves, all others copies of these: a mount that is
    /// attached nowhere can be copied only since Linux 6.15.
    fn mask(&mut self, root: Slot, path: &CStr, null: Slot, empty: Slot) -> Sys {
        let Some(place) = existing(self.slots.get(root), path)? else { return Ok(()) };
        let is_directory = fs::stat(place)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let stand_in = self.slots.get(if is_directory { empty } else { null });
        let [files, directories] = &mut self.masks_attached;
        let attached = std::mem::replace(if is_directory { directories } else { files }, true);
        let result = if attached {
            let tree = mount::open_tree_clone(stand_in, c"", 0)?;
            let result = mount::attach(tree, place);
            fs::close(tree);
            result
        } else {
            mount::attach(stand_in, place)
        };
        fs::close(place);
        result
    }

    fn make_read_only(&self, root: Slot, path: &CStr) -> Sys {
        let Some(place) = existing(self.slots.get(root), path)? else { return Ok(()) };
        let recursive = libc::AT_RECURSIVE as u32;
        let tree = mount::open_tree_clone(place, c"", recursive)?;
        let attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
        let result = mount::set_attributes(tree, c"", recursive, &attributes).and_then(|()| mount::attach(tree, place));
        fs::close(tree);
        fs::close(place);
        result
    }
}

/// Opens what exists inside the root; `None` when it does not.
fn existing(root: RawFd, path: &CStr) -> Sys<Option<RawFd>> {
    match target::open_in_root(root, path, libc::O_PATH) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The mode of what is at `path`, in the digits that a tmpfs takes; `None` when there is nothing.
fn mode_of(root: RawFd, path: &CStr) -> Sys<Option<[u8; 5]>> {
    let Some(place) = existing(root, path)? else { return Ok(None) };
    let stat = fs::stat(place);
    fs::close(place);
    let mode = stat?.st_mode;
    let digit = |shift: u32| b'0' + (mode >> shift & 7) as u8;
    Ok(Some([digit(9), digit(6), digit(3), digit(0), 0]))
}

/// A new, detached file system; with `mode`, a tmpfs of that mode.
fn new_filesystem(
    kind: &CStr,
    options: &[(std::ffi::CString, Option<std::ffi::CString>)],
    mode: Option<&CStr>,
    attributes: u64,
) -> Sys<RawFd> {
    let context = mount::fsopen(kind)?;
    let made = (|| {
        for (key, value) in options {
            mount::fsconfig_set(context, key, value.as_deref())?;
        }
        if mode.is_some() {
            mount::fsconfig_set(context, c"mode", mode)?;
        }
        mount::fsconfig_create(context)?;
        mount::fsmount(context, attributes)
    })();
    fs::close(context);
    made
}

/// Makes the mount that `path` lies on private: the nearest ancestor that is the root of a mount.
fn make_mount_private(path: &CStr) -> Sys {
    let attributes = Attributes { propagation: libc::MS_PRIVATE, ..Attributes::default() };
    let mut place = fs::open(fs::CWD, path, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    loop {
        match mount::set_attributes(place, c"", 0, &attributes) {
            Err(Errno::EINVAL) => {
                let parent = fs::open(place, c"..", libc::O_PATH | libc::O_DIRECTORY, 0)?;
                let (here, above) = (fs::stat(place)?, fs::stat(parent)?);
                fs::close(place);
                place = parent;
                if (here.st_dev, here.st_ino) == (above.st_dev, above.st_ino) {
                    fs::close(place);
                    return Err(Errno::EINVAL);
                }
            }
            result => {
                fs::close(place);
                return result;
            }
        }
    }
}

/// Makes `root` the root of the namespace and drops the old one. A `shared` old root becomes a slave before.
fn pivot_root(root: RawFd, shared: bool) -> Sys {
    if shared {
        let old = fs::open(fs::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
        let attributes = Attributes { propagation: libc::MS_SLAVE, ..Attributes::default() };
        let result =
            stack_roots(root).and_then(|()| mount::set_attributes(old, c"", libc::AT_RECURSIVE as u32, &attributes));
        fs::close(old);
        result?;
    } else {
        stack_roots(root)?;
    }
    mount::umount(c".", libc::MNT_DETACH)?;
    fs::chdir(c"/")
}

/// With "." for both, the old root is stacked on the new one, and "." still means the old one to umount2(2)
/// (pivot_root(2), "pivot_root(".", ".")").
fn stack_roots(root: RawFd) -> Sys {
    fs::fchdir(root)?;
    mount::pivot_root(c".", c".")
}

/// Joins a new session keyring that others cannot search, but whose possessor can.
fn join_keyring(name: &CStr) -> Sys {
    const KEY_USR_SEARCH: u32 = 0x08_0000;
    match process::join_session_keyring(name) {
        Ok(serial) => {
            let mask = process::key_permissions(serial)?;
            process::set_key_permissions(serial, mask | KEY_USR_SEARCH)
        }
        // A kernel without keyrings has none to share.
        Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Enters `path`; whether it could.
fn change_directory(path: &CStr, required: bool) -> Sys<bool> {
    match fs::chdir(path) {
        Err(Errno::EACCES | Errno::EPERM) if !required => return Ok(false),
        result => result?,
    }
    let mut buffer = [0u8; 4096];
    fs::getcwd(&mut buffer).map(|_| true)
}

/// Closes every descriptor from `first` up but for two.
fn close_but(first: u32, one: RawFd, other: RawFd) -> Sys {
    let mut kept = [one.cast_unsigned(), other.cast_unsigned()];
    kept.sort_unstable();
    let mut from = first;
    for fd in kept {
        if fd > from {
            fs::close_range(from, fd - 1)?;
        }
        from = from.max(fd.saturating_add(1));
    }
    fs::close_range(from, u32::MAX)
}

fn drop_bounding(drop: u64) -> Sys {
    for bit in (0..64).filter(|bit| drop >> bit & 1 == 1) {
        match process::prctl(libc::PR_CAPBSET_DROP, [bit, 0, 0, 0]) {
            // A kernel that does not know the capability cannot grant it either.
            Ok(_) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>, keep_caps: bool) -> Sys {
    if keep_caps {
        process::prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0])?;
    }
    match groups.map(process::setgroups) {
        // In a user namespace that denies setgroups(2) the groups stay as they are (user_namespaces(7)).
        Some(Err(Errno::EPERM)) if groups.is_some_and(<[u32]>::is_empty) => {}
        set => set.unwrap_or(Ok(()))?,
    }
    process::setgid(gid)?;
    process::setuid(uid)?;
    if keep_caps {
        process::prctl(libc::PR_SET_KEEPCAPS, [0, 0, 0, 0])?;
    }
    Ok(())
}

fn raise_ambient(raise: u64) -> Sys {
    for bit in (0..64).filter(|bit| raise >> bit & 1 == 1) {
        let raised = process::prctl(libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_RAISE as usize, bit, 0, 0]);
        match raised {
            // What is not permitted and inheritable cannot be ambient: runtime-spec asks for a warning at most.
            Ok(_) | Err(Errno::EPERM | Errno::EINVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

impl Environment {
    /// Writes HOME into the room that was left for it.
    pub(super) fn write_home(&self, value: &[u8]) -> Sys {
        if self.home_room { self.strings.set_first(b"HOME=", value) } else { Ok(()) }
    }
}
