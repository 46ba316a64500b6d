//! What a container from a pool could try against another one of the same pool: docs/pools-isolation.md lists the attempts. Each test
//! plants something as one container and looks for it as the other, which waits meanwhile, or looks at what both are.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::pool::{Pool, run_args};
use common::{eventually, host, output, push};
use microrun::sys::{pidfd, process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

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
fn a_read_only_root_stays_as_it_is() {
    let pool = pool!();
    let bundle = pool.filled(
        2,
        "(echo secret >/left) 2>/dev/null || ls /; (mount -o remount,rw /) 2>/dev/null || echo refused",
        |_| {},
    );
    for _ in 0..2 {
        let told = pool.run(&bundle, &[]).ok();
        assert!(told.contains("mnt") && told.ends_with("refused") && !told.contains("left"), "{told}");
    }
}

/// Whoever could change its mode could take it away from others, and a lock that belongs to an open file stays as long as anybody has that.
#[test]
fn the_null_device_is_neither_the_hosts_nor_that_of_another() {
    let pool = pool!();
    let script =
        "stat -L -c '%a %t %T' /dev/stdin; chmod 600 /dev/stdin; echo x >/dev/stdin && stat -L -c %a /dev/null";
    let bundle = pool.filled(2, script, |_| {});
    let mut told: Vec<String> = (0..3).map(|_| pool.run(&bundle, &["--pool=require"]).ok()).collect();
    let null = fs::File::open("/dev/null").unwrap();
    let library = microrun::pool::Pool::at(pool.socket(), pool.lab.path("run"), &bundle.path).unwrap();
    for _ in 0..3 {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let stdio = microrun::pool::Stdio { stdin: null.as_fd(), stdout: writer.as_fd(), stderr: null.as_fd() };
        pool.await_ready(&bundle, 2);
        let mut running = library.lease().unwrap().start(stdio, None, &[]).unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(running.wait().unwrap(), 0, "{text}");
        told.push(text.trim_end().to_owned());
    }
    // It is the one that each has at /dev/null.
    assert!(told.iter().all(|text| text == "666 1 3\n600"), "{told:?}");
    assert_eq!(null.metadata().unwrap().permissions().mode() & 0o777, 0o666);
}

#[test]
fn processes_are_not_found() {
    let pool = pool!();
    let look = "for path in /proc/[0-9]*; do cat $path/comm 2>/dev/null; done";
    for found in found_after(&pool, "(sleep 2000 &); (sleep 3000 &)", look, |_| {}) {
        assert!(found.lines().all(|name| matches!(name, "sh" | "cat")), "{found}");
    }
}

/// Processes of this machine whose arguments have `word` among them.
fn processes_with(word: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|one| one == word.as_bytes())).count()
}

#[test]
fn processes_do_not_outlive_their_container() {
    let pool = pool!();
    // A pid namespace kills them; without one it is the cgroup that does.
    for (seconds, has_own_pids) in [("4321001", true), ("4321002", false)] {
        let script = format!("trap '' HUP TERM; (setsid sleep {seconds} &); (sleep {seconds} &); echo started");
        let bundle = pool.filled(1, &script, |config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| has_own_pids || namespace["type"] != "pid");
        });
        let out = pool.lab.path("out");
        // Not by a pipe: those who stay hold it open.
        let mut command = pool.command(&run_args(&bundle, &[]));
        command.stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap());
        assert!(command.status().unwrap().success());
        assert_eq!(fs::read_to_string(&out).unwrap(), "started\n");
        eventually(|| processes_with(seconds) == 0);
    }
}

#[test]
fn mounts_are_not_found() {
    let pool = pool!();
    let capabilities = json!(["CAP_SYS_ADMIN"]);
    let sets = json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities});
    let change = |config: &mut Value| config["process"]["capabilities"] = sets;
    let plant = "mount -t tmpfs planted /root; echo secret >/root/left; mount --bind /root /etc";
    let found = found_after(&pool, plant, "cat /proc/self/mountinfo; ls /root /etc", change);
    assert!(found.iter().all(|found| !found.contains("planted") && !found.contains("left")), "{found:?}");
    let on_host = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!on_host.contains("planted"), "{on_host}");
}

