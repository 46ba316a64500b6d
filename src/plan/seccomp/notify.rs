//! Handing the listener of SCMP_ACT_NOTIFY to the agent (runtime-spec config-linux.md, "The Container Process State").

use crate::error::{Doing, Error, Result};
use crate::sys::fs::retry;
use crate::sys::socket::{send_some_with_fd, set_patience};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket};
use oci_spec::runtime::{ContainerProcessState, SECCOMP_FD_NAME, State};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::Listener;

/// How long an agent may take for a connection, and for each part of what it is sent: one that hangs shall not have
/// the container hang, on which nobody waits with a limit of their own.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the agent is told: `pid` is the process that the filter is loaded in, as the runtime sees it; `state` is the
/// container's.
pub fn process_state(listener: &Listener, pid: i32, state: State) -> ContainerProcessState {
    let mut message = ContainerProcessState::default();
    message
        .set_version(state.version().clone())
        .set_fds(vec![SECCOMP_FD_NAME.to_owned()])
        .set_pid(pid)
        .set_metadata(listener.metadata.clone())
        .set_state(state);
    message
}

/// Connects to the agent's socket, sends `state` with the descriptor `fd`, and closes the connection.
///
/// A path that begins with "@" names an abstract socket, as in runc.
///
/// # Errors
/// The agent does not listen, ends the connection before it has all, or has taken nothing for [`PATIENCE`].
pub fn send_listener(listener: &Listener, state: &ContainerProcessState, fd: BorrowedFd<'_>) -> Result<()> {
    send_within(PATIENCE, listener, state, fd)
}

fn send_within(
    patience: Duration,
    listener: &Listener,
    state: &ContainerProcessState,
    fd: BorrowedFd<'_>,
) -> Result<()> {
    let path = listener.path.as_path();
    let doing = || {
        format!("config.json: linux.seccomp.listenerPath: failed to connect with seccomp agent at {}", path.display())
    };
    let text = serde_json::to_vec(state)
        .map_err(|error| Error::config("linux.seccomp.listenerPath", format!("encode the process state: {error}")))?;
    let address = address(path).doing(doing)?;
    let connection = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).doing(doing)?;
    // It holds for connect(2) as well (net/unix/af_unix.c).
    set_patience(connection.as_raw_fd(), patience).doing(doing)?;
    retry(|| connect(connection.as_raw_fd(), &address)).map_err(late).doing(doing)?;

    let doing = || format!("send the seccomp listener to {}", path.display());
    let sent = send_some_with_fd(connection.as_raw_fd(), &text, fd.as_raw_fd()).map_err(late).doing(doing)?;
    let mut rest = text.get(sent..).unwrap_or_default();
    // The descriptor goes with the first bytes only.
    while !rest.is_empty() {
        let sent = retry(|| send(connection.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL)).map_err(late).doing(doing)?;
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// What has not been possible until the patience ended (socket(7), SO_SNDTIMEO).
fn late(errno: Errno) -> Errno {
    if errno == Errno::EAGAIN { Errno::ETIMEDOUT } else { errno }
}

fn address(path: &Path) -> nix::Result<UnixAddr> {
    match path.as_os_str().as_bytes() {
        [b'@', name @ ..] => UnixAddr::new_abstract(name),
        _ => UnixAddr::new(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::receive_fd;
    use oci_spec::runtime::{ContainerState, StateBuilder};
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;

    fn state() -> State {
        StateBuilder::default()
            .version("1.3.0")
            .id("c1")
            .status(ContainerState::Creating)
            .pid(42)
            .bundle("/b")
            .build()
            .unwrap()
    }

    #[test]
    fn the_agent_gets_the_state_and_the_descriptor_in_one_connection() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let agent = UnixListener::bind(&path).unwrap();
        // More than a socket takes at once, so that the rest goes without the descriptor.
        let metadata = "m".repeat(1 << 20);
        let received = std::thread::spawn(move || {
            let (mut connection, _) = agent.accept().unwrap();
            let mut data = vec![0; 4096];
            let (count, fd) = receive_fd(connection.as_raw_fd(), &mut data).unwrap();
            data.truncate(count);
            connection.read_to_end(&mut data).unwrap();
            (data, fd.unwrap())
        });
        let listener = Listener { path, metadata: Some(metadata.clone()) };
        let (mut reader, writer) = std::io::pipe().unwrap();
        send_listener(&listener, &process_state(&listener, 42, state()), writer.as_fd()).unwrap();
        drop(writer);

        let (data, fd) = received.join().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&data).unwrap();
        assert_eq!(json["ociVersion"], "1.3.0");
        assert_eq!(json["fds"], serde_json::json!(["seccompFd"]));
        assert_eq!(json["pid"], 42);
        assert_eq!(json["metadata"], metadata.as_str());
        assert_eq!(json["state"]["id"], "c1");
        assert_eq!(json["state"]["status"], "creating");

        // What arrived is the very pipe.
        let mut theirs = File::options().write(true).open(format!("/proc/self/fd/{fd}")).unwrap();
        theirs.write_all(b"x").unwrap();
        drop(theirs);
        nix::unistd::close(fd).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn an_agent_that_hangs_is_not_waited_for_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let agent = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        nix::sys::socket::bind(agent.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        // As one that accepts nothing: as many as this, and one more, can connect.
        nix::sys::socket::listen(&agent, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let patience = Duration::from_secs(1);
        let file = File::open("/dev/null").unwrap();
        let metadata = Some("m".repeat(1 << 20));
        let refused = |metadata: Option<String>| {
            let listener = Listener { path: path.clone(), metadata };
            let message = process_state(&listener, 1, state());
            send_within(patience, &listener, &message, file.as_fd()).unwrap_err().to_string()
        };
        // It has nobody connected yet, and takes no more than a socket does.
        let error = refused(metadata);
        assert!(error.starts_with("send the seccomp listener to ") && error.ends_with("timed out"), "{error}");
        let error = refused(None);
        assert!(error.contains("failed to connect with seccomp agent at") && error.ends_with("timed out"), "{error}");
    }

    #[test]
    fn an_agent_that_does_not_listen_is_named() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path().join("none.sock"), "@microrun-no-such-agent".into(), "/x".repeat(100).into()] {
            let listener = Listener { path, metadata: None };
            let file = File::open("/dev/null").unwrap();
            let message = process_state(&listener, 1, state());
            let error = send_listener(&listener, &message, file.as_fd()).unwrap_err().to_string();
            assert!(error.contains("failed to connect with seccomp agent at"), "{error}");
        }
    }
}
