//! A pool of sandboxes with a laboratory of its own.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use super::{Bundle, Lab, Output, eventually, output, push, within};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A pool of the test's own, with a laboratory.
pub struct Pool {
    /// Where everything is.
    pub lab: Lab,
    /// The pool's process.
    pub server: Child,
    /// Cgroups that somebody else has left.
    before: BTreeSet<PathBuf>,
}

/// Its standard error, in the laboratory.
const SAID: &str = "pool-said";

/// What every pool has in its environment, and no container is to know.
pub const SECRET: &str = "a secret of the environment of pools";

/// For a container's shell: `look FILE` prints a file of /proc/net, without the figures that are those of the whole
/// machine, of which sockstat and protocols have some (net/ipv4/proc.c, net/core/sock.c).
pub const LOOK: &str = "look() { case $1 in \
    */sockstat) sed 's/ orphan [0-9]*//; s/ alloc .*//; s/ mem .*//' $1 ;; \
    */protocols) awk '{ $4 = $5 = \"\"; print }' $1 ;; \
    *) cat $1 ;; esac; }; ";

/// Why a program that said `said` and ended can be no pool.
///
/// # Panics
/// If that is not for the program that it is: then the pool has failed.
#[track_caller]
pub fn why_it_cannot_be(said: &str) -> &'static str {
    assert!(said.contains("see scripts/build"), "the pool ended: {said}");
    "only a binary that is linked with musl can be a pool: set MICRORUN to one"
}

impl Pool {
    /// A pool that holds nothing yet. Only a binary that is linked with musl can be one.
    pub fn new(options: &[&str]) -> Option<Self> {
        Self::of(lab_or_skip()?, options)
    }

    /// As [`Pool::new`], in a laboratory that there is already.
    pub fn of(lab: Lab, options: &[&str]) -> Option<Self> {
        fs::create_dir(lab.path("pool")).unwrap();
        let before = abandoned_cgroups();
        let server = Self::serve(&lab, options);
        let mut pool = Self { lab, server, before };
        eventually(|| pool.socket().exists() || pool.server.try_wait().unwrap().is_some());
        if pool.server.try_wait().unwrap().is_some() {
            println!("skipped: {}", why_it_cannot_be(&pool.said()));
            return None;
        }
        Some(pool)
    }

    fn serve(lab: &Lab, options: &[&str]) -> Child {
        let socket = lab.path("pool/socket");
        let mut args = vec!["pool", "serve", "--socket", socket.to_str().unwrap()];
        args.extend(options);
        let mut command = lab.in_own_cgroup(&lab.command(&args));
        let said = fs::OpenOptions::new().append(true).create(true).open(lab.path(SAID)).unwrap();
        command.env("MICRORUN_TEST_SECRET", SECRET).stdin(Stdio::null()).stderr(said).spawn().unwrap()
    }

