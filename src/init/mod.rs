//! The executor: what the cloned child does, and nothing else.
//!
//! A Plan is a list of [`Step`]s. [`run`] executes them in order, in a child that may share its parent's memory: it
//! allocates nothing, locks nothing, never panics and uses no stdio, so the same code serves the command line, a
//! resident pool and a threaded shim. The step that runs is noted in [`Report`](crate::sys::shared::Report); when one fails its errno is noted
//! too and the child ends. The parent turns the pair into a sentence.
//!
//! ```text
//! runtime                                 init (the child)
//!    │ clone3 ──────────────────────────────▶ steps …
//!    │ write uid_map, gid_map ◀── Gate 'm' ── (only with a new user namespace)
//!    │ run hooks              ◀── Gate 'h' ── (only with prestart, createRuntime hooks)
//!    │ record the pid ─────────────────────▶ AwaitRecord: nothing foreign runs before the pid is on disk
//!    │                                        AwaitStart (create): until `start` connects
//!    │ end of file on the pair ◀───────────── execve: the pair is closed on exec
//! ```

mod attributes;
mod console;
mod copy;
mod hook;
mod mounts;
mod network;
mod op;
mod park;
mod program;
mod rights;
mod run;
mod slots;
mod start;
mod target;

pub use console::Terminal;
pub use copy::DEEPEST as DEEPEST_COPY;
pub use hook::{Caller, Hook, Words, run as run_hook};
pub use network::{help as help_with_network, is_made as network_is_made, work_beside, worked_beside};
pub use op::{Create, DeviceNode, Environment, Exec, Gate, Op, Rule, Source, Step, namespace_names};
pub use rights::{NULL_OF_SANDBOX, drop_bounding, null_of_nobody, own_stdio};
pub use run::{FAILURE, Inherited, Init, READY, RECORDED, run, run_here};
pub use slots::{Slot, Slots};
pub use start::{GO, GOING};
pub use target::open_in_root;
