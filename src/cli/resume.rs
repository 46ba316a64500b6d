//! `microrun resume`

use super::global::Global;
use super::grammar::Verb;
use super::parse::Words;
use crate::container::control;
use crate::container::store::Store;
use crate::error::Result;

/// The verb.
pub static VERB: Verb = Verb::on_container("resume", "let the processes of a paused container go on", call);

fn call(global: &Global, words: &Words) -> Result<u8> {
    control::resume(&Store::new(&global.root), words.id()?)?;
    Ok(0)
}