    /// What it has said to its standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(self.lab.path(SAID)).unwrap()
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.lab.path("pool/socket")
    }

    /// Starts it again, after it was killed.
    pub fn restart(&mut self) {
        self.server = Self::serve(&self.lab, &[]);
        eventually(|| self.try_status().is_some());
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// A command of the laboratory that finds this pool.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.lab.in_own_cgroup(&self.lab.command(args));
        command.env("MICRORUN_POOL", self.socket());
        command
    }

    /// The processes that wait, and those of containers.
    pub fn parked(&self) -> Vec<i32> {
        let makes = self.makes_sandboxes();
        self.children().into_iter().filter(|pid| !makes.contains(pid)).collect()
    }

    /// The process that begins makers, if there is one.
    pub fn filler(&self) -> Option<i32> {
        self.makes_sandboxes().into_iter().find(|pid| called(*pid) == "microrun:filler")
    }

    /// The processes that make them.
    pub fn makers(&self) -> Vec<i32> {
        self.makes_sandboxes().into_iter().filter(|pid| called(*pid) != "microrun:filler").collect()
    }

    /// They are where the pool is.
    fn makes_sandboxes(&self) -> Vec<i32> {
        let place = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/ipc")).ok();
        let own = place(self.server.id().cast_signed());
        self.children().into_iter().filter(|pid| place(*pid) == own).collect()
    }

    /// The processes that have ended, and that it has not waited for.
    pub fn ended(&self) -> Vec<i32> {
        let has_ended = |pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
        };
        self.children().into_iter().filter(has_ended).collect()
    }

    fn children(&self) -> Vec<i32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.server.id())).unwrap();
        let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
        lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
    }

    /// How many descriptors it has open besides two for each maker, of which there may be one or two.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.server.id())).unwrap().count() - 2 * self.makers().len()
    }

    /// The network namespaces that it has a descriptor of.
    pub fn networks(&self) -> BTreeSet<String> {
        let listed = fs::read_dir(format!("/proc/{}/fd", self.server.id())).unwrap().flatten();
        let links = listed.filter_map(|entry| fs::read_link(entry.path()).ok());
        links.map(|link| link.display().to_string()).filter(|link| link.starts_with("net:")).collect()
    }

    /// Waits until so many network namespaces are ready to be lent, and none is.
    #[track_caller]
    pub fn await_networks(&self, count: u64) {
        eventually(|| {
            let parts = &self.status()["parts"];
            parts["networks"] == count && parts["lent"] == 0
        });
    }

    /// What it says.
    pub fn microrun(&self, args: &[&str]) -> Output {
        output(self.command(args))
    }

    /// What the pool says of itself, if there is one.
    pub fn try_status(&self) -> Option<Value> {
        let told = self.told();
        (told.code == 0).then(|| serde_json::from_str(&told.stdout).unwrap())
    }

    /// What the pool says of itself.
    #[track_caller]
    pub fn status(&self) -> Value {
        let told = self.told();
        // One that was killed has not said so: the last number here is how it ended.
        let server = fs::read_to_string(format!("/proc/{}/stat", self.server.id()));
        assert!(told.code == 0, "{told:?} {server:?}");
        serde_json::from_str(&told.stdout).unwrap()
    }

    fn told(&self) -> Output {
        self.microrun(&["pool", "status", "--format=json"])
    }

    /// Has it hold `count` parts of a bundle that runs `script`, and waits until they are there.
    #[track_caller]
    pub fn filled(&self, count: usize, script: &str, change: impl FnOnce(&mut Value)) -> Bundle {
        let bundle = self.lab.bundle(|config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
            config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
            change(config);
        });
        let path = bundle.operand();
        self.microrun(&["pool", "fill", "--size", &count.to_string(), &path]).ok();
        self.await_ready(&bundle, count);
        bundle
    }

    /// Waits until there are as many parts of a bundle.
    #[track_caller]
    pub fn await_ready(&self, bundle: &Bundle, count: usize) {
        let of_bundle = |status: &Value| {
            let bundles = status["bundles"].as_array().unwrap();
            let mut of_path = bundles.iter().filter(|one| one["bundle"] == json!(bundle.path));
            of_path.next().map_or(0, |one| one["ready"].as_u64().unwrap())
        };
        // Each takes its time, on a slow machine as much as a second.
        within(Duration::from_secs(30 + count as u64), || of_bundle(&self.status()), &(count as u64));
    }

    /// What `start` brings once the pool has lent something for it: who asks for parts waits for a tenth of a second and rightly
    /// does without then, which a busy machine takes now and then. It gets the number of the attempt.
    pub fn lending<T>(&self, mut start: impl FnMut(usize) -> T) -> T {
        let served = || self.status()["parts"]["served"].as_u64().unwrap();
        let before = served();
        let mut started = start(0);
        for attempt in 1..10 {
            if served() > before {
                break;
            }
            started = start(attempt);
        }
        started
    }

    /// How many sandboxes it has given away.
    pub fn served(&self) -> u64 {
        self.status()["bundles"].as_array().unwrap().iter().map(|one| one["served"].as_u64().unwrap()).sum()
    }

    /// A container that nobody waits for. It keeps what it writes to open.
    #[track_caller]
    pub fn run_detached(&self, bundle: &Bundle, options: &[&str]) {
        let mut command = self.command(&run_args(bundle, options));
        let done = command.arg("-d").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(done.success());
    }

    /// `run` of a bundle whose program waits for as long as there is /mnt/wait: meanwhile `act` does something to the container with this
    /// id and pid. How it ended, and what `act` has brought.
    #[track_caller]
    pub fn run_while<T>(&self, bundle: &Bundle, act: impl FnOnce(&str, &str) -> T) -> (std::process::Output, T) {
        let wait = bundle.rootfs().join("mnt/wait");
        fs::write(&wait, "").unwrap();
        let mut command = self.command(&["run", &bundle.operand()]);
        let one = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let list = || self.microrun(&["list", "-q"]).ok();
        eventually(|| list().lines().count() == 1);
        let id = list();
        // Before that it may not be there yet.
        eventually(|| self.lab.status(&id) == "running");
        let state: Value = serde_json::from_str(&self.microrun(&["state", &id]).ok()).unwrap();
        let brought = act(&id, &state["pid"].to_string());
        fs::remove_file(&wait).unwrap();
        (one.wait_with_output().unwrap(), brought)
    }

    /// `run` of the bundle by its path, from the pool and in no other way.
    pub fn run(&self, bundle: &Bundle, options: &[&str]) -> Output {
        self.microrun(&run_args(bundle, options))
    }
}

