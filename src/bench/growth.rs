//! How the cost of a start grows with what is on the machine and in config.json, and what memory a container takes.

use super::contender::Contender;
use super::latency::{self, Series};
use super::progress::Progress;
use super::record::{Curve, Memory};
use super::sample;
use super::stage::Stage;
use super::stats::Random;
use super::world::{Result, doing};
use crate::sys::{interrupt, pidfd, process};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use std::fs;
use std::os::fd::AsRawFd;
use std::process::Child;
use std::time::{Duration, Instant};

/// How far the curves go.
#[derive(Debug, Clone)]
pub struct Sizes {
    rounds: usize,
    alive: Vec<usize>,
    host_mounts: Vec<usize>,
    config_mounts: Vec<usize>,
    /// Containers over which the kernel's memory is measured.
    kept: usize,
}

impl Sizes {
    /// The sizes of a whole measurement or of a quick one.
    pub fn new(quick: bool) -> Self {
        if quick {
            let (alive, host_mounts, config_mounts) = (vec![0, 10], vec![30, 100], vec![0, 20]);
            Self { rounds: 8, alive, host_mounts, config_mounts, kept: 10 }
        } else {
            let (alive, host_mounts) = (vec![0, 10, 100, 1000], vec![30, 100, 500]);
            Self { rounds: 30, alive, host_mounts, config_mounts: vec![0, 20, 100], kept: 50 }
        }
    }
}

/// Who is measured, and with what.
pub struct Growth<'a> {
    /// Where everything is.
    pub stage: &'a Stage,
    /// Runtimes with runc's command line.
    pub who: &'a [usize],
    /// How long one start may take.
    pub timeout: Duration,
    /// For the order.
    pub random: &'a mut Random,
    /// What is going on.
    pub progress: &'a mut Progress,
}

impl Growth<'_> {
    /// The curves.
    ///
    /// # Errors
    /// A file or a mount cannot be made.
    pub fn curves(&mut self, sizes: &Sizes) -> Result<Vec<Curve>> {
        let mut curves = self.against_alive(sizes)?;
        curves.extend(self.against_host_mounts(sizes)?);
        curves.extend(self.against_config_mounts(sizes)?);
        Ok(curves)
    }

    /// A round for each contender, `sizes.rounds` times, added to `curves` as the points for `count`.
    fn add_points(&mut self, curves: &mut [Curve], count: usize, rounds: usize) {
        let series = Series { rounds, gap: Duration::ZERO, timeout: self.timeout };
        let found = latency::rounds(self.stage, self.who, series, self.random, self.progress);
        for (curve, latency) in curves.iter_mut().zip(found) {
            if let [_, Some(summary)] = latency.summaries() {
                curve.points.push((count, summary.median, summary.p99, latency.failed()));
            }
        }
    }

    fn blank(&self, with: &str) -> Vec<Curve> {
        let curve = |index: &usize| Curve {
            with: with.to_owned(),
            row: self.stage.contenders[*index].name.clone(),
            points: Vec::new(),
        };
        self.who.iter().map(curve).collect()
    }

    fn against_alive(&mut self, sizes: &Sizes) -> Result<Vec<Curve>> {
        let mut curves = self.blank("containers alive");
        // The same ones for everybody: those of the first, which is microrun where it takes part.
        let Some(keeper) = self.who.first().map(|index| &self.stage.contenders[*index]) else { return Ok(curves) };
        let mut kept = Kept::new(self.stage, keeper);
        for count in &sizes.alive {
            self.progress.say(&format!("{count} containers alive"));
            kept.grow_to(*count)?;
            if interrupt::caught() || kept.count < *count {
                break;
            }
            self.add_points(&mut curves, *count, sizes.rounds);
        }
        kept.end();
        Ok(curves)
    }

    fn against_host_mounts(&mut self, sizes: &Sizes) -> Result<Vec<Curve>> {
        let mut curves = self.blank("mounts in the host's namespace");
        let directory = self.stage.make_directory("mounts")?;
        let present = || fs::read_to_string("/proc/self/mountinfo").map_or(0, |text| text.lines().count());
        let mut made = Vec::new();
        for count in &sizes.host_mounts {
            for number in made.len()..made.len() + count.saturating_sub(present()) {
                let target = directory.join(number.to_string());
                fs::create_dir_all(&target).map_err(doing("create", &target))?;
                mount(Some("tmpfs"), &target, Some("tmpfs"), MsFlags::empty(), Some("size=4k"))
                    .map_err(doing("mount a tmpfs on", &target))?;
                made.push(target);
            }
            if interrupt::caught() {
                break;
            }
            self.add_points(&mut curves, present(), sizes.rounds);
        }
        for target in made {
            umount2(&target, MntFlags::MNT_DETACH).map_err(doing("unmount", &target))?;
        }
        Ok(curves)
    }

    fn against_config_mounts(&mut self, sizes: &Sizes) -> Result<Vec<Curve>> {
        let mut curves = self.blank("further mounts in config.json");
        for count in &sizes.config_mounts {
            if interrupt::caught() {
                break;
            }
            for number in 0..*count {
                self.stage.make_directory(&format!("rootfs/mounts/{number}"))?;
            }
            self.bundles(|config| add_mounts(config, *count))?;
            self.add_points(&mut curves, *count, sizes.rounds);
        }
        self.bundles(|_| {})?;
        Ok(curves)
    }

    fn bundles(&self, change: impl Fn(&mut Value)) -> Result<()> {
        for index in self.who {
            self.stage.make_bundles(&self.stage.contenders[*index], 0..1, &change)?;
        }
        Ok(())
    }

    /// What a container costs each runtime.
    ///
    /// # Errors
    /// A bundle cannot be written.
    pub fn memory(&mut self, sizes: &Sizes) -> Result<Vec<Memory>> {
        let mut found = Vec::new();
        for index in self.who {
            let contender = &self.stage.contenders[*index];
            if interrupt::caught() {
                break;
            }
            self.progress.say(&format!("{}: memory", contender.name));
            self.stage.enter_view_of(contender)?;
            let runtime_pss_kib = foreground_pss(self.stage, contender)?;
            let mut kept = Kept::new(self.stage, contender);
            // The first ones make caches that stay.
            kept.grow_to(2)?;
            let before = available_kib();
            kept.grow_to(2 + sizes.kept)?;
            let kernel_kib = (kept.count == 2 + sizes.kept)
                .then(|| Some((before? - available_kib()?) / sizes.kept as f64))
                .flatten();
            kept.end();
            self.stage.enter_common_view()?;
            // On a machine that does other things the difference may be anything.
            let kernel_kib = kernel_kib.filter(|kib| *kib > 0.0);
            found.push(Memory { row: contender.name.clone(), runtime_pss_kib, kernel_kib });
        }
        self.bundles(|_| {})?;
        Ok(found)
    }
}

