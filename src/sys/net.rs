//! The loopback device.

use super::fs::{self, Sys};
use super::raw::call;

/// Brings "lo" of this network namespace up (netdevice(7), SIOCSIFFLAGS).
///
/// # Errors
/// What socket(2) or ioctl(2) answers.
pub fn loopback_up() -> Sys {
    // The ioctl is that of any socket. One of AF_INET may be forbidden to a service (RestrictAddressFamilies=, systemd.exec(5)).
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is involved.
    let socket = unsafe { call!(libc::SYS_socket, libc::AF_UNIX, kind, 0) }? as i32;
    // struct ifreq: a name of 16 bytes, then flags; 40 bytes in all.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&((libc::IFF_UP | libc::IFF_RUNNING) as u16).to_ne_bytes());
    // SAFETY: the kernel reads one struct ifreq.
    let result = unsafe { call!(libc::SYS_ioctl, socket, libc::SIOCSIFFLAGS, request.as_ptr()) };
    fs::close(socket);
    result.map(drop)
}
