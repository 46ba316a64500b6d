//! When the starts of an open system are due, and the highest rate that is kept up. No clock is read here.

use super::record::Trial;
use super::stats::Summary;
use std::time::Duration;

/// The share of the offer that has to be completed.
const KEPT_UP: f64 = 0.95;
/// The first part of a trial, which is not counted: the system fills up to what it then holds.
const FILLING: f64 = 0.2;

/// Starts at regular times, dealt out in turn to several generators.
#[derive(Debug, Clone)]
pub struct Schedule {
    rate: f64,
    count: usize,
    next: usize,
    stride: usize,
}

impl Schedule {
    /// The starts of generator `which` of `generators`, at `rate` a second altogether, for `duration`.
    pub fn new(rate: f64, duration: Duration, which: usize, generators: usize) -> Self {
        let count = (rate * duration.as_secs_f64()).ceil() as usize;
        Self { rate, count, next: which, stride: generators.max(1) }
    }

    /// When the next start is due, from the beginning; none if all were taken.
    pub fn next_due(&self) -> Option<Duration> {
        (self.next < self.count).then(|| Duration::from_secs_f64(self.next as f64 / self.rate))
    }

    /// Takes the next start if it is due at `now`; the time for which it was scheduled. Who comes late gets one after the
    /// other until nothing is overdue: whatever happens, every start takes place.
    pub fn take(&mut self, now: Duration) -> Option<Duration> {
        let due = self.next_due().filter(|due| *due <= now)?;
        self.next += self.stride;
        Some(due)
    }
}

/// What became of a start, in times from the beginning of its trial.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flown {
    /// When it was due.
    pub due: Duration,
    /// When it had succeeded; none if it failed or was cut off.
    pub done: Option<Duration>,
}

/// Judges a trial: in the counted part of `duration`, completions have to be 95 % of what was due in it. In a system that
/// keeps up as many are under way at its end as at its beginning, so the latency does not enter.
pub fn judge(rate: f64, duration: Duration, flown: &[Flown]) -> Trial {
    let from = duration.mul_f64(FILLING);
    let counted = |time: Duration| time >= from && time < duration;
    let offered = flown.iter().filter(|start| counted(start.due)).count();
    let completed = flown.iter().filter(|start| start.done.is_some_and(counted)).count();
    let seconds = (duration - from).as_secs_f64();
    let waits = flown.iter().filter(|start| counted(start.due));
    let latencies: Vec<f64> =
        waits.filter_map(|start| Some(start.done?.saturating_sub(start.due).as_secs_f64() * 1e6)).collect();
    let summary = Summary::of(&latencies);
    Trial {
        offered: rate,
        completed: completed as f64 / seconds,
        median_us: summary.map_or(0.0, |summary| summary.median.round()),
        p99_us: summary.map_or(0.0, |summary| summary.p99.round()),
        failed: flown.iter().filter(|start| start.done.is_none()).count(),
        // One start more or less at the edges is chance.
        kept_up: offered > 0 && completed as f64 + 1.0 >= KEPT_UP * offered as f64,
        hits: None,
    }
}

/// How the highest rate is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// The first rate, in starts a second.
    pub first: f64,
    /// A rate that fails is narrowed down until it is this much above one that does not.
    pub step: f64,
    /// The most trials.
    pub trials: usize,
}

