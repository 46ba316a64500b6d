//! On kernels that lack what microrun uses, it does without, or says in one sentence what is missing.
//!
//! A seccomp filter answers for the older kernel, or for the container engine around. It is loaded between fork and
//! exec, so the program under test is the built one. docs/kernel-features.md is the table that this proves.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab, Output, output, push};
use libc::sock_filter;
use microrun::sys::process;
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Stdio};

/// Offsets in struct seccomp_data (seccomp(2)); arguments are little-endian on all machines that run this.
const NUMBER: u32 = 0;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// A filter in the making: each rule is complete in itself, and what no rule answers is allowed.
#[derive(Default)]
struct Filter(Vec<sock_filter>);

impl Filter {
    fn instruction(&mut self, code: u32, yes: u8, no: u8, k: u32) {
        self.0.push(sock_filter { code: code as u16, jt: yes, jf: no, k });
    }

    fn load(&mut self, offset: u32) {
        self.instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    }

    fn answer(&mut self, errno: i32) {
        self.instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned());
    }

    /// Whoever makes the system call `number` gets `errno`.
    fn refuse(mut self, number: libc::c_long, errno: i32) -> Self {
        self.load(NUMBER);
        self.instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number as u32);
        self.answer(errno);
        self
    }

    /// The same, if one of `bits` is set in the argument `index`.
    fn refuse_bits(mut self, number: libc::c_long, index: u32, bits: u32, errno: i32) -> Self {
        self.load(NUMBER);
        self.instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 3, number as u32);
        self.load(argument(index));
        self.instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, bits);
        self.answer(errno);
        self
    }

    /// No system call from `number` up exists.
    fn end_at(mut self, number: u32) -> Self {
        self.load(NUMBER);
        self.instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, number);
        self.answer(libc::ENOSYS);
        self
    }

    fn program(mut self) -> Vec<sock_filter> {
        self.instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW);
        self.0
    }
}

fn missing(calls: &[libc::c_long]) -> Filter {
    calls.iter().fold(Filter::default(), |filter, call| filter.refuse(*call, libc::ENOSYS))
}

/// What a service with `RestrictAddressFamilies=AF_UNIX AF_NETLINK` gets.
fn few_address_families() -> Filter {
    let mut filter = Filter::default();
    filter.load(NUMBER);
    filter.instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 4, libc::SYS_socket as u32);
    filter.load(argument(0));
    filter.instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 2, 0, libc::AF_UNIX as u32);
    filter.instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, libc::AF_NETLINK as u32);
    filter.answer(libc::EAFNOSUPPORT);
    filter
}

/// What Linux 5.10 answers: it knows no call from epoll_pwait2 (5.11) up, and not CLOSE_RANGE_CLOEXEC.
fn linux_5_10() -> Filter {
    const EPOLL_PWAIT2: u32 = 441;
    Filter::default().end_at(EPOLL_PWAIT2).refuse_bits(
        libc::SYS_close_range,
        2,
        libc::CLOSE_RANGE_CLOEXEC,
        libc::EINVAL,
    )
}

/// Runs `command` under the filter, for a minute at most.
fn under(filter: Filter, command: &Command) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    let mut limited = Command::new("timeout");
    limited.args(["-k", "5", "60"]).arg(command.get_program()).args(command.get_args());
    // Files: what a created container inherits would keep our end of a pipe open.
    limited.stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
    let program = filter.program();
    process::before_exec(&mut limited, move || process::load_seccomp(&program, 0).map(drop));
    let code = limited.status().unwrap().code().unwrap_or(-1);
    let text = |path| fs::read_to_string(path).unwrap().trim().to_owned();
    Output { code, stdout: text(&out), stderr: text(&err) }
}

fn run(lab: &Lab, filter: Filter, bundle: &Bundle, options: &[&str]) -> Output {
    let mut args = vec!["run", "--bundle", bundle.path.to_str().unwrap()];
    args.extend(options);
    args.push(&bundle.id);
    under(filter, &lab.command(&args))
}

fn shell(lab: &Lab, filter: Filter, script: &str, change: impl FnOnce(&mut Value)) -> Output {
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        change(config);
    });
    run(lab, filter, &bundle, &[])
}

