//! Tables, and the bars that the figures are held against.

use super::lanes::Kind;
use super::rounds::Row;
use microrun::bench::sample::Sample;
use microrun::bench::stats::{Random, Ratio, Summary, ratio};
use serde_json::{Value, json};

/// One of the two times that are taken of a start.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    pub name: &'static str,
    pub of: fn(&Sample) -> Option<f64>,
}

pub const MEASURES: [Measure; 2] = [
    Measure { name: "spawn to first byte", of: |sample| sample.first_byte },
    Measure { name: "spawn to reaped", of: |sample| Some(sample.reaped) },
];

/// The rows of one step, with everybody's ratio to each of `references` that took part.
pub fn table(rows: &[Row], kind: Kind, references: &[&str], random: &mut Random) {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.kind == kind).collect();
    for measure in MEASURES {
        let figures: Vec<_> = rows.iter().map(|row| row.values(measure.of)).collect();
        if figures.iter().flatten().all(Option::is_none) {
            continue;
        }
        let of_name = |name: &str| rows.iter().position(|row| row.lane == name);
        let references: Vec<_> = references.iter().filter_map(|name| Some((*name, of_name(name)?))).collect();
        print!(
            "\n  {:34} {:>6} {:>5} {:>7} {:>7} {:>7}",
            format!("{}: {}, µs", kind.name(), measure.name),
            "starts",
            "fail",
            "min",
            "median",
            "p99"
        );
        references.iter().for_each(|(name, _)| print!("   {:20}", format!("/ {name}")));
        println!();
        for (index, row) in rows.iter().enumerate() {
            let counted: Vec<f64> = figures[index].iter().flatten().copied().collect();
            let failed: usize = row.samples.iter().filter(|sample| sample.is_none()).count();
            let Some(summary) = Summary::of(&counted) else {
                println!("  {:34} {:>6} {failed:>5}", row.lane, row.samples.len());
                continue;
            };
            print!(
                "  {:34} {:>6} {failed:>5} {:>7.0} {:>7.0} {:>7.0}",
                row.lane,
                row.samples.len(),
                summary.min,
                summary.median,
                summary.p99
            );
            for (_, reference) in &references {
                let text = match ratio(&figures[index], &figures[*reference], random) {
                    Some(ratio) if *reference != index => shown(ratio),
                    _ => "1".to_owned(),
                };
                print!("   {text:20}");
            }
            println!();
        }
    }
    for row in rows {
        for (why, count) in &row.failures {
            println!("  failed: {}, {count} times: {why}", row.lane);
        }
    }
}

fn shown(ratio: Ratio) -> String {
    format!("{:.3} ({:.3}-{:.3})", ratio.value, ratio.low, ratio.high)
}

/// A bar: what is measured, against what, and the most that the ratio may be.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    pub ours: &'static str,
    pub theirs: &'static str,
    pub most: f64,
}

/// Holds `rows` against `bars`: a line each, and the same as JSON. A bar that cannot be held has a line too.
pub fn hold(title: &str, rows: &[Row], kind: Kind, bars: &[Bar], random: &mut Random) -> Vec<(String, Value)> {
    let find = |name: &str| rows.iter().find(|row| row.lane == name && row.kind == kind);
    let mut held = Vec::new();
    for bar in bars {
        let (Some(ours), Some(theirs)) = (find(bar.ours), find(bar.theirs)) else {
            let absent = if find(bar.ours).is_none() { bar.ours } else { bar.theirs };
            let what = format!("{title}, {}: {} / {}", kind.name(), bar.ours, bar.theirs);
            held.push(not_measured(&what, bar.most, &format!("{absent} took no part")));
            continue;
        };
        for measure in MEASURES {
            let Some(ratio) = ratio(&ours.values(measure.of), &theirs.values(measure.of), random) else { continue };
            held.push(line(title, kind, measure.name, bar, ratio));
        }
    }
    held
}

fn line(title: &str, kind: Kind, measure: &str, bar: &Bar, ratio: Ratio) -> (String, Value) {
    let verdict = match ratio {
        ratio if ratio.high <= bar.most => "met",
        ratio if ratio.low > bar.most => "MISSED",
        ratio if ratio.value <= bar.most => "met, within the noise",
        _ => "missed, within the noise",
    };
    let what = format!("{title}, {}, {measure}: {} / {}", kind.name(), bar.ours, bar.theirs);
    let text = format!("  {what:96} {:22} at most {:.3}  {verdict}", shown(ratio), bar.most);
    let json = json!({
        "what": what, "ratio": ratio.value, "low": ratio.low, "high": ratio.high, "most": bar.most, "verdict": verdict
    });
    (text, json)
}

/// The line of a bar that nobody could be held against.
pub fn not_measured(what: &str, most: f64, why: &str) -> (String, Value) {
    let text = format!("  {what:96} {:22} at most {most:.3}  not measured: {why}", "");
    (text, json!({ "what": what, "most": most, "verdict": format!("not measured: {why}") }))
}

/// The rows with all their samples, in microseconds.
pub fn to_json(rows: &[Row]) -> Value {
    let of = |row: &Row, measure: Measure| -> Vec<Option<f64>> {
        row.values(measure.of).iter().map(|value| value.map(|value| (value * 10.0).round() / 10.0)).collect()
    };
    let row = |row: &Row| {
        json!({
            "name": row.lane, "step": row.kind.name(), "failures": row.failures,
            "first_byte_us": of(row, MEASURES[0]), "reaped_us": of(row, MEASURES[1])
        })
    };
    Value::Array(rows.iter().map(row).collect())
}
