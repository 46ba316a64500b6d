//! containerd's own client, with the runtime as the binary of the runc shim.

mod checkpoint;
mod limits;
mod run;
mod shim;
mod survival;
mod task;

use crate::common::{Output, eventually};
use crate::containerd::Containerd;
use crate::image;
use crate::process::{Background, limited, output, output_with_open_stdin};
use crate::runner::{Case, Engine, Runtime};
use crate::world::{Inventory, World};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A program that stays until it is killed.
const SLEEP: &[&str] = &["sleep", "1000"];

/// A program that ends with 5 on SIGTERM, and with 6 on SIGUSR1.
const TRAPS: &[&str] = &["sh", "-c", "trap 'exit 5' TERM; trap 'exit 6' USR1; while :; do usleep 10000; done"];

/// ctr and its containerd.
pub struct Ctr {
    containerd: Containerd,
    runtime: Runtime,
}

/// Shows the size of the terminal once it has one: it comes from the client, after the start.
const SIZE: &str = "until stty size 2>/dev/null | grep .; do usleep 10000; done";

impl Engine for Ctr {
    const NAME: &'static str = "ctr";
    const NEEDS: &'static [(&'static str, &'static str)] = &[("containerd", "containerd"), ("ctr", "containerd")];
    const STATE: &'static [&'static str] =
        &["/run/containerd/runc/default", "/run/containerd/s", "/run/containerd/io.containerd.runtime.v2.task/default"];

    fn start(world: &World, runtime: &Runtime) -> Result<Self, String> {
        let containerd = Containerd::start(world, runtime, "containerd", None)?;
        containerd.call(&["image", "import", image::archive(world).to_str().unwrap()]).ok();
        Ok(Self { containerd, runtime: runtime.clone() })
    }

    fn version(&self) -> String {
        self.containerd.version()
    }

    fn cases() -> Vec<Case<Self>> {
        let mut cases = run::cases();
        cases.extend(task::cases());
        cases.extend(limits::cases());
        cases.extend(checkpoint::cases());
        cases.extend(survival::cases());
        if std::env::var("RUNTIME").is_ok_and(|name| name == "shim") {
            cases.extend(shim::cases());
        }
        cases
    }

    fn clean(&self) {
        for id in self.ctr(&["container", "list", "--quiet"]).ok().lines() {
            self.ctr(&["task", "kill", "--signal", "SIGKILL", "--all", id]);
            self.ctr(&["task", "delete", "--force", id]);
            self.ctr(&["container", "delete", id]).ok();
        }
    }
}

impl Ctr {
    fn ctr(&self, args: &[&str]) -> Output {
        self.containerd.call(args)
    }

    /// The runtime under test itself, with the directory that the shim keeps the state of its containers in.
    fn runtime(&self, args: &[&str]) -> Output {
        let mut command = limited(&self.runtime.path);
        let shims = if self.runtime.has_own_shim { "microrun" } else { "runc" };
        command.args(["--root", &format!("/run/containerd/{shims}/default")]).args(args);
        output(command, "")
    }

    /// containerd's events from now on.
    fn events(&self) -> Background {
        let mut command = self.containerd.ctr();
        command.arg("events");
        let events = Background::start(&command, self.containerd.dir.join("events"));
        // Who subscribes too late misses the first ones.
        eventually(|| {
            self.ctr(&["image", "label", image::NAME, "x=y"]).ok();
            events.shown().contains("/images/update")
        });
        events
    }

    /// `ctr run` of the image.
    fn command(&self, options: &[&str], id: &str, program: &[&str]) -> Command {
        let mut command = self.containerd.ctr();
        command.arg("run");
        if self.runtime.has_own_shim {
            command.args(["--runtime", "io.containerd.microrun.v1"]);
        } else {
            command.args(["--runc-binary", self.runtime.path.to_str().unwrap()]);
        }
        command.args(options);
        command.args([image::NAME, id]).args(program);
        command
    }

