//! What `features` prints (runtime-spec features.md).
//!
//! Names are taken from the very tables that the parsers look in, so that one is listed exactly when it is understood.

use super::capability::CAPABILITIES;
use super::mount_options;
use super::validate::HOOKS;
use oci_spec::runtime as oci;
use serde::de::value::Error as DeError;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use std::collections::BTreeMap;

/// What only this build and this kernel can tell.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The version of libseccomp that filters are compiled with, as (major, minor, micro).
    pub libseccomp: (u32, u32, u32),
    /// Whether filters can be compiled for an architecture, by its name ("SCMP_ARCH_X86_64").
    pub seccomp_arch: fn(&str) -> bool,
    /// Whether this kernel takes a flag of seccomp(2), by its name ("SECCOMP_FILTER_FLAG_LOG").
    pub seccomp_flag: fn(&str) -> bool,
    /// The version of this program.
    pub version: &'static str,
    /// The commit that it was built from; empty if unknown.
    pub commit: &'static str,
}

/// The document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Features {
    oci_version_min: &'static str,
    oci_version_max: &'static str,
    hooks: [&'static str; 6],
    mount_options: Vec<&'static str>,
    linux: Linux,
    annotations: BTreeMap<&'static str, String>,
    potentially_unsafe_config_annotations: [&'static str; 5],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: Vec<&'static str>,
    capabilities: Vec<&'static str>,
    cgroup: Cgroup,
    seccomp: Seccomp,
    apparmor: Switch,
    selinux: Switch,
    intel_rdt: IntelRdt,
    memory_policy: MemoryPolicy,
    mount_extensions: MountExtensions,
    net_devices: Switch,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cgroup {
    v1: bool,
    v2: bool,
    systemd: bool,
    systemd_user: bool,
    rdma: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    enabled: bool,
    actions: Vec<&'static str>,
    operators: Vec<&'static str>,
    archs: Vec<&'static str>,
    known_flags: Vec<&'static str>,
    supported_flags: Vec<&'static str>,
}

#[derive(Serialize)]
struct Switch {
    enabled: bool,
}

#[derive(Serialize)]
struct IntelRdt {
    enabled: bool,
    schemata: bool,
    monitoring: bool,
}

#[derive(Serialize)]
struct MemoryPolicy {
    modes: Vec<&'static str>,
    flags: Vec<&'static str>,
}

#[derive(Serialize)]
struct MountExtensions {
    idmap: Switch,
}

/// The features document as JSON, indented by four spaces as runc does.
///
/// What the spec calls enabled is what this program was built with: whether the machine has AppArmor, for one, is not
/// its subject (features.md, "enabled"), only `supportedFlags` is.
pub fn features(facts: &Facts) -> String {
    let on = || Switch { enabled: true };
    let (major, minor, micro) = facts.libseccomp;
    let mut annotations = BTreeMap::from([
        ("io.github.seccomp.libseccomp.version", format!("{major}.{minor}.{micro}")),
        ("io.microrun.version", facts.version.to_owned()),
        // Who asks for this one by runc's name wants to know whether `checkpoint` exists.
        ("org.opencontainers.runc.checkpoint.enabled", "true".to_owned()),
    ]);
    if !facts.commit.is_empty() {
        annotations.insert("io.microrun.commit", facts.commit.to_owned());
    }
    pretty(&Features {
        oci_version_min: "1.0.0",
        oci_version_max: "1.3.0",
        hooks: HOOKS,
        mount_options: mount_options::names().collect(),
        linux: Linux {
            namespaces: sorted::<oci::LinuxNamespaceType>(),
            capabilities: CAPABILITIES.iter().map(|(name, _)| *name).collect(),
            cgroup: Cgroup { v1: true, v2: true, systemd: true, systemd_user: true, rdma: true },
            seccomp: seccomp(facts),
            apparmor: on(),
            selinux: on(),
            intel_rdt: IntelRdt { enabled: true, schemata: true, monitoring: true },
            memory_policy: MemoryPolicy {
                modes: sorted::<oci::MemoryPolicyModeType>(),
                flags: sorted::<oci::MemoryPolicyFlagType>(),
            },
            mount_extensions: MountExtensions { idmap: on() },
            net_devices: on(),
        },
        annotations,
        potentially_unsafe_config_annotations: [
            "bundle",
            "org.criu.config",
            "org.microrun.overlay",
            "org.systemd.property.",
            "run.oci.keep_original_groups",
        ],
    })
}

fn seccomp(facts: &Facts) -> Seccomp {
    let known_flags = sorted::<oci::LinuxSeccompFilterFlag>();
    Seccomp {
        enabled: true,
        actions: sorted::<oci::LinuxSeccompAction>(),
        operators: sorted::<oci::LinuxSeccompOperator>(),
        archs: sorted::<oci::Arch>()
            .into_iter()
            // A name of libseccomp's that runtime-spec does not have.
            .filter(|arch| *arch != "SCMP_ARCH_NATIVE" && (facts.seccomp_arch)(arch))
            .collect(),
        supported_flags: known_flags.iter().copied().filter(|flag| (facts.seccomp_flag)(flag)).collect(),
        known_flags,
    }
}

fn pretty(value: &impl Serialize) -> String {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    // Nothing here can fail: strings, booleans and a Vec to write to.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter));
    String::from_utf8(text).unwrap_or_default()
}

/// The names of `T`'s values in alphabetical order.
fn sorted<T: Deserialize<'static>>() -> Vec<&'static str> {
    let mut names = names::<T>().to_vec();
    names.sort_unstable();
    names
}

/// The names that the parser of the enumeration `T` knows.
fn names<T: Deserialize<'static>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // Always an error: what is wanted comes out by the side door.
    let _ = T::deserialize(Names(&mut names));
    names
}

/// A deserializer without data, which keeps what it was told about an enumeration.
struct Names<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = DeError;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, DeError> {
        *self.0 = names;
        Err(DeError::custom("no data"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DeError> {
        Err(DeError::custom("not an enumeration"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn document() -> Value {
        let facts = Facts {
            libseccomp: (2, 5, 4),
            seccomp_arch: |arch| arch.starts_with("SCMP_ARCH_X"),
            seccomp_flag: |flag| flag != "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
            version: "1.2.3",
            commit: "",
        };
        serde_json::from_str(&features(&facts)).unwrap()
    }

    #[test]
    fn it_is_what_oci_spec_calls_features() {
        let text = document().to_string();
        let features: oci::Features = serde_json::from_str(&text).unwrap();
        assert_eq!(features.oci_version_max(), "1.3.0");
        assert_eq!(features.linux().as_ref().unwrap().namespaces().as_ref().unwrap().len(), 8);
    }

    /// What reaches CRIU, systemd, the host's directories and its files by their groups.
    #[test]
    fn annotations_that_an_image_must_not_set_are_named() {
        let named = &document()["potentiallyUnsafeConfigAnnotations"];
        let groups = crate::plan::process::KEEP_GROUPS;
        let overlay = crate::plan::overlay::ANNOTATION;
        assert_eq!(*named, serde_json::json!(["bundle", "org.criu.config", overlay, "org.systemd.property.", groups]));
    }

    #[test]
    fn the_names_are_runtime_specs() {
        let linux = &document()["linux"];
        assert_eq!(
            linux["namespaces"],
            serde_json::json!(["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"])
        );
        assert_eq!(
            linux["seccomp"]["archs"],
            serde_json::json!(["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"])
        );
        assert_eq!(linux["seccomp"]["operators"].as_array().unwrap().len(), 7);
        assert_eq!(linux["seccomp"]["actions"].as_array().unwrap().len(), 9);
        assert_eq!(linux["seccomp"]["knownFlags"].as_array().unwrap().len(), 4);
        assert_eq!(linux["seccomp"]["supportedFlags"].as_array().unwrap().len(), 3);
        assert_eq!(linux["memoryPolicy"]["modes"].as_array().unwrap().len(), 7);
        assert_eq!(linux["memoryPolicy"]["flags"].as_array().unwrap().len(), 3);
        assert_eq!(linux["capabilities"].as_array().unwrap().len(), 41);
    }

    /// runtime-spec config.md, "Linux mount options": everything that MUST, SHOULD or MAY be implemented.
    #[test]
    fn the_mount_options_are_runtime_specs() {
        let options = document()["mountOptions"].clone();
        let expected = "async atime bind defaults dev diratime dirsync exec idmap iversion lazytime loud mand noatime \
            nodev nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private \
            ratime rbind rdev rdiratime relatime remount rexec ridmap rnoatime rnodev rnodiratime rnoexec rnorelatime \
            rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid \
            rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable";
        assert_eq!(options, serde_json::json!(expected.split_whitespace().collect::<Vec<_>>()));
    }
}
