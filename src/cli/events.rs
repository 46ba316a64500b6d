//! `microrun events`

use super::global::Global;
use super::grammar::{Flag, Verb};
use super::parse::Words;
use super::{json_line, print_json, print_to_reader, value};
use crate::container::control;
use crate::container::store::Store;
use crate::error::Result;
use std::time::Duration;

/// The verb.
pub static VERB: Verb = Verb {
    details: "Prints one line of JSON for each event, until the container ends or nobody reads it.",
    flags: &[
        Flag::value("interval", "DURATION", "the time between two lines of what it uses, such as 500ms (default: 5s)"),
        Flag::switch("stats", "print what it uses, once"),
    ],
    ..Verb::on_container("events", "print what a container uses, and when it runs out of memory", call)
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    let interval = words.text("interval")?.map(|text| value::duration("interval", text)).transpose()?;
    let store = Store::new(&global.root);
    if words.has("stats") {
        control::stats(&store, words.id()?, |line| print_json(line).map(drop))?;
    } else {
        let interval = interval.unwrap_or(Duration::from_secs(5));
        control::events(&store, words.id()?, interval, |line| print_to_reader(&json_line(line)?))?;
    }
    Ok(0)
}
