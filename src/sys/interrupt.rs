//! SIGINT, SIGTERM and SIGHUP, noted instead of obeyed: who measures cleans up first.

use nix::errno::Errno;
use std::sync::atomic::{AtomicBool, Ordering};

static CAUGHT: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: i32) {
    CAUGHT.store(true, Ordering::Relaxed);
}

/// From now on the signals are noted. Programs that are executed get their default actions back (execve(2)).
///
/// # Errors
/// The kernel refuses it, which sigaction(2) does for other signals only.
pub fn catch() -> Result<(), Errno> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: an all-zero sigaction is valid; its handler only stores to an atomic, which any context may do.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as *const () as usize;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        Errno::result(result)?;
    }
    Ok(())
}

/// Whether one came.
pub fn caught() -> bool {
    CAUGHT.load(Ordering::Relaxed)
}
