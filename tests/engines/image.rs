//! The image that the engines run: made here, from busybox and the project's own action, without a network.

use crate::common::{host, make_rootfs};
use crate::world::World;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// The image's name.
pub const NAME: &str = "engines.test/tools:1";

/// The name of an image that waits: what holds the namespaces of a pod.
pub const PAUSE: &str = "engines.test/pause:1";

/// The archive of the image [`NAME`], in the format of `docker save`, which every engine loads. Made at the first call.
///
/// The root filesystem is busybox with its tools in /bin, and /hello.
pub fn archive(world: &World) -> PathBuf {
    make_once(world, "image", NAME, &["/hello"])
}

/// The archive of the image [`PAUSE`].
pub fn pause_archive(world: &World) -> PathBuf {
    // A shell, as process 1 gets only those signals that it handles.
    make_once(world, "pause", PAUSE, &["sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait; done"])
}

fn make_once(world: &World, file: &str, name: &str, program: &[&str]) -> PathBuf {
    let archive = world.path(format!("{file}.tar"));
    if !archive.exists() {
        let dir = world.path(file);
        fs::create_dir(&dir).unwrap();
        make(&dir, &archive, name, program);
        fs::remove_dir_all(&dir).unwrap();
    }
    archive
}

fn make(dir: &Path, archive: &Path, name: &str, program: &[&str]) {
    let rootfs = dir.join("rootfs");
    make_rootfs(&rootfs);
    let action = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/hello");
    assert!(Path::new(action).exists(), "{action} is missing: run make bundle");
    host("cp", &[action, rootfs.join("hello").to_str().unwrap()]);
    fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n").unwrap();
    fs::write(rootfs.join("etc/group"), "root:x:0:\nuser:x:1000:\nextra:x:1001:user\n").unwrap();
    host("chmod", &["1777", rootfs.join("tmp").to_str().unwrap()]);
    let layer = dir.join("layer.tar");
    tar(&layer, &rootfs, ".");
    let sum = host("sha256sum", &[layer.to_str().unwrap()]);
    let digest = sum.split(' ').next().unwrap();
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": program},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "test"}]
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    fs::remove_dir_all(&rootfs).unwrap();
    tar(archive, dir, "manifest.json config.json layer.tar");
}

/// Archives `names` below `dir`.
fn tar(archive: &Path, dir: &Path, names: &str) {
    let (archive, dir) = (archive.to_str().unwrap(), dir.to_str().unwrap());
    let mut args = vec!["-C", dir, "--numeric-owner", "--owner=0", "--group=0", "-cf", archive];
    args.extend(names.split(' '));
    host("tar", &args);
}

/// The machine's architecture as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
