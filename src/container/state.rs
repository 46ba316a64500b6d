//! What state.json holds of a container, and what `state` tells of it.

use super::resctrl;
use crate::cgroup::Handle;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// runtime-spec's version of what [`Report`] says.
pub const OCI_VERSION: &str = "1.3.0";

/// What state.json holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The container's id.
    pub id: String,
    /// `ociVersion` of its config.json.
    pub oci_version: String,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root directory, absolute.
    pub rootfs: PathBuf,
    /// When it was created: RFC 3339, UTC, nanoseconds.
    pub created: String,
    /// The user who created it.
    pub owner: u32,
    /// `annotations`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Its cgroups.
    pub cgroup: Handle,
    /// Its group in the resctrl file system, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resctrl: Option<resctrl::Group>,
    /// Whether it was left the caller's session keyring.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_new_keyring: bool,
    /// Whether its pid namespace is not its own, so that its processes outlive init.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares_pids: bool,
    /// The names of its stdio, if it was there when the container was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdio: Option<Vec<String>>,
    /// Whether it was restored into a time namespace that its config.json does not mention.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_time: bool,
    /// Whether its network namespace is a pool's, which may use it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub network_of_pool: bool,
    /// The limits in force, once `update` has changed those of its config.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<LinuxResources>,
}

/// The life cycle of runtime-spec runtime.md, "State", and runc's `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Somebody is creating it, or died while doing so.
    Creating,
    /// Init waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// Its processes are frozen, whether it has been started or not.
    Paused,
    /// Init is gone.
    Stopped,
}

impl Status {
    /// The name that engines know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What `state` prints (runtime-spec runtime.md, "State", and runc's additions) and what hooks get on stdin.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// runtime-spec's version.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Init as the runtime sees it; 0 when there is none.
    pub pid: i32,
    /// `Status::name`.
    pub status: &'static str,
    /// The bundle.
    pub bundle: PathBuf,
    /// The root directory.
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    /// `annotations`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The creator's name; empty as in runc for root.
    pub owner: String,
}

impl State {
    /// The report for this container.
    pub fn report(&self, status: Status, pid: i32) -> Report {
        Report {
            oci_version: OCI_VERSION.to_owned(),
            id: self.id.clone(),
            pid,
            status: status.name(),
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            created: self.created.clone(),
            annotations: self.annotations.clone(),
            owner: String::new(),
        }
    }

    /// The container as runtime-spec's library describes it, for a seccomp agent; `pid` is its init.
    pub fn of_spec(&self, status: oci_spec::runtime::ContainerState, pid: i32) -> oci_spec::runtime::State {
        let mut state = oci_spec::runtime::State::default();
        state
            .set_version(OCI_VERSION.to_owned())
            .set_id(self.id.clone())
            .set_status(status)
            .set_pid(Some(pid))
            .set_bundle(self.bundle.clone())
            .set_annotations(Some(self.annotations.clone().into_iter().collect()));
        state
    }
}
