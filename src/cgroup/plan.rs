//! From config.json to a cgroup plan: pure, so that it can be printed, and tested without root.

use super::devices::{self, Policy};
use super::handle::Handle;
use super::layout::{Layout, Mode, Needs, V1_CONTROLLERS, V1Mount};
use super::limits::{self, Limits, Version};
use super::program::Program;
use super::systemd::{self, UnitPlan};
use super::write::Write;
use crate::error::Kind;
use crate::path::clean;
use crate::{Error, Result};
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Who makes the cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// This program, with mkdir(2).
    Cgroupfs,
    /// systemd, asked over D-Bus (`--systemd-cgroup`).
    Systemd,
}

/// What config.json and the command line ask of the cgroups.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The container's id.
    pub id: &'a str,
    /// linux.cgroupsPath.
    pub cgroups_path: Option<&'a Path>,
    /// linux.resources.
    pub resources: Option<&'a LinuxResources>,
    /// The paths of linux.devices: they replace the default devices at the same paths.
    pub own_devices: &'a [&'a str],
    /// Who makes the cgroups.
    pub driver: Driver,
    /// Whether the caller lacks the rights of root: then having no cgroup is no failure if nothing needs one.
    pub rootless: bool,
    /// The user that shall own the container's v2 directory, to make cgroups of its own below it: the host's number
    /// for process.user, if there is a cgroup namespace with a writable cgroup mount.
    pub owner: Option<u32>,
    /// Whether the container has a writable mount of type cgroup: on v1 it may make cgroups of its own in every
    /// hierarchy then, below its own.
    pub writable_v1: bool,
    /// annotations: "org.systemd.property.NAME" are properties of the systemd unit.
    pub annotations: Option<&'a HashMap<String, String>>,
}

impl Request<'_> {
    /// linux.cgroupsPath, if it says anything.
    fn path(&self) -> Option<&Path> {
        self.cgroups_path.filter(|path| !path.as_os_str().is_empty())
    }

    fn has_limits(&self) -> bool {
        self.resources.is_some_and(limits::any)
    }

    /// Whether the container's cgroups are known by name, and expected in every hierarchy.
    fn names_all(&self) -> bool {
        self.path().is_some() || self.driver == Driver::Systemd
    }

    /// What [`Layout::probe`] has to find out before [`compile`] can serve this request.
    pub fn needs(&self) -> Needs {
        Needs {
            controllers: self.has_limits() || self.names_all() || self.writable_v1,
            own: self.driver == Driver::Cgroupfs && self.path().map_or(self.rootless, Path::is_relative),
            cpuset_above: if self.names_all() { self.above() } else { None },
            users_manager: self.driver == Driver::Systemd && self.rootless,
        }
    }

    /// The directory above the container's, relative to the root of any hierarchy; `None` for the root itself, and for
    /// a path that is not known yet or wrong.
    fn above(&self) -> Option<PathBuf> {
        let path = match self.driver {
            Driver::Cgroupfs => Place::of(self).ok()?,
            Driver::Systemd => {
                let path = self.path().map(Path::to_string_lossy);
                Place::Absolute(systemd::unit::Place::of(path.as_deref(), self.id, self.rootless).ok()?.path)
            }
        };
        match path {
            Place::Absolute(path) => path.parent().filter(|above| !above.as_os_str().is_empty()).map(Path::to_owned),
            Place::Own(_) => None,
        }
    }
}

/// The hierarchy that a directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hierarchy {
    /// cgroup v2.
    Unified,
    /// A v1 hierarchy with these controllers.
    V1(Vec<String>),
}

/// A cgroup directory to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Directory {
    /// Its hierarchy.
    pub hierarchy: Hierarchy,
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// The directory, as an absolute path.
    pub path: PathBuf,
    /// What is written into it once it is there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub writes: Vec<Write>,
}

/// A device policy on a v2 directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceProgram {
    /// What it enforces.
    pub policy: Policy,
    /// The eBPF program that does so.
    pub program: Program,
}

