//! A container on disk: `<root>/<id>/`.
//!
//! | file | written | holds |
//! | --- | --- | --- |
//! | `state.json` | before anything else is made | all that `delete --force` needs to find the rest |
//! | `init` | right after the clone | pid and start time of init, as a symbolic link's text |
//! | `config.json` | while init sets itself up | the configuration, for `exec` and the later hooks |
//! | `visited` | by `exec`, in a network namespace of a pool | nothing: it is not to be used again |
//! | `start.sock` | by `create`, removed by `start` | where a created init waits |
//!
//! mkdir(2) decides who creates an id. Every file that holds anything is written beside its name and renamed, so a reader
//! finds it whole or not at all. Whoever makes or removes the container holds a [`Lock`] of the directory meanwhile; no lock is shared by
//! two containers.

use super::resctrl;
use crate::cgroup::Handle;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::{fs as sys_fs, own, park, process};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::fstat;
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, unlinkat};
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// runtime-spec's version of what [`Report`] says.
pub const OCI_VERSION: &str = "1.3.0";

/// The most bytes an id may have, as in runc.
const MAX_ID: usize = 1024;

/// The file that says that others have been in the container.
const VISITED: &str = "visited";

/// Has the container's cgroups, if there are more of them than there were.
const JOINED: &str = "joined";

/// What state.json holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The container's id.
    pub id: String,
    /// `ociVersion` of its config.json.
    pub oci_version: String,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root directory, absolute.
    pub rootfs: PathBuf,
    /// When it was created: RFC 3339, UTC, nanoseconds.
    pub created: String,
    /// The user who created it.
    pub owner: u32,
    /// `annotations`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Its cgroups.
    pub cgroup: Handle,
    /// Its group in the resctrl file system, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resctrl: Option<resctrl::Group>,
    /// Whether it was left the caller's session keyring.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_new_keyring: bool,
    /// Whether its pid namespace is not its own, so that its processes outlive init.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares_pids: bool,
    /// The names of its stdio, if it was there when the container was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdio: Option<Vec<String>>,
    /// Whether it was restored into a time namespace that its config.json does not mention.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_time: bool,
    /// Whether its network namespace is a pool's, which may use it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub network_of_pool: bool,
    /// The limits in force, once `update` has changed those of its config.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<LinuxResources>,
}

/// A process that is told from a later one with the same pid by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// The pid.
    pub pid: i32,
    /// Field 22 of proc_pid_stat(5), in clock ticks since boot.
    pub start_time: u64,
}

/// The life cycle of runtime-spec runtime.md, "State", and runc's `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Somebody is creating it, or died while doing so.
    Creating,
    /// Init waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// Its processes are frozen, whether it has been started or not.
    Paused,
    /// Init is gone.
    Stopped,
}

impl Status {
    /// The name that engines know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// Where all containers are: `--root`.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store below `root`, which is made when the first container is.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the root if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(&self) -> Result<()> {
        let doing = || format!("create the state directory {}", self.root.display());
        fs::DirBuilder::new().recursive(true).mode(0o711).create(&self.root).doing(doing)
    }

    /// Takes the id: makes the container's directory, and locks it.
    ///
    /// # Errors
    /// An id that is malformed or taken, a root that cannot be written; somebody who deletes the container already.
    pub fn reserve(&self, id: &str) -> Result<(Entry, Lock)> {
        check_id(id)?;
        if id == CACHE {
            let problem =
                format!("container ID {id:?} is the name of the directory for compiled filters: choose another");
            return Err(Error::new(Kind::Usage, problem));
        }
        let path = self.root.join(id);
        let make = || fs::DirBuilder::new().mode(0o711).create(&path);
        let made = match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make()?;
                make()
            }
            made => made,
        };
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(taken(id)),
            made => {
                made.doing(|| format!("create the container's directory {}", path.display()))?;
                let entry = Entry { path };
                let lock = entry.lock_new()?;
                Ok((entry, lock))
            }
        }
    }

    /// The container `id`.
    ///
    /// # Errors
    /// An id that is malformed or that no container has.
    pub fn find(&self, id: &str) -> Result<Entry> {
        check_id(id)?;
        let path = self.root.join(id);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => Ok(Entry { path }),
            Ok(_) => Err(no_container(id)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(no_container(id)),
            Err(error) => Err(Error::io(format!("look at {}", path.display()), &error)),
        }
    }

    /// All containers, by id.
    ///
    /// # Errors
    /// A root that cannot be read. One that does not exist has no containers.
    pub fn all(&self) -> Result<Vec<Entry>> {
        let reading = || format!("read the state directory {}", self.root.display());
        let directory = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            directory => directory.doing(reading)?,
        };
        let mut entries = Vec::new();
        for entry in directory {
            let entry = entry.doing(reading)?;
            let named = entry.file_name().to_str().is_some_and(|name| check_id(name).is_ok());
            if named && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                entries.push(Entry { path: entry.path() });
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }
}

fn taken(id: &str) -> Error {
    Error::new(Kind::Exists, format!("container with given ID already exists: {id}: choose another or delete it"))
}

