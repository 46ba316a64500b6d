//! What a process is: ids, capabilities, limits, scheduling, namespaces, exec.

use super::fs::{Sys, retry};
use super::raw::call;
use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Enters the namespace(s) that `fd` refers to (setns(2)); `kinds` is a set of `CLONE_NEW*`.
pub fn setns(fd: RawFd, kinds: i32) -> Sys {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_setns, fd, kinds) }.map(drop)
}

/// The kind of the namespace that `fd` refers to, as its `CLONE_NEW*` (ioctl_ns(2), NS_GET_NSTYPE).
pub fn namespace_kind(fd: RawFd) -> Sys<i32> {
    const NS_GET_NSTYPE: u32 = 0xb703;
    // SAFETY: the request takes no argument.
    unsafe { call!(libc::SYS_ioctl, fd, NS_GET_NSTYPE) }.map(|kind| kind as i32)
}

/// The user namespace that the namespace `fd` belongs to, `O_CLOEXEC` (ioctl_ns(2), NS_GET_USERNS).
pub fn owning_user_namespace(fd: RawFd) -> Sys<RawFd> {
    const NS_GET_USERNS: u32 = 0xb701;
    // SAFETY: the request takes no argument.
    unsafe { call!(libc::SYS_ioctl, fd, NS_GET_USERNS) }.map(|fd| fd as RawFd)
}

/// The mount namespace of the process that `pidfd` refers to, `O_CLOEXEC` (PIDFD_GET_MNT_NAMESPACE, Linux 6.11).
pub fn mount_namespace(pidfd: RawFd) -> Sys<RawFd> {
    const PIDFD_GET_MNT_NAMESPACE: u32 = 0xff03;
    // SAFETY: the request takes no argument.
    unsafe { call!(libc::SYS_ioctl, pidfd, PIDFD_GET_MNT_NAMESPACE, 0) }.map(|fd| fd as RawFd)
}

/// The IPC namespace of the process that `pidfd` refers to, `O_CLOEXEC` (PIDFD_GET_IPC_NAMESPACE, Linux 6.11).
pub fn ipc_namespace(pidfd: RawFd) -> Sys<RawFd> {
    const PIDFD_GET_IPC_NAMESPACE: u32 = 0xff02;
    // SAFETY: the request takes no argument.
    unsafe { call!(libc::SYS_ioctl, pidfd, PIDFD_GET_IPC_NAMESPACE, 0) }.map(|fd| fd as RawFd)
}

/// The user namespace of the process that `pidfd` refers to, `O_CLOEXEC` (PIDFD_GET_USER_NAMESPACE, Linux 6.11).
pub fn user_namespace(pidfd: RawFd) -> Sys<RawFd> {
    const PIDFD_GET_USER_NAMESPACE: u32 = 0xff09;
    // SAFETY: the request takes no argument.
    unsafe { call!(libc::SYS_ioctl, pidfd, PIDFD_GET_USER_NAMESPACE, 0) }.map(|fd| fd as RawFd)
}

/// Leaves the namespaces in `kinds` for new ones (unshare(2)).
pub fn unshare(kinds: i32) -> Sys {
    // SAFETY: the callers run on a stack of their own; nothing of the memory is unshared.
    unsafe { call!(libc::SYS_unshare, kinds) }.map(drop)
}

/// Waits until `word` is no longer `value`, for ten seconds at most (futex(2), FUTEX_WAIT).
///
/// # Errors
/// ETIMEDOUT.
pub fn wait_while(word: &AtomicU32, value: u32) -> Sys {
    let time = libc::timespec { tv_sec: 10, tv_nsec: 0 };
    while word.load(Ordering::Acquire) == value {
        // SAFETY: the kernel reads the word and the timeout, which outlive the call.
        let waited = unsafe { call!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const time) };
        // Others mean that it has changed already (EAGAIN) or that one has to look again (EINTR).
        if waited == Err(Errno::ETIMEDOUT) {
            return Err(Errno::ETIMEDOUT);
        }
    }
    Ok(())
}

