//! A process that is told from a later one with the same pid.

use crate::error::{Doing, Error, Result};
use crate::sys::{fs as sys_fs, own, park, process};
use nix::errno::Errno;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// A process that is told from a later one with the same pid by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// The pid.
    pub pid: i32,
    /// Field 22 of proc_pid_stat(5), in clock ticks since boot.
    pub start_time: u64,
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
    pub(super) fn look(self) -> Result<Option<Stat>, Errno> {
        let still = |stat: &Stat| stat.start_time == self.start_time && !matches!(stat.state, b'Z' | b'X');
        match stat(self.pid) {
            Err(Errno::ESRCH) => Ok(None),
            // Anything else, too many open files for example, says nothing of the process.
            stat => Ok(Some(stat?).filter(still)),
        }
    }

    /// Whether it is in its place, by what there is to know `about` it: past its execve(2), parked, or made by CRIU, which has another executable than
    /// ours. Who may not see its executable, which is not dumpable then, sees one that is not in its place.
    pub(super) fn is_in_place(self, about: &Stat) -> bool {
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
pub(super) struct Stat {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_anothers_number_is_not_opened() {
        let this = Process::of(std::process::id() as i32).unwrap();
        assert!(this.open_running().unwrap().is_some());
        let before = Process { start_time: this.start_time - 1, ..this };
        assert!(before.open().unwrap().is_some() && before.open_running().unwrap().is_none());
    }
}
