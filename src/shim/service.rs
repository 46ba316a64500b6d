//! The task service: what containerd asks of a shim. Each call is a function from its request to its response.

use super::events::{Event, Events, TaskResumed};
use super::io::{self, Owner, Paths};
use super::messages::{self as m, Any, Timestamp, status};
use super::metrics;
use super::options::Options;
use super::reactor::{Handler, Reactor};
use super::rootfs;
use super::task::{Caller, Exit, Freezing, Phase, Process, Task, Tasks};
use super::ttrpc::{Answer, Code, Connection, Status};
use super::workers::Workers;
use crate::cgroup::{Driver, Handle};
use crate::container::exec::{self, Wanted};
use crate::container::resident::{self, Created, Resident};
use crate::container::state::Store;
use crate::container::{exec::Running, prepare};
use crate::error::{Doing, Error};
use crate::log;
use crate::spec;
use crate::sys::process as sys_process;
use nix::sys::epoll::EpollFlags;
use prost::Message;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a process that was killed may take to end, and what it wrote to be read, as long as runc's shim waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long containerd may take from asking for our address to asking for the container.
const EXPECTED: Duration = Duration::from_secs(30);

type Reply<T> = Result<T, Status>;

/// A shim.
pub(super) struct Shim {
    pub namespace: String,
    pub reactor: Arc<Reactor>,
    pub workers: Workers,
    pub events: Events,
    tasks: Mutex<Tasks>,
    /// A process has ended, or one of its streams.
    changed: Condvar,
}

fn not_found(what: &str) -> Status {
    Status::new(Code::NotFound, format!("{what}: not found"))
}

fn wrong_state(problem: impl Into<String>) -> Status {
    Status::new(Code::FailedPrecondition, problem)
}

impl Shim {
    pub fn new(namespace: String, reactor: Arc<Reactor>, workers: Workers, events: Events) -> Self {
        Self { namespace, reactor, workers, events, tasks: Mutex::default(), changed: Condvar::new() }
    }

    pub fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish<E: Event>(&self, event: &E) {
        self.events.publish(event, &self.reactor);
    }

    /// Something changed that somebody may wait for.
    pub fn has_changed(&self) {
        // Who is about to wait has the lock until he does.
        drop(self.tasks());
        self.changed.notify_all();
    }

    /// Does what is asked by `method`, and answers.
    pub fn call(self: &Arc<Self>, caller: Caller, method: &str, payload: &[u8]) {
        match method {
            "State" => caller.answer(answer(payload, |request| self.state(&request))),
            "Connect" => caller.answer(answer(payload, |request| Ok(self.connect(&request)))),
            "Exec" => caller.answer(answer(payload, |request| self.exec(request))),
            "ResizePty" => caller.answer(answer(payload, |request| self.resize(&request))),
            "CloseIO" => caller.answer(answer(payload, |request| self.close_io(&request))),
            "Shutdown" => caller.answer(answer(payload, |request| Ok(self.shutdown(&request)))),
            "Wait" => self.wait(caller, payload),
            "Create" => self.at_leisure(caller, payload, Self::create),
            "Start" => self.at_leisure(caller, payload, Self::start),
            "Delete" => self.at_leisure(caller, payload, Self::delete),
            "Pids" => self.at_leisure(caller, payload, Self::pids),
            "Pause" => self.at_leisure(caller, payload, Self::pause),
            "Resume" => self.at_leisure(caller, payload, Self::resume),
            "Kill" => self.at_leisure(caller, payload, Self::kill),
            "Update" => self.at_leisure(caller, payload, Self::update),
            "Stats" => self.at_leisure(caller, payload, Self::stats),
            "Checkpoint" => self.at_leisure(caller, payload, Self::checkpoint),
            _ => caller.answer(Err(Status::new(Code::Unimplemented, format!("no method {method}")))),
        }
    }

