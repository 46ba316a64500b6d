//! Many starts at a time: closed loops, and the generators of the open one.

use super::contender::Contender;
use super::parked;
use super::record::{Closed, Trial};
use super::sample;
use super::schedule::{Flown, Schedule, judge};
use super::stage::{Stage, expected};
use super::stats::Summary;
use crate::pool::Running;
use crate::sys::{interrupt, pidfd, process};
use std::io::{PipeReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Starts that one generator has under way at most; what is due beyond that waits, and the waiting counts.
const UNDER_WAY: usize = 64;
/// How long after the end of a trial the rest may take, before it is killed.
const REST: Duration = Duration::from_secs(5);

/// How many starts can be under way at the same time with `generators`.
pub fn slots(generators: usize) -> usize {
    UNDER_WAY * generators
}

/// `workers` of them for `duration`: each starts the next when the last has ended, and one however late it begins.
pub fn closed(stage: &Stage, contender: &Contender, workers: usize, duration: Duration, timeout: Duration) -> Closed {
    let started = Instant::now();
    let work = |slot: usize| {
        let (mut samples, mut failed) = (Vec::new(), 0);
        while !interrupt::caught() {
            match stage.start(contender, slot, timeout) {
                Ok(sample) => samples.push(sample.reaped),
                Err(_) => failed += 1,
            }
            if failed > MOST_FAILURES || started.elapsed() >= duration {
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
        Generator::new(stage, contender, begun, schedule, slots).run(duration + REST)
    };
    let flown: Vec<Flown> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..generators).map(|which| scope.spawn(move || generate(which))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().map(|landed| landed.flown).collect()
    });
    judge(rate, duration, &flown)
}

/// What became of `count` starts that were due at once: until when each took from then on, and whether it was from the pool.
pub fn burst(stage: &Stage, contender: &Contender, count: usize, timeout: Duration) -> Vec<(Option<Duration>, bool)> {
    // All are due within a microsecond.
    let schedule = Schedule::new(count as f64 * 1e6, Duration::from_micros(1), 0, 1);
    let generator = Generator::new(stage, contender, Instant::now(), schedule, (0..count).rev().collect());
    generator.run(timeout).into_iter().map(|landed| (landed.flown.done, landed.was_leased)).collect()
}

/// A start that is under way.
struct Flight {
    due: Duration,
    slot: usize,
    process: Process,
    end: OwnedFd,
    pipe: Option<PipeReader>,
    output: Vec<u8>,
    /// When it was reaped, and whether with code 0.
    reaped: Option<(Duration, bool)>,
}

/// What has been started.
enum Process {
    /// A child.
    Child(Child),
    /// The program of a leased sandbox.
    Leased(Box<Running>),
}

impl Process {
    /// Whether it has ended with code 0. It waits for the end.
    fn has_succeeded(&mut self) -> bool {
        match self {
            Self::Child(child) => child.wait().is_ok_and(|status| status.success()),
            Self::Leased(running) => running.wait() == Ok(0),
        }
    }

    fn end(&mut self) {
        match self {
            Self::Child(child) => sample::end(child),
            Self::Leased(running) => {
                let _ = running.kill(libc::SIGKILL);
                let _ = running.wait();
            }
        }
    }
}

/// A start that is over.
struct Landed {
    flown: Flown,
    was_leased: bool,
}

struct Generator<'a> {
    stage: &'a Stage,
    contender: &'a Contender,
    begun: Instant,
    schedule: Schedule,
    slots: Vec<usize>,
    flights: Vec<Flight>,
    flown: Vec<Landed>,
}

impl<'a> Generator<'a> {
    fn new(stage: &'a Stage, contender: &'a Contender, begun: Instant, schedule: Schedule, slots: Vec<usize>) -> Self {
        Self { stage, contender, begun, schedule, slots, flights: Vec::new(), flown: Vec::new() }
    }

    fn run(mut self, until: Duration) -> Vec<Landed> {
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
                self.failed(due);
            }
        }
    }

    fn failed(&mut self, due: Duration) {
        self.flown.push(Landed { flown: Flown { due, done: None }, was_leased: false });
    }

    fn spawn(&self, due: Duration, slot: usize) -> Option<Flight> {
        let flight =
            |process, end, pipe| Flight { due, slot, process, end, pipe: Some(pipe), output: Vec::new(), reaped: None };
        if let Some(sandbox) = self.stage.lease(self.contender) {
            let (running, pipe) = parked::launch(sandbox).ok()?;
            let end = running.pidfd().try_clone_to_owned().ok()?;
            return Some(flight(Process::Leased(Box::new(running)), end, pipe));
        }
        self.stage.mount_overlay(self.contender, slot).ok()?;
        let (pipe, writer) = std::io::pipe().ok()?;
        // The command has the other end, and goes before that is read.
        let mut child = sample::spawn(self.stage.command(self.contender, slot).stdout(Stdio::from(writer))).ok()?;
        match pidfd::open(child.id() as i32) {
            Ok(end) => Some(flight(Process::Child(child), end, pipe)),
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
                flight.reaped = Some((now, flight.process.has_succeeded()));
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
            let was_leased = matches!(flight.process, Process::Leased(_));
            flown.push(Landed { flown: Flown { due: flight.due, done: done.then_some(at) }, was_leased });
            slots.push(flight.slot);
            false
        });
    }

    /// Ends everything.
    fn cut_off(&mut self) {
        for mut flight in std::mem::take(&mut self.flights) {
            if flight.reaped.is_none() {
                flight.process.end();
            }
            self.stage.clean_up(self.contender, flight.slot);
            self.stage.unmount_overlay(self.contender, flight.slot);
            self.failed(flight.due);
        }
        while let Some(due) = self.schedule.take(Duration::MAX) {
            self.failed(due);
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
