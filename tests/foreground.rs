//! A command in the foreground has no other task than its container: it hears signals and the container's end whatever its
//! stdin and stdout do, returns the program's exit code whatever cannot be removed, and leaves nothing behind if it fails.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Guard, Lab, Tmpfs};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{FlowArg, tcflow};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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
    Running(Guard(command.stdin(stdin).stdout(stdout).spawn().unwrap()))
}

/// A command in the foreground.
struct Running(Guard);

impl Running {
    fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
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

#[test]
fn input_that_nobody_reads_does_not_hide_the_end() {
    let lab = lab!();
    let script = "stty raw -echo; sleep 1; exit 5";
    let bundle = on_terminal(&lab, script);
    assert_eq!(spawn(&lab, &bundle, flood(), Stdio::null()).code(), 5);
    assert_eq!(lab.status(&bundle.id), "");

    let bundle = lab.sleeper(|_| {});
    let mut command = lab.command(&["exec", "-t", &bundle.id, "sh", "-c", script]);
    let mut exec = Running(Guard(command.stdin(flood()).stdout(Stdio::null()).spawn().unwrap()));
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
    // However slowly it writes: a pipe of one page takes nothing more as long as there is anything in it.
    fcntl(run.0.stdout.as_ref().unwrap(), FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    run.hear("1\n");
    sleep(WHILE);
    run.terminate();
    common::eventually_is(|| lab.status(&bundle.id), &"stopped".to_owned());
    // Nothing is lost of what it wrote.
    let mut text = String::new();
    run.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let (whole, _cut) = text.rsplit_once('\n').unwrap();
    let numbers = whole.lines().map(|line| line.parse::<usize>().unwrap());
    assert!(numbers.eq(2..2 + whole.lines().count()));
    assert_eq!(run.code(), 3);
}

/// As in `microrun run -t ... | head -1`: it would wait for room in its terminal for ever.
#[test]
fn output_that_nobody_will_ever_read_hangs_the_terminal_up() {
    let lab = lab!();
    let script = "while echo said; do :; done; exit 6";
    let mut run = spawn(&lab, &on_terminal(&lab, script), Stdio::null(), Stdio::piped());
    run.hear("said");
    drop(run.0.stdout.take());
    assert_eq!(run.code(), 6);
    let bundle = lab.sleeper(|_| {});
    let mut command = lab.command(&["exec", "-t", &bundle.id, "sh", "-c", script]);
    let mut exec = Running(Guard(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()));
    exec.hear("said");
    drop(exec.0.stdout.take());
    // By the signal, if that comes first.
    let code = exec.code();
    assert!(code == 6 || code == 128 + libc::SIGHUP, "{code}");
}

/// A container without a terminal hears nothing of ours: to some, such as Apache's httpd, SIGWINCH says to end.
#[test]
fn a_new_size_of_our_terminal_is_no_signal_to_a_container_without_one() {
    let lab = lab!();
    // Of signals that wait together, the one with the lower number is taken first.
    let script = "trap 'exit 4' WINCH; trap 'exit 3' PWR; echo ready; while :; do sleep 0.1; done";
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sh", "-c", script]));
    let exec = lab.sleeper(|_| {});
    let run = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    for mut command in [run, lab.command(&["exec", &exec.id, "sh", "-c", script])] {
        let mut run = Running(Guard(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()));
        run.hear("ready");
        run.signal(Signal::SIGWINCH);
        run.signal(Signal::SIGPWR);
        assert_eq!(run.code(), 3);
    }
}

/// Closes its terminal everywhere for a while, as an init does that opens it anew for each line, and fills it then.
const AGAIN: &str = "t=$(tty); exec </dev/null >/dev/null 2>&1; sleep 0.5; seq 9999 >$t; sleep 0.5; echo end >$t";

#[test]
fn a_terminal_that_nobody_has_open_for_a_while_is_served_on() {
    let lab = lab!();
    let exec = lab.sleeper(|_| {});
    let run = on_terminal(&lab, AGAIN);
    let run = lab.command(&["run", "--bundle", run.path.to_str().unwrap(), &run.id]);
    for command in [run, lab.command(&["exec", "-t", &exec.id, "sh", "-c", AGAIN])] {
        let said = common::output(command).ok();
        assert!(said.contains("9998\n9999\nend"), "{said}");
    }
}

/// An end of a pipe that takes nothing more until somebody reads.
fn full(end: PipeWriter) -> Stdio {
    let mut end = File::from(OwnedFd::from(end));
    fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    for size in [4096, 1] {
        while end.write(&vec![b'x'; size]).is_ok() {}
    }
    fcntl(&end, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    end.into()
}

/// A terminal whose output is stopped, as by Ctrl-S: a full one would take more when the kernel has moved what it holds.
fn stopped(terminal: OwnedFd) -> Stdio {
    tcflow(&terminal, FlowArg::TCOOFF).unwrap();
    terminal.into()
}

/// A container that has ended is not kept for a reader who never reads: a second signal ends the command.
#[test]
fn output_that_nobody_reads_does_not_hold_the_end_up() {
    let lab = lab!();
    let script = "trap 'exit 3' TERM; echo said; echo >/dev/ready; while :; do sleep 0.1; done";
    let bundle = on_terminal(&lab, script);
    // Others may share what the command writes to, and so it stays as it is: a terminal here, and a pipe.
    let pair = nix::pty::openpty(None, None).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    for stdout in [stopped(pair.slave), full(writer)] {
        let mut run = spawn(&lab, &bundle, Stdio::null(), stdout);
        common::eventually(|| lab.exec(&bundle, &[], &["cat", "/dev/ready"]).code == 0);
        run.terminate();
        common::eventually_is(|| lab.status(&bundle.id), &"stopped".to_owned());
        let mut ended = run.0.try_wait().unwrap();
        assert!(ended.is_none(), "what the program wrote is not waited for");
        // The first may come before the command knows of the end, and is the container's then.
        common::eventually(|| {
            run.terminate();
            ended = run.0.try_wait().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.unwrap().code(), Some(3));
        assert_eq!(lab.status(&bundle.id), "");
    }
    drop((pair.master, reader));
}

/// A process of somebody else in `cgroups`.
fn outsider(cgroups: &[PathBuf]) -> Guard {
    let outsider = Guard(Command::new("sleep").arg("100").spawn().unwrap());
    for cgroup in cgroups {
        fs::write(cgroup.join("cgroup.procs"), outsider.id().to_string()).unwrap();
    }
    outsider
}

#[test]
fn what_cannot_be_removed_does_not_change_the_exit_code() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "read x; exit 5"]);
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        config["linux"]["resources"]["pids"] = json!({"limit": 64});
    });
    let log = lab.path("log");
    let root = lab.path("run");
    let mut command = Command::new(lab.path("microrun"));
    command.arg("--root").arg(root).arg("--log").arg(&log).args(["run", "--bundle"]).arg(&bundle.path).arg(&bundle.id);
    let mut run = Running(Guard(command.stdin(Stdio::piped()).spawn().unwrap()));
    common::eventually(|| lab.status(&bundle.id) == "running");
    let outsider = outsider(&lab.cgroups_of(&bundle));
    drop(run.0.stdin.take());
    assert_eq!(run.code(), 5);
    let said = fs::read_to_string(log).unwrap();
    assert!(said.contains("remove the cgroup") && said.contains("processes are still in it"), "{said}");
    // What is left is for `delete`.
    assert_eq!(lab.status(&bundle.id), "stopped");
    drop(outsider);
    lab.microrun(&["delete", &bundle.id]).ok();
    assert!(lab.cgroups_of(&bundle).is_empty());
}

