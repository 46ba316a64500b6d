//! Paths as text.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// `path` from the root, without "/" in front, "." and "..": ".." stops at the root. Nothing is looked up.
pub fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// The same, with "/" in front.
pub fn absolute(path: &Path) -> PathBuf {
    // Nearly all are like this already.
    if is_absolute_and_clean(path.as_os_str().as_bytes()) { path.to_owned() } else { Path::new("/").join(clean(path)) }
}

/// Whether [`absolute`] has nothing to do, of paths whose names do not begin with a dot.
fn is_absolute_and_clean(path: &[u8]) -> bool {
    path.first() == Some(&b'/')
        && (path.len() == 1 || path.last() != Some(&b'/'))
        && !path.windows(2).any(|two| two == b"//" || two == b"/.")
}

/// The place of a mount, from its line of a mountinfo file, and what follows the line's separator: the file system's type, source and
/// options (proc_pid_mountinfo(5)).
pub fn mounted(line: &str) -> Option<(PathBuf, &str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    Some((unescape(mount.split(' ').nth(4)?).into(), file_system))
}

/// Undoes the octal escapes of mountinfo (space, tab, newline, backslash).
pub fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, letter)| text.replace(code, letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_may_have_any_name() {
        let line = "28 1 0:24 / /mnt/a\\040b rw,nosuid master:7 - ext4 x rw";
        assert_eq!(mounted(line), Some(("/mnt/a b".into(), "ext4 x rw")));
        assert_eq!(mounted("28 1 0:24 / - ext4 x rw"), None);
        assert_eq!(mounted("28 1 0:24 / /mnt rw"), None);
        assert_eq!(mounted(""), None);
    }

    #[test]
    fn nothing_leads_out_of_the_root() {
        for (path, expected) in [("/a/./b/../c/", "a/c"), ("../../x", "x"), ("a/../../b", "b"), ("/..", ""), ("", "")] {
            assert_eq!(clean(Path::new(path)), Path::new(expected), "{path:?}");
        }
        assert_eq!(absolute(Path::new("a/../..")), Path::new("/"));
        assert_eq!(absolute(Path::new("x//y")), Path::new("/x/y"));
        // Not as paths, to which a slash at the end is nothing.
        for (path, expected) in
            [("/", "/"), ("/a", "/a"), ("/a/", "/a"), ("/a/.", "/a"), ("//", "/"), ("/.a/..b", "/.a/..b"), ("", "/")]
        {
            assert_eq!(absolute(Path::new(path)).as_os_str(), expected);
        }
    }
}
