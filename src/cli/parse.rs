//! A command line, read by its [grammar](super::grammar) as runc reads its own.
//!
//! Options may stand before and after the operands. `--name` and `-name` are the same, a value follows as the next
//! word, whatever that is, or after `=`, and of an option that is given twice the last counts.

use super::grammar::{Flag, Takes, Verb};
use super::{global, verb_named};
use crate::error::{Error, Kind, Result};
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

/// Options with their values in the order of the command line, and operands.
#[derive(Debug, Default)]
pub struct Words {
    flags: &'static [Flag],
    given: Vec<(&'static Flag, OsString)>,
    operands: Vec<OsString>,
}

impl Words {
    /// None yet, of options that are among `flags`.
    pub(super) fn of(flags: &'static [Flag]) -> Self {
        Self { flags, ..Self::default() }
    }

    /// Whether the switch, or the option with an optional value, is on.
    pub fn has(&self, name: &str) -> bool {
        self.last(name).is_some_and(|value| value != OFF)
    }

    /// Whether the option is there at all, be it to turn a switch off.
    pub fn is_given(&self, name: &str) -> bool {
        self.last(name).is_some()
    }

    /// The value of an option; an empty one is as good as none, as in runc.
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        self.last(name).filter(|value| !value.is_empty())
    }

    /// All values of an option that may be given several times.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &OsStr> {
        debug_assert!(self.knows(name), "no option is called {name}");
        self.given.iter().filter(move |(flag, _)| flag.long == name).map(|(_, value)| value.as_os_str())
    }

    /// The value of an option that is a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    /// The value of an option that is text.
    ///
    /// # Errors
    /// The value is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        self.value(name).map(|value| utf8(&format!("--{name}"), value)).transpose()
    }

    /// All values of an option that is text and may be given several times.
    ///
    /// # Errors
    /// A value is not UTF-8.
    pub fn texts(&self, name: &str) -> Result<Vec<String>> {
        self.values(name).map(|value| utf8(&format!("--{name}"), value).map(str::to_owned)).collect()
    }

    /// The value of an option, parsed; `what` says what it has to be.
    ///
    /// # Errors
    /// The value is not one.
    pub fn parsed<T: FromStr>(&self, name: &str, what: impl Display) -> Result<Option<T>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| invalid(name, text, what))
    }

    /// The operand number `index`, from 0, as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn operand(&self, index: usize) -> Result<Option<&str>> {
        self.operands.get(index).map(|word| utf8("the argument", word)).transpose()
    }

    /// All operands.
    pub fn operands(&self) -> &[OsString] {
        &self.operands
    }

    /// The operands after the first, as text: what belongs to another program.
    ///
    /// # Errors
    /// One of them is not UTF-8.
    pub fn rest(&self) -> Result<Vec<String>> {
        self.operands.iter().skip(1).map(|word| utf8("an argument", word).map(str::to_owned)).collect()
    }

    /// The container's id: the first operand.
    ///
    /// # Errors
    /// There is none, it is empty or it is not UTF-8.
    pub fn id(&self) -> Result<&str> {
        match self.operand(0)? {
            None | Some("") => Err(Error::new(Kind::Usage, "container id cannot be empty")),
            Some(id) => Ok(id),
        }
    }

    fn last(&self, name: &str) -> Option<&OsStr> {
        debug_assert!(self.knows(name), "no option is called {name}");
        self.given.iter().rev().find(|(flag, _)| flag.long == name).map(|(_, value)| value.as_os_str())
    }

    fn knows(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag.long == name)
    }
}

/// What a switch that was turned off is recorded as. It cannot come from the command line: arguments have no NUL.
const OFF: &str = "\0off";

/// A value that is wrong, in one sentence.
pub(super) fn invalid(name: &str, value: &str, what: impl Display) -> Error {
    Error::new(Kind::Usage, format!("invalid value {value:?} for flag --{name}: give {what}"))
}

fn utf8<'a>(what: &str, word: &'a OsStr) -> Result<&'a str> {
    word.to_str().ok_or_else(|| Error::new(Kind::Usage, format!("{what} is not UTF-8: {}", word.to_string_lossy())))
}

