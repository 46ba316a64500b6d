//! `linux.seccomp` checked and put into the kernel's terms, and what libseccomp makes of its rules.

use super::decide::X32_BIT;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::{fs, own};
use libc::sock_filter;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek};

/// System calls that some architectures make through socketcall(2) or ipc(2). libseccomp knows where, and filters both
/// ways; no rule for them may be reduced to a number.
const MULTIPLEXED: [&str; 34] = [
    "accept",
    "accept4",
    "bind",
    "connect",
    "getpeername",
    "getsockname",
    "getsockopt",
    "ipc",
    "listen",
    "msgctl",
    "msgget",
    "msgrcv",
    "msgsnd",
    "recv",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "semctl",
    "semget",
    "semop",
    "semtimedop",
    "send",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shmat",
    "shmctl",
    "shmdt",
    "shmget",
    "shutdown",
    "socket",
    "socketcall",
    "socketpair",
];

/// System calls that may be newer than the libseccomp in use. Since Linux 5.1 a new system call has the same number
/// on every architecture (asm-generic/unistd.h), so that profiles can allow them all the same.
const NEWER: [(&str, u32); 19] = [
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
];

/// A system call that every architecture has under a number of its own. libseccomp (to 2.6.1 at least) loads the number
/// for the first rule of an architecture, and forgets to if that rule is for a call without a number there (semop on
/// x86 goes through ipc): the filter then compares numbers with the architecture. So every filter begins with this one.
pub(super) const ANCHOR: &str = "read";

/// The architecture of this program.
pub(super) const NATIVE: Arch =
    if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 };

/// One rule for one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    action: ScmpAction,
    /// All must hold.
    conditions: Vec<ScmpArgCompare>,
}

/// A checked profile.
#[derive(Debug)]
pub(super) struct Profile {
    /// The action for all that no rule matches.
    pub default: ScmpAction,
    /// The machine's own architecture, then the others that the profile lists.
    pub archs: Vec<Arch>,
    /// The rules of each system call in the profile's order, without those that ask for the default action.
    pub rules: BTreeMap<String, Vec<Rule>>,
    /// Every name that the profile mentions and this libseccomp or [`NEWER`] knows, and its number where it has one.
    pub known: BTreeMap<String, Vec<(Arch, u32)>>,
    /// Names that nobody knows: they are left out, as a profile is written for many kernels.
    pub unknown: Vec<String>,
    /// Whether a rule notifies.
    pub notifies: bool,
}

impl Profile {
    /// The profile `seccomp`, which [`Seccomp::parse`](crate::spec::Seccomp::parse) has checked.
    pub fn new(seccomp: &LinuxSeccomp) -> Self {
        let mut archs = vec![NATIVE];
        for &arch in seccomp.architectures().iter().flatten() {
            if arch != Arch::ScmpArchNative && !archs.contains(&arch) {
                archs.push(arch);
            }
        }
        let mut profile = Self {
            default: action(seccomp.default_action(), seccomp.default_errno_ret()),
            archs,
            rules: BTreeMap::new(),
            known: BTreeMap::new(),
            unknown: Vec::new(),
            notifies: false,
        };
        for syscall in seccomp.syscalls().iter().flatten() {
            profile.add(syscall);
        }
        profile
    }

    fn add(&mut self, syscall: &oci_spec::runtime::LinuxSyscall) {
        let action = action(syscall.action(), syscall.errno_ret());
        self.notifies |= action == ScmpAction::Notify;
        let conditions = conditions(syscall.args().as_deref().unwrap_or_default());
        for name in syscall.names() {
            if ScmpSyscall::from_name(name).is_err() && newer(name).is_none() {
                self.unknown.push(name.clone());
                continue;
            }
            if !self.known.contains_key(name) {
                self.known.insert(name.clone(), self.numbers(name));
            }
            if action == self.default {
                continue;
            }
            let rules = self.rules.entry(name.clone()).or_default();
            if conditions.is_empty() {
                rules.push(Rule { action, conditions: Vec::new() });
            }
            rules.extend(conditions.iter().map(|all| Rule { action, conditions: all.clone() }));
        }
    }

    /// Where the system call `name` is: architecture (AUDIT_ARCH_*) and number, for each of the profile's
    /// architectures that has it.
    pub fn places(&self, name: &str) -> Vec<(u32, u32)> {
        let known = self.known.get(name).cloned().unwrap_or_else(|| self.numbers(name));
        known.into_iter().map(|(arch, number)| (audit(arch), number)).collect()
    }

    fn numbers(&self, name: &str) -> Vec<(Arch, u32)> {
        self.archs.iter().filter_map(|&arch| Some((arch, number(arch, name)?))).collect()
    }

