//! Who is measured, at what: the exact command lines.

use microrun::bench::world::{self, Result, View, World};
use microrun::pool;
use microrun::spec::default;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the action writes.
pub const HELLO: &[u8] = b"Hello\n";

/// A profile as engines ship it.
const ENGINE_PROFILE: &str = include_str!("../../tests/data/seccomp-engine.json");

/// A command line.
pub type Words = Vec<OsString>;

/// One of the commands of a lane, and what is measured of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It writes the line itself, and ends.
    Run,
    /// `create`: whoever is started later has its standard output.
    Create,
    /// `start`: the line comes on the pipe that `create` was given.
    Start,
    /// `delete`, once the container has ended.
    Delete,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Create => "create",
            Self::Start => "start",
            Self::Delete => "delete",
        }
    }
}

/// A contestant: commands that are run one after the other in each round.
pub struct Lane {
    pub name: String,
    pub view: &'static str,
    pub steps: Vec<(Kind, Words)>,
    /// Before the first round, and after the last.
    pub setup: Option<Words>,
    /// After the last round, and after a failure.
    pub teardown: Option<Words>,
    /// Where the pid of the container is, for [`Kind::Delete`].
    pub pid_file: PathBuf,
}

impl Lane {
    fn plain(name: &str, view: &'static str, words: Words) -> Self {
        let steps = vec![(Kind::Run, words)];
        Self { name: name.to_owned(), view, steps, setup: None, teardown: None, pid_file: PathBuf::new() }
    }
}

/// A runtime with runc's command line.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub name: String,
    pub command: Words,
    root: PathBuf,
}

/// Files in the world: programs, bundles, state roots.
pub struct Stage {
    pub dir: PathBuf,
    /// Where floor and peak are.
    pub tools: PathBuf,
    pub runtimes: Vec<Runtime>,
    pub bubblewrap: Option<Words>,
    /// What there is no figure of, and why.
    pub skipped: Vec<String>,
}

/// The id of the containers.
const ID: &str = "bench";

impl Stage {
    /// Copies everything to where it is measured.
    pub fn set(world: &World, options: &super::options::Options) -> Result<Self> {
        let dir = world.dir.clone();
        for directory in ["rootfs/dev", "rootfs/proc", "rootfs/sys", "bundles", "state"] {
            fs::create_dir_all(dir.join(directory))?;
        }
        let copy = |from: &Path, to: &str| {
            fs::copy(from, dir.join(to))
                .map_err(|error| format!("copy {}: {error}: use make bench-cold", from.display()))
        };
        for program in ["hello", "pause"] {
            copy(&options.tools.join(program), &format!("rootfs/{program}"))?;
        }

        let mut stage =
            Self { dir, tools: options.tools.clone(), runtimes: Vec::new(), bubblewrap: None, skipped: Vec::new() };
        // Programs are executed where they are, as all others: how they lie in the page cache depends on the file system.
        stage.add("microrun", vec![options.microrun.clone().into()]);
        let given = |name: &str| options.runtimes.iter().find(|(given, _)| given == name);
        let split = |command: &str| command.split_whitespace().map(OsString::from).collect::<Words>();
        for name in ["crun", "runc"] {
            match given(name).map(|(_, command)| split(command)).or_else(|| Some(vec![on_path(name)?.into()])) {
                Some(command) => stage.add(name, command),
                None => stage.skipped.push(format!("{name}: not on PATH (--runtime {name}=COMMAND)")),
            }
        }
        for (name, command) in &options.runtimes {
            if !["crun", "runc", "bwrap"].contains(&name.as_str()) {
                stage.add(name, split(command));
            }
        }
        stage.bubblewrap =
            given("bwrap").map(|(_, command)| split(command)).or_else(|| Some(vec![on_path("bwrap")?.into()]));
        if stage.bubblewrap.is_none() {
            stage.skipped.push("bubblewrap: no bwrap on PATH".to_owned());
        }
        Ok(stage)
    }

