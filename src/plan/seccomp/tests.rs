//! The compiled programs against libseccomp's own, against an interpreter, and in this kernel.

use super::*;
use crate::sys::raw;
use nix::errno::Errno;
use proptest::prelude::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
/// In no profile here, and no machine that this is compiled for.
const RISCV64: u32 = 0xc000_00f3;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// A profile of the shape and size that engines ship: some 370 names for three architectures, and conditions on
/// socket, personality and clone.
const ENGINE: &str = include_str!("../../../tests/data/seccomp-engine.json");

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn compiled(json: &str) -> Filter {
    compile(&profile(json)).unwrap().0
}

fn refusal(json: &str) -> String {
    section(json).parse().and_then(|profile| compile(&profile)).unwrap_err().to_string()
}

/// `json` as the seccomp section of a config.json.
fn section(json: &str) -> Seccomp {
    let config = format!(r#"{{"ociVersion":"1.3.0","linux":{{"seccomp":{json}}}}}"#);
    crate::spec::parse(config.as_bytes()).unwrap().seccomp.unwrap()
}

/// What the kernel would answer. Little-endian.
fn run(program: &[sock_filter], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = vec![number, arch, 0, 0];
    data.extend(args.iter().flat_map(|arg| [*arg as u32, (arg >> 32) as u32]));
    decide::interpret(program, |offset| data.get(offset as usize / 4).copied()).unwrap()
}

fn native() -> u32 {
    profile::NATIVE as u32
}

fn number(name: &str) -> u32 {
    profile::number(profile::NATIVE, name).unwrap()
}

/// The whole profile as libseccomp alone compiles it: no plain rules apart, no ENOSYS.
struct Reference {
    profile: Profile,
    program: Vec<sock_filter>,
    /// Where the call is that the profile may not mention and the program does.
    anchor: Vec<(u32, u32)>,
}

impl Reference {
    fn new(json: &str) -> Result<Self> {
        let profile = Profile::new(&profile(json));
        let program = profile.generate(&profile.known.keys().map(String::as_str).collect())?;
        let unruled = !profile.rules.contains_key(profile::ANCHOR);
        let anchor = if unruled { profile.places(profile::ANCHOR) } else { Vec::new() };
        Ok(Self { profile, program, anchor })
    }

    fn run(&self, arch: u32, number: u32, args: [u64; 6]) -> u32 {
        if self.anchor.contains(&(arch, number)) {
            profile::answer(self.profile.default).unwrap()
        } else {
            run(&self.program, arch, number, args)
        }
    }
}

/// Values around those that a profile compares with, and their neighbours in the upper half.
fn values(of: &[u64]) -> Vec<u64> {
    let mut all: Vec<u64> = of
        .iter()
        .flat_map(|v| [*v, v.wrapping_add(1), v.wrapping_sub(1), v ^ 1 << 32, v << 32, v >> 32])
        .chain([0, 1, u64::MAX, u64::from(u32::MAX), 1 << 32])
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn an_engines_profile_decides_as_libseccomp_does_up_to_the_last_known_call() {
    let theirs = Reference::new(ENGINE).unwrap();
    let profile = &theirs.profile;
    let ours = compiled(ENGINE).program;
    assert!(ours.len() * 4 < theirs.program.len(), "{}, libseccomp {}", ours.len(), theirs.program.len());
    let compared = values(&[2, 12, 13, 16, 40, 45, 8, 0x20000, 0x20008, 0xffff_ffff, 0x7e02_0000, 0x0002_0000]);
    for &arch in &profile.archs {
        let token = profile::audit(arch);
        let base = if arch == Arch::ScmpArchX32 { X32_BIT } else { 0 };
        let known = profile.known.keys().filter_map(|name| profile::number(arch, name));
        let last = known.filter(|number| *number < base + X32_BIT).max().unwrap();
        assert!(last - base > 440, "{last:#x}");
        // 451 and above are newer than libseccomp 2.5; `newer_calls_can_be_allowed` looks at them.
        for number in (base..base + 451).chain([last + 1, last + 1000, base + 0x3fff_ffff]) {
            for &value in if (number - base) < 600 { &compared[..] } else { &[0] } {
                let args = [value, value, 0, 0, 0, 0];
                let expected = if number > last { ENOSYS } else { theirs.run(token, number, args) };
                let got = run(&ours, token, number, args);
                if base > 0 && X86_64_ALONE.contains(&(number - base)) {
                    // The kernel's own answer is an error.
                    assert_eq!(expected, EPERM, "{}", number - base);
                    assert_eq!(got, run(&ours, token, number - base, args), "{}", number - base);
                    continue;
                }
                assert_eq!(got, expected, "{arch} {} {value:#x}", number - base);
            }
        }
    }
    // A tracer that skips a call leaves -1.
    for token in [0, 0x1234, RISCV64] {
        assert_eq!(run(&ours, token, 0, [0; 6]), libc::SECCOMP_RET_KILL_THREAD, "{token:#x}");
    }
}

/// "64" in the second column of the kernel's arch/x86/entry/syscalls/syscall_64.tbl, among those that libseccomp 2.5 knows.
const X86_64_ALONE: [u32; 47] = [
    13, 15, 16, 19, 20, 45, 46, 47, 54, 55, 59, 101, 127, 128, 129, 131, 134, 156, 174, 177, 178, 180, 205, 206, 209,
    211, 214, 215, 222, 236, 244, 246, 247, 273, 274, 278, 279, 295, 296, 297, 299, 307, 310, 311, 322, 327, 328,
];

#[test]
fn what_x32_lacks_is_known() {
    assert_eq!(profile::x86_64_alone().collect::<Vec<_>>(), X86_64_ALONE);
}

/// A profile that does more than refuse a number of x32, or x86-64's of the same number, has its way.
#[test]
fn only_refusals_of_what_x32_lacks_are_forgotten() {
    let of = |default: &str, action: &str| {
        let filter = compiled(&format!(
            r#"{{"defaultAction":"{default}","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X32"],"syscalls":[
                {{"names":["getpid","getppid"],"action":"SCMP_ACT_ALLOW"}},
                {{"names":["rt_sigaction","clone3"],"action":"{action}"}}]}}"#
        ));
        [13, X32_BIT | 13, X32_BIT | 512, X32_BIT | 14].map(|number| run(&filter.program, X86_64, number, [0; 6]))
    };
    let kill = libc::SECCOMP_RET_KILL_PROCESS;
    assert_eq!(of("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"), [ALLOW, ALLOW, ALLOW, EPERM]);
    assert_eq!(of("SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"), [kill, EPERM, kill, EPERM]);
    assert_eq!(of("SCMP_ACT_KILL_PROCESS", "SCMP_ACT_ALLOW"), [ALLOW, kill, ALLOW, kill]);
}

