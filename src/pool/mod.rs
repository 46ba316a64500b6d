//! Made ahead: sandboxes that have run their Plan to its last step and wait for a request.
//!
//! ```text
//! serve ─┬─ the loop: takes requests, hands sandboxes over, hears of their end        (server)
//!        ├─ the cleaner: takes cgroups, directories and namespaces away, in a thread  (cleaner)
//!        └─ the filler and its makers: make what was used up, in processes of their own (filler, workshop)
//! ```
//!
//! A command asks by one datagram ([`crate::sys::request`]). Who has a sandbox's lease starts it by one message
//! ([`crate::sys::park::Message`]), without the pool: a program does so with [`Pool`].

mod answers;
mod asked;
mod cleaner;
mod client;
mod filler;
mod lease;
mod memory;
mod network;
mod pace;
mod parts;
mod quiet;
mod server;
mod setup;
mod stock;
mod streams;
mod template;
mod workshop;

pub use client::{Got, Wanted, Wish, ask, given, remove_orphan, run};
pub use lease::{Pool, Running, Sandbox, Stdio};
pub use memory::Bounds;
pub use network::unknown_protocol;
pub use pace::Pace;
pub use server::{Settings, serve};

pub use crate::sys::request::SOCKET;

use std::env;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Names the pool's socket, or is "off".
pub const VARIABLE: &str = "MICRORUN_POOL";

/// Whether a pool has been asked already, before `main`, and had nothing that fits.
pub fn is_refused() -> bool {
    #[cfg(target_env = "musl")]
    return crate::sys::entry::is_refused();
    #[cfg(not(target_env = "musl"))]
    false
}

/// Whether the pool that was asked already, before `main`, may have parts for a bundle that it does not know.
pub fn lends() -> bool {
    #[cfg(target_env = "musl")]
    return crate::sys::entry::lends();
    #[cfg(not(target_env = "musl"))]
    false
}

/// The exit code and the id of a container of a pool that this process followed before `main`, and that outlived its pool.
pub fn orphan() -> Option<(i32, Vec<u8>)> {
    #[cfg(target_env = "musl")]
    return crate::sys::entry::orphan();
    #[cfg(not(target_env = "musl"))]
    None
}

/// Where the pool is that this process would use: `$MICRORUN_POOL`, or else root's. `None` if it is not to use any.
pub fn socket() -> Option<PathBuf> {
    match env::var_os(VARIABLE).map(OsStringExt::into_vec) {
        Some(path) if path == b"off" => None,
        Some(path) if !path.is_empty() => Some(PathBuf::from(std::ffi::OsString::from_vec(path))),
        _ => Some(PathBuf::from(SOCKET)),
    }
}