    fn add(&mut self, name: &str, command: Words) {
        let root = self.dir.join("state").join(name);
        self.runtimes.push(Runtime { name: name.to_owned(), command, root });
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// A new bundle: runc's default configuration with the action for its program, in a cgroup of ours, `change`d.
    pub fn bundle(&self, name: &str, unified: bool, change: impl FnOnce(&mut Value)) -> Result<PathBuf> {
        let mut config: Value = serde_json::from_str(&default::runc(unified))?;
        // The newest that all runtimes accept.
        config["ociVersion"] = json!("1.0.2");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/hello"]);
        config["root"]["path"] = json!(self.rootfs());
        config["linux"]["cgroupsPath"] = json!(format!("/{}/{name}", world::name()));
        change(&mut config);
        let bundle = self.dir.join("bundles").join(name);
        fs::create_dir_all(&bundle)?;
        fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
        Ok(bundle)
    }

    /// What needs no runtime: the bare program, a program of the system, the floor, bubblewrap.
    pub fn bare(&self, view: &'static str, floor_cgroup: Option<&str>) -> Vec<Lane> {
        let hello = self.rootfs().join("hello");
        let mut lanes = vec![Lane::plain("the bare program", view, vec![hello.into()])];
        if Path::new("/bin/echo").exists() {
            lanes.push(Lane::plain("/bin/echo", view, words(["/bin/echo", "Hello"])));
        }
        let cgroup =
            floor_cgroup.map_or("-".into(), |top| Path::new(top).join(world::name()).join("floor").into_os_string());
        let floor = vec![self.tools.join("floor").into(), self.rootfs().into(), cgroup, "/hello".into()];
        lanes.push(Lane::plain("floor", view, floor));
        if let Some(bwrap) = &self.bubblewrap {
            let mut command = bwrap.clone();
            command.extend(words([
                "--unshare-pid",
                "--unshare-net",
                "--unshare-ipc",
                "--unshare-uts",
                "--unshare-cgroup",
                "--hostname",
                "runc",
                "--as-pid-1",
                "--new-session",
                "--die-with-parent",
                "--cap-drop",
                "ALL",
                "--ro-bind",
            ]));
            command.push(self.rootfs().into());
            command.extend(words([
                "/",
                "--proc",
                "/proc",
                "--dev",
                "/dev",
                "--mqueue",
                "/dev/mqueue",
                "--ro-bind",
                "/sys",
                "/sys",
                "/hello",
            ]));
            lanes.push(Lane::plain("bubblewrap", view, command));
        }
        lanes
    }
}

impl Runtime {
    /// The words of a verb.
    fn call(&self, verb: &[&str], rest: Words) -> Words {
        let mut words = self.command.clone();
        words.push("--root".into());
        words.push((&self.root).into());
        words.extend(verb.iter().map(OsString::from));
        words.extend(rest);
        words
    }

    /// `run`, from nothing to the end.
    pub fn run(&self, view: &'static str, bundle: &Path) -> Lane {
        let words = self.call(&["run", "-b"], vec![bundle.into(), ID.into()]);
        Lane { teardown: Some(self.delete(ID)), ..Lane::plain(&self.name, view, words) }
    }

    fn delete(&self, id: &str) -> Words {
        self.call(&["delete", "--force"], vec![id.into()])
    }

    /// `create`, `start`, `delete`.
    pub fn life(&self, view: &'static str, bundle: &Path) -> Lane {
        let pid_file = self.root.with_extension("pid");
        let create =
            self.call(&["create", "-b"], vec![bundle.into(), "--pid-file".into(), (&pid_file).into(), ID.into()]);
        let steps = vec![
            (Kind::Create, create),
            (Kind::Start, self.call(&["start"], vec![ID.into()])),
            (Kind::Delete, self.call(&["delete"], vec![ID.into()])),
        ];
        Lane { name: self.name.clone(), view, steps, setup: None, teardown: Some(self.delete(ID)), pid_file }
    }

    /// `exec` of the action in a container that runs.
    pub fn exec(&self, view: &'static str, bundle: &Path) -> Lane {
        const RUNNING: &str = "running";
        let setup = self.call(&["run", "-d", "-b"], vec![bundle.into(), RUNNING.into()]);
        let exec = self.call(&["exec"], vec![RUNNING.into(), "/hello".into()]);
        Lane { setup: Some(setup), teardown: Some(self.delete(RUNNING)), ..Lane::plain(&self.name, view, exec) }
    }

    /// What --version says, in a line.
    pub fn version(&self) -> String {
        version(&self.command)
    }
}

/// What a program says to --version, in a line.
pub fn version(words: &Words) -> String {
    let mut words = words.clone();
    words.push("--version".into());
    match command(&words).stdout(Stdio::piped()).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>().join(", "),
        Err(error) => format!("{}: {error}", words[0].display()),
    }
}

/// A command with nothing on its standard input and the same small environment for everybody, in which there is no pool.
pub fn command(words: &Words) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env(pool::VARIABLE, "off");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A command line as one would type it.
pub fn shown(words: &Words) -> String {
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn words<const N: usize>(words: [&str; N]) -> Words {
    words.iter().map(OsString::from).collect()
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// Memory, pids and CPU limits.
pub fn limit(config: &mut Value) {
    config["linux"]["resources"]["memory"] = json!({"limit": 134_217_728});
    config["linux"]["resources"]["pids"] = json!({"limit": 64});
    config["linux"]["resources"]["cpu"] = json!({"shares": 1024, "quota": 100_000, "period": 100_000});
}

/// An engine's seccomp profile.
pub fn filter(config: &mut Value) {
    config["linux"]["seccomp"] = serde_json::from_str(ENGINE_PROFILE).unwrap_or_default();
}

/// The view called `name`.
pub fn view<'a>(world: &'a World, name: &str) -> &'a View {
    [&world.unified, &world.v1_only].into_iter().flatten().find(|view| view.name == name).unwrap_or(&world.own)
}
