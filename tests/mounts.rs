//! Mounts: every kind, every option, and what must not be mounted.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab, Output, eventually, host, output, push};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

/// A line of mountinfo (proc(5)).
#[derive(Debug)]
struct Mounted {
    place: String,
    options: String,
    propagation: String,
    kind: String,
    superblock: String,
}

fn parse(mountinfo: &str) -> Vec<Mounted> {
    let line = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        Some(Mounted {
            place: (*left.get(4)?).to_owned(),
            options: (*left.get(5)?).to_owned(),
            propagation: left.get(6..).unwrap_or_default().join(" "),
            kind: (*right.first()?).to_owned(),
            superblock: (*right.get(2)?).to_owned(),
        })
    };
    mountinfo.lines().filter_map(line).collect()
}

/// The last mount at `place`.
#[track_caller]
fn at<'a>(mounts: &'a [Mounted], place: &str) -> &'a Mounted {
    let found = mounts.iter().rev().find(|mounted| mounted.place == place);
    assert!(found.is_some(), "nothing at {place}: {mounts:#?}");
    found.unwrap()
}

impl Mounted {
    fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|has| has == option)
    }
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "source": source, "options": options})
}

fn add(config: &mut Value, mount: Value) {
    push(&mut config["mounts"], mount);
}

/// What a container sees in /proc/self/mountinfo.
fn mounts_of(lab: &Lab, change: impl FnOnce(&mut Value)) -> Vec<Mounted> {
    parse(&lab.shell("cat /proc/self/mountinfo", change).ok())
}

/// Runs a bundle in a mount namespace of the test's own, where `script` has run before: it may mount what it likes.
fn run_after(lab: &Lab, script: &str, bundle: &Bundle) -> Output {
    let run = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", &format!("{script}; exec \"$0\" \"$@\"")]);
    command.arg(run.get_program()).args(run.get_args());
    output(command)
}

/// A directory of the laboratory with files in it.
fn source(lab: &Lab) -> std::path::PathBuf {
    let path = lab.path("source");
    fs::create_dir_all(path.join("sub")).unwrap();
    fs::write(path.join("file"), "text").unwrap();
    path
}

#[test]
fn attributes_of_a_mount_and_of_all_below_it() {
    let lab = lab!();
    if common::kernel() < (5, 14) {
        skip!("the attributes of all mounts below another need Linux 5.12, nosymfollow 5.14");
    }
    let source = source(&lab);
    let src = source.to_str().unwrap();
    let setup = format!("mount -t tmpfs none {src} && mkdir {src}/sub && mount -t tmpfs none {src}/sub");
    // The option; what the mount has then, and what the mount below it has.
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&[], &["rw", "relatime"], &["rw", "relatime"]),
        (&["ro"], &["ro"], &["rw"]),
        (&["rro"], &["ro"], &["ro"]),
        (&["rro", "rrw"], &["rw"], &["rw"]),
        (&["nosuid", "nodev", "noexec"], &["nosuid", "nodev", "noexec"], &["!nosuid", "!nodev", "!noexec"]),
        (&["rnosuid", "rnodev", "rnoexec"], &["nosuid", "nodev", "noexec"], &["nosuid", "nodev", "noexec"]),
        (&["rnosuid", "rsuid", "rnodev", "rdev", "rnoexec", "rexec"], &["!nosuid"], &["!nodev", "!noexec"]),
        (&["noatime"], &["noatime"], &["relatime"]),
        (&["rnoatime"], &["noatime"], &["noatime"]),
        (&["nodiratime"], &["nodiratime"], &["!nodiratime"]),
        (&["rnodiratime"], &["nodiratime"], &["nodiratime"]),
        (&["rnodiratime", "rdiratime"], &["!nodiratime"], &["!nodiratime"]),
        (&["strictatime"], &["!relatime", "!noatime"], &["relatime"]),
        (&["rstrictatime"], &["!relatime"], &["!relatime"]),
        (&["rstrictatime", "rrelatime"], &["relatime"], &["relatime"]),
        (&["nosymfollow"], &["nosymfollow"], &["!nosymfollow"]),
        (&["rnosymfollow"], &["nosymfollow"], &["nosymfollow"]),
        (&["rnosymfollow", "rsymfollow"], &["!nosymfollow"], &["!nosymfollow"]),
        (&["ro", "rro"], &["ro"], &["ro"]),
    ];
    let bundle = lab.bundle(|config| {
        for (index, (options, ..)) in cases.iter().enumerate() {
            let options: Vec<&str> = ["rbind"].iter().chain(*options).copied().collect();
            add(config, bind(&source, &format!("/mnt/{index}"), &options));
        }
        config["process"]["args"] = json!(["cat", "/proc/self/mountinfo"]);
    });
    let mounts = parse(&run_after(&lab, &setup, &bundle).ok());
    for (index, (options, top, below)) in cases.iter().enumerate() {
        for (place, wanted) in [(format!("/mnt/{index}"), top), (format!("/mnt/{index}/sub"), below)] {
            for option in *wanted {
                let (name, expected) = option.strip_prefix('!').map_or((*option, true), |name| (name, false));
                let mounted = at(&mounts, &place);
                assert_eq!(mounted.has(name), expected, "{options:?}: {option} of {mounted:?}");
            }
        }
    }
}

#[test]
fn without_recursion_only_the_mount_itself_is_bound() {
    let lab = lab!();
    let source = source(&lab);
    let setup = format!("mount -t tmpfs none {0}/sub && touch {0}/sub/inner", source.display());
    let bundle = lab.bundle(|config| {
        add(config, bind(&source, "/mnt", &["bind"]));
        add(config, bind(&source, "/root", &["rbind"]));
        add(config, bind(&source, "/opt", &["rbind", "rprivate", "rw", "bind"]));
        config["process"]["args"] = json!(["sh", "-c", "ls /mnt/sub; echo; ls /root/sub; ls /opt/sub"]);
    });
    assert_eq!(run_after(&lab, &setup, &bundle).ok(), "inner\ninner");
}

#[test]
fn propagation_is_what_the_last_word_says() {
    let lab = lab!();
    let source = source(&lab);
    let setup = format!(
        "mount -t tmpfs none {0} && mount --make-shared {0} && mkdir {0}/sub && mount -t tmpfs none {0}/sub && \
         mount --make-shared {0}/sub",
        source.display()
    );
    // The words; what the mount is, and what the mount below it is.
    let cases = [
        ("shared", "shared", "shared"),
        ("slave", "master", "shared"),
        ("private", "", "shared"),
        ("rprivate", "", ""),
        ("rslave", "master", "master"),
        ("unbindable", "unbindable", "shared"),
        ("runbindable", "unbindable", "unbindable"),
    ];
    let bundle = lab.bundle(|config| {
        // Otherwise all that is below the host's "/" has become a slave before it is bound.
        config["linux"]["rootfsPropagation"] = json!("shared");
        for (word, ..) in cases {
            add(config, bind(&source, &format!("/mnt/{word}"), &["rbind", word]));
        }
        config["process"]["args"] = json!(["cat", "/proc/self/mountinfo"]);
    });
    let mounts = parse(&run_after(&lab, &setup, &bundle).ok());
    for (word, top, below) in cases {
        for (place, wanted) in [(format!("/mnt/{word}"), top), (format!("/mnt/{word}/sub"), below)] {
            let propagation = &at(&mounts, &place).propagation;
            assert!(
                propagation.starts_with(wanted) && propagation.is_empty() == wanted.is_empty(),
                "{place}: {propagation}"
            );
        }
    }
}

