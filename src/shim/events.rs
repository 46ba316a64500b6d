//! What happens to containers, told to containerd: by its ttrpc service, or through a program where there is none.
//!
//! An event is kept until containerd has acknowledged it, for containerd may be restarting.

use super::messages::{
    Any, Envelope, ForwardRequest, TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit,
    TaskOom, TaskPaused, TaskStart, Timestamp,
};
use super::reactor::{Handler, Reactor, Token};
use super::ttrpc::{Connection, Incoming, Request};
use crate::log;
use crate::sys::process;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use prost::Message;
use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How many events are kept for a containerd that is away.
const KEPT: usize = 2048;
/// How long until containerd is looked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// Something that happened.
pub(super) trait Event: Message {
    const TOPIC: &'static str;
    const TYPE: &'static str;
}

macro_rules! events {
    ($($name:ident $topic:literal $type:literal)*) => {
        $(impl Event for $name {
            const TOPIC: &'static str = concat!("/tasks/", $topic);
            const TYPE: &'static str = concat!("containerd.events.", $type);
        })*
    };
}

events! {
    TaskCreate "create" "TaskCreate"
    TaskStart "start" "TaskStart"
    TaskDelete "delete" "TaskDelete"
    TaskExit "exit" "TaskExit"
    TaskOom "oom" "TaskOOM"
    TaskExecAdded "exec-added" "TaskExecAdded"
    TaskExecStarted "exec-started" "TaskExecStarted"
    TaskPaused "paused" "TaskPaused"
    TaskCheckpointed "checkpointed" "TaskCheckpointed"
}

/// A container goes on.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TaskResumed {
    #[prost(string, tag = "1")]
    pub container_id: String,
}

events! { TaskResumed "resumed" "TaskResumed" }

/// Where events go.
#[derive(Debug)]
pub(super) enum Way {
    /// containerd's ttrpc socket.
    Ttrpc(String),
    /// A program, with containerd's address.
    Program(String, String),
}

/// The events that containerd has not acknowledged yet.
#[derive(Debug)]
pub(super) struct Events {
    way: Way,
    namespace: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<(Arc<Connection>, Token)>,
    /// Events in their order, with the stream of the call that tells of them, or 0.
    queue: VecDeque<(u32, Envelope)>,
    last_stream: u32,
}

impl Events {
    pub fn new(way: Way, namespace: String) -> Self {
        Self { way, namespace, state: Mutex::default() }
    }

    /// Tells of `event`.
    pub fn publish<E: Event>(&self, event: &E, reactor: &Reactor) {
        let envelope = Envelope {
            timestamp: Some(Timestamp::now()),
            namespace: self.namespace.clone(),
            topic: E::TOPIC.to_owned(),
            event: Some(Any::of(E::TYPE, event)),
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.queue.len() == KEPT {
            state.queue.pop_front();
            log::warn("containerd does not take events: the oldest is dropped");
        }
        state.queue.push_back((0, envelope));
        self.send(&mut state, reactor);
    }

    /// How long the main thread may wait before [`Events::retry`].
    pub fn patience(&self) -> Option<Duration> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.connection.is_none() && !state.queue.is_empty()).then_some(AGAIN)
    }

    /// Whether every event has been acknowledged.
    pub fn is_empty(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).queue.is_empty()
    }

    /// Looks for containerd again.
    pub fn retry(&self, reactor: &Reactor) {
        self.send(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), reactor);
    }

    /// Something came over the connection, or may go.
    pub fn ready(&self, reactor: &Reactor) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((connection, _)) = &state.connection else { return };
        let mut answers = Vec::new();
        let came = connection.flush().and_then(|_| connection.read(&mut answers));
        for answer in answers {
            let Incoming::Answer(stream, answer) = answer else { continue };
            if let Err(status) = answer {
                log::warn(format!("containerd refuses an event: {}", status.message()));
            }
            state.queue.retain(|(of, _)| *of != stream);
        }
        if came.is_err() {
            self.lost(&mut state, reactor);
        }
    }

    fn lost(&self, state: &mut State, reactor: &Reactor) {
        if let Some((connection, token)) = state.connection.take() {
            reactor.unwatch(connection.socket());
            reactor.forget(token);
        }
        // All of them have to be told again.
        state.queue.iter_mut().for_each(|(stream, _)| *stream = 0);
    }

    fn send(&self, state: &mut State, reactor: &Reactor) {
        match &self.way {
            Way::Ttrpc(address) => {
                if state.connection.is_none() {
                    state.connection = connect_to(address, reactor).ok();
                    state.last_stream = 0;
                }
                if self.send_calls(state).is_err() {
                    self.lost(state, reactor);
                }
            }
            Way::Program(program, address) => {
                for (_, envelope) in state.queue.drain(..) {
                    if let Err(error) = run(program, address, &envelope) {
                        log::warn(format!("publish an event with {program}: {error}"));
                    }
                }
            }
        }
    }

    fn send_calls(&self, state: &mut State) -> Result<(), Errno> {
        let State { connection: Some((connection, _)), queue, last_stream } = state else { return Ok(()) };
        for (stream, envelope) in queue.iter_mut().filter(|(stream, _)| *stream == 0) {
            // Clients have the odd numbers.
            *last_stream = if *last_stream == 0 { 1 } else { *last_stream + 2 };
            *stream = *last_stream;
            let request = Request {
                service: "containerd.services.events.ttrpc.v1.Events".into(),
                method: "Forward".into(),
                payload: ForwardRequest { envelope: Some(envelope.clone()) }.encode_to_vec(),
                timeout_nano: 0,
            };
            connection.call(*stream, &request)?;
        }
        Ok(())
    }
}

/// Does not wait: a containerd that is stopped has no room for connections.
fn connect_to(address: &str, reactor: &Reactor) -> Result<(Arc<Connection>, Token), Errno> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let connection = Arc::new(Connection::new(socket));
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
    let token = reactor.add(connection.socket(), flags, Handler::Events)?;
    Ok((connection, token))
}

fn run(program: &str, address: &str, envelope: &Envelope) -> std::io::Result<()> {
    let mut command = Command::new(program);
    command.args(["--address", address, "publish", "--topic", &envelope.topic, "--namespace", &envelope.namespace]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    process::before_exec(&mut command, || Ok(()));
    let mut child = command.spawn()?;
    if let Some(stdin) = &mut child.stdin {
        stdin.write_all(&envelope.event.clone().unwrap_or_default().encode_to_vec())?;
    }
    child.wait().map(drop)
}
