//! Spec and Host compiled to a Plan.

pub mod seccomp;
