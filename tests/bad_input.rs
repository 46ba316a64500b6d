//! Bad input and bad luck: one sentence that says what is wrong and what to do, a failure, and nothing left.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab, Output, Tmpfs, output};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Runs the bundle, which must be refused with a sentence that has `words` in it.
#[track_caller]
fn refused(lab: &Lab, bundle: &Bundle, words: &[&str]) -> String {
    let before = Instant::now();
    let said = assert_refused(lab.run(bundle, &[]), words);
    assert!(before.elapsed() < Duration::from_secs(10), "it takes long to say: {said}");
    assert_eq!(left(lab, bundle), Vec::<PathBuf>::new(), "{said}");
    said
}

#[track_caller]
fn assert_refused(output: Output, words: &[&str]) -> String {
    assert_eq!(output.code, 1, "{output:#?}");
    assert_eq!(output.stdout, "");
    let said = output.stderr;
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("time=\"") && said.contains("level=error msg=\""), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    said
}

/// What is there of a container that was refused: its directory and its cgroups.
fn left(lab: &Lab, bundle: &Bundle) -> Vec<PathBuf> {
    let states = fs::read_dir(lab.path("run")).into_iter().flatten().flatten();
    let states = states.map(|entry| entry.path()).filter(|path| !path.ends_with(".seccomp"));
    states.filter(|path| path.exists()).chain(lab.cgroups_of(bundle)).collect()
}

/// A bundle whose config.json is these bytes.
fn bundle_of(lab: &Lab, config: &[u8]) -> Bundle {
    let bundle = lab.bundle(|_| {});
    fs::write(bundle.path.join("config.json"), config).unwrap();
    bundle
}

/// Sets the value at a JSON pointer (RFC 6901), making objects on the way.
fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut at = config;
    for name in pointer.trim_start_matches('/').split('/') {
        at = match at {
            Value::Array(items) => &mut items[name.parse::<usize>().unwrap()],
            at => &mut at[name],
        };
    }
    *at = value;
}

#[test]
fn what_is_no_json() {
    let lab = lab!();
    let whole = fs::read(lab.bundle(|_| {}).path.join("config.json")).unwrap();
    let nested = |part: &str| part.repeat(100_000).into_bytes();
    let with = |part: &[u8]| [&whole[..whole.len() - 1], part].concat();
    let cases: [(Vec<u8>, &str); 13] = [
        (Vec::new(), "the JSON ends too early"),
        (whole[..1].to_vec(), "the JSON ends too early"),
        (whole[..whole.len() / 2].to_vec(), "the JSON ends too early"),
        (whole[..whole.len() - 1].to_vec(), "the JSON ends too early"),
        ([&whole[..], b"}"].concat(), "trailing characters"),
        (vec![0; 5000], "not valid JSON"),
        (b"\xef\xbb\xbf{}".to_vec(), "not valid JSON"),
        (with(b",\"hostname\":\"\xff\"}"), "is not UTF-8"),
        (b"null".to_vec(), "is null: give an object"),
        (b"[]".to_vec(), "is an array: give an object"),
        (nested("["), "nested more than 128 deep"),
        (nested("{\"a\":"), "nested more than 128 deep"),
        (with(&[b",\"extension\":", &nested("{\"a\":")[..]].concat()), "nested more than 128 deep"),
    ];
    for (config, words) in cases {
        refused(&lab, &bundle_of(&lab, &config), &["config.json: ", words]);
    }
    let huge = with(format!(",\"hostname\":\"{}\"}}", "a".repeat(17 << 20)).as_bytes());
    refused(&lab, &bundle_of(&lab, &huge), &["config.json: is larger than 16 MiB: make it smaller"]);
}

