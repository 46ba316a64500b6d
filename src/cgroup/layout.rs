//! Which cgroup hierarchies this machine has, and where.
//!
//! [`Layout::probe`] is on the way of every start, so it reads only what the request at hand needs: one statfs(2) of
//! /sys/fs/cgroup tells a unified machine, two tell a hybrid one. The v1 mounts are looked up only when a v1
//! controller is needed, at their usual places first and in /proc/self/mountinfo last.

use super::limits::Version;
use super::systemd;
use super::tree;
use super::write::read_whole;
use crate::error::Doing;
use crate::path;
use crate::{Error, Result, error::Kind};
use nix::errno::Errno;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where every distribution mounts cgroups (file-hierarchy(7)).
pub const ROOT: &str = "/sys/fs/cgroup";
/// Where systemd mounts the cgroup v2 hierarchy of a hybrid machine.
const HYBRID: &str = "/sys/fs/cgroup/unified";

/// The v1 hierarchies that a container may be put into, in the order in which they are joined: `cpuset` first, for it
/// fails most easily. `name=systemd` holds no controller; systemd inside a container wants it.
pub(super) const V1_CONTROLLERS: [&str; 15] = [
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "misc",
    "name=systemd",
];

/// How the hierarchies are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One cgroup v2 hierarchy with all controllers.
    Unified,
    /// Controllers on v1 hierarchies and a v2 hierarchy beside them.
    Hybrid,
    /// v1 hierarchies alone.
    Legacy,
    /// No cgroup file system at the usual place.
    Absent,
}

/// What [`Layout::probe`] shall find out beyond the mode.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// On a hybrid machine, the v1 mounts and the controllers of the v2 hierarchy; elsewhere they are always found out.
    pub controllers: bool,
    /// The cgroups that this process is in.
    pub own: bool,
    /// Whether the v1 cpuset hierarchy has this directory, relative to its root.
    pub cpuset_above: Option<PathBuf>,
    /// The cgroup of the user's systemd.
    pub users_manager: bool,
}

impl Needs {
    /// Everything: for reports (`features`), not for the start path.
    pub const ALL: Self = Self { controllers: true, own: true, cpuset_above: None, users_manager: false };
}

/// A mounted v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct V1Mount {
    /// The controllers it carries ("cpu", "cpuacct"), or "name=systemd".
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
}

/// The cgroup hierarchies of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// How the hierarchies are mounted.
    pub mode: Mode,
    /// Where cgroup v2 is mounted.
    pub unified: Option<PathBuf>,
    /// The controllers that the root of the v2 mount offers; on a hybrid machine empty unless asked for.
    pub unified_controllers: Vec<String>,
    /// The v1 hierarchies; on a hybrid machine empty unless asked for.
    pub v1: Vec<V1Mount>,
    /// The cgroup of this process in each hierarchy, by controller and "" for v2; empty unless asked for.
    pub own: BTreeMap<String, PathBuf>,
    /// Whether the v1 cpuset hierarchy has the directory asked about.
    pub cpuset_above: bool,
    /// The cgroup of the user's systemd, relative to the root of the hierarchy, if that was asked for and it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users_manager: Option<PathBuf>,
}

impl Layout {
    /// A machine of this kind, of which nothing else is known.
    pub fn new(mode: Mode) -> Self {
        let unified = match mode {
            Mode::Unified => Some(ROOT.into()),
            Mode::Hybrid => Some(HYBRID.into()),
            Mode::Legacy | Mode::Absent => None,
        };
        Self {
            mode,
            unified,
            unified_controllers: Vec::new(),
            v1: Vec::new(),
            own: BTreeMap::new(),
            cpuset_above: false,
            users_manager: None,
        }
    }

    /// Finds the hierarchies of this machine.
    ///
    /// # Errors
    /// /sys/fs/cgroup, /proc/self/mountinfo or /proc/self/cgroup that cannot be read.
    pub fn probe(needs: Needs) -> Result<Self> {
        let mut layout = Self::new(mode()?);
        // On v2 the controllers are always enabled for a container: statistics and OOM events need them.
        if needs.controllers || matches!(layout.mode, Mode::Unified | Mode::Legacy) {
            layout.probe_controllers()?;
        }
        if let (Some(above), Some(cpuset)) = (&needs.cpuset_above, layout.v1_mount("cpuset")) {
            layout.cpuset_above = cpuset.mount.join(above).exists();
        }
        if needs.users_manager {
            layout.users_manager = systemd::users_manager();
        }
        if needs.own {
            layout.own = own_cgroups()?;
            // There is nothing above the root.
            if layout.own.values().any(|path| path != Path::new("/")) {
                let file = "/proc/self/mountinfo";
                let text = fs::read_to_string(file).doing(|| format!("read {file}"))?;
                layout.see_own_from_mounts(&text);
            }
        }
        Ok(layout)
    }

