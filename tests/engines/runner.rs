//! Cases: named, selected, run one after the other, counted.

use crate::process::which;
use crate::world::{Inventory, World};
use std::any::Any;
use std::cell::RefCell;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// An engine with its cases.
pub trait Engine: Sized {
    /// The suite's name, which the names of its cases begin with.
    const NAME: &'static str;
    /// Programs that it needs, each with Debian's package.
    const NEEDS: &'static [(&'static str, &'static str)];
    /// Directories that the runtime, or the engine for it, keeps something in for each container: they must be empty in the end.
    const STATE: &'static [&'static str] = &[];

    /// Starts it, with `runtime` for its containers.
    ///
    /// # Errors
    /// Why it does not start.
    fn start(world: &World, runtime: &Runtime) -> Result<Self, String>;
    /// What it is, with its version.
    fn version(&self) -> String;
    /// The cases, in the order in which they are run.
    fn cases() -> Vec<Case<Self>>;
    /// Removes the containers that a case has left, whatever state they are in.
    fn clean(&self);
}

/// A case.
pub struct Case<E> {
    /// Its name, without the suite's.
    pub name: &'static str,
    /// Does it. It panics when something is wrong, or calls [`skip`].
    pub run: fn(&E),
    /// Whether it is about what microrun alone does: then no other runtime's failure excuses its own.
    pub is_ours_alone: bool,
}

impl<E> Case<E> {
    /// A case that every runtime should pass.
    pub fn new(name: &'static str, run: fn(&E)) -> Self {
        Self { name, run, is_ours_alone: false }
    }

    /// The same case, of what microrun alone does.
    pub fn of_ours_alone(self) -> Self {
        Self { is_ours_alone: true, ..self }
    }
}

