use crate::cgroup::devices::{ALWAYS_ALLOWED, Policy};
use crate::cgroup::program::Program;
use oci_spec::runtime::LinuxDeviceCgroup;

fn rules(json: &str) -> Vec<LinuxDeviceCgroup> {
    serde_json::from_str(json).unwrap()
}

fn policy(json: &str) -> Policy {
    Policy::compile(&rules(json), &[]).unwrap()
}

fn lines(policy: &Policy) -> Vec<String> {
    policy.exceptions().map(|exception| exception.to_string()).collect()
}

const BLOCK: u32 = 1;
const CHAR: u32 = 2;
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// Runs the encoded program as the kernel would, on `struct bpf_cgroup_dev_ctx`.
fn run(program: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> bool {
    let context = [access << 16 | kind, major, minor];
    let mut registers = [0u64; 11];
    let mut next = 0;
    for _ in 0..10_000 {
        let bytes = program[next].to_ne_bytes();
        let (code, to, from) = (bytes[0], usize::from(bytes[1] & 15), usize::from(bytes[1] >> 4));
        let offset = i16::from_ne_bytes([bytes[2], bytes[3]]);
        let constant = i64::from(i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])) as u64;
        next += 1;
        let skip = usize::try_from(offset).unwrap();
        match code {
            0x61 => {
                assert_eq!(from, 1, "loads come from the context");
                registers[to] = u64::from(context[skip / 4]);
            }
            0xbf => registers[to] = registers[from],
            0xb7 => registers[to] = constant,
            0x4f => registers[to] |= registers[from],
            0x57 => registers[to] &= constant,
            0x67 => registers[to] <<= constant,
            0x77 => registers[to] >>= constant,
            0x05 => next += skip,
            0x55 if registers[to] != constant => next += skip,
            0x15 if registers[to] == constant => next += skip,
            0x55 | 0x15 => {}
            0x95 => return registers[0] == 1,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
    panic!("the program does not end");
}

fn allowed(policy: &Policy, kind: u32, access: u32, major: u32, minor: u32) -> bool {
    run(&Program::assemble(policy).unwrap().encode(), kind, access, major, minor)
}

#[test]
fn an_empty_list_denies_everything_but_the_default_devices() {
    // GHSA-g54h-m393-cpwq: an empty list turned the allow list into a deny list.
    for json in ["[]", r#"[{"allow": false, "access": "rwm"}]"#] {
        let policy = policy(json);
        assert!(!policy.default_allow);
        assert!(!allowed(&policy, BLOCK, READ, 8, 0));
        assert!(!allowed(&policy, CHAR, READ, 1, 1));
        assert!(!allowed(&policy, CHAR, READ | WRITE, 10, 229));
        assert!(allowed(&policy, CHAR, READ | WRITE, 1, 3));
        assert!(allowed(&policy, CHAR, WRITE, 136, 77));
        assert!(allowed(&policy, BLOCK, MKNOD, 8, 0));
    }
    assert_eq!(lines(&policy("[]")).len(), ALWAYS_ALLOWED.len());
}

#[test]
fn rules_apply_in_order_and_merge() {
    let policy = policy(
        r#"[{"allow": true, "access": "rwm"}, {"allow": false, "type": "a", "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "w"},
            {"allow": true, "type": "b", "major": 8, "access": "rw"},
            {"allow": false, "type": "b", "major": 8, "minor": -1, "access": "w"}]"#,
    );
    assert_eq!(
        lines(&policy),
        [
            "c 10:229 rw",
            "b 8:* r",
            "c *:* m",
            "b *:* m",
            "c 1:3 rwm",
            "c 1:5 rwm",
            "c 1:7 rwm",
            "c 1:8 rwm",
            "c 1:9 rwm",
            "c 5:0 rwm",
            "c 5:2 rwm",
            "c 10:200 rwm",
            "c 136:* rwm",
        ]
    );
    assert!(allowed(&policy, CHAR, READ | WRITE, 10, 229));
    assert!(allowed(&policy, BLOCK, READ, 8, 5));
    assert!(!allowed(&policy, BLOCK, READ | WRITE, 8, 5));
}

