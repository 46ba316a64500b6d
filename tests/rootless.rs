//! Containers of a user who has no rights on the machine.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Guard, Lab, Output, eventually_is, host, output, push};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

macro_rules! user_lab {
    () => {
        match Lab::for_user() {
            Ok(lab) => lab,
            Err(why) => skip!("{why}"),
        }
    };
}

/// The first of at least 1000 ids in a row that `file` (subuid(5)) gives to `user`.
fn subordinate(file: &str, user: &str) -> Option<u32> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        (owner == user && count.parse::<u32>().ok()? >= 1000).then(|| first.parse().ok())?
    })
}

#[test]
fn a_container_runs_without_any_right() {
    let lab = user_lab!();
    let (uid, _) = lab.user().unwrap().ids;
    let output = lab.shell("id -u; id -g; cat /proc/self/uid_map; cat /proc/self/setgroups; echo > /x", |_| {});
    assert!(output.stderr.contains("Read-only file system"), "{output:?}");
    let words: Vec<&str> = output.stdout.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "0", &uid.to_string(), "1", "deny"]);
}

#[test]
fn its_state_lies_in_the_users_runtime_directory() {
    let lab = user_lab!();
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let pid = lab.created(&bundle);
    assert!(lab.path("run/microrun").join(&bundle.id).is_dir());
    let state =
        |lab: &Lab| -> serde_json::Value { serde_json::from_str(&lab.microrun(&["state", &bundle.id]).ok()).unwrap() };
    assert_eq!(state(&lab)["status"], "created");
    assert_eq!(state(&lab)["pid"], pid);
    lab.microrun(&["start", &bundle.id]).ok();
    assert_eq!(state(&lab)["status"], "running");
    lab.microrun(&["kill", &bundle.id, "KILL"]).ok();
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
    assert_eq!(
        fs::read_dir(lab.path("run/microrun")).unwrap().flatten().filter(|e| e.file_name() == *bundle.id).count(),
        0
    );
}

/// Without a cgroup to find the others by, init is who is left to tell.
#[test]
fn all_that_can_be_found_are_killed() {
    let lab = user_lab!();
    let bundle = lab.sleeper(|_| {});
    lab.microrun(&["kill", "--all", &bundle.id, "KILL"]).ok();
    eventually_is(|| lab.status(&bundle.id), &"stopped".to_owned());
    lab.microrun(&["kill", "--all", &bundle.id, "KILL"]).ok();
    lab.microrun(&["delete", &bundle.id]).ok();
}

/// Cgroups to be removed once nobody is in them.
struct Others(Vec<PathBuf>);

impl Drop for Others {
    fn drop(&mut self) {
        self.0.iter().for_each(|other| drop(fs::remove_dir(other)));
    }
}

