//! Escapes that have happened to container runtimes, tried on this one. Each test is named after its advisories, attacks
//! with a real bundle, and fails where the defence is taken out. docs/trust.md says where the line is.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{BUSYBOX, Bundle, Lab, Output, eventually, host, output, push};
use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::{Value, json};
use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Runs `script` in `bundle`, whose configuration is changed for that.
fn run_script(lab: &Lab, bundle: &Bundle, script: &str, change: impl FnOnce(&mut Value)) -> Output {
    let file = bundle.path.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    config["process"]["args"] = json!(["sh", "-c", script]);
    change(&mut config);
    fs::write(file, config.to_string()).unwrap();
    lab.run(bundle, &[])
}

fn grant(config: &mut Value, capability: &str) {
    for set in ["bounding", "effective", "permitted"] {
        push(&mut config["process"]["capabilities"][set], json!(capability));
    }
}

fn add(config: &mut Value, mount: Value) {
    push(&mut config["mounts"], mount);
}

fn bind(source: &Path, destination: &str) -> Value {
    json!({"destination": destination, "source": source, "options": ["rbind"]})
}

fn tmpfs(destination: &str) -> Value {
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"})
}

/// Leaves the tmpfs at /dev, and what is in it, out: the image's own is used.
fn without_dev(config: &mut Value) {
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
}

/// A directory of the host that no container has to do with.
struct Outside {
    path: PathBuf,
}

impl Outside {
    fn new(lab: &Lab) -> Self {
        let path = lab.path("outside");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("secret"), "secret").unwrap();
        Self { path }
    }

    /// Fails if it is not as it was made.
    #[track_caller]
    fn assert_untouched(&self, after: &dyn std::fmt::Debug) {
        let names: Vec<_> = fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"], "the host was changed: {after:?}");
        assert_eq!(fs::read(self.path.join("secret")).unwrap(), b"secret", "the host was changed: {after:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.path.to_str().unwrap()), "something is mounted on the host: {after:?}");
    }

    /// It, as symbolic links of an image may name it: absolutely, and from `depth` directories below the root.
    fn links(&self, depth: usize) -> [PathBuf; 2] {
        let up = "../".repeat(depth + 20);
        [self.path.clone(), Path::new(&up).join(self.path.strip_prefix("/").unwrap())]
    }
}

/// Exchanges two names (renameat2(2)), or not if one of them is away just now.
#[allow(unsafe_code, reason = "nix has the call for glibc alone")]
fn exchange(one: &CStr, other: &CStr) {
    // SAFETY: both are strings that live through the call, which writes to no memory.
    unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        );
    }
}

/// Runs `attacked` while two names are exchanged as fast as can be; how often they were, at least 10,000 times.
fn raced(one: &Path, other: &Path, mut attacked: impl FnMut() -> bool) {
    let [one, other] = [one, other].map(|path| CString::new(path.as_os_str().as_bytes()).unwrap());
    let (done, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                exchange(&one, &other);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        // A failing attack must not leave the racer running.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while attacked() || rounds.load(Ordering::Relaxed) < 10_000 {}
        }));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// True `count` times.
fn times(count: u32) -> impl FnMut() -> bool {
    let mut left = count;
    move || {
        left = left.saturating_sub(1);
        left > 0
    }
}

#[test]
fn cve_2015_3627_and_3629_destinations_are_inside_the_root() {
    let lab = lab!();
    let outside = Outside::new(&lab);
    for link in outside.links(1) {
        let bundle = lab.bundle(|_| {});
        // What the container sees by the link is inside its root.
        symlink(&link, bundle.rootfs().join("mnt/link")).unwrap();
        for below in ["", "/below"] {
            let output = run_script(&lab, &bundle, "cat /proc/self/mountinfo", |config| {
                add(config, tmpfs(&format!("/mnt/link{below}")));
            });
            outside.assert_untouched(&output);
            let place = format!(" / {}{below} ", outside.path.display());
            assert!(output.stdout.contains(&place), "{place}: {output:?}");
        }
    }
}

#[test]
fn cve_2016_3697_a_number_is_no_name() {
    let lab = lab!();
    let bundle = lab.sleeper(|config| config["process"]["user"] = json!({"uid": 1000, "gid": 1000}));
    fs::write(bundle.rootfs().join("etc/passwd"), "1000:x:0:0::/root:/bin/sh\n").unwrap();
    let ids = |options: &[&str]| lab.exec(&bundle, options, &["sh", "-c", "id -u; id -g"]).ok();
    assert_eq!(ids(&[]), "1000\n1000");
    assert_eq!(ids(&["--user", "1000"]), "1000\n1000");
    assert!(lab.exec(&bundle, &["--user", "root"], &["true"]).failed().contains("bad uid"));
}

