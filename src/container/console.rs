//! The terminal of a container that runs in the foreground: bytes to and fro, sizes, signals.

use crate::error::{Doing, Error, Result};
use crate::log;
use crate::sys::clone::Child;
use crate::sys::process::{self, Exit};
use crate::sys::{fs, own, signalfd};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::sys::termios::{self, OutputFlags, SetArg, Termios};
use oci_spec::runtime::{BoxBuilder, Process};
use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Our own terminal in raw mode but for the processing of output, put back when dropped.
///
/// The container's terminal leaves line ends alone, so that they reach a pipe as the program wrote them; ours makes them
/// what its screen needs.
struct Raw {
    before: Option<Termios>,
}

impl Raw {
    /// Puts stdin into raw mode if it is a terminal. If it is not, what is typed is not for the container, and Ctrl-C still a signal.
    fn new() -> Self {
        let mut raw = Self { before: None };
        raw.enter();
        raw
    }

    /// Does that, unless another job of the shell's has the terminal: then it is that one's, and this is to be called again.
    fn enter(&mut self) {
        if fs::is_in_background(libc::STDIN_FILENO) {
            return;
        }
        self.before = termios::tcgetattr(std::io::stdin()).ok();
        if let Some(before) = &self.before {
            let mut raw = before.clone();
            termios::cfmakeraw(&mut raw);
            raw.output_flags |= OutputFlags::OPOST;
            let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw);
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && !fs::is_in_background(libc::STDIN_FILENO)
        {
            let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// Serves the terminal until init has ended and everything it wrote has been passed on; who is to read that is waited for until a
/// signal that programs are ended with. Neither end being slow holds up the other, signals or the end. All signals must be blocked.
///
/// # Errors
/// What the kernel refuses.
pub(super) fn serve(child: Child, terminal: &OwnedFd) -> Result<Exit> {
    relay(terminal, child.pidfd, -1, |_| process::wait(child.pid, libc::WNOHANG).doing(|| "wait for the container"))
}

/// As [`serve`], for an init that may be somebody else's child. Whenever there is a SIGCHLD, or `news` is readable, `ended` says
/// how init has ended, if it has; it may look out for something else from then on. `news` is -1 if SIGCHLD is enough.
///
/// # Errors
/// What the kernel refuses, and what `ended` returns.
pub fn relay<T>(
    terminal: &OwnedFd,
    pidfd: RawFd,
    mut news: RawFd,
    mut ended: impl FnMut(&mut RawFd) -> Result<Option<T>>,
) -> Result<T> {
    let signals = own(signalfd::open(u64::MAX).doing(|| "make a descriptor for signals")?);
    // It is ours alone.
    fcntl(terminal, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).doing(|| "have the terminal not block")?;
    // While this is open too nothing ends because the program has its terminal closed, as an init has between two uses of it.
    let mut other_side = fs::terminal_peer(terminal.as_raw_fd()).map(own).ok();
    let mut raw = Raw::new();
    resize(terminal);
    let (stdin, stdout) = (End::of(libc::STDIN_FILENO, libc::O_RDONLY), End::of(libc::STDOUT_FILENO, libc::O_WRONLY));
    let mut input = Flow::new(stdin.fd(), terminal.as_raw_fd()).of_ours();
    let mut output = Flow::new(terminal.as_raw_fd(), stdout.fd());
    let exit = loop {
        let readable = |fd| watch(fd, libc::POLLIN);
        let was_in_background = input.is_in_background;
        let mut fds = [readable(signals.as_raw_fd()), readable(news), output.awaited(), input.awaited()];
        if was_in_background && !input.is_in_background {
            raw.enter();
            resize(terminal);
        }
        match process::poll(&mut fds, input.pause()) {
            Err(Errno::EINTR) => continue,
            result => result.doing(|| "wait for the terminal")?,
        };
        let [signal, told, goes_out, goes_in] = fds.map(|fd| fd.revents);
        output.go_on(goes_out);
        input.go_on(goes_in);
        if output.is_refused() && other_side.take().is_some() {
            hang_up(terminal)?;
            input.close();
        }
        if ((signal != 0 && handle_signal(pidfd, terminal, &signals)?) || told != 0)
            && let Some(exit) = ended(&mut news)?
        {
            break exit;
        }
    };
    // What has not been read of the input by now never will be.
    drain([&mut output], signals.as_raw_fd(), asks_to_end);
    drop(raw);
    output.loss().into_iter().for_each(|errno| log::warn(lost("stdout", errno)));
    Ok(exit)
}

/// What there is to say of output that could not be passed on.
pub(super) fn lost(stream: &str, errno: Errno) -> Error {
    Error::system(format!("write to {stream} what the container says there, of which the rest is lost"), errno)
}

/// Hangs the terminal up: who would wait for room in it for ever, because nobody takes what is written there any more, ends as
/// with a terminal whose window is closed (termios(3), SIGHUP). The descriptor stays, of nothing.
fn hang_up(terminal: &OwnedFd) -> Result<()> {
    let doing = || "hang the terminal up";
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).doing(doing)?;
    fs::dup_onto(null.as_raw_fd(), terminal.as_raw_fd()).doing(doing)?;
    fs::set_cloexec(terminal.as_raw_fd(), true).doing(doing)
}

/// Passes on what is left in the terminal of a process that has ended. All signals must be blocked.
pub(super) fn drain_terminal(terminal: &OwnedFd) {
    if let Ok(signals) = signalfd::open(u64::MAX).map(own) {
        let stdout = End::of(libc::STDOUT_FILENO, libc::O_WRONLY);
        drain([&mut Flow::new(terminal.as_raw_fd(), stdout.fd())], signals.as_raw_fd(), asks_to_end);
    }
}

/// Passes on what is there, and no more than there can be at this moment, for who writes may go on for ever. More is not waited for; who is
/// to take it is, until `asks` says that what there is to read of `news` asks to end.
pub(super) fn drain<'a>(flows: impl IntoIterator<Item = &'a mut Flow>, mut news: RawFd, asks: impl Fn(RawFd) -> bool) {
    /// What a pipe holds at most, but root's, and a terminal, which holds less (pipe(7); Linux, drivers/tty/tty_buffer.c).
    const HELD: usize = 1 << 20;
    for flow in flows {
        let mut left = fs::waiting(flow.from.fd).max(HELD);
        while flow.is_open && (left > 0 || !flow.pending.is_empty()) {
            let is_patient = news >= 0 && !flow.pending.is_empty();
            let mut fds = [watch(news, libc::POLLIN), flow.awaited()];
            match process::poll(&mut fds, (!is_patient).then_some(Duration::ZERO)) {
                Err(Errno::EINTR) => continue,
                Ok(0) | Err(_) => {
                    // Nobody waits for who is to take it any more.
                    flow.refusal = (!flow.pending.is_empty()).then_some(Errno::EINTR);
                    break;
                }
                Ok(_) => {}
            }
            let [told, goes_on] = fds.map(|fd| fd.revents);
            let reads = flow.pending.is_empty();
            flow.go_on(goes_on);
            if reads {
                left = left.saturating_sub(flow.pending.len());
            }
            if told != 0 && asks(news) {
                news = -1;
            }
        }
    }
}

/// What is passed on at a time: a pipe that polls as writable has room for so much (pipe(7), `PIPE_BUF`).
const PIECE: usize = 4096;

/// How long to wait before looking again whether a terminal that another job has is ours to read from: nothing tells.
const PAUSE: Duration = Duration::from_millis(200);

/// Bytes on their way in one direction. Nothing is read before all that was read has been written: who is slow at one end
/// is waited for at the other, and only there.
pub(super) struct Flow {
    from: Side,
    to: Side,
    buffer: Vec<u8>,
    /// What of `buffer` is to be written.
    pending: Range<usize>,
    /// False once `from` has ended, or `to` takes no more.
    is_open: bool,
    /// Why `to` takes no more.
    refusal: Option<Errno>,
    /// Whether it comes from our own stdin.
    is_ours: bool,
    /// Whether that is a terminal that another job reads from.
    is_in_background: bool,
}

/// One end of a flow.
#[derive(Clone, Copy)]
struct Side {
    fd: RawFd,
    /// Of which it can be said for each call whether it may block.
    is_socket: bool,
    /// A device that is no terminal: it need not poll as ready to be written to, as /dev/kmsg never does.
    is_device: bool,
}

impl Side {
    fn of(fd: RawFd) -> Self {
        let kind = fs::stat(fd).map_or(0, |status| status.st_mode & libc::S_IFMT);
        let is_device = kind == libc::S_IFCHR && !fs::is_terminal(fd);
        Self { fd, is_socket: kind == libc::S_IFSOCK, is_device }
    }

