//! Running a hook: a program with a description of the container on its stdin.
//!
//! Init runs those of the container itself, for it is in all the right namespaces, in the right cgroup and the right
//! user; the runtime runs the others. So nothing here allocates.

use super::op::Step;
use super::run::run_here;
use super::slots::Slots;
use super::{Environment, Exec};
use crate::sys::clone::{Child, Request, fork_and};
use crate::sys::fs::{self, Sys};
use crate::sys::process::{self, Exit};
use crate::sys::shared::{Report, Strings};
use crate::sys::socket;
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::time::Duration;

/// A hook to run.
#[derive(Debug)]
pub struct Hook {
    /// What errors call it: "createContainer hook #0".
    pub name: String,
    /// Its program; exactly one candidate.
    pub exec: Exec,
    /// Whether it gets its caller's environment ([`Caller::environment`]).
    pub inherits_environment: bool,
    /// The state that it reads on its stdin: what comes before the number of the container's pid, and after it.
    pub state: [Vec<u8>; 2],
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Where it runs, if not where its caller is.
    pub directory: Option<CString>,
    /// Its file mode creation mask, if not that of its caller.
    pub umask: Option<u32>,
    /// What is done before it is executed.
    pub steps: Vec<Step>,
}

impl Hook {
    /// The path of its program.
    pub fn path(&self) -> &CStr {
        self.exec.candidates.first().map_or(c"", CString::as_c_str)
    }
}

/// What a process that runs hooks knows.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The container's pid, as who runs them sees it (runtime-spec runtime.md, "State").
    pub pid: i32,
    /// For hooks that have none of their own: that of the container's program if init runs them, else of the process that does.
    pub environment: &'a Environment,
    /// The signal mask that hooks get.
    pub signal_mask: u64,
    /// The descriptors that [`Hook::steps`] use.
    pub slots: &'a Slots,
    /// For [`Hook::steps`].
    pub report: &'a Report,
}

/// Why a hook failed, in a buffer of its own.
#[derive(Debug)]
pub struct Words {
    bytes: [u8; Report::WORDS],
    length: usize,
}

impl Default for Words {
    fn default() -> Self {
        Self { bytes: [0; Report::WORDS], length: 0 }
    }
}

impl Words {
    /// The words.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Adds as much of `text` as there is room for.
    fn add(&mut self, text: &[u8]) -> &mut Self {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        for (place, byte) in room.iter_mut().zip(text) {
            *place = *byte;
            self.length += 1;
        }
        self
    }

    fn add_number(&mut self, number: u64) -> &mut Self {
        self.add(Decimal::new(number).bytes())
    }

    /// Adds the kernel's words for `errno`, as [`crate::error::describe`] writes them.
    fn add_errno(&mut self, errno: Errno) {
        let start = self.length;
        self.add(errno.desc().as_bytes());
        self.bytes.get_mut(start..).unwrap_or_default().make_ascii_lowercase();
    }

    /// Adds the beginning of what was written to `file`, without white space around.
    fn add_file(&mut self, file: RawFd) -> &mut Self {
        let mut text = [0u8; Report::WORDS];
        let length = fs::seek_start(file).and_then(|()| fs::read(file, &mut text)).unwrap_or(0);
        self.add(text.get(..length).unwrap_or_default().trim_ascii())
    }
}

/// A number in decimal digits.
struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    fn new(mut number: u64) -> Self {
        let mut decimal = Self { digits: [b'0'; 20], start: 20 };
        for place in decimal.digits.iter_mut().rev() {
            *place = b'0' + (number % 10) as u8;
            number /= 10;
            decimal.start -= 1;
            if number == 0 {
                break;
            }
        }
        decimal
    }

    fn bytes(&self) -> &[u8] {
        self.digits.get(self.start..).unwrap_or_default()
    }
}

/// Runs `hook` to its end; whether it succeeded. If not, `words` say why: they go after its name.
pub fn run(hook: &Hook, caller: &Caller<'_>, words: &mut Words) -> bool {
    let files = match Files::new(hook, caller.pid) {
        Ok(files) => files,
        Err(errno) => {
            words.add(b"describe the container: ").add_errno(errno);
            return false;
        }
    };
    let succeeded = match start(hook, caller, &files) {
        Ok(child) => match wait(child, hook.timeout, words) {
            Some(Exit::Code(0)) => true,
            Some(exit) => {
                files.tell(exit, words);
                false
            }
            None => false,
        },
        Err(errno) => {
            words.add(b"execute it: ").add_errno(errno);
            false
        }
    };
    files.close();
    succeeded
}

/// The hook's stdin, stdout and stderr: files in memory, so that nobody waits for anybody to read or write.
struct Files([RawFd; 3]);