/// Sets `word` to `value` and wakes whoever waits for that (futex(2), FUTEX_WAKE).
pub fn set_and_wake(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    // SAFETY: only the address is used.
    let _ = unsafe { call!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// Starts a session (setsid(2)).
pub fn setsid() -> Sys {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_setsid) }.map(drop)
}

/// Sets the host name (sethostname(2)).
pub fn sethostname(name: &[u8]) -> Sys {
    // SAFETY: the kernel reads name.len() bytes.
    unsafe { call!(libc::SYS_sethostname, name.as_ptr(), name.len()) }.map(drop)
}

/// Sets the NIS domain name (setdomainname(2)).
pub fn setdomainname(name: &[u8]) -> Sys {
    // SAFETY: the kernel reads name.len() bytes.
    unsafe { call!(libc::SYS_setdomainname, name.as_ptr(), name.len()) }.map(drop)
}

/// prctl(2) with integer arguments.
pub fn prctl(option: i32, args: [usize; 4]) -> Sys<usize> {
    // SAFETY: the options used take integers.
    unsafe { call!(libc::SYS_prctl, option, args[0], args[1], args[2], args[3]) }
}

/// Whether the capability of this number is in this process's bounding set (capabilities(7)); EINVAL if the kernel does not know it.
pub fn is_in_bounding_set(capability: usize) -> Sys<bool> {
    prctl(libc::PR_CAPBSET_READ, [capability, 0, 0, 0]).map(|is| is == 1)
}

/// Sets real, effective and saved user id of this process, without libc's all-threads protocol (setresuid(2)).
pub fn setuid(uid: u32) -> Sys {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_setresuid, uid, uid, uid) }.map(drop)
}

/// Sets real, effective and saved group id of this process (setresgid(2)).
pub fn setgid(gid: u32) -> Sys {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_setresgid, gid, gid, gid) }.map(drop)
}

/// Sets the supplementary groups (setgroups(2)).
pub fn setgroups(groups: &[u32]) -> Sys {
    // SAFETY: the kernel reads groups.len() ids.
    unsafe { call!(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }.map(drop)
}

/// Sets the capability sets of this thread (capset(2)).
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Sys {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    /// _LINUX_CAPABILITY_VERSION_3
    const VERSION: u32 = 0x2008_0522;
    let header = Header { version: VERSION, pid: 0 };
    let data = [0, 32].map(|shift| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    });
    // SAFETY: version 3 takes one header and two data records.
    unsafe { call!(libc::SYS_capset, &raw const header, data.as_ptr()) }.map(drop)
}

/// The capability sets of this thread: effective, permitted, inheritable (capget(2)).
pub fn capget() -> Sys<(u64, u64, u64)> {
    capget_of(0)
}

/// The capability sets of the process `pid`, 0 for this one, as they are in its own user namespace.
pub fn capget_of(pid: i32) -> Sys<(u64, u64, u64)> {
    let header = [0x2008_0522u32, pid.cast_unsigned()];
    let mut data = [0u32; 6];
    // SAFETY: version 3 takes one header and fills two records of three words.
    unsafe { call!(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) }?;
    let [e0, p0, i0, e1, p1, i1] = data.map(u64::from);
    Ok((e0 | e1 << 32, p0 | p1 << 32, i0 | i1 << 32))
}

/// `RLIMIT_NOFILE`, whose type differs between C libraries.
pub const NOFILE: u32 = libc::RLIMIT_NOFILE as _;

/// Sets a resource limit of the process `pid` (prlimit(2)).
pub fn set_limit_of(pid: i32, resource: u32, soft: u64, hard: u64) -> Sys {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads one struct rlimit64; no old value is asked for.
    unsafe { call!(libc::SYS_prlimit64, pid, resource, &raw const limit, ptr::null::<u8>()) }.map(drop)
}

/// Sets a resource limit of this process (prlimit(2)).
pub fn setrlimit(resource: u32, soft: u64, hard: u64) -> Sys {
    set_limit_of(0, resource, soft, hard)
}

/// Reads a resource limit of this process (prlimit(2)): soft and hard.
fn limit(resource: u32) -> Sys<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills one struct rlimit64; no new value is given.
    unsafe { call!(libc::SYS_prlimit64, 0, resource, ptr::null::<u8>(), &raw mut limit) }?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// `RLIMIT_NOFILE` as it was before [`raise_open_files`], if that has changed anything.
