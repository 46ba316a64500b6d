//! The systemd driver: a container is a transient scope, and systemd makes its cgroups.
//!
//! A scope cannot exist without a process, so here the init is born outside and systemd moves it; the init must wait
//! for that ([`Cgroup::admit`](super::Cgroup::admit)). Inside the scope everything is as with the cgroupfs driver: what
//! systemd has no property for is written to the cgroup files.

pub mod bus;
pub mod unit;
pub mod value;

use crate::error::Kind;
use crate::path::clean;
use crate::{Error, Result};
use bus::{Connection, Refusal};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use unit::Property;
use value::Value;

/// The unit of a container, as saved in state.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Its name: "microrun-ID.scope".
    pub name: String,
    /// Whether it belongs to the user's manager instead of the system's.
    #[serde(default)]
    pub user: bool,
}

/// A unit that is to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitPlan {
    /// The unit.
    #[serde(flatten)]
    pub unit: Unit,
    /// Its properties, but for the process to be moved into it.
    pub properties: Vec<Property>,
}

impl UnitPlan {
    /// Starts the unit with the process `pid` in it and waits until that is done. The unit's cgroup is the answer,
    /// relative to the root of the hierarchy.
    ///
    /// # Errors
    /// What systemd says, as one sentence that names the unit.
    pub fn start(&self, pid: i32) -> Result<PathBuf> {
        let name = &self.unit.name;
        let failed = |problem: &str| Error::new(Kind::System, format!("unable to start unit {name:?}: {problem}"));
        let mut connection = Connection::open(self.unit.user)?;
        let mut properties = encode(&self.properties, &mut connection)?;
        let pids = Value::Array("u".to_owned(), vec![Value::U32(pid.unsigned_abs())]);
        properties.push(pair("PIDs", pids));
        let body = [
            Value::str(name),
            Value::str("replace"),
            Value::Array("(sv)".to_owned(), properties),
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ];
        let job = match job(connection.call("StartTransientUnit", &body)?) {
            // A unit of that name that has failed stays until it is reset.
            Err(refusal) if refusal.name.ends_with(".UnitExists") => {
                let _ = connection.call("ResetFailedUnit", &[Value::str(name)])?;
                job(connection.call("StartTransientUnit", &body)?)
            }
            first => first,
        };
        let job = job.map_err(|refusal| match refusal.name.rsplit('.').next() {
            Some("AccessDenied") => failed(&refusal.text).with_errno(Errno::EACCES),
            Some("UnitExists") => failed(&format!("{}: delete the container that has it", refusal.text)),
            _ => failed(&refusal.text),
        })?;
        let result = connection.wait_job(&job)?;
        if result != "done" {
            let _ = connection.call("ResetFailedUnit", &[Value::str(name)])?;
            return Err(failed(&format!("systemd's job ended with {result:?} (see journalctl)")));
        }
        let cgroup =
            connection.string_property(&object_path(name), "org.freedesktop.systemd1.Scope", "ControlGroup")?;
        if let Some(cgroup) = placed(&cgroup) {
            return Ok(cgroup);
        }
        let _ = connection.call("ResetFailedUnit", &[Value::str(name)])?;
        Err(failed(&format!("it has ended already: see why process {pid} did not last")))
    }
}

impl Unit {
    /// Stops the unit, which kills what is in it, and waits until that is done. A unit that is gone is no error.
    ///
    /// # Errors
    /// A systemd that cannot be reached or refuses.
    pub fn stop(&self) -> Result<()> {
        let mut connection = Connection::open(self.user)?;
        match job(connection.call("StopUnit", &[Value::str(&self.name), Value::str("replace")])?) {
            Ok(job) => {
                connection.wait_job(&job)?;
            }
            Err(refusal) if refusal.name.ends_with(".NoSuchUnit") => return Ok(()),
            Err(refusal) => {
                return Err(Error::new(Kind::System, format!("unable to stop unit {:?}: {}", self.name, refusal.text)));
            }
        }
        // Of a failed unit, the name would stay.
        let _ = connection.call("ResetFailedUnit", &[Value::str(&self.name)])?;
        Ok(())
    }

    /// Changes properties of the running unit.
    ///
    /// # Errors
    /// What systemd says, as one sentence.
    pub fn set(&self, properties: &[Property]) -> Result<()> {
        if properties.is_empty() {
            return Ok(());
        }
        let mut connection = Connection::open(self.user)?;
        let properties = encode(properties, &mut connection)?;
        let body = [Value::str(&self.name), Value::Bool(true), Value::Array("(sv)".to_owned(), properties)];
        connection.call("SetUnitProperties", &body)?.map(drop).map_err(|refusal| {
            Error::new(Kind::System, format!("unable to set properties of unit {:?}: {}", self.name, refusal.text))
        })
    }