#[test]
fn what_can_be_replaced_is_replaced() {
    let lab = lab!();
    let replaced = [libc::SYS_clone3, libc::SYS_close_range, libc::SYS_faccessat2, libc::SYS_mount_setattr];
    // Nobody can do without these, but a start does.
    let unused = [libc::SYS_pidfd_open, libc::SYS_pidfd_getfd];
    let mut filters: Vec<(String, Filter)> =
        replaced.iter().chain(&unused).map(|call| (format!("call {call}"), missing(&[*call]))).collect();
    filters.push(("all".into(), missing(&[&replaced[..], &unused].concat())));
    filters.push(("Linux 5.10".into(), linux_5_10()));
    // Container engines of old answered so to what they did not know.
    let denied = [libc::SYS_clone3, libc::SYS_close_range, libc::SYS_faccessat2];
    filters.push(("EPERM".into(), denied.iter().fold(Filter::default(), |all, call| all.refuse(*call, libc::EPERM))));
    // CLONE_INTO_CGROUP and CLONE_CLEAR_SIGHAND are not known to Linux 5.3, nor as long a struct.
    filters.push(("E2BIG".into(), Filter::default().refuse(libc::SYS_clone3, libc::E2BIG)));
    // OPEN_TREE_NAMESPACE is not known before Linux 7.0.
    filters.push(("EINVAL".into(), Filter::default().refuse_bits(libc::SYS_open_tree, 2, 2, libc::EINVAL)));
    for (name, filter) in filters {
        let output = shell(&lab, filter, "echo Hello; id -u; cat /proc/sys/kernel/ostype", |_| {});
        assert_eq!((output.code, output.stdout.as_str()), (0, "Hello\n0\nLinux"), "{name}: {output:#?}");
    }
}

#[test]
fn what_cannot_be_replaced_is_named() {
    let lab = lab!();
    let needs = "function not implemented: this needs Linux 5.10 or later, and that no seccomp filter around \
                 microrun hides it";
    for (call, name, sentence) in [
        (libc::SYS_openat2, "openat2", "openat2([0], \"/proc\", IN_ROOT)"),
        (libc::SYS_fsopen, "fsopen", "fsopen(\"tmpfs\")"),
        (libc::SYS_fsconfig, "fsconfig", "fsopen(\"tmpfs\")"),
        (libc::SYS_fsmount, "fsmount", "fsopen(\"tmpfs\")"),
        (libc::SYS_open_tree, "open_tree", "open_tree(\"/dev/null\", CLONE)"),
        (libc::SYS_move_mount, "move_mount", "move_mount(["),
    ] {
        let bundle = lab.bundle(|_| {});
        let error = run(&lab, missing(&[call]), &bundle, &[]).failed();
        let error = error.replace('\\', "");
        assert!(error.contains(sentence) && error.contains(needs), "{name}: {error}");
        assert_eq!(error.lines().count(), 1, "{name}: {error}");
        assert!(lab.microrun(&["state", &bundle.id]).failed().contains("does not exist"));
    }
}

/// A machine may be set to make files in memory that cannot be executed unless that is asked for; the setting is a pid namespace's.
#[test]
fn the_copy_of_our_binary_in_memory_can_be_executed() {
    let setting = "/proc/sys/vm/memfd_noexec";
    if fs::read_to_string(setting).is_ok_and(|level| level.trim() == "2") || !fs::exists(setting).unwrap() {
        skip!("needs {setting}, and that it is not 2");
    }
    let lab = lab!();
    let create = lab.command(&["create", "--bundle", "/no/such/bundle", "x"]);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "sh", "-ec", "echo 1 >$1; shift; exec \"$@\"", "sh", setting]);
    command.arg(create.get_program()).args(create.get_args());
    // Without the right to mount it is what we go on from.
    let error = under(Filter::default().refuse(libc::SYS_open_tree, libc::EPERM), &command).failed();
    assert!(error.contains("/no/such/bundle"), "{error}");
}

/// The host's null device has an owner and a mode that a container's root could change. Without rights nobody can.
#[test]
fn a_null_device_that_cannot_be_made_is_not_replaced_by_the_hosts() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    lab.started(&bundle);
    lab.exec(&bundle, &[], &["rm", "/dev/null"]).ok();
    let exec = |errno: i32| {
        let filter = Filter::default().refuse(libc::SYS_fsopen, errno);
        under(filter, &lab.command(&["exec", &bundle.id, "echo", "Hello"]))
    };
    for errno in [libc::ENOMEM, libc::ENFILE] {
        let error = exec(errno).failed();
        assert!(error.contains("those that are /dev/null"), "{error}");
    }
    for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS] {
        assert_eq!(exec(errno).ok(), "Hello");
    }
}

