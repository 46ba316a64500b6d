//! A parked process: it waits for one message, and executes one program then.
//!
//! As a rule it runs in the memory of who made it, like init in a cold start: there is nothing to copy for it and nothing to take away, and neither are
//! there pages that execve(2) has to have the other CPUs forget. Its maker has nothing in that memory that is not of its own container, and no one may look
//! into it.
//!
//! Where memory cannot be shared it is a copy of its maker. Then [`park`] copies the
//! program's path, arguments and environment and the filter into a mapping of their own, goes on there on a stack of
//! its own, and unmaps everything else but the text of this executable and its constants: no heap, no stack, no
//! variable of the pool is left to be read. That takes three or four system calls; executing a small program instead would take a
//! hundred times as long, change the process's capabilities and security labels once too often, and leave it dumpable.
//!
//! What runs after that, either way, is Rust that allocates nothing, has no variables but those on its stack and calls nothing but
//! system calls. It needs a program without dynamic linking, whose C library keeps no registration of its memory with
//! the kernel (glibc's rseq(2) is one): [`is_possible`].

use super::clone::Room;
use super::fs::Sys;
use super::process::capset;
use super::raw::call;
use super::shared::Strings;
use nix::errno::Errno;
use std::ffi::{CStr, c_char};
use std::mem::{self, MaybeUninit};
use std::os::fd::RawFd;
use std::ptr;

/// What a parked process is called (`PR_SET_NAME`), until it executes its program.
pub const NAME: &CStr = c"microrun:pool";

/// Effective, permitted and inheritable capabilities.
pub type Capabilities = (u64, u64, u64);

/// What a parked process does when its message has come.
#[derive(Debug, Clone, Copy)]
pub struct Last<'a> {
    /// The file to execute.
    pub path: &'a CStr,
    /// Its arguments, unless the message has others.
    pub args: &'a Strings,
    /// Its environment, to which the message may add.
    pub env: &'a Strings,
    /// Capabilities to take before the filter is loaded.
    pub before: Option<Capabilities>,
    /// The seccomp filter, and flags for it.
    pub filter: Option<(&'a [libc::sock_filter], u32)>,
    /// Capabilities to be left with after that.
    pub after: Option<Capabilities>,
}

/// How a message to a parked process begins. The arguments that replace those after the program's name follow, then the
/// entries that the environment gets, each of which replaces one of the same name; all end with a null.
///
/// Three descriptors may come along: stdin, stdout and stderr.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Message {
    /// The signal mask of the program.
    pub signal_mask: u64,
    /// How many arguments follow; [`Message::SAME`] to leave them as they are.
    pub arguments: u32,
    /// How many entries follow.
    pub entries: u32,
}

impl Message {
    /// The arguments of config.json.
    pub const SAME: u32 = u32::MAX;

    /// The most bytes that a message may have.
    pub const ROOM: usize = 64 * 1024;

    /// The most arguments and entries that it may have.
    pub const STRINGS: usize = 1024;

    /// The bytes of the header.
    pub fn bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let (mask, rest) = bytes.split_at_mut(8);
        let (arguments, entries) = rest.split_at_mut(4);
        mask.copy_from_slice(&self.signal_mask.to_ne_bytes());
        arguments.copy_from_slice(&self.arguments.to_ne_bytes());
        entries.copy_from_slice(&self.entries.to_ne_bytes());
        bytes
    }
}

/// The system calls that a process makes from when it says that it is ready to when it has executed the program.
pub const CALLS: [libc::c_long; 8] = [
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_write,
    libc::SYS_recvmsg,
    libc::SYS_rt_sigprocmask,
    libc::SYS_execve,
    libc::SYS_exit_group,
];

/// Whether this executable can park its children.
pub const fn is_possible() -> bool {
    cfg!(target_env = "musl")
}

/// The mapping that is left: this, the strings and the filter, the room for a message and for its lists, the stack.
#[repr(C)]
struct Parked {
    lease: RawFd,
    /// Null in a memory of its own.
    room: *const Room,
    path: *const c_char,
    args: *const *const c_char,
    env: *const *const c_char,
    before: Option<Capabilities>,
    filter: libc::sock_fprog,
    filter_flags: u32,
    after: Option<Capabilities>,
    message: *mut u8,
    /// Room for the lists of a message with strings.
    lists: *mut *const c_char,
    /// What stays, the lowest first: this mapping, and the read-only parts of the executable. From, to; what is not used lies nowhere.
    kept: [(usize, usize); RANGES],
}

