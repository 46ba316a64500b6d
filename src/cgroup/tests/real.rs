//! Needs root.

use super::{request, resources};
use crate::Result;
use crate::cgroup::create::Cgroup;
use crate::cgroup::events::Event;
use crate::cgroup::handle::Handle;
use crate::cgroup::join::parse_sub_cgroups;
use crate::cgroup::layout::{Layout, Mode, Needs};
use crate::cgroup::plan::{CgroupPlan, Driver, Request, compile};
use crate::cgroup::systemd::{Unit, UnitPlan};
use crate::cgroup::tree;
use crate::cgroup::update::merge;
use oci_spec::runtime::LinuxResources;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Whether this process may make cgroups; says why the test is skipped if not.
fn may_run() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let mounted = Layout::probe(Needs::default()).unwrap().mode != Mode::Absent;
    if !root || !mounted {
        println!("skipped: needs root and a cgroup file system");
    }
    root && mounted
}

/// A parent for test cgroups, removed in the end from every hierarchy.
struct Parent(PathBuf);

impl Parent {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(format!("/microrun-test-{}-{count}", std::process::id()).into())
    }

    /// A plan for a named path: on a hybrid machine, all controllers.
    fn plan(&self, json: &str) -> CgroupPlan {
        self.compile(json, &Layout::probe(Needs::ALL).unwrap())
    }

    /// A plan as if no path were named, but below this parent.
    fn lean_plan(&self, json: &str) -> CgroupPlan {
        let mut plan = self.plan(json);
        let path = self.0.strip_prefix("/").unwrap().join("box");
        let resources = resources(json);
        let request = request(None, Some(&resources));
        let lean = compile(&request, &Layout::probe(request.needs()).unwrap()).unwrap();
        plan.directories = lean.directories;
        plan.devices = lean.devices;
        for directory in &mut plan.directories {
            directory.path = directory.mount.join(&path);
        }
        plan
    }

    fn compile(&self, json: &str, layout: &Layout) -> CgroupPlan {
        let path = self.0.join("box");
        let resources: LinuxResources = resources(json);
        let request = request(Some(&path), Some(&resources));
        compile(&request, layout).unwrap()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let layout = Layout::probe(Needs::ALL).unwrap();
        for mount in layout.v1.iter().map(|v1| &v1.mount).chain(&layout.unified) {
            let _ =
                tree::remove(&mount.join(self.0.strip_prefix("/").unwrap()), Instant::now() + tree::REMOVAL_TIMEOUT);
        }
    }
}

/// Whether this machine has all of `controllers`, in any version; says that the test is skipped if not.
fn have(controllers: &[&str]) -> bool {
    let layout = Layout::probe(Needs::ALL).unwrap();
    let missing = controllers.iter().find(|c| layout.v1_mount(c).is_none() && !layout.unified_has(c));
    if let Some(missing) = missing {
        println!("skipped: needs the {missing} controller");
    }
    missing.is_none()
}

fn mode() -> Mode {
    Layout::probe(Needs::default()).unwrap().mode
}

#[test]
fn directories_are_made_limited_and_removed() {
    if !may_run() {
        return;
    }
    let parent = Parent::new();
    let json = if have(&["pids", "memory", "cpu"]) {
        r#"{"pids": {"limit": 42}, "memory": {"limit": 33554432}, "cpu": {"shares": 512, "quota": 5000, "period": 20000}}"#
    } else {
        "{}"
    };
    let plan = parent.plan(json);
    let cgroup = plan.create().unwrap();
    cgroup.restrict_devices().unwrap();
    for directory in &plan.directories {
        assert!(directory.path.is_dir(), "{}", directory.path.display());
        for write in directory.writes.iter().filter(|write| !write.file.starts_with("devices")) {
            let held = fs::read_to_string(directory.path.join(&write.file)).unwrap();
            assert_eq!(held.trim(), write.value, "{}", write.file);
        }
    }
    let handle = cgroup.handle().clone();
    drop(cgroup);
    handle.destroy().unwrap();
    for directory in &plan.directories {
        assert!(!directory.path.exists(), "{}", directory.path.display());
    }
    handle.destroy().unwrap();
}

/// Whoever comes first enables the controllers for all of them, which takes a while.
#[test]
fn the_first_ones_below_a_new_parent_can_be_made_at_once() {
    if !may_run() || !have(&["pids", "memory", "cpu"]) {
        return;
    }
    // No swap is what also holds where the kernel has no such limit.
    let few = r#"{"memory": {"limit": 33554432, "swap": 33554432}}"#;
    let many = r#"{"pids": {"limit": 42}, "memory": {"limit": 33554432}, "cpu": {"quota": 5000, "period": 20000}}"#;
    let kinds = if mode() == Mode::Unified { vec![few, many] } else { vec![many] };
    for json in kinds.repeat(15) {
        let parent = Parent::new();
        let ready = Barrier::new(4);
        std::thread::scope(|scope| {
            for number in 0..4 {
                let mut plan = parent.plan(json);
                plan.directories.iter_mut().for_each(|directory| directory.path.set_file_name(format!("box{number}")));
                let ready = &ready;
                scope.spawn(move || {
                    ready.wait();
                    let _cgroup = plan.create().unwrap();
                    for directory in &plan.directories {
                        let swap = fs::read_to_string(directory.path.join("memory.swap.max")).unwrap_or_default();
                        assert!(swap.is_empty() || json == many || swap == "0\n", "{swap}");
                    }
                });
            }
        });
    }
}