/// Or it would run the filter for each of their numbers, at each start.
#[test]
fn the_kernel_gives_up_other_architectures_numbers_at_the_first_look() {
    let program = compiled(ENGINE).program;
    let looked_at = std::cell::Cell::new(0);
    let knows = |arch: u32, number: u32| {
        decide::interpret(&program, |offset| match offset {
            decide::offset::ARCH => Some(arch),
            decide::offset::NUMBER => {
                looked_at.set(looked_at.get() + 1);
                Some(number)
            }
            _ => None,
        })
    };
    assert!((0..450).all(|number| knows(I386, number).is_none()));
    assert_eq!(looked_at.get(), 0);
    assert!((0..450).filter(|number| knows(native(), *number) == Some(ALLOW)).count() > 250);
}

#[test]
fn newer_calls_can_be_allowed() {
    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
            "syscalls":[{"names":["read","cachestat","mseal"],"action":"SCMP_ACT_ALLOW"}]}"#,
    );
    for (arch, base) in [(X86_64, 0), (I386, 0), (X86_64, X32_BIT)] {
        let answers = [451, 452, 461, 462, 463].map(|number| run(&filter.program, arch, base + number, [0; 6]));
        assert_eq!(answers, [ALLOW, EPERM, EPERM, ALLOW, ENOSYS]);
    }
}