/// What it means if the kernel denies the rights to make cgroups (`EACCES`, `EPERM`, `EROFS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum IfDenied {
    /// Fail: root may, or the user has named a path.
    Fail,
    /// Fail, and say that it is for the limits: without them a rootless container needs no cgroup.
    FailForLimits,
    /// Do without cgroups.
    DoWithout,
}

/// All that making a container's cgroups takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CgroupPlan {
    /// Who makes them.
    pub driver: Driver,
    /// The systemd unit that the directories belong to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitPlan>,
    /// The directories, in the order in which they are made and joined.
    pub directories: Vec<Directory>,
    /// The v2 controllers to be enabled above the container's directory.
    pub enable: Vec<String>,
    /// The device program of the v2 directory; on v1, device rules are writes.
    pub devices: Option<DeviceProgram>,
    /// The owner of the v2 directory.
    pub owner: Option<u32>,
    /// What it means if the kernel denies making them.
    pub if_denied: IfDenied,
    /// Whether a failing device program is passed over: an unprivileged user may not load one, and cannot make or open
    /// the host's devices either.
    pub devices_optional: bool,
    /// What the user should know, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Compiles `request` for a machine with `layout` (probed for [`Request::needs`]).
///
/// # Errors
/// A field that is invalid, contradicts another or asks for a controller that this machine does not have.
pub fn compile(request: &Request<'_>, layout: &Layout) -> Result<CgroupPlan> {
    let resources = effective_resources(request);
    let resources = resources.as_ref();
    let policy = Policy::compile(resources.devices().as_deref().unwrap_or_default(), request.own_devices)?;
    let (place, unit) = match request.driver {
        Driver::Cgroupfs => (Place::of(request)?, None),
        Driver::Systemd => {
            let (place, unit) = compile_unit(request, layout, resources, &policy)?;
            (place, Some(unit))
        }
    };
    let limits = limits::compile(resources, |v1, v2| layout.version(v1, v2))?;
    let unified_limits = limits::unified(resources)?;
    let mut plan = CgroupPlan {
        driver: request.driver,
        unit,
        directories: Vec::new(),
        enable: layout.unified_controllers.clone(),
        devices: None,
        owner: request.owner,
        if_denied: if !request.rootless || request.path().is_some() {
            IfDenied::Fail
        } else if limits.is_empty() && unified_limits.is_empty() {
            IfDenied::DoWithout
        } else {
            IfDenied::FailForLimits
        },
        devices_optional: request.rootless,
        warnings: warnings(resources),
    };
    if layout.mode == Mode::Absent {
        if plan.if_denied == IfDenied::DoWithout {
            return Ok(plan);
        }
        return Err(Error::new(
            Kind::System,
            "no cgroup file system is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup)",
        ));
    }
    if !unified_limits.is_empty() && layout.mode != Mode::Unified {
        return Err(limits::unified_on_v1());
    }
    for limit in &limits {
        require(layout, limit)?;
    }
    for hierarchy in hierarchies(request, layout, &limits) {
        // To change device rules takes the rights of root outside all user namespaces.
        let policy = (!request.rootless).then_some(&policy);
        plan.directories.push(v1_directory(layout, &place, hierarchy, &limits, policy)?);
    }
    let v1_devices = plan.directories.iter().any(|directory| directory.carries("devices"));
    if let Some(mount) = &layout.unified {
        let mut writes = writes_for(&limits, |controller| layout.v1_mount(controller).is_none());
        writes.extend(unified_limits);
        let path = place.under(mount, || layout.own_cgroup(""), true)?;
        let mount = mount.clone();
        plan.directories.push(Directory { hierarchy: Hierarchy::Unified, mount, path, writes });
        if !v1_devices && !policy.allows_all() {
            let program = Program::assemble(&policy)?;
            plan.devices = Some(DeviceProgram { policy, program });
        }
    }
    Ok(plan)
}

/// linux.resources, with the CPU quota that systemd will make of it.
fn effective_resources<'a>(request: &Request<'a>) -> Cow<'a, LinuxResources> {
    let resources = request.resources.map_or_else(|| Cow::Owned(LinuxResources::default()), Cow::Borrowed);
    if request.driver == Driver::Systemd { systemd::unit::round_quota(resources) } else { resources }
}

