//! What contrib/ tells engines and clusters: contrib/README.md says what is checked of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

#[path = "../common/mod.rs"]
mod common;
mod yaml;

use common::{host, output};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Types of the Kubernetes API.
const KUBERNETES: &str = include_str!("kubernetes.txt");

/// As much as contrib/ uses of what Knative and OpenFaaS add to them, in the same words.
const ADDED: &str = "
    serving.knative.dev/v1 Service: apiVersion text!, kind text!, metadata ObjectMeta!, spec KnativeSpec!
    KnativeSpec: template KnativeTemplate!
    KnativeTemplate: metadata ObjectMeta, spec KnativeRevision!
    KnativeRevision: runtimeClassName text, containers *KnativeContainer!
    KnativeContainer: image text!, ports *ContainerPort
    openfaas.com/v1 Profile: apiVersion text!, kind text!, metadata ObjectMeta!, spec ProfileSpec!
    ProfileSpec: runtimeClassName text
";

fn contrib(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(path)
}

fn manifests(path: &str) -> Vec<Value> {
    yaml::documents(&fs::read_to_string(contrib(path)).unwrap())
}

/// Panics unless `value` is of the type `name`.
fn check(place: &str, name: &str, value: &Value) {
    let is = match name {
        "text" => value.is_string(),
        "int" => value.is_i64(),
        "bool" => value.is_boolean(),
        "any" => value.is_string() || value.is_number(),
        "map" => value.as_object().is_some_and(|map| map.values().all(Value::is_string)),
        name => {
            let mut lines = KUBERNETES.lines().chain(ADDED.lines());
            let line = lines.find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
            let fields: Vec<(&str, &str)> = line
                .unwrap_or_else(|| panic!("{place}: nothing is known of {name}"))
                .split(", ")
                .map(|field| field.split_once(' ').unwrap())
                .collect();
            let map = value.as_object().unwrap_or_else(|| panic!("{place} is no {name}: {value}"));
            for (key, value) in map {
                let place = format!("{place}.{key}");
                let field = fields.iter().find(|(name, _)| name == key);
                let kind = field.unwrap_or_else(|| panic!("{place}: {name} has no such field")).1.trim_end_matches('!');
                match kind.strip_prefix('*') {
                    Some(kind) => {
                        let items = value.as_array().unwrap_or_else(|| panic!("{place} is no list: {value}"));
                        items.iter().for_each(|item| check(&place, kind, item));
                    }
                    None => check(&place, kind, value),
                }
            }
            fields.iter().filter(|(_, kind)| kind.ends_with('!')).all(|(key, _)| map.contains_key(*key))
        }
    };
    assert!(is, "{place} is no {name}, or lacks something: {value}");
}

#[test]
fn manifests_have_the_fields_of_their_kinds() {
    let mut kinds = Vec::new();
    for path in
        ["kubernetes/runtimeclass.yaml", "kubernetes/installer.yaml", "knative/service.yaml", "openfaas/profile.yaml"]
    {
        for manifest in manifests(path) {
            let text = |key: &str| manifest[key].as_str().unwrap_or_else(|| panic!("{path}: no {key}"));
            let name = format!("{} {}", text("apiVersion"), text("kind"));
            check(&format!("{path} {}", text("kind")), &name, &manifest);
            kinds.push(text("kind").to_owned());
        }
    }
    assert_eq!(kinds, ["RuntimeClass", "Pod", "Namespace", "DaemonSet", "Service", "Profile"]);
}

#[test]
#[should_panic(expected = "PodSpec has no such field")]
fn a_field_that_is_spelt_wrong_is_noticed() {
    let text =
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\nspec:\n  runtimeclassname: y\n  containers:\n  - name: z\n";
    check("Pod", "v1 Pod", &yaml::documents(text)[0]);
}

#[test]
fn manifests_agree_with_each_other() {
    let installer = manifests("kubernetes/installer.yaml");
    let daemon_set = &installer[1]["spec"];
    assert_eq!(daemon_set["selector"]["matchLabels"], daemon_set["template"]["metadata"]["labels"]);
    assert_eq!(installer[0]["metadata"]["name"], installer[1]["metadata"]["namespace"]);
    let pod = &daemon_set["template"]["spec"];
    for container in ["initContainers", "containers"].iter().flat_map(|list| pod[list].as_array().unwrap()) {
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            assert!(pod["volumes"].as_array().unwrap().iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
        }
    }
    let class = &manifests("kubernetes/runtimeclass.yaml")[0];
    for path in ["containerd/config.toml", "containerd/config-v3.toml", "crio/10-microrun.conf"] {
        let text = fs::read_to_string(contrib(path)).unwrap();
        assert!(text.contains(&format!("runtimes.{}]", class["handler"].as_str().unwrap())), "{path}");
    }
    for path in ["knative/service.yaml", "openfaas/profile.yaml"] {
        let spec = &manifests(path)[0]["spec"];
        let name = if spec["template"].is_null() { spec } else { &spec["template"]["spec"] };
        assert_eq!(name["runtimeClassName"], class["metadata"]["name"], "{path}");
    }
}

