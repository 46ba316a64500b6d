//! The mounts that containerd's snapshotter wants for a root file system.

use super::idmapped::{self, Mapping};
use super::messages::Mount;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::fs::{c_path, open_resolved};
use crate::sys::process::unshare;
use crate::sys::{loop_device, own};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The most bytes of options that mount(2) takes: a page, with its last byte.
const PAGE: usize = 4096;

/// The option of an overlay that names its layers, with colons in between.
pub(super) const LAYERS: &str = "lowerdir=";

/// What knows of free loop devices.
const LOOP_CONTROL: &str = "/dev/loop-control";
/// How often somebody else may take the device that was free.
const LOOP_TRIES: u32 = 100;

/// Options that are flags, and whether they set them.
const FLAGS: [(&str, bool, MsFlags); 22] = [
    ("ro", true, MsFlags::MS_RDONLY),
    ("rw", false, MsFlags::MS_RDONLY),
    ("bind", true, MsFlags::MS_BIND),
    ("rbind", true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
    ("nosuid", true, MsFlags::MS_NOSUID),
    ("suid", false, MsFlags::MS_NOSUID),
    ("nodev", true, MsFlags::MS_NODEV),
    ("dev", false, MsFlags::MS_NODEV),
    ("noexec", true, MsFlags::MS_NOEXEC),
    ("exec", false, MsFlags::MS_NOEXEC),
    ("sync", true, MsFlags::MS_SYNCHRONOUS),
    ("async", false, MsFlags::MS_SYNCHRONOUS),
    ("dirsync", true, MsFlags::MS_DIRSYNC),
    ("remount", true, MsFlags::MS_REMOUNT),
    ("noatime", true, MsFlags::MS_NOATIME),
    ("atime", false, MsFlags::MS_NOATIME),
    ("nodiratime", true, MsFlags::MS_NODIRATIME),
    ("diratime", false, MsFlags::MS_NODIRATIME),
    ("relatime", true, MsFlags::MS_RELATIME),
    ("norelatime", false, MsFlags::MS_RELATIME),
    ("strictatime", true, MsFlags::MS_STRICTATIME),
    ("defaults", false, MsFlags::empty()),
];

/// Mounts all of `mounts` at `target`, or where in it they say, one over the other, or none of them.
///
/// # Errors
/// A mount that the kernel refuses.
pub(super) fn mount_all(mounts: &[Mount], target: &Path) -> Result<()> {
    if mounts.is_empty() {
        return Ok(());
    }
    if !target.is_dir() {
        std::fs::create_dir(target).doing(|| format!("create {}", target.display()))?;
    }
    let mut count = 0;
    for one in mounts {
        let made = place_of(one, target).and_then(|place| {
            require_ours(one, &place)?;
            mount_one(one, &place, target).map(|()| place)
        });
        match made {
            Ok(place) => count += usize::from(place == target),
            Err(error) => {
                // What is mounted inside goes with it.
                for _ in 0..count {
                    let _ = umount2(target, MntFlags::MNT_DETACH);
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Where `one` is to be mounted: at `root`, or at a directory in it, from which no symbolic link leads out.
fn place_of(one: &Mount, root: &Path) -> Result<PathBuf> {
    if one.target.trim_matches('/').is_empty() {
        return Ok(root.to_owned());
    }
    let doing =
        || format!("rootfs: find {:?} in {}, where {} ({}) is to be", one.target, root.display(), one.source, one.kind);
    let (name, path) = c_path(root).and_then(|root| Ok((root, c_path(Path::new(&one.target))?))).doing(doing)?;
    let root = own(open_resolved(libc::AT_FDCWD, &name, libc::O_PATH | libc::O_DIRECTORY, 0, 0).doing(doing)?);
    let inside = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    let place = own(open_resolved(root.as_raw_fd(), &path, libc::O_PATH, 0, inside).doing(doing)?);
    std::fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd())).doing(doing)
}

/// Fails for what takes more than mount(2) and a loop device.
fn require_ours(one: &Mount, place: &Path) -> Result<()> {
    if !one.kind.starts_with("fuse.") && !one.kind.starts_with("fuse3.") {
        return Ok(());
    }
    let what = format!("rootfs: mount {} ({}) at {}", one.source, one.kind, place.display());
    let problem = format!("{what}: needs a mount helper, which this shim does not use: choose another snapshotter");
    Err(Error::new(Kind::Usage, problem))
}

/// Makes the file `image` a block device, which is none any more when nobody has it open and nothing of it is mounted.
fn attach_loop(image: &str, read_only: bool, direct: bool) -> Result<(File, String)> {
    let open = |path: &str| OpenOptions::new().read(true).write(!read_only).open(path).doing(|| format!("open {path}"));
    let image_file = open(image)?;
    let control = File::open(LOOP_CONTROL).doing(|| format!("open {LOOP_CONTROL}"))?;
    let doing = || format!("make a loop device of {image}");
    for _ in 0..LOOP_TRIES {
        let number = loop_device::free_number(control.as_raw_fd()).doing(doing)?;
        let path = format!("/dev/loop{number}");
        let device = open(&path)?;
        match loop_device::configure(device.as_raw_fd(), image_file.as_raw_fd(), read_only, direct) {
            Ok(()) => return Ok((device, path)),
            // Somebody else was faster.
            Err(Errno::EBUSY) => thread::sleep(Duration::from_millis(1)),
            Err(errno) => return Err(errno).doing(doing),
        }
    }
    Err(Errno::EBUSY).doing(doing)
}

/// Takes away every mount at `target`.
///
/// # Errors
/// A mount that the kernel keeps.
pub(super) fn unmount_all(target: &Path) -> Result<()> {
    loop {
        let gone = match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
            // Somebody looks at it from the host: it goes when he has finished.
            Err(Errno::EBUSY) => umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW),
            gone => gone,
        };
        match gone {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(Error::system(format!("unmount {}", target.display()), errno)),
        }
    }
}

/// The same for what a shim that was killed may have left of a root.
///
/// # Errors
/// As above.
pub(super) fn unmount_left(target: &Path) -> Result<()> {
    unmount_all(target)?;
    idmapped::remove_layers(&layers_of(target))
}

/// Where the layers of an overlay at `root` are mapped while it is mounted.
fn layers_of(root: &Path) -> PathBuf {
    root.with_file_name("layers")
}

/// Mounts `one` at `target`, which is `root` or in it.
fn mount_one(one: &Mount, target: &Path, root: &Path) -> Result<()> {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    let mut mapping = Mapping::default();
    let (mut is_image, mut direct) = (false, false);
    for option in &one.options {
        match FLAGS.iter().find(|(name, ..)| name == option) {
            Some((_, true, flag)) => flags |= *flag,
            Some((_, false, flag)) => flags -= *flag,
            None if mapping.takes(option)? => {}
            None if option == "loop" => is_image = true,
            None if option == "direct-io" => direct = true,
            None => data.push(option.as_str()),
        }
    }
    let doing = || format!("rootfs: mount {} ({}) at {}", one.source, one.kind, target.display());
    let mut data = data.join(",");
    let namespace = mapping.namespace()?;
    // An overlay cannot be mapped itself, but for what lies below it. It keeps the layers that it was made with.
    let mut _mapped = None;
    if let Some(namespace) = namespace.as_ref().filter(|_| one.kind == "overlay") {
        let (layers, mapped) = idmapped::layers(&data, &layers_of(root), namespace)?;
        (data, _mapped) = (layers, Some(mapped));
    }
    if data.len() >= PAGE && one.kind == "overlay" {
        data = shorten(&data).doing(doing)?;
    }
    if data.len() >= PAGE {
        let problem =
            format!("{}: the options have more bytes than the kernel takes ({PAGE}): use fewer layers", doing());
        return Err(Error::new(Kind::System, problem));
    }
    // Open until it is mounted.
    let device = match is_image {
        true => Some(
            attach_loop(&one.source, flags.contains(MsFlags::MS_RDONLY), direct)
                .map_err(|error| error.context(doing()))?,
        ),
        false => None,
    };
    let source = device.as_ref().map_or(one.source.as_str(), |(_, path)| path);
    mount(Some(source), target, Some(one.kind.as_str()), flags, Some(data.as_str())).doing(doing)?;
    let finish = || {
        // What a bind mount is asked for beyond that takes a second call (mount(2)).
        let ordinary = MsFlags::MS_BIND | MsFlags::MS_REC;
        if flags.contains(MsFlags::MS_BIND) && !ordinary.contains(flags) {
            let flags = (flags - MsFlags::MS_REC) | MsFlags::MS_REMOUNT;
            let nothing: Option<&str> = None;
            mount(Some(one.source.as_str()), target, nothing, flags, nothing).doing(doing)?;
        }
        match namespace.as_ref().filter(|_| one.kind != "overlay") {
            Some(namespace) => idmapped::replace(target, namespace),
            None => Ok(()),
        }
    };
    finish().inspect_err(|_| {
        let _ = umount2(target, MntFlags::MNT_DETACH);
    })
}

/// Makes the layers of an overlay relative to the directory that they have in common, which becomes this thread's working
/// directory; nobody else's (`CLONE_FS`).
fn shorten(data: &str) -> Result<String, Errno> {
    let Some(layers) = data.split(',').find_map(|option| option.strip_prefix(LAYERS)) else {
        return Ok(data.to_owned());
    };
    let layers: Vec<&str> = layers.split(':').collect();
    let common = common_directory(&layers);
    if common.len() <= 1 {
        return Ok(data.to_owned());
    }
    let relative: Vec<&str> = layers.iter().filter_map(|layer| layer.strip_prefix(common)).collect();
    unshare(libc::CLONE_FS)?;
    nix::unistd::chdir(common)?;
    let others = data.split(',').filter(|option| !option.starts_with(LAYERS));
    Ok(std::iter::once(format!("{LAYERS}{}", relative.join(":")))
        .chain(others.map(str::to_owned))
        .collect::<Vec<_>>()
        .join(","))
}

/// The longest directory, with its slash, that all `paths` are below.
pub(super) fn common_directory<'a>(paths: &[&'a str]) -> &'a str {
    let Some((first, rest)) = paths.split_first() else { return "" };
    let same = |other: &&str| first.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let length = rest.iter().map(same).min().unwrap_or(first.len());
    let common = first.get(..length).unwrap_or_default();
    common.rfind('/').and_then(|slash| first.get(..=slash)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn mount(kind: &str, source: &Path, target: &str, options: &[&str]) -> Mount {
        Mount {
            kind: kind.into(),
            source: source.to_str().unwrap().into(),
            target: target.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    #[test]
    fn what_takes_more_than_mount_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let (image, root) = (directory.path().join("image"), directory.path().join("rootfs"));
        let error = mount_all(&[mount("fuse3.erofs", &image, "", &["ro"])], &root).unwrap_err().to_string();
        assert!(error.contains(image.to_str().unwrap()) && error.contains("a mount helper"), "{error}");
        let error = mount_all(&[mount("ext4", &image, "", &["loop"])], &root).unwrap_err().to_string();
        assert!(error.contains(&format!("open {}: no such file", image.display())), "{error}");
    }

    /// As those of containerd's blockfile and erofs snapshotters.
    #[test]
    fn a_file_may_be_mounted() {
        if !nix::unistd::geteuid().is_root() || !Path::new(LOOP_CONTROL).exists() {
            println!("skipped: needs root and loop devices");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (image, root) = (directory.path().join("image"), directory.path().join("rootfs"));
        fs::write(&image, "").unwrap();
        File::options().write(true).open(&image).unwrap().set_len(1 << 20).unwrap();
        match std::process::Command::new("mkfs.ext2").arg("-q").arg(&image).status() {
            Ok(status) => assert!(status.success()),
            Err(error) => return println!("skipped: mkfs.ext2: {error}"),
        }
        let devices = || {
            let files =
                fs::read_dir("/sys/block").unwrap().flatten().map(|entry| entry.path().join("loop/backing_file"));
            let is_image = |file: &PathBuf| fs::read_to_string(file).is_ok_and(|path| Path::new(path.trim()) == image);
            files.filter(is_image).count()
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(libc::CLONE_FS | libc::CLONE_NEWNS).unwrap();
                let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
                nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
                for (option, may_write) in [("rw", true), ("ro", false)] {
                    mount_all(&[mount("ext2", &image, "", &["loop", option])], &root).unwrap();
                    assert_eq!(devices(), 1);
                    assert_eq!(fs::write(root.join("file"), "text").is_ok(), may_write);
                    assert_eq!(fs::read(root.join("file")).unwrap(), b"text");
                    unmount_all(&root).unwrap();
                    // The kernel may take its time.
                    while devices() > 0 {
                        std::thread::yield_now();
                    }
                }
                // A mount that is refused leaves none either.
                mount_all(&[mount("erofs", &image, "", &["loop", "ro"])], &root).unwrap_err();
                while devices() > 0 {
                    std::thread::yield_now();
                }
            });
            thread.join().unwrap();
        });
    }

    #[test]
    fn a_mount_with_a_target_is_made_inside_the_root() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["image/data", "more", "rootfs"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        std::os::unix::fs::symlink("/../data", path("image/link")).unwrap();
        fs::write(path("more/file"), "").unwrap();
        let root = path("rootfs");
        let image = || mount("bind", &path("image"), "", &["rbind"]);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // Mounts are this thread's own, and nothing of them is left.
                unshare(libc::CLONE_FS | libc::CLONE_NEWNS).unwrap();
                let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
                nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
                mount_all(&[image(), mount("bind", &path("more"), "/link", &["rbind", "ro"])], &root).unwrap();
                assert!(root.join("data/file").exists() && root.join("link").is_symlink());
                assert!(fs::write(root.join("data/file"), "x").is_err());
                unmount_all(&root).unwrap();
                assert!(!root.join("data").exists());
                let error = mount_all(&[image(), mount("bind", &path("more"), "/none", &["rbind"])], &root);
                assert!(error.unwrap_err().to_string().contains("find \"/none\""));
                assert!(!root.join("data").exists());
            });
            thread.join().unwrap();
        });
    }

    #[test]
    fn what_paths_have_in_common_is_a_directory() {
        assert_eq!(common_directory(&["/a/b/12/fs", "/a/b/13/fs"]), "/a/b/");
        assert_eq!(common_directory(&["/a/b/1", "/a/b/1"]), "/a/b/");
        assert_eq!(common_directory(&["/a", "b"]), "");
    }
}
