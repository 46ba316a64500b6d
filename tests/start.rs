//! The socket on which a created container waits for `start`, and who else may come there.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A created container.
fn created(lab: &Lab, change: impl FnOnce(&mut Value)) -> Bundle {
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        change(config);
    });
    lab.created(&bundle);
    bundle
}

fn socket(lab: &Lab, bundle: &Bundle) -> PathBuf {
    lab.path("run").join(&bundle.id).join("start.sock")
}

/// Connects and says `words`.
fn say(lab: &Lab, bundle: &Bundle, words: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(socket(lab, bundle)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Init may hang up before all is written.
    let _ = stream.write_all(words);
    stream
}

#[track_caller]
fn starts_at_once(lab: &Lab, bundle: &Bundle) {
    let before = Instant::now();
    lab.microrun(&["start", &bundle.id]).ok();
    assert!(before.elapsed() < Duration::from_secs(10));
    assert_eq!(lab.status(&bundle.id), "running");
}

#[test]
fn nobody_else_can_connect_whatever_the_umask() {
    let lab = lab!();
    let bundle = lab.sleeping(|_| {});
    let create = lab.command(&["create", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(create.get_program()).args(create.get_args());
    // What is created would keep our end of a pipe open.
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    let mode = fs::metadata(socket(&lab, &bundle)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    starts_at_once(&lab, &bundle);
}

#[test]
fn who_says_nothing_keeps_nobody_waiting() {
    let lab = lab!();
    for count in [1, 16, 17, 100] {
        let bundle = created(&lab, |_| {});
        let silent: Vec<UnixStream> = (0..count).map(|_| say(&lab, &bundle, b"")).collect();
        assert_eq!(lab.status(&bundle.id), "created");
        starts_at_once(&lab, &bundle);
        for mut stream in silent {
            // Nobody keeps them.
            assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        }
    }
}

#[test]
fn few_descriptors_are_enough() {
    let lab = lab!();
    let bundle = created(&lab, |config| {
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 10}]);
    });
    let silent: Vec<UnixStream> = (0..50).map(|_| say(&lab, &bundle, b"")).collect();
    assert_eq!(lab.status(&bundle.id), "created");
    starts_at_once(&lab, &bundle);
    drop(silent);
}

#[test]
fn a_start_that_fails_before_the_word_takes_nothing_away() {
    let lab = lab!();
    let bundle = created(&lab, |_| {});
    // It has connected when it reads the config.json.
    let config = lab.path("run").join(&bundle.id).join("config.json");
    let kept = fs::read(&config).unwrap();
    fs::write(&config, "{").unwrap();
    assert!(lab.microrun(&["start", &bundle.id]).failed().contains("JSON ends too early"));
    fs::write(&config, kept).unwrap();
    starts_at_once(&lab, &bundle);
}

/// Docker deletes the container as soon as it hears of the failure, and not again if its shim says that init is there.
#[test]
fn a_start_that_fails_is_told_when_init_has_ended() {
    let lab = lab!();
    // It is found, but not executed.
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["/script"]));
    common::executable(&bundle.rootfs().join("script"), "#!/no/such/interpreter\n");
    let init = lab.created(&bundle);
    // Init cannot end before a process in its pid namespace is reaped, whose parent is stopped.
    let mut parent = lab.command(&["exec", &bundle.id, "sh", "-c", "echo here; exec sleep 1000"]);
    let mut parent = parent.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    parent.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    let signal = |signal| kill(Pid::from_raw(parent.id() as i32), signal).unwrap();
    signal(Signal::SIGSTOP);
    let mut start = lab.command(&["start", &bundle.id]);
    let mut start = start.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let calls = format!("/proc/{}/syscall", start.id());
    let polls = format!("{} ", nix::libc::SYS_ppoll);
    eventually(|| {
        start.try_wait().unwrap().is_some() || fs::read_to_string(&calls).is_ok_and(|call| call.starts_with(&polls))
    });
    let is_early = start.try_wait().unwrap().is_some();
    signal(Signal::SIGCONT);
    let said = start.wait_with_output().unwrap();
    parent.wait().unwrap();
    assert!(!is_early, "{said:?}");
    assert!(String::from_utf8_lossy(&said.stderr).contains("no such file or directory"), "{said:?}");
    let state = fs::read_to_string(format!("/proc/{init}/stat")).unwrap_or_else(|_| ") Z".into());
    assert!(state.contains(") Z"), "{state}");
}

#[test]
fn one_of_many_starts_is_first() {
    let lab = lab!();
    for _ in 0..5 {
        let bundle = created(&lab, |_| {});
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let mut command = lab.command(&["start", &bundle.id]);
                command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let ended: Vec<_> = starts.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
        let started = ended.iter().filter(|output| output.status.success()).count();
        assert_eq!(started, 1, "{ended:?}");
        for output in ended.iter().filter(|output| !output.status.success()) {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("cannot start "), "{said}");
        }
        eventually(|| lab.status(&bundle.id) == "running");
    }
}

#[test]
fn what_create_has_made_can_be_started_at_once() {
    let lab = lab!();
    for _ in 0..20 {
        let bundle = lab.bundle(|config| config["process"]["args"] = json!(["true"]));
        lab.create(&bundle, &[]).ok();
        lab.microrun(&["start", &bundle.id]).ok();
    }
}

#[test]
fn only_the_word_starts() {
    let lab = lab!();
    let bundle = created(&lab, |_| {});
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let one = prop::collection::vec(any::<u8>(), 0..200).prop_filter("the word", |words| words.first() != Some(&b'g'));
    let many = prop::collection::vec((one, any::<bool>()), 0..20);
    let result = runner.run(&many, |clients| {
        let streams: Vec<(UnixStream, bool)> = clients
            .into_iter()
            .map(|(words, stays)| (say(&lab, &bundle, &words), stays && !words.is_empty()))
            .collect();
        for (mut stream, stays) in streams {
            if stays {
                // Init hangs up; unread words make that a reset.
                prop_assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
            }
        }
        Ok(())
    });
    result.unwrap();
    assert_eq!(lab.status(&bundle.id), "created");
    starts_at_once(&lab, &bundle);
}
