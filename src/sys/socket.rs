//! Unix sockets between runtime and init: a connected pair, one byte messages, passing a descriptor.

use super::fs::{Sys, retry};
use super::raw::call;
use nix::errno::Errno;
use std::os::fd::RawFd;
use std::ptr;

/// A connected pair of stream sockets, `O_CLOEXEC` (socketpair(2)).
pub fn pair() -> Sys<(RawFd, RawFd)> {
    let mut fds = [-1i32; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes two ints.
    unsafe { call!(libc::SYS_socketpair, libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }?;
    Ok((fds[0], fds[1]))
}

/// Lets others connect to a bound socket (listen(2)), as many at a time as the kernel allows.
pub fn listen(socket: RawFd) -> Sys {
    // SAFETY: it takes numbers.
    unsafe { call!(libc::SYS_listen, socket, i32::MAX) }.map(drop)
}

/// Takes the next connection of a listening socket (accept4(2)).
pub fn accept(listener: RawFd) -> Sys<RawFd> {
    retry(|| {
        // SAFETY: no address is asked for.
        unsafe { call!(libc::SYS_accept4, listener, ptr::null::<u8>(), ptr::null::<u8>(), libc::SOCK_CLOEXEC) }
    })
    .map(|fd| fd as RawFd)
}

/// The control message that carries one descriptor.
#[repr(C, align(8))]
struct Control {
    header: libc::cmsghdr,
    fd: RawFd,
    padding: u32,
}

/// Sends `data` with the descriptor `fd`, all of it at once.
pub fn send_fd(socket: RawFd, data: &[u8], fd: RawFd) -> Sys {
    if send_some_with_fd(socket, data, fd)? == data.len() { Ok(()) } else { Err(Errno::EMSGSIZE) }
}

/// Sends as much of `data` as there is room for, with the descriptor `fd`; how much (sendmsg(2), SCM_RIGHTS).
pub fn send_some_with_fd(socket: RawFd, data: &[u8], fd: RawFd) -> Sys<usize> {
    // SAFETY: CMSG_LEN computes with sizes only.
    let length = unsafe { libc::CMSG_LEN(size_of::<RawFd>() as u32) } as usize;
    // SAFETY: a zeroed control message is valid (musl's header has padding that must be zero).
    let mut control: Control = unsafe { std::mem::zeroed() };
    control.header.cmsg_len = length as _;
    control.header.cmsg_level = libc::SOL_SOCKET;
    control.header.cmsg_type = libc::SCM_RIGHTS;
    control.fd = fd;
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: a zeroed msghdr is valid; the parts outlive the call.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    retry(|| {
        // SAFETY: the message and its parts outlive the call.
        unsafe { call!(libc::SYS_sendmsg, socket, &raw const message, libc::MSG_NOSIGNAL) }
    })
}

/// Receives at most `data.len()` bytes and, if one came along, a descriptor (recvmsg(2)), `O_CLOEXEC`.
pub fn receive_fd(socket: RawFd, data: &mut [u8]) -> Sys<(usize, Option<RawFd>)> {
    // SAFETY: a zeroed control message is valid.
    let mut control: Control = unsafe { std::mem::zeroed() };
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: a zeroed msghdr is valid; the parts outlive the call.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    let count = retry(|| {
        // SAFETY: the kernel writes into the message's parts, which outlive the call.
        unsafe { call!(libc::SYS_recvmsg, socket, &raw mut message, libc::MSG_CMSG_CLOEXEC) }
    })?;
    let carries = message.msg_controllen as usize >= size_of::<libc::cmsghdr>() + size_of::<RawFd>()
        && control.header.cmsg_level == libc::SOL_SOCKET
        && control.header.cmsg_type == libc::SCM_RIGHTS;
    Ok((count, carries.then_some(control.fd)))
}
