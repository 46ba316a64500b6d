//! A container's life.

use super::{Cri, SLEEP};
use crate::cases;
use crate::common::eventually;
use crate::runner::Case;
use serde_json::{Value, json};
use std::fs;
use std::time::Instant;

pub fn cases() -> Vec<Case<Cri>> {
    cases![
        create_start_stop_remove,
        exit_code,
        stop_with_grace,
        stop_kills_after_the_grace,
        no_such_program,
        no_permission,
        environment_and_directory,
        log,
        exec_sync,
        exec_sync_of_no_program,
        exec_sync_timeout,
        probes,
        mounts,
        mount_recursively_read_only,
        mount_propagation,
        device,
        containerd_restarts,
    ]
}

fn create_start_stop_remove(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.create(&pod, SLEEP, |_| {});
    assert_eq!(cri.status(&id)["state"], Value::Null);
    cri.start_container(&id);
    assert_eq!(cri.status(&id)["state"], super::RUNNING);
    cri.client.call("StopContainer", &json!({"container_id": id}));
    assert_eq!(cri.status(&id)["state"], super::EXITED);
    cri.client.call("RemoveContainer", &json!({"container_id": id}));
    assert!(cri.client.try_call("ContainerStatus", &json!({"container_id": id})).is_err());
}

fn exit_code(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    for (script, code, reason) in [("exit 0", Value::Null, "Completed"), ("exit 7", json!(7), "Error")] {
        let id = cri.started(&pod, script, |_| {});
        cri.wait(&id);
        let status = cri.status(&id);
        assert_eq!((&status["exit_code"], status["reason"].as_str().unwrap()), (&code, reason));
    }
}

fn stop_with_grace(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, "trap 'exit 5' TERM; echo ready; while :; do usleep 10000; done", |_| {});
    eventually(|| cri.log(&id) == "ready");
    cri.client.call("StopContainer", &json!({"container_id": id, "timeout": 20}));
    assert_eq!(cri.status(&id)["exit_code"], 5);
}

fn stop_kills_after_the_grace(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, "trap '' TERM; while :; do usleep 10000; done", |_| {});
    cri.client.call("StopContainer", &json!({"container_id": id, "timeout": 1}));
    assert_eq!(cri.status(&id)["exit_code"], 137);
}

fn no_such_program(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.create(&pod, "", |config| config["command"] = json!(["/nosuch"]));
    let why = cri.client.try_call("StartContainer", &json!({"container_id": id})).unwrap_err();
    assert!(why.contains("/nosuch") && why.contains("no such file or directory"), "{why}");
    // What kubelet shows its user.
    let status = cri.status(&id);
    assert_eq!((&status["exit_code"], &status["reason"]), (&json!(128), &json!("StartError")), "{status}");
}

fn no_permission(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.create(&pod, "", |config| config["command"] = json!(["/etc/passwd"]));
    let why = cri.client.try_call("StartContainer", &json!({"container_id": id})).unwrap_err();
    assert!(why.contains("permission denied"), "{why}");
}

fn environment_and_directory(cri: &Cri) {
    let said = cri.said("echo $A; pwd", |config| {
        config["envs"] = json!([{"key": "A", "value": "b c"}]);
        config["working_dir"] = json!("/tmp");
    });
    assert_eq!(said, "b c\n/tmp");
}

fn log(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(
        &pod,
        "echo to stdout; echo to stderr >&2; i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo $i; done",
        |_| {},
    );
    cri.wait(&id);
    eventually(|| cri.log(&id).ends_with("5000"));
    assert_eq!(cri.log(&id).lines().count(), 5002);
}

fn exec_sync(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |_| {});
    let output = cri.exec(&id, "echo out; echo err >&2; exit 4");
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (4, "out", "err"));
}

fn exec_sync_of_no_program(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |_| {});
    let why = cri.client.try_call("ExecSync", &json!({"container_id": id, "cmd": ["/nosuch"]})).unwrap_err();
    assert!(why.contains("no such file or directory"), "{why}");
    // By the next probe all is as before.
    cri.exec(&id, "true").ok();
}

