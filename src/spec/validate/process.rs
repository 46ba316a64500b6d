//! `process`, in config.json and by itself.

use super::{Check, absolute, environment, scheduling};
use crate::cpu_list;
use crate::error::{Error, Kind, Result};
use oci_spec::runtime::Process;

/// The most supplementary groups that setgroups(2) takes (linux/limits.h, `NGROUPS_MAX`).
const MAX_GROUPS: usize = 65536;

/// config.md, "Process": a container that is never started needs none.
pub(super) fn process(check: &mut Check<'_>) -> Result<()> {
    check.spec.process().as_ref().map_or(Ok(()), self::check)
}

/// Goes through the rules for a process object. What its capabilities can be granted, the Plan says.
pub(super) fn check(process: &Process) -> Result<()> {
    command(process)?;
    terminal(process)?;
    user(process)?;
    rlimits(process)?;
    oom_score(process)?;
    labels(process)?;
    scheduling::scheduler(process)?;
    scheduling::io_priority(process)?;
    affinity(process)
}

fn command(process: &Process) -> Result<()> {
    match process.args().as_deref().and_then(<[_]>::first) {
        None => return Err(Error::config("process.args", "is empty: name the program to run")),
        // As of any other program that is nowhere: engines tell by these words that it is the user's mistake (exit code 127).
        Some(name) if name.is_empty() => {
            return Err(Error::new(Kind::NoProgram, "exec: \"\": executable file not found in $PATH"));
        }
        Some(_) => {}
    }
    absolute(|| "process.cwd".into(), process.cwd())?;
    for (index, entry) in process.env().iter().flatten().enumerate() {
        environment(|| format!("process.env[{index}]"), entry)?;
    }
    Ok(())
}

/// consoleSize has to be ignored without a terminal; with one it has to fit into a `struct winsize`.
fn terminal(process: &Process) -> Result<()> {
    let Some(size) = process.console_size().filter(|_| process.terminal() == Some(true)) else { return Ok(()) };
    for (side, length) in [("height", size.height()), ("width", size.width())] {
        if length > u64::from(u16::MAX) {
            let problem = format!("{length} is too large for a terminal: use at most {}", u16::MAX);
            return Err(Error::config(format_args!("process.consoleSize.{side}"), problem));
        }
    }
    Ok(())
}

fn user(process: &Process) -> Result<()> {
    let user = process.user();
    // setuid(2) and its kind take this value for "leave it as it is", or refuse it.
    for (field, id) in [("uid", user.uid()), ("gid", user.gid())] {
        if id == u32::MAX {
            return Err(Error::config(
                format!("process.user.{field}"),
                format!("{id} is not an id: use a smaller one"),
            ));
        }
    }
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    if groups.len() > MAX_GROUPS {
        let problem = format!("has {} groups: the kernel takes at most {MAX_GROUPS}", groups.len());
        return Err(Error::config("process.user.additionalGids", problem));
    }
    match groups.iter().position(|gid| *gid == u32::MAX) {
        Some(index) => {
            let field = format!("process.user.additionalGids[{index}]");
            Err(Error::config(&field, format!("{} is not an id: use a smaller one", u32::MAX)))
        }
        None => Ok(()),
    }
}

/// config.md: duplicate types are an error. setrlimit(2): so is a soft limit above the hard one.
fn rlimits(process: &Process) -> Result<()> {
    let limits = process.rlimits().as_deref().unwrap_or_default();
    for (index, limit) in limits.iter().enumerate() {
        if limits.iter().take(index).any(|earlier| earlier.typ() == limit.typ()) {
            let problem = format!("{} is there twice: remove one", limit.typ());
            return Err(Error::config(format_args!("process.rlimits[{index}].type"), problem));
        }
        if limit.soft() > limit.hard() {
            let problem = format!("{} is above the hard limit {}: lower it", limit.soft(), limit.hard());
            return Err(Error::config(format_args!("process.rlimits[{index}].soft"), problem));
        }
    }
    Ok(())
}

/// proc_pid_oom_score_adj(5).
fn oom_score(process: &Process) -> Result<()> {
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(Error::config("process.oomScoreAdj", format!("{score} is out of range: use -1000 to 1000")))
        }
        _ => Ok(()),
    }
}

/// Labels are written to /proc/self/attr in one line each.
fn labels(process: &Process) -> Result<()> {
    for (field, label) in
        [("process.apparmorProfile", process.apparmor_profile()), ("process.selinuxLabel", process.selinux_label())]
    {
        if label.as_deref().is_some_and(|label| label.contains('\n')) {
            return Err(Error::config(field, "has a line break in it: remove it"));
        }
    }
    Ok(())
}

fn affinity(process: &Process) -> Result<()> {
    let Some(affinity) = process.exec_cpu_affinity() else { return Ok(()) };
    for (field, list) in [("initial", affinity.initial()), ("final", affinity.cpu_affinity_final())] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
            cpu_list::parse(&format!("process.execCPUAffinity.{field}"), list)?;
        }
    }
    Ok(())
}