/// `delete` has no exit code of a program to return: it fails while something is left.
#[test]
fn delete_says_what_cannot_be_removed() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["linux"]["resources"]["pids"] = json!({"limit": 64}));
    lab.started(&bundle);
    common::eventually(|| lab.status(&bundle.id) == "stopped");
    let outsider = outsider(&lab.cgroups_of(&bundle));
    let refused = lab.microrun(&["delete", &bundle.id]).failed();
    assert!(refused.contains("remove the cgroup"), "{refused}");
    drop(outsider);
    lab.microrun(&["delete", &bundle.id]).ok();
}

/// A cgroup in which nobody is may be given to another container, and then it is that one's.
#[test]
fn delete_leaves_another_container_in_the_same_cgroup_alone() {
    let lab = lab!();
    let ended = lab.bundle(|_| {});
    lab.started(&ended);
    common::eventually(|| lab.status(&ended.id) == "stopped");
    let config: Value = serde_json::from_slice(&fs::read(ended.path.join("config.json")).unwrap()).unwrap();
    let other = lab.sleeper(|new| new["linux"]["cgroupsPath"] = config["linux"]["cgroupsPath"].clone());
    for force in [&[][..], &["--force"]] {
        let mut args = vec!["delete", &ended.id];
        args.extend(force);
        let refused = lab.microrun(&args).failed();
        assert!(refused.contains("remove the cgroup"), "{refused}");
        assert_eq!(lab.status(&other.id), "running");
    }
    lab.microrun(&["delete", "--force", &other.id]).ok();
    lab.microrun(&["delete", &ended.id]).ok();
    assert!(lab.cgroups_of(&ended).is_empty());
}

