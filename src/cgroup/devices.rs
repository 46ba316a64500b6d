//! Device rules: config.json's ordered list, reduced to a default and its exceptions, as cgroup v1 knows them.
//!
//! The reduction serves both kernels' interfaces: the lines of `devices.allow`/`devices.deny` (v1) and the eBPF
//! program of a v2 directory ([`super::program`]). A container starts from "deny everything"; a rule for all devices
//! resets the list; any other rule adds to or removes from the exceptions, and exceptions for the same devices are
//! merged. Last come the devices that no container can do without ([`ALWAYS_ALLOWED`]).

use crate::{Error, Result};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use serde::{Serialize, Serializer};
use std::fmt;

/// A set of the three ways to use a device, as the bits of linux/bpf.h (`BPF_DEVCG_ACC_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access(u8);

impl Access {
    /// Creating a device node.
    pub const MKNOD: Self = Self(1);
    /// Opening for reading.
    pub const READ: Self = Self(2);
    /// Opening for writing.
    pub const WRITE: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);

    /// The bits as the kernel hands them to a device program.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The letters of "rwm" in `text`. Others mean nothing, as in runc; [`has_other_letters`] finds them.
    fn parse(text: &str) -> Self {
        Self(text.bytes().fold(0, |bits, letter| {
            bits | match letter {
                b'r' => Self::READ.0,
                b'w' => Self::WRITE.0,
                b'm' => Self::MKNOD.0,
                _ => 0,
            }
        }))
    }

    fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MKNOD, 'm')] {
            if self.overlaps(bit) {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// The two kinds of device that the kernel's device controller tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A block device.
    Block,
    /// A character device.
    Char,
}

/// The devices that an exception speaks of; `None` stands for every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Devices {
    /// Block or character.
    pub kind: Kind,
    /// The major number.
    pub major: Option<u32>,
    /// The minor number.
    pub minor: Option<u32>,
}

/// An exception from a [`Policy`]'s default: these devices, these ways of using them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Which devices.
    pub devices: Devices,
    /// Which ways to use them.
    pub access: Access,
}

impl fmt::Display for Exception {
    /// The form of `devices.allow` (cgroup v1): "c 1:3 rwm", "b *:* m".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.devices.kind {
            Kind::Block => 'b',
            Kind::Char => 'c',
        };
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        write!(f, "{kind} {}:{} {}", number(self.devices.major), number(self.devices.minor), self.access)
    }
}

impl Serialize for Exception {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether an access has letters that mean nothing.
pub(super) fn has_other_letters(access: &str) -> bool {
    !access.bytes().all(|letter| b"rwm".contains(&letter))
}

/// A device policy: what holds by default, and the exceptions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Whether a device that no exception names may be used.
    pub default_allow: bool,
    /// At most one for any devices, in the order in which they were first named.
    exceptions: Vec<Exception>,
}

const fn char_device(major: u32, minor: Option<u32>, access: Access) -> Exception {
    Exception { devices: Devices { kind: Kind::Char, major: Some(major), minor }, access }
}

const fn any_device(kind: Kind, access: Access) -> Exception {
    Exception { devices: Devices { kind, major: None, minor: None }, access }
}

/// What every container may use, whatever config.json says, and the path of the node where it has one: the default
/// devices of the runtime spec (config-linux.md, "Default Devices") and their pseudo terminals; making any node
/// (a node is of no use without the right to open it); and 10:200, /dev/net/tun, which engines count on.
///
/// An entry gives way to a device of linux.devices at its path: then linux.resources.devices has to allow that one.
pub const ALWAYS_ALLOWED: [(Option<&str>, Exception); 11] = [
    (None, any_device(Kind::Char, Access::MKNOD)),
    (None, any_device(Kind::Block, Access::MKNOD)),
    (Some("/dev/null"), char_device(1, Some(3), Access::ALL)),
    (Some("/dev/zero"), char_device(1, Some(5), Access::ALL)),
    (Some("/dev/full"), char_device(1, Some(7), Access::ALL)),
    (Some("/dev/random"), char_device(1, Some(8), Access::ALL)),
    (Some("/dev/urandom"), char_device(1, Some(9), Access::ALL)),
    (Some("/dev/tty"), char_device(5, Some(0), Access::ALL)),
    (None, char_device(5, Some(2), Access::ALL)),
    (None, char_device(10, Some(200), Access::ALL)),
    (None, char_device(136, None, Access::ALL)),
];