    fn probe_controllers(&mut self) -> Result<()> {
        if let Some(unified) = &self.unified {
            let file = unified.join("cgroup.controllers");
            let text = tree::open_file(&file).and_then(read_whole).doing(|| format!("read {}", file.display()))?;
            self.unified_controllers = text.split_whitespace().map(str::to_owned).collect();
        }
        if matches!(self.mode, Mode::Hybrid | Mode::Legacy) {
            self.v1 = usual_v1_mounts();
            if self.v1.is_empty() {
                let file = "/proc/self/mountinfo";
                let text = fs::read_to_string(file).doing(|| format!("read {file}"))?;
                self.v1 = v1_mounts_of(&text);
            }
        }
        Ok(())
    }

    /// Takes the cgroups of this process as seen from the mounts: in a container without a cgroup namespace
    /// /proc/self/cgroup tells of them from the hierarchy's root, but a mount may begin at the container's own cgroup.
    fn see_own_from_mounts(&mut self, mountinfo: &str) {
        let unified = self.unified.iter().map(|mount| (mount, vec![String::new()]));
        let v1 = self.v1.iter().map(|v1| (&v1.mount, v1.controllers.clone()));
        for (mount, controllers) in unified.chain(v1) {
            // The last mount covers the others.
            let line = mountinfo.lines().rfind(|line| path::mounted(line).is_some_and(|(place, _)| place == *mount));
            // The usual place may be a link to where the hierarchy is mounted: "cpu" to "cpu,cpuacct".
            let line = line.or_else(|| mountinfo.lines().rfind(|line| is_usual_v1(line, &controllers)));
            let Some(root) = line.and_then(|line| line.split(' ').nth(3)) else { continue };
            let root = path::unescape(root);
            for controller in controllers {
                if let Some(own) = self.own.get_mut(&controller)
                    && let Ok(inside) = own.strip_prefix(&root)
                {
                    *own = Path::new("/").join(inside);
                }
            }
        }
    }

    /// The v1 hierarchy that carries `controller`.
    pub fn v1_mount(&self, controller: &str) -> Option<&V1Mount> {
        self.v1.iter().find(|mount| mount.controllers.iter().any(|c| c == controller))
    }

    /// Whether the v2 hierarchy carries `controller`.
    pub fn unified_has(&self, controller: &str) -> bool {
        self.unified_controllers.iter().any(|c| c == controller)
    }

    /// The version in which this machine has a controller, by its names in v1 and v2; v1 wins where both are mounted.
    pub(super) fn version(&self, v1: &str, v2: Option<&str>) -> Version {
        match self.mode {
            Mode::Unified => Version::V2,
            Mode::Hybrid if self.v1_mount(v1).is_none() && v2.is_some_and(|v2| self.unified_has(v2)) => Version::V2,
            _ => Version::V1,
        }
    }

    /// The version that [`Layout::version`] chose, by the name that the controller has there.
    pub(super) fn version_of(&self, controller: &str) -> Version {
        self.version(controller, Some(controller))
    }

    /// The cgroup of this process in the hierarchy of `controller` ("" for v2).
    ///
    /// # Errors
    /// The layout was probed without it, or the process is in no such hierarchy.
    pub fn own_cgroup(&self, controller: &str) -> Result<&Path> {
        self.own.get(controller).map(PathBuf::as_path).ok_or_else(|| {
            let name = if controller.is_empty() { "cgroup v2" } else { controller };
            Error::new(
                Kind::System,
                format!("/proc/self/cgroup names no {name} cgroup: use an absolute linux.cgroupsPath"),
            )
        })
    }
}

