//! Containers from a pool: the same as from a cold start, only sooner.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab, Output, eventually, output};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A pool of the test's own, with a laboratory.
struct Pool {
    lab: Lab,
    server: Child,
}

impl Pool {
    /// A pool that holds nothing yet. Only the release binary can be one.
    fn new(options: &[&str]) -> Option<Self> {
        let lab = lab_or_skip()?;
        fs::create_dir(lab.path("pool")).unwrap();
        let server = Self::serve(&lab, options);
        let mut pool = Self { lab, server };
        eventually(|| pool.socket().exists() || pool.server.try_wait().unwrap().is_some());
        if pool.server.try_wait().unwrap().is_some() {
            println!("skipped: only a static binary can park sandboxes: set MICRORUN to one");
            return None;
        }
        Some(pool)
    }

    fn serve(lab: &Lab, options: &[&str]) -> Child {
        let socket = lab.path("pool/socket");
        let mut args = vec!["pool", "serve", "--socket", socket.to_str().unwrap()];
        args.extend(options);
        lab.in_own_cgroup(&lab.command(&args)).stdin(Stdio::null()).spawn().unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.lab.path("pool/socket")
    }

    /// Starts it again, after it was killed.
    fn restart(&mut self) {
        self.server = Self::serve(&self.lab, &[]);
        eventually(|| self.try_status().is_some());
    }

    fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.lab.in_own_cgroup(&self.lab.command(args));
        command.env("MICRORUN_POOL", self.socket());
        command
    }

    fn microrun(&self, args: &[&str]) -> Output {
        output(self.command(args))
    }

    fn try_status(&self) -> Option<Value> {
        let told = self.microrun(&["pool", "status"]);
        (told.code == 0).then(|| serde_json::from_str(&told.stdout).unwrap())
    }

    fn status(&self) -> Value {
        self.try_status().unwrap()
    }

    /// Has it hold `count` parts of a bundle that runs `script`, and waits until they are there.
    #[track_caller]
    fn filled(&self, count: usize, script: &str, change: impl FnOnce(&mut Value)) -> Bundle {
        let bundle = self.lab.bundle(|config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
            config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
            change(config);
        });
        let path = bundle.path.to_str().unwrap().to_owned() + "/";
        self.microrun(&["pool", "fill", "--size", &count.to_string(), &path]).ok();
        self.await_ready(&bundle, count);
        bundle
    }

    #[track_caller]
    fn await_ready(&self, bundle: &Bundle, count: usize) {
        let of_bundle = |status: &Value| {
            let bundles = status["bundles"].as_array().unwrap();
            let mut of_path = bundles.iter().filter(|one| one["bundle"] == json!(bundle.path));
            of_path.next().map_or(0, |one| one["ready"].as_u64().unwrap())
        };
        eventually(|| of_bundle(&self.status()) == count as u64);
    }

    fn served(&self) -> u64 {
        self.status()["bundles"].as_array().unwrap().iter().map(|one| one["served"].as_u64().unwrap()).sum()
    }

    /// A container that nobody waits for. It keeps what it writes to open.
    #[track_caller]
    fn run_detached(&self, bundle: &Bundle, options: &[&str]) {
        let mut command = self.command(&run_args(bundle, options));
        let done = command.arg("-d").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(done.success());
    }

    /// `run` of the bundle by its path, from the pool and in no other way.
    fn run(&self, bundle: &Bundle, options: &[&str]) -> Output {
        self.microrun(&run_args(bundle, options))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.server.id().to_string()).status();
        let _ = self.server.wait();
    }
}

fn lab_or_skip() -> Option<Lab> {
    match Lab::new() {
        Ok(lab) => Some(lab),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

fn run_args<'a>(bundle: &'a Bundle, options: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["run", "--pool=require", "--bundle", bundle.path.to_str().unwrap()];
    args.extend(options);
    args
}

/// A pool, or the end of a test that cannot have one.
macro_rules! pool {
    ($($option:expr),*) => {
        match Pool::new(&[$($option),*]) {
            Some(pool) => pool,
            None => return,
        }
    };
}

#[test]
fn a_container_says_and_returns_what_a_cold_one_does() {
    let pool = pool!();
    let bundle = pool.filled(2, "cat; echo out; echo err >&2; exit 7", |_| {});
    let told = pool.run(&bundle, &[]);
    assert_eq!((told.code, told.stdout.as_str(), told.stderr.as_str()), (7, "out", "err"));
    assert_eq!(pool.served(), 1);
}

#[test]
fn the_short_command_is_served_too_and_starts_cold_without_a_pool() {
    let mut pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let path = bundle.path.to_str().unwrap().to_owned() + "/";
    assert_eq!(pool.microrun(&["run", &path]).ok(), "hello");
    assert_eq!(pool.served(), 1);
    pool.kill();
    assert_eq!(pool.microrun(&["run", &path]).ok(), "hello");
    let told = pool.run(&bundle, &[]).failed();
    assert!(told.contains("--pool=require"), "{told}");
    pool.restart();
}

#[test]
fn what_waits_has_nothing_of_its_maker() {
    let pool = pool!();
    let _bundle = pool.filled(1, "true", |_| {});
    let server = pool.server.id();
    let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap();
    let of_threads = fs::read_dir(format!("/proc/{server}/task"))
        .unwrap()
        .map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
    let parked: Vec<String> = of_threads
        .chain([children])
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let parked = parked.first().unwrap();
    let maps = fs::read_to_string(format!("/proc/{parked}/maps")).unwrap();
    let writable: Vec<&str> =
        maps.lines().filter(|line| line.split_whitespace().nth(1).unwrap().contains('w')).collect();
    assert_eq!(writable.len(), 1, "{maps}");
    assert!(!maps.contains("[heap]") && !maps.contains("[stack]"), "{maps}");
    let open: Vec<_> = fs::read_dir(format!("/proc/{parked}/fd"))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(open.len(), 1, "{open:?}");
    assert!(open[0].starts_with("socket:"), "{open:?}");
}

#[test]
fn a_changed_bundle_is_never_served_stale() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo before", |_| {});
    let config = bundle.path.join("config.json");
    let text = fs::read_to_string(&config).unwrap().replace("echo before", "echo after");
    fs::write(&config, text).unwrap();
    let path = bundle.path.to_str().unwrap().to_owned() + "/";
    assert_eq!(pool.microrun(&["run", &path]).ok(), "after");
    pool.await_ready(&bundle, 1);
    assert_eq!(pool.run(&bundle, &[]).ok(), "after");

    let rootfs = bundle.rootfs();
    fs::rename(&rootfs, bundle.path.join("old")).unwrap();
    common::make_rootfs(&rootfs);
    let told = pool.run(&bundle, &[]).failed();
    assert!(told.contains("changed"), "{told}");
}

