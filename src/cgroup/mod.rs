//! cgroups: where a container is counted, limited, frozen and killed.
//!
//! ```text
//! Request ──needs──> Layout::probe ──┐
//!    └────────────── compile ────────┴─> CgroupPlan ──create──> Cgroup ──handle──> state.json
//! ```
//!
//! - [`layout`]: which hierarchies the machine has (unified, hybrid, v1), read as cheaply as the request allows.
//! - [`compile`]: the pure step from config.json to directories, writes and a device program.
//! - [`CgroupPlan::create`]: makes the directories and sets the limits, before the init exists. The caller clones the
//!   init as [`Join`] says and meanwhile attaches the device program ([`Cgroup::restrict_devices`]).
//! - [`Handle`]: the same cgroups as saved in state.json, and all that is done with them later.
//!
//! How a container meets its cgroups, hierarchy by hierarchy, is told in docs/cgroups.md.

pub mod convert;
pub mod create;
pub mod devices;
pub mod events;
mod freezer;
pub mod handle;
pub mod join;
pub mod layout;
pub mod limits;
pub mod plan;
pub mod program;
pub mod rootless;
pub mod stats;
pub mod systemd;
mod tree;
pub mod update;
pub mod write;

pub use create::{Cgroup, keep_programs};
pub use handle::Handle;
pub use join::Join;
pub use layout::Layout;
pub use plan::{CgroupPlan, Driver, Request, compile};
pub use rootless::is_rootless;

#[cfg(test)]
mod tests;
