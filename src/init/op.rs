//! The operations a Plan is made of.

use super::console::Terminal;
use super::slots::Slot;
use crate::sys::clone::CLONE_NEWTIME;
use crate::sys::mount::Attributes;
use crate::sys::process::SchedAttr;
use crate::sys::shared::Strings;
use nix::errno::Errno;
use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fmt;

/// One thing to do, and the config.json field that asks for it.
#[derive(Debug)]
pub struct Step {
    /// What is done.
    pub op: Op,
    /// The field it comes from (`mounts[3]`, `linux.maskedPaths`), for people.
    pub field: Cow<'static, str>,
}

/// What to make where a mount's destination does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// Missing directories on the way, and a directory.
    Directory,
    /// Missing directories on the way, and an empty file.
    File,
    /// The one or the other, as the root of the mount in a slot is.
    Like(Slot),
}

/// What a mount's destination must be, beyond lying inside the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Anything, but not on procfs: a mount there could fake what the runtime and LSMs read (CVE-2019-16884).
    OffProc,
    /// A plain directory reached without symbolic links: where procfs and sysfs go (CVE-2019-19921, CVE-2023-27561).
    PlainDirectory,
    /// Anything: for destinations that are known to be harmless (/proc/cpuinfo and its like).
    Any,
}

/// What is to be copied by open_tree(2).
#[derive(Debug)]
pub enum Source {
    /// A path of the host.
    Path(CString),
    /// What a slot holds.
    Slot(Slot),
}

/// A place where init and the runtime meet: one byte each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// The runtime has put init into its cgroups: systemd makes them around a process that exists.
    Cgroup,
    /// The runtime writes the id mappings.
    Mappings,
    /// The runtime runs prestart and createRuntime hooks.
    Hooks,
    /// The runtime takes the seccomp listener, whose number is the report's detail.
    Listener,
    /// The runtime moves network devices into the namespace.
    NetDevices,
    /// The runtime sets resource limits: the right to raise one counts in the initial user namespace alone (setrlimit(2)).
    Limits,
    /// The runtime maps the ids of a mount; the numbers of its descriptor and of the user namespace's follow, and
    /// the flags.
    IdMap,
}

impl Gate {
    /// The byte that init sends.
    pub fn byte(self) -> u8 {
        match self {
            Self::Cgroup => b'c',
            Self::Mappings => b'm',
            Self::Hooks => b'h',
            Self::Listener => b'l',
            Self::NetDevices => b'n',
            Self::Limits => b'p',
            Self::IdMap => b'i',
        }
    }

    /// The gate that a byte stands for.
    pub fn of(byte: u8) -> Option<Self> {
        [Self::Cgroup, Self::Mappings, Self::Hooks, Self::Listener, Self::NetDevices, Self::Limits, Self::IdMap]
            .into_iter()
            .find(|gate| gate.byte() == byte)
    }
}

/// A device node (runtime-spec config-linux.md, "Devices").
#[derive(Debug, Clone)]
pub struct DeviceNode {
    /// Where, relative to the root.
    pub path: CString,
    /// Type and permission bits (mknod(2)).
    pub mode: u32,
    /// The device number (makedev(3)).
    pub dev: u64,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Whether what is there already has to be this device: so for `linux.devices`, while one of those that every
    /// container has may be replaced by a mount.
    pub exact: bool,
}

/// What is executed in the end.
#[derive(Debug)]
pub struct Exec {
    /// The paths to try, in order: one for a name with a slash, one for each entry of PATH otherwise.
    pub candidates: Vec<CString>,
    /// argv.
    pub args: Strings,
    /// envp. A last entry may be the `HOME=` that [`Op::SetHome`] fills in.
    pub env: Environment,
}

impl Exec {
    /// Nothing: for steps that are not followed by a program.
    pub fn none() -> Self {
        let strings = || Strings::new(Vec::new());
        Self { candidates: Vec::new(), args: strings(), env: Environment { strings: strings(), home_room: false } }
    }
}

/// envp and, where the config gives no HOME, room for one.
#[derive(Debug)]
pub struct Environment {
    /// The strings, after a `HOME=` with [`Environment::HOME_ROOM`] bytes of room if `home_room`.
    pub strings: Strings,
    /// Whether HOME is to be looked up in the container's /etc/passwd.
    pub home_room: bool,
}

