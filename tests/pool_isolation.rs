//! What a container from a pool could try against another one of the same pool: docs/pools.md lists the attempts. Each test
//! plants something as one container and looks for it as the other, which waits meanwhile, or looks at what both are.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::pool::Pool;
use common::{eventually, host, output, push};
use microrun::sys::{pidfd, process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::process::Command;

/// Everything that a container can write to and that is not its root.
fn with_places_to_write(config: &mut Value) {
    for (destination, kind) in [("/dev/shm", "tmpfs"), ("/dev/mqueue", "mqueue"), ("/tmp", "tmpfs")] {
        push(&mut config["mounts"], json!({"destination": destination, "type": kind, "source": kind}));
    }
}

/// What a script prints in a container that is started while another one of its pool runs that has executed `plant`; the third
/// line on is what a third container prints, which was made after both.
fn found_after(pool: &Pool, plant: &str, look: &str, change: impl FnOnce(&mut Value)) -> Vec<String> {
    let script = format!("if mkdir /mnt/first 2>/dev/null; then {plant}; sleep 1000; else {look}; fi");
    let bundle = pool.filled(2, &script, |config| {
        config["root"]["readonly"] = json!(false);
        with_places_to_write(config);
        change(config);
    });
    let id = format!("{}-first", bundle.id);
    pool.run_detached(&bundle, &[&id]);
    eventually(|| bundle.path.join("rootfs/mnt/first").exists());
    // What is planted behind the directory takes a moment.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let second = pool.run(&bundle, &[]).ok();
    pool.microrun(&["delete", "--force", &id]).ok();
    pool.await_ready(&bundle, 2);
    let third = pool.run(&bundle, &[]).ok();
    vec![second, third]
}

#[test]
fn files_in_shared_memory_and_queues_are_not_found() {
    let pool = pool!();
    let plant = "for place in /dev/shm /dev/mqueue /tmp /dev; do echo secret >$place/left; done";
    let look = "ls /dev/shm /dev/mqueue /tmp; ls /dev/left 2>/dev/null; true";
    for found in found_after(&pool, plant, look, |_| {}) {
        assert!(!found.contains("left"), "{found}");
    }
}

#[test]
fn processes_are_not_found() {
    let pool = pool!();
    let look = "for path in /proc/[0-9]*; do cat $path/comm 2>/dev/null; done";
    for found in found_after(&pool, "(sleep 2000 &); (sleep 3000 &)", look, |_| {}) {
        assert!(found.lines().all(|name| matches!(name, "sh" | "cat")), "{found}");
    }
}

#[test]
fn a_name_given_to_the_machine_is_not_found() {
    let pool = pool!();
    let capabilities = json!(["CAP_SYS_ADMIN"]);
    let sets = json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities});
    let change = |config: &mut Value| {
        config["hostname"] = json!("before");
        config["process"]["capabilities"] = sets;
    };
    for found in found_after(&pool, "hostname planted", "hostname", change) {
        assert_eq!(found, "before");
    }
}

/// Two containers that run, from one pool, and their processes.
struct Two {
    _pool: Pool,
    pids: [i32; 2],
}

impl Two {
    fn new(pool: Pool, change: impl FnOnce(&mut Value)) -> Self {
        let bundle = pool.filled(2, "sleep 1000", change);
        let pids = ["one", "two"].map(|name| {
            let id = format!("{}-{name}", bundle.id);
            let file = bundle.path.join(name);
            pool.run_detached(&bundle, &["--pid-file", file.to_str().unwrap(), &id]);
            fs::read_to_string(file).unwrap().parse().unwrap()
        });
        Self { _pool: pool, pids }
    }

    /// Runs a command of the host in namespaces of one of them.
    fn inside(&self, which: usize, namespaces: &str, command: &[&str]) -> String {
        let pid = self.pids[which].to_string();
        host("nsenter", &[&["-t", &pid, namespaces, "--"], command].concat())
    }

    fn link(&self, which: usize, name: &str) -> String {
        fs::read_link(format!("/proc/{}/{name}", self.pids[which])).unwrap().to_string_lossy().into_owned()
    }
}

