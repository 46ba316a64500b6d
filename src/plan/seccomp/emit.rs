//! Writes decisions down as the program that the kernel loads fastest.
//!
//! Loading costs far more than running: the kernel remembers which numbers are always allowed and does not run the
//! filter for them (since 5.11), but to find them it runs the filter once for every number of the native and the
//! compatible table, and it compiles every instruction. Measured with an engine's default profile: 2.1 ns for each
//! instruction run and some 120 ns for each instruction compiled. docs/seccomp.md has what other programs take.
//!
//! The program is built from its end, so that every jump's target is there when the jump is written.

use super::decide::{Id, Node, Nodes, Operand, Ranges, Tables, Test, X32_BIT, code, compare, join, offset};
use crate::error::{Error, Result};
use libc::sock_filter;
use std::collections::{BTreeSet, HashMap, HashSet};

/// The longest program that the kernel takes, in instructions (linux/bpf_common.h, `BPF_MAXINSNS`).
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// The farthest a conditional jump may go, less what the instructions put between it and its target may take.
const REACH: usize = 250;

/// What the kernel takes to run an instruction when it loads the program, in units so small that one of them for each range, for
/// the calls that are decided there later, only tips the balance between trees that load in the same time.
const RUN: u32 = 64;

/// What an instruction costs when loaded, in the same units.
const INSTRUCTION: u32 = 56 * RUN;

/// What it costs more if neither way out of a comparison leads to the next instruction: the kernel makes two of it.
const FORK: u32 = 12 * RUN;

/// The kernel runs the filter for each number below its table's size when it loads it.
const PROBED: u32 = 480;

/// The most ranges for which every tree is tried; above, it is supposed that the best split moves with its ranges.
const MAX_TRIED: usize = 128;

/// The most ranges for which the best tree is searched; above, the middle is taken until few enough are left.
const MAX_SEARCHED: usize = 512;

/// The program for `tables`.
///
/// # Errors
/// The program would be longer than the kernel takes.
pub(super) fn program(tables: &Tables) -> Result<Vec<sock_filter>> {
    let mut emitter = Emitter {
        nodes: &tables.nodes,
        reversed: Vec::new(),
        answers: HashMap::new(),
        tests: HashMap::new(),
        first: None,
    };
    let entries: Vec<(u32, Target)> =
        tables.archs.iter().map(|(arch, ranges)| (*arch, emitter.numbers(ranges))).collect();
    let mut otherwise = Target::Node(tables.other);
    for (i, (arch, entry)) in entries.iter().enumerate().rev() {
        if i == 0 && entries[1..].iter().any(|(_, entry)| matches!(entry, Target::Code(_))) {
            otherwise = Target::Code(emitter.give_up());
        }
        otherwise = Target::Code(emitter.jump(code::IF_EQUAL, *arch, *entry, otherwise));
    }
    emitter.push(code::LOAD, 0, 0, offset::ARCH);
    if emitter.reversed.len() > MAX_INSTRUCTIONS {
        return Err(Error::config(
            "linux.seccomp.syscalls",
            format!(
                "needs {} BPF instructions and the kernel takes {MAX_INSTRUCTIONS}: use fewer conditions or architectures",
                emitter.reversed.len()
            ),
        ));
    }
    emitter.reversed.reverse();
    Ok(emitter.reversed)
}

/// Where a range begins, and what it leads to.
type Range<L> = (u32, L);

/// The cheapest decision tree over ranges, found by dynamic programming.
struct Tree {
    /// How the ranges `i..j` are told apart, at `i * (n + 1) + j`; empty if there are too many to search.
    ways: Vec<Way>,
    /// How many ranges there are.
    n: usize,
    /// What it costs to load.
    cost: u32,
}

/// How some neighbouring ranges are told apart.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Is the number at least the start of this range?
    Split(u16),
    /// Every second range is a single number amid one decision: compare with each in turn.
    Singles,
}

impl Tree {
    /// The tree over `ranges`, of which the numbers below `probed` will be run.
    fn new<L: PartialEq>(ranges: &[Range<L>], probed: u32) -> Self {
        let n = ranges.len();
        let mut tree = Self { ways: Vec::new(), n, cost: u32::MAX };
        if n <= MAX_SEARCHED {
            tree.search(ranges, probed);
        }
        tree
    }