/// Runs a container for which the kernel refuses `call` to the command that waits for it; what that says. Nothing may be left.
#[track_caller]
fn refused(lab: &Lab, verb: &str, call: &str, change: impl FnOnce(&mut Value)) -> String {
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "50"]);
        change(config);
    });
    let command = match verb {
        "run" => lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]),
        _ => {
            lab.started(&bundle);
            lab.command(&["exec", "-t", &bundle.id, "sleep", "51"])
        }
    };
    let mut traced = Command::new("strace");
    traced.args(["-o", "/dev/null", "-e", &format!("inject={call}:error=ENOMEM")]);
    traced.arg(command.get_program()).args(command.get_args());
    let said = common::output(traced).failed();
    if verb == "run" {
        assert_eq!(lab.status(&bundle.id), "", "{call}: {said}");
        assert!(lab.cgroups_of(&bundle).is_empty(), "{call}: {said}");
    } else {
        let left = lab.microrun(&["ps", &bundle.id]).ok();
        assert!(!left.contains("sleep 51"), "{call}: {said}\n{left}");
    }
    said
}

#[test]
fn an_error_of_waiting_ends_the_container() {
    let lab = lab!();
    if let Err(why) = common::require_strace() {
        skip!("{why}");
    }
    for (verb, call, doing) in [
        ("run", "signalfd4", "make a descriptor for signals"),
        ("run", "ppoll", "wait for the terminal"),
        ("exec", "signalfd4", "make a descriptor for signals"),
    ] {
        let said = refused(&lab, verb, call, |config| config["process"]["terminal"] = json!(verb == "run"));
        assert!(said.contains(doing) && said.contains("out of memory"), "{said}");
    }
    // SIGCHLD has it call wait4, of the helper that made the network namespace at the latest.
    for call in ["rt_sigtimedwait", "wait4"] {
        let said = refused(&lab, "run", call, |config| config["process"]["args"] = json!(["sleep", "1"]));
        assert!(said.contains("wait for the container") && said.contains("out of memory"), "{said}");
    }
}

/// A bundle whose program is `script`, run by `uid`, with a user namespace if that `is_mapped`.
fn of_user(lab: &Lab, uid: u32, is_mapped: bool, script: &str) -> Bundle {
    lab.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["user"] = json!({"uid": uid, "gid": uid});
        if is_mapped {
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            for field in ["uidMappings", "gidMappings"] {
                config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            }
        }
    })
}

/// `run` of a bundle whose program is `script`, and `exec` of that in another container.
fn both(lab: &Lab, uid: u32, is_mapped: bool, script: &str, mut check: impl FnMut(&mut Command)) {
    let bundle = of_user(lab, uid, is_mapped, script);
    check(&mut lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]));
    let bundle = of_user(lab, uid, is_mapped, "exec sleep 1000");
    lab.create(&bundle, &[]).ok();
    lab.microrun(&["start", &bundle.id]).ok();
    check(&mut lab.command(&["exec", &bundle.id, "sh", "-c", script]));
}

