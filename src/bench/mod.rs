//! The measuring instrument: start programs, time them from outside, say what the figures are worth. docs/benchmark.md has
//! the method.
//!
//! A measurement ([`run`]) sets a [`stage`] in a [`world`] of its own, has its [`contender`]s start one at a time
//! ([`latency`]) and many at a time ([`load`]), and writes a [`record`]. Everything that is shown is made from the record:
//! the [`table`], the [`page`], the [`csv`], the comparison of two ([`compare`]).

pub mod compare;
pub mod contender;
pub mod csv;
pub mod engines;
pub mod growth;
pub mod latency;
pub mod load;
pub mod machine;
pub mod options;
pub mod page;
pub mod parked;
pub mod progress;
pub mod provider;
pub mod record;
pub mod sample;
pub mod schedule;
pub mod stage;
pub mod stats;
pub mod steps;
pub mod table;
pub mod world;

use crate::sys::interrupt;
use contender::{Contender, Place};
use latency::Series;
use options::{Options, Part};
use parked::Way;
use progress::Progress;
use record::{FORMAT, Kind, Load, Record, Row};
use schedule::{Search, search};
use serde_json::json;
use stage::{PARKED, PROCESS, Stage};
use stats::Random;
use std::fs;
use std::path::Path;
use std::time::Duration;
use world::{Result, World};

/// A burst is so many times the size of the pool.
const BURST: usize = 10;
/// Sandboxes over which memory is measured.
const PARKED_FOR_MEMORY: usize = 64;

/// The exit code of a measurement that a signal ended: as if SIGINT had.
const INTERRUPTED: u8 = 130;

/// Measures, prints and writes what `options` ask for, and returns the exit code.
///
/// # Errors
/// Nothing could be measured, or a file could not be written.
pub fn run(options: &Options) -> Result<u8> {
    if !nix::unistd::geteuid().is_root() {
        return Err("bench makes mounts, cgroups and containers, which takes root: run it as root".into());
    }
    interrupt::catch()?;
    let mut world = World::new(false)?;
    let (mut stage, mut record) = match measure(&mut world, options) {
        Ok(measured) => measured,
        Err(error) => {
            let left = world.leave()?;
            let left = if left.is_empty() { String::new() } else { format!("; left behind: {}", left.join(", ")) };
            return Err(format!("{error}{left}").into());
        }
    };
    let left = stage.close()?;
    record.left = left.into_iter().chain(world.leave()?.into_iter().map(|left| stage.owned(left))).collect();
    print(&table::text(&record, options.prices));
    write(&record, options)?;
    Ok(if record.interrupted { INTERRUPTED } else { 0 })
}

/// Reads a record.
///
/// # Errors
/// The file cannot be read, or is no record of this version.
pub fn read(path: &Path) -> Result<Record> {
    let bytes = fs::read(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let problem =
        |what: String| format!("{}: {what}: give a file that `bench --json` of this version wrote", path.display());
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| problem(error.to_string()))?;
    if record.format != FORMAT {
        return Err(problem(format!("format {} instead of {FORMAT}", record.format)).into());
    }
    Ok(record)
}

/// Writes what `options` ask for: JSON, samples, the page.
///
/// # Errors
/// A file could not be written.
pub fn write(record: &Record, options: &Options) -> Result<()> {
    let save =
        |path: &Path, text: String| fs::write(path, text).map_err(|error| format!("write {}: {error}", path.display()));
    if let Some(path) = &options.json {
        save(path, serde_json::to_string(record)?)?;
    }
    if let Some(path) = &options.csv {
        save(path, csv::text(record))?;
    }
    if let Some(directory) = &options.report {
        fs::create_dir_all(directory).map_err(|error| format!("create {}: {error}", directory.display()))?;
        save(&directory.join("index.html"), page::html(record, options.prices))?;
        save(&directory.join("figure.svg"), page::figure_file(record))?;
        save(&directory.join("record.json"), serde_json::to_string(record)?)?;
        print(&format!("the page: {}\n", directory.join("index.html").display()));
    }
    Ok(())
}

