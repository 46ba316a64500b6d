//! `process`: who runs, what and with which rights. The same for a container's init and for `exec`.

use super::builder::{Builder, cpath, cstring, slots};
use super::seccomp::WAIT_KILLABLE_RECV;
use super::{Host, Wait, caps, lsm};
use crate::cpu_list;
use crate::error::{Error, Result};
use crate::init::{self, Environment, Exec, Gate, Op, Step};
use crate::sys::process::{self as sys_process, SchedAttr};
use crate::sys::shared::Strings;
use oci_spec::runtime::{
    Hook, IOPriorityClass, Linux, LinuxIOPriority, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, PosixRlimitType, Process, Scheduler, Spec,
};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::Path;

/// What the command line and the container add to `process`.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Whether a session keyring is made, and for which container, if the Plan is for one.
    pub keyring: Option<Option<&'a str>>,
    /// How many descriptors from 3 up the program inherits.
    pub preserve_fds: u32,
    /// What the process waits for before it executes the program.
    pub wait: Wait,
    /// The startContainer hooks, which run just before the program, and what they read.
    pub start_hooks: Option<(&'a [Hook], &'a super::hooks::State)>,
    /// Whether others may look into the process once it has only the program's rights: who has no more rights than that
    /// could not join it or take a descriptor from it otherwise. Nobody but its maker must be there to do so.
    pub dumpable: bool,
    /// What becomes of the supplementary groups.
    pub groups: Groups,
    /// Whether the runtime has the rights of root, over this machine or over the user namespace that it is in.
    pub privileged: bool,
    /// Whether the process is in a user namespace that is not the runtime's.
    pub in_user_namespace: bool,
    /// The seccomp filter.
    pub seccomp: Option<&'a super::seccomp::Filter>,
    /// Whether to send a pidfd of the process away.
    pub pidfd_socket: bool,
    /// Whether a sandbox has its null device open while it waits.
    pub holds_null: bool,
    /// The machine.
    pub host: &'a Host,
}

/// The annotation that asks for the supplementary groups of who starts the container. Its name is crun's, and what `podman --group-add
/// keep-groups` sends: files on volumes may be open to a group that the user namespace does not map.
pub const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

/// Whether the supplementary groups are to stay the caller's, in all processes of the container.
pub fn keeps_groups(spec: &Spec) -> bool {
    spec.annotations().as_ref().and_then(|annotations| annotations.get(KEEP_GROUPS)).is_some_and(|value| value != "0")
}

/// What becomes of the supplementary groups of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// They are those in process.user.additionalGids.
    Set,
    /// They stay as they are, for setgroups(2) is denied: in a user namespace without newgidmap, or where that has been settled before.
    Denied,
    /// They stay as they are, for [`keeps_groups`].
    Kept,
}

impl Groups {
    /// Kept if that `is_wanted`, and else set if they may be.
    pub const fn new(is_wanted: bool, may_set: bool) -> Self {
        match (is_wanted, may_set) {
            (true, _) => Self::Kept,
            (false, true) => Self::Set,
            (false, false) => Self::Denied,
        }
    }
}

/// Compiles the steps that depend on no file: the session and the bounding set.
pub fn begin(builder: &mut Builder, process: &Process, context: &Context<'_>) -> Result<()> {
    session(builder, process, context)?;
    let drop = caps::dropped(&capability_sets(process, context.host), &context.host.capabilities);
    builder.push("process.capabilities.bounding", Op::DropBounding { drop });
    Ok(())
}

