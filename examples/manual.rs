//! Writes what is made from the definition of the command line: `cargo run --example manual -- DIRECTORY` makes
//! DIRECTORY/man (manual pages), DIRECTORY/completions (bash, fish, zsh) and DIRECTORY/cli.md, of which docs/cli.md is a
//! copy that the tests check.
//!
//! clap appears here only. The program itself reads its arguments without it; docs/startup.md says why.

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, Command};
use clap_complete::aot::Shell;
use microrun::cli::grammar::{Flag, Takes, Verb};
use microrun::cli::{VERBS, global, help};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let directory = PathBuf::from(env::args_os().nth(1).unwrap_or_else(|| "dist".into()));
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    pages(&command(), &man)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command(), "microrun", &completions)?;
    }
    fs::write(directory.join("cli.md"), help::markdown())
}

/// One page for the program and one for each verb, in section 8 as runc's.
fn pages(command: &Command, directory: &Path) -> io::Result<()> {
    for verb in command.get_subcommands() {
        let name = format!("microrun-{}", verb.get_name());
        page(verb.clone().name(name.clone()), &directory.join(format!("{name}.8")))?;
    }
    page(command.clone(), &directory.join("microrun.8"))
}

fn page(command: Command, file: &Path) -> io::Result<()> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command).section("8").render(&mut text)?;
    fs::write(file, text)
}

/// The command line in clap's terms.
fn command() -> Command {
    let globals = global::FLAGS.iter().map(|flag| argument(flag).global(true));
    let command = Command::new("microrun").version(env!("CARGO_PKG_VERSION")).about(help::ABOUT);
    command.long_about(help::DETAILS).args(globals).subcommands(VERBS.iter().map(|verb| subcommand(verb)))
}

fn subcommand(verb: &Verb) -> Command {
    let mut command = Command::new(verb.name).about(verb.about).args(verb.flags.iter().map(argument));
    command = command.override_usage(StyledStr::from(help::usage("microrun", verb)));
    if verb.details.is_empty() { command } else { command.long_about(format!("{}.\n\n{}", verb.about, verb.details)) }
}

fn argument(flag: &Flag) -> Arg {
    let argument = Arg::new(flag.long).long(flag.long).help(flag.help).hide(flag.hidden);
    let argument = flag.short.map_or(argument.clone(), |short| argument.short(short));
    match flag.takes {
        Takes::Nothing => argument.action(ArgAction::SetTrue),
        Takes::Value(name) => argument.value_name(name),
        Takes::Optional(name) => argument.value_name(name).num_args(0..=1).require_equals(true),
    }
}
