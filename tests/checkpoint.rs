//! `checkpoint` and `restore`, with the CRIU of this machine. What CRIU itself cannot do here is found out first, with a
//! process that no container has to do with, and then these tests are skipped.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab, Output, eventually, output, push, receive};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// A laboratory, if CRIU can dump and restore a process on this machine. Others wait meanwhile: all CRIUs before 3.18
/// have sockets of the same names, in the network namespace of what they restore.
macro_rules! criu_lab {
    () => {{
        let lab = lab!();
        if let Err(why) = criu_works() {
            skip!("{why}");
        }
        (lab, ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
    }};
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs CRIU, for a minute at most.
fn criu(args: &[&str]) -> Output {
    let mut command = Command::new("criu");
    command.args(args);
    output(command)
}

/// Whether CRIU can do anything here, and if not, why.
fn criu_works() -> Result<(), String> {
    static WORKS: OnceLock<Result<(), String>> = OnceLock::new();
    WORKS
        .get_or_init(|| {
            if Command::new("criu").arg("--version").output().is_err() {
                return Err("needs criu (Debian's package criu)".to_owned());
            }
            let images = tempfile::tempdir().unwrap();
            let mut sleep = Command::new("setsid");
            sleep.args(["sleep", "1000"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut sleep = sleep.spawn().unwrap();
            let (pid, directory) = (sleep.id().to_string(), images.path().to_str().unwrap().to_owned());
            // In a session of its own, as it must be.
            eventually(|| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() == "sleep");
            let dumped = criu(&["dump", "-t", &pid, "-D", &directory, "-o", "dump.log"]);
            let _ = sleep.kill();
            sleep.wait().unwrap();
            if dumped.code != 0 {
                return Err(format!(
                    "this machine's criu cannot dump a process: {}",
                    last_error(images.path(), "dump.log")
                ));
            }
            let restored = criu(&["restore", "-D", &directory, "-o", "restore.log", "-d", "--pidfile", "pid"]);
            if restored.code != 0 {
                let why = last_error(images.path(), "restore.log");
                return Err(format!("this machine's criu cannot restore a process: {why}"));
            }
            let pid = fs::read_to_string(images.path().join("pid")).unwrap();
            common::host("kill", &["-KILL", pid.trim()]);
            Ok(())
        })
        .clone()
}

fn last_error(directory: &Path, log: &str) -> String {
    let text = fs::read_to_string(directory.join(log)).unwrap_or_default();
    text.lines().rfind(|line| line.contains("Error")).unwrap_or("it does not say why").to_owned()
}

/// A container that counts in a file, which the host sees.
struct Counter {
    bundle: Bundle,
    images: PathBuf,
}

const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i >/count/new; mv /count/new /count/now; usleep 20000; done";

impl Counter {
    fn new(lab: &Lab, change: impl FnOnce(&mut Value)) -> Self {
        Self::running(lab, COUNT, change)
    }

    /// A container that runs `script`, with the directory /count, and no network namespace: for that CRIU wants
    /// iptables.
    fn running(lab: &Lab, script: &str, change: impl FnOnce(&mut Value)) -> Self {
        let bundle = lab.bundle(|config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
            let source = "count";
            let mount = json!({"destination": "/count", "type": "bind", "source": source, "options": ["bind"]});
            push(&mut config["mounts"], mount);
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "network");
            change(config);
        });
        fs::create_dir(bundle.path.join("count")).unwrap();
        fs::create_dir_all(bundle.rootfs().join("count")).unwrap();
        let images = bundle.path.join("images");
        Self { bundle, images }
    }

    fn id(&self) -> &str {
        &self.bundle.id
    }

    fn file(&self, name: &str) -> PathBuf {
        self.bundle.path.join("count").join(name)
    }

    /// What it has counted; 0 before it began.
    fn count(&self) -> u64 {
        fs::read_to_string(self.file("now")).map_or(0, |text| text.trim().parse().unwrap_or(0))
    }

    /// Runs `args` in the background; what it writes is added to files, as is what the container writes.
    fn detached(&self, lab: &Lab, args: &[&str]) -> Output {
        let open = |name: &str| {
            let path = self.bundle.path.join(name);
            File::options().read(true).append(true).create(true).open(path).unwrap()
        };
        let (out, err) = (open("out"), open("err"));
        let starts = [out.metadata().unwrap().len(), err.metadata().unwrap().len()];
        let mut command = lab.command(args);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let code = command.status().unwrap().code().unwrap_or(-1);
        let text = |name: &str, start: u64| {
            let text = fs::read_to_string(self.bundle.path.join(name)).unwrap();
            text[start as usize..].trim().to_owned()
        };
        Output { code, stdout: text("out", starts[0]), stderr: text("err", starts[1]) }
    }

    /// Starts it, and waits until it counts.
    fn start(&self, lab: &Lab) -> i32 {
        self.begin(lab);
        eventually(|| self.count() > 2);
        pid_of(lab, self.id())
    }

    /// Starts it.
    fn begin(&self, lab: &Lab) {
        self.detached(lab, &["run", "--detach", "--bundle", self.bundle.path.to_str().unwrap(), self.id()]).ok();
    }

    fn checkpoint(&self, lab: &Lab, options: &[&str]) -> Output {
        let mut args = vec!["checkpoint", "--image-path", self.images.to_str().unwrap()];
        args.extend(options);
        args.push(self.id());
        lab.microrun(&args)
    }

    fn restore_args<'a>(&'a self, options: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["restore", "--image-path", self.images.to_str().unwrap()];
        args.extend(["--bundle", self.bundle.path.to_str().unwrap()]);
        args.extend(options);
        args.push(self.id());
        args
    }

    /// Starts it with nothing but /dev/null for its stdio.
    fn start_in_silence(&self, lab: &Lab, options: &[&str]) {
        let mut args = vec!["run", "--detach", "--bundle", self.bundle.path.to_str().unwrap()];
        args.extend(options);
        args.push(self.id());
        assert!(in_silence(lab.command(&args)).success());
        eventually(|| self.count() > 2);
    }

    /// Restores it in the background, as above.
    fn restore_in_silence(&self, lab: &Lab, options: &[&str]) {
        let log = lab.path("log");
        let mut args = self.restore_args(options);
        args.splice(0..1, ["--log", log.to_str().unwrap(), "restore", "--detach"]);
        let restored = in_silence(lab.command(&args));
        assert!(restored.success(), "{}", fs::read_to_string(&log).unwrap_or_default());
    }

    /// Restores it in the background, with stdio as it had.
    fn restore(&self, lab: &Lab, options: &[&str]) -> Output {
        let mut args = self.restore_args(options);
        args.insert(1, "--detach");
        self.detached(lab, &args)
    }

    /// Waits until it has counted on from `before`.
    #[track_caller]
    fn counts_on(&self, before: u64) {
        eventually(|| self.count() > before);
        assert!(self.count() < before + 3000, "{before} and then {}", self.count());
    }
}

fn in_silence(mut command: Command) -> ExitStatus {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
}

/// The mounts of a process: what is mounted where, and how, but for numbers.
fn mounts(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let mut mounts: Vec<String> = text
        .lines()
        .map(|line| {
            let (mount, superblock) = line.split_once(" - ").unwrap();
            let fields: Vec<&str> = mount.split(' ').collect();
            format!("{} {} {}", fields[4], fields[5], superblock.split(' ').next().unwrap())
        })
        .collect();
    mounts.sort();
    mounts
}

fn pid_of(lab: &Lab, id: &str) -> i32 {
    let state: Value = serde_json::from_str(&lab.microrun(&["state", id]).ok()).unwrap();
    state["pid"].as_i64().unwrap() as i32
}

#[test]
fn a_container_goes_on_where_it_was() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    let pid = counter.start(&lab);
    let before = mounts(pid);
    for round in 0..2 {
        counter.checkpoint(&lab, &[]).ok();
        let counted = counter.count();
        assert_eq!(lab.status(counter.id()), "", "round {round}");
        assert!(!lab.path("run").join(counter.id()).exists());

        let file = counter.bundle.path.join("pid");
        counter.restore(&lab, &["--pid-file", file.to_str().unwrap()]).ok();
        counter.counts_on(counted);
        let pid: i32 = fs::read_to_string(&file).unwrap().parse().unwrap();
        assert_eq!(pid, pid_of(&lab, counter.id()));
        assert_eq!(mounts(pid), before, "round {round}");
    }
}