impl Files {
    fn new(hook: &Hook, pid: i32) -> Sys<Self> {
        let files = Self([fs::memory_file()?, fs::memory_file()?, fs::memory_file()?]);
        let [state, ..] = files.0;
        let [before, after] = &hook.state;
        fs::write(state, before)?;
        fs::write(state, Decimal::new(pid.unsigned_abs().into()).bytes())?;
        fs::write(state, after)?;
        fs::seek_start(state)?;
        Ok(files)
    }

    /// Tells how a hook failed, and what it wrote.
    fn tell(&self, exit: Exit, words: &mut Words) {
        match exit {
            Exit::Code(code) => words.add(b"exit status ").add_number(code.unsigned_abs().into()),
            Exit::Signal(signal) => match process::signal_description(signal) {
                Some(name) => words.add(b"signal: ").add(name.as_bytes()),
                None => words.add(b"signal ").add_number(signal.unsigned_abs().into()),
            },
        };
        let [_, stdout, stderr] = self.0;
        words.add(b", stdout: ").add_file(stdout).add(b", stderr: ").add_file(stderr);
    }

    fn close(self) {
        self.0.into_iter().for_each(fs::close);
    }
}

/// Clones a child that executes the hook; returns when it does.
fn start(hook: &Hook, caller: &Caller<'_>, files: &Files) -> Sys<Child> {
    let (ours, theirs) = socket::pair()?;
    let request = Request { flags: 0, cgroup: None, exit_signal: libc::SIGCHLD };
    let argument = (hook, caller, files, theirs);
    let child = fork_and(&request, argument, |(hook, caller, files, sync)| {
        let errno = execute(hook, caller, files);
        let _ = fs::write(sync, &(errno as u32).to_ne_bytes());
        process::exit(1)
    });
    fs::close(theirs);
    let mut errno = [0u8; 4];
    let refused = child.and_then(|child| match fs::read(ours, &mut errno)? {
        // The socket is closed by a successful execve(2).
        0 => Ok(child),
        _ => {
            process::wait(child.pid, 0)?;
            fs::close(child.pidfd);
            Err(Errno::from_raw(u32::from_ne_bytes(errno) as i32))
        }
    });
    fs::close(ours);
    refused
}

/// Becomes the hook; the errno when that fails.
fn execute(hook: &Hook, caller: &Caller<'_>, files: &Files) -> Errno {
    let strings: &Strings =
        if hook.inherits_environment { &caller.environment.strings } else { &hook.exec.env.strings };
    let prepared = (|| {
        let mut slots = *caller.slots;
        run_here(&hook.steps, &mut slots, &hook.exec, caller.report).map_err(|(_, errno)| errno)?;
        if let Some(directory) = &hook.directory {
            fs::chdir(directory)?;
        }
        if let Some(mask) = hook.umask {
            fs::umask(mask);
        }
        for (number, file) in files.0.iter().enumerate() {
            fs::dup_onto(*file, number as RawFd)?;
        }
        fs::cloexec_from(3)?;
        // Whatever the runtime or its caller ignores.
        process::default_signals(u32::MAX >> 1);
        process::give_back_open_files()?;
        process::set_signal_mask(caller.signal_mask)
    })();
    match prepared {
        Ok(_) => process::execve(hook.path(), &hook.exec.args, strings),
        Err(errno) => errno,
    }
}

/// How the child ended; `None`, and words, if it did not end by itself.
fn wait(child: Child, timeout: Option<Duration>, words: &mut Words) -> Option<Exit> {
    let late = timeout.filter(|timeout| process::ends_within(child.pidfd, *timeout) == Ok(false));
    if late.is_some() {
        let _ = process::pidfd_send_signal(child.pidfd, libc::SIGKILL);
    }
    let ended = process::wait(child.pid, 0);
    fs::close(child.pidfd);
    if let Some(timeout) = late {
        words.add(b"hook ran past specified timeout of ").add_number(timeout.as_secs());
        words.add(b".0s: make it faster or its timeout longer");
        return None;
    }
    ended.unwrap_or_else(|errno| {
        words.add(b"wait for it: ").add_errno(errno);
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_full() {
        for number in [0, 7, 10, 4_294_967_295, u64::MAX] {
            assert_eq!(Decimal::new(number).bytes(), number.to_string().as_bytes());
        }
    }

    #[test]
    fn words_end_where_the_buffer_does() {
        let mut words = Words::default();
        words.add(&[b'x'; Report::WORDS - 2]).add(b"abc");
        assert_eq!(words.bytes().len(), Report::WORDS);
        assert!(words.bytes().ends_with(b"xab"));
        let mut words = Words::default();
        words.add_errno(Errno::ENOENT);
        assert_eq!(words.bytes(), b"no such file or directory");
    }
}
