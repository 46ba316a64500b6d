//! The CRI of containerd, as kubelet calls it.

mod client;
mod life;
mod limits;
mod message;
mod pods;
mod rights;
mod stream;
mod streams;

use crate::common::{Output, eventually};
use crate::containerd::Containerd;
use crate::image;
use crate::runner::{Case, Engine, Runtime, skip};
use crate::world::World;
use client::Client;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A program that stays until it is killed.
const SLEEP: &str = "exec sleep 1000";

/// Where Debian has the CNI plugins.
const CNI: &str = "/usr/lib/cni";

/// `ContainerState`
const RUNNING: i64 = 1;
/// `ContainerState`
const EXITED: i64 = 2;

/// containerd with its CRI plugin.
pub struct Cri {
    containerd: Containerd,
    client: Client,
    dir: PathBuf,
    /// The configurations of the pods: a container is created with that of its pod.
    pods: RefCell<HashMap<String, Value>>,
    made: Cell<u32>,
}

impl Engine for Cri {
    const NAME: &'static str = "cri";
    const NEEDS: &'static [(&'static str, &'static str)] =
        &[("containerd", "containerd"), ("ctr", "containerd"), ("curl", "curl")];

    fn start(world: &World, runtime: &Runtime) -> Result<Self, String> {
        let name = format!("cri-{}", runtime.name);
        let dir = world.path(&name);
        for directory in ["logs", "net", "files"] {
            fs::create_dir_all(dir.join(directory)).unwrap();
        }
        // Pods have an address of the test's own network namespace.
        let network = json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": {
            "type": "host-local", "dataDir": format!("/run/{name}-ipam"), "subnet": "10.85.0.0/16", "routes": [{"dst": "0.0.0.0/0"}]
        }}]});
        fs::write(dir.join("net/pods.conflist"), network.to_string()).unwrap();
        // As users are told to; but for the version of the file, and which runtime.
        let handler = if runtime.has_own_shim {
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.microrun]\nruntime_type = \"io.containerd.microrun.v1\"\n"
                .to_owned()
        } else {
            include_str!("../../../contrib/containerd/config.toml")
                .replace("version = 2\n", "")
                .replace("/usr/local/bin/microrun", runtime.path.to_str().unwrap())
        };
        // The score of the OOM killer may be lowered only by a root that has CAP_SYS_RESOURCE.
        let config = format!(
            "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{pause}\"\nrestrict_oom_score_adj = true\n\
            disable_apparmor = true\n\
            [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{CNI}\"\nconf_dir = \"{dir}/net\"\n\
            [plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"microrun\"\n{handler}",
            pause = image::PAUSE,
            dir = dir.display()
        );
        let containerd = Containerd::start(world, runtime, &name, Some(&config))?;
        for archive in [image::archive(world), image::pause_archive(world)] {
            containerd.call(&["--namespace", "k8s.io", "image", "import", archive.to_str().unwrap()]).ok();
        }
        let client = Client::new(&containerd.socket, dir.join("calls"));
        let cri = Self { containerd, client, dir, pods: RefCell::default(), made: Cell::new(0) };
        eventually(|| cri.condition("RuntimeReady"));
        Ok(cri)
    }

    fn version(&self) -> String {
        self.containerd.version()
    }

    fn cases() -> Vec<Case<Self>> {
        let mut cases = pods::cases();
        cases.extend(life::cases());
        cases.extend(streams::cases());
        cases.extend(rights::cases());
        cases.extend(limits::cases());
        cases
    }

    fn clean(&self) {
        for container in self.client.call("ListContainers", &json!({}))["containers"].as_array().into_iter().flatten() {
            // One that is just ending can refuse to be stopped.
            let _ = self.client.try_call("StopContainer", &json!({"container_id": container["id"]}));
            self.client.call("RemoveContainer", &json!({"container_id": container["id"]}));
        }
        for pod in self.client.call("ListPodSandbox", &json!({}))["items"].as_array().into_iter().flatten() {
            self.client.call("StopPodSandbox", &json!({"pod_sandbox_id": pod["id"]}));
            self.client.call("RemovePodSandbox", &json!({"pod_sandbox_id": pod["id"]}));
        }
        self.pods.borrow_mut().clear();
    }
}

