//! Containers from a pool: the same as from a cold start, only sooner.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::pool::{Pool, SECRET, run_args};
use common::{Bundle, Tmpfs, eventually, output, push};
use microrun::error::Kind;
use microrun::pool;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::ffi::{CStr, CString};
use std::fs;
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn a_container_says_and_returns_what_a_cold_one_does() {
    let pool = pool!();
    let bundle = pool.filled(2, "cat; echo out; echo err >&2; exit 7", |_| {});
    let told = pool.run(&bundle, &[]);
    assert_eq!((told.code, told.stdout.as_str(), told.stderr.as_str()), (7, "out", "err"));
    assert_eq!(pool.served(), 1);
}

#[test]
fn the_short_command_is_served_too_and_starts_cold_without_a_pool() {
    let mut pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let path = bundle.operand();
    assert_eq!(pool.microrun(&["run", &path]).ok(), "hello");
    assert_eq!(pool.served(), 1);
    pool.kill();
    assert_eq!(pool.microrun(&["run", &path]).ok(), "hello");
    let told = pool.run(&bundle, &[]).failed();
    assert!(told.contains("--pool=require"), "{told}");
    pool.restart();
}

/// Of a user namespace as well, and where the command has files: it relays them.
#[test]
fn a_container_can_open_its_stdout_again() {
    let pool = pool!();
    for uid in [0, 5] {
        let bundle = pool.filled(2, "echo said >/dev/stdout; echo error >/dev/stderr", |config| {
            config["process"]["user"] = json!({"uid": uid, "gid": uid});
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            for field in ["uidMappings", "gidMappings"] {
                config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            }
        });
        let told = pool.run(&bundle, &[]);
        assert_eq!((told.code, told.stdout.as_str(), told.stderr.as_str()), (0, "said", "error"), "{uid}");
        let log = pool.lab.path("log");
        fs::write(&log, "first\n").unwrap();
        let file = || fs::File::options().append(true).open(&log).unwrap();
        let mut command = pool.command(&["run", "--pool=require", &bundle.operand()]);
        assert!(command.stdin(Stdio::null()).stdout(file()).stderr(file()).status().unwrap().success());
        let said = fs::read_to_string(&log).unwrap();
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["error", "first", "said"], "{uid}");
    }
}

/// Its owner could take it away from everybody else.
#[test]
fn a_device_of_the_hosts_is_not_given_to_a_container() {
    let pool = pool!();
    let place = pool.lab.path("devices");
    let devices = Tmpfs::on(&place, "mode=755");
    let node = devices.device("zero", 1, 5);
    let bundle = pool.filled(2, "head -c 3 >/dev/stderr", |config| {
        config["process"]["user"] = json!({"uid": 5, "gid": 5});
    });
    for options in [&[][..], &["--detach"]] {
        let zero = || fs::File::options().read(true).write(true).open(&node).unwrap();
        let mut command = pool.command(&run_args(&bundle, options));
        assert!(command.stdin(zero()).stdout(zero()).stderr(zero()).status().unwrap().success());
        assert_eq!(fs::metadata(&node).unwrap().uid(), 0, "{options:?}");
    }
    assert_eq!(pool.served(), 2);
}

/// What a pool of one bundle says of it.
fn counted(pool: &Pool, name: &str) -> Value {
    pool.status()["bundles"][0][name].clone()
}

#[test]
fn who_finds_no_sandbox_waits_for_the_next_one() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let path = bundle.operand();
    for round in 0..500 {
        let mut many: Vec<_> = (0..3).map(|_| pool.command(&["run", &path])).collect();
        let many: Vec<_> = many.iter_mut().map(|run| run.stdout(Stdio::piped()).spawn().unwrap()).collect();
        many.into_iter().for_each(|run| assert_eq!(run.wait_with_output().unwrap().stdout, b"hello\n"));
        if counted(&pool, "waited") != 0 {
            return;
        }
        // Where making one takes so long nobody will.
        if round >= 20 && counted(&pool, "secondsOfEach").as_f64().unwrap() > 0.01 {
            break;
        }
    }
    let takes = counted(&pool, "secondsOfEach");
    assert!(takes.as_f64().unwrap() > 0.005, "nobody has waited, and making one takes {takes} s");
    skip!("making a sandbox takes {takes} s here, for which nobody waits");
}

