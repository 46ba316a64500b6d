//! What the filler's process does, and what its makers do.

use super::filler::{MOST, news};
use super::network::{self, Network};
use super::pace::{Budget, Ledger, Pace};
use super::setup;
use super::template::Template;
use crate::container::ground::{Ground, Rooms};
use crate::container::manage;
use crate::container::park::{self, Descriptors, Memory, Networks, Place};
use crate::container::prepare::Options;
use crate::container::store::new_id;
use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::plan::{Plan, Wait};
use crate::sys::clone::Stack;
use crate::sys::process::SchedAttr;
use crate::sys::socket::Received;
use crate::sys::{self, clone, fs as sys_fs, process, socket};
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// A message to a maker: one more sandbox, in the namespaces that come along.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Whether a network namespace does, first.
    pub network: bool,
    /// What was seen of the rooms that do, a mount and an IPC namespace.
    pub rooms: Option<u64>,
}

impl Asked {
    /// How long it is.
    const BYTES: usize = 10;

    /// As it is sent.
    pub fn bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (which, seen) = bytes.split_at_mut(2);
        which.copy_from_slice(&[u8::from(self.network), u8::from(self.rooms.is_some())]);
        seen.copy_from_slice(&self.rooms.unwrap_or(0).to_ne_bytes());
        bytes
    }

    /// What has been sent in `bytes` with `fds`.
    fn take(bytes: &[u8], fds: Vec<OwnedFd>) -> Given {
        let mut fds = fds.into_iter();
        let Some(([network, rooms], seen)) = bytes.split_first_chunk() else { return Given::default() };
        let network = if *network == 0 { None } else { fds.next() };
        let seen = seen.first_chunk().copied().map_or(0, u64::from_ne_bytes);
        let rooms = if *rooms == 0 { None } else { fds.next().zip(fds.next()) };
        Given { network, rooms: rooms.map(|(mounts, ipc)| Rooms::of(mounts, ipc, seen)) }
    }
}

/// Where a sandbox is to be made.
#[derive(Default)]
struct Given {
    network: Option<OwnedFd>,
    rooms: Option<Rooms>,
}

/// What the filler is called (`PR_SET_NAME`). Makers are called what their sandboxes are.
const NAME: &CStr = c"microrun:filler";

/// Variables of the environment that makers need: to find programs, the service manager, and whoever else the C library asks for.
const VARIABLES: [&str; 5] =
    ["PATH", "TMPDIR", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS"];

/// How many stacks of sandboxes that have gone a maker keeps for others.
const STACKS: usize = 16;

/// A bundle, and where its sandboxes are cloned.
struct Loaded {
    template: Template,
    ground: Option<Ground>,
    /// The Plan, if it is the same for all.
    plan: Option<Arc<Plan>>,
    /// The Plan of those that are made in the rooms of others, if they may be.
    furnished: Option<Arc<Plan>>,
}

/// What a maker begins with.
#[derive(Clone, Copy)]
struct Beginning<'a> {
    socket: RawFd,
    options: &'a Options,
    pace: Pace,
    ledger: &'a Ledger,
    /// The version of the bundle and its path.
    said: &'a [u8],
}

/// Begins the makers that are asked for on `socket`, in a process that has just been forked, until nobody asks any more.
///
/// If it `is_clean`, sandboxes may run in the memory that the makers have got from it.
pub fn run(socket: &OwnedFd, options: &Options, pace: Pace, ledger: &Ledger, is_clean: bool) -> ! {
    if begin(socket.as_raw_fd(), NAME).is_err() {
        process::exit(1)
    }
    if is_clean {
        process::forget_environment(&VARIABLES);
    }
    let wait = match options.wait {
        Wait::Lease { filtered, networked, furnished, .. } => {
            Wait::Lease { filtered, networked, furnished, shared: is_clean }
        }
        wait => wait,
    };
    let options = Options { wait, ..options.clone() };
    let mut data = [0; MOST];
    while let Some(received) = next(socket, &mut data) {
        let Some(theirs) = received.fds.first() else { break };
        let said = data.get(..received.count).unwrap_or_default();
        let beginning = Beginning { socket: theirs.as_raw_fd(), options: &options, pace, ledger, said };
        // The pool's child, like this process.
        let request = clone::Request { flags: libc::CLONE_PARENT as u64, cgroup: None, exit_signal: 0 };
        let told = match clone::fork_and(&request, beginning, make_all) {
            Ok(maker) => {
                let told = answer(socket, &[&[news::BEGUN]], &[maker.pidfd]);
                sys_fs::close(maker.pidfd);
                told
            }
            Err(errno) => answer(socket, &[&[news::FAILED], errno.desc().as_bytes()], &[]),
        };
        if told.is_err() {
            break;
        }
    }
    process::exit(0)
}