    /// Divides the rules: for most system calls the profile says one thing, whatever the arguments, and that is
    /// `(architecture, number) -> action`; the names of the others, which libseccomp has to work out, come second.
    ///
    /// This is for speed: libseccomp takes milliseconds for an engine's profile, nearly all of them for such rules.
    pub fn divide(&self) -> (BTreeMap<(u32, u32), ScmpAction>, BTreeSet<&str>) {
        let mut plain = BTreeMap::new();
        let mut intricate = BTreeSet::new();
        let mut owners: BTreeMap<(u32, u32), &str> = BTreeMap::new();
        for (name, rules) in &self.rules {
            let simple = rules.iter().all(|rule| rule.conditions.is_empty() && rule.action == rules[0].action);
            if !simple || MULTIPLEXED.contains(&name.as_str()) {
                intricate.insert(name.as_str());
            }
            for place in self.places(name) {
                plain.insert(place, rules[0].action);
                // Two names can share a number (arm's sync_file_range2 and arm_sync_file_range).
                if let Some(other) = owners.insert(place, name)
                    && self.rules[other] != *rules
                {
                    intricate.extend([other, name.as_str()]);
                }
            }
        }
        for name in &intricate {
            for place in self.places(name) {
                plain.remove(&place);
            }
        }
        if !self.rules.contains_key(ANCHOR) {
            plain.extend(self.places(ANCHOR).into_iter().map(|place| (place, self.default)));
        }
        (plain, intricate)
    }

    /// The program that libseccomp makes of the rules for `names`. What it decides for the [`ANCHOR`] counts only if that is
    /// one of them.
    ///
    /// # Errors
    /// libseccomp refuses an architecture or a rule; rules that contradict each other, for example.
    pub fn generate(&self, names: &BTreeSet<&str>) -> Result<Vec<sock_filter>> {
        // Without this libseccomp would ask the running kernel what it can do; a filter is the same for all kernels.
        let notifying = 6;
        libseccomp::set_api(notifying).map_err(|error| refused("linux.seccomp", &error))?;
        let mut context =
            ScmpFilterContext::new(self.default).map_err(|error| refused("linux.seccomp.defaultAction", &error))?;
        for &arch in &self.archs[1..] {
            let field = format!("linux.seccomp.architectures: {arch}");
            let arch: ScmpArch = arch.to_string().parse().map_err(|error| refused(&field, &error))?;
            context.add_arch(arch).map_err(|error| refused(&field, &error))?;
        }
        // What is decided whatever the arguments comes first, as it does in engines' profiles: libseccomp makes rules for
        // socketcall of those for socket, and refuses some of these ("exists") unless there is already one for all of socketcall.
        let (whole, in_part): (Vec<_>, Vec<_>) = self
            .rules
            .iter()
            .filter(|(name, _)| names.contains(name.as_str()))
            .partition(|(_, rules)| rules.iter().any(|rule| rule.conditions.is_empty()));
        for (name, rules) in whole.into_iter().chain(in_part) {
            let Ok(syscall) = ScmpSyscall::from_name(name) else {
                // One of those that only `NEWER` knows.
                if rules.iter().all(|rule| rule.conditions.is_empty()) {
                    continue;
                }
                let problem = format!("{name} is too new for this libseccomp to compare its arguments: leave args out");
                return Err(Error::config("linux.seccomp.syscalls", problem));
            };
            for rule in rules {
                context
                    .add_rule_conditional(rule.action, syscall, &rule.conditions)
                    .map_err(|error| refused(&format!("linux.seccomp.syscalls: {name}"), &error))?;
            }
        }
        let doing = |error: &_| refused("linux.seccomp", error);
        let anchor = ScmpSyscall::from_name(ANCHOR).map_err(|error| doing(&error))?;
        if !names.contains(ANCHOR) || !self.rules.contains_key(ANCHOR) {
            let other = if self.default == ScmpAction::Allow { ScmpAction::KillProcess } else { ScmpAction::Allow };
            context.add_rule(other, anchor).map_err(|error| doing(&error))?;
        }
        context.set_syscall_priority(anchor, u8::MAX).map_err(|error| doing(&error))?;
        export(&context)
    }
}

/// The action of a rule with the value it returns: EPERM unless the profile says otherwise.
fn action(action: Action, value: Option<u32>) -> ScmpAction {
    // No value that was let through is greater.
    let returns = value.map_or(libc::EPERM.unsigned_abs() as u16, |value| u16::try_from(value).unwrap_or(u16::MAX));
    match action {
        Action::ScmpActErrno => ScmpAction::Errno(i32::from(returns)),
        Action::ScmpActTrace => ScmpAction::Trace(returns),
        Action::ScmpActKill | Action::ScmpActKillThread => ScmpAction::KillThread,
        Action::ScmpActKillProcess => ScmpAction::KillProcess,
        Action::ScmpActTrap => ScmpAction::Trap,
        Action::ScmpActNotify => ScmpAction::Notify,
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActAllow => ScmpAction::Allow,
    }
}