#[test]
fn who_waits_in_vain_starts_cold() {
    let pool = pool!();
    let bundle = pool.filled(2, "echo hello", |_| {});
    let path = bundle.operand();
    let signal = |signal| {
        pool.makers().into_iter().for_each(|maker| kill(Pid::from_raw(maker), signal).unwrap());
    };
    signal(Signal::SIGSTOP);
    for _ in 0..3 {
        assert_eq!(pool.microrun(&["run", &path]).ok(), "hello");
    }
    assert_eq!(["served", "waited", "missed"].map(|name| counted(&pool, name)), [2, 0, 1]);
    // The next ones do not wait for that.
    assert!(counted(&pool, "secondsOfEach").as_f64().unwrap() > 0.01);
    let told = pool.run(&bundle, &[]).failed();
    assert!(told.contains("no part is ready"), "{told}");
    // Who waits for what is given up starts cold as well.
    let run = pool.command(&["run", &path]).stdout(Stdio::piped()).spawn().unwrap();
    pool.microrun(&["pool", "drain", &path]).ok();
    assert_eq!(run.wait_with_output().unwrap().stdout, b"hello\n");
    signal(Signal::SIGCONT);
    eventually(|| pool.is_gone(0));
}

#[test]
fn what_waits_holds_its_lease_and_its_own_null_device_and_a_copy_nothing_of_its_maker() {
    let pool = pool!();
    // An adjustment is of all processes that share a memory (fs/proc/base.c, __set_oom_adj), so this one gets a copy.
    let _copied = pool.filled(1, "true", |config| config["process"]["oomScoreAdj"] = json!(100));
    let parked = pool.parked().pop().unwrap();
    let maps = fs::read_to_string(format!("/proc/{parked}/maps")).unwrap();
    let writable: Vec<&str> =
        maps.lines().filter(|line| line.split_whitespace().nth(1).unwrap().contains('w')).collect();
    assert_eq!(writable.len(), 1, "{maps}");
    assert!(!maps.contains("[heap]") && !maps.contains("[stack]"), "{maps}");
    let _shared = pool.filled(1, "true", |_| {});
    assert_eq!(pool.parked().len(), 2);
    for parked in pool.parked() {
        let open = fs::read_dir(format!("/proc/{parked}/fd")).unwrap().map(|entry| entry.unwrap().path());
        let named = |path: &PathBuf| fs::read_link(path).unwrap().to_string_lossy().starts_with("socket:");
        let (sockets, others): (Vec<_>, Vec<_>) = open.partition(named);
        assert_eq!((sockets.len(), others.len()), (1, 1), "{sockets:?} {others:?}");
        let about = |path: &Path| fs::metadata(path).map(|about| (about.dev(), about.ino())).unwrap();
        let (held, own) = (about(&others[0]), about(Path::new(&format!("/proc/{parked}/root/dev/null"))));
        assert!(held == own && own != about(Path::new("/dev/null")), "{held:?} {own:?}");
    }
}

/// Whether the process `pid` has `word` anywhere in memory that it can write to.
fn remembers(pid: i32, word: &str) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = maps.lines().filter(|line| line.split_whitespace().nth(1).unwrap().contains('w'));
    found.any(|line| {
        let (from, to) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|number| u64::from_str_radix(number, 16).unwrap());
        let mut bytes = vec![0; (to - from) as usize];
        memory.read_exact_at(&mut bytes, from).unwrap();
        bytes.windows(word.len()).any(|window| window == word.as_bytes())
    })
}

