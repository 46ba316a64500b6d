use super::{hybrid, legacy, resources, unified};
use crate::cgroup::layout::{Layout, Needs};
use crate::cgroup::plan::{CgroupPlan, Driver, Hierarchy, IfDenied, Request, compile};
use oci_spec::runtime::LinuxResources;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

fn request<'a>(path: Option<&'a str>, resources: &'a LinuxResources) -> Request<'a> {
    super::request(path.map(Path::new), Some(resources))
}

fn plan(path: Option<&str>, json: &str, layout: &Layout) -> CgroupPlan {
    compile(&request(path, &resources(json)), layout).unwrap()
}

fn refusal(json: &str, layout: &Layout) -> String {
    compile(&request(None, &resources(json)), layout).unwrap_err().to_string()
}

/// A plan as text: a line a directory, a line a write.
fn text(plan: &CgroupPlan) -> String {
    let mut text = String::new();
    for directory in &plan.directories {
        let kind = if directory.hierarchy == Hierarchy::Unified { "v2" } else { "v1" };
        writeln!(text, "{kind} {}", directory.path.display()).unwrap();
        for write in directory.writes.iter().filter(|write| !write.file.starts_with("devices.")) {
            writeln!(
                text,
                "  {} = {} ({})",
                write.file,
                write.value,
                write.field.trim_start_matches("linux.resources.")
            )
            .unwrap();
        }
    }
    text
}

const ALL_LIMITS: &str = r#"{
    "memory": {"limit": 1000, "swap": 1500, "reservation": 800},
    "cpu": {"shares": 512, "quota": 5000, "period": 20000, "burst": 100, "cpus": "0-1", "mems": "0", "idle": 0},
    "pids": {"limit": 0},
    "blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 100}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 10}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}]},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 2097152}]
}"#;

#[test]
fn v2_limits() {
    let plan = plan(Some("/a/./x/../box"), ALL_LIMITS, &unified());
    assert_eq!(
        text(&plan),
        "\
v2 /sys/fs/cgroup/a/box
  pids.max = 1 (pids.limit)
  memory.swap.max = 500 (memory.swap)
  memory.max = 1000 (memory.limit)
  memory.low = 800 (memory.reservation)
  io.bfq.weight = 500 (blockIO.weight)
  io.bfq.weight = 8:0 100 (blockIO.weightDevice[0].weight)
  io.max = 8:0 rbps=10 (blockIO.throttleReadBpsDevice[0])
  io.max = 8:16 wiops=max (blockIO.throttleWriteIOPSDevice[0])
  cpu.idle = 0 (cpu.idle)
  cpu.weight = 59 (cpu.shares)
  cpu.max.burst = 100 (cpu.burst)
  cpu.max = 5000 20000 (cpu.quota)
  cpuset.cpus = 0-1 (cpu.cpus)
  cpuset.mems = 0 (cpu.mems)
  hugetlb.2MB.max = 2097152 (hugepageLimits[0].limit)
  hugetlb.2MB.rsvd.max = 2097152 (hugepageLimits[0].limit)
"
    );
    assert_eq!(plan.enable, unified().unified_controllers);
    assert!(plan.devices.is_some());
}

#[test]
fn hybrid_limits_join_only_their_controllers() {
    let plan = plan(None, ALL_LIMITS, &hybrid());
    assert_eq!(
        text(&plan),
        "\
v1 /sys/fs/cgroup/cpuset/box
  cpuset.cpus = 0-1 (cpu.cpus)
  cpuset.mems = 0 (cpu.mems)
v1 /sys/fs/cgroup/memory/box
  memory.limit_in_bytes = 1000 (memory.limit)
  memory.memsw.limit_in_bytes = 1500 (memory.swap)
  memory.soft_limit_in_bytes = 800 (memory.reservation)
v1 /sys/fs/cgroup/cpu,cpuacct/box
  cpu.idle = 0 (cpu.idle)
  cpu.shares = 512 (cpu.shares)
  cpu.cfs_period_us = 20000 (cpu.period)
  cpu.cfs_burst_us = 100 (cpu.burst)
  cpu.cfs_quota_us = 5000 (cpu.quota)
v1 /sys/fs/cgroup/pids/box
  pids.max = 1 (pids.limit)
v1 /sys/fs/cgroup/blkio/box
  blkio.weight = 500 (blockIO.weight)
  blkio.weight_device = 8:0 100 (blockIO.weightDevice[0].weight)
  blkio.throttle.read_bps_device = 8:0 10 (blockIO.throttleReadBpsDevice[0])
  blkio.throttle.write_iops_device = 8:16 0 (blockIO.throttleWriteIOPSDevice[0])
v2 /sys/fs/cgroup/unified/box
  hugetlb.2MB.max = 2097152 (hugepageLimits[0].limit)
  hugetlb.2MB.rsvd.max = 2097152 (hugepageLimits[0].limit)
"
    );
    assert!(plan.devices.is_some(), "device rules are on the v2 directory");
}

