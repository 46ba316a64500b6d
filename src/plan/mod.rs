//! Spec + Host → Plan: everything that a start will do, computed before it does anything.
//!
//! [`compile`] is a pure function. A [`Plan`] is three lists of steps for [`crate::init`] to execute:
//!
//! - `outside`, by the runtime in its own namespaces: copies of mounts that the container could not reach itself;
//! - `stage`, by a short-lived process between runtime and init, only where a pid or user namespace is joined: both
//!   take effect for children alone;
//! - `steps`, by init, from its first instruction to the program's.

pub mod builder;
pub mod caps;
mod cgroup_mounts;
mod devices;
pub mod exec;
pub mod explain;
pub mod hooks;
pub mod lsm;
mod mounts;
mod namespaces;
pub mod overlay;
pub mod process;
pub mod restore;
pub mod seccomp;

pub use mounts::{HOST_ROOT, IdMapping, Outside};
pub use namespaces::{Joined, flag as namespace_flag};
pub use overlay::Overlay;

use crate::cgroup::Layout;
use crate::error::{Error, Result};
use crate::init::{Exec, Gate, Op, Slot, Step};
use crate::spec::sysctl;
use crate::sys::mount::Attributes;
use builder::{Builder, cstring, slots};
use mounts::Mounted;
use oci_spec::runtime::{Hooks, Linux, LinuxNamespaceType, Process, Spec};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// What this machine offers, as far as a Plan depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Whether there is a /proc/kcore, to which /dev/core points.
    pub has_kcore: bool,
    /// Whether AppArmor is enabled.
    pub apparmor: bool,
    /// Whether SELinux is enabled.
    pub selinux: bool,
    /// Whether linux.namespaces names a user namespace and a cgroup namespace that belongs to another one.
    pub foreign_cgroup_namespace: bool,
    /// Whether a mount namespace can be made of the root alone (`OPEN_TREE_NAMESPACE`): the kernel can, this process is in the initial user namespace,
    /// without which no procfs could be mounted there, and no mount is a bind of something in a procfs, which may depend on who looks it up.
    pub makes_root_namespaces: bool,
    /// Whether there are process.user.additionalGids, and setgroups(2) is denied to who has them (user_namespaces(7)).
    pub denies_groups: bool,
    /// The `RLIMIT_NOFILE` (soft, hard) that a program has where `process.rlimits` does not name it, unless it is this
    /// process's own.
    pub open_files: Option<(u64, u64)>,
    /// The capabilities that init has to grant.
    pub capabilities: caps::Held,
}

/// What init waits for when all is set up, before it executes the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wait {
    /// `run`: nothing.
    #[default]
    Nothing,
    /// `create`: `start`.
    Start,
    /// A parked sandbox: a request.
    Lease {
        /// Whether the filter is in force meanwhile, which it has to allow.
        filtered: bool,
        /// Whether it is cloned in its network namespace, which is set up.
        networked: bool,
        /// Whether it is cloned in its mount and IPC namespaces, which are set up.
        furnished: bool,
        /// Whether it may run in its maker's memory, which then has nothing in it that is none of its business.
        shared: bool,
    },
}

/// Everything that decides what a start does.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// config.json, validated.
    pub spec: &'a Spec,
    /// `linux.seccomp`, compiled.
    pub seccomp: Option<&'a seccomp::Filter>,
    /// The machine.
    pub host: &'a Host,
    /// Its cgroup hierarchies.
    pub layout: &'a Layout,
    /// How many v1 hierarchies init has to join.
    pub cgroups_to_join: usize,
    /// Whether the container goes without these if they may not be made, which is not known yet.
    pub cgroups_may_be_missing: bool,
    /// Whether the runtime puts init into its cgroups, once there is an init.
    pub cgroup_awaits_init: bool,
    /// Its cgroup directories by controller, "" for v2.
    pub cgroup_directories: &'a [(String, PathBuf)],
    /// The bundle, absolute.
    pub bundle: &'a Path,
    /// root.path, absolute.
    pub rootfs: &'a Path,
    /// The container's directory under the state root.
    pub state_dir: &'a Path,
    /// The container's id.
    pub id: &'a str,
    /// An overlayfs instead of a bind of the root.
    pub overlay: Option<&'a Overlay>,
    /// --no-pivot, with the places of all mounts of procfs and sysfs outside the root, the latest first.
    pub no_pivot: Option<&'a [PathBuf]>,
    /// Without --no-new-keyring.
    pub new_keyring: bool,
    /// --preserve-fds.
    pub preserve_fds: u32,
    /// What init waits for.
    pub wait: Wait,
    /// --pidfd-socket.
    pub pidfd_socket: bool,
    /// What hooks that init runs read; needed if there are any.
    pub hook_state: Option<&'a hooks::State>,
    /// Whether the runtime itself passes on what is written to the terminal.
    pub terminal_served: bool,
    /// Whether this process has the rights of root, over this machine or over the user namespace that it is in.
    pub privileged: bool,
}

