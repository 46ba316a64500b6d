//! CRIU's messages (criu.org/RPC, images/rpc.proto): what is asked, and what comes back. The numbers are the protocol's.

use super::wire::{Message, Value, fields};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

/// What CRIU is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Save a tree of processes.
    Dump = 1,
    /// Bring one back.
    Restore = 2,
    /// Save the memory of one, as the start of a later dump.
    PreDump = 4,
    /// Tell what this CRIU and kernel can do.
    Features = 9,
    /// Tell its version.
    Version = 10,
}

impl Task {
    /// The protocol's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dump => "DUMP",
            Self::Restore => "RESTORE",
            Self::PreDump => "PRE_DUMP",
            Self::Features => "FEATURE_CHECK",
            Self::Version => "VERSION",
        }
    }
}

/// The type of messages that come while CRIU works, and of their answers.
const NOTIFY: i64 = 6;

/// --manage-cgroups-mode
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupMode {
    /// The processes stay in the cgroups that they are restored in.
    Ignore = 0,
    /// Cgroups that are not there are made, with their properties.
    Soft = 3,
    /// Cgroups are made or used, and have the saved properties.
    Full = 4,
    /// Cgroups are made, and must not have been there.
    Strict = 5,
    /// What CRIU takes for best.
    #[default]
    Default = 6,
}

impl CgroupMode {
    /// The mode of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "soft" => Some(Self::Soft),
            "full" => Some(Self::Full),
            "strict" => Some(Self::Strict),
            "ignore" => Some(Self::Ignore),
            _ => None,
        }
    }
}

/// --network-lock: how CRIU keeps packets of open connections away while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // CRIU's names: criu(8)
pub enum NetworkLock {
    Iptables = 1,
    Nftables = 2,
    Skip = 3,
}

impl NetworkLock {
    /// The way of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "iptables" => Some(Self::Iptables),
            "nftables" => Some(Self::Nftables),
            "skip" => Some(Self::Skip),
            _ => None,
        }
    }
}

/// Options of a dump and of a restore. What is not set is not sent.
#[derive(Debug, Default)]
pub struct Options<'a> {
    /// The directory of images, by its number here.
    pub images: RawFd,
    /// The directory of the log.
    pub work: Option<RawFd>,
    /// The log, a name in it.
    pub log: &'a str,
    /// The process at the top of the tree.
    pub pid: Option<i32>,
    /// The root directory.
    pub root: Option<&'a Path>,
    /// The images of a dump before, relative to those of this one.
    pub parent: Option<&'a Path>,
    /// The page server.
    pub page_server: Option<&'a (String, u16)>,
    /// Mounts from outside: the name and, on restore, the source of each; on dump its place and the name.
    pub mounts: Vec<(PathBuf, PathBuf)>,
    /// The cgroup to come to for each controller, "" for v2.
    pub cgroups: Vec<(String, String)>,
    /// Descriptors of the CRIU process in the place of what is named.
    pub inherited: Vec<(String, RawFd)>,
    /// What is not to be saved, by name.
    pub external: Vec<String>,
    /// Namespaces to join: kind and path.
    pub joined: Vec<(&'static str, &'a Path)>,
    /// Namespaces whose content is not looked at, `CLONE_NEW*`.
    pub empty_namespaces: i32,
    /// How cgroups are restored.
    pub cgroup_mode: CgroupMode,
    /// The freezer cgroup.
    pub freezer: Option<&'a Path>,
    /// How connections are locked, if not with iptables.
    pub network_lock: Option<NetworkLock>,
    /// More options of CRIU, in a file.
    pub config: Option<&'a Path>,
    /// --lsm-profile
    pub lsm_profile: Option<&'a str>,
    /// --lsm-mount-context
    pub lsm_mount_context: Option<&'a str>,
    /// Switches that are on.
    pub switches: Vec<Switch>,
}