/// What a whole command line asks for.
#[derive(Debug)]
pub enum Request {
    /// `--version`, `-v`.
    Version,
    /// `--help` without a verb, `help`, or nothing at all.
    Help,
    /// `VERB --help`, `help VERB`.
    VerbHelp(&'static Verb),
    /// A verb to do.
    Call(&'static Verb, Words),
}

/// Reads a command line without its first word, the program. The global options are returned beside an error, too: the
/// error has to go to the log that they name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> (Words, Result<Request>) {
    let mut globals = Words::of(global::FLAGS);
    let request = Scanner { args: args.into_iter(), globals: &mut globals }.request();
    (globals, request)
}

struct Scanner<'a, I> {
    args: I,
    globals: &'a mut Words,
}

/// A word of the command line, taken apart.
enum Word {
    /// Not an option.
    Operand(OsString),
    /// `--`.
    End,
    /// An option's name without dashes, and what followed `=`.
    Option(String, Option<OsString>),
}

impl<I: Iterator<Item = OsString>> Scanner<'_, I> {
    fn request(&mut self) -> Result<Request> {
        while let Some(word) = self.args.next() {
            match classify(word) {
                Word::End => {}
                Word::Operand(name) => return self.verb(&name),
                Word::Option(name, value) => match name.as_str() {
                    "help" | "h" => return Ok(Request::Help),
                    "version" | "v" => return Ok(Request::Version),
                    _ => {
                        let flag = find(global::FLAGS, &name).ok_or_else(|| unknown_flag(&name, ""))?;
                        let value = self.value_of(flag, value)?;
                        self.globals.given.push((flag, value));
                    }
                },
            }
        }
        Ok(Request::Help)
    }

    fn verb(&mut self, name: &OsStr) -> Result<Request> {
        if name == "help" || name == "h" {
            return match self.args.next() {
                None => Ok(Request::Help),
                Some(topic) => lookup(&topic).map(Request::VerbHelp),
            };
        }
        let verb = lookup(name)?;
        let mut words = Words::of(verb.flags);
        while let Some(word) = self.args.next() {
            if verb.passes_rest && !words.operands.is_empty() {
                // `exec ID -- program`: what is between stands for itself, but for the two dashes.
                words.operands.extend(Some(word).filter(|word| word != "--" || words.operands.len() > 1));
                words.operands.extend(self.args.by_ref());
                break;
            }
            match classify(word) {
                Word::Operand(operand) => words.operands.push(operand),
                Word::End => words.operands.extend(self.args.by_ref()),
                Word::Option(name, _) if name == "help" || name == "h" => return Ok(Request::VerbHelp(verb)),
                Word::Option(name, value) => self.option(verb, &mut words, &name, value)?,
            }
        }
        check_count(verb, words.operands.len())?;
        Ok(Request::Call(verb, words))
    }

    fn option(&mut self, verb: &Verb, words: &mut Words, name: &str, value: Option<OsString>) -> Result<()> {
        if let Some(flag) = find(verb.flags, name) {
            let value = self.value_of(flag, value)?;
            words.given.push((flag, value));
        } else {
            let flag = find(global::FLAGS, name).ok_or_else(|| unknown_flag(name, verb.name))?;
            let value = self.value_of(flag, value)?;
            self.globals.given.push((flag, value));
        }
        Ok(())
    }

    fn value_of(&mut self, flag: &Flag, value: Option<OsString>) -> Result<OsString> {
        match (flag.takes, value) {
            (Takes::Nothing, None) | (Takes::Optional(_), None) => Ok(OsString::new()),
            (Takes::Nothing, Some(value)) => switch(flag, &value),
            (Takes::Value(_) | Takes::Optional(_), Some(value)) => Ok(value),
            (Takes::Value(_), None) => self.args.next().ok_or_else(|| {
                Error::new(Kind::Usage, format!("flag needs an argument: --{0}: give --{0}=VALUE", flag.long))
            }),
        }
    }
}