/// Room for the lists of a message.
const LISTS: usize = (Message::STRINGS + 4) * size_of::<*const c_char>();

/// How many bytes a process that shares its maker's memory needs besides its stack.
pub const ROOM: usize = Message::ROOM + LISTS;

const RANGES: usize = 8;
const NOWHERE: (usize, usize) = (usize::MAX, usize::MAX);

/// A multiple of every page size that the kernel may have been built with. No segment of the executable begins in a page of
/// this size in which another one ends (ld's max-page-size).
const PAGE: usize = if cfg!(target_arch = "aarch64") { 64 * 1024 } else { 4096 };

const STACK: usize = if PAGE > 16 * 1024 { PAGE } else { 16 * 1024 };

/// Where user memory ends, by configuration, the highest first: the first that munmap(2) accepts is taken.
#[cfg(target_arch = "x86_64")]
const ENDS: [usize; 1] = [(1 << 47) - PAGE];
#[cfg(target_arch = "aarch64")]
const ENDS: [usize; 5] = [1 << 48, 1 << 47, 1 << 42, 1 << 39, 1 << 36];

/// Waits on `lease` for a message, and executes the program. It returns if it could not begin to. What has one byte is no message: its maker's word, which it
/// has not waited for.
///
/// With `room`, of [`ROOM`] bytes, the process stays in the memory that it runs in: its maker's, who leaves what `last` refers to as it is.
pub fn park(lease: RawFd, last: &Last<'_>, room: Option<&Room>) -> Errno {
    if let Some(room) = room {
        let Some((at, _)) = room.take().filter(|(_, size)| *size >= ROOM) else { return Errno::ENOMEM };
        await_message(&Parked::at(lease, last, room, at))
    }
    match prepare(lease, last) {
        // SAFETY: the stack lies at the end of the mapping that `parked` begins, and is nobody else's.
        Ok((parked, top)) => unsafe { go_on(top, parked) },
        Err(errno) => errno,
    }
}

impl Parked {
    /// What refers to `last` as it is; a message and its lists have their place in `room`, at `at`.
    fn at(lease: RawFd, last: &Last<'_>, room: &Room, at: usize) -> Self {
        let program = last.filter.map_or(&[][..], |(program, _)| program);
        Self {
            lease,
            room,
            path: last.path.as_ptr(),
            args: last.args.as_ptr(),
            env: last.env.as_ptr(),
            before: last.before,
            filter: libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() },
            filter_flags: last.filter.map_or(0, |(_, flags)| flags),
            after: last.after,
            message: at as *mut u8,
            lists: (at + Message::ROOM) as *mut *const c_char,
            kept: [NOWHERE; RANGES],
        }
    }
}

/// Takes memory from the front of a mapping.
struct Front(usize);

impl Front {
    fn take(&mut self, bytes: usize, align: usize) -> *mut u8 {
        let at = self.0.next_multiple_of(align);
        self.0 = at + bytes;
        at as *mut u8
    }
}

fn pointers(list: &Strings) -> impl Iterator<Item = &CStr> {
    let mut at = list.as_ptr();
    std::iter::from_fn(move || {
        // SAFETY: the list ends with a null, behind which nothing is read.
        unsafe {
            if (*at).is_null() {
                return None;
            }
            let string = CStr::from_ptr(*at);
            at = at.add(1);
            Some(string)
        }
    })
}

fn size_of_list(list: &Strings) -> usize {
    pointers(list).map(|string| string.to_bytes_with_nul().len() + size_of::<*const c_char>()).sum::<usize>() + 16
}

