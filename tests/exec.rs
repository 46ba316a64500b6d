//! `exec`, as its users see it.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Guard, Lab, Tmpfs, eventually, output, push, receive};
use serde_json::json;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

fn shell(lab: &Lab, bundle: &Bundle, script: &str) -> String {
    lab.exec(bundle, &[], &["sh", "-c", script]).ok()
}

#[test]
fn the_exit_code_is_the_programs() {
    let lab = lab!();
    let bundle = lab.sleeper(|_| {});
    assert_eq!(lab.exec(&bundle, &[], &["echo", "hello", "-n"]).ok(), "hello -n");
    assert_eq!(lab.exec(&bundle, &[], &["sh", "-c", "exit 42"]).code, 42);
    assert_eq!(lab.exec(&bundle, &[], &["sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(lab.exec(&bundle, &[], &["--", "echo", "--", "x"]).ok(), "-- x");
}

#[test]
fn a_program_that_cannot_be_executed() {
    let lab = lab!();
    let bundle = lab.sleeper(|_| {});
    common::executable(&bundle.rootfs().join("script"), "#!/no/such/interpreter\n");
    for (program, words) in [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory"),
        ("/etc", "exec: \"/etc\": is a directory: permission denied"),
        ("/mnt/file", "exec: \"/mnt/file\": permission denied"),
        ("/script", "exec /script: no such file or directory"),
    ] {
        for options in [&[][..], &["--detach"]] {
            let output = lab.exec(&bundle, options, &[program]);
            assert_eq!(output.code, 255, "{program} {options:?}");
            let said = output.stderr.replace('\\', "");
            assert!(said.contains(words), "{said}");
            // What the kernel refuses is told by the process itself, to the standard error that it shares with us.
            let by_process = program == "/script" && options.is_empty();
            assert_eq!(said.contains("exec failed: "), !by_process, "{said}");
        }
    }
}

#[test]
fn the_process_is_the_containers_with_changes() {
    let lab = lab!();
    let bundle = lab.sleeper(|config| {
        config["process"]["cwd"] = json!("/tmp");
        config["process"]["env"] = json!(["PATH=/bin", "A=1"]);
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 77}]);
        config["process"]["user"]["umask"] = json!(0o027);
    });
    let script = "echo $PWD $A $B $HOME; ulimit -n; umask; id -u; id -g; id -G";
    assert_eq!(shell(&lab, &bundle, script), "/tmp 1 /\n77\n0027\n0\n0\n0");
    fs::write(bundle.rootfs().join("etc/passwd"), "x:x:7:8::/home/x:/bin/sh\n").unwrap();
    let options = ["--cwd", "/etc", "-e", "B=2", "--env=A=3", "-u", "7:8", "-g", "9", "--additional-gids", "10"];
    let changed = lab.exec(&bundle, &options, &["sh", "-c", script]).ok();
    assert_eq!(changed, "/etc 3 2 /home/x\n77\n0027\n7\n8\n8 9 10");
    let missing = lab.exec(&bundle, &["--cwd", "/nosuch"], &["true"]);
    assert!(missing.stderr.contains("no such file or directory") && missing.code == 255, "{missing:?}");
}

