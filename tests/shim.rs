//! containerd's shim without containerd: a client that speaks ttrpc, and a pool that lends the shim network namespaces.
//!
//! What containerd itself does with it is tested in tests/engines.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::pool::Pool;
use common::{BUSYBOX, Bundle, Guard, Lab, eventually, executable, host, limit};
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const NAMESPACE: &str = "test";

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// runtimeoptions.v1.Options
#[derive(Clone, PartialEq, Message)]
struct RuntimeOptions {
    #[prost(bytes = "vec", tag = "3")]
    config_body: Vec<u8>,
}

/// containerd.runtime.bootstrap.v1.BootstrapParams
#[derive(Clone, PartialEq, Message)]
struct BootstrapParams {
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "9")]
    socket_dir: String,
}

#[derive(Clone, PartialEq, Message)]
struct CreateTaskRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    bundle: String,
    #[prost(bool, tag = "4")]
    terminal: bool,
    #[prost(string, tag = "6")]
    stdout: String,
    #[prost(message, optional, tag = "10")]
    options: Option<Any>,
}

/// Connect, Start, Wait, Delete, Shutdown; and with a signal, Kill
#[derive(Clone, PartialEq, Message)]
struct ProcessRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    exec_id: String,
    #[prost(uint32, tag = "3")]
    signal: u32,
}

impl ProcessRequest {
    fn of(bundle: &Bundle) -> Self {
        Self { id: bundle.id.clone(), ..Self::default() }
    }
}

#[derive(Clone, PartialEq, Message)]
struct ExecProcessRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    exec_id: String,
    #[prost(bool, tag = "3")]
    terminal: bool,
    #[prost(string, tag = "5")]
    stdout: String,
    #[prost(message, optional, tag = "7")]
    spec: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct ResizePtyRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    exec_id: String,
    #[prost(uint32, tag = "3")]
    width: u32,
    #[prost(uint32, tag = "4")]
    height: u32,
}

#[derive(Clone, PartialEq, Message)]
struct UpdateTaskRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    resources: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct DeleteResponse {
    #[prost(uint32, tag = "2")]
    exit_status: u32,
}

/// The answers to Connect, Create, Start and Wait
#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(uint32, tag = "1")]
    number: u32,
}

/// containerd.types.RuntimeInfo
#[derive(Clone, PartialEq, Message)]
struct RuntimeInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "3")]
    options: Option<Any>,
    #[prost(message, optional, tag = "4")]
    features: Option<Any>,
}

/// ttrpc's, of which the answer has the two fields that there are
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// Codes of refusals (google.rpc.Code): they say what containerd does next.
const UNKNOWN: i32 = 2;
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const ALREADY_EXISTS: i32 = 6;
const FAILED_PRECONDITION: i32 = 9;
const UNIMPLEMENTED: i32 = 12;

/// A shim, of one container or more. One that was not [ended](Shim::end) is killed, and its containers are removed: it is in
/// a session of its own, and they are recorded where the laboratory does not look.
struct Shim {
    /// Its process; none once it has ended.
    pid: Option<i32>,
    socket: UnixStream,
    /// Where it listens.
    path: PathBuf,
    next: u32,
    /// Those that came before they were waited for.
    answers: HashMap<u32, Response>,
    /// Where its containers are recorded.
    root: PathBuf,
    /// Lines of the file that `ctr run --runtime-config-path` would name.
    options: String,
    /// The command line that knows its containers.
    microrun: PathBuf,
}

/// The program under test: `$MICRORUN_SHIM`, or what cargo has just built.
fn program() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_containerd-shim-microrun-v1");
    std::env::var_os("MICRORUN_SHIM").map_or_else(|| built.into(), PathBuf::from)
}

impl Shim {
    /// The shim of `bundle`, which looks for a pool at `pool`, or where the line in `options` says.
    #[track_caller]
    fn start(lab: &Lab, bundle: &Bundle, pool: &Path, options: &str) -> Self {
        Self::start_by(lab, bundle, pool, options, &[], Path::new("/bin/true"))
    }

