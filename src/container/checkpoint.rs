//! `checkpoint`: a container is saved by CRIU, and ended unless it is to go on.
//!
//! What CRIU cannot save it is told the names of: mounts from outside, network and pid namespaces that are not the
//! container's own, and stdio. `restore` gives it others of the same names. The names are runc's, so that either may
//! restore what the other saved.

use super::criu::rpc::{self, Features, Notice, Switch, Task};
use super::criu::{self, Choices, Directories, Session};
use super::manage;
use super::prepare;
use super::process::Process;
use super::start;
use super::state::{State, Status};
use super::stdio;
use super::store::{Entry, Store};
use crate::error::{Doing, Error, Kind, Result};
use crate::init::open_in_root;
use crate::plan::builder::cpath;
use crate::plan::restore::{self as plan, External};
use crate::spec;
use crate::sys::{fs as sys_fs, own};
use nix::errno::Errno;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// CRIU's log of a dump.
const LOG: &str = "dump.log";

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where containers are recorded.
    pub store: Store,
    /// The container's id.
    pub id: String,
    /// What a restore could ask for as well.
    pub choices: Choices,
    /// --parent-path
    pub parent: Option<PathBuf>,
    /// --page-server
    pub page_server: Option<(String, u16)>,
    /// --status-fd
    pub status_fd: Option<RawFd>,
    /// --pre-dump
    pub pre_dump: bool,
}

/// A container that runs.
struct Target {
    entry: Entry,
    state: State,
    init: Process,
    spec: Box<Spec>,
    /// Its root directory, as it has it.
    root: OwnedFd,
}

/// Saves the container, and removes it unless it is to go on. What could not be removed, as warnings.
///
/// # Errors
/// A container that does not run, or that CRIU cannot save: it then runs on.
pub fn checkpoint(options: &Options) -> Result<Vec<Error>> {
    save(options)?;
    if options.leaves_running() {
        return Ok(Vec::new());
    }
    match manage::delete(&options.store, &options.id, false, false) {
        // Whoever ran it in the foreground has done so, or is about to.
        Err(error) if error.kind() == Kind::NoContainer || error.errno() == Some(Errno::ENOENT) => Ok(Vec::new()),
        Err(error) => Ok(vec![error]),
        removed => removed,
    }
}

/// Saves the container. Unless it is to go on its processes have ended then, and it is for the caller to remove.
///
/// # Errors
/// A container that does not run, or that CRIU cannot save: it then runs on.
pub fn save(options: &Options) -> Result<()> {
    let target = find(options)?;
    let version = criu::require_version()?;
    prepare_images(options)?;
    let needed = Features { memory_tracking: options.pre_dump, lazy_pages: options.choices.has(Switch::LazyPages) };
    if needed != Features::default() {
        criu::require_features(needed)?;
    }
    dump(options, &target, version)
}

impl Options {
    fn leaves_running(&self) -> bool {
        self.pre_dump || self.choices.has(Switch::LeaveRunning)
    }
}

fn find(options: &Options) -> Result<Target> {
    let entry = options.store.find(&options.id)?;
    let state = entry.load()?;
    let (status, init) = entry.status(Some(&state))?;
    // A created container that is paused has no program yet either.
    let status = if status == Status::Paused && start::is_awaited(&entry) { Status::Created } else { status };
    let init = match (status, init) {
        (Status::Running | Status::Paused, Some(init)) => init,
        (status, _) => {
            let problem = format!("Container cannot be checkpointed in {} state", status.name());
            return Err(Error::new(Kind::WrongState, problem));
        }
    };
    if state.network_of_pool {
        entry.note_visit()?;
    }
    let spec = spec::load_file(&entry.config())?.spec;
    let path = format!("/proc/{}/root", init.pid);
    let root = File::open(&path).doing(|| format!("open {path}"))?.into();
    Ok(Target { entry, state, init, spec, root })
}

/// Makes the directory of images, and looks whether there is that of the dump before.
fn prepare_images(options: &Options) -> Result<()> {
    let images = &options.choices.images;
    let made = DirBuilder::new().recursive(true).mode(0o711).create(images);
    made.doing(|| format!("--image-path: make the directory {}", images.display()))?;
    let Some(parent) = &options.parent else { return Ok(()) };
    if parent.is_absolute() {
        return Err(Error::new(Kind::Usage, "--parent-path must be relative: give the way there from --image-path"));
    }
    let path = images.join(parent);
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Errno::ENOTDIR).doing(|| format!("invalid --parent-path: {}", path.display())),
        Err(error) => Err(error).doing(|| format!("invalid --parent-path: {}", path.display())),
    }
}

