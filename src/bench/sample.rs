//! One start of a program, timed from outside: spawn to first byte, spawn to reaped.

use crate::sys::{pidfd, process};
use nix::errno::Errno;
use std::fmt;
use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
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
    /// The pool had no sandbox ready, so that it was a cold start.
    Miss,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(error) => write!(f, "could not be spawned: {error}"),
            Self::Timeout => f.write_str("timed out"),
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Output(text) => write!(f, "wrote {text:?}"),
            Self::Miss => f.write_str("started cold: the pool had no sandbox ready"),
        }
    }
}

/// What a program has to write to its standard output.
#[derive(Debug, Clone, Copy)]
pub enum Expected<'a> {
    /// These bytes and no others.
    Exactly(&'a [u8]),
    /// These bytes among others, such as a banner.
    Among(&'a [u8]),
}

impl Expected<'_> {
    /// Whether `output` is that.
    pub fn is_met_by(self, output: &[u8]) -> bool {
        match self {
            Self::Exactly(bytes) => output == bytes,
            Self::Among(bytes) => bytes.is_empty() || output.windows(bytes.len()).any(|window| window == bytes),
        }
    }
}

/// Spawns `command` and waits until it has written `expected` to its standard output, and has ended with code 0.
///
/// # Errors
/// Why the start does not count. The process and its process group have been killed then, and the process is reaped; what
/// left the group may be left.
pub fn of_output(command: &mut Command, expected: &[u8], timeout: Duration) -> Result<Sample, Failure> {
    since(Instant::now(), command, Expected::Exactly(expected), timeout)
}

/// As [`of_output`], but the clock runs since `started`: what was done for this start before the spawn counts.
///
/// # Errors
/// As [`of_output`].
pub fn since(
    started: Instant,
    command: &mut Command,
    expected: Expected<'_>,
    timeout: Duration,
) -> Result<Sample, Failure> {
    command.stdout(Stdio::piped());
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
    let pipe = pipe.map(|(pipe, bytes)| (pipe, Expected::Exactly(bytes)));
    watch(&mut child, pipe, started, timeout)
}

/// Runs `command` to its end; what it writes to its standard output.
///
/// # Errors
/// As [`of_output`].
pub fn said(command: &mut Command, timeout: Duration) -> Result<String, Failure> {
    let started = Instant::now();
    command.stdout(Stdio::piped());
    let mut child = spawn(command)?;
    let mut output = Vec::new();
    let mut pipe = child.stdout.take().map(|pipe| Keeping { pipe, kept: &mut output });
    watch(&mut child, pipe.as_mut().map(|pipe| (pipe, Expected::Among(b""))), started, timeout)?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// A pipe that keeps what is read from it.
struct Keeping<'a> {
    pipe: ChildStdout,
    kept: &'a mut Vec<u8>,
}

impl Read for Keeping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.pipe.read(buffer)?;
        self.kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

impl AsRawFd for Keeping<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.pipe.as_raw_fd()
    }
}

/// Starts `command` in a process group of its own, so that a terminal's Ctrl-C does not reach it and [`end`] reaches all
/// of it.
///
/// # Errors
/// It could not be spawned.
pub fn spawn(command: &mut Command) -> Result<Child, Failure> {
    command.process_group(0).spawn().map_err(|error| Failure::Spawn(error.to_string()))
}

/// Kills a process that [`spawn`] started, with its process group, and reaps it.
pub fn end(child: &mut Child) {
    let _ = process::kill(-(child.id() as i32), libc::SIGKILL);
    let _ = child.kill();
    let _ = child.wait();
}

