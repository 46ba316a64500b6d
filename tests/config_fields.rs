//! Fields of config.json that change the process or the kernel's view of it: each is read from inside the container.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Lab, push};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What `script` prints in a container whose configuration `change` has changed.
#[track_caller]
fn inside(lab: &Lab, script: &str, change: impl FnOnce(&mut Value)) -> String {
    lab.shell(script, change).ok()
}

/// What is said when the container is refused.
#[track_caller]
fn refused(lab: &Lab, change: impl FnOnce(&mut Value)) -> String {
    lab.shell("true", change).failed()
}

/// Gives the process a capability.
fn grant(config: &mut Value, capability: &str) {
    for set in ["bounding", "effective", "permitted"] {
        push(&mut config["process"]["capabilities"][set], json!(capability));
    }
}

#[test]
fn user() {
    let lab = lab!();
    let output = inside(&lab, "id; umask; touch /tmp/f; stat -c '%u %g %a' /tmp/f; echo $HOME", |config| {
        config["process"]["user"] =
            json!({"uid": 7, "gid": 8, "additionalGids": [9, 4_000_000_000_u32], "umask": 0o027});
        let options = json!(["mode=1777"]);
        push(&mut config["mounts"], json!({"destination": "/tmp", "type": "tmpfs", "source": "x", "options": options}));
    });
    assert_eq!(output, "uid=7 gid=8 groups=9,4000000000\n0027\n7 8 640\n/");
    assert_eq!(inside(&lab, "umask; id -G", |_| {}), "0022\n0");
}

#[test]
fn environment_and_home() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["user"]["uid"] = json!(7);
        config["process"]["args"] = json!(["sh", "-c", "echo $A; echo $HOME; echo \"$B\""]);
        config["process"]["env"] = json!(["PATH=/bin", "A=b=c", "B="]);
    });
    fs::write(bundle.rootfs().join("etc/passwd"), "7:x:0:0::/wrong:/\nseven:x:7:7::/right:/bin/sh\n").unwrap();
    assert_eq!(lab.run(&bundle, &[]).ok(), "b=c\n/right");
}

#[test]
fn working_directory() {
    let lab = lab!();
    assert_eq!(inside(&lab, "pwd", |config| config["process"]["cwd"] = json!("/made/for/it")), "/made/for/it");
    let error = refused(&lab, |config| config["process"]["cwd"] = json!("relative"));
    assert!(error.contains("process.cwd"), "{error}");
}

