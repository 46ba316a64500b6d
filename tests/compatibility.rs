//! What users of runc count on, beyond the words of the specification.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod common;

use common::{output, push};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

fn state(lab: &common::Lab, id: &str) -> Value {
    serde_json::from_str(&lab.microrun(&["state", id]).ok()).unwrap()
}

/// Waits until the container's init has ended.
fn wait_for_end(lab: &common::Lab, id: &str) {
    common::eventually(|| state(lab, id)["status"] == "stopped");
}

#[test]
fn the_last_of_two_entries_for_a_variable_counts() {
    let lab = lab!();
    let env = |entries: &[&str]| {
        let bundle = lab.bundle(|config| {
            config["process"]["args"] = json!(["env"]);
            config["process"]["env"] = json!(entries);
        });
        fs::write(bundle.rootfs().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        let mut lines: Vec<String> = lab.run(&bundle, &[]).ok().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(env(&["A=1", "PATH=/bin", "A=2", "HOME=/x"]), ["A=2", "HOME=/x", "PATH=/bin"]);
    assert_eq!(env(&["A=1", "A=", "HOME=/x", "PATH=/bin", "HOME="]), ["A=", "HOME=/root", "PATH=/bin"]);
}

#[test]
fn a_working_directory_that_only_root_can_enter() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["pwd"]);
        config["process"]["cwd"] = json!("/root");
        config["process"]["user"]["uid"] = json!(42);
    });
    fs::set_permissions(bundle.rootfs().join("root"), PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(lab.run(&bundle, &[]).ok(), "/root");
}

#[test]
fn a_tmpfs_has_the_mode_of_what_it_covers() {
    let lab = lab!();
    let mode = |options: Value, covered: Option<u32>| {
        let bundle = lab.bundle(|config| {
            config["root"]["readonly"] = json!(false);
            config["process"]["args"] = json!(["stat", "-c", "%a", "/mnt/t"]);
            let mount = json!({"destination": "/mnt/t", "type": "tmpfs", "source": "tmpfs", "options": options});
            push(&mut config["mounts"], mount);
        });
        if let Some(mode) = covered {
            let directory = bundle.rootfs().join("mnt/t");
            fs::create_dir(&directory).unwrap();
            fs::set_permissions(&directory, PermissionsExt::from_mode(mode)).unwrap();
        }
        lab.run(&bundle, &[]).ok()
    };
    assert_eq!(mode(json!([]), Some(0o2710)), "2710");
    assert_eq!(mode(json!(["ro"]), Some(0o711)), "711");
    assert_eq!(mode(json!(["mode=0410"]), Some(0o710)), "410");
    assert_eq!(mode(json!([]), None), "1777", "the default of a tmpfs");
}

#[test]
fn a_bind_mount_leaves_the_options_of_file_systems_out() {
    let lab = lab!();
    let output = lab.shell("cat /mnt/file", |config| {
        let mount = json!({"destination": "/mnt", "source": "rootfs/mnt", "options": ["bind", "mode=755", "size=1k"]});
        push(&mut config["mounts"], mount);
    });
    assert!(output.stderr.contains("mounts[4].options"), "{output:#?}");
    output.ok();
}

#[test]
fn a_mount_label_without_selinux_is_a_warning() {
    let lab = lab!();
    if Path::new("/sys/fs/selinux/enforce").exists() {
        skip!("this machine runs SELinux");
    }
    let output = lab.shell("true", |config| config["linux"]["mountLabel"] = json!("system_u:object_r:t:s0"));
    assert!(output.stderr.contains("linux.mountLabel"), "{output:#?}");
    output.ok();
}

#[test]
fn an_ambient_capability_that_cannot_be_raised_is_a_warning() {
    let lab = lab!();
    let output = lab.shell("grep CapAmb /proc/self/status", |config| {
        let capabilities = &mut config["process"]["capabilities"];
        capabilities["inheritable"] = json!(["CAP_KILL"]);
        capabilities["ambient"] = json!(["CAP_KILL", "CAP_CHOWN"]);
    });
    assert!(output.stderr.contains("can't raise ambient capability CAP_CHOWN: "), "{output:#?}");
    assert_eq!(output.ok(), "CapAmb:\t0000000000000020");
    // As Buildah asks for it: whoever builds an image reads one line for each step, not eleven.
    let output = lab.shell("true", |config| {
        let capabilities = &mut config["process"]["capabilities"];
        capabilities["inheritable"] = json!([]);
        capabilities["ambient"] = capabilities["bounding"].clone();
    });
    assert_eq!(output.stderr.lines().count(), 1, "{output:#?}");
    output.ok();
}

