//! `linux.seccomp`: the profile compiled to the BPF program that init loads (runtime-spec config-linux.md, "Seccomp").
//!
//! ```text
//! profile ──libseccomp──▶ program ──decide──▶ tables ──plain rules, ENOSYS──▶ tables ──emit──▶ program ──▶ cache
//! ```
//!
//! libseccomp decides what the intricate rules mean; [`decide`] reads its decisions off the program that it
//! generates; the rules that need no libseccomp and those that answer ENOSYS to system calls newer than the profile
//! are put on top; [`emit`] writes the whole down as a program that loads ten times as fast. docs/seccomp.md says why.

mod cache;
mod decide;
mod emit;
pub mod notify;
mod permits;
mod profile;
#[cfg(test)]
mod tests;

pub use cache::Cache;

use crate::error::{Error, Result};
use crate::spec::Seccomp;
use crate::sys::process;
use decide::{Node, Tables, X32_BIT};
use libc::sock_filter;
use libseccomp::ScmpAction;
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompFilterFlag as Flag};
use profile::Profile;
use std::path::PathBuf;

/// What init gives to seccomp(2).
#[derive(Debug, Clone)]
pub struct Filter {
    /// The program.
    pub program: Vec<sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// Where the listener goes, if a rule notifies.
    pub listener: Option<Listener>,
}

impl Filter {
    /// Whether a process under it may make the system calls `numbers`, whatever their arguments.
    pub fn allows(&self, numbers: &[libc::c_long]) -> bool {
        let answer = |number: libc::c_long| {
            decide::interpret(&self.program, |offset| match offset {
                decide::offset::NUMBER => u32::try_from(number).ok(),
                decide::offset::ARCH => Some(profile::NATIVE as u32),
                _ => None,
            })
        };
        numbers.iter().all(|number| answer(*number) == Some(libc::SECCOMP_RET_ALLOW))
    }

    /// Whether it is certain that a process under it can have no other system calls executed than `numbers`, and these by the numbers
    /// of this architecture alone: none of x32, none of 32-bit programs, none that the kernel will get one day.
    pub fn permits_only(&self, numbers: &[libc::c_long]) -> bool {
        permits::permits_only(&self.program, profile::NATIVE as u32, |number| {
            numbers.contains(&libc::c_long::from(number))
        })
    }
}

/// The agent that decides about system calls with SCMP_ACT_NOTIFY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// `listenerPath`: its socket.
    pub path: PathBuf,
    /// `listenerMetadata`: what it is told.
    pub metadata: Option<String>,
}

/// A filter and how it was come by.
#[derive(Debug, Clone)]
pub struct Obtained {
    /// The filter; none if the profile is the empty object, which asks for nothing.
    pub filter: Option<Filter>,
    /// Why the cache could not be used: the start is slower than it could be.
    pub warnings: Vec<String>,
    /// System calls of the profile that nobody knows, for the debug log: profiles are written for many kernels.
    pub unknown: Vec<String>,
}

/// The filter for a profile: from `cache` if the same text was compiled before, else compiled and put there.
///
/// # Errors
/// One sentence that names the field that is wrong. A cache that cannot be read or written is only a note.
pub fn obtain(profile: &Seccomp, cache: Option<&Cache>) -> Result<Obtained> {
    let text = profile.text();
    let mut obtained = Obtained { filter: None, warnings: Vec::new(), unknown: Vec::new() };
    if text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).is_some_and(|inner| inner.trim().is_empty()) {
        return Ok(obtained);
    }
    if let Some(cache) = cache {
        match cache.load(text.as_bytes()) {
            Ok(Some(filter)) => return Ok(Obtained { filter: Some(filter), ..obtained }),
            Ok(None) => {}
            Err(error) => obtained.warnings.push(error.to_string()),
        }
    }
    let (filter, unknown) = compile(&profile.parse()?)?;
    if let Some(Err(error)) = cache.map(|cache| cache.store(text.as_bytes(), &filter)) {
        obtained.warnings.push(error.to_string());
    }
    Ok(Obtained { filter: Some(filter), unknown, ..obtained })
}

/// Compiles a profile that [`Seccomp::parse`] has checked. The names of system calls that nobody knows, which are left
/// out, come second.
///
/// # Errors
/// What libseccomp or the kernel would refuse, in one sentence.
fn compile(seccomp: &LinuxSeccomp) -> Result<(Filter, Vec<String>)> {
    let profile = Profile::new(seccomp);
    let listener = listener(seccomp, &profile);
    let mut flags = flags(seccomp);
    if listener.is_some() {
        flags |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
    }
    let program = emit::program(&tables(&profile)?)?;
    Ok((Filter { program, flags, listener }, profile.unknown))
}

/// The decisions of a profile.
fn tables(profile: &Profile) -> Result<Tables> {
    let (plain, intricate) = profile.divide();
    let mut tables = read(profile, &profile.generate(&intricate)?)?;
    for ((arch, number), action) in plain {
        let id = answer(&mut tables, action)?;
        tables.set(arch, number, number, id);
    }
    refuse_newer(&mut tables, profile)?;
    forget_what_x32_lacks(&mut tables, profile);
    tables.join();
    Ok(tables)
}

/// The decisions of `program` for the profile's architectures.
fn read(profile: &Profile, program: &[sock_filter]) -> Result<Tables> {
    let mut archs: Vec<u32> = Vec::new();
    for arch in profile.archs.iter().map(|arch| profile::audit(*arch)) {
        if !archs.contains(&arch) {
            archs.push(arch);
        }
    }
    Tables::read(program, &archs)
}

