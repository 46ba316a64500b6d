//! A program goes on from a read-only mount of its own file: what execve(2) from there would come to, without a new memory, another
//! start of the program, and the end of the old memory.
//!
//! The kernel lets a process name its executable anew (prctl(2), `PR_SET_MM_MAP`) once nothing of the old one is mapped. So the
//! file is mapped again in the place of each segment, the code that does so included: what is there stays what it was, byte
//! for byte. That takes a static program that does not move, before it has written to its data.
//!
//! From then on nothing in the process leads to the mount that it was executed from: /proc/PID/exe and /proc/PID/map_files lead to the
//! other, which is detached.

use super::fs::{self, Sys};
use super::mount::Attributes;
use super::raw::call;
use nix::errno::Errno;
use std::ffi::c_char;
use std::mem::{self, MaybeUninit, size_of};
use std::ptr;

/// The only size of a page that is known here.
pub const PAGE: usize = 4096;

// What is read here lies beside the first instructions: see `sys::entry`.

#[unsafe(link_section = ".rodata.microrun_entry")]
static EXECUTABLE: [u8; 15] = *b"/proc/self/exe\0";

#[unsafe(link_section = ".rodata.microrun_entry")]
static HERE: [u8; 2] = *b".\0";

#[unsafe(link_section = ".rodata.microrun_entry")]
static EMPTY: [u8; 1] = *b"\0";

unsafe extern "C" {
    /// The header of the program's file, in memory: the linker maps it, and says where.
    #[link_name = "__ehdr_start"]
    static HEADER: Head;
}

/// The beginning of the file: its header, the program's, and the build's number.
type Head = [u64; 128];

/// How a memory is laid out, as the kernel tells it to others (linux/prctl.h, `struct prctl_mm_map`).
#[repr(C)]
#[derive(Default)]
struct Layout {
    code: [usize; 2],
    data: [usize; 2],
    heap: [usize; 2],
    stack: usize,
    arguments: [usize; 2],
    environment: [usize; 2],
    auxiliary_vector: usize,
    auxiliary_size: u32,
    executable: i32,
}

/// A descriptor that is closed in the end. (`OwnedFd` closes by libc, which has not begun.)
struct Open(i32);

impl Open {
    /// Leaves the descriptor to the caller.
    fn release(self) -> i32 {
        let fd = self.0;
        mem::forget(self);
        fd
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        fs::close(self.0);
    }
}

/// Has this process, which was executed by `name`, go on from a read-only mount of its executable: the descriptor of that. Its last descriptor
/// should be closed by who has the time. A read-only mount of the host's will not do: it may be remounted one day, and a container may have
/// waited for that.
///
/// # Errors
/// Those of open_tree(2) (`EPERM` without `CAP_SYS_ADMIN`), mmap(2) and prctl(2): `EINVAL` of a kernel without
/// `CONFIG_CHECKPOINT_RESTORE`. The executable is what it was then.
///
/// # Safety
/// A page has [`PAGE`] bytes. `stack` is what the kernel passed to the program, at least one argument included, and `name` its `AT_EXECFN` or
/// null. Nothing in the program's data has been written to that is still needed: it begins anew, as it is in the file.
pub unsafe fn execute_read_only(name: *mut u8, stack: *const usize) -> Sys<i32> {
    // By its name the file is found sooner than by procfs, if that is no symbolic link.
    // SAFETY: the caller's promise.
    unsafe {
        if !name.is_null()
            && let Ok((mount, file)) = open_by_name(name)
        {
            return execute(&file, stack).map(|()| mount.release());
        }
    }
    let exe = open(libc::AT_FDCWD, EXECUTABLE.as_ptr(), libc::O_PATH)?;
    let mount = clone_read_only(exe.0, EMPTY.as_ptr())?;
    let file = open(libc::AT_FDCWD, fs::link_of(mount.0).as_ptr(), libc::O_RDONLY)?;
    // SAFETY: the caller's promise.
    unsafe { execute(&file, stack) }.map(|()| mount.release())
}

/// A read-only mount of its own of the directory that has the file `name`, and the file in it, if it is this program.
///
/// # Safety
/// `name` is a string ended by a null that nobody else looks at meanwhile.
unsafe fn open_by_name(name: *mut u8) -> Sys<(Open, Open)> {
    // SAFETY: the caller's promise. The directory's name ends where the file's begins.
    let (mount, file) = unsafe {
        let (mut at, mut file) = (name, name);
        while *at != 0 {
            at = at.add(1);
            if *at.sub(1) == b'/' {
                file = at;
            }
        }
        let first = file.replace(0);
        let directory = if file == name { HERE.as_ptr() } else { name.cast_const() };
        let mount = clone_read_only(libc::AT_FDCWD, directory);
        file.write(first);
        (mount?, file)
    };
    let file = open(mount.0, file, libc::O_RDONLY | libc::O_NOFOLLOW)?;
    // It may have been replaced by another since it was executed, or lie below a mount.
    let mut head = MaybeUninit::<Head>::uninit();
    // SAFETY: only what the kernel has filled is looked at. The program's own is of that size at least: its segment has a page.
    let is_this = unsafe {
        let count = call!(libc::SYS_pread64, file.0, head.as_mut_ptr(), size_of::<Head>(), 0)?;
        count == size_of::<Head>() && head.assume_init_ref().iter().zip(&HEADER).all(|(theirs, ours)| theirs == ours)
    };
    if is_this { Ok((mount, file)) } else { Err(Errno::ESTALE) }
}