fn no_container(id: &str) -> Error {
    Error::new(Kind::NoContainer, format!("container does not exist: {id}"))
}

/// Where compiled filters are kept, below the state root.
pub(super) const CACHE: &str = ".seccomp";

/// Whether `id` may name a container: letters, digits, "_", "+", "-" and ".", as runc has it.
fn check_id(id: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'-' | b'.');
    let problem = match id {
        "" => "is empty",
        "." | ".." => "is a directory",
        _ if id.len() > MAX_ID => "is longer than 1024 bytes",
        _ if !id.bytes().all(allowed) => "has other characters than letters, digits, \"_\", \"+\", \"-\" and \".\"",
        _ => return Ok(()),
    };
    let shown: String = id.chars().take(64).collect();
    Err(Error::new(Kind::Usage, format!("invalid container ID format: {shown:?} {problem}: choose another")))
}

/// An id that no other container has: 64 random bits. From the kernel each time: the standard library's generators are copied
/// with the process that a pool clones to make sandboxes, and all copies would go on alike.
///
/// # Errors
/// A kernel without getrandom(2), or a filter that forbids it.
pub fn new_id() -> Result<String> {
    Ok(format!("{:016x}", process::random().doing(|| "make up an id")?))
}

/// The files that a container's directory has as a rule.
const USUAL: [&str; 3] = ["state.json", "init", "config.json"];

/// How long who has just made a container's directory waits for who came to lock it first. Such have nothing to wait for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a directory is emptied before it is given up: an `update` that does not know yet that the container is gone may
/// put its state.json there.
const REMOVALS: u32 = 10;

/// A container's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    path: PathBuf,
}

/// The right to make or remove a container, alone (flock(2) of its directory). The kernel takes it back when the last
/// process that has the descriptor closes it or ends: the one that locked and, up to its exec, the init that it cloned.
#[derive(Debug)]
pub struct Lock(OwnedFd);

/// What came of waiting for a [`Lock`].
#[derive(Debug)]
pub enum Locking {
    /// It is ours.
    Locked(Lock),
    /// Somebody else still has it.
    Busy,
    /// The container has been removed.
    Gone,
}

/// A file that is written, and waits to take the place of the one before. Dropped, it is removed.
#[derive(Debug)]
pub struct Staged {
    scratch: PathBuf,
    path: PathBuf,
    is_in_place: bool,
}

impl Staged {
    /// Puts it in its place. All that takes room has been done.
    ///
    /// # Errors
    /// What the file system says; ENOENT if the container has been removed, even if another has its name by now.
    pub fn commit(mut self) -> Result<()> {
        fs::rename(&self.scratch, &self.path).doing(|| format!("write {}", self.path.display()))?;
        self.is_in_place = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Once it is in its place, a file with that name is the next one's.
        if !self.is_in_place {
            // Who removes the container removes this as well.
            let _ = fs::remove_file(&self.scratch);
        }
    }
}

impl Lock {
    /// The right to the container of this locked directory, or to change this state.json; `None` if it was removed meanwhile.
    /// Another one may have its name by now, and is not locked.
    fn of(locked: OwnedFd) -> Result<Option<Self>, Errno> {
        // What is removed has no link left (rmdir(2), unlink(2), rename(2)).
        Ok((fstat(&locked)?.st_nlink > 0).then_some(Self(locked)))
    }

    /// The descriptor that holds it, to be handed to another process or table of descriptors.
    pub fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    /// The right that a descriptor from [`Lock::into_descriptor`] holds.
    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Gives the right back, for all who have the descriptor.
    pub fn release(self) {
        // It cannot fail for a descriptor that is open.
        let _ = sys_fs::lock(self.0.as_raw_fd(), libc::LOCK_UN);
    }
}

impl Entry {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Takes the container to `store`, where it gets the id `id`. Who has it locked keeps the lock.
    ///
    /// # Errors
    /// An id that is malformed or taken, a store that cannot be written or is on another file system.
    pub fn move_to(&self, store: &Store, id: &str) -> Result<Self> {
        check_id(id)?;
        let path = store.root.join(id);
        let doing = || format!("create the container's directory {}", path.display());
        let (from, to) = (sys_fs::c_path(&self.path).doing(doing)?, sys_fs::c_path(&path).doing(doing)?);
        let moved = match sys_fs::rename_new(&from, &to) {
            Err(Errno::ENOENT) => {
                store.make()?;
                sys_fs::rename_new(&from, &to)
            }
            moved => moved,
        };
        moved.doing(doing)?;
        Ok(Self { path })
    }

