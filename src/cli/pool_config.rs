//! How a pool is to be run, as a file and the command line say it.

use super::parse::{Words, invalid};
use super::value;
use crate::error::{Doing, Error, Kind, Result};
use crate::pool::{Bounds, Pace};
use serde_json::{Map, Value};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Where the file is that needs no --config.
pub const PATH: &str = "/etc/microrun/pool.json";

/// A number that flag and file may set.
struct Number {
    name: &'static str,
    /// What it has to be.
    what: &'static str,
    least: u64,
    most: u64,
}

const SIZE: Number = Number { name: "size", what: "how many sandboxes, at most 100000", least: 0, most: 100_000 };
const MAX: Number = Number { name: "max", what: "how many sandboxes, from 1 to 100000", least: 1, most: 100_000 };
const PARTS: Number = Number { name: "parts", what: "how many parts, at most 10000", least: 0, most: 10_000 };
const CPU: Number = Number { name: "cpu", what: "a percentage from 1 to 100", least: 1, most: 100 };
const RATE: Number = Number { name: "rate", what: "how many in a second, from 1 to 100000", least: 1, most: 100_000 };
const IDLE: Number = Number { name: "idle", what: "a number of seconds, at least 1", least: 1, most: u32::MAX as u64 };
/// It may have a unit as well.
const MEMORY: &str = "memory";
const BUNDLES: &str = "bundles";

/// What a file says.
#[derive(Debug, Default)]
pub struct Config {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Config {
    /// Reads the file that --config names, or else the one at [`PATH`] if it is there.
    ///
    /// # Errors
    /// One sentence that names the file and the field.
    pub fn read(words: &Words) -> Result<Self> {
        let (path, is_wanted) = words.path("config").map_or_else(|| (PathBuf::from(PATH), false), |path| (path, true));
        if !is_wanted && !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        Self::parse(path, &text)
    }

    fn parse(path: PathBuf, text: &str) -> Result<Self> {
        let wrong = |problem: String| Error::new(Kind::Config, format!("{}: {problem}", path.display()));
        let fields = match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err(wrong("is not an object: write {\"size\": 8}, for example".into())),
            Err(error) => return Err(wrong(format!("not valid JSON ({error}): correct it"))),
        };
        let known = [&SIZE, &PARTS, &MAX, &CPU, &RATE, &IDLE].map(|number| number.name);
        let known: Vec<&str> = known.into_iter().chain([MEMORY, BUNDLES]).collect();
        if let Some(field) = fields.keys().find(|field| !known.contains(&field.as_str())) {
            return Err(wrong(format!("{field}: there is no such field: give {}", known.join(", "))));
        }
        Ok(Self { path, fields })
    }

    /// How many sandboxes each bundle gets that does not say it itself.
    ///
    /// # Errors
    /// A value that is not valid.
    pub fn size(&self, words: &Words) -> Result<usize> {
        Ok(self.number(words, &SIZE)?.unwrap_or(4) as usize)
    }

    /// How many network namespaces, and cgroups of each bundle, are kept for those who find no sandbox.
    ///
    /// # Errors
    /// A value that is not valid.
    pub fn parts(&self, words: &Words) -> Result<usize> {
        Ok(self.number(words, &PARTS)?.unwrap_or(0) as usize)
    }

    /// How fast sandboxes are made.
    ///
    /// # Errors
    /// A value that is not valid.
    pub fn pace(&self, words: &Words) -> Result<Pace> {
        let cpu = self.number(words, &CPU)?.unwrap_or(100) as u32;
        Ok(Pace { cpu, rate: self.number(words, &RATE)?.unwrap_or(0) as u32 })
    }

    /// How many sandboxes there may be.
    ///
    /// # Errors
    /// A value that is not valid.
    pub fn bounds(&self, words: &Words) -> Result<Bounds> {
        Ok(Bounds { parts: self.number(words, &MAX)?.unwrap_or(1024) as usize, memory: self.memory(words)? })
    }

    /// After what time a bundle is given up.
    ///
    /// # Errors
    /// A value that is not valid.
    pub fn idle(&self, words: &Words) -> Result<Option<Duration>> {
        Ok(self.number(words, &IDLE)?.map(Duration::from_secs))
    }

    /// The bundles to begin with, and how many sandboxes each gets: the `operands`, or else those of the file.
    ///
    /// # Errors
    /// A value that is not valid.
    pub fn bundles(&self, words: &Words, operands: Vec<PathBuf>) -> Result<Vec<(PathBuf, usize)>> {
        let size = self.size(words)?;
        match self.fields.get(BUNDLES) {
            Some(_) | None if !operands.is_empty() => Ok(operands.into_iter().map(|path| (path, size)).collect()),
            None => Ok(Vec::new()),
            Some(Value::Array(bundles)) => {
                let bundle = |(index, bundle)| self.bundle(&format!("{BUNDLES}[{index}]"), bundle, size);
                bundles.iter().enumerate().map(bundle).collect()
            }
            Some(other) => Err(self.wrong(BUNDLES, other, "a list")),
        }
    }