static OPEN_FILES: OnceLock<(u64, u64)> = OnceLock::new();

/// Raises the soft `RLIMIT_NOFILE` of this process to the hard one, for as long as it lives: for one that serves many
/// containers. Other programs are to have [the old one](open_files_of_others): select(2) of theirs may know no more than
/// 1024 (systemd.exec(5), "LimitNOFILE=").
pub fn raise_open_files() -> Sys {
    let (soft, hard) = limit(NOFILE)?;
    if soft < hard {
        setrlimit(NOFILE, hard, hard)?;
        // It is called once.
        let _ = OPEN_FILES.set((soft, hard));
    }
    Ok(())
}

/// The `RLIMIT_NOFILE` that a program has to be given, soft and hard, unless it is what this process has.
pub fn open_files_of_others() -> Option<(u64, u64)> {
    OPEN_FILES.get().copied()
}

/// Takes [`raise_open_files`] back in a child that is about to execute a program, where nothing else was set since.
pub fn give_back_open_files() -> Sys {
    match open_files_of_others() {
        Some((soft, hard)) if limit(NOFILE)? == (hard, hard) => setrlimit(NOFILE, soft, hard),
        _ => Ok(()),
    }
}

/// Sets the execution domain (personality(2)).
pub fn personality(domain: u64) -> Sys {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_personality, domain) }.map(drop)
}

/// The kernel's struct sched_attr (sched_setattr(2)), as far as it is used.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// The size of this struct in bytes.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// `SCHED_DEADLINE`, and since Linux 6.12 for how long others of `SCHED_OTHER` may wait: nanoseconds; 0 for the usual.
    pub runtime: u64,
    /// `SCHED_DEADLINE`: nanoseconds.
    pub deadline: u64,
    /// `SCHED_DEADLINE`: nanoseconds.
    pub period: u64,
    /// With `SCHED_FLAG_UTIL_CLAMP_MIN`, which the kernel (5.3) refuses without it: 0 to 1024, of a CPU.
    pub util_min: u32,
    /// With `SCHED_FLAG_UTIL_CLAMP_MAX`, likewise.
    pub util_max: u32,
}

/// Sets the scheduling policy of this thread (sched_setattr(2)).
pub fn sched_setattr(attributes: &SchedAttr) -> Sys {
    // SAFETY: the kernel reads attributes.size bytes, which is the struct's size.
    unsafe { call!(libc::SYS_sched_setattr, 0, ptr::from_ref(attributes), 0) }.map(drop)
}

/// The scheduling policy of this thread (sched_getattr(2)).
pub fn sched_getattr() -> Sys<SchedAttr> {
    let mut attributes = SchedAttr::default();
    // SAFETY: the kernel writes at most as many bytes as it is told there are.
    unsafe { call!(libc::SYS_sched_getattr, 0, ptr::from_mut(&mut attributes), size_of::<SchedAttr>(), 0) }?;
    Ok(attributes)
}

/// Whether this program was executed by a descriptor and not by a name (execveat(2), `AT_EMPTY_PATH`), as one that executes itself again is.
pub fn was_executed_by_descriptor() -> bool {
    // SAFETY: it takes nothing.
    let name = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const std::ffi::c_char;
    // SAFETY: the kernel puts a string there that ends with a null and stays (getauxval(3)).
    !name.is_null() && unsafe { CStr::from_ptr(name) }.to_bytes().starts_with(b"/dev/fd/")
}

/// Sets the I/O class and priority of this thread (ioprio_set(2)), `value` as IOPRIO_PRIO_VALUE makes it.
pub fn ioprio_set(value: i32) -> Sys {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }.map(drop)
}

/// Sets the NUMA memory policy of this thread (set_mempolicy(2)).
pub fn set_mempolicy(mode: i32, nodes: &[u64]) -> Sys {
    let (mask, bits) = if nodes.is_empty() { (ptr::null(), 0) } else { (nodes.as_ptr(), size_of_val(nodes) * 8 + 1) };
    // SAFETY: the kernel reads `bits - 1` bits of the mask.
    unsafe { call!(libc::SYS_set_mempolicy, mode, mask, bits) }.map(drop)
}