/// Has CRIU do it.
fn dump(options: &Options, target: &Target, version: i64) -> Result<()> {
    let directories = Directories::open(&options.choices, LOG)?;
    let task = if options.pre_dump { Task::PreDump } else { Task::Dump };
    let mut request = directories.options(&options.choices, &target.state.rootfs, criu::has_terminal(&target.spec));
    let config = criu::config(|name| target.state.annotations.get(name));
    request.pid = Some(target.init.pid);
    request.config = config.as_deref();
    request.network_lock = request.network_lock.or_else(|| criu::network_lock(version));
    request.freezer = target.state.cgroup.freezer();
    request.parent = options.parent.as_deref();
    request.page_server = options.page_server.as_ref();
    if options.parent.is_some() {
        request.switches.push(Switch::TrackMemory);
    }
    request.external = external_namespaces(&target.spec)?;
    // A first round saves memory and nothing else.
    if !options.pre_dump {
        target.require_saveable_root()?;
        request.mounts = target.mounts()?;
        let stdio = match &target.state.stdio {
            Some(names) => names.clone(),
            None => stdio::of_process(target.init.pid)?,
        };
        criu::write_descriptors(&options.choices.images, &stdio)?;
        let terminals = options.choices.has(Switch::ShellJob);
        request.external.extend(stdio.into_iter().filter(|name| stdio::is_external(name, terminals)));
        request.external.dedup();
    }
    let mut status_fd = options.status_fd.map(status_file).transpose()?;
    let mut session = Session::start(criu::quiet)?;
    let response = session.exchange(&rpc::request(task, Some(&request)), task, |notice, _| {
        tell_ready(notice, &mut status_fd);
        Ok(())
    })?;
    let ended_well = session.finish()?;
    // After a first round CRIU waits for more, and takes it badly that none comes.
    if response.success && (ended_well || options.pre_dump) {
        return Ok(());
    }
    Err(directories.failure(task, &response))
}

/// What waits for the page server hears a byte once.
fn tell_ready(notice: &Notice, status_fd: &mut Option<File>) {
    if notice.script == "status-ready"
        && let Some(mut file) = status_fd.take()
        && let Err(error) = file.write_all(&[0])
    {
        crate::log::warn(Error::io("--status-fd: write", &error));
    }
}

/// The descriptor `number`, which must be writable.
fn status_file(number: RawFd) -> Result<File> {
    let problem = |what: &str| {
        Error::new(Kind::Usage, format!("invalid --status-fd argument {number}: {what}: give one open for writing"))
    };
    // proc_pid_fdinfo(5): octal.
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).map_err(|_| problem("not open"))?;
    let flags = info.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    let is_writable = flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY);
    if number <= libc::STDERR_FILENO || !is_writable {
        return Err(problem("not writable"));
    }
    Ok(File::from(own(number)))
}

/// The name by which CRIU knows a namespace that exists when the container is restored, as in runc.
pub(super) fn namespace_name(kind: LinuxNamespaceType) -> Option<(&'static str, &'static str)> {
    match kind {
        LinuxNamespaceType::Network => Some(("net", "extRootNetNS")),
        LinuxNamespaceType::Pid => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// The namespaces of `spec` that are joined by path.
pub(super) fn joined(spec: &Spec) -> impl Iterator<Item = (LinuxNamespaceType, &Path)> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    namespaces.iter().filter_map(|namespace| {
        let path = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty())?;
        Some((namespace.typ(), path))
    })
}

fn external_namespaces(spec: &Spec) -> Result<Vec<String>> {
    let named = joined(spec).filter_map(|(kind, path)| Some((namespace_name(kind)?, path)));
    named
        .map(|((kind, name), path)| {
            let inode = fs::metadata(path).doing(|| format!("linux.namespaces: look at {}", path.display()))?.ino();
            Ok(format!("{kind}[{inode}]:{name}"))
        })
        .collect()
}

impl Target {
    /// An overlay in memory is gone with the container, and CRIU does not save the root.
    fn require_saveable_root(&self) -> Result<()> {
        let path = format!("/proc/{}/mountinfo", self.init.pid);
        let text = fs::read_to_string(&path).doing(|| format!("read {path}"))?;
        let upper = format!("upperdir={}/", self.entry.path().display());
        let is_scratch = |line: &str| line.split(' ').nth(4) == Some("/") && line.contains(&upper);
        if text.lines().any(is_scratch) {
            let problem =
                "the container's root is an overlay in memory, which CRIU does not save: run it with --overlay=DIR";
            return Err(Error::new(Kind::Config, problem));
        }
        Ok(())
    }

    /// The mounts from outside: where they are and what they are called.
    fn mounts(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let layout = prepare::layout()?;
        let directories = prepare::directories(&self.state.cgroup);
        let externals = plan::externals(&plan::Input {
            spec: &self.spec,
            bundle: &self.state.bundle,
            rootfs: &self.state.rootfs,
            layout: &layout,
            cgroup_directories: &directories,
        })?;
        let mut mounts: Vec<_> = externals
            .into_iter()
            .filter_map(|External { destination, .. }| Some((self.look_up(&destination)?.0, destination)))
            .collect();
        mounts.extend(super::notify::mount(&self.entry).map(|(inside, _)| (inside.clone(), inside)));
        let masked = self.spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_deref()).unwrap_or_default();
        for path in masked {
            if let Some((place, false)) = self.look_up(Path::new(path)) {
                mounts.push((place, PathBuf::from(NULL)));
            }
        }
        Ok(mounts)
    }

    /// Where `path` leads in the container, and whether that is a directory; `None` if nothing is there.
    fn look_up(&self, path: &Path) -> Option<(PathBuf, bool)> {
        let path = cpath("mounts", path).ok()?;
        let found = own(open_in_root(self.root.as_raw_fd(), &path, libc::O_PATH).ok()?);
        let mode = sys_fs::stat(found.as_raw_fd()).ok()?.st_mode;
        let place = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
        Some((place, mode & libc::S_IFMT == libc::S_IFDIR))
    }
}

/// What masks of files are made of.
pub(super) const NULL: &str = "/dev/null";
