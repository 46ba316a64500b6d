//! microrun, an OCI container runtime.
//!
//! `config.json` is compiled, then executed:
//!
//! ```text
//! config.json ──spec::parse, validate──> Spec ──plan::compile──> Plan ──clone3──> init runs it ──exec──> the program
//!                                  Host facts ──┘                └──explain──> what will happen, what each step took
//! ```
//!
//! Imports run downwards only: `cli` → `container` → `plan` → `spec`, `cgroup`, `init` → `sys`. All `unsafe` code lives in
//! [`sys`].

pub mod bench;
pub mod cgroup;
pub mod cli;
pub mod clock;
pub mod container;
pub mod cpu_list;
pub mod error;
pub mod init;
pub mod log;
pub mod path;
pub mod plan;
pub mod pool;
#[cfg(feature = "shim")]
pub mod shim;
pub mod spec;
pub mod sys;

pub use error::{Error, Result};
