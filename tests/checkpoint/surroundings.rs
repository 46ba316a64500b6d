//! What a container is in: limits, cgroups, mounts, namespaces.

use crate::common::{self, Lab, criu, eventually, push};
use crate::{COUNT, Counter, pid_of, skip};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

#[test]
fn limits_hold_after_a_restore() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |config| {
        config["linux"]["resources"]["pids"] = json!({"limit": 30});
        config["linux"]["resources"]["memory"] = json!({"limit": 96 << 20});
    });
    let limits = |pid: i32| {
        let find = |controller: &str, file: &str, v2: &str| {
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            let path = |line: &str| line.rsplit(':').next().unwrap().trim_start_matches('/').to_owned();
            let v1 = cgroups.lines().find(|line| line.split(':').nth(1) == Some(controller));
            let file = match v1 {
                Some(line) => Path::new("/sys/fs/cgroup").join(controller).join(path(line)).join(file),
                None => Path::new("/sys/fs/cgroup").join(path(cgroups.lines().last().unwrap())).join(v2),
            };
            fs::read_to_string(&file).map(|text| text.trim().to_owned()).unwrap_or_default()
        };
        [find("pids", "pids.max", "pids.max"), find("memory", "memory.limit_in_bytes", "memory.max")]
    };
    let before = limits(counter.start(&lab));
    assert_eq!(before, ["30".to_owned(), (96 << 20).to_string()]);
    counter.checkpoint(&lab, &[]).ok();
    counter.restore(&lab, &[]).ok();
    assert_eq!(limits(pid_of(&lab, counter.id())), before);
    // And devices are denied as before: opening one that is not allowed fails.
    let denied = lab.microrun(&["exec", counter.id(), "sh", "-c", "mknod /count/sda b 8 0 2>&1 || true"]).ok();
    assert!(denied.contains("not permitted"), "{denied}");
    counter.counts_on(counter.count());
}

#[test]
fn it_may_come_back_in_another_cgroup() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |_| {});
    counter.start(&lab);
    counter.checkpoint(&lab, &["--manage-cgroups-mode", "ignore"]).ok();
    let path = counter.bundle.path.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let other = format!("{}-other", config["linux"]["cgroupsPath"].as_str().unwrap());
    config["linux"]["cgroupsPath"] = json!(other);
    fs::write(&path, config.to_string()).unwrap();
    counter.restore(&lab, &["--manage-cgroups-mode", "ignore"]).ok();
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", pid_of(&lab, counter.id()))).unwrap();
    assert!(cgroups.lines().any(|line| line.ends_with(&other)), "{cgroups}");
    counter.counts_on(counter.count());
}

#[test]
fn mounts_from_outside_come_from_outside_again() {
    let (lab, _alone) = criu_lab!();
    let counter = Counter::new(&lab, |config| {
        for (destination, source) in [("/linked", "one"), ("/linked/for/two", "two"), ("/etc/name", "name")] {
            let mount =
                json!({"destination": destination, "type": "bind", "source": source, "options": ["bind", "ro"]});
            push(&mut config["mounts"], mount);
        }
        config["mounts"].as_array_mut().unwrap().iter_mut().filter(|mount| mount["source"] == "one").for_each(
            |mount| {
                mount["options"] = json!(["bind"]);
            },
        );
    });
    fs::create_dir_all(counter.bundle.rootfs().join("real/place")).unwrap();
    symlink("/real/place", counter.bundle.rootfs().join("linked")).unwrap();
    let path = |name: &str| counter.bundle.path.join(name);
    for name in ["one", "two"] {
        fs::create_dir(path(name)).unwrap();
        fs::write(path(name).join("file"), name).unwrap();
    }
    fs::write(path("name"), "first").unwrap();
    counter.start(&lab);
    counter.checkpoint(&lab, &[]).ok();
    // Places that a start made are made again.
    fs::remove_dir_all(path("one/for")).unwrap();
    fs::write(path("two/file"), "new").unwrap();
    counter.restore(&lab, &[]).ok();
    let see = |file: &str| lab.microrun(&["exec", counter.id(), "cat", file]).ok();
    assert_eq!([see("/linked/file"), see("/linked/for/two/file"), see("/etc/name")], ["one", "new", "first"]);
    let written = lab.microrun(&["exec", counter.id(), "sh", "-c", "echo x >/etc/name"]).failed();
    assert!(written.contains("Read-only"), "{written}");
    let left: Vec<_> = fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(str::to_owned).collect();
    assert!(!left.iter().any(|line| line.contains(counter.id())), "{left:#?}");
}

