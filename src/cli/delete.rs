//! `microrun delete`

use super::global::Global;
use super::grammar::{Flag, Verb};
use super::parse::Words;
use super::warn;
use crate::container::manage;
use crate::container::store::Store;
use crate::error::Result;

/// The verb.
pub static VERB: Verb = Verb {
    flags: &[Flag::switch(
        "force",
        "kill it first if it runs; remove what is left of one that was cut short; nothing to remove is no error",
    )
    .short('f')],
    ..Verb::on_container("delete", "remove a container and all that it has left", call)
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    let removed = manage::delete(&Store::new(&global.root), words.id()?, words.has("force"), global.rootless());
    warn(removed?);
    Ok(0)
}