/// The exit code as a shell has it: 128 + N for signal N.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The end of a process and the first byte in a pipe, in either order.
fn watch<R: Read + AsRawFd>(
    child: &mut Child,
    mut pipe: Option<(&mut R, Expected<'_>)>,
    started: Instant,
    timeout: Duration,
) -> Result<Sample, Failure> {
    let watched = watch_until(child, &mut pipe, started, timeout);
    if watched.is_err() {
        end(child);
    }
    watched
}

fn watch_until<R: Read + AsRawFd>(
    child: &mut Child,
    pipe: &mut Option<(&mut R, Expected<'_>)>,
    started: Instant,
    timeout: Duration,
) -> Result<Sample, Failure> {
    let spawn_failure = |error: &dyn fmt::Display| Failure::Spawn(error.to_string());
    let end = pidfd::open(child.id() as i32).map_err(|errno| spawn_failure(&errno))?;
    let (mut first_byte, mut reaped) = (None, None);
    let mut output = Vec::new();
    let mut open = pipe.is_some();
    // Once the process is reaped, what is in the pipe is read, and one byte at least is waited for.
    while reaped.is_none() || open {
        let Some(left) = timeout.checked_sub(started.elapsed()) else { return Err(Failure::Timeout) };
        let left = if reaped.is_some() && first_byte.is_some() { Duration::ZERO } else { left };
        // poll(2) leaves negative descriptors out.
        let bytes = pipe.as_ref().filter(|_| open).map_or(-1, |(pipe, _)| pipe.as_raw_fd());
        let mut ready = [bytes, if reaped.is_none() { end.as_raw_fd() } else { -1 }].map(readable);
        match process::poll(&mut ready, Some(left)) {
            Ok(0) if reaped.is_some() && first_byte.is_some() => break,
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
            first_byte = first_byte.or(Some(microseconds(started)));
            output.extend_from_slice(buffer.get(..count).unwrap_or_default());
            open = count > 0 && output.len() < MOST_OUTPUT;
        }
        if ready[1].revents != 0 {
            let status = child.wait().map_err(|error| spawn_failure(&error))?;
            reaped = Some(microseconds(started));
            if !status.success() {
                return Err(Failure::Code(exit_code(status)));
            }
        }
    }
    if let Some((_, expected)) = pipe
        && !expected.is_met_by(&output)
    {
        return Err(Failure::Output(String::from_utf8_lossy(&output).into_owned()));
    }
    Ok(Sample { first_byte, reaped: reaped.unwrap_or_default() })
}

/// Who writes more than this is not read on.
const MOST_OUTPUT: usize = 64 * 1024;

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
        let sample = of_output(&mut shell("echo Hello; sleep 1"), b"Hello\n", MINUTE).unwrap();
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
    fn a_banner_is_allowed_where_it_is_expected() {
        let among = |script| since(Instant::now(), &mut shell(script), Expected::Among(b"Hello"), MINUTE);
        assert!(among("echo banner; sleep 0.01; echo Hello").is_ok());
        assert_eq!(among("echo banner").unwrap_err(), Failure::Output("banner\n".into()));
    }

    #[test]
    fn what_hangs_is_killed_with_its_children() {
        let mut command = shell("sleep 61.5 & echo $! >&2; wait");
        let (mut reader, writer) = std::io::pipe().unwrap();
        command.stderr(writer);
        let slow = of_output(&mut command, b"", Duration::from_secs(2)).unwrap_err();
        assert_eq!(slow, Failure::Timeout);
        // Else nobody ends what is read.
        drop(command);
        let mut pid = [0; 16];
        let count = reader.read(&mut pid).unwrap();
        let pid = str::from_utf8(&pid[..count]).unwrap().trim().to_owned();
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let gone = || state().is_empty() || state().contains(") Z ");
        assert!((0..3000).any(|_| gone() || {
            std::thread::sleep(Duration::from_millis(10));
            false
        }));
    }

    #[test]
    fn bytes_of_another_process_may_come_after_the_end() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        // Whoever has not been waited for can still be sent signals.
        let mut command = shell("(while kill -0 $$ 2>/dev/null; do sleep 0.01; done; sleep 0.1; echo Hello) &");
        command.stdout(writer);
        let sample = of_end(&mut command, Some((&mut reader, b"Hello\n")), MINUTE).unwrap();
        assert!(sample.first_byte.unwrap() > sample.reaped, "{sample:?}");
    }

    #[test]
    fn what_a_program_says() {
        assert_eq!(said(&mut shell("echo a; sleep 0.01; echo b"), MINUTE).unwrap(), "a\nb\n");
        assert_eq!(said(&mut shell(":"), MINUTE).unwrap(), "");
        assert_eq!(said(&mut shell("exec sleep 60"), Duration::from_millis(20)).unwrap_err(), Failure::Timeout);
    }

    #[test]
    fn nothing_needs_to_be_written() {
        let sample = of_end::<std::io::PipeReader>(shell(":").stdout(Stdio::null()), None, MINUTE).unwrap();
        assert_eq!(sample.first_byte, None);
    }
}
