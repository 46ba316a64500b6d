//! Sentences and shapes: what a broken or unusual config.json leads to.

use super::*;

mod fuzz;

/// The smallest configuration that is accepted, with `members` added to it.
fn minimal(members: &str) -> String {
    let comma = if members.is_empty() { "" } else { "," };
    format!(r#"{{"ociVersion":"1.3.0","root":{{"path":"r"}},"process":{{"cwd":"/","args":["a"]}}{comma}{members}}}"#)
}

fn refused(text: &str) -> String {
    match parse(text.as_bytes()) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

/// serde would take them for the members in the order in which it knows them.
#[test]
fn an_array_is_no_object() {
    for (members, field) in [
        (r#""root":["r",true]"#, "root"),
        (r#""root" : [ ]"#, "root"),
        (r#""process":[]"#, "process"),
        (r#""process":{"cwd":"/","user":[0,0]}"#, "process.user"),
        (r#""mounts":[{"destination":"/a"},["/b"]]"#, "mounts[1]"),
        (r#""hooks":{"poststop":[["/bin/true"]]}"#, "hooks.poststop[0]"),
        (r#""linux":{"namespaces":[["pid"]]}"#, "linux.namespaces[0]"),
        (r#""linux":{"resources":{"memory":[1]}}"#, "linux.resources.memory"),
        (r#""linux":{"resources":{"devices":[[true]]}}"#, "linux.resources.devices[0]"),
        (r#""linux":{"netDevices":{"eth0":["eth1"]}}"#, "linux.netDevices.eth0"),
        (r#""linux":{"seccomp":["SCMP_ACT_ALLOW"]}"#, "linux.seccomp"),
    ] {
        assert_eq!(
            refused(&minimal(members)),
            format!("config.json: {field}: is an array: give an object"),
            "{members}"
        );
    }
    assert_eq!(refused("[]"), "config.json: is an array: give an object");
    for members in [
        r#""hostname":"a:[b,[c","annotations":{"list":"[[1],[2]]","":":["}"#,
        r#""windows":{"resources":[[1]]},"org.example":{"root":[[]]}"#,
        r#""mounts":[{"destination":"/a","options":["a,[b"]}]"#,
    ] {
        assert!(parse(minimal(members).as_bytes()).is_ok(), "{members}");
    }
}

#[test]
fn shapes_that_are_refused_name_the_field() {
    for (members, sentence) in [
        (
            r#""linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"pidd"}]}"#,
            r#"linux.namespaces[2].type: unknown value "pidd": use one of mount, cgroup, uts, ipc, user, pid, network, time"#,
        ),
        (r#""linux":{"namespaces":{}}"#, "linux.namespaces: is an object: give an array"),
        (r#""linux":{"namespaces":[{}]}"#, "linux.namespaces[0].type: is missing: add it"),
        (r#""hostname":7"#, "hostname: is the number 7: give a string"),
        (r#""hostname":7.5"#, "hostname: is the number 7.5: give a string"),
        (r#""hostname":true"#, "hostname: is true: give a string"),
        (r#""hostname":[]"#, "hostname: is an array: give a string"),
        (r#""mounts":[{"destination":"/a","options":"ro"}]"#, "mounts[0].options: is the string \"ro\": give an array"),
        (r#""mounts":[{"source":"/a"}]"#, "mounts[0].destination: is missing: add it"),
        (r#""root":"r""#, "root: is the string \"r\": give an object"),
        (
            r#""linux":{"uidMappings":[{"hostID":-1}]}"#,
            "linux.uidMappings[0].hostID: is the number -1: give a whole number from 0 to 4294967295",
        ),
        (
            r#""linux":{"resources":{"pids":{"limit":1.5}}}"#,
            concat!(
                "linux.resources.pids.limit: is the number 1.5: ",
                "give a whole number from -9223372036854775808 to 9223372036854775807"
            ),
        ),
        (r#""annotations":{"a.b":null}"#, "annotations.a.b: is null: give a string"),
        (
            r#""process":{"cwd":"/","capabilities":{"bounding":[1]}}"#,
            "process.capabilities.bounding[0]: is the number 1: give a string",
        ),
        (r#""process":{"cwd":"/","terminal":"yes"}"#, "process.terminal: is the string \"yes\": give true or false"),
        (
            r#""linux":{"personality":{"domain":"PDP11"}}"#,
            "linux.personality.domain: unknown value \"PDP11\": use one of LINUX, LINUX32",
        ),
    ] {
        assert_eq!(refused(&minimal(members)), format!("config.json: {sentence}"), "{members}");
    }
}

#[test]
fn texts_that_are_not_json_name_the_place() {
    let deep = minimal(&format!(r#""linux":{}"#, r#"{"netDevices":"#.repeat(200)));
    for (text, sentence) in [
        ("", "config.json: line 1, column 0: the JSON ends too early (EOF while parsing a value): complete it"),
        ("{", "config.json: line 1, column 1: the JSON ends too early (EOF while parsing an object): complete it"),
        ("{\n\"a\": tru }", "config.json: line 2, column 9: not valid JSON (expected ident): correct it"),
        ("{} x", "config.json: line 1, column 4: not valid JSON (trailing characters): correct it"),
        ("null", "config.json: is null: give an object"),
        ("[]", ""),
        (&deep, ""),
    ] {
        if sentence.is_empty() {
            refused(text);
        } else {
            assert_eq!(refused(text), sentence);
        }
    }
    assert_eq!(
        parse(b"{\"a\":\"\xff\"}").unwrap_err().to_string(),
        "config.json: byte 6 is not UTF-8: write JSON in UTF-8"
    );
}

#[test]
fn what_go_forgives_is_forgiven() {
    let last = parse(minimal(r#""hostname":"a","hostname":"b""#).as_bytes()).unwrap();
    assert_eq!(last.spec.hostname().as_deref(), Some("b"));

    let nulls = r#""process":{"user":null,"cwd":"/","args":["a"],"env":null},"mounts":null,"linux":{"devices":null}"#;
    let nulls = parse(minimal(nulls).as_bytes()).unwrap();
    assert_eq!(nulls.spec.process().as_ref().unwrap().user().uid(), 0);

    let unknown = parse(minimal(r#""x":{"y":[1]},"linux":{"z":0}"#).as_bytes()).unwrap();
    assert!(unknown.warnings.is_empty());

    let scheduler =
        r#""process":{"cwd":"/","scheduler":{"policy":"SCHED_DEADLINE","flags":["SCHED_FLAG_DL_OVERRUN"]}}"#;
    parse(minimal(scheduler).as_bytes()).unwrap();

    let huge = r#""linux":{"resources":{"hugepageLimits":[{"pageSize":"2MB","limit":18446744073709551615}],
        "devices":[{"allow":false,"type":"","access":"rwm"}]}}"#;
    let huge = parse(minimal(huge).as_bytes()).unwrap();
    let resources = huge.spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
    assert_eq!(resources.hugepage_limits().as_ref().unwrap()[0].limit(), i64::MAX);
    assert_eq!(resources.devices().as_ref().unwrap()[0].typ(), None);
}

#[test]
fn an_absent_limit_of_pids_is_not_zero() {
    for (pids, limit) in [("{}", None), (r#"{"limit":0}"#, Some(0)), (r#"{"limit":null}"#, None)] {
        let loaded = parse(minimal(&format!(r#""linux":{{"resources":{{"pids":{pids}}}}}"#)).as_bytes()).unwrap();
        let resources = loaded.spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
        assert_eq!(resources.pids().map(|pids| pids.limit()), limit, "{pids}");
    }
}

#[test]
fn unknown_capabilities_are_warned_about_and_left_out() {
    let process = r#""process":{"cwd":"/","args":["a"],"capabilities":{"bounding":["CAP_KILL","CAP_NEW","chown"]}}"#;
    let loaded = parse(minimal(process).as_bytes()).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "process.capabilities.bounding: unknown capability \"CAP_NEW\" is left out",
            "process.capabilities.bounding: unknown capability \"chown\" is left out"
        ]
    );
    let process = loaded.spec.process().as_ref().unwrap();
    assert_eq!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().len(), 1);
}

#[test]
fn seccomp_is_kept_as_text() {
    let text = r#"{ "defaultAction" : "SCMP_ACT_ALLOW",
        "syscalls": [ {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"} ] }"#;
    let loaded = parse(minimal(&format!(r#""linux":{{"seccomp":{text}}}"#)).as_bytes()).unwrap();
    let seccomp = loaded.seccomp.unwrap();
    assert_eq!(seccomp.text(), text);
    assert_eq!(seccomp.parse().unwrap().syscalls().as_ref().unwrap()[0].names(), &["mkdir"]);
    assert!(loaded.spec.linux().as_ref().unwrap().seccomp().is_none());

    let broken = text.replace("SCMP_ACT_ERRNO", "SCMP_ACT_OOPS");
    let loaded = parse(minimal(&format!(r#""linux":{{"seccomp":{broken}}}"#)).as_bytes()).unwrap();
    let error = loaded.seccomp.unwrap().parse().unwrap_err().to_string();
    assert!(
        error.starts_with("config.json: linux.seccomp.syscalls[0].action: unknown value \"SCMP_ACT_OOPS\": use one of")
    );
}

#[test]
fn files_that_are_not_regular_or_too_large_are_refused_without_waiting() {
    let bundle = tempfile::tempdir().unwrap();
    let path = bundle.path().join("config.json");
    let at = path.display();
    let why = || read_config(bundle.path()).unwrap_err().to_string();

    assert_eq!(why(), format!("open {at}: no such file or directory"));
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(why(), format!("{at}: is not a regular file: make it one"));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(why(), format!("{at}: is not a regular file: make it one"));
    std::fs::remove_dir(&path).unwrap();
    std::fs::File::create(&path).unwrap().set_len((16 << 20) + 1).unwrap();
    assert_eq!(why(), format!("{at}: is larger than 16 MiB: make it smaller"));
    std::fs::write(&path, minimal("")).unwrap();
    assert_eq!(read_config(bundle.path()).unwrap(), minimal("").into_bytes());
}

/// Every Linux field of runtime-spec 1.3.0 has the name that the spec gives it, and none is lost.
#[test]
fn every_field_is_read() {
    let text = include_str!("samples/complete.json");
    let loaded = parse(text.as_bytes()).unwrap();
    assert_eq!(loaded.warnings, []);
    let mut read = serde_json::to_value(&loaded.spec).unwrap();
    read["linux"]["seccomp"] = serde_json::to_value(loaded.seccomp.unwrap().parse().unwrap()).unwrap();
    let written: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(read, written);
    validate(&loaded.spec).unwrap();
}

/// What the engines write is accepted, and needs no second attempt.
#[test]
fn the_engines_configurations_are_accepted() {
    let joined = |list: &str| {
        format!("linux.{list}: is not applied: the user namespace that is joined (\"/proc/4321/ns/user\") has its own")
    };
    for (text, expected) in [
        (include_str!("samples/docker.json"), vec![]),
        (include_str!("samples/podman-rootless.json"), vec![]),
        (include_str!("samples/cri.json"), vec![joined("uidMappings"), joined("gidMappings")]),
        (include_str!("samples/minimal.json"), vec![]),
    ] {
        serde_json::from_str::<document::Document>(text).unwrap();
        let loaded = parse(text.as_bytes()).unwrap();
        if let Some(seccomp) = &loaded.seccomp {
            serde_json::from_str::<oci_spec::runtime::LinuxSeccomp>(seccomp.text()).unwrap();
            seccomp.parse().unwrap();
        }
        let warnings = loaded.warnings.into_iter().chain(validate(&loaded.spec).unwrap());
        assert_eq!(warnings.map(|warning| warning.to_string()).collect::<Vec<_>>(), expected);
    }
}

/// Whatever field is of the wrong type, the sentence names that one.
#[test]
fn every_field_of_the_wrong_type_is_named() {
    let good: serde_json::Value = serde_json::from_str(include_str!("samples/complete.json")).unwrap();
    let mut leaves = Vec::new();
    find_leaves(&good, "", "", &mut leaves);
    assert!(leaves.len() > 200, "{}", leaves.len());
    for (pointer, path) in leaves {
        for (wrong, is) in [(serde_json::json!({}), "an object"), (serde_json::json!([]), "an array")] {
            let mut bad = good.clone();
            *bad.pointer_mut(&pointer).unwrap() = wrong;
            let error = parse(bad.to_string().as_bytes())
                .and_then(|loaded| loaded.seccomp.unwrap().parse().map(drop))
                .unwrap_err()
                .to_string();
            let named = |is: &str| error.starts_with(&format!("config.json: {path}: is {is}: give "));
            assert!(named(is) || named("an object or an array"), "{path}: {error}");
        }
    }
}

/// The JSON pointer and the path of every value below `value` that is no object or array.
fn find_leaves(value: &serde_json::Value, pointer: &str, path: &str, leaves: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find_leaves(item, &format!("{pointer}/{index}"), &format!("{path}[{index}]"), leaves);
            }
        }
        serde_json::Value::Object(members) => {
            for (name, member) in members {
                let dot = if path.is_empty() { "" } else { "." };
                find_leaves(member, &format!("{pointer}/{name}"), &format!("{path}{dot}{name}"), leaves);
            }
        }
        _ => leaves.push((pointer.into(), path.into())),
    }
}
