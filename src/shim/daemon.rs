//! What containerd calls a shim with: `start`, `delete` and `-info`.

use super::args::Arguments;
use super::events::Way;
use super::messages::{Any, BootstrapParams, DeleteResponse, RuntimeInfo, RuntimeVersion, Timestamp};
use super::options::{Group, Options};
use super::rootfs;
use super::server::{self, OWN, Place, Start, socket_path};
use super::service::store;
use super::ttrpc::{Connection, Incoming, Request};
use crate::container::{manage, sealed};
use crate::error::{Doing, Error, Kind, Result};
use crate::log;
use crate::sys::process;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use prost::Message;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write, stderr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where sockets are, unless containerd says otherwise: a path that leaves room for their names.
const SOCKETS: &str = "/run/containerd/s";
/// The annotations that name a group: CRI's of a pod, and one for everybody else, as with runc's shim.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
/// Where containers of the bundle are recorded, if not where they usually are: for `delete`, which is told no options.
pub(super) const ROOT: &str = "microrun-root";
/// How long a shim may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much more readily the kernel kills a shim than containerd when memory is short, as with runc's shim.
const READINESS: i32 = 1;

/// `-v`
pub(super) fn version() -> Result<()> {
    use crate::cli::version::{COMMIT, VERSION};
    let text =
        format!("containerd-shim-microrun-v1:\n  Version:  {VERSION}\n  Revision: {}\n", COMMIT.unwrap_or_default());
    say(text.as_bytes())
}

/// `-info`: what containerd 2 wants to know of a runtime. It says the options on standard input, if there are any
/// (`getRuntimeInfo` in core/runtime/v2/task_manager.go), and hears them again.
pub(super) fn info() -> Result<()> {
    use crate::cli::version::{COMMIT, VERSION};
    let options = Any::decode(&*read_stdin()).map_err(|_| not_understood())?;
    let version = RuntimeVersion { version: VERSION.into(), revision: COMMIT.unwrap_or_default().into() };
    let features = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/features/Features".into(),
        value: crate::cli::features::document().into_bytes(),
    };
    let info = RuntimeInfo {
        name: "io.containerd.microrun.v1".into(),
        version: Some(version),
        options: Some(options).filter(|any| !any.type_url.is_empty()),
        features: Some(features),
        annotations: BTreeMap::new(),
    };
    say(&info.encode_to_vec())
}

/// `delete`: removes what is left of a container whose shim is gone. What cannot be removed is told on standard error, where
/// containerd looks for warnings: it would keep bundle and mounts of a container whose `delete` gives no answer.
pub(super) fn delete(arguments: &Arguments) -> Result<()> {
    let bundle = match arguments.bundle.as_str() {
        "" => std::env::current_dir().doing(|| "find the working directory")?,
        bundle => bundle.into(),
    };
    let mut options = Options::default();
    if let Ok(root) = fs::read_to_string(bundle.join(ROOT)) {
        options.root = root.into();
    }
    let store = store(&options, &arguments.namespace);
    let init = store.find(&arguments.id).and_then(|entry| entry.init()).ok().flatten();
    let deleted = manage::delete(&store, &arguments.id, true, false).unwrap_or_else(|error| vec![error]);
    let unmounted = rootfs::unmount_left(&bundle.join("rootfs"));
    for problem in deleted.into_iter().chain(unmounted.err()) {
        let _ = writeln!(stderr(), "{problem}");
    }
    remove_socket(&bundle);
    let response = DeleteResponse {
        pid: init.map_or(0, |init| init.pid.unsigned_abs()),
        exit_status: 128 + libc::SIGKILL.unsigned_abs(),
        exited_at: Some(Timestamp::now()),
    };
    say(&response.encode_to_vec())
}

/// Removes the socket that the bundle names, if nobody listens there.
fn remove_socket(bundle: &Path) {
    let Ok(address) = fs::read_to_string(bundle.join("address")) else { return };
    let Some(path) = address.trim().strip_prefix("unix://") else { return };
    if let Err(error) = UnixStream::connect(path)
        && error.kind() == std::io::ErrorKind::ConnectionRefused
    {
        let _ = fs::remove_file(path);
    }
}

