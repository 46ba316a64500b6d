//! `linux.namespaces`: which are made by clone3, which are joined, and in which order.

use super::builder::{Builder, slots};
use super::{Input, Wait};
use crate::error::Result;
use crate::init::{Gate, Op, Slot, Step};
use crate::spec;
use crate::sys::clone::CLONE_NEWTIME;
use oci_spec::runtime::LinuxNamespaceType;
use std::path::PathBuf;

/// A namespace that exists, to be opened before the clone.
#[derive(Debug)]
pub struct Joined {
    /// Where its descriptor goes.
    pub slot: Slot,
    /// `CLONE_NEW*`.
    pub kind: i32,
    /// Its path on the host.
    pub path: PathBuf,
    /// The entry of linux.namespaces.
    pub field: String,
}

/// The outcome.
#[derive(Debug)]
pub(super) struct Namespaces {
    pub clone_flags: u64,
    pub share_memory: bool,
    pub joined: Vec<Joined>,
    pub stage: Vec<Step>,
    pub stage_in_cgroup: bool,
    pub network_helper: bool,
    /// Whether setgroups(2) is allowed.
    pub may_set_groups: bool,
}

/// The flag that stands for a kind.
pub fn flag(kind: LinuxNamespaceType) -> i32 {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => CLONE_NEWTIME,
    }
}

/// Compiles the steps that enter and leave namespaces.
///
/// The cgroup namespace is left last, from within the container's cgroup, which thereby becomes its root. A user
/// namespace comes first, for it owns all others.
pub(super) fn compile(builder: &mut Builder, input: &Input<'_>) -> Result<Namespaces> {
    let mut found = Namespaces {
        clone_flags: 0,
        share_memory: !input.has_user_namespace() && input.namespace(LinuxNamespaceType::Time).is_none(),
        joined: Vec::new(),
        stage: Vec::new(),
        stage_in_cgroup: false,
        network_helper: false,
        may_set_groups: true,
    };
    let listed = input.linux().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let mut entered = Vec::new();
    for (index, namespace) in listed.iter().enumerate() {
        let kind = flag(namespace.typ());
        let field = format!("linux.namespaces[{index}]");
        match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => {
                let slot = builder.slot(&field)?;
                entered.push((kind, slot, field.clone()));
                found.joined.push(Joined { slot, kind, path: path.clone(), field });
            }
            // These two are made by unshare(2), later.
            None if kind == libc::CLONE_NEWCGROUP || kind == CLONE_NEWTIME => {}
            // It is made of the root.
            None if kind == libc::CLONE_NEWNS && builder.begins_with_root => {}
            None if matches!(kind, libc::CLONE_NEWNS | libc::CLONE_NEWIPC) && input.is_furnished() => {}
            None => found.clone_flags |= kind as u64,
        }
    }
    // Root may join all namespaces, even those that do not belong to the container's user namespace, as long as it is
    // not in there; others get the rights to join in there.
    let first = input.privileged && input.has_user_namespace();
    entered.sort_by_key(|(kind, ..)| (*kind == libc::CLONE_NEWUSER) == first);
    for (kind, slot, field) in entered {
        let step = Op::EnterNamespace { ns: slot, kinds: kind };
        let in_stage = match kind {
            // These two take effect for children.
            libc::CLONE_NEWPID | libc::CLONE_NEWUSER => true,
            // From inside a cgroup namespace nobody is put into a cgroup outside (cgroups(7), nsdelegate). From inside a user namespace only its own are joined.
            libc::CLONE_NEWCGROUP => first && !input.may_mount_cgroups(),
            _ => first,
        };
        if in_stage {
            // From inside a user namespace nobody is put into a cgroup that has been given to somebody there.
            found.stage_in_cgroup |=
                kind == libc::CLONE_NEWCGROUP || kind == libc::CLONE_NEWUSER && spec::delegates_cgroup(input.spec);
            found.stage.push(Step { op: step, field: field.into() });
        } else {
            builder.push(field, step);
        }
    }
    if input.creates_user_namespace() {
        builder.push("linux.uidMappings", Op::Meet(Gate::Mappings));
    }
    // As the user that nobody inside is: its files below /proc belong to another once it is the container's root.
    if input.creates(LinuxNamespaceType::Time) {
        time(builder, input);
    }
    if input.has_user_namespace() {
        builder.push("linux.uidMappings", Op::BecomeRoot);
    }
    // From here on others may share a namespace with init, which may run in the runtime's memory.
    builder.push("(runtime)", Op::Dumpable(false));
    found.may_set_groups =
        !input.host.denies_groups && (input.privileged || !input.creates_user_namespace() || maps_groups(input));
    if input.creates_user_namespace() && input.creates(LinuxNamespaceType::Ipc) {
        // Its message queues' directory belongs to who makes it (ipc/mqueue.c): to nobody, before there is a root.
        found.clone_flags &= !(libc::CLONE_NEWIPC as u64);
        builder.push("linux.namespaces (ipc)", Op::NewNamespaces { kinds: libc::CLONE_NEWIPC });
    }
    if input.creates(LinuxNamespaceType::Network) {
        network(builder, &mut found, input);
    }
    if input.creates(LinuxNamespaceType::Cgroup) {
        builder.push("linux.namespaces (cgroup)", Op::NewNamespaces { kinds: libc::CLONE_NEWCGROUP });
    }
    Ok(found)
}

