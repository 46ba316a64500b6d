//! User namespaces and their id mappings.

use super::Check;
use super::namespaces::needs;
use crate::error::{Error, Result};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType as Kind};

/// The most lines that a uid_map or gid_map takes (user_namespaces(7), since Linux 4.15).
const MAX_MAPPINGS: usize = 340;

/// `linux.uidMappings` and `linux.gidMappings`, each with its name.
fn own<'a>(check: &Check<'a>) -> [(&'static str, &'a [LinuxIdMapping]); 2] {
    let linux = check.linux();
    [
        ("linux.uidMappings", linux.and_then(|linux| linux.uid_mappings().as_deref()).unwrap_or_default()),
        ("linux.gidMappings", linux.and_then(|linux| linux.gid_mappings().as_deref()).unwrap_or_default()),
    ]
}

/// A new user namespace needs mappings, mappings need a user namespace, and one that is joined has its own.
pub(super) fn user_namespace(check: &mut Check<'_>) -> Result<()> {
    let mappings = own(check);
    let namespace = check.namespace(Kind::User);
    for (field, list) in mappings {
        self::mappings(field, list)?;
        match namespace {
            None if !list.is_empty() => return Err(needs(field, Kind::User)),
            Some(path) if !path.as_os_str().is_empty() && !list.is_empty() => {
                let problem = format!("is not applied: the user namespace that is joined ({path:?}) has its own");
                check.warn(field, problem);
            }
            Some(path) if path.as_os_str().is_empty() && list.is_empty() => {
                let problem = "is missing: a new user namespace needs it";
                return Err(Error::config(field, problem));
            }
            _ => {}
        }
    }
    Ok(())
}

/// In a new user namespace only mapped ids exist: root, who sets the container up, and the process's own.
pub(super) fn process_ids(check: &mut Check<'_>) -> Result<()> {
    if check.namespace(Kind::User).is_none_or(|path| !path.as_os_str().is_empty()) {
        return Ok(());
    }
    let [(uid_field, uids), (gid_field, gids)] = own(check);
    for (field, list) in [(uid_field, uids), (gid_field, gids)] {
        if !maps(list, 0) {
            return Err(Error::config(field, "does not map id 0 of the container: map it"));
        }
    }
    let Some(user) = check.spec.process().as_ref().map(|process| process.user()) else { return Ok(()) };
    for (name, id, field, list) in [("uid", user.uid(), uid_field, uids), ("gid", user.gid(), gid_field, gids)] {
        if !maps(list, id) {
            let problem = format!("{id} is not mapped: add it to {field}");
            return Err(Error::config(format_args!("process.user.{name}"), problem));
        }
    }
    for (index, gid) in user.additional_gids().iter().flatten().enumerate() {
        if !maps(gids, *gid) {
            let problem = format!("{gid} is not mapped: add it to {gid_field}");
            return Err(Error::config(format_args!("process.user.additionalGids[{index}]"), problem));
        }
    }
    Ok(())
}

fn maps(list: &[LinuxIdMapping], id: u32) -> bool {
    list.iter().any(|mapping| id.checked_sub(mapping.container_id()).is_some_and(|offset| offset < mapping.size()))
}

/// The kernel's rules for a uid_map (kernel/user_namespace.c), which it breaks off with a bare EINVAL.
pub(super) fn mappings(field: &str, list: &[LinuxIdMapping]) -> Result<()> {
    if list.len() > MAX_MAPPINGS {
        let problem = format!("has {} entries: the kernel takes at most {MAX_MAPPINGS}", list.len());
        return Err(Error::config(field, problem));
    }
    for (index, mapping) in list.iter().enumerate() {
        let wrong = |name: &str, problem: &str| Err(Error::config(format_args!("{field}[{index}].{name}"), problem));
        if mapping.size() == 0 {
            return wrong("size", "is 0: give the number of ids");
        }
        for (name, first) in [("containerID", mapping.container_id()), ("hostID", mapping.host_id())] {
            if u64::from(first) + u64::from(mapping.size()) > u64::from(u32::MAX) {
                return wrong(name, "and size together go beyond the highest id, 4294967294: lower one of them");
            }
        }
        for earlier in list.iter().take(index) {
            for (name, one, other) in [
                ("containerID", mapping.container_id(), earlier.container_id()),
                ("hostID", mapping.host_id(), earlier.host_id()),
            ] {
                if u64::from(one) < u64::from(other) + u64::from(earlier.size())
                    && u64::from(other) < u64::from(one) + u64::from(mapping.size())
                {
                    return wrong(name, "overlaps with an entry before it: map each id once");
                }
            }
        }
    }
    Ok(())
}

/// Without the rights of root there has to be a user namespace, file systems take no id from outside of it, and the
/// host's network devices stay where they are.
pub(super) fn rootless(check: &Check<'_>) -> Result<()> {
    let Some(path) = check.namespace(Kind::User) else {
        return Err(needs("linux.namespaces", Kind::User).context("without root"));
    };
    if check.linux().and_then(|linux| linux.net_devices().as_ref()).is_some_and(|devices| !devices.is_empty()) {
        let problem = "network devices are not supported for rootless containers: remove it";
        return Err(Error::config("linux.netDevices", problem).context("without root"));
    }
    if !path.as_os_str().is_empty() {
        return Ok(());
    }
    let [(uid_field, uids), (gid_field, gids)] = own(check);
    for (index, mount) in check.spec.mounts().iter().flatten().enumerate() {
        for option in mount.options().iter().flatten() {
            for (prefix, field, list) in [("uid=", uid_field, uids), ("gid=", gid_field, gids)] {
                let id = option.strip_prefix(prefix).and_then(|id| id.parse().ok());
                if id.is_some_and(|id| !maps(list, id)) {
                    let problem = format!("{option:?} is not mapped: add it to {field} or remove the option");
                    return Err(Error::config(format_args!("mounts[{index}].options"), problem).context("without root"));
                }
            }
        }
    }
    Ok(())
}
