//! Budgets of system calls: for a cold start of the "Hello" configuration, and for the other verbs of a container's life.
//!
//! Time is noisy, counts are not. What is counted is what microrun itself asks the kernel for: not what its C library does
//! before main or for memory, which depends on the build, and not the execution of itself from a read-only copy, which
//! depends on where the binary lies ([`Counts::prelude`]). Of several runs the least counts: who waits asks again.
//!
//! A budget that is exceeded is a question: is it worth it? If so raise it, in the same commit.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab, output};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// By how many calls a count may exceed its budget: a kernel with another capability, a helper that is reaped by a wait of its own.
const SLACK: usize = 3;

/// Own calls by kind of process.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Counts {
    /// The runtime, from the look at its executable to executing a read-only copy; 0 where it need not.
    prelude: usize,
    /// The runtime.
    runtime: usize,
    /// What executes the program, until it does.
    init: usize,
    /// Others: who makes the network namespace, who stands between the runtime and init in `exec`.
    helper: usize,
}

impl Counts {
    /// The lesser of each.
    fn min(self, other: Self) -> Self {
        Self {
            prelude: self.prelude.min(other.prelude),
            runtime: self.runtime.min(other.runtime),
            init: self.init.min(other.init),
            helper: self.helper.min(other.helper),
        }
    }
}

/// A line of strace's output: the process and the call with its arguments; none for the rest of a call, signals and ends.
fn call(line: &str) -> Option<(u32, &str)> {
    let (pid, call) = line.split_once(' ')?;
    let call = call.trim_start();
    call.starts_with(|first: char| first.is_ascii_lowercase()).then_some((pid.parse().ok()?, call))
}

/// Whether the C library makes this call, or not, as it likes.
fn of_library(call: &str) -> bool {
    let name = call.split('(').next().unwrap_or_default();
    matches!(name, "brk" | "mmap" | "munmap" | "mremap" | "mprotect" | "madvise" | "sigaltstack")
        // musl says twice that a file is to be closed at exec; Rust without optimization looks whether what it closes is open.
        || name == "fcntl" && (call.contains("F_SETFD, FD_CLOEXEC") || call.contains("F_GETFD"))
}

/// Counts the calls in strace's output. `root` is where containers are, `program` what init executes.
fn count(trace: &str, root: &str, program: &str) -> Counts {
    let calls: Vec<(u32, &str)> = trace.lines().filter_map(call).collect();
    let runtime = calls.first().unwrap().0;
    let executes = |call: &str| call.starts_with("execve");
    let mut counts = Counts::default();
    // The runtime's own calls begin with a look at its user namespace or at its containers.
    let own = |call: &str| ["pidfd_open(", root].iter().any(|word| call.contains(word));
    let mut in_main = false;
    // A build without an entry point of its own looks at its executable again, with three calls (`container::sealed`).
    let mut looking = 0_u32;
    // Calls from the first look at it until it is executed from a read-only mount.
    let mut prelude = 0;
    let mut others: HashMap<u32, usize> = HashMap::new();
    let (mut done, mut inits) = (HashSet::new(), HashSet::new());
    for (pid, call) in calls.into_iter().skip(1).filter(|(_, call)| !of_library(call)) {
        if pid == runtime {
            in_main |= own(call);
            let looks = call.contains("/proc/self/exe");
            looking = if looks { 3 } else { looking };
            counts.runtime += usize::from(in_main && looking == 0);
            looking = looking.saturating_sub(1);
            prelude += usize::from(!in_main && (prelude > 0 || looks || call.starts_with("open_tree(")));
            if executes(call) || call.contains("PR_SET_MM_MAP") {
                counts.prelude += std::mem::take(&mut prelude);
            }
            if executes(call) {
                (in_main, counts.runtime) = (false, 0);
            }
        } else if !done.contains(&pid) {
            *others.entry(pid).or_default() += 1;
            if executes(call) {
                assert!(call.contains(program), "{call}");
                done.insert(pid);
                inits.insert(pid);
            }
        }
    }
    for (pid, calls) in others {
        *(if inits.contains(&pid) { &mut counts.init } else { &mut counts.helper }) += calls;
    }
    counts
}

/// The counts of `microrun ARGS`, below `through` if that is a program.
fn traced(lab: &Lab, through: Option<&Path>, args: &[&str]) -> (Counts, String) {
    let trace = lab.path("trace");
    let mut command = through.map_or_else(|| Command::new("strace"), Command::new);
    if through.is_some() {
        command.arg("strace");
    }
    command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(&trace);
    command.arg(lab.path("microrun")).arg("--root").arg(lab.path("run")).args(args);
    let ended = output(command);
    assert_eq!(ended.code, 0, "{ended:?}");
    let text = fs::read_to_string(&trace).unwrap();
    (count(&text, lab.path("run").to_str().unwrap(), "/bin/true"), text)
}

/// The least of several runs; `before` prepares each.
fn least(lab: &Lab, through: Option<&Path>, before: impl Fn(), args: &[&str]) -> (Counts, String) {
    let run = || {
        before();
        traced(lab, through, args)
    };
    (0..4).fold(run(), |(counts, trace), _| (counts.min(run().0), trace))
}

