//! Golden Plans: what `explain` prints for a configuration, on a machine of which all facts are given here. Compiling
//! is a pure function, so these tests need neither root nor any particular kernel.
//!
//! `UPDATE_GOLDEN=1 cargo test --test golden` writes the Plans anew; read the difference before you commit it.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use microrun::cgroup::layout::{Layout, Mode, V1Mount};
use microrun::cgroup::plan::Driver;
use microrun::container::prepare::{self, Bundle, Facts, Options};
use microrun::container::store::Store;
use microrun::plan::{Host, Overlay, Wait, caps::Held, explain, seccomp};
use microrun::spec::{self, default};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the configurations and the Plans are.
fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A machine whose v2 hierarchy has all controllers.
fn unified() -> Layout {
    let controllers = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"];
    Layout {
        unified_controllers: controllers.map(String::from).into(),
        own: BTreeMap::from([(String::new(), "/user.slice/session-1.scope".into())]),
        ..Layout::new(Mode::Unified)
    }
}

/// A machine with v1 controllers beside an empty v2 hierarchy.
fn hybrid() -> Layout {
    let mount = |controllers: &str| V1Mount {
        controllers: controllers.split(',').map(str::to_owned).collect(),
        mount: format!("/sys/fs/cgroup/{}", controllers.trim_start_matches("name=")).into(),
    };
    Layout {
        v1: ["cpuset", "devices", "memory", "cpu,cpuacct", "pids", "freezer", "name=systemd"].map(mount).into(),
        ..Layout::new(Mode::Hybrid)
    }
}

/// The same without cgroup v2.
fn legacy() -> Layout {
    Layout { mode: Mode::Legacy, unified: None, ..hybrid() }
}

/// Root on a machine with `layout` and everything else.
fn facts(layout: Layout) -> Facts {
    let all = (1 << 41) - 1;
    Facts {
        host: Host {
            has_kcore: true,
            apparmor: true,
            selinux: true,
            foreign_cgroup_namespace: false,
            makes_root_namespaces: false,
            denies_groups: false,
            open_files: None,
            capabilities: Held { known: all, bounding: all, permitted: all },
        },
        layout,
        resctrl: None,
        kernel_views: None,
        stdio: None,
        uid: 0,
        now: "2017-05-08T12:00:00.000000000Z".into(),
    }
}

/// `run` in the foreground.
fn options() -> Options {
    Options { foreground: true, ..Options::new(Store::new("/run/microrun"), "golden", "/bundle".into()) }
}

/// A user without rights.
fn unprivileged(options: &mut Options, facts: &mut Facts) {
    options.rootless = true;
    facts.uid = 1000;
}

/// What a case changes of [`options`] and [`facts`].
type Change = fn(&mut Options, &mut Facts);

