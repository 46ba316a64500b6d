//! Where the engines run: namespaces and cgroups of the test's own.
//!
//! The test starts itself again in new mount, network, pid, ipc and cgroup namespaces. In there /run is an empty tmpfs, the network is a
//! loopback device, the root of every cgroup hierarchy is a cgroup that the test has made, and the first process reaps orphans. When it
//! ends, the kernel ends what is left; the cgroups and the directory are removed from outside.

use crate::common::{self, host};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the directory of the laboratory for the process inside.
const INSIDE: &str = "MICRORUN_ENGINES";
const CGROUPS: &str = "/sys/fs/cgroup";
/// How the cgroups of a run are called, before its pid.
const CGROUP: &str = "microrun-engines-";
/// The program for the runtime `io.containerd.microrun.v1`.
pub const SHIM: &str = "containerd-shim-microrun-v1";

/// The laboratory, from inside.
pub struct World {
    dir: PathBuf,
}

impl World {
    /// Starts this program again inside, and returns nothing when that has ended; inside, returns the laboratory. A failure inside
    /// ends the program.
    ///
    /// # Errors
    /// Why there cannot be a laboratory on this machine.
    pub fn enter() -> Result<Option<Self>, String> {
        if let Some(dir) = std::env::var_os(INSIDE) {
            let world = Self { dir: dir.into() };
            world.furnish();
            return Ok(Some(world));
        }
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".into());
        }
        let dir = tempfile::Builder::new().prefix("microrun-engines-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        remove_what_was_left();
        let cgroups = Cgroups::make(&format!("{CGROUP}{}", std::process::id()))?;
        // The init of the pid namespace is a shell, because something has to reap the orphans that the test knows nothing of. It enters the
        // cgroups; unshare(1), which waits for it outside, must not be in them: v2 gives a cgroup with processes no controllers below.
        let status = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child=KILL", "--mount-proc", "sh", "-c"])
            .arg(
                "for file in $1; do echo 0 > $file || exit 99; done; shift
                unshare --cgroup \"$@\"; exit $?",
            )
            .arg("sh")
            .arg(cgroups.procs())
            .arg(std::env::current_exe().unwrap())
            .args(std::env::args_os().skip(1))
            .env(INSIDE, dir.path())
            .status()
            .unwrap();
        drop(cgroups);
        drop(dir);
        match status.code() {
            Some(0) => Ok(None),
            code => std::process::exit(code.unwrap_or_else(|| 128 + status.signal().unwrap_or(0))),
        }
    }

    /// A path in the laboratory's directory, which is on a disk.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes the namespaces what the module says.
    fn furnish(&self) {
        host("mount", &["-t", "tmpfs", "-o", "mode=755", "run", "/run"]);
        host("ip", &["link", "set", "lo", "up"]);
        let mut hierarchies = hierarchies();
        for hierarchy in &hierarchies {
            host("umount", &["-R", hierarchy.path.to_str().unwrap()]);
        }
        // crun refuses hybrid cgroups when the v2 hierarchy has a controller: it is compared without.
        if std::env::var("RUNTIME").is_ok_and(|name| name == "crun") && hierarchies.len() > 1 {
            hierarchies.retain(|hierarchy| hierarchy.kind == "cgroup");
        }
        for hierarchy in &hierarchies {
            // Mounted anew in this cgroup namespace, the root of the mount is the root of the namespace.
            let (kind, options) = (hierarchy.kind.as_str(), hierarchy.options.as_str());
            host("mount", &["-t", kind, "-o", options, "cgroup", hierarchy.path.to_str().unwrap()]);
        }
        // The test in a leaf, as a cgroup of v2 with processes cannot have controllers for its children.
        for hierarchy in &hierarchies {
            let leaf = hierarchy.path.join("test");
            make_cgroup(&leaf);
            for pid in processes() {
                let _ = fs::write(leaf.join("cgroup.procs"), pid.to_string());
            }
            if hierarchy.kind == "cgroup2" {
                enable_controllers(&hierarchy.path);
            }
        }
        let bin = self.path("bin");
        fs::create_dir(&bin).unwrap();
        host("cp", &[common::program().to_str().unwrap(), bin.join("microrun").to_str().unwrap()]);
        let shim =
            std::env::var("MICRORUN_SHIM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_containerd-shim-microrun-v1").into());
        host("cp", &[&shim, bin.join(SHIM).to_str().unwrap()]);
        // No file of a user's is read or written, e.g. ~/.docker.
        let home = self.path("home");
        fs::create_dir(&home).unwrap();
        HOME.set(home).unwrap();
    }
}

/// The home directory that children get.
static HOME: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();

/// The home directory that children get.
pub fn home() -> &'static Path {
    HOME.get().map_or(Path::new("/nonexistent"), PathBuf::as_path)
}

/// Processes, mounts and cgroups at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    processes: BTreeSet<i32>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
}

impl Inventory {
    /// What there is now.
    pub fn now() -> Self {
        Self { processes: processes(), mounts: mounts(), cgroups: container_cgroups() }
    }

    /// What there is now that was not there at the time of `self`, one line each; empty if all is as it was.
    pub fn left(&self) -> Vec<String> {
        let processes = processes();
        let mut left: Vec<String> = processes
            .difference(&self.processes)
            .map(|pid| format!("process {pid} ({})", describe_process(*pid)))
            .collect();
        left.extend(mounts().difference(&self.mounts).map(|target| format!("mount {target}")));
        left.extend(container_cgroups().difference(&self.cgroups).map(|path| format!("cgroup {}", path.display())));
        left
    }
}