    /// Locks the container if nobody else has: `None` if somebody has, or if it is gone.
    ///
    /// # Errors
    /// What the file system says.
    pub fn try_lock(&self) -> Result<Option<Lock>> {
        let Some(directory) = self.open()? else { return Ok(None) };
        match sys_fs::lock(directory.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) {
            Ok(()) => Lock::of(directory),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno),
        }
        .doing(|| format!("lock {}", self.path.display()))
    }

    /// Locks it for who has made its directory at this moment.
    ///
    /// By now there may be another at its path: it was deleted, and somebody else made the same container. Of all who made one it belongs to who locks it
    /// first, while there is nothing in it.
    fn lock_new(&self) -> Result<Lock> {
        let locked = match self.try_lock() {
            // Who finds it before looks whether it is locked, or is about to delete it and sees that there is nothing.
            Ok(None) => self.lock_within(PATIENCE),
            locked => locked.map(|lock| lock.map_or(Locking::Gone, Locking::Locked)),
        };
        match locked {
            Ok(Locking::Locked(lock)) => match faccessat(&lock.0, "state.json", AccessFlags::F_OK, AtFlags::empty()) {
                Err(Errno::ENOENT) => Ok(lock),
                Ok(()) => Err(taken(self.id())),
                Err(errno) => Err(Error::system(format!("look at {}/state.json", self.path.display()), errno)),
            },
            // Who makes it, or runs it in the foreground.
            Ok(Locking::Busy) if self.path.join("state.json").exists() => Err(taken(self.id())),
            // What is there is somebody else's.
            Ok(Locking::Gone | Locking::Busy) => {
                Err(Error::new(Kind::WrongState, "the container is deleted while it is being created"))
            }
            Err(error) => {
                // If it is there, it is empty.
                let _ = fs::remove_dir(&self.path);
                Err(error)
            }
        }
    }

    /// Whether somebody makes or removes the container. Who else asks at the same moment is not taken for one.
    fn is_locked(&self) -> Result<bool> {
        let Some(directory) = self.open()? else { return Ok(true) };
        match sys_fs::lock(directory.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) {
            Ok(()) => Ok(false),
            Err(Errno::EAGAIN) => Ok(true),
            Err(errno) => Err(errno).doing(|| format!("lock {}", self.path.display())),
        }
    }

    /// What is recorded of the container, and where it is in its life.
    ///
    /// # Errors
    /// As [`Entry::load`] and [`Entry::status`].
    pub fn look(&self) -> Result<(State, Status, Option<Process>)> {
        let state = self.load()?;
        let (status, init) = self.status(Some(&state))?;
        if status == Status::Creating {
            // Or it is being removed, state.json first, and then says so.
            self.load()?;
        }
        Ok((state, status, init))
    }

    /// Locks the container as soon as nobody else has it locked.
    ///
    /// # Errors
    /// What the file system says.
    pub fn lock_within(&self, patience: Duration) -> Result<Locking> {
        let Some(directory) = self.open()? else { return Ok(Locking::Gone) };
        let (sender, receiver) = mpsc::channel();
        // flock(2) has no timeout. A thread that waits in vain ends with the process.
        let waiting = std::thread::Builder::new().spawn(move || {
            let locked = sys_fs::retry(|| sys_fs::lock(directory.as_raw_fd(), libc::LOCK_EX));
            // Nobody may be there any more to hear it.
            let _ = sender.send(locked.and_then(|()| Lock::of(directory)));
        });
        waiting.doing(|| format!("begin a thread that waits for {}", self.path.display()))?;
        match receiver.recv_timeout(patience) {
            Ok(locked) => {
                let lock = locked.doing(|| format!("lock {}", self.path.display()))?;
                Ok(lock.map_or(Locking::Gone, Locking::Locked))
            }
            Err(_) => Ok(Locking::Busy),
        }
    }

    /// The directory, for reading; `None` if it is gone.
    fn open(&self) -> Result<Option<OwnedFd>> {
        match fs::File::open(&self.path) {
            Ok(directory) => Ok(Some(directory.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("open {}", self.path.display()), &error)),
        }
    }

    /// Where a created init waits.
    pub fn start_socket(&self) -> PathBuf {
        self.path.join("start.sock")
    }

    /// Where the copy of config.json is.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.json")
    }

    /// Writes `data` to the file `name`, at once or not at all; nobody else writes it meanwhile.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, name: &str, data: &[u8]) -> Result<()> {
        self.draft(name, "new", data)?.0.commit()
    }

    /// As [`Entry::write`], for what many containers have alike and nobody changes: `last`, the file that was written for one of them, gets a name here
    /// as well (linkat(2)), unless it has none left or may get no more.
    ///
    /// # Errors
    /// What the file system says of a file of its own.
    pub fn write_alike(&self, name: &str, data: &[u8], last: &mut Option<OwnedFd>) -> Result<()> {
        let path = self.path.join(name);
        let link = |file: &OwnedFd| sys_fs::link(file.as_raw_fd(), &sys_fs::c_path(&path)?);
        if last.as_ref().is_some_and(|file| link(file).is_ok()) {
            return Ok(());
        }
        let (staged, file) = self.draft(name, "new", data)?;
        staged.commit()?;
        *last = Some(file.into());
        Ok(())
    }

    /// Writes what is to become the file `name`, beside it; whoever may do so at the same time has another `suffix`.
    fn draft(&self, name: &str, suffix: &str, data: &[u8]) -> Result<(Staged, fs::File)> {
        let (scratch, path) = (self.path.join(format!(".{name}.{suffix}")), self.path.join(name));
        let staged = Staged { scratch, path, is_in_place: false };
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged.scratch);
        let written = file.and_then(|mut file| file.write_all(data).map(|()| file));
        written.doing(|| format!("write {}", staged.path.display())).map(|file| (staged, file))
    }

    /// Writes state.json.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, state: &State) -> Result<()> {
        self.write("state.json", &self.json("state.json", state)?)
    }

    /// The text of the file `name`.
    fn json(&self, name: &str, value: &impl Serialize) -> Result<Vec<u8>> {
        serde_json::to_vec(value)
            .map_err(|error| Error::new(Kind::System, format!("write {}/{name}: {error}", self.path.display())))
    }

    /// Locks state.json for who is going to [`Entry::stage`] another: as soon as nobody else has it locked, who has it only
    /// for the time of a change. `None` if the container is gone.
    ///
    /// It is not the lock of the container, which a `run` in the foreground holds to the end.
    ///
    /// # Errors
    /// What the file system says.
    pub fn lock_state(&self) -> Result<Option<Lock>> {
        match self.lock_state_as(libc::LOCK_EX)? {
            Locking::Locked(lock) => Ok(Some(lock)),
            Locking::Gone | Locking::Busy => Ok(None),
        }
    }

    /// As [`Entry::lock_state`], if nobody else has it locked.
    ///
    /// # Errors
    /// What the file system says.
    pub fn try_lock_state(&self) -> Result<Locking> {
        self.lock_state_as(libc::LOCK_EX | libc::LOCK_NB)
    }

    fn lock_state_as(&self, how: i32) -> Result<Locking> {
        let path = self.path.join("state.json");
        let locking = || format!("lock {}", path.display());
        loop {
            let file: OwnedFd = match fs::File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Locking::Gone),
                file => file.doing(locking)?.into(),
            };
            match sys_fs::retry(|| sys_fs::lock(file.as_raw_fd(), how)) {
                Err(Errno::EAGAIN) => return Ok(Locking::Busy),
                locked => locked.doing(locking)?,
            }
            // Otherwise another file has taken its place meanwhile, or the container has been removed.
            if let Some(lock) = Lock::of(file).doing(locking)? {
                return Ok(Locking::Locked(lock));
            }
        }
    }

    /// Writes what is to become state.json, by who has [`Entry::lock_state`].
    ///
    /// # Errors
    /// What the file system says; then nothing is left of it.
    pub fn stage(&self, state: &State) -> Result<Staged> {
        Ok(self.draft("state.json", "staged", &self.json("state.json", state)?)?.0)
    }

    /// Reads state.json.
    ///
    /// # Errors
    /// A file that is missing, cut short or not ours: `delete --force` removes such a container.
    pub fn load(&self) -> Result<State> {
        let path = self.path.join("state.json");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = self.id();
                let problem = format!(
                    "container {id} does not exist yet, or not any more: it is being created or deleted, or somebody was \
                     killed while doing so: try again, or use `delete --force {id}`"
                );
                return Err(Error::new(Kind::WrongState, problem).with_errno(Errno::ENOENT));
            }
            text => text.doing(|| format!("read {}", path.display()))?,
        };
        serde_json::from_slice(&text).map_err(|error| {
            let problem = format!("{} is damaged ({error}): use `delete --force {}`", path.display(), self.id());
            Error::new(Kind::WrongState, problem)
        })
    }

    /// Records init.
    ///
    /// # Errors
    /// What the file system says.
    pub fn record(&self, init: Process) -> Result<()> {
        // The text of a symbolic link is written at once, by one system call.
        let path = self.path.join("init");
        symlink(format!("{} {}", init.pid, init.start_time), &path).doing(|| format!("write {}", path.display()))
    }

    /// The recorded init; `None` before there is one.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn init(&self) -> Result<Option<Process>> {
        let path = self.path.join("init");
        let text = match fs::read_link(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.doing(|| format!("read the symbolic link {}", path.display()))?,
        };
        let text = text.to_string_lossy();
        let mut numbers = text.split_whitespace();
        // To kill(2) the others are groups.
        let pid = numbers.next().and_then(|text| text.parse().ok()).filter(|pid| *pid > 0);
        let start_time = numbers.next().and_then(|text| text.parse().ok());
        Ok(pid.zip(start_time).map(|(pid, start_time)| Process { pid, start_time }))
    }

    /// Where the container is in its life, and its init if that lives.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn status(&self, state: Option<&State>) -> Result<(Status, Option<Process>)> {
        let Some(init) = self.init()? else { return Ok((Status::Creating, None)) };
        let look = init.look().doing(|| format!("read /proc/{}/stat", init.pid))?;
        let Some(about) = look else { return Ok((Status::Stopped, None)) };
        let may_be_started = self.start_socket().exists();
        let is_frozen = || state.is_some_and(|state| state.cgroup.is_frozen().unwrap_or(false));
        let status = if may_be_started && super::start::is_awaited(self) {
            // As in runc: it is frozen first of all, and created again once it is thawed.
            if is_frozen() { Status::Paused } else { Status::Created }
        } else if may_be_started && self.is_locked()? {
            // Nobody listens yet. (When nobody listens any more, `start` is about to remove the socket, without a lock.)
            Status::Creating
        } else if !may_be_started && !init.is_in_place(&about) && self.is_locked()? {
            // By `run`, which has it locked. (Who has been started by `start` is in its place, and nobody has it locked.)
            Status::Creating
        } else if is_frozen() {
            Status::Paused
        } else {
            Status::Running
        };
        Ok((status, Some(init)))
    }

    /// Notes that others than the container's own processes are about to enter it, or could get a descriptor out of it: a pool is not to use its network
    /// namespace again.
    ///
    /// # Errors
    /// What the file system says.
    pub fn note_visit(&self) -> Result<()> {
        // At once, for many may do so, and without a scratch file: there is nothing in it to be read.
        let path = self.path.join(VISITED);
        let mark = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        mark.map(drop).doing(|| format!("write {}", path.display()))
    }

    /// Whether that has been noted.
    pub fn was_visited(&self) -> bool {
        self.path.join(VISITED).exists()
    }

    /// Notes where the container's cgroups are since `update` has made it join others: who waits for its end, and is going to remove them,
    /// knows of the first alone.
    ///
    /// # Errors
    /// What the file system says.
    pub fn note_joined(&self, cgroup: &Handle) -> Result<()> {
        self.write(JOINED, &self.json(JOINED, cgroup)?)
    }

    /// What has been noted of that.
    pub fn joined(&self) -> Option<Handle> {
        let text = fs::read(self.path.join(JOINED)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Removes the directory, which is the open one of `lock`, if there is nothing in it but what every container has; whether it is gone. What is left is
    /// for [`Entry::remove`].
    pub fn remove_usual(&self, lock: &Lock) -> bool {
        for name in USUAL {
            let _ = unlinkat(&lock.0, name, UnlinkatFlags::NoRemoveDir);
        }
        fs::remove_dir(&self.path).is_ok()
    }

    /// Removes the directory. One that is gone already is no error.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self) -> Result<()> {
        // The usual files by name; whatever else there is takes a look into the directory.
        for name in USUAL {
            let _ = fs::remove_file(self.path.join(name));
        }
        if fs::remove_dir(&self.path).is_ok() {
            return Ok(());
        }
        self.detach_root()?;
        let mut again = 1..REMOVALS;
        loop {
            match fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && again.next().is_some() => {}
                removed => return removed.doing(|| format!("remove {}", self.path.display())),
            }
        }
    }

    /// Takes away the mounts of a container without a mount namespace: before anything is removed, for what is removed
    /// must not be what is mounted there.
    fn detach_root(&self) -> Result<()> {
        let root = self.path.join(crate::plan::HOST_ROOT);
        loop {
            match umount2(&root, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => {}
                // No mount, or no such directory.
                Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
                Err(errno) => return Err(Error::system(format!("unmount {}", root.display()), errno)),
            }
        }
    }

    /// The user who owns the directory.
    pub fn owner(&self) -> u32 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.uid())
    }
}