#[test]
fn no_namespace_is_anybody_elses() {
    let two = Two::new(pool!(), |config| push(&mut config["linux"]["namespaces"], json!({"type": "cgroup"})));
    for name in ["mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        let name = format!("ns/{name}");
        let of_host = fs::read_link(format!("/proc/self/{name}")).unwrap().to_string_lossy().into_owned();
        let all = BTreeSet::from([two.link(0, &name), two.link(1, &name), of_host]);
        assert_eq!(all.len(), 3, "{all:?}");
    }
}

#[test]
fn system_v_objects_are_not_found() {
    if Command::new("ipcmk").arg("--version").output().is_err() {
        println!("skipped: ipcmk is not installed");
        return;
    }
    let two = Two::new(pool!(), |_| {});
    for kind in ["-M4096", "-Q", "-S1"] {
        two.inside(0, "-i", &["ipcmk", kind]);
    }
    let lines = |which| two.inside(which, "-i", &["ipcs"]).lines().filter(|line| line.starts_with("0x")).count();
    assert_eq!((lines(0), lines(1)), (3, 0));
}

#[test]
fn sockets_and_interfaces_are_not_found() {
    let two = Two::new(pool!(), |_| {});
    two.inside(0, "-n", &["ip", "link", "add", "planted", "type", "veth", "peer", "name", "planted2"]);
    two.inside(0, "-n", &["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"]);
    let pid = two.pids[0];
    let listens = std::thread::spawn(move || {
        let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name("planted").unwrap();
        let unix = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
        (unix, std::net::TcpListener::bind("127.0.0.1:7777").unwrap())
    });
    let _listens = listens.join().unwrap();
    let seen = |which| {
        let look = "ip -o link; cat /proc/net/unix /proc/net/tcp /proc/sys/net/ipv4/ip_forward";
        // /proc/net is of the process that looks.
        two.inside(which, "-n", &["sh", "-c", look])
    };
    for sign in ["planted:", "@planted", ":1E61"] {
        let (of_first, of_second) = (seen(0), seen(1));
        let sign_of_link = of_first.contains(sign) || (sign == "planted:" && of_first.contains("planted@"));
        assert!(sign_of_link, "{sign}: {of_first}");
        assert!(!of_second.contains("planted") && !of_second.contains(":1E61"), "{of_second}");
    }
    assert_eq!(two.inside(1, "-n", &["cat", "/proc/sys/net/ipv4/ip_forward"]), {
        let pid = two.pids[1];
        let fresh = host("unshare", &["-n", "cat", "/proc/sys/net/ipv4/ip_forward"]);
        assert_ne!(pid, 0);
        fresh
    });
}

#[test]
fn session_keyrings_are_not_shared() {
    let pool = pool!();
    let bundle = pool.filled(2, "cat /proc/keys", |config| config["linux"]["maskedPaths"] = json!([]));
    let names = fs::read_dir(pool.lab.path("pool/parked")).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    // Both belong to root, who sees both.
    let keys = pool.run(&bundle, &[]).ok();
    let serial = |name: &String| {
        let line = keys.lines().find(|line| line.contains(&format!("_ses.{name}")));
        line.map(|line| line.split_whitespace().next().unwrap().to_owned())
    };
    let serials: BTreeSet<_> = names.iter().filter_map(serial).collect();
    assert_eq!((names.len(), serials.len()), (2, 2), "{keys}");
}

#[test]
fn addresses_differ() {
    let pool = pool!();
    let bundle = pool.filled(3, "cat /proc/self/maps", |_| {});
    let maps: Vec<String> = (0..3).map(|_| pool.run(&bundle, &[]).ok()).collect();
    for region in ["[stack]", "[vdso]", "[heap]"] {
        let at = |map: &String| {
            let line = map.lines().find(|line| line.ends_with(region));
            line.map(|line| line.split('-').next().unwrap().to_owned())
        };
        let places: BTreeSet<_> = maps.iter().filter_map(at).collect();
        assert_eq!(places.len(), 3, "{region}: {places:?}");
    }
}