#[test]
fn every_verb_does_without_what_linux_5_10_lacks() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let path = bundle.path.to_str().unwrap();
    let id = bundle.id.as_str();
    let verb = |args: &[&str]| under(linux_5_10(), &lab.command(args));
    verb(&["create", "--bundle", path, id]).ok();
    assert_eq!(lab.status(id), "created");
    verb(&["start", id]).ok();
    assert_eq!(verb(&["exec", id, "echo", "Hello"]).ok(), "Hello");
    verb(&["pause", id]).ok();
    verb(&["resume", id]).ok();
    verb(&["kill", id, "KILL"]).ok();
    common::eventually(|| lab.status(id) == "stopped");
    verb(&["delete", id]).ok();
}

#[test]
fn a_child_of_clone_is_in_its_cgroup_before_it_does_anything() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "cat /proc/self/cgroup; exec sleep 1000"]);
    });
    let config: Value = serde_json::from_slice(&fs::read(bundle.path.join("config.json")).unwrap()).unwrap();
    let path = config["linux"]["cgroupsPath"].as_str().unwrap();
    let places = |text: &str| text.lines().filter(|line| line.ends_with(path)).count();
    let pid = lab.started(&bundle);
    let expected = places(&fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap());
    assert!(expected > 0);
    let exec = ["exec", &bundle.id, "cat", "/proc/self/cgroup"];
    let joined = under(missing(&[libc::SYS_clone3]), &lab.command(&exec)).ok();
    assert_eq!(places(&joined), expected, "{joined}");
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
    let own = lab.bundle(|config| {
        config["process"]["args"] = json!(["cat", "/proc/self/cgroup"]);
        config["linux"]["cgroupsPath"] = json!(path);
    });
    let born = run(&lab, missing(&[libc::SYS_clone3]), &own, &[]).ok();
    assert_eq!(places(&born), expected, "{born}");
    // In a cgroup namespace, its cgroup is the root.
    let namespaced = shell(&lab, missing(&[libc::SYS_clone3]), "cat /proc/self/cgroup", |config| {
        push(&mut config["linux"]["namespaces"], json!({"type": "cgroup"}));
    });
    let namespaced = namespaced.ok();
    assert!(namespaced.lines().all(|line| !line.contains("microrun-test")), "{namespaced}");
    assert!(namespaced.lines().any(|line| line.starts_with("0::/") && line.len() == 4), "{namespaced}");
}

#[test]
fn the_loopback_device_is_up_where_sockets_of_the_internet_are_forbidden() {
    let lab = lab!();
    let output = shell(&lab, few_address_families(), "cat /sys/class/net/lo/flags", |_| {});
    assert_eq!(output.ok(), "0x9");
}

#[test]
fn no_descriptor_comes_along_without_close_range() {
    let lab = lab!();
    let missing = || missing(&[libc::SYS_close_range]);
    for (name, filter) in [("missing", &missing as &dyn Fn() -> Filter), ("without CLOEXEC", &linux_5_10)] {
        for (with_proc, create) in [(true, false), (false, false), (true, true)] {
            let bundle = lab.bundle(|config| {
                let script = "for fd in 3 9 60 200; do (true <&$fd) 2>/dev/null && echo $fd; done; echo end";
                config["process"]["args"] = json!(["sh", "-c", script]);
                if !with_proc {
                    config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/proc");
                    config["linux"].as_object_mut().unwrap().retain(|key, _| !key.ends_with("Paths"));
                }
            });
            let path = bundle.path.to_str().unwrap();
            let verb = if create { "create" } else { "run" };
            let inner = lab.command(&[verb, "--bundle", path, &bundle.id]);
            let mut outer = Command::new("busybox");
            outer.args(["sh", "-c", "exec 9</dev/null 60</dev/null 200</dev/null; exec \"$@\"", "sh"]);
            outer.arg(inner.get_program()).args(inner.get_args());
            if !create {
                assert_eq!(under(filter(), &outer).ok(), "end", "{name}, /proc: {with_proc}");
                continue;
            }
            outer.arg("--pid-file").arg(bundle.path.join("pid"));
            under(filter(), &outer).ok();
            let pid = fs::read_to_string(bundle.path.join("pid")).unwrap();
            let open: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            assert!(["9", "60", "200"].iter().all(|fd| !open.iter().any(|open| open == fd)), "{name}: {open:?}");
            lab.microrun(&["start", &bundle.id]).ok();
        }
    }
}

