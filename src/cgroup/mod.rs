//! cgroups: where a container is counted, limited, frozen and killed.
//!
//! ```text
//! Request ──needs──> Layout::probe ──┐
//!    └────────────── compile ────────┴─> CgroupPlan ──create──> Cgroup ──handle──> state.json
//! ```
//!
//! - [`layout`]: which hierarchies the machine has (unified, hybrid, v1), read as cheaply as the request allows.
//! - [`compile`](plan::compile): the pure step from config.json to directories, writes and a device program.
//! - [`CgroupPlan::create`]: makes the directories and sets the limits, before the init exists. The caller clones the
//!   init with `CLONE_INTO_CGROUP` and [`Cgroup::born_in`]; the child writes "0" to each of [`Cgroup::join_files`]
//!   before it does anything else.
//! - [`Handle`]: the same cgroup as saved in state.json.
//!
//! How a container meets its cgroups, hierarchy by hierarchy, is told in docs/cgroups.md.

pub mod convert;
pub mod create;
pub mod devices;
pub mod handle;
pub mod layout;
pub mod limits;
pub mod plan;
pub mod program;
mod tree;
pub mod write;

pub use create::Cgroup;
pub use handle::Handle;
pub use layout::{Layout, Needs};
pub use plan::{CgroupPlan, Driver, Request, compile};

#[cfg(test)]
mod tests;