/// The container's root looks at every process that it sees for an executable that is not its own. Without a program for
/// that: a process that joins is there for less than a millisecond.
#[test]
fn cve_2016_9962_the_joining_runtime_cannot_be_looked_into() {
    let lab = lab!();
    let look = "while :; do for p in /proc/[0-9]*; do \
        [ -e $p/exe ] && ! [ $p/exe -ef /bin/busybox ] && [ -e $p/exe ] && echo $p >> /dev/found; done; done";
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sh", "-c", format!("({look}) & {look}")]));
    lab.started(&bundle);
    for _ in 0..100 {
        lab.exec(&bundle, &[], &["true"]).ok();
    }
    assert_eq!(lab.exec(&bundle, &[], &["sh", "-c", "cat /dev/found || echo none"]).ok(), "none");
}

/// Puts the libraries of the runtime into a root, unless it is static.
fn install_libraries(lab: &Lab, bundle: &Bundle) {
    // A system without ldd(1) runs static programs.
    let Ok(listed) = Command::new("ldd").arg(lab.path("microrun")).output() else { return };
    for library in String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        let inside = bundle.rootfs().join(&library[1..]);
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(library, inside).unwrap();
    }
}

/// What writes to every executable that it sees but its own: it opens it for reading, waits until nobody executes it, and
/// opens it again by its descriptor.
const OVERWRITE: &str = "cd /proc; while :; do for p in [0-9]*; do case $(readlink $p/exe) in */busybox|'') ;; *) \
    (exec 8< $p/exe && echo found > /tmp/found && for i in $(seq 300); do echo overwritten > /proc/self/fd/8 && break; \
    done) ;; esac; done; done 2> /dev/null";

#[test]
fn cve_2019_5736_the_runtimes_binary_cannot_be_overwritten() {
    let lab = lab!();
    let binary = || fs::read(lab.path("microrun")).unwrap();
    let before = binary();
    let tmp = lab.path("tmp");
    fs::create_dir(&tmp).unwrap();
    let attacker = lab.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", OVERWRITE]);
        grant(config, "CAP_DAC_OVERRIDE");
        add(config, bind(&tmp, "/tmp"));
    });
    install_libraries(&lab, &attacker);
    let pid = lab.started(&attacker);
    let script = attacker.rootfs().join("script");
    common::executable(&script, "#!/proc/self/exe\n");
    // The attacker has to look at the right moment, which it may take long to hit on a busy machine.
    let deadline = Instant::now() + Duration::from_secs(200);
    let has_seen = || tmp.join("found").exists();
    for round in 0.. {
        if round >= 8 && (has_seen() || Instant::now() > deadline) {
            break;
        }
        for program in ["/proc/self/exe", "/script"] {
            // By exec; it is the runtime that is executed in the container then.
            let arguments = if program == "/script" { &[program][..] } else { &[program, "features"] };
            lab.exec(&attacker, &[], arguments);
            assert!(binary() == before, "exec {program}: the runtime was overwritten");
            // By run, in the attacker's pid namespace.
            let victim = lab.bundle(|config| {
                config["process"]["args"] = json!(arguments);
                config["linux"]["namespaces"][0]["path"] = json!(format!("/proc/{pid}/ns/pid"));
            });
            install_libraries(&lab, &victim);
            fs::copy(&script, victim.rootfs().join("script")).unwrap();
            lab.run(&victim, &[]);
            assert!(binary() == before, "run {program}: the runtime was overwritten");
        }
    }
    assert!(has_seen(), "the attacker has not seen the runtime");
}

/// The same looked at from outside, for each way to call the runtime: all that it has mapped of its file is on a read-only mount. To others it
/// is what was called.
#[test]
fn cve_2019_5736_the_runtimes_binary_is_read_only_whatever_it_is_called_by() {
    let lab = lab!();
    let (binary, link, other) = (lab.path("microrun"), lab.path("link"), lab.path("other"));
    symlink(&binary, &link).unwrap();
    fs::write(&other, "").unwrap();
    let bind = "mount --bind $1 $2; shift; exec \"$@\"";
    let descriptor = "exec 9<$1; shift; exec /proc/self/fd/9 \"$@\"";
    let ways: [(&str, &[&str]); 6] = [
        ("its path", &[binary.to_str().unwrap()]),
        ("a path from here", &["./microrun"]),
        ("a path with two slashes", &[".//microrun"]),
        ("a symbolic link", &[link.to_str().unwrap()]),
        (
            "a mount of the file alone",
            &["unshare", "-m", "sh", "-c", bind, "sh", binary.to_str().unwrap(), other.to_str().unwrap()],
        ),
        ("a descriptor", &["sh", "-c", descriptor, "sh", binary.to_str().unwrap()]),
    ];
    let inode = fs::metadata(&binary).unwrap().ino();
    for (way, words) in ways {
        let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
        let verb = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(verb.get_args()).env("TOLD", way).current_dir(lab.path(""));
        let mut run = command.stdin(Stdio::null()).spawn().unwrap();
        eventually(|| lab.status(&bundle.id) == "running");
        let process = PathBuf::from(format!("/proc/{}", run.id()));
        let is_read_only = |file: &Path| statvfs(file).unwrap().flags().contains(FsFlags::ST_RDONLY);
        let exe = fs::metadata(process.join("exe")).unwrap_or_else(|error| panic!("by {way}: {error}"));
        assert_eq!(exe.ino(), inode, "by {way}");
        assert!(is_read_only(&process.join("exe")), "by {way} the executable can be written to");
        let mapped = fs::read_dir(process.join("map_files")).unwrap().map(|file| file.unwrap().path());
        let own: Vec<PathBuf> =
            mapped.filter(|file| fs::metadata(file).is_ok_and(|file| file.ino() == inode)).collect();
        assert!(own.len() > 2 && own.iter().all(|file| is_read_only(file)), "by {way}: {own:?}");
        let arguments = fs::read(process.join("cmdline")).unwrap();
        let expected = verb.get_args().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect::<Vec<u8>>();
        assert!(arguments.ends_with(&expected), "by {way}: {}", String::from_utf8_lossy(&arguments));
        let environment = fs::read(process.join("environ")).unwrap();
        let told = format!("TOLD={way}\0");
        assert!(
            environment.windows(told.len()).any(|words| words == told.as_bytes()),
            "by {way}: the environment is lost"
        );
        lab.microrun(&["kill", &bundle.id, "KILL"]).ok();
        assert_eq!(run.wait().unwrap().code(), Some(137));
    }
}

