//! `mounts`.

use super::{Check, ids};
use crate::error::{Error, Result};
use crate::spec::mount_options::{self, Effect};
use oci_spec::runtime::{LinuxNamespaceType as Kind, Mount};

/// config.md, "Mounts".
pub(super) fn mounts(check: &mut Check<'_>) -> Result<()> {
    for (index, mount) in check.spec.mounts().iter().flatten().enumerate() {
        let destination = mount.destination();
        if destination.as_os_str().is_empty() {
            return Err(Error::config(format_args!("mounts[{index}].destination"), "is empty: say where to mount"));
        }
        if !destination.is_absolute() {
            let problem = format!("{destination:?} is relative, which is deprecated: it is taken from \"/\"");
            check.warn(format!("mounts[{index}].destination"), problem);
        }
        let traits = Traits::of(mount);
        if mount.typ().as_deref().is_none_or(str::is_empty) && !traits.bind && !traits.remount {
            let problem = "is missing: name a file system, or add \"bind\" to the options";
            return Err(Error::config(format_args!("mounts[{index}].type"), problem));
        }
        bind(check, index, mount, &traits)?;
        id_mapped(check, index, mount, &traits)?;
        if traits.copy_up && (traits.bind || mount.typ().as_deref() != Some("tmpfs")) {
            check.warn(format!("mounts[{index}].options"), "tmpcopyup has no effect: it is for a tmpfs");
        }
    }
    Ok(())
}

/// What the options say, as far as the rules depend on it.
#[derive(Default)]
struct Traits<'a> {
    bind: bool,
    remount: bool,
    id_mapped: bool,
    copy_up: bool,
    data: Option<&'a str>,
}

impl<'a> Traits<'a> {
    fn of(mount: &'a Mount) -> Self {
        let mut traits = Self { bind: mount.typ().as_deref() == Some("bind"), ..Self::default() };
        for option in mount.options().iter().flatten() {
            match mount_options::effect(option) {
                Some(Effect::Bind(_)) => traits.bind = true,
                Some(Effect::Remount) => traits.remount = true,
                Some(Effect::IdMap(_)) => traits.id_mapped = true,
                Some(Effect::CopyUp) => traits.copy_up = true,
                Some(_) => {}
                None => traits.data = traits.data.or(Some(option)),
            }
        }
        traits
    }
}

/// A bind mount has no options of its file system: the kernel leaves them out (mount(2), MS_BIND), and so do we.
fn bind(check: &mut Check<'_>, index: usize, mount: &Mount, traits: &Traits<'_>) -> Result<()> {
    if !traits.bind {
        return Ok(());
    }
    if let Some(option) = traits.data {
        let problem = format!("{option:?} is an option of file systems, which a bind mount cannot take: left out");
        check.warn(format!("mounts[{index}].options"), problem);
    }
    // A remount has no use for one.
    if !traits.remount && mount.source().as_deref().is_none_or(|source| source.as_os_str().is_empty()) {
        return Err(Error::config(format_args!("mounts[{index}].source"), "is missing: a bind mount needs it"));
    }
    Ok(())
}

/// config.md: both mappings or none; with "idmap" and none, those of the user namespace.
fn id_mapped(check: &Check<'_>, index: usize, mount: &Mount, traits: &Traits<'_>) -> Result<()> {
    let uids = mount.uid_mappings().as_deref().unwrap_or_default();
    let gids = mount.gid_mappings().as_deref().unwrap_or_default();
    if uids.is_empty() && gids.is_empty() {
        if traits.id_mapped && !check.has_namespace(Kind::User) {
            let problem = "idmap needs uidMappings and gidMappings, or a user namespace to take them from: add them";
            return Err(Error::config(format_args!("mounts[{index}].options"), problem));
        }
    } else {
        for (name, list, other) in [("uidMappings", uids, "gidMappings"), ("gidMappings", gids, "uidMappings")] {
            let field = format!("mounts[{index}].{name}");
            if list.is_empty() {
                return Err(Error::config(&field, format!("is missing, but {other} is there: give both")));
            }
            ids::mappings(&field, list)?;
        }
    }
    if (traits.id_mapped || !uids.is_empty()) && !traits.bind {
        let problem = "an id-mapped mount has to be a bind mount: add \"bind\" or \"rbind\"";
        return Err(Error::config(format_args!("mounts[{index}].options"), problem));
    }
    Ok(())
}
