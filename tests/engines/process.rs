//! Processes: programs with a deadline, daemons, terminals.

use crate::common::{Output, eventually};
use crate::world;
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a client may take.
const DEADLINE: u32 = 60;

/// The path of a program; none if it is not installed.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let directories = path.split(':').chain(["/usr/sbin", "/sbin"]);
    directories.map(|directory| Path::new(directory).join(program)).find(|path| path.is_file())
}

/// A command that is killed when it takes more than a minute, in a home directory of the test's own.
pub fn limited(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", &DEADLINE.to_string()]).arg(program).env("HOME", world::home());
    command
}

/// Runs a command with `input` on its stdin, which then ends.
pub fn output(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that does not read its input is no failure.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Output { code: code(output.status), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Starts a command with an stdin that stays open, and waits for its end. `ctr run` hangs when its stdin ends before the start.
pub fn output_with_open_stdin(mut command: Command) -> Output {
    let (reader, _writer) = std::io::pipe().unwrap();
    let output = command.stdin(reader).output().unwrap();
    Output { code: code(output.status), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Starts a command, waits until `ready`, and only then hands it `input` on its stdin, which then ends.
pub fn output_after(mut command: Command, ready: impl FnMut() -> bool, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually(ready);
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Output { code: code(output.status), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Runs a command on a terminal of its own with `input` typed, and returns all that was shown. The terminal has `size` rows and columns.
pub fn on_terminal_of(command: &Command, input: &str, size: Option<(u16, u16)>) -> Output {
    let size =
        size.map(|(rows, columns)| nix::pty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 });
    let pty = openpty(size.as_ref(), None).unwrap();
    let mut session = Command::new("setsid");
    session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
    session.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    session.stdin(pty.slave.try_clone().unwrap()).stdout(pty.slave.try_clone().unwrap()).stderr(pty.slave);
    let mut child = session.spawn().unwrap();
    // The command holds our slave's descriptors, and the reader would never see an end.
    drop(session);
    let mut master = File::from(pty.master);
    master.write_all(input.as_bytes()).unwrap();
    let mut shown = Vec::new();
    let mut buffer = [0; 4096];
    // EIO is how the end of a terminal's last user shows on the master.
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..count]);
    }
    Output { code: code(child.wait().unwrap()), stdout: text(&shown), stderr: String::new() }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// A client that goes on until the value is dropped.
pub struct Background {
    child: Child,
    out: PathBuf,
}

impl Background {
    /// Starts it; what it writes is kept in the file `out`.
    pub fn start(command: &Command, out: PathBuf) -> Self {
        let file = File::create(&out).unwrap();
        let mut own = Command::new(command.get_program());
        own.args(command.get_args()).envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        own.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: own.spawn().unwrap(), out }
    }

    /// What it has written so far.
    pub fn shown(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // timeout(1) hands SIGTERM on.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.out);
    }
}

/// A daemon, ended with the value.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a daemon that logs to the file `log`, and waits until `ready` says that it serves.
    ///
    /// # Errors
    /// It ended, or did not serve within half a minute: the end of its log.
    pub fn start(mut command: Command, log: PathBuf, ready: impl Fn() -> bool) -> Result<Self, String> {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        command.env("HOME", world::home()).stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut daemon = Self { child: command.spawn().map_err(|error| format!("{program}: {error}"))?, log };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !ready() {
            if daemon.child.try_wait().unwrap().is_some() || Instant::now() > deadline {
                return Err(format!("{program} does not serve: {}", daemon.last_words()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    /// Ends it as a service manager does: SIGTERM, and SIGKILL if that takes more than ten seconds.
    pub fn stop(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}
