//! The command line from outside: help, mistakes, exit codes, and the log as engines read it.

#![allow(clippy::unwrap_used)] // In helpers of tests, which the lint takes for something else.

use microrun::cli::{VERBS, help};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The program under test: the one that $MICRORUN names, as `make test` does, or the one that cargo built.
fn program() -> PathBuf {
    std::env::var_os("MICRORUN").map_or_else(|| env!("CARGO_BIN_EXE_microrun").into(), PathBuf::from)
}

/// Runs a command line that is written with spaces, in a directory of its own.
fn run(directory: &TempDir, line: &str) -> Output {
    let words = line.split(' ').filter(|word| !word.is_empty());
    let mut command = Command::new(program());
    command.args(words).current_dir(directory.path()).env_remove("XDG_RUNTIME_DIR").stdin(Stdio::null());
    command.output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn every_verb_has_a_help() {
    let directory = directory();
    for verb in VERBS {
        for line in [format!("{} --help", verb.name), format!("{} -h", verb.name), format!("help {}", verb.name)] {
            let output = run(&directory, &line);
            let lines: Vec<&str> = stdout(&output).lines().collect();
            assert_eq!(code(&output), 0, "{line}");
            assert_eq!(lines[0], "NAME:", "{line}");
            assert!(lines[1].starts_with(&format!("   microrun {} - ", verb.name)), "{line}: {}", lines[1]);
            assert_eq!(stderr(&output), "", "{line}");
        }
    }
    for line in ["", "--help", "-h", "help"] {
        let output = run(&directory, line);
        assert_eq!(code(&output), 0, "{line}");
        assert!(stdout(&output).starts_with("NAME:\n   microrun - Open Container Initiative runtime\n"), "{line}");
    }
}

#[test]
fn the_reference_is_what_the_program_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");
    let text = fs::read_to_string(path).unwrap();
    assert!(text == help::markdown(), "docs/cli.md is not up to date: run make man");
}

#[test]
fn a_verb_that_does_not_exist() {
    for line in ["nosuch", "nosuch -h", "help nosuch"] {
        let output = run(&directory(), line);
        assert_eq!(code(&output), 3, "{line}");
        assert!(stderr(&output).contains("No help topic for 'nosuch'"), "{line}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{line}");
    }
}

#[test]
fn mistakes_are_one_line_on_stderr() {
    let directory = directory();
    let known = [
        ("--nosuch", "flag provided but not defined: -nosuch"),
        ("--root", "flag needs an argument: --root"),
        ("--root / list", "Option --root argument should not be set to /"),
        ("--rootless perhaps list", "invalid value \\\"perhaps\\\" for flag --rootless"),
        ("--log-format xml list", "invalid log-format: xml"),
        ("--log nosuch/log list", "open nosuch/log: no such file or directory"),
        ("state", "\\\"state\\\" requires exactly 1 argument(s)"),
        ("state a b", "\\\"state\\\" requires exactly 1 argument(s)"),
        ("kill", "\\\"kill\\\" requires a minimum of 1 argument(s)"),
        ("list x", "\\\"list\\\" requires exactly 0 argument(s)"),
        ("list -f xml", "invalid format option"),
        ("run", "\\\"run\\\" requires a bundle or an id"),
        ("run --id a b", "there are two ids"),
        ("run --preserve-fds x a", "invalid value \\\"x\\\" for flag --preserve-fds"),
        ("kill a NOSUCH", "unknown signal \\\"NOSUCH\\\""),
        ("state nosuch", "container does not exist"),
        ("delete nosuch", "container does not exist"),
    ];
    for (line, problem) in known {
        let output = run(&directory, &format!("--root ./state {line}"));
        assert_eq!(code(&output), 1, "{line}");
        assert_eq!(stdout(&output), "", "{line}");
        let error = stderr(&output);
        assert!(error.starts_with("time=\"") && error.contains("\" level=error msg=\""), "{line}: {error}");
        assert!(error.contains(problem), "{line}: {error}");
        assert_eq!(error.lines().count(), 1, "{line}: {error}");
    }
    for verb in VERBS {
        let output = run(&directory, &format!("{} --nosuch", verb.name));
        assert_eq!(code(&output), 1, "{}", verb.name);
        let problem = format!("flag provided but not defined: -nosuch: see {} --help", verb.name);
        assert!(stderr(&output).contains(&problem), "{}", stderr(&output));
    }
}

