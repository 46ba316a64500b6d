//! clone3(2): how a container's first process comes to be.

use super::fs::{self, Sys};
use super::raw::{answer, call};
use super::socket;
use nix::errno::Errno;
use std::fmt::Write;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

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

impl Child {
    /// Kills it and waits for its end. One that has ended and was waited for is what is wanted.
    pub fn end(self) {
        /// How long it may take to be gone where it cannot be waited for as a child.
        const PATIENCE: Duration = Duration::from_secs(10);
        let _ = super::process::pidfd_send_signal(self.pidfd, libc::SIGKILL);
        // ECHILD: it is this process's sibling, or gone.
        if super::process::wait(self.pid, 0).is_err() {
            let _ = super::process::ends_within(self.pidfd, PATIENCE);
        }
    }
}

/// `CLONE_INTO_CGROUP`, Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// `CLONE_CLEAR_SIGHAND`, Linux 5.5.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// `CLONE_NEWTIME`, Linux 5.6.
pub const CLONE_NEWTIME: i32 = 0x80;
/// `CLONE_VM`: the child runs in its parent's memory until it executes something.
pub const SHARE_MEMORY: u64 = libc::CLONE_VM as u64;

/// Bytes of stack for a child that shares its parent's memory. Steps use buffers of at most a few KiB, of which
/// tmpcopyup has some. There is no guard page below.
pub const STACK: usize = 128 * 1024;

/// The stack of a child that shares its parent's memory, and room for other things below it. The pages of it that the child has written to are there,
/// and no others.
#[derive(Debug)]
pub struct Stack {
    at: usize,
    /// With the mark.
    room: usize,
}

/// What a room begins with, as long as an alignment: a word that is not 0 once its child says that it leaves nothing there that another may not find.
const MARK: usize = 16;

impl Stack {
    /// Maps one, with `room` bytes besides.
    ///
    /// # Errors
    /// What mmap(2) answers.
    pub fn with_room(room: usize) -> Sys<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        let room = if room == 0 { 0 } else { MARK + room };
        let size = STACK + room;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let at = unsafe { call!(libc::SYS_mmap, 0, size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) }?;
        Ok(Self { at, room })
    }

    /// The room, for whoever takes it first.
    pub fn room(&self) -> Room {
        Room { at: AtomicUsize::new(self.at), mark: self.at, size: self.room.saturating_sub(MARK) }
    }

    /// The same for another child, if the one that has left says that it may be.
    fn again(self) -> Option<Self> {
        if self.room < MARK {
            return None;
        }
        // SAFETY: the room begins with the mark, and nobody else is in it.
        let mark = unsafe { AtomicU32::from_ptr(self.at as *mut u32) };
        (mark.swap(0, Ordering::Relaxed) != 0).then_some(self)
    }

    /// How many bytes of it are in memory (mincore(2)); nothing where that cannot be told.
    pub fn resident(&self) -> usize {
        const PAGE: usize = 4096;
        let mut pages = [0u8; 128];
        let size = (STACK + self.room).min(pages.len() * PAGE);
        // SAFETY: the kernel writes a byte for each page of the size that it has, and none is smaller.
        let asked = unsafe { call!(libc::SYS_mincore, self.at, size, pages.as_mut_ptr()) };
        let there = if asked.is_ok() { pages.iter().filter(|page| **page & 1 != 0).count() } else { 0 };
        // SAFETY: it reads what the kernel passed to the program.
        there * unsafe { libc::getauxval(libc::AT_PAGESZ) } as usize
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: who has it to drop has made sure that the child has left ([`Loan`]).
        let _ = unsafe { call!(libc::SYS_munmap, self.at, STACK + self.room) };
    }
}

/// Memory below the stack of a child, which has it for itself.
#[derive(Debug)]
pub struct Room {
    at: AtomicUsize,
    mark: usize,
    size: usize,
}

