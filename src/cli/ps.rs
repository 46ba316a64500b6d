//! `microrun ps`

use super::global::Global;
use super::grammar::{Flag, Verb};
use super::parse::Words;
use super::{print, print_json, value};
use crate::container::control;
use crate::container::store::Store;
use crate::error::{Doing, Error, Kind, Result};
use std::process::Command;

/// The verb.
pub static VERB: Verb = Verb {
    name: "ps",
    about: "show the processes of a container",
    operands: "<container-id> [options of ps(1)]",
    count: (1, usize::MAX),
    details: "Prints those lines of ps(1) that are about processes of the container. Without options of ps it is called as ps -ef.",
    flags: &[Flag::value("format", "FORMAT", "table (default), or json for the pids alone").short('f')],
    passes_rest: true,
    failure: 1,
    call,
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    let json = value::is_json(words.text("format")?)?;
    let pids = control::processes(&Store::new(&global.root), words.id()?)?;
    if json {
        // As runc says it.
        return if pids.is_empty() { print("null\n") } else { print_json(&pids) };
    }
    let mut options = words.rest()?;
    if options.is_empty() {
        options.push("-ef".to_owned());
    }
    print(&lines_of(&ps(&options)?, &pids)?)
}

fn ps(options: &[String]) -> Result<String> {
    let output = Command::new("ps").args(options).output().doing(|| "run ps (Debian's package procps)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(Kind::System, format!("ps: {}: {}", output.status, said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The title, and the lines whose column PID is one of `pids`.
fn lines_of(text: &str, pids: &[i32]) -> Result<String> {
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let column = title
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| Error::new(Kind::Usage, "couldn't find PID field in ps output: give ps options that show it"))?;
    let is_ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|field| field.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    Ok(std::iter::once(title).chain(lines.filter(is_ours)).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chosen_by_pid() {
        let text = "UID   PID PPID CMD\nroot    1    0 init 12\nroot   12    1 sh\nroot  120    1 x\n";
        assert_eq!(lines_of(text, &[12]).unwrap(), "UID   PID PPID CMD\nroot   12    1 sh\n");
        assert_eq!(lines_of(text, &[]).unwrap(), "UID   PID PPID CMD\n");
        assert!(lines_of("CMD\nsh\n", &[1]).unwrap_err().to_string().starts_with("couldn't find PID field"));
        assert!(lines_of("", &[1]).is_err());
    }
}