fn classify(word: OsString) -> Word {
    let bytes = word.as_bytes();
    if bytes == b"--" {
        return Word::End;
    }
    let dashes = bytes.iter().take(2).take_while(|byte| **byte == b'-').count();
    // A lone dash is standard input, and -9 is a number.
    if dashes == 0 || !bytes.get(dashes).is_some_and(u8::is_ascii_alphabetic) {
        return Word::Operand(word);
    }
    let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
        None => (&bytes[dashes..], None),
        Some(equals) => (&bytes[dashes..equals], Some(OsString::from_vec(bytes[equals + 1..].to_vec()))),
    };
    Word::Option(String::from_utf8_lossy(name).into_owned(), value)
}

fn find(flags: &'static [Flag], name: &str) -> Option<&'static Flag> {
    flags.iter().find(|flag| flag.is_called(name))
}

fn lookup(name: &OsStr) -> Result<&'static Verb> {
    name.to_str().and_then(verb_named).ok_or_else(|| {
        // runc's words, which its users and its tests look for.
        Error::new(Kind::NoVerb, format!("No help topic for '{}'", name.to_string_lossy()))
    })
}

fn switch(flag: &Flag, value: &OsStr) -> Result<OsString> {
    match value.to_str().and_then(truth) {
        Some(true) => Ok(OsString::new()),
        Some(false) => Ok(OsString::from(OFF)),
        None => Err(invalid(flag.long, &value.to_string_lossy(), "true or false")),
    }
}

/// The words that Go's strconv.ParseBool knows, and so runc.
pub(super) fn truth(word: &str) -> Option<bool> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn unknown_flag(name: &str, verb: &str) -> Error {
    let help = if verb.is_empty() { "--help".to_owned() } else { format!("{verb} --help") };
    Error::new(Kind::Usage, format!("flag provided but not defined: -{name}: see {help}"))
}