/// The unit, and where systemd will put it.
fn compile_unit(
    request: &Request<'_>,
    layout: &Layout,
    resources: &LinuxResources,
    policy: &Policy,
) -> Result<(Place, UnitPlan)> {
    let version = if layout.mode == Mode::Unified { Version::V2 } else { Version::V1 };
    if request.rootless && version == Version::V1 {
        let problem = "cannot use rootless systemd cgroups manager on cgroup v1: do without --systemd-cgroup";
        return Err(Error::new(Kind::Config, problem));
    }
    let path = request.path().map(Path::to_string_lossy);
    let place = systemd::unit::Place::of(path.as_deref(), request.id, request.rootless)?;
    let mut properties = systemd::unit::base_properties(request.id, &place, version);
    if let Some(annotations) = request.annotations {
        properties.extend(systemd::unit::annotated_properties(annotations)?);
    }
    properties.extend(systemd::unit::oom_policy(resources));
    properties.extend(systemd::unit::resource_properties(resources, version, Some(policy))?);
    let unit = systemd::Unit { name: place.unit, user: request.rootless };
    // The system's manager is at the root.
    let path = layout.users_manager.iter().fold(place.path, |path, manager| manager.join(path));
    Ok((Place::Absolute(path), UnitPlan { unit, properties }))
}

impl CgroupPlan {
    /// How the cgroups will be known once they are made.
    pub fn handle(&self) -> Handle {
        let mut handle = Handle::new(self.driver);
        handle.unit = self.unit.as_ref().map(|plan| plan.unit.clone());
        for directory in &self.directories {
            match &directory.hierarchy {
                Hierarchy::Unified => handle.unified = Some(directory.path.clone()),
                Hierarchy::V1(controllers) => {
                    for controller in controllers {
                        handle.v1.insert(controller.clone(), directory.path.clone());
                    }
                }
            }
        }
        handle
    }
}

impl Directory {
    /// Whether it is the v1 directory of `controller`.
    pub fn carries(&self, controller: &str) -> bool {
        matches!(&self.hierarchy, Hierarchy::V1(controllers) if controllers.iter().any(|c| c == controller))
    }
}

/// Deprecated fields that the kernel does not know any more, and letters that mean nothing.
fn warnings(resources: &LinuxResources) -> Vec<String> {
    #[allow(deprecated, reason = "to say that it is ignored")]
    let kernel = resources.memory().as_ref().is_some_and(|m| m.kernel().is_some() || m.kernel_tcp().is_some());
    let text = "config.json: linux.resources.memory.kernel and kernelTCP are ignored: the runtime spec deprecates \
                kernel memory limits and Linux does not have them any more";
    let flat = resources.memory().as_ref().is_some_and(|memory| memory.use_hierarchy() == Some(false));
    let hierarchy = "config.json: linux.resources.memory.useHierarchy: false is ignored: the limit counts for the cgroups below as well, \
                     which Linux 5.11 made the only way";
    let rules = resources.devices().iter().flatten().enumerate();
    let letters = rules.filter_map(|(index, rule)| {
        let access = rule.access().as_deref().filter(|access| devices::has_other_letters(access))?;
        let problem = "letters other than r, w and m mean nothing and are left out";
        Some(format!("config.json: linux.resources.devices[{index}].access: {access:?}: {problem}"))
    });
    let weight = limits::weight_of_idle(resources).map(str::to_owned);
    let of_memory = [kernel.then_some(text), flat.then_some(hierarchy)].into_iter().flatten().map(str::to_owned);
    of_memory.chain(weight).chain(letters).collect()
}

/// Fails if a hybrid or v1 machine has no hierarchy for what `limit` asks. (On v2, a missing file tells.)
fn require(layout: &Layout, limit: &Limits) -> Result<()> {
    if layout.mode == Mode::Unified
        || layout.v1_mount(limit.controller).is_some()
        || layout.unified_has(limit.controller)
    {
        return Ok(());
    }
    let field = limit.writes.first().map_or("linux.resources", |write| &write.field);
    let problem =
        format!("the {} controller is not mounted on this machine: mount it, or leave the field out", limit.controller);
    Err(Error::config(field, problem))
}