/// The process ids of this pid namespace.
fn processes() -> BTreeSet<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The processes whose command line begins with a program of this name, in whatever directory.
pub fn processes_named(name: &str) -> Vec<i32> {
    let has_name =
        |line: &str| line.split(' ').next().is_some_and(|path| path.rsplit('/').next().unwrap().starts_with(name));
    processes().into_iter().filter(|pid| has_name(&describe_process(*pid))).collect()
}

/// The command line of a process, or its name and state if it has none: a zombie.
pub fn describe_process(pid: i32) -> String {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
    if line.is_empty() { fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default() } else { line }
}

/// The targets of all mounts, but for the directory that Podman makes a mount of to hold network namespaces, with runc too, and keeps.
fn mounts() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let targets = text.lines().filter_map(|line| line.split(' ').nth(4));
    targets.filter(|target| *target != "/run/netns").map(str::to_owned).collect()
}

/// The cgroups of containers. What engines make to hold these (/default, /docker, /docker/buildkit) stays, as there is nothing that
/// could tell when to remove it.
fn container_cgroups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies() {
        for parent in directories(&hierarchy.path) {
            let (parents, containers): (Vec<_>, Vec<_>) =
                directories(&parent).into_iter().partition(|path| path.ends_with("docker/buildkit"));
            found.extend(containers.into_iter().chain(parents.iter().flat_map(|path| directories(path))));
        }
    }
    found
}

/// Removes the cgroup `name` below the root of every hierarchy, and all that is below it.
pub fn remove_cgroups(name: &str) {
    hierarchies().iter().for_each(|hierarchy| remove_tree(&hierarchy.path.join(name)));
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// A cgroup hierarchy as it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    path: PathBuf,
    /// "cgroup" or "cgroup2".
    kind: String,
    /// The mount options that select it: its controllers, or its name.
    options: String,
}

/// The hierarchies below /sys/fs/cgroup, each once.
fn hierarchies() -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in fs::read_to_string("/proc/mounts").unwrap().lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let &[_, path, kind @ ("cgroup" | "cgroup2"), options, ..] = fields.as_slice() else { continue };
        let flags = ["rw", "ro", "relatime", "nosuid", "nodev", "noexec"];
        let ours = options.split(',').filter(|option| !flags.contains(option) && kind == "cgroup");
        let options = ours.collect::<Vec<_>>().join(",");
        let options = if options.is_empty() { "rw".to_owned() } else { options };
        let hierarchy = Hierarchy { path: path.into(), kind: kind.into(), options };
        if hierarchy.path.starts_with(CGROUPS) && !found.contains(&hierarchy) {
            found.push(hierarchy);
        }
    }
    found
}

/// Makes a cgroup that processes can enter at once: a v1 cpuset has neither CPUs nor memory nodes at first.
fn make_cgroup(path: &Path) {
    let _ = fs::create_dir(path);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Some(value) = path.parent().and_then(|parent| fs::read_to_string(parent.join(file)).ok()) {
            let _ = fs::write(path.join(file), value.trim());
        }
    }
}

/// Hands all controllers of a v2 cgroup to its children; those that were not handed on before.
fn enable_controllers(path: &Path) -> Vec<String> {
    let words = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
    let enabled = words("cgroup.subtree_control");
    let is_new = |controller: &&str| !enabled.split_whitespace().any(|word| word == *controller);
    let new: Vec<String> = words("cgroup.controllers").split_whitespace().filter(is_new).map(str::to_owned).collect();
    for controller in &new {
        let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    new
}

/// A cgroup in every hierarchy, removed with all below it in the end.
struct Cgroups {
    paths: Vec<PathBuf>,
    /// Controllers that the root of a unified hierarchy hands on for the test alone.
    enabled: Vec<String>,
}

impl Cgroups {
    fn make(name: &str) -> Result<Self, String> {
        let paths: Vec<PathBuf> = hierarchies().into_iter().map(|hierarchy| hierarchy.path.join(name)).collect();
        if paths.is_empty() {
            return Err(format!("no cgroup hierarchy is mounted below {CGROUPS}"));
        }
        for path in &paths {
            make_cgroup(path);
            if !path.join("cgroup.procs").exists() {
                return Err(format!("{} cannot be made", path.display()));
            }
        }
        let is_unified = Path::new(CGROUPS).join("cgroup.controllers").exists();
        let enabled = if is_unified { enable_controllers(Path::new(CGROUPS)) } else { Vec::new() };
        Ok(Self { paths, enabled })
    }

    /// The files by which a process enters.
    fn procs(&self) -> String {
        self.paths.iter().map(|path| format!("{}/cgroup.procs ", path.display())).collect()
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for path in &self.paths {
            for _ in 0..500 {
                remove_tree(path);
                if !path.exists() {
                    break;
                }
                // A process that was killed leaves its cgroup a little later.
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            if path.exists() {
                println!("left behind: {}", path.display());
            }
        }
        for controller in &self.enabled {
            let _ = fs::write(Path::new(CGROUPS).join("cgroup.subtree_control"), format!("-{controller}"));
        }
    }
}

/// Removes the cgroups of runs that were killed, and in which nobody is: the kernel removes none with a process in it.
fn remove_what_was_left() {
    for hierarchy in hierarchies() {
        for path in directories(&hierarchy.path) {
            let pid = path.file_name().and_then(|name| name.to_str()?.strip_prefix(CGROUP)?.parse::<u32>().ok());
            if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                remove_tree(&path);
            }
        }
    }
}

fn remove_tree(path: &Path) {
    for child in directories(path) {
        remove_tree(&child);
    }
    let _ = fs::remove_dir(path);
}
