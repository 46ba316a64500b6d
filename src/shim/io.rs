//! The stdio of a process: FIFOs of containerd's clients, files, or the pipes of a logger.
//!
//! ```text
//! client ─▶ stdin FIFO ─▶ shim ─▶ pipe ─▶ process ─▶ pipes ─▶ shim ─▶ stdout and stderr FIFO ─▶ client
//! ```
//!
//! The pipes are the process's own: they are given to its user, and through a FIFO of the host's the process would hold
//! a mount of the host. Of each FIFO the shim keeps the other end open as well, so that nothing ends when containerd
//! does.

use super::logger::{Logger, path_of};
use super::reactor::Reactor;
use super::stream::Stream;
use crate::container::prepare::Stdio;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::{fs as sys_fs, own};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, fchown, pipe2};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a client may take to open its end of a FIFO for output.
const CLIENT: Duration = Duration::from_secs(30);
/// Nothing tells when it has.
const TICK: Duration = Duration::from_millis(2);

/// What a client asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Paths {
    /// A FIFO, or nothing.
    pub stdin: String,
    /// A FIFO, a file, `file://PATH`, `binary://PROGRAM?ARGUMENTS`, `binary-v2://` likewise, or nothing.
    pub stdout: String,
    /// The same; nothing with a terminal.
    pub stderr: String,
    /// Whether the process has a terminal instead of pipes.
    pub terminal: bool,
}

/// What it all belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    /// The containerd namespace.
    pub namespace: &'a str,
    /// The container, or the exec.
    pub id: &'a str,
    /// Who may open the pipes again through /proc/self/fd: IoUid and IoGid.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
}

/// What the shim keeps of a process's stdio.
#[derive(Debug, Default)]
pub(super) struct Io {
    /// What the process writes.
    outputs: Vec<Arc<Stream>>,
    input: Option<Arc<Stream>>,
    /// The writing end of stdin's FIFO, until the client says that no more will come.
    stdin: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    /// The process's side of it, until that has ended: it may have its terminal closed between two uses of it.
    other_side: Option<OwnedFd>,
    logger: Option<Logger>,
}

/// The stdio of a process that does not exist yet.
#[derive(Debug)]
pub(super) struct Opened {
    /// What the process gets.
    pub stdio: Stdio,
    io: Io,
    /// With a terminal: where its input comes from, and where its output goes.
    for_terminal: Option<(Option<OwnedFd>, Option<Sink>)>,
}

/// Where output goes.
#[derive(Debug)]
struct Sink {
    fd: OwnedFd,
    keeper: Option<OwnedFd>,
}

/// Opens all of it. A FIFO for output is waited for until somebody reads it: what the process writes must not be lost.
///
/// # Errors
/// A path that cannot be opened, a logger that cannot be started.
pub(super) fn set_up(paths: &Paths, owner: &Owner<'_>) -> Result<Opened> {
    let mut io = Io::default();
    let stdin = if paths.stdin.is_empty() { None } else { Some(open_input(&paths.stdin, &mut io)?) };
    if paths.terminal {
        let out = sink(&paths.stdout, owner, &mut io)?;
        let stdio = Arc::new([null()?, null()?, null()?]);
        return Ok(Opened { stdio, io, for_terminal: Some((stdin, out)) });
    }
    let input = match stdin {
        Some(fifo) => {
            let (theirs, ours) = pipe(owner)?;
            io.input = Some(Stream::new(fifo, not_blocking(ours)?, None));
            theirs
        }
        None => null()?,
    };
    if let Some(logger) = Logger::named(&paths.stdout) {
        let (logger, [stdout, stderr]) = logger.start(owner)?;
        io.logger = Some(logger);
        return Ok(Opened { stdio: Arc::new([input, stdout, stderr]), io, for_terminal: None });
    }
    let stdout = output(&paths.stdout, owner, &mut io)?;
    let stderr = output(&paths.stderr, owner, &mut io)?;
    Ok(Opened { stdio: Arc::new([input, stdout, stderr]), io, for_terminal: None })
}

impl Opened {
    /// Lets the streams flow, once the process exists; `terminal` is its terminal's master. The ends of the process are
    /// closed here.
    ///
    /// # Errors
    /// A terminal that was asked for and has not come, or the other way round; too many open files.
    pub fn start(self, terminal: Option<OwnedFd>, reactor: &Reactor) -> Result<Io> {
        let mut io = self.io;
        drop(self.stdio);
        if let Some((input, out)) = self.for_terminal {
            let Some(master) = terminal else {
                return Err(Error::new(
                    Kind::Config,
                    "process.terminal: is false, and a terminal was asked for: set it",
                ));
            };
            let copy = || master.try_clone().doing(|| "duplicate the terminal's descriptor").and_then(not_blocking);
            io.input = input.map(|input| Ok(Stream::new(input, copy()?, None))).transpose()?;
            if let Some(Sink { fd, keeper }) = out {
                io.outputs.push(Stream::new(copy()?, fd, keeper));
            }
            io.other_side = sys_fs::terminal_peer(master.as_raw_fd()).map(own).ok();
            io.terminal = Some(master);
        } else if terminal.is_some() {
            let problem = "process.terminal: is true, and no terminal was asked for: ask for one, or set it to false";
            return Err(Error::new(Kind::Config, problem));
        }
        for stream in io.outputs.iter().chain(&io.input) {
            stream.start(reactor).doing(|| "watch the stdio of a process")?;
        }
        Ok(io)
    }
}

