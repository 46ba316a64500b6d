//! Carrying a plan out: directories, limits, device program.

use super::handle::Handle;
use super::join::Join;
use super::plan::{CgroupPlan, DeviceProgram, Directory, Hierarchy, IfDenied};
use super::systemd::Unit;
use super::tree;
use super::write::{Target, says_gone};
use crate::error::Doing;
use crate::sys::{bpf, pidfd};
use crate::{Error, Result};
use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::unistd::{Uid, chown};
use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A container's cgroups, just made, before its init is in them.
///
/// Dropping it closes the descriptors and leaves the cgroups; [`Cgroup::undo`] removes them.
#[derive(Debug)]
pub struct Cgroup {
    handle: Handle,
    join: Join,
    /// The container's own directories that were not there.
    made: Vec<PathBuf>,
    /// The directories above those that were not there, and may have become others' as well.
    above: Vec<PathBuf>,
    devices: Option<DeviceProgram>,
    devices_optional: bool,
    /// Whether the v2 directory was there before.
    used: bool,
    /// What can only be done once there is a process: the systemd unit and its directories.
    pending: Option<CgroupPlan>,
    /// The systemd unit that [`Cgroup::admit`] has started.
    started: Option<Unit>,
}

impl CgroupPlan {
    /// Fails if a directory is there and not fit for a new container. Where the container may do without, somebody
    /// else's, to which this user may not write, is only another reason to.
    ///
    /// # Errors
    /// The directory, and what is wrong with it.
    pub fn require_unused(&self) -> Result<()> {
        self.directories.iter().try_for_each(|directory| {
            let path = &directory.path;
            let Ok(fd) = tree::open_directory(path) else { return Ok(()) };
            let target = Target { directory: fd.as_fd(), path };
            if self.if_denied != IfDenied::Fail && tree::require_writable(&target).is_err() {
                return Ok(());
            }
            match tree::require_unused(path, &target) {
                Err(error) if is_gone(&error, &target) => Ok(()),
                result => result,
            }
        })
    }

    /// Makes the directories, enables controllers while they are empty and sets the limits.
    ///
    /// # Errors
    /// What the kernel refuses, as one sentence; then all that was made is removed again.
    pub fn create(&self) -> Result<Cgroup> {
        let mut cgroup = Cgroup::new(self);
        if self.unit.is_some() {
            cgroup.pending = Some(self.clone());
            return Ok(cgroup);
        }
        for directory in &self.directories {
            let Err(error) = cgroup.add(self, directory, None) else { continue };
            let denied = matches!(error.errno(), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS));
            let left = cgroup.undo_made();
            cgroup.join = Join::default();
            match self.if_denied {
                IfDenied::DoWithout if denied => {
                    return Ok(Cgroup { handle: Handle::new(self.driver), devices: None, ..cgroup });
                }
                IfDenied::FailForLimits if denied => {
                    let hint = "rootless needs no limits + no cgrouppath when no permission is granted for cgroups: \
                                leave linux.resources out, or have a cgroup delegated";
                    return Err(error.context(hint));
                }
                _ => {}
            }
            return Err(left.into_iter().fold(error, Error::and));
        }
        Ok(cgroup)
    }

    /// The cgroups that [`CgroupPlan::create`] made of an equal plan in another process, whose device program
    /// is in force: from now on this process may [`Cgroup::undo`] them.
    ///
    /// # Errors
    /// A directory that is gone.
    pub fn adopt(&self) -> Result<Cgroup> {
        let mut cgroup = Cgroup { devices: None, ..Cgroup::new(self) };
        for Directory { hierarchy, path, .. } in &self.directories {
            let fd = tree::open_directory(path).doing(|| format!("open {}", path.display()))?;
            match hierarchy {
                Hierarchy::Unified => cgroup.join.add_unified(fd),
                Hierarchy::V1(_) => cgroup.join.add_v1(&fd, path)?,
            }
            cgroup.made.push(path.clone());
        }
        Ok(cgroup)
    }
}

