//! How a command asks a pool for a sandbox: one datagram, and a socket on which the answers come.
//!
//! ```text
//! command                                   pool (crate::pool)                    sandbox
//!    │ header, root, id; [answers, bundle, 0, 1, 2] ──▶ │
//!    │                                               │ a part that fits: 0, 1, 2 ──▶ │ exec
//!    │ ◀── STARTED: pid, id; [pidfd] ────────────────┤
//!    │ ◀── EXITED: status, what to say ──────────────┤ ◀───────────── ends ──────────┘
//! ```
//!
//! Or COLD: there is nothing ready that fits, and why. What follows was written to run before libc
//! (src/sys/entry.rs): it allocates nothing and never panics.

use super::fs::{self, Sys, retry};
use super::process::{self, poll};
use super::raw::call;
use super::{signalfd, socket};
use nix::errno::Errno;
use std::ffi::CStr;
use std::mem::{self, MaybeUninit};
use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;

/// The first byte of an answer.
pub mod answer {
    /// Nothing fits; the reason follows.
    pub const COLD: u8 = b'c';
    /// The container has been started: its pid and its id follow, and a pidfd comes along; for [`super::LEASE`] the
    /// socket on which its init waits as well, and for [`super::TERMINAL`] the master of its terminal.
    pub const STARTED: u8 = b's';
    /// It has a terminal: ask again, with [`super::TERMINAL`].
    pub const TERMINAL: u8 = b't';
    /// There is no sandbox, but there are parts of one, which the next message brings: who asks makes the rest.
    pub const PARTS: u8 = b'p';
    /// Its sandbox was killed before it executed the program: nothing has been started after all; why.
    pub const KILLED: u8 = b'k';
    /// There is nothing for this bundle, as it is; who makes the container himself may ask again, with [`super::MAKE`].
    pub const UNKNOWN: u8 = b'u';
    /// It has ended: the exit code to end with follows, and what is to be told on standard error.
    pub const EXITED: u8 = b'x';
    /// What was asked for is taken up, and may take its time: [`DONE`] or [`FAILED`] follows.
    pub const WORKING: u8 = b'w';
    /// What was asked for is done, or is not: text follows.
    pub const DONE: u8 = b'd';
    /// It could not be done: why.
    pub const FAILED: u8 = b'e';
}

/// Start a container with the descriptors that come along, and say when it has ended.
pub const RUN: u32 = 1;
/// Give away a sandbox: who asked will start it.
pub const LEASE: u32 = 2;
/// Hold parts for the bundle.
pub const FILL: u32 = 3;
/// Give up the parts for the bundle.
pub const DRAIN: u32 = 4;
/// Say what there is.
pub const STATUS: u32 = 5;
/// Give parts for a container that who asks makes.
pub const MAKE: u32 = 6;

/// With [`RUN`]: who asks does not wait for the end.
pub const DETACHED: u32 = 1;
/// With [`RUN`]: who asks can serve a terminal.
pub const TERMINAL: u32 = 2;
/// With [`RUN`]: who asks takes parts if there is no sandbox.
pub const PARTS: u32 = 4;
/// With [`MAKE`]: who asks takes a new network namespace, although the pool may not know the bundle.
pub const NETWORK: u32 = 8;
/// With [`MAKE`]: who asks takes a cgroup.
pub const CGROUP: u32 = 16;

/// The parts that a pool gives ([`answer::PARTS`]): these words, then the name of the cgroup, if there is one. The
/// descriptor of a network namespace comes along, if there is one. What is of use for any config.json has zeroes here.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Given {
    /// The file system of the config.json that they are for.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last changed, in nanoseconds (inode(7), ctime).
    pub changed: u64,
}

impl Given {
    /// The bytes of a message, before the name.
    pub const SIZE: usize = size_of::<Self>();

    /// As they are sent.
    pub fn bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let words = [self.device, self.inode, self.size, self.changed];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// As they were received, and the rest.
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (words, rest) = bytes.split_at_checked(Self::SIZE)?;
        let mut words = words.chunks_exact(8).filter_map(|word| word.try_into().ok().map(u64::from_ne_bytes));
        let mut next = || words.next();
        Some((Self { device: next()?, inode: next()?, size: next()?, changed: next()? }, rest))
    }
}

/// What who asked writes once it has recorded that the cgroup that it was given is its container's: from then on it
/// removes it.
pub const TAKEN: u8 = b'k';

/// What he sends whose container's network namespace others have entered: it is not to be used again.
pub const SPOILT: u8 = b's';

