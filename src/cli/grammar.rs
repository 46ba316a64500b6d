//! What a command line may say: the verbs, their options and their operands, as data.
//!
//! This is the one definition of the command line. The parser ([`super::parse`]), the help ([`super::help`]), the
//! manual pages, the shell completions and docs/cli.md are all made from it. It is data and not clap's builder
//! because the start path cannot afford the builder: docs/startup.md has the figures.

use super::global::Global;
use super::parse::Words;
use crate::error::Result;

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing: it is a switch. As in Go, `--switch=false` turns it off again.
    Nothing,
    /// A value, called so in the help: `--option VALUE` or `--option=VALUE`.
    Value(&'static str),
    /// A value or nothing: `--option` or `--option=VALUE`.
    Optional(&'static str),
}

/// An option of a verb, or a global one.
#[derive(Debug, PartialEq, Eq)]
pub struct Flag {
    /// Its name, without dashes.
    pub long: &'static str,
    /// Its one-letter name.
    pub short: Option<char>,
    /// What it takes.
    pub takes: Takes,
    /// What it does, in one line.
    pub help: &'static str,
    /// Accepted for the sake of old callers, and not shown.
    pub hidden: bool,
}

impl Flag {
    /// An option that is a switch.
    pub const fn switch(long: &'static str, help: &'static str) -> Self {
        Self { long, short: None, takes: Takes::Nothing, help, hidden: false }
    }

    /// An option with a value, which the help calls `value`.
    pub const fn value(long: &'static str, value: &'static str, help: &'static str) -> Self {
        Self { long, short: None, takes: Takes::Value(value), help, hidden: false }
    }

    /// An option that may have a value, which the help calls `value`.
    pub const fn optional(long: &'static str, value: &'static str, help: &'static str) -> Self {
        Self { long, short: None, takes: Takes::Optional(value), help, hidden: false }
    }

    /// The same option with a one-letter name.
    pub const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    /// The same option, not shown in the help.
    pub const fn hide(self) -> Self {
        Self { hidden: true, ..self }
    }

    /// Whether `name`, without dashes, means this option.
    pub fn is_called(&self, name: &str) -> bool {
        let mut letters = name.chars();
        self.long == name || (self.short.is_some() && self.short == letters.next() && letters.next().is_none())
    }
}

/// A verb: `microrun VERB`.
#[derive(Debug)]
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Its operands, as the help shows them.
    pub operands: &'static str,
    /// The fewest and the most operands.
    pub count: (usize, usize),
    /// What there is to say beyond one line. Paragraphs are set apart by empty lines.
    pub details: &'static str,
    /// Its own options; the global ones are understood as well.
    pub flags: &'static [Flag],
    /// All that follows the first operand belongs to another program and is passed on as it is.
    pub passes_rest: bool,
    /// The exit code when it fails: 1, but 255 for `exec`.
    pub failure: u8,
    /// Does it, and returns the exit code.
    pub call: fn(&Global, &Words) -> Result<u8>,
}

impl Verb {
    /// A verb whose one operand is a container's id, without options of its own.
    pub const fn on_container(
        name: &'static str,
        about: &'static str,
        call: fn(&Global, &Words) -> Result<u8>,
    ) -> Self {
        let operands = "<container-id>";
        Self { name, about, operands, count: (1, 1), details: "", flags: &[], passes_rest: false, failure: 1, call }
    }
}

/// Options that several verbs share.
pub mod shared {
    use super::Flag;

    /// Where the bundle is.
    pub const BUNDLE: Flag =
        Flag::value("bundle", "DIR", "the bundle's directory (default: the current directory)").short('b');
    /// Where the terminal's master goes.
    pub const CONSOLE_SOCKET: Flag =
        Flag::value("console-socket", "PATH", "send the descriptor of the terminal's master to this unix socket");
    /// Where the pidfd goes.
    pub const PIDFD_SOCKET: Flag =
        Flag::value("pidfd-socket", "PATH", "send a pidfd of the process to this unix socket");
    /// Where the pid goes.
    pub const PID_FILE: Flag = Flag::value("pid-file", "FILE", "write the pid of the process to this file");
    /// Inherited descriptors.
    pub const PRESERVE_FDS: Flag = Flag::value(
        "preserve-fds",
        "N",
        "hand N more descriptors to the process, after standard input, output, error and those of $LISTEN_FDS",
    );
    /// For a root on a ramdisk.
    pub const NO_PIVOT: Flag =
        Flag::switch("no-pivot", "enter the root with MS_MOVE and chroot, for a root that is on a ramdisk");
    /// Keep the caller's session keyring.
    pub const NO_NEW_KEYRING: Flag =
        Flag::switch("no-new-keyring", "leave the caller's session keyring to the container instead of a new one");
    /// Do not stay.
    pub const DETACH: Flag = Flag::switch("detach", "return as soon as the process runs").short('d');
    /// An overlay over the root.
    pub const OVERLAY: Flag = Flag::optional(
        "overlay",
        "DIR",
        "keep what the container writes off root.path: in DIR (upper and work directories), or in memory without DIR",
    );
}