#[test]
fn what_is_no_file() {
    let lab = lab!();
    let bundle = lab.bundle(|_| {});
    let config = bundle.path.join("config.json");
    fs::remove_file(&config).unwrap();
    refused(&lab, &bundle, &["/config.json: no such file or directory"]);
    symlink("nowhere", &config).unwrap();
    refused(&lab, &bundle, &["/config.json: no such file or directory"]);
    fs::remove_file(&config).unwrap();
    // Nobody ever writes to it.
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRUSR).unwrap();
    // Whether it is to have a terminal is asked first if stdout is a file.
    let refused_in_foreground = || {
        let command = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "exec \"$@\" >log", "sh"]).current_dir(lab.path("run").parent().unwrap());
        shell.arg(command.get_program()).args(command.get_args());
        assert_refused(output(shell), &["/config.json: is not a regular file: make it one"]);
    };
    refused(&lab, &bundle, &["/config.json: is not a regular file: make it one"]);
    refused_in_foreground();
    fs::remove_file(&config).unwrap();
    // It never ends.
    symlink("/dev/zero", &config).unwrap();
    refused(&lab, &bundle, &["/config.json: is not a regular file: make it one"]);
    refused_in_foreground();
    fs::remove_file(&config).unwrap();
    fs::create_dir(&config).unwrap();
    refused(&lab, &bundle, &["/config.json: is not a regular file: make it one"]);
    let nowhere = Bundle { path: lab.path("nowhere"), ..bundle };
    refused(&lab, &nowhere, &["/nowhere: no such file or directory"]);
    fs::write(&nowhere.path, "").unwrap();
    refused(&lab, &nowhere, &["/nowhere/config.json: not a directory"]);
}

/// Wrong types, unknown names, numbers that do not fit: the field, and what it may be.
#[test]
fn wrong_values() {
    let lab = lab!();
    let cases = [
        ("/process", json!("x"), "process: is the string \\\"x\\\": give an object"),
        ("/process/args", json!("x"), "process.args: is the string \\\"x\\\": give an array"),
        ("/process/args", json!([]), "process.args: is empty: name the program"),
        ("/process/args", json!([1]), "process.args[0]: is the number 1: give a string"),
        ("/process/user/uid", json!(-1), "process.user.uid: is the number -1: give a whole number"),
        ("/process/user/uid", json!(1u64 << 32), "process.user.uid: is the number 4294967296: give a whole number"),
        ("/process/user/uid", json!("root"), "process.user.uid: is the string"),
        ("/process/terminal", json!("yes"), "process.terminal: is the string \\\"yes\\\": give true or false"),
        ("/process/cwd", json!("bin"), "process.cwd: \\\"bin\\\" is not absolute: begin it with a slash"),
        ("/process/env", json!(["=x"]), "process.env[0]: \\\"=x\\\" has no name: write NAME=VALUE"),
        ("/process/oomScoreAdj", json!(5000), "process.oomScoreAdj: 5000 is out of range: use -1000 to 1000"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_NO", "soft": 1, "hard": 1}]),
            "process.rlimits[0].type: unknown value \\\"RLIMIT_NO\\\": use one of RLIMIT_CPU",
        ),
        ("/root", Value::Null, "root: is missing: name the root file system"),
        ("/mounts", json!({}), "mounts: is an object: give an array"),
        ("/mounts/0", json!("x"), "mounts[0]: is the string \\\"x\\\": give an object"),
        ("/mounts/0/destination", json!(""), "mounts[0].destination: is empty: say where to mount"),
        ("/mounts/0/options", json!("ro"), "mounts[0].options: is the string \\\"ro\\\": give an array"),
        ("/mounts/2/type", json!("nosuchfs"), "mounts[2].type: the kernel does not know the file system"),
        ("/hostname", json!("x".repeat(65)), "hostname: is 65 bytes long: shorten it to 64"),
        ("/ociVersion", json!("9.0.0"), "ociVersion: version 9.0.0 is not supported: use a version"),
        ("/ociVersion", json!("new"), "ociVersion: \\\"new\\\" is not a semantic version: write"),
        ("/annotations", json!({"a": 5}), "annotations.a: is the number 5: give a string"),
        ("/hooks", json!({"prestart": [{"path": "x"}]}), "hooks.prestart[0].path: \\\"x\\\" is not absolute: begin"),
        ("/linux/namespaces/0/type", json!("pids"), "linux.namespaces[0].type: unknown value \\\"pids\\\": use one of"),
        ("/linux/rootfsPropagation", json!("x"), "linux.rootfsPropagation: unknown value \\\"x\\\": use one of"),
        ("/linux/devices", json!([{"path": "/x", "type": "q"}]), "linux.devices[0].type: unknown value \\\"q\\\": use"),
        ("/linux/resources/memory", json!({"limit": "64M"}), "linux.resources.memory.limit: is the string"),
        ("/linux/sysctl", json!({"../x": "1"}), "linux.sysctl[\\\"../x\\\"]: is no name of a kernel parameter: write"),
        ("/linux/sysctl", json!({"kernel.x": "1"}), "linux.sysctl[\\\"kernel.x\\\"]: belongs to no namespace"),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_NO"}),
            "linux.seccomp.defaultAction: unknown value \\\"SCMP_ACT_NO\\\": use one of SCMP_ACT_KILL",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NO"]}),
            "linux.seccomp.architectures[0]: unknown value \\\"SCMP_ARCH_NO\\\": use one of",
        ),
    ];
    for (pointer, value, words) in cases {
        let bundle = lab.bundle(|config| set(config, pointer, value));
        refused(&lab, &bundle, &[words]);
    }
}

