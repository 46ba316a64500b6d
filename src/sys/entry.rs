//! The first instructions of the release binary, before those of libc.
//!
//! A runtime whose executable a container could write to has to be executed from a read-only mount (`container::sealed`
//! says why, decides whether that was needed and enough, and knows other ways). To execute it again takes a start of libc
//! and Rust that is thrown away, a new memory, and the end of the old one. So the program begins here, maps the same file from a
//! read-only mount in the place of each of its segments, and has the kernel take that for its executable; only then come libc,
//! Rust and `main`.
//!
//! It is an accelerator: whatever goes wrong here is left to `container::sealed`. There is no libc yet: no
//! thread-local storage, no allocation, no panic. The linker is told of `microrun_entry`, or of `shim_entry` for containerd's shim, by build.rs, for musl alone:
//! its static binary needs no relocation before code runs.

use super::fs::{self, Sys};
use super::raw::call;
use super::request::{self, Id, Outcome, Request};
use super::{in_place, process};
use nix::errno::Errno;
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char};
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};

// What the first instructions read lies beside them, in the page that the kernel maps for them (link/start.ld): anywhere else it
// would take another page fault.

// The verbs that need it. An argument that only looks like one costs 40 µs.

#[unsafe(link_section = ".rodata.microrun_entry")]
static RUN: [u8; 4] = *b"run\0";

#[unsafe(link_section = ".rodata.microrun_entry")]
static CREATE: [u8; 7] = *b"create\0";

#[unsafe(link_section = ".rodata.microrun_entry")]
static EXEC: [u8; 5] = *b"exec\0";

#[unsafe(link_section = ".rodata.microrun_entry")]
static ROOT: [u8; 7] = *b"--root\0";

/// Where containers are recorded unless `--root` says otherwise.
#[unsafe(link_section = ".rodata.microrun_entry")]
static DEFAULT_ROOT: [u8; 14] = *b"/run/microrun\0";

// Variables of a service manager's, and that of the pool.

#[unsafe(link_section = ".rodata.microrun_entry")]
static NOTIFY_SOCKET: [u8; 14] = *b"NOTIFY_SOCKET=";

#[unsafe(link_section = ".rodata.microrun_entry")]
static LISTEN_FDS: [u8; 11] = *b"LISTEN_FDS=";

#[unsafe(link_section = ".rodata.microrun_entry")]
static POOL: [u8; 14] = *b"MICRORUN_POOL=";

/// How the path of a program begins that is executed by its descriptor.
#[unsafe(link_section = ".rodata.microrun_entry")]
static BY_DESCRIPTOR: [u8; 8] = *b"/dev/fd/";

#[unsafe(link_section = ".rodata.microrun_entry")]
static OFF: [u8; 4] = *b"off\0";

/// The verb of containerd's shim that needs it.
#[unsafe(link_section = ".rodata.microrun_entry")]
static START: [u8; 6] = *b"start\0";

static READ_ONLY: AtomicBool = AtomicBool::new(false);

static REFUSED: AtomicBool = AtomicBool::new(false);

/// Whether the pool that was asked may have parts for a bundle that it does not know.
static LENDS: AtomicBool = AtomicBool::new(false);

/// The exit code of a container that has outlived its pool; negative if there is none.
static ORPHAN: AtomicI32 = AtomicI32::new(-1);

/// Its id, up to a null.
static ORPHANS_ID: [AtomicU8; 256] = [const { AtomicU8::new(0) }; 256];

/// The detached mount that this process is executed from, if it is still open; else negative.
static COPY: AtomicI32 = AtomicI32::new(-1);

/// The socket on which parts of a container come; negative if none do.
static PARTS: AtomicI32 = AtomicI32::new(-1);

/// Room for what the pool says: on the stack it would take a page more.
struct Room(UnsafeCell<[u8; request::ANSWER]>);

// SAFETY: it is used before there are threads, once.
unsafe impl Sync for Room {}

static ANSWER: Room = Room(UnsafeCell::new([0; request::ANSWER]));

/// The socket on which a pool sends parts, if it does; it is the caller's then.
pub fn take_parts() -> Option<i32> {
    let fd = PARTS.swap(-1, Ordering::Relaxed);
    (fd >= 0).then_some(fd)
}

/// The detached mount that this process is executed from, if it is still open; it is the caller's then. Its last descriptor
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

/// Whether this process goes on from a read-only mount of its own since its first instructions.
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

