//! A device policy as an eBPF program (`BPF_PROG_TYPE_CGROUP_DEVICE`, Linux 4.15).
//!
//! The kernel runs the program at every open(2) and mknod(2) of a device with `struct bpf_cgroup_dev_ctx`: access
//! bits in the upper half and the kind in the lower half of the first word, then major and minor. It answers 1 to
//! allow and 0 to refuse with `EPERM`. Every program on the way from the task's cgroup to the root has to allow.
//!
//! Loading is most of the cost, and the verifier's share grows with each branch and with what it must remember about
//! registers there. So major and minor are compared as one number, and all exceptions jump to one answer.

use super::devices::{Access, Devices, Kind, Policy};
use crate::{Error, Result};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// The operations used, as opcodes of linux/bpf.h.
mod op {
    pub const LOAD_WORD: u8 = 0x61; // dst = *(u32 *)(src + offset)
    pub const MOVE: u8 = 0xbf; // dst = src
    pub const MOVE_CONSTANT: u8 = 0xb7; // dst = constant
    pub const OR: u8 = 0x4f; // dst |= src
    pub const AND_CONSTANT: u8 = 0x57; // dst &= constant
    pub const SHIFT_LEFT: u8 = 0x67; // dst <<= constant
    pub const SHIFT_RIGHT: u8 = 0x77; // dst >>= constant
    pub const JUMP: u8 = 0x05;
    pub const JUMP_IF_EQUAL: u8 = 0x15; // if dst == constant
    pub const JUMP_UNLESS_EQUAL: u8 = 0x55; // if dst != constant
    pub const EXIT: u8 = 0x95; // return r0
}

/// `BPF_DEVCG_DEV_BLOCK` and `BPF_DEVCG_DEV_CHAR`.
const KIND_BLOCK: i32 = 1;
const KIND_CHAR: i32 = 2;

/// How many bits of a device number are its minor (linux/kdev_t.h, `MINORBITS`); 12 are its major.
const MINOR_BITS: i32 = 20;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const NUMBER: u8 = 6;
/// The context is not needed any more once its words are loaded.
const SCRATCH: u8 = 1;

/// The instruction count that Linux 4.15 to 5.1 allow (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// Stands for the distance to the common answer until that is known.
const TO_ANSWER: i16 = i16::MAX;

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    constant: i32,
}

impl Instruction {
    /// `destination <operation> constant`.
    const fn constant(code: u8, destination: u8, constant: i32) -> Self {
        Self { code, destination, source: 0, offset: 0, constant }
    }

    /// `destination <operation> source`.
    const fn register(code: u8, destination: u8, source: u8) -> Self {
        Self { code, destination, source, offset: 0, constant: 0 }
    }

    const fn load(destination: u8, offset: i16) -> Self {
        Self { code: op::LOAD_WORD, destination, source: CONTEXT, offset, constant: 0 }
    }

    const fn jump(code: u8, destination: u8, constant: i32, offset: i16) -> Self {
        Self { code, destination, source: 0, offset, constant }
    }

    fn encode(self) -> u64 {
        let [offset_low, offset_high] = self.offset.to_ne_bytes();
        let [a, b, c, d] = self.constant.to_ne_bytes();
        let registers = if cfg!(target_endian = "big") {
            self.destination << 4 | self.source
        } else {
            self.source << 4 | self.destination
        };
        u64::from_ne_bytes([self.code, registers, offset_low, offset_high, a, b, c, d])
    }

    /// The instruction at `index` as a person reads it.
    fn text(self, index: usize) -> String {
        let Self { code, destination, source, offset, constant } = self;
        let name = |register| match register {
            RESULT => "result",
            KIND => "kind",
            ACCESS => "access",
            MAJOR => "major",
            MINOR => "minor",
            NUMBER => "number",
            _ => "scratch",
        };
        let (to, from) = (name(destination), name(source));
        let target = index.saturating_add_signed(1 + isize::from(offset));
        let value = if destination == NUMBER {
            format!("{}:{}", constant >> MINOR_BITS, constant & ((1 << MINOR_BITS) - 1))
        } else {
            constant.to_string()
        };
        match code {
            op::LOAD_WORD => format!("{to} = context[{offset}]"),
            op::MOVE => format!("{to} = {from}"),
            op::MOVE_CONSTANT => format!("{to} = {constant}"),
            op::OR => format!("{to} |= {from}"),
            op::AND_CONSTANT => format!("{to} &= {constant}"),
            op::SHIFT_LEFT => format!("{to} <<= {constant}"),
            op::SHIFT_RIGHT => format!("{to} >>= {constant}"),
            op::JUMP => format!("go to {target}"),
            op::JUMP_IF_EQUAL => format!("if {to} == {value} go to {target}"),
            op::JUMP_UNLESS_EQUAL => format!("if {to} != {value} go to {target}"),
            _ => "exit".to_owned(),
        }
    }
}

/// A device program, ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

impl Serialize for Program {
    /// One line of text for each instruction.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().enumerate().map(|(index, i)| format!("{index}: {}", i.text(index))))
    }
}

