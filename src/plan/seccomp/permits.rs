//! Which system calls a program lets through, whatever their arguments: an answer that errs on the safe side.
//!
//! The program is followed along all its ways, with what is known of architecture and number on each: the least and the greatest value, and
//! those that were told apart in between. Whatever it does with anything else may go either way.

use super::decide::{code, offset};
use libc::sock_filter;

/// How many instructions are followed before it is given up: an engine's profile has some hundreds, each on one way or a few.
const PATIENCE: usize = 1 << 16;

/// The longest range of numbers that is looked through.
const MOST_NUMBERS: u32 = 1 << 12;

/// What values something can have.
#[derive(Debug, Clone)]
struct Values {
    least: u32,
    greatest: u32,
    /// None of these.
    not: Vec<u32>,
}

impl Values {
    const ANY: Self = Self { least: 0, greatest: u32::MAX, not: Vec::new() };

    /// Those from `least` to `greatest` of them, if there are any.
    fn within(&self, least: u32, greatest: u32) -> Option<Self> {
        let (least, greatest) = (self.least.max(least), self.greatest.min(greatest));
        (least <= greatest).then(|| Self { least, greatest, not: self.not.clone() })
    }

    /// All but `value`.
    fn but(&self, value: u32) -> Option<Self> {
        let mut others = self.clone();
        others.not.push(value);
        (self.least < self.greatest || self.least != value).then_some(others)
    }

    /// Those for which a comparison with `k` holds, and those for which it does not: never too few.
    fn split(&self, comparison: u16, k: u32) -> [Option<Self>; 2] {
        match comparison {
            code::IF_AT_LEAST => [self.within(k, u32::MAX), k.checked_sub(1).and_then(|below| self.within(0, below))],
            code::IF_GREATER => [k.checked_add(1).and_then(|above| self.within(above, u32::MAX)), self.within(0, k)],
            code::IF_EQUAL => [self.within(k, k), self.but(k)],
            _ => [Some(self.clone()), Some(self.clone())],
        }
    }

    /// Whether all of them are ones; not where there are too many to look at.
    fn all(&self, is_one: impl Fn(u32) -> bool) -> bool {
        self.greatest - self.least < MOST_NUMBERS
            && (self.least..=self.greatest).all(|value| self.not.contains(&value) || is_one(value))
    }
}

/// What the accumulator holds.
#[derive(Debug, Clone, Copy)]
enum Accumulator {
    Number,
    Arch,
    Else,
}

/// A way through the program, from an instruction on.
#[derive(Debug, Clone)]
struct Way {
    at: usize,
    a: Accumulator,
    number: Values,
    arch: Values,
}

/// Whether `program` lets nothing through but system calls of the architecture `arch` (AUDIT_ARCH_*) with numbers that `is_one`
/// knows. `false` also where that cannot be told.
pub(super) fn permits_only(program: &[sock_filter], arch: u32, is_one: impl Fn(u32) -> bool) -> bool {
    let mut ways = vec![Way { at: 0, a: Accumulator::Else, number: Values::ANY, arch: Values::ANY }];
    for _ in 0..PATIENCE {
        let Some(mut way) = ways.pop() else { return true };
        let Some(step) = program.get(way.at) else { return false };
        way.at += 1;
        match step.code {
            code::LOAD => {
                way.a = match step.k {
                    offset::NUMBER => Accumulator::Number,
                    offset::ARCH => Accumulator::Arch,
                    _ => Accumulator::Else,
                };
                ways.push(way);
            }
            code::AND => ways.push(Way { a: Accumulator::Else, ..way }),
            code::JUMP => ways.push(Way { at: way.at + step.k as usize, ..way }),
            code::RETURN => {
                if lets_through(step.k) && !(way.arch.all(|value| value == arch) && way.number.all(&is_one)) {
                    return false;
                }
            }
            code::IF_EQUAL | code::IF_GREATER | code::IF_AT_LEAST | code::IF_BITS => ways.extend(way.split(*step)),
            _ => return false,
        }
    }
    false
}

impl Way {
    /// The ways on from a jump.
    fn split(self, step: sock_filter) -> impl Iterator<Item = Self> {
        let known = match self.a {
            Accumulator::Number => self.number.split(step.code, step.k),
            Accumulator::Arch => self.arch.split(step.code, step.k),
            Accumulator::Else => [Some(Values::ANY), Some(Values::ANY)],
        };
        let skipped = [step.jt, step.jf].map(usize::from);
        known.into_iter().zip(skipped).filter_map(move |(values, skipped)| {
            let on = Self { at: self.at + skipped, ..self.clone() };
            Some(match (self.a, values?) {
                (Accumulator::Number, number) => Self { number, ..on },
                (Accumulator::Arch, arch) => Self { arch, ..on },
                (Accumulator::Else, _) => on,
            })
        })
    }
}

/// Whether the kernel executes a call with this answer, or somebody else may decide that it does (seccomp(2)). What is not
/// known counts as that.
fn lets_through(answer: u32) -> bool {
    !matches!(
        answer & libc::SECCOMP_RET_ACTION_FULL,
        libc::SECCOMP_RET_KILL_PROCESS
            | libc::SECCOMP_RET_KILL_THREAD
            | libc::SECCOMP_RET_TRAP
            | libc::SECCOMP_RET_ERRNO
    )
}

#[cfg(test)]
mod tests {
    use super::super::decide::interpret;
    use super::*;
    use proptest::prelude::*;