impl Process {
    /// The process that has the number `pid` now.
    ///
    /// # Errors
    /// ESRCH when there is none.
    pub fn of(pid: i32) -> Result<Self, Errno> {
        Self::with_ignored(pid).map(|(process, _)| process)
    }

    /// As above, and which signals it ignores, but for real-time ones: bit n-1 is signal n.
    ///
    /// # Errors
    /// As above.
    pub fn with_ignored(pid: i32) -> Result<(Self, u32), Errno> {
        let stat = stat(pid)?;
        Ok((Self { pid, start_time: stat.start_time }, stat.ignored))
    }

    /// A descriptor of it (pidfd_open(2)), or none if it has been reaped. That no other process has got its number by now only a look after this tells.
    ///
    /// # Errors
    /// Of pidfd_open(2): too many open files, for example.
    pub fn open(self) -> Result<Option<OwnedFd>> {
        match process::pidfd_open(self.pid) {
            Err(Errno::ESRCH) => Ok(None),
            pidfd => Ok(Some(own(pidfd.doing(|| format!("open process {}", self.pid))?))),
        }
    }

    /// As [`Process::open`], and that no other process has got its number is sure; none as well if it has ended.
    ///
    /// # Errors
    /// As there, and if nothing can be known of it.
    pub fn open_running(self) -> Result<Option<OwnedFd>> {
        let pidfd = self.open()?;
        let about = self.look().doing(|| format!("read /proc/{}/stat", self.pid))?;
        Ok(pidfd.filter(|_| about.is_some()))
    }

