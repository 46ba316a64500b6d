use super::*;
use crate::spec::{parse, validate, validate_rootless};
use oci_spec::runtime::{LinuxNamespaceType as Kind, Spec};

fn loaded(text: &str) -> Box<Spec> {
    let loaded = parse(text.as_bytes()).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(validate(&loaded.spec).unwrap(), []);
    if let Some(seccomp) = loaded.seccomp {
        seccomp.parse().unwrap();
    }
    loaded.spec
}

fn kinds(spec: &Spec) -> Vec<Kind> {
    let linux = spec.linux().as_ref().unwrap();
    linux.namespaces().as_ref().unwrap().iter().map(|namespace| namespace.typ()).collect()
}

#[test]
fn runc_has_a_cgroup_namespace_on_v2_only() {
    let five = [Kind::Pid, Kind::Network, Kind::Ipc, Kind::Uts, Kind::Mount];
    assert_eq!(kinds(&loaded(&runc(false))), five);
    assert_eq!(kinds(&loaded(&runc(true))), [&five[..], &[Kind::Cgroup]].concat());
    assert_eq!(runc(true).len(), runc(false).len() + CGROUP_NAMESPACE.len());
}

#[test]
fn rootless_maps_the_caller_to_root() {
    for unified in [false, true] {
        let spec = loaded(&rootless(unified, 1000, 1001));
        validate_rootless(&spec).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 1000);
        assert_eq!(linux.gid_mappings().as_ref().unwrap()[0].host_id(), 1001);
        assert_eq!(kinds(&spec).contains(&Kind::Cgroup), unified);
        assert_eq!(kinds(&spec).last(), Some(&Kind::User));
    }
}

#[test]
fn an_action_can_be_called_anything() {
    for program in ["/hello", "/a \"b\"\n\\c", "/ä"] {
        let spec = loaded(&action(program));
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.args().as_deref(), Some(&[program.to_owned()][..]));
        let capabilities = process.capabilities().as_ref().unwrap();
        assert!(capabilities.bounding().as_ref().unwrap().is_empty());
    }
}

#[test]
fn all_are_indented_by_tabs_as_go_does() {
    for text in [runc(true), runc(false), rootless(true, 1, 2), action("/hello")] {
        assert!(text.starts_with("{\n\t\"ociVersion\": \"") && text.ends_with("\n}"), "{text}");
    }
}
