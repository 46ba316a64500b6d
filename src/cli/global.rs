//! The options that every verb understands.

use super::grammar::Flag;
use super::parse::{Words, invalid, truth};
use crate::cgroup::rootless::is_real_root;
use crate::cgroup::{self, Driver};
use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::path;
use nix::unistd::geteuid;
use std::cell::OnceCell;
use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The global options.
pub const FLAGS: &[Flag] = &[
    Flag::switch("debug", "log what is being done"),
    Flag::value("log", "FILE", "append the log to this file (default: standard error)"),
    Flag::value("log-format", "FORMAT", "text (default) or json"),
    Flag::value(
        "root",
        "DIR",
        "where the state of containers is kept (default: /run/microrun; for a user, and for root of a user namespace unless \
         $USER is root, $XDG_RUNTIME_DIR/microrun)",
    ),
    Flag::switch("systemd-cgroup", "let systemd make the cgroups; cgroupsPath then reads slice:prefix:name"),
    Flag::value(
        "rootless",
        "WHEN",
        "go on without the cgroups that may not be made: true, false, or auto (default: unless the caller is the host's root)",
    ),
];

/// What the global options say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// Where the state of containers is kept: an absolute path.
    pub root: PathBuf,
    /// Whether --root was given.
    pub root_is_given: bool,
    /// Whether systemd makes the cgroups.
    pub systemd_cgroup: bool,
    /// What `--rootless` says, or what was found out where it leaves that to us.
    rootless: OnceCell<bool>,
}

impl Global {
    /// Reads the global options. `--log` and its like are for [`set_up_log`].
    ///
    /// # Errors
    /// A value is not valid, or the directory for the state of a user's containers cannot be made.
    pub fn new(words: &Words) -> Result<Self> {
        let given = words.values("root").last();
        let root = match given {
            Some(root) => given_root(Path::new(root))?,
            None => default_root()?,
        };
        let rootless = match words.text("rootless")? {
            None => OnceCell::new(),
            Some(word) if word.is_empty() || word.eq_ignore_ascii_case("auto") => OnceCell::new(),
            Some(word) => truth(word).ok_or_else(|| invalid("rootless", word, "true, false or auto"))?.into(),
        };
        Ok(Self { root, root_is_given: given.is_some(), systemd_cgroup: words.has("systemd-cgroup"), rootless })
    }

    /// Whether to go on where cgroups may not be made or written to.
    pub fn rootless(&self) -> bool {
        *self.rootless.get_or_init(|| cgroup::is_rootless(self.driver()))
    }

    /// Who makes the cgroups.
    pub fn driver(&self) -> Driver {
        if self.systemd_cgroup { Driver::Systemd } else { Driver::Cgroupfs }
    }
}

/// Sets the log up as `--log`, `--log-format` and `--debug` say.
///
/// # Errors
/// The format is unknown, or the file cannot be opened.
pub fn set_up_log(words: &Words) -> Result<()> {
    let format = match words.text("log-format")? {
        None | Some("text") => log::Format::Text,
        Some("json") => log::Format::Json,
        Some(other) => {
            return Err(Error::new(Kind::Usage, format!("invalid log-format: {other}: give text or json")));
        }
    };
    log::set_up(words.path("log").as_deref(), format, words.has("debug"))
}

/// `root` made absolute, without "." and "..", and not the root of the file system.
fn given_root(root: &Path) -> Result<PathBuf> {
    let current = if root.is_absolute() {
        PathBuf::new()
    } else {
        env::current_dir().doing(|| "find the current directory".to_owned())?
    };
    let clean = path::absolute(&current.join(root));
    if clean == Path::new("/") {
        return Err(Error::new(
            Kind::Usage,
            "Option --root argument should not be set to /: give a directory below it",
        ));
    }
    Ok(clean)
}

/// /run/microrun, but $XDG_RUNTIME_DIR/microrun for users and for root of a user namespace, as in runc.
fn default_root() -> Result<PathBuf> {
    let user = env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty());
    let Some(user) = user.filter(|_| !is_called_root() && !is_real_root()) else {
        return Ok(PathBuf::from("/run/microrun"));
    };
    let root = Path::new(&user).join("microrun");
    let doing = || format!("make {} in $XDG_RUNTIME_DIR, which has to be writable", root.display());
    DirBuilder::new().recursive(true).mode(0o700).create(&root).doing(doing)?;
    // The sticky bit keeps it from being cleaned away (XDG Base Directory Specification, XDG_RUNTIME_DIR).
    fs::set_permissions(&root, Permissions::from_mode(0o1700)).doing(doing)?;
    Ok(root)
}

/// Root of a user namespace that goes by the name of root wants root's directories.
fn is_called_root() -> bool {
    geteuid().is_root() && env::var_os("USER").is_some_and(|name| name == "root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rootless_takes_the_words_of_runc() {
        let given = |word: &str| {
            let line = ["--root=/x".to_owned(), format!("--rootless={word}"), "list".to_owned()];
            let (globals, _) = super::super::parse::parse(line.map(Into::into));
            Global::new(&globals).map(|global| global.rootless.get().copied())
        };
        for (words, expected) in [
            (&["1", "t", "T", "true", "TRUE", "True"][..], Some(true)),
            (&["0", "f", "F", "false", "FALSE", "False"], Some(false)),
            (&["auto", "AUTO", "Auto", ""], None),
        ] {
            for word in words {
                assert_eq!(given(word).unwrap(), expected, "{word:?}");
            }
        }
        for word in ["yes", "tRUE", "2", "automatic"] {
            assert!(given(word).unwrap_err().to_string().contains("give true, false or auto"), "{word}");
        }
    }

    #[test]
    fn a_given_root_is_absolute_and_clean() {
        assert_eq!(given_root(Path::new("/a/./b/../c/")).unwrap(), Path::new("/a/c"));
        assert_eq!(given_root(Path::new("x")).unwrap(), env::current_dir().unwrap().join("x"));
        for root in ["/", "/..", "/a/..", "//"] {
            let error = given_root(Path::new(root)).unwrap_err().to_string();
            assert!(error.starts_with("Option --root argument should not be set to /"), "{root}: {error}");
        }
    }
}