/// Fails if a count exceeds its budget, and says so if a budget could be lower.
#[track_caller]
fn within(what: &str, counts: &Counts, trace: &str, budget: [usize; 3]) {
    let is = [counts.runtime, counts.init, counts.helper];
    println!(
        "{what}: {} calls ({is:?} of runtime, init and helper; {} before, to be on a read-only mount)",
        is.iter().sum::<usize>(),
        counts.prelude
    );
    for (kind, (is, budget)) in ["runtime", "init", "helper"].into_iter().zip(is.into_iter().zip(budget)) {
        let problem = format!("{what}: {kind}: {is} system calls, {budget} are allowed:\n{}", summary(trace));
        assert!(is <= budget + SLACK, "{problem}");
        if is + SLACK < budget {
            println!("{what}: {kind}: the budget of {budget} could be lowered");
        }
    }
    assert!(counts.prelude <= 7, "{what}: {} calls to execute a read-only copy of itself", counts.prelude);
}

/// How often each call is in a trace, with an eye on the process.
fn summary(trace: &str) -> String {
    let mut often: BTreeMap<(u32, &str), usize> = BTreeMap::new();
    for (pid, call) in trace.lines().filter_map(call).filter(|(_, call)| !of_library(call)) {
        *often.entry((pid, call.split('(').next().unwrap_or_default())).or_default() += 1;
    }
    often.into_iter().map(|((pid, name), count)| format!("  {pid} {name} {count}\n")).collect()
}

/// The configuration that `spec --action` writes, of a program that is there.
fn hello(lab: &Lab, change: impl FnOnce(&mut Value)) -> Bundle {
    let bundle = lab.bundle(|config| {
        // Without a cgroupsPath: a path is made in every hierarchy, and machines differ in how many there are.
        *config = serde_json::from_str(&microrun::spec::default::action("/bin/true")).unwrap();
        config["root"]["path"] = json!("rootfs");
        change(config);
    });
    // The filter is cached once a first start has gone well.
    lab.run(&bundle, &[]).ok();
    bundle
}

fn is_unified() -> bool {
    nix::sys::statfs::statfs("/sys/fs/cgroup")
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC)
}

fn is_hybrid() -> bool {
    nix::sys::statfs::statfs("/sys/fs/cgroup/unified")
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC)
}

/// How many v1 hierarchies there are: the runtime asks for each of them once more.
fn v1_hierarchies() -> usize {
    let known =
        "cpuset devices memory cpu cpuacct pids blkio hugetlb net_cls net_prio perf_event freezer rdma misc systemd";
    let there = |name: &&str| Path::new("/sys/fs/cgroup").join(name).exists();
    known.split(' ').filter(there).count()
}

#[test]
fn a_cold_start() {
    let lab = lab!();
    if let Err(why) = common::require_strace() {
        skip!("{why}");
    }
    if !is_hybrid() {
        skip!("the budget is that of a hybrid machine");
    }
    let bundle = hello(&lab, |_| {});
    let args = ["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id];
    let (counts, trace) = least(&lab, None, || {}, &args);
    within("run", &counts, &trace, [140 + v1_hierarchies(), 122, 11]);
}

#[test]
fn a_cold_start_on_v2() {
    let lab = lab!();
    if let Err(why) = common::require_strace() {
        skip!("{why}");
    }
    if is_unified() {
        skip!("the budget is that of a v2 hierarchy without controllers");
    }
    let view = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/v2view");
    let bundle = hello(&lab, |config| {
        config["linux"]["resources"] = json!({});
    });
    let args = ["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id];
    let (counts, trace) = least(&lab, Some(&view), || {}, &args);
    within("run on v2", &counts, &trace, [91, 116, 11]);
}

/// What engines call: create, start, exec, state, kill and delete, for runc's default configuration.
#[test]
fn a_life() {
    let lab = lab!();
    if let Err(why) = common::require_strace() {
        skip!("{why}");
    }
    if !is_hybrid() {
        skip!("the budgets are those of a hybrid machine");
    }
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["linux"]["cgroupsPath"] = Value::Null;
        config["linux"]["resources"] = json!({"pids": {"limit": 100}});
    });
    let id = bundle.id.as_str();
    let delete = || {
        lab.microrun(&["delete", "--force", id]);
    };
    let anew = |started: bool| {
        delete();
        lab.created(&bundle);
        if started {
            lab.microrun(&["start", id]).ok();
        }
    };
    let (counts, trace) = least(&lab, None, || anew(false), &["start", id]);
    // Three of these: is it paused?
    within("start", &counts, &trace, [36, 0, 0]);
    anew(true);
    let (counts, trace) = least(&lab, None, || {}, &["exec", id, "/bin/true"]);
    // Ten of init's: its stdin is the container's own /dev/null.
    within("exec", &counts, &trace, [59, 73, 4]);
    let (counts, trace) = least(&lab, None, || {}, &["state", id]);
    within("state", &counts, &trace, [18, 0, 0]);
    let stopped = || {
        anew(true);
        lab.microrun(&["kill", id, "KILL"]).ok();
        common::eventually(|| lab.status(id) == "stopped");
    };
    let (counts, trace) = least(&lab, None, stopped, &["delete", id]);
    within("delete", &counts, &trace, [31, 0, 0]);
    let (counts, trace) = least(&lab, None, || anew(true), &["delete", "--force", id]);
    within("delete --force", &counts, &trace, [53, 0, 0]);
}