    /// As [`Shim::start`], executed by the command `by`. Events are published by `publisher`.
    #[track_caller]
    fn start_by(lab: &Lab, bundle: &Bundle, pool: &Path, options: &str, by: &[&str], publisher: &Path) -> Self {
        let sockets = lab.path("s");
        let params = BootstrapParams { namespace: NAMESPACE.into(), socket_dir: sockets.to_str().unwrap().into() };
        let program = program();
        let mut words = by.iter().map(|word| word.as_ref()).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(["-namespace", NAMESPACE, "-address", "/none.sock", "-publish-binary"]);
        command.arg(publisher).args(["-id", &bundle.id, "start"]);
        let mut command = lab.in_own_cgroup(&command);
        command.current_dir(&bundle.path).env("MICRORUN_POOL", pool).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut starting = command.spawn().unwrap();
        starting.stdin.take().unwrap().write_all(&params.encode_to_vec()).unwrap();
        let told = starting.wait_with_output().unwrap();
        assert!(told.status.success(), "{told:?}");
        let address = String::from_utf8(told.stdout).unwrap();
        let path = PathBuf::from(address.strip_prefix("unix://").unwrap());
        let socket = UnixStream::connect(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let root = lab.path("shim");
        let options = format!("Root = \"{}\"\n{options}\n", root.display());
        let microrun = lab.path("microrun");
        let mut shim = Self { pid: None, socket, path, next: 1, answers: HashMap::new(), root, options, microrun };
        shim.pid = Some(shim.call("Connect", &ProcessRequest::of(bundle)).cast_signed());
        shim
    }

    /// Calls a method; the number that is the answer's first field.
    #[track_caller]
    fn call(&mut self, method: &str, message: &impl Message) -> u32 {
        let asked = self.ask(method, message);
        let answer = self.answer(asked);
        assert!(answer.is_ok(), "{method}: {answer:?}");
        answer.unwrap()
    }

    /// Calls a method that is refused with `code`; why.
    #[track_caller]
    fn refused(&mut self, method: &str, message: &impl Message, code: i32) -> String {
        let asked = self.ask(method, message);
        self.refusal(asked, code)
    }

    /// The answer to [`Shim::ask`], which is a refusal with `code`: why.
    #[track_caller]
    fn refusal(&mut self, asked: u32, code: i32) -> String {
        let status = self.answer(asked).unwrap_err();
        assert_eq!(status.code, code, "{status:?}");
        status.message
    }

    /// Calls a method, and does not wait for the answer to what is returned.
    #[track_caller]
    fn ask(&mut self, method: &str, message: &impl Message) -> u32 {
        let payload = message.encode_to_vec();
        let request = Request { service: "containerd.task.v2.Task".into(), method: method.into(), payload };
        let data = request.encode_to_vec();
        let mut frame = (data.len() as u32).to_be_bytes().to_vec();
        let stream = self.next;
        frame.extend(stream.to_be_bytes());
        frame.extend([1, 0]);
        self.next += 2;
        self.socket.write_all(&[frame, data].concat()).unwrap();
        stream
    }

    /// The answer to [`Shim::ask`]: the number that is its first field, or why it is none.
    #[track_caller]
    fn answer(&mut self, asked: u32) -> Result<u32, Status> {
        while !self.answers.contains_key(&asked) {
            let mut header = [0; 10];
            self.socket.read_exact(&mut header).unwrap();
            let (length, rest) = header.split_first_chunk().unwrap();
            let mut data = vec![0; u32::from_be_bytes(*length) as usize];
            self.socket.read_exact(&mut data).unwrap();
            let stream = u32::from_be_bytes(*rest.first_chunk().unwrap());
            self.answers.insert(stream, Response::decode(&*data).unwrap());
        }
        let answer = self.answers.remove(&asked).unwrap();
        match answer.status {
            Some(status) if status.code != 0 => Err(status),
            _ => Ok(Number::decode(&*answer.payload).map_or(0, |answer| answer.number)),
        }
    }

    /// Adds an exec of `process` to a container; what names it.
    #[track_caller]
    fn exec(&mut self, bundle: &Bundle, exec_id: &str, process: &Value, io: ExecProcessRequest) -> ProcessRequest {
        let (id, exec_id) = (bundle.id.clone(), exec_id.to_owned());
        let value = process.to_string().into_bytes();
        let spec = Some(Any { type_url: "types.containerd.io/x/Process".into(), value });
        self.call("Exec", &ExecProcessRequest { id, exec_id: exec_id.clone(), spec, ..io });
        ProcessRequest { exec_id, ..ProcessRequest::of(bundle) }
    }

    /// What Create takes for a container without stdio.
    fn request(&self, bundle: &Bundle) -> CreateTaskRequest {
        let options = RuntimeOptions { config_body: self.options.clone().into_bytes() }.encode_to_vec();
        let options = Some(Any { type_url: "runtimeoptions.v1.Options".into(), value: options });
        let (id, bundle) = (bundle.id.clone(), bundle.path.to_str().unwrap().to_owned());
        CreateTaskRequest { id, bundle, options, ..Default::default() }
    }

    /// Creates and starts a container; its init.
    #[track_caller]
    fn start_task(&mut self, request: CreateTaskRequest) -> u32 {
        let pid = self.call("Create", &request);
        assert_eq!(self.call("Start", &ProcessRequest { id: request.id, ..Default::default() }), pid);
        pid
    }

    /// Creates and starts a container; its network namespace, and how long that took.
    #[track_caller]
    fn run(&mut self, bundle: &Bundle) -> (String, Duration) {
        let begun = Instant::now();
        let pid = self.start_task(self.request(bundle));
        let time = begun.elapsed();
        let network = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap().display().to_string();
        let own = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
        assert_ne!(network, own);
        let lo = host("nsenter", &["-n", "-t", &pid.to_string(), BUSYBOX, "ip", "link", "show", "lo"]);
        assert!(lo.contains("LOOPBACK,UP"), "{lo}");
        (network, time)
    }

    /// Ends and removes a container.
    #[track_caller]
    fn delete(&mut self, bundle: &Bundle) {
        let process = ProcessRequest::of(bundle);
        self.call("Kill", &ProcessRequest { signal: 9, ..process.clone() });
        assert_eq!(self.call("Wait", &process), 137);
        self.call("Delete", &process);
    }

    /// Ends the shim, which has no container any more.
    #[track_caller]
    fn end(mut self, bundle: &Bundle) {
        self.call("Shutdown", &ProcessRequest::of(bundle));
        assert_eq!(self.socket.read(&mut [0]).unwrap_or(0), 0);
        self.pid = None;
        let left = fs::read_dir(self.root.join(NAMESPACE)).map_or(0, |entries| entries.flatten().count());
        assert_eq!(left, 0, "{}", self.root.display());
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let Some(pid) = self.pid else { return };
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_alive(pid) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let microrun = |args: &[&str]| {
            let mut command = Command::new(&self.microrun);
            command.arg("--root").arg(self.root.join(NAMESPACE)).args(args).output()
        };
        let listed = microrun(&["list", "-q"]).map(|told| told.stdout).unwrap_or_default();
        for id in String::from_utf8_lossy(&listed).lines() {
            let _ = microrun(&["delete", "--force", id]);
        }
    }
}

/// Whether a process is there, and has not ended.
fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn sleeper(lab: &Lab) -> Bundle {
    lab.sleeping(|_| {})
}

/// The process of a container, for an exec of `args`.
fn process_of(bundle: &Bundle, args: &[&str]) -> Value {
    let config: Value = serde_json::from_slice(&fs::read(bundle.path.join("config.json")).unwrap()).unwrap();
    let mut process = config["process"].clone();
    process["args"] = json!(args);
    process
}

/// How long a container may take that no pool holds up, on a slow machine.
const PROMPT: Duration = Duration::from_secs(20);

/// One container of a shim of its own; its network namespace.
#[track_caller]
fn network_of_one(lab: &Lab, pool: &Path, options: &str) -> String {
    let bundle = sleeper(lab);
    let mut shim = Shim::start(lab, &bundle, pool, options);
    let (network, time) = shim.run(&bundle);
    assert!(time < PROMPT, "{time:?}");
    shim.delete(&bundle);
    shim.end(&bundle);
    network
}

#[test]
fn a_container_is_created_run_and_deleted_without_a_pool() {
    let lab = lab!();
    network_of_one(&lab, &lab.path("none/socket"), "");
}

/// A test that fails leaves neither a shim nor a container.
#[test]
fn a_shim_that_is_not_ended_goes_with_its_containers() {
    let lab = lab!();
    let [first, second] = [sleeper(&lab), sleeper(&lab)];
    let mut shim = Shim::start(&lab, &first, Path::new("off"), "");
    let running = shim.start_task(shim.request(&first)).cast_signed();
    let created = shim.call("Create", &shim.request(&second)).cast_signed();
    let (pid, root) = (shim.pid.unwrap(), shim.root.join(NAMESPACE));
    assert!([pid, running, created].into_iter().all(is_alive));
    drop(shim);
    assert!(![pid, running, created].into_iter().any(is_alive));
    assert_eq!(fs::read_dir(root).unwrap().flatten().count(), 0);
    assert!([first, second].iter().all(|bundle| lab.cgroups_of(bundle).is_empty()));
}

/// containerd looks at the codes of refusals, and never at the words.
#[test]
fn refusals_have_the_codes_that_containerd_looks_for() {
    let lab = lab!();
    let bundle = sleeper(&lab);
    let mut shim = Shim::start(&lab, &bundle, Path::new("off"), "");
    let process = ProcessRequest::of(&bundle);
    for method in ["State", "Wait", "Kill", "Delete", "Start", "Pids", "Stats"] {
        shim.refused(method, &process, NOT_FOUND);
    }
    shim.refused("Nonsense", &process, UNIMPLEMENTED);
    let wrong = RuntimeOptions { config_body: b"Group = 'all'".into() }.encode_to_vec();
    let options = Some(Any { type_url: "runtimeoptions.v1.Options".into(), value: wrong });
    shim.refused("Create", &CreateTaskRequest { options, ..shim.request(&bundle) }, INVALID_ARGUMENT);
    shim.start_task(shim.request(&bundle));
    shim.refused("Create", &shim.request(&bundle), ALREADY_EXISTS);
    shim.refused("Start", &process, FAILED_PRECONDITION);
    shim.refused("Resume", &process, FAILED_PRECONDITION);
    shim.refused("Delete", &process, FAILED_PRECONDITION);
    let exec = shim.exec(&bundle, "e", &process_of(&bundle, &["/none"]), ExecProcessRequest::default());
    shim.refused("Start", &exec, UNKNOWN);
    shim.call("Delete", &exec);
    let init = ProcessRequest { signal: 9, ..process.clone() };
    shim.call("Kill", &init);
    assert_eq!(shim.call("Wait", &process), 137);
    shim.refused("Kill", &init, NOT_FOUND);
    shim.call("Delete", &process);
    shim.refused("Delete", &process, NOT_FOUND);
    shim.end(&bundle);
}

/// The first one does not answer the second container's `start`; when it goes on, nobody needs it.
#[test]
fn a_shim_that_was_replaced_leaves_the_others_socket() {
    let lab = lab!();
    let [first, second] =
        [(); 2].map(|()| lab.sleeping(|config| config["annotations"] = json!({"io.kubernetes.cri.sandbox-id": "pod"})));
    let mut replaced = Shim::start(&lab, &first, Path::new("off"), "");
    let pid = Pid::from_raw(replaced.pid.unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let mut shim = Shim::start(&lab, &second, Path::new("off"), "");
    assert_eq!(shim.path, replaced.path);
    assert_ne!(shim.pid, replaced.pid);
    kill(pid, Signal::SIGCONT).unwrap();
    // After this it has heard that the second container would come.
    replaced.call("Connect", &ProcessRequest::of(&first));
    replaced.call("Shutdown", &ProcessRequest::of(&second));
    replaced.end(&first);
    UnixStream::connect(&shim.path).unwrap();
    shim.run(&second);
    shim.delete(&second);
    let path = shim.path.clone();
    shim.end(&second);
    eventually(|| !path.exists());
}

/// What is written to it is passed on to the end.
#[test]
fn a_terminal_that_nobody_has_open_for_a_while_is_served_on() {
    let lab = lab!();
    let script = "t=$(tty); echo begin; exec </dev/null >/dev/null 2>&1; sleep 0.5; seq 9999 >$t; echo end >$t";
    let bundle = lab.bundle(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["args"] = json!(["sh", "-c", script]);
    });
    let mut shim = Shim::start(&lab, &bundle, Path::new("off"), "");
    let out = lab.path("out");
    let stdout = format!("file://{}", out.display());
    shim.start_task(CreateTaskRequest { terminal: true, stdout, ..shim.request(&bundle) });
    let process = ProcessRequest::of(&bundle);
    assert_eq!(shim.call("Wait", &process), 0);
    shim.call("Delete", &process);
    let said = fs::read_to_string(out).unwrap();
    assert!(said.starts_with("begin") && said.ends_with("9998\r\n9999\r\nend\r\n"), "{said}");
    shim.end(&bundle);
}

/// containerd leaves everything where it is if there is no answer.
#[test]
fn what_cannot_be_deleted_does_not_keep_the_rest() {
    let lab = lab!();
    let bundle = lab.path("bundle");
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    // Containers cannot be looked for below a file.
    fs::write(lab.path("file"), "").unwrap();
    fs::write(bundle.join("microrun-root"), lab.path("file").to_str().unwrap()).unwrap();
    let script = "mount -t tmpfs none rootfs && \"$0\" -namespace test -id x delete && ! mountpoint -q rootfs";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(program()).current_dir(&bundle).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("not a directory"), "{output:?}");
    assert_eq!(DeleteResponse::decode(&*output.stdout).unwrap().exit_status, 137);
}