/// It has none: what there is of its name is somebody else's.
#[test]
fn a_container_without_cgroups_leaves_those_of_its_name_alone() {
    let lab = user_lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        // Objects that limit nothing.
        config["linux"]["resources"] = json!({"memory": {}, "cpu": {"shares": 0}});
    });
    let command = |args: &[&str]| {
        let mut command = lab.in_own_cgroup(&lab.command(args));
        command.env("XDG_RUNTIME_DIR", lab.path("run"));
        command
    };
    let user = |args: &[&str]| output(command(args));
    user(&["list"]).ok();
    // Beside the user's own cgroup of v2, and below those of v1.
    let other_of = |hierarchy: PathBuf| {
        let is_v2 = hierarchy.join("cgroup.procs").exists() && hierarchy.join("cgroup.controllers").exists();
        hierarchy.join(lab.name()).join(if is_v2 { "" } else { "caller" }).join(&bundle.id)
    };
    let others = Others(common::hierarchies().into_iter().map(other_of).collect());
    let mut sleeper = Guard(Command::new("sleep").arg("1000").spawn().unwrap());
    for other in &others.0 {
        fs::create_dir(other).unwrap();
        // In a new cpuset of v1 there is no room.
        if !other.join("cpuset.cpus").exists() || other.join("cgroup.controllers").exists() {
            fs::write(other.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
        }
    }
    // The container inherits what `run` writes to, and would keep our end of a pipe open.
    let said = lab.path("said");
    let run = || {
        let mut command = command(&["run", "--detach", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap());
        command.status().unwrap().success()
    };
    assert!(run(), "{}", fs::read_to_string(&said).unwrap());
    let state = fs::read(lab.path("run/microrun").join(&bundle.id).join("state.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&state).unwrap()["cgroup"], json!({"driver": "cgroupfs"}));
    let refused = user(&["pause", &bundle.id]).failed();
    assert!(refused.contains("cannot toggle freezer: cgroups not configured for container"), "{refused}");
    assert!(!user(&["ps", &bundle.id]).ok().contains(&sleeper.id().to_string()));
    user(&["delete", "--force", &bundle.id]).ok();
    assert!(others.0.iter().all(|other| other.exists()) && sleeper.try_wait().unwrap().is_none());

    // One that is the user's own, and in use, is no place for another container.
    others.0.iter().for_each(|other| lab.own(other));
    assert!(!run());
    let refused = fs::read_to_string(&said).unwrap();
    assert!(refused.contains("container's cgroup is not empty"), "{refused}");
}

#[test]
fn more_ids_are_mapped_by_the_helpers() {
    let lab = user_lab!();
    let user = lab.user().unwrap().clone();
    let (Some(uids), Some(gids)) = (subordinate("/etc/subuid", &user.name), subordinate("/etc/subgid", &user.name))
    else {
        skip!("/etc/subuid and /etc/subgid give {} no ids", user.name)
    };
    if !output(Command::new("newuidmap")).stderr.contains("usage") {
        skip!("there is no newuidmap (Debian's package uidmap)");
    }
    let maps = |own: u32, first: u32| json!([{"containerID": 0, "hostID": own, "size": 1}, {"containerID": 1, "hostID": first, "size": 1000}]);
    let run = |uids: u32| {
        lab.shell("id; cat /proc/self/setgroups; ls -ln /tmp/f", |config| {
            config["linux"]["uidMappings"] = maps(user.ids.0, uids);
            config["linux"]["gidMappings"] = maps(user.ids.1, gids);
            config["process"]["user"] = json!({"uid": 5, "gid": 6, "additionalGids": [7]});
            let tmp = json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]});
            push(&mut config["mounts"], tmp);
            let script = config["process"]["args"][2].as_str().unwrap();
            config["process"]["args"][2] = json!(format!("touch /tmp/f; {script}"));
        })
    };
    let output = run(uids).ok();
    assert!(output.starts_with("uid=5 gid=6 groups=7\nallow\n"), "{output}");
    assert!(output.split_whitespace().collect::<Vec<_>>().join(" ").contains(" 5 6 "), "{output}");
    let error = run(uids.wrapping_add(3_000_000)).failed();
    assert!(error.contains("linux.uidMappings") && error.contains("/etc/subuid"), "{error}");
}

#[test]
fn groups_that_cannot_be_set_are_refused() {
    let lab = user_lab!();
    let error = lab.shell("true", |config| config["process"]["user"]["additionalGids"] = json!([0])).failed();
    assert!(error.contains("process.user.additionalGids"), "{error}");
}

#[test]
fn the_network_may_be_new_too() {
    let lab = user_lab!();
    let output = lab
        .shell("ls /sys/class/net; ip link show lo", |config| {
            push(&mut config["linux"]["namespaces"], json!({"type": "network"}));
            for mount in config["mounts"].as_array_mut().unwrap() {
                if mount["destination"] == "/sys" {
                    *mount = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]});
                }
            }
        })
        .ok();
    assert!(
        output.starts_with(&format!("{}\n", common::new_devices().join("\n"))) && output.contains("LOOPBACK,UP"),
        "{output}"
    );
}

#[test]
fn the_score_of_the_oom_killer_can_be_raised_and_is_otherwise_left_alone() {
    let lab = user_lab!();
    let score = |value: i32| {
        lab.shell("cat /proc/self/oom_score_adj", |config| config["process"]["oomScoreAdj"] = json!(value)).ok()
    };
    assert_eq!(score(500), "500");
    assert_eq!(score(-900), fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim());
}

/// What is executed in a container is closed to its user before its score could be written.
#[test]
fn the_score_of_what_is_executed_is_the_containers() {
    let lab = user_lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["oomScoreAdj"] = json!(500);
        config["process"]["args"] = json!(["sleep", "1000"]);
    });
    lab.started(&bundle);
    assert_eq!(lab.exec(&bundle, &[], &["cat", "/proc/self/oom_score_adj"]).ok(), "500");
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
}

