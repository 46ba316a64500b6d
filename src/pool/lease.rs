//! For programs that start containers themselves: sandboxes of a pool, leased ahead of the requests.
//!
//! A lease is all that has to be asked of the pool. Who has one starts the program by one message to the parked process, with
//! nobody between them.
//!
//! ```no_run
//! use microrun::pool::{Pool, Stdio};
//!
//! // `microrun pool serve /srv/resize` runs: this needs its user's rights, root's as a rule.
//! let pool = Pool::open("/srv/resize")?;
//! let sandbox = pool.lease()?; // ahead of the request
//!
//! let mut running = sandbox.start(Stdio::inherit(), Some(&[c"--width", c"640"]), &[c"REQUEST=17"])?;
//! let code = running.wait()?;
//! # Ok::<(), microrun::Error>(())
//! ```

use super::client::{Started, hear_start};
use super::streams::{Lent, Stream};
use crate::container::manage;
use crate::container::store::Store;
use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::sys::park::Message;
use crate::sys::request::{self, Request, answer};
use crate::sys::{self, own, process, socket};
use nix::errno::Errno;
use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where containers are recorded unless [`Pool::at`] says otherwise.
const ROOT: &str = "/run/microrun";

/// A bundle of which a resident pool holds sandboxes.
#[derive(Debug, Clone)]
pub struct Pool {
    socket: PathBuf,
    store: Store,
    bundle: PathBuf,
}

impl Pool {
    /// The bundle at `bundle`, in the pool that `microrun run` would use: that of `$MICRORUN_POOL`, or else root's. Its containers
    /// are recorded in /run/microrun, where `microrun list` looks.
    ///
    /// # Errors
    /// There is no such bundle, or `$MICRORUN_POOL` is "off". Whether a pool listens turns out with the first lease.
    pub fn open(bundle: impl AsRef<Path>) -> Result<Self> {
        let off = || Error::new(Kind::Usage, "$MICRORUN_POOL is off: name the socket of a pool in it, or unset it");
        Self::at(super::socket().ok_or_else(off)?, ROOT, bundle)
    }

    /// As [`Pool::open`], for the pool that listens on `socket` and containers recorded in `root`, which has to be an absolute
    /// path on the file system that the socket is on.
    ///
    /// # Errors
    /// There is no such bundle.
    pub fn at(socket: impl Into<PathBuf>, root: impl Into<PathBuf>, bundle: impl AsRef<Path>) -> Result<Self> {
        let bundle = bundle.as_ref();
        let bundle = fs::canonicalize(bundle).doing(|| format!("find the bundle {}", bundle.display()))?;
        Ok(Self { socket: socket.into(), store: Store::new(root.into()), bundle })
    }

    /// Has the pool hold `count` sandboxes of the bundle from now on, made anew. They are not waited for.
    ///
    /// # Errors
    /// No pool listens, or the bundle asks for what only a cold start can give.
    pub fn fill(&self, count: usize) -> Result<()> {
        super::ask(&self.socket, super::Wish::Fill(&self.bundle, count)).map(drop)
    }

    /// Takes a sandbox out of the pool, which makes another one. If none is ready and one is being made, it is waited for, some milliseconds at most.
    ///
    /// # Errors
    /// [`Kind::WrongState`] if there is none to be had, and why; a cold start may succeed then. Else what the kernel says.
    pub fn lease(&self) -> Result<Sandbox> {
        self.lease_as("")
    }

