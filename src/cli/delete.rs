//! `microrun delete`

use super::global::Global;
use super::grammar::{Flag, Verb};
use super::parse::Words;
use super::warn;
use crate::container::manage;
use crate::container::state::Store;
use crate::error::Result;

/// The verb.
pub static VERB: Verb = Verb {
    name: "delete",
    about: "remove a container and all that it has left",
    operands: "<container-id>",
    count: (1, 1),
    details: "",
    flags: &[Flag::switch(
        "force",
        "kill it first if it runs; remove what is left of one that was cut short; nothing to remove is no error",
    )
    .short('f')],
    passes_rest: false,
    failure: 1,
    call,
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    warn(manage::delete(&Store::new(&global.root), words.id()?, words.has("force"))?);
    Ok(0)
}