/// A Plan's name; its configuration, of the same name before a "." if there is none here; the machine; what is
/// different about it.
fn cases() -> Vec<(&'static str, Option<String>, Layout, Change)> {
    let as_it_is: Change = |_, _| {};
    let root_namespaces: Change = |_, facts| facts.host.makes_root_namespaces = true;
    let create: Change = |options, _| (options.wait, options.foreground) = (Wait::Start, false);
    vec![
        ("runc.v2", Some(default::runc(true)), unified(), as_it_is),
        ("runc.hybrid", Some(default::runc(false)), hybrid(), as_it_is),
        ("runc.v1", Some(default::runc(false)), legacy(), as_it_is),
        ("runc.create", Some(default::runc(true)), unified(), |options, _| {
            (options.wait, options.foreground) = (Wait::Start, false);
            (options.preserve_fds, options.no_new_keyring) = (2, true);
            options.console_socket = Some("/run/console.sock".into());
            options.pidfd_socket = Some("/run/pidfd.sock".into());
        }),
        ("runc.no-pivot", Some(default::runc(true)), unified(), |options, facts| {
            options.no_pivot = true;
            facts.kernel_views = Some(["/sys", "/proc"].map(PathBuf::from).into());
        }),
        ("runc.systemd", Some(default::runc(true)), unified(), |options, _| options.driver = Driver::Systemd),
        ("runc.overlay", Some(default::runc(true)), unified(), |options, _| {
            options.overlay = Some(Overlay::Directory("/upper".into()));
        }),
        ("runc.root-namespace", Some(default::runc(true)), unified(), root_namespaces),
        ("binds", None, unified(), as_it_is),
        ("binds.root-namespace", None, unified(), root_namespaces),
        ("runc.few-capabilities", Some(default::runc(true)), unified(), |_, facts| {
            facts.host.capabilities.permitted = 1 << 5;
            facts.host.has_kcore = false;
        }),
        ("action", Some(default::action("/hello")), hybrid(), as_it_is),
        ("rootless", Some(default::rootless(true, 1000, 1000)), unified(), unprivileged),
        ("idmap", None, unified(), as_it_is),
        ("idmap.unprivileged", None, unified(), unprivileged),
        ("joined", None, unified(), as_it_is),
        ("joined.unprivileged", None, unified(), unprivileged),
        ("joined-by-a-pod", None, unified(), create),
        ("mounts", None, unified(), as_it_is),
        ("cgroup-mounts.v2", None, unified(), as_it_is),
        ("cgroup-mounts.hybrid", None, hybrid(), as_it_is),
        ("cgroup-mounts.v1", None, legacy(), as_it_is),
        ("cgroup-mounts-without-a-namespace.v2", None, unified(), as_it_is),
        ("cgroup-mounts-without-a-namespace.hybrid", None, hybrid(), as_it_is),
        ("devices", None, unified(), as_it_is),
        ("security-modules", None, unified(), as_it_is),
        ("security-modules.v1", None, legacy(), as_it_is),
        ("security-modules.absent", None, unified(), |_, facts| {
            (facts.host.apparmor, facts.host.selinux) = (false, false);
        }),
        ("seccomp-without-no-new-privileges", None, unified(), as_it_is),
        ("overlay", None, unified(), as_it_is),
        ("overlay-directory", None, unified(), as_it_is),
        ("hooks", None, unified(), create),
        ("terminal", None, unified(), as_it_is),
        ("terminal.create", None, unified(), create),
        ("time", None, unified(), as_it_is),
        ("time-and-user", None, unified(), as_it_is),
        ("process", None, unified(), as_it_is),
        ("few-namespaces", None, unified(), as_it_is),
        ("no-process", None, unified(), create),
    ]
}

/// What `explain` prints; or, as it must be said too, why there is no Plan.
fn explained(config: &str, options: &Options, facts: &Facts) -> String {
    let compile = || {
        let loaded = spec::parse(config.as_bytes())?;
        spec::validate(&loaded.spec)?;
        if options.rootless {
            spec::validate_rootless(&loaded.spec)?;
        }
        let root = loaded.spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
        let filter = match &loaded.seccomp {
            Some(profile) => seccomp::obtain(profile, None)?.filter,
            None => None,
        };
        let path = options.bundle.clone();
        let rootfs = path.join(root);
        let bundle = Bundle {
            path,
            rootfs,
            text: Vec::new(),
            copy: Default::default(),
            loaded,
            filter,
            warnings: Vec::new(),
            parts: None,
        };
        prepare::compile(options, bundle.into(), facts, None)
    };
    match compile() {
        Ok(prepared) => {
            let warnings = prepared.warnings.iter().map(|warning| format!("warning: {warning}\n"));
            explain::text(&prepared.plan) + &warnings.collect::<String>()
        }
        Err(error) => format!("{error}\n"),
    }
}

/// The steps in `text`, without their numbers, and with one space between columns: an added step is one difference.
fn steps(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbered = words.first().is_some_and(|word| word.parse::<u32>().is_ok());
        words[usize::from(numbered)..].join(" ")
    };
    text.lines().map(line).collect()
}

/// The lines that are only in `old` (-) or only in `new` (+), each run of them after the line before it.
fn difference(old: &[String], new: &[String]) -> String {
    // How many lines the rests from (i, j) on have in common, in order.
    let mut common = vec![vec![0; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            let without = common[i + 1][j].max(common[i][j + 1]);
            common[i][j] = if old[i] == new[j] { common[i + 1][j + 1] + 1 } else { without };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut text = String::new();
    let mut before = None;
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            before = Some(&old[i]);
            (i, j) = (i + 1, j + 1);
            continue;
        }
        if let Some(before) = before.take() {
            text += &format!("    {before}\n");
        }
        if j == new.len() || i < old.len() && common[i + 1][j] >= common[i][j + 1] {
            text += &format!("  - {}\n", old[i]);
            i += 1;
        } else {
            text += &format!("  + {}\n", new[j]);
            j += 1;
        }
    }
    text
}

