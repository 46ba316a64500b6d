//! cgroup v2 as users have it: limits that the kernel enforces, device rules, the freezer, events, delegation.
//!
//! On a unified machine everything runs (`make test-vm`); on a hybrid one what its v2 hierarchy can do.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Guard, Lab, Output, eventually, output, push};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where the v2 hierarchy is mounted.
fn mount_point() -> Option<&'static Path> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(Path::new)
        .find(|mount| mount.join("cgroup.controllers").exists())
}

/// Ends the test as skipped where there is no cgroup v2, or none with these controllers.
macro_rules! need {
    ($($controller:literal),*) => {{
        let Some(mount) = mount_point() else { skip!("this machine has no cgroup v2") };
        let held = fs::read_to_string(mount.join("cgroup.controllers")).unwrap();
        let wanted: &[&str] = &[$($controller),*];
        if let Some(missing) = wanted.iter().find(|wanted| !held.split_whitespace().any(|name| name == **wanted)) {
            skip!("the v2 hierarchy of this machine has no {missing} controller");
        }
        mount
    }};
}

/// Whether this machine has v2 alone: then device rules are eBPF and nothing else is joined.
fn unified() -> bool {
    mount_point() == Some(Path::new("/sys/fs/cgroup"))
}

/// The container's view of its own cgroup: a namespace and a mount.
fn show_cgroup(config: &mut Value, options: &[&str]) {
    push(&mut config["linux"]["namespaces"], json!({"type": "cgroup"}));
    let mut all = vec!["nosuid", "noexec", "nodev"];
    all.extend(options);
    push(
        &mut config["mounts"],
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup2", "source": "cgroup", "options": all}),
    );
}

fn limit(config: &mut Value, resources: Value) {
    for (key, value) in resources.as_object().unwrap() {
        config["linux"]["resources"][key] = value.clone();
    }
}

/// What `files` of the container's cgroup hold under `resources`, as the container reads it.
fn inside(lab: &Lab, files: &[&str], resources: Value) -> Output {
    let script = format!("cd /sys/fs/cgroup && for f in {}; do echo $f $(cat $f); done", files.join(" "));
    lab.shell(&script, |config| {
        show_cgroup(config, &["ro"]);
        limit(config, resources);
    })
}

/// A container that runs `sleep`, and its v2 directory.
fn sleeper(lab: &Lab, change: impl FnOnce(&mut Value)) -> (Bundle, PathBuf) {
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        change(config);
    });
    let pid = lab.started(&bundle);
    (bundle, cgroup_of(pid))
}

/// The v2 directory of a process.
fn cgroup_of(pid: i32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    mount_point().unwrap().join(path.trim_start_matches('/'))
}

fn read(directory: &Path, file: &str) -> String {
    fs::read_to_string(directory.join(file)).unwrap().trim().to_owned()
}

fn exec(lab: &Lab, bundle: &Bundle, script: &str) -> Output {
    lab.microrun(&["exec", &bundle.id, "sh", "-c", script])
}

fn stats(lab: &Lab, bundle: &Bundle) -> Value {
    let line: Value = serde_json::from_str(&lab.microrun(&["events", "--stats", &bundle.id]).ok()).unwrap();
    line["data"].clone()
}

#[test]
fn limits_are_set_before_anything_runs() {
    need!("memory", "pids", "cpu", "cpuset");
    if common::kernel() < (5, 15) {
        skip!("this kernel has no cpu.max.burst (Linux 5.14) or no cpu.idle (5.15)");
    }
    let lab = lab!();
    let resources = json!({
        "memory": {"limit": 67108864, "swap": 100663296, "reservation": 33554432},
        "pids": {"limit": 50},
        "cpu": {"shares": 512, "quota": 50000, "period": 200000, "burst": 10000, "cpus": "0", "mems": "0"}
    });
    let expected = [
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("memory.low", "33554432"),
        ("pids.max", "50"),
        ("cpu.weight", "59"),
        ("cpu.max", "50000 200000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
    ];
    let files = expected.map(|(file, _)| file);
    let output = inside(&lab, &files, resources).ok();
    assert_eq!(output, expected.map(|(file, value)| format!("{file} {value}")).join("\n"));
}

#[test]
fn no_limit_is_written_as_max() {
    need!("memory", "pids", "cpu");
    let lab = lab!();
    let resources = json!({"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1}});
    let output = inside(&lab, &["memory.max", "memory.swap.max", "pids.max", "cpu.max"], resources).ok();
    assert_eq!(output, "memory.max max\nmemory.swap.max max\npids.max max\ncpu.max max 100000");
}

#[test]
fn an_idle_container() {
    need!("cpu");
    if common::kernel() < (5, 15) {
        skip!("this kernel has no cpu.max.burst (Linux 5.14) or no cpu.idle (5.15)");
    }
    let lab = lab!();
    assert_eq!(inside(&lab, &["cpu.idle"], json!({"cpu": {"idle": 1}})).ok(), "cpu.idle 1");
}

#[test]
fn memory_runs_out() {
    need!("memory");
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["dd", "if=/dev/zero", "of=/dev/null", "bs=80M", "count=1"]);
        limit(config, json!({"memory": {"limit": 33554432, "swap": 33554432}}));
    });
    let output = lab.run(&bundle, &[]);
    assert_eq!(output.code, 137, "{output:?}");
}

