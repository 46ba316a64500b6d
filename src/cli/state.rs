//! `microrun state`

use super::global::Global;
use super::grammar::Verb;
use super::parse::Words;
use super::print_pretty;
use crate::container::manage;
use crate::container::store::Store;
use crate::error::Result;

/// The verb.
pub static VERB: Verb = Verb {
    details: "Prints the state as runtime-spec defines it (JSON), with runc's rootfs, created and owner.",
    ..Verb::on_container("state", "print the state of a container", call)
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    print_pretty(&manage::state(&Store::new(&global.root), words.id()?)?)
}