#[test]
fn a_process_from_a_file_or_a_pipe() {
    let lab = lab!();
    let bundle = lab.sleeper(|_| {});
    let process = json!({
        "cwd": "/etc", "args": ["sh", "-c", "pwd; id -u; echo $A; grep CapBnd /proc/self/status"],
        "env": ["PATH=/bin", "A=b"], "user": {"uid": 3, "gid": 4}
    });
    let file = lab.path("process.json");
    fs::write(&file, process.to_string()).unwrap();
    let expected = "/etc\n3\nb\nCapBnd:\t0000000020000420";
    assert_eq!(lab.exec(&bundle, &["--process", file.to_str().unwrap()], &[]).ok(), expected);
    let mut command = lab.command(&["exec", "-p", "/dev/stdin", &bundle.id]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(process.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected);
    fs::write(&file, r#"{"cwd": "/", "args": []}"#).unwrap();
    let refused = lab.exec(&bundle, &["--process", file.to_str().unwrap()], &[]).failed();
    assert!(refused.contains("process.json: args: is empty"), "{refused}");
    assert!(lab.exec(&bundle, &[], &[]).failed().contains("exec args cannot be empty"));
}

#[test]
fn it_is_where_the_container_is() {
    let lab = lab!();
    for kinds in [&["cgroup"][..], &["cgroup", "user", "time"]] {
        let bundle = lab.bundle(|config| {
            config["process"]["args"] = json!(["sleep", "1000"]);
            for kind in kinds {
                push(&mut config["linux"]["namespaces"], json!({"type": kind}));
            }
            if kinds.contains(&"user") {
                for field in ["uidMappings", "gidMappings"] {
                    config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
                }
            }
        });
        let init = lab.started(&bundle);
        let pid_file = lab.path("pid");
        let options = ["--detach", "--pid-file", pid_file.to_str().unwrap()];
        let mut command = vec!["exec"];
        command.extend(options);
        command.extend([bundle.id.as_str(), "sleep", "1000"]);
        assert!(lab.command(&command).stdin(Stdio::null()).status().unwrap().success());
        let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
        for namespace in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"] {
            let link = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
            assert_eq!(link(pid), link(init), "{namespace}");
        }
        let read = |pid: i32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        assert_eq!(read(pid, "cgroup"), read(init, "cgroup"));
        assert_eq!(read(pid, "uid_map"), read(init, "uid_map"));
        let line =
            |pid: i32, name: &str| read(pid, "status").lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        let names = "Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs SigBlk SigIgn Cpus_allowed_list";
        for name in names.split(' ') {
            assert_eq!(line(pid, name), line(init, name), "{name}");
        }
    }
}

#[test]
fn a_container_of_a_user_without_rights() {
    let lab = match Lab::for_user() {
        Ok(lab) => lab,
        Err(why) => skip!("{why}"),
    };
    let bundle = lab.sleeper(|_| {});
    let script = "id -u; cat /proc/self/uid_map; readlink /proc/self/ns/* | sort";
    let inside = shell(&lab, &bundle, script);
    let (uid, _) = lab.user().unwrap().ids;
    assert_eq!(inside.split_whitespace().take(4).collect::<Vec<_>>(), ["0", "0", &uid.to_string(), "1"]);
    let init = shell(&lab, &bundle, "readlink /proc/1/ns/* | sort");
    assert!(inside.ends_with(&init), "{inside} {init}");
    let refused = lab.exec(&bundle, &["--additional-gids", "5"], &["true"]).failed();
    assert!(refused.contains("additional groups"), "{refused}");
}

#[test]
fn a_container_that_is_not_there_to_join() {
    let lab = lab!();
    let nothing = lab.microrun(&["exec", "nosuch", "true"]);
    assert_eq!(nothing.code, 255);
    assert!(nothing.stderr.contains("container does not exist"), "{nothing:?}");

    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    lab.created(&bundle);
    assert_eq!(lab.exec(&bundle, &[], &["echo", "created"]).ok(), "created");
    lab.microrun(&["start", &bundle.id]).ok();

    lab.microrun(&["pause", &bundle.id]).ok();
    let paused = lab.exec(&bundle, &[], &["true"]);
    assert!(paused.code == 255 && paused.stderr.contains("cannot exec in a paused container"), "{paused:?}");
    let mut command = lab.command(&["exec", "--ignore-paused", &bundle.id, "echo", "late"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    lab.microrun(&["resume", &bundle.id]).ok();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"late\n");

    lab.microrun(&["kill", &bundle.id, "KILL"]).ok();
    eventually(|| lab.status(&bundle.id) == "stopped");
    let stopped = lab.exec(&bundle, &[], &["true"]);
    assert!(stopped.code == 255 && stopped.stderr.contains("cannot exec in a stopped container"), "{stopped:?}");
}

/// The kernel says "out of memory" of a pid namespace whose init has ended (clone(2)).
#[test]
fn a_container_that_ends_while_it_is_joined() {
    let lab = lab!();
    if let Err(why) = common::require_strace() {
        skip!("{why}");
    }
    let bundle = lab.sleeper(|_| {});
    let exec = lab.command(&["exec", &bundle.id, "true"]);
    let trace = lab.path("trace");
    let mut slow = Command::new("strace");
    slow.args(["-f", "-o", trace.to_str().unwrap(), "-e", "trace=setns,clone3"]);
    // Between the stage, which enters the namespaces, and the process that it clones.
    slow.args(["-e", "inject=clone3:delay_enter=3000000"]).arg(exec.get_program()).args(exec.get_args());
    let slow = slow.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    eventually(|| fs::read_to_string(&trace).is_ok_and(|text| text.contains("setns(")));
    lab.microrun(&["kill", &bundle.id, "KILL"]).ok();
    let ended = slow.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(255) && said.contains("cannot exec in a stopped container"), "{ended:?}");
    let trace = fs::read_to_string(trace).unwrap();
    assert!(trace.contains("ENOMEM"), "{trace}");
}

#[test]
fn a_failing_pid_file_leaves_no_process() {
    let lab = lab!();
    let bundle = lab.sleeper(|_| {});
    let output = lab.exec(&bundle, &["--pid-file", "/nosuch/pid"], &["touch", "/dev/ran"]);
    assert_eq!(output.code, 255);
    assert_eq!(shell(&lab, &bundle, "ls /dev/ran 2>/dev/null; ps -o args | grep -c [t]ouch; true"), "0");
}

#[test]
fn no_pid_file_tells_of_what_has_failed() {
    let lab = lab!();
    let sleeper = lab.sleeper(|_| {});
    let missing = lab.bundle(|config| config["process"]["args"] = json!(["/nosuch"]));
    let file = lab.path("pid");
    let bundle = ["--bundle", missing.path.to_str().unwrap(), &missing.id];
    let process = [sleeper.id.as_str(), "/nosuch"];
    for (verb, operands) in [("run", &bundle[..]), ("exec", &process[..])] {
        for detach in [false, true] {
            let mut args = vec![verb, "--pid-file", file.to_str().unwrap()];
            args.extend(detach.then_some("--detach"));
            args.extend(operands);
            assert!(lab.microrun(&args).failed().contains("/nosuch"), "{args:?}");
            assert!(!file.exists(), "{args:?}");
        }
    }
}

#[test]
fn signals_are_passed_on() {
    let lab = lab!();
    let bundle = lab.sleeper(|_| {});
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let mut command = lab.command(&["exec", &bundle.id, "sh", "-c", script]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn a_terminal_is_handed_over() {
    let lab = lab!();
    let bundle = lab.sleeper(|_| {});
    let path = lab.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = path.to_str().unwrap().to_owned();
    let script = "tty; test -t 0 && test -t 1 && test -t 2 && echo all; read x; echo got $x";
    let detached = ["--tty", "--detach", "--console-socket", &socket];
    let sent = std::thread::scope(|scope| {
        let received = scope.spawn(|| receive(&listener));
        lab.exec(&bundle, &detached, &["sh", "-c", script]).ok();
        received.join().unwrap()
    });
    let mut terminal = File::from(sent);
    let mut text = Vec::new();
    let mut buffer = [0; 256];
    while !text.ends_with(b"all\r\n") {
        let length = terminal.read(&mut buffer).unwrap();
        text.extend_from_slice(&buffer[..length]);
    }
    terminal.write_all(b"word\n").unwrap();
    // The other side's end reads as EIO.
    while let Ok(length @ 1..) = terminal.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    assert_eq!(String::from_utf8_lossy(&text), "/dev/pts/0\r\nall\r\nword\r\ngot word\r\n");

    let refused = lab.exec(&bundle, &["--tty", "--detach"], &["true"]).failed();
    assert!(refused.contains("cannot allocate tty if runc will detach without setting console socket"), "{refused}");
    let refused = lab.exec(&bundle, &["--console-socket", &socket], &["true"]).failed();
    assert!(refused.contains("cannot use console socket if runc will not detach or allocate tty"), "{refused}");
}

#[test]
fn a_terminal_in_the_foreground() {
    let lab = lab!();
    let bundle = lab.sleeper(|_| {});
    let size = nix::pty::Winsize { ws_row: 11, ws_col: 33, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = nix::pty::openpty(&size, None).unwrap();
    let mut command = lab.command(&["exec", "-t", &bundle.id, "sh", "-c", "stty size; tty; exit 5"]);
    let slave = || Stdio::from(pair.slave.try_clone().unwrap());
    let mut child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    drop((command, pair.slave));
    let mut text = Vec::new();
    // Once nobody has the other side open its end reads as EIO.
    let _ = File::from(pair.master).read_to_end(&mut text);
    assert_eq!(String::from_utf8_lossy(&text), "11 33\r\n/dev/pts/0\r\n");
}

/// One stream that is our terminal is enough for its size.
#[test]
fn a_terminal_has_our_size_if_stdin_is_redirected() {
    let lab = lab!();
    let script = "stty size; until [ \"$(stty size)\" = '12 34' ]; do sleep 0.05; done; echo resized";
    let bundle = lab.bundle(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["args"] = json!(["sh", "-c", script]);
    });
    let sleeper = lab.sleeper(|_| {});
    let run = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    for mut command in [run, lab.command(&["exec", "-t", &sleeper.id, "sh", "-c", script])] {
        let size = nix::pty::Winsize { ws_row: 11, ws_col: 33, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = nix::pty::openpty(&size, None).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(pair.slave);
        let mut child = Guard(command.spawn().unwrap());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        // From the beginning.
        assert_eq!(lines.next().unwrap(), "11 33");
        microrun::sys::fs::set_terminal_size(pair.master.as_raw_fd(), 12, 34).unwrap();
        // It is nobody's controlling terminal.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::SIGWINCH).unwrap();
        assert_eq!(lines.next().unwrap(), "resized");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_pidfd_is_handed_over() {
    let lab = lab!();
    let bundle = lab.sleeper(|_| {});
    let path = lab.path("pidfd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let pidfd = std::thread::scope(|scope| {
        let received = scope.spawn(|| receive(&listener));
        lab.exec(&bundle, &["--pidfd-socket", path.to_str().unwrap()], &["true"]).ok();
        received.join().unwrap()
    });
    let link = fs::read_link(format!("/proc/self/fd/{}", pidfd.as_raw_fd())).unwrap();
    assert!(link.to_str().unwrap().contains("pidfd"), "{link:?}");
}

#[test]
fn descriptors_are_inherited_only_if_asked() {
    let lab = lab!();
    let bundle = lab.sleeper(|_| {});
    fs::write(lab.path("data"), "data").unwrap();
    let script = format!("exec 3<{0} 4<{0} 5<{0}; exec \"$@\"", lab.path("data").display());
    let run = |options: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(lab.path("microrun")).arg("--root").arg(lab.path("run")).arg("exec");
        command.args(options).args([
            &bundle.id,
            "sh",
            "-c",
            "cd /proc/self/fd; for n in *; do readlink $n; done | grep -c data",
        ]);
        output(command).stdout
    };
    assert_eq!((run(&[]), run(&["--preserve-fds", "2"])), ("0".to_owned(), "2".to_owned()));
}

#[test]
fn the_seccomp_filter_holds() {
    let lab = lab!();
    for no_new_privileges in [true, false] {
        let bundle = lab.sleeper(|config| {
            config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}]
            });
        });
        let output = lab.exec(&bundle, &[], &["mkdir", "/dev/x"]);
        assert!(output.code == 1 && output.stderr.contains("Protocol error"), "{output:?}");
    }
}