#[test]
fn processes_run_out() {
    need!("pids");
    let lab = lab!();
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait";
    let output = lab.shell(script, |config| limit(config, json!({"pids": {"limit": 5}})));
    assert!(output.stderr.contains("fork"), "{output:?}");
}

#[test]
fn cpus_are_those_of_the_set() {
    need!("cpuset");
    let lab = lab!();
    let [_, .., last] = common::cpus()[..] else { skip!("there is one CPU") };
    let output = lab.shell("grep Cpus_allowed_list /proc/self/status", |config| {
        limit(config, json!({"cpu": {"cpus": last.to_string()}}));
    });
    assert_eq!(output.ok(), format!("Cpus_allowed_list:\t{last}"));
}

#[test]
fn a_cpu_quota_throttles() {
    need!("cpu");
    let lab = lab!();
    let (bundle, _) = sleeper(&lab, |config| {
        config["process"]["args"] = json!(["sh", "-c", "while :; do :; done"]);
        limit(config, json!({"cpu": {"quota": 2000, "period": 20000}}));
    });
    eventually(|| {
        let cpu = &stats(&lab, &bundle)["cpu"];
        let more_than_none = |value: &Value| value.as_u64().is_some_and(|value| value > 0);
        more_than_none(&cpu["throttling"]["throttledPeriods"]) && more_than_none(&cpu["usage"]["total"])
    });
}

/// The numbers of a disk of this machine.
fn disk() -> Option<String> {
    let disks = fs::read_dir("/sys/block").ok()?.flatten().map(|entry| entry.path());
    let disk = disks
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            ["vd", "sd", "nvme"].iter().any(|prefix| name.starts_with(prefix))
        })
        .min()?;
    Some(fs::read_to_string(disk.join("dev")).ok()?.trim().to_owned())
}

#[test]
fn disks_are_throttled_and_weighed() {
    need!("io");
    let lab = lab!();
    let Some(number) = disk() else { skip!("this machine has no disk") };
    let (major, minor) = number.split_once(':').unwrap();
    let (major, minor): (i64, i64) = (major.parse().unwrap(), minor.parse().unwrap());
    let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let resources = json!({"blockIO": {
        "weight": 200,
        "throttleReadBpsDevice": rate(1048576),
        "throttleWriteBpsDevice": rate(2097152),
        "throttleReadIOPSDevice": rate(100),
        "throttleWriteIOPSDevice": rate(200)
    }});
    let (_, cgroup) = sleeper(&lab, |config| limit(config, resources));
    assert_eq!(read(&cgroup, "io.max"), format!("{number} rbps=1048576 wbps=2097152 riops=100 wiops=200"));
    let (file, weight) =
        if cgroup.join("io.bfq.weight").exists() { ("io.bfq.weight", "200") } else { ("io.weight", "1920") };
    let text = read(&cgroup, file);
    assert_eq!(text.trim_start_matches("default "), weight, "{file}");
}

#[test]
fn huge_pages_are_limited() {
    let mount = need!("hugetlb");
    let lab = lab!();
    let enabled = fs::read_to_string(mount.join("cgroup.subtree_control")).unwrap();
    if !Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
        skip!("this machine has no huge pages of 2 MB ({enabled})");
    }
    let resources = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]});
    let (bundle, cgroup) = sleeper(&lab, |config| limit(config, resources));
    assert_eq!(read(&cgroup, "hugetlb.2MB.max"), "4194304");
    assert_eq!(read(&cgroup, "hugetlb.2MB.rsvd.max"), "4194304");
    assert!(stats(&lab, &bundle)["hugetlb"]["2MB"].is_object());
}

