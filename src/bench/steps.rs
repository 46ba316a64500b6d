//! Where the time of a start goes: init's steps for microrun, system calls for everybody.

use super::contender::{Contender, words_to_command};
use super::record::{Calls, Step};
use super::sample;
use super::stage::Stage;
use super::stats::Summary;
use super::world::{Result, doing};
use crate::pool;
use crate::sys::interrupt;
use serde::Deserialize;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// An entry of what `run --timings` writes.
#[derive(Deserialize)]
struct Timing {
    nanoseconds: u64,
    call: String,
    field: String,
}

/// The steps of `contender`, which is microrun, in their order, each with its median of `rounds` starts.
///
/// # Errors
/// A start fails, or what it wrote cannot be read.
pub fn of_init(stage: &Stage, contender: &Contender, rounds: usize) -> Result<Vec<Step>> {
    let file = stage.log_file("timings");
    let mut words = stage.filled(contender, &contender.words, 0);
    let at = words.iter().position(|word| word == "run").ok_or("microrun is not called with run")? + 1;
    words.splice(at..at, [OsString::from("--timings"), file.clone().into_os_string()]);
    let mut all: Vec<Vec<Timing>> = Vec::new();
    for _ in 0..rounds {
        if interrupt::caught() {
            break;
        }
        sample::said(&mut words_to_command(words.iter().cloned()), LIMIT)
            .map_err(|failure| format!("{} with --timings: {failure}", contender.name))?;
        all.push(serde_json::from_slice(&fs::read(&file).map_err(doing("read the timings in", &file))?)?);
    }
    let median = |index: usize| {
        let of = |timings: &Vec<Timing>| timings.get(index).map(|timing| timing.nanoseconds as f64 / 1e3);
        let values: Vec<f64> = all.iter().filter_map(of).collect();
        Summary::of(&values).map_or(0.0, |summary| summary.median)
    };
    let Some(first) = all.first() else { return Ok(Vec::new()) };
    let step = |(index, timing): (usize, &Timing)| Step {
        us: (median(index) * 10.0).round() / 10.0,
        call: timing.call.clone(),
        field: timing.field.clone(),
    };
    Ok(first.iter().enumerate().map(step).collect())
}

/// The system calls of a start and all its processes, as strace counts them.
///
/// # Errors
/// Why there are none: it does not succeed under strace, or its processes do not end.
pub fn calls(stage: &Stage, contender: &Contender, strace: &Path) -> std::result::Result<Calls, String> {
    let report = stage.log_file("strace");
    let mut words: Vec<OsString> = vec![strace.into()];
    words.extend(["-f", "-c", "-w", "-S", "time", "-o"].map(OsString::from));
    words.push(report.clone().into_os_string());
    words.extend(stage.filled(contender, &contender.words, 0));
    let mut command = words_to_command(words);
    let done = sample::said(command.env(pool::VARIABLE, stage.socket_for(contender)), LIMIT);
    if let Err(failure) = done {
        stage.clean_up(contender, 0);
        return Err(failure.to_string());
    }
    let report = fs::read_to_string(&report).map_err(doing("read what strace wrote to", &report))?;
    Ok(counted(&contender.name, &report))
}

/// How long a start with strace or timings may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Reads the table of `strace -c`: "% time, seconds, usecs/call, calls, [errors,] syscall".
fn counted(row: &str, table: &str) -> Calls {
    let mut calls = Calls { row: row.to_owned(), ..Calls::default() };
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(name), Some(Ok(seconds)), Some(Ok(count))) =
            (words.last(), words.get(1).map(|word| word.parse::<f64>()), words.get(3).map(|word| word.parse::<u64>()))
        else {
            continue;
        };
        if *name == "total" {
            calls.count = count;
        } else if calls.top.len() < TOP {
            calls.top.push(((*name).to_owned(), count, (seconds * 1e6).round()));
        }
    }
    calls
}

/// How many of the most expensive calls are kept.
const TOP: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_strace() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.39    0.001235         205         6           wait4
 10.00    0.000200           2       100         7 openat
------ ----------- ----------- --------- --------- ----------------
100.00    0.002012           9       202        16 total
";
        let calls = counted("x", table);
        assert_eq!(calls.count, 202);
        assert_eq!(calls.top, [("wait4".to_owned(), 6, 1235.0), ("openat".to_owned(), 100, 200.0)]);
    }
}
