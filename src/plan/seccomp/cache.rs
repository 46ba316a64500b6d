//! Compiled filters on disk.
//!
//! A filter from the cache is loaded as it is, so whoever can write the cache decides what containers may do. The
//! directory therefore has to belong to the runtime's user and be closed to everybody else, which is asked of the open
//! descriptor; so has each file. A file holds the profile's whole text and is used only for exactly that text: the
//! hash in its name finds it and is not trusted with anything, so it need not be a strong one. The checksum is for
//! accidents (a full disk, a crash while writing): a file that fails it is compiled and written anew.
//!
//! The hash is that of the profile's beginning. So a profile is found in the text of a configuration before anybody knows where it
//! ends: if the text goes on as a file's does, up to the end of that, it ends there, for a JSON object tells its own end.

use super::{Filter, Listener, instructions};
use crate::error::{Doing, Error, Kind, Result};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, geteuid, mkdir, unlinkat};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The files that are kept. A machine has a handful of profiles; one takes some 10 KiB.
const MAX_FILES: usize = 64;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// The most profiles that are kept of those which begin alike: one engine's for containers with different capabilities, for example.
const SLOTS: usize = 8;

/// The most bytes of a profile by which its files are named.
const BEGINNING: usize = 256;

/// Changes whenever this program would compile a profile to something else than before.
const VERSION: u32 = 4;

/// The first bytes of a file.
const MAGIC: [u8; 8] = *b"mrunbp3\n";

/// The length of what precedes the program, in bytes.
const HEADER: usize = 48;

/// How much of a file is read at a time, in bytes: two pages.
const WINDOW: usize = 8 << 10;

/// A directory of compiled filters.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    directory: OwnedFd,
}

