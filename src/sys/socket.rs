//! Unix sockets between runtime and init: a connected pair, one byte messages, passing a descriptor.

use super::fs::{Sys, retry};
use super::raw::call;
use nix::errno::Errno;
use std::os::fd::{OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

/// A connected pair of stream sockets, `O_CLOEXEC` (socketpair(2)).
pub fn pair() -> Sys<(RawFd, RawFd)> {
    let mut fds = [-1i32; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes two ints.
    unsafe { call!(libc::SYS_socketpair, libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }?;
    Ok((fds[0], fds[1]))
}

/// A connected pair of sockets that keep messages apart, `O_CLOEXEC` (socketpair(2), SOCK_SEQPACKET).
///
/// # Errors
/// What the kernel answers.
pub fn packets() -> Sys<(OwnedFd, OwnedFd)> {
    raw_packets().map(|(one, other)| (super::own(one), super::own(other)))
}

/// As [`packets`], for who does not close by dropping.
///
/// # Errors
/// What the kernel answers.
pub fn raw_packets() -> Sys<(RawFd, RawFd)> {
    let mut fds = [-1i32; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes two ints.
    unsafe { call!(libc::SYS_socketpair, libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }?;
    Ok((fds[0], fds[1]))
}

/// A datagram socket, `O_CLOEXEC`.
///
/// # Errors
/// What the kernel answers.
pub fn datagram() -> Sys<RawFd> {
    // SAFETY: it takes numbers.
    unsafe { call!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.map(|fd| fd as RawFd)
}

/// Connects to the socket at `path` (unix(7)).
///
/// # Errors
/// ENAMETOOLONG for a path of more than 107 bytes, and what the kernel answers.
pub fn connect(socket: RawFd, path: &[u8]) -> Sys {
    // SAFETY: plain numbers.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    if path.len() >= address.sun_path.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (place, byte) in address.sun_path.iter_mut().zip(path) {
        *place = *byte as _;
    }
    // SAFETY: the address outlives the call.
    unsafe { call!(libc::SYS_connect, socket, &raw const address, size_of::<libc::sockaddr_un>()) }.map(drop)
}

/// How many descriptors a message can carry here.
pub const MOST_FDS: usize = 6;

/// The control message that carries some descriptors, and room for the sender's credentials.
#[repr(C, align(8))]
struct Controls {
    header: libc::cmsghdr,
    fds: [RawFd; MOST_FDS + 1],
    credentials: [u64; 5],
}

/// Sends the `parts` as one message, with `fds`.
///
/// # Errors
/// E2BIG for too many, and what sendmsg(2) answers.
pub fn send_fds(socket: RawFd, parts: &[&[u8]], fds: &[RawFd]) -> Sys {
    send(socket, parts, fds, 0)
}

/// As [`send_fds`], at once or not at all: who does not read does not hold the sender up.
///
/// # Errors
/// EAGAIN when there is no room, and as above.
pub fn send_fds_now(socket: RawFd, parts: &[&[u8]], fds: &[RawFd]) -> Sys {
    send(socket, parts, fds, libc::MSG_DONTWAIT)
}

fn send(socket: RawFd, parts: &[&[u8]], fds: &[RawFd], flags: i32) -> Sys {
    let mut list = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; 4];
    if parts.len() > list.len() || fds.len() > MOST_FDS {
        return Err(Errno::E2BIG);
    }
    for (place, part) in list.iter_mut().zip(parts) {
        *place = libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
    }
    // SAFETY: CMSG_LEN and CMSG_SPACE compute with sizes only.
    let (length, space) = unsafe {
        let bytes = std::mem::size_of_val(fds) as u32;
        (libc::CMSG_LEN(bytes) as usize, libc::CMSG_SPACE(bytes) as usize)
    };
    // SAFETY: a zeroed control message is valid.
    let mut control: Controls = unsafe { std::mem::zeroed() };
    control.header.cmsg_len = length as _;
    control.header.cmsg_level = libc::SOL_SOCKET;
    control.header.cmsg_type = libc::SCM_RIGHTS;
    for (place, fd) in control.fds.iter_mut().zip(fds) {
        *place = *fd;
    }
    // SAFETY: a zeroed msghdr is valid; the parts outlive the call.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = list.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    if !fds.is_empty() {
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = space as _;
    }
    retry(|| {
        // SAFETY: the message and its parts outlive the call.
        unsafe { call!(libc::SYS_sendmsg, socket, &raw const message, libc::MSG_NOSIGNAL | flags) }
    })
    .map(drop)
}

/// Says that nothing more comes from here: the peer reads what was sent before, and then the end (shutdown(2)).
pub fn end_sending(socket: RawFd) {
    // It fails where the peer is gone already. SAFETY: it takes numbers.
    let _ = unsafe { call!(libc::SYS_shutdown, socket, libc::SHUT_WR) };
}

/// Sends that would have to wait do so for this many whole seconds (socket(7), SO_SNDTIMEO).
pub fn set_patience(socket: RawFd, patience: Duration) -> Sys {
    let time = libc::timeval { tv_sec: patience.as_secs() as i64, tv_usec: 0 };
    let size = size_of::<libc::timeval>();
    // SAFETY: the kernel reads one struct timeval.
    unsafe { call!(libc::SYS_setsockopt, socket, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &raw const time, size) }.map(drop)
}

/// Has each message bring a pidfd of its sender (`SO_PASSPIDFD`, Linux 6.5).
///
/// # Errors
/// ENOPROTOOPT on older kernels.
pub fn ask_for_sender(socket: RawFd) -> Sys {
    const SO_PASSPIDFD: i32 = 76;
    let (on, size) = (1i32, size_of::<i32>());
    // SAFETY: the kernel reads one int.
    unsafe { call!(libc::SYS_setsockopt, socket, libc::SOL_SOCKET, SO_PASSPIDFD, &raw const on, size) }.map(drop)
}

/// Whether the peer of a connected socket is still there, and has not hung up.
pub fn is_listening(socket: RawFd) -> bool {
    let mut fds = [libc::pollfd { fd: socket, events: 0, revents: 0 }];
    retry(|| super::process::poll(&mut fds, Some(Duration::ZERO))) == Ok(0)
}

/// Ends a connection in both directions (shutdown(2)): what the peer sends from now on fails.
pub fn hang_up(socket: RawFd) {
    // SAFETY: it takes numbers.
    let _ = unsafe { call!(libc::SYS_shutdown, socket, libc::SHUT_RDWR) };
}

/// A message, and what came along.
#[derive(Debug)]
pub struct Received {
    /// How many bytes.
    pub count: usize,
    /// The descriptors.
    pub fds: Vec<OwnedFd>,
    /// pid, uid and gid of the sender, where the socket asks for them (`SO_PASSCRED`).
    pub sender: Option<(i32, u32, u32)>,
    /// The sender's pidfd, where the socket asks for it ([`ask_for_sender`]).
    pub pidfd: Option<OwnedFd>,
    /// There was more, for which there was no room or no descriptor left.
    pub is_cut: bool,
}

/// Receives a message with its descriptors and its sender's credentials, if there is one.
///
/// # Errors
/// EAGAIN when there is none, EMSGSIZE when it does not fit, and what recvmsg(2) answers.
pub fn receive_fds(socket: RawFd, data: &mut [u8]) -> Sys<Received> {
    let received = receive_what_fits(socket, data)?;
    if received.is_cut { Err(Errno::EMSGSIZE) } else { Ok(received) }
}

/// As [`receive_fds`], and what there is of a message that does not fit.
///
/// # Errors
/// EAGAIN when there is none, and what recvmsg(2) answers.
pub fn receive_what_fits(socket: RawFd, data: &mut [u8]) -> Sys<Received> {
    const SCM_PIDFD: i32 = 4;
    let mut control = [0u64; 16];
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: a zeroed msghdr is valid; the parts outlive the call.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = std::mem::size_of_val(&control) as _;
    let count = retry(|| {
        // SAFETY: the kernel writes into the message's parts, which outlive the call.
        unsafe { call!(libc::SYS_recvmsg, socket, &raw mut message, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) }
    })?;
    let is_cut = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    let mut received = Received { count, fds: Vec::new(), sender: None, pidfd: None, is_cut };
    // SAFETY: the kernel wrote well-formed control messages of the length that it says (cmsg(3)).
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(header) = at.as_ref() {
            let bytes = header.cmsg_len as u64 as usize - libc::CMSG_LEN(0) as usize;
            let content = libc::CMSG_DATA(at);
            match (header.cmsg_level, header.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    let fds = content.cast::<RawFd>();
                    let count = bytes / size_of::<RawFd>();
                    received.fds.extend((0..count).map(|index| super::own(fds.add(index).read_unaligned())));
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                    let from = content.cast::<libc::ucred>().read_unaligned();
                    received.sender = Some((from.pid, from.uid, from.gid));
                }
                (libc::SOL_SOCKET, SCM_PIDFD) => {
                    // An error, if there was no descriptor left for it (net/core/scm.c).
                    let pidfd = content.cast::<RawFd>().read_unaligned();
                    received.is_cut |= pidfd < 0;
                    received.pidfd = (pidfd >= 0).then(|| super::own(pidfd));
                }
                _ => {}
            }
            at = libc::CMSG_NXTHDR(&raw const message, at);
        }
    }
    Ok(received)
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

/// Receives at most `data.len()` bytes and, if one came along, a descriptor (recvmsg(2)), `O_CLOEXEC`. No bytes are the end.
pub fn receive_fd(socket: RawFd, data: &mut [u8]) -> Sys<(usize, Option<RawFd>)> {
    match receive_fd_once(socket, data, 0)? {
        // Of a message that comes, with the end after it, just when the kernel has found none, it tells the end alone
        // (net/core/datagram.c, __skb_wait_for_more_packets); the message is there.
        (0, None) => match receive_fd_once(socket, data, libc::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => Ok((0, None)),
            received => received,
        },
        received => Ok(received),
    }
}

fn receive_fd_once(socket: RawFd, data: &mut [u8], flags: i32) -> Sys<(usize, Option<RawFd>)> {
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
        unsafe { call!(libc::SYS_recvmsg, socket, &raw mut message, libc::MSG_CMSG_CLOEXEC | flags) }
    })?;
    let carries = message.msg_controllen as usize >= size_of::<libc::cmsghdr>() + size_of::<RawFd>()
        && control.header.cmsg_level == libc::SOL_SOCKET
        && control.header.cmsg_type == libc::SCM_RIGHTS;
    Ok((count, carries.then_some(control.fd)))
}
