//! `process.capabilities` in bits: what is asked for, and what of it can be granted (capabilities(7)).

use crate::spec::Warning;
use crate::spec::capability::{CAPABILITIES, number};
use crate::sys::process;
use oci_spec::runtime::{Capabilities, LinuxCapabilities};

/// The five capability sets of a process, one bit for each capability (linux/capability.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    /// What execve(2) can give at most.
    pub bounding: u64,
    /// What is in force.
    pub effective: u64,
    /// What may be put in force.
    pub permitted: u64,
    /// What a program with file capabilities inherits.
    pub inheritable: u64,
    /// What any program inherits.
    pub ambient: u64,
}

/// What init will be able to grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The capabilities that this kernel knows.
    pub known: u64,
    /// Init's bounding set, with all that nobody asks for: that is to be dropped, whether it is there or not.
    pub bounding: u64,
    /// Init's permitted set.
    pub permitted: u64,
}

impl Held {
    /// What this process has and hands on to a child in its own user namespace that is to have `asked` in its bounding set.
    pub fn probe(asked: u64) -> Self {
        let is_known = |capability: &usize| process::is_in_bounding_set(*capability).is_ok();
        // Most kernels know as many as we do.
        let here = CAPABILITIES.len();
        let count = if is_known(&(here - 1)) && !is_known(&here) { here } else { (0..64).take_while(is_known).count() };
        let known = (0..count).fold(0, |bits, capability| bits | 1 << capability);
        let is_missing = |capability: &usize| {
            (known & asked) >> capability & 1 == 1 && process::is_in_bounding_set(*capability) == Ok(false)
        };
        let bounding = (0..count).filter(is_missing).fold(known, |bits, capability| bits & !(1 << capability));
        // It cannot fail for oneself; if it did, init's capset would say what is refused.
        let permitted = process::capget().map_or(known, |(_, permitted, _)| permitted);
        Self { known, bounding, permitted }
    }

    /// What a process that enters a user namespace has there: everything (user_namespaces(7)).
    pub fn in_user_namespace(self) -> Self {
        Self { bounding: self.known, permitted: self.known, ..self }
    }
}

/// The sets to give a process that asks for `capabilities`; without any, it gets none.
///
/// Asking for what cannot be granted is no error (runtime-spec config.md, "Linux Process": "MUST be logged as a
/// warning"): it is left out, and `warnings` says so.
pub fn sets(capabilities: Option<&LinuxCapabilities>, held: &Held, warnings: &mut Vec<Warning>) -> Sets {
    let Some(asked) = capabilities else { return Sets::default() };
    let mut grant = |name: &str, set: &Option<Capabilities>, limits: &[(u64, &str)]| {
        let mut bits = bits(set);
        for (limit, problem) in limits {
            let refused = bits & !limit;
            if refused != 0 {
                let field = format!("process.capabilities.{name}");
                warnings.push(Warning::new(field, format!("{} {problem}: left out", names(refused))));
            }
            bits &= limit;
        }
        bits
    };
    let known = (held.known, "is unknown to this kernel");
    let bounding =
        grant("bounding", asked.bounding(), &[known, (held.bounding, "is not in the runtime's bounding set")]);
    let permitted = grant("permitted", asked.permitted(), &[known, (held.permitted, "is not held by the runtime")]);
    let effective = grant("effective", asked.effective(), &[known, (permitted, "is not in the permitted set")]);
    let inheritable = grant("inheritable", asked.inheritable(), &[known, (bounding, "is not in the bounding set")]);
    let both = permitted & inheritable;
    let ambient = bits(asked.ambient());
    let refused = ambient & !both;
    if refused != 0 {
        // One line for all: Buildah asks for its whole set without making it inheritable, and shows who builds an image what is said here.
        let names = names(refused);
        let problem = format!("can't raise ambient capability {names}: not permitted and inheritable: left out");
        warnings.push(Warning::new("process.capabilities.ambient", problem));
    }
    let ambient = ambient & both;
    Sets { bounding, effective, permitted, inheritable, ambient }
}

/// What has to be dropped from the bounding set: one prctl(2) for each bit.
pub fn dropped(sets: &Sets, held: &Held) -> u64 {
    held.bounding & !sets.bounding
}

/// What `capabilities` ask to have in the bounding set.
pub fn asked_bounding(capabilities: Option<&LinuxCapabilities>) -> u64 {
    capabilities.map_or(0, |asked| bits(asked.bounding()))
}

/// A set as the kernel has it.
fn bits(set: &Option<Capabilities>) -> u64 {
    set.iter().flatten().fold(0, |bits, capability| bits | 1 << number(*capability))
}

/// The names of a set's capabilities.
fn each(bits: u64) -> impl Iterator<Item = &'static str> {
    CAPABILITIES.iter().enumerate().filter(move |(i, _)| bits >> i & 1 == 1).map(|(_, (name, _))| *name)
}

