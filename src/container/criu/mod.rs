//! Talking to CRIU (criu.org): `criu swrk` is started for one request and answers over a socket of packets.
//!
//! ```text
//! runtime ─ request ─▶ criu ─ notification ─▶ runtime ─ answer ─▶ criu … ─ response ─▶ runtime
//! ```
//!
//! The command line of CRIU would do, were it not for what happens while it works: it tells of the restored init before
//! that goes on, and hands over its terminal. docs/checkpoint.md says why the messages are written here.

pub mod rpc;
mod wire;

use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::sys::{fs as sys_fs, own, process, socket};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use oci_spec::runtime::Spec;
use rpc::{CgroupMode, Features, NetworkLock, Notice, Options, Response, Switch, Task};
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use wire::Message;

/// The oldest CRIU that will do: pid namespaces by path, the v2 freezer and the notification of a ready page server.
const OLDEST: i64 = 31_500;
/// The longest message that CRIU sends.
const MESSAGE_BYTES: usize = 16 * 1024;
/// The annotation that names a file with options of CRIU; an empty one means none.
const CONFIG_ANNOTATION: &str = "org.criu.config";
/// Such files for all containers. The second is runc's, for those who have it.
const CONFIGS: [&str; 2] = ["/etc/criu/microrun.conf", "/etc/criu/runc.conf"];
/// Where the links of a container's stdio are kept among the images, as runc keeps them.
const DESCRIPTORS: &str = "descriptors.json";

/// What dump and restore have in common on the command line.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    /// --image-path
    pub images: PathBuf,
    /// --work-path
    pub work: Option<PathBuf>,
    /// --manage-cgroups-mode
    pub cgroup_mode: CgroupMode,
    /// --network-lock
    pub network_lock: Option<NetworkLock>,
    /// Switches that CRIU has as well.
    pub switches: Vec<Switch>,
}

impl Choices {
    /// Whether `switch` is on.
    pub fn has(&self, switch: Switch) -> bool {
        self.switches.contains(&switch)
    }

    /// The directory of the log.
    fn log_directory(&self) -> &Path {
        self.work.as_deref().unwrap_or(&self.images)
    }
}

/// The directories of a request, opened.
#[derive(Debug)]
pub struct Directories {
    images: File,
    work: Option<File>,
    log: PathBuf,
}

impl Directories {
    /// Opens those of `choices`, and makes that of the log if it is missing. The log is called `log`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(choices: &Choices, log: &str) -> Result<Self> {
        let images = open_directory("--image-path", &choices.images)?;
        let work = choices.work.as_deref().map(|path| {
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            }
            .doing(|| format!("--work-path: make the directory {}", path.display()))?;
            open_directory("--work-path", path)
        });
        Ok(Self { images, work: work.transpose()?, log: choices.log_directory().join(log) })
    }

    /// The options that follow from `choices` and these directories, for a container that has a `terminal` of its own or not.
    pub fn options<'a>(&'a self, choices: &Choices, root: &'a Path, terminal: bool) -> Options<'a> {
        let always = [Switch::ManageCgroups, Switch::NotifyScripts];
        // A terminal is either the container's, whose master somebody has, or its caller's. CRIU does not tell the two apart.
        let orphans = (terminal || !choices.has(Switch::ShellJob)).then_some(Switch::OrphanTerminals);
        Options {
            images: self.images.as_raw_fd(),
            work: self.work.as_ref().map(AsRawFd::as_raw_fd),
            log: self.log.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
            root: Some(root),
            cgroup_mode: choices.cgroup_mode,
            network_lock: choices.network_lock,
            // Who has a network namespace made for a container sets it up; it is not to be saved.
            empty_namespaces: libc::CLONE_NEWNET,
            switches: always.into_iter().chain(orphans).chain(choices.switches.iter().copied()).collect(),
            ..Options::default()
        }
    }

    /// The error of a request that failed: what CRIU's log says of it, and where that is.
    pub fn failure(&self, task: Task, response: &Response) -> Error {
        let why = match first_error(&self.log) {
            Some(line) => line,
            None if !response.message.is_empty() => response.message.clone(),
            None => "it did not say why".to_owned(),
        };
        let problem =
            format!("criu failed: type {} errno {}: {why}: see {}", task.name(), response.errno, self.log.display());
        Error::new(Kind::System, problem)
    }
}

fn open_directory(flag: &str, path: &Path) -> Result<File> {
    let file = File::open(path).doing(|| format!("{flag}: open {}", path.display()))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(file);
    }
    Err(Error::system(format!("{flag}: open {}", path.display()), Errno::ENOTDIR))
}

