//! Many starts through one pool, after which nothing is left of them: `make soak` does 100,000 of them and prints what it saw.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where it fails")]

mod common;

use common::Bundle;
use common::pool::{Pool, furnish};
use microrun::error::Kind;
use microrun::pool::{self, Running, Stdio};
use microrun::sys::process;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many starts are wanted, if not [`FEW`].
const STARTS: &str = "MICRORUN_SOAK";

/// Enough to find what is lost with every start.
const FEW: usize = 300;

/// How many sandboxes the pool holds.
const PARKED: usize = 16;

/// One start of so many is that of the command; the others are the library's.
const BY_COMMAND: usize = 20;

/// How much more memory of its own the pool's processes may have in the end, in KiB: what an allocator keeps varies. It is 10 bytes for each
/// of 100,000 starts.
const MORE_KIB: usize = 1024;

/// How long everything may take to be taken away on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What there is while nobody asks the pool for anything.
#[derive(Debug)]
struct Seen {
    /// What must be the same before and after.
    exact: BTreeMap<&'static str, usize>,
    /// Memory that belongs to nobody else, of all processes of the pool, in KiB.
    anonymous: usize,
    /// What the kernel has of some things, on the whole machine, on which others are at work.
    kernel: BTreeMap<&'static str, usize>,
}

/// The first number of the line of `path` that begins with `name`, after so many others.
fn number(path: &str, name: &str, others: usize) -> Option<usize> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().nth(1 + others)?.parse().ok()
}

/// The processes below `pid`, and that one.
fn family(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let children: Vec<u32> =
        lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect();
    children.into_iter().flat_map(family).chain([pid]).collect()
}

/// The memory of a process, in KiB.
fn resident(pid: u32) -> usize {
    number(&format!("/proc/{pid}/smaps_rollup"), "Rss:", 0).unwrap_or(0)
}

/// The memory that the processes have for themselves, in KiB; what several have in common counts once.
fn anonymous(family: &[u32]) -> usize {
    let family: Vec<i32> = family.iter().map(|pid| pid.cast_signed()).collect();
    let of = |pid| number(&format!("/proc/{pid}/smaps_rollup"), "Anonymous:", 0).unwrap_or(0);
    process::one_of_each_memory(&family).map(of).sum()
}

fn count(path: String) -> usize {
    fs::read_dir(path).map_or(0, Iterator::count)
}

impl Seen {
    /// Looks; `ids` are those of containers that there have been.
    fn now(pool: &Pool, ids: &BTreeSet<String>) -> Self {
        let family = family(pool.server.id());
        let sum = |of: &dyn Fn(u32) -> usize| family.iter().map(|pid| of(*pid)).sum::<usize>();
        let remains = pool.remains();
        // Those in the laboratory: others mount in places of theirs.
        let lab = pool.lab.path("").display().to_string();
        let mounts = |path: String| {
            fs::read_to_string(path).unwrap_or_default().lines().filter(|line| line.contains(&lab)).count()
        };
        let exact = BTreeMap::from([
            ("cgroups of containers", cgroups_of(ids)),
            ("containers on record", remains.containers),
            ("sandboxes on record", remains.parked),
            ("processes of the pool", family.len()),
            ("descriptors of the pool", sum(&|pid| count(format!("/proc/{pid}/fd")))),
            ("descriptors of who asks", count("/proc/self/fd".to_owned())),
            ("children of who asks", self::family(std::process::id()).len()),
            ("mounts of the host", mounts("/proc/self/mountinfo".to_owned())),
            ("mounts of the pool", mounts(format!("/proc/{}/mountinfo", pool.server.id()))),
        ]);
        let slab = |name| number("/proc/slabinfo", name, 0).map(|active| (name, active));
        // Those that have been removed and are still charged for something are among them.
        let cgroups = number("/proc/cgroups", "memory", 1).map(|all| ("memory cgroups", all));
        let abandoned = [("cgroups in which nobody is", remains.abandoned.len())];
        let kernel = ["net_namespace", "pid_namespace", "mnt_cache", "task_struct"].into_iter().filter_map(slab);
        Self { exact, anonymous: anonymous(&family), kernel: kernel.chain(cgroups).chain(abandoned).collect() }
    }

    /// What must be the same; but for descriptors of the pool, if there are no more than `kept` more or less than in `other`.
    fn exact_but(&self, kept: usize, other: &Self) -> BTreeMap<&'static str, usize> {
        const NAME: &str = "descriptors of the pool";
        let is_kept = self.exact[NAME].abs_diff(other.exact[NAME]) <= kept;
        self.exact.iter().filter(|(name, _)| **name != NAME || !is_kept).map(|(name, count)| (*name, *count)).collect()
    }

    /// What of the kernel's is more than it was by more than `most`.
    fn grown<'a>(&'a self, before: &'a Self, most: usize) -> Vec<&'a str> {
        let is_more = |name: &&str, now: usize| before.kernel.get(name).is_some_and(|before| now > before + most);
        self.kernel.iter().filter(|(name, now)| is_more(name, **now)).map(|(name, _)| *name).collect()
    }
}

/// How many cgroups there are that are called as one of the containers.
fn cgroups_of(ids: &BTreeSet<String>) -> usize {
    let all = common::hierarchies().into_iter().flat_map(|hierarchy| fs::read_dir(hierarchy).into_iter().flatten());
    all.flatten().filter(|entry| entry.file_name().to_str().is_some_and(|name| ids.contains(name))).count()
}

