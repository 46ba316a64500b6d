//! The measuring instrument: start programs, time them from outside, say what the figures are worth.

pub mod sample;
pub mod stats;
