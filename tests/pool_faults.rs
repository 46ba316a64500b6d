//! A pool through which something goes wrong: what runs goes on, what waits vanishes, and who asked hears what a cold start says.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::pool::{Pool, Remains, run_args};
use common::{Bundle, Tmpfs, eventually, host, output, push};
use microrun::sys::process;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

#[test]
fn a_killed_pool_leaves_what_runs_and_nothing_of_what_waits() {
    const PARKED: usize = 64;
    const RUNNING: usize = 8;
    let mut pool = pool!();
    let bundle = pool.filled(PARKED, "sleep 1000", |_| {});
    let ids: Vec<String> = (0..RUNNING).map(|number| format!("{}-{number}", bundle.id)).collect();
    ids.iter().for_each(|id| pool.run_detached(&bundle, &[id]));
    pool.await_ready(&bundle, PARKED);
    let inits = pool.parked();
    assert_eq!(inits.len(), PARKED + RUNNING);
    let running: Vec<i32> = ids.iter().map(|id| pid_of(&pool, id)).collect();
    pool.kill();

    // Those that wait see that they have been left alone; those that run do not care.
    let is_there = |pid: &i32| fs::exists(format!("/proc/{pid}")).unwrap();
    eventually(|| inits.iter().filter(|pid| is_there(pid)).all(|pid| running.contains(pid)));
    assert!(running.iter().all(is_there));
    pool.restart();
    // The cgroups of those that run have names that nobody chose, and somebody is in them.
    let clean = Remains { containers: RUNNING, parked: 0, cgroups: 0, abandoned: BTreeSet::new() };
    eventually(|| pool.remains() == clean);
    assert_eq!(pool.status()["bundles"], json!([]));
    assert!(pool.parked().is_empty());

    assert_eq!(pool.microrun(&["list", "-q"]).ok().lines().count(), RUNNING);
    for (id, pid) in ids.iter().zip(running) {
        assert_eq!((pool.lab.status(id).as_str(), pid_of(&pool, id)), ("running", pid));
        assert_eq!(pool.microrun(&["exec", id, "echo", "inside"]).ok(), "inside");
        pool.microrun(&["kill", id, "KILL"]).ok();
    }
    for id in &ids {
        eventually(|| pool.lab.status(id) == "stopped");
        pool.microrun(&["delete", id]).ok();
    }
    eventually(|| pool.is_gone(0));
    // It serves again.
    pool.microrun(&["pool", "fill", "--size=2", bundle.path.to_str().unwrap()]).ok();
    pool.await_ready(&bundle, 2);
    pool.run_detached(&bundle, &[&ids[0]]);
    pool.microrun(&["delete", "--force", &ids[0]]).ok();
}

fn pid_of(pool: &Pool, id: &str) -> i32 {
    let state: Value = serde_json::from_str(&pool.microrun(&["state", id]).ok()).unwrap();
    state["pid"].as_i64().unwrap().try_into().unwrap()
}

#[test]
fn who_waits_outlives_the_pool() {
    if common::kernel() < (6, 15) {
        skip!("before Linux 6.15 nobody but the parent hears of an exit code");
    }
    let mut pool = pool!();
    let bundle = pool.filled(2, "while [ ! -e /mnt/go ]; do sleep 0.1; done; exit 7", |_| {});
    let path = bundle.operand();
    let commands = [vec!["run", &path], run_args(&bundle, &[])];
    let running = commands.map(|args| pool.command(&args).stdin(Stdio::null()).spawn().unwrap());
    eventually(|| pool.microrun(&["list", "-q"]).stdout.lines().count() == 2);
    pool.kill();
    fs::write(bundle.path.join("rootfs/mnt/go"), "").unwrap();
    for mut one in running {
        assert_eq!(one.wait().unwrap().code(), Some(7));
    }
    assert_eq!(pool.microrun(&["list", "-q"]).ok(), "");
    pool.restart();
}

#[test]
fn a_second_pool_does_not_begin() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    for name in ["pool/socket", "pool/other"] {
        let told = pool.microrun(&["pool", "serve", "--socket", pool.lab.path(name).to_str().unwrap()]).failed();
        assert!(told.contains("another pool"), "{told}");
    }
    assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
}

