//! What the pool says to who asks.

use crate::sys::{request, socket};
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// An answer that has not been heard to its end.
#[derive(Debug)]
pub struct Unsaid {
    answers: OwnedFd,
    kind: u8,
    text: Vec<u8>,
    /// How much of the text has been said.
    said: usize,
}

impl Unsaid {
    /// An answer of the `kind` ([`request::answer`]), of which nothing has been said.
    pub fn new(answers: OwnedFd, kind: u8, text: String) -> Self {
        Self { answers, kind, text: text.into(), said: 0 }
    }

    /// Says as much as there is room for; whether that is all. Who does not listen any more has not missed anything.
    pub fn say(&mut self) -> bool {
        loop {
            let rest = self.text.get(self.said..).unwrap_or_default();
            let now = rest.get(..request::ANSWER - 1).unwrap_or(rest);
            match socket::send_fds_now(self.answers.as_raw_fd(), &[&[self.kind], now], &[]) {
                Err(Errno::EAGAIN) => return false,
                Ok(()) if now.len() < rest.len() => self.said += now.len(),
                _ => return true,
            }
        }
    }
}

impl AsFd for Unsaid {
    /// Writable when there is room for more.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.answers.as_fd()
    }
}

/// Answers in a few words. Who does not listen has not missed anything.
pub fn say(answers: &OwnedFd, kind: u8, text: &str) {
    let _ = socket::send_fds_now(answers.as_raw_fd(), &[&[kind], text.as_bytes()], &[]);
}