/// What was seen before and after, for people.
fn print(before: &Seen, after: &Seen) {
    let row = |name: &str, before: usize, after: usize| println!("{name:<48}{before:>10}{after:>10}");
    println!("{:<48}{:>10}{:>10}", "", "before", "after");
    for (name, before) in &before.exact {
        row(name, *before, after.exact[name]);
    }
    row("the pool's own memory, KiB", before.anonymous, after.anonymous);
    for (name, before) in &before.kernel {
        row(&format!("{name}, whole machine"), *before, after.kernel[name]);
    }
}

/// Starts a program by the library, which waits for a sandbox as long as there is none.
fn started(library: &pool::Pool, null: &fs::File) -> Running {
    let stdio = Stdio { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() };
    loop {
        match library.lease() {
            Ok(sandbox) => return sandbox.start(stdio, None, &[]).unwrap(),
            Err(error) => assert_eq!(error.kind(), Kind::WrongState, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// So many starts, two at a time; adds the ids of the containers that have one which can be known.
fn start_many(pool: &Pool, bundle: &Bundle, starts: usize, ids: &mut BTreeSet<String>) {
    let library = pool::Pool::at(pool.socket(), pool.lab.path("run"), &bundle.path).unwrap();
    let null = fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let (done, began) = (AtomicUsize::new(0), Instant::now());
    let path = bundle.operand();
    let script = format!("i=0; while [ $i -lt {} ]; do \"$@\" || exit; i=$((i + 1)); done", starts / BY_COMMAND);
    let run = pool.lab.command(&["run", &path]);
    let mut many = Command::new("sh");
    many.args(["-c", &script, "sh"]).arg(run.get_program()).args(run.get_args());
    let mut many = pool.lab.in_own_cgroup(&many).env("MICRORUN_POOL", pool.socket()).spawn().unwrap();
    let used = Mutex::new(ids);
    let (by_library, server) = (starts - starts / BY_COMMAND, pool.server.id());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while done.fetch_add(1, Ordering::Relaxed) < by_library {
                    let mut running = started(&library, &null);
                    used.lock().unwrap().insert(running.id().to_owned());
                    assert_eq!(running.wait().unwrap(), 0);
                    let done = done.load(Ordering::Relaxed);
                    if done % 10_000 == 0 {
                        println!(
                            "{done} starts after {:.0?}, the pool has {} KiB and {} descriptors",
                            began.elapsed(),
                            resident(server),
                            count(format!("/proc/{server}/fd"))
                        );
                    }
                }
            });
        }
    });
    assert!(many.wait().unwrap().success());
}

/// What there is when the pool is full and everything that ended has been taken away.
fn at_rest(pool: &Pool, bundle: &Bundle, ids: &BTreeSet<String>) -> Seen {
    pool.await_ready(bundle, PARKED);
    let deadline = Instant::now() + PATIENCE;
    let mut last = Seen::now(pool, ids);
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let before = std::mem::replace(&mut last, Seen::now(pool, ids));
        let exact = &last.exact;
        let is_gone = (exact["cgroups of containers"], exact["containers on record"], exact["sandboxes on record"])
            == (0, 0, PARKED);
        if is_gone && before.exact == last.exact {
            return last;
        }
        assert!(Instant::now() < deadline, "{:?}, then {exact:?}", before.exact);
    }
}

/// What is there once it is what was there before, or after 30 s: the kernel takes namespaces apart in the background.
fn settled(pool: &Pool, ids: &BTreeSet<String>, before: &Seen, kept: usize, most: usize) -> Seen {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = Seen::now(pool, ids);
        if (now.exact_but(kept, before) == before.exact_but(kept, &now) && now.grown(before, most).is_empty())
            || Instant::now() > deadline
        {
            return now;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One test at a time: children and descriptors of this process are counted.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Many starts through `pool`, of a configuration changed by `change`; it may keep up to `kept` namespaces of ended containers for later.
fn soak(pool: &Pool, kept: usize, change: impl FnOnce(&mut Value)) {
    let starts = std::env::var(STARTS).map_or(FEW, |text| text.parse().unwrap());
    let bundle = pool.filled(PARKED, "exit 0", |config| {
        config["process"]["args"] = json!(["true"]);
        change(config);
    });
    // What is made once is made.
    let mut ids = BTreeSet::new();
    start_many(pool, &bundle, (starts / 10).min(1000), &mut ids);
    let (before, began) = (at_rest(pool, &bundle, &ids), Instant::now());
    start_many(pool, &bundle, starts, &mut ids);
    let took = began.elapsed();
    at_rest(pool, &bundle, &ids);
    // Each CPU keeps slabs of its own, of which all objects count; and a namespace of the most has four mounts.
    let cpus = fs::read_to_string("/proc/stat").unwrap().lines().filter(|line| line.starts_with("cpu")).count() - 1;
    let most = 100 * cpus.max(2) + starts / 500 + 4 * kept;
    let after = settled(pool, &ids, &before, kept, most);
    println!("{starts} starts in {took:.1?}; {} from the pool, those to warm up included", pool.served());
    print(&before, &after);
    assert_eq!(before.exact_but(kept, &after), after.exact_but(kept, &before));
    assert_eq!(after.grown(&before, most), Vec::<&str>::new());
    assert!(after.anonymous <= before.anonymous + MORE_KIB, "{} KiB, {} KiB", before.anonymous, after.anonymous);
}

#[test]
fn starts_leave_nothing() {
    let _alone = alone();
    soak(&pool!(), 0, |_| {});
}

#[test]
fn starts_in_namespaces_used_again_leave_nothing() {
    let _alone = alone();
    let pool = furnished_pool!();
    // Network, mount and IPC namespaces, of as many sandboxes as there are, and 32 more.
    soak(&pool, 3 * (PARKED + 32), furnish);
    let reused = pool.status()["bundles"][0]["reusedMounts"].as_u64().unwrap();
    assert!(reused * 10 > pool.served() * 9, "{reused} of {}", pool.served());
}