    /// Runs a container to its end.
    fn run(&self, options: &[&str], id: &str, program: &[&str]) -> Output {
        output_with_open_stdin(self.command(options, id, program))
    }

    /// Runs a script in a container that is removed in the end.
    fn shell(&self, options: &[&str], script: &str) -> Output {
        let mut all = vec!["--rm"];
        all.extend(options);
        self.run(&all, "shell", &["sh", "-c", script])
    }

    /// Starts a container that stays.
    #[track_caller]
    fn start_detached(&self, options: &[&str], id: &str, program: &[&str]) {
        let mut all = vec!["--detach"];
        all.extend(options);
        output(self.command(&all, id, program), "").ok();
    }

    /// `ctr task exec`, as the process `id`-exec.
    fn exec(&self, options: &[&str], id: &str, program: &[&str]) -> Output {
        output_with_open_stdin(self.exec_command(options, id, program))
    }

    fn exec_command(&self, options: &[&str], id: &str, program: &[&str]) -> Command {
        let mut command = self.containerd.ctr();
        command.args(["task", "exec", "--exec-id", &format!("{id}-exec")]).args(options).arg(id).args(program);
        command
    }

    /// The state of a task as `ctr task list` shows it; empty if there is none.
    fn task_status(&self, id: &str) -> String {
        let list = self.ctr(&["task", "list"]).ok();
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
        line.and_then(|line| line.split_whitespace().nth(2)).unwrap_or_default().to_owned()
    }

    /// The pid of a task's init.
    fn task_pid(&self, id: &str) -> i32 {
        let list = self.ctr(&["task", "list"]).ok();
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// A number of `ctr task metrics`, by the name that it has on cgroup v1 or v2.
    fn metric(&self, id: &str, names: [&str; 2]) -> u64 {
        let text = self.ctr(&["task", "metrics", id]).ok();
        let line = text.lines().find(|line| names.contains(&line.split_whitespace().next().unwrap_or_default()));
        let value = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("no {names:?} in {text}"))
    }

    /// Deletes a stopped task; its exit code.
    fn delete_task(&self, id: &str) -> i32 {
        let output = self.ctr(&["task", "delete", id]);
        // ctr warns of an exit code that is not zero, and succeeds.
        let code = output.stderr.split("exit code ").nth(1).map(|text| text.trim_end_matches('"').parse().unwrap());
        output.ok();
        code.unwrap_or(0)
    }

    /// `exec` in a new container that sleeps.
    fn exec_in_sleeping(&self, options: &[&str], program: &[&str]) -> Output {
        self.start_detached(&[], "c", SLEEP);
        self.exec(options, "c", program)
    }

    /// What a program in the container writes, without the help of the shim.
    fn runtime_exec(&self, id: &str, program: &[&str]) -> String {
        let mut args = vec!["exec", id];
        args.extend(program);
        self.runtime(&args).stdout
    }

    /// Whether a controller is on a v1 hierarchy.
    fn is_v1(&self, controller: &str) -> bool {
        Path::new("/sys/fs/cgroup").join(controller).is_dir()
    }

    /// A control file of a container's cgroup: a hierarchy and the file's name on v1, or its name on v2.
    fn control(&self, id: &str, [hierarchy, v1]: [&str; 2], v2: &str) -> String {
        let root = Path::new("/sys/fs/cgroup");
        let (root, file) = if self.is_v1(hierarchy) { (root.join(hierarchy), v1) } else { (root.into(), v2) };
        let path = root.join("default").join(id).join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }

    /// Waits until there is nothing that was not there at the time of `before`, but for a containerd that has been restarted.
    #[track_caller]
    fn nothing_more_than(&self, before: &Inventory) {
        let mut left = before.left();
        for _ in 0..100 {
            left = before.left();
            left.retain(|line| !line.contains("(containerd --config "));
            if left.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("left: {left:#?}");
    }
}
