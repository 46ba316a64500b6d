//! The guest: what is in its memory and in its registers when it starts.

use crate::memory::Memory;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

/// What the guest needs, in bytes: a page of its own and three page tables.
pub const MEMORY: usize = 0x4000;

/// The port of the hypercall that prints. What is written to it, 32 bits wide, is the address of a line: the address of a text and
/// its length, 64 bits each.
pub const PUTS: u16 = 0x500;

/// The port of the hypercall that ends the guest, whatever is written to it. It takes the place of HLT, which leaves the guest only
/// where KVM has no interrupt controller for it.
pub const HALT: u16 = 0x501;

const CODE: u64 = 0;
const LINE_AT: u64 = 0x100;
const TEXT_AT: u64 = LINE_AT + 16;
const TEXT: &[u8] = b"Hello\n";

/// Page-map level 4, page-directory pointers, page directory.
const TABLES: [u64; 3] = [0x1000, 0x2000, 0x3000];

const INSTRUCTIONS: &[u8] = &[
    0xb8, 0x00, 0x01, 0x00, 0x00, // mov eax, LINE_AT
    0xba, 0x00, 0x05, 0x00, 0x00, // mov edx, PUTS
    0xef, // out dx, eax
    0xff, 0xc2, // inc edx, to HALT
    0xef, // out dx, eax
];

/// Fills the memory: the instructions, what they refer to, and page tables that map the first 2 MiB to themselves.
pub fn load(memory: &mut Memory) -> Option<()> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const ACCESSED: u64 = 1 << 5;
    const DIRTY: u64 = 1 << 6;
    const LARGE: u64 = 1 << 7;
    let [top, pointers, directory] = TABLES;
    memory.write(CODE, INSTRUCTIONS)?;
    memory.write(LINE_AT, &TEXT_AT.to_le_bytes())?;
    memory.write(LINE_AT + 8, &(TEXT.len() as u64).to_le_bytes())?;
    memory.write(TEXT_AT, TEXT)?;
    memory.write(top, &(pointers | ACCESSED | PRESENT_WRITABLE).to_le_bytes())?;
    memory.write(pointers, &(directory | ACCESSED | PRESENT_WRITABLE).to_le_bytes())?;
    memory.write(directory, &(LARGE | DIRTY | ACCESSED | PRESENT_WRITABLE).to_le_bytes())
}

/// Where the text of the line at `address` is, and its length; none where the guest gave an address outside of its memory.
pub fn text(memory: &Memory, address: u64) -> Option<(u64, usize)> {
    let at = u64::from_le_bytes(memory.read(address)?);
    let length = u64::from_le_bytes(memory.read(address + 8)?);
    Some((at, usize::try_from(length).ok()?))
}

/// Long mode, with flat segments, as the Intel SDM (vol. 3, "IA-32e mode operation") asks for it. There are no descriptor tables:
/// the guest loads no segment and takes no interrupt.
pub fn system_registers() -> kvm_sregs {
    const PROTECTED: u64 = 1;
    const EXTENSION_TYPE: u64 = 1 << 4;
    const PAGING: u64 = 1 << 31;
    const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
    const LONG_MODE_ENABLED_AND_ACTIVE: u64 = 1 << 8 | 1 << 10;
    const APIC_AT_RESET: u64 = 0xfee0_0000 | 1 << 11 | 1 << 8; // enabled, of the first processor
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    let code = kvm_segment { selector: 8, type_: 11, l: 1, ..flat };
    let data = kvm_segment { selector: 16, type_: 3, db: 1, ..flat };
    kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        // A processor enters a guest only with a busy task, though nothing switches tasks.
        tr: kvm_segment { limit: 0xffff, type_: 11, present: 1, ..Default::default() },
        ldt: kvm_segment { unusable: 1, ..Default::default() },
        cr0: PAGING | EXTENSION_TYPE | PROTECTED,
        cr3: TABLES[0],
        cr4: PHYSICAL_ADDRESS_EXTENSION,
        efer: LONG_MODE_ENABLED_AND_ACTIVE,
        apic_base: APIC_AT_RESET,
        ..Default::default()
    }
}

/// Where it starts. It has no stack, since it calls nothing.
pub fn registers() -> kvm_regs {
    const ALWAYS_ONE: u64 = 1 << 1;
    kvm_regs { rip: CODE, rflags: ALWAYS_ONE, ..Default::default() }
}