#[test]
fn paths_that_are_no_paths() {
    let lab = lab!();
    for pointer in [
        "/root/path",
        "/process/cwd",
        "/process/args/0",
        "/mounts/0/destination",
        "/mounts/0/source",
        "/hostname",
        "/linux/cgroupsPath",
        "/linux/maskedPaths/0",
        "/linux/readonlyPaths/0",
    ] {
        let field = pointer[1..].replace("/0", "[0]").replace('/', ".");
        let bundle = lab.bundle(|config| set(config, pointer, json!("/a\0b")));
        refused(&lab, &bundle, &[&format!("config.json: {field}: has a NUL byte (\\\\u0000) in it: remove it")]);
    }
    for path in ["nowhere", "../nowhere", "rootfs/../nowhere"] {
        let bundle = lab.bundle(|config| set(config, "/root/path", json!(path)));
        refused(&lab, &bundle, &["config.json: root.path: invalid rootfs: make the directory", "/nowhere"]);
    }
    let bundle = lab.bundle(|config| set(config, "/root/path", json!("rootfs/mnt/file")));
    refused(&lab, &bundle, &["config.json: root.path: ", "rootfs/mnt/file is not a directory: name one"]);
    let bundle = lab.bundle(|config| set(config, "/process/cwd", json!("/mnt/file")));
    refused(
        &lab,
        &bundle,
        &["process.cwd: chdir to cwd (\\\"/mnt/file\\\") set in config.json failed: not a directory"],
    );
    let bundle = lab.bundle(|config| set(config, "/linux/namespaces/0/path", json!("/nowhere")));
    refused(&lab, &bundle, &["linux.namespaces[0].path: open /nowhere: no such file or directory"]);
    let bundle = lab.bundle(|config| set(config, "/linux/namespaces/0/path", json!("/etc/passwd")));
    refused(&lab, &bundle, &["linux.namespaces[0].path: /etc/passwd is not a namespace of this type: give"]);
    let fifo = lab.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let bundle = lab.bundle(|config| set(config, "/linux/namespaces/0/path", json!(fifo)));
    refused(&lab, &bundle, &["linux.namespaces[0].path: ", "fifo is not a namespace of this type: give"]);
}

/// ".." in paths is resolved inside: of the rootfs, of the cgroup hierarchy.
#[test]
fn dots_lead_nowhere() {
    let lab = lab!();
    let outside = lab.path("outside");
    let up = "../".repeat(20);
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", "ls /made && pwd"]);
        config["process"]["cwd"] = json!(format!("/{up}made"));
        let destination = format!("/{up}{}/mount", outside.display());
        common::push(
            &mut config["mounts"],
            json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]}),
        );
    });
    assert_eq!(lab.run(&bundle, &[]).ok(), "/made");
    assert!(!outside.exists() && !Path::new("/made").exists());
    assert!(bundle.rootfs().join(outside.strip_prefix("/").unwrap()).join("mount").is_dir());
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["cat", "/proc/self/cgroup"]);
        let path = config["linux"]["cgroupsPath"].as_str().unwrap().to_owned();
        config["linux"]["cgroupsPath"] = json!(format!("{up}{path}"));
    });
    let run = ["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id];
    let cgroups = output(lab.in_own_cgroup(&lab.command(&run))).ok();
    // Below the caller's cgroup on v1; on v2 beside it, for one with processes in it may hand out no controllers.
    let (name, id) = (lab.name(), &bundle.id);
    let v1 = cgroups.lines().filter(|line| line.ends_with(&format!(":/{name}/caller/{name}/{id}"))).count();
    let v2 = cgroups.lines().filter(|line| *line == format!("0::/{name}/{name}/{id}")).count();
    // Nobody has limited the cpuset above: there the container stays in the caller's.
    let joined = common::hierarchies().into_iter().filter(|hierarchy| !hierarchy.ends_with("cpuset")).count();
    assert_eq!(v1 + v2, joined, "{cgroups}");
    assert_eq!(left(&lab, &bundle), Vec::<PathBuf>::new());
}

