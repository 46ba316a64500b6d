//! Rounds: everybody once, in an order that changes, after a while of quiet.

use super::lanes::{self, HELLO, Kind, Lane};
use microrun::bench::sample::{self, Failure, Sample};
use microrun::bench::stats::Random;
use microrun::bench::world::{self, Result, World};
use microrun::sys::{pidfd, process};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::PipeReader;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// A start that takes longer is killed, and counted as failed.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Rounds that are not counted.
const WARM_UP: usize = 3;

/// The samples of one step of one lane.
pub struct Row {
    pub lane: String,
    pub kind: Kind,
    /// By round; `None` for a failure.
    pub samples: Vec<Option<Sample>>,
    /// What failed, and how often.
    pub failures: BTreeMap<String, usize>,
}

impl Row {
    /// The figures of one measure by round.
    pub fn values(&self, measure: impl Fn(&Sample) -> Option<f64>) -> Vec<Option<f64>> {
        self.samples.iter().map(|sample| measure(sample.as_ref()?)).collect()
    }
}

/// What came of a scenario.
pub struct Outcome {
    pub rows: Vec<Row>,
    /// Lanes that never worked, and why.
    pub dropped: Vec<String>,
}

/// Runs `rounds` rounds of `lanes`, with `gap` of quiet before each command.
pub fn run(world: &World, lanes: &[Lane], rounds: usize, gap: Duration, random: &mut Random) -> Result<Outcome> {
    let mut dropped = Vec::new();
    let mut racers: Vec<Racer<'_>> = Vec::new();
    for lane in lanes {
        let mut racer = Racer::new(world, lane);
        match racer.warm_up() {
            Ok(()) => racers.push(racer),
            Err(why) => {
                racer.tear_down();
                dropped.push(format!("{}: {why}", lane.name));
            }
        }
    }
    let kept = world::children();
    for _ in 0..rounds {
        let mut order: Vec<&mut Racer<'_>> = racers.iter_mut().collect();
        random.shuffle(&mut order);
        for racer in order {
            racer.lap(gap, &kept)?;
        }
    }
    racers.iter().for_each(Racer::tear_down);
    world.own.enter()?;
    world::end_orphans(&[]);
    Ok(Outcome { rows: racers.into_iter().flat_map(|racer| racer.rows).collect(), dropped })
}

struct Racer<'a> {
    world: &'a World,
    lane: &'a Lane,
    rows: Vec<Row>,
}

impl<'a> Racer<'a> {
    fn new(world: &'a World, lane: &'a Lane) -> Self {
        let row = |kind| Row { lane: lane.name.clone(), kind, samples: Vec::new(), failures: BTreeMap::new() };
        Self { world, lane, rows: lane.steps.iter().map(|(kind, _)| row(*kind)).collect() }
    }

    fn enter(&self) -> Result<()> {
        lanes::view(self.world, self.lane.view).enter()
    }

    /// Sets up and makes the rounds that are not counted; why not, if none succeeds.
    fn warm_up(&mut self) -> std::result::Result<(), String> {
        self.enter().map_err(|error| error.to_string())?;
        if let Some(words) = &self.lane.setup {
            let status = lanes::command(words).stderr(self.errors()).status().map_err(|error| error.to_string())?;
            if !status.success() {
                return Err(format!("{status}{}", self.last_error()));
            }
        }
        let kept = world::children();
        let mut problem = None;
        let mut worked = false;
        for _ in 0..WARM_UP {
            match self.attempt(Duration::ZERO, &kept) {
                Ok(_) => worked = true,
                Err((step, failure)) => problem = Some(format!("{}: {failure}{}", step.name(), self.last_error())),
            }
        }
        if worked { Ok(()) } else { Err(problem.unwrap_or_default()) }
    }

    fn tear_down(&self) {
        if let (Ok(()), Some(words)) = (self.enter(), &self.lane.teardown) {
            let _ = lanes::command(words).status();
        }
    }

    /// One round, recorded.
    fn lap(&mut self, gap: Duration, kept: &[i32]) -> Result<()> {
        self.enter()?;
        match self.attempt(gap, kept) {
            Ok(samples) => {
                for (row, sample) in self.rows.iter_mut().zip(samples) {
                    row.samples.push(Some(sample));
                }
            }
            Err((kind, failure)) => {
                let why = format!("{failure}{}", self.last_error());
                for row in &mut self.rows {
                    row.samples.push(None);
                    if row.kind == kind {
                        *row.failures.entry(why.clone()).or_default() += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// All steps; the samples of all, or the step that failed. Nothing is left of a failure.
    fn attempt(&self, gap: Duration, kept: &[i32]) -> std::result::Result<Vec<Sample>, (Kind, Failure)> {
        let mut pipe = None;
        let mut samples = Vec::new();
        for (kind, words) in &self.lane.steps {
            let mut command = lanes::command(words);
            command.stderr(self.errors());
            if *kind == Kind::Delete {
                self.await_init();
            }
            std::thread::sleep(gap);
            match step(*kind, &mut command, &mut pipe) {
                Ok(sample) => samples.push(sample),
                Err(failure) => {
                    if self.lane.setup.is_none() {
                        self.tear_down();
                    }
                    world::end_orphans(kept);
                    return Err((*kind, failure));
                }
            }
        }
        world::reap();
        Ok(samples)
    }

    /// Waits until the container's program, by now a child of ours, has ended, and reaps it.
    fn await_init(&self) {
        let text = fs::read_to_string(&self.lane.pid_file).unwrap_or_default();
        if let Ok(pid) = text.trim().parse()
            && let Ok(pidfd) = pidfd::open(pid)
            && process::ends_within(pidfd.as_raw_fd(), TIMEOUT) == Ok(true)
        {
            let _ = process::wait(pid, 0);
        }
    }

    fn errors(&self) -> std::process::Stdio {
        File::create(self.world.dir.join("stderr")).map_or_else(|_| std::process::Stdio::null(), Into::into)
    }

    /// What the last command said.
    fn last_error(&self) -> String {
        let text = fs::read_to_string(self.world.dir.join("stderr")).unwrap_or_default();
        text.lines().last().map(|line| format!(": {line}")).unwrap_or_default()
    }
}

fn step(
    kind: Kind,
    command: &mut std::process::Command,
    pipe: &mut Option<PipeReader>,
) -> std::result::Result<Sample, Failure> {
    match kind {
        Kind::Run => sample::of_output(command, HELLO, TIMEOUT),
        Kind::Create => {
            let (reader, writer) = std::io::pipe().map_err(|error| Failure::Spawn(error.to_string()))?;
            command.stdout(writer);
            *pipe = Some(reader);
            sample::of_end::<PipeReader>(command, None, TIMEOUT)
        }
        Kind::Start => sample::of_end(command, pipe.as_mut().map(|pipe| (pipe, HELLO)), TIMEOUT),
        Kind::Delete => sample::of_end::<PipeReader>(command, None, TIMEOUT),
    }
}