fn check_count(verb: &Verb, count: usize) -> Result<()> {
    let (least, most) = verb.count;
    let problem = if least == most && count != least {
        format!("exactly {least}")
    } else if count < least {
        format!("a minimum of {least}")
    } else if count > most {
        format!("a maximum of {most}")
    } else {
        return Ok(());
    };
    let name = verb.name;
    Err(Error::new(Kind::Usage, format!("{name:?} requires {problem} argument(s): see {name} --help")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a command line that is written with spaces.
    fn read(line: &str) -> (Words, Result<Request>) {
        parse(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from))
    }

    fn call(line: &str) -> (Words, &'static Verb, Words) {
        match read(line) {
            (globals, Ok(Request::Call(verb, words))) => (globals, verb, words),
            (_, other) => panic!("{line}: {other:?}"),
        }
    }

    fn refused(line: &str) -> String {
        match read(line) {
            (_, Err(error)) => {
                assert!(matches!(error.kind(), Kind::Usage | Kind::NoVerb), "{line}");
                error.to_string()
            }
            (_, other) => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn options_stand_before_and_after_the_operand() {
        for line in [
            "run -b /x --pid-file p -d --preserve-fds 3 ID",
            "run ID -b /x --pid-file p -d --preserve-fds 3",
            "run --bundle=/x --pid-file=p ID --detach --preserve-fds=3",
            "run -bundle /x -pid-file=p -detach=true -preserve-fds 3 -- ID",
            "run -b=/x --b /x --d -d ID --pid-file p -preserve-fds=3",
            "run --bundle /y -b /x --pid-file p --detach=0 --detach=T --preserve-fds 2 ID --preserve-fds 3",
        ] {
            let (_, verb, words) = call(line);
            assert_eq!(verb.name, "run", "{line}");
            assert_eq!(words.path("bundle").unwrap().to_str(), Some("/x"), "{line}");
            assert_eq!(words.path("pid-file").unwrap().to_str(), Some("p"), "{line}");
            assert!(words.has("detach") && !words.has("keep"), "{line}");
            assert_eq!(words.parsed::<u32>("preserve-fds", "a number").unwrap(), Some(3), "{line}");
            assert_eq!(words.id().unwrap(), "ID", "{line}");
        }
    }

    #[test]
    fn a_value_is_the_next_word_whatever_it_is() {
        let (_, _, words) = call("run --pid-file --keep -b - ID");
        assert_eq!(words.path("pid-file").unwrap().to_str(), Some("--keep"));
        assert_eq!(words.path("bundle").unwrap().to_str(), Some("-"));
        assert!(!words.has("keep"));
        assert_eq!(call("run --pid-file= ID").2.path("pid-file"), None);
    }

    #[test]
    fn an_optional_value_follows_an_equals_sign_only() {
        let (_, _, words) = call("run --overlay ID");
        assert!(words.has("overlay") && words.path("overlay").is_none());
        let (_, _, words) = call("run --overlay=/upper ID");
        assert_eq!(words.path("overlay").unwrap().to_str(), Some("/upper"));
        assert!(!call("run ID").2.has("overlay"));
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in ["--root /x --debug --log=l state ID", "state --root=/x ID -log l -debug"] {
            let (globals, verb, words) = call(line);
            assert_eq!(globals.path("root").unwrap().to_str(), Some("/x"), "{line}");
            assert_eq!(globals.path("log").unwrap().to_str(), Some("l"), "{line}");
            assert!(globals.has("debug") && !globals.has("systemd-cgroup"), "{line}");
            assert_eq!((verb.name, words.id().unwrap()), ("state", "ID"), "{line}");
        }
    }

    #[test]
    fn a_dash_and_a_negative_number_are_operands() {
        assert_eq!(call("kill ID -9").2.operand(1).unwrap(), Some("-9"));
        assert_eq!(call("state -").2.id().unwrap(), "-");
        assert_eq!(call("state -- --root").2.id().unwrap(), "--root");
    }

    #[test]
    fn requests_for_help_and_version() {
        for line in ["", "--help", "-h", "help", "h", "--debug", "--root /x help"] {
            assert!(matches!(read(line).1, Ok(Request::Help)), "{line}");
        }
        for line in ["run --help", "run ID -h", "help run", "h run"] {
            assert!(matches!(read(line).1, Ok(Request::VerbHelp(verb)) if verb.name == "run"), "{line}");
        }
        for line in ["--version", "-v", "--debug -v"] {
            assert!(matches!(read(line).1, Ok(Request::Version)), "{line}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(read("bogus").1.unwrap_err().kind(), Kind::NoVerb);
        assert_eq!(refused("bogus"), "No help topic for 'bogus'");
        assert_eq!(refused("bogus --help"), "No help topic for 'bogus'");
        assert_eq!(refused("--bogus run x"), "flag provided but not defined: -bogus: see --help");
        assert_eq!(refused("run --bogus=1 x"), "flag provided but not defined: -bogus: see run --help");
        assert_eq!(refused("run -dk x"), "flag provided but not defined: -dk: see run --help");
        assert_eq!(refused("state x --pid-file"), "flag provided but not defined: -pid-file: see state --help");
        assert_eq!(refused("run x --pid-file"), "flag needs an argument: --pid-file: give --pid-file=VALUE");
        assert_eq!(refused("run --keep=maybe x"), "invalid value \"maybe\" for flag --keep: give true or false");
        assert_eq!(refused("state"), "\"state\" requires exactly 1 argument(s): see state --help");
        assert_eq!(refused("state a b"), "\"state\" requires exactly 1 argument(s): see state --help");
        assert_eq!(refused("kill"), "\"kill\" requires a minimum of 1 argument(s): see kill --help");
        assert_eq!(refused("kill a b c"), "\"kill\" requires a maximum of 2 argument(s): see kill --help");
        let (_, _, words) = call("run --preserve-fds x ID");
        let error = words.parsed::<u32>("preserve-fds", "how many").unwrap_err().to_string();
        assert_eq!(error, "invalid value \"x\" for flag --preserve-fds: give how many");
    }

    #[test]
    fn an_error_does_not_lose_the_log() {
        let (globals, request) = read("--log l --log-format json run --bogus");
        assert!(request.is_err());
        assert_eq!(globals.path("log").unwrap().to_str(), Some("l"));
        assert_eq!(globals.text("log-format").unwrap(), Some("json"));
    }

    #[test]
    fn no_option_is_defined_twice() {
        for verb in super::super::VERBS {
            let own = verb.flags.iter();
            let names: Vec<String> =
                own.flat_map(|flag| [Some(flag.long.to_owned()), flag.short.map(String::from)]).flatten().collect();
            let mut unique = names.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), names.len(), "{}: {names:?}", verb.name);
            assert!(verb.flags.iter().all(|flag| !matches!(flag.long, "help" | "h")), "{}", verb.name);
        }
    }

    /// A verb and the name of an option of its that takes a value.
    fn options_with_values() -> impl Strategy<Value = (&'static Verb, &'static str)> {
        let of = |verb: &'static Verb| verb.flags.iter().map(move |flag| (verb, flag));
        let all = crate::cli::VERBS.iter().flat_map(|verb| of(verb));
        let valued =
            all.filter(|(_, flag)| matches!(flag.takes, Takes::Value(_))).map(|(verb, flag)| (verb, flag.long));
        prop::sample::select(valued.collect::<Vec<_>>())
    }

    /// A word of a command line: names and values that mean something, and any bytes but NUL.
    fn words() -> impl Strategy<Value = OsString> {
        let known: Vec<&str> = crate::cli::VERBS.iter().flat_map(|verb| verb.flags).map(|flag| flag.long).collect();
        let verbs: Vec<&str> = crate::cli::VERBS.iter().map(|verb| verb.name).collect();
        let value = prop_oneof![Just(String::new()), Just("=".to_owned()), "=.{0,9}", Just("=true".to_owned())];
        prop_oneof![
            prop::sample::select(verbs).prop_map(OsString::from),
            ("--?", prop::sample::select(known), value)
                .prop_map(|(dash, name, value)| format!("{dash}{name}{value}").into()),
            "-{0,3}[a-zA-Z0-9=]{0,5}".prop_map(OsString::from),
            prop::collection::vec(1..=u8::MAX, 0..12).prop_map(OsString::from_vec),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Any command line is a request, or refused as a wrong use; all that a verb may ask of it has an answer.
        #[test]
        fn any_words_are_answered(line in prop::collection::vec(words(), 0..8)) {
            let count = line.len();
            match parse(line) {
                (_, Err(error)) => prop_assert!(matches!(error.kind(), Kind::Usage | Kind::NoVerb)),
                (_, Ok(Request::Call(verb, words))) => {
                    prop_assert!((verb.count.0..=verb.count.1).contains(&words.operands().len()));
                    prop_assert!(words.operands().len() + words.given.len() < count);
                    for flag in verb.flags {
                        let (has, given) = (words.has(flag.long), words.is_given(flag.long));
                        prop_assert!(given || !has);
                        let _ = (words.text(flag.long), words.texts(flag.long), words.parsed::<u32>(flag.long, "a number"));
                    }
                    let _ = (words.id(), words.rest());
                }
                _ => {}
            }
        }

        /// `--name VALUE`, `--name=VALUE` and `-name VALUE`, before the operands and after, say the same.
        #[test]
        fn ways_to_write_an_option(
            (verb, name) in options_with_values(), value in "[^\0]{1,12}"
        ) {
            let operands: Vec<String> = (0..verb.count.0.max(1).min(verb.count.1)).map(|number| format!("x{number}")).collect();
            let ways = [vec![format!("--{name}={value}")], vec![format!("--{name}"), value.clone()],
                        vec![format!("-{name}"), value.clone()]];
            for option in ways {
                for after in [false, true] {
                    // What follows an operand of exec belongs to the program.
                    let line: Vec<&String> = if after && !verb.passes_rest {
                        operands.iter().chain(&option).collect()
                    } else {
                        option.iter().chain(&operands).collect()
                    };
                    let line = [OsString::from(verb.name)].into_iter().chain(line.into_iter().map(OsString::from));
                    match parse(line) {
                        (_, Ok(Request::Call(called, words))) => {
                            prop_assert_eq!(called.name, verb.name);
                            prop_assert_eq!(words.value(name), Some(OsStr::new(&value)));
                            prop_assert_eq!(words.operands(), &operands.iter().map(OsString::from).collect::<Vec<_>>()[..]);
                        }
                        (_, other) => prop_assert!(false, "{other:?}"),
                    }
                }
            }
        }
    }
}
