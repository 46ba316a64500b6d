//! Namespaces.

use super::{Podman, SLEEP};
use std::fs;
use std::path::Path;

/// The namespace of a process, e.g. "pid:[4026531836]".
fn namespace(pid: &str, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
}

pub fn host_namespaces(podman: &Podman) {
    let mut kinds = vec!["net", "pid", "uts"];
    let mut options = vec!["--network", "host", "--pid", "host", "--uts", "host"];
    // Podman binds the host's.
    if Path::new("/dev/mqueue").exists() || podman.is_root() {
        kinds.push("ipc");
        options.extend(["--ipc", "host"]);
    }
    podman.podman(&[&["run", "--detach", "--name", "c"], &options[..], &[crate::image::NAME], SLEEP].concat()).ok();
    let pid = podman.inspect("c", "{{.State.Pid}}");
    for kind in kinds {
        assert_eq!(namespace(&pid, kind), namespace("self", kind));
    }
    assert_ne!(namespace(&pid, "mnt"), namespace("self", "mnt"));
}

pub fn namespaces_of_container(podman: &Podman) {
    podman.started("c", &["--ipc", "shareable"], SLEEP);
    let options = ["--network", "container:c", "--pid", "container:c", "--ipc", "container:c"];
    podman.podman(&[&["run", "--detach", "--name", "d"], &options[..], &[crate::image::NAME], SLEEP].concat()).ok();
    let (first, second) = (podman.inspect("c", "{{.State.Pid}}"), podman.inspect("d", "{{.State.Pid}}"));
    for kind in ["net", "pid", "ipc"] {
        assert_eq!(namespace(&first, kind), namespace(&second, kind));
    }
    assert_eq!(podman.exec("d", "cat /proc/1/cmdline | tr '\\0' ' '"), "sleep 1000");
}

pub fn id_mapping(podman: &Podman) {
    // Ids of the machine for root; for a user, ids of the user's own namespace.
    let first = if podman.is_root() { 300_000 } else { 1 };
    let mapping = format!("0:{first}:5000");
    podman.started("c", &["--uidmap", &mapping, "--gidmap", &mapping, "--user", "0"], SLEEP);
    assert_eq!(podman.exec("c", "id -u; awk '{ print $1, $3 }' /proc/self/uid_map; stat -c %u /bin"), "0\n0 5000\n0");
    let pid = podman.inspect("c", "{{.State.Pid}}");
    assert_ne!(namespace(&pid, "user"), namespace("self", "user"));
}

pub fn userns_auto(podman: &Podman) {
    let map = "cat /proc/self/uid_map";
    podman.started("c", &["--userns", "auto:size=3000"], SLEEP);
    podman.started("d", &["--userns", "auto:size=3000"], SLEEP);
    let (first, second) = (podman.exec("c", map), podman.exec("d", map));
    assert_ne!(first, second);
    assert_eq!(first.split_whitespace().collect::<Vec<_>>()[2], "3000", "{first}");
}

pub fn userns_keep_id(podman: &Podman) {
    let uid = podman.user.as_ref().unwrap().ids.0.to_string();
    let directory = podman.directory("files/mine");
    let mount = format!("{directory}:/mine");
    let said =
        podman.shell(&["--userns", "keep-id", "--volume", &mount], "id -u; touch /mine/file; stat -c %u /mine/file");
    assert_eq!(said, format!("{uid}\n{uid}"));
}

/// Groups of the user that have no number inside, by an annotation that crun has introduced.
pub fn keep_groups(podman: &Podman) {
    let said = podman.run(&["--group-add", "keep-groups"], &["id", "-G"]);
    if said.code != 0 && !podman.runtime.is_microrun() {
        crate::runner::skip(format!("not of {}: {}", podman.runtime.name, said.stderr));
    }
    said.ok();
}

pub fn cgroup_namespace(podman: &Podman) {
    let paths = podman.shell(&["--cgroupns", "private"], "cut -d: -f3 /proc/self/cgroup | sort -u");
    assert!(paths.lines().all(|path| path == "/" || !podman.is_root()), "{paths}");
    podman.shell(&["--cgroupns", "host"], "ls /sys/fs/cgroup");
}
