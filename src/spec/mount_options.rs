//! The options of a mount (runtime-spec config.md, "Linux mount options").

use crate::error::{Error, Result};
use std::fmt::Display;

/// What an option does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: it names the default, or what fsconfig(2) has no word for: the kernel counts i_version by itself
    /// wherever a file system can, and is loud or silent about nothing that these mounts could meet.
    Nothing,
    /// Sets attributes of the mount (`MOUNT_ATTR_*`).
    Set(u64),
    /// Clears attributes of the mount.
    Clear(u64),
    /// Chooses how access times are kept: the bits of `MOUNT_ATTR__ATIME`.
    AccessTime(u64),
    /// Takes back that choice if an option before has made it, as in runc and mount(8): what a mount has is kept.
    NotAccessTime(u64),
    /// Sets attributes of the mount and of all below it.
    SetAll(u64),
    /// Clears attributes of the mount and of all below it.
    ClearAll(u64),
    /// Chooses how access times are kept, here and below.
    AccessTimeAll(u64),
    /// Changes how mounts propagate; with `true`, of all below it too.
    Propagation(u64, bool),
    /// Sets (`true`) or clears a flag of the file system itself, by fsconfig(2).
    Superblock(&'static str, bool),
    /// A bind mount; with `true`, of all below the source too.
    Bind(bool),
    /// Changes the mount that is already there.
    Remount,
    /// A tmpfs starts with what the image has at the destination.
    CopyUp,
    /// An id-mapped mount; with `true`, of all below it too.
    IdMap(bool),
}

/// mount_setattr(2): the bits that choose how access times are kept.
pub const ATIME: u64 = 0x70;
const RELATIME: u64 = 0x00;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;