#[test]
fn hooks_of_create_see_a_created_container() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        for hook in ["prestart", "createRuntime", "createContainer"] {
            let script = format!("cat > {}/$0", lab.path("").display());
            config["hooks"][hook] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script, hook]}]);
        }
        // Those of createContainer are the container's programs, with its files.
        config["hooks"]["createContainer"][0]["args"][2] = json!("grep -q '\"status\":\"created\"'");
    });
    lab.run(&bundle, &[]).ok();
    for hook in ["prestart", "createRuntime"] {
        let state: Value = serde_json::from_slice(&fs::read(lab.path(hook)).unwrap()).unwrap();
        assert_eq!(state["status"], "created", "{hook}");
    }
}

#[test]
fn every_propagation_of_the_root() {
    let lab = lab!();
    for (propagation, field) in [
        ("private", "- "),
        ("rslave", "- "),
        ("shared", "shared:"),
        ("unbindable", "unbindable "),
        ("runbindable", "unb"),
    ] {
        let line = lab
            .shell("grep ' / / ' /proc/self/mountinfo || grep -m1 ' / r' /proc/self/mountinfo", |config| {
                config["linux"]["rootfsPropagation"] = json!(propagation);
            })
            .ok();
        let optional = line.split(' ').skip(6).collect::<Vec<_>>().join(" ");
        assert!(
            optional.starts_with(field) || (field == "- " && optional.starts_with("master:")),
            "{propagation}: {line}"
        );
    }
}

#[test]
fn the_host_keeps_its_mounts() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["linux"]["rootfsPropagation"] = json!("shared"));
    for option in [&["--no-pivot"][..], &[]] {
        // In a namespace of its own, where all is shared as under systemd: it might lose its mounts. They are no peers of the
        // machine's own, on which others mount meanwhile.
        let mut command = Command::new("unshare");
        let script = "mount --make-rshared / && sort /proc/self/mountinfo; echo; \"$@\" && sort /proc/self/mountinfo";
        command.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(lab.path("microrun")).arg("--root").arg(lab.path("run"));
        command.args(["run", "--bundle", bundle.path.to_str().unwrap()]).args(option).arg(&bundle.id);
        let output = output(command).ok();
        let (before, after) = output.split_once("\n\n").unwrap();
        assert_eq!(before, after, "{option:?}");
    }
}

#[test]
fn device_rules_are_written_in_their_order() {
    let lab = lab!();
    let hierarchy = Path::new("/sys/fs/cgroup/devices");
    if !hierarchy.exists() {
        skip!("this machine has no v1 devices hierarchy, whose list could be read");
    }
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        let allow = |kind: &str, major: u32, minor: u32, access: &str| json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access});
        config["linux"]["resources"]["devices"] =
            json!([{"allow": false, "access": "rwm"}, allow("c", 10, 229, "rwm"), allow("b", 8, 20, "rw"), allow("b", 7, 3, "r")]);
    });
    lab.started(&bundle);
    let config: Value = serde_json::from_slice(&fs::read(bundle.path.join("config.json")).unwrap()).unwrap();
    let cgroup = config["linux"]["cgroupsPath"].as_str().unwrap().trim_start_matches('/');
    let list = fs::read_to_string(hierarchy.join(cgroup).join("devices.list")).unwrap();
    let first: Vec<&str> = list.lines().take(3).collect();
    assert_eq!(first, ["c 10:229 rwm", "b 8:20 rw", "b 7:3 r"]);
}

#[test]
fn a_container_without_a_process_can_be_created_but_not_started() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config.as_object_mut().unwrap().remove("process");
    });
    assert!(lab.run(&bundle, &[]).failed().contains("process: is missing"));
    lab.created(&bundle);
    assert_eq!(state(&lab, &bundle.id)["status"], "created");
    let error = lab.microrun(&["start", &bundle.id]).failed();
    assert!(error.contains("process: is missing"), "{error}");
    wait_for_end(&lab, &bundle.id);
    lab.microrun(&["delete", &bundle.id]).ok();
}