/// A rule that is not made would deny what it allows, or allow what it denies.
#[test]
fn newer_calls_are_refused_with_conditions() {
    if libseccomp::ScmpSyscall::from_name("file_setattr").is_ok() {
        println!("skipped: this libseccomp knows all of them");
        return;
    }
    let refused = refusal(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["file_setattr"],"action":"SCMP_ACT_ERRNO",
            "args":[{"index":4,"value":0,"op":"SCMP_CMP_NE"}]}]}"#,
    );
    assert!(refused.contains("linux.seccomp.syscalls: file_setattr is too new"), "{refused}");
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let with = |default: &str| {
        compiled(&format!(
            r#"{{"defaultAction":"{default}","syscalls":[
                {{"names":["read","openat"],"action":"SCMP_ACT_ALLOW"}},{{"names":["getrandom"],"action":"{default}"}}]}}"#
        ))
    };
    let last = number("getrandom");
    let of = |filter: &Filter, number| run(&filter.program, native(), number, [0; 6]);
    for (default, answer) in [
        ("SCMP_ACT_ERRNO", EPERM),
        ("SCMP_ACT_KILL", libc::SECCOMP_RET_KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", libc::SECCOMP_RET_KILL_PROCESS),
        ("SCMP_ACT_TRAP", libc::SECCOMP_RET_TRAP),
    ] {
        let filter = with(default);
        assert_eq!(
            (of(&filter, last), of(&filter, last + 1), of(&filter, 1000)),
            (answer, ENOSYS, ENOSYS),
            "{default}"
        );
    }
    for (default, answer) in [("SCMP_ACT_LOG", libc::SECCOMP_RET_LOG), ("SCMP_ACT_TRACE", libc::SECCOMP_RET_TRACE | 1)]
    {
        assert_eq!(of(&with(default), 1000), answer, "{default}");
    }
    // Without x32 in the profile its numbers are another architecture's: killed, not missing.
    if cfg!(target_arch = "x86_64") {
        assert_eq!(of(&with("SCMP_ACT_ERRNO"), X32_BIT | 1000), libc::SECCOMP_RET_KILL_THREAD);
    }
    // A profile that mentions nothing has no age.
    assert_eq!(of(&compiled(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#), 1000), EPERM);
}

#[test]
fn every_action_with_its_value() {
    for (action, answer) in [
        (r#""SCMP_ACT_KILL""#, libc::SECCOMP_RET_KILL_THREAD),
        (r#""SCMP_ACT_KILL_THREAD""#, libc::SECCOMP_RET_KILL_THREAD),
        (r#""SCMP_ACT_KILL_PROCESS""#, libc::SECCOMP_RET_KILL_PROCESS),
        (r#""SCMP_ACT_TRAP""#, libc::SECCOMP_RET_TRAP),
        (r#""SCMP_ACT_ERRNO""#, EPERM),
        (r#""SCMP_ACT_ERRNO","errnoRet":100"#, libc::SECCOMP_RET_ERRNO | 100),
        (r#""SCMP_ACT_ERRNO","errnoRet":0"#, libc::SECCOMP_RET_ERRNO),
        (r#""SCMP_ACT_TRACE""#, libc::SECCOMP_RET_TRACE | 1),
        (r#""SCMP_ACT_TRACE","errnoRet":65535"#, libc::SECCOMP_RET_TRACE | 65535),
        (r#""SCMP_ACT_LOG""#, libc::SECCOMP_RET_LOG),
        (r#""SCMP_ACT_NOTIFY""#, libc::SECCOMP_RET_USER_NOTIF),
    ] {
        for args in ["", r#","args":[{"index":0,"value":7,"op":"SCMP_CMP_EQ"}]"#] {
            let filter = compiled(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/a","syscalls":[
                    {{"names":["getpid"],"action":{action}{args}}}]}}"#
            ));
            assert_eq!(run(&filter.program, native(), number("getpid"), [7; 6]), answer, "{action}");
            assert_eq!(run(&filter.program, native(), number("getppid"), [7; 6]), ALLOW, "{action}");
            assert_eq!(filter.listener.is_some(), action.contains("NOTIFY"));
            assert_eq!(filter.flags & 8 != 0, action.contains("NOTIFY"));
        }
    }
    let default = compiled(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":6,"syscalls":[]}"#);
    assert_eq!(run(&default.program, native(), 1, [0; 6]), libc::SECCOMP_RET_ERRNO | 6);
}

#[test]
fn every_operator() {
    let v = 0x1_0000_0005u64;
    for (op, value_two, holds) in [
        ("NE", 0, (|a, v, _| a != v) as fn(u64, u64, u64) -> bool),
        ("LT", 0, |a, v, _| a < v),
        ("LE", 0, |a, v, _| a <= v),
        ("EQ", 0, |a, v, _| a == v),
        ("GE", 0, |a, v, _| a >= v),
        ("GT", 0, |a, v, _| a > v),
        ("MASKED_EQ", 0x1_0000_0001, |a, v, two| a & v == two),
        ("MASKED_EQ", 0, |a, v, two| a & v == two),
    ] {
        for index in 0..6 {
            let filter = compiled(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["ioctl"],"action":"SCMP_ACT_ERRNO",
                    "args":[{{"index":{index},"value":{v},"valueTwo":{value_two},"op":"SCMP_CMP_{op}"}}]}}]}}"#
            ));
            for a in values(&[v, value_two]) {
                let mut args = [0; 6];
                args[index] = a;
                let expected = if holds(a, v, value_two) { EPERM } else { ALLOW };
                assert_eq!(run(&filter.program, native(), number("ioctl"), args), expected, "{op} {index} {a:#x}");
            }
        }
    }
}

#[test]
fn conditions_on_different_arguments_all_count_and_on_one_argument_any() {
    let filter = |first, second| {
        compiled(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["ftruncate"],"action":"SCMP_ACT_ALLOW","args":[
                {{"index":{first},"value":3,"op":"SCMP_CMP_EQ"}},{{"index":{second},"value":5,"op":"SCMP_CMP_EQ"}}]}}]}}"#
        ))
    };
    let of = |filter: &Filter, a, b| run(&filter.program, native(), number("ftruncate"), [a, b, 0, 0, 0, 0]);
    let all = filter(0, 1);
    assert_eq!([of(&all, 3, 5), of(&all, 3, 4), of(&all, 5, 5)], [ALLOW, EPERM, EPERM]);
    let any = filter(0, 0);
    assert_eq!([of(&any, 3, 0), of(&any, 5, 0), of(&any, 4, 3)], [ALLOW, ALLOW, EPERM]);
}

