//! Tests of cgroups: compilation against layouts made up here (no root needed), and real cgroups below a parent of
//! their own (root).

mod compile;
mod devices;
mod real;

use super::layout::{Layout, Mode, V1Mount};
use super::plan::{Driver, Request};
use oci_spec::runtime::LinuxResources;
use std::collections::BTreeMap;
use std::path::Path;

/// linux.resources from JSON.
fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// What root asks for the container "box".
fn request<'a>(cgroups_path: Option<&'a Path>, resources: Option<&'a LinuxResources>) -> Request<'a> {
    Request {
        id: "box",
        cgroups_path,
        resources,
        own_devices: &[],
        writable_v1: false,
        driver: Driver::Cgroupfs,
        rootless: false,
        owner: None,
        annotations: None,
    }
}

/// A machine whose v2 hierarchy has all controllers.
fn unified() -> Layout {
    let controllers = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"];
    Layout {
        unified_controllers: controllers.map(String::from).into(),
        own: BTreeMap::from([(String::new(), "/user.slice/session-1.scope".into())]),
        ..Layout::new(Mode::Unified)
    }
}

/// A machine with v1 controllers, cpu and cpuacct together, hugetlb on v2.
fn hybrid() -> Layout {
    let mounts =
        ["cpuset", "devices", "memory", "cpu,cpuacct", "pids", "blkio", "net_cls,net_prio", "freezer", "name=systemd"];
    let mount = |controllers: &str| V1Mount {
        controllers: controllers.split(',').map(str::to_owned).collect(),
        mount: format!("/sys/fs/cgroup/{}", controllers.trim_start_matches("name=")).into(),
    };
    Layout {
        unified_controllers: vec!["hugetlb".into()],
        v1: mounts.iter().map(|controllers| mount(controllers)).collect(),
        own: BTreeMap::from([(String::new(), "/".into()), ("memory".into(), "/mine".into())]),
        cpuset_above: true,
        ..Layout::new(Mode::Hybrid)
    }
}

/// The same without cgroup v2.
fn legacy() -> Layout {
    Layout { mode: Mode::Legacy, unified: None, unified_controllers: Vec::new(), ..hybrid() }
}
