//! Namespaces: new ones, joined ones, and what a user namespace changes.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Lab, eventually_is, host, output, push};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// All kinds, as config.json and as /proc/PID/ns call them.
const KINDS: [(&str, &str); 8] = [
    ("user", "user"),
    ("mount", "mnt"),
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

const MAPPED: u32 = 100_000;

/// Gives the container a user namespace in which root is user 100000 of the host.
fn with_user_namespace(config: &mut Value) {
    let linux = &mut config["linux"];
    push(&mut linux["namespaces"], json!({"type": "user"}));
    for field in ["uidMappings", "gidMappings"] {
        linux[field] = json!([{"containerID": 0, "hostID": MAPPED, "size": 65536}]);
    }
}

fn namespaces_of(pid: &str) -> Vec<String> {
    let link = |(_, name): &(&str, &str)| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    KINDS.iter().map(|kind| link(kind).to_str().unwrap().to_owned()).collect()
}

/// A shell script that prints what [`namespaces_of`] returns.
fn script() -> String {
    let paths: Vec<String> = KINDS.iter().map(|(_, name)| format!("/proc/self/ns/{name}")).collect();
    format!("for n in {}; do readlink $n; done", paths.join(" "))
}

#[test]
fn every_kind_can_be_new() {
    let lab = lab!();
    let own = namespaces_of("self");
    let inside = lab
        .shell(&script(), |config| {
            with_user_namespace(config);
            for kind in ["cgroup", "time"] {
                push(&mut config["linux"]["namespaces"], json!({"type": kind}));
            }
        })
        .ok();
    for (index, inside) in inside.lines().enumerate() {
        assert_ne!(inside, own[index], "{:?}", KINDS[index]);
    }
    assert_eq!(inside.lines().count(), KINDS.len());
}

#[test]
fn what_is_not_listed_is_the_runtimes_own() {
    let lab = lab!();
    let own = namespaces_of("self");
    let inside = lab.shell(&script(), |config| config["linux"]["namespaces"] = json!([{"type": "mount"}])).ok();
    for (index, inside) in inside.lines().enumerate() {
        assert_eq!(inside == own[index], KINDS[index].0 != "mount", "{:?}", KINDS[index]);
    }
}

/// A container that sleeps in new namespaces of every kind; its pid.
fn sleeper(lab: &Lab) -> i32 {
    let bundle = lab.bundle(|config| {
        with_user_namespace(config);
        for kind in ["cgroup", "time"] {
            push(&mut config["linux"]["namespaces"], json!({"type": kind}));
        }
        config["process"]["args"] = json!(["sleep", "1000"]);
    });
    lab.started(&bundle)
}

#[test]
fn each_kind_can_be_joined() {
    let lab = lab!();
    let pid = sleeper(&lab).to_string();
    let theirs = namespaces_of(&pid);
    // A namespace without a filesystem of ours in it has no rootfs: the mount namespace has a test of its own.
    for (index, (kind, name)) in KINDS.iter().enumerate().filter(|(_, (kind, _))| *kind != "mount") {
        let inside = lab.shell(&script(), |config| {
            let list = config["linux"]["namespaces"].as_array_mut().unwrap();
            list.retain(|namespace| namespace["type"] != *kind);
            // The rights over these are those over the user namespace that they belong to.
            for (needed, name) in [("user", "user"), (*kind, *name)].iter().skip(usize::from(*kind == "user")) {
                list.push(json!({"type": needed, "path": format!("/proc/{pid}/ns/{name}")}));
            }
        });
        assert_eq!(inside.ok().lines().nth(index), Some(theirs[index].as_str()), "{kind}");
    }
}

#[test]
fn all_kinds_can_be_joined_at_once() {
    let lab = lab!();
    let pid = sleeper(&lab).to_string();
    let theirs = namespaces_of(&pid);
    let inside = lab.shell(&script(), |config| {
        let joined = KINDS.iter().filter(|(kind, _)| *kind != "mount");
        let mut list: Vec<Value> =
            joined.map(|(kind, name)| json!({"type": kind, "path": format!("/proc/{pid}/ns/{name}")})).collect();
        list.push(json!({"type": "mount"}));
        config["linux"]["namespaces"] = json!(list);
    });
    for (index, inside) in inside.ok().lines().enumerate() {
        assert_eq!(inside == theirs[index], KINDS[index].0 != "mount", "{:?}", KINDS[index]);
    }
}

#[test]
fn a_joined_mount_namespace_is_where_the_rootfs_is_looked_up() {
    let lab = lab!();
    let mut holder = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sleep", "1000"])
        .spawn()
        .unwrap();
    let path = format!("/proc/{}/ns/mnt", holder.id());
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    while fs::read_link(&path).unwrap() == own {
        std::thread::yield_now();
    }
    let theirs = fs::read_link(&path).unwrap();
    let output = lab.shell("readlink /proc/self/ns/mnt", |config| {
        let list = config["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|namespace| namespace["type"] != "mount");
        list.push(json!({"type": "mount", "path": path}));
    });
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(output.ok(), theirs.to_str().unwrap());
}

#[test]
fn a_joined_pid_namespace_shows_its_processes() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let pid = lab.started(&bundle);
    let seen = lab
        .shell("cat /proc/1/cmdline | tr '\\0' ' '; echo $$", |config| {
            for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
                if namespace["type"] == "pid" {
                    namespace["path"] = json!(format!("/proc/{pid}/ns/pid"));
                }
            }
        })
        .ok();
    assert!(seen.starts_with("sleep 1000"), "{seen}");
    assert_ne!(seen.lines().last(), Some("1"));
}

