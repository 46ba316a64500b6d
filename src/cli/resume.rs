//! `microrun resume`

use super::global::Global;
use super::grammar::Verb;
use super::parse::Words;
use crate::container::control;
use crate::container::state::Store;
use crate::error::Result;

/// The verb.
pub static VERB: Verb = Verb {
    name: "resume",
    about: "let the processes of a paused container go on",
    operands: "<container-id>",
    count: (1, 1),
    details: "",
    flags: &[],
    passes_rest: false,
    failure: 1,
    call,
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    control::resume(&Store::new(&global.root), words.id()?)?;
    Ok(0)
}
