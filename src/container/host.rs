//! The facts about this machine that a start needs, read only when the configuration asks.

use super::store::CACHE;
use crate::error::{Doing, Result};
use crate::log;
use crate::path;
use crate::plan::builder::cpath;
use crate::plan::process::keeps_groups;
use crate::plan::seccomp::{self, Cache, Filter};
use crate::plan::{Host, caps};
use crate::spec::{self, Loaded, Seccomp};
use crate::sys::{fs as sys_fs, mount, own, pidfd, process};
use nix::errno::Errno;
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What [`crate::plan::compile`] has to know; of the process alone, that joins the container of `init`, where there is no `bundle`.
pub(super) fn facts(spec: &Spec, init: Option<i32>, bundle: Option<&Path>) -> Host {
    let process = spec.process().as_ref();
    let asked = process.and_then(|process| process.capabilities().as_ref());
    let held = caps::Held::probe(caps::asked_bounding(asked));
    let user_namespace = spec::has_namespace(spec, LinuxNamespaceType::User);
    let wanted = |label: Option<&String>| label.is_some_and(|label| !label.is_empty());
    Host {
        has_kcore: Path::new("/proc/kcore").exists(),
        apparmor: wanted(process.and_then(|process| process.apparmor_profile().as_ref())) && has_apparmor(),
        selinux: (wanted(process.and_then(|process| process.selinux_label().as_ref()))
            || wanted(spec.linux().as_ref().and_then(|linux| linux.mount_label().as_ref())))
            && has_selinux(),
        foreign_cgroup_namespace: has_foreign_cgroup_namespace(spec),
        makes_root_namespaces: bundle.is_some_and(|bundle| makes_root_namespaces(spec, bundle)),
        denies_groups: process.is_some_and(has_groups) && !keeps_groups(spec) && denies_groups(spec, init),
        open_files: process::open_files_of_others(),
        // Whoever enters a user namespace has every capability there (user_namespaces(7)).
        capabilities: if user_namespace { held.in_user_namespace() } else { held },
    }
}

fn has_groups(process: &Process) -> bool {
    process.user().additional_gids().as_ref().is_some_and(|groups| !groups.is_empty())
}

/// Whether setgroups(2) is denied in the user namespace of `init`, or of the process that `spec` begins: in a new one if it is in ours.
fn denies_groups(spec: &Spec, init: Option<i32>) -> bool {
    let joined = spec::joins_namespace(spec, LinuxNamespaceType::User);
    let file = match (init, joined.and_then(process_of)) {
        (Some(init), _) if spec::has_namespace(spec, LinuxNamespaceType::User) => {
            PathBuf::from(format!("/proc/{init}/setgroups"))
        }
        (None, Some(process)) => process.join("setgroups"),
        // There it cannot be denied.
        _ if pidfd::in_initial_user_namespace() => return false,
        _ => "/proc/self/setgroups".into(),
    };
    fs::read(file).is_ok_and(|text| text.starts_with(b"deny"))
}

/// The directory in /proc of the process whose user namespace is `joined`, if it is named by one.
pub(super) fn process_of(joined: &Path) -> Option<&Path> {
    let process = joined.ends_with("ns/user").then(|| joined.parent()?.parent()).flatten()?;
    process.starts_with("/proc").then_some(process)
}

/// See [`Host`].
fn makes_root_namespaces(spec: &Spec, bundle: &Path) -> bool {
    let binds = spec.mounts().iter().flatten().filter(|mount| spec::is_bind(mount));
    let mut sources = binds.map(|mount| bundle.join(mount.source().as_deref().unwrap_or(Path::new(""))));
    spec::makes_namespace(spec, LinuxNamespaceType::Mount)
        && !spec::has_namespace(spec, LinuxNamespaceType::User)
        && mount::has_open_tree_namespace()
        && pidfd::in_initial_user_namespace()
        && sources.all(|source| is_the_same_for_all(&source))
}

/// Whether `path` leads to the same whoever looks it up: neither into a procfs nor by one of its links, to somebody's namespaces or root.
fn is_the_same_for_all(path: &Path) -> bool {
    let path = cpath("mounts", path).ok();
    let opened = path.and_then(|path| {
        sys_fs::open_resolved(sys_fs::CWD, &path, libc::O_PATH, 0, libc::RESOLVE_NO_MAGICLINKS).map(own).ok()
    });
    opened.is_some_and(|file| sys_fs::file_system(file.as_raw_fd()).is_ok_and(|kind| kind != libc::PROC_SUPER_MAGIC))
}