    fn read(self, buffer: &mut [u8]) -> Result<usize, Errno> {
        if self.is_socket { fs::receive_now(self.fd, buffer) } else { fs::read(self.fd, buffer) }
    }

    fn write(self, data: &[u8]) -> Result<usize, Errno> {
        if self.is_socket { fs::send_now(self.fd, data) } else { fs::write_some(self.fd, data) }
    }
}

impl Flow {
    pub fn new(from: RawFd, to: RawFd) -> Self {
        Self {
            from: Side::of(from),
            to: Side::of(to),
            buffer: vec![0; PIECE],
            pending: 0..0,
            is_open: true,
            refusal: None,
            is_ours: false,
            is_in_background: false,
        }
    }

    /// The same from our own stdin, which may be the terminal of a shell that has put us into the background.
    pub fn of_ours(mut self) -> Self {
        self.is_ours = true;
        self.is_in_background = fs::is_in_background(self.from.fd);
        self
    }

    /// What is to be polled until it can go on.
    pub fn awaited(&mut self) -> libc::pollfd {
        if self.is_in_background {
            self.is_in_background = fs::is_in_background(self.from.fd);
        }
        match (self.is_open && !self.is_in_background, self.pending.is_empty()) {
            (true, true) => watch(self.from.fd, libc::POLLIN),
            (true, false) => watch(self.to.fd, libc::POLLOUT),
            (false, _) => watch(-1, 0),
        }
    }

