//! Killed at any point (kill -9 of the runtime or of init between any two system calls), a container can be listed,
//! looked at and removed, and then nothing of it is left.
//!
//! strace(1) does the killing: its `inject` sends SIGKILL before the Nth call of a name. The calls are counted first,
//! in a start that nobody disturbs.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab, host, output, push};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// About how many points one test tries: all of them take minutes.
fn points() -> usize {
    std::env::var("MICRORUN_CRASH_POINTS").ok().and_then(|points| points.parse().ok()).unwrap_or(25)
}

/// How long the kernel may take to end processes that were killed. It is measured so that nothing waits for a deadline.
const SOON: Duration = Duration::from_secs(8);

/// A laboratory with strace, or the end of the test.
macro_rules! traced_lab {
    () => {{
        if let Err(why) = common::require_strace() {
            skip!("{why}");
        }
        lab!()
    }};
}

/// Limits that need a cgroup in several v1 hierarchies, where there is v1.
fn limit(config: &mut Value) {
    config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    config["linux"]["resources"]["pids"] = json!({"limit": 64});
}

/// One command, to be repeated and killed.
struct Scene<'a> {
    lab: &'a Lab,
    bundle: Bundle,
    verb: &'static str,
}

/// A system call in a trace.
struct Call {
    pid: String,
    name: String,
    /// How many calls of this name its process has made by then.
    number: usize,
    line: String,
}

impl Call {
    /// What makes strace kill the process instead of making this call.
    fn kill(&self) -> String {
        format!("inject={}:signal=KILL:when={}", self.name, self.number)
    }
}

impl<'a> Scene<'a> {
    fn new(lab: &'a Lab, verb: &'static str, program: &str, change: impl FnOnce(&mut Value)) -> Self {
        let bundle = lab.bundle(|config| {
            config["process"]["args"] = json!(["sh", "-c", program]);
            change(config);
        });
        let scene = Self { lab, bundle, verb };
        // The first start makes the cgroup that all others find.
        scene.lab.created(&scene.bundle);
        scene.clean_up("the first start");
        scene
    }

    /// Whether the verb makes the container; others find it created.
    fn makes(&self) -> bool {
        matches!(self.verb, "create" | "run")
    }

    /// Calls the verb under strace; whether strace's process was killed, which means the first traced one was.
    fn under_strace(&self, arguments: &[&str]) -> bool {
        let status = self.spawn_traced(arguments).wait().unwrap();
        assert_ne!(status.code(), Some(124), "{} hangs with {arguments:?}", self.verb);
        status.signal() == Some(libc::SIGKILL) || status.code() == Some(128 + libc::SIGKILL)
    }

    fn spawn_traced(&self, arguments: &[&str]) -> Child {
        let (path, pid_file) = (self.bundle.path.to_str().unwrap(), self.bundle.path.join("pid"));
        let options = ["--bundle", path, "--pid-file", pid_file.to_str().unwrap()];
        let mut args = vec![self.verb];
        if self.makes() {
            args.extend(options);
        } else {
            // Of this hierarchy a start leaves alone what nobody has a cgroup in, so that the update makes it join.
            let _ = fs::remove_dir(Path::new("/sys/fs/cgroup/cpuset").join(self.lab.name()));
            self.lab.create(&self.bundle, &options[2..]).ok();
        }
        args.push(&self.bundle.id);
        match self.verb {
            "delete" => args.push("--force"),
            "update" => args.extend(["--cpuset-cpus", "0"]),
            _ => {}
        }
        let verb = self.lab.command(&args);
        let errors = fs::File::create(self.bundle.path.join("stderr")).unwrap();
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "30", "strace"]).args(arguments).arg(verb.get_program()).args(verb.get_args());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().unwrap()
    }

    /// The calls of an undisturbed verb.
    fn calls(&self, follow: bool) -> Vec<Call> {
        let trace = self.bundle.path.join("trace");
        let mut arguments = vec!["-o", trace.to_str().unwrap()];
        if follow {
            arguments.push("-f");
        }
        let mut traced = self.spawn_traced(&arguments);
        if follow && self.verb == "create" {
            // strace waits for all that it follows.
            common::eventually(|| self.lab.status(&self.bundle.id) == "created");
            self.lab.microrun(&["delete", "--force", &self.bundle.id]).ok();
        }
        traced.wait().unwrap();
        self.lab.microrun(&["delete", "--force", &self.bundle.id]).ok();
        let text = fs::read_to_string(trace).unwrap();
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        let mut calls: Vec<Call> = text.lines().filter_map(|line| parse(line, follow)).collect();
        for call in &mut calls {
            let count = counts.entry((call.pid.clone(), call.name.clone())).or_default();
            *count += 1;
            call.number = *count;
        }
        calls
    }

    /// Looks at what is there and removes it; what is left then.
    fn clean_up(&self, point: &str) {
        let id = self.bundle.id.as_str();
        let started = Instant::now();
        let listed = self.lab.microrun(&["list"]);
        assert_eq!(listed.code, 0, "list, {point}: {listed:?}");
        let state = self.lab.microrun(&["state", id]);
        assert!(state.code <= 1, "state, {point}: {state:?}");
        let deleted = self.lab.microrun(&["delete", "--force", id]);
        assert_eq!(deleted.code, 0, "delete, {point}: {deleted:?}");
        assert!(started.elapsed() < Duration::from_secs(8), "{point}: something waited for a deadline");
        self.assert_nothing_left(point);
    }

    fn assert_nothing_left(&self, point: &str) {
        let started = Instant::now();
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(started.elapsed() < SOON, "left, {point}: {left:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What is there of the container: files, mounts, cgroups, processes.
    fn left(&self) -> Vec<String> {
        let place = self.lab.path("");
        let mut left: Vec<String> = Vec::new();
        let files = |directory: &Path, wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
            let names = fs::read_dir(directory).into_iter().flatten().flatten();
            let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.filter(|name| wanted(name)).map(|name| format!("{}/{name}", directory.display())).collect()
        };
        // The cache of seccomp filters is nobody's in particular.
        let id = self.bundle.id.as_str();
        left.extend(files(&self.lab.path("run"), &|name| name != ".seccomp" && (name == id || name.starts_with('.'))));
        left.extend(files(&self.bundle.path, &|name| name.starts_with('.')));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let place = place.to_str().unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(place)).map(str::to_owned));
        left.extend(self.lab.cgroups_of(&self.bundle).iter().map(|path| path.display().to_string()));
        left.extend(processes_of(place, &self.bundle.id));
        left
    }
}

