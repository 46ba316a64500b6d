//! Network namespaces: new ones, and used ones in which there is nothing that a new one has not.
//!
//! A namespace is used again only if its container could not change it ([`can_change`]) and has not used it: whatever is sent or
//! received, any socket that is still open and any connection that is not forgotten yet shows in what
//! [`Network::require_unused`] compares.

use crate::error::{Doing, Error, Kind, Result};
use crate::path::mounted;
use crate::spec::{has_namespace, is_bind, makes_namespace};
use crate::sys::netlink::Netlink;
use crate::sys::{fs as sys_fs, net, own, process};
use nix::sys::stat::fstat;
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use oci_spec::runtime::{Capability, LinuxNamespaceType, Spec};
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

/// What is read of a namespace, below /proc/thread-self/net. Lists of connections are left out: they take milliseconds,
/// and sockstat counts what is in them.
const FILES: [&str; 37] = [
    "sockstat",
    "sockstat6",
    "protocols",
    "unix",
    "packet",
    "raw",
    "raw6",
    "icmp",
    "icmp6",
    "snmp",
    "snmp6",
    "netstat",
    "dev_snmp6/lo",
    "dev",
    "dev_mcast",
    "if_inet6",
    "anycast6",
    "arp",
    "route",
    "ipv6_route",
    "fib_trie",
    "rt_cache",
    "rt6_stats",
    "igmp",
    "igmp6",
    "mcfilter",
    "mcfilter6",
    "ip6_flowlabel",
    "ip_mr_cache",
    "ip_mr_vif",
    "xfrm_stat",
    "ip_tables_names",
    "ip6_tables_names",
    "arp_tables_names",
    "netfilter/nfnetlink_log",
    "netfilter/nfnetlink_queue",
    "stat/nf_conntrack",
];

/// What the kernel is asked for: devices with all their settings and counters, addresses, routes, neighbours, rules, next hops,
/// queueing disciplines (rtnetlink(7), linux/rtnetlink.h).
const DUMPS: [u16; 7] = [
    libc::RTM_GETLINK,
    libc::RTM_GETADDR,
    libc::RTM_GETROUTE,
    libc::RTM_GETNEIGH,
    libc::RTM_GETRULE,
    106,
    libc::RTM_GETQDISC,
];

/// Does `work` in a namespace of its own, or in `network`, and comes back.
fn elsewhere<T>(network: Option<&OwnedFd>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let home = open().doing(|| "open the network namespace of the pool")?;
    match network {
        Some(network) => {
            process::setns(network.as_raw_fd(), libc::CLONE_NEWNET).doing(|| "enter a network namespace")?
        }
        None => process::unshare(libc::CLONE_NEWNET).doing(|| "make a network namespace")?,
    }
    let done = work();
    process::setns(home.as_raw_fd(), libc::CLONE_NEWNET).doing(|| "come back from a network namespace")?;
    done
}

fn open() -> sys_fs::Sys<OwnedFd> {
    sys_fs::open(sys_fs::CWD, c"/proc/thread-self/ns/net", libc::O_RDONLY, 0).map(own)
}

/// All that can be seen of the namespace that this thread is in and that any use of it changes.
fn see() -> Result<Vec<u8>> {
    let mut seen = Vec::new();
    for name in FILES {
        let path = Path::new("/proc/thread-self/net").join(name);
        match fs::read(&path) {
            // The protocol or filter is not there, in this namespace as in others.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            text => seen.extend(own_part(name, text.doing(|| format!("read {}", path.display()))?)),
        }
        seen.push(0);
    }
    let netlink = Netlink::open().doing(|| "open a netlink socket")?;
    for kind in DUMPS {
        seen.extend(netlink.dump(kind).doing(|| "list what there is in a network namespace")?);
        seen.push(0);
    }
    Ok(seen)
}

