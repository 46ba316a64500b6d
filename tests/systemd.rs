//! `--systemd-cgroup`: containers as units of systemd.
//!
//! Needs a machine that systemd runs, such as the systemd VM (`make test-vm`); elsewhere only the refusal is tested.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab, Output, eventually, host, output, push};
use microrun::cgroup::layout::{Layout, Needs};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// Whether systemd is PID 1 here (sd_booted(3)).
fn booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A lab, or the end of the test where systemd does not run.
macro_rules! systemd_lab {
    () => {{
        if !booted() {
            skip!("needs a machine run by systemd");
        }
        lab!()
    }};
}

/// A verb with `--systemd-cgroup`.
fn microrun(lab: &Lab, args: &[&str]) -> Output {
    let mut all = vec!["--systemd-cgroup"];
    all.extend(args);
    lab.microrun(&all)
}

/// A bundle whose unit is `mrtest-ID.scope` in `mrtest.slice`.
fn bundle(lab: &Lab, change: impl FnOnce(&mut Value)) -> Bundle {
    let mut id = String::new();
    let bundle = lab.bundle(|config| {
        let path = config["linux"]["cgroupsPath"].as_str().unwrap();
        id = path.rsplit('/').next().unwrap().to_owned();
        config["linux"]["cgroupsPath"] = json!(format!("mrtest.slice:mrtest:{id}"));
        config["process"]["args"] = json!(["sleep", "1000"]);
        change(config);
    });
    assert_eq!(bundle.id, id);
    bundle
}

fn unit(bundle: &Bundle) -> String {
    format!("mrtest-{}.scope", bundle.id)
}

/// Starts the container; its init's pid.
#[track_caller]
fn started(lab: &Lab, bundle: &Bundle) -> i32 {
    let pid_file = bundle.path.join("pid");
    let args =
        ["create", "--bundle", bundle.path.to_str().unwrap(), "--pid-file", pid_file.to_str().unwrap(), &bundle.id];
    let mut command = lab.command(&["--systemd-cgroup"]);
    // The container would keep our end of a pipe open.
    let log = bundle.path.join("create.log");
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    assert!(command.status().unwrap().success(), "{}", fs::read_to_string(&log).unwrap());
    microrun(lab, &["start", &bundle.id]).ok();
    fs::read_to_string(pid_file).unwrap().parse().unwrap()
}

