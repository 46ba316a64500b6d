//! What sandboxes are made from: a bundle, and what tells that it is still the same.

use super::network::{self, Look};
use super::quiet;
use crate::cgroup::layout::ROOT;
use crate::cgroup::{CgroupPlan, Driver};
use crate::container::park;
use crate::container::parts;
use crate::container::prepare::{self, Bundle, Facts, Options, Prepared};
use crate::error::{Doing, Error, Result};
use crate::init;
use crate::plan::caps;
use crate::plan::{Plan, Wait};
use crate::spec::{has_namespace, is_bind};
use crate::sys::fs as sys_fs;
use crate::sys::request::Given;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, fstatat, stat};
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory or file, by its file system and inode. What has another identity is another one, whatever its name.
pub type Identity = (u64, u64);

/// The identity of what a stat call described.
pub fn identity(about: &FileStat) -> Identity {
    (about.st_dev, about.st_ino)
}

/// A bundle that sandboxes are made from.
#[derive(Debug)]
pub struct Template {
    /// How they are made. The id is set for each.
    pub options: Options,
    /// Their configuration.
    pub spec: Arc<Spec>,
    /// What they are made from, read once.
    bundle: Arc<Bundle>,
    facts: Facts,
    /// Whether they are cloned on a [`crate::container::ground::Ground`]: a user namespace sees what is mounted where it was made (mount_namespaces(7)),
    /// and may only mount what is in full view there.
    pub has_ground: bool,
    /// The namespaces of who asks that a cold start would leave its containers in, of those that are compared, by their names in procfs.
    pub inherited: Vec<&'static str>,
    /// Whether its containers have a terminal.
    pub has_terminal: bool,
    /// Whether its containers get a new network namespace that can be made before they are.
    pub takes_network: bool,
    /// Whether they leave it as they found it, unless they use it.
    pub keeps_network: bool,
    /// How closely it is looked at before it is used again.
    pub look: Look,
    /// Whether another one may be cloned in their [`crate::container::ground::Rooms`] once they have ended.
    pub keeps_rooms: bool,
    /// Whether their cgroup may have any name.
    pub takes_cgroup: bool,
    /// What was asked for.
    wait: Wait,
    config: Given,
    /// Paths outside the container that its configuration names, and what was there.
    named: Vec<(PathBuf, Identity)>,
}

impl Template {
    /// The template of the bundle that `options` name, for sandboxes if it `is_parked`, and else for parts alone.
    ///
    /// # Errors
    /// A configuration that is to be parked and cannot be, a path that does not exist.
    pub fn new(options: Options, is_parked: bool) -> Result<Self> {
        // What is looked at first can only be older than what is used.
        let path = options.bundle.join("config.json");
        let config = parts::version(&stat(&path).doing(|| format!("look at {}", path.display()))?);
        let (bundle, facts) = prepare::load(&options)?;
        let spec = &bundle.loaded.spec;
        if is_parked {
            park::require_parkable(spec, &options)?;
        }
        let named = paths(spec, &options.bundle);
        let has_ground = !has_namespace(spec, LinuxNamespaceType::User);
        let compared = [("ipc", LinuxNamespaceType::Ipc), ("uts", LinuxNamespaceType::Uts)];
        let inherited = compared.into_iter().filter(|(_, kind)| !has_namespace(spec, *kind)).map(|(name, _)| name);
        let inherited = inherited.collect();
        let takes_network = network::is_made_before(spec);
        let keeps_network = takes_network && !network::can_change(spec, &options.bundle)?;
        let look = if quiet::is_quiet(spec, bundle.filter.as_ref()) { Look::Brief } else { Look::Whole };
        let wait = options.wait;
        let mut keeps_rooms = false;
        let options = match wait {
            Wait::Lease { networked, furnished, shared, .. } => {
                keeps_rooms = furnished
                    && networked
                    && keeps_network
                    && look == Look::Brief
                    && quiet::keeps_rooms(spec)
                    && sys_fs::only_owners_give_hints();
                let wait = park::wait(bundle.filter.as_ref(), networked && keeps_network, shared);
                Options { wait, ..options }
            }
            _ => options,
        };
        let cgroups_path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
        let may_choose = cgroups_path.is_none_or(|path| path.as_os_str().is_empty());
        let takes_cgroup = may_choose && options.driver == Driver::Cgroupfs && !options.rootless;
        let identify = |path: PathBuf| {
            let about = stat(&path).doing(|| format!("look at {}", path.display()))?;
            Ok::<_, Error>((path, identity(&about)))
        };
        let named = named.into_iter().map(identify).collect::<Result<_>>()?;
        let process = bundle.loaded.spec.process().as_ref();
        let has_terminal = process.is_some_and(|process| process.terminal().unwrap_or(false));
        let spec = Arc::from(spec.clone());
        Ok(Self {
            options,
            spec,
            bundle: Arc::new(bundle),
            facts,
            has_ground,
            inherited,
            has_terminal,
            takes_network,
            keeps_network,
            look,
            keeps_rooms,
            takes_cgroup,
            wait,
            config,
            named,
        })
    }

