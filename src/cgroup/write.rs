//! One write to one cgroup file: what is written, for which field of config.json, and what to do when it fails.

use crate::error::{Kind, describe};
use crate::{Error, Result, log};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{read, write};
use serde::Serialize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What a missing file means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Missing {
    /// The limit cannot be set: fail.
    Fail,
    /// The kernel has no such knob and the value asks for what holds without it: go on.
    Ignore,
    /// What is asked for only widens another limit, which holds without: say so and go on.
    Warn,
    /// Another file serves the same end.
    Instead {
        /// The other file.
        file: String,
        /// The value in the other file's scale.
        value: String,
    },
}

/// A value for a file of a cgroup directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Write {
    /// The file's name, without a slash.
    pub file: String,
    /// What is written, in one write(2).
    pub value: String,
    /// The field of config.json that asks for it.
    pub field: String,
    /// What a missing file means.
    #[serde(skip_serializing_if = "is_fail")]
    pub missing: Missing,
    /// The kernel may refuse the value (`EINVAL`) until a later write of the same directory is done: period, burst and
    /// quota are checked against each other. Then this write is tried again after all others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retry: bool,
    /// The kernel may round the value silently: read it back and fail if it differs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_back: bool,
}

fn is_fail(missing: &Missing) -> bool {
    *missing == Missing::Fail
}

impl Write {
    /// `value` for `file`, asked for by `field`; every failure is fatal.
    pub fn new(file: impl Into<String>, value: impl ToString, field: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            value: value.to_string(),
            field: field.into(),
            missing: Missing::Fail,
            retry: false,
            read_back: false,
        }
    }

    /// The same; a missing file is no failure if `ignore`.
    #[must_use]
    pub fn ignore_missing(self, ignore: bool) -> Self {
        Self { missing: if ignore { Missing::Ignore } else { self.missing }, ..self }
    }

    /// The same; a missing file is no failure, but worth a warning.
    #[must_use]
    pub fn warn_missing(self) -> Self {
        Self { missing: Missing::Warn, ..self }
    }

    /// The same; a missing file gives way to `value` for `file`.
    #[must_use]
    pub fn or_instead(self, file: impl Into<String>, value: impl ToString) -> Self {
        Self { missing: Missing::Instead { file: file.into(), value: value.to_string() }, ..self }
    }

    /// The same, tried again after the directory's other writes if the kernel says `EINVAL`.
    #[must_use]
    pub fn retried(self) -> Self {
        Self { retry: true, ..self }
    }

    /// The same, read back.
    #[must_use]
    pub fn checked(self) -> Self {
        Self { read_back: true, ..self }
    }
}

/// A cgroup directory that is being written to: its descriptor, and its path for messages.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The open directory (`O_PATH` will do).
    pub directory: BorrowedFd<'a>,
    /// Its path.
    pub path: &'a Path,
}

