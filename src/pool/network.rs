//! Network namespaces: new ones, and used ones in which there is nothing that a new one has not.
//!
//! A namespace is used again only if its container could not change it ([`can_change`]) and has not used it: whatever is sent or
//! received, any socket that is still open and any connection that is not forgotten yet shows in what
//! [`Network::require_unused`] compares.

use super::quiet;
use crate::container::ground::come_back;
use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::path::mounted;
use crate::spec::{has_namespace, is_bind, makes_namespace};
use crate::sys::netlink::Netlink;
use crate::sys::{fs as sys_fs, net, own, process};
use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use oci_spec::runtime::{Capability, LinuxNamespaceType, Mount, Spec};
use std::collections::VecDeque;
use std::ffi::CStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// What is read of a namespace: how many sockets there are, whoever has them, and connections that are not forgotten yet; devices, and what was
/// sent over them; addresses and the routes to them; the names of all protocols; all that was ever sent or received or could not be; labels of flows,
/// which stay for minutes without a socket (net/ipv6/ip6_flowlabel.c).
const FILES: [&CStr; 9] = [
    SOCKETS,
    c"/proc/thread-self/net/dev",
    c"/proc/thread-self/net/fib_trie",
    c"/proc/thread-self/net/if_inet6",
    PROTOCOLS,
    c"/proc/thread-self/net/snmp",
    c"/proc/thread-self/net/netstat",
    c"/proc/thread-self/net/snmp6",
    c"/proc/thread-self/net/ip6_flowlabel",
];
const SOCKETS: &CStr = c"/proc/thread-self/net/sockstat";
const PROTOCOLS: &CStr = c"/proc/thread-self/net/protocols";

/// How closely a namespace is looked at. It is looked at in one way for as long as it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// At everything that a container could have done.
    Whole,
    /// At what somebody else may have done by mistake, where the container can have done nothing ([`super::quiet`]).
    Brief,
}

impl Look {
    /// What is read.
    fn files(self) -> &'static [&'static CStr] {
        match self {
            Self::Whole => &FILES,
            Self::Brief => FILES.split_at(4).0,
        }
    }

    /// Whether the namespace is left alone for a time before.
    pub fn takes_rest(self) -> bool {
        self == Self::Whole
    }
}

/// The protocols of which it is known what they leave behind: nothing without a socket, or a packet that is counted. Others come with modules
/// that anybody may have loaded by asking for such a socket (socket(2)).
const KNOWN: [&str; 19] = [
    "ALG",
    "MPTCP",
    "MPTCPv6",
    "NETLINK",
    "PACKET",
    "PING",
    "PINGv6",
    "RAW",
    "RAWv6",
    "TCP",
    "TCPv6",
    "UDP",
    "UDP-Lite",
    "UDPLITEv6",
    "UDPv6",
    "UNIX",
    "UNIX-STREAM",
    "AF_VSOCK",
    "XDP",
];

/// How long a namespace rests before it is looked at: what a process does as its last is counted later. A multicast group that it joined and left
/// is reported within two ticks of the kernel's clock (net/ipv4/igmp.c, igmp_ifc_event; net/ipv6/mcast.c, mld_ifc_event), 20 ms with the longest; a
/// socket is freed after an RCU grace period.
const REST: Duration = Duration::from_millis(60);

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
    come_back(home.as_fd(), libc::CLONE_NEWNET);
    done
}

/// This thread's network namespace.
///
/// # Errors
/// What open(2) answers.
pub fn open() -> sys_fs::Sys<OwnedFd> {
    sys_fs::open(sys_fs::CWD, c"/proc/thread-self/ns/net", libc::O_RDONLY, 0).map(own)
}

/// Looks at network namespaces.
#[derive(Debug)]
pub struct Inspector {
    /// Room for what the kernel says: the longest is 5 KB.
    room: Vec<u8>,
}

impl Inspector {
    /// One for the thread that uses it.
    pub fn new() -> Self {
        Self { room: vec![0; 16 << 10] }
    }