#[test]
fn multiplexed_calls_are_filtered_both_ways() {
    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],
            "syscalls":[{"names":["listen"],"action":"SCMP_ACT_ALLOW"}]}"#,
    );
    // listen is 363; socketcall, 102, has listen as its fourth call.
    for (number, call, answer) in [(363, 0, ALLOW), (362, 0, EPERM), (102, 4, ALLOW), (102, 3, EPERM)] {
        assert_eq!(run(&filter.program, I386, number, [call, 0, 0, 0, 0, 0]), answer, "{number} {call}");
    }
}

/// What Podman's profile says of a container without CAP_AUDIT_WRITE. On x86 these are rules for socketcall, too, which cannot
/// compare its arguments.
#[test]
fn conditions_on_multiplexed_calls_go_with_a_rule_for_the_multiplexer() {
    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[
            {"names":["read","socketcall","openat2"],"action":"SCMP_ACT_ALLOW"},
            {"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":22,"args":[
                {"index":0,"value":16,"op":"SCMP_CMP_EQ"},{"index":2,"value":9,"op":"SCMP_CMP_EQ"}]},
            {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":2,"value":9,"op":"SCMP_CMP_NE"}]},
            {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":16,"op":"SCMP_CMP_NE"}]},
            {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":2,"value":9,"op":"SCMP_CMP_NE"}]}]}"#,
    );
    let einval = libc::SECCOMP_RET_ERRNO | libc::EINVAL.unsigned_abs();
    for (family, protocol, answer) in [(16, 9, einval), (16, 0, ALLOW), (2, 9, ALLOW), (2, 0, ALLOW)] {
        let got = filter.program.as_slice();
        assert_eq!(run(got, I386, 359, [family, 0, protocol, 0, 0, 0]), answer, "socket {family} {protocol}");
        assert_eq!(run(got, I386, 102, [1, 0, 0, 0, 0, 0]), ALLOW, "socketcall");
        if profile::NATIVE == Arch::ScmpArchX86_64 {
            let socket = number("socket");
            assert_eq!(
                run(got, native(), socket, [family, 0, protocol, 0, 0, 0]),
                answer,
                "socket {family} {protocol}"
            );
        }
    }
}

#[test]
fn names_that_nobody_knows_are_left_out_and_told() {
    let (filter, unknown) = compile(&profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read","no_such_call"],"action":"SCMP_ACT_ALLOW"}]}"#,
    ))
    .unwrap();
    assert_eq!(unknown, ["no_such_call"]);
    assert_eq!(run(&filter.program, native(), number("read"), [0; 6]), ALLOW);
}

#[test]
fn flags_are_the_kernels_and_no_list_means_spec_allow() {
    for (flags, expected) in [
        ("", 4),
        (r#","flags":[]"#, 0),
        (r#","flags":["SECCOMP_FILTER_FLAG_TSYNC"]"#, 0),
        (r#","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#, 6),
        (r#","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#, 32),
    ] {
        assert_eq!(compiled(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{flags}}}"#)).flags, expected, "{flags}");
    }
}

#[test]
fn an_architecture_that_libseccomp_cannot_combine_is_named() {
    let error = refusal(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_S390X"]}"#);
    let sentence = "config.json: linux.seccomp.architectures: SCMP_ARCH_S390X: libseccomp refuses it";
    assert!(error.starts_with(sentence), "{error}");
}

#[test]
fn too_long_a_profile_is_refused_and_does_not_overflow_the_stack() {
    let rules = |count: u64| {
        let rules: Vec<String> = (0..count)
            .map(|i| {
                format!(
                    r#"{{"names":["ioctl"],"action":"SCMP_ACT_ALLOW","args":[{{"index":1,"value":{},"op":"SCMP_CMP_EQ"}}]}}"#,
                    i * 2
                )
            })
            .collect();
        format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{}]}}"#, rules.join(","))
    };
    let filter = compiled(&rules(400));
    for value in 0..820 {
        let expected = if value % 2 == 0 && value < 800 { ALLOW } else { EPERM };
        assert_eq!(run(&filter.program, native(), number("ioctl"), [0, value, 0, 0, 0, 0]), expected);
    }
    assert!(refusal(&rules(600)).contains("more than 512 conditions"));
}

/// What engines' profiles are made of: for each system call either one rule with or without conditions on different
/// arguments, or several that each compare the same argument. (libseccomp 2.5 can loop for ever over rules for one
/// system call that overlap at random.)
fn any_profile() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "read",
        "ioctl",
        "socket",
        "semop",
        "clone",
        "openat2",
        "chown32",
        "mmap2",
        "personality",
        "socketcall",
    ]);
    let action = prop::sample::select(vec!["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_TRAP", "SCMP_ACT_LOG"]);
    let op = prop::sample::select(vec!["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]);
    let value =
        prop::sample::select(vec![0u64, 1, 2, 5, 0x7e02_0000, 0xffff_ffff, 0x1_0000_0000, 0x5_0000_0005, u64::MAX]);
    let arg = |i: usize, v: u64, w: u64, op: &str| {
        format!(r#"{{"index":{i},"value":{v},"valueTwo":{w},"op":"SCMP_CMP_{op}"}}"#)
    };
    let different =
        prop::collection::btree_map(0..6usize, (value.clone(), value.clone(), op), 0..4).prop_map(move |args| {
            let args: Vec<String> = args.iter().map(|(i, (v, w, op))| arg(*i, *v, *w, op)).collect();
            vec![args.join(",")]
        });
    let same = (0..6usize, prop::collection::btree_set(value, 1..6))
        .prop_map(move |(i, values)| values.iter().map(|v| arg(i, *v, 0, "EQ")).collect::<Vec<_>>());
    let rules = (action.clone(), prop_oneof![different, same]);
    (action, prop::collection::btree_map(name, rules, 0..6)).prop_map(|(default, calls)| {
        let rules: Vec<String> = calls
            .iter()
            .flat_map(|(name, (action, rules))| {
                rules.iter().map(move |args| format!(r#"{{"names":["{name}"],"action":"{action}","args":[{args}]}}"#))
            })
            .collect();
        format!(
            r#"{{"defaultAction":"{default}","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
                "syscalls":[{}]}}"#,
            rules.join(",")
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_profile_decides_as_libseccomp_does(json in any_profile()) {
        let (ours, theirs) = match (compile(&profile(&json)), Reference::new(&json)) {
            (Ok((filter, _)), Ok(theirs)) => (filter.program, theirs),
            // Rules that contradict each other are refused by both.
            (Err(_), Err(_)) => return Ok(()),
            (ours, theirs) => panic!("{json}: {:?}, {:?}", ours.err(), theirs.err()),
        };
        let parsed = &theirs.profile;
        let values = values(&[2, 5, 0x7e02_0000, 0x5_0000_0005]);
        for &arch in &parsed.archs {
            let token = profile::audit(arch);
            let numbers: Vec<u32> = parsed.known.keys().filter_map(|name| profile::number(arch, name)).collect();
            let last = numbers.iter().copied().max().unwrap_or_default();
            for number in numbers {
                for around in [number.wrapping_sub(1), number, number + 1] {
                    for (i, &a) in values.iter().enumerate() {
                        let (b, c) = (values[(i * 7 + 3) % values.len()], values[(i * 5 + 1) % values.len()]);
                        for args in [[a, b, c, 0, 0, 0], [a, a, a, 0, 0, 0], [b, a, c, 0, 0, 0]] {
                            let got = run(&ours, token, around, args);
                            let expected = theirs.run(token, around, args);
                            let newer = got == ENOSYS && (around > last || around == number.wrapping_sub(1));
                            prop_assert!(got == expected || newer, "{arch} {around} {args:x?}: {got:#x} {expected:#x}");
                        }
                    }
                }
            }
        }
    }
}

/// Ranges for system call numbers, most of them short, as (distance from the one before, which decision).
fn any_ranges(most: usize) -> impl Strategy<Value = Vec<(u32, usize)>> {
    let length = prop_oneof![4 => Just(1u32), 4 => 2..20u32, 1 => 20..400u32];
    prop::collection::vec((length, 0..4usize), 0..most)
}

/// Makes `ranges` from `base` on the decisions of an architecture.
fn set_ranges(tables: &mut Tables, arch: u32, base: u32, ranges: &[(u32, usize)], ids: &[decide::Id]) {
    let mut start = base;
    for (length, id) in ranges {
        tables.set(arch, start, start + length - 1, ids[*id]);
        start += length;
    }
}

proptest! {
    // The search for a tree takes the cube of the number of ranges, and a test may run on an emulated machine.
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Architectures share code where they decide alike: x32 with x86-64, and others from some number on.
    #[test]
    fn any_decisions_are_written_as_they_are(
        low in any_ranges(80), of_x32 in any_ranges(20), of_other in any_ranges(40), is_alike: bool, at in 0..600u32,
        newer in any_ranges(30), beyond in prop::option::of(0..4usize), one: bool
    ) {
        let operand = decide::Operand { offset: 16, mask: u32::MAX };
        let mut nodes = decide::Nodes::default();
        let answers = [ALLOW, EPERM, ENOSYS].map(|answer| nodes.add(Node::Answer(answer)));
        let mut tables = Tables { nodes, archs: Vec::new(), other: answers[1] };
        let test = decide::Test { operand, comparison: decide::code::IF_EQUAL, value: 7, yes: answers[0], no: answers[1] };
        let ids = [answers[0], answers[1], answers[2], tables.nodes.add(Node::Test(test))];
        for arch in if one { &[X86_64][..] } else { &[X86_64, I386] } {
            tables.archs.push((*arch, [(0, answers[2])].into()));
        }
        set_ranges(&mut tables, X86_64, 0, &low, &ids);
        set_ranges(&mut tables, X86_64, 700, &newer, &ids);
        if is_alike {
            set_ranges(&mut tables, X86_64, X32_BIT, &low, &ids);
            set_ranges(&mut tables, X86_64, X32_BIT + 700, &newer, &ids);
        }
        set_ranges(&mut tables, X86_64, X32_BIT + at, &of_x32, &ids);
        if let Some(id) = beyond {
            tables.set(X86_64, X32_BIT << 1, u32::MAX, ids[id]);
        }
        set_ranges(&mut tables, I386, 0, &of_other, &ids);
        set_ranges(&mut tables, I386, 700, &newer, &ids);
        tables.join();

        let program = emit::program(&tables).unwrap();
        for (arch, ranges) in &tables.archs {
            let bounds = ranges.keys().flat_map(|start| [start.wrapping_sub(1), *start, start + 1]);
            let bounds: Vec<u32> = bounds.chain([X32_BIT - 1, X32_BIT, X32_BIT << 1, 3 * X32_BIT, u32::MAX]).collect();
            for number in bounds.iter().copied().chain(bounds.iter().map(|number| number ^ X32_BIT)) {
                for argument in [7, 8] {
                    let expected = match tables.nodes.get(*ranges.range(..=number).next_back().unwrap().1) {
                        Node::Answer(answer) => answer,
                        Node::Test(_) => if argument == 7 { ALLOW } else { EPERM },
                    };
                    let got = run(&program, *arch, number, [argument, 0, 0, 0, 0, 0]);
                    prop_assert_eq!(got, expected, "{:#x} {:#x}", arch, number);
                }
            }
        }
        prop_assert_eq!(run(&program, RISCV64, 0, [0; 6]), EPERM);
    }
}

/// Loads a filter in a thread of its own (without TSYNC it is that thread's alone) and makes system calls under it.
fn under<T: Send + 'static>(filter: Filter, calls: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(move || {
        process::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).unwrap();
        process::load_seccomp(&filter.program, filter.flags).unwrap();
        calls()
    })
    .join()
    .unwrap()
}

#[test]
fn the_kernel_takes_the_engines_profile_and_answers_by_it() {
    let answers = under(compiled(ENGINE), || {
        let call = |number: i64, args| raw::probe(number, args);
        [
            call(libc::SYS_getpid, [0; 6]).map(drop),
            call(libc::SYS_chroot, [0; 6]).map(drop),
            call(libc::SYS_unshare, [0; 6]).map(drop),
            call(libc::SYS_clone3, [0; 6]).map(drop),
            call(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0]).map(drop),
            call(libc::SYS_personality, [1, 0, 0, 0, 0, 0]).map(drop),
            call(libc::SYS_socket, [40, 1, 0, 0, 0, 0]).map(drop),
            call(libc::SYS_socket, [1, 99, 0, 0, 0, 0]).map(drop),
            call(1000, [0; 6]).map(drop),
            call(libc::SYS_io_uring_setup, [0; 6]).map(drop),
        ]
    });
    assert_eq!(
        answers,
        [
            Ok(()),
            Err(Errno::EFAULT),
            Err(Errno::EPERM),
            Err(Errno::ENOSYS),
            Ok(()),
            Err(Errno::EPERM),
            Err(Errno::EPERM),
            Err(Errno::EINVAL),
            Err(Errno::ENOSYS),
            Err(Errno::EPERM),
        ]
    );
}

#[test]
fn a_program_with_far_jumps_is_taken() {
    // Every third call has a condition of its own, so that answers and tests lie far apart.
    let rules: Vec<String> = (0..330)
        .step_by(3)
        .filter_map(|number| libseccomp::ScmpSyscall::from(number).get_name_by_arch(libseccomp::ScmpArch::Native).ok())
        .map(|name| {
            format!(
                r#"{{"names":["{name}"],"action":"SCMP_ACT_ERRNO","errnoRet":77,
                    "args":[{{"index":5,"value":{},"op":"SCMP_CMP_EQ"}}]}}"#,
                0xdead_0000_0000u64 + name.len() as u64 + u64::from(name.as_bytes()[0]) * 256
            )
        })
        .collect();
    let json = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#, rules.join(","));
    let filter = compiled(&json);
    assert!(filter.program.len() > 300);
    let theirs = Reference::new(&json).unwrap();
    for number in 0..400 {
        for value in values(&[0xdead_0000_0000, 0xdead_0000_6105, 0xdead_0000_7308]) {
            let args = [0, 0, 0, 0, 0, value];
            assert_eq!(run(&filter.program, native(), number, args), theirs.run(native(), number, args));
        }
    }
    assert!(under(filter, || raw::probe(libc::SYS_getpid, [0; 6]).is_ok()));
}