/// The agent of SCMP_ACT_NOTIFY hears of the container that a process joins, and which process it is.
#[test]
fn the_seccomp_agent_hears_of_a_running_container() {
    let lab = lab!();
    let agent = UnixListener::bind(lab.path("agent")).unwrap();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["linux"]["seccomp"] = common::notifying(&lab.path("agent"));
    });
    let hears = |run: &dyn Fn()| -> serde_json::Value {
        std::thread::scope(|scope| {
            let said = scope.spawn(|| std::io::read_to_string(agent.accept().unwrap().0).unwrap());
            run();
            serde_json::from_str(&said.join().unwrap()).unwrap()
        })
    };
    let said = hears(&|| {
        lab.started(&bundle);
    });
    let init = said["pid"].clone();
    assert_eq!((&said["state"]["status"], &said["state"]["pid"]), (&json!("creating"), &init));
    let pid_file = lab.path("pid");
    let said = hears(&|| {
        lab.exec(&bundle, &["--pid-file", pid_file.to_str().unwrap()], &["true"]).ok();
    });
    assert_eq!((&said["state"]["status"], &said["state"]["pid"]), (&json!("running"), &init));
    assert_eq!(said["pid"].to_string(), fs::read_to_string(&pid_file).unwrap());
    assert_ne!(said["pid"], init);
}

