//! The network namespace, begun before the configuration is understood.
//!
//! It takes the kernel a third of a start, and reading the configuration takes the runtime another quarter; so a helper
//! begins it as soon as the text of config.json looks as if it were wanted. Looks can deceive, and cost no more than the
//! helper's time then: the Plan decides.

use super::parts::Parts;
use crate::error::{Doing, Result};
use crate::init;
use crate::sys::clone::{self, Child, Loan};
use crate::sys::process;
use crate::sys::shared::{Report, Shared};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The process that makes the namespace.
pub(super) type Helper = (Child, Loan<Shared<Report>>);

/// Memory shared with init and, perhaps, a helper that is at work in it. A helper that nobody takes is ended.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Where helper and init agree on who makes the namespace.
    pub report: Arc<Shared<Report>>,
    helper: Option<Helper>,
}

impl Ahead {
    /// Without a helper.
    pub fn idle() -> Result<Self> {
        let report: Shared<Report> = Shared::new().doing(|| "map memory to share with the container's init")?;
        report.runtime.store(process::getpid(), Ordering::Relaxed);
        Ok(Self { report: Arc::new(report), helper: None })
    }

    /// With a helper, if the configuration `text` seems to ask for a new network namespace that belongs to our own user
    /// namespace, unless there is one among the `parts`.
    pub fn begin(text: &[u8], parts: Option<&Parts>) -> Result<Self> {
        let mut ahead = Self::idle()?;
        if parts.is_some_and(|parts| parts.network.is_some()) {
            return Ok(ahead);
        }
        if contains(text, b"\"network\"") && !contains(text, b"\"uidMappings\"") {
            ahead.start_helper()?;
        }
        Ok(ahead)
    }

    /// The helper, which is started now if it has not been: on another CPU; where there is none, init comes first and
    /// does it alone.
    pub fn take_helper(&mut self) -> Result<Option<Helper>> {
        if self.helper.is_none() {
            self.start_helper()?;
        }
        Ok(self.helper.take())
    }

    fn start_helper(&mut self) -> Result<()> {
        let request = clone::Request { flags: clone::SHARE_MEMORY, cgroup: None, exit_signal: libc::SIGCHLD };
        let helper = clone::spawn(&request, init::help_with_network, Arc::clone(&self.report))
            .doing(|| "linux.namespaces (network): clone a helper")?;
        process::move_to_another_cpu(helper.0.pid);
        self.helper = Some(helper);
        Ok(())
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some((helper, _)) = &self.helper {
            // It waits for nobody by now, or will within ten seconds.
            let _ = process::pidfd_send_signal(helper.pidfd, libc::SIGKILL);
            let _ = process::wait(helper.pid, 0);
            crate::sys::fs::close(helper.pidfd);
        }
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}
