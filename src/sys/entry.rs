//! The first instructions of the release binary, before those of libc.
//!
//! A runtime whose executable a container could write to executes itself again from a read-only mount
//! (`container::sealed` says why, decides whether that was needed and enough, and knows other ways). Most of what that
//! costs is a start of libc and Rust that is thrown away: 90 of 160 µs. So the program begins here, looks at its
//! executable with three system calls, and executes the copy with five; only then come libc, Rust and `main`.
//!
//! It is an accelerator: whatever goes wrong here is left to `container::sealed`. There is no libc yet: no
//! thread-local storage, no allocation, no panic. The linker is told of `microrun_entry`, or of `shim_entry` for containerd's shim, by build.rs, for musl alone:
//! its static binary needs no relocation before code runs.

use super::mount::Attributes;
use super::raw::call;
use super::request::{self, Id, Outcome, Request};
use super::{fs, process, socket};
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};

/// A verb, as far as it is looked at.
type Word = [u8; 8];

// What the first instructions read lies beside them, in the page that the kernel maps for them (link/start.ld): anywhere else it
// would take another page fault, twice in a start.

/// The verbs that need it. An argument that only looks like one costs 70 µs.
#[unsafe(link_section = ".rodata.microrun_entry")]
static VERBS: [Word; 3] = [EXEC, *b"run\0\0\0\0\0", *b"create\0\0"];

const EXEC: Word = *b"exec\0\0\0\0";

/// The verb of containerd's shim that needs it.
#[unsafe(link_section = ".rodata.microrun_entry")]
static START: [Word; 1] = [*b"start\0\0\0"];

#[unsafe(link_section = ".rodata.microrun_entry")]
static EXECUTABLE: [u8; 15] = *b"/proc/self/exe\0";

#[unsafe(link_section = ".rodata.microrun_entry")]
static EMPTY: [u8; 1] = *b"\0";

static READ_ONLY: AtomicBool = AtomicBool::new(false);

static REFUSED: AtomicBool = AtomicBool::new(false);

/// Whether the pool that was asked may have parts for a bundle that it does not know.
static LENDS: AtomicBool = AtomicBool::new(false);

/// The number of the executed descriptor then: see [`PARTS_AT`].
const LENDS_AT: i32 = 90;

/// Whether `main` knows better than to have this process execute itself again.
static IS_DECIDED: AtomicBool = AtomicBool::new(false);

/// The exit code of a container that has outlived its pool; negative if there is none.
static ORPHAN: AtomicI32 = AtomicI32::new(-1);

/// Its id, up to a null.
static ORPHANS_ID: [AtomicU8; 256] = [const { AtomicU8::new(0) }; 256];

/// The descriptor that this process was executed by, if it is still open; else negative.
static COPY: AtomicI32 = AtomicI32::new(-1);

/// The socket on which parts of a container come; negative if none do.
static PARTS: AtomicI32 = AtomicI32::new(-1);

/// Room for what the pool says: on the stack it would take a page more.
struct Room(UnsafeCell<[u8; request::ANSWER]>);

// SAFETY: it is used before there are threads, once.
unsafe impl Sync for Room {}

static ANSWER: Room = Room(UnsafeCell::new([0; request::ANSWER]));

/// By how much the number of the executed descriptor exceeds that of [`PARTS`], if there is one: the kernel tells the
/// former to the program, and no other word passes an execution of oneself without being seen by those who come after.
const PARTS_AT: i32 = 100;

/// The socket on which a pool sends parts, if it does; it is the caller's then.
pub fn take_parts() -> Option<i32> {
    let fd = PARTS.swap(-1, Ordering::Relaxed);
    (fd >= 0).then_some(fd)
}

/// The detached mount that this process was executed from, if it is still open; it is the caller's then. Its last descriptor
/// should be closed by who has the time: the kernel waits for an RCU grace period then.
pub fn take_copy() -> Option<i32> {
    let fd = COPY.swap(-1, Ordering::Relaxed);
    (fd >= 0).then_some(fd)
}

/// Whether a pool has been asked, before libc began, and had nothing that fits.
pub fn is_refused() -> bool {
    REFUSED.load(Ordering::Relaxed)
}