/// Where root's pool listens.
pub const SOCKET: &str = "/run/microrun-pool/socket";

/// The same for the first instructions, beside which it lies: see `sys::entry`.
#[unsafe(link_section = ".rodata.microrun_entry")]
pub static SOCKET_NAME: [u8; SOCKET.len() + 1] = {
    let mut name = [0; SOCKET.len() + 1];
    name.split_at_mut(SOCKET.len()).0.copy_from_slice(SOCKET.as_bytes());
    name
};

/// How many descriptors come with a request: the socket for the answers, the bundle, stdin, stdout, stderr.
pub const DESCRIPTORS: usize = 5;

/// The most bytes of a request.
pub const MOST: usize = 4096;

/// How long one waits for a pool before one does without, and for the end of a sandbox. Both take less than a millisecond.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// How long one waits for parts: they save one or two milliseconds, even on a busy machine.
pub const PATIENCE_FOR_PARTS: Duration = Duration::from_millis(100);

/// How many resources have a limit (getrlimit(2)).
pub const LIMITS: usize = 16;

/// How a request begins: what it is, and from where it comes. The pool serves nobody for whom a cold start would have
/// come out differently.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// [`Header::MAGIC`].
    pub magic: u32,
    /// What is asked for.
    pub kind: u32,
    /// [`DETACHED`], [`TERMINAL`], [`PARTS`], [`NETWORK`], [`CGROUP`].
    pub flags: u32,
    /// With [`FILL`]: how many parts.
    pub count: u32,
    /// Who asks, in its own pid namespace.
    pub pid: i32,
    /// Its nice value.
    pub nice: i32,
    /// The mount that is its root, and with it the mount namespace.
    pub root_mount: u64,
    /// The directory that is its root.
    pub root_inode: u64,
    /// Its network namespace.
    pub network: u64,
    /// The signals that it had blocked.
    pub signal_mask: u64,
    /// Its resource limits, soft and hard.
    pub limits: [[u64; 2]; LIMITS],
    /// How many bytes --root has.
    pub root: u32,
    /// How many bytes the id has; none, if it may be made up.
    pub id: u32,
}

impl Header {
    /// "mrp1"
    pub const MAGIC: u32 = 0x6d72_7031;

    /// The header of this process, which has made `socket` where it is now.
    pub fn of_this_process(kind: u32, signal_mask: u64, socket: RawFd) -> Sys<Self> {
        let (root_mount, root_inode) = root()?;
        let mut header = Self {
            magic: Self::MAGIC,
            kind,
            flags: 0,
            count: 0,
            pid: process::getpid(),
            nice: process::nice()?,
            root_mount,
            root_inode,
            network: network(socket),
            signal_mask,
            limits: [[0; 2]; LIMITS],
            root: 0,
            id: 0,
        };
        for (resource, limit) in header.limits.iter_mut().enumerate() {
            // SAFETY: the kernel writes two 64-bit words.
            unsafe { call!(libc::SYS_prlimit64, 0, resource, 0, limit.as_mut_ptr()) }?;
        }
        Ok(header)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: it has no padding: six 32-bit words, then 64-bit ones, then two of 32 bits.
        unsafe { std::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }

    /// The header that `bytes` begin with.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..size_of::<Self>())?;
        // SAFETY: there are enough bytes, and any are a header.
        let header = unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() };
        (header.magic == Self::MAGIC).then_some(header)
    }
}

/// Whether this process's root is the root of a mount, and not a directory in one that chroot(2) made it.
pub fn is_root_of_mount() -> Sys<bool> {
    let root = fs::open(fs::CWD, c"/", libc::O_PATH, 0)?;
    let attributes = fs::file_attributes(root);
    fs::close(root);
    Ok(attributes? & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0)
}

/// A request, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// How it begins.
    pub header: Header,
    /// --root.
    pub root: &'a [u8],
    /// The id.
    pub id: &'a [u8],
}

/// The request that `bytes` are; `None` if they are none, too few or too many.
pub fn parse(bytes: &[u8]) -> Option<Parsed<'_>> {
    let header = Header::read(bytes)?;
    let rest = bytes.get(size_of::<Header>()..)?;
    let (root, id) = rest.split_at_checked(header.root as usize)?;
    (id.len() == header.id as usize).then_some(Parsed { header, root, id })
}

// Where the first instructions are (src/sys/entry.rs).
#[unsafe(link_section = ".rodata.microrun_entry")]
static ROOT: [u8; 2] = *b"/\0";