    /// `error`, or what `ended` says instead if this has ended or does so now, as far as can be told: nobody keeps an init from that while a verb
    /// is at its container. It has no namespaces any more then, no process can be made in its pid namespace, and its container may be deleted.
    pub fn or_ended(self, error: Error, ended: impl FnOnce() -> Error) -> Error {
        match self.look() {
            Ok(None) | Ok(Some(Stat { is_ending: true, .. })) => ended(),
            _ => error,
        }
    }

    /// What the kernel tells of it, if it still runs.
    fn look(self) -> Result<Option<Stat>, Errno> {
        let still = |stat: &Stat| stat.start_time == self.start_time && !matches!(stat.state, b'Z' | b'X');
        match stat(self.pid) {
            Err(Errno::ESRCH) => Ok(None),
            // Anything else, too many open files for example, says nothing of the process.
            stat => Ok(Some(stat?).filter(still)),
        }
    }

    /// Whether it is in its place, by what there is to know `about` it: past its execve(2), parked, or made by CRIU, which has another executable than
    /// ours. Who may not see its executable, which is not dumpable then, sees one that is not in its place.
    fn is_in_place(self, about: &Stat) -> bool {
        let executable =
            |process: &str| fs::metadata(format!("/proc/{process}/exe")).map(|file| (file.dev(), file.ino()));
        !about.may_be_made
            || executable(&self.pid.to_string())
                .ok()
                .zip(executable("self").ok())
                .is_some_and(|(its, ours)| its != ours)
    }

