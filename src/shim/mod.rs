//! containerd's shim protocol, version 2: a program that containerd starts for a container or a pod, and that stays for as
//! long as these do. Containers are made and entered in this process, by the same code as the command line's
//! ([`crate::container::resident`]): no runtime is executed. docs/shim.md has the design.
//!
//! ```text
//! containerd ── start ──▶ daemon::start ── fork ──▶ server::serve
//!            ◀─ address ──┘                          │ epoll: connections, pidfds, memory events, stdio
//!            ── ttrpc: Create, Start, Wait, … ─────▶ │──▶ service (threads for what may take a while)
//!            ◀─ events: TaskExit, … ──────────────── ┘
//! ```

mod args;
mod checkpoint;
mod daemon;
mod events;
mod idmapped;
mod io;
mod life;
mod logger;
mod messages;
mod metrics;
mod options;
mod reactor;
mod rootfs;
mod server;
mod service;
mod stream;
mod task;
mod ttrpc;
mod workers;

use crate::error::Error;

use args::Arguments;
use std::ffi::OsString;
use std::io::{Write, stderr};

/// The program: does what containerd asks for on the command line. Its exit status.
pub fn main(words: impl IntoIterator<Item = OsString>) -> i32 {
    let words = words.into_iter().map(|word| word.to_string_lossy().into_owned());
    match Arguments::parse(words).and_then(|arguments| run(&arguments)) {
        Ok(()) => 0,
        Err(error) => {
            // containerd shows it to the user, after a name of its own.
            let _ = writeln!(stderr(), "io.containerd.microrun.v1: {error}");
            1
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    if arguments.version {
        return daemon::version();
    }
    if arguments.info {
        return daemon::info();
    }
    match arguments.action.as_str() {
        "start" => daemon::start(arguments),
        "delete" => daemon::delete(arguments),
        action => Err(Error::new(
            crate::error::Kind::Usage,
            format!("{action:?} is not an action of a shim: containerd calls it with start or delete; see -info"),
        )),
    }
}
