use super::*;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Plain directories in the place of the file system: a machine with two L3 caches, and bandwidth in steps of 10 %.
fn machine() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (file, text) in [
        ("schemata", "    L3:0=7ff;1=7ff\n    MB:0= 100;1= 100\n"),
        ("tasks", ""),
        ("info/last_cmd_status", "ok\n"),
        ("info/L3/cbm_mask", "7ff\n"),
        ("info/L3/min_cbm_bits", "1\n"),
        ("info/L3/num_closids", "16\n"),
        ("info/MB/bandwidth_gran", "10\n"),
        ("info/MB/delay_linear", "1\n"),
        ("info/MB/min_bandwidth", "10\n"),
        ("info/MB/num_closids", "8\n"),
        ("info/L3_MON/mon_features", "llc_occupancy\nmbm_total_bytes\nmbm_total_bytes_config\nmbm_local_bytes\n"),
        ("mon_groups/.keep", ""),
        ("class/schemata", "    L3:0=7f0;1=1f\n    MB:0=  30;1=  70\n"),
        ("class/tasks", ""),
        ("class/mon_groups/.keep", ""),
    ] {
        let file = root.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    root
}

fn spec(rdt: &Value) -> Box<Spec> {
    let config = json!({"ociVersion": "1.3.0", "linux": {"intelRdt": rdt}});
    crate::spec::parse(config.to_string().as_bytes()).unwrap().spec
}

fn found(root: &TempDir, rdt: &Value) -> Result<Group> {
    let spec = spec(rdt);
    find_below(root.path(), spec.linux().as_ref().unwrap().intel_rdt().as_ref().unwrap(), "c1")
}

/// The group after a create, and what was made.
fn created(root: &TempDir, rdt: &Value) -> (Group, Result<Vec<PathBuf>>) {
    let mut group = found(root, rdt).unwrap();
    let mut made = Vec::new();
    let result = group.create(&spec(rdt), &mut made);
    (group, result.map(|()| made))
}

fn read(root: &TempDir, file: &str) -> String {
    fs::read_to_string(root.path().join(file)).unwrap()
}

#[test]
fn without_a_class_a_group_is_made_and_removed() {
    let root = machine();
    let rdt = json!({"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20", "schemata": ["L2:0=3", "MB:1=50"]});
    let (group, made) = created(&root, &rdt);
    let path = root.path().join("c1");
    assert_eq!(made.unwrap().iter().collect::<Vec<_>>(), [&path]);
    assert_eq!(group, Group { path: path.clone(), own: true, monitor: None });
    // In the order of the spec.
    assert_eq!(read(&root, "c1/schemata"), "L3:0=f\nMB:0=20\nL2:0=3\nMB:1=50\n");
    group.join(77).unwrap();
    assert_eq!(read(&root, "c1/tasks"), "77");
    for file in ["schemata", "tasks"] {
        fs::remove_file(path.join(file)).unwrap();
    }
    group.destroy().unwrap();
    assert!(!path.exists());
    group.destroy().unwrap();
}

#[test]
fn a_group_that_was_there_stays() {
    let root = machine();
    fs::create_dir(root.path().join("c1")).unwrap();
    let (group, made) = created(&root, &json!({}));
    assert_eq!((group.own, made.unwrap()), (false, vec![]));
    group.destroy().unwrap();
    assert!(root.path().join("c1").exists() && !root.path().join("c1/schemata").exists());
}

#[test]
fn one_that_comes_in_between_stays_too() {
    let root = machine();
    let mut group = found(&root, &json!({})).unwrap();
    assert!(group.own);
    fs::create_dir(root.path().join("c1")).unwrap();
    group.create(&spec(&json!({})), &mut Vec::new()).unwrap();
    assert!(!group.own);
}

#[test]
fn a_class_is_made_if_it_is_described_and_stays() {
    let root = machine();
    let (group, made) = created(&root, &json!({"closID": "new", "schemata": ["L3:0=1"]}));
    assert_eq!(made.unwrap().len(), 1);
    group.destroy().unwrap();
    assert_eq!(read(&root, "new/schemata"), "L3:0=1\n");
    let problem = found(&root, &json!({"closID": "other"})).unwrap_err().to_string();
    assert!(problem.starts_with("config.json: linux.intelRdt.closID: clos dir not accessible"), "{problem}");
}

