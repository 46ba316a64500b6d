//! tmpcopyup: a new tmpfs starts with what the image has at its destination.

use crate::sys::fs::{self, Sys};
use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::RawFd;

/// How deep directories may be nested: each that is not finished takes a descriptor, of which a process may have 1024 as a
/// rule, and four bytes of a stack that is small and has no guard page.
pub const DEEPEST: usize = 512;

/// Copies what is in the directory `from` into the directory `to` of a file system that nobody else has yet, with modes and
/// owners. Sockets are left out.
///
/// # Errors
/// ENAMETOOLONG where it is nested too deep; or what a system call answers.
pub fn copy_up(from: RawFd, to: RawFd) -> Sys {
    let mut copy = Copy { listings: [-1; DEEPEST], depth: 0, to: -1 };
    let result =
        open_both(from, to, c".").and_then(|(listing, to)| copy.descend(listing, to)).and_then(|()| copy.run());
    copy.listings.iter().take(copy.depth).for_each(|listing| fs::close(*listing));
    fs::close(copy.to);
    result
}

/// A copy in the making, of a tree of which it is in one directory at a time.
struct Copy {
    /// That directory and those around it, as far as they have been read. There is no other way back to them: they are the
    /// image's, whose owner may move them.
    listings: [RawFd; DEEPEST],
    /// How many these are.
    depth: usize,
    /// Its copy.
    to: RawFd,
}

impl Copy {
    fn run(&mut self) -> Sys {
        while let Some(listing) = self.depth.checked_sub(1).and_then(|last| self.listings.get(last).copied()) {
            let (to, mut inner) = (self.to, None);
            fs::read_directory_until(listing, |name| {
                if !matches!(name.to_bytes(), b"." | b"..") {
                    inner = copy_entry(listing, to, name)?;
                }
                Ok(inner.is_some())
            })?;
            match inner {
                Some((listing, to)) => self.descend(listing, to)?,
                None => self.ascend(listing)?,
            }
        }
        Ok(())
    }

    /// Goes on with the directory `listing`, of which `to` is the copy.
    fn descend(&mut self, listing: RawFd, to: RawFd) -> Sys {
        fs::close(std::mem::replace(&mut self.to, to));
        let Some(level) = self.listings.get_mut(self.depth) else {
            fs::close(listing);
            return Err(Errno::ENAMETOOLONG);
        };
        *level = listing;
        self.depth += 1;
        Ok(())
    }

    /// Goes on with the directory around `listing`, which has been copied.
    fn ascend(&mut self, listing: RawFd) -> Sys {
        if self.depth > 1 {
            let parent = fs::open(self.to, c"..", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
            let finished = std::mem::replace(&mut self.to, parent);
            // Only now: what is made in a directory may inherit its group.
            let result = fs::stat(listing).and_then(|stat| own_directory(finished, &stat));
            fs::close(finished);
            result?;
        }
        fs::close(listing);
        self.depth -= 1;
        Ok(())
    }
}

fn own_directory(directory: RawFd, stat: &libc::stat) -> Sys {
    fs::chown(directory, c"", stat.st_uid, stat.st_gid)?;
    // mkdir(2) does not take all bits.
    if stat.st_mode & 0o7000 != 0 { fs::chmod(directory, stat.st_mode & 0o7777) } else { Ok(()) }
}

/// The directories of this name.
fn open_both(from: RawFd, to: RawFd, name: &CStr) -> Sys<(RawFd, RawFd)> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let source = fs::open(from, name, flags, 0)?;
    match fs::open(to, name, flags, 0) {
        Ok(copy) => Ok((source, copy)),
        Err(errno) => {
            fs::close(source);
            Err(errno)
        }
    }
}

