//! The monitor: makes the virtual machine, runs the guest and answers its hypercalls.

use crate::guest;
use crate::memory::Memory;
use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap};
use kvm_ioctls::{Kvm, SyncReg, VcpuExit, VmFd};
use std::io;

/// Runs the guest until it halts.
///
/// # Errors
/// A sentence: what is missing, who refused, or what the guest did instead.
pub fn run() -> Result<(), String> {
    let kvm = Kvm::new().map_err(|error| unopened(error.errno()))?;
    let machine = kvm.create_vm().map_err(refused("KVM_CREATE_VM"))?;
    keep_code_unpatched(&machine);
    let mut memory =
        Memory::new(guest::MEMORY).map_err(|error| format!("there is no memory for the guest: {error}"))?;
    guest::load(&mut memory).ok_or("the guest does not fit into its memory")?;
    memory.give_to(&machine).map_err(refused("KVM_SET_USER_MEMORY_REGION"))?;
    let mut processor = machine.create_vcpu(0).map_err(refused("KVM_CREATE_VCPU"))?;
    // Handed over by KVM_RUN itself (since Linux 4.17), which saves KVM_SET_SREGS and KVM_SET_REGS: one part in twenty-five.
    let state = processor.sync_regs_mut();
    state.sregs = guest::system_registers();
    state.regs = guest::registers();
    processor.set_sync_dirty_reg(SyncReg::SystemRegister);
    processor.set_sync_dirty_reg(SyncReg::Register);
    loop {
        match processor.run() {
            Ok(VcpuExit::IoOut(guest::PUTS, address)) => puts(&memory, address)?,
            Ok(VcpuExit::IoOut(guest::HALT, _)) => return Ok(()),
            Ok(other) => return Err(format!("the guest did not halt: KVM ended it with {other:?}")),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(refused("KVM_RUN")(error)),
        }
    }
}

/// Gives the guest an interrupt controller inside KVM, of which it makes no use. A processor without one flips a static key
/// (kvm_has_noapic_vcpu), for which the kernel patches its own code and interrupts every CPU: a quarter of the time to the first
/// byte, a third of that to the end. A KVM that cannot do it (before Linux 4.5) runs the guest all the same.
fn keep_code_unpatched(machine: &VmFd) {
    let mut controller = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
    controller.args[0] = 24; // pins of an I/O APIC that nobody emulates
    let _ = machine.enable_cap(&controller);
}

/// The hypercall: writes the line that the guest means to standard output.
fn puts(memory: &Memory, address: &[u8]) -> Result<(), String> {
    let printed = <[u8; 4]>::try_from(address)
        .ok()
        .and_then(|address| guest::text(memory, u32::from_le_bytes(address).into()))
        .and_then(|(at, length)| memory.print(at, length))
        .ok_or("the guest wants something written that is not in its memory")?;
    printed.map_err(|error| format!("standard output does not take the guest's line: {error}"))
}

fn unopened(errno: i32) -> String {
    match errno {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => {
            let what = "load kvm_intel or kvm_amd, and in a virtual machine let its host allow nested virtualization";
            format!("there is no /dev/kvm: {what}")
        }
        libc::EACCES | libc::EPERM => "no permission to open /dev/kvm: be root or in the group that owns it".into(),
        _ => format!("/dev/kvm cannot be opened: {}", io::Error::from_raw_os_error(errno)),
    }
}

fn refused(request: &'static str) -> impl Fn(kvm_ioctls::Error) -> String {
    move |error| format!("KVM refuses {request}: {}", io::Error::from_raw_os_error(error.errno()))
}
