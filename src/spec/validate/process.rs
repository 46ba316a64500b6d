//! `process`, in config.json and by itself.

use super::{Check, no_nul};
use crate::error::{Error, Result};
use crate::spec::warning::Warning;
use oci_spec::runtime::Process;
use std::os::unix::ffi::OsStrExt;

/// config.md, "Process".
pub(super) fn process(check: &mut Check<'_>) -> Result<()> {
    match check.spec.process() {
        Some(process) => check_process(process, &mut check.warnings),
        None => Err(Error::config("process", "is missing: say what to run")),
    }
}

/// Checks a process object, be it config.json's or the one that `exec` was given.
///
/// # Errors
/// The first rule that it breaks, in one sentence that names the field.
pub fn check_process(process: &Process, _warnings: &mut Vec<Warning>) -> Result<()> {
    let args = process.args().as_deref().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::config("process.args", "is empty: name the program to run"));
    }
    for (index, arg) in args.iter().enumerate() {
        no_nul(|| format!("process.args[{index}]"), arg.as_bytes())?;
    }
    let cwd = process.cwd();
    if !cwd.is_absolute() {
        return Err(Error::config("process.cwd", format!("{cwd:?} is not absolute: begin it with a slash (\"/\")")));
    }
    no_nul(|| "process.cwd".into(), cwd.as_os_str().as_bytes())
}