/// The mount and the inode of this process's root. No two mounts of a machine have the same number at a time.
pub fn root() -> Sys<(u64, u64)> {
    /// `STATX_MNT_ID_UNIQUE`, Linux 6.8.
    const UNIQUE: u32 = 0x4000;
    let mut info = MaybeUninit::<libc::statx>::zeroed();
    let mask = libc::STATX_INO | libc::STATX_MNT_ID | UNIQUE;
    // SAFETY: the kernel fills a struct statx, which is valid when zeroed as well.
    let info = unsafe {
        call!(libc::SYS_statx, libc::AT_FDCWD, ROOT.as_ptr(), libc::AT_STATX_DONT_SYNC, mask, info.as_mut_ptr())?;
        info.assume_init()
    };
    Ok((info.stx_mnt_id, info.stx_ino))
}

/// What tells the network namespace in which `socket` was made from others (`SO_NETNS_COOKIE`, Linux 5.14); 0 where there is none.
fn network(socket: RawFd) -> u64 {
    const SO_NETNS_COOKIE: i32 = 71;
    let (mut cookie, mut length) = (0u64, 8u32);
    // SAFETY: the kernel writes at most as many bytes as there are, and their number.
    let asked = unsafe {
        call!(libc::SYS_getsockopt, socket, libc::SOL_SOCKET, SO_NETNS_COOKIE, &raw mut cookie, &raw mut length)
    };
    if asked.is_ok() { cookie } else { 0 }
}

/// What is asked of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The pool's socket.
    pub socket: &'a [u8],
    /// What.
    pub kind: u32,
    /// [`DETACHED`], [`TERMINAL`], [`PARTS`], [`NETWORK`], [`CGROUP`].
    pub flags: u32,
    /// How many parts.
    pub count: u32,
    /// --root.
    pub root: &'a [u8],
    /// The id.
    pub id: &'a [u8],
    /// The bundle.
    pub bundle: &'a CStr,
    /// The signals that this process had blocked.
    pub signal_mask: u64,
}

impl<'a> Request<'a> {
    /// One that has nothing to say but this.
    pub const fn new(socket: &'a [u8], kind: u32, bundle: &'a CStr) -> Self {
        Self { socket, kind, flags: 0, count: 0, root: b"", id: b"", bundle, signal_mask: 0 }
    }
}

/// Whether there is a file where a pool's socket may be, root's or this user's: anybody else who has the name would get what
/// is handed over, and could say what came of it.
///
/// # Errors
/// ENOENT where there is none, EACCES where it is somebody else's.
#[inline(always)] // Who has no pool begins and ends with it (src/sys/entry.rs): a function of its own would lie elsewhere.
pub fn look(socket: &CStr) -> Sys {
    let mut about = MaybeUninit::<libc::stat>::zeroed();
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the kernel fills a struct stat, which is valid when zeroed as well.
    let owner = unsafe {
        call!(libc::SYS_newfstatat, fs::CWD, socket.as_ptr(), about.as_mut_ptr(), flags)?;
        about.assume_init().st_uid
    };
    // SAFETY: no memory is involved.
    if owner == 0 || unsafe { call!(libc::SYS_geteuid) } == Ok(owner as usize) { Ok(()) } else { Err(Errno::EACCES) }
}

/// The same of a path.
///
/// # Errors
/// As there.
pub fn look_at(socket: &Path) -> Sys {
    look(&fs::c_path(socket)?)
}

/// Asks; the socket on which the answers come. Whose socket it is has been [looked at](look).
///
/// # Errors
/// ENOENT and ECONNREFUSED when there is no pool, EAGAIN when it is overwhelmed, EMSGSIZE when --root or the id are too long,
/// EBADF when this process has a standard descriptor closed, EPERM when it is confined in a way that a pool does not know of.
pub fn ask(request: &Request<'_>) -> Sys<RawFd> {
    if size_of::<Header>() + request.root.len() + request.id.len() > MOST {
        return Err(Errno::EMSGSIZE);
    }
    // What no new privileges and a filter keep from this process they would keep from a container that it made.
    for confinement in [libc::PR_GET_NO_NEW_PRIVS, libc::PR_GET_SECCOMP] {
        if process::prctl(confinement, [0; 4])? != 0 {
            return Err(Errno::EPERM);
        }
    }
    let to = socket::datagram()?;
    // A number that was free among the first three is one that would be sent as the container's stdin, stdout or stderr.
    let asked = if to > libc::STDERR_FILENO { Ok(()) } else { Err(Errno::EBADF) };
    let asked = asked.and_then(|()| socket::connect(to, request.socket)).and_then(|()| ask_on(to, request));
    fs::close(to);
    asked
}