/// Whether the pool that was asked may have parts for who asks again.
pub fn lends() -> bool {
    LENDS.load(Ordering::Relaxed)
}

/// The exit code and the id of a container that this process followed before libc began, and that outlived its pool:
/// nobody has removed it.
pub fn orphan() -> Option<(i32, Vec<u8>)> {
    let code = ORPHAN.load(Ordering::Relaxed);
    let id = ORPHANS_ID.iter().map(|byte| byte.load(Ordering::Relaxed)).take_while(|byte| *byte != 0);
    (code >= 0).then(|| (code, id.collect()))
}

/// Whether this process was found at its first instruction to execute a file on a read-only mount.
pub fn is_read_only() -> bool {
    READ_ONLY.load(Ordering::Relaxed)
}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .text.microrun_entry,\"ax\",@progbits",
    ".globl microrun_entry",
    "microrun_entry:",
    // What the kernel passes: the arguments at the stack pointer, a function for atexit(3) in rdx (System V ABI, 3.4.1).
    "mov rdi, rsp",
    "push rdx",
    "sub rsp, 8",
    "call {begin}",
    "add rsp, 8",
    "pop rdx",
    "jmp _start",
    ".popsection",
    ".globl shim_entry",
    "shim_entry:",
    "mov rdi, rsp",
    "push rdx",
    "sub rsp, 8",
    "call {begin_shim}",
    "add rsp, 8",
    "pop rdx",
    "jmp _start",
    begin = sym begin,
    begin_shim = sym begin_shim,
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".pushsection .text.microrun_entry,\"ax\",%progbits",
    ".globl microrun_entry",
    "microrun_entry:",
    "mov x19, x0",
    "mov x0, sp",
    "bl {begin}",
    "mov x0, x19",
    "b _start",
    ".popsection",
    ".globl shim_entry",
    "shim_entry:",
    "mov x19, x0",
    "mov x0, sp",
    "bl {begin_shim}",
    "mov x0, x19",
    "b _start",
    begin = sym begin,
    begin_shim = sym begin_shim,
);

/// Executes the program again from a read-only mount where that is due and possible; else returns.
///
/// # Safety
/// `stack` is what the kernel passes to a program: the number of arguments, the arguments, null, the environment, null.
unsafe extern "C" fn begin(stack: *const usize) {
    // SAFETY: the caller's promise.
    let (argc, argv) = unsafe { (*stack, stack.add(1).cast::<*const c_char>()) };
    // SAFETY: there are `argc` strings, each ended by a null.
    let is_wanted = |index: usize| unsafe { is_one_of(&VERBS, *argv.add(index)) };
    // SAFETY: as above.
    let may_be_exec = |index: usize| unsafe { is_one_of(&VERBS[..1], *argv.add(index)) };
    if (1..argc).any(is_wanted) {
        // SAFETY: the environment begins behind the arguments' null.
        unsafe {
            let envp = argv.add(argc + 1);
            let executed = executed_descriptor(envp);
            if let Some(wanted) = wanted(argc, argv) {
                match executed {
                    Some(number) => {
                        REFUSED.store(true, Ordering::Relaxed);
                        match number {
                            LENDS_AT => LENDS.store(true, Ordering::Relaxed),
                            number => inherit_parts(number.wrapping_sub(PARTS_AT)),
                        }
                    }
                    None => run_from_pool(&wanted, envp),
                }
            }
            // Who has a container to remove makes none, and who is to ask the pool again does so first.
            if !IS_DECIDED.load(Ordering::Relaxed) {
                // Who enters a container has nothing open that is not meant for it, and nobody else to close it.
                let closes = (1..argc).any(may_be_exec);
                let _ = execute_read_only(argv, envp, executed, closes);
                populate(stack);
            }
        }
    }
}

unsafe extern "C" {
    /// Where the linker puts what begins as zeroes: the allocator's memory last (`sys::arena`, link/start.ld).
    #[link_name = "__bss_start"]
    static ZEROES: u8;
}

