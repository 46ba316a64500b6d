//! `microrun kill`

use super::global::Global;
use super::grammar::{Flag, Verb};
use super::parse::Words;
use super::value;
use crate::container::manage;
use crate::container::store::Store;
use crate::error::Result;

/// The verb.
pub static VERB: Verb = Verb {
    name: "kill",
    about: "send a signal (default: SIGTERM) to the first process of a container",
    operands: "<container-id> [signal]",
    count: (1, 2),
    details: "The signal is a number or a name, with or without SIG: 9, KILL, SIGKILL.",
    flags: &[Flag::switch("all", "send it to all processes of the container").short('a')],
    passes_rest: false,
    failure: 1,
    call,
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    let id = words.id()?;
    let signal = value::signal(words.operand(1)?.filter(|text| !text.is_empty()).unwrap_or("TERM"))?;
    manage::kill(&Store::new(&global.root), id, signal, words.has("all")).map(|()| 0)
}
