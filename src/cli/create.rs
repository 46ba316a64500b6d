//! `microrun create`

use super::global::Global;
use super::grammar::{Verb, shared};
use super::parse::Words;
use super::{launching, warn};
use crate::container::prepare::Options;
use crate::container::{run, sealed};
use crate::error::Result;
use crate::plan::Wait;

/// The verb.
pub static VERB: Verb = Verb {
    details: "\
Makes the container that the bundle's config.json describes, up to the point where its program would be
executed. start executes it.

The id is the container's name: unique among the containers of one --root, at most 1024 letters, digits
and characters of _ + - and \".\".",
    flags: &[
        shared::BUNDLE,
        shared::CONSOLE_SOCKET,
        shared::PIDFD_SOCKET,
        shared::PID_FILE,
        shared::NO_PIVOT,
        shared::NO_NEW_KEYRING,
        shared::PRESERVE_FDS,
        shared::OVERLAY,
    ],
    ..Verb::on_container("create", "create a container", call)
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    sealed::ensure(None)?;
    let bundle = launching::bundle(words);
    let options = launching::options(global, words, words.id()?, bundle)?;
    warn(run::create(&Options { wait: Wait::Start, lender: launching::lender(global), ..options })?);
    Ok(0)
}