/// Joins a new anonymous session keyring (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING) named `name`; its serial number.
pub fn join_session_keyring(name: &CStr) -> Sys<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: name outlives the call.
    unsafe { call!(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) }.map(|serial| serial as i32)
}

/// Lets the possessor search the keyring `serial` and user see it (keyctl(2), KEYCTL_DESCRIBE and KEYCTL_SETPERM).
pub fn set_key_permissions(serial: i32, mask: u32) -> Sys {
    const KEYCTL_SETPERM: i32 = 5;
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_keyctl, KEYCTL_SETPERM, serial, mask) }.map(drop)
}

/// The permission mask of the key `serial`, from its description "type;uid;gid;perm;name" (keyctl(2)).
pub fn key_permissions(serial: i32) -> Sys<u32> {
    const KEYCTL_DESCRIBE: i32 = 6;
    // Its name is made of a container's, which is the name of a directory: at most 255 bytes.
    let mut text = [0u8; 512];
    // SAFETY: the kernel writes at most text.len() bytes.
    let length = unsafe { call!(libc::SYS_keyctl, KEYCTL_DESCRIBE, serial, text.as_mut_ptr(), text.len()) }?;
    let mut fields = text.get(..length).unwrap_or(&text).split(|byte| *byte == b';');
    let mask = fields.nth(3).and_then(|field| str::from_utf8(field).ok());
    mask.and_then(|mask| u32::from_str_radix(mask, 16).ok()).ok_or(Errno::EINVAL)
}

/// Sets the signal mask of this thread to `mask` (bit n-1 is signal n); the old one (rt_sigprocmask(2)).
#[inline(always)] // A sandbox that waits has forgotten the page where this would be (park.rs).
pub fn set_signal_mask(mask: u64) -> Sys<u64> {
    let mut old = 0u64;
    // SAFETY: both sets are one 64-bit word, as the size says.
    unsafe { call!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, &raw mut old, 8) }?;
    Ok(old)
}

/// Gives a signal its default action (rt_sigaction(2)).
pub fn default_signal(signal: i32) {
    act_on(signal, libc::SIG_DFL);
}

/// Gives each signal whose bit is set in `which` (bit n-1 for signal n) its default action.
pub fn default_signals(which: u32) {
    (1..=32).filter(|signal| which >> (signal - 1) & 1 == 1).for_each(default_signal);
}

/// Has signals that the program counts on, or could not say anything about, come as it wants them, whatever its caller has it ignore: SIGCHLD, without which a
/// child cannot be waited for, and SIGXFSZ, which ends a process where a write could fail (setrlimit(2), `RLIMIT_FSIZE`).
pub fn expect_signals() {
    default_signal(libc::SIGCHLD);
    ignore_signal(libc::SIGXFSZ);
}

/// Has a signal do nothing (rt_sigaction(2)).
pub fn ignore_signal(signal: i32) {
    act_on(signal, libc::SIG_IGN);
}

fn act_on(signal: i32, action: libc::sighandler_t) {
    // The kernel's struct sigaction: handler, flags, restorer, mask.
    let action = [action as u64, 0, 0, 0];
    // SAFETY: the kernel reads one struct sigaction.
    let _ = unsafe { call!(libc::SYS_rt_sigaction, signal, action.as_ptr(), ptr::null::<u8>(), 8) };
}

/// This thread's process id in its own pid namespace (getpid(2)).
pub fn getpid() -> i32 {
    // SAFETY: no memory is involved; getpid cannot fail.
    unsafe { call!(libc::SYS_getpid) }.unwrap_or(0) as i32
}

/// 64 random bits of the kernel's (getrandom(2)). Early in a boot it waits until there are some.
pub fn random() -> Sys<u64> {
    let mut bits = [0; 8];
    // SAFETY: the kernel writes as many bytes as there are.
    retry(|| unsafe { call!(libc::SYS_getrandom, &raw mut bits, bits.len(), 0) })?;
    Ok(u64::from_ne_bytes(bits))
}