impl<'a> Input<'a> {
    fn linux(&self) -> Option<&'a Linux> {
        self.spec.linux().as_ref()
    }

    fn hooks(&self) -> Option<&'a Hooks> {
        self.spec.hooks().as_ref()
    }

    /// Who runs what. A container may be created without it, and then not be started (config.md, "Process").
    fn process(&self) -> Result<Cow<'a, Process>> {
        match self.spec.process() {
            Some(process) => Ok(Cow::Borrowed(process)),
            None if self.wait == Wait::Start => Ok(Cow::Owned(process::none())),
            None => Err(Error::config("process", "is missing: say what to run")),
        }
    }

    /// The container's cgroup in the hierarchy of `controller`, "" for v2.
    fn cgroup_directory(&self, controller: &str) -> Option<&'a Path> {
        self.cgroup_directories.iter().find(|(name, _)| name == controller).map(|(_, path)| path.as_path())
    }

    /// All of cgroup v2, which a container without a cgroup namespace is shown: /proc/self/cgroup names its cgroup from there. With
    /// a user namespace, or for a user, it is its own cgroup alone.
    fn all_cgroups(&self) -> Option<&'a Path> {
        let is_hosts = self.privileged && !self.has_user_namespace();
        let shown = is_hosts && self.namespace(LinuxNamespaceType::Cgroup).is_none();
        self.layout.unified.as_deref().filter(|_| shown)
    }

    /// Whether sources of mounts are looked up by the runtime: in its user namespace init is another user, who may not
    /// reach them. A runtime without rights of its own gains them only inside, where init is this same user.
    fn mounts_from_outside(&self) -> bool {
        self.privileged && self.has_user_namespace()
    }

    /// The path of a namespace: `None` when the config does not have that kind, `Some(None)` for a new one.
    fn namespace(&self, kind: LinuxNamespaceType) -> Option<Option<&'a Path>> {
        let namespaces = self.linux()?.namespaces().as_deref()?;
        let namespace = namespaces.iter().find(|namespace| namespace.typ() == kind)?;
        Some(namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty()))
    }

    /// A directory where something can be mounted for a moment, unseen by others.
    fn private_place(&self) -> Option<&'a Path> {
        self.namespace(LinuxNamespaceType::Mount).map(|_| self.state_dir)
    }

    /// Whether all that is to be mounted is, and the root is the container's.
    const fn is_furnished(&self) -> bool {
        matches!(self.wait, Wait::Lease { furnished: true, .. })
    }

    fn creates(&self, kind: LinuxNamespaceType) -> bool {
        self.namespace(kind) == Some(None)
    }

    fn creates_user_namespace(&self) -> bool {
        self.creates(LinuxNamespaceType::User)
    }

    fn has_user_namespace(&self) -> bool {
        self.namespace(LinuxNamespaceType::User).is_some()
    }

    /// Whether there is a cgroup namespace over which the container's user namespace has rights: only then can what it shows be mounted
    /// (cgroup_init_fs_context() in kernel/cgroup/cgroup.c).
    fn may_mount_cgroups(&self) -> bool {
        match self.namespace(LinuxNamespaceType::Cgroup) {
            None => false,
            Some(None) => true,
            Some(Some(_)) => !self.creates_user_namespace() && !self.host.foreign_cgroup_namespace,
        }
    }
}

