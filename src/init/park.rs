//! A sandbox waits for a request.

use super::op::{Exec, Op, Step};
use super::run::READY;
use crate::sys::clone::Room;
use crate::sys::{fs, park};
use nix::errno::Errno;
use std::os::fd::RawFd;

/// Says on `lease` that it is ready, forgets, waits there, does what `rest` has to be done and executes the program. It returns only
/// if it could not begin to. With `room` it stays in its maker's memory.
pub(super) fn park(lease: RawFd, rest: &[Step], exec: &Exec, candidate: usize, room: Option<&Room>) -> Errno {
    let Some(path) = exec.candidates.get(candidate) else { return Errno::ENOENT };
    let mut last =
        park::Last { path, args: &exec.args, env: &exec.env.strings, before: None, filter: None, after: None };
    for step in rest {
        match &step.op {
            Op::Capabilities { effective, permitted, inheritable } => {
                let place = if last.filter.is_none() { &mut last.before } else { &mut last.after };
                *place = Some((*effective, *permitted, *inheritable));
            }
            Op::Seccomp { program, flags, listener: false } => last.filter = Some((program, *flags)),
            // The compiler refuses it.
            _ => return Errno::ENOTSUP,
        }
    }
    if let Err(errno) = fs::write(lease, &[READY]) {
        return errno;
    }
    park::park(lease, &last, room)
}
