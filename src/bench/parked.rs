//! The pool of the rows that start parked sandboxes: `microrun pool serve`, run for the measurement.

use super::record::Memory;
use super::sample::{Failure, Sample};
use super::world::{self, Result, doing};
use crate::pool::{self, Pool, Running, Sandbox, Wish};
use crate::sys::process;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a pool may take for what it is waited for: to begin, to fill, to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a contender is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// By its command, which knows no pool.
    Command,
    /// By its command, which finds the pool.
    Pool,
    /// By its command, which finds a pool that uses namespaces again.
    Reuse,
    /// By its command, which finds a pool that has no sandbox, but a network namespace and a cgroup.
    Parts,
    /// By the library: a sandbox leased before, or its command if there is none.
    Lease,
    /// By the library, from a pool that uses namespaces again.
    LeaseReuse,
}

impl Way {
    /// The way of those by whose name the pool goes that it takes: several may take the same.
    pub fn pool(self) -> Option<Self> {
        match self {
            Self::Command => None,
            Self::Lease => Some(Self::Pool),
            Self::LeaseReuse => Some(Self::Reuse),
            own => Some(own),
        }
    }

    /// Whether it is by the library.
    pub fn is_lease(self) -> bool {
        matches!(self, Self::Lease | Self::LeaseReuse)
    }
}

/// A pool that runs.
#[derive(Debug)]
pub struct Parking {
    server: Child,
    socket: PathBuf,
    /// What it holds: [`Way::Pool`], [`Way::Reuse`] or [`Way::Parts`].
    way: Way,
    /// How many sandboxes, or parts of each kind, it holds.
    pub size: usize,
    library: Pool,
    /// The misses that have been taken note of.
    missed: AtomicU64,
    /// The cgroups that there were before: those of a pool have names that nobody can foresee.
    cgroups: BTreeSet<PathBuf>,
    /// The pool's own.
    own: PathBuf,
}

/// What a pool says of its sandboxes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// How many are ready.
    pub ready: usize,
    /// How many have been given away.
    pub served: u64,
    /// How often there was none.
    pub missed: u64,
}

/// Where the cgroups of the common view are.
const TOP: &str = "/sys/fs/cgroup";