#[test]
fn a_restored_container_is_managed_like_others() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    counter.start(&lab);
    counter.checkpoint(&lab, &[]).ok();
    counter.restore(&lab, &[]).ok();
    let id = counter.id();
    assert_eq!(lab.status(id), "running");
    assert!(lab.microrun(&["list", "-q"]).ok().lines().any(|line| line == id));
    assert_eq!(lab.microrun(&["exec", id, "sh", "-c", "echo $$ && hostname"]).ok().lines().count(), 2);
    // With the container's clocks, which CRIU has set.
    let clocks = lab.microrun(&["exec", id, "readlink", "/proc/self/ns/time"]).ok();
    let of_init = fs::read_link(format!("/proc/{}/ns/time", pid_of(&lab, id))).unwrap();
    assert_eq!(Path::new(&clocks), of_init);

    lab.microrun(&["pause", id]).ok();
    assert_eq!(lab.status(id), "paused");
    let paused_at = counter.count();
    lab.microrun(&["resume", id]).ok();
    counter.counts_on(paused_at);
    assert!(lab.microrun(&["ps", "--format", "json", id]).ok().starts_with('['));
    assert!(lab.microrun(&["events", "--stats", id]).ok().contains("\"type\":\"stats\""));
    lab.microrun(&["kill", id, "KILL"]).ok();
    eventually(|| lab.status(id) == "stopped");
    lab.microrun(&["delete", id]).ok();
    assert_eq!(lab.status(id), "");
}

