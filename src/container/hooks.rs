//! Hooks (runtime-spec config.md, "POSIX-platform Hooks"): programs of the operator that look at a container at six
//! points of its life.

use super::state::Report;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::process as sys_process;
use oci_spec::runtime::Hook;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Most of what a failed hook wrote to stderr that is repeated in the error, in bytes.
const MOST_STDERR: u64 = 4096;

/// Runs `hooks` one after the other, with `report` on their stdin. `join` is called in each child before it executes,
/// to enter the container's namespaces.
///
/// # Errors
/// The first hook that cannot be run, fails or does not end in time. Those after it are not run.
pub fn run(name: &str, hooks: &[Hook], report: &Report, join: Option<Join>) -> Result<()> {
    let state = serde_json::to_vec(report)
        .map_err(|error| Error::new(Kind::System, format!("describe the container to a hook: {error}")))?;
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, &state, join).map_err(|error| {
            error.context(format!("error running {name} hook #{index} ({})", hook.path().display()))
        })?;
    }
    Ok(())
}

/// Runs `hooks` whatever happens to each; what went wrong, for the log.
pub fn run_all(name: &str, hooks: &[Hook], report: &Report) -> Vec<Error> {
    hooks.iter().filter_map(|hook| run(name, std::slice::from_ref(hook), report, None).err()).collect()
}

/// The namespaces that a hook runs in: those of this process.
#[derive(Debug, Clone, Copy)]
pub struct Join {
    /// A descriptor of the process.
    pub pidfd: i32,
    /// `CLONE_NEW*`.
    pub kinds: i32,
}

fn run_one(hook: &Hook, state: &[u8], join: Option<Join>) -> Result<()> {
    let mut command = Command::new(hook.path());
    if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(args);
    }
    command.env_clear();
    for entry in hook.env().iter().flatten() {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        command.env(key, value);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    sys_process::before_exec(&mut command, move || match join {
        Some(join) => sys_process::setns(join.pidfd, join.kinds),
        None => Ok(()),
    });
    let mut child = command.spawn().doing(|| "execute it")?;
    let stderr = child.stderr.take();
    // The reader has a thread of its own: a hook may fill the pipe before it reads its stdin.
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut stderr) = stderr {
            let _ = stderr.by_ref().take(MOST_STDERR).read_to_string(&mut text);
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        }
        text
    });
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read what it is given.
        let _ = stdin.write_all(state);
    }
    let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    if let Some(timeout) = timeout
        && !sys_process::ends_within(child.id() as i32, timeout)
    {
        child.kill().and_then(|()| child.wait()).doing(|| "end it after its timeout")?;
        let problem = format!(
            "hook ran past specified timeout of {:.1}s: make it faster or its timeout longer",
            timeout.as_secs_f64()
        );
        return Err(Error::new(Kind::System, problem));
    }
    let status = child.wait().doing(|| "wait for it")?;
    if status.success() {
        return Ok(());
    }
    let text = reader.join().unwrap_or_default();
    let how = status.code().map_or_else(|| status.to_string(), |code| format!("exit status {code}"));
    Err(Error::new(Kind::System, format!("{how}, stdout: , stderr: {}", text.trim_end())))
}