    /// As [`Pool::lease`], with an id for the container; it is made up if `id` is empty.
    ///
    /// # Errors
    /// As [`Pool::lease`]. An id that is taken or malformed is such a reason, too.
    pub fn lease_as(&self, id: &str) -> Result<Sandbox> {
        let bundle = sys::fs::c_path(&self.bundle).doing(|| self.asking())?;
        let request = Request {
            root: self.store.root().as_os_str().as_bytes(),
            id: id.as_bytes(),
            ..Request::new(self.socket.as_os_str().as_bytes(), request::LEASE, &bundle)
        };
        let asked = request::look_at(&self.socket).and_then(|()| request::ask(&request));
        let answers = match asked {
            Ok(answers) => own(answers),
            Err(Errno::ENOENT | Errno::ECONNREFUSED) if self.bundle.exists() => {
                return Err(self.none("no pool listens"));
            }
            Err(errno) => return Err(Error::system(self.asking(), errno)),
        };
        let Started { pid, id, pidfd, more } = hear_start(&answers).map_err(|instead| self.none(&instead.why()))?;
        let lease = more.ok_or_else(|| self.none("the pool is of another version"))?;
        let id = String::from_utf8_lossy(&id).into_owned();
        let container = Container { answers, pidfd, pid, id, store: self.store.clone() };
        Ok(Sandbox { container: Some(container), lease })
    }

    fn none(&self, why: &str) -> Error {
        let (socket, bundle) = (self.socket.display(), self.bundle.display());
        Error::new(Kind::WrongState, format!("no sandbox of {bundle} from the pool at {socket}: {why}"))
    }

    fn asking(&self) -> String {
        format!("ask the pool at {} for a sandbox of {}", self.socket.display(), self.bundle.display())
    }
}

/// What a container gets for its standard descriptors. The files stay its starter's as well: one that a program of another user
/// shall open again, as /dev/stdout, has to be given to that user (fchown(2)), which `run` does.
#[derive(Debug, Clone, Copy)]
pub struct Stdio<'a> {
    /// Descriptor 0.
    pub stdin: BorrowedFd<'a>,
    /// Descriptor 1.
    pub stdout: BorrowedFd<'a>,
    /// Descriptor 2.
    pub stderr: BorrowedFd<'a>,
}

impl Stdio<'static> {
    /// Those of this process.
    pub fn inherit() -> Self {
        let [stdin, stdout, stderr] = sys::standard_descriptors();
        Self { stdin, stdout, stderr }
    }
}

/// What a lease and a program that runs have in common.
#[derive(Debug)]
struct Container {
    answers: OwnedFd,
    pidfd: OwnedFd,
    pid: i32,
    id: String,
    store: Store,
}

impl Container {
    /// Waits for the end of a container that has ended, or is about to, after its pool. What is left of it is to be removed then.
    fn await_end(&self) -> Result<()> {
        let ended = process::ends_within(self.pidfd.as_raw_fd(), request::PATIENCE);
        ended.doing(|| format!("wait for the end of {}", self.id)).map(drop)
    }
}

/// A container whose program has not been started. Dropped, it ends, and nothing is left of it.
#[derive(Debug)]
pub struct Sandbox {
    /// Nothing, once it has been started.
    container: Option<Container>,
    lease: OwnedFd,
}

impl Sandbox {
    /// The container's id.
    pub fn id(&self) -> &str {
        self.container.as_ref().map_or("", |container| &container.id)
    }

    /// Executes the program with `stdio`.
    ///
    /// `args`, if there are any, replace those that follow the program's name in process.args. Each entry of `env`, as
    /// c"NAME=value", replaces those of process.env with the same name, or is added. The two may have 1024 strings, together with
    /// the entries of process.env, and 64 KiB less 16 bytes. The signal mask is empty.
    ///
    /// Whether the program could be executed is said by [`Running::wait`].
    ///
    /// # Errors
    /// Too many or too long strings, an entry without a name, or a sandbox that has ended meanwhile.
    pub fn start(mut self, stdio: Stdio<'_>, args: Option<&[&CStr]>, env: &[&CStr]) -> Result<Running> {
        let (header, strings) = message(args, env)?;
        let streams = [stdio.stdin, stdio.stdout, stdio.stderr].map(|fd| Stream::of(fd.as_raw_fd()));
        if streams.iter().any(|stream| stream.may_be_socket) {
            self.note_visit()?;
        }
        let started = || Error::new(Kind::WrongState, "the sandbox has been started already");
        let lent = Lent::of(&streams, &self.container.as_ref().ok_or_else(started)?.pidfd);
        socket::send_fds(self.lease.as_raw_fd(), &[&header.bytes(), &strings], &lent.fds).map_err(
            |errno| match errno {
                Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN => {
                    let problem = format!("the sandbox {} has ended while it was leased: lease another one", self.id());
                    Error::new(Kind::WrongState, problem).with_errno(errno)
                }
                errno => Error::system(format!("start the program of the sandbox {}", self.id()), errno),
            },
        )?;
        let container = self.container.take();
        Ok(Running { container: container.ok_or_else(started)?, code: None })
    }
}

