//! How fast sandboxes are made: the CPU time and the seconds that are left to others.

use crate::sys::process;
use std::time::{Duration, Instant};

/// How fast sandboxes may be made.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The share of a CPU that making them may take, in percent: that of who makes them, and theirs until they wait.
    pub cpu: u32,
    /// The most that are made in a second; 0 for no limit.
    pub rate: u32,
}

/// For how long the CPU time that was not used is not lost: it may be used at once later.
const SAVED: Duration = Duration::from_millis(100);

/// What has been used of a [`Pace`]: a token bucket of CPU time, and when the next sandbox is due.
#[derive(Debug)]
pub struct Budget {
    pace: Pace,
    /// CPU time that may be used without a rest, in seconds; below zero, what is owed.
    credit: f64,
    /// When that was reckoned.
    at: Instant,
    due: Instant,
    /// The CPU time of this thread that has been reckoned.
    used: Duration,
}

impl Budget {
    /// Nothing used, nothing saved.
    pub fn new(pace: Pace) -> Self {
        let now = Instant::now();
        Self { pace, credit: 0.0, at: now, due: now, used: process::thread_cpu_time() }
    }

    /// The CPU time that has been used since the last time: by this thread, and by the process of the sandbox that it has made, if it has.
    pub fn used(&mut self, init: Option<i32>) -> Duration {
        let used = process::thread_cpu_time();
        let own = used.saturating_sub(self.used);
        self.used = used;
        own + init.and_then(|pid| process::cpu_time_of(pid).ok()).unwrap_or_default()
    }

    /// Rests after a sandbox that took `used` of CPU time, for as long as it takes until the next one may be made.
    pub fn rest(&mut self, used: Duration) {
        let pause = self.reckon(Instant::now(), used);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }

    /// How long to rest at `now`, when `used` of CPU time has been used since the last time.
    fn reckon(&mut self, now: Instant, used: Duration) -> Duration {
        let share = f64::from(self.pace.cpu.clamp(1, 100)) / 100.0;
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * share;
        self.at = now;
        self.credit = (self.credit + earned).min(SAVED.as_secs_f64() * share) - used.as_secs_f64();
        // A whole CPU is all that one thread can use.
        let owed = match self.pace.cpu {
            100.. => Duration::ZERO,
            _ => Duration::from_secs_f64((-self.credit).max(0.0) / share),
        };
        let Some(interval) = Duration::from_secs(1).checked_div(self.pace.rate) else { return owed };
        // Counted from when this one was begun. Who was idle has not saved anything.
        self.due = self.due.max(now.checked_sub(used).unwrap_or(now)) + interval;
        owed.max(self.due.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many sandboxes, each of which takes `each` of CPU time and as long, are made in `seconds`.
    fn made(pace: Pace, each: Duration, seconds: u64) -> u32 {
        let mut budget = Budget::new(pace);
        let (begin, mut now, mut made) = (budget.at, budget.at, 0);
        while now < begin + Duration::from_secs(seconds) {
            now += each;
            made += 1;
            now += budget.reckon(now, each);
        }
        made
    }

    #[test]
    fn a_share_of_the_cpu_is_kept() {
        let each = Duration::from_millis(1);
        for (cpu, expected) in [(1, 100), (10, 1000), (50, 5000), (100, 10_000)] {
            let made = made(Pace { cpu, rate: 0 }, each, 10);
            assert!(made.abs_diff(expected) <= expected / 50, "{cpu} %: {made}");
        }
    }

    #[test]
    fn no_more_than_so_many_are_made_in_a_second() {
        for rate in [1, 7, 100] {
            let made = made(Pace { cpu: 100, rate }, Duration::from_millis(1), 10);
            assert!(made.abs_diff(10 * rate) <= 1, "{rate} a second: {made}");
        }
    }

    #[test]
    fn after_a_quiet_time_the_second_has_to_wait() {
        let mut budget = Budget::new(Pace { cpu: 100, rate: 2 });
        let pause = budget.reckon(budget.at + Duration::from_secs(60), Duration::from_millis(1));
        assert_eq!(pause, Duration::from_millis(499));
    }

    #[test]
    fn little_is_saved() {
        let mut budget = Budget::new(Pace { cpu: 10, rate: 100 });
        let later = budget.at + Duration::from_secs(3600);
        // 100 ms at a tenth of a CPU are 10 ms, and so long takes one that is made in a hundredth of a second.
        assert!(budget.reckon(later, Duration::from_millis(10)) < Duration::from_millis(1));
        let pause = budget.reckon(later, Duration::from_millis(10));
        assert!(pause.abs_diff(Duration::from_millis(100)) < Duration::from_millis(1), "{pause:?}");
    }
}
