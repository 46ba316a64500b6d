//! The six points at which hooks run: in which order, where, with what, and what a failure does.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::{Bundle, Lab, output, push};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

const POINTS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A hook that is a shell script. startContainer's is looked up in the container, where the shell has the same path.
fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]})
}

/// A bundle whose hooks write, each, what `script` prints to a file of their name in a directory that all of them see.
fn recording<F: FnOnce(&mut Value)>(
    lab: &Lab,
    points: &[&str],
    script: &str,
    change: F,
) -> (Bundle, impl Fn(&str) -> String + use<F>) {
    let log = lab.path(format!("log-{}", points.join("-")));
    fs::create_dir(&log).unwrap();
    let bundle = lab.bundle(|config| {
        for point in points {
            // The container's own see the directory at another place.
            let directory = if *point == "startContainer" { Path::new("/mnt") } else { &log };
            let file = directory.join(point);
            config["hooks"][point] = json!([hook(&format!("{{ {script}; }} > {} 2>&1", file.display()))]);
        }
        let options = json!(["bind", "rw"]);
        push(&mut config["mounts"], json!({"destination": "/mnt", "type": "bind", "source": log, "options": options}));
        change(config);
    });
    (bundle, move |point: &str| fs::read_to_string(log.join(point)).unwrap_or_default().trim().to_owned())
}

#[test]
fn they_run_in_the_order_of_the_specification() {
    let lab = lab!();
    let order = lab.path("order");
    fs::create_dir(&order).unwrap();
    let bundle = lab.bundle(|config| {
        for point in POINTS {
            let directory = if point == "startContainer" { Path::new("/mnt") } else { &order };
            let say = |text: &str| hook(&format!("echo {text} >> {}/log", directory.display()));
            config["hooks"][point] = json!([say(&format!("{point} 0")), say(&format!("{point} 1"))]);
        }
        let mount = json!({"destination": "/mnt", "type": "bind", "source": order, "options": ["bind", "rw"]});
        push(&mut config["mounts"], mount);
        // poststart comes after the program was executed, whenever that is done.
        config["process"]["args"] =
            json!(["sh", "-c", "while ! grep -q 'poststart 1' /mnt/log; do usleep 10000; done"]);
    });
    lab.run(&bundle, &[]).ok();
    let expected: Vec<String> = POINTS.iter().flat_map(|point| [format!("{point} 0"), format!("{point} 1")]).collect();
    assert_eq!(fs::read_to_string(order.join("log")).unwrap().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn each_reads_the_state_of_its_moment() {
    let lab = lab!();
    let (bundle, said) = recording(&lab, &POINTS, "cat", |config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["annotations"] = json!({"a.b": "c \"d\""});
    });
    let pid = lab.created(&bundle);
    let state = |point: &str| -> Value { serde_json::from_str(&said(point)).unwrap() };
    // Those of the container's namespaces have the pid that it has there.
    for (point, pid) in [("prestart", pid), ("createRuntime", pid), ("createContainer", 1)] {
        let state = state(point);
        assert_eq!(state["status"], "created", "{point}");
        assert_eq!(state["pid"], pid, "{point}");
        assert_eq!(state["id"], json!(bundle.id), "{point}");
        assert_eq!(state["bundle"], json!(bundle.path), "{point}");
        assert_eq!(state["annotations"]["a.b"], "c \"d\"", "{point}");
        assert!(state["ociVersion"].is_string(), "{point}");
    }
    for point in ["startContainer", "poststart", "poststop"] {
        assert_eq!(said(point), "", "{point} has run");
    }
    lab.microrun(&["start", &bundle.id]).ok();
    assert_eq!((&state("startContainer")["status"], &state("startContainer")["pid"]), (&json!("created"), &json!(1)));
    assert_eq!((&state("poststart")["status"], &state("poststart")["pid"]), (&json!("running"), &json!(pid)));
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
    assert_eq!(state("poststop")["status"], "stopped");
    // Without a pid namespace it is the same everywhere.
    let points = ["createRuntime", "createContainer", "startContainer"];
    let (bundle, said) = recording(&lab, &points, "cat", |config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    });
    let pid = lab.started(&bundle);
    for point in points {
        let state: Value = serde_json::from_str(&said(point)).unwrap();
        assert_eq!(state["pid"], pid, "{point}");
    }
}