impl Sandbox {
    /// By a socket the container could hand over an open file of its network namespace, which would outlive it.
    fn note_visit(&self) -> Result<()> {
        let Some(container) = &self.container else { return Ok(()) };
        let entry = container.store.find(&container.id)?;
        if entry.load()?.network_of_pool { entry.note_visit() } else { Ok(()) }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let Some(container) = self.container.take() else { return };
        // The pool sees that the sandbox has been given up when this end is closed; without a pool nobody else would.
        if socket::receive_fds(container.answers.as_raw_fd(), &mut [0]).is_ok_and(|received| received.count == 0) {
            socket::end_sending(self.lease.as_raw_fd());
            let ended = container.await_end();
            if let Err(error) = ended.and_then(|()| manage::discard(&container.store, &container.id, false)) {
                log::warn(error);
            }
        }
    }
}

/// The message that starts a program, without its descriptors.
fn message(args: Option<&[&CStr]>, env: &[&CStr]) -> Result<(Message, Vec<u8>)> {
    let strings = || args.unwrap_or_default().iter().chain(env);
    let count = strings().count();
    if count > Message::STRINGS {
        let problem = format!(
            "{count} arguments and environment entries are too many for a sandbox, which takes {} together with those of \
             process.env: hand over the rest on standard input",
            Message::STRINGS
        );
        return Err(Error::new(Kind::Usage, problem));
    }
    let room = Message::ROOM - size_of::<Message>();
    let size: usize = strings().map(|string| string.count_bytes() + 1).sum();
    if size > room {
        let problem = format!(
            "arguments and environment of {size} bytes are too long for a sandbox, which takes {room}: hand over the rest on \
             standard input"
        );
        return Err(Error::new(Kind::Usage, problem));
    }
    let has_name = |entry: &&&CStr| entry.to_bytes().iter().position(|byte| *byte == b'=').is_some_and(|at| at > 0);
    if let Some(entry) = env.iter().find(|entry| !has_name(entry)) {
        return Err(Error::new(
            Kind::Usage,
            format!("the environment entry {entry:?} is not NAME=value: give it a name"),
        ));
    }
    let header = Message {
        signal_mask: 0,
        arguments: args.map_or(Message::SAME, |args| args.len() as u32),
        entries: env.len() as u32,
    };
    let mut text = Vec::with_capacity(size);
    strings().for_each(|string| text.extend_from_slice(string.to_bytes_with_nul()));
    Ok((header, text))
}

/// A container whose program has been started. Dropped, it goes on, as after `microrun run --detach`.
#[derive(Debug)]
pub struct Running {
    container: Container,
    code: Option<i32>,
}

impl Running {
    /// The container's id, by which `microrun state`, `exec` and the others know it.
    pub fn id(&self) -> &str {
        &self.container.id
    }

    /// The program's process id.
    pub fn pid(&self) -> i32 {
        self.container.pid
    }

