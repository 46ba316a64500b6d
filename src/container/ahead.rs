//! The network namespace, begun before the configuration is understood.
//!
//! It takes the kernel a third of a start, and reading the configuration takes the runtime another quarter; so a helper
//! begins it as soon as the text of config.json looks as if it were wanted. Looks can deceive, and cost no more than the
//! helper's time then: the Plan decides.

use crate::error::{Doing, Result};
use crate::init;
use crate::spec::{contains, places};
use crate::sys::clone::{self, Child, Loan};
use crate::sys::shared::{Report, Shared};
use crate::sys::{cpus, fs as sys_fs, process};
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
    /// Without a helper so far, for an init that runs in this memory.
    pub fn idle() -> Self {
        Self { report: with_pid(Shared::of_this_memory()), helper: None }
    }

    /// Shares memory with an init that gets a copy of this process's, too. A helper that has begun is ended: it would agree with nobody.
    pub fn share_with_copies(&mut self) -> Result<()> {
        if !self.report.is_mapped() {
            let report = report(false)?;
            self.end_helper();
            self.report = report;
        }
        Ok(())
    }

    /// The helper, which is started now if it has not been: on another CPU; where there is none, init comes first and
    /// does it alone.
    pub fn take_helper(&mut self) -> Result<Option<Helper>> {
        if self.helper.is_none() {
            self.start_helper()?;
        }
        Ok(self.helper.take())
    }

    /// Starts the helper.
    pub fn start_helper(&mut self) -> Result<()> {
        let copy = executed_mount();
        if let Some(mount) = copy {
            self.report.no_longer_needed.store(mount, Ordering::Relaxed);
        }
        let request = clone::Request { flags: clone::SHARE_MEMORY, cgroup: None, exit_signal: libc::SIGCHLD };
        let helper = clone::spawn(&request, init::help_with_network, Arc::clone(&self.report))
            .doing(|| "linux.namespaces (network): clone a helper")?;
        cpus::move_to_another(helper.0.pid);
        // The helper has it too, and closes it last.
        copy.into_iter().for_each(sys_fs::close);
        self.helper = Some(helper);
        Ok(())
    }
}

impl Ahead {
    fn end_helper(&mut self) {
        if let Some((helper, _loan)) = self.helper.take() {
            // It waits for nobody by now, or will within ten seconds.
            let _ = process::pidfd_send_signal(helper.pidfd, libc::SIGKILL);
            let _ = process::wait(helper.pid, 0);
            sys_fs::close(helper.pidfd);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Without a helper nobody else does; and no container is to begin before.
        executed_mount().into_iter().for_each(sys_fs::close);
        self.end_helper();
    }
}

/// Where an init says how far it is: one that runs in this memory, or gets a copy of it.
pub(super) fn report(shares_memory: bool) -> Result<Arc<Shared<Report>>> {
    Ok(with_pid(if shares_memory {
        Shared::of_this_memory()
    } else {
        Shared::new().doing(|| "map memory to share with the container's init")?
    }))
}

fn with_pid(report: Shared<Report>) -> Arc<Shared<Report>> {
    report.runtime.store(process::getpid(), Ordering::Relaxed);
    Arc::new(report)
}

/// The descriptor of the detached mount that this process was executed from, if it is still open. Closing it for good takes an RCU
/// grace period: 30 to 60 µs.
fn executed_mount() -> Option<RawFd> {
    #[cfg(target_env = "musl")]
    return crate::sys::entry::take_copy();
    #[cfg(not(target_env = "musl"))]
    None
}

/// What a configuration looks as if it asked for.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Looks {
    /// Its init gets a copy of this process's memory: see `Plan::share_memory`.
    pub to_copy: bool,
    /// A new network namespace that belongs to our own user namespace.
    pub wanted: bool,
}

/// What the configuration `text` looks as if it asked for.
pub(super) fn looks(text: &[u8]) -> Looks {
    let is_mapped = contains(text, b"\"uidMappings\"", b'M');
    Looks {
        to_copy: is_mapped || contains(text, b"\"oomScoreAdj\"", b'j') || contains(text, b"\"timeOffsets\"", b'O'),
        wanted: !is_mapped && has_new_network(text),
    }
}

/// Whether one of the innermost objects of `text` has "network" in it and no "path".
fn has_new_network(text: &[u8]) -> bool {
    let is_brace = |byte: &u8| matches!(byte, b'{' | b'}');
    let is_new = |place: usize| {
        let (before, after) = text.split_at(place);
        let begin = before.iter().rposition(is_brace).unwrap_or(0);
        let end = after.iter().position(is_brace).map_or(text.len(), |length| place + length);
        !contains(text.get(begin..end).unwrap_or_default(), b"\"path\"", b'p')
    };
    places(text, b"\"network\"", b'k').any(is_new)
}

#[cfg(test)]
mod tests {
    use super::{Ahead, looks};

    #[test]
    fn memory_is_shared_with_copies_where_that_is_wanted() {
        let seems_to_copy = |text| looks(text).to_copy;
        assert!(seems_to_copy(br#"{"process": {"oomScoreAdj": 100}}"#));
        assert!(seems_to_copy(br#"{"linux": {"uidMappings": []}}"#));
        assert!(!seems_to_copy(br#"{"linux": {"gidMappings": []}}"#));
        assert!(seems_to_copy(br#"{"linux": {"timeOffsets": {}}}"#));
        assert!(!seems_to_copy(br#"{"process": {"args": ["true"]}}"#));
        let mut ahead = Ahead::idle();
        assert!(!ahead.report.is_mapped());
        ahead.share_with_copies().unwrap();
        assert!(ahead.report.is_mapped());
        assert_eq!(ahead.report.runtime.load(std::sync::atomic::Ordering::Relaxed), super::process::getpid());
    }

    #[test]
    fn a_namespace_by_path_is_not_a_new_one() {
        let seems_wanted = |text: &[u8]| looks(text).wanted;
        let of = |namespaces: &str| seems_wanted(format!("{{\"linux\":{{\"namespaces\":[{namespaces}]}}}}").as_bytes());
        assert!(of(r#"{"type":"pid"},{"type":"network"}"#));
        assert!(of(r#"{"type": "pid", "path": "/p"}, {"type": "network"}, {"type": "ipc", "path": "/i"}"#));
        assert!(!of(r#"{"type":"pid"}, {"type":"network","path":"/n"}"#));
        assert!(!of(r#"{"path": "/n", "type": "network"}"#));
        assert!(!of(r#"{"type":"pid"}"#));
        assert!(!of(r#"{"type":"network"}], "uidMappings":[{"size":1}"#));
        // Not only the first is looked at, nor only what is in braces.
        assert!(of(r#"{"type":"network","path":"/n"},{"type":"network"}"#));
        assert!(seems_wanted(br#""network""#));
        assert!(!seems_wanted(b""));
    }
}