fn ask_on(to: RawFd, request: &Request<'_>) -> Sys<RawFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let bundle = fs::open(fs::CWD, request.bundle, flags, 0)?;
    let (answers, theirs) = socket::raw_packets()?;
    let header = Header::of_this_process(request.kind, request.signal_mask, to).and_then(|header| {
        let root = request.root.len() as u32;
        let header = Header { flags: request.flags, count: request.count, root, id: request.id.len() as u32, ..header };
        let parts: [&[u8]; 3] = [header.bytes(), request.root, request.id];
        // What a pool has not read keeps what is sent open: nobody's stdio, where that is of no use to it.
        let stdio = if request.kind == MAKE { [bundle; 3] } else { [0, 1, 2] };
        let fds: [RawFd; DESCRIPTORS] = [theirs, bundle, stdio[0], stdio[1], stdio[2]];
        match socket::send_fds_now(to, &parts, &fds) {
            Err(Errno::EAGAIN) if request.kind != MAKE => {
                socket::set_patience(to, PATIENCE)?;
                socket::send_fds(to, &parts, &fds)
            }
            sent => sent,
        }
    });
    fs::close(theirs);
    fs::close(bundle);
    if let Err(errno) = header {
        fs::close(answers);
        return Err(errno);
    }
    Ok(answers)
}

/// What came of a request to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing has been started.
    Cold,
    /// Nothing has been started; it can be, by who serves its terminal.
    Terminal,
    /// Nothing has been started; parts come next.
    Parts,
    /// Nothing has been started; there may be parts for who asks for them.
    Unknown,
    /// The container has ended: the exit code.
    Ended(i32),
    /// It has ended after the pool: the exit code. Nobody has removed it.
    Orphan(i32),
    /// The pool ended before the container, whose status nobody knows.
    Lost,
}

/// The most bytes of an answer.
pub const ANSWER: usize = 4096;

/// A container's id, or a part of one that is too long.
#[derive(Debug, Clone, Copy)]
pub struct Id {
    bytes: [u8; 256],
    length: usize,
}

impl Id {
    /// None.
    pub const fn new() -> Self {
        Self { bytes: [0; 256], length: 0 }
    }

    fn set(&mut self, id: &[u8]) {
        self.length = id.len().min(self.bytes.len());
        let (place, _) = self.bytes.split_at_mut(self.length);
        place.copy_from_slice(id.split_at(self.length).0);
    }

    /// Its bytes; none if there is none.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Default for Id {
    fn default() -> Self {
        Self::new()
    }
}

/// Waits for the container to end, and passes on to it every signal that comes meanwhile; all must be blocked. `pidfd` is
/// its init's, if the answer that brings it has been received, and -1 otherwise.
///
/// The container's id is put into `id`; `text` is room for answers.
pub fn follow(answers: RawFd, mut pidfd: RawFd, id: &mut Id, text: &mut [u8; ANSWER]) -> Outcome {
    let Ok(signals) = signalfd::open(u64::MAX) else { return Outcome::Lost };
    let mut is_hung_up = false;
    // The last signal that was passed on.
    let mut passed = None;
    let outcome = loop {
        let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // A signal that comes before there is a container stays pending: for the container, or for a cold start.
        let mut fds = [watch(answers), watch(if pidfd < 0 { -1 } else { signals })];
        let patience = (pidfd < 0 && !is_hung_up).then_some(PATIENCE);
        match retry(|| poll(&mut fds, patience)) {
            Ok(0) => {
                // What has been answered by now counts, and nothing else: the pool cannot answer any more.
                socket::hang_up(answers);
                is_hung_up = true;
                continue;
            }
            Err(_) => break Outcome::Lost,
            Ok(_) => {}
        }
        if fds[1].revents != 0
            && let Ok(signal) = signalfd::next(signals)
        {
            passed = pass_on(signal, pidfd).or(passed);
        }
        if fds[0].revents == 0 {
            continue;
        }
        match socket::receive_fd(answers, text) {
            Ok((count, fd)) if count > 0 => match (text[0], fd) {
                (answer::STARTED, Some(fd)) => {
                    pidfd = fd;
                    id.set(text.get(5..count).unwrap_or_default());
                }
                (answer::TERMINAL, _) => break Outcome::Terminal,
                (answer::PARTS, _) => break Outcome::Parts,
                (answer::UNKNOWN, _) => break Outcome::Unknown,
                _ => break ended(text, count),
            },
            _ if pidfd >= 0 => break wait_alone(pidfd, signals),
            _ => break Outcome::Cold,
        }
    };
    fs::close(signals);
    if pidfd >= 0 {
        fs::close(pidfd);
    }
    // It was for what has not begun after all, and may be what ended it: it is pending again, for the cold start.
    if let (Outcome::Cold, Some(signal)) = (outcome, passed) {
        let _ = process::kill(process::getpid(), signal);
    }
    outcome
}