fn prepare(lease: RawFd, last: &Last<'_>) -> Sys<(*mut Parked, usize)> {
    let program = last.filter.map_or(&[][..], |(program, _)| program);
    let content = size_of::<Parked>()
        + last.path.to_bytes_with_nul().len()
        + size_of_list(last.args)
        + size_of_list(last.env)
        + mem::size_of_val(program)
        + 64;
    // A message without strings fits into what is left of a page that is there already; what others need is not there until one
    // comes.
    let size = (content + ROOM).next_multiple_of(PAGE) + STACK;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let start = unsafe { call!(libc::SYS_mmap, 0, size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) }?;
    let mut front = Front(start);
    let parked = front.take(size_of::<Parked>(), 16).cast::<Parked>();
    let path = copy(&mut front, last.path.to_bytes_with_nul(), 1);
    let (args, env) = (copy_list(&mut front, last.args), copy_list(&mut front, last.env));
    // SAFETY: plain numbers, read as the bytes that they are.
    let program_bytes = unsafe { std::slice::from_raw_parts(program.as_ptr().cast::<u8>(), mem::size_of_val(program)) };
    let filter = copy(&mut front, program_bytes, 8);
    let message = front.take(Message::ROOM, 16);
    let content = Parked {
        lease,
        room: ptr::null(),
        path: path.cast(),
        args,
        env,
        before: last.before,
        filter: libc::sock_fprog { len: program.len() as u16, filter: filter.cast() },
        filter_flags: last.filter.map_or(0, |(_, flags)| flags),
        after: last.after,
        message,
        lists: front.take(LISTS, 16).cast(),
        kept: kept_beside((start, start + size))?,
    };
    // SAFETY: the place is inside the mapping, aligned and large enough.
    unsafe { parked.write(content) };
    Ok((parked, start + size))
}

fn copy(front: &mut Front, bytes: &[u8], align: usize) -> *mut u8 {
    let at = front.take(bytes.len(), align);
    // SAFETY: prepare made the mapping large enough for all that it copies.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
    at
}

fn copy_list(front: &mut Front, list: &Strings) -> *const *const c_char {
    let pointer = size_of::<*const c_char>();
    let at = front.take((pointers(list).count() + 1) * pointer, pointer).cast::<*const c_char>();
    let mut place = at;
    for string in pointers(list) {
        let copied = copy(front, string.to_bytes_with_nul(), 1);
        // SAFETY: there is room for as many pointers as the list has, and the null, which is there already.
        unsafe {
            place.write(copied.cast());
            place = place.add(1);
        }
    }
    at
}

/// What stays: the mapping `own`, and the read-only parts of this executable.
fn kept_beside(own: (usize, usize)) -> Sys<[(usize, usize); RANGES]> {
    let mut kept = [NOWHERE; RANGES];
    kept[0] = own;
    // SAFETY: it reads what the kernel passed to the program.
    let (at, count) = unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    let headers = at as *const libc::Elf64_Phdr;
    let mut used = 1;
    for index in 0..count as usize {
        // SAFETY: there are that many, in the executable's own memory (elf(5)).
        let header = unsafe { &*headers.add(index) };
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let place = kept.get_mut(used).ok_or(Errno::ENOEXEC)?;
            let start = header.p_vaddr as usize;
            *place = (start & !(PAGE - 1), (start + header.p_memsz as usize).next_multiple_of(PAGE));
            used += 1;
        }
    }
    kept.sort_unstable();
    Ok(kept)
}

/// Goes on with [`wait`], on another stack.
///
/// # Safety
/// `top` is the end of a stack of its own.
#[cfg(target_arch = "x86_64")]
unsafe fn go_on(top: usize, parked: *mut Parked) -> ! {
    // SAFETY: the caller's promise; `wait` never returns.
    unsafe {
        core::arch::asm!(
            "mov rsp, {top}",
            "xor ebp, ebp",
            "call {wait}",
            "ud2",
            top = in(reg) top,
            wait = sym wait,
            in("rdi") parked,
            options(noreturn),
        )
    }
}

/// As above, for AArch64.
///
/// # Safety
/// As above.
#[cfg(target_arch = "aarch64")]
unsafe fn go_on(top: usize, parked: *mut Parked) -> ! {
    // SAFETY: the caller's promise; `wait` never returns.
    unsafe {
        core::arch::asm!(
            "mov sp, {top}",
            "mov x29, xzr",
            "bl {wait}",
            "brk 1",
            top = in(reg) top,
            wait = sym wait,
            in("x0") parked,
            options(noreturn),
        )
    }
}

/// Descriptors in a control message.
#[repr(C, align(8))]
struct Control {
    header: libc::cmsghdr,
    fds: [RawFd; 3],
    padding: u32,
}

