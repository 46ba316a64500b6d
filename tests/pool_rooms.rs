//! Mount and IPC namespaces of sandboxes that are used again (`pool serve --reuse-namespaces`), and all that keeps one from it.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::pool::{Pool, allow, furnish};
use common::{Bundle, Guard, eventually, host, push};
use microrun::sys::process;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// How many containers follow each other: the third is in namespaces that the first had.
const RUNS: usize = 5;

/// What a container does while somebody else does something to it.
const WAIT: &str = "while [ -e /mnt/wait ]; do sleep 0.05; done";

/// What the pool says of how often it has used mount and IPC namespaces of a bundle again.
fn reused(pool: &Pool, bundle: &Bundle) -> u64 {
    let status = pool.status();
    let mut bundles = status["bundles"].as_array().unwrap().iter();
    bundles.find(|one| one["bundle"] == json!(bundle.path)).unwrap()["reusedMounts"].as_u64().unwrap()
}

/// Starts a container from the pool; what it prints.
fn run(pool: &Pool, bundle: &Bundle) -> String {
    pool.await_ready(bundle, 1);
    let told = pool.run(bundle, &[]).ok();
    // It is brought back.
    std::thread::sleep(Duration::from_millis(50));
    told
}

/// How many of containers that are started one after the other, of a configuration changed by `change`, are in namespaces that another one had.
fn reused_of(pool: &Pool, change: impl FnOnce(&mut Value)) -> u64 {
    let bundle = pool.filled(1, "true", change);
    for _ in 0..RUNS {
        run(pool, &bundle);
    }
    drain(pool, &bundle)
}

/// As [`reused_of`], while `act` does something to the container with this id and pid.
fn reused_after(pool: &Pool, mut act: impl FnMut(&str, &str)) -> u64 {
    let bundle = pool.filled(1, WAIT, furnish);
    for _ in 0..RUNS {
        pool.await_ready(&bundle, 1);
        let (ended, ()) = pool.run_while(&bundle, &mut act);
        assert!(ended.status.success(), "{ended:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    drain(pool, &bundle)
}

fn drain(pool: &Pool, bundle: &Bundle) -> u64 {
    pool.await_ready(bundle, 1);
    let reused = reused(pool, bundle);
    pool.microrun(&["pool", "drain", bundle.path.to_str().unwrap()]).ok();
    reused
}

/// Runs `command` in the mount namespace of the process `pid`.
fn within_mounts_of(pid: &str, command: &str) {
    let args: Vec<_> = ["-m", "-t", pid, "--", "/bin/busybox"].into_iter().chain(command.split(' ')).collect();
    host("nsenter", &args);
}

#[test]
fn they_are_used_again_where_a_container_could_change_nothing() {
    let pool = furnished_pool!();
    assert!(reused_of(&pool, furnish) > 0);
    assert!(reused_after(&pool, |_, _| ()) > 0);
}

#[test]
fn they_are_not_used_again_unless_that_is_asked_for() {
    for option in ["--reuse-netns", "--size=1"] {
        let pool = pool!(option);
        assert_eq!(reused_of(&pool, furnish), 0, "{option}");
    }
}

#[test]
fn they_look_as_new_ones_do() {
    let pool = furnished_pool!();
    let script = "id; pwd; hostname; umask; ls -la / /dev; cat /dev/null; head -c 4 /dev/zero | od; \
                  for place in / /dev /mnt /tmp; do stat -f -c '%n %T %b %f' $place; echo >$place/x; done; \
                  echo x >/dev/full; mkdir /dev/x; ls -l /dev/fd /dev/stdin; readlink /dev/ptmx; ulimit -a";
    let bundle = pool.filled(1, &format!("({script}) 2>&1"), furnish);
    let cold = pool.microrun(&["run", "--pool=off", &bundle.operand()]).ok();
    assert!(cold.contains("Read-only file system") && cold.contains("No space left"), "{cold}");
    // When /dev was made is what they may tell.
    let told = |text: &str| {
        let line = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [mode, links, .., name] if line.contains(':') && mode.len() == 10 => format!("{mode} {links} {name}"),
            _ => line.to_owned(),
        };
        text.lines().map(line).collect::<Vec<_>>()
    };
    for _ in 0..RUNS {
        assert_eq!(told(&run(&pool, &bundle)), told(&cold));
    }
    assert!(drain(&pool, &bundle) > 0);
}

#[test]
fn what_a_container_could_change_or_show_is_not_used_again() {
    let pool = furnished_pool!();
    let with = |change: &dyn Fn(&mut Value)| {
        reused_of(&pool, |config| {
            furnish(config);
            change(config);
        })
    };
    assert_eq!(with(&|config| config["root"]["readonly"] = json!(false)), 0);
    assert_eq!(with(&|config| config["mounts"][0]["options"] = json!(["nosuid"])), 0);
    for kind in ["proc", "mqueue", "devpts"] {
        let mount = json!({"destination": "/mnt", "type": kind, "source": kind, "options": ["ro"]});
        assert_eq!(with(&|config| push(&mut config["mounts"], mount.clone())), 0, "{kind}");
    }
    for call in ["shmget", "mount", "socket"] {
        assert_eq!(with(&|config| allow(config, call)), 0, "{call}");
    }
    assert_eq!(with(&|config| config["linux"]["maskedPaths"] = json!(["/tmp"])), 0);
    // Who owns a file may give it a hint (F_SET_RW_HINT).
    assert_eq!(with(&|config| config["process"]["user"] = json!({"uid": 0, "gid": 0})), 0);
    // One that joins the IPC namespace of the pool.
    let joins = |config: &mut Value| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "ipc");
    };
    assert_eq!(with(&joins), 0);
}