#[test]
fn rdma_is_limited() {
    need!("rdma");
    let devices = fs::read_dir("/sys/class/infiniband").into_iter().flatten().flatten();
    let Some(device) = devices.map(|entry| entry.file_name().into_string().unwrap()).min() else {
        skip!("this machine has no RDMA device");
    };
    let lab = lab!();
    let mut resources = json!({"rdma": {}});
    resources["rdma"][&device] = json!({"hcaHandles": 3, "hcaObjects": 10000});
    let (_, cgroup) = sleeper(&lab, |config| limit(config, resources));
    let limits = read(&cgroup, "rdma.max");
    assert!(limits.lines().any(|line| line == format!("{device} hca_handle=3 hca_object=10000")), "{limits}");
}

#[test]
fn unified_files_come_last() {
    need!("memory", "pids");
    let lab = lab!();
    let resources = json!({
        "pids": {"limit": 50},
        "unified": {"pids.max": "33", "memory.high": "50331648", "memory.oom.group": "1"}
    });
    let output = inside(&lab, &["pids.max", "memory.high", "memory.oom.group"], resources).ok();
    assert_eq!(output, "pids.max 33\nmemory.high 50331648\nmemory.oom.group 1");
}

#[test]
fn what_v2_cannot_limit_is_refused_by_name() {
    need!();
    if !unified() {
        skip!("this machine has controllers on cgroup v1");
    }
    let lab = lab!();
    for (resources, field) in [
        (json!({"memory": {"swappiness": 10}}), "memory.swappiness"),
        (json!({"memory": {"disableOOMKiller": true}}), "memory.disableOOMKiller"),
        (json!({"cpu": {"realtimeRuntime": 1000}}), "cpu.realtimeRuntime"),
        (json!({"network": {"classID": 1}}), "network.classID"),
        (json!({"blockIO": {"leafWeight": 100}}), "blockIO.leafWeight"),
        (json!({"unified": {"nosuch.max": "1"}}), "unified[\"nosuch.max\"]"),
        (json!({"unified": {"memory.nosuch": "1"}}), "unified[\"memory.nosuch\"]"),
        (json!({"unified": {"pids.max": "many"}}), "unified[\"pids.max\"]"),
        (json!({"unified": {"../pids.max": "1"}}), "unified[\"../pids.max\"]"),
        (json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}), "hugepageLimits"),
        (json!({"cpu": {"cpus": "4096"}}), "cpu.cpus"),
        (json!({"memory": {"limit": 4194304, "swap": 1048576}}), "memory.swap"),
    ] {
        let bundle = lab.bundle(|config| limit(config, resources.clone()));
        let error = lab.run(&bundle, &[]).failed();
        assert!(error.replace('\\', "").contains(&format!("linux.resources.{field}")), "{resources}: {error}");
        let path = format!("/sys/fs/cgroup{}", config_path(&bundle));
        assert!(!Path::new(&path).exists(), "{resources}: {path} is left");
    }
}

/// linux.cgroupsPath.
fn config_path(bundle: &Bundle) -> String {
    let config: Value = serde_json::from_slice(&fs::read(bundle.path.join("config.json")).unwrap()).unwrap();
    config["linux"]["cgroupsPath"].as_str().unwrap().to_owned()
}