#[test]
fn a_notifying_filter_gives_a_listener() {
    let filter = compiled(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/a","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_NOTIFY"}]}"#,
    );
    assert_eq!(filter.flags, 40);
    if !process::knows_seccomp_flag(WAIT_KILLABLE_RECV) {
        eprintln!("skipped: this kernel has no SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux 5.19)");
        return;
    }
    let (kind, after) = std::thread::spawn(move || {
        process::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).unwrap();
        let fd = process::load_seccomp(&filter.program, filter.flags).unwrap() as i32;
        let kind = std::fs::read_link(format!("/proc/thread-self/fd/{fd}")).unwrap();
        nix::unistd::close(fd).unwrap();
        // Nobody listens any more: the kernel answers for the agent.
        (kind, raw::probe(libc::SYS_mkdirat, [usize::MAX, 0, 0, 0, 0, 0]))
    })
    .join()
    .unwrap();
    assert_eq!(kind.to_str(), Some("anon_inode:seccomp notify"));
    assert_eq!(after, Err(Errno::ENOSYS));
}

#[test]
fn this_kernels_flags_are_found_without_installing_anything() {
    let flags = supported_flags();
    assert!(flags.iter().any(|(name, flag)| *name == "SECCOMP_FILTER_FLAG_LOG" && *flag == 2), "{flags:?}");
    assert!(!process::knows_seccomp_flag(1 << 20));
    assert!(std::fs::read_to_string("/proc/thread-self/status").unwrap().contains("Seccomp_filters:\t0"));
}

