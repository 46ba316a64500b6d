//! What the starts need on disk: programs, the root filesystem, a bundle for each of them.

use super::contender::{Contender, HELLO, Place, label, on_path, split, version, words_to_command};
use super::engines::{self, Engine, Engines};
use super::options::Options;
use super::parked::{self, Parking, Way};
use super::record::Kind;
use super::sample::{self, Expected, Failure, Sample};
use super::world::{self, Inventory, Result, World, doing};
use crate::pool::{self, Sandbox};
use crate::spec::default;
use crate::sys::process;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const HELLO_PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));
const FLOOR_PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/floor"));
const PAUSE_PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// The name of the runtime under test.
pub const MICRORUN: &str = "microrun";
/// The name of the runtime under test with a pool.
pub const PARKED: &str = "microrun parked";
/// The name of the runtime under test with a pool that uses network namespaces again.
pub const REUSING: &str = "microrun parked (ns reused)";
/// The name of the way with a pool's parts.
pub const PARTS: &str = "microrun with parts";
/// The name of the pool's library.
pub const LEASED: &str = "microrun parked (library)";
/// The name of the library with a pool that uses network namespaces again.
pub const LEASED_REUSING: &str = "microrun parked (library + ns reused)";
/// The name of the action without anything around it.
pub const PROCESS: &str = "process: static hello";
/// The name of the paper's baseline.
pub const ECHO: &str = "process: /bin/echo";

/// How names of rows end that make an overlayfs for each start.
pub const OVERLAY: &str = " + overlay";

/// Where everything is.
#[derive(Debug)]
pub struct Stage {
    dir: PathBuf,
    /// Whether the configuration is the leanest, and not runc's.
    is_lean: bool,
    /// Who takes part.
    pub contenders: Vec<Contender>,
    /// Who does not, and why.
    pub skipped: Vec<String>,
    /// The mount namespaces of the places that there are.
    namespaces: BTreeMap<Place, File>,
    /// Where this process is.
    place: Mutex<Place>,
    /// Runtimes with runc's command line, as engines can be given them.
    runtimes: Vec<engines::Runtime>,
    /// The engines of those who need them.
    engines: Option<Engines>,
    garbage: Mutex<Garbage>,
    /// The pools, by [`Way::pool`].
    pools: BTreeMap<Way, Parking>,
}