impl Cache {
    /// Opens the cache in the directory `path`, which is made if it is missing; its parent has to exist.
    ///
    /// # Errors
    /// The directory cannot be made or opened, is a symbolic link, belongs to somebody else, or others may enter it.
    pub fn open(path: &Path) -> Result<Self> {
        match Self::open_existing(path) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => {
                match mkdir(path, Mode::S_IRWXU) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(Error::system(format!("mkdir {}", path.display()), errno)),
                }
                Self::open_existing(path)
            }
            opened => opened,
        }
    }

    /// As [`Cache::open`], for a cache that has been made.
    ///
    /// # Errors
    /// As there, and ENOENT.
    pub fn open_existing(path: &Path) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = open(path, flags, Mode::empty());
        let directory = opened.doing(|| format!("open the seccomp cache {}", path.display()))?;
        let stat = fstat(&directory).doing(|| format!("fstat {}", path.display()))?;
        if !private(&stat) {
            return Err(distrusted(path, "directory"));
        }
        Ok(Self { path: path.to_owned(), directory })
    }

    /// The filter that was compiled from `text`, if there is one.
    ///
    /// # Errors
    /// The file is there and cannot be read or trusted.
    pub fn load(&self, text: &[u8]) -> Result<Option<Filter>> {
        let found = self.find(text)?;
        Ok(found.filter(|(_, length)| *length == text.len()).map(|(filter, _)| filter))
    }

    /// The filter that was compiled from the profile at the beginning of `text`, whatever follows it there, and the profile's length
    /// in bytes, if there is one.
    ///
    /// # Errors
    /// There is none, and a file that it may be in cannot be read or trusted.
    pub fn find(&self, text: &[u8]) -> Result<Option<(Filter, usize)>> {
        let mut trouble = None;
        for name in names(text) {
            match self.look(&name, text) {
                Ok(Content::Of(filter, length)) => return Ok(Some((filter, length))),
                Ok(Content::Nothing | Content::Anothers) => {}
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        trouble.map_or(Ok(None), Err)
    }

    /// What the file `name` is to the profile at the beginning of `text`.
    fn look(&self, name: &str, text: &[u8]) -> Result<Content> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::ENOENT) => return Ok(Content::Nothing),
            Err(errno) => return Err(Error::system(format!("open {}", self.path.join(name).display()), errno)),
        };
        let stat = fstat(&file).doing(|| format!("fstat {}", self.path.join(name).display()))?;
        if !private(&stat) || stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            return Err(distrusted(&self.path.join(name), "file"));
        }
        let size = stat.st_size as u64;
        if size > MAX_BYTES {
            return Ok(Content::Nothing);
        }
        compare(File::from(file), size as usize, text).doing(|| format!("read {}", self.path.join(name).display()))
    }

    /// The name of the file that `text` is kept in from now on: one that is missing or of no use, or its own, or else some other's.
    fn place(&self, text: &[u8]) -> String {
        let is_free = |name: &String| match self.look(name, text) {
            Ok(Content::Of(_, length)) => length == text.len(),
            Ok(Content::Anothers) => false,
            Ok(Content::Nothing) | Err(_) => true,
        };
        names(text).find(is_free).unwrap_or_else(|| name(beginning(text), mix(text) as usize % SLOTS))
    }

    /// Keeps `filter` as what `text` compiles to.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(&self, text: &[u8], filter: &Filter) -> Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Some(bytes) = encode(text, filter) else { return Ok(()) };
        self.make_room()?;
        let name = self.place(text);
        let draft = format!("{name}.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let doing = || format!("write {}", self.path.join(&draft).display());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.directory, draft.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR).doing(doing)?;
        let written = File::from(file)
            .write_all(&bytes)
            .doing(doing)
            .and_then(|()| renameat(&self.directory, draft.as_str(), &self.directory, name.as_str()).doing(doing));
        if written.is_err() {
            // The error is told already; a draft that stays is removed when room is made.
            let _ = unlinkat(&self.directory, draft.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    /// Removes the oldest files until there is room for one more.
    fn make_room(&self) -> Result<()> {
        let doing = || format!("list {}", self.path.display());
        let mut files = Vec::new();
        // A descriptor of its own: reading moves the position that a copy would share.
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        for entry in Dir::openat(&self.directory, ".", flags, Mode::empty()).doing(doing)?.iter() {
            let name = entry.doing(doing)?.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // Another start may have removed it.
            if let Ok(stat) = fstatat(&self.directory, name.as_c_str(), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW) {
                files.push((stat.st_mtime, stat.st_mtime_nsec, name));
            }
        }
        files.sort();
        for (_, _, name) in files.iter().take((files.len() + 1).saturating_sub(MAX_FILES)) {
            match unlinkat(&self.directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(Error::system(doing(), errno)),
            }
        }
        Ok(())
    }
}

/// Whether a file or directory is the runtime's user's alone.
fn private(stat: &FileStat) -> bool {
    stat.st_uid == geteuid().as_raw() && stat.st_mode & 0o077 == 0
}

fn distrusted(path: &Path, kind: &str) -> Error {
    Error::new(
        Kind::System,
        format!(
            "the seccomp cache {} is not a {kind} of user {} alone and is not used: remove it",
            path.display(),
            geteuid()
        ),
    )
}

/// That part of a profile at the beginning of `text` by which its files are named: it must not depend on what follows the profile,
/// and where a brace is closed first, that may be the end.
fn beginning(text: &[u8]) -> &[u8] {
    let most = text.get(..BEGINNING).unwrap_or(text);
    most.split_inclusive(|byte| *byte == b'}').next().unwrap_or_default()
}

/// The names of the files that the profile at the beginning of `text` may be in.
fn names(text: &[u8]) -> impl Iterator<Item = String> {
    let beginning = beginning(text);
    (0..SLOTS).map(move |slot| name(beginning, slot))
}

fn name(beginning: &[u8], slot: usize) -> String {
    format!("{:016x}-{slot}", mix(beginning))
}

/// A fast hash (multiply and rotate, eight bytes at a time, in four chains that a processor calculates at once). Anybody can make two
/// texts with the same one.
fn mix(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    const SIZE: usize = 32;
    let step = |hash: u64, word: &[u8; 8]| (hash ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(29);
    let all = |chains: [u64; 4], block: &[u8; SIZE]| {
        let [a, b, c, d] = chains;
        let words = block.as_chunks::<8>().0;
        [step(a, &words[0]), step(b, &words[1]), step(c, &words[2]), step(d, &words[3])]
    };
    let (blocks, rest) = bytes.as_chunks::<SIZE>();
    let mut last = [0; SIZE];
    last[..rest.len()].copy_from_slice(rest);
    let chains = blocks.iter().chain([&last]).fold([1, 2, 3, 4], all);
    chains.iter().fold(bytes.len() as u64, |hash, chain| step(hash, &chain.to_le_bytes())).wrapping_mul(FACTOR)
}

/// Whether two texts are the same; a block at a time, where musl's memcmp(3) compares single bytes.
fn same(one: &[u8], other: &[u8]) -> bool {
    let (blocks, rest) = one.as_chunks::<32>();
    let (others, other_rest) = other.as_chunks::<32>();
    one.len() == other.len() && rest == other_rest && blocks.iter().zip(others).all(|(one, other)| one == other)
}

/// What a filter depends on besides the text: how this program and its libseccomp compile.
fn compiler() -> u32 {
    let library = libseccomp::ScmpVersion::current()
        .map_or(0, |version| version.major << 16 | version.minor << 8 | version.micro);
    VERSION << 24 ^ library
}

/// A file's bytes: header, program, path, metadata, text. `None` if something is too long to be kept.
fn encode(text: &[u8], filter: &Filter) -> Option<Vec<u8>> {
    let listener = filter.listener.as_ref();
    let path = listener.map_or(&[][..], |listener| listener.path.as_os_str().as_bytes());
    let metadata = listener.and_then(|listener| listener.metadata.as_deref());
    let lengths = [
        u32::try_from(filter.program.len()).ok()?,
        u32::try_from(path.len()).ok()?,
        u32::try_from(metadata.map_or(0, str::len)).ok()?,
        u32::try_from(text.len()).ok()?,
    ];
    // What is there: a listener, and its metadata, which may be empty.
    let parts = u32::from(listener.is_some()) | u32::from(metadata.is_some()) << 1;
    let mut body = Vec::with_capacity(HEADER + filter.program.len() * 8 + path.len());
    for word in [compiler(), super::profile::NATIVE as u32, filter.flags, parts].iter().chain(&lengths) {
        body.extend(word.to_ne_bytes());
    }
    for step in &filter.program {
        body.extend(step.code.to_ne_bytes());
        body.extend([step.jt, step.jf]);
        body.extend(step.k.to_ne_bytes());
    }
    body.extend(path);
    body.extend(metadata.unwrap_or_default().as_bytes());
    if (16 + body.len() + text.len()) as u64 > MAX_BYTES {
        return None;
    }
    // The text has no part in the checksum: it is compared.
    Some([&MAGIC[..], &mix(&body).to_ne_bytes(), &body, text].concat())
}

/// What a file of the cache is to a profile.
enum Content {
    /// It was not written whole, or by another compiler.
    Nothing,
    /// It was written for another profile.
    Anothers,
    /// The profile's filter, and its length in bytes.
    Of(Filter, usize),
}

/// Reads a file of `size` bytes and compares its text with the profile at the beginning of `text`, a window at a time, on the stack, where a
/// start will need memory anyway: each page more takes 1.5 µs to find, to clear and to take away again.
///
/// # Errors
/// As read(2).
#[inline(never)]
fn compare(mut file: impl Read, size: usize, text: &[u8]) -> io::Result<Content> {
    let (mut window, mut longer) = ([0; WINDOW], Vec::new());
    let mut bytes = &mut window[..size.min(WINDOW)];
    if !fill(&mut file, bytes)? {
        return Ok(Content::Nothing);
    }
    let Some(stored) = Stored::new(bytes).filter(|stored| stored.text.end == size) else {
        return Ok(Content::Nothing);
    };
    // A filter of a thousand instructions.
    if stored.text.start > bytes.len() {
        longer.extend_from_slice(bytes);
        longer.resize(stored.text.start, 0);
        if !fill(&mut file, &mut longer[bytes.len()..])? {
            return Ok(Content::Nothing);
        }
        bytes = &mut longer;
    }
    let Some(filter) = stored.filter(bytes) else { return Ok(Content::Nothing) };
    // Without a text, every one would begin with it.
    let Some(text) = text.get(..stored.text.len()).filter(|text| !text.is_empty()) else {
        return Ok(Content::Anothers);
    };
    let (first, rest) = text.split_at(bytes.len() - stored.text.start);
    if !same(&bytes[stored.text.start..], first) {
        return Ok(Content::Anothers);
    }
    for next in rest.chunks(bytes.len()) {
        let bytes = &mut bytes[..next.len()];
        if !fill(&mut file, bytes)? {
            return Ok(Content::Nothing);
        }
        if !same(bytes, next) {
            return Ok(Content::Anothers);
        }
    }
    Ok(Content::Of(filter, text.len()))
}

/// Fills `buffer`, if the file does not end before: it may have been cut since it was looked at.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where the parts of a file are in its bytes.
struct Stored {
    flags: u32,
    checksum: u64,
    program: Range<usize>,
    /// Where the listener goes, and what it is told.
    listener: Option<(Range<usize>, Option<Range<usize>>)>,
    text: Range<usize>,
}

impl Stored {
    /// Of a file that this compiler wrote, by its beginning.
    fn new(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.strip_prefix(&MAGIC)?.split_first_chunk::<{ HEADER - MAGIC.len() }>()?;
        let (checksum, words) = head.split_first_chunk::<8>()?;
        let mut words = words.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word));
        let mut word = || words.next().unwrap_or_default();
        if (word(), word()) != (compiler(), super::profile::NATIVE as u32) {
            return None;
        }
        let (flags, parts) = (word(), word());
        let mut end = HEADER;
        let mut next = |length: usize| {
            let start = end;
            end = end.checked_add(length)?;
            Some(start..end)
        };
        let program = next((word() as usize).checked_mul(8)?)?;
        let path = next(word() as usize)?;
        let metadata = next(word() as usize)?;
        let text = next(word() as usize)?;
        let listener = (parts & 1 != 0).then(|| (path, (parts & 2 != 0).then_some(metadata)));
        Some(Self { flags, checksum: u64::from_ne_bytes(*checksum), program, listener, text })
    }

    /// The filter, if all that precedes the text in `bytes` is as it was written.
    fn filter(&self, bytes: &[u8]) -> Option<Filter> {
        if bytes.get(MAGIC.len() + size_of_val(&self.checksum)..self.text.start).map(mix) != Some(self.checksum) {
            return None;
        }
        let listener = match &self.listener {
            Some((path, metadata)) => {
                let metadata = match metadata {
                    Some(metadata) => Some(String::from_utf8(bytes.get(metadata.clone())?.to_vec()).ok()?),
                    None => None,
                };
                Some(Listener { path: OsStr::from_bytes(bytes.get(path.clone())?).into(), metadata })
            }
            None => None,
        };
        Some(Filter { program: instructions(bytes.get(self.program.clone())?), flags: self.flags, listener })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::sock_filter;
    use proptest::prelude::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn filter() -> Filter {
        Filter {
            program: vec![sock_filter { code: 6, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }; 3],
            flags: 12,
            listener: Some(Listener { path: "/run/agent.sock".into(), metadata: Some("bar".into()) }),
        }
    }

    fn plain(filter: &Filter) -> String {
        format!("{filter:?}")
    }

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("seccomp")).unwrap();
        (directory, cache)
    }

    /// The first place of a profile.
    fn path(cache: &Cache, text: &[u8]) -> PathBuf {
        cache.path.join(name(beginning(text), 0))
    }

    fn decode(bytes: &[u8], text: &[u8]) -> Option<Filter> {
        match compare(bytes, bytes.len(), text).unwrap() {
            Content::Of(filter, length) if length == text.len() => Some(filter),
            _ => None,
        }
    }

    #[test]
    fn what_is_stored_is_loaded_for_the_same_text_only() {
        let (_directory, cache) = cache();
        assert!(cache.load(b"{text}").unwrap().is_none());
        for listener in [filter().listener, None, Some(Listener { path: "/a".into(), metadata: None })] {
            let filter = Filter { listener, ..filter() };
            cache.store(b"{text}", &filter).unwrap();
            assert_eq!(plain(&cache.load(b"{text}").unwrap().unwrap()), plain(&filter));
        }
        // More than is read at a time, of either or both.
        let profile = |length: usize| format!("{{{}}}", "1".repeat(length - 2));
        for text in [profile(8), profile(WINDOW - 1), profile(5 * WINDOW)] {
            for length in [3, WINDOW / 8, 4000] {
                let filter = Filter { program: filter().program.repeat(length / 3), ..filter() };
                cache.store(text.as_bytes(), &filter).unwrap();
                assert_eq!(plain(&cache.load(text.as_bytes()).unwrap().unwrap()), plain(&filter));
                let other = format!("{}~", &text[..text.len() - 1]);
                assert!(cache.load(other.as_bytes()).unwrap().is_none());
            }
        }
        assert!(cache.load(b"{text }").unwrap().is_none());
        // Even a file that the hash finds is for its own text only.
        fs::rename(path(&cache, b"{text}"), path(&cache, b"{other}")).unwrap();
        assert!(cache.load(b"{other}").unwrap().is_none());
    }

    #[test]
    fn a_profile_is_found_whatever_follows_it() {
        let (_directory, cache) = cache();
        let long = format!(r#"{{"a": [{}], "b": {{}}}}"#, "\"name\", ".repeat(1000));
        for profile in ["{}", "{\"a\":{}}", long.as_str()] {
            cache.store(profile.as_bytes(), &filter()).unwrap();
            let found =
                |text: &str| cache.find(text.as_bytes()).unwrap().map(|(found, length)| (plain(&found), length));
            for behind in ["", " ", "}", ", \"seccomp\": {}}", "\0"] {
                let text = format!("{profile}{behind}");
                assert_eq!(found(&text), Some((plain(&filter()), profile.len())), "{text}");
                assert_eq!(cache.load(text.as_bytes()).unwrap().is_some(), behind.is_empty());
            }
            for place in 0..profile.len() {
                let (before, behind) = profile.split_at(place);
                assert_eq!(found(before), None, "cut to {place}");
                assert_eq!(found(&format!("{before}~{}", &behind[1..])), None, "changed at {place}");
            }
        }
    }

    #[test]
    fn profiles_that_begin_alike_have_a_place_each() {
        let (_directory, cache) = cache();
        let text = |i: usize| format!("{{\"a\":\"{}\",\"b\":{i}}}", "x".repeat(BEGINNING));
        let flags = |i: usize| cache.load(text(i).as_bytes()).unwrap().map(|filter| filter.flags);
        let keep = |i: usize| cache.store(text(i).as_bytes(), &Filter { flags: i as u32, ..filter() }).unwrap();
        (0..SLOTS).for_each(keep);
        (0..SLOTS).for_each(|i| assert_eq!(flags(i), Some(i as u32)));
        // One that is of no use gives way first.
        fs::write(cache.path.join(name(beginning(text(0).as_bytes()), 3)), "damaged").unwrap();
        keep(SLOTS);
        assert_eq!(flags(3), None);
        assert_eq!((0..=SLOTS).filter_map(flags).count(), SLOTS);
        // Then another.
        keep(3);
        assert_eq!(flags(3), Some(3));
        assert_eq!((0..=SLOTS).filter_map(flags).count(), SLOTS);
        // One that is not to be trusted hides none.
        let first = cache.path.join(name(beginning(text(0).as_bytes()), 0));
        fs::set_permissions(&first, Permissions::from_mode(0o620)).unwrap();
        assert_eq!(
            (0..=SLOTS).filter(|i| cache.load(text(*i).as_bytes()).is_ok_and(|found| found.is_some())).count(),
            SLOTS - 1
        );
        assert!((0..=SLOTS).any(|i| cache.load(text(i).as_bytes()).is_err()));
    }

    #[test]
    fn writers_at_once_leave_whole_files() {
        let (_directory, cache) = cache();
        let text = |i: u32| format!("{{\"a\":\"{}\",\"b\":{i}}}", "x".repeat(BEGINNING));
        let right = |i: u32| cache.load(text(i).as_bytes()).unwrap().is_none_or(|filter| filter.flags == i);
        let write = |first: u32| {
            for i in (first..first + 6).cycle().take(100) {
                cache.store(text(i).as_bytes(), &Filter { flags: i, ..filter() }).unwrap();
                assert!((0..9).all(right));
            }
        };
        let write = &write;
        std::thread::scope(|scope| (0..4).for_each(|first| drop(scope.spawn(move || write(first)))));
        assert!((0..9).any(|i| cache.load(text(i).as_bytes()).unwrap().is_some()));
        assert!(fs::read_dir(&cache.path).unwrap().count() <= SLOTS);
    }

    #[test]
    fn files_of_before_do_not_matter() {
        let (_directory, cache) = cache();
        let old = cache.path.join(format!("{:016x}", mix(b"{text}")));
        fs::write(&old, "mrunbp2\n").unwrap();
        symlink("/etc/passwd", path(&cache, b"{text}")).unwrap();
        assert!(cache.load(b"{text}").is_err());
        cache.store(b"{text}", &filter()).unwrap();
        assert!(cache.load(b"{text}").unwrap().is_some());
        assert!(old.exists() && fs::metadata("/etc/passwd").unwrap().len() > 0);
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none_and_is_replaced() {
        let (_directory, cache) = cache();
        cache.store(b"{text}", &filter()).unwrap();
        let path = path(&cache, b"{text}");
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(cache.load(b"{text}").unwrap().is_none(), "cut to {length}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            fs::write(&path, &damaged).unwrap();
            assert!(cache.load(b"{text}").unwrap().is_none(), "damaged at {at}");
        }
        fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
        assert!(cache.load(b"{text}").unwrap().is_none());
        cache.store(b"{text}", &filter()).unwrap();
        assert!(cache.load(b"{text}").unwrap().is_some());
    }

    #[test]
    fn nothing_that_others_could_have_written_is_used() {
        let (directory, cache) = cache();
        cache.store(b"{text}", &filter()).unwrap();
        let path = path(&cache, b"{text}");
        fs::set_permissions(&path, Permissions::from_mode(0o620)).unwrap();
        assert!(cache.load(b"{text}").unwrap_err().to_string().contains("is not used: remove it"));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();

        fs::rename(&path, directory.path().join("elsewhere")).unwrap();
        symlink(directory.path().join("elsewhere"), &path).unwrap();
        assert_eq!(cache.load(b"{text}").unwrap_err().errno(), Some(Errno::ELOOP));

        fs::set_permissions(&cache.path, Permissions::from_mode(0o770)).unwrap();
        let error = Cache::open(&cache.path).unwrap_err().to_string();
        assert!(error.contains("is not a directory of user"), "{error}");
        fs::set_permissions(&cache.path, Permissions::from_mode(0o700)).unwrap();

        symlink(&cache.path, directory.path().join("link")).unwrap();
        assert!(Cache::open(&directory.path().join("link")).is_err());
        if geteuid().is_root() {
            std::os::unix::fs::chown(&cache.path, Some(65534), None).unwrap();
            assert!(Cache::open(&cache.path).is_err());
        }
    }

    #[test]
    fn the_number_of_files_is_bounded_and_the_newest_stay() {
        let (_directory, cache) = cache();
        for i in 0..MAX_FILES + 20 {
            cache.store(format!("{{{i}}}").as_bytes(), &filter()).unwrap();
        }
        assert_eq!(fs::read_dir(&cache.path).unwrap().count(), MAX_FILES);
        assert!(cache.load(format!("{{{}}}", MAX_FILES + 19).as_bytes()).unwrap().is_some());
        assert!(cache.load(b"{0}").unwrap().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// A file with some bytes changed, cut out or put in is as good as none.
        #[test]
        fn damage_is_found(at in any::<prop::sample::Index>(), cut in 0..9usize, put in prop::collection::vec(any::<u8>(), 0..9)) {
            let whole = encode(b"{text}", &filter()).unwrap();
            let at = at.index(whole.len());
            let mut damaged = whole.clone();
            damaged.splice(at..(at + cut).min(whole.len()), put);
            if let Some(filter) = decode(&damaged, b"{text}") {
                prop_assert_eq!(&damaged, &whole, "{:?}", filter);
            }
        }

        /// Lengths that are lies, with a checksum that is right.
        #[test]
        fn lengths_are_not_believed(lengths in prop::collection::vec(prop_oneof![0..40u32, any::<u32>()], 4), parts in 0..5u32,
                                    rest in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut body = Vec::new();
            for word in [compiler(), super::super::profile::NATIVE as u32, 0, parts].iter().chain(&lengths) {
                body.extend(word.to_ne_bytes());
            }
            body.extend(&rest);
            let summed = body.len().saturating_sub(lengths[3] as usize);
            let bytes = [&MAGIC[..], &mix(&body[..summed]).to_ne_bytes(), &body].concat();
            if let Some(filter) = decode(&bytes, &rest[rest.len().saturating_sub(lengths[3] as usize)..]) {
                prop_assert!(filter.program.len() * 8 <= rest.len());
            }
        }
    }
}
