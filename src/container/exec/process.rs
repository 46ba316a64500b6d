//! The process that `exec` runs: the container's own with the changes of the command line, or one of its own.

use crate::error::{Error, Kind, Result};
use crate::spec::{Warning, capability};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process};
use std::path::PathBuf;

/// Where the process comes from.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// `--process`: a process object. What it leaves out of rights and limits is the container's.
    Given(Box<Process>),
    /// The container's `process` with these changes.
    Changed(Changes),
}

impl Wanted {
    /// Whether the process gets a terminal.
    pub fn has_terminal(&self) -> bool {
        match self {
            Self::Given(process) => process.terminal().unwrap_or(false),
            Self::Changed(changes) => changes.terminal,
        }
    }
}

/// What the options of `exec` change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The command.
    pub args: Vec<String>,
    /// --cwd
    pub cwd: Option<PathBuf>,
    /// --env, in addition
    pub env: Vec<String>,
    /// --tty
    pub terminal: bool,
    /// --user
    pub user: Option<(u32, Option<u32>)>,
    /// --additional-gids, in addition
    pub additional_gids: Vec<u32>,
    /// --cap, in addition
    pub capabilities: Vec<String>,
    /// --no-new-privs
    pub no_new_privileges: Option<bool>,
    /// --apparmor
    pub apparmor_profile: Option<String>,
    /// --process-label
    pub selinux_label: Option<String>,
}

/// The process, given the container's `own`. What does not stop it is added to `warnings`.
///
/// # Errors
/// No command.
pub(super) fn resolve(wanted: &Wanted, own: &Process, warnings: &mut Vec<Warning>) -> Result<Process> {
    match wanted {
        Wanted::Given(process) => Ok(complete((**process).clone(), own)),
        Wanted::Changed(changes) => change(own.clone(), changes, warnings),
    }
}

/// Fills in what runtime-spec makes a matter of the container.
fn complete(mut process: Process, own: &Process) -> Process {
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(own.rlimits().clone());
    }
    if process.apparmor_profile().as_ref().is_none_or(String::is_empty) {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if process.selinux_label().as_ref().is_none_or(String::is_empty) {
        process.set_selinux_label(own.selinux_label().clone());
    }
    if process.scheduler().is_none() {
        process.set_scheduler(own.scheduler().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*own.io_priority());
    }
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(own.exec_cpu_affinity().clone());
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(own.oom_score_adj());
    }
    if process.user().umask().is_none() {
        let mut user = process.user().clone();
        user.set_umask(own.user().umask());
        process.set_user(user);
    }
    process
}

fn change(mut process: Process, changes: &Changes, warnings: &mut Vec<Warning>) -> Result<Process> {
    if changes.args.is_empty() {
        return Err(Error::new(Kind::Usage, "exec args cannot be empty: give a command, or --process FILE"));
    }
    process.set_args(Some(changes.args.clone()));
    if let Some(cwd) = &changes.cwd {
        process.set_cwd(cwd.clone());
    }
    if !changes.env.is_empty() {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(changes.env.iter().cloned());
        process.set_env(Some(env));
    }
    process.set_terminal(Some(changes.terminal));
    let mut user = process.user().clone();
    if let Some((uid, gid)) = changes.user {
        user.set_uid(uid);
        user.set_gid(gid.unwrap_or(user.gid()));
    }
    if !changes.additional_gids.is_empty() {
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&changes.additional_gids);
        user.set_additional_gids(Some(groups));
    }
    process.set_user(user);
    if !changes.capabilities.is_empty() {
        let sets = grant(process.capabilities().clone().unwrap_or_else(none), &changes.capabilities, warnings);
        process.set_capabilities(Some(sets));
    }
    if changes.no_new_privileges.is_some() {
        process.set_no_new_privileges(changes.no_new_privileges);
    }
    if changes.apparmor_profile.is_some() {
        process.set_apparmor_profile(changes.apparmor_profile.clone());
    }
    if changes.selinux_label.is_some() {
        process.set_selinux_label(changes.selinux_label.clone());
    }
    Ok(process)
}

fn none() -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(None).set_effective(None).set_permitted(None).set_inheritable(None).set_ambient(None);
    sets
}