#[test]
fn the_log_is_what_engines_parse() {
    let directory = directory();
    let log = directory.path().join("log");
    let output = run(&directory, "--root ./state --log log --log-format json state nosuch");
    assert_eq!(code(&output), 1);
    let plain = stderr(&output).trim_end();
    assert!(plain.starts_with("container does not exist"), "{plain}");
    let line: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], plain);
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");

    // Appended to, and written to even for what is wrong behind the verb.
    let output = run(&directory, "--log=log state --nosuch");
    assert_eq!(code(&output), 1);
    let text = fs::read_to_string(&log).unwrap();
    let second = text.lines().nth(1).unwrap();
    assert!(second.contains("level=error msg=\"flag provided but not defined: -nosuch"), "{second}");
}

#[test]
fn the_version_is_what_engines_parse() {
    for line in ["--version", "-v"] {
        let output = run(&directory(), line);
        assert_eq!(code(&output), 0);
        let lines: Vec<&str> = stdout(&output).lines().collect();
        assert_eq!(lines[0], format!("microrun version {}", env!("CARGO_PKG_VERSION")));
        assert!(lines.contains(&"spec: 1.3.0"), "{lines:?}");
        assert!(lines[1..].iter().all(|line| !line.contains("version")), "{lines:?}");
    }
}

#[test]
fn the_program_goes_by_the_name_that_it_was_called_by() {
    let directory = directory();
    let link = directory.path().join("runc");
    symlink(program(), &link).unwrap();
    let output = Command::new(&link).arg("--version").output().unwrap();
    assert!(stdout(&output).starts_with("runc version "), "{}", stdout(&output));
    let output = Command::new(&link).args(["state", "-h"]).output().unwrap();
    assert!(stdout(&output).starts_with("NAME:\n   runc state - "), "{}", stdout(&output));
}

#[test]
fn no_containers() {
    let directory = directory();
    for (line, expected) in [
        ("list -q", ""),
        ("list -f json", "null\n"),
        ("list", "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"),
        ("delete --force nosuch", ""),
    ] {
        fs::create_dir_all(directory.path().join("state")).unwrap();
        let output = run(&directory, &format!("--root state {line}"));
        assert_eq!((code(&output), stdout(&output)), (0, expected), "{line}: {}", stderr(&output));
    }
    let output = run(&directory, "--root nosuch list");
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("no such file or directory"), "{}", stderr(&output));
}

#[test]
fn spec_writes_a_configuration_once() {
    let directory = directory();
    for (line, program) in [("spec", "sh"), ("spec --rootless", "sh"), ("spec --action /hello", "/hello")] {
        let output = run(&directory, line);
        assert_eq!(code(&output), 0, "{line}: {}", stderr(&output));
        let path = directory.path().join("config.json");
        let config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(config["process"]["args"][0], program, "{line}");
        let again = run(&directory, &format!("{line} -b ."));
        assert_eq!(code(&again), 1);
        assert!(stderr(&again).contains("\"File config.json exists. Remove it first\""), "{}", stderr(&again));
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_log_is_not_writable_for_others_whatever_the_umask() {
    let directory = directory();
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" --root ./state --log log state x"]).arg(program());
    assert!(!command.current_dir(directory.path()).stderr(Stdio::null()).status().unwrap().success());
    let log = fs::metadata(directory.path().join("log")).unwrap();
    assert_eq!(log.permissions().mode() & 0o777, 0o644);
}

#[test]
fn features_is_the_document_of_runtime_spec() {
    let output = run(&directory(), "features");
    assert_eq!(code(&output), 0);
    let document: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(document["ociVersionMax"], "1.3.0");
    let archs = document["linux"]["seccomp"]["archs"].as_array().unwrap();
    assert!(archs.iter().any(|arch| arch == "SCMP_ARCH_X86_64"), "{archs:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child =
        Command::new(program()).arg("--help").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(stderr(&output), "");
    assert_eq!(code(&output), 0);
}

#[test]
fn debug_logs_the_plan() {
    let directory = directory();
    fs::create_dir(directory.path().join("rootfs")).unwrap();
    assert_eq!(code(&run(&directory, "spec --action /nosuch")), 0);
    // There is no such program: whoever runs this test, nothing comes into being, and the plan was logged before.
    let output = run(&directory, "--debug --log log --log-format json --root ./state run x");
    assert_eq!(code(&output), 1);
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let debug: Vec<&Value> = lines.iter().filter(|line| line["level"] == "debug").collect();
    assert!(debug.iter().any(|line| line["msg"].as_str().unwrap().contains("clone3(")), "{log}");
    assert_eq!(lines.last().unwrap()["level"], "error");
}
