//! The task service: what containerd asks of a shim. Each call is a function from its request to its response.

use super::events::{Event, Events, TaskResumed};
use super::io::Paths;
use super::messages::{self as m, Any, status};
use super::metrics;
use super::options::Options;
use super::reactor::Reactor;
use super::task::{Caller, Existing, Exit, Freezing, Phase, Process, Task, Tasks};
use super::ttrpc::{Answer, Code, Connection, Status};
use super::workers::Workers;
use crate::cgroup::rootless::is_real_root;
use crate::container::store::Store;
use crate::error::Error;
use crate::log;
use crate::spec;
use crate::sys::process as sys_process;
use prost::Message;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long containerd may take from asking for our address to asking for the container.
const EXPECTED: Duration = Duration::from_secs(30);

pub(super) type Reply<T> = Result<T, Status>;

/// A shim.
pub(super) struct Shim {
    pub namespace: String,
    pub reactor: Arc<Reactor>,
    pub workers: Workers,
    pub events: Events,
    /// Whether nothing about cgroups has to be found out.
    pub(super) is_real_root: bool,
    tasks: Mutex<Tasks>,
    /// A process has ended, or one of its streams.
    pub(super) changed: Condvar,
}

pub(super) fn not_found(what: &str) -> Status {
    Status::new(Code::NotFound, format!("{what}: not found"))
}

pub(super) fn wrong_state(problem: impl Into<String>) -> Status {
    Status::new(Code::FailedPrecondition, problem)
}

impl Shim {
    pub fn new(namespace: String, reactor: Arc<Reactor>, workers: Workers, events: Events) -> Self {
        let is_real_root = is_real_root();
        Self { namespace, reactor, workers, events, is_real_root, tasks: Mutex::default(), changed: Condvar::new() }
    }

    pub fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish<E: Event>(&self, event: &E) {
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
            "Delete" => self.at_once(caller, payload, Self::delete),
            "Pids" => self.at_leisure(caller, payload, Self::pids),
            "Pause" => self.at_leisure(caller, payload, Self::pause),
            "Resume" => self.at_once(caller, payload, Self::resume),
            "Kill" => self.at_once(caller, payload, Self::kill),
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
        if let Some(job) = self.job(caller, payload, call) {
            self.workers.run(job);
        }
    }

    /// The same for what others may be waiting for.
    fn at_once<Q, R>(self: &Arc<Self>, caller: Caller, payload: &[u8], call: fn(&Arc<Self>, Q) -> Reply<R>)
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
    {
        if let Some(job) = self.job(caller, payload, call) {
            self.workers.run_at_once(job);
        }
    }

