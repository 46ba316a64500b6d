//! Cold starts with parts that a pool has made ahead: a network namespace, a cgroup. They are new, they are lent once, and nothing
//! of them is left whoever ends first.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::pool::{LOOK, Pool};
use common::{Bundle, all_at_once, eventually, has_ipv6, hierarchies, host, in_network_of, push};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// What the pool says of its parts.
fn parts(pool: &Pool) -> Value {
    pool.status()["parts"].clone()
}

/// Waits until all parts are there and nobody has any.
#[track_caller]
fn await_parts(pool: &Pool, networks: u64, cgroups: u64) {
    eventually(|| {
        let parts = parts(pool);
        let number = |name: &str| parts[name].as_u64().unwrap();
        number("networks") == networks && number("cgroups") == cgroups && number("lent") == 0
    });
}

/// A bundle of which a pool with `count` parts has no sandboxes.
#[track_caller]
fn known(pool: &Pool, count: u64, script: &str, change: impl FnOnce(&mut Value)) -> Bundle {
    let bundle = pool.filled(0, script, change);
    await_parts(pool, count, count);
    bundle
}

/// `run BUNDLE/`, as the program asks before it begins.
fn run(pool: &Pool, bundle: &Bundle) -> common::Output {
    pool.microrun(&["run", &bundle.operand()])
}

