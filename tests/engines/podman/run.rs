//! `podman run`: what goes in, what comes out, and the exit code.

use super::{Podman, SLEEP};
use crate::image;
use crate::process::{limited, on_terminal_of, output};
use std::fs;
use std::os::unix::fs::symlink;

pub fn run(podman: &Podman) {
    assert!(podman.run(&[], &["/hello"]).ok().contains("Hello"));
}

/// Podman decides by the runtime's name what it can do.
pub fn run_as_runc(podman: &Podman) {
    let directory = podman.directory("files/runc");
    let link = format!("{directory}/runc");
    symlink(&podman.runtime.path, &link).unwrap();
    let mut command = podman.command_with(link.as_ref());
    command.args(Podman::run_args(&["--name", "linked"], &["/hello"]));
    assert!(output(command, "").ok().contains("Hello"));
    let mut command = podman.command_with(link.as_ref());
    command.args(Podman::run_args(&[], &["/nosuch"]));
    let output = output(command, "");
    assert_eq!(output.code, 127, "{output:#?}");
}

/// By the configuration that users are told of, which names the runtime and where it is.
pub fn runtime_by_configuration(podman: &Podman) {
    let ours = "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
    let text = include_str!("../../../contrib/podman/microrun.conf")
        .replace("[engine]\n", ours)
        .replace("/usr/local/bin/microrun", podman.runtime.path.to_str().unwrap());
    let own = fs::read_to_string(podman.path("containers.conf")).unwrap();
    let containers = own.split_once("[containers]").unwrap().1;
    let file = podman.file("containers.conf", &format!("{text}\n[containers]{containers}"));
    let mut command = podman.command_without_runtime();
    command.args(Podman::run_args(&[], &["/hello"])).env("CONTAINERS_CONF", &file);
    assert!(output(command, "").ok().contains("Hello"));
    // What it says of an error is the runtime's sentence, not a line of its log.
    let mut command = podman.command_without_runtime();
    command.args(Podman::run_args(&[], &["/nosuch"])).env("CONTAINERS_CONF", &file);
    let output = output(command, "");
    assert!(output.code == 127 && !output.stderr.contains("level="), "{output:#?}");
}

pub fn debug_flag(podman: &Podman) {
    let mut args = vec!["--runtime-flag", "debug"];
    args.extend(Podman::run_args(&[], &["/hello"]));
    assert!(podman.podman(&args).ok().contains("Hello"));
}

pub fn exit_code(podman: &Podman) {
    for (script, code) in [("true", 0), ("exit 42", 42), ("sh -c 'kill -KILL $$'; exit $?", 137)] {
        let output = podman.run(&[], &["sh", "-c", script]);
        assert_eq!(output.code, code, "{script}: {output:#?}");
    }
}

pub fn exit_125(podman: &Podman) {
    let output = podman.run(&["--sysctl", "kernel.no_such_thing=1"], &["true"]);
    assert!([125, 126, 127].contains(&output.code), "{output:#?}");
    let output = podman.run(&["--no-such-option"], &["true"]);
    assert_eq!(output.code, 125, "{output:#?}");
}

pub fn exit_126(podman: &Podman) {
    for (program, why) in [("/etc/passwd", "permission denied"), ("/etc", "")] {
        let output = podman.run(&[], &[program]);
        assert_eq!(output.code, 126, "{output:#?}");
        assert!(output.stderr.to_lowercase().contains(why), "{output:#?}");
    }
}

pub fn exit_127(podman: &Podman) {
    for program in ["/nosuch", "nosuch"] {
        let output = podman.run(&[], &[program]);
        assert_eq!(output.code, 127, "{output:#?}");
        assert!(output.stderr.contains("nosuch"), "{output:#?}");
    }
}

pub fn exec_126_127(podman: &Podman) {
    podman.started("c", &[], SLEEP);
    for (program, code) in [("/etc/passwd", 126), ("/etc", 126), ("/nosuch", 127), ("nosuch", 127)] {
        let output = podman.podman(&["exec", "c", program]);
        assert_eq!(output.code, code, "{output:#?}");
    }
}

pub fn stdin(podman: &Podman) {
    let text = "a line\n".repeat(30_000);
    let output = output(podman.command(&Podman::run_args(&["-i"], &["wc", "-c"])), &text);
    assert_eq!(output.ok(), text.len().to_string());
}

pub fn terminal(podman: &Podman) {
    let command = podman.command(&Podman::run_args(&["-it"], &["sh"]));
    let output = on_terminal_of(&command, "tty; echo one$((1+1))\nexit 7\n", None);
    assert_eq!(output.code, 7, "{output:#?}");
    assert!(output.stdout.contains("/dev/pts/0") && output.stdout.contains("one2"), "{output:#?}");
}

