//! `microrun exec`

use super::global::Global;
use super::grammar::{Flag, Verb, shared};
use super::parse::Words;
use super::{end, value, warn};
use crate::cgroup::join::parse_sub_cgroups;
use crate::container::exec::{self, Changes, Options, Wanted};
use crate::container::relay::Relay;
use crate::container::sealed;
use crate::container::store::Store;
use crate::error::{Error, Kind, Result};
use crate::spec;

/// The verb.
pub static VERB: Verb = Verb {
    name: "exec",
    about: "execute another process in a running container",
    operands: "<container-id> <command> [arguments] | --process FILE <container-id>",
    count: (1, usize::MAX),
    details: "\
Runs the command with the user, environment, rights and limits of the container's own process, but for what
the options change, waits for it and exits with its exit code (128 + N when signal N ended it). When it cannot
be started the exit code is 255.

In the foreground and without a terminal of its own it gets pipes in the place of a terminal, a file, a socket or a
device other than /dev/null, as with run. Use </dev/null in a loop that reads its stdin.",
    flags: &[
        shared::CONSOLE_SOCKET,
        shared::PIDFD_SOCKET,
        Flag::value("cwd", "DIR", "the working directory in the container"),
        Flag::value("env", "NAME=VALUE", "one more environment variable; may be given several times").short('e'),
        Flag::switch("tty", "give it a terminal").short('t'),
        Flag::value("user", "UID[:GID]", "the user, in numbers").short('u'),
        Flag::value("additional-gids", "GID", "one more group, as a number; may be given several times").short('g'),
        Flag::value("process", "FILE", "read the process from this file (JSON, as in config.json)").short('p'),
        shared::DETACH,
        shared::PID_FILE,
        Flag::value("process-label", "LABEL", "the SELinux label"),
        Flag::value("apparmor", "PROFILE", "the AppArmor profile"),
        Flag::switch("no-new-privs", "set no_new_privs"),
        Flag::value("cap", "CAPABILITY", "one more capability, such as CAP_KILL; may be given several times")
            .short('c'),
        Flag::value(
            "preserve-fds",
            "N",
            "hand N more descriptors to the process, after standard input, output and error",
        ),
        Flag::value(
            "cgroup",
            "[CONTROLLERS:]PATH",
            "run it in this cgroup below the container's; several times for several controllers of cgroup v1",
        ),
        Flag::switch("ignore-paused", "do it even if the container is paused: the process starts when it is resumed"),
    ],
    passes_rest: true,
    failure: 255,
    call,
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    sealed::ensure(None)?;
    exec(global, words).map_err(in_runcs_words)
}

fn exec(global: &Global, words: &Words) -> Result<u8> {
    let sub_cgroups = words.texts("cgroup")?;
    let options = Options {
        store: Store::new(&global.root),
        id: words.id()?.to_owned(),
        wanted: wanted(words)?,
        rootless: global.rootless(),
        detach: words.has("detach"),
        ignore_paused: words.has("ignore-paused"),
        preserve_fds: words.parsed("preserve-fds", "how many descriptors")?.unwrap_or(0),
        pid_file: words.path("pid-file"),
        console_socket: words.path("console-socket"),
        pidfd_socket: words.path("pidfd-socket"),
        sub_cgroups: parse_sub_cgroups(sub_cgroups.iter().map(String::as_str))?,
        stdio: None,
    };
    let relay = if options.detach { None } else { Relay::if_needed(|| options.wanted.has_terminal())? };
    let status = exec::exec(&options, &|warnings| warn(warnings))?;
    // An exit code is the low byte, here as in exit(3).
    Ok(end(relay, status as u8))
}

/// An error as engines show it to their users, and search it.
fn in_runcs_words(error: Error) -> Error {
    let error = if error.is_in_init() { error.context("unable to start container process") } else { error };
    error.context("exec failed")
}

fn wanted(words: &Words) -> Result<Wanted> {
    if let Some(path) = words.path("process") {
        let (process, warnings) = spec::load_process(&path)?;
        warn(warnings);
        return Ok(Wanted::Given(Box::new(process)));
    }
    let gids = words.texts("additional-gids")?.iter().map(|text| group(text)).collect::<Result<_>>()?;
    let no_new_privileges = words.is_given("no-new-privs").then(|| words.has("no-new-privs"));
    Ok(Wanted::Changed(Changes {
        args: words.rest()?,
        cwd: words.path("cwd"),
        env: words.texts("env")?,
        terminal: words.has("tty"),
        user: words.text("user")?.map(value::user).transpose()?,
        additional_gids: gids,
        capabilities: words.texts("cap")?,
        no_new_privileges,
        apparmor_profile: words.text("apparmor")?.map(str::to_owned),
        selinux_label: words.text("process-label")?.map(str::to_owned),
    }))
}

fn group(text: &str) -> Result<u32> {
    // The highest number means "no change" to the kernel.
    let number =
        text.parse().ok().filter(|number| *number != u32::MAX && text.bytes().all(|byte| byte.is_ascii_digit()));
    number.ok_or_else(|| Error::new(Kind::Usage, format!("bad --additional-gids: {text:?}: give a number")))
}