#[test]
fn a_profile_is_compiled_once() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(&directory.path().join("seccomp")).unwrap();
    let profile = section(ENGINE.trim());
    let kept = || cache.load(profile.text().as_bytes()).unwrap();
    assert!(kept().is_none());
    let first = obtain(&profile, Some(&cache)).unwrap();
    assert!(kept().is_some(), "{:?}", first.warnings);
    let second = obtain(&profile, Some(&cache)).unwrap();
    let steps = |obtained: Obtained| {
        let program = obtained.filter.unwrap().program;
        program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect::<Vec<_>>()
    };
    assert_eq!(steps(first), steps(second));
    assert!(obtain(&section("{ }"), Some(&cache)).unwrap().filter.is_none());
    assert!(obtain(&section(r#"{"defaultAction":"SCMP_ACT_OOPS"}"#), Some(&cache)).is_err());
}

#[test]
fn a_sandbox_can_wait_under_the_profiles_that_there_are() {
    let action = crate::spec::default::action("/hello");
    let action = crate::spec::parse(action.as_bytes()).unwrap().seccomp.unwrap().parse().unwrap();
    for profile in [&action, &profile(ENGINE)] {
        let filter = compile(profile).unwrap().0;
        for call in crate::sys::park::CALLS {
            assert!(filter.allows(&[call]), "system call {call}");
        }
    }
}