/// `ctr plugins inspect-runtime` shows it, and fails where options have no type.
#[test]
fn the_information_has_the_options_that_were_given() {
    let value = RuntimeOptions { config_body: b"Group = 'node'".into() }.encode_to_vec();
    let given = Any { type_url: "runtimeoptions.v1.Options".into(), value };
    for options in [None, Some(given)] {
        let input = tempfile::NamedTempFile::new().unwrap();
        fs::write(&input, options.as_ref().map(Message::encode_to_vec).unwrap_or_default()).unwrap();
        let told = Command::new(program()).arg("-info").stdin(input.reopen().unwrap()).output().unwrap();
        assert!(told.status.success(), "{told:?}");
        let info = RuntimeInfo::decode(&*told.stdout).unwrap();
        assert_eq!((info.name.as_str(), info.options), ("io.containerd.microrun.v1", options));
        assert!(info.features.unwrap().type_url.ends_with("/Features"));
    }
}

/// As clients have it that take the process of the container for another.
#[test]
fn an_exec_has_a_terminal_if_the_request_says_so() {
    let lab = lab!();
    let bundle = sleeper(&lab);
    let mut shim = Shim::start(&lab, &bundle, Path::new("off"), "");
    shim.run(&bundle);
    for (exec_id, said, terminal) in [("a", true, false), ("b", false, true), ("c", true, true)] {
        let mut process = process_of(&bundle, &["sh", "-c", "test -t 0"]);
        process["terminal"] = json!(said);
        let process = shim.exec(&bundle, exec_id, &process, ExecProcessRequest { terminal, ..Default::default() });
        // A size that nobody has a use for, or not yet, is no failure.
        let (id, exec_id) = (bundle.id.clone(), exec_id.to_owned());
        shim.call("ResizePty", &ResizePtyRequest { id, exec_id, width: 80, height: 25 });
        shim.call("Start", &process);
        assert_eq!(shim.call("Wait", &process), u32::from(!terminal), "{process:?}");
        shim.call("Delete", &process);
    }
    let (width, height) = (80, 25);
    shim.call("ResizePty", &ResizePtyRequest { width, height, id: bundle.id.clone(), exec_id: String::new() });
    shim.delete(&bundle);
    shim.end(&bundle);
}

