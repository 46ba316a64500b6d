//! `linux.namespaces`, and the fields that only make sense in a namespace of the container's own.

use super::{Check, absolute};
use crate::error::{Error, Result};
use oci_spec::runtime::LinuxNamespaceType as Kind;

/// The longest host or domain name, in bytes (linux/utsname.h, `__NEW_UTS_LEN`).
const MAX_NAME: usize = 64;
/// The size of a network device's name with the NUL byte at its end (linux/if.h).
const IFNAMSIZ: usize = 16;

/// What a namespace type is called in config.json.
pub(super) fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Mount => "mount",
        Kind::Cgroup => "cgroup",
        Kind::Uts => "uts",
        Kind::Ipc => "ipc",
        Kind::User => "user",
        Kind::Pid => "pid",
        Kind::Network => "network",
        Kind::Time => "time",
    }
}

/// The error that `field` needs a namespace of `kind`.
pub(super) fn needs(field: &str, kind: Kind) -> Error {
    let kind = name(kind);
    Error::config(field, format!("needs a {kind} namespace: add {{\"type\": \"{kind}\"}} to linux.namespaces"))
}

/// config-linux.md, "Namespaces": no type twice, and paths are absolute.
pub(super) fn listed(check: &mut Check<'_>) -> Result<()> {
    let listed = check.linux().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    for (index, namespace) in listed.iter().enumerate() {
        if listed.iter().take(index).any(|earlier| earlier.typ() == namespace.typ()) {
            let problem = format!("{:?} is there twice: remove one", name(namespace.typ()));
            return Err(Error::config(format_args!("linux.namespaces[{index}].type"), problem));
        }
        if let Some(path) = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
            absolute(|| format!("linux.namespaces[{index}].path"), path)?;
        }
    }
    Ok(())
}

/// `hostname` and `domainname`: without a namespace they would be the host's.
pub(super) fn names(check: &mut Check<'_>) -> Result<()> {
    for (field, text) in [("hostname", check.spec.hostname()), ("domainname", check.spec.domainname())] {
        let Some(text) = text.as_deref().filter(|text| !text.is_empty()) else { continue };
        if !check.has_namespace(Kind::Uts) {
            return Err(needs(field, Kind::Uts));
        }
        if text.len() > MAX_NAME {
            let problem = format!("is {} bytes long: shorten it to {MAX_NAME}", text.len());
            return Err(Error::config(field, problem));
        }
    }
    Ok(())
}

/// `linux.timeOffsets` (time_namespaces(7)).
pub(super) fn time_offsets(check: &mut Check<'_>) -> Result<()> {
    let Some(offsets) = check.linux().and_then(|linux| linux.time_offsets().as_ref()).filter(|map| !map.is_empty())
    else {
        return Ok(());
    };
    match check.namespace(Kind::Time) {
        None => return Err(needs("linux.timeOffsets", Kind::Time)),
        Some(path) if !path.as_os_str().is_empty() => {
            let problem =
                format!("cannot be set for the time namespace that is joined ({path:?}): remove one of the two");
            return Err(Error::config("linux.timeOffsets", problem));
        }
        Some(_) => {}
    }
    let mut clocks: Vec<_> = offsets.iter().collect();
    clocks.sort_by_key(|(clock, _)| *clock);
    for (clock, offset) in clocks {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            let problem = format!("unknown clock {clock:?}: use monotonic or boottime");
            return Err(Error::config("linux.timeOffsets", problem));
        }
        if let Some(nanosecs) = offset.nanosecs().filter(|nanosecs| *nanosecs >= 1_000_000_000) {
            let problem = format!("{nanosecs} is a second or more: carry it over to secs");
            return Err(Error::config(format_args!("linux.timeOffsets.{clock}.nanosecs"), problem));
        }
    }
    Ok(())
}

/// `linux.netDevices`.
pub(super) fn network_devices(check: &mut Check<'_>) -> Result<()> {
    let Some(devices) = check.linux().and_then(|linux| linux.net_devices().as_ref()).filter(|map| !map.is_empty())
    else {
        return Ok(());
    };
    if !check.has_namespace(Kind::Network) {
        return Err(needs("linux.netDevices", Kind::Network));
    }
    let mut devices: Vec<_> = devices.iter().collect();
    devices.sort_by_key(|(name, _)| *name);
    let mut taken: Vec<&str> = Vec::new();
    for (name, device) in devices {
        device_name("linux.netDevices", name)?;
        let given = device.name().as_deref().filter(|inside| !inside.is_empty());
        if let Some(inside) = given {
            device_name(&format!("linux.netDevices.{name}.name"), inside)?;
        }
        let inside = given.unwrap_or(name);
        // Of a template like "c%d" the kernel makes a name that is free.
        if !inside.contains('%') && taken.contains(&inside) {
            let problem = format!("{inside:?} is another device's name in the container too: choose another");
            return Err(Error::config(format_args!("linux.netDevices.{name}.name"), problem));
        }
        taken.push(inside);
    }
    Ok(())
}

/// The kernel's rule for a network device's name (net/core/dev.c, `dev_valid_name`).
fn device_name(field: &str, name: &str) -> Result<()> {
    let plain = |byte: u8| !matches!(byte, b'/' | b':') && !byte.is_ascii_whitespace() && byte != 0x0b;
    let valid = !name.is_empty() && name.len() < IFNAMSIZ && name != "." && name != ".." && name.bytes().all(plain);
    if valid {
        return Ok(());
    }
    let problem =
        format!("{name:?} is no name for a network device: use 1 to 15 bytes without \"/\", \":\" and spaces");
    Err(Error::config(field, problem))
}
