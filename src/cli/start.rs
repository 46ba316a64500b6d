//! `microrun start`

use super::global::Global;
use super::grammar::Verb;
use super::parse::Words;
use crate::container::store::Store;
use crate::container::{notify, start};
use crate::error::Result;

/// The verb.
pub static VERB: Verb = Verb::on_container("start", "execute the program of a created container", call);

fn call(global: &Global, words: &Words) -> Result<u8> {
    let manager = notify::address_in_environment();
    start::start(&Store::new(&global.root), words.id()?, manager.as_deref())?;
    Ok(0)
}