    /// Has a thread do what may take a while.
    fn at_leisure<Q, R>(self: &Arc<Self>, caller: Caller, payload: &[u8], call: fn(&Arc<Self>, Q) -> Reply<R>)
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
    {
        let shim = Arc::clone(self);
        match Q::decode(payload) {
            Ok(request) => self.workers.run(move || {
                let response = call(&shim, request);
                caller.answer(response.map(|response| response.encode_to_vec()));
            }),
            Err(error) => caller.answer(Err(damaged(&error))),
        }
    }

    fn create(self: &Arc<Self>, request: m::CreateTaskRequest) -> Reply<m::CreateTaskResponse> {
        {
            let mut tasks = self.tasks();
            tasks.expected.remove(&request.id);
            if tasks.all.contains_key(&request.id) || !tasks.creating.insert(request.id.clone()) {
                return Err(Status::new(Code::AlreadyExists, format!("task {}: already exists", request.id)));
            }
        }
        let made = self.make(&request);
        let mut tasks = self.tasks();
        tasks.creating.remove(&request.id);
        let task = made?;
        let pid = task.init.pid.unsigned_abs();
        tasks.all.insert(request.id.clone(), task);
        let io = m::TaskIo {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        self.publish(&m::TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(io),
            checkpoint: request.checkpoint,
            pid,
        });
        let watched = tasks.all.get_mut(&request.id).map_or(Ok(()), |task| self.watch(&request.id, task));
        watched.map_err(Status::from)?;
        Ok(m::CreateTaskResponse { pid })
    }

    /// Makes a container that waits to be started.
    fn make(&self, request: &m::CreateTaskRequest) -> Reply<Task> {
        if !request.checkpoint.is_empty() {
            return Err(Status::new(
                Code::Unimplemented,
                "restoring a checkpoint is not supported by this runtime's shim",
            ));
        }
        let options = Options::of(request.options.as_ref())?;
        let bundle = Path::new(&request.bundle);
        let rootfs = bundle.join("rootfs");
        rootfs::mount_all(&request.rootfs, &rootfs)?;
        let is_mounted = !request.rootfs.is_empty();
        let created = self.make_in(request, &options, bundle);
        let (container, paths, io) = created.inspect_err(|_| {
            if is_mounted && let Err(error) = rootfs::unmount_all(&rootfs) {
                log::warn(error);
            }
        })?;
        let pidfd = container.pidfd().try_clone().doing(|| "duplicate the descriptor of the container's init")?;
        let cgroup: Handle = container.cgroup().clone();
        let init = Process { pid: container.pid(), pidfd: Some(Arc::new(pidfd)), io, ..Process::new(paths) };
        Ok(Task {
            bundle: request.bundle.clone(),
            rootfs,
            shares_pids: container.shares_pids(),
            container: Arc::new(Mutex::new(container)),
            cgroup: Arc::new(cgroup),
            init,
            execs: Default::default(),
            freezing: Freezing::Thawed,
            memory: None,
            options: Arc::new(options),
            is_mounted,
        })
    }

    fn make_in(
        &self,
        request: &m::CreateTaskRequest,
        options: &Options,
        bundle: &Path,
    ) -> Reply<(Resident, Paths, io::Io)> {
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let opened = io::set_up(&paths, &self.owner(&request.id, options))?;
        let container = prepare::Options {
            driver: if options.systemd_cgroup { Driver::Systemd } else { Driver::Cgroupfs },
            no_pivot: options.no_pivot,
            no_new_keyring: options.no_new_keyring,
            stdio: Some(Arc::clone(&opened.stdio)),
            ..prepare::Options::new(self.store(options), &request.id, bundle.to_owned())
        };
        let created = resident::create(&container).map_err(|error| error.context("OCI runtime create failed"));
        drop(container);
        let Created { container, terminal, warnings } = created?;
        warnings.iter().for_each(log::warn);
        let io = opened.start(terminal, &self.reactor).inspect_err(|_| end_and_remove(&container))?;
        Ok((container, paths, io))
    }

    fn owner<'a>(&'a self, id: &'a str, options: &Options) -> Owner<'a> {
        Owner { namespace: &self.namespace, id, uid: options.io_uid, gid: options.io_gid }
    }

    fn store(&self, options: &Options) -> Store {
        store(options, &self.namespace)
    }