impl Environment {
    /// Bytes that are reserved for the value of HOME.
    pub const HOME_ROOM: usize = 255;

    /// Writes HOME into the room that was left for it.
    pub(super) fn write_home(&self, value: &[u8]) -> Result<(), Errno> {
        if self.home_room { self.strings.set_first(b"HOME=", value) } else { Ok(()) }
    }
}

/// An operation. Each is one or a few system calls; explain prints them with [`fmt::Display`].
#[allow(missing_docs)] // the fields are named after the arguments of the call
#[derive(Debug)]
pub enum Op {
    /// Writes "0" to an open v1 `tasks` or `cgroup.procs`: init moves itself. Unless that is `required`, there may be none: who may not make
    /// cgroups goes without.
    JoinCgroup { tasks: Slot, required: bool },
    /// setns(2).
    EnterNamespace { ns: Slot, kinds: i32 },
    /// unshare(2).
    NewNamespaces { kinds: i32 },
    /// setns(2) to the time namespace that unshare(2) made for children: it takes effect for this process by exec only
    /// since Linux 6.3.
    EnterOwnTime { proc: Slot },
    /// A new network namespace with its loopback up: the helper's, or one of its own.
    NewNetwork { helper: Slot },
    /// The loopback device of a network namespace that clone3 made.
    LoopbackUp,
    /// Meets the runtime.
    Meet(Gate),
    /// Runs a createContainer or startContainer hook.
    RunHook(Box<super::Hook>),
    /// Waits until the runtime has recorded this pid: a container that nobody can find must not run.
    AwaitRecord,
    /// `create`: listens, and waits for `start` to connect.
    AwaitStart { listener: Slot },
    /// Until a request comes on the socket: then the rest, which is a filter at most, and the program. From here on there is
    /// nothing in memory but what that takes.
    Park { lease: Slot },
    /// Writes to a file below an open directory, a procfs as a rule (sysctls, timens_offsets, oom_score_adj, LSM attributes).
    WriteFile { dir: Slot, path: CString, data: Vec<u8> },
    /// PR_SET_DUMPABLE: with `false` nobody in the namespaces may look into this process (CVE-2016-9962).
    Dumpable(bool),
    /// A bind over /proc must be a procfs, or LSMs would be fooled (CVE-2019-16884).
    RequireProcfs { mount: Slot },
    /// Becomes uid and gid 0 of a user namespace that was just entered or mapped.
    BecomeRoot,