/// The id of this thread (gettid(2)).
pub fn gettid() -> u32 {
    // SAFETY: no memory is involved; gettid cannot fail.
    unsafe { call!(libc::SYS_gettid) }.unwrap_or(0) as u32
}

/// The process id of who made this process, in its own pid namespace (getppid(2)).
pub fn getppid() -> i32 {
    // SAFETY: no memory is involved; getppid cannot fail.
    unsafe { call!(libc::SYS_getppid) }.unwrap_or(0) as i32
}

/// Sends a signal (kill(2)).
pub fn kill(pid: i32, signal: i32) -> Sys {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_kill, pid, signal) }.map(drop)
}

/// A descriptor for the process `pid` (pidfd_open(2)).
pub fn pidfd_open(pid: i32) -> Sys<RawFd> {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_pidfd_open, pid, 0) }.map(|fd| fd as RawFd)
}

/// Sends a signal to the process that `pidfd` refers to (pidfd_send_signal(2)).
pub fn pidfd_send_signal(pidfd: RawFd, signal: i32) -> Sys {
    // SAFETY: no siginfo is passed.
    unsafe { call!(libc::SYS_pidfd_send_signal, pidfd, signal, ptr::null::<u8>(), 0) }.map(drop)
}

/// A copy of the descriptor `number` of the process that `pidfd` refers to (pidfd_getfd(2)).
pub fn pidfd_getfd(pidfd: RawFd, number: RawFd) -> Sys<RawFd> {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_pidfd_getfd, pidfd, number, 0) }.map(|fd| fd as RawFd)
}

/// Executes `path` (execve(2)); returns only when that failed.
pub fn execve(path: &CStr, argv: &super::shared::Strings, envp: &super::shared::Strings) -> Errno {
    // SAFETY: both lists end with null and their strings live as long as the lists.
    let result = unsafe { call!(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    result.err().unwrap_or(Errno::UnknownErrno)
}

/// Ends this process (exit_group(2)), without exit handlers.
pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: the call does not return.
        let _ = unsafe { call!(libc::SYS_exit_group, code) };
    }
}

/// Executes the file that `fd` holds (execveat(2)); returns only when that failed.
pub fn execute_fd(fd: RawFd, argv: &super::shared::Strings, envp: &super::shared::Strings) -> Errno {
    // SAFETY: both lists end with null and their strings live as long as the lists.
    let result =
        unsafe { call!(libc::SYS_execveat, fd, c"".as_ptr(), argv.as_ptr(), envp.as_ptr(), libc::AT_EMPTY_PATH) };
    result.err().unwrap_or(Errno::UnknownErrno)
}

/// Installs a seccomp filter (seccomp(2), SECCOMP_SET_MODE_FILTER) with `SECCOMP_FILTER_FLAG_*` flags. The answer is
/// the listener's descriptor with SECCOMP_FILTER_FLAG_NEW_LISTENER, 0 otherwise.
pub fn load_seccomp(program: &[libc::sock_filter], flags: u32) -> Sys<usize> {
    const SECCOMP_SET_MODE_FILTER: u32 = 1;
    let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions and keeps its own copy.
    unsafe { call!(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program) }
}

/// Whether this kernel knows `flag` of seccomp(2) (`SECCOMP_FILTER_FLAG_*`). Flags are looked at before the program,
/// which is not there: EFAULT means that they passed.
pub fn knows_seccomp_flag(flag: u32) -> bool {
    const SECCOMP_SET_MODE_FILTER: u32 = 1;
    const WAIT_KILLABLE_RECV: u32 = 1 << 5;
    // This one is refused without a listener.
    let company = if flag == WAIT_KILLABLE_RECV { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 } else { 0 };
    // SAFETY: without a program no filter can be installed.
    let result = unsafe { call!(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flag | company, ptr::null::<u8>()) };
    result == Err(Errno::EFAULT)
}