#[test]
fn times_and_names_are_the_users_to_set() {
    let lab = user_lab!();
    let output = lab
        .shell(
            "cat /proc/uptime; hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_default_ttl",
            |config| {
                for kind in ["time", "network", "cgroup"] {
                    push(&mut config["linux"]["namespaces"], json!({"type": kind}));
                }
                config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000_000}});
                config["hostname"] = json!("host");
                config["domainname"] = json!("domain");
                config["linux"]["sysctl"] = json!({"net.ipv4.ip_default_ttl": "77"});
            },
        )
        .ok();
    assert!(output.parse::<f64>().is_err() && output.starts_with("1000"), "{output}");
    assert!(output.ends_with("host\ndomain\n77"), "{output}");
}

#[test]
fn limits_without_cgroups_are_refused() {
    let lab = user_lab!();
    let error =
        lab.shell("true", |config| config["linux"]["resources"] = json!({"memory": {"limit": 100_000_000}})).failed();
    assert!(error.contains("unable to apply cgroup configuration") && error.contains("permission denied"), "{error}");
}

#[test]
fn exec_enters_a_container_that_is_created() {
    let lab = user_lab!();
    let bundle = lab.bundle(|_| {});
    lab.created(&bundle);
    assert_eq!(lab.microrun(&["exec", &bundle.id, "echo", "inside"]).ok(), "inside");
}

#[test]
fn the_seccomp_agent_gets_the_listener() {
    let lab = user_lab!();
    let agent = std::os::unix::net::UnixListener::bind(lab.path("agent")).unwrap();
    lab.own(&lab.path("agent"));
    let bundle = lab.bundle(|config| {
        config["linux"]["seccomp"] = common::notifying(&lab.path("agent"));
        config["linux"]["seccomp"]["listenerMetadata"] = json!("of the test");
    });
    let said = std::thread::scope(|scope| {
        let said = scope.spawn(|| std::io::read_to_string(agent.accept().unwrap().0).unwrap());
        lab.run(&bundle, &[]).ok();
        said.join().unwrap()
    });
    assert!(said.contains("of the test") && said.contains(&bundle.id), "{said}");
}

/// Init has no filter yet while the hooks run that are the image's: what one leaves behind could have it do anything (ptrace(2)).
#[test]
fn hooks_cannot_look_into_init() {
    let lab = user_lab!();
    let agent = std::os::unix::net::UnixListener::bind(lab.path("agent")).unwrap();
    lab.own(&lab.path("agent"));
    let notifying = |prctl: &str| {
        let mut profile = common::notifying(&lab.path("agent"));
        push(&mut profile["syscalls"], json!({"names": ["prctl"], "action": prctl}));
        profile
    };
    for seccomp in [Value::Null, notifying("SCMP_ACT_ALLOW"), notifying("SCMP_ACT_ERRNO")] {
        let bundle = lab.bundle(|config| {
            config["process"]["args"] = json!(["cat", "/mnt/seen"]);
            if !seccomp.is_null() {
                config["linux"]["seccomp"] = seccomp.clone();
            }
            push(&mut config["mounts"], json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}));
            let script = "ls /proc/1/fd >/mnt/seen 2>&1 && echo seen >>/mnt/seen; exit 0";
            let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]});
            config["hooks"] = json!({"startContainer": [hook]});
        });
        let seen = lab.run(&bundle, &[]).ok();
        assert!(seen.contains("Permission denied"), "{seen}");
    }
    drop(agent);
}

#[test]
fn no_cgroup_and_no_pid_namespace_is_a_warning() {
    let lab = user_lab!();
    let bundle = lab.bundle(|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
        let proc =
            json!({"destination": "/proc", "source": "/proc", "options": ["rbind", "nosuid", "nodev", "noexec"]});
        config["mounts"][0] = proc;
        config["linux"].as_object_mut().unwrap().retain(|field, _| !field.ends_with("Paths"));
    });
    let output = lab.run(&bundle, &[]);
    assert!(output.stderr.contains("Such configuration is strongly discouraged"), "{output:#?}");
    output.ok();
}