/// The names of the cgroups that the pool would have to remove.
fn cgroups(pool: &Pool) -> BTreeSet<String> {
    let listed = fs::read_dir(pool.lab.path("pool/parts")).unwrap().flatten();
    listed.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// The directories of the cgroups `names`, as far as they are there.
fn directories<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<PathBuf> {
    let hierarchies = hierarchies();
    let all = names.into_iter().flat_map(|name| hierarchies.iter().map(move |hierarchy| hierarchy.join(name)));
    all.filter(|path| path.exists()).collect()
}

/// Prints the network namespace and the v2 cgroup, from outside: the container has a cgroup namespace.
fn place_of(pid: &str) -> (String, String) {
    let network = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap().display().to_string();
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = lines.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
    (network, own)
}

/// Starts a detached container in one of the ways; its init.
fn started(pool: &Pool, bundle: &Bundle, id: &str, way: &str) -> String {
    let (path, file) = (bundle.path.to_str().unwrap(), bundle.path.join("pid"));
    let options = ["--bundle", path, "--pid-file", file.to_str().unwrap()];
    let args = match way {
        "create" => [&["create"], &options[..], &[id]].concat(),
        _ => [&["run", "-d"], &options[..], &[id]].concat(),
    };
    let mut command = pool.command(&args);
    let done = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(done.success(), "{way}");
    fs::read_to_string(file).unwrap()
}

#[test]
fn every_way_to_start_takes_them() {
    let pool = pool!("--parts", "2");
    let bundle = known(&pool, 2, "sleep 1000", |_| {});
    for way in ["create", "run"] {
        let (networks, cgroups, id, pid) = pool.lending(|attempt| {
            await_parts(&pool, 2, 2);
            let id = format!("{}-{way}{attempt}", bundle.id);
            (pool.networks(), cgroups(&pool), id.clone(), started(&pool, &bundle, &id, way))
        });
        let (network, cgroup) = place_of(&pid);
        assert!(networks.contains(&network), "{way}: {network}, {networks:?}");
        assert!(cgroups.contains(&cgroup), "{way}: {cgroup}, {cgroups:?}");
        if way == "create" {
            pool.microrun(&["start", &id]).ok();
        }
        assert_eq!(pool.microrun(&["exec", &id, "cat", "/sys/class/net/lo/flags"]).ok(), "0x9");
        await_parts(&pool, 2, 2);
        // It is a container's now, not the pool's.
        assert!(!self::cgroups(&pool).contains(&cgroup));
        assert!(directories([&cgroup]).iter().all(|path| path.exists()));
        pool.microrun(&["delete", "--force", &id]).ok();
        assert_eq!(directories([&cgroup]), Vec::<PathBuf>::new());
    }
    assert_eq!(parts(&pool)["served"], 2);
}

#[test]
fn a_program_that_asks_before_it_begins_gets_them() {
    let pool = pool!("--parts", "2");
    let bundle = known(&pool, 2, "readlink /proc/self/ns/net; cat /sys/class/net/lo/flags", |_| {});
    for count in 1..4 {
        let (networks, cgroups, told) = pool.lending(|_| {
            await_parts(&pool, 2, 2);
            (pool.networks(), cgroups(&pool), run(&pool, &bundle).ok())
        });
        let (network, flags) = told.split_once('\n').unwrap();
        assert!(networks.contains(network), "{network}, {networks:?}");
        assert_eq!(flags, "0x9");
        await_parts(&pool, 2, 2);
        assert_eq!(parts(&pool)["served"], count);
        let gone = cgroups.difference(&self::cgroups(&pool)).cloned().collect::<Vec<_>>();
        assert_eq!((gone.len(), directories(&gone)), (1, Vec::new()));
    }
    // As it is said that no pool is to be asked.
    pool.microrun(&["run", "--pool=off", &bundle.operand()]).ok();
    let told = pool.microrun(&["run", "--pool=require", &bundle.operand()]).failed();
    assert!(told.contains("no part is ready"), "{told}");
    assert_eq!(parts(&pool)["served"], 3);
}

/// Every way to start a bundle that the pool has not heard of, with a cgroup of its own choice.
#[test]
fn any_bundle_gets_a_network() {
    let pool = pool!("--parts", "2", "--reuse-netns");
    let bundle = pool.lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    for way in ["create", "run"] {
        let (networks, id, pid) = pool.lending(|attempt| {
            pool.await_networks(2);
            let id = format!("{}-{way}{attempt}", bundle.id);
            (pool.networks(), id.clone(), started(&pool, &bundle, &id, way))
        });
        let (network, _) = place_of(&pid);
        assert!(networks.contains(&network), "{way}: {network}, {networks:?}");
        if way == "create" {
            pool.microrun(&["start", &id]).ok();
        }
        assert_eq!(pool.microrun(&["exec", &id, "cat", "/sys/class/net/lo/flags"]).ok(), "0x9");
        pool.microrun(&["delete", "--force", &id]).ok();
    }
    // As it asks before it begins, and with an option for which no pool has anything else.
    let script = "readlink /proc/self/ns/net; cat /sys/class/net/lo/flags";
    let bundle = pool.lab.bundle(|config| config["process"]["args"] = json!(["sh", "-c", script]));
    let path = bundle.operand();
    for args in [&["run", path.as_str()][..], &["run", "--no-new-keyring", &path]] {
        let (networks, told) = pool.lending(|_| {
            pool.await_networks(2);
            (pool.networks(), pool.microrun(args).ok())
        });
        let (network, flags) = told.split_once('\n').unwrap();
        assert!(networks.contains(network), "{network}, {networks:?}");
        assert_eq!(flags, "0x9");
    }
    let told = parts(&pool);
    assert_eq!((&told["served"], &told["reused"], &told["cgroups"]), (&json!(4), &json!(0), &json!(0)), "{told}");
    assert!(cgroups(&pool).is_empty());
}

/// Nothing is taken from the pool by who has no use for it, or says that it is not to be asked.
#[test]
fn who_takes_no_network_is_not_lent_one() {
    let pool = pool!("--parts", "1");
    pool.await_networks(1);
    let run = |change: &dyn Fn(&mut Value), options: &[&str]| {
        let bundle = pool.lab.bundle(|config| {
            config["process"]["args"] = json!(["readlink", "/proc/self/ns/net"]);
            change(config);
        });
        let path = bundle.operand();
        let args = [&["run"], options, &[&path]].concat();
        let networks = pool.networks();
        let found = pool.microrun(&args).ok();
        assert!(!networks.contains(&found), "{found}, {networks:?}");
        pool.await_networks(1);
    };
    run(&|_| {}, &["--pool=off"]);
    let network = |config: &mut Value, change: &dyn Fn(&mut Vec<Value>, usize)| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        let place = namespaces.iter().position(|namespace| namespace["type"] == "network").unwrap();
        change(namespaces, place);
    };
    run(&|config| network(config, &|all, place| drop(all.remove(place))), &[]);
    run(&|config| network(config, &|all, place| all[place]["path"] = json!("/proc/self/ns/net")), &[]);
    run(
        &|config| {
            push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
            config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
            config["linux"]["gidMappings"] = config["linux"]["uidMappings"].clone();
        },
        &[],
    );
    assert_eq!(parts(&pool)["served"], 0);
}