    /// Sends it a signal, unless another process has its number by now.
    ///
    /// # Errors
    /// ESRCH when it is gone, EPERM.
    pub fn signal(self, signal: i32) -> Result<(), Errno> {
        let pidfd = process::pidfd_open(self.pid)?;
        let result = match self.look() {
            Ok(Some(_)) => process::pidfd_send_signal(pidfd, signal),
            Ok(None) => Err(Errno::ESRCH),
            Err(errno) => Err(errno),
        };
        crate::sys::fs::close(pidfd);
        result
    }
}

/// A flag of a process that ends (Linux, include/linux/sched.h; proc_pid_stat(5), field 9).
const PF_EXITING: u32 = 0x4;

/// What proc_pid_stat(5) says of a process: its fields 3, 9, 22 and 33, and whether it has executed nothing yet and is no sandbox that waits in a pool.
struct Stat {
    state: u8,
    is_ending: bool,
    start_time: u64,
    ignored: u32,
    may_be_made: bool,
}

fn stat(pid: i32) -> Result<Stat, Errno> {
    let path = CString::new(format!("/proc/{pid}/stat")).map_err(|_| Errno::ESRCH)?;
    let file = sys_fs::open(sys_fs::CWD, &path, libc::O_RDONLY, 0);
    let file = own(file.map_err(|errno| if errno == Errno::ENOENT { Errno::ESRCH } else { errno })?);
    let mut text = [0u8; 1024];
    let length = sys_fs::read(file.as_raw_fd(), &mut text)?;
    let text = text.get(..length).unwrap_or_default();
    // The name, field 2, may hold anything; the last ")" ends it.
    let end = text.iter().rposition(|byte| *byte == b')').ok_or(Errno::ESRCH)?;
    let rest = str::from_utf8(text.get(end + 1..).unwrap_or_default()).map_err(|_| Errno::ESRCH)?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next().and_then(|field| field.bytes().next()).ok_or(Errno::ESRCH)?;
    let flags: u32 = fields.nth(5).and_then(|field| field.parse().ok()).ok_or(Errno::ESRCH)?;
    let start_time = fields.nth(12).and_then(|field| field.parse().ok()).ok_or(Errno::ESRCH)?;
    let ignored = fields.nth(10).and_then(|field| field.parse().ok()).ok_or(Errno::ESRCH)?;
    let may_be_made = process::name_as_cloned(text).is_some_and(|name| name != park::NAME.to_bytes());
    Ok(Stat { state, is_ending: flags & PF_EXITING != 0, start_time, ignored, may_be_made })
}

/// What `state` prints (runtime-spec runtime.md, "State", and runc's additions) and what hooks get on stdin.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// runtime-spec's version.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Init as the runtime sees it; 0 when there is none.
    pub pid: i32,
    /// `Status::name`.
    pub status: &'static str,
    /// The bundle.
    pub bundle: PathBuf,
    /// The root directory.
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    /// `annotations`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The creator's name; empty as in runc for root.
    pub owner: String,
}

impl State {
    /// The report for this container.
    pub fn report(&self, status: Status, pid: i32) -> Report {
        Report {
            oci_version: OCI_VERSION.to_owned(),
            id: self.id.clone(),
            pid,
            status: status.name(),
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            created: self.created.clone(),
            annotations: self.annotations.clone(),
            owner: String::new(),
        }
    }
}

