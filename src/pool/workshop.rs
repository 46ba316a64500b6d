//! What the filler's process does.

use super::filler::{MOST, news, order};
use super::network::{self, Network};
use super::pace::{Budget, Ledger, Pace};
use super::setup;
use super::template::Template;
use crate::container::ground::Ground;
use crate::container::manage;
use crate::container::park::{self, Descriptors, Networks};
use crate::container::prepare::Options;
use crate::container::state::new_id;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::socket::Received;
use crate::sys::{fs as sys_fs, process, socket};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// A bundle, and where its sandboxes are cloned.
struct Loaded {
    template: Template,
    ground: Option<Ground>,
}

/// Makes what is ordered on `socket`, in a process that has just been forked, until nobody orders any more.
pub fn run(socket: &OwnedFd, options: &Options, pace: Pace, ledger: Ledger) -> ! {
    // It never drops what its copy of the pool's memory has.
    let worked = begin(socket).and_then(|()| {
        let options = Options { stdio: Some(setup::no_stdio()?), ..options.clone() };
        work(socket, &options, Budget::new(pace, ledger))
    });
    if let Err(error) = worked {
        let _ = answer(socket, &[&[news::FAILED], cut(&error.to_string())], &[]);
    }
    process::exit(0)
}

/// Keeps nothing of the pool's: who holds a lease's other end keeps a sandbox alive, and who holds its directory the next pool
/// from it.
fn begin(socket: &OwnedFd) -> Result<()> {
    let doing = |errno| Error::system("begin to make sandboxes", errno);
    // A pool that is killed has nobody who could use what is being made.
    process::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as usize, 0, 0, 0]).map_err(doing)?;
    process::set_name(park::NAME).map_err(doing)?;
    let own = socket.as_raw_fd().unsigned_abs();
    if own > 3 {
        sys_fs::close_range(3, own - 1).map_err(doing)?;
    }
    sys_fs::close_range(own + 1, u32::MAX).map_err(doing)
}

fn work(socket: &OwnedFd, options: &Options, mut budget: Budget) -> Result<()> {
    let mut loaded: HashMap<u32, Result<Loaded, String>> = HashMap::new();
    let mut data = [0; MOST];
    let home = network::open().doing(|| "open the network namespace of the pool")?;
    while let Some(received) = next(socket, &mut data) {
        let message = data.get(..received.count).unwrap_or_default();
        let Some((&[kind, ref number @ ..], rest)) = message.split_first_chunk::<5>() else { break };
        let number = u32::from_ne_bytes(*number);
        match kind {
            order::LOAD => {
                loaded.insert(number, load(options, rest).map_err(|error| error.to_string()));
            }
            order::FORGET => {
                loaded.remove(&number);
            }
            _ => {
                let made = match loaded.get(&number) {
                    Some(Ok(loaded)) => make(socket, loaded, &home, received.fds.into_iter().next()),
                    Some(Err(why)) => Err(Error::new(Kind::System, why.clone())),
                    None => Err(Error::new(Kind::System, "nothing is known of the bundle")),
                };
                let (used, is_made) = (budget.used(made.as_ref().ok().copied()), made.is_ok());
                if let Err(error) = made
                    && answer(socket, &[&[news::FAILED], cut(&error.to_string())], &[]).is_err()
                {
                    break;
                }
                let pause = budget.rest(used, is_made);
                if !pause.is_zero() {
                    std::thread::sleep(pause);
                }
            }
        }
    }
    Ok(())
}

/// Waits for the next message; `None` when there will be none, whatever has been ordered.
fn next(socket: &OwnedFd, data: &mut [u8]) -> Option<Received> {
    let mut fds = [libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN | libc::POLLRDHUP, revents: 0 }];
    sys_fs::retry(|| process::poll(&mut fds, None)).ok()?;
    if fds.first().is_some_and(|watched| watched.revents & (libc::POLLRDHUP | libc::POLLHUP) != 0) {
        return None;
    }
    let received = socket::receive_fds(socket.as_raw_fd(), data).ok()?;
    (received.count > 0).then_some(received)
}

fn answer(socket: &OwnedFd, parts: &[&[u8]], fds: &[i32]) -> Result<()> {
    socket::send_fds(socket.as_raw_fd(), parts, fds).map_err(|errno| Error::system("answer the pool", errno))
}

fn cut(text: &str) -> &[u8] {
    text.as_bytes().get(..text.len().min(MOST - 1)).unwrap_or_default()
}

/// Reads a bundle. The pool has read it before: both have to have found the same.
fn load(options: &Options, said: &[u8]) -> Result<Loaded> {
    let (version, path) = said.split_first_chunk().unwrap_or((&[0; 8], &[]));
    let template = Template::new(Options { bundle: OsStr::from_bytes(path).into(), ..options.clone() }, true)?;
    if template.version() != u64::from_ne_bytes(*version) {
        return Err(Error::new(Kind::WrongState, "the bundle has changed while it was read"));
    }
    let ground = if template.has_ground { Ground::new(&template.needed())? } else { None };
    Ok(Loaded { template, ground })
}

/// Makes a sandbox, in the network namespace `given` if that is one that may be used again, and hands it over; the pid of its init.
fn make(socket: &OwnedFd, Loaded { template, ground }: &Loaded, home: &OwnedFd, given: Option<OwnedFd>) -> Result<i32> {
    let options = Options { id: new_id(), ..template.options.clone() };
    let prepared = template.compile(&options)?;
    let is_made = template.is_networked() && given.is_none();
    let made = if is_made { Some(Network::new(Some(template.look))?) } else { None };
    let its = made.as_ref().map(AsFd::as_fd).or(given.as_ref().map(AsFd::as_fd));
    let networks = its.map(|its| Networks { its, home: home.as_fd() });
    let (child, Descriptors { lease, lock, terminal }) = park::park(&options, prepared, ground.as_ref(), networks)?;
    let pidfd = crate::sys::own(child.pidfd);
    // Without it the end of a container is heard of later, that is all.
    let mounts = process::mount_namespace(child.pidfd).map(crate::sys::own);
    let mounts = mounts.ok().or_else(|| File::open(format!("/proc/{}/ns/mnt", child.pid)).ok().map(OwnedFd::from));
    let raw = |fd: Option<&OwnedFd>| fd.map(AsRawFd::as_raw_fd);
    let [own, of_lease, of_lock] = [&pidfd, &lease, &lock].map(|fd| raw(Some(fd)));
    let all =
        [own, of_lease, of_lock, raw(terminal.as_ref()), raw(mounts.as_ref()), made.as_ref().map(AsRawFd::as_raw_fd)];
    let which = all.map(|one| u8::from(one.is_some()));
    let numbers: Vec<_> = all.into_iter().flatten().collect();
    let about = [u64::from(child.pid.unsigned_abs()), made.as_ref().map_or(0, Network::seen)].map(u64::to_ne_bytes);
    let said: [&[u8]; 4] = [&[news::MADE], &which, about.as_flattened(), options.id.as_bytes()];
    let told = answer(socket, &said, &numbers);
    if told.is_err() {
        drop((lease, lock));
        // What cannot be removed is removed by the next pool.
        let _ = manage::delete(&options.store, &options.id, true);
    }
    told.map(|()| child.pid)
}
