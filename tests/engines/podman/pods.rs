//! Pods: containers that share namespaces.

use super::{Podman, SLEEP};
use crate::common::eventually;
use crate::image;
use std::fs;

/// Runs a container in a pod.
fn join(podman: &Podman, pod: &str, name: &str, program: &[&str]) {
    let args = ["run", "--detach", "--pod", pod, "--name", name, image::NAME];
    podman.podman(&[&args, program].concat()).ok();
}

fn namespace(podman: &Podman, name: &str, kind: &str) -> String {
    let pid = podman.inspect(name, "{{.State.Pid}}");
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
}

pub fn pod(podman: &Podman) {
    podman.podman(&["pod", "create", "--name", "p", "--network", "none", "--hostname", "of-pod"]).ok();
    join(podman, "p", "a", &["nc", "-ll", "-p", "4000", "-e", "/hello"]);
    join(podman, "p", "b", SLEEP);
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(podman, "a", kind), namespace(podman, "b", kind), "{kind}");
    }
    for kind in ["pid", "mnt"] {
        assert_ne!(namespace(podman, "a", kind), namespace(podman, "b", kind), "{kind}");
    }
    assert_eq!(podman.exec("b", "hostname"), "of-pod");
    eventually(|| podman.podman(&["exec", "b", "nc", "127.0.0.1", "4000"]).stdout.contains("Hello"));
    podman.podman(&["pod", "stop", "--time", "0", "p"]).ok();
    assert_eq!(podman.podman(&["pod", "inspect", "--format", "{{.State}}", "p"]).ok(), "Exited");
    podman.podman(&["pod", "start", "p"]).ok();
    assert_eq!(podman.podman(&["pod", "inspect", "--format", "{{.State}}", "p"]).ok(), "Running");
    podman.podman(&["pod", "rm", "--force", "--time", "0", "p"]).ok();
}

pub fn pod_shares_pids(podman: &Podman) {
    podman.podman(&["pod", "create", "--name", "p", "--network", "none", "--share", "pid,ipc"]).ok();
    join(podman, "p", "a", &["sleep", "1234"]);
    join(podman, "p", "b", SLEEP);
    assert_eq!(namespace(podman, "a", "pid"), namespace(podman, "b", "pid"));
    assert!(podman.exec("b", "ps -o args").contains("sleep 1234"));
    // The end of a process that is not the namespace's first.
    podman.podman(&["kill", "a"]).ok();
    assert_eq!(podman.podman(&["wait", "a"]).ok(), "137");
}

pub fn pod_limits(podman: &Podman) {
    podman.podman(&["pod", "create", "--name", "p", "--network", "none", "--cpus", "0.5"]).ok();
    join(podman, "p", "a", SLEEP);
    join(podman, "p", "b", SLEEP);
    let cgroup = |name| {
        let pid = podman.inspect(name, "{{.State.Pid}}");
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let line = text.lines().find(|line| line.contains(":cpu:") || line.starts_with("0::")).unwrap().to_owned();
        line.rsplit_once('/').unwrap().0.to_owned()
    };
    assert_eq!(cgroup("a"), cgroup("b"));
}

pub fn play_kube(podman: &Podman) {
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: played\nspec:\n  hostname: from-kube\n  containers:\n\
        \x20 - name: one\n    image: {image}\n    command: [sleep, '1000']\n    env:\n    - name: A\n      value: b\n\
        \x20   securityContext:\n      readOnlyRootFilesystem: true\n      runAsUser: 1000\n\
        \x20     capabilities:\n        drop: [ALL]\n\
        \x20 - name: two\n    image: {image}\n    command: [sleep, '1000']\n",
        image = image::NAME
    );
    let file = podman.file("pod.yaml", &manifest);
    podman.podman(&["play", "kube", "--network", "none", &file]).ok();
    assert_eq!(
        podman.exec("played-one", "echo $A; hostname; id -u; grep CapBnd /proc/self/status | cut -f2"),
        "b\nfrom-kube\n1000\n0000000000000000"
    );
    assert_ne!(podman.podman(&["exec", "played-one", "touch", "/file"]).code, 0);
    podman.exec("played-two", "touch /file");
    assert_eq!(namespace(podman, "played-one", "net"), namespace(podman, "played-two", "net"));
    podman.podman(&["play", "kube", "--down", &file]).ok();
    assert_eq!(podman.podman(&["ps", "--all", "--quiet"]).ok(), "");
}