impl Parking {
    /// Has `microrun` hold `size` sandboxes of a bundle with `config` below `directory`, or parts of them, as `way` says, and waits
    /// until they are there. Containers are recorded in `root`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn new(
        microrun: &Path,
        directory: &Path,
        root: &Path,
        config: &Value,
        (way, size): (Way, usize),
    ) -> Result<Self> {
        let bundle = Self::bundle(directory);
        fs::create_dir_all(&bundle).map_err(doing("create", &bundle))?;
        fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(config)?)
            .map_err(doing("write config.json in", &bundle))?;
        let cgroups = cgroups();
        let own = Path::new(TOP).join(world::name()).join(directory.file_name().unwrap_or_default());
        fs::create_dir_all(&own).map_err(doing("create the cgroup", &own))?;
        let (socket, log) = (directory.join("socket"), directory.join("log"));
        let written = File::create(&log).map_err(doing("create", &log))?;
        let library = Pool::at(&socket, root, &bundle)?;
        let mut command = Command::new(microrun);
        command.args(["pool", "serve", "--socket"]).arg(&socket).arg(&bundle);
        match way {
            Way::Parts => command.args(["--size", "0", "--parts", &size.to_string()]),
            Way::Reuse => command.args(["--size", &size.to_string(), "--reuse-namespaces"]),
            _ => command.args(["--size", &size.to_string()]),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(written);
        // It ends with this process, however that ends.
        process::before_exec(&mut command, || {
            process::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGTERM as usize, 0, 0, 0]).map(drop)
        });
        let server = super::sample::spawn(&mut command).map_err(|failure| failure.to_string())?;
        // Before it has begun to make anything.
        let moved = fs::write(own.join("cgroup.procs"), server.id().to_string());
        let mut parking = Self { server, socket, way, size, library, missed: AtomicU64::new(0), cgroups, own };
        moved.map_err(doing("move the pool into", &parking.own))?;
        let began = Instant::now();
        while parking.counts().is_none_or(|counts| counts.ready < size) {
            let ended = parking.server.try_wait().is_ok_and(|status| status.is_some());
            if ended || began.elapsed() > PATIENCE {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let last = said.lines().next_back().unwrap_or("it says nothing").to_owned();
                return Err(format!("the pool did not fill: {last}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(parking)
    }

    /// The bundle of a pool in `directory`.
    pub fn bundle(directory: impl AsRef<Path>) -> PathBuf {
        directory.as_ref().join("bundle")
    }

    /// The process id of the pool.
    pub fn pid(&self) -> i32 {
        self.server.id() as i32
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has; none while it does not answer.
    pub fn counts(&self) -> Option<Counts> {
        let status: Value = serde_json::from_str(&pool::ask(&self.socket, Wish::Status).ok()?).ok()?;
        let of = if self.way == Way::Parts { &status["parts"] } else { status["bundles"].as_array()?.first()? };
        let number = |name: &str| of[name].as_u64();
        let ready = if self.way == Way::Parts { number("networks")?.min(number("cgroups")?) } else { number("ready")? };
        Some(Counts { ready: ready as usize, served: number("served")?, missed: number("missed")? })
    }

    /// Waits until the pool is full again; whether somebody found it empty since the last time, or it has gone.
    pub fn fill_up(&self) -> bool {
        let began = Instant::now();
        loop {
            let Some(counts) = self.counts() else { return true };
            if counts.ready >= self.size || began.elapsed() > PATIENCE {
                return self.missed.swap(counts.missed, Ordering::Relaxed) != counts.missed;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// A sandbox; `None` if none is ready.
    pub fn lease(&self) -> Option<Sandbox> {
        self.library.lease().ok()
    }

    /// The memory of a sandbox that waits: its proportional set, and all that goes missing for each of `count`.
    pub fn memory(&self, row: &str, count: usize, available_kib: impl Fn() -> Option<f64>) -> Option<Memory> {
        let few = 2;
        let hold = |count: usize| {
            self.library.fill(count).ok()?;
            let began = Instant::now();
            while self.counts()?.ready < count {
                if began.elapsed() > PATIENCE {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            // Those that were given up are taken apart meanwhile.
            std::thread::sleep(Duration::from_millis(300));
            available_kib()
        };
        let before = hold(few);
        let after = before.and_then(|_| hold(few + count));
        let mean = self.pss_of_each();
        self.library.fill(self.size).ok()?;
        self.fill_up();
        Some(Memory {
            row: row.to_owned(),
            runtime_pss_kib: mean,
            kernel_kib: before.zip(after).map(|(before, after)| (before - after) / count as f64),
        })
    }

    /// The proportional set size of all memories that sandboxes have, in KiB, by their number: they may have that of their maker in common.
    fn pss_of_each(&self) -> Option<u64> {
        let place = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/ipc")).ok();
        let own = place(self.pid());
        let parked: Vec<i32> = self.children().into_iter().filter(|pid| place(*pid) != own).collect();
        let total: u64 = process::one_of_each_memory(&parked).map(super::growth::pss).sum();
        total.checked_div(parked.len() as u64).filter(|kib| *kib > 0)
    }

    /// The processes that wait, and those that make them.
    fn children(&self) -> Vec<i32> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let listed = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
        listed.flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
    }

    /// The proportional set size of the pool itself, in KiB.
    pub fn pss(&self) -> u64 {
        super::growth::pss(self.pid())
    }

    /// Ends it; what went wrong, in words.
    pub fn end(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        let _ = process::kill(self.pid(), libc::SIGTERM);
        let began = Instant::now();
        while matches!(self.server.try_wait(), Ok(None)) {
            if began.elapsed() > PATIENCE {
                left.push(format!("process {} (microrun pool): it did not end within {PATIENCE:?}", self.pid()));
                super::sample::end(&mut self.server);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        left
    }

    /// What it has left, in words. That is removed.
    fn clear(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        for path in self.empty_cgroups() {
            left.push(format!("cgroup {}", path.display()));
            let _ = fs::remove_dir(path);
        }
        let parked = self.socket.with_file_name("parked");
        left.extend(entries(&parked).iter().map(|path| format!("state {}", path.display())));
        if let Err(error) = fs::remove_dir(&self.own) {
            left.push(format!("cgroup {}: {error}", self.own.display()));
        }
        left
    }

    /// Cgroups of containers with made-up ids in which nobody is. Those of somebody else's containers are in use, or will be
    /// soon.
    fn empty_cgroups(&self) -> Vec<PathBuf> {
        let now = || {
            let is_left = |path: &PathBuf| is_random(path) && world::is_empty_cgroup(path);
            cgroups().difference(&self.cgroups).filter(|path| is_left(path)).cloned().collect::<Vec<_>>()
        };
        let mut found = now();
        if !found.is_empty() {
            std::thread::sleep(Duration::from_millis(500));
            let still = now();
            found.retain(|path| still.contains(path));
        }
        found
    }

    /// What it has left behind, which has been ended, in words.
    pub fn close(mut self) -> Vec<String> {
        self.clear()
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        // After `close` there is nothing to be found.
        if self.own.exists() {
            self.end();
            self.clear();
        }
    }
}

/// Whether a cgroup has the name of a container whose id was made up.
fn is_random(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn cgroups() -> BTreeSet<PathBuf> {
    entries(Path::new(TOP)).into_iter().filter(|path| path.is_dir()).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Starts the program of a leased sandbox, whose output can be read from a pipe.
///
/// # Errors
/// What the kernel says, or that the sandbox has ended.
pub fn launch(sandbox: Sandbox) -> std::result::Result<(Running, PipeReader), Failure> {
    let failure = |error: &dyn std::fmt::Display| Failure::Spawn(error.to_string());
    let (reader, writer) = std::io::pipe().map_err(|error| failure(&error))?;
    let null = File::open("/dev/null").map_err(|error| failure(&error))?;
    let stdio = pool::Stdio { stdin: null.as_fd(), stdout: writer.as_fd(), stderr: null.as_fd() };
    let running = sandbox.start(stdio, None, &[]).map_err(|error| failure(&error))?;
    Ok((running, reader))
}

/// Starts the program of a leased sandbox and waits for its end, as [`super::sample::of_output`] does for a command. The clock
/// runs from the request on: the lease was had before.
///
/// # Errors
/// Why the start does not count.
pub fn timed(sandbox: Sandbox, expected: &[u8], timeout: Duration) -> std::result::Result<Sample, Failure> {
    let failure = |error: &dyn std::fmt::Display| Failure::Spawn(error.to_string());
    let started = Instant::now();
    let (mut running, mut reader) = launch(sandbox)?;
    let (mut output, mut first_byte) = (Vec::new(), None);
    loop {
        if !readable_within(reader.as_raw_fd(), timeout.saturating_sub(started.elapsed())) {
            let _ = running.kill(libc::SIGKILL);
            let _ = running.wait();
            return Err(Failure::Timeout);
        }
        let mut buffer = [0; 256];
        let count = reader.read(&mut buffer).map_err(|error| failure(&error))?;
        if count == 0 {
            break;
        }
        first_byte = first_byte.or(Some(started.elapsed().as_secs_f64() * 1e6));
        output.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
    if !readable_within(running.pidfd().as_raw_fd(), timeout.saturating_sub(started.elapsed())) {
        let _ = running.kill(libc::SIGKILL);
        let _ = running.wait();
        return Err(Failure::Timeout);
    }
    let code = running.wait().map_err(|error| failure(&error))?;
    let reaped = started.elapsed().as_secs_f64() * 1e6;
    match code {
        0 if output == expected => Ok(Sample { first_byte, reaped }),
        0 => Err(Failure::Output(String::from_utf8_lossy(&output).into_owned())),
        code => Err(Failure::Code(code)),
    }
}

fn readable_within(fd: i32, time: Duration) -> bool {
    crate::sys::fs::retry(|| process::poll(&mut [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }], Some(time)))
        .is_ok_and(|count| count > 0)
}