#[test]
fn resource_limits() {
    let lab = lab!();
    let output = inside(&lab, "cat /proc/self/limits", |config| {
        config["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 2_097_152},
            {"type": "RLIMIT_CPU", "soft": 100, "hard": 101},
            {"type": "RLIMIT_RTTIME", "soft": 5, "hard": 6}
        ]);
    });
    let line = |name: &str| {
        let line = output.lines().find(|line| line.starts_with(name)).unwrap();
        line.trim_start_matches(name).split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line("Max open files"), ["100", "200"]);
    assert_eq!(line("Max core file size"), ["0", "0"]);
    assert_eq!(line("Max stack size"), ["1048576", "2097152"]);
    assert_eq!(line("Max cpu time"), ["100", "101"]);
    assert_eq!(line("Max realtime timeout"), ["5", "6"]);
    let limit = |soft: u64, hard: u64| json!({"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard});
    let error = refused(&lab, |config| config["process"]["rlimits"] = json!([limit(1, 2), limit(1, 2)]));
    assert!(error.contains("process.rlimits[1]") && error.contains("RLIMIT_NOFILE"), "{error}");
    let error = refused(&lab, |config| config["process"]["rlimits"] = json!([limit(3, 2)]));
    assert!(error.contains("process.rlimits[0]"), "{error}");
}

/// They can be raised only with a right that counts nowhere but outside.
#[test]
fn resource_limits_in_a_user_namespace() {
    let lab = lab!();
    let queues = || {
        let limits = fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max msgqueue size")).unwrap();
        line.split_whitespace().nth(4).and_then(|hard| hard.parse::<u64>().ok())
    };
    let Some(hard) = queues() else { skip!("there is no limit to raise") };
    // Bit 24 of capabilities(7).
    let may_raise = microrun::sys::process::capget().unwrap().0 >> 24 & 1 == 1
        && fs::read_to_string("/proc/self/uid_map").unwrap().split_whitespace().eq(["0", "0", "4294967295"]);
    for wanted in [hard - 1, hard + 1] {
        if wanted > hard && !may_raise {
            skip!("needs CAP_SYS_RESOURCE to raise a limit");
        }
        let bundle = lab.bundle(|config| {
            push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
            for field in ["uidMappings", "gidMappings"] {
                config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
            }
            config["process"]["args"] = json!(["sleep", "1000"]);
            config["process"]["rlimits"] = json!([
                {"type": "RLIMIT_MSGQUEUE", "soft": 1, "hard": wanted},
                {"type": "RLIMIT_NOFILE", "soft": 9, "hard": 10},
                {"type": "RLIMIT_NPROC", "soft": 999, "hard": 1000}
            ]);
        });
        let init = lab.started(&bundle);
        let of_exec = lab.microrun(&["exec", &bundle.id, "cat", "/proc/self/limits"]);
        for text in [fs::read_to_string(format!("/proc/{init}/limits")).unwrap(), of_exec.ok()] {
            let values = |name: &str| {
                let line = text.lines().find(|line| line.starts_with(name)).unwrap();
                line.trim_start_matches(name).split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(values("Max msgqueue size"), ["1".to_owned(), wanted.to_string()]);
            assert_eq!(values("Max open files"), ["9", "10"]);
            assert_eq!(values("Max processes"), ["999", "1000"]);
        }
    }
}

#[test]
fn score_of_the_oom_killer() {
    let lab = lab!();
    let before = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let output = inside(&lab, "cat /proc/self/oom_score_adj", |config| config["process"]["oomScoreAdj"] = json!(321));
    assert_eq!(output, "321");
    assert_eq!(fs::read_to_string("/proc/self/oom_score_adj").unwrap(), before);
    let error = refused(&lab, |config| config["process"]["oomScoreAdj"] = json!(1001));
    assert!(error.contains("process.oomScoreAdj"), "{error}");
}

/// The runtime looks at the text before it has parsed it, and may be deceived: what it has begun is begun anew then.
#[test]
fn a_name_that_does_not_look_like_itself() {
    let lab = lab!();
    let script = "cat /proc/self/oom_score_adj /sys/class/net/lo/operstate; ls /sys/class/net";
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["oomScoreAdj"] = json!(322);
        config["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}, {"type": "network"}]);
    });
    let path = bundle.path.join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let disguised = text.replace("\"oomScoreAdj\"", "\"oomScore\\u0041dj\"");
    assert_ne!(text, disguised);
    fs::write(&path, disguised).unwrap();
    assert_eq!(lab.run(&bundle, &[]).ok(), format!("322\nunknown\n{}", common::new_devices().join("\n")));
}

#[test]
fn scheduler() {
    let lab = lab!();
    // Fields 18, 19, 40 and 41 of proc_pid_stat(5): priority, nice, realtime priority, policy.
    let script = "cut -d' ' -f19,40,41 /proc/self/stat";
    let batch =
        inside(&lab, script, |config| config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5}));
    assert_eq!(batch, "5 0 3");
    let idle = inside(&lab, script, |config| config["process"]["scheduler"] = json!({"policy": "SCHED_IDLE"}));
    assert!(idle.ends_with(" 0 5"), "{idle}");
    let other =
        inside(&lab, script, |config| config["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 19}));
    assert_eq!(other, "19 0 0");
    let error =
        refused(&lab, |config| config["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "priority": 5}));
    assert!(error.contains("process.scheduler.priority"), "{error}");
    // Clamps, which the kernel takes with the fields for them, or has not been built with.
    let clamped = lab.shell(script, |config| {
        let flags = ["SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX"];
        config["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 3, "flags": flags});
    });
    assert!(clamped.code == 0 || clamped.stderr.contains("operation not supported"), "{clamped:?}");
    let fifo = lab.shell(script, |config| {
        config["process"]["scheduler"] =
            json!({"policy": "SCHED_FIFO", "priority": 10, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
        config["process"]["args"] = json!(["cut", "-d ", "-f19,40,41", "/proc/self/stat"]);
        // Realtime time is given to cgroups one by one where the kernel was built so (sched-rt-group.rst).
        config["linux"]["cgroupsPath"] = Value::Null;
    });
    if fifo.code != 0 && fifo.stderr.contains("operation not permitted") {
        skip!("this machine lets nobody have realtime: {}", fifo.stderr);
    }
    assert!(fifo.ok().ends_with(" 10 1"));
}

#[test]
fn io_priority() {
    let lab = lab!();
    for (class, priority, expected) in [
        ("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"),
        ("IOPRIO_CLASS_IDLE", 0, "idle"),
        ("IOPRIO_CLASS_RT", 3, "realtime: prio 3"),
    ] {
        let output = lab.shell("ionice", |config| {
            config["process"]["ioPriority"] = json!({"class": class, "priority": priority});
        });
        assert_eq!(output.ok(), expected);
    }
    let error =
        refused(&lab, |config| config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 8}));
    assert!(error.contains("process.ioPriority.priority"), "{error}");
}

#[test]
fn personality() {
    let lab = lab!();
    let personality = |domain: &str| {
        inside(&lab, "cat /proc/self/personality; uname -m", |config| {
            grant(config, "CAP_SYS_PTRACE");
            config["linux"]["personality"] = json!({"domain": domain});
        })
    };
    let linux32 = personality("LINUX32");
    let machine = if cfg!(target_arch = "x86_64") { "i686" } else { "armv8l" };
    assert_eq!(linux32, format!("00000008\n{machine}"));
    assert_eq!(personality("LINUX"), format!("00000000\n{}", std::env::consts::ARCH));
    let error = refused(&lab, |config| config["linux"]["personality"] = json!({"domain": "LINUX", "flags": ["X"]}));
    assert!(error.contains("linux.personality.flags"), "{error}");
}

#[test]
fn memory_policy() {
    let lab = lab!();
    if !Path::new("/proc/self/numa_maps").exists() {
        skip!("this kernel has no NUMA memory policies");
    }
    let policy = |policy: Value| {
        lab.shell("head -n 1 /proc/self/numa_maps | cut -d' ' -f2", |config| config["linux"]["memoryPolicy"] = policy)
    };
    for (members, expected) in [
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}), "interleave:0"),
        (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), "prefer:0"),
        (json!({"mode": "MPOL_PREFERRED_MANY", "nodes": "0"}), "prefer (many):0"),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (json!({"mode": "MPOL_DEFAULT"}), "default"),
        (json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}), "bind=static:0"),
        (json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}), "bind=relative:0"),
    ] {
        if expected == "prefer (many):0" && common::kernel() < (5, 15) {
            continue;
        }
        let said = policy(members.clone()).ok();
        // "prefer (many)" is cut at its space.
        assert!(expected.starts_with(&said) && (said == expected || said == "prefer"), "{members}: {said}");
    }
    for members in [
        json!({"mode": "MPOL_BIND"}),
        json!({"mode": "MPOL_X", "nodes": "0"}),
        json!({"mode": "MPOL_BIND", "nodes": "x"}),
    ] {
        let error = policy(members).failed();
        assert!(error.contains("linux.memoryPolicy."), "{error}");
    }
}

