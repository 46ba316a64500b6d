//! `linux.devices`.

use super::{Check, absolute};
use crate::error::{Error, Result};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType as Type};

/// The highest device numbers (linux/kdev_t.h: 12 bits and 20 bits).
const MAX_MAJOR: i64 = (1 << 12) - 1;
const MAX_MINOR: i64 = (1 << 20) - 1;

/// config-linux.md, "Devices".
pub(super) fn devices(check: &mut Check<'_>) -> Result<()> {
    let devices = check.linux().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    for (index, device) in devices.iter().enumerate() {
        absolute(|| format!("linux.devices[{index}].path"), device.path())?;
        if device.typ() == Type::A {
            let problem = "\"a\" is for rules about devices, not for a device: use c, b, u or p";
            return Err(Error::config(format_args!("linux.devices[{index}].type"), problem));
        }
        if device.typ() != Type::P {
            numbers(index, device)?;
        }
    }
    Ok(())
}

fn numbers(index: usize, device: &LinuxDevice) -> Result<()> {
    for (name, number, most) in [("major", device.major(), MAX_MAJOR), ("minor", device.minor(), MAX_MINOR)] {
        if !(0..=most).contains(&number) {
            let problem = format!("{number} is no device number: use 0 to {most}");
            return Err(Error::config(format_args!("linux.devices[{index}].{name}"), problem));
        }
    }
    Ok(())
}