impl Policy {
    /// "Deny everything": where every container starts.
    pub fn deny_all() -> Self {
        Self { default_allow: false, exceptions: Vec::new() }
    }

    /// The policy of a container: `rules` (linux.resources.devices) in their order, then [`ALWAYS_ALLOWED`] except
    /// the entries whose path `own_devices` (the paths of linux.devices) redefine.
    ///
    /// # Errors
    /// A rule of an unknown kind, with no or an unknown access, with a number out of range, or one that takes a
    /// single device out of a wildcard: cgroup v1 ignores such a rule silently, so it is refused everywhere.
    pub fn compile(rules: &[LinuxDeviceCgroup], own_devices: &[&str]) -> Result<Self> {
        let mut policy = Self::deny_all();
        for (index, rule) in rules.iter().enumerate() {
            let field = format!("linux.resources.devices[{index}]");
            policy.apply(rule).map_err(|problem| Error::config(&field, problem))?;
        }
        for (path, exception) in &ALWAYS_ALLOWED {
            if path.is_none_or(|path| !own_devices.contains(&path)) {
                policy.change(true, *exception).map_err(|problem| Error::config("linux.resources.devices", problem))?;
            }
        }
        Ok(policy)
    }

    /// The exceptions in the order in which they were first named: runtime-spec wants the entries applied in theirs.
    pub fn exceptions(&self) -> impl Iterator<Item = Exception> + '_ {
        self.exceptions.iter().copied()
    }

    fn held(&mut self, devices: Devices) -> Option<&mut Access> {
        self.exceptions.iter_mut().find(|held| held.devices == devices).map(|held| &mut held.access)
    }

    /// Whether everything is allowed.
    pub fn allows_all(&self) -> bool {
        self.default_allow && self.exceptions.is_empty()
    }

    fn apply(&mut self, rule: &LinuxDeviceCgroup) -> Result<(), String> {
        let access = match rule.access() {
            None => return Err("access is missing: name at least one of r, w and m".to_owned()),
            Some(text) => match Access::parse(text) {
                access if !access.is_empty() => access,
                _ => return Err(format!("access is {text:?}: use letters of \"rwm\", at least one")),
            },
        };
        let major = device_number("major", rule.major())?;
        let minor = device_number("minor", rule.minor())?;
        let kinds: &[Kind] = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A if major.is_none() && minor.is_none() && access == Access::ALL => {
                *self = Self { default_allow: rule.allow(), exceptions: Vec::new() };
                return Ok(());
            }
            LinuxDeviceType::A => &[Kind::Block, Kind::Char],
            LinuxDeviceType::B => &[Kind::Block],
            LinuxDeviceType::C => &[Kind::Char],
            other => return Err(format!("type is \"{}\": use \"a\", \"b\" or \"c\"", other.as_str())),
        };
        for &kind in kinds {
            self.change(rule.allow(), Exception { devices: Devices { kind, major, minor }, access })?;
        }
        Ok(())
    }

    fn change(&mut self, allow: bool, exception: Exception) -> Result<(), String> {
        let Exception { devices, access } = exception;
        if allow != self.default_allow {
            match self.held(devices) {
                Some(held) => *held = held.union(access),
                None => self.exceptions.push(exception),
            }
            return Ok(());
        }
        let wildcards = [
            Devices { major: None, ..devices },
            Devices { minor: None, ..devices },
            Devices { major: None, minor: None, ..devices },
        ];
        for wider in wildcards.into_iter().filter(|wider| *wider != devices) {
            if let Some(held) = self.held(wider).copied().filter(|held| held.overlaps(access)) {
                let wider = Exception { devices: wider, access: held };
                return Err(format!(
                    "\"{exception}\" cuts a hole into the earlier rule \"{wider}\", which the kernel's device \
                     controller cannot do: list the devices one by one instead of by wildcard"
                ));
            }
        }
        if let Some(held) = self.held(devices) {
            *held = held.without(access);
            self.exceptions.retain(|held| !held.access.is_empty());
        }
        Ok(())
    }
}

/// A device number of config.json; -1 is the old spelling of "every number".
fn device_number(name: &str, number: Option<i64>) -> Result<Option<u32>, String> {
    match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| format!("{name} is {number}: use a number from 0 to {} or leave it out", u32::MAX)),
    }
}