impl Program {
    /// Assembles the program for `policy`.
    ///
    /// # Errors
    /// More rules than the kernel takes in one program (some 4000).
    pub fn assemble(policy: &Policy) -> Result<Self> {
        let mut code = vec![
            Instruction::load(KIND, 0),
            Instruction::register(op::MOVE, ACCESS, KIND),
            Instruction::constant(op::AND_CONSTANT, KIND, 0xffff),
            Instruction::constant(op::SHIFT_RIGHT, ACCESS, 16),
            Instruction::load(MAJOR, 4),
            Instruction::load(MINOR, 8),
            Instruction::register(op::MOVE, NUMBER, MAJOR),
            Instruction::constant(op::SHIFT_LEFT, NUMBER, MINOR_BITS),
            Instruction::register(op::OR, NUMBER, MINOR),
        ];
        for (kind, value) in [(Kind::Char, KIND_CHAR), (Kind::Block, KIND_BLOCK)] {
            let section = section(policy, kind);
            if !section.is_empty() {
                code.push(Instruction::jump(op::JUMP_UNLESS_EQUAL, KIND, value, length(&section)));
                code.extend(section);
            }
        }
        let exceptional = code.iter().any(|instruction| instruction.offset == TO_ANSWER);
        answer(&mut code, policy.default_allow);
        if code.len() + 2 > MAX_INSTRUCTIONS {
            let problem = format!(
                "makes a device program of {} instructions, of which the kernel takes {MAX_INSTRUCTIONS}: use fewer rules",
                code.len()
            );
            return Err(Error::config("linux.resources.devices", problem));
        }
        if exceptional {
            let end = code.len();
            for (index, instruction) in code.iter_mut().enumerate().filter(|(_, i)| i.offset == TO_ANSWER) {
                instruction.offset = (end - index - 1) as i16;
            }
            answer(&mut code, !policy.default_allow);
        }
        Ok(Self(code))
    }

    /// The program as bpf(2) takes it.
    pub fn encode(&self) -> Vec<u64> {
        self.0.iter().map(|instruction| instruction.encode()).collect()
    }
}

fn answer(code: &mut Vec<Instruction>, allow: bool) {
    code.push(Instruction::constant(op::MOVE_CONSTANT, RESULT, i32::from(allow)));
    code.push(Instruction::register(op::EXIT, 0, 0));
}

fn length(code: &[Instruction]) -> i16 {
    i16::try_from(code.len()).unwrap_or(TO_ANSWER - 1)
}

/// The exceptions for devices of one kind. Falls off the end if none of them matches.
fn section(policy: &Policy, kind: Kind) -> Vec<Instruction> {
    let mut groups: BTreeMap<Access, Vec<Devices>> = BTreeMap::new();
    for exception in policy.exceptions().filter(|exception| exception.devices.kind == kind) {
        groups.entry(exception.access).or_default().push(exception.devices);
    }
    let mut code = Vec::new();
    // The devices that may be used in every way come last, for what follows "every device" would never run.
    for (access, devices) in groups {
        let mut matches = Vec::new();
        for devices in devices {
            append_match(&mut matches, devices);
            if devices.major.is_none() && devices.minor.is_none() {
                break;
            }
        }
        append_access_check(&mut code, access, !policy.default_allow, length(&matches));
        code.extend(matches);
    }
    code
}

/// Appends "unless the request's access fits an exception for `access`, skip `length` instructions".
///
/// Permission needs every bit of the request to be granted, refusal needs only one to be denied: else opening for
/// reading and writing would slip past a rule that denies writing.
fn append_access_check(code: &mut Vec<Instruction>, access: Access, allow: bool, length: i16) {
    if access == Access::ALL {
        return;
    }
    let bits = i32::from(access.bits());
    code.push(Instruction::register(op::MOVE, SCRATCH, ACCESS));
    if allow {
        code.push(Instruction::constant(op::AND_CONSTANT, SCRATCH, !bits));
        code.push(Instruction::jump(op::JUMP_UNLESS_EQUAL, SCRATCH, 0, length));
    } else {
        code.push(Instruction::constant(op::AND_CONSTANT, SCRATCH, bits));
        code.push(Instruction::jump(op::JUMP_IF_EQUAL, SCRATCH, 0, length));
    }
}

/// Appends "if the device is one of `devices`, go to the common answer". Exceptions come sorted, wildcards first, so
/// nothing follows a match of every device.
fn append_match(code: &mut Vec<Instruction>, devices: Devices) {
    let equals = |register, number: u32| Instruction::jump(op::JUMP_IF_EQUAL, register, number as i32, TO_ANSWER);
    match (devices.major, devices.minor) {
        (None, None) => code.push(Instruction::jump(op::JUMP, 0, 0, TO_ANSWER)),
        (Some(major), None) => code.push(equals(MAJOR, major)),
        (None, Some(minor)) => code.push(equals(MINOR, minor)),
        // Constants are sign-extended, so the packed form is for numbers of up to 31 bits.
        (Some(major), Some(minor)) if major < 1 << 11 && minor < 1 << MINOR_BITS => {
            code.push(equals(NUMBER, major << MINOR_BITS | minor));
        }
        (Some(major), Some(minor)) => {
            code.push(Instruction::jump(op::JUMP_UNLESS_EQUAL, MAJOR, major as i32, 1));
            code.push(equals(MINOR, minor));
        }
    }
}
