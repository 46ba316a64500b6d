//! What is not a race: memory, system calls, and where the time of a start goes.

use super::lanes::{self, Lane, Words};
use microrun::bench::world::{Result, World};
use serde::Deserialize;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// The greatest resident set of each lane and of what it waits for, in KiB: median and maximum of `rounds`.
pub fn memory(world: &World, peak: &Path, lanes: &[Lane], rounds: usize) -> Result<Vec<(String, u64, u64)>> {
    let mut found = Vec::new();
    for lane in lanes {
        lanes::view(world, lane.view).enter()?;
        let mut words: Words = vec![peak.into()];
        words.extend(lane.steps.iter().flat_map(|(_, words)| words.clone()));
        let mut peaks = Vec::new();
        for _ in 0..rounds {
            let output = lanes::command(&words).stdout(Stdio::piped()).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            match text.lines().last().and_then(|line| line.parse().ok()).filter(|_| output.status.success()) {
                Some(peak) => peaks.push(peak),
                None => println!("  failed: {}: {}", lane.name, output.status),
            }
        }
        peaks.sort_unstable();
        if let (Some(median), Some(most)) = (peaks.get(peaks.len() / 2), peaks.last()) {
            found.push((lane.name.clone(), *median, *most));
        }
    }
    world.own.enter()?;
    Ok(found)
}

/// The system calls of each lane and all its children, as strace counts them.
pub fn calls(world: &World, lanes: &[Lane]) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for lane in lanes {
        lanes::view(world, lane.view).enter()?;
        let report = world.dir.join("strace");
        let mut words: Words = ["strace", "-f", "-c", "-o"].iter().map(OsString::from).collect();
        words.push((&report).into());
        words.extend(lane.steps.iter().flat_map(|(_, words)| words.clone()));
        let status = lanes::command(&words).status()?;
        let text = fs::read_to_string(&report).unwrap_or_default();
        // "100.00    0.000000           0       202        16 total"
        let total = text.lines().rfind(|line| line.ends_with(" total"));
        match total.and_then(|line| line.split_whitespace().nth(3)?.parse().ok()).filter(|_| status.success()) {
            Some(count) => found.push((lane.name.clone(), count)),
            None => println!("  failed: {}: {status}", lane.name),
        }
    }
    world.own.enter()?;
    Ok(found)
}

/// An entry of what `run --timings` writes.
#[derive(Deserialize)]
struct Timing {
    nanoseconds: u64,
    call: String,
    field: String,
}

/// A step of init: median microseconds, call and field.
pub struct Step {
    pub microseconds: f64,
    pub call: String,
    pub field: String,
}

/// The steps of a start, in their order, each with its median of `rounds` starts after `gap`.
pub fn steps(world: &World, lane: &Lane, rounds: usize, gap: Duration) -> Result<Vec<Step>> {
    lanes::view(world, lane.view).enter()?;
    let file = world.dir.join("timings");
    let (_, run) = &lane.steps[0];
    let at = run.iter().position(|word| word == "run").ok_or("no run")? + 1;
    let words = [&run[..at], &["--timings".into(), (&file).into()], &run[at..]].concat();
    let mut all: Vec<Vec<Timing>> = Vec::new();
    for _ in 0..rounds {
        std::thread::sleep(gap);
        let status = lanes::command(&words).status()?;
        if !status.success() {
            return Err(format!("{}: {status}", lanes::shown(&words)).into());
        }
        all.push(serde_json::from_slice(&fs::read(&file)?)?);
    }
    world.own.enter()?;
    let first = all.first().map(Vec::as_slice).unwrap_or_default();
    let median = |index: usize| {
        let mut values: Vec<u64> = all.iter().filter_map(|timings| Some(timings.get(index)?.nanoseconds)).collect();
        values.sort_unstable();
        values.get(values.len() / 2).map_or(0.0, |nanoseconds| *nanoseconds as f64 / 1000.0)
    };
    Ok(first
        .iter()
        .enumerate()
        .map(|(index, timing)| Step {
            microseconds: median(index),
            call: timing.call.clone(),
            field: timing.field.clone(),
        })
        .collect())
}