/// Asks a pool where one may have what is wanted, and else sees to it that the executable is on a read-only mount of its own where that is
/// due and possible.
///
/// # Safety
/// `stack` is what the kernel passes to a program: the number of arguments, the arguments, null, the environment, null.
unsafe extern "C" fn begin(stack: *const usize) {
    // SAFETY: the caller's promise.
    let (argc, argv) = unsafe { (*stack, stack.add(1).cast::<*const c_char>()) };
    // SAFETY: there are `argc` strings, each ended by a null.
    let is_there = |verb: &[u8]| (1..argc).any(|index| unsafe { begins_with(*argv.add(index), verb) });
    let may_be_exec = is_there(&EXEC);
    if may_be_exec || is_there(&RUN) || is_there(&CREATE) {
        // SAFETY: the environment begins behind the arguments' null.
        unsafe {
            let envp = argv.add(argc + 1);
            // Who executed itself again, as `container::sealed` does by a descriptor, has asked before.
            let name = auxiliary(envp, libc::AT_EXECFN) as *const c_char;
            let has_asked = || !name.is_null() && begins_with(name, &BY_DESCRIPTOR);
            let refusal = match wanted(argc, argv) {
                Some(_) if has_asked() => Some(Refusal { outcome: Outcome::Cold, pool: None }),
                Some(wanted) => run_from_pool(&wanted, envp),
                None => None,
            };
            let outcome = refusal.as_ref().map(|refusal| &refusal.outcome);
            // Who has a container to remove makes none, and who is to ask the pool again does so first.
            if !matches!(outcome, Some(Outcome::Terminal | Outcome::Orphan(_))) {
                let executed = be_read_only(stack);
                populate(stack);
                // Who enters a container has nothing open that is not meant for it, and nobody else to close it.
                keep(executed, may_be_exec);
            }
            // Not before: what begins as it does in the file begins anew there.
            if let Some(refusal) = refusal {
                note(&refusal);
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
    const STACK: usize = 6 * PAGE;
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
    let is_start = |index: usize| unsafe { begins_with(*argv.add(index), &START) };
    if (1..argc).any(is_start) {
        // SAFETY: the caller's promise; nothing has been written to.
        keep(unsafe { be_read_only(stack) }, true);
    }
}

/// What the kernel told this program of `kind` (getauxval(3)), or 0.
///
/// # Safety
/// `envp` are strings up to a null, behind which the kernel's vector lies.
unsafe fn auxiliary(envp: *const *const c_char, kind: u64) -> usize {
    let mut at = envp;
    // SAFETY: the caller's promise.
    unsafe {
        while !(*at).is_null() {
            at = at.add(1);
        }
        let mut entry = at.add(1).cast::<[usize; 2]>();
        while (*entry)[0] != libc::AT_NULL as usize {
            if (*entry)[0] == kind as usize {
                return (*entry)[1];
            }
            entry = entry.add(1);
        }
    }
    0
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
    let argument = |index: usize| unsafe { string(*argv.add(index)) };
    // SAFETY: as above.
    let is = |index: usize, word: &[u8]| unsafe { begins_with(*argv.add(index), word) };
    let (root, bundle) = match argc {
        // SAFETY: it ends with a null.
        3 if is(1, &RUN) => (unsafe { string(DEFAULT_ROOT.as_ptr().cast()) }, argument(2)),
        5 if is(1, &ROOT) && is(3, &RUN) => (argument(2), argument(4)),
        _ => return None,
    };
    let (path, name) = (root.to_bytes(), bundle.to_bytes());
    let is_bundle = name.contains(&b'/') && name.first() != Some(&b'-');
    // One that is not clean is made so later.
    let is_clean = path.first() == Some(&b'/') && !path.windows(2).any(|pair| matches!(pair, [b'/', b'/' | b'.']));
    (is_bundle && is_clean && path.len() <= 1024).then_some(Wanted { root, bundle })
}

/// Why a pool has not done what is wanted.
struct Refusal {
    outcome: Outcome,
    /// The socket on which a pool answered, if one was asked, and whose container it is about.
    pool: Option<(i32, Id)>,
}

/// Has a pool start the container, if there is one that has it; else why not, unless none may be asked. Nothing in the program's data is
/// written to that is still needed afterwards.
///
/// # Safety
/// `envp` are strings up to a null.
unsafe fn run_from_pool(Wanted { root, bundle }: &Wanted, envp: *const *const c_char) -> Option<Refusal> {
    // SAFETY: the caller's promise.
    let socket = unsafe { pool_socket(envp) }?;
    // Who has no pool shall not pay for one: this is the only system call then.
    if request::look(socket).is_err() {
        return Some(Refusal { outcome: Outcome::Cold, pool: None });
    }
    // They are relayed, later.
    if !(0..3).all(fs::may_be_shared) {
        return None;
    }
    let signal_mask = process::set_signal_mask(u64::MAX).ok()?;
    let (flags, root) = (request::PARTS, root.to_bytes());
    let request = Request { flags, root, signal_mask, ..Request::new(socket.to_bytes(), request::RUN, bundle) };
    let refusal = request::ask(&request).ok().map(|answers| {
        let mut id = Id::new();
        // SAFETY: there is one thread, and this is the only reference.
        let text = unsafe { &mut *ANSWER.0.get() };
        let outcome = request::follow(answers, -1, &mut id, text);
        if let Outcome::Ended(code) = outcome {
            process::exit(code)
        }
        Refusal { outcome, pool: Some((answers, id)) }
    });
    let _ = process::set_signal_mask(signal_mask);
    refusal
}

/// Keeps for `main` what came of a request to a pool. It is apart from who calls it, for it reads a table in a page that a start which a
/// pool serves has no need of.
#[cold]
#[inline(never)]
fn note(refusal: &Refusal) {
    let answers = refusal.pool.as_ref().map(|(answers, _)| *answers);
    let close = || {
        if let Some(answers) = answers {
            fs::close(answers);
        }
    };
    match refusal.outcome {
        Outcome::Cold => {
            REFUSED.store(true, Ordering::Relaxed);
            close();
        }
        Outcome::Parts => {
            REFUSED.store(true, Ordering::Relaxed);
            PARTS.store(answers.unwrap_or(-1), Ordering::Relaxed);
        }
        Outcome::Unknown => {
            REFUSED.store(true, Ordering::Relaxed);
            LENDS.store(true, Ordering::Relaxed);
            close();
        }
        Outcome::Terminal => close(),
        Outcome::Orphan(code) => {
            ORPHAN.store(code, Ordering::Relaxed);
            let id = refusal.pool.as_ref().map_or(&[][..], |(_, id)| id.bytes());
            for (place, byte) in ORPHANS_ID.iter().zip(id) {
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
/// `envp` are strings up to a null, which stay.
unsafe fn pool_socket(envp: *const *const c_char) -> Option<&'static CStr> {
    let mut socket = None;
    let mut at = envp;
    // SAFETY: the caller's promise; the end has not been reached.
    unsafe {
        while !(*at).is_null() {
            if begins_with(*at, &NOTIFY_SOCKET) || begins_with(*at, &LISTEN_FDS) {
                return None;
            }
            if begins_with(*at, &POOL) {
                socket = Some(string((*at).add(POOL.len())));
            }
            at = at.add(1);
        }
    }
    match socket {
        // SAFETY: it ends with a null.
        Some(path) if unsafe { begins_with(path.as_ptr(), &OFF) } => None,
        Some(path) if !path.is_empty() => Some(path),
        // SAFETY: it takes nothing; the string ends with a null.
        _ => unsafe {
            call!(libc::SYS_geteuid).is_ok_and(|uid| uid == 0).then(|| string(request::SOCKET_NAME.as_ptr().cast()))
        },
    }
}

/// As [`CStr::from_ptr`], which calls strlen(3) by its address in a table: another page fault.
///
/// # Safety
/// As there.
unsafe fn string<'a>(first: *const c_char) -> &'a CStr {
    let mut length = 0;
    // SAFETY: the caller's promise.
    unsafe {
        // Volatile, lest it be seen that this is strlen(3).
        while first.add(length).read_volatile() != 0 {
            length += 1;
        }
        CStr::from_bytes_with_nul_unchecked(slice::from_raw_parts(first.cast(), length + 1))
    }
}

/// Whether a string begins with `prefix`, its null included: what ends with one is the whole of the string.
///
/// # Safety
/// `text` is a string ended by a null.
unsafe fn begins_with(text: *const c_char, prefix: &[u8]) -> bool {
    // SAFETY: nothing is read behind a byte that differs, nor behind the null.
    prefix.iter().enumerate().all(|(index, byte)| unsafe { *text.add(index).cast::<u8>() } == *byte)
}

/// Has this process go on from a read-only mount of its executable: the descriptor of that.
///
/// # Safety
/// As of [`in_place::execute_read_only`].
unsafe fn be_read_only(stack: *const usize) -> Sys<i32> {
    // SAFETY: the caller's promise: arguments and a null follow their number, and the environment follows them.
    unsafe {
        let envp = stack.add(*stack + 2).cast();
        let name = auxiliary(envp, libc::AT_EXECFN) as *mut u8;
        let is_usual = auxiliary(envp, libc::AT_PAGESZ) == in_place::PAGE;
        if is_usual { in_place::execute_read_only(name, stack) } else { Err(Errno::ENOEXEC) }
    }
}

/// Keeps for `main` what came of [`be_read_only`]: the mount's descriptor is closed, with `closes`; else it is there for [`take_copy`].
fn keep(executed: Sys<i32>, closes: bool) {
    let Ok(copy) = executed else { return };
    READ_ONLY.store(true, Ordering::Relaxed);
    if !closes && copy > libc::STDERR_FILENO {
        COPY.store(copy, Ordering::Relaxed);
    } else {
        // The program shall not find it as one of the descriptors that everybody has.
        fs::close(copy);
    }
}
