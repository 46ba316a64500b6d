//! `ctr run`.

use super::{Ctr, SIZE, SLEEP};
use crate::common::eventually;
use crate::process::{on_terminal_of, output, output_after};
use crate::runner::{Case, skip};
use crate::{cases, image};
use std::fs;

pub fn cases() -> Vec<Case<Ctr>> {
    cases![
        run,
        run_rm,
        exit_code,
        exit_code_of_a_signal,
        stdout_and_stderr,
        stdin,
        tty,
        detach,
        environment_and_cwd,
        user,
        pid_file,
        read_only,
        bind_mount,
        capabilities,
        no_new_privileges,
        seccomp,
        device,
        privileged,
        net_host,
        network_namespace,
        user_namespace,
        rootfs,
        no_pivot,
        no_such_program,
        not_executable,
        no_such_user_directory,
        id_in_use,
    ]
}

fn run(engine: &Ctr) {
    assert!(engine.run(&[], "c", &["/hello"]).ok().contains("Hello"));
    assert_eq!(engine.ctr(&["container", "list", "--quiet"]).ok(), "c");
}

fn run_rm(engine: &Ctr) {
    assert!(engine.run(&["--rm"], "c", &["/hello"]).ok().contains("Hello"));
    assert_eq!(engine.ctr(&["container", "list", "--quiet"]).ok(), "");
}

fn exit_code(engine: &Ctr) {
    assert_eq!(engine.shell(&[], "exit 7").code, 7);
}

fn exit_code_of_a_signal(engine: &Ctr) {
    // The first process of a pid namespace is immune to its own signals; the shell must not become the other one.
    assert_eq!(engine.shell(&[], "sh -c 'kill -9 $$'; exit $?").code, 137);
}

fn stdout_and_stderr(engine: &Ctr) {
    let output = engine.shell(&[], "echo out; echo err >&2; exit 3");
    assert_eq!((output.code, output.stdout.as_str()), (3, "out"));
    assert!(output.stderr.contains("err"), "{output:?}");
}

fn stdin(engine: &Ctr) {
    let command = engine.command(&["--rm"], "c", &["sh", "-c", "read line; echo got $line; wc -c"]);
    // `ctr run` hangs when its stdin ends before the start.
    let output = output_after(command, || engine.task_status("c") == "RUNNING", "one\ntwo\n");
    assert_eq!(output.ok(), "got one\n4");
}

fn tty(engine: &Ctr) {
    let script = format!("tty; {SIZE}; read x; echo got $x; exit 4");
    let command = engine.command(&["--rm", "--tty"], "c", &["sh", "-c", &script]);
    let output = on_terminal_of(&command, "typed\n", Some((31, 77)));
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stdout.contains("/dev/pts/0") || output.stdout.contains("/dev/console"), "{output:?}");
    assert!(output.stdout.contains("31 77") && output.stdout.contains("got typed"), "{output:?}");
}

fn detach(engine: &Ctr) {
    engine.start_detached(&[], "c", SLEEP);
    assert_eq!(engine.task_status("c"), "RUNNING");
    engine.ctr(&["task", "kill", "--signal", "SIGKILL", "c"]).ok();
    eventually(|| engine.task_status("c") == "STOPPED");
}

fn environment_and_cwd(engine: &Ctr) {
    let output = engine.shell(&["--env", "A=b c", "--cwd", "/tmp"], "echo $A; pwd; hostname");
    assert!(output.ok().starts_with("b c\n/tmp"));
}

fn user(engine: &Ctr) {
    let script = "id -u; id -g; id -G; id -u; id -g; id -G";
    // `ctr run` has --user only since 1.7: the shim's way to a user is the configuration either way.
    let output = engine.exec_in_sleeping(&["--user", "1000:1000"], &["sh", "-c", script]);
    assert!(output.ok().starts_with("1000\n1000\n"));
}

fn pid_file(engine: &Ctr) {
    let file = engine.containerd.dir.join("pid");
    engine.start_detached(&["--pid-file", file.to_str().unwrap()], "c", SLEEP);
    let pid = fs::read_to_string(&file).unwrap();
    fs::remove_file(file).unwrap();
    assert_eq!(pid.trim(), engine.task_pid("c").to_string());
}

fn read_only(engine: &Ctr) {
    let output = engine.shell(&["--read-only"], "touch /tmp/x 2>&1 || echo no; touch /dev/shm/x && echo yes");
    assert!(output.ok().ends_with("no\nyes"));
    assert_eq!(engine.shell(&[], "touch /tmp/x && echo yes").ok(), "yes");
}

fn bind_mount(engine: &Ctr) {
    let dir = engine.containerd.dir.join("shared");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("in"), "from the host\n").unwrap();
    let mount = |options: &str| format!("type=bind,src={},dst=/shared,options={options}", dir.display());
    let output = engine.shell(&["--mount", &mount("rbind:rw")], "cat /shared/in; echo back >/shared/out");
    assert_eq!(output.ok(), "from the host");
    assert_eq!(fs::read_to_string(dir.join("out")).unwrap(), "back\n");
    let output = engine.shell(&["--mount", &mount("rbind:ro")], "cat /shared/in; echo back >/shared/out || echo no");
    assert_eq!(output.ok(), "from the host\nno");
}

