//! `microrun pool`

use super::global::Global;
use super::grammar::{Flag, Verb};
use super::parse::Words;
use super::{launching, print};
use crate::container::prepare::Options;
use crate::container::sealed;
use crate::container::state::Store;
use crate::error::{Error, Kind, Result};
use crate::plan::Wait;
use crate::pool::{self, Pace, Settings};
use std::path::PathBuf;
use std::time::Duration;

/// The verb.
pub static VERB: Verb = Verb {
    name: "pool",
    about: "keep sandboxes ready, so that run finds them made",
    operands: "serve | status | fill | drain [<bundle>/...]",
    count: (1, usize::MAX),
    details: "\
serve runs a pool, which keeps --size sandboxes of each bundle ready: all that config.json asks for is done, up to
the execution of the program. `run <bundle>/` uses one if there is one that fits, and starts cold otherwise.

status says what there is, fill has the pool keep sandboxes of more bundles, drain has it give them up.",
    flags: &[
        Flag::value("socket", "PATH", "where the pool listens (default: $MICRORUN_POOL, or /run/microrun-pool/socket)"),
        Flag::value("size", "N", "how many sandboxes of each bundle (default: 4)"),
        Flag::value("max", "N", "the most sandboxes of all bundles together (default: 1024)"),
        Flag::value("cpu", "PERCENT", "the share of a CPU that making them may take (default: 100)"),
        Flag::value("rate", "N", "the most that are made in a second (default: no limit)"),
        Flag::value("idle", "SECONDS", "give up a bundle that nobody has asked for so long (default: never)"),
    ],
    passes_rest: false,
    failure: 1,
    call,
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    let socket = words.path("socket").or_else(pool::socket).unwrap_or_else(|| PathBuf::from(pool::SOCKET));
    let size = words.parsed("size", "how many sandboxes")?.unwrap_or(4);
    let bundles = words.operands().iter().skip(1).map(PathBuf::from);
    match words.operand(0)? {
        Some("serve") => {
            sealed::ensure(None)?;
            let directory = socket.parent().map(|parent| parent.join("parked")).unwrap_or_default();
            let options = Options {
                store: Store::new(directory),
                wait: Wait::Lease { filtered: false },
                ..launching::bare(global, "", PathBuf::new())
            };
            pool::serve(Settings {
                options,
                bundles: bundles.map(|bundle| (bundle, size)).collect(),
                pace: Pace {
                    cpu: words.parsed("cpu", "a percentage")?.unwrap_or(100),
                    rate: words.parsed("rate", "how many in a second")?.unwrap_or(0),
                },
                idle: words.parsed("idle", "a number of seconds")?.map(Duration::from_secs),
                most: words.parsed("max", "how many sandboxes")?.unwrap_or(1024),
                socket,
            })?;
            Ok(0)
        }
        Some("status") => print(&format!("{}\n", pool::ask(&socket, pool::Wish::Status)?)),
        Some("fill") => {
            bundles.map(|bundle| pool::ask(&socket, pool::Wish::Fill(&bundle, size))).collect::<Result<Vec<_>>>()?;
            Ok(0)
        }
        Some("drain") => {
            bundles.map(|bundle| pool::ask(&socket, pool::Wish::Drain(&bundle))).collect::<Result<Vec<_>>>()?;
            Ok(0)
        }
        _ => Err(Error::new(Kind::Usage, "give one of serve, status, fill and drain: see pool --help")),
    }
}
