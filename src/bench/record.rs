//! What a measurement leaves behind: the file of `--json`, from which tables, pages and comparisons are made.

use super::stats::Summary;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The version of this format.
pub const FORMAT: u32 = 1;

/// A whole measurement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// When it began: RFC 3339, UTC.
    pub date: String,
    /// The command line.
    pub command: Vec<String>,
    /// The machine, in pairs of what and value.
    pub machine: Vec<(String, String)>,
    /// CPUs that could be used.
    pub cpus: usize,
    /// The seed of the order of the starts and of the resampling.
    pub seed: u64,
    /// config.json, as all have it who take one, without `linux.cgroupsPath`, which says whose it is.
    pub config: serde_json::Value,
    /// A hash of that (64-bit FNV-1a), in hexadecimal.
    pub config_hash: String,
    /// Who was measured.
    pub rows: Vec<Row>,
    /// Who was not, and why.
    pub skipped: Vec<String>,
    /// The most starts a second of the cheapest program that the generator brings about.
    pub ceiling: Option<f64>,
    /// Where the time of microrun's init goes.
    pub steps: Vec<Step>,
    /// The system calls of the others and of microrun.
    pub calls: Vec<Calls>,
    /// How the time of a start grows.
    pub growth: Vec<Curve>,
    /// What a container costs.
    pub memory: Vec<Memory>,
    /// What a pool does when it runs dry.
    #[serde(default)]
    pub pool: Option<Pool>,
    /// What was left on the machine, and whose it was.
    pub left: Vec<String>,
    /// Whether a signal ended it early.
    pub interrupted: bool,
}

/// What a row is, and so what it may be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A program and nothing around it.
    Process,
    /// A virtual machine with its monitor.
    Unikernel,
    /// A container of the common configuration, or something like it.
    Container,
    /// The kernel's part of the common configuration.
    Floor,
    /// An engine, with its own configuration.
    Engine,
    /// Whatever `--peer` gave.
    Peer,
}

/// Someone who was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What it isolates, where that is not what the common configuration asks for.
    pub isolation: String,
    /// Its command line.
    pub command: String,
    /// What it says of its version.
    pub version: String,
    /// Starts one at a time, for each gap.
    pub latency: Vec<Latency>,
    /// Starts at the same time.
    pub load: Option<Load>,
}

/// Starts one at a time, in rounds with the others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Quiet before each start, in milliseconds.
    pub gap_ms: f64,
    /// Starts before those that count.
    pub warm_up: usize,
    /// Those of them that failed.
    pub warm_up_failures: usize,
    /// Spawn to first byte by round, in microseconds; null for a round without one.
    pub first_byte_us: Vec<Option<f64>>,
    /// Spawn to reaped, likewise.
    pub reaped_us: Vec<Option<f64>>,
    /// What failed, and how often. Time-outs are among them.
    pub failures: BTreeMap<String, usize>,
    /// How many were killed because they took too long.
    pub timeouts: usize,
    /// Why it was given up, if it was.
    pub given_up: Option<String>,
}

impl Latency {
    /// What is said of the first bytes and of the ends.
    pub fn summaries(&self) -> [Option<Summary>; 2] {
        [&self.first_byte_us, &self.reaped_us].map(|samples| {
            let counted: Vec<f64> = samples.iter().flatten().copied().collect();
            Summary::of(&counted)
        })
    }

    /// How many starts there were: somebody may take part in some of the rounds only.
    pub fn starts(&self) -> usize {
        self.reaped_us.iter().flatten().count() + self.failed()
    }

    /// How many starts failed.
    pub fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    /// "back to back", "after 300 ms of quiet".
    pub fn title(&self) -> String {
        gap_title(self.gap_ms)
    }
}

/// "back to back", "after 300 ms of quiet".
pub fn gap_title(gap_ms: f64) -> String {
    if gap_ms == 0.0 { "back to back".to_owned() } else { format!("after {gap_ms} ms of quiet") }
}

/// A gap in milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Starts at the same time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// So many workers, each of which starts the next when one has ended.
    pub closed: Vec<Closed>,
    /// Starts at a given rate, whatever comes back, in the order of the trials.
    pub open: Vec<Trial>,
    /// The highest rate that was kept up, in starts a second.
    pub knee: Option<f64>,
    /// Whether a higher rate was seen to fail; otherwise the search ended at its bound.
    pub bounded: bool,
}