#[test]
fn cve_2019_16884_nothing_is_mounted_over_proc() {
    let lab = lab!();
    let source = lab.path("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("file"), "text").unwrap();
    for (destination, refused) in [
        ("/proc/sys", true),
        ("/proc/self/attr", true),
        ("/proc/1/fd", true),
        ("/proc/cpuinfo", false),
        ("/proc/meminfo", false),
        ("/proc/../proc/uptime", false),
    ] {
        let from = if refused { source.clone() } else { source.join("file") };
        let output = lab.shell(&format!("cat {destination}"), |config| add(config, bind(&from, destination)));
        if refused {
            let error = output.failed();
            assert!(error.contains("cannot be mounted because it is inside /proc"), "{destination}: {error}");
        } else {
            assert_eq!(output.ok(), "text", "{destination}");
        }
    }
    for mount in [tmpfs("/proc"), bind(&source, "/proc"), tmpfs("/proc/"), tmpfs("/mnt/../proc")] {
        let error = lab.shell("true", |config| config["mounts"][0] = mount).failed();
        assert!(error.contains("/proc"), "{error}");
        // Above a procfs as well, where it comes from.
        let error = lab.shell("true", |config| add(config, bind(&source, "/proc"))).failed();
        assert!(error.contains("/proc"), "{error}");
    }
}

/// crun; runc's CVE-2015-3627 for what is still to be made.
#[test]
fn cve_2019_18837_a_dangling_last_link_is_made_inside() {
    let lab = lab!();
    let outside = Outside::new(&lab);
    let file = lab.path("file");
    fs::write(&file, "text").unwrap();
    for link in outside.links(1) {
        for mount in [tmpfs("/mnt/link"), bind(&file, "/mnt/link")] {
            let bundle = lab.bundle(|_| {});
            symlink(link.join("new"), bundle.rootfs().join("mnt/link")).unwrap();
            let output = run_script(&lab, &bundle, "true", |config| add(config, mount));
            outside.assert_untouched(&output);
            output.ok();
        }
    }
}

/// And CVE-2023-27561, CVE-2023-28642, youki's CVE-2025-54867.
#[test]
fn cve_2019_19921_proc_and_sys_are_plain_directories() {
    let lab = lab!();
    let volume = lab.path("volume");
    fs::create_dir(&volume).unwrap();
    for name in ["proc", "sys"] {
        for target in ["tmp", "/tmp", "/volume/sub", "../../../../tmp", "mnt/../tmp", "/proc/self/cwd"] {
            let bundle = lab.bundle(|_| {});
            fs::remove_dir(bundle.rootfs().join(name)).unwrap();
            symlink(target, bundle.rootfs().join(name)).unwrap();
            let error = run_script(&lab, &bundle, "true", |config| {
                config["mounts"].as_array_mut().unwrap().insert(0, bind(&volume, "/volume"));
            });
            assert!(error.stderr.contains("ordinary directory"), "{error:?}");
            assert_eq!(error.code, 1, "{error:?}");
        }
    }
}

/// runc's advisory: an empty list of device rules allowed every device.
#[test]
fn ghsa_g54h_m393_cpwq_devices_are_denied_by_default() {
    let lab = lab!();
    for rules in [json!([]), Value::Null] {
        for version in ["1.0.2", "1.3.0"] {
            let output = lab.shell("mknod /dev/own c 10 237; cat /dev/own; echo > /dev/null && echo x", |config| {
                config["ociVersion"] = json!(version);
                config["linux"]["resources"]["devices"] = rules.clone();
                grant(config, "CAP_MKNOD");
            });
            assert_eq!(output.stdout, "x", "{output:?}");
            assert!(output.stderr.contains("'/dev/own': Operation not permitted"), "{output:?}");
        }
    }
}

/// Two containers share a volume; one exchanges a directory for a symbolic link to / while the other's mounts are made.
#[test]
fn cve_2021_30465_the_target_of_a_mount_is_pinned() {
    let lab = lab!();
    let outside = Outside::new(&lab);
    let volume = lab.path("volume");
    fs::create_dir_all(volume.join("sub/usr")).unwrap();
    symlink("/", volume.join("link")).unwrap();
    let bundle = lab.bundle(|config| {
        add(config, bind(&volume, "/mnt"));
        add(config, tmpfs("/mnt/sub/usr"));
        config["process"]["args"] = json!(["cat", "/proc/self/mountinfo"]);
    });
    fs::create_dir_all(bundle.rootfs().join("usr")).unwrap();
    let mut again = times(60);
    raced(&volume.join("sub"), &volume.join("link"), || {
        let output = lab.run(&bundle, &[]);
        outside.assert_untouched(&output);
        // Wherever it was at that moment, inside: on the host's /usr it would not be seen in here.
        let places = ["/mnt/sub/usr", "/mnt/link/usr", "/usr"];
        let seen = |place: &&str| output.stdout.contains(&format!(" / {place} "));
        assert!(output.code != 0 || places.iter().any(seen), "{output:?}");
        again()
    });
}

/// runc: a field longer than its length field could say was cut, and what came after read as more fields.
#[test]
fn cve_2021_43784_a_field_of_any_length_is_whole_or_refused() {
    let lab = lab!();
    let long = "a".repeat(70_000);
    // One that could be cut: then it would be the path of something else, and as good as any.
    let steps = "./".repeat(35_000);
    for change in [
        Box::new(|config: &mut Value| config["linux"]["namespaces"][0]["path"] = json!(format!("/{long}")))
            as Box<dyn Fn(&mut Value)>,
        Box::new(|config| config["linux"]["cgroupsPath"] = json!(format!("/{long}"))),
        Box::new(|config| add(config, tmpfs(&format!("/{long}")))),
        Box::new(|config| config["process"]["cwd"] = json!(format!("/{long}"))),
        Box::new(|config| add(config, tmpfs(&"/a".repeat(35_000)))),
        Box::new(|config| add(config, bind(Path::new(&format!("/{steps}etc")), "/mnt"))),
        Box::new(|config| config["process"]["cwd"] = json!(format!("/{steps}tmp"))),
        // "." is left out of such a path before it is used, ".." is not.
        Box::new(|config| push(&mut config["linux"]["maskedPaths"], json!(format!("/{}etc", "../".repeat(35_000))))),
        Box::new(|config| config["process"]["apparmorProfile"] = json!(long)),
        Box::new(|config| {
            push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
            for field in ["uidMappings", "gidMappings"] {
                let mapping = |id: u32| json!({"containerID": id, "hostID": 100_000 + id, "size": 1});
                config["linux"][field] = (0..20_000).map(mapping).collect();
            }
        }),
    ] {
        let output = lab.shell("echo ran", |config| change(config));
        let said: String = output.stderr.chars().take(200).collect();
        assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{said} …");
    }
    let output = lab.shell("ls /mnt | wc -l", |config| {
        push(&mut config["linux"]["maskedPaths"], json!(format!("/{steps}mnt")));
    });
    assert_eq!(output.ok(), "0");
    // A whole one is a value that the program gets.
    let output =
        lab.shell("echo ${#LONG}", |config| push(&mut config["process"]["env"], json!(format!("LONG={long}"))));
    assert_eq!(output.ok(), "70000");
}

/// And crun's CVE-2022-27650, youki's CVE-2025-27612.
#[test]
fn cve_2022_29162_capabilities_are_not_inheritable() {
    let lab = lab!();
    let script = "grep ^Cap /proc/self/status | cut -f2";
    // CapInh, CapPrm, CapEff, CapBnd, CapAmb
    let (none, own, more) = ("0000000000000000", "0000000020000420", "0000000020000421");
    assert_eq!(lab.shell(script, |_| {}).ok(), [none, own, own, own, none].join("\n"));
    let bundle = lab.sleeper(|_| {});
    let sets = |options: &[&str]| lab.exec(&bundle, options, &["sh", "-c", script]).ok();
    assert_eq!(sets(&[]), [none, own, own, own, none].join("\n"));
    assert_eq!(sets(&["--cap", "CAP_CHOWN"]), [none, more, more, more, none].join("\n"));
    // execve(2) takes them from a user without ambient ones (capabilities(7)).
    assert_eq!(sets(&["--user", "1"]), [none, none, none, own, none].join("\n"));
}

#[test]
fn cve_2023_25809_a_users_cgroups_are_hidden_without_a_namespace_of_their_own() {
    let lab = match Lab::for_user() {
        Ok(lab) => lab,
        Err(why) => skip!("{why}"),
    };
    // What the user owns on the host must not be writable inside.
    let unified = common::hierarchies().iter().any(|hierarchy| hierarchy.join("cgroup.controllers").exists());
    for kind in if unified { &["cgroup", "cgroup2"][..] } else { &["cgroup"] } {
        let output = lab.shell("ls /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs", |config| {
            push(&mut config["mounts"], json!({"destination": "/sys/fs/cgroup", "type": kind}));
        });
        assert_eq!(output.stdout, "", "{kind}: {output:?}");
        assert!(output.stderr.contains("No such file"), "{kind}: {output:?}");
    }
    let output = lab.shell("mkdir /sys/fs/cgroup/x || find /sys/fs/cgroup -name cgroup.procs -writable", |_| {});
    assert_eq!(output.stdout, "", "{output:?}");
}

#[test]
fn cve_2024_21626_the_working_directory_is_inside() {
    let lab = lab!();
    let bundle = lab.sleeper(|_| {});
    for fd in 0..64 {
        let cwd = format!("/proc/self/fd/{fd}");
        let output = lab.exec(&bundle, &["--cwd", &cwd], &["ls", "../../../../../../etc/hostname"]);
        assert_eq!(output.code, 255, "{fd}: {output:?}");
    }
    // With a descriptor of the host's root that the runtime is given.
    for fd in 0..24 {
        let victim = lab.bundle(|config| {
            config["process"]["args"] = json!(["ls", "../../../../../../etc/hostname"]);
            config["process"]["cwd"] = json!(format!("/proc/self/fd/{fd}"));
        });
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3</ 4</ 9</; exec \"$@\"", "sh"]).arg(lab.path("microrun"));
        command.arg("--root").arg(lab.path("run")).args(["run", "--preserve-fds", "2", "--bundle"]);
        command.arg(&victim.path).arg(&victim.id);
        let output = output(command);
        assert!(output.code != 0 && !output.stdout.contains("hostname"), "{fd}: {output:?}");
    }
}

