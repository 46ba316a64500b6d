//! tmpcopyup: a new tmpfs starts with what the image has at its destination.

use crate::sys::fs::{self, Sys};
use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::RawFd;

/// How deep directories may be nested; each level costs a buffer on the stack.
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
    let mut buffer = [0u8; 2048];
    loop {
        let filled = fs::getdents(listing, &mut buffer)?;
        if filled == 0 {
            return Ok(());
        }
        let mut rest = buffer.get(..filled).unwrap_or_default();
        // struct linux_dirent64: inode (8), offset (8), length (2), type (1), name.
        while let Some(&[low, high]) = rest.get(16..18) {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let entry = rest.get(19..length).ok_or(Errno::EIO)?;
            let name = CStr::from_bytes_until_nul(entry).map_err(|_| Errno::EIO)?;
            if !matches!(name.to_bytes(), b"." | b"..") {
                copy_entry(listing, to, name, depth)?;
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
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
        libc::S_IFLNK => {
            let mut link = [0u8; 4096];
            let length = fs::readlink(from, name, link.get_mut(..4095).ok_or(Errno::EIO)?)?;
            let target = CStr::from_bytes_until_nul(link.get(..=length).ok_or(Errno::EIO)?).map_err(|_| Errno::EIO)?;
            fs::symlink(target, to, name)?;
        }
        libc::S_IFREG => copy_file(from, to, name, mode)?,
        libc::S_IFSOCK => return Ok(()),
        _ => fs::mknod(to, name, stat.st_mode, stat.st_rdev)?,
    }
    fs::chown(to, name, stat.st_uid, stat.st_gid)?;
    // mkdir(2) does not take all bits, and chown(2) takes some away.
    let special = stat.st_mode & 0o7000 != 0 && stat.st_mode & libc::S_IFMT != libc::S_IFLNK;
    if special { fs::chmod_at(to, name, mode) } else { Ok(()) }
}

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
