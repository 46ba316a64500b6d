//! From a bundle to a Plan: all that comes before anything exists.
//!
//! What the machine has to say is probed first ([`Facts`]); [`compile`] is a pure function of the bundle and of that.

use super::activation::Activation;
use super::ahead::{self, Ahead};
use super::parts::{Lender, Parts};
use super::state::{State, Status};
use super::store::Store;
use super::{console, hooks, host, idmap, launch, notify, resctrl, sealed, stdio};
use crate::cgroup::{self, Driver, Layout};
use crate::error::{Doing, Error, Kind, Result};
use crate::plan::{self, Host, Input, Overlay, Plan, Wait};
use crate::spec::{self, Loaded};
use crate::sys::fs as sys_fs;
use crate::sys::process::SchedAttr;
use oci_spec::runtime::{Hooks, LinuxNamespaceType, Spec};
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What the command line adds to the bundle.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where containers are recorded.
    pub store: Store,
    /// The container's id.
    pub id: String,
    /// The bundle.
    pub bundle: PathBuf,
    /// Who makes the cgroups.
    pub driver: Driver,
    /// Whether the caller lacks the rights of root.
    pub rootless: bool,
    /// --no-pivot
    pub no_pivot: bool,
    /// --no-new-keyring
    pub no_new_keyring: bool,
    /// --preserve-fds
    pub preserve_fds: u32,
    /// What a service manager hands to the container by way of us
    pub activation: Option<Activation>,
    /// $NOTIFY_SOCKET: whom to tell that the container is ready
    pub notify: Option<OsString>,
    /// --pid-file
    pub pid_file: Option<PathBuf>,
    /// --console-socket
    pub console_socket: Option<PathBuf>,
    /// --pidfd-socket
    pub pidfd_socket: Option<PathBuf>,
    /// --overlay, over what the annotation says
    pub overlay: Option<Overlay>,
    /// What init waits for before it executes the program.
    pub wait: Wait,
    /// `run` in the foreground: the terminal, if the config asks for one, is ours to serve.
    pub foreground: bool,
    /// --timings
    pub timings: bool,
    /// Its stdin, stdout and stderr, from a runtime that serves other containers too. A terminal's master is then the
    /// caller's to serve.
    pub stdio: Option<Stdio>,
    /// How it is scheduled, if that is not as this process is.
    pub scheduling: Option<SchedAttr>,
    /// What a pool has made ahead for it.
    pub parts: Option<Arc<Parts>>,
    /// Who is asked for that otherwise.
    pub lender: Option<Lender>,
}

impl Options {
    /// The container `id` of `bundle`, with no options at all.
    pub fn new(store: Store, id: &str, bundle: PathBuf) -> Self {
        Self {
            store,
            id: id.to_owned(),
            bundle,
            driver: Driver::Cgroupfs,
            rootless: false,
            no_pivot: false,
            no_new_keyring: false,
            preserve_fds: 0,
            activation: None,
            notify: None,
            pid_file: None,
            console_socket: None,
            pidfd_socket: None,
            overlay: None,
            wait: Wait::Nothing,
            foreground: false,
            timings: false,
            stdio: None,
            scheduling: None,
            parts: None,
            lender: None,
        }
    }
}

/// The stdin, stdout and stderr of a container.
pub type Stdio = Arc<[OwnedFd; 3]>;

/// Their numbers.
pub(super) fn raw(stdio: &Stdio) -> [RawFd; 3] {
    stdio.each_ref().map(AsRawFd::as_raw_fd)
}

/// A bundle, read and found valid.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Its directory, absolute.
    pub path: PathBuf,
    /// root.path, absolute.
    pub rootfs: PathBuf,
    /// The bytes of its config.json.
    pub text: Vec<u8>,
    /// The copy of it that was written last, where many containers of a bundle are made.
    pub copy: Arc<Mutex<Option<OwnedFd>>>,
    /// What they say.
    pub loaded: Loaded,
    /// The seccomp filter.
    pub filter: Option<plan::seccomp::Filter>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What there is of its container already.
    pub parts: Option<Arc<Parts>>,
}

