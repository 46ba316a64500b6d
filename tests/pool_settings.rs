//! How a pool is run: its limits, its file of configuration, what it says of itself, and the socket of a service manager.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::pool::{Pool, run_args, why_it_cannot_be};
use common::{Bundle, Lab, Tmpfs, eventually, host};
use microrun::pool;
use microrun::sys::process;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, setsockopt, socket, sockopt};
use serde_json::{Value, json};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_file_says_what_the_command_line_does_not() {
    let lab = lab!();
    let config = lab.path("pool.json");
    let bundles: Vec<_> = (0..2).map(|_| lab.bundle(|config| drop(parkable(config)))).collect();
    let text = json!({
        "size": 1, "max": 5, "memory": "64M", "cpu": 50, "rate": 1000, "idle": 3600,
        "bundles": [bundles[0].path, {"path": bundles[1].path, "size": 2}]
    });
    fs::write(&config, text.to_string()).unwrap();
    let Some(pool) = Pool::of(lab, &["--config", config.to_str().unwrap(), "--rate=500"]) else { return };
    pool.await_ready(&bundles[0], 1);
    pool.await_ready(&bundles[1], 2);
    let status = pool.status();
    let limits = json!({"max": 5, "memory": 64 << 20, "cpu": 50, "rate": 500, "idle": 3600});
    assert_eq!(status["limits"], limits);
    let table = pool.microrun(&["pool", "status"]).ok();
    let head = table.lines().next().unwrap();
    assert_eq!(
        head.split_whitespace().collect::<Vec<_>>(),
        ["READY", "WANTED", "MAKING", "SERVED", "MISSED", "EACH", "BUNDLE"]
    );
    for bundle in &bundles {
        assert!(table.contains(bundle.path.to_str().unwrap()), "{table}");
    }
    assert!(table.contains("of at most 64 MiB"), "{table}");
    assert_eq!(
        pool.microrun(&["pool", "status", "-f", "json"]).ok(),
        pool.microrun(&["pool", "status", "--format=json"]).ok()
    );
    assert!(pool.microrun(&["pool", "status", "--format=yaml"]).failed().contains("yaml"));
}

/// A configuration that a pool takes.
fn parkable(config: &mut Value) -> Option<Value> {
    config["process"]["args"] = json!(["echo", "hello"]);
    config["linux"].as_object_mut().unwrap().remove("cgroupsPath")
}

