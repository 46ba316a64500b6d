//! Schemata: "L3:0=7f0;1=1f", for each cache what may be used of it.

use crate::error::{Doing, Error, Result};
use oci_spec::runtime::LinuxIntelRdt;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A line of a schemata file.
#[derive(Debug, PartialEq, Eq)]
struct Schema<'a> {
    resource: &'a str,
    /// By cache id. Masks are hexadecimal, bandwidths decimal.
    values: BTreeMap<u32, u64>,
}

impl<'a> Schema<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (resource, values) = line.split_once(':')?;
        let resource = resource.trim();
        let radix = if resource.starts_with("MB") { 10 } else { 16 };
        let value = |pair: &str| {
            let (id, value) = pair.split_once('=')?;
            let digits = value.trim().trim_start_matches("0x");
            Some((id.trim().parse().ok()?, u64::from_str_radix(digits, radix).ok()?))
        };
        let pairs = values.split(';').filter(|pair| !pair.trim().is_empty());
        Some(Self { resource, values: pairs.map(value).collect::<Option<_>>()? })
    }
}

/// Checks that the class at `path`, which is there already, has the caches and the bandwidth that are asked for
/// (config-linux.md: "runtimes MUST compare").
///
/// # Errors
/// The field that differs.
pub(super) fn require_same(root: &Path, path: &Path, rdt: &LinuxIntelRdt) -> Result<()> {
    let wanted = [("l3CacheSchema", rdt.l3_cache_schema()), ("memBwSchema", rdt.mem_bw_schema())];
    for (name, wanted) in wanted {
        let Some(wanted) = wanted.as_deref().filter(|wanted| !wanted.is_empty()) else { continue };
        let file = path.join("schemata");
        let text = fs::read_to_string(&file).doing(|| format!("linux.intelRdt: read {}", file.display()))?;
        let has = text.lines().filter_map(Schema::parse).find(|has| wanted.split(':').next() == Some(has.resource));
        let step = bandwidth_step(root);
        let same = Schema::parse(wanted).zip(has).is_some_and(|(wanted, has)| is_in(&wanted, &has, step));
        if !same {
            let problem = format!(
                "{wanted:?} is not what {} has, which is there already: change it, or choose another closID",
                file.display()
            );
            return Err(Error::config(format_args!("linux.intelRdt.{name}"), problem));
        }
    }
    Ok(())
}

/// The kernel rounds a bandwidth up to a multiple of this.
fn bandwidth_step(root: &Path) -> u64 {
    let text = fs::read_to_string(root.join("info/MB/bandwidth_gran")).unwrap_or_default();
    text.trim().parse().ok().filter(|step| *step > 0).unwrap_or(1)
}

/// Whether all that `wanted` says is so in `has`.
fn is_in(wanted: &Schema<'_>, has: &Schema<'_>, bandwidth_step: u64) -> bool {
    wanted.values.iter().all(|(id, value)| {
        let rounded = value.checked_next_multiple_of(bandwidth_step).filter(|_| has.resource == "MB");
        has.values.get(id).is_some_and(|has| has == value || Some(*has) == rounded)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_line_is_a_schema_or_none(
            line in "(L3|MB|L2CODE)?:?(;? ?[0-9]{0,11} ?=? ?(0x)?[0-9a-g+-]{0,18}){0,5}|.{0,20}",
            step in any::<u64>(),
        ) {
            if let Some(schema) = Schema::parse(&line) {
                prop_assert!(is_in(&schema, &schema, step));
            }
        }

        /// However it is written, it says the same.
        #[test]
        fn schemata_are_read_back(values in prop::collection::btree_map(any::<u32>(), any::<u64>(), 1..5)) {
            let pairs: Vec<String> = values.iter().map(|(id, value)| format!(" {id}={value:x}")).collect();
            let line = format!("L3:{}", pairs.join(";"));
            prop_assert_eq!(Schema::parse(&line), Some(Schema { resource: "L3", values }));
        }
    }

    #[test]
    fn lines_are_compared_by_value() {
        let same = |wanted, has| is_in(&Schema::parse(wanted).unwrap(), &Schema::parse(has).unwrap(), 10);
        assert!(same("L3:0=07f0;1=1F;", "    L3:1=01f;0=7f0"));
        assert!(same("L3:1=f", "L3:0=7;1=f"));
        assert!(!same("L3:2=f", "L3:0=7;1=f"));
        assert!(!same("L3:0=10", "L3:0=a"));
        // Rounded up by the kernel.
        assert!(same("MB:0=25;1=70", "    MB:0=  30;1=  70"));
        assert!(!same("MB:0=20", "MB:0=30"));
        for junk in ["", "L3", "L3:0", "L3:a=b", "L3:0=x", "MB:0=f"] {
            assert_eq!(Schema::parse(junk), None, "{junk:?}");
        }
    }
}