/// How a child ended, as waitid(2) tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It called exit with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// The status as a shell and runc report it: 128 plus the signal's number for a killed process.
    pub fn status(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A child that has ended and was not waited for yet; it stays so (waitid(2), WNOWAIT).
///
/// # Errors
/// ECHILD without any child.
pub fn ended_child() -> Sys<Option<i32>> {
    ended_child_of(0)
}

/// As [`ended_child`], of this thread's children only: what another thread has started is its own to wait for.
///
/// # Errors
/// As there.
pub fn ended_child_of_this_thread() -> Sys<Option<i32>> {
    ended_child_of(libc::__WNOTHREAD)
}

fn ended_child_of(more: i32) -> Sys<Option<i32>> {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL | more;
    // SAFETY: a zeroed siginfo_t is valid, and the kernel fills one.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one siginfo_t, and no usage.
    retry(|| unsafe { call!(libc::SYS_waitid, libc::P_ALL, 0, &raw mut info, flags, ptr::null::<u8>()) })?;
    // SAFETY: the kernel has filled it, or left the zeroes.
    let pid = unsafe { info.si_pid() };
    Ok((pid != 0).then_some(pid))
}

/// Copies this process, as fork(2) does; the child's pid, or `None` in the child. Only a process with one thread is
/// copied whole.
///
/// # Errors
/// EBUSY in a process that has other threads, and what fork(2) answers.
pub fn fork() -> Sys<Option<i32>> {
    let tasks =
        std::fs::read_dir("/proc/self/task").map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    if tasks.count() != 1 {
        return Err(Errno::EBUSY);
    }
    fork_beside_threads()
}

/// As [`fork`], in a process that may have other threads: the child has none of them. What they have locked stays so: the C
/// library sees to its own (its memory), and of Rust's the child must not want any (that of standard error is one).
///
/// # Errors
/// What fork(2) answers.
pub fn fork_beside_threads() -> Sys<Option<i32>> {
    // SAFETY: it copies the process; a lock that nobody gives back makes the child wait, and no more than that.
    let pid = Errno::result(unsafe { libc::fork() })?;
    Ok((pid != 0).then_some(pid))
}

/// Waits for the child `pid` to end and reaps it (wait4(2)). With `WNOHANG` in `options`, `None` when it still runs.
pub fn wait(pid: i32, options: i32) -> Sys<Option<Exit>> {
    let mut status = 0i32;
    let found = retry(|| {
        // SAFETY: the kernel writes one int.
        unsafe { call!(libc::SYS_wait4, pid, &raw mut status, options | libc::__WALL, ptr::null::<u8>()) }
    })?;
    if found == 0 {
        return Ok(None);
    }
    Ok(Some(if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    }))
}

/// How the child `pid` has ended; it stays to be waited for (waitid(2), WNOWAIT). `None` when it still runs.
///
/// # Errors
/// ECHILD if it is no child, or was waited for.
pub fn how_ended(pid: i32) -> Sys<Option<Exit>> {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: a zeroed siginfo_t is valid, and the kernel fills one.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one siginfo_t, and no usage.
    retry(|| unsafe { call!(libc::SYS_waitid, libc::P_PID, pid, &raw mut info, flags, ptr::null::<u8>()) })?;
    // SAFETY: the kernel has filled it, or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match info.si_code {
        _ if pid == 0 => None,
        libc::CLD_EXITED => Some(Exit::Code(status)),
        _ => Some(Exit::Signal(status)),
    })
}

/// Whether the process `pid` has not executed anything since it was cloned under the name `name` (`PR_SET_NAME`), even if it has
/// ended meanwhile, as long as it has not been waited for. What cannot be found out counts as executed.
///
/// The kernel takes `PF_FORKNOEXEC` (linux/sched.h) away once execve(2) cannot fail any more, before the program's first instruction;
/// proc_pid_stat(5) has it. A thread that executes a program takes over the number of its process and has that flag until then, but
/// not the name.
pub fn is_as_cloned(pid: i32, name: &CStr) -> bool {
    std::fs::read(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_as_cloned_by(&stat, name.to_bytes()))
}

fn is_as_cloned_by(stat: &[u8], name: &[u8]) -> bool {
    name_as_cloned(stat) == Some(name)
}

