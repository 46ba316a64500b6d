//! Paths as text.

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
    Path::new("/").join(clean(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_the_root() {
        for (path, expected) in [("/a/./b/../c/", "a/c"), ("../../x", "x"), ("a/../../b", "b"), ("/..", ""), ("", "")] {
            assert_eq!(clean(Path::new(path)), Path::new(expected), "{path:?}");
        }
        assert_eq!(absolute(Path::new("a/../..")), Path::new("/"));
        assert_eq!(absolute(Path::new("x//y")), Path::new("/x/y"));
    }
}