    /// How long until that is to be asked again even if nothing comes.
    pub fn pause(&self) -> Option<Duration> {
        (self.is_open && self.is_in_background).then_some(PAUSE)
    }

    /// Whether more may come.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Ends it.
    fn close(&mut self) {
        self.is_open = false;
    }

    /// Whether who is to take what was read takes no more.
    fn is_refused(&self) -> bool {
        !self.is_open && !self.pending.is_empty()
    }

    /// Why something was lost, if it was, unless that nobody wanted it any more.
    pub fn loss(&self) -> Option<Errno> {
        self.refusal.filter(|errno| !matches!(errno, Errno::EPIPE | Errno::ECONNRESET))
    }

    /// Reads or writes once if what was awaited has come, which `events` says (poll(2)).
    pub fn go_on(&mut self, events: i16) {
        if events == 0 {
            return;
        }
        if self.pending.is_empty() {
            self.read(events);
            while self.to.is_device && self.is_open && !self.pending.is_empty() && self.write(events) {}
        } else {
            self.write(events);
        }
    }

    fn read(&mut self, events: i16) {
        self.is_open = match self.from.read(&mut self.buffer) {
            Ok(count) => {
                self.pending = 0..count;
                count > 0
            }
            Err(Errno::EAGAIN) => may_go_on(events),
            // A shell's other job has the terminal now.
            Err(Errno::EIO) if self.is_ours && fs::is_in_background(self.from.fd) => {
                self.is_in_background = true;
                true
            }
            // EIO of a terminal's master: nobody has the other side open any more.
            Err(_) => false,
        };
    }

