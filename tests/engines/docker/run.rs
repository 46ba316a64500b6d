//! `docker run`.

use super::{Docker, SLEEP};
use crate::cases;
use crate::common::{Output, eventually};
use crate::process::{on_terminal_of, output};
use crate::runner::{Case, skip};
use std::fs;

pub fn cases() -> Vec<Case<Docker>> {
    cases![
        run,
        exit_code,
        no_such_program_is_127,
        not_executable_is_126,
        stdin,
        tty,
        environment,
        user_and_groups,
        hostname,
        working_directory,
        read_only,
        tmpfs,
        tmpfs_mode,
        volume,
        bind_mount,
        bind_propagation,
        shm_size,
        init,
        host_namespaces,
        namespaces_of_another,
        runtime_by_name,
        build,
        build_with_buildkit,
        copy_and_commit,
    ]
}

pub fn run(engine: &Docker) {
    assert!(engine.run(&[], &[]).ok().contains("Hello"));
    assert_eq!(engine.docker(&["ps", "--all", "--quiet"]).ok(), "");
}

pub fn exit_code(engine: &Docker) {
    let output = engine.shell(&[], "echo out; echo err >&2; exit 7");
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (7, "out", "err"));
    assert_eq!(engine.shell(&[], "sh -c 'kill -9 $$'; exit $?").code, 137);
}

pub fn no_such_program_is_127(engine: &Docker) {
    let output = engine.run(&[], &["nosuch"]);
    assert_eq!(output.code, 127, "{output:?}");
    assert!(output.stderr.contains("\"nosuch\": executable file not found in $PATH"), "{output:?}");
    let output = engine.run(&[], &["/no/such"]);
    assert_eq!(output.code, 127, "{output:?}");
    assert!(output.stderr.contains("no such file or directory"), "{output:?}");
}

pub fn not_executable_is_126(engine: &Docker) {
    let output = engine.run(&[], &["/etc/passwd"]);
    assert_eq!(output.code, 126, "{output:?}");
    assert!(output.stderr.contains("\"/etc/passwd\": permission denied"), "{output:?}");
}

pub fn stdin(engine: &Docker) {
    let command = engine.run_command(&["--interactive"], &["wc", "-c"]);
    assert_eq!(output(command, "12345").ok(), "5");
}

pub fn tty(engine: &Docker) {
    let script = "tty; until stty size | grep -v '^0 0'; do usleep 10000; done; read x; echo got $x; exit 4";
    let command = engine.run_command(&["--interactive", "--tty"], &["sh", "-c", script]);
    let output = on_terminal_of(&command, "typed\n", Some((31, 77)));
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stdout.contains("/dev/pts/0") || output.stdout.contains("/dev/console"), "{output:?}");
    assert!(output.stdout.contains("31 77") && output.stdout.contains("got typed"), "{output:?}");
    assert!(engine.run(&["--tty"], &["tty"]).ok().contains("/dev/"));
}

pub fn environment(engine: &Docker) {
    assert_eq!(engine.shell(&["--env", "A=b c", "--env", "HOME=/x"], "echo $A $HOME").ok(), "b c /x");
    assert_eq!(engine.shell(&[], "echo $HOME").ok(), "/root");
}

pub fn user_and_groups(engine: &Docker) {
    assert_eq!(engine.shell(&["--user", "user"], "id -u; id -g; id -G").ok(), "1000\n1000\n1000 1001");
    assert_eq!(
        engine.shell(&["--user", "2000:3000", "--group-add", "44"], "id -u; id -g; id -G").ok(),
        "2000\n3000\n3000 44"
    );
}

pub fn hostname(engine: &Docker) {
    assert_eq!(engine.shell(&["--hostname", "a-name"], "hostname; cat /etc/hostname").ok(), "a-name\na-name");
}

pub fn working_directory(engine: &Docker) {
    assert_eq!(engine.shell(&["--workdir", "/new/directory"], "pwd").ok(), "/new/directory");
}

pub fn read_only(engine: &Docker) {
    let script = "touch /x 2>/dev/null || echo no; touch /run/x && echo yes";
    assert_eq!(engine.shell(&["--read-only", "--tmpfs", "/run"], script).ok(), "no\nyes");
}

pub fn tmpfs(engine: &Docker) {
    let output = engine.run(&["--tmpfs", "/mnt:size=1m,exec"], &["grep", " /mnt ", "/proc/mounts"]).ok();
    assert!(output.contains("size=1024k") && !output.contains("noexec"), "{output}");
}

pub fn tmpfs_mode(engine: &Docker) {
    assert_eq!(engine.run(&["--tmpfs", "/mnt:mode=1750"], &["stat", "-c", "%a", "/mnt"]).ok(), "1750");
}

pub fn volume(engine: &Docker) {
    engine.docker(&["volume", "create", "vol"]).ok();
    engine.shell(&["--volume", "vol:/data"], "echo kept >/data/file").ok();
    let script = "cat /data/file; touch /data/x 2>/dev/null || echo no";
    assert_eq!(engine.shell(&["--volume", "vol:/data:ro"], script).ok(), "kept\nno");
    engine.docker(&["volume", "rm", "vol"]).ok();
}

