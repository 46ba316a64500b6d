//! What the black-box tests share: a laboratory with a state root, bundles and cgroups of its own, which leaves nothing.

#![allow(dead_code, reason = "no test file uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

pub mod criu;
pub mod pool;

use microrun::cgroup::layout::{Layout, Needs};
use microrun::container::idmap::user_namespace;
use microrun::sys::mount::{self, Attributes};
use microrun::sys::socket;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::cell::Cell;
use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program under test: `$MICRORUN`, or what cargo has just built.
pub fn program() -> PathBuf {
    std::env::var_os("MICRORUN").map_or_else(|| env!("CARGO_BIN_EXE_microrun").into(), PathBuf::from)
}

/// Ends the test as skipped, and says why.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        println!("skipped: {}", format_args!($($why)*));
        return;
    }};
}

/// A [`Lab`](common::Lab), or the end of the test where there cannot be one.
#[macro_export]
macro_rules! lab {
    () => {
        match $crate::common::Lab::new() {
            Ok(lab) => lab,
            Err(why) => $crate::skip!("{why}"),
        }
    };
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; 128 and the signal if one ended it.
    pub code: i32,
    /// Its stdout, without white space around.
    pub stdout: String,
    /// Its stderr, without white space around.
    pub stderr: String,
}

impl Output {
    /// Its stdout; it must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:#?}");
        self.stdout
    }

    /// Its stderr; it must have failed.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_ne!(self.code, 0, "{self:#?}");
        self.stderr
    }
}

/// Runs `command` to its end, for a minute at most.
pub fn output(mut command: Command) -> Output {
    command.stdin(Stdio::null());
    let mut limited = Command::new("timeout");
    limited.args(["-k", "5", "60"]).arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(key, value),
            None => limited.env_remove(key),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        limited.current_dir(directory);
    }
    let output = limited.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    Output {
        code: output.status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0)),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// The descriptor that comes over the next connection.
pub fn receive(listener: &UnixListener) -> OwnedFd {
    let (stream, _) = listener.accept().unwrap();
    let (_, descriptor) = socket::receive_fd(stream.as_raw_fd(), &mut [0; 128]).unwrap();
    microrun::sys::own(descriptor.unwrap())
}

/// Runs a host program; its stdout. It must succeed.
#[track_caller]
pub fn host(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args);
    output(command).ok()
}

/// A limit of a running process as the kernel has it: `v1` is controller and file, `v2` a file.
pub fn limit(pid: impl std::fmt::Display, (controller, v1): (&str, &str), v2: &str) -> String {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |wanted: &str| {
        cgroups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|name| name == wanted).then(|| path.to_owned())
        })
    };
    let file = match path(controller) {
        Some(path) => format!("/sys/fs/cgroup/{controller}{path}/{v1}"),
        None => format!("/sys/fs/cgroup{}/{v2}", path("").unwrap()),
    };
    fs::read_to_string(&file).map_err(|error| format!("{file}: {error}")).unwrap().trim().to_owned()
}

/// Runs `count` times the same at once; each must succeed.
#[track_caller]
pub fn all_at_once(command: &mut Command, count: usize) {
    let children: Vec<_> = (0..count).map(|_| Guard(command.stdin(Stdio::null()).spawn().unwrap())).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
}

/// A seccomp profile whose agent listens at `agent`, and is asked for swapon.
pub fn notifying(agent: &Path) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": agent,
        "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_NOTIFY"}]
    })
}

/// A tmpfs that is unmounted at the end.
pub struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    #[track_caller]
    pub fn on(path: &'a Path, options: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        host("mount", &["-t", "tmpfs", "-o", options, "tmpfs", path.to_str().unwrap()]);
        Self(path)
    }
}

impl Tmpfs<'_> {
    /// A character device that everybody may use, where it can be opened: many a directory is on a file system mounted nodev.
    #[track_caller]
    pub fn device(&self, name: &str, major: u32, minor: u32) -> PathBuf {
        let node = self.0.join(name);
        let numbers = [major, minor].map(|number| number.to_string());
        host("mknod", &["-m", "666", node.to_str().unwrap(), "c", &numbers[0], &numbers[1]]);
        node
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        // Whoever has something open there still must not keep it from going.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// A process that does not outlive its test.
pub struct Guard(pub Child);

impl Deref for Guard {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = self.wait();
    }
}

