//! Podman's limits on a unified hierarchy, by both of its cgroup managers: for machines that have the controllers there, such as the
//! VMs (docs/testing-vm.md). All else of Podman is tested in tests/engines.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Lab, Output, eventually, make_rootfs, output};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const CGROUPS: &str = "/sys/fs/cgroup";

/// Podman with directories of its own, and containers of a root filesystem without any image.
struct Podman {
    lab: Lab,
    manager: &'static str,
}

impl Podman {
    /// One whose cgroups `manager` makes.
    ///
    /// # Errors
    /// Why it cannot do so on this machine.
    fn new(manager: &'static str) -> Result<Self, String> {
        let controllers = fs::read_to_string(Path::new(CGROUPS).join("cgroup.controllers")).unwrap_or_default();
        for needed in ["memory", "pids", "cpu"] {
            if !controllers.split_whitespace().any(|controller| controller == needed) {
                return Err(format!("{CGROUPS} is not a unified hierarchy with the controller {needed}"));
            }
        }
        for program in ["podman", "conmon"] {
            if Command::new(program).arg("--version").output().is_err() {
                return Err(format!("needs {program} (Debian's package {program})"));
            }
        }
        let lab = Lab::new()?;
        make_rootfs(&lab.path("rootfs"));
        let text = "[engine]\nevents_logger = \"file\"\n[containers]\nlog_driver = \"k8s-file\"\n\
            default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
        fs::write(lab.path("containers.conf"), text).unwrap();
        Ok(Self { lab, manager })
    }

    fn podman(&self, args: &[&str]) -> Output {
        let path = |name: &str| self.lab.path(name).to_str().unwrap().to_owned();
        let mut command = Command::new("podman");
        command.args(["--root", &path("storage"), "--runroot", &path("podman"), "--tmpdir", &path("tmp")]);
        command.args(["--storage-driver", "vfs", "--runtime", &path("microrun")]);
        command.args(["--cgroup-manager", self.manager]).args(args).env("CONTAINERS_CONF", path("containers.conf"));
        output(command)
    }

    /// Starts a container that sleeps, called c; its cgroup.
    fn start(&self, options: &[&str]) -> PathBuf {
        let rootfs = self.lab.path("rootfs");
        let run = ["run", "--detach", "--name", "c", "--network", "none"];
        let program = ["--rootfs", rootfs.to_str().unwrap(), "sleep", "1000"];
        self.podman(&[&run, options, &program].concat()).ok();
        let pid = self.podman(&["inspect", "--format", "{{.State.Pid}}", "c"]).ok();
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        Path::new(CGROUPS).join(cgroup)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.podman(&["rm", "--force", "--time", "0", "--all"]);
        // conmon has Podman called once more when a container has ended.
        let name = self.lab.name();
        let is_at_work = || {
            let processes = fs::read_dir("/proc").unwrap().flatten();
            let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
            lines.map(|line| String::from_utf8_lossy(&line).into_owned()).any(|line| line.contains(name))
        };
        for _ in 0..600 {
            if !is_at_work() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        // What is left when all containers have gone, and nobody knows when that is. systemd sees to its slices.
        if self.manager == "cgroupfs" {
            let parent = Path::new(CGROUPS).join("libpod_parent");
            let _ = fs::remove_dir(parent.join("conmon"));
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Everything that has to do with a cgroup in the life of a container: each call takes seconds in a VM, so there is but one.
fn limits_hold(manager: &'static str) {
    let podman = match Podman::new(manager) {
        Ok(podman) => podman,
        Err(why) => skip!("{why}"),
    };
    let options = ["--memory", "64m", "--memory-reservation", "32m", "--pids-limit", "11", "--cpus", "0.5"];
    let cgroup = podman.start(&options);
    let file = |name: &str| fs::read_to_string(cgroup.join(name)).unwrap().trim().to_owned();
    let parent = if manager == "systemd" { "machine.slice" } else { "libpod_parent" };
    assert!(cgroup.starts_with(Path::new(CGROUPS).join(parent)), "{}", cgroup.display());
    assert_eq!(file("memory.max"), (64 << 20).to_string());
    assert_eq!(file("memory.low"), (32 << 20).to_string());
    assert_eq!(file("pids.max"), "11");
    assert_eq!(file("cpu.max"), "50000 100000");
    let shown = podman.podman(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}", "c"]).ok();
    assert!(shown.starts_with("c 1 ") && shown.contains("67.11MB"), "{shown}");
    podman.podman(&["update", "--memory", "48m", "--cpus", "0.25", "c"]).ok();
    assert_eq!([file("memory.max"), file("pids.max")], [(48 << 20).to_string(), "11".to_owned()]);
    assert_eq!(file("cpu.max"), "25000 100000");
    podman.podman(&["pause", "c"]).ok();
    assert!(file("cgroup.events").contains("frozen 1"));
    podman.podman(&["unpause", "c"]).ok();
    assert!(file("cgroup.events").contains("frozen 0"));
    let forks = "for i in 1 2 3 4 5 6 7 8 9 10 11; do sleep 5 & done; wait";
    let said = podman.podman(&["exec", "c", "sh", "-c", forks]);
    assert!(said.stderr.contains("fork"), "{said:#?}");
    // Killed for its memory, which swap does not hold.
    let rootfs = podman.lab.path("rootfs");
    let hog = ["sh", "-c", "head -c 200m /dev/zero | tail"];
    let run = ["run", "--rm", "--network", "none", "--memory", "32m", "--memory-swap", "32m", "--rootfs"];
    let said = podman.podman(&[&run[..], &[rootfs.to_str().unwrap()], &hog].concat());
    assert_eq!(said.code, 137, "{said:#?}");
    podman.podman(&["rm", "--force", "--time", "0", "c"]).ok();
    eventually(|| !cgroup.exists());
}

#[test]
fn limits_hold_in_cgroups_of_its_own() {
    limits_hold("cgroupfs");
}

#[test]
fn limits_hold_in_units_of_systemd() {
    if !Path::new("/run/systemd/private").exists() {
        skip!("there is no systemd");
    }
    limits_hold("systemd");
}