#[test]
fn a_limit_that_the_kernel_refuses_names_field_and_file_and_leaves_nothing() {
    if !may_run() {
        return;
    }
    if !have(&["cpu"]) {
        return;
    }
    let parent = Parent::new();
    let plan = parent.plan(r#"{"cpu": {"quota": 5}}"#);
    let error = plan.create().unwrap_err().to_string();
    assert!(error.starts_with("config.json: linux.resources.cpu.quota: write \"5"), "{error}");
    assert!(error.contains("invalid argument"), "{error}");
    for directory in &plan.directories {
        assert!(!directory.path.exists(), "{}", directory.path.display());
        assert!(!directory.path.parent().is_some_and(Path::exists), "{}", directory.path.display());
    }
}

#[test]
fn cpu_shares_that_the_kernel_would_round_are_refused() {
    if !may_run() || mode() == Mode::Unified {
        println!("skipped: needs the v1 cpu controller");
        return;
    }
    let error = Parent::new().plan(r#"{"cpu": {"shares": 1}}"#).create().unwrap_err().to_string();
    assert!(error.contains("linux.resources.cpu.shares: the kernel made 2 of 1"), "{error}");
}

#[test]
fn a_cgroup_with_processes_or_frozen_is_refused() {
    if !may_run() {
        return;
    }
    let parent = Parent::new();
    let plan = parent.plan("{}");
    let first = plan.create().unwrap();
    let directory = plan.directories.iter().find(|d| d.carries("freezer")).or(plan.directories.last()).unwrap();
    let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(directory.path.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
    let error = plan.create().unwrap_err().to_string();
    assert!(error.contains("container's cgroup is not empty: 1 process(es)"), "{error}");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    let (file, state) = if directory.carries("freezer") { ("freezer.state", "FROZEN") } else { ("cgroup.freeze", "1") };
    fs::write(directory.path.join(file), state).unwrap();
    let error = plan.create().unwrap_err().to_string();
    assert!(error.contains("container's cgroup unexpectedly frozen"), "{error}");
    first.undo();
}

/// By whoever deletes the container that had it before.
#[test]
fn a_cgroup_that_is_removed_while_it_is_looked_at_is_made_again() {
    /// Fewer than a create tries, by more than the one that may be left of the round before.
    const REMOVALS_IN_A_ROUND: u32 = 8;
    if !may_run() {
        return;
    }
    let parent = Parent::new();
    let plan = parent.lean_plan("{}");
    let (done, left) = (std::sync::atomic::AtomicBool::new(false), AtomicU32::new(0));
    let may_remove = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if may_remove() {
                    for path in plan.directories.iter().map(|directory| &directory.path) {
                        let _ = fs::create_dir_all(path);
                        let _ = fs::remove_dir(path);
                    }
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let failed = (0..300).find_map(|_| {
            left.store(REMOVALS_IN_A_ROUND, Ordering::Relaxed);
            let unused = plan.require_unused().err();
            unused.or_else(|| plan.create().map(Cgroup::undo).err())
        });
        done.store(true, Ordering::Relaxed);
        assert!(failed.is_none(), "{failed:?}");
    });
}

/// A shell that joins the cgroups itself, as the init would, and then runs `script`.
fn spawn(handle: &Handle, script: &str) -> Child {
    let open = |directory: &Path| fs::OpenOptions::new().write(true).open(directory.join("cgroup.procs")).unwrap();
    let mut files = handle.directories().into_iter().map(open).map(Stdio::from);
    let mut next = || files.next().unwrap_or_else(Stdio::null);
    let mut shell = Command::new("sh");
    let script = format!("echo 0; echo 0 >&0; echo 0 >&2; exec 0</dev/null 1>/dev/null 2>/dev/null; {script}");
    shell.arg("-c").arg(script).stdout(next()).stdin(next()).stderr(next());
    assert!(files.next().is_none(), "a lean plan joins at most three cgroups");
    shell.spawn().unwrap()
}

fn is_empty(handle: &Handle, patience: Duration) -> bool {
    tree::wait_empty(handle.main_directory().unwrap(), Instant::now() + patience).unwrap()
}

/// How long what is to happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `condition`.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// Waits until `child` is in each directory of the cgroup, which it joins one after the other.
fn wait_joined(handle: &Handle, child: &Child) {
    let pid = child.id() as i32;
    let joined = |directory: &Path| tree::pids(directory, false).unwrap().contains(&pid);
    wait_until("the child does not join", || handle.directories().into_iter().all(joined));
}

/// A process that is in the cgroup and sleeps.
fn sleeper(handle: &Handle) -> Child {
    let child = spawn(handle, "exec sleep 60");
    wait_joined(handle, &child);
    let comm = format!("/proc/{}/comm", child.id());
    wait_until("the child does not sleep", || fs::read_to_string(&comm).unwrap() == "sleep\n");
    child
}

/// Changes the limits from `old` to what `new` says on top of them: those in force then.
fn update(handle: &mut Handle, old: &LinuxResources, new: &LinuxResources) -> Result<LinuxResources> {
    handle.update(old, new, |_| Ok(())).map(|()| merge(old, new))
}

/// In /proc nobody may make or remove anything, so nothing happens if this fails.
#[test]
fn the_root_of_a_hierarchy_is_nobodys() {
    let mut plan = compile(&request(None, None), &super::unified()).unwrap();
    for directory in &mut plan.directories {
        directory.mount = "/proc".into();
        directory.path = "/proc/".into();
    }
    let error = plan.create().unwrap_err().to_string();
    assert!(error.contains("linux.cgroupsPath: /proc/ is the root of a hierarchy"), "{error}");
    for signal in [libc::SIGKILL, libc::SIGCONT] {
        let error = plan.handle().kill(signal).unwrap_err().to_string();
        assert!(error.contains("something is mounted on it"), "{error}");
    }
}

/// A unit of this name, of a manager that is not there or knows none.
fn unit() -> Unit {
    Unit { name: format!("microruntest-{}.scope", std::process::id()), user: false }
}

#[test]
fn cgroups_are_removed_without_the_systemd_that_made_them() {
    if !may_run() {
        return;
    }
    let parent = Parent::new();
    let mut handle = parent.lean_plan("{}").create().unwrap().handle().clone();
    handle.unit = Some(unit());
    let mut child = sleeper(&handle);
    let error = handle.destroy_within(Duration::ZERO).unwrap_err().to_string();
    if !Path::new("/run/systemd/system").exists() {
        assert!(error.contains("failed to connect to systemd") && error.contains("then: remove the cgroup"), "{error}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    handle.destroy().unwrap();
    assert!(handle.directories().iter().all(|directory| !directory.exists()));
}

/// Two containers of one unit name that start at once: systemd lets one have it.
#[test]
fn who_is_refused_a_unit_leaves_alone_who_has_it() {
    if !may_run() {
        return;
    }
    let parent = Parent::new();
    let mut plan = parent.lean_plan("{}");
    let first = plan.create().unwrap();
    plan.unit = Some(UnitPlan { unit: unit(), properties: Vec::new() });
    let second = plan.create().unwrap();
    let mut child = sleeper(first.handle());
    second.end().unwrap();
    assert_eq!(second.undo().len(), 0);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(child.try_wait().unwrap(), None);
    first.end().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_eq!(first.undo().len(), 0);
}

/// With either freezer, where the machine has it.
#[test]
fn what_has_no_process_is_not_frozen() {
    if !may_run() {
        return;
    }
    let parent = Parent::new();
    let whole = parent.plan("{}").create().unwrap().handle().clone();
    let v1 = Handle { unified: None, ..whole.clone() };
    let both = [whole.clone(), v1];
    let handles = || both.iter().filter(|handle| handle.freezer().is_some());
    let refused = |handle: &Handle| {
        let error = handle.freeze().unwrap_err().to_string();
        assert!(error.starts_with("container not running"), "{error}");
        assert!(!handle.is_frozen().unwrap());
        handle.kill(libc::SIGTERM).unwrap();
    };
    handles().for_each(refused);
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    whole.attach(child.id() as i32).unwrap();
    for handle in handles() {
        handle.freeze().unwrap();
        assert!(handle.is_frozen().unwrap());
        handle.thaw().unwrap();
        assert!(!handle.is_frozen().unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    whole.destroy().unwrap();
    handles().for_each(refused);
}

#[test]
fn processes_are_listed_frozen_killed_and_waited_for() {
    if !may_run() {
        return;
    }
    let parent = Parent::new();
    let plan = parent.lean_plan("{}");
    let handle = plan.create().unwrap().handle().clone();
    let mut child = sleeper(&handle);
    assert_eq!(handle.pids(true).unwrap(), [child.id() as i32]);
    assert!(!handle.is_frozen().unwrap());
    handle.freeze().unwrap();
    assert!(handle.is_frozen().unwrap());
    handle.kill(libc::SIGWINCH).unwrap();
    assert!(handle.is_frozen().unwrap(), "a paused container stays paused");
    assert!(!is_empty(&handle, Duration::from_millis(20)));
    handle.thaw().unwrap();
    assert!(!handle.is_frozen().unwrap());
    handle.kill(libc::SIGTERM).unwrap();
    assert!(is_empty(&handle, PATIENCE));
    assert_eq!(child.wait().unwrap().signal(), Some(15));

    let mut child = sleeper(&handle);
    handle.freeze().unwrap();
    let mut events = handle.events().unwrap();
    assert_eq!(events.next(Instant::now()).unwrap(), Event::Timeout);
    handle.kill(libc::SIGKILL).unwrap();
    if handle.unified.is_some() {
        assert_eq!(events.next(Instant::now() + PATIENCE).unwrap(), Event::Ended);
    }
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    handle.destroy().unwrap();
    handle.kill(libc::SIGKILL).unwrap();
    assert!(handle.pids(true).unwrap().is_empty());
    assert!(is_empty(&handle, Duration::ZERO));
}

/// As an update of a systemd unit on v1 needs it.
#[test]
fn what_is_done_while_frozen_leaves_it_as_it_was() {
    if !may_run() {
        return;
    }
    let parent = Parent::new();
    let handle = parent.lean_plan("{}").create().unwrap().handle().clone();
    // Where no process is, nothing has to be frozen.
    handle.while_frozen(true, || Ok(())).unwrap();
    let mut child = sleeper(&handle);
    for (wanted, paused) in [(true, false), (true, true), (false, true), (false, false)] {
        if paused {
            handle.freeze().unwrap();
        }
        let action = || {
            assert_eq!(handle.is_frozen().unwrap(), wanted || paused);
            Err(crate::Error::config("field", "problem"))
        };
        assert!(handle.while_frozen(wanted, action).is_err());
        assert_eq!(handle.is_frozen().unwrap(), paused);
        handle.thaw().unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    handle.destroy().unwrap();
    let none = Handle { unified: None, v1: Default::default(), ..handle };
    none.while_frozen(true, || Ok(())).unwrap();
}

/// As where one of them hangs in the kernel, which takes longer to find out.
#[test]
fn what_does_not_freeze_gets_the_signal() {
    if !may_run() {
        return;
    }
    let parent = Parent::new();
    let whole = parent.plan("{}").create().unwrap().handle().clone();
    let mut v1 = Handle { unified: None, ..whole.clone() };
    v1.v1.remove("freezer");
    if !v1.exists() {
        println!("skipped: needs cgroup v1");
        whole.destroy().unwrap();
        return;
    }
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    whole.attach(child.id() as i32).unwrap();
    assert!(v1.freeze().is_err());
    v1.kill(libc::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    whole.destroy().unwrap();
}

#[test]
fn removal_waits_for_killed_processes() {
    if !may_run() {
        return;
    }
    let parent = Parent::new();
    let plan = parent.lean_plan("{}");
    let handle = plan.create().unwrap().handle().clone();
    let mut child = sleeper(&handle);
    handle.kill(libc::SIGKILL).unwrap();
    handle.destroy().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_device_program_refuses_what_the_rules_do_not_allow() {
    if !may_run() {
        return;
    }
    let parent = Parent::new();
    let plan =
        parent.lean_plan(r#"{"devices": [{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]}"#);
    if plan.devices.is_none() {
        println!("skipped: needs cgroup v2");
        return;
    }
    let cgroup = plan.create().unwrap();
    cgroup.restrict_devices().unwrap();
    let handle = cgroup.handle().clone();
    // /dev/kmsg is 1:11, /dev/mem and /dev/port are 1:1 and 1:4.
    let script = "set -e; : </dev/null; : <>/dev/zero; : </dev/kmsg; ! (: >>/dev/kmsg) 2>/dev/null; \
                  ! (: </dev/port) 2>/dev/null";
    assert!(spawn(&handle, script).wait().unwrap().success());

    // A cgroup that is used again gets the new rules in the place of the old ones.
    let plan = parent.lean_plan("{}");
    let cgroup = plan.create().unwrap();
    cgroup.restrict_devices().unwrap();
    assert!(spawn(&handle, "set -e; : </dev/null; ! (: </dev/kmsg) 2>/dev/null").wait().unwrap().success());
    let directory = fs::File::open(handle.unified.as_ref().unwrap()).unwrap();
    let programs = || crate::sys::bpf::device_programs(std::os::fd::AsFd::as_fd(&directory)).unwrap().len();
    assert_eq!(programs(), 1);
    // Nothing is left of them where everything is allowed.
    let plan = parent.lean_plan(r#"{"devices": [{"allow": true, "access": "rwm"}]}"#);
    plan.create().unwrap().restrict_devices().unwrap();
    assert_eq!(programs(), 0);
    handle.destroy().unwrap();
}

#[test]
fn sub_cgroups_are_joined_but_none_outside() {
    assert_eq!(parse_sub_cgroups(["/a"]).unwrap()[""], Path::new("/a"));
    let both = parse_sub_cgroups(["cpu,memory:/a", "b"]).unwrap();
    assert_eq!(
        (both["cpu"].as_path(), both["memory"].as_path(), both[""].as_path()),
        ("/a".as_ref(), "/a".as_ref(), "b".as_ref())
    );
    assert!(parse_sub_cgroups([":/a"]).is_err());
    assert!(parse_sub_cgroups(["cpu:/a", "cpu:/b"]).unwrap_err().to_string().contains("second path"));
    if !may_run() {
        return;
    }
    let parent = Parent::new();
    let handle = parent.lean_plan("{}").create().unwrap().handle().clone();
    let sub = |path: &str| handle.join(&parse_sub_cgroups([path]).unwrap());
    let outside = if handle.unified.is_some() { "../../x" } else { "freezer:../../x" };
    assert!(sub(outside).unwrap_err().to_string().contains("bad sub cgroup path"));
    assert!(sub("cpu:/x").unwrap_err().to_string().contains("unknown controller"));
    if let Some(directory) = &handle.unified {
        fs::create_dir(directory.join("inner")).unwrap();
        assert!(sub("inner").unwrap().born_in().is_some());
        assert!(sub("missing").is_err());
    }
    handle.destroy().unwrap();
}

#[test]
fn an_update_joins_the_controllers_that_it_needs() {
    if !may_run() || mode() != Mode::Hybrid {
        println!("skipped: needs a hybrid machine");
        return;
    }
    let parent = Parent::new();
    let mut handle = parent.lean_plan("{}").create().unwrap().handle().clone();
    let mut child = sleeper(&handle);
    assert!(handle.v1.is_empty());
    let stats = handle.stats().unwrap();
    assert_eq!(stats.pids.current, 1);
    let counts = || handle.stats().unwrap().cpu.usage.total > 0;
    wait_until("cgroup v2 counts CPU time without a controller", counts);

    let old = resources("{}");
    let new =
        resources(r#"{"memory": {"limit": 33554432}, "pids": {"limit": 7}, "cpu": {"quota": 50000, "cpus": "0"}}"#);
    let merged = update(&mut handle, &old, &new).unwrap();
    let read = |controller: &str, file: &str| fs::read_to_string(handle.v1[controller].join(file)).unwrap();
    assert_eq!(read("memory", "memory.limit_in_bytes"), "33554432\n");
    assert_eq!(read("memory", "cgroup.procs").trim(), child.id().to_string());
    assert_eq!(read("cpuset", "cpuset.cpus"), "0\n");
    let stats = handle.stats().unwrap();
    assert_eq!((stats.pids.limit, stats.memory.usage.limit), (7, 33_554_432));
    assert!(!handle.is_frozen().unwrap());

    // Of an update that fails halfway, nothing remains.
    let new = resources(r#"{"memory": {"limit": 67108864}, "cpu": {"quota": 5}}"#);
    let mut same = handle.clone();
    let error = update(&mut same, &merged, &new).unwrap_err().to_string();
    assert!(error.contains("linux.resources.cpu.quota"), "{error}");
    assert_eq!(read("memory", "memory.limit_in_bytes"), "33554432\n");
    // Not even of what was not limited before.
    let shares = read("cpu", "cpu.shares");
    let new = resources(r#"{"memory": {"reservation": 1048576}, "cpu": {"shares": 77, "cpus": "4095"}}"#);
    let error = update(&mut handle.clone(), &merged, &new).unwrap_err().to_string();
    assert!(error.contains("linux.resources.cpu.cpus"), "{error}");
    assert_eq!(read("cpu", "cpu.shares"), shares);
    assert!(read("memory", "memory.soft_limit_in_bytes").len() > 12, "unlimited");

    // Nor of what was empty, nor of a line for a device.
    let disk = fs::read_dir("/sys/block").unwrap().next().map(|disk| disk.unwrap().path().join("dev"));
    if let Some(disk) = disk.filter(|_| have(&["blkio"])) {
        let (major, minor) = fs::read_to_string(disk)
            .unwrap()
            .trim()
            .split_once(':')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        let throttle = |rate: u32, more: &str| {
            resources(&format!(
                r#"{{"blockIO": {{"throttleReadBpsDevice": [{{"major": {major}, "minor": {minor}, "rate": {rate}}}]}}{more}}}"#
            ))
        };
        let refused = r#", "cpu": {"quota": 5}"#;
        update(&mut handle, &merged, &throttle(0, "")).unwrap();
        let rates = || fs::read_to_string(handle.v1["blkio"].join("blkio.throttle.read_bps_device")).unwrap();
        update(&mut handle.clone(), &merged, &throttle(4096, refused)).unwrap_err();
        assert_eq!(rates(), "");
        update(&mut handle.clone(), &merged, &throttle(8192, "")).unwrap();
        update(&mut handle.clone(), &merged, &throttle(4096, refused)).unwrap_err();
        assert_eq!(rates(), format!("{major}:{minor} 8192\n"));
    }

    // What somebody else has changed is his.
    let quota = handle.v1["cpu"].join("cpu.cfs_quota_us");
    fs::write(&quota, "-1").unwrap();
    update(&mut handle.clone(), &merged, &resources(r#"{"cpu": {"cpus": "0"}, "memory": {}, "pids": {"limit": 8}}"#))
        .unwrap();
    assert_eq!(fs::read_to_string(&quota).unwrap(), "-1\n");
    let new = resources(r#"{"cpu": {"quota": 40000}, "hugepageLimits": [{"pageSize": "7MB", "limit": 0}]}"#);
    update(&mut handle.clone(), &merged, &new).unwrap_err();
    assert_eq!(fs::read_to_string(&quota).unwrap(), "-1\n");
    fs::write(&quota, "50000").unwrap();

    // Memory and swap both above and below the limit in force.
    for (limit, swap) in [(60_000_256, 80_003_072), (30_003_200, 50_003_968), (-1, 0)] {
        let new = resources(&format!(r#"{{"memory": {{"limit": {limit}, "swap": {swap}}}}}"#));
        if !handle.v1["memory"].join("memory.memsw.limit_in_bytes").exists() {
            println!("no swap accounting: swap limits are not tested");
            break;
        }
        update(&mut handle, &merged, &new).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    handle.destroy().unwrap();
}

#[test]
fn a_v2_update_is_written_checked_and_rolled_back() {
    if !may_run() || mode() != Mode::Unified || !have(&["memory", "pids", "cpu", "io"]) {
        println!("skipped: needs cgroup v2 with controllers");
        return;
    }
    let parent = Parent::new();
    let old =
        resources(r#"{"memory": {"limit": 33554432, "swap": 67108864}, "cpu": {"quota": 50000, "period": 100000}}"#);
    let plan = parent.plan(&serde_json::to_string(&old).unwrap());
    let mut handle = plan.create().unwrap().handle().clone();
    let mut child = sleeper(&handle);
    let directory = handle.unified.clone().unwrap();
    let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap().trim().to_owned();
    assert!(read("cgroup.controllers").split(' ').any(|c| c == "io"), "every controller is enabled");
    if !directory.join("cpu.max.burst").exists() {
        println!("skipped: needs cpu.max.burst (Linux 5.14)");
        child.kill().unwrap();
        child.wait().unwrap();
        handle.destroy().unwrap();
        return;
    }
    let update = |handle: &mut Handle, json: &str| update(handle, &old, &resources(json));
    let merged = update(&mut handle, r#"{"cpu": {"quota": 20000, "burst": 1000}, "pids": {"limit": 9}}"#).unwrap();
    assert_eq!(
        (read("cpu.max").as_str(), read("pids.max").as_str(), read("memory.max").as_str()),
        ("20000 100000", "9", "33554432")
    );
    assert_eq!(merged.cpu().as_ref().unwrap().period(), Some(100_000));
    let error =
        update(&mut handle, r#"{"memory": {"limit": 4096, "swap": 8192, "checkBeforeUpdate": true}}"#).unwrap_err();
    assert!(error.to_string().contains("rejecting memory+swap limit 8192 <= usage"), "{error}");
    let error = update(&mut handle, r#"{"pids": {"limit": 3}, "cpu": {"quota": 5}}"#).unwrap_err().to_string();
    assert!(error.contains("linux.resources.cpu.quota: write \"5 100000\""), "{error}");
    // What held before holds again, whatever is on record.
    assert_eq!((read("cpu.max").as_str(), read("memory.max").as_str()), ("20000 100000", "33554432"));
    assert_eq!(read("pids.max"), "9");
    let error = update(&mut handle, r#"{"unified": {"nonsense.max": "1"}}"#).unwrap_err().to_string();
    assert!(error.contains("unified[\"nonsense.max\"]: controller \"nonsense\" is not available"), "{error}");
    update(&mut handle, r#"{"memory": {"limit": -1}}"#).unwrap();
    assert_eq!(read("memory.max"), "max");
    let stats = handle.stats().unwrap();
    assert_eq!((stats.pids.current, stats.memory.usage.limit), (1, u64::MAX));
    assert!(stats.memory.usage.usage > 0 && stats.memory.raw.contains_key("anon"));
    child.kill().unwrap();
    child.wait().unwrap();
    handle.destroy().unwrap();
}

/// A file for which a script waits.
struct Go(tempfile::TempDir);

impl Go {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("go")
    }

    /// A script that does nothing before.
    fn before(&self, script: &str) -> String {
        format!("until [ -e {} ]; do sleep 0.01; done; {script}", self.file().display())
    }

    fn say(&self) {
        fs::write(self.file(), "").unwrap();
    }
}

#[test]
fn running_out_of_memory_is_told() {
    if !may_run() || !have(&["memory"]) {
        return;
    }
    let parent = Parent::new();
    let handle = parent.lean_plan(r#"{"memory": {"limit": 8388608}}"#).create().unwrap().handle().clone();
    let go = Go::new();
    let mut child = spawn(&handle, &go.before("exec dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null"));
    wait_joined(&handle, &child);
    let mut events = handle.events().unwrap();
    go.say();
    assert_eq!(events.next(Instant::now() + PATIENCE).unwrap(), Event::OutOfMemory);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    handle.destroy().unwrap();
}

/// On v1 the container's own cgroup counts no victim of a cgroup below.
#[test]
fn a_victim_in_a_cgroup_below_is_told_too() {
    if !may_run() || !have(&["memory"]) {
        return;
    }
    if mode() == Mode::Unified {
        println!("skipped: cgroup v2 counts what is below by itself");
        return;
    }
    let parent = Parent::new();
    let handle = parent.lean_plan(r#"{"memory": {"limit": 8388608}}"#).create().unwrap().handle().clone();
    let mut events = handle.events().unwrap();
    let below = handle.v1["memory"].join("some/below");
    fs::create_dir_all(&below).unwrap();
    for _ in 0..2 {
        let hog =
            "until grep -q /below /proc/self/cgroup; do sleep 0.01; done; exec dd if=/dev/zero of=/dev/null bs=64M";
        let mut child = spawn(&handle, hog);
        wait_joined(&handle, &child);
        fs::write(below.join("cgroup.procs"), child.id().to_string()).unwrap();
        assert_eq!(events.next(Instant::now() + PATIENCE).unwrap(), Event::OutOfMemory);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
    handle.destroy().unwrap();
}

#[test]
fn waiting_for_memory_is_told_where_nothing_is_killed() {
    if !may_run() || !have(&["memory"]) {
        return;
    }
    if mode() == Mode::Unified {
        println!("skipped: cgroup v2 cannot disable the OOM killer");
        return;
    }
    let parent = Parent::new();
    let limits = r#"{"memory": {"limit": 8388608, "swap": 8388608, "disableOOMKiller": true}}"#;
    let handle = parent.lean_plan(limits).create().unwrap().handle().clone();
    // Only who writes to its memory itself waits: a read(2) into it would end early (mm/memcontrol-v1.c, memcg1_oom_prepare).
    let go = Go::new();
    let mut child = spawn(&handle, &go.before("x=x; while :; do x=$x$x; done"));
    wait_joined(&handle, &child);
    let mut events = handle.events().unwrap();
    go.say();
    assert_eq!(events.next(Instant::now() + PATIENCE).unwrap(), Event::OutOfMemory);
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
    handle.destroy().unwrap();
}

/// A property of a unit, as systemctl prints it.
fn show(unit: &str, property: &str) -> String {
    let output = Command::new("systemctl").args(["show", unit, "--value", "-p", property]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn systemd_makes_limits_and_removes_the_cgroup() {
    if !may_run() || !Path::new("/run/systemd/system").exists() {
        println!("skipped: needs a machine run by systemd");
        return;
    }
    let id = format!("box{}", std::process::id());
    let path = PathBuf::from(format!("machine-microruntest.slice:test:{id}"));
    let old = resources(
        r#"{"pids": {"limit": 42}, "memory": {"limit": 33554432}, "cpu": {"shares": 512, "quota": 12345, "cpus": "0"},
            "devices": [{"allow": false, "access": "rwm"}], "unified": {"memory.high": "30000000"}}"#,
    );
    let request = Request {
        id: &id,
        cgroups_path: Some(&path),
        resources: Some(&old),
        driver: Driver::Systemd,
        ..request(None, None)
    };
    let plan = compile(&request, &Layout::probe(request.needs()).unwrap()).unwrap();
    let mut cgroup = plan.create().unwrap();
    assert!(cgroup.awaits_init() && cgroup.join().born_in().is_none());
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    cgroup.admit(child.id() as i32).unwrap();
    cgroup.restrict_devices().unwrap();
    let mut handle = cgroup.handle().clone();
    assert_eq!(handle, plan.handle(), "the plan knew where systemd would put it");
    assert_eq!(handle.pids(true).unwrap(), [child.id() as i32]);
    let unit = handle.unit.clone().unwrap();
    assert_eq!(unit.name, format!("test-{id}.scope"));
    let directory = handle.unified.clone().unwrap();
    let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap().trim().to_owned();
    assert_eq!((read("pids.max").as_str(), show(&unit.name, "TasksMax").as_str()), ("42", "42"));
    assert_eq!((read("memory.max").as_str(), show(&unit.name, "MemoryMax").as_str()), ("33554432", "33554432"));
    assert_eq!((read("cpu.weight").as_str(), show(&unit.name, "CPUWeight").as_str()), ("59", "59"));
    assert_eq!((read("cpu.max").as_str(), show(&unit.name, "CPUQuotaPerSecUSec").as_str()), ("13000 100000", "130ms"));
    assert_eq!((read("cpuset.cpus").as_str(), show(&unit.name, "AllowedCPUs").as_str()), ("0", "0"));
    assert_eq!(read("memory.high"), "29999104");
    assert_eq!((show(&unit.name, "Delegate").as_str(), show(&unit.name, "DevicePolicy").as_str()), ("yes", "strict"));
    let programs = {
        let directory = fs::File::open(&directory).unwrap();
        crate::sys::bpf::device_programs(std::os::fd::AsFd::as_fd(&directory)).unwrap().len()
    };
    assert_eq!(programs, 1, "ours took the place of systemd's");

    let error = plan.require_unused().unwrap_err().to_string();
    assert!(error.contains("container's cgroup is not empty"), "{error}");
    let new = resources(r#"{"pids": {"limit": 7}, "cpu": {"quota": -1}}"#);
    update(&mut handle, &old, &new).unwrap();
    assert_eq!((read("pids.max").as_str(), show(&unit.name, "TasksMax").as_str()), ("7", "7"));
    assert_eq!((read("cpu.max").as_str(), show(&unit.name, "CPUQuotaPerSecUSec").as_str()), ("max 100000", "infinity"));
    assert_eq!(read("memory.max"), "33554432");

    let mut second = Command::new("sleep").arg("60").spawn().unwrap();
    handle.attach(second.id() as i32).unwrap();
    assert_eq!(handle.pids(true).unwrap().len(), 2);
    handle.freeze().unwrap();
    handle.kill(libc::SIGKILL).unwrap();
    assert!(is_empty(&handle, PATIENCE));
    child.wait().unwrap();
    second.wait().unwrap();
    handle.destroy().unwrap();
    assert!(!directory.exists());
    handle.destroy().unwrap();
}

#[test]
fn systemd_that_refuses_is_quoted() {
    if !may_run() || !Path::new("/run/systemd/system").exists() {
        println!("skipped: needs a machine run by systemd");
        return;
    }
    let annotations =
        std::collections::HashMap::from([("org.systemd.property.Nonsense".to_owned(), "true".to_owned())]);
    let request = Request { driver: Driver::Systemd, annotations: Some(&annotations), ..request(None, None) };
    let plan = compile(&request, &Layout::probe(request.needs()).unwrap()).unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let mut cgroup = plan.create().unwrap();
    let error = cgroup.admit(child.id() as i32).unwrap_err().to_string();
    assert!(
        error.starts_with("unable to start unit \"microrun-box.scope\": ") && error.contains("Nonsense"),
        "{error}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    cgroup.undo();
}

#[test]
fn without_rights_a_rootless_container_does_without_cgroups_or_says_why_not() {
    if !may_run() {
        return;
    }
    // A mount point where nothing can be made, as an unprivileged user finds it.
    let layout = Layout { mode: Mode::Unified, unified: Some("/proc/self".into()), ..super::unified() };
    let rootless = Request { rootless: true, ..request(None, None) };
    let mut plan = compile(&rootless, &layout).unwrap();
    deny(&mut plan);
    let cgroup = plan.create().unwrap();
    assert!(cgroup.handle().directories().is_empty() && cgroup.join().born_in().is_none());
    cgroup.restrict_devices().unwrap();
    assert!(cgroup.handle().pids(true).unwrap().is_empty());
    cgroup.handle().kill(libc::SIGKILL).unwrap();
    cgroup.handle().destroy().unwrap();

    let limits = resources(r#"{"pids": {"limit": 5}}"#);
    let mut plan = compile(&Request { resources: Some(&limits), ..rootless }, &layout).unwrap();
    deny(&mut plan);
    let error = plan.create().unwrap_err().to_string();
    assert!(error.contains("rootless needs no limits + no cgrouppath when no permission"), "{error}");

    let mut plan = compile(&Request { cgroups_path: Some(Path::new("/a")), ..rootless }, &layout).unwrap();
    deny(&mut plan);
    let error = plan.create().unwrap_err().to_string();
    assert!(error.starts_with("unable to apply cgroup configuration: mkdir /sys/kernel/box: "), "{error}");
}

/// Puts the plan's directories where not even root may make any.
fn deny(plan: &mut CgroupPlan) {
    for directory in &mut plan.directories {
        directory.mount = "/sys/kernel".into();
        directory.path = "/sys/kernel/box".into();
    }
}
