//! AppArmor and SELinux labels: what is written where.

use super::Host;
use crate::error::{Error, Result};
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

/// The label that the program gets at exec.
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
        attributes.push(Attribute {
            field: "process.apparmorProfile",
            path: "self/attr/apparmor/exec",
            data: format!("exec {profile}").into_bytes(),
        });
    }
    if let Some(label) = process.selinux_label().as_deref().filter(|label| !label.is_empty()) {
        if !host.selinux {
            let problem = "is set, but this machine does not run SELinux: enable it or remove the label";
            return Err(Error::config("process.selinuxLabel", problem));
        }
        attributes.push(Attribute {
            field: "process.selinuxLabel",
            path: "self/attr/exec",
            data: label.as_bytes().to_vec(),
        });
    }
    Ok(attributes)
}

/// `linux.mountLabel` as an option of a new file system: SELinux labels all its files with it. File systems that label
/// their files themselves do not take it.
pub fn mount_context<'a>(linux: Option<&'a Linux>, kind: &str) -> Option<(&'static str, &'a str)> {
    let label = linux?.mount_label().as_deref().filter(|label| !label.is_empty())?;
    let labels_itself = matches!(kind, "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2" | "devpts" | "securityfs");
    (!labels_itself).then_some(("context", label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxBuilder;

    const HOST: Host = Host { has_kcore: true, apparmor: true, selinux: true };

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
        assert_eq!(exec_attributes(&process("", ""), &HOST).unwrap(), []);
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
        assert_eq!(mount_context(Some(&linux), "tmpfs"), Some(("context", "u:r:t:s0")));
        assert_eq!(mount_context(Some(&linux), "proc"), None);
        assert_eq!(mount_context(None, "tmpfs"), None);
    }
}
