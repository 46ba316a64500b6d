//! Limits, and what is told about them.

use super::{Ctr, SLEEP};
use crate::cases;
use crate::common::eventually;
use crate::process::output_with_open_stdin;
use crate::runner::Case;
use serde_json::{Value, json};
use std::fs;

pub fn cases() -> Vec<Case<Ctr>> {
    cases![memory_limit, pids_limit, cpu_limits, out_of_memory, out_of_memory_event, update, rlimit_and_oom_score]
}

fn memory_limit(engine: &Ctr) {
    engine.start_detached(&["--memory-limit", "50003968"], "c", SLEEP);
    assert_eq!(engine.control("c", ["memory/", "memory.limit_in_bytes"], "memory.max"), "50003968");
    assert_eq!(engine.metric("c", ["memory.limit_in_bytes", "memory.usage_limit"]), 50_003_968);
}

fn pids_limit(engine: &Ctr) {
    let output = engine.configured(
        |config| {
            config["linux"]["resources"]["pids"] = json!({"limit": 10});
        },
        "i=0; while [ $i -lt 30 ]; do sleep 2 & i=$((i + 1)); done 2>&1; echo end",
    );
    assert!(format!("{output:?}").contains("can't fork"), "{output:?}");
}

fn cpu_limits(engine: &Ctr) {
    engine.start_detached(&["--cpus", "0.5", "--cpu-shares", "512"], "c", SLEEP);
    if engine.is_v1("cpu") {
        assert_eq!(engine.control("c", ["cpu/", "cpu.cfs_quota_us"], "cpu.max"), "50000");
        assert_eq!(engine.control("c", ["cpu/", "cpu.shares"], "cpu.weight"), "512");
    } else {
        assert_eq!(engine.control("c", ["cpu/", ""], "cpu.max"), "50000 100000");
    }
}

/// Takes more memory than it may.
const GLUTTON: &str = "tail -c 100000000 /dev/zero";

fn out_of_memory(engine: &Ctr) {
    let output = engine.shell(&["--memory-limit", "20000000"], &format!("exec {GLUTTON}"));
    assert_eq!(output.code, 137, "{output:?}");
}

fn out_of_memory_event(engine: &Ctr) {
    let events = engine.events();
    engine.start_detached(
        &["--memory-limit", "20000000"],
        "c",
        &["sh", "-c", "while :; do tail -c 100000000 /dev/zero; sleep 1; done"],
    );
    eventually(|| events.shown().contains("/tasks/oom "));
    assert_eq!(engine.task_status("c"), "RUNNING");
}

/// ctr has no verb for it: the same call that the shim makes for an engine's Update, at the same container.
fn update(engine: &Ctr) {
    engine.start_detached(&["--memory-limit", "50003968"], "c", SLEEP);
    let resources = engine.containerd.dir.join("resources.json");
    fs::write(&resources, json!({"memory": {"limit": 60_006_400}, "pids": {"limit": 77}}).to_string()).unwrap();
    engine.runtime(&["update", "--resources", resources.to_str().unwrap(), "c"]).ok();
    assert_eq!(engine.control("c", ["memory/", "memory.limit_in_bytes"], "memory.max"), "60006400");
    assert_eq!(engine.metric("c", ["memory.limit_in_bytes", "memory.usage_limit"]), 60_006_400);
    assert_eq!(engine.metric("c", ["pids.limit", "pids.limit"]), 77);
}

fn rlimit_and_oom_score(engine: &Ctr) {
    let output = engine.configured(
        |config| {
            config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
            config["process"]["oomScoreAdj"] = json!(500);
        },
        "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj",
    );
    assert_eq!(output.ok(), "100\n200\n500");
}

impl Ctr {
    /// Runs a script in a container with ctr's own configuration, changed.
    fn configured(&self, change: impl FnOnce(&mut Value), script: &str) -> crate::common::Output {
        let rootfs = self.containerd.dir.join("configured");
        crate::common::make_rootfs(&rootfs);
        let mut config: Value = serde_json::from_str(&self.ctr(&["oci", "spec"]).ok()).unwrap();
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["env"] = json!(["PATH=/bin"]);
        config["root"] = json!({"path": rootfs});
        config["linux"]["cgroupsPath"] = json!("/default/c");
        change(&mut config);
        let file = self.containerd.dir.join("config.json");
        fs::write(&file, config.to_string()).unwrap();
        let mut command = self.containerd.ctr();
        command.args(["run", "--rm", "--runc-binary", self.runtime.path.to_str().unwrap()]);
        command.args(["--config", file.to_str().unwrap(), "c"]);
        let output = output_with_open_stdin(command);
        fs::remove_dir_all(rootfs).unwrap();
        output
    }
}
