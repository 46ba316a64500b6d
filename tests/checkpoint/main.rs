//! `checkpoint` and `restore`, with the CRIU of this machine. What CRIU itself cannot do here is found out first, with a
//! process that no container has to do with, and then these tests are skipped.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

#[path = "../common/mod.rs"]
mod common;

use common::{Bundle, Lab, Output, eventually, push};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;

/// A laboratory, if CRIU can dump and restore a process on this machine. Others wait meanwhile: all CRIUs before 3.18
/// have sockets of the same names, in the network namespace of what they restore.
macro_rules! criu_lab {
    () => {{
        let lab = $crate::lab!();
        if let Err(why) = $crate::common::criu::works() {
            $crate::skip!("{why}");
        }
        (lab, $crate::ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }};
}

mod lazy;
mod life;
mod refusals;
mod streams;
mod surroundings;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A container that counts in a file, which the host sees.
struct Counter {
    bundle: Bundle,
    images: PathBuf,
}

const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i >/count/new; mv /count/new /count/now; usleep 20000; done";

impl Counter {
    fn new(lab: &Lab, change: impl FnOnce(&mut Value)) -> Self {
        Self::running(lab, COUNT, change)
    }

    /// A container that runs `script`, with the directory /count, and no network namespace: for that CRIU wants
    /// iptables.
    fn running(lab: &Lab, script: &str, change: impl FnOnce(&mut Value)) -> Self {
        let bundle = lab.bundle(|config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
            let source = "count";
            let mount = json!({"destination": "/count", "type": "bind", "source": source, "options": ["bind"]});
            push(&mut config["mounts"], mount);
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "network");
            change(config);
        });
        fs::create_dir(bundle.path.join("count")).unwrap();
        fs::create_dir_all(bundle.rootfs().join("count")).unwrap();
        let images = bundle.path.join("images");
        Self { bundle, images }
    }

    fn id(&self) -> &str {
        &self.bundle.id
    }

    fn file(&self, name: &str) -> PathBuf {
        self.bundle.path.join("count").join(name)
    }

    /// What it has counted; 0 before it began.
    fn count(&self) -> u64 {
        fs::read_to_string(self.file("now")).map_or(0, |text| text.trim().parse().unwrap_or(0))
    }

    /// Runs `args` in the background; what it writes is added to files, as is what the container writes.
    fn detached(&self, lab: &Lab, args: &[&str]) -> Output {
        let open = |name: &str| {
            let path = self.bundle.path.join(name);
            File::options().read(true).append(true).create(true).open(path).unwrap()
        };
        let (out, err) = (open("out"), open("err"));
        let starts = [out.metadata().unwrap().len(), err.metadata().unwrap().len()];
        let mut command = lab.command(args);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let code = command.status().unwrap().code().unwrap_or(-1);
        let text = |name: &str, start: u64| {
            let text = fs::read_to_string(self.bundle.path.join(name)).unwrap();
            text[start as usize..].trim().to_owned()
        };
        Output { code, stdout: text("out", starts[0]), stderr: text("err", starts[1]) }
    }

    /// Starts it, and waits until it counts.
    fn start(&self, lab: &Lab) -> i32 {
        self.begin(lab);
        eventually(|| self.count() > 2);
        pid_of(lab, self.id())
    }

    /// Starts it.
    fn begin(&self, lab: &Lab) {
        self.detached(lab, &["run", "--detach", "--bundle", self.bundle.path.to_str().unwrap(), self.id()]).ok();
    }

    fn checkpoint(&self, lab: &Lab, options: &[&str]) -> Output {
        let mut args = vec!["checkpoint", "--image-path", self.images.to_str().unwrap()];
        args.extend(options);
        args.push(self.id());
        lab.microrun(&args)
    }

    fn restore_args<'a>(&'a self, options: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["restore", "--image-path", self.images.to_str().unwrap()];
        args.extend(["--bundle", self.bundle.path.to_str().unwrap()]);
        args.extend(options);
        args.push(self.id());
        args
    }

    /// Starts it with nothing but /dev/null for its stdio.
    fn start_in_silence(&self, lab: &Lab, options: &[&str]) {
        let mut args = vec!["run", "--detach", "--bundle", self.bundle.path.to_str().unwrap()];
        args.extend(options);
        args.push(self.id());
        assert!(in_silence(lab.command(&args)).success());
        eventually(|| self.count() > 2);
    }

    /// Restores it in the background, as above.
    fn restore_in_silence(&self, lab: &Lab, options: &[&str]) {
        let log = lab.path("log");
        let mut args = self.restore_args(options);
        args.splice(0..1, ["--log", log.to_str().unwrap(), "restore", "--detach"]);
        let restored = in_silence(lab.command(&args));
        assert!(restored.success(), "{}", fs::read_to_string(&log).unwrap_or_default());
    }

    /// Restores it in the background, with stdio as it had.
    fn restore(&self, lab: &Lab, options: &[&str]) -> Output {
        let mut args = self.restore_args(options);
        args.insert(1, "--detach");
        self.detached(lab, &args)
    }

    /// Waits until it has counted on from `before`.
    #[track_caller]
    fn counts_on(&self, before: u64) {
        eventually(|| self.count() > before);
        assert!(self.count() < before + 3000, "{before} and then {}", self.count());
    }
}

fn in_silence(mut command: Command) -> ExitStatus {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
}

/// The mounts of a process: what is mounted where, and how, but for numbers.
fn mounts(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let mut mounts: Vec<String> = text
        .lines()
        .map(|line| {
            let (mount, superblock) = line.split_once(" - ").unwrap();
            let fields: Vec<&str> = mount.split(' ').collect();
            format!("{} {} {}", fields[4], fields[5], superblock.split(' ').next().unwrap())
        })
        .collect();
    mounts.sort();
    mounts
}

fn pid_of(lab: &Lab, id: &str) -> i32 {
    let state: Value = serde_json::from_str(&lab.microrun(&["state", id]).ok()).unwrap();
    state["pid"].as_i64().unwrap() as i32
}
