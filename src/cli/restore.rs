//! `microrun restore`

use super::global::Global;
use super::grammar::{Flag, Verb, shared};
use super::parse::Words;
use super::{criu, launching, warn};
use crate::container::criu::rpc::Switch;
use crate::container::restore::{self, Options};
use crate::container::{prepare, sealed};
use crate::error::Result;

/// The verb.
pub static VERB: Verb = Verb {
    name: "restore",
    about: "restore a container from a previous checkpoint",
    operands: "<container-id>",
    count: (1, 1),
    details: "\
Makes the container that the bundle's config.json describes, with the processes that checkpoint saved, waits
for it, removes it and exits with its program's exit code (128 + N when signal N ended it).

What came from outside the container comes from outside again: bind mounts and namespaces from where config.json
says, pipes and files that were standard input, output and error from the caller's.

When it fails nothing is left, and CRIU's restore.log says more.",
    flags: &[
        shared::CONSOLE_SOCKET,
        criu::IMAGE_PATH,
        criu::WORK_PATH,
        criu::TCP_ESTABLISHED,
        Flag::switch("tcp-close", "close TCP connections that were open, as if the peer had reset them"),
        criu::EXT_UNIX_SK,
        criu::SHELL_JOB,
        criu::FILE_LOCKS,
        criu::MANAGE_CGROUPS_MODE,
        criu::NETWORK_LOCK,
        shared::BUNDLE,
        Flag::switch("detach", "return as soon as the container runs").short('d'),
        shared::PID_FILE,
        Flag::switch("no-subreaper", "accepted and without effect: microrun is no subreaper"),
        Flag::switch("no-pivot", "accepted and without effect: CRIU enters the root in its own way"),
        criu::EMPTY_NS,
        criu::AUTO_DEDUP,
        criu::LAZY_PAGES,
        Flag::value("lsm-profile", "TYPE:NAME", "the LSM profile, such as apparmor:name or selinux:label"),
        Flag::value("lsm-mount-context", "CONTEXT", "the LSM context of mounts that had one"),
        shared::OVERLAY,
    ],
    passes_rest: false,
    failure: 1,
    call,
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    sealed::ensure(None)?;
    let container = prepare::Options {
        pid_file: words.path("pid-file"),
        console_socket: words.path("console-socket"),
        overlay: launching::overlay(words),
        foreground: !words.has("detach"),
        ..launching::bare(global, words.id()?, launching::bundle(words))
    };
    let mut choices = criu::choices(words)?;
    if words.has("tcp-close") {
        choices.switches.push(Switch::TcpClose);
    }
    let options = Options {
        container,
        choices,
        lsm_profile: words.text("lsm-profile")?.map(str::to_owned),
        lsm_mount_context: words.text("lsm-mount-context")?.map(str::to_owned),
    };
    let finished = restore::restore(&options)?;
    warn(&finished.warnings);
    // An exit code is the low byte, here as in exit(3).
    Ok(finished.status as u8)
}
