//! The cold start, against its peers and against what the kernel takes for the same work: docs/benchmark.md.
//!
//!   make bench-cold
//!   make bench-cold BENCH='--quick --runtime crun=/opt/crun'

mod lanes;
mod options;
mod report;
mod rounds;
mod single;

use lanes::{Kind, Lane, Runtime, Stage, filter, limit};
use microrun::bench::machine;
use microrun::bench::stats::Random;
use microrun::bench::world::{self, Result, World};
use options::{Options, USAGE};
use report::Bar;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.help {
        print!("{USAGE}");
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: the benchmark makes mounts and cgroups, which takes root");
        return Ok(());
    }
    let mut world = World::new(options.priority)?;
    let measured = Stage::set(&world, &options).and_then(|stage| {
        world.make_views()?;
        Bench::new(&options, &world, stage)?.everything()
    });
    let left = world.leave()?;
    println!("\nleft behind: {}", if left.is_empty() { "nothing".to_owned() } else { left.join("\n  ") });
    let mut json = measured?;
    json["left"] = json!(left);
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec(&json)?)?;
    }
    Ok(())
}

struct Bench<'a> {
    options: &'a Options,
    world: &'a World,
    stage: Stage,
    /// The view that is cgroup v2 alone.
    unified: &'static str,
    random: Random,
    held: Vec<(String, Value)>,
    json: Value,
}

/// A race: its lanes, and what they are held against.
struct Race {
    name: &'static str,
    title: &'static str,
    lanes: Vec<Lane>,
    kinds: &'static [Kind],
    references: &'static [&'static str],
    bars: &'static [Bar],
}

const fn bar(ours: &'static str, theirs: &'static str, most: f64) -> Bar {
    Bar { ours, theirs, most }
}

const THIRD: f64 = 1.0 / 3.0;

const COLD_BARS: &[Bar] = &[
    bar("microrun", "crun", THIRD),
    bar("microrun", "runc", 1.0 / 12.0),
    bar("microrun", "bubblewrap", 1.0),
    bar("microrun", "floor", 1.15),
];
const CRUN_BARS: &[Bar] = &[bar("microrun", "crun", THIRD)];
const SECCOMP_BARS: &[Bar] = &[bar("microrun+filter", "microrun", 1.05)];

impl<'a> Bench<'a> {
    fn new(options: &'a Options, world: &'a World, stage: Stage) -> Result<Self> {
        let facts = machine::facts();
        facts.iter().for_each(|(what, value)| println!("{what:9} {value}"));
        println!("state     on a tmpfs, for everybody; so are bundles and root filesystems");
        println!("dir       {}", world.dir.display());
        println!("order     shuffled in each round, seed {}; 3 rounds of warm-up are not counted", options.seed);
        let mut versions = Vec::new();
        for runtime in &stage.runtimes {
            versions.push((runtime.name.clone(), runtime.version()));
        }
        if let Some(words) = &stage.bubblewrap {
            versions.push(("bubblewrap".to_owned(), lanes::version(words)));
        }
        versions.iter().for_each(|(name, version)| println!("{name:18} {version}"));
        stage.skipped.iter().for_each(|why| println!("skipped   {why}"));
        let json = json!({
            "machine": machine::to_json(&facts), "seed": options.seed, "versions": versions, "skipped": stage.skipped,
            "races": [], "quick": options.quick
        });
        let unified = if world.unified.is_some() { "unified" } else { "own" };
        Ok(Self { options, world, stage, unified, random: Random::new(options.seed), held: Vec::new(), json })
    }

    fn everything(mut self) -> Result<Value> {
        for mut race in self.races()? {
            race.lanes.retain(|lane| self.options.lanes.is_empty() || self.options.lanes.contains(&lane.name));
            self.show(&race);
            for gap in &self.options.gaps {
                self.race(&race, *gap, self.options.rounds(race.name, *gap))?;
            }
        }
        self.memory()?;
        self.calls()?;
        self.steps()?;
        if !self.held.is_empty() {
            println!("\nThe bars: ratio of medians (95 % interval by bootstrap)\n");
            self.held.iter().for_each(|(line, _)| println!("{line}"));
        }
        println!("\nload at the end: {}", machine::load());
        self.json["bars"] = self.held.iter().map(|(_, json)| json.clone()).collect();
        self.json["load at the end"] = json!(machine::load());
        Ok(self.json)
    }