/// Whether there is an answer, or the end of all answers, as soon as one can expect.
pub fn is_told(answers: RawFd) -> bool {
    is_told_within(answers, PATIENCE)
}

/// Whether there is an answer, or the end of all answers, within this time.
pub fn is_told_within(answers: RawFd, patience: Duration) -> bool {
    process::is_readable(answers, patience) != Ok(false)
}

/// What `news` says of the end of a container, if anything: it is the socket on which the answers come, and once the pool has
/// gone, `pidfd`.
pub fn end(news: &mut RawFd, pidfd: RawFd) -> Option<Outcome> {
    if *news == pidfd {
        return Some(exit_status(pidfd).map_or(Outcome::Lost, Outcome::Orphan));
    }
    let mut text = [0u8; ANSWER];
    match socket::receive_fd(*news, &mut text) {
        Ok((count, _)) if count > 0 => Some(ended(&text, count)),
        _ => {
            *news = pidfd;
            None
        }
    }
}

/// What an answer of `count` bytes says of the end.
fn ended(text: &[u8; ANSWER], count: usize) -> Outcome {
    if text[0] != answer::EXITED {
        return Outcome::Cold;
    }
    let _ = fs::write(libc::STDERR_FILENO, text.get(5..count).unwrap_or_default());
    Outcome::Ended(i32::from_ne_bytes([text[1], text[2], text[3], text[4]]))
}

/// The signal, if it is one that is passed on.
fn pass_on(signal: i32, pidfd: RawFd) -> Option<i32> {
    // What the kernel sends for our own descriptors, our own terminal among them, is not the container's. One that just ended is found
    // out by the answer.
    if pidfd < 0 || matches!(signal, libc::SIGPIPE | libc::SIGURG | libc::SIGCHLD | libc::SIGWINCH) {
        return None;
    }
    let _ = process::pidfd_send_signal(pidfd, signal);
    Some(signal)
}

/// The pool is gone, the container is not.
fn wait_alone(pidfd: RawFd, signals: RawFd) -> Outcome {
    loop {
        let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [watch(pidfd), watch(signals)];
        if retry(|| poll(&mut fds, None)).is_err() {
            return Outcome::Lost;
        }
        if fds[0].revents != 0 {
            return exit_status(pidfd).map_or(Outcome::Lost, Outcome::Orphan);
        }
        if let Ok(signal) = signalfd::next(signals) {
            pass_on(signal, pidfd);
        }
    }
}

/// The exit code of a process that has ended, and that somebody else waits for (`PIDFD_INFO_EXIT`, Linux 6.15).
///
/// # Errors
/// ENODATA if nobody has waited for it so soon, ENOTTY or EINVAL on older kernels.
pub fn exit_status(pidfd: RawFd) -> Sys<i32> {
    /// How long whoever has inherited it may take to wait for it.
    const PATIENCE: Duration = Duration::from_secs(10);
    match reaped_status(pidfd) {
        Err(Errno::ENODATA) => {
            // It hangs up when somebody has.
            let mut fds = [libc::pollfd { fd: pidfd, events: 0, revents: 0 }];
            retry(|| poll(&mut fds, Some(PATIENCE)))?;
            reaped_status(pidfd)
        }
        status => status,
    }
}

fn reaped_status(pidfd: RawFd) -> Sys<i32> {
    #[repr(C)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const INFO_EXIT: u64 = 1 << 3;
    // _IOWR(0xff, 11, struct pidfd_info), include/uapi/linux/pidfd.h
    const PIDFD_GET_INFO: u32 = 0xC040_FF0B;
    // SAFETY: plain numbers.
    let mut info: Info = unsafe { mem::zeroed() };
    info.mask = INFO_EXIT;
    // SAFETY: the kernel fills the structure, whose size is part of the number.
    unsafe { call!(libc::SYS_ioctl, pidfd, PIDFD_GET_INFO, &raw mut info) }?;
    let code = info.exit_code;
    match info.mask & INFO_EXIT {
        0 => Err(Errno::ENODATA),
        _ if libc::WIFSIGNALED(code) => Ok(128 + libc::WTERMSIG(code)),
        _ => Ok(libc::WEXITSTATUS(code)),
    }
}