#[test]
fn a_path_of_another_kind_is_refused() {
    let lab = lab!();
    let error = lab
        .shell("true", |config| {
            config["linux"]["namespaces"][0] = json!({"type": "pid", "path": "/proc/self/ns/net"});
        })
        .failed();
    assert!(error.contains("linux.namespaces[0].path"), "{error}");
    let error = lab
        .shell("true", |config| {
            config["linux"]["namespaces"][0] = json!({"type": "pid", "path": "/no/such"});
        })
        .failed();
    assert!(error.contains("linux.namespaces[0].path") && error.contains("/no/such"), "{error}");
}

#[test]
fn a_stage_that_fails_names_the_namespace() {
    let lab = lab!();
    // Nobody may enter the user namespace that he is in.
    let error = lab
        .shell("true", |config| {
            push(&mut config["linux"]["namespaces"], json!({"type": "user", "path": "/proc/self/ns/user"}));
        })
        .failed();
    assert!(error.contains("linux.namespaces[5]") && error.contains("setns"), "{error}");
}

#[test]
fn a_user_namespace_maps_ids() {
    let lab = lab!();
    let output = lab
        .shell("id; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; ls -ln /tmp/f", |config| {
            with_user_namespace(config);
            config["process"]["user"] = json!({"uid": 5, "gid": 6, "additionalGids": [7, 8]});
            push(
                &mut config["mounts"],
                json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}),
            );
            let args = config["process"]["args"][2].as_str().unwrap();
            config["process"]["args"][2] = json!(format!("touch /tmp/f; {args}"));
        })
        .ok();
    let lines: Vec<String> = output.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines[0], "uid=5 gid=6 groups=7,8");
    assert_eq!(lines[1..4], ["0 100000 65536", "0 100000 65536", "allow"]);
    assert!(lines[4].contains(" 5 6 "), "{output}");
}

/// The kernel gives it to who makes the IPC namespace (ipc/mqueue.c).
#[test]
fn the_message_queues_of_a_user_namespace_are_its_roots() {
    let lab = lab!();
    let script = "stat -c '%u %g %a' /dev/mqueue; chmod 1770 /dev/mqueue && stat -c %a /dev/mqueue";
    let output = lab.shell(script, |config| {
        with_user_namespace(config);
        push(
            &mut config["mounts"],
            json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
        );
        config["process"]["capabilities"] = json!({"effective": ["CAP_FOWNER"], "permitted": ["CAP_FOWNER"], "bounding": ["CAP_FOWNER"]});
    });
    assert_eq!(output.ok(), "0 0 1777\n1770");
}

/// crun's annotation, which is all that `podman --group-add keep-groups` comes down to.
#[test]
fn the_groups_of_the_caller_are_kept_if_that_is_asked_for() {
    let lab = lab!();
    let groups = "grep ^Groups: /proc/self/status | tr -s '\\t ' ' '";
    let by_member = |args: &[&str]| {
        let verb = lab.command(args);
        // By its path: a shell of busybox would prefer its own, which knows fewer options.
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--groups", "70007,100008", "--"]).arg(verb.get_program()).args(verb.get_args());
        command
    };
    // Without a user namespace, and with one that maps one of them.
    for (is_mapped, value, expected) in
        [(false, "1", "70007 100008"), (true, "1", "65534 8"), (false, "0", "9"), (true, "0", "9")]
    {
        let bundle = lab.bundle(|config| {
            if is_mapped {
                with_user_namespace(config);
            }
            config["annotations"] = json!({"run.oci.keep_original_groups": value});
            config["process"]["user"] = json!({"uid": 5, "gid": 6, "additionalGids": [9]});
            config["process"]["args"] = json!(["sh", "-c", format!("{groups}; exec sleep 1000")]);
        });
        let path = bundle.path.to_str().unwrap();
        let log = lab.path(format!("{}.out", bundle.id));
        let mut command = by_member(&["run", "--detach", "--bundle", path, &bundle.id]);
        let file = fs::File::create(&log).unwrap();
        assert!(command.stdin(Stdio::null()).stdout(file).stderr(Stdio::null()).status().unwrap().success());
        let expected = format!("Groups: {expected}");
        eventually_is(|| fs::read_to_string(&log).unwrap().trim().to_owned(), &expected);
        assert_eq!(output(by_member(&["exec", &bundle.id, "sh", "-c", groups])).ok().trim(), expected);
        lab.microrun(&["delete", "--force", &bundle.id]).ok();
    }
}

