//! ttrpc: requests and answers as protocol buffers behind a header of ten bytes, over a Unix socket
//! (github.com/containerd/ttrpc, PROTOCOL.md).
//!
//! The crate of that name brings a thread for each connection and request, and a second protobuf library: docs/shim.md has
//! what that weighs.

use super::messages::Any;
use crate::error::{Error, Kind};
use crate::sys::fs::Sys;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use prost::Message;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// The most bytes of data that a frame may have.
const LONGEST: usize = 4 << 20;
const HEADER: usize = 10;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// A call.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(string, tag = "1")]
    pub service: String,
    #[prost(string, tag = "2")]
    pub method: String,
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub timeout_nano: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

/// google.rpc.Status: why a call failed.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// google.rpc.Code
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    NotFound = 5,
    AlreadyExists = 6,
    FailedPrecondition = 9,
    Unimplemented = 12,
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code as i32, message: message.into(), details: Vec::new() }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            Kind::NoContainer => Code::NotFound,
            Kind::Exists => Code::AlreadyExists,
            Kind::WrongState => Code::FailedPrecondition,
            Kind::Usage | Kind::NoVerb => Code::InvalidArgument,
            Kind::Config | Kind::NoProgram | Kind::NotExecutable | Kind::System => Code::Unknown,
        };
        Self::new(code, error.to_string())
    }
}

/// The answer to a call: its message, or why there is none.
pub(super) type Answer = Result<Vec<u8>, Status>;

fn frame(stream: u32, kind: u8, message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut frame = Vec::with_capacity(HEADER + length);
    frame.extend((length as u32).to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend([kind, 0]);
    // A Vec takes whatever is written.
    let _ = message.encode(&mut frame);
    frame
}

/// Takes the next whole frame out of `buffer`: its stream, its kind and its data.
///
/// # Errors
/// EMSGSIZE for a frame that is longer than frames may be: nothing that follows can be understood.
fn take_frame(buffer: &mut Vec<u8>) -> Sys<Option<(u32, u8, Vec<u8>)>> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
    let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = *header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length > LONGEST {
        return Err(Errno::EMSGSIZE);
    }
    let Some(data) = rest.get(..length) else { return Ok(None) };
    let frame = (u32::from_be_bytes([s0, s1, s2, s3]), kind, data.to_vec());
    buffer.drain(..HEADER + length);
    if buffer.is_empty() {
        // A large request was the last for a while.
        buffer.shrink_to(0);
    }
    Ok(Some(frame))
}

/// A connection: what has come and is not complete, what is to go and does not fit.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    came: Mutex<Vec<u8>>,
    to_go: Mutex<Vec<u8>>,
}

/// What came over a connection.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A call on a stream, to be answered there.
    Call(u32, Request),
    /// The answer to the call on a stream.
    Answer(u32, Answer),
}

