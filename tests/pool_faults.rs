//! A pool through which something goes wrong: what runs goes on, what waits vanishes, and who asked hears what a cold start says.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::pool::{Pool, Remains, run_args};
use common::{eventually, host, push};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

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
    let path = bundle.path.to_str().unwrap().to_owned() + "/";
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
        let path = bundle.path.to_str().unwrap().to_owned() + "/";
        assert_eq!(pool.microrun(&["run", &path]).ok(), "hello");
        pool.await_ready(&bundle, 1);
    }
}

#[test]
fn a_killed_filler_is_begun_again_and_nothing_is_left_of_it() {
    let pool = pool!();
    let bundle = pool.filled(8, "echo hello", |_| {});
    let path = bundle.path.to_str().unwrap().to_owned() + "/";
    for round in 0..6 {
        let filler = pool.filler().unwrap();
        // In the middle of its work, as a rule.
        for _ in 0..4 {
            assert_eq!(pool.microrun(&["run", &path]).ok(), "hello", "{round}");
        }
        host("kill", &["-9", &filler.to_string()]);
        for _ in 0..8 {
            assert_eq!(pool.microrun(&["run", &path]).ok(), "hello", "{round}");
        }
        pool.await_ready(&bundle, 8);
        eventually(|| pool.filler().is_some_and(|other| other != filler) && pool.parked().len() == 8);
    }
    eventually(|| fs::read_dir(pool.lab.path("pool/parked")).unwrap().count() == 8);
    // Five each, and a few of its own.
    assert!(pool.descriptors() < 64, "{}", pool.descriptors());
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
    let path = bundle.path.to_str().unwrap().to_owned() + "/";
    for args in [vec!["run", &path], run_args(&bundle, &[])] {
        let told = pool.microrun(&args);
        assert_eq!(told.code, 5, "{told:?}");
        assert!(told.stdout.contains("/dev/") && told.stdout.contains("terminal"), "{told:?}");
    }
    assert_eq!(pool.served(), 2);
}

#[test]
fn a_long_status_is_whole_and_a_burst_fails_nobody() {
    let pool = pool!();
    let bundles: Vec<_> = (0..12).map(|_| pool.filled(1, "echo hello", |_| {})).collect();
    let status: Value = pool.status();
    assert_eq!(status["bundles"].as_array().unwrap().len(), 12);
    let before = pool.descriptors();
    let path = bundles[0].path.to_str().unwrap().to_owned() + "/";
    let start = || pool.command(&["run", &path]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let all: Vec<_> = (0..10).map(|_| start()).collect();
    for one in all {
        let told = one.wait_with_output().unwrap();
        assert!(told.status.success() && told.stdout == b"hello\n", "{told:?}");
    }
    pool.await_ready(&bundles[0], 1);
    eventually(|| pool.descriptors() <= before);
}