impl Io {
    /// What the process writes.
    pub fn outputs(&self) -> &[Arc<Stream>] {
        &self.outputs
    }

    /// Whether all that the process wrote has been passed on.
    pub fn is_drained(&self) -> bool {
        self.outputs.iter().all(|stream| stream.has_ended())
    }

    /// The process has ended. What it wrote ends where nobody else has its terminal open.
    pub fn process_has_ended(&mut self) {
        self.other_side = None;
    }

    /// No more input will come from a client.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Gives the terminal, if there is one, another size.
    ///
    /// # Errors
    /// Those of ioctl(2).
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        sys_fs::set_terminal_size(terminal.as_raw_fd(), rows, columns).doing(|| "resize the terminal")
    }

    /// Ends what is left of it.
    pub fn close(self, reactor: &Reactor) {
        for stream in self.outputs.iter().chain(&self.input) {
            stream.end(reactor);
        }
        if let Some(logger) = self.logger {
            logger.end();
        }
    }
}

/// A pipe: the reading and the writing end, both given to the owner.
fn pipe(owner: &Owner<'_>) -> Result<(OwnedFd, OwnedFd)> {
    let doing = || "make a pipe";
    let (reading, writing) = pipe2(OFlag::O_CLOEXEC).doing(doing)?;
    if (owner.uid, owner.gid) != (0, 0) {
        // Both ends are one inode.
        fchown(&reading, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
            .doing(|| "IoUid, IoGid: give a pipe to its user")?;
    }
    Ok((reading, writing))
}

/// The end of a pipe that the process writes to, from which the stream to `path` comes.
fn output(path: &str, owner: &Owner<'_>, io: &mut Io) -> Result<OwnedFd> {
    let Some(Sink { fd, keeper }) = sink(path, owner, io)? else { return null() };
    let (ours, theirs) = pipe(owner)?;
    io.outputs.push(Stream::new(not_blocking(ours)?, fd, keeper));
    Ok(theirs)
}

/// Where what is written goes; `None` for nowhere.
fn sink(path: &str, owner: &Owner<'_>, io: &mut Io) -> Result<Option<Sink>> {
    if path.is_empty() {
        return Ok(None);
    }
    if let Some(logger) = Logger::named(path) {
        let (logger, [stdout, _]) = logger.start(owner)?;
        io.logger = Some(logger);
        return Ok(Some(Sink { fd: not_blocking(stdout)?, keeper: None }));
    }
    if let Some(file) = path.strip_prefix("file://") {
        return open_file(Path::new(&path_of(file))).map(|fd| Some(Sink { fd, keeper: None }));
    }
    let path = path.strip_prefix("fifo://").unwrap_or(path);
    if let Some((scheme, _)) = path.split_once("://") {
        let problem = format!("stdio: {scheme:?} is not a way to log: use a FIFO, file://, binary:// or binary-v2://");
        return Err(Error::new(Kind::Usage, problem));
    }
    open_output(Path::new(path)).map(Some)
}

fn open_file(path: &Path) -> Result<OwnedFd> {
    let doing = || format!("open the log file {}", path.display());
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).doing(|| format!("create {}", directory.display()))?;
    }
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path).doing(doing)?;
    Ok(file.into())
}

/// A FIFO for output, or a file that is there.
fn open_output(path: &Path) -> Result<Sink> {
    let doing = || format!("stdio: open {}", path.display());
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let deadline = Instant::now() + CLIENT;
    let opened = loop {
        match sys_fs::retry(|| open(path, flags, Mode::empty())) {
            // Nobody reads it yet. An open(2) that blocks would wait for ever for a client that is gone.
            Err(Errno::ENXIO) if Instant::now() < deadline => thread::sleep(TICK),
            Err(Errno::ENXIO) => {
                let problem =
                    format!("stdio: nobody reads {}: its client should, before the task is created", path.display());
                return Err(Error::new(Kind::System, problem));
            }
            opened => break opened.doing(doing)?,
        }
    };
    let kind = fstat(&opened).doing(doing)?.st_mode & SFlag::S_IFMT.bits();
    let keeper = (kind == SFlag::S_IFIFO.bits())
        .then(|| open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()))
        .transpose()
        .doing(doing)?;
    Ok(Sink { fd: opened, keeper })
}

/// The FIFO that input comes from. It has a writer from the beginning, or it would seem to be at its end.
fn open_input(path: &str, io: &mut Io) -> Result<OwnedFd> {
    let path = Path::new(path.strip_prefix("fifo://").unwrap_or(path));
    let doing = || format!("stdio: open {}", path.display());
    let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let reading = open(path, OFlag::O_RDONLY | flags, Mode::empty()).doing(doing)?;
    io.stdin = Some(open(path, OFlag::O_WRONLY | flags, Mode::empty()).doing(doing)?);
    Ok(reading)
}

fn null() -> Result<OwnedFd> {
    open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).doing(|| "open /dev/null")
}

/// The same descriptor, which does not block any more.
fn not_blocking(fd: OwnedFd) -> Result<OwnedFd> {
    let doing = || "make a descriptor that does not block";
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL).doing(doing)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).doing(doing)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_reader_of_output_may_come_late() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let path = fifo.clone();
        let opening = thread::spawn(move || open_output(&path).unwrap());
        let mut reader = std::fs::File::open(&fifo).unwrap();
        let Sink { fd, keeper } = opening.join().unwrap();
        assert!(keeper.is_some());
        nix::unistd::write(&fd, b"said").unwrap();
        drop((fd, keeper));
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(said, "said");
    }
}