/// The third attack of CVE-2024-21626: the program, a hook or a script's interpreter is found through what the runtime has open.
#[test]
fn cve_2024_21626_the_program_is_inside() {
    /// More than the runtime has open.
    const NUMBERS: std::ops::Range<u32> = 3..20;
    let lab = lab!();
    let outside = lab.path("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::copy(BUSYBOX, outside.join("busybox")).unwrap();
    let through = |fd: u32| format!("/proc/self/fd/{fd}{}{}/busybox", "/..".repeat(16), outside.display());
    let prepare = |bundle: &Bundle| {
        for fd in NUMBERS {
            symlink(through(fd), bundle.rootfs().join(format!("bin/link{fd}"))).unwrap();
            let script = bundle.rootfs().join(format!("bin/script{fd}"));
            fs::write(&script, format!("#!/bin/link{fd} sh\necho escaped\n")).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        }
    };
    let running = lab.sleeper(|_| {});
    prepare(&running);
    for fd in NUMBERS {
        let ways = [through(fd), format!("/bin/link{fd}"), format!("link{fd}"), format!("/bin/script{fd}")];
        for (way, uid) in ways.into_iter().zip([0, 0, 1000, 0]) {
            let bundle = lab.bundle(|config| {
                config["process"]["args"] = json!([way, "echo", "escaped"]);
                config["process"]["user"] = json!({"uid": uid, "gid": uid});
            });
            prepare(&bundle);
            let ran = lab.run(&bundle, &[]);
            assert!(ran.code != 0 && !ran.stdout.contains("escaped"), "{way}: {ran:?}");
            let user = uid.to_string();
            let ran = lab.exec(&running, &["--user", &user], &[&way, "echo", "escaped"]);
            assert!(ran.code != 0 && !ran.stdout.contains("escaped"), "{way}: {ran:?}");
        }
        let bundle = lab.bundle(|config| {
            let hook = json!({"path": format!("/bin/link{fd}"), "args": ["sh", "-c", "echo escaped >/escaped"]});
            config["hooks"] = json!({"startContainer": [hook]});
            config["root"]["readonly"] = json!(false);
        });
        prepare(&bundle);
        let ran = lab.run(&bundle, &[]);
        assert!(ran.code != 0 && !bundle.rootfs().join("escaped").exists(), "{fd}: {ran:?}");
    }
    // What is looked for is there.
    let ran = host(outside.join("busybox").to_str().unwrap(), &["echo", "escaped"]);
    assert_eq!(ran, "escaped");
}

/// A directory is exchanged for a link to the host while missing directories below it are made.
#[test]
fn cve_2024_45310_nothing_is_made_on_the_host() {
    let lab = lab!();
    let outside = Outside::new(&lab);
    for link in outside.links(1) {
        let volume = lab.path("volume");
        fs::create_dir_all(volume.join("sub")).unwrap();
        symlink(&link, volume.join("link")).unwrap();
        let bundle = lab.bundle(|config| {
            add(config, bind(&volume, "/mnt"));
            add(config, tmpfs("/mnt/sub/a/b/c"));
            add(config, bind(&volume.join("file"), "/mnt/sub/d/file"));
            config["process"]["cwd"] = json!("/mnt/sub/cwd");
        });
        fs::write(volume.join("file"), "").unwrap();
        let mut again = times(60);
        raced(&volume.join("sub"), &volume.join("link"), || {
            let output = lab.run(&bundle, &[]);
            outside.assert_untouched(&output);
            // So that there is something to make next time.
            for name in ["sub", "link"] {
                for made in ["a", "d", "cwd"] {
                    let path = volume.join(name);
                    if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
                        let _ = fs::remove_dir_all(path.join(made));
                    }
                }
            }
            again()
        });
        fs::remove_dir_all(&volume).unwrap();
    }
}