impl Room {
    /// Where it is, and how large; `None` for all but the first who asks. It is there for as long as its child is in this memory.
    pub(super) fn take(&self) -> Option<(usize, usize)> {
        let at = self.at.swap(0, Ordering::Relaxed);
        (at != 0).then_some((at + MARK, self.size))
    }

    /// Says that nothing is left in it, or on the stack, that another child may not find. It is to be said from there.
    pub(super) fn leave(&self) {
        // SAFETY: the room begins with the mark, and is there for as long as its child.
        unsafe { AtomicU32::from_ptr(self.mark as *mut u32) }.store(1, Ordering::Relaxed);
    }
}

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
    /// `present`, where there is such a word, is set to 0 by the kernel when the child leaves this memory.
    fn arguments(&self, pidfd: &mut RawFd, present: Option<&AtomicU32>) -> Arguments {
        Arguments {
            flags: self.flags
                | libc::CLONE_PIDFD as u64
                | CLONE_CLEAR_SIGHAND
                | if self.cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 }
                | if present.is_some() { libc::CLONE_CHILD_CLEARTID as u64 } else { 0 },
            pidfd: (&raw mut *pidfd) as u64,
            child_tid: present.map_or(0, |present| present.as_ptr() as u64),
            exit_signal: self.exit_signal as u64,
            cgroup: self.cgroup.unwrap_or(0) as u64,
            ..Arguments::default()
        }
    }
}

/// A system call that makes a child, and its arguments. All of them are without effect on the parent.
#[derive(Clone, Copy)]
struct Making {
    number: libc::c_long,
    args: [usize; 4],
}

impl Making {
    fn clone3(arguments: &Arguments) -> Self {
        Self { number: libc::SYS_clone3, args: [(&raw const *arguments) as usize, size_of::<Arguments>(), 0, 0] }
    }

    /// clone(2) with the same arguments but for the cgroup; the signal is part of the flags, and the pidfd comes where
    /// the parent's copy of the thread id would.
    fn clone(arguments: &Arguments) -> Self {
        let flags = arguments.flags & !(CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP) | arguments.exit_signal;
        let top = arguments.stack + arguments.stack_size;
        let args = [flags, top, arguments.pidfd, arguments.child_tid];
        Self { number: libc::SYS_clone, args: args.map(|argument| argument as usize) }
    }
}

/// What a child in this process's memory uses of it: its argument and its stack.
///
/// Both are freed with this value if the child has left the memory by then, by executing a program or by ending, which the
/// kernel tells (`CLONE_CHILD_CLEARTID`); else they stay for ever.
#[derive(Debug)]
pub struct Loan<T> {
    argument: ManuallyDrop<Arc<T>>,
    /// `None` for a child with a memory of its own.
    stack: ManuallyDrop<Option<Stack>>,
    /// Not 0 as long as the child is there.
    present: ManuallyDrop<Box<AtomicU32>>,
}

impl<T> Loan<T> {
    /// What the child was given.
    pub fn argument(&self) -> &T {
        &self.argument
    }

    /// The child's stack, in this memory.
    pub fn stack(&self) -> Option<&Stack> {
        self.stack.as_ref()
    }

    /// Whether the child has left this memory.
    pub fn is_over(&self) -> bool {
        self.present.load(Ordering::Acquire) == 0
    }

    /// Ends the loan. The stack is for another child, if the one that had it has left and says that it may be.
    pub fn end(mut self) -> Option<Stack> {
        if !self.is_over() {
            return None;
        }
        self.stack.take().and_then(Stack::again)
    }
}

impl<T> Drop for Loan<T> {
    fn drop(&mut self) {
        if !self.is_over() {
            return;
        }
        // SAFETY: the child does not use them any more, and nobody does after this.
        unsafe {
            ManuallyDrop::drop(&mut self.argument);
            ManuallyDrop::drop(&mut self.present);
            ManuallyDrop::drop(&mut self.stack);
        }
    }
}

