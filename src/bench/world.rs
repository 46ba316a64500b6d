//! Where the starts happen: a mount namespace of our own with a tmpfs in it, views of the cgroup hierarchies, and a
//! cgroup below which all containers are.
//!
//! Everything but the cgroup and an empty directory goes with this process, however it ends; those go with the next
//! measurement.

use crate::cgroup::{Driver, Handle};
use crate::sys::pidfd;
use crate::sys::process::{self, SchedAttr};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What can fail here fails with a sentence.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PREFIX: &str = "microrun-bench-";

/// The name of the cgroup, and of the directory.
pub fn name() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// What one was `doing` to `path` when an error came.
pub fn doing<E: std::fmt::Display>(doing: &str, path: &Path) -> impl FnOnce(E) -> String {
    move |error| format!("{doing} {}: {error}", path.display())
}

/// A mount namespace. Programs are started in it after [`View::enter`].
pub struct View {
    /// What it shows.
    pub name: &'static str,
    namespace: File,
    mounts: String,
}

impl View {
    /// A second descriptor of the namespace.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn namespace(&self) -> Result<File> {
        Ok(self.namespace.try_clone()?)
    }

    fn here(name: &'static str) -> Result<Self> {
        Ok(Self { name, namespace: File::open("/proc/self/ns/mnt")?, mounts: mounts() })
    }

    /// Goes there, into its root directory.
    ///
    /// # Errors
    /// The kernel refuses it, as to a process of several threads.
    pub fn enter(&self) -> Result<()> {
        Ok(process::setns(self.namespace.as_raw_fd(), libc::CLONE_NEWNS)?)
    }
}

/// Where the starts happen.
pub struct World {
    /// A directory on a tmpfs, in every view.
    pub dir: PathBuf,
    /// Says that we live ([`remove_remains`]).
    _lock: Option<Flock<File>>,
    /// The machine as it is.
    pub own: View,
    /// cgroup v2 alone at /sys/fs/cgroup; none if the machine is like that.
    pub unified: Option<View>,
    /// The machine without its cgroup2 mount; only if it is hybrid.
    pub v1_only: Option<View>,
    /// Where engines are: see [`World::make_engines_view`].
    pub engines: Option<View>,
    outside: View,
    cgroups: Vec<PathBuf>,
    /// The hierarchies in which this process was moved.
    moved_in: Vec<PathBuf>,
    /// Whether our cgroup in the unified view is in no mount of the machine.
    only_in_view: bool,
}

impl World {
    /// Makes all of it. With `priority`, this process and all that it starts come before the machine's other work.
    ///
    /// # Errors
    /// A directory, a mount or a cgroup cannot be made.
    pub fn new(priority: bool) -> Result<Self> {
        if priority {
            // A short slice interrupts the tasks with longer ones (Linux 6.12); children inherit it.
            let size = size_of::<SchedAttr>() as u32;
            process::sched_setattr(&SchedAttr { size, runtime: 100_000, ..SchedAttr::default() })?;
        }
        process::prctl(libc::PR_SET_CHILD_SUBREAPER, [1, 0, 0, 0])?;
        let outside = View::here("outside")?;
        remove_remains();
        let dir = std::env::temp_dir().join(name());
        // Under another name until it is locked: one that begins just then would take it for remains.
        let unlocked = std::env::temp_dir().join(format!(".{}", name()));
        fs::create_dir(&unlocked).map_err(doing("create", &unlocked))?;
        let lock = lock(&unlocked);
        fs::rename(&unlocked, &dir).map_err(doing("create", &dir))?;
        new_namespace()?;
        mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .map_err(doing("mount a tmpfs on", &dir))?;
        let mut world = Self {
            dir,
            _lock: lock,
            own: View::here("own")?,
            unified: None,
            v1_only: None,
            engines: None,
            outside,
            cgroups: Vec::new(),
            moved_in: Vec::new(),
            only_in_view: false,
        };
        for hierarchy in cgroup_mounts() {
            world.make_cgroup(&hierarchy.path, priority)?;
        }
        Ok(world)
    }