/// What a file tells of this namespace alone: two have figures of the whole machine as well (net/ipv4/proc.c, net/core/sock.c).
fn own_part(name: &str, text: Vec<u8>) -> Vec<u8> {
    let keep: fn(&str) -> String = match name {
        "sockstat" => sockets_of,
        "protocols" => |line| line.split_whitespace().step_by(2).take(2).collect::<Vec<_>>().join(" "),
        _ => return text,
    };
    String::from_utf8_lossy(&text).lines().map(keep).collect::<Vec<_>>().join("\n").into_bytes()
}

/// The figures of a line of sockstat that are those of the namespace: "TCP: inuse 1 orphan 0 tw 0 alloc 7 mem 3". The number of all
/// sockets is for [`has_sockets`].
fn sockets_of(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let figures = words.windows(2).filter(|pair| matches!(pair.first(), Some(&("inuse" | "tw"))));
    let kept: Vec<String> =
        words.iter().take(1).map(|name| (*name).to_owned()).chain(figures.map(|pair| pair.join(" "))).collect();
    kept.join(" ")
}

/// A network namespace.
#[derive(Debug)]
pub struct Network {
    namespace: OwnedFd,
    /// What was to be seen of it when it was new; nothing if nobody wanted to know.
    seen: Vec<u8>,
}

impl Network {
    /// A new one with its loopback device up, which can be inspected later if it `is_watched`. This thread comes back from it: the
    /// kernel may copy settings from where a namespace is made (net.core.devconf_inherit_init_net).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(is_watched: bool) -> Result<Self> {
        elsewhere(None, || {
            let doing = || "set a new network namespace up";
            net::loopback_up().doing(doing)?;
            Ok(Self { namespace: open().doing(doing)?, seen: if is_watched { see()? } else { Vec::new() } })
        })
    }

    /// Fails if, after its container has ended and been removed, anybody is in it, or it is not what it was when it was new.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn require_unused(&self) -> Result<()> {
        let inode = fstat(&self.namespace).doing(|| "look at a network namespace")?.st_ino;
        let name = format!("net:[{inode}]");
        let wrong = |what: String| Err(Error::new(Kind::WrongState, what));
        if let Some(pid) = who_is_in(&name) {
            return wrong(format!("process {pid} is in {name}"));
        }
        let file = "/proc/self/mountinfo";
        if fs::read_to_string(file).doing(|| format!("read {file}"))?.contains(&format!(" {name} ")) {
            return wrong(format!("{name} is mounted"));
        }
        let (seen, has_sockets) = elsewhere(Some(&self.namespace), || Ok((see()?, has_sockets()?)))?;
        if seen != self.seen {
            return wrong(format!("{name} has been used"));
        }
        if has_sockets {
            return wrong(format!("a socket of {name} is open"));
        }
        Ok(())
    }
}

/// Whether there are sockets in the namespace that this thread is in, whoever has them.
fn has_sockets() -> Result<bool> {
    /// One that was closed, our own among them, is counted until it is freed, after an RCU grace period.
    const ATTEMPTS: u32 = 10;
    const GRACE: Duration = Duration::from_millis(5);
    for _ in 0..ATTEMPTS {
        let path = "/proc/thread-self/net/sockstat";
        let text = fs::read_to_string(path).doing(|| format!("read {path}"))?;
        if text.starts_with("sockets: used 0\n") {
            return Ok(false);
        }
        std::thread::sleep(GRACE);
    }
    Ok(true)
}

impl AsRawFd for Network {
    fn as_raw_fd(&self) -> RawFd {
        self.namespace.as_raw_fd()
    }
}

/// A process whose network namespace is called `name`.
fn who_is_in(name: &str) -> Option<u32> {
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid: &u32| {
        fs::read_link(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|link| link.as_os_str().as_encoded_bytes() == name.as_bytes())
    })
}

/// Whether a cold start of `spec` would leave its network namespace to a helper, outside of all its others: it belongs to
/// the user namespace of who starts it then.
pub fn is_made_before(spec: &Spec) -> bool {
    let joins_pids = has_namespace(spec, LinuxNamespaceType::Pid) && !makes_namespace(spec, LinuxNamespaceType::Pid);
    makes_namespace(spec, LinuxNamespaceType::Network)
        && !has_namespace(spec, LinuxNamespaceType::User)
        && !has_namespace(spec, LinuxNamespaceType::Time)
        && !joins_pids
}