/// Without cgroup v2 a container has v1 cgroups for its devices and the freezer, if they can be made.
#[test]
fn cgroups_of_v1_that_may_not_be_made_are_done_without() {
    let lab = user_lab!();
    let unified = Path::new("/sys/fs/cgroup/unified");
    if !unified.join("cgroup.procs").exists() {
        skip!("needs hybrid cgroups, to take away v2");
    }
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sh", "-c", "exec echo ran"]));
    let run = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "umount \"$0\"; exec \"$@\""]).arg(unified);
    command.arg(run.get_program()).args(run.get_args()).env("XDG_RUNTIME_DIR", lab.path("run"));
    let output = output(command);
    assert_eq!((output.code, output.stdout.as_str()), (0, "ran"), "{output:?}");
}

#[test]
fn the_terminals_multiplexer_is_that_of_devpts() {
    let lab = user_lab!();
    let device = json!({"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2});
    let owner = lab.shell("stat -Lc '%u %t:%T' /dev/ptmx", |config| config["linux"]["devices"] = json!([device])).ok();
    assert_eq!(owner, "0 5:2");
}

#[test]
fn a_program_that_is_refused_tells_its_terminal() {
    let lab = user_lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["/mnt/script"]);
        config["process"]["terminal"] = json!(true);
    });
    let script = bundle.rootfs().join("mnt/script");
    fs::write(&script, "#!/no/such/shell\n").unwrap();
    host("chmod", &["755", script.to_str().unwrap()]);
    let output = lab.run(&bundle, &[]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("exec /mnt/script: no such file or directory", ""));
    assert_ne!(output.code, 0);
}

#[test]
fn a_network_device_of_the_host_is_refused() {
    let lab = user_lab!();
    let refused = lab.shell("true", |config| config["linux"]["netDevices"] = json!({"lo": {}})).failed();
    assert!(refused.contains("linux.netDevices: needs a network namespace"), "{refused}");
    let refused = lab.shell("true", |config| {
        push(&mut config["linux"]["namespaces"], json!({"type": "network"}));
        config["linux"]["netDevices"] = json!({"lo": {}});
    });
    let refused = refused.failed();
    assert!(refused.contains("linux.netDevices: network devices are not supported for rootless"), "{refused}");
}

#[test]
fn without_a_user_namespace_it_is_refused() {
    let lab = user_lab!();
    let refused = lab.shell("true", |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "user");
        for field in ["uidMappings", "gidMappings"] {
            config["linux"].as_object_mut().unwrap().remove(field);
        }
    });
    assert!(refused.failed().contains("without root: config.json: linux.namespaces: needs a user namespace"));
}

/// A bundle without a user namespace of its own, that `change` has changed.
fn without_user_namespace(lab: &Lab, change: impl FnOnce(&mut Value)) -> Bundle {
    lab.bundle(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "user");
        for field in ["uidMappings", "gidMappings"] {
            config["linux"].as_object_mut().unwrap().remove(field);
        }
        change(config);
    })
}

/// `verb` of the runtime as root of a user namespace that it has not made; `words` come before it, and may execute it as often as they like.
fn as_root_of_a_user_namespace(lab: &Lab, words: &[&str], verb: &[&str]) -> Output {
    let run = lab.command(verb);
    let (user, runtime): (Vec<_>, Vec<_>) = run.get_args().enumerate().partition(|(index, _)| *index < 5);
    let mut command = Command::new(run.get_program());
    command.args(user.into_iter().map(|(_, word)| word)).args(["unshare", "--user", "--map-root-user", "--mount"]);
    command.args(words).args(runtime.into_iter().map(|(_, word)| word)).env("XDG_RUNTIME_DIR", lab.path("run"));
    output(command)
}

