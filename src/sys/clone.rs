//! clone3(2): how a container's first process comes to be.

use super::fs::Sys;
use super::raw::{answer, call};
use std::os::fd::RawFd;

/// What clone3(2) is asked for (struct clone_args).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Request {
    /// `CLONE_NEW*` and the like. `CLONE_PIDFD`, `CLONE_CLEAR_SIGHAND` and `CLONE_INTO_CGROUP` are added here.
    pub flags: u64,
    /// A cgroup v2 directory to be born in.
    pub cgroup: Option<RawFd>,
    /// The signal that the parent gets when the child ends; 0 for a child of the parent's parent (`CLONE_PARENT`).
    pub exit_signal: i32,
}

/// A child: its pid as this process sees it, and a descriptor for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// The pid in this process's pid namespace.
    pub pid: i32,
    /// The pidfd, `O_CLOEXEC`.
    pub pidfd: RawFd,
}

/// `CLONE_INTO_CGROUP`, Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// `CLONE_CLEAR_SIGHAND`, Linux 5.5.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// `CLONE_NEWTIME`, Linux 5.6.
pub const CLONE_NEWTIME: i32 = 0x80;
/// `CLONE_VM`: the child runs in its parent's memory until it executes something.
pub const SHARE_MEMORY: u64 = libc::CLONE_VM as u64;

/// Bytes of stack for a child that shares its parent's memory. Steps use buffers of at most a few KiB; tmpcopyup, which
/// recurses, some 50 KiB. There is no guard page below.
pub const STACK: usize = 128 * 1024;

/// struct clone_args of clone3(2), as of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct Arguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl Request {
    /// The kernel's form; the pidfd will be written to `pidfd`.
    fn arguments(&self, pidfd: &mut RawFd) -> Arguments {
        Arguments {
            flags: self.flags
                | libc::CLONE_PIDFD as u64
                | CLONE_CLEAR_SIGHAND
                | if self.cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
            pidfd: (&raw mut *pidfd) as u64,
            exit_signal: self.exit_signal as u64,
            cgroup: self.cgroup.unwrap_or(0) as u64,
            ..Arguments::default()
        }
    }
}

/// Makes a child that runs `main(argument)` and never returns from it.
///
/// With [`SHARE_MEMORY`] the child runs in this process's memory, on a stack of its own, at the same time as the
/// parent; it is made that way because copying page tables and the faults that follow cost more than all namespaces
/// but the network's. `main` must therefore allocate nothing, lock nothing and use no thread-local variable, and what
/// `argument` refers to must stay alive and unchanged until the child has executed another program or ended: the
/// caller leaks it or waits.
///
/// # Errors
/// What clone3(2) or mmap(2) answers.
///
/// # Safety
/// `argument` must outlive the child's use of it, which the borrow checker cannot see across processes.
pub unsafe fn spawn<T: Sync>(request: &Request, main: fn(&T) -> !, argument: &T) -> Sys<Child> {
    let mut pidfd: RawFd = -1;
    let mut arguments = request.arguments(&mut pidfd);
    let pid = if request.flags & SHARE_MEMORY == 0 {
        // SAFETY: the child gets a copy of this stack and runs main at once.
        match unsafe { call!(libc::SYS_clone3, &raw const arguments, size_of::<Arguments>()) }? {
            0 => main(argument),
            pid => pid,
        }
    } else {
        let stack = map_stack()?;
        arguments.stack = stack as u64;
        arguments.stack_size = STACK as u64;
        // SAFETY: the stack is fresh and the child never returns from main.
        let result =
            unsafe { clone3_onto(&arguments, main_of::<T>, (main as *const ()).cast(), (&raw const *argument).cast()) };
        if result.is_err() {
            // SAFETY: no child was made that could use the stack.
            let _ = unsafe { call!(libc::SYS_munmap, stack, STACK) };
        }
        result?
    };
    Ok(Child { pid: pid as i32, pidfd })
}

/// A private mapping for the child's stack. It is not unmapped: the child uses it until exec, and a runtime makes
/// one child a container.
fn map_stack() -> Sys<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    unsafe { call!(libc::SYS_mmap, 0, STACK, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) }
}

/// Where the child begins: gives `main` its type back and calls it.
extern "C" fn main_of<T: Sync>(main: *const u8, argument: *const u8) -> ! {
    // SAFETY: spawn passes exactly a `fn(&T) -> !` and a `&T` that outlives the child's use of it.
    unsafe {
        let main: fn(&T) -> ! = std::mem::transmute(main);
        main(&*argument.cast::<T>())
    }
}

type Entry = extern "C" fn(*const u8, *const u8) -> !;

/// clone3 onto a new stack, where the child calls `entry(main, argument)`. The child must not return into this
/// frame, whose stack it does not have, so the branch is taken in assembly.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3_onto(arguments: &Arguments, entry: Entry, main: *const u8, argument: *const u8) -> Sys<usize> {
    let result: isize;
    // SAFETY: syscall(2) convention. In the child rsp is the top of the new stack, 16-byte aligned by the mapping;
    // call pushes the return address as the ABI wants, and entry never returns.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "mov rsi, r13",
            "call r14",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") &raw const *arguments,
            in("rsi") size_of::<Arguments>(),
            in("r12") main,
            in("r13") argument,
            in("r14") entry,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    answer(result)
}

/// As above, for AArch64.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3_onto(arguments: &Arguments, entry: Entry, main: *const u8, argument: *const u8) -> Sys<usize> {
    let result: isize;
    // SAFETY: syscall(2) convention. In the child sp is the top of the new stack, 16-byte aligned by the mapping,
    // and entry never returns.
    unsafe {
        core::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "mov x1, x21",
            "blr x22",
            "brk 1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") &raw const *arguments as isize => result,
            in("x1") size_of::<Arguments>(),
            in("x20") main,
            in("x21") argument,
            in("x22") entry,
            lateout("x30") _,
        );
    }
    answer(result)
}

/// [`spawn`] for an argument that lives for ever.
///
/// # Errors
/// What clone3(2) or mmap(2) answers.
pub fn spawn_static<T: Sync>(request: &Request, main: fn(&T) -> !, argument: &'static T) -> Sys<Child> {
    // SAFETY: the argument is never freed.
    unsafe { spawn(request, main, argument) }
}

/// Makes a child that copies this process's memory and runs `main(argument)`, as after fork(2): for helpers that are
/// off the start path.
///
/// `main` should make raw system calls only: another thread of this process may have held any lock.
///
/// # Errors
/// What clone3(2) answers.
pub fn fork_and<T>(request: &Request, argument: T, main: fn(T) -> !) -> Sys<Child> {
    let mut pidfd: RawFd = -1;
    let arguments = request.arguments(&mut pidfd);
    // SAFETY: the child gets a copy of this stack and runs main at once, which does not return.
    match unsafe { call!(libc::SYS_clone3, &raw const arguments, size_of::<Arguments>()) }? {
        0 => main(argument),
        pid => Ok(Child { pid: pid as i32, pidfd }),
    }
}
