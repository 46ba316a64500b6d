//! Places inside the root, found or made by descriptor.
//!
//! The root is hostile: its owner may have put symbolic links anywhere and may change them while we look. So no path
//! is ever used twice. A place is opened with openat2(2) and `RESOLVE_IN_ROOT`; what is missing is made one component at
//! a time, each below the descriptor of the one before (CVE-2021-30465, CVE-2024-45310).

use super::op::{Create, Rule};
use crate::sys::fs::{self, Sys};
use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::RawFd;

/// `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS` of openat2(2).
const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
/// As above, and no symbolic links at all.
const PLAIN: u64 = IN_ROOT | libc::RESOLVE_NO_SYMLINKS;
/// How many symbolic links may be followed while making a path (the kernel's own limit, MAXSYMLINKS).
const MOST_LINKS: u32 = 40;
/// statfs(2): procfs.
pub const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Opens what exists at `path` inside `root`.
pub fn open_in_root(root: RawFd, path: &CStr, flags: i32) -> Sys<RawFd> {
    fs::open_resolved(root, path, flags, 0, IN_ROOT)
}

/// Opens what exists at `path` inside `root` as an `O_PATH` descriptor, and tells whether that is the root itself. Only "/", ".." and
/// symbolic links lead there: for other paths one call is enough.
pub fn open_place(root: RawFd, path: &CStr) -> Sys<(RawFd, bool)> {
    let may_be_root = path == c"/" || path.to_bytes().ends_with(b"..");
    let (place, may_be_root) = match fs::open_resolved(root, path, libc::O_PATH, 0, PLAIN) {
        Err(Errno::ELOOP) => (open_in_root(root, path, libc::O_PATH)?, true),
        result => (result?, may_be_root),
    };
    if !may_be_root {
        return Ok((place, false));
    }
    match is_same(place, root) {
        Ok(is_root) => Ok((place, is_root)),
        Err(errno) => {
            fs::close(place);
            Err(errno)
        }
    }
}

/// Whether two descriptors hold the same directory of the same mount.
fn is_same(one: RawFd, other: RawFd) -> Sys<bool> {
    Ok(fs::identity(one)? == fs::identity(other)?)
}

/// Opens the destination of a mount as an `O_PATH` descriptor, made first where it is missing.
pub fn open_target(root: RawFd, path: &CStr, create: Create, rule: Rule) -> Sys<RawFd> {
    let directory = if create == Create::Directory { libc::O_DIRECTORY } else { 0 };
    let open = |resolve| match fs::open_resolved(root, path, libc::O_PATH | directory, 0, resolve) {
        Err(Errno::ENOENT) => make(root, path, create),
        result => result,
    };
    let (target, by_link) = match open(PLAIN) {
        Err(Errno::ELOOP) if rule != Rule::PlainDirectory => (open(IN_ROOT)?, true),
        result => (result?, false),
    };
    match check(target, rule, by_link.then_some(root)) {
        Ok(()) => Ok(target),
        Err(errno) => {
            fs::close(target);
            Err(errno)
        }
    }
}

/// Whether an opened destination is what `rule` wants. A mount must not get onto `root` by a symbolic link: the Plan, which goes on
/// with what is below, would not know.
fn check(target: RawFd, rule: Rule, root: Option<RawFd>) -> Sys {
    if rule != Rule::OffProc {
        return Ok(());
    }
    if fs::file_system(target)? == PROC_SUPER_MAGIC {
        return Err(Errno::EPERM);
    }
    if let Some(root) = root
        && is_same(target, root)?
    {
        return Err(Errno::EBUSY);
    }
    Ok(())
}

/// Calls `make` with the directory that holds the last component of `path`, made where missing, and that component's
/// name.
pub fn in_parent(root: RawFd, path: &CStr, make: impl FnOnce(RawFd, &CStr) -> Sys) -> Sys {
    let bytes = path.to_bytes_with_nul();
    let Some(slash) = bytes.iter().rposition(|byte| *byte == b'/') else { return make(root, path) };
    let dir = open_parent(root, bytes.get(..slash).unwrap_or_default())?;
    let name = CStr::from_bytes_with_nul(bytes.get(slash + 1..).unwrap_or_default()).map_err(|_| Errno::EINVAL)?;
    let result = make(dir, name);
    fs::close(dir);
    result
}

/// Opens the directory `path`, made where missing. Not part of who calls it: what is straight in an open directory needs no page of
/// stack for a path.
#[inline(never)]
fn open_parent(root: RawFd, path: &[u8]) -> Sys<RawFd> {
    let mut parent = Name::new();
    parent.append(path)?;
    parent.append(b"/")?;
    open_target(root, parent.as_cstr()?, Create::Directory, Rule::Any)
}

/// Makes the missing part of `path` inside `root` and opens the end of it. What it needs three pages of stack for is there already, as
/// a rule.
#[inline(never)]
fn make(root: RawFd, path: &CStr, create: Create) -> Sys<RawFd> {
    let mut rest = Name::new();
    rest.append(path.to_bytes())?;
    let mut walk = Walk { root, at: open_directory(root)?, done: Name::new(), links: 0 };
    let result = walk.make(&mut rest, create);
    if result != Ok(walk.at) {
        fs::close(walk.at);
    }
    result
}