/// What a container can find out about itself, but for numbers that no two have in common.
const SELF_PORTRAIT: &str = "
exec 2>&1
env | sort
grep -v -e '^SigQ' -e '^Vm' -e '^Rss' -e '^Hugetlb' -e ctxt_switches -e '^Speculation' -e '^Mems' -e '^Cpus' /proc/self/status
cat /proc/self/limits /proc/self/oom_score_adj /proc/self/coredump_filter /proc/self/personality /proc/self/attr/current
cat /proc/1/timerslack_ns
sed -E 's/^[0-9]+ [0-9]+ [0-9]+:[0-9]+ //; s/(shared|master):[0-9]+/\\1/g' /proc/self/mountinfo
sed -E 's/ms_[a-z0-9]+//' /proc/self/cgroup
umask; pwd; hostname; id
ls -l /dev /dev/pts | grep -v '^total' | sed -E 's/[A-Z][a-z]{2} +[0-9]+ +[0-9:]+/DATE/'
ls -l /proc/self/fd >/tmp/fds
sed -E 's/.*[0-9]{2}:[0-9]{2} //; s/\\[[0-9]+\\]//; s/proc.[0-9]+.fd//' /tmp/fds
awk '{print $4, $5, $6, $7, $8, $18, $19, $20, $40, $41}' /proc/1/stat
cat /proc/net/dev /proc/net/route /proc/net/unix /proc/sysvipc/*
for file in /proc/sys/net/ipv4/* /proc/sys/net/core/* /proc/sys/kernel/*; do
    case $file in *random* | *ns_last_pid | *pty* | *tcp_*key*) ;; *) [ -f $file ] && echo $file: $(cat $file 2>&1) ;; esac
done
chrt -p 1; ionice -p 1
";

#[test]
fn a_container_looks_to_itself_like_a_cold_one() {
    let pool = pool!();
    let bundle = pool.filled(1, SELF_PORTRAIT, |config| {
        with_places_to_write(config);
        config["process"].as_object_mut().unwrap().remove("rlimits");
        push(&mut config["linux"]["namespaces"], json!({"type": "cgroup"}));
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mknod"], "action": "SCMP_ACT_ERRNO"}]});
    });
    let path = bundle.path.to_str().unwrap();
    let cold = pool.microrun(&["run", "--pool=off", "--bundle", path, "x-cold"]).ok();
    let parked = pool.run(&bundle, &[]).ok();
    assert!(cold.lines().count() > 100, "{cold}");
    let (of_cold, of_parked): (BTreeSet<_>, BTreeSet<_>) = (cold.lines().collect(), parked.lines().collect());
    let differences: Vec<_> = of_cold.symmetric_difference(&of_parked).collect();
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn a_cgroup_has_counted_no_more_than_a_cold_one_has() {
    let pool = pool!();
    let bundle = pool.filled(2, "sleep 1000", |_| {});
    let path = bundle.path.to_str().unwrap();
    // One of the pool's may have charged something before.
    let first = format!("{}-first", bundle.id);
    pool.run_detached(&bundle, &[&first]);
    let (parked, cold) = (format!("{}-parked", bundle.id), format!("{}-cold", bundle.id));
    pool.run_detached(&bundle, &[&parked]);
    let mut command = pool.command(&["run", "-d", "--pool=off", "--bundle", path, &cold]);
    let quiet = std::process::Stdio::null;
    assert!(command.stdin(quiet()).stdout(quiet()).stderr(quiet()).status().unwrap().success());
    let stats = |id: &str| {
        let told: Value = serde_json::from_str(&pool.microrun(&["events", "--stats", id]).ok()).unwrap();
        told["data"].clone()
    };
    let (of_parked, of_cold) = (stats(&parked), stats(&cold));
    assert_eq!(of_parked["pids"]["current"], of_cold["pids"]["current"]);
    let number = |stats: &Value, path: &str| stats.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
    for (path, more) in [("/memory/usage/max", 2e6), ("/memory/usage/usage", 2e6), ("/cpu/usage/total", 50e6)] {
        let (ours, theirs) = (number(&of_parked, path), number(&of_cold, path));
        assert!(ours <= theirs * 2.0 + more, "{path}: {ours} {theirs}");
    }
    for path in ["/memory/usage/failcnt", "/memory/failcnt"] {
        assert_eq!(number(&of_parked, path), number(&of_cold, path), "{path}");
    }
}

/// With this variable this executable is not a test but an attacker, who tries to get at a process.
const VICTIM: &str = "MICRORUN_TEST_VICTIM";

#[test]
fn attack() {
    let Ok(victim) = std::env::var(VICTIM) else { return };
    for name in ["environ", "maps", "mem", "auxv", "syscall", "io"] {
        let mut byte = [0];
        let read = fs::File::open(format!("/proc/{victim}/{name}"))
            .and_then(|mut file| std::io::Read::read(&mut file, &mut byte));
        println!("{name}: {}", if read.is_ok() { "got at" } else { "refused" });
    }
    for name in ["exe", "root", "cwd", "ns/net", "fd/0", "fd/3", "fd/4", "fd/5"] {
        let got = fs::read_link(format!("/proc/{victim}/{name}"));
        println!("{name}: {}", if got.is_ok() { "got at" } else { "refused" });
    }
    let pidfd = pidfd::open(victim.parse().unwrap()).unwrap();
    // As ptrace(2), process_vm_readv(2): PTRACE_MODE_ATTACH_REALCREDS.
    for number in 0..8 {
        let got = process::pidfd_getfd(pidfd.as_raw_fd(), number);
        println!("pidfd_getfd: {}", if got == Err(nix::errno::Errno::EPERM) { "refused" } else { "got at" });
    }
}

/// What one with the ids and capabilities of the bundle's containers, in the pool's own pid namespace, gets at.
fn got_at(victim: i32, options: &[&str]) -> Vec<String> {
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(options).arg(std::env::current_exe().unwrap()).args(["--exact", "attack", "--nocapture"]);
    command.env(VICTIM, victim.to_string());
    let told = output(command).ok();
    let lines = told.lines().filter(|line| line.ends_with("got at") || line.ends_with("refused"));
    let (got, refused): (Vec<_>, Vec<_>) = lines.partition(|line| line.ends_with("got at"));
    assert_eq!(got.len() + refused.len(), 22, "{told}");
    got.into_iter().map(str::to_owned).collect()
}

const AS_CONTAINER: [&str; 3] =
    ["--bounding-set=-all,+audit_write,+kill,+net_bind_service", "--inh-caps=-all", "--no-new-privs"];

#[test]
fn what_waits_cannot_be_traced_by_its_like() {
    // By its path, here and below: busybox's timeout(1) would prefer its own.
    let setpriv = Command::new("/usr/bin/setpriv").arg("--version").output();
    if !setpriv.is_ok_and(|told| String::from_utf8_lossy(&told.stdout).contains("util-linux")) {
        println!("skipped: setpriv is not that of util-linux");
        return;
    }
    let pool = pool!();
    let without_pids = |config: &mut Value| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    };
    let _bundle = pool.filled(1, "true", without_pids);
    let victim = pool.parked().pop().unwrap();
    assert_eq!(got_at(victim, &AS_CONTAINER), Vec::<String>::new());
    // The attack works on one that is not protected.
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(AS_CONTAINER).args(["sleep", "1000"]);
    let mut other = command.spawn().unwrap();
    eventually(|| fs::read_to_string(format!("/proc/{}/comm", other.id())).unwrap() == "sleep\n");
    assert!(!got_at(other.id() as i32, &AS_CONTAINER).is_empty());
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn what_waits_cannot_be_traced_by_another_user() {
    let pool = pool!();
    let _bundle = pool.filled(1, "true", |config| {
        config["process"]["user"] = json!({"uid": 65534, "gid": 65534});
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    });
    let victim = pool.parked().pop().unwrap();
    let as_user = [
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--no-new-privs",
    ];
    // The executable has to be reachable for that user: this one is in the build directory.
    if fs::metadata("/proc/self/exe").is_ok() && !is_reachable(&as_user) {
        skip!("this test's executable is not reachable for other users");
    }
    assert_eq!(got_at(victim, &as_user), Vec::<String>::new());
}

fn is_reachable(options: &[&str]) -> bool {
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(options).arg("test").arg("-x").arg(std::env::current_exe().unwrap());
    output(command).code == 0
}
