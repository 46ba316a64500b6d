//! Limits, and changing them.

use super::{Docker, SLEEP};
use crate::cases;
use crate::common::eventually;
use crate::runner::Case;
use std::path::Path;

pub fn cases() -> Vec<Case<Docker>> {
    cases![
        memory,
        out_of_memory,
        pids_limit,
        cpus,
        cpuset,
        ulimit,
        sysctl,
        oom_score_adj,
        cgroup_parent,
        update,
        update_while_paused
    ]
}

pub fn memory(engine: &Docker) {
    engine.start(&["--memory", "64m", "--memory-reservation", "32m"], "box", SLEEP);
    assert_eq!(engine.control("box", ["memory", "memory.limit_in_bytes"], "memory.max"), "67108864");
    assert_eq!(engine.control("box", ["memory", "memory.soft_limit_in_bytes"], "memory.low"), "33554432");
}

pub fn out_of_memory(engine: &Docker) {
    engine.start(&["--memory", "20m"], "box", &["tail", "-c", "100000000", "/dev/zero"]);
    engine.wait_until_ended("box");
    eventually(|| engine.inspect("box", "{{.State.ExitCode}} {{.State.OOMKilled}}") == "137 true");
}

pub fn pids_limit(engine: &Docker) {
    let script = "i=0; while [ $i -lt 30 ]; do sleep 2 & i=$((i + 1)); done";
    let output = engine.shell(&["--pids-limit", "10"], script);
    assert!(output.stderr.contains("can't fork"), "{output:?}");
}

pub fn cpus(engine: &Docker) {
    engine.start(&["--cpus", "0.5", "--cpu-shares", "512"], "box", SLEEP);
    if Path::new("/sys/fs/cgroup/cpu").is_dir() {
        assert_eq!(engine.control("box", ["cpu", "cpu.cfs_quota_us"], ""), "50000");
        assert_eq!(engine.control("box", ["cpu", "cpu.shares"], ""), "512");
    } else {
        assert_eq!(engine.control("box", ["cpu", ""], "cpu.max"), "50000 100000");
    }
}

pub fn cpuset(engine: &Docker) {
    let output = engine.run(&["--cpuset-cpus", "0"], &["grep", "Cpus_allowed_list", "/proc/self/status"]).ok();
    assert_eq!(output.split_whitespace().last(), Some("0"));
}

pub fn ulimit(engine: &Docker) {
    assert_eq!(engine.shell(&["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn").ok(), "100\n200");
}

pub fn sysctl(engine: &Docker) {
    let options = ["--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.msgmax=4000"];
    assert_eq!(engine.shell(&options, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax").ok(), "1\n4000");
}

pub fn oom_score_adj(engine: &Docker) {
    assert_eq!(engine.run(&["--oom-score-adj", "500"], &["cat", "/proc/self/oom_score_adj"]).ok(), "500");
}

pub fn cgroup_parent(engine: &Docker) {
    engine.start(&["--cgroup-parent", "/another"], "box", SLEEP);
    let pid = engine.inspect("box", "{{.State.Pid}}");
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let id = engine.inspect("box", "{{.Id}}");
    assert!(cgroups.contains(&format!(":/another/{id}\n")), "{cgroups}");
}

pub fn update(engine: &Docker) {
    engine.start(&["--memory", "64m", "--memory-swap", "64m"], "box", SLEEP);
    let options = ["--memory", "96m", "--memory-swap", "96m", "--pids-limit", "44", "--cpu-quota", "70000"];
    engine.docker(&[&["update"], &options[..], &["box"]].concat()).ok();
    assert_eq!(engine.control("box", ["memory", "memory.limit_in_bytes"], "memory.max"), "100663296");
    assert_eq!(engine.control("box", ["pids", "pids.max"], "pids.max"), "44");
    assert!(engine.control("box", ["cpu", "cpu.cfs_quota_us"], "cpu.max").starts_with("70000"));
    // And down again.
    engine.docker(&["update", "--memory", "32m", "--memory-swap", "32m", "box"]).ok();
    assert_eq!(engine.control("box", ["memory", "memory.limit_in_bytes"], "memory.max"), "33554432");
    assert_eq!(engine.control("box", ["pids", "pids.max"], "pids.max"), "44");
}

pub fn update_while_paused(engine: &Docker) {
    engine.start(&[], "box", SLEEP);
    engine.docker(&["pause", "box"]).ok();
    engine.docker(&["update", "--pids-limit", "55", "box"]).ok();
    assert_eq!(engine.control("box", ["pids", "pids.max"], "pids.max"), "55");
    assert_eq!(engine.status("box"), "paused");
}