impl Bundle {
    /// The name of the container's cgroup, where the configuration does not say.
    fn cgroup<'a>(&'a self, options: &'a Options) -> &'a str {
        self.parts.as_ref().and_then(|parts| parts.cgroup.as_deref()).unwrap_or(&options.id)
    }
}

/// What of this machine, and of this moment, a start depends on.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What it offers.
    pub host: Host,
    /// Its cgroup hierarchies, probed for what the bundle asks of them.
    pub layout: Layout,
    /// The group of the resctrl file system that `linux.intelRdt` asks for.
    pub resctrl: Option<resctrl::Group>,
    /// With --no-pivot, the mounts of procfs and sysfs outside the root, the latest first.
    pub kernel_views: Option<Vec<PathBuf>>,
    /// The names of the stdio that the container gets, unless it gets it later.
    pub stdio: Option<Vec<String>>,
    /// Who starts the container.
    pub uid: u32,
    /// When: RFC 3339, UTC.
    pub now: String,
}

impl Facts {
    fn probe(options: &Options, bundle: &Bundle) -> Result<Self> {
        let spec = &bundle.loaded.spec;
        let paths = device_paths(spec);
        Ok(Self {
            layout: Layout::probe(
                cgroup_request(bundle.cgroup(options), options.driver, options.rootless, spec, &paths).needs(),
            )?,
            resctrl: resctrl::find(spec, &options.id)?,
            kernel_views: options.no_pivot.then(|| host::kernel_views(&bundle.rootfs)).transpose()?,
            host: host::facts(spec, None, Some(&bundle.path)),
            stdio: (!matches!(options.wait, Wait::Lease { .. })).then(|| stdio_names(options, spec)),
            uid: nix::unistd::geteuid().as_raw(),
            now: crate::clock::now(),
        })
    }
}

/// The names of what the container inherits: nothing that lasts if it gets a terminal of its own.
fn stdio_names(options: &Options, spec: &Spec) -> Vec<String> {
    if spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false) {
        return Vec::new();
    }
    stdio::names(options.stdio.as_ref().map_or([0, 1, 2], raw))
}