/// What a parked process does from here to exec.
extern "C" fn wait(parked: *mut Parked) -> ! {
    // SAFETY: prepare made it, and nobody else has it.
    let parked = unsafe { &mut *parked };
    // SAFETY: nothing of what is unmapped is used any more: the stack, the text and the data that go on lie elsewhere.
    if unsafe { forget_all_but(&parked.kept) }.is_err() {
        super::process::exit(1);
    }
    let_go(parked);
    await_message(parked)
}

/// The end of what a parked process does, once it has forgotten what it is to forget.
fn await_message(parked: &Parked) -> ! {
    let mut control = MaybeUninit::<Control>::zeroed();
    let errno = loop {
        break match receive(parked, &mut control) {
            Ok(1) => continue,
            // Nothing is to be executed when the pool, or who had the lease, has gone.
            Ok(0) => Errno::ECANCELED,
            Ok(count) => execute(parked, count).unwrap_or_else(|errno| errno),
            Err(errno) => errno,
        };
    };
    let code = (errno as i32).to_ne_bytes();
    // Who has gone does not hear it, and it makes no difference then that SIGPIPE ends us. (The filter of a program that has no
    // sockets allows no sendto(2).)
    // SAFETY: the bytes outlive the call.
    let _ = unsafe { call!(libc::SYS_write, parked.lease, code.as_ptr(), code.len()) };
    super::process::exit(1)
}