#[test]
fn a_container_may_be_left_running() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    let pid = counter.start(&lab);
    counter.checkpoint(&lab, &["--leave-running"]).ok();
    counter.counts_on(counter.count());
    assert_eq!(pid_of(&lab, counter.id()), pid);
    assert!(counter.images.join("inventory.img").exists() && counter.images.join("dump.log").exists());
    assert!(counter.images.join("descriptors.json").exists());

    // What was saved is what comes back.
    lab.microrun(&["delete", "--force", counter.id()]).ok();
    let counted = counter.count();
    counter.restore(&lab, &[]).ok();
    eventually(|| counter.count() != counted);
}

#[test]
fn a_paused_container_stays_paused() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    counter.start(&lab);
    lab.microrun(&["pause", counter.id()]).ok();
    counter.checkpoint(&lab, &["--leave-running"]).ok();
    assert_eq!(lab.status(counter.id()), "paused");
    lab.microrun(&["resume", counter.id()]).ok();
    counter.counts_on(counter.count());

    lab.microrun(&["pause", counter.id()]).ok();
    counter.checkpoint(&lab, &[]).ok();
    assert_eq!(lab.status(counter.id()), "");
    counter.restore(&lab, &[]).ok();
    counter.counts_on(counter.count());
}

#[test]
fn memory_is_saved_in_two_rounds() {
    let (lab, _alone) = criu_lab!();
    if criu(&["check", "--feature", "mem_dirty_track"]).code != 0 {
        let counter = Counter::new(&lab, |_| {});
        counter.start(&lab);
        let refused = counter.checkpoint(&lab, &["--pre-dump"]).failed();
        assert!(refused.contains("criu is missing features: MemTrack"), "{refused}");
        counter.counts_on(counter.count());
        skip!("this kernel does not track which pages are written to");
    }
    let counter = Counter::new(&lab, |_| {});
    let pid = counter.start(&lab);
    let parent = counter.bundle.path.join("parent");
    lab.microrun(&["checkpoint", "--pre-dump", "--image-path", parent.to_str().unwrap(), counter.id()]).ok();
    counter.counts_on(counter.count());
    assert_eq!(pid_of(&lab, counter.id()), pid);

    counter.checkpoint(&lab, &["--parent-path", "../parent"]).ok();
    assert!(counter.images.join("parent").exists());
    counter.restore(&lab, &[]).ok();
    counter.counts_on(counter.count());
}

