//! Needs root.

use super::resources;
use crate::cgroup::layout::{Layout, Mode, Needs};
use crate::cgroup::plan::{CgroupPlan, Driver, Request, compile};
use oci_spec::runtime::LinuxResources;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

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

    fn plan(&self, json: &str) -> CgroupPlan {
        let path = self.0.join("box");
        let resources: LinuxResources = resources(json);
        let request = Request {
            id: "box",
            cgroups_path: Some(&path),
            resources: Some(&resources),
            own_devices: &[],
            driver: Driver::Cgroupfs,
            rootless: false,
            owner: None,
        };
        compile(&request, &Layout::probe(request.needs()).unwrap()).unwrap()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let layout = Layout::probe(Needs::ALL).unwrap();
        for mount in layout.v1.iter().map(|v1| &v1.mount).chain(&layout.unified) {
            let _ = crate::cgroup::tree::remove(&mount.join(self.0.strip_prefix("/").unwrap()));
        }
    }
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
    let json = if mode() == Mode::Unified { "{}" } else { r#"{"pids": {"limit": 42}, "memory": {"limit": 33554432}}"# };
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

#[test]
fn a_limit_that_the_kernel_refuses_names_field_and_file_and_leaves_nothing() {
    if !may_run() {
        return;
    }
    if mode() == Mode::Unified {
        println!("skipped: the v2 view has no controllers");
        return;
    }
    let parent = Parent::new();
    let plan = parent.plan(r#"{"cpu": {"quota": 5}}"#);
    let error = plan.create().unwrap_err().to_string();
    assert!(error.starts_with("config.json: linux.resources.cpu.quota: write \"5\" to /sys/fs/cgroup/cpu"), "{error}");
    assert!(error.contains("invalid argument"), "{error}");
    for directory in &plan.directories {
        assert!(!directory.path.exists(), "{}", directory.path.display());
        assert!(!directory.path.parent().is_some_and(Path::exists), "{}", directory.path.display());
    }
}

#[test]
fn cpu_shares_that_the_kernel_would_round_are_refused() {
    if !may_run() || mode() == Mode::Unified {
        println!("skipped: needs cgroup v1 controllers");
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
