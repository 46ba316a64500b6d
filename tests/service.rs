//! Containers that are part of a service: what goes between them and a service manager.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab, Output, eventually, output};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(lab: &Lab) -> Self {
        let path = lab.path("manager.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { socket, path }
    }

    /// A verb in a service of this manager.
    fn command(&self, lab: &Lab, args: &[&str]) -> Command {
        let mut command = lab.command(args);
        command.env("NOTIFY_SOCKET", &self.path).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn create(&self, lab: &Lab, bundle: &Bundle) -> String {
        let pid = bundle.path.join("pid");
        let args =
            ["create", "--bundle", bundle.path.to_str().unwrap(), "--pid-file", pid.to_str().unwrap(), &bundle.id];
        assert!(self.command(lab, &args).status().unwrap().success());
        fs::read_to_string(pid).unwrap()
    }

    /// The next message. A descriptor that comes along is closed: that is how a manager answers a barrier.
    fn hears(&self) -> String {
        let mut message = [0; 256];
        let count = self.socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..count]).into_owned()
    }

    fn hears_nothing(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let silent = self.socket.recv(&mut [0]).is_err();
        self.socket.set_nonblocking(false).unwrap();
        silent
    }
}

/// Says `message` on the socket that the container with the init `pid` sees.
fn say(pid: &str, message: &str) {
    let path = PathBuf::from(format!("/proc/{pid}/root/run/notify/notify.sock"));
    let socket = UnixDatagram::unbound().unwrap();
    eventually(|| socket.connect(&path).is_ok());
    socket.send(message.as_bytes()).unwrap();
}

fn sleeper(lab: &Lab) -> Bundle {
    lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]))
}

fn ends(child: &mut Child) -> i32 {
    let mut status = None;
    eventually(|| {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap().code().unwrap()
}

#[test]
fn start_tells_that_the_container_is_ready() {
    let lab = lab!();
    let manager = Manager::new(&lab);
    let bundle = sleeper(&lab);
    let pid = manager.create(&lab, &bundle);
    // Whoever executes the program listens.
    assert!(!lab.path("run").join(&bundle.id).join("notify/notify.sock").exists());
    let mut start = manager.command(&lab, &["start", &bundle.id]).spawn().unwrap();
    say(&pid, "STATUS=at it");
    say(&pid, "MAINPID=1\nFDSTORE=1\nREADY=1\nSTATUS=done");
    assert_eq!(manager.hears(), "READY=1\n");
    assert_eq!(manager.hears(), format!("MAINPID={pid}\n"));
    // It does not go before the manager has read all.
    assert_eq!(start.try_wait().unwrap(), None);
    assert_eq!(manager.hears(), "BARRIER=1");
    assert_eq!(ends(&mut start), 0);
    assert_eq!(lab.status(&bundle.id), "running");
    assert!(manager.hears_nothing());
}

#[test]
fn a_container_that_ends_without_a_word_is_not_waited_for() {
    let lab = lab!();
    let manager = Manager::new(&lab);
    let bundle = lab.bundle(|_| {});
    manager.create(&lab, &bundle);
    assert!(manager.command(&lab, &["start", &bundle.id]).status().unwrap().success());
    let bundle = lab.bundle(|_| {});
    let args = ["run", "-d", "--bundle", bundle.path.to_str().unwrap(), &bundle.id];
    assert!(manager.command(&lab, &args).status().unwrap().success());
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sh", "-c", "exit 7"]));
    let args = ["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id];
    assert_eq!(manager.command(&lab, &args).status().unwrap().code(), Some(7));
    assert!(manager.hears_nothing());
}

#[test]
fn run_tells_it_too() {
    let lab = lab!();
    let manager = Manager::new(&lab);
    for detached in [true, false] {
        let bundle = sleeper(&lab);
        let file = bundle.path.join("pid");
        let mut args =
            vec!["run", "--bundle", bundle.path.to_str().unwrap(), "--pid-file", file.to_str().unwrap(), &bundle.id];
        if detached {
            args.insert(1, "--detach");
        }
        let mut run = manager.command(&lab, &args).spawn().unwrap();
        eventually(|| file.exists());
        let pid = fs::read_to_string(&file).unwrap();
        say(&pid, "READY=1");
        assert_eq!(manager.hears(), "READY=1\n");
        // In the foreground the service is the runtime itself.
        let main = if detached { pid } else { run.id().to_string() };
        assert_eq!(manager.hears(), format!("MAINPID={main}\n"));
        assert_eq!(manager.hears(), "BARRIER=1");
        if !detached {
            assert_eq!(run.try_wait().unwrap(), None);
            lab.microrun(&["kill", &bundle.id, "TERM"]);
            lab.microrun(&["kill", &bundle.id, "KILL"]).ok();
        }
        assert_eq!(ends(&mut run), if detached { 0 } else { 137 });
    }
}

#[test]
fn the_container_finds_the_socket_and_cannot_take_it_away() {
    let lab = lab!();
    let manager = Manager::new(&lab);
    let script = "echo $NOTIFY_SOCKET; stat -c %a,%F $NOTIFY_SOCKET; rm -f $NOTIFY_SOCKET; grep -c ' /run/notify ro,nosuid,nodev,noexec' /proc/self/mountinfo";
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["env"] = json!(["PATH=/bin", "NOTIFY_SOCKET=/of/the/image"]);
    });
    let mut command = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    command.env("NOTIFY_SOCKET", &manager.path);
    let Output { stdout, stderr, .. } = output(command);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines, ["/run/notify/notify.sock", "777,socket", "1"], "{stderr}");
    assert!(stderr.contains("Read-only file system"), "{stderr}");
    // Nothing of it in a container that is not part of a service.
    let none = lab.shell("echo ${NOTIFY_SOCKET-none}; ls /run", |_| {});
    assert_eq!(none.stdout, "none");
}