    /// mount_setattr(2) of "/", recursively: the propagation of the host's mounts in this namespace.
    RootPropagation { propagation: u64 },
    /// mount(2) MS_PRIVATE on the mount that holds the rootfs: pivot_root refuses a shared parent.
    ParentPrivate { path: CString },
    /// open_tree(2) with OPEN_TREE_NAMESPACE, setns(2): a mount namespace of nothing but the tree at `path`, and its root.
    RootNamespace { path: CString, into: Slot },
    /// open_tree(2) with OPEN_TREE_CLONE.
    CloneTree { source: Source, recursive: bool, into: Slot },
    /// fsopen, fsconfig, fsmount: a detached file system.
    NewFilesystem { kind: CString, options: Vec<(CString, Option<CString>)>, attributes: u64, into: Slot },
    /// As [`Op::NewFilesystem`], a procfs; the one at /proc where that is refused.
    OwnProcfs { into: Slot },
    /// mount(2) at `place`, a directory of the host that is covered for the moment: fsconfig(2) takes no value of 256 bytes. `flags`
    /// are of the superblock (`MS_SYNCHRONOUS` and its like).
    NewFilesystemAt {
        kind: CString,
        source: CString,
        data: CString,
        flags: u64,
        attributes: u64,
        place: CString,
        into: Slot,
    },
    /// As [`Op::NewFilesystem`], a tmpfs that has the mode of what it is going to cover, if there is something: the directory at `path`.
    TmpfsLike { root: Slot, path: CString, options: Vec<(CString, Option<CString>)>, attributes: u64, into: Slot },
    /// fspick, fsconfig: other options for a file system that is mounted already.
    Reconfigure { mount: Slot, options: Vec<(CString, Option<CString>)> },
    /// mount_setattr(2) of a mount that is held in a slot.
    SetAttributes { mount: Slot, attributes: Attributes, recursive: bool },
    /// As above, of one mount; what nobody asked to be off, `implied`, is cleared too, unless its user namespace locks that.
    SetBindAttributes { mount: Slot, attributes: Attributes, implied: u64 },
    /// As above, but flags that it has from the host are not taken back, nor how it keeps access times changed.
    SetLockedAttributes { mount: Slot, attributes: Attributes },
    /// fsetxattr(2) of the root of a mount that is held in a slot: its label for SELinux.
    SetLabel { mount: Slot, label: CString },
    /// mount_setattr(2) of a mount that is held in a slot: the ids of its files, mapped as in a user namespace.
    SetIdMap { mount: Slot, userns: Slot, recursive: bool },
    /// As above, by the runtime: it takes the right over the file system, which init in its user namespace has not.
    AskForIdMap { mount: Slot, userns: Slot, recursive: bool },
    /// Finds, or makes, a place inside the root, by descriptor.
    Target { root: Slot, path: CString, create: Create, rule: Rule, into: Slot },
    /// move_mount(2), descriptors only.
    Attach { mount: Slot, target: Slot },
    /// Finds a place of the host, for the rootfs and overlay scratch.
    OpenHost { path: CString, flags: i32, into: Slot },
    /// Opens something that exists inside the root.
    OpenInRoot { root: Slot, path: CString, flags: i32, into: Slot },
    /// mkdirat(2) below a slot; one that exists is fine.
    MakeDirectory { dir: Slot, path: CString, mode: u32 },
    /// Copies what lies at `path` in the root to a new tmpfs, before that covers it (tmpcopyup).
    CopyUp { from: Slot, to: Slot },
    /// mknodat(2), fchownat(2); a name that exists and is that device is fine. Where that is not allowed, as [`Op::BindDevice`].
    MakeDevice { root: Slot, device: DeviceNode, host: CString },
    /// The host's device bound there, where mknod is not allowed (user namespaces).
    BindDevice { root: Slot, device: DeviceNode, host: CString },
    /// symlinkat(2); a name that exists is left alone.
    MakeLink { root: Slot, path: CString, target: CString },
    /// The pseudoterminal: opened in the container's devpts, bound to /dev/console, its master sent away.
    Console { root: Slot, socket: Slot, terminal: Terminal },
    /// An empty, read-only stand-in over a path; a path that does not exist is skipped.
    Mask { root: Slot, path: CString, null: Slot, empty: Slot },
    /// A path made read-only by a bind over itself; a path that does not exist is skipped.
    ReadOnly { root: Slot, path: CString },
    /// fchdir + pivot_root(".", ".") + umount2(MNT_DETACH) + chdir("/"). A `shared` old root becomes a slave before,
    /// or the host's mounts would be taken away too.
    PivotRoot { root: Slot, shared: bool },
    /// --no-pivot: a mount of the host taken out of the namespace, or covered where a user namespace locks it.
    Hide { path: CString },
    /// --no-pivot: the root mount is moved onto "/", then chroot.
    MoveRoot { root: Slot },
    /// Without a mount namespace: chroot.
    ChangeRoot { root: Slot },
    /// close(2).
    Close { slot: Slot },

