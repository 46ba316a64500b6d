//! What all parts of the compiler share: the list of steps, slots and strings.

use crate::error::{Error, Result};
use crate::init::{Op, Slot, Step};
use std::borrow::Cow;
use std::ffi::CString;
use std::fmt::Display;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The slots that have a fixed meaning. Others are handed out by [`Builder::slot`].
pub mod slots {
    use crate::init::Slot;

    /// The root of the container.
    pub const ROOT: Slot = Slot(0);
    /// A mount that is being made.
    pub const MOUNT: Slot = Slot(1);
    /// Where it goes.
    pub const TARGET: Slot = Slot(2);
    /// The tmpfs at /dev.
    pub const DEV: Slot = Slot(3);
    /// The host's /dev/null, copied for masks.
    pub const NULL: Slot = Slot(4);
    /// An empty read-only tmpfs, for masks.
    pub const EMPTY: Slot = Slot(5);
    /// A procfs of the runtime's own, in the container's namespaces; /proc where it may mount none.
    pub const PROC: Slot = Slot(6);
    /// The socket on which a created container waits for `start`.
    pub const LISTENER: Slot = Slot(7);
    /// The socket that gets the terminal's master.
    pub const CONSOLE: Slot = Slot(8);
    /// The socket that gets a pidfd.
    pub const PIDFD: Slot = Slot(9);
    /// A second scratch slot.
    pub const OTHER: Slot = Slot(10);
    /// The process to join (exec): its pidfd.
    pub const JOINED: Slot = Slot(11);
    /// The pidfd of the helper that makes the network namespace.
    pub const NETWORK: Slot = Slot(12);
    /// The socket on which a parked sandbox waits for a request.
    pub const LEASE: Slot = LISTENER;
    /// The first that is handed out.
    pub const FIRST_FREE: u8 = 13;
}

/// A list of steps in the making.
#[derive(Debug)]
pub struct Builder {
    steps: Vec<Step>,
    next_slot: u8,
    has_proc: bool,
    /// Whether the mount namespace begins with the root alone, and not with a copy of the host's mounts: see `mounts::may_begin_with_root`.
    pub begins_with_root: bool,
    /// What waits for the network namespace, the step that enters it first.
    waiting: Option<Vec<Step>>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            steps: Vec::with_capacity(128),
            next_slot: slots::FIRST_FREE,
            has_proc: false,
            begins_with_root: false,
            waiting: None,
        }
    }
}

impl Builder {
    /// An empty list, for a mount namespace that begins so.
    pub fn new(begins_with_root: bool) -> Self {
        Self { begins_with_root, ..Self::default() }
    }

    /// Appends `op`, which `field` asks for.
    pub fn push(&mut self, field: impl Into<Cow<'static, str>>, op: Op) {
        self.steps.push(Step { op, field: field.into() });
    }

    /// Appends `steps`.
    pub fn extend(&mut self, steps: Vec<Step>) {
        self.steps.extend(steps);
    }

    /// A slot that nobody else uses.
    ///
    /// # Errors
    /// When the config asks for more descriptors at once than there are slots; `field` is blamed.
    pub fn slot(&mut self, field: &str) -> Result<Slot> {
        if usize::from(self.next_slot) >= crate::init::Slots::COUNT {
            return Err(Error::config(
                field,
                "asks for more mounts from outside the container, or read-only ones, than can be held at once: use fewer",
            ));
        }
        self.next_slot += 1;
        Ok(Slot(self.next_slot - 1))
    }

    /// Has init join `count` v1 cgroups, which are there for sure if that is `required`; the slots for their `tasks` files.
    ///
    /// # Errors
    /// When there are not as many slots.
    pub fn join_cgroups(&mut self, count: usize, required: bool) -> Result<Vec<Slot>> {
        let slots = (0..count).map(|_| self.slot("linux.resources")).collect::<Result<Vec<_>>>()?;
        for tasks in slots.iter().copied() {
            self.push("linux.cgroupsPath", Op::JoinCgroup { tasks, required });
        }
        Ok(slots)
    }

    /// Makes sure that the runtime's own procfs is open, and says where.
    pub fn procfs(&mut self) -> Slot {
        if !self.has_proc {
            self.has_proc = true;
            self.push("(runtime)", Op::OwnProcfs { into: slots::PROC });
        }
        slots::PROC
    }

    /// Leaves the network namespace to be entered as late as possible, by `op`.
    pub fn defer_network(&mut self, op: Op) {
        self.waiting = Some(vec![Step { op, field: "linux.namespaces (network)".into() }]);
    }

    /// Has the steps that `compile` appends wait until the network namespace has been entered, if that is still to be done.
    pub fn after_network<T>(&mut self, compile: impl FnOnce(&mut Self) -> T) -> T {
        let Some(waiting) = self.waiting.take() else { return compile(self) };
        let steps = mem::replace(&mut self.steps, waiting);
        let compiled = compile(self);
        self.waiting = Some(mem::replace(&mut self.steps, steps));
        compiled
    }

    /// Enters the network namespace, if that is still to be done, and does what waits for it: what comes now depends on it.
    pub fn need_network(&mut self) {
        self.steps.extend(self.waiting.take().into_iter().flatten());
    }

    /// Makes sure that a parked sandbox can do what is left when its request comes.
    ///
    /// # Errors
    /// A field that asks for more than a filter.
    pub fn require_parkable(&self) -> Result<()> {
        let is_park = |step: &Step| matches!(step.op, Op::Park { .. });
        let rest = self.steps.iter().skip_while(|step| !is_park(step)).skip(1);
        let can = |op: &Op| matches!(op, Op::Capabilities { .. } | Op::Seccomp { listener: false, .. });
        match rest.into_iter().find(|step| !can(&step.op)) {
            None => Ok(()),
            Some(step) => Err(Error::config(&step.field, "cannot wait for a request: start such a container cold")),
        }
    }

    /// The steps.
    pub fn finish(self) -> Vec<Step> {
        self.steps
    }
}

/// `text` as a C string.
///
/// # Errors
/// When it has a NUL in it, which names `field`.
pub fn cstring(field: impl Display, text: impl AsRef<[u8]>) -> Result<CString> {
    CString::new(text.as_ref()).map_err(|_| Error::config(field, "has a NUL byte in it: remove it"))
}

/// `path` as a C string.
///
/// # Errors
/// When it has a NUL in it, which names `field`.
pub fn cpath(field: impl Display, path: &Path) -> Result<CString> {
    cstring(field, path.as_os_str().as_bytes())
}