#[test]
fn a_container_that_was_created_without_a_manager_starts_at_once() {
    let lab = lab!();
    let manager = Manager::new(&lab);
    let bundle = sleeper(&lab);
    lab.created(&bundle);
    assert!(manager.command(&lab, &["start", &bundle.id]).status().unwrap().success());
    assert!(manager.hears_nothing());
}

#[test]
fn a_manager_that_is_gone_is_a_warning() {
    let lab = lab!();
    let manager = Manager::new(&lab);
    let bundle = sleeper(&lab);
    let pid = manager.create(&lab, &bundle);
    fs::remove_file(&manager.path).unwrap();
    let mut command = manager.command(&lab, &["start", &bundle.id]);
    let start = command.stderr(Stdio::piped()).spawn().unwrap();
    say(&pid, "READY=1");
    let start = start.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&start.stderr);
    assert!(start.status.success() && said.contains("NOTIFY_SOCKET: tell the service manager at "), "{said}");
    assert_eq!(lab.status(&bundle.id), "running");
}

#[test]
fn without_rights_it_works_as_well() {
    let lab = match Lab::for_user() {
        Ok(lab) => lab,
        Err(why) => skip!("{why}"),
    };
    let manager = Manager::new(&lab);
    let bundle = sleeper(&lab);
    let pid = manager.create(&lab, &bundle);
    let mut start = manager.command(&lab, &["start", &bundle.id]).spawn().unwrap();
    say(&pid, "READY=1");
    assert_eq!([manager.hears(), manager.hears()], ["READY=1\n".to_owned(), format!("MAINPID={pid}\n")]);
    assert_eq!(manager.hears(), "BARRIER=1");
    assert_eq!(ends(&mut start), 0);
}

/// Runs `script` in a container whose runtime was given the descriptors 3, 4 and 5, with `variables` in its environment.
fn activated(lab: &Lab, variables: &str, options: &[&str], script: &str) -> Output {
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sh", "-c", script]));
    for (index, text) in ["three", "four", "five"].iter().enumerate() {
        fs::write(lab.path(format!("fd{}", index + 3)), text).unwrap();
    }
    let fd = |number: u32| lab.path(format!("fd{number}"));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let run = lab.command(&["run"]);
    let mut command = Command::new("sh");
    let opened = format!("3<{} 4<{} 5<{}", path(&fd(3)), path(&fd(4)), path(&fd(5)));
    command.args(["-c", &format!("export {variables}; exec \"$@\" {opened}"), "sh"]).arg(run.get_program());
    command.args(run.get_args()).args(options).args(["--bundle", &path(&bundle.path), &bundle.id]);
    output(command)
}

#[test]
fn sockets_are_handed_on() {
    let lab = lab!();
    let run = |variables, options: &[&str]| {
        let said = activated(
            &lab,
            variables,
            options,
            "echo $LISTEN_PID,$LISTEN_FDS,$LISTEN_FDNAMES; cd /proc/self/fd; for n in 3 4 5; do if [ -e $n ]; then cat $n; fi; echo; done",
        )
        .ok();
        said.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(run("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b", &[]), "1,2,a:b three four");
    // --preserve-fds counts from there.
    assert_eq!(run("LISTEN_PID=$$ LISTEN_FDS=1", &["--preserve-fds", "1"]), "1,1, three four");
    assert_eq!(run("LISTEN_PID=$$ LISTEN_FDS=2", &["--preserve-fds", "1"]), "1,2, three four five");
    // Meant for another process.
    assert_eq!(run("LISTEN_PID=1 LISTEN_FDS=2", &[]), ",,");
    // More than there are: what has the number may be the runtime's own.
    let refused = activated(&lab, "LISTEN_PID=$$ LISTEN_FDS=4", &[], "true").failed();
    assert!(
        refused.contains("LISTEN_FDS: 4 descriptors from 3 to 6 are to be handed on, and 6 is not open"),
        "{refused}"
    );
}
