//! CRIU, and what it can do here.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use super::{Output, eventually, host, output};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Runs CRIU, for a minute at most.
pub fn run(args: &[&str]) -> Output {
    let mut command = Command::new("criu");
    command.args(args);
    output(command)
}

/// Whether CRIU can dump and restore a process on this machine, which is tried once; if not, why.
///
/// # Errors
/// What it says.
pub fn works() -> Result<(), String> {
    static WORKS: OnceLock<Result<(), String>> = OnceLock::new();
    WORKS
        .get_or_init(|| {
            if Command::new("criu").arg("--version").output().is_err() {
                return Err("needs criu (Debian's package criu)".to_owned());
            }
            let images = tempfile::tempdir().unwrap();
            let mut sleep = Command::new("setsid");
            sleep.args(["sleep", "1000"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut sleep = sleep.spawn().unwrap();
            let (pid, directory) = (sleep.id().to_string(), images.path().to_str().unwrap().to_owned());
            // In a session of its own, as it must be.
            eventually(|| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() == "sleep");
            let dumped = run(&["dump", "-t", &pid, "-D", &directory, "-o", "dump.log"]);
            let _ = sleep.kill();
            sleep.wait().unwrap();
            if dumped.code != 0 {
                return Err(format!(
                    "this machine's criu cannot dump a process: {}",
                    last_error(images.path(), "dump.log")
                ));
            }
            let restored = run(&["restore", "-D", &directory, "-o", "restore.log", "-d", "--pidfile", "pid"]);
            if restored.code != 0 {
                let why = last_error(images.path(), "restore.log");
                return Err(format!("this machine's criu cannot restore a process: {why}"));
            }
            let pid = fs::read_to_string(images.path().join("pid")).unwrap();
            host("kill", &["-KILL", pid.trim()]);
            Ok(())
        })
        .clone()
}

/// The last error that CRIU has written to `log` in `directory`.
fn last_error(directory: &Path, log: &str) -> String {
    let text = fs::read_to_string(directory.join(log)).unwrap_or_default();
    text.lines().rfind(|line| line.contains("Error")).unwrap_or("it does not say why").to_owned()
}
