//! `hooks`: each as it is run (runtime-spec config.md, "POSIX-platform Hooks").

use super::Input;
use super::builder::{Builder, cpath, cstring};
use crate::error::{Error, Kind, Result};
use crate::init::{Environment, Exec, Hook, Op, Step};
use crate::sys::shared::Strings;
use oci_spec::runtime as oci;
use std::path::Path;
use std::time::Duration;

/// A state on stdin, but for the pid that goes between its halves. The hooks that init runs see a created container:
/// its environment is there, and its program does not run yet (runtime.md, "State" and "Lifecycle").
pub type State = [Vec<u8>; 2];

/// Where and how hooks of one kind run.
#[derive(Debug)]
pub struct Manner<'a> {
    /// "createContainer".
    pub name: &'a str,
    /// What they read.
    pub state: &'a State,
    /// Where they run, if not where their caller is.
    pub directory: Option<&'a Path>,
    /// Their file mode creation mask, if not their caller's.
    pub umask: Option<u32>,
    /// Whether one without `env` gets an environment all the same: of the hooks that init runs, that of the container's program; else that of who runs them.
    pub inherits_environment: bool,
}

/// Compiles one hook.
///
/// # Errors
/// A string with a NUL byte in it.
pub fn compile(index: usize, hook: &oci::Hook, manner: &Manner<'_>, steps: Vec<Step>) -> Result<Hook> {
    let field = format!("hooks.{}[{index}]", manner.name);
    let path = cpath(format_args!("{field}.path"), hook.path())?;
    let strings = |name: &str, list: Option<&[String]>| -> Result<Vec<_>> {
        list.unwrap_or_default().iter().map(|text| cstring(format_args!("{field}.{name}"), text)).collect()
    };
    let mut args = strings("args", hook.args().as_deref())?;
    if args.is_empty() {
        args.push(path.clone());
    }
    let env = Environment { strings: Strings::new(strings("env", hook.env().as_deref())?), home_room: false };
    Ok(Hook {
        name: format!("{} hook #{index}", manner.name),
        exec: Exec { candidates: vec![path], args: Strings::new(args), env },
        inherits_environment: manner.inherits_environment && hook.env().is_none(),
        state: manner.state.clone(),
        timeout: hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
        directory: manner.directory.map(|path| cpath(&field, path)).transpose()?,
        umask: manner.umask,
        steps,
    })
}

/// The sentence for a hook that failed as `words` say.
pub fn failure(hook: &Hook, words: &str) -> Error {
    let path = hook.path().to_string_lossy();
    Error::new(Kind::System, format!("error running {}: {path}: {words}", hook.name))
}

/// createContainer: before the root is changed, so that the hook is the host's and sees the container's mounts below
/// `root.path`.
pub(super) fn create_container(builder: &mut Builder, input: &Input<'_>) -> Result<()> {
    let list = input.hooks().and_then(|hooks| hooks.create_container().as_deref()).unwrap_or_default();
    let Some(state) = input.hook_state.filter(|_| !list.is_empty()) else { return Ok(()) };
    let manner = Manner {
        name: "createContainer",
        state,
        directory: Some(input.rootfs),
        umask: Some(0o022),
        inherits_environment: false,
    };
    builder.need_network();
    builder.push("hooks.createContainer", Op::AwaitRecord);
    for (index, hook) in list.iter().enumerate() {
        let hook = compile(index, hook, &manner, Vec::new())?;
        builder.push(format!("hooks.createContainer[{index}]"), Op::RunHook(Box::new(hook)));
    }
    Ok(())
}

/// startContainer: just before the program, as its user and with its rights; `confine` makes the steps that load the
/// filter of the program, for the hook is the image's.
pub(super) fn start_container(
    builder: &mut Builder,
    list: &[oci::Hook],
    state: &State,
    confine: impl Fn() -> Vec<Step>,
) -> Result<()> {
    let manner = Manner { name: "startContainer", state, directory: None, umask: None, inherits_environment: true };
    for (index, hook) in list.iter().enumerate() {
        let hook = compile(index, hook, &manner, confine())?;
        builder.push(format!("hooks.startContainer[{index}]"), Op::RunHook(Box::new(hook)));
    }
    Ok(())
}