/// A network namespace that belongs to our own user namespace can be made by a helper, at the same time as the rest.
/// What is made ahead is in no hurry.
fn network(builder: &mut Builder, found: &mut Namespaces, input: &Input<'_>) {
    let field = "linux.namespaces (network)";
    let (is_ahead, is_lent) = match input.wait {
        Wait::Lease { networked, .. } => (true, networked),
        _ => (false, false),
    };
    found.network_helper = found.share_memory && found.stage.is_empty() && !is_ahead;
    // Who owns its files below /proc and /sys the kernel decides when it is made: nobody, if no root is mapped yet (net/core/net_namespace.c).
    let has_no_root = input.creates_user_namespace();
    if is_lent || found.network_helper || has_no_root {
        found.clone_flags &= !(libc::CLONE_NEWNET as u64);
    }
    if is_lent {
        return;
    }
    if found.network_helper {
        builder.defer_network(Op::NewNetwork { helper: slots::NETWORK });
        return;
    }
    if has_no_root {
        builder.push(field, Op::NewNamespaces { kinds: libc::CLONE_NEWNET });
    }
    builder.push(field, Op::LoopbackUp);
}

/// More than one group mapped means that newgidmap(1) wrote the map; a lone one that setgroups(2) had to be denied.
fn maps_groups(input: &Input<'_>) -> bool {
    let mappings = input.linux().and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default();
    mappings.len() > 1 || mappings.iter().any(|mapping| mapping.size() > 1)
}

/// A new time namespace: made, given its offsets, which can be set only while no process is in it, and entered.
fn time(builder: &mut Builder, input: &Input<'_>) {
    let field = "linux.namespaces (time)";
    builder.push(field, Op::NewNamespaces { kinds: CLONE_NEWTIME });
    if input.has_user_namespace() {
        // Entering it may have taken our files below /proc away from us (ptrace(2), "PTRACE_MODE_*": dumpable).
        builder.push(field, Op::Dumpable(true));
    }
    time_offsets(builder, input);
    let proc = builder.procfs();
    builder.push(field, Op::EnterOwnTime { proc });
}

fn time_offsets(builder: &mut Builder, input: &Input<'_>) {
    let Some(offsets) = input.linux().and_then(|linux| linux.time_offsets().as_ref()) else { return };
    let mut sorted: Vec<_> = offsets.iter().collect();
    sorted.sort_by_key(|(clock, _)| *clock);
    let lines = sorted
        .iter()
        .map(|(clock, offset)| format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0)));
    let data = lines.collect::<String>().into_bytes();
    if !data.is_empty() {
        let dir = builder.procfs();
        builder.push("linux.timeOffsets", Op::WriteFile { dir, path: c"self/timens_offsets".into(), data });
    }
}
