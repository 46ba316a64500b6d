//! What a filter decides, apart from how it is coded.
//!
//! A filter is a function of architecture, system call number and arguments. [`Tables`] holds it as one sorted list of
//! number ranges for each architecture; each range leads to a node: an answer, or a test of an argument with two nodes
//! behind it. Tables are read off a program by running it with architecture and number known and the arguments
//! unknown; [`super::emit`] writes them down as a program again.

use crate::error::{Error, Kind, Result};
use libc::sock_filter;
use std::collections::{BTreeMap, HashMap};

/// Classic BPF as seccomp(2) allows it: the instruction codes (linux/bpf_common.h).
pub(super) mod code {
    /// A = the word at k of struct seccomp_data.
    pub const LOAD: u16 = 0x20;
    /// Jump k instructions ahead.
    pub const JUMP: u16 = 0x05;
    /// Jump if A == k.
    pub const IF_EQUAL: u16 = 0x15;
    /// Jump if A > k.
    pub const IF_GREATER: u16 = 0x25;
    /// Jump if A >= k.
    pub const IF_AT_LEAST: u16 = 0x35;
    /// Jump if A & k.
    pub const IF_BITS: u16 = 0x45;
    /// A &= k.
    pub const AND: u16 = 0x54;
    /// Answer k.
    pub const RETURN: u16 = 0x06;
}

/// Where the parts of struct seccomp_data are, in bytes (linux/seccomp.h).
pub(super) mod offset {
    /// The system call's number.
    pub const NUMBER: u32 = 0;
    /// The architecture (AUDIT_ARCH_*).
    pub const ARCH: u32 = 4;
    /// The arguments: twelve 32-bit words.
    pub const ARGUMENTS: std::ops::Range<u32> = 16..64;
}

/// The number of 32-bit words that six arguments have.
const WORDS: usize = 12;

/// The longest chain of argument tests: it bounds the recursion here and in the emitter.
const MAX_CHAIN: usize = 512;

/// The number of tests after which no more is remembered about arguments: remembering can multiply them.
const MAX_REFINED: usize = 4096;

/// A node of [`Nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(u32);

/// What is tested: a word of the arguments, after a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Operand {
    /// Its offset in struct seccomp_data, in bytes.
    pub offset: u32,
    /// The bits that count.
    pub mask: u32,
}

/// An answer, or a test that leads to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// `SECCOMP_RET_*` with its data.
    Answer(u32),
    /// Depends on an argument.
    Test(Test),
}

/// A comparison (`code::IF_*`) of `operand` with `value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Test {
    pub operand: Operand,
    pub comparison: u16,
    pub value: u32,
    /// Where to go if it holds.
    pub yes: Id,
    /// Where to go otherwise.
    pub no: Id,
}

/// Nodes, each there once, so that equal decisions have equal ids.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    list: Vec<Node>,
    ids: HashMap<Node, Id>,
}

impl Nodes {
    /// The id of `node`, which is added if it is new.
    pub fn add(&mut self, node: Node) -> Id {
        *self.ids.entry(node).or_insert_with(|| {
            self.list.push(node);
            Id(self.list.len() as u32 - 1)
        })
    }

    /// The node of an id.
    pub fn get(&self, id: Id) -> Node {
        self.list[id.0 as usize]
    }
}

/// What `program` answers, where `word` knows the words of struct seccomp_data by their offsets (Documentation/networking/filter.rst).
/// `None` if the answer depends on one that it does not know, or the program has an instruction that ours have not.
pub(super) fn interpret(program: &[sock_filter], word: impl Fn(u32) -> Option<u32>) -> Option<u32> {
    let (mut at, mut a) = (0, 0u32);
    // Jumps lead forwards only.
    loop {
        let step = program.get(at)?;
        at += 1;
        let holds = match step.code {
            code::LOAD => {
                a = word(step.k)?;
                continue;
            }
            code::AND => {
                a &= step.k;
                continue;
            }
            code::JUMP => {
                at += step.k as usize;
                continue;
            }
            code::RETURN => return Some(step.k),
            code::IF_EQUAL => a == step.k,
            code::IF_GREATER => a > step.k,
            code::IF_AT_LEAST => a >= step.k,
            code::IF_BITS => a & step.k != 0,
            _ => return None,
        };
        at += usize::from(if holds { step.jt } else { step.jf });
    }
}

/// Number ranges: each key begins one, which ends where the next begins. There is always one at 0.
pub(super) type Ranges = BTreeMap<u32, Id>;

/// The decisions of a filter.
#[derive(Debug)]
pub(super) struct Tables {
    /// What the ranges lead to.
    pub nodes: Nodes,
    /// For each architecture (AUDIT_ARCH_*) its ranges; the machine's own comes first.
    pub archs: Vec<(u32, Ranges)>,
    /// The answer to any other architecture.
    pub other: Id,
}

