//! Engines: containerd by `ctr`, Podman and Docker, each with directories, an image and a daemon of its own, so that those of
//! the machine are neither needed nor touched.
//!
//! They are in a view of their own ([`super::world::World::make_engines_view`]), in which what they write outside of the
//! directories that they are given goes to memory.

mod daemon;
mod image;

use super::contender::{Contender, Place, label, on_path, version, words_to_command};
use super::record::Kind;
use super::sample;
use super::world::{self, Result, doing};
use daemon::Daemon;
use nix::mount::{MntFlags, umount2};
use serde_json::json;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Engines take part in one of so many rounds: a start takes as long as those of all others together.
pub const EVERY: usize = 5;
/// How long a call may take that is no start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where their sockets and states are. In their view /run is empty.
const RUN: &str = "/run/microrun-bench";
const SHIM: &str = "containerd-shim-microrun-v1";

/// An engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// containerd's own client.
    Ctr,
    /// Podman, which has no daemon.
    Podman,
    /// Docker, above the same containerd.
    Docker,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ctr, Self::Podman, Self::Docker];

    /// Its name, with which the names of its rows begin.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ctr => "ctr",
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }

    /// What it needs; the first says which version it is.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Ctr => &["containerd", "ctr"],
            // And conmon, which is in no directory of $PATH on every system: it finds that.
            Self::Podman => &["podman"],
            Self::Docker => &["dockerd", "docker", "containerd", "ctr"],
        }
    }

    /// The engine of a row.
    pub fn of(contender: &Contender) -> Option<Self> {
        let is_its =
            |engine: &Self| contender.name.strip_prefix(engine.name()).is_some_and(|rest| rest.starts_with(": "));
        Self::ALL.into_iter().find(|engine| contender.kind == Kind::Engine && is_its(engine))
    }
}

/// A runtime that engines are given: its name and its program.
pub type Runtime = (String, PathBuf);

/// The rows of those engines that are there, and of those that are not, why. `directory` will be theirs.
pub fn find(directory: &Path, runtimes: &[Runtime], microrun: &Path) -> (Vec<Contender>, Vec<String>) {
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    for engine in Engine::ALL {
        if let Some(missing) = engine.programs().iter().find(|program| on_path(program).is_none()) {
            skipped.push(format!("{}: there is no {missing} on PATH", engine.name()));
            continue;
        }
        let version = on_path(engine.programs()[0]).map(|path| version(&[path.to_string_lossy().into_owned()]));
        let row = |name: &str, program: &Path, by_shim: bool| {
            let name = format!("{}: {name}", engine.name());
            let isolation = format!("the engine's own configuration, without a network; in every {EVERY}th round");
            let run = command_line(engine, directory, &label(&name), program, by_shim);
            let clean_up = clean_up(engine, directory, &label(&name));
            Contender {
                version: version.clone().unwrap_or_default(),
                clean_up: Some(clean_up),
                place: Place::Engines,
                ..Contender::plain(&name, Kind::Engine, &isolation, run)
            }
        };
        rows.extend(runtimes.iter().map(|(name, program)| row(name, program, false)));
        let shim = microrun.with_file_name(SHIM);
        if engine == Engine::Ctr && shim.is_file() {
            rows.push(row("microrun's shim", &shim, true));
        }
    }
    (rows, skipped)
}