#[test]
fn cpus_are_those_of_exec_cpu_affinity() {
    let lab = lab!();
    let cpus = common::cpus();
    let (first, last) = (cpus[0].to_string(), cpus[cpus.len() - 1].to_string());
    let bundle = lab.sleeper(|config| config["process"]["execCPUAffinity"] = json!({"initial": first, "final": last}));
    let allowed = shell(&lab, &bundle, "grep Cpus_allowed_list /proc/self/status");
    assert_eq!(allowed.split_whitespace().last(), Some(last.as_str()));
}

#[test]
fn a_cgroup_below_the_containers() {
    let lab = lab!();
    let bundle = lab.sleeper(|_| {});
    for (argument, words) in [
        ("..", "bad sub cgroup path"),
        ("nosuch", "no such file or directory"),
        ("whaaat:/", "unknown controller"),
        (":/", "empty controller"),
    ] {
        let refused = lab.exec(&bundle, &["--cgroup", argument], &["true"]).failed();
        assert!(refused.contains(words), "{argument}: {refused}");
    }
    let of = |options: &[&str]| lab.exec(&bundle, options, &["cat", "/proc/self/cgroup"]).ok();
    assert_eq!(of(&["--cgroup", "/"]), of(&[]));
}

#[test]
fn a_cgroup_that_takes_no_process_is_left_for_inits() {
    let lab = lab!();
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if !controllers.contains("memory") {
        println!("skipped: needs the memory controller on cgroup v2");
        return;
    }
    let bundle = lab.sleeper(|config| {
        push(&mut config["linux"]["namespaces"], json!({"type": "cgroup"}));
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        push(
            &mut config["mounts"],
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev"]}),
        );
    });
    let place = |options: &[&str]| lab.exec(&bundle, options, &["cat", "/proc/self/cgroup"]);
    let blocked = || lab.exec(&bundle, &[], &["grep", "SigBlk", "/proc/self/status"]).ok();
    let none = blocked();
    assert_eq!(place(&[]).ok(), "0::/");
    shell(&lab, &bundle, "cd /sys/fs/cgroup; mkdir inner; echo 1 > inner/cgroup.procs");
    assert_eq!(place(&[]).ok(), "0::/");
    assert_eq!(place(&["--cgroup", "inner"]).ok(), "0::/inner");
    let script = "cd /sys/fs/cgroup; echo $$ > inner/cgroup.procs; echo +memory > cgroup.subtree_control";
    shell(&lab, &bundle, script);
    assert_eq!(place(&[]).ok(), "0::/inner");
    // It is cloned twice then.
    assert_eq!(blocked(), none);
    let refused = place(&["--cgroup", "/"]).failed();
    assert!(refused.contains(" adding pid ") && refused.contains(" to cgroups"), "{refused}");
    assert!(refused.contains("device or resource busy"), "{refused}");
}