/// Copies all but what is in a directory: that and its copy are open then.
fn copy_entry(from: RawFd, to: RawFd, name: &CStr) -> Sys<Option<(RawFd, RawFd)>> {
    let stat = fs::stat_at(from, name, libc::AT_SYMLINK_NOFOLLOW)?;
    let (kind, mode) = (stat.st_mode & libc::S_IFMT, stat.st_mode & 0o7777);
    match kind {
        libc::S_IFDIR => {
            fs::mkdir(to, name, mode)?;
            return open_both(from, to, name).map(Some);
        }
        libc::S_IFLNK => copy_link(from, to, name)?,
        libc::S_IFREG => copy_file(from, to, name, mode)?,
        libc::S_IFSOCK => return Ok(None),
        _ => fs::mknod(to, name, stat.st_mode, stat.st_rdev)?,
    }
    fs::chown(to, name, stat.st_uid, stat.st_gid)?;
    // chown(2) takes some bits away.
    if mode & 0o7000 != 0 && kind != libc::S_IFLNK {
        fs::chmod_at(to, name, mode)?;
    }
    Ok(None)
}

#[inline(never)]
fn copy_link(from: RawFd, to: RawFd, name: &CStr) -> Sys {
    let mut link = [0u8; 4096];
    let length = fs::readlink(from, name, link.get_mut(..4095).ok_or(Errno::EIO)?)?;
    let target = CStr::from_bytes_until_nul(link.get(..=length).ok_or(Errno::EIO)?).map_err(|_| Errno::EIO)?;
    fs::symlink(target, to, name)
}

#[inline(never)]
fn copy_file(from: RawFd, to: RawFd, name: &CStr, mode: u32) -> Sys {
    let source = fs::open(from, name, libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK, 0)?;
    let copy = fs::open(to, name, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, mode)?;
    let mut buffer = [0u8; 4096];
    let result = loop {
        match fs::read(source, &mut buffer) {
            Ok(0) => break Ok(()),
            Ok(count) => {
                if let Err(errno) = fs::write(copy, buffer.get(..count).unwrap_or_default()) {
                    break Err(errno);
                }
            }
            Err(errno) => break Err(errno),
        }
    };
    fs::close(source);
    fs::close(copy);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clone;
    use std::fs as std_fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn copy(from: &Path, to: &Path) -> Sys {
        let (from, to) = (std_fs::File::open(from).unwrap(), std_fs::File::open(to).unwrap());
        // On a stack as init has it.
        std::thread::Builder::new()
            .stack_size(clone::STACK)
            .spawn(move || copy_up(from.as_raw_fd(), to.as_raw_fd()))
            .unwrap()
            .join()
            .unwrap()
    }

    #[test]
    fn the_deepest_tree_fits_the_stack_and_a_deeper_one_is_refused() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // The top is the first of them.
        let deepest: String = (1..DEEPEST).map(|level| format!("{level}/")).collect();
        std_fs::create_dir_all(from.path().join(&deepest)).unwrap();
        std_fs::write(from.path().join(&deepest).join("file"), "text").unwrap();
        symlink("x".repeat(4000), from.path().join(&deepest).join("link")).unwrap();
        copy(from.path(), to.path()).unwrap();
        assert_eq!(std_fs::read(to.path().join(&deepest).join("file")).unwrap(), b"text");
        assert_eq!(std_fs::read_link(to.path().join(&deepest).join("link")).unwrap().as_os_str().len(), 4000);
        std_fs::create_dir(from.path().join(&deepest).join("deeper")).unwrap();
        let again = tempfile::tempdir().unwrap();
        assert_eq!(copy(from.path(), again.path()), Err(Errno::ENAMETOOLONG));
    }

    /// After each directory its parent is read on from where it was left.
    #[test]
    fn nothing_is_left_out_between_directories() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let names = (0..100).flat_map(|one| {
            let inner = (0..3).map(move |two| format!("directory-with-a-name-{one}/{two}/file"));
            inner.chain([format!("file-with-a-name-{one}")])
        });
        for name in names.clone() {
            let path = from.path().join(&name);
            std_fs::create_dir_all(path.parent().unwrap()).unwrap();
            std_fs::write(path, &name).unwrap();
        }
        copy(from.path(), to.path()).unwrap();
        for name in names {
            assert_eq!(std_fs::read_to_string(to.path().join(&name)).unwrap(), name);
        }
    }
}
