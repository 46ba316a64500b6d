//! The smaller documents: what `exec --process` and `update --resources` read.

use super::document::{Process, Resources};
use super::json::{self, Place};
use super::load;
use super::validate::validate_process;
use super::warning::Warning;
use crate::error::{Error, Result};
use oci_spec::runtime as oci;
use std::path::Path;

/// Reads and checks the process object at `path`, as `exec --process` takes it: the `process` of a config.json by
/// itself. It may be a pipe.
///
/// # Errors
/// One sentence which names the file, or the field that is wrong ("process.json: cwd: ...").
pub fn load_process(path: &Path) -> Result<(oci::Process, Vec<Warning>)> {
    let (process, warnings) = parse_process(&load::read_stream(Some(path))?)?;
    validate_process(&process).map_err(|error| by_itself(&error))?;
    Ok((process, warnings))
}

/// A rule's error about config.json's `process`, where that object is the whole document.
fn by_itself(error: &Error) -> Error {
    Error::new(error.kind(), error.to_string().replacen("config.json: process.", "process.json: ", 1))
}

/// Parses the bytes of a process object.
///
/// # Errors
/// One sentence which names the field that is wrong.
pub fn parse_process(text: &[u8]) -> Result<(oci::Process, Vec<Warning>)> {
    let process: Process = json::read(Place::PROCESS, text)?;
    let mut warnings = Vec::new();
    let mut finished = oci::Process::default();
    process.finish(&mut finished, &mut warnings);
    Ok((finished, warnings))
}

/// Reads the resources object at `path`, which may be a pipe, or on standard input where `path` is `None`.
///
/// # Errors
/// One sentence which names the file, or the field that is wrong.
pub fn load_resources(path: Option<&Path>) -> Result<oci::LinuxResources> {
    parse_resources(&load::read_stream(path)?)
}

/// Parses the bytes of a resources object, as `update --resources` takes it: the `linux.resources` of a config.json
/// by itself.
///
/// # Errors
/// One sentence which names the field that is wrong.
pub fn parse_resources(text: &[u8]) -> Result<oci::LinuxResources> {
    Ok(json::read::<Resources>(Place::RESOURCES, text)?.finish())
}