/// Makes a child that runs `main(argument)` and never returns from it.
///
/// With [`SHARE_MEMORY`] the child runs in this process's memory, on a stack of its own, at the same time as the
/// parent; it is made that way because copying page tables and the faults that follow cost more than all namespaces
/// but the network's. `main` must therefore allocate nothing, lock nothing, use no thread-local variable, and leave
/// `argument` unchanged but for atomics.
///
/// Where clone3(2) is missing, or does not know what is asked of it, clone(2) makes the child.
///
/// # Errors
/// What clone3(2), clone(2) or mmap(2) answers.
pub fn spawn<T: Send + Sync>(request: &Request, main: fn(&T) -> !, argument: Arc<T>) -> Sys<(Child, Loan<T>)> {
    let is_shared = request.flags & SHARE_MEMORY != 0;
    spawn_on(if is_shared { Some(Stack::with_room(0)?) } else { None }, request, main, argument)
}

/// As [`spawn`], on `stack`: with [`SHARE_MEMORY`] there must be one, and else none.
///
/// # Errors
/// What clone3(2) or clone(2) answers; EINVAL for a stack too many, or none.
pub fn spawn_on<T: Send + Sync>(
    stack: Option<Stack>,
    request: &Request,
    main: fn(&T) -> !,
    argument: Arc<T>,
) -> Sys<(Child, Loan<T>)> {
    let is_shared = request.flags & SHARE_MEMORY != 0;
    if is_shared != stack.is_some() {
        return Err(Errno::EINVAL);
    }
    let loan = Loan {
        argument: ManuallyDrop::new(argument),
        stack: ManuallyDrop::new(stack),
        present: ManuallyDrop::new(Box::new(AtomicU32::new(0))),
    };
    let pointer = (&raw const **loan.argument).cast();
    let place = Place { stack: loan.stack.as_ref(), present: is_shared.then_some(&loan.present) };
    // SAFETY: what the child uses is freed by the loan, once the child has left.
    let child = unsafe { make(request, place, main_of::<T>, (main as *const ()).cast(), pointer) };
    // If it fails there may be a child all the same, which is to end and takes its time: then the loan is not over.
    child.map(|child| (child, loan))
}

/// Makes a child that runs `main(argument)` in a copy of this process's memory: [`SHARE_MEMORY`] is left out.
///
/// `main` should make raw system calls only: another thread of this process may have held any lock.
///
/// # Errors
/// What clone3(2) or clone(2) answers.
pub fn spawn_copy<T: Sync>(request: &Request, main: fn(&T) -> !, argument: &T) -> Sys<Child> {
    let request = Request { flags: request.flags & !SHARE_MEMORY, ..*request };
    // SAFETY: the child's copy of the argument lives as long as the child.
    unsafe { make(&request, Place::COPY, main_of::<T>, (main as *const ()).cast(), (&raw const *argument).cast()) }
}

/// As [`spawn_copy`], as after fork(2): for helpers that are off the start path.
///
/// # Errors
/// What clone3(2) or clone(2) answers.
pub fn fork_and<T: Copy>(request: &Request, argument: T, main: fn(T) -> !) -> Sys<Child> {
    /// What the child finds in its copy of the memory.
    struct Work<T> {
        main: fn(T) -> !,
        argument: T,
    }
    // SAFETY: the child has its own copy, in its one thread.
    unsafe impl<T> Sync for Work<T> {}
    let begin = |work: &Work<T>| {
        end_alone();
        (work.main)(work.argument)
    };
    spawn_copy(request, begin, &Work { main, argument })
}

/// Has this process end when it panics, and no other: abort(3) would signal the thread whose id the C library remembers, and a child that it does not know
/// of has that of who made it.
fn end_alone() {
    struct Stderr;
    impl Write for Stderr {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            fs::write(libc::STDERR_FILENO, text.as_bytes()).map_err(|_| std::fmt::Error)
        }
    }
    // Nothing is allocated or freed: another thread may have held the lock for that. Nobody holds the hook's but who panics.
    std::mem::forget(panic::take_hook());
    panic::set_hook(Box::new(|what| {
        let _ = writeln!(Stderr, "microrun: {what}");
        super::process::exit(128 + libc::SIGABRT)
    }));
}

