//! One start of a program, timed from outside: spawn to first byte, spawn to reaped.

use crate::sys::{pidfd, process};
use nix::errno::Errno;
use std::fmt;
use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start took, from just before it was spawned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Until the first byte came, in microseconds; none where none was waited for.
    pub first_byte: Option<f64>,
    /// Until the process was reaped, in microseconds.
    pub reaped: f64,
}

/// Why a start does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It could not be spawned or watched.
    Spawn(String),
    /// It had not ended in time, or written what it should.
    Timeout,
    /// It ended with another code than 0.
    Code(i32),
    /// It wrote something else.
    Output(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(error) => write!(f, "could not be spawned: {error}"),
            Self::Timeout => f.write_str("timed out"),
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Output(text) => write!(f, "wrote {text:?}"),
        }
    }
}

/// Spawns `command` and waits until it has written `expected` to its standard output, and has ended with code 0.
///
/// # Errors
/// Why the start does not count. The process has been killed and reaped then; what it started itself may be left.
pub fn of_output(command: &mut Command, expected: &[u8], timeout: Duration) -> Result<Sample, Failure> {
    command.stdout(Stdio::piped());
    let started = Instant::now();
    let mut child = spawn(command)?;
    match child.stdout.take() {
        Some(mut pipe) => watch(&mut child, Some((&mut pipe, expected)), started, timeout),
        None => Err(Failure::Spawn("there is no pipe".into())),
    }
}

/// As [`of_output`], with a standard output of the caller's; with `pipe`, the bytes are expected there, from whomever.
///
/// # Errors
/// As [`of_output`].
pub fn of_end<R: Read + AsRawFd>(
    command: &mut Command,
    pipe: Option<(&mut R, &[u8])>,
    timeout: Duration,
) -> Result<Sample, Failure> {
    let started = Instant::now();
    let mut child = spawn(command)?;
    watch(&mut child, pipe, started, timeout)
}

fn spawn(command: &mut Command) -> Result<Child, Failure> {
    command.spawn().map_err(|error| Failure::Spawn(error.to_string()))
}

/// The end of a process and the first byte in a pipe, in either order.
fn watch<R: Read + AsRawFd>(
    child: &mut Child,
    mut pipe: Option<(&mut R, &[u8])>,
    started: Instant,
    timeout: Duration,
) -> Result<Sample, Failure> {
    let watched = watch_until(child, &mut pipe, started, timeout);
    if watched.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    watched
}

fn watch_until<R: Read + AsRawFd>(
    child: &mut Child,
    pipe: &mut Option<(&mut R, &[u8])>,
    started: Instant,
    timeout: Duration,
) -> Result<Sample, Failure> {
    let spawn_failure = |error: &dyn fmt::Display| Failure::Spawn(error.to_string());
    let end = pidfd::open(child.id() as i32).map_err(|errno| spawn_failure(&errno))?;
    let (mut first_byte, mut reaped) = (None, None);
    let mut output = Vec::new();
    while reaped.is_none() || (pipe.is_some() && first_byte.is_none()) {
        let Some(left) = timeout.checked_sub(started.elapsed()) else { return Err(Failure::Timeout) };
        // poll(2) leaves negative descriptors out.
        let byte = pipe.as_ref().filter(|_| first_byte.is_none()).map_or(-1, |(pipe, _)| pipe.as_raw_fd());
        let mut ready = [byte, if reaped.is_none() { end.as_raw_fd() } else { -1 }].map(readable);
        match process::poll(&mut ready, Some(left)) {
            Ok(0) => return Err(Failure::Timeout),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(spawn_failure(&errno)),
        }
        if ready[0].revents != 0
            && let Some((pipe, _)) = pipe.as_mut()
        {
            let mut buffer = [0u8; 256];
            let count = pipe.read(&mut buffer).map_err(|error| spawn_failure(&error))?;
            first_byte = Some(microseconds(started));
            output.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
        if ready[1].revents != 0 {
            let status = child.wait().map_err(|error| spawn_failure(&error))?;
            reaped = Some(microseconds(started));
            if !status.success() {
                use std::os::unix::process::ExitStatusExt;
                return Err(Failure::Code(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))));
            }
        }
    }
    if let Some((_, expected)) = pipe
        && output != *expected
    {
        return Err(Failure::Output(String::from_utf8_lossy(&output).into_owned()));
    }
    Ok(Sample { first_byte, reaped: reaped.unwrap_or_default() })
}

fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

fn microseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    #[test]
    fn the_first_byte_comes_before_the_end() {
        let sample = of_output(&mut shell("echo Hello; sleep 0.05"), b"Hello\n", MINUTE).unwrap();
        let first = sample.first_byte.unwrap();
        assert!(first > 0.0 && first + 40_000.0 < sample.reaped, "{sample:?}");
    }

    #[test]
    fn what_does_not_count() {
        let of = |script| of_output(&mut shell(script), b"Hello\n", MINUTE).unwrap_err();
        assert_eq!(of("echo Hello; exit 3"), Failure::Code(3));
        assert_eq!(of("kill -9 $$"), Failure::Code(137));
        assert_eq!(of("echo Bye"), Failure::Output("Bye\n".into()));
        assert_eq!(of(":"), Failure::Output(String::new()));
        let missing = of_output(&mut Command::new("/nonexistent"), b"", MINUTE).unwrap_err();
        assert!(matches!(missing, Failure::Spawn(_)), "{missing}");
        let slow = of_output(&mut shell("exec sleep 60"), b"", Duration::from_millis(20)).unwrap_err();
        assert_eq!(slow, Failure::Timeout);
    }

    #[test]
    fn bytes_of_another_process_may_come_after_the_end() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = shell("(sleep 0.05; echo Hello) &");
        command.stdout(writer);
        let sample = of_end(&mut command, Some((&mut reader, b"Hello\n")), MINUTE).unwrap();
        assert!(sample.first_byte.unwrap() > sample.reaped, "{sample:?}");
    }

    #[test]
    fn nothing_needs_to_be_written() {
        let sample = of_end::<std::io::PipeReader>(shell(":").stdout(Stdio::null()), None, MINUTE).unwrap();
        assert_eq!(sample.first_byte, None);
    }
}