    /// Moves a process into the unit's cgroup, or `below` that, from "/" on. A user may not do that alone where the cgroups between are root's.
    ///
    /// # Errors
    /// What systemd says, as one sentence.
    pub fn attach(&self, pid: i32, below: &str) -> Result<()> {
        let pids = Value::Array("u".to_owned(), vec![Value::U32(pid.unsigned_abs())]);
        let body = [Value::str(&self.name), Value::str(below), pids];
        let mut connection = Connection::open(self.user)?;
        connection.call("AttachProcessesToUnit", &body)?.map(drop).map_err(|refusal| {
            Error::new(Kind::System, format!("unable to move process {pid} to unit {:?}: {}", self.name, refusal.text))
        })
    }
}

/// Whether a user's manager answers that belongs to somebody else than root, by the place of its cgroup, as the kernel and
/// its bus number him the way this process does.
pub fn has_users_manager() -> bool {
    let cgroup = Connection::open(true).and_then(|mut connection| connection.manager_property("ControlGroup"));
    cgroup.is_ok_and(|cgroup| owner(&cgroup).is_some_and(|uid| uid != 0))
}

/// The cgroup of the user's manager, relative to the root of the hierarchy, below which it has its slices. One that does not answer
/// says so when the unit is to be started.
pub fn users_manager() -> Option<PathBuf> {
    let mut connection = Connection::open(true).ok()?;
    connection.manager_property("ControlGroup").ok().map(|cgroup| clean(cgroup.as_ref()))
}

/// Whose a cgroup is: a user's manager is in "user-UID.slice".
fn owner(cgroup: &str) -> Option<u32> {
    cgroup.rsplit('/').find_map(|name| name.strip_prefix("user-")?.strip_suffix(".slice")?.parse().ok())
}

/// Where systemd says that a unit's cgroup is, relative to the root of the hierarchy. Of a unit without one it says nothing, which
/// must not be taken for the root itself.
fn placed(cgroup: &str) -> Option<PathBuf> {
    Some(clean(cgroup.as_ref())).filter(|path| !path.as_os_str().is_empty())
}

/// The job that a call has started.
fn job(answer: Result<Vec<Value>, Refusal>) -> Result<String, Refusal> {
    answer.map(|values| values.into_iter().next().map(Value::into_text).unwrap_or_default())
}

fn pair(name: &str, value: Value) -> Value {
    Value::Struct(vec![Value::str(name), Value::Variant(Box::new(value))])
}

/// The properties that this systemd knows, as "(sv)". Its version is asked for only if it matters.
fn encode(properties: &[Property], connection: &mut Connection) -> Result<Vec<Value>> {
    let version = if properties.iter().any(|property| property.since > 0) { connection.version()? } else { 0 };
    let known = properties.iter().filter(|property| property.since <= version);
    Ok(known.map(|property| pair(&property.name, property.value.clone())).collect())
}

/// The object of a unit: every letter that D-Bus does not allow in a path as "_" and two hexadecimal digits.
fn object_path(unit: &str) -> String {
    let mut path = "/org/freedesktop/systemd1/unit/".to_owned();
    for (index, letter) in unit.bytes().enumerate() {
        if letter.is_ascii_alphabetic() || index > 0 && letter.is_ascii_digit() {
            path.push(char::from(letter));
        } else {
            path.push_str(&format!("_{letter:02x}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_tells_whose_manager_is_in_it() {
        assert_eq!(owner("/user.slice/user-1000.slice/user@1000.service"), Some(1000));
        assert_eq!(owner("/lxc/user-1000.slice/a/user.slice/user-0.slice/user@0.service/init.scope"), Some(0));
        assert_eq!(owner("/system.slice/user-x.slice"), None);
        assert_eq!(owner(""), None);
    }

    #[test]
    fn a_unit_without_a_cgroup_is_not_in_the_root() {
        assert_eq!(placed("/a.slice/b.scope"), Some("a.slice/b.scope".into()));
        for none in ["", "/", "//", "/..", "."] {
            assert_eq!(placed(none), None, "{none:?}");
        }
    }

    #[test]
    fn units_have_object_paths() {
        assert_eq!(object_path("a-1.scope"), "/org/freedesktop/systemd1/unit/a_2d1_2escope");
        assert_eq!(object_path("7x"), "/org/freedesktop/systemd1/unit/_37x");
    }
}
