//! `microrun run`

use super::global::Global;
use super::grammar::{Flag, Verb, shared};
use super::parse::Words;
use super::{end, launching, warn};
use crate::container::activation::Activation;
use crate::container::parts::{Lender, Parts};
use crate::container::prepare::Options;
use crate::container::relay::{Relay, has_terminal};
use crate::container::store::{Store, new_id};
use crate::container::{notify, run, sealed};
use crate::error::{Doing, Error, Kind, Result};
use crate::pool::{self, Got, Wanted};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
the id, and the bundle is the one of --bundle.

In the foreground and without a terminal of its own the program gets pipes in the place of a terminal, a file, a
socket or a device other than /dev/null. stdin is read before the program asks for it: use </dev/null in a loop
that reads its stdin. Output that cannot be written (a full disk) is lost: the program sees a closed pipe,
microrun says so, and exits with 1 if the program's code is 0.",
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
        Flag::value("pool", "WHEN", "have a pool start it: prefer (default: if one can), require or off"),
        Flag::value("timings", "FILE", "write to this file, as JSON, how long each step took"),
    ],
    passes_rest: false,
    failure: 1,
    call,
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    let (id, bundle) = id_and_bundle(words)?;
    if let Some((code, id)) = pool::orphan() {
        pool::remove_orphan(&Store::new(&global.root), &id);
        return Ok(code as u8);
    }
    let relay = if words.has("detach") { None } else { Relay::if_needed(|| has_terminal(&bundle))? };
    let code = run(global, words, id, bundle)?;
    Ok(end(relay, code))
}

fn run(global: &Global, words: &Words, id: Option<String>, bundle: PathBuf) -> Result<u8> {
    let (parts, lender) = match from_pool(global, words, id.as_deref(), &bundle)? {
        FromPool::Done(code) => return Ok(code),
        FromPool::Parts(parts) => (Some(parts), None),
        FromPool::Nothing(lender) => (None, lender),
    };
    sealed::ensure(None)?;
    let id = id.map_or_else(new_id, Ok)?;
    let timings = words.path("timings");
    let options = Options {
        foreground: !words.has("detach"),
        timings: timings.is_some(),
        parts,
        lender,
        ..launching::options(global, words, &id, bundle)?
    };
    let finished = run::run(&options, words.has("keep"), &|warnings| warn(warnings))?;
    warn(&finished.warnings);
    if let Some(path) = timings {
        let text = super::to_json(serde_json::to_string_pretty(&finished.timings))?;
        fs::write(&path, text).doing(|| format!("write the timings to {}", path.display()))?;
    }
    // An exit code is the low byte, here as in exit(3).
    Ok(finished.status as u8)
}

/// Options that make it another container than a pool has.
const COLD: [&str; 8] =
    ["console-socket", "pidfd-socket", "keep", "no-pivot", "no-new-keyring", "preserve-fds", "overlay", "timings"];

/// What a pool did for a start.
enum FromPool {
    /// All of it; the exit code.
    Done(u8),
    /// Parts of it.
    Parts(Arc<Parts>),
    /// Nothing; who may be asked for parts, if anybody.
    Nothing(Option<Lender>),
}

/// Has a pool start the container, if that is wanted and one can.
fn from_pool(global: &Global, words: &Words, id: Option<&str>, bundle: &Path) -> Result<FromPool> {
    let is_required = match words.text("pool")? {
        None | Some("prefer") => false,
        Some("require") => true,
        Some("off") => return Ok(FromPool::Nothing(None)),
        Some(other) => return Err(super::parse::invalid("pool", other, "prefer, require or off")),
    };
    let unless_required = |otherwise: FromPool, why: &str| match is_required {
        true => Err(Error::new(Kind::WrongState, format!("--pool=require: {why}"))),
        false => Ok(otherwise),
    };
    let nothing = FromPool::Nothing(None);
    let lender = || FromPool::Nothing(launching::lender(global));
    if let Some(option) = COLD.iter().find(|option| words.has(option)) {
        return unless_required(lender(), &format!("--{option} takes a cold start"));
    }
    if global.systemd_cgroup || Activation::of_this_process().is_some() || notify::address_in_environment().is_some() {
        return unless_required(lender(), "what a service manager sees to takes a cold start");
    }
    let Some(socket) = pool::socket() else { return unless_required(nothing, "MICRORUN_POOL is off") };
    // An earlier part of this process may have heard already that there is nothing, or no more than parts.
    if !is_required && pool::is_refused() {
        return Ok(match pool::given() {
            Some(parts) => FromPool::Parts(parts),
            None if pool::lends() => lender(),
            None => nothing,
        });
    }
    let store = Store::new(&global.root);
    let pid_file = words.path("pid-file");
    let wanted = Wanted {
        bundle,
        store: &store,
        id,
        detached: words.has("detach"),
        pid_file: pid_file.as_deref(),
        parts: !is_required && launching::takes_parts(global),
    };
    match pool::run(&socket, &wanted)? {
        Got::Done(code) => Ok(FromPool::Done(code as u8)),
        Got::Parts(parts) => Ok(FromPool::Parts(parts)),
        Got::Unknown => unless_required(lender(), "the pool has no parts for this bundle"),
        Got::Nothing(why) => unless_required(nothing, &why),
    }
}

fn id_and_bundle(words: &Words) -> Result<(Option<String>, PathBuf)> {
    let operand = words.operand(0)?;
    let given = words.text("id")?;
    match (operand, given, words.path("bundle")) {
        (Some(bundle), id, None) if bundle.contains('/') => Ok((id.map(str::to_owned), PathBuf::from(bundle))),
        (Some(id), None, bundle) => Ok((Some(id.to_owned()), bundle.unwrap_or_else(|| PathBuf::from(".")))),
        (Some(_), Some(_), _) => {
            Err(Error::new(Kind::Usage, "there are two ids: give --id with a bundle, or an id alone"))
        }
        (None, id, Some(bundle)) => Ok((id.map(str::to_owned), bundle)),
        (None, Some(id), None) => Ok((Some(id.to_owned()), Path::new(".").to_owned())),
        (None, None, None) => Err(Error::new(Kind::Usage, "\"run\" requires a bundle or an id: see run --help")),
    }
}
