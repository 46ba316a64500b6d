//! Cgroup directories as a tree: making, walking, waiting, removing.

use super::write::{Target, read_whole, says_gone};
use crate::error::Doing;
use crate::sys::pidfd;
use crate::{Error, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, mkdir, unlinkat};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long processes that have been killed may take to be gone.
pub const REMOVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait where no event can be waited for.
const TICK: Duration = Duration::from_millis(1);

/// rwxr-xr-x.
const MODE: Mode = Mode::from_bits_truncate(0o755);

/// Makes the directory `path` and, if they are missing, those between `mount` and it, each new one of which `above` gets, also
/// when it fails. Says whether `path` itself is new.
///
/// # Errors
/// Those of mkdir(2).
pub fn make(mount: &Path, path: &Path, above: &mut Vec<PathBuf>) -> Result<bool, Errno> {
    /// How often the directory above may be removed by someone else just after it was made or found.
    const RACES: u32 = 10;
    let mut races = 0;
    loop {
        match mkdir(path, MODE) {
            Ok(()) => return Ok(true),
            Err(Errno::EEXIST) => return Ok(false),
            Err(Errno::ENOENT) if path != mount && path.starts_with(mount) && races < RACES => {
                races += 1;
                let parent = path.parent().unwrap_or(mount);
                if make(mount, parent, above)? {
                    above.push(parent.to_owned());
                }
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// Removes a directory that [`make`] made on the way, unless somebody uses it by now.
///
/// # Errors
/// What rmdir(2) says.
pub fn remove_unused(path: &Path) -> Result<()> {
    match unlinkat(AT_FDCWD, path, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::EBUSY | Errno::ENOTEMPTY | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Error::system(format!("remove the cgroup {}", path.display()), errno)),
    }
}

/// Opens the directory `path` for openat(2), `CLONE_INTO_CGROUP` and bpf(2).
///
/// # Errors
/// Those of open(2).
pub fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Opens the file `path` for reading.
///
/// # Errors
/// Those of open(2).
pub fn open_file(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Writes `value` to the file `name` of `directory`, in one write(2).
///
/// # Errors
/// Those of open(2) and of the file.
pub fn put(directory: &Path, name: &str, value: &str) -> Result<(), Errno> {
    let fd = open_directory(directory)?;
    Target { directory: fd.as_fd(), path: directory }.put(name, value)
}

/// The cgroups directly below `directory`.
///
/// # Errors
/// Those of reading a directory.
pub fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut children = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

/// Whether an error says that a cgroup has been removed meanwhile.
pub fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw).is_some_and(says_gone)
}

/// The processes of `directory`, and with `recursive` those of the cgroups below it.
///
/// # Errors
/// Those of reading cgroup.procs. A cgroup below that vanishes meanwhile is no error.
pub fn pids(directory: &Path, recursive: bool) -> io::Result<Vec<i32>> {
    let mut pids = own_pids(directory)?;
    if recursive {
        for child in children(directory)? {
            match self::pids(&child, true) {
                Ok(more) => pids.extend(more),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(pids)
}

fn own_pids(directory: &Path) -> io::Result<Vec<i32>> {
    let text = match fs::read_to_string(directory.join("cgroup.procs")) {
        // A threaded cgroup has no processes of its own.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            fs::read_to_string(directory.join("cgroup.threads"))?
        }
        other => other?,
    };
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect())
}

/// Removes `path` and all cgroups below it; what is gone already is no error. Processes that have been killed but have
/// not ended yet are waited for until `deadline`.
///
/// # Errors
/// Processes that do not end, or what rmdir(2) says.
pub fn remove(path: &Path, deadline: Instant) -> Result<()> {
    remove_before(path, deadline).map_err(|errno| match errno {
        Errno::EBUSY if is_covered(path) => covered(path),
        Errno::EBUSY => {
            let left = pids(path, true).map_or(0, |pids| pids.len());
            let doing =
                format!("remove the cgroup {} ({left} processes are still in it: kill them first)", path.display());
            Error::system(doing, errno)
        }
        errno => Error::system(format!("remove the cgroup {}", path.display()), errno),
    })
}

fn remove_before(path: &Path, deadline: Instant) -> Result<(), Errno> {
    let mut was_empty = false;
    loop {
        match unlinkat(AT_FDCWD, path, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EINTR) => {}
            // What is below is not its own: it belongs to what is mounted there, or this is the root of a hierarchy.
            Err(Errno::EBUSY) if is_covered(path) => return Err(Errno::EBUSY),
            Err(Errno::EBUSY) => {
                match children(path) {
                    Ok(children) => children.iter().try_for_each(|child| remove_before(child, deadline))?,
                    Err(error) if is_gone(&error) => return Ok(()),
                    Err(error) => return Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
                }
                if was_empty && Instant::now() >= deadline || !wait_empty(path, deadline)? {
                    return Err(Errno::EBUSY);
                }
                if was_empty {
                    // Nothing tells when what is empty is not busy any more.
                    thread::sleep(TICK);
                }
                was_empty = true;
            }
            // A read-only mount says so even of what is not there.
            Err(errno) => return if path.exists() { Err(errno) } else { Ok(()) },
        }
    }
}

/// What there is to say of a cgroup that cannot be reached.
pub fn covered(path: &Path) -> Error {
    let doing = format!("remove the cgroup {} (something is mounted on it: unmount that first)", path.display());
    Error::system(doing, Errno::EBUSY)
}

/// Whether something else is mounted on the cgroup's directory.
pub fn is_covered(path: &Path) -> bool {
    // What is above may be a link, as "cpu" to "cpu,cpuacct".
    let device = |path: &Path| fs::metadata(path).map(|directory| directory.dev()).ok();
    // What is gone covers nothing.
    path.parent().zip(device(path)).is_some_and(|(parent, own)| device(parent) != Some(own))
}

/// Waits until no process is left in `path` or below it, or until `deadline`; says whether it is empty.
///
/// A v2 directory tells by itself (cgroup.events). On v1, the processes that are there are waited for one by one.
///
/// # Errors
/// Those of poll(2) and of reading the cgroup.
pub fn wait_empty(path: &Path, deadline: Instant) -> Result<bool, Errno> {
    match open_file(&path.join("cgroup.events")) {
        Ok(events) => wait_event(&events, deadline, |text| text.contains("populated 0")),
        Err(Errno::ENOENT) if path.exists() => wait_processes(path, deadline),
        Err(Errno::ENOENT) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// Waits until the text of the kernfs file `file`, which notifies of changes, is as `wanted` says, or until `deadline`.
/// A cgroup that is removed meanwhile counts as reached.
///
/// # Errors
/// Those of poll(2) and pread(2).
pub fn wait_event(file: &OwnedFd, deadline: Instant, wanted: impl Fn(&str) -> bool) -> Result<bool, Errno> {
    loop {
        match reread(file) {
            Ok(text) if wanted(&text) => return Ok(true),
            Ok(_) => {}
            Err(Errno::ENODEV) => return Ok(true),
            Err(errno) => return Err(errno),
        }
        if !poll_one(file, PollFlags::POLLPRI, deadline)? {
            return Ok(false);
        }
    }
}

/// The text of an open file, from its beginning.
///
/// # Errors
/// Those of lseek(2) and read(2).
pub fn reread(file: &OwnedFd) -> Result<String, Errno> {
    nix::unistd::lseek(file, 0, nix::unistd::Whence::SeekSet)?;
    read_whole(file)
}

fn wait_processes(path: &Path, deadline: Instant) -> Result<bool, Errno> {
    loop {
        let listed = match pids(path, true) {
            Ok(listed) => listed,
            Err(error) if is_gone(&error) => return Ok(true),
            Err(error) => return Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
        };
        if listed.is_empty() {
            return Ok(true);
        }
        for pid in listed {
            match pidfd::open(pid) {
                Ok(process) if !poll_one(&process, PollFlags::POLLIN, deadline)? => return Ok(false),
                Ok(_) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// Waits for `events` on `fd` until `deadline`; says whether they came.
fn poll_one(fd: impl AsFd, events: PollFlags, deadline: Instant) -> Result<bool, Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), events)], timeout) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Fails if this user may not put a process into the cgroup.
///
/// # Errors
/// Those of open(2).
pub fn require_writable(target: &Target<'_>) -> Result<(), Errno> {
    openat(target.directory, "cgroup.procs", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).map(drop)
}

/// Fails if `directory`, which was there before, is not fit for a new container: it holds processes, or is frozen.
///
/// # Errors
/// One sentence that says which of the two; `ENOENT` or `ENODEV` if it is gone.
pub fn require_unused(directory: &Path, target: &Target<'_>) -> Result<()> {
    let held = pids(directory, true).doing(|| format!("read {}/cgroup.procs", directory.display()))?;
    let path = directory.display();
    if !held.is_empty() {
        let problem = format!(
            "container's cgroup is not empty: {} process(es) found in {path}: use another path, or end them first",
            held.len()
        );
        return Err(Error::config("linux.cgroupsPath", problem));
    }
    let frozen = [("cgroup.freeze", "1"), ("freezer.state", "FROZEN")];
    if frozen.iter().any(|(file, state)| target.get(file).is_ok_and(|text| text.trim() == *state)) {
        let problem = format!("container's cgroup unexpectedly frozen: thaw {path}, or use another path");
        return Err(Error::config("linux.cgroupsPath", problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In /proc nobody may remove anything, so nothing happens if this fails.
    #[test]
    fn what_is_mounted_is_left_alone() {
        assert!(is_covered(Path::new("/proc")) && is_covered(Path::new("/proc/")));
        let error = remove(Path::new("/proc"), Instant::now()).unwrap_err().to_string();
        assert!(error.starts_with("remove the cgroup /proc (something is mounted on it"), "{error}");
    }

    #[test]
    fn what_is_below_a_link_is_not_covered() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("cpu");
        std::os::unix::fs::symlink("/proc/sys", &link).unwrap();
        assert!(!is_covered(&link.join("kernel")));
        assert!(!is_covered(&link.join("gone")));
    }
}
