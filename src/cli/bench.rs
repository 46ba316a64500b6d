//! `microrun bench`
//!
//! The verb executes `microrun-bench`, which reads the same command line by the same definition: what measures is not in
//! the binary that is measured (docs/benchmark.md has the reason).

use super::global::Global;
use super::grammar::{Flag, Verb};
use super::parse::{self, Request, Words, invalid};
use super::{help, print, value};
use crate::bench::contender::on_path;
use crate::bench::options::{Options, Part};
use crate::bench::provider::Prices;
use crate::bench::{self, compare, table};
use crate::error::{Error, Kind, Result};
use crate::log;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The program that measures.
const PROGRAM: &str = "microrun-bench";

/// The verb.
pub static VERB: Verb = Verb {
    name: "bench",
    about: "measure starts against bare processes and other runtimes",
    operands: "[A.json B.json]",
    count: (0, 2),
    details: "\
Measures how long the simplest action takes as a bare process and in the containers of what is on PATH of
microrun, runc, crun, youki and bubblewrap, and how many a second are kept up. It needs root.

In the COMMAND of --peer, {rootfs}, {bundle}, {id} and {slot} stand for what a start gets. It has to write
\"Hello\" and to end with code 0. Programs are found in $PATH or by an absolute path.

With --compare A.json B.json it measures nothing and shows what changed between two records.",
    flags: &[
        Flag::switch("quick", "less than three minutes: fewer rounds, trials and sizes"),
        Flag::value("only", "ROW[,ROW]", "these rows, and the bare process"),
        Flag::value("parts", "PART[,PART]", "latency, throughput, steps, growth, pool (default: all)"),
        Flag::switch(
            "action",
            "with the configuration of spec --action, without its limits, instead of runc's default",
        ),
        Flag::switch("engines", "measure containers of ctr, podman and docker, too, where they are installed"),
        Flag::value("peer", "NAME=COMMAND", "measure this, too (may be given several times)"),
        Flag::value("runtime", "NAME=PROGRAM", "a runtime with runc's command line (may be given several times)"),
        Flag::value(
            "microrun",
            "PATH",
            "the runtime under test (default: $MICRORUN, else the one beside microrun-bench, else on PATH)",
        ),
        Flag::value("rounds", "N", "rounds back to back (default: 300, quick: 100)"),
        Flag::value("gap", "DURATION[,DURATION]", "quiet before each start (default: 0,300ms); each is measured"),
        Flag::value("timeout", "DURATION", "how long one start may take (default: 5s)"),
        Flag::value("trial", "DURATION", "how long a rate is offered (default: 3s, quick: 1s)"),
        Flag::value("pool-size", "N", "how many sandboxes the pool of the parked rows holds (default: 16)"),
        Flag::value("workers", "N[,N]", "workers of the closed loops (default: 1 to 64)"),
        Flag::value("price-hour", "DOLLARS", "what the machine costs an hour (default: 0.188)"),
        Flag::value("price-action", "DOLLARS", "what is paid for an action (default: 0.000000417)"),
        Flag::value("seed", "N", "the order of the starts"),
        Flag::value("json", "FILE", "write the record to this file"),
        Flag::value("csv", "FILE", "write all samples to this file"),
        Flag::value("report", "DIR", "write a page with the figures into this directory"),
        Flag::value("from", "FILE", "measure nothing: show the record that --json wrote"),
        Flag::switch("compare", "show what changed from A.json to B.json"),
    ],
    passes_rest: false,
    failure: 1,
    call: execute,
};

/// Executes the program that measures with the words of this command line.
fn execute(_: &Global, _: &Words) -> Result<u8> {
    let mut words = std::env::args_os();
    let program = find(PROGRAM).ok_or_else(|| {
        let problem = format!("{PROGRAM} is neither beside this program nor on PATH: make bench builds it");
        Error::new(Kind::NoProgram, problem)
    })?;
    let error = Command::new(&program).arg0(words.next().unwrap_or_default()).args(words).exec();
    Err(Error::io(format!("execute {}", program.display()), &error))
}

/// The program of that name beside this one, or on PATH.
fn find(name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(name)).filter(|path| path.is_file());
    beside.or_else(|| on_path(name))
}

/// What `microrun-bench` does: `args` are those of `microrun bench`, or those after `bench` if it is called by its own
/// name. Returns the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let own_name = args.first().is_some_and(|arg0| Path::new(arg0).file_name().is_some_and(|name| name == PROGRAM));
    if own_name {
        args.insert(1, VERB.name.into());
    }
    let command = args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let (_, request) = parse::parse(args.into_iter().skip(1));
    let done = match request {
        Ok(Request::Call(_, words)) => measure(&words, command),
        Ok(_) => print(&help::verb("microrun", &VERB)),
        Err(error) => Err(error),
    };
    done.unwrap_or_else(|error| {
        log::error(error);
        1
    })
}