/// Adds capabilities to the bounding, effective and permitted sets. The inheritable set stays as it is (CVE-2022-29162),
/// and so does the ambient one unless the container has inheritable capabilities, as in runc.
fn grant(mut sets: LinuxCapabilities, names: &[String], warnings: &mut Vec<Warning>) -> LinuxCapabilities {
    let mut added: Vec<Capability> = Vec::new();
    for name in names {
        match capability::by_name(name) {
            Some(capability) => added.push(capability),
            None => warnings.push(Warning::new("--cap", format!("unknown capability {name:?} is left out"))),
        }
    }
    let with = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(added.iter().copied());
        Some(set)
    };
    let (bounding, effective, permitted) = (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
    let ambient = if sets.inheritable().is_some() { with(sets.ambient()) } else { sets.ambient().clone() };
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted).set_ambient(ambient);
    sets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is asked for: the command is it, and nothing becomes inheritable (CVE-2022-29162).
        #[test]
        fn any_change_is_that_change(
            args in prop::collection::vec(".{0,5}", 0..3),
            capabilities in prop::collection::vec("(CAP_)?(KILL|CHOWN|SYS_ADMIN|ALL|kill|.{0,4})", 0..4),
            user in any::<Option<(u32, Option<u32>)>>(),
            additional_gids in prop::collection::vec(any::<u32>(), 0..3),
        ) {
            let wanted = Changes { args: args.clone(), capabilities, user, additional_gids, ..Changes::default() };
            match resolve(&Wanted::Changed(wanted), &own(), &mut Vec::new()) {
                Ok(process) => {
                    let sets = process.capabilities().as_ref().unwrap();
                    prop_assert!(sets.inheritable().as_ref().is_none_or(|set| set.is_empty()));
                    prop_assert!(sets.ambient().as_ref().is_none_or(|set| set.is_empty()));
                    prop_assert_eq!(process.args().clone(), Some(args));
                    let (uid, gid) = user.map_or((5, 6), |(uid, gid)| (uid, gid.unwrap_or(6)));
                    prop_assert_eq!((process.user().uid(), process.user().gid()), (uid, gid));
                }
                Err(_) => prop_assert!(args.is_empty()),
            }
        }
    }

    fn own() -> Process {
        let text = br#"{
            "terminal": true, "cwd": "/w", "args": ["sh"], "env": ["PATH=/bin", "A=1"],
            "user": {"uid": 5, "gid": 6, "umask": 18, "additionalGids": [7]},
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
            "noNewPrivileges": true, "apparmorProfile": "p", "oomScoreAdj": 100
        }"#;
        spec::parse_process(text).unwrap().0
    }

    fn changed(changes: Changes) -> Process {
        resolve(&Wanted::Changed(changes), &own(), &mut Vec::new()).unwrap()
    }

    fn command() -> Changes {
        Changes { args: vec!["id".into()], ..Changes::default() }
    }

    #[test]
    fn a_command_has_the_rights_of_the_container_and_no_terminal() {
        let process = changed(command());
        let mut expected = own();
        expected.set_args(Some(vec!["id".into()])).set_terminal(Some(false));
        assert_eq!(process, expected);
        let error = resolve(&Wanted::Changed(Changes::default()), &own(), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().starts_with("exec args cannot be empty"), "{error}");
    }

    #[test]
    fn options_change_the_process() {
        let process = changed(Changes {
            cwd: Some("/x".into()),
            env: vec!["B=2".into()],
            terminal: true,
            user: Some((1, None)),
            additional_gids: vec![8],
            no_new_privileges: Some(false),
            apparmor_profile: Some("q".into()),
            selinux_label: Some("l".into()),
            ..command()
        });
        assert_eq!(process.cwd().to_str(), Some("/x"));
        assert_eq!(process.env().as_deref().unwrap(), ["PATH=/bin", "A=1", "B=2"]);
        assert_eq!(process.terminal(), Some(true));
        assert_eq!((process.user().uid(), process.user().gid()), (1, 6));
        assert_eq!(process.user().additional_gids().as_deref().unwrap(), [7, 8]);
        assert_eq!(process.no_new_privileges(), Some(false));
        assert_eq!(process.apparmor_profile().as_deref(), Some("q"));
        assert_eq!(process.selinux_label().as_deref(), Some("l"));
        let both = changed(Changes { user: Some((1, Some(2))), ..command() });
        assert_eq!((both.user().uid(), both.user().gid()), (1, 2));
    }

    #[test]
    fn capabilities_are_added_but_never_inheritable() {
        let mut warnings = Vec::new();
        let names = ["CAP_CHOWN", "CAP_NOSUCH", "chown"].map(str::to_owned).to_vec();
        let wanted = Wanted::Changed(Changes { capabilities: names, ..command() });
        let process = resolve(&wanted, &own(), &mut warnings).unwrap();
        let sets = process.capabilities().as_ref().unwrap();
        for set in [sets.bounding(), sets.effective(), sets.permitted()] {
            let set = set.as_ref().unwrap();
            assert!(set.contains(&Capability::Chown) && set.contains(&Capability::Kill) && set.len() == 2);
        }
        assert_eq!((sets.inheritable(), sets.ambient()), (&None, &None));
        assert_eq!(warnings.len(), 2);
    }

    #[test]
    fn a_given_process_takes_rights_and_limits_from_the_container() {
        let (given, _) = spec::parse_process(br#"{"cwd": "/", "args": ["id"], "user": {"uid": 1, "gid": 2}}"#).unwrap();
        let process = resolve(&Wanted::Given(Box::new(given)), &own(), &mut Vec::new()).unwrap();
        let own = own();
        assert_eq!(process.capabilities(), own.capabilities());
        assert_eq!(process.rlimits(), own.rlimits());
        assert_eq!(process.apparmor_profile(), own.apparmor_profile());
        assert_eq!(process.oom_score_adj(), Some(100));
        assert_eq!(process.user().umask(), Some(18));
        assert_eq!(process.user().uid(), 1);
        assert_eq!(process.env(), &None);
        assert_eq!(process.no_new_privileges(), None);
    }
}