fn exec_sync_timeout(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |_| {});
    let request = json!({"container_id": id, "cmd": ["sh", "-c", "sleep 4321"], "timeout": 1});
    let start = Instant::now();
    let why = cri.client.try_call("ExecSync", &request).unwrap_err();
    assert!(why.contains("timed out") || why.contains("deadline"), "{why}");
    assert!(start.elapsed().as_secs() < 10);
    eventually(|| !cri.exec(&id, "ps -o args").stdout.contains("sleep 4321\n"));
}

/// Twenty in a row, as the probes of a pod are.
fn probes(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |_| {});
    for _ in 0..10 {
        assert_eq!(cri.exec(&id, "test ! -e /tmp/ill").code, 0);
    }
    cri.exec(&id, "touch /tmp/ill").ok();
    for _ in 0..10 {
        assert_eq!(cri.exec(&id, "test ! -e /tmp/ill").code, 1);
    }
    // No process is left of them.
    let shown = cri.exec(&id, "ps -o args").stdout;
    let left: Vec<_> = shown.lines().filter(|line| *line != "COMMAND" && !line.contains("ps -o args")).collect();
    assert_eq!(left, ["sleep 1000"]);
}

fn mounts(cri: &Cri) {
    let directory = cri.dir.join("files/mounted");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("file"), "text").unwrap();
    let said = cri.said("cat /a/file; echo new >/a/new; (echo new >/b/new) 2>&1 || true", |config| {
        config["mounts"] = json!([
            {"container_path": "/a", "host_path": directory},
            {"container_path": "/b", "host_path": directory, "readonly": true}
        ]);
    });
    assert!(said.starts_with("text") && said.contains("Read-only file system"), "{said}");
    assert_eq!(fs::read_to_string(directory.join("new")).unwrap(), "new\n");
    fs::remove_dir_all(directory).unwrap();
}

fn mount_recursively_read_only(cri: &Cri) {
    if !cri.has_feature("recursive_read_only_mounts") {
        crate::runner::skip(
            "neither this containerd (2.0 or later) nor this runtime tells of recursive read-only mounts",
        );
    }
    let directory = cri.dir.join("files/recursive");
    let below = directory.join("below");
    fs::create_dir_all(&below).unwrap();
    crate::common::host("mount", &["-t", "tmpfs", "below", below.to_str().unwrap()]);
    let touch = "(touch /a/below/file) 2>&1 || true";
    let with = |recursive: bool| {
        cri.said(touch, |config| {
            config["mounts"] = json!([{
                "container_path": "/a", "host_path": directory, "readonly": true, "recursive_read_only": recursive
            }]);
        })
    };
    let (plain, recursive) = (with(false), with(true));
    crate::common::host("umount", &[below.to_str().unwrap()]);
    assert_eq!(plain, "");
    assert!(recursive.contains("Read-only file system"), "{recursive}");
}

/// A mount of the host that is made while the container runs.
fn mount_propagation(cri: &Cri) {
    let directory = cri.dir.join("files/shared");
    let below = directory.join("below");
    fs::create_dir_all(&below).unwrap();
    let (path, below) = (directory.to_str().unwrap(), below.to_str().unwrap());
    crate::common::host("mount", &["--bind", path, path]);
    crate::common::host("mount", &["--make-shared", path]);
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |config| {
        config["mounts"] = json!([{"container_path": "/a", "host_path": path, "propagation": 1}]);
    });
    crate::common::host("mount", &["-t", "tmpfs", "made-later", below]);
    let said = cri.exec(&id, "cat /proc/mounts").stdout;
    crate::common::host("umount", &["--recursive", path]);
    assert!(said.contains("made-later /a/below"), "{said}");
}

fn device(cri: &Cri) {
    let said = cri.said("head -c 3 /dev/nought | wc -c", |config| {
        config["devices"] = json!([{"container_path": "/dev/nought", "host_path": "/dev/zero", "permissions": "rw"}]);
    });
    assert_eq!(said, "3");
}

fn containerd_restarts(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |_| {});
    let gone = cri.started(&pod, "usleep 300000; exit 6", |_| {});
    cri.containerd.restart();
    eventually(|| cri.condition("RuntimeReady"));
    assert_eq!(cri.status(&id)["state"], super::RUNNING);
    cri.exec(&id, "true").ok();
    cri.wait(&gone);
    assert_eq!(cri.status(&gone)["exit_code"], 6);
}