/// Compiles the steps after [`begin`] on to just before exec, and what is executed.
///
/// The order is the one that rights allow: what needs capabilities comes before they go, the working directory and the
/// program are looked up as the container's user, and a filter is loaded last so that it need not allow our own calls.
pub fn compile(builder: &mut Builder, process: &Process, context: &Context<'_>) -> Result<Exec> {
    let exec = exec(process)?;
    let is_parked = matches!(context.wait, Wait::Lease { .. });
    if is_parked && process.scheduler().is_some() {
        builder.push("(runtime)", Op::OwnScheduling);
    }
    scheduling(builder, process)?;
    limits(builder, process, context);
    lsm_labels(builder, process, context.host)?;
    if context.pidfd_socket {
        builder.push("--pidfd-socket", Op::SendPidfd { socket: slots::PIDFD });
    }
    let first = 3u32.saturating_add(context.preserve_fds);
    // From here on paths are looked up that the image may have made links of: one through /proc/self/fd would lead to whatever the
    // caller has open, and from there to the host (CVE-2024-21626). That it is closed on exec is too late.
    let (first, listener, wait) = match context.wait {
        Wait::Nothing => (first, None, None),
        Wait::Start => (first, Some(slots::LISTENER), Some(Op::AwaitStart { listener: slots::LISTENER })),
        Wait::Lease { .. } => {
            let first = if process.terminal().unwrap_or(false) { 3 } else { 0 };
            (first, Some(slots::LEASE), Some(Op::Park { lease: slots::LEASE }))
        }
    };
    builder.push("(runtime)", Op::CloseBut { first, listener });
    let filter_needs_admin = !process.no_new_privileges().unwrap_or(false) && context.seccomp.is_some();
    let sets = capability_sets(process, context.host);
    let kept = if filter_needs_admin { CAP_SYS_ADMIN } else { 0 };
    let has_rights = sets.permitted | sets.inheritable | kept != 0;
    identity(builder, process, context, has_rights)?;
    builder.push(
        "process.capabilities",
        Op::Capabilities { effective: sets.effective, permitted: sets.permitted | kept, inheritable: sets.inheritable },
    );
    if sets.ambient != 0 {
        builder.push("process.capabilities.ambient", Op::Ambient { raise: sets.ambient });
    }
    if process.no_new_privileges().unwrap_or(false) {
        builder.push("process.noNewPrivileges", Op::NoNewPrivileges);
    }
    let cwd = cpath("process.cwd", process.cwd())?;
    builder.push("process.cwd", Op::ChangeDirectory { path: cwd, required: true });
    if process.args().is_some() {
        builder.push("process.args", Op::FindProgram);
    }
    if context.dumpable {
        builder.push("(runtime)", Op::Dumpable(true));
    }
    if context.holds_null {
        builder.push("(runtime)", Op::HoldNull { lease: slots::LEASE });
    }
    builder.push("(runtime)", Op::AwaitRecord);
    let confine = || context.seccomp.map_or_else(Vec::new, |filter| load_filter(filter, &sets, filter_needs_admin));
    let is_filtered = matches!(context.wait, Wait::Lease { filtered: true, .. });
    if is_parked {
        if process.scheduler().is_none() {
            builder.push("(runtime)", Op::OwnScheduling);
        }
        // Who has the same ids in the same pid namespace shall not get at a process that its filter does not hold yet
        // (ptrace(2), pidfd_getfd(2)). The program is what it is again, once executed. A filter need not allow it.
        builder.push("(runtime)", Op::Dumpable(false));
    }
    if is_filtered {
        builder.extend(confine());
    }
    if let Some(wait) = wait {
        builder.push("(runtime)", wait);
    }
    let hides = context.dumpable && !is_parked && context.start_hooks.is_some_and(|(hooks, _)| !hooks.is_empty());
    if hides {
        // What a hook of the image leaves behind shall not get at a process that its filter does not hold yet.
        builder.push("(runtime)", Op::Dumpable(false));
    }
    if let Some((hooks, state)) = context.start_hooks {
        super::hooks::start_container(builder, hooks, state, || {
            let mut steps = confine();
            for step in &mut steps {
                if let Op::Seccomp { flags, listener, .. } = &mut step.op {
                    // The agent is the program's: a hook is refused what the agent would be asked for (seccomp(2)). The other flag is about how the
                    // agent is waited for, and the kernel refuses it where there is none.
                    *flags &= !(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 | WAIT_KILLABLE_RECV);
                    *listener = false;
                }
            }
            steps
        })?;
    }
    let notifying = context.seccomp.filter(|filter| filter.listener.is_some());
    // The maker takes the listener out of the process, which has the filter by then if that lets it say so.
    let says_so_under_it = notifying.is_some_and(|filter| filter.allows(&[libc::SYS_prctl]));
    if hides && notifying.is_some() && !says_so_under_it {
        builder.push("(runtime)", Op::Dumpable(true));
    }
    if !is_filtered {
        builder.extend(confine());
    }
    if hides && says_so_under_it {
        builder.push("(runtime)", Op::Dumpable(true));
    }
    if notifying.is_some() {
        builder.push("linux.seccomp.listenerPath", Op::Meet(Gate::Listener));
    }
    Ok(exec)
}

