//! containerd's own client, with the runtime as the binary of the runc shim.

use crate::common::Output;
use crate::containerd::Containerd;
use crate::process::output_with_open_stdin;
use crate::runner::{Case, Engine, Runtime};
use crate::world::World;
use crate::{cases, image};
use std::process::Command;

/// ctr and its containerd.
pub struct Ctr {
    containerd: Containerd,
    runtime: Runtime,
}

impl Engine for Ctr {
    const NAME: &'static str = "ctr";
    const NEEDS: &'static [(&'static str, &'static str)] = &[("containerd", "containerd"), ("ctr", "containerd")];

    fn start(world: &World, runtime: &Runtime) -> Result<Self, String> {
        let containerd = Containerd::start(world, "containerd", None)?;
        containerd.call(&["image", "import", image::archive(world).to_str().unwrap()]).ok();
        Ok(Self { containerd, runtime: runtime.clone() })
    }

    fn version(&self) -> String {
        self.containerd.version()
    }

    fn cases() -> Vec<Case<Self>> {
        cases![run, run_rm]
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

    /// `ctr run` of the image.
    fn command(&self, options: &[&str], id: &str, program: &[&str]) -> Command {
        let mut command = self.containerd.ctr();
        command.args(["run", "--runc-binary", self.runtime.path.to_str().unwrap()]).args(options);
        command.args([image::NAME, id]).args(program);
        command
    }

    /// Runs a container to its end.
    fn run(&self, options: &[&str], id: &str, program: &[&str]) -> Output {
        output_with_open_stdin(self.command(options, id, program))
    }
}

fn run(engine: &Ctr) {
    let output = engine.run(&[], "c", &["/hello"]);
    assert!(output.ok().contains("Hello"));
    assert!(engine.ctr(&["container", "list", "--quiet"]).ok().contains('c'));
}

fn run_rm(engine: &Ctr) {
    assert!(engine.run(&["--rm"], "c", &["/hello"]).ok().contains("Hello"));
    assert_eq!(engine.ctr(&["container", "list", "--quiet"]).ok(), "");
}