#[test]
fn mounts_without_a_mount_namespace_go_with_the_container() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        let linux = config["linux"].as_object_mut().unwrap();
        linux["namespaces"] = json!([{"type": "pid"}]);
        linux.retain(|field, _| !field.ends_with("Paths"));
        config["process"]["args"] =
            json!(["sh", "-c", "readlink /proc/self/ns/mnt; echo x 2>&- > /mnt/x || echo read-only"]);
    });
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let output = lab.run(&bundle, &[]).ok();
    assert_eq!(output, format!("{}\nread-only", own.display()));
    lab.created(&bundle);
    let ours = |text: &str| text.contains(lab.path("run").to_str().unwrap());
    assert!(ours(&fs::read_to_string("/proc/self/mountinfo").unwrap()));
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
    assert!(!ours(&fs::read_to_string("/proc/self/mountinfo").unwrap()), "before: {before}");
    assert!(bundle.rootfs().join("bin/busybox").exists(), "the root filesystem is left alone");
}

#[test]
fn without_pivot_root_the_hosts_procfs_is_out_of_sight() {
    let lab = lab!();
    let script = "unshare -mrpf mount -t proc none /proc";
    let attempt = |options: &[&str]| {
        let bundle = lab.bundle(|config| config["process"]["args"] = json!(["/bin/busybox", "sh", "-c", script]));
        std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/unshare")).unwrap();
        lab.run(&bundle, options).failed()
    };
    // The kernel lets a user namespace mount a procfs only where one can be seen in full (mount_too_revealing()).
    for options in [&[][..], &["--no-pivot"]] {
        let error = attempt(options);
        assert!(error.contains("denied") || error.contains("not permitted"), "{options:?}: {error}");
    }
}

#[test]
fn a_created_container_keeps_nothing_that_its_caller_had_open() {
    let lab = lab!();
    let bundle = lab.bundle(|_| {});
    let file = File::open("/proc/version").unwrap();
    inherit(&file);
    let pid = lab.created(&bundle);
    let mut others = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let target = fs::read_link(entry.path()).unwrap();
        let own = ["socket:", "anon_inode:[signalfd]"].iter().any(|kind| target.to_str().unwrap().starts_with(kind));
        if number > 2 && !own {
            others.push(target);
        }
    }
    assert!(others.is_empty(), "{others:?}");
}

/// Lets programs inherit `file`.
fn inherit(file: &File) {
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    assert!(file.as_raw_fd() > 2);
}

#[test]
fn a_terminals_line_ends_reach_a_pipe_as_they_were_written() {
    let lab = lab!();
    let output = lab.shell("echo a; echo b; tty >&2", |config| config["process"]["terminal"] = json!(true)).ok();
    assert_eq!(output, "a\nb\n/dev/pts/0");
}

#[test]
fn a_signal_ends_a_created_container() {
    let lab = lab!();
    let bundle = lab.bundle(|_| {});
    lab.created(&bundle);
    lab.microrun(&["kill", &bundle.id, "WINCH"]).ok();
    assert_eq!(state(&lab, &bundle.id)["status"], "created");
    lab.microrun(&["kill", &bundle.id, "TERM"]).ok();
    wait_for_end(&lab, &bundle.id);
    lab.microrun(&["delete", &bundle.id]).ok();
}

#[test]
fn a_path_that_is_masked_twice_has_one_mask() {
    let lab = lab!();
    let count = lab
        .shell("grep -c ' /proc/keys ' /proc/self/mountinfo", |config| {
            config["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/keys"]);
        })
        .ok();
    assert_eq!(count, "1");
}

#[test]
fn the_runtimes_own_cpu_affinity_is_not_inherited() {
    let lab = lab!();
    let bundle =
        lab.bundle(|config| config["process"]["args"] = json!(["grep", "Cpus_allowed_list", "/proc/self/status"]));
    let all = lab.run(&bundle, &[]).ok();
    if !all.contains(['-', ',']) {
        skip!("needs two CPUs");
    }
    let mut command = std::process::Command::new("taskset");
    let run = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    command.args(["-c", &common::cpus()[0].to_string()]).arg(run.get_program()).args(run.get_args());
    assert_eq!(common::output(command).ok(), all);
}

