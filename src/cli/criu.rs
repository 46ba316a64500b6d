//! What `checkpoint` and `restore` have in common.

use super::grammar::Flag;
use super::parse::{Words, invalid};
use crate::container::criu::Choices;
use crate::container::criu::rpc::{CgroupMode, NetworkLock, Switch};
use crate::error::{Error, Kind, Result};
use crate::log;
use nix::unistd::geteuid;
use std::path::PathBuf;

/// Where the images are by default.
const IMAGES: &str = "checkpoint";

/// The option of the images.
pub const IMAGE_PATH: Flag = Flag::value("image-path", "DIR", "the directory of CRIU's images (default: ./checkpoint)");
/// The option of the log.
pub const WORK_PATH: Flag =
    Flag::value("work-path", "DIR", "the directory of CRIU's log and other files (default: that of the images)");
/// The option of cgroups.
pub const MANAGE_CGROUPS_MODE: Flag = Flag::value(
    "manage-cgroups-mode",
    "MODE",
    "soft, full, strict or ignore: what CRIU does about cgroups (default: soft)",
);
/// The option of namespaces. It changes nothing, for the only one that it takes is left empty anyway.
pub const EMPTY_NS: Flag =
    Flag::value("empty-ns", "KIND", "make a namespace without what is in it: network, which is always done");
/// The option of connections.
pub const NETWORK_LOCK: Flag = Flag::value(
    "network-lock",
    "HOW",
    "iptables, nftables or skip: how CRIU locks TCP connections (default: iptables where it is installed)",
);
/// A switch of both.
pub const TCP_ESTABLISHED: Flag = Flag::switch("tcp-established", "allow open TCP connections");
/// A switch of both.
pub const EXT_UNIX_SK: Flag = Flag::switch("ext-unix-sk", "allow Unix sockets that are connected to the outside");
/// A switch of both.
pub const SHELL_JOB: Flag = Flag::switch("shell-job", "allow a process of the caller's terminal");
/// A switch of both.
pub const FILE_LOCKS: Flag = Flag::switch("file-locks", "keep file locks");
/// A switch of both.
pub const AUTO_DEDUP: Flag = Flag::switch("auto-dedup", "drop pages of older images that newer ones have");
/// A switch of both.
pub const LAZY_PAGES: Flag = Flag::switch("lazy-pages", "bring memory pages when they are first used (userfaultfd)");

/// The switches that CRIU has under the same name.
const SWITCHES: [(&Flag, Switch); 6] = [
    (&TCP_ESTABLISHED, Switch::TcpEstablished),
    (&EXT_UNIX_SK, Switch::ExternalSockets),
    (&SHELL_JOB, Switch::ShellJob),
    (&FILE_LOCKS, Switch::FileLocks),
    (&AUTO_DEDUP, Switch::AutoDedup),
    (&LAZY_PAGES, Switch::LazyPages),
];

/// What the options that both have amount to.
///
/// # Errors
/// A value that is not valid.
pub fn choices(words: &Words) -> Result<Choices> {
    if !geteuid().is_root() {
        log::warn("checkpoint and restore are untested with rootless containers");
    }
    if let Some(kind) = words.texts("empty-ns")?.iter().find(|kind| *kind != "network") {
        return Err(Error::new(Kind::Usage, format!("--empty-ns: namespace {kind:?} is not supported: give network")));
    }
    let switches = SWITCHES.iter().filter(|(flag, _)| words.has(flag.long)).map(|(_, switch)| *switch);
    Ok(Choices {
        images: words.path("image-path").unwrap_or_else(|| PathBuf::from(IMAGES)),
        work: words.path("work-path"),
        cgroup_mode: cgroup_mode(words)?,
        network_lock: network_lock(words)?,
        switches: switches.collect(),
    })
}

fn network_lock(words: &Words) -> Result<Option<NetworkLock>> {
    let Some(name) = words.text("network-lock")? else { return Ok(None) };
    let lock = NetworkLock::named(name).ok_or_else(|| invalid("network-lock", name, "iptables, nftables or skip"));
    lock.map(Some)
}

fn cgroup_mode(words: &Words) -> Result<CgroupMode> {
    match words.text("manage-cgroups-mode")? {
        None => Ok(CgroupMode::Default),
        Some(name) => {
            CgroupMode::named(name).ok_or_else(|| invalid("manage-cgroups-mode", name, "soft, full, strict or ignore"))
        }
    }
}