    /// A number for what the `files` of a namespace but the first say, which any use of it changes.
    fn see_use(&mut self, files: &Files) -> Result<u64> {
        let mut seen = DefaultHasher::new();
        for (path, file) in FILES.into_iter().zip(files).skip(1) {
            let Some(file) = file else { continue };
            let text = self.read(file).doing(|| format!("read {}", path.to_string_lossy()))?;
            if path == PROTOCOLS {
                require_known(&String::from_utf8_lossy(text))?;
            } else {
                text.hash(&mut seen);
            }
        }
        Ok(seen.finish())
    }

    /// Fails if there is a socket in a namespace, or a connection that is not forgotten.
    fn require_no_sockets(&mut self, files: &Files) -> Result<()> {
        let Some(Some(sockets)) = files.first() else {
            return Err(Error::new(Kind::WrongState, "the kernel does not count sockets"));
        };
        let text = self.read(sockets).doing(|| format!("read {}", SOCKETS.to_string_lossy()))?;
        match sockets_of(&String::from_utf8_lossy(text)) {
            Some(counted) => Err(Error::new(Kind::WrongState, format!("there are sockets: {counted}"))),
            None => Ok(()),
        }
    }

    /// A number for what is set up in the namespace that this thread is in. It opens a socket there, which is counted until it is freed.
    fn see_settings(&mut self) -> Result<u64> {
        let mut seen = DefaultHasher::new();
        let netlink = Netlink::open().doing(|| "open a netlink socket")?;
        for kind in DUMPS {
            kind.hash(&mut seen);
            let listed = netlink.dump(kind, &mut self.room, |one| one.hash(&mut seen));
            listed.doing(|| "list what there is in a network namespace")?;
        }
        Ok(seen.finish())
    }

    /// Both, of the namespace that this thread is in.
    fn see_new(&mut self, look: Look) -> Result<Seen> {
        Ok(Seen { of_use: self.see_use(&open_files(look)?)?, settings: Some(self.see_settings()?) })
    }

    /// What a file says now.
    fn read(&mut self, file: &OwnedFd) -> Result<&[u8], Errno> {
        /// The kernel ends an answer where the next line does not fit into a page, at the earliest (fs/seq_file.c), and no line here is longer than
        /// half of one, but for what comes as one piece.
        const HALF_A_PAGE: usize = 2048;
        let mut length = 0;
        while let Some(rest) = self.room.get_mut(length..).filter(|rest| !rest.is_empty()) {
            let more = sys_fs::read_at(file.as_raw_fd(), rest, length)?;
            length += more;
            if more < HALF_A_PAGE {
                return Ok(self.room.get(..length).unwrap_or_default());
            }
        }
        // It is longer than it can be.
        Err(Errno::EFBIG)
    }
}

/// The first of the [`FILES`] of a namespace; `None` for a protocol that is missing, in this namespace as in others.
type Files = Vec<Option<OwnedFd>>;

/// Those of the namespace that this thread is in that a `look` takes.
fn open_files(look: Look) -> Result<Files> {
    let open = |path: &&CStr| match sys_fs::open(sys_fs::CWD, path, libc::O_RDONLY, 0) {
        Err(Errno::ENOENT) => Ok(None),
        opened => Ok(Some(own(opened.doing(|| format!("open {}", path.to_string_lossy()))?))),
    };
    look.files().iter().map(open).collect()
}

/// The first protocol that /proc/net/protocols lists of which it is not known what it leaves behind: where there is one, no network namespace is used
/// again that is looked at for everything. The figures there are those of the whole machine, or of sockets.
pub fn unknown_protocol(protocols: &str) -> Option<&str> {
    let mut names = protocols.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    names.find(|name| !KNOWN.contains(name))
}

fn require_known(protocols: &str) -> Result<()> {
    match unknown_protocol(protocols) {
        Some(name) => {
            Err(Error::new(Kind::WrongState, format!("it is not known what the protocol {name} leaves behind")))
        }
        None => Ok(()),
    }
}

/// The figures of sockstat that are those of the namespace and not 0: "TCP: inuse 1 orphan 0 tw 0 alloc 7 mem 3" has some of the whole machine
/// (net/ipv4/proc.c).
fn sockets_of(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let own =
        words.windows(2).filter(|pair| matches!(pair, ["used" | "inuse" | "tw" | "memory", count] if *count != "0"));
    let counted = own.map(|pair| pair.join(" ")).collect::<Vec<_>>().join(", ");
    (!counted.is_empty()).then_some(counted)
}