/// `start`: prints the address of the shim that serves the container, which is started if it is not there.
pub(super) fn start(arguments: &Arguments) -> Result<()> {
    if arguments.namespace.is_empty() || arguments.id.is_empty() {
        return Err(Error::new(Kind::Usage, "-namespace and -id are missing: containerd names both"));
    }
    // Before anything else: it executes this program again.
    sealed::ensure_for_all()?;
    let bundle = std::env::current_dir().doing(|| "find the working directory")?;
    let Given { options, sockets } = given()?;
    let group = group(&options, &bundle, &arguments.id)?;
    let path = socket_path(&sockets, &arguments.address, &arguments.namespace, &group);
    let directory = open_directory(&sockets)?;
    // One at a time looks for a shim and makes one.
    let lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
    let lock = lock.doing(|| format!("lock {sockets}"))?;
    let listener = if join(&path, &arguments.id) { None } else { Some(listen(&path)?) };
    let address = format!("unix://{}", path.display());
    // Where containerd looks when it has been restarted.
    replace(&bundle.join("address"), &address)?;
    if options.root != Options::default().root {
        replace(&bundle.join(ROOT), &options.root.to_string_lossy())?;
    }
    if let Some(listener) = listener {
        let start = Start {
            namespace: arguments.namespace.clone(),
            id: arguments.id.clone(),
            listener: listener.into(),
            place: Place::of(&path)?,
            events: way(arguments),
        };
        become_daemon(arguments, &options, start, lock)?;
    }
    say(address.as_bytes())
}

/// What is said on standard input.
struct Given {
    options: Options,
    /// Where sockets are.
    sockets: String,
}

/// Reads what containerd says on standard input: the options, since version 2.3 among other things.
fn given() -> Result<Given> {
    let text = read_stdin();
    let sockets = SOCKETS.to_owned();
    // A BootstrapParams has a namespace, as text, where an Any has its value. What is an Any of options is known by its
    // type.
    let any = Any::decode(&*text).ok().filter(|any| any.type_url.contains('.') && any.type_url.ends_with("Options"));
    if any.is_some() || text.is_empty() {
        return Ok(Given { options: Options::of(any.as_ref())?, sockets });
    }
    let params = BootstrapParams::decode(&*text).map_err(|_| not_understood())?;
    let all = params.extensions.iter().filter_map(|extension| extension.value.as_ref());
    let options = all.clone().find(|any| any.type_url.ends_with("Options"));
    let sockets = if params.socket_dir.is_empty() { sockets } else { params.socket_dir };
    Ok(Given { options: Options::of(options)?, sockets })
}

fn not_understood() -> Error {
    Error::new(Kind::Usage, "what containerd says on standard input cannot be understood")
}

fn read_stdin() -> Vec<u8> {
    let mut text = Vec::new();
    // Without a standard input there is nothing to read.
    let _ = std::io::stdin().take(1 << 20).read_to_end(&mut text);
    text
}

/// Writes to standard output.
fn say(text: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text).and_then(|()| stdout.flush()).doing(|| "write to standard output")
}

/// The name of the group that the container is in.
fn group(options: &Options, bundle: &Path, id: &str) -> Result<String> {
    /// Of a configuration, what is looked at.
    #[derive(serde::Deserialize)]
    struct Config {
        #[serde(default)]
        annotations: Option<BTreeMap<String, String>>,
    }
    match options.group {
        Group::Container => return Ok(id.to_owned()),
        // No id has a slash.
        Group::Node => return Ok("/node".to_owned()),
        Group::Pod => {}
    }
    let path = bundle.join("config.json");
    let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
    if !GROUPS.iter().any(|name| text.contains(name)) {
        return Ok(id.to_owned());
    }
    let config: Config = serde_json::from_str(&text)
        .map_err(|error| Error::new(Kind::Config, format!("{}: {error}", path.display())))?;
    let annotations = config.annotations.unwrap_or_default();
    let named = GROUPS.iter().find_map(|name| annotations.get(*name));
    Ok(named.filter(|group| !group.is_empty()).map_or_else(|| id.to_owned(), Clone::clone))
}

fn open_directory(path: &str) -> Result<File> {
    if let Ok(directory) = File::open(path) {
        return Ok(directory);
    }
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path).doing(|| format!("create {path}"))?;
    File::open(path).doing(|| format!("open {path}"))
}

