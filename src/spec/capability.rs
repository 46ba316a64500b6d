//! The names of capabilities (capabilities(7)) and the kernel's numbers for them.

use oci_spec::runtime::Capability;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;

/// Every capability by name, at the index that is its number (linux/capability.h).
pub const CAPABILITIES: [(&str, Capability); 41] = [
    ("CAP_CHOWN", Capability::Chown),
    ("CAP_DAC_OVERRIDE", Capability::DacOverride),
    ("CAP_DAC_READ_SEARCH", Capability::DacReadSearch),
    ("CAP_FOWNER", Capability::Fowner),
    ("CAP_FSETID", Capability::Fsetid),
    ("CAP_KILL", Capability::Kill),
    ("CAP_SETGID", Capability::Setgid),
    ("CAP_SETUID", Capability::Setuid),
    ("CAP_SETPCAP", Capability::Setpcap),
    ("CAP_LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("CAP_NET_BIND_SERVICE", Capability::NetBindService),
    ("CAP_NET_BROADCAST", Capability::NetBroadcast),
    ("CAP_NET_ADMIN", Capability::NetAdmin),
    ("CAP_NET_RAW", Capability::NetRaw),
    ("CAP_IPC_LOCK", Capability::IpcLock),
    ("CAP_IPC_OWNER", Capability::IpcOwner),
    ("CAP_SYS_MODULE", Capability::SysModule),
    ("CAP_SYS_RAWIO", Capability::SysRawio),
    ("CAP_SYS_CHROOT", Capability::SysChroot),
    ("CAP_SYS_PTRACE", Capability::SysPtrace),
    ("CAP_SYS_PACCT", Capability::SysPacct),
    ("CAP_SYS_ADMIN", Capability::SysAdmin),
    ("CAP_SYS_BOOT", Capability::SysBoot),
    ("CAP_SYS_NICE", Capability::SysNice),
    ("CAP_SYS_RESOURCE", Capability::SysResource),
    ("CAP_SYS_TIME", Capability::SysTime),
    ("CAP_SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("CAP_MKNOD", Capability::Mknod),
    ("CAP_LEASE", Capability::Lease),
    ("CAP_AUDIT_WRITE", Capability::AuditWrite),
    ("CAP_AUDIT_CONTROL", Capability::AuditControl),
    ("CAP_SETFCAP", Capability::Setfcap),
    ("CAP_MAC_OVERRIDE", Capability::MacOverride),
    ("CAP_MAC_ADMIN", Capability::MacAdmin),
    ("CAP_SYSLOG", Capability::Syslog),
    ("CAP_WAKE_ALARM", Capability::WakeAlarm),
    ("CAP_BLOCK_SUSPEND", Capability::BlockSuspend),
    ("CAP_AUDIT_READ", Capability::AuditRead),
    ("CAP_PERFMON", Capability::Perfmon),
    ("CAP_BPF", Capability::Bpf),
    ("CAP_CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// The capability called `name`, in upper case with its prefix as capabilities(7) writes it.
pub fn by_name(name: &str) -> Option<Capability> {
    CAPABILITIES.iter().find(|(known, _)| *known == name).map(|(_, capability)| *capability)
}

/// The kernel's number of `capability`: its bit in a capability set. One that is not in the table has a number that no
/// kernel knows.
pub fn number(capability: Capability) -> u8 {
    (0..63).zip(&CAPABILITIES).find(|(_, (_, known))| *known == capability).map_or(63, |(number, _)| number)
}

/// One entry of a capability list: runtime-spec makes an unknown name a warning, so it has to survive parsing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Known(Capability),
    Unknown(String),
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(EntryVisitor)
    }
}

struct EntryVisitor;

impl Visitor<'_> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Entry, E> {
        Ok(by_name(name).map_or_else(|| Entry::Unknown(name.to_owned()), Entry::Known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        for (name, capability) in CAPABILITIES {
            let kernels: caps::Capability = name.parse().unwrap();
            assert_eq!(number(capability), kernels.index(), "{name}");
            assert_eq!(by_name(name), Some(capability));
        }
    }

    #[test]
    fn only_the_full_name_in_upper_case_is_known() {
        for name in ["", "CHOWN", "cap_chown", "CAP_", "CAP_CHOWN ", "CAP_NOSUCH", "ALL"] {
            assert_eq!(by_name(name), None, "{name:?}");
        }
    }
}
