//! One line for each rule: what is added to a good configuration, and the exact sentence that follows.

use crate::error::Kind;
use crate::spec::{self, Warning};
use serde_json::{Value, json};

/// A good configuration with every namespace but those that need more fields.
fn good() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {"args": ["sh"], "cwd": "/", "env": ["PATH=/bin"]},
        "linux": {"namespaces": [
            {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}
        ]}
    })
}

/// `into` with the members of `patch`, as RFC 7396 merges them.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    into.remove(name);
                } else {
                    merge(into.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn check(patch: &Value) -> crate::Result<Vec<Warning>> {
    let mut config = good();
    merge(&mut config, patch);
    let mut loaded = spec::parse(config.to_string().as_bytes())?;
    if let Some(seccomp) = &loaded.seccomp {
        seccomp.parse()?;
    }
    loaded.warnings.extend(spec::validate(&loaded.spec)?);
    Ok(loaded.warnings)
}

#[track_caller]
fn refused(patch: Value, sentence: &str) {
    match check(&patch) {
        Ok(_) => panic!("accepted: {patch}"),
        Err(error) => assert_eq!(error.to_string(), format!("config.json: {sentence}"), "{patch}"),
    }
}

#[track_caller]
fn accepted(patch: Value) {
    let warnings: Vec<String> = check(&patch).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(warnings, [""; 0], "{patch}");
}

#[track_caller]
fn warned(patch: Value, sentences: &[&str]) {
    let warnings: Vec<String> = check(&patch).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(warnings, sentences, "{patch}");
}

fn process(members: Value) -> Value {
    json!({ "process": members })
}

fn linux(members: Value) -> Value {
    json!({ "linux": members })
}

fn mount(members: Value) -> Value {
    let mut mount = json!({"destination": "/m", "source": "/s"});
    merge(&mut mount, &members);
    json!({ "mounts": [mount] })
}

#[test]
fn version_root_annotations() {
    accepted(json!({}));
    accepted(json!({"ociVersion": "1.0.2-dev"}));
    refused(
        json!({"ociVersion": null}),
        "ociVersion: \"\" is not a semantic version: write the one that the configuration follows (\"1.3.0\")",
    );
    refused(json!({"ociVersion": "2.0.0"}), "ociVersion: version 2.0.0 is not supported: use a version from 1.0.0 on");
    refused(json!({"ociVersion": "0.9.0"}), "ociVersion: version 0.9.0 is not supported: use a version from 1.0.0 on");
    warned(
        json!({"ociVersion": "1.9.0"}),
        &["ociVersion: 1.9.0 is newer than what this runtime knows (1.3): newer fields are ignored"],
    );
    refused(json!({"root": null}), "root: is missing: name the root file system (\"root\": {\"path\": \"rootfs\"})");
    refused(json!({"root": {"path": ""}}), "root.path: is empty: name the directory of the root file system");
    accepted(json!({"annotations": {"a": ""}}));
    refused(json!({"annotations": {"": "a"}}), "annotations: has an empty key: name it or remove it");
}

#[test]
fn nul_bytes() {
    refused(json!({"root": {"path": "a\u{0}b"}}), "root.path: has a NUL byte (\\u0000) in it: remove it");
    refused(process(json!({"args": ["a", "\u{0}"]})), "process.args[1]: has a NUL byte (\\u0000) in it: remove it");
    refused(
        linux(json!({"sysctl": {"a\u{0}": "b"}})),
        "linux.sysctl.a\\u{0}: has a NUL byte (\\u0000) in it: remove it",
    );
    accepted(json!({"annotations": {"a": "\u{0}"}}));
    accepted(process(json!({"args": ["\\u0000"]})));
}

#[test]
fn process_command_and_user() {
    accepted(json!({"process": null}));
    refused(process(json!({"args": null})), "process.args: is empty: name the program to run");
    refused(process(json!({"args": []})), "process.args: is empty: name the program to run");
    let nameless = check(&process(json!({"args": [""]}))).unwrap_err();
    assert_eq!(nameless.to_string(), "exec: \"\": executable file not found in $PATH");
    assert_eq!(nameless.kind(), Kind::NoProgram);
    accepted(process(json!({"args": ["a", ""]})));
    refused(process(json!({"cwd": null})), "process.cwd: is empty: give an absolute path");
    refused(process(json!({"cwd": "a"})), "process.cwd: \"a\" is not absolute: begin it with a slash");
    accepted(process(json!({"env": ["A=", "B==", "A=x"]})));
    refused(process(json!({"env": ["A=1", "B"]})), "process.env[1]: \"B\" has no \"=\": write NAME=VALUE");
    refused(process(json!({"env": ["=1"]})), "process.env[0]: \"=1\" has no name: write NAME=VALUE");
    accepted(process(json!({"terminal": false, "consoleSize": {"height": 99999, "width": 1}})));
    accepted(process(json!({"terminal": true, "consoleSize": {"height": 65535, "width": 0}})));
    refused(
        process(json!({"terminal": true, "consoleSize": {"height": 25, "width": 65536}})),
        "process.consoleSize.width: 65536 is too large for a terminal: use at most 65535",
    );
    refused(
        process(json!({"user": {"uid": 4294967295u32}})),
        "process.user.uid: 4294967295 is not an id: use a smaller one",
    );
    refused(
        process(json!({"user": {"gid": 4294967295u32}})),
        "process.user.gid: 4294967295 is not an id: use a smaller one",
    );
    refused(
        process(json!({"user": {"additionalGids": [1, 4294967295u32]}})),
        "process.user.additionalGids[1]: 4294967295 is not an id: use a smaller one",
    );
    refused(
        process(json!({"user": {"additionalGids": vec![1; 65537]}})),
        "process.user.additionalGids: has 65537 groups: the kernel takes at most 65536",
    );
}

#[test]
fn process_limits_and_labels() {
    accepted(process(json!({"rlimits": [
        {"type": "RLIMIT_CORE", "soft": 1, "hard": 2}, {"type": "RLIMIT_NOFILE", "soft": 2, "hard": 2}
    ]})));
    refused(
        process(json!({"rlimits": [
            {"type": "RLIMIT_CORE", "soft": 1, "hard": 2}, {"type": "RLIMIT_CORE", "soft": 1, "hard": 2}
        ]})),
        "process.rlimits[1].type: RLIMIT_CORE is there twice: remove one",
    );
    refused(
        process(json!({"rlimits": [{"type": "RLIMIT_CORE", "soft": 3, "hard": 2}]})),
        "process.rlimits[0].soft: 3 is above the hard limit 2: lower it",
    );
    refused(
        process(json!({"rlimits": [{"type": "RLIMIT_FOO"}]})),
        concat!(
            "process.rlimits[0].type: unknown value \"RLIMIT_FOO\": use one of RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, ",
            "RLIMIT_STACK, RLIMIT_CORE, RLIMIT_RSS, RLIMIT_NPROC, RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_AS, ",
            "RLIMIT_LOCKS, RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_RTPRIO, RLIMIT_RTTIME"
        ),
    );
    accepted(process(json!({"oomScoreAdj": -1000})));
    refused(process(json!({"oomScoreAdj": 1001})), "process.oomScoreAdj: 1001 is out of range: use -1000 to 1000");
    refused(process(json!({"apparmorProfile": "a\nb"})), "process.apparmorProfile: has a line break in it: remove it");
    refused(process(json!({"selinuxLabel": "a\n"})), "process.selinuxLabel: has a line break in it: remove it");
}

#[test]
fn process_capabilities() {
    warned(
        process(json!({"capabilities": {"effective": ["CAP_KILL"], "bounding": ["CAP_X", "CAP_KILL"]}})),
        &["process.capabilities.bounding: unknown capability \"CAP_X\" is left out"],
    );
}

#[test]
fn scheduling() {
    let scheduler = |members: Value| process(json!({ "scheduler": members }));
    accepted(scheduler(json!({"policy": "SCHED_BATCH", "nice": 19, "flags": ["SCHED_RESET_ON_FORK"]})));
    accepted(scheduler(json!({"policy": "SCHED_RR", "priority": 1})));
    accepted(scheduler(json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2})));
    accepted(scheduler(json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 1, "period": 1})));
    refused(
        scheduler(json!({"policy": "SCHED_ISO"})),
        "process.scheduler.policy: SCHED_ISO was never implemented by Linux: use another policy",
    );
    refused(scheduler(json!({})), "process.scheduler.policy: is missing: add it");
    refused(
        scheduler(json!({"policy": "SCHED_OTHER", "nice": 20})),
        "process.scheduler.nice: 20 is out of range: use -20 to 19",
    );
    refused(
        scheduler(json!({"policy": "SCHED_FIFO"})),
        "process.scheduler.priority: 0 is out of range for SCHED_FIFO: use 1 to 99",
    );
    refused(
        scheduler(json!({"policy": "SCHED_IDLE", "priority": 1})),
        "process.scheduler.priority: is for SCHED_FIFO and SCHED_RR, not for SCHED_IDLE: remove it",
    );
    refused(
        scheduler(json!({"policy": "SCHED_OTHER", "period": 1})),
        "process.scheduler.period: is for SCHED_DEADLINE, not for SCHED_OTHER: remove it",
    );
    refused(
        scheduler(json!({"policy": "SCHED_DEADLINE", "runtime": 2, "deadline": 1})),
        concat!(
            "process.scheduler: SCHED_DEADLINE needs 0 < runtime <= deadline <= period, in nanoseconds: ",
            "correct them"
        ),
    );
    accepted(process(json!({"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 7}})));
    refused(
        process(json!({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}})),
        "process.ioPriority.priority: 8 is out of range: use 0 to 7",
    );
    refused(
        process(json!({"ioPriority": {"class": "IOPRIO_CLASS_NONE", "priority": 0}})),
        concat!(
            "process.ioPriority.class: unknown value \"IOPRIO_CLASS_NONE\": ",
            "use one of IOPRIO_CLASS_RT, IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE"
        ),
    );
    accepted(process(json!({"execCPUAffinity": {"initial": "7", "final": "0-3,7"}})));
    accepted(process(json!({"execCPUAffinity": {"initial": ""}})));
    refused(
        process(json!({"execCPUAffinity": {"final": "0-"}})),
        "process.execCPUAffinity.final: \"0-\" is no list of numbers: write it as \"0-3,7\"",
    );
}

#[test]
fn hooks() {
    for name in super::hooks::HOOKS {
        accepted(json!({"hooks": {name: [{"path": "/h", "args": ["h"], "env": ["A=1"], "timeout": 1}]}}));
        refused(
            json!({"hooks": {name: [{"path": "/h"}, {"path": "h"}]}}),
            &format!("hooks.{name}[1].path: \"h\" is not absolute: begin it with a slash"),
        );
    }
    refused(
        json!({"hooks": {"poststop": [{"path": "/h", "timeout": 0}]}}),
        "hooks.poststop[0].timeout: 0 is not greater than 0: give seconds, or leave it out",
    );
    refused(
        json!({"hooks": {"poststop": [{"path": "/h", "env": ["A"]}]}}),
        "hooks.poststop[0].env[0]: \"A\" has no \"=\": write NAME=VALUE",
    );
    refused(json!({"hooks": {"poststart": [{}]}}), "hooks.poststart[0].path: is missing: add it");
}

#[test]
fn namespaces_and_what_needs_them() {
    refused(
        linux(json!({"namespaces": [{"type": "pid"}, {"type": "pid", "path": "/x"}]})),
        "linux.namespaces[1].type: \"pid\" is there twice: remove one",
    );
    refused(
        linux(json!({"namespaces": [{"type": "pid", "path": "x"}]})),
        "linux.namespaces[0].path: \"x\" is not absolute: begin it with a slash",
    );
    accepted(linux(json!({"namespaces": [{"type": "pid", "path": ""}]})));
    for field in ["hostname", "domainname"] {
        accepted(json!({field: "a".repeat(64)}));
        accepted(json!({field: "", "linux": null}));
        refused(json!({field: "a".repeat(65)}), &format!("{field}: is 65 bytes long: shorten it to 64"));
        refused(
            json!({field: "a", "linux": null}),
            &format!("{field}: needs a uts namespace: add {{\"type\": \"uts\"}} to linux.namespaces"),
        );
    }
    let time = json!([{"type": "time"}]);
    accepted(linux(json!({"namespaces": time, "timeOffsets": {"boottime": {"secs": -5, "nanosecs": 999999999}}})));
    accepted(linux(json!({"timeOffsets": {}})));
    refused(
        linux(json!({"timeOffsets": {"boottime": {}}})),
        "linux.timeOffsets: needs a time namespace: add {\"type\": \"time\"} to linux.namespaces",
    );
    refused(
        linux(json!({"namespaces": [{"type": "time", "path": "/t"}], "timeOffsets": {"boottime": {}}})),
        "linux.timeOffsets: cannot be set for the time namespace that is joined (\"/t\"): remove one of the two",
    );
    refused(
        linux(json!({"namespaces": time, "timeOffsets": {"realtime": {}}})),
        "linux.timeOffsets: unknown clock \"realtime\": use monotonic or boottime",
    );
    refused(
        linux(json!({"namespaces": time, "timeOffsets": {"monotonic": {"nanosecs": 1000000000}}})),
        "linux.timeOffsets.monotonic.nanosecs: 1000000000 is a second or more: carry it over to secs",
    );
    for field in ["maskedPaths", "readonlyPaths"] {
        refused(
            linux(json!({"namespaces": [], field: ["/a"]})),
            &format!("linux.{field}: needs a mount namespace: add {{\"type\": \"mount\"}} to linux.namespaces"),
        );
        refused(
            linux(json!({field: ["/a", "b"]})),
            &format!("linux.{field}[1]: \"b\" is not absolute: begin it with a slash"),
        );
    }
}

#[test]
fn network_devices() {
    accepted(linux(json!({"netDevices": {"eth0": {}, "eth1": {"name": "c%d"}}})));
    refused(
        linux(json!({"namespaces": [], "netDevices": {"eth0": {}}})),
        "linux.netDevices: needs a network namespace: add {\"type\": \"network\"} to linux.namespaces",
    );
    accepted(linux(json!({"netDevices": {"eth0": {"name": "c%d"}, "eth1": {"name": "c%d"}}})));
    for taken in [json!({"eth0": {"name": "x"}, "eth1": {"name": "x"}}), json!({"x": {}, "eth1": {"name": "x"}})] {
        let name = if taken["x"].is_null() { "eth1" } else { "x" };
        refused(
            linux(json!({"netDevices": taken})),
            &format!(
                "linux.netDevices.{name}.name: \"x\" is another device's name in the container too: choose another"
            ),
        );
    }
    let rule = "is no name for a network device: use 1 to 15 bytes without \"/\", \":\" and spaces";
    for name in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "sixteen-bytes-xx"] {
        refused(linux(json!({"netDevices": {name: {}}})), &format!("linux.netDevices: {name:?} {rule}"));
    }
    refused(
        linux(json!({"netDevices": {"eth0": {"name": "a b"}}})),
        &format!("linux.netDevices.eth0.name: \"a b\" {rule}"),
    );
}

#[test]
fn user_namespaces() {
    let user = |uids: Value, gids: Value, more: Value| {
        let mut patch = linux(json!({"namespaces": [{"type": "user"}], "uidMappings": uids, "gidMappings": gids}));
        merge(&mut patch, &more);
        patch
    };
    let root = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    accepted(user(root.clone(), root.clone(), process(json!({"user": {"uid": 9, "gid": 9, "additionalGids": [0]}}))));
    refused(user(root.clone(), json!([]), json!({})), "linux.gidMappings: is missing: a new user namespace needs it");
    refused(
        linux(json!({"uidMappings": root})),
        "linux.uidMappings: needs a user namespace: add {\"type\": \"user\"} to linux.namespaces",
    );
    warned(
        linux(json!({"namespaces": [{"type": "user", "path": "/u"}], "uidMappings": root})),
        &["linux.uidMappings: is not applied: the user namespace that is joined (\"/u\") has its own"],
    );
    accepted(linux(json!({"namespaces": [{"type": "user", "path": "/u"}]})));
    for (uid, sentence) in [
        (
            json!({"containerID": 1, "hostID": 0, "size": 1}),
            "linux.uidMappings: does not map id 0 of the container: map it",
        ),
        (json!({"size": 0}), "linux.uidMappings[0].size: is 0: give the number of ids"),
        (
            json!({"containerID": 4294967295u32, "size": 1}),
            "linux.uidMappings[0].containerID: and size together go beyond the highest id, 4294967294: lower one of them",
        ),
        (
            json!({"hostID": 4294967294u32, "size": 2}),
            "linux.uidMappings[0].hostID: and size together go beyond the highest id, 4294967294: lower one of them",
        ),
    ] {
        refused(user(json!([uid]), root.clone(), json!({})), sentence);
    }
    for (second, name) in [
        (json!({"containerID": 9, "hostID": 5000, "size": 1}), "containerID"),
        (json!({"containerID": 10, "hostID": 991, "size": 10}), "hostID"),
    ] {
        refused(
            user(json!([{"containerID": 0, "hostID": 1000, "size": 10}, second]), root.clone(), json!({})),
            &format!("linux.uidMappings[1].{name}: overlaps with an entry before it: map each id once"),
        );
    }
    let many: Vec<Value> = (0..341).map(|id| json!({"containerID": id, "hostID": id, "size": 1})).collect();
    refused(
        user(json!(many), root.clone(), json!({})),
        "linux.uidMappings: has 341 entries: the kernel takes at most 340",
    );
    for (member, field, list) in [
        (json!({"uid": 10}), "uid: 10", "uidMappings"),
        (json!({"gid": 10}), "gid: 10", "gidMappings"),
        (json!({"additionalGids": [0, 44]}), "additionalGids[1]: 44", "gidMappings"),
    ] {
        refused(
            user(root.clone(), root.clone(), process(json!({ "user": member }))),
            &format!("process.user.{field} is not mapped: add it to linux.{list}"),
        );
    }
}

#[test]
fn rootless() {
    let root = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let rootless = |patch: Value| {
        let mut config = good();
        merge(&mut config, &patch);
        let loaded = spec::parse(config.to_string().as_bytes()).unwrap();
        spec::validate_rootless(&loaded.spec).map_err(|error| error.to_string())
    };
    let user = |options: Value| {
        json!({
            "linux": {"namespaces": [{"type": "user"}], "uidMappings": root, "gidMappings": root},
            "mounts": [{"destination": "/dev/pts", "type": "devpts", "options": options}]
        })
    };
    assert_eq!(rootless(user(json!(["mode=620", "gid=0", "uid=0", "gid=x"]))), Ok(()));
    assert_eq!(
        rootless(user(json!(["gid=5"]))).unwrap_err(),
        concat!(
            "without root: config.json: mounts[0].options: \"gid=5\" is not mapped: ",
            "add it to linux.gidMappings or remove the option"
        )
    );
    let mut with_device = user(json!([]));
    with_device["linux"]["netDevices"] = json!({"eth0": {}});
    assert_eq!(
        rootless(with_device).unwrap_err(),
        concat!(
            "without root: config.json: linux.netDevices: ",
            "network devices are not supported for rootless containers: remove it"
        )
    );
    assert_eq!(
        rootless(json!({})).unwrap_err(),
        concat!(
            "without root: config.json: linux.namespaces: ",
            "needs a user namespace: add {\"type\": \"user\"} to linux.namespaces"
        )
    );
}

#[test]
fn mounts() {
    accepted(mount(json!({"type": "tmpfs", "options": ["nosuid", "size=1k", "tmpcopyup"]})));
    accepted(mount(json!({"options": ["rbind", "rro", "rprivate", "ro", "rw", ""]})));
    accepted(mount(json!({"options": ["remount", "ro"]})));
    for members in [json!({}), json!({"type": "", "options": ["ro"]})] {
        refused(mount(members), "mounts[0].type: is missing: name a file system, or add \"bind\" to the options");
    }
    for members in [json!({"options": ["bind", "size=1k"]}), json!({"type": "bind", "options": ["size=1k"]})] {
        warned(
            mount(members),
            &["mounts[0].options: \"size=1k\" is an option of file systems, which a bind mount cannot take: left out"],
        );
    }
    refused(mount(json!({"destination": ""})), "mounts[0].destination: is empty: say where to mount");
    warned(
        mount(json!({"destination": "a", "type": "tmpfs"})),
        &["mounts[0].destination: \"a\" is relative, which is deprecated: it is taken from \"/\""],
    );
    refused(mount(json!({"source": null, "options": ["bind"]})), "mounts[0].source: is missing: a bind mount needs it");
    warned(
        mount(json!({"options": ["bind", "tmpcopyup"]})),
        &["mounts[0].options: tmpcopyup has no effect: it is for a tmpfs"],
    );
    let map = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
    accepted(mount(json!({"options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map})));
    accepted(mount(json!({"options": ["bind"], "uidMappings": map, "gidMappings": map})));
    refused(
        mount(json!({"options": ["bind", "ridmap"]})),
        concat!(
            "mounts[0].options: idmap needs uidMappings and gidMappings, ",
            "or a user namespace to take them from: add them"
        ),
    );
    refused(
        mount(json!({"options": ["bind"], "uidMappings": map})),
        "mounts[0].gidMappings: is missing, but uidMappings is there: give both",
    );
    refused(
        mount(json!({"options": ["bind"], "uidMappings": [{"size": 0}], "gidMappings": map})),
        "mounts[0].uidMappings[0].size: is 0: give the number of ids",
    );
    refused(
        mount(json!({"type": "tmpfs", "uidMappings": map, "gidMappings": map})),
        "mounts[0].options: an id-mapped mount has to be a bind mount: add \"bind\" or \"rbind\"",
    );
}

#[test]
fn devices() {
    let device = |members: Value| {
        let mut device = json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3});
        merge(&mut device, &members);
        linux(json!({ "devices": [device] }))
    };
    accepted(device(json!({"fileMode": 438, "uid": 0, "gid": 0})));
    accepted(device(json!({"type": "p", "major": null, "minor": null})));
    refused(
        device(json!({"path": "dev/x"})),
        "linux.devices[0].path: \"dev/x\" is not absolute: begin it with a slash",
    );
    refused(device(json!({"path": null})), "linux.devices[0].path: is empty: give an absolute path");
    refused(
        device(json!({"type": "a"})),
        "linux.devices[0].type: \"a\" is for rules about devices, not for a device: use c, b, u or p",
    );
    refused(device(json!({"type": "x"})), "linux.devices[0].type: unknown value \"x\": use one of a, b, c, u, p");
    refused(device(json!({"major": -1})), "linux.devices[0].major: -1 is no device number: use 0 to 4095");
    refused(device(json!({"minor": 1048576})), "linux.devices[0].minor: 1048576 is no device number: use 0 to 1048575");
}

#[test]
fn linux_fields() {
    for word in ["shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable", ""] {
        accepted(linux(json!({"rootfsPropagation": word})));
    }
    for word in ["ro", "sharedd"] {
        refused(
            linux(json!({"rootfsPropagation": word})),
            &format!(
                "linux.rootfsPropagation: unknown value {word:?}: use one of shared, slave, private, unbindable, {}",
                "or rshared and so on"
            ),
        );
    }
    let rdt = |members: Value| linux(json!({ "intelRdt": members }));
    accepted(rdt(json!({"closID": "/", "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20", "schemata": ["L2:0=f"]})));
    for class in [".", "..", "a/b", "/a"] {
        refused(
            rdt(json!({"closID": class})),
            &format!("linux.intelRdt.closID: {class:?} is no name for a directory: use a plain name, or \"/\""),
        );
    }
    refused(rdt(json!({"l3CacheSchema": "a\nb"})), "linux.intelRdt.l3CacheSchema: has a line break in it: remove it");
    refused(rdt(json!({"memBwSchema": "MB:\n"})), "linux.intelRdt.memBwSchema: has a line break in it: remove it");
    refused(
        rdt(json!({"memBwSchema": "L3:0=f"})),
        "linux.intelRdt.memBwSchema: \"L3:0=f\" does not begin with \"MB:\": put it there",
    );
    refused(rdt(json!({"schemata": ["a", "\n"]})), "linux.intelRdt.schemata[1]: has a line break in it: remove it");
    accepted(linux(json!({"personality": {"domain": "LINUX32", "flags": []}})));
    refused(
        linux(json!({"personality": {"domain": "LINUX", "flags": ["X"]}})),
        "linux.personality.flags: \"X\" is not supported, no flag is: remove it",
    );
}

#[test]
fn memory_policy() {
    let policy = |members: Value| linux(json!({ "memoryPolicy": members }));
    accepted(policy(json!({"mode": "MPOL_INTERLEAVE", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]})));
    accepted(policy(json!({"mode": "MPOL_PREFERRED"})));
    accepted(policy(json!({"mode": "MPOL_DEFAULT", "nodes": ""})));
    refused(
        policy(json!({"mode": "MPOL_LOCAL", "nodes": "0"})),
        "linux.memoryPolicy.nodes: cannot be used with MPOL_LOCAL (mode requires 0 nodes but got 1): remove it",
    );
    refused(policy(json!({"mode": "MPOL_BIND"})), "linux.memoryPolicy.nodes: is missing: MPOL_BIND needs at least one");
    refused(
        policy(json!({"mode": "MPOL_BIND", "nodes": "x"})),
        "linux.memoryPolicy.nodes: invalid memory policy node: \"x\" is no list of numbers: write it as \"0-3,7\"",
    );
    refused(
        policy(json!({"mode": "MPOL_PREFERRED", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]})),
        "linux.memoryPolicy.flags: MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other: remove one",
    );
    refused(
        policy(json!({"mode": "MPOL_NONE"})),
        concat!(
            "linux.memoryPolicy.mode: invalid memory policy mode: unknown value \"MPOL_NONE\": use one of MPOL_DEFAULT, MPOL_BIND, ",
            "MPOL_INTERLEAVE, MPOL_WEIGHTED_INTERLEAVE, MPOL_PREFERRED, MPOL_PREFERRED_MANY, MPOL_LOCAL"
        ),
    );
}

#[test]
fn sysctl() {
    let set = |name: &str| linux(json!({"sysctl": {name: "1"}}));
    let set_in = |name: &str, kinds: Value| linux(json!({"namespaces": kinds, "sysctl": {name: "1"}}));
    for name in
        ["net.ipv4.ip_forward", "net/ipv4/ip_forward", "kernel.shmmax", "fs.mqueue.msg_max", "kernel.domainname"]
    {
        accepted(set(name));
    }
    for (name, kind) in [
        ("net.ipv4.ip_forward", "network"),
        ("kernel.shm_rmid_forced", "ipc"),
        ("fs/mqueue/queues_max", "ipc"),
        ("kernel.domainname", "uts"),
        ("user.max_user_namespaces", "user"),
    ] {
        refused(
            set_in(name, json!([])),
            &format!(
                "linux.sysctl[{name:?}]: needs a {kind} namespace: add {{\"type\": \"{kind}\"}} to linux.namespaces"
            ),
        );
    }
    for name in ["vm.swappiness", "kernel.shmmax2", "kernel.panic", "fs.file-max"] {
        refused(
            set(name),
            &format!("linux.sysctl[{name:?}]: belongs to no namespace, so it would change the host: remove it"),
        );
    }
    refused(
        set("kernel.hostname"),
        "linux.sysctl[\"kernel.hostname\"]: conflicts with a field of its own: use hostname",
    );
    for name in ["", "net.", "net..x", ".net", "net.ipv4/../x", "net/../kernel/panic"] {
        refused(
            set(name),
            &format!("linux.sysctl[{name:?}]: is no name of a kernel parameter: write it as sysctl(8) does"),
        );
    }
    refused(
        set_in("net.core.somaxconn", json!([{"type": "network", "path": "/proc/self/ns/net"}])),
        concat!(
            "linux.sysctl[\"net.core.somaxconn\"]: would change the host, ",
            "whose network namespace \"/proc/self/ns/net\" is: remove it"
        ),
    );
    accepted(set_in("net.core.somaxconn", json!([{"type": "network", "path": "/nonexistent"}])));
}

#[test]
fn seccomp() {
    let seccomp = |members: Value| {
        let mut seccomp = json!({"defaultAction": "SCMP_ACT_ERRNO"});
        merge(&mut seccomp, &members);
        linux(json!({ "seccomp": seccomp }))
    };
    let rule = |members: Value| {
        let mut rule = json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"});
        merge(&mut rule, &members);
        seccomp(json!({ "syscalls": [rule] }))
    };
    accepted(linux(json!({"seccomp": {}})));
    accepted(seccomp(json!({"defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"], "flags": []})));
    accepted(rule(json!({"errnoRet": 4095, "args": [{"index": 5, "value": 1, "op": "SCMP_CMP_EQ"}]})));
    accepted(rule(json!({"action": "SCMP_ACT_TRACE", "errnoRet": 65535, "args": null})));
    accepted(rule(json!({"args": [{"op": "SCMP_CMP_EQ"}]})));
    refused(
        seccomp(json!({"defaultAction": "SCMP_ACT_NOTIFY"})),
        concat!(
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action, ",
            "for calls are made before anybody listens: use it for calls by name"
        ),
    );
    refused(
        seccomp(json!({"defaultAction": null, "syscalls": [{"names": ["a"], "action": "SCMP_ACT_LOG"}]})),
        "linux.seccomp.defaultAction: is missing: add it",
    );
    refused(
        seccomp(json!({"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1})),
        "linux.seccomp.defaultErrnoRet: SCMP_ACT_KILL returns no value: remove it",
    );
    refused(rule(json!({"errnoRet": 4096})), "linux.seccomp.syscalls[0].errnoRet: 4096 is too high: use at most 4095");
    refused(
        rule(json!({"action": "SCMP_ACT_ALLOW", "errnoRet": 1})),
        "linux.seccomp.syscalls[0].errnoRet: SCMP_ACT_ALLOW returns no value: remove it",
    );
    refused(rule(json!({"names": []})), "linux.seccomp.syscalls[0].names: is empty: name at least one system call");
    refused(rule(json!({"names": [""]})), "linux.seccomp.syscalls[0].names: has an empty name in it: remove it");
    refused(rule(json!({"names": null})), "linux.seccomp.syscalls[0].names: is missing: add it");
    refused(
        rule(json!({"args": [{"index": 6, "op": "SCMP_CMP_EQ"}]})),
        "linux.seccomp.syscalls[0].args[0].index: 6 is too high: system calls have arguments 0 to 5",
    );
    refused(
        rule(json!({"args": [{"index": 0, "op": "SCMP_CMP_XX"}]})),
        concat!(
            "linux.seccomp.syscalls[0].args[0].op: unknown value \"SCMP_CMP_XX\": use one of SCMP_CMP_NE, SCMP_CMP_LT, ",
            "SCMP_CMP_LE, SCMP_CMP_EQ, SCMP_CMP_GE, SCMP_CMP_GT, SCMP_CMP_MASKED_EQ"
        ),
    );
    refused(
        seccomp(json!({"flags": ["SECCOMP_FILTER_FLAG_X"]})),
        concat!(
            "linux.seccomp.flags[0]: unknown value \"SECCOMP_FILTER_FLAG_X\": use one of SECCOMP_FILTER_FLAG_LOG, ",
            "SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_FILTER_FLAG_SPEC_ALLOW, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
        ),
    );
    refused(
        seccomp(json!({"listenerMetadata": "x"})),
        concat!(
            "linux.seccomp.listenerMetadata: is for the listener, but there is no listenerPath: ",
            "add it or remove the metadata"
        ),
    );
    refused(
        rule(json!({"action": "SCMP_ACT_NOTIFY"})),
        "linux.seccomp.listenerPath: is missing: SCMP_ACT_NOTIFY needs it",
    );
    refused(
        rule(json!({"action": "SCMP_ACT_NOTIFY", "names": ["write"]})),
        concat!(
            "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY cannot be used for the write syscall, ",
            "which is called before anybody listens: use another action"
        ),
    );
}

#[test]
fn a_process_by_itself() {
    let (process, warnings) =
        spec::parse_process(br#"{"cwd":"/","args":["a"],"capabilities":{"ambient":["X"]}}"#).unwrap();
    assert_eq!(warnings.len(), 1);
    spec::validate_process(&process).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), r#"{"cwd":"a","args":["a"]}"#).unwrap();
    let error = spec::load_process(file.path()).unwrap_err().to_string();
    assert_eq!(error, "process.json: cwd: \"a\" is not absolute: begin it with a slash");
    let error = spec::parse_process(br#"{"cwd":"/","args":"a"}"#).unwrap_err().to_string();
    assert_eq!(error, "process.json: args: is the string \"a\": give an array");
}
