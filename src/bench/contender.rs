//! Who is measured: command lines with places for what differs from start to start.

use super::parked::Way;
use super::record::Kind;
use super::sample;
use crate::pool;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the action writes.
pub const HELLO: &[u8] = b"Hello\n";

/// A mount namespace in which somebody is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Where everybody is who can be.
    Common,
    /// Where there are v1 hierarchies alone: for those who fail elsewhere.
    V1,
    /// Where engines may write.
    Engines,
}

/// A contender. In its words `{bundle}`, `{id}`, `{slot}` and `{rootfs}` stand for those of a start.
#[derive(Debug, Clone)]
pub struct Contender {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What it isolates, where that is not what the common configuration asks for.
    pub isolation: String,
    /// What it says of its version.
    pub version: String,
    /// The command line.
    pub words: Vec<String>,
    /// What to do after a failure, lest the next start find the container there.
    pub clean_up: Option<Vec<String>>,
    /// Whether an overlayfs is made for each start, before the spawn but within the time.
    pub overlay: bool,
    /// Whether the action's line is all that it may write.
    pub exact: bool,
    /// Where it is started.
    pub place: Place,
    /// How it is started.
    pub way: Way,
}

impl Contender {
    /// A program that takes no bundle.
    pub fn plain(name: &str, kind: Kind, isolation: &str, words: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            isolation: isolation.to_owned(),
            version: String::new(),
            words,
            clean_up: None,
            overlay: false,
            exact: true,
            place: Place::Common,
            way: Way::Command,
        }
    }

    /// A runtime with runc's command line: `program` may have options of its own. `options` are those of `run`.
    pub fn runtime(name: &str, program: &[String], root: &Path, options: &[&str]) -> Self {
        let with = |rest: &[&str]| {
            let mut words = program.to_vec();
            words.extend(["--root".to_owned(), root.to_string_lossy().into_owned()]);
            words.extend(rest.iter().map(|word| (*word).to_owned()));
            words
        };
        let run = with(&[&["run"], options, &["--bundle", "{bundle}", "{id}"]].concat());
        Self {
            version: version(program),
            clean_up: Some(with(&["delete", "--force", "{id}"])),
            ..Self::plain(name, Kind::Container, "", run)
        }
    }

    /// The name as it may stand in a path, and in a container's id.
    pub fn label(&self) -> String {
        label(&self.name)
    }

    /// Whether it takes a bundle.
    pub fn takes_bundle(&self) -> bool {
        self.words.iter().any(|word| word.contains("{bundle}"))
    }
}

/// A name as it may stand in a path, and in a container's id.
pub fn label(name: &str) -> String {
    name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect()
}

/// What `program` says to `--version`, in a line.
pub fn version(program: &[String]) -> String {
    let words = program.iter().map(String::as_str).chain(["--version"]);
    match sample::said(&mut words_to_command(words.map(OsString::from)), SAYING) {
        Ok(said) => said.lines().take(2).collect::<Vec<_>>().join(", "),
        Err(failure) => format!("--version: {failure}"),
    }
}

/// How long a program may take to say its version.
const SAYING: Duration = Duration::from_secs(5);

/// A command with nothing on its standard input and the same small environment for everybody, in which there is no pool: who
/// is to find one is told.
pub fn words_to_command(words: impl IntoIterator<Item = OsString>) -> Command {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env(pool::VARIABLE, "off");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The program `name` in $PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// Splits a command line into words at spaces; single and double quotes keep them.
///
/// # Errors
/// A quote is not closed, or there is no word.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t' | '\n') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    match (quote, words.is_empty()) {
        (Some(quote), _) => Err(format!("{line:?} opens a {quote} and does not close it")),
        (None, true) => Err(format!("{line:?} has no word")),
        (None, false) => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_finds_a_pool_by_himself() {
        let command = words_to_command(["x".into()]);
        let told = command.get_envs().find(|(name, _)| *name == pool::VARIABLE).and_then(|(_, value)| value);
        assert_eq!(told, Some("off".as_ref()));
    }

    #[test]
    fn words_of_a_peer() {
        assert_eq!(split("a  'b c' \"d'e\"f ''").unwrap(), ["a", "b c", "d'ef", ""]);
        assert!(split("a 'b").unwrap_err().contains("does not close"));
        assert!(split("  ").is_err());
    }

    #[test]
    fn a_runtime_is_called_as_runc_is() {
        let runtime = Contender::runtime("x", &["/nonexistent".into()], Path::new("/r"), &["--overlay"]);
        assert_eq!(runtime.words.join(" "), "/nonexistent --root /r run --overlay --bundle {bundle} {id}");
        assert!(runtime.takes_bundle());
        assert_eq!(Contender { name: "runc + overlay".into(), ..runtime }.label(), "runc---overlay");
    }
}
