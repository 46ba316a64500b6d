//! The help, in runc's shape.

use super::grammar::{Flag, Takes, Verb};
use super::{VERBS, global};
use std::fmt::Write;

/// What microrun is, in one line.
pub const ABOUT: &str = "Open Container Initiative runtime";

/// How to begin.
pub const DETAILS: &str = "\
Runs containers from OCI bundles: a bundle is a directory with a config.json and a root filesystem.

To run one: run BUNDLE/, or run -b BUNDLE ID. To see what a run would do: explain BUNDLE/.";

/// What docs/cli.md says before the help of each verb.
const MARKDOWN: &str = "\
# The command line

Generated from the program's own help by `make man`; a test compares the two.

Verbs, options, output and exit codes are runc's. Options may stand before and after the id; `--name value`, `--name=value` and
`-name value` are the same; of an option that is given twice the last counts, but for those that say otherwise. All that follows
the id of `exec` and `ps` belongs to the program that they start. Global options are understood after the verb, too.

Exit codes: 1 for an error, 3 for a verb that does not exist, 255 for an `exec` that cannot start its process. `run` and
`exec` otherwise exit as the process did, or with 128 + N when signal N ended it.

An error is one line on standard error. With `--log FILE` it is there as well, in the format of `--log-format`, which engines read.

In a service of systemd or another manager that knows sd_notify(3), two things of the environment are passed on:

- `NOTIFY_SOCKET`: the container gets a socket of its own, /run/notify/notify.sock, and its name in this variable. When its program
  says `READY=1` there, the manager is told so, and which process is the main one: the container's first, or the runtime for a `run`
  in the foreground. `start` and `run --detach` return only then, or when the container has ended; nothing else that is said is passed on.
- `LISTEN_FDS`, if `LISTEN_PID` is the runtime's pid: `create` and `run` hand the descriptors from 3 up to the program, with
  `LISTEN_PID=1` and the `LISTEN_FDNAMES` that there are. Those of `--preserve-fds` follow.

";

/// The help of the program, which was called by the name `program`.
pub fn program(program: &str) -> String {
    let mut text = format!("NAME:\n   {program} - {ABOUT}\n\n");
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(text, "USAGE:\n   {program} [global options] command [options] [arguments]\n");
    let _ = writeln!(text, "DESCRIPTION:\n{}\n", indented(DETAILS));
    let _ = writeln!(text, "COMMANDS:\n{}", columns(VERBS.iter().map(|verb| (verb.name.to_owned(), verb.about))));
    let own = [("--help, -h".to_owned(), "show this help"), ("--version, -v".to_owned(), "show the version")];
    let _ = write!(text, "GLOBAL OPTIONS:\n{}", columns(flag_lines(global::FLAGS).chain(own)));
    text
}

/// The help of `verb`.
pub fn verb(program: &str, verb: &Verb) -> String {
    let mut text = format!("NAME:\n   {program} {} - {}\n\n", verb.name, verb.about);
    let _ = writeln!(text, "USAGE:\n   {}\n", usage(program, verb));
    if !verb.details.is_empty() {
        let _ = writeln!(text, "DESCRIPTION:\n{}\n", indented(verb.details));
    }
    let own = [("--help, -h".to_owned(), "show this help")];
    let _ = write!(text, "OPTIONS:\n{}", columns(flag_lines(verb.flags).chain(own)));
    text
}

/// The whole reference, as docs/cli.md has it.
pub fn markdown() -> String {
    let mut text = String::from(MARKDOWN);
    let _ = write!(text, "```\n{}```\n", program("microrun"));
    for each in VERBS {
        let _ = write!(text, "\n## {}\n\n```\n{}```\n", each.name, verb("microrun", each));
    }
    text
}

/// How `verb` is called, in one line.
pub fn usage(program: &str, verb: &Verb) -> String {
    let options = if verb.flags.iter().any(|flag| !flag.hidden) { " [options]" } else { "" };
    let space = if verb.operands.is_empty() { "" } else { " " };
    format!("{program} {}{options}{space}{}", verb.name, verb.operands)
}

/// How `flag` is written: "--bundle DIR, -b DIR".
pub fn spelling(flag: &Flag) -> String {
    let mut spelling = with_value(&format!("--{}", flag.long), flag.takes);
    if let Some(short) = flag.short {
        spelling.push_str(", ");
        spelling.push_str(&with_value(&format!("-{short}"), flag.takes));
    }
    spelling
}

fn with_value(name: &str, takes: Takes) -> String {
    match takes {
        Takes::Nothing => name.to_owned(),
        Takes::Value(value) => format!("{name} {value}"),
        Takes::Optional(value) => format!("{name}[={value}]"),
    }
}

fn flag_lines(flags: &'static [Flag]) -> impl Iterator<Item = (String, &'static str)> {
    flags.iter().filter(|flag| !flag.hidden).map(|flag| (spelling(flag), flag.help))
}

fn columns(lines: impl Iterator<Item = (String, &'static str)>) -> String {
    let lines: Vec<_> = lines.collect();
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.iter().fold(String::new(), |mut text, (name, help)| {
        let _ = writeln!(text, "   {name:width$}  {help}");
        text
    })
}

fn indented(text: &str) -> String {
    let indent = |line: &str| if line.is_empty() { String::new() } else { format!("   {line}") };
    text.lines().map(indent).collect::<Vec<_>>().join("\n")
}