/// Every option by name.
const OPTIONS: &[(&str, Effect)] = &[
    ("async", Effect::Superblock("sync", false)),
    ("atime", Effect::NotAccessTime(NOATIME)),
    ("bind", Effect::Bind(false)),
    ("defaults", Effect::Nothing),
    ("dev", Effect::Clear(libc::MOUNT_ATTR_NODEV)),
    ("diratime", Effect::Clear(libc::MOUNT_ATTR_NODIRATIME)),
    ("dirsync", Effect::Superblock("dirsync", true)),
    ("exec", Effect::Clear(libc::MOUNT_ATTR_NOEXEC)),
    ("idmap", Effect::IdMap(false)),
    ("iversion", Effect::Nothing),
    ("lazytime", Effect::Superblock("lazytime", true)),
    ("loud", Effect::Nothing),
    ("mand", Effect::Superblock("mand", true)),
    ("noatime", Effect::AccessTime(NOATIME)),
    ("nodev", Effect::Set(libc::MOUNT_ATTR_NODEV)),
    ("nodiratime", Effect::Set(libc::MOUNT_ATTR_NODIRATIME)),
    ("noexec", Effect::Set(libc::MOUNT_ATTR_NOEXEC)),
    ("noiversion", Effect::Nothing),
    ("nolazytime", Effect::Superblock("lazytime", false)),
    ("nomand", Effect::Superblock("mand", false)),
    ("norelatime", Effect::NotAccessTime(RELATIME)),
    ("nostrictatime", Effect::NotAccessTime(STRICTATIME)),
    ("nosuid", Effect::Set(libc::MOUNT_ATTR_NOSUID)),
    ("nosymfollow", Effect::Set(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("private", Effect::Propagation(libc::MS_PRIVATE, false)),
    ("ratime", Effect::AccessTimeAll(RELATIME)),
    ("rbind", Effect::Bind(true)),
    ("rdev", Effect::ClearAll(libc::MOUNT_ATTR_NODEV)),
    ("rdiratime", Effect::ClearAll(libc::MOUNT_ATTR_NODIRATIME)),
    ("relatime", Effect::AccessTime(RELATIME)),
    ("remount", Effect::Remount),
    ("rexec", Effect::ClearAll(libc::MOUNT_ATTR_NOEXEC)),
    ("ridmap", Effect::IdMap(true)),
    ("rnoatime", Effect::AccessTimeAll(NOATIME)),
    ("rnodev", Effect::SetAll(libc::MOUNT_ATTR_NODEV)),
    ("rnodiratime", Effect::SetAll(libc::MOUNT_ATTR_NODIRATIME)),
    ("rnoexec", Effect::SetAll(libc::MOUNT_ATTR_NOEXEC)),
    ("rnorelatime", Effect::Nothing),
    ("rnostrictatime", Effect::AccessTimeAll(RELATIME)),
    ("rnosuid", Effect::SetAll(libc::MOUNT_ATTR_NOSUID)),
    ("rnosymfollow", Effect::SetAll(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("ro", Effect::Set(libc::MOUNT_ATTR_RDONLY)),
    ("rprivate", Effect::Propagation(libc::MS_PRIVATE, true)),
    ("rrelatime", Effect::AccessTimeAll(RELATIME)),
    ("rro", Effect::SetAll(libc::MOUNT_ATTR_RDONLY)),
    ("rrw", Effect::ClearAll(libc::MOUNT_ATTR_RDONLY)),
    ("rshared", Effect::Propagation(libc::MS_SHARED, true)),
    ("rslave", Effect::Propagation(libc::MS_SLAVE, true)),
    ("rstrictatime", Effect::AccessTimeAll(STRICTATIME)),
    ("rsuid", Effect::ClearAll(libc::MOUNT_ATTR_NOSUID)),
    ("rsymfollow", Effect::ClearAll(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("runbindable", Effect::Propagation(libc::MS_UNBINDABLE, true)),
    ("rw", Effect::Clear(libc::MOUNT_ATTR_RDONLY)),
    ("shared", Effect::Propagation(libc::MS_SHARED, false)),
    ("silent", Effect::Nothing),
    ("slave", Effect::Propagation(libc::MS_SLAVE, false)),
    ("strictatime", Effect::AccessTime(STRICTATIME)),
    ("suid", Effect::Clear(libc::MOUNT_ATTR_NOSUID)),
    ("symfollow", Effect::Clear(libc::MOUNT_ATTR_NOSYMFOLLOW)),
    ("sync", Effect::Superblock("sync", true)),
    ("tmpcopyup", Effect::CopyUp),
    ("unbindable", Effect::Propagation(libc::MS_UNBINDABLE, false)),
];

/// The names of all options, for `features`.
pub fn names() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|(name, _)| *name)
}

/// What the option called `name` does; `None` for what is handed on to the file system. An empty one does nothing, as where
/// options are written in one string.
pub(super) fn effect(name: &str) -> Option<Effect> {
    if name.is_empty() {
        return Some(Effect::Nothing);
    }
    let index = OPTIONS.binary_search_by_key(&name, |(known, _)| known).ok()?;
    OPTIONS.get(index).map(|(_, effect)| *effect)
}

/// The options of one mount, in the terms of mount_setattr(2) and fsconfig(2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `MOUNT_ATTR_*` to set on the mount.
    pub set: u64,
    /// `MOUNT_ATTR_*` that are asked to be off on the mount.
    pub clear: u64,
    /// Whether any option is about `MOUNT_ATTR_*` of the mount, if only to say what is so anyway.
    pub named: bool,
    /// `MOUNT_ATTR_*` to set on the mount and all below it.
    pub set_all: u64,
    /// `MOUNT_ATTR_*` to clear on the mount and all below it.
    pub clear_all: u64,
    /// Propagation changes in the order in which they are written: `MS_SHARED` and its like, and whether recursive.
    pub propagation: Vec<(u64, bool)>,
    /// Flags of the file system to set by fsconfig(2).
    pub superblock: Vec<&'static str>,
    /// What is passed to the file system: keys, and values where there is a "=".
    pub data: Vec<(String, Option<String>)>,
    /// A bind mount: whether recursive.
    pub bind: Option<bool>,
    /// Whether the mount that is already at the destination is changed.
    pub remount: bool,
    /// Whether a tmpfs starts with what the image has at the destination.
    pub copy_up: bool,
    /// An id-mapped mount: whether recursive.
    pub idmap: Option<bool>,
}

impl MountOptions {
    /// `MOUNT_ATTR_*` of a new mount, which has none below it: what is said of all mounts comes last, as it does where there are some.
    pub fn of_new_mount(&self) -> u64 {
        self.set & !self.clear_all | self.set_all
    }

    /// Parses the list of options. Of options that contradict each other the last one counts, as in mount(8); but "rbind" counts wherever it is.
    ///
    /// # Errors
    /// When an option cannot work: it names `field`, the option, and what to do.
    pub fn parse<'a>(field: impl Display, options: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options {
            match effect(option) {
                Some(effect) => parsed.apply(effect),
                None => parsed.data(&field, option)?,
            }
        }
        Ok(parsed)
    }

    fn apply(&mut self, effect: Effect) {
        self.named |=
            matches!(effect, Effect::Set(_) | Effect::Clear(_) | Effect::AccessTime(_) | Effect::NotAccessTime(_));
        match effect {
            Effect::Nothing => {}
            Effect::Set(bits) => switch(&mut self.set, &mut self.clear, bits),
            Effect::Clear(bits) => switch(&mut self.clear, &mut self.set, bits),
            Effect::AccessTime(kind) => {
                self.clear |= ATIME;
                self.set = self.set & !ATIME | kind;
            }
            Effect::NotAccessTime(kind) if self.clear & ATIME != 0 && self.set & ATIME == kind => {
                self.clear &= !ATIME;
                self.set &= !ATIME;
            }
            Effect::NotAccessTime(_) => {}
            Effect::SetAll(bits) => switch(&mut self.set_all, &mut self.clear_all, bits),
            Effect::ClearAll(bits) => switch(&mut self.clear_all, &mut self.set_all, bits),
            Effect::AccessTimeAll(kind) => {
                self.clear_all |= ATIME;
                self.set_all = self.set_all & !ATIME | kind;
            }
            Effect::Propagation(kind, recursive) => self.propagation.push((kind, recursive)),
            Effect::Superblock(flag, true) => self.superblock.push(flag),
            Effect::Superblock(flag, false) => self.superblock.retain(|set| *set != flag),
            // "bind" after "rbind" does not take it back: in runc and crun they are flags, and the sum of both is a recursive bind.
            Effect::Bind(recursive) => self.bind = Some(recursive || self.bind == Some(true)),
            Effect::Remount => self.remount = true,
            Effect::CopyUp => self.copy_up = true,
            Effect::IdMap(recursive) => self.idmap = Some(recursive),
        }
    }

    fn data(&mut self, field: &impl Display, option: &str) -> Result<()> {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option, None),
        };
        if key.is_empty() {
            return Err(Error::config(field, format!("{option:?} has no name before the \"=\": remove it")));
        }
        self.data.push((key.to_owned(), value.map(str::to_owned)));
        Ok(())
    }
}