impl Stage {
    /// Writes the programs and the root filesystem, and finds who takes part.
    ///
    /// # Errors
    /// A file cannot be written, or a peer's command line is wrong.
    pub fn set(world: &World, options: &Options) -> Result<Self> {
        let dir = world.dir.clone();
        for directory in ["bin", "rootfs/dev", "rootfs/proc", "rootfs/sys", "state", "log", "overlay"] {
            fs::create_dir_all(dir.join(directory)).map_err(doing("create", &dir.join(directory)))?;
        }
        for (path, program) in [
            ("rootfs/hello", HELLO_PROGRAM),
            ("rootfs/pause", PAUSE_PROGRAM),
            ("bin/hello", HELLO_PROGRAM),
            ("bin/floor", FLOOR_PROGRAM),
        ] {
            let path = dir.join(path);
            let written = fs::write(&path, program);
            written
                .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(0o755)))
                .map_err(doing("write", &path))?;
        }
        let mut stage = Self {
            dir,
            is_lean: options.action,
            contenders: Vec::new(),
            skipped: Vec::new(),
            namespaces: BTreeMap::new(),
            place: Mutex::new(Place::Common),
            runtimes: Vec::new(),
            engines: None,
            garbage: Mutex::default(),
            pools: BTreeMap::new(),
        };
        stage.find_processes(options);
        stage.find_containers(options)?;
        stage.find_peers(options)?;
        stage.find_engines(options);
        for wanted in &options.only {
            if !stage.contenders.iter().any(|contender| matches(contender, wanted)) {
                stage.skipped.push(format!("{wanted}: --only names no row that this machine has"));
            }
        }
        if !options.only.is_empty() {
            stage.contenders.retain(|contender| options.only.iter().any(|wanted| matches(contender, wanted)));
        }
        Ok(stage)
    }

    /// Goes where everybody is measured who can be, once the views are there. A runtime that fails there and works where
    /// there are v1 hierarchies alone is measured there: crun 1.8 must raise RLIMIT_MEMLOCK for a device filter of v2.
    ///
    /// # Errors
    /// A view cannot be entered, or a bundle cannot be written.
    pub fn settle(&mut self, world: &World, timeout: Duration) -> Result<()> {
        let common = world.unified.as_ref().unwrap_or(&world.own);
        common.enter()?;
        let views = [
            (Place::Common, Some(common)),
            (Place::V1, world.v1_only.as_ref()),
            (Place::Engines, world.engines.as_ref()),
        ];
        for (place, view) in views {
            if let Some(view) = view {
                self.namespaces.insert(place, view.namespace()?);
            }
        }
        if world.v1_only.is_none() {
            return Ok(());
        }
        for contender in self.contenders.iter_mut().filter(|contender| contender.kind == Kind::Engine) {
            contender.isolation += "; cgroups of v1, whose controllers the common view has not";
        }
        for index in 0..self.contenders.len() {
            let contender = self.contenders[index].clone();
            if contender.clean_up.is_none() || contender.place != Place::Common {
                continue;
            }
            self.make_bundles(&contender, 0..1, |_| {})?;
            let Err(failure) = self.start(&contender, 0, timeout) else { continue };
            let why = format!("in the common view: {failure}{}", self.last_words(&contender));
            let elsewhere = Contender {
                place: Place::V1,
                isolation: format!("cgroups of v1 instead of v2, a view without cgroup2; {why}"),
                ..contender
            };
            self.enter_view_of(&elsewhere)?;
            let works = self.start(&elsewhere, 0, timeout).is_ok();
            self.enter_common_view()?;
            if works {
                self.contenders[index] = elsewhere;
            }
        }
        Ok(())
    }

    /// Starts the pools that somebody needs. Who needs one and cannot have it takes no part.
    pub fn park(&mut self, options: &Options) {
        let wanted: BTreeSet<Way> = self.contenders.iter().filter_map(|contender| contender.way.pool()).collect();
        for way in wanted {
            match self.pool(options, way) {
                Ok(parking) => drop(self.pools.insert(way, parking)),
                Err(error) => {
                    self.contenders.retain(|contender| contender.way.pool() != Some(way));
                    self.skip(names(way).0, &error.to_string());
                }
            }
        }
    }

    /// A pool of its own for those who are started in this way.
    fn pool(&self, options: &Options, way: Way) -> Result<Parking> {
        let mut config = self.config("", 0);
        if let Some(linux) = config["linux"].as_object_mut() {
            // It names one cgroup.
            linux.remove("cgroupsPath");
        }
        let (row, directory) = names(way);
        let root = self.dir.join("state").join(label(row));
        Parking::new(&options.microrun, &self.dir.join(directory), &root, &config, (way, options.pool_size))
    }

    /// The pool that `contender` takes from.
    pub fn pool_of(&self, contender: &Contender) -> Option<&Parking> {
        self.pools.get(&contender.way.pool()?)
    }

    /// Starts the engines, if somebody needs one, once the views are there. Who needs one that does not start takes no part.
    ///
    /// # Errors
    /// A view cannot be entered.
    pub fn engage(&mut self, options: &Options) -> Result<()> {
        if !self.contenders.iter().any(|contender| contender.kind == Kind::Engine) {
            return Ok(());
        }
        self.enter(Place::Engines)?;
        let action = (HELLO_PROGRAM, options.microrun.as_path());
        let started = Engines::start(&self.dir.join("engines"), &self.contenders, &self.runtimes, action);
        self.enter_common_view()?;
        let failed = match started {
            Ok((engines, failed)) => {
                self.engines = Some(engines);
                failed
            }
            Err(error) => {
                self.drop_engines(&error.to_string());
                return Ok(());
            }
        };
        for (engine, why) in failed {
            self.drop_engine(engine, &why);
        }
        self.skip(
            "engines",
            "only their latency is measured, not what they keep up, their system calls or how they grow",
        );
        Ok(())
    }

    /// Says why there are no engines.
    pub fn drop_engines(&mut self, why: &str) {
        Engine::ALL.into_iter().for_each(|engine| self.drop_engine(engine, why));
    }

    fn drop_engine(&mut self, engine: Engine, why: &str) {
        let count = self.contenders.len();
        self.contenders.retain(|contender| Engine::of(contender) != Some(engine));
        if self.contenders.len() < count {
            self.skip(engine.name(), why);
        }
    }

    /// Ends the pools and the engines; what they have left behind, in words.
    ///
    /// # Errors
    /// A view cannot be entered.
    pub fn close(&mut self) -> Result<Vec<String>> {
        let mut pools: Vec<_> = std::mem::take(&mut self.pools).into_values().collect();
        // All of them, before anybody looks what there is.
        let mut left: Vec<_> = pools.iter_mut().flat_map(Parking::end).collect();
        left.extend(pools.into_iter().flat_map(Parking::close));
        if let Some(engines) = self.engines.take() {
            self.enter(Place::Engines)?;
            left.extend(engines.close(&self.contenders));
            self.enter_common_view()?;
        }
        left.extend(self.garbage().report());
        Ok(left)
    }

    /// What has been found so far of what rows leave behind.
    pub fn garbage(&self) -> MutexGuard<'_, Garbage> {
        self.garbage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `left`, which is what remains in the world, and whose it is: cgroups and containers are called after who starts them.
    pub fn owned(&self, left: String) -> String {
        let owner = self.garbage().owner_of_mount(&left).map(str::to_owned);
        let owner = owner.or_else(|| owner_by_name(&self.contenders, &left));
        owner.map_or_else(|| left.clone(), |owner| format!("{left} (of {owner})"))
    }

    /// The processes that are there for all of the measurement.
    pub fn residents(&self) -> Vec<i32> {
        let daemons = self.engines.iter().flat_map(Engines::pids);
        self.pools.values().map(Parking::pid).chain(daemons).collect()
    }

    /// Goes into the view in which `contender` is started. Only while there are no other threads.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn enter_view_of(&self, contender: &Contender) -> Result<()> {
        self.enter(contender.place)
    }

    /// Goes back.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn enter_common_view(&self) -> Result<()> {
        self.enter(Place::Common)
    }

    fn enter(&self, place: Place) -> Result<()> {
        let mut now = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(namespace) = self.namespaces.get(&place).filter(|_| *now != place) {
            process::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS)?;
            *now = place;
        }
        Ok(())
    }

    fn find_processes(&mut self, options: &Options) {
        let hello = self.path("bin/hello");
        self.add(Contender::plain(PROCESS, Kind::Process, "none", vec![hello]));
        if Path::new("/bin/echo").exists() {
            let words = words(["/bin/echo", "Hello"]);
            self.add(Contender::plain(ECHO, Kind::Process, "none", words));
        } else {
            self.skip("process: /bin/echo", "there is no /bin/echo");
        }
        self.find_monitor(&options.microrun);
        let floor = self.path("bin/floor");
        let cgroup = format!("/sys/fs/cgroup/{}/floor-{{slot}}", world::name());
        let words = vec![floor, "{rootfs}".to_owned(), cgroup, "/hello".to_owned()];
        self.add(Contender::plain("floor", Kind::Floor, "", words));
    }

    /// The monitor of our own (benches/ukvm), which `make bench` puts beside microrun.
    fn find_monitor(&mut self, microrun: &Path) {
        let beside = Some(microrun.with_file_name("ukvm")).filter(|path| path.is_file());
        match beside.or_else(|| on_path("ukvm")) {
            Some(_) if !Path::new("/dev/kvm").exists() => self.skip("unikernel: ukvm", "there is no /dev/kvm"),
            Some(path) => {
                let isolation = "a virtual machine; no file system, no network";
                let words = vec![path.to_string_lossy().into_owned()];
                self.add(Contender::plain("unikernel: ukvm", Kind::Unikernel, isolation, words));
            }
            None => self.skip("unikernel: ukvm", "no ukvm beside microrun or on PATH: make bench builds it"),
        }
    }

    fn find_containers(&mut self, options: &Options) -> Result<()> {
        let own = [options.microrun.to_string_lossy().into_owned()];
        let states = self.dir.join("state");
        let runtime = |name: &str, program: &[String], options: &[&str]| {
            let root = states.join(label(name));
            Contender::runtime(name, program, &root, options)
        };
        let mut found = vec![runtime(MICRORUN, &own, &[]), runtime("microrun + overlay", &own, &["--overlay"])];
        self.offer(MICRORUN, &own);
        found.extend(self.find_parked(&own[0], &states, options));
        for name in ["runc", "crun", "youki"] {
            let given = options.runtimes.iter().find(|(given, _)| given == name);
            let program = match (given, on_path(name)) {
                (Some((_, line)), _) => split(line)?,
                (None, Some(path)) => vec![path.to_string_lossy().into_owned()],
                (None, None) => {
                    self.skip(name, &format!("not on PATH: install it, or give --runtime {name}=PROGRAM"));
                    continue;
                }
            };
            found.push(runtime(name, &program, &[]));
            self.offer(name, &program);
            if name == "runc" {
                let plain = runtime("runc + overlay", &program, &[]);
                found.push(Contender { overlay: true, ..plain });
            }
        }
        for (name, line) in &options.runtimes {
            if !["runc", "crun", "youki"].contains(&name.as_str()) {
                let program = split(line)?;
                found.push(runtime(name, &program, &[]));
                self.offer(name, &program);
            }
        }
        found.into_iter().for_each(|contender| self.add(contender));
        match on_path("bwrap") {
            Some(path) => self.add_bubblewrap(&path.to_string_lossy()),
            None => self.skip("bubblewrap", "no bwrap on PATH: install bubblewrap"),
        }
        Ok(())
    }

    /// The short command line is the one that asks a pool first of all.
    fn find_parked(&mut self, program: &str, states: &Path, options: &Options) -> Vec<Contender> {
        let mut is_wanted = |name: &str| {
            let is_wanted = !options.quick || options.only.iter().any(|row| row == name);
            if !is_wanted {
                self.skip(name, "not with --quick, unless --only names it");
            }
            is_wanted
        };
        let (has_reusing, has_leased_reusing) = (is_wanted(REUSING), is_wanted(LEASED_REUSING));
        let words = |way, options: &[&str]| {
            let (row, directory) = names(way);
            let bundle = format!("{}/", Parking::bundle(self.path(directory)).display());
            let root = states.join(label(row));
            let root = root.to_string_lossy();
            let words = [&[program, "--root", &root, "run"], options, &[&bundle]].concat();
            words.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let parked = |name, way, options: &[&str]| Contender {
            way,
            version: version(&[program.to_owned()]),
            ..Contender::plain(name, Kind::Container, "", words(way, options))
        };
        let mut found = vec![parked(PARTS, Way::Parts, &[]), parked(PARKED, Way::Pool, &[])];
        found.extend(has_reusing.then(|| parked(REUSING, Way::Reuse, &[])));
        found.push(parked(LEASED, Way::Lease, &["--pool=off"]));
        found.extend(has_leased_reusing.then(|| parked(LEASED_REUSING, Way::LeaseReuse, &["--pool=off"])));
        found
    }

    fn add_bubblewrap(&mut self, program: &str) {
        let line = format!(
            "{program} --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup --hostname runc --as-pid-1 \
             --new-session --die-with-parent --cap-drop ALL --ro-bind {{rootfs}} / --proc /proc --dev /dev \
             --mqueue /dev/mqueue --ro-bind /sys /sys /hello"
        );
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let less = "less: no cgroup, no device filter, no masked paths";
        let version = version(&[program.to_owned()]);
        self.add(Contender { version, ..Contender::plain("bubblewrap", Kind::Container, less, words) });
    }

    fn find_peers(&mut self, options: &Options) -> Result<()> {
        for name in ["solo5-hvt", "solo5-spt"] {
            if on_path(name).is_some() && !options.peers.iter().any(|(given, _)| given == name) {
                self.skip(name, &format!("needs a unikernel: give --peer {name}='{name} HELLO'"));
            }
        }
        for (name, line) in &options.peers {
            let (kind, isolation) =
                if name.starts_with("solo5") { (Kind::Unikernel, "a unikernel") } else { (Kind::Peer, "its own") };
            self.add(Contender { exact: false, ..Contender::plain(name, kind, isolation, split(line)?) });
        }
        Ok(())
    }

    /// Takes note of a runtime for engines, which take programs without options.
    fn offer(&mut self, name: &str, program: &[String]) {
        if let [path] = program {
            let found = if path.contains('/') { Some(path.into()) } else { on_path(path) };
            self.runtimes.extend(found.map(|found| (name.to_owned(), found)));
        }
    }

    fn find_engines(&mut self, options: &Options) {
        let is_one = |row: &String| Engine::ALL.iter().any(|engine| row.split(':').next() == Some(engine.name()));
        if !options.engines && !options.only.iter().any(is_one) {
            let all = Engine::ALL.map(Engine::name).join(", ");
            self.skip("engines", &format!("not asked for: --engines measures {all}"));
            return;
        }
        let (rows, skipped) = engines::find(&self.dir.join("engines"), &self.runtimes, &options.microrun);
        self.contenders.extend(rows);
        self.skipped.extend(skipped);
    }

    fn add(&mut self, contender: Contender) {
        self.contenders.push(contender);
    }

    fn skip(&mut self, name: &str, why: &str) {
        self.skipped.push(format!("{name}: {why}"));
    }

    fn path(&self, below: &str) -> String {
        self.dir.join(below).to_string_lossy().into_owned()
    }

    /// The common configuration: runc's default with the action for its program, or that of `spec --action` without its limits, for which not every
    /// machine has the controllers, and `linux.cgroupsPath` for `label`'s start in `slot`.
    pub fn config(&self, label: &str, slot: usize) -> Value {
        let text = if self.is_lean { default::action("/hello") } else { default::runc(true) };
        let mut config: Value = serde_json::from_str(&text).unwrap_or_default();
        if let Some(resources) = config["linux"]["resources"].as_object_mut() {
            resources.retain(|name, _| name == "devices");
        }
        // The newest that all runtimes accept.
        config["ociVersion"] = json!("1.0.2");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/hello"]);
        config["root"]["path"] = json!(self.dir.join("rootfs"));
        config["linux"]["cgroupsPath"] = json!(format!("/{}/{label}-{slot}", world::name()));
        config
    }

    /// Makes the bundles of `slots` starts at a time, with `change`d configurations.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn make_bundles(
        &self,
        contender: &Contender,
        slots: std::ops::Range<usize>,
        change: impl Fn(&mut Value),
    ) -> Result<()> {
        for slot in slots {
            let mut config = self.config(&contender.label(), slot);
            if contender.overlay {
                config["root"]["path"] = json!(self.overlay(contender, slot).join("merged"));
            }
            change(&mut config);
            if contender.takes_bundle() {
                let bundle = self.bundle(contender, slot);
                fs::create_dir_all(&bundle).map_err(doing("create", &bundle))?;
                let text = serde_json::to_vec_pretty(&config)?;
                fs::write(bundle.join("config.json"), text).map_err(doing("write config.json in", &bundle))?;
            }
            if contender.overlay {
                let overlay = self.overlay(contender, slot);
                for directory in ["upper", "work", "merged"] {
                    fs::create_dir_all(overlay.join(directory)).map_err(doing("create", &overlay.join(directory)))?;
                }
            }
        }
        Ok(())
    }

    fn bundle(&self, contender: &Contender, slot: usize) -> PathBuf {
        self.dir.join("bundles").join(contender.label()).join(slot.to_string())
    }

    fn overlay(&self, contender: &Contender, slot: usize) -> PathBuf {
        self.dir.join("overlay").join(contender.label()).join(slot.to_string())
    }

    /// `words` with what belongs to `slot` in its places.
    pub fn filled(&self, contender: &Contender, words: &[String], slot: usize) -> Vec<OsString> {
        let number = slot.to_string();
        let bundle = self.bundle(contender, slot).to_string_lossy().into_owned();
        let rootfs = self.path("rootfs");
        let fill = |word: &String| {
            let word = word.replace("{bundle}", &bundle).replace("{id}", &format!("bench-{number}"));
            OsString::from(word.replace("{slot}", &number).replace("{rootfs}", &rootfs))
        };
        words.iter().map(fill).collect()
    }

    /// The command of `contender` in `slot`.
    pub fn command(&self, contender: &Contender, slot: usize) -> Command {
        let mut command = words_to_command(self.filled(contender, &contender.words, slot));
        command.env(pool::VARIABLE, self.socket_for(contender));
        self.dress(contender, &mut command);
        command
    }

    /// What an engine's client needs besides its words.
    fn dress(&self, contender: &Contender, command: &mut Command) {
        if let Some(engines) = self.engines.as_ref().filter(|_| contender.kind == Kind::Engine) {
            engines.dress(command);
        }
    }

    /// What [`pool::VARIABLE`] has to be for `contender`: cold rows know no pool, whatever the machine has.
    pub fn socket_for(&self, contender: &Contender) -> &Path {
        let parking = self.pool_of(contender).filter(|_| !contender.way.is_lease());
        parking.map_or(Path::new("off"), Parking::socket)
    }

    /// Waits until the next start finds what this one has found. One that was to come from the pool and did not is a failure.
    ///
    /// # Errors
    /// The failure of `done`, or that.
    pub fn refill(
        &self,
        contender: &Contender,
        done: std::result::Result<Sample, Failure>,
    ) -> std::result::Result<Sample, Failure> {
        match self.pool_of(contender) {
            Some(parking) if parking.fill_up() => done.and(Err(Failure::Miss)),
            _ => done,
        }
    }

    /// One start, timed; nothing is left of one that fails.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn start(&self, contender: &Contender, slot: usize, timeout: Duration) -> std::result::Result<Sample, Failure> {
        if let Some(sandbox) = self.lease(contender) {
            return parked::timed(sandbox, HELLO, timeout);
        }
        let mut command = self.command(contender, slot);
        command.stderr(self.log(contender));
        let expected = expected(contender);
        let started = Instant::now();
        let done = match self.mount_overlay(contender, slot) {
            Ok(()) => sample::since(started, &mut command, expected, timeout),
            Err(error) => Err(Failure::Spawn(format!("mount an overlayfs: {error}"))),
        };
        if done.is_err() {
            self.clean_up(contender, slot);
        }
        self.unmount_overlay(contender, slot);
        done
    }

    /// A sandbox for a start of `contender`, if it is started by the library and the pool has one.
    pub fn lease(&self, contender: &Contender) -> Option<Sandbox> {
        self.pool_of(contender).filter(|_| contender.way.is_lease())?.lease()
    }

    /// What a program left behind of a start that failed.
    pub fn clean_up(&self, contender: &Contender, slot: usize) {
        if let Some(words) = &contender.clean_up {
            let mut command = words_to_command(self.filled(contender, words, slot));
            self.dress(contender, &mut command);
            // Who hangs once may hang twice.
            let _ = sample::of_end::<std::io::PipeReader>(&mut command, None, CLEANING);
            // Else the next start would find it.
            let state = self.dir.join("state").join(contender.label()).join(format!("bench-{slot}"));
            if fs::remove_dir_all(&state).is_ok() {
                self.garbage().states.insert(contender.name.clone(), state);
            }
        }
    }

    /// Makes the overlayfs of a start, if it gets one.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn mount_overlay(&self, contender: &Contender, slot: usize) -> nix::Result<()> {
        if !contender.overlay {
            return Ok(());
        }
        let at = self.overlay(contender, slot);
        let of = |directory: &str| at.join(directory).to_string_lossy().into_owned();
        let options = format!("lowerdir={},upperdir={},workdir={}", self.path("rootfs"), of("upper"), of("work"));
        mount(Some("overlay"), &at.join("merged"), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
    }

    /// Removes it.
    pub fn unmount_overlay(&self, contender: &Contender, slot: usize) {
        if contender.overlay {
            let at = self.overlay(contender, slot);
            let _ = umount2(&at.join("merged"), MntFlags::MNT_DETACH);
            for directory in ["upper", "work"] {
                // A new one for the next start; who cannot be removed is found by that start's mount.
                let _ = fs::remove_dir_all(at.join(directory));
                let _ = fs::create_dir(at.join(directory));
            }
        }
    }

    fn log(&self, contender: &Contender) -> Stdio {
        File::create(self.dir.join("log").join(contender.label())).map_or_else(|_| Stdio::null(), Into::into)
    }

    /// A file that nobody keeps.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(name)
    }

    /// Makes a directory that goes with the stage.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_directory(&self, below: &str) -> Result<PathBuf> {
        let path = self.dir.join(below);
        fs::create_dir_all(&path).map_err(doing("create", &path))?;
        Ok(path)
    }

    /// The last line that a start of `contender` wrote to its standard error, after a colon.
    pub fn last_words(&self, contender: &Contender) -> String {
        let text = fs::read(self.dir.join("log").join(contender.label())).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let is_error = |line: &&str| line.to_ascii_lowercase().contains("error");
        // A backtrace may come after it.
        let line = text.lines().rfind(is_error).or_else(|| text.lines().rfind(|line| !line.trim().is_empty()));
        let line = line.unwrap_or_default();
        if line.is_empty() { String::new() } else { format!(": {}", line.chars().take(300).collect::<String>()) }
    }
}

