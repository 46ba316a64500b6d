//! The life cycle: what the verbs do.

pub mod activation;
mod ahead;
mod console;
pub mod control;
pub mod exec;
mod gates;
pub mod ground;
pub mod hooks;
pub mod host;
mod idmap;
pub mod launch;
pub mod manage;
mod netdev;
pub mod notify;
pub mod park;
pub mod pid_file;
pub mod prepare;
mod resctrl;
pub mod resident;
pub mod run;
pub mod sealed;
mod stage;
pub mod start;
pub mod state;
mod wait;
