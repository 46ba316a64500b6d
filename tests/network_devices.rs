//! `linux.netDevices`. Every test has a host of its own: a network namespace in which the runtime runs.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Guard, Lab, Output, host, output};
use serde_json::{Value, json};
use std::process::Command;

/// A [`Lab`] on a machine where devices can be made, or the end of the test.
macro_rules! network_lab {
    () => {{
        let lab = lab!();
        if !can_make_devices() {
            skip!("needs ip(8) and network devices of type veth");
        }
        lab
    }};
}

fn can_make_devices() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--net", "ip", "link", "add", "name", "a", "type", "veth", "peer", "name", "b"]);
    output(command).code == 0
}

/// A bundle that prints `show` of the devices `devices`.
fn bundle(lab: &Lab, script: &str, devices: Value, change: impl FnOnce(&mut Value)) -> Bundle {
    lab.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["linux"]["netDevices"] = devices;
        change(config);
    })
}

/// Runs the container on a host on which `before` has been run; `after` sees what is left of that host.
fn on_host(lab: &Lab, bundle: &Bundle, before: &str, after: &str) -> Output {
    let script = format!("{before}\n\"$@\"; code=$?; {{ {after}\n}} >&2; exit $code");
    let run = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script, "sh"]).arg(run.get_program()).args(run.get_args());
    output(command)
}

/// What a case changes of a configuration.
type Change = fn(&mut Value);

/// Of busybox's ip the other end gets a name of the kernel's.
const PAIR: &str = "ip link add eth7 type veth peer name peer7
    ip link show dev peer7 >/dev/null 2>&1 || ip link set veth0 name peer7";

#[test]
fn a_device_comes_with_its_addresses_and_is_up() {
    let lab = network_lab!();
    let bundle = bundle(&lab, "ip addr show dev eth7", json!({"eth7": {}}), |_| {});
    let mut before = format!(
        "{PAIR}\nip link set eth7 address 00:11:22:33:44:55 mtu 1789\nip link set peer7 up\n\
         ip addr add 192.0.2.7/24 dev eth7\nip addr add 192.0.2.8/24 dev eth7\n\
         ip addr add 192.0.2.9 peer 192.0.2.10 dev eth7\nip addr add 169.254.7.7/16 scope link dev eth7"
    );
    let mut expected = vec!["inet 192.0.2.7/24", "inet 192.0.2.8/24", "192.0.2.9 peer 192.0.2.10", "mtu 1789"];
    if common::has_ipv6() {
        before += "\nip addr add 2001:db8::7/64 dev eth7\n\
                   ip addr add 2001:db8::8/64 dev eth7 valid_lft 1000 preferred_lft 1000";
        expected.push("inet6 2001:db8::7/64");
    }
    let Output { code, stdout, stderr } = on_host(&lab, &bundle, &before, "ip -o link show");
    assert_eq!(code, 0, "{stderr}");
    for wanted in expected {
        assert!(stdout.contains(wanted), "{wanted}: {stdout}");
    }
    assert!(stdout.contains("00:11:22:33:44:55") && stdout.contains(",UP"), "{stdout}");
    // Of another scope, and not for ever.
    assert!(!stdout.contains("169.254.7.7") && !stdout.contains("2001:db8::8"), "{stdout}");
    // A virtual device ends with the namespace that it is in.
    assert!(!stderr.contains("eth7"), "{stderr}");
}

#[test]
fn a_device_gets_a_new_name() {
    let lab = network_lab!();
    let bundle = bundle(&lab, "ip -o addr show dev inside; ip -o link", json!({"eth7": {"name": "inside"}}), |_| {});
    let stdout = on_host(&lab, &bundle, &format!("{PAIR}\nip addr add 192.0.2.7/24 dev eth7"), ":").ok();
    assert!(stdout.contains("192.0.2.7/24") && !stdout.contains("eth7"), "{stdout}");
}

#[test]
fn a_name_may_be_a_template() {
    let lab = network_lab!();
    let bundle = bundle(&lab, "ip -o link", json!({"eth7": {"name": "net%d"}, "peer7": {"name": "net%d"}}), |_| {});
    let stdout = on_host(&lab, &bundle, PAIR, ":").ok();
    assert_eq!(stdout.matches(": net").count(), 2, "{stdout}");
    assert_eq!(stdout.matches(",UP").count(), 3, "{stdout}");
}

#[test]
fn hooks_find_the_device_and_may_look_for_it() {
    let lab = network_lab!();
    let out = lab.path("hook");
    let script = format!(
        "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); nsenter -t $pid -n ip -o link > {}",
        out.to_str().unwrap()
    );
    let bundle = bundle(&lab, "true", json!({"eth7": {}}), |config| {
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]});
    });
    on_host(&lab, &bundle, PAIR, ":").ok();
    let seen = std::fs::read_to_string(out).unwrap();
    assert!(seen.contains("eth7"), "{seen}");
}