impl Tables {
    /// Reads the decisions of `program` for the architectures `archs` (AUDIT_ARCH_*).
    ///
    /// # Errors
    /// The program contains what libseccomp is not known to generate, or too long a chain of tests.
    pub fn read(program: &[sock_filter], archs: &[u32]) -> Result<Self> {
        let mut nodes = Nodes::default();
        let mut numbers: Vec<u32> = program
            .iter()
            .filter(|step| matches!(step.code, code::IF_EQUAL | code::IF_GREATER | code::IF_AT_LEAST))
            .flat_map(|step| [step.k, step.k.wrapping_add(1)])
            .chain([0, X32_BIT, X32_BIT << 1, 3 * X32_BIT])
            .collect();
        numbers.sort_unstable();
        numbers.dedup();

        let mut tables = Vec::with_capacity(archs.len());
        for &arch in archs {
            let mut ranges = Ranges::new();
            for &number in &numbers {
                ranges.insert(number, Reader::new(program, &mut nodes, arch, number).read()?);
            }
            join(&mut ranges);
            tables.push((arch, ranges));
        }
        // No architecture has a token with this bit pattern; libseccomp's programs compare for equality only.
        let unlisted = (1..).map(|low| 0x0800_0000 | low).find(|arch| !numbers.contains(arch)).unwrap_or_default();
        let other = Reader::new(program, &mut nodes, unlisted, 0).read()?;
        Ok(Self { nodes, archs: tables, other })
    }

    /// The decision for `number` of `arch`, if the filter is for that.
    pub fn get(&self, arch: u32, number: u32) -> Option<Id> {
        let (_, ranges) = self.archs.iter().find(|(known, _)| *known == arch)?;
        ranges.range(..=number).next_back().map(|(_, &id)| id)
    }

    /// Makes `id` the decision for the numbers `first..=last` of `arch`.
    pub fn set(&mut self, arch: u32, first: u32, last: u32, id: Id) {
        let Some((_, ranges)) = self.archs.iter_mut().find(|(known, _)| *known == arch) else { return };
        if let Some(after) = last.checked_add(1)
            && let Some((_, &behind)) = ranges.range(..=after).next_back()
        {
            ranges.insert(after, behind);
        }
        let covered: Vec<u32> = ranges.range(first..=last).map(|(&start, _)| start).collect();
        for start in covered {
            ranges.remove(&start);
        }
        ranges.insert(first, id);
    }

    /// Joins neighbouring ranges with the same decision.
    pub fn join(&mut self) {
        for (_, ranges) in &mut self.archs {
            join(ranges);
        }
    }
}

/// The bit that marks a system call number as one of the x32 ABI (asm/unistd.h, `__X32_SYSCALL_BIT`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// Joins neighbouring ranges with the same decision.
pub(super) fn join(ranges: &mut Ranges) {
    let mut last = None;
    ranges.retain(|_, id| last.replace(*id) != Some(*id));
}

/// What the accumulator holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Accumulator {
    Nothing,
    Value(u32),
    Argument(Operand),
}

/// The least and the greatest value that each argument word can have at some point of the program.
type Facts = [(u32, u32); WORDS];

/// What is known at the start: nothing.
const ANYTHING: Facts = [(0, u32::MAX); WORDS];

/// Runs a program for one architecture and number.
struct Reader<'a> {
    program: &'a [sock_filter],
    nodes: &'a mut Nodes,
    arch: u32,
    number: u32,
    seen: HashMap<(usize, Accumulator, Facts), Id>,
    tests: usize,
}

impl<'a> Reader<'a> {
    fn new(program: &'a [sock_filter], nodes: &'a mut Nodes, arch: u32, number: u32) -> Self {
        Self { program, nodes, arch, number, seen: HashMap::new(), tests: 0 }
    }

    fn read(mut self) -> Result<Id> {
        self.from(0, Accumulator::Nothing, ANYTHING, 0)
    }