/// The kernel's form of an action: `SECCOMP_RET_*` and its data.
pub(super) fn answer(action: ScmpAction) -> Option<u32> {
    Some(match action {
        ScmpAction::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        ScmpAction::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        ScmpAction::Trap => libc::SECCOMP_RET_TRAP,
        ScmpAction::Notify => libc::SECCOMP_RET_USER_NOTIF,
        ScmpAction::Errno(errno) => libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA),
        ScmpAction::Trace(message) => libc::SECCOMP_RET_TRACE | u32::from(message),
        ScmpAction::Log => libc::SECCOMP_RET_LOG,
        ScmpAction::Allow => libc::SECCOMP_RET_ALLOW,
        _ => return None,
    })
}

/// The conditions of a rule, all of which must hold. Conditions that share an argument become rules of their own, any
/// of which will do: one rule cannot compare an argument twice, and runc's users know it so.
fn conditions(args: &[LinuxSeccompArg]) -> Vec<Vec<ScmpArgCompare>> {
    let all = || args.iter().map(condition);
    let shares = |(i, arg): (usize, &LinuxSeccompArg)| args.iter().take(i).any(|other| other.index() == arg.index());
    match args {
        [] => Vec::new(),
        _ if args.iter().enumerate().any(shares) => all().map(|one| vec![one]).collect(),
        _ => vec![all().collect()],
    }
}

fn condition(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let operator = match arg.op() {
        Operator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        Operator::ScmpCmpLt => ScmpCompareOp::Less,
        Operator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        Operator::ScmpCmpEq => ScmpCompareOp::Equal,
        Operator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        Operator::ScmpCmpGt => ScmpCompareOp::Greater,
        Operator::ScmpCmpMaskedEq => {
            let (mask, wanted) = (arg.value(), arg.value_two().unwrap_or(0));
            return ScmpArgCompare::new(arg.index() as u32, ScmpCompareOp::MaskedEqual(mask), wanted);
        }
    };
    ScmpArgCompare::new(arg.index() as u32, operator, arg.value())
}

/// The token of `arch` in struct seccomp_data: libseccomp's own, but for x32, which the kernel tells by a bit of the
/// number.
pub(super) fn audit(arch: Arch) -> u32 {
    if arch == Arch::ScmpArchX32 { Arch::ScmpArchX86_64 as u32 } else { arch as u32 }
}

/// The number of the system call `name` on `arch`, if it is there.
pub(super) fn number(arch: Arch, name: &str) -> Option<u32> {
    let known: ScmpArch = arch.to_string().parse().ok()?;
    match ScmpSyscall::from_name_by_arch(name, known) {
        Ok(syscall) => u32::try_from(syscall.as_raw_syscall()).ok(),
        Err(_) => newer(name).map(|number| {
            number
                + match arch {
                    Arch::ScmpArchX32 => X32_BIT,
                    Arch::ScmpArchMips | Arch::ScmpArchMipsel => 4000,
                    Arch::ScmpArchMips64 | Arch::ScmpArchMipsel64 => 5000,
                    Arch::ScmpArchMips64n32 | Arch::ScmpArchMipsel64n32 => 6000,
                    _ => 0,
                }
        }),
    }
}

/// The numbers of the system calls that x86-64 has and x32 has not, or by another number. Both tables are as libseccomp knows them, up to where
/// all architectures go on with the same numbers (424, Linux 5.1).
pub(super) fn x86_64_alone() -> impl Iterator<Item = u32> {
    let is_call = |number: u32, arch| ScmpSyscall::from_raw_syscall(number as i32).get_name_by_arch(arch).is_ok();
    (0..424).filter(move |number| is_call(*number, ScmpArch::X8664) && !is_call(number | X32_BIT, ScmpArch::X32))
}

fn newer(name: &str) -> Option<u32> {
    NEWER.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// The program of a context, read back from the only place that every libseccomp writes to: a descriptor.
fn export(context: &ScmpFilterContext) -> Result<Vec<sock_filter>> {
    let doing = || "seccomp: export the filter to a memory file";
    let mut file = File::from(own(fs::memory_file().doing(doing)?));
    context.export_bpf(&file).map_err(|error| {
        Error::new(Kind::System, format!("seccomp: libseccomp cannot generate the filter: {error}"))
    })?;
    let mut bytes = Vec::new();
    file.rewind().doing(doing)?;
    file.read_to_end(&mut bytes).doing(doing)?;
    Ok(super::instructions(&bytes))
}

fn refused(field: &str, error: &libseccomp::error::SeccompError) -> Error {
    Error::new(Kind::Config, format!("config.json: {field}: libseccomp refuses it ({error}): remove or correct it"))
}
