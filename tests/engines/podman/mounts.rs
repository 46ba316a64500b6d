//! What is mounted in a container.

use super::{Podman, SLEEP};
use crate::process::output;
use std::fs;

pub fn volume(podman: &Podman) {
    let directory = podman.directory("files/shared");
    let mount = format!("{directory}:/shared");
    assert_eq!(podman.shell(&["--volume", &mount], "echo text >/shared/file; echo made"), "made");
    assert_eq!(fs::read_to_string(format!("{directory}/file")).unwrap(), "text\n");
    let file = format!("{directory}/file:/etc/one/file");
    assert_eq!(podman.shell(&["--volume", &file], "cat /etc/one/file"), "text");
}

pub fn volume_read_only(podman: &Podman) {
    let directory = podman.directory("files/shared");
    for mount in [
        format!("--volume={directory}:/shared:ro"),
        format!("--mount=type=bind,source={directory},target=/shared,readonly"),
    ] {
        let output = podman.run(&[&mount], &["touch", "/shared/file"]);
        assert!(output.code != 0 && output.stderr.contains("Read-only"), "{output:#?}");
    }
}

pub fn named_volume(podman: &Podman) {
    podman.podman(&["volume", "create", "data"]).ok();
    podman.shell(&["--volume", "data:/data"], "echo kept >/data/file");
    assert_eq!(podman.shell(&["--volume", "data:/data:nosuid,noexec"], "cat /data/file"), "kept");
    // What the image has in the place is copied in.
    assert_eq!(podman.shell(&["--volume", "fresh:/etc"], "cut -d: -f1 /etc/passwd | head -n 1"), "root");
}

pub fn volumes_from(podman: &Podman) {
    podman.started("c", &["--volume", "data:/data"], SLEEP);
    podman.exec("c", "echo text >/data/file");
    assert_eq!(podman.shell(&["--volumes-from", "c"], "cat /data/file"), "text");
}

pub fn tmpfs(podman: &Podman) {
    let mount = ["--tmpfs", "/scratch:rw,size=1m,mode=1700,noexec"];
    let said = podman.shell(&mount, "stat -c %a /scratch; grep ' /scratch ' /proc/mounts");
    assert!(said.starts_with("1700\n") && said.contains("noexec") && said.contains("size=1024k"), "{said}");
    // What the image has in the place is copied up.
    assert_eq!(podman.shell(&["--tmpfs", "/etc:tmpcopyup"], "head -n 1 /etc/passwd | cut -d: -f1"), "root");
}

pub fn secret(podman: &Podman) {
    let create = podman.command(&["secret", "create", "password", "-"]);
    output(create, "hush").ok();
    let options = ["--secret", "password", "--secret", "password,type=env,target=WORD"];
    let said = podman
        .run(&options, &["sh", "-c", "cat /run/secrets/password; echo; echo $WORD; stat -c %a /run/secrets/password"]);
    podman.podman(&["secret", "rm", "password"]).ok();
    assert_eq!(said.ok(), "hush\nhush\n444");
}

pub fn shm_size(podman: &Podman) {
    let said = podman.shell(&["--shm-size", "3m"], "df -k /dev/shm | tail -n 1 | awk '{ print $2 }'");
    assert_eq!(said, "3072");
}

pub fn device(podman: &Podman) {
    let said = podman.shell(&["--device", "/dev/zero:/dev/nought"], "head -c 3 /dev/nought | wc -c");
    assert_eq!(said, "3");
    let output = podman.run(&["--device", "/dev/full:/dev/full:r"], &["sh", "-c", "head -c 1 /dev/full | wc -c"]);
    assert_eq!(output.ok(), "1");
}

pub fn propagation(podman: &Podman) {
    let directory = podman.directory("files/shared");
    fs::create_dir(format!("{directory}/below")).unwrap();
    podman.own(format!("{directory}/below").as_ref());
    for kind in ["rprivate", "rslave", "private"] {
        let mount = format!("{directory}:/shared:{kind}");
        let said = podman.shell(&["--volume", &mount], "grep -c ' /shared ' /proc/self/mountinfo");
        assert_eq!(said, "1", "{kind}");
    }
}

pub fn image(podman: &Podman) {
    let mount = format!("type=image,source={},target=/other", crate::image::NAME);
    assert_eq!(podman.shell(&["--mount", &mount], "test -x /other/hello && echo there"), "there");
}

/// The runtime maps the ids of the mount to those of the container's user namespace.
pub fn idmapped_volume(podman: &Podman) {
    let directory = podman.directory("files/shared");
    fs::write(format!("{directory}/file"), "").unwrap();
    let mount = format!("{directory}:/shared:idmap");
    let said = podman.shell(&["--userns", "auto", "--volume", &mount], "stat -c %u /shared/file; touch /shared/new");
    assert_eq!(said, "0");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("{directory}/new")).unwrap()), 0);
}
