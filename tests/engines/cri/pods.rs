//! Pods, and what their containers share.

use super::{Cri, SLEEP};
use crate::cases;
use crate::common::eventually;
use crate::runner::{Case, skip};
use serde_json::json;
use std::fs;

pub fn cases() -> Vec<Case<Cri>> {
    cases![
        ready,
        pod_with_two_containers,
        pod_with_one_pid_namespace,
        pod_of_the_hosts_namespaces,
        container_sees_another,
        hostname,
        sysctls,
        cgroup_parent,
        user_namespace,
        pod_stops_its_containers,
        nothing_of_a_removed_pod,
    ]
}

fn namespace(cri: &Cri, id: &str, kind: &str) -> String {
    fs::read_link(format!("/proc/{}/ns/{kind}", cri.pid(id))).unwrap().to_str().unwrap().to_owned()
}

fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
}

fn ready(cri: &Cri) {
    assert!(cri.condition("RuntimeReady"));
    let version = cri.client.call("Version", &json!({}));
    assert_eq!(version["runtime_name"], "containerd");
}

fn pod_with_two_containers(cri: &Cri) {
    let pod = cri.pod(|_| {});
    let status = cri.client.call("PodSandboxStatus", &json!({"pod_sandbox_id": pod}));
    let address = status["status"]["network"]["ip"].as_str().unwrap().to_owned();
    let server = cri.started(&pod, "while :; do echo answer | nc -l -p 4000; done", |_| {});
    let client = cri.started(&pod, SLEEP, |_| {});
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(cri, &server, kind), namespace(cri, &client, kind), "{kind}");
        assert_ne!(namespace(cri, &server, kind), own(kind), "{kind}");
    }
    for kind in ["pid", "mnt", "cgroup"] {
        assert!(kind == "cgroup" || namespace(cri, &server, kind) != namespace(cri, &client, kind), "{kind}");
    }
    eventually(|| cri.exec(&client, "nc 127.0.0.1 4000 </dev/null").stdout == "answer");
    eventually(|| cri.exec(&client, &format!("nc {address} 4000 </dev/null")).stdout == "answer");
}

fn pod_with_one_pid_namespace(cri: &Cri) {
    let pod = cri.host_pod(|config| config["linux"]["security_context"]["namespace_options"]["pid"] = json!(0));
    let first = cri.started(&pod, "exec sleep 1234", |_| {});
    let second = cri.started(&pod, SLEEP, |_| {});
    assert_eq!(namespace(cri, &first, "pid"), namespace(cri, &second, "pid"));
    assert!(cri.exec(&second, "ps -o args").stdout.contains("sleep 1234"));
    // Not by the end of the namespace.
    cri.client.call("StopContainer", &json!({"container_id": first}));
    assert_eq!(cri.status(&first)["exit_code"], 137);
    assert_eq!(cri.status(&second)["state"], super::RUNNING);
}

fn pod_of_the_hosts_namespaces(cri: &Cri) {
    let pod = cri.host_pod(|config| {
        config["linux"]["security_context"]["namespace_options"] = json!({"network": 2, "pid": 2, "ipc": 2});
    });
    let id = cri.started(&pod, SLEEP, |_| {});
    for kind in ["net", "pid", "ipc"] {
        assert_eq!(namespace(cri, &id, kind), own(kind), "{kind}");
    }
    assert!(cri.exec(&id, "ps -o args").stdout.contains("containerd"));
}

/// An ephemeral container with `targetContainerName`.
fn container_sees_another(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let target = cri.started(&pod, "exec sleep 1234", |_| {});
    let other = cri.started(&pod, SLEEP, |config| {
        config["linux"]["security_context"]["namespace_options"] = json!({"network": 2, "pid": 3, "target_id": target});
    });
    assert!(cri.exec(&other, "cat /proc/1/cmdline | tr '\\0' ' '").stdout.contains("sleep 1234"));
}

fn hostname(cri: &Cri) {
    let pod = cri.pod(|config| config["hostname"] = json!("a-pod"));
    let id = cri.started(&pod, SLEEP, |_| {});
    assert_eq!(cri.exec(&id, "hostname; cat /etc/hostname").stdout, "a-pod\na-pod");
}

fn sysctls(cri: &Cri) {
    let pod = cri.pod(|config| {
        config["linux"]["sysctls"] = json!({"net.ipv4.ip_local_port_range": "2000 3000", "kernel.msgmax": "9000"});
    });
    let id = cri.started(&pod, SLEEP, |_| {});
    let said = cri.exec(&id, "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/msgmax").ok();
    assert_eq!(said, "2000\t3000\n9000");
}

fn cgroup_parent(cri: &Cri) {
    let pod = cri.host_pod(|config| config["linux"]["cgroup_parent"] = json!("/kubepods"));
    let id = cri.started(&pod, SLEEP, |_| {});
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", cri.pid(&id))).unwrap();
    assert!(cgroups.contains(&format!("/kubepods/{id}")), "{cgroups}");
}

fn user_namespace(cri: &Cri) {
    if !cri.has_feature("user_namespaces") {
        skip("neither this containerd (2.0 or later) nor this runtime tells of user namespaces");
    }
    let mapping = json!([{"host_id": 200_000, "container_id": 0, "length": 65536}]);
    let pod = cri.pod(|config| {
        config["linux"]["security_context"]["namespace_options"]["userns_options"] =
            json!({"mode": 0, "uids": mapping, "gids": mapping});
    });
    let id = cri.started(&pod, SLEEP, |_| {});
    let said = cri.exec(&id, "id -u; awk '{ print $1, $2, $3 }' /proc/self/uid_map; stat -c %u /bin").ok();
    assert_eq!(said, "0\n0 200000 65536\n0");
}

fn pod_stops_its_containers(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |_| {});
    cri.client.call("StopPodSandbox", &json!({"pod_sandbox_id": pod}));
    assert_eq!(cri.status(&id)["state"], super::EXITED);
    let status = cri.client.call("PodSandboxStatus", &json!({"pod_sandbox_id": pod}));
    // SANDBOX_NOTREADY
    assert_eq!(status["status"]["state"], 1);
}

fn nothing_of_a_removed_pod(cri: &Cri) {
    let pod = cri.pod(|_| {});
    cri.started(&pod, SLEEP, |_| {});
    cri.client.call("StopPodSandbox", &json!({"pod_sandbox_id": pod}));
    cri.client.call("RemovePodSandbox", &json!({"pod_sandbox_id": pod}));
    assert_eq!(cri.client.call("ListContainers", &json!({})), json!({}));
    let entries = fs::read_dir("/run/containerd/runc/k8s.io").into_iter().flatten().flatten();
    let left: Vec<_> =
        entries.map(|entry| entry.file_name()).filter(|name| name.as_encoded_bytes()[0] != b'.').collect();
    assert!(left.is_empty(), "{left:?}");
}