fn measure(words: &Words, command: Vec<String>) -> Result<u8> {
    let system = |error: Box<dyn std::error::Error>| Error::new(Kind::System, error.to_string());
    if words.has("compare") {
        let (Some(before), Some(after)) = (words.operand(0)?, words.operand(1)?) else {
            return Err(Error::new(Kind::Usage, "--compare takes two records: --compare A.json B.json"));
        };
        let read = |path: &str| bench::read(Path::new(path)).map_err(system);
        return print(&compare::text(&read(before)?, &read(after)?));
    }
    if let Some(operand) = words.operand(0)? {
        return Err(Error::new(Kind::Usage, format!("{operand:?} is for --compare alone: see bench --help")));
    }
    let options = options(words, command)?;
    match words.path("from") {
        Some(path) => {
            let record = bench::read(&path).map_err(system)?;
            print(&table::head(&record))?;
            print(&table::text(&record, options.prices))?;
            bench::write(&record, &options).map_err(system)?;
            Ok(0)
        }
        None => bench::run(&options).map_err(system),
    }
}

fn options(words: &Words, command: Vec<String>) -> Result<Options> {
    let quick = words.has("quick");
    let microrun = match (absolute(words, "microrun")?, std::env::var_os("MICRORUN")) {
        (Some(path), _) => path,
        (None, Some(path)) => std::path::absolute(&path).map_err(|error| Error::io("find $MICRORUN", &error))?,
        (None, None) => find("microrun").ok_or_else(|| {
            let problem = "there is no microrun beside microrun-bench or on PATH: give --microrun PATH";
            Error::new(Kind::NoProgram, problem)
        })?,
    };
    let duration = |name, default| words.text(name)?.map_or(Ok(default), |text| value::duration(name, text));
    let seconds = |whole, short| Duration::from_secs(if quick { short } else { whole });
    let rounds = words.parsed("rounds", "a number")?.unwrap_or(if quick { 100 } else { 300 });
    let parts = list(words, "parts")?.map_or_else(|| Ok(Part::ALL.map(|(_, part)| part).to_vec()), parts)?;
    let gaps = list(words, "gap")?.unwrap_or_else(|| vec!["0".into(), "300ms".into()]);
    Ok(Options {
        quick,
        rounds,
        gaps: gaps.iter().map(|gap| quiet(gap)).collect::<Result<_>>()?,
        only: list(words, "only")?.unwrap_or_default(),
        action: words.has("action"),
        engines: words.has("engines"),
        peers: pairs(words, "peer")?,
        runtimes: pairs(words, "runtime")?,
        microrun,
        seed: words.parsed("seed", "a number")?.unwrap_or_else(|| u64::from(std::process::id())),
        timeout: duration("timeout", Duration::from_secs(5))?,
        trial: duration("trial", seconds(3, 1))?,
        pool_size: pool_size(words)?,
        workers: workers(list(words, "workers")?, quick)?,
        parts,
        prices: prices(words)?,
        json: absolute(words, "json")?,
        csv: absolute(words, "csv")?,
        report: absolute(words, "report")?,
        command,
    })
}

fn pool_size(words: &Words) -> Result<usize> {
    let what = "a number from 1 to 1000";
    let size: usize = words.parsed("pool-size", what)?.unwrap_or(16);
    if (1..=1000).contains(&size) { Ok(size) } else { Err(invalid("pool-size", &size.to_string(), what)) }
}

fn quiet(gap: &str) -> Result<Duration> {
    if gap == "0" { Ok(Duration::ZERO) } else { value::duration("gap", gap) }
}

fn prices(words: &Words) -> Result<Prices> {
    let price = |name, default: f64| {
        let what = "an amount in dollars above 0";
        let price = words.parsed(name, what)?.unwrap_or(default);
        if price > 0.0 { Ok(price) } else { Err(invalid(name, &price.to_string(), what)) }
    };
    let default = Prices::default();
    Ok(Prices { hour: price("price-hour", default.hour)?, action: price("price-action", default.action)? })
}

/// The path of an option from the root: who enters a mount namespace loses the working directory.
fn absolute(words: &Words, name: &str) -> Result<Option<PathBuf>> {
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).map_err(|error| Error::io(format!("find {}", path.display()), &error))
    };
    words.path(name).map(absolute).transpose()
}

fn list(words: &Words, name: &str) -> Result<Option<Vec<String>>> {
    let split = |text: &str| text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    Ok(words.text(name)?.map(split))
}

fn parts(names: Vec<String>) -> Result<Vec<Part>> {
    let part = |name: String| {
        let known = Part::ALL.iter().find(|(known, _)| *known == name);
        known
            .map(|(_, part)| *part)
            .ok_or_else(|| invalid("parts", &name, "latency, throughput, steps, growth or pool"))
    };
    names.into_iter().map(part).collect()
}

fn workers(given: Option<Vec<String>>, quick: bool) -> Result<Vec<usize>> {
    let default: &[usize] = if quick { &[1, 2, 8] } else { &[1, 2, 4, 8, 16, 32, 64] };
    let Some(given) = given else { return Ok(default.to_vec()) };
    let number = |text: &String| {
        let number = text.parse().ok().filter(|number| (1..=64).contains(number));
        number.ok_or_else(|| invalid("workers", text, "numbers from 1 to 64"))
    };
    given.iter().map(number).collect()
}

fn pairs(words: &Words, name: &str) -> Result<Vec<(String, String)>> {
    let pair = |text: String| {
        let pair = text.split_once('=').filter(|(name, command)| !name.is_empty() && !command.trim().is_empty());
        let pair = pair.map(|(name, command)| (name.to_owned(), command.to_owned()));
        pair.ok_or_else(|| invalid(name, &text, "NAME=COMMAND"))
    };
    words.texts(name)?.into_iter().map(pair).collect()
}
