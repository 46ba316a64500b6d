//! Writes decisions down as the program that the kernel loads fastest.
//!
//! Loading costs far more than running: the kernel remembers which numbers are always allowed and does not run the
//! filter for them (since 5.11), but to find them it runs the filter once for every number of the native and the
//! compatible table, and it compiles every instruction. Measured with an engine's default profile: 2.6 ns for each
//! instruction run and some 86 ns for each instruction compiled; libseccomp's list of comparisons loads in 740 µs, its
//! binary tree in 211 µs, a tree over ranges with these costs minimised in 65 µs, an empty filter in 20 µs.
//!
//! The program is built from its end, so that every jump's target is there when the jump is written.

use super::decide::{Id, Node, Nodes, Operand, Ranges, Tables, Test, code, compare, join, offset};
use crate::error::{Error, Result};
use libc::sock_filter;
use std::collections::{BTreeSet, HashMap, HashSet};

/// The longest program that the kernel takes, in instructions (linux/bpf_common.h, `BPF_MAXINSNS`).
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// The farthest a conditional jump may go, less what the instructions put between it and its target may take.
const REACH: usize = 250;

/// What an instruction costs when loaded, in runs of an instruction.
const INSTRUCTION: u32 = 32;

/// The kernel runs the filter for each number below its table's size when it loads it.
const PROBED: u32 = 480;

/// The most ranges for which the best tree is searched; above, the middle is taken until few enough are left.
const MAX_SEARCHED: usize = 512;

/// The program for `tables`.
///
/// # Errors
/// The program would be longer than the kernel takes.
pub(super) fn program(tables: &Tables) -> Result<Vec<sock_filter>> {
    let mut emitter =
        Emitter { nodes: &tables.nodes, reversed: Vec::new(), answers: HashMap::new(), tests: HashMap::new() };
    let mut otherwise = Target::Node(tables.other);
    for (arch, ranges) in tables.archs.iter().rev() {
        let entry = emitter.ranges(ranges, PROBED, offset::NUMBER);
        otherwise = Target::Code(emitter.jump(code::IF_EQUAL, *arch, entry, otherwise));
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

/// The cheapest decision tree over ranges, found by dynamic programming.
struct Tree {
    /// Where each range begins.
    starts: Vec<u32>,
    /// What each range leads to.
    ids: Vec<Id>,
    /// How the ranges `i..j` are told apart, at `i * (n + 1) + j`; empty if there are too many to search.
    ways: Vec<Way>,
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
    fn new(ranges: &Ranges, probed: u32) -> Self {
        let (starts, ids): (Vec<u32>, Vec<Id>) = ranges.iter().unzip();
        let mut tree = Self { starts, ids, ways: Vec::new() };
        if tree.ids.len() <= MAX_SEARCHED {
            tree.search(probed);
        }
        tree
    }

    fn search(&mut self, probed: u32) {
        let n = self.ids.len();
        let at = |i: usize, j: usize| i * (n + 1) + j;
        // weights[i]: how many probed numbers lie before range i.
        let weights: Vec<u32> =
            (0..=n).map(|i| self.starts.get(i).map_or(probed, |start| (*start).min(probed))).collect();
        let mut costs = vec![0u32; (n + 1) * (n + 1)];
        self.ways = vec![Way::Split(0); (n + 1) * (n + 1)];
        let mut splits: Vec<usize> = vec![0; (n + 1) * (n + 1)];
        for i in 0..n {
            splits[at(i, i + 1)] = i + 1;
        }
        for length in 2..=n {
            for i in 0..=n - length {
                let j = i + length;
                // The best split moves with its ranges (Knuth 1971), which makes the search quadratic.
                let candidates = splits[at(i, j - 1)].max(i + 1)..=splits[at(i + 1, j)].min(j - 1);
                let (mut cost, split) = candidates
                    .map(|m| (costs[at(i, m)] + costs[at(m, j)], m))
                    .min()
                    .unwrap_or((costs[at(i, i + 1)] + costs[at(i + 1, j)], i + 1));
                cost += weights[j] - weights[i] + INSTRUCTION;
                splits[at(i, j)] = split;
                self.ways[at(i, j)] = Way::Split(split as u16);
                if let Some(singles) = self.singles_cost(&weights, i, j)
                    && singles < cost
                {
                    cost = singles;
                    self.ways[at(i, j)] = Way::Singles;
                }
                costs[at(i, j)] = cost;
            }
        }
    }

    /// What comparing with each single number in turn costs, where that is possible.
    fn singles_cost(&self, weights: &[u32], i: usize, j: usize) -> Option<u32> {
        if (j - i).is_multiple_of(2) || (i..j).step_by(2).any(|k| self.ids[k] != self.ids[i]) {
            return None;
        }
        let mut cost = 0;
        let mut left = weights[j] - weights[i];
        for k in (i + 1..j).step_by(2) {
            if self.starts[k + 1] - self.starts[k] != 1 {
                return None;
            }
            cost += left + INSTRUCTION;
            left -= weights[k + 1] - weights[k];
        }
        Some(cost)
    }

    fn way(&self, i: usize, j: usize) -> Way {
        self.ways.get(i * (self.ids.len() + 1) + j).copied().unwrap_or(Way::Split((i + (j - i) / 2) as u16))
    }
}

/// Where a jump goes.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// To the code of a node, which is written when it is not there or too far away.
    Node(Id),
    /// To an instruction that is there already.
    Code(usize),
}

/// A program under construction. Positions count from the program's end.
struct Emitter<'a> {
    nodes: &'a Nodes,
    reversed: Vec<sock_filter>,
    /// The last place of each answer.
    answers: HashMap<u32, usize>,
    /// Where each test begins.
    tests: HashMap<Id, usize>,
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

    /// Writes the tree over the ranges `i..j` and says where it is.
    fn tree(&mut self, tree: &Tree, i: usize, j: usize) -> Target {
        if j - i == 1 {
            return Target::Node(tree.ids[i]);
        }
        match tree.way(i, j) {
            Way::Split(split) => {
                let split = usize::from(split);
                let above = self.tree(tree, split, j);
                let below = self.tree(tree, i, split);
                Target::Code(self.jump(code::IF_AT_LEAST, tree.starts[split], above, below))
            }
            Way::Singles => {
                let mut otherwise = Target::Node(tree.ids[i]);
                for k in (i + 1..j).step_by(2).rev() {
                    let single = Target::Node(tree.ids[k]);
                    otherwise = Target::Code(self.jump(code::IF_EQUAL, tree.starts[k], single, otherwise));
                }
                otherwise
            }
        }
    }

    /// Writes code that loads the word at `offset` and goes where `ranges` tells for its value.
    fn ranges(&mut self, ranges: &Ranges, probed: u32, offset: u32) -> Target {
        let tree = Tree::new(ranges, probed);
        match self.tree(&tree, 0, tree.ids.len()) {
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
            match self.ranges(&self.ranges_behind(id, operand), 0, operand.offset) {
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