pub fn bind_mount(engine: &Docker) {
    let dir = engine.directory("shared");
    fs::write(dir.join("in"), "from the host\n").unwrap();
    let volume = format!("{}:/shared", dir.display());
    assert_eq!(engine.shell(&["--volume", &volume], "cat /shared/in; echo back >/shared/out").ok(), "from the host");
    assert_eq!(fs::read_to_string(dir.join("out")).unwrap(), "back\n");
    let read_only = format!("type=bind,source={},target=/shared,readonly", dir.display());
    assert_eq!(engine.shell(&["--mount", &read_only], "touch /shared/x 2>/dev/null || echo no").ok(), "no");
    let file = format!("{}/in:/etc/motd:ro", dir.display());
    assert_eq!(engine.run(&["--volume", &file], &["cat", "/etc/motd"]).ok(), "from the host");
}

pub fn bind_propagation(engine: &Docker) {
    let dir = engine.directory("propagated");
    let path = dir.to_str().unwrap();
    crate::common::host("mount", &["--bind", path, path]);
    crate::common::host("mount", &["--make-shared", path]);
    fs::create_dir(dir.join("inner")).unwrap();
    engine.start(&["--volume", &format!("{path}:/shared:rslave")], "box", SLEEP);
    let inner = dir.join("inner");
    crate::common::host("mount", &["-t", "tmpfs", "t", inner.to_str().unwrap()]);
    fs::write(inner.join("file"), "seen\n").unwrap();
    let seen = engine.docker(&["exec", "box", "cat", "/shared/inner/file"]);
    engine.clean_up(&[inner.to_str().unwrap(), path]);
    assert_eq!(seen.ok(), "seen");
}

pub fn shm_size(engine: &Docker) {
    let output = engine.run(&["--shm-size", "3m"], &["grep", " /dev/shm ", "/proc/mounts"]).ok();
    assert!(output.contains("size=3072k"), "{output}");
}

pub fn init(engine: &Docker) {
    if crate::process::which("docker-init").is_none() {
        skip("docker-init is not installed (Debian's package tini)");
    }
    let output = engine.shell(&["--init"], "cat /proc/1/cmdline; exit 3");
    assert_eq!(output.code, 3);
    assert!(output.stdout.contains("docker-init"), "{output:?}");
}

pub fn host_namespaces(engine: &Docker) {
    for (option, namespace) in
        [("--pid=host", "pid"), ("--ipc=host", "ipc"), ("--uts=host", "uts"), ("--network=host", "net")]
    {
        let own = fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
        let inside = engine.docker(&[
            "run",
            "--rm",
            option,
            crate::image::NAME,
            "readlink",
            &format!("/proc/self/ns/{namespace}"),
        ]);
        assert_eq!(inside.ok(), own.to_str().unwrap(), "{option}");
    }
}

pub fn namespaces_of_another(engine: &Docker) {
    engine.start(&["--ipc=shareable"], "first", SLEEP);
    let pid = engine.inspect("first", "{{.State.Pid}}");
    for (option, namespace) in [("--pid", "pid"), ("--ipc", "ipc"), ("--network", "net")] {
        let first = fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        let args = ["run", "--rm", option, "container:first", crate::image::NAME, "readlink"];
        let path = format!("/proc/self/ns/{namespace}");
        let inside = engine.docker(&[&args[..], &[&path]].concat());
        assert_eq!(inside.ok(), first.to_str().unwrap(), "{option}");
    }
}

pub fn runtime_by_name(engine: &Docker) {
    assert_eq!(engine.run(&["--runtime", "under-test"], &["echo", "yes"]).ok(), "yes");
    assert!(engine.docker(&["info", "--format", "{{json .Runtimes}}"]).ok().contains("under-test"));
}

pub fn build(engine: &Docker) {
    // The classic builder runs containers of the daemon's.
    build_with(engine, "0").ok();
    run_built(engine);
}

fn build_with_buildkit(engine: &Docker) {
    let output = build_with(engine, "1");
    if output.stderr.contains("buildx component is missing") {
        skip("this client builds by its plugin buildx, which is not installed");
    }
    output.ok();
    run_built(engine);
}

fn build_with(engine: &Docker, buildkit: &str) -> Output {
    let dir = engine.directory("build");
    let text =
        format!("FROM {}\nRUN echo built >/file && id -u\nUSER user\nCMD [\"cat\", \"/file\"]\n", crate::image::NAME);
    fs::write(dir.join("Dockerfile"), text).unwrap();
    let mut command = engine.command(&["build", "--network=none", "--tag", "built", dir.to_str().unwrap()]);
    command.env("DOCKER_BUILDKIT", buildkit);
    output(command, "")
}

fn run_built(engine: &Docker) {
    let output = engine.docker(&["run", "--rm", "--network=none", "built"]);
    engine.docker(&["rmi", "built"]).ok();
    assert_eq!(output.ok(), "built");
}

pub fn copy_and_commit(engine: &Docker) {
    engine.start(&[], "box", SLEEP);
    let file = engine.directory("copy").join("file");
    fs::write(&file, "copied\n").unwrap();
    engine.docker(&["cp", file.to_str().unwrap(), "box:/tmp/file"]).ok();
    assert_eq!(engine.docker(&["exec", "box", "cat", "/tmp/file"]).ok(), "copied");
    assert!(engine.docker(&["diff", "box"]).ok().contains("A /tmp/file"));
    engine.docker(&["commit", "box", "committed"]).ok();
    let output = engine.docker(&["run", "--rm", "--network=none", "committed", "cat", "/tmp/file"]);
    engine.docker(&["rmi", "committed"]).ok();
    assert_eq!(output.ok(), "copied");
    eventually(|| engine.status("box") == "running");
}

impl Docker {
    /// Removes the container `box`, and these mounts.
    fn clean_up(&self, mounts: &[&str]) {
        self.docker(&["rm", "--force", "box"]).ok();
        for mount in mounts {
            crate::common::host("umount", &[mount]);
        }
    }
}