/// Whether a shim listens at `path`, and stays for the container `id`.
fn join(path: &Path, id: &str) -> bool {
    let Ok(stream) = UnixStream::connect(path) else { return false };
    let connection = Connection::new(OwnedFd::from(stream));
    let request = Request {
        service: OWN.to_owned(),
        method: "Join".to_owned(),
        payload: id.as_bytes().to_vec(),
        timeout_nano: 0,
    };
    if connection.call(1, &request).is_err() {
        return false;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut answers = Vec::new();
        let read = connection.read(&mut answers);
        if !answers.is_empty() || read.is_err() {
            return answers.iter().any(|answer| matches!(answer, Incoming::Answer(1, Ok(_))));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(connection.socket().as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return false,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Listens at `path`, where nobody does.
fn listen(path: &Path) -> Result<UnixListener> {
    let doing = || format!("listen at {}", path.display());
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).doing(doing),
        _ => {}
    }
    let listener = UnixListener::bind(path).doing(doing)?;
    // Whatever the umask is: who may connect may start containers.
    fs::set_permissions(path, Permissions::from_mode(0o600)).doing(doing)?;
    Ok(listener)
}

/// Writes a file in the place of one that may be there.
fn replace(path: &Path, text: &str) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let scratch = path.with_file_name(format!(".{name}"));
    fs::write(&scratch, text).and_then(|()| fs::rename(&scratch, path)).doing(doing)
}

fn way(arguments: &Arguments) -> Way {
    match std::env::var("TTRPC_ADDRESS") {
        Ok(address) if !address.is_empty() => Way::Ttrpc(address),
        _ => Way::Program(arguments.publish_binary.clone(), arguments.address.clone()),
    }
}

/// Copies this process. The copy becomes the shim, and never returns. Both let go of the lock: the shim listens by now, and must
/// not keep others from starting one if this process is killed first.
fn become_daemon(arguments: &Arguments, options: &Options, start: Start, lock: Flock<File>) -> Result<()> {
    let containerd = process::getppid();
    let log = open_log();
    let forked = process::fork().doing(|| "start the shim")?;
    drop(lock);
    if forked.is_some() {
        return Ok(());
    }
    log::set_up_in(log, log::Format::Text, arguments.debug);
    let place = start.place.clone();
    let served =
        detach().map(|()| prepare(containerd, options)).and_then(|()| server::serve(start)).inspect_err(|error| {
            log::error(error);
            place.remove();
        });
    process::exit(i32::from(served.is_err()))
}

/// The FIFO that containerd reads, in the bundle. It is opened for reading too, so that it may come and go.
fn open_log() -> Option<File> {
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    open("log", flags, Mode::empty()).ok().map(File::from)
}

/// Leaves containerd's session, its files and the bundle.
fn detach() -> Result<()> {
    let doing = || "leave the caller's session";
    setsid().doing(doing)?;
    std::env::set_current_dir("/").doing(doing)?;
    let null = File::options().read(true).write(true).open("/dev/null").doing(|| "open /dev/null")?;
    dup2_stdin(&null).and_then(|()| dup2_stdout(&null)).and_then(|()| dup2_stderr(&null)).doing(doing)
}

/// What a shim can do without.
fn prepare(containerd: i32, options: &Options) {
    let adjusted = fs::read_to_string(format!("/proc/{containerd}/oom_score_adj"))
        .and_then(|text| text.trim().parse::<i32>().map_err(std::io::Error::other))
        .and_then(|score| fs::write("/proc/self/oom_score_adj", (score + READINESS).min(1000).to_string()));
    if let Err(error) = adjusted {
        log::warn(format!("adjust the shim's OOM score: {error}"));
    }
    if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
        /// PR_SCHED_CORE_SCOPE_THREAD_GROUP
        const THREAD_GROUP: usize = 1;
        let args = [libc::PR_SCHED_CORE_CREATE as usize, 0, THREAD_GROUP, 0];
        if let Err(errno) = process::prctl(libc::PR_SCHED_CORE, args) {
            log::warn(format!("SCHED_CORE: {errno}"));
        }
    }
    if !options.shim_cgroup.is_empty()
        && let Err(error) = enter_cgroup(&options.shim_cgroup)
    {
        log::warn(error);
    }
}

/// ShimCgroup: moves this process there, in every hierarchy that has it.
fn enter_cgroup(path: &str) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let below = |hierarchy: PathBuf| hierarchy.join(path.trim_start_matches('/'));
    let mut places = vec![below(root.to_owned())];
    if !root.join("cgroup.controllers").exists() {
        let hierarchies = fs::read_dir(root).doing(|| format!("read {}", root.display()))?;
        places.extend(hierarchies.filter_map(|entry| entry.ok().map(|entry| below(entry.path()))));
    }
    let mut entered = false;
    for place in places.iter().map(|place| place.join("cgroup.procs")).filter(|place| place.exists()) {
        fs::write(&place, std::process::id().to_string()).doing(|| format!("ShimCgroup: write {}", place.display()))?;
        entered = true;
    }
    if entered {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, format!("ShimCgroup: there is no cgroup {path}: make it, or leave the option out")))
}