pub fn terminal_size(podman: &Podman) {
    let wait = "until [ \"$(stty size)\" = '33 77' ]; do usleep 10000; done; echo resized";
    let command = podman.command(&Podman::run_args(&["-it"], &["sh", "-c", wait]));
    let output = on_terminal_of(&command, "", Some((33, 77)));
    assert!(output.stdout.contains("resized"), "{output:#?}");
}

pub fn detached(podman: &Podman) {
    podman.started("c", &[], SLEEP);
    assert_eq!(podman.inspect("c", "{{.State.Status}}"), "running");
    let pid = podman.inspect("c", "{{.State.Pid}}");
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().replace('\0', " ").trim(), "sleep 1000");
}

pub fn environment(podman: &Podman) {
    let said = podman.shell(&["--env", "A=b c", "--env", "EMPTY="], "echo \"[$A][${EMPTY-unset}][$container]\"");
    assert_eq!(said, "[b c][][podman]");
}

pub fn entrypoint(podman: &Podman) {
    assert_eq!(podman.run(&["--entrypoint", "[\"echo\", \"one\"]"], &["two"]).ok(), "one two");
}

pub fn preserve_fds(podman: &Podman) {
    let file = podman.file("third", "");
    let args = Podman::run_args(&["--preserve-fds", "1"], &["sh", "-c", "echo by the third >&3; ls /proc/self/fd"]);
    let inner = podman.command(&args);
    let mut command = limited("sh");
    command.args(["-c", "exec \"$@\" 3>\"$FILE\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?)))).env("FILE", &file);
    output(command, "").ok();
    assert_eq!(fs::read_to_string(file).unwrap(), "by the third\n");
}

pub fn no_such_working_directory(podman: &Podman) {
    let output = podman.run(&["--workdir", "/etc/passwd"], &["true"]);
    assert_ne!(output.code, 0, "{output:#?}");
}

pub fn working_directory_is_made(podman: &Podman) {
    assert_eq!(podman.shell(&["--workdir", "/tmp"], "pwd"), "/tmp");
    // Podman makes what a volume is mounted on, and the runtime its parents.
    assert_eq!(podman.shell(&["--tmpfs", "/new/place", "--workdir", "/new/place"], "pwd"), "/new/place");
}

pub fn user_by_name(podman: &Podman) {
    assert_eq!(podman.shell(&["--user", "user"], "id -u; id -g; id -G"), "1000\n1000\n1000 1001");
    assert_eq!(podman.shell(&["--user", "1234:5"], "id -u; id -g"), "1234\n5");
}

pub fn additional_groups(podman: &Podman) {
    assert_eq!(podman.shell(&["--user", "1234", "--group-add", "extra", "--group-add", "77"], "id -G"), "0 77 1001");
}

pub fn hostname(podman: &Podman) {
    assert_eq!(podman.shell(&["--hostname", "a-name"], "hostname; cat /etc/hostname"), "a-name\na-name");
}

/// catatonit is process 1, and reaps.
pub fn init(podman: &Podman) {
    let script =
        "cat /proc/1/comm; sh -c 'true & exec true'; usleep 200000; grep -l '^State:.Z' /proc/*/status || true";
    assert_eq!(podman.shell(&["--init"], script), "podman-init");
}

/// A directory instead of an image.
pub fn root_filesystem(podman: &Podman) {
    let directory = podman.directory("files/rootfs");
    let mounted = format!("--volume={directory}:/out");
    podman.shell(&[&mounted], "cp -a /bin /etc /out && mkdir /out/proc /out/sys /out/dev /out/run /out/tmp");
    let args = ["run", "--rm", "--network", "none", "--rootfs", &directory, "/bin/sh", "-c", "echo of a directory"];
    assert_eq!(podman.podman(&args).ok(), "of a directory");
}

/// Hooks that Podman finds in a directory come to the runtime.
pub fn hooks(podman: &Podman) {
    let directory = podman.directory("files/hooks");
    let seen = podman.file("seen", "");
    let script = podman.file("hook", &format!("#!/bin/sh\n/bin/cat >>{seen}\n"));
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for stage in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        // In the stage createContainer the hook runs in the container's namespaces, with the host's files.
        let hook = serde_json::json!({
            "version": "1.0.0", "hook": {"path": script}, "when": {"always": true}, "stages": [stage]
        });
        fs::write(format!("{directory}/{stage}.json"), hook.to_string()).unwrap();
    }
    let args = Podman::run_args(&["--name", "hooked"], &["/hello"]);
    let args = [&["--hooks-dir", &directory], &args[..]].concat();
    assert!(podman.podman(&args).ok().contains("Hello"));
    let states = fs::read_to_string(seen).unwrap();
    assert_eq!(states.matches("\"ociVersion\"").count(), 5, "{states}");
    assert!(states.contains(image::NAME) || states.contains("\"bundle\""), "{states}");
}