#[test]
fn a_killed_sandbox_is_replaced_and_never_served() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    for _ in 0..3 {
        let victim = pool.parked().pop().unwrap().to_string();
        host("kill", &["-9", &victim]);
        // On a busy machine it ends later, and until then it may still be given away, as a container that is killed.
        let lives = || fs::read_to_string(format!("/proc/{victim}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        eventually(|| !lives());
        let path = bundle.operand();
        assert_eq!(pool.microrun(&["run", &path]).ok(), "hello");
        pool.await_ready(&bundle, 1);
    }
}

/// When the one sandbox of a pool is killed: at this call, once it has been asked; stopped before it hears of it, if there is none.
struct Killing {
    pid: String,
    tracer: Option<Child>,
}

impl Killing {
    fn begin(pool: &Pool, call: Option<&'static str>) -> Self {
        let pid = pool.parked().pop().unwrap().to_string();
        let Some(name) = call else {
            host("kill", &["-STOP", &pid]);
            eventually(|| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T "));
            return Self { pid, tracer: None };
        };
        let trace = pool.lab.path("trace");
        let _ = fs::remove_file(&trace);
        let mut command = Command::new("strace");
        command.args(["-qq", "-o"]).arg(&trace).args(["-e", &format!("trace=recvmsg,{name}")]);
        let inject = format!("inject={name}:signal=KILL");
        let tracer = command.args(["-e", &inject, "-p", &pid]).stderr(Stdio::null()).spawn().unwrap();
        // It waits again, and what it calls then is seen.
        eventually(|| fs::read_to_string(&trace).is_ok_and(|text| text.contains("recvmsg(")));
        Self { pid, tracer: Some(tracer) }
    }

    /// Waits until it has been killed; `is_asked` is true from when it has been asked.
    fn end(self, is_asked: impl FnMut() -> bool) {
        match self.tracer {
            Some(mut tracer) => drop(tracer.wait().unwrap()),
            None => {
                eventually(is_asked);
                host("kill", &["-KILL", &self.pid]);
            }
        }
    }
}

/// How the ends of sandboxes that never began can be brought about: before the request is read, after that, and when the program is
/// to be executed.
fn early_ends() -> Vec<Option<&'static str>> {
    let traced = common::require_strace();
    let can_trace = traced.inspect_err(|why| println!("partly skipped: {why}")).is_ok();
    [None, Some("rt_sigprocmask"), Some("execve")].into_iter().filter(|call| call.is_none() || can_trace).collect()
}

#[test]
fn what_is_killed_before_its_program_began_starts_cold() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo ran >>/mnt/log; echo hello", |config| config["root"]["readonly"] = json!(false));
    let (log, out) = (bundle.rootfs().join("mnt/log"), bundle.path.join("out"));
    let (path, id) = (bundle.operand(), format!("{}-given", bundle.id));
    let ways = [vec!["run", &path], vec!["run", "--bundle", &path, &id], vec!["run", "-d", "--bundle", &path, &id]];
    for call in early_ends() {
        for way in &ways {
            let killing = Killing::begin(&pool, call);
            let mut command = pool.command(way);
            command.stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap());
            let mut running = command.spawn().unwrap();
            killing.end(|| pool.remains().containers == 1);
            assert!(running.wait().unwrap().success(), "{way:?} {call:?}");
            eventually(|| fs::read_to_string(&out).unwrap() == "hello\n");
            assert_eq!(fs::read_to_string(&log).unwrap(), "ran\n", "{way:?} {call:?}");
            if way.contains(&"-d") {
                eventually(|| pool.lab.status(&id) == "stopped");
                pool.microrun(&["delete", &id]).ok();
            }
            fs::remove_file(&log).unwrap();
            pool.await_ready(&bundle, 1);
            eventually(|| pool.is_gone(1));
        }
        let killing = Killing::begin(&pool, call);
        let args = run_args(&bundle, &[&id]);
        let running = pool.command(&args).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        killing.end(|| pool.remains().containers == 1);
        let told = running.wait_with_output().unwrap();
        let text = String::from_utf8(told.stderr).unwrap();
        assert!(told.status.code() == Some(1) && text.contains("before the program was executed"), "{text}");
        pool.await_ready(&bundle, 1);
    }
    assert!(!log.exists());
}

#[test]
fn a_lease_that_is_killed_before_its_program_began_says_so() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo ran >>/mnt/log", |config| config["root"]["readonly"] = json!(false));
    let library = microrun::pool::Pool::at(pool.socket(), pool.lab.path("run"), &bundle.path).unwrap();
    for call in early_ends() {
        let killing = Killing::begin(&pool, call);
        let sandbox = library.lease().unwrap();
        let mut running = sandbox.start(microrun::pool::Stdio::inherit(), None, &[]).unwrap();
        killing.end(|| true);
        let told = running.wait().unwrap_err();
        assert_eq!(told.kind(), microrun::error::Kind::WrongState, "{call:?}: {told}");
        pool.await_ready(&bundle, 1);
        eventually(|| pool.is_gone(1));
    }
    assert!(!bundle.rootfs().join("mnt/log").exists());
}