#[test]
fn devices_are_allowed_and_denied() {
    let lab = lab!();
    // Numbers that no driver has: what is allowed does not exist (ENXIO), what is not is refused (EPERM).
    let script = "cd /tmp
        mknod a c 60 0; mknod b c 60 1; mknod c c 61 7; mknod d b 60 0
        try() { if ( eval \"$2\" ) 2>&1 | grep -q 'not permitted'; then echo \"$1 no\"; else echo \"$1 yes\"; fi; }
        for f in a b c d; do
            try r$f \": <$f\"; try w$f \": >>$f\"; try x$f \": <>$f\"
        done
        head -c 2 /dev/zero | wc -c; echo > /dev/null; head -c 2 /dev/urandom | wc -c";
    let prepare = |config: &mut Value| {
        for set in ["bounding", "effective", "permitted"] {
            push(&mut config["process"]["capabilities"][set], json!("CAP_MKNOD"));
        }
        push(&mut config["mounts"], json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
    };
    let lists = [
        (
            json!([{"allow": false, "access": "rwm"},
                   {"allow": true, "type": "c", "major": 60, "minor": 0, "access": "r"},
                   {"allow": true, "type": "c", "major": 61, "access": "rw"}]),
            "ra rc wc xc",
        ),
        (
            json!([{"allow": true, "access": "rwm"},
                   {"allow": false, "type": "c", "major": 60, "minor": 1, "access": "w"},
                   {"allow": false, "type": "b", "access": "rwm"}]),
            "ra wa xa rb rc wc xc",
        ),
        (json!([]), ""),
    ];
    for (rules, allowed) in lists {
        let text = rules.to_string();
        let output = lab
            .shell(script, |config| {
                prepare(config);
                config["linux"]["resources"]["devices"] = rules;
            })
            .ok();
        let yes: Vec<&str> = output.lines().filter_map(|line| line.strip_suffix(" yes")).collect();
        assert_eq!(yes.join(" "), allowed, "{text}: {output}");
        assert!(output.ends_with("2\n2"), "{output}");
    }
    // Another process of the container is under the same rules.
    let (bundle, _) = sleeper(&lab, prepare);
    let output = exec(&lab, &bundle, "mknod /tmp/a c 60 0; : </tmp/a");
    assert!(output.stderr.contains("not permitted"), "{output:?}");
}

#[test]
fn a_paused_container_is_frozen_with_all_below_it() {
    need!();
    let lab = lab!();
    let (bundle, cgroup) = nested(&lab);
    lab.microrun(&["pause", &bundle.id]).ok();
    assert!(read(&cgroup, "cgroup.events").contains("frozen 1"));
    assert!(read(&cgroup.join("init"), "cgroup.events").contains("frozen 1"));
    assert_eq!(read(&cgroup, "cgroup.freeze"), "1");
    lab.microrun(&["resume", &bundle.id]).ok();
    assert!(read(&cgroup, "cgroup.freeze") == "0");
    lab.microrun(&["pause", &bundle.id]).ok();
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
    assert!(!cgroup.exists());
}

/// A container whose init has moved itself to a cgroup of its own below the container's, and enabled a controller there
/// if there is one.
fn nested(lab: &Lab) -> (Bundle, PathBuf) {
    let bundle = lab.bundle(|config| {
        let script = "cd /sys/fs/cgroup && mkdir init other && echo 1 >init/cgroup.procs
            sleep 1001 & echo $! >other/cgroup.procs
            for c in $(cat cgroup.controllers); do echo +$c >cgroup.subtree_control; done
            touch /tmp/ready; exec sleep 1000";
        config["process"]["args"] = json!(["sh", "-c", script]);
        push(&mut config["mounts"], json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
        show_cgroup(config, &["rw"]);
    });
    let pid = lab.created(&bundle);
    let cgroup = cgroup_of(pid);
    lab.microrun(&["start", &bundle.id]).ok();
    let ready = format!("/proc/{pid}/root/tmp/ready");
    eventually(|| Path::new(&ready).exists());
    (bundle, cgroup)
}

#[test]
fn a_container_divides_its_cgroup() {
    need!();
    let lab = lab!();
    let (bundle, cgroup) = nested(&lab);
    assert_eq!(read(&cgroup, "cgroup.procs"), "");
    // Where its own cgroup takes no processes any more, they go where init is.
    let path = exec(&lab, &bundle, "grep ^0:: /proc/self/cgroup").ok();
    let divided = !read(&cgroup, "cgroup.subtree_control").is_empty();
    assert_eq!(path, if divided { "0::/init" } else { "0::/" });
    if unified() {
        let own = ["exec", "--cgroup", "other", &bundle.id, "grep", "^0::", "/proc/self/cgroup"];
        assert_eq!(lab.microrun(&own).ok(), "0::/other");
    }
    let outside = ["exec", "--cgroup", "../..", &bundle.id, "true"];
    assert!(lab.microrun(&outside).failed().contains("leads out of the container's cgroup"));
    let pids: Vec<i32> = serde_json::from_str(&lab.microrun(&["ps", "-f", "json", &bundle.id]).ok()).unwrap();
    assert_eq!(pids.len(), 2);
    lab.microrun(&["kill", "--all", &bundle.id, "KILL"]).ok();
    eventually(|| pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    eventually(|| lab.microrun(&["state", &bundle.id]).ok().contains("stopped"));
    lab.microrun(&["delete", &bundle.id]).ok();
    assert!(!cgroup.exists());
}

#[test]
fn delete_by_force_removes_what_the_container_made() {
    need!();
    let lab = lab!();
    let (bundle, cgroup) = nested(&lab);
    fs::create_dir_all(cgroup.join("other/a/b/c")).unwrap();
    assert!(lab.microrun(&["delete", &bundle.id]).failed().contains("cannot delete container"));
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
    assert!(!cgroup.exists());
}

#[test]
fn a_run_that_ends_leaves_no_cgroup() {
    need!();
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        let script = "mkdir -p /sys/fs/cgroup/a/b && echo 0 >/sys/fs/cgroup/a/b/cgroup.procs";
        config["process"]["args"] = json!(["sh", "-c", script]);
        show_cgroup(config, &["rw"]);
    });
    lab.run(&bundle, &[]).ok();
    let path = config_path(&bundle);
    assert!(!mount_point().unwrap().join(path.trim_start_matches('/')).exists());
}

#[test]
fn all_processes_are_killed_without_a_pid_namespace() {
    need!();
    let lab = lab!();
    let (bundle, cgroup) = sleeper(&lab, |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
        config["process"]["args"] = json!(["sh", "-c", "(trap '' TERM; sleep 1001; sleep 1002) & exec sleep 1000"]);
    });
    let count = || read(&cgroup, "cgroup.procs").lines().count();
    eventually(|| count() == 3);
    lab.microrun(&["kill", "--all", &bundle.id, "TERM"]).ok();
    // The subshell does not mind and goes on with its second sleep, which does not mind either.
    eventually(|| count() == 2);
    lab.microrun(&["kill", &bundle.id, "--all", "KILL"]).ok();
    eventually(|| count() == 0);
    lab.microrun(&["delete", &bundle.id]).ok();
    assert!(!cgroup.exists());
}

#[test]
fn running_out_of_memory_is_an_event() {
    need!("memory");
    let lab = lab!();
    let (bundle, cgroup) =
        sleeper(&lab, |config| limit(config, json!({"memory": {"limit": 33554432, "swap": 33554432}})));
    let mut events = lab.command(&["events", "--interval", "1s", &bundle.id]);
    let mut events = events.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    // The first statistics tell that it watches.
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["type"], "stats", "{first}");
    let hog = exec(&lab, &bundle, "dd if=/dev/zero of=/dev/null bs=80M count=1");
    assert_eq!(hog.code, 137, "{hog:?}");
    assert!(read(&cgroup, "memory.events").contains("oom_kill 1"));
    let line = lines.map_while(Result::ok).find(|line| line.contains("\"oom\"")).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((line["type"].as_str(), line["id"].as_str()), (Some("oom"), Some(bundle.id.as_str())));
    let _ = events.kill();
    let _ = events.wait();
}

#[test]
fn events_end_with_the_container() {
    need!();
    let lab = lab!();
    let (bundle, _) = sleeper(&lab, |_| {});
    let mut events = lab.command(&["events", "--interval", "100ms", &bundle.id]);
    let mut events = Guard(events.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut next = || lines.next().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    assert_eq!(next().unwrap()["type"], "stats");
    lab.microrun(&["kill", &bundle.id, "KILL"]).ok();
    // It ends by itself.
    while let Some(line) = next() {
        assert_eq!(line["type"], "stats", "{line}");
    }
    assert!(events.wait().unwrap().success());
}

#[test]
fn statistics_tell_use_and_limits() {
    need!("memory", "pids", "cpu");
    let lab = lab!();
    let (bundle, cgroup) = sleeper(&lab, |config| {
        limit(config, json!({"memory": {"limit": 67108864, "swap": 100663296}, "pids": {"limit": 50}}));
    });
    // The kernel sums memory.stat up every two seconds, or when much has changed.
    let mut data = json!(null);
    eventually(|| {
        data = stats(&lab, &bundle);
        data["memory"]["raw"]["pgfault"].as_u64().is_some_and(|faults| faults > 0)
    });
    assert_eq!(data["memory"]["usage"]["limit"], 67108864);
    assert_eq!(data["memory"]["swap"]["limit"], 100663296);
    let usage = data["memory"]["usage"]["usage"].as_u64().unwrap();
    assert!(usage > 0 && usage < 67108864, "{data}");
    assert_eq!((&data["pids"]["current"], &data["pids"]["limit"]), (&json!(1), &json!(50)));
    let total = data["cpu"]["usage"]["total"].as_u64().unwrap();
    let micros: u64 = read(&cgroup, "cpu.stat")
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))
        .and_then(|text| text.parse().ok())
        .unwrap();
    assert!(total > 0 && total <= micros * 1000, "{total} {micros}");
}