#[test]
fn kernel_parameters() {
    let lab = lab!();
    let output = inside(
        &lab,
        "cd /proc/sys; cat kernel/msgmax net/ipv4/ip_forward fs/mqueue/msg_max net/ipv4/conf/lo/forwarding",
        |config| {
            config["linux"]["sysctl"] = json!({
                "kernel.msgmax": "9000",
                "net.ipv4.ip_forward": "1",
                "fs.mqueue.msg_max": "11",
                "net/ipv4/conf/lo/forwarding": "0"
            });
        },
    );
    assert_eq!(output, "9000\n1\n11\n0");
    // What is not the container's own is the host's.
    for name in ["kernel.panic", "vm.swappiness", "kernel.msgmax/../../vm/swappiness"] {
        let error = refused(&lab, |config| config["linux"]["sysctl"] = json!({name: "1"}));
        assert!(error.contains("linux.sysctl") && error.contains(name), "{error}");
    }
    let error = refused(&lab, |config| config["linux"]["sysctl"] = json!({"net.ipv4.no_such": "1"}));
    assert!(error.contains("linux.sysctl") && error.contains("no such file"), "{error}");
}

#[test]
fn names() {
    let lab = lab!();
    let output = inside(&lab, "hostname; cat /proc/sys/kernel/domainname", |config| {
        config["hostname"] = json!("a-host");
        config["domainname"] = json!("a.domain");
    });
    assert_eq!(output, "a-host\na.domain");
    for (field, value) in [("hostname", "x".repeat(65)), ("domainname", "x".repeat(65))] {
        let error = refused(&lab, |config| config[field] = json!(value));
        assert!(error.contains(field), "{error}");
    }
    // Without a namespace of its own it would be the host's name.
    let error = refused(&lab, |config| {
        config["hostname"] = json!("a-host");
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "uts");
    });
    assert!(error.contains("hostname") && error.contains("uts"), "{error}");
}