/// What there is of a pool's containers and sandboxes besides their processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// Containers that are recorded.
    pub containers: usize,
    /// Directories of sandboxes.
    pub parked: usize,
    /// Cgroups of containers with a name of the laboratory, in the hierarchy that has the most of them.
    pub cgroups: usize,
    /// Cgroups that are named as only sandboxes are, and in which nobody is.
    pub abandoned: BTreeSet<PathBuf>,
}

impl Pool {
    /// What there is now.
    pub fn remains(&self) -> Remains {
        let ids = format!("{}-", self.lab.name());
        let of_lab = |hierarchy: PathBuf| {
            let has_name = |path: &PathBuf| name_of(path).starts_with(&ids);
            [hierarchy.clone(), hierarchy.join(self.lab.name())]
                .iter()
                .map(|place| directories(place).iter().filter(|path| has_name(path)).count())
                .sum::<usize>()
        };
        // Filters that have been compiled are kept beside them.
        let on_record = |place: &str| {
            let all = directories(&self.lab.path(place));
            all.iter().filter(|path| !name_of(path).starts_with('.')).count()
        };
        Remains {
            containers: on_record("run"),
            parked: on_record("pool/parked"),
            cgroups: super::hierarchies().into_iter().map(of_lab).max().unwrap_or(0),
            abandoned: self.abandoned(),
        }
    }

    /// Looks twice: what another pool uses up just now is gone the second time.
    fn abandoned(&self) -> BTreeSet<PathBuf> {
        let first: BTreeSet<_> = abandoned_cgroups().difference(&self.before).cloned().collect();
        if first.is_empty() {
            return first;
        }
        std::thread::sleep(Duration::from_millis(100));
        first.intersection(&abandoned_cgroups()).cloned().collect()
    }

    /// Whether nothing is left of containers but what is parked: neither state nor cgroups.
    pub fn is_gone(&self, parked: usize) -> bool {
        self.remains() == Remains { containers: 0, parked, cgroups: 0, abandoned: BTreeSet::new() }
    }
}