    fn search<L: PartialEq>(&mut self, ranges: &[Range<L>], probed: u32) {
        let n = self.n;
        let at = |i: usize, j: usize| i * (n + 1) + j;
        // weights[i]: what one instruction costs that is run for all that lies before range i.
        let starts = ranges.iter().map(|(start, _)| (*start).min(probed)).chain([probed]);
        let weights: Vec<u32> = starts.enumerate().map(|(i, before)| before * RUN + i as u32).collect();
        let mut costs = vec![0u32; (n + 1) * (n + 1)];
        self.ways = vec![Way::Split(0); (n + 1) * (n + 1)];
        let mut splits: Vec<usize> = vec![0; (n + 1) * (n + 1)];
        for i in 0..n {
            splits[at(i, i + 1)] = i + 1;
        }
        for length in 2..=n {
            for i in 0..=n - length {
                let j = i + length;
                let candidates = if n <= MAX_TRIED {
                    i + 1..=j - 1
                } else {
                    // As in trees without singles (Knuth 1971), which makes the search quadratic.
                    splits[at(i, j - 1)].max(i + 1)..=splits[at(i + 1, j)].min(j - 1)
                };
                let (mut cost, split) = candidates
                    .map(|m| (costs[at(i, m)] + costs[at(m, j)], m))
                    .min()
                    .unwrap_or((costs[at(i, i + 1)] + costs[at(i + 1, j)], i + 1));
                cost += weights[j] - weights[i] + INSTRUCTION + if length == 2 { FORK } else { 0 };
                splits[at(i, j)] = split;
                self.ways[at(i, j)] = Way::Split(split as u16);
                if let Some(singles) = singles_cost(ranges, &weights, i, j)
                    && singles < cost
                {
                    cost = singles;
                    self.ways[at(i, j)] = Way::Singles;
                }
                costs[at(i, j)] = cost;
            }
        }
        self.cost = costs[at(0, n)];
    }

    fn way(&self, i: usize, j: usize) -> Way {
        self.ways.get(i * (self.n + 1) + j).copied().unwrap_or(Way::Split((i + (j - i) / 2) as u16))
    }
}

/// What comparing with each single number in turn costs, where that is possible.
fn singles_cost<L: PartialEq>(ranges: &[Range<L>], weights: &[u32], i: usize, j: usize) -> Option<u32> {
    if (j - i).is_multiple_of(2) || (i..j).step_by(2).any(|k| ranges[k].1 != ranges[i].1) {
        return None;
    }
    let mut cost = FORK;
    let mut left = weights[j] - weights[i];
    for k in (i + 1..j).step_by(2) {
        if ranges[k + 1].0 - ranges[k].0 != 1 {
            return None;
        }
        cost += left + INSTRUCTION;
        left -= weights[k + 1] - weights[k];
    }
    Some(cost)
}

/// As a list.
fn targets(ranges: &Ranges) -> Vec<Range<Target>> {
    ranges.iter().map(|(start, id)| (*start, Target::Node(*id))).collect()
}

/// What the numbers of x32, which are those of x86-64 with one bit set, need besides the tree over the `low` ones: ranges from that
/// bit on, each with its decision or `None` where the number without the bit leads to the same.
fn beyond(low: &[Range<Target>], high: &[Range<Target>]) -> Vec<Range<Option<Target>>> {
    let of = |ranges: &[Range<Target>], number: u32| {
        ranges.partition_point(|(start, _)| *start <= number).checked_sub(1).map(|i| ranges[i].1)
    };
    let bounds = low.iter().map(|(start, _)| X32_BIT + start).chain([X32_BIT << 1]);
    let bounds: BTreeSet<u32> = bounds.chain(high.iter().map(|(start, _)| *start)).collect();
    // As few ranges as can be: each goes on while one of its two possible ends fits.
    let mut ranges: Vec<(u32, Option<Target>, bool)> = Vec::new();
    for start in bounds {
        let decision = of(high, start);
        let is_low = start < X32_BIT << 1 && of(low, start - X32_BIT) == decision;
        if let Some((_, last, last_is_low)) = ranges.last_mut() {
            let (same, both_low) = (last.filter(|last| decision == Some(*last)), *last_is_low && is_low);
            if same.is_some() || both_low {
                (*last, *last_is_low) = (same, both_low);
                continue;
            }
        }
        ranges.push((start, decision, is_low));
    }
    ranges.into_iter().map(|(start, decision, is_low)| (start, decision.filter(|_| !is_low))).collect()
}

/// Where a jump goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    /// To the code of a node, which is written when it is not there or too far away.
    Node(Id),
    /// To an instruction that is there already.
    Code(usize),
}

/// A tree that was written.
struct Written {
    ranges: Vec<Range<Target>>,
    /// The code that tells all ranges apart from one on, and which one: from the last to the first.
    ends: Vec<(usize, usize)>,
}

