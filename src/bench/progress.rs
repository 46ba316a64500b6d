//! What is going on, in one line that the next one replaces.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A line on standard error, if that is a terminal.
#[derive(Debug)]
pub struct Progress {
    shown: Option<Instant>,
    terminal: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self { shown: None, terminal: std::io::stderr().is_terminal() }
    }
}

impl Progress {
    /// Shows `text`, but no more than ten times a second: a terminal takes time that the starts would pay for.
    pub fn say(&mut self, text: &str) {
        if !self.terminal || self.shown.is_some_and(|at| at.elapsed() < Duration::from_millis(100)) {
            return;
        }
        self.shown = Some(Instant::now());
        let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
    }

    /// Removes the line.
    pub fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
