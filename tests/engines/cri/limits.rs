//! Resources.

use super::{Cri, SLEEP};
use crate::cases;
use crate::common::{self, eventually};
use crate::runner::Case;
use serde_json::json;

pub fn cases() -> Vec<Case<Cri>> {
    cases![memory, cpu, update, out_of_memory, oom_score, stats]
}

/// A limit of a running container as the kernel has it: `v1` is controller and file, `v2` a file.
fn limit(cri: &Cri, id: &str, v1: (&str, &str), v2: &str) -> String {
    common::limit(cri.pid(id), v1, v2)
}

const MEMORY: (&str, &str) = ("memory", "memory.limit_in_bytes");

fn memory(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |config| {
        config["linux"]["resources"] = json!({"memory_limit_in_bytes": 64 << 20});
    });
    assert_eq!(limit(cri, &id, MEMORY, "memory.max"), (64 << 20).to_string());
}

fn cpu(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |config| {
        config["linux"]["resources"] =
            json!({"cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512, "cpuset_cpus": "0"});
    });
    let quota = limit(cri, &id, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(["50000", "50000 100000"].contains(&quota.as_str()), "{quota}");
    assert_eq!(limit(cri, &id, ("cpuset", "cpuset.cpus"), "cpuset.cpus"), "0");
}

fn update(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |config| {
        config["linux"]["resources"] =
            json!({"memory_limit_in_bytes": 64 << 20, "cpu_quota": 50_000, "cpu_period": 100_000});
    });
    let resources = json!({"memory_limit_in_bytes": 128 << 20, "cpu_quota": 25_000, "cpu_period": 100_000});
    cri.client.call("UpdateContainerResources", &json!({"container_id": id, "linux": resources}));
    assert_eq!(limit(cri, &id, MEMORY, "memory.max"), (128 << 20).to_string());
    let quota = limit(cri, &id, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(["25000", "25000 100000"].contains(&quota.as_str()), "{quota}");
}

fn out_of_memory(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, "head -c 200m /dev/zero | tail >/dev/null", |config| {
        config["linux"]["resources"] = json!({"memory_limit_in_bytes": 24 << 20});
    });
    cri.wait(&id);
    eventually(|| cri.status(&id)["reason"] == "OOMKilled");
}

fn oom_score(cri: &Cri) {
    // Raised, which everybody may.
    let said = cri.said("cat /proc/self/oom_score_adj", |config| {
        config["linux"]["resources"] = json!({"oom_score_adj": 500});
    });
    assert_eq!(said, "500");
}

fn stats(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |_| {});
    eventually(|| {
        let stats = cri.client.call("ContainerStats", &json!({"container_id": id}))["stats"].clone();
        let number = |kind: &str, name: &str| stats[kind][name]["value"].as_i64().unwrap_or(0);
        number("memory", "working_set_bytes") > 0 && number("cpu", "usage_core_nano_seconds") > 0
    });
}