    /// Makes the other views, once all that they share is in place.
    ///
    /// # Errors
    /// The kernel refuses a mount.
    pub fn make_views(&mut self) -> Result<()> {
        self.own = View::here("own")?;
        let mounts = cgroup_mounts();
        let Some(unified) = mounts.iter().find(|mount| mount.unified) else { return self.make_unified("") };
        if unified.path == Path::new("/sys/fs/cgroup") {
            return Ok(());
        }
        process::unshare(libc::CLONE_NEWNS)?;
        umount2(&unified.path, MntFlags::MNT_DETACH)?;
        self.v1_only = Some(View::here("v1 only")?);
        self.make_unified(&unified.options)
    }

    /// Makes the view of the engines: the machine's own hierarchies without the cgroup2 mount of a hybrid one, as engines want
    /// controllers that this has not. What they write to directories of the system goes to memory.
    ///
    /// # Errors
    /// The kernel refuses a mount.
    pub fn make_engines_view(&mut self) -> Result<()> {
        self.v1_only.as_ref().unwrap_or(&self.own).enter()?;
        process::unshare(libc::CLONE_NEWNS)?;
        let made = self.cover_directories();
        self.engines = made.is_ok().then(|| View::here("engines")).transpose()?;
        self.own.enter()?;
        made
    }