/// `count` more mounts of file systems in memory.
fn add_mounts(config: &mut Value, count: usize) {
    if let Some(mounts) = config["mounts"].as_array_mut() {
        let mount = |number: usize| {
            json!({"destination": format!("/mounts/{number}"), "type": "tmpfs", "source": "tmpfs",
                   "options": ["nosuid", "nodev", "size=4k"]})
        };
        mounts.extend((0..count).map(mount));
    }
}

/// Containers that wait, which somebody has started and leaves alone. Their slots begin after those of the starts.
struct Kept<'a> {
    stage: &'a Stage,
    keeper: &'a Contender,
    count: usize,
}

/// The first slot of those who are kept.
const FIRST_KEPT: usize = 100_000;
/// How long a start of one of them may take.
const KEEPING: Duration = Duration::from_secs(20);

impl<'a> Kept<'a> {
    fn new(stage: &'a Stage, keeper: &'a Contender) -> Self {
        Self { stage, keeper, count: 0 }
    }

    /// Starts more of them; fewer if one fails or a signal came.
    fn grow_to(&mut self, count: usize) -> Result<()> {
        while self.count < count && !interrupt::caught() {
            let slot = FIRST_KEPT + self.count;
            self.stage
                .make_bundles(self.keeper, slot..slot + 1, |config| config["process"]["args"] = json!(["/pause"]))?;
            let mut words = self.keeper.words.clone();
            let at = words.iter().position(|word| word == "run").ok_or("a runtime is called with run")? + 1;
            words.insert(at, "--detach".to_owned());
            let mut command = super::contender::words_to_command(self.stage.filled(self.keeper, &words, slot));
            if sample::of_end::<std::io::PipeReader>(&mut command, None, KEEPING).is_err() {
                self.stage.clean_up(self.keeper, slot);
                break;
            }
            self.count += 1;
        }
        Ok(())
    }

    fn end(self) {
        for number in 0..self.count {
            self.stage.clean_up(self.keeper, FIRST_KEPT + number);
        }
        super::world::reap();
    }
}

/// The proportional set sizes of a foreground `run` and its descendants but the container's own processes, in KiB; none if
/// it does not come up.
fn foreground_pss(stage: &Stage, contender: &Contender) -> Result<Option<u64>> {
    let slot = FIRST_KEPT;
    stage.make_bundles(contender, slot..slot + 1, |config| config["process"]["args"] = json!(["/pause"]))?;
    let mut command = stage.command(contender, slot);
    let Ok(mut child) = sample::spawn(&mut command) else { return Ok(None) };
    let found = settled(&child).then(|| runtime_pss(child.id() as i32));
    stage.clean_up(contender, slot);
    let pidfd = pidfd::open(child.id() as i32)?;
    if process::ends_within(pidfd.as_raw_fd(), Duration::from_secs(2)) != Ok(true) {
        sample::end(&mut child);
    }
    let _ = child.wait();
    super::world::end_orphans(&stage.residents());
    Ok(found.filter(|kib| *kib > 0))
}

/// Waits until the container's program runs.
fn settled(child: &Child) -> bool {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        let family = descendants(child.id() as i32);
        if family.iter().any(|pid| read(*pid, "comm").trim() == "pause") {
            // What is only needed for the start goes meanwhile.
            std::thread::sleep(Duration::from_millis(100));
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn runtime_pss(pid: i32) -> u64 {
    let family = descendants(pid);
    family.into_iter().filter(|pid| read(*pid, "comm").trim() != "pause").map(pss).sum()
}

/// `Pss` of proc_pid_smaps(5), in KiB.
pub fn pss(pid: i32) -> u64 {
    let text = read(pid, "smaps_rollup");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// `pid` and all below it.
fn descendants(pid: i32) -> Vec<i32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(pid) = family.get(next).copied() {
        next += 1;
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    family
}

fn read(pid: i32, file: &str) -> String {
    super::machine::read(&format!("/proc/{pid}/{file}"))
}

/// `MemAvailable` of proc_meminfo(5), in KiB.
pub fn available_kib() -> Option<f64> {
    let text = super::machine::read("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}