/// A list of cases: the names of functions, with hyphens for their underscores.
#[macro_export]
macro_rules! cases {
    ($($(#[$_:meta])* $function:path),* $(,)?) => {
        vec![$($crate::runner::Case::new($crate::runner::last_word(stringify!($function)), $function)),*]
    };
}

/// The last word of a path to a function.
pub fn last_word(path: &'static str) -> &'static str {
    path.rsplit(':').next().unwrap_or(path).trim()
}

/// Ends the case as skipped.
pub fn skip(why: impl Display) -> ! {
    panic_any(Skipped(why.to_string()))
}

struct Skipped(String);

/// A runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Its name: microrun, runc, crun, ...
    pub name: String,
    /// The program.
    pub path: PathBuf,
    /// Whether containerd uses it through microrun's own shim.
    pub has_own_shim: bool,
}

impl Runtime {
    /// `$RUNTIME`: microrun, `shim` for microrun in the shim's own process, or another one that is installed.
    ///
    /// # Errors
    /// It is not installed.
    fn under_test(world: &World) -> Result<Self, String> {
        let ours =
            |name: &str| Self { name: name.to_owned(), path: world.path("bin/microrun"), has_own_shim: name == "shim" };
        match std::env::var("RUNTIME").ok().filter(|name| !name.is_empty()).as_deref() {
            None | Some("microrun") => Ok(ours("microrun")),
            Some("shim") => Ok(ours("shim")),
            Some(name) => Self::installed(name).ok_or_else(|| format!("$RUNTIME: there is no program {name}")),
        }
    }

    fn installed(name: &str) -> Option<Self> {
        which(name).map(|path| Self { name: name.to_owned(), path, has_own_shim: false })
    }

    /// Whether this is microrun, and not one to compare it with.
    pub fn is_microrun(&self) -> bool {
        self.name == "microrun" || self.has_own_shim
    }
}

#[derive(Debug)]
enum Outcome {
    Passed,
    /// It failed, and passed at the second try.
    Unsteady(String),
    Failed(String),
    Skipped(String),
}

#[derive(Debug, Default)]
struct Counts {
    passed: u32,
    unsteady: u32,
    failed: u32,
    skipped: u32,
}

/// How many cases may be unsteady for a busy machine to be the cause.
const UNSTEADY: u32 = 2;

/// Runs suites and counts.
pub struct Runner {
    /// Parts of names; a case that has none of them in its name is left out.
    selected: Vec<String>,
    list: bool,
    totals: RefCell<Vec<(String, Counts)>>,
}

/// What the last panic said, and where.
static PANIC: Mutex<String> = Mutex::new(String::new());

impl Runner {
    /// As the program's arguments say.
    pub fn from_args() -> Self {
        let (options, selected): (Vec<String>, Vec<String>) =
            std::env::args().skip(1).partition(|word| word.starts_with('-'));
        Self { selected, list: options.iter().any(|option| option == "--list"), totals: RefCell::default() }
    }

    /// Runs the suite of an engine, if a case of it is selected.
    pub fn suite<E: Engine>(&self, world: &World) {
        let mut cases: Vec<Case<E>> = E::cases();
        cases.retain(|case| self.is_selected(&name::<E>(case.name)));
        if cases.is_empty() {
            return;
        }
        if self.list {
            cases.iter().for_each(|case| println!("{}", name::<E>(case.name)));
            return;
        }
        let missing: Vec<String> = E::NEEDS
            .iter()
            .filter(|(program, _)| which(program).is_none())
            .map(|(program, package)| format!("{program} (Debian's package {package})"))
            .collect();
        if !missing.is_empty() {
            return self.skip_all(&cases, &format!("missing: {}", missing.join(", ")));
        }
        match Runtime::under_test(world) {
            Err(why) => self.skip_all(&cases, &why),
            Ok(runtime) => self.run_suite(world, &runtime, &cases),
        }
    }

    /// Prints the totals; the exit code is a failure if a case failed, or if too many of a suite are unsteady.
    pub fn finish(&self) -> ExitCode {
        let mut is_good = true;
        for (name, Counts { passed, unsteady, failed, skipped }) in self.totals.borrow().iter() {
            println!("{name}: {passed} passed, {unsteady} unsteady, {failed} failed, {skipped} skipped");
            if *unsteady > UNSTEADY {
                println!(
                    "        more than {UNSTEADY} that pass at the second try alone: that is a defect, not the machine"
                );
            }
            is_good &= *failed == 0 && *unsteady <= UNSTEADY;
        }
        if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn is_selected(&self, name: &str) -> bool {
        self.selected.is_empty() || self.selected.iter().any(|part| name.contains(part))
    }

    fn skip_all<E: Engine>(&self, cases: &[Case<E>], why: &str) {
        let mut counts = Counts::default();
        for case in cases {
            report(&mut counts, &name::<E>(case.name), Outcome::Skipped(why.to_owned()), Duration::ZERO);
        }
        self.totals.borrow_mut().push((E::NAME.to_owned(), counts));
    }

    fn run_suite<E: Engine>(&self, world: &World, runtime: &Runtime, cases: &[Case<E>]) {
        let before = Inventory::now();
        let mut counts = Counts::default();
        let engine = match start::<E>(world, runtime) {
            Ok(engine) => engine,
            Err(why) => {
                report(&mut counts, &name::<E>("start"), Outcome::Failed(why), Duration::ZERO);
                self.totals.borrow_mut().push((E::NAME.to_owned(), counts));
                return;
            }
        };
        println!("{}: {}, {}", E::NAME, engine.version(), runtime_version(runtime));
        let mut failures: Vec<(&Case<E>, String, Duration)> = Vec::new();
        for case in cases {
            let start = Instant::now();
            match run(&engine, case) {
                Outcome::Failed(why) => failures.push((case, why, start.elapsed())),
                outcome => report(&mut counts, &name::<E>(case.name), outcome, start.elapsed()),
            }
        }
        drop(engine);
        judge(world, runtime, &mut counts, failures);
        report(&mut counts, &name::<E>("nothing_is_left"), left(&before, E::STATE), Duration::ZERO);
        self.totals.borrow_mut().push((format!("{} on {}", E::NAME, runtime.name), counts));
    }
}

/// A case that fails with runc as well fails because of the machine or the engine: it is skipped, and says so. That is not asked of
/// one that is ours alone. One that does not has a second try, and is unsteady if it passes then: engines lose output now and
/// then on a busy machine.
fn judge<E: Engine>(
    world: &World,
    runtime: &Runtime,
    counts: &mut Counts,
    failures: Vec<(&Case<E>, String, Duration)>,
) {
    let is_comparable = failures.iter().any(|(case, ..)| !case.is_ours_alone);
    let peer = Runtime::installed("runc").filter(|_| runtime.is_microrun() && is_comparable);
    let peer = peer.and_then(|runc| start::<E>(world, &runc).ok());
    let by_peer = |case: &Case<E>| peer.as_ref().filter(|_| !case.is_ours_alone).map(|engine| run(engine, case));
    let with_peer: Vec<_> = failures.iter().map(|(case, ..)| by_peer(case)).collect();
    drop(peer);
    let again = if failures.is_empty() { None } else { start::<E>(world, runtime).ok() };
    for ((case, why, time), with_peer) in failures.into_iter().zip(with_peer) {
        let outcome = match (with_peer, again.as_ref().map(|engine| run(engine, case))) {
            (Some(Outcome::Failed(also)), _) => Outcome::Skipped(format!("it fails with runc too: {also}")),
            (_, Some(Outcome::Passed)) => Outcome::Unsteady(why),
            _ => Outcome::Failed(why),
        };
        report(counts, &name::<E>(case.name), outcome, time);
    }
}

fn start<E: Engine>(world: &World, runtime: &Runtime) -> Result<E, String> {
    catch(|| E::start(world, runtime)).unwrap_or_else(Err)
}

fn run<E: Engine>(engine: &E, case: &Case<E>) -> Outcome {
    let outcome = match catch_unwind(AssertUnwindSafe(|| (case.run)(engine))) {
        Ok(()) => Outcome::Passed,
        Err(payload) => outcome_of(payload),
    };
    match (outcome, catch(|| engine.clean())) {
        (Outcome::Passed, Err(why)) => Outcome::Failed(format!("clean: {why}")),
        (outcome, _) => outcome,
    }
}

fn outcome_of(payload: Box<dyn Any + Send>) -> Outcome {
    match payload.downcast::<Skipped>() {
        Ok(skipped) => Outcome::Skipped(skipped.0),
        Err(_) => Outcome::Failed(PANIC.lock().unwrap().clone()),
    }
}

fn catch<T>(what: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(what)).map_err(|_| PANIC.lock().unwrap().clone())
}

/// Keeps what a panic says for the report, instead of printing it in the middle of others.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        let mut last = PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let text = info.to_string();
        // "panicked at tests/x.rs:1:2:" and the message in the lines that follow.
        let (place, said) = text.split_once('\n').unwrap_or((&text, ""));
        let place = place.trim_start_matches("panicked at ").trim_end_matches(':');
        *last = format!("{} ({place})", said.split_whitespace().collect::<Vec<_>>().join(" "));
    }));
}

