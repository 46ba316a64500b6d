//! The top level of config.json: `ociVersion`, `root`, `annotations`.

use super::Check;
use crate::error::{Error, Result};

/// The newest minor version of runtime-spec 1 that is known here.
const NEWEST_MINOR: u64 = 3;

/// config.md, "Specification version": required, semantic versioning; compatible within a major version.
pub(super) fn version(check: &mut Check<'_>) -> Result<()> {
    let text = check.spec.version();
    let Some((major, minor)) = semantic(text) else {
        let problem =
            format!("{text:?} is not a semantic version: write the one that the configuration follows (\"1.3.0\")");
        return Err(Error::config("ociVersion", problem));
    };
    if major != 1 {
        return Err(Error::config(
            "ociVersion",
            format!("version {text} is not supported: use a version from 1.0.0 on"),
        ));
    }
    if minor > NEWEST_MINOR {
        let problem =
            format!("{text} is newer than what this runtime knows (1.{NEWEST_MINOR}): newer fields are ignored");
        check.warn("ociVersion", problem);
    }
    Ok(())
}

/// The major and minor number of the semantic version (semver.org, 2.0.0) `text`.
fn semantic(text: &str) -> Option<(u64, u64)> {
    let (text, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = text.split_once('-').map_or((text, None), |(rest, pre)| (rest, Some(pre)));
    let identifiers = |list: Option<&str>| {
        list.is_none_or(|list| {
            list.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        })
    };
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let plain = part == "0" || !part.starts_with('0');
        if digits && plain { part.parse().ok() } else { None }
    };
    let mut parts = core.split('.');
    let (major, minor, _patch): (u64, u64, u64) =
        (number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?);
    (parts.next().is_none() && identifiers(pre) && identifiers(build)).then_some((major, minor))
}

/// config.md, "Root": required, and so is its path. That the directory exists is found out when it is opened.
pub(super) fn root(check: &mut Check<'_>) -> Result<()> {
    let Some(root) = check.spec.root() else {
        return Err(Error::config("root", "is missing: name the root file system (\"root\": {\"path\": \"rootfs\"})"));
    };
    if root.path().as_os_str().is_empty() {
        return Err(Error::config("root.path", "is empty: name the directory of the root file system"));
    }
    Ok(())
}

/// config.md, "Annotations": keys must not be empty.
pub(super) fn annotations(check: &mut Check<'_>) -> Result<()> {
    match check.spec.annotations() {
        Some(annotations) if annotations.contains_key("") => {
            Err(Error::config("annotations", "has an empty key: name it or remove it"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::semantic;

    #[test]
    fn semantic_versions() {
        for (text, expected) in [
            ("1.3.0", Some((1, 3))),
            ("1.0.2-dev", Some((1, 0))),
            ("1.2.1+dev", Some((1, 2))),
            ("1.0.0-rc.1+b-1.x", Some((1, 0))),
            ("10.20.30", Some((10, 20))),
            ("", None),
            ("1", None),
            ("1.0", None),
            ("1.0.0.0", None),
            ("v1.0.0", None),
            ("01.0.0", None),
            ("1.0.0-", None),
            ("1.0.0-a..b", None),
            ("1.0.0+", None),
            ("1.0.+0", None),
            ("1.0. 0", None),
            ("99999999999999999999.0.0", None),
        ] {
            assert_eq!(semantic(text), expected, "{text:?}");
        }
    }
}