#[test]
fn every_limit_can_be_updated() {
    need!("memory", "pids", "cpu", "cpuset", "io");
    if common::kernel() < (5, 15) {
        skip!("this kernel has no cpu.max.burst (Linux 5.14) or no cpu.idle (5.15)");
    }
    let lab = lab!();
    let (bundle, cgroup) = sleeper(&lab, |config| {
        limit(config, json!({"memory": {"limit": 67108864, "swap": 67108864}, "cpu": {"quota": 50000}}));
    });
    let update = |options: &[&str]| {
        let mut args = vec!["update"];
        args.extend(options);
        args.push(&bundle.id);
        lab.microrun(&args)
    };
    let bfq = cgroup.join("io.bfq.weight").exists();
    let weight = if bfq { ("io.bfq.weight", "default 300") } else { ("io.weight", "default 2930") };
    for (options, expected) in [
        (vec!["--memory", "32M"], vec![("memory.max", "33554432"), ("memory.swap.max", "33554432")]),
        (vec!["--memory-swap", "128M", "--memory", "96M"], vec![("memory.swap.max", "33554432")]),
        (vec!["--memory-reservation", "16M"], vec![("memory.low", "16777216"), ("memory.max", "100663296")]),
        (vec!["--cpu-period", "200000"], vec![("cpu.max", "50000 200000")]),
        (vec!["--cpu-quota", "60000"], vec![("cpu.max", "60000 200000")]),
        (vec!["--cpu-burst", "30000"], vec![("cpu.max.burst", "30000"), ("cpu.max", "60000 200000")]),
        (vec!["--cpu-share", "512"], vec![("cpu.weight", "59")]),
        (vec!["--cpuset-cpus", "0"], vec![("cpuset.cpus", "0")]),
        (vec!["--cpuset-mems", "0"], vec![("cpuset.mems", "0")]),
        (vec!["--pids-limit", "40"], vec![("pids.max", "40")]),
        (vec!["--pids-limit", "-1"], vec![("pids.max", "max")]),
        (vec!["--blkio-weight", "300"], vec![weight]),
        (vec!["--cpu-idle", "1"], vec![("cpu.idle", "1"), ("cpu.max", "60000 200000")]),
        (vec!["--cpu-idle", "0"], vec![("cpu.idle", "0")]),
        (vec!["--memory", "-1"], vec![("memory.max", "max"), ("memory.swap.max", "max")]),
    ] {
        update(&options).ok();
        for (file, value) in expected {
            let text = read(&cgroup, file);
            assert_eq!(
                text.trim_start_matches("default "),
                value.trim_start_matches("default "),
                "{options:?}: {file}"
            );
        }
    }
    // What one limit cannot be, none is.
    update(&["--pids-limit", "40"]).ok();
    let error = update(&["--pids-limit", "30", "--cpuset-cpus", "4096"]).failed();
    assert!(error.contains("cpuset.cpus"), "{error}");
    assert_eq!(read(&cgroup, "pids.max"), "40");
}

