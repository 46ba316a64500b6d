//! containerd, with directories and a socket of its own.

use crate::common::Output;
use crate::process::{Daemon, limited, output};
use crate::runner::Runtime;
use crate::world::{self, World};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// A containerd.
pub struct Containerd {
    daemon: Mutex<Daemon>,
    config: PathBuf,
    /// Its directory: root, config.toml and log are in it.
    pub dir: PathBuf,
    /// The path of its socket.
    pub socket: String,
}

/// Plugins that need what machines do not have, or a network.
const DISABLED: &[&str] =
    &["snapshotter.v1.aufs", "snapshotter.v1.btrfs", "snapshotter.v1.devmapper", "snapshotter.v1.zfs"];

impl Containerd {
    /// Starts one, which finds `runtime` by the name `runc` in its PATH: `microrun` is installed by a link then. `name` is the name of
    /// its directories; `config` is more of config.toml, for its CRI plugin; without it there is no CRI.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn start(world: &World, runtime: &Runtime, name: &str, config: Option<&str>) -> Result<Self, String> {
        let dir = world.path(name);
        let state = format!("/run/{name}");
        fs::create_dir_all(&dir).unwrap();
        let mut disabled: Vec<String> = DISABLED.iter().map(|plugin| format!("\"io.containerd.{plugin}\"")).collect();
        if config.is_none() {
            disabled.push("\"io.containerd.grpc.v1.cri\"".to_owned());
        }
        let socket = format!("{state}/containerd.sock");
        let text = format!(
            "version = 2\nroot = \"{}/root\"\nstate = \"{state}\"\ndisabled_plugins = [{}]\n\
            [grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n{}",
            dir.display(),
            disabled.join(", "),
            config.unwrap_or_default()
        );
        let config = dir.join("config.toml");
        fs::write(&config, text).unwrap();
        fs::create_dir_all(dir.join("bin")).unwrap();
        let _ = fs::remove_file(dir.join("bin/runc"));
        symlink(&runtime.path, dir.join("bin/runc")).unwrap();
        let _ = fs::remove_file(dir.join("bin").join(world::SHIM));
        symlink(world.path("bin").join(world::SHIM), dir.join("bin").join(world::SHIM)).unwrap();
        let daemon = Mutex::new(Self::launch(&config, &socket, dir.join("log"))?);
        Ok(Self { daemon, config, dir, socket })
    }

    fn launch(config: &Path, socket: &str, log: PathBuf) -> Result<Daemon, String> {
        let mut command = Command::new("containerd");
        let bin = config.with_file_name("bin");
        let path = std::env::var("PATH").unwrap_or_default();
        command.arg("--config").arg(config).env("PATH", format!("{}:{path}", bin.display()));
        // It forgets directories of checkpoints there.
        let temporary = config.with_file_name("tmp");
        fs::create_dir_all(&temporary).unwrap();
        command.env("TMPDIR", temporary);
        let ready = || {
            let mut command = limited("ctr");
            command.args(["--address", socket, "version"]);
            output(command, "").code == 0
        };
        Daemon::start(command, log, ready)
    }

    /// Stops the daemon and starts it again; containers go on.
    pub fn restart(&self) {
        let mut daemon = self.daemon.lock().unwrap();
        daemon.stop();
        *daemon = Self::launch(&self.config, &self.socket, self.dir.join("log")).unwrap();
    }

    /// A call of ctr in the namespace `default`.
    pub fn ctr(&self) -> Command {
        let mut command = limited("ctr");
        command.args(["--address", &self.socket]);
        command
    }

    /// Runs ctr with `args`, in the namespace `default`.
    pub fn call(&self, args: &[&str]) -> Output {
        let mut command = self.ctr();
        command.args(args);
        output(command, "")
    }

    /// Its version.
    pub fn version(&self) -> String {
        let version = self.call(&["version"]).ok();
        let lines: Vec<&str> = version.lines().filter(|line| line.contains("Version:")).collect();
        format!("containerd {}", lines.last().and_then(|line| line.split_whitespace().nth(1)).unwrap_or("?"))
    }
}