/// What a maker does, until nothing more is to be made.
fn make_all(beginning: Beginning<'_>) -> ! {
    // It never drops what its copy of the filler's memory has.
    let worked = begin(beginning.socket, sys::park::NAME).and_then(|()| {
        let socket = ManuallyDrop::new(sys::own(beginning.socket));
        let scheduling = go_first();
        let load = || {
            let stdio = Some(setup::no_stdio()?);
            load(Options { stdio, scheduling, ..beginning.options.clone() }, beginning.said)
        };
        work(&socket, load, Budget::new(beginning.pace, beginning.ledger.clone()))
    });
    process::exit(i32::from(worked.is_err()))
}

/// Keeps nothing of the pool's: who holds a lease's other end keeps a sandbox alive, and who holds its directory the next pool
/// from it.
fn begin(socket: RawFd, name: &CStr) -> Result<()> {
    let doing = |errno| Error::system("begin to make sandboxes", errno);
    // A pool that is killed has nobody who could use what is being made.
    process::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as usize, 0, 0, 0]).map_err(doing)?;
    process::set_name(name).map_err(doing)?;
    let own = socket.unsigned_abs();
    if own > 3 {
        sys_fs::close_range(3, own - 1).map_err(doing)?;
    }
    sys_fs::close_range(own + 1, u32::MAX).map_err(doing)
}

/// Has this process take precedence over others, if it may, and what it makes until that waits: a start that finds no sandbox takes more of the CPUs. How it
/// was scheduled before.
fn go_first() -> Option<SchedAttr> {
    /// Three times the share of a process with the usual value (sched(7)).
    const NICER: i32 = 5;
    let own = process::sched_getattr().ok().filter(|own| own.policy == libc::SCHED_OTHER.unsigned_abs())?;
    // Its slice is what it would be anyway.
    let own = SchedAttr { runtime: 0, ..own };
    let first = SchedAttr { nice: own.nice - NICER, ..own };
    process::sched_setattr(&first).is_ok().then_some(own)
}