/// As nginx does, whose logs are links to /dev/stdout. Docker (userns-remap) tells runc's shim alone who that is, by IoUid.
#[test]
fn a_user_of_a_user_namespace_can_open_its_stdout() {
    let lab = lab!();
    let script = "echo $0 >/dev/stdout; exec sleep 1000";
    for uid in [0, 5] {
        let log = lab.path(format!("log{uid}"));
        let stdout = format!("file://{}", log.display());
        let bundle = lab.bundle(|config| {
            config["process"]["args"] = json!(["sh", "-c", script, "init"]);
            config["process"]["user"] = json!({"uid": uid, "gid": uid});
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            for field in ["uidMappings", "gidMappings"] {
                config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            }
        });
        let mut shim = Shim::start(&lab, &bundle, Path::new("off"), "");
        shim.start_task(CreateTaskRequest { stdout: stdout.clone(), ..shim.request(&bundle) });
        eventually(|| fs::read_to_string(&log).is_ok_and(|text| text == "init\n"));
        let process = process_of(&bundle, &["sh", "-c", "echo exec >/dev/stdout"]);
        let process = shim.exec(&bundle, "e", &process, ExecProcessRequest { stdout, ..Default::default() });
        shim.call("Start", &process);
        assert_eq!(shim.call("Wait", &process), 0);
        assert_eq!(fs::read_to_string(&log).unwrap(), "init\nexec\n");
        shim.call("Delete", &process);
        shim.delete(&bundle);
        shim.end(&bundle);
    }
}

