//! `microrun explain`

use super::global::Global;
use super::grammar::{Flag, Verb, shared};
use super::parse::Words;
use super::{launching, print, print_pretty, warn};
use crate::container::prepare::{self, Options};
use crate::error::{Error, Kind, Result};
use crate::plan::explain;
use std::path::PathBuf;

/// The verb.
pub static VERB: Verb = Verb {
    name: "explain",
    about: "print what a run of a bundle would do, step by step, and do nothing",
    operands: "[bundle]",
    count: (0, 1),
    details: "\
Compiles the bundle's config.json to the Plan that run executes, and prints it: each step with its system
call and the field of config.json that it comes from.",
    flags: &[
        shared::BUNDLE,
        Flag::value("id", "ID", "the id that the container would have"),
        Flag::switch("json", "print it as JSON"),
        shared::OVERLAY,
    ],
    passes_rest: false,
    failure: 1,
    call,
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    let bundle = match (words.operand(0)?, words.path("bundle")) {
        (Some(_), Some(_)) => return Err(Error::new(Kind::Usage, "there are two bundles: give one of them")),
        (Some(bundle), None) => PathBuf::from(bundle),
        (None, _) => launching::bundle(words),
    };
    let id = words.text("id")?.unwrap_or("explained");
    let options = launching::bare(global, id, bundle);
    let prepared = prepare::prepare(&Options { overlay: launching::overlay(words), foreground: true, ..options })?;
    warn(&prepared.warnings);
    if words.has("json") {
        return print_pretty(&explain::lines(&prepared.plan));
    }
    print(&explain::text(&prepared.plan))
}
