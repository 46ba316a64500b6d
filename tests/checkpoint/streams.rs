//! Standard input and output: pipes, terminals, the foreground.

use crate::common::{eventually, receive};
use crate::{COUNT, Counter, skip};
use serde_json::json;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

#[test]
fn pipes_are_replaced_by_the_callers() {
    let (lab, _alone) = criu_lab!();
    let echo = "while read -r line; do echo \"said $line\"; done";
    let counter = Counter::running(&lab, echo, |_| {});
    let talk = |mut command: Command, line: &str| {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (mut input, mut answer) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        assert!(child.wait().unwrap().success());
        writeln!(input, "{line}").unwrap();
        let mut buffer = [0u8; 64];
        let count = answer.read(&mut buffer).unwrap();
        assert_eq!(String::from_utf8_lossy(&buffer[..count]), format!("said {line}\n"));
        (input, answer)
    };
    let run = ["run", "--detach", "--bundle", counter.bundle.path.to_str().unwrap(), counter.id()];
    let first = talk(lab.command(&run), "one");
    counter.checkpoint(&lab, &[]).ok();
    drop(first);
    let mut args = counter.restore_args(&[]);
    args.insert(1, "--detach");
    drop(talk(lab.command(&args), "two"));
    eventually(|| lab.status(counter.id()) == "stopped");
}

#[test]
fn in_the_foreground_it_ends_as_the_program_does() {
    let (lab, _alone) = criu_lab!();
    let script = format!(
        "{} & while ! [ -e /count/end ]; do usleep 20000; done; exit 7",
        COUNT.replace(':', "! [ -e /count/end ]")
    );
    let counter = Counter::running(&lab, &script, |_| {});
    let run = ["run", "--bundle", counter.bundle.path.to_str().unwrap(), counter.id()];
    let spawn = |args: &[&str]| -> Child {
        lab.command(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut first = spawn(&run);
    eventually(|| counter.count() > 2);
    counter.checkpoint(&lab, &[]).ok();
    // CRIU has killed it.
    assert_eq!(first.wait().unwrap().code(), Some(128 + libc::SIGKILL));
    assert_eq!(lab.status(counter.id()), "");

    let counted = counter.count();
    let mut second = spawn(&counter.restore_args(&[]));
    counter.counts_on(counted);
    assert_eq!(lab.status(counter.id()), "running");
    fs::write(counter.file("end"), "").unwrap();
    assert_eq!(second.wait().unwrap().code(), Some(7));
    assert_eq!(lab.status(counter.id()), "");
    assert!(!lab.path("run").join(counter.id()).exists());
}

/// Writes a line to a terminal and waits for what is printed then.
fn talk(terminal: &mut File, line: &str, expected: &str) {
    writeln!(terminal, "{line}").unwrap();
    listen(terminal, expected);
}

/// Reads until there is what is expected.
fn listen(mut from: impl Read, expected: &str) {
    let mut seen = String::new();
    let mut buffer = [0u8; 256];
    while !seen.contains(expected) {
        let count = from.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "{seen:?} is all that came");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

#[test]
fn a_terminal_comes_by_the_console_socket() {
    let (lab, _alone) = criu_lab!();
    let script = "while read -r line; do echo said $((line + 1)) to $(tty); done";
    let counter = Counter::running(&lab, script, |config| config["process"]["terminal"] = json!(true));
    let socket = lab.path("console.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let socket = socket.to_str().unwrap();
    let bundle = counter.bundle.path.to_str().unwrap();
    lab.microrun(&["run", "--detach", "--console-socket", socket, "--bundle", bundle, counter.id()]).ok();
    let mut terminal = File::from(receive(&listener));
    talk(&mut terminal, "41", "said 42 to /dev/");
    for round in 0..2 {
        counter.checkpoint(&lab, &[]).ok();
        drop(terminal);
        counter.restore(&lab, &["--console-socket", socket]).ok();
        terminal = File::from(receive(&listener));
        talk(&mut terminal, &format!("{}", 100 + round), &format!("said {} to /dev/", 101 + round));
    }
    let refused = counter.restore(&lab, &[]).failed();
    assert!(refused.contains("console socket"), "{refused}");
}

/// In the foreground microrun serves it itself.
#[test]
fn a_terminal_is_served_in_the_foreground() {
    let (lab, _alone) = criu_lab!();
    let script = "while read -r line; do [ $line = end ] && exit 5; echo said $((line + 1)) to $(tty); done";
    let counter = Counter::running(&lab, script, |config| config["process"]["terminal"] = json!(true));
    let spawn = |args: &[&str]| -> Child {
        let mut command = lab.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let say = |child: &mut Child, line: &str, expected: &str| {
        writeln!(child.stdin.as_mut().unwrap(), "{line}").unwrap();
        listen(child.stdout.as_mut().unwrap(), expected);
    };
    let mut first = spawn(&["run", "--bundle", counter.bundle.path.to_str().unwrap(), counter.id()]);
    say(&mut first, "41", "said 42 to /dev/");
    counter.checkpoint(&lab, &[]).ok();
    first.wait().unwrap();
    let mut second = spawn(&counter.restore_args(&[]));
    say(&mut second, "100", "said 101 to /dev/");
    writeln!(second.stdin.as_mut().unwrap(), "end").unwrap();
    assert_eq!(second.wait().unwrap().code(), Some(5));
    assert_eq!(lab.status(counter.id()), "");
}

#[test]
fn a_shell_job_keeps_to_the_callers_terminal() {
    let (lab, _alone) = criu_lab!();
    if Command::new("script").arg("--version").output().is_err() {
        skip!("needs script(1), which makes a terminal");
    }
    let counter = Counter::new(&lab, |_| {});
    let in_terminal = |args: &[&str]| {
        let command = lab.command(args);
        let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
        let line: Vec<_> = words.iter().map(|word| format!("'{}'", word.to_str().unwrap())).collect();
        let mut script = Command::new("script");
        script.args(["-qec", &line.join(" "), "/dev/null"]);
        script.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut first = in_terminal(&["run", "--bundle", counter.bundle.path.to_str().unwrap(), counter.id()]);
    eventually(|| counter.count() > 2);
    counter.checkpoint(&lab, &["--leave-running"]).failed();
    counter.counts_on(counter.count());
    counter.checkpoint(&lab, &["--shell-job"]).ok();
    first.wait().unwrap();
    let counted = counter.count();
    let mut second = in_terminal(&counter.restore_args(&["--shell-job"]));
    counter.counts_on(counted);
    lab.microrun(&["kill", counter.id(), "KILL"]).ok();
    second.wait().unwrap();
    assert_eq!(lab.status(counter.id()), "");
}