/// Each changes the limits that the other has set, not those that it knows of itself.
#[test]
fn the_shim_and_the_command_line_update_the_same_container() {
    let lab = lab!();
    let bundle = lab.sleeping(|config| config["linux"]["resources"]["cpu"] = json!({"shares": 512}));
    let mut shim = Shim::start(&lab, &bundle, Path::new("off"), "");
    shim.run(&bundle);
    let directory = shim.root.join(NAMESPACE).join(&bundle.id);
    // As the kernel has it, which weighs by another scale on v2, and as it is recorded.
    let shares = || {
        let state: Value = serde_json::from_slice(&fs::read(directory.join("state.json")).unwrap()).unwrap();
        let init = fs::read_link(directory.join("init")).unwrap();
        let kernel = limit(init.to_str().unwrap().split(' ').next().unwrap(), ("cpu", "cpu.shares"), "cpu.weight");
        (kernel, state["resources"]["cpu"]["shares"].clone())
    };
    let root = shim.root.join(NAMESPACE);
    let by_command = |option: &str, value: &str| {
        let microrun = lab.path("microrun");
        host(microrun.to_str().unwrap(), &["--root", root.to_str().unwrap(), "update", option, value, &bundle.id])
    };
    let by_shim = |shim: &mut Shim, resources: Value| {
        let value = resources.to_string().into_bytes();
        let resources = Some(Any { type_url: "LinuxResources".into(), value });
        shim.call("Update", &UpdateTaskRequest { id: bundle.id.clone(), resources });
    };
    let begun = shares();
    by_command("--cpu-share", "2048");
    let by_one = shares();
    assert!(by_one.0 != begun.0 && by_one.1 == 2048, "{begun:?} {by_one:?}");
    by_shim(&mut shim, json!({"cpu": {"quota": 50000}}));
    assert_eq!(shares(), by_one);
    by_shim(&mut shim, json!({"cpu": {"shares": 8192}}));
    let by_other = shares();
    assert!(by_other.0 != by_one.0 && by_other.1 == 8192, "{by_one:?} {by_other:?}");
    by_command("--cpu-quota", "60000");
    assert_eq!(shares(), by_other);
    shim.delete(&bundle);
    shim.end(&bundle);
}

/// File systems whose servers never say a word, at `/mnt/NAME` of a container: who goes there hangs, and can be killed unless it
/// waits for somebody else who does.
fn mount_what_hangs(init: u32, names: &[&str]) -> Result<Vec<File>, String> {
    let paths: Vec<String> = names.iter().map(|name| format!("/mnt/{name}")).collect();
    let namespace = File::open(format!("/proc/{init}/ns/mnt")).unwrap();
    let mounting = std::thread::spawn(move || {
        let open = || File::options().read(true).write(true).open("/dev/fuse");
        let servers: Vec<File> = paths.iter().map(|_| open()).collect::<Result<_, _>>()?;
        unshare(CloneFlags::CLONE_FS).and_then(|()| setns(namespace, CloneFlags::CLONE_NEWNS)).unwrap();
        for (path, server) in paths.iter().zip(&servers) {
            fs::create_dir(path).unwrap();
            let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
            nix::mount::mount(Some("hangs"), path.as_str(), Some("fuse"), MsFlags::empty(), Some(data.as_str()))?;
        }
        Ok(servers)
    });
    mounting.join().unwrap().map_err(|error: std::io::Error| format!("there is no FUSE: {error}"))
}

/// Processes on their way to their program, which they never reach.
#[test]
fn what_hangs_while_it_is_started_can_be_killed() {
    let lab = lab!();
    let bundle = lab.sleeping(|config| {
        let mount = json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"});
        config["mounts"].as_array_mut().unwrap().push(mount);
    });
    let mut shim = Shim::start(&lab, &bundle, Path::new("off"), "");
    let init = shim.start_task(shim.request(&bundle));
    let _servers = match mount_what_hangs(init, &["a", "b"]) {
        Ok(servers) => servers,
        Err(reason) => {
            shim.delete(&bundle);
            shim.end(&bundle);
            skip!("{reason}");
        }
    };
    let mut process = process_of(&bundle, &["true"]);
    let execs = ["a", "b"].map(|exec| {
        process["cwd"] = json!(format!("/mnt/{exec}/x"));
        shim.exec(&bundle, exec, &process, ExecProcessRequest::default())
    });
    let starts = execs.each_ref().map(|exec| shim.ask("Start", exec));
    let namespace = fs::read_link(format!("/proc/{init}/ns/pid")).unwrap();
    let inside = || {
        let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let namespaces = processes.filter_map(|process| fs::read_link(process.join("ns/pid")).ok());
        namespaces.filter(|of| *of == namespace).count() - 1
    };
    eventually(|| inside() == 2);
    shim.call("Kill", &ProcessRequest { signal: 9, ..execs[0].clone() });
    let why = shim.refusal(starts[0], UNKNOWN);
    assert!(why.starts_with("OCI runtime exec failed"), "{why}");
    assert_eq!(inside(), 1);
    shim.call("Delete", &execs[0]);
    // The end of the container is that of all in it.
    shim.call("Kill", &ProcessRequest { signal: 9, ..ProcessRequest::of(&bundle) });
    shim.refusal(starts[1], UNKNOWN);
    assert_eq!(shim.call("Wait", &ProcessRequest::of(&bundle)), 137);
    shim.call("Delete", &ProcessRequest::of(&bundle));
    shim.end(&bundle);
}