/// What the containers of the row `label` are called, with a place for their number. Engines take no two hyphens in a row.
fn container(label: &str) -> String {
    format!("{}-{{slot}}", label.replace("--", "-"))
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The program `name` with the options that lead it to our directories.
fn client(engine: Engine, directory: &Path) -> Vec<String> {
    let program =
        on_path(engine.name()).map_or_else(|| engine.name().into(), |path| path.to_string_lossy().into_owned());
    match engine {
        Engine::Ctr => strings(&[&program, "--address", &format!("{RUN}/containerd.sock")]),
        Engine::Podman => strings(&[
            &program,
            "--root",
            &directory.join("podman").to_string_lossy(),
            "--runroot",
            &format!("{RUN}/podman"),
            "--tmpdir",
            &format!("{RUN}/libpod"),
            "--storage-driver",
            "overlay",
            "--cgroup-manager",
            "cgroupfs",
        ]),
        Engine::Docker => strings(&[&program, "--host", &format!("unix://{RUN}/docker.sock")]),
    }
}

/// `run` of the image with `program` for its runtime.
fn command_line(engine: Engine, directory: &Path, label: &str, program: &Path, by_shim: bool) -> Vec<String> {
    let mut words = client(engine, directory);
    let (program, name) = (program.to_string_lossy(), container(label));
    let parent = format!("/{}/{label}", world::name());
    match engine {
        Engine::Ctr => {
            words.extend(strings(&["run", "--rm"]));
            words.extend(if by_shim {
                strings(&["--runtime", "io.containerd.microrun.v1"])
            } else {
                strings(&["--runc-binary", &program])
            });
            words.extend(strings(&["--cgroup", &format!("{parent}-{{slot}}"), image::NAME, &name]));
        }
        Engine::Podman => {
            words.extend(strings(&["--runtime", &program, "run", "--rm", "--network", "none", "--name", &name]));
            // Its default is above the hard limit of a root without CAP_SYS_RESOURCE.
            words.extend(strings(&["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]));
            words.extend(strings(&["--cgroup-parent", &parent, image::NAME]));
        }
        Engine::Docker => {
            let runtime = label.rsplit("--").next().unwrap_or_default();
            words.extend(strings(&["run", "--rm", "--network", "none", "--name", &name, "--runtime", runtime]));
            words.extend(strings(&["--cgroup-parent", &parent, image::NAME]));
        }
    }
    words
}

/// What removes a container that a start of the row `label` has left.
fn clean_up(engine: Engine, directory: &Path, label: &str) -> Vec<String> {
    let mut words = client(engine, directory);
    let name = container(label);
    match engine {
        Engine::Ctr => {
            let script = r#"name=$1; shift; "$@" task delete --force "$name"; "$@" container delete "$name""#;
            words.splice(0..0, strings(&["/bin/sh", "-c", script, "sh", &name]));
        }
        Engine::Podman => words.extend(strings(&["rm", "--force", "--time", "0", &name])),
        Engine::Docker => words.extend(strings(&["rm", "--force", &name])),
    }
    words
}

/// The engines that run.
#[derive(Debug)]
pub struct Engines {
    directory: PathBuf,
    running: Vec<Engine>,
    /// In the order of their start.
    daemons: Vec<Daemon>,
    /// `ctr run` never ends if its standard input is at its end before the start.
    open: (PipeReader, PipeWriter),
}

impl Engines {
    /// Starts the engines of `rows`, in whose view this process is, and gives them the image with `action`. Returns also who
    /// does not run, and why.
    ///
    /// # Errors
    /// There is no image, or no file can be written.
    pub fn start(
        directory: &Path,
        rows: &[Contender],
        runtimes: &[Runtime],
        action: (&[u8], &Path),
    ) -> Result<(Self, Vec<(Engine, String)>)> {
        let (action, microrun) = action;
        for name in ["image", "home/.config/containers", "bin", "podman"] {
            fs::create_dir_all(directory.join(name)).map_err(doing("create", &directory.join(name)))?;
        }
        fs::create_dir_all(RUN).map_err(doing("create", Path::new(RUN)))?;
        let policy = directory.join("home/.config/containers/policy.json");
        fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).map_err(doing("write", &policy))?;
        // `runc` is what containerd's shim and dockerd call it, whatever they are told.
        let links =
            runtimes.iter().filter(|(name, _)| name == "runc").map(|(name, path)| (name.as_str(), path.clone()));
        for (name, target) in links.chain([(SHIM, microrun.with_file_name(SHIM))]) {
            let link = directory.join("bin").join(name);
            symlink(&target, &link).map_err(doing("create", &link))?;
        }
        let archive = image::make(&directory.join("image"), action)?;
        let mut engines =
            Self { directory: directory.to_owned(), running: Vec::new(), daemons: Vec::new(), open: std::io::pipe()? };
        let mut failed = Vec::new();
        for engine in Engine::ALL {
            if rows.iter().any(|row| Engine::of(row) == Some(engine)) {
                match engines.add(engine, runtimes, &archive) {
                    Ok(()) => engines.running.push(engine),
                    Err(error) => failed.push((engine, format!("it does not start here: {error}"))),
                }
            }
        }
        Ok((engines, failed))
    }

    fn add(&mut self, engine: Engine, runtimes: &[Runtime], archive: &Path) -> Result<()> {
        if engine != Engine::Podman && self.daemons.is_empty() {
            let containerd = self.containerd()?;
            self.daemons.push(containerd);
        }
        if engine == Engine::Docker {
            let docker = self.docker(runtimes)?;
            self.daemons.push(docker);
        }
        let archive = archive.to_string_lossy();
        let load: &[&str] =
            if engine == Engine::Ctr { &["image", "import", &archive] } else { &["load", "--input", &archive] };
        self.said(engine, load).map(drop)
    }

    fn containerd(&self) -> Result<Daemon> {
        let home = self.directory.join("containerd");
        fs::create_dir_all(&home).map_err(doing("create", &home))?;
        // Plugins that nobody asks here, and that look for what a machine need not have.
        let disabled = [
            "grpc.v1.cri",
            "cri.v1.images",
            "cri.v1.runtime",
            "snapshotter.v1.aufs",
            "snapshotter.v1.btrfs",
            "snapshotter.v1.devmapper",
            "snapshotter.v1.zfs",
        ];
        let disabled = disabled.map(|plugin| format!("\"io.containerd.{plugin}\"")).join(", ");
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{RUN}/containerd\"\ndisabled_plugins = [{disabled}]\n\
             [grpc]\naddress = \"{RUN}/containerd.sock\"\n[ttrpc]\naddress = \"{RUN}/containerd.sock.ttrpc\"\n",
            home.display()
        );
        let file = home.join("config.toml");
        fs::write(&file, config).map_err(doing("write", &file))?;
        let mut command = self.daemon_command("containerd");
        command.arg("--config").arg(&file);
        Daemon::start("containerd", &mut command, &home.join("log"), || self.said(Engine::Ctr, &["version"]).is_ok())
    }

    fn docker(&self, runtimes: &[Runtime]) -> Result<Daemon> {
        let home = self.directory.join("docker");
        fs::create_dir_all(&home).map_err(doing("create", &home))?;
        // It knows runc of itself, and refuses to be told.
        let others = runtimes.iter().filter(|(name, _)| name != "runc");
        let others = others.map(|(name, path)| (label(name), json!({"path": path}))).collect::<serde_json::Map<_, _>>();
        let config = json!({
            "runtimes": others,
            "data-root": home.join("data"),
            "exec-root": format!("{RUN}/docker"),
            "pidfile": format!("{RUN}/docker.pid"),
            "hosts": [format!("unix://{RUN}/docker.sock")],
            "containerd": format!("{RUN}/containerd.sock"),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            // The machine's network is left alone.
            "bridge": "none",
            "iptables": false,
            "ip6tables": false,
            "ip-forward": false,
            "ip-masq": false
        });
        let file = home.join("daemon.json");
        fs::write(&file, config.to_string()).map_err(doing("write", &file))?;
        let mut command = self.daemon_command("dockerd");
        command.arg("--config-file").arg(&file);
        Daemon::start("dockerd", &mut command, &home.join("log"), || self.said(Engine::Docker, &["version"]).is_ok())
    }

    /// A daemon that finds the runtimes by their names first.
    fn daemon_command(&self, name: &str) -> Command {
        let program = on_path(name).map_or_else(|| name.into(), PathBuf::into_os_string);
        let mut command = words_to_command([program]);
        let mut path = self.directory.join("bin").into_os_string();
        path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("PATH", path).env("HOME", self.directory.join("home"));
        command
    }

    /// What a client of theirs needs besides its words: a home without anybody's settings, and a standard input that stays
    /// open.
    pub fn dress(&self, command: &mut Command) {
        command.env("HOME", self.directory.join("home"));
        if let Ok(open) = self.open.0.try_clone() {
            command.stdin(open);
        }
    }

    /// What the client of `engine` writes; an error is the last line that it writes to its standard error.
    fn said(&self, engine: Engine, words: &[&str]) -> Result<String> {
        let all = client(engine, &self.directory).into_iter().chain(strings(words));
        let mut command = words_to_command(all.map(OsString::from));
        self.dress(&mut command);
        let errors = self.directory.join("errors");
        command.stderr(File::create(&errors)?);
        let said = sample::said(&mut command, PATIENCE);
        Ok(said.map_err(|failure| {
            let errors = fs::read_to_string(&errors).unwrap_or_default();
            format!("{} {}: {failure}: {}", engine.name(), words[0], errors.lines().last().unwrap_or_default())
        })?)
    }

    /// The process ids of the daemons.
    pub fn pids(&self) -> Vec<i32> {
        self.daemons.iter().map(Daemon::pid).collect()
    }

    /// Ends them; what they have left behind of `rows`, in words. This process is in their view.
    pub fn close(mut self, rows: &[Contender]) -> Vec<String> {
        let mut left = Vec::new();
        for engine in &self.running {
            let list: &[&str] = match engine {
                Engine::Ctr => &["containers", "list", "--quiet"],
                Engine::Podman | Engine::Docker => &["ps", "--all", "--format", "{{.Names}}"],
            };
            match self.said(*engine, list) {
                Ok(names) => left.extend(names.lines().map(|name| {
                    let its = |row: &&Contender| name.starts_with(&container(&row.label()).replace("{slot}", ""));
                    let owner = rows.iter().find(its).map_or("nobody", |row| &row.name);
                    format!("container {name} (of {owner})")
                })),
                Err(error) => left.push(format!("{}: nobody knows what it has left: {error}", engine.name())),
            }
        }
        while let Some(daemon) = self.daemons.pop() {
            left.extend(daemon.end());
        }
        if self.running.contains(&Engine::Podman) {
            // It mounts its storage on itself, and leaves that until the machine goes down.
            let _ = umount2(&self.directory.join("podman/overlay"), MntFlags::MNT_DETACH);
        }
        // The parents of their containers' cgroups, and what Podman makes for conmon there, are removed by nobody. One with
        // something else in it stays, and is found later.
        for hierarchy in world::cgroup_mounts() {
            for row in rows.iter().filter(|row| row.kind == Kind::Engine) {
                let parent = hierarchy.path.join(world::name()).join(row.label());
                for path in [parent.join("conmon"), parent] {
                    let _ = fs::remove_dir(path);
                }
            }
        }
        left
    }
}