/// What rows leave behind, found while they were measured.
#[derive(Debug, Default)]
pub struct Garbage {
    /// By row: a process that outlived its start, and how many there were.
    processes: BTreeMap<String, (String, usize)>,
    /// By row: the record of a container that its own runtime did not remove.
    states: BTreeMap<String, PathBuf>,
    /// Cgroups that came while a row was warmed up.
    cgroups: Vec<(String, PathBuf)>,
    /// Mounts, likewise.
    mounts: Vec<(String, String)>,
}

impl Garbage {
    /// Takes note of a process of `row` that has been ended.
    pub fn process(&mut self, row: &str, what: String) {
        self.processes.entry(row.to_owned()).or_insert((what, 0)).1 += 1;
    }

    /// Takes note of what there is `now` and was not there `before` the warm-up of `row`.
    pub fn inventory(&mut self, row: &str, before: &Inventory, now: Inventory) {
        let (mounts, cgroups) = now.since(before);
        self.mounts.extend(mounts.into_iter().map(|mount| (row.to_owned(), mount)));
        self.cgroups.extend(cgroups.into_iter().map(|cgroup| (row.to_owned(), cgroup)));
    }

    /// All of it that is still there, in words, with its owner. This process is in the common view.
    fn report(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (row, (what, count)) in &self.processes {
            let more = if *count > 1 { format!(" and {} more", count - 1) } else { String::new() };
            lines.push(format!("process {what}{more} (of {row})"));
        }
        lines.extend(self.states.iter().map(|(row, path)| format!("state {} (of {row})", path.display())));
        // Others make cgroups too, with their containers in them: those are not meant, and none of these is removed.
        let left = self.cgroups.iter().filter(|(_, path)| world::is_empty_cgroup(path));
        lines.extend(left.map(|(row, path)| format!("cgroup {}, since the warm-up of {row}", path.display())));
        lines
    }