/// And youki's CVE-2025-62161: what covers a masked path is not the image's /dev/null.
#[test]
fn cve_2025_31133_masks_are_the_hosts_null_device() {
    let lab = lab!();
    for fake in ["link", "file", "fifo", "none"] {
        let bundle = lab.bundle(|config| {
            without_dev(config);
            config["linux"]["maskedPaths"] = json!(["/etc/masked", "/proc/kcore", "/proc/timer_list"]);
        });
        fs::write(bundle.rootfs().join("etc/masked"), "secret").unwrap();
        fs::write(bundle.rootfs().join("etc/other"), "other").unwrap();
        let null = bundle.rootfs().join("dev/null");
        match fake {
            "link" => symlink("/etc/other", &null).unwrap(),
            "file" => fs::write(&null, "other").unwrap(),
            "fifo" => drop(host("mkfifo", &[null.to_str().unwrap()])),
            _ => {}
        }
        let output = run_script(&lab, &bundle, "stat -c %F:%t:%T /etc/masked; cat /etc/masked", |_| {});
        assert_eq!(output.ok(), "character special file:1:3", "{fake}");
    }
}

/// Its mode, owner and times are not the container's to change, and what is mounted on a mask stays inside.
#[test]
fn a_mask_gives_no_hold_of_the_hosts_null_device() {
    let lab = lab!();
    let before = fs::metadata("/dev/null").unwrap();
    // What any root may do anywhere else; the mode is what it is.
    let script = "echo x >/proc/timer_list && cat /proc/timer_list && ! chmod 666 /proc/timer_list && \
                  ! touch /proc/timer_list && ! chown 0 /proc/timer_list && \
                  ! grep -E ' /(null|proc/timer_list) .* shared:' /proc/self/mountinfo && echo done";
    for propagation in ["private", "slave", "shared"] {
        let output = lab.shell(script, |config| {
            config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/timer_list"]);
            config["linux"]["rootfsPropagation"] = json!(propagation);
        });
        assert_eq!(output.ok(), "done", "{propagation}");
    }
    let after = fs::metadata("/dev/null").unwrap();
    assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()));
}