/// Moves `bits` from one set to the other.
fn switch(to: &mut u64, from: &mut u64, bits: u64) {
    *to |= bits;
    *from &= !bits;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        MountOptions::parse("mounts[0].options", options.iter().copied()).unwrap()
    }

    #[test]
    fn the_table_is_sorted_for_the_search() {
        assert!(OPTIONS.is_sorted_by_key(|(name, _)| name));
    }

    #[test]
    fn the_last_of_two_contradicting_options_counts() {
        assert_eq!(parse(&["ro", "rw"]).set, 0);
        assert_eq!(parse(&["rw", "ro"]).set, libc::MOUNT_ATTR_RDONLY);
        let options = parse(&["noatime", "strictatime"]);
        assert_eq!((options.set, options.clear), (STRICTATIME, ATIME));
    }

    #[test]
    fn a_choice_that_was_not_made_cannot_be_taken_back() {
        assert_eq!(
            parse(&["atime", "norelatime", "nostrictatime"]),
            MountOptions { named: true, ..Default::default() }
        );
        assert_eq!(parse(&["noatime", "atime"]), MountOptions { named: true, ..Default::default() });
        assert_eq!(parse(&["noatime", "norelatime"]).set, NOATIME);
    }

    #[test]
    fn a_bind_mount_is_recursive_if_any_option_says_so() {
        assert_eq!(parse(&["bind", "ro"]).bind, Some(false));
        assert_eq!(parse(&["bind", "rbind"]).bind, Some(true));
        assert_eq!(parse(&["rbind", "rprivate", "bind"]).bind, Some(true));
    }

    #[test]
    fn what_is_not_known_goes_to_the_file_system() {
        let options = parse(&["nosuid", "mode=755", "size=65536k", "newinstance"]);
        assert_eq!(options.set, libc::MOUNT_ATTR_NOSUID);
        let data: Vec<_> = options.data.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        assert_eq!(data, [("mode", Some("755")), ("size", Some("65536k")), ("newinstance", None)]);
    }

    #[test]
    fn recursive_attributes_are_kept_apart() {
        let options = parse(&["rbind", "rro", "rnosuid", "rprivate"]);
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.set_all, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID);
        assert_eq!(options.set, 0);
        assert_eq!(options.propagation, [(libc::MS_PRIVATE, true)]);
    }

    #[test]
    fn what_is_said_of_all_mounts_counts_for_a_new_one() {
        assert_eq!(parse(&["rro", "nosuid"]).of_new_mount(), libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID);
        assert_eq!(parse(&["ro", "rrw"]).of_new_mount(), 0);
        // Two ways to keep access times at once are none.
        assert_eq!(parse(&["rnoatime", "strictatime"]).of_new_mount(), NOATIME);
        assert_eq!(parse(&["noatime", "rrelatime"]).of_new_mount(), RELATIME);
    }

    #[test]
    fn an_empty_option_is_none() {
        assert_eq!(parse(&["", "ro", ""]), parse(&["ro"]));
        assert_eq!(parse(&["bind", ""]), parse(&["bind"]));
    }

    #[test]
    fn an_option_without_a_name_is_refused() {
        let error = MountOptions::parse("mounts[3].options", ["=x"]).unwrap_err().to_string();
        assert!(error.contains("mounts[3].options"), "{error}");
    }
}
