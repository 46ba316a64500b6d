//! What a user may configure for containerd's runtime: runc's own options, as far as they have a meaning here, by containerd's
//! message or by a file.

use super::messages::{Any, CreateOptions, RuncOptions, RuntimeOptions};
use crate::cgroup::Driver;
use crate::container::parts::Lender;
use crate::error::{Doing, Error, Kind, Result};
use crate::pool;
use prost::Message;
use std::path::{Path, PathBuf};

/// Which containers share a shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Group {
    /// Each has its own.
    Container,
    /// Those of a pod.
    #[default]
    Pod,
    /// All of a containerd namespace.
    Node,
}

/// The options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    pub group: Group,
    /// NoPivotRoot
    pub no_pivot: bool,
    /// NoNewKeyring
    pub no_new_keyring: bool,
    /// ShimCgroup
    pub shim_cgroup: String,
    /// IoUid
    pub io_uid: u32,
    /// IoGid
    pub io_gid: u32,
    /// Root: where containers are recorded, in a directory for each containerd namespace
    pub root: PathBuf,
    /// SystemdCgroup
    pub systemd_cgroup: bool,
    /// CriuImagePath
    pub criu_image_path: String,
    /// CriuWorkPath
    pub criu_work_path: String,
    /// Pool: where a pool listens, or "off"; empty for the one that the command line would use
    pub pool: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            group: Group::default(),
            no_pivot: false,
            no_new_keyring: false,
            shim_cgroup: String::new(),
            io_uid: 0,
            io_gid: 0,
            root: "/run/containerd/microrun".into(),
            systemd_cgroup: false,
            criu_image_path: String::new(),
            criu_work_path: String::new(),
            pool: String::new(),
        }
    }
}

fn refused(what: &str, why: &str) -> Error {
    Error::new(Kind::Usage, format!("runtime options: {what}: {why}"))
}

impl Options {
    /// Who makes the cgroups.
    pub fn driver(&self) -> Driver {
        if self.systemd_cgroup { Driver::Systemd } else { Driver::Cgroupfs }
    }

    /// Whom to ask for network namespaces. Cgroups are named by containerd.
    pub fn lender(&self) -> Option<Lender> {
        let socket = match self.pool.as_str() {
            "" => pool::socket(),
            "off" => None,
            path => Some(path.into()),
        };
        socket.map(|socket| Lender { socket, cgroups: false })
    }

    /// The options in `given`, a message of containerd's; its own defaults without one.
    ///
    /// # Errors
    /// A message or an option that is not known, or has no meaning here.
    pub fn of(given: Option<&Any>) -> Result<Self> {
        let Some(any) = given.filter(|any| !any.type_url.is_empty()) else { return Ok(Self::default()) };
        let damaged = |_| refused(&any.type_url, "the message cannot be understood");
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "containerd.runc.v1.Options" => Self::of_runc(RuncOptions::decode(&*any.value).map_err(damaged)?),
            // What containerd's client makes for any runtime but runc's.
            "containerd.linux.runc.CreateOptions" => {
                Ok(Self::of_create(CreateOptions::decode(&*any.value).map_err(damaged)?))
            }
            "runtimeoptions.v1.Options" | "runtimeoptions.v1alpha2.Options" => {
                let options = RuntimeOptions::decode(&*any.value).map_err(damaged)?;
                if options.config_path.is_empty() {
                    return Self::of_text("config_body", &String::from_utf8_lossy(&options.config_body));
                }
                Self::of_file(Path::new(&options.config_path))
            }
            url => Err(refused(url, "is not a message that is known here: use containerd.runc.v1.Options or a file")),
        }
    }

    fn of_runc(options: RuncOptions) -> Result<Self> {
        for (name, value) in [("TaskApiAddress", &options.task_api_address), ("BinaryName", &options.binary_name)] {
            if !value.is_empty() {
                return Err(refused(name, "this shim is the runtime itself and calls no other: leave it out"));
            }
        }
        let mut given = Self {
            group: Group::default(),
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            shim_cgroup: options.shim_cgroup,
            io_uid: options.io_uid,
            io_gid: options.io_gid,
            systemd_cgroup: options.systemd_cgroup,
            criu_image_path: options.criu_image_path,
            criu_work_path: options.criu_work_path,
            ..Self::default()
        };
        if !options.root.is_empty() {
            given.root = options.root.into();
        }
        Ok(given)
    }

    /// The other fields are about checkpoints.
    fn of_create(options: CreateOptions) -> Self {
        Self {
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            shim_cgroup: options.shim_cgroup,
            io_uid: options.io_uid,
            io_gid: options.io_gid,
            criu_image_path: options.criu_image_path,
            criu_work_path: options.criu_work_path,
            ..Self::default()
        }
    }

    fn of_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).doing(|| format!("runtime options: read {}", path.display()))?;
        Self::of_text(&path.display().to_string(), &text)
    }

    /// The options in lines of `Name = value`, the names being those of containerd's configuration for runc: as much of TOML as
    /// such a file needs.
    fn of_text(file: &str, text: &str) -> Result<Self> {
        let mut options = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let Some((name, value)) = line.split_once('=') else {
                return Err(refused(file, &format!("{line:?} is not a line of the form Name = value")));
            };
            let (name, value) = (name.trim(), value.trim());
            options.set(name, value).map_err(|problem| refused(&format!("{file}: {name}"), &problem))?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let text = || quoted(value).ok_or_else(|| "must be one string, in quotes of either kind".to_owned());
        let bare = value.split('#').next().unwrap_or_default().trim_end();
        let flag = || bare.parse::<bool>().map_err(|_| "must be true or false".to_owned());
        let number = || bare.parse::<u32>().map_err(|_| "must be a number".to_owned());
        match name {
            "Group" => {
                self.group = match text()?.as_str() {
                    "container" => Group::Container,
                    "pod" => Group::Pod,
                    "node" => Group::Node,
                    _ => return Err("must be \"container\", \"pod\" or \"node\"".into()),
                }
            }
            "NoPivotRoot" => self.no_pivot = flag()?,
            "NoNewKeyring" => self.no_new_keyring = flag()?,
            "ShimCgroup" => self.shim_cgroup = text()?,
            "IoUid" => self.io_uid = number()?,
            "IoGid" => self.io_gid = number()?,
            "Root" => self.root = text()?.into(),
            "SystemdCgroup" => self.systemd_cgroup = flag()?,
            "CriuImagePath" => self.criu_image_path = text()?,
            "CriuWorkPath" => self.criu_work_path = text()?,
            "Pool" => {
                self.pool = text()?;
                if self.pool != "off" && !Path::new(&self.pool).is_absolute() {
                    return Err("must be \"off\" or the path of a pool's socket".into());
                }
            }
            _ => return Err("is not an option of this runtime".into()),
        }
        Ok(())
    }
}