    fn races(&mut self) -> Result<Vec<Race>> {
        let mut races = Vec::new();
        let wanted = |name: &str| self.options.wants(name);
        let bundle = self.stage.bundle("unified", true, |_| {})?;
        let each = |of: &dyn Fn(&Runtime) -> Lane| self.stage.runtimes.iter().map(of).collect::<Vec<_>>();
        if wanted("v2") {
            let mut lanes = self.stage.bare(self.unified, Some("/sys/fs/cgroup"));
            lanes.extend(each(&|runtime| runtime.run(self.unified, &bundle)));
            races.push(Race {
                name: "v2",
                title: "cold run, cgroup v2 alone, runc's default config.json",
                lanes,
                kinds: &[Kind::Run],
                references: &["floor", "crun"],
                bars: COLD_BARS,
            });
        }
        if self.world.unified.is_some() {
            races.extend(self.races_of_own_hierarchy()?);
        } else {
            println!("skipped   own, limits: cgroup v2 alone is the machine's own hierarchy");
        }
        if wanted("seccomp") {
            let filtered = self.stage.bundle("filter", true, filter)?;
            let mut lanes = each(&|runtime| runtime.run(self.unified, &bundle));
            lanes.extend(each(&|runtime| {
                let lane = runtime.run(self.unified, &filtered);
                Lane { name: format!("{}+filter", lane.name), ..lane }
            }));
            races.push(Race {
                name: "seccomp",
                title: "with an engine's seccomp profile (402 rules), second start on",
                lanes,
                kinds: &[Kind::Run],
                references: &["microrun", "crun"],
                bars: SECCOMP_BARS,
            });
        }
        if wanted("exec") {
            let mut lanes = Vec::new();
            for runtime in &self.stage.runtimes {
                let name = format!("exec-{}", runtime.name);
                let bundle = self.stage.bundle(&name, true, |config| config["process"]["args"] = json!(["/pause"]))?;
                lanes.push(runtime.exec(self.unified, &bundle));
            }
            races.push(Race {
                name: "exec",
                title: "exec of a static program in a running container, cgroup v2 alone",
                lanes,
                kinds: &[Kind::Run],
                references: &["crun"],
                bars: CRUN_BARS,
            });
        }
        if wanted("lifecycle") {
            races.push(Race {
                name: "lifecycle",
                title: "create, start, delete, cgroup v2 alone",
                lanes: each(&|runtime| runtime.life(self.unified, &bundle)),
                kinds: &[Kind::Create, Kind::Start, Kind::Delete],
                references: &["crun"],
                bars: CRUN_BARS,
            });
        }
        Ok(races)
    }

    /// With v1 hierarchies. Who cannot start on a hybrid layout is measured without the cgroup2 mount.
    fn races_of_own_hierarchy(&self) -> Result<Vec<Race>> {
        let mut races = Vec::new();
        let unified = world::cgroup_mounts().into_iter().find(|mount| mount.unified).map(|mount| mount.path);
        let floor = unified.as_deref().and_then(Path::to_str);
        let scenarios = [
            ("own", "cold run, the machine's own cgroups, runc's default config.json", false),
            ("limits", "the same with limits of memory, pids and CPU", true),
        ];
        for (name, title, limited) in scenarios {
            if !self.options.wants(name) {
                continue;
            }
            let bundle = self.stage.bundle(name, false, |config| {
                if limited {
                    limit(config)
                }
            })?;
            let mut lanes = if limited { Vec::new() } else { self.stage.bare("own", floor) };
            for runtime in &self.stage.runtimes {
                lanes.extend(self.own_or_v1_only(runtime, &bundle)?);
            }
            races.push(Race {
                name,
                title,
                lanes,
                kinds: &[Kind::Run],
                references: &["floor", "crun"],
                bars: CRUN_BARS,
            });
        }
        Ok(races)
    }

    fn own_or_v1_only(&self, runtime: &Runtime, bundle: &Path) -> Result<Vec<Lane>> {
        let own = runtime.run("own", bundle);
        let Some(v1_only) = &self.world.v1_only else { return Ok(vec![own]) };
        let tried = rounds::run(self.world, std::slice::from_ref(&own), 0, Duration::ZERO, &mut Random::new(0))?;
        let without = runtime.run(v1_only.name, bundle);
        Ok(match tried.dropped.first() {
            Some(why) => {
                println!(
                    "note      {why}\n          so it is measured in a view without the cgroup2 mount: v1 hierarchies alone"
                );
                vec![without]
            }
            // What a peer may have to be compared with.
            None if runtime.name == "microrun" => vec![own, Lane { name: "microrun-v1".into(), ..without }],
            None => vec![own],
        })
    }

    /// The command lines, as one would type them.
    fn show(&self, race: &Race) {
        println!("\n== {}: {}", race.name, race.title);
        for lane in &race.lanes {
            for (index, (_, words)) in lane.steps.iter().enumerate() {
                let (name, view) = if index == 0 { (lane.name.as_str(), lane.view) } else { ("", "") };
                println!("  {name:26} {view:9} {}", self.shown(words));
            }
        }
    }

    fn shown(&self, words: &lanes::Words) -> String {
        lanes::shown(words).replace(&*self.world.dir.to_string_lossy(), "$dir")
    }

