//! Socket activation: descriptors that a service manager hands to the container by way of the runtime (sd_listen_fds(3)).

use oci_spec::runtime::Spec;

/// What `$LISTEN_PID`, `$LISTEN_FDS` and `$LISTEN_FDNAMES` say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// How many descriptors from 3 up are the container's.
    pub descriptors: u32,
    /// Their names, with colons between them.
    pub names: Option<String>,
}

impl Activation {
    /// What the environment says, if it says so to this process.
    pub fn of_this_process() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        Self::parse(std::process::id(), variable)
    }

    fn parse(own: u32, variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name)?.parse::<u32>().ok();
        let descriptors = number("LISTEN_PID").filter(|pid| *pid == own).and_then(|_| number("LISTEN_FDS"))?;
        (descriptors > 0).then(|| Self { descriptors, names: variable("LISTEN_FDNAMES") })
    }

    /// Tells the container's program of its descriptors: it is process 1 there.
    pub(super) fn add_to(&self, spec: &mut Spec) {
        let Some(process) = spec.process_mut() else { return };
        let env = process.env_mut().get_or_insert_default();
        env.extend([format!("LISTEN_FDS={}", self.descriptors), "LISTEN_PID=1".to_owned()]);
        env.extend(self.names.iter().map(|names| format!("LISTEN_FDNAMES={names}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_meant_for_us_counts() {
        let parse = |variables: &[(&str, &str)]| {
            let value =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            Activation::parse(7, value)
        };
        let fds = |descriptors, names: Option<&str>| Some(Activation { descriptors, names: names.map(str::to_owned) });
        assert_eq!(parse(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "2")]), fds(2, None));
        assert_eq!(parse(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "a:b")]), fds(2, Some("a:b")));
        for (pid, count) in [("8", "2"), ("7", "0"), ("7", "-1"), ("7", "x"), ("", "2")] {
            assert_eq!(parse(&[("LISTEN_PID", pid), ("LISTEN_FDS", count)]), None, "{pid} {count}");
        }
        assert_eq!(parse(&[("LISTEN_FDS", "2")]), None);
    }
}
