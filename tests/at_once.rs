//! Verbs on the same containers at once, at random: each does what it is for or says why not, and nothing is left.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Guard, Lab};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

const VERBS: usize = 2000;
/// After which there are no more verbs: a slow machine has fewer.
const LONG_ENOUGH: Duration = Duration::from_secs(200);
const AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(120);

/// What a verb may say of a container that is not, or is no longer, what the verb is for.
const TOLD: [&str; 17] = [
    "already exists",
    "another start was first",
    "being created or deleted",
    "cannot delete container",
    "cannot exec in a paused container",
    "cannot exec in a stopped container",
    "cannot start a container in the paused state",
    "cannot start a container that has stopped",
    "cannot start an already running container",
    "container does not exist",
    "container not paused",
    "container not running",
    "is deleted while it is being created",
    "is not running",
    "still being created",
    "thawed while it was being paused",
    // Of a process in the making.
    "was killed while it set itself up",
];

/// A verb that runs.
struct Running {
    words: String,
    child: Guard,
    said: PathBuf,
    since: Instant,
}

impl Running {
    fn start(lab: &Lab, number: usize, args: &[&str]) -> Self {
        let said = lab.path(format!("said-{number}"));
        let file = fs::File::create(&said).unwrap();
        let mut command = lab.command(args);
        // A container that stays keeps what it gets.
        let child = Guard(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().unwrap());
        Self { words: args.join(" "), child, said, since: Instant::now() }
    }

    /// Whether it has ended, as it may.
    fn has_ended(&mut self) -> bool {
        let Some(status) = self.child.try_wait().unwrap() else {
            // One in the foreground stays as long as its container.
            let may_stay = self.words.starts_with("run --bundle") || self.since.elapsed() < PATIENCE;
            assert!(may_stay, "{} has not ended after {PATIENCE:?}: {:?}", self.words, fs::read_to_string(&self.said));
            return false;
        };
        let said = fs::read_to_string(&self.said).unwrap();
        // Both in the foreground.
        let is_programs = ["run --bundle", "exec microrun-test"].iter().any(|verb| self.words.starts_with(verb));
        let is_killed = is_programs && status.code() == Some(137) && said.is_empty();
        let is_told = said.lines().count() == 1 && TOLD.iter().any(|words| said.contains(words));
        assert!(status.success() || is_killed || is_told, "{}: {status}: {said}", self.words);
        fs::remove_file(&self.said).unwrap();
        true
    }
}

/// xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        &of[(self.0 >> 16) as usize % of.len()]
    }
}

fn words<'a>(verb: &'a str, bundle: &'a Bundle) -> Vec<&'a str> {
    let path = bundle.path.to_str().unwrap();
    verb.split(' ')
        .map(|word| match word {
            "BUNDLE" => path,
            "ID" => &bundle.id,
            word => word,
        })
        .collect()
}

#[test]
fn each_does_what_it_is_for_or_says_why_not() {
    let lab = lab!();
    let bundles: Vec<_> =
        (0..3).map(|_| lab.sleeping(|config| config["linux"]["resources"]["pids"] = json!({"limit": 40}))).collect();
    // No detached exec: the kernel ends an init only when all in its pid namespace have been reaped, and who has been
    // left to the init of a machine may wait for that.
    let verbs = [
        "create --bundle BUNDLE ID",
        "create --bundle BUNDLE ID",
        "run --bundle BUNDLE ID",
        "run --detach --bundle BUNDLE ID",
        "start ID",
        "start ID",
        "exec ID true",
        "pause ID",
        "resume ID",
        "update --pids-limit 50 ID",
        "kill ID KILL",
        "delete ID",
        "delete --force ID",
        "state ID",
        "ps ID",
        "events --stats ID",
        "list",
    ];
    let seed = u64::from(std::process::id()) | 1 << 40;
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut running: Vec<Running> = Vec::new();
    let begun = Instant::now();
    for number in (0..VERBS).take_while(|_| begun.elapsed() < LONG_ENOUGH) {
        let words = words(random.pick::<&str>(&verbs), random.pick(&bundles));
        running.push(Running::start(&lab, number, &words));
        while running.len() >= AT_ONCE {
            running.retain_mut(|one| !one.has_ended());
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    let end = Instant::now() + PATIENCE;
    while !running.is_empty() {
        for bundle in &bundles {
            lab.microrun(&["delete", "--force", &bundle.id]).ok();
        }
        running.retain_mut(|one| !one.has_ended());
        assert!(Instant::now() < end, "{:?}", running.iter().map(|one| &one.words).collect::<Vec<_>>());
    }
    for bundle in &bundles {
        lab.microrun(&["delete", "--force", &bundle.id]).ok();
        assert!(!lab.path("run").join(&bundle.id).exists());
        assert_eq!(lab.cgroups_of(bundle), [] as [PathBuf; 0]);
    }
}