    /// sethostname(2).
    Hostname { name: CString },
    /// setdomainname(2).
    Domainname { name: CString },
    /// setsid(2).
    NewSession,
    /// The stdin's terminal becomes the controlling one.
    ControllingTerminal,
    /// A new session keyring of this name (keyctl(2)).
    SessionKeyring { name: Option<CString> },
    /// prlimit(2).
    ResourceLimit { resource: u32, soft: u64, hard: u64 },
    /// personality(2).
    Personality { domain: u64 },
    /// Its own scheduling, if its maker's is another (sched_setattr(2)).
    OwnScheduling,
    /// sched_setattr(2).
    Scheduler { attributes: SchedAttr },
    /// ioprio_set(2).
    IoPriority { value: i32 },
    /// sched_setaffinity(2).
    Affinity { mask: Vec<u64> },
    /// set_mempolicy(2).
    MemoryPolicy { mode: i32, nodes: Vec<u64> },
    /// umask(2).
    Umask { mask: u32 },
    /// HOME from the container's /etc/passwd for this uid ("/" when it has none).
    SetHome { uid: u32 },
    /// chdir(2), then proof that the directory lies inside the root (CVE-2024-21626). With `required` false EACCES is
    /// left to a later try, as another user; when the first try entered it, the later one has nothing to do.
    ChangeDirectory { path: CString, required: bool },
    /// Finds the program: the first candidate that may be executed.
    FindProgram,
    /// PR_SET_NO_NEW_PRIVS.
    NoNewPrivileges,
    /// PR_CAPBSET_DROP of each bit set.
    DropBounding { drop: u64 },
    /// Those of stdin, stdout and stderr that are a null device become the one that the container has at /dev/null, or one that is nobody's: the
    /// host's has an owner and a mode that the container's root could change. Without `root` it is "/".
    OwnNull { root: Option<Slot> },
    /// fchown(2) of stdin, stdout and stderr, but for devices: their user may open them again, through /dev/stdout.
    OwnStdio { uid: u32 },
    /// PR_SET_KEEPCAPS around setgroups, setresgid, setresuid.
    BecomeUser { uid: u32, gid: u32, groups: Option<Vec<u32>>, keep_caps: bool },
    /// capset(2).
    Capabilities { effective: u64, permitted: u64, inheritable: u64 },
    /// PR_CAP_AMBIENT_RAISE of each bit set; one the kernel refuses is left out.
    Ambient { raise: u64 },
    /// seccomp(2).
    Seccomp { program: Vec<libc::sock_filter>, flags: u32, listener: bool },
    /// close_range(2): everything from this number up is closed, but for the listener and the way to the runtime.
    CloseBut { first: u32, listener: Option<Slot> },
    /// The null device is open while it waits, if there is one at /dev/null: who starts the program fetches it, for those of stdin, stdout and stderr that
    /// are to be one ([`super::NULL_OF_SANDBOX`]).
    HoldNull { lease: Slot },
    /// pidfd of this process, sent to --pidfd-socket.
    SendPidfd { socket: Slot },
}

/// Prints flags of `names` that are set in `value`, joined with "|"; what has no name in hexadecimal.
fn flags(value: u64, names: &[(u64, &str)]) -> String {
    let mut rest = value;
    let mut set: Vec<String> = Vec::new();
    for (bit, name) in names {
        if *bit != 0 && rest & bit == *bit {
            rest &= !bit;
            set.push((*name).to_string());
        }
    }
    if rest != 0 || set.is_empty() {
        set.push(format!("{rest:#x}"));
    }
    set.join("|")
}

/// `CLONE_NEW*` by name.
pub fn namespace_names(kinds: i32) -> String {
    const NAMES: [(u64, &str); 8] = [
        (libc::CLONE_NEWUSER as u64, "NEWUSER"),
        (libc::CLONE_NEWNS as u64, "NEWNS"),
        (libc::CLONE_NEWPID as u64, "NEWPID"),
        (libc::CLONE_NEWNET as u64, "NEWNET"),
        (libc::CLONE_NEWIPC as u64, "NEWIPC"),
        (libc::CLONE_NEWUTS as u64, "NEWUTS"),
        (libc::CLONE_NEWCGROUP as u64, "NEWCGROUP"),
        (CLONE_NEWTIME as u64, "NEWTIME"),
    ];
    flags(kinds as u32 as u64, &NAMES)
}

/// What a call of mount_setattr(2) changes.
fn write_attributes(f: &mut fmt::Formatter<'_>, attributes: &Attributes) -> fmt::Result {
    if attributes.set != 0 {
        write!(f, ", set {}", attribute_names(attributes.set))?;
    }
    if attributes.clear != 0 {
        write!(f, ", clear {}", attribute_names(attributes.clear))?;
    }
    if attributes.propagation != 0 {
        write!(f, ", {}", propagation_name(attributes.propagation))?;
    }
    Ok(())
}

/// `MOUNT_ATTR_*` by name.
fn attribute_names(set: u64) -> String {
    let names = [
        (libc::MOUNT_ATTR_RDONLY, "RDONLY"),
        (libc::MOUNT_ATTR_NOSUID, "NOSUID"),
        (libc::MOUNT_ATTR_NODEV, "NODEV"),
        (libc::MOUNT_ATTR_NOEXEC, "NOEXEC"),
        (libc::MOUNT_ATTR_NOATIME, "NOATIME"),
        (libc::MOUNT_ATTR_STRICTATIME, "STRICTATIME"),
        (libc::MOUNT_ATTR_NODIRATIME, "NODIRATIME"),
        (libc::MOUNT_ATTR_NOSYMFOLLOW, "NOSYMFOLLOW"),
        (libc::MOUNT_ATTR_IDMAP, "IDMAP"),
    ];
    if set == 0 { "0".into() } else { flags(set, &names) }
}

