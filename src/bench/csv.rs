//! Samples as comma-separated values (RFC 4180), one a line.

use super::record::Record;
use std::fmt::Write;

/// All samples of `record`, and the trials.
pub fn text(record: &Record) -> String {
    let mut text = String::from("row,part,setting,measure,index,value\r\n");
    let mut line = |row: &str, part: &str, setting: f64, measure: &str, index: usize, value: Option<f64>| {
        let value = value.map_or_else(String::new, |value| value.to_string());
        // Writing to a String cannot fail.
        let _ = write!(text, "{},{part},{setting},{measure},{index},{value}\r\n", quoted(row));
    };
    for row in &record.rows {
        for latency in &row.latency {
            for (measure, samples) in [("first_byte_us", &latency.first_byte_us), ("reaped_us", &latency.reaped_us)] {
                for (round, sample) in samples.iter().enumerate() {
                    line(&row.name, "latency", latency.gap_ms, measure, round, *sample);
                }
            }
        }
        let Some(load) = &row.load else { continue };
        for (index, closed) in load.closed.iter().enumerate() {
            for (measure, value) in
                [("per_second", closed.per_second), ("median_us", closed.median_us), ("p99_us", closed.p99_us)]
            {
                line(&row.name, "closed", closed.workers as f64, measure, index, Some(value));
            }
        }
        for (index, trial) in load.open.iter().enumerate() {
            for (measure, value) in
                [("completed", trial.completed), ("median_us", trial.median_us), ("p99_us", trial.p99_us)]
            {
                line(&row.name, "open", trial.offered, measure, index, Some(value));
            }
        }
    }
    for curve in &record.growth {
        for (index, (count, median, _, _)) in curve.points.iter().enumerate() {
            line(&curve.row, "growth", *count as f64, &quoted(&curve.with), index, Some(*median));
        }
    }
    if let Some(pool) = &record.pool {
        for (measure, times) in [("hit_us", &pool.hits_us), ("miss_us", &pool.misses_us), ("cold_us", &pool.cold_us)] {
            for (index, time) in times.iter().enumerate() {
                line("burst", "pool", pool.size as f64, measure, index, Some(*time));
            }
        }
    }
    text
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