fn mode() -> Result<Mode> {
    let magic = |path: &str| match statfs(path) {
        Ok(fs) => Ok(Some(fs.filesystem_type())),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(Error::system(format!("statfs {path}"), errno)),
    };
    match magic(ROOT)? {
        None => Ok(Mode::Absent),
        Some(CGROUP2_SUPER_MAGIC) => Ok(Mode::Unified),
        Some(_) if magic(HYBRID)? == Some(CGROUP2_SUPER_MAGIC) => Ok(Mode::Hybrid),
        Some(_) if has_v1() => Ok(Mode::Legacy),
        Some(_) => Ok(Mode::Absent),
    }
}

fn is_v1(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP_SUPER_MAGIC)
}

fn has_v1() -> bool {
    is_v1(Path::new("/sys/fs/cgroup/devices"))
        || fs::read_to_string("/proc/self/mountinfo").is_ok_and(|text| !v1_mounts_of(&text).is_empty())
}

/// The v1 hierarchies mounted under their controllers' names. Controllers mounted together are linked to one
/// directory ("cpu" -> "cpu,cpuacct"), and are known by its device number.
fn usual_v1_mounts() -> Vec<V1Mount> {
    let mut mounts: Vec<(u64, V1Mount)> = Vec::new();
    for controller in V1_CONTROLLERS {
        let path = Path::new(ROOT).join(controller.trim_start_matches("name="));
        if !is_v1(&path) {
            continue;
        }
        let Ok(device) = fs::metadata(&path).map(|metadata| metadata.dev()) else { continue };
        match mounts.iter_mut().find(|(known, _)| *known == device) {
            Some((_, mount)) => mount.controllers.push(controller.to_owned()),
            None => mounts.push((device, V1Mount { controllers: vec![controller.to_owned()], mount: path })),
        }
    }
    mounts.into_iter().map(|(_, mount)| mount).collect()
}

/// The v1 hierarchies in the text of a mountinfo file (proc(5)).
fn v1_mounts_of(mountinfo: &str) -> Vec<V1Mount> {
    let mut mounts: Vec<V1Mount> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, controllers)) = v1_mount_of(line) else { continue };
        let known = |mount: &V1Mount| mount.controllers.iter().any(|c| controllers.contains(c));
        if !controllers.is_empty() && !mounts.iter().any(known) {
            mounts.push(V1Mount { controllers, mount });
        }
    }
    mounts
}

/// Where the v1 hierarchy of a line of a mountinfo file is mounted, and the controllers that it carries.
fn v1_mount_of(line: &str) -> Option<(PathBuf, Vec<String>)> {
    let (mount, file_system) = path::mounted(line)?;
    let mut right = file_system.split(' ');
    let (Some("cgroup"), _, Some(options)) = (right.next(), right.next(), right.next()) else { return None };
    Some((mount, options.split(',').filter(|o| V1_CONTROLLERS.contains(o)).map(str::to_owned).collect()))
}

/// Whether a line of a mountinfo file is of the v1 hierarchy with one of `controllers`, mounted among the usual ones.
fn is_usual_v1(line: &str, controllers: &[String]) -> bool {
    v1_mount_of(line).is_some_and(|(place, carried)| {
        place.starts_with(ROOT) && carried.iter().any(|controller| controllers.contains(controller))
    })
}

fn own_cgroups() -> Result<BTreeMap<String, PathBuf>> {
    let file = "/proc/self/cgroup";
    let text = fs::read_to_string(file).doing(|| format!("read {file}"))?;
    Ok(cgroups_of(&text))
}