impl Cgroup {
    /// Those of `plan`, of which nothing is made yet.
    fn new(plan: &CgroupPlan) -> Self {
        Self {
            handle: plan.handle(),
            join: Join::default(),
            made: Vec::new(),
            above: Vec::new(),
            devices: plan.devices.clone(),
            devices_optional: plan.devices_optional,
            used: false,
            pending: None,
            started: None,
        }
    }

    /// How the init comes into the cgroups.
    pub fn join(&self) -> &Join {
        &self.join
    }

    /// Whether the init has to wait for [`Cgroup::admit`] before it does anything that counts, a new cgroup namespace
    /// above all.
    pub fn awaits_init(&self) -> bool {
        self.pending.is_some()
    }

    /// Moves the init into cgroups that could not be made without it: systemd starts the unit around the process
    /// `init`, and the limits are set. Nothing is to be done for other cgroups.
    ///
    /// # Errors
    /// What systemd or the kernel refuses, as one sentence; the caller ends the init and calls [`Cgroup::undo`].
    pub fn admit(&mut self, init: i32) -> Result<()> {
        let Some(plan) = self.pending.take() else { return Ok(()) };
        let Some(unit) = &plan.unit else { return Ok(()) };
        let cgroup = unit.start(init)?;
        self.started = Some(unit.unit.clone());
        plan.directories.iter().try_for_each(|directory| {
            let mut directory = directory.clone();
            if directory.hierarchy == Hierarchy::Unified {
                // The user's manager sits below a cgroup that only it knows.
                directory.path = directory.mount.join(&cgroup);
                require_below_root(&directory)?;
                self.handle.unified = Some(directory.path.clone());
            }
            self.add(&plan, &directory, Some(init))
        })
    }

    /// How the cgroups are saved in state.json; final after [`Cgroup::admit`].
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Loads and attaches the device program; where there is to be none, takes away what a used directory has. It belongs
    /// after the clone and before the init runs anything of the container: the init sets itself up meanwhile, for the
    /// kernel takes longer to check a program than to make a cgroup.
    ///
    /// # Errors
    /// What bpf(2) says, as one sentence.
    pub fn restrict_devices(&self) -> Result<()> {
        let Some(directory) = self.join.born_in() else { return Ok(()) };
        let path = self.handle.unified.as_deref().unwrap_or(Path::new(""));
        let restricted = match &self.devices {
            Some(devices) => attach(directory, path, devices, self.used),
            None if self.used => detach_all(directory, path),
            None => Ok(()),
        };
        match restricted {
            // Nobody in a user namespace may load one; whoever is there has no devices of the host's to make either.
            Err(_) if self.devices_optional || !pidfd::in_initial_user_namespace() => Ok(()),
            result => result,
        }
    }

    /// Ends what runs in the cgroups, for a start that has failed. Where the unit of a systemd that refused would be, there
    /// may be another container, which is left alone.
    ///
    /// # Errors
    /// A kernel that refuses.
    pub fn end(&self) -> Result<()> {
        let is_ours = self.handle.unit.is_none() || self.started.is_some();
        if is_ours { self.handle.kill(libc::SIGKILL) } else { Ok(()) }
    }

    /// Removes every directory, and stops the unit, that [`CgroupPlan::create`] and [`Cgroup::admit`] made: for a start
    /// that has failed, and whose init has been ended. What could not be removed is the answer.
    pub fn undo(mut self) -> Vec<Error> {
        let stopped = self.started.take().and_then(|unit| unit.stop().err());
        stopped.into_iter().chain(self.undo_made()).collect()
    }

    fn undo_made(&mut self) -> Vec<Error> {
        let deadline = Instant::now() + tree::REMOVAL_TIMEOUT;
        let own = self.made.drain(..).rev().map(|path| tree::remove(&path, deadline));
        let above = self.above.drain(..).rev().map(|path| tree::remove_unused(&path));
        own.chain(above).filter_map(Result::err).collect()
    }

