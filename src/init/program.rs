//! The program and its HOME: what can only be looked up inside the container.

use super::op::{Environment, Exec};
use crate::sys::{fs, fs::Sys};
use nix::errno::Errno;
use std::ffi::CStr;

/// The first candidate that this user may execute, by its index.
///
/// With several candidates (a search of PATH) whatever cannot be executed is passed over and the answer is ENOENT
/// when none is left; a single path reports its own error.
pub fn find(exec: &Exec) -> Sys<usize> {
    if let [only] = exec.candidates.as_slice()
        && exec.args.get(0).is_some_and(|name| name.to_bytes().contains(&b'/'))
    {
        return executable(only).map(|()| 0);
    }
    exec.candidates.iter().position(|path| executable(path).is_ok()).ok_or(Errno::ENOENT)
}

fn executable(path: &CStr) -> Sys {
    let stat = fs::stat_at(fs::CWD, path, 0)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    if stat.st_mode & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    fs::access(fs::CWD, path, libc::X_OK)
}

/// Fills in HOME from /etc/passwd, or "/" when the file has no line for `uid`.
pub fn set_home(env: &Environment, uid: u32) -> Sys {
    let mut home = [0u8; Environment::HOME_ROOM];
    // A link of the image's shall not lead out of it, by what others have open or by the roots of other processes.
    let inside = libc::RESOLVE_NO_MAGICLINKS;
    let length = match fs::open_resolved(fs::CWD, c"/etc/passwd", libc::O_RDONLY | libc::O_NONBLOCK, 0, inside) {
        Ok(file) => {
            let found = search_passwd(file, uid, &mut home);
            fs::close(file);
            found
        }
        Err(_) => None,
    };
    let value = match length {
        Some(length) => home.get(..length).unwrap_or(b"/"),
        None => b"/",
    };
    env.write_home(value)
}

/// How many bytes of a passwd(5) file are looked at: a sparse one of the container's can have any size, and who reads it is us.
const PASSWD_LIMIT: usize = 1 << 20;

/// Reads a passwd(5) file line by line, as far as [`PASSWD_LIMIT`]; the length of the home directory of `uid`, which is put into `home`.
#[inline(never)] // A page of stack, for images that have such a file.
fn search_passwd(file: i32, uid: u32, home: &mut [u8]) -> Option<usize> {
    let stat = fs::stat(file).ok()?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return None;
    }
    let mut buffer = [0u8; 4096];
    let (mut filled, mut total) = (0, 0);
    while total < PASSWD_LIMIT {
        let count = fs::read(file, buffer.get_mut(filled..)?).ok()?;
        filled += count;
        total += count;
        let mut text = buffer.get(..filled)?;
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            if let Some(length) = home_of(text.get(..end)?, uid, home) {
                return Some(length);
            }
            text = text.get(end + 1..)?;
        }
        if count == 0 {
            return home_of(text, uid, home);
        }
        let left = text.len();
        // A line that fills the buffer is no line of passwd(5): drop what is there of it.
        let keep = if left == buffer.len() { 0 } else { left };
        buffer.copy_within(filled - keep..filled, 0);
        filled = keep;
    }
    None
}

/// The home directory of a passwd(5) line, if it is that of `uid`.
fn home_of(line: &[u8], uid: u32, home: &mut [u8]) -> Option<usize> {
    let mut fields = line.split(|byte| *byte == b':');
    let number = str::from_utf8(fields.nth(2)?).ok()?;
    if number.parse::<u32>().ok()? != uid {
        return None;
    }
    let directory = fields.nth(2)?;
    home.get_mut(..directory.len())?.copy_from_slice(directory);
    Some(directory.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    fn search(passwd: &str, uid: u32) -> Option<String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(passwd.as_bytes()).unwrap();
        let file = file.reopen().unwrap();
        let mut home = [0u8; Environment::HOME_ROOM];
        let length = search_passwd(file.as_raw_fd(), uid, &mut home)?;
        Some(String::from_utf8(home[..length].to_vec()).unwrap())
    }

    #[test]
    fn a_number_is_a_uid_and_never_a_name() {
        // CVE-2016-3697: a user called "1000" who is root.
        let passwd = "1000:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
        assert_eq!(search(passwd, 1000).as_deref(), Some("/home/user"));
        assert_eq!(search(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(search(passwd, 7), None);
    }

    #[test]
    fn long_files_and_odd_lines_are_survived() {
        let mut passwd = String::from("junk\n::::\n");
        for index in 0..2000 {
            passwd += &format!("u{index}:x:{}:0::/home/u{index}:/bin/sh\n", 5000 + index);
        }
        passwd += &format!("{}\n", "x".repeat(10_000));
        passwd += "last:x:42:42::/last:";
        assert_eq!(search(&passwd, 42).as_deref(), Some("/last"));
        assert_eq!(search(&passwd, 6999).as_deref(), Some("/home/u1999"));
    }

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"user:x:42:42::/home/user:/bin/sh\n").unwrap();
        file.as_file().set_len(1 << 40).unwrap();
        let mut home = [0u8; Environment::HOME_ROOM];
        let mut search = |uid| search_passwd(file.reopen().unwrap().as_raw_fd(), uid, &mut home);
        assert_eq!((search(42), search(7)), (Some("/home/user".len()), None));
    }

    #[test]
    fn a_home_without_room_is_not_cut() {
        assert_eq!(search(&format!("a:x:1:1::/{}:\n", "h".repeat(300)), 1), None);
    }
}