#[test]
fn a_deny_list_refuses_a_request_of_which_one_bit_is_denied() {
    let policy = policy(
        r#"[{"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "major": 8, "minor": 0, "access": "w"}]"#,
    );
    assert!(policy.default_allow);
    assert!(allowed(&policy, BLOCK, READ, 8, 0));
    assert!(!allowed(&policy, BLOCK, WRITE, 8, 0));
    assert!(!allowed(&policy, BLOCK, READ | WRITE, 8, 0));
    assert!(allowed(&policy, BLOCK, WRITE, 8, 1));
    assert!(allowed(&policy, CHAR, WRITE, 8, 0));
}

#[test]
fn everything_allowed_needs_no_exception() {
    assert!(policy(r#"[{"allow": true, "access": "rwm"}]"#).allows_all());
}

#[test]
fn all_kinds_with_numbers_mean_block_and_char() {
    let policy = policy(r#"[{"allow": true, "type": "a", "major": 7, "minor": 7, "access": "r"}]"#);
    assert!(!policy.default_allow);
    assert!(allowed(&policy, BLOCK, READ, 7, 7) && allowed(&policy, CHAR, READ, 7, 7));
    assert!(!allowed(&policy, CHAR, READ, 7, 8));
}

#[test]
fn a_device_of_the_config_replaces_the_default_at_its_path() {
    let policy = Policy::compile(&[], &["/dev/null", "/dev/fuse"]).unwrap();
    assert!(!lines(&policy).contains(&"c 1:3 rwm".to_owned()));
    assert_eq!(lines(&policy).len(), ALWAYS_ALLOWED.len() - 1);
}

#[test]
fn wrong_rules_are_refused_by_name() {
    let cases = [
        (r#"[{"allow": true, "type": "c"}]"#, "[0]: access is missing"),
        (r#"[{"allow": true, "type": "c", "access": ""}]"#, "[0]: access is \"\""),
        (r#"[{"allow": true, "access": "rwm"}, {"allow": true, "type": "c", "access": "x"}]"#, "[1]: access is \"x\""),
        (r#"[{"allow": true, "type": "p", "access": "r"}]"#, "type is \"p\""),
        (r#"[{"allow": true, "type": "c", "major": -2, "access": "r"}]"#, "major is -2"),
        (r#"[{"allow": true, "type": "c", "minor": 4294967296, "access": "r"}]"#, "minor is 4294967296"),
        (
            r#"[{"allow": true, "type": "c", "access": "rw"},
                {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "w"}]"#,
            "\"c 10:229 w\" cuts a hole into the earlier rule \"c *:* rw\"",
        ),
    ];
    for (json, expected) in cases {
        let error = Policy::compile(&rules(json), &[]).unwrap_err().to_string();
        assert!(error.starts_with("config.json: linux.resources.devices["), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn large_numbers_and_wildcards_match_what_they_say() {
    let policy = policy(
        r#"[{"allow": true, "type": "c", "major": 4000, "minor": 1048575, "access": "rwm"},
            {"allow": true, "type": "c", "major": 4294967295, "minor": 4294967295, "access": "rwm"},
            {"allow": true, "type": "c", "major": 2, "minor": 1048576, "access": "rwm"},
            {"allow": true, "type": "b", "minor": 9, "access": "w"}]"#,
    );
    assert!(allowed(&policy, CHAR, READ | WRITE, 4000, 1_048_575));
    assert!(!allowed(&policy, CHAR, READ, 4000, 1_048_574));
    assert!(!allowed(&policy, CHAR, READ, 3, 0), "2:1048576 is not 3:0");
    assert!(allowed(&policy, BLOCK, WRITE, 77, 9));
    assert!(!allowed(&policy, BLOCK, READ, 77, 9));
    assert!(!allowed(&policy, BLOCK, WRITE, 77, 8));
}

#[test]
fn all_of_one_kind_leaves_the_other_alone() {
    let policy = policy(r#"[{"allow": true, "type": "c", "access": "rwm"}]"#);
    assert!(allowed(&policy, CHAR, READ | WRITE, 4, 64));
    assert!(!allowed(&policy, BLOCK, READ, 4, 64));
    assert!(allowed(&policy, BLOCK, MKNOD, 4, 64));
}

#[test]
fn too_many_rules_are_refused() {
    let mut list = Vec::new();
    for minor in 0..4096 {
        list.extend(rules(&format!(
            r#"[{{"allow": true, "type": "c", "major": 240, "minor": {minor}, "access": "r"}}]"#
        )));
    }
    let error = Program::assemble(&Policy::compile(&list, &[]).unwrap()).unwrap_err().to_string();
    assert!(error.contains("use fewer rules"), "{error}");
}
