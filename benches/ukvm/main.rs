//! The least monitor that runs a unikernel on KVM: the benchmark's row for a function in a virtual machine of its own.
//!
//!   ukvm
//!
//! It has the shape of ukvm (Williams and Koller, "Unikernel Monitors", HotCloud '16): one process for one guest, one virtual CPU
//! that starts in long mode, memory and hypercalls, and no firmware, no boot protocol and no devices. The
//! guest is six instructions that have "Hello" written through one port and halt through another. Whatever a useful unikernel
//! does besides comes on top of the time that this one takes: docs/benchmark.md.

#![cfg_attr(not(test), no_main)]

#[cfg(target_arch = "x86_64")]
mod guest;
#[cfg(target_arch = "x86_64")]
mod memory;
#[cfg(target_arch = "x86_64")]
mod monitor;

#[cfg(not(target_arch = "x86_64"))]
mod monitor {
    pub fn run() -> Result<(), String> {
        Err("the guest is made of x86-64 instructions, and this machine has others: leave the row out".into())
    }
}

/// What the C library starts. Rust's own start-up would come first otherwise: a dozen system calls for guard pages and signal
/// handlers, which a monitor of one thread and fixed input has no use for, and one part in thirty of its time.
#[allow(unsafe_code, reason = "an exported name could collide with another; the C library expects this very one")]
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main(arguments: i32, _: *const *const u8) -> i32 {
    let result = if arguments > 1 { Err("takes no arguments".into()) } else { monitor::run() };
    match result {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("ukvm: {why}");
            1
        }
    }
}