    /// Makes one directory, sets its limits and opens it for joining. The process `init` is put there at once; with
    /// one, the directory may be in use.
    fn add(&mut self, plan: &CgroupPlan, directory: &Directory, init: Option<i32>) -> Result<()> {
        /// How often the directory may be removed just after it was found or made: by who deletes the container that had it.
        const RACES: u32 = 10;
        for _ in 0..RACES {
            if self.try_add(plan, directory, init)? {
                return Ok(());
            }
            self.made.retain(|made| *made != directory.path);
        }
        let path = directory.path.display();
        let problem = format!("{path} was removed again and again while it was made: use another path");
        Err(Error::config("linux.cgroupsPath", problem))
    }

    /// Does that once, unless the directory is gone before all is done. Whether it has been done.
    fn try_add(&mut self, plan: &CgroupPlan, directory: &Directory, init: Option<i32>) -> Result<bool> {
        require_below_root(directory)?;
        let Directory { hierarchy, mount, path, .. } = directory;
        let failed =
            |errno| Error::system(format!("unable to apply cgroup configuration: mkdir {}", path.display()), errno);
        let new = tree::make(mount, path, &mut self.above).map_err(failed)?;
        if new {
            self.made.push(path.clone());
        }
        let fd = match tree::open_directory(path) {
            Err(Errno::ENOENT) if init.is_none() => return Ok(false),
            result => result.doing(|| format!("open {}", path.display()))?,
        };
        if *hierarchy == Hierarchy::Unified {
            self.used = !new;
        }
        match self.furnish(plan, directory, &fd, !new, init) {
            // That of a systemd unit is not ours to make again.
            Err(error) if init.is_none() && is_gone(&error, &Target { directory: fd.as_fd(), path }) => {
                return Ok(false);
            }
            result => result?,
        }
        if *hierarchy == Hierarchy::Unified {
            self.join.add_unified(fd);
        }
        Ok(true)
    }

    /// Sets the limits of one directory, which is open, and has it joined if it is of v1.
    fn furnish(
        &mut self,
        plan: &CgroupPlan,
        directory: &Directory,
        fd: &OwnedFd,
        used: bool,
        init: Option<i32>,
    ) -> Result<()> {
        let Directory { hierarchy, mount, path, writes } = directory;
        let target = Target { directory: fd.as_fd(), path };
        if used && init.is_none() {
            if plan.if_denied != IfDenied::Fail {
                tree::require_writable(&target).doing(|| format!("open {}/cgroup.procs", path.display()))?;
            }
            tree::require_unused(path, &target)?;
        }
        if *hierarchy == Hierarchy::Unified {
            enable_controllers(plan, directory, &target)?;
            give_to(plan.owner, &target)?;
        }
        let cpuset = directory.carries("cpuset");
        if cpuset {
            ancestors(mount, path).try_for_each(inherit_cpuset)?;
        }
        target.write_all(writes)?;
        if cpuset {
            inherit_cpuset(path)?;
        }
        match (init, hierarchy) {
            (Some(init), Hierarchy::V1(controllers)) if controllers.iter().all(|c| c != "name=systemd") => {
                let doing = || format!("move process {init} to {}", path.display());
                target.put("cgroup.procs", &init.to_string()).doing(doing)
            }
            (None, Hierarchy::V1(_)) => self.join.add_v1(fd, path),
            (Some(_), Hierarchy::V1(_)) | (_, Hierarchy::Unified) => Ok(()),
        }
    }
}

/// Fails if the directory is the root of its hierarchy, where limits would hold for the whole machine.
fn require_below_root(directory: &Directory) -> Result<()> {
    if directory.path != directory.mount {
        return Ok(());
    }
    let problem = format!("{} is the root of a hierarchy: name a cgroup below it", directory.path.display());
    Err(Error::config("linux.cgroupsPath", problem))
}

/// Whether `error` is about the directory having been removed since it was opened.
fn is_gone(error: &Error, target: &Target<'_>) -> bool {
    error.errno().is_some_and(says_gone) && target.is_gone()
}

