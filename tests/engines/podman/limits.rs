//! Limits, and what a container uses.

use super::{Podman, SLEEP};
use crate::common::{self, eventually};
use crate::runner::skip;

/// A limit of a running container as the kernel has it: `v1` is controller and file, `v2` a file.
fn limit(podman: &Podman, name: &str, v1: (&str, &str), v2: &str) -> String {
    common::limit(podman.inspect(name, "{{.State.Pid}}"), v1, v2)
}

const MEMORY: (&str, &str) = ("memory", "memory.limit_in_bytes");

pub fn memory(podman: &Podman) {
    podman.started("c", &["--memory", "64m"], SLEEP);
    assert_eq!(limit(podman, "c", MEMORY, "memory.max"), (64 << 20).to_string());
    podman.started("d", &["--memory", "64m", "--memory-reservation", "32m"], SLEEP);
    assert_eq!(limit(podman, "d", ("memory", "memory.soft_limit_in_bytes"), "memory.low"), (32 << 20).to_string());
}

pub fn out_of_memory(podman: &Podman) {
    let program = ["sh", "-c", "head -c 200m /dev/zero | tail"];
    let args =
        [&["run", "--name", "c", "--network", "none", "--memory", "32m", crate::image::NAME], &program[..]].concat();
    let output = podman.podman(&args);
    assert_eq!(output.code, 137, "{output:#?}");
}

pub fn pids(podman: &Podman) {
    podman.started("c", &["--pids-limit", "11"], SLEEP);
    assert_eq!(limit(podman, "c", ("pids", "pids.max"), "pids.max"), "11");
    let output = podman.run(&["--pids-limit", "5"], &["sh", "-c", "for i in 1 2 3 4 5 6 7; do sleep 1 & done; wait"]);
    assert!(output.stderr.contains("fork"), "{output:#?}");
}

pub fn cpu(podman: &Podman) {
    podman.started("c", &["--cpus", "0.5", "--cpu-shares", "512", "--cpuset-cpus", "0"], SLEEP);
    let quota = limit(podman, "c", ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(["50000", "50000 100000"].contains(&quota.as_str()), "{quota}");
    assert_eq!(limit(podman, "c", ("cpuset", "cpuset.cpus"), "cpuset.cpus"), "0");
}

pub fn update(podman: &Podman) {
    podman.started("c", &["--memory", "64m", "--memory-swap", "64m"], SLEEP);
    podman.podman(&["update", "--memory", "48m", "--cpus", "0.25", "c"]).ok();
    assert_eq!(limit(podman, "c", MEMORY, "memory.max"), (48 << 20).to_string());
    let quota = limit(podman, "c", ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(["25000", "25000 100000"].contains(&quota.as_str()), "{quota}");
}

pub fn stats(podman: &Podman) {
    podman.started("c", &["--memory", "64m"], SLEEP);
    let shown = podman.podman(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}", "c"]).ok();
    assert!(shown.starts_with("c 1 ") && shown.contains("67.11MB"), "{shown}");
}

pub fn no_cgroups(podman: &Podman) {
    if !podman.shell(&["--cgroups", "no-conmon"], "echo made").contains("made") {
        skip("Podman cannot leave conmon where it is");
    }
}

pub fn ulimit(podman: &Podman) {
    assert_eq!(
        podman.shell(&["--ulimit", "nofile=100:200", "--ulimit", "nproc=99:99"], "ulimit -n; ulimit -Hn"),
        "100\n200"
    );
}

pub fn oom_score(podman: &Podman) {
    // A score that every caller may have: it is raised.
    assert_eq!(podman.shell(&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj"), "500");
}

pub fn sysctl(podman: &Podman) {
    let options = ["--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.msgmax=9000"];
    let said = podman.shell(&options, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax");
    assert_eq!(said, "1\n9000");
    eventually(|| podman.podman(&["ps", "--all", "--quiet"]).ok().is_empty());
}
