//! System calls without libc: no errno, no cancellation point, no lock, no thread-local variable.
//!
//! A child made with `CLONE_VM` shares its parent's thread-local storage, so libc's `errno` would race with the
//! parent; and a child of a threaded process may not take locks (`malloc`, stdio). Everything the child does goes
//! through here.

use nix::errno::Errno;

/// The highest error number that the kernel returns in a result register (linux/err.h, `MAX_ERRNO`).
const MAX_ERRNO: isize = 4095;

/// Issues the system call `number` with up to six arguments.
///
/// # Errors
/// The error number that the kernel returned.
///
/// # Safety
/// As for the system call itself: pointers must be valid for what the kernel does with them, and the effect on the
/// process must be one that Rust's rules allow.
#[inline]
pub unsafe fn syscall(number: libc::c_long, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: passed on to the caller.
    answer(unsafe { syscall_raw(number as usize, args) })
}

/// What the kernel's `result` register means.
#[inline]
pub(in crate::sys) fn answer(result: isize) -> Result<usize, Errno> {
    if !(-MAX_ERRNO..0).contains(&result) {
        return Ok(result as usize);
    }
    // By far the most frequent: what is asked for is not there. For the others there is a table, in a page that most starts do without.
    if result == -(libc::ENOENT as isize) {
        return Err(Errno::ENOENT);
    }
    match Errno::from_raw(-result as i32) {
        // Numbers that are the kernel's own (ENOTSUPP, 524) come out now and then. As nix has it they would be 0, which is
        // "no error" wherever an errno is passed on as a number.
        Errno::UnknownErrno => Err(Errno::EIO),
        errno => Err(errno),
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn syscall_raw(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the x86-64 system call convention (syscall(2)); rcx and r11 are declared as clobbered.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
#[inline]
unsafe fn syscall_raw(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the AArch64 system call convention (syscall(2)).
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1], in("x2") args[2],
            in("x3") args[3], in("x4") args[4], in("x5") args[5],
            options(nostack),
        );
    }
    result
}

/// A value that a system call takes in one register: an integer, a descriptor or a pointer.
pub trait Register {
    /// The register's content.
    fn register(self) -> usize;
}

macro_rules! register {
    ($($kind:ty),*) => { $(impl Register for $kind {
        #[inline]
        fn register(self) -> usize {
            self as usize
        }
    })* };
}
register!(i32, u32, i64, u64, usize, isize);

impl<T> Register for *const T {
    #[inline]
    fn register(self) -> usize {
        self as usize
    }
}

impl<T> Register for *mut T {
    #[inline]
    fn register(self) -> usize {
        self as usize
    }
}

/// Issues a system call: `call!(SYS_read, fd, buffer, length)`. Unsafe, as [`syscall`] is.
macro_rules! call {
    ($number:expr $(, $arg:expr)*) => {{
        let mut args = [0usize; 6];
        let rest = &mut args.iter_mut();
        $( if let Some(slot) = rest.next() { *slot = $crate::sys::raw::Register::register($arg); } )*
        let _ = rest;
        $crate::sys::raw::syscall($number, args)
    }};
}
pub(in crate::sys) use call;

/// Any system call with any arguments, for tests of filters.
#[cfg(test)]
pub fn probe(number: libc::c_long, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the tests pass calls that fail or have no effect, and no pointer that the kernel would write through.
    unsafe { syscall(number, args) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_never_number_0() {
        assert_eq!(answer(7), Ok(7));
        assert_eq!(answer(-4096), Ok(-4096isize as usize));
        assert_eq!(answer(-(libc::ENOENT as isize)), Err(Errno::ENOENT));
        assert_eq!(answer(-524), Err(Errno::EIO));
        assert!((1..=MAX_ERRNO).all(|number| answer(-number).is_err_and(|errno| errno as i32 != 0)));
    }
}
