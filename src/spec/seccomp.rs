//! `linux.seccomp`: kept as text until somebody needs it parsed.

use super::json::{self, Place};
use crate::error::{Error, Result};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action, LinuxSyscall};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The highest error number (linux/err.h, `MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;
/// The last argument of a system call.
const LAST_ARGUMENT: usize = 5;

/// The text of a seccomp section. The same text means the same filter, so compiled filters are cached by it.
#[derive(Debug, Clone)]
pub struct Seccomp {
    text: Box<RawValue>,
    /// Where it was when it was read, to tell places apart; nothing need be there any more.
    address: usize,
}

impl<'de> Deserialize<'de> for Seccomp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?;
        Ok(Self { text: text.to_owned(), address: text.get().as_ptr().addr() })
    }
}

impl Seccomp {
    /// Whether it began at `place` of what was parsed.
    pub(super) fn was_read_at(&self, place: *const u8) -> bool {
        self.address == place.addr()
    }

    /// The JSON text, byte for byte as the configuration has it.
    pub fn text(&self) -> &str {
        self.text.get()
    }

    /// Parses the text and checks what can be checked by looking at it.
    ///
    /// # Errors
    /// One sentence which names the field that is wrong ("config.json: linux.seccomp.syscalls\[3\].action: ...").
    pub fn parse(&self) -> Result<LinuxSeccomp> {
        let seccomp = json::read(Place::SECCOMP, self.text().as_bytes())?;
        check(&seccomp)?;
        Ok(seccomp)
    }
}

/// config-linux.md, "Seccomp".
fn check(seccomp: &LinuxSeccomp) -> Result<()> {
    let default = seccomp.default_action();
    if default == Action::ScmpActNotify {
        let problem = "SCMP_ACT_NOTIFY cannot be used as default action, for calls are made before anybody listens";
        return Err(Error::config("linux.seccomp.defaultAction", format!("{problem}: use it for calls by name")));
    }
    return_value("linux.seccomp.defaultErrnoRet", default, seccomp.default_errno_ret())?;
    for (index, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        self::rule(&format!("linux.seccomp.syscalls[{index}]"), rule)?;
    }
    listener(seccomp)
}

fn rule(field: &str, rule: &LinuxSyscall) -> Result<()> {
    if rule.names().is_empty() {
        return Err(Error::config(format_args!("{field}.names"), "is empty: name at least one system call"));
    }
    if rule.names().iter().any(String::is_empty) {
        return Err(Error::config(format_args!("{field}.names"), "has an empty name in it: remove it"));
    }
    if rule.action() == Action::ScmpActNotify && rule.names().iter().any(|name| name == "write") {
        let problem = "SCMP_ACT_NOTIFY cannot be used for the write syscall, which is called before anybody listens";
        return Err(Error::config(format_args!("{field}.action"), format!("{problem}: use another action")));
    }
    return_value(&format!("{field}.errnoRet"), rule.action(), rule.errno_ret())?;
    for (index, argument) in rule.args().iter().flatten().enumerate() {
        if argument.index() > LAST_ARGUMENT {
            let problem = format!("{} is too high: system calls have arguments 0 to {LAST_ARGUMENT}", argument.index());
            return Err(Error::config(format_args!("{field}.args[{index}].index"), problem));
        }
    }
    Ok(())
}

/// "When the action doesn't support an errno, the runtime MUST print an error and fail."
fn return_value(field: &str, action: Action, value: Option<u32>) -> Result<()> {
    let Some(value) = value else { return Ok(()) };
    let most = match action {
        Action::ScmpActErrno => MAX_ERRNO,
        Action::ScmpActTrace => u32::from(u16::MAX),
        _ => return Err(Error::config(field, format!("{action} returns no value: remove it"))),
    };
    if value > most { Err(Error::config(field, format!("{value} is too high: use at most {most}"))) } else { Ok(()) }
}

fn listener(seccomp: &LinuxSeccomp) -> Result<()> {
    let path = seccomp.listener_path().as_deref().filter(|path| !path.as_os_str().is_empty());
    if path.is_some() {
        return Ok(());
    }
    if seccomp.listener_metadata().as_deref().is_some_and(|metadata| !metadata.is_empty()) {
        let problem = "is for the listener, but there is no listenerPath: add it or remove the metadata";
        return Err(Error::config("linux.seccomp.listenerMetadata", problem));
    }
    if seccomp.syscalls().iter().flatten().any(|rule| rule.action() == Action::ScmpActNotify) {
        return Err(Error::config("linux.seccomp.listenerPath", "is missing: SCMP_ACT_NOTIFY needs it"));
    }
    Ok(())
}