/// A compiled start.
#[derive(Debug)]
pub struct Plan {
    /// Flags for clone3(2): the new namespaces.
    pub clone_flags: u64,
    /// Whether the child may run in its parent's memory until it executes the program.
    pub share_memory: bool,
    /// Namespaces to open before the clone.
    pub joined: Vec<Joined>,
    /// User namespaces to make before the clone, and steps of the runtime.
    pub outside: Outside,
    /// Steps of the process between runtime and init; empty when there is none.
    pub stage: Vec<Step>,
    /// Whether it is this process that is born in the container's cgroup, and init inherits that: the one enters a cgroup namespace from whose inside the other may not be
    /// put there (cgroups(7), nsdelegate).
    pub stage_in_cgroup: bool,
    /// Whether a helper is to make the network namespace at the same time ([`crate::init::help_with_network`]).
    pub network_helper: bool,
    /// Steps of init.
    pub steps: Vec<Step>,
    /// The slots for v1 `tasks` files.
    pub cgroup_slots: Vec<Slot>,
    /// What is executed in the end.
    pub exec: Exec,
}

/// Of a cgroup with less memory, in bytes, it cannot be said that it is enough for init to execute a program: that takes some
/// 200 KB, which the kernel charges in steps that are larger the more CPUs there are.
const ROOM_TO_BEGIN: i64 = 4 << 20;

/// The limit of memory in bytes, if there is one.
fn memory_limit(linux: &Linux) -> Option<i64> {
    let resources = linux.resources().as_ref()?;
    let limit = resources.memory().as_ref().and_then(oci_spec::runtime::LinuxMemory::limit).filter(|limit| *limit >= 0);
    let unified = resources.unified().as_ref().and_then(|unified| unified.get("memory.max"));
    limit.into_iter().chain(unified.and_then(|limit| limit.parse().ok())).min()
}

impl Plan {
    /// Whether init is cloned into this process's memory: not by way of a stage.
    pub fn shares_memory(&self) -> bool {
        self.share_memory && self.stage.is_empty()
    }

    /// Whether the container has a pid namespace of its own or joins one.
    pub fn has_pid_namespace(&self) -> bool {
        let pid = libc::CLONE_NEWPID;
        self.clone_flags & pid as u64 != 0 || self.joined.iter().any(|joined| joined.kind == pid)
    }

    /// The sentence for step `index` of `steps` (the number of steps itself stands for exec) having failed with `errno`.
    pub fn failure(&self, index: usize, errno: nix::errno::Errno) -> Error {
        explain::failure(&self.steps, &self.exec, index, errno)
    }

    /// As [`Plan::failure`], for a step that said in `words` why it failed.
    pub fn failure_in_words(&self, index: usize, words: &str) -> Error {
        match self.steps.get(index) {
            Some(Step { op: Op::RunHook(hook), .. }) => hooks::failure(hook, words),
            step => {
                let field = step.map_or("process.args", |step| &step.field);
                Error::new(crate::error::Kind::System, format!("{field}: {words}"))
            }
        }
    }
}

