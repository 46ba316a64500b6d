//! containerd, with directories and a socket of its own.

use crate::common::Output;
use crate::process::{Daemon, limited, output};
use crate::world::World;
use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A containerd.
pub struct Containerd {
    daemon: RefCell<Daemon>,
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
    /// Starts one. `name` is the name of its directories; `config` is more of config.toml, for its CRI plugin; without it there is no
    /// CRI.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn start(world: &World, name: &str, config: Option<&str>) -> Result<Self, String> {
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
        let daemon = RefCell::new(Self::launch(&config, &socket, dir.join("log"))?);
        Ok(Self { daemon, config, dir, socket })
    }

    fn launch(config: &PathBuf, socket: &str, log: PathBuf) -> Result<Daemon, String> {
        let mut command = Command::new("containerd");
        command.arg("--config").arg(config);
        let ready = || {
            let mut command = limited("ctr");
            command.args(["--address", socket, "version"]);
            output(command, "").code == 0
        };
        Daemon::start(command, log, ready)
    }

    /// Stops the daemon and starts it again; containers go on.
    pub fn restart(&self) {
        self.daemon.borrow_mut().stop();
        *self.daemon.borrow_mut() = Self::launch(&self.config, &self.socket, self.dir.join("log")).unwrap();
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

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.daemon.borrow().pid()
    }

    /// Its version.
    pub fn version(&self) -> String {
        let version = self.call(&["version"]).ok();
        let lines: Vec<&str> = version.lines().filter(|line| line.contains("Version:")).collect();
        format!("containerd {}", lines.last().and_then(|line| line.split_whitespace().nth(1)).unwrap_or("?"))
    }
}
