//! `microrun spec`

use super::global::Global;
use super::grammar::{Flag, Verb, shared};
use super::launching;
use super::parse::Words;
use crate::error::{Doing, Error, Kind, Result};
use crate::spec::default;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{getegid, geteuid};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};

/// The verb.
pub static VERB: Verb = Verb {
    name: "spec",
    about: "write a config.json to start from",
    operands: "",
    count: (0, 0),
    details: "\
Writes config.json into the bundle's directory: runc's default configuration, which runs sh on a terminal.
Edit process.args to run something else. A config.json that is already there is not touched.

--rootless writes one for a user without the rights of root. --action writes the leanest safe one for a
single static program: all namespaces, a read-only root, no capability, a small seccomp allow-list and
limits of memory, CPU and tasks.",
    flags: &[
        shared::BUNDLE,
        Flag::switch("rootless", "for a user without the rights of root"),
        Flag::value("action", "PROGRAM", "for one static program, at this path in the container"),
    ],
    passes_rest: false,
    failure: 1,
    call,
};

fn call(_: &Global, words: &Words) -> Result<u8> {
    let unified = || statfs("/sys/fs/cgroup").is_ok_and(|system| system.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let text = match (words.text("action")?, words.has("rootless")) {
        (Some(_), true) => return Err(Error::new(Kind::Usage, "--action and --rootless: give one of them")),
        (Some(program), false) => default::action(program),
        (None, true) => default::rootless(unified(), geteuid().as_raw(), getegid().as_raw()),
        (None, false) => default::runc(unified()),
    };
    let path = launching::bundle(words).join("config.json");
    // In the current directory it is told of as runc tells of it.
    let path = path.strip_prefix(".").unwrap_or(&path);
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| match error.kind() {
        // runc's words.
        ErrorKind::AlreadyExists => {
            Error::new(Kind::Exists, format!("File {} exists. Remove it first", path.display()))
        }
        _ => Error::io(format!("create {}", path.display()), &error),
    })?;
    file.write_all(text.as_bytes()).doing(|| format!("write {}", path.display()))?;
    Ok(0)
}
