//! `microrun pause`

use super::global::Global;
use super::grammar::Verb;
use super::parse::Words;
use crate::container::control;
use crate::container::store::Store;
use crate::error::Result;

/// The verb.
pub static VERB: Verb = Verb {
    details: "resume lets them go on.",
    ..Verb::on_container("pause", "stop all processes of a container where they are", call)
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    control::pause(&Store::new(&global.root), words.id()?)?;
    Ok(0)
}