/// Whether `spec` names a user namespace and a cgroup namespace that belongs to another one. What cannot be looked at is said when it is to be joined.
fn has_foreign_cgroup_namespace(spec: &Spec) -> bool {
    let open = |kind| {
        let path = spec::namespace(spec, kind).filter(|path| !path.as_os_str().is_empty())?;
        // It may be anything, a FIFO for instance.
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()
    };
    let inode = |fd| sys_fs::stat(fd).map(|stat| stat.st_ino);
    let Some(users) = open(LinuxNamespaceType::User) else { return false };
    open(LinuxNamespaceType::Cgroup).is_some_and(|cgroups| {
        // The owner of one from outside our own user namespace is not told (EPERM).
        let owner = process::owning_user_namespace(cgroups.as_raw_fd()).map(own);
        owner.and_then(|owner| Ok(inode(owner.as_raw_fd())? != inode(users.as_raw_fd())?)).unwrap_or(true)
    })
}

/// The mounts of procfs and sysfs outside `rootfs`, the latest first.
///
/// # Errors
/// /proc/self/mountinfo cannot be read.
pub(super) fn kernel_views(rootfs: &Path) -> Result<Vec<PathBuf>> {
    let file = "/proc/self/mountinfo";
    let rootfs = fs::canonicalize(rootfs).doing(|| format!("find {}", rootfs.display()))?;
    let text = fs::read_to_string(file).doing(|| format!("read {file}"))?;
    let mut views: Vec<PathBuf> = text.lines().filter_map(kernel_view).collect();
    views.retain(|view| !view.starts_with(&rootfs));
    views.reverse();
    Ok(views)
}

/// The place of a mount of procfs or sysfs, from its line of a mountinfo file (proc(5)).
fn kernel_view(line: &str) -> Option<PathBuf> {
    let (place, file_system) = path::mounted(line)?;
    matches!(file_system.split(' ').next(), Some("proc" | "sysfs")).then_some(place)
}

/// Whether AppArmor is enabled (Documentation/admin-guide/LSM/apparmor.rst).
pub fn has_apparmor() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

/// Whether SELinux is enabled: its file system is mounted.
pub fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// The configuration `text` without its profile, and the filter that this was compiled to before: one that is in the cache below
/// the state root has been found valid. What is wrong with the cache is for [`seccomp`] to say.
pub(super) fn parse_cached(text: &[u8], root: &Path) -> Option<(Loaded, Filter)> {
    /// Where the name of the section is found first it is the section nearly always.
    const PLACES: usize = 4;
    let mut places = spec::seccomp_places(text).take(PLACES).peekable();
    places.peek()?;
    let cache = Cache::open_existing(&root.join(CACHE)).ok()?;
    for start in places {
        if let Ok(Some((filter, length))) = cache.find(text.get(start..)?)
            && let Some(loaded) = spec::parse_but_seccomp(text, start..start + length)
        {
            return Some((loaded, told(filter)));
        }
    }
    None
}

/// The filter for `profile`, from the cache below the state root where there is one. What the user should know is added to
/// `warnings`.
pub(super) fn seccomp(profile: Option<&Seccomp>, root: &Path, warnings: &mut Vec<String>) -> Result<Option<Filter>> {
    let Some(profile) = profile else { return Ok(None) };
    let cache = match Cache::open(&root.join(CACHE)) {
        Ok(cache) => Some(cache),
        // The state root is made with the first container.
        Err(error) if error.errno() == Some(Errno::ENOENT) => None,
        Err(error) => {
            // It costs time, not correctness.
            warnings.push(error.to_string());
            None
        }
    };
    let obtained = seccomp::obtain(profile, cache.as_ref())?;
    let filter = obtained.filter.map(told);
    for name in &obtained.unknown {
        log::debug(|| format!("seccomp: no system call is called {name:?}: left out"));
    }
    warnings.extend(obtained.warnings);
    Ok(filter)
}

