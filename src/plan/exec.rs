//! The Plan of `exec`: a new process in the namespaces and cgroups of a container that exists.
//!
//! The stage enters all namespaces at once, by a pidfd of the container's init, before it clones: the new process is
//! never seen in the container's pid namespace while it still has the host's file system as its root. With a user
//! namespace, whose root has no rights over a process that began outside of it (user_namespaces(7)), that does not
//! matter; and the rights to be born in the cgroup end when it is entered. So the process enters it itself then. And so
//! it does with the cgroup namespace, out of which nobody may be moved in (cgroups(7), "nsdelegate").

use super::builder::{Builder, slots};
use super::{Host, Outside, Plan, process, seccomp};
use crate::error::Result;
use crate::init::Op;
use crate::sys::clone::CLONE_NEWTIME;
use oci_spec::runtime::{Linux, Process};

/// Everything that decides what an `exec` does.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The process.
    pub process: &'a Process,
    /// `linux` of the container's configuration.
    pub linux: Option<&'a Linux>,
    /// Whether the container's annotations let the supplementary groups be ([`process::keeps_groups`]).
    pub keeps_groups: bool,
    /// The namespaces to enter, `CLONE_NEW*`.
    pub namespaces: i32,
    /// Whether this process has the rights of root, over this machine or over the user namespace that it is in.
    pub privileged: bool,
    /// `linux.seccomp`, compiled.
    pub seccomp: Option<&'a seccomp::Filter>,
    /// The machine.
    pub host: &'a Host,
    /// The container whose session keyring is joined, if it has one of its own.
    pub keyring: Option<&'a str>,
    /// How many v1 hierarchies have to be joined.
    pub cgroups_to_join: usize,
    /// --preserve-fds.
    pub preserve_fds: u32,
    /// --pidfd-socket.
    pub pidfd_socket: bool,
    /// Whether the runtime itself passes on what is written to the terminal.
    pub terminal_served: bool,
}

/// Compiles an `exec`. [`slots::JOINED`] is to hold a pidfd of the container's init.
///
/// # Errors
/// A field of the process that is invalid.
pub fn compile(input: &Input<'_>) -> Result<Plan> {
    let process = input.process;
    let affinity = process.exec_cpu_affinity().as_ref();
    let mut stage = Builder::default();
    let initial = affinity.and_then(|affinity| affinity.initial().as_ref());
    process::affinity(&mut stage, "process.execCPUAffinity.initial", initial)?;
    let in_stage = if input.privileged && input.namespaces & libc::CLONE_NEWUSER != 0 {
        input.namespaces & (libc::CLONE_NEWPID | CLONE_NEWTIME)
    } else {
        input.namespaces & !libc::CLONE_NEWCGROUP
    };
    enter(&mut stage, in_stage);

    let mut builder = Builder::default();
    let cgroup_slots = builder.join_cgroups(input.cgroups_to_join, true)?;
    if in_stage != input.namespaces {
        enter(&mut builder, input.namespaces & !in_stage);
    }
    let last = affinity.and_then(|affinity| affinity.cpu_affinity_final().as_ref());
    process::affinity(&mut builder, "process.execCPUAffinity.final", last)?;
    if initial.is_none() && last.is_none() {
        process::any_cpu(&mut builder);
    }
    if process.terminal().unwrap_or(false) {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        builder.push("process.terminal", Op::OpenHost { path: c"/".into(), flags, into: slots::ROOT });
        let terminal = process::Terminal { is_console: false, is_served: input.terminal_served };
        process::terminal(&mut builder, process, terminal);
    } else if input.namespaces & libc::CLONE_NEWNS != 0 {
        builder.push("(runtime)", Op::OwnNull { root: None });
    }
    if let Some(linux) = input.linux {
        process::memory_policy(&mut builder, linux)?;
        process::personality(&mut builder, linux)?;
    }
    let context = process::Context {
        keyring: input.keyring.map(Some),
        preserve_fds: input.preserve_fds,
        wait: super::Wait::Nothing,
        start_hooks: None,
        dumpable: false,
        groups: process::Groups::new(input.keeps_groups, !input.host.denies_groups),
        privileged: input.privileged,
        in_user_namespace: input.namespaces & libc::CLONE_NEWUSER != 0,
        seccomp: input.seccomp,
        pidfd_socket: input.pidfd_socket,
        holds_null: false,
        host: input.host,
    };
    process::begin(&mut builder, process, &context)?;
    let exec = process::compile(&mut builder, process, &context)?;
    Ok(Plan {
        clone_flags: 0,
        share_memory: false,
        joined: Vec::new(),
        outside: Outside::default(),
        network_helper: false,
        stage: stage.finish(),
        // The container's cgroup is inside of its cgroup namespace.
        stage_in_cgroup: false,
        steps: builder.finish(),
        cgroup_slots,
        exec,
    })
}

/// Enters `namespaces`, and becomes root of a user namespace among them.
///
/// From the first moment on, and again after its ids have changed, which makes a process dumpable, nobody in the
/// container may look into it (CVE-2016-9962).
fn enter(builder: &mut Builder, namespaces: i32) {
    builder.push("(runtime)", Op::Dumpable(false));
    if namespaces != 0 {
        builder.push("linux.namespaces", Op::EnterNamespace { ns: slots::JOINED, kinds: namespaces });
    }
    if namespaces & libc::CLONE_NEWUSER != 0 {
        builder.push("linux.uidMappings", Op::BecomeRoot);
        builder.push("(runtime)", Op::Dumpable(false));
    }
}
