//! Which CPUs a process or thread may use (sched_setaffinity(2)), to have what is done at the same time done on different ones.
//!
//! The kernel places a new process well only if a CPU is idle at that moment, and for half a millisecond it leaves one that has just run where it
//! is (`sched_migration_cost`), even if another CPU falls idle: longer than anything takes here.

use super::fs::Sys;
use super::raw::call;
use std::ptr;

/// A set of CPUs. On machines with more than these 1024 the kernel tells none (EINVAL).
struct Cpus([u64; 16]);

impl Cpus {
    /// Those that `id`, a process's or thread's, or 0 for this one, may use.
    fn of(id: i32) -> Sys<Self> {
        let mut mask = [0; 16];
        // SAFETY: the kernel writes at most the size of the mask.
        unsafe { call!(libc::SYS_sched_getaffinity, id, size_of_val(&mask), mask.as_mut_ptr()) }?;
        Ok(Self(mask))
    }

    /// The one that this thread is on.
    fn here() -> Sys<Self> {
        let (mut mask, mut cpu) = ([0; 16], 0u32);
        // SAFETY: the kernel writes one int.
        unsafe { call!(libc::SYS_getcpu, &raw mut cpu, ptr::null::<u8>(), ptr::null::<u8>()) }?;
        if let Some(word) = mask.get_mut(cpu as usize / 64) {
            *word = 1 << (cpu % 64);
        }
        Ok(Self(mask))
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    fn without(mut self, others: &Self) -> Self {
        self.0.iter_mut().zip(others.0).for_each(|(word, other)| *word &= !other);
        self
    }

    /// As [`bind`].
    fn give_to(&self, id: i32) -> Sys {
        bind(id, &self.0)
    }
}

/// Binds `id`, a process or thread, or 0 for this one, to the CPUs whose bits are set in `mask`: it goes there at once if it is elsewhere.
///
/// # Errors
/// What sched_setaffinity(2) answers.
pub fn bind(id: i32, mask: &[u64]) -> Sys {
    // SAFETY: the kernel reads the mask's bytes.
    unsafe { call!(libc::SYS_sched_setaffinity, id, size_of_val(mask), mask.as_ptr()) }.map(drop)
}

/// Moves the process `pid` to another CPU than this one, so that it starts at once: a new process is queued behind the
/// one that made it. Whether there is another one that it may use.
pub fn move_to_another(pid: i32) -> bool {
    let others = Cpus::here().and_then(|here| Cpus::of(0).map(|allowed| allowed.without(&here)));
    others.is_ok_and(|others| others.count() > 0 && others.give_to(pid).is_ok())
}

/// Lets this process run wherever the process `pid` may.
pub fn allow_those_of(pid: i32) {
    let _ = Cpus::of(pid).and_then(|allowed| allowed.give_to(0));
}

/// Has the thread `id` go on on this CPU, which is about to be idle, if there are two that it may use: on the other one it may be waiting for its turn, or somebody
/// else for his. With more, each of three has had one from the beginning.
pub fn bring_here(id: i32) {
    if let Ok(allowed) = Cpus::of(id)
        && allowed.count() == 2
        && let Ok(here) = Cpus::here()
    {
        let _ = here.give_to(id);
        let _ = allowed.give_to(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{getppid, gettid};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    /// Does `work` in a thread that may use two CPUs, if there are as many.
    fn with_two(work: impl FnOnce(Cpus) + Send) {
        let mut two = Cpus::of(0).unwrap();
        while two.count() > 2 {
            let last = two.0.iter_mut().rev().find(|word| **word != 0).unwrap();
            *last &= !(1 << (63 - last.leading_zeros()));
        }
        if two.count() < 2 {
            println!("skipped: needs two CPUs");
            return;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                two.give_to(0).unwrap();
                work(two);
            });
        });
    }

    #[test]
    fn a_process_that_was_moved_may_go_where_others_may() {
        with_two(|two| {
            assert!(move_to_another(gettid().as_raw()));
            assert_eq!(Cpus::of(0).unwrap().count(), 1);
            two.give_to(0).unwrap();
            allow_those_of(getppid().as_raw());
            let parents = Cpus::of(getppid().as_raw()).unwrap();
            assert_eq!(Cpus::of(0).unwrap().0, parents.0);
        });
    }

    /// The CPU that a thread of this process was on last (proc_pid_stat(5), "processor").
    fn last_cpu(thread: i32) -> usize {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().nth(36).unwrap().parse().unwrap()
    }

    #[test]
    fn who_is_brought_is_there_and_may_leave() {
        with_two(|two| {
            let is_over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let (sender, receiver) = mpsc::channel();
                let is_over = &is_over;
                scope.spawn(move || {
                    sender.send(gettid().as_raw()).unwrap();
                    while !is_over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
                let other = receiver.recv().unwrap();
                // From each of the two in turn, and more than once, for on a busy machine it may have left by the time that it is looked at.
                let first = Cpus::here().unwrap();
                let seen = [first.0, Cpus(two.0).without(&first).0].map(|here| {
                    bind(0, &here).unwrap();
                    let is_here = || {
                        bring_here(other);
                        let cpu = last_cpu(other);
                        here[cpu / 64] >> (cpu % 64) & 1 == 1
                    };
                    let was_here = (0..1000).any(|_| is_here());
                    (was_here, Cpus::of(other).unwrap().0)
                });
                // Before anything is asserted: the scope waits for the other.
                is_over.store(true, Ordering::Relaxed);
                assert_eq!(seen, [(true, two.0); 2]);
            });
        });
    }

    #[test]
    fn who_may_use_one_cpu_or_three_is_left_alone() {
        let all = Cpus::of(0).unwrap();
        let others = std::thread::spawn(|| {
            Cpus::here().unwrap().give_to(0).unwrap();
            bring_here(gettid().as_raw());
            Cpus::of(0).unwrap().count()
        });
        assert_eq!(others.join().unwrap(), 1);
        bring_here(gettid().as_raw());
        assert_eq!(Cpus::of(0).unwrap().0, all.0);
    }
}
