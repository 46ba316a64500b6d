//! Whether this process may make cgroups, as far as that is known beforehand.

use super::plan::Driver;
use super::systemd;
use crate::sys::pidfd;
use nix::unistd::geteuid;

/// Root, and in the initial user namespace.
pub fn is_real_root() -> bool {
    geteuid().is_root() && pidfd::in_initial_user_namespace()
}

/// Whether to go on without the cgroups that may not be made, and to ask the user's systemd for units instead of the
/// system's. Root of a user namespace finds out by trying, but with systemd there are two kinds of it, as in runc: a user
/// who calls himself root has a manager that is his outside, and root of a container has one of the container's own.
pub fn is_rootless(driver: Driver) -> bool {
    !is_real_root() && (!geteuid().is_root() || driver == Driver::Cgroupfs || systemd::has_users_manager())
}
