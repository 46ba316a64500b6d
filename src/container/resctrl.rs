//! `linux.intelRdt`: the container's group in the resctrl file system (runtime-spec config-linux.md, "IntelRdt";
//! Documentation/filesystems/resctrl.rst).
//!
//! ```text
//! <resctrl>/<closID or id>/                    schemata, tasks    what its processes may use
//! <resctrl>/<closID or id>/mon_groups/<id>/    tasks, mon_data/   what they do use, with enableMonitoring
//! ```
//!
//! A group without closID is made for the container and goes with it; one with closID stays, for others may be in it.

mod schema;
pub mod stats;

use crate::error::{Error, Result};
use crate::sys::fs as sys_fs;
use nix::errno::Errno;
use oci_spec::runtime::{LinuxIntelRdt, Spec};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Where the file system is mounted as a rule.
pub const USUAL: &str = "/sys/fs/resctrl";
/// statfs(2): resctrl.
const RESCTRL_MAGIC: i64 = 0x0765_5821;

/// A container's groups: those that state.json names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// The directory of the class of service.
    pub path: PathBuf,
    /// Whether it is made for this container, and removed with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own: bool,
    /// The directory of the monitoring group, which is made for this container, if it is not there, and removed with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<PathBuf>,
}

/// Where the resctrl file system is mounted; `None` if it is not.
pub fn mount_point() -> Option<PathBuf> {
    let usual = fs::File::open(USUAL).ok();
    if usual.is_some_and(|directory| sys_fs::file_system(directory.as_raw_fd()) == Ok(RESCTRL_MAGIC)) {
        return Some(USUAL.into());
    }
    fs::read_to_string("/proc/self/mountinfo").ok()?.lines().find_map(mounted_at)
}

/// The place of a mount of resctrl, from its line of a mountinfo file (proc(5)).
fn mounted_at(line: &str) -> Option<PathBuf> {
    crate::path::mounted(line).filter(|(_, file_system)| file_system.starts_with("resctrl ")).map(|(place, _)| place)
}

/// The group that the container `id` is to get; `None` if its configuration does not ask for one. Nothing is made yet.
///
/// # Errors
/// A machine without the file system, a class that should be there and is not, one that has other schemata.
pub(super) fn find(spec: &Spec, id: &str) -> Result<Option<Group>> {
    let Some(rdt) = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) else { return Ok(None) };
    let Some(root) = mount_point() else {
        let problem = format!("no resctrl file system is mounted, usually at {USUAL}: mount it, or remove the field");
        return Err(Error::config("linux.intelRdt", problem));
    };
    find_below(&root, rdt, id).map(Some)
}

fn find_below(root: &Path, rdt: &LinuxIntelRdt, id: &str) -> Result<Group> {
    let class = rdt.clos_id().as_deref().filter(|class| !class.is_empty());
    let path = match class {
        Some("/") => root.to_owned(),
        class => root.join(class.unwrap_or(id)),
    };
    let is_there = path.is_dir();
    if class.is_some() && !is_there && lines(rdt).is_empty() {
        let problem = format!(
            "clos dir not accessible: {} must be there where no schemata are given: make it, or give them",
            path.display()
        );
        return Err(Error::config("linux.intelRdt.closID", problem));
    }
    if class.is_some() && is_there {
        schema::require_same(root, &path, rdt)?;
    }
    let monitor = rdt.enable_monitoring().unwrap_or(false).then(|| path.join("mon_groups").join(id));
    Ok(Group { own: class.is_none() && !is_there, path, monitor })
}

/// What is written to the schemata file, in the order of the spec: a line each.
fn lines(rdt: &LinuxIntelRdt) -> String {
    let named = [rdt.l3_cache_schema(), rdt.mem_bw_schema()].into_iter().flatten();
    let all = named.chain(rdt.schemata().iter().flatten());
    all.filter(|line| !line.is_empty()).flat_map(|line| [line, "\n"]).collect()
}

impl Group {
    /// Makes what is to be made, and writes the schemata. `made` holds, also when this fails, what has been made.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(super) fn create(&mut self, spec: &Spec, made: &mut Vec<PathBuf>) -> Result<()> {
        let Some(rdt) = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) else { return Ok(()) };
        match fs::create_dir(&self.path) {
            Ok(()) => made.push(self.path.clone()),
            // Somebody else's, then.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.own = false,
            Err(error) => return Err(self.refused(format!("create {}", self.path.display()), &error)),
        }
        let lines = lines(rdt);
        if !lines.is_empty() {
            self.write("schemata", &lines)?;
        }
        let Some(monitor) = &self.monitor else { return Ok(()) };
        match fs::create_dir(monitor) {
            Ok(()) => made.push(monitor.clone()),
            // Left by a container of this id whose state is lost, as a rule. runc uses it as well.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(self.refused(format!("create {}", monitor.display()), &error)),
        }
        Ok(())
    }

    /// Puts the process `pid` into the groups.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(super) fn join(&self, pid: i32) -> Result<()> {
        // A monitoring group takes only tasks of its class.
        [Some(&self.path), self.monitor.as_ref()].into_iter().flatten().try_for_each(|group| {
            let tasks = group.join("tasks");
            fs::write(&tasks, pid.to_string())
                .map_err(|error| self.refused(format!("write {pid} to {}", tasks.display()), &error))
        })
    }

    /// What the class's schemata say now of the resources that `lines` are about.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn lines_like(&self, lines: &[&str]) -> Result<String> {
        let file = self.path.join("schemata");
        let now =
            fs::read_to_string(&file).map_err(|error| self.refused(format!("read {}", file.display()), &error))?;
        let resource = |line: &str| line.split(':').next().unwrap_or_default().trim().to_owned();
        let wanted: Vec<_> = lines.iter().flat_map(|text| text.lines()).map(resource).collect();
        let like = now.lines().filter(|line| wanted.contains(&resource(line)));
        Ok(like.flat_map(|line| [line, "\n"]).collect())
    }

    /// Writes `lines` to the file `name` of the class.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(super) fn write(&self, name: &str, lines: &str) -> Result<()> {
        let file = self.path.join(name);
        let doing = || format!("write {:?} to {}", lines.trim_end(), file.display());
        fs::write(&file, lines).map_err(|error| self.refused(doing(), &error))
    }

    /// Removes what was made for the container.
    ///
    /// # Errors
    /// What the kernel refuses; what is gone is no error.
    pub(super) fn destroy(&self) -> Result<()> {
        let class = self.own.then_some(&self.path);
        [self.monitor.as_ref(), class].into_iter().flatten().try_for_each(|path| remove(path))
    }

    /// The error of an operation, with what the kernel says of it in "info/last_cmd_status".
    fn refused(&self, doing: String, error: &io::Error) -> Error {
        let roots = self.path.ancestors().take(2);
        let said = roots.map(|root| root.join("info/last_cmd_status")).find_map(|file| fs::read_to_string(file).ok());
        let said = match said.as_deref().map(str::trim) {
            None | Some("" | "ok") => String::new(),
            Some(said) => format!(" (last_cmd_status: {said})"),
        };
        Error::io(format!("linux.intelRdt: {doing}{said}"), error)
    }
}

/// Removes one directory. In resctrl that takes the groups and files in it along.
///
/// # Errors
/// What the kernel refuses; what is gone is no error.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir(path).map_err(|error| (error.raw_os_error().map(Errno::from_raw), error)) {
        Ok(()) | Err((Some(Errno::ENOENT), _)) => Ok(()),
        Err((_, error)) => Err(Error::io(format!("linux.intelRdt: remove {}", path.display()), &error)),
    }
}

#[cfg(test)]
mod tests;