/// A line of strace's output; `None` for signals and ends of processes.
fn parse(line: &str, follow: bool) -> Option<Call> {
    let (pid, call) = if follow { line.split_once(' ')? } else { ("", line) };
    let (name, _) = call.trim_start().split_once('(')?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then(|| Call { pid: pid.to_owned(), name: name.to_owned(), number: 0, line: line.to_owned() })
}

/// The processes whose command line mentions the laboratory at `place` and the container: the runtime and, until they
/// execute something else, all that it clones.
fn processes_of(place: &str, id: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    let lines = processes.filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (line.contains(place) && line.contains(id))
            .then(|| format!("process {}: {line}", entry.file_name().to_string_lossy()))
    });
    lines.collect()
}

/// As many of `calls` as there is time for.
fn sample<T>(calls: &[T]) -> impl Iterator<Item = &T> {
    calls.iter().step_by(calls.len().div_ceil(points()).max(1))
}

/// Kills the runtime before every call, or as many as there is time for, and cleans up.
fn kill_runtime_everywhere(scene: &Scene<'_>) {
    // What comes before is the loader's, and the same for every program.
    let mark = if scene.makes() { "/config.json" } else { &scene.bundle.id };
    let calls = scene.calls(false);
    let calls = &calls[calls.iter().position(|call| call.line.contains(mark)).unwrap()..];
    let (mut tried, mut fired) = (0, 0);
    for call in sample(calls) {
        tried += 1;
        fired += usize::from(scene.under_strace(&["-o", "/dev/null", "-e", &call.kill()]));
        scene.clean_up(&format!("{} killed before {}", scene.verb, call.line));
    }
    println!("{}: killed before {fired} of {} calls", scene.verb, calls.len());
    // Two starts may differ by a call or two.
    assert!(fired + 3 >= tried, "of {tried} kills only {fired} hit");
}

/// Kills init before calls that only it makes. The runtime then says so, and leaves nothing by itself.
fn kill_init_everywhere(scene: &Scene<'_>) {
    let calls = scene.calls(true);
    let runtime = &calls[0].pid;
    let calls_of = |pid: &String| calls.iter().filter(|call| call.pid == *pid).count();
    let others = calls.iter().map(|call| &call.pid).filter(|pid| *pid != runtime);
    let init = others.max_by_key(|pid| calls_of(pid)).unwrap();
    let of_others: BTreeSet<&str> =
        calls.iter().filter(|call| call.pid != *init).map(|call| call.name.as_str()).collect();
    let own = calls.iter().filter(|call| call.pid == *init);
    let own = own.take_while(|call| !matches!(call.name.as_str(), "signalfd4" | "execve"));
    // A runtime that removes what `start` would have needed looks for mounts too.
    let is_others = |name: &str| of_others.contains(name) || scene.verb == "create" && name == "umount2";
    let own: Vec<&Call> = own.filter(|call| !is_others(&call.name)).collect();
    assert!(own.len() > 40, "init makes more calls than these");
    let mut tried = 0;
    for call in sample(&own) {
        let point = format!("init of {} killed before {}", scene.verb, call.line);
        let killed = scene.under_strace(&["-f", "-o", "/dev/null", "-e", &call.kill()]);
        assert!(!killed, "{point}: the runtime went with it");
        let said = fs::read_to_string(scene.bundle.path.join("stderr")).unwrap();
        tried += 1;
        // Whether init makes its network namespace or joins the helper's is decided by who comes first.
        if call.name != "setns" || !said.is_empty() {
            assert!(said.contains("killed") && said.lines().count() == 1, "{point}: {said}");
            scene.assert_nothing_left(&point);
        }
        scene.clean_up(&point);
    }
    println!("{}: init killed before {tried} of {} calls", scene.verb, own.len());
}