/// What the kernel locks for a user namespace stays locked: a bind that the host has read-only, and what lies below another mount.
#[test]
fn a_user_namespace_changes_nothing_of_the_hosts_mounts() {
    let lab = lab!();
    let source = lab.path("source");
    fs::create_dir_all(source.join("covered")).unwrap();
    fs::write(source.join("covered/secret"), "").unwrap();
    fs::write(source.join("file"), "").unwrap();
    for path in ["", "covered", "covered/secret", "file"] {
        host("chmod", &["777", source.join(path).to_str().unwrap()]);
    }
    let script =
        "mount -o remount,bind,rw /mnt; umount /mnt/covered; ls /mnt /mnt/covered; echo >/mnt/file || echo done";
    let bundle = lab.bundle(|config| {
        let mut mount = bind(&source, "/mnt");
        mount["options"] = json!(["rbind"]);
        add(config, mount);
        config["process"]["args"] = json!(["sh", "-c", script]);
        grant(config, "CAP_SYS_ADMIN");
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        for field in ["uidMappings", "gidMappings"] {
            config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        }
    });
    let outside =
        "mount --bind $1 $1 && mount -o remount,bind,ro $1 && mount -t tmpfs none $1/covered && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", outside, "sh"]).arg(&source).arg(lab.path("microrun"));
    command.arg("--root").arg(lab.path("run")).args(["run", "--bundle"]).arg(&bundle.path).arg(&bundle.id);
    let output = output(command);
    assert_eq!(output.stdout.split_whitespace().last(), Some("done"), "{output:?}");
    assert!(!output.stdout.contains("secret") && output.stderr.contains("umount"), "{output:?}");
}

