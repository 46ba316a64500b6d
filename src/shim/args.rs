//! The command line that containerd gives a shim: flags as Go's flag package reads them, and one action.

use crate::error::{Error, Kind, Result};

/// What it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    pub namespace: String,
    pub id: String,
    pub address: String,
    pub bundle: String,
    pub publish_binary: String,
    pub debug: bool,
    pub version: bool,
    pub info: bool,
    /// "start", "delete" or nothing.
    pub action: String,
}

impl Arguments {
    /// # Errors
    /// A flag that does not exist or has no value.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let wrong = |problem: String| Error::new(Kind::Usage, problem);
        let mut arguments = Self::default();
        let mut unused = String::new();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-') else {
                arguments.action = word;
                break;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) =
                flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value.to_owned())));
            let switch = match name {
                "debug" => Some(&mut arguments.debug),
                "v" | "version" => Some(&mut arguments.version),
                "info" => Some(&mut arguments.info),
                _ => None,
            };
            if let Some(switch) = switch {
                *switch =
                    value.is_none_or(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
                continue;
            }
            let place = match name {
                "namespace" => &mut arguments.namespace,
                "id" => &mut arguments.id,
                "address" => &mut arguments.address,
                "bundle" => &mut arguments.bundle,
                "publish-binary" => &mut arguments.publish_binary,
                // Of other shims, and of no use here.
                "socket" => &mut unused,
                _ => return Err(wrong(format!("-{name} is not a flag of containerd's shims: leave it out"))),
            };
            *place = value.or_else(|| words.next()).ok_or_else(|| wrong(format!("-{name} has no value: give one")))?;
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_are_read_as_containerd_writes_them() {
        let line =
            "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id a --bundle=/b -debug start";
        let expected = Arguments {
            namespace: "k8s.io".into(),
            id: "a".into(),
            address: "/run/c.sock".into(),
            bundle: "/b".into(),
            publish_binary: "/usr/bin/containerd".into(),
            debug: true,
            action: "start".into(),
            ..Arguments::default()
        };
        assert_eq!(parse(line), Ok(expected));
        assert_eq!(parse("-debug=false -v"), Ok(Arguments { version: true, ..Arguments::default() }));
        assert!(parse("-id").is_err() && parse("-nonsense x").is_err());
    }
}
