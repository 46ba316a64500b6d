//! `microrun pause`

use super::global::Global;
use super::grammar::Verb;
use super::parse::Words;
use crate::container::control;
use crate::container::state::Store;
use crate::error::Result;

/// The verb.
pub static VERB: Verb = Verb {
    name: "pause",
    about: "stop all processes of a container where they are",
    operands: "<container-id>",
    count: (1, 1),
    details: "resume lets them go on.",
    flags: &[],
    passes_rest: false,
    failure: 1,
    call,
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    control::pause(&Store::new(&global.root), words.id()?)?;
    Ok(0)
}