/// Loads the program of `devices` and puts it on the v2 directory `directory`, in the place of those that are there if
/// `used` says that there may be some.
///
/// # Errors
/// What bpf(2) says, as one sentence.
fn attach(directory: BorrowedFd<'_>, path: &Path, devices: &DeviceProgram, used: bool) -> Result<()> {
    let doing =
        |step: &str| format!("config.json: linux.resources.devices: {step} the device program of {}", path.display());
    let program = loaded(&devices.program.encode()).doing(|| doing("load"))?;
    let old = if used { bpf::device_programs(directory).doing(|| doing("list"))? } else { Vec::new() };
    let replaced = match &old[..] {
        [one] => bpf::attach_device_program(directory, program.as_fd(), Some(one.as_fd())),
        _ => Err(Errno::EINVAL),
    };
    if replaced.is_ok() {
        return Ok(());
    }
    // None or several are there, or the kernel cannot replace (before Linux 5.6): the new program comes first, so that
    // no moment passes without rules.
    bpf::attach_device_program(directory, program.as_fd(), None).doing(|| doing("attach"))?;
    old.iter().try_for_each(|old| bpf::detach_device_program(directory, old.as_fd()).doing(|| doing("detach the old")))
}

/// Takes every device program off the v2 directory `directory`.
///
/// # Errors
/// What bpf(2) says, as one sentence.
fn detach_all(directory: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let doing = |step: &str| format!("{step} the old device program of {}", path.display());
    let old = match bpf::device_programs(directory) {
        // A kernel that has no such programs.
        Err(Errno::EINVAL | Errno::ENOSYS) => return Ok(()),
        listed => listed.doing(|| doing("list"))?,
    };
    old.iter().try_for_each(|old| bpf::detach_device_program(directory, old.as_fd()).doing(|| doing("detach")))
}

/// Whether this process stays: see [`keep_programs`].
static ARE_KEPT: AtomicBool = AtomicBool::new(false);

/// Has threads keep the device program that they loaded last: a process that stays has many containers with the same rules, and the
/// kernel takes 100 µs to check them. Who ends with the container leaves the program to the cgroup: freeing it takes time, which is
/// somebody else's then.
pub fn keep_programs() {
    ARE_KEPT.store(true, Ordering::Relaxed);
}

thread_local! {
    /// The program that this thread loaded last.
    static LAST: RefCell<Option<(Vec<u64>, Rc<OwnedFd>)>> = const { RefCell::new(None) };
}

/// The program, loaded.
fn loaded(instructions: &[u64]) -> Result<Rc<OwnedFd>, Errno> {
    if !ARE_KEPT.load(Ordering::Relaxed) {
        return load(instructions).map(Rc::new);
    }
    LAST.with_borrow_mut(|last| {
        if let Some((_, program)) = last.as_ref().filter(|(of, _)| of == instructions) {
            return Ok(Rc::clone(program));
        }
        let program = Rc::new(load(instructions)?);
        *last = Some((instructions.to_vec(), Rc::clone(&program)));
        Ok(program)
    })
}

/// Loads a program. Before Linux 5.11, program memory counts as locked memory: that limit is lifted for the moment if
/// it is in the way.
fn load(instructions: &[u64]) -> Result<OwnedFd, Errno> {
    match bpf::load_device_program(instructions) {
        Err(Errno::EPERM) => {
            let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
            // It counts what all containers of this user have, so only who may raise the limit itself gets far.
            setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)
                .or_else(|_| setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard))?;
            let result = bpf::load_device_program(instructions);
            setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)?;
            result
        }
        result => result,
    }
}

/// Makes the v1 directory `path` for a container that runs already.
///
/// # Errors
/// What the kernel refuses, as one sentence.
pub(super) fn make_v1(mount: &Path, path: &Path, cpuset: bool) -> Result<()> {
    tree::make(mount, path, &mut Vec::new()).doing(|| format!("mkdir {}", path.display()))?;
    if cpuset {
        ancestors(mount, path).chain([path]).try_for_each(inherit_cpuset)?;
    }
    Ok(())
}

/// The directories between `mount` and `path`, without either, from the top.
fn ancestors<'a>(mount: &'a Path, path: &'a Path) -> impl Iterator<Item = &'a Path> {
    let mut between: Vec<_> = path.ancestors().skip(1).take_while(|ancestor| *ancestor != mount).collect();
    between.reverse();
    between.into_iter()
}