#[test]
fn a_class_that_is_there_is_compared() {
    let root = machine();
    found(&root, &json!({"closID": "class"})).unwrap();
    found(&root, &json!({"closID": "class", "l3CacheSchema": "L3:0=07f0", "memBwSchema": "MB:0=25;1=70"})).unwrap();
    for (field, schema) in [("l3CacheSchema", "L3:0=7f1"), ("l3CacheSchema", "L3:2=7f0"), ("memBwSchema", "MB:0=40")] {
        let problem = found(&root, &json!({"closID": "class", field: schema})).unwrap_err().to_string();
        let start = format!("config.json: linux.intelRdt.{field}: {schema:?} is not what ");
        assert!(problem.starts_with(&start), "{problem}");
    }
}

#[test]
fn a_slash_is_the_default_class() {
    let root = machine();
    let (group, made) = created(&root, &json!({"closID": "/"}));
    assert_eq!(made.unwrap(), Vec::<PathBuf>::new());
    group.join(78).unwrap();
    assert_eq!(read(&root, "tasks"), "78");
    group.destroy().unwrap();
    assert!(root.path().exists());
}

#[test]
fn a_monitoring_group_is_the_containers_own() {
    let root = machine();
    for switch in ["enableMonitoring", "enableCMT", "enableMBM"] {
        let (group, made) = created(&root, &json!({"closID": "class", switch: true}));
        let path = root.path().join("class/mon_groups/c1");
        assert_eq!(made.unwrap().iter().collect::<Vec<_>>(), [&path]);
        group.join(79).unwrap();
        assert_eq!((read(&root, "class/tasks"), read(&root, "class/mon_groups/c1/tasks")), ("79".into(), "79".into()));
        // One that is there is used, and stays if the container does not come into being.
        let (again, made) = created(&root, &json!({"closID": "class", switch: true}));
        assert_eq!((&again, made.unwrap()), (&group, vec![]));
        fs::remove_file(path.join("tasks")).unwrap();
        group.destroy().unwrap();
        assert!(!path.exists() && root.path().join("class").exists());
    }
    assert_eq!(found(&root, &json!({"closID": "class", "enableMonitoring": false})).unwrap().monitor, None);
}

#[test]
fn what_the_kernel_says_is_told() {
    let root = machine();
    fs::remove_dir_all(root.path().join("class/mon_groups")).unwrap();
    fs::write(root.path().join("info/last_cmd_status"), "Out of RMIDs\n").unwrap();
    let (_, made) = created(&root, &json!({"closID": "class", "enableMonitoring": true}));
    let problem = made.unwrap_err().to_string();
    assert!(problem.starts_with("linux.intelRdt: create "), "{problem}");
    assert!(problem.ends_with("c1 (last_cmd_status: Out of RMIDs): no such file or directory"), "{problem}");
}

#[test]
fn it_is_found_where_it_is_mounted() {
    let line = "40 30 0:35 / /mnt/res\\040ctrl rw,nosuid shared:9 - resctrl resctrl rw";
    assert_eq!(mounted_at(line), Some("/mnt/res ctrl".into()));
    assert_eq!(mounted_at("40 30 0:35 / /sys rw - sysfs sysfs rw"), None);
}

#[test]
fn statistics_are_those_of_runc() {
    let root = machine();
    let cache = root.path().join("class/mon_groups/c1/mon_data/mon_L3_00");
    fs::create_dir_all(&cache).unwrap();
    fs::write(cache.join("llc_occupancy"), "4096\n").unwrap();
    fs::write(cache.join("mbm_total_bytes"), "9000\n").unwrap();
    fs::write(cache.join("mbm_local_bytes"), "Unavailable\n").unwrap();
    let class = root.path().join("class");
    let group = Group { monitor: Some(class.join("mon_groups/c1")), path: class, own: false };
    assert_eq!(
        serde_json::to_value(stats::read(root.path(), &group)).unwrap(),
        json!({
            "l3_cache_info": {"cbm_mask": "7ff", "min_cbm_bits": 1, "num_closids": 16},
            "l3_cache_schema_root": "L3:0=7ff;1=7ff",
            "l3_cache_schema": "L3:0=7f0;1=1f",
            "mem_bw_info": {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 8},
            "mem_bw_schema_root": "MB:0= 100;1= 100",
            "mem_bw_schema": "MB:0=  30;1=  70",
            "schemata": ["L3:0=7f0;1=1f", "MB:0=  30;1=  70"],
            "mbm_stats": [{"mbm_total_bytes": 9000, "mbm_local_bytes": 0}],
            "cmt_stats": [{"llc_occupancy": 4096}]
        })
    );
}