#[test]
fn an_idle_container_has_no_weight() {
    let idle = r#"{"cpu": {"shares": 512, "idle": 1}}"#;
    for (layout, json) in
        [(unified(), idle), (hybrid(), idle), (unified(), r#"{"unified": {"cpu.idle": "1", "cpu.weight": "8"}}"#)]
    {
        let plan = plan(Some("/box"), json, &layout);
        assert!(text(&plan).contains("  cpu.idle = 1 "), "{}", text(&plan));
        assert!(!text(&plan).contains("cpu.shares") && !text(&plan).contains("cpu.weight"), "{}", text(&plan));
        assert!(plan.warnings.iter().any(|warning| warning.contains("unable to apply both")), "{:?}", plan.warnings);
    }
}

#[test]
fn a_hybrid_machine_without_limits_joins_no_v1_controller() {
    let plan = plan(None, r#"{"devices": [{"allow": false, "access": "rwm"}]}"#, &hybrid());
    assert_eq!(text(&plan), "v2 /sys/fs/cgroup/unified/box\n");
    assert!(plan.devices.is_some());
}

#[test]
fn a_named_path_joins_every_controller() {
    let plan = plan(Some("/docker/box"), r#"{"devices": [{"allow": false, "access": "rwm"}]}"#, &hybrid());
    let expected: Vec<String> = [
        "cpuset",
        "devices",
        "memory",
        "cpu,cpuacct",
        "pids",
        "blkio",
        "net_cls,net_prio",
        "freezer",
        "systemd",
        "unified",
    ]
    .iter()
    .map(|name| format!("/sys/fs/cgroup/{name}/docker/box"))
    .collect();
    let paths: Vec<_> = plan.directories.iter().map(|d| d.path.display().to_string()).collect();
    assert_eq!(paths, expected);
    assert!(plan.devices.is_none(), "device rules are in the v1 devices cgroup");
    let devices: Vec<_> = plan.directories[1].writes.iter().map(|w| format!("{} {}", w.file, w.value)).collect();
    assert_eq!(devices[..3], ["devices.deny a", "devices.allow c *:* m", "devices.allow b *:* m"]);
    let handle = plan.handle();
    assert_eq!(handle.v1["cpuacct"], Path::new("/sys/fs/cgroup/cpu,cpuacct/docker/box"));
    assert_eq!(handle.directories().len(), expected.len());

    let nothing_above = Layout { cpuset_above: false, ..hybrid() };
    let without = compile(&request(Some("/docker/box"), &resources("{}")), &nothing_above).unwrap();
    assert!(!without.directories.iter().any(|directory| directory.carries("cpuset")));
    let limited = compile(&request(Some("/box"), &resources(r#"{"cpu": {"cpus": "0"}}"#)), &nothing_above).unwrap();
    assert!(limited.directories.iter().any(|directory| directory.carries("cpuset")));
}

#[test]
fn the_systemd_driver_makes_a_scope() {
    let json = resources(r#"{"cpu": {"quota": 1234}, "pids": {"limit": 5}}"#);
    let annotations = HashMap::from([("org.systemd.property.CollectMode".to_owned(), "'inactive'".to_owned())]);
    let request =
        Request { driver: Driver::Systemd, annotations: Some(&annotations), ..request(Some("a-b.slice:p:box"), &json) };
    let plan = compile(&request, &unified()).unwrap();
    assert_eq!(
        text(&plan),
        "\
v2 /sys/fs/cgroup/a.slice/a-b.slice/p-box.scope
  pids.max = 5 (pids.limit)
  cpu.max = 2000 100000 (cpu.quota)
"
    );
    let unit = plan.unit.as_ref().unwrap();
    assert_eq!((unit.unit.name.as_str(), unit.unit.user), ("p-box.scope", false));
    let properties: Vec<_> = unit.properties.iter().map(|p| format!("{}={}", p.name, p.value)).collect();
    for expected in
        ["Slice=\"a-b.slice\"", "Delegate=true", "CollectMode=\"inactive\"", "CPUQuotaPerSecUSec=20000", "TasksMax=5"]
    {
        assert!(properties.iter().any(|property| property == expected), "{expected}: {properties:?}");
    }
    assert_eq!(plan.handle().unit, Some(unit.unit.clone()));
    let rootless = Request { rootless: true, ..request };
    assert!(rootless.needs().users_manager && !request.needs().users_manager);
    let users = Layout { users_manager: Some("user.slice/user-7.slice/user@7.service".into()), ..unified() };
    let path = "/sys/fs/cgroup/user.slice/user-7.slice/user@7.service/a.slice/a-b.slice/p-box.scope";
    assert_eq!(compile(&rootless, &users).unwrap().handle().unified.as_deref(), Some(Path::new(path)));
    let v1 = compile(&request, &hybrid()).unwrap();
    assert!(v1.unit.unwrap().properties.iter().any(|property| property.name == "BlockIOAccounting"));
    let error = compile(&Request { rootless: true, ..request }, &hybrid()).unwrap_err().to_string();
    assert!(error.contains("cannot use rootless systemd cgroups manager on cgroup v1"), "{error}");
}

#[test]
fn a_v1_machine_needs_devices_and_freezer() {
    let plan = plan(None, "{}", &legacy());
    assert_eq!(text(&plan), "v1 /sys/fs/cgroup/devices/box\nv1 /sys/fs/cgroup/freezer/box\n");
}

/// The kernel takes their rules from root of the initial user namespace alone.
#[test]
fn without_the_rights_of_root_v1_devices_have_no_rules() {
    let none = resources(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#);
    let own = std::collections::BTreeMap::from(["freezer", "devices"].map(|name| (name.to_owned(), "/mine".into())));
    let layout = Layout { own, ..legacy() };
    let rootless = Request { rootless: true, ..request(None, &none) };
    let plan = compile(&rootless, &layout).unwrap();
    assert_eq!(text(&plan), "v1 /sys/fs/cgroup/freezer/mine/box\n");
    let rootless = Request { rootless: true, ..request(Some("/x"), &none) };
    for layout in [layout, hybrid()] {
        let plan = compile(&rootless, &layout).unwrap();
        let devices = plan.directories.iter().find(|directory| directory.carries("devices")).unwrap();
        assert_eq!(devices.writes, []);
    }
}

#[test]
fn values_that_set_no_limit_need_no_cgroup() {
    let if_denied = |json: &str| {
        let resources = resources(json);
        let request = Request { rootless: true, ..request(None, &resources) };
        compile(&request, &unified()).unwrap().if_denied
    };
    for json in ["{}", r#"{"memory": {}, "cpu": {"shares": 0}, "blockIO": {}, "network": {}, "unified": {}}"#] {
        assert_eq!(if_denied(json), IfDenied::DoWithout, "{json}");
    }
    for json in [r#"{"pids": {"limit": 5}}"#, r#"{"unified": {"memory.high": "1"}}"#] {
        assert_eq!(if_denied(json), IfDenied::FailForLimits, "{json}");
    }
}

#[test]
fn relative_paths_are_beside_the_own_v2_cgroup_and_below_the_own_v1_cgroup() {
    assert_eq!(text(&plan(Some("../sub/box"), "{}", &unified())), "v2 /sys/fs/cgroup/user.slice/sub/box\n");
    let json = resources(r#"{"memory": {"limit": 1}}"#);
    let request = Request { rootless: true, ..request(None, &json) };
    let plan = compile(&request, &hybrid()).unwrap();
    assert!(text(&plan).starts_with("v1 /sys/fs/cgroup/memory/mine/box\n"), "{}", text(&plan));
    assert_eq!(plan.if_denied, IfDenied::FailForLimits);
}

#[test]
fn needs_are_no_more_than_the_request_asks() {
    let none = resources(r#"{"devices": []}"#);
    let limits = resources(r#"{"pids": {"limit": 5}}"#);
    assert_eq!(request(None, &none).needs(), Needs::default());
    assert_eq!(request(Some(""), &none).needs(), Needs::default());
    assert_eq!(request(None, &limits).needs(), Needs { controllers: true, ..Needs::default() });
    assert_eq!(request(Some("/x"), &none).needs(), Needs { controllers: true, ..Needs::default() });
    assert_eq!(request(Some("/a/b/x"), &none).needs().cpuset_above.as_deref(), Some(Path::new("a/b")));
    assert_eq!(request(Some("x"), &none).needs(), Needs::ALL);
    assert!(Request { rootless: true, ..request(None, &none) }.needs().own);
}

#[test]
fn v1_memory_and_swap_go_in_the_order_that_the_kernel_accepts() {
    let order = |json: &str| text(&plan(None, json, &hybrid()));
    let unlimited = order(r#"{"memory": {"limit": -1}}"#);
    assert!(
        unlimited.contains("memsw.limit_in_bytes = -1") && unlimited.find("memsw") < unlimited.find("memory.limit_in")
    );
    let swap_unlimited = order(r#"{"memory": {"limit": 5, "swap": -1}}"#);
    assert!(swap_unlimited.find("memsw") < swap_unlimited.find("memory.limit_in"));
}

#[test]
fn unified_values_come_last_and_line_by_line() {
    let json = r#"{"memory": {"limit": 5}, "unified": {"memory.max": "7", "io.max": "8:0 riops=1\n8:16 wiops=2\n"}}"#;
    assert_eq!(
        text(&plan(None, json, &unified())),
        "\
v2 /sys/fs/cgroup/box
  memory.max = 5 (memory.limit)
  io.max = 8:0 riops=1 (unified[\"io.max\"])
  io.max = 8:16 wiops=2 (unified[\"io.max\"])
  memory.max = 7 (unified[\"memory.max\"])
"
    );
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let cases = [
        (unified(), r#"{"memory": {"swappiness": 10}}"#, "memory.swappiness: cgroup v2 has no such limit"),
        (unified(), r#"{"memory": {"disableOOMKiller": true}}"#, "memory.disableOOMKiller: cgroup v2 has no"),
        (unified(), r#"{"memory": {"swap": 5}}"#, "memory.swap: unable to set swap limit without memory limit"),
        (unified(), r#"{"memory": {"limit": 9, "swap": 5}}"#, "memory.swap: is 5, memory and swap together"),
        (unified(), r#"{"cpu": {"realtimeRuntime": 5}}"#, "cpu.realtimeRuntime: cgroup v2 has no such limit"),
        (unified(), r#"{"network": {"classID": 5}}"#, "network.classID: cgroup v2 has no such limit"),
        (unified(), r#"{"network": {"priorities": [{"name": "lo", "priority": 1}]}}"#, "network.priorities: cgroup v2"),
        (unified(), r#"{"blockIO": {"leafWeight": 20}}"#, "blockIO.leafWeight: cgroup v2 has no such limit"),
        (unified(), r#"{"blockIO": {"weight": 5}}"#, "blockIO.weight: is 5: use a weight from 10 to 1000"),
        (unified(), r#"{"unified": {"../x.max": "1"}}"#, "unified[\"../x.max\"]: must be a file name (no slashes)"),
        (unified(), r#"{"unified": {"max": "1"}}"#, "unified[\"max\"]: must be in the form CONTROLLER.PARAMETER"),
        (unified(), r#"{"rdma": {"mlx5": {}}}"#, "rdma[\"mlx5\"]: sets no limit"),
        (unified(), r#"{"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}"#, "hugepageLimits[0].pageSize: is"),
        (unified(), r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": -1}]}"#, "hugepageLimits[0].limit: is -1"),
        (hybrid(), r#"{"unified": {"memory.max": "1"}}"#, "unified: invalid configuration: this machine keeps"),
        (hybrid(), r#"{"memory": {"swappiness": 101}}"#, "memory.swappiness: is 101: use a number from 0 to 100"),
        (hybrid(), r#"{"rdma": {"mlx5": {"hcaHandles": 1}}}"#, "the rdma controller is not mounted on this machine"),
    ];
    for (layout, json, expected) in cases {
        let error = refusal(json, &layout);
        assert!(error.starts_with("config.json: linux.resources."), "{error}");
        assert!(error.contains(expected), "{json}: {error}");
    }
}

#[test]
fn values_that_mean_nothing_are_no_limits() {
    let json = r#"{"memory": {"limit": 0, "swappiness": 18446744073709551615, "disableOOMKiller": false}, "cpu": {"shares": 0,
        "quota": 0, "period": 0, "realtimePeriod": 0, "cpus": ""}, "network": {"classID": 0}, "blockIO": {"weight": 0}}"#;
    assert_eq!(text(&plan(None, json, &unified())), "v2 /sys/fs/cgroup/box\n");
    assert_eq!(text(&plan(None, json, &hybrid())), "v2 /sys/fs/cgroup/unified/box\n");
}

#[test]
fn the_root_cgroup_is_no_place_for_a_container() {
    let none = LinuxResources::default();
    let error = compile(&request(Some("/../"), &none), &unified()).unwrap_err().to_string();
    assert_eq!(error, "config.json: linux.cgroupsPath: is the root cgroup: name a cgroup below it");
}

#[test]
fn the_program_of_the_default_devices() {
    let plan = plan(None, "{}", &unified());
    let json = serde_json::to_string_pretty(&plan).unwrap();
    let golden = include_str!("default-plan.json");
    assert_eq!(json.trim(), golden.trim(), "the plan changed; if it should, put this into default-plan.json:\n{json}");
}
