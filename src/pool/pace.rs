//! How fast sandboxes and parts are made: the CPU time and the seconds that are left to others.

use crate::error::{Doing, Result};
use crate::sys::process;
use crate::sys::shared::Shared;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How fast sandboxes and parts may be made.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The share of a CPU that making them may take, in percent: that of who makes them, and that of sandboxes until they wait. 100 for no limit:
    /// neither those of sandboxes nor that of parts takes more than its CPUs, two and one.
    pub cpu: u32,
    /// The most that are made in a second, a network namespace and a cgroup counted like a sandbox; 0 for no limit.
    pub rate: u32,
}

impl Pace {
    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.cpu < 100 || self.rate > 0
    }
}

/// For how long the CPU time that was not used is not lost: it may be used at once later.
const SAVED: Duration = Duration::from_millis(100);

/// How much later than it may, in nanoseconds, one is begun without its putting off the next: who waits for a time wakes up after it.
const LATE: u64 = 10_000_000;

/// What has been used of a [`Pace`], in memory that the pool and its fillers share: numbers of nanoseconds, by the monotonic clock. A process that
/// is killed leaves none half written.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Shared<[AtomicU64; 4]>>);

impl Ledger {
    /// Nothing used, nothing saved.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> Result<Self> {
        let ledger = Self(Arc::new(Shared::new().doing(|| "map memory for what is used of the pool's limits")?));
        ledger.paid().store(process::now(), Ordering::Relaxed);
        Ok(ledger)
    }

    /// When all CPU time that was used so far will have been earned. Before now, if some is saved.
    fn paid(&self) -> &AtomicU64 {
        &self.0[0]
    }

    /// When the next one is due.
    fn due(&self) -> &AtomicU64 {
        &self.0[1]
    }

    fn used(&self) -> &AtomicU64 {
        &self.0[2]
    }

    fn made(&self) -> &AtomicU64 {
        &self.0[3]
    }

    /// How many sandboxes and parts have been made, and the CPU time that it took, with attempts that failed.
    pub fn status(&self) -> (u64, Duration) {
        (self.made().load(Ordering::Relaxed), Duration::from_nanos(self.used().load(Ordering::Relaxed)))
    }

    /// Takes the right to make one at `now`, in nanoseconds, if there is one: zero; or else how long there is none.
    pub fn begin(&self, pace: Pace, now: u64) -> Duration {
        let owed = if pace.cpu < 100 { self.paid().load(Ordering::Relaxed).saturating_sub(now) } else { 0 };
        let Some(interval) = 1_000_000_000_u64.checked_div(pace.rate.into()).filter(|_| owed == 0) else {
            return Duration::from_nanos(owed);
        };
        // Who was idle has not saved anything.
        let from = |due: u64| if now - due < LATE { due } else { now };
        let next = |due: u64| (due <= now).then(|| from(due) + interval);
        match self.due().fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Duration::ZERO,
            Err(due) => Duration::from_nanos(due.saturating_sub(now)),
        }
    }

    /// Something was made until `now`, in nanoseconds, that took `used` of CPU time, unless it failed.
    fn spend(&self, pace: Pace, now: u64, used: Duration, is_made: bool) {
        let used = used.as_nanos() as u64;
        self.used().fetch_add(used, Ordering::Relaxed);
        self.made().fetch_add(is_made.into(), Ordering::Relaxed);
        if pace.cpu < 100 {
            let takes = used.saturating_mul(100) / u64::from(pace.cpu.max(1));
            let least = now.saturating_sub(SAVED.as_nanos() as u64);
            // It always says where to move it.
            let _ = self
                .paid()
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| Some(paid.max(least).saturating_add(takes)));
        }
    }
}

/// What one thread takes of a [`Pace`] that it has in common with others.
#[derive(Debug)]
pub struct Budget {
    pace: Pace,
    ledger: Ledger,
    /// The CPU time of this thread that has been reckoned.
    used: Duration,
}