    /// Watches a new container's init and memory.
    fn watch(&self, id: &str, task: &mut Task) -> Result<(), Error> {
        if let Some(pidfd) = &task.init.pidfd {
            self.watch_end(pidfd, id, "")?;
        }
        let container = task.container.lock().unwrap_or_else(PoisonError::into_inner);
        // A container without a memory cgroup has nothing to watch.
        match container.events() {
            Ok(events) => {
                let token = self.reactor.register(Handler::Memory(id.to_owned()));
                for (fd, flags) in events.descriptors() {
                    let flags = EpollFlags::from_bits_truncate(i32::from(flags.bits()));
                    self.reactor.watch(fd, flags, token).doing(|| "watch the container's memory")?;
                }
                drop(container);
                task.memory = Some((events, token));
            }
            Err(error) => log::warn(error),
        }
        Ok(())
    }

    fn watch_end(&self, pidfd: &OwnedFd, id: &str, exec: &str) -> Result<(), Error> {
        let handler = Handler::Exit(id.to_owned(), exec.to_owned());
        self.reactor
            .add(pidfd, EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, handler)
            .map(drop)
            .doing(|| "watch a process")
    }

    fn start(self: &Arc<Self>, request: m::ProcessRequest) -> Reply<m::StartResponse> {
        let (id, exec) = (&request.id, &request.exec_id);
        let container = {
            let mut tasks = self.tasks();
            let task = task(&mut tasks, id)?;
            let process = task.process(exec).ok_or_else(|| not_found(&format!("process {exec}")))?;
            match process.phase {
                Phase::Created => process.phase = Phase::Starting,
                Phase::Starting | Phase::Running => return Err(wrong_state("cannot start a running process")),
                Phase::Stopped(_) => return Err(wrong_state("cannot start a process that has stopped")),
            }
            Arc::clone(&task.container)
        };
        let started = if exec.is_empty() {
            let mut container = container.lock().unwrap_or_else(PoisonError::into_inner);
            container.start().map_err(|error| error.context("OCI runtime start failed").into())
        } else {
            self.start_exec(id, exec, &container)
        };
        let mut tasks = self.tasks();
        let task = task(&mut tasks, id)?;
        let process = task.process(exec).ok_or_else(|| not_found(&format!("process {exec}")))?;
        process.phase = if started.is_ok() { Phase::Running } else { Phase::Created };
        let pid = process.pid.unsigned_abs();
        if started.is_ok() {
            let (container_id, exec_id) = (id.clone(), exec.clone());
            if exec.is_empty() {
                self.publish(&m::TaskStart { container_id, pid });
            } else {
                self.publish(&m::TaskExecStarted { container_id, exec_id, pid });
            }
        }
        if let Some(exit) = process.ended.take() {
            self.tell_end(task, id, exec, exit);
        } else if let (Ok(()), false, Some(pidfd)) = (&started, exec.is_empty(), &process.pidfd) {
            self.watch_end(pidfd, id, exec)?;
        }
        started.map(|()| m::StartResponse { pid })
    }

    fn start_exec(&self, id: &str, exec: &str, container: &Mutex<Resident>) -> Reply<()> {
        let (paths, spec, options) = {
            let mut tasks = self.tasks();
            let task = task(&mut tasks, id)?;
            let options = Arc::clone(&task.options);
            let process = task.process(exec).ok_or_else(|| not_found(&format!("process {exec}")))?;
            let spec = process.spec.take().ok_or_else(|| wrong_state("the process was started before"))?;
            (process.paths.clone(), spec, options)
        };
        let (target, filter) = container.lock().unwrap_or_else(PoisonError::into_inner).target()?;
        let opened = io::set_up(&paths, &self.owner(exec, &options))?;
        let wanted = exec::Options {
            store: self.store(&options),
            id: id.to_owned(),
            wanted: Wanted::Given(spec),
            rootless: false,
            detach: true,
            ignore_paused: true,
            preserve_fds: 0,
            pid_file: None,
            console_socket: None,
            pidfd_socket: None,
            sub_cgroups: Default::default(),
            stdio: Some(Arc::clone(&opened.stdio)),
        };
        let running = exec::exec_in(&wanted, &target, filter);
        drop(wanted);
        let Running { child, terminal, warnings } =
            running.map_err(|error| error.context("OCI runtime exec failed"))?;
        warnings.iter().for_each(log::warn);
        let pidfd = crate::sys::own(child.pidfd);
        let io = opened.start(terminal, &self.reactor).inspect_err(|_| {
            let _ = sys_process::pidfd_send_signal(pidfd.as_raw_fd(), libc::SIGKILL);
            let _ = sys_process::wait(child.pid, 0);
        })?;
        let mut tasks = self.tasks();
        if let Some(process) = tasks.all.get_mut(id).and_then(|task| task.process(exec)) {
            process.pid = child.pid;
            process.io = io;
            process.pidfd = Some(Arc::new(pidfd));
        }
        Ok(())
    }

