//! Docker with `userns-remap`: the root of every container is a user without rights on the machine.

use super::{Docker, NEEDS, exec, life, resources, run, security};
use crate::common::host;
use crate::runner::{Case, Engine, Runtime, last_word};
use crate::world::World;
use serde_json::json;
use std::fs;

/// A daemon that remaps.
pub struct Remapped {
    docker: Docker,
    _ids: SubordinateIds,
}

/// Cases that are a [`Docker`]'s.
macro_rules! docker_cases {
    ($($case:path),* $(,)?) => {
        vec![$(Case::new(last_word(stringify!($case)), |engine: &Remapped| $case(&engine.docker))),*]
    };
}

impl Engine for Remapped {
    const NAME: &'static str = "docker-userns";
    const NEEDS: &'static [(&'static str, &'static str)] = NEEDS;
    const STATE: &'static [&'static str] = Docker::STATE;

    fn start(world: &World, runtime: &Runtime) -> Result<Self, String> {
        let ids = SubordinateIds::give(world);
        let docker = Docker::start_with(world, runtime, json!({"userns-remap": USER}))?;
        Ok(Self { docker, _ids: ids })
    }

    fn version(&self) -> String {
        format!("{} with userns-remap", self.docker.version())
    }

    fn cases() -> Vec<Case<Self>> {
        docker_cases![
            is_remapped,
            host_user_namespace,
            run::run,
            run::exit_code,
            run::no_such_program_is_127,
            run::not_executable_is_126,
            run::tty,
            run::user_and_groups,
            run::working_directory,
            run::read_only,
            run::tmpfs,
            run::volume,
            run::bind_mount,
            run::shm_size,
            run::namespaces_of_another,
            run::build,
            exec::exec,
            exec::exec_tty,
            exec::exec_options,
            exec::exec_no_such_program,
            life::logs,
            life::attach,
            life::pause_and_unpause,
            life::stop,
            life::restart,
            life::daemon_restarts,
            resources::memory,
            resources::pids_limit,
            resources::ulimit,
            resources::sysctl,
            resources::update,
            security::capabilities,
            security::default_seccomp,
            security::no_new_privileges,
            security::masked_paths,
        ]
    }

    fn clean(&self) {
        self.docker.clean();
    }
}

fn is_remapped(engine: &Docker) {
    let words = "cat /proc/self/uid_map /proc/self/gid_map; id -u; stat -c %u /hello";
    let output = engine.shell(&[], words).ok();
    let words: Vec<&str> = output.split_whitespace().collect();
    let first = FIRST.to_string();
    assert_eq!(words, ["0", &first, "65536", "0", &first, "65536", "0", "0"]);
}

fn host_user_namespace(engine: &Docker) {
    let output = engine.run(&["--userns=host"], &["cat", "/proc/self/uid_map"]).ok();
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"]);
}

/// Whose subordinate ids are used; there is such a user everywhere, and a group of that name.
const USER: &str = "daemon";
const FIRST: u32 = 300_000;

/// The directory in its data-root that the daemon then works in.
pub const ROOT: &str = "300000.300000";

/// /etc/subuid and /etc/subgid with ids for [`USER`], in the mount namespace of the test alone.
struct SubordinateIds;

const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

impl SubordinateIds {
    fn give(world: &World) -> Self {
        for file in FILES {
            let own = world.path(file.replace('/', "-"));
            let ids = fs::read_to_string(file).unwrap_or_default();
            fs::write(&own, format!("{USER}:{FIRST}:65536\n{ids}")).unwrap();
            host("mount", &["--bind", own.to_str().unwrap(), file]);
        }
        Self
    }
}

impl Drop for SubordinateIds {
    fn drop(&mut self) {
        for file in FILES {
            host("umount", &[file]);
        }
    }
}