/// What the configurations of these tests limit, on any machine.
fn with_limits(config: &mut Value) {
    let resources = json!({
        "memory": {"limit": 256 << 20}, "pids": {"limit": 77}, "cpu": {"shares": 512},
        "devices": [{"allow": false, "access": "rwm"}]
    });
    config["linux"]["resources"] = resources;
}

/// The files of the cgroups of a process, by hierarchy and name, but for what counts what it does.
fn cgroup_files(pid: &str) -> BTreeMap<String, String> {
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let mut files = BTreeMap::new();
    for hierarchy in hierarchies() {
        let kinds = hierarchy.file_name().unwrap().to_str().unwrap().to_owned();
        let is_unified = hierarchy.join("cgroup.controllers").exists();
        let is_of = |line: &&str| line.split(':').nth(1) == Some(if is_unified { "" } else { &kinds });
        let Some(line) = lines.lines().find(is_of) else { continue };
        let place = line.splitn(3, ':').nth(2).unwrap().trim_start_matches('/');
        if place.is_empty() {
            continue;
        }
        for entry in fs::read_dir(hierarchy.join(place)).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            // What the same program uses is not the same each time.
            let counts = ["usage", "stat", "pressure", "cgroup.procs", "cgroup.threads", "tasks", "peak", "current"];
            if let Ok(text) = fs::read_to_string(entry.path())
                && !counts.iter().any(|count| name.contains(count))
            {
                files.insert(format!("{kinds}/{name}"), text);
            }
        }
    }
    files
}

#[test]
fn a_cgroup_is_as_a_cold_start_makes_it() {
    let pool = pool!("--parts", "2");
    let bundle = known(&pool, 2, "sleep 1000", with_limits);
    let start = |id: &str| {
        let mut command = pool.command(&["run", "-d", "--pid-file"]);
        let file = bundle.path.join("pid");
        command.arg(&file).args(["--bundle", bundle.path.to_str().unwrap()]);
        command.args((id == "cold").then_some("--pool=off")).arg(format!("{}-{id}", bundle.id));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success());
        cgroup_files(fs::read_to_string(file).unwrap().trim())
    };
    let lent = pool.lending(|attempt| {
        if attempt > 0 {
            pool.microrun(&["delete", "--force", &format!("{}-lent", bundle.id)]).ok();
        }
        await_parts(&pool, 2, 2);
        start("lent")
    });
    let found = [lent, start("cold")];
    assert_eq!(parts(&pool)["served"], 1);
    for (name, text) in &found[1] {
        assert_eq!(found[0].get(name), Some(text), "{name}");
    }
    assert_eq!(found[0].len(), found[1].len());
    assert!(found[0].values().any(|text| text.trim() == "77"), "{:?}", found[0].keys());
    for id in ["lent", "cold"] {
        let id = format!("{}-{id}", bundle.id);
        // The device rules are in force.
        let node = "mknod /dev/x b 7 0 && head -c 0 /dev/x";
        assert!(pool.microrun(&["exec", &id, "sh", "-c", node]).failed().contains("not permitted"));
        pool.microrun(&["delete", "--force", &id]).ok();
    }
}

