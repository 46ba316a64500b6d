//! `hooks`.

use super::{Check, absolute, environment};
use crate::error::{Error, Result};
use oci_spec::runtime::{Hook, Hooks};

/// The six points in a container's life at which hooks are called, in the order in which they come.
pub const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// The lists of `hooks`, as [`HOOKS`] names them.
fn lists(hooks: &Hooks) -> [&Option<Vec<Hook>>; 6] {
    #[allow(deprecated, reason = "prestart is deprecated in runtime-spec, and every engine's NVIDIA hook uses it")]
    let prestart = hooks.prestart();
    [
        prestart,
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ]
}

/// config.md, "POSIX-platform Hooks".
pub(super) fn hooks(check: &mut Check<'_>) -> Result<()> {
    let Some(hooks) = check.spec.hooks() else { return Ok(()) };
    for (name, list) in HOOKS.iter().zip(lists(hooks)) {
        for (index, hook) in list.iter().flatten().enumerate() {
            self::hook(&format!("hooks.{name}[{index}]"), hook)?;
        }
    }
    Ok(())
}

fn hook(field: &str, hook: &Hook) -> Result<()> {
    absolute(|| format!("{field}.path"), hook.path())?;
    for (index, entry) in hook.env().iter().flatten().enumerate() {
        environment(|| format!("{field}.env[{index}]"), entry)?;
    }
    match hook.timeout() {
        Some(timeout) if timeout <= 0 => {
            let problem = format!("{timeout} is not greater than 0: give seconds, or leave it out");
            Err(Error::config(format_args!("{field}.timeout"), problem))
        }
        _ => Ok(()),
    }
}