    /// `"/a/bundle"`, or `{"path": "/a/bundle", "size": 2}`.
    fn bundle(&self, field: &str, value: &Value, size: usize) -> Result<(PathBuf, usize)> {
        let absolute = |field: &str, value: &Value| {
            let path = value.as_str().map(PathBuf::from).filter(|path| path.is_absolute());
            path.ok_or_else(|| self.wrong(field, value, "an absolute path"))
        };
        let Value::Object(members) = value else { return Ok((absolute(field, value)?, size)) };
        if let Some(name) = members.keys().find(|name| !["path", SIZE.name].contains(&name.as_str())) {
            let problem = format!("{}: {field}.{name}: there is no such field: give path, size", self.path.display());
            return Err(Error::new(Kind::Config, problem));
        }
        let path = absolute(&format!("{field}.path"), members.get("path").unwrap_or(&Value::Null))?;
        let own =
            members.get(SIZE.name).map(|value| self.within(&format!("{field}.size"), value, &SIZE)).transpose()?;
        Ok((path, own.map_or(size, |own| own as usize)))
    }

    /// A number of the command line, or else of the file.
    fn number(&self, words: &Words, number: &Number) -> Result<Option<u64>> {
        if let Some(given) = words.parsed::<u64>(number.name, number.what)? {
            let is_within = (number.least..=number.most).contains(&given);
            return if is_within {
                Ok(Some(given))
            } else {
                Err(invalid(number.name, &given.to_string(), number.what))
            };
        }
        self.fields.get(number.name).map(|value| self.within(number.name, value, number)).transpose()
    }

    fn within(&self, field: &str, value: &Value, number: &Number) -> Result<u64> {
        let given = value.as_u64().filter(|given| (number.least..=number.most).contains(given));
        given.ok_or_else(|| self.wrong(field, value, number.what))
    }

    /// Bytes, of the command line or else of the file.
    fn memory(&self, words: &Words) -> Result<Option<u64>> {
        let what = "bytes, or an amount such as 64M";
        let bytes = |text: &str| value::bytes(MEMORY, text).ok().and_then(|bytes| u64::try_from(bytes).ok());
        if let Some(text) = words.text(MEMORY)? {
            return bytes(text).filter(|bytes| *bytes > 0).map(Some).ok_or_else(|| invalid(MEMORY, text, what));
        }
        let Some(value) = self.fields.get(MEMORY) else { return Ok(None) };
        let given = value.as_u64().or_else(|| value.as_str().and_then(bytes)).filter(|bytes| *bytes > 0);
        given.map(Some).ok_or_else(|| self.wrong(MEMORY, value, what))
    }

    fn wrong(&self, field: &str, value: &Value, what: &str) -> Error {
        Error::new(Kind::Config, format!("{}: {field}: is {value}: give {what}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Config> {
        Config::parse(PathBuf::from("/p.json"), text)
    }

    fn words() -> Words {
        Words::of(super::super::pool::VERB.flags)
    }

    #[test]
    fn a_file_says_it_all() {
        let text = r#"{"size": 8, "max": 64, "cpu": 50, "rate": 20, "memory": "64M", "idle": 600,
            "bundles": ["/a", {"path": "/b", "size": 2}]}"#;
        let (config, words) = (parsed(text).unwrap(), words());
        let bundles = config.bundles(&words, Vec::new()).unwrap();
        assert_eq!(bundles, [("/a".into(), 8), ("/b".into(), 2)]);
        assert_eq!(config.bundles(&words, vec!["/c".into()]).unwrap(), [("/c".into(), 8)]);
        let pace = config.pace(&words).unwrap();
        let bounds = config.bounds(&words).unwrap();
        assert_eq!((pace.cpu, pace.rate, bounds.parts, bounds.memory), (50, 20, 64, Some(64 << 20)));
        assert_eq!(config.idle(&words).unwrap(), Some(Duration::from_secs(600)));
        let nothing = parsed("{}").unwrap();
        let bounds = nothing.bounds(&words).unwrap();
        assert_eq!((nothing.size(&words).unwrap(), bounds.parts, bounds.memory), (4, 1024, None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (
                r#"{"siz": 8}"#,
                "/p.json: siz: there is no such field: give size, parts, max, cpu, rate, idle, memory, bundles",
            ),
            (r#"{"size": "8"}"#, "/p.json: size: is \"8\": give how many sandboxes, at most 100000"),
            (r#"{"cpu": 101}"#, "/p.json: cpu: is 101: give a percentage from 1 to 100"),
            (r#"{"rate": 0}"#, "/p.json: rate: is 0: give how many in a second, from 1 to 100000"),
            (r#"{"idle": 1.5}"#, "/p.json: idle: is 1.5: give a number of seconds, at least 1"),
            (r#"{"memory": "much"}"#, "/p.json: memory: is \"much\": give bytes, or an amount such as 64M"),
            (r#"{"memory": -1}"#, "/p.json: memory: is -1: give bytes, or an amount such as 64M"),
            (r#"{"bundles": "/a"}"#, "/p.json: bundles: is \"/a\": give a list"),
            (r#"{"bundles": ["a"]}"#, "/p.json: bundles[0]: is \"a\": give an absolute path"),
            (r#"{"bundles": [{"size": 1}]}"#, "/p.json: bundles[0].path: is null: give an absolute path"),
            (
                r#"{"bundles": [{"path": "/a", "x": 1}]}"#,
                "/p.json: bundles[0].x: there is no such field: give path, size",
            ),
            (r#"[1]"#, "/p.json: is not an object: write {\"size\": 8}, for example"),
            (r#"{"size": 8"#, "/p.json: not valid JSON (EOF while parsing an object at line 1 column 10): correct it"),
        ];
        for (text, expected) in cases {
            let words = words();
            let told = parsed(text).and_then(|config| {
                config.size(&words)?;
                config.pace(&words)?;
                config.bounds(&words)?;
                config.idle(&words)?;
                config.bundles(&words, Vec::new())
            });
            assert_eq!(told.unwrap_err().to_string(), expected);
        }
    }
}