/// Writes to standard output; a reader that went away is no error.
fn print(text: &str) {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn measure(world: &mut World, options: &Options) -> Result<(Stage, Record)> {
    let mut stage = Stage::set(world, options)?;
    world.make_views()?;
    if stage.contenders.iter().any(|contender| contender.kind == Kind::Engine)
        && let Err(error) = world.make_engines_view()
    {
        stage.drop_engines(&error.to_string());
    }
    stage.settle(world, options.timeout)?;
    stage.park(options);
    stage.engage(options)?;
    let record = blank(&stage, options, world.unified.is_some());
    print(&table::head(&record));
    let mut bench =
        Bench { options, record, random: Random::new(options.seed), progress: Progress::default(), stage: &stage };
    let done = bench.everything();
    bench.progress.clear();
    bench.record.interrupted = interrupt::caught();
    let record = bench.record;
    done.map(|()| (stage, record))
}

/// The record before anything is measured.
fn blank(stage: &Stage, options: &Options, in_view: bool) -> Record {
    let mut config = stage.config("", 0);
    config["root"]["path"] = json!("rootfs");
    if let Some(linux) = config["linux"].as_object_mut() {
        linux.remove("cgroupsPath");
    }
    let hash = fnv1a(config.to_string().as_bytes());
    let mut machine: Vec<(String, String)> =
        machine::facts().into_iter().map(|(what, value)| (what.to_owned(), value)).collect();
    let view =
        if in_view { "a view of cgroup v2 alone, in a mount namespace of its own" } else { "the machine's cgroup v2" };
    machine.push(("measured in".to_owned(), format!("{view}; bundles and state on a tmpfs")));
    let containers =
        if options.action { "the leanest, of spec --action, without its limits" } else { "runc's default" };
    machine.push(("containers".to_owned(), containers.to_owned()));
    let row = |contender: &Contender| Row {
        name: contender.name.clone(),
        kind: contender.kind,
        isolation: contender.isolation.clone(),
        command: contender.words.join(" "),
        version: contender.version.clone(),
        latency: Vec::new(),
        load: None,
    };
    Record {
        format: FORMAT,
        date: crate::clock::now(),
        command: options.command.clone(),
        machine,
        cpus: cpus(),
        seed: options.seed,
        config,
        config_hash: format!("{hash:016x}"),
        rows: stage.contenders.iter().map(row).collect(),
        skipped: stage.skipped.clone(),
        ..Record::default()
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The 64-bit hash of Fowler, Noll and Vo, variant 1a.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

struct Bench<'a> {
    options: &'a Options,
    stage: &'a Stage,
    record: Record,
    random: Random,
    progress: Progress,
}

impl Bench<'_> {
    fn everything(&mut self) -> Result<()> {
        for contender in &self.stage.contenders {
            self.stage.make_bundles(contender, 0..1, |_| {})?;
        }
        for (_, part) in Part::ALL {
            if self.options.wants(part) && !interrupt::caught() {
                match part {
                    Part::Latency => self.latency(),
                    Part::Throughput => self.throughput()?,
                    Part::Steps => self.steps()?,
                    Part::Growth => self.growth()?,
                    Part::Pool => self.pool()?,
                }
            }
        }
        Ok(())
    }

    /// Who has not been given up yet.
    fn alive(&self) -> Vec<usize> {
        let given_up = |row: &Row| row.latency.iter().any(|latency| latency.given_up.is_some());
        (0..self.record.rows.len()).filter(|index| !given_up(&self.record.rows[*index])).collect()
    }

    /// Those whose starts are their own work, and not a daemon's.
    fn alive_but_engines(&self) -> Vec<usize> {
        let mut alive = self.alive();
        alive.retain(|index| self.record.rows[*index].kind != Kind::Engine);
        alive
    }

    fn latency(&mut self) {
        for gap in &self.options.gaps {
            let who = self.alive();
            let series = Series { rounds: self.options.rounds_with(*gap), gap: *gap, timeout: self.options.timeout };
            let found = latency::rounds(self.stage, &who, series, &mut self.random, &mut self.progress);
            for (index, latency) in who.into_iter().zip(found) {
                self.record.rows[index].latency.push(latency);
            }
            if interrupt::caught() {
                break;
            }
        }
    }

    fn throughput(&mut self) -> Result<()> {
        let generators = cpus();
        for index in self.alive_but_engines() {
            let contender = &self.stage.contenders[index];
            self.stage.make_bundles(contender, 0..load::slots(generators), |_| {})?;
            self.stage.enter_view_of(contender)?;
            let mut found = Load::default();
            for workers in &self.options.workers {
                if interrupt::caught() {
                    break;
                }
                self.progress.say(&format!("{}: closed loop of {workers}", contender.name));
                let (trial, timeout) = (self.options.trial / 2, self.options.timeout);
                found.closed.push(load::closed(self.stage, contender, *workers, trial, timeout));
            }
            let best = found.closed.iter().map(|closed| closed.per_second).fold(0.0, f64::max);
            if best > 0.0 {
                let plan = if self.options.quick { (1.12, 9) } else { (1.05, 24) };
                let plan = Search { first: best * 0.7, step: plan.0, trials: plan.1 };
                (found.open, found.bounded) = search(plan, |rate| self.trial(contender, rate, generators));
                found.knee = found.at_knee().map(|trial| trial.offered);
            }
            self.stage.enter_common_view()?;
            self.quiet(contender);
            if contender.name == PROCESS {
                self.record.ceiling = found.knee.map(|knee| knee.max(best));
            }
            self.record.rows[index].load = Some(found);
        }
        Ok(())
    }

    fn trial(&mut self, contender: &Contender, rate: f64, generators: usize) -> Option<record::Trial> {
        if interrupt::caught() {
            return None;
        }
        self.progress.say(&format!("{}: {rate:.0} starts a second", contender.name));
        let counts = || self.stage.pool_of(contender)?.counts();
        let before = counts();
        let trial = load::open(self.stage, contender, rate, self.options.trial, generators);
        let hits = before.zip(counts()).and_then(|(before, after)| {
            let (served, missed) = (after.served - before.served, after.missed - before.missed);
            (served + missed > 0).then(|| served as f64 / (served + missed) as f64)
        });
        let trial = record::Trial { hits, ..trial };
        world::reap();
        // Network namespaces of the last trial are dismantled in the background.
        std::thread::sleep(Duration::from_millis(100));
        self.quiet(contender);
        (!interrupt::caught()).then_some(trial)
    }

    /// Ends what `contender` has left running, and has the pool fill up if it took from that.
    fn quiet(&self, contender: &Contender) {
        world::end_orphans(&self.stage.residents());
        if let Some(parking) = self.stage.pool_of(contender) {
            parking.fill_up();
        }
    }

    /// A burst that empties the pool, and what a sandbox costs.
    fn pool(&mut self) -> Result<()> {
        let leased = self.stage.contenders.iter().find(|contender| contender.way == Way::Lease);
        let leased = leased.and_then(|leased| Some((leased, self.stage.pool_of(leased)?)));
        let Some((leased, parking)) = leased else { return Ok(()) };
        let count = BURST * parking.size;
        self.progress.say(&format!("{count} starts at once"));
        let timeout = self.options.timeout + Duration::from_secs(20);
        let cold = Contender { way: Way::Command, ..leased.clone() };
        let burst = |who: &Contender| {
            self.quiet(leased);
            let done = load::burst(self.stage, who, count, timeout);
            self.quiet(leased);
            done
        };
        let (with, without) = (burst(leased), burst(&cold));
        let times = |starts: &[(Option<Duration>, bool)], wanted: bool| {
            let wanted = starts.iter().filter(|(_, was_leased)| *was_leased == wanted);
            let mut times: Vec<f64> = wanted.filter_map(|(done, _)| Some(done.as_ref()?.as_micros() as f64)).collect();
            times.sort_by(f64::total_cmp);
            times
        };
        let failed = [&with, &without].map(|starts| starts.iter().filter(|(done, _)| done.is_none()).count());
        self.record.pool = Some(record::Pool {
            size: parking.size,
            hits_us: times(&with, true),
            misses_us: times(&with, false),
            cold_us: times(&without, false),
            failed,
            pss_kib: parking.pss(),
        });
        if !interrupt::caught() {
            self.progress.say("memory of a parked sandbox");
            let count = if self.options.quick { 16 } else { PARKED_FOR_MEMORY };
            self.record.memory.extend(parking.memory(PARKED, count, growth::available_kib));
        }
        Ok(())
    }

    fn steps(&mut self) -> Result<()> {
        let rounds = if self.options.quick { 20 } else { 100 };
        if let Some(ours) = self.stage.contenders.iter().find(|contender| contender.name == stage::MICRORUN) {
            self.progress.say("where the time goes");
            self.record.steps = steps::of_init(self.stage, ours, rounds)?;
        }
        match contender::on_path("strace") {
            Some(strace) => {
                let who = self.alive_but_engines();
                for contender in who.into_iter().map(|index| &self.stage.contenders[index]) {
                    if !contender.overlay && !contender.way.is_lease() && !interrupt::caught() {
                        self.stage.enter_view_of(contender)?;
                        match steps::calls(self.stage, contender, &strace) {
                            Ok(calls) => self.record.calls.push(calls),
                            Err(why) => self.record.skipped.push(format!("system calls: {}: {why}", contender.name)),
                        }
                        world::end_orphans(&self.stage.residents());
                        self.stage.enter_common_view()?;
                    }
                }
            }
            None => self.record.skipped.push("system calls: no strace on PATH".to_owned()),
        }
        world::end_orphans(&self.stage.residents());
        Ok(())
    }

    fn growth(&mut self) -> Result<()> {
        let mut who = self.alive_but_engines();
        who.retain(|index| {
            let contender = &self.stage.contenders[*index];
            let has_overlay = contender.overlay || contender.words.iter().any(|word| word == "--overlay");
            contender.takes_bundle() && contender.clean_up.is_some() && !has_overlay
        });
        for index in who.extract_if(.., |index| self.stage.contenders[*index].place == Place::V1) {
            let name = &self.stage.contenders[index].name;
            self.record.skipped.push(format!("growth: {name}: it is measured in a view of its own, with other mounts"));
        }
        let sizes = growth::Sizes::new(self.options.quick);
        let mut growth = growth::Growth {
            stage: self.stage,
            who: &who,
            timeout: self.options.timeout,
            random: &mut self.random,
            progress: &mut self.progress,
        };
        self.record.growth = growth.curves(&sizes)?;
        self.record.memory = growth.memory(&sizes)?;
        world::end_orphans(&self.stage.residents());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_fowler_noll_and_vo() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
