//! `--pid-file`.

use crate::error::{Doing, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::linkat;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// How often a file that others put in the way is replaced.
const REPLACEMENTS: usize = 10;

/// Writes the decimal pid, at once or not at all.
///
/// # Errors
/// What the file system says.
pub fn write(path: &Path, pid: i32) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A file that has no name yet needs no cleaning up after a crash (open(2), O_TMPFILE).
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let written = match open(directory, flags, Mode::from_bits_truncate(0o666)) {
        Ok(file) => write_pid(File::from(file), pid).and_then(|file| name(&file, path)),
        // Not every file system can do that.
        Err(Errno::EOPNOTSUPP | Errno::EISDIR) => write_and_rename(path, pid),
        Err(errno) => Err(errno.into()),
    };
    written.doing(|| format!("--pid-file: write {}", path.display()))
}

/// Removes it if it is there with this pid: what others have put in its place meanwhile is theirs.
///
/// # Errors
/// What the file system says.
pub fn remove(path: Option<&Path>, pid: i32) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let is_ours = fs::symlink_metadata(path).is_ok_and(|there| there.is_file())
        && fs::read(path).is_ok_and(|text| text == pid.to_string().as_bytes());
    let removed = if is_ours { remove_file(path) } else { Ok(()) };
    removed.doing(|| format!("--pid-file: remove {}", path.display()))
}

fn write_pid(mut file: File, pid: i32) -> io::Result<File> {
    file.write_all(pid.to_string().as_bytes())?;
    Ok(file)
}

/// Gives the open file its name, in the place of one that has it.
fn name(file: &File, path: &Path) -> io::Result<()> {
    let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let link_to = |path: &Path| linkat(AT_FDCWD, &link, AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW);
    let mut again = 1..REPLACEMENTS;
    loop {
        match link_to(path) {
            // For a moment there is none, as before a container's first start; another name, to rename, would stay after a crash.
            Err(Errno::EEXIST) if again.next().is_some() => {
                require_replaceable(path)?;
                remove_file(path)?;
            }
            linked => return linked.map_err(io::Error::from),
        }
    }
}

/// Makes sure that there is no device or pipe at `path`, which is meant to stay what it is.
fn require_replaceable(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file() && !there.is_symlink()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there and no regular file: give another path"));
    }
    Ok(())
}

/// Removes the file, if it is there.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Has a file made beside `path`, and puts it there.
fn write_and_rename(path: &Path, pid: i32) -> io::Result<()> {
    require_replaceable(path)?;
    let mut scratch = OsString::from(".");
    scratch.push(path.file_name().unwrap_or_default());
    let scratch = path.with_file_name(scratch);
    // Of a runtime that was killed.
    remove_file(&scratch)?;
    let written = File::create_new(&scratch).and_then(|file| write_pid(file, pid));
    let replaced = written.and_then(|_| fs::rename(&scratch, path));
    if replaced.is_err() {
        let _ = remove_file(&scratch);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        for pid in [1, 22] {
            write(&path, pid).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), pid.to_string());
            write_and_rename(&path, pid + 1).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), (pid + 1).to_string());
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let error = write(&path, 1).unwrap_err().to_string();
        assert!(error.ends_with("it is there and no regular file: give another path"), "{error}");
        assert!(write_and_rename(&path, 1).is_err());
        remove(Some(&path), 1).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        // A link is replaced, and not followed.
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write(&link, 1).unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), "1");
        remove(Some(&link), 2).unwrap();
        assert!(link.exists());
        remove(Some(&link), 1).unwrap();
        assert!(!link.exists());
    }

    #[test]
    fn what_cannot_be_written_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let error = write(&directory.path().join("no/pid"), 1).unwrap_err().to_string();
        assert!(error.starts_with("--pid-file: write ") && error.ends_with("no such file or directory"), "{error}");
        assert!(write(directory.path(), 1).is_err());
        assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
    }
}
