//! Whatever comes in, an answer comes out: properties of the parsers under random and damaged input.

use crate::cpu_list;
use crate::spec::{default, mount_options::MountOptions};
use crate::spec::{parse, parse_process, parse_resources, validate, validate_process, validate_rootless};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;

const SAMPLES: [&str; 5] = [
    include_str!("samples/complete.json"),
    include_str!("samples/docker.json"),
    include_str!("samples/podman-rootless.json"),
    include_str!("samples/cri.json"),
    include_str!("samples/minimal.json"),
];

/// Goes all the way that a configuration goes; what comes out is a value or one sentence.
fn digest(text: &[u8]) {
    match parse(text) {
        Ok(loaded) => {
            if let Some(Err(error)) = loaded.seccomp.as_ref().map(|seccomp| seccomp.parse()) {
                is_a_sentence(&error.to_string());
            }
            if let Err(error) = validate(&loaded.spec) {
                is_a_sentence(&error.to_string());
            }
            let _ = validate_rootless(&loaded.spec);
        }
        Err(error) => is_a_sentence(&error.to_string()),
    }
    let text = String::from_utf8_lossy(text);
    digest_parts(&text, &text);
}

/// The same for a process, and for resources, by themselves.
fn digest_parts(process: &str, resources: &str) {
    match parse_process(process.as_bytes()) {
        Ok((process, _)) => {
            if let Err(error) = validate_process(&process) {
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
    if let Err(error) = parse_resources(resources.as_bytes()) {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

fn is_a_sentence(text: &str) {
    // An empty name of a program is reported in the words that engines look for.
    let names = text.starts_with("config.json: ") || text.starts_with("exec: \"\": executable file not found");
    assert!(names && !text.contains('\n'), "{text}");
}

/// Any JSON, a few levels deep, with names and words that configurations have.
fn json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![select(vec![
        "pid",
        "mount",
        "/",
        "",
        "rbind",
        "CAP_KILL",
        "SCMP_ACT_ERRNO",
        "0-3",
        "MPOL_BIND",
        "\0",
        "net.x"
    ]),];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.prop_map(Value::from),
        ".{0,9}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The places of all values below `value`.
fn places(value: &Value, at: String, all: &mut Vec<String>) {
    all.push(at.clone());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| places(item, format!("{at}/{index}"), all));
        }
        Value::Object(members) => members.iter().for_each(|(name, member)| places(member, format!("{at}/{name}"), all)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// One value of a good configuration replaced by any other.
    #[test]
    fn a_value_replaced(sample in select(SAMPLES.to_vec()), at in any::<prop::sample::Index>(), with in json()) {
        let mut document: Value = serde_json::from_str(sample).unwrap();
        let mut all = Vec::new();
        places(&document, String::new(), &mut all);
        if let Some(place) = document.pointer_mut(&all[at.index(all.len())]) {
            *place = with;
        }
        digest(document.to_string().as_bytes());
        // What `exec --process` and `update --resources` take.
        digest_parts(&document["process"].to_string(), &document["linux"]["resources"].to_string());
    }

    /// A good configuration cut off, or with one byte changed.
    #[test]
    fn a_text_damaged(sample in select(SAMPLES.to_vec()), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = sample.as_bytes().to_vec();
        let at = at.index(text.len());
        digest(&text[..at]);
        text[at] = byte;
        digest(&text);
    }

    #[test]
    fn any_bytes(text in prop::collection::vec(any::<u8>(), 0..200)) {
        digest(&text);
    }

    #[test]
    fn any_json(document in json()) {
        digest(document.to_string().as_bytes());
    }

    /// A list of numbers means the same whichever way it is written.
    #[test]
    fn cpu_lists(numbers in prop::collection::btree_set(0usize..300, 1..20)) {
        let text: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        let mask = cpu_list::parse("f", &text.join(",")).unwrap();
        let read = |bit: &usize| mask.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1);
        prop_assert_eq!((0..300).filter(read).collect::<Vec<_>>(), numbers.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn any_cpu_list(text in "[0-9, -]{0,12}|.{0,12}") {
        let _ = cpu_list::parse("f", &text);
    }

    /// No option sets and clears the same attribute, but the access time, which mount_setattr(2) wants so.
    #[test]
    fn mount_options(options in prop::collection::vec(
        prop_oneof![select(crate::spec::mount_options::names().collect::<Vec<_>>()).prop_map(str::to_owned), ".{0,9}"], 0..9)
    ) {
        if let Ok(parsed) = MountOptions::parse("f", options.iter().map(String::as_str)) {
            let atime = crate::spec::mount_options::ATIME;
            prop_assert_eq!(parsed.set & parsed.clear & !atime, 0);
            prop_assert_eq!(parsed.set_all & parsed.clear_all & !atime, 0);
        }
    }

    /// A program's name is data, whatever it is made of.
    #[test]
    fn actions(program in ".{1,40}") {
        let action = default::action(&program);
        match parse(action.as_bytes()) {
            Ok(loaded) => {
                prop_assert_eq!(loaded.spec.process().as_ref().unwrap().args().clone().unwrap(), [program]);
            }
            Err(_) => prop_assert!(program.contains('\0')),
        }
    }
}