/// And crun's CVE-2026-88264: what becomes /dev/console is the terminal's slave, and it is bound to nothing else.
#[test]
fn cve_2025_52565_the_console_is_the_terminal() {
    let lab = lab!();
    let on_terminal = |bundle: &Bundle| {
        let pair = nix::pty::openpty(None, None).unwrap();
        let slave = || Stdio::from(pair.slave.try_clone().unwrap());
        let mut command = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        command.stdin(slave()).stdout(slave()).stderr(slave());
        command.status().unwrap().code()
    };
    let tmp = lab.path("tmp");
    fs::create_dir_all(&tmp).unwrap();
    let script = "exec > /tmp/out; stat -L -c %t /dev/console; echo x > /etc/target; exit 0";
    let image = |change: &dyn Fn(&mut Value)| {
        let bundle = lab.bundle(|config| {
            config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev");
            add(config, bind(&tmp, "/tmp"));
            config["process"]["terminal"] = json!(true);
            config["process"]["args"] = json!(["sh", "-c", script]);
            change(config);
        });
        fs::create_dir_all(bundle.rootfs().join("dev/pts")).unwrap();
        fs::write(bundle.rootfs().join("etc/target"), "").unwrap();
        bundle
    };
    let said = || fs::read_to_string(tmp.join("out")).unwrap_or_default();
    let before = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    for link in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/etc/target", "../../../etc/target"] {
        let bundle = image(&|_| {});
        symlink(link, bundle.rootfs().join("dev/console")).unwrap();
        let code = on_terminal(&bundle);
        // Refused, or a terminal: major number 88 (hexadecimal) are the slaves of pseudoterminals.
        let (wanted, has) = if link.starts_with("/proc") { (1, "") } else { (0, "88\n") };
        assert_eq!((code, said().as_str()), (Some(wanted), has), "{link}");
        assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
        assert_eq!(fs::read(bundle.rootfs().join("etc/target")).unwrap(), b"", "{link}");
        let _ = fs::remove_file(tmp.join("out"));
    }
    // The devpts is elsewhere, and what has the name of its slave is the image's.
    for name in ["file", "link"] {
        let bundle = image(&|config| {
            let devpts = config["mounts"].as_array_mut().unwrap().iter_mut().find(|mount| mount["type"] == "devpts");
            devpts.unwrap()["destination"] = json!("/mnt");
        });
        symlink("/mnt/ptmx", bundle.rootfs().join("dev/pts/ptmx")).unwrap();
        for number in 0..3 {
            let slave = bundle.rootfs().join(format!("dev/pts/{number}"));
            if name == "link" { symlink("/etc/target", slave).unwrap() } else { fs::write(slave, "").unwrap() }
        }
        assert_eq!((on_terminal(&bundle), said().as_str()), (Some(0), "88\n"), "{name}");
        let _ = fs::remove_file(tmp.join("out"));
    }
}

/// And youki's CVE-2025-62596: what is written to procfs goes to a procfs, whatever lies over the container's.
#[test]
fn cve_2025_52881_writes_to_procfs_are_not_redirected() {
    let lab = lab!();
    let fake = lab.path("fake");
    fs::create_dir_all(fake.join("kernel")).unwrap();
    let file = fake.join("kernel/shmmni");
    fs::write(&file, "fake").unwrap();
    let attr = lab.path("attr");
    fs::create_dir_all(&attr).unwrap();
    for name in ["exec", "current", "keycreate"] {
        fs::write(attr.join(name), "").unwrap();
    }
    let proc = lab.path("proc");
    fs::create_dir(&proc).unwrap();
    // A procfs with something over its sys and over the attributes of what is pid 1 there, bound as the container's.
    let setup = "mount -t proc proc $1; mount --bind $2 $1/sys; mount --bind $3 $1/1/attr; shift 3; exec \"$@\"";
    let bundle = lab.bundle(|config| {
        config["mounts"][0] = bind(&proc, "/proc");
        config["linux"]["sysctl"] = json!({"kernel.shmmni": "1234"});
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
        grant(config, "CAP_SYS_ADMIN");
        config["process"]["args"] = json!([
            "sh",
            "-c",
            "cat /proc/sys/kernel/shmmni; echo; mount -t proc proc /mnt; cat /mnt/sys/kernel/shmmni"
        ]);
    });
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", setup, "sh"]).args([&proc, &fake, &attr]);
    command.arg(lab.path("microrun")).arg("--root").arg(lab.path("run")).args(["run", "--bundle"]);
    command.arg(&bundle.path).arg(&bundle.id);
    // It sees the fake, and the parameter is set all the same.
    assert_eq!(output(command).ok(), "fake\n1234");
    assert_eq!(fs::read(&file).unwrap(), b"fake");
    for name in ["exec", "current", "keycreate"] {
        assert_eq!(fs::read(attr.join(name)).unwrap(), b"", "{name}");
    }
}

