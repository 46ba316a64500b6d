//! Many starts at a time: closed loops, and the generators of the open one.

use super::contender::Contender;
use super::record::{Closed, Trial};
use super::sample;
use super::schedule::{Flown, Schedule, judge};
use super::stage::{Stage, expected};
use super::stats::Summary;
use crate::sys::{interrupt, pidfd, process};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// Starts that one generator has under way at most; what is due beyond that waits, and the waiting counts.
const UNDER_WAY: usize = 64;
/// How long after the end of a trial the rest may take, before it is killed.
const REST: Duration = Duration::from_secs(5);

/// How many starts can be under way at the same time with `generators`.
pub fn slots(generators: usize) -> usize {
    UNDER_WAY * generators
}

/// `workers` of them for `duration`: each starts the next when the last has ended.
pub fn closed(stage: &Stage, contender: &Contender, workers: usize, duration: Duration, timeout: Duration) -> Closed {
    let started = Instant::now();
    let work = |slot: usize| {
        let (mut samples, mut failed) = (Vec::new(), 0);
        while started.elapsed() < duration && !interrupt::caught() {
            match stage.start(contender, slot, timeout) {
                Ok(sample) => samples.push(sample.reaped),
                Err(_) => failed += 1,
            }
            if failed > MOST_FAILURES {
                break;
            }
        }
        (samples, failed)
    };
    let (mut samples, mut failed) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|slot| scope.spawn(move || work(slot))).collect();
        for (more, failures) in threads.into_iter().filter_map(|thread| thread.join().ok()) {
            samples.extend(more);
            failed += failures;
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let summary = Summary::of(&samples);
    Closed {
        workers,
        per_second: samples.len() as f64 / seconds,
        median_us: summary.map_or(0.0, |summary| summary.median.round()),
        p99_us: summary.map_or(0.0, |summary| summary.p99.round()),
        failed,
    }
}

/// A worker with so many failures gives up.
const MOST_FAILURES: usize = 20;

/// One trial of the open loop: `rate` starts a second for `duration`, from as many `generators`.
pub fn open(stage: &Stage, contender: &Contender, rate: f64, duration: Duration, generators: usize) -> Trial {
    let begun = Instant::now();
    let generate = |which: usize| {
        let schedule = Schedule::new(rate, duration, which, generators);
        let slots = (which * UNDER_WAY..(which + 1) * UNDER_WAY).rev().collect();
        Generator { stage, contender, begun, schedule, slots, flights: Vec::new(), flown: Vec::new() }
            .run(duration + REST)
    };
    let flown: Vec<Flown> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..generators).map(|which| scope.spawn(move || generate(which))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
    });
    judge(rate, duration, &flown)
}

/// A start that is under way.
struct Flight {
    due: Duration,
    slot: usize,
    child: Child,
    end: OwnedFd,
    pipe: Option<ChildStdout>,
    output: Vec<u8>,
    /// When it was reaped, and whether with code 0.
    reaped: Option<(Duration, bool)>,
}

struct Generator<'a> {
    stage: &'a Stage,
    contender: &'a Contender,
    begun: Instant,
    schedule: Schedule,
    slots: Vec<usize>,
    flights: Vec<Flight>,
    flown: Vec<Flown>,
}

impl Generator<'_> {
    fn run(mut self, until: Duration) -> Vec<Flown> {
        while self.schedule.next_due().is_some() || !self.flights.is_empty() {
            if self.begun.elapsed() > until || interrupt::caught() {
                self.cut_off();
                break;
            }
            self.launch();
            self.wait();
        }
        self.flown
    }

    /// Starts what is due, as long as there is room; but one at a time, so that nobody who has ended waits for long.
    fn launch(&mut self) {
        let Some(slot) = self.slots.last().copied() else { return };
        let Some(due) = self.schedule.take(self.begun.elapsed()) else { return };
        match self.spawn(due, slot) {
            Some(flight) => {
                self.slots.pop();
                self.flights.push(flight);
            }
            None => {
                self.stage.unmount_overlay(self.contender, slot);
                self.flown.push(Flown { due, done: None });
            }
        }
    }

    fn spawn(&self, due: Duration, slot: usize) -> Option<Flight> {
        self.stage.mount_overlay(self.contender, slot).ok()?;
        let mut command = self.stage.command(self.contender, slot);
        let mut child = sample::spawn(command.stdout(Stdio::piped())).ok()?;
        let pipe = child.stdout.take();
        match pidfd::open(child.id() as i32) {
            Ok(end) => Some(Flight { due, slot, child, end, pipe, output: Vec::new(), reaped: None }),
            Err(_) => {
                sample::end(&mut child);
                None
            }
        }
    }

    /// Waits for the next start or for something under way.
    fn wait(&mut self) {
        let room = !self.slots.is_empty();
        let due = self.schedule.next_due().filter(|_| room);
        let left = due.map_or(POLLING, |due| due.saturating_sub(self.begun.elapsed()).min(POLLING));
        let mut ready: Vec<libc::pollfd> = Vec::with_capacity(2 * self.flights.len());
        for flight in &self.flights {
            let end = if flight.reaped.is_none() { flight.end.as_raw_fd() } else { -1 };
            let pipe = flight.pipe.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            ready.extend([end, pipe].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }));
        }
        if process::poll(&mut ready, Some(left)).unwrap_or(0) == 0 {
            return;
        }
        let now = self.begun.elapsed();
        for (flight, ready) in self.flights.iter_mut().zip(ready.chunks_exact(2)) {
            if ready[1].revents != 0 {
                flight.read();
            }
            if ready[0].revents != 0 {
                let status = flight.child.wait();
                flight.reaped = Some((now, status.is_ok_and(|status| status.success())));
            }
        }
        self.land();
    }

    /// Takes note of those who have been reaped and have written.
    fn land(&mut self) {
        let (stage, contender) = (self.stage, self.contender);
        let (slots, flown) = (&mut self.slots, &mut self.flown);
        self.flights.retain_mut(|flight| {
            let Some((at, success)) = flight.reaped else { return true };
            // What it wrote before its end is in the pipe by now.
            flight.read_rest();
            let done = success && expected(contender).is_met_by(&flight.output);
            if !done {
                stage.clean_up(contender, flight.slot);
            }
            stage.unmount_overlay(contender, flight.slot);
            flown.push(Flown { due: flight.due, done: done.then_some(at) });
            slots.push(flight.slot);
            false
        });
    }

    /// Ends everything.
    fn cut_off(&mut self) {
        for mut flight in self.flights.drain(..) {
            if flight.reaped.is_none() {
                sample::end(&mut flight.child);
            }
            self.stage.clean_up(self.contender, flight.slot);
            self.stage.unmount_overlay(self.contender, flight.slot);
            self.flown.push(Flown { due: flight.due, done: None });
        }
        while let Some(due) = self.schedule.take(Duration::MAX) {
            self.flown.push(Flown { due, done: None });
        }
    }
}

/// How often a generator that waits looks whether it is to stop.
const POLLING: Duration = Duration::from_millis(100);

impl Flight {
    fn read(&mut self) {
        let mut buffer = [0u8; 256];
        let count = self.pipe.as_mut().map_or(0, |pipe| pipe.read(&mut buffer).unwrap_or(0));
        self.output.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if count == 0 {
            self.pipe = None;
        }
    }

    fn read_rest(&mut self) {
        while let Some(pipe) = &self.pipe {
            let mut ready = [libc::pollfd { fd: pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
            match process::poll(&mut ready, Some(Duration::ZERO)) {
                Ok(count) if count > 0 => self.read(),
                _ => return,
            }
        }
    }
}