/// Whether strace is there and may trace.
///
/// # Errors
/// Why it cannot.
pub fn require_strace() -> Result<(), String> {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    match traced {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("strace cannot trace here ({status})")),
        Err(error) => Err(format!("needs strace ({error})")),
    }
}

/// Whether what is bound from `path` can be id-mapped, which depends on its file system and the kernel.
///
/// # Errors
/// Why it cannot.
pub fn require_idmap(path: &Path) -> Result<(), String> {
    let root = [serde_json::from_value(json!({"containerID": 0, "hostID": 0, "size": 1})).unwrap()];
    let namespace = user_namespace(&root, &root).unwrap();
    let name = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let copy = match mount::open_tree_clone(libc::AT_FDCWD, &name, 0) {
        Err(Errno::ENOSYS) => return Err("needs open_tree(2), Linux 5.2".into()),
        copy => microrun::sys::own(copy.unwrap()),
    };
    let userns_fd = namespace.as_raw_fd() as u64;
    let attributes = Attributes { set: libc::MOUNT_ATTR_IDMAP, userns_fd, ..Attributes::default() };
    match mount::set_attributes(copy.as_raw_fd(), c"", 0, &attributes) {
        Err(error @ (Errno::ENOSYS | Errno::EINVAL)) => {
            Err(format!("no mount of the file system of {} can be id-mapped here ({error})", path.display()))
        }
        done => {
            done.unwrap();
            Ok(())
        }
    }
}

/// A laboratory.
pub struct Lab {
    dir: TempDir,
    user: Option<User>,
    made: Cell<u32>,
}

/// The user that an unprivileged laboratory belongs to.
#[derive(Debug, Clone)]
pub struct User {
    /// The name.
    pub name: String,
    /// The numbers of user and group.
    pub ids: (u32, u32),
}

/// The user "rootless", who has subordinate ids if the machine gives them to its users, and may make a user namespace.
/// Made if need be.
///
/// # Errors
/// Why there is no such user.
pub fn unprivileged_user() -> Result<User, String> {
    static USER: OnceLock<Result<User, String>> = OnceLock::new();
    let find = || {
        let user = find_user()?;
        // A machine may let users have no such namespace (user.max_user_namespaces), or have it and nothing in it
        // (kernel.apparmor_restrict_unprivileged_userns).
        let mut command = as_user(&user);
        command.args(["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"]);
        let tried = output(command);
        match tried.code {
            0 => Ok(user),
            _ => Err(format!("users may make no user namespace with mounts here: {}", tried.stderr)),
        }
    };
    USER.get_or_init(find).clone()
}

/// Begins a command that this user is to run.
fn as_user(user: &User) -> Command {
    // By its path: busybox's timeout(1) would prefer its own.
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--reuid", &user.ids.0.to_string(), "--regid", &user.ids.1.to_string()]).arg("--clear-groups");
    command
}

fn find_user() -> Result<User, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root, to become another user".into());
    }
    let find = || nix::unistd::User::from_name("rootless").ok().flatten();
    let user = match find() {
        Some(user) => user,
        None => {
            let mut command = Command::new("useradd");
            command.args(["--create-home", "rootless"]);
            let made = output(command);
            find().ok_or_else(|| format!("there is no user \"rootless\" and none can be made: {}", made.stderr))?
        }
    };
    Ok(User { name: user.name, ids: (user.uid.as_raw(), user.gid.as_raw()) })
}

impl Lab {
    /// The status of a container; empty if there is none.
    pub fn status(&self, id: &str) -> String {
        let state: Value = serde_json::from_str(&self.microrun(&["state", id]).stdout).unwrap_or_default();
        state["status"].as_str().unwrap_or_default().to_owned()
    }

