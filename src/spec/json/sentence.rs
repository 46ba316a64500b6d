//! serde's messages, reworded for somebody who writes a config.json.

use super::path::Place;
use serde_json::error::Category;

/// What is wrong with a text that is not JSON, and where.
pub(super) fn syntax(error: &serde_json::Error) -> String {
    let place = format!("line {}, column {}", error.line(), error.column());
    let message = bare(error);
    match error.classify() {
        Category::Eof => format!("{place}: the JSON ends too early ({message}): complete it"),
        _ if message == "recursion limit exceeded" => {
            format!("{place}: objects and arrays are nested more than 128 deep: flatten them")
        }
        _ => format!("{place}: not valid JSON ({message}): correct it"),
    }
}

/// The field that is meant by `error`, which came up at `place`, and what is wrong with it.
pub(super) fn data(place: &Place, error: &serde_json::Error) -> (String, String) {
    let message = bare(error);
    if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        let dot = if place.container.is_empty() { "" } else { "." };
        return (format!("{}{dot}{field}", place.container), "is missing: add it".into());
    }
    // The text is JSON: a syntax error can only be about an object or array where the parser wants a name.
    let problem = match error.classify() {
        Category::Syntax => "is an object or an array: give a string".into(),
        _ => reworded(&message),
    };
    (place.value.clone(), problem)
}

/// The message of `error` without its line and column.
fn bare(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    message.strip_suffix(&place).unwrap_or(&message).into()
}

fn reworded(message: &str) -> String {
    if let Some((found, expected)) = parts(message, "unknown variant ") {
        let found = found.trim_matches('`');
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        return format!("unknown value {found:?}: use one of {}", known.join(", "));
    }
    for kind in ["invalid type: ", "invalid value: "] {
        if let Some((found, expected)) = parts(message, kind) {
            return format!("is {}: give {}", described(found), wanted(expected));
        }
    }
    // What serde says of a list where it wants a struct, whose fields it would take in order.
    if message.starts_with("invalid length ") && message.contains(", expected struct ") {
        return "is an array: give an object".into();
    }
    format!("{message}: correct it")
}

/// Splits "<prefix>FOUND, expected EXPECTED".
fn parts<'a>(message: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    message.strip_prefix(prefix)?.rsplit_once(", expected ")
}

/// serde's name for a piece of JSON, as a person would say it.
fn described(found: &str) -> String {
    match found {
        "map" => "an object".into(),
        "sequence" => "an array".into(),
        "null" => "null".into(),
        _ => match found.split_once(' ') {
            Some(("string", text)) => format!("the string {text}"),
            Some(("integer" | "number", text)) => format!("the number {}", text.trim_matches('`')),
            Some(("boolean", text)) => text.trim_matches('`').into(),
            Some(("floating", text)) => format!("the number {}", text.trim_start_matches("point ").trim_matches('`')),
            _ => found.into(),
        },
    }
}

/// What serde wanted, as a person would say it.
fn wanted(expected: &str) -> String {
    match expected {
        "u16" => whole(u16::MIN, u16::MAX),
        "u32" => whole(u32::MIN, u32::MAX),
        "u64" | "usize" => whole(u64::MIN, u64::MAX),
        "i32" => whole(i32::MIN, i32::MAX),
        "i64" => whole(i64::MIN, i64::MAX),
        "a sequence" => "an array".into(),
        "a map" => "an object".into(),
        "a boolean" => "true or false".into(),
        "path string" | "variant identifier" | "string or map" => "a string".into(),
        _ if expected.starts_with("struct ") => "an object".into(),
        _ => expected.into(),
    }
}

fn whole<T: std::fmt::Display>(least: T, most: T) -> String {
    format!("a whole number from {least} to {most}")
}