/// The version of a program, if it is there.
fn version(program: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version");
    let output = command.output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// What containerd makes of a file of configuration.
fn dump(config: &Path) -> String {
    host("containerd", &["--config", config.to_str().unwrap(), "config", "dump"])
}

/// That what containerd has read has the runtime, and where.
#[track_caller]
fn has_runtime(dumped: &str) {
    let runtime = dumped.split_once("runtimes.microrun]").unwrap_or_else(|| panic!("{dumped}")).1;
    let (runtime, rest) = runtime.split_once(".runtimes.microrun.options]").unwrap();
    assert!(
        runtime.contains("runtime_type = \"io.containerd.runc.v2\"") || runtime.contains("'io.containerd.runc.v2'")
    );
    assert!(rest.split("\n\n").next().unwrap().contains("/usr/local/bin/microrun"), "{rest}");
}

#[test]
fn containerd_reads_its_configuration() {
    let Some(version) = version("containerd") else {
        skip!("containerd is not installed (Debian's package containerd)")
    };
    has_runtime(&dump(&contrib("containerd/config.toml")));
    let major = version.split(' ').nth(2).unwrap_or_default().trim_start_matches('v').split('.').next();
    if major.and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 2) {
        has_runtime(&dump(&contrib("containerd/config-v3.toml")));
    } else {
        skip!("config-v3.toml is for containerd 2.0 and later; this is {}", version.trim());
    }
}

#[test]
fn cri_o_reads_its_configuration() {
    let text = fs::read_to_string(contrib("crio/10-microrun.conf")).unwrap();
    for line in text.lines().filter(|line| !line.starts_with(['#', '[']) && !line.is_empty()) {
        let key = line.split_once(" = \"").unwrap_or_else(|| panic!("{line}")).0;
        assert!(["runtime_path", "runtime_type", "runtime_root", "monitor_path"].contains(&key), "{line}");
    }
    if version("crio").is_none() {
        skip!("CRI-O is not installed: its keys alone were looked at");
    }
    let said = host("crio", &["--config", contrib("crio/10-microrun.conf").to_str().unwrap(), "config"]);
    assert!(said.contains("[crio.runtime.runtimes.microrun]\nruntime_path = \"/usr/local/bin/microrun\""), "{said}");
}

/// The node's root in a laboratory, and the installer.
struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("files")).unwrap();
        fs::write(dir.path().join("files/microrun"), "#!/bin/sh\necho 1\n").unwrap();
        host("cp", &["-r", contrib("containerd").to_str().unwrap(), dir.path().join("files").to_str().unwrap()]);
        Self(dir)
    }

    fn run(&self, args: &[&str]) -> common::Output {
        let mut command = Command::new(contrib("kubernetes/install"));
        command.args(args).env("HOST", self.0.path()).env("FILES", self.0.path().join("files"));
        output(command)
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("etc/containerd/config.toml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.config()).unwrap()
    }

    fn write(&self, text: &str) {
        fs::create_dir_all(self.config().parent().unwrap()).unwrap();
        fs::write(self.config(), text).unwrap();
    }
}

#[test]
fn the_installer_can_be_run_again_and_undone() {
    // The last of them lacks the end of its last line.
    for before in
        ["", "version = 2\nroot = \"/a\"\n", "# mine\nversion = 3\n\n[plugins]\n", "version = 2\nroot = \"/a\""]
    {
        let node = Node::new();
        node.write(before);
        node.run(&[]).ok();
        let once = node.text();
        node.run(&[]).ok();
        assert_eq!(node.text(), once);
        let plugin = if before.contains('3') { "io.containerd.cri.v1.runtime" } else { "io.containerd.grpc.v1.cri" };
        assert_eq!(once.matches(&format!("[plugins.\"{plugin}\".containerd.runtimes.microrun]")).count(), 1, "{once}");
        assert_eq!(once.matches("version =").count(), 1, "{once}");
        let ended = format!("{}\n", before.trim_end_matches('\n'));
        assert!(before.is_empty() || once.starts_with(&format!("{ended}# microrun: begin\n")), "{once}");
        let binary = node.0.path().join("usr/local/bin/microrun");
        assert_eq!(fs::metadata(&binary).unwrap().permissions().mode() & 0o777, 0o755);
        if version("containerd").is_some() && !before.contains('3') {
            has_runtime(&dump(&node.config()));
        }
        node.run(&["remove"]).ok();
        assert_eq!(node.text(), if before.is_empty() { "version = 2\n".into() } else { ended });
        assert!(!binary.exists());
    }
}

#[test]
fn the_installer_leaves_alone_what_is_not_its_own() {
    let node = Node::new();
    let own =
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.microrun]\nruntime_type = \"x\"\n";
    node.write(own);
    assert!(node.run(&[]).stderr.contains("left alone"));
    assert_eq!(node.text(), own);
    let old = "[plugins.cri]\n";
    node.write(old);
    assert!(node.run(&[]).failed().contains("version 1"));
    assert_eq!(node.text(), old);
}

#[test]
fn systemd_understands_its_units() {
    let dir = tempfile::tempdir().unwrap();
    let units = ["systemd/microrun-pool.service", "systemd/microrun-pool.socket"].map(|name| {
        let text = fs::read_to_string(contrib(name)).unwrap();
        // Whether microrun is installed here does not matter.
        let text = text.replace("/usr/local/bin/microrun ", "/bin/true ");
        let path = dir.path().join(Path::new(name).file_name().unwrap());
        fs::write(&path, text).unwrap();
        path
    });
    let socket = fs::read_to_string(contrib("systemd/microrun-pool.socket")).unwrap();
    assert!(socket.contains(&format!("ListenDatagram={}\n", microrun::pool::SOCKET)), "{socket}");
    if version("systemd-analyze").is_none() {
        skip!("systemd-analyze is not installed (Debian's package systemd)");
    }
    let mut command = Command::new("systemd-analyze");
    let said = output({
        command.args(["verify", "--man=no"]).args(units);
        command
    });
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
}