/// A program under construction. Positions count from the program's end.
struct Emitter<'a> {
    nodes: &'a Nodes,
    reversed: Vec<sock_filter>,
    /// The last place of each answer.
    answers: HashMap<u32, usize>,
    /// Where each test begins.
    tests: HashMap<Id, usize>,
    /// What was written for the first architecture.
    first: Option<Written>,
}

impl Emitter<'_> {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// How many instructions an instruction written now would have to skip to come to `position`.
    fn distance(&self, position: usize) -> usize {
        self.reversed.len() - 1 - position
    }

    /// Writes code that decides by the system call's number, and says where it is.
    fn numbers(&mut self, ranges: &Ranges) -> Target {
        let mut ranges = targets(ranges);
        self.share_end(&mut ranges);
        let (low, high) = ranges.split_at(ranges.partition_point(|(start, _)| *start < X32_BIT));
        let entry = match self.numbers_of_two(low, high) {
            Some(entry) => Target::Code(entry),
            None => self.written(&Tree::new(&ranges, PROBED), &ranges),
        };
        // What was written last is what follows.
        if let Target::Code(_) = entry { Target::Code(self.push(code::LOAD, 0, 0, offset::NUMBER)) } else { entry }
    }

    /// Goes on with what was written last, for the architectures but the first, after a look at an argument. The kernel does not know
    /// arguments when it looks for the numbers that are always allowed, and gives up at once. So a 32-bit program's system
    /// calls run the filter, and every start does without half of what it takes to find out about them.
    fn give_up(&mut self) -> usize {
        self.push(code::LOAD, 0, 0, offset::ARCH);
        self.push(code::LOAD, 0, 0, offset::ARGUMENTS.start)
    }

    /// As [`Self::numbers`], for ranges below and above [`X32_BIT`], where it costs less that they share code.
    fn numbers_of_two(&mut self, low: &[Range<Target>], high: &[Range<Target>]) -> Option<usize> {
        high.first().filter(|(start, _)| *start == X32_BIT)?;
        let beyond = beyond(low, high);
        let (tree, tree_beyond) = (Tree::new(low, PROBED), Tree::new(&beyond, 0));
        let shared = tree.cost.checked_add(tree_beyond.cost)?.checked_add(2 * INSTRUCTION + PROBED * RUN)?;
        if shared >= Tree::new(&[low, high].concat(), PROBED).cost {
            return None;
        }
        let Target::Code(root) = self.written(&tree, low) else { return None };
        let without_bit = Target::Code(self.push(code::AND, 0, 0, X32_BIT - 1));
        let beyond: Vec<_> = beyond.iter().map(|(start, to)| (*start, to.unwrap_or(without_bit))).collect();
        let is_x32 = self.tree(&tree_beyond, &beyond, 0..beyond.len(), &mut Vec::new());
        Some(self.jump(code::IF_AT_LEAST, X32_BIT, is_x32, Target::Code(root)))
    }

    /// System calls since Linux 5.1 have the same numbers on all architectures, and profiles the same rules for them: the last of
    /// `ranges` may be told apart by code that was written for the first architecture.
    fn share_end(&self, ranges: &mut Vec<Range<Target>>) {
        let Some(first) = &self.first else { return };
        let common = ranges.iter().rev().zip(first.ranges.iter().rev()).take_while(|(one, other)| one == other).count();
        let begin = first.ranges.len() - common;
        // The code for fewer ranges takes less time.
        let Some((_, code)) = first.ends.iter().find(|(from, _)| *from <= begin) else { return };
        // For two it takes a comparison, too.
        if common > 2 {
            ranges.truncate(ranges.len() - common + 1);
            if let Some((_, to)) = ranges.last_mut() {
                *to = Target::Code(*code);
            }
        }
    }

    /// Writes a tree over numbers, which is remembered if it is the first.
    fn written(&mut self, tree: &Tree, ranges: &[Range<Target>]) -> Target {
        let mut ends = Vec::new();
        let root = self.tree(tree, ranges, 0..ranges.len(), &mut ends);
        self.first.get_or_insert_with(|| Written { ranges: ranges.to_vec(), ends });
        root
    }

    /// Writes the tree over `some` of the ranges and says where it is. `ends` is told of the code that tells all from one on apart.
    fn tree(
        &mut self,
        tree: &Tree,
        ranges: &[Range<Target>],
        some: std::ops::Range<usize>,
        ends: &mut Vec<(usize, usize)>,
    ) -> Target {
        let (i, j) = (some.start, some.end);
        if j - i == 1 {
            return ranges[i].1;
        }
        let root = match tree.way(i, j) {
            Way::Split(split) => {
                let split = usize::from(split);
                let above = self.tree(tree, ranges, split..j, ends);
                let below = self.tree(tree, ranges, i..split, ends);
                Target::Code(self.jump(code::IF_AT_LEAST, ranges[split].0, above, below))
            }
            Way::Singles => (i + 1..j).step_by(2).rev().fold(ranges[i].1, |otherwise, k| {
                Target::Code(self.jump(code::IF_EQUAL, ranges[k].0, ranges[k].1, otherwise))
            }),
        };
        if let Target::Code(code) = root
            && j == ranges.len()
        {
            ends.push((i, code));
        }
        root
    }

    /// Writes code that loads the word at `offset` and goes where `ranges` tells for its value.
    fn ranges(&mut self, ranges: &Ranges, offset: u32) -> Target {
        let ranges = targets(ranges);
        match self.tree(&Tree::new(&ranges, 0), &ranges, 0..ranges.len(), &mut Vec::new()) {
            // The tree was written last, so it is what follows.
            Target::Code(_) => Target::Code(self.push(code::LOAD, 0, 0, offset)),
            node => node,
        }
    }

    /// Writes a conditional jump.
    fn jump(&mut self, comparison: u16, k: u32, yes: Target, no: Target) -> usize {
        // Writing one target may push the other out of reach, hence the second look at the first.
        let yes_at = self.reach(yes);
        let no = self.reach(no);
        let yes = self.reach(match yes {
            Target::Code(_) => Target::Code(yes_at),
            node => node,
        });
        let (jt, jf) = (self.distance(yes), self.distance(no));
        self.push(comparison, jt as u8, jf as u8, k)
    }

    /// A position within reach that leads to `target`.
    fn reach(&mut self, target: Target) -> usize {
        let position = match target {
            Target::Code(position) => position,
            Target::Node(id) => match self.nodes.get(id) {
                Node::Answer(answer) => return self.answer(answer),
                Node::Test(test) => self.test(id, test),
            },
        };
        if self.distance(position) <= REACH {
            return position;
        }
        let distance = self.distance(position) as u32;
        let nearer = self.push(code::JUMP, 0, 0, distance);
        if let Target::Node(id) = target
            && let Some(test) = self.tests.get_mut(&id)
        {
            *test = nearer;
        }
        nearer
    }

    fn answer(&mut self, answer: u32) -> usize {
        match self.answers.get(&answer) {
            Some(&position) if self.distance(position) <= REACH => position,
            _ => {
                let position = self.push(code::RETURN, 0, 0, answer);
                self.answers.insert(answer, position);
                position
            }
        }
    }

    /// The place of a test.
    fn test(&mut self, id: Id, test: Test) -> usize {
        if let Some(&place) = self.tests.get(&id) {
            return place;
        }
        let operand = test.operand;
        let place = if operand.mask == u32::MAX && test.comparison != code::IF_BITS {
            match self.ranges(&self.ranges_behind(id, operand), operand.offset) {
                Target::Code(place) => place,
                node => self.reach(node),
            }
        } else {
            self.jump(test.comparison, test.value, Target::Node(test.yes), Target::Node(test.no));
            if operand.mask != u32::MAX {
                self.push(code::AND, 0, 0, operand.mask);
            }
            self.push(code::LOAD, 0, 0, operand.offset)
        };
        self.tests.insert(id, place);
        place
    }

    /// All that the tests of `operand` from `id` on lead to, by its value: like system call numbers, the values fall into
    /// ranges, and a tree over those is shorter than a test for each.
    fn ranges_behind(&self, id: Id, operand: Operand) -> Ranges {
        let of_operand = |id| match self.nodes.get(id) {
            Node::Test(test) if test.operand == operand && test.comparison != code::IF_BITS => Some(test),
            _ => None,
        };
        let mut starts = BTreeSet::from([0]);
        let mut seen = HashSet::new();
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if let Some(test) = of_operand(id)
                && seen.insert(id)
            {
                starts.extend([test.value, test.value.wrapping_add(1)]);
                open.extend([test.yes, test.no]);
            }
        }
        let mut ranges: Ranges = starts
            .into_iter()
            .map(|value| {
                let mut id = id;
                while let Some(test) = of_operand(id) {
                    id = if compare(test.comparison, value, test.value) { test.yes } else { test.no };
                }
                (value, id)
            })
            .collect();
        join(&mut ranges);
        ranges
    }
}