#[test]
fn what_is_wrong_with_the_settings_is_said_in_a_sentence() {
    let pool = pool!();
    let config = pool.lab.path("pool.json");
    let socket = pool.lab.path("other/socket");
    let serve = |option: &str, value: &str| {
        let args = ["pool", "serve", "--socket", socket.to_str().unwrap(), option, value];
        pool.microrun(&args).failed()
    };
    for (text, expected) in [
        (r#"{"siz": 8}"#, "siz: there is no such field"),
        (r#"{"cpu": 0}"#, "cpu: is 0: give a percentage from 1 to 100"),
        ("{", "not valid JSON"),
    ] {
        fs::write(&config, text).unwrap();
        let told = serve("--config", config.to_str().unwrap());
        assert!(told.contains(expected) && told.contains(config.to_str().unwrap()), "{told}");
    }
    assert!(serve("--config", "/nonexistent/pool.json").contains("read /nonexistent/pool.json"));
    for (option, value, expected) in [
        ("--cpu", "101", "a percentage from 1 to 100"),
        ("--rate", "0", "how many in a second"),
        ("--memory", "-1", "an amount such as 64M"),
        ("--idle", "x", "a number of seconds"),
    ] {
        let told = serve(option, value);
        assert!(told.contains(option) && told.contains(expected), "{told}");
    }
    assert!(!socket.exists());
    let bundle = pool.lab.path("bundle");
    for (args, expected) in [
        (&["fill"][..], "pool fill: names no bundle"),
        (&["drain"], "pool drain: names no bundle"),
        (&["status", bundle.to_str().unwrap()], "pool status: takes no bundle"),
    ] {
        let told = pool.microrun(&[&["pool"], args].concat()).failed();
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn no_more_are_made_than_the_memory_is_for() {
    let pool = pool!("--memory=1500K");
    // Each takes some 370 KiB, most of it the kernel's.
    let bundle = pool.lab.bundle(|config| drop(parkable(config)));
    pool.microrun(&["pool", "fill", "--size=64", bundle.path.to_str().unwrap()]).ok();
    let is_full = |status: &Value| {
        let each = status["bundles"][0]["memoryOfEach"].as_u64().unwrap_or(u64::MAX);
        status["bundles"][0]["beingMade"] == 0 && status["memory"].as_u64().unwrap() + each > 1500 << 10
    };
    eventually(|| is_full(&pool.status()));
    let status = pool.status();
    let (ready, memory) = (status["bundles"][0]["ready"].as_u64().unwrap(), status["memory"].as_u64().unwrap());
    assert!((1..=8).contains(&ready) && memory <= 1500 << 10, "{status}");
    assert_eq!(memory, ready * status["bundles"][0]["memoryOfEach"].as_u64().unwrap());
    // What is used up is made again.
    assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
    pool.await_ready(&bundle, ready as usize);
}

#[test]
fn no_more_are_made_than_there_may_be() {
    let pool = pool!("--max=3");
    let bundle = pool.lab.bundle(|config| drop(parkable(config)));
    pool.microrun(&["pool", "fill", "--size=64", bundle.path.to_str().unwrap()]).ok();
    pool.await_ready(&bundle, 3);
    assert_eq!(pool.status()["bundles"][0]["beingMade"], 0);
}

/// How long whatever a pool with a limit makes may take, pauses included.
const PATIENCE: Duration = Duration::from_secs(300);

/// The share of a CPU, in percent, at which a sandbox or a part takes half a second on the average, pauses included; `least` where that is
/// enough.
fn share(least: u32) -> Option<u32> {
    let (pool, bundle, _) = with_parts(4, &[])?;
    pool.microrun(&["pool", "fill", "--size=4", bundle.path.to_str().unwrap()]).ok();
    eventually(|| pool.status()["made"] == 12);
    let each = pool.status()["cpuSeconds"].as_f64().unwrap() / 12.0;
    Some(((each / 0.5 * 100.0).ceil() as u32).clamp(least, 50))
}

/// What a pool that may take this share of a CPU may have used after a time: 100 ms are saved.
fn allowed(share: u32, took: Duration) -> Duration {
    (took + Duration::from_millis(100)) * share / 100
}

/// A pool with such an option that has made `count` sandboxes, and how long that took.
fn time_to_make(count: usize, option: &str) -> Option<(Pool, Duration)> {
    let pool = Pool::new(&[option])?;
    let bundle = pool.lab.bundle(|config| drop(parkable(config)));
    let began = Instant::now();
    pool.microrun(&["pool", "fill", "--size", &count.to_string(), bundle.path.to_str().unwrap()]).ok();
    let deadline = began + PATIENCE;
    while pool.status()["bundles"][0]["ready"] != count {
        assert!(Instant::now() < deadline, "{}", pool.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    Some((pool, began.elapsed()))
}

#[test]
fn no_more_are_made_in_a_second_than_may_be() {
    let Some((_pool, took)) = time_to_make(4, "--rate=2") else { return };
    assert!(took >= Duration::from_millis(1500), "{took:?}");
}

#[test]
fn many_bundles_have_one_rate() {
    const BUNDLES: u64 = 6;
    let pool = pool!("--rate=2");
    let bundles: Vec<_> = (0..BUNDLES).map(|_| pool.lab.bundle(|config| drop(parkable(config)))).collect();
    let began = Instant::now();
    for bundle in &bundles {
        pool.microrun(&["pool", "fill", "--size=1", bundle.path.to_str().unwrap()]).ok();
    }
    loop {
        let made = pool.status()["made"].as_u64().unwrap();
        // One at once, and one each half second.
        let most = 1 + began.elapsed().as_millis() as u64 / 500;
        assert!(made <= most, "{made} of {most}");
        if made == BUNDLES {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{}", pool.status());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn making_them_leaves_the_cpu_to_others() {
    let Some(share) = share(5) else { return };
    let Some((pool, took)) = time_to_make(20, &format!("--cpu={share}")) else { return };
    let mut used: Vec<Duration> = pool.parked().into_iter().map(|pid| process::cpu_time_of(pid).unwrap()).collect();
    // After the last there is nothing to wait for.
    used.sort();
    used.pop();
    let used: Duration = used.into_iter().sum();
    // Who makes them uses as much again, which is not looked at here.
    assert!(used <= allowed(share, took), "{used:?} in {took:?}, {share} %");
}

/// A pool with such an option that is to have `count` parts of either kind and has no sandboxes, with a bundle, and when it began: it makes
/// network namespaces from the first moment.
fn with_parts(count: usize, options: &[&str]) -> Option<(Pool, Bundle, Instant)> {
    let count = count.to_string();
    let began = Instant::now();
    let pool = Pool::new(&[&["--parts", &count], options].concat())?;
    let bundle = pool.lab.bundle(|config| drop(parkable(config)));
    Some((pool, bundle, began))
}

/// Has the pool, which `began` then, keep so many sandboxes of the bundle; how long all of it takes, with parts, until `count` things have been
/// made.
fn time_until_made((pool, bundle, began): &(Pool, Bundle, Instant), size: usize, count: u64) -> Duration {
    pool.microrun(&["pool", "fill", "--size", &size.to_string(), bundle.path.to_str().unwrap()]).ok();
    let deadline = Instant::now() + PATIENCE;
    while pool.status()["made"].as_u64().unwrap() < count {
        assert!(Instant::now() < deadline, "{}", pool.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

#[test]
fn parts_count_towards_the_rate() {
    // For parts alone, and for both together.
    for (size, made) in [(0, 6), (3, 9)] {
        let Some((pool, bundle, began)) = with_parts(3, &["--rate=4"]) else { return };
        pool.microrun(&["pool", "fill", "--size", &size.to_string(), bundle.path.to_str().unwrap()]).ok();
        loop {
            let status = pool.status();
            // One at once, and one each quarter of a second; each of the two that make them may be at one that counts already.
            let most = 3 + began.elapsed().as_millis() as u64 / 250;
            assert!(status["made"].as_u64().unwrap() <= most, "{most}: {status}");
            if status["made"] == made {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(began.elapsed() >= Duration::from_millis(250 * (made - 3)));
        eventually(|| pool.status()["parts"]["beingMade"] == 0);
        let status = pool.status();
        assert_eq!((&status["parts"]["networks"], &status["parts"]["cgroups"]), (&json!(3), &json!(3)));
        assert_eq!(status["bundles"][0]["ready"], size);
        assert!(pool.microrun(&["pool", "status"]).ok().contains(&format!("made: {made} in ")));
    }
}

/// The CPU time of a process's threads but the first.
fn time_of_threads(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let others = tasks.filter(|task| task.file_name().to_str() != Some(&pid.to_string()));
    let spent = others.map(|task| fs::read_to_string(task.path().join("schedstat")).unwrap());
    spent.map(|text| Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())).sum()
}

#[test]
fn parts_count_towards_the_share_of_the_cpu() {
    let Some(share) = share(2) else { return };
    let Some(made) = with_parts(40, &[&format!("--cpu={share}")]) else { return };
    let (took, pool) = (time_until_made(&made, 0, 80), made.0);
    let seconds = pool.status()["cpuSeconds"].as_f64().unwrap();
    // The last is not waited for, and the thread has other things to do, above all to begin.
    let all = time_of_threads(pool.server.id()).as_secs_f64();
    assert!(seconds <= all && seconds > all / 2.0, "{seconds} of {all}");
    let allowed = allowed(share, took).as_secs_f64() + seconds / 10.0;
    assert!(seconds <= allowed, "{seconds} in {took:?}, {share} %");
}

#[test]
fn sandboxes_and_parts_have_one_share_of_the_cpu() {
    let Some(share) = share(5) else { return };
    let Some(made) = with_parts(20, &[&format!("--cpu={share}")]) else { return };
    let (took, pool) = (time_until_made(&made, 20, 60), made.0);
    let status = pool.status();
    let seconds = status["cpuSeconds"].as_f64().unwrap();
    // One of each may be on its way.
    let allowed = allowed(share, took).as_secs_f64() + seconds / 10.0;
    assert!(seconds <= allowed, "{seconds} in {took:?}, {share} %");
    let of_sandboxes: Duration = pool.parked().into_iter().map(|pid| process::cpu_time_of(pid).unwrap()).sum();
    assert!(seconds > of_sandboxes.as_secs_f64() / 2.0, "{status}, {of_sandboxes:?}");
}

#[test]
fn parts_count_towards_the_memory() {
    // A namespace is taken to have 230 KiB.
    let Some((pool, bundle, _)) = with_parts(8, &["--memory=1500K"]) else { return };
    pool.microrun(&["pool", "fill", "--size=0", bundle.path.to_str().unwrap()]).ok();
    let is_full = |status: &Value| {
        let parts = &status["parts"];
        parts["beingMade"] == 0 && parts["networks"].as_u64().unwrap() > 0
    };
    eventually(|| is_full(&pool.status()));
    // What is known of cgroups by then may leave room for one more.
    std::thread::sleep(Duration::from_millis(100));
    let status = pool.status();
    let networks = status["parts"]["networks"].as_u64().unwrap();
    assert!((1..=6).contains(&networks), "{status}");
    assert!(status["memory"].as_u64().unwrap() <= 1500 << 10, "{status}");
    assert_eq!(status["memory"], status["parts"]["memory"]);
    // Sandboxes that come later get what is left, which is not enough for more than one.
    pool.microrun(&["pool", "fill", "--size=8", bundle.path.to_str().unwrap()]).ok();
    let settled = |status: &Value| {
        let bundle = &status["bundles"][0];
        bundle["beingMade"] == 0 && status["parts"]["beingMade"] == 0
    };
    eventually(|| settled(&pool.status()));
    let status = pool.status();
    assert!(status["bundles"][0]["ready"].as_u64().unwrap() < 4, "{status}");
    // Whoever takes parts takes their memory with him.
    pool.microrun(&["pool", "drain", bundle.path.to_str().unwrap()]).ok();
    eventually(|| pool.status()["parts"]["cgroups"] == 0 && pool.status()["parts"]["pending"] == 0);
}

#[test]
fn sandboxes_come_before_parts_where_memory_is_short() {
    let Some((pool, bundle, _)) = with_parts(8, &["--memory=1500K"]) else { return };
    pool.microrun(&["pool", "fill", "--size=64", bundle.path.to_str().unwrap()]).ok();
    let each = |status: &Value| status["bundles"][0]["memoryOfEach"].as_u64().unwrap_or(u64::MAX);
    let is_full = |status: &Value| {
        status["bundles"][0]["beingMade"] == 0
            && status["parts"]["beingMade"] == 0
            && status["memory"].as_u64().unwrap().saturating_add(each(status)) > 1500 << 10
    };
    eventually(|| is_full(&pool.status()));
    let status = pool.status();
    let ready = status["bundles"][0]["ready"].as_u64().unwrap();
    assert_eq!(ready, (1500 << 10) / each(&status), "{status}");
    assert!(status["memory"].as_u64().unwrap() <= 1500 << 10, "{status}");
    assert_eq!(status["memory"].as_u64().unwrap(), ready * each(&status) + status["parts"]["memory"].as_u64().unwrap());
}

#[test]
fn a_bundle_that_nobody_asks_for_is_given_up() {
    let pool = pool!("--idle=1");
    let bundle = pool.lab.bundle(|config| drop(parkable(config)));
    pool.microrun(&["pool", "fill", "--size=2", bundle.path.to_str().unwrap()]).ok();
    eventually(|| pool.status()["bundles"] == json!([]));
    eventually(|| pool.is_gone(0));
}

#[test]
fn a_bundle_of_which_only_parts_are_asked_for_is_not_given_up() {
    let lab = lab!();
    let bundle = lab.bundle(|config| drop(parkable(config)));
    let path = bundle.operand();
    let began = Instant::now();
    common::output(lab.in_own_cgroup(&lab.command(&["run", "--no-new-keyring", &path]))).ok();
    // Much longer than it is from one to the next that asks for it.
    let idle = Duration::from_secs(4 + (20.0 * began.elapsed().as_secs_f64()).ceil() as u64);
    let Some(pool) = Pool::of(lab, &[&format!("--idle={}", idle.as_secs()), "--parts=1"]) else { return };
    pool.microrun(&["pool", "fill", "--size=1", bundle.path.to_str().unwrap()]).ok();
    let unasked = pool.filled(1, "echo hello", |_| {});
    let has = |bundle: &Bundle| {
        let status = pool.status();
        status["bundles"].as_array().unwrap().iter().any(|one| one["bundle"] == json!(bundle.path))
    };
    // By commands that take no sandbox.
    let is_given_up = || {
        assert_eq!(pool.microrun(&["run", "--no-new-keyring", &path]).ok(), "hello");
        assert!(has(&bundle) || has(&unasked), "it has been given up as soon as the other");
        !has(&unasked)
    };
    common::within(PATIENCE + 2 * idle, is_given_up, &true);
    assert!(has(&bundle));
}

/// A datagram socket at `path`, as systemd makes one for contrib/systemd/microrun-pool.socket.
fn listening(path: &Path) -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None).unwrap();
    setsockopt(&socket, sockopt::PassCred, &true).unwrap();
    bind(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    socket
}

/// Waits for a while until it `is_ready`; whether the pool has ended instead.
fn eventually_or_ended(server: &mut Child, is_ready: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match server.try_wait().unwrap() {
            Some(_) => return true,
            None if is_ready() || Instant::now() >= deadline => return false,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// What executes its arguments with its standard input as the descriptor 3 of a service manager (sd_listen_fds(3)).
const AS_SYSTEMD: &str = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=x; exec \"$@\"";

#[test]
fn the_socket_of_a_service_manager_is_taken_and_left() {
    let lab = lab!();
    fs::create_dir(lab.path("pool")).unwrap();
    let bundle = lab.bundle(|config| drop(parkable(config)));
    let path = lab.path("pool/socket");
    let socket = listening(&path);
    // Asked before there is a pool: the answer comes when there is one.
    let status =
        lab.command(&["pool", "status", "--format=json"]).env("MICRORUN_POOL", &path).stdout(Stdio::piped()).spawn();
    let mut status = status.unwrap();
    for _ in 0..2 {
        let serve = lab.command(&["pool", "serve", "--size=1", bundle.path.to_str().unwrap()]);
        let mut manager = Command::new("sh");
        manager.args(["-c", AS_SYSTEMD, "sh"]).arg(serve.get_program()).args(serve.get_args());
        let mut manager = lab.in_own_cgroup(&manager);
        let said = fs::File::create(lab.path("said")).unwrap();
        manager.stdin(socket.try_clone().unwrap()).stderr(said).env("MICRORUN_POOL", &path);
        // The lab is lent to one after the other.
        let mut server = manager.spawn().unwrap();
        let asks = |args: &[&str]| {
            let mut command = lab.in_own_cgroup(&lab.command(args));
            command.env("MICRORUN_POOL", &path);
            common::output(command)
        };
        // By a file: who asks hands over what it writes to, and in our socket a pipe stays open if no pool takes it out.
        let told = lab.path("told");
        let is_ready = || {
            let mut command = lab.in_own_cgroup(&lab.command(&["pool", "status", "--format=json"]));
            command.env("MICRORUN_POOL", &path).stdout(fs::File::create(&told).unwrap()).stderr(Stdio::null());
            command.status().unwrap().success() && fs::read_to_string(&told).unwrap().contains("\"ready\":1")
        };
        eventually(|| server.try_wait().unwrap().is_some() || is_ready());
        if server.try_wait().unwrap().is_some() {
            let _ = status.kill().and_then(|()| status.wait());
            skip!("{}", why_it_cannot_be(&fs::read_to_string(lab.path("said")).unwrap()));
        }
        assert_eq!(asks(&run_args(&bundle, &[])).ok(), "hello");
        host("kill", &[&server.id().to_string()]);
        assert!(server.wait().unwrap().success());
        // It is the service manager's, who listens on.
        assert!(path.exists());
    }
    let told = status.wait_with_output().unwrap();
    assert!(told.status.success() && told.stdout.starts_with(b"{\"bundles\""), "{told:?}");
}

#[test]
fn a_pool_is_in_its_own_network_and_not_in_that_of_its_socket() {
    let lab = lab!();
    fs::create_dir(lab.path("pool")).unwrap();
    let path = lab.path("pool/socket");
    let socket = listening(&path);
    let serve = lab.command(&["pool", "serve"]);
    let mut manager = Command::new("unshare");
    manager.args(["-n", "sh", "-c", AS_SYSTEMD, "sh"]).arg(serve.get_program()).args(serve.get_args());
    let mut manager = lab.in_own_cgroup(&manager);
    let mut server = manager.stdin(socket).env("MICRORUN_POOL", &path).spawn().unwrap();
    let mut status = lab.in_own_cgroup(&lab.command(&["pool", "status"]));
    let told = common::output({
        status.env("MICRORUN_POOL", &path);
        status
    });
    if server.try_wait().unwrap().is_some() {
        skip!("only a static binary can park sandboxes: set MICRORUN to one");
    }
    host("kill", &[&server.id().to_string()]);
    assert!(server.wait().unwrap().success());
    let told = told.failed();
    assert!(told.contains("network or pid namespace"), "{told}");
}

#[test]
fn a_scratch_overlay_waits_where_the_directory_of_the_pool_is_on_a_mount_of_its_own() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        parkable(config);
        config["process"]["args"] = json!(["sh", "-c", "echo hello >/new; cat /new"]);
        config["annotations"] = json!({"org.microrun.overlay": "scratch"});
        config["root"]["readonly"] = json!(false);
    });
    let place = lab.path("run-of-its-own");
    let _mounted = Tmpfs::on(&place, "mode=755");
    let [socket, root] = ["pool/socket", "containers"].map(|name| place.join(name));
    let serve = lab.command(&["pool", "serve", "--socket", socket.to_str().unwrap(), "--size=1", &bundle.operand()]);
    let mut server = lab.in_own_cgroup(&serve).stdin(Stdio::null()).spawn().unwrap();
    let asks = |args: &[&str]| {
        let mut command = lab.in_own_cgroup(&lab.command(args));
        command.env("MICRORUN_POOL", &socket);
        common::output(command)
    };
    let is_ready = || asks(&["pool", "status", "--format=json"]).stdout.contains("\"ready\":1");
    let has_ended = eventually_or_ended(&mut server, is_ready);
    let run = ["--root", root.to_str().unwrap(), "run", "--pool=require", "--bundle", bundle.path.to_str().unwrap()];
    let told = asks(&run);
    let status = asks(&["pool", "status", "--format=json"]);
    if has_ended {
        skip!("only a static binary can park sandboxes: set MICRORUN to one");
    }
    host("kill", &[&server.id().to_string()]);
    assert!(server.wait().unwrap().success());
    assert_eq!(told.stdout, "hello", "{told:?} {status:?}");
}

#[test]
fn another_kind_of_socket_is_refused() {
    let lab = lab!();
    fs::create_dir(lab.path("pool")).unwrap();
    let stream = std::os::unix::net::UnixListener::bind(lab.path("pool/socket")).unwrap();
    let serve = lab.command(&["pool", "serve", "--socket", lab.path("pool/socket").to_str().unwrap()]);
    let mut manager = Command::new("sh");
    manager.args(["-c", AS_SYSTEMD, "sh"]).arg(serve.get_program()).args(serve.get_args());
    let told = manager.stdin(OwnedFd::from(stream)).output().unwrap();
    let (failed, told) = (!told.status.success(), String::from_utf8(told.stderr).unwrap());
    assert!(failed && (told.contains("ListenDatagram=") || told.contains("linked with musl")), "{told}");
}

/// Units of contrib/systemd for a pool of a laboratory's own, for as long as this is there.
struct Units {
    name: String,
    files: Vec<PathBuf>,
}

impl Units {
    fn new(lab: &Lab, options: &str) -> Self {
        let name = format!("{}-pool", lab.name());
        let serve = lab.command(&["pool", "serve", options]);
        let words: Vec<_> =
            [serve.get_program()].into_iter().chain(serve.get_args()).map(|word| word.to_str().unwrap()).collect();
        let socket = lab.path("pool/socket");
        let command = format!("{} --socket {}", words.join(" "), socket.display());
        let files = ["socket", "service"].map(|kind| {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("contrib/systemd/microrun-pool.{kind}"));
            let text = fs::read_to_string(file).unwrap();
            let text = text.replace("/usr/local/bin/microrun pool serve", &command);
            let text = text
                .replace(pool::SOCKET, socket.to_str().unwrap())
                .replace("microrun-pool.socket", &format!("{name}.socket"));
            let unit = Path::new("/run/systemd/system").join(format!("{name}.{kind}"));
            fs::write(&unit, text).unwrap();
            unit
        });
        host("systemctl", &["daemon-reload"]);
        Self { name, files: files.into() }
    }

    fn systemctl(&self, verb: &str, kind: &str) {
        host("systemctl", &[verb, &format!("{}.{kind}", self.name)]);
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        for kind in ["socket", "service"] {
            let _ = Command::new("systemctl").args(["stop", &format!("{}.{kind}", self.name)]).status();
        }
        self.files.iter().for_each(|file| drop(fs::remove_file(file)));
        let _ = Command::new("systemctl").arg("daemon-reload").status();
    }
}

#[test]
fn systemd_starts_a_pool_for_who_asks_and_leaves_what_runs_when_it_stops() {
    if !Path::new("/run/systemd/system").exists() {
        skip!("systemd does not run here");
    }
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        parkable(config);
        config["process"]["args"] = json!(["sleep", "1000"]);
    });
    let asks = |args: &[&str]| {
        let mut command = lab.in_own_cgroup(&lab.command(args));
        command.env("MICRORUN_POOL", lab.path("pool/socket"));
        common::output(command)
    };
    let units = Units::new(&lab, bundle.path.to_str().unwrap());
    units.systemctl("start", "socket");
    assert!(lab.path("pool/socket").exists());
    let is_ready = || asks(&["pool", "status", "--format=json"]).stdout.contains("\"ready\":4");
    eventually(is_ready);
    let id = format!("{}-given", bundle.id);
    let mut run = lab.in_own_cgroup(&lab.command(&[&run_args(&bundle, &["-d"])[..], &[&id]].concat()));
    // Not by pipes: the container keeps what it writes to.
    let errors = lab.path("errors");
    run.env("MICRORUN_POOL", lab.path("pool/socket")).stdin(Stdio::null()).stdout(Stdio::null());
    let ended = run.stderr(fs::File::create(&errors).unwrap()).status().unwrap();
    assert!(ended.success(), "{}", fs::read_to_string(errors).unwrap());
    for verb in ["restart", "stop"] {
        units.systemctl(verb, "service");
        assert_eq!(lab.status(&id), "running", "{verb}");
        if verb == "restart" {
            eventually(is_ready);
        }
    }
    lab.microrun(&["delete", "--force", &id]).ok();
    assert_eq!(fs::read_dir(lab.path("pool/parked")).unwrap().count(), 0);
}