#[test]
fn resources_come_from_standard_input() {
    need!("memory", "pids");
    let lab = lab!();
    let (bundle, cgroup) = sleeper(&lab, |_| {});
    for (words, pids) in [(vec!["--resources", "-"], 20), (vec!["--resources=-"], 21), (vec!["-r", "-"], 22)] {
        let mut args = vec!["update"];
        args.extend(&words);
        args.push(&bundle.id);
        let mut update = lab.command(&args).stdin(Stdio::piped()).spawn().unwrap();
        let resources = json!({
            "pids": {"limit": pids},
            "memory": {"limit": 67108864},
            "unified": {"memory.high": "50331648"}
        });
        update.stdin.take().unwrap().write_all(resources.to_string().as_bytes()).unwrap();
        assert!(update.wait().unwrap().success(), "{words:?}");
        assert_eq!(read(&cgroup, "pids.max"), pids.to_string());
        assert_eq!(
            (read(&cgroup, "memory.max").as_str(), read(&cgroup, "memory.high").as_str()),
            ("67108864", "50331648")
        );
    }
}

#[test]
fn a_limit_below_the_use_is_refused_if_asked() {
    need!("memory");
    let lab = lab!();
    let (bundle, cgroup) = sleeper(&lab, |config| limit(config, json!({"memory": {"limit": 67108864}})));
    let file = bundle.path.join("resources.json");
    fs::write(&file, json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}).to_string()).unwrap();
    let error = lab.microrun(&["update", "--resources", file.to_str().unwrap(), &bundle.id]).failed();
    assert!(error.contains("rejecting memory limit 4096"), "{error}");
    assert_eq!(read(&cgroup, "memory.max"), "67108864");
}