/// And crun's CVE-2026-47766: an image whose /dev leads to the host.
#[test]
fn cve_2026_41579_nothing_is_made_where_an_images_dev_leads() {
    let lab = lab!();
    let outside = Outside::new(&lab);
    for link in outside.links(0) {
        for with_dev in [true, false] {
            let bundle = lab.bundle(|config| {
                if !with_dev {
                    without_dev(config);
                }
                config["root"]["readonly"] = json!(false);
                config["linux"]["devices"] = json!([
                    {"path": "/dev/secret", "type": "c", "major": 1, "minor": 3},
                    {"path": "/dev/sub/made", "type": "p"}
                ]);
            });
            fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
            symlink(&link, bundle.rootfs().join("dev")).unwrap();
            let output = lab.run(&bundle, &[]);
            outside.assert_untouched(&output);
            output.ok();
            // Its links and devices are where the link leads inside.
            let inside = bundle.rootfs().join(outside.path.strip_prefix("/").unwrap());
            assert_eq!(inside.join("fd").is_symlink(), !with_dev, "{link:?}");
        }
    }
}

/// crun: "1" was read as user 0.
#[test]
fn cve_2026_30892_a_user_is_a_number() {
    let lab = lab!();
    let bundle = lab.sleeper(|_| {});
    for (user, ids) in [("1", "1 0"), ("1:2", "1 2")] {
        let output = lab.exec(&bundle, &["--user", user], &["sh", "-c", "echo $(id -u) $(id -g)"]);
        assert_eq!(output.ok(), ids);
    }
    for user in [":", ":0", "1:", "root", "+1", "-1", "1 ", "0x1", "4294967295", "4294967296", "1:2:3"] {
        let refused = lab.exec(&bundle, &["--user", user], &["true"]).failed();
        assert!(refused.contains("bad uid") || refused.contains("bad gid"), "{user}: {refused}");
    }
}

/// crun: a /dev/null of the image's was opened in place of standard input.
#[test]
fn cve_2026_88265_a_fake_null_device_takes_no_standard_stream() {
    let lab = lab!();
    let kept = lab.path("kept");
    fs::write(&kept, "kept").unwrap();
    for over in [false, true] {
        let bundle = lab.bundle(|config| {
            if over {
                add(config, bind(&kept, "/dev/null"));
            } else {
                without_dev(config);
            }
        });
        fs::write(bundle.rootfs().join("dev/null"), "fake").unwrap();
        let script = "cat; for n in 0 1 2; do stat -L -c %F /proc/self/fd/$n; done; echo x; echo y >&2";
        let output = run_script(&lab, &bundle, script, |_| {});
        assert!(output.stdout.starts_with("character special file\nfifo\nfifo\nx"), "{output:?}");
        assert_eq!(output.stderr, "y", "{output:?}");
        assert_eq!(fs::read(&kept).unwrap(), b"kept");
    }
}

/// crun: the container redirected the change of its root to read-only through /proc/self/fd.
#[test]
fn cve_2026_115521_a_read_only_root_is_read_only() {
    let lab = lab!();
    let proc = lab.path("proc");
    fs::create_dir_all(proc.join("self/fd")).unwrap();
    let script = "touch /x; touch /etc/x; mount -o remount,rw / ; touch /x; ls /x /etc/x 2> /dev/null";
    for attack in ["none", "symlinked", "no procfs", "overmounted"] {
        let bundle = lab.bundle(|config| match attack {
            "no procfs" => drop(config["mounts"].as_array_mut().unwrap().remove(0)),
            "overmounted" => add(config, bind(&proc, "/proc2")),
            _ => {}
        });
        if attack == "symlinked" {
            for name in ["fd", "self"] {
                symlink("/tmp", bundle.rootfs().join("proc").join(name)).unwrap();
            }
        }
        if attack == "no procfs" {
            // The image's own files, where the kernel's are looked for.
            for number in 0..64 {
                let directory = bundle.rootfs().join("proc/self/fd");
                fs::create_dir_all(&directory).unwrap();
                symlink("/tmp", directory.join(number.to_string())).unwrap();
            }
        }
        let output = run_script(&lab, &bundle, script, |_| {});
        assert_eq!(output.stdout, "", "{attack}: {output:?}");
        assert!(output.stderr.contains("Read-only file system"), "{attack}: {output:?}");
        assert!(!bundle.rootfs().join("x").exists());
    }
}

/// Several: the rules that follow from them, seen from inside a container at its end.
#[test]
fn nothing_of_the_runtime_is_left_inside() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "ls -l /proc/self/fd | wc -l; ls /proc | grep -c '^[0-9]'"]);
    });
    let inode = fs::metadata(bundle.rootfs()).unwrap().ino();
    // The caller's descriptors are none of the container's either.
    let run = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let mut from = Command::new("sh");
    from.args(["-c", "exec 4</ 8</ 9</; exec \"$@\"", "sh"]).arg(run.get_program()).args(run.get_args());
    let output = output(from).ok();
    // "total", three streams and what ls itself has open; sh and its two children.
    let counts: Vec<u32> = output.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert!(counts[0] <= 5 && counts[1] <= 3, "{output}");
    assert_eq!(fs::metadata(bundle.rootfs()).unwrap().ino(), inode);
    eventually(|| lab.microrun(&["list", "-q"]).stdout.is_empty());
}
