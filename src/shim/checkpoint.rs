//! Checkpoints, by CRIU: a container is saved, and a task that was created with a checkpoint is restored when it is
//! started.

use super::io;
use super::messages::{self as m, Any};
use super::options::Options;
use super::service::{Reply, Shim, existing, store, task, wrong_state};
use super::task::{Body, Phase};
use super::ttrpc::{Code, Status};
use crate::container::checkpoint;
use crate::container::criu::Choices;
use crate::container::criu::rpc::{CgroupMode, Switch};
use crate::container::resident;
use crate::container::restore;
use crate::error::{Error, Kind};
use crate::log;
use prost::Message;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where CRIU works below a bundle, unless it is told otherwise. It is left there if it fails.
const WORK: &str = "criu-work";

/// The images that a new container is to be restored from.
pub(super) fn images(request: &m::CreateTaskRequest, options: &Options) -> Option<PathBuf> {
    // containerd before 2.0 looks for CriuImagePath in runc's options alone.
    let path = [&request.checkpoint, &options.criu_image_path].into_iter().find(|path| !path.is_empty())?;
    Some(PathBuf::from(path))
}

impl Shim {
    pub(super) fn checkpoint(self: &Arc<Self>, request: m::CheckpointTaskRequest) -> Reply<m::Empty> {
        let given = options_of(request.options.as_ref())?;
        let (container, store, bundle) = {
            let mut tasks = self.tasks();
            let task = task(&mut tasks, &request.id)?;
            if task.init.phase != Phase::Running {
                return Err(wrong_state("container not running"));
            }
            let container = existing(task)?.clone();
            (container, store(&task.options, &self.namespace), PathBuf::from(&task.bundle))
        };
        let images = if given.image_path.is_empty() { &request.path } else { &given.image_path };
        let work = Work::new(&given.work_path, &bundle);
        let options = checkpoint::Options {
            store,
            id: request.id.clone(),
            choices: choices(&given, PathBuf::from(images), &work)?,
            parent: Some(PathBuf::from(&given.parent_path)).filter(|path| !path.as_os_str().is_empty()),
            page_server: None,
            status_fd: None,
            pre_dump: false,
        };
        // Nobody else does anything to the container meanwhile.
        let resident = container.lock();
        checkpoint::save(&options).map_err(|error| error.context("OCI runtime checkpoint failed"))?;
        drop(resident);
        work.done();
        self.publish(&m::TaskCheckpointed { container_id: request.id, checkpoint: images.clone() });
        Ok(m::Empty {})
    }

    /// Restores the container that the task `id` is a checkpoint of.
    pub(super) fn restore(&self, id: &str) -> Reply<()> {
        let (images, paths, options, bundle) = {
            let mut tasks = self.tasks();
            let task = task(&mut tasks, id)?;
            let Body::Saved(images) = &task.body else { return Err(wrong_state("the container was restored before")) };
            (images.clone(), task.init.paths.clone(), Arc::clone(&task.options), PathBuf::from(&task.bundle))
        };
        let opened = io::set_up(&paths, &self.owner(id, &options))?;
        let work = Work::new(&options.criu_work_path, &bundle);
        let wanted = restore::Options {
            container: self.container_options(id, &options, &bundle, &opened),
            choices: Choices { images, work: Some(work.path.clone()), ..Choices::default() },
            lsm_profile: None,
            lsm_mount_context: None,
        };
        let restored = resident::restore(&wanted).map_err(|error| error.context("OCI runtime restore failed"));
        drop(wanted);
        let (existing, init) = self.adopt(restored?, paths, opened)?;
        work.done();
        let mut tasks = self.tasks();
        let task = task(&mut tasks, id)?;
        task.body = Body::Exists(existing);
        (task.init.pid, task.init.pidfd, task.init.io) = (init.pid, init.pidfd, init.io);
        Ok(())
    }
}

/// The directory of CRIU's log.
struct Work {
    path: PathBuf,
    is_ours: bool,
}

impl Work {
    fn new(given: &str, bundle: &Path) -> Self {
        if given.is_empty() {
            Self { path: bundle.join(WORK), is_ours: true }
        } else {
            Self { path: PathBuf::from(given), is_ours: false }
        }
    }

    /// Nobody needs to know what CRIU did.
    fn done(self) {
        if self.is_ours
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            log::warn(format!("remove {}: {error}", self.path.display()));
        }
    }
}

fn options_of(given: Option<&Any>) -> Reply<m::CheckpointOptions> {
    let Some(any) = given.filter(|any| !any.type_url.is_empty()) else { return Ok(m::CheckpointOptions::default()) };
    let wrong =
        |problem: &str| Status::new(Code::InvalidArgument, format!("checkpoint options: {}: {problem}", any.type_url));
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        // The latter by containerd's client before 2.0 for any runtime but runc's.
        "containerd.runc.v1.CheckpointOptions" | "containerd.linux.runc.CheckpointOptions" => {
            m::CheckpointOptions::decode(&*any.value).map_err(|_| wrong("the message cannot be understood"))
        }
        _ => Err(wrong("is not a message that is known here: use containerd.runc.v1.CheckpointOptions")),
    }
}

fn choices(given: &m::CheckpointOptions, images: PathBuf, work: &Work) -> Result<Choices, Error> {
    let refused = |what: &str, why: &str| Error::new(Kind::Usage, format!("checkpoint options: {what}: {why}"));
    if let Some(kind) = given.empty_namespaces.iter().find(|kind| *kind != "network") {
        return Err(refused("EmptyNamespaces", &format!("{kind:?} is not supported: give network")));
    }
    let cgroup_mode = match given.cgroups_mode.as_str() {
        "" => CgroupMode::Default,
        name => CgroupMode::named(name)
            .ok_or_else(|| refused("CgroupsMode", &format!("{name:?} is none: give soft, full, strict or ignore")))?,
    };
    let switches = [
        (!given.exit, Switch::LeaveRunning),
        (given.open_tcp, Switch::TcpEstablished),
        (given.external_unix_sockets, Switch::ExternalSockets),
        (given.terminal, Switch::ShellJob),
        (given.file_locks, Switch::FileLocks),
    ];
    let switches = switches.into_iter().filter_map(|(on, switch)| on.then_some(switch)).collect();
    Ok(Choices { images, work: Some(work.path.clone()), cgroup_mode, network_lock: None, switches })
}
