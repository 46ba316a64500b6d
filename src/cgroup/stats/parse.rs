//! The formats of cgroup files.

use crate::error::Kind;
use crate::{Error, Result};
use std::fs;
use std::path::Path;

/// The text of `file` in `directory`; `None` if it is not there or the cgroup is being removed.
///
/// # Errors
/// Any other failure.
pub fn read(directory: &Path, file: &str) -> Result<Option<String>> {
    let path = directory.join(file);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        // EOPNOTSUPP: pressure files of a kernel booted without psi=1.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)) => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", path.display()), &error)),
    }
}

fn malformed(directory: &Path, file: &str, text: &str) -> Error {
    let problem =
        format!("unable to parse {}: {text:?} is not what the kernel documents", directory.join(file).display());
    Error::new(Kind::System, problem)
}

/// A count. Kernel bugs have made some of them negative; those count as 0. "max" is 2^64-1.
pub fn count(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok().or_else(|| text.parse::<i64>().ok().map(|_| 0)),
    }
}

/// The single number in `file`.
///
/// # Errors
/// See [`read`]; or something else than a number.
pub fn number(directory: &Path, file: &str) -> Result<Option<u64>> {
    let Some(text) = read(directory, file)? else { return Ok(None) };
    count(&text).map(Some).ok_or_else(|| malformed(directory, file, &text))
}

/// The "key value" lines of `file`; none if it is not there.
///
/// # Errors
/// See [`read`]; or a line of another form.
pub fn pairs(directory: &Path, file: &str) -> Result<Vec<(String, u64)>> {
    let Some(text) = read(directory, file)? else { return Ok(Vec::new()) };
    text.lines()
        .map(|line| {
            let pair = line.split_once(' ').and_then(|(key, value)| Some((key.to_owned(), count(value)?)));
            pair.ok_or_else(|| malformed(directory, file, line))
        })
        .collect()
}

/// The device number "major:minor".
pub fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A list of numbers and ranges, "0-3,7".
pub fn ranges(text: &str) -> Option<Vec<u16>> {
    let mut numbers = Vec::new();
    for item in text.trim().split(',').filter(|item| !item.is_empty()) {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_ranges_and_devices() {
        assert_eq!((count("12\n"), count("max"), count("-5"), count("x")), (Some(12), Some(u64::MAX), Some(0), None));
        assert_eq!(ranges("0-2,7\n"), Some(vec![0, 1, 2, 7]));
        assert_eq!(ranges(""), Some(vec![]));
        assert_eq!(ranges("a"), None);
        assert_eq!((device("8:16"), device("8")), (Some((8, 16)), None));
    }
}
