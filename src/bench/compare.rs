//! What changed between two records.

use super::record::{Record, Row, gap_title};
use super::stage::PROCESS;
use super::stats::Summary;
use super::table::ratio_to;
use std::fmt::Write;

/// The rows that both have: medians of spawn to reaped, their ratios to the bare process, and how these changed. A change
/// is one where the intervals of the ratios do not touch.
pub fn text(before: &Record, after: &Record) -> String {
    let mut text = format!("before: {}\nafter:  {}\n", before.date, after.date);
    for (what, value) in &before.machine {
        let now = after.machine.iter().find(|(name, _)| name == what).map(|(_, now)| now.as_str());
        if now != Some(value.as_str()) && what != "load" {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(text, "{what}: {value}  ->  {}", now.unwrap_or("unknown"));
        }
    }
    for row in &before.rows {
        if let Some(now) = after.row(&row.name).filter(|now| now.version != row.version) {
            let _ = writeln!(text, "{}: {}  ->  {}", row.name, row.version, now.version);
        }
    }
    if before.config_hash != after.config_hash {
        let _ = writeln!(text, "config.json differs: {} and {}", before.config_hash, after.config_hash);
    }
    for gap in before.gaps() {
        let title = format!("spawn to reaped, {}, µs", gap_title(gap));
        let _ = writeln!(
            text,
            "\n{title:44} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "before", "after", "/ hello", "/ hello", "change"
        );
        for row in &before.rows {
            if let Some(other) = after.row(&row.name) {
                latency(&mut text, (before, row), (after, other), gap);
            }
        }
    }
    knees(&mut text, before, after);
    for (record, other, word) in [(before, after, "before"), (after, before, "after")] {
        let alone = record.rows.iter().map(|row| row.name.as_str()).filter(|name| other.row(name).is_none());
        let alone: Vec<&str> = alone.collect();
        if !alone.is_empty() {
            let _ = writeln!(text, "\nonly {word}: {}", alone.join(", "));
        }
    }
    text
}

fn latency(text: &mut String, before: (&Record, &Row), after: (&Record, &Row), gap: f64) {
    let median = |(_, row): (&Record, &Row)| -> Option<Summary> { row.with_gap(gap)?.summaries()[1] };
    let (Some(old), Some(new)) = (median(before), median(after)) else { return };
    let _ = write!(text, "  {:42} {:>8.0} {:>8.0}", before.1.name, old.median, new.median);
    let ratio = |(record, row): (&Record, &Row)| ratio_to(record, row, PROCESS, gap, 1);
    if let (Some(old), Some(new)) = (ratio(before), ratio(after)) {
        let apart = old.high < new.low || new.high < old.low;
        let word = if apart { "" } else { "  (within the noise)" };
        let change = (new.value / old.value - 1.0) * 100.0;
        let _ = write!(text, " {:>8.2} {:>8.2} {change:>+7.1}%{word}", old.value, new.value);
    }
    text.push('\n');
}

fn knees(text: &mut String, before: &Record, after: &Record) {
    let knee = |row: &Row| row.load.as_ref()?.knee;
    let pairs: Vec<(&str, f64, f64)> = before
        .rows
        .iter()
        .filter_map(|row| Some((row.name.as_str(), knee(row)?, knee(after.row(&row.name)?)?)))
        .collect();
    if !pairs.is_empty() {
        let _ = writeln!(text, "\n{:44} {:>8} {:>8} {:>8}", "starts a second kept up", "before", "after", "change");
    }
    for (name, old, new) in pairs {
        let _ = writeln!(text, "  {name:42} {old:>8.0} {new:>8.0} {:>+7.1}%", (new / old - 1.0) * 100.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Kind, Latency, Load};
    use super::*;

    fn record(ours: f64, knee: f64) -> Record {
        let row = |name: &str, kind, median: f64| Row {
            name: name.into(),
            kind,
            isolation: String::new(),
            command: String::new(),
            version: if name == "x" { format!("x {ours}") } else { String::new() },
            latency: vec![Latency {
                reaped_us: (0..50).map(|n| Some(median + f64::from(n % 5))).collect(),
                ..Latency::default()
            }],
            load: Some(Load { knee: Some(knee), ..Load::default() }),
        };
        Record {
            machine: vec![("kernel".into(), knee.to_string())],
            rows: vec![row(PROCESS, Kind::Process, 100.0), row("x", Kind::Container, ours)],
            ..Record::default()
        }
    }

    #[test]
    fn a_change_and_none() {
        let text = text(&record(400.0, 100.0), &record(200.0, 150.0));
        let line = text.lines().find(|line| line.starts_with("  x ")).unwrap();
        assert!(line.contains("-49.") && !line.contains("noise"), "{line}");
        assert!(text.contains("kernel: 100  ->  150") && text.contains("x: x 400  ->  x 200"), "{text}");
        let fewer = Record { rows: Vec::new(), ..record(400.0, 100.0) };
        assert!(super::text(&record(400.0, 100.0), &fewer).contains(&format!("only before: {PROCESS}, x")));
        assert!(text.contains("+50.0%"), "{text}");
        let same = super::text(&record(400.0, 100.0), &record(400.0, 100.0));
        assert!(same.contains("within the noise") && !same.contains("->"), "{same}");
    }
}
