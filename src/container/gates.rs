//! The runtime's side of the meetings with init (see [`crate::init`]).

use super::hooks;
use super::idmap;
use super::launch::hooks as hooks_of;
use super::netdev::{self, Devices};
use super::state::{State, Status};
use crate::error::{Doing, Error, Kind, Result};
use crate::init::{FAILURE, Gate, READY};
use crate::plan::process::rlimit;
use crate::plan::seccomp::{Listener, notify};
use crate::sys::clone::Child;
use crate::sys::mount::{self, Attributes};
use crate::sys::{fs, process};
use nix::errno::Errno;
use oci_spec::runtime::{ContainerState, Hooks, Spec};
use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// What a meeting needs to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub spec: &'a Spec,
    pub listener: Option<&'a Listener>,
    pub state: &'a State,
    pub child: Child,
    /// The container's init, if `child` is not it but a process that joins the container.
    pub joins: Option<i32>,
    /// Where to keep the network devices that are moved, for who might have to take them back.
    pub devices: Option<&'a RefCell<Option<Devices>>>,
}

/// How the meetings ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Init waits for `start`.
    Ready,
    /// Init executed the program, or died; its report tells which.
    Executed,
}

/// Answers init until it waits or is gone.
///
/// # Errors
/// What the runtime could not do for init. Init then ends by itself.
pub(super) fn serve(context: &Context<'_>, sync: RawFd) -> Result<Outcome> {
    loop {
        let mut byte = [0u8];
        match fs::read(sync, &mut byte) {
            // Reset: it has not read the last that it was sent (unix(7)).
            Ok(0) | Err(Errno::ECONNRESET) => return Ok(Outcome::Executed),
            Err(Errno::EINTR) => continue,
            // It may be waiting for an answer.
            Err(errno) => return Err(Error::system("read from the container's init", errno)),
            Ok(_) => {}
        }
        if byte == [READY] {
            return Ok(Outcome::Ready);
        }
        if byte == [FAILURE] {
            return Err(last_words(sync));
        }
        let Some(gate) = Gate::of(byte[0]) else {
            return Err(Error::new(Kind::System, format!("init sent {byte:?}, which means nothing")));
        };
        context.meet(gate, sync)?;
        match fs::write(sync, &[gate.byte()]) {
            // One that died meanwhile is found out by the next read.
            Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => {}
            Err(errno) => return Err(Error::system("write to the container's init", errno)),
        }
    }
}

/// Reads what init writes after [`FAILURE`]: an errno and a sentence, to the end.
fn last_words(sync: RawFd) -> Error {
    let mut words = Vec::new();
    let mut buffer = [0u8; 1024];
    while let Ok(count @ 1..) = fs::read(sync, &mut buffer) {
        words.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
    match words.split_first_chunk::<4>() {
        Some((errno, sentence)) => {
            let errno = Errno::from_raw(u32::from_ne_bytes(*errno) as i32);
            let sentence = String::from_utf8_lossy(sentence);
            // What a hook said is all there is to say.
            if errno == Errno::ECHILD { Error::new(Kind::System, sentence) } else { Error::system(sentence, errno) }
        }
        None => Error::new(Kind::System, "the container's init failed and could not say why"),
    }
}

/// Reads a number that init sends along.
fn number(sync: RawFd) -> Result<i32> {
    let mut number = [0u8; 4];
    match fs::read(sync, &mut number) {
        Ok(4) => Ok(i32::from_ne_bytes(number)),
        Ok(_) => Err(Error::new(Kind::System, "the container's init ended in the middle of a request")),
        Err(errno) => Err(Error::system("read from the container's init", errno)),
    }
}

impl Context<'_> {
    fn meet(&self, gate: Gate, sync: RawFd) -> Result<()> {
        match gate {
            // Done before the first meeting.
            Gate::Cgroup => Ok(()),
            Gate::IdMap => self.map_ids(sync),
            Gate::Mappings => idmap::write_mappings(self.child.pid, self.spec),
            Gate::Hooks => self.create_hooks(),
            Gate::Listener => self.send_listener(sync),
            Gate::Limits => self.set_limits(),
            Gate::NetDevices => {
                let moved = netdev::move_all(self.spec, self.child.pid)?;
                self.devices.map(|kept| kept.replace(Some(moved)));
                Ok(())
            }
        }
    }

    fn create_hooks(&self) -> Result<()> {
        let spec = self.spec;
        // The environment is there, which is what "created" means (runtime-spec runtime.md, "State").
        let report = self.state.report(Status::Created, self.child.pid);
        hooks::run("prestart", hooks_of(spec, Hooks::prestart), &report)?;
        hooks::run("createRuntime", hooks_of(spec, Hooks::create_runtime), &report)
    }

    fn set_limits(&self) -> Result<()> {
        let limits = self.spec.process().iter().flat_map(|process| process.rlimits().iter().flatten());
        let pid = self.child.pid;
        limits.into_iter().try_for_each(|limit| {
            let (kind, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
            process::set_limit_of(pid, rlimit(kind), soft, hard)
                .doing(|| format!("process.rlimits ({kind}): prlimit({pid}, {soft}, {hard})"))
        })
    }

    /// Maps the ids of a mount that init holds.
    fn map_ids(&self, sync: RawFd) -> Result<()> {
        let doing = || "mounts (idmap): map the ids of a mount";
        let take = |number: RawFd| process::pidfd_getfd(self.child.pidfd, number).map(crate::sys::own).doing(doing);
        let (mount, userns, flags) = (take(number(sync)?)?, take(number(sync)?)?, number(sync)?);
        let attributes =
            Attributes { set: libc::MOUNT_ATTR_IDMAP, userns_fd: userns.as_raw_fd() as u64, ..Attributes::default() };
        mount::set_attributes(mount.as_raw_fd(), c"", flags.cast_unsigned(), &attributes).doing(doing)
    }

    /// Takes the listener out of init and hands it to who asked for it.
    fn send_listener(&self, sync: RawFd) -> Result<()> {
        let number = number(sync)?;
        let Some(listener) = self.listener else {
            return Err(Error::new(Kind::System, "init sent a seccomp listener that nobody asked for"));
        };
        let fd = process::pidfd_getfd(self.child.pidfd, number).doing(|| "take the seccomp listener from init")?;
        let fd = crate::sys::own(fd);
        let state = match self.joins {
            Some(init) => self.state.of_spec(ContainerState::Running, init),
            None => self.state.of_spec(ContainerState::Creating, self.child.pid),
        };
        let state = notify::process_state(listener, self.child.pid, state);
        notify::send_listener(listener, &state, fd.as_fd())
    }
}