#[test]
fn a_program_that_began_is_never_run_again() {
    let pool = pool!();
    // By itself, which only a program can that is not the first of its pid namespace.
    let bundle = pool.filled(1, "echo ran >>/mnt/log; kill -9 $$", |config| {
        config["root"]["readonly"] = json!(false);
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
    });
    let path = bundle.operand();
    assert_eq!(pool.microrun(&["run", &path]).code, 137);
    assert_eq!(fs::read_to_string(bundle.rootfs().join("mnt/log")).unwrap(), "ran\n");
    assert_eq!(pool.served(), 1);
    pool.microrun(&["pool", "drain", &path]).ok();
    // At the first thing that it asks the kernel for.
    if early_ends().len() == 1 {
        return;
    }
    let bundle = pool.filled(1, "echo hello", |_| {});
    let path = bundle.operand();
    for options in [&[][..], &["-d"]] {
        let killing = Killing::begin(&pool, Some("brk,arch_prctl,set_tid_address"));
        let mut command = pool.command(&["run"]);
        let out = bundle.path.join("out");
        command.args(options).arg(&path).stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap());
        let code = command.status().unwrap().code();
        killing.end(|| true);
        assert_eq!(
            (code, fs::read_to_string(&out).unwrap().as_str()),
            (Some(if options.is_empty() { 137 } else { 0 }), "")
        );
        pool.await_ready(&bundle, 1);
    }
    for id in pool.microrun(&["list", "-q"]).ok().lines() {
        eventually(|| pool.lab.status(id) == "stopped");
        pool.microrun(&["delete", id]).ok();
    }
}

/// Stops the thread that takes away what has ended, the only one of such a pool besides the first, until this thread detaches from it.
fn stopped_cleaner(pool: &Pool) -> Pid {
    let server = pool.server.id().cast_signed();
    let threads = fs::read_dir(format!("/proc/{server}/task")).unwrap();
    let threads = threads.map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap());
    let others: Vec<i32> = threads.filter(|thread| *thread != server).collect();
    assert_eq!(others.len(), 1, "{others:?}");
    let cleaner = Pid::from_raw(others[0]);
    ptrace::seize(cleaner, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(cleaner).unwrap();
    waitpid(cleaner, Some(WaitPidFlag::__WALL)).unwrap();
    cleaner
}

#[test]
fn what_has_ended_is_taken_away_before_more_is_made_and_nobody_waits_for_that() {
    const BURST: u64 = 80;
    let pool = pool!();
    let many = pool.filled(BURST as usize, "echo hello", |_| {});
    let read = pool.filled(1, "read line; echo $line", |_| {});
    let mut reads = pool.command(&run_args(&read, &[]));
    let mut reads = reads.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    eventually(|| pool.status()["running"] == 1);
    pool.await_ready(&read, 1);
    let cleaner = stopped_cleaner(&pool);
    pool.microrun(&["pool", "drain", many.path.to_str().unwrap()]).ok();
    assert_eq!(pool.status()["pending"], BURST);
    assert!(pool.microrun(&["pool", "status"]).ok().contains("to be removed: 80"));
    pool.microrun(&["pool", "fill", "--size=4", many.path.to_str().unwrap()]).ok();
    // Who waits is told all the same, and who asks starts cold.
    reads.stdin.take().unwrap().write_all(b"line\n").unwrap();
    assert_eq!(reads.wait_with_output().unwrap().stdout, b"line\n");
    assert_eq!(pool.microrun(&["run", &many.operand()]).ok(), "hello");
    let status = pool.status();
    assert_eq!(status["pending"], BURST + 1);
    let of_many = status["bundles"].as_array().unwrap().iter().find(|one| one["wanted"] == 4).unwrap();
    assert_eq!([&of_many["ready"], &of_many["beingMade"], &of_many["missed"]], [0, 0, 1]);
    ptrace::detach(cleaner, None).unwrap();
    pool.await_ready(&many, 4);
    eventually(|| pool.status()["pending"] == 0);
    eventually(|| pool.is_gone(5));
}

#[test]
fn a_killed_maker_or_filler_is_begun_again_and_nothing_is_left_of_it() {
    let pool = pool!();
    let bundle = pool.filled(8, "echo hello", |_| {});
    let path = bundle.operand();
    // The filler is killed last: what is begun after that has memory of the pool's, and its sandboxes do not stay in it.
    for round in 0..8 {
        let (filler, maker) = (pool.filler().unwrap(), pool.makers().pop().unwrap());
        let victim = if round < 5 { maker } else { filler };
        // In the middle of its work, as a rule.
        for _ in 0..4 {
            assert_eq!(pool.microrun(&["run", &path]).ok(), "hello", "{round}");
        }
        host("kill", &["-9", &victim.to_string()]);
        for _ in 0..8 {
            assert_eq!(pool.microrun(&["run", &path]).ok(), "hello", "{round}");
        }
        pool.await_ready(&bundle, 8);
        eventually(|| !pool.makers().is_empty() && !pool.makers().contains(&maker) && pool.parked().len() == 8);
        assert_eq!(pool.filler() == Some(filler), victim == maker, "{round}");
    }
    assert!(pool.filler().is_some() && (1..=2).contains(&pool.makers().len()), "{:?}", pool.makers());
    eventually(|| fs::read_dir(pool.lab.path("pool/parked")).unwrap().count() == 8);
    // Five each, and a few of its own.
    assert!(pool.descriptors() < 64, "{}", pool.descriptors());
    assert!(!pool.said().contains("already exists"), "all make up the same ids");
}