#[test]
fn a_program_that_the_kernel_refuses_tells_its_own_standard_error() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["/mnt/script"]));
    common::executable(&bundle.rootfs().join("mnt/script"), "#!/no/such/shell\n");
    let words = "exec /mnt/script: no such file or directory";
    assert_eq!(lab.run(&bundle, &[]).failed(), words);
    let log = lab.path("log");
    let args = ["--log", log.to_str().unwrap(), "run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id];
    assert_eq!(lab.microrun(&args).failed(), words);
    assert!(fs::read_to_string(log).unwrap().contains(words));
}

#[test]
fn the_debug_log_tells_the_flags_of_the_filter() {
    let lab = lab!();
    let flags = |flags: Value| {
        let bundle = lab.bundle(|config| {
            config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
            if !flags.is_null() {
                config["linux"]["seccomp"]["flags"] = flags;
            }
        });
        let output = lab.microrun(&["--debug", "run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        let said =
            output.stderr.lines().find_map(|line| line.split_once("seccomp filter flags: ")).map(|(_, flags)| flags);
        said.unwrap_or_else(|| panic!("{output:#?}")).trim_end_matches('"').to_owned()
    };
    assert_eq!(flags(Value::Null), "4", "SECCOMP_FILTER_FLAG_SPEC_ALLOW");
    assert_eq!(flags(json!([])), "0");
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"])), "2");
}

#[test]
fn a_hook_that_the_filter_kills_says_so() {
    let lab = lab!();
    let output = lab.shell("true", |config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL"}]
        });
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
        config["hooks"]["startContainer"] = json!([{"path": "/bin/mkdir", "args": ["mkdir", "/dev/shm"]}]);
    });
    assert!(output.failed().contains("error running startContainer hook #0: /bin/mkdir: signal: bad system call"));
}

#[test]
fn attributes_that_a_bind_mount_does_not_name_are_off_where_it_names_others() {
    let lab = lab!();
    let attributes = |options: &[&str]| {
        let bundle = lab.bundle(|config| {
            config["process"]["args"] =
                json!(["sh", "-c", "while read _ p _ o _; do [ $p = /tmp ] && echo $o; done < /proc/mounts; true"]);
            let source = ["nosuid", "nodev", "noexec", "noatime"];
            push(
                &mut config["mounts"],
                json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": source}),
            );
            push(&mut config["mounts"], json!({"destination": "/tmp", "source": "rootfs/mnt", "options": options}));
        });
        let said = lab.run(&bundle, &[]).ok();
        said.split(',').take_while(|option| !option.starts_with("mode")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(attributes(&["bind"])[..5], ["rw", "nosuid", "nodev", "noexec", "noatime"]);
    assert_eq!(attributes(&["bind", "rprivate"])[..5], ["rw", "nosuid", "nodev", "noexec", "noatime"]);
    assert_eq!(attributes(&["bind", "ro"])[..2], ["ro", "noatime"]);
    assert_eq!(attributes(&["bind", "dev"])[..2], ["rw", "noatime"]);
    assert_eq!(attributes(&["bind", "nodev", "nodiratime"])[..4], ["rw", "nodev", "nodiratime", "relatime"]);
}

/// `create` has returned only once init can be started: nobody may come too early, however long init takes.
#[test]
fn a_created_container_can_be_started_at_once() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["process"]["scheduler"] = json!({"policy": "SCHED_IDLE"}));
    for round in 0..60 {
        lab.create(&bundle, &[]).ok();
        let started = lab.microrun(&["start", &bundle.id]);
        assert_eq!(started.code, 0, "round {round}: {started:?}");
        lab.microrun(&["delete", "--force", &bundle.id]).ok();
    }
}