    /// A descriptor of the process: readable when it has ended (pidfd_open(2)), a moment before [`Running::wait`] has the exit code.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.container.pidfd.as_fd()
    }

    /// Sends a signal to the program.
    ///
    /// # Errors
    /// It has ended (ESRCH), or there is no such signal (EINVAL).
    pub fn kill(&self, signal: i32) -> Result<()> {
        process::pidfd_send_signal(self.container.pidfd.as_raw_fd(), signal)
            .doing(|| format!("send signal {signal} to the container {}", self.id()))
    }

    /// Waits until the program has ended; its exit code, or 128 and the number of the signal that killed it. The container's id is free
    /// then, and its cgroup is removed.
    ///
    /// If the pool ends first the exit code is found without it, and what is left is removed here.
    ///
    /// # Errors
    /// The program could not be executed; [`Kind::WrongState`] if the sandbox was killed before it was, so that another lease may be
    /// started in its place; or the pool ended first, and this kernel (before Linux 6.15) does not tell how the container
    /// ended.
    pub fn wait(&mut self) -> Result<i32> {
        if let Some(code) = self.code {
            return Ok(code);
        }
        let container = &self.container;
        let mut text = vec![0; request::ANSWER];
        let (count, _) = socket::receive_fd(container.answers.as_raw_fd(), &mut text)
            .doing(|| format!("wait for the container {}", container.id))?;
        let text = text.get(..count).unwrap_or_default();
        let code = match (text.first(), text.get(1..5).and_then(|code| code.try_into().ok())) {
            (Some(&answer::EXITED), Some(code)) => {
                if let Some(said) = text.get(5..).filter(|said| !said.is_empty()) {
                    log::warn(String::from_utf8_lossy(said).trim_end());
                }
                i32::from_ne_bytes(code)
            }
            (None, _) => self.wait_alone()?,
            (Some(&answer::KILLED), _) => {
                let problem =
                    format!("the sandbox {} was killed before its program began: lease another one", container.id);
                return Err(Error::new(Kind::WrongState, problem));
            }
            _ => {
                let problem = format!(
                    "the program of the container {} could not be executed: look for its file, and for more than {} arguments and \
                     environment entries, those of process.env among them",
                    container.id,
                    Message::STRINGS
                );
                return Err(Error::new(Kind::NotExecutable, problem));
            }
        };
        self.code = Some(code);
        Ok(code)
    }

    /// The pool is gone, the container is not.
    fn wait_alone(&self) -> Result<i32> {
        let Container { pidfd, id, .. } = &self.container;
        let mut fds = [libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        sys::fs::retry(|| process::poll(&mut fds, None)).doing(|| format!("wait for the container {id}"))?;
        let code = request::exit_status(pidfd.as_raw_fd());
        self.container.await_end()?;
        manage::delete(&self.container.store, &self.container.id, true, false)?.iter().for_each(log::warn);
        code.map_err(|errno| {
            let problem =
                format!("the pool ended before the container {id}, and this kernel does not tell how that ended");
            Error::new(Kind::System, problem).with_errno(errno)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

    #[test]
    fn a_message_has_arguments_and_then_the_environment() {
        let (header, text) = message(Some(&[c"a", c"bc"]), &[c"D=e"]).unwrap();
        assert_eq!((header.arguments, header.entries, text.as_slice()), (2, 1, b"a\0bc\0D=e\0".as_slice()));
        let (header, text) = message(None, &[]).unwrap();
        assert_eq!((header.arguments, header.entries, text.len()), (Message::SAME, 0, 0));
        assert_eq!(message(Some(&[]), &[]).unwrap().0.arguments, 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_in_a_sentence() {
        let many = vec![c"x"; Message::STRINGS + 1];
        let told = message(Some(&many), &[]).unwrap_err().to_string();
        assert!(told.starts_with("1025 arguments and environment entries are too many"), "{told}");
        let room = Message::ROOM - size_of::<Message>();
        let fits = CString::new(vec![b'x'; room - 1]).unwrap();
        assert_eq!(message(Some(&[&fits]), &[]).unwrap().1.len(), room);
        let long = CString::new(vec![b'x'; room]).unwrap();
        let told = message(Some(&[&long]), &[]).unwrap_err().to_string();
        assert!(told.contains("65521 bytes are too long") && told.contains("takes 65520"), "{told}");
        for nameless in [c"NAME", c"=value", c""] {
            assert!(message(None, &[nameless]).unwrap_err().to_string().contains("NAME=value"));
        }
    }
}