/// `MS_SHARED` and its like by name.
fn propagation_name(propagation: u64) -> &'static str {
    match propagation {
        libc::MS_SHARED => "shared",
        libc::MS_SLAVE => "slave",
        libc::MS_PRIVATE => "private",
        libc::MS_UNBINDABLE => "unbindable",
        _ => "unchanged",
    }
}

fn text(string: &CStr) -> String {
    string.to_string_lossy().into_owned()
}

fn write_options(f: &mut fmt::Formatter<'_>, options: &[(CString, Option<CString>)]) -> fmt::Result {
    options.iter().try_for_each(|(key, value)| match value {
        Some(value) => write!(f, " {}={}", text(key), text(value)),
        None => write!(f, " {}", text(key)),
    })
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{:?}", text(path)),
            Self::Slot(slot) => write!(f, "{slot}"),
        }
    }
}

impl fmt::Display for Create {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => write!(f, "a directory"),
            Self::File => write!(f, "a file"),
            Self::Like(slot) => write!(f, "one like {slot}"),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JoinCgroup { tasks, required } => {
                write!(f, "write({tasks}, \"0\"){}", if *required { "" } else { " if it could be made" })
            }
            Self::EnterNamespace { ns, kinds } => write!(f, "setns({ns}, {})", namespace_names(*kinds)),
            Self::NewNamespaces { kinds } => write!(f, "unshare({})", namespace_names(*kinds)),
            Self::EnterOwnTime { proc } => write!(f, "setns({proc}/self/ns/time_for_children, NEWTIME)"),
            Self::NewNetwork { helper } => {
                write!(f, "setns({helper}, NEWNET) of the helper, or unshare(NEWNET), ioctl(SIOCSIFFLAGS, lo up)")
            }
            Self::LoopbackUp => write!(f, "ioctl(SIOCSIFFLAGS, lo up)"),
            Self::Meet(gate) => write!(f, "meet the runtime: {gate:?}"),
            Self::RunHook(hook) => write!(f, "fork, execve({:?}), wait4: the {}", text(hook.path()), hook.name),
            Self::AwaitRecord => write!(f, "wait until the runtime has recorded the pid"),
            Self::Park { lease } => {
                write!(f, "munmap of all memory but the program's, recvmsg({lease}): wait for a request")
            }
            Self::AwaitStart { listener } => write!(f, "listen, accept4({listener}): wait for `start`"),
            Self::WriteFile { dir, path, data } => {
                write!(f, "write({dir}/{}, {:?})", text(path), String::from_utf8_lossy(data))
            }
            Self::Dumpable(on) => write!(f, "prctl(PR_SET_DUMPABLE, {})", u8::from(*on)),
            Self::RequireProcfs { mount } => write!(f, "fstatfs({mount}): must be a procfs"),
            Self::BecomeRoot => write!(f, "setresgid(0), setresuid(0)"),
            Self::RootPropagation { propagation } => {
                write!(f, "mount_setattr(\"/\", AT_RECURSIVE, {})", propagation_name(*propagation))
            }
            Self::ParentPrivate { path } => write!(f, "mount_setattr(mount of {:?}, private)", text(path)),
            Self::RootNamespace { path, into } => {
                write!(f, "open_tree({:?}, NAMESPACE|RECURSIVE), setns(NEWNS), open(\"/\") -> {into}", text(path))
            }
            Self::CloneTree { source, recursive, into } => {
                write!(f, "open_tree({source}, CLONE{}) -> {into}", if *recursive { "|RECURSIVE" } else { "" })
            }
            Self::NewFilesystem { kind, options, attributes, into } => {
                write!(f, "fsopen({:?})", text(kind))?;
                write_options(f, options)?;
                write!(f, ", fsmount({}) -> {into}", attribute_names(*attributes))
            }
            Self::OwnProcfs { into } => {
                write!(f, "fsopen(\"proc\"), fsmount(NOSUID|NODEV|NOEXEC), or open(\"/proc\") -> {into}")
            }
            Self::NewFilesystemAt { kind, source, data, attributes, place, into, .. } => {
                let (kind, source, data, place) = (text(kind), text(source), text(data), text(place));
                write!(f, "mount({source:?}, {place:?}, {kind:?}, {}, {data:?}), ", attribute_names(*attributes))?;
                write!(f, "open_tree({place:?}, CLONE) -> {into}, umount({place:?})")
            }
            Self::TmpfsLike { root, path, options, attributes, into } => {
                write!(f, "fsopen(\"tmpfs\")")?;
                write_options(f, options)?;
                write!(f, " mode=that of {root}{}, fsmount({}) -> {into}", text(path), attribute_names(*attributes))
            }
            Self::Reconfigure { mount, options } => {
                write!(f, "fspick({mount})")?;
                write_options(f, options)
            }
            Self::SetAttributes { mount, attributes, recursive } => {
                write!(f, "mount_setattr({mount}{}", if *recursive { ", AT_RECURSIVE" } else { "" })?;
                write_attributes(f, attributes)?;
                write!(f, ")")
            }
            Self::SetBindAttributes { mount, attributes, implied } => {
                write!(f, "mount_setattr({mount}")?;
                write_attributes(f, attributes)?;
                write!(f, ", clear {} unless locked)", attribute_names(*implied))
            }
            Self::SetLockedAttributes { mount, attributes } => {
                write!(f, "mount_setattr({mount}, as locked")?;
                write_attributes(f, attributes)?;
                write!(f, ")")
            }
            Self::SetLabel { mount, label } => write!(f, "fsetxattr({mount}, \"security.selinux\", {:?})", text(label)),
            Self::SetIdMap { mount, userns, recursive } => {
                write!(f, "mount_setattr({mount}, IDMAP of {userns}{})", if *recursive { ", AT_RECURSIVE" } else { "" })
            }
            Self::AskForIdMap { mount, userns, recursive } => {
                let flags = if *recursive { ", AT_RECURSIVE" } else { "" };
                write!(f, "meet the runtime: mount_setattr({mount}, IDMAP of {userns}{flags})")
            }
            Self::Target { root, path, create, rule, into } => {
                write!(f, "openat2({root}, {:?}, IN_ROOT) or make {create} -> {into}", text(path))?;
                match rule {
                    Rule::OffProc => Ok(()),
                    Rule::PlainDirectory => write!(f, " (no symbolic links)"),
                    Rule::Any => write!(f, " (procfs allowed)"),
                }
            }
            Self::Attach { mount, target } => write!(f, "move_mount({mount} -> {target})"),
            Self::OpenHost { path, into, .. } => write!(f, "open({:?}) -> {into}", text(path)),
            Self::OpenInRoot { root, path, into, .. } => {
                write!(f, "openat2({root}, {:?}, IN_ROOT) -> {into}", text(path))
            }
            Self::MakeDirectory { dir, path, mode } => write!(f, "mkdirat({dir}, {:?}, {mode:04o})", text(path)),
            Self::CopyUp { from, to } => write!(f, "copy the files of {from} to {to}"),
            Self::MakeDevice { root, device, .. } => write!(
                f,
                "mknodat({root}, {:?}, {:06o}, {}:{})",
                text(&device.path),
                device.mode,
                libc::major(device.dev),
                libc::minor(device.dev)
            ),
            Self::BindDevice { root, device, host } => {
                write!(f, "bind {:?} at {root}/{}", text(host), text(&device.path))
            }
            Self::MakeLink { root, path, target } => {
                write!(f, "symlinkat({:?}, {root}, {:?})", text(target), text(path))
            }
            Self::Console { root, socket, terminal } => {
                write!(f, "open {root}/dev/pts/ptmx, TIOCGPTPEER, dup3 to 0, 1, 2")?;
                if terminal.keep_line_ends {
                    write!(f, ", TCSETS -ONLCR")?;
                }
                if terminal.bind_console {
                    write!(f, ", bind to {root}/dev/console")?;
                }
                write!(f, ", sendmsg({socket}, SCM_RIGHTS)")
            }
            Self::Mask { root, path, .. } => write!(f, "mask {root}{}", text(path)),
            Self::ReadOnly { root, path } => write!(f, "bind read-only {root}{}", text(path)),
            Self::PivotRoot { root, shared } => {
                let slave = if *shared { "mount_setattr(\".\", AT_RECURSIVE, slave), " } else { "" };
                write!(f, "fchdir({root}), pivot_root(\".\", \".\"), {slave}umount2(\".\", MNT_DETACH)")
            }
            Self::Hide { path } => write!(f, "umount2({:?}, MNT_DETACH), or cover it with a tmpfs", text(path)),
            Self::MoveRoot { root } => write!(f, "fchdir({root}), mount(\".\", \"/\", MS_MOVE), chroot(\".\")"),
            Self::ChangeRoot { root } => write!(f, "fchdir({root}), chroot(\".\")"),
            Self::Close { slot } => write!(f, "close({slot})"),
            Self::Hostname { name } => write!(f, "sethostname({:?})", text(name)),
            Self::Domainname { name } => write!(f, "setdomainname({:?})", text(name)),
            Self::NewSession => write!(f, "setsid()"),
            Self::ControllingTerminal => write!(f, "ioctl(0, TIOCSCTTY)"),
            Self::SessionKeyring { name: Some(name) } => write!(f, "keyctl(JOIN_SESSION_KEYRING, {:?})", text(name)),
            Self::SessionKeyring { name: None } => {
                f.write_str("keyctl(JOIN_SESSION_KEYRING, \"_ses.\" and its own id)")
            }
            Self::ResourceLimit { resource, soft, hard } => write!(f, "prlimit({resource}, {soft}, {hard})"),
            Self::Personality { domain } => write!(f, "personality({domain:#x})"),
            Self::OwnScheduling => f.write_str("sched_setattr(as the pool is scheduled)"),
            Self::Scheduler { attributes } => write!(f, "sched_setattr({attributes:?})"),
            Self::IoPriority { value } => write!(f, "ioprio_set({value:#x})"),
            Self::Affinity { mask } if mask.iter().all(|bits| *bits == u64::MAX) => {
                write!(f, "sched_setaffinity(every CPU)")
            }
            Self::Affinity { mask } => write!(f, "sched_setaffinity({mask:x?})"),
            Self::MemoryPolicy { mode, nodes } => write!(f, "set_mempolicy({mode:#x}, {nodes:x?})"),
            Self::Umask { mask } => write!(f, "umask({mask:04o})"),
            Self::SetHome { uid } => write!(f, "HOME of uid {uid} from /etc/passwd"),
            Self::ChangeDirectory { path, .. } => write!(f, "chdir({:?}), getcwd()", text(path)),
            Self::FindProgram => write!(f, "faccessat2 of the program"),
            Self::NoNewPrivileges => write!(f, "prctl(PR_SET_NO_NEW_PRIVS)"),
            Self::DropBounding { drop } => write!(f, "prctl(PR_CAPBSET_DROP) of {drop:#x}"),
            Self::OwnNull { root } => {
                f.write_str("fstat(stdin, stdout, stderr), those that are /dev/null: open ")?;
                root.map_or(Ok(()), |root| root.fmt(f))?;
                f.write_str("/dev/null, dup3")
            }
            Self::OwnStdio { uid } => write!(f, "fchown(stdin, stdout, stderr, {uid})"),
            Self::BecomeUser { uid, gid, groups, .. } => {
                if let Some(groups) = groups {
                    write!(f, "setgroups({groups:?}), ")?;
                }
                write!(f, "setresgid({gid}), setresuid({uid})")
            }
            Self::Capabilities { effective, permitted, inheritable } => {
                write!(f, "capset(effective {effective:#x}, permitted {permitted:#x}, inheritable {inheritable:#x})")
            }
            Self::Ambient { raise } => write!(f, "prctl(PR_CAP_AMBIENT_RAISE) of {raise:#x}"),
            Self::Seccomp { program, flags, .. } => {
                write!(f, "seccomp(SET_MODE_FILTER, flags {flags:#x}, {} instructions)", program.len())
            }
            Self::CloseBut { first, listener: None } => write!(f, "close_range({first}, ~0)"),
            Self::CloseBut { first, listener: Some(listener) } => {
                write!(f, "close_range({first}, ~0) but for {listener}")
            }
            Self::HoldNull { .. } => {
                write!(f, "open(\"/dev/null\"), dup3 -> {}, for stdin, stdout and stderr", super::NULL_OF_SANDBOX)
            }
            Self::SendPidfd { socket } => write!(f, "pidfd_open, sendmsg({socket}, SCM_RIGHTS)"),
        }
    }
}
