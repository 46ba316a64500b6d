//! Docker, with the runtime by one line of daemon.json.

mod exec;
mod life;
mod remapped;
mod resources;
mod run;
mod security;

pub use remapped::Remapped;

use crate::common::{Output, eventually, host};
use crate::image;
use crate::process::{Daemon, limited, output};
use crate::runner::{Case, Engine, Runtime};
use crate::world::World;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// A program that stays until it is killed.
const SLEEP: &[&str] = &["sleep", "1000"];

/// A program that ends with 5 on SIGTERM, and with 6 on SIGUSR1.
const TRAPS: &[&str] =
    &["sh", "-c", "trap 'exit 5' TERM; trap 'exit 6' USR1; echo ready; while :; do usleep 10000; done"];

/// Docker's daemon, with directories and a socket of its own, and a containerd that it has started itself.
pub struct Docker {
    daemon: Mutex<Option<Daemon>>,
    dir: PathBuf,
}

/// What both suites need.
const NEEDS: &[(&str, &str)] = &[("dockerd", "docker.io"), ("docker", "docker.io"), ("containerd", "containerd")];

const SOCKET: &str = "unix:///run/docker-test/docker.sock";

impl Engine for Docker {
    const NAME: &'static str = "docker";
    const NEEDS: &'static [(&'static str, &'static str)] = NEEDS;
    const STATE: &'static [&'static str] = &[
        "/run/docker-test/exec/runtime-runc/moby",
        "/run/docker-test/exec/containerd/daemon/io.containerd.runtime.v2.task/moby",
    ];

    fn start(world: &World, runtime: &Runtime) -> Result<Self, String> {
        Self::start_with(world, runtime, json!({}))
    }

    fn version(&self) -> String {
        format!("docker {}", self.docker(&["version", "--format", "{{.Server.Version}}"]).ok())
    }

    fn cases() -> Vec<Case<Self>> {
        [run::cases(), exec::cases(), life::cases(), resources::cases(), security::cases()]
            .into_iter()
            .flatten()
            .collect()
    }

    fn clean(&self) {
        let all = self.docker(&["ps", "--all", "--quiet"]).ok();
        let mut args = vec!["rm", "--force", "--volumes"];
        args.extend(all.lines());
        if args.len() > 3 {
            self.docker(&args).ok();
        }
    }
}

impl Docker {
    /// Starts a daemon with `more` in its configuration.
    fn start_with(world: &World, runtime: &Runtime, more: Value) -> Result<Self, String> {
        let dir = world.path("docker");
        fs::create_dir_all(dir.join("bin")).unwrap();
        // BuildKit looks for this name, whatever the configuration says.
        let link = dir.join("bin/runc");
        let _ = fs::remove_file(&link);
        symlink(&runtime.path, link).unwrap();
        let mut config = json!({
            "runtimes": {"under-test": {"path": runtime.path}},
            "default-runtime": "under-test",
            "data-root": dir.join("data"),
            "exec-root": "/run/docker-test/exec",
            "pidfile": "/run/docker-test/pid",
            "hosts": [SOCKET],
            // The machine's network is left alone.
            "bridge": "none",
            "iptables": false,
            "ip6tables": false,
            "ip-forward": false,
            "ip-masq": false,
            "live-restore": true
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fs::create_dir_all("/run/docker-test").unwrap();
        fs::write(dir.join("daemon.json"), config.to_string()).unwrap();
        let docker = Self { daemon: Mutex::default(), dir };
        docker.launch()?;
        docker.docker(&["load", "--input", image::archive(world).to_str().unwrap()]).ok();
        Ok(docker)
    }

    fn launch(&self) -> Result<(), String> {
        let mut command = Command::new("dockerd");
        command.arg("--config-file").arg(self.dir.join("daemon.json"));
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.dir.join("bin").display()));
        let ready = || self.docker(&["version"]).code == 0;
        *self.daemon.lock().unwrap() = Some(Daemon::start(command, self.dir.join("log"), ready)?);
        Ok(())
    }

    /// Stops the daemon.
    fn stop(&self) {
        drop(self.daemon.lock().unwrap().take());
    }

    /// Stops the daemon and starts it again; containers go on ("live-restore").
    fn restart(&self) {
        self.stop();
        self.launch().unwrap();
    }

    /// A call of the client.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = limited("docker");
        command.args(["--host", SOCKET]).args(args).env_remove("DOCKER_HOST").env_remove("DOCKER_CONTEXT");
        command
    }

    /// Runs the client.
    fn docker(&self, args: &[&str]) -> Output {
        output(self.command(args), "")
    }

    /// `docker run` of the image, for a container that is removed in the end.
    fn run_command(&self, options: &[&str], program: &[&str]) -> Command {
        let mut args = vec!["run", "--rm", "--network=none"];
        args.extend(options);
        args.push(image::NAME);
        args.extend(program);
        self.command(&args)
    }

    /// Runs a container to its end.
    fn run(&self, options: &[&str], program: &[&str]) -> Output {
        output(self.run_command(options, program), "")
    }

    /// Runs a script in a container.
    fn shell(&self, options: &[&str], script: &str) -> Output {
        self.run(options, &["sh", "-c", script])
    }

    /// Starts a container that stays when it ends.
    #[track_caller]
    fn start(&self, options: &[&str], name: &str, program: &[&str]) {
        let mut args = vec!["run", "--detach", "--network=none", "--name", name];
        args.extend(options);
        args.push(image::NAME);
        args.extend(program);
        self.docker(&args).ok();
    }

    /// What `docker inspect` says of a container, by a Go template.
    fn inspect(&self, name: &str, template: &str) -> String {
        self.docker(&["inspect", "--format", template, name]).ok()
    }

    fn status(&self, name: &str) -> String {
        self.inspect(name, "{{.State.Status}}")
    }

    #[track_caller]
    fn wait_until_ended(&self, name: &str) {
        eventually(|| self.status(name) == "exited");
    }

    /// What `docker inspect` says of a container's state.
    fn state(&self, name: &str) -> Value {
        serde_json::from_str(&self.inspect(name, "{{json .State}}")).unwrap()
    }

    /// A control file of a container's cgroup: a hierarchy and the file's name on v1, or its name on v2.
    fn control(&self, name: &str, [hierarchy, v1]: [&str; 2], v2: &str) -> String {
        let root = Path::new("/sys/fs/cgroup");
        let on_v1 = root.join(hierarchy).is_dir();
        let (root, file) = if on_v1 { (root.join(hierarchy), v1) } else { (root.into(), v2) };
        let path = root.join("docker").join(self.inspect(name, "{{.Id}}")).join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }

    /// A new empty directory that every user can write to.
    fn directory(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        host("chmod", &["777", dir.to_str().unwrap()]);
        dir
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.stop();
        // With "live-restore" it leaves these to the next daemon: its network namespace, and its directory as a mount of its own.
        let data = self.dir.join("data");
        for mount in ["/run/docker-test/exec/netns/default".into(), data.join(remapped::ROOT), data] {
            let _ = Command::new("umount").arg(mount).stderr(std::process::Stdio::null()).status();
        }
    }
}
