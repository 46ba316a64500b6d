//! The network namespace, begun before the configuration is understood.
//!
//! It takes the kernel a third of a start, and reading the configuration takes the runtime another quarter; so a helper
//! begins it as soon as the text of config.json looks as if it were wanted. Looks can deceive, and cost no more than the
//! helper's time then: the Plan decides.

use super::parts::Parts;
use crate::error::{Doing, Result};
use crate::init;
use crate::spec::contains;
use crate::sys::clone::{self, Child, Loan};
use crate::sys::shared::{Report, Shared};
use crate::sys::{fs as sys_fs, process};
use std::os::fd::RawFd;
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
        if contains(text, b"\"network\"", b'k') && !contains(text, b"\"uidMappings\"", b'M') {
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
        let copy = executed_mount();
        if let Some(mount) = copy {
            self.report.no_longer_needed.store(mount, Ordering::Relaxed);
        }
        let request = clone::Request { flags: clone::SHARE_MEMORY, cgroup: None, exit_signal: libc::SIGCHLD };
        let helper = clone::spawn(&request, init::help_with_network, Arc::clone(&self.report))
            .doing(|| "linux.namespaces (network): clone a helper")?;
        process::move_to_another_cpu(helper.0.pid);
        // The helper has it too, and closes it last.
        copy.into_iter().for_each(sys_fs::close);
        self.helper = Some(helper);
        Ok(())
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Without a helper nobody else does; and no container is to begin before.
        executed_mount().into_iter().for_each(sys_fs::close);
        if let Some((helper, _)) = &self.helper {
            // It waits for nobody by now, or will within ten seconds.
            let _ = process::pidfd_send_signal(helper.pidfd, libc::SIGKILL);
            let _ = process::wait(helper.pid, 0);
            sys_fs::close(helper.pidfd);
        }
    }
}

/// The descriptor of the detached mount that this process was executed from, if it is still open. Closing it for good takes an RCU
/// grace period: 30 to 60 µs.
fn executed_mount() -> Option<RawFd> {
    #[cfg(target_env = "musl")]
    return crate::sys::entry::take_copy();
    #[cfg(not(target_env = "musl"))]
    None
}