/// Answers ENOSYS to system calls with higher numbers than any that the profile mentions: they are newer than the
/// profile, and programs fall back to older ones on ENOSYS, where EPERM makes them fail. Profiles that allow what they
/// do not mention are left alone, and so is one that traces it: a tracer may emulate what it does not know.
fn refuse_newer(tables: &mut Tables, profile: &Profile) -> Result<()> {
    if matches!(profile.default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_)) {
        return Ok(());
    }
    let missing = answer(tables, ScmpAction::Errno(libc::ENOSYS))?;
    for &arch in &profile.archs {
        // The numbers of this architecture's system calls. x32 has a half of x86-64's; arm's private calls
        // (ARM_NR_BASE, asm/unistd.h) say nothing about the age of a profile.
        let numbers = match arch {
            Arch::ScmpArchX86_64 => 0..=X32_BIT - 1,
            Arch::ScmpArchX32 => X32_BIT..=u32::MAX,
            Arch::ScmpArchArm => 0..=0x000e_ffff,
            _ => 0..=u32::MAX,
        };
        let mentioned = profile.known.values().flatten().filter(|(of, _)| *of == arch).map(|(_, number)| *number);
        // As runc, a profile that mentions nothing, or nothing but number 0, has no age.
        let Some(last) = mentioned.filter(|number| numbers.contains(number) && *number > 0).max() else { continue };
        if last < *numbers.end() {
            tables.set(profile::audit(arch), last + 1, *numbers.end(), missing);
        }
        // s390 passes a number that does not fit into the instruction through call 0; an unknown one stays 0.
        if matches!(arch, Arch::ScmpArchS390 | Arch::ScmpArchS390x) {
            tables.set(profile::audit(arch), 0, 0, missing);
        }
    }
    Ok(())
}

/// Gives the numbers of x32 that are system calls of x86-64 alone the answer that they have there. The kernel lets them fail with ENOSYS
/// whatever the filter allows (x32_sys_call(), arch/x86/entry/syscall_64.c, since Linux 5.4), so where a profile
/// has them fail with an errno of its own, nobody but a program that looks at which errno can tell; and the
/// program that tells those numbers apart is a fifth longer.
fn forget_what_x32_lacks(tables: &mut Tables, profile: &Profile) {
    if !profile.archs.contains(&Arch::ScmpArchX32) {
        return;
    }
    let token = profile::audit(Arch::ScmpArchX32);
    let refuses = |answer| answer & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO;
    for number in profile::x86_64_alone() {
        let (Some(here), Some(there)) = (tables.get(token, number), tables.get(token, number | X32_BIT)) else {
            continue;
        };
        if let (Node::Answer(answer), Node::Answer(other)) = (tables.nodes.get(here), tables.nodes.get(there))
            && (answer == libc::SECCOMP_RET_ALLOW || refuses(answer))
            && refuses(other)
        {
            tables.set(token, number | X32_BIT, number | X32_BIT, here);
        }
    }
}

fn answer(tables: &mut Tables, action: ScmpAction) -> Result<decide::Id> {
    let answer = profile::answer(action).ok_or_else(|| {
        Error::config("linux.seccomp", format!("uses {action:?}, which is unknown: use another action"))
    })?;
    Ok(tables.nodes.add(Node::Answer(answer)))
}

/// The flags that a profile asks for; without a list, SPEC_ALLOW, as runc and Docker have it: the mitigation that it
/// turns off costs every system call and protects a process from itself.
///
/// TSYNC is for programs with threads; init has one.
fn flags(seccomp: &LinuxSeccomp) -> u32 {
    let Some(flags) = seccomp.flags() else { return libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32 };
    flags.iter().fold(0, |flags, flag| {
        flags
            | match flag {
                Flag::SeccompFilterFlagTsync => 0,
                Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG as u32,
                Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
                Flag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
            }
    })
}

/// SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (linux/seccomp.h, Linux 5.19).
pub(super) const WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// The agent, if a rule notifies.
fn listener(seccomp: &LinuxSeccomp, profile: &Profile) -> Option<Listener> {
    let path = seccomp.listener_path().clone().filter(|_| profile.notifies)?;
    Some(Listener { path, metadata: seccomp.listener_metadata().clone() })
}

/// The instructions in a program's bytes; an incomplete last one is left out.
fn instructions(bytes: &[u8]) -> Vec<sock_filter> {
    bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|[c0, c1, jt, jf, k @ ..]| sock_filter {
            code: u16::from_ne_bytes([*c0, *c1]),
            jt: *jt,
            jf: *jf,
            k: u32::from_ne_bytes(*k),
        })
        .collect()
}

/// The flags of a filter that this kernel knows, of those that runtime-spec has: for `features`, and to refuse a filter
/// before anything exists. The names are runtime-spec's.
pub fn supported_flags() -> Vec<(&'static str, u32)> {
    [
        ("SECCOMP_FILTER_FLAG_TSYNC", libc::SECCOMP_FILTER_FLAG_TSYNC as u32),
        ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32),
        ("SECCOMP_FILTER_FLAG_LOG", libc::SECCOMP_FILTER_FLAG_LOG as u32),
        ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", WAIT_KILLABLE_RECV),
    ]
    .into_iter()
    .filter(|(_, flag)| process::knows_seccomp_flag(*flag))
    .collect()
}