#[test]
fn devices_are_bound_where_they_cannot_be_made() {
    let lab = lab!();
    let output = lab
        .shell(
            "for d in null zero full random urandom tty fuse pipe; do stat -c '%n %F %t:%T %a' /dev/$d; done; \
             echo x > /dev/null; head -c 2 /dev/zero | od -An -tx1; readlink /dev/ptmx",
            |config| {
                with_user_namespace(config);
                config["linux"]["devices"] =
                    json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438},
                        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600}]);
                push(
                    &mut config["linux"]["resources"]["devices"],
                    json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}),
                );
            },
        )
        .ok();
    assert!(output.contains("/dev/null character special file 1:3 666"), "{output}");
    assert!(output.contains("/dev/fuse character special file a:e5 "), "{output}");
    assert!(output.contains("/dev/pipe fifo 0:0 600"), "{output}");
    assert!(output.ends_with("00 00\npts/ptmx"), "{output}");
}

#[test]
fn another_device_of_that_name_is_not_bound() {
    let lab = lab!();
    let refused = lab.shell("true", |config| {
        with_user_namespace(config);
        config["linux"]["devices"] = json!([{"path": "/dev/full", "type": "c", "major": 1, "minor": 5}]);
    });
    let problem = "linux.devices: the host's \\\"/dev/full\\\", which is bound in its place, is another device";
    assert!(refused.code != 0 && refused.stderr.contains(problem), "{refused:?}");
}

#[test]
fn sources_that_only_the_host_can_reach_are_bound() {
    let lab = lab!();
    let secret = lab.path("secret");
    fs::create_dir_all(secret.join("dir")).unwrap();
    fs::write(secret.join("dir/file"), "seen").unwrap();
    host("chmod", &["700", secret.to_str().unwrap()]);
    for (source, destination) in [("dir", "/mnt"), ("dir/file", "/mnt/file")] {
        let output = lab.shell("cat /mnt/file", |config| {
            with_user_namespace(config);
            push(
                &mut config["mounts"],
                json!({"destination": destination, "source": secret.join(source), "options": ["bind", "ro"]}),
            );
        });
        assert_eq!(output.ok(), "seen", "{source}");
    }
}

#[test]
fn time_offsets_apply_to_both_clocks() {
    let lab = lab!();
    for user_namespace in [false, true] {
        let output = lab
            .shell("cat /proc/self/timens_offsets; cat /proc/uptime", |config| {
                if user_namespace {
                    with_user_namespace(config);
                }
                push(&mut config["linux"]["namespaces"], json!({"type": "time"}));
                config["linux"]["timeOffsets"] =
                    json!({"monotonic": {"secs": 7881, "nanosecs": 2718281}, "boottime": {"secs": 1_000_000_000}});
            })
            .ok();
        let fields: Vec<&str> = output.split_whitespace().collect();
        assert_eq!(fields[..6], ["monotonic", "7881", "2718281", "boottime", "1000000000", "0"], "{output}");
        assert!(fields[6].parse::<f64>().unwrap() > 1e9, "{output}");
    }
}

#[test]
fn a_cgroup_namespace_begins_at_the_containers_cgroup() {
    let lab = lab!();
    for (listed, root) in [(true, true), (false, false)] {
        let output = lab
            .shell("grep ^0:: /proc/self/cgroup", |config| {
                if listed {
                    push(&mut config["linux"]["namespaces"], json!({"type": "cgroup"}));
                }
            })
            .ok();
        assert_eq!(output == "0::/", root, "{output}");
    }
}

#[test]
fn an_id_that_is_not_mapped_is_refused_by_name() {
    let lab = lab!();
    for (user, field) in [
        (json!({"uid": 70000, "gid": 0}), "process.user.uid"),
        (json!({"uid": 0, "gid": 70000}), "process.user.gid"),
        (json!({"uid": 0, "gid": 0, "additionalGids": [1, 70000]}), "process.user.additionalGids"),
    ] {
        let error = lab
            .shell("true", |config| {
                with_user_namespace(config);
                config["process"]["user"] = user;
            })
            .failed();
        assert!(error.contains(field), "{error}");
    }
}

/// How often the container's init is in each cgroup that is shown at the top of a hierarchy.
const INIT_IN_CGROUPS: &str = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do [ -f $d/cgroup.procs ] && [ ! -L $d ] && \
                               grep -c -x 1 $d/cgroup.procs; done; true";