#[test]
fn what_cannot_be_made_is_said_and_made_once_it_can_be() {
    let pool = pool!();
    let source = pool.lab.path("source");
    fs::create_dir(&source).unwrap();
    let bundle = pool.filled(1, "echo hello", |config| {
        push(&mut config["mounts"], json!({"destination": "/mnt", "source": source, "options": ["bind"]}));
    });
    for lost in [source, bundle.rootfs()] {
        let aside = pool.lab.path("aside");
        fs::rename(&lost, &aside).unwrap();
        let told = pool.run(&bundle, &[]).failed();
        assert!(told.contains("changed"), "{told}");
        let failure = || pool.status()["bundles"][0]["failure"].as_str().unwrap_or_default().to_owned();
        eventually(|| failure().contains(lost.to_str().unwrap()));
        fs::rename(&aside, &lost).unwrap();
        pool.await_ready(&bundle, 1);
        assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
        pool.await_ready(&bundle, 1);
    }
}

#[test]
fn a_maker_that_could_not_read_its_bundle_reads_it_again() {
    let pool = pool!();
    let limit = |pid: i32, most: u64| process::set_limit_of(pid, process::NOFILE, most, 4096).unwrap();
    eventually(|| pool.filler().is_some());
    let filler = pool.filler().unwrap();
    // Enough for what it has, a socket and a pidfd; its makers have as many, and need more.
    limit(filler, 6);
    let bundle = pool.lab.bundle(|config| {
        config["process"]["args"] = json!(["echo", "hello"]);
        config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    });
    pool.microrun(&["pool", "fill", "--size=1", bundle.path.to_str().unwrap()]).ok();
    eventually(|| pool.status()["bundles"][0]["failure"].is_string());
    let makers = pool.makers();
    assert!(!makers.is_empty(), "{}", pool.status());
    makers.iter().chain([&filler]).for_each(|pid| limit(*pid, 4096));
    pool.await_ready(&bundle, 1);
    assert_eq!(pool.makers(), makers);
    assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
}

#[test]
fn a_program_that_is_missing_is_told_as_by_a_cold_start() {
    let pool = pool!();
    let bundle = pool.filled(2, "echo hello", |_| {});
    let id = format!("{}-given", bundle.id);
    fs::rename(bundle.path.join("rootfs/bin/sh"), bundle.path.join("rootfs/bin/none")).unwrap();
    let path = bundle.path.to_str().unwrap();
    for options in [&[][..], &["-d"]] {
        let run = |mode: &str| {
            let args = ["run", mode, "--bundle", path];
            pool.microrun(&[&args, options, &[id.as_str()]].concat())
        };
        let (cold, parked) = (run("--pool=off"), run("--pool=prefer"));
        let words = |text: &str| text.split_once("level=").unwrap().1.to_owned();
        assert_eq!((parked.code, words(&parked.stderr)), (cold.code, words(&cold.stderr)));
        assert_eq!(pool.microrun(&["list", "-q"]).ok(), "");
    }
}

#[test]
fn what_one_asked_for_in_vain_is_not_the_nexts() {
    let pool = pool!();
    let bundle = pool.filled(1, "ulimit -n; sleep 0.5", |config| {
        config["process"].as_object_mut().unwrap().remove("rlimits");
    });
    let taken = pool.lab.sleeper(|_| {});
    let path = bundle.path.to_str().unwrap();
    let with_limit = |options: &[&str]| {
        let run = pool.command(&[&["run", "--bundle", path], options].concat());
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 77; exec \"$@\"", "sh"]).arg(run.get_program()).args(run.get_args());
        command.env("MICRORUN_POOL", pool.socket());
        common::output(command)
    };
    let told = with_limit(&["--pool=require", &taken.id]).failed();
    assert!(told.contains("recorded"), "{told}");
    // An id that was asked for in vain, and limits: neither stays.
    let own = host("sh", &["-c", "ulimit -n"]);
    assert_eq!(pool.run(&bundle, &[]).ok(), own);
    assert_eq!(pool.lab.status(&taken.id), "running");
    assert_eq!(pool.served(), 1);
}

#[test]
fn a_pid_file_that_cannot_be_written_leaves_no_container() {
    let pool = pool!();
    let bundle = pool.filled(2, "sleep 1000", |_| {});
    for options in [&[][..], &["-d"]] {
        let told = pool.run(&bundle, &[options, &["--pid-file", "/none/pid"]].concat()).failed();
        assert!(told.contains("/none/pid"), "{told}");
        eventually(|| pool.microrun(&["list", "-q"]).ok().is_empty());
    }
}

