//! JSON into types, with errors for people.
//!
//! A document that is right is parsed once, as fast as can be. Only one that is not is parsed again: into a tree
//! first, where what Go's decoder forgives is forgiven, and then by the same parser, whose error says at which byte, from
//! which [`path`] finds out in which field. (A parser that keeps track of the path as it goes is the parser's code a
//! second time, half a megabyte, and moves the hot half apart.)

use super::load::contains;
use crate::error::{Error, Kind, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

mod path;
mod sentence;
mod shape;
mod tolerate;

/// Which document, and where in it, is being read.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// How errors call the document.
    document: &'static str,
    /// The path of the value inside the document; empty for the whole.
    field: &'static str,
    /// Forgives what is not quite right in it.
    tolerate: fn(&mut Value),
}

impl Place {
    /// The whole of config.json.
    pub(super) const CONFIG: Self = Self { document: "config.json", field: "", tolerate: tolerate::config };
    /// `linux.seccomp` of config.json.
    pub(super) const SECCOMP: Self =
        Self { document: "config.json", field: "linux.seccomp", tolerate: tolerate::seccomp };
    /// What `exec --process` reads.
    pub(super) const PROCESS: Self = Self { document: "process.json", field: "", tolerate: tolerate::process };
    /// What `update --resources` reads.
    pub(super) const RESOURCES: Self = Self { document: "resources", field: "", tolerate: tolerate::resources };

    /// The error that `problem` holds of the field `path` below this place.
    fn error(self, path: &str, problem: &str) -> Error {
        let dot = if self.field.is_empty() || path.is_empty() || path.starts_with('[') { "" } else { "." };
        let field = format!("{}{dot}{path}", self.field);
        let colon = if field.is_empty() { "" } else { ": " };
        let words =
            if problem.starts_with("unknown") || problem.contains("missing") { runcs_words(&field) } else { "" };
        Error::new(Kind::Config, format!("{}: {field}{colon}{words}{problem}", self.document))
    }
}

/// What tools that know runc look for in an error that has to do with `field`.
fn runcs_words(field: &str) -> &'static str {
    match field.strip_prefix("linux.memoryPolicy.") {
        Some("mode") => "invalid memory policy mode: ",
        Some(flags) if flags.starts_with("flags") => "invalid memory policy flag: ",
        _ => "",
    }
}

/// Parses `text`, which is all of the document or all of the value at `place`.
///
/// # Errors
/// One sentence which names the field, or the line of a syntax error.
pub(super) fn read<T: DeserializeOwned>(place: Place, text: &[u8]) -> Result<T> {
    let text = std::str::from_utf8(text)
        .map_err(|error| place.error("", &format!("byte {} is not UTF-8: write JSON in UTF-8", error.valid_up_to())))?;
    let value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(_) => read_again(place, text)?,
    };
    if shape::is_doubtful(text) {
        refuse_arrays(place, text)?;
    }
    // The only way to write a NUL byte in JSON. The kernel would take the part before it for the whole.
    if contains(text.as_bytes(), b"\\u0000", b'\\') {
        refuse_nul(place, text)?;
    }
    Ok(value)
}

/// The second, slow attempt: either it succeeds, or it knows what is wrong and where.
#[cold]
fn read_again<T: DeserializeOwned>(place: Place, text: &str) -> Result<T> {
    let mut tree: Value = serde_json::from_str(text).map_err(|error| place.error("", &sentence::syntax(&error)))?;
    objects_only(place, &tree)?;
    (place.tolerate)(&mut tree);
    // As text again, without line breaks: the column of an error is its place, counted in bytes.
    let text = tree.to_string();
    serde_json::from_str(&text).map_err(|error| {
        let (path, problem) = sentence::data(&path::at(&text, error.column()), &error);
        place.error(&path, &problem)
    })
}

/// Refuses an array where an object belongs.
#[cold]
fn refuse_arrays(place: Place, text: &str) -> Result<()> {
    let tree: Value = serde_json::from_str(text).map_err(|error| place.error("", &sentence::syntax(&error)))?;
    objects_only(place, &tree)
}

fn objects_only(place: Place, tree: &Value) -> Result<()> {
    match shape::misplaced_array(tree) {
        Some(path) => Err(place.error(path.trim_start_matches('.'), "is an array: give an object")),
        None => Ok(()),
    }
}

/// Refuses a NUL byte in any string but annotations, which never reach the kernel.
#[cold]
fn refuse_nul(place: Place, text: &str) -> Result<()> {
    let tree: Value = serde_json::from_str(text).map_err(|error| place.error("", &sentence::syntax(&error)))?;
    match nul(&tree) {
        Some(path) => Err(place.error(path.trim_start_matches('.'), "has a NUL byte (\\u0000) in it: remove it")),
        None => Ok(()),
    }
}

/// The path of the first string below `value` that has a NUL byte in it. The parser has bounded the depth.
fn nul(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| nul(item).map(|path| format!("[{index}]{path}")))
        }
        Value::Object(members) => {
            members.iter().filter(|(name, _)| *name != "annotations").find_map(|(name, member)| {
                if name.contains('\0') {
                    return Some(format!(".{}", name.escape_default()));
                }
                nul(member).map(|path| format!(".{name}{path}"))
            })
        }
        _ => None,
    }
}