#[test]
fn what_waits_remembers_neither_the_pool_nor_other_bundles_nor_who_was_there_before() {
    let pool = pool!();
    let with = |secret: &'static str| {
        move |config: &mut Value| {
            push(&mut config["process"]["env"], json!(format!("SECRET={secret}")));
            config["process"]["args"] = json!(["/bin/echo"]);
        }
    };
    let _other = pool.filled(1, "", with("of another bundle"));
    let [of_other] = *pool.parked() else { panic!("one waits") };
    let own = pool.filled(1, "", with("of its own bundle"));
    let waiting = || pool.parked().into_iter().find(|pid| *pid != of_other).unwrap();
    assert!(remembers(of_other, "of another bundle") && remembers(waiting(), "of its own bundle"));
    let library = pool.library(&own);
    let told = said(library.lease().unwrap(), Some(&[c"an argument of another start"]), &[]);
    assert_eq!(told.text.trim_end(), "an argument of another start");
    // It is forgotten when the next is made; the one after that is made without it.
    for _ in 0..2 {
        pool.await_ready(&own, 1);
        assert_eq!(pool.run(&own, &[]).ok(), "");
    }
    pool.await_ready(&own, 1);
    for secret in [SECRET, "of another bundle", "an argument of another start"] {
        assert!(!remembers(waiting(), secret), "{secret}");
    }
    assert!(remembers(waiting(), "of its own bundle"));
}

#[test]
fn a_sandbox_waits_under_the_filter_of_the_leanest_configuration() {
    let pool = pool!();
    let bundle = pool.filled(1, "", |config| {
        let action: Value = serde_json::from_str(&microrun::spec::default::action("/bin/echo")).unwrap();
        config["linux"]["seccomp"] = action["linux"]["seccomp"].clone();
        config["process"]["args"] = json!(["/bin/echo", "hello"]);
    });
    let parked = pool.parked().pop().unwrap();
    let status = fs::read_to_string(format!("/proc/{parked}/status")).unwrap();
    assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
    assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
    assert_eq!(pool.served(), 1);
}

#[test]
fn a_sandbox_shows_its_cgroups_as_a_cold_container_does() {
    let pool = pool!();
    // On v2 it is shown all, with what others do there.
    let script = "cd /sys/fs/cgroup; [ ! -e cgroup.procs ] || cd .$(sed -n s/^0:://p /proc/self/cgroup); ls -R";
    let bundle = pool.filled(1, script, |config| {
        let options = ["nosuid", "noexec", "nodev", "relatime", "ro"];
        let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options});
        push(&mut config["mounts"], mount);
    });
    let from_pool = pool.run(&bundle, &[]).ok();
    assert_eq!(pool.served(), 1);
    assert!(from_pool.contains("cgroup.procs"), "{from_pool}");
    assert_eq!(from_pool, pool.microrun(&["run", "--pool=off", "-b", bundle.path.to_str().unwrap(), "cold"]).ok());
}

#[test]
fn a_changed_bundle_is_never_served_stale() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo before", |_| {});
    let config = bundle.path.join("config.json");
    let text = fs::read_to_string(&config).unwrap().replace("echo before", "echo after");
    fs::write(&config, text).unwrap();
    let path = bundle.operand();
    assert_eq!(pool.microrun(&["run", &path]).ok(), "after");
    pool.await_ready(&bundle, 1);
    assert_eq!(pool.run(&bundle, &[]).ok(), "after");
    pool.await_ready(&bundle, 1);

    let rootfs = bundle.rootfs();
    fs::rename(&rootfs, bundle.path.join("old")).unwrap();
    common::make_rootfs(&rootfs);
    let told = pool.run(&bundle, &[]).failed();
    assert!(told.contains("changed"), "{told}");
}

#[test]
fn what_was_made_while_a_path_led_elsewhere_is_not_served_when_it_leads_back() {
    let pool = pool!();
    let [source, aside, other] = ["source", "aside", "other"].map(|name| pool.lab.path(name));
    for (directory, text) in [(&source, "usual"), (&other, "other")] {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("text"), text).unwrap();
    }
    let bundle = pool.filled(1, "cat /mnt/text", |config| {
        push(&mut config["mounts"], json!({"destination": "/mnt", "source": source, "options": ["bind"]}));
    });
    fs::rename(&source, &aside).unwrap();
    fs::rename(&other, &source).unwrap();
    // Another one is made.
    let parked = pool.parked().pop().unwrap();
    common::host("kill", &["-9", &parked.to_string()]);
    eventually(|| pool.parked().iter().any(|pid| *pid != parked));
    pool.await_ready(&bundle, 1);
    fs::rename(&source, &other).unwrap();
    fs::rename(&aside, &source).unwrap();
    assert_eq!(pool.microrun(&["run", &bundle.operand()]).ok(), "usual");
}