impl Connection {
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, came: Mutex::default(), to_go: Mutex::default() }
    }

    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Reads what is there to `incoming`, which may have got something even if the connection has ended.
    ///
    /// # Errors
    /// The connection is of no use any more. ECONNRESET at its end.
    pub fn read(&self, incoming: &mut Vec<Incoming>) -> Sys {
        let mut came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [0u8; 4096];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(Errno::ECONNRESET),
                Ok(count) => came.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno),
            }
            while let Some((stream, kind, data)) = take_frame(&mut came)? {
                incoming.extend(understand(stream, kind, &data));
            }
        }
    }

    /// Sends a call on `stream`. Whether all of it could be sent at once; if not, [`Connection::flush`] is due.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub fn call(&self, stream: u32, request: &Request) -> Sys<bool> {
        self.send(frame(stream, REQUEST, request))
    }

    /// Answers the call on `stream`, as [`Connection::call`] sends one.
    ///
    /// # Errors
    /// As there.
    pub fn answer(&self, stream: u32, answer: Answer) -> Sys<bool> {
        let response = match answer {
            Ok(payload) => Response { status: None, payload },
            Err(status) => Response { status: Some(status), payload: Vec::new() },
        };
        self.send(frame(stream, RESPONSE, &response))
    }

    /// Sends what did not fit before. Whether nothing is left.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub fn flush(&self) -> Sys<bool> {
        self.send(Vec::new())
    }

    fn send(&self, data: Vec<u8>) -> Sys<bool> {
        let mut to_go = self.to_go.lock().unwrap_or_else(PoisonError::into_inner);
        to_go.extend(data);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        while !to_go.is_empty() {
            match send(self.socket.as_raw_fd(), &to_go, flags) {
                Ok(count) => drop(to_go.drain(..count)),
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        to_go.shrink_to(0);
        Ok(true)
    }
}

/// A frame that is of no kind that we know is passed over, as the protocol wants it.
fn understand(stream: u32, kind: u8, data: &[u8]) -> Option<Incoming> {
    match kind {
        REQUEST => Some(Incoming::Call(stream, Request::decode(data).ok()?)),
        RESPONSE => {
            let response = Response::decode(data).ok()?;
            let failure = response.status.filter(|status| status.code != 0);
            Some(Incoming::Answer(stream, failure.map_or(Ok(response.payload), Err)))
        }
        _ => None,
    }
}

impl Status {
    /// Why, in words.
    pub fn message(&self) -> &str {
        &self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request { service: "s".into(), method: "M".into(), payload: vec![1, 2, 3], timeout_nano: 0 }
    }

    #[test]
    fn frames_are_taken_whole() {
        let whole = frame(7, REQUEST, &request());
        assert_eq!(&whole[..HEADER], [0, 0, 0, (whole.len() - HEADER) as u8, 0, 0, 0, 7, 1, 0]);
        let mut buffer = Vec::new();
        for byte in whole.iter().chain(&whole[..4]) {
            assert!(buffer.len() < whole.len());
            buffer.push(*byte);
            if buffer.len() == whole.len() {
                let (stream, kind, data) = take_frame(&mut buffer).unwrap().unwrap();
                assert_eq!((stream, kind), (7, REQUEST));
                assert_eq!(Request::decode(&*data).unwrap(), request());
            } else {
                assert_eq!(take_frame(&mut buffer), Ok(None));
            }
        }
        assert_eq!(buffer.len(), 4);
    }

    #[test]
    fn a_frame_that_is_too_long_ends_the_connection() {
        let mut buffer = vec![0xff; HEADER];
        assert_eq!(take_frame(&mut buffer), Err(Errno::EMSGSIZE));
    }

    #[test]
    fn calls_and_answers_cross_a_socket() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (client, server) = (Connection::new(ours.into()), Connection::new(theirs.into()));
        assert!(client.call(1, &request()).unwrap());
        let mut calls = Vec::new();
        server.read(&mut calls).unwrap();
        let [Incoming::Call(1, call)] = &calls[..] else { panic!() };
        assert_eq!(*call, request());
        // More than a socket holds: it goes in parts.
        assert!(!server.answer(1, Ok(vec![9; 3 << 20])).unwrap());
        assert!(server.answer(3, Err(Status::new(Code::NotFound, "no"))).is_ok_and(|done| !done));
        let mut answers = Vec::new();
        while answers.len() < 2 {
            client.read(&mut answers).unwrap();
            server.flush().unwrap();
        }
        assert!(matches!(&answers[0], Incoming::Answer(1, Ok(payload)) if payload.len() == 3 << 20));
        assert!(matches!(&answers[1], Incoming::Answer(3, Err(status)) if status.message() == "no"));
        drop(server);
        assert!(client.read(&mut answers).is_err());
    }

    #[test]
    fn the_end_is_heard_together_with_the_last_call() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (client, server) = (Connection::new(ours.into()), Connection::new(theirs.into()));
        client.call(1, &request()).unwrap();
        drop(client);
        let mut calls = Vec::new();
        assert_eq!(server.read(&mut calls), Err(Errno::ECONNRESET));
        assert!(matches!(&calls[..], [Incoming::Call(1, _)]));
    }
}