/// The name of a process that has executed nothing since it was cloned, by what its /proc/PID/stat says.
pub fn name_as_cloned(stat: &[u8]) -> Option<&[u8]> {
    const PF_FORKNOEXEC: u32 = 0x40;
    let open = stat.iter().position(|byte| *byte == b'(');
    let close = stat.iter().rposition(|byte| *byte == b')');
    let (open, close) = open.zip(close)?;
    let rest = str::from_utf8(stat.get(close + 1..)?).ok()?;
    let flags: u32 = rest.split_whitespace().nth(6)?.parse().ok()?;
    stat.get(open + 1..close).filter(|_| flags & PF_FORKNOEXEC != 0)
}

/// The nice value of this thread.
pub fn nice() -> Sys<i32> {
    // SAFETY: it takes numbers. The kernel answers 20 less the value (getpriority(2), "C library/kernel differences").
    unsafe { call!(libc::SYS_getpriority, libc::PRIO_PROCESS, 0) }.map(|answer| 20 - answer as i32)
}

/// Whether two processes have one memory (kcmp(2), `KCMP_VM`); not, where that cannot be told.
fn have_one_memory(pid: i32, other: i32) -> bool {
    const KCMP_VM: i32 = 1;
    // SAFETY: it takes numbers.
    pid == other || unsafe { call!(libc::SYS_kcmp, pid, other, KCMP_VM, 0, 0) } == Ok(0)
}

/// Of processes that have one memory in common, one.
pub fn one_of_each_memory(pids: &[i32]) -> impl Iterator<Item = i32> {
    let is_first = |at: usize, pid: i32| !pids.iter().take(at).any(|other| have_one_memory(pid, *other));
    pids.iter().enumerate().filter(move |(at, pid)| is_first(*at, **pid)).map(|(_, pid)| *pid)
}

/// Overwrites all variables of this process's environment but those with one of these names.
///
/// It is for a process with one thread, early in its life: what a C library keeps of a value by its address is lost.
pub fn forget_environment(kept: &[&str]) {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    let is_kept = |entry: &[u8]| {
        kept.iter().any(|name| entry.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'=')))
    };
    // SAFETY: a list of strings that ends with null; nobody else reads or changes it, and Rust hands out copies of what it finds there.
    unsafe {
        let (mut from, mut to) = (environ, environ);
        while !from.is_null() && !(*from).is_null() {
            let length = libc::strlen(*from);
            if is_kept(std::slice::from_raw_parts((*from).cast(), length)) {
                *to = *from;
                to = to.add(1);
            } else {
                ptr::write_bytes(*from, 0, length);
            }
            from = from.add(1);
        }
        if !to.is_null() {
            *to = ptr::null_mut();
        }
    }
}