    /// What is to be done for a call that can be understood; another is answered here.
    fn job<Q, R>(
        self: &Arc<Self>,
        caller: Caller,
        payload: &[u8],
        call: fn(&Arc<Self>, Q) -> Reply<R>,
    ) -> Option<impl FnOnce() + Send + use<Q, R>>
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
    {
        let shim = Arc::clone(self);
        match Q::decode(payload) {
            Ok(request) => Some(move || {
                let response = call(&shim, request);
                caller.answer(response.map(|response| response.encode_to_vec()));
            }),
            Err(error) => {
                caller.answer(Err(damaged(&error)));
                None
            }
        }
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
        let (mut spec, warnings) = spec::parse_process(text)?;
        warnings.iter().for_each(log::warn);
        // As with runc's shim, for clients that take the process of the container for another.
        spec.set_terminal(Some(request.terminal));
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

    /// The container `id`, which must not be a checkpoint so far.
    pub(super) fn existing(&self, id: &str) -> Reply<Existing> {
        existing(task(&mut self.tasks(), id)?).cloned()
    }

    fn kill(self: &Arc<Self>, request: m::KillRequest) -> Reply<m::Empty> {
        let signal = request.signal.cast_signed();
        let (phase, pidfd, container) = {
            let mut tasks = self.tasks();
            let task = task(&mut tasks, &request.id)?;
            let container = existing(task)?.clone();
            let exec = &request.exec_id;
            let process = task.process(exec).ok_or_else(|| not_found(&format!("process {exec}")))?;
            (process.phase, process.pidfd.clone(), container)
        };
        let is_init = request.exec_id.is_empty();
        if matches!(phase, Phase::Stopped(_)) && !(is_init && request.all) {
            return Err(not_found("process already finished"));
        }
        let pidfd = pidfd.ok_or_else(|| wrong_state("process not created"))?;
        if !is_init {
            return match sys_process::pidfd_send_signal(pidfd.as_raw_fd(), signal) {
                Ok(()) => Ok(m::Empty {}),
                Err(nix::errno::Errno::ESRCH) => Err(not_found("process already finished")),
                Err(errno) => Err(Error::system(format!("send signal {signal}"), errno).into()),
            };
        }
        match container.kill(&pidfd, signal, request.all) {
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
            (existing(task)?.cgroup(), task.init.pid, execs)
        };
        let mut pids = cgroup.pids(true)?;
        if pids.is_empty() && cgroup.directories().is_empty() {
            pids.push(init);
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
            let cgroup = existing(task)?.cgroup();
            task.freezing = Freezing::Pausing;
            cgroup
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
            existing(task)?.cgroup()
        };
        cgroup.thaw()?;
        task(&mut self.tasks(), &request.id)?.freezing = Freezing::Thawed;
        self.publish(&TaskResumed { container_id: request.id });
        Ok(m::Empty {})
    }

    fn update(self: &Arc<Self>, request: m::UpdateTaskRequest) -> Reply<m::Empty> {
        let text = request.resources.as_ref().map(|resources| resources.value.as_slice()).unwrap_or_default();
        let change = spec::parse_resources(text)?;
        let (is_elsewhere, updated) = self.existing(&request.id)?.update(&change);
        let mut watched = Ok(());
        if is_elsewhere && let Some(task) = self.tasks().all.get_mut(&request.id) {
            self.look_at_memory(task, &request.id);
            self.unwatch_memory(task);
            watched = self.watch_memory(&request.id, task);
        }
        updated.and(watched)?;
        Ok(m::Empty {})
    }

    fn stats(self: &Arc<Self>, request: m::ContainerRequest) -> Reply<m::StatsResponse> {
        let container = self.existing(&request.id)?;
        Ok(m::StatsResponse { stats: Some(metrics::read(&container.cgroup())?) })
    }

    /// A container's memory, or its life, has changed.
    pub fn memory_changed(&self, id: &str) {
        if let Some(task) = self.tasks().all.get_mut(id) {
            self.look_at_memory(task, id);
        }
    }

    /// Tells whether the container `id` has run out of memory since this was asked last; of one that is being started, afterwards.
    pub(super) fn look_at_memory(&self, task: &mut Task, id: &str) {
        use crate::cgroup::events::Event as Happened;
        while let Some((events, _)) = &mut task.memory {
            match events.next(Instant::now()) {
                Ok(Happened::OutOfMemory) => task.untold_ooms += 1,
                Ok(Happened::Timeout) => break,
                Ok(Happened::Ended) | Err(_) => self.unwatch_memory(task),
            }
        }
        if task.init.phase != Phase::Starting {
            for _ in 0..std::mem::take(&mut task.untold_ooms) {
                self.publish(&m::TaskOom { container_id: id.to_owned() });
            }
        }
    }

    /// Watches the memory of a container no longer.
    pub(super) fn unwatch_memory(&self, task: &mut Task) {
        if let Some((events, token)) = task.memory.take() {
            events.descriptors().into_iter().for_each(|(fd, _)| self.reactor.unwatch(fd));
            self.reactor.forget(token);
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

pub(super) fn task<'a>(tasks: &'a mut Tasks, id: &str) -> Reply<&'a mut Task> {
    tasks.all.get_mut(id).ok_or_else(|| not_found(&format!("container {id}")))
}

pub(super) fn existing(task: &Task) -> Reply<&Existing> {
    task.existing().ok_or_else(|| wrong_state("the container is a checkpoint that was not restored yet: start it"))
}

pub(super) fn find<'a>(tasks: &'a mut Tasks, id: &str, exec: &str) -> Option<&'a mut Process> {
    tasks.all.get_mut(id)?.process(exec)
}

pub(super) fn wait_response(exit: Exit) -> Vec<u8> {
    m::WaitResponse { exit_status: exit.status, exited_at: Some(exit.at) }.encode_to_vec()
}

fn damaged(error: &prost::DecodeError) -> Status {
    Status::new(Code::InvalidArgument, format!("the request cannot be understood: {error}"))
}

fn answer<Q: Message + Default, R: Message>(payload: &[u8], call: impl FnOnce(Q) -> Reply<R>) -> Answer {
    let request = Q::decode(payload).map_err(|error| damaged(&error))?;
    call(request).map(|response| response.encode_to_vec())
}
