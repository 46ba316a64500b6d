//! `docker exec`.

use super::{Docker, SLEEP};
use crate::cases;
use crate::common::{Output, eventually};
use crate::process::{on_terminal_of, output};
use crate::runner::Case;

pub fn cases() -> Vec<Case<Docker>> {
    cases![
        exec,
        exec_tty,
        exec_stdin,
        exec_options,
        exec_detached,
        exec_no_such_program,
        exec_not_executable_is_126,
        exec_privileged,
        exec_while_paused,
        exec_in_the_limits,
        exec_many,
    ]
}

/// Runs a program in a new container that sleeps.
fn exec_in(engine: &Docker, options: &[&str], program: &[&str]) -> Output {
    engine.start(&["--env", "A=b"], "box", SLEEP);
    engine.docker(&[&["exec"], options, &["box"], program].concat())
}

pub fn exec(engine: &Docker) {
    let output = exec_in(engine, &[], &["sh", "-c", "echo $A; echo err >&2; exit 7"]);
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (7, "b", "err"));
}

pub fn exec_tty(engine: &Docker) {
    engine.start(&[], "box", SLEEP);
    let script = "tty; until stty size | grep -v '^0 0'; do usleep 10000; done; read x; echo got $x; exit 4";
    let command = engine.command(&["exec", "-it", "box", "sh", "-c", script]);
    let output = on_terminal_of(&command, "typed\n", Some((31, 77)));
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stdout.contains("/dev/pts/0"), "{output:?}");
    assert!(output.stdout.contains("31 77") && output.stdout.contains("got typed"), "{output:?}");
}

pub fn exec_stdin(engine: &Docker) {
    engine.start(&[], "box", SLEEP);
    assert_eq!(output(engine.command(&["exec", "--interactive", "box", "wc", "-c"]), "12345").ok(), "5");
}

pub fn exec_options(engine: &Docker) {
    let options = ["--user", "user", "--workdir", "/tmp", "--env", "X=y"];
    assert_eq!(
        exec_in(engine, &options, &["sh", "-c", "id -u; id -G; pwd; echo $X $A"]).ok(),
        "1000\n1000 1001\n/tmp\ny b"
    );
}

pub fn exec_detached(engine: &Docker) {
    exec_in(engine, &["--detach"], &["sh", "-c", "echo done >/tmp/file"]).ok();
    eventually(|| engine.docker(&["exec", "box", "cat", "/tmp/file"]).stdout == "done");
}

pub fn exec_no_such_program(engine: &Docker) {
    // Docker 20.10 makes 126 of it, with runc as well; later ones make 127.
    let output = exec_in(engine, &[], &["nosuch"]);
    assert!(matches!(output.code, 126 | 127), "{output:?}");
    assert!(output.to_text().contains("\"nosuch\": executable file not found in $PATH"), "{output:?}");
    let output = engine.docker(&["exec", "box", "/no/such"]);
    assert!(matches!(output.code, 126 | 127), "{output:?}");
    assert!(output.to_text().contains("no such file or directory"), "{output:?}");
}

pub fn exec_not_executable_is_126(engine: &Docker) {
    let output = exec_in(engine, &[], &["/etc/passwd"]);
    assert_eq!(output.code, 126, "{output:?}");
    assert!(output.to_text().contains("\"/etc/passwd\": permission denied"), "{output:?}");
}

pub fn exec_privileged(engine: &Docker) {
    let effective = |output: Output| {
        let text = output.ok();
        u64::from_str_radix(text.split_whitespace().last().unwrap(), 16).unwrap()
    };
    const SYS_ADMIN: u64 = 1 << 21;
    let grep = ["grep", "CapEff", "/proc/self/status"];
    assert_eq!(effective(exec_in(engine, &[], &grep)) & SYS_ADMIN, 0);
    let privileged = engine.docker(&[&["exec", "--privileged", "box"], &grep[..]].concat());
    assert_eq!(effective(privileged) & SYS_ADMIN, SYS_ADMIN);
}

pub fn exec_while_paused(engine: &Docker) {
    engine.start(&[], "box", SLEEP);
    engine.docker(&["pause", "box"]).ok();
    assert!(engine.docker(&["exec", "box", "true"]).failed().contains("paused"));
    engine.docker(&["unpause", "box"]).ok();
    engine.docker(&["exec", "box", "true"]).ok();
}

pub fn exec_in_the_limits(engine: &Docker) {
    engine.start(&["--ulimit", "nofile=100:200", "--pids-limit", "20"], "box", SLEEP);
    assert_eq!(
        engine.docker(&["exec", "box", "sh", "-c", "ulimit -n; cat /proc/self/cgroup"]).ok().lines().next(),
        Some("100")
    );
    let own = engine.docker(&["exec", "box", "cat", "/proc/self/cgroup"]).ok();
    assert_eq!(own, engine.docker(&["exec", "box", "cat", "/proc/1/cgroup"]).ok());
}

pub fn exec_many(engine: &Docker) {
    engine.start(&[], "box", SLEEP);
    std::thread::scope(|scope| {
        for number in 0..10 {
            let number = number.to_string();
            scope.spawn(move || assert_eq!(engine.docker(&["exec", "box", "echo", &number]).ok(), number));
        }
    });
}

impl Output {
    /// All that it wrote, on stdout or stderr: clients differ in where they put an error.
    fn to_text(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}