/// What systemd says of a unit. One question: systemctl takes its time in a VM.
fn properties(unit: &str) -> BTreeMap<String, String> {
    let text = host("systemctl", &["show", unit]);
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// What systemd says of a property.
fn property(unit: &str, name: &str) -> String {
    host("systemctl", &["show", "--value", "--property", name, unit])
}

/// The v2 directory of a process.
fn cgroup_of(pid: i32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'))
}

fn read(directory: &Path, file: &str) -> String {
    fs::read_to_string(directory.join(file)).unwrap().trim().to_owned()
}

fn exec(lab: &Lab, bundle: &Bundle, script: &str) -> Output {
    microrun(lab, &["exec", &bundle.id, "sh", "-c", script])
}

/// Asserts that each limit is the property that it is, and in the file: name and value of both.
#[track_caller]
fn holds(limits: &[(&str, &str, &str, &str)], properties: &BTreeMap<String, String>, cgroup: &Path, when: &str) {
    for (name, value, file, text) in limits {
        assert_eq!(properties[*name], *value, "{when}: {name}");
        assert_eq!(read(cgroup, file), *text, "{when}: {file}");
    }
}

/// Asserts that nothing is left of a container's unit, in whose cgroup it was.
#[track_caller]
fn is_gone(unit: &str, cgroup: &Path) {
    assert_eq!(property(unit, "LoadState"), "not-found");
    assert!(!cgroup.exists(), "{}", cgroup.display());
}

#[test]
fn a_container_lives_in_a_unit() {
    let lab = systemd_lab!();
    let bundle = bundle(&lab, |_| {});
    let unit = unit(&bundle);
    let cgroup = cgroup_of(started(&lab, &bundle));
    assert_eq!(cgroup, Path::new("/sys/fs/cgroup/mrtest.slice").join(&unit));
    let properties = properties(&unit);
    for (name, value) in [
        ("LoadState", "loaded"),
        ("ActiveState", "active"),
        ("Transient", "yes"),
        ("Slice", "mrtest.slice"),
        ("Delegate", "yes"),
        ("DefaultDependencies", "no"),
        ("TasksAccounting", "yes"),
        ("MemoryAccounting", "yes"),
    ] {
        assert_eq!(properties[name], value, "{name}");
    }
    assert!(properties["Description"].contains(&bundle.id));
    // Another process of the container is in it, too.
    let own = exec(&lab, &bundle, "grep ^0:: /proc/self/cgroup").ok();
    assert!(own.ends_with(&format!("/mrtest.slice/{unit}")), "{own}");
    microrun(&lab, &["pause", &bundle.id]).ok();
    assert_eq!((lab.status(&bundle.id).as_str(), read(&cgroup, "cgroup.freeze").as_str()), ("paused", "1"));
    microrun(&lab, &["resume", &bundle.id]).ok();
    assert_eq!(lab.status(&bundle.id), "running");
    let pids: Vec<i32> = serde_json::from_str(&microrun(&lab, &["ps", "-f", "json", &bundle.id]).ok()).unwrap();
    assert_eq!(pids.len(), 1);
    assert!(microrun(&lab, &["events", "--stats", &bundle.id]).ok().contains("\"pids\":{\"current\":1"));
    microrun(&lab, &["kill", &bundle.id, "KILL"]).ok();
    eventually(|| lab.status(&bundle.id) == "stopped");
    microrun(&lab, &["delete", &bundle.id]).ok();
    is_gone(&unit, &cgroup);
}

#[test]
fn without_a_path_the_unit_is_named_after_the_container() {
    let lab = systemd_lab!();
    let bundle = bundle(&lab, |config| config["linux"]["cgroupsPath"] = Value::Null);
    let unit = format!("microrun-{}.scope", bundle.id);
    let cgroup = cgroup_of(started(&lab, &bundle));
    assert_eq!(cgroup, Path::new("/sys/fs/cgroup/system.slice").join(&unit));
    microrun(&lab, &["delete", "--force", &bundle.id]).ok();
    is_gone(&unit, &cgroup);
}

#[test]
fn slices_are_nested() {
    let lab = systemd_lab!();
    let bundle = bundle(&lab, |config| {
        let path = config["linux"]["cgroupsPath"].as_str().unwrap().replace("mrtest.slice", "mrtest-pod1.slice");
        config["linux"]["cgroupsPath"] = json!(path);
    });
    let cgroup = cgroup_of(started(&lab, &bundle));
    let slices = Path::new("/sys/fs/cgroup/mrtest.slice/mrtest-pod1.slice");
    assert_eq!(cgroup, slices.join(unit(&bundle)));
    microrun(&lab, &["delete", "--force", &bundle.id]).ok();
    is_gone(&unit(&bundle), &cgroup);
}

#[test]
fn a_run_leaves_no_unit() {
    let lab = systemd_lab!();
    let bundle = bundle(&lab, |config| {
        let script = "grep ^0:: /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs; exit 7";
        config["process"]["args"] = json!(["sh", "-c", script]);
        push(&mut config["linux"]["namespaces"], json!({"type": "cgroup"}));
        let options = json!(["ro", "nosuid", "noexec", "nodev"]);
        push(&mut config["mounts"], json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": options}));
    });
    let output = microrun(&lab, &["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    assert_eq!(output.code, 7, "{output:?}");
    // The namespace begins at the unit, although init was moved there.
    assert!(output.stdout.starts_with("0::/\n1\n"), "{output:?}");
    is_gone(&unit(&bundle), &Path::new("/sys/fs/cgroup/mrtest.slice").join(unit(&bundle)));
    assert!(lab.microrun(&["state", &bundle.id]).failed().contains("does not exist"));
}

/// Limits, the properties that they are, and the files.
const LIMITS: [(&str, &str, &str, &str); 9] = [
    ("MemoryMax", "67108864", "memory.max", "67108864"),
    ("MemoryLow", "33554432", "memory.low", "33554432"),
    ("MemorySwapMax", "33554432", "memory.swap.max", "33554432"),
    ("TasksMax", "50", "pids.max", "50"),
    ("CPUWeight", "59", "cpu.weight", "59"),
    ("CPUQuotaPerSecUSec", "250ms", "cpu.max", "50000 200000"),
    ("CPUQuotaPeriodUSec", "200ms", "cpu.max", "50000 200000"),
    ("AllowedCPUs", "0", "cpuset.cpus", "0"),
    ("AllowedMemoryNodes", "0", "cpuset.mems", "0"),
];

fn limited(config: &mut Value) {
    let resources = &mut config["linux"]["resources"];
    resources["memory"] = json!({"limit": 67108864, "swap": 100663296, "reservation": 33554432});
    resources["pids"] = json!({"limit": 50});
    resources["cpu"] = json!({"shares": 512, "quota": 50000, "period": 200000, "cpus": "0", "mems": "0"});
    resources["unified"] = json!({"memory.high": "50331648"});
}

#[test]
fn limits_are_properties_and_files() {
    let lab = systemd_lab!();
    let bundle = bundle(&lab, limited);
    let cgroup = cgroup_of(started(&lab, &bundle));
    let check = |when: &str| {
        let properties = properties(&unit(&bundle));
        holds(&LIMITS, &properties, &cgroup, when);
        assert_eq!((&*properties["MemoryHigh"], &*properties["DevicePolicy"]), ("50331648", "strict"), "{when}");
    };
    check("created");
    host("systemctl", &["daemon-reload"]);
    check("after daemon-reload");
}

#[test]
fn limits_are_updated_in_both_places() {
    let lab = systemd_lab!();
    let bundle = bundle(&lab, limited);
    let cgroup = cgroup_of(started(&lab, &bundle));
    let update = |options: &[&str]| {
        let mut args = vec!["update"];
        args.extend(options);
        args.push(&bundle.id);
        microrun(&lab, &args)
    };
    update(&["--memory", "96M", "--memory-swap", "96M", "--pids-limit", "40"]).ok();
    update(&["--cpu-quota", "60000"]).ok();
    let cpus = if common::cpus().starts_with(&[0, 1]) { "0-1" } else { "0" };
    update(&["--cpu-share", "1024", "--cpuset-cpus", cpus]).ok();
    let check = |when: &str| {
        let limits = [
            ("MemoryMax", "100663296", "memory.max", "100663296"),
            ("MemorySwapMax", "0", "memory.swap.max", "0"),
            ("MemoryLow", "33554432", "memory.low", "33554432"),
            ("TasksMax", "40", "pids.max", "40"),
            ("CPUQuotaPerSecUSec", "300ms", "cpu.max", "60000 200000"),
            ("CPUWeight", "100", "cpu.weight", "100"),
            ("AllowedCPUs", cpus, "cpuset.cpus", cpus),
        ];
        holds(&limits, &properties(&unit(&bundle)), &cgroup, when);
    };
    check("updated");
    host("systemctl", &["daemon-reload"]);
    check("after daemon-reload");
    assert!(update(&["--cpuset-cpus", "4096"]).failed().contains("cpuset"));
    check("after a refused update");
}

/// With each property systemd writes all that it knows to the unit's files.
#[test]
fn limits_that_systemd_is_not_told_of_outlast_an_update() {
    let lab = systemd_lab!();
    let bundle = bundle(&lab, |config| {
        config["linux"]["resources"]["blockIO"] = json!({"weight": 200});
        config["linux"]["resources"]["unified"] = json!({"memory.oom.group": "1"});
    });
    let cgroup = cgroup_of(started(&lab, &bundle));
    let file = if cgroup.join("io.bfq.weight").exists() { "io.bfq.weight" } else { "io.weight" };
    let held = (read(&cgroup, file), "1".to_owned());
    assert!(!held.0.ends_with(" 100"), "{held:?}");
    let update = |options: &[&str]| microrun(&lab, &[&["update"], options, &[&bundle.id]].concat());
    update(&["--pids-limit", "40"]).ok();
    assert_eq!((read(&cgroup, file), read(&cgroup, "memory.oom.group")), held);
    // Nor are they lost by one that is refused, after systemd was told of it.
    update(&["--pids-limit", "30", "--cpu-burst", "1152921504606846976"]).failed();
    assert_eq!((read(&cgroup, file), read(&cgroup, "memory.oom.group")), held);
    assert_eq!(property(&unit(&bundle), "TasksMax"), "40");
}

#[test]
fn a_container_that_is_idle_no_more_stays_so() {
    let lab = systemd_lab!();
    let bundle = bundle(&lab, |_| {});
    let cgroup = cgroup_of(started(&lab, &bundle));
    if !cgroup.join("cpu.idle").exists() {
        skip!("needs cpu.idle");
    }
    let update = |options: &[&str]| microrun(&lab, &[&["update"], options, &[&bundle.id]].concat()).ok();
    let held = || (read(&cgroup, "cpu.idle"), read(&cgroup, "cpu.weight"));
    update(&["--cpu-idle", "1"]);
    update(&["--pids-limit", "50"]);
    assert_eq!(held().0, "1");
    update(&["--cpu-idle", "0"]);
    update(&["--pids-limit", "40"]);
    assert_eq!(held(), ("0".to_owned(), "100".to_owned()));
}

/// As Kubernetes names it for every container.
#[test]
fn a_container_that_is_killed_as_one_can_be_updated() {
    let lab = systemd_lab!();
    let unified = json!({"memory.oom.group": "1", "memory.high": "50331648"});
    let bundle = bundle(&lab, |config| config["linux"]["resources"]["unified"] = unified.clone());
    let cgroup = cgroup_of(started(&lab, &bundle));
    assert_eq!(read(&cgroup, "memory.oom.group"), "1");
    let update = |unified: Value| {
        let resources = bundle.path.join("resources.json");
        fs::write(&resources, json!({"unified": unified}).to_string()).unwrap();
        microrun(&lab, &["update", "--resources", resources.to_str().unwrap(), &bundle.id])
    };
    update(json!({"memory.oom.group": "0", "memory.high": "67108864"})).ok();
    assert_eq!(property(&unit(&bundle), "MemoryHigh"), "67108864");
    assert_eq!((&*read(&cgroup, "memory.oom.group"), &*read(&cgroup, "memory.high")), ("0", "67108864"));
    // The old limits are set again in the same way.
    let error = update(json!({"memory.oom.group": "1", "memory.high": "50331648", "no.such": "1"})).failed();
    assert!(error.contains("no.such") && !error.contains("set the old limits again"), "{error}");
}

#[test]
fn devices_stay_what_they_are_after_a_reload() {
    let lab = systemd_lab!();
    let bundle = bundle(&lab, |config| {
        for set in ["bounding", "effective", "permitted"] {
            push(&mut config["process"]["capabilities"][set], json!("CAP_MKNOD"));
        }
        push(&mut config["mounts"], json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
        config["linux"]["resources"]["devices"] = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 60, "minor": 0, "access": "rw"}
        ]);
    });
    started(&lab, &bundle);
    exec(&lab, &bundle, "cd /tmp; mknod allowed c 60 0; mknod denied c 60 1").ok();
    let check = |when: &str| {
        // No driver has these numbers.
        let allowed = exec(&lab, &bundle, ": </tmp/allowed").stderr;
        assert!(allowed.contains("No such device"), "{when}: {allowed}");
        let denied = exec(&lab, &bundle, ": </tmp/denied").stderr;
        assert!(denied.contains("not permitted"), "{when}: {denied}");
        exec(&lab, &bundle, "echo >/dev/null && head -c 1 /dev/urandom >/dev/null").ok();
    };
    check("at first");
    host("systemctl", &["daemon-reload"]);
    check("after daemon-reload");
    microrun(&lab, &["update", "--pids-limit", "40", &bundle.id]).ok();
    check("after an update");
}

#[test]
fn a_killed_runtime_leaves_what_delete_finds() {
    let lab = systemd_lab!();
    let bundle = bundle(&lab, |_| {});
    let mut run = lab.command(&["--systemd-cgroup", "run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let mut run = run.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    eventually(|| lab.microrun(&["state", &bundle.id]).stdout.contains("\"running\""));
    run.kill().unwrap();
    run.wait().unwrap();
    let cgroup = Path::new("/sys/fs/cgroup/mrtest.slice").join(unit(&bundle));
    assert_eq!(property(&unit(&bundle), "ActiveState"), "active");
    // Any later call knows that it is a unit.
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
    is_gone(&unit(&bundle), &cgroup);
}

#[test]
fn a_unit_that_has_failed_does_not_stay() {
    let lab = systemd_lab!();
    let bundle = bundle(&lab, |config| {
        config["process"]["args"] = json!(["dd", "if=/dev/zero", "of=/dev/null", "bs=80M", "count=1"]);
        config["linux"]["resources"]["memory"] = json!({"limit": 33554432, "swap": 33554432});
    });
    let cgroup = Path::new("/sys/fs/cgroup/mrtest.slice").join(unit(&bundle));
    for _ in 0..2 {
        let output = microrun(&lab, &["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        assert_eq!(output.code, 137, "{output:?}");
        is_gone(&unit(&bundle), &cgroup);
    }
}

#[test]
fn a_stopped_container_is_deleted_after_its_unit_has_gone() {
    let lab = systemd_lab!();
    // The first process of a pid namespace is ended by SIGTERM only if it has a handler.
    let bundle = bundle(&lab, |config| {
        config["process"]["args"] = json!(["sh", "-c", "trap 'exit 0' TERM; echo >/tmp/ready; sleep 1000 & wait"]);
        push(&mut config["mounts"], json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
    });
    let cgroup = cgroup_of(started(&lab, &bundle));
    eventually(|| exec(&lab, &bundle, "test -e /tmp/ready").code == 0);
    host("systemctl", &["stop", &unit(&bundle)]);
    eventually(|| lab.status(&bundle.id) == "stopped");
    microrun(&lab, &["delete", &bundle.id]).ok();
    is_gone(&unit(&bundle), &cgroup);
}

#[test]
fn annotations_are_properties() {
    let lab = systemd_lab!();
    let bundle = bundle(&lab, |config| {
        config["annotations"] = json!({
            "org.systemd.property.TimeoutStopSec": "7",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.After": "['basic.target']"
        });
    });
    started(&lab, &bundle);
    let properties = properties(&unit(&bundle));
    assert_eq!(properties["TimeoutStopUSec"], "7s");
    assert_eq!(properties["CollectMode"], "inactive-or-failed");
    assert!(properties["After"].contains("basic.target"));
}

#[test]
fn what_systemd_refuses_leaves_nothing() {
    let lab = systemd_lab!();
    for (key, value, problem) in [
        ("org.systemd.property.NoSuchProperty", "5", "unable to start unit"),
        ("org.systemd.property.TimeoutStopSec", "'soon'", "is no number of seconds"),
        ("org.systemd.property.CollectMode", "'sometimes'", "unable to start unit"),
    ] {
        let bundle = bundle(&lab, |config| config["annotations"] = json!({key: value}));
        let error = microrun(&lab, &["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]).failed();
        assert!(error.contains(problem), "{key}: {error}");
        assert_eq!(property(&unit(&bundle), "LoadState"), "not-found");
        assert!(lab.microrun(&["state", &bundle.id]).failed().contains("does not exist"));
    }
}

#[test]
fn a_unit_is_one_containers() {
    let lab = systemd_lab!();
    let first = bundle(&lab, |_| {});
    let pid = started(&lab, &first);
    let second =
        bundle(&lab, |config| config["linux"]["cgroupsPath"] = json!(format!("mrtest.slice:mrtest:{}", first.id)));
    let error = microrun(&lab, &["run", "--bundle", second.path.to_str().unwrap(), &second.id]).failed();
    assert!(error.contains("not empty") || error.contains("delete the container that has it"), "{error}");
    assert_eq!(lab.status(&first.id), "running");
    assert!(cgroup_of(pid).exists());
}

#[test]
fn units_start_at_the_same_time() {
    let lab = systemd_lab!();
    let bundles: Vec<Bundle> =
        (0..8).map(|_| bundle(&lab, |config| config["process"]["args"] = json!(["true"]))).collect();
    std::thread::scope(|scope| {
        for bundle in &bundles {
            let mut run =
                lab.command(&["--systemd-cgroup", "run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
            run.stdin(Stdio::null());
            scope.spawn(move || assert!(run.status().unwrap().success(), "{}", bundle.id));
        }
    });
    for bundle in &bundles {
        assert_eq!(property(&unit(bundle), "LoadState"), "not-found");
    }
}

/// A user's systemd, that is stopped in the end.
struct UsersSystemd(String);

impl Drop for UsersSystemd {
    fn drop(&mut self) {
        let _ = Command::new("systemctl").args(["stop", &self.0]).status();
    }
}

/// Not below the root of the hierarchy, where a mount that is bound would look for it.
#[test]
fn a_users_unit_is_below_his_systemd() {
    if !booted() {
        skip!("needs a machine run by systemd");
    }
    let lab = match Lab::for_user() {
        Ok(lab) => lab,
        Err(why) => skip!("{why}"),
    };
    let systemd = UsersSystemd(format!("{}.service", lab.name()));
    let (uid, runtime) = (lab.user().unwrap().ids.0.to_string(), lab.path("run"));
    let environment = format!("XDG_RUNTIME_DIR={}", runtime.display());
    let of_unit =
        ["--quiet", "--unit", &systemd.0, "--uid", &uid, "--property", "Delegate=yes", "--setenv", &environment];
    host("systemd-run", &[&of_unit[..], &["/lib/systemd/systemd", "--user"]].concat());
    eventually(|| runtime.join("systemd/private").exists());
    // Who is elsewhere its units could not be made around.
    let cgroup = property(&systemd.0, "ControlGroup");
    let caller = Path::new("/sys/fs/cgroup").join(cgroup.trim_start_matches('/')).join("caller");
    fs::create_dir(&caller).unwrap();
    let bundle = lab.bundle(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
        config["linux"]["cgroupsPath"] = json!("mrtest.slice:mrtest:box");
        config["process"]["args"] = json!(["sh", "-c", "grep ^0:: /proc/self/cgroup; cat /cgroup/cgroup.procs"]);
        push(&mut config["mounts"], json!({"destination": "/cgroup", "type": "cgroup", "options": ["ro"]}));
    });
    let run = lab.command(&["--systemd-cgroup", "run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let mut from = Command::new("sh");
    from.args(["-c", "echo 0 >\"$0\"/cgroup.procs; exec \"$@\""]).arg(&caller);
    from.arg(run.get_program()).args(run.get_args()).env("XDG_RUNTIME_DIR", &runtime);
    let text = output(from).ok();
    assert_eq!(text.trim(), format!("0::{cgroup}/mrtest.slice/mrtest-box.scope\n1"));
}

#[test]
fn a_path_of_another_form_is_refused() {
    let lab = lab!();
    for path in ["/a/b", "a:b", "mrtest.slice:mrtest:", "a/b.slice:p:n", "nosuffix:p:n"] {
        let bundle = lab.bundle(|config| config["linux"]["cgroupsPath"] = json!(path));
        let error = microrun(&lab, &["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]).failed();
        assert!(error.contains("linux.cgroupsPath"), "{path}: {error}");
    }
}

/// A systemd that says where its cgroup is, and nothing else.
fn manager_in(cgroup: &'static str, socket: &Path) {
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    let answer = move |mut stream: UnixStream| {
        let asked = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";
        stream.read_exact(&mut [0; 32][..asked.len()]).unwrap();
        stream.write_all(b"DATA\r\nOK 0\r\n").unwrap();
        let mut asked = [0; 1024];
        assert_ne!(stream.read(&mut asked).unwrap(), 0);
        // The answer to the first call: a variant that is a string.
        let length = (cgroup.len() as u32).to_le_bytes();
        let body = [b"\x01s\0\0", &length[..], cgroup.as_bytes(), b"\0"].concat();
        let header = [b"l\x02\0\x01", &(body.len() as u32).to_le_bytes()[..], b"\x01\0\0\0\x0f\0\0\0"].concat();
        let fields = b"\x05\x01u\0\x01\0\0\0\x08\x01g\0\x01v\0\0";
        stream.write_all(&[&header[..], fields, &body].concat()).unwrap();
    };
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
}

/// Docker in a container that has its own systemd, and rootless Podman, are both root of a user namespace.
#[test]
fn root_of_a_user_namespace_asks_the_systemd_that_is_his() {
    if booted() {
        skip!("this machine is run by systemd");
    }
    let lab = lab!();
    let managers = [
        (None, false),
        (Some("/user.slice/user-0.slice/user@0.service"), false),
        (Some("/user.slice/user-1000.slice/user@1000.service"), true),
    ];
    for (manager, is_users) in managers {
        let bundle = bundle(&lab, |_| {});
        let runtime = lab.path(format!("run-{}", bundle.id));
        if let Some(cgroup) = manager {
            manager_in(cgroup, &runtime.join("systemd/private"));
        }
        let run = lab.command(&["--systemd-cgroup", "run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]).arg(run.get_program()).args(run.get_args());
        command.env_remove("DBUS_SESSION_BUS_ADDRESS").env_remove("XDG_RUNTIME_DIR");
        if manager.is_some() {
            command.env("XDG_RUNTIME_DIR", &runtime);
        }
        let error = output(command).failed();
        assert_eq!(error.contains("is this machine run by systemd"), !is_users, "{error}");
    }
}

/// Reads a message of D-Bus (little-endian); its serial number and its body.
fn message(stream: &mut UnixStream) -> Option<(u32, Vec<u8>)> {
    let mut start = [0; 16];
    stream.read_exact(&mut start).ok()?;
    let number = |at: usize| u32::from_le_bytes(start[at..at + 4].try_into().unwrap());
    let mut fields = vec![0; number(12).next_multiple_of(8) as usize];
    let mut body = vec![0; number(4) as usize];
    stream.read_exact(&mut fields).and_then(|()| stream.read_exact(&mut body)).ok()?;
    Some((number(8), body))
}

/// The property `name` that is an unsigned number of 64 bits, if `body` sets it.
fn number_of(body: &[u8], name: &str) -> Option<u64> {
    let named = [name.as_bytes(), b"\0\x01t\0"].concat();
    let at = body.windows(named.len()).position(|window| window == named)? + named.len();
    Some(u64::from_le_bytes(body.get(at.next_multiple_of(8)..)?.first_chunk().copied()?))
}

/// A systemd that knows of TasksMax, which it writes to `file`; all that it was told.
fn manager_of_processes(socket: &Path, file: PathBuf) -> Arc<Mutex<Vec<Option<u64>>>> {
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let answer = move |mut stream: UnixStream| {
        let asked = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";
        stream.read_exact(&mut [0; 32][..asked.len()]).unwrap();
        stream.write_all(b"DATA\r\nOK 0\r\n").unwrap();
        while let Some((serial, body)) = message(&mut stream) {
            let limit = number_of(&body, "TasksMax");
            if let Some(limit) = limit {
                fs::write(&file, if limit == u64::MAX { "max".to_owned() } else { limit.to_string() }).unwrap();
            }
            heard.lock().unwrap().push(limit);
            let header = b"l\x02\0\x01\0\0\0\0\x01\0\0\0\x08\0\0\0\x05\x01u\0";
            stream.write_all(&[&header[..], &serial.to_le_bytes()].concat()).unwrap();
        }
    };
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    told
}

/// A record that is written again in the end, also of a test that fails: by the other one `delete` would wait for a systemd that is gone.
struct Kept {
    path: PathBuf,
    content: Vec<u8>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, &self.content);
    }
}

/// Else it would write them again whenever it sees to the unit.
#[test]
fn a_refused_update_takes_back_what_systemd_was_told() {
    let lab = lab!();
    let layout = Layout::probe(Needs::ALL).unwrap();
    let has = |controller: &str| layout.v1_mount(controller).is_some() || layout.unified_has(controller);
    if !has("pids") || !has("cpu") {
        skip!("needs the controllers pids and cpu");
    }
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["linux"]["resources"].as_object_mut().unwrap().remove("pids");
    });
    lab.started(&bundle);
    let file = lab.cgroups_of(&bundle).into_iter().map(|cgroup| cgroup.join("pids.max")).find(|file| file.exists());
    let file = file.unwrap();
    // As if it were a unit of systemd's.
    let record = lab.path("run").join(&bundle.id).join("state.json");
    let kept = Kept { content: fs::read(&record).unwrap(), path: record };
    let mut state: Value = serde_json::from_slice(&kept.content).unwrap();
    state["cgroup"]["unit"] = json!({"name": "test.scope", "user": true});
    fs::write(&kept.path, state.to_string()).unwrap();
    let runtime = lab.path("user");
    let told = manager_of_processes(&runtime.join("systemd/private"), file.clone());
    let resources = bundle.path.join("resources.json");
    let update = |resources_of: Value| {
        fs::write(&resources, resources_of.to_string()).unwrap();
        let mut command = lab.command(&["update", "--resources", resources.to_str().unwrap(), &bundle.id]);
        command.env("XDG_RUNTIME_DIR", &runtime).env_remove("DBUS_SESSION_BUS_ADDRESS");
        output(command)
    };
    let told = || std::mem::take(&mut *told.lock().unwrap());
    let held = || fs::read_to_string(&file).unwrap().trim().to_owned();
    // Systemd has no word for a burst, and the kernel refuses one that is longer than the quota.
    let refused = |limit: i64| json!({"pids": {"limit": limit}, "cpu": {"burst": 1_u64 << 60}});
    for (before, said) in [("max", u64::MAX), ("33", 33)] {
        fs::write(&file, before).unwrap();
        let error = update(refused(7)).failed();
        assert!(error.contains("burst") && !error.contains("set the old limits again"), "{error}");
        assert_eq!((told(), held()), (vec![Some(7), Some(said)], before.to_owned()));
    }
    // What is on record comes first.
    update(json!({"pids": {"limit": 44}})).ok();
    assert_eq!((told(), held()), (vec![Some(44)], "44".to_owned()));
    update(refused(8)).failed();
    assert_eq!((told(), held()), (vec![Some(8), Some(44)], "44".to_owned()));
}

#[test]
fn without_systemd_the_flag_is_refused() {
    if booted() {
        skip!("this machine is run by systemd");
    }
    let lab = lab!();
    let bundle = bundle(&lab, |_| {});
    let error = microrun(&lab, &["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]).failed();
    assert!(error.contains("systemd") && error.contains("--systemd-cgroup"), "{error}");
    assert!(lab.microrun(&["state", &bundle.id]).failed().contains("does not exist"));
    let mut ps = Command::new("ps");
    ps.args(["-e", "-o", "args"]);
    // busybox's timeout(1), which ran it, leaves a process behind that waits for the time to pass.
    let processes = output(ps).stdout;
    let left: Vec<&str> = processes.lines().filter(|line| !line.starts_with("timeout ")).collect();
    assert!(left.iter().all(|line| !line.contains(&bundle.id)), "{left:#?}");
}