/// The steps that load `filter`; with `needs_admin` it takes a capability that the program may not have.
fn load_filter(filter: &super::seccomp::Filter, sets: &caps::Sets, needs_admin: bool) -> Vec<Step> {
    let capabilities = |field: &'static str, more: u64| Step {
        op: Op::Capabilities {
            effective: sets.effective | more,
            permitted: sets.permitted | more,
            inheritable: sets.inheritable,
        },
        field: field.into(),
    };
    let mut steps = Vec::new();
    if needs_admin {
        steps.push(capabilities("linux.seccomp", CAP_SYS_ADMIN));
    }
    steps.push(Step {
        op: Op::Seccomp { program: filter.program.clone(), flags: filter.flags, listener: filter.listener.is_some() },
        field: "linux.seccomp".into(),
    });
    if needs_admin && (sets.effective & sets.permitted & CAP_SYS_ADMIN) == 0 {
        steps.push(capabilities("process.capabilities", 0));
    }
    steps
}

/// The process of a container that has none: it waits for `start`, without any rights, and has nothing to execute.
pub fn none() -> Process {
    let mut process = Process::default();
    process.set_args(None).set_env(None).set_cwd("/".into()).set_capabilities(None).set_rlimits(None);
    process.set_no_new_privileges(Some(true));
    process
}

/// Bit 21 of capabilities(7).
const CAP_SYS_ADMIN: u64 = 1 << 21;

fn session(builder: &mut Builder, process: &Process, context: &Context<'_>) -> Result<()> {
    if let Some(id) = context.keyring {
        if let Some(attribute) = lsm::keyring_attribute(process, context.host)? {
            label(builder, attribute)?;
        }
        let name = id.map(|id| cstring("(id)", format!("_ses.{id}"))).transpose()?;
        builder.push("(--no-new-keyring omits it)", Op::SessionKeyring { name });
    }
    builder.push("process", Op::NewSession);
    if process.terminal().unwrap_or(false) {
        builder.push("process.terminal", Op::ControllingTerminal);
    }
    Ok(())
}

/// Where a terminal is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Whether it becomes the container's /dev/console.
    pub is_console: bool,
    /// Whether the runtime passes on what is written to it. Then a line end stays what the program wrote.
    pub is_served: bool,
}

/// The terminal becomes stdin, stdout and stderr. For a container's init this comes right after the mounts; `exec` has
/// its root already.
pub fn terminal(builder: &mut Builder, process: &Process, terminal: Terminal) {
    if process.terminal().unwrap_or(false) {
        // What is larger was refused (spec::validate_process).
        let side = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
        let terminal = init::Terminal {
            size: process.console_size().map(|size| (side(size.height()), side(size.width()))),
            owner: Some(process.user().uid()),
            bind_console: terminal.is_console,
            keep_line_ends: terminal.is_served,
        };
        builder.push("process.terminal", Op::Console { root: slots::ROOT, socket: slots::CONSOLE, terminal });
    }
}

/// AppArmor's and SELinux's labels for the program.
fn lsm_labels(builder: &mut Builder, process: &Process, host: &Host) -> Result<()> {
    lsm::exec_attributes(process, host)?.into_iter().try_for_each(|attribute| label(builder, attribute))
}

fn label(builder: &mut Builder, attribute: lsm::Attribute) -> Result<()> {
    let dir = builder.procfs();
    let path = cstring(attribute.field, attribute.path)?;
    builder.push(attribute.field, Op::WriteFile { dir, path, data: attribute.data });
    Ok(())
}

/// `linux.memoryPolicy`.
pub fn memory_policy(builder: &mut Builder, linux: &Linux) -> Result<()> {
    let Some(policy) = linux.memory_policy() else { return Ok(()) };
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |all, flag| {
        all | match flag {
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        }
    });
    let nodes = match policy.nodes().as_deref().filter(|nodes| !nodes.is_empty()) {
        Some(nodes) => cpu_list::parse("linux.memoryPolicy.nodes", nodes)?,
        None => Vec::new(),
    };
    builder.push("linux.memoryPolicy", Op::MemoryPolicy { mode: mode | flags, nodes });
    Ok(())
}