#[test]
fn a_detached_container_is_managed_like_a_cold_one() {
    let pool = pool!();
    let bundle = pool.filled(1, "trap 'exit 0' TERM; while :; do sleep 0.1; done", |_| {});
    let pid_file = bundle.path.join("pid");
    let id = format!("{}-given", bundle.id);
    pool.run_detached(&bundle, &["--pid-file", pid_file.to_str().unwrap(), &id]);
    let state: Value = serde_json::from_str(&pool.microrun(&["state", &id]).ok()).unwrap();
    assert_eq!(state["status"], "running");
    assert_eq!(state["pid"].to_string(), fs::read_to_string(&pid_file).unwrap());
    assert_eq!(pool.microrun(&["exec", &id, "echo", "inside"]).ok(), "inside");
    pool.microrun(&["pause", &id]).ok();
    assert_eq!(pool.lab.status(&id), "paused");
    pool.microrun(&["resume", &id]).ok();
    pool.microrun(&["kill", &id, "TERM"]).ok();
    eventually(|| pool.lab.status(&id) == "stopped");
    pool.microrun(&["delete", &id]).ok();
    assert_eq!(pool.microrun(&["list", "-q"]).ok(), "");
}

#[test]
fn what_runs_outlives_a_killed_pool_and_what_waits_does_not() {
    let mut pool = pool!();
    let bundle = pool.filled(2, "sleep 1000", |_| {});
    let id = format!("{}-running", bundle.id);
    pool.run_detached(&bundle, &[&id]);
    pool.await_ready(&bundle, 2);
    pool.kill();
    assert_eq!(pool.lab.status(&id), "running");
    pool.restart();
    assert!(fs::read_dir(pool.lab.path("pool/parked")).unwrap().next().is_none());
    pool.microrun(&["delete", "--force", &id]).ok();
}

#[test]
fn signals_reach_the_container() {
    let pool = pool!();
    let bundle = pool.filled(1, "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.1; done", |_| {});
    let out = bundle.path.join("out");
    let mut command = pool.command(&run_args(&bundle, &[]));
    let mut running = command.stdout(fs::File::create(&out).unwrap()).spawn().unwrap();
    eventually(|| fs::read_to_string(&out).unwrap() == "ready\n");
    Command::new("kill").arg(running.id().to_string()).status().unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(3));
    assert_eq!(fs::read_to_string(&out).unwrap(), "ready\nterm\n");
}

#[test]
fn what_cannot_wait_is_refused_with_the_field() {
    let pool = pool!();
    let changes: [(&str, Value); 2] =
        [("linux", json!({"cgroupsPath": "/x"})), ("hooks", json!({"prestart": [{"path": "/bin/true"}]}))];
    for (field, value) in changes {
        let bundle = pool.lab.bundle(|config| {
            config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
            match field {
                "linux" => config["linux"]["cgroupsPath"] = value["cgroupsPath"].clone(),
                _ => config[field] = value,
            }
        });
        let told = pool.microrun(&["pool", "fill", bundle.path.to_str().unwrap()]).failed();
        assert!(told.contains(field), "{told}");
    }
}

#[test]
fn the_limits_of_who_asks_are_the_containers() {
    let pool = pool!();
    let bundle = pool.filled(1, "ulimit -n; ulimit -s", |config| {
        config["process"].as_object_mut().unwrap().remove("rlimits");
    });
    let run = pool.command(&run_args(&bundle, &[]));
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 77; ulimit -s 4096; exec \"$@\"", "sh"]).arg(run.get_program()).args(run.get_args());
    command.env("MICRORUN_POOL", pool.socket());
    assert_eq!(output(command).ok(), "77\n4096");
}

#[test]
fn the_containers_user_owns_its_stdio() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo again >/dev/stdout", |config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    assert_eq!(pool.run(&bundle, &[]).ok(), "again");
}