#[test]
fn a_start_that_fails_leaves_the_cgroups_that_others_have_made_beside_its_own() {
    let lab = lab!();
    // The first container here, so that its start makes the cgroup above its own as well.
    let above: Vec<_> = common::hierarchies().into_iter().map(|hierarchy| hierarchy.join(lab.name())).collect();
    let others = || above.iter().map(|above| above.join("other")).filter(|other| other.exists()).collect::<Vec<_>>();
    let directories: Vec<_> = above.iter().map(|above| format!("{}/", above.display())).collect();
    let script =
        format!("for above in {}; do [ ! -d $above ] || mkdir $above/other; done; exit 1", directories.join(" "));
    let bundle = lab.bundle(|config| {
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    });
    refused(&lab, &bundle, &["createRuntime"]);
    let left = others();
    assert_eq!(left.len(), above.iter().filter(|above| above.exists()).count(), "{left:?}");
    assert!(!left.is_empty());
    left.iter().for_each(|other| fs::remove_dir(other).unwrap());
    // What nobody else has come to use goes.
    above.iter().filter(|above| above.exists()).for_each(|above| fs::remove_dir(above).unwrap());
    let fails = json!({"createRuntime": [{"path": "/bin/false"}]});
    refused(&lab, &lab.bundle(|config| config["hooks"] = fails), &["createRuntime"]);
    assert!(above.iter().all(|above| !above.exists()), "{above:?}");
}

/// The kernel kills init, and whoever shares its memory.
#[test]
fn a_memory_limit_under_which_no_program_can_be_executed() {
    let lab = lab!();
    let limit = |config: &mut Value| config["linux"]["resources"]["memory"] = json!({"limit": 4096});
    if lab.shell("true", |config| config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20})).code != 0 {
        println!("skipped: the cgroups of this machine have no memory controller");
        return;
    }
    refused(&lab, &lab.bundle(limit), &["memory"]);
    let bundle = lab.bundle(limit);
    assert_refused(lab.create(&bundle, &[]), &["memory"]);
    assert_eq!(left(&lab, &bundle), Vec::<PathBuf>::new());
}

#[test]
fn ids() {
    let lab = lab!();
    let good = lab.bundle(|_| {});
    let slash = format!("../{}", good.id);
    for id in [".", "..", "a/b", "/", &slash, "a b", "a\nb", "\u{e4}", "a:b", &"x".repeat(1025)] {
        for verb in ["create", "start", "state", "kill", "delete"] {
            let mut args = vec![verb];
            if verb == "create" {
                args.extend(["--bundle", good.path.to_str().unwrap()]);
            }
            args.push(id);
            assert_refused(lab.microrun(&args), &["invalid container ID format: ", ": choose another"]);
        }
    }
    assert_refused(lab.microrun(&["create", ""]), &["container id cannot be empty"]);
    let bundle = good.path.to_str().unwrap();
    assert_refused(lab.microrun(&["create", "--bundle", bundle, ".seccomp"]), &["compiled filters: choose another"]);
    let missing = ["start", "state", "kill", "delete"].map(|verb| lab.microrun(&[verb, "missing"]));
    for output in missing {
        assert_refused(output, &["container does not exist"]);
    }
    lab.microrun(&["delete", "--force", "missing"]).ok();
    assert_eq!(left(&lab, &good), Vec::<PathBuf>::new());
    // The longest that a file system takes.
    for (length, fits) in [(255, true), (256, false)] {
        let long = Bundle { id: "x".repeat(length), ..good.clone() };
        let output = lab.run(&long, &[]);
        assert_eq!(output.code == 0, fits, "{output:#?}");
    }
    assert_eq!(left(&lab, &good), Vec::<PathBuf>::new());
}

#[test]
fn an_id_is_taken_once() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "100"]));
    lab.created(&bundle);
    assert_refused(lab.run(&bundle, &[]), &["container with given ID already exists", "choose another or delete it"]);
    // The one that was there is untouched.
    lab.microrun(&["start", &bundle.id]).ok();
    assert_refused(lab.microrun(&["delete", &bundle.id]), &["that is not stopped: running: stop it or use --force"]);
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
    assert_eq!(left(&lab, &bundle), Vec::<PathBuf>::new());
}

