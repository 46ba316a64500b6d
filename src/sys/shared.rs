//! Memory that parent and child share, and null-terminated string lists for exec.

use super::raw::call;
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// One value that a clone shares with its parent.
#[derive(Debug)]
pub struct Shared<T: SharedValue> {
    at: *mut T,
    /// Whether it has a mapping of its own, which copies of this memory share too (mmap(2), MAP_SHARED).
    is_mapped: bool,
}

/// Types that may live in shared memory.
///
/// # Safety
/// All bytes zero must be a valid value, and every field that changes must be atomic.
pub unsafe trait SharedValue {}

impl<T: SharedValue> Shared<T> {
    /// Maps zeroed memory for one `T`.
    ///
    /// # Errors
    /// What mmap(2) answers, ENOMEM as a rule.
    pub fn new() -> Result<Self, Errno> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let at = unsafe { call!(libc::SYS_mmap, 0, size_of::<T>(), protection, flags, -1, 0) }?;
        Ok(Self { at: at as *mut T, is_mapped: true })
    }

    /// One `T` of zeroes for clones that run in this memory (`CLONE_VM`), in the allocator's: a shared mapping is a file to the kernel,
    /// with a flush of the TLB of its own when it goes.
    pub fn of_this_memory() -> Self {
        let mut value = Box::<T>::new_uninit();
        // SAFETY: there is room for one, and zeroes are a valid value (SharedValue).
        let value = unsafe {
            value.as_mut_ptr().write_bytes(0, 1);
            value.assume_init()
        };
        Self { at: Box::into_raw(value), is_mapped: false }
    }

    /// Whether clones that get a copy of this memory share it.
    pub fn is_mapped(&self) -> bool {
        self.is_mapped
    }
}

impl<T: SharedValue> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the place is size_of::<T>() bytes, zeroed (valid by SharedValue) and lives as long as self.
        unsafe { &*self.at }
    }
}

impl<T: SharedValue> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the place is ours, made as is_mapped says, and no reference outlives self.
        unsafe {
            if self.is_mapped {
                let _ = call!(libc::SYS_munmap, self.at, size_of::<T>());
            } else {
                drop(Box::from_raw(self.at));
            }
        }
    }
}

// SAFETY: a Shared only gives out &T, and T's changing fields are atomic (SharedValue).
unsafe impl<T: SharedValue + Sync> Sync for Shared<T> {}
// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl<T: SharedValue + Send> Send for Shared<T> {}

/// How far the child has come; written by it, read by the parent, without a system call.
#[derive(Debug)]
pub struct Report {
    /// The number of the step that runs, counted from 1.
    pub step: AtomicU32,
    /// The errno with which that step failed; 0 while none has.
    pub errno: AtomicU32,
    /// A detail that only the step knows (which candidate of a list, a descriptor's number, ...).
    pub detail: AtomicU32,
    /// Who makes the network namespace, and how far that is: see [`crate::init`].
    pub network: AtomicU32,
    /// The thread of the runtime that works beside init, for the helper to bring to its own CPU: see [`crate::init`].
    pub beside: AtomicU32,
    /// The runtime's pid.
    pub runtime: AtomicI32,
    /// A descriptor that the helper closes, once it has time; 0 for none.
    pub no_longer_needed: AtomicI32,
    /// The child's pid as the parent sees it, once it has recorded it; the child executes nothing foreign before.
    pub recorded: AtomicU32,
    /// Which signals the child was found to ignore by then: bit n-1 is signal n.
    pub ignored: AtomicU32,
    /// How many of `words` there are.
    words_length: AtomicU32,
    /// Why the step failed, where an errno does not tell.
    words: [AtomicU8; Report::WORDS],
    /// With timings: the monotonic clock at the end of each step, in nanoseconds, low and high half.
    pub times: [[AtomicU32; 2]; Report::STEPS],
}

// SAFETY: all fields are atomics, for which zero is valid.
unsafe impl SharedValue for Report {}

// SAFETY: atomics, for which zero is valid.
unsafe impl<const COUNT: usize> SharedValue for [AtomicU64; COUNT] {}

impl Report {
    /// For how many steps there is room for a time. Further steps are executed, not timed.
    pub const STEPS: usize = 500;

    /// For how many bytes of words there is room.
    pub const WORDS: usize = 1024;