#[test]
fn a_user_namespace_changes_nothing() {
    let lab = network_lab!();
    let bundle = bundle(&lab, "ip -o addr show dev inside", json!({"eth7": {"name": "inside"}}), |config| {
        common::push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
        for field in ["uidMappings", "gidMappings"] {
            config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        }
    });
    let stdout = on_host(&lab, &bundle, &format!("{PAIR}\nip addr add 192.0.2.7/24 dev eth7"), ":").ok();
    assert!(stdout.contains("192.0.2.7/24"), "{stdout}");
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let lab = network_lab!();
    let bundle = bundle(&lab, "true", json!({"eth7": {}}), |_| {});
    let stderr = on_host(&lab, &bundle, ":", ":").failed().replace('\\', "");
    assert!(stderr.contains("config.json: linux.netDevices[\"eth7\"]: link not found for interface eth7"), "{stderr}");
    assert_eq!(lab.microrun(&["list", "-q"]).ok(), "");
}

/// A network namespace in which somebody sleeps.
struct Sleeper(Guard);

impl Sleeper {
    fn new() -> Self {
        let child = Guard(Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap());
        let namespace = format!("/proc/{}/ns/net", child.id());
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        common::eventually(|| std::fs::read_link(&namespace).is_ok_and(|link| link != own));
        Self(child)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn ip(&self, words: &str) -> String {
        let pid = self.0.id().to_string();
        let mut args = vec!["-t", &pid, "-n", "ip"];
        args.extend(words.split(' '));
        host("nsenter", &args)
    }
}

/// Has the container join `namespace`.
fn join(config: &mut Value, namespace: &str) {
    for listed in config["linux"]["namespaces"].as_array_mut().unwrap() {
        if listed["type"] == "network" {
            listed["path"] = json!(namespace);
        }
    }
}

#[test]
fn a_device_stays_in_a_namespace_that_was_joined() {
    let lab = network_lab!();
    let other = Sleeper::new();
    let bundle = bundle(&lab, "ip -o link", json!({"eth7": {"name": "inside"}}), |config| join(config, &other.path()));
    // With the host goes the other end of the pair, and the device with that.
    let after = format!("nsenter --net={} ip -o addr show dev inside", other.path());
    let ran = on_host(&lab, &bundle, &format!("{PAIR}\nip addr add 192.0.2.7/24 dev eth7"), &after);
    assert!(ran.code == 0 && ran.stdout.contains("inside"), "{ran:?}");
    assert!(ran.stderr.contains("192.0.2.7/24"), "{ran:?}");
}

#[test]
fn a_name_that_is_taken_leaves_the_host_as_it_was() {
    let lab = network_lab!();
    let other = Sleeper::new();
    other.ip("link add taken type veth peer name other");
    // The kernel finds fault with the second name once the device is there.
    for (name, problem) in [("taken", "choose another"), ("a%b", "invalid argument")] {
        let devices = json!({"eth7": {}, "peer7": {"name": name}});
        let bundle = bundle(&lab, "true", devices, |config| join(config, &other.path()));
        let before = format!("{PAIR}\nip addr add 192.0.2.7/24 dev eth7\nip link set eth7 up");
        let after = "ip -o addr show dev eth7; ip -o link show up; ip -o link";
        let stderr = on_host(&lab, &bundle, &before, after).failed().replace('\\', "");
        assert!(
            stderr.contains(&format!(
                "linux.netDevices[\"peer7\"]: move network device peer7 to the container as {name}"
            )),
            "{stderr}"
        );
        assert!(stderr.contains(problem), "{stderr}");
        assert!(stderr.contains("192.0.2.7/24") && stderr.contains(": peer7") && stderr.contains(",UP"), "{stderr}");
        assert_eq!(lab.microrun(&["list", "-q"]).ok(), "");
    }
}

#[test]
fn a_container_that_fails_later_leaves_the_host_as_it_was() {
    let lab = network_lab!();
    let kinds: [(&str, Change); 2] = [
        ("/no/such/program", |config| config["process"]["args"] = json!(["/no/such/program"])),
        ("createContainer hook #0", |config| {
            config["hooks"] = json!({"createContainer": [{"path": "/bin/false"}]});
        }),
    ];
    for (problem, change) in kinds {
        let bundle = bundle(&lab, "true", json!({"eth7": {"name": "inside"}}), change);
        let before = format!("{PAIR}\nip link set eth7 up\nip addr add 192.0.2.7/24 dev eth7");
        let stderr = on_host(&lab, &bundle, &before, "ip -o addr; ip -o link show dev eth7").failed();
        assert!(stderr.contains(problem) && stderr.contains("192.0.2.7/24"), "{stderr}");
        assert!(stderr.contains(": eth7") && stderr.contains(",UP"), "{stderr}");
    }
}

#[test]
fn the_runtimes_own_namespace_is_refused() {
    let lab = network_lab!();
    let bundle = bundle(&lab, "true", json!({"eth7": {"name": "inside"}}), |config| {
        join(config, "/proc/thread-self/ns/net");
    });
    let stderr = on_host(&lab, &bundle, PAIR, "ip -o link").failed();
    assert!(stderr.contains("linux.netDevices: the network namespace that is joined is the runtime's own"), "{stderr}");
    assert!(stderr.contains("eth7"), "{stderr}");
}