#[test]
fn a_user_namespace_is_restored() {
    let (lab, _alone) = criu_lab!();
    if !can_lock_networks() {
        skip!("needs iptables-restore or nftables, with which CRIU locks connections");
    }
    let counter = Counter::new(&lab, |config| {
        for kind in ["user", "network"] {
            push(&mut config["linux"]["namespaces"], json!({"type": kind}));
        }
        for kind in ["uidMappings", "gidMappings"] {
            config["linux"][kind] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        }
    });
    common::host("chown", &["-R", "100000:100000", counter.bundle.path.join("count").to_str().unwrap()]);
    // Its root may write to no file of ours.
    counter.start_in_silence(&lab, &[]);
    counter.checkpoint(&lab, &[]).ok();
    counter.restore_in_silence(&lab, &[]);
    counter.counts_on(counter.count());
    assert_eq!(lab.microrun(&["exec", counter.id(), "id", "-u"]).ok(), "0");
    let map = fs::read_to_string(format!("/proc/{}/uid_map", pid_of(&lab, counter.id()))).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "1000"]);
}

/// A container with a network namespace of its own runs `script`.
fn with_network(lab: &Lab, script: &str) -> Counter {
    Counter::running(lab, script, |config| push(&mut config["linux"]["namespaces"], json!({"type": "network"})))
}

/// Whether CRIU can lock the connections of a network namespace.
fn can_lock_networks() -> bool {
    let iptables = Command::new("iptables-restore").arg("--version").output();
    iptables.is_ok_and(|output| output.status.success())
        || criu::run(&["check", "--feature", "network_lock_nftables"]).code == 0
}

#[test]
fn a_network_namespace_of_its_own_comes_back_empty() {
    let (lab, _alone) = criu_lab!();
    if !can_lock_networks() {
        skip!("needs iptables-restore or nftables, with which CRIU locks connections");
    }
    let counter = with_network(&lab, COUNT);
    counter.start(&lab);
    counter.checkpoint(&lab, &[]).ok();
    counter.restore(&lab, &[]).ok();
    counter.counts_on(counter.count());
    let loopback = lab.microrun(&["exec", counter.id(), "cat", "/sys/class/net/lo/flags"]).ok();
    assert_eq!(loopback, "0x9", "up, loopback");
}

#[test]
fn tcp_connections_are_kept() {
    let (lab, _alone) = criu_lab!();
    if !can_lock_networks() {
        skip!("needs iptables-restore or nftables, with which CRIU locks connections");
    }
    // Two ends in one container: what one writes comes to the other.
    let script = "sleep 1000 | nc -l -p 7777 >/count/heard & usleep 300000; \
        (while [ ! -e /count/end ]; do echo word; usleep 50000; done) | nc 127.0.0.1 7777; sleep 1000";
    let counter = with_network(&lab, script);
    counter.begin(&lab);
    let heard = || fs::metadata(counter.file("heard")).map_or(0, |metadata| metadata.len());
    eventually(|| heard() > 20);
    let refused = counter.checkpoint(&lab, &[]).failed();
    assert!(refused.contains("tcp-established"), "{refused}");
    let before = heard();
    eventually(|| heard() > before);
    counter.checkpoint(&lab, &["--tcp-established"]).ok();
    let before = heard();
    counter.restore(&lab, &["--tcp-established"]).ok();
    eventually(|| heard() > before + 20);
}