#[test]
fn each_runs_in_its_namespaces_and_directory() {
    let lab = lab!();
    let script = "for n in mnt pid user; do readlink /proc/self/ns/$n; done; pwd; env | grep -v PWD | sort";
    for user_namespace in [false, true] {
        let name = if user_namespace { "user" } else { "none" };
        let log = lab.path(format!("namespaces-{name}"));
        fs::create_dir(&log).unwrap();
        if user_namespace {
            std::os::unix::fs::chown(&log, Some(100_000), None).unwrap();
        }
        let bundle = lab.bundle(|config| {
            if user_namespace {
                push(&mut config["linux"]["namespaces"], json!({"type": "user"}));
                for field in ["uidMappings", "gidMappings"] {
                    config["linux"][field] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
                }
            }
            for point in POINTS {
                let directory = if point == "startContainer" { Path::new("/mnt") } else { &log };
                let mut hook = hook(&format!("({script}) > {}/{point}", directory.display()));
                hook["env"] = json!(["A=b", "PATH=/usr/bin:/bin"]);
                config["hooks"][point] = json!([hook]);
            }
            let mount = json!({"destination": "/mnt", "type": "bind", "source": log, "options": ["bind", "rw"]});
            push(&mut config["mounts"], mount);
            config["process"]["cwd"] = json!("/etc");
            config["process"]["args"] = json!(["sleep", "1000"]);
        });
        let pid = lab.started(&bundle);
        let namespaces = |pid: &str| {
            ["mnt", "pid", "user"]
                .map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string())
        };
        let (own, theirs) = (namespaces("self"), namespaces(&pid.to_string()));
        lab.microrun(&["delete", "--force", &bundle.id]).ok();
        for point in POINTS {
            let said = fs::read_to_string(log.join(point)).unwrap();
            let lines: Vec<&str> = said.lines().collect();
            let inside = ["createContainer", "startContainer"].contains(&point);
            assert_eq!(lines[..3], if inside { theirs.clone() } else { own.clone() }, "{point} {name}");
            let directory = match point {
                "createContainer" => bundle.rootfs(),
                "startContainer" => "/etc".into(),
                _ => bundle.path.clone(),
            };
            assert_eq!(Path::new(lines[3]), directory, "{point}");
            let environment: Vec<&&str> = lines[4..]
                .iter()
                .filter(|entry| {
                    !entry.starts_with("SHLVL=") && !entry.starts_with("OLDPWD=") && !entry.starts_with("_=")
                })
                .collect();
            assert_eq!(environment, [&"A=b", &"PATH=/usr/bin:/bin"], "{point}");
        }
    }
}

#[test]
fn a_hook_of_the_runtime_sees_the_rootfs_before_the_root_is_changed() {
    let lab = lab!();
    // As device plug-ins do: enter the container's mount namespace, and mount below root.path.
    let bundle = lab.bundle(|config| {
        let script = "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); \
                      nsenter -t $pid -m sh -c 'mount -t tmpfs none rootfs/mnt && echo driver > rootfs/mnt/lib'";
        let script = script.replace("rootfs/", &format!("{}/rootfs/", lab.path("bundle0").display()));
        config["hooks"]["createRuntime"] = json!([hook(&script)]);
        config["process"]["args"] = json!(["cat", "/mnt/lib"]);
    });
    assert_eq!(lab.run(&bundle, &[]).ok(), "driver");
    assert!(fs::read_to_string(bundle.rootfs().join("mnt/lib")).is_err(), "the host sees the mount");
}

#[test]
fn a_hook_of_the_container_sees_its_mounts_and_may_add_to_them() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        let script = "test -c dev/null && mount -t tmpfs none mnt && echo added > mnt/lib";
        config["hooks"]["createContainer"] = json!([hook(script)]);
        config["process"]["args"] = json!(["cat", "/mnt/lib"]);
    });
    assert_eq!(lab.run(&bundle, &[]).ok(), "added");
}

#[test]
fn the_last_hook_before_the_program_has_the_programs_rights() {
    let lab = lab!();
    let (bundle, said) = recording(
        &lab,
        &["startContainer"],
        "id -u; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; grep ^0:: /proc/self/cgroup; mkdir /mnt/x; true",
        |config| {
            config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
            });
            config["hooks"]["createContainer"] = json!([hook("chmod 777 mnt")]);
        },
    );
    lab.run(&bundle, &[]).ok();
    let said = said("startContainer");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "1000");
    assert!(lines[1].ends_with("0000000000000000"), "{said}");
    assert!(lines[2].ends_with('1') && lines[3].ends_with('2'), "{said}");
    assert!(lines[4].contains(&bundle.id), "{said}");
    assert!(lines[5].contains("not implemented"), "{said}");
}