impl State {
    /// The container as runtime-spec's library describes it, for a seccomp agent; `pid` is its init.
    pub fn of_spec(&self, status: oci_spec::runtime::ContainerState, pid: i32) -> oci_spec::runtime::State {
        let mut state = oci_spec::runtime::State::default();
        state
            .set_version(OCI_VERSION.to_owned())
            .set_id(self.id.clone())
            .set_status(status)
            .set_pid(Some(pid))
            .set_bundle(self.bundle.clone())
            .set_annotations(Some(self.annotations.clone().into_iter().collect()));
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("root"));
        (dir, store)
    }

    #[test]
    fn a_process_that_has_anothers_number_is_not_opened() {
        let this = Process::of(std::process::id() as i32).unwrap();
        assert!(this.open_running().unwrap().is_some());
        let before = Process { start_time: this.start_time - 1, ..this };
        assert!(before.open().unwrap().is_some() && before.open_running().unwrap().is_none());
    }

    #[test]
    fn an_id_is_given_once() {
        let (_dir, store) = store();
        let entry = store.reserve("a.b_c-1+2").unwrap().0;
        assert_eq!(entry.id(), "a.b_c-1+2");
        assert_eq!(store.reserve("a.b_c-1+2").unwrap_err().kind(), Kind::Exists);
        assert_eq!(store.all().unwrap(), std::slice::from_ref(&entry));
        entry.remove().unwrap();
        entry.remove().unwrap();
        assert_eq!(store.find("a.b_c-1+2").unwrap_err().kind(), Kind::NoContainer);
    }

    #[test]
    fn what_is_alike_is_one_file_until_one_gets_another() {
        let (_dir, store) = store();
        let entries = ["one", "two", "three", "four"].map(|id| store.reserve(id).unwrap().0);
        let [one, two, three, four] = &entries;
        let about = |entry: &Entry| fs::metadata(entry.config()).unwrap();
        let mut last = None;
        one.write_alike("config.json", b"{}", &mut last).unwrap();
        two.write_alike("config.json", b"{}", &mut last).unwrap();
        assert_eq!((about(one).ino(), about(one).nlink()), (about(two).ino(), 2));
        one.write("config.json", b"[]").unwrap();
        assert_eq!(fs::read(two.config()).unwrap(), b"{}");
        // There is none left to link to.
        two.remove().unwrap();
        three.write_alike("config.json", b"{}", &mut last).unwrap();
        four.write_alike("config.json", b"{}", &mut last).unwrap();
        assert_eq!((about(three).ino(), about(four).nlink()), (about(four).ino(), 2));
        assert_eq!(fs::read(four.config()).unwrap(), b"{}");
        // One that has that file already: it is written anew.
        four.write_alike("config.json", b"[1]", &mut last).unwrap();
        assert_eq!(
            (fs::read(three.config()).unwrap(), fs::read(four.config()).unwrap()),
            (b"{}".into(), b"[1]".into())
        );
    }

    #[test]
    fn malformed_ids_are_refused_everywhere() {
        let (_dir, store) = store();
        for id in ["", ".", "..", "a/b", "/", "a b", "a\n", "ä", "a\0", &"x".repeat(1025)] {
            assert_eq!(store.reserve(id).unwrap_err().kind(), Kind::Usage, "{id:?}");
            assert_eq!(store.find(id).unwrap_err().kind(), Kind::Usage, "{id:?}");
        }
        assert!(store.all().unwrap().is_empty());
    }

    #[test]
    fn one_at_a_time_has_the_lock() {
        const SOON: Duration = Duration::from_millis(20);
        let (_dir, store) = store();
        let entry = store.reserve("x").unwrap().0;
        let lock = entry.try_lock().unwrap().unwrap();
        assert!(entry.try_lock().unwrap().is_none());
        assert!(matches!(entry.lock_within(SOON).unwrap(), Locking::Busy));
        let wait = || {
            let entry = entry.clone();
            std::thread::spawn(move || entry.lock_within(Duration::from_secs(10)).unwrap())
        };
        let waiting = wait();
        lock.release();
        assert!(matches!(waiting.join().unwrap(), Locking::Locked(_)));
        entry.remove().unwrap();
        assert!(entry.try_lock().unwrap().is_none());
        assert!(matches!(entry.lock_within(SOON).unwrap(), Locking::Gone));
    }

    /// Who waited for the lock of a container has no right to the next one of that name.
    #[test]
    fn a_lock_is_of_one_container() {
        let (_dir, store) = store();
        let entry = store.reserve("x").unwrap().0;
        let lock = entry.try_lock().unwrap().unwrap();
        let before = entry.open().unwrap().unwrap();
        entry.remove().unwrap();
        let next = store.reserve("x").unwrap().0;
        lock.release();
        assert!(Lock::of(before).unwrap().is_none());
        assert!(next.try_lock().unwrap().is_some());
    }

    #[test]
    fn who_looks_whether_it_is_locked_is_not_taken_for_who_makes_it() {
        let (_dir, store) = store();
        let (entry, lock) = store.reserve("x").unwrap();
        assert!(entry.is_locked().unwrap());
        lock.release();
        let looks = entry.open().unwrap().unwrap();
        sys_fs::lock(looks.as_raw_fd(), libc::LOCK_SH).unwrap();
        assert!(!entry.is_locked().unwrap());
        assert!(entry.try_lock().unwrap().is_none());
        // The looking ends once it is waited for, or some time before.
        let waits = std::thread::spawn({
            let entry = entry.clone();
            move || entry.lock_new()
        });
        drop(looks);
        waits.join().unwrap().unwrap();
    }

    #[test]
    fn who_makes_what_is_deleted_at_once_leaves_nothing() {
        let (_dir, store) = store();
        let (entry, deletes) = store.reserve("x").unwrap();
        let makes = std::thread::spawn({
            let entry = entry.clone();
            move || entry.lock_new()
        });
        fs::remove_dir(entry.path()).unwrap();
        drop(deletes);
        assert!(makes.join().unwrap().unwrap_err().to_string().contains("is deleted while it is being created"));
        assert!(!entry.path().exists());
    }

    /// Whose directory is deleted and made again before he locks it: by who has made his container there since, or is about to.
    #[test]
    fn who_comes_late_leaves_the_container_of_another() {
        let (_dir, store) = store();
        let (entry, first) = store.reserve("x").unwrap();
        fs::write(entry.path().join("state.json"), "{}").unwrap();
        let late = std::thread::spawn({
            let entry = entry.clone();
            move || entry.lock_new()
        });
        drop(first);
        assert_eq!(late.join().unwrap().unwrap_err().kind(), Kind::Exists);
        assert_eq!(entry.lock_new().unwrap_err().kind(), Kind::Exists);
    }

    #[test]
    fn a_damaged_state_says_what_to_do() {
        let (_dir, store) = store();
        let entry = store.reserve("x").unwrap().0;
        for text in ["", "{", "{\"id\":", "null", "[]"] {
            entry.write("state.json", text.as_bytes()).unwrap();
            assert!(entry.load().unwrap_err().to_string().contains("delete --force x"));
            assert_eq!(entry.status(None).unwrap(), (Status::Creating, None));
        }
    }

    #[test]
    fn a_recorded_process_is_told_from_its_successor() {
        let (_dir, store) = store();
        let entry = store.reserve("x").unwrap().0;
        let own = Process::of(process::getpid()).unwrap();
        entry.record(own).unwrap();
        assert_eq!(entry.status(None).unwrap(), (Status::Running, Some(own)));
        fs::remove_file(entry.path().join("init")).unwrap();
        entry.record(Process { start_time: own.start_time + 1, ..own }).unwrap();
        assert_eq!(entry.status(None).unwrap(), (Status::Stopped, None));
        fs::remove_file(entry.path().join("init")).unwrap();
        symlink("12 ", entry.path().join("init")).unwrap();
        assert_eq!(entry.init().unwrap(), None);
    }

    /// Any state; what it says of cgroups is in the middle.
    fn states() -> impl Strategy<Value = State> {
        let path = || any::<String>().prop_map(|path| PathBuf::from(format!("/{path}")));
        let v1 = prop::collection::btree_map("[a-z=]{1,9}", path(), 0..4);
        let handle = (prop::option::of(path()), v1).prop_map(|(unified, v1)| Handle {
            driver: crate::cgroup::Driver::Cgroupfs,
            unit: None,
            unified,
            v1,
        });
        let annotations = prop::collection::btree_map(any::<String>(), any::<String>(), 0..4);
        (any::<String>(), path(), handle, annotations, any::<u32>(), any::<[bool; 2]>()).prop_map(
            |(id, bundle, cgroup, annotations, owner, [no_new_keyring, shares_pids])| State {
                oci_version: id.clone(),
                rootfs: bundle.join(&id),
                created: id.clone(),
                id,
                bundle,
                owner,
                annotations,
                cgroup,
                resctrl: None,
                no_new_keyring,
                shares_pids,
                stdio: None,
                own_time: false,
                network_of_pool: false,
                resources: None,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// What is recorded of init is read again, and whatever else is there is nobody.
        #[test]
        fn an_init_record_is_a_process_or_nobody(
            pid in 1..=i32::MAX, start_time in any::<u64>(), text in "[^\0]{1,60}|-?[0-9]{1,12} -?[0-9]{1,22}( [^\0]*)?"
        ) {
            let (_dir, store) = store();
            let entry = store.reserve("a").unwrap().0;
            entry.record(Process { pid, start_time }).unwrap();
            prop_assert_eq!(entry.init().unwrap(), Some(Process { pid, start_time }));
            fs::remove_file(entry.path().join("init")).unwrap();
            symlink(&text, entry.path().join("init")).unwrap();
            let init = entry.init().unwrap();
            prop_assert!(init.is_none_or(|init| init.pid > 0), "{text:?}: {init:?}");
            let (status, alive) = entry.status(None).unwrap();
            prop_assert!(matches!((status, alive), (Status::Creating | Status::Stopped | Status::Running, _)));
        }

        /// A state is read as it was written; cut short or damaged it is another or one sentence, and the container is in
        /// the list of all and can be removed.
        #[test]
        fn a_state_is_whole_or_told(state in states(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let (_dir, store) = store();
            let entry = store.reserve("a").unwrap().0;
            entry.save(&state).unwrap();
            prop_assert_eq!(&entry.load().unwrap(), &state);
            let whole = fs::read(entry.path().join("state.json")).unwrap();
            let at = at.index(whole.len());
            let mut damaged = whole.clone();
            damaged[at] = byte;
            for text in [&whole[..at], &damaged] {
                fs::write(entry.path().join("state.json"), text).unwrap();
                if let Err(error) = entry.load() {
                    prop_assert!(!error.to_string().contains('\n'), "{error}");
                }
                prop_assert_eq!(store.all().unwrap().len(), 1);
            }
            entry.remove().unwrap();
            prop_assert!(store.all().unwrap().is_empty());
        }
    }
}
