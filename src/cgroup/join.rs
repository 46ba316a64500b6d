//! How a new process comes into a container's cgroups.

use super::handle::Handle;
use super::layout::{self, Layout, Needs};
use super::tree;
use crate::error::{Doing, Kind};
use crate::path::clean;
use crate::{Error, Result};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The cgroups that a process shall be in, opened.
///
/// A new process is born in [`born_in`](Self::born_in) and then writes "0" to each of [`files`](Self::files), itself
/// and while it has one thread.
#[derive(Debug, Default)]
pub struct Join {
    unified: Option<OwnedFd>,
    files: Vec<OwnedFd>,
}

impl Join {
    /// The directory to be born in with `CLONE_INTO_CGROUP` (Linux 5.7), where there is cgroup v2.
    pub fn born_in(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// The open `tasks` files of the v1 cgroups.
    ///
    /// Of all ways into a v1 cgroup this is the one that takes no global lock (Linux 5.6; kernel/cgroup/cgroup.c,
    /// `cgroup_procs_write_start`): a write of a pid, or to cgroup.procs, may wait tens of milliseconds for an RCU
    /// grace period.
    pub fn files(&self) -> &[OwnedFd] {
        &self.files
    }

    pub(super) fn add_unified(&mut self, directory: OwnedFd) {
        self.unified = Some(directory);
    }

    pub(super) fn add_v1(&mut self, directory: &OwnedFd, path: &Path) -> Result<()> {
        let file = openat(directory, "tasks", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty());
        self.files.push(file.doing(|| format!("open {}/tasks", path.display()))?);
        Ok(())
    }
}

/// Cgroups below the container's own that a process shall join instead, by controller; "" is the v2 hierarchy and every
/// v1 controller that is not named.
pub type SubCgroups = BTreeMap<String, PathBuf>;

/// Reads the arguments of `exec --cgroup`: `path` for cgroup v2 and whatever is not named otherwise,
/// `controller[,controller]:path` for v1.
///
/// # Errors
/// An empty controller, or one named twice.
pub fn parse_sub_cgroups<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<SubCgroups> {
    let mut sub = SubCgroups::new();
    for argument in arguments {
        let wrong =
            |problem: String| Error::new(Kind::Usage, format!("invalid --cgroup argument {argument:?}: {problem}"));
        let (controllers, path) = argument.split_once(':').map_or((None, argument), |(c, path)| (Some(c), path));
        for controller in controllers.unwrap_or_default().split(',') {
            if controllers.is_some() && controller.is_empty() {
                return Err(wrong("empty controller before the colon: name one, such as \"cpu:/sub\"".to_owned()));
            }
            if sub.insert(controller.to_owned(), path.into()).is_some() {
                return Err(wrong(format!("a second path for controller {controller:?}: give one")));
            }
        }
    }
    Ok(sub)
}

impl Handle {
    /// Opens the container's cgroups for a further process, those of `sub` instead where it names one.
    ///
    /// # Errors
    /// A cgroup that is gone, or a `sub` that is outside of the container's cgroup or for a controller that it has not
    /// joined.
    pub fn join(&self, sub: &SubCgroups) -> Result<Join> {
        if let Some(unknown) =
            sub.keys().find(|controller| !controller.is_empty() && !self.v1.contains_key(*controller))
        {
            let problem =
                format!("--cgroup: unknown controller {unknown:?}: name one in which the container has a cgroup");
            return Err(Error::new(Kind::Usage, problem));
        }
        let mut join = self.join_v1(sub)?;
        if let Some(directory) = &self.unified {
            let path = below(directory, sub.get(""))?;
            join.add_unified(tree::open_directory(&path).doing(|| format!("open {}", path.display()))?);
        }
        Ok(join)
    }

    /// The part of [`Handle::join`] that is about v1 hierarchies.
    fn join_v1(&self, sub: &SubCgroups) -> Result<Join> {
        let mut join = Join::default();
        let mut joined: Vec<PathBuf> = Vec::new();
        for (controller, directory) in &self.v1 {
            let path = below(directory, sub.get(controller).or_else(|| sub.get("")))?;
            if !joined.contains(&path) {
                join.add_v1(&tree::open_directory(&path).doing(|| format!("open {}", path.display()))?, &path)?;
                joined.push(path);
            }
        }
        Ok(join)
    }

    /// Opens the v2 cgroup that the container's init is in now, for when the container's own cgroup takes no process
    /// any more: the init has made cgroups below it and enabled controllers for them (clone3(2) says `EBUSY`), or
    /// someone removed it (`ENODEV`). The v1 cgroups are the container's own all the same, or their limits would not hold.
    ///
    /// # Errors
    /// An init that is gone or in no v2 cgroup, or a v1 cgroup that is gone.
    pub fn join_init(&self, init: i32) -> Result<Join> {
        let mut join = self.join_v1(&SubCgroups::new())?;
        let file = format!("/proc/{init}/cgroup");
        let text = fs::read_to_string(&file).doing(|| format!("read {file}"))?;
        let mount = Layout::probe(Needs::default())?.unified;
        let (Some(path), Some(mount)) = (layout::cgroups_of(&text).remove(""), mount) else {
            return Err(Error::new(Kind::System, format!("{file} names no v2 cgroup")));
        };
        let path = mount.join(clean(&path));
        join.add_unified(tree::open_directory(&path).doing(|| format!("open {}", path.display()))?);
        Ok(join)
    }
}

/// `sub` below `directory`; ".." may not lead out of it.
fn below(directory: &Path, sub: Option<&PathBuf>) -> Result<PathBuf> {
    let Some(sub) = sub else { return Ok(directory.to_owned()) };
    let mut depth = 0;
    for component in sub.components() {
        match component {
            std::path::Component::Normal(_) => depth += 1,
            std::path::Component::ParentDir => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            let problem = format!("bad sub cgroup path {:?}: it leads out of the container's cgroup", sub.display());
            return Err(Error::new(Kind::Usage, problem));
        }
    }
    Ok(directory.join(clean(sub)))
}