/// Has the kernel provide at once what a start writes to in any case, of the stack below `top` and of what begins as zeroes: page by
/// page, each is a fault (madvise(2), `MADV_POPULATE_WRITE`, Linux 5.14). Where that fails, it is.
fn populate(top: *const usize) {
    const MADV_POPULATE_WRITE: i32 = 23;
    const PAGE: usize = 4096;
    const STACK: usize = 16 * PAGE;
    const HEAP: usize = 16 * PAGE;
    let first_of = |address: usize| address & !(PAGE - 1);
    for (address, size) in [(first_of(top as usize) - STACK, STACK), (first_of((&raw const ZEROES).addr()), HEAP)] {
        // SAFETY: nothing that is in memory changes.
        let _ = unsafe { call!(libc::SYS_madvise, address, size, MADV_POPULATE_WRITE) };
    }
}

/// As [`begin`], of containerd's shim.
///
/// # Safety
/// As there.
unsafe extern "C" fn begin_shim(stack: *const usize) {
    // SAFETY: the caller's promise.
    let (argc, argv) = unsafe { (*stack, stack.add(1).cast::<*const c_char>()) };
    // SAFETY: there are `argc` strings, each ended by a null.
    let is_start = |index: usize| unsafe { is_one_of(&START, *argv.add(index)) };
    if (1..argc).any(is_start) {
        // SAFETY: the environment begins behind the arguments' null.
        let _ = unsafe { execute_read_only(argv, argv.add(argc + 1), None, true) };
    }
}

/// The number of the descriptor that was executed, if this is the program as [`execute_read_only`] executed it
/// (`AT_EXECFN` of getauxval(3)).
///
/// # Safety
/// `envp` are strings up to a null, behind which the kernel's vector lies.
unsafe fn executed_descriptor(envp: *const *const c_char) -> Option<i32> {
    let mut at = envp;
    // SAFETY: the caller's promise.
    unsafe {
        while !(*at).is_null() {
            at = at.add(1);
        }
        let mut entry = at.add(1).cast::<[usize; 2]>();
        while (*entry)[0] != libc::AT_NULL as usize {
            if (*entry)[0] == libc::AT_EXECFN as usize {
                let name = CStr::from_ptr((*entry)[1] as *const c_char).to_bytes();
                let digits = name.strip_prefix(b"/dev/fd/")?;
                return Some(digits.iter().fold(0i32, |number, digit| {
                    number.wrapping_mul(10).wrapping_add(i32::from(digit.wrapping_sub(b'0')))
                }));
            }
            entry = entry.add(1);
        }
    }
    None
}

/// Takes over the socket `number` from before this process executed itself again. It can only be that if this process
/// made it.
fn inherit_parts(number: i32) {
    if number > libc::STDERR_FILENO && socket::is_pair_of_this_process(number) {
        let _ = fs::set_cloexec(number, true);
        PARTS.store(number, Ordering::Relaxed);
    }
}

/// A container that a pool may have.
struct Wanted {
    root: &'static CStr,
    bundle: &'static CStr,
}

/// What is wanted, if the command line is `run BUNDLE/`, perhaps after `--root DIR`. All else is seen to by
/// [`crate::pool`], later.
///
/// # Safety
/// `argv` are `argc` strings that stay.
unsafe fn wanted(argc: usize, argv: *const *const c_char) -> Option<Wanted> {
    // SAFETY: the caller's promise.
    let argument = |index: usize| unsafe { CStr::from_ptr(*argv.add(index)) };
    let (root, bundle) = match argc {
        3 if argument(1) == c"run" => (c"/run/microrun", argument(2)),
        5 if argument(1) == c"--root" && argument(3) == c"run" => (argument(2), argument(4)),
        _ => return None,
    };
    let (path, name) = (root.to_bytes(), bundle.to_bytes());
    let is_bundle = name.contains(&b'/') && name.first() != Some(&b'-');
    // One that is not clean is made so later.
    let is_clean = path.first() == Some(&b'/') && !path.windows(2).any(|pair| matches!(pair, b"//" | b"/."));
    (is_bundle && is_clean && path.len() <= 1024).then_some(Wanted { root, bundle })
}

