//! The program's allocator: a start allocates a few hundred small things, ends, and frees none of them in time to
//! matter.
//!
//! musl's allocator asks the kernel for almost every page by itself: 40 system calls in a cold `run`. So the first
//! [`Arena::SIZE`] bytes come from memory that the program is loaded with, one after the other, and are not taken back;
//! pages that are not needed are never touched. What goes beyond that is the system allocator's, so that a long-lived
//! process (`events`, a foreground `run`) does not grow.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An allocator that begins with memory of its own.
#[repr(C)] // The counter is in a page that is used anyway.
pub struct Arena {
    used: AtomicUsize,
    memory: UnsafeCell<[u8; Self::SIZE]>,
}

// SAFETY: every byte of the memory is handed out once, by an atomic counter.
unsafe impl Sync for Arena {}

impl Arena {
    /// Bytes that are not the system allocator's: what a cold `run` of an engine's configuration needs.
    const SIZE: usize = 512 * 1024;

    /// An arena of which nothing is used.
    pub const fn new() -> Self {
        Self { used: AtomicUsize::new(0), memory: UnsafeCell::new([0; Self::SIZE]) }
    }

    /// Whether `pointer` was handed out by the arena.
    fn owns(&self, pointer: *const u8) -> bool {
        let start = self.memory.get() as usize;
        (start..start + Self::SIZE).contains(&(pointer as usize))
    }

    /// The next `layout.size()` bytes, if there are as many.
    fn take(&self, layout: Layout) -> Option<*mut u8> {
        let base = self.memory.get() as usize;
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let start = (base + used).checked_next_multiple_of(layout.align())? - base;
            let end = start.checked_add(layout.size()).filter(|end| *end <= Self::SIZE)?;
            match self.used.compare_exchange_weak(used, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some((base + start) as *mut u8),
                Err(now) => used = now,
            }
        }
    }

    /// Grows or shrinks the block that was handed out last, where it is.
    fn resize_last(&self, pointer: *mut u8, old: usize, new: usize) -> bool {
        let start = pointer as usize - self.memory.get() as usize;
        let (end, new_end) = (start + old, start + new);
        new_end <= Self::SIZE && self.used.compare_exchange(end, new_end, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: blocks are aligned, within the memory, and never overlap (take); what is not the arena's is System's.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some(block) => block,
            // SAFETY: passed on to the caller.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if self.owns(pointer) {
            // Only the last block can be taken back.
            self.resize_last(pointer, layout.size(), 0);
        } else {
            // SAFETY: it was System that handed it out.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !self.owns(pointer) {
            // SAFETY: it was System that handed it out.
            return unsafe { System.realloc(pointer, layout, new_size) };
        }
        if self.resize_last(pointer, layout.size(), new_size) {
            return pointer;
        }
        // SAFETY: the alignment is that of a valid layout, and the caller keeps the size within isize::MAX.
        let block = unsafe { self.alloc(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if !block.is_null() {
            // SAFETY: both blocks are valid for the smaller size and do not overlap.
            unsafe { ptr::copy_nonoverlapping(pointer, block, layout.size().min(new_size)) };
            // SAFETY: it is the caller's to free, with the layout that it was made with.
            unsafe { self.dealloc(pointer, layout) };
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn blocks_are_aligned_and_apart() {
        let arena = Box::new(Arena::new());
        let mut end = 0;
        for (size, align) in [(1, 1), (8, 8), (3, 1), (64, 64), (5, 4), (4096, 4096)] {
            let block = arena.take(layout(size, align)).unwrap() as usize;
            assert_eq!(block % align, 0);
            assert!(block >= end);
            end = block + size;
        }
    }

    #[test]
    fn the_last_block_grows_where_it_is() {
        let arena = Box::new(Arena::new());
        // SAFETY: blocks are used within their sizes and freed with their layouts.
        unsafe {
            let first = arena.alloc(layout(8, 8));
            first.write_bytes(7, 8);
            assert_eq!(arena.realloc(first, layout(8, 8), 16), first);
            let second = arena.alloc(layout(8, 8));
            let moved = arena.realloc(first, layout(16, 8), 32);
            assert_ne!(moved, first);
            assert_eq!(moved.read(), 7);
            assert_eq!(second as usize - first as usize, 16);
            arena.dealloc(moved, layout(32, 8));
            assert_eq!(arena.alloc(layout(32, 8)), moved);
        }
    }

    #[test]
    fn when_it_is_full_the_system_takes_over() {
        let arena = Box::new(Arena::new());
        // SAFETY: the block is freed with its layout.
        unsafe {
            let large = arena.alloc(layout(Arena::SIZE + 1, 1));
            assert!(!large.is_null() && !arena.owns(large));
            let larger = arena.realloc(large, layout(Arena::SIZE + 1, 1), Arena::SIZE + 2);
            arena.dealloc(larger, layout(Arena::SIZE + 2, 1));
        }
        assert!(arena.take(layout(Arena::SIZE, 1)).is_some());
        assert!(arena.take(layout(1, 1)).is_none());
        assert!(arena.take(layout(usize::MAX >> 1, 1)).is_none());
    }
}