#[test]
fn a_container_can_be_deleted_by_force_while_its_run_waits() {
    let pool = pool!();
    let bundle = pool.filled(1, "sleep 1000", |_| {});
    let id = format!("{}-given", bundle.id);
    let mut running = pool.command(&run_args(&bundle, &[&id])).stdin(Stdio::null()).spawn().unwrap();
    eventually(|| pool.lab.status(&id) == "running");
    pool.microrun(&["delete", "--force", &id]).ok();
    assert_eq!(running.wait().unwrap().code(), Some(137));
    assert_eq!(pool.microrun(&["list", "-q"]).ok(), "");
}

#[test]
fn a_terminal_is_served() {
    let pool = pool!();
    let bundle = pool.filled(2, "tty; test -t 0 && echo terminal; exit 5", |config| {
        config["process"]["terminal"] = json!(true);
    });
    let path = bundle.operand();
    for args in [vec!["run", &path], run_args(&bundle, &[])] {
        let told = pool.microrun(&args);
        assert_eq!(told.code, 5, "{told:?}");
        assert!(told.stdout.contains("/dev/") && told.stdout.contains("terminal"), "{told:?}");
    }
    assert_eq!(pool.served(), 2);
}

/// As in a cold start: the pool does not keep it open.
#[test]
fn a_terminal_hangs_up_when_its_run_is_killed() {
    let pool = pool!();
    let bundle = pool.filled(1, "cat", |config| config["process"]["terminal"] = json!(true));
    let id = format!("{}-given", bundle.id);
    let mut running = pool.command(&run_args(&bundle, &[&id])).stdin(Stdio::null()).spawn().unwrap();
    eventually(|| pool.lab.status(&id) == "running");
    running.kill().unwrap();
    running.wait().unwrap();
    eventually(|| pool.lab.status(&id) == "stopped");
    pool.microrun(&["delete", &id]).ok();
}

#[test]
fn a_terminal_that_nobody_has_open_for_a_while_is_served_on() {
    let pool = pool!();
    let script = "t=$(tty); exec </dev/null >/dev/null 2>&1; sleep 0.5; seq 9999 >$t; echo end >$t";
    let bundle = pool.filled(1, script, |config| config["process"]["terminal"] = json!(true));
    let said = pool.run(&bundle, &[]).ok();
    assert!(said.lines().rev().take(3).eq(["end", "9999", "9998"]), "{said}");
    assert_eq!(pool.served(), 1);
}