/// What CRIU calls an error and goes on from.
const HARMLESS: &str = "RLIMIT_NOFILE";

/// The first error in CRIU's log, which is the cause of those that follow, without time and process.
fn first_error(log: &Path) -> Option<String> {
    let lines = BufReader::new(File::open(log).ok()?).split(b'\n').map_while(io::Result::ok);
    let errors = lines.filter_map(|line| {
        let line = String::from_utf8_lossy(&line).into_owned();
        line.find("Error (").map(|at| line[at..].trim_end().to_owned())
    });
    let mut errors = errors.filter(|line| !line.contains(HARMLESS));
    errors.next()
}

/// The file with more options of CRIU for a container with these annotations.
pub fn config<'a>(mut annotation: impl FnMut(&str) -> Option<&'a String>) -> Option<PathBuf> {
    match annotation(CONFIG_ANNOTATION) {
        Some(path) => Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty()),
        None => CONFIGS.iter().map(PathBuf::from).find(|path| path.exists()),
    }
}

/// Whether a container is given a terminal.
pub fn has_terminal(spec: &Spec) -> bool {
    spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false)
}

/// The program by which CRIU locks connections, if it is not to do so by nftables.
const IPTABLES: &str = "iptables-restore";
/// The first CRIU that can do so by nftables.
const HAS_NFTABLES: i64 = 31_600;

/// How CRIU, of this `version`, is to lock the connections of a network namespace, if nobody says: with nftables where there is no
/// iptables, which it would take.
pub fn network_lock(version: i64) -> Option<NetworkLock> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_iptables = std::env::split_paths(&path).any(|directory| directory.join(IPTABLES).exists());
    (version >= HAS_NFTABLES && !has_iptables).then_some(NetworkLock::Nftables)
}

/// The version of the CRIU that is installed.
///
/// # Errors
/// There is none, or one that is too old.
pub fn require_version() -> Result<i64> {
    let mut session = Session::start(quiet)?;
    let version = session.call(&rpc::request(Task::Version, None), Task::Version, refuse)?.version;
    log::debug(|| format!("CRIU's version is {version}"));
    if version < OLDEST {
        let problem = format!("CRIU version {version} must be {OLDEST} or higher: install a newer one");
        return Err(Error::new(Kind::System, problem));
    }
    Ok(version)
}

/// Fails unless CRIU and the kernel have `wanted`.
///
/// # Errors
/// What is missing.
pub fn require_features(wanted: Features) -> Result<()> {
    let mut session = Session::start(quiet)?;
    let found = session.call(&rpc::request_features(wanted), Task::Features, refuse)?.features;
    let missing = if wanted.memory_tracking && !found.memory_tracking {
        "MemTrack, which --pre-dump needs (a kernel with CONFIG_MEM_SOFT_DIRTY)"
    } else if wanted.lazy_pages && !found.lazy_pages {
        "LazyPages, which --lazy-pages needs (a kernel with CONFIG_USERFAULTFD)"
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::System, format!("criu is missing features: {missing}")))
}

/// Nothing of ours is CRIU's.
pub fn quiet(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
}

/// For requests during which CRIU has nothing to tell.
fn refuse(notice: &Notice, _: Option<OwnedFd>) -> Result<()> {
    Err(Error::new(Kind::System, format!("criu tells of {:?}, which nobody waits for", notice.script)))
}

/// A CRIU that works for us. Dropping it waits for its end, which comes when the socket is closed: one that was killed
/// would leave processes as it just has them.
#[derive(Debug)]
pub struct Session {
    child: Child,
    socket: Option<OwnedFd>,
}

