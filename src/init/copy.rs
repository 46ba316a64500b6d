//! tmpcopyup: a new tmpfs starts with what the image has at its destination.

#[cfg(doc)]
use crate::sys::clone;
use crate::sys::fs::{self, Sys};
use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::RawFd;

/// How deep directories may be nested. Each level takes some 2.5 KiB of a stack that is [`clone::STACK`] and has no guard
/// page, so what takes more is a function of its own that is not inlined here, and a test goes that deep.
const DEEPEST: u32 = 16;

/// Copies what is in the directory `from` into the directory `to`, with modes and owners. Sockets are left out.
pub fn copy_up(from: RawFd, to: RawFd) -> Sys {
    copy_directory(from, to, 0)
}

fn copy_directory(from: RawFd, to: RawFd, depth: u32) -> Sys {
    if depth > DEEPEST {
        return Err(Errno::ELOOP);
    }
    let listing = fs::open(from, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let result = copy_entries(listing, to, depth);
    fs::close(listing);
    result
}

fn copy_entries(listing: RawFd, to: RawFd, depth: u32) -> Sys {
    fs::read_directory(listing, |name| match name.to_bytes() {
        b"." | b".." => Ok(()),
        _ => copy_entry(listing, to, name, depth),
    })
}

fn copy_entry(from: RawFd, to: RawFd, name: &CStr, depth: u32) -> Sys {
    let stat = fs::stat_at(from, name, libc::AT_SYMLINK_NOFOLLOW)?;
    let mode = stat.st_mode & 0o7777;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            fs::mkdir(to, name, mode)?;
            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let source = fs::open(from, name, flags, 0)?;
            let copy = fs::open(to, name, flags, 0)?;
            let result = copy_directory(source, copy, depth + 1);
            fs::close(source);
            fs::close(copy);
            result?;
        }
        libc::S_IFLNK => copy_link(from, to, name)?,
        libc::S_IFREG => copy_file(from, to, name, mode)?,
        libc::S_IFSOCK => return Ok(()),
        _ => fs::mknod(to, name, stat.st_mode, stat.st_rdev)?,
    }
    fs::chown(to, name, stat.st_uid, stat.st_gid)?;
    // mkdir(2) does not take all bits, and chown(2) takes some away.
    let special = stat.st_mode & 0o7000 != 0 && stat.st_mode & libc::S_IFMT != libc::S_IFLNK;
    if special { fs::chmod_at(to, name, mode) } else { Ok(()) }
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
        let deepest: String = (0..DEEPEST).map(|level| format!("{level}/")).collect();
        std_fs::create_dir_all(from.path().join(&deepest)).unwrap();
        std_fs::write(from.path().join(&deepest).join("file"), "text").unwrap();
        symlink("x".repeat(4000), from.path().join(&deepest).join("link")).unwrap();
        copy(from.path(), to.path()).unwrap();
        assert_eq!(std_fs::read(to.path().join(&deepest).join("file")).unwrap(), b"text");
        assert_eq!(std_fs::read_link(to.path().join(&deepest).join("link")).unwrap().as_os_str().len(), 4000);
        std_fs::create_dir(from.path().join(&deepest).join("deeper")).unwrap();
        let again = tempfile::tempdir().unwrap();
        assert_eq!(copy(from.path(), again.path()), Err(Errno::ELOOP));
    }
}
