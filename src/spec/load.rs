//! Reading `config.json`.

use super::document::Document;
use super::json::{self, Place};
use super::seccomp::Seccomp;
use super::warning::Warning;
use crate::error::{Doing, Error, Kind, Result};
use crate::sys::search;
use oci_spec::runtime::Spec;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The largest document that is read, in bytes. Engines write some 10 to 100 KiB.
const MAX_BYTES: u64 = 16 << 20;

/// A configuration that has the right shape; whether it makes sense is for
/// [`validate`](fn@super::validate) to say.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration, but for `linux.seccomp`, which is always `None` here.
    pub spec: Box<Spec>,
    /// `linux.seccomp` as it was written: not parsed yet, for a filter cached by its text needs no parsing.
    pub seccomp: Option<Seccomp>,
    /// What has to be logged.
    pub warnings: Vec<Warning>,
}

/// Reads and parses the configuration in the file `path`.
///
/// # Errors
/// One sentence which names the file, or the field that is wrong.
pub fn load_file(path: &Path) -> Result<Loaded> {
    parse(&read(path)?)
}

/// The bytes of `config.json` of the bundle at `bundle`.
///
/// # Errors
/// A file that is missing, too large or not a regular one.
pub fn read_config(bundle: &Path) -> Result<Vec<u8>> {
    read(&bundle.join("config.json"))
}

/// Parses the bytes of a `config.json`.
///
/// Unknown properties are ignored (runtime-spec config.md, "Extensibility"); of a key that is there twice the last
/// one counts, and `null` is the same as absent, as in Go.
///
/// # Errors
/// One sentence which names the field that is wrong.
pub fn parse(text: &[u8]) -> Result<Loaded> {
    let document: Document = json::read(Place::CONFIG, text)?;
    let mut warnings = Vec::new();
    let (spec, seccomp) = document.finish(&mut warnings);
    Ok(Loaded { spec, seccomp, warnings })
}

/// Where objects begin in the text of a `config.json` that look as if they were `linux.seccomp`.
pub fn seccomp_places(text: &[u8]) -> impl Iterator<Item = usize> {
    const NAME: &[u8] = b"\"seccomp\"";
    places(text, NAME, b'm').filter_map(|place| {
        let value = text.get(place + NAME.len()..)?.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        value.starts_with(b"{").then(|| text.len() - value.len())
    })
}

/// As [`parse`], for a text in which `profile`, one object, is known to be a valid `linux.seccomp`: it is left out, and all else
/// parsed. `None` if it is not the `linux.seccomp` of this text, or if there is anything wrong with the rest.
pub fn parse_but_seccomp(text: &[u8], profile: Range<usize>) -> Option<Loaded> {
    let rest = [text.get(..profile.start)?, b"{}", text.get(profile.end..)?].concat();
    let mut loaded = parse(&rest).ok()?;
    // Names do not tell: another member may be called like that, and of two the last one counts. The parser knows.
    let is_there = loaded.seccomp.take().is_some_and(|seccomp| seccomp.was_read_at(&raw const rest[profile.start]));
    is_there.then_some(loaded)
}

/// Whether `word` is in `text`, looked for by a byte of it that is rare in such texts.
pub fn contains(text: &[u8], word: &[u8], rare: u8) -> bool {
    places(text, word, rare).next().is_some()
}

/// Where `word` is in `text`, looked for in the same way: by that byte together with the one before it, if there is one.
pub fn places<'a>(text: &'a [u8], word: &'a [u8], rare: u8) -> impl Iterator<Item = usize> + 'a {
    let place = word.iter().position(|byte| *byte == rare);
    let pair = place.and_then(|place| word.get(place.checked_sub(1)?..)?.first_chunk::<2>());
    let begin = if pair.is_some() { place.map(|place| place - 1) } else { place };
    let next = move |text: &[u8]| match pair {
        Some(pair) => search::find_pair(text, *pair),
        None => search::find(text, rare),
    };
    let mut from = 0;
    std::iter::from_fn(move || {
        let begin = begin?;
        while let Some(found) = next(text.get(from..)?) {
            let start = (from + found).checked_sub(begin);
            from += found + 1;
            if let Some(start) = start.filter(|start| text.get(*start..).is_some_and(|found| found.starts_with(word))) {
                return Some(start);
            }
        }
        None
    })
}

/// Reads the regular file at `path`, whole.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    // Without O_NONBLOCK a FIFO would be waited for, and without O_NOCTTY a terminal would become ours.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .doing(|| format!("open {}", path.display()))?;
    let metadata = file.metadata().doing(|| format!("stat {}", path.display()))?;
    if !metadata.is_file() {
        return Err(refused(path, "is not a regular file: make it one"));
    }
    if metadata.len() > MAX_BYTES {
        return Err(too_large(path));
    }
    fill(&mut file, metadata.len() as usize, path)
}

/// Reads what is at `path` to its end, be it a file or a pipe; standard input without a path.
pub(super) fn read_stream(path: Option<&Path>) -> Result<Vec<u8>> {
    let name = path.unwrap_or(Path::new("standard input"));
    let doing = || format!("read {}", name.display());
    let mut text = Vec::new();
    let read = match path {
        Some(path) => File::open(path).doing(doing)?.take(MAX_BYTES + 1).read_to_end(&mut text),
        None => std::io::stdin().take(MAX_BYTES + 1).read_to_end(&mut text),
    };
    read.doing(doing)?;
    if text.len() as u64 > MAX_BYTES { Err(too_large(name)) } else { Ok(text) }
}

/// Reads `file` to its end; `expected` is its length in bytes unless somebody writes to it meanwhile.
fn fill(file: &mut File, expected: usize, path: &Path) -> Result<Vec<u8>> {
    let mut text = vec![0; expected];
    let got = file.read(&mut text).doing(|| format!("read {}", path.display()))?;
    text.truncate(got);
    if got == expected && expected > 0 {
        return Ok(text);
    }
    file.take(MAX_BYTES + 1).read_to_end(&mut text).doing(|| format!("read {}", path.display()))?;
    if text.len() as u64 > MAX_BYTES { Err(too_large(path)) } else { Ok(text) }
}

fn too_large(path: &Path) -> Error {
    refused(path, "is larger than 16 MiB: make it smaller")
}

fn refused(path: &Path, problem: &str) -> Error {
    Error::new(Kind::Config, format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn words_are_found_wherever_they_are() {
        for text in ["\"network\"", "x\"network\"", "kk\"networ\"network\" ", "\"network\"\"network\""] {
            assert!(contains(text.as_bytes(), b"\"network\"", b'k'), "{text}");
        }
        for text in ["", "k", "k\"", "\"network", "network\"", "kkkk"] {
            assert!(!contains(text.as_bytes(), b"\"network\"", b'k'), "{text}");
        }
    }
}