impl Session {
    /// Starts `criu swrk`; `configure` says what else it gets.
    ///
    /// # Errors
    /// There is no CRIU.
    pub fn start(configure: impl FnOnce(&mut Command)) -> Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .doing(|| "make a socket pair for criu")?;
        let number = theirs.as_raw_fd();
        let mut command = Command::new("criu");
        command.arg("swrk").arg(number.to_string());
        configure(&mut command);
        process::before_exec(&mut command, move || sys_fs::set_cloexec(number, false));
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::new(Kind::System, "exec: \"criu\": executable file not found in $PATH: install CRIU")
            }
            _ => Error::io("start criu", &error),
        })?;
        Ok(Self { child, socket: Some(ours) })
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Sends `request` and returns the response to it, a success or not. `notify` is told of what happens meanwhile; when it fails,
    /// CRIU is told to give up.
    ///
    /// # Errors
    /// That of `notify`, or a CRIU that ended or is not understood.
    pub fn exchange(
        &mut self,
        request: &Message,
        task: Task,
        mut notify: impl FnMut(&Notice, Option<OwnedFd>) -> Result<()>,
    ) -> Result<Response> {
        self.send(request)?;
        let mut failed = None;
        loop {
            let received = self.receive();
            let (response, fd) = match (received, failed) {
                (Err(_), Some(error)) => return Err(error),
                (received, error) => {
                    failed = error;
                    received?
                }
            };
            let Some(notice) = &response.notice else {
                return match failed {
                    Some(error) => Err(error),
                    None if response.success && !response.answers(task) => Err(not_understood()),
                    None => Ok(response),
                };
            };
            log::debug(|| format!("notify: {}", notice.script));
            if failed.is_none() {
                failed = notify(notice, fd).err();
            }
            self.send(&rpc::answer(failed.is_none()))?;
        }
    }

    /// As [`Session::exchange`], for a request that must succeed and has no log.
    fn call(
        &mut self,
        request: &Message,
        task: Task,
        notify: impl FnMut(&Notice, Option<OwnedFd>) -> Result<()>,
    ) -> Result<Response> {
        let response = self.exchange(request, task, notify)?;
        if response.success {
            return Ok(response);
        }
        let problem = format!("criu failed: type {} errno {}: see `criu check`", task.name(), response.errno);
        Err(Error::new(Kind::System, problem))
    }

    /// Lets it end, and waits for that; whether it ended well.
    ///
    /// # Errors
    /// What wait4(2) answers.
    pub fn finish(mut self) -> Result<bool> {
        self.socket = None;
        Ok(self.child.wait().doing(|| "wait for criu")?.success())
    }

    fn socket(&self) -> i32 {
        self.socket.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    fn send(&self, message: &Message) -> Result<()> {
        let sent = send(self.socket(), message.as_bytes(), MsgFlags::MSG_NOSIGNAL);
        sent.map(drop).doing(|| "send a request to criu")
    }

    fn receive(&self) -> Result<(Response, Option<OwnedFd>)> {
        let mut buffer = vec![0u8; MESSAGE_BYTES];
        let (count, fd) = match socket::receive_fd(self.socket(), &mut buffer) {
            Ok((0, _)) | Err(Errno::ECONNRESET) => {
                let problem = "criu ended in the middle of its work: see its log, and `criu check`";
                return Err(Error::new(Kind::System, problem));
            }
            received => received.doing(|| "read from criu")?,
        };
        let fd = fd.map(own);
        let response = buffer.get(..count).filter(|_| count < MESSAGE_BYTES).and_then(Response::read);
        Ok((response.ok_or_else(not_understood)?, fd))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.socket = None;
        let _ = self.child.wait();
    }
}

fn not_understood() -> Error {
    Error::new(Kind::System, "criu's answer is not understood: see whether its version is a supported one")
}

/// Writes the names of a container's stdio among the images.
///
/// # Errors
/// What the file system says.
pub fn write_descriptors(images: &Path, names: &[String]) -> Result<()> {
    let path = images.join(DESCRIPTORS);
    let text = serde_json::to_string(names)
        .map_err(|error| Error::new(Kind::System, format!("write {}: {error}", path.display())))?;
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .doing(|| format!("--image-path: write {}", path.display()))
}

/// The names of a container's stdio as they were when it was dumped; none where it is not known.
///
/// # Errors
/// A file that is missing or not what it should be.
pub fn read_descriptors(images: &Path) -> Result<Vec<String>> {
    let path = images.join(DESCRIPTORS);
    let text = fs::read(&path).doing(|| format!("--image-path: read {}", path.display()))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::new(Kind::Config, format!("--image-path: {} is damaged: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_a_log_is_the_cause() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("dump.log");
        fs::write(&log, "(00.1) Dumping\n(00.2)     12: Error (criu/mount.c:1): mnt: no\n(00.3) Error (b): then\n")
            .unwrap();
        assert_eq!(first_error(&log).as_deref(), Some("Error (criu/mount.c:1): mnt: no"));
        assert_eq!(first_error(&directory.path().join("none")), None);
    }

    #[test]
    fn the_annotation_decides_about_more_options() {
        let (none, path) = (String::new(), "/x".to_owned());
        assert_eq!(config(|_| Some(&none)), None);
        assert_eq!(config(|_| Some(&path)), Some("/x".into()));
    }

    #[test]
    fn a_file_is_no_directory_of_images() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let choices = Choices { images: file.path().to_owned(), ..Choices::default() };
        let problem = Directories::open(&choices, "dump.log").unwrap_err().to_string();
        assert!(problem.starts_with("--image-path: open ") && problem.ends_with("not a directory"), "{problem}");
    }
}