/// A Plan without the lengths of its filters, which depend on the architecture's system call numbers.
fn without_lengths(plan: &str) -> String {
    let words = plan.split(' ').collect::<Vec<_>>();
    let is_length = |index: usize| words.get(index + 1).is_some_and(|next| next.starts_with("instructions)"));
    let words = words.iter().enumerate().map(|(index, word)| if is_length(index) { "some" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn plans_are_as_they_were() {
    // The files are those of x86-64.
    let is_exact = cfg!(target_arch = "x86_64");
    let comparable = |plan: String| if is_exact { plan } else { steps(&without_lengths(&plan)).join("\n") };
    let update = is_exact && std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| !value.is_empty());
    let mut changed = String::new();
    let mut used = BTreeSet::new();
    for (name, config, layout, change) in cases() {
        let config = config.unwrap_or_else(|| {
            let file = format!("{}.json", name.split('.').next().unwrap());
            let text = fs::read_to_string(directory().join(&file)).unwrap();
            used.insert(file);
            text
        });
        let (mut options, mut facts) = (options(), facts(layout));
        change(&mut options, &mut facts);
        let new = explained(&config, &options, &facts);
        let file = format!("{name}.plan");
        let path = directory().join(&file);
        used.insert(file);
        let old = fs::read_to_string(&path).unwrap_or_default();
        if update {
            fs::write(&path, new).unwrap();
            continue;
        }
        let (old, new) = (comparable(old), comparable(new));
        if old != new {
            let steps = difference(&steps(&old), &steps(&new));
            let steps = if steps.is_empty() { "    nothing but white space and numbers\n".to_owned() } else { steps };
            changed += &format!("{name}:\n{steps}\n");
        }
    }
    assert!(changed.is_empty(), "Plans changed; if they should, set UPDATE_GOLDEN=1 and run this again:\n{changed}");
    let there: BTreeSet<String> =
        fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there, used, "tests/golden has files that no case uses");
}

#[test]
fn a_plan_depends_on_nothing_else() {
    // The same input, and the same Plan, in this process as in another one: no map's order, no clock, no environment.
    for (name, config, layout, change) in cases() {
        let Some(config) = config else { continue };
        let (mut options, mut facts) = (options(), facts(layout));
        change(&mut options, &mut facts);
        let (once, again) = (explained(&config, &options, &facts), explained(&config, &options, &facts));
        assert_eq!(once, again, "{name}");
    }
}

#[test]
fn differences_are_told_line_by_line() {
    let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(difference(&lines("a b c"), &lines("a b c")), "");
    assert_eq!(difference(&lines("a b c d"), &lines("a x c d e")), "    a\n  - b\n  + x\n    d\n  + e\n");
    assert_eq!(difference(&lines("a b"), &lines("b")), "  - a\n");
}

/// What needs the host's mounts, in the order that config.json has or for somebody who looks at them, has them.
#[test]
fn a_mount_namespace_begins_with_the_root_where_nothing_needs_more() {
    type Changes = (fn(&mut Value), Change);
    let begins_with_root = |layout: Layout, (change_config, change): Changes| {
        let mut config: Value = serde_json::from_str(&default::runc(true)).unwrap();
        change_config(&mut config);
        let (mut options, mut facts) = (options(), facts(layout));
        facts.host.makes_root_namespaces = true;
        change(&mut options, &mut facts);
        let text = explained(&config.to_string(), &options, &facts);
        assert!(text.contains("execve"), "{text}");
        let (is_new, is_copy) = (text.contains("NAMESPACE|RECURSIVE"), text.contains("NEWNS|NEWPID"));
        assert_ne!(is_new, is_copy, "{text}");
        assert_eq!(text.contains("pivot_root") || text.contains("MS_MOVE"), is_copy, "{text}");
        is_new
    };
    fn add(config: &mut Value, list: &str, item: Value) {
        config.pointer_mut(list).and_then(Value::as_array_mut).unwrap().push(item);
    }
    let nothing: Change = |_, _| {};
    assert!(begins_with_root(unified(), (|_| {}, nothing)));
    let others: [Changes; 15] = [
        (|_| {}, |_, facts| facts.host.makes_root_namespaces = false),
        (|_| {}, |_, facts| facts.host.capabilities.permitted &= !(1 << 27)),
        (|_| {}, |_, facts| facts.host.capabilities.permitted &= !(1 << 18)),
        (|_| {}, |options, _| options.overlay = Some(Overlay::Directory("/upper".into()))),
        (
            |_| {},
            |options, facts| {
                options.no_pivot = true;
                facts.kernel_views = Some(Vec::new());
            },
        ),
        (|config| config["hooks"] = json!({"prestart": [{"path": "/bin/true"}]}), nothing),
        (|config| config["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}]}), nothing),
        (|config| config["hooks"] = json!({"createContainer": [{"path": "/bin/true"}]}), nothing),
        (|config| config["linux"]["rootfsPropagation"] = json!("shared"), nothing),
        (|config| config["linux"]["rootfsPropagation"] = json!("private"), nothing),
        (|config| config["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0"), nothing),
        (|config| add(config, "/mounts", json!({"destination": "/", "type": "tmpfs"})), nothing),
        (|config| add(config, "/mounts", json!({"destination": "/a", "type": "ext4", "source": "/dev/sda"})), nothing),
        (|config| add(config, "/mounts", json!({"destination": "/a", "type": "bind", "source": "rootfs/b"})), nothing),
        (
            |config| {
                let option = format!("size={}", "0".repeat(256));
                add(config, "/mounts", json!({"destination": "/a", "type": "tmpfs", "options": [option]}));
            },
            nothing,
        ),
    ];
    for (index, changes) in others.into_iter().enumerate() {
        assert!(!begins_with_root(unified(), changes), "{index}");
    }
    assert!(!begins_with_root(hybrid(), (|_| {}, nothing)));
    let same: [Changes; 4] = [
        (|config| config["linux"]["rootfsPropagation"] = json!("rslave"), nothing),
        (|config| config["hooks"] = json!({"startContainer": [{"path": "/bin/true"}]}), nothing),
        (|config| add(config, "/mounts", json!({"destination": "/a", "type": "bind", "source": "/b"})), nothing),
        (
            |config| add(config, "/mounts", json!({"destination": "/tmp", "type": "tmpfs", "options": ["remount"]})),
            nothing,
        ),
    ];
    for (index, changes) in same.into_iter().enumerate() {
        assert!(begins_with_root(unified(), changes), "{index}");
    }
}

/// The places of all values below `value`.
fn places(value: &Value, at: String, all: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| places(item, format!("{at}/{i}"), all)),
        Value::Object(members) => members.iter().for_each(|(name, item)| places(item, format!("{at}/{name}"), all)),
        _ => {}
    }
    all.push(at);
}

/// Values that fields have, or might have.
fn any_value() -> impl Strategy<Value = Value> {
    let words = [
        "",
        "/",
        "/proc",
        "/dev",
        "/dev/null",
        "relative",
        "../..",
        "rbind",
        "ro",
        "idmap",
        "user",
        "pid",
        "0-3",
        "rshared",
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![-2..3i64, any::<i64>()].prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is in a configuration, on any machine: a Plan, the same each time, or one sentence.
    #[test]
    fn any_configuration_is_compiled_or_refused(
        case in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4),
    ) {
        let cases = cases();
        let (name, config, layout, change) = &cases[case.index(cases.len())];
        let file = directory().join(format!("{}.json", name.split('.').next().unwrap()));
        let config = config.clone().unwrap_or_else(|| fs::read_to_string(file).unwrap());
        let mut config: Value = serde_json::from_str(&config).unwrap();
        for (at, with) in changes {
            let mut all = Vec::new();
            places(&config, String::new(), &mut all);
            *config.pointer_mut(&all[at.index(all.len())]).unwrap() = with;
        }
        let (mut options, mut facts) = (options(), facts(layout.clone()));
        change(&mut options, &mut facts);
        let text = explained(&config.to_string(), &options, &facts);
        prop_assert_eq!(&text, &explained(&config.to_string(), &options, &facts));
        prop_assert!(text.contains("clone3") || text.trim_end().lines().count() == 1, "{}", text);
    }
}