#[test]
fn nobody_enters_a_container_that_is_still_being_made() {
    let lab = lab!();
    for verb in ["run", "create"] {
        let (begun, go) = (lab.path(format!("{verb}-begun")), lab.path(format!("{verb}-go")));
        let wait = format!("touch {}; until [ -e {} ]; do sleep 0.02; done", begun.display(), go.display());
        let bundle = lab.bundle(|config| {
            config["process"]["args"] = json!(["sleep", "1000"]);
            config["hooks"] =
                json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", wait], "timeout": 20}]});
        });
        let mut command = lab.command(&[verb, "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        let mut maker = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        eventually(|| begun.exists());
        assert_eq!(lab.status(&bundle.id), "creating", "{verb}");
        let refused = lab.exec(&bundle, &[], &["true"]).failed();
        assert!(refused.contains("cannot exec in a container that is still being created"), "{verb}: {refused}");
        fs::write(&go, "").unwrap();
        let made = if verb == "run" { "running" } else { "created" };
        eventually(|| lab.status(&bundle.id) == made);
        lab.exec(&bundle, &[], &["true"]).ok();
        lab.microrun(&["delete", "--force", &bundle.id]).ok();
        maker.wait().unwrap();
    }
}

/// Its owner and mode are not the container's to change, whatever that has done to its own one.
#[test]
fn the_null_device_is_not_the_hosts() {
    let lab = lab!();
    let place = lab.path("devices");
    let devices = Tmpfs::on(&place, "mode=755");
    let node = devices.device("null", 1, 3);
    let bundle = lab.sleeper(|_| {});
    let script =
        "stat -L -c '%t %T' /dev/stdin; chmod 600 /dev/stdin; stat -L -c %a /dev/stdin; echo x >/dev/stdin && cat";
    for (change, mode) in [("true", 600), ("rm /dev/null", 666), ("echo fake >/dev/null", 666)] {
        shell(&lab, &bundle, change);
        let mut command = lab.command(&["exec", &bundle.id, "sh", "-c", script]);
        let null = File::options().read(true).write(true).open(&node).unwrap();
        let told = command.stdin(null).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&told.stdout), format!("1 3\n{mode}\n"), "{change} {told:?}");
        let about = fs::metadata(&node).unwrap();
        assert_eq!((about.mode() & 0o777, about.uid()), (0o666, 0), "{change}");
    }
}