/// Its owner stays, it is not cut short by who opens it again, and what is open for reading alone cannot be written to.
#[test]
fn a_file_of_the_hosts_is_not_the_containers() {
    let lab = lab!();
    let (input, log) = (lab.path("input"), lab.path("log"));
    let script = "cat; echo pwned >>/proc/self/fd/0; echo again >/dev/stdout; echo error >&2; seq 20000; exit 3";
    for uid in [0, 1000] {
        both(&lab, uid, false, script, |command| {
            fs::write(&input, "said\n").unwrap();
            let output = File::create(&log).unwrap();
            let error = File::create(lab.path("error")).unwrap();
            command.stdin(File::open(&input).unwrap()).stdout(output).stderr(error);
            assert_eq!(command.status().unwrap().code(), Some(3));
            let numbers: String = (1..=20000).map(|number| format!("{number}\n")).collect();
            let said = fs::read_to_string(&log).unwrap();
            assert!(said == format!("said\nagain\n{numbers}"), "{uid}: {}", said.get(..100).unwrap_or(&said));
            let error = fs::read_to_string(lab.path("error")).unwrap();
            assert!(error.ends_with("error\n"), "{error}");
            assert_eq!(fs::read_to_string(&input).unwrap(), "said\n");
            assert_eq!(fs::metadata(&log).unwrap().uid(), 0);
        });
    }
}

/// The node of a device: its number, owner and mode.
fn about(node: &Path) -> (u64, u32, u32, u32) {
    let node = fs::metadata(node).unwrap();
    (node.rdev(), node.uid(), node.gid(), node.mode())
}

/// Neither its owner nor its mode is the container's to change, for its node is everybody's. As root it is the node's owner already.
#[test]
fn a_device_of_the_hosts_is_not_the_containers() {
    let lab = lab!();
    let place = lab.path("devices");
    let devices = Tmpfs::on(&place, "mode=755");
    let nodes = [("zero", 5), ("urandom", 9), ("null", 3)].map(|(name, minor)| devices.device(name, 1, minor));
    let full = devices.device("full", 1, 7);
    let script = "head -c 3 >/dev/stderr; chmod 600 /dev/stdin; chmod 600 /dev/stdout; :";
    for (uid, is_mapped) in [(0, false), (1000, false), (0, true), (1000, true)] {
        both(&lab, uid, is_mapped, script, |command| {
            for node in &nodes {
                let before = [about(node), about(&full)];
                let stdout = File::options().write(true).open(&full).unwrap();
                command.stdin(File::open(node).unwrap()).stdout(stdout).stderr(Stdio::piped());
                let told = command.spawn().unwrap().wait_with_output().unwrap();
                let read = told.stderr.len();
                assert!(read >= if node.ends_with("null") { 0 } else { 3 }, "{node:?}: {told:?}");
                assert_eq!([about(node), about(&full)], before, "{node:?} {uid} {is_mapped}");
            }
        });
    }
}

/// A command that does not stay cannot relay: its container has the device itself, but it is not given to it.
#[test]
fn a_device_of_the_hosts_is_not_given_to_who_is_detached() {
    let lab = lab!();
    let place = lab.path("devices");
    let devices = Tmpfs::on(&place, "mode=755");
    let node = devices.device("zero", 1, 5);
    let before = about(&node);
    for is_mapped in [false, true] {
        let bundle = of_user(&lab, 1000, is_mapped, "exec sleep 1000");
        let path = bundle.path.to_str().unwrap();
        for args in [&["run", "--detach", "--bundle", path, &bundle.id][..], &["exec", "--detach", &bundle.id, "true"]]
        {
            let zero = || File::options().read(true).write(true).open(&node).unwrap();
            let status = lab.command(args).stdin(zero()).stdout(zero()).stderr(zero()).status().unwrap();
            assert!(status.success(), "{args:?}");
            assert_eq!(about(&node), before, "{is_mapped} {args:?}");
        }
    }
}