#[test]
fn a_descriptor_to_preserve_must_be_open() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let with_one_open = |args: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3</dev/null 4<&-; exec \"$@\"", "sh"]);
        command.arg(lab.path("microrun")).arg("--root").arg(lab.path("run")).args(args);
        output(command)
    };
    let problem = "--preserve-fds: 2 descriptors from 3 to 4 are to be handed on, and 4 is not open";
    let bundle_path = bundle.path.to_str().unwrap();
    let refused = with_one_open(&["run", "--preserve-fds", "2", "--bundle", bundle_path, &bundle.id]);
    assert!(refused.code == 1 && refused.stderr.contains(problem), "{refused:?}");
    // What the runtime opens itself does not count.
    let log = lab.path("log");
    let log = log.to_str().unwrap();
    let refused = with_one_open(&["--log", log, "run", "--preserve-fds", "2", "--bundle", bundle_path, &bundle.id]);
    assert!(refused.code == 1 && refused.stderr.contains(problem), "{refused:?}");
    assert_eq!(lab.status(&bundle.id), "");
    lab.started(&bundle);
    with_one_open(&["exec", "--preserve-fds", "1", &bundle.id, "true"]).ok();
    let refused = with_one_open(&["exec", "--preserve-fds", "2", &bundle.id, "true"]);
    assert!(refused.code == 255 && refused.stderr.contains(problem), "{refused:?}");
}

/// 1 is what the program itself may say.
#[test]
fn an_exec_that_cannot_begin_has_its_own_exit_code() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    lab.started(&bundle);
    let id = &bundle.id;
    for args in [
        ["exec", "--user", "root", id, "true"],
        ["exec", "--cgroup", "nosuch:/", id, "true"],
        ["exec", "--console-socket", "/no/such", id, "true"],
        ["exec", "--preserve-fds", "x", id, "true"],
    ] {
        let output = lab.microrun(&args);
        assert_eq!(output.code, 255, "{args:?}: {output:?}");
    }
}

/// runtime-spec config-linux.md, "Devices". The default ones may be replaced by a mount.
#[test]
fn a_device_is_not_mistaken_for_what_has_its_name() {
    let lab = lab!();
    let bundle = |number: u32, existing: &str| {
        let bundle = lab.bundle(|config| {
            config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev");
            config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/pts");
            config["linux"]["devices"] = json!([{"path": "/dev/own", "type": "c", "major": 1, "minor": number}]);
            config["process"]["args"] = json!(["stat", "-c", "%t:%T", "/dev/own"]);
        });
        fs::write(bundle.rootfs().join("dev/null"), "").unwrap();
        common::host("sh", &["-c", &format!("cd {}/dev; {existing}", bundle.rootfs().display())]);
        bundle
    };
    assert_eq!(lab.run(&bundle(5, "mknod own c 1 5"), &[]).ok(), "1:5");
    for existing in
        ["mknod own c 1 3", "mknod own b 1 5", "mkfifo own", "touch own", "ln -s /dev/zero own", "mkdir own"]
    {
        let said = lab.run(&bundle(5, existing), &[]).failed();
        assert!(
            said.contains("linux.devices: \\\"/dev/own\\\" exists already and is not that device"),
            "{existing}: {said}"
        );
    }
}

/// Who may write to the hierarchies of cgroup v1 makes cgroups there, below the container's own.
#[test]
fn a_writable_mount_of_cgroups_has_one_in_every_hierarchy() {
    let lab = lab!();
    let output = lab.shell("cat /proc/self/cgroup; ls /sys/fs/cgroup", |config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "rw"]}));
    });
    let output = output.ok();
    let v1 = |name: &str| std::path::Path::new("/sys/fs/cgroup").join(name).join("tasks").exists();
    let mounted: Vec<&str> =
        ["cpuset", "memory", "pids", "blkio", "freezer"].into_iter().filter(|name| v1(name)).collect();
    if mounted.is_empty() {
        skip!("needs cgroup v1");
    }
    for name in mounted {
        let line = output.lines().find(|line| line.contains(&format!(":{name}:"))).unwrap();
        assert!(line.contains("microrun-test-"), "{line}");
        assert!(output.lines().any(|line| line == name), "{name}: {output}");
    }
}

/// The terminal can be used all the same, as with runc.
#[test]
fn a_terminal_that_cannot_be_given_to_the_user_stays_whose_it_is() {
    let lab = lab!();
    let output = lab.shell("id -u; stat -L -c %u /proc/self/fd/1; tty", |config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["user"] = json!({"uid": 5, "gid": 5});
        let mounts = config["mounts"].as_array_mut().unwrap();
        let devpts = mounts.iter_mut().find(|mount| mount["type"] == "devpts").unwrap();
        push(&mut devpts["options"], json!("ro"));
    });
    let words: Vec<&str> = output.stdout.split_whitespace().collect();
    assert_eq!(words, ["5", "0", "/dev/pts/0"], "{output:?}");
}