    /// The decision of the program from the instruction `at` on.
    fn from(&mut self, mut at: usize, mut a: Accumulator, facts: Facts, depth: usize) -> Result<Id> {
        if depth > MAX_CHAIN {
            return Err(Error::config(
                "linux.seccomp.syscalls",
                format!("has more than {MAX_CHAIN} conditions on one system call: use fewer"),
            ));
        }
        loop {
            let step = *self.program.get(at).ok_or_else(|| unknown(at))?;
            at += 1;
            match step.code {
                code::LOAD => a = self.load(step.k).ok_or_else(|| unknown(at - 1))?,
                code::AND => {
                    a = match a {
                        Accumulator::Argument(Operand { offset, mask }) => {
                            Accumulator::Argument(Operand { offset, mask: mask & step.k })
                        }
                        _ => return Err(unknown(at - 1)),
                    }
                }
                code::JUMP => at += step.k as usize,
                code::RETURN => return Ok(self.nodes.add(Node::Answer(step.k))),
                code::IF_EQUAL | code::IF_GREATER | code::IF_AT_LEAST | code::IF_BITS => {
                    let known = match a {
                        // Ranges are cut at compared numbers and at the x32 bit, so a range answers as its start does.
                        Accumulator::Value(_) if step.code == code::IF_BITS && step.k != X32_BIT => {
                            return Err(unknown(at - 1));
                        }
                        Accumulator::Value(value) => Some(compare(step.code, value, step.k)),
                        Accumulator::Argument(operand) => foresee(&facts, operand, step.code, step.k),
                        Accumulator::Nothing => return Err(unknown(at - 1)),
                    };
                    match (known, a) {
                        (Some(true), _) => at += usize::from(step.jt),
                        (Some(false), _) => at += usize::from(step.jf),
                        (None, Accumulator::Argument(operand)) => {
                            return self.test(at, step, operand, facts, depth);
                        }
                        (None, _) => return Err(unknown(at - 1)),
                    }
                }
                _ => return Err(unknown(at - 1)),
            }
        }
    }

    /// The decision of the jump `step`, which ends before `at` and depends on an argument.
    fn test(&mut self, at: usize, step: sock_filter, operand: Operand, facts: Facts, depth: usize) -> Result<Id> {
        let a = Accumulator::Argument(operand);
        if let Some(&id) = self.seen.get(&(at, a, facts)) {
            return Ok(id);
        }
        self.tests += 1;
        let (mut if_yes, mut if_no) = (facts, facts);
        if self.tests < MAX_REFINED {
            learn(&mut if_yes, &mut if_no, operand, step.code, step.k);
        } else {
            (if_yes, if_no) = (ANYTHING, ANYTHING);
        }
        let yes = self.from(at + usize::from(step.jt), a, if_yes, depth + 1)?;
        let no = self.from(at + usize::from(step.jf), a, if_no, depth + 1)?;
        let id = if yes == no {
            yes
        } else {
            self.nodes.add(Node::Test(Test { operand, comparison: step.code, value: step.k, yes, no }))
        };
        self.seen.insert((at, a, facts), id);
        Ok(id)
    }

    fn load(&self, at: u32) -> Option<Accumulator> {
        match at {
            offset::NUMBER => Some(Accumulator::Value(self.number)),
            offset::ARCH => Some(Accumulator::Value(self.arch)),
            at if offset::ARGUMENTS.contains(&at) && at % 4 == 0 => {
                Some(Accumulator::Argument(Operand { offset: at, mask: u32::MAX }))
            }
            _ => None,
        }
    }
}

/// The answer of a comparison.
pub(super) fn compare(comparison: u16, a: u32, k: u32) -> bool {
    match comparison {
        code::IF_EQUAL => a == k,
        code::IF_GREATER => a > k,
        code::IF_AT_LEAST => a >= k,
        _ => a & k != 0,
    }
}

/// The place of an operand's word among the arguments' words.
fn word(operand: Operand) -> usize {
    (operand.offset - offset::ARGUMENTS.start) as usize / 4
}

/// The answer of a comparison if what is known about the argument gives it.
fn foresee(facts: &Facts, operand: Operand, comparison: u16, k: u32) -> Option<bool> {
    let (least, greatest) = facts[word(operand)];
    if least == greatest || operand.mask == 0 {
        return Some(compare(comparison, least & operand.mask, k));
    }
    if operand.mask != u32::MAX || comparison == code::IF_BITS {
        return None;
    }
    // Below `k` all answer as the least does, above as the greatest; in between only `==` can differ.
    let ends = (compare(comparison, least, k), compare(comparison, greatest, k));
    (ends.0 == ends.1 && (comparison != code::IF_EQUAL || !(least..=greatest).contains(&k))).then_some(ends.0)
}

/// Adds to what is known about an argument what the two ways out of a comparison tell.
fn learn(yes: &mut Facts, no: &mut Facts, operand: Operand, comparison: u16, k: u32) {
    if operand.mask != u32::MAX || comparison == code::IF_BITS {
        return;
    }
    let (yes, no) = (&mut yes[word(operand)], &mut no[word(operand)]);
    match comparison {
        code::IF_EQUAL => {
            *yes = (k, k);
            if no.0 == k {
                no.0 += 1;
            } else if no.1 == k {
                no.1 -= 1;
            }
        }
        // The comparison was not foreseen, so both ways are possible and neither bound can overflow.
        code::IF_GREATER => (yes.0, no.1) = (k + 1, k),
        _ => (yes.0, no.1) = (k, k - 1),
    }
}

fn unknown(at: usize) -> Error {
    Error::new(
        Kind::System,
        format!(
            "seccomp: libseccomp generated a program with an unknown construct at instruction {at}: use 2.4 to 2.6"
        ),
    )
}