/// What a service's stdout is, and what may belong to a user who is not mapped.
#[test]
fn stdout_can_be_opened_again_whatever_it_is() {
    let lab = lab!();
    for (uid, is_mapped) in [(0, false), (1000, false), (0, true), (1000, true)] {
        both(&lab, uid, is_mapped, "echo said >/dev/stdout; echo error >/dev/stderr", |command| {
            let output = command.stdin(Stdio::null()).output().unwrap();
            assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"said\n"[..], &b"error\n"[..]), "{uid}");
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let stream = || Stdio::from(OwnedFd::from(theirs.try_clone().unwrap()));
            assert!(command.stdin(stream()).stdout(stream()).stderr(stream()).status().unwrap().success());
            // The command has its ends until something else takes their place.
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            drop(theirs);
            let mut said = String::new();
            ours.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            ours.read_to_string(&mut said).unwrap();
            let mut lines: Vec<&str> = said.lines().collect();
            lines.sort_unstable();
            assert_eq!(lines, ["error", "said"], "{uid}");
        });
    }
}

/// Neither its owner nor its settings are the container's to change, and what is typed reaches it.
#[test]
fn a_terminal_of_the_users_is_not_the_containers() {
    let lab = lab!();
    let script = "test -t 0 || test -t 1 || test -t 2 || echo none; stty -echo 2>/dev/null || echo refused; read line; echo $line";
    both(&lab, 1000, false, script, |command| {
        let pair = nix::pty::openpty(None, None).unwrap();
        let slave = || Stdio::from(pair.slave.try_clone().unwrap());
        let mut run = Guard(command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap());
        let mut master = File::from(pair.master);
        master.write_all(b"typed\n").unwrap();
        let said = heard(&mut master, |said| said.matches("typed").count() == 2);
        assert!(said.contains("none") && said.contains("refused"), "{said}");
        assert!(run.wait().unwrap().success());
        let status = nix::sys::stat::fstat(&pair.slave).unwrap();
        assert_eq!(status.st_uid, 0);
        // Nothing is held by the command any more.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    });
}

/// Reads from the master of a terminal until what has come is as `wanted` says.
#[track_caller]
fn heard(master: &mut File, wanted: impl Fn(&str) -> bool) -> String {
    let mut said = String::new();
    while !wanted(&said) {
        let mut fds = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(30_000u16)).unwrap(), 1, "no more came: {said}");
        let mut part = [0; 100];
        let count = master.read(&mut part).unwrap();
        said += str::from_utf8(&part[..count]).unwrap();
    }
    said
}

/// A program that goes on in the container keeps the pipes: by what it writes for ever, or by reading what was not for it.
#[test]
fn what_an_exec_leaves_behind_does_not_hold_it_up() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    lab.created(&bundle);
    lab.microrun(&["start", &bundle.id]).ok();
    let steals = "exec 4</proc/self/fd/1; cat <&4 >/dev/null 2>&1 & for i in $(seq 20000); do echo $i; done; kill $!";
    // It gets away with a full pipe of input, too, for which nobody is left but who copies.
    let fills = "exec 3>/proc/self/fd/0; timeout 0.2 dd if=/dev/zero bs=4096 >&3 2>/dev/null";
    for script in ["for i in 1 2 3 4 5 6; do yes & done; sleep 0.1", "yes >&2 & sleep 0.1", steals, fills] {
        let mut command = lab.command(&["exec", &bundle.id, "sh", "-c", script]);
        let (output, error) = (File::create(lab.path("log")).unwrap(), File::create(lab.path("error")).unwrap());
        let input = if script == fills { flood() } else { File::open(lab.path("error")).unwrap().into() };
        let run = Running(Guard(command.stdin(input).stdout(output).stderr(error).spawn().unwrap()));
        let code = { run }.code();
        let expected = if script == fills { 124..=143 } else { 0..=0 };
        assert!(expected.contains(&code), "{script}: {code}");
    }
}