#[test]
fn a_detached_container_is_managed_like_a_cold_one() {
    let pool = pool!();
    let bundle = pool.filled(1, "trap 'exit 0' TERM; while :; do sleep 0.1; done", |_| {});
    let pid_file = bundle.path.join("pid");
    let id = format!("{}-given", bundle.id);
    pool.run_detached(&bundle, &["--pid-file", pid_file.to_str().unwrap(), &id]);
    let state: Value = serde_json::from_str(&pool.microrun(&["state", &id]).ok()).unwrap();
    assert_eq!(state["status"], "running");
    assert_eq!(state["pid"].to_string(), fs::read_to_string(&pid_file).unwrap());
    assert_eq!(pool.microrun(&["exec", &id, "echo", "inside"]).ok(), "inside");
    pool.microrun(&["pause", &id]).ok();
    assert_eq!(pool.lab.status(&id), "paused");
    pool.microrun(&["resume", &id]).ok();
    pool.microrun(&["kill", &id, "TERM"]).ok();
    eventually(|| pool.lab.status(&id) == "stopped");
    pool.microrun(&["delete", &id]).ok();
    assert_eq!(pool.microrun(&["list", "-q"]).ok(), "");
}

#[test]
fn what_runs_outlives_a_killed_pool_and_what_waits_does_not() {
    let mut pool = pool!();
    let bundle = pool.filled(2, "sleep 1000", |_| {});
    let id = format!("{}-running", bundle.id);
    pool.run_detached(&bundle, &[&id]);
    pool.await_ready(&bundle, 2);
    pool.kill();
    assert_eq!(pool.lab.status(&id), "running");
    pool.restart();
    assert!(fs::read_dir(pool.lab.path("pool/parked")).unwrap().next().is_none());
    pool.microrun(&["delete", "--force", &id]).ok();
}

#[test]
fn signals_reach_the_container() {
    let pool = pool!();
    // But for SIGWINCH, which is about a terminal that the container has not. Of signals that wait together, the one with the lower
    // number is taken first.
    let script = "trap 'exit 4' WINCH; trap 'echo pwr; exit 3' PWR; echo ready; while :; do sleep 0.1; done";
    let bundle = pool.filled(1, script, |_| {});
    let out = bundle.path.join("out");
    let mut command = pool.command(&run_args(&bundle, &[]));
    let mut running = command.stdout(fs::File::create(&out).unwrap()).spawn().unwrap();
    eventually(|| fs::read_to_string(&out).unwrap() == "ready\n");
    for signal in [Signal::SIGWINCH, Signal::SIGPWR] {
        kill(Pid::from_raw(running.id() as i32), signal).unwrap();
    }
    assert_eq!(running.wait().unwrap().code(), Some(3));
    assert_eq!(fs::read_to_string(&out).unwrap(), "ready\npwr\n");
}

/// The pool has the container locked to its end.
#[test]
fn limits_are_changed_while_the_command_waits() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo ready; sleep 1000", |_| {});
    let out = bundle.path.join("out");
    let id = format!("{}-given", bundle.id);
    let mut command = pool.command(&run_args(&bundle, &[&id]));
    let mut running = command.stdout(fs::File::create(&out).unwrap()).spawn().unwrap();
    eventually(|| fs::read_to_string(&out).unwrap() == "ready\n");
    pool.microrun(&["update", "--pids-limit", "20", &id]).ok();
    pool.microrun(&["kill", &id, "KILL"]).ok();
    assert_eq!(running.wait().unwrap().code(), Some(137));
    // Also of the cgroup that the update has it join, on a hybrid machine.
    eventually(|| pool.is_gone(1));
}