/// Where a child runs.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// Its stack; `None` for a copy of this one.
    stack: Option<&'a Stack>,
    /// What is not 0 from its beginning until it leaves.
    present: Option<&'a AtomicU32>,
}

impl Place<'_> {
    /// In a copy of this process's memory.
    const COPY: Self = Self { stack: None, present: None };
}

/// # Safety
/// As [`begin`].
unsafe fn make(request: &Request, place: Place<'_>, entry: Entry, main: *const u8, argument: *const u8) -> Sys<Child> {
    // SAFETY: passed on to the caller.
    match unsafe { begin(request, place, Making::clone3, entry, main, argument) } {
        // Missing (before Linux 5.3), hidden by a seccomp filter, or without CLONE_CLEAR_SIGHAND (5.5) or
        // CLONE_INTO_CGROUP (5.7), of which the latter makes the arguments longer. What is refused for another reason is
        // refused again.
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EINVAL | Errno::E2BIG) => {
            // SAFETY: as above.
            unsafe { make_by_clone(request, place, entry, main, argument) }
        }
        made => made,
    }
}

/// Makes a child that calls `entry(main, argument)`.
///
/// # Safety
/// `entry` must be able to do with the pointers what it does, in the child. The stack is the child's until it leaves.
unsafe fn begin(
    request: &Request,
    place: Place<'_>,
    making: fn(&Arguments) -> Making,
    entry: Entry,
    main: *const u8,
    argument: *const u8,
) -> Sys<Child> {
    let mut pidfd: RawFd = -1;
    let mut arguments = request.arguments(&mut pidfd, place.present);
    let set_present = |value| place.present.iter().for_each(|present| present.store(value, Ordering::Relaxed));
    // Once there is a child it is the kernel that says that it has left.
    set_present(1);
    let made = if let Some(stack) = place.stack {
        arguments.stack = (stack.at + stack.room) as u64;
        arguments.stack_size = STACK as u64;
        // SAFETY: nobody else uses the stack, and entry never returns.
        unsafe { call_onto_stack(making(&arguments), entry, main, argument) }
    } else {
        let Making { number, args: [a, b, c, _] } = making(&arguments);
        // SAFETY: the child gets a copy of this stack and calls entry at once, which does not return.
        match unsafe { call!(number, a, b, c) } {
            Ok(0) => entry(main, argument),
            made => made,
        }
    };
    let pid = made.inspect_err(|_| set_present(0))?;
    // The kernel wrote it: a copy in a register would not know.
    // SAFETY: it is a local variable.
    let pidfd = unsafe { (&raw const pidfd).read_volatile() };
    Ok(Child { pid: pid as i32, pidfd })
}

/// What a child that is not born in its cgroup needs to know.
#[derive(Clone, Copy)]
struct Waiting {
    entry: Entry,
    main: *const u8,
    argument: *const u8,
    /// Where the child says that it knows all this, and a byte comes once it is in its cgroup.
    gate: RawFd,
    /// The parent's end.
    parents: RawFd,
    /// Whether parent and child have their descriptors in common, so that neither may close the other's.
    shares_files: bool,
}