/// Of creates and deletes of one id at once, each succeeds or says why not, and nothing is left.
#[test]
fn many_at_once() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "100"]));
    let (path, id) = (bundle.path.to_str().unwrap(), bundle.id.as_str());
    for round in 0..5 {
        let mut children: Vec<_> = (0..6)
            .map(|number| {
                let mut command = if number % 3 == 2 {
                    lab.command(&["delete", "--force", id])
                } else {
                    lab.command(&["create", "--bundle", path, id])
                };
                let log = fs::File::create(lab.path(format!("log{number}"))).unwrap();
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
            })
            .collect();
        let mut all = Vec::new();
        for (number, child) in children.iter_mut().enumerate() {
            let status = child.wait().unwrap();
            let said = fs::read_to_string(lab.path(format!("log{number}"))).unwrap();
            all.push(format!("{number}: {status}: {said}"));
            assert!(matches!(status.code(), Some(0 | 1)), "{round}: {status}: {said}");
            assert_eq!(said.lines().count(), usize::from(!status.success()), "{round}: {status}: {said}");
            assert!(number % 3 != 2 || status.success(), "{round}: delete: {said}");
        }
        lab.microrun(&["delete", "--force", id]).ok();
        assert_eq!(left(&lab, &bundle), Vec::<PathBuf>::new(), "{round}: {all:#?}");
    }
}