#[test]
fn mounts_have_their_attributes_without_mount_setattr() {
    let lab = lab!();
    let old = || missing(&[libc::SYS_mount_setattr]);
    let file = lab.path("file");
    fs::write(&file, "text").unwrap();
    let bind = |destination: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": "bind", "source": source, "options": options});
    let directory = lab.path("directory");
    fs::create_dir(&directory).unwrap();
    let change = |config: &mut Value| {
        push(&mut config["mounts"], bind("/tmp", directory.to_str().unwrap(), &["rbind", "ro", "nosuid", "noexec"]));
        push(&mut config["mounts"], bind("/mnt/file", file.to_str().unwrap(), &["bind", "ro", "nodev"]));
        push(&mut config["mounts"], bind("/root", directory.to_str().unwrap(), &["bind", "noatime", "private"]));
        let cgroups = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "noatime"]});
        push(&mut config["mounts"], cgroups);
        config["mounts"][1]["options"].as_array_mut().unwrap().push(json!("ro"));
        config["linux"]["rootfsPropagation"] = json!("rprivate");
    };
    // All but the numbers, which differ from one start to the next.
    let seen = |text: &str| -> Vec<String> {
        let line = |line: &str| {
            let fields: Vec<&str> = line.split(' ').collect();
            format!("{} {} {}", fields[4], fields[5], fields[6..].join(" ").split_once(" - ").map_or("", |(a, _)| a))
        };
        text.lines().map(line).collect()
    };
    let expected = lab.shell("cat /proc/self/mountinfo", change).ok();
    let output = shell(&lab, old(), "cat /proc/self/mountinfo", change).ok();
    assert_eq!(seen(&output), seen(&expected));
    assert!(output.lines().any(|line| line.contains(" /proc/sys ro,")), "{output}");
    // In a user namespace mounts are the runtime's until they are attached.
    for option in ["ro", "rw"] {
        let output = shell(&lab, old(), "grep ' /tmp ' /proc/self/mountinfo | cut -d' ' -f6", |config| {
            push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
            for field in ["uidMappings", "gidMappings"] {
                config["linux"][field] = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            }
            push(&mut config["mounts"], bind("/tmp", directory.to_str().unwrap(), &["bind", option, "nosuid"]));
        });
        let output = output.ok();
        assert!(output.starts_with(option) && output.contains("nosuid"), "{output}");
    }
    let shared = shell(&lab, old(), "cat /proc/self/mountinfo", |config| {
        config["linux"]["rootfsPropagation"] = json!("shared");
    });
    let shared = shared.ok();
    assert!(shared.lines().any(|line| line.contains(" / / ") || line.contains("/rootfs / ")), "{shared}");
    assert!(shared.lines().all(|line| !line.contains("/rootfs / ") || line.contains(" shared:")), "{shared}");
    // What one call cannot do is not done by halves.
    for (options, asked) in [(["rbind", "rro"], "AT_RECURSIVE"), (["rbind", "idmap"], "IDMAP")] {
        let error = shell(&lab, old(), "true", |config| {
            let mut mount = bind("/tmp", directory.to_str().unwrap(), &options);
            if asked == "IDMAP" {
                for field in ["uidMappings", "gidMappings"] {
                    mount[field] = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
                }
            }
            push(&mut config["mounts"], mount);
        });
        let error = error.failed();
        assert!(error.contains("mounts[4]: mount_setattr(") && error.contains(asked), "{error}");
        assert!(error.contains("function not implemented: this needs Linux 5.12 or later, and"), "{error}");
    }
}

/// What all masked files get is made early, and attached where the first of them is, if there is one.
#[test]
fn without_mount_setattr_masks_leave_binds_their_attributes() {
    let lab = lab!();
    let directory = lab.path("directory");
    fs::create_dir(&directory).unwrap();
    let mut masked = vec![json!([]), json!(["/nowhere"]), json!(["/proc/acpi", "/sys/firmware"])];
    let mut mount = Command::new("unshare");
    mount.args(["--mount", "mount", "--bind", "/dev/null", "/proc/net/dev"]);
    if output(mount).code == 0 {
        masked.extend([json!(["/proc/net/dev"]), json!(["/proc/kcore", "/proc/net/dev", "/proc/version"])]);
    } else {
        println!("without /proc/net/dev: nothing can be mounted there on this kernel");
    }
    for masked in &masked {
        let change = |config: &mut Value| {
            let mount = json!({"destination": "/mnt", "type": "bind", "source": directory, "options": ["bind", "ro"]});
            push(&mut config["mounts"], mount);
            config["linux"]["maskedPaths"] = masked.clone();
            config["linux"]["readonlyPaths"] = json!(["/proc/bus", "/proc/sys/net"]);
        };
        let script = "cut -d' ' -f5,6 /proc/self/mountinfo";
        let expected = lab.shell(script, change).ok();
        for wanted in ["/mnt ro,", "/proc/sys/net ro,"] {
            assert!(expected.lines().any(|line| line.starts_with(wanted)), "{wanted} {masked}: {expected}");
        }
        assert_eq!(shell(&lab, missing(&[libc::SYS_mount_setattr]), script, change).ok(), expected, "{masked}");
    }
}