impl Budget {
    /// For this thread, whose CPU time counts from now on.
    pub fn new(pace: Pace, ledger: Ledger) -> Self {
        Self { pace, ledger, used: process::thread_cpu_time() }
    }

    /// The CPU time that has been used since the last time: by this thread, and by the process of the sandbox that it has made, if it has.
    pub fn used(&mut self, init: Option<i32>) -> Duration {
        let used = process::thread_cpu_time();
        let own = used.saturating_sub(self.used);
        self.used = used;
        own + init.and_then(|pid| process::cpu_time_of(pid).ok()).unwrap_or_default()
    }

    /// As [`Ledger::begin`], now.
    pub fn begin(&self) -> Duration {
        self.ledger.begin(self.pace, process::now())
    }

    /// Something took `used` of CPU time, and `is_made` now unless it failed.
    pub fn spend(&self, used: Duration, is_made: bool) {
        self.ledger.spend(self.pace, process::now(), used, is_made);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// How many things, each of which takes `each` of CPU time and as long, `makers` make in `seconds`.
    fn made(pace: Pace, each: Duration, seconds: u64, makers: usize) -> u32 {
        let ledger = Ledger::new().unwrap();
        let begin = process::now();
        let (mut free, mut made) = (vec![begin; makers], 0);
        // Who is free first makes the next.
        while let Some(now) = free.iter_mut().min().filter(|now| **now < begin + seconds * SECOND) {
            let rest = ledger.begin(pace, *now);
            *now += rest.as_nanos() as u64;
            if rest.is_zero() {
                *now += each.as_nanos() as u64;
                made += 1;
                ledger.spend(pace, *now, each, true);
            }
        }
        made
    }

    #[test]
    fn a_share_of_the_cpu_is_kept() {
        let each = Duration::from_millis(1);
        for makers in [1, 2, 3] {
            for (cpu, expected) in [(1, 100), (10, 1000), (50, 5000)] {
                let made = made(Pace { cpu, rate: 0 }, each, 10, makers);
                assert!(made.abs_diff(expected) <= expected / 30, "{cpu} %, {makers}: {made}");
            }
        }
        assert_eq!(made(Pace { cpu: 100, rate: 0 }, each, 10, 1), 10_000);
    }

    #[test]
    fn no_more_than_so_many_are_made_in_a_second() {
        for makers in [1, 2, 3] {
            for rate in [1, 7, 100] {
                let made = made(Pace { cpu: 100, rate }, Duration::from_millis(1), 10, makers);
                assert!(made.abs_diff(10 * rate) <= makers as u32, "{rate} a second, {makers}: {made}");
            }
        }
    }

    #[test]
    fn after_a_quiet_time_the_second_has_to_wait() {
        let (ledger, pace) = (Ledger::new().unwrap(), Pace { cpu: 100, rate: 2 });
        let now = process::now() + 60 * SECOND;
        assert_eq!(ledger.begin(pace, now), Duration::ZERO);
        assert_eq!(ledger.begin(pace, now), Duration::from_millis(500));
        // However many ask.
        assert_eq!(ledger.begin(pace, now + SECOND / 4), Duration::from_millis(250));
        // Who is a bit late makes up for that.
        let late = now + SECOND / 2 + LATE / 2;
        assert_eq!(ledger.begin(pace, late), Duration::ZERO);
        assert_eq!(ledger.begin(pace, late), Duration::from_nanos(SECOND / 2 - LATE / 2));
    }

    #[test]
    fn little_is_saved() {
        let (ledger, pace) = (Ledger::new().unwrap(), Pace { cpu: 10, rate: 100 });
        let later = process::now() + 3600 * SECOND;
        let used = Duration::from_millis(10);
        // 100 ms at a tenth of a CPU are 10 ms.
        ledger.spend(pace, later, used, true);
        assert_eq!(ledger.begin(pace, later), Duration::ZERO);
        ledger.spend(pace, later, used, false);
        assert_eq!(ledger.begin(pace, later), Duration::from_millis(100));
        assert_eq!(ledger.status(), (1, 2 * used));
    }
}