impl Load {
    /// The trial at the knee.
    pub fn at_knee(&self) -> Option<&Trial> {
        self.open.iter().filter(|trial| trial.kept_up).max_by(|a, b| a.offered.total_cmp(&b.offered))
    }
}

/// A closed loop.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// Workers.
    pub workers: usize,
    /// Starts a second that succeeded.
    pub per_second: f64,
    /// Spawn to reaped, in microseconds: the median.
    pub median_us: f64,
    /// And the 99th percentile.
    pub p99_us: f64,
    /// Starts that failed.
    pub failed: usize,
}

/// A trial of the open loop.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Starts a second that were scheduled.
    pub offered: f64,
    /// Starts a second that succeeded.
    pub completed: f64,
    /// Scheduled time to reaped, in microseconds: the median.
    pub median_us: f64,
    /// And the 99th percentile.
    pub p99_us: f64,
    /// Starts that failed, or had not ended when the trial was over.
    pub failed: usize,
    /// Whether completions were 95 % of the offer or more.
    pub kept_up: bool,
    /// The share of the starts for which a pool had a sandbox ready, where there is a pool.
    #[serde(default)]
    pub hits: Option<f64>,
}

/// A step of microrun's init.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The median of its time, in microseconds.
    pub us: f64,
    /// The system call.
    pub call: String,
    /// The field of config.json that asks for it.
    pub field: String,
}

/// System calls as strace(1) sees them: their number is right, their time is not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Calls {
    /// Whose.
    pub row: String,
    /// How many there are.
    pub count: u64,
    /// The most expensive ones: name, number, and microseconds under strace.
    pub top: Vec<(String, u64, f64)>,
}

/// How the time of a start grows with something.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// With what: "containers alive".
    pub with: String,
    /// Whose.
    pub row: String,
    /// How many of them, median and p99 of spawn to reaped in microseconds, and failures.
    pub points: Vec<(usize, f64, f64, usize)>,
}

/// What a container that does nothing costs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Whose.
    pub row: String,
    /// The proportional set size of its runtime's processes while a foreground `run` lasts, in KiB.
    pub runtime_pss_kib: Option<u64>,
    /// How much less memory is free for each container, by difference over many, in KiB.
    pub kernel_kib: Option<f64>,
}

impl Memory {
    /// Whose proportional set size it is: a parked sandbox has no runtime beside it.
    pub fn of(&self) -> &'static str {
        if self.row == super::stage::PARKED { "a parked process" } else { "a foreground run" }
    }
}

/// Many requests at once, to a pool that is full and soon empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// How many sandboxes it holds.
    pub size: usize,
    /// From the burst to the end of each start, in microseconds, in the order of the ends: those that found a sandbox.
    pub hits_us: Vec<f64>,
    /// Those that did not, and started cold.
    pub misses_us: Vec<f64>,
    /// The same burst without a pool.
    pub cold_us: Vec<f64>,
    /// How many starts failed, with the pool and without.
    pub failed: [usize; 2],
    /// The proportional set size of the pool's process, in KiB.
    pub pss_kib: u64,
}

impl Pool {
    /// The bursts with their names.
    pub fn bursts(&self) -> [(&'static str, &[f64]); 3] {
        [
            ("from the pool", &self.hits_us),
            ("cold, for the pool was empty", &self.misses_us),
            ("all cold", &self.cold_us),
        ]
    }
}

impl Record {
    /// The row of that name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// The load average of the last minute at the beginning, if that is more than one for each CPU.
    pub fn busy(&self) -> Option<f64> {
        let (_, load) = self.machine.iter().find(|(what, _)| what == "load")?;
        let load: f64 = load.split(' ').next()?.parse().ok()?;
        (load > self.cpus as f64).then_some(load)
    }

    /// The gaps that were measured, in milliseconds.
    pub fn gaps(&self) -> Vec<f64> {
        let mut gaps: Vec<f64> = Vec::new();
        for gap in self.rows.iter().flat_map(|row| &row.latency).map(|latency| latency.gap_ms) {
            if !gaps.contains(&gap) {
                gaps.push(gap);
            }
        }
        gaps
    }
}

impl Row {
    /// Its starts with that gap.
    pub fn with_gap(&self, gap_ms: f64) -> Option<&Latency> {
        self.latency.iter().find(|latency| latency.gap_ms == gap_ms)
    }
}