#[test]
fn the_root_propagates_as_it_is_told() {
    let lab = lab!();
    // The field; what the mount of the root is.
    for (word, wanted) in [
        ("shared", "shared"),
        ("rshared", "shared"),
        ("slave", ""),
        ("rslave", ""),
        ("private", ""),
        ("rprivate", ""),
        ("unbindable", "unbindable"),
        ("runbindable", "unbindable"),
    ] {
        let bundle = lab.bundle(|config| {
            config["linux"]["rootfsPropagation"] = json!(word);
            config["process"]["args"] = json!(["cat", "/proc/self/mountinfo"]);
        });
        let mounts = parse(&run_after(&lab, "true", &bundle).ok());
        let propagation = &at(&mounts, "/").propagation;
        assert!(
            propagation.starts_with(wanted) && propagation.is_empty() == wanted.is_empty(),
            "{word}: {propagation}"
        );
    }
    // A shared host: a slave gets what is mounted there.
    let bundle = lab.bundle(|config| {
        config["linux"]["rootfsPropagation"] = json!("rslave");
        config["process"]["args"] = json!(["cat", "/proc/self/mountinfo"]);
    });
    let mounts = parse(&run_after(&lab, "mount --make-rshared /", &bundle).ok());
    assert!(at(&mounts, "/").propagation.starts_with("master"), "{mounts:?}");
}

#[test]
fn a_shared_mount_is_shared_whatever_the_root_is() {
    let lab = lab!();
    let source = source(&lab);
    let setup = format!("mount -t tmpfs none {0} && mount --make-shared {0}", source.display());
    // The field; what the mount is.
    for (word, wanted) in
        [("", "shared+master"), ("rslave", "shared+master"), ("rprivate", "shared"), ("rshared", "shared")]
    {
        let bundle = lab.bundle(|config| {
            config["linux"]["rootfsPropagation"] = json!(word);
            add(config, bind(&source, "/mnt", &["rbind", "rshared"]));
            config["process"]["args"] = json!(["cat", "/proc/self/mountinfo"]);
        });
        let mounts = parse(&run_after(&lab, &setup, &bundle).ok());
        let groups = at(&mounts, "/mnt").propagation.split(' ').filter_map(|group| group.split(':').next());
        assert_eq!(groups.collect::<Vec<_>>().join("+"), wanted, "{word}");
    }
}

#[test]
fn nothing_that_a_container_mounts_reaches_the_host() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["linux"]["rootfsPropagation"] = json!("rshared");
        add(config, json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}));
    });
    let setup = "mount --make-rshared /; before=$(wc -l < /proc/self/mountinfo)";
    let script =
        format!("{setup}; sh -c '\"$0\" \"$@\"' \"$0\" \"$@\"; test $(wc -l < /proc/self/mountinfo) = $before; exit");
    run_after(&lab, &script, &bundle).ok();
}

/// It would be seen what they cover.
#[test]
fn what_is_mounted_below_a_source_comes_along_into_a_user_namespace() {
    let lab = lab!();
    let source = lab.path("source");
    fs::create_dir_all(source.join("below")).unwrap();
    let outside = "mount -t tmpfs -o mode=755 none $1/below; mkdir $1/below/deep; shift; exec \"$@\"";
    let run = |option: &str| {
        let bundle = lab.bundle(|config| {
            config["process"]["args"] = json!(["ls", "/mnt/below"]);
            push(&mut config["mounts"], bind(&source, "/mnt", &[option]));
            push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
            for field in ["uidMappings", "gidMappings"] {
                config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            }
        });
        let run = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", outside, "sh"]).arg(&source);
        command.arg(run.get_program()).args(run.get_args());
        output(command)
    };
    assert_eq!(run("rbind").ok(), "deep");
    let error = run("bind").failed();
    let why = "invalid argument: the source is unbindable, or in another mount namespace, or what is mounted below it has \
               to come along";
    assert!(error.contains("mounts[4]: open_tree(") && error.contains(why), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

/// A mount that the runtime copies, for a container with a user namespace, is no more shared with the host than others.
#[test]
fn a_bind_mount_of_a_user_namespace_is_no_peer_of_the_hosts() {
    let lab = lab!();
    let source = source(&lab);
    for (options, wanted) in [(vec!["bind"], "master"), (vec!["rbind"], "master"), (vec!["bind", "private"], "")] {
        let bundle = lab.bundle(|config| {
            push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
            for field in ["uidMappings", "gidMappings"] {
                config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
            }
            add(config, bind(&source, "/mnt", &options));
            config["process"]["args"] = json!(["cat", "/proc/self/mountinfo"]);
        });
        let mounts = parse(&run_after(&lab, "mount --make-rshared /", &bundle).ok());
        let propagation = &at(&mounts, "/mnt").propagation;
        let is_as_wanted = propagation.starts_with(wanted) && propagation.is_empty() == wanted.is_empty();
        assert!(is_as_wanted && !propagation.contains("shared"), "{options:?}: {propagation}");
    }
}

#[test]
fn files_and_directories_are_bound_and_their_places_made() {
    let lab = lab!();
    let source = source(&lab);
    let output = lab.shell("cat /mnt/new/dir/file /mnt/new.txt; pwd; cat /relative/file", |config| {
        add(config, bind(&source, "/mnt/new/dir", &["bind"]));
        add(config, bind(&source.join("file"), "/mnt/new.txt", &["bind"]));
        // runtime-spec wants absolute paths; runc takes others as relative to "/".
        add(config, bind(&source, "relative/../relative", &["bind"]));
    });
    assert_eq!(output.ok(), "texttext/\ntext");
}

/// Docker gives a hint where it reads "not a directory".
#[test]
fn a_file_and_a_directory_are_not_bound_to_each_other() {
    let lab = lab!();
    let source = source(&lab);
    for (source, destination) in [(source.clone(), "/mnt/file"), (source.join("file"), "/etc")] {
        let error = lab.shell("true", |config| add(config, bind(&source, destination, &["bind"]))).failed();
        assert!(error.contains("mounts[") && error.contains(": not a directory: "), "{error}");
    }
}

#[test]
fn a_relative_source_is_the_bundles() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        add(config, bind(Path::new("own"), "/mnt", &["bind"]));
        config["process"]["args"] = json!(["cat", "/mnt/file"]);
    });
    fs::create_dir(bundle.path.join("own")).unwrap();
    fs::write(bundle.path.join("own/file"), "text").unwrap();
    assert_eq!(lab.run(&bundle, &[]).ok(), "text");
}

#[test]
fn a_missing_source_is_named() {
    let lab = lab!();
    let error = lab.shell("true", |config| add(config, bind(Path::new("/no/such"), "/mnt", &["bind"]))).failed();
    assert!(error.contains("mounts[") && error.contains("/no/such") && error.contains("no such file"), "{error}");
}

#[test]
fn links_in_the_image_are_followed_inside_it() {
    let lab = lab!();
    let source = source(&lab);
    let bundle = lab.bundle(|config| {
        add(config, bind(&source, "/link/a", &["bind"]));
        add(config, bind(&source.join("file"), "/dangling", &["bind"]));
        config["process"]["args"] = json!(["sh", "-c", "cat /inside/a/file /deep/down/name"]);
    });
    symlink("/../../../inside", bundle.rootfs().join("link")).unwrap();
    symlink("/deep/down/name", bundle.rootfs().join("dangling")).unwrap();
    assert_eq!(lab.run(&bundle, &[]).ok(), "texttext");
    assert!(!Path::new("/inside").exists() && !Path::new("/deep").exists());
}

#[test]
fn a_tmpfs_may_begin_with_what_the_image_has() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        let tmpfs = |destination: &str, options: &[&str]| {
            json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options})
        };
        add(config, tmpfs("/data", &["tmpcopyup", "ro", "mode=710"]));
        add(config, tmpfs("/root", &[]));
        config["process"]["args"] = json!([
            "sh",
            "-c",
            "cd /data; stat -c '%n %a %u %g' . dir dir/file; cat dir/file link; test -p fifo && echo fifo; touch x; ls -A /root"
        ]);
    });
    let data = bundle.rootfs().join("data");
    fs::create_dir_all(data.join("dir")).unwrap();
    fs::write(data.join("dir/file"), "text\n").unwrap();
    fs::set_permissions(data.join("dir/file"), fs::Permissions::from_mode(0o4640)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o710)).unwrap();
    std::os::unix::fs::chown(data.join("dir"), Some(7), Some(8)).unwrap();
    symlink("dir/file", data.join("link")).unwrap();
    common::host("mkfifo", &[data.join("fifo").to_str().unwrap()]);
    fs::write(bundle.rootfs().join("root/hidden"), "").unwrap();
    let output = lab.run(&bundle, &[]);
    let expected = ". 710 0 0\ndir 755 7 8\ndir/file 4640 0 0\ntext\ntext\nfifo";
    assert_eq!(output.stdout, expected, "{output:?}");
    assert!(output.stderr.contains("Read-only"), "{output:?}");
}