/// Numbers for what was to be seen of a namespace when it was new.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// What any use of it changes.
    of_use: u64,
    /// What is set up in it; unknown where another process has looked.
    settings: Option<u64>,
}

/// A network namespace.
#[derive(Debug)]
pub struct Network {
    namespace: OwnedFd,
    /// Nothing if nobody wanted to know.
    seen: Option<Seen>,
    /// Open since it was looked at for the first time.
    files: Option<Files>,
}

impl Network {
    /// A new one with its loopback device up, which can be inspected later by the `look` that is taken now, if one is. This thread comes back from
    /// it: the kernel may copy settings from where a namespace is made (net.core.devconf_inherit_init_net).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(look: Option<Look>) -> Result<Self> {
        elsewhere(None, || {
            let doing = || "set a new network namespace up";
            net::loopback_up().doing(doing)?;
            let namespace = open().doing(doing)?;
            // Without a look at it when it was new it is used once.
            let see = |look| {
                Inspector::new()
                    .see_new(look)
                    .inspect_err(|error| log::debug(|| format!("pool: not to be used again: {error}")))
            };
            Ok(Self { namespace, seen: look.and_then(|look| see(look).ok()), files: None })
        })
    }

    /// One that another process has made, as [`Network::seen`] says there.
    pub fn of(namespace: OwnedFd, seen: u64) -> Self {
        let seen = (seen != 0).then_some(Seen { of_use: seen, settings: None });
        Self { namespace, seen, files: None }
    }

    /// A number for what was to be seen of it when it was new; 0 if it was not looked at.
    pub fn seen(&self) -> u64 {
        self.seen.map_or(0, |seen| seen.of_use)
    }

    /// Fails if, after its container has ended and a [`Resting`] time if it takes one, there is anything in it that was not there when it was new, as
    /// far as the `look` goes that was taken then.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn require_unused(&mut self, inspector: &mut Inspector, look: Look) -> Result<()> {
        let files = match &mut self.files {
            Some(files) => files,
            none => none.insert(elsewhere(Some(&self.namespace), || open_files(look))?),
        };
        inspector.require_no_sockets(files)?;
        let seen = inspector.see_use(files)?;
        if self.seen.is_some_and(|before| before.of_use == seen) {
            return Ok(());
        }
        Err(Error::new(Kind::WrongState, format!("{} has been used", self.name()?)))
    }

    /// Fails if anything is set up in it otherwise than when it was new.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn require_unchanged(&self, inspector: &mut Inspector) -> Result<()> {
        let settings = elsewhere(Some(&self.namespace), || inspector.see_settings())?;
        if self.seen.is_some_and(|before| before.settings == Some(settings)) {
            return Ok(());
        }
        Err(Error::new(Kind::WrongState, format!("{} has been changed", self.name()?)))
    }

    /// Fails if anybody is in it, or may come back to it, that can be seen from here.
    ///
    /// # Errors
    /// Who that is.
    pub fn require_alone(&self) -> Result<()> {
        let name = self.name()?;
        let wrong = |what: String| Err(Error::new(Kind::WrongState, what));
        if let Some(pid) = who_is_in(&name) {
            return wrong(format!("process {pid} is in {name}"));
        }
        let file = "/proc/self/mountinfo";
        if fs::read_to_string(file).doing(|| format!("read {file}"))?.contains(&format!(" {name} ")) {
            return wrong(format!("{name} is mounted"));
        }
        Ok(())
    }

    fn name(&self) -> Result<String> {
        let inode = fstat(&self.namespace).doing(|| "look at a network namespace")?.st_ino;
        Ok(format!("net:[{inode}]"))
    }
}

/// Things that rest before they are looked at ([`REST`]), the first to come first.
#[derive(Debug)]
pub struct Resting<T>(VecDeque<(Instant, T)>);

impl<T> Resting<T> {
    /// None.
    pub const fn new() -> Self {
        Self(VecDeque::new())
    }