#[test]
fn what_somebody_else_has_mounted_is_found() {
    let pool = furnished_pool!();
    for command in [
        "mount -t tmpfs none /mnt",
        "mount -o remount,bind,rw none /dev",
        "mount -o remount,bind,nosuid none /",
        "umount -l /dev",
        "mount -o move /dev /mnt",
    ] {
        assert_eq!(reused_after(&pool, |_, pid| within_mounts_of(pid, command)), 0, "{command}");
    }
}

#[test]
fn what_is_kept_leaves_room_for_sandboxes() {
    /// So many that what is kept of them takes more memory than the pool may.
    const COUNT: usize = 24;
    let pool = furnished_pool!("--memory=4M");
    let bundle = pool.filled(2, WAIT, furnish);
    let wait = bundle.path.join("rootfs/mnt/wait");
    fs::write(&wait, "").unwrap();
    let run = |_| {
        pool.await_ready(&bundle, 2);
        Guard(pool.command(&["run", "--pool=require", &bundle.operand()]).stdin(Stdio::null()).spawn().unwrap())
    };
    let mut running: Vec<Guard> = (0..COUNT).map(run).collect();
    eventually(|| pool.microrun(&["list", "-q"]).ok().lines().count() == COUNT);
    fs::remove_file(&wait).unwrap();
    assert!(running.iter_mut().all(|one| one.wait().unwrap().success()));
    let before = pool.status()["made"].as_u64().unwrap();
    for _ in 0..3 {
        pool.await_ready(&bundle, 2);
        pool.run(&bundle, &[]).ok();
    }
    assert!(pool.status()["made"].as_u64().unwrap() > before);
}

/// Makes a System V object in the IPC namespace of this thread: a segment of memory, a queue or a semaphore.
#[allow(unsafe_code, reason = "the calls have no safe wrapper")]
fn make(object: &str) -> i32 {
    // SAFETY: the calls take numbers alone.
    unsafe {
        match object {
            "segment" => libc::shmget(libc::IPC_PRIVATE, 4096, 0o600),
            "queue" => libc::msgget(libc::IPC_PRIVATE, 0o600),
            _ => libc::semget(libc::IPC_PRIVATE, 1, 0o600),
        }
    }
}

#[test]
fn what_somebody_else_has_left_in_an_ipc_namespace_is_found() {
    let pool = furnished_pool!();
    for object in ["segment", "queue", "semaphore"] {
        let leave = |_: &str, pid: &str| {
            let namespace = File::open(format!("/proc/{pid}/ns/ipc")).unwrap();
            let made = std::thread::spawn(move || {
                process::setns(namespace.as_raw_fd(), 0).unwrap();
                make(object)
            });
            assert!(made.join().unwrap() >= 0, "{object}");
        };
        assert_eq!(reused_after(&pool, leave), 0, "{object}");
    }
}

#[test]
fn what_another_process_was_let_into_is_not_used_again() {
    let pool = furnished_pool!();
    assert_eq!(reused_after(&pool, |id, _| drop(pool.microrun(&["exec", id, "true"]))), 0);
}

#[test]
fn another_root_is_another_container() {
    let pool = furnished_pool!();
    let bundle = pool.filled(1, "cat /mnt/which", furnish);
    let which = |rootfs: &Path, text: &str| fs::write(rootfs.join("mnt/which"), text).unwrap();
    let rootfs = bundle.path.join("rootfs");
    which(&rootfs, "one");
    while reused(&pool, &bundle) < 2 {
        assert_eq!(run(&pool, &bundle), "one");
    }
    // What changes in the root is seen at once, as in a container that was there all the time.
    which(&rootfs, "changed");
    assert_eq!(run(&pool, &bundle), "changed");
    let old = bundle.path.join("old");
    fs::rename(&rootfs, &old).unwrap();
    host("cp", &["-a", old.to_str().unwrap(), rootfs.to_str().unwrap()]);
    which(&rootfs, "other");
    // The first is refused, for the pool knew another root.
    let cold = pool.microrun(&["run", &bundle.operand()]).ok();
    assert_eq!(cold, "other");
    for _ in 0..RUNS {
        assert_eq!(run(&pool, &bundle), "other");
    }
}

#[test]
fn a_maker_does_not_outlive_its_pool() {
    let mut pool = furnished_pool!();
    let bundle = pool.filled(1, "true", furnish);
    run(&pool, &bundle);
    pool.await_ready(&bundle, 1);
    let makers = pool.makers();
    assert!(!makers.is_empty());
    // So it does not find out that nobody asks it any more.
    makers.iter().for_each(|pid| drop(host("kill", &["-STOP", &pid.to_string()])));
    pool.kill();
    let is_there = |pid: &&i32| fs::exists(format!("/proc/{pid}")).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while makers.iter().any(|pid| is_there(&pid)) && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let left: Vec<_> = makers.iter().filter(is_there).collect();
    left.iter().for_each(|pid| drop(host("kill", &["-9", &pid.to_string()])));
    assert!(left.is_empty(), "{left:?}");
    // It takes away what is left of the sandbox.
    pool.restart();
    eventually(|| pool.is_gone(0));
}