impl Target<'_> {
    /// Does all of `writes` in order, and then once more those that may be retried and were refused.
    ///
    /// # Errors
    /// The first write that fails for good: one sentence with the field, the value, the file and what to do.
    pub fn write_all(&self, writes: &[Write]) -> Result<()> {
        let mut refused = Vec::new();
        for write in writes {
            match self.attempt(write) {
                Ok(()) => {}
                Err(Errno::EINVAL) if write.retry => refused.push(write),
                Err(errno) => return Err(self.explain(write, errno)),
            }
        }
        for write in refused {
            self.attempt(write).map_err(|errno| self.explain(write, errno))?;
        }
        writes.iter().filter(|write| write.read_back).try_for_each(|write| self.check(write))
    }

    fn attempt(&self, write: &Write) -> Result<(), Errno> {
        let put = || self.put(&write.file, &write.value);
        let done = match put() {
            Err(Errno::ENOENT) if self.is_complete() => put(),
            done => done,
        };
        match (done, &write.missing) {
            (Err(Errno::ENOENT), Missing::Ignore) => Ok(()),
            (Err(Errno::ENOENT), Missing::Warn) => {
                let path = self.path.join(&write.file);
                log::warn(format!("config.json: {}: this kernel has no {}: left out", write.field, path.display()));
                Ok(())
            }
            (Err(Errno::ENOENT), Missing::Instead { file, value }) => self.put(file, value),
            (done, _) => done,
        }
    }

    /// Waits until who is enabling controllers for this v2 directory, as for all others beside it, is done: cgroup.controllers names
    /// them before their files are there (Linux, kernel/cgroup/cgroup.c, `cgroup_subtree_control_write`). Whether that could be done.
    fn is_complete(&self) -> bool {
        // A write that changes nothing takes its turn.
        self.put("../cgroup.subtree_control", "\n").is_ok()
    }

    /// Writes `value` to `file` in one write(2).
    ///
    /// # Errors
    /// Those of openat(2) and of the file: `ENOENT` when its controller is not enabled here.
    pub fn put(&self, file: &str, value: &str) -> Result<(), Errno> {
        let fd = openat(self.directory, file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        loop {
            match write(&fd, value.as_bytes()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Reads `file` whole.
    ///
    /// # Errors
    /// Those of openat(2) and read(2): `ENOENT` for a missing file, `ENODEV` once the directory is removed.
    pub fn get(&self, file: &str) -> Result<String, Errno> {
        read_whole(&self.open(file)?)
    }

    /// Whether the cgroup has been removed: its files go before the directory. By now there may be another at its path.
    pub fn is_gone(&self) -> bool {
        self.get("cgroup.procs").is_err_and(says_gone)
    }

    /// Opens `file` for reading.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn open(&self, file: &str) -> Result<OwnedFd, Errno> {
        openat(self.directory, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
    }

    fn check(&self, write: &Write) -> Result<()> {
        let held = self.get(&write.file).map_err(|errno| self.explain(write, errno))?;
        let held = held.trim();
        if held == write.value {
            return Ok(());
        }
        let Write { file, value, field, .. } = write;
        Err(Error::config(
            field,
            format!("the kernel made {held} of {value} in {}/{file}: use {held}", self.path.display()),
        ))
    }

    /// The sentence for a failed write.
    fn explain(&self, write: &Write, errno: Errno) -> Error {
        let Write { file, value, field, .. } = write;
        let path = self.path.join(file);
        let path = path.display();
        let controller = file.split('.').next().unwrap_or(file);
        let problem = match errno {
            Errno::ENOENT if self.lacks(controller) => format!(
                "controller {controller:?} is not available in {}: enable it in the cgroup.subtree_control of the \
                 cgroups above, or leave the field out",
                self.path.display()
            ),
            Errno::ENOENT => format!("this kernel has no {path}: leave the field out"),
            Errno::EBUSY if file == "memory.limit_in_bytes" => {
                let figure = |file| self.get(file).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned());
                format!(
                    "unable to set memory limit to {value} (current usage: {}, peak usage: {}): use a higher limit",
                    figure("memory.usage_in_bytes"),
                    figure("memory.max_usage_in_bytes")
                )
            }
            Errno::EINVAL | Errno::ERANGE => {
                format!(
                    "write {value:?} to {path}: {}: the kernel takes no such value, or a cgroup above allows less",
                    describe(errno)
                )
            }
            _ => return Error::system(format!("config.json: {field}: write {value:?} to {path}"), errno),
        };
        Error::new(Kind::Config, format!("config.json: {field}: {problem}")).with_errno(errno)
    }

    /// Whether `controller` is missing from a v2 directory (v1 directories have no such list).
    fn lacks(&self, controller: &str) -> bool {
        self.get("cgroup.controllers").is_ok_and(|list| !list.split_whitespace().any(|c| c == controller))
    }
}

/// Whether an error of a file in a cgroup says that this has been removed.
pub fn says_gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENODEV)
}

/// Reads what is left of `fd`.
pub(super) fn read_whole(fd: impl AsFd) -> Result<String, Errno> {
    let mut text = Vec::new();
    let mut block = [0; 4096];
    loop {
        match read(&fd, &mut block) {
            Ok(0) => return Ok(String::from_utf8_lossy(&text).into_owned()),
            Ok(count) => text.extend_from_slice(&block[..count]),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_a_missing_file_means_is_the_writes_to_say() {
        let directory = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(directory.path()).unwrap();
        let target = Target { directory: fd.as_fd(), path: directory.path() };
        let write = || Write::new("cpu.cfs_burst_us", 5, "linux.resources.cpu.burst").retried();
        let error = target.write_all(&[write()]).unwrap_err().to_string();
        assert!(error.contains("linux.resources.cpu.burst: this kernel has no"), "{error}");
        target.write_all(&[write().warn_missing(), write().ignore_missing(true)]).unwrap();
        std::fs::write(directory.path().join("other"), "").unwrap();
        target.write_all(&[write().or_instead("other", 7)]).unwrap();
        assert_eq!(target.get("other").unwrap(), "7");
    }
}