#[test]
fn the_images_of_a_first_round_are_looked_for() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    counter.start(&lab);
    let absolute = counter.checkpoint(&lab, &["--parent-path", "/tmp"]).failed();
    assert!(absolute.contains("--parent-path must be relative"), "{absolute}");
    let missing = counter.checkpoint(&lab, &["--parent-path", "../missing"]).failed();
    assert!(missing.contains("invalid --parent-path: ") && missing.contains("no such file"), "{missing}");
    counter.counts_on(counter.count());
}

#[test]
fn limits_hold_after_a_restore() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |config| {
        config["linux"]["resources"]["pids"] = json!({"limit": 30});
        config["linux"]["resources"]["memory"] = json!({"limit": 96 << 20});
    });
    let limits = |pid: i32| {
        let find = |controller: &str, file: &str, v2: &str| {
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            let path = |line: &str| line.rsplit(':').next().unwrap().trim_start_matches('/').to_owned();
            let v1 = cgroups.lines().find(|line| line.split(':').nth(1) == Some(controller));
            let file = match v1 {
                Some(line) => Path::new("/sys/fs/cgroup").join(controller).join(path(line)).join(file),
                None => Path::new("/sys/fs/cgroup").join(path(cgroups.lines().last().unwrap())).join(v2),
            };
            fs::read_to_string(&file).map(|text| text.trim().to_owned()).unwrap_or_default()
        };
        [find("pids", "pids.max", "pids.max"), find("memory", "memory.limit_in_bytes", "memory.max")]
    };
    let before = limits(counter.start(&lab));
    assert_eq!(before, ["30".to_owned(), (96 << 20).to_string()]);
    counter.checkpoint(&lab, &[]).ok();
    counter.restore(&lab, &[]).ok();
    assert_eq!(limits(pid_of(&lab, counter.id())), before);
    // And devices are denied as before: opening one that is not allowed fails.
    let denied = lab.microrun(&["exec", counter.id(), "sh", "-c", "mknod /count/sda b 8 0 2>&1 || true"]).ok();
    assert!(denied.contains("not permitted"), "{denied}");
    counter.counts_on(counter.count());
}

#[test]
fn it_may_come_back_in_another_cgroup() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    counter.start(&lab);
    counter.checkpoint(&lab, &["--manage-cgroups-mode", "ignore"]).ok();
    let path = counter.bundle.path.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let other = format!("{}-other", config["linux"]["cgroupsPath"].as_str().unwrap());
    config["linux"]["cgroupsPath"] = json!(other);
    fs::write(&path, config.to_string()).unwrap();
    counter.restore(&lab, &["--manage-cgroups-mode", "ignore"]).ok();
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", pid_of(&lab, counter.id()))).unwrap();
    assert!(cgroups.lines().any(|line| line.ends_with(&other)), "{cgroups}");
    counter.counts_on(counter.count());
}