#[test]
fn what_cannot_wait_is_refused_with_the_field() {
    type Place = fn(&mut Value) -> &mut Value;
    let pool = pool!();
    let upper = json!({"destination": "/mnt", "type": "overlay", "source": "overlay",
        "options": ["lowerdir=/l", "upperdir=/u", "workdir=/w"]});
    let lower = json!({"destination": "/mnt", "type": "overlay", "source": "overlay", "options": ["lowerdir=/l:/m"]});
    let disk = json!({"destination": "/mnt", "type": "ext4", "source": "/dev/sda1"});
    let changes: [(&str, Place, Value); 8] = [
        ("linux.cgroupsPath", |config| &mut config["linux"]["cgroupsPath"], json!("/x")),
        ("linux.intelRdt", |config| &mut config["linux"]["intelRdt"], json!({"enableMonitoring": true})),
        ("hooks", |config| &mut config["hooks"], json!({"prestart": [{"path": "/bin/true"}]})),
        ("keep_original_groups", |config| &mut config["annotations"], json!({"run.oci.keep_original_groups": "1"})),
        ("org.microrun.overlay", |config| &mut config["annotations"], json!({"org.microrun.overlay": "above"})),
        ("upperdir", |config| &mut config["mounts"], json!([upper])),
        ("mounts[0].options (lowerdir)", |config| &mut config["mounts"], json!([lower])),
        ("mounts[0].source", |config| &mut config["mounts"], json!([disk])),
    ];
    for (field, place, value) in changes {
        let bundle = pool.lab.bundle(|config| {
            config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
            *place(config) = value;
        });
        let told = pool.microrun(&["pool", "fill", bundle.path.to_str().unwrap()]).failed();
        assert!(told.contains(field), "{told}");
    }
}

#[test]
fn a_directory_in_the_place_of_a_bundle_takes_its_place_in_the_pool() {
    let pool = pool!();
    let bundle = pool.filled(2, "true", |_| {});
    let path = bundle.path.to_str().unwrap();
    let old = pool.lab.path("old");
    std::fs::rename(&bundle.path, &old).unwrap();
    common::host("cp", &["-a", old.to_str().unwrap(), path]);
    pool.microrun(&["pool", "fill", "--size", "1", path]).ok();
    pool.await_ready(&bundle, 1);
    assert_eq!(pool.status()["bundles"].as_array().unwrap().len(), 1);
    eventually(|| pool.parked().len() == 1);
    std::fs::remove_dir_all(&bundle.path).unwrap();
    common::host("cp", &["-a", old.to_str().unwrap(), path]);
    pool.microrun(&["pool", "drain", path]).ok();
    eventually(|| pool.is_gone(0));
}

#[test]
fn no_descriptor_but_three_is_enough() {
    let pool = pool!();
    let limit = json!([{"type": "RLIMIT_NOFILE", "soft": 3, "hard": 3}]);
    let bundle = pool.filled(1, "ulimit -n", |config| config["process"]["rlimits"] = limit);
    assert_eq!(pool.run(&bundle, &[]).ok(), "3");
}

#[test]
fn the_limits_of_who_asks_are_the_containers() {
    let pool = pool!();
    let bundle = pool.filled(1, "ulimit -n; ulimit -s", |config| {
        config["process"].as_object_mut().unwrap().remove("rlimits");
    });
    let run = pool.command(&run_args(&bundle, &[]));
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 77; ulimit -s 4096; exec \"$@\"", "sh"]).arg(run.get_program()).args(run.get_args());
    command.env("MICRORUN_POOL", pool.socket());
    assert_eq!(output(command).ok(), "77\n4096");
}

#[test]
fn the_containers_user_owns_its_stdio() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo again >/dev/stdout", |config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    assert_eq!(pool.run(&bundle, &[]).ok(), "again");
}

/// What a sandbox that [`said`] has started writes and returns.
struct Said {
    text: String,
    code: i32,
}

impl Pool {
    fn library(&self, bundle: &Bundle) -> pool::Pool {
        pool::Pool::at(self.socket(), self.lab.path("run"), &bundle.path).unwrap()
    }
}

/// Starts the program of `sandbox` with a pipe, and sees it through.
#[track_caller]
fn said(sandbox: pool::Sandbox, args: Option<&[&CStr]>, env: &[&CStr]) -> Said {
    let (mut reader, mut running) = started(sandbox, args, env);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let code = running.wait();
    Said { code: code.unwrap(), text }
}

#[track_caller]
fn started(sandbox: pool::Sandbox, args: Option<&[&CStr]>, env: &[&CStr]) -> (PipeReader, pool::Running) {
    let (reader, writer) = std::io::pipe().unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let stdio = pool::Stdio { stdin: null.as_fd(), stdout: writer.as_fd(), stderr: writer.as_fd() };
    (reader, sandbox.start(stdio, args, env).unwrap())
}