#[test]
fn a_read_only_mount_of_the_cgroup() {
    need!();
    let lab = lab!();
    let output = lab.shell("cat /proc/self/cgroup | grep ^0::; mkdir /sys/fs/cgroup/sub", |config| {
        show_cgroup(config, &["ro"]);
    });
    assert_eq!(output.stdout, "0::/");
    assert!(output.stderr.contains("Read-only file system"), "{output:?}");
}

#[test]
fn a_writable_cgroup_is_its_users() {
    need!();
    let lab = lab!();
    let mappings = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let map = |config: &mut Value| {
        config["linux"]["uidMappings"] = mappings.clone();
        config["linux"]["gidMappings"] = mappings.clone();
    };
    let other = lab.sleeping(|config| {
        push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
        map(config);
    });
    let joined = format!("/proc/{}/ns/user", lab.started(&other));
    // A user of the host without a user namespace, root and a user of a new one, and of one that is joined, which has mappings of its own.
    for (user_namespace, uid, owner) in
        [(None, 1000, 1000), (Some(""), 0, 100_000), (Some(""), 5, 100_005), (Some(&*joined), 5, 100_005)]
    {
        let bundle = lab.bundle(|config| {
            let script = "cd /sys/fs/cgroup && mkdir sub && echo 0 >sub/cgroup.procs && echo made >/tmp/made; \
                          sleep 1000 & wait";
            config["process"]["args"] = json!(["sh", "-c", script]);
            config["process"]["user"] = json!({"uid": uid, "gid": uid});
            let tmp = json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]});
            push(&mut config["mounts"], tmp);
            show_cgroup(config, &["rw"]);
            match user_namespace {
                None => {}
                Some("") => {
                    push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
                    map(config);
                }
                Some(path) => push(&mut config["linux"]["namespaces"], json!({"type": "user", "path": path})),
            }
        });
        let pid = lab.created(&bundle);
        let cgroup = cgroup_of(pid);
        let owner_of = |file: &str| fs::metadata(cgroup.join(file)).unwrap().uid();
        for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            assert_eq!(owner_of(file), owner, "{file}");
        }
        for file in ["cgroup.freeze", "cgroup.max.depth"] {
            assert_eq!(owner_of(file), 0, "{file}");
        }
        lab.microrun(&["start", &bundle.id]).ok();
        let made = format!("/proc/{pid}/root/tmp/made");
        eventually(|| Path::new(&made).exists());
        lab.microrun(&["delete", "--force", &bundle.id]).ok();
        assert!(!cgroup.exists());
    }
    // Not without a namespace, and not read-only.
    let (_, cgroup) = sleeper(&lab, |config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        show_cgroup(config, &["ro"]);
    });
    assert_eq!(fs::metadata(cgroup).unwrap().uid(), 0);
}

#[test]
fn a_container_cannot_lift_its_own_limits() {
    need!("pids");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    if !mounts.lines().any(|line| line.contains(" cgroup2 ") && line.contains("nsdelegate")) {
        skip!("cgroup v2 is mounted without nsdelegate");
    }
    let lab = lab!();
    let script = "cd /sys/fs/cgroup; echo max >pids.max; echo 1000 >pids.max; mkdir sub && cat pids.max";
    let output = lab.shell(script, |config| {
        show_cgroup(config, &["rw"]);
        limit(config, json!({"pids": {"limit": 50}}));
    });
    assert_eq!(output.stdout, "50", "{output:?}");
    assert_eq!(output.stderr.matches("Operation not permitted").count(), 2, "{output:?}");
}

/// A process of ours in a cgroup, which it leaves when it is dropped.
struct Occupant {
    process: Child,
    cgroup: PathBuf,
}

