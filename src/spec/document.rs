//! The JSON documents as they are read, one step before runtime-spec's types.
//!
//! Four objects are read through types of our own, for what `oci_spec`'s cannot do: keep the text of `linux.seccomp`
//! unparsed (a filter that is cached by its text need not be parsed at all), take capability names strictly but
//! forgive unknown ones, tell `pids: {}` from `pids: {"limit": 0}`, and read `execCPUAffinity` without compiling a
//! regular expression at each start. All other objects are `oci_spec`'s.

use super::capability::Entry;
use super::seccomp::Seccomp;
use super::warning::Warning;
use oci_spec::runtime as oci;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;

/// `config.json`. Sections of other platforms (solaris, windows, vm, zos, freebsd) are skipped: runtime-spec lets a
/// configuration for several platforms carry them, and runc does not look at them either.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    #[serde(default)]
    oci_version: String,
    root: Option<oci::Root>,
    mounts: Option<Vec<oci::Mount>>,
    process: Option<Box<Process>>,
    hostname: Option<String>,
    domainname: Option<String>,
    hooks: Option<oci::Hooks>,
    annotations: Option<HashMap<String, String>>,
    linux: Option<Box<Linux>>,
}

impl Document {
    pub(super) fn finish(self, warnings: &mut Vec<Warning>) -> (Box<oci::Spec>, Option<Seccomp>) {
        let mut seccomp = None;
        // Its types can be made by way of their defaults only, which are another runtime's idea of a container: every
        // field is replaced, and the parts of the one default are used again, for they cost more than the parsing.
        let mut spec = Box::<oci::Spec>::default();
        spec.set_version(self.oci_version)
            .set_root(self.root)
            .set_mounts(self.mounts)
            .set_hostname(self.hostname)
            .set_domainname(self.domainname)
            .set_hooks(self.hooks)
            .set_annotations(self.annotations);
        match self.process {
            Some(process) => process.finish(spec.process_mut().get_or_insert_default(), warnings),
            None => *spec.process_mut() = None,
        }
        match self.linux {
            Some(linux) => linux.finish(spec.linux_mut().get_or_insert_default(), &mut seccomp),
            None => *spec.linux_mut() = None,
        }
        (spec, seccomp)
    }
}

/// The `linux` section.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    net_devices: Option<HashMap<String, oci::LinuxNetDevice>>,
    uid_mappings: Option<Vec<oci::LinuxIdMapping>>,
    gid_mappings: Option<Vec<oci::LinuxIdMapping>>,
    sysctl: Option<HashMap<String, String>>,
    resources: Option<Box<Resources>>,
    cgroups_path: Option<PathBuf>,
    namespaces: Option<Vec<oci::LinuxNamespace>>,
    devices: Option<Vec<oci::LinuxDevice>>,
    seccomp: Option<Seccomp>,
    rootfs_propagation: Option<String>,
    masked_paths: Option<Vec<String>>,
    readonly_paths: Option<Vec<String>>,
    mount_label: Option<String>,
    intel_rdt: Option<IntelRdt>,
    memory_policy: Option<oci::LinuxMemoryPolicy>,
    personality: Option<oci::LinuxPersonality>,
    time_offsets: Option<HashMap<String, oci::LinuxTimeOffset>>,
}

impl Linux {
    /// All of it, into a `linux` of which nothing is kept.
    fn finish(self, linux: &mut oci::Linux, seccomp: &mut Option<Seccomp>) {
        *seccomp = self.seccomp;
        linux
            .set_net_devices(self.net_devices)
            .set_uid_mappings(self.uid_mappings)
            .set_gid_mappings(self.gid_mappings)
            .set_sysctl(self.sysctl)
            .set_resources(self.resources.map(|resources| resources.finish()))
            .set_cgroups_path(self.cgroups_path)
            .set_namespaces(self.namespaces)
            .set_devices(self.devices)
            .set_rootfs_propagation(self.rootfs_propagation)
            .set_masked_paths(self.masked_paths)
            .set_readonly_paths(self.readonly_paths)
            .set_mount_label(self.mount_label)
            .set_intel_rdt(self.intel_rdt.map(IntelRdt::finish))
            .set_memory_policy(self.memory_policy)
            .set_personality(self.personality)
            .set_time_offsets(self.time_offsets);
    }
}

/// `linux.intelRdt`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IntelRdt {
    #[serde(rename = "closID")]
    clos_id: Option<String>,
    l3_cache_schema: Option<String>,
    mem_bw_schema: Option<String>,
    schemata: Option<Vec<String>>,
    enable_monitoring: Option<bool>,
    /// Of runtime-spec 1.1 and 1.2; oci_spec 0.10 knows it and the next by names of its own only.
    #[serde(rename = "enableCMT")]
    enable_cmt: Option<bool>,
    #[serde(rename = "enableMBM")]
    enable_mbm: Option<bool>,
}

impl IntelRdt {
    /// The older switches each asked for a part of what the hardware only does as a whole.
    fn finish(self) -> oci::LinuxIntelRdt {
        let switches = [self.enable_monitoring, self.enable_cmt, self.enable_mbm];
        let monitoring = switches.into_iter().flatten().reduce(|one, other| one || other);
        let mut rdt = oci::LinuxIntelRdt::default();
        rdt.set_clos_id(self.clos_id)
            .set_l3_cache_schema(self.l3_cache_schema)
            .set_mem_bw_schema(self.mem_bw_schema)
            .set_schemata(self.schemata)
            .set_enable_monitoring(monitoring);
        rdt
    }
}