/// The names of a set's capabilities, for people.
fn names(bits: u64) -> String {
    each(bits).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Capability::{self, Chown, Kill, NetRaw, SysAdmin, SysResource};

    const CHOWN: u64 = 1;
    const KILL: u64 = 1 << 5;
    const NET_RAW: u64 = 1 << 13;
    const SYS_ADMIN: u64 = 1 << 21;

    fn asking(sets: [&[Capability]; 5]) -> LinuxCapabilities {
        let [bounding, effective, permitted, inheritable, ambient] =
            sets.map(|set| Some(set.iter().copied().collect::<Capabilities>()));
        let mut asked = LinuxCapabilities::default();
        asked
            .set_bounding(bounding)
            .set_effective(effective)
            .set_permitted(permitted)
            .set_inheritable(inheritable)
            .set_ambient(ambient);
        asked
    }

    const ALL: Held = Held { known: (1 << 41) - 1, bounding: (1 << 41) - 1, permitted: (1 << 41) - 1 };

    #[test]
    fn what_can_be_granted_is() {
        let asked = asking([&[Chown, Kill, NetRaw], &[Kill], &[Chown, Kill], &[Kill, NetRaw], &[Kill]]);
        let mut warnings = Vec::new();
        let sets = sets(Some(&asked), &ALL, &mut warnings);
        assert_eq!(
            sets,
            Sets {
                bounding: CHOWN | KILL | NET_RAW,
                effective: KILL,
                permitted: CHOWN | KILL,
                inheritable: KILL | NET_RAW,
                ambient: KILL,
            }
        );
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(dropped(&sets, &ALL), ALL.bounding & !(CHOWN | KILL | NET_RAW));
    }

    #[test]
    fn none_asked_for_means_none() {
        let sets = sets(None, &ALL, &mut Vec::new());
        assert_eq!(sets, Sets::default());
        assert_eq!(dropped(&sets, &ALL), ALL.bounding);
    }

    #[test]
    fn what_cannot_be_granted_is_left_out_with_a_warning() {
        let held = Held { known: (1 << 22) - 1, bounding: CHOWN | KILL | SYS_ADMIN, permitted: KILL | SYS_ADMIN };
        let asked = asking([
            &[Chown, Kill, NetRaw, SysResource],
            &[Chown, SysAdmin],
            &[Chown, Kill],
            &[Chown, Kill, SysAdmin],
            &[Chown, Kill],
        ]);
        let mut warnings = Vec::new();
        let sets = sets(Some(&asked), &held, &mut warnings);
        assert_eq!(
            sets,
            Sets { bounding: CHOWN | KILL, effective: 0, permitted: KILL, inheritable: CHOWN | KILL, ambient: KILL }
        );
        let warnings: Vec<String> = warnings.iter().map(Warning::to_string).collect();
        assert_eq!(
            warnings,
            [
                "process.capabilities.bounding: CAP_SYS_RESOURCE is unknown to this kernel: left out",
                "process.capabilities.bounding: CAP_NET_RAW is not in the runtime's bounding set: left out",
                "process.capabilities.permitted: CAP_CHOWN is not held by the runtime: left out",
                "process.capabilities.effective: CAP_CHOWN, CAP_SYS_ADMIN is not in the permitted set: left out",
                "process.capabilities.inheritable: CAP_SYS_ADMIN is not in the bounding set: left out",
                "process.capabilities.ambient: can't raise ambient capability CAP_CHOWN: not permitted and inheritable: \
                 left out",
            ]
        );
        assert_eq!(dropped(&sets, &held), SYS_ADMIN);
    }

    #[test]
    fn this_process_has_what_proc_says() {
        let held = Held::probe(u64::MAX);
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        assert_eq!((held.bounding, held.permitted), (field("CapBnd:"), field("CapPrm:")));
        let last: u32 = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
        assert_eq!(held.known.trailing_ones(), last + 1);
        assert_eq!(held.in_user_namespace().permitted, held.known);
        assert_eq!(Held::probe(KILL).bounding & !KILL, held.known & !KILL);
    }

    #[test]
    fn the_kernel_takes_the_sets() {
        let held = Held::probe(u64::MAX);
        if held.permitted & (CHOWN | KILL | 1 << 8) != CHOWN | KILL | 1 << 8 {
            eprintln!("skipped: this needs CAP_CHOWN, CAP_KILL and CAP_SETPCAP");
            return;
        }
        let asked = asking([&[Chown, Kill], &[Kill], &[Chown, Kill], &[Kill], &[Kill]]);
        let sets = sets(Some(&asked), &held, &mut Vec::new());
        // Capabilities are a thread's own.
        let status = std::thread::spawn(move || {
            for bit in (0..64).filter(|bit| dropped(&sets, &held) >> bit & 1 == 1) {
                process::prctl(libc::PR_CAPBSET_DROP, [bit, 0, 0, 0]).unwrap();
            }
            process::capset(sets.effective, sets.permitted, sets.inheritable).unwrap();
            let raise = [libc::PR_CAP_AMBIENT_RAISE as usize, 5, 0, 0];
            process::prctl(libc::PR_CAP_AMBIENT, raise).unwrap();
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        })
        .join()
        .unwrap();
        for (name, bits) in [("CapBnd", 0x21), ("CapEff", 0x20), ("CapPrm", 0x21), ("CapInh", 0x20), ("CapAmb", 0x20)] {
            assert!(status.contains(&format!("{name}:\t{bits:016x}")), "{name} in {status}");
        }
    }
}