fn open_directory(dir: RawFd) -> Sys<RawFd> {
    fs::open_resolved(dir, c".", libc::O_PATH | libc::O_DIRECTORY, 0, PLAIN)
}

/// A walk down from the root: where it stands, and the way it came, which holds no symbolic links.
struct Walk {
    root: RawFd,
    at: RawFd,
    done: Name,
    links: u32,
}

impl Walk {
    fn make(&mut self, rest: &mut Name, create: Create) -> Sys<RawFd> {
        loop {
            let mut name = Name::new();
            let last = rest.take_component(&mut name)?;
            match name.bytes() {
                b"" if last => return Ok(self.at),
                b"" | b"." => {}
                b".." => {
                    self.done.pop_component();
                    self.reopen()?;
                }
                _ => {
                    let as_file = last && create == Create::File;
                    if let Some(end) = self.enter(&name, rest, as_file)? {
                        return Ok(end);
                    }
                }
            }
            if last && rest.bytes().is_empty() {
                return Ok(self.at);
            }
        }
    }

    /// Goes one component down; `Some` when it was the last one and is a file.
    fn enter(&mut self, name: &Name, rest: &mut Name, as_file: bool) -> Sys<Option<RawFd>> {
        let cname = name.as_cstr()?;
        let mut flags = libc::O_PATH | libc::O_NOFOLLOW;
        let next = match fs::open_resolved(self.at, cname, flags, 0, IN_ROOT) {
            Err(Errno::ENOENT) => {
                let made = if as_file {
                    fs::mknod(self.at, cname, libc::S_IFREG | 0o755, 0)
                } else {
                    flags |= libc::O_DIRECTORY;
                    fs::mkdir(self.at, cname, 0o755)
                };
                // Somebody else who makes the same thing at the same time is welcome.
                if !matches!(made, Ok(()) | Err(Errno::EEXIST)) {
                    made?;
                }
                fs::open_resolved(self.at, cname, flags, 0, PLAIN)?
            }
            result => result?,
        };
        let kind = fs::stat(next).map(|stat| stat.st_mode & libc::S_IFMT);
        match kind {
            Ok(libc::S_IFLNK) => {
                let result = self.follow(next, rest);
                fs::close(next);
                result.map(|()| None)
            }
            Ok(libc::S_IFDIR) => {
                fs::close(self.at);
                self.at = next;
                self.done.append(b"/")?;
                self.done.append(name.bytes())?;
                Ok(None)
            }
            Ok(_) if rest.bytes().is_empty() => Ok(Some(next)),
            other => {
                fs::close(next);
                Err(other.err().unwrap_or(Errno::ENOTDIR))
            }
        }
    }

    /// Puts the target of the symbolic link `link` before what is left to walk.
    fn follow(&mut self, link: RawFd, rest: &mut Name) -> Sys {
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(Errno::ELOOP);
        }
        let mut target = Name::new();
        let length = fs::readlink(link, c"", &mut target.bytes)?;
        target.length = length.min(Name::MOST);
        if target.bytes().first() == Some(&b'/') {
            self.done = Name::new();
            self.reopen()?;
        }
        target.append(b"/")?;
        target.append(rest.bytes())?;
        *rest = target;
        Ok(())
    }

    /// Stands again where `done` says.
    fn reopen(&mut self) -> Sys {
        let mut path = Name::new();
        path.append(b"./")?;
        path.append(self.done.bytes())?;
        let at = fs::open_resolved(self.root, path.as_cstr()?, libc::O_PATH | libc::O_DIRECTORY, 0, PLAIN)?;
        fs::close(self.at);
        self.at = at;
        Ok(())
    }
}

/// A path in a buffer of its own, since the child may not allocate.
struct Name {
    bytes: [u8; Self::MOST + 1],
    length: usize,
}

impl Name {
    /// PATH_MAX without the NUL.
    const MOST: usize = 4095;