/// Has a pool start the container, if there is one that has it.
///
/// # Safety
/// `envp` are strings up to a null.
unsafe fn run_from_pool(Wanted { root, bundle }: &Wanted, envp: *const *const c_char) {
    // SAFETY: the caller's promise.
    let Some(socket) = (unsafe { pool_socket(envp) }) else { return };
    // Who has no pool shall not pay for one: this is the only system call then.
    if !request::is_there(socket) {
        return;
    }
    let Ok(signal_mask) = process::set_signal_mask(u64::MAX) else { return };
    let (flags, root) = (request::PARTS, root.to_bytes());
    let request = Request { flags, root, signal_mask, ..Request::new(socket, request::RUN, bundle) };
    if let Ok(answers) = request::ask(&request) {
        let mut id = Id::new();
        // SAFETY: there is one thread, and this is the only reference.
        let text = unsafe { &mut *ANSWER.0.get() };
        let outcome = request::follow(answers, -1, &mut id, text);
        if let Outcome::Ended(code) = outcome {
            process::exit(code)
        }
        note(outcome, answers, &id);
    }
    let _ = process::set_signal_mask(signal_mask);
}

/// Keeps for `main` what came of a request to a pool. It is apart from who calls it, for it reads a table in a page that a start which a
/// pool serves has no need of.
#[cold]
#[inline(never)]
fn note(outcome: Outcome, answers: i32, id: &Id) {
    match outcome {
        Outcome::Cold => {
            REFUSED.store(true, Ordering::Relaxed);
            fs::close(answers);
        }
        Outcome::Parts => {
            REFUSED.store(true, Ordering::Relaxed);
            PARTS.store(answers, Ordering::Relaxed);
        }
        Outcome::Unknown => {
            REFUSED.store(true, Ordering::Relaxed);
            LENDS.store(true, Ordering::Relaxed);
            fs::close(answers);
        }
        Outcome::Terminal => {
            IS_DECIDED.store(true, Ordering::Relaxed);
            fs::close(answers);
        }
        Outcome::Orphan(code) => {
            IS_DECIDED.store(true, Ordering::Relaxed);
            ORPHAN.store(code, Ordering::Relaxed);
            for (place, byte) in ORPHANS_ID.iter().zip(id.bytes()) {
                place.store(*byte, Ordering::Relaxed);
            }
        }
        Outcome::Ended(code) => process::exit(code),
        Outcome::Lost => {
            let _ =
                fs::write(2, b"microrun: the pool has ended, and with it the knowledge of how the container ends\n");
            process::exit(1)
        }
    }
}

/// Where the pool listens, unless this process's surroundings speak against one: a service manager that hands something
/// over, or MICRORUN_POOL=off. Only root has a place for it that needs no looking up.
///
/// # Safety
/// `envp` are strings up to a null.
unsafe fn pool_socket<'a>(envp: *const *const c_char) -> Option<&'a [u8]> {
    let mut socket: Option<&[u8]> = None;
    let mut at = envp;
    // SAFETY: the caller's promise.
    while let Some(entry) = unsafe { (*at).as_ref().map(|first| CStr::from_ptr(first).to_bytes()) } {
        if entry.starts_with(b"NOTIFY_SOCKET=") || entry.starts_with(b"LISTEN_FDS=") {
            return None;
        }
        socket = entry.strip_prefix(b"MICRORUN_POOL=").or(socket);
        // SAFETY: the end has not been reached.
        at = unsafe { at.add(1) };
    }
    match socket {
        Some(b"off") => None,
        Some(path) if !path.is_empty() => Some(path),
        // SAFETY: it takes nothing.
        _ => unsafe { call!(libc::SYS_geteuid) }.is_ok_and(|uid| uid == 0).then_some(request::SOCKET.as_bytes()),
    }
}

/// # Safety
/// `argument` is a string ended by a null.
unsafe fn is_one_of(verbs: &[Word], argument: *const c_char) -> bool {
    verbs.iter().any(|verb| {
        let length = verb.iter().position(|byte| *byte == 0).map_or(verb.len(), |last| last + 1);
        // SAFETY: nothing is read behind a byte that differs, and the last one compared is the null.
        (0..length).all(|index| unsafe { *argument.add(index).cast::<u8>() } == verb[index])
    })
}