    /// Whose mount `left` speaks of.
    fn owner_of_mount(&self, left: &str) -> Option<&str> {
        self.mounts.iter().find(|(_, mount)| left.contains(mount)).map(|(row, _)| row.as_str())
    }
}

/// How long the removal of a failed container may take.
const CLEANING: Duration = Duration::from_secs(30);

/// What a start of `contender` has to write.
pub fn expected(contender: &Contender) -> Expected<'static> {
    if contender.exact { Expected::Exactly(HELLO) } else { Expected::Among(b"Hello") }
}

/// The row that a pool is called after, and its directory.
fn names(way: Way) -> (&'static str, &'static str) {
    match way {
        Way::Parts => (PARTS, "parts"),
        Way::Reuse | Way::LeaseReuse => (REUSING, "reusing"),
        _ => (PARKED, "pool"),
    }
}

fn matches(contender: &Contender, wanted: &str) -> bool {
    contender.name == wanted || contender.label().starts_with(&format!("{}--", label(wanted)))
}

/// The row after which what `left` speaks of is called.
fn owner_by_name(contenders: &[Contender], left: &str) -> Option<String> {
    // The name of all that is ours would be found in every path.
    let text = left.replace(&world::name(), "");
    let is_named = |contender: &&Contender| {
        let label = contender.label();
        let before = format!("/{label}-");
        let numbered = text.split(before.as_str()).skip(1);
        text.contains(&format!("/{label}/"))
            || numbered.into_iter().any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    contenders.iter().find(is_named).map(|contender| contender.name.clone())
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_has_an_owner() {
        let contender = |name: &str| Contender::plain(name, Kind::Container, "", vec!["x".into()]);
        let all = ["microrun", "microrun + overlay", "crun", "runc"].map(contender);
        let owner = |below: &str| owner_by_name(&all, &format!("cgroup /sys/fs/cgroup/{}/{below}", world::name()));
        assert_eq!(owner("crun-0").unwrap(), "crun");
        assert_eq!(owner("microrun---overlay-12").unwrap(), "microrun + overlay");
        assert_eq!(owner("microrun-3").unwrap(), "microrun");
        assert_eq!(owner("stranger"), None);
        assert_eq!(owner_by_name(&all, "state /tmp/x/state/runc/bench-0").unwrap(), "runc");
    }

    #[test]
    fn what_outlives_its_start_is_told_once_for_each_row() {
        let mut garbage = Garbage::default();
        (1..=3).for_each(|pid| garbage.process("x", format!("{pid} (sleep): sleep 9")));
        garbage.process("y", "4 (true): true".into());
        garbage.mounts.push(("z".into(), "1 2 0:3 / /mnt rw - tmpfs tmpfs rw".into()));
        let said = garbage.report();
        assert_eq!(said, ["process 1 (sleep): sleep 9 and 2 more (of x)", "process 4 (true): true (of y)"]);
        assert_eq!(garbage.owner_of_mount("mount (own view) 1 2 0:3 / /mnt rw - tmpfs tmpfs rw"), Some("z"));
    }
}