/// Names this process (prctl(2), `PR_SET_NAME`): up to 15 bytes.
pub fn set_name(name: &CStr) -> Sys {
    // SAFETY: the kernel reads a string of at most 16 bytes.
    unsafe { call!(libc::SYS_prctl, libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }.map(drop)
}

/// Waits for one of the signals in `mask` (which must be blocked) and takes it (rt_sigtimedwait(2)).
pub fn wait_signal(mask: u64) -> Sys<i32> {
    retry(|| {
        // SAFETY: the set is one 64-bit word; neither siginfo nor timeout are asked for.
        unsafe { call!(libc::SYS_rt_sigtimedwait, &raw const mask, ptr::null::<u8>(), ptr::null::<u8>(), 8) }
    })
    .map(|signal| signal as i32)
}

/// Nanoseconds of the monotonic clock (clock_gettime(2)).
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills one struct timespec; this clock cannot fail.
    let _ = unsafe { call!(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The time since 1970 (clock_gettime(2), CLOCK_REALTIME). By the kernel's call: for one look at a clock, to find the vDSO's function, and the two
/// pages that it takes, is dearer.
pub fn since_epoch() -> Duration {
    // This clock cannot fail.
    clock(libc::CLOCK_REALTIME).unwrap_or_default()
}

/// The CPU time that this thread has used (clock_gettime(2), CLOCK_THREAD_CPUTIME_ID).
pub fn thread_cpu_time() -> Duration {
    // Of a thread that runs there is one.
    clock(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

/// The CPU time that the process `pid` has used (clock_getcpuclockid(3)).
///
/// # Errors
/// EINVAL if there is no such process.
pub fn cpu_time_of(pid: i32) -> Sys<Duration> {
    // CPUCLOCK_SCHED of the process (linux/posix-timers.h).
    clock((!pid << 3) | 2)
}

fn clock(id: i32) -> Sys<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills one struct timespec.
    unsafe { call!(libc::SYS_clock_gettime, id, &raw mut time) }?;
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Has `action` run in the child of `command` between fork and exec.
pub fn before_exec(command: &mut std::process::Command, action: impl Fn() -> Sys + Send + Sync + 'static) {
    use std::os::unix::process::CommandExt;
    // SAFETY: callers pass actions that make raw system calls only, which is all that a forked child may do.
    unsafe {
        command.pre_exec(move || {
            // What the runtime has changed for itself must not stay so in another program.
            let give_back = || set_signal_mask(0).and_then(|_| give_back_open_files());
            give_back().and_then(|()| action()).map_err(|errno| std::io::Error::from_raw_os_error(errno as i32))
        });
    }
}

/// Whether the process of `pidfd` ends within `timeout`; it is not reaped (poll(2)).
pub fn ends_within(pidfd: RawFd, timeout: Duration) -> Sys<bool> {
    let deadline = Duration::from_nanos(now()).saturating_add(timeout);
    loop {
        let left = deadline.saturating_sub(Duration::from_nanos(now()));
        match poll(&mut [libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 }], Some(left)) {
            Err(Errno::EINTR) => {}
            answer => return answer.map(|count| count > 0),
        }
    }
}

/// Whether the process that `pidfd` refers to has ended.
pub fn has_ended(pidfd: RawFd) -> Sys<bool> {
    is_readable(pidfd, Duration::ZERO)
}

/// Whether there is something to be read from `fd`, or the end of it, within `patience` (ppoll(2)). A signal has it begin anew.
pub fn is_readable(fd: RawFd, patience: Duration) -> Sys<bool> {
    let mut fds = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    retry(|| poll(&mut fds, Some(patience))).map(|count| count > 0)
}

/// Waits for one of `fds` (ppoll(2)); how many are ready. Without a timeout it waits for ever.
pub fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> Sys<usize> {
    let time = timeout
        .map(|timeout| libc::timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos().into() });
    let time = time.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the kernel reads the timeout and writes into fds, both of which outlive the call.
    unsafe { call!(libc::SYS_ppoll, fds.as_mut_ptr(), fds.len(), time, ptr::null::<u8>(), 8) }
}

/// What ended a process, in the words of the C library's strsignal(3) but in lower case.
pub fn signal_description(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        libc::SIGXCPU => "cpu time limit exceeded",
        libc::SIGXFSZ => "file size limit exceeded",
        libc::SIGSYS => "bad system call",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_executed_nothing_is_told_by_its_flags_and_name() {
        let stat = b"7 (a) (b) Z 1 7 7 0 -1 4194372 0 0";
        assert!(is_as_cloned_by(stat, b"a) (b"));
        assert!(!is_as_cloned_by(stat, b"a"));
        assert!(!is_as_cloned_by(b"7 (a) Z 1 7 7 0 -1 4194308 0 0", b"a"));
        for broken in [&b""[..], b"7 (a", b"7 (a) Z 1", b"7 )a( Z 1 7 7 0 -1 4194372"] {
            assert!(!is_as_cloned_by(broken, b"a"));
        }
    }

    #[test]
    fn an_end_is_seen_before_it_is_waited_for() {
        for (script, exit) in [("exit 3", Exit::Code(3)), ("kill -9 $$", Exit::Signal(9))] {
            let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pid = child.id().cast_signed();
            let seen = loop {
                if let Some(seen) = how_ended(pid).unwrap() {
                    break seen;
                }
            };
            assert_eq!(seen, exit);
            // It has executed the shell.
            assert!(!is_as_cloned(pid, c"sh"));
            child.wait().unwrap();
            assert_eq!(how_ended(pid), Err(Errno::ECHILD));
        }
    }
}
