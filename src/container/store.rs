//! A container on disk: `<root>/<id>/`.
//!
//! | file | written | holds |
//! | --- | --- | --- |
//! | `state.json` | before anything else is made | all that `delete --force` needs to find the rest |
//! | `init` | right after the clone | pid and start time of init, as a symbolic link's text |
//! | `config.json` | while init sets itself up | the configuration, for `exec` and the later hooks |
//! | `visited` | by `exec`, in a network namespace of a pool | nothing: it is not to be used again |
//! | `joined` | by `update`, where it makes the container join more cgroups | all of them |
//! | `start.sock` | by `create`, removed by `start` | where a created init waits |
//!
//! mkdir(2) decides who creates an id. Every file that holds anything is written beside its name and renamed, so a reader
//! finds it whole or not at all. Whoever makes or removes the container holds a [`Lock`] of the directory meanwhile; no lock is shared by
//! two containers.

mod lock;

use super::process::Process;
use super::state::{State, Status};
use crate::cgroup::Handle;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::{fs as sys_fs, process};
pub use lock::{Lock, Locking};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::Serialize;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The most bytes an id may have, as in runc.
const MAX_ID: usize = 1024;

/// The file that says that others have been in the container.
const VISITED: &str = "visited";

/// Has the container's cgroups, if there are more of them than there were.
const JOINED: &str = "joined";

/// The files that a container's directory has as a rule.
const USUAL: [&str; 3] = ["state.json", "init", "config.json"];

/// How often a directory is emptied before it is given up: an `update` that does not know yet that the container is gone may
/// put its state.json there.
const REMOVALS: u32 = 10;

/// Where compiled filters are kept, below the state root.
pub(super) const CACHE: &str = ".seccomp";

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

/// A container's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    path: PathBuf,
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
            let _ = unlinkat(lock.locked(), name, UnlinkatFlags::NoRemoveDir);
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

fn taken(id: &str) -> Error {
    Error::new(Kind::Exists, format!("container with given ID already exists: {id}: choose another or delete it"))
}

fn no_container(id: &str) -> Error {
    Error::new(Kind::NoContainer, format!("container does not exist: {id}"))
}

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

#[cfg(test)]
mod tests;
