//! Messages of the CRI as JSON and in protobuf's wire format: what the cases use of k8s.io/cri-api, runtime/v1/api.proto.

use serde_json::{Map, Value, json};

/// Messages, and of each its fields: name, number, and what it holds. `int` is any number, enumeration or boolean, `text` a string
/// or bytes, `map` one from text to text; `*` stands before what there may be many of.
const MESSAGES: &str = "
    VersionRequest: version 1 text
    VersionResponse: runtime_name 2 text, runtime_version 3 text
    StatusRequest: verbose 1 int
    StatusResponse: status 1 RuntimeStatus, runtime_handlers 3 *RuntimeHandler
    RuntimeStatus: conditions 1 *RuntimeCondition
    RuntimeCondition: type 1 text, status 2 int, reason 3 text, message 4 text
    RuntimeHandler: name 1 text, features 2 RuntimeHandlerFeatures
    RuntimeHandlerFeatures: recursive_read_only_mounts 1 int, user_namespaces 2 int
    RunPodSandboxRequest: config 1 PodSandboxConfig, runtime_handler 2 text
    RunPodSandboxResponse: pod_sandbox_id 1 text
    PodSandboxConfig: metadata 1 PodSandboxMetadata, hostname 2 text, log_directory 3 text, labels 6 map, annotations 7 map, linux 8 LinuxPodSandboxConfig
    PodSandboxMetadata: name 1 text, uid 2 text, namespace 3 text, attempt 4 int
    LinuxPodSandboxConfig: cgroup_parent 1 text, security_context 2 LinuxSandboxSecurityContext, sysctls 3 map
    LinuxSandboxSecurityContext: namespace_options 1 NamespaceOption, run_as_user 3 Number, privileged 6 int, seccomp 9 SecurityProfile
    NamespaceOption: network 1 int, pid 2 int, ipc 3 int, target_id 4 text, userns_options 5 UserNamespace
    UserNamespace: mode 1 int, uids 2 *IdMapping, gids 3 *IdMapping
    IdMapping: host_id 1 int, container_id 2 int, length 3 int
    Number: value 1 int
    SecurityProfile: profile_type 1 int, localhost_ref 2 text
    StopPodSandboxRequest: pod_sandbox_id 1 text
    StopPodSandboxResponse:
    RemovePodSandboxRequest: pod_sandbox_id 1 text
    RemovePodSandboxResponse:
    PodSandboxStatusRequest: pod_sandbox_id 1 text
    PodSandboxStatusResponse: status 1 PodSandboxStatus
    PodSandboxStatus: id 1 text, state 3 int, network 5 PodSandboxNetworkStatus
    PodSandboxNetworkStatus: ip 1 text
    ListPodSandboxRequest:
    ListPodSandboxResponse: items 1 *PodSandbox
    PodSandbox: id 1 text, state 3 int
    CreateContainerRequest: pod_sandbox_id 1 text, config 2 ContainerConfig, sandbox_config 3 PodSandboxConfig
    CreateContainerResponse: container_id 1 text
    ContainerConfig: metadata 1 ContainerMetadata, image 2 ImageSpec, command 3 *text, args 4 *text, working_dir 5 text, envs 6 *KeyValue, mounts 7 *Mount, devices 8 *Device, log_path 11 text, stdin 12 int, stdin_once 13 int, tty 14 int, linux 15 LinuxContainerConfig
    ContainerMetadata: name 1 text, attempt 2 int
    ImageSpec: image 1 text
    KeyValue: key 1 text, value 2 text
    Mount: container_path 1 text, host_path 2 text, readonly 3 int, propagation 5 int, recursive_read_only 8 int
    Device: container_path 1 text, host_path 2 text, permissions 3 text
    LinuxContainerConfig: resources 1 LinuxContainerResources, security_context 2 LinuxContainerSecurityContext
    LinuxContainerResources: cpu_period 1 int, cpu_quota 2 int, cpu_shares 3 int, memory_limit_in_bytes 4 int, oom_score_adj 5 int, cpuset_cpus 6 text
    LinuxContainerSecurityContext: capabilities 1 Capability, privileged 2 int, namespace_options 3 NamespaceOption, run_as_user 5 Number, run_as_username 6 text, readonly_rootfs 7 int, supplemental_groups 8 *int, no_new_privs 11 int, run_as_group 12 Number, masked_paths 13 *text, readonly_paths 14 *text, seccomp 15 SecurityProfile
    Capability: add_capabilities 1 *text, drop_capabilities 2 *text
    StartContainerRequest: container_id 1 text
    StartContainerResponse:
    StopContainerRequest: container_id 1 text, timeout 2 int
    StopContainerResponse:
    RemoveContainerRequest: container_id 1 text
    RemoveContainerResponse:
    ContainerStatusRequest: container_id 1 text, verbose 2 int
    ContainerStatusResponse: status 1 ContainerStatus, info 2 map
    ContainerStatus: id 1 text, state 3 int, exit_code 7 int, reason 10 text, message 11 text
    ListContainersRequest:
    ListContainersResponse: containers 1 *Container
    Container: id 1 text, pod_sandbox_id 2 text, state 6 int
    ExecSyncRequest: container_id 1 text, cmd 2 *text, timeout 3 int
    ExecSyncResponse: stdout 1 text, stderr 2 text, exit_code 3 int
    ExecRequest: container_id 1 text, cmd 2 *text, tty 3 int, stdin 4 int, stdout 5 int, stderr 6 int
    ExecResponse: url 1 text
    AttachRequest: container_id 1 text, stdin 2 int, tty 3 int, stdout 4 int, stderr 5 int
    AttachResponse: url 1 text
    PortForwardRequest: pod_sandbox_id 1 text, port 2 *int
    PortForwardResponse: url 1 text
    ContainerStatsRequest: container_id 1 text
    ContainerStatsResponse: stats 1 ContainerStats
    ContainerStats: cpu 2 CpuUsage, memory 3 MemoryUsage
    CpuUsage: usage_core_nano_seconds 2 Number
    MemoryUsage: working_set_bytes 2 Number
    UpdateContainerResourcesRequest: container_id 1 text, linux 2 LinuxContainerResources
    UpdateContainerResourcesResponse:
";

/// What a map is made of.
const MAP_ENTRY: &str = "key 1 text, value 2 text";

/// A field of a message.
struct Field {
    name: &'static str,
    number: u64,
    repeated: bool,
    kind: &'static str,
}

fn fields(message: &str) -> Vec<Field> {
    let list = if message == "map" {
        MAP_ENTRY
    } else {
        let line = MESSAGES.lines().find_map(|line| line.trim().strip_prefix(message)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no message {message}")).trim()
    };
    let parse = |text: &'static str| {
        let words: Vec<&'static str> = text.split_whitespace().collect();
        let kind = words[2].strip_prefix('*').unwrap_or(words[2]);
        Field { name: words[0], number: words[1].parse().unwrap(), repeated: kind != words[2], kind }
    };
    list.split(", ").filter(|text| !text.is_empty()).map(parse).collect()
}

/// The bytes of a message.
pub fn encode(message: &str, value: &Value) -> Vec<u8> {
    let fields = fields(message);
    let mut bytes = Vec::new();
    for (name, value) in value.as_object().unwrap_or(&Map::new()) {
        let field = fields.iter().find(|field| field.name == name).unwrap_or_else(|| panic!("{message} has no {name}"));
        match (field.kind, value) {
            ("map", Value::Object(entries)) => {
                for (key, value) in entries {
                    put(&mut bytes, field, &json!({"key": key, "value": value}));
                }
            }
            (_, Value::Array(items)) if field.repeated => items.iter().for_each(|item| put(&mut bytes, field, item)),
            _ => put(&mut bytes, field, value),
        }
    }
    bytes
}

fn put(bytes: &mut Vec<u8>, field: &Field, value: &Value) {
    if field.kind == "int" {
        let number = value.as_i64().or_else(|| value.as_bool().map(i64::from)).unwrap();
        varint(bytes, field.number << 3);
        varint(bytes, number.cast_unsigned());
        return;
    }
    let inner = match field.kind {
        "text" => value.as_str().unwrap().as_bytes().to_vec(),
        message => encode(message, value),
    };
    varint(bytes, field.number << 3 | 2);
    varint(bytes, inner.len() as u64);
    bytes.extend(inner);
}

fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A message from its bytes. What is not in [`MESSAGES`] is left out, and so is, by protobuf's rules, what is zero or empty.
pub fn decode(message: &str, mut bytes: &[u8]) -> Value {
    let fields = fields(message);
    let mut found = Map::new();
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes);
        let field = fields.iter().find(|field| field.number == tag >> 3);
        let value = match (tag & 7, field) {
            (0, _) => json!(take_varint(&mut bytes).cast_signed()),
            (2, field) => {
                let length = take_varint(&mut bytes) as usize;
                let inner = take(&mut bytes, length);
                match field.map(|field| field.kind) {
                    None => Value::Null,
                    Some("text") => json!(String::from_utf8_lossy(inner)),
                    Some(kind) => decode(kind, inner),
                }
            }
            (wire @ (1 | 5), _) => {
                take(&mut bytes, if wire == 1 { 8 } else { 4 });
                continue;
            }
            (wire, _) => panic!("wire type {wire}"),
        };
        let Some(field) = field else { continue };
        match (field.kind, field.repeated) {
            ("map", _) => {
                let entry = found.entry(field.name).or_insert_with(|| json!({}));
                entry[value["key"].as_str().unwrap_or_default()] = value["value"].clone();
            }
            (_, true) => found.entry(field.name).or_insert_with(|| json!([])).as_array_mut().unwrap().push(value),
            _ => drop(found.insert(field.name.to_owned(), value)),
        }
    }
    Value::Object(found)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

fn take_varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    number
}