#[test]
fn mounts_from_outside_come_from_outside_again() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |config| {
        for (destination, source) in [("/linked", "one"), ("/linked/for/two", "two"), ("/etc/name", "name")] {
            let mount =
                json!({"destination": destination, "type": "bind", "source": source, "options": ["bind", "ro"]});
            push(&mut config["mounts"], mount);
        }
        config["mounts"].as_array_mut().unwrap().iter_mut().filter(|mount| mount["source"] == "one").for_each(
            |mount| {
                mount["options"] = json!(["bind"]);
            },
        );
    });
    fs::create_dir_all(counter.bundle.rootfs().join("real/place")).unwrap();
    symlink("/real/place", counter.bundle.rootfs().join("linked")).unwrap();
    let path = |name: &str| counter.bundle.path.join(name);
    for name in ["one", "two"] {
        fs::create_dir(path(name)).unwrap();
        fs::write(path(name).join("file"), name).unwrap();
    }
    fs::write(path("name"), "first").unwrap();
    counter.start(&lab);
    counter.checkpoint(&lab, &[]).ok();
    // Places that a start made are made again.
    fs::remove_dir_all(path("one/for")).unwrap();
    fs::write(path("two/file"), "new").unwrap();
    counter.restore(&lab, &[]).ok();
    let see = |file: &str| lab.microrun(&["exec", counter.id(), "cat", file]).ok();
    assert_eq!([see("/linked/file"), see("/linked/for/two/file"), see("/etc/name")], ["one", "new", "first"]);
    let written = lab.microrun(&["exec", counter.id(), "sh", "-c", "echo x >/etc/name"]).failed();
    assert!(written.contains("Read-only"), "{written}");
    let left: Vec<_> = fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(str::to_owned).collect();
    assert!(!left.iter().any(|line| line.contains(counter.id())), "{left:#?}");
}

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
    let mut seen = String::new();
    let mut buffer = [0u8; 256];
    while !seen.contains(expected) {
        let count = terminal.read(&mut buffer).unwrap();
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

#[test]
fn a_dump_that_fails_leaves_the_container_running() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    let (theirs, ours) = UnixStream::pair().unwrap();
    let run = ["run", "--detach", "--bundle", counter.bundle.path.to_str().unwrap(), counter.id()];
    let mut command = lab.command(&run);
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    drop(command);
    eventually(|| counter.count() > 2);
    let pid = pid_of(&lab, counter.id());
    // Its standard input is half of a connection.
    let refused = counter.checkpoint(&lab, &[]).failed();
    assert!(refused.contains("criu failed: type DUMP errno ") && refused.contains("Error ("), "{refused}");
    assert!(refused.contains(&format!("see {}", counter.images.join("dump.log").display())), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
    assert_eq!(lab.status(counter.id()), "running");
    assert_eq!(pid_of(&lab, counter.id()), pid);
    counter.counts_on(counter.count());
    drop(ours);
}

#[test]
fn without_criu_nothing_happens() {
    let lab = lab!();
    let counter = Counter::new(&lab, |_| {});
    counter.start(&lab);
    let without = |args: &[&str]| {
        let mut command = lab.command(args);
        command.env("PATH", "/nonexistent");
        let refused = output_with_path(command).failed();
        assert!(refused.contains("\\\"criu\\\": executable file not found in $PATH: install CRIU"), "{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    };
    let images = counter.images.to_str().unwrap();
    without(&["checkpoint", "--image-path", images, counter.id()]);
    counter.counts_on(counter.count());
    assert!(!counter.images.exists());
    lab.microrun(&["delete", "--force", counter.id()]).ok();
    without(&counter.restore_args(&[]));
    assert!(!lab.path("run").join(counter.id()).exists());
}

/// Runs a command whose PATH is not that of its tools.
fn output_with_path(mut command: Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Output { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

#[test]
fn images_that_are_none_leave_nothing() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    let left = || lab.path("run").join(counter.id()).exists();
    let missing = counter.restore(&lab, &[]).failed();
    assert!(missing.contains("--image-path: read ") && missing.contains("no such file or directory"), "{missing}");
    assert!(!left());

    counter.start(&lab);
    counter.checkpoint(&lab, &[]).ok();
    let inventory = fs::read(counter.images.join("inventory.img")).unwrap();
    let pstree = fs::read(counter.images.join("pstree.img")).unwrap();
    for (name, whole) in [("inventory.img", inventory), ("pstree.img", pstree)] {
        fs::write(counter.images.join(name), &whole[..whole.len() / 2]).unwrap();
        let broken = counter.restore(&lab, &[]).failed();
        assert!(broken.contains("criu failed: type RESTORE errno "), "{broken}");
        assert_eq!(broken.lines().count(), 1, "{broken}");
        assert!(!left());
        fs::write(counter.images.join(name), &whole).unwrap();
    }
    fs::write(counter.images.join("descriptors.json"), "{").unwrap();
    let broken = counter.restore(&lab, &[]).failed();
    assert!(broken.contains("descriptors.json is damaged"), "{broken}");
    fs::write(counter.images.join("descriptors.json"), "[]").unwrap();
    assert!(!left());
    let taken = lab.bundle(|_| {});
    lab.created(&taken);
    let twice = lab
        .microrun(&[
            "restore",
            "--image-path",
            counter.images.to_str().unwrap(),
            "--bundle",
            taken.path.to_str().unwrap(),
            &taken.id,
        ])
        .failed();
    assert!(twice.contains("container with given ID already exists"), "{twice}");
    assert_eq!(lab.status(&taken.id), "created");
}

#[test]
fn only_what_runs_can_be_saved() {
    let lab = lab!();
    let counter = Counter::new(&lab, |_| {});
    let missing = counter.checkpoint(&lab, &[]).failed();
    assert!(missing.contains("container does not exist"), "{missing}");
    lab.created(&counter.bundle);
    let created = counter.checkpoint(&lab, &[]).failed();
    assert!(created.contains("Container cannot be checkpointed in created state"), "{created}");
    lab.microrun(&["kill", counter.id(), "KILL"]).ok();
    eventually(|| lab.status(counter.id()) == "stopped");
    let stopped = counter.checkpoint(&lab, &[]).failed();
    assert!(stopped.contains("Container cannot be checkpointed in stopped state"), "{stopped}");
}

#[test]
fn options_that_are_wrong_are_refused() {
    let lab = lab!();
    let refused = |args: &[&str], why: &str| {
        let said = lab.microrun(args).failed();
        assert!(said.contains(why), "{args:?}: {said}");
    };
    refused(&["checkpoint", "--empty-ns", "pid", "x"], "is not supported");
    refused(&["checkpoint", "--manage-cgroups-mode", "hard", "x"], "soft, full, strict or ignore");
    refused(&["checkpoint", "--page-server", "nowhere", "x"], "ADDRESS:PORT");
    // Podman asks this way whether restores into pods are possible.
    refused(&["restore", "--lsm-mount-context"], "flag needs an argument");
    assert!(lab.microrun(&["checkpoint", "--help"]).ok().contains("--leave-running"));
}

#[test]
fn hooks_are_told() {
    let (lab, _alone) = criu_lab!();
    let told = lab.path("told");
    let hook = |name: &str| {
        let script = format!("echo {name} $(tr , '\\n' | grep status) >>{}", told.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
    };
    let counter = Counter::new(&lab, |config| {
        config["hooks"] = json!({
            "prestart": hook("prestart"), "createRuntime": hook("createRuntime"), "poststop": hook("poststop")
        });
    });
    let heard = || {
        let text = fs::read_to_string(&told).unwrap_or_default();
        let _ = fs::remove_file(&told);
        text.lines()
            .map(|line| line.replace(['"', ':'], " ").split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    counter.start(&lab);
    heard();
    counter.checkpoint(&lab, &[]).ok();
    assert_eq!(heard(), ["poststop status stopped"]);
    counter.restore(&lab, &[]).ok();
    assert_eq!(heard(), ["prestart status created", "createRuntime status created"]);
}

#[test]
fn a_root_in_memory_is_refused() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    counter.start_in_silence(&lab, &["--overlay"]);
    let refused = counter.checkpoint(&lab, &[]).failed();
    assert!(refused.contains("is an overlay in memory"), "{refused}");
    lab.microrun(&["delete", "--force", counter.id()]).ok();

    let directory = lab.path("upper");
    fs::create_dir(&directory).unwrap();
    let overlay = format!("--overlay={}", directory.display());
    counter.start_in_silence(&lab, &[&overlay]);
    counter.checkpoint(&lab, &[]).ok();
    counter.restore_in_silence(&lab, &[&overlay]);
    counter.counts_on(counter.count());
}

#[test]
fn a_user_namespace_is_restored() {
    let (lab, _alone) = criu_lab!();
    if !can_lock_networks() {
        skip!("needs iptables-restore or nftables, with which CRIU locks connections");
    }
    let counter = Counter::new(&lab, |config| {
        for kind in ["user", "network"] {
            push(&mut config["linux"]["namespaces"], json!({"type": kind}));
        }
        for kind in ["uidMappings", "gidMappings"] {
            config["linux"][kind] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        }
    });
    common::host("chown", &["-R", "100000:100000", counter.bundle.path.join("count").to_str().unwrap()]);
    // Its root may write to no file of ours.
    counter.start_in_silence(&lab, &[]);
    counter.checkpoint(&lab, &[]).ok();
    counter.restore_in_silence(&lab, &[]);
    counter.counts_on(counter.count());
    assert_eq!(lab.microrun(&["exec", counter.id(), "id", "-u"]).ok(), "0");
    let map = fs::read_to_string(format!("/proc/{}/uid_map", pid_of(&lab, counter.id()))).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "1000"]);
}

/// A container with a network namespace of its own runs `script`.
fn with_network(lab: &Lab, script: &str) -> Counter {
    Counter::running(lab, script, |config| push(&mut config["linux"]["namespaces"], json!({"type": "network"})))
}

/// Whether CRIU can lock the connections of a network namespace.
fn can_lock_networks() -> bool {
    let iptables = Command::new("iptables-restore").arg("--version").output();
    iptables.is_ok_and(|output| output.status.success())
        || criu(&["check", "--feature", "network_lock_nftables"]).code == 0
}

#[test]
fn a_network_namespace_of_its_own_comes_back_empty() {
    let (lab, _alone) = criu_lab!();
    if !can_lock_networks() {
        skip!("needs iptables-restore or nftables, with which CRIU locks connections");
    }
    let counter = with_network(&lab, COUNT);
    counter.start(&lab);
    counter.checkpoint(&lab, &[]).ok();
    counter.restore(&lab, &[]).ok();
    counter.counts_on(counter.count());
    let loopback = lab.microrun(&["exec", counter.id(), "cat", "/sys/class/net/lo/flags"]).ok();
    assert_eq!(loopback, "0x9", "up, loopback");
}

#[test]
fn tcp_connections_are_kept() {
    let (lab, _alone) = criu_lab!();
    if !can_lock_networks() {
        skip!("needs iptables-restore or nftables, with which CRIU locks connections");
    }
    // Two ends in one container: what one writes comes to the other.
    let script = "sleep 1000 | nc -l -p 7777 >/count/heard & usleep 300000; \
        (while [ ! -e /count/end ]; do echo word; usleep 50000; done) | nc 127.0.0.1 7777; sleep 1000";
    let counter = with_network(&lab, script);
    counter.begin(&lab);
    let heard = || fs::metadata(counter.file("heard")).map_or(0, |metadata| metadata.len());
    eventually(|| heard() > 20);
    let refused = counter.checkpoint(&lab, &[]).failed();
    assert!(refused.contains("tcp-established"), "{refused}");
    let before = heard();
    eventually(|| heard() > before);
    counter.checkpoint(&lab, &["--tcp-established"]).ok();
    let before = heard();
    counter.restore(&lab, &["--tcp-established"]).ok();
    eventually(|| heard() > before + 20);
}

#[test]
fn more_options_of_criu_come_from_a_file() {
    let (lab, _alone) = criu_lab!();
    let file = lab.path("criu.conf");
    fs::write(&file, "log-file=other.log\n").unwrap();
    let counter = Counter::new(&lab, |config| {
        config["annotations"] = json!({"org.criu.config": file.to_str().unwrap()});
    });
    counter.start(&lab);
    let work = counter.bundle.path.join("work");
    counter.checkpoint(&lab, &["--work-path", work.to_str().unwrap()]).ok();
    assert!(work.join("other.log").exists() && !work.join("dump.log").exists());
    assert!(!counter.images.join("dump.log").exists());
}