/// What the runtime's user namespace locks is known when a mount is attached.
#[test]
fn without_mount_setattr_a_bind_keeps_what_is_locked() {
    let lab = match Lab::for_user() {
        Ok(lab) => lab,
        Err(why) => skip!("{why}"),
    };
    let source = lab.path("source");
    fs::create_dir(&source).unwrap();
    for (options, expected) in [(["bind", "nodev"], true), (["bind", "suid"], false)] {
        let bundle = lab.bundle(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "user");
            for field in ["uidMappings", "gidMappings"] {
                config["linux"].as_object_mut().unwrap().remove(field);
            }
            let mount = json!({"destination": "/mnt", "type": "bind", "source": source, "options": options});
            push(&mut config["mounts"], mount);
            config["process"]["args"] = json!(["sh", "-c", "grep ' /mnt ' /proc/self/mountinfo | cut -d' ' -f6"]);
        });
        let run = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        let script = format!(
            "mount -t tmpfs -o nosuid none {}; export XDG_RUNTIME_DIR={}; \
             user=\"$1 $2 $3 $4 $5\"; shift 5; exec \"$0\" $user unshare --user --map-root-user --mount \"$@\"",
            source.display(),
            lab.path("run").display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", &script]);
        command.arg(run.get_program()).args(run.get_args());
        let output = under(missing(&[libc::SYS_mount_setattr]), &command);
        let flags: Vec<&str> = output.stdout.trim().split(',').collect();
        let kept = output.code == 0 && flags.contains(&"nosuid") && flags.contains(&"nodev");
        let refused = output.code != 0 && output.stderr.contains("mounts[4]: ");
        assert!(if expected { kept } else { refused }, "{options:?}: {output:?}");
    }
}

/// Docker's own profile, for a container with CAP_SYS_ADMIN (moby, profiles/seccomp/default_linux.go). Since Linux 7.0 nothing is pivoted.
#[test]
fn under_dockers_filter_with_sys_admin_two_options_are_needed() {
    let lab = lab!();
    let docker = || {
        [libc::SYS_pivot_root, libc::SYS_keyctl, libc::SYS_pidfd_getfd]
            .iter()
            .fold(Filter::default(), |all, call| all.refuse(*call, libc::EPERM))
    };
    let hello = || lab.bundle(|config| config["process"]["args"] = json!(["echo", "Hello"]));
    let error = run(&lab, docker(), &hello(), &[]).failed();
    assert!(error.contains("keyctl") && error.contains("--no-new-keyring"), "{error}");
    let output = run(&lab, docker(), &hello(), &["--no-new-keyring"]);
    if common::kernel() < (7, 0) {
        let error = output.failed();
        assert!(error.contains("pivot_root") && error.contains("--no-pivot"), "{error}");
    } else {
        assert_eq!(output.ok(), "Hello");
    }
    assert_eq!(run(&lab, docker(), &hello(), &["--no-pivot", "--no-new-keyring"]).ok(), "Hello");
}

/// The same without CAP_SYS_ADMIN: no namespace can be made at all.
#[test]
fn under_dockers_filter_the_first_thing_denied_is_named() {
    let lab = lab!();
    let namespaces = (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUSER).cast_unsigned();
    let filter = [libc::SYS_unshare, libc::SYS_mount, libc::SYS_setns, libc::SYS_fsopen, libc::SYS_open_tree]
        .iter()
        .fold(missing(&[libc::SYS_clone3]), |all, call| all.refuse(*call, libc::EPERM))
        .refuse_bits(libc::SYS_clone, 0, namespaces, libc::EPERM);
    let bundle = lab.bundle(|_| {});
    let error = run(&lab, filter, &bundle, &[]).failed();
    assert!(error.contains("linux.namespaces: clone3("), "{error}");
    assert!(error.contains("operation not permitted"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}
