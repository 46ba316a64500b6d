//! Engines on microrun: each real engine, started with directories and sockets of its own, uses the runtime under test.
//!
//! `make test-engines` runs it; docs/drop-in.md says what is tested and how to repeat a part of it. `$RUNTIME` is the runtime
//! under test: microrun (the default), microrun in a shim of its own (`shim`), or a runtime to compare it with (`runc`, `crun`). Arguments select cases by a part of
//! their names; `--list` prints the names.
//!
//! Everything happens in mount, network, pid and cgroup namespaces of the test's own ([`world`]), so that nothing can be left on
//! the machine, and what an engine leaves is seen.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

#[path = "../common/mod.rs"]
mod common;
mod containerd;
mod cri;
mod ctr;
mod docker;
mod image;
mod podman;
mod process;
mod runner;
mod world;

use runner::Runner;
use std::process::ExitCode;
use world::World;

fn main() -> ExitCode {
    let runner = Runner::from_args();
    let world = match World::enter() {
        Ok(Some(world)) => world,
        // What was to be done has been done inside.
        Ok(None) => return ExitCode::SUCCESS,
        Err(why) => {
            println!("skipped: the engines: {why}");
            return ExitCode::SUCCESS;
        }
    };
    runner::keep_panics();
    runner.suite::<ctr::Ctr>(&world);
    runner.suite::<cri::Cri>(&world);
    if std::env::var("RUNTIME").is_ok_and(|name| name == "shim") {
        // Only containerd has shims.
        return runner.finish();
    }
    runner.suite::<docker::Docker>(&world);
    runner.suite::<docker::Remapped>(&world);
    runner.suite::<podman::Root>(&world);
    runner.suite::<podman::Rootless>(&world);
    runner.finish()
}