#[test]
fn a_lease_is_started_with_arguments_and_an_environment_of_its_own() {
    let pool = pool!();
    let bundle = pool.filled(2, "exit 9", |config| {
        config["process"]["env"] = json!(["PATH=/bin", "KEPT=1", "REPLACED=before", "REPLACED_NOT=2"]);
    });
    let library = pool.library(&bundle);
    let script = c"for word; do echo $word; done; echo $KEPT $REPLACED $REPLACED_NOT $NEW; env | wc -l; exit 3";
    let args = [c"-c", script, c"name", c"one", c"", c"two words"];
    let given = said(library.lease().unwrap(), Some(&args), &[c"REPLACED=after=all", c"NEW=4"]);
    // PWD and the like are the shell's.
    let lines: Vec<&str> = given.text.lines().collect();
    assert_eq!(lines.get(..4), Some(&["one", "", "two words", "1 after=all 2 4"][..]), "{} {}", given.code, given.text);
    assert_eq!(given.code, 3);
    let own = said(library.lease().unwrap(), None, &[]);
    assert_eq!((own.text.as_str(), own.code), ("", 9));
    assert_eq!(pool.served(), 2);
}

#[test]
fn a_started_lease_is_a_container_like_any_other() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo ready; sleep 1000", |_| {});
    let library = pool.library(&bundle);
    let id = format!("{}-leased", bundle.id);
    let sandbox = library.lease_as(&id).unwrap();
    assert_eq!(sandbox.id(), id);
    let (mut reader, mut running) = started(sandbox, None, &[]);
    reader.read_exact(&mut [0; 6]).unwrap();
    let state: Value = serde_json::from_str(&pool.microrun(&["state", &id]).ok()).unwrap();
    assert_eq!((&state["status"], &state["pid"]), (&json!("running"), &json!(running.pid())));
    assert_eq!(pool.microrun(&["exec", &id, "echo", "inside"]).ok(), "inside");
    pool.await_ready(&bundle, 1);
    let told = library.lease_as(&id).unwrap_err();
    assert_eq!(told.kind(), Kind::WrongState, "{told}");
    running.kill(libc::SIGTERM).unwrap();
    running.kill(libc::SIGKILL).unwrap();
    assert_eq!((running.wait().unwrap(), running.wait().unwrap()), (137, 137));
    eventually(|| pool.is_gone(1));
}

#[test]
fn without_a_sandbox_the_reason_is_told() {
    let mut pool = pool!();
    let bundle = pool.filled(1, "true", |_| {});
    let other = pool.lab.bundle(|_| {});
    let reason = |bundle: &Bundle| pool.library(bundle).lease().unwrap_err();
    assert!(reason(&other).to_string().contains("no parts for this bundle"), "{}", reason(&other));
    assert_eq!(reason(&other).kind(), Kind::WrongState);
    assert!(pool::Pool::open("/nonexistent").unwrap_err().to_string().contains("find the bundle /nonexistent"));
    let library = pool.library(&bundle);
    pool.kill();
    let told = library.lease().unwrap_err().to_string();
    assert!(told.contains("no pool listens"), "{told}");
    pool.restart();
}

#[test]
fn strings_that_do_not_fit_are_refused_and_the_sandbox_ends() {
    let pool = pool!();
    let bundle = pool.filled(1, "true", |_| {});
    let many = vec![c"x"; 1025];
    let sandbox = pool.library(&bundle).lease().unwrap();
    let told = sandbox.start(pool::Stdio::inherit(), Some(&many), &[]).unwrap_err().to_string();
    assert!(told.contains("1025 arguments and environment entries are too many"), "{told}");
    pool.await_ready(&bundle, 1);
    eventually(|| pool.is_gone(1));
    // With those of process.env they are too many all the same, which only the sandbox knows.
    let mut running = pool.library(&bundle).lease().unwrap().start(pool::Stdio::inherit(), None, &{
        let mut entries = vec![c"A=1"; 1023];
        entries.push(c"B=2");
        entries
    });
    let told = running.as_mut().unwrap().wait().unwrap_err().to_string();
    assert!(told.contains("more than 1024 arguments and environment entries"), "{told}");
    // And what just fits is there.
    pool.await_ready(&bundle, 1);
    let long = CString::new(vec![b'x'; 60_000]).unwrap();
    let given = said(pool.library(&bundle).lease().unwrap(), Some(&[c"-c", c"echo ${#0}", &long]), &[]);
    assert_eq!((given.text.as_str(), given.code), ("60000\n", 0));
}