    /// A laboratory for root.
    ///
    /// # Errors
    /// Why there cannot be one on this machine.
    pub fn new() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".into());
        }
        Self::with_user(None)
    }

    /// A laboratory for a user without rights, who has subordinate ids if `ids` says so (subuid(5)). The user is called
    /// "rootless" and made if need be.
    ///
    /// # Errors
    /// Why there cannot be one on this machine.
    pub fn for_user() -> Result<Self, String> {
        Self::with_user(Some(unprivileged_user()?))
    }

    fn with_user(user: Option<User>) -> Result<Self, String> {
        if !Path::new(BUSYBOX).exists() {
            return Err(format!("needs {BUSYBOX} (Debian's package busybox-static)"));
        }
        let prefix = format!("microrun-test-{}-", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
        // Containers with a user namespace of their own have to get to their rootfs.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let lab = Self { dir, user, made: Cell::new(0) };
        // By another process: what this one has open for writing, a test in another thread may just be handing to a child,
        // and then it cannot be executed (ETXTBSY).
        host("cp", &[program().to_str().unwrap(), lab.path("microrun").to_str().unwrap()]);
        fs::create_dir(lab.path("run")).unwrap();
        lab.own(&lab.path("run"));
        Ok(lab)
    }

    /// A path in the laboratory's own directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The user that it belongs to; none for root.
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// Gives `path` and all below it to the laboratory's user.
    pub fn own(&self, path: &Path) {
        if let Some(user) = &self.user {
            host("chown", &["-hR", &format!("{}:{}", user.ids.0, user.ids.1), path.to_str().unwrap()]);
        }
    }

    /// A new bundle: a root filesystem with busybox, and a config.json that `change` has changed.
    pub fn bundle(&self, change: impl FnOnce(&mut Value)) -> Bundle {
        let number = self.made.replace(self.made.get() + 1);
        let path = self.path(format!("bundle{number}"));
        let bundle = Bundle { id: format!("{}-{number}", self.name()), path };
        make_rootfs(&bundle.rootfs());
        let mut config = if self.user.is_some() { self.rootless_config() } else { self.config(&bundle.id) };
        change(&mut config);
        fs::write(bundle.path.join("config.json"), config.to_string()).unwrap();
        self.own(&bundle.path);
        bundle
    }

    /// A name that no other laboratory has, of this process or another: that of its directory and of its cgroups, with
    /// which its containers' ids begin. scripts/leftovers knows from it whose they were.
    pub fn name(&self) -> &str {
        self.dir.path().file_name().unwrap().to_str().unwrap()
    }

    /// Runs `script` with the container's shell, in a new bundle that `change` has changed.
    pub fn shell(&self, script: &str, change: impl FnOnce(&mut Value)) -> Output {
        let bundle = self.bundle(|config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
            change(config);
        });
        self.run(&bundle, &[])
    }

    /// `microrun run` of a bundle, with further options.
    pub fn run(&self, bundle: &Bundle, options: &[&str]) -> Output {
        let mut args = vec!["run", "--bundle", bundle.path.to_str().unwrap()];
        args.extend(options);
        args.push(&bundle.id);
        self.microrun(&args)
    }

    /// `microrun create` of a bundle, with further options.
    pub fn create(&self, bundle: &Bundle, options: &[&str]) -> Output {
        let mut args = vec!["create", "--bundle", bundle.path.to_str().unwrap()];
        args.extend(options);
        args.push(&bundle.id);
        // The container inherits what `create` writes to, and would keep our end of a pipe open.
        let (out, err) = (self.path("create.out"), self.path("create.err"));
        let mut command = self.command(&args);
        command.stdin(Stdio::null());
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let code = command.status().unwrap().code().unwrap_or(-1);
        let text = |path: &Path| fs::read_to_string(path).unwrap().trim().to_owned();
        Output { code, stdout: text(&out), stderr: text(&err) }
    }

    /// A container that is created, and its init's pid.
    #[track_caller]
    pub fn created(&self, bundle: &Bundle) -> i32 {
        let file = bundle.path.join("pid");
        self.create(bundle, &["--pid-file", file.to_str().unwrap()]).ok();
        fs::read_to_string(file).unwrap().parse().unwrap()
    }

    /// A container that runs, and its init's pid.
    #[track_caller]
    pub fn started(&self, bundle: &Bundle) -> i32 {
        let pid = self.created(bundle);
        self.microrun(&["start", &bundle.id]).ok();
        pid
    }

    /// A container that runs sleep(1), in a new bundle that `change` has changed.
    #[track_caller]
    pub fn sleeper(&self, change: impl FnOnce(&mut Value)) -> Bundle {
        let bundle = self.sleeping(change);
        self.started(&bundle);
        bundle
    }

    /// A bundle whose container runs sleep(1), and that `change` has changed.
    #[track_caller]
    pub fn sleeping(&self, change: impl FnOnce(&mut Value)) -> Bundle {
        self.bundle(|config| {
            config["process"]["args"] = json!(["sleep", "1000"]);
            change(config);
        })
    }

    /// `microrun exec` of a command in a container, with further options.
    pub fn exec(&self, bundle: &Bundle, options: &[&str], command: &[&str]) -> Output {
        let mut args = vec!["exec"];
        args.extend(options);
        args.push(&bundle.id);
        args.extend(command);
        self.microrun(&args)
    }

    /// Any verb, in the laboratory's own state root.
    pub fn microrun(&self, args: &[&str]) -> Output {
        output(self.command(args))
    }

    /// The command for a verb, to be run in another way.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match &self.user {
            None => Command::new(self.path("microrun")),
            Some(user) => {
                let mut command = as_user(user);
                command.arg(self.path("microrun")).env("XDG_RUNTIME_DIR", self.path("run"));
                command
            }
        };
        if self.user.is_none() {
            command.arg("--root").arg(self.path("run"));
        }
        command.args(args).env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
        command
    }

    /// `command`, run from a cgroup of the laboratory's own in every hierarchy: what it makes below its caller's cgroup is
    /// below that one, and not below ours, which is somebody else's.
    pub fn in_own_cgroup(&self, command: &Command) -> Command {
        let mut moves = String::from("set -e; ");
        for hierarchy in hierarchies() {
            let lab = hierarchy.join(self.name());
            let caller = lab.join(CALLER);
            fs::create_dir_all(&caller).unwrap();
            // A cpuset of v1 takes nobody before it has CPUs and nodes.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let (false, Ok(all)) =
                    (hierarchy.join("cgroup.controllers").exists(), fs::read(hierarchy.join(file)))
                {
                    fs::write(lab.join(file), &all).unwrap();
                    fs::write(caller.join(file), &all).unwrap();
                }
            }
            moves += &format!("echo 0 >{}/cgroup.procs; ", caller.display());
        }
        let mut from = Command::new("sh");
        from.args(["-c", &format!("{moves} exec \"$@\""), "sh"]).arg(command.get_program()).args(command.get_args());
        from.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
        from
    }

    /// The cgroups that there are of a container, wherever they may be.
    pub fn cgroups_of(&self, bundle: &Bundle) -> Vec<PathBuf> {
        let of_place = |place: PathBuf| {
            let own = place.join(&bundle.id);
            named(&place.join(self.name()), &bundle.id).into_iter().chain(own.exists().then_some(own))
        };
        cgroup_places().into_iter().flat_map(of_place).collect()
    }

    /// runc's default configuration, in a cgroup of its own.
    fn config(&self, id: &str) -> Value {
        let mut config = base_config();
        config["linux"]["cgroupsPath"] = json!(format!("/{}/{id}", self.name()));
        config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "network"}));
        config["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]
        }));
        config
    }

    /// The configuration of `spec --rootless`: the user is root inside.
    fn rootless_config(&self) -> Value {
        let (uid, gid) = self.user.as_ref().map_or((0, 0), |user| user.ids);
        let mut config = base_config();
        let linux = &mut config["linux"];
        linux["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
        linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
        config["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]
        }));
        config
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let listed = self.microrun(&["list", "-q"]).stdout;
        for id in listed.lines() {
            self.microrun(&["delete", "--force", id]);
        }
        // Empty ones alone: the containers' own are theirs to remove.
        for place in cgroup_places() {
            let lab = place.join(self.name());
            let caller = lab.join(CALLER);
            let _ = fs::remove_dir(caller.join(self.name()));
            // Who was in no cgroup but the caller's is killed by now, and need not have ended.
            let deadline = Instant::now() + Duration::from_secs(10);
            while fs::remove_dir(&caller).is_err_and(|error| error.kind() == ErrorKind::ResourceBusy)
                && Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = fs::remove_dir(lab.join(self.name()));
            let _ = fs::remove_dir(lab);
        }
    }
}