/// Cgroups that have the name of a container whose id was made up, and in which nobody is.
fn abandoned_cgroups() -> BTreeSet<PathBuf> {
    let is_made_up = |path: &PathBuf| {
        let name = name_of(path);
        name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let is_empty = |path: &PathBuf| fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|pids| pids.is_empty());
    let all = super::hierarchies().into_iter().flat_map(|hierarchy| directories(&hierarchy));
    all.filter(is_made_up).filter(is_empty).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The directories in `path`.
fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

impl Drop for Pool {
    fn drop(&mut self) {
        // One that does not end when it is told to would otherwise be waited for for ever.
        let pid = self.server.id().to_string();
        for signal in ["-TERM", "-CONT"] {
            let _ = Command::new("kill").args([signal, &pid]).status();
        }
        let _ = self.server.wait();
        eprint!("{}", self.said());
    }
}

/// A laboratory, unless there cannot be one.
fn lab_or_skip() -> Option<Lab> {
    match Lab::new() {
        Ok(lab) => Some(lab),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

/// Whether this machine's pools may use a network namespace again.
///
/// # Errors
/// Why not: a module for some protocol is loaded.
pub fn require_reuse() -> Result<(), String> {
    match microrun::pool::unknown_protocol(&fs::read_to_string("/proc/net/protocols").unwrap()) {
        Some(name) => {
            Err(format!("it is not known what the protocol {name}, which this machine has, leaves in a network"))
        }
        None => Ok(()),
    }
}

/// Gives a container a filter by which it gets no socket, and no /proc that it can write to.
pub fn silence(config: &mut Value) {
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| ["proc", "tmpfs"].contains(&mount["type"].as_str().unwrap()));
    let proc = mounts.iter_mut().find(|mount| mount["type"] == "proc").unwrap();
    proc["options"] = json!(["ro"]);
    let calls = "read write readv writev lseek close openat open fstat newfstatat stat lstat statx access faccessat \
                 readlink readlinkat getcwd dup dup2 dup3 fcntl pipe pipe2 poll ppoll mmap munmap mremap mprotect madvise \
                 brk futex set_robust_list set_tid_address rseq arch_prctl rt_sigaction rt_sigprocmask rt_sigreturn \
                 rt_sigsuspend clone clone3 vfork fork execve wait4 exit exit_group recvmsg getpid getppid getuid geteuid \
                 getgid getegid getpgid setpgid getpgrp getrandom prlimit64 clock_gettime clock_nanosleep nanosleep uname \
                 getdents64 prctl";
    let names: Vec<_> = calls.split_whitespace().collect();
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    });
}

/// Allows one more system call.
pub fn allow(config: &mut Value, name: &str) {
    push(&mut config["linux"]["seccomp"]["syscalls"], json!({"names": [name], "action": "SCMP_ACT_ALLOW"}));
}

/// As [`silence`], and nothing is mounted but what nobody can write to: mount and IPC namespaces may be used again.
pub fn furnish(config: &mut Value) {
    silence(config);
    let options = json!(["ro", "nosuid", "noexec", "mode=755", "size=64k"]);
    config["mounts"] = json!([{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": options}]);
    config["root"]["readonly"] = json!(true);
    let linux = config["linux"].as_object_mut().unwrap();
    linux.remove("maskedPaths");
    linux.remove("readonlyPaths");
    config["process"]["user"] = json!({"uid": 65534, "gid": 65534});
    config["process"]["noNewPrivileges"] = json!(true);
}

/// The arguments of a `run` that only a pool can serve.
pub fn run_args<'a>(bundle: &'a Bundle, options: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["run", "--pool=require", "--bundle", bundle.path.to_str().unwrap()];
    args.extend(options);
    args
}

/// A pool that uses networks again, or the end of a test that cannot have one.
#[macro_export]
macro_rules! reusing_pool {
    ($($option:expr),*) => {{
        if let Err(why) = common::pool::require_reuse() {
            skip!("{why}");
        }
        pool!($($option,)* "--reuse-netns")
    }};
}

/// A pool that uses mount and IPC namespaces again, or the end of a test that cannot have one.
#[macro_export]
macro_rules! furnished_pool {
    ($($option:expr),*) => {{
        if common::kernel() < (6, 11) {
            skip!("no PIDFD_GET_IPC_NAMESPACE before Linux 6.11");
        }
        if !microrun::sys::fs::only_owners_give_hints() {
            skip!("this kernel lets everybody change files of others a little (F_SET_RW_HINT)");
        }
        pool!($($option,)* "--reuse-namespaces")
    }};
}

/// A pool, or the end of a test that cannot have one.
#[macro_export]
macro_rules! pool {
    ($($option:expr),*) => {
        match common::pool::Pool::new(&[$($option),*]) {
            Some(pool) => pool,
            None => return,
        }
    };
}

fn called(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}