fn capabilities(engine: &Ctr) {
    let bounding = |options: &[&str]| {
        let output = engine.shell(options, "grep CapBnd /proc/self/status").ok();
        u64::from_str_radix(output.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    const NET_ADMIN: u64 = 1 << 12;
    const CHOWN: u64 = 1;
    let default = bounding(&[]);
    assert_eq!(default & (NET_ADMIN | CHOWN), CHOWN);
    assert_eq!(bounding(&["--cap-add", "CAP_NET_ADMIN", "--cap-drop", "CAP_CHOWN"]), (default | NET_ADMIN) & !CHOWN);
}

fn no_new_privileges(engine: &Ctr) {
    let script = "grep NoNewPrivs /proc/self/status";
    assert!(engine.shell(&[], script).ok().ends_with('1'));
    assert!(engine.shell(&["--allow-new-privs"], script).ok().ends_with('0'));
}

fn seccomp(engine: &Ctr) {
    let script = "grep Seccomp: /proc/self/status";
    assert!(engine.shell(&["--seccomp"], script).ok().ends_with('2'));
    assert!(engine.shell(&[], script).ok().ends_with('0'));
    // mount is not in containerd's default profile without CAP_SYS_ADMIN.
    assert_ne!(engine.shell(&["--seccomp"], "mount -t tmpfs t /mnt").code, 0);
}

fn device(engine: &Ctr) {
    let devices = ["/dev/fuse", "/dev/net/tun", "/dev/loop-control", "/dev/rtc0"];
    let Some(device) = devices.iter().find(|path| fs::File::open(path).is_ok()) else {
        skip(format_args!("none of these can be opened: {}", devices.join(", ")));
    };
    let script = format!("[ -c {device} ] && : <{device} && echo yes || echo no");
    assert!(engine.shell(&[], &script).ok().ends_with("no"));
    assert!(engine.shell(&["--device", device], &script).ok().ends_with("yes"));
}

fn privileged(engine: &Ctr) {
    let output = engine.shell(&["--privileged"], "mount -t tmpfs t /mnt && ls /dev/kmsg");
    assert_eq!(output.ok(), "/dev/kmsg");
}

fn net_host(engine: &Ctr) {
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let script = "readlink /proc/self/ns/net";
    assert_eq!(engine.shell(&["--net-host"], script).ok(), own.to_str().unwrap());
    assert_ne!(engine.shell(&[], script).ok(), own.to_str().unwrap());
}

fn network_namespace(engine: &Ctr) {
    engine.start_detached(&[], "first", SLEEP);
    let path = format!("/proc/{}/ns/net", engine.task_pid("first"));
    let joined = engine.shell(&["--with-ns", &format!("network:{path}")], "readlink /proc/self/ns/net").ok();
    assert_eq!(joined, fs::read_link(path).unwrap().to_str().unwrap());
}

fn user_namespace(engine: &Ctr) {
    let options = ["--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536"];
    let output = engine.shell(&options, "cat /proc/self/uid_map /proc/self/gid_map; id -u").ok();
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(words, ["0", "100000", "65536", "0", "200000", "65536", "0"]);
}

fn rootfs(engine: &Ctr) {
    let dir = engine.containerd.dir.join("rootfs");
    crate::common::make_rootfs(&dir);
    let mut command = engine.containerd.ctr();
    command.args(["run", "--rm", "--runc-binary", engine.runtime.path.to_str().unwrap(), "--rootfs"]);
    command.args([dir.to_str().unwrap(), "c", "/bin/ls", "/"]);
    let output = crate::process::output_with_open_stdin(command);
    fs::remove_dir_all(dir).unwrap();
    assert!(output.ok().contains("mnt"));
}

fn no_pivot(engine: &Ctr) {
    assert_eq!(engine.shell(&["--no-pivot"], "echo $((6 * 7))").ok(), "42");
}

fn no_such_program(engine: &Ctr) {
    let output = engine.run(&["--rm"], "c", &["nosuch"]);
    assert!(output.stderr.contains("\"nosuch\": executable file not found in $PATH"), "{output:?}");
    let output = engine.run(&["--rm"], "c", &["/no/such"]);
    assert!(
        output.stderr.contains("\"/no/such\": ") && output.stderr.contains("no such file or directory"),
        "{output:?}"
    );
    assert_eq!(engine.ctr(&["task", "list", "--quiet"]).ok(), "");
}

fn not_executable(engine: &Ctr) {
    let output = engine.run(&["--rm"], "c", &["/etc/passwd"]);
    assert!(output.stderr.contains("\"/etc/passwd\": ") && output.stderr.contains("permission denied"), "{output:?}");
}

fn no_such_user_directory(engine: &Ctr) {
    // As with a WORKDIR that the image lacks: it is made.
    assert_eq!(engine.shell(&["--cwd", "/no/such"], "pwd").ok(), "/no/such");
}

fn id_in_use(engine: &Ctr) {
    engine.start_detached(&[], "c", SLEEP);
    let output = output(engine.command(&["--detach"], "c", SLEEP), "");
    assert!(output.failed().contains("already exists"));
    assert_eq!(engine.task_status("c"), "RUNNING");
    assert!(engine.ctr(&["image", "list", "--quiet"]).ok().contains(image::NAME));
}
