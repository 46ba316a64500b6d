//! What a measurement is asked for.

use super::provider::Prices;
use std::path::PathBuf;
use std::time::Duration;

/// The options of `microrun bench`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Less than three minutes.
    pub quick: bool,
    /// Rounds back to back.
    pub rounds: usize,
    /// Quiet before each start; each is measured.
    pub gaps: Vec<Duration>,
    /// These rows alone; all if there are none.
    pub only: Vec<String>,
    /// With the configuration of `spec --action` instead of runc's.
    pub action: bool,
    /// Whether engines take part.
    pub engines: bool,
    /// Other programs: name and command line.
    pub peers: Vec<(String, String)>,
    /// Other runtimes with runc's command line: name and program.
    pub runtimes: Vec<(String, String)>,
    /// The runtime under test.
    pub microrun: PathBuf,
    /// The order of the starts.
    pub seed: u64,
    /// How long one start may take.
    pub timeout: Duration,
    /// How long a trial of the open loop lasts, and a closed loop.
    pub trial: Duration,
    /// How many sandboxes the pool holds.
    pub pool_size: usize,
    /// Workers of the closed loops.
    pub workers: Vec<usize>,
    /// What is measured.
    pub parts: Vec<Part>,
    /// The provider's prices.
    pub prices: Prices,
    /// Where the record goes, and the samples as comma-separated values, and the page.
    pub json: Option<PathBuf>,
    /// See `json`.
    pub csv: Option<PathBuf>,
    /// A directory, see `json`.
    pub report: Option<PathBuf>,
    /// The command line, for the record.
    pub command: Vec<String>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One start at a time.
    Latency,
    /// Many at a time.
    Throughput,
    /// Where the time goes.
    Steps,
    /// How cost grows.
    Growth,
    /// A pool that runs dry, and what its sandboxes cost.
    Pool,
}

impl Part {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("latency", Self::Latency),
        ("throughput", Self::Throughput),
        ("steps", Self::Steps),
        ("growth", Self::Growth),
        ("pool", Self::Pool),
    ];
}

impl Options {
    /// Whether `part` is wanted.
    pub fn wants(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// How many rounds with `gap` of quiet.
    pub fn rounds_with(&self, gap: Duration) -> usize {
        if gap.is_zero() { self.rounds } else { self.rounds.div_ceil(if self.quick { 15 } else { 3 }) }
    }
}
