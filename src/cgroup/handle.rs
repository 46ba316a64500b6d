//! A container's cgroups as saved in state.json.

use super::plan::Driver;
use super::tree;
use crate::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a container's cgroups are. It holds no descriptor and may outlive the cgroups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handle {
    /// Who made the cgroups.
    pub driver: Driver,
    /// The v2 directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unified: Option<PathBuf>,
    /// The v1 directory of each controller joined.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub v1: BTreeMap<String, PathBuf>,
}

impl Handle {
    pub(super) fn new(driver: Driver) -> Self {
        Self { driver, unified: None, v1: BTreeMap::new() }
    }

    /// Every directory, each once, the v2 directory last.
    pub fn directories(&self) -> Vec<&Path> {
        let mut directories: Vec<&Path> = Vec::new();
        for path in self.v1.values().chain(&self.unified) {
            if !directories.contains(&path.as_path()) {
                directories.push(path);
            }
        }
        directories
    }

    /// Removes the cgroups and all that was made inside them. Processes that are still exiting are waited for.
    ///
    /// # Errors
    /// A directory that still holds processes, or that the kernel will not remove.
    pub fn destroy(&self) -> Result<()> {
        let mut first_error = Ok(());
        for directory in self.directories() {
            let removed = tree::remove(directory);
            if first_error.is_ok() {
                first_error = removed;
            }
        }
        first_error
    }
}