    fn cover_directories(&self) -> Result<()> {
        for lower in ["/etc", "/opt", "/var/lib"].map(Path::new) {
            // An overlay shows nothing of what is mounted below, such as our own directory.
            if lower.is_dir() && !self.dir.starts_with(lower) {
                let at = self.dir.join("covers").join(lower.strip_prefix("/")?);
                let (upper, work) = (at.join("upper"), at.join("work"));
                [&upper, &work]
                    .into_iter()
                    .try_for_each(|path| fs::create_dir_all(path).map_err(doing("create", path)))?;
                let options =
                    format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
                mount(Some("overlay"), lower, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
                    .map_err(doing("mount an overlayfs on", lower))?;
            }
        }
        let run = Path::new("/run");
        Ok(mount(Some("tmpfs"), run, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .map_err(doing("mount a tmpfs on", run))?)
    }

    /// `options` belong to the whole system: those in force are repeated.
    fn make_unified(&mut self, options: &str) -> Result<()> {
        let top = Path::new("/sys/fs/cgroup");
        self.own.enter()?;
        process::unshare(libc::CLONE_NEWNS)?;
        umount2(top, MntFlags::MNT_DETACH)?;
        mount(Some("cgroup2"), top, Some("cgroup2"), MsFlags::empty(), Some(options))?;
        if !top.join(name()).exists() {
            fs::create_dir(top.join(name()))?;
            self.only_in_view = true;
        }
        self.unified = Some(View::here("unified")?);
        self.own.enter()
    }

    fn make_cgroup(&mut self, hierarchy: &Path, priority: bool) -> Result<()> {
        let path = hierarchy.join(name());
        fs::create_dir(&path).map_err(doing("create the cgroup", &path))?;
        self.cgroups.push(path.clone());
        // A cpuset of v1 takes nobody before it has CPUs and nodes.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // The root of v2 has no such file, and its children need none.
            if fs::read_to_string(path.join(file)).is_ok_and(|text| text.trim().is_empty())
                && let Ok(all) = fs::read(hierarchy.join(file))
            {
                fs::write(path.join(file), all).map_err(doing("write", &path.join(file)))?;
            }
        }
        let weights = [("cpu.shares", "262144"), ("cpu.weight", "10000")];
        if let Some((file, weight)) = weights.into_iter().find(|(file, _)| priority && path.join(file).exists()) {
            fs::write(path.join(file), weight)?;
            let ours = path.join("self");
            fs::create_dir(&ours)?;
            fs::write(ours.join("cgroup.procs"), "0")?;
            self.moved_in.push(hierarchy.to_owned());
        }
        Ok(())
    }

    /// All that is left of the starts, in words. It is removed.
    ///
    /// # Errors
    /// A view or a cgroup is out of reach.
    pub fn leave(self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        left.extend(end_orphans(&[]).into_iter().map(|process| format!("process {process}")));
        let roots = self.dir.join("state");
        for root in entries(&roots) {
            left.extend(
                entries(&root).iter().filter(|path| !is_hidden(path)).map(|path| format!("state {}", path.display())),
            );
        }
        for view in
            [Some(&self.own), self.unified.as_ref(), self.v1_only.as_ref(), self.engines.as_ref(), Some(&self.outside)]
                .into_iter()
                .flatten()
        {
            view.enter()?;
            let now = mounts();
            let new = now.lines().filter(|line| !view.mounts.lines().any(|known| known == *line));
            // Outside others mount too.
            let new = new.filter(|line| view.name != "outside" || line.contains(&name()));
            left.extend(new.map(|line| format!("mount ({} view) {line}", view.name)));
        }
        for hierarchy in &self.moved_in {
            fs::write(hierarchy.join("cgroup.procs"), "0")?;
            fs::remove_dir(hierarchy.join(name()).join("self"))?;
        }
        for cgroup in &self.cgroups {
            left.extend(remove_cgroup(cgroup)?);
        }
        if let (Some(view), true) = (&self.unified, self.only_in_view) {
            view.enter()?;
            left.extend(remove_cgroup(&Path::new("/sys/fs/cgroup").join(name()))?);
            self.outside.enter()?;
        }
        fs::remove_dir(&self.dir).map_err(doing("remove", &self.dir))?;
        Ok(left)
    }
}

/// The lock of a measurement's directory, which goes with its process (flock(2)); none if that lives.
fn lock(dir: &Path) -> Option<Flock<File>> {
    Flock::lock(File::open(dir).ok()?, FlockArg::LockExclusiveNonblock).ok()
}

/// Removes what measurements that were killed have left: their directories, their cgroups, containers in those, and commands
/// that were at work. What resists stays for the next one.
fn remove_remains() {
    for dir in entries(&std::env::temp_dir()) {
        let Some(name) = dir.file_name().and_then(|name| name.to_str()).filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        let Some(_lock) = lock(&dir) else { continue };
        end_those_in_views_of(name);
        let (unified, v1): (Vec<_>, Vec<_>) = cgroup_mounts().into_iter().partition(|mount| mount.unified);
        let of = |mount: &CgroupMount| {
            (mount.path.file_name().map(|of| of.to_string_lossy().into_owned()), mount.path.join(name))
        };
        let v1: BTreeMap<String, PathBuf> = v1.iter().map(of).filter_map(|(of, path)| Some((of?, path))).collect();
        let unified = unified.first().map(|mount| mount.path.join(name));
        // One for each version: a container need not be in both.
        for (unified, v1) in [(unified, BTreeMap::new()), (None, v1)] {
            let cgroups = Handle { driver: Driver::Cgroupfs, unit: None, unified, v1 };
            let _ = cgroups.kill(libc::SIGKILL).and_then(|()| cgroups.destroy());
        }
        let _ = fs::remove_dir(&dir);
    }
}

/// Kills all processes that have the directory of the measurement `name` mounted, which only its views have. Once it is removed, they
/// would make it anew, outside.
fn end_those_in_views_of(name: &str) {
    let mut killed = Vec::new();
    for process in entries(Path::new("/proc")) {
        let pid = process.file_name().and_then(|pid| pid.to_str()?.parse().ok());
        // The descriptor first: what is read then is this process's, or nothing.
        if let Some(Ok(pidfd)) = pid.map(pidfd::open)
            && super::machine::read(&process.join("mountinfo").to_string_lossy()).contains(&format!("/{name} "))
            && process::pidfd_send_signal(pidfd.as_raw_fd(), libc::SIGKILL).is_ok()
        {
            killed.push(pidfd);
        }
    }
    for pidfd in killed {
        let _ = process::is_readable(pidfd.as_raw_fd(), Duration::from_secs(10));
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Removes a cgroup; what was below it, in words.
fn remove_cgroup(cgroup: &Path) -> Result<Vec<String>> {
    let mut below = Vec::new();
    for path in entries(cgroup).into_iter().filter(|path| path.is_dir()) {
        below.push(format!("cgroup {}", path.display()));
        remove_cgroup(&path)?;
    }
    fs::remove_dir(cgroup).map_err(|error| format!("remove {}: {error}", cgroup.display()))?;
    Ok(below)
}

/// A mount namespace from which nothing gets out.
fn new_namespace() -> Result<()> {
    process::unshare(libc::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    Ok(())
}

/// Where a cgroup hierarchy is mounted.
pub struct CgroupMount {
    /// The mount point.
    pub path: PathBuf,
    /// Whether it is cgroup v2.
    pub unified: bool,
    /// Those of the file system, without `rw` and `ro`.
    pub options: String,
}

/// The cgroup mounts below /sys/fs/cgroup, as proc_pid_mountinfo(5) has them.
pub fn cgroup_mounts() -> Vec<CgroupMount> {
    let read = |line: &str| {
        let (path, system) = crate::path::mounted(line)?;
        let mut system = system.split(' ');
        let kind = system.next().filter(|kind| kind.starts_with("cgroup") && path.starts_with("/sys/fs/cgroup"))?;
        let options = system.nth(1)?.split(',').filter(|option| !matches!(*option, "rw" | "ro"));
        Some(CgroupMount { path, unified: kind == "cgroup2", options: options.collect::<Vec<_>>().join(",") })
    };
    mounts().lines().filter_map(read).collect()
}

fn mounts() -> String {
    super::machine::read("/proc/self/mountinfo")
}

/// The children of this process, ours or inherited.
pub fn children() -> Vec<i32> {
    let threads = entries(Path::new("/proc/self/task"));
    let listed = threads.iter().map(|thread| super::machine::read(&thread.join("children").to_string_lossy()));
    listed.flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Reaps those who have ended.
pub fn reap() {
    while matches!(process::wait(-1, libc::WNOHANG), Ok(Some(_))) {}
}

/// Waits until all children but `kept` have ended, for two seconds at most.
pub fn await_orphans(kept: &[i32]) {
    for _ in 0..1000 {
        reap();
        if children().iter().all(|pid| kept.contains(pid)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills and reaps all children but `kept`; their pids and names, and whose they were as far as their command line or
/// their cgroup says.
pub fn end_orphans(kept: &[i32]) -> Vec<String> {
    let mut ended = Vec::new();
    reap();
    // What they leave behind becomes ours in turn.
    loop {
        let orphans: Vec<i32> = children().into_iter().filter(|pid| !kept.contains(pid)).collect();
        if orphans.is_empty() {
            return ended;
        }
        ended.extend(orphans.into_iter().map(end));
    }
}

/// Kills and reaps a child; its pid and name, and whose it was as far as its command line or its cgroup says.
pub fn end(pid: i32) -> String {
    let read = |file: &str| super::machine::read(&format!("/proc/{pid}/{file}"));
    let command = read("cmdline").replace('\0', " ");
    let cgroup = read("cgroup").lines().find_map(|line| Some(line.split_once(&name())?.1.to_owned()));
    let cgroup = cgroup.map(|path| format!(", cgroup {path}")).unwrap_or_default();
    let said = format!("{pid} ({}): {}{cgroup}", read("comm").trim(), command.trim());
    let _ = process::kill(pid, libc::SIGKILL);
    let _ = process::wait(pid, 0);
    said
}

/// The mounts and the cgroups that this process sees, at a moment.
pub struct Inventory {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
}

impl Inventory {
    /// What there is now.
    pub fn now() -> Self {
        let mut cgroups = BTreeSet::new();
        cgroup_mounts().iter().for_each(|hierarchy| collect_cgroups(&hierarchy.path, &mut cgroups));
        Self { mounts: mounts().lines().map(str::to_owned).collect(), cgroups }
    }

    /// What has come since `before`, but for what is below the cgroup of a measurement, which looks through that in the end:
    /// lines of proc_pid_mountinfo(5), and cgroups.
    pub fn since(self, before: &Self) -> (Vec<String>, Vec<PathBuf>) {
        let is_looked_through = |path: &PathBuf| path.iter().any(|part| part.to_string_lossy().starts_with(PREFIX));
        let cgroups = self.cgroups.difference(&before.cgroups).filter(|path| !is_looked_through(path)).cloned();
        (self.mounts.difference(&before.mounts).cloned().collect(), cgroups.collect())
    }
}

fn collect_cgroups(at: &Path, found: &mut BTreeSet<PathBuf>) {
    for path in fs::read_dir(at).into_iter().flatten().flatten() {
        if path.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_cgroups(&path.path(), found);
            found.insert(path.path());
        }
    }
}

/// Whether a cgroup is there, and nobody in it or below it.
pub fn is_empty_cgroup(path: &Path) -> bool {
    let nobody = |path: &Path| fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|pids| pids.is_empty());
    let mut below = BTreeSet::new();
    collect_cgroups(path, &mut below);
    nobody(path) && below.iter().all(|path| nobody(path))
}
