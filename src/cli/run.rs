//! `microrun run`

use super::global::Global;
use super::grammar::{Flag, Verb, shared};
use super::parse::Words;
use super::{launching, warn};
use crate::container::prepare::Options;
use crate::container::{run, sealed};
use crate::error::{Doing, Error, Kind, Result};
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};

/// The verb.
pub static VERB: Verb = Verb {
    name: "run",
    about: "create and run a container",
    operands: "<container-id> | <bundle>/",
    count: (0, 1),
    details: "\
Makes the container that the bundle's config.json describes, executes its program, waits for it, removes
the container and exits with the program's exit code (128 + N when signal N ended it).

An argument with a slash is a bundle; the id is then the one of --id, or made up. Otherwise the argument is
the id, and the bundle is the one of --bundle.",
    flags: &[
        shared::BUNDLE,
        Flag::value("id", "ID", "the container's id, for run <bundle>/"),
        shared::CONSOLE_SOCKET,
        shared::PIDFD_SOCKET,
        shared::DETACH,
        Flag::switch("keep", "do not remove the container when it has ended"),
        shared::PID_FILE,
        Flag::switch("no-subreaper", "accepted and without effect: microrun is no subreaper"),
        shared::NO_PIVOT,
        shared::NO_NEW_KEYRING,
        shared::PRESERVE_FDS,
        shared::OVERLAY,
        Flag::value("timings", "FILE", "write to this file, as JSON, how long each step took"),
    ],
    passes_rest: false,
    failure: 1,
    call,
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    sealed::ensure(None)?;
    let (id, bundle) = id_and_bundle(words)?;
    let timings = words.path("timings");
    let options = Options {
        foreground: !words.has("detach"),
        timings: timings.is_some(),
        ..launching::options(global, words, &id, bundle)?
    };
    let finished = run::run(&options, words.has("keep"))?;
    warn(&finished.warnings);
    if let Some(path) = timings {
        let text = super::to_json(serde_json::to_string_pretty(&finished.timings))?;
        fs::write(&path, text).doing(|| format!("write the timings to {}", path.display()))?;
    }
    // An exit code is the low byte, here as in exit(3).
    Ok(finished.status as u8)
}

fn id_and_bundle(words: &Words) -> Result<(String, PathBuf)> {
    let operand = words.operand(0)?;
    let given = words.text("id")?;
    match (operand, given, words.path("bundle")) {
        (Some(bundle), id, None) if bundle.contains('/') => {
            Ok((id.map_or_else(made_up_id, str::to_owned), PathBuf::from(bundle)))
        }
        (Some(id), None, bundle) => Ok((id.to_owned(), bundle.unwrap_or_else(|| PathBuf::from(".")))),
        (Some(_), Some(_), _) => {
            Err(Error::new(Kind::Usage, "there are two ids: give --id with a bundle, or an id alone"))
        }
        (None, id, Some(bundle)) => Ok((id.map_or_else(made_up_id, str::to_owned), bundle)),
        (None, Some(id), None) => Ok((id.to_owned(), Path::new(".").to_owned())),
        (None, None, None) => Err(Error::new(Kind::Usage, "\"run\" requires a bundle or an id: see run --help")),
    }
}

/// An id that no other container has: 64 random bits.
fn made_up_id() -> String {
    // The standard library keys its hashers with random bits from the kernel; the hash of nothing is as random as they are.
    format!("{:016x}", RandomState::new().build_hasher().finish())
}
