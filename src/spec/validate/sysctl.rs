//! `linux.sysctl`: only what belongs to one of the container's own namespaces may be set.

use super::Check;
use super::namespaces::needs;
use crate::error::{Error, Result};
use crate::spec::sysctl::dotted;
use oci_spec::runtime::LinuxNamespaceType as Kind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The parameters below kernel.* that are each IPC namespace's own (ipc_namespaces(7)).
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Refuses every parameter that would change the host.
pub(super) fn sysctl(check: &mut Check<'_>) -> Result<()> {
    let Some(parameters) = check.linux().and_then(|linux| linux.sysctl().as_ref()) else { return Ok(()) };
    let mut names: Vec<&String> = parameters.keys().collect();
    names.sort();
    for name in names {
        allowed(check, name)?;
    }
    Ok(())
}

fn allowed(check: &Check<'_>, name: &str) -> Result<()> {
    let field = format!("linux.sysctl[{name:?}]");
    let dotted = dotted(name);
    if dotted.split(['.', '/']).any(|part| part.is_empty()) {
        return Err(Error::config(&field, "is no name of a kernel parameter: write it as sysctl(8) does"));
    }
    if dotted == "kernel.hostname" {
        return Err(Error::config(&field, "conflicts with a field of its own: use hostname"));
    }
    let kind = match &*dotted {
        name if IPC.contains(&name) || name.starts_with("fs.mqueue.") => Kind::Ipc,
        name if name.starts_with("net.") => Kind::Network,
        name if name.starts_with("user.") => Kind::User,
        "kernel.domainname" => Kind::Uts,
        _ => {
            return Err(Error::config(&field, "belongs to no namespace, so it would change the host: remove it"));
        }
    };
    match check.namespace(kind) {
        None => Err(needs(&field, kind)),
        Some(path) if kind == Kind::Network && is_own_network(path) => {
            Err(Error::config(&field, format!("would change the host, whose network namespace {path:?} is: remove it")))
        }
        Some(_) => Ok(()),
    }
}

/// Whether `path` is the network namespace that the runtime itself is in. One that cannot be looked at is refused
/// when it is opened, with the better error.
fn is_own_network(path: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    !path.as_os_str().is_empty()
        && identity(path).is_some_and(|joined| identity(Path::new("/proc/self/ns/net")) == Some(joined))
}