#[test]
fn a_lease_that_is_dropped_leaves_nothing() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo started", |_| {});
    let sandbox = pool.library(&bundle).lease().unwrap();
    let id = sandbox.id().to_owned();
    assert_eq!(pool.lab.status(&id), "running");
    drop(sandbox);
    pool.await_ready(&bundle, 1);
    eventually(|| pool.is_gone(1));
}

#[test]
fn a_lease_outlives_its_pool() {
    let mut pool = pool!();
    let bundle = pool.filled(2, "echo hello; exit 5", |_| {});
    let (used, dropped) = (pool.library(&bundle).lease().unwrap(), pool.library(&bundle).lease().unwrap());
    pool.kill();
    drop(dropped);
    let (mut reader, mut running) = started(used, None, &[]);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\n");
    match running.wait() {
        Ok(code) => assert_eq!(code, 5),
        Err(error) => assert!(common::kernel() < (6, 15), "{error}"),
    }
    pool.restart();
    eventually(|| pool.is_gone(0));
}

#[test]
fn a_started_lease_that_is_dropped_goes_on() {
    let pool = pool!();
    let bundle = pool.filled(1, "sleep 1000", |_| {});
    let (_reader, running) = started(pool.library(&bundle).lease().unwrap(), None, &[]);
    let id = running.id().to_owned();
    drop(running);
    pool.await_ready(&bundle, 1);
    assert_eq!(pool.lab.status(&id), "running");
    pool.microrun(&["delete", "--force", &id]).ok();
    eventually(|| pool.is_gone(1));
}

#[test]
fn who_makes_sandboxes_goes_first_and_containers_do_not() {
    let pool = pool!();
    // Its 19th field (proc_pid_stat(5)).
    let nice = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        rest.split_whitespace().nth(16).unwrap().parse::<i32>().unwrap()
    };
    let bundle = pool.filled(1, "cut -d ' ' -f 19 /proc/self/stat", |_| {});
    let own = nice(pool.server.id());
    assert_eq!(pool.makers().iter().map(|pid| nice(pid.unsigned_abs())).collect::<Vec<_>>(), [(own - 5).max(-20)]);
    assert_eq!(pool.parked().iter().map(|pid| nice(pid.unsigned_abs())).collect::<Vec<_>>(), [own]);
    assert_eq!(pool.run(&bundle, &[]).ok(), own.to_string());
}

#[test]
fn what_an_update_records_stays_when_the_start_is_recorded() {
    let pool = pool!();
    let bundle = pool.filled(1, "sleep 1000", |_| {});
    let name = fs::read_dir(pool.lab.path("pool/parked")).unwrap().next().unwrap().unwrap().file_name();
    let parked = pool.lab.path("pool/parked").join(&name).join("state.json");
    let recorded: Value = serde_json::from_str(&fs::read_to_string(&parked).unwrap()).unwrap();
    // As an update does that has begun: it has the file, and what it read there.
    let file = fs::File::open(&parked).unwrap();
    let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap();
    pool.run_detached(&bundle, &[]);
    let directory = pool.lab.path("run").join(&name);
    let mut updated = recorded.clone();
    updated["resources"] = json!({"pids": {"limit": 20}});
    fs::write(directory.join(".state.json.staged"), updated.to_string()).unwrap();
    fs::rename(directory.join(".state.json.staged"), directory.join("state.json")).unwrap();
    drop(lock);
    let now = || serde_json::from_str::<Value>(&fs::read_to_string(directory.join("state.json")).unwrap()).unwrap();
    eventually(|| now()["created"] != recorded["created"]);
    assert_eq!(now()["resources"]["pids"]["limit"], 20);
    pool.microrun(&["delete", "--force", name.to_str().unwrap()]).ok();
}
