//! A daemon, from its start to its end.

use super::super::sample;
use super::super::world::{Result, doing};
use super::PATIENCE;
use crate::sys::process;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A daemon that serves.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    child: Child,
}

impl Daemon {
    /// Starts it, and waits until it is `ready`.
    ///
    /// # Errors
    /// It ends, or does not become ready: the last line of its log.
    pub fn start(name: &'static str, command: &mut Command, log: &Path, ready: impl Fn() -> bool) -> Result<Self> {
        let file = File::create(log).map_err(doing("create", log))?;
        command.stderr(file);
        // It ends with this process, however that ends.
        process::before_exec(command, || {
            process::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGTERM as usize, 0, 0, 0]).map(drop)
        });
        let child = sample::spawn(command).map_err(|failure| format!("{name}: {failure}"))?;
        let mut daemon = Self { name, child };
        let began = Instant::now();
        while !ready() {
            let ended = daemon.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || began.elapsed() > PATIENCE {
                let said = fs::read_to_string(log).unwrap_or_default();
                let last = said.lines().next_back().unwrap_or("it says nothing");
                let problem = if ended { "ended" } else { "does not serve" };
                return Err(format!("{name} {problem}: {last}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Ends it as a service manager does; what there is to say of that.
    pub fn end(mut self) -> Option<String> {
        let _ = process::kill(self.pid(), libc::SIGTERM);
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if began.elapsed() > PATIENCE {
                return Some(format!("process {} ({}): it did not end within {PATIENCE:?}", self.pid(), self.name));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            sample::end(&mut self.child);
        }
    }
}