/// A string of TOML, after which only a comment may come. containerd, which writes the options of its configuration anew for
/// us, uses single quotes where it can: between these a backslash is one. Between double ones it is before a quote or
/// another backslash; other escapes are of no use in names and paths.
fn quoted(value: &str) -> Option<String> {
    let mut letters = value.chars();
    let quote = letters.next().filter(|letter| ['"', '\''].contains(letter))?;
    let mut text = String::new();
    loop {
        match letters.next()? {
            letter if letter == quote => break,
            '\\' if quote == '"' => text.push(letters.next().filter(|letter| ['"', '\\'].contains(letter))?),
            letter => text.push(letter),
        }
    }
    let rest = letters.as_str().trim_start();
    (rest.is_empty() || rest.starts_with('#')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_runc_are_honoured_or_refused() {
        let of = |options: &RuncOptions| Options::of(Some(&Any::of("containerd.runc.v1.Options", options)));
        let given = of(&RuncOptions { systemd_cgroup: true, root: "/r".into(), io_uid: 5, ..RuncOptions::default() });
        let expected = Options { systemd_cgroup: true, root: "/r".into(), io_uid: 5, ..Options::default() };
        assert_eq!(given, Ok(expected));
        let error = of(&RuncOptions { binary_name: "crun".into(), ..RuncOptions::default() }).unwrap_err();
        assert!(error.to_string().starts_with("runtime options: BinaryName: "), "{error}");
        assert_eq!(Options::of(None), Ok(Options::default()));
        assert!(Options::of(Some(&Any { type_url: "x.Options".into(), value: Vec::new() })).is_err());
    }

    #[test]
    fn a_file_says_the_same() {
        let text = "# for all pods\nGroup = \"node\"\nSystemdCgroup=true\n\nIoGid = 7\nPool = \"off\"\n";
        let expected =
            Options { group: Group::Node, systemd_cgroup: true, io_gid: 7, pool: "off".into(), ..Options::default() };
        assert_eq!(Options::of_text("f", text), Ok(expected.clone()));
        // As containerd 2 writes its own configuration, and as people do.
        let text = "Group = 'node' # all\nIoGid = 7 # seven\nPool = \"off\"# no\nSystemdCgroup = true # yes\n";
        assert_eq!(Options::of_text("f", text), Ok(expected));
        for (value, path) in [(r"'/a\b#\'", r"/a\b#\"), (r#""/a#'\"\\""#, r#"/a#'"\"#), (r#"'/"'"#, r#"/""#)] {
            let options = Options::of_text("f", &format!("Root = {value}")).unwrap();
            assert_eq!(options.root, Path::new(path));
        }
        for (line, problem) in [
            ("Group = \"all\"", "f: Group: must be"),
            ("IoUid = \"1\"", "f: IoUid: must be a number"),
            ("Root = /r", "f: Root: must be one string"),
            ("Root = '/r", "f: Root: must be one string"),
            ("Root = '/r\"", "f: Root: must be one string"),
            ("Root = \"/r\\\"", "f: Root: must be one string"),
            ("Root = \"/r\\n\"", "f: Root: must be one string"),
            ("Root = '/r' '/s'", "f: Root: must be one string"),
            ("Root =", "f: Root: must be one string"),
            ("Nonsense = 1", "f: Nonsense: is not an option"),
            ("Pool = \"on\"", "f: Pool: must be \"off\" or"),
            ("[table]", "f: \"[table]\" is not a line"),
        ] {
            let error = Options::of_text("f", line).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