    /// Notes why the step failed.
    pub fn say(&self, words: &[u8]) {
        for (place, byte) in self.words.iter().zip(words) {
            place.store(*byte, Ordering::Relaxed);
        }
        self.words_length.store(words.len().min(Self::WORDS) as u32, Ordering::Release);
    }

    /// The words in which a step said why it failed; none, if an errno tells all.
    pub fn words(&self) -> impl Iterator<Item = u8> {
        let length = self.words_length.load(Ordering::Acquire) as usize;
        self.words.iter().take(length).map(|byte| byte.load(Ordering::Relaxed))
    }

    /// Notes the end of step `index` (counted from 0) at `nanoseconds`.
    pub fn set_time(&self, index: usize, nanoseconds: u64) {
        if let Some([low, high]) = self.times.get(index) {
            low.store(nanoseconds as u32, Ordering::Relaxed);
            high.store((nanoseconds >> 32) as u32, Ordering::Relaxed);
        }
    }

    /// When step `index` ended; `None` if it did not.
    pub fn time(&self, index: usize) -> Option<u64> {
        let [low, high] = self.times.get(index)?;
        let time = u64::from(low.load(Ordering::Relaxed)) | u64::from(high.load(Ordering::Relaxed)) << 32;
        (time != 0).then_some(time)
    }
}

/// What a stage between runtime and init leaves for the runtime.
#[derive(Debug)]
pub struct Stage {
    /// The pid of init; 0 while there is none.
    pub pid: AtomicI32,
    /// Its pidfd, in the descriptor table that stage and runtime share.
    pub pidfd: AtomicI32,
    /// Why there is none.
    pub errno: AtomicI32,
    /// Which of the stage's steps failed; the number of steps itself stands for the clone.
    pub step: AtomicU32,
}

// SAFETY: all fields are atomics, for which zero is valid.
unsafe impl SharedValue for Stage {}

/// A list of C strings that ends with a null pointer, as execve(2) takes it, made before the clone.
pub struct Strings {
    /// A string that may still change; empty when there is none.
    first: Box<[AtomicU8]>,
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl fmt::Debug for Strings {
    /// What it says, not where.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.first).entries(&self.strings).finish()
    }
}

// SAFETY: the pointers lead into strings that the list owns; what may change is atomic.
unsafe impl Send for Strings {}
// SAFETY: as above.
unsafe impl Sync for Strings {}

impl Strings {
    /// The list of `strings`.
    pub fn new(strings: Vec<CString>) -> Self {
        let mut list = Self { first: Box::default(), strings, pointers: Vec::new() };
        list.pointers = list.strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        list
    }

    /// The strings.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }

    /// The string at `index`.
    pub fn get(&self, index: usize) -> Option<&CStr> {
        self.strings.get(index).map(CString::as_c_str)
    }

    /// The list of `strings` after one more, which is `initial` and has room for `room` bytes: the child may set it with
    /// [`Strings::set_first`].
    pub fn with_room(initial: &[u8], room: usize, strings: Vec<CString>) -> Self {
        let byte = |index: usize| AtomicU8::new(initial.get(index).copied().unwrap_or(0));
        let first: Box<[AtomicU8]> = (0..=room.max(initial.len())).map(byte).collect();
        let mut list = Self::new(strings);
        list.pointers.insert(0, first.as_ptr().cast());
        list.first = first;
        list
    }

    /// Sets the first string to `prefix` and `value`: in the child, before exec.
    ///
    /// # Errors
    /// ENAMETOOLONG when there is no room, EINVAL when the value has a NUL.
    pub fn set_first(&self, prefix: &[u8], value: &[u8]) -> Result<(), Errno> {
        if value.contains(&0) {
            return Err(Errno::EINVAL);
        }
        if prefix.len() + value.len() >= self.first.len() {
            return Err(Errno::ENAMETOOLONG);
        }
        for (place, byte) in self.first.iter().zip(prefix.iter().chain(value).chain(&[0])) {
            place.store(*byte, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The first pointer of the list.
    pub(in crate::sys) fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_begins_with_zeroes_wherever_it_is() {
        for report in [Shared::<Report>::new().unwrap(), Shared::of_this_memory()] {
            assert_eq!(report.step.load(Ordering::Relaxed), 0);
            assert_eq!(report.words().count(), 0);
            assert!((0..Report::STEPS).all(|index| report.time(index).is_none()));
            report.say(b"why");
            assert_eq!(report.words().collect::<Vec<_>>(), b"why");
        }
    }
}
