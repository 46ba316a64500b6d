//! System V IPC: what there is of it in an IPC namespace.

use super::fs::Sys;
use super::raw::call;
use std::mem::MaybeUninit;

/// Whether there is a shared memory segment, a message queue or a semaphore set in this thread's IPC namespace (shmctl(2), SHM_INFO; msgctl(2),
/// MSG_INFO; semctl(2), SEM_INFO).
pub fn has_objects() -> Sys<bool> {
    const SHM_INFO: i32 = 14;
    const MSG_INFO: i32 = 12;
    const SEM_INFO: i32 = 19;
    /// More than the largest of struct shm_info, msginfo and seminfo.
    type Room = [u64; 16];
    let mut room = MaybeUninit::<Room>::zeroed();
    // SAFETY: there is room for what the kernel writes.
    unsafe { call!(libc::SYS_shmctl, 0, SHM_INFO, room.as_mut_ptr()) }?;
    // SAFETY: any bytes are numbers.
    let numbers = |room: &MaybeUninit<Room>| unsafe { room.assume_init() }.map(|two| [two as u32, (two >> 32) as u32]);
    // `used_ids` is the first of struct shm_info, `msgpool` of struct msginfo, and `semusz` the eighth of struct seminfo: how many there are.
    let segments = numbers(&room).as_flattened()[0];
    // SAFETY: as above.
    unsafe { call!(libc::SYS_msgctl, 0, MSG_INFO, room.as_mut_ptr()) }?;
    let queues = numbers(&room).as_flattened()[0];
    // SAFETY: as above.
    unsafe { call!(libc::SYS_semctl, 0, 0, SEM_INFO, room.as_mut_ptr()) }?;
    let sets = numbers(&room).as_flattened()[7];
    Ok(segments != 0 || queues != 0 || sets != 0)
}