/// The program learns of it as of a reader who has gone, and who waits for its end by the exit code.
#[test]
fn output_for_which_there_is_no_room_is_no_success() {
    let lab = lab!();
    let full = lab.path("full");
    let _mounted = Tmpfs::on(&full, "size=8k");
    for (script, terminal) in [("head -c 20000 /dev/zero; sleep 0.1", false), ("yes", false), ("yes", true)] {
        let bundle = lab.bundle(|config| {
            config["process"]["terminal"] = json!(terminal);
            config["process"]["args"] = json!(["sh", "-c", script]);
        });
        let mut command = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        let log = File::create(full.join("log")).unwrap();
        let error = File::create(lab.path("error")).unwrap();
        let mut run = Running(Guard(command.stdin(flood()).stdout(log).stderr(error).spawn().unwrap()));
        assert_ne!(run.code(), 0, "{script}");
        let said = fs::read_to_string(lab.path("error")).unwrap();
        assert!(said.contains("write to stdout") && said.contains("no space left on device"), "{script}: {said}");
    }
}

/// What nobody takes is waited for until a signal, and not passed over in silence then.
#[test]
fn output_that_is_given_up_is_no_success() {
    let lab = lab!();
    let gone = lab.path("gone");
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["echo", "said"]);
        let script = format!("true >{}", gone.display());
        config["hooks"]["poststop"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    });
    let pair = nix::pty::openpty(None, None).unwrap();
    let error = lab.path("error");
    let mut command = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    command.stdin(Stdio::null()).stdout(stopped(pair.slave)).stderr(File::create(&error).unwrap());
    let mut run = Running(Guard(command.spawn().unwrap()));
    let mut ended = None;
    common::eventually(|| {
        // Before the container has ended a signal is its own.
        if gone.exists() {
            run.terminate();
        }
        ended = run.0.try_wait().unwrap();
        ended.is_some()
    });
    let said = fs::read_to_string(error).unwrap();
    assert_eq!(ended.unwrap().code(), Some(1), "{said}");
    assert!(said.contains("write to stdout") && said.contains("interrupted"), "{said}");
    drop(pair.master);
}

/// It never polls as ready to be written to.
#[test]
fn the_kernels_log_can_be_written_to() {
    let lab = lab!();
    let Ok(log) = fs::OpenOptions::new().write(true).open("/dev/kmsg") else { skip!("there is no /dev/kmsg") };
    let said = "a test of microrun ".repeat(30);
    let bundle =
        lab.bundle(|config| config["process"]["args"] = json!(["sh", "-c", format!("echo {said}; echo {said}")]));
    let mut command = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let mut run = Running(Guard(command.stdin(Stdio::null()).stdout(log).spawn().unwrap()));
    assert_eq!(run.code(), 0);
}

#[test]
fn what_goes_to_one_file_keeps_its_order() {
    let lab = lab!();
    let script = "for i in $(seq 300); do echo $i; echo $i >&2; done";
    both(&lab, 0, false, script, |command| {
        let log = File::create(lab.path("log")).unwrap();
        let both = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        assert!(both.status().unwrap().success());
        let said = fs::read_to_string(lab.path("log")).unwrap();
        let said = said.lines().filter(|line| line.parse::<u32>().is_ok()).map(|line| format!("{line}\n"));
        let expected = (1..=300).map(|number| format!("{number}\n{number}\n")).collect::<String>();
        assert_eq!(said.collect::<String>(), expected);
    });
}

/// A job in the background has no stdin until it is brought to the foreground.
#[test]
fn what_is_typed_waits_for_the_foreground() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "echo ready; read -r line; echo got $line"]);
    });
    let command = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    let go = lab.path("go");
    let script = format!("set -m; {words} & while ! [ -e {} ]; do sleep 0.05; done; fg", go.display());
    let pair = nix::pty::openpty(None, None).unwrap();
    let slave = || Stdio::from(pair.slave.try_clone().unwrap());
    let mut shell = Command::new("setsid");
    shell.args(["-c", "sh", "-c", &script]).stdin(slave()).stdout(slave()).stderr(slave());
    let mut shell = Guard(shell.spawn().unwrap());
    let mut master = File::from(pair.master);
    heard(&mut master, |said| said.contains("ready"));
    master.write_all(b"typed\n").unwrap();
    sleep(WHILE);
    File::create(go).unwrap();
    heard(&mut master, |said| said.contains("got typed"));
    assert!(shell.wait().unwrap().success());
}