#[test]
fn create_killed_anywhere() {
    let lab = traced_lab!();
    kill_runtime_everywhere(&Scene::new(&lab, "create", "sleep 100", limit));
}

#[test]
fn run_killed_anywhere() {
    let lab = traced_lab!();
    kill_runtime_everywhere(&Scene::new(&lab, "run", "true", |_| {}));
}

#[test]
fn start_killed_anywhere() {
    let lab = traced_lab!();
    kill_runtime_everywhere(&Scene::new(&lab, "start", "sleep 100", |_| {}));
}

#[test]
fn delete_killed_anywhere() {
    let lab = traced_lab!();
    kill_runtime_everywhere(&Scene::new(&lab, "delete", "sleep 100", limit));
}

#[test]
fn update_killed_anywhere() {
    let lab = traced_lab!();
    kill_runtime_everywhere(&Scene::new(&lab, "update", "sleep 100", |_| {}));
}

/// By way of a process between runtime and init, which joins a pid namespace, and of another that holds a user
/// namespace for an id-mapped mount.
#[test]
fn create_with_a_stage_killed_anywhere() {
    let lab = traced_lab!();
    if let Err(why) = common::require_idmap(&lab.path("")) {
        skip!("{why}");
    }
    // The first process of the namespace has to live.
    let holder = lab.started(&lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"])));
    let namespace = format!("/proc/{holder}/ns/pid");
    let scene = Scene::new(&lab, "create", "sleep 100", |config| {
        config["linux"]["namespaces"][0] = json!({"type": "pid", "path": namespace});
        let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        push(
            &mut config["mounts"],
            json!({
                "destination": "/mnt", "source": lab.path("mapped"), "options": ["bind"],
                "uidMappings": mapping, "gidMappings": mapping
            }),
        );
        fs::create_dir(lab.path("mapped")).unwrap();
    });
    kill_runtime_everywhere(&scene);
}

#[test]
fn init_killed_anywhere_in_create() {
    let lab = traced_lab!();
    kill_init_everywhere(&Scene::new(&lab, "create", "sleep 100", limit));
}

#[test]
fn init_killed_anywhere_in_run() {
    let lab = traced_lab!();
    kill_init_everywhere(&Scene::new(&lab, "run", "true", |_| {}));
}

/// One that waits for `start` is killed by who else may be at work.
#[test]
fn init_killed_while_it_waits() {
    let lab = lab!();
    let scene = Scene { lab: &lab, bundle: lab.bundle(|_| {}), verb: "create" };
    let id = scene.bundle.id.as_str();
    let init = lab.created(&scene.bundle);
    host("kill", &["-KILL", &init.to_string()]);
    // It dies in its own time.
    common::eventually(|| lab.status(id) == "stopped");
    let started = lab.microrun(&["start", id]).failed();
    assert!(started.contains("container"), "{started}");
    lab.microrun(&["delete", id]).ok();
    scene.assert_nothing_left("init was killed");
}

/// The command in the foreground removes the container; who else deletes it waits for that.
#[test]
fn delete_of_a_container_in_the_foreground() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sh", "-c", "echo up; sleep 100"]));
    let scene = Scene { lab: &lab, bundle, verb: "run" };
    let id = scene.bundle.id.as_str();
    let mut run = lab.command(&["run", "--bundle", scene.bundle.path.to_str().unwrap(), id]);
    let mut run = run.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    run.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    let before = Instant::now();
    lab.microrun(&["delete", "--force", id]).ok();
    assert!(before.elapsed() < Duration::from_secs(5), "delete waits for a deadline");
    scene.assert_nothing_left("deleted");
    assert_eq!(run.wait().unwrap().code(), Some(137));
}

#[test]
fn a_process_that_cannot_be_looked_at_has_not_ended() {
    let lab = traced_lab!();
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let pid = lab.started(&bundle);
    for verb in ["state", "delete", "exec"] {
        let command = lab.command(&[verb, &bundle.id]);
        let mut traced = Command::new("strace");
        traced.args(["-f", "-qq", "-o"]).arg(lab.path("trace")).args(["-P", &format!("/proc/{pid}/stat")]);
        traced.args(["-e", "inject=open,openat:error=EMFILE"]).arg(command.get_program()).args(command.get_args());
        let error = output(traced).failed();
        assert!(error.contains(&format!("read /proc/{pid}/stat: too many open files")), "{verb}: {error}");
        assert_eq!(lab.status(&bundle.id), "running", "{verb}");
    }
}