/// Compiles a container's start.
///
/// # Errors
/// A field that is invalid or contradicts another.
pub fn compile(input: &Input<'_>) -> Result<Plan> {
    let process = &*input.process()?;
    let entries = mounts::Entry::all(input.spec, input.rootfs)?;
    let begins_with_root = mounts::may_begin_with_root(input, &entries)?;
    let mut builder = Builder::new(begins_with_root);
    let mut outside = Outside::default();
    let cgroup_slots = builder.join_cgroups(input.cgroups_to_join, !input.cgroups_may_be_missing)?;
    if input.cgroup_awaits_init {
        builder.push("linux.cgroupsPath", Op::Meet(Gate::Cgroup));
    }
    process::any_cpu(&mut builder);
    let mut namespaces = namespaces::compile(&mut builder, input)?;
    outside.joined_user_namespace =
        namespaces.joined.iter().find(|joined| joined.kind == libc::CLONE_NEWUSER).map(|joined| joined.slot);
    if input.linux().and_then(|linux| linux.sysctl().as_ref()).is_some_and(|sysctls| !sysctls.is_empty()) {
        // Where it is /proc, that is to be the host's: what the container is to read only of its own, they are written to.
        builder.procfs();
    }
    let mounted = match input.is_furnished() {
        true => None,
        false => Some(mounts(&mut builder, input, process, &entries, &mut outside)?),
    };
    let has_own_null =
        mounted.as_ref().is_none_or(|mounted| !mounted.has_bound_dev) && !process.terminal().unwrap_or(false);
    let is_parked = matches!(input.wait, Wait::Lease { .. });
    let context = process::Context {
        // Sandboxes of one template have one Plan.
        keyring: input.new_keyring.then_some((!matches!(input.wait, Wait::Lease { .. })).then_some(input.id)),
        preserve_fds: input.preserve_fds,
        wait: input.wait,
        start_hooks: input.hooks().and_then(|hooks| hooks.start_container().as_deref()).zip(input.hook_state),
        dumpable: !input.privileged && input.creates_user_namespace() && input.creates(LinuxNamespaceType::Pid),
        groups: process::Groups::new(process::keeps_groups(input.spec), namespaces.may_set_groups),
        privileged: input.privileged,
        in_user_namespace: input.has_user_namespace(),
        seccomp: input.seccomp,
        pidfd_socket: input.pidfd_socket,
        holds_null: has_own_null && is_parked,
        host: input.host,
    };
    names(&mut builder, input)?;
    process::begin(&mut builder, process, &context)?;
    // A helper may take as long for the namespace as all that came until here. The umount in changing the root waits for a kernel thread, which would have to
    // wait for the helper.
    builder.need_network();
    if let Some(mounted) = mounted {
        change_root(&mut builder, input)?;
        if has_own_null && !is_parked {
            builder.push("(runtime)", Op::OwnNull { root: Some(slots::ROOT) });
        }
        finish_mounts(&mut builder, input, mounted)?;
    }
    system(&mut builder, input)?;
    let exec = process::compile(&mut builder, process, &context)?;
    // Writing oom_score_adj changes every process that shares the memory (fs/proc/base.c, __set_oom_adj), and a time
    // namespace takes effect at once only for a process with memory of its own.
    // Where init is killed because its cgroup's memory runs out, so is every process that shares the memory (mm/oom_kill.c).
    namespaces.share_memory &= process.oom_score_adj().is_none()
        && !matches!(input.wait, Wait::Lease { shared: false, .. })
        && input.linux().and_then(memory_limit).is_none_or(|limit| limit >= ROOM_TO_BEGIN);
    if let Wait::Lease { .. } = input.wait {
        builder.require_parkable()?;
    }
    Ok(Plan {
        clone_flags: namespaces.clone_flags,
        share_memory: namespaces.share_memory,
        joined: namespaces.joined,
        outside,
        network_helper: namespaces.network_helper,
        stage: namespaces.stage,
        stage_in_cgroup: namespaces.stage_in_cgroup,
        steps: builder.finish(),
        cgroup_slots,
        exec,
    })
}

/// Whether there are hooks that run while the root is still the host's.
fn runs_hooks_before_the_root(hooks: &Hooks) -> bool {
    let kinds = [hooks.prestart(), hooks.create_runtime(), hooks.create_container()];
    kinds.into_iter().any(|hooks| has_hooks(hooks.as_ref()))
}

fn has_hooks(hooks: Option<&Vec<oci_spec::runtime::Hook>>) -> bool {
    hooks.is_some_and(|hooks| !hooks.is_empty())
}

