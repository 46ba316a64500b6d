//! One start at a time: everybody once a round, in an order that is shuffled for each round.

use super::contender::Contender;
use super::engines;
use super::progress::Progress;
use super::record::{Kind, Latency, milliseconds};
use super::sample::{Failure, Sample};
use super::stage::Stage;
use super::stats::Random;
use super::world::{self, Inventory};
use crate::sys::interrupt;
use std::time::{Duration, Instant};

/// Rounds that are not counted.
pub const WARM_UP: usize = 3;
/// Who has to be killed so often is given up.
const MOST_TIMEOUTS: usize = 3;

/// What a series of rounds is.
#[derive(Debug, Clone, Copy)]
pub struct Series {
    /// How many of them.
    pub rounds: usize,
    /// Quiet before each start.
    pub gap: Duration,
    /// How long one start may take.
    pub timeout: Duration,
}

/// Runs `series` with the contenders of `stage` whose indices are in `who`, and returns what came of each, in the order of
/// `who`. Their bundles for slot 0 are there.
pub fn rounds(
    stage: &Stage,
    who: &[usize],
    series: Series,
    random: &mut Random,
    progress: &mut Progress,
) -> Vec<Latency> {
    let kept = world::children();
    let blank = Latency { gap_ms: milliseconds(series.gap), ..Latency::default() };
    let mut found = vec![blank; who.len()];
    for (latency, index) in found.iter_mut().zip(who) {
        progress.say(&format!("warm-up: {}", stage.contenders[*index].name));
        warm_up(stage, *index, series, latency, &kept);
    }
    let is_engine = |position: &usize| stage.contenders[who[*position]].kind == Kind::Engine;
    let (mut engines, mut order): (Vec<usize>, Vec<usize>) = (0..who.len()).partition(is_engine);
    let mut strays = Strays::default();
    'rounds: for round in 0..series.rounds {
        random.shuffle(&mut order);
        random.shuffle(&mut engines);
        let turn = if round % engines::EVERY == 0 { &engines[..] } else { &[] };
        // Engines come last, lest what their daemons do afterwards falls into the time of somebody else.
        for position in order.iter().chain(turn) {
            if interrupt::caught() {
                // What every row has is kept; a round that not all ran is not.
                found.iter_mut().for_each(|latency| latency.keep(round));
                break 'rounds;
            }
            let latency = &mut found[*position];
            if latency.given_up.is_some() {
                latency.record(None);
                continue;
            }
            progress.say(&format!("{}, round {} of {}", latency.title(), round + 1, series.rounds));
            one(stage, who[*position], series, latency, &kept);
            strays.find(who[*position], &kept);
        }
        strays.end(stage, GRACE);
        engines.iter().filter(|position| !turn.contains(position)).for_each(|position| found[*position].record(None));
    }
    world::await_orphans(&kept);
    strays.end(stage, Duration::ZERO);
    found
}

/// Processes that outlive the start that has left them.
#[derive(Default)]
struct Strays(Vec<(usize, i32, Instant)>);

/// How long a process may outlive its start: there are runtimes that leave work to one, such as taking a namespace apart.
const GRACE: Duration = Duration::from_secs(2);

impl Strays {
    /// Looks for those of a start that has just ended.
    fn find(&mut self, index: usize, kept: &[i32]) {
        for pid in world::children() {
            if !kept.contains(&pid) && !self.0.iter().any(|(_, known, _)| *known == pid) {
                self.0.push((index, pid, Instant::now()));
            }
        }
    }

    /// Ends those that have been there for `grace`.
    fn end(&mut self, stage: &Stage, grace: Duration) {
        world::reap();
        let alive = if self.0.is_empty() { Vec::new() } else { world::children() };
        self.0.retain(|(_, pid, _)| alive.contains(pid));
        for (index, pid, _) in self.0.extract_if(.., |(_, _, seen)| seen.elapsed() >= grace) {
            stage.garbage().process(&stage.contenders[index].name, world::end(pid));
        }
    }
}

fn warm_up(stage: &Stage, index: usize, series: Series, latency: &mut Latency, kept: &[i32]) {
    let contender = &stage.contenders[index];
    let mut problem = None;
    // Mounts would be made in the view of the row.
    let inventory = || stage.enter_view_of(contender).map(|()| Inventory::now());
    let before = inventory();
    for _ in 0..WARM_UP {
        if interrupt::caught() {
            break;
        }
        latency.warm_up += 1;
        if let Err(failure) = start(stage, contender, series.timeout) {
            latency.warm_up_failures += 1;
            // What comes after the first failure may be due to that.
            problem.get_or_insert_with(|| format!("{failure}{}", stage.last_words(contender)));
            world::end_orphans(kept);
        } else {
            world::await_orphans(kept);
            let left = world::end_orphans(kept);
            left.into_iter().for_each(|process| stage.garbage().process(&contender.name, process));
        }
    }
    if let (Ok(before), Ok(now)) = (before, inventory()) {
        stage.garbage().inventory(&contender.name, &before, now);
    }
    let _ = stage.enter_common_view();
    latency.given_up =
        problem.filter(|_| latency.warm_up_failures == WARM_UP).map(|why| format!("every warm-up failed: {why}"));
}

fn one(stage: &Stage, index: usize, series: Series, latency: &mut Latency, kept: &[i32]) {
    let contender = &stage.contenders[index];
    std::thread::sleep(series.gap);
    match start(stage, contender, series.timeout) {
        Ok(sample) => latency.record(Some((sample.first_byte, sample.reaped))),
        Err(failure) => {
            latency.record(None);
            *latency.failures.entry(format!("{failure}{}", stage.last_words(contender))).or_default() += 1;
            world::end_orphans(kept);
            latency.timeouts += usize::from(failure == Failure::Timeout);
            if latency.timeouts == MOST_TIMEOUTS {
                latency.given_up = Some(format!("killed {MOST_TIMEOUTS} times because it took too long"));
            }
        }
    }
    if contender.kind == Kind::Engine {
        world::await_orphans(kept);
        std::thread::sleep(AFTER_ENGINES);
    }
    world::reap();
}

/// What daemons still do after a start has that long.
const AFTER_ENGINES: Duration = Duration::from_millis(100);

/// A start in the view of `contender`.
fn start(stage: &Stage, contender: &Contender, timeout: Duration) -> Result<Sample, Failure> {
    let failure = |error: Box<dyn std::error::Error>| Failure::Spawn(error.to_string());
    stage.enter_view_of(contender).map_err(failure)?;
    let done = stage.refill(contender, stage.start(contender, 0, timeout));
    stage.enter_common_view().map_err(failure)?;
    done
}

impl Latency {
    fn record(&mut self, sample: Option<(Option<f64>, f64)>) {
        let tenths = |us: f64| (us * 10.0).round() / 10.0;
        self.first_byte_us.push(sample.and_then(|(first_byte, _)| first_byte).map(tenths));
        self.reaped_us.push(sample.map(|(_, reaped)| tenths(reaped)));
    }

    fn keep(&mut self, rounds: usize) {
        self.first_byte_us.truncate(rounds);
        self.reaped_us.truncate(rounds);
    }
}
