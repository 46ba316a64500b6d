//! Podman with conmon, as root and as a user without rights.

mod life;
mod limits;
mod mounts;
mod names;
mod pods;
mod rights;
mod run;

use crate::common::{self, Output, host};
use crate::image;
use crate::process::{limited, output};
use crate::runner::{Case, Engine, Runtime};
use crate::world::{self, World};
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs that both suites need.
const NEEDS: &[(&str, &str)] = &[("podman", "podman"), ("conmon", "conmon")];

/// A program that stays until it is killed.
const SLEEP: &[&str] = &["sleep", "1000"];

/// Podman has no daemon: a configuration and directories of its own, and who calls it.
pub struct Podman {
    /// Its directory: storage, configuration, whatever the cases want.
    dir: PathBuf,
    runtime: Runtime,
    user: Option<common::User>,
}

/// Podman for root.
pub struct Root(Podman);

/// Podman for a user without rights.
pub struct Rootless(Podman);

impl Deref for Root {
    type Target = Podman;
    fn deref(&self) -> &Podman {
        &self.0
    }
}

impl Deref for Rootless {
    type Target = Podman;
    fn deref(&self) -> &Podman {
        &self.0
    }
}

/// Cases for an engine that is a [`Podman`] inside.
macro_rules! podman_cases {
    ($($($part:ident)::+),* $(,)?) => {
        vec![$(Case::new($crate::runner::last_word(stringify!($($part)::+)), |engine: &Self| $($part)::+(engine))),*]
    };
}

/// The cases that both suites have.
macro_rules! common_cases {
    () => {
        podman_cases![
            run::run,
            run::run_as_runc,
            run::runtime_by_configuration,
            run::debug_flag,
            run::exit_code,
            run::exit_125,
            run::exit_126,
            run::exit_127,
            run::exec_126_127,
            run::stdin,
            run::terminal,
            run::terminal_size,
            run::detached,
            run::environment,
            run::entrypoint,
            run::preserve_fds,
            run::no_such_working_directory,
            run::working_directory_is_made,
            run::user_by_name,
            run::additional_groups,
            run::hostname,
            run::init,
            run::root_filesystem,
            run::hooks,
            life::create_and_start,
            life::stop,
            life::stop_signal,
            life::stop_kills_after_the_timeout,
            life::kill,
            life::remove_by_force,
            life::restart,
            life::wait,
            life::logs,
            life::inspect,
            life::list,
            life::top,
            life::attach,
            life::attach_to_terminal,
            life::copy,
            life::exec,
            life::exec_stdin,
            life::exec_terminal,
            life::exec_detached,
            life::exec_options,
            life::exec_privileged,
            life::healthcheck,
            life::checkpoint,
            life::timeout,
            life::nothing_of_removed_containers,
            limits::ulimit,
            limits::oom_score,
            limits::sysctl,
            rights::read_only,
            rights::capabilities_dropped,
            rights::capability_added,
            rights::capabilities_of_user,
            rights::no_new_privileges,
            rights::seccomp_default,
            rights::seccomp_unconfined,
            rights::seccomp_profile,
            rights::masked_paths,
            rights::privileged,
            names::host_namespaces,
            names::namespaces_of_container,
            names::id_mapping,
            names::cgroup_namespace,
            mounts::volume,
            mounts::volume_read_only,
            mounts::named_volume,
            mounts::volumes_from,
            mounts::tmpfs,
            mounts::secret,
            mounts::shm_size,
            mounts::device,
            mounts::propagation,
            mounts::image,
            pods::pod,
            pods::pod_shares_pids,
            pods::play_kube,
        ]
    };
}

impl Engine for Root {
    const NAME: &'static str = "podman";
    const NEEDS: &'static [(&'static str, &'static str)] = NEEDS;

    fn start(world: &World, runtime: &Runtime) -> Result<Self, String> {
        Podman::start(world, runtime, None).map(Self)
    }

    fn version(&self) -> String {
        Podman::version(self)
    }

    fn cases() -> Vec<Case<Self>> {
        let mut cases = common_cases!();
        cases.extend(podman_cases![
            limits::memory,
            limits::out_of_memory,
            limits::pids,
            limits::cpu,
            limits::update,
            limits::stats,
            limits::no_cgroups,
            life::pause,
            names::userns_auto,
            mounts::idmapped_volume,
            pods::pod_limits,
        ]);
        cases
    }

    fn clean(&self) {
        Podman::clean(self);
    }
}

impl Engine for Rootless {
    const NAME: &'static str = "podman-rootless";
    const NEEDS: &'static [(&'static str, &'static str)] =
        &[NEEDS[0], NEEDS[1], ("newuidmap", "uidmap"), ("setpriv", "util-linux")];

    fn start(world: &World, runtime: &Runtime) -> Result<Self, String> {
        let user = common::unprivileged_user()?;
        Podman::start(world, runtime, Some(user)).map(Self)
    }

    fn version(&self) -> String {
        Podman::version(self)
    }

    fn cases() -> Vec<Case<Self>> {
        let mut cases = common_cases!();
        cases.extend(podman_cases![names::userns_keep_id, names::keep_groups]);
        cases
    }

    fn clean(&self) {
        Podman::clean(self);
    }
}