    /// What it was made with, for another version of the bundle.
    pub fn asked(&self) -> Options {
        Options { wait: self.wait, ..self.options.clone() }
    }

    /// Whether its sandboxes are cloned in network namespaces that may have been used.
    pub fn is_networked(&self) -> bool {
        matches!(self.options.wait, Wait::Lease { networked: true, .. })
    }

    /// Compiles it for the sandbox that `options` name; but for its Plan, if that is `known`.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn compile(&self, options: &Options, known: Option<&Arc<Plan>>) -> Result<Prepared> {
        prepare::compile(options, Arc::clone(&self.bundle), &self.facts, known)
    }

    /// Drops from this process's bounding set what none of its sandboxes is to have in theirs, so that none has to drop it: 41 calls of prctl(2) for the usual
    /// container. Not for those with a user namespace, who begin with all.
    ///
    /// # Errors
    /// What prctl(2) answers.
    pub fn drop_bounding(&mut self) -> Result<()> {
        if has_namespace(&self.spec, LinuxNamespaceType::User) {
            return Ok(());
        }
        let held = &mut self.facts.host.capabilities;
        let asked = self.spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
        let sets = caps::sets(asked, held, &mut Vec::new());
        init::drop_bounding(caps::dropped(&sets, held)).doing(|| "drop capabilities from the bounding set")?;
        held.bounding = sets.bounding;
        Ok(())
    }

    /// What a sandbox waits for that is cloned in the rooms of another.
    pub fn furnished(&self) -> Wait {
        match self.options.wait {
            Wait::Lease { filtered, networked, shared, .. } => {
                Wait::Lease { filtered, networked, furnished: true, shared }
            }
            wait => wait,
        }
    }

    /// The Plan of all its sandboxes that wait for `wait`. `None` if each has another: some mounts take a directory of the container's, or its cgroup's path.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn common_plan(&self, wait: Wait) -> Result<Option<Arc<Plan>>> {
        let plan = |id: &str| {
            let options = Options { id: id.to_owned(), wait, ..self.options.clone() };
            self.compile(&options, None).map(|prepared| prepared.plan)
        };
        let (one, other) = (plan("one")?, plan("other")?);
        // Everything that a Plan holds is told.
        Ok((format!("{one:?}") == format!("{other:?}")).then_some(one))
    }

    /// What the cgroup `name` of a container is to be.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn cgroup(&self, name: &str) -> Result<CgroupPlan> {
        prepare::compile_cgroup(&self.options, name, &self.bundle, &self.facts)
    }

    /// Which config.json it is of.
    pub fn config(&self) -> Given {
        self.config
    }

    /// A number for the configuration's version and the identities of what it names: others have another.
    pub fn version(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.config, &self.named).hash(&mut hasher);
        hasher.finish()
    }

    /// Where there must be what the host has mounted.
    pub fn needed(&self) -> Vec<PathBuf> {
        let null = PathBuf::from("/dev/null");
        // A scratch overlay lies in the sandbox's directory there. It may have to be made first, and is on no other mount then.
        let store = self.options.store.root().ancestors().find(|directory| directory.exists()).map(Path::to_owned);
        let shows_cgroups = |mount: &Mount| mount.typ().as_ref().is_some_and(|kind| kind.starts_with("cgroup"));
        let cgroups = self.spec.mounts().iter().flatten().any(shows_cgroups).then(|| PathBuf::from(ROOT));
        let cgroups = cgroups.filter(|root| root.exists());
        self.named.iter().map(|(path, _)| path.clone()).chain([null]).chain(store).chain(cgroups).collect()
    }

    /// Whether `bundle`, the open directory, is what it was. Another config.json, another root or another source of a bind mount
    /// makes it another template.
    ///
    /// # Errors
    /// What the kernel says of the paths.
    pub fn is_current(&self, bundle: impl AsFd) -> Result<bool, Errno> {
        self.is_of(&fstatat(bundle, "config.json", AtFlags::empty())?)
    }

    /// The same of the bundle where it was.
    ///
    /// # Errors
    /// As there.
    pub fn is_current_there(&self) -> Result<bool, Errno> {
        self.is_of(&stat(&self.options.bundle.join("config.json"))?)
    }

    fn is_of(&self, config: &FileStat) -> Result<bool, Errno> {
        if parts::version(config) != self.config {
            return Ok(false);
        }
        for (path, before) in &self.named {
            if identity(&stat(path)?) != *before {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The paths of the host that `spec` names: its root, sources of bind mounts, namespaces.
fn paths(spec: &Spec, bundle: &Path) -> Vec<PathBuf> {
    let root = spec.root().iter().map(|root| bundle.join(root.path()));
    let mounts = spec
        .mounts()
        .iter()
        .flatten()
        .filter_map(|mount| mount.source().as_ref().filter(|_| is_bind(mount)).map(|source| bundle.join(source)));
    let namespaces = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    let namespaces = namespaces.filter_map(|namespace| namespace.path().clone());
    root.chain(mounts).chain(namespaces.filter(|path| !path.as_os_str().is_empty())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::store::Store;
    use serde_json::{Value, json};
    use tempfile::TempDir;

    /// The template of `spec --action`'s configuration, changed by `change`, of a pool that reuses network namespaces if `networked` and
    /// mount and IPC namespaces if `furnished`; and its bundle.
    fn template(networked: bool, furnished: bool, change: impl FnOnce(&mut Value)) -> (Template, TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().to_owned();
        std::fs::create_dir(bundle.join("rootfs")).unwrap();
        let mut config = serde_json::from_str(&crate::spec::default::action("/hello")).unwrap();
        change(&mut config);
        std::fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let wait = Wait::Lease { filtered: false, networked, furnished, shared: true };
        let store = Store::new(bundle.join("state"));
        (Template::new(Options { wait, ..Options::new(store, "", bundle) }, true).unwrap(), directory)
    }

    /// Whether the sandboxes of a configuration, changed by `change`, have one Plan.
    fn is_common(change: impl FnOnce(&mut Value)) -> bool {
        let (template, _bundle) = template(false, false, change);
        template.common_plan(template.options.wait).unwrap().is_some()
    }

    #[test]
    fn a_plan_is_of_all_sandboxes_unless_it_names_what_is_of_one() {
        assert!(is_common(|_| {}));
        let overlay = json!({crate::plan::overlay::ANNOTATION: "scratch"});
        assert!(!is_common(|config| config["annotations"] = overlay));
    }

    #[test]
    fn all_paths_of_the_host_are_known() {
        let mut config: serde_json::Value = serde_json::from_str(&crate::spec::default::action("/hello")).unwrap();
        config["root"]["path"] = serde_json::json!("/root");
        config["mounts"] = serde_json::json!([
            {"destination": "/a", "type": "bind", "source": "/one"},
            {"destination": "/b", "source": "two", "options": ["rbind", "ro"]},
            {"destination": "/d", "type": "tmpfs", "source": "/none"},
        ]);
        config["linux"]["namespaces"] = serde_json::json!([{"type": "network", "path": "/net"}, {"type": "mount"}]);
        let spec = crate::spec::parse(config.to_string().as_bytes()).unwrap().spec;
        let expected = ["/root", "/one", "/bundle/two", "/net"].map(PathBuf::from);
        assert_eq!(paths(&spec, Path::new("/bundle")), expected);
    }

    #[test]
    fn in_the_rooms_of_another_nothing_is_mounted() {
        assert!(!template(true, false, |_| {}).0.keeps_rooms);
        let (template, _bundle) = template(true, true, |_| {});
        // Where others than a file's owner may change it, nothing is kept.
        assert_eq!(template.keeps_rooms, sys_fs::only_owners_give_hints());
        let plan = |wait| template.common_plan(wait).unwrap().unwrap();
        let (first, later) = (plan(template.options.wait), plan(template.furnished()));
        let rooms = (libc::CLONE_NEWNS | libc::CLONE_NEWIPC) as u64;
        // On some kernels the mount namespace is not made by the clone.
        assert_eq!(first.clone_flags | libc::CLONE_NEWNS as u64, later.clone_flags | rooms);
        assert_eq!(later.clone_flags & rooms, 0);
        let fields = |plan: &Plan| plan.steps.iter().map(|step| step.field.to_string()).collect::<Vec<_>>();
        let mounts = |field: &String| {
            ["mounts", "root", "(default", "linux.rootfsPropagation"].iter().any(|part| field.starts_with(part))
        };
        assert!(fields(&first).iter().any(mounts));
        assert_eq!(fields(&later), fields(&first).into_iter().filter(|field| !mounts(field)).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_used_again_of_who_has_a_user_or_a_time_namespace() {
        let kept = |change: &dyn Fn(&mut Value)| {
            let (template, _bundle) = template(true, true, change);
            (template.keeps_network, template.keeps_rooms)
        };
        assert_eq!(kept(&|_| {}), (true, sys_fs::only_owners_give_hints()));
        for kind in ["user", "time"] {
            let with = |config: &mut Value| {
                config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": kind}));
                let all = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
                if kind == "user" {
                    config["linux"]["uidMappings"] = all.clone();
                    config["linux"]["gidMappings"] = all;
                }
            };
            assert_eq!(kept(&with), (false, false), "{kind}");
        }
    }
}