/// The cgroup from which [`Lab::in_own_cgroup`] has commands run, below the laboratory's.
const CALLER: &str = "caller";

/// Where this machine's cgroup hierarchies are mounted.
pub fn hierarchies() -> Vec<PathBuf> {
    let layout = Layout::probe(Needs::ALL).unwrap();
    layout.v1.into_iter().map(|v1| v1.mount).chain(layout.unified).collect()
}

/// Where cgroups of a laboratory can be: below the root of each hierarchy, and below and beside our own cgroup there.
fn cgroup_places() -> Vec<PathBuf> {
    let layout = Layout::probe(Needs::ALL).unwrap();
    let v1 = layout.v1.iter().map(|v1| (&v1.mount, v1.controllers[0].as_str()));
    let mut places = Vec::new();
    for (mount, controller) in v1.chain(layout.unified.iter().map(|mount| (mount, ""))) {
        let own = layout.own_cgroup(controller).unwrap();
        let paths = [Path::new("/"), own, own.parent().unwrap_or(own)];
        places.extend(paths.map(|path| mount.join(microrun::path::clean(path))));
    }
    places.sort();
    places.dedup();
    places
}

/// `directory` and all directories below it that have this name.
fn named(directory: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut found: Vec<PathBuf> = below.flat_map(|entry| named(&entry.path(), name)).collect();
    found.extend((directory.ends_with(name) && directory.exists()).then(|| directory.to_owned()));
    found
}