    /// Whether it has written something.
    fn write(&mut self, events: i16) -> bool {
        let mut piece = self.buffer.get(self.pending.clone()).unwrap_or_default();
        if self.to.is_device {
            piece = record(piece);
        }
        let written = self.to.write(piece);
        self.is_open = match written {
            Ok(count) => {
                self.pending.start += count;
                count > 0
            }
            Err(Errno::EAGAIN) => may_go_on(events),
            Err(errno) => {
                self.refusal = Some(errno);
                false
            }
        };
        written.is_ok()
    }
}

/// Whether to wait on after `EAGAIN`: somebody else was faster, unless it does not poll as ready at all: a full terminal that nobody has
/// open any more.
fn may_go_on(events: i16) -> bool {
    events & (libc::POLLIN | libc::POLLOUT) != 0
}

/// What of `text` is written to a device at once: each write to /dev/kmsg is a record, of whole lines if they are short, and no longer
/// than the kernel takes (Linux, kernel/printk/printk.c, `devkmsg_write`).
fn record(text: &[u8]) -> &[u8] {
    const LONGEST: usize = 900;
    let short = text.get(..LONGEST).unwrap_or(text);
    let end = short.iter().rposition(|byte| *byte == b'\n').map_or(short.len(), |last| last + 1);
    short.get(..end).unwrap_or(short)
}

pub(super) fn watch(fd: RawFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

/// Stdin or stdout.
pub(super) enum End {
    /// Opened anew: what we were given may be open elsewhere, where it may have to block.
    Own(OwnedFd),
    Given(RawFd),
}

impl End {
    /// The stream `fd`, so that it does not block if that can be had. Of files it cannot, nor has it to be; of sockets each call says
    /// so; and what belongs to others is trusted to take a [`PIECE`] if it polls as writable.
    pub fn of(fd: RawFd, mode: i32) -> Self {
        let opened = is_pipe_or_terminal(fd).then(|| {
            let name = fs::link_of(fd);
            let name = CStr::from_bytes_until_nul(&name).map_err(|_| Errno::EINVAL)?;
            fs::open(fs::CWD, name, mode | libc::O_NONBLOCK | libc::O_NOCTTY, 0)
        });
        match opened {
            Some(Ok(opened)) => Self::Own(own(opened)),
            _ => Self::Given(fd),
        }
    }

    pub fn fd(&self) -> RawFd {
        match self {
            Self::Own(fd) => fd.as_raw_fd(),
            Self::Given(fd) => *fd,
        }
    }
}

/// Whether to open `fd` once more is to get the same once more. Of the master of a terminal that would make another one.
fn is_pipe_or_terminal(fd: RawFd) -> bool {
    /// /dev/ptmx (Documentation/admin-guide/devices.txt).
    const MASTER: u64 = libc::makedev(5, 2);
    fs::stat(fd).is_ok_and(|status| match status.st_mode & libc::S_IFMT {
        libc::S_IFIFO => true,
        libc::S_IFCHR => status.st_rdev != MASTER && fs::is_terminal(fd),
        _ => false,
    })
}

/// Whether the next signal is one of those that programs are ended with. One that cannot be read counts as such.
pub(super) fn asks_to_end(signals: RawFd) -> bool {
    signalfd::next(signals)
        .map_or(true, |signal| matches!(signal, libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM))
}

/// Whether a child has ended.
fn handle_signal(pidfd: RawFd, terminal: &OwnedFd, signals: &OwnedFd) -> Result<bool> {
    match signalfd::next(signals.as_raw_fd()).doing(|| "read a signal")? {
        libc::SIGCHLD => return Ok(true),
        libc::SIGWINCH => resize(terminal),
        libc::SIGPIPE | libc::SIGURG => {}
        signal => {
            // An init that just ended is found out by its SIGCHLD.
            let _ = process::pidfd_send_signal(pidfd, signal);
        }
    }
    Ok(false)
}

/// Gives the container's terminal the size of ours, if we have one.
fn resize(terminal: &OwnedFd) {
    if let Some((rows, columns)) = own_size() {
        // A terminal without a size is still a terminal.
        let _ = fs::set_terminal_size(terminal.as_raw_fd(), rows, columns);
    }
}

/// In the foreground a terminal has the size of ours from the beginning, if nobody says another; later changes are passed on.
pub(super) fn give_own_size(process: &mut Process) {
    if process.terminal().unwrap_or(false)
        && process.console_size().is_none()
        && let Some((rows, columns)) = own_size()
    {
        process.set_console_size(BoxBuilder::default().height(rows).width(columns).build().ok());
    }
}

/// The size of our terminal: rows, columns. Any of our standard streams may be redirected; it is asked for in runc's order.
fn own_size() -> Option<(u16, u16)> {
    [libc::STDERR_FILENO, libc::STDOUT_FILENO, libc::STDIN_FILENO].into_iter().find_map(fs::terminal_size)
}