    fn new() -> Self {
        Self { bytes: [0; Self::MOST + 1], length: 0 }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn append(&mut self, more: &[u8]) -> Sys {
        let end = self.length + more.len();
        let room = self.bytes.get_mut(self.length..end).filter(|_| end <= Self::MOST).ok_or(Errno::ENAMETOOLONG)?;
        room.copy_from_slice(more);
        self.length = end;
        Ok(())
    }

    fn as_cstr(&self) -> Sys<&CStr> {
        let with_nul = self.bytes.get(..=self.length).unwrap_or_default();
        if with_nul.last() != Some(&0) {
            return Err(Errno::EINVAL);
        }
        CStr::from_bytes_with_nul(with_nul).map_err(|_| Errno::EINVAL)
    }

    /// Moves the first component into `into`; whether nothing follows it.
    fn take_component(&mut self, into: &mut Self) -> Sys<bool> {
        let bytes = self.bytes();
        let start = bytes.iter().position(|byte| *byte != b'/').unwrap_or(bytes.len());
        let tail = bytes.get(start..).unwrap_or_default();
        let length = tail.iter().position(|byte| *byte == b'/').unwrap_or(tail.len());
        into.append(tail.get(..length).unwrap_or_default())?;
        let mut from = start + length;
        while self.bytes.get(from) == Some(&b'/') {
            from += 1;
        }
        self.bytes.copy_within(from..self.length, 0);
        self.truncate(self.length - from);
        Ok(self.length == 0)
    }

    fn pop_component(&mut self) {
        let end = self.bytes().iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        self.truncate(end);
    }

    fn truncate(&mut self, length: usize) {
        if let Some(tail) = self.bytes.get_mut(length..) {
            tail.fill(0);
        }
        self.length = length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::fs as std_fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn root_of(dir: &Path) -> RawFd {
        let path = CString::new(dir.to_str().unwrap()).unwrap();
        fs::open(fs::CWD, &path, libc::O_PATH | libc::O_DIRECTORY, 0).unwrap()
    }

    fn path_of(fd: RawFd) -> String {
        std_fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().to_str().unwrap().to_string()
    }

    fn made(links: &[(&str, &str)], path: &str, create: Create) -> Sys<String> {
        let dir = tempfile::tempdir().unwrap();
        let top = std_fs::canonicalize(dir.path()).unwrap();
        for (link, target) in links {
            std_fs::create_dir_all(top.join(link).parent().unwrap()).unwrap();
            symlink(target, top.join(link)).unwrap();
        }
        let path = CString::new(path).unwrap();
        let root = root_of(&top);
        let fd = open_target(root, &path, create, Rule::Any)?;
        // A second look must find what the first made.
        let again = open_target(root, &path, create, Rule::Any)?;
        assert_eq!(path_of(fd), path_of(again));
        let is_file = fs::stat(fd)?.st_mode & libc::S_IFMT == libc::S_IFREG;
        assert_eq!(is_file, create == Create::File);
        Ok(path_of(fd).strip_prefix(top.to_str().unwrap()).unwrap().to_string())
    }

    #[test]
    fn missing_directories_and_files_are_made() {
        assert_eq!(made(&[], "/a/b/c", Create::Directory).unwrap(), "/a/b/c");
        assert_eq!(made(&[], "a//./b/f", Create::File).unwrap(), "/a/b/f");
        assert_eq!(made(&[], "/a/b/../c/", Create::Directory).unwrap(), "/a/c");
    }

    #[test]
    fn dangling_links_are_resolved_inside_the_root() {
        assert_eq!(made(&[("var/run", "/run")], "/var/run/secrets/x", Create::File).unwrap(), "/run/secrets/x");
        assert_eq!(made(&[("a/up", "../../../../b")], "/a/up/c", Create::Directory).unwrap(), "/b/c");
        assert_eq!(made(&[("last", "/x/y")], "/last", Create::File).unwrap(), "/x/y");
    }

    #[test]
    fn dots_never_leave_the_root() {
        assert_eq!(made(&[], "/../../a/../../b", Create::Directory).unwrap(), "/b");
    }

    #[test]
    fn loops_end() {
        assert_eq!(made(&[("a", "b"), ("b", "a")], "/a/c", Create::Directory), Err(Errno::ELOOP));
    }

    #[test]
    fn a_file_on_the_way_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std_fs::write(dir.path().join("f"), "").unwrap();
        let root = root_of(dir.path());
        assert_eq!(open_target(root, c"/f/g", Create::Directory, Rule::Any), Err(Errno::ENOTDIR));
        assert_eq!(open_target(root, c"/f", Create::Directory, Rule::Any), Err(Errno::ENOTDIR));
    }

    #[test]
    fn no_link_leads_a_mount_onto_the_root() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/", dir.path().join("link")).unwrap();
        symlink("new/..", dir.path().join("dangling")).unwrap();
        let root = root_of(dir.path());
        for path in [c"/link", c"/dangling"] {
            assert_eq!(open_target(root, path, Create::Directory, Rule::OffProc), Err(Errno::EBUSY), "{path:?}");
            assert!(open_target(root, path, Create::Directory, Rule::Any).is_ok(), "{path:?}");
        }
        assert!(open_target(root, c"/", Create::Directory, Rule::OffProc).is_ok());
        for (path, is_root) in
            [(c"/", true), (c"/link", true), (c"/new/..", true), (c"/new", false), (c"/link/new", false)]
        {
            assert_eq!(open_place(root, path).unwrap().1, is_root, "{path:?}");
        }
    }

    #[test]
    fn procfs_is_no_place_for_a_mount() {
        let root = fs::open(fs::CWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0).unwrap();
        assert_eq!(open_target(root, c"/proc/sys", Create::Directory, Rule::OffProc), Err(Errno::EPERM));
    }

    #[test]
    fn the_parent_and_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = root_of(dir.path());
        in_parent(root, c"/dev/x/null", |parent, name| {
            assert!(path_of(parent).ends_with("/dev/x"));
            assert_eq!(name, c"null");
            Ok(())
        })
        .unwrap();
        in_parent(root, c"null", |parent, name| {
            assert_eq!((parent, name), (root, c"null"));
            Ok(())
        })
        .unwrap();
    }
}