/// `executed` is the descriptor that this process was executed by, if there was one. The one that it is executed by again is
/// closed by that, with `closes`; else it is there for [`take_copy`], unless it has parts to tell of.
///
/// # Safety
/// `argv` and `envp` are lists of strings, each ended by a null.
unsafe fn execute_read_only(
    argv: *const *const c_char,
    envp: *const *const c_char,
    executed: Option<i32>,
    closes: bool,
) -> Result<(), nix::errno::Errno> {
    const AT_EMPTY_PATH: i32 = libc::AT_EMPTY_PATH;
    let empty: *const c_char = EMPTY.as_ptr().cast();
    // SAFETY: a string that ends with a null.
    let exe =
        unsafe { call!(libc::SYS_openat, libc::AT_FDCWD, EXECUTABLE.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) }? as i32;
    let mut about = mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the kernel fills the structure, which is valid as zeroes too.
    let about = unsafe {
        call!(libc::SYS_fstatfs, exe, about.as_mut_ptr())?;
        about.assume_init()
    };
    if about.f_flags & libc::ST_RDONLY != 0 {
        READ_ONLY.store(true, Ordering::Relaxed);
        if let Some(number) = executed.filter(|_| !closes) {
            inherit_copy(number, exe);
        }
        // SAFETY: nobody else has this number.
        return unsafe { call!(libc::SYS_close, exe) }.map(drop);
    }
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | AT_EMPTY_PATH as u32;
    // SAFETY: a string that ends with a null.
    let copy = unsafe { call!(libc::SYS_open_tree, exe, empty, flags) }? as i32;
    let read_only = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    // SAFETY: the structure has the size that is named.
    unsafe {
        let size = mem::size_of::<Attributes>();
        call!(libc::SYS_mount_setattr, copy, empty, AT_EMPTY_PATH, &raw const read_only, size)?;
    }
    let parts = PARTS.load(Ordering::Relaxed);
    let executed = match parts {
        0.. => hand_on(parts, copy),
        _ if LENDS.load(Ordering::Relaxed) => renumber(copy, LENDS_AT).unwrap_or(copy),
        _ => copy,
    };
    if parts < 0 && executed == copy && !closes && copy > libc::STDERR_FILENO {
        let _ = fs::set_cloexec(copy, false);
    }
    // SAFETY: the lists end with null, as the caller promised; the call returns only when it failed.
    let failed = unsafe { call!(libc::SYS_execveat, executed, empty, argv, envp, AT_EMPTY_PATH) }.map(drop);
    let _ = fs::set_cloexec(copy, true);
    if parts >= 0 {
        let _ = fs::set_cloexec(parts, true);
    }
    failed
}

/// Takes over the descriptor `number` of the mount that this process was executed from, if that is what it is: on the mount of
/// our executable `exe`.
fn inherit_copy(number: i32, exe: i32) {
    let mount_of = |fd: i32| fs::identity(fd).ok().and_then(|identity| identity.mount);
    let Some(mount) = mount_of(number) else { return };
    if mount_of(exe) == Some(mount) && fs::is_cloexec(number) == Ok(false) && fs::set_cloexec(number, true).is_ok() {
        COPY.store(number, Ordering::Relaxed);
    }
}

/// Has the socket `parts` survive the execution of `copy`; the descriptor to execute, whose number tells.
fn hand_on(parts: i32, copy: i32) -> i32 {
    match renumber(copy, parts + PARTS_AT) {
        Some(number) if fs::set_cloexec(parts, false).is_ok() => number,
        // Without parts, then.
        _ => copy,
    }
}

/// A copy of the descriptor `fd` with this number, if nobody has that.
fn renumber(fd: i32, number: i32) -> Option<i32> {
    // SAFETY: it takes numbers.
    let copy = unsafe { call!(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, number) };
    copy.is_ok_and(|copy| copy as i32 == number).then_some(number)
}