/// `linux.personality`.
pub fn personality(builder: &mut Builder, linux: &Linux) -> Result<()> {
    const PER_LINUX32: u64 = 0x0008;
    let Some(personality) = linux.personality() else { return Ok(()) };
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(Error::config("linux.personality.flags", "are not supported by any kernel interface: remove them"));
    }
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    };
    builder.push("linux.personality", Op::Personality { domain });
    Ok(())
}

fn scheduling(builder: &mut Builder, process: &Process) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        builder.push("process.scheduler", Op::Scheduler { attributes: scheduler_attributes(scheduler)? });
    }
    if let Some(priority) = process.io_priority() {
        builder.push("process.ioPriority", Op::IoPriority { value: io_priority(priority)? });
    }
    Ok(())
}

/// execCPUAffinity applies to `exec` alone (runtime-spec config.md): initial before the cgroup is joined, final after.
pub fn affinity(builder: &mut Builder, field: &'static str, list: Option<&String>) -> Result<()> {
    if let Some(list) = list.filter(|list| !list.is_empty()) {
        builder.push(field, Op::Affinity { mask: cpu_list::parse(field, list)? });
    }
    Ok(())
}

/// All CPUs that the cgroup allows: what the runtime itself happens to be bound to is not the container's business.
pub fn any_cpu(builder: &mut Builder) {
    builder.push("process.execCPUAffinity", Op::Affinity { mask: vec![u64::MAX; cpu_list::WORDS] });
}

fn limits(builder: &mut Builder, process: &Process, context: &Context<'_>) {
    let limits = process.rlimits().as_deref().unwrap_or_default();
    let is_named = limits.iter().any(|limit| limit.typ() == PosixRlimitType::RlimitNofile);
    if let Some((soft, hard)) = context.host.open_files.filter(|_| !is_named) {
        builder.push("process.rlimits", Op::ResourceLimit { resource: sys_process::NOFILE, soft, hard });
    }
    // The right to raise one is lost in a user namespace.
    if context.privileged && context.in_user_namespace && !limits.is_empty() {
        builder.push("process.rlimits", Op::Meet(Gate::Limits));
    } else {
        for limit in limits {
            builder.push(
                format!("process.rlimits ({})", limit.typ()),
                Op::ResourceLimit { resource: rlimit(limit.typ()), soft: limit.soft(), hard: limit.hard() },
            );
        }
    }
    builder.push("process.user.umask", Op::Umask { mask: process.user().umask().unwrap_or(0o022) });
}

fn identity(builder: &mut Builder, process: &Process, context: &Context<'_>, has_rights: bool) -> Result<()> {
    let user = process.user();
    if !has_home(process) {
        builder.push("process.env", Op::SetHome { uid: user.uid() });
    }
    // With all rights first: a directory that only they open is allowed as cwd, as in runc.
    let cwd = cpath("process.cwd", process.cwd())?;
    builder.push("process.cwd", Op::ChangeDirectory { path: cwd, required: false });
    let groups = user.additional_gids().clone().unwrap_or_default();
    // Root is told in a warning that they are left out.
    if context.groups == Groups::Denied && !context.privileged && !groups.is_empty() {
        let problem = "cannot set any additional groups in a rootless container that maps one group alone: map more \
                       in linux.gidMappings (for which newgidmap is needed), or leave it out";
        return Err(Error::config("process.user.additionalGids", problem));
    }
    if user.uid() != 0 {
        builder.push("process.user", Op::OwnStdio { uid: user.uid() });
    }
    builder.push(
        "process.user",
        Op::BecomeUser {
            uid: user.uid(),
            gid: user.gid(),
            groups: (context.groups == Groups::Set).then_some(groups),
            // They go with root's ids alone (capabilities(7)), and may where none is to be left.
            keep_caps: user.uid() != 0 && has_rights,
        },
    );
    Ok(())
}