/// Enables the plan's controllers for the new directory, in the directories above it. What cannot be enabled is passed
/// over here: a limit that needs it will say so.
fn enable_controllers(plan: &CgroupPlan, directory: &Directory, target: &Target<'_>) -> Result<()> {
    let Directory { mount, path, writes, .. } = directory;
    let mut is_below_root = path.parent() == Some(mount);
    if !plan.enable.is_empty() {
        let held = target.get("cgroup.controllers").doing(|| format!("read {}/cgroup.controllers", path.display()))?;
        if !plan.enable.iter().all(|controller| held.split_whitespace().any(|c| c == controller)) {
            enable_at(mount, &plan.enable)?;
            ancestors(mount, path).try_for_each(|above| enable_at(above, &plan.enable))?;
            // The root of a cgroup namespace may hold processes, and has a type: what was enabled now may have made it threaded.
            is_below_root = false;
        }
    }
    if is_below_root {
        return Ok(());
    }
    // Below a threaded cgroup a new one starts as "domain invalid" and takes no process (cgroup-v2.rst, "Threads").
    let kind = target.get("cgroup.type").unwrap_or_default();
    let domain = ["memory.", "io.", "hugetlb."];
    match kind.trim() {
        "domain" | "" => Ok(()),
        kind if writes.iter().any(|write| domain.iter().any(|prefix| write.file.starts_with(prefix))) => {
            let problem = format!(
                "{} is {kind:?}, where memory, io and hugetlb limits cannot be set: use another path",
                path.display()
            );
            Err(Error::config("linux.cgroupsPath", problem))
        }
        "domain invalid" => {
            for above in ancestors(mount, path) {
                make_threaded(above)?;
                enable_at(above, &plan.enable)?;
            }
            make_threaded(path)
        }
        _ => Ok(()),
    }
}

/// Makes a directory threaded that takes no process otherwise: each one below a threaded one has to be told.
fn make_threaded(path: &Path) -> Result<()> {
    let kind = std::fs::read_to_string(path.join("cgroup.type")).unwrap_or_default();
    if kind.trim() != "domain invalid" {
        return Ok(());
    }
    tree::put(path, "cgroup.type", "threaded").doing(|| format!("make {} threaded", path.display()))
}

/// Enables `controllers` for the children of the directory `path`: all in one write or, if the kernel refuses one of them, each
/// that it lets pass.
fn enable_at(path: &Path, controllers: &[String]) -> Result<()> {
    let fd = tree::open_directory(path).doing(|| format!("open {}", path.display()))?;
    let target = Target { directory: fd.as_fd(), path };
    let file = "cgroup.subtree_control";
    let enable: Vec<String> = controllers.iter().map(|controller| format!("+{controller}")).collect();
    if target.put(file, &enable.join(" ")).is_err() {
        for one in &enable {
            let _ = target.put(file, one);
        }
    }
    Ok(())
}

/// Gives the v2 directory to `owner` for making cgroups below it (cgroup-v2.rst, "Delegation"): the directory and the
/// files that the kernel names for it.
fn give_to(owner: Option<u32>, target: &Target<'_>) -> Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    let list = std::fs::read_to_string("/sys/kernel/cgroup/delegate")
        .unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_owned());
    for file in std::iter::once("").chain(list.lines()) {
        let path = target.path.join(file);
        match chown(&path, Some(Uid::from_raw(owner)), None) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(Error::system(format!("give {} to user {owner}", path.display()), errno)),
        }
    }
    Ok(())
}

/// Gives a v1 cpuset directory the CPUs and memory nodes of the one above it where it has none: without, no task can
/// join (Documentation/admin-guide/cgroup-v1/cpusets.rst).
fn inherit_cpuset(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let read = |directory: &Path| {
            let file = directory.join(file);
            std::fs::read_to_string(&file).doing(|| format!("read {}", file.display()))
        };
        if read(path)?.trim().is_empty() {
            let file = path.join(file);
            std::fs::write(&file, read(parent)?.trim()).doing(|| format!("write {}", file.display()))?;
        }
    }
    Ok(())
}