/// The cgroups in the text of a /proc/PID/cgroup file (cgroups(7)), by controller and "" for v2.
pub(super) fn cgroups_of(text: &str) -> BTreeMap<String, PathBuf> {
    let mut cgroups = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        for controller in controllers.split(',') {
            cgroups.insert(controller.to_owned(), PathBuf::from(path));
        }
    }
    cgroups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOUNTINFO: &str = "\
24 30 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw
25 24 0:23 / /sys/fs/cgroup ro,nosuid shared:8 - tmpfs tmpfs ro,mode=755
26 25 0:24 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
27 25 0:25 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,xattr,name=systemd
28 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:11 - cgroup cgroup rw,cpu,cpuacct
29 25 0:27 /docker/x /mnt/my\\040memory rw shared:12 - cgroup cgroup rw,memory
31 25 0:27 / /elsewhere rw - cgroup cgroup rw,memory
";

    #[test]
    fn mountinfo_gives_each_hierarchy_once() {
        let mounts = v1_mounts_of(MOUNTINFO);
        let text: Vec<String> =
            mounts.iter().map(|m| format!("{} {}", m.controllers.join(","), m.mount.display())).collect();
        assert_eq!(
            text,
            ["name=systemd /sys/fs/cgroup/systemd", "cpu,cpuacct /sys/fs/cgroup/cpu,cpuacct", "memory /mnt/my memory"]
        );
    }

    #[test]
    fn own_cgroups_are_found_by_controller() {
        let own = cgroups_of("9:name=systemd:/a\n4:cpu,cpuacct:/b:c\n0::/user.slice/x\n");
        assert_eq!(own["name=systemd"], Path::new("/a"));
        assert_eq!(own["cpuacct"], Path::new("/b:c"));
        assert_eq!(own[""], Path::new("/user.slice/x"));
    }

    #[test]
    fn own_cgroups_are_seen_from_the_mounts() {
        let own = cgroups_of("3:memory:/docker/x/y\n2:cpu,cpuacct:/docker/x\n1:pids:/docker/x\n0::/docker/x\n");
        let v1 = v1_mounts_of(MOUNTINFO).into_iter().filter(|mount| mount.controllers != ["name=systemd"]).collect();
        let mut layout = Layout { own, v1, ..Layout::new(Mode::Hybrid) };
        layout.see_own_from_mounts(MOUNTINFO);
        let own = |controller: &str| layout.own_cgroup(controller).unwrap().to_str().unwrap();
        assert_eq!(
            (own("memory"), own("cpuacct"), own("pids"), own("")),
            ("/y", "/docker/x", "/docker/x", "/docker/x")
        );
        let covered =
            format!("{MOUNTINFO}40 28 0:25 /docker/x /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n");
        layout.see_own_from_mounts(&covered);
        assert_eq!((layout.own["cpu"].to_str(), layout.own["cpuacct"].to_str()), (Some("/"), Some("/")));
    }

    /// As in a container of Docker's on such a machine.
    #[test]
    fn own_cgroups_are_seen_from_mounts_that_are_linked_to() {
        let own = cgroups_of("2:cpu,cpuacct:/docker/x\n1:memory:/docker/x/y\n");
        let mount = |controllers: &[&str]| V1Mount {
            controllers: controllers.iter().map(|&name| name.to_owned()).collect(),
            mount: Path::new(ROOT).join(controllers[0]),
        };
        let v1 = vec![mount(&["cpu", "cpuacct"]), mount(&["memory"])];
        let mut layout = Layout { own, v1, ..Layout::new(Mode::Legacy) };
        layout.see_own_from_mounts(
            "28 25 0:26 /docker/x /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n\
             29 25 0:27 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
             30 25 0:27 / /elsewhere rw - cgroup cgroup rw,memory\n",
        );
        let own = |controller: &str| layout.own_cgroup(controller).unwrap();
        assert_eq!((own("cpu"), own("cpuacct"), own("memory")), (Path::new("/"), Path::new("/"), Path::new("/y")));
    }

    #[test]
    fn this_machine_has_a_layout() {
        let layout = Layout::probe(Needs::ALL).unwrap();
        match layout.mode {
            Mode::Unified | Mode::Hybrid => assert!(layout.unified.is_some()),
            Mode::Legacy => assert!(!layout.v1.is_empty()),
            Mode::Absent => println!("skipped: no cgroup file system is mounted at {ROOT}"),
        }
    }

    /// As the kernel writes it in mountinfo (mangle_path() in fs/seq_file.c).
    fn escape(text: &str) -> String {
        text.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_read(text in "(([ -~]{0,30}|cgroup|memory|0|[0-9]{1,3}|/x)[ :,\n-]{0,3}){0,60}") {
            v1_mounts_of(&text);
            cgroups_of(&text);
        }

        #[test]
        fn any_place_is_found(place in "/[ -~\t\n\\\\0-9]{0,30}") {
            let line = format!("29 25 0:27 / {} rw shared:12 - cgroup cgroup rw,memory\n", escape(&place));
            prop_assert_eq!(&v1_mounts_of(&line)[0].mount, Path::new(&place));
        }
    }
}