/// The kernel takes SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV only of a filter that has a listener, which that of a hook has not.
#[test]
fn the_last_hook_before_the_program_has_no_agent() {
    let lab = lab!();
    if common::kernel() < (5, 19) {
        skip!("needs SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux 5.19)");
    }
    let agent = UnixListener::bind(lab.path("agent")).unwrap();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["echo", "ran"]);
        config["linux"]["seccomp"] = common::notifying(&lab.path("agent"));
        config["linux"]["seccomp"]["flags"] = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
        config["hooks"]["startContainer"] = json!([hook("exit 0")]);
    });
    // The agent need not take what is sent to it.
    assert_eq!(lab.run(&bundle, &[]).ok(), "ran");
    drop(agent);
}

#[test]
fn without_an_environment_the_last_hook_before_the_program_gets_the_programs() {
    let lab = lab!();
    let output = lab.shell("cat /mnt/env", |config| {
        config["process"]["env"] = json!(["PATH=/bin", "ONE=two"]);
        let mut hook = hook("env > /mnt/env");
        hook.as_object_mut().unwrap().remove("env");
        config["hooks"]["startContainer"] = json!([hook]);
        push(&mut config["mounts"], json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}));
    });
    let output = output.ok();
    assert!(output.contains("ONE=two") && output.contains("HOME=/"), "{output}");
}