#[test]
fn a_network_is_as_a_cold_start_makes_it() {
    let pool = pool!("--parts", "1");
    let script = "ip addr; ip route show table all; ip rule; ip neigh; \
                  for file in /proc/net/*; do [ -f $file ] && echo $file && look $file; done; \
                  find /proc/sys/net -type f | sort | while read file; do echo $file $(cat $file 2>&1); done";
    let bundle = known(&pool, 1, &format!("{LOOK}{script}"), |config| {
        let capabilities = json!(["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = capabilities.clone();
        }
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    });
    // Names of inodes, addresses in memory and the time differ from one namespace to the next anyway.
    let path = bundle.operand();
    let keep = |text: String| {
        let differ = |line: &&str| {
            let file_or_socket = line.contains(" 00000000") || line.contains("0000000000000000:");
            !file_or_socket && !line.contains("sockets") && !line.contains("stat/") && !line.contains("random")
        };
        text.lines().filter(differ).map(str::to_owned).collect::<Vec<_>>()
    };
    let lent = pool.lending(|_| {
        await_parts(&pool, 1, 1);
        keep(run(&pool, &bundle).ok())
    });
    let cold = keep(pool.microrun(&["run", "--pool=off", &path]).ok());
    assert_eq!(parts(&pool)["served"], 1);
    assert!(lent.len() > 300 && lent.iter().any(|line| line.ends_with("ip_forward 1")), "{}", lent.len());
    let differ: Vec<_> = lent.iter().zip(&cold).filter(|(lent, cold)| lent != cold).collect();
    assert!(differ.is_empty() && lent.len() == cold.len(), "{differ:#?}");
}

#[test]
fn what_no_sandbox_can_be_made_of_takes_parts() {
    let pool = pool!("--parts", "1");
    let marker = pool.lab.path("marker");
    let hooked = known(&pool, 1, "echo hello", |config| {
        let hook = json!({"path": "/bin/touch", "args": ["touch", marker.to_str().unwrap()]});
        config["hooks"] = json!({"createRuntime": [hook]});
    });
    let told = pool.lending(|_| {
        await_parts(&pool, 1, 1);
        run(&pool, &hooked).ok()
    });
    assert_eq!(told, "hello");
    assert!(marker.exists());
    assert_eq!(parts(&pool)["served"], 1);
    // Its own cgroup, and the network namespace of its own user namespace: nothing.
    let own = pool.lab.bundle(|config| {
        config["process"]["args"] = json!(["readlink", "/proc/self/ns/net"]);
        push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
        config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        config["linux"]["gidMappings"] = config["linux"]["uidMappings"].clone();
    });
    pool.microrun(&["pool", "fill", "--size", "0", own.path.to_str().unwrap()]).ok();
    await_parts(&pool, 1, 1);
    let networks = pool.networks();
    let found = run(&pool, &own).ok();
    assert!(!networks.contains(&found), "{found}");
    assert_eq!(parts(&pool)["served"], 1);
}

#[test]
fn what_has_changed_takes_nothing_of_before() {
    let pool = pool!("--parts", "2");
    let bundle = known(&pool, 2, "sleep 1000", with_limits);
    let before = cgroups(&pool);
    let file = bundle.path.join("config.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(":77", ":78")).unwrap();
    let limit = || {
        let id = format!("{}-new", bundle.id);
        let pid = started(&pool, &bundle, &id, "run");
        let files = cgroup_files(&pid);
        let is_limit = |(name, _): &(&String, &String)| name.ends_with("pids.max");
        let found = files.iter().find(is_limit).unwrap().1.trim().to_owned();
        pool.microrun(&["delete", "--force", &id]).ok();
        assert_eq!(found, "78");
    };
    pool.lending(|_| limit());
    eventually(|| before.is_disjoint(&cgroups(&pool)) && directories(&before).is_empty());
    pool.lending(|_| {
        await_parts(&pool, 2, 2);
        limit();
    });
    // A network namespace is of use for any configuration.
    assert_eq!(parts(&pool)["served"], 2);
}

#[test]
fn nothing_is_lent_twice() {
    let pool = pool!("--parts", "6");
    let script = "readlink /proc/self/ns/net; while [ -e /mnt/wait ]; do sleep 0.05; done";
    let bundle = known(&pool, 6, script, |_| {});
    let wait = bundle.path.join("rootfs/mnt/wait");
    fs::write(&wait, "").unwrap();
    let path = bundle.operand();
    let lent = pool.networks();
    let mut running: Vec<_> = (0..12)
        .map(|_| pool.command(&["run", &path]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    // Each stays in its own until all have said which that is.
    let found = running.iter_mut().map(|one| {
        let mut line = String::new();
        BufReader::new(one.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim().to_owned()
    });
    let found: Vec<_> = found.collect();
    fs::remove_file(&wait).unwrap();
    assert!(running.iter_mut().all(|one| one.wait().unwrap().success()));
    let distinct: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(distinct.len(), 12, "{found:?}");
    await_parts(&pool, 6, 6);
    let told = parts(&pool);
    // Who has not waited for the answer is not counted, and of what he was to get nothing is lent again.
    let answered = told["served"].as_u64().unwrap() + told["missed"].as_u64().unwrap();
    let lost = lent.difference(&distinct).count() as u64;
    assert!(answered <= 12 && lost <= 12 - answered, "{told} {lent:?} {found:?}");
}

#[test]
fn a_killed_command_leaves_nothing() {
    let pool = pool!("--parts", "4");
    let bundle = known(&pool, 4, "sleep 1000", |_| {});
    let path = bundle.operand();
    let mut seen = cgroups(&pool);
    for round in 0..40 {
        let mut command = pool.command(&["run", &path]);
        let mut one = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(1000 + 150 * round));
        one.kill().unwrap();
        one.wait().unwrap();
        seen.extend(cgroups(&pool));
        for id in pool.microrun(&["list", "-q"]).ok().lines() {
            pool.microrun(&["delete", "--force", id]).ok();
        }
    }
    await_parts(&pool, 4, 4);
    let held = cgroups(&pool);
    let left = directories(seen.difference(&held));
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(held.len(), 4);
}

#[test]
fn a_killed_pool_leaves_what_runs_and_the_next_removes_the_rest() {
    let mut pool = pool!("--parts", "4");
    let bundle = known(&pool, 4, "sleep 1000", |_| {});
    let before = cgroups(&pool);
    let id = format!("{}-goes-on", bundle.id);
    let (network, cgroup) = place_of(&started(&pool, &bundle, &id, "run"));
    await_parts(&pool, 4, 4);
    // One whose command is there when the pool is killed: the record says that it is the pool's.
    let path = bundle.operand();
    let mut waits = pool.command(&["run", &path]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    eventually(|| pool.microrun(&["list", "-q"]).ok().lines().count() == 2);
    let left = cgroups(&pool);
    pool.kill();
    pool.restart();
    assert_eq!(cgroups(&pool), BTreeSet::new());
    let listed = pool.microrun(&["list", "-q"]).ok();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    for one in listed.lines() {
        assert_eq!(pool.microrun(&["exec", one, "echo", "inside"]).ok(), "inside");
    }
    assert!(before.contains(&cgroup));
    assert_eq!(pool.microrun(&["exec", &id, "readlink", "/proc/self/ns/net"]).ok(), network);
    for one in listed.lines() {
        pool.microrun(&["delete", "--force", one]).ok();
    }
    waits.wait().unwrap();
    let there = directories(before.union(&left));
    assert!(there.is_empty(), "{there:?}");
}

#[test]
fn a_pool_that_ends_leaves_none() {
    let pool = pool!("--parts", "3");
    let bundle = known(&pool, 3, "sleep 1000", |_| {});
    let id = format!("{}-goes-on", bundle.id);
    let (_, cgroup) = place_of(&started(&pool, &bundle, &id, "run"));
    await_parts(&pool, 3, 3);
    let held = cgroups(&pool);
    common::host("kill", &[&pool.server.id().to_string()]);
    eventually(|| !pool.socket().exists() && directories(&held).is_empty());
    assert!(!directories([&cgroup]).is_empty());
    assert_eq!(pool.microrun(&["exec", &id, "echo", "inside"]).ok(), "inside");
    pool.microrun(&["delete", "--force", &id]).ok();
    assert!(fs::read_dir(Path::new(&pool.lab.path("pool/parts"))).unwrap().next().is_none());
}

/// What a container prints that is the only one of its kind for a moment: its network namespace.
fn network_of(pool: &Pool, bundle: &Bundle) -> String {
    run(pool, bundle).ok()
}

/// Waits until the pool has inspected what came back.
#[track_caller]
fn await_inspection(pool: &Pool, used: u64) {
    await_parts(pool, 1, 1);
    eventually(|| parts(pool)["usedNetworks"] == used);
}

/// Each leaves the same mark.
#[test]
fn processes_that_enter_a_network_of_the_pool_at_once_do_not_hinder_each_other() {
    let pool = pool!("--parts", "1", "--reuse-netns");
    let bundle = known(&pool, 1, "sleep 1000", |_| {});
    started(&pool, &bundle, &bundle.id, "run");
    let mark = pool.lab.path("run").join(&bundle.id).join("visited");
    for _ in 0..20 {
        all_at_once(&mut pool.command(&["exec", &bundle.id, "true"]), 8);
        fs::remove_file(&mark).unwrap();
    }
    pool.microrun(&["delete", "--force", &bundle.id]).ok();
}

const NAME: &str = "readlink /proc/self/ns/net";

#[test]
fn a_network_that_nobody_has_used_or_could_change_is_used_again() {
    let pool = reusing_pool!("--parts", "1");
    let bundle = known(&pool, 1, NAME, |_| {});
    let first = network_of(&pool, &bundle);
    for _ in 0..3 {
        await_inspection(&pool, 1);
        assert_eq!(network_of(&pool, &bundle), first);
    }
    assert_eq!(parts(&pool)["reused"], 3);
    await_inspection(&pool, 1);
    // For the same template alone.
    let other = pool.filled(0, NAME, |_| {});
    eventually(|| parts(&pool)["cgroups"] == 2);
    assert_ne!(network_of(&pool, &other), first);
    // And as that is now.
    let file = bundle.path.join("config.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + " ").unwrap();
    assert_ne!(network_of(&pool, &bundle), first);
    assert_ne!(network_of(&pool, &bundle), first);
}

#[test]
fn a_network_is_not_used_again_unless_that_is_asked_for() {
    let pool = pool!("--parts", "1");
    let bundle = known(&pool, 1, NAME, |_| {});
    let first = network_of(&pool, &bundle);
    await_inspection(&pool, 0);
    assert_ne!(network_of(&pool, &bundle), first);
    assert_eq!(parts(&pool)["reused"], 0);
}

/// Waits until what came back is there for the next, or gone.
fn await_judgement(pool: &Pool) {
    eventually(|| parts(pool)["lent"] == 0 && parts(pool)["pending"] == 0);
    std::thread::sleep(Duration::from_millis(20));
}

/// Has a pool start a container of a configuration changed by `change`, which runs `script` and then prints its namespace, and
/// then another: whether they had the same.
fn is_reused(pool: &Pool, script: &str, change: impl FnOnce(&mut Value)) -> bool {
    let bundle = pool.filled(0, &format!("{script}; {NAME}"), change);
    let lent = || {
        pool.lending(|_| {
            eventually(|| parts(pool)["cgroups"] == 1 && parts(pool)["networks"] == 1);
            run(pool, &bundle).ok()
        })
    };
    let first = lent();
    await_judgement(pool);
    let second = lent();
    pool.microrun(&["pool", "drain", bundle.path.to_str().unwrap()]).ok();
    first == second
}

#[test]
fn a_network_that_a_container_could_change_is_not_used_again() {
    let pool = reusing_pool!("--parts", "1");
    assert!(is_reused(&pool, "true", |_| {}));
    for capability in ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_BPF", "CAP_SYS_MODULE"] {
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            let grant = |config: &mut Value| config["process"]["capabilities"][set] = json!([capability]);
            assert!(!is_reused(&pool, "true", grant), "{capability} {set}");
        }
    }
    let linux = |name: &'static str, value: Value| move |config: &mut Value| config["linux"][name] = value;
    assert!(!is_reused(&pool, "true", linux("sysctl", json!({"net.ipv4.ip_forward": "1"}))));
    assert!(!is_reused(&pool, "true", linux("readonlyPaths", json!(["/proc/bus"]))));
    let hook = json!({"poststop": [{"path": "/bin/true"}]});
    assert!(!is_reused(&pool, "true", |config| config["hooks"] = hook));
    for options in [["rbind"], ["bind"]] {
        let mount = json!({"destination": "/mnt", "source": "/usr", "options": options});
        assert!(!is_reused(&pool, "true", |config| push(&mut config["mounts"], mount)), "{options:?}");
    }
    assert!(!is_reused(&pool, "true", |config| config["root"]["readonly"] = json!(false)));
    let sysfs = json!({"destination": "/mnt", "type": "sysfs", "source": "sysfs"});
    assert!(!is_reused(&pool, "true", |config| push(&mut config["mounts"], sysfs)));
    let proc = json!({"destination": "/mnt", "source": "/proc", "options": ["bind"]});
    assert!(!is_reused(&pool, "true", |config| push(&mut config["mounts"], proc)));
    let second = json!({"destination": "/mnt", "type": "proc", "source": "proc"});
    assert!(!is_reused(&pool, "true", |config| push(&mut config["mounts"], second)));
    let shares_pids = |config: &mut Value| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
    };
    assert!(!is_reused(&pool, "true", shares_pids));
}

#[test]
fn a_network_that_was_used_is_not_used_again() {
    let pool = pool!("--parts", "1", "--reuse-netns");
    for script in [
        "nslookup x 127.0.0.1 >/dev/null 2>&1",
        "nc -w 1 127.0.0.1 9 </dev/null",
        "(nc -l -p 7000 >/dev/null &) ; sleep 0.2; echo x | nc -w 1 127.0.0.1 7000",
        "ping -c 1 127.0.0.1 >/dev/null",
        "wget -q -O - http://[::1]:9/ 2>/dev/null",
    ] {
        if script.contains("[::1]") && !has_ipv6() {
            continue;
        }
        let right = |config: &mut Value| {
            for set in ["bounding", "effective", "permitted"] {
                config["process"]["capabilities"][set] = json!(["CAP_NET_RAW"]);
            }
        };
        assert!(!is_reused(&pool, &format!("{script} || true"), right), "{script}");
    }
}

/// What somebody outside does to the network of a container that runs, and whether the namespace is used again.
fn is_reused_after(pool: &Pool, act: impl FnOnce(&str)) -> bool {
    let script = "while [ -e /mnt/wait ]; do sleep 0.05; done; readlink /proc/self/ns/net";
    let bundle = pool.filled(0, script, |_| {});
    eventually(|| parts(pool)["cgroups"] == 1 && parts(pool)["networks"] == 1);
    let (first, ()) = pool.run_while(&bundle, |_, pid| {
        // Before that it is where this test is, whose network is not to be touched.
        let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        eventually(|| network(pid) != network("self"));
        act(pid);
    });
    await_judgement(pool);
    let second = run(pool, &bundle).ok();
    pool.microrun(&["pool", "drain", &bundle.operand()]).ok();
    String::from_utf8(first.stdout).unwrap().trim() == second
}

#[test]
fn a_network_that_somebody_else_has_changed_or_is_in_is_not_used_again() {
    let pool = reusing_pool!("--parts", "1");
    assert!(is_reused_after(&pool, |_| {}));
    for change in [
        "ip addr add 10.9.9.9/32 dev lo",
        "ip -6 addr add fd00::9/128 dev lo",
        "ip route add 10.9.9.0/24 dev lo",
        "ip rule add from 10.9.9.9 table 77",
        "ip neigh add 127.0.0.9 lladdr 02:00:00:00:00:09 nud permanent dev lo",
        "ip link set lo mtu 1400",
        "ip link set lo down",
        "ip link add microrun0 type veth peer name microrun1",
        "echo 1 >/proc/sys/net/ipv4/conf/lo/rp_filter",
    ] {
        if change.contains("-6") && !has_ipv6() {
            continue;
        }
        let act = |pid: &str| assert!(in_network_of(pid, change).status().unwrap().success(), "{change}");
        assert!(!is_reused_after(&pool, act), "{change}");
    }
    // Somebody stays in it.
    let mut stays = None;
    let stay = |pid: &str| {
        stays = Some(in_network_of(pid, "exec sleep 1000").stdin(Stdio::null()).spawn().unwrap());
        let name = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        let own = format!("/proc/{}/ns/net", stays.as_ref().unwrap().id());
        eventually(|| fs::read_link(&own).is_ok_and(|link| link == name));
    };
    assert!(!is_reused_after(&pool, stay));
    let mut stays = stays.unwrap();
    stays.kill().unwrap();
    stays.wait().unwrap();
    // It has a name, for later.
    let name = pool.lab.path("name");
    fs::write(&name, "").unwrap();
    let mount = |pid: &str| {
        common::host("mount", &["--bind", &format!("/proc/{pid}/ns/net"), name.to_str().unwrap()]);
    };
    assert!(!is_reused_after(&pool, mount));
    common::host("umount", &[name.to_str().unwrap()]);
    // A socket of it is open elsewhere.
    let mut socket = None;
    let keep = |pid: &str| {
        let network = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        // In a thread, which ends there.
        let opened = std::thread::spawn(move || {
            use std::os::fd::AsRawFd;
            microrun::sys::process::setns(network.as_raw_fd(), 0).unwrap();
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap()
        });
        socket = Some(opened.join().unwrap());
    };
    assert!(!is_reused_after(&pool, keep));
    drop(socket);
    // An abstract name is bound elsewhere.
    let mut bound = None;
    let bind = |pid: &str| {
        let network = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        let opened = std::thread::spawn(move || {
            use std::os::fd::AsRawFd;
            use std::os::linux::net::SocketAddrExt;
            microrun::sys::process::setns(network.as_raw_fd(), 0).unwrap();
            let address = std::os::unix::net::SocketAddr::from_abstract_name("microrun").unwrap();
            std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap()
        });
        bound = Some(opened.join().unwrap());
    };
    assert!(!is_reused_after(&pool, bind));
}

/// Whatever a pool does, there is a container.
#[test]
fn a_pool_that_gives_nothing_is_done_without() {
    let mut pool = pool!("--parts", "1");
    pool.await_networks(1);
    let bundle = pool.lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let start = |pool: &Pool, name: &str| {
        let id = format!("{}-{name}", bundle.id);
        let begun = Instant::now();
        let (network, _) = place_of(&started(pool, &bundle, &id, "create"));
        let time = begun.elapsed();
        assert!(!pool.networks().contains(&network), "{network}");
        pool.lab.microrun(&["delete", "--force", &id]).ok();
        time
    };
    let server = pool.server.id().to_string();
    host("kill", &["-STOP", &server]);
    let time = start(&pool, "stopped");
    assert!(time < Duration::from_secs(20), "{time:?}");
    host("kill", &["-CONT", &server]);
    eventually(|| parts(&pool)["lent"] == 0);
    pool.kill();
    assert!(pool.socket().exists());
    let network = started(&pool, &bundle, &format!("{}-dead", bundle.id), "create");
    assert_ne!(place_of(&network).0, place_of("self").0);
    pool.lab.microrun(&["delete", "--force", &format!("{}-dead", bundle.id)]).ok();
}