/// `filter`, of which the debug log is told.
fn told(filter: Filter) -> Filter {
    log::debug(|| format!("seccomp filter flags: {}", filter.flags));
    filter
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PROFILE: &str =
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["}\"]"], "action": "SCMP_ACT_ALLOW"}]}"#;
    const ANOTHER: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#;

    /// A state root in whose cache are filters for [`PROFILE`] (with flags 1) and [`ANOTHER`] (2).
    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let kept = Cache::open(&root.path().join(CACHE)).unwrap();
        for (profile, flags) in [(PROFILE, 1), (ANOTHER, 2)] {
            kept.store(profile.as_bytes(), &Filter { program: Vec::new(), flags, listener: None }).unwrap();
        }
        root
    }

    /// The flags of the filter that is found for `linux.seccomp` of a configuration.
    fn found(text: &str, root: &Path) -> Option<u32> {
        parse_cached(text.as_bytes(), root).map(|(_, filter)| filter.flags)
    }

    #[test]
    fn only_the_profile_that_counts_is_looked_up() {
        let root = root();
        for (document, flags) in [
            (r#"{"ociVersion": "1.3.0", "linux": {"seccomp":P}}"#, Some(1)),
            ("{\"linux\": {\"seccomp\" :\t\n P, \"mountLabel\": \"\"}}", Some(1)),
            (r#"{"x": [{"seccomp": 1}, {"seccomp": {}}], "linux": {"seccomp": P}}"#, Some(1)),
            (r#"{"x": [{"seccomp": Q}], "linux": {"seccomp": P}}"#, Some(1)),
            (r#"{"x": {"linux": {"seccomp": P}}, "linux": {"seccomp": {}}}"#, None),
            (r#"{"linux": {"x": {"seccomp": P}}}"#, None),
            (r#"{"seccomp": P}"#, None),
            (r#"{"linux": {"seccomp": P, "seccomp": Q}}"#, None),
            (r#"{"linux": {"seccomp": P, "seccomp": {}}}"#, None),
            (r#"{"linux": {"seccomp": P, "\u0073eccomp": {}}}"#, None),
            (r#"{"linux": {"seccomp": P}, "linux": {}}"#, None),
            (r#"{"linux": {"seccomp": P}"#, None),
            (r#"{"linux": {"seccomp": P P}}"#, None),
            (r#"{"linux": {"seccomp": [P]}}"#, None),
            (r#"{"linux": {"seccomp": P}, "hostname": 1}"#, None),
            ("", None),
        ] {
            let text = document.replace('P', PROFILE).replace('Q', ANOTHER);
            assert_eq!(found(&text, root.path()), flags, "{document}");
        }
        let text = format!(r#"{{"linux": {{"seccomp": {PROFILE}}}, "hostname": "a"}}"#);
        let (loaded, _) = parse_cached(text.as_bytes(), root.path()).unwrap();
        assert!(loaded.seccomp.is_none());
        assert_eq!(loaded.spec.hostname().as_deref(), Some("a"));
        for place in 0..text.len() {
            assert_eq!(found(&text[..place], root.path()), None, "cut to {place}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// What is found is what the parser, which reads all of it, takes for the profile.
        #[test]
        fn any_text_has_the_profile_that_the_parser_finds(
            text in "\\{(\"(linux|x)\": ?\\{(\"(seccomp|x|annotations)\": ?(PROFILE|ANOTHER|\\{\"seccomp\":PROFILE\\}|1|\\{\\}|\"\"),? ?){0,3}\\},? ?){0,3}\\}"
        ) {
            let text = text.replace("PROFILE", PROFILE).replace("ANOTHER", ANOTHER);
            // Commas at the ends make some of these right, and others not.
            let text = text.replace(", }", "}").replace(",}", "}");
            let root = root();
            let profile = spec::parse(text.as_bytes()).ok().and_then(|loaded| loaded.seccomp);
            match (found(&text, root.path()), profile.as_ref().map(Seccomp::text)) {
                (Some(flags), Some(profile)) => prop_assert_eq!(profile, if flags == 1 { PROFILE } else { ANOTHER }),
                (Some(_), None) => prop_assert!(false, "{}", text),
                (None, _) => {}
            }
        }

        #[test]
        fn any_line_of_mountinfo_is_read(line in "(([ -~]{0,20}|proc|sysfs|/x|\\\\040) ?(- )?){0,20}") {
            let _ = kernel_view(&line);
        }
    }

    #[test]
    fn views_of_the_kernel_are_found() {
        let line = |kind: &str| format!("28 1 0:24 / /mnt/a\\040b rw,nosuid shared:7 - {kind} x rw");
        assert_eq!(kernel_view(&line("proc")), Some("/mnt/a b".into()));
        assert_eq!(kernel_view(&line("sysfs")), Some("/mnt/a b".into()));
        assert_eq!(kernel_view(&line("tmpfs")), None);
    }
}
