//! Root file systems whose files have other owners than on the disk, for pods with a user namespace: id-mapped mounts
//! (mount_setattr(2), Linux 5.12; below an overlay, 5.19).
//!
//! containerd asks for them by options of a mount that are no file system's: `uidmap=` and `gidmap=`, each with
//! `CONTAINER:HOST:SIZE` as often as wanted.

use super::rootfs::{self, LAYERS, common_directory};
use crate::container::idmap;
use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::plan::builder::cpath;
use crate::sys::mount::{self, Attributes};
use crate::sys::own;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use std::fs::DirBuilder;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What the options of a mount say about ids.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    uids: Vec<LinuxIdMapping>,
    gids: Vec<LinuxIdMapping>,
}

impl Mapping {
    /// Whether `option` is about ids; then it is noted.
    ///
    /// # Errors
    /// One that is not what it should be.
    pub fn takes(&mut self, option: &str) -> Result<bool> {
        let (mappings, ids) = if let Some(mappings) = option.strip_prefix("uidmap=") {
            (mappings, &mut self.uids)
        } else if let Some(mappings) = option.strip_prefix("gidmap=") {
            (mappings, &mut self.gids)
        } else {
            return Ok(false);
        };
        for mapping in mappings.split(',') {
            ids.push(read(mapping).ok_or_else(|| {
                let problem =
                    format!("rootfs: the mount option {option:?} is not CONTAINER:HOST:SIZE, with commas in between");
                Error::new(Kind::Usage, problem)
            })?);
        }
        Ok(true)
    }

    /// A user namespace of that mapping, if there is one.
    ///
    /// # Errors
    /// Half a mapping, or one that the kernel refuses.
    pub fn namespace(&self) -> Result<Option<OwnedFd>> {
        match (self.uids.is_empty(), self.gids.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => idmap::user_namespace(&self.uids, &self.gids).map(Some),
            _ => Err(Error::new(
                Kind::Usage,
                "rootfs: one of the mount options uidmap= and gidmap= is missing: give both",
            )),
        }
    }
}

fn read(mapping: &str) -> Option<LinuxIdMapping> {
    let numbers: Vec<u32> = mapping.split(':').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let &[container, host, size] = numbers.as_slice() else { return None };
    LinuxIdMappingBuilder::default().container_id(container).host_id(host).size(size).build().ok()
}

/// Layers that are mapped, as long as an overlay of them is not mounted yet.
#[derive(Debug)]
pub(super) struct Layers(PathBuf);

impl Drop for Layers {
    fn drop(&mut self) {
        if let Err(error) = remove_layers(&self.0) {
            log::warn(error);
        }
    }
}

/// Removes mapped layers at `place`, if there are any.
///
/// # Errors
/// A mount that the kernel keeps.
pub(super) fn remove_layers(place: &Path) -> Result<()> {
    rootfs::unmount_all(place)?;
    match std::fs::remove_dir(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("remove {}", place.display()))
        }
        _ => Ok(()),
    }
}

/// Mounts the directory that all layers of an overlay with the options `data` are below at `place`, mapped by
/// `namespace`, and returns the options with the layers there.
///
/// # Errors
/// Layers that have no directory in common, or on a file system without id-mapped mounts.
pub(super) fn layers(data: &str, place: &Path, namespace: &OwnedFd) -> Result<(String, Layers)> {
    let layers = data.split(',').find_map(|option| option.strip_prefix(LAYERS)).unwrap_or_default();
    let layers: Vec<&str> = layers.split(':').collect();
    let common = common_directory(&layers);
    if common.len() <= 1 {
        let problem = "rootfs: the overlay's layers have no directory in common but /, so they cannot be id-mapped";
        return Err(Error::new(Kind::System, problem));
    }
    let mapped = copy(Path::new(common), libc::MOUNT_ATTR_RDONLY, namespace)?;
    DirBuilder::new().mode(0o700).create(place).doing(|| format!("create {}", place.display()))?;
    attach(&mapped, place).inspect_err(|_| {
        let _ = std::fs::remove_dir(place);
    })?;
    let there = Layers(place.to_owned());
    let moved = layers.iter().filter_map(|layer| layer.strip_prefix(common));
    let moved: Vec<String> = moved.map(|layer| format!("{}/{layer}", place.display())).collect();
    let others = data.split(',').filter(|option| !option.starts_with(LAYERS)).map(str::to_owned);
    let options: Vec<String> = std::iter::once(format!("{LAYERS}{}", moved.join(":"))).chain(others).collect();
    Ok((options.join(","), there))
}

/// Puts an id-mapped copy in the place of what is mounted at `target`.
///
/// # Errors
/// A file system without id-mapped mounts.
pub(super) fn replace(target: &Path, namespace: &OwnedFd) -> Result<()> {
    let mapped = copy(target, 0, namespace)?;
    umount2(target, MntFlags::MNT_DETACH).doing(|| format!("unmount {}", target.display()))?;
    attach(&mapped, target)
}