#[test]
fn without_an_environment_the_hooks_of_the_runtime_get_its_own() {
    let lab = lab!();
    let points = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    for own in [None, Some(json!([])), Some(json!(["ONE=three"]))] {
        let own = own.as_ref();
        let log = lab.path(format!("environment{}", own.map_or(0, |own| 1 + own.as_array().unwrap().len())));
        fs::create_dir(&log).unwrap();
        let bundle = lab.bundle(|config| {
            for point in points {
                // A shell would make entries of its own.
                let args = json!(["cp", "/proc/self/environ", log.join(point)]);
                let mut hook = json!({"path": "/bin/cp", "args": args});
                own.iter().for_each(|own| hook["env"] = (*own).clone());
                config["hooks"][point] = json!([hook]);
            }
            config["process"]["env"] = json!(["OF=the program"]);
            config["process"]["args"] = json!(["/bin/true"]);
        });
        let mut command = lab.command(&["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
        command.env("ONE", "two");
        output(command).ok();
        for point in points {
            let said = fs::read_to_string(log.join(point)).unwrap();
            let has = |entry: &str| said.split('\0').any(|one| one == entry);
            assert!(!has("OF=the program"), "{point}: {said}");
            match own {
                // createContainer's is run by init, which has none.
                None if point != "createContainer" => assert!(has("ONE=two"), "{point}: {said}"),
                Some(own) if *own != json!([]) => assert!(has("ONE=three") && !has("ONE=two"), "{point}: {said}"),
                _ => assert_eq!(said, "", "{point}"),
            }
        }
    }
}

/// Whether anything of a container is left.
fn assert_gone(lab: &Lab, bundle: &Bundle) {
    assert!(lab.microrun(&["state", &bundle.id]).failed().contains("does not exist"));
    assert!(!lab.path("run").join(&bundle.id).exists());
}

#[test]
fn a_failure_before_the_program_destroys_the_container_and_runs_poststop() {
    let lab = lab!();
    for point in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let (bundle, said) = recording(&lab, &["poststop", point], "echo done", |config| {
            config["hooks"][point] =
                json!([hook("true"), hook("echo said; echo why >&2; exit 3"), hook("echo no > /mnt/third")]);
            config["process"]["args"] = json!(["touch", "/mnt/program"]);
        });
        let error = lab.run(&bundle, &[]).failed();
        assert!(error.contains(&format!("error running {point} hook #1: /bin/sh: exit status 3")), "{error}");
        assert!(error.contains("stdout: said, stderr: why"), "{error}");
        assert_gone(&lab, &bundle);
        assert_eq!(said("poststop"), "done", "{point}");
        assert_eq!((said("third"), said("program")), (String::new(), String::new()), "{point}");
    }
}

#[test]
fn a_failure_after_the_program_began_ends_it() {
    let lab = lab!();
    for detach in [false, true] {
        let bundle = lab.bundle(|config| {
            config["hooks"]["poststart"] = json!([hook("exit 4")]);
            config["process"]["args"] = json!(["sleep", "1000"]);
        });
        let options: &[&str] = if detach { &["--detach"] } else { &[] };
        let error = lab.run(&bundle, options).failed();
        assert!(error.contains("error running poststart hook #0: /bin/sh: exit status 4"), "{error}");
        assert_gone(&lab, &bundle);
    }
    let bundle = lab.bundle(|config| {
        config["hooks"]["poststart"] = json!([hook("exit 4")]);
        config["process"]["args"] = json!(["sleep", "1000"]);
    });
    lab.created(&bundle);
    assert!(lab.microrun(&["start", &bundle.id]).failed().contains("poststart hook #0"));
    // `start` has killed it; the kernel may take a moment.
    common::eventually(|| lab.status(&bundle.id) == "stopped");
    lab.microrun(&["delete", &bundle.id]).ok();
}

#[test]
fn a_failure_of_startcontainer_is_what_start_says() {
    let lab = lab!();
    let bundle = lab.bundle(|config| config["hooks"]["startContainer"] = json!([hook("echo why >&2; exit 5")]));
    lab.created(&bundle);
    let error = lab.microrun(&["start", &bundle.id]).failed();
    assert!(error.contains("error running startContainer hook #0: /bin/sh: exit status 5"), "{error}");
    assert!(error.contains("stderr: why"), "{error}");
    lab.microrun(&["delete", "--force", &bundle.id]).ok();
}

#[test]
fn a_failure_of_poststop_is_a_warning_and_the_others_still_run() {
    let lab = lab!();
    let (bundle, said) = recording(&lab, &["poststop"], "echo done", |config| {
        let last = config["hooks"]["poststop"][0].clone();
        config["hooks"]["poststop"] = json!([hook("exit 6"), last]);
    });
    let output = lab.run(&bundle, &[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(
        output.stderr.contains("error running poststop hook #0") && output.stderr.contains("level=warning"),
        "{output:?}"
    );
    assert_eq!(said("poststop"), "done");
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    let lab = lab!();
    for point in ["createRuntime", "createContainer", "startContainer"] {
        let bundle = lab.bundle(|config| {
            let mut slow = hook("sleep 1000");
            slow["timeout"] = json!(1);
            config["hooks"][point] = json!([slow]);
        });
        let begun = std::time::Instant::now();
        let error = lab.run(&bundle, &[]).failed();
        assert!(
            error.contains(&format!("error running {point} hook #0: /bin/sh: hook ran past specified timeout of 1.0s")),
            "{error}"
        );
        assert!(begun.elapsed().as_secs() < 10);
    }
}

#[test]
fn a_hook_that_cannot_be_executed_is_named() {
    let lab = lab!();
    for point in ["createRuntime", "createContainer", "startContainer"] {
        let bundle = lab.bundle(|config| config["hooks"][point] = json!([{"path": "/no/such"}]));
        let error = lab.run(&bundle, &[]).failed();
        let expected = format!("error running {point} hook #0: /no/such: execute it: no such file or directory");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn a_hook_need_not_read_and_may_say_much() {
    let lab = lab!();
    let output = lab.shell("true", |config| {
        config["annotations"] = json!({"long": "x".repeat(200_000)});
        for point in ["createRuntime", "createContainer"] {
            config["hooks"][point] = json!([hook("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2")]);
        }
        // A child that it leaves behind is not waited for.
        config["hooks"]["poststop"] = json!([hook("sleep 5 &")]);
    });
    output.ok();
}

#[test]
fn a_user_without_rights_has_hooks_too() {
    let lab = match Lab::for_user() {
        Ok(lab) => lab,
        Err(why) => skip!("{why}"),
    };
    let output = lab.shell("cat /dev/shm", |config| {
        config["hooks"]["createRuntime"] = json!([hook("true")]);
        config["hooks"]["createContainer"] = json!([hook("mount -t tmpfs none mnt && id -u > mnt/create")]);
        config["hooks"]["startContainer"] = json!([hook("id -u > /mnt/start")]);
        config["process"]["args"] = json!(["cat", "/mnt/create", "/mnt/start"]);
    });
    assert_eq!(output.ok(), "0\n0");
}
