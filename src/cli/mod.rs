//! The command line: one file for each verb, and what they share.
//!
//! [`main`] reads the arguments by the [grammar], sets the log up, calls the verb and turns what it returns into the exit
//! code. A verb's file says what its options are and hands them to [`container`](crate::container).

pub mod bench;
mod checkpoint;
mod create;
mod criu;
mod delete;
mod events;
mod exec;
mod explain;
pub mod features;
pub mod global;
pub mod grammar;
pub mod help;
mod kill;
mod launching;
mod list;
pub mod parse;
mod pause;
mod pool;
mod pool_config;
mod ps;
mod restore;
mod resume;
mod run;
mod spec;
mod start;
mod state;
mod update;
pub mod value;
pub mod version;

use crate::container::relay::Relay;
use crate::error::{Kind, Result};
use crate::log;
use grammar::Verb;
use parse::Request;
use std::ffi::OsString;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

/// All verbs, in the order of the help.
pub static VERBS: &[&Verb] = &[
    &bench::VERB,
    &checkpoint::VERB,
    &create::VERB,
    &delete::VERB,
    &events::VERB,
    &exec::VERB,
    &explain::VERB,
    &features::VERB,
    &kill::VERB,
    &list::VERB,
    &pause::VERB,
    &pool::VERB,
    &ps::VERB,
    &restore::VERB,
    &resume::VERB,
    &run::VERB,
    &spec::VERB,
    &start::VERB,
    &state::VERB,
    &update::VERB,
];

/// The exit code of runc for a verb that does not exist.
const NO_SUCH_VERB: u8 = 3;

/// The verb of that name.
pub fn verb_named(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name).copied()
}

/// Does what the command line `args`, program included, asks for, and returns the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let mut args = args.into_iter();
    let program = program_name(args.next());
    let (globals, request) = parse::parse(args);
    // An error on the command line has to reach the log that the same command line names.
    if let Err(error) = global::set_up_log(&globals) {
        log::error(error);
        return 1;
    }
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            let code = if error.kind() == Kind::NoVerb { NO_SUCH_VERB } else { 1 };
            log::error(error);
            return code;
        }
    };
    let (done, failure) = match request {
        Request::Help => (print(&help::program(&program)), 1),
        Request::VerbHelp(verb) => (print(&help::verb(&program, verb)), 1),
        Request::Version => (print(&version::text(&program)), 1),
        Request::Call(verb, words) => {
            let done = global::Global::new(&globals).and_then(|global| (verb.call)(&global, &words));
            (done.map_err(|error| in_runcs_words(&program, verb, error)), verb.failure)
        }
    };
    done.unwrap_or_else(|error| {
        if error.is_on_stderr() {
            log::record(error);
        } else {
            log::error(error);
        }
        failure
    })
}

/// An error of init, told as runc tells it: engines and their users look for the words.
fn in_runcs_words(program: &str, verb: &Verb, error: crate::error::Error) -> crate::error::Error {
    if error.is_in_init() && matches!(verb.name, "run" | "create") {
        let name = verb.name;
        return error.context(format!(
            "{program} {name} failed: unable to start container process: error during container init"
        ));
    }
    error
}

/// The name that the program was called by: who links it as `runc` sees that name in the help and in `--version`.
fn program_name(arg0: Option<OsString>) -> String {
    let arg0 = arg0.unwrap_or_default();
    let name = Path::new(&arg0).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "microrun".to_owned())
}

/// Writes to standard output. A reader that went away is no error.
fn print(text: &str) -> Result<u8> {
    print_to_reader(text).map(|_| 0)
}

/// Writes to standard output, if anybody reads it: whether to go on.
fn print_to_reader(text: &str) -> Result<ControlFlow<()>> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(crate::error::Error::io("write to standard output", &error)),
    }
}

/// Writes `value` to standard output as one line of JSON.
fn print_json(value: &impl serde::Serialize) -> Result<u8> {
    print(&json_line(value)?)
}

fn json_line(value: &impl serde::Serialize) -> Result<String> {
    Ok(format!("{}\n", to_json(serde_json::to_string(value))?))
}

/// Writes `value` to standard output as JSON with two spaces of indent.
fn print_pretty(value: &impl serde::Serialize) -> Result<u8> {
    print(&format!("{}\n", to_json(serde_json::to_string_pretty(value))?))
}

fn to_json(json: serde_json::Result<String>) -> Result<String> {
    json.map_err(|error| crate::error::Error::new(Kind::System, format!("write as JSON: {error}")))
}

/// What to exit with after `relay` has passed on what the container wrote: `code`, but for a success of which something is lost.
fn end(relay: Option<Relay>, code: u8) -> u8 {
    let lost = relay.map(Relay::end).unwrap_or_default();
    let failure = u8::from(!lost.is_empty());
    warn(lost);
    if code == 0 { failure } else { code }
}

/// Tells the user what stopped nothing.
fn warn(warnings: impl IntoIterator<Item = impl std::fmt::Display>) {
    warnings.into_iter().for_each(log::warn);
}