/// The v1 hierarchies that this container joins.
///
/// Joining costs, so only those are joined that are needed: the limits' controllers and, without cgroup v2, what
/// stands in for its core files and device programs. Who names a cgroupsPath, though, expects the directories of all
/// controllers there, with device rules in devices.list, and gets them; but for cpuset, where a directory costs the
/// most and means nothing unless it is below one that someone has limited. A container that can write to the hierarchies
/// gets a cgroup in every one of them.
fn hierarchies<'a>(request: &Request<'_>, layout: &'a Layout, limits: &[Limits]) -> Vec<&'a V1Mount> {
    let needed = |controller: &str| {
        request.writable_v1
            || request.names_all() && (controller != "cpuset" || layout.cpuset_above)
            || limits.iter().any(|limit| limit.controller == controller)
            || layout.mode == Mode::Legacy && (controller == "freezer" || controller == "devices" && !request.rootless)
    };
    let mut mounts: Vec<_> = layout.v1.iter().filter(|mount| mount.controllers.iter().any(|c| needed(c))).collect();
    let rank = |controllers: &[String]| V1_CONTROLLERS.iter().position(|c| controllers.iter().any(|own| own == c));
    mounts.sort_by_key(|mount| rank(&mount.controllers));
    mounts
}

fn v1_directory(
    layout: &Layout,
    place: &Place,
    V1Mount { controllers, mount }: &V1Mount,
    limits: &[Limits],
    policy: Option<&Policy>,
) -> Result<Directory> {
    let first = controllers.first().map_or("", String::as_str);
    let path = place.under(mount, || layout.own_cgroup(first), false)?;
    let mut writes = writes_for(limits, |controller| controllers.iter().any(|c| c == controller));
    if let Some(policy) = policy.filter(|_| controllers.iter().any(|c| c == "devices")) {
        writes.extend(device_writes(policy));
    }
    Ok(Directory { hierarchy: Hierarchy::V1(controllers.clone()), mount: mount.clone(), path, writes })
}

fn writes_for(limits: &[Limits], wanted: impl Fn(&str) -> bool) -> Vec<Write> {
    limits.iter().filter(|limit| wanted(limit.controller)).flat_map(|limit| limit.writes.clone()).collect()
}

/// A policy as writes to devices.allow and devices.deny (Documentation/admin-guide/cgroup-v1/devices.rst).
fn device_writes(policy: &Policy) -> Vec<Write> {
    let field = "linux.resources.devices";
    let file = |allow: bool| if allow { "devices.allow" } else { "devices.deny" };
    let mut writes = vec![Write::new(file(policy.default_allow), "a", field)];
    writes.extend(policy.exceptions().map(|exception| Write::new(file(!policy.default_allow), exception, field)));
    writes
}

/// Where the container's directory is in each hierarchy.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Below the hierarchy's root.
    Absolute(PathBuf),
    /// Below the cgroup of this process (v1), or beside it (v2: a cgroup with processes may not hand out controllers).
    Own(PathBuf),
}

impl Place {
    /// # Errors
    /// A cgroupsPath that is the root of the hierarchy, or is no path.
    fn of(request: &Request<'_>) -> Result<Self> {
        let Some(path) = request.path() else {
            let id = PathBuf::from(request.id);
            return Ok(if request.rootless { Self::Own(id) } else { Self::Absolute(id) });
        };
        let clean = clean(path);
        let field = "linux.cgroupsPath";
        if clean.as_os_str().is_empty() {
            return Err(Error::config(field, "is the root cgroup: name a cgroup below it"));
        }
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(Error::config(field, "contains a NUL byte: use a plain path"));
        }
        Ok(if path.is_absolute() { Self::Absolute(clean) } else { Self::Own(clean) })
    }

    fn under<'a>(&self, mount: &Path, own: impl FnOnce() -> Result<&'a Path>, beside: bool) -> Result<PathBuf> {
        Ok(match self {
            Self::Absolute(path) => mount.join(path),
            Self::Own(path) => {
                let own = clean(own()?);
                let parent = if beside { own.parent().unwrap_or(&own) } else { &own };
                mount.join(parent).join(path)
            }
        })
    }
}