    const NATIVE: u32 = super::super::profile::NATIVE as u32;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
        sock_filter { code, jt, jf, k }
    }

    /// A program that answers `answer` to the native call 7, and refuses all others.
    fn seven(answer: u32) -> Vec<sock_filter> {
        vec![
            step(code::LOAD, 0, 0, offset::ARCH),
            step(code::IF_EQUAL, 0, 3, NATIVE),
            step(code::LOAD, 0, 0, offset::NUMBER),
            step(code::IF_EQUAL, 0, 1, 7),
            step(code::RETURN, 0, 0, answer),
            step(code::RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | 38),
        ]
    }

    #[test]
    fn only_what_is_refused_is_not_let_through() {
        for refused in [
            libc::SECCOMP_RET_KILL_PROCESS,
            libc::SECCOMP_RET_KILL_THREAD,
            libc::SECCOMP_RET_TRAP | 5,
            libc::SECCOMP_RET_ERRNO,
            libc::SECCOMP_RET_ERRNO | 38,
        ] {
            assert!(permits_only(&seven(refused), NATIVE, |_| false), "{refused:#x}");
        }
        // A tracer or an agent may have it executed; nobody knows what else may come (0x7fed....).
        let (log, trace, agent) = (libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_TRACE | 1, libc::SECCOMP_RET_USER_NOTIF);
        for permitted in [ALLOW, log, trace, agent, 0x7fed_0000] {
            assert!(!permits_only(&seven(permitted), NATIVE, |_| false), "{permitted:#x}");
            assert!(permits_only(&seven(permitted), NATIVE, |number| number == 7), "{permitted:#x}");
        }
    }

    #[test]
    fn what_is_not_understood_is_not_trusted() {
        let is_seven = |number| number == 7;
        // The number after an operation that is not followed.
        let mut masked = seven(ALLOW);
        masked.insert(3, step(code::AND, 0, 0, 0xff));
        assert!(!permits_only(&masked, NATIVE, is_seven));
        // An instruction that our programs have not (BPF_ALU | BPF_ADD).
        let mut added = seven(ALLOW);
        added.insert(3, step(0x04, 0, 0, 1));
        assert!(!permits_only(&added, NATIVE, is_seven));
        // Bits of the number.
        let mut bits = seven(ALLOW);
        bits[3].code = code::IF_BITS;
        assert!(!permits_only(&bits, NATIVE, is_seven));
        // It ends in nowhere, and takes too many ways.
        assert!(!permits_only(&seven(ALLOW)[..4], NATIVE, is_seven));
        let fork = [step(code::LOAD, 0, 0, 16), step(code::IF_EQUAL, 0, 0, 1)];
        let ways: Vec<_> = fork.into_iter().cycle().take(80).chain(seven(ALLOW)).collect();
        assert!(!permits_only(&ways, NATIVE, is_seven));
    }

    #[test]
    fn an_architecture_that_is_not_asked_about_has_to_be_refused() {
        let mut any = seven(ALLOW);
        any[1] = step(code::IF_EQUAL, 0, 0, NATIVE);
        assert!(!permits_only(&any, NATIVE, |number| number == 7));
    }

    /// A program of comparisons that lead forwards.
    fn programs() -> impl Strategy<Value = Vec<sock_filter>> {
        let value = prop_oneof![0u32..8, Just(NATIVE), Just(0x4000_0000), Just(u32::MAX), any::<u32>()];
        let codes = prop_oneof![
            Just(code::IF_EQUAL),
            Just(code::IF_GREATER),
            Just(code::IF_AT_LEAST),
            Just(code::IF_BITS),
            Just(code::LOAD),
            Just(code::AND),
            Just(code::JUMP),
            Just(code::RETURN)
        ];
        let steps = prop::collection::vec((codes, value, 0u8..6, 0u8..6), 1..40);
        steps.prop_map(|steps| {
            let count = steps.len();
            let mut program: Vec<_> = steps
                .into_iter()
                .enumerate()
                .map(|(at, (kind, value, jt, jf))| {
                    let reach = (count - 1 - at).min(5) as u8;
                    let k = match kind {
                        code::LOAD => [offset::NUMBER, offset::ARCH, 16, 24][value as usize % 4],
                        code::JUMP => u32::from(jt.min(reach)),
                        code::RETURN => [ALLOW, libc::SECCOMP_RET_ERRNO | 1, 0, ALLOW][value as usize % 4],
                        _ => value,
                    };
                    step(kind, jt.min(reach), jf.min(reach), k)
                })
                .collect();
            program.insert(0, step(code::LOAD, 0, 0, offset::NUMBER));
            program.push(step(code::RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | 1));
            program
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        /// What is said to be refused is refused, by the program as the kernel runs it.
        #[test]
        fn nothing_is_let_through_that_is_not_told(
            program in programs(),
            words in prop::collection::vec(prop_oneof![0u32..9, Just(NATIVE), Just(u32::MAX), any::<u32>()], 16..17),
            known in prop::collection::btree_set(0u32..9, 0..6),
        ) {
            if permits_only(&program, NATIVE, |number| known.contains(&number)) {
                let answer = interpret(&program, |offset| words.get(offset as usize / 4).copied()).unwrap();
                let is_one = words[1] == NATIVE && known.contains(&words[0]);
                prop_assert!(is_one || !lets_through(answer), "{words:?}: {answer:#x}");
            }
        }
    }
}
