//! The one error type: a sentence that names the field or the path, says what is wrong and what to do.

use nix::errno::Errno;
use std::fmt;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it was: callers and exit codes depend on this, never on the wording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// The command line names a verb that does not exist (exit code 3 in runc).
    NoVerb,
    /// config.json (or process.json, or a resources file) asks for something that is invalid or unsupported.
    Config,
    /// There is no container of that id.
    NoContainer,
    /// A container of that id exists already.
    Exists,
    /// The container is not in the state that the verb needs (running, created, stopped, ...).
    WrongState,
    /// The program to execute does not exist (shells and engines know this as exit code 127).
    NoProgram,
    /// The program to execute may not be executed (exit code 126).
    NotExecutable,
    /// The kernel or the file system refused an operation.
    System,
}

/// An error: its kind, its one sentence and, where the kernel spoke, its errno.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
    errno: Option<Errno>,
    on_stderr: bool,
    in_init: bool,
}

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), errno: None, on_stderr: false, in_init: false }
    }

    /// The field `field` of config.json is wrong; `problem` says how, and what to do.
    pub fn config(field: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::new(Kind::Config, format!("config.json: {field}: {problem}"))
    }

    /// The operation `doing` ("create the directory /run/x") failed in the kernel with `errno`.
    pub fn system(doing: impl fmt::Display, errno: Errno) -> Self {
        Self::new(Kind::System, format!("{doing}: {}", describe(errno))).with_errno(errno)
    }

    /// The operation `doing` failed with the I/O error `error`.
    pub fn io(doing: impl fmt::Display, error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => Self::system(doing, Errno::from_raw(code)),
            None => Self::new(Kind::System, format!("{doing}: {error}")),
        }
    }

    /// The same error with the kernel's error number.
    #[must_use]
    pub fn with_errno(mut self, errno: Errno) -> Self {
        self.errno = Some(errno);
        self
    }

    /// The same error seen from further out: `doing` is put before its sentence.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// The same error, and `other`, which came after it.
    #[must_use]
    pub fn and(mut self, other: impl fmt::Display) -> Self {
        self.message = format!("{}; then: {other}", self.message);
        self
    }

    /// The same error, which standard error has been told already.
    #[must_use]
    pub fn on_stderr(mut self) -> Self {
        self.on_stderr = true;
        self
    }

    /// Whether standard error has been told already.
    pub fn is_on_stderr(&self) -> bool {
        self.on_stderr
    }

    /// The same error, of a container's init on its way to the program.
    #[must_use]
    pub fn in_init(mut self) -> Self {
        self.in_init = true;
        self
    }

    /// Whether a container's init failed on its way to the program.
    pub fn is_in_init(&self) -> bool {
        self.in_init
    }

    /// What sort of failure it was.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The kernel's error number, where there was one.
    pub fn errno(&self) -> Option<Errno> {
        self.errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Gives a failed system call or I/O operation the words of what was being done.
pub trait Doing<T> {
    /// Turns the failure into an [`Error`] that begins with what `doing` returns.
    fn doing<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, Errno> {
    fn doing<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|errno| Error::system(doing(), errno))
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| Error::io(doing(), &error))
    }
}

/// An errno as engines and their users know it: the C library's words in lower case ("no such file or directory").
pub fn describe(errno: Errno) -> String {
    match errno {
        Errno::ENOSYS => missing("5.10"),
        _ => errno.desc().to_lowercase(),
    }
}

/// Why a system call is missing that Linux has since `version`. docs/kernel-features.md says which kernel has what.
pub fn missing(version: &str) -> String {
    let words = Errno::ENOSYS.desc().to_lowercase();
    format!("{words}: this needs Linux {version} or later, and that no seccomp filter around microrun hides it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_error_reads_as_engines_match_it() {
        let error = Error::system("open /no/such", Errno::ENOENT).context("load the bundle");
        assert_eq!(error.to_string(), "load the bundle: open /no/such: no such file or directory");
        assert_eq!(error.errno(), Some(Errno::ENOENT));
        assert_eq!(error.kind(), Kind::System);
    }

    #[test]
    fn a_config_error_names_the_field() {
        let error = Error::config("process.args", "is empty: name the program to run");
        assert_eq!(error.to_string(), "config.json: process.args: is empty: name the program to run");
    }
}
