//! The socket on which a created container waits for `start`, and who else may come there.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab, eventually};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
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
    let kept = std::fs::read(&config).unwrap();
    std::fs::write(&config, "{").unwrap();
    assert!(lab.microrun(&["start", &bundle.id]).failed().contains("JSON ends too early"));
    std::fs::write(&config, kept).unwrap();
    starts_at_once(&lab, &bundle);
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
