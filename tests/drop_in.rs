//! Calls as engines make them, word for word: containerd's shim, Docker, conmon.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab, Output, eventually, output, receive};
use microrun::cli::parse::{Request, parse};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;
use std::io::{IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An engine that calls its runtime.
struct Engine<'a> {
    lab: &'a Lab,
    program: PathBuf,
    bundle: Bundle,
    /// What `{word}` in a command line stands for.
    words: Vec<(&'static str, String)>,
}

impl<'a> Engine<'a> {
    /// One whose container, in a cgroup of its own, runs `args`.
    fn new(lab: &'a Lab, args: &[&str]) -> Self {
        let bundle = lab.bundle(|config| {
            config["root"]["readonly"] = json!(false);
            config["process"]["args"] = json!(args);
            config["process"]["env"] = json!(["PATH=/bin", "A=b"]);
        });
        let process = json!({
            "args": ["sh", "-c", "echo $A >/tmp/exec"], "cwd": "/", "env": ["PATH=/bin", "A=c"], "user": {"uid": 0, "gid": 0}
        });
        fs::write(lab.path("process.json"), process.to_string()).unwrap();
        let mut engine = Self { lab, program: lab.path("microrun"), bundle, words: Vec::new() };
        for (word, value) in [
            ("root", lab.path("run")),
            ("log", lab.path("log.json")),
            ("bundle", engine.bundle.path.clone()),
            ("pid", lab.path("pid")),
            ("exec-pid", lab.path("exec-pid")),
            ("process", lab.path("process.json")),
            ("id", engine.bundle.id.clone().into()),
        ] {
            engine.words.push((word, value.to_str().unwrap().to_owned()));
        }
        engine
    }

    /// The command of a line, whose words are set apart by spaces.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.split(line)).current_dir("/").env_remove("NOTIFY_SOCKET");
        command
    }

    fn split(&self, line: &str) -> Vec<String> {
        let fill = |word: &str| {
            self.words.iter().fold(word.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
        };
        line.split_whitespace().map(fill).collect()
    }

    /// Calls the runtime; stdin is at its end, and the container gets files for stdout and stderr.
    fn call(&self, line: &str) -> Output {
        let mut command = self.command(line);
        let (out, err) = (self.lab.path("out"), self.lab.path("err"));
        command.stdin(Stdio::null());
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let code = command.status().unwrap().code().unwrap();
        let text = |path: &Path| fs::read_to_string(path).unwrap().trim().to_owned();
        Output { code, stdout: text(&out), stderr: text(&err) }
    }

    /// Calls the runtime with `input` on its stdin.
    fn call_with_input(&self, line: &str, input: &str) -> Output {
        let mut child = self.command(line).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let code = child.wait().unwrap().code().unwrap();
        Output { code, stdout: String::new(), stderr: String::new() }
    }

    fn status(&self) -> String {
        self.lab.status(&self.bundle.id)
    }

    /// What a program in the container says.
    fn inside(&self, program: &[&str]) -> String {
        let mut args = vec!["exec", self.bundle.id.as_str()];
        args.extend(program);
        self.lab.microrun(&args).stdout
    }

    /// The pid in a pid file.
    fn pid(&self, name: &str) -> i32 {
        fs::read_to_string(self.lab.path(name)).unwrap().parse().unwrap()
    }

    /// The last error in the log, read as containerd reads it: all of the file is a stream of JSON.
    fn last_error(&self) -> String {
        let log = fs::read_to_string(self.lab.path("log.json")).unwrap();
        let mut last = String::new();
        for line in serde_json::Deserializer::from_str(&log).into_iter::<Value>() {
            let line = line.unwrap();
            let time = line["time"].as_str().unwrap();
            assert!(time.len() >= 20 && time.as_bytes()[10] == b'T' && time.ends_with('Z'), "{time}");
            if line["level"] == "error" {
                last = line["msg"].as_str().unwrap().to_owned();
            }
        }
        last
    }

    /// Binds a console socket, calls the runtime, and returns what came over the socket.
    fn call_with_terminal(&self, line: &str) -> OwnedFd {
        let path = self.lab.path("console.sock");
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::scope(|scope| {
            let received = scope.spawn(|| receive(&listener));
            self.call(&format!("{line} {}", self.bundle.id).replace("{socket}", path.to_str().unwrap())).ok();
            received.join().unwrap()
        })
    }
}

const SLEEP: &[&str] = &["sleep", "1000"];

/// What containerd's shims, 1.6 to 2.4, begin each call with.
const SHIM: &str = "--root {root} --log {log} --log-format json";

#[test]
fn containerds_calls() {
    let lab = lab!();
    let engine = Engine::new(&lab, SLEEP);
    let call = |line: &str| engine.call(&format!("{SHIM} {line}"));
    call("create --bundle {bundle} --pid-file {pid} {id}").ok();
    assert_eq!(engine.status(), "created");
    call("start {id}").ok();
    assert_eq!(engine.status(), "running");
    call("exec --process {process} --detach --pid-file {exec-pid} {id}").ok();
    assert!(engine.pid("exec-pid") > 0);
    eventually(|| engine.inside(&["cat", "/tmp/exec"]) == "c");
    let pids: Vec<i32> = serde_json::from_str(&call("ps --format json {id}").ok()).unwrap();
    assert!(pids.contains(&engine.pid("pid")));
    call("pause {id}").ok();
    assert_eq!(engine.status(), "paused");
    call("resume {id}").ok();
    for (words, limit) in [("--resources=- {id}", 33), ("--resources - {id}", 34)] {
        let resources = json!({"pids": {"limit": limit}}).to_string();
        engine.call_with_input(&format!("{SHIM} update {words}"), &resources).ok();
        let stats: Value = serde_json::from_str(&call("events --stats {id}").ok()).unwrap();
        assert_eq!(stats["data"]["pids"]["limit"], limit);
    }
    call("kill {id} 0").ok();
    call("kill --all {id} 9").ok();
    eventually(|| engine.status() == "stopped");
    call("delete {id}").ok();
    call("delete --force {id}").ok();
    assert_eq!(engine.status(), "");
    assert_eq!(engine.last_error(), "", "nothing failed");
}

#[test]
fn containerds_calls_for_a_terminal() {
    let lab = lab!();
    let engine = Engine::new(&lab, SLEEP);
    let config = engine.bundle.path.join("config.json");
    let mut document: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    document["process"]["terminal"] = json!(true);
    fs::write(&config, document.to_string()).unwrap();
    let create = "create --bundle {bundle} --pid-file {pid} --console-socket {socket}";
    let terminal = engine.call_with_terminal(&format!("{SHIM} {create}"));
    assert!(terminal.is_terminal());
    engine.call(&format!("{SHIM} start {{id}}")).ok();

    let file = lab.path("process.json");
    let mut process: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    process["terminal"] = json!(true);
    fs::write(&file, process.to_string()).unwrap();
    let exec = "exec --process {process} --console-socket {socket} --detach --pid-file {exec-pid}";
    assert!(engine.call_with_terminal(&format!("{SHIM} {exec}")).is_terminal());
}

#[test]
fn containerds_options() {
    let lab = lab!();
    let engine = Engine::new(&lab, SLEEP);
    let options = "--no-pivot --no-new-keyring";
    engine.call(&format!("{SHIM} create --bundle {{bundle}} --pid-file {{pid}} {options} {{id}}")).ok();
    engine.call("--root {root} --debug --log {log} --log-format json --rootless=false start {id}").ok();
    assert_eq!(engine.status(), "running");
    // With an action of its own for each call, the log has what was done, and each line can be read.
    assert_eq!(engine.last_error(), "");
    engine.call("--root {root} --log {log} --log-format json delete --force {id}").ok();
}

#[test]
fn dockers_calls() {
    let lab = lab!();
    let engine = Engine::new(&lab, SLEEP);
    let shim = "--root {root}/runtime-runc/moby --log {log} --log-format json";
    let call = |line: &str| engine.call(&format!("{shim} {line}"));
    call("create --bundle {bundle} --pid-file {pid} {id}").ok();
    call("start {id}").ok();
    let resources =
        json!({"memory": {"limit": 50_003_968}, "cpu": {"quota": 0, "period": 0}, "blockIO": {}}).to_string();
    engine.call_with_input(&format!("{shim} update --resources - {{id}}"), &resources).ok();
    call("kill {id} 15").ok();
    call("kill {id} 9").ok();
    let stopped = || call("state {id}").ok().contains("\"stopped\"");
    eventually(stopped);
    // What comes too late is told in words that the shim takes for "not found".
    call("kill {id} 9").failed();
    assert!(engine.last_error().contains("container not running"), "{}", engine.last_error());
    call("delete {id}").ok();
    call("kill {id} 9").failed();
    assert!(engine.last_error().contains("does not exist"), "{}", engine.last_error());
}

#[test]
fn conmons_calls() {
    let lab = lab!();
    let engine = Engine::new(&lab, SLEEP);
    let global = "--log-format=json --log {log} --root {root}";
    let call = |line: &str| engine.call(&format!("{global} {line}"));
    call("create --bundle {bundle} --pid-file {pid} {id}").ok();
    engine.call("--debug --root {root} start {id}").ok();
    call("exec --pid-file {exec-pid} --process {process} --detach {id}").ok();
    eventually(|| engine.inside(&["cat", "/tmp/exec"]) == "c");
    let resources = lab.path("resources.json");
    fs::write(&resources, json!({"pids": {"limit": 44}}).to_string()).unwrap();
    call(&format!("update --resources={} {{id}}", resources.display())).ok();
    call("pause {id}").ok();
    call("resume {id}").ok();
    call("kill {id} 9").ok();
    eventually(|| engine.status() == "stopped");
    call("delete --force {id}").ok();
    assert_eq!(engine.last_error(), "");
}

#[test]
fn descriptors_are_preserved_as_conmon_asks() {
    let lab = lab!();
    let engine = Engine::new(&lab, &["sh", "-c", "cat <&3; cat <&4"]);
    let (first, second) = (lab.path("first"), lab.path("second"));
    fs::write(&first, "one\n").unwrap();
    fs::write(&second, "two\n").unwrap();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("exec \"$@\" 3<\"$FIRST\" 4<\"$SECOND\"").arg("sh").arg(&engine.program);
    shell.args(engine.split("--root {root} run --bundle {bundle} --preserve-fds 2 {id}"));
    shell.env("FIRST", first).env("SECOND", second);
    assert_eq!(output(shell).ok(), "one\ntwo");
}

/// Who installs it by a link sees the name of the link in its errors.
#[test]
fn by_the_name_runc() {
    let lab = lab!();
    let mut engine = Engine::new(&lab, &["/no/such"]);
    let link = lab.path("runc");
    symlink(&engine.program, &link).unwrap();
    engine.program = link;
    assert!(engine.call("--version").ok().starts_with("runc version "));
    engine.call(&format!("{SHIM} create --bundle {{bundle}} --pid-file {{pid}} {{id}}")).failed();
    let error = engine.last_error();
    assert!(error.starts_with("runc create failed: unable to start container process: "), "{error}");
}

/// Words that Docker makes exit codes of, and that containerd and Podman show: daemon/errors.go of moby.
#[test]
fn the_last_error_is_what_engines_look_for() {
    let lab = lab!();
    for (program, words) in [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("/no/such", "exec: \"/no/such\": stat /no/such: no such file or directory"),
        ("/mnt/file", "exec: \"/mnt/file\": permission denied"),
        ("/mnt", "exec: \"/mnt\": is a directory: permission denied"),
    ] {
        let engine = Engine::new(&lab, &[program]);
        let said = engine.call(&format!("{SHIM} create --bundle {{bundle}} --pid-file {{pid}} {{id}}")).failed();
        let error = engine.last_error();
        assert!(error.ends_with(words), "{program}: {error}");
        assert!(error.starts_with("microrun create failed: unable to start container process: "), "{error}");
        assert_eq!(said, error, "stderr has it in plain words");
        assert_eq!(error.lines().count(), 1, "{error}");
        fs::remove_file(lab.path("log.json")).unwrap();
        assert_eq!(engine.status(), "");
    }
    // It is refused as soon as config.json is read.
    let engine = Engine::new(&lab, &[""]);
    engine.call(&format!("{SHIM} create --bundle {{bundle}} --pid-file {{pid}} {{id}}")).failed();
    assert_eq!(engine.last_error(), "exec: \"\": executable file not found in $PATH");
    let engine = Engine::new(&lab, SLEEP);
    engine.call(&format!("{SHIM} create --bundle {{bundle}} --pid-file {{pid}} {{id}}")).ok();
    engine.call(&format!("{SHIM} start {{id}}")).ok();
    for (program, words) in [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("/no/such", "exec: \"/no/such\": stat /no/such: no such file or directory"),
        ("/mnt/file", "exec: \"/mnt/file\": permission denied"),
    ] {
        let process = json!({"args": [program], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
        fs::write(lab.path("process.json"), process.to_string()).unwrap();
        engine.call(&format!("{SHIM} exec --process {{process}} --detach --pid-file {{exec-pid}} {{id}}")).failed();
        let error = engine.last_error();
        assert!(error.ends_with(words), "{program}: {error}");
        assert!(error.starts_with("exec failed: unable to start container process: "), "{error}");
    }
}

/// Every line that engines send means the same with each of its options in any place where an option may stand.
#[test]
fn options_in_any_position() {
    let lines = [
        "--root R --log F --log-format json create --bundle B --pid-file P --console-socket S ID",
        "--root R --log F --log-format json create --bundle B --pid-file P --no-pivot --no-new-keyring --preserve-fds 2 ID",
        "--root R --log F --log-format json --systemd-cgroup create --bundle B --pid-file P --pidfd-socket D ID",
        "--root R --log F --log-format json start ID",
        "--root R --log F --log-format json delete ID",
        "--root R --log F --log-format json delete --force ID",
        "--root R --log F --log-format json kill ID 9",
        "--root R --log F --log-format json kill --all ID 9",
        "--root R --log F --log-format json pause ID",
        "--root R --log F --log-format json resume ID",
        "--root R --log F --log-format json ps --format json ID",
        "--root R --log F --log-format json update --resources=- ID",
        "--root R --log F --log-format json update --resources - ID",
        "--root R --debug --log F --log-format json --rootless=false state ID",
        "--debug --log-format=json --log F create --bundle B --pid-file P ID",
        "--root R events --stats ID",
        "--root R events --interval=5s ID",
        "--root R list --format=json",
        "--root R --log F --log-format json checkpoint --image-path I --work-path W --leave-running ID",
        "--root R --log F --log-format json checkpoint --image-path I --work-path W --parent-path Q --tcp-established ID",
        "--root R --log F --log-format json checkpoint --image-path I --ext-unix-sk --shell-job --file-locks ID",
        "--root R --log F --log-format json checkpoint --image-path I --manage-cgroups-mode soft --empty-ns network ID",
        "--root R checkpoint --image-path I --page-server A:1 --lazy-pages --status-fd 3 --pre-dump ID",
        "--root R --log F --log-format json restore --image-path I --work-path W --detach --pid-file P --bundle B ID",
        "--root R restore --image-path I --console-socket S --no-pivot -no-subreaper --bundle B ID",
    ];
    for line in lines {
        let parts = parts(line);
        let meaning = meaning(parts.concat());
        for from in 0..parts.len() {
            for to in 0..parts.len() {
                let mut moved = parts.clone();
                let part = moved.remove(from);
                // Operands keep their order, nothing of a verb's stands before the verb, and what follows ps's id is for ps(1).
                if !part[0].starts_with('-') {
                    continue;
                }
                let early = !is_global(&part[0]) && to <= verb_index(&moved);
                let late = to == moved.len() && line.contains(" ps ");
                if early || late {
                    continue;
                }
                moved.insert(to, part);
                assert_eq!(self::meaning(moved.concat()), meaning, "{}", moved.concat().join(" "));
            }
        }
    }
}

/// Podman calls these to find out whether it may checkpoint; it looks at the exit code.
#[test]
fn probes_for_checkpoints() {
    for line in [["checkpoint", "--help"], ["restore", "--help"]] {
        let mut command = Command::new(common::program());
        command.args(line);
        output(command).ok();
    }
}

/// The words of a line, an option together with its value.
fn parts(line: &str) -> Vec<Vec<String>> {
    const SWITCHES: &[&str] = &[
        "--debug",
        "--systemd-cgroup",
        "--no-pivot",
        "--no-new-keyring",
        "--force",
        "--all",
        "--stats",
        "--leave-running",
        "--tcp-established",
        "--ext-unix-sk",
        "--shell-job",
        "--file-locks",
        "--lazy-pages",
        "--pre-dump",
        "--detach",
    ];
    let mut words = line.split(' ').map(str::to_owned).peekable();
    let mut parts = Vec::new();
    while let Some(word) = words.next() {
        let has_value = word.starts_with("--") && !word.contains('=') && !SWITCHES.contains(&word.as_str());
        let value = if has_value { words.next() } else { None };
        parts.push([Some(word), value].into_iter().flatten().collect());
    }
    parts
}

fn is_global(option: &str) -> bool {
    let name = option.split('=').next().unwrap();
    matches!(name, "--root" | "--log" | "--log-format" | "--debug" | "--systemd-cgroup" | "--rootless")
}

fn verb_index(parts: &[Vec<String>]) -> usize {
    parts.iter().position(|part| !part[0].starts_with('-')).unwrap()
}

/// What a line asks for: its verb, its operands and the values of all its options.
fn meaning(words: Vec<String>) -> String {
    let (globals, request) = parse(words.iter().map(OsString::from));
    let Ok(Request::Call(verb, own)) = request else { panic!("{words:?}: {request:?}") };
    let values = |words: &microrun::cli::parse::Words, flags: &'static [microrun::cli::grammar::Flag]| {
        let value = |flag: &microrun::cli::grammar::Flag| {
            let value = words.value(flag.long).unwrap_or_default();
            format!("{}={value:?}:{}", flag.long, words.has(flag.long))
        };
        flags.iter().map(value).collect::<Vec<_>>()
    };
    let (all, given) = (values(&globals, microrun::cli::global::FLAGS), values(&own, verb.flags));
    format!("{} {all:?} {given:?} {:?}", verb.name, own.operands())
}

/// What engines decide by: containerd (core/runtime/v2, internal/cri), moby (daemon/daemon_linux.go), Podman.
#[test]
fn features_tell_what_engines_ask() {
    let mut command = Command::new(common::program());
    command.arg("features");
    let document: Value = serde_json::from_str(&output(command).ok()).unwrap();
    let list = |path: &str| -> Vec<&str> {
        document.pointer(path).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    };
    for (path, wanted) in [
        ("/mountOptions", &["rro", "idmap", "ridmap", "rbind", "rprivate", "nosymfollow", "tmpcopyup"][..]),
        ("/hooks", &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]),
        ("/linux/namespaces", &["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"]),
        ("/linux/capabilities", &["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"]),
        ("/linux/seccomp/actions", &["SCMP_ACT_ERRNO", "SCMP_ACT_NOTIFY", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG"]),
        ("/linux/seccomp/operators", &["SCMP_CMP_MASKED_EQ", "SCMP_CMP_EQ"]),
        (
            "/linux/seccomp/knownFlags",
            &[
                "SECCOMP_FILTER_FLAG_TSYNC",
                "SECCOMP_FILTER_FLAG_LOG",
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
            ],
        ),
        ("/linux/seccomp/supportedFlags", &["SECCOMP_FILTER_FLAG_LOG"]),
    ] {
        let listed = list(path);
        assert!(wanted.iter().all(|name| listed.contains(name)), "{path}: {listed:?}");
    }
    for path in [
        "/linux/mountExtensions/idmap/enabled",
        "/linux/seccomp/enabled",
        "/linux/apparmor/enabled",
        "/linux/selinux/enabled",
        "/linux/cgroup/v1",
        "/linux/cgroup/v2",
        "/linux/cgroup/systemd",
        "/linux/intelRdt/enabled",
        "/linux/netDevices/enabled",
    ] {
        assert_eq!(document.pointer(path), Some(&json!(true)), "{path}");
    }
    assert_eq!(document["ociVersionMin"], "1.0.0");
    assert_eq!(document["annotations"]["org.opencontainers.runc.checkpoint.enabled"], "true");
}