/// `linux.resources`, which is also what `update --resources` takes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resources {
    devices: Option<Vec<oci::LinuxDeviceCgroup>>,
    memory: Option<oci::LinuxMemory>,
    cpu: Option<oci::LinuxCpu>,
    pids: Option<Pids>,
    #[serde(rename = "blockIO")]
    block_io: Option<oci::LinuxBlockIo>,
    hugepage_limits: Option<Vec<oci::LinuxHugepageLimit>>,
    network: Option<oci::LinuxNetwork>,
    rdma: Option<HashMap<String, oci::LinuxRdma>>,
    unified: Option<HashMap<String, String>>,
}

/// `linux.resources.pids`: its limit is optional since runtime-spec 1.3, and absent is not 0.
#[derive(Deserialize)]
struct Pids {
    limit: Option<i64>,
}

impl Resources {
    pub(super) fn finish(self) -> oci::LinuxResources {
        let pids = self.pids.and_then(|pids| pids.limit).map(|limit| {
            let mut pids = oci::LinuxPids::default();
            pids.set_limit(limit);
            pids
        });
        let mut resources = oci::LinuxResources::default();
        resources
            .set_devices(self.devices)
            .set_memory(self.memory)
            .set_cpu(self.cpu)
            .set_pids(pids)
            .set_block_io(self.block_io)
            .set_hugepage_limits(self.hugepage_limits)
            .set_network(self.network)
            .set_rdma(self.rdma)
            .set_unified(self.unified);
        resources
    }
}

/// `process`, which is also what `exec --process` takes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process {
    terminal: Option<bool>,
    console_size: Option<oci::Box>,
    #[serde(default)]
    user: oci::User,
    args: Option<Vec<String>>,
    env: Option<Vec<String>>,
    #[serde(default)]
    cwd: PathBuf,
    capabilities: Option<Capabilities>,
    rlimits: Option<Vec<oci::PosixRlimit>>,
    no_new_privileges: Option<bool>,
    apparmor_profile: Option<String>,
    oom_score_adj: Option<i32>,
    selinux_label: Option<String>,
    io_priority: Option<oci::LinuxIOPriority>,
    scheduler: Option<oci::Scheduler>,
    #[serde(rename = "execCPUAffinity")]
    exec_cpu_affinity: Option<Affinity>,
}

/// `process.execCPUAffinity`.
#[derive(Deserialize)]
struct Affinity {
    initial: Option<String>,
    #[serde(rename = "final")]
    last: Option<String>,
}

impl Process {
    /// All of it, into a `process` of which nothing is kept.
    pub(super) fn finish(self, process: &mut oci::Process, warnings: &mut Vec<Warning>) {
        let affinity = self.exec_cpu_affinity.map(|from| {
            let mut affinity = oci::ExecCPUAffinity::default();
            affinity.set_initial(from.initial).set_cpu_affinity_final(from.last);
            affinity
        });
        process
            .set_terminal(self.terminal)
            .set_console_size(self.console_size)
            .set_user(self.user)
            .set_args(self.args)
            .set_env(self.env)
            .set_cwd(self.cwd)
            .set_capabilities(self.capabilities.map(|sets| sets.finish(warnings)))
            .set_rlimits(self.rlimits)
            .set_no_new_privileges(self.no_new_privileges)
            .set_apparmor_profile(self.apparmor_profile)
            .set_oom_score_adj(self.oom_score_adj)
            .set_selinux_label(self.selinux_label)
            .set_io_priority(self.io_priority)
            .set_scheduler(self.scheduler)
            .set_exec_cpu_affinity(affinity);
    }
}

/// `process.capabilities`.
#[derive(Deserialize)]
struct Capabilities {
    bounding: Option<Vec<Entry>>,
    effective: Option<Vec<Entry>>,
    inheritable: Option<Vec<Entry>>,
    permitted: Option<Vec<Entry>>,
    ambient: Option<Vec<Entry>>,
}

impl Capabilities {
    fn finish(self, warnings: &mut Vec<Warning>) -> oci::LinuxCapabilities {
        let mut known = |set: Option<Vec<Entry>>, name: &str| -> Option<oci::Capabilities> {
            Some(
                set?.into_iter()
                    .filter_map(|entry| match entry {
                        Entry::Known(capability) => Some(capability),
                        Entry::Unknown(text) => {
                            let problem = format!("unknown capability {text:?} is left out");
                            warnings.push(Warning::new(format!("process.capabilities.{name}"), problem));
                            None
                        }
                    })
                    .collect(),
            )
        };
        // Five empty sets by way of JSON are cheaper than the five full ones of its default.
        let mut capabilities: oci::LinuxCapabilities = serde_json::from_str("{}").unwrap_or_default();
        capabilities
            .set_bounding(known(self.bounding, "bounding"))
            .set_effective(known(self.effective, "effective"))
            .set_inheritable(known(self.inheritable, "inheritable"))
            .set_permitted(known(self.permitted, "permitted"))
            .set_ambient(known(self.ambient, "ambient"));
        capabilities
    }
}