/// The mounts, the terminal, the hooks that look at them, and what is hidden.
fn mounts(
    builder: &mut Builder,
    input: &Input<'_>,
    process: &Process,
    entries: &[mounts::Entry<'_>],
    outside: &mut Outside,
) -> Result<Mounted> {
    let mounted = mounts::compile(builder, input, entries, outside)?;
    builder.after_network(|builder| overlay::working_directory(builder, process.cwd()))?;
    let terminal = process::Terminal { is_console: true, is_served: input.terminal_served };
    process::terminal(builder, process, terminal);
    network_devices(builder, input);
    create_hooks(builder, input)?;
    mounts::hidden_paths(builder, input, &mounted)?;
    Ok(mounted)
}

/// What the mounts become in the end.
fn finish_mounts(builder: &mut Builder, input: &Input<'_>, mounted: Mounted) -> Result<()> {
    // After the last bind, which an unbindable mount would refuse. What is to be private or a slave has been so from the beginning, and to say it again would
    // reach the mounts that have been told otherwise since.
    let propagation = mounts::root_propagation(input)?;
    if let Some((propagation @ (libc::MS_SHARED | libc::MS_UNBINDABLE), recursive)) = propagation {
        let attributes = Attributes { propagation, ..Attributes::default() };
        builder.push("linux.rootfsPropagation", Op::SetAttributes { mount: slots::ROOT, attributes, recursive });
    }
    mounts::finish(builder, input, mounted);
    Ok(())
}

/// Makes [`slots::ROOT`] the root.
fn change_root(builder: &mut Builder, input: &Input<'_>) -> Result<()> {
    let root = slots::ROOT;
    if builder.begins_with_root {
        return Ok(());
    }
    if input.namespace(LinuxNamespaceType::Mount).is_none() {
        builder.push("root.path", Op::ChangeRoot { root });
        return Ok(());
    }
    let shared = matches!(mounts::root_propagation(input)?, Some((libc::MS_SHARED, _)));
    let Some(host_views) = input.no_pivot else {
        builder.push("root.path", Op::PivotRoot { root, shared });
        return Ok(());
    };
    if shared {
        // Or the host's mounts would be taken away with ours.
        builder.push("(--no-pivot)", Op::RootPropagation { propagation: libc::MS_SLAVE });
    }
    for view in host_views {
        // The host's mounts stay below the new root, and an uncovered procfs there would allow the container to mount
        // one of its own (user_namespaces(7), mount_too_revealing() in fs/namespace.c).
        builder.push("(--no-pivot)", Op::Hide { path: builder::cpath("(--no-pivot)", view)? });
    }
    builder.push("root.path", Op::MoveRoot { root });
    Ok(())
}

/// Network devices come before the hooks, which find the environment complete.
fn network_devices(builder: &mut Builder, input: &Input<'_>) {
    let devices = input.linux().and_then(|linux| linux.net_devices().as_ref());
    if devices.is_some_and(|devices| !devices.is_empty()) {
        builder.need_network();
        builder.push("linux.netDevices", Op::Meet(Gate::NetDevices));
    }
}

/// The hooks that run before the root is changed.
fn create_hooks(builder: &mut Builder, input: &Input<'_>) -> Result<()> {
    let Some(hooks) = input.hooks() else { return Ok(()) };
    let prestart = hooks.prestart().as_ref();
    if [prestart, hooks.create_runtime().as_ref()].into_iter().any(has_hooks) {
        builder.need_network();
        builder.push("hooks", Op::Meet(Gate::Hooks));
    }
    hooks::create_container(builder, input)
}

/// `hostname` and `domainname`.
fn names(builder: &mut Builder, input: &Input<'_>) -> Result<()> {
    if let Some(name) = input.spec.hostname().as_ref().filter(|name| !name.is_empty()) {
        builder.push("hostname", Op::Hostname { name: cstring("hostname", name)? });
    }
    if let Some(name) = input.spec.domainname().as_ref().filter(|name| !name.is_empty()) {
        builder.push("domainname", Op::Domainname { name: cstring("domainname", name)? });
    }
    Ok(())
}

/// Kernel parameters, a memory policy and a personality.
fn system(builder: &mut Builder, input: &Input<'_>) -> Result<()> {
    let Some(linux) = input.linux() else { return Ok(()) };
    if let Some(sysctls) = linux.sysctl() {
        let mut sorted: Vec<_> = sysctls.iter().collect();
        sorted.sort();
        for (name, value) in sorted {
            let field = format!("linux.sysctl[{name:?}]");
            let path = cstring(&field, format!("sys/{}", sysctl::file(name)))?;
            let dir = builder.procfs();
            builder.push(field, Op::WriteFile { dir, path, data: value.clone().into_bytes() });
        }
    }
    process::memory_policy(builder, linux)?;
    process::personality(builder, linux)
}