/// What a bundle and the options amount to, before anything exists.
#[derive(Debug)]
pub struct Prepared {
    /// The bundle, which many containers may have in common.
    pub bundle: Arc<Bundle>,
    /// What will be recorded of the container.
    pub state: State,
    /// What the cgroups will be.
    pub cgroup: cgroup::CgroupPlan,
    /// What init will do.
    pub plan: Arc<Plan>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Loads, validates and compiles: everything that can be refused is refused here.
///
/// # Errors
/// One sentence that names the field or the path.
pub fn prepare(options: &Options) -> Result<Prepared> {
    let (bundle, facts) = load(options)?;
    compile(options, Arc::new(bundle), &facts, None)
}

/// What a start needs of a bundle and of this machine, to [`compile`] it more than once.
///
/// # Errors
/// One sentence that names the field or the path.
pub fn load(options: &Options) -> Result<(Bundle, Facts)> {
    load_and(options, None)
}

/// As [`prepare`]; the network namespace is begun, or a pool asked for it, before config.json is parsed.
///
/// # Errors
/// As there.
pub(super) fn prepare_ahead(options: &Options) -> Result<(Prepared, Ahead)> {
    let mut ahead = Ahead::idle();
    let (bundle, facts) = load_and(options, Some(&mut ahead))?;
    Ok((compile(options, Arc::new(bundle), &facts, None)?, ahead))
}

fn load_and(options: &Options, mut ahead: Option<&mut Ahead>) -> Result<(Bundle, Facts)> {
    let is_start = ahead.is_some();
    let activation = options.activation.as_ref().map_or(0, |activation| activation.descriptors);
    require_inherited(activation, options.preserve_fds)?;
    let path = sys_fs::real_path(&options.bundle).doing(|| format!("find the bundle {}", options.bundle.display()))?;
    let text = spec::read_config(&path)?;
    let mut parts = options.parts.clone().filter(|parts| parts.are_for(&path));
    let looks = ahead.as_ref().map(|_| ahead::looks(&text)).unwrap_or_default();
    if let Some(ahead) = ahead.as_mut().filter(|_| looks.to_copy) {
        ahead.share_with_copies()?;
    }
    let mut helps = ahead.filter(|_| looks.wanted);
    let lender = options.lender.as_ref().filter(|_| parts.is_none());
    let asked = lender.and_then(|lender| lender.ask(&path, helps.is_some()));
    let has_network = |parts: Option<&Arc<Parts>>| parts.is_some_and(|parts| parts.network.is_some());
    if asked.is_none()
        && let Some(ahead) = helps.take_if(|_| !has_network(parts.as_ref()))
    {
        ahead.start_helper()?;
    }
    let (mut loaded, cached) = match host::parse_cached(&text, options.store.root()) {
        Some((loaded, filter)) => (loaded, Some(filter)),
        None => (spec::parse(&text)?, None),
    };
    let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    warnings.extend(spec::validate(&loaded.spec)?.iter().map(ToString::to_string));
    if options.rootless && !nix::unistd::geteuid().is_root() {
        spec::validate_rootless(&loaded.spec)?;
    }
    if options.foreground {
        loaded.spec.process_mut().iter_mut().for_each(console::give_own_size);
    }
    sealed::ensure(loaded.spec.process().as_ref())?;
    if let Some(asked) = asked {
        parts = asked.receive().filter(|parts| parts.are_for(&path)).map(Arc::new);
        if let Some(ahead) = helps.filter(|_| !has_network(parts.as_ref())) {
            ahead.start_helper()?;
        }
    }
    let rootfs = rootfs(&loaded.spec, &path)?;
    let filter = match cached {
        Some(filter) => Some(filter),
        None => {
            // The filter of the very first container is kept as well.
            if is_start && loaded.seccomp.is_some() {
                options.store.make()?;
            }
            host::seccomp(loaded.seccomp.as_ref(), options.store.root(), &mut warnings)?
        }
    };
    let bundle = Bundle { path, rootfs, text, copy: Arc::default(), loaded, filter, warnings, parts };
    let facts = Facts::probe(options, &bundle)?;
    Ok((bundle, facts))
}

/// `$LISTEN_FDS` and --preserve-fds: the `activation` descriptors from 3 up and `count` after them, which this process must have been given.
/// What it has opened itself is closed on exec.
///
/// # Errors
/// A descriptor that is not open, as in runc: the program would rely on it.
pub(super) fn require_inherited(activation: u32, count: u32) -> Result<()> {
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let after = |first: i32, count: u32| first.saturating_add(number(count));
    let preserved = after(3, activation);
    for (by, first, count) in [("LISTEN_FDS", 3, activation), ("--preserve-fds", preserved, count)] {
        let end = after(first, count);
        if let Some(fd) = (first..end).find(|fd| sys_fs::is_cloexec(*fd) != Ok(false)) {
            let last = end - 1;
            let problem = format!(
                "{by}: {count} descriptors from {first} to {last} are to be handed on, and {fd} is not open: open it, or \
                 give a lower number"
            );
            return Err(Error::new(Kind::Usage, problem));
        }
    }
    Ok(())
}

/// Compiles `bundle` for the machine that `facts` tell of. It reads nothing else. A Plan that is `known` is taken.
///
/// # Errors
/// One sentence that names the field.
pub fn compile(
    options: &Options,
    mut bundle: Arc<Bundle>,
    facts: &Facts,
    known: Option<&Arc<Plan>>,
) -> Result<Prepared> {
    let mut warnings = bundle.warnings.clone();
    if options.activation.is_some() || options.notify.is_some() {
        add_services(options, &mut Arc::make_mut(&mut bundle).loaded.spec, &mut warnings);
    }
    let spec = &bundle.loaded.spec;
    let paths = device_paths(spec);
    let request = cgroup_request(bundle.cgroup(options), options.driver, options.rootless, spec, &paths);
    let cgroup = cgroup::compile(&request, &facts.layout)?;
    warnings.extend(cgroup.warnings.iter().cloned());
    let is_v1 = |directory: &&cgroup::plan::Directory| matches!(directory.hierarchy, cgroup::plan::Hierarchy::V1(_));
    let v1_directories = cgroup.directories.iter().filter(is_v1).count();
    let handle = cgroup.handle();
    let overlay = overlay(options, &bundle);
    // Whether one that may be missing could be made is not known yet.
    let may_be_missing = cgroup.if_denied == cgroup::plan::IfDenied::DoWithout;
    let directories = if may_be_missing { Vec::new() } else { directories(&handle) };
    warnings.extend(left_out(spec, &facts.host));
    let state = initial_state(options, &bundle, facts, handle);
    if let Some(plan) = known {
        return Ok(Prepared { plan: Arc::clone(plan), bundle, state, cgroup, warnings });
    }
    let hook_state = hook_state(spec, &state)?;
    let plan = plan::compile(&Input {
        spec,
        seccomp: bundle.filter.as_ref(),
        host: &facts.host,
        layout: &facts.layout,
        cgroup_awaits_init: cgroup.unit.is_some(),
        cgroups_to_join: if cgroup.unit.is_some() { 0 } else { v1_directories },
        cgroups_may_be_missing: may_be_missing,
        cgroup_directories: &directories,
        bundle: &bundle.path,
        rootfs: &bundle.rootfs,
        state_dir: &options.store.root().join(&options.id),
        id: &options.id,
        overlay: overlay.as_ref(),
        no_pivot: facts.kernel_views.as_deref(),
        new_keyring: !options.no_new_keyring,
        preserve_fds: options.preserve_fds.saturating_add(options.activation.as_ref().map_or(0, |a| a.descriptors)),
        wait: options.wait,
        pidfd_socket: options.pidfd_socket.is_some(),
        hook_state: hook_state.as_ref(),
        terminal_served: options.foreground,
        privileged: facts.uid == 0,
    })?;
    Ok(Prepared { bundle, state, cgroup, plan: Arc::new(plan), warnings })
}

/// The overlay that the options or the bundle ask for.
pub(super) fn overlay(options: &Options, bundle: &Bundle) -> Option<Overlay> {
    options.overlay.clone().or_else(|| Overlay::annotated(&bundle.loaded.spec, &bundle.path))
}

/// The container's cgroup directories by controller, "" for v2.
pub(super) fn directories(handle: &cgroup::Handle) -> Vec<(String, PathBuf)> {
    let v1 = handle.v1.iter().map(|(name, path)| (name.clone(), path.clone()));
    v1.chain(handle.unified.iter().map(|path| (String::new(), path.clone()))).collect()
}

/// The machine's cgroup hierarchies, all that can be told of them without looking into the caller's.
///
/// # Errors
/// Files of the kernel that cannot be read.
pub(super) fn layout() -> Result<Layout> {
    Layout::probe(cgroup::layout::Needs { controllers: true, ..Default::default() })
}

/// Adds to the configuration what a container gets that is part of a service.
fn add_services(options: &Options, spec: &mut Spec, warnings: &mut Vec<String>) {
    if let Some(activation) = &options.activation {
        activation.add_to(spec);
    }
    if options.notify.is_some() {
        if spec::has_namespace(spec, LinuxNamespaceType::Mount) {
            notify::add_to(spec, &options.store.root().join(&options.id));
        } else {
            warnings.push("NOTIFY_SOCKET: left out, for the container has no mount namespace".into());
        }
    }
}

/// What is asked for and cannot be given, without being a reason to refuse the container.
pub(super) fn left_out(spec: &Spec, machine: &Host) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(process) = spec.process() {
        plan::caps::sets(process.capabilities().as_ref(), &machine.capabilities, &mut warnings);
    }
    if machine.denies_groups {
        let problem = "setgroups(2) is denied in the user namespace: left out";
        warnings.push(spec::Warning::new("process.user.additionalGids", problem));
    }
    warnings.extend(plan::lsm::unused_mount_label(spec.linux().as_ref(), machine));
    warnings.iter().map(ToString::to_string).collect()
}