/// What can be granted of `process.capabilities`. What cannot is a warning, for who prepares the start.
fn capability_sets(process: &Process, host: &Host) -> caps::Sets {
    caps::sets(process.capabilities().as_ref(), &host.capabilities, &mut Vec::new())
}

fn has_home(process: &Process) -> bool {
    let home = process.env().iter().flatten().rev().find_map(|entry| entry.strip_prefix("HOME="));
    home.is_some_and(|home| !home.is_empty())
}

fn exec(process: &Process) -> Result<Exec> {
    let args = process.args().as_deref().unwrap_or_default();
    let Some(name) = args.first() else { return Ok(Exec::none()) };
    let candidates = candidates(name, process.env().as_deref().unwrap_or_default(), process.cwd())?;
    let args = args.iter().map(|arg| cstring("process.args", arg)).collect::<Result<Vec<_>>>()?;
    let home_room = !has_home(process);
    let mut env = Vec::new();
    for entry in last_of_each(process.env().as_deref().unwrap_or_default()) {
        if !(home_room && entry.starts_with("HOME=")) {
            env.push(cstring("process.env", entry)?);
        }
    }
    let strings = if home_room {
        Strings::with_room(b"HOME=/", "HOME=".len() + Environment::HOME_ROOM, env)
    } else {
        Strings::new(env)
    };
    let env = Environment { strings, home_room };
    Ok(Exec { candidates, args: Strings::new(args), env })
}

/// The entries of an environment, each variable once: the last of several counts, as in runc, whatever the program's C
/// library would make of them.
fn last_of_each(env: &[String]) -> Vec<&String> {
    let name = |entry: &str| entry.split_once('=').map_or(entry.len(), |(name, _)| name.len());
    let mut seen = BTreeSet::new();
    let mut kept: Vec<&String> = env.iter().rev().filter(|entry| seen.insert(&entry[..name(entry)])).collect();
    kept.reverse();
    kept
}

/// The paths that execvp(3) would try for `name`, by the PATH of the container.
fn candidates(name: &str, env: &[String], cwd: &Path) -> Result<Vec<CString>> {
    if name.contains('/') {
        return Ok(vec![cstring("process.args[0]", name)?]);
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let directories = path.split(':').filter(|_| !path.is_empty());
    directories
        .map(|directory| match directory {
            // An empty entry of PATH is the working directory (exec(3)).
            "" => cpath("process.args[0]", &cwd.join(name)),
            directory => cpath("process.env (PATH)", &Path::new(directory).join(name)),
        })
        .collect()
}

/// The number of a limit: `RLIMIT_*`.
pub fn rlimit(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
    .cast_unsigned_or_same()
}

/// The C libraries disagree on the type of `RLIMIT_*`: unsigned in glibc, signed in musl.
trait CastUnsigned {
    fn cast_unsigned_or_same(self) -> u32;
}

impl CastUnsigned for u32 {
    fn cast_unsigned_or_same(self) -> u32 {
        self
    }
}

impl CastUnsigned for i32 {
    fn cast_unsigned_or_same(self) -> u32 {
        self.cast_unsigned()
    }
}

fn io_priority(priority: &LinuxIOPriority) -> Result<i32> {
    const IOPRIO_CLASS_SHIFT: i32 = 13;
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = i32::try_from(priority.priority()).ok().filter(|level| (0..=7).contains(level));
    let level = level.ok_or_else(|| Error::config("process.ioPriority.priority", "is out of range: use 0 to 7"))?;
    Ok(class << IOPRIO_CLASS_SHIFT | level)
}

fn scheduler_attributes(scheduler: &Scheduler) -> Result<SchedAttr> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0u64, |all, flag| {
        all | match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        }
    });
    let priority = scheduler.priority().unwrap_or(0);
    Ok(SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(priority)
            .map_err(|_| Error::config("process.scheduler.priority", "is negative: use 0 to 99"))?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        // The spec has no field for them.
        util_min: 0,
        util_max: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_variable_that_is_there_twice_the_last_counts() {
        let env = ["A=1", "B=2", "A=3", "C", "A=4", "AB=5"].map(str::to_owned);
        assert_eq!(last_of_each(&env), ["B=2", "C", "A=4", "AB=5"]);
    }
}