    /// A process has ended: reaps it, if nobody has.
    pub fn ended(&self, id: &str, exec: &str) {
        let pid = find(&mut self.tasks(), id, exec).map_or(0, |process| process.pid);
        if pid != 0
            && let Ok(Some(how)) = sys_process::wait(pid, libc::WNOHANG)
        {
            self.reaped(id, exec, how);
        }
    }

    /// A process has ended, and was reaped.
    pub fn reaped(&self, id: &str, exec: &str, how: sys_process::Exit) {
        let mut tasks = self.tasks();
        let Some(task) = tasks.all.get_mut(id) else { return };
        let Some(process) = task.process(exec) else { return };
        if let Some(pidfd) = &process.pidfd {
            self.reactor.unwatch(pidfd.as_fd());
        }
        let exit = Exit { status: how.status().unsigned_abs(), at: Timestamp::now() };
        if process.phase == Phase::Starting {
            process.ended = Some(exit);
        } else {
            self.tell_end(task, id, exec, exit);
        }
    }

    /// Notes the end of a process, and tells everybody.
    fn tell_end(&self, task: &mut Task, id: &str, exec: &str, exit: Exit) {
        let Some(process) = task.process(exec) else { return };
        process.phase = Phase::Stopped(exit);
        process.ended = None;
        let waiters = std::mem::take(&mut process.waiters);
        let pid = process.pid.unsigned_abs();
        let own_id = if exec.is_empty() { id } else { exec };
        self.publish(&m::TaskExit {
            container_id: id.to_owned(),
            id: own_id.to_owned(),
            pid,
            exit_status: exit.status,
            exited_at: Some(exit.at),
        });
        waiters.into_iter().for_each(|waiter| waiter.answer(Ok(wait_response(exit))));
        if exec.is_empty() && task.shares_pids {
            // Its other processes outlive init.
            let cgroup = Arc::clone(&task.cgroup);
            self.workers.run(move || {
                if let Err(error) = cgroup.kill(libc::SIGKILL) {
                    log::warn(error);
                }
            });
        }
        self.changed.notify_all();
    }

    fn wait(&self, caller: Caller, payload: &[u8]) {
        let request = match m::ProcessRequest::decode(payload) {
            Ok(request) => request,
            Err(error) => return caller.answer(Err(damaged(&error))),
        };
        let mut tasks = self.tasks();
        match task(&mut tasks, &request.id).map(|task| task.process(&request.exec_id)) {
            Ok(Some(process)) => match process.exit() {
                Some(exit) => caller.answer(Ok(wait_response(exit))),
                None => process.waiters.push(caller),
            },
            Ok(None) => caller.answer(Err(not_found(&format!("process {}", request.exec_id)))),
            Err(status) => caller.answer(Err(status)),
        }
    }

