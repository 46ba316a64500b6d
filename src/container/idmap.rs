//! User namespaces: writing their id mappings, and making them for id-mapped mounts.

use crate::error::{Doing, Error, Kind, Result};
use crate::sys::{clone, fs as sys_fs, process, socket};
use oci_spec::runtime::{LinuxIdMapping, Spec};
use std::fmt::Write;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

/// Writes `linux.uidMappings` and `linux.gidMappings` for the process `pid`, which is alone in a new user namespace.
///
/// # Errors
/// The file or program that refused them.
pub(super) fn write_mappings(pid: i32, spec: &Spec) -> Result<()> {
    let linux = spec.linux().as_ref();
    let uids = linux.and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default();
    let gids = linux.and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default();
    if nix::unistd::geteuid().is_root() {
        write_map(pid, "uid_map", "linux.uidMappings", uids)?;
        write_map(pid, "gid_map", "linux.gidMappings", gids)
    } else {
        write_rootless(pid, uids, gids)
    }
}

/// The host's id for the id `inside`, which is the same where nothing is mapped; `None` if it is not mapped.
pub(super) fn of_host(inside: u32, mappings: &[LinuxIdMapping]) -> Option<u32> {
    let host = |map: &LinuxIdMapping| {
        let offset = inside.checked_sub(map.container_id()).filter(|offset| *offset < map.size())?;
        map.host_id().checked_add(offset)
    };
    if mappings.is_empty() { Some(inside) } else { mappings.iter().find_map(host) }
}

/// The host's id for the id `inside` by `map`, a file like /proc/PID/uid_map; `None` if it is not mapped there.
pub(super) fn of_host_by(map: &Path, inside: u32) -> Option<u32> {
    // What follows the first number is the host's as seen from here (user_namespaces(7)).
    fs::read_to_string(map).ok()?.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse::<u32>().ok());
        let (first, host, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let offset = inside.checked_sub(first).filter(|offset| *offset < count)?;
        host.checked_add(offset)
    })
}

fn lines(mappings: &[LinuxIdMapping]) -> String {
    mappings.iter().fold(String::new(), |mut text, mapping| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {}", mapping.container_id(), mapping.host_id(), mapping.size());
        text
    })
}

fn write_map(pid: i32, file: &str, field: &str, mappings: &[LinuxIdMapping]) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    fs::write(&path, lines(mappings)).doing(|| format!("{field}: write {path}"))
}

/// Without privileges a user may map itself alone, after giving up setgroups(2) (user_namespaces(7)); for more there
/// are newuidmap(1) and newgidmap(1), which go by /etc/subuid and /etc/subgid.
fn write_rootless(pid: i32, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<()> {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let own_only = |mappings: &[LinuxIdMapping], own: u32| matches!(mappings, [mapping] if mapping.size() == 1 && mapping.host_id() == own);
    if own_only(uids, uid) {
        write_map(pid, "uid_map", "linux.uidMappings", uids)?;
    } else {
        call_helper("newuidmap", pid, "linux.uidMappings", uids)?;
    }
    if own_only(gids, gid) {
        let path = format!("/proc/{pid}/setgroups");
        fs::write(&path, "deny").doing(|| format!("linux.gidMappings: write {path}"))?;
        write_map(pid, "gid_map", "linux.gidMappings", gids)
    } else {
        call_helper("newgidmap", pid, "linux.gidMappings", gids)
    }
}

fn call_helper(program: &str, pid: i32, field: &str, mappings: &[LinuxIdMapping]) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for mapping in mappings {
        for number in [mapping.container_id(), mapping.host_id(), mapping.size()] {
            command.arg(number.to_string());
        }
    }
    process::before_exec(&mut command, || Ok(()));
    let output = command.output().doing(|| format!("{field}: run {program} (Debian's package uidmap)"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let problem = format!("{field}: {program} refused the mappings ({}): see /etc/subuid and /etc/subgid", said.trim());
    Err(Error::new(Kind::Config, problem))
}

/// A user namespace with these mappings, which nobody is in: for mount_setattr(2) with MOUNT_ATTR_IDMAP.
///
/// # Errors
/// What the kernel refuses.
pub fn user_namespace(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<OwnedFd> {
    let doing = || "make a user namespace for an id-mapped mount";
    let (ours, theirs) = socket::pair().doing(doing)?;
    let (ours, theirs) = (crate::sys::own(ours), crate::sys::own(theirs));
    let request = clone::Request { flags: libc::CLONE_NEWUSER as u64, cgroup: None, exit_signal: libc::SIGCHLD };
    let child = clone::fork_and(&request, (ours.as_raw_fd(), theirs.as_raw_fd()), |(ours, theirs)| {
        sys_fs::close(ours);
        // Until the parent closes its end: then the namespace is held by a descriptor.
        let _ = sys_fs::read(theirs, &mut [0]);
        process::exit(0)
    });
    let child = child.doing(doing)?;
    drop(theirs);
    let made = write_map(child.pid, "uid_map", "mounts (idmap)", uids)
        .and_then(|()| write_map(child.pid, "gid_map", "mounts (idmap)", gids))
        .and_then(|()| fs::File::open(format!("/proc/{}/ns/user", child.pid)).doing(doing));
    drop(ours);
    let _ = process::wait(child.pid, 0);
    sys_fs::close(child.pidfd);
    made.map(OwnedFd::from)
}