/// A switch of [`Options`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // CRIU's names: criu(8)
pub enum Switch {
    LeaveRunning = 3,
    ExternalSockets = 4,
    TcpEstablished = 5,
    EvasiveDevices = 6,
    ShellJob = 7,
    FileLocks = 8,
    NotifyScripts = 12,
    TrackMemory = 15,
    AutoDedup = 16,
    LinkRemap = 18,
    ManageCgroups = 24,
    RestoreAsSibling = 26,
    TcpSkipInFlight = 46,
    LazyPages = 48,
    OrphanTerminals = 50,
    TcpClose = 52,
}

/// How much CRIU writes to its log: all but what its own developers need.
const LOG_LEVEL: i64 = 4;

impl Options<'_> {
    fn message(&self) -> Message {
        let mut message = Message::default();
        message.number(1, self.images.into());
        for switch in &self.switches {
            message.number(*switch as u32, 1);
        }
        message.number(9, LOG_LEVEL).bytes(10, self.log.as_bytes());
        let mut number = |field, value: Option<i64>| {
            if let Some(value) = value {
                message.number(field, value);
            }
        };
        number(2, self.pid.map(i64::from));
        number(17, self.work.map(i64::from));
        number(34, Some(self.cgroup_mode as i64));
        number(38, Some(self.empty_namespaces.into()));
        number(64, self.network_lock.map(|lock| lock as i64));
        if let Some((address, port)) = self.page_server {
            message.message(11, Message::default().bytes(1, address.as_bytes()).number(2, (*port).into()));
        }
        for (field, path) in [(13, self.root), (14, self.parent), (44, self.freezer), (51, self.config)] {
            if let Some(path) = path {
                message.path(field, path);
            }
        }
        for (field, text) in [(53, self.lsm_profile), (63, self.lsm_mount_context)] {
            if let Some(text) = text {
                message.bytes(field, text.as_bytes());
            }
        }
        self.lists(&mut message);
        message
    }

    fn lists(&self, message: &mut Message) {
        for (key, value) in &self.mounts {
            message.message(23, Message::default().path(1, key).path(2, value));
        }
        for (controller, path) in &self.cgroups {
            message.message(25, Message::default().bytes(1, controller.as_bytes()).bytes(2, path.as_bytes()));
        }
        for (key, fd) in &self.inherited {
            message.message(27, Message::default().bytes(1, key.as_bytes()).number(2, (*fd).into()));
        }
        for external in &self.external {
            message.bytes(37, external.as_bytes());
        }
        for (kind, path) in &self.joined {
            message.message(39, Message::default().bytes(1, kind.as_bytes()).path(2, path));
        }
    }
}

/// A request.
pub fn request(task: Task, options: Option<&Options<'_>>) -> Message {
    let mut message = Message::default();
    message.number(1, task as i64);
    if let Some(options) = options {
        message.message(2, &options.message());
    }
    message
}

/// A request that asks whether the features are there.
pub fn request_features(features: Features) -> Message {
    let mut asked = Message::default();
    asked.number(1, features.memory_tracking.into()).number(2, features.lazy_pages.into());
    let mut message = request(Task::Features, None);
    message.message(5, &asked);
    message
}

/// The answer to a notification.
pub fn answer(success: bool) -> Message {
    let mut message = Message::default();
    message.number(1, NOTIFY).number(3, success.into());
    message
}

/// What CRIU and the kernel can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// Tell which pages have been written to.
    pub memory_tracking: bool,
    /// Bring pages when they are asked for.
    pub lazy_pages: bool,
}

/// What CRIU says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// The type of the request that it answers; of a notification, 6.
    kind: i64,
    /// Whether it worked.
    pub success: bool,
    /// The notification.
    pub notice: Option<Notice>,
    /// Why it did not work, as an errno; 0 if that is not known.
    pub errno: i32,
    /// Why, in words.
    pub message: String,
    /// The features that were asked for.
    pub features: Features,
    /// Ten thousands for the major version, hundreds for the minor one.
    pub version: i64,
}