/// A hook that does not end keeps the start from ending, and nothing else.
#[test]
fn a_container_can_be_killed_while_it_is_started() {
    let lab = lab!();
    let fifo = lab.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("echo >{0}.begun; read word <{0}", fifo.display());
    let bundle = lab.sleeping(|config| {
        config["hooks"] = json!({"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    });
    let mut shim = Shim::start(&lab, &bundle, Path::new("off"), "");
    let init = shim.call("Create", &shim.request(&bundle));
    let start = shim.ask("Start", &ProcessRequest::of(&bundle));
    eventually(|| lab.path("fifo.begun").exists());
    shim.call("Kill", &ProcessRequest { signal: 9, ..ProcessRequest::of(&bundle) });
    eventually(|| !is_alive(init.cast_signed()));
    fs::write(&fifo, "go on\n").unwrap();
    // It ran, for a while.
    assert_eq!(shim.answer(start), Ok(init));
    assert_eq!(shim.call("Wait", &ProcessRequest::of(&bundle)), 137);
    shim.call("Delete", &ProcessRequest::of(&bundle));
    shim.end(&bundle);
}

/// It would hang until the container is resumed.
#[test]
fn an_exec_that_was_added_before_a_pause_is_not_started_during_it() {
    let lab = lab!();
    let bundle = sleeper(&lab);
    let mut shim = Shim::start(&lab, &bundle, Path::new("off"), "");
    shim.run(&bundle);
    let exec = shim.exec(&bundle, "e", &process_of(&bundle, &["true"]), ExecProcessRequest::default());
    shim.call("Pause", &ProcessRequest::of(&bundle));
    assert_eq!(shim.refused("Start", &exec, FAILED_PRECONDITION), "cannot exec in a paused container");
    shim.call("Resume", &ProcessRequest::of(&bundle));
    shim.call("Start", &exec);
    assert_eq!(shim.call("Wait", &exec), 0);
    shim.delete(&bundle);
    shim.end(&bundle);
}

/// As many as it serves have room, and none of them is told of it: programs have the limit that the shim was started with.
#[test]
fn a_shim_has_room_for_many_and_its_containers_have_their_limits() {
    let lab = lab!();
    let bundles: Vec<Bundle> = (0..12)
        .map(|_| {
            lab.bundle(|config| {
                config["process"]["args"] = json!(["sh", "-c", "ulimit -Sn; ulimit -Hn; exec sleep 1000"]);
                config["process"].as_object_mut().unwrap().remove("rlimits");
                let args = json!(["sh", "-c", "ulimit -Sn >>hook"]);
                config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": args}]});
            })
        })
        .collect();
    let by = ["prlimit", "--nofile=64:4096"];
    let mut shim = Shim::start_by(&lab, &bundles[0], Path::new("off"), "", &by, Path::new("/bin/true"));
    for bundle in &bundles {
        let log = lab.path(format!("log-{}", bundle.id));
        let stdout = format!("file://{}", log.display());
        shim.start_task(CreateTaskRequest { stdout: stdout.clone(), ..shim.request(bundle) });
        eventually(|| fs::read_to_string(&log).is_ok_and(|text| text == "64\n4096\n"));
        assert_eq!(fs::read_to_string(bundle.path.join("hook")).unwrap(), "64\n");
        let process = process_of(bundle, &["sh", "-c", "ulimit -Sn"]);
        let exec = shim.exec(bundle, "e", &process, ExecProcessRequest { stdout, ..Default::default() });
        shim.call("Start", &exec);
        assert_eq!(shim.call("Wait", &exec), 0);
        shim.call("Delete", &exec);
        assert_eq!(fs::read_to_string(&log).unwrap(), "64\n4096\n64\n");
    }
    bundles.iter().for_each(|bundle| shim.delete(bundle));
    shim.end(&bundles[0]);
}

/// A program that notes the events that it is to publish, and where.
fn notes_events(lab: &Lab) -> (PathBuf, PathBuf) {
    let (publisher, topics) = (lab.path("publisher"), lab.path("topics"));
    executable(&publisher, &format!("#!/bin/sh\ncat >/dev/null\necho $5 >>{}\n", topics.display()));
    (publisher, topics)
}

/// What runs out of memory at once.
fn hog(config: &mut Value) {
    config["process"]["args"] = json!(["tail", "/dev/zero"]);
    config["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
}

/// An event that comes after the end, or not at all, is a cause that nobody sees.
#[test]
fn a_container_that_runs_out_of_memory_is_said_to_before_it_is_said_to_end() {
    let lab = lab!();
    // The hook holds up the start until that has happened.
    let wait = "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); while kill -0 $pid; do sleep 0.01; done";
    for is_held_up in [false, true] {
        let bundle = lab.bundle(|config| {
            hog(config);
            if is_held_up {
                config["hooks"] = json!({"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", wait]}]});
            }
        });
        let (publisher, topics) = notes_events(&lab);
        let mut shim = Shim::start_by(&lab, &bundle, Path::new("off"), "", &[], &publisher);
        shim.start_task(shim.request(&bundle));
        let process = ProcessRequest::of(&bundle);
        assert_eq!(shim.call("Wait", &process), 137);
        shim.call("Delete", &process);
        let told = fs::read_to_string(&topics).unwrap();
        assert_eq!(told, "/tasks/create\n/tasks/start\n/tasks/oom\n/tasks/exit\n/tasks/delete\n", "{is_held_up}");
        shim.end(&bundle);
        fs::remove_file(topics).unwrap();
    }
}

/// Who names no cgroup is, on v1, in those alone that the limits need: one that it joins later is watched as well.
#[test]
fn a_container_that_is_limited_later_is_watched_then() {
    let lab = lab!();
    let bundle = lab.sleeping(|config| {
        let linux = config["linux"].as_object_mut().unwrap();
        linux.retain(|name, _| !["cgroupsPath", "resources"].contains(&name.as_str()));
    });
    let (publisher, topics) = notes_events(&lab);
    let mut shim = Shim::start_by(&lab, &bundle, Path::new("off"), "", &[], &publisher);
    shim.run(&bundle);
    let value = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}}).to_string().into_bytes();
    let resources = Some(Any { type_url: "LinuxResources".into(), value });
    shim.call("Update", &UpdateTaskRequest { id: bundle.id.clone(), resources });
    let process = process_of(&bundle, &["tail", "/dev/zero"]);
    let exec = shim.exec(&bundle, "e", &process, ExecProcessRequest::default());
    shim.call("Start", &exec);
    assert_eq!(shim.call("Wait", &exec), 137);
    shim.delete(&bundle);
    shim.end(&bundle);
    let told = fs::read_to_string(topics).unwrap();
    assert_eq!(told.lines().filter(|topic| *topic == "/tasks/oom").count(), 1, "{told}");
}