impl Cri {
    /// Whether a condition of the runtime's status holds.
    fn condition(&self, name: &str) -> bool {
        let status = self.client.try_call("Status", &json!({})).unwrap_or_default();
        let conditions = status["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == name && condition["status"] == 1)
    }

    /// Whether the runtime's handler has a feature, which containerd tells since 2.0.
    fn has_feature(&self, name: &str) -> bool {
        let status = self.client.call("Status", &json!({}));
        let handlers = status["runtime_handlers"].as_array().cloned().unwrap_or_default();
        handlers.iter().any(|handler| handler["name"] == "microrun" && handler["features"][name] == 1)
    }

    /// A number that nothing else has.
    fn number(&self) -> u32 {
        self.made.set(self.made.get() + 1);
        self.made.get()
    }

    /// A pod with a network of its own that runs; its id.
    #[track_caller]
    fn pod(&self, change: impl FnOnce(&mut Value)) -> String {
        if !Path::new(CNI).join("ptp").exists() {
            skip(format!("{CNI}/ptp is missing (Debian's package containernetworking-plugins)"));
        }
        self.try_pod(change).unwrap()
    }

    /// A pod that is in the network namespace of the test.
    #[track_caller]
    fn host_pod(&self, change: impl FnOnce(&mut Value)) -> String {
        self.try_pod(|config| {
            config["linux"]["security_context"]["namespace_options"]["network"] = json!(2);
            change(config);
        })
        .unwrap()
    }

    /// Runs a pod that `change` has changed. As kubelet asks for it, its containers have a pid namespace each.
    fn try_pod(&self, change: impl FnOnce(&mut Value)) -> Result<String, String> {
        let number = self.number();
        let name = format!("pod{number}");
        let mut config = json!({
            "metadata": {"name": name, "uid": format!("uid{number}"), "namespace": "default"},
            "log_directory": self.dir.join("logs"),
            "linux": {"security_context": {"namespace_options": {"pid": 1}}}
        });
        change(&mut config);
        let response =
            self.client.try_call("RunPodSandbox", &json!({"config": config, "runtime_handler": "microrun"}))?;
        let id = response["pod_sandbox_id"].as_str().unwrap().to_owned();
        self.pods.borrow_mut().insert(id.clone(), config);
        Ok(id)
    }

    /// A container of a pod, created; its id. It has the namespaces of its pod, as kubelet sees to.
    #[track_caller]
    fn create(&self, pod: &str, script: &str, change: impl FnOnce(&mut Value)) -> String {
        self.try_create(pod, script, change).unwrap()
    }

    fn try_create(&self, pod: &str, script: &str, change: impl FnOnce(&mut Value)) -> Result<String, String> {
        let number = self.number();
        let sandbox = self.pods.borrow()[pod].clone();
        let mut config = json!({
            "metadata": {"name": format!("container{number}")},
            "image": {"image": image::NAME},
            "command": ["sh", "-c", script],
            "log_path": format!("{number}.log"),
            "linux": {"security_context": {"namespace_options": sandbox["linux"]["security_context"]["namespace_options"]}}
        });
        change(&mut config);
        let request = json!({"pod_sandbox_id": pod, "config": config, "sandbox_config": sandbox});
        let response = self.client.try_call("CreateContainer", &request)?;
        let id = response["container_id"].as_str().unwrap().to_owned();
        fs::write(self.dir.join("files").join(&id), number.to_string()).unwrap();
        Ok(id)
    }

    #[track_caller]
    fn start_container(&self, id: &str) {
        self.client.call("StartContainer", &json!({"container_id": id}));
    }

    /// A container that runs.
    #[track_caller]
    fn started(&self, pod: &str, script: &str, change: impl FnOnce(&mut Value)) -> String {
        let id = self.create(pod, script, change);
        self.start_container(&id);
        id
    }

    /// What `script` says in a container of a new pod in the test's network namespace; it must succeed.
    #[track_caller]
    fn said(&self, script: &str, change: impl FnOnce(&mut Value)) -> String {
        let pod = self.host_pod(|_| {});
        let id = self.started(&pod, script, change);
        self.wait(&id);
        let log = self.log(&id);
        assert_eq!(self.status(&id)["exit_code"], Value::Null, "{log}");
        log
    }

    fn status(&self, id: &str) -> Value {
        self.client.call("ContainerStatus", &json!({"container_id": id}))["status"].clone()
    }

    /// The pid of a container's first process.
    fn pid(&self, id: &str) -> i64 {
        let verbose = self.client.call("ContainerStatus", &json!({"container_id": id, "verbose": true}));
        let info: Value = serde_json::from_str(verbose["info"]["info"].as_str().unwrap()).unwrap();
        info["pid"].as_i64().unwrap()
    }

    /// Waits until a container has ended.
    #[track_caller]
    fn wait(&self, id: &str) {
        eventually(|| self.status(id)["state"] == EXITED);
    }

    /// What a container has written: the last words of each line of its log (time, stream, flag, text).
    fn log(&self, id: &str) -> String {
        let number = fs::read_to_string(self.dir.join("files").join(id)).unwrap();
        let text = fs::read_to_string(self.dir.join(format!("logs/{number}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
        lines.join("\n")
    }

    /// `ExecSync` of `script`.
    #[track_caller]
    fn exec(&self, id: &str, script: &str) -> Output {
        let request = json!({"container_id": id, "cmd": ["sh", "-c", script], "timeout": 20});
        let response = self.client.call("ExecSync", &request);
        let text = |name: &str| response[name].as_str().unwrap_or_default().trim().to_owned();
        Output {
            code: response["exit_code"].as_i64().unwrap_or(0) as i32,
            stdout: text("stdout"),
            stderr: text("stderr"),
        }
    }
}
