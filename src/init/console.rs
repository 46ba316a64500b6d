//! The container's terminal.

use super::op::{Create, Rule};
use super::target;
use crate::sys::{fs, fs::Sys, mount, socket};
use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::RawFd;

/// statfs(2): devpts.
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// What the terminal is to be like.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// Rows and columns.
    pub size: Option<(u16, u16)>,
    /// The user who gets it.
    pub owner: Option<u32>,
    /// Whether it is bound to /dev/console.
    pub bind_console: bool,
    /// Whether a line end that is written stays what it is, instead of a carriage return more.
    pub keep_line_ends: bool,
}

/// Opens a new pseudoterminal in the container's devpts, makes its slave stdin, stdout and stderr, and sends its
/// master away over `socket`, which is closed.
///
/// The slave is opened from the master (TIOCGPTPEER), never by name: names in /dev/pts are the image's to fake
/// (CVE-2025-52565).
pub fn set_up(root: RawFd, socket: RawFd, terminal: &Terminal) -> Sys {
    let master = open_master(root)?;
    fs::unlock_terminal(master)?;
    let slave = fs::terminal_peer(master)?;
    if let Some((rows, columns)) = terminal.size {
        fs::set_terminal_size(slave, rows, columns)?;
    }
    if terminal.keep_line_ends {
        fs::keep_line_ends(slave)?;
    }
    if let Some(uid) = terminal.owner {
        match fs::chown(slave, c"", uid, u32::MAX) {
            // Its owner is not mapped, or the devpts is read-only: it can be used all the same, if not be opened again.
            Err(Errno::EPERM | Errno::EROFS) => {}
            chowned => chowned?,
        }
    }
    if terminal.bind_console {
        let place = target::open_target(root, c"dev/console", Create::File, Rule::OffProc)?;
        let tree = mount::open_tree_clone(slave, c"", 0)?;
        mount::attach(tree, place)?;
        fs::close(tree);
        fs::close(place);
    }
    socket::send_fd(socket, b"/dev/ptmx", master)?;
    for fd in 0..3 {
        fs::dup_onto(slave, fd)?;
    }
    fs::close(slave);
    fs::close(master);
    fs::close(socket);
    Ok(())
}

/// The multiplexer of the container's devpts; some images reach it only by /dev/ptmx.
fn open_master(root: RawFd) -> Sys<RawFd> {
    let open = |path: &CStr| target::open_in_root(root, path, libc::O_RDWR | libc::O_NOCTTY);
    let master = match open(c"dev/pts/ptmx") {
        Err(Errno::ENOENT | Errno::EACCES) => open(c"dev/ptmx")?,
        result => result?,
    };
    if fs::file_system(master)? == DEVPTS_SUPER_MAGIC {
        return Ok(master);
    }
    // A node on another file system is the multiplexer only if its number says so: tty major 5, minor 2.
    let stat = fs::stat(master)?;
    let is_multiplexer = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(5, 2);
    if is_multiplexer { Ok(master) } else { Err(Errno::ENOTTY) }
}
