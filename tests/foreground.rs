//! A command in the foreground has no other task than its container: it hears signals and the container's end whatever its
//! stdin and stdout do.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Long enough for a pipe or a terminal to be full.
const WHILE: Duration = Duration::from_millis(500);

/// A bundle whose program is `script`, on a terminal.
fn on_terminal(lab: &Lab, script: &str) -> Bundle {
    lab.bundle(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["args"] = json!(["sh", "-c", script]);
    })
}

fn flood() -> Stdio {
    File::open("/dev/zero").unwrap().into()
}

/// `run` of `bundle` in the background.
fn spawn(lab: &Lab, bundle: &Bundle, stdin: Stdio, stdout: Stdio) -> Running {
    let mut command = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    Running(command.stdin(stdin).stdout(stdout).spawn().unwrap())
}

/// A command that does not outlive its test.
struct Running(Child);

impl Running {
    fn terminate(&self) {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM).unwrap();
    }

    /// Reads until `word` has come.
    #[track_caller]
    fn hear(&mut self, word: &str) {
        let mut text = Vec::new();
        while !text.ends_with(word.as_bytes()) {
            let mut letter = [0];
            self.0.stdout.as_mut().unwrap().read_exact(&mut letter).unwrap();
            text.extend(letter);
        }
    }

    /// Its exit code, if it ends at all.
    #[track_caller]
    fn code(&mut self) -> i32 {
        let mut code = None;
        common::eventually(|| {
            code = self.0.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn input_that_nobody_reads_does_not_hide_the_end() {
    let lab = lab!();
    let script = "stty raw -echo; sleep 1; exit 5";
    let bundle = on_terminal(&lab, script);
    assert_eq!(spawn(&lab, &bundle, flood(), Stdio::null()).code(), 5);
    assert_eq!(lab.status(&bundle.id), "");

    let bundle = lab.sleeper(|_| {});
    let mut command = lab.command(&["exec", "-t", &bundle.id, "sh", "-c", script]);
    let mut exec = Running(command.stdin(flood()).stdout(Stdio::null()).spawn().unwrap());
    assert_eq!(exec.code(), 5);
}

#[test]
fn input_that_nobody_reads_does_not_hold_signals_up() {
    let lab = lab!();
    let script = "stty raw -echo; trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let mut run = spawn(&lab, &on_terminal(&lab, script), flood(), Stdio::piped());
    run.hear("ready");
    sleep(WHILE);
    run.terminate();
    assert_eq!(run.code(), 3);
}

/// Floods its terminal with numbered lines. Its init hears signals all the same.
const FLOOD: &str = "trap 'exit 3' TERM; (n=0; while :; do n=$((n + 1)); echo $n; done) & while :; do sleep 0.1; done";

#[test]
fn output_that_nobody_reads_does_not_hold_signals_up() {
    let lab = lab!();
    let bundle = on_terminal(&lab, FLOOD);
    let mut run = spawn(&lab, &bundle, Stdio::null(), Stdio::piped());
    run.hear("1\n");
    sleep(WHILE);
    run.terminate();
    common::eventually(|| lab.status(&bundle.id) == "stopped");
    // Nothing is lost of what it wrote.
    let mut text = String::new();
    run.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let (whole, _cut) = text.rsplit_once('\n').unwrap();
    let numbers = whole.lines().map(|line| line.parse::<usize>().unwrap());
    assert!(numbers.eq(2..2 + whole.lines().count()));
    assert_eq!(run.code(), 3);
}

/// A container that has ended is not kept for a reader who never reads: a second signal ends the command.
#[test]
fn output_that_nobody_reads_does_not_hold_the_end_up() {
    let lab = lab!();
    let bundle = on_terminal(&lab, FLOOD);
    // Others may share what the command writes to, and so it stays as it is: a terminal here, and a pipe.
    let pair = nix::pty::openpty(None, None).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    for stdout in [Stdio::from(pair.slave), Stdio::from(writer)] {
        let mut run = spawn(&lab, &bundle, Stdio::null(), stdout);
        common::eventually(|| lab.status(&bundle.id) == "running");
        sleep(WHILE);
        run.terminate();
        common::eventually(|| lab.status(&bundle.id) == "stopped");
        assert!(run.0.try_wait().unwrap().is_none(), "what the program wrote is not waited for");
        run.terminate();
        assert_eq!(run.code(), 3);
        assert_eq!(lab.status(&bundle.id), "");
    }
    drop((pair.master, reader));
}