/// # Safety
/// Nothing but what is in the ranges may be used any more.
unsafe fn forget_all_but(kept: &[(usize, usize); RANGES]) -> Sys {
    let mut start = 0;
    for (from, to) in kept.iter().filter(|range| **range != NOWHERE) {
        if start < *from {
            // SAFETY: the caller's promise.
            unsafe { call!(libc::SYS_munmap, start, *from - start) }?;
        }
        start = *to;
    }
    // SAFETY: the caller's promise.
    let unmapped = ENDS.iter().any(|end| unsafe { call!(libc::SYS_munmap, start, *end - start) }.is_ok());
    if unmapped { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Lets go of the pages of the executable that were mapped on the way here, some 160: the next ones to be used come with one
/// fault, and execve(2) has the fewer to take away when the request is there (16 to 20 µs, measured).
fn let_go(parked: &Parked) {
    let own = ptr::from_ref(parked).addr();
    for (from, to) in parked.kept.iter().filter(|range| **range != NOWHERE && range.0 != own) {
        // SAFETY: these pages are the file's, nobody can have written to them, and they are read again from there.
        let _ = unsafe { call!(libc::SYS_madvise, *from, *to - *from, libc::MADV_DONTNEED) };
    }
}

fn receive(parked: &Parked, control: &mut MaybeUninit<Control>) -> Sys<usize> {
    let mut part = libc::iovec { iov_base: parked.message.cast(), iov_len: Message::ROOM };
    // SAFETY: a zeroed msghdr is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    // Numbers 0, 1 and 2 are free, so that is what the three descriptors become.
    let count = super::fs::retry(|| {
        // SAFETY: the kernel writes into the message's parts, which outlive the call.
        unsafe { call!(libc::SYS_recvmsg, parked.lease, &raw mut message, 0) }
    })?;
    if message.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0 { Err(Errno::EMSGSIZE) } else { Ok(count) }
}

/// It returns if it fails.
fn execute(parked: &Parked, count: usize) -> Sys<Errno> {
    if count < size_of::<Message>() {
        return Err(Errno::EBADMSG);
    }
    // SAFETY: as many bytes have been received, and the place is aligned.
    let header = unsafe { parked.message.cast::<Message>().read() };
    let (args, env) = lists(parked, &header, count)?;
    if let Some((effective, permitted, inheritable)) = parked.before {
        capset(effective, permitted, inheritable)?;
    }
    if parked.filter.len > 0 {
        let flags = parked.filter_flags;
        let program = &raw const parked.filter;
        // SAFETY: the program is in memory, with the length that it says.
        unsafe { call!(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, program) }?;
    }
    if let Some((effective, permitted, inheritable)) = parked.after {
        capset(effective, permitted, inheritable)?;
    }
    super::process::set_signal_mask(header.signal_mask)?;
    if count == size_of::<Message>() {
        // SAFETY: null, or what its maker leaves as it is.
        if let Some(room) = unsafe { parked.room.as_ref() } {
            room.leave();
        }
    }
    // SAFETY: the path is a string, and the lists end with null.
    unsafe { call!(libc::SYS_execve, parked.path, args, env) }?;
    Ok(Errno::EIO)
}

type List = *const *const c_char;

/// The arguments and the environment, with what the message says of them.
fn lists(parked: &Parked, header: &Message, count: usize) -> Sys<(List, List)> {
    let given = if header.arguments == Message::SAME { 0 } else { header.arguments };
    if given == 0 && header.entries == 0 && header.arguments == Message::SAME {
        return Ok((parked.args, parked.env));
    }
    if given as usize + header.entries as usize > Message::STRINGS {
        return Err(Errno::E2BIG);
    }
    // SAFETY: so many bytes have been received into this place, those of the header among them.
    let mut strings = unsafe { Text { at: parked.message.add(size_of::<Message>()), end: parked.message.add(count) } };
    let mut places = parked.lists;
    let mut put = |string: *const c_char| {
        // SAFETY: there is room for as many strings as are allowed and two ends; base lists are counted before.
        unsafe {
            places.write(string);
            places = places.add(1);
        }
    };
    let args = if header.arguments == Message::SAME {
        parked.args
    } else {
        // SAFETY: the list of arguments has the program's name at least, or a null.
        put(unsafe { *parked.args });
        for _ in 0..given {
            put(strings.next().ok_or(Errno::EBADMSG)?);
        }
        put(ptr::null());
        parked.lists
    };
    if header.entries == 0 {
        return Ok((args, parked.env));
    }
    let added = strings;
    let mut all = Message::STRINGS - given as usize - header.entries as usize;
    let start = places_of(parked, header, given);
    let mut base = parked.env;
    // SAFETY: the list ends with null.
    while let Some(entry) = unsafe { (*base).as_ref() } {
        let entry = ptr::from_ref(entry);
        let mut others = added;
        // SAFETY: both are strings.
        let is_replaced =
            (0..header.entries).any(|_| others.next().is_some_and(|other| unsafe { same_name(entry, other) }));
        if !is_replaced {
            all = all.checked_sub(1).ok_or(Errno::E2BIG)?;
            put(entry);
        }
        // SAFETY: the end has not been reached.
        base = unsafe { base.add(1) };
    }
    let mut others = added;
    for _ in 0..header.entries {
        put(others.next().ok_or(Errno::EBADMSG)?);
    }
    put(ptr::null());
    Ok((args, start))
}

/// Where the environment's list begins: behind the arguments', if there is one.
fn places_of(parked: &Parked, header: &Message, given: u32) -> List {
    let used = if header.arguments == Message::SAME { 0 } else { given as usize + 2 };
    // SAFETY: the room is larger.
    unsafe { parked.lists.add(used) }
}

/// A byte of a string. The compiler shall not make one call of strlen(3) or bcmp(3) out of many of these: calls of functions of
/// the C library go by a table of addresses, which is among what has been unmapped.
///
/// # Safety
/// There is such a byte.
unsafe fn byte(string: *const c_char, at: usize) -> u8 {
    // SAFETY: the caller's promise.
    unsafe { string.cast::<u8>().add(at).read_volatile() }
}

/// Whether two entries of an environment have the same name.
///
/// # Safety
/// Both are strings.
unsafe fn same_name(one: *const c_char, other: *const c_char) -> bool {
    let mut at = 0;
    loop {
        // SAFETY: neither has ended before this byte.
        let bytes = unsafe { [byte(one, at), byte(other, at)] };
        let [ends, other_ends] = bytes.map(|byte| byte == b'=' || byte == 0);
        if ends || other_ends || bytes[0] != bytes[1] {
            return ends && other_ends;
        }
        at += 1;
    }
}

/// Strings, one after the other.
#[derive(Clone, Copy)]
struct Text {
    at: *const u8,
    end: *const u8,
}

impl Iterator for Text {
    type Item = *const c_char;

    fn next(&mut self) -> Option<*const c_char> {
        let string = self.at.cast::<c_char>();
        while self.at < self.end {
            // SAFETY: the end has not been reached.
            let last = unsafe { byte(self.at.cast(), 0) };
            self.at = self.at.wrapping_add(1);
            if last == 0 {
                return Some(string);
            }
        }
        None
    }
}