#[test]
fn console_size() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
        config["process"]["args"] = json!(["stty", "size"]);
    });
    assert_eq!(lab.run(&bundle, &[]).ok(), "33 77");
}

#[test]
fn capabilities() {
    let lab = lab!();
    let sets = |user: u32, names: Value| {
        let output = inside(&lab, "grep ^Cap /proc/self/status", |config| {
            config["process"]["user"]["uid"] = json!(user);
            config["process"]["capabilities"] = names;
        });
        output
            .lines()
            .map(|line| u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap())
            .collect::<Vec<_>>()
    };
    const KILL: u64 = 1 << 5;
    const CHOWN: u64 = 1;
    let both = json!(["CAP_CHOWN", "CAP_KILL"]);
    // Inheritable, permitted, effective, bounding, ambient.
    assert_eq!(sets(0, json!({"bounding": ["CAP_KILL"]})), [0, 0, 0, KILL, 0]);
    let all = json!({"bounding": both, "permitted": both, "effective": ["CAP_KILL"], "inheritable": both, "ambient": ["CAP_KILL"]});
    assert_eq!(sets(1000, all), [CHOWN | KILL, KILL, KILL, CHOWN | KILL, KILL]);
    assert_eq!(sets(1000, json!({"bounding": both, "permitted": both, "effective": both})), [0, 0, 0, CHOWN | KILL, 0]);
    // To be inheritable takes rights when root has become another user.
    assert_eq!(sets(1000, json!({"bounding": both, "inheritable": ["CAP_KILL"]})), [KILL, 0, 0, CHOWN | KILL, 0]);
}

#[test]
fn no_new_privileges() {
    let lab = lab!();
    for (field, expected) in [(json!(true), "1"), (json!(false), "0"), (Value::Null, "0")] {
        let output =
            inside(&lab, "grep NoNewPrivs /proc/self/status", |config| config["process"]["noNewPrivileges"] = field);
        assert!(output.ends_with(expected), "{output}");
    }
}

#[test]
fn the_filter_of_the_first_container_is_kept() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["true"]);
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    });
    // Where the state root is not there yet, as after a boot.
    let root = lab.path("run/of its own");
    let run = |id| {
        lab.microrun(&["--root", root.to_str().unwrap(), "run", "--bundle", bundle.path.to_str().unwrap(), id]).ok()
    };
    run(&bundle.id);
    let kept: Vec<_> = fs::read_dir(root.join(".seccomp")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    // What only explains makes nothing.
    let another = lab.path("run/another");
    lab.microrun(&["--root", another.to_str().unwrap(), "explain", bundle.path.to_str().unwrap()]).ok();
    assert!(!another.exists());
}

#[test]
fn annotations_are_reported() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["annotations"] = json!({"a": "b", "empty": ""});
        config["process"]["args"] = json!(["sleep", "1000"]);
    });
    lab.created(&bundle);
    let state: Value = serde_json::from_str(&lab.microrun(&["state", &bundle.id]).ok()).unwrap();
    assert_eq!(state["annotations"], json!({"a": "b", "empty": ""}));
}

#[test]
fn root() {
    let lab = lab!();
    let readonly =
        |readonly: bool| lab.shell("touch /x && echo written", |config| config["root"]["readonly"] = json!(readonly));
    assert!(readonly(true).failed().contains("Read-only"));
    assert_eq!(readonly(false).ok(), "written");
    let error = refused(&lab, |config| config["root"]["path"] = json!("no-such"));
    assert!(error.contains("root.path") && error.contains("no-such"), "{error}");
}

#[test]
fn session_keyring() {
    let lab = lab!();
    // Not the caller's: its description is the container's.
    let output = lab.shell("cat /proc/keys", |config| config["linux"]["maskedPaths"] = json!([]));
    if output.stderr.contains("No such file") {
        skip!("this kernel has no keyrings");
    }
    let own = format!("_ses.{}-", lab.name());
    assert!(output.ok().contains(&own), "the session keyring is not the container's own");
}

#[test]
fn intel_rdt_needs_its_file_system() {
    let lab = lab!();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    if mounts.contains(" - resctrl ") {
        skip!("resctrl is mounted here");
    }
    let refused = lab.shell("true", |config| config["linux"]["intelRdt"] = json!({"closID": "a"})).failed();
    assert!(refused.contains("config.json: linux.intelRdt: no resctrl file system is mounted"), "{refused}");
}