impl Podman {
    fn start(world: &World, runtime: &Runtime, user: Option<common::User>) -> Result<Self, String> {
        let name = if user.is_some() { "podman-rootless" } else { "podman" };
        let dir = world.path(format!("{name}-{}", runtime.name));
        let run = PathBuf::from("/run").join(dir.file_name().unwrap());
        for path in [&run, &dir.join("home"), &dir.join("files")] {
            fs::create_dir_all(path).unwrap();
        }
        // No hard limit above the machine's: not every root may raise one.
        fs::write(
            dir.join("containers.conf"),
            format!(
                "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"{}\"\n\
                [containers]\nlog_driver = \"k8s-file\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n",
                runtime.path.display()
            ),
        )
        .unwrap();
        fs::write(
            dir.join("storage.conf"),
            format!(
                "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}/storage\"\nrunroot = \"{}/storage\"\n\
                [storage.options]\nroot-auto-userns-user = \"rootless\"\nauto-userns-min-size = 2000\n",
                dir.display(),
                run.display(),
            ),
        )
        .unwrap();
        if let Some(common::User { ids: (uid, gid), .. }) = user {
            for path in [&dir, &run] {
                host("chown", &["-R", &format!("{uid}:{gid}"), path.to_str().unwrap()]);
            }
        }
        let podman = Self { dir, runtime: runtime.clone(), user };
        podman.podman(&["load", "--quiet", "--input", image::archive(world).to_str().unwrap()]).ok();
        Ok(podman)
    }

    fn version(&self) -> String {
        let conmon = host("conmon", &["--version"]);
        let conmon = conmon.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap_or("?").to_owned();
        let version = self.podman(&["version", "--format", "{{.Client.Version}}"]).ok();
        format!("Podman {version} with conmon {conmon}")
    }

    fn clean(&self) {
        self.podman(&["pod", "rm", "--all", "--force", "--time", "0"]).ok();
        // In whatever order, and one that another depends on cannot go before that.
        let remove = ["rm", "--all", "--force", "--time", "0"];
        if self.podman(&remove).code != 0 {
            self.podman(&remove).ok();
        }
        self.podman(&["volume", "rm", "--all", "--force"]).ok();
        let files = self.path("files");
        host("rm", &["-rf", files.to_str().unwrap()]);
        self.directory("files");
    }

    /// A path in its directory.
    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// A new directory for a case, which belongs to who calls Podman.
    fn directory(&self, name: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        self.own(&path);
        path.to_str().unwrap().to_owned()
    }

    /// A new file for a case, which belongs to who calls Podman. Cases' files are removed after each of them.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path("files").join(name);
        fs::write(&path, text).unwrap();
        self.own(&path);
        path.to_str().unwrap().to_owned()
    }

    fn own(&self, path: &Path) {
        if let Some(user) = &self.user {
            host("chown", &[&format!("{}:{}", user.ids.0, user.ids.1), path.to_str().unwrap()]);
        }
    }

    /// Where the runtime keeps the state of its containers.
    fn states(&self) -> PathBuf {
        if self.is_root() {
            Path::new("/run").join(&self.runtime.name)
        } else {
            self.run_directory().join(&self.runtime.name)
        }
    }

    /// What a user finds in `$XDG_RUNTIME_DIR`.
    fn run_directory(&self) -> PathBuf {
        Path::new("/run").join(self.dir.file_name().unwrap())
    }

    fn is_root(&self) -> bool {
        self.user.is_none()
    }

    /// A call of Podman with `runtime` for the containers.
    fn command_with(&self, runtime: &Path) -> Command {
        let mut command = self.command_without_runtime();
        command.arg("--runtime").arg(runtime);
        command
    }

    /// A call of Podman with the runtime that its configuration names.
    fn command_without_runtime(&self) -> Command {
        let mut command = match &self.user {
            None => limited("podman"),
            Some(user) => {
                let mut command = limited("setpriv");
                let (uid, gid) = (user.ids.0.to_string(), user.ids.1.to_string());
                command.args(["--reuid", &uid, "--regid", &gid, "--init-groups", "--inh-caps=-all", "podman"]);
                command
            }
        };
        let run = self.run_directory();
        command.arg("--tmpdir").arg(run.join("tmp"));
        command.env("HOME", self.path("home")).env("XDG_RUNTIME_DIR", &run).current_dir("/");
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"));
        command
    }

    /// A call of Podman.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.command_with(&self.runtime.path);
        command.args(args);
        command
    }

    /// Runs Podman with `args`.
    fn podman(&self, args: &[&str]) -> Output {
        output(self.command(args), "")
    }

    /// The arguments of `podman run --rm` of the image without a network.
    fn run_args<'a>(options: &[&'a str], program: &[&'a str]) -> Vec<&'a str> {
        [&["run", "--rm", "--network", "none"], options, &[image::NAME], program].concat()
    }

    /// Runs a container to its end.
    fn run(&self, options: &[&str], program: &[&str]) -> Output {
        self.podman(&Self::run_args(options, program))
    }

    /// What `script` says in a container; it must succeed.
    #[track_caller]
    fn shell(&self, options: &[&str], script: &str) -> String {
        self.run(options, &["sh", "-c", script]).ok()
    }

    /// Starts the container `name` in the background.
    #[track_caller]
    fn started(&self, name: &str, options: &[&str], program: &[&str]) {
        let args = ["run", "--detach", "--name", name, "--network", "none"];
        self.podman(&[&args, options, &[image::NAME], program].concat()).ok();
    }

    /// What `podman inspect` says of a container.
    #[track_caller]
    fn inspect(&self, name: &str, format: &str) -> String {
        self.podman(&["inspect", "--format", format, name]).ok()
    }

    /// What `script` says in a running container; it must succeed.
    #[track_caller]
    fn exec(&self, name: &str, script: &str) -> String {
        self.podman(&["exec", name, "sh", "-c", script]).ok()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Ends the process that holds the user's namespaces.
        if !self.is_root() {
            self.podman(&["system", "migrate"]);
        }
        // conmon's cgroup, which Podman leaves.
        world::remove_cgroups("libpod_parent");
    }
}
