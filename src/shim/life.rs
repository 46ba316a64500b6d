//! The life of containers and their processes: created, started, reaped, deleted.

use super::checkpoint;
use super::io::{self, Owner, Paths};
use super::messages::{self as m, Timestamp};
use super::options::Options;
use super::reactor::Handler;
use super::rootfs;
use super::service::{Reply, Shim, find, not_found, store, task, wait_response, wrong_state};
use super::stream::Stream;
use super::task::{Body, Existing, Exit, Freezing, Phase, Process, Task, Tasks};
use super::ttrpc::{Code, Status};
use crate::cgroup;
use crate::container::exec::{self, Running, Wanted};
use crate::container::prepare;
use crate::container::resident::{self, Created, Resident};
use crate::container::store::Store;
use crate::error::{Doing, Error};
use crate::log;
use crate::sys::clone::Child;
use crate::sys::{pidfd as sys_pidfd, process as sys_process};
use nix::sys::epoll::EpollFlags;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a process that was killed may take to end, and what it wrote to be read, as long as runc's shim waits.
const PATIENCE: Duration = Duration::from_secs(10);

impl Shim {
    pub(super) fn create(self: &Arc<Self>, request: m::CreateTaskRequest) -> Reply<m::CreateTaskResponse> {
        {
            let mut tasks = self.tasks();
            tasks.expected.remove(&request.id);
            if tasks.all.contains_key(&request.id) || !tasks.creating.insert(request.id.clone()) {
                return Err(Status::new(Code::AlreadyExists, format!("task {}: already exists", request.id)));
            }
        }
        let made = self.make(&request);
        let mut tasks = self.tasks();
        let made = if tasks.given_up.contains(&request.id) {
            // Nobody else makes one of that name meanwhile.
            drop(tasks);
            let given_up = made.and_then(|task| {
                self.undo(task);
                Err(wrong_state(format!("task {}: was deleted before it was created", request.id)))
            });
            tasks = self.tasks();
            tasks.given_up.remove(&request.id);
            given_up
        } else {
            made
        };
        tasks.creating.remove(&request.id);
        if made.is_err() {
            // That may have been the last.
            self.reactor.wake();
        }
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

    /// Removes a container that nobody was told of.
    fn undo(&self, task: Task) {
        if let Some(container) = task.existing() {
            end_and_remove(&mut container.lock());
        }
        unmount(task.mounted.as_deref());
        self.dismiss(task.init);
    }

    /// Makes a container that waits to be started, or notes what it is to be restored from.
    fn make(&self, request: &m::CreateTaskRequest) -> Reply<Task> {
        let options = Options::of(request.options.as_ref())?;
        let bundle = Path::new(&request.bundle);
        let rootfs = bundle.join("rootfs");
        rootfs::mount_all(&request.rootfs, &rootfs)?;
        let mounted = Some(rootfs).filter(|_| !request.rootfs.is_empty());
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let made = match checkpoint::images(request, &options) {
            Some(images) => Ok((Body::Saved(images), Process::new(paths))),
            None => self.make_in(&request.id, &options, bundle, paths),
        };
        let (body, init) = made.inspect_err(|_| unmount(mounted.as_deref()))?;
        Ok(Task {
            bundle: request.bundle.clone(),
            body,
            init,
            execs: Default::default(),
            freezing: Freezing::Thawed,
            memory: None,
            untold_ooms: 0,
            options: Arc::new(options),
            mounted,
        })
    }

    fn make_in(&self, id: &str, options: &Options, bundle: &Path, paths: Paths) -> Reply<(Body, Process)> {
        let opened = io::set_up(&paths, &self.owner(id, options))?;
        let container = self.container_options(id, options, bundle, &opened);
        let created = resident::create(&container).map_err(|error| error.context("OCI runtime create failed"));
        drop(container);
        let (existing, init) = self.adopt(created?, paths, opened)?;
        Ok((Body::Exists(existing), init))
    }

    /// What the library is to know of the container `id`.
    pub(super) fn container_options(
        &self,
        id: &str,
        options: &Options,
        bundle: &Path,
        opened: &io::Opened,
    ) -> prepare::Options {
        prepare::Options {
            driver: options.driver(),
            rootless: self.is_rootless(options),
            no_pivot: options.no_pivot,
            no_new_keyring: options.no_new_keyring,
            stdio: Some(Arc::clone(&opened.stdio)),
            lender: options.lender(),
            ..prepare::Options::new(self.store(options), id, bundle.to_owned())
        }
    }

    /// Lets the stdio of a new container flow.
    pub(super) fn adopt(&self, created: Created, paths: Paths, opened: io::Opened) -> Reply<(Existing, Process)> {
        let Created { mut container, terminal, warnings } = created;
        warnings.iter().for_each(log::warn);
        let started = container
            .pidfd()
            .try_clone()
            .doing(|| "duplicate the descriptor of the container's init")
            .and_then(|pidfd| Ok((pidfd, opened.start(terminal, &self.reactor)?)));
        let (pidfd, io) = started.inspect_err(|_| end_and_remove(&mut container))?;
        let init = Process { pid: container.pid(), pidfd: Some(Arc::new(pidfd)), io, ..Process::new(paths) };
        Ok((Existing::new(container), init))
    }

    pub(super) fn owner<'a>(&'a self, id: &'a str, options: &Options) -> Owner<'a> {
        Owner { namespace: &self.namespace, id, uid: options.io_uid, gid: options.io_gid }
    }

    /// Whether to go on without cgroups that may not be made: containerd may be a user's, or a container's.
    fn is_rootless(&self, options: &Options) -> bool {
        !self.is_real_root && cgroup::is_rootless(options.driver())
    }

    fn store(&self, options: &Options) -> Store {
        store(options, &self.namespace)
    }

    /// Watches a new container's init and memory.
    fn watch(&self, id: &str, task: &mut Task) -> Result<(), Error> {
        if task.existing().is_none() {
            return Ok(());
        }
        self.watch_end(&mut task.init, id, "")?;
        self.watch_memory(id, task)
    }

    pub(super) fn watch_memory(&self, id: &str, task: &mut Task) -> Result<(), Error> {
        let Some(cgroup) = task.existing().map(Existing::cgroup) else { return Ok(()) };
        // A container without a memory cgroup has nothing to watch.
        match cgroup.events() {
            Ok(events) => {
                let token = self.reactor.register(Handler::Memory(id.to_owned()));
                let (events, _) = task.memory.insert((events, token));
                let watched = events.descriptors().into_iter().try_for_each(|(fd, flags)| {
                    let flags = EpollFlags::from_bits_truncate(i32::from(flags.bits()));
                    self.reactor.watch(fd, flags, token).doing(|| "watch the container's memory")
                });
                if watched.is_err() {
                    self.unwatch_memory(task);
                }
                watched
            }
            Err(error) => {
                log::warn(error);
                Ok(())
            }
        }
    }

    fn watch_end(&self, process: &mut Process, id: &str, exec: &str) -> Result<(), Error> {
        let Some(pidfd) = &process.pidfd else { return Ok(()) };
        let handler = Handler::Exit(id.to_owned(), exec.to_owned());
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT;
        process.watch = Some(self.reactor.add(pidfd, flags, handler).doing(|| "watch a process")?);
        Ok(())
    }

    /// Watches for the end of a process no longer.
    fn unwatch_end(&self, process: &mut Process) {
        if let Some(pidfd) = &process.pidfd {
            self.reactor.unwatch(pidfd.as_fd());
        }
        // Where somebody else was faster to reap it, its handler is there still.
        if let Some(token) = process.watch.take() {
            self.reactor.forget(token);
        }
    }

    pub(super) fn start(self: &Arc<Self>, request: m::ProcessRequest) -> Reply<m::StartResponse> {
        let (id, exec) = (&request.id, &request.exec_id);
        let container = {
            let mut tasks = self.tasks();
            let task = task(&mut tasks, id)?;
            let container = task.existing().cloned();
            // It would hang until the container is resumed.
            if !exec.is_empty() && task.freezing != Freezing::Thawed {
                return Err(wrong_state("cannot exec in a paused container"));
            }
            let process = task.process(exec).ok_or_else(|| not_found(&format!("process {exec}")))?;
            match process.phase {
                Phase::Created => process.phase = Phase::Starting,
                Phase::Starting | Phase::Running => return Err(wrong_state("cannot start a running process")),
                Phase::Stopped(_) => return Err(wrong_state("cannot start a process that has stopped")),
            }
            container
        };
        let started = match (&container, exec.is_empty()) {
            (Some(container), true) => {
                container.lock().start().map_err(|error| error.context("OCI runtime start failed").into())
            }
            (Some(container), false) => self.start_exec(id, exec, container),
            (None, true) => self.restore(id),
            (None, false) => Err(wrong_state("cannot exec in a container that was not restored yet")),
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
        let ended = process.ended.take();
        if ended.is_none() && started.is_ok() && !exec.is_empty() {
            self.watch_end(process, id, exec)?;
        }
        if exec.is_empty() {
            self.look_at_memory(task, id);
        }
        if let Some(exit) = ended {
            self.tell_end(task, id, exec, exit);
        } else if started.is_ok() && container.is_none() {
            self.watch(id, task)?;
        }
        started.map(|()| m::StartResponse { pid })
    }

    fn start_exec(&self, id: &str, exec: &str, container: &Existing) -> Reply<()> {
        let (paths, spec, options) = {
            let mut tasks = self.tasks();
            let task = task(&mut tasks, id)?;
            let options = Arc::clone(&task.options);
            let process = task.process(exec).ok_or_else(|| not_found(&format!("process {exec}")))?;
            let spec = process.spec.take().ok_or_else(|| wrong_state("the process was started before"))?;
            (process.paths.clone(), spec, options)
        };
        let (target, filter) = container.lock().target()?;
        let opened = io::set_up(&paths, &self.owner(exec, &options))?;
        let wanted = exec::Options {
            store: self.store(&options),
            id: id.to_owned(),
            wanted: Wanted::Given(spec),
            rootless: self.is_rootless(&options),
            detach: true,
            ignore_paused: true,
            preserve_fds: 0,
            pid_file: None,
            console_socket: None,
            pidfd_socket: None,
            sub_cgroups: Default::default(),
            stdio: Some(Arc::clone(&opened.stdio)),
        };
        // Until it runs it may be killed, and nothing else.
        let begun = |child: Child| {
            let pidfd = sys_pidfd::open(child.pid).ok().map(Arc::new);
            self.note_exec(id, exec, |process| process.pidfd = pidfd);
        };
        let running = exec::exec_in(&wanted, &target, filter, &begun);
        drop(wanted);
        let started = running.map_err(|error| error.context("OCI runtime exec failed")).and_then(|running| {
            let Running { child, terminal, warnings } = running;
            warnings.iter().for_each(log::warn);
            let pidfd = crate::sys::own(child.pidfd);
            let io = opened.start(terminal, &self.reactor).inspect_err(|_| {
                let _ = sys_process::pidfd_send_signal(pidfd.as_raw_fd(), libc::SIGKILL);
                let _ = sys_process::wait(child.pid, 0);
            })?;
            Ok((child.pid, Arc::new(pidfd), io))
        });
        match started {
            Ok((pid, pidfd, io)) => self.note_exec(id, exec, |process| {
                (process.pid, process.pidfd, process.io) = (pid, Some(pidfd), io);
            }),
            Err(error) => {
                self.note_exec(id, exec, |process| process.pidfd = None);
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn note_exec(&self, id: &str, exec: &str, note: impl FnOnce(&mut Process)) {
        if let Some(process) = find(&mut self.tasks(), id, exec) {
            note(process);
        }
    }

    /// What a process writes.
    pub(super) fn outputs(&self, id: &str, exec: &str) -> Vec<Arc<Stream>> {
        find(&mut self.tasks(), id, exec).map(|process| process.io.outputs().to_vec()).unwrap_or_default()
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
        self.unwatch_end(process);
        let exit = Exit { status: how.status().unsigned_abs(), at: Timestamp::now() };
        if process.phase == Phase::Starting {
            process.ended = Some(exit);
        } else {
            self.tell_end(task, id, exec, exit);
        }
    }

    /// Notes the end of a process, and tells everybody.
    fn tell_end(&self, task: &mut Task, id: &str, exec: &str, exit: Exit) {
        // Why it ended comes before that it ended.
        self.look_at_memory(task, id);
        let Some(process) = task.process(exec) else { return };
        process.phase = Phase::Stopped(exit);
        process.ended = None;
        process.io.process_has_ended();
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
        if exec.is_empty()
            && let Some(container) = task.existing().filter(|container| container.shares_pids)
        {
            // Its other processes outlive init.
            let cgroup = container.cgroup();
            self.workers.run(move || {
                if let Err(error) = cgroup.kill(libc::SIGKILL) {
                    log::warn(error);
                }
            });
        }
        self.changed.notify_all();
    }

    pub(super) fn delete(self: &Arc<Self>, request: m::ProcessRequest) -> Reply<m::DeleteResponse> {
        let (id, exec) = (&request.id, &request.exec_id);
        let mut tasks = self.tasks();
        // containerd deletes what has not come in time, once.
        if exec.is_empty() && tasks.creating.contains(id) {
            tasks.given_up.insert(id.clone());
        }
        let task = task(&mut tasks, id)?;
        let container = task.existing().cloned();
        let process = task.process(exec).ok_or_else(|| not_found(&format!("process {exec}")))?;
        match process.phase {
            Phase::Starting | Phase::Running => return Err(wrong_state("cannot delete a running process")),
            // It waits for a start that will not come.
            Phase::Created if exec.is_empty() => {
                let pidfd = process.pidfd.clone();
                drop(tasks);
                if let (Some(container), Some(pidfd)) = (&container, &pidfd) {
                    // One that has ended, or does not end, is found out below.
                    let _ = container.kill(pidfd, libc::SIGKILL, false);
                }
                tasks = self.tasks();
            }
            Phase::Created | Phase::Stopped(_) => {}
        }
        let tasks = self.wait_until(tasks, |tasks| match find(tasks, id, exec) {
            Some(process) => process.io.is_drained() && (process.pid == 0 || process.exit().is_some()),
            None => true,
        });
        if exec.is_empty() {
            self.delete_container(tasks, id, container.as_ref())
        } else {
            self.delete_exec(tasks, id, exec)
        }
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
        container: Option<&Existing>,
    ) -> Reply<m::DeleteResponse> {
        let mounted = {
            let task = task(&mut tasks, id)?;
            if task.init.exit().is_none() && container.is_some() {
                return Err(wrong_state("the container's init does not end"));
            }
            // Without a pid namespace of its own and without a cgroup nobody else ends them.
            for exec in task.execs.values().filter(|exec| exec.exit().is_none()) {
                if let Some(pidfd) = &exec.pidfd {
                    let _ = sys_process::pidfd_send_signal(pidfd.as_raw_fd(), libc::SIGKILL);
                }
            }
            self.unwatch_memory(task);
            task.mounted.clone()
        };
        drop(tasks);
        if let Some(container) = container {
            container.lock().remove()?.iter().for_each(log::warn);
        }
        if let Some(rootfs) = &mounted {
            rootfs::unmount_all(rootfs)?;
        }
        // Without a pid namespace they have been killed just now: their ends are told of first.
        let mut tasks = self.wait_until(self.tasks(), |tasks| {
            let has_ended = |exec: &Process| exec.pid == 0 || exec.exit().is_some();
            tasks.all.get(id).is_none_or(|task| task.execs.values().all(has_ended))
        });
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
    fn dismiss(&self, mut process: Process) {
        self.unwatch_end(&mut process);
        let exit = process.exit().unwrap_or(Exit { status: UNKNOWN, at: Timestamp::now() });
        process.waiters.iter().for_each(|waiter| waiter.answer(Ok(wait_response(exit))));
        process.io.close(&self.reactor);
    }
}

/// What is said of a process that was never started.
const UNKNOWN: u32 = 255;

/// Unmounts what was mounted for a container that has not come into being.
fn unmount(mounted: Option<&Path>) {
    if let Some(Err(error)) = mounted.map(rootfs::unmount_all) {
        log::warn(error);
    }
}

fn end_and_remove(container: &mut Resident) {
    let _ = container.reach().kill(libc::SIGKILL, false);
    let _ = sys_process::wait(container.pid(), 0);
    if let Err(error) = container.remove() {
        log::warn(error);
    }
}

fn delete_response(process: &Process) -> m::DeleteResponse {
    let exit = process.exit();
    m::DeleteResponse {
        pid: process.pid.unsigned_abs(),
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: exit.map(|exit| exit.at),
    }
}