#[test]
fn arguments_and_environment_are_not_found() {
    let pool = pool!();
    let bundle = pool.filled(2, "env; tr '\\0' ' ' </proc/1/environ; tr '\\0' ' ' </proc/1/cmdline; sleep 0", |_| {});
    let library = microrun::pool::Pool::at(pool.socket(), pool.lab.path("run"), &bundle.path).unwrap();
    let null = fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let stdio = microrun::pool::Stdio { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() };
    let args = [c"-c", c"exit 3", c"planted-argument"];
    let first = library.lease().unwrap().start(stdio, Some(&args), &[c"PLANTED=entry", c"PATH=/planted"]);
    assert_eq!(first.unwrap().wait().unwrap(), 3);
    let second = pool.run(&bundle, &[]).ok();
    pool.await_ready(&bundle, 2);
    let third = pool.run(&bundle, &[]).ok();
    for found in [second, third] {
        assert!(found.contains("PATH=/bin") && !found.to_lowercase().contains("planted"), "{found}");
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
    // Parameters of the namespace.
    let file = "/proc/sys/kernel/msgmax";
    let before = two.inside(1, "-i", &["cat", file]);
    two.inside(0, "-i", &["sh", "-c", &format!("echo 7777 >{file}")]);
    assert_eq!((two.inside(0, "-i", &["cat", file]).as_str(), two.inside(1, "-i", &["cat", file])), ("7777", before));
}

#[test]
fn sockets_and_interfaces_are_not_found() {
    let two = Two::new(pool!(), |_| {});
    let Some(ip) = ["/usr/sbin/ip", "/sbin/ip"].into_iter().find(|path| fs::exists(path).unwrap()) else {
        skip!("ip is not installed (Debian's package iproute2)");
    };
    let plants = [
        "link add planted type veth peer name planted2",
        "address add 10.97.98.99/24 dev planted",
        "link set planted up",
        "neighbour add 10.97.98.1 lladdr 02:00:00:00:00:01 dev planted",
        "route add 10.96.0.0/16 via 10.97.98.1 dev planted onlink",
    ];
    for plant in plants {
        two.inside(0, "-n", &[&[ip], &plant.split(' ').collect::<Vec<_>>()[..]].concat());
    }
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
        let look = format!(
            "for what in link address neighbour route; do {ip} -o $what; done; cat /proc/net/unix /proc/net/tcp"
        );
        // /proc/net is of the process that looks.
        two.inside(which, "-n", &["sh", "-c", &look])
    };
    let (of_first, of_second) = (seen(0), seen(1));
    for sign in ["planted@", "@planted", ":1E61", "10.97.98.99", "02:00:00:00:00:01", "10.96.0.0/16"] {
        assert!(of_first.contains(sign), "{sign}: {of_first}");
        assert!(!of_second.contains(sign), "{sign}: {of_second}");
    }
    let forwards = ["cat", "/proc/sys/net/ipv4/ip_forward"];
    assert_eq!(two.inside(1, "-n", &forwards), host("unshare", &[&["-n"][..], &forwards].concat()));
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
    // The first of them has all counters count: memory, its failures, processes, CPU time.
    let script = "if mkdir /tmp/first/made 2>/dev/null; then
        dd if=/dev/zero of=/tmp/fill bs=1M count=16 2>/dev/null; i=0; while [ $i -lt 50 ]; do true & i=$((i + 1)); done; wait
        echo done >/tmp/first/done
    fi; exec sleep 1000";
    let shared = pool.lab.path("shared");
    fs::create_dir(&shared).unwrap();
    let bundle = pool.filled(2, script, |config| {
        with_places_to_write(config);
        push(&mut config["mounts"], json!({"destination": "/tmp/first", "source": shared, "options": ["bind"]}));
        config["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 200}});
    });
    let path = bundle.path.to_str().unwrap();
    let first = format!("{}-first", bundle.id);
    pool.run_detached(&bundle, &[&first]);
    eventually(|| shared.join("done").exists());
    let stats = |id: &str| {
        let told: Value = serde_json::from_str(&pool.microrun(&["events", "--stats", id]).ok()).unwrap();
        told["data"].clone()
    };
    let number = |stats: &Value, path: &str| stats.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
    let of_first = stats(&first);
    pool.microrun(&["delete", "--force", &first]).ok();
    pool.await_ready(&bundle, 2);
    // One that waited meanwhile, and one that was made afterwards.
    let ids = ["second", "third"].map(|name| format!("{}-{name}", bundle.id));
    ids.iter().for_each(|id| pool.run_detached(&bundle, &[id]));
    let cold = format!("{}-cold", bundle.id);
    let mut command = pool.command(&["run", "-d", "--pool=off", "--bundle", path, &cold]);
    let quiet = Stdio::null;
    assert!(command.stdin(quiet()).stdout(quiet()).stderr(quiet()).status().unwrap().success());
    // Each has become the one process that stays.
    ids.iter().chain([&cold]).for_each(|id| eventually(|| stats(id)["pids"]["current"] == 1));
    let of_cold = stats(&cold);
    let has_memory = number(&of_first, "/memory/usage/max") > 16e6;
    println!("the first one's memory {} counted", if has_memory { "was" } else { "could not be" });
    for id in &ids {
        let of_parked = stats(id);
        for path in ["/memory/usage/max", "/memory/usage/usage"] {
            let (ours, theirs) = (number(&of_parked, path), number(&of_cold, path));
            assert!(ours <= theirs * 2.0 + 4e6, "{path}: {ours} {theirs}");
        }
        // How much more than a cold one depends on how busy the machine is; one that went on where the first was would have more than that.
        let (ours, of_first) = (number(&of_parked, "/cpu/usage/total"), number(&of_first, "/cpu/usage/total"));
        assert!(ours < of_first, "{ours} {of_first}");
        for path in ["/memory/usage/failcnt", "/memory/raw/pgmajfault", "/memory/raw/oom_kill"] {
            assert!(number(&of_parked, path) <= number(&of_cold, path) + 50.0, "{path}: {of_parked}");
        }
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
