//! What `create`, `run` and `explain` have in common.

use super::global::Global;
use super::parse::Words;
use crate::container::activation::Activation;
use crate::container::notify;
use crate::container::parts::Lender;
use crate::container::prepare::Options;
use crate::container::store::Store;
use crate::error::Result;
use crate::plan::Overlay;
use crate::pool;
use std::path::PathBuf;

/// The bundle that --bundle names: by default the current directory.
pub fn bundle(words: &Words) -> PathBuf {
    words.path("bundle").unwrap_or_else(|| PathBuf::from("."))
}

/// What --overlay asks for.
pub fn overlay(words: &Words) -> Option<Overlay> {
    words.has("overlay").then(|| words.path("overlay").map_or(Overlay::Scratch, Overlay::Directory))
}

/// Whether a container can be made from a pool's parts: those are root's, and cgroups of the cgroup driver.
pub fn takes_parts(global: &Global) -> bool {
    !global.systemd_cgroup && !global.rootless()
}

/// Who is to be asked for parts of a container: root's pool.
pub fn lender(global: &Global) -> Option<Lender> {
    let socket = pool::socket().filter(|_| !global.rootless())?;
    Some(Lender { socket, cgroups: takes_parts(global) })
}

/// The options that `create` and `run` share.
///
/// # Errors
/// A value that is not valid.
pub fn options(global: &Global, words: &Words, id: &str, bundle: PathBuf) -> Result<Options> {
    Ok(Options {
        no_pivot: words.has("no-pivot"),
        no_new_keyring: words.has("no-new-keyring"),
        preserve_fds: words.parsed("preserve-fds", "how many descriptors")?.unwrap_or(0),
        activation: Activation::of_this_process(),
        notify: notify::address_in_environment(),
        pid_file: words.path("pid-file"),
        console_socket: words.path("console-socket"),
        pidfd_socket: words.path("pidfd-socket"),
        overlay: overlay(words),
        ..bare(global, id, bundle)
    })
}

/// The container `id` of `bundle`, with no options at all.
pub fn bare(global: &Global, id: &str, bundle: PathBuf) -> Options {
    Options {
        driver: global.driver(),
        rootless: global.rootless(),
        ..Options::new(Store::new(&global.root), id, bundle)
    }
}
