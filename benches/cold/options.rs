//! The command line.

use microrun::bench::world::Result;
use std::path::PathBuf;
use std::time::Duration;

pub const USAGE: &str = "\
usage: make bench-cold BENCH='OPTION...'   (or: cargo bench --bench cold -- OPTION...)

  --quick                 less than a minute: few rounds, the v2 view alone, quiet before the starts of \"v2\" alone
  --rounds N              rounds back to back (300); a third as many with a gap
  --gap 0,300ms           how long to be quiet before each start; each is measured
  --only NAME[,NAME]      these scenarios: v2, own, limits, seccomp, exec, lifecycle, memory, calls, steps
  --lanes NAME[,NAME]     these contestants
  --runtime NAME=COMMAND  a further runtime with runc's command line, or another for crun, runc or bwrap
  --microrun PATH         the program under test ($MICRORUN, dist/microrun)
  --tools DIRECTORY       where floor, pause, peak and hello are (dist)
  --priority              before the machine's other work: a cgroup with a large share of the CPU, and short time slices
  --seed N                for the order of the starts
  --json FILE             all samples, too
";

/// What the command line says.
pub struct Options {
    pub quick: bool,
    pub rounds: usize,
    pub gaps: Vec<Duration>,
    pub only: Vec<String>,
    pub lanes: Vec<String>,
    pub runtimes: Vec<(String, String)>,
    pub microrun: PathBuf,
    pub tools: PathBuf,
    pub priority: bool,
    pub seed: u64,
    pub json: Option<PathBuf>,
    pub help: bool,
}

impl Options {
    /// Reads `arguments`.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let dist = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/dist"));
        let mut options = Self {
            quick: false,
            rounds: 300,
            gaps: Vec::new(),
            only: Vec::new(),
            lanes: Vec::new(),
            runtimes: Vec::new(),
            microrun: std::env::var_os("MICRORUN").map_or_else(|| dist.join("microrun"), PathBuf::from),
            tools: dist,
            priority: false,
            seed: u64::from(std::process::id()),
            json: None,
            help: false,
        };
        let mut rounds = None;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} wants a value"));
            match argument.as_str() {
                // What cargo adds.
                "--bench" => {}
                "--quick" => options.quick = true,
                "--priority" => options.priority = true,
                "--help" | "-h" => options.help = true,
                "--rounds" => rounds = Some(value()?.parse()?),
                "--seed" => options.seed = value()?.parse()?,
                "--gap" => options.gaps = value()?.split(',').map(duration).collect::<Result<_>>()?,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--microrun" => options.microrun = std::path::absolute(value()?)?,
                "--tools" => options.tools = std::path::absolute(value()?)?,
                "--lanes" => options.lanes = value()?.split(',').map(str::to_owned).collect(),
                "--json" => options.json = Some(std::path::absolute(value()?)?),
                "--runtime" => {
                    let value = value()?;
                    let (name, command) = value.split_once('=').ok_or("--runtime wants NAME=COMMAND")?;
                    options.runtimes.push((name.to_owned(), command.to_owned()));
                }
                _ => return Err(format!("unknown option {argument}\n\n{USAGE}").into()),
            }
        }
        options.rounds = rounds.unwrap_or(if options.quick { 30 } else { 300 });
        if options.gaps.is_empty() {
            options.gaps = vec![Duration::ZERO, Duration::from_millis(300)];
        }
        Ok(options)
    }

    /// Whether the scenario `name` is asked for.
    pub fn wants(&self, name: &str) -> bool {
        match self.only.as_slice() {
            [] => !self.quick || ["v2", "seccomp", "exec", "lifecycle", "memory", "calls"].contains(&name),
            only => only.iter().any(|wanted| wanted == name),
        }
    }

    /// How many rounds of the scenario `name`, with `gap`.
    pub fn rounds(&self, name: &str, gap: Duration) -> usize {
        match (gap.is_zero(), self.quick) {
            (true, _) => self.rounds,
            (false, true) if name == "v2" => self.rounds.div_ceil(4),
            (false, true) => 0,
            (false, false) => self.rounds.div_ceil(3),
        }
    }
}

/// "300ms", "1s", "0".
fn duration(text: &str) -> Result<Duration> {
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no duration: write 300ms"));
    Ok(match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(milliseconds), _) => Duration::from_millis(number(milliseconds)?),
        (None, Some(seconds)) => Duration::from_secs(number(seconds)?),
        (None, None) if text == "0" => Duration::ZERO,
        (None, None) => return Err(format!("{text:?} is no duration: write 300ms").into()),
    })
}