/// Everything that was made has to go within a second or so of the engine's end.
fn left(before: &Inventory, state: &[&str]) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut left = before.left();
        left.extend(state.iter().flat_map(|directory| entries(Path::new(directory))));
        if left.is_empty() {
            return Outcome::Passed;
        }
        if Instant::now() > deadline {
            return Outcome::Failed(left.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What is in a directory, but for what begins with a dot: caches, which are of no container.
fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let entries = entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    entries.map(|entry| format!("file {}", entry.path().display())).collect()
}

fn name<E: Engine>(case: &str) -> String {
    format!("{}/{}", E::NAME, case.replace('_', "-"))
}

fn report(counts: &mut Counts, name: &str, outcome: Outcome, time: Duration) {
    let (word, why) = match outcome {
        Outcome::Passed => {
            counts.passed += 1;
            ("ok", String::new())
        }
        Outcome::Unsteady(why) => {
            counts.unsteady += 1;
            ("unsteady", format!("it passes at the second try; the first: {why}"))
        }
        Outcome::Failed(why) => {
            counts.failed += 1;
            ("FAILED", why)
        }
        Outcome::Skipped(why) => {
            counts.skipped += 1;
            ("skipped", why)
        }
    };
    println!("{word:<9}{name} ({:.1} s)", time.as_secs_f32());
    why.lines().for_each(|line| println!("            {line}"));
}

fn runtime_version(runtime: &Runtime) -> String {
    let output = std::process::Command::new(&runtime.path).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    first_line(&text).to_owned()
}

fn first_line(text: &str) -> &str {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default()
}