/// Without a pid namespace they outlive init, and are ended by the deletion at the latest.
#[test]
fn the_ends_of_execs_are_told_before_the_container_is_deleted() {
    const EXECS: usize = 12;
    let lab = lab!();
    let bundle = lab.sleeping(|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    });
    let (publisher, topics) = notes_events(&lab);
    let mut shim = Shim::start_by(&lab, &bundle, Path::new("off"), "", &[], &publisher);
    shim.run(&bundle);
    let process = process_of(&bundle, &["sleep", "1000"]);
    for number in 0..EXECS {
        let exec = shim.exec(&bundle, &number.to_string(), &process, ExecProcessRequest::default());
        shim.call("Start", &exec);
    }
    let init = ProcessRequest::of(&bundle);
    shim.call("Kill", &ProcessRequest { signal: 15, ..init.clone() });
    assert_eq!(shim.call("Wait", &init), 143);
    shim.call("Delete", &init);
    shim.end(&bundle);
    let told = fs::read_to_string(topics).unwrap();
    let ends: Vec<&str> = told.lines().skip_while(|topic| *topic != "/tasks/exit").collect();
    assert_eq!(ends, [&["/tasks/exit"; EXECS + 1][..], &["/tasks/delete"]].concat());
}

/// Whichever of the things that have happened meanwhile is looked at first: here that a child has ended, whichever it is.
#[test]
fn what_a_process_said_is_passed_on_before_its_end_is_told() {
    const EXECS: usize = 16;
    const SAID: u64 = 60_000;
    let lab = lab!();
    let bundle = sleeper(&lab);
    let mut shim = Shim::start(&lab, &bundle, Path::new("off"), "");
    shim.run(&bundle);
    let other = shim.exec(&bundle, "other", &process_of(&bundle, &["sleep", "1000"]), ExecProcessRequest::default());
    let other_pid = shim.call("Start", &other);
    let script = format!("until test -e /go; do usleep 10000; done; head -c {SAID} /dev/zero");
    let log = |number: usize| lab.path(format!("said{number}"));
    let begun: Vec<_> = (0..EXECS)
        .map(|number| {
            let stdout = format!("file://{}", log(number).display());
            let io = ExecProcessRequest { stdout, ..Default::default() };
            let exec = shim.exec(&bundle, &number.to_string(), &process_of(&bundle, &["sh", "-c", &script]), io);
            let pid = shim.call("Start", &exec);
            let asked = shim.ask("Wait", &exec);
            (exec, pid, asked)
        })
        .collect();
    // Who waited there is quiet by now.
    shim.call("Pids", &ProcessRequest::of(&bundle));
    let pid = Pid::from_raw(shim.pid.unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    kill(Pid::from_raw(other_pid.cast_signed()), Signal::SIGKILL).unwrap();
    eventually(|| !is_alive(other_pid.cast_signed()));
    fs::write(bundle.rootfs().join("go"), "").unwrap();
    eventually(|| !begun.iter().any(|(_, pid, _)| is_alive(pid.cast_signed())));
    kill(pid, Signal::SIGCONT).unwrap();
    // The last first: all ends may be told before it is its turn.
    let told = begun.iter().enumerate().rev().map(|(number, (_, _, asked))| {
        let status = shim.answer(*asked);
        (status, fs::metadata(log(number)).unwrap().len())
    });
    let told: Vec<_> = told.collect();
    assert!(told.iter().all(|told| *told == (Ok(0), SAID)), "{told:?}");
    for exec in begun.iter().map(|(exec, ..)| exec).chain([&other]) {
        shim.call("Delete", exec);
    }
    shim.delete(&bundle);
    shim.end(&bundle);
}

/// containerd deletes what has not come in time, is told that there is none, and asks no more.
#[test]
fn a_container_that_is_deleted_while_it_is_created_is_gone() {
    let lab = lab!();
    let (begun, go) = (lab.path("begun"), lab.path("go"));
    let script = format!("touch {}; until test -e {}; do sleep 0.01; done", begun.display(), go.display());
    let bundle = lab.sleeping(|config| {
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    });
    let mut shim = Shim::start(&lab, &bundle, Path::new("off"), "");
    let asked = shim.ask("Create", &shim.request(&bundle));
    eventually(|| begun.exists());
    let process = ProcessRequest::of(&bundle);
    assert_eq!(shim.refused("Delete", &process, NOT_FOUND), format!("container {}: not found", bundle.id));
    fs::write(&go, "").unwrap();
    let refused = shim.refusal(asked, FAILED_PRECONDITION);
    assert_eq!(refused, format!("task {}: was deleted before it was created", bundle.id));
    assert_eq!(shim.refused("State", &process, NOT_FOUND), format!("container {}: not found", bundle.id));
    // The name is free.
    shim.run(&bundle);
    shim.delete(&bundle);
    shim.end(&bundle);
}

#[test]
fn a_network_namespace_comes_from_a_pool() {
    let mut pool = pool!("--parts", "2");
    let socket = pool.socket();
    let served = |pool: &Pool| pool.status()["parts"]["served"].as_u64().unwrap();
    let lent = |socket: &Path, options: &str| {
        pool.lending(|_| {
            pool.await_networks(2);
            (pool.networks(), network_of_one(&pool.lab, socket, options))
        })
    };
    let (before, network) = lent(&socket, "");
    assert!(before.contains(&network), "{network}, {before:?}");
    // It is lent once.
    eventually(|| !pool.networks().contains(&network));
    // As the options say, whatever the environment says.
    let none = pool.lab.path("none/socket");
    let (before, network) = lent(&none, &format!("Pool = \"{}\"", socket.display()));
    assert!(before.contains(&network), "{network}, {before:?}");
    assert_eq!(served(&pool), 2);
    pool.await_networks(2);
    for (path, options) in [(socket.as_path(), "Pool = \"off\""), (Path::new("off"), "")] {
        let network = network_of_one(&pool.lab, path, options);
        assert!(!pool.networks().contains(&network), "{network}");
    }
    assert_eq!(served(&pool), 2);
    // The socket stays, and nobody listens.
    pool.kill();
    assert!(socket.exists());
    network_of_one(&pool.lab, &socket, "");
}

/// A pool that is stopped holds nobody up.
#[test]
fn a_pool_that_does_not_answer_is_not_waited_for() {
    let pool = pool!("--parts", "1");
    pool.await_networks(1);
    let server = pool.server.id().to_string();
    let first = sleeper(&pool.lab);
    let second = sleeper(&pool.lab);
    let mut shim = Shim::start(&pool.lab, &first, &pool.socket(), "");
    host("kill", &["-STOP", &server]);
    let times = [shim.run(&first).1, shim.run(&second).1];
    host("kill", &["-CONT", &server]);
    assert!(times.iter().all(|time| *time < PROMPT), "{times:?}");
    eventually(|| pool.status()["parts"]["lent"] == 0);
    shim.delete(&first);
    shim.delete(&second);
    shim.end(&first);
}

/// Starts and lets go of network namespaces for as long as it is there, as a machine does that starts and ends containers.
fn others() -> Guard {
    let script = "while :; do unshare --net true; sleep 0.01; done";
    Guard(Command::new("setsid").args(["sh", "-c", script]).spawn().unwrap())
}

/// What docs/shim.md says of it: `MICRORUN=dist/microrun MICRORUN_SHIM=dist/containerd-shim-microrun-v1 cargo test --test shim --
/// --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_a_pool_saves() {
    const ROUNDS: usize = 60;
    let pool = pool!("--parts", "16");
    let keeper = sleeper(&pool.lab);
    let mut shim = Shim::start(&pool.lab, &keeper, &pool.socket(), "");
    shim.run(&keeper);
    let without = format!("{}Pool = \"off\"\n", shim.options);
    let ways = [without, shim.options.clone()];
    let bundle = sleeper(&pool.lab);
    for (name, gap, is_busy) in
        [("back to back", 0, false), ("100 ms apart", 100, false), ("20 ms apart, with others", 20, true)]
    {
        let others = is_busy.then(others);
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..2 * ROUNDS {
            shim.options.clone_from(&ways[round % 2]);
            std::thread::sleep(Duration::from_millis(gap));
            times[round % 2].push(shim.run(&bundle).1.as_micros());
            shim.delete(&bundle);
        }
        drop(others);
        let [off, on] = times.map(|mut times| {
            times.sort_unstable();
            [times[ROUNDS / 4], times[ROUNDS / 2], times[ROUNDS * 3 / 4]]
        });
        println!("Create and Start in µs, quartiles, {name}: without {off:?}, with a pool {on:?}");
    }
    println!("{}", pool.status()["parts"]);
    shim.options.clone_from(&ways[1]);
    shim.delete(&keeper);
    shim.end(&keeper);
}