/// A detached copy of the mounts at `path`, mapped by `namespace`, with more of `MOUNT_ATTR_*`.
fn copy(path: &Path, attributes: u64, namespace: &OwnedFd) -> Result<OwnedFd> {
    let doing = || format!("rootfs: id-map {}", path.display());
    let name = cpath("rootfs", path)?;
    let tree = mount::open_tree_clone(libc::AT_FDCWD, &name, libc::AT_RECURSIVE as u32).map(own).doing(doing)?;
    let attributes = Attributes {
        set: libc::MOUNT_ATTR_IDMAP | attributes,
        propagation: libc::MS_PRIVATE,
        userns_fd: namespace.as_raw_fd() as u64,
        ..Attributes::default()
    };
    mount::set_attributes(tree.as_raw_fd(), c"", libc::AT_RECURSIVE as u32, &attributes).doing(doing)?;
    Ok(tree)
}

fn attach(tree: &OwnedFd, target: &Path) -> Result<()> {
    let doing = || format!("rootfs: mount at {}", target.display());
    let target = open(target, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).doing(doing)?;
    mount::attach(tree.as_raw_fd(), target.as_raw_fd()).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::super::messages::Mount;
    use super::super::rootfs::{mount_all, unmount_all};
    use super::*;
    use crate::sys::process::unshare;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, chown};

    #[test]
    fn mappings_are_read_as_containerd_writes_them() {
        let mut mapping = Mapping::default();
        assert_eq!(mapping.takes("uidmap=0:666:1000,1000:6666:64536"), Ok(true));
        assert_eq!(mapping.takes("index=off"), Ok(false));
        assert!(mapping.namespace().unwrap_err().to_string().contains("give both"));
        assert_eq!(mapping.uids[1].host_id(), 6666);
        for wrong in ["uidmap=", "uidmap=0:1", "gidmap=0:1:2:3", "gidmap=a:1:2", "uidmap=0:1:-2", "uidmap=0:1:2,"] {
            assert!(mapping.takes(wrong).is_err(), "{wrong}");
        }
    }

    /// Whether this is root on a kernel that maps what is below `path`.
    fn can_map(path: &Path) -> bool {
        let mut mapping = Mapping::default();
        let taken = mapping.takes("uidmap=0:1:1").and_then(|_| mapping.takes("gidmap=0:1:1"));
        let mapped = taken
            .and_then(|_| mapping.namespace())
            .and_then(|namespace| namespace.map_or(Ok(()), |namespace| copy(path, 0, &namespace).map(drop)));
        if let Err(error) = &mapped {
            println!("skipped: needs root and id-mapped mounts: {error}");
        }
        mapped.is_ok()
    }

    #[test]
    fn files_of_layers_and_of_binds_have_other_owners() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["1/fs", "2/fs", "3/fs", "3/work", "bundle/rootfs"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        for layer in ["1", "2"] {
            let file = path(layer).join("fs").join(format!("of-{layer}"));
            fs::write(&file, "").unwrap();
            chown(&file, Some(5), Some(7)).unwrap();
        }
        if !can_map(directory.path()) {
            return;
        }
        let (uids, gids) = ("uidmap=0:100000:10", "gidmap=0:200000:10");
        let layers = format!("lowerdir={}:{}", path("2/fs").display(), path("1/fs").display());
        let upper = format!("upperdir={}", path("3/fs").display());
        let work = format!("workdir={}", path("3/work").display());
        let mount = |kind: &str, source: &str, options: &[&str]| Mount {
            kind: kind.into(),
            source: source.into(),
            target: String::new(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let bound = path("1/fs");
        let overlay = mount("overlay", "overlay", &[uids, gids, &layers, &upper, &work]);
        let bind = mount("bind", bound.to_str().unwrap(), &[gids, uids, "ro", "rbind"]);
        let target = path("bundle/rootfs");
        let owner = |name: &str| fs::metadata(target.join(name)).map(|file| (file.uid(), file.gid())).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // Mounts are this thread's own, and nothing of them is left.
                unshare(libc::CLONE_FS | libc::CLONE_NEWNS).unwrap();
                let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
                nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
                mount_all(&[overlay], &target).unwrap();
                assert_eq!((owner("of-1"), owner("of-2")), ((100_005, 200_007), (100_005, 200_007)));
                fs::write(target.join("new"), "").unwrap();
                assert!(!path("bundle/layers").exists());
                unmount_all(&target).unwrap();
                assert!(path("3/fs/new").exists() && !target.join("of-1").exists());
                mount_all(&[bind], &target).unwrap();
                assert_eq!(owner("of-1"), (100_005, 200_007));
                assert!(fs::write(target.join("new"), "").is_err());
                unmount_all(&target).unwrap();
                assert!(!target.join("of-1").exists());
            });
            thread.join().unwrap();
        });
    }
}
