//! What is wrong with a configuration without being a reason to refuse it.

use std::fmt;

/// Something that runtime-spec wants "logged as a warning": the container starts all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    field: String,
    problem: String,
}

impl Warning {
    /// The field `field` is not quite right; `problem` says how, and what happens instead.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}