/// Makes what is asked for of what is to `load`.
fn work(socket: &OwnedFd, load: impl Fn() -> Result<Loaded>, mut budget: Budget) -> Result<()> {
    let mut data = [0; MOST];
    // Ahead of the first order. If it has failed, that is told, and the reason may have passed when the next one comes.
    let (mut loaded, mut is_told) = (load(), false);
    let home = network::open().doing(|| "open the network namespace of the pool")?;
    let (mut memories, mut stacks): (Vec<Memory>, Vec<Stack>) = Default::default();
    while let Some(received) = next(socket, &mut data) {
        // Those that execute their program by now, or have ended.
        stacks.extend(memories.extract_if(.., |memory| memory.is_over()).filter_map(Memory::end));
        stacks.truncate(STACKS);
        if std::mem::take(&mut is_told) {
            loaded = load();
        }
        let made = match &loaded {
            Ok(loaded) => {
                let given = Asked::take(data.get(..received.count).unwrap_or_default(), received.fds);
                make(socket, loaded, &home, given, &mut stacks, &mut budget)
            }
            Err(why) => {
                is_told = true;
                Err(Error::new(Kind::System, why.to_string()))
            }
        };
        match made {
            Ok(memory) => memories.extend(memory),
            Err(error) => {
                let used = budget.used(None);
                budget.spend(used, false);
                answer(socket, &[&[news::FAILED], cut(&error.to_string())], &[])?;
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
fn load(options: Options, said: &[u8]) -> Result<Loaded> {
    let (version, path) = said.split_first_chunk().unwrap_or((&[0; 8], &[]));
    let mut template = Template::new(Options { bundle: OsStr::from_bytes(path).into(), ..options }, true)?;
    if template.version() != u64::from_ne_bytes(*version) {
        return Err(Error::new(Kind::WrongState, "the bundle has changed while it was read"));
    }
    template.drop_bounding()?;
    let ground = if template.has_ground { Ground::new(&template.needed())? } else { None };
    let plan = template.common_plan(template.options.wait)?;
    let may_be_furnished = template.keeps_rooms && ground.is_some() && plan.is_some();
    let furnished = if may_be_furnished { template.common_plan(template.furnished())? } else { None };
    Ok(Loaded { template, ground, plan, furnished })
}

/// Makes a sandbox, in the namespaces `given` if there are some that may be used again, and hands it over; what it uses of this memory.
fn make(
    socket: &OwnedFd,
    loaded: &Loaded,
    home: &OwnedFd,
    given: Given,
    stacks: &mut Vec<Stack>,
    budget: &mut Budget,
) -> Result<Option<Memory>> {
    let Loaded { template, ground, plan, furnished } = loaded;
    let id = new_id()?;
    let is_made = template.is_networked() && given.network.is_none();
    let made = if is_made { Some(Network::new(Some(template.look))?) } else { None };
    let its = made.as_ref().map(AsFd::as_fd).or(given.network.as_ref().map(AsFd::as_fd));
    let networks = its.map(|its| Networks { its, home: home.as_fd() });
    let mut park = |wait: Wait, plan: Option<&Arc<Plan>>, rooms: Option<&Rooms>| {
        let options = Options { id: id.clone(), wait, ..template.options.clone() };
        let prepared = template.compile(&options, plan)?;
        let ground = ground.as_ref().map(|ground| (ground, rooms));
        park::park(&options, prepared, Place { ground, networks, stack: stacks.pop() })
    };
    let in_rooms = given.rooms.as_ref().filter(|_| furnished.is_some()).and_then(|rooms| {
        park(template.furnished(), furnished.as_ref(), Some(rooms))
            .inspect_err(|error| log::debug(|| format!("pool: not used again: {error}")))
            .ok()
    });
    let is_furnished = in_rooms.is_some();
    let (child, descriptors, memory) = match in_rooms {
        Some(parked) => parked,
        None => park(template.options.wait, plan.as_ref(), None)?,
    };
    let Descriptors { lease, lock, terminal } = descriptors;
    let pidfd = sys::own(child.pidfd);
    let look = || {
        ground
            .as_ref()
            .filter(|_| furnished.is_some())?
            .rooms(child.pidfd)
            .map_err(|error| log::debug(|| error.to_string()))
            .ok()
    };
    let rooms = if is_furnished { None } else { look() };
    // Without it the end of a container is heard of later, that is all.
    let mounts = || {
        let mounts = process::mount_namespace(child.pidfd).map(crate::sys::own);
        mounts.ok().or_else(|| File::open(format!("/proc/{}/ns/mnt", child.pid)).ok().map(OwnedFd::from))
    };
    let alone = if is_furnished || rooms.is_some() { None } else { mounts() };
    let raw = |fd: Option<&OwnedFd>| fd.map(AsRawFd::as_raw_fd);
    let [own, of_lease, of_lock] = [&pidfd, &lease, &lock].map(|fd| raw(Some(fd)));
    let [of_mounts, of_ipc] = rooms.as_ref().map_or([raw(alone.as_ref()), None], |rooms| rooms.descriptors().map(Some));
    let made_now = made.as_ref().map(AsRawFd::as_raw_fd);
    let all = [own, of_lease, of_lock, raw(terminal.as_ref()), of_mounts, made_now, of_ipc];
    let which = all.map(|one| u8::from(one.is_some()));
    let numbers: Vec<_> = all.into_iter().flatten().collect();
    let seen = made.as_ref().map_or(0, Network::seen);
    let bytes = memory.as_ref().map_or(0, Memory::bytes) as u64;
    let seen_of_rooms = rooms.as_ref().or(given.rooms.as_ref().filter(|_| is_furnished)).map_or(0, Rooms::seen);
    let about = [u64::from(child.pid.unsigned_abs()), seen, bytes, seen_of_rooms].map(u64::to_ne_bytes);
    let said: [&[u8]; 4] = [&[news::MADE], &which, about.as_flattened(), id.as_bytes()];
    // Before the pool hears of it, and orders the next.
    let used = budget.used(Some(child.pid));
    budget.spend(used, true);
    let told = answer(socket, &said, &numbers);
    if told.is_err() {
        drop((lease, lock));
        // What cannot be removed is removed by the next pool.
        let _ = manage::discard(&template.options.store, &id, template.options.rootless);
    }
    told.map(|()| memory)
}