/// As [`begin`], by clone(2). The child is moved into its cgroup before it does anything.
///
/// # Safety
/// As [`begin`].
unsafe fn make_by_clone(
    request: &Request,
    place: Place<'_>,
    entry: Entry,
    main: *const u8,
    argument: *const u8,
) -> Sys<Child> {
    let Some(cgroup) = request.cgroup else {
        // SAFETY: passed on to the caller.
        return unsafe { begin(request, place, Making::clone, entry, main, argument) };
    };
    let processes = fs::open(cgroup, c"cgroup.procs", libc::O_WRONLY, 0)?;
    let shares_files = request.flags & libc::CLONE_FILES as u64 != 0;
    let joined = socket::pair().and_then(|(parents, gate)| {
        let waiting = Waiting { entry, main, argument, gate, parents, shares_files };
        // SAFETY: `waiting` is here until the child has said that it has copied it, or is dead.
        let child =
            unsafe { begin(request, place, Making::clone, wait_for_cgroup, (&raw const waiting).cast(), argument) };
        if !shares_files {
            fs::close(gate);
        }
        let joined = child.and_then(|child| {
            hear_of(parents, child);
            let mut digits = [0; 10];
            fs::write(processes, decimal(child.pid.unsigned_abs(), &mut digits)).inspect_err(|_| {
                // Nothing that it uses may go before it has.
                child.end();
                fs::close(child.pidfd);
            })?;
            // A child that was killed meanwhile is found out by whoever waits for it.
            let _ = fs::write(parents, &[1]);
            if shares_files {
                // It has to have read that before the descriptors go.
                hear_of(parents, child);
            }
            Ok(child)
        });
        if shares_files {
            fs::close(gate);
        }
        fs::close(parents);
        joined
    });
    fs::close(processes);
    joined
}

/// Waits for a word of `child`, or its end, which the socket does not tell as long as somebody has the other end open.
fn hear_of(socket: RawFd, child: Child) {
    let mut fds = [socket, child.pidfd].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let _ = fs::retry(|| super::process::poll(&mut fds, None));
    if fds[0].revents != 0 {
        let _ = fs::read(socket, &mut [0]);
    }
}

/// Where a child begins that its parent still has to move.
extern "C" fn wait_for_cgroup(waiting: *const u8, _: *const u8) -> ! {
    // SAFETY: make_by_clone passes a Waiting, and leaves it alone until the byte comes. It is not looked at again.
    let Waiting { entry, main, argument, gate, parents, shares_files } =
        unsafe { waiting.cast::<Waiting>().read_volatile() };
    if !shares_files {
        fs::close(parents);
    }
    let _ = fs::write(gate, &[1]);
    let moved = fs::read(gate, &mut [0]);
    if shares_files {
        let _ = fs::write(gate, &[1]);
    } else {
        fs::close(gate);
    }
    if moved != Ok(1) {
        super::process::exit(1);
    }
    entry(main, argument)
}

/// The digits of `number`.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut first = digits.len();
    for (index, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        first = index;
        if number == 0 {
            break;
        }
    }
    digits.get(first..).unwrap_or_default()
}

/// Where the child begins: gives `main` its type back and calls it.
extern "C" fn main_of<T: Sync>(main: *const u8, argument: *const u8) -> ! {
    // SAFETY: spawn and spawn_copy pass exactly a `fn(&T) -> !` and a `&T` that outlives the child's use of it.
    unsafe {
        let main: fn(&T) -> ! = std::mem::transmute(main);
        main(&*argument.cast::<T>())
    }
}

type Entry = extern "C" fn(*const u8, *const u8) -> !;