#[test]
fn a_long_status_is_whole_and_a_burst_fails_nobody() {
    let pool = pool!();
    let bundles: Vec<_> = (0..12).map(|_| pool.filled(1, "echo hello", |_| {})).collect();
    let status: Value = pool.status();
    assert_eq!(status["bundles"].as_array().unwrap().len(), 12);
    // It keeps the null device that it lends, from the first request on.
    let before = pool.descriptors() + 1;
    let path = bundles[0].operand();
    let start = || pool.command(&["run", &path]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let all: Vec<_> = (0..10).map(|_| start()).collect();
    for one in all {
        let told = one.wait_with_output().unwrap();
        assert!(told.status.success() && told.stdout == b"hello\n", "{told:?}");
    }
    pool.await_ready(&bundles[0], 1);
    eventually(|| pool.descriptors() <= before);
}

/// The bundle's line of the pool's status.
fn told_of(pool: &Pool, bundle: &Bundle) -> Value {
    let status = pool.status();
    status["bundles"].as_array().unwrap().iter().find(|one| one["bundle"] == json!(bundle.path)).unwrap().clone()
}

#[test]
fn a_killed_sandbox_is_not_taken_for_one_that_was_being_made() {
    let pool = pool!();
    let bundle = pool.filled(2, "echo hello", |_| {});
    let makers = pool.makers();
    makers.iter().for_each(|pid| drop(host("kill", &["-STOP", &pid.to_string()])));
    let mut victims = pool.parked();
    host("kill", &["-KILL", &victims.pop().unwrap().to_string()]);
    // The next one is ordered, and is not made.
    eventually(|| told_of(&pool, &bundle)["beingMade"] == 1);
    host("kill", &["-KILL", &victims.pop().unwrap().to_string()]);
    eventually(|| told_of(&pool, &bundle)["ready"] == 0);
    let being_made = told_of(&pool, &bundle)["beingMade"].clone();
    makers.iter().for_each(|pid| drop(host("kill", &["-CONT", &pid.to_string()])));
    assert_eq!(being_made, 1);
    pool.await_ready(&bundle, 2);
}

#[test]
fn a_sandbox_that_never_became_a_container_has_no_hooks() {
    let pool = pool!();
    let log = pool.lab.path("hooks");
    let script = format!("echo ran >>{}", log.display());
    let bundle = pool.filled(4, "echo hello", |config| {
        config["hooks"] = json!({"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    });
    let (path, id) = (bundle.operand(), format!("{}-given", bundle.id));
    let hooks = || fs::read_to_string(&log).unwrap_or_default().lines().count();
    // Who makes them counts each after it is there.
    eventually(|| pool.status()["made"] == 4);
    host("kill", &["-KILL", &pool.parked().pop().unwrap().to_string()]);
    eventually(|| pool.status()["made"] == 5);
    pool.await_ready(&bundle, 4);
    pool.microrun(&["pool", "drain", &path]).ok();
    eventually(|| pool.is_gone(0));
    pool.microrun(&["pool", "fill", "--size=1", &path]).ok();
    pool.await_ready(&bundle, 1);
    let library = microrun::pool::Pool::at(pool.socket(), pool.lab.path("run"), &bundle.path).unwrap();
    drop(library.lease().unwrap());
    pool.await_ready(&bundle, 1);
    eventually(|| pool.is_gone(1));
    assert_eq!(hooks(), 0);

    // The cold start has some.
    let killing = Killing::begin(&pool, None);
    let mut command = pool.command(&["run", "--bundle", &path, &id]);
    let mut running = command.stdin(Stdio::null()).spawn().unwrap();
    killing.end(|| pool.remains().containers == 1);
    assert!(running.wait().unwrap().success());
    pool.await_ready(&bundle, 1);
    eventually(|| pool.is_gone(1));
    assert_eq!(hooks(), 1);
    assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
    assert_eq!(hooks(), 2);
}

#[test]
fn who_goes_while_hooks_run_is_not_heard_of_again_and_again() {
    let pool = pool!();
    let (begun, done) = (pool.lab.path("begun"), pool.lab.path("done"));
    let script = format!("touch {}; while [ ! -e {} ]; do sleep 0.1; done", begun.display(), done.display());
    let bundle = pool.filled(1, "while [ ! -e /mnt/go ]; do sleep 0.1; done", |config| {
        config["hooks"] = json!({"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    });
    let mut running = pool.command(&run_args(&bundle, &[])).stdin(Stdio::null()).spawn().unwrap();
    // Of all that the pool watches, who waits has odd numbers from here on (proc_pid_fdinfo(5)).
    let waits = || {
        let directory = format!("/proc/{}/fdinfo", pool.server.id());
        let texts = fs::read_dir(directory).unwrap().filter_map(|one| fs::read_to_string(one.unwrap().path()).ok());
        let texts: Vec<_> = texts.collect();
        let watched = texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.split_once("data:"));
        let keys = watched.map(|(_, rest)| rest.split_whitespace().next().unwrap());
        keys.map(|key| u64::from_str_radix(key, 16).unwrap()).filter(|key| *key > 4 && key % 2 == 1).count()
    };
    eventually(|| waits() == 1);
    fs::write(bundle.rootfs().join("mnt/go"), "").unwrap();
    eventually(|| begun.exists());
    running.kill().unwrap();
    running.wait().unwrap();
    let waiting = waits();
    fs::write(&done, "").unwrap();
    assert_eq!(waiting, 0);
    eventually(|| pool.is_gone(1));
}

/// Begins the pool again, by a command that is `changed`.
fn serve_otherwise(pool: &mut Pool, changed: impl FnOnce(Command) -> Command) {
    pool.kill();
    let socket = pool.socket();
    let command = pool.lab.command(&["pool", "serve", "--socket", socket.to_str().unwrap()]);
    let mut command = changed(pool.lab.in_own_cgroup(&command));
    pool.server = command.stdin(Stdio::null()).spawn().unwrap();
    eventually(|| pool.try_status().is_some());
}

#[test]
fn a_pool_whose_terminal_is_closed_ends_in_order_unless_it_ignores_that() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    if u64::from_str_radix(ignored, 16).unwrap() & 1 << (libc::SIGHUP - 1) != 0 {
        skip!("SIGHUP is ignored here, as by nohup(1), and so by all pools");
    }
    let mut pool = pool!();
    let bundle = pool.filled(2, "sleep 1000", |_| {});
    let id = format!("{}-given", bundle.id);
    pool.run_detached(&bundle, &[&id]);
    pool.await_ready(&bundle, 2);
    host("kill", &["-HUP", &pool.server.id().to_string()]);
    assert!(pool.server.wait().unwrap().success());
    assert!(!pool.socket().exists());
    assert_eq!((pool.remains().parked, pool.lab.status(&id).as_str()), (0, "running"));
    pool.microrun(&["delete", "--force", &id]).ok();
    eventually(|| pool.is_gone(0));

    serve_otherwise(&mut pool, |command| {
        let mut wrapped = Command::new("sh");
        wrapped.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
        wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        wrapped
    });
    host("kill", &["-HUP", &pool.server.id().to_string()]);
    // Containers are none of that.
    let bundle = pool.filled(1, "kill -HUP $$; echo ignored", |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
    });
    assert_eq!(pool.run(&bundle, &[]).code, 129);
}

#[test]
fn a_pool_whose_stderr_nobody_reads_goes_on_after_what_cannot_be_removed() {
    let mut pool = pool!();
    serve_otherwise(&mut pool, |mut command| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stderr(writer);
        command
    });
    let bundle = pool.filled(1, "echo hello", |_| {});
    let entry = fs::read_dir(pool.lab.path("pool/parked")).unwrap().next().unwrap().unwrap().path();
    // A directory that cannot be removed.
    let held = entry.join("held");
    let mounted = Tmpfs::on(&held, "mode=755");
    host("kill", &["-KILL", &pool.parked().pop().unwrap().to_string()]);
    eventually(|| told_of(&pool, &bundle)["failure"].is_string());
    eventually(|| pool.try_status().is_some_and(|status| status["pending"] == 0));
    assert!(entry.exists());
    drop(mounted);
    fs::remove_dir_all(&entry).unwrap();
    pool.await_ready(&bundle, 1);
}

#[test]
fn a_pool_at_its_limit_of_descriptors_has_fewer_sandboxes_and_answers() {
    let mut pool = pool!();
    let log = pool.lab.path("log");
    // Who asks as well: not everybody may raise a limit, not even of what he makes.
    let limited = |command: &Command| {
        let mut wrapped = Command::new("sh");
        wrapped.args(["-c", "ulimit -Sn 128; ulimit -Hn 128; exec \"$@\"", "sh"]);
        wrapped.arg(command.get_program()).args(command.get_args());
        wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        wrapped
    };
    serve_otherwise(&mut pool, |command| {
        let mut command = limited(&command);
        command.stderr(fs::File::create(&log).unwrap());
        command
    });
    let bundle = pool.lab.bundle(|config| {
        config["process"]["args"] = json!(["echo", "hello"]);
        config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    });
    let path = bundle.operand();
    pool.microrun(&["pool", "fill", "--size=32", &path]).ok();
    eventually(|| told_of(&pool, &bundle)["failure"].is_string());
    let makers = pool.makers();
    for _ in 0..3 {
        eventually(|| told_of(&pool, &bundle)["ready"].as_u64() > Some(0));
        assert_eq!(output(limited(&pool.command(&run_args(&bundle, &[])))).ok(), "hello");
    }
    assert!(makers.iter().all(|maker| pool.makers().contains(maker)));

    // At once, and what has been made by then is lost.
    pool.microrun(&["pool", "fill", "--size=1", &path]).ok();
    pool.await_ready(&bundle, 1);
    eventually(|| pool.is_gone(1));
    let makers = pool.makers();
    makers.iter().for_each(|pid| drop(host("kill", &["-STOP", &pid.to_string()])));
    host("kill", &["-KILL", &pool.parked().pop().unwrap().to_string()]);
    eventually(|| told_of(&pool, &bundle)["beingMade"] == 1);
    eventually(|| pool.is_gone(0));
    let server = pool.server.id().to_string();
    let is_open = |number: &i32| fs::symlink_metadata(format!("/proc/{server}/fd/{number}")).is_ok();
    let limit = (0..).filter(|number| !is_open(number)).nth(3).unwrap();
    let set_limit = |limit: i32| drop(host("prlimit", &["--pid", &server, &format!("--nofile={limit}:")]));
    set_limit(limit);
    let told = pool.microrun(&run_args(&bundle, &[])).failed();
    assert!(told.contains("too many descriptors"), "{told}");
    makers.iter().for_each(|pid| drop(host("kill", &["-CONT", &pid.to_string()])));
    eventually(|| fs::read_to_string(&log).unwrap().contains("the descriptors of a sandbox are lost"));
    set_limit(128);
    pool.await_ready(&bundle, 1);
    eventually(|| pool.is_gone(1));
    assert!(makers.iter().all(|maker| pool.makers().contains(maker)));

    // None for another maker: who begins them can do so later, and has nothing of the pool's in its memory.
    let filler = pool.filler();
    let sandbox = pool.parked().pop().unwrap();
    set_limit(3);
    makers.iter().chain([&sandbox]).for_each(|pid| drop(host("kill", &["-KILL", &pid.to_string()])));
    eventually(|| fs::read_to_string(&log).unwrap().contains("begin a process that makes sandboxes"));
    // Then for its socket, and not for itself: it ends, and nothing but that tells of it. For five seconds whatever ends would be found, because
    // those before have ended.
    std::thread::sleep(std::time::Duration::from_secs(6));
    eventually(|| pool.ended().is_empty());
    set_limit((0..).filter(|number| !is_open(number)).nth(2).unwrap());
    eventually(|| !pool.ended().is_empty());
    set_limit(128);
    pool.await_ready(&bundle, 1);
    assert_eq!(pool.filler(), filler);
    eventually(|| pool.ended().is_empty());
}

#[test]
fn makers_of_what_is_given_up_end_although_its_containers_run() {
    let pool = pool!();
    let bundle = pool.filled(2, "sleep 1000", |_| {});
    let id = format!("{}-given", bundle.id);
    pool.run_detached(&bundle, &[&id]);
    pool.await_ready(&bundle, 2);
    assert!(!pool.makers().is_empty());
    pool.microrun(&["pool", "drain", &bundle.operand()]).ok();
    eventually(|| pool.makers().is_empty());
    pool.microrun(&["pool", "fill", "--size=1", &bundle.operand()]).ok();
    pool.await_ready(&bundle, 1);
    // It has been changed.
    fs::write(bundle.path.join("config.json"), fs::read_to_string(bundle.path.join("config.json")).unwrap() + "\n")
        .unwrap();
    let before = pool.makers();
    pool.run(&bundle, &[]).failed();
    eventually(|| before.iter().all(|maker| !pool.makers().contains(maker)));
    pool.await_ready(&bundle, 1);
    pool.microrun(&["delete", "--force", &id]).ok();
}

#[test]
fn a_maker_that_hangs_keeps_nobody_else_from_sandboxes_and_is_replaced() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let makers = pool.makers();
    makers.iter().for_each(|pid| drop(host("kill", &["-STOP", &pid.to_string()])));
    host("kill", &["-KILL", &pool.parked().pop().unwrap().to_string()]);
    eventually(|| told_of(&pool, &bundle)["beingMade"] == 1);
    let other = pool.filled(1, "echo other", |_| {});
    assert_eq!(pool.run(&other, &[]).ok(), "other");
    pool.await_ready(&bundle, 1);
    assert!(makers.iter().all(|maker| !pool.makers().contains(maker)));
    assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
}

/// Traces a process, which goes on: once it has been killed nobody else hears of its end before this thread has waited for it.
fn traced(pid: i32) -> Pid {
    let pid = Pid::from_raw(pid);
    ptrace::seize(pid, ptrace::Options::empty()).unwrap();
    pid
}

#[test]
fn who_cannot_be_waited_for_yet_holds_nobody_up() {
    let mut pool = pool!();
    let bundle = pool.filled(2, "echo hello", |_| {});
    let is_there = |pid: Pid| fs::exists(format!("/proc/{pid}")).unwrap();
    let let_go = |pid: Pid| {
        waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
        eventually(|| !is_there(pid));
    };

    // Makers: one is killed, the other by the pool, with it.
    let makers: Vec<Pid> = pool.makers().into_iter().map(traced).collect();
    host("kill", &["-KILL", &makers[0].to_string()]);
    pool.status();
    assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
    let is_new = || !pool.makers().is_empty() && pool.makers().iter().all(|pid| !makers.contains(&Pid::from_raw(*pid)));
    eventually(is_new);
    pool.await_ready(&bundle, 2);
    makers.into_iter().for_each(let_go);

    // The filler, which does not answer.
    let filler = traced(pool.filler().unwrap());
    host("kill", &["-STOP", &filler.to_string()]);
    let other = pool.filled(1, "echo other", |_| {});
    assert_eq!(pool.run(&other, &[]).ok(), "other");
    assert!(pool.filler().is_some_and(|pid| pid != filler.as_raw()));
    let_go(filler);

    // A sandbox that is given up, and another when the pool ends.
    pool.microrun(&["pool", "drain", &other.operand()]).ok();
    pool.await_ready(&bundle, 2);
    eventually(|| pool.is_gone(2));
    let victim = traced(pool.parked()[0]);
    pool.microrun(&["pool", "drain", &bundle.operand()]).ok();
    eventually(|| pool.status()["pending"] == 0);
    eventually(|| pool.is_gone(0));
    assert!(is_there(victim));
    let_go(victim);
    pool.microrun(&["pool", "fill", "--size=1", &bundle.operand()]).ok();
    pool.await_ready(&bundle, 1);
    let last = traced(pool.parked()[0]);
    host("kill", &[&pool.server.id().to_string()]);
    eventually(|| pool.server.try_wait().unwrap().is_some());
    assert!(pool.is_gone(0));
    let_go(last);
}

#[test]
fn a_signal_that_ends_a_sandbox_before_its_program_began_is_not_lost() {
    let pool = pool!();
    let bundle = pool.filled(1, "sleep 20; echo ran >>/mnt/log", |config| {
        config["root"]["readonly"] = json!(false);
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
    });
    let pid = pool.parked().pop().unwrap().to_string();
    host("kill", &["-STOP", &pid]);
    let mut running = pool.command(&["run", &bundle.operand()]).stdin(Stdio::null()).spawn().unwrap();
    eventually(|| pool.remains().containers == 1);
    host("kill", &["-TERM", &running.id().to_string()]);
    let pending = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("ShdPnd:\t")).unwrap().to_owned();
        u64::from_str_radix(&line, 16).unwrap()
    };
    eventually(|| pending() & (1 << (libc::SIGTERM - 1)) != 0);
    host("kill", &["-CONT", &pid]);
    let ended = running.wait().unwrap();
    assert!(ended.code() == Some(143) || ended.signal() == Some(libc::SIGTERM), "{ended:?}");
    assert!(!bundle.rootfs().join("mnt/log").exists());
    pool.await_ready(&bundle, 1);
    eventually(|| pool.is_gone(1));
}
