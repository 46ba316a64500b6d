//! What a configuration may say: all that can be refused is refused here, before anything exists.
//!
//! One function for each rule, listed in [`RULES`]. runtime-spec's MUST decides; where it leaves room, runc's practice.

use super::warning::Warning;
use crate::error::{Error, Result};
use oci_spec::runtime::Spec;

mod process;
mod root;

/// One rule: it refuses the configuration with an error, or adds warnings.
type Rule = fn(&mut Check<'_>) -> Result<()>;

/// All rules, in the order in which their errors are reported.
const RULES: &[Rule] = &[root::version, root::root, process::process];

/// A configuration that is being checked.
struct Check<'a> {
    spec: &'a Spec,
    warnings: Vec<Warning>,
}

impl Check<'_> {
    fn warn(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.warnings.push(Warning::new(field, problem));
    }
}

/// Checks `spec` and returns what has to be logged.
///
/// # Errors
/// The first rule that `spec` breaks, in one sentence that names the field.
pub fn validate(spec: &Spec) -> Result<Vec<Warning>> {
    let mut check = Check { spec, warnings: Vec::new() };
    for rule in RULES {
        rule(&mut check)?;
    }
    Ok(check.warnings)
}

/// Refuses `text` if it has a NUL byte: the kernel would take the part before it for the whole.
fn no_nul(field: impl FnOnce() -> String, text: &[u8]) -> Result<()> {
    if text.contains(&0) { Err(Error::config(&field(), "has a NUL byte in it: remove it")) } else { Ok(()) }
}