#[test]
fn only_one_of_many_creates() {
    let lab = lab!();
    let bundle = lab.bundle(|_| {});
    let create = || {
        let mut command = lab.command(&["create", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut children: Vec<_> = (0..8).map(|_| create()).collect();
    let created = children.iter_mut().filter_map(|child| child.wait().unwrap().success().then_some(())).count();
    assert_eq!(created, 1);
    assert_eq!(lab.status(&bundle.id), "created");
    lab.microrun(&["delete", &bundle.id]).ok();
    assert_eq!(left(&lab, &bundle), Vec::<PathBuf>::new());
}

/// Whatever file or directory is the one for which there is no room any more.
#[test]
fn a_full_state_directory() {
    let lab = lab!();
    let place = lab.path("full");
    let root = place.join("root");
    let bundle = lab.bundle(|config| {
        config["annotations"] = json!({"long": "x".repeat(5000)});
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    });
    let args = ["--root", root.to_str().unwrap(), "run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id];
    let (mut failed, mut succeeded) = (0, 0);
    let sizes = (1..=8).map(|pages| format!("size={}k", pages * 4));
    for options in sizes.chain((2..=10).map(|inodes| format!("nr_inodes={inodes}"))) {
        let _mounted = Tmpfs::on(&place, &options);
        let output = lab.microrun(&args);
        if output.code == 0 {
            succeeded += 1;
        } else {
            // A filter that cannot be kept is a warning before that.
            let (warnings, errors): (Vec<_>, Vec<_>) =
                output.stderr.lines().partition(|line| line.contains("level=warning"));
            assert!(warnings.iter().all(|line| line.contains(".seccomp")), "{output:?}");
            let stderr = errors.join("\n");
            assert_refused(Output { stderr, ..output }, &["no space left on device", root.to_str().unwrap()]);
            failed += 1;
        }
        let state = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let state: Vec<_> = state.filter(|name| name != ".seccomp").collect();
        assert!(state.is_empty(), "{options}: {state:?}");
        assert_eq!(left(&lab, &bundle), Vec::<PathBuf>::new(), "{options}");
    }
    assert!(failed > 3 && succeeded > 3, "{failed} failed, {succeeded} succeeded");
}

#[test]
fn a_read_only_state_directory() {
    let lab = lab!();
    let place = lab.path("read-only");
    let bundle = lab.bundle(|_| {});
    let _mounted = Tmpfs::on(&place, "ro");
    let root = place.join("root");
    let verb = |args: &[&str]| lab.microrun(&[&["--root", root.to_str().unwrap()], args].concat());
    let run = verb(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    assert_refused(run, &["create the state directory", "read-only file system"]);
    assert_refused(verb(&["state", &bundle.id]), &["container does not exist"]);
    verb(&["delete", "--force", &bundle.id]).ok();
    assert_eq!(left(&lab, &bundle), Vec::<PathBuf>::new());
}

/// A state.json that is cut, lost or not ours: `delete --force` finds the container all the same.
#[test]
fn a_damaged_state() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["sleep", "100"]);
        config["linux"]["resources"]["pids"] = json!({"limit": 64});
    });
    let path = bundle.path.join("config.json");
    let named = fs::read_to_string(&path).unwrap();
    let mut config: Value = serde_json::from_str(&named).unwrap();
    // By the container's id then, which no other has.
    config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    for config in [named, config.to_string()] {
        fs::write(&path, config).unwrap();
        damage_states(&lab, &bundle);
    }
}

fn damage_states(lab: &Lab, bundle: &Bundle) {
    let id = bundle.id.as_str();
    for how in ["cut", "empty", "another", "binary", "lost"] {
        for started in [false, true] {
            let init = if started { lab.started(bundle) } else { lab.created(bundle) };
            assert!(!lab.cgroups_of(bundle).is_empty());
            let path = lab.path("run").join(id).join("state.json");
            match how {
                "cut" => fs::write(&path, &fs::read(&path).unwrap()[..100]),
                "empty" => fs::write(&path, ""),
                "another" => fs::write(&path, "{\"id\": 5}"),
                "binary" => fs::write(&path, [0xff; 4096]),
                _ => fs::remove_file(&path),
            }
            .unwrap();
            let listed = lab.microrun(&["list"]);
            assert_eq!(listed.code, 0, "{how}: {listed:#?}");
            assert_refused(lab.microrun(&["state", id]), &["use `delete --force"]);
            assert_refused(lab.microrun(&["kill", "--all", id]), &["use `delete --force"]);
            match (how, started) {
                // Nobody makes or deletes it, for nobody has it locked; so it is what a runtime left that was killed.
                ("lost", false) => lab.microrun(&["delete", id]).ok(),
                ("lost", true) => assert_refused(lab.microrun(&["delete", id]), &["is not stopped: running"]),
                _ => assert_refused(lab.microrun(&["delete", id]), &["use `delete --force"]),
            };
            lab.microrun(&["delete", "--force", id]).ok();
            assert_eq!(left(lab, bundle), Vec::<PathBuf>::new(), "{how}");
            // Its parent may not have waited for it yet.
            let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap_or_default();
            let ended = ["State:\tZ", "State:\tX"].iter().any(|state| status.contains(state));
            assert!(status.is_empty() || ended, "{how}: init lives: {status}");
        }
    }
}

/// Engines make 127 and 126 of these words.
#[test]
fn programs_that_cannot_be_executed() {
    let lab = lab!();
    let cases = [
        ("nowhere", "exec: \\\"nowhere\\\": executable file not found in $PATH"),
        ("/nowhere", "exec: \\\"/nowhere\\\": stat /nowhere: no such file or directory"),
        ("/mnt/file", "exec: \\\"/mnt/file\\\": permission denied"),
        ("/mnt", "exec: \\\"/mnt\\\": is a directory: permission denied"),
        ("/mnt/text", "exec /mnt/text: exec format error"),
        ("/mnt/script", "no such file or directory"),
    ];
    for (program, words) in cases {
        let bundle = lab.bundle(|config| config["process"]["args"] = json!([program]));
        for (name, text) in [("text", "what?"), ("script", "#!/nowhere\n")] {
            let path = bundle.rootfs().join("mnt").join(name);
            common::executable(&path, text);
        }
        fs::set_permissions(bundle.rootfs().join("mnt/file"), fs::Permissions::from_mode(0o644)).unwrap();
        let output = lab.run(&bundle, &[]);
        assert!(output.code == 1 && output.stdout.is_empty(), "{output:#?}");
        assert!(output.stderr.contains(words) && output.stderr.lines().count() == 1, "{output:#?}");
        // What can be known before the start is said by `create`.
        if lab.create(&bundle, &[]).code == 0 {
            let started = lab.microrun(&["start", &bundle.id]);
            assert!(started.code == 1 && started.stderr.lines().count() == 1, "{started:#?}");
            lab.microrun(&["delete", "--force", &bundle.id]).ok();
        }
        assert_eq!(left(&lab, &bundle), Vec::<PathBuf>::new(), "{program}");
    }
}

/// The same sentence reaches an engine's log.
#[test]
fn errors_go_to_the_log_too() {
    let lab = lab!();
    let bundle = bundle_of(&lab, b"{");
    let log = lab.path("log.json");
    let global = ["--log", log.to_str().unwrap(), "--log-format", "json"];
    let output = lab.microrun(&[&global[..], &["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]].concat());
    assert_eq!(output.code, 1);
    let line: Value = serde_json::from_str(fs::read_to_string(log).unwrap().trim()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], output.stderr);
}