    fn race(&mut self, race: &Race, gap: Duration, rounds: usize) -> Result<()> {
        if rounds == 0 {
            return Ok(());
        }
        let quiet =
            if gap.is_zero() { "back to back".into() } else { format!("{} ms of quiet before each", gap.as_millis()) };
        println!("\n{}, {quiet}: {rounds} rounds; load {}", race.name, machine::load());
        eprintln!("... {}, {quiet}", race.name);
        let outcome = rounds::run(self.world, &race.lanes, rounds, gap, &mut self.random)?;
        outcome.dropped.iter().for_each(|why| println!("  skipped: {why}"));
        for kind in race.kinds {
            report::table(&outcome.rows, *kind, race.references, &mut self.random);
            let title = format!("{}, {quiet}", race.name);
            self.held.extend(report::hold(&title, &outcome.rows, *kind, race.bars, &mut self.random));
        }
        let commands: Vec<_> = race
            .lanes
            .iter()
            .map(|lane| json!({"name": lane.name, "view": lane.view, "commands": lane.steps.iter().map(|(_, words)| self.shown(words)).collect::<Vec<_>>()}))
            .collect();
        let entry = json!({
            "name": race.name, "title": race.title, "gap_ms": gap.as_millis() as u64, "rounds": rounds,
            "lanes": commands, "skipped": outcome.dropped, "rows": report::to_json(&outcome.rows)
        });
        if let Some(races) = self.json["races"].as_array_mut() {
            races.push(entry);
        }
        Ok(())
    }

    /// All who run something from nothing, in the v2 view.
    fn cold(&self) -> Result<Vec<Lane>> {
        let bundle = self.stage.bundle("unified", true, |_| {})?;
        let mut lanes = self.stage.bare(self.unified, Some("/sys/fs/cgroup"));
        lanes.extend(self.stage.runtimes.iter().map(|runtime| runtime.run(self.unified, &bundle)));
        Ok(lanes)
    }

    fn memory(&mut self) -> Result<()> {
        if !self.options.wants("memory") {
            return Ok(());
        }
        println!("\nmemory: peak resident set of a cold run, KiB: median, greatest");
        let found = single::memory(
            self.world,
            &self.stage.tools.join("peak"),
            &self.cold()?,
            if self.options.quick { 5 } else { 21 },
        )?;
        found.iter().for_each(|(name, median, most)| println!("  {name:34} {median:>7} {most:>7}"));
        self.json["memory_kib"] = json!(found);
        let of = |name: &str| found.iter().find(|(found, ..)| found == name).map(|(_, median, _)| *median as f64);
        let what = "memory: microrun / crun";
        let (Some(ours), Some(theirs)) = (of("microrun"), of("crun")) else {
            self.held.push(report::not_measured(what, 1.0, "one of them could not be run"));
            return Ok(());
        };
        let verdict = if ours <= theirs { "met" } else { "MISSED" };
        let line = format!("  {what:96} {:<22.3} at most {:.3}  {verdict}", ours / theirs, 1.0);
        self.held.push((line, json!({"what": what, "ratio": ours / theirs, "most": 1.0, "verdict": verdict})));
        Ok(())
    }

    fn calls(&mut self) -> Result<()> {
        if !self.options.wants("calls") {
            return Ok(());
        }
        if lanes::command(&vec!["strace".into(), "-V".into()]).status().is_err() {
            println!("\nskipped   calls: no strace on PATH");
            return Ok(());
        }
        println!("\ncalls: system calls of a cold run and all its processes (strace -f -c)");
        let found = single::calls(self.world, &self.cold()?)?;
        found.iter().for_each(|(name, count)| println!("  {name:34} {count:>7}"));
        if let Some((_, count)) = found.iter().find(|(name, _)| name == "microrun") {
            let what = "calls: system calls of a cold run";
            let line = format!("  {what:96} {count:<22} held to a budget by tests/syscalls.rs");
            self.held.push((line, json!({"what": what, "count": count})));
        }
        self.json["system_calls"] = json!(found);
        Ok(())
    }

    /// Where the time of a start goes, after a while of quiet.
    fn steps(&mut self) -> Result<()> {
        if !self.options.wants("steps") {
            return Ok(());
        }
        let gap = Duration::from_millis(300);
        let rounds = self.options.rounds("steps", gap).clamp(5, 50);
        let own = self.stage.bundle("own", self.world.unified.is_none(), |_| {})?;
        let Some(runtime) = self.stage.runtimes.iter().find(|runtime| runtime.name == "microrun") else {
            return Ok(());
        };
        let lane = runtime.run("own", &own);
        println!(
            "\nsteps: where the time goes, the machine's own cgroups, 300 ms of quiet, median µs of {rounds} starts (run --timings)"
        );
        let steps = single::steps(self.world, &lane, rounds, gap)?;
        for step in &steps {
            println!("  {:>8.1}  {:60} {}", step.microseconds, step.call, step.field);
        }
        println!("  {:>8.1}  in all", steps.iter().map(|step| step.microseconds).sum::<f64>());
        let json = |step: &single::Step| json!({"us": step.microseconds, "call": step.call, "field": step.field});
        self.json["steps"] = steps.iter().map(json).collect();
        Ok(())
    }
}