/// root.path, which must be a directory. It is not canonicalised: init opens it, in its own namespace.
fn rootfs(spec: &Spec, bundle: &Path) -> Result<PathBuf> {
    let Some(root) = spec.root() else {
        return Err(Error::config("root", "is missing: name the root directory"));
    };
    let rootfs = bundle.join(root.path());
    match fs::metadata(&rootfs) {
        Ok(metadata) if metadata.is_dir() => Ok(rootfs),
        Ok(_) => Err(Error::config("root.path", format!("{} is not a directory: name one", rootfs.display()))),
        Err(error) => Err(Error::io(
            format!("config.json: root.path: invalid rootfs: make the directory {} or name another", rootfs.display()),
            &error,
        )),
    }
}

/// The user of the host whom the container's cgroup is given to: who runs in it, where it is meant to be written to
/// from inside.
fn cgroup_owner(spec: &Spec) -> Option<u32> {
    if spec::delegates_cgroup(spec) { user_of_host(spec) } else { None }
}

/// Who runs in the container, as the host knows him; `None` if he is not mapped, or if that cannot be found out.
pub(super) fn user_of_host(spec: &Spec) -> Option<u32> {
    let uid = spec.process().as_ref().map_or(0, |process| process.user().uid());
    match spec::joins_namespace(spec, LinuxNamespaceType::User) {
        // It has mappings of its own, whatever config.json says.
        Some(joined) => idmap::of_host_by(&host::process_of(joined)?.join("uid_map"), uid),
        None => {
            let mappings = spec.linux().as_ref().and_then(|linux| linux.uid_mappings().as_deref());
            idmap::of_host(uid, mappings.unwrap_or_default())
        }
    }
}