/// Raises the rate by half until a trial fails, or lowers it until one does not, then halves the distance. A failure has to
/// happen twice to count. Returns all trials, and whether a rate above the knee was seen to fail.
pub fn search(search: Search, mut trial: impl FnMut(f64) -> Option<Trial>) -> (Vec<Trial>, bool) {
    let mut trials: Vec<Trial> = Vec::new();
    let (mut good, mut bad) = (None::<f64>, None::<f64>);
    let mut rate = search.first;
    let mut doubted = false;
    while trials.len() < search.trials && rate >= 0.5 {
        let Some(done) = trial(rate) else { break };
        let kept_up = done.kept_up;
        trials.push(done);
        if !kept_up && !doubted {
            doubted = true;
            continue;
        }
        doubted = false;
        *(if kept_up { &mut good } else { &mut bad }) = Some(rate);
        rate = match (good, bad) {
            (Some(good), None) => good * 1.5,
            (None, Some(bad)) => bad / 2.0,
            (Some(good), Some(bad)) if bad / good > search.step => (good * bad).sqrt(),
            _ => break,
        };
    }
    (trials, bad.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A system with one server that takes `service` for each start, and `delay` more that others do not wait for; a
    /// generator that looks at its clock every `tick`.
    fn simulated(rate: f64, service: Duration, delay: Duration, tick: Duration) -> Vec<Flown> {
        let mut schedule = Schedule::new(rate, SECOND, 0, 1);
        let (mut now, mut free) = (Duration::ZERO, Duration::ZERO);
        let mut flown = Vec::new();
        while schedule.next_due().is_some() {
            while let Some(due) = schedule.take(now) {
                free = free.max(now) + service;
                flown.push(Flown { due, done: Some(free + delay) });
            }
            now += tick;
        }
        flown
    }

    #[test]
    fn starts_are_due_at_regular_times_and_none_is_left_out() {
        let mut schedule = Schedule::new(10.0, SECOND, 0, 1);
        assert_eq!(schedule.take(Duration::ZERO), Some(Duration::ZERO));
        assert_eq!(schedule.take(Duration::from_millis(99)), None);
        assert_eq!(schedule.next_due(), Some(Duration::from_millis(100)));
        // A generator that was held up for half a second catches up, and keeps the times that were due.
        let late = Duration::from_millis(550);
        let taken: Vec<u128> = std::iter::from_fn(|| schedule.take(late)).map(|due| due.as_millis()).collect();
        assert_eq!(taken, [100, 200, 300, 400, 500]);
        let rest = std::iter::from_fn(|| schedule.take(SECOND * 9)).count();
        assert_eq!((rest, schedule.next_due()), (4, None));
    }

    #[test]
    fn several_generators_share_a_schedule() {
        let mut all: Vec<Duration> = (0..3)
            .flat_map(|which| {
                let mut schedule = Schedule::new(100.0, SECOND, which, 3);
                std::iter::from_fn(move || schedule.take(SECOND)).collect::<Vec<_>>()
            })
            .collect();
        all.sort();
        assert_eq!(all, (0..100).map(|n| Duration::from_secs_f64(f64::from(n) / 100.0)).collect::<Vec<_>>());
    }

    #[test]
    fn latency_counts_from_the_scheduled_time() {
        // The generator looks every 50 ms only: a start waits 25 ms on average, and that is in its latency.
        let flown = simulated(100.0, Duration::from_micros(10), Duration::ZERO, Duration::from_millis(50));
        let trial = judge(100.0, SECOND, &flown);
        assert!((15_000.0..35_000.0).contains(&trial.median_us), "{trial:?}");
        assert!(trial.kept_up, "{trial:?}");
    }

    #[test]
    fn a_slow_system_that_keeps_up_is_no_overloaded_one() {
        let slow = simulated(100.0, Duration::from_millis(5), Duration::from_millis(150), Duration::from_millis(1));
        assert!(judge(100.0, SECOND, &slow).kept_up);
        let overloaded = simulated(100.0, Duration::from_millis(11), Duration::ZERO, Duration::from_millis(1));
        let trial = judge(100.0, SECOND, &overloaded);
        assert!(!trial.kept_up, "{trial:?}");
        assert!((88.0..93.0).contains(&trial.completed), "{trial:?}");
    }

    #[test]
    fn failures_are_no_completions() {
        let flown: Vec<Flown> = (0..100)
            .map(|n| {
                let due = Duration::from_millis(n * 10);
                Flown { due, done: (n % 10 != 0).then_some(due + Duration::from_millis(1)) }
            })
            .collect();
        let trial = judge(100.0, SECOND, &flown);
        assert_eq!((trial.failed, trial.kept_up), (10, false));
    }

    #[test]
    fn the_search_finds_the_knee_from_below_and_from_above() {
        for first in [20.0, 250.0, 4000.0] {
            let system = |rate| {
                let flown = simulated(rate, Duration::from_millis(4), Duration::ZERO, Duration::from_micros(100));
                Some(judge(rate, SECOND, &flown))
            };
            let (trials, bounded) = search(Search { first, step: 1.06, trials: 40 }, system);
            let knee = trials.iter().filter(|trial| trial.kept_up).map(|trial| trial.offered).fold(0.0, f64::max);
            assert!(bounded && (235.0..275.0).contains(&knee), "from {first}: {knee} in {} trials", trials.len());
        }
    }

    #[test]
    fn the_search_is_bounded_and_survives_one_bad_trial() {
        let always = |rate| Some(Trial { offered: rate, kept_up: true, ..Trial::default() });
        let (trials, bounded) = search(Search { first: 1.0, step: 1.1, trials: 5 }, always);
        assert_eq!((trials.len(), bounded), (5, false));
        let never = |rate| Some(Trial { offered: rate, ..Trial::default() });
        assert!(search(Search { first: 100.0, step: 1.1, trials: 50 }, never).0.len() < 20);
        let mut count = 0;
        let once_bad = |rate: f64| {
            count += 1;
            Some(Trial { offered: rate, kept_up: rate < 300.0 && count != 1, ..Trial::default() })
        };
        let (trials, _) = search(Search { first: 100.0, step: 1.1, trials: 50 }, once_bad);
        let knee = trials.iter().filter(|trial| trial.kept_up).map(|trial| trial.offered).fold(0.0, f64::max);
        assert!(knee > 270.0, "{knee}");
    }
}
