//! `linux.seccomp`: kept as text until somebody needs it parsed.

use super::json::{self, Place};
use crate::error::Result;
use oci_spec::runtime::LinuxSeccomp;
use serde_json::value::RawValue;

/// The text of a seccomp section. The same text means the same filter, so compiled filters are cached by it.
#[derive(Debug, Clone)]
pub struct Seccomp {
    text: Box<RawValue>,
}

impl Seccomp {
    pub(super) fn new(text: Box<RawValue>) -> Self {
        Self { text }
    }

    /// The JSON text, byte for byte as the configuration has it.
    pub fn text(&self) -> &str {
        self.text.get()
    }

    /// Parses the text.
    ///
    /// # Errors
    /// One sentence which names the field that is wrong ("config.json: linux.seccomp.syscalls\[3\].action: ...").
    pub fn parse(&self) -> Result<LinuxSeccomp> {
        json::read(Place::SECCOMP, self.text().as_bytes())
    }
}