    fn state(&self, request: &m::ProcessRequest) -> Reply<m::StateResponse> {
        let mut tasks = self.tasks();
        let task = task(&mut tasks, &request.id)?;
        let (bundle, freezing) = (task.bundle.clone(), task.freezing);
        let exec = &request.exec_id;
        let process = task.process(exec).ok_or_else(|| not_found(&format!("process {exec}")))?;
        let exit = process.exit();
        Ok(m::StateResponse {
            id: if exec.is_empty() { request.id.clone() } else { exec.clone() },
            bundle,
            pid: process.pid.unsigned_abs(),
            status: match (process.phase, freezing) {
                (Phase::Stopped(_), _) => status::STOPPED,
                (Phase::Created | Phase::Starting, _) => status::CREATED,
                (Phase::Running, Freezing::Paused) => status::PAUSED,
                (Phase::Running, Freezing::Pausing) => status::PAUSING,
                (Phase::Running, Freezing::Thawed) => status::RUNNING,
            },
            stdin: process.paths.stdin.clone(),
            stdout: process.paths.stdout.clone(),
            stderr: process.paths.stderr.clone(),
            terminal: process.paths.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| exit.at),
            exec_id: exec.clone(),
        })
    }

    fn connect(&self, request: &m::ContainerRequest) -> m::ConnectResponse {
        m::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.tasks().all.get(&request.id).map_or(0, |task| task.init.pid.unsigned_abs()),
            version: String::new(),
        }
    }

    fn exec(&self, request: m::ExecProcessRequest) -> Reply<m::Empty> {
        let text = request.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
        let (spec, warnings) = spec::parse_process(text)?;
        warnings.iter().for_each(log::warn);
        let mut tasks = self.tasks();
        let task = task(&mut tasks, &request.id)?;
        if task.execs.contains_key(&request.exec_id) || request.exec_id.is_empty() {
            return Err(Status::new(Code::AlreadyExists, format!("id {}: already exists", request.exec_id)));
        }
        if task.freezing != Freezing::Thawed {
            return Err(wrong_state("cannot exec in a paused container"));
        }
        if task.init.exit().is_some() {
            return Err(wrong_state("cannot exec in a stopped container"));
        }
        let paths =
            Paths { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
        task.execs.insert(request.exec_id.clone(), Process { spec: Some(Box::new(spec)), ..Process::new(paths) });
        self.publish(&m::TaskExecAdded { container_id: request.id, exec_id: request.exec_id });
        Ok(m::Empty {})
    }

    fn resize(&self, request: &m::ResizePtyRequest) -> Reply<m::Empty> {
        let mut tasks = self.tasks();
        let process = task(&mut tasks, &request.id)?.process(&request.exec_id);
        let process = process.ok_or_else(|| not_found(&format!("process {}", request.exec_id)))?;
        let side = |length: u32| u16::try_from(length).unwrap_or(u16::MAX);
        process.io.resize(side(request.height), side(request.width))?;
        Ok(m::Empty {})
    }

    fn close_io(&self, request: &m::CloseIoRequest) -> Reply<m::Empty> {
        let mut tasks = self.tasks();
        let process = task(&mut tasks, &request.id)?.process(&request.exec_id);
        let process = process.ok_or_else(|| not_found(&format!("process {}", request.exec_id)))?;
        if request.stdin {
            process.io.close_stdin();
        }
        Ok(m::Empty {})
    }

    fn shutdown(&self, request: &m::ShutdownRequest) -> m::Empty {
        let mut tasks = self.tasks();
        tasks.expected.remove(&request.id);
        // Others may be served by us.
        tasks.ends = true;
        m::Empty {}
    }

    fn container(&self, id: &str) -> Reply<Arc<Mutex<Resident>>> {
        Ok(Arc::clone(&task(&mut self.tasks(), id)?.container))
    }

    fn kill(self: &Arc<Self>, request: m::KillRequest) -> Reply<m::Empty> {
        let signal = request.signal.cast_signed();
        let (phase, pidfd, container) = {
            let mut tasks = self.tasks();
            let task = task(&mut tasks, &request.id)?;
            let container = Arc::clone(&task.container);
            let exec = &request.exec_id;
            let process = task.process(exec).ok_or_else(|| not_found(&format!("process {exec}")))?;
            (process.phase, process.pidfd.clone(), container)
        };
        match (phase, request.exec_id.is_empty()) {
            (Phase::Stopped(_), true) if request.all => {}
            (Phase::Stopped(_), _) => return Err(not_found("process already finished")),
            (_, true) => {}
            (_, false) => {
                let pidfd = pidfd.ok_or_else(|| wrong_state("process not created"))?;
                return match sys_process::pidfd_send_signal(pidfd.as_raw_fd(), signal) {
                    Ok(()) => Ok(m::Empty {}),
                    Err(nix::errno::Errno::ESRCH) => Err(not_found("process already finished")),
                    Err(errno) => Err(Error::system(format!("send signal {signal}"), errno).into()),
                };
            }
        }
        let container = container.lock().unwrap_or_else(PoisonError::into_inner);
        match container.kill(signal, request.all) {
            Ok(()) => Ok(m::Empty {}),
            Err(error) if error.kind() == crate::error::Kind::WrongState => Err(not_found(&error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    fn pids(self: &Arc<Self>, request: m::ContainerRequest) -> Reply<m::PidsResponse> {
        let (cgroup, init, execs) = {
            let mut tasks = self.tasks();
            let task = task(&mut tasks, &request.id)?;
            let execs: Vec<(i32, String)> =
                task.execs.iter().map(|(exec, process)| (process.pid, exec.clone())).collect();
            (Arc::clone(&task.cgroup), &task.init.pid.clone(), execs)
        };
        let mut pids = cgroup.pids(true)?;
        if pids.is_empty() && cgroup.directories().is_empty() {
            pids.push(*init);
        }
        let info = |pid: i32| {
            let (_, exec) = execs.iter().find(|(of, _)| *of == pid)?;
            Some(Any::of("containerd.runc.v1.ProcessDetails", &m::ProcessDetails { exec_id: exec.clone() }))
        };
        let processes = pids.into_iter().map(|pid| m::ProcessInfo { pid: pid.unsigned_abs(), info: info(pid) });
        Ok(m::PidsResponse { processes: processes.collect() })
    }

    fn pause(self: &Arc<Self>, request: m::ContainerRequest) -> Reply<m::Empty> {
        let cgroup = {
            let mut tasks = self.tasks();
            let task = task(&mut tasks, &request.id)?;
            if task.init.phase != Phase::Running {
                return Err(wrong_state("container not running"));
            }
            if task.freezing != Freezing::Thawed {
                return Err(wrong_state("cannot pause a paused container"));
            }
            task.freezing = Freezing::Pausing;
            Arc::clone(&task.cgroup)
        };
        let frozen = cgroup.freeze();
        let mut tasks = self.tasks();
        let task = task(&mut tasks, &request.id)?;
        task.freezing = if frozen.is_ok() { Freezing::Paused } else { Freezing::Thawed };
        frozen?;
        self.publish(&m::TaskPaused { container_id: request.id });
        Ok(m::Empty {})
    }

    fn resume(self: &Arc<Self>, request: m::ContainerRequest) -> Reply<m::Empty> {
        let cgroup = {
            let mut tasks = self.tasks();
            let task = task(&mut tasks, &request.id)?;
            if task.freezing != Freezing::Paused {
                return Err(wrong_state("container not paused"));
            }
            Arc::clone(&task.cgroup)
        };
        cgroup.thaw()?;
        task(&mut self.tasks(), &request.id)?.freezing = Freezing::Thawed;
        self.publish(&TaskResumed { container_id: request.id });
        Ok(m::Empty {})
    }

    fn update(self: &Arc<Self>, request: m::UpdateTaskRequest) -> Reply<m::Empty> {
        let text = request.resources.as_ref().map(|resources| resources.value.as_slice()).unwrap_or_default();
        let change = spec::parse_resources(text)?;
        let container = self.container(&request.id)?;
        container.lock().unwrap_or_else(PoisonError::into_inner).update(&change)?;
        Ok(m::Empty {})
    }

    fn stats(self: &Arc<Self>, request: m::ContainerRequest) -> Reply<m::StatsResponse> {
        let cgroup = Arc::clone(&task(&mut self.tasks(), &request.id)?.cgroup);
        Ok(m::StatsResponse { stats: Some(metrics::read(&cgroup)?) })
    }

    fn checkpoint(self: &Arc<Self>, request: m::CheckpointTaskRequest) -> Reply<m::Empty> {
        self.container(&request.id)?;
        Err(Status::new(
            Code::Unimplemented,
            "checkpoints are not supported by this runtime's shim: use runc's with microrun",
        ))
    }

    fn delete(self: &Arc<Self>, request: m::ProcessRequest) -> Reply<m::DeleteResponse> {
        let (id, exec) = (&request.id, &request.exec_id);
        let mut tasks = self.tasks();
        let task = task(&mut tasks, id)?;
        let container = Arc::clone(&task.container);
        let process = task.process(exec).ok_or_else(|| not_found(&format!("process {exec}")))?;
        match process.phase {
            Phase::Starting | Phase::Running => return Err(wrong_state("cannot delete a running process")),
            // It waits for a start that will not come.
            Phase::Created if exec.is_empty() => {
                drop(tasks);
                let _ = container.lock().unwrap_or_else(PoisonError::into_inner).kill(libc::SIGKILL, false);
                tasks = self.tasks();
            }
            Phase::Created | Phase::Stopped(_) => {}
        }
        let tasks = self.wait_until(tasks, |tasks| match find(tasks, id, exec) {
            Some(process) => process.io.is_drained() && (process.pid == 0 || process.exit().is_some()),
            None => true,
        });
        if exec.is_empty() { self.delete_container(tasks, id, &container) } else { self.delete_exec(tasks, id, exec) }
    }

    /// Waits until `done`, or until patience has an end.
    fn wait_until<'a>(
        &self,
        mut tasks: MutexGuard<'a, Tasks>,
        done: impl Fn(&mut Tasks) -> bool,
    ) -> MutexGuard<'a, Tasks> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || done(&mut tasks) {
                return tasks;
            }
            tasks = self.changed.wait_timeout(tasks, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn delete_exec(&self, mut tasks: MutexGuard<'_, Tasks>, id: &str, exec: &str) -> Reply<m::DeleteResponse> {
        let process = task(&mut tasks, id)?.execs.remove(exec);
        let process = process.ok_or_else(|| not_found(&format!("process {exec}")))?;
        let response = delete_response(&process);
        self.dismiss(process);
        Ok(response)
    }

    fn delete_container(
        &self,
        mut tasks: MutexGuard<'_, Tasks>,
        id: &str,
        container: &Mutex<Resident>,
    ) -> Reply<m::DeleteResponse> {
        let (rootfs, is_mounted) = {
            let task = task(&mut tasks, id)?;
            if task.init.exit().is_none() {
                return Err(wrong_state("the container's init does not end"));
            }
            if let Some((events, token)) = task.memory.take() {
                events.descriptors().into_iter().for_each(|(fd, _)| self.reactor.unwatch(fd));
                self.reactor.forget(token);
            }
            (task.rootfs.clone(), task.is_mounted)
        };
        drop(tasks);
        let warnings = container.lock().unwrap_or_else(PoisonError::into_inner).remove()?;
        warnings.iter().for_each(log::warn);
        if is_mounted {
            rootfs::unmount_all(&rootfs)?;
        }
        let mut tasks = self.tasks();
        let Some(task) = tasks.all.remove(id) else { return Err(not_found(&format!("container {id}"))) };
        let response = delete_response(&task.init);
        self.publish(&m::TaskDelete {
            container_id: id.to_owned(),
            pid: response.pid,
            exit_status: response.exit_status,
            exited_at: response.exited_at,
            id: String::new(),
        });
        drop(tasks);
        self.dismiss(task.init);
        task.execs.into_values().for_each(|exec| self.dismiss(exec));
        Ok(response)
    }

    /// Gives back what a process had of ours.
    fn dismiss(&self, process: Process) {
        let exit = process.exit().unwrap_or(Exit { status: UNKNOWN, at: Timestamp::now() });
        process.waiters.iter().for_each(|waiter| waiter.answer(Ok(wait_response(exit))));
        process.io.close(&self.reactor);
    }

    /// A container's memory, or its life, has changed.
    pub fn memory_changed(&self, id: &str) {
        use crate::cgroup::events::Event as Happened;
        let mut tasks = self.tasks();
        let Some(task) = tasks.all.get_mut(id) else { return };
        let Some((events, token)) = &mut task.memory else { return };
        loop {
            match events.next(Instant::now()) {
                Ok(Happened::OutOfMemory) => self.publish(&m::TaskOom { container_id: id.to_owned() }),
                Ok(Happened::Timeout) => return,
                Ok(Happened::Ended) | Err(_) => {
                    events.descriptors().into_iter().for_each(|(fd, _)| self.reactor.unwatch(fd));
                    self.reactor.forget(*token);
                    task.memory = None;
                    return;
                }
            }
        }
    }

    /// The container and the exec, if any, that the child `pid` of ours was until just now.
    pub fn owner_of(&self, pid: i32) -> Option<(String, String)> {
        let is_it = |process: &Process| process.pid == pid && process.exit().is_none();
        self.tasks().all.iter().find_map(|(id, task)| {
            if is_it(&task.init) {
                return Some((id.clone(), String::new()));
            }
            let (exec, _) = task.execs.iter().find(|(_, process)| is_it(process))?;
            Some((id.clone(), exec.clone()))
        })
    }

    /// A connection is lost: who waited there hears nothing.
    pub fn hung_up(&self, connection: &Arc<Connection>) {
        let mut tasks = self.tasks();
        let keep =
            |process: &mut Process| process.waiters.retain(|waiter| !Arc::ptr_eq(&waiter.connection, connection));
        for task in tasks.all.values_mut() {
            keep(&mut task.init);
            task.execs.values_mut().for_each(keep);
        }
    }

    /// Whether there is, for as far as is known, nothing left to do after a request to end.
    pub fn may_end(&self) -> bool {
        let mut tasks = self.tasks();
        tasks.expected.retain(|_, since| since.elapsed() < EXPECTED);
        tasks.ends && tasks.all.is_empty() && tasks.creating.is_empty() && tasks.expected.is_empty()
    }

    /// Whether only containers that are expected keep it from ending.
    pub fn waits_for_expected(&self) -> bool {
        let tasks = self.tasks();
        tasks.ends && tasks.all.is_empty() && !tasks.expected.is_empty()
    }

    /// containerd is given our address for the container `id`.
    pub fn expect(&self, id: &str) {
        self.tasks().expected.insert(id.to_owned(), Instant::now());
    }
}

/// Where containers of a containerd namespace are recorded.
pub(super) fn store(options: &Options, namespace: &str) -> Store {
    Store::new(options.root.join(namespace))
}

/// What is said of a process that was never started.
const UNKNOWN: u32 = 255;

fn end_and_remove(container: &Resident) {
    let _ = container.kill(libc::SIGKILL, false);
    let _ = sys_process::wait(container.pid(), 0);
    if let Err(error) = container.remove() {
        log::warn(error);
    }
}

fn task<'a>(tasks: &'a mut Tasks, id: &str) -> Reply<&'a mut Task> {
    tasks.all.get_mut(id).ok_or_else(|| not_found(&format!("container {id}")))
}

fn find<'a>(tasks: &'a mut Tasks, id: &str, exec: &str) -> Option<&'a mut Process> {
    tasks.all.get_mut(id)?.process(exec)
}

fn delete_response(process: &Process) -> m::DeleteResponse {
    let exit = process.exit();
    m::DeleteResponse {
        pid: process.pid.unsigned_abs(),
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: exit.map(|exit| exit.at),
    }
}

fn wait_response(exit: Exit) -> Vec<u8> {
    m::WaitResponse { exit_status: exit.status, exited_at: Some(exit.at) }.encode_to_vec()
}

fn damaged(error: &prost::DecodeError) -> Status {
    Status::new(Code::InvalidArgument, format!("the request cannot be understood: {error}"))
}

fn answer<Q: Message + Default, R: Message>(payload: &[u8], call: impl FnOnce(Q) -> Reply<R>) -> Answer {
    let request = Q::decode(payload).map_err(|error| damaged(&error))?;
    call(request).map(|response| response.encode_to_vec())
}