/// What CRIU says while it works.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notice {
    /// What happens now.
    pub script: String,
    /// The process that it happens to, 0 if it is not told.
    pub pid: i32,
}

impl Response {
    /// Reads a message; `None` if it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut response = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, Value::Number(kind)) => response.kind = kind,
                (2, Value::Number(success)) => response.success = success != 0,
                (5, Value::Bytes(notice)) => response.notice = Some(Notice::read(notice)?),
                (7, Value::Number(errno)) => response.errno = errno as i32,
                (8, Value::Bytes(features)) => response.features = Features::read(features)?,
                (9, Value::Bytes(message)) => response.message = String::from_utf8_lossy(message).into_owned(),
                (10, Value::Bytes(version)) => response.version = version_number(version)?,
                _ => {}
            }
        }
        Some(response)
    }

    /// Whether it answers `task`.
    pub fn answers(&self, task: Task) -> bool {
        self.kind == task as i64
    }
}

impl Notice {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut notice = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(script)) => notice.script = String::from_utf8_lossy(script).into_owned(),
                (2, Value::Number(pid)) => notice.pid = pid as i32,
                _ => {}
            }
        }
        Some(notice)
    }
}

impl Features {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut features = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, Value::Number(has)) => features.memory_tracking = has != 0,
                (2, Value::Number(has)) => features.lazy_pages = has != 0,
                _ => {}
            }
        }
        Some(features)
    }
}

/// 31701 for 3.17.1. What was built between two versions has what the next one has, and counts as that.
fn version_number(bytes: &[u8]) -> Option<i64> {
    let (mut version, mut built_between) = (0i64, false);
    for field in fields(bytes) {
        match field? {
            (1, Value::Number(major)) => version = version.saturating_add(major.saturating_mul(10_000)),
            (2, Value::Number(minor)) => version = version.saturating_add(minor.saturating_mul(100)),
            (4, Value::Number(sub_level)) => version = version.saturating_add(sub_level),
            (3, Value::Bytes(commit)) => built_between = !commit.is_empty(),
            _ => {}
        }
    }
    Some(if built_between { version - version % 100 + 100 } else { version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_read() {
        let mut notice = Message::default();
        notice.bytes(1, b"post-restore").number(2, 77);
        let mut message = Message::default();
        message.number(1, NOTIFY).number(2, 1).message(5, &notice).number(99, 1);
        let response = Response::read(message.as_bytes()).unwrap();
        assert_eq!(response.notice, Some(Notice { script: "post-restore".into(), pid: 77 }));
        assert!(response.success && !response.answers(Task::Restore));
        assert_eq!(Response::read(b"\xff"), None);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let number = |major, minor, sub_level, commit: &str| {
            let mut version = Message::default();
            version.number(1, major).number(2, minor).number(4, sub_level).bytes(3, commit.as_bytes());
            version_number(version.as_bytes())
        };
        assert_eq!(number(3, 17, 1, ""), Some(31701));
        assert_eq!(number(4, 2, 0, "v4.2-5-gabc"), Some(40300));
        assert_eq!(number(i64::MAX, i64::MAX, 0, ""), Some(i64::MAX));
    }

    #[test]
    fn options_are_numbered_as_the_protocol_has_them() {
        let options = Options {
            images: 9,
            pid: Some(5),
            switches: vec![Switch::LeaveRunning],
            mounts: vec![("/a".into(), "/b".into())],
            ..Options::default()
        };
        let message = options.message();
        let read: Vec<_> = fields(message.as_bytes()).flatten().collect();
        assert!(read.contains(&(1, Value::Number(9))) && read.contains(&(2, Value::Number(5))));
        assert!(read.contains(&(3, Value::Number(1))));
        assert!(read.contains(&(23, Value::Bytes(b"\x0a\x02/a\x12\x02/b"))));
        assert!(!read.iter().any(|(field, _)| matches!(field, 17 | 11 | 14 | 44 | 51)));
    }
}