fn with_cgroup_mount(config: &mut Value) {
    let options = json!(["nosuid", "noexec", "nodev", "ro"]);
    push(&mut config["mounts"], json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": options}));
}

#[test]
fn a_cgroup_mount_shows_the_containers_cgroups_and_no_others() {
    let lab = lab!();
    let shows_all = Path::new("/sys/fs/cgroup/cgroup.procs").exists();
    for (namespace, path) in [(false, true), (true, true), (false, false)] {
        if shows_all && !namespace {
            continue;
        }
        let output = lab
            .shell(INIT_IN_CGROUPS, |config| {
                if namespace {
                    push(&mut config["linux"]["namespaces"], json!({"type": "cgroup"}));
                }
                if !path {
                    config["linux"]["cgroupsPath"] = Value::Null;
                }
                with_cgroup_mount(config);
            })
            .ok();
        assert!(!output.is_empty() && output.lines().all(|count| count == "1"), "{output}");
    }
}

/// Without a cgroup namespace /proc/self/cgroup is to be found below the mount of v2; the host's mount stays as it is.
#[test]
fn without_a_cgroup_namespace_all_of_v2_is_shown_to_roots_container() {
    let lab = lab!();
    let of_host = || {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        mounts.lines().filter(|line| line.starts_with("cgroup2 ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = of_host();
    if before.is_empty() {
        skip!("this machine has no cgroup v2");
    }
    let script = "grep -c -x 1 /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/cgroup.procs; \
                  mkdir /sys/fs/cgroup/x; grep ' /sys/fs/cgroup ' /proc/self/mountinfo | cut -d' ' -f4,6";
    let change = |config: &mut Value| {
        let options = json!(["nosuid", "noexec", "nodev", "ro"]);
        push(&mut config["mounts"], json!({"destination": "/sys/fs/cgroup", "type": "cgroup2", "options": options}));
    };
    let output = lab.shell(script, change);
    assert!(output.stdout.starts_with("1\n/ ro,nosuid,nodev,noexec"), "{output:?}");
    assert!(output.stderr.contains("Read-only"), "{output:?}");
    assert_eq!(of_host(), before);
    // To a user namespace it is its own.
    let output = lab.shell("grep -c -x 1 /sys/fs/cgroup/cgroup.procs", |config| {
        with_user_namespace(config);
        change(config);
    });
    assert_eq!(output.ok(), "1");
}

/// What such a cgroup namespace shows may not be mounted: in its place come the container's own cgroups, as in runc on v2.
#[test]
fn a_cgroup_mount_beside_a_cgroup_namespace_of_another_user_namespace_shows_the_containers_cgroups() {
    let lab = lab!();
    let (users, others) = (sleeper(&lab), sleeper(&lab));
    for joined_user_namespace in [false, true] {
        let output = lab
            .shell(INIT_IN_CGROUPS, |config| {
                if joined_user_namespace {
                    let path = format!("/proc/{users}/ns/user");
                    push(&mut config["linux"]["namespaces"], json!({"type": "user", "path": path}));
                } else {
                    with_user_namespace(config);
                }
                let path = format!("/proc/{others}/ns/cgroup");
                push(&mut config["linux"]["namespaces"], json!({"type": "cgroup", "path": path}));
                with_cgroup_mount(config);
            })
            .ok();
        assert!(!output.is_empty() && output.lines().all(|count| count == "1"), "{output}");
    }
    // One that belongs to it is shown.
    let output = lab
        .shell("grep -c ' - cgroup' /proc/self/mountinfo; true", |config| {
            for kind in ["user", "cgroup"] {
                let path = format!("/proc/{others}/ns/{kind}");
                push(&mut config["linux"]["namespaces"], json!({"type": kind, "path": path}));
            }
            with_cgroup_mount(config);
        })
        .ok();
    assert_ne!(output.trim(), "0");
}

/// The kernel settles whose they are when the network namespace is made: nobody's, before there is a root to be found in the user namespace.
#[test]
fn files_of_the_network_belong_to_the_containers_root() {
    let lab = lab!();
    let script =
        "stat -c %u /proc/net/dev /sys/class/net/lo/mtu; echo 1400 >/sys/class/net/lo/mtu; cat /sys/class/net/lo/mtu";
    let output = lab.shell(script, |config| {
        with_user_namespace(config);
        let mounts = config["mounts"].as_array_mut().unwrap();
        for mount in mounts.iter_mut().filter(|mount| mount["type"] == "sysfs") {
            mount["options"] = json!([]);
        }
        for set in ["bounding", "effective", "permitted"] {
            push(&mut config["process"]["capabilities"][set], json!("CAP_NET_ADMIN"));
        }
    });
    assert_eq!(output.ok().split_whitespace().collect::<Vec<_>>(), ["0", "0", "1400"]);
}