/// The paths of `linux.devices`.
fn device_paths(spec: &Spec) -> Vec<&str> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    devices.iter().filter_map(|device| device.path().to_str()).collect()
}

/// What `spec` asks of the cgroups of the container `id`; `own_devices` are its [`device_paths`].
fn cgroup_request<'a>(
    id: &'a str,
    driver: Driver,
    rootless: bool,
    spec: &'a Spec,
    own_devices: &'a [&'a str],
) -> cgroup::Request<'a> {
    let linux = spec.linux().as_ref();
    cgroup::Request {
        id,
        cgroups_path: linux.and_then(|linux| linux.cgroups_path().as_deref()),
        resources: linux.and_then(|linux| linux.resources().as_ref()),
        own_devices,
        driver,
        rootless,
        owner: cgroup_owner(spec),
        // Without the rights of root it may come to have no cgroup at all.
        writable_v1: !rootless && spec.mounts().iter().flatten().any(|mount| spec::is_writable(mount, &["cgroup"])),
        annotations: spec.annotations().as_ref(),
    }
}

/// What the cgroups of a container are to be: `name`, where the configuration does not say.
///
/// # Errors
/// One sentence that names the field.
pub fn compile_cgroup(options: &Options, name: &str, bundle: &Bundle, facts: &Facts) -> Result<cgroup::CgroupPlan> {
    let spec = &bundle.loaded.spec;
    let paths = device_paths(spec);
    let request = cgroup_request(name, options.driver, options.rootless, spec, &paths);
    cgroup::compile(&request, &facts.layout)
}

/// What the cgroups of the container `id` are to be on this machine.
///
/// # Errors
/// A field that is invalid, or for which this machine has no controller.
pub(super) fn cgroups(id: &str, driver: Driver, rootless: bool, spec: &Spec) -> Result<cgroup::CgroupPlan> {
    let paths = device_paths(spec);
    let request = cgroup_request(id, driver, rootless, spec, &paths);
    cgroup::compile(&request, &Layout::probe(request.needs())?)
}

fn initial_state(options: &Options, bundle: &Bundle, facts: &Facts, cgroup: cgroup::Handle) -> State {
    let spec = &bundle.loaded.spec;
    State {
        id: options.id.clone(),
        oci_version: spec.version().clone(),
        bundle: bundle.path.clone(),
        rootfs: bundle.rootfs.clone(),
        created: facts.now.clone(),
        owner: facts.uid,
        annotations: spec.annotations().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect(),
        cgroup,
        resctrl: facts.resctrl.clone(),
        no_new_keyring: options.no_new_keyring,
        shares_pids: !spec::makes_namespace(spec, LinuxNamespaceType::Pid),
        stdio: facts.stdio.clone(),
        own_time: false,
        network_of_pool: false,
        resources: None,
    }
}

/// What the hooks that init runs will read, if there are any.
fn hook_state(spec: &Spec, state: &State) -> Result<Option<plan::hooks::State>> {
    if launch::hooks(spec, Hooks::create_container).is_empty() && launch::hooks(spec, Hooks::start_container).is_empty()
    {
        return Ok(None);
    }
    hooks::state(&state.report(Status::Created, 0)).map(Some)
}