fn run_as_root_of_a_user_namespace(lab: &Lab, bundle: &Bundle) -> Output {
    as_root_of_a_user_namespace(lab, &[], &["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id])
}

/// As rootless Podman does it: the container has no user namespace of its own.
#[test]
fn root_of_a_user_namespace_binds_the_devices_that_it_may_not_make() {
    let lab = user_lab!();
    let bundle = without_user_namespace(&lab, |config| {
        let device = json!({"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o666});
        config["linux"]["devices"] = json!([device]);
        let script = "stat -c %t,%T /dev/null /dev/full; head -c 1 /dev/zero | wc -c; ls -l /dev | grep -c ^c";
        config["process"]["args"] = json!(["sh", "-c", script]);
    });
    assert_eq!(run_as_root_of_a_user_namespace(&lab, &bundle).ok(), "1,3\n1,7\n1\n6");
}

/// In the host's pid namespace no procfs can be made: a parameter is written through /proc, where the container's own is read-only.
#[test]
fn root_of_a_user_namespace_sets_parameters_in_the_hosts_pid_namespace() {
    let lab = user_lab!();
    let bundle = without_user_namespace(&lab, |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        namespaces.push(json!({"type": "network"}));
        config["mounts"][0] = json!({
            "destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind", "nosuid", "noexec", "nodev"]
        });
        config["linux"]["sysctl"] = json!({"net.ipv4.ping_group_range": "0 0"});
        let script = "file=/proc/sys/net/ipv4/ping_group_range; cat $file; echo 1 0 >$file";
        config["process"]["args"] = json!(["sh", "-c", script]);
    });
    let output = run_as_root_of_a_user_namespace(&lab, &bundle);
    let said = &output.stderr;
    assert!(output.stdout == "0\t0" && said.contains("Read-only file system"), "{output:?}");
}

/// Who maps himself alone has to deny setgroups(2) first, for all namespaces below too (user_namespaces(7)).
#[test]
fn root_leaves_out_groups_that_cannot_be_set() {
    let lab = user_lab!();
    let told = "process.user.additionalGids: setgroups(2) is denied in the user namespace: left out";
    let with_groups = |config: &mut Value| config["process"]["user"]["additionalGids"] = json!([0]);
    let bundles = [
        without_user_namespace(&lab, with_groups),
        lab.bundle(|config| {
            with_groups(config);
            for field in ["uidMappings", "gidMappings"] {
                config["linux"][field] = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
            }
        }),
    ];
    for bundle in bundles {
        let path = bundle.path.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["args"] = json!(["sh", "-c", "cat /proc/self/setgroups; id -u"]);
        fs::write(&path, config.to_string()).unwrap();
        let output = run_as_root_of_a_user_namespace(&lab, &bundle);
        assert_eq!((output.code, output.stdout.as_str()), (0, "deny\n0"), "{output:?}");
        assert!(output.stderr.contains(told), "{output:?}");

        config["process"]["args"] = json!(["sleep", "1000"]);
        config["process"]["user"] = json!({"uid": 0, "gid": 0});
        fs::write(&path, config.to_string()).unwrap();
        let script = "id=$1 path=$2; shift 2
            \"$@\" run --detach --bundle $path $id >/dev/null 2>&1 </dev/null
            \"$@\" exec --additional-gids 0 $id id -u
            \"$@\" delete --force $id";
        let words = ["sh", "-c", script, "sh", &bundle.id, bundle.path.to_str().unwrap()];
        let output = as_root_of_a_user_namespace(&lab, &words, &[]);
        assert_eq!((output.code, output.stdout.as_str()), (0, "0"), "{output:?}");
        assert!(output.stderr.contains(told), "{output:?}");
    }
}

/// Whoever says that he has the rights of root still cannot load a device program there.
#[test]
fn root_of_a_user_namespace_does_without_a_device_program() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["true"]);
        // Without a path, it is one for eBPF on hybrid machines too.
        config["linux"]["cgroupsPath"] = json!("");
        config["linux"]["resources"] = json!({});
    });
    let run = lab.command(&[
        "--rootless=false",
        "run",
        "--no-new-keyring",
        "--bundle",
        bundle.path.to_str().unwrap(),
        &bundle.id,
    ]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]).arg(run.get_program()).args(run.get_args());
    output(command).ok();
}

/// The kernel lets nobody change the device rules of cgroup v1 from there, and who cannot make devices needs none.
#[test]
fn root_of_a_user_namespace_may_name_a_cgroup() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["linux"]["resources"]["pids"] = json!({"limit": 30});
        config["process"]["args"] = json!(["cat", "/proc/self/cgroup"]);
    });
    let run = lab.command(&["run", "--no-new-keyring", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]).arg(run.get_program()).args(run.get_args());
    let output = output(command);
    if output.stderr.contains("enable it in the cgroup.subtree_control") {
        skip!("needs the pids controller: {}", output.stderr);
    }
    assert!(output.stdout.contains(&bundle.id) && output.code == 0, "{output:?}");
    assert_eq!(lab.cgroups_of(&bundle), [] as [std::path::PathBuf; 0]);
}