    /// One that has just come.
    pub fn add(&mut self, one: T) {
        self.0.push_back((Instant::now(), one));
    }

    /// One that has rested.
    pub fn next(&mut self) -> Option<T> {
        if self.due()? > Duration::ZERO {
            return None;
        }
        self.0.pop_front().map(|(_, one)| one)
    }

    /// When there will be one.
    pub fn due(&self) -> Option<Duration> {
        self.0.front().map(|(since, _)| REST.saturating_sub(since.elapsed()))
    }
}

impl AsFd for Network {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
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
    Ok(has_devices || sets_parameters || may_administer(spec) || writes_parameters(spec, bundle)? || is_open(spec))
}

/// Whether a descriptor could leave the container by which others would see what becomes of its network namespace, a file below /proc/net say: it
/// has procfs or sysfs, and a Unix socket to somebody else may be had, in a directory that is not its own. (What it gets for stdin, stdout and stderr
/// is looked at when it gets it.)
fn is_open(spec: &Spec) -> bool {
    const OWN: [&str; 7] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"];
    let kinds = || spec.mounts().iter().flatten().map(|mount| mount.typ().as_deref().unwrap_or_default());
    let is_private = spec.root().as_ref().is_some_and(|root| root.readonly().unwrap_or(false))
        && !spec.mounts().iter().flatten().any(is_bind)
        && kinds().all(|kind| OWN.contains(&kind));
    !is_private && (kinds().any(|kind| matches!(kind, "proc" | "sysfs")) || spec.mounts().iter().flatten().any(is_bind))
}

fn may_administer(spec: &Spec) -> bool {
    let rights = [Capability::NetAdmin, Capability::SysAdmin, Capability::SysModule, Capability::Bpf];
    spec.process().as_ref().is_some_and(|process| quiet::may_have(process, &rights))
}

/// Whether there may be a writable /proc/sys in the container: root there may write the parameters of its network namespace
/// without any capability (net/sysctl_net.c, net_ctl_permissions).
fn writes_parameters(spec: &Spec, bundle: &Path) -> Result<bool> {
    let read_only = spec.linux().as_ref().and_then(|linux| linux.readonly_paths().as_deref()).unwrap_or_default();
    for mount in spec.mounts().iter().flatten() {
        let is_recursive = || mount.options().iter().flatten().any(|option| option == "rbind");
        let is_open = match (mount.typ().as_deref(), mount.source()) {
            // What is mounted below its source is not known.
            _ if is_recursive() => true,
            (_, Some(source)) if is_bind(mount) => is_procfs(&bundle.join(source))?,
            (Some("proc"), _) => {
                let parameters = mount.destination().join("sys");
                !is_read_only(mount) && !read_only.iter().any(|path| Path::new(path) == parameters)
            }
            // Some files of a device ask for no capability (net/core/net-sysfs.c, byte_queue_limits).
            (Some("sysfs"), _) => !is_read_only(mount),
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

/// Whether a mount is read-only: of two options that contradict each other the last counts.
pub fn is_read_only(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    options.iter().rfind(|option| matches!(option.as_str(), "ro" | "rw")).is_some_and(|option| option == "ro")
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
        let text = "sockets: used 3\nTCP: inuse 1 orphan 4 tw 2 alloc 7 mem 9\nFRAG: inuse 0 memory 5\n";
        assert_eq!(sockets_of(text).as_deref(), Some("used 3, inuse 1, tw 2, memory 5"));
        let text = "sockets: used 0\nTCP: inuse 0 orphan 4 tw 0 alloc 7 mem 9\nFRAG: inuse 0 memory 0\n";
        assert_eq!(sockets_of(text), None);
    }

    #[test]
    fn a_protocol_that_is_not_known_is_not_trusted() {
        let head = "protocol  size sockets  memory press\n";
        assert!(require_known(&format!("{head}TCP       2560      5   17   no\nUNIX 1 2 3\n")).is_ok());
        let error = require_known(&format!("{head}TCP       2560      5   17   no\nRXRPC 1 2 3\n")).unwrap_err();
        assert!(error.to_string().contains("RXRPC"), "{error}");
    }
}