#[test]
fn what_the_image_has_may_be_deep() {
    let lab = lab!();
    let deep = "d/".repeat(100);
    let bundle = lab.bundle(|config| {
        add(config, json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
        let script = format!("cd /data; cat {deep}file; stat -c %a,%u,%g d {deep} d/other; df -T . | grep -c tmpfs");
        config["process"]["args"] = json!(["sh", "-c", script]);
    });
    let data = bundle.rootfs().join("data");
    fs::create_dir_all(data.join(&deep)).unwrap();
    fs::write(data.join(&deep).join("file"), "text\n").unwrap();
    // A directory whose files would get its group.
    std::os::unix::fs::chown(data.join("d"), Some(7), Some(8)).unwrap();
    fs::set_permissions(data.join("d"), fs::Permissions::from_mode(0o2755)).unwrap();
    fs::write(data.join("d/other"), "").unwrap();
    fs::set_permissions(data.join("d/other"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(data.join("d/other"), Some(0), Some(0)).unwrap();
    assert_eq!(lab.run(&bundle, &[]).ok(), "text\n2755,7,8\n755,0,0\n640,0,0\n1");
    fs::create_dir_all(data.join("d/".repeat(600))).unwrap();
    let refused = lab.run(&bundle, &[]).failed();
    assert!(refused.contains("mounts[4]: tmpcopyup: directories are nested more than 512 deep"), "{refused}");
}

#[test]
fn file_systems_take_their_own_options() {
    let lab = lab!();
    let mounts = mounts_of(&lab, |config| {
        let options = json!(["nosuid", "size=64k", "nr_inodes=10", "mode=1750", "uid=3", "noatime"]);
        add(config, json!({"destination": "/mnt", "type": "tmpfs", "source": "name", "options": options}));
        add(
            config,
            json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
        );
    });
    let tmpfs = at(&mounts, "/mnt");
    assert!(tmpfs.has("nosuid") && tmpfs.has("noatime") && !tmpfs.has("nodev"), "{tmpfs:?}");
    for option in ["size=64k", "nr_inodes=10", "mode=1750", "uid=3"] {
        assert!(tmpfs.superblock.split(',').any(|has| has == option), "{option}: {tmpfs:?}");
    }
    assert_eq!(at(&mounts, "/dev/mqueue").kind, "mqueue");
    let error = lab
        .shell("true", |config| {
            add(config, json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": ["nosuchoption=1"]}));
        })
        .failed();
    assert!(error.contains("mounts[") && error.contains("nosuchoption"), "{error}");
    let error = lab
        .shell("true", |config| add(config, json!({"destination": "/mnt", "type": "nosuchfs", "source": "x"})))
        .failed();
    assert!(error.contains("mounts[") && error.contains("nosuchfs"), "{error}");
}

/// An image's layers as Podman mounts them (`--mount type=image`): one option, longer than the 255 bytes of fsconfig(2).
#[test]
fn an_option_may_be_long() {
    let lab = lab!();
    let layers: Vec<String> = (0..6)
        .map(|index| {
            let layer = lab.path(format!("{index}{}", "x".repeat(60)));
            fs::create_dir(&layer).unwrap();
            fs::write(layer.join(format!("file{index}")), "").unwrap();
            layer.to_str().unwrap().to_owned()
        })
        .collect();
    let layers = format!("lowerdir={}", layers.join(":"));
    let overlay =
        |options: &[&str]| json!({"destination": "/mnt", "type": "overlay", "source": "/a/name", "options": options});
    let options = [&layers, "nodev", "noexec", "noatime", "private"];
    let script = "ls /mnt; grep ' /mnt ' /proc/self/mountinfo; grep -c ' /a/name ' /proc/self/mountinfo";
    let said = lab.shell(script, |config| add(config, overlay(&options))).ok();
    let (files, mounts) = said.split_once("file5\n").unwrap();
    assert_eq!(files, "file0\nfile1\nfile2\nfile3\nfile4\n");
    let mounted = parse(mounts);
    let mount = at(&mounted, "/mnt");
    assert!(["nodev", "noexec", "noatime"].iter().all(|option| mount.has(option)) && !mount.has("nosuid"), "{mount:?}");
    assert!(mounts.contains("overlay /a/name ") && mounts.ends_with("\n1"), "{mounts}");
    if common::kernel() >= (5, 11) {
        let said = lab.shell("ls /mnt | wc -l", |config| {
            add(config, overlay(&options));
            push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
            for field in ["uidMappings", "gidMappings"] {
                config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            }
        });
        assert_eq!(said.ok(), "6");
    }
    let too_long = format!("lowerdir={}", "/mnt:".repeat(900));
    let error = lab.shell("true", |config| add(config, overlay(&[&too_long]))).failed();
    assert!(error.contains(".options: has 45") && error.contains("4096"), "{error}");
}

#[test]
fn a_mount_that_is_there_can_be_changed() {
    let lab = lab!();
    let mounts = mounts_of(&lab, |config| {
        add(config, json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": ["nodev"]}));
        add(
            config,
            json!({"destination": "/mnt", "type": "bind", "source": "/", "options": ["remount", "bind", "ro", "noexec"]}),
        );
    });
    let changed = at(&mounts, "/mnt");
    assert!(changed.has("ro") && changed.has("noexec") && changed.kind == "tmpfs", "{changed:?}");
    assert_eq!(mounts.iter().filter(|mounted| mounted.place == "/mnt").count(), 1);
}

#[test]
fn a_mount_may_come_from_one_made_before() {
    let lab = lab!();
    let source = source(&lab);
    for user_namespace in [false, true] {
        let bundle = lab.bundle(|config| {
            if user_namespace {
                push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
                for field in ["uidMappings", "gidMappings"] {
                    config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
                }
            }
            let rootfs = lab.path(format!("bundle{}/rootfs", u8::from(user_namespace)));
            add(config, bind(&source, "/mnt", &["bind"]));
            // Both ends are paths of the host that lead into the root.
            let mut mount = bind(&rootfs.join("mnt"), "", &["rbind"]);
            mount["destination"] = json!(rootfs.join("root"));
            add(config, mount);
            config["process"]["args"] = json!(["cat", "/root/file"]);
        });
        assert_eq!(lab.run(&bundle, &[]).ok(), "text", "{user_namespace}");
    }
}

#[test]
fn ids_of_a_mount_are_mapped() {
    let lab = lab!();
    // One of the mounts is a tmpfs.
    if common::kernel() < (6, 3) {
        skip!("before Linux 6.3 a tmpfs cannot be id-mapped");
    }
    if let Err(why) = common::require_idmap(&lab.path("")) {
        skip!("{why}");
    }
    let source = source(&lab);
    std::os::unix::fs::chown(source.join("file"), Some(1000), Some(1001)).unwrap();
    let own = |container: u32, host: u32| json!([{"containerID": container, "hostID": host, "size": 10_000}]);
    let setup =
        format!("mount -t tmpfs none {0}/sub && touch {0}/sub/inner && chown 1000 {0}/sub/inner", source.display());
    // With a user namespace or without; the options; whether the mount has mappings of its own; what is seen.
    for (user_namespace, option, mappings, seen, below) in [
        (false, "idmap", true, "2000 2001", "1000"),
        (false, "ridmap", true, "2000 2001", "2000"),
        (true, "idmap", false, "1000 1001", "65534"),
        (true, "ridmap", false, "1000 1001", "1000"),
        (true, "ridmap", true, "2000 2001", "2000"),
    ] {
        let bundle = lab.bundle(|config| {
            if user_namespace {
                push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
                for field in ["uidMappings", "gidMappings"] {
                    config["linux"][field] = own(0, 100_000);
                }
            }
            let mut mount = bind(&source, "/mnt", &["rbind", option]);
            if mappings {
                for field in ["uidMappings", "gidMappings"] {
                    // What is 0 on disk is 1000 to a container, of which the host's ids are 100000 and up if there is
                    // a user namespace.
                    mount[field] = own(0, if user_namespace { 101_000 } else { 1000 });
                }
            }
            add(config, mount);
            config["process"]["args"] = json!(["stat", "-c", "%u %g", "/mnt/file", "/mnt/sub/inner"]);
        });
        let output = run_after(&lab, &setup, &bundle).ok();
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!((lines[0], lines[1].split(' ').next()), (seen, Some(below)), "{user_namespace} {option} {mappings}");
    }
}

#[test]
fn mounts_with_the_same_mapping_share_what_maps_them() {
    /// More than there would be room for if each had a user namespace of its own.
    const MANY: usize = 150;
    let lab = lab!();
    if let Err(why) = common::require_idmap(&lab.path("")) {
        skip!("{why}");
    }
    let source = source(&lab);
    std::os::unix::fs::chown(source.join("file"), Some(1000), Some(1001)).unwrap();
    let bundle = lab.bundle(|config| {
        for number in 0..MANY {
            let mut mount = bind(&source.join("file"), &format!("/tmp/{number}"), &["bind", "idmap"]);
            for field in ["uidMappings", "gidMappings"] {
                mount[field] = json!([{"containerID": 1000, "hostID": 2000 + number % 2, "size": 10}]);
            }
            add(config, mount);
        }
        config["root"]["readonly"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", "stat -c '%u %g' /tmp/* | sort | uniq -c"]);
    });
    let output = lab.run(&bundle, &[]).ok();
    let lines: Vec<Vec<&str>> = output.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines, [["75", "2000", "2001"], ["75", "2001", "2002"]]);
}

/// The script, run in a container with an overlay, and what is left of what it wrote.
fn with_overlay(lab: &Lab, name: &str, options: &[&str], annotation: Option<&str>) -> (Output, Bundle) {
    let bundle = lab.bundle(|config| {
        config["root"]["readonly"] = json!(false);
        if let Some(text) = annotation {
            config["annotations"] = json!({"org.microrun.overlay": text});
        }
        config["process"]["args"] =
            json!(["sh", "-c", "echo new > /etc/new; rm /mnt/file; cat /etc/new; grep ' / ' /proc/self/mountinfo"]);
    });
    // Characters that overlayfs gives a meaning to in its options.
    let odd = lab.path(name);
    fs::rename(&bundle.path, &odd).unwrap();
    let bundle = Bundle { path: odd, ..bundle };
    (lab.run(&bundle, options), bundle)
}

/// `name` and `index`, without commas on kernels that cannot have them there.
fn odd_name(name: &str, index: usize) -> String {
    let name = if common::kernel() < (6, 5) { name.replace(',', "") } else { name.to_owned() };
    format!("{name}{index}")
}

#[test]
fn a_comma_in_a_layer_is_said_to_be_too_much_for_old_kernels() {
    let lab = lab!();
    if common::kernel() >= (6, 5) {
        skip!("since Linux 6.5 an overlay's layers may have commas in their names");
    }
    let (output, _) = with_overlay(&lab, "a,b", &["--overlay"], None);
    let error = output.failed();
    assert!(error.contains("invalid argument: before Linux 6.5 no path may have a comma in it"), "{error}");
}

#[test]
fn an_overlay_keeps_the_root_as_it_is() {
    let lab = lab!();
    for (index, (options, annotation)) in
        [(&["--overlay"][..], None), (&[][..], Some("scratch"))].into_iter().enumerate()
    {
        let (output, bundle) = with_overlay(&lab, &odd_name("a:b,c\\d e", index), options, annotation);
        let output = output.ok();
        assert!(output.starts_with("new\n"), "{output}");
        let mounts = parse(&output);
        let root = at(&mounts, "/");
        assert_eq!(root.kind, "overlay", "{root:?}");
        // Nothing has to be written to a disk for what ends with the container.
        assert!(
            root.superblock.split(',').any(|option| option == "volatile" || option == "fsync=volatile"),
            "{root:?}"
        );
        assert!(!bundle.rootfs().join("etc/new").exists() && bundle.rootfs().join("mnt/file").exists());
    }
}

#[test]
fn an_overlay_may_keep_what_was_written_in_a_directory() {
    let lab = lab!();
    if statfs(&lab.path("")).unwrap().filesystem_type() == OVERLAYFS_SUPER_MAGIC {
        skip!("{} is on an overlay, which can be no other's upper layer", lab.path("").display());
    }
    for (index, by_flag) in [true, false].into_iter().enumerate() {
        let upper = lab.path(odd_name("upper:,x", index));
        fs::create_dir(&upper).unwrap();
        let flag = format!("--overlay={}", upper.display());
        let (output, bundle) = if by_flag {
            with_overlay(&lab, &format!("directory{index}"), &[&flag], None)
        } else {
            with_overlay(&lab, &format!("directory{index}"), &[], upper.to_str())
        };
        assert!(output.ok().starts_with("new\n"));
        assert_eq!(fs::read_to_string(upper.join("upper/etc/new")).unwrap(), "new\n");
        assert!(!bundle.rootfs().join("etc/new").exists() && bundle.rootfs().join("mnt/file").exists());
        // What was removed is a whiteout: the device 0:0.
        assert_eq!(fs::symlink_metadata(upper.join("upper/mnt/file")).unwrap().rdev(), 0);
    }
}

#[test]
fn nobody_outside_sees_an_overlays_scratch_layer() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["root"]["readonly"] = json!(false);
        config["annotations"] = json!({"org.microrun.overlay": "scratch"});
        config["process"]["args"] =
            json!(["sh", "-c", "echo secret > /etc/secret; ls /run 2>/dev/null; exec sleep 1000"]);
    });
    let pid = lab.started(&bundle);
    let written = Path::new("/proc").join(pid.to_string()).join("root/etc/secret");
    eventually(|| written.exists());
    // Others mount in places of theirs.
    let outside = parse(&fs::read_to_string("/proc/self/mountinfo").unwrap());
    assert!(outside.iter().all(|mounted| !Path::new(&mounted.place).starts_with(lab.path(""))), "{outside:?}");
    let state = lab.path("run").join(&bundle.id);
    assert!(!state.join("upper").exists(), "the layer is seen from outside");
    // Inside, the state directory and what is mounted there are gone with the old root.
    let inside = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert!(parse(&inside).iter().all(|mounted| !Path::new(&mounted.place).starts_with(&state)), "{inside}");
}

#[test]
fn an_overlay_works_in_a_user_namespace() {
    let lab = lab!();
    if common::kernel() < (5, 11) {
        skip!("before Linux 5.11 no overlay can be mounted in a user namespace");
    }
    let output = lab.shell("echo new > /etc/new; cat /etc/new", |config| {
        config["root"]["readonly"] = json!(false);
        config["annotations"] = json!({"org.microrun.overlay": "scratch"});
        push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
        for field in ["uidMappings", "gidMappings"] {
            config["linux"][field] = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        }
    });
    assert_eq!(output.ok(), "new");
}

/// What the image has in its place does not lead to the container's devpts.
#[test]
fn the_multiplexer_of_terminals_is_not_the_images() {
    let lab = lab!();
    for kind in ["file", "link", "device", "right link"] {
        let bundle = lab.bundle(|config| {
            config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev");
            let script = "stat -L -c %t:%T /dev/ptmx; ls -l /dev/ptmx | cut -c1";
            config["process"]["args"] = json!(["sh", "-c", script]);
        });
        let ptmx = bundle.rootfs().join("dev/ptmx");
        match kind {
            "file" => fs::write(&ptmx, "").unwrap(),
            "link" => symlink("/etc/passwd", &ptmx).unwrap(),
            "device" => drop(host("mknod", &[ptmx.to_str().unwrap(), "c", "5", "2"])),
            _ => symlink("pts/ptmx", &ptmx).unwrap(),
        }
        let output = lab.run(&bundle, &[]).ok();
        assert_eq!(output, if kind == "device" { "5:2\nc" } else { "5:2\nl" }, "{kind}");
    }
}

/// A /dev that is bound has its devices already. One that is only remounted is as it was, and what lies elsewhere is made.
#[test]
fn devices_where_dev_is_bound_or_remounted() {
    let lab = lab!();
    let device = json!([{"path": "/mnt/own", "type": "c", "major": 1, "minor": 3}]);
    let script = "stat -c %F:%t:%T /mnt/own /dev/null";
    for mount in [
        json!({"destination": "/dev", "source": "/dev", "options": ["rbind"]}),
        json!({"destination": "/dev", "options": ["bind", "remount", "nosuid", "noexec"]}),
        json!({"destination": "/dev", "options": ["remount", "size=64k"]}),
    ] {
        let output = lab.shell(script, |config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            let at = mounts.iter().position(|mount| mount["destination"] == "/dev").unwrap();
            mounts.insert(at + 1, mount.clone());
            config["linux"]["devices"] = device.clone();
        });
        assert_eq!(output.ok(), "character special file:1:3\ncharacter special file:1:3", "{mount}");
    }
}

#[test]
fn tmpcopyup_is_for_a_tmpfs_alone() {
    let lab = lab!();
    let output = lab.shell("ls -A /etc", |config| {
        add(config, json!({"destination": "/etc", "type": "ramfs", "source": "ramfs", "options": ["tmpcopyup"]}));
    });
    assert!(output.code == 0 && output.stdout.is_empty(), "{output:?}");
    assert!(output.stderr.contains("tmpcopyup has no effect"), "{output:?}");
}

#[test]
fn device_nodes_fifos_and_links_are_made() {
    let lab = lab!();
    let output = lab
        .shell(
            "cd /dev; stat -c '%n %F %t:%T %a %u %g' null zero full random urandom tty own other pipe sub/deep slash /mnt/slash; \
             for l in fd stdin stdout stderr ptmx; do readlink $l; done; echo x > null; head -c 3 zero | wc -c",
            |config| {
                config["linux"]["devices"] = json!([
                    {"path": "/dev/own", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6},
                    {"path": "/dev/other", "type": "b", "major": 7, "minor": 0},
                    {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
                    {"path": "/dev/sub/deep", "type": "u", "major": 1, "minor": 5, "fileMode": 0o666},
                    {"path": "/dev/slash/", "type": "c", "major": 1, "minor": 3},
                    {"path": "/mnt//./slash/", "type": "c", "major": 1, "minor": 5}
                ]);
            },
        )
        .ok();
    for line in [
        "null character special file 1:3 666 0 0",
        "tty character special file 5:0 666 0 0",
        "own character special file 1:3 640 5 6",
        "other block special file 7:0 666 0 0",
        "pipe fifo 0:0 600 0 0",
        "sub/deep character special file 1:5 666 0 0",
        "\nslash character special file 1:3 666 0 0",
        "/mnt/slash character special file 1:5 666 0 0",
        "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n3",
    ] {
        assert!(output.contains(line), "{line}: {output}");
    }
}

#[test]
fn hidden_and_read_only_paths() {
    let lab = lab!();
    let output = lab
        .shell(
            "cat /etc/secret | wc -c; ls -A /root | wc -l; echo x > /etc/kept; echo x > /mnt/file; echo $?; \
             echo x > /etc/secret; echo $?; touch /root/x; echo $?",
            |config| {
                config["root"]["readonly"] = json!(false);
                config["linux"]["maskedPaths"] = json!(["/etc/secret", "/root", "/no/such"]);
                config["linux"]["readonlyPaths"] = json!(["/mnt", "/no/such"]);
                let script = config["process"]["args"][2].as_str().unwrap();
                config["process"]["args"][2] = json!(script);
                config["hooks"]["createRuntime"] = json!([{"path": "/bin/sh", "args": ["sh", "-c",
                    format!("cd {}; echo secret > etc/secret; echo secret > root/secret", lab.path("bundle0/rootfs").display())]}]);
            },
        );
    let words: Vec<&str> = output.stdout.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "1", "0", "1"], "{output:?}");
}

/// Each network namespace has files of its own below /proc/sys/net. Without a sysfs nothing else in the configuration needs it so soon.
#[test]
fn what_is_hidden_of_the_network_is_the_containers_own() {
    let lab = lab!();
    for has_sysfs in [true, false] {
        let output = lab.shell(
            "cat /proc/sys/net/ipv4/ip_forward | wc -c; cat /proc/sys/net/ipv4/tcp_ecn | wc -c; echo 7 > /proc/sys/net/core/somaxconn; echo $?",
            |config| {
                let mounts = config["mounts"].as_array_mut().unwrap();
                mounts.retain(|mount| has_sysfs || !mount["destination"].as_str().unwrap().starts_with("/sys"));
                config["linux"]["maskedPaths"] = json!(["/proc/sys/net/ipv4/ip_forward"]);
                config["linux"]["readonlyPaths"] = json!(["/proc/sys/net/core"]);
            },
        );
        let words: Vec<&str> = output.stdout.split_whitespace().collect();
        assert_eq!(words, ["0", "2", "1"], "{has_sysfs}: {output:?}");
    }
}

/// Whatever comes before it, what is bound from procfs shows the container's network.
#[test]
fn what_is_bound_of_the_network_is_the_containers_own() {
    let lab = lab!();
    let bind = |source: &str, target: &str| json!({"destination": target, "type": "bind", "source": source, "options": ["bind"]});
    // Linux 7.3 binds no file of a network.
    let place = lab.path("file");
    fs::write(&place, "").unwrap();
    let mut mount = Command::new("unshare");
    mount.args(["-m", "mount", "--bind", "/proc/self/net/dev"]).arg(place);
    let binds_files = output(mount).code == 0;
    for (index, has_sysfs) in [(1, true), (0, true), (1, false)] {
        let output = lab.shell(
            "ls /mnt/conf | sort; [ ! -f /net/dev ] || wc -l </net/dev; stat -Lc %i /own /proc/self/ns/net | uniq | wc -l",
            |config| {
                let mounts = config["mounts"].as_array_mut().unwrap();
                mounts.retain(|mount| has_sysfs || !mount["destination"].as_str().unwrap().starts_with("/sys"));
                mounts.insert(index, bind("/proc/self/ns/net", "/own"));
                if binds_files {
                    mounts.insert(index, bind("/proc/self/net/dev", "/net/dev"));
                }
                mounts.insert(index, bind("/proc/sys/net/ipv4", "/mnt"));
            },
        );
        let words: Vec<&str> = output.stdout.split_whitespace().collect();
        let devices = common::new_devices();
        let mut expected: Vec<String> =
            ["all", "default"].map(str::to_owned).into_iter().chain(devices.clone()).collect();
        expected.sort();
        // Two lines of headings, and the devices.
        expected.extend(binds_files.then(|| (2 + devices.len()).to_string()));
        expected.push("1".to_owned());
        assert_eq!(words, expected, "{index} {has_sysfs}: {output:?}");
    }
}

/// Mounts after a sysfs come after it, whatever comes before the network namespace: below it, from it and beside it.
#[test]
fn mounts_after_a_sysfs_find_it() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        let sys = lab.path("bundle0/rootfs/sys/kernel");
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/sys"));
        mounts.extend([
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}),
            json!({"destination": "/sys/kernel", "type": "tmpfs", "source": "tmpfs", "options": ["mode=711"]}),
            json!({"destination": "/mnt", "type": "bind", "source": sys, "options": ["bind"]}),
        ]);
        let script = "stat -c %a /sys/kernel /mnt; ls /sys/class/net; cat /sys/class/net/lo/flags; \
            sed -n 's:^[^ ]* [^ ]* [^ ]* [^ ]* \\(/sys[^ ]*\\|/mnt\\) .*:\\1:p' /proc/self/mountinfo";
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["linux"]["maskedPaths"] = json!([]);
    });
    fs::create_dir_all(bundle.rootfs().join("mnt")).unwrap();
    let words = lab.run(&bundle, &[]).ok();
    let words: Vec<&str> = words.split_whitespace().collect();
    let devices = common::new_devices().join(" ");
    assert_eq!(words.join(" "), format!("711 711 {devices} 0x9 /sys /sys/kernel /mnt"));
}

type Names = &'static [&'static str];

/// A mount of the host with flags of its own, what a bind mount of it asks for, and what comes of that (`!`: not) without
/// a user namespace and with one, where `None` is a refusal.
const INHERITED: &[(&str, Names, Names, Option<Names>)] = &[
    ("ro,noexec,nodiratime", &["bind"], &["ro", "noexec", "nodiratime"], Some(&["ro", "noexec", "nodiratime"])),
    // Naming one flag clears the others, but for those that the namespace may not clear.
    (
        "ro,noexec,nosymfollow,nodiratime",
        &["bind", "dev"],
        &["rw", "!noexec", "!nosymfollow", "nodiratime"],
        Some(&["ro", "noexec", "!nosymfollow", "nodiratime"]),
    ),
    ("ro", &["bind", "nosuid"], &["rw", "nosuid"], Some(&["ro", "nosuid"])),
    ("ro", &["bind", "rw", "nosuid"], &["rw", "nosuid"], None),
    ("nosuid,nodev", &["bind", "suid"], &["!nosuid", "!nodev"], None),
    ("nodev,noatime", &["bind", "ro", "exec"], &["ro", "!nodev", "noatime"], Some(&["ro", "nodev", "noatime"])),
    // How access times are kept is changed by a choice, not by taking back one that nobody made.
    ("noatime", &["bind", "atime"], &["noatime"], Some(&["noatime"])),
    ("nodiratime", &["bind", "diratime"], &["nodiratime"], Some(&["nodiratime"])),
    ("noatime", &["bind", "relatime"], &["relatime", "!noatime"], None),
    ("noatime", &["bind", "nodiratime"], &["relatime", "nodiratime", "!noatime"], None),
    ("nodiratime", &["bind", "strictatime"], &["!relatime", "!noatime", "!nodiratime"], None),
    ("noatime", &["bind", "noatime"], &["noatime"], Some(&["noatime"])),
    ("strictatime", &["bind", "nostrictatime"], &["!relatime", "!noatime"], Some(&["!relatime", "!noatime"])),
];

#[test]
fn flags_of_a_hosts_mount_and_of_a_bind_of_it() {
    let lab = lab!();
    let source = source(&lab);
    for (host, options, alone, in_user_namespace) in INHERITED {
        let setup = format!(
            "mount -t tmpfs none {0}; mount -o remount,bind,atime,diratime,strictatime {0}; mount -o remount,bind,{host} {0}",
            source.display()
        );
        for (user_namespace, wanted) in [(false, &Some(*alone)), (true, in_user_namespace)] {
            let bundle = lab.bundle(|config| {
                if user_namespace {
                    push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
                    for field in ["uidMappings", "gidMappings"] {
                        config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
                    }
                }
                add(config, bind(&source, "/mnt", options));
                config["process"]["args"] = json!(["cat", "/proc/self/mountinfo"]);
            });
            let output = run_after(&lab, &setup, &bundle);
            let case = format!("{host} {options:?} {user_namespace}");
            let Some(wanted) = wanted else {
                let said = output.failed();
                let words = "run failed: unable to start container process: error during container init: error mounting \
                             mounts[";
                assert!(said.contains(words) && said.contains("operation not permitted"), "{case}: {said}");
                continue;
            };
            let mounts = parse(&output.ok());
            for option in *wanted {
                let (name, expected) = option.strip_prefix('!').map_or((*option, true), |name| (name, false));
                assert_eq!(at(&mounts, "/mnt").has(name), expected, "{case}: {option} of {:?}", at(&mounts, "/mnt"));
            }
        }
    }
}

/// The same where the user namespace is that of the runtime: options that contradict what it locks are refused, and no others.
#[test]
fn flags_of_a_hosts_mount_and_of_a_bind_of_it_in_the_runtimes_user_namespace() {
    let lab = match Lab::for_user() {
        Ok(lab) => lab,
        Err(why) => skip!("{why}"),
    };
    let source = source(&lab);
    for (host, options, _, wanted) in INHERITED {
        let bundle = lab.bundle(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "user");
            for field in ["uidMappings", "gidMappings"] {
                config["linux"].as_object_mut().unwrap().remove(field);
            }
            add(config, bind(&source, "/mnt", options));
            config["process"]["args"] = json!(["cat", "/proc/self/mountinfo"]);
        });
        // The first five words of the command are options of setpriv(1).
        let setup = format!(
            "mount -t tmpfs none {0}; mount -o remount,bind,atime,diratime,strictatime {0}; \
             mount -o remount,bind,{host} {0}; export XDG_RUNTIME_DIR={1}; \
             user=\"$1 $2 $3 $4 $5\"; shift 5; set -- $user unshare --user --map-root-user --mount \"$@\"",
            source.display(),
            lab.path("run").display()
        );
        let output = run_after(&lab, &setup, &bundle);
        let Some(wanted) = wanted else {
            let said = output.failed();
            assert!(said.contains("operation not permitted: a user namespace may not"), "{host} {options:?}: {said}");
            continue;
        };
        let mounts = parse(&output.ok());
        for option in *wanted {
            let (name, expected) = option.strip_prefix('!').map_or((*option, true), |name| (name, false));
            let mount = at(&mounts, "/mnt");
            assert_eq!(mount.has(name), expected, "{host} {options:?}: {option} of {mount:?}");
        }
    }
}

/// A file system that is read-only by itself has no flag that a bind mount could take back.
#[test]
fn a_read_only_file_system_may_be_asked_for_as_writable() {
    let lab = lab!();
    let source = source(&lab);
    let bundle = lab.bundle(|config| {
        push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
        for field in ["uidMappings", "gidMappings"] {
            config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        }
        add(config, bind(&source, "/mnt", &["rbind", "rw"]));
    });
    let setup =
        format!("mount -t tmpfs none {0}; mount -o remount,ro {0}; mount -o remount,bind,rw {0}", source.display());
    run_after(&lab, &setup, &bundle).ok();
}

/// Runs `script` with a root that may be written and that has a symbolic link "lroot" to itself.
fn shell_with_link(lab: &Lab, script: &str, change: impl FnOnce(&mut Value)) -> Output {
    let bundle = lab.bundle(|config| {
        config["root"]["readonly"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", script]);
        change(config);
    });
    symlink("/", bundle.rootfs().join("lroot")).unwrap();
    fs::create_dir(bundle.rootfs().join("secret")).unwrap();
    fs::write(bundle.rootfs().join("secret/file"), "text").unwrap();
    lab.run(&bundle, &[])
}

/// What would be mounted on the root would not be the root: that itself becomes read-only, by whatever path.
#[test]
fn the_root_may_be_a_read_only_path_but_not_a_masked_one() {
    let lab = lab!();
    for path in ["/", "//.", "/lroot", "/mnt/../"] {
        let output =
            shell_with_link(&lab, "touch /x; echo $?; touch /dev/x; echo $?; cat /secret/file | wc -c", |config| {
                config["linux"]["readonlyPaths"] = json!([path, "/proc/sys"]);
                // What is hidden after it is still hidden.
                config["linux"]["maskedPaths"] = json!(["/secret"]);
            });
        assert_eq!(output.stdout, "1\n0\n0", "{path}: {output:?}");
        let error = shell_with_link(&lab, "true", |config| config["linux"]["maskedPaths"] = json!([path])).failed();
        assert!(error.contains("linux.maskedPaths: ") && error.contains("is the root"), "{path}: {error}");
    }
}

#[test]
fn a_hidden_file_may_be_written_with_a_slash() {
    let lab = lab!();
    let script = "cat /secret/file | wc -c; echo x > /mnt/file; echo $?";
    let output = shell_with_link(&lab, script, |config| {
        config["linux"]["maskedPaths"] = json!(["/secret/./file/"]);
        config["linux"]["readonlyPaths"] = json!(["/mnt/file/."]);
    });
    assert_eq!(output.stdout, "0\n1", "{output:?}");
}

/// A mount at "/" is the root from then on: what comes later goes there, and its options are those of the root.
#[test]
fn a_mount_may_become_the_root() {
    let lab = lab!();
    let other = lab.path("other");
    common::make_rootfs(&other);
    fs::write(other.join("other"), "").unwrap();
    let script = "ls -d /other /mnt/file; cat /etc/secret | wc -c; touch /x; echo $?; ls /dev/null /proc/self/exe";
    let source = source(&lab);
    fs::write(other.join("etc/secret"), "text").unwrap();
    for (propagation, user_namespace) in [("", false), ("rshared", false), ("", true)] {
        let bundle = lab.bundle(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.insert(0, bind(&other, "/mnt/..", &["rbind", "ro"]));
            add(config, bind(&source, "/mnt", &["bind"]));
            config["root"]["readonly"] = json!(false);
            config["linux"]["maskedPaths"] = json!(["/etc/secret"]);
            config["linux"]["rootfsPropagation"] = json!(propagation);
            config["process"]["args"] = json!(["sh", "-c", script]);
            if user_namespace {
                push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
                for field in ["uidMappings", "gidMappings"] {
                    config["linux"][field] = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
                }
            }
        });
        let output = run_after(&lab, "mount --make-rshared /", &bundle);
        let expected = "/mnt/file\n/other\n0\n1\n/dev/null\n/proc/self/exe";
        assert_eq!(output.stdout, expected, "{propagation} {user_namespace}: {output:?}");
        if propagation.is_empty() && !user_namespace {
            assert_eq!(lab.run(&bundle, &["--no-pivot"]).stdout, expected);
        }
    }
    // Of a file system that is read-only, too, once the places of all other mounts are there.
    let output = lab.shell("/bin/sh -c 'touch /x; echo $?; ls /mnt'", |config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.insert(0, json!({"destination": "/", "type": "tmpfs", "source": "tmpfs"}));
        add(config, bind(&other.join("bin"), "/bin", &["bind"]));
        add(config, bind(&source, "/mnt", &["bind"]));
        config["root"]["readonly"] = json!(true);
    });
    assert_eq!(output.stdout, "1\nfile\nsub", "{output:?}");
    let error = shell_with_link(&lab, "true", |config| add(config, bind(&other, "/lroot", &["bind"]))).failed();
    assert!(error.contains("mounts[") && error.contains("leads to the root by a symbolic link"), "{error}");
}

fn tmpfs(destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options})
}

/// What comes below a read-only tmpfs has to be made there before.
#[test]
fn a_tmpfs_becomes_read_only_when_all_below_it_is_there() {
    let lab = lab!();
    let source = source(&lab);
    let output = lab.shell(
        "pwd; cat /run/x/file; ls /root; ls -l /run/null | cut -c1; for d in / /run /run/t /root /last; do touch $d/x; echo $?; done",
        |config| {
            add(config, tmpfs("/run", &["ro", "nosuid"]));
            add(config, bind(&source.join("file"), "/run/x/file", &["bind"]));
            add(config, tmpfs("/run/t", &[]));
            add(config, tmpfs("/root", &["rro", "tmpcopyup"]));
            add(config, tmpfs("/root/t", &["ro", "mode=700"]));
            add(config, tmpfs("/last", &["ro"]));
            config["root"]["readonly"] = json!(false);
            config["process"]["cwd"] = json!("/run/cwd");
            config["linux"]["devices"] = json!([{"path": "/run/null", "type": "c", "major": 1, "minor": 3}]);
        },
    );
    assert_eq!(output.stdout, "/run/cwd\ntextt\nc\n0\n1\n0\n1\n1", "{output:?}");
    // As the root itself, too.
    let lines = "cd /; touch x 2>/dev/null; echo $?; ls /mnt";
    let output = lab.shell(lines, |config| {
        config["root"]["readonly"] = json!(false);
        config["mounts"].as_array_mut().unwrap().insert(0, tmpfs("/", &["ro"]));
        add(config, bind(&lab.path("bundle0/rootfs/bin"), "/bin", &["bind"]));
        add(config, bind(&source, "/mnt", &["bind"]));
    });
    assert_eq!(output.stdout, "1\nfile\nsub", "{output:?}");
}

/// The last mount at /dev is what counts: it gets the device nodes, and its options say whether it is read-only.
#[test]
fn several_mounts_at_dev() {
    let lab = lab!();
    let dev =
        |kind: &str, options: &[&str]| json!({"destination": "/dev", "type": kind, "source": kind, "options": options});
    // What is mounted there after the tmpfs that is there already; whether a file can be made there.
    for (mounts, writable) in [
        (vec![dev("tmpfs", &["mode=755", "ro"])], false),
        (vec![dev("tmpfs", &["ro"]), dev("tmpfs", &[])], true),
        (vec![dev("tmpfs", &[]), dev("tmpfs", &["rro"])], false),
        (vec![dev("ramfs", &[])], true),
        (vec![dev("ramfs", &["ro"])], false),
        (vec![dev("tmpfs", &["ro"]), dev("ramfs", &[])], true),
    ] {
        let output = lab.shell("ls -l /dev/null | cut -c1; touch /dev/x && echo made", |config| {
            for mount in &mounts {
                add(config, mount.clone());
            }
        });
        let expected = if writable { "c\nmade" } else { "c" };
        assert_eq!(output.stdout, expected, "{mounts:?}: {output:?}");
    }
}

/// A mount of type cgroup, and the lines of mountinfo for what is there of cgroups: a file system of its own or binds of the host's.
fn cgroups(lab: &Lab, namespace: bool, options: &[&str], setup: &str) -> Vec<Mounted> {
    let bundle = lab.bundle(|config| {
        config["linux"]["rootfsPropagation"] = json!("shared");
        if namespace {
            push(&mut config["linux"]["namespaces"], json!({"type": "cgroup"}));
        }
        add(config, json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}));
        config["process"]["args"] = json!(["cat", "/proc/self/mountinfo"]);
    });
    let mut mounts = parse(&run_after(lab, setup, &bundle).ok());
    mounts.retain(|mounted| mounted.kind.starts_with("cgroup"));
    assert!(!mounts.is_empty(), "{mounts:?}");
    mounts
}

/// What is mounted on a cgroup of the container, a mask for instance, must not be mounted on the host's.
#[test]
fn a_mount_of_cgroups_is_no_peer_of_the_hosts() {
    let lab = lab!();
    for mounted in cgroups(&lab, false, &[], "mount --make-rshared /") {
        assert_eq!(mounted.propagation, "", "{mounted:?}");
    }
    let bundle = lab.bundle(|config| {
        config["linux"]["rootfsPropagation"] = json!("shared");
        add(config, json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}));
        let files: Vec<String> = common::hierarchies()
            .iter()
            .map(|hierarchy| match hierarchy.strip_prefix("/sys/fs/cgroup") {
                Ok(name) => Path::new("/sys/fs/cgroup").join(name).join("cgroup.procs"),
                Err(_) => "/sys/fs/cgroup/cgroup.procs".into(),
            })
            .map(|path| path.to_str().unwrap().to_owned())
            .collect();
        config["linux"]["maskedPaths"] = json!(files);
        config["process"]["args"] = json!(["grep", "-c", "cgroup.procs", "/proc/self/mountinfo"]);
    });
    let setup = "mount --make-rshared /; \"$0\" \"$@\"; ! grep cgroup.procs /proc/self/mountinfo; exit";
    let masked = run_after(&lab, setup, &bundle).ok();
    assert_eq!(masked, common::hierarchies().len().to_string());
}

/// `podman run --systemd=always` binds /sys/fs/cgroup/systemd, whatever there is of that already.
#[test]
fn a_read_only_mount_of_cgroups_has_places_for_other_mounts() {
    let lab = lab!();
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        skip!("on unified cgroups nobody can make a directory there that is no cgroup");
    }
    let output = lab.shell("cat /sys/fs/cgroup/place/file; mkdir /sys/fs/cgroup/other", |config| {
        let source = lab.path("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "seen").unwrap();
        let options = ["ro", "nosuid", "noexec", "nodev"];
        add(config, json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}));
        add(
            config,
            json!({"destination": "/sys/fs/cgroup/place", "type": "bind", "source": source, "options": ["bind"]}),
        );
    });
    assert_eq!(output.stdout, "seen", "{output:?}");
    assert!(output.stderr.contains("Read-only file system"), "{output:?}");
}

#[test]
fn a_mount_of_cgroups_takes_all_options() {
    let lab = lab!();
    for namespace in [false, true] {
        for (options, wanted) in [
            (&["rro", "rnosuid", "rnodev", "noexec"][..], &["ro", "nosuid", "nodev", "noexec"][..]),
            (&["noatime"], &["rw", "noatime"]),
            (&["strictatime"], &["!noatime", "!relatime"]),
            (&["rnoatime", "strictatime", "ro", "rrw"], &["noatime", "rw"]),
        ] {
            for mounted in cgroups(&lab, namespace, options, "true") {
                for option in wanted {
                    let (name, expected) = option.strip_prefix('!').map_or((*option, true), |name| (name, false));
                    assert_eq!(mounted.has(name), expected, "{namespace} {options:?}: {option} of {mounted:?}");
                }
            }
        }
    }
    // A new file system keeps access times in one way only, too.
    let mounts = mounts_of(&lab, |config| add(config, tmpfs("/mnt", &["rnoatime", "strictatime"])));
    assert!(at(&mounts, "/mnt").has("noatime"), "{mounts:?}");
}

#[test]
fn a_remount_needs_no_source() {
    let lab = lab!();
    let mounts = mounts_of(&lab, |config| {
        add(config, tmpfs("/mnt", &[]));
        add(config, json!({"destination": "/mnt", "options": ["remount", "bind", "ro"]}));
    });
    assert!(at(&mounts, "/mnt").has("ro"), "{mounts:?}");
    let error = lab.shell("true", |config| add(config, json!({"destination": "/mnt", "options": ["bind", "ro"]})));
    assert!(error.failed().contains(".source: is missing"));
}

/// Without "bind" a remount changes the file system, too.
#[test]
fn a_remount_takes_options_of_file_systems() {
    let lab = lab!();
    let mounts = mounts_of(&lab, |config| {
        add(config, tmpfs("/dev/shm", &["size=64k", "nosuid"]));
        add(config, tmpfs("/dev/shm", &["remount", "size=1m", "sync"]));
        add(
            config,
            json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["remount", "hidepid=2"]}),
        );
        add(config, tmpfs("/mnt", &["size=64k"]));
        add(config, json!({"destination": "/mnt", "source": "/", "options": ["remount", "bind", "size=1m"]}));
    });
    let superblock = |place: &str, option: &str| at(&mounts, place).superblock.split(',').any(|has| has == option);
    assert!(superblock("/dev/shm", "size=1024k") && superblock("/dev/shm", "sync"), "{mounts:#?}");
    assert!(at(&mounts, "/dev/shm").has("nosuid"), "{mounts:#?}");
    assert!(superblock("/proc", "hidepid=invisible") || superblock("/proc", "hidepid=2"), "{mounts:#?}");
    assert!(superblock("/mnt", "size=64k"), "{mounts:#?}");
    let error = lab.shell("true", |config| add(config, tmpfs("/dev", &["remount", "nosuchoption"]))).failed();
    assert!(
        error.contains("mounts[4]") && error.contains("nosuchoption") && error.contains("invalid argument"),
        "{error}"
    );
}

#[test]
fn a_remount_reaches_what_is_mounted_below() {
    let lab = lab!();
    if common::kernel() < (5, 12) {
        skip!("the attributes of all mounts below another need Linux 5.12");
    }
    let mounts = mounts_of(&lab, |config| {
        add(config, tmpfs("/mnt", &[]));
        add(config, tmpfs("/mnt/below", &[]));
        add(config, tmpfs("/mnt", &["remount", "rnodev"]));
    });
    assert!(at(&mounts, "/mnt").has("nodev") && at(&mounts, "/mnt/below").has("nodev"), "{mounts:#?}");
}

/// What the container mounts on its own cgroup is mounted on the host's, if both share their mounts.
#[test]
fn a_cgroup_on_which_something_is_mounted_is_not_waited_for() {
    let lab = lab!();
    let Some(hierarchy) = common::hierarchies().into_iter().find(|hierarchy| hierarchy.join("cgroup.procs").exists())
    else {
        skip!("no cgroup hierarchy is mounted");
    };
    let bundle = lab.bundle(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    lab.started(&bundle);
    let Some(cgroup) = lab.cgroups_of(&bundle).into_iter().find(|cgroup| cgroup.starts_with(&hierarchy)) else {
        skip!("the container has no cgroup in {}", hierarchy.display());
    };
    common::host("mount", &["-t", "tmpfs", "cover", cgroup.to_str().unwrap()]);
    let error = lab.microrun(&["delete", "--force", &bundle.id]);
    common::host("umount", &[cgroup.to_str().unwrap()]);
    let sentence = format!("remove the cgroup {} (something is mounted on it: unmount that first)", cgroup.display());
    assert!(error.code != 0 && error.stderr.contains(&sentence), "{error:?}");
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
    assert!(lab.cgroups_of(&bundle).is_empty());
}

/// What the runtime has copied for init is not in use by the runtime, which waits for the container's end.
#[test]
fn a_mount_that_the_runtime_has_copied_can_be_unmounted_inside() {
    let lab = lab!();
    if let Err(why) = common::require_idmap(&lab.path("")) {
        skip!("{why}");
    }
    let source = source(&lab);
    let output = lab.shell("umount /mnt && echo unmounted", |config| {
        let mut mount = bind(&source, "/mnt", &["bind", "idmap"]);
        for field in ["uidMappings", "gidMappings"] {
            mount[field] = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
        }
        add(config, mount);
        for set in ["bounding", "effective", "permitted"] {
            push(&mut config["process"]["capabilities"][set], json!("CAP_SYS_ADMIN"));
        }
    });
    assert_eq!(output.ok(), "unmounted");
}

/// Of the host's the container's root could change owner and mode.
#[test]
fn standard_streams_that_are_the_null_device_are_the_containers_own_one() {
    let lab = lab!();
    // Each must be on a mount of the container's; its shell has nowhere to say so.
    let script = "for fd in 0 1 2; do
        mount=$(sed -n 's/^mnt_id:[[:space:]]*//p' /proc/$$/fdinfo/$fd)
        [ \"$(stat -L -c %t:%T /proc/$$/fd/$fd)\" = 1:3 ] || exit 3
        grep -q \"^$mount \" /proc/self/mountinfo || exit 4
    done
    : </dev/null && echo x >&1 && echo x >&2 && exit 5";
    let code = |options: &[&str], change: &dyn Fn(&mut Value)| {
        let bundle = lab.bundle(|config| {
            config["process"]["args"] = json!(["sh", "-c", script]);
            change(config);
        });
        let path = bundle.path.to_str().unwrap();
        let mut command = lab.command(&[&["run", "--bundle", path], options, &[&bundle.id]].concat());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().code()
    };
    assert_eq!(code(&[], &|_| {}), Some(5));
    assert_eq!(code(&["--no-pivot"], &|_| {}), Some(5));
    assert_eq!(code(&[], &|config| config["process"]["user"] = json!({"uid": 7, "gid": 7})), Some(5));
    let without_dev = |config: &mut Value| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    };
    // In the root's own /dev, if devices can be used there: not where TMPDIR is mounted with nodev.
    let flags = statvfs(&lab.path("")).unwrap().flags();
    assert_eq!(code(&[], &without_dev), Some(if flags.contains(FsFlags::ST_NODEV) { 4 } else { 5 }));
    let in_user_namespace = |config: &mut Value| {
        push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
        for field in ["uidMappings", "gidMappings"] {
            config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        }
    };
    assert_eq!(code(&[], &in_user_namespace), Some(5));
    let with_hosts_dev = |config: &mut Value| {
        without_dev(config);
        add(config, bind(Path::new("/dev"), "/dev", &["rbind", "ro"]));
    };
    assert_eq!(code(&[], &with_hosts_dev), Some(4), "a bind of the host's has the host's");
}