/// A bundle.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The id that its container gets.
    pub id: String,
    /// Its directory.
    pub path: PathBuf,
}

impl Bundle {
    /// Its directory as `run` takes it for a bundle, not for an id: with a slash.
    pub fn operand(&self) -> String {
        format!("{}/", self.path.display())
    }

    /// Its root filesystem.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }
}

/// The shell and tools of containers.
pub const BUSYBOX: &str = "/bin/busybox";

/// The tools that scripts in the containers use.
const APPLETS: &str = "sh awk cat chgrp chmod chown chrt cmp cp cut date dd df dirname echo env false find getopt grep \
    head hostname id ionice ip kill ln ls mkdir mknod mount mv nc nice nproc od printf ps pwd readlink rm rmdir sed \
    seq setsid sleep sort stat stty sync tail tee test timeout touch tr true tty umount uname uniq usleep wc which xargs";

/// Makes a root filesystem with busybox and its tools.
pub fn make_rootfs(rootfs: &Path) {
    for directory in ["bin", "dev", "etc", "mnt", "proc", "root", "sys", "tmp"] {
        fs::create_dir_all(rootfs.join(directory)).unwrap();
    }
    fs::write(rootfs.join("mnt/file"), "").unwrap();
    fs::copy(BUSYBOX, rootfs.join("bin/busybox")).unwrap();
    for applet in APPLETS.split_whitespace() {
        symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
}

/// What the configurations for root and for users share.
fn base_config() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.3.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

/// The kernel's version: 6.1.0-50-cloud-amd64 is (6, 1).
pub fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|other: char| !other.is_ascii_digit()).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Adds an item to the list `list`.
pub fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

/// Waits until `condition` holds, for 30 seconds at most: VMs are slow.
#[track_caller]
pub fn eventually(condition: impl FnMut() -> bool) {
    eventually_is(condition, &true);
}

/// Waits until `value` is what is `expected`, as [`eventually`]; fails with what it was last.
#[track_caller]
pub fn eventually_is<T: PartialEq + std::fmt::Debug>(value: impl FnMut() -> T, expected: &T) {
    within(Duration::from_secs(30), value, expected);
}

/// As [`eventually_is`], with this `patience`.
#[track_caller]
pub fn within<T: PartialEq + std::fmt::Debug>(patience: Duration, mut value: impl FnMut() -> T, expected: &T) {
    let deadline = Instant::now() + patience;
    loop {
        let last = value();
        if last == *expected {
            return;
        }
        assert!(Instant::now() < deadline, "it is still {last:?} after {patience:?} and not {expected:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes `path` a file that may be executed, a script as a rule.
#[track_caller]
pub fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The CPUs that this process may use.
pub fn cpus() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).collect()
}

/// The devices of a new network namespace, sorted: some modules add one to each (ipip, sit).
pub fn new_devices() -> Vec<String> {
    let listed = host("unshare", &["--net", "cat", "/proc/self/net/dev"]);
    let names = listed.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Whether a new network namespace has an address of IPv6 once its loopback device is up.
pub fn has_ipv6() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--net", BUSYBOX, "sh", "-c", "ip link set lo up && grep -q lo /proc/net/if_inet6"]);
    output(command).code == 0
}

/// Runs `command` in the network namespace of the process `pid`, which must not be this test's: init is there before it is in its own.
#[track_caller]
pub fn in_network_of(pid: &str, command: &str) -> Command {
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(network(pid), network("self"));
    // By its path: busybox's shell would prefer its own, which knows less.
    let command = format!("ip() {{ /usr/sbin/ip \"$@\"; }}; {command}");
    let mut inside = Command::new("nsenter");
    inside.args(["-t", pid, "-n", "sh", "-c", &command]);
    inside
}