/// Makes a child with a new stack, where it calls `entry(main, argument)`. The child must not return into this
/// frame, whose stack it does not have, so the branch is taken in assembly.
#[cfg(target_arch = "x86_64")]
unsafe fn call_onto_stack(making: Making, entry: Entry, main: *const u8, argument: *const u8) -> Sys<usize> {
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
            inlateout("rax") making.number as isize => result,
            in("rdi") making.args[0],
            in("rsi") making.args[1],
            in("rdx") making.args[2],
            in("r10") making.args[3],
            in("r8") 0,
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
unsafe fn call_onto_stack(making: Making, entry: Entry, main: *const u8, argument: *const u8) -> Sys<usize> {
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
            in("x8") making.number,
            inlateout("x0") making.args[0] as isize => result,
            in("x1") making.args[1],
            in("x2") making.args[2],
            in("x3") 0,
            in("x4") making.args[3],
            in("x20") main,
            in("x21") argument,
            in("x22") entry,
            lateout("x30") _,
        );
    }
    answer(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_kernel_reads_them() {
        for number in [0, 7, 10, 4_194_304, u32::MAX] {
            assert_eq!(decimal(number, &mut [0; 10]), number.to_string().as_bytes());
        }
    }

    fn ends_with(code: &i32) -> ! {
        super::super::process::exit(*code)
    }

    fn reaped(child: Child) -> Option<super::super::process::Exit> {
        fs::close(child.pidfd);
        super::super::process::wait(child.pid, 0).unwrap()
    }

    #[test]
    fn what_a_child_has_used_is_freed_once_it_has_left() {
        for flags in [0, SHARE_MEMORY] {
            let argument = Arc::new(7);
            let request = Request { flags, cgroup: None, exit_signal: libc::SIGCHLD };
            let (child, loan) = spawn(&request, ends_with, Arc::clone(&argument)).unwrap();
            assert_eq!(*loan.argument(), 7);
            assert_eq!(reaped(child), Some(super::super::process::Exit::Code(7)));
            assert!(loan.is_over());
            assert_eq!(Arc::strong_count(&argument), 2);
            drop(loan);
            assert_eq!(Arc::strong_count(&argument), 1);
        }
    }

    #[test]
    fn what_a_child_still_uses_stays() {
        fn waits(word: &AtomicU32) -> ! {
            let _ = super::super::process::wait_while(word, 0);
            super::super::process::exit(0)
        }
        let word = Arc::new(AtomicU32::new(0));
        let request = Request { flags: SHARE_MEMORY, cgroup: None, exit_signal: libc::SIGCHLD };
        let (child, loan) = spawn(&request, waits, Arc::clone(&word)).unwrap();
        assert!(!loan.is_over());
        drop(loan);
        assert_eq!(Arc::strong_count(&word), 2);
        super::super::process::set_and_wake(&word, 1);
        assert_eq!(reaped(child), Some(super::super::process::Exit::Code(0)));
    }

    #[test]
    fn a_stack_is_anothers_only_if_its_child_has_said_so_and_left() {
        struct Argument {
            room: Room,
            leaves: bool,
            word: AtomicU32,
        }
        fn writes(argument: &Argument) -> ! {
            if argument.leaves {
                argument.room.leave();
            }
            let _ = super::super::process::wait_while(&argument.word, 0);
            super::super::process::exit(0)
        }
        let request = Request { flags: SHARE_MEMORY, cgroup: None, exit_signal: libc::SIGCHLD };
        let began = |stack: Stack, leaves: bool, word: u32| {
            let argument = Arc::new(Argument { room: stack.room(), leaves, word: AtomicU32::new(word) });
            let (child, loan) = spawn_on(Some(stack), &request, writes, Arc::clone(&argument)).unwrap();
            (child, loan, argument)
        };
        let (child, loan, argument) = began(Stack::with_room(64).unwrap(), true, 0);
        assert!(loan.end().is_none(), "its child is there");
        super::super::process::set_and_wake(&argument.word, 1);
        reaped(child);
        let ended = |stack, leaves| {
            let (child, loan, _) = began(stack, leaves, 1);
            reaped(child);
            loan.end()
        };
        let stack = ended(Stack::with_room(64).unwrap(), true).unwrap();
        let at = stack.at;
        assert_eq!(stack.room().take(), Some((at + MARK, 64)));
        // The mark is of the child that made it.
        assert!(ended(stack, false).is_none());
        assert!(Stack::with_room(0).unwrap().again().is_none());
    }

    /// A directory that stands for a cgroup: who is moved there is written to a file.
    fn cgroup(at: &std::path::Path) -> std::os::fd::OwnedFd {
        let path = fs::c_path(at).unwrap();
        super::super::own(fs::open(fs::CWD, &path, libc::O_PATH | libc::O_DIRECTORY, 0).unwrap())
    }

    #[test]
    fn clone_moves_a_child_whatever_it_shares_with_its_parent() {
        use std::os::fd::AsRawFd;
        let directory = tempfile::tempdir().unwrap();
        let place = cgroup(directory.path());
        let main: fn(&i32) -> ! = ends_with;
        let main = (main as *const ()).cast();
        let code: &'static i32 = &7;
        let files = libc::CLONE_FILES as u64;
        for flags in [0, files, SHARE_MEMORY, SHARE_MEMORY | files] {
            std::fs::write(directory.path().join("cgroup.procs"), "").unwrap();
            let request = Request { flags, cgroup: Some(place.as_raw_fd()), exit_signal: libc::SIGCHLD };
            let stack = (flags & SHARE_MEMORY != 0).then(|| Stack::with_room(0).unwrap());
            let place = Place { stack: stack.as_ref(), present: None };
            // SAFETY: main_of gets the types that it asks for, and they live for ever.
            let child = unsafe { make_by_clone(&request, place, main_of::<i32>, main, (&raw const *code).cast()) };
            let child = child.unwrap();
            assert_eq!(reaped(child), Some(super::super::process::Exit::Code(7)), "{flags:x}");
            let moved = std::fs::read_to_string(directory.path().join("cgroup.procs")).unwrap();
            assert_eq!(moved, child.pid.to_string());
        }
    }

    #[test]
    fn what_a_child_that_cannot_be_moved_has_used_is_freed_when_it_has_ended() {
        use std::os::fd::AsRawFd;
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", directory.path().join("cgroup.procs")).unwrap();
        let place = cgroup(directory.path());
        for flags in [SHARE_MEMORY, SHARE_MEMORY | libc::CLONE_FILES as u64] {
            let request = Request { flags, cgroup: Some(place.as_raw_fd()), exit_signal: libc::SIGCHLD };
            let stack = Stack::with_room(0).unwrap();
            let present = AtomicU32::new(0);
            let place = Place { stack: Some(&stack), present: Some(&present) };
            let main: fn(&i32) -> ! = ends_with;
            let code: &'static i32 = &7;
            let (main, code) = ((main as *const ()).cast(), (&raw const *code).cast());
            // SAFETY: main_of gets the types that it asks for, and they live for ever.
            let made = unsafe { make_by_clone(&request, place, main_of::<i32>, main, code) };
            assert_eq!(made, Err(Errno::ENOSPC));
            assert_eq!(present.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn a_child_that_panics_ends_alone() {
        fn panics(value: Option<i32>) -> ! {
            super::super::process::exit(value.unwrap())
        }
        let request = Request { flags: 0, cgroup: None, exit_signal: libc::SIGCHLD };
        let child = fork_and(&request, None, panics).unwrap();
        assert_eq!(reaped(child), Some(super::super::process::Exit::Code(128 + libc::SIGABRT)));
    }

    #[test]
    fn clone_makes_what_clone3_would() {
        for flags in [0, SHARE_MEMORY] {
            let request = Request { flags, cgroup: None, exit_signal: libc::SIGCHLD };
            let main: fn(&i32) -> ! = ends_with;
            let main = (main as *const ()).cast();
            let code: &'static i32 = &7;
            let stack = (flags != 0).then(|| Stack::with_room(0).unwrap());
            let present = AtomicU32::new(flags as u32);
            let place = Place { stack: stack.as_ref(), present: (flags != 0).then_some(&present) };
            // SAFETY: main_of gets the types that it asks for, and they live for ever.
            let child = unsafe { make_by_clone(&request, place, main_of::<i32>, main, (&raw const *code).cast()) };
            let child = child.unwrap();
            assert!(child.pidfd >= 0);
            assert_eq!(reaped(child), Some(super::super::process::Exit::Code(7)));
            assert_eq!(present.load(Ordering::Relaxed), 0);
        }
    }
}
