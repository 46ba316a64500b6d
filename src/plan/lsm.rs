//! AppArmor and SELinux labels: what is written where.

use super::Host;
use crate::error::{Error, Result};
use crate::spec::Warning;
use oci_spec::runtime::{Linux, Process};

/// A write to an attribute below /proc (proc_pid_attr(5)).
#[derive(Debug, PartialEq, Eq)]
pub struct Attribute {
    /// The field that asks for it.
    pub field: &'static str,
    /// The file, relative to a procfs.
    pub path: &'static str,
    /// What is written.
    pub data: Vec<u8>,
}

/// The labels that the program gets at exec.
///
/// # Errors
/// A label for a module that this machine does not run: the isolation that it asks for would be missing.
pub fn exec_attributes(process: &Process, host: &Host) -> Result<Vec<Attribute>> {
    let mut attributes = Vec::new();
    if let Some(profile) = process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty()) {
        if !host.apparmor {
            let problem = "is set, but this machine does not run AppArmor: enable it or remove the profile";
            return Err(Error::config("process.apparmorProfile", problem));
        }
        check("process.apparmorProfile", profile)?;
        attributes.push(Attribute {
            field: "process.apparmorProfile",
            path: "self/attr/apparmor/exec",
            data: format!("exec {profile}").into_bytes(),
        });
    }
    attributes.extend(selinux(process, host, "self/attr/exec")?);
    Ok(attributes)
}

/// The label of the session keyring that is made next; execve(2) resets it.
///
/// # Errors
/// As [`exec_attributes`].
pub fn keyring_attribute(process: &Process, host: &Host) -> Result<Option<Attribute>> {
    selinux(process, host, "self/attr/keycreate")
}

fn selinux(process: &Process, host: &Host, path: &'static str) -> Result<Option<Attribute>> {
    let field = "process.selinuxLabel";
    let Some(label) = process.selinux_label().as_deref().filter(|label| !label.is_empty()) else { return Ok(None) };
    if !host.selinux {
        let problem = "is set, but this machine does not run SELinux: enable it or remove the label";
        return Err(Error::config(field, problem));
    }
    check(field, label)?;
    Ok(Some(Attribute { field, path, data: label.as_bytes().to_vec() }))
}

/// Refuses what would be two values, or a shorter one, in a file of procfs.
fn check(field: &str, value: &str) -> Result<()> {
    if value.contains(['\0', '\n']) {
        return Err(Error::config(field, "contains a line break or a NUL: remove it"));
    }
    Ok(())
}

/// `linux.mountLabel` as an option of a new file system: SELinux labels all its files with it. File systems that label
/// their files themselves do not take it. fsconfig(2) takes the label as it is; mount(2) would want its commas quoted.
///
/// Without SELinux no file has a label, and file systems do not know the option ([`unused_mount_label`]).
pub fn mount_context<'a>(linux: Option<&'a Linux>, kind: &str, host: &Host) -> Option<(&'static str, &'a str)> {
    let label = mount_label(linux).filter(|_| host.selinux)?;
    let labels_itself = matches!(kind, "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2" | "securityfs");
    (!labels_itself).then_some(("context", label))
}

/// `linux.mountLabel` for the root of a new file system that takes no such option, but labels as others do: an mqueue, whose
/// queues are labelled after it.
pub fn root_label<'a>(linux: Option<&'a Linux>, kind: &str, host: &Host) -> Option<&'a str> {
    mount_label(linux).filter(|_| host.selinux && kind == "mqueue")
}

/// What to say of a `linux.mountLabel` on a machine that does not run SELinux. Unlike the label of a process it asks
/// for no isolation by itself, so it is no reason to refuse the container.
pub fn unused_mount_label(linux: Option<&Linux>, host: &Host) -> Option<Warning> {
    mount_label(linux).filter(|_| !host.selinux)?;
    Some(Warning::new("linux.mountLabel", "is set, but this machine does not run SELinux: left out"))
}

fn mount_label(linux: Option<&Linux>) -> Option<&str> {
    linux.and_then(|linux| linux.mount_label().as_deref()).filter(|label| !label.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::caps::Held;
    use oci_spec::runtime::LinuxBuilder;

    const HOST: Host = Host {
        has_kcore: true,
        apparmor: true,
        selinux: true,
        foreign_cgroup_namespace: false,
        makes_root_namespaces: false,
        denies_groups: false,
        open_files: None,
        capabilities: Held { known: 0, bounding: 0, permitted: 0 },
    };

    fn process(apparmor: &str, selinux: &str) -> Process {
        let mut process = Process::default();
        process.set_apparmor_profile(Some(apparmor.into()));
        process.set_selinux_label(Some(selinux.into()));
        process
    }

    #[test]
    fn the_writes_that_the_modules_take() {
        let attributes = exec_attributes(&process("p", "u:r:t:s0"), &HOST).unwrap();
        let writes: Vec<_> = attributes.iter().map(|a| (a.path, str::from_utf8(&a.data).unwrap())).collect();
        assert_eq!(writes, [("self/attr/apparmor/exec", "exec p"), ("self/attr/exec", "u:r:t:s0")]);
        let keyring = keyring_attribute(&process("", "u:r:t:s0"), &HOST).unwrap().unwrap();
        assert_eq!((keyring.path, &keyring.data[..]), ("self/attr/keycreate", &b"u:r:t:s0"[..]));
        assert_eq!(exec_attributes(&process("", ""), &HOST).unwrap(), []);
        assert_eq!(keyring_attribute(&process("", ""), &HOST).unwrap(), None);
    }

    #[test]
    fn a_label_without_its_module_is_refused() {
        let host = Host { apparmor: false, selinux: false, ..HOST };
        let error = exec_attributes(&process("p", ""), &host).unwrap_err().to_string();
        assert!(error.contains("process.apparmorProfile"), "{error}");
        let error = exec_attributes(&process("", "l"), &host).unwrap_err().to_string();
        assert!(error.contains("process.selinuxLabel"), "{error}");
    }

    #[test]
    fn new_file_systems_get_the_mount_label() {
        let linux = LinuxBuilder::default().mount_label("u:r:t:s0").build().unwrap();
        for (kind, option) in [("tmpfs", Some(("context", "u:r:t:s0"))), ("proc", None)] {
            assert_eq!(mount_context(Some(&linux), kind, &HOST), option);
        }
        assert_eq!(mount_context(None, "tmpfs", &HOST), None);
        for (kind, label) in [("tmpfs", None), ("mqueue", Some("u:r:t:s0"))] {
            assert_eq!(root_label(Some(&linux), kind, &HOST), label);
            assert_eq!(root_label(Some(&linux), kind, &Host { selinux: false, ..HOST }), None);
        }
        assert_eq!(unused_mount_label(Some(&linux), &HOST), None);
    }

    #[test]
    fn without_selinux_a_mount_label_is_left_out_with_a_warning() {
        let linux = LinuxBuilder::default().mount_label("u:r:t:s0").build().unwrap();
        let host = Host { selinux: false, ..HOST };
        assert_eq!(mount_context(Some(&linux), "tmpfs", &host), None);
        let warning = unused_mount_label(Some(&linux), &host).unwrap().to_string();
        assert!(warning.starts_with("linux.mountLabel: "), "{warning}");
        assert_eq!(unused_mount_label(None, &host), None);
    }

    #[test]
    fn what_would_be_more_than_one_value_is_refused() {
        for value in ["a\nb", "a\0b"] {
            assert!(exec_attributes(&process(value, ""), &HOST).is_err());
            assert!(exec_attributes(&process("", value), &HOST).is_err());
        }
    }
}
