//! The fields of `linux` that stand by themselves.

use super::namespaces::needs;
use super::{Check, absolute};
use crate::cpu_list;
use crate::error::{Error, Result};
use crate::spec::mount_options::{self, Effect};
use oci_spec::runtime::{
    LinuxIntelRdt, LinuxNamespaceType as Kind, MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode,
};
use std::path::Path;

/// `linux.maskedPaths` and `linux.readonlyPaths`: absolute, and not on the host.
pub(super) fn hidden_paths(check: &mut Check<'_>) -> Result<()> {
    let Some(linux) = check.linux() else { return Ok(()) };
    for (field, paths) in [("linux.maskedPaths", linux.masked_paths()), ("linux.readonlyPaths", linux.readonly_paths())]
    {
        let paths = paths.as_deref().unwrap_or_default();
        if !paths.is_empty() && !check.has_namespace(Kind::Mount) {
            return Err(needs(field, Kind::Mount));
        }
        for (index, path) in paths.iter().enumerate() {
            absolute(|| format!("{field}[{index}]"), Path::new(path))?;
        }
    }
    Ok(())
}

/// `linux.rootfsPropagation`: the spec's four words, and runc's recursive variants of them.
pub(super) fn rootfs_propagation(check: &mut Check<'_>) -> Result<()> {
    let word = check.linux().and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or_default();
    if word.is_empty() || matches!(mount_options::effect(word), Some(Effect::Propagation(..))) {
        return Ok(());
    }
    let problem =
        format!("unknown value {word:?}: use one of shared, slave, private, unbindable, or rshared and so on");
    Err(Error::config("linux.rootfsPropagation", problem))
}

/// `linux.intelRdt`. Whether this machine has the feature is found out by who writes to it.
pub(super) fn intel_rdt(check: &mut Check<'_>) -> Result<()> {
    let Some(rdt) = check.linux().and_then(|linux| linux.intel_rdt().as_ref()) else { return Ok(()) };
    let class = rdt.clos_id().as_deref().unwrap_or_default();
    // "/" is the default class; anything else is the name of one directory.
    if class == "." || class == ".." || (class.len() > 1 && class.contains('/')) {
        let problem = format!("{class:?} is no name for a directory: use a plain name, or \"/\"");
        return Err(Error::config("linux.intelRdt.closID", problem));
    }
    schemata(rdt)
}

fn schemata(rdt: &LinuxIntelRdt) -> Result<()> {
    let one_line = |field: &str, schema: &str| {
        if schema.contains('\n') {
            return Err(Error::config(format_args!("linux.intelRdt.{field}"), "has a line break in it: remove it"));
        }
        Ok(())
    };
    one_line("l3CacheSchema", rdt.l3_cache_schema().as_deref().unwrap_or_default())?;
    let bandwidth = rdt.mem_bw_schema().as_deref().unwrap_or_default();
    one_line("memBwSchema", bandwidth)?;
    if !bandwidth.is_empty() && !bandwidth.starts_with("MB:") {
        let problem = format!("{bandwidth:?} does not begin with \"MB:\": put it there");
        return Err(Error::config("linux.intelRdt.memBwSchema", problem));
    }
    for (index, line) in rdt.schemata().iter().flatten().enumerate() {
        one_line(&format!("schemata[{index}]"), line)?;
    }
    Ok(())
}

/// `linux.memoryPolicy` (set_mempolicy(2)).
pub(super) fn memory_policy(check: &mut Check<'_>) -> Result<()> {
    let Some(policy) = check.linux().and_then(|linux| linux.memory_policy().as_ref()) else { return Ok(()) };
    let nodes = policy.nodes().as_deref().unwrap_or_default();
    let mut count = 0;
    if !nodes.is_empty() {
        let mask = cpu_list::parse("linux.memoryPolicy.nodes: invalid memory policy node", nodes)?;
        count = mask.iter().map(|word| word.count_ones()).sum();
    }
    let mode = policy.mode();
    match mode {
        Mode::MpolDefault | Mode::MpolLocal if !nodes.is_empty() => {
            let problem = format!("cannot be used with {mode} (mode requires 0 nodes but got {count}): remove it");
            return Err(Error::config("linux.memoryPolicy.nodes", problem));
        }
        Mode::MpolBind | Mode::MpolInterleave | Mode::MpolPreferredMany | Mode::MpolWeightedInterleave
            if nodes.is_empty() =>
        {
            return Err(Error::config("linux.memoryPolicy.nodes", format!("is missing: {mode} needs at least one")));
        }
        _ => {}
    }
    let flags = policy.flags().as_deref().unwrap_or_default();
    if flags.contains(&Flag::MpolFStaticNodes) && flags.contains(&Flag::MpolFRelativeNodes) {
        let problem = "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other: remove one";
        return Err(Error::config("linux.memoryPolicy.flags", problem));
    }
    Ok(())
}

/// `linux.personality`: runtime-spec defines no flag, so every one is unsupported.
pub(super) fn personality(check: &mut Check<'_>) -> Result<()> {
    let flags = check.linux().and_then(|linux| linux.personality().as_ref()).and_then(|all| all.flags().as_ref());
    match flags.and_then(|flags| flags.first()) {
        Some(flag) => {
            let problem = format!("{flag:?} is not supported, no flag is: remove it");
            Err(Error::config("linux.personality.flags", problem))
        }
        None => Ok(()),
    }
}