/// Whether a container could change what is set up in its network namespace: by capabilities, by kernel parameters that it can
/// write, or because somebody else does it for it. `bundle` is where its configuration lies.
///
/// # Errors
/// The list of mounts cannot be read, or a source is missing.
pub fn can_change(spec: &Spec, bundle: &Path) -> Result<bool> {
    let makes = |kind| makes_namespace(spec, kind);
    if !makes(LinuxNamespaceType::Pid) || !makes(LinuxNamespaceType::Mount) || spec.hooks().is_some() {
        return Ok(true);
    }
    let linux = spec.linux().as_ref();
    let has_devices =
        linux.is_some_and(|linux| linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()));
    let mut sysctls = linux.iter().flat_map(|linux| linux.sysctl().iter().flatten());
    let sets_parameters = sysctls.any(|(name, _)| name.starts_with("net.") || name.starts_with("net/"));
    Ok(has_devices || sets_parameters || may_administer(spec) || writes_parameters(spec, bundle)?)
}

fn may_administer(spec: &Spec) -> bool {
    let Some(sets) = spec.process().as_ref().and_then(|process| process.capabilities().as_ref()) else { return false };
    let all = [sets.bounding(), sets.effective(), sets.permitted(), sets.inheritable(), sets.ambient()];
    let rights = [Capability::NetAdmin, Capability::SysAdmin, Capability::SysModule, Capability::Bpf];
    all.into_iter().flatten().any(|set| rights.iter().any(|right| set.contains(right)))
}

/// Whether there may be a writable /proc/sys in the container: root there may write the parameters of its network namespace
/// without any capability (net/sysctl_net.c, net_ctl_permissions).
fn writes_parameters(spec: &Spec, bundle: &Path) -> Result<bool> {
    let read_only = spec.linux().as_ref().and_then(|linux| linux.readonly_paths().as_deref()).unwrap_or_default();
    for mount in spec.mounts().iter().flatten() {
        let options = mount.options().as_deref().unwrap_or_default();
        let has = |wanted: &str| options.iter().any(|option| option == wanted);
        let is_open = match (mount.typ().as_deref(), mount.source()) {
            // What is mounted below its source is not known.
            _ if has("rbind") => true,
            (_, Some(source)) if is_bind(mount) => is_procfs(&bundle.join(source))?,
            (Some("proc"), _) => {
                let parameters = mount.destination().join("sys");
                !has("ro") && !read_only.iter().any(|path| Path::new(path) == parameters)
            }
            _ => false,
        };
        if is_open {
            return Ok(true);
        }
    }
    // What is mounted below the root comes along.
    let root = spec.root().as_ref().map(|root| bundle.join(root.path())).unwrap_or_default();
    let root = fs::canonicalize(&root).doing(|| format!("find {}", root.display()))?;
    let file = "/proc/self/mountinfo";
    let text = fs::read_to_string(file).doing(|| format!("read {file}"))?;
    Ok(text.lines().filter_map(mounted).any(|(place, _)| place != root && place.starts_with(&root)))
}

fn is_procfs(path: &Path) -> Result<bool> {
    let about = statfs(path).doing(|| format!("look at {}", path.display()))?;
    Ok(about.filesystem_type() == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_machine_are_left_out() {
        let sockstat = b"sockets: used 3\nTCP: inuse 1 orphan 4 tw 2 alloc 7 mem 9\n".to_vec();
        assert_eq!(own_part("sockstat", sockstat), b"sockets:\nTCP: inuse 1 tw 2");
        let protocols = b"protocol  size sockets  memory press\nTCP       2560      5   17   no\n".to_vec();
        assert_eq!(own_part("protocols", protocols), b"protocol sockets\nTCP 5");
        assert_eq!(own_part("snmp", b"Ip: 1\n".to_vec()), b"Ip: 1\n");
    }
}