/// A detached, read-only copy of the mount that `path` is on, which begins there.
fn clone_read_only(dir: i32, path: *const u8) -> Sys<Open> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    let attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    // SAFETY: strings that end with a null, and a structure that has the size that is named.
    unsafe {
        let mount = Open(call!(libc::SYS_open_tree, dir, path, flags)? as i32);
        let size = size_of::<Attributes>();
        let empty = EMPTY.as_ptr();
        call!(libc::SYS_mount_setattr, mount.0, empty, libc::AT_EMPTY_PATH, &raw const attributes, size)?;
        Ok(mount)
    }
}

fn open(dir: i32, path: *const u8, flags: i32) -> Sys<Open> {
    // SAFETY: a path that ends with a null.
    unsafe { call!(libc::SYS_openat, dir, path, flags | libc::O_CLOEXEC) }.map(|fd| Open(fd as i32))
}

/// Goes on from `file`.
///
/// # Safety
/// `file` is this program's; else as of [`execute_read_only`].
unsafe fn execute(file: &Open, stack: *const usize) -> Sys {
    // SAFETY: the caller's promise.
    unsafe {
        let mut layout = map(file)?;
        tell(&mut layout, stack);
        layout.executable = file.0;
        // The heap is empty, so its end is where it begins.
        layout.heap = [call!(libc::SYS_brk, 0)?; 2];
        let size = size_of::<Layout>();
        call!(libc::SYS_prctl, libc::PR_SET_MM, libc::PR_SET_MM_MAP, &raw const layout, size, 0).map(drop)
    }
}

/// Maps `file` in the place of each segment. Where code and data are.
///
/// # Safety
/// As of [`execute`].
unsafe fn map(file: &Open) -> Sys<Layout> {
    let mut layout = Layout::default();
    let header = (&raw const HEADER).cast::<libc::Elf64_Ehdr>();
    // SAFETY: the linker's promise: the program's headers are where the file's says (elf(5)).
    let (headers, count) = unsafe {
        (header.byte_add((*header).e_phoff as usize).cast::<libc::Elf64_Phdr>(), usize::from((*header).e_phnum))
    };
    for index in 0..count {
        // SAFETY: there are that many. Each is read before anything is mapped over it, or with the same content.
        let segment = unsafe { headers.add(index).read() };
        if segment.p_type != libc::PT_LOAD {
            continue;
        }
        let start = segment.p_vaddr as usize;
        let (first, end) = (start & !(PAGE - 1), start + segment.p_filesz as usize);
        let offset = segment.p_offset as usize & !(PAGE - 1);
        let may = |flag: u32, protection: i32| if segment.p_flags & flag != 0 { protection } else { 0 };
        let protection =
            may(libc::PF_R, libc::PROT_READ) | may(libc::PF_W, libc::PROT_WRITE) | may(libc::PF_X, libc::PROT_EXEC);
        let is_data = protection & libc::PROT_WRITE != 0;
        // Data will be written to in any case: a copy of each page at once, instead of a fault.
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | if is_data { libc::MAP_POPULATE } else { 0 };
        // SAFETY: the same content takes the place of what is there; of data, the caller's promise.
        unsafe { call!(libc::SYS_mmap, first, end - first, protection, flags, file.0, offset) }?;
        if is_data {
            layout.data = [start, end];
            if segment.p_memsz > segment.p_filesz {
                let rest = end.next_multiple_of(PAGE) - end;
                // SAFETY: what is behind the file's in its last page is the program's, and begins as zeroes.
                unsafe { ptr::with_exposed_provenance_mut::<u8>(end).write_bytes(0, rest) };
            }
        } else if protection & libc::PROT_EXEC != 0 {
            layout.code = [start, end];
        }
    }
    Ok(layout)
}

/// Where stack, arguments and environment are.
///
/// # Safety
/// `stack` is what the kernel passed to the program, at least one argument included.
unsafe fn tell(layout: &mut Layout, stack: *const usize) {
    layout.stack = stack.addr();
    // SAFETY: the caller's promise.
    unsafe {
        let arguments = stack.add(1).cast::<*const c_char>();
        let (between, environment) = strings(arguments);
        layout.arguments = [(*arguments).addr(), between];
        layout.environment = [between, strings(environment).0.max(between)];
    }
}

/// Where the last of the strings of a list ends (0 if there is none), and what is behind the list's null.
///
/// # Safety
/// `list` are strings up to a null.
unsafe fn strings(list: *const *const c_char) -> (usize, *const *const c_char) {
    let (mut at, mut last) = (list, ptr::null::<c_char>());
    // SAFETY: the caller's promise.
    unsafe {
        while !(*at).is_null() {
            last = *at;
            at = at.add(1);
        }
        while !last.is_null() && *last != 0 {
            last = last.add(1);
        }
        (if last.is_null() { 0 } else { last.addr() + 1 }, at.add(1))
    }
}