impl Occupant {
    fn new(cgroup: PathBuf) -> Self {
        fs::create_dir_all(&cgroup).unwrap();
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(cgroup.join("cgroup.procs"), process.id().to_string()).unwrap();
        Self { process, cgroup }
    }
}

impl Drop for Occupant {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir(&self.cgroup);
    }
}

#[test]
fn a_cgroup_in_use_is_refused() {
    let mount = need!();
    let lab = lab!();
    let bundle = lab.bundle(|_| {});
    let occupant = Occupant::new(mount.join(config_path(&bundle).trim_start_matches('/')));
    let cgroup = occupant.cgroup.clone();
    let error = lab.run(&bundle, &[]).failed();
    assert!(error.contains("container's cgroup is not empty: 1 process(es) found"), "{error}");
    assert!(cgroup.exists());
    drop(occupant);

    fs::create_dir_all(&cgroup).unwrap();
    fs::write(cgroup.join("cgroup.freeze"), "1").unwrap();
    let error = lab.run(&bundle, &[]).failed();
    assert!(error.contains("container's cgroup unexpectedly frozen"), "{error}");
    fs::write(cgroup.join("cgroup.freeze"), "0").unwrap();
    lab.run(&bundle, &[]).ok();
}

#[test]
fn paths_of_cgroups() {
    let mount = need!();
    let lab = lab!();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    let name = lab.name();
    for (path, place) in [
        (Value::Null, None),
        (json!(format!("/{name}-elsewhere/../{name}/./b")), Some(format!("{name}/b"))),
        (json!(format!("/../../{name}/c")), Some(format!("{name}/c"))),
    ] {
        let place = place.as_ref();
        let bundle = lab.bundle(|config| {
            config["process"]["args"] = json!(["sleep", "1000"]);
            config["linux"]["cgroupsPath"] = path.clone();
        });
        let pid = lab.created(&bundle);
        assert_eq!(cgroup_of(pid), mount.join(place.unwrap_or(&bundle.id)), "{path} (we are in {own})");
        lab.microrun(&["delete", "--force", &bundle.id]).ok();
        assert!(!mount.join(place.unwrap_or(&bundle.id)).exists());
    }
}

/// As below the root of a privileged container of Docker's, which holds that container's processes: enabling a controller there
/// makes everything below threaded. Here it is so from the beginning, for not every machine has such a controller on v2.
#[test]
fn below_a_root_with_processes_a_container_lives_in_a_threaded_cgroup() {
    let mount = need!();
    let lab = lab!();
    let parent = mount.join(lab.name());
    let root = parent.join("root");
    fs::create_dir_all(&root).unwrap();
    for controller in read(&parent, "cgroup.controllers").split_whitespace() {
        fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
    }
    if read(&root, "cgroup.controllers").is_empty() {
        skip!("the root of the v2 hierarchy passes no controller on");
    }
    let inner = "set -e
        umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; mkdir -p /sys/fs/cgroup/x; echo threaded >/sys/fs/cgroup/x/cgroup.type
        bundle=$1 id=$2 path=/sys/fs/cgroup$3; shift 3
        \"$@\" create --bundle $bundle $id </dev/null >/dev/null 2>$bundle/log || { cat $bundle/log; exit 1; }
        \"$@\" start $id; \"$@\" pause $id; \"$@\" resume $id; \"$@\" exec $id true
        cat $path/cgroup.type; wc -l <$path/cgroup.threads
        \"$@\" delete --force $id; test ! -e $path";
    // Busybox has one that knows less.
    let outer = "echo 0 >\"$1\"/cgroup.procs; shift; exec /usr/bin/unshare -C -m \"$@\"";
    for path in ["/b", "/a/b", "/a/c/b"] {
        let bundle = lab.sleeping(|config| config["linux"]["cgroupsPath"] = json!(path));
        let microrun = lab.command(&[]);
        let mut command = Command::new("sh");
        command.args(["-c", outer, "sh", root.to_str().unwrap(), "sh", "-c", inner, "sh"]);
        command.args([bundle.path.to_str().unwrap(), &bundle.id, path]);
        command.arg(microrun.get_program()).args(microrun.get_args());
        let output = output(command);
        assert_eq!((output.code, output.stdout.as_str()), (0, "threaded\n1"), "{path}: {output:?}");
    }
    for left in ["x", "a/c", "a", ""] {
        eventually(|| fs::remove_dir(root.join(left)).is_ok() || !root.join(left).exists());
    }
}
