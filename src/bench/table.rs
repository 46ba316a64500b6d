//! The record in the terminal.

use super::provider::{MOST_MILLISECONDS, Prices, answer_for};
use super::record::{Kind, Latency, Record, Row, gap_title};
use super::stage::{ECHO, PROCESS};
use super::stats::{Random, Ratio, Summary, ratio};
use std::fmt::Write;

/// Everything that was measured.
pub fn text(record: &Record, prices: Prices) -> String {
    let mut text = String::new();
    for gap in record.gaps() {
        latencies(&mut text, record, gap);
    }
    throughput(&mut text, record, prices);
    pool(&mut text, record);
    steps(&mut text, record);
    growth(&mut text, record);
    // Writing to a String cannot fail, here and below.
    if !record.skipped.is_empty() {
        let _ = writeln!(text, "\nskipped:");
        record.skipped.iter().for_each(|why| _ = writeln!(text, "  {why}"));
    }
    let left = if record.left.is_empty() { "nothing".to_owned() } else { record.left.join("\n  ") };
    let _ = writeln!(text, "\nleft behind: {left}");
    if record.interrupted {
        let _ = writeln!(text, "interrupted: this is what was measured so far");
    }
    text
}

/// The machine, versions, and who is skipped.
pub fn head(record: &Record) -> String {
    let mut text = String::new();
    for (what, value) in &record.machine {
        let _ = writeln!(text, "{what:12} {value}");
    }
    let _ = writeln!(
        text,
        "{:12} {} (without cgroupsPath, which says whose start it is)",
        "config.json", record.config_hash
    );
    if let Some(load) = record.busy() {
        let _ = writeln!(
            text,
            "note: the machine is busy (load {load}): minima say something then, medians and rates little"
        );
    }
    for row in record.rows.iter().filter(|row| !row.version.is_empty()) {
        let _ = writeln!(text, "{:20} {}", row.name, row.version);
    }
    text
}

fn latencies(text: &mut String, record: &Record, gap: f64) {
    let rows: Vec<(&Row, &Latency)> = record.rows.iter().filter_map(|row| Some((row, row.with_gap(gap)?))).collect();
    let notes = notes(rows.iter().map(|(row, _)| *row));
    let count = rows.iter().map(|(_, latency)| latency.reaped_us.len()).max().unwrap_or(0);
    for (index, measure) in ["spawn to first byte", "spawn to reaped"].into_iter().enumerate() {
        let title = format!("{measure}, {}, µs ({count} rounds)", gap_title(gap));
        let _ = writeln!(
            text,
            "\n{title:52} {:>8} {:>8} {:>8}  {:22} {:22}",
            "min", "median", "p99", "/ static hello", "/ bin/echo"
        );
        for (row, latency) in &rows {
            let _ = write!(text, "  {:50}", format!("{}{}", row.name, mark(&notes, row)));
            match latency.summaries()[index] {
                Some(summary) => {
                    let _ = write!(text, " {:>8.0} {:>8.0} {:>8.0}", summary.min, summary.median, summary.p99);
                    for base in [PROCESS, ECHO] {
                        let _ = write!(
                            text,
                            "  {:22}",
                            ratio_to(record, row, base, gap, index).map_or_else(String::new, shown)
                        );
                    }
                }
                None => text.push_str(" no start succeeded"),
            }
            let end = text.trim_end().len();
            text.truncate(end);
            text.push('\n');
        }
    }
    for (at, note) in notes.iter().enumerate() {
        let _ = writeln!(text, "  [{}] {note}", at + 1);
    }
    for (row, latency) in &rows {
        troubles(text, row, latency);
    }
}

/// What rows isolate that is something else than what the common configuration asks for, each once.
pub fn notes<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<&'a str> {
    let mut notes: Vec<&str> = Vec::new();
    for row in rows {
        let is_new = !row.isolation.is_empty() && !notes.contains(&row.isolation.as_str());
        if is_new && row.kind != Kind::Process {
            notes.push(&row.isolation);
        }
    }
    notes
}

/// The number of the note on `row`: `" [1]"`.
pub fn mark(notes: &[&str], row: &Row) -> String {
    let at = notes.iter().position(|note| *note == row.isolation);
    at.map_or_else(String::new, |at| format!(" [{}]", at + 1))
}

fn troubles(text: &mut String, row: &Row, latency: &Latency) {
    let name = &row.name;
    if latency.warm_up_failures > 0 {
        let _ = writeln!(text, "  {name}: {} of {} warm-ups failed", latency.warm_up_failures, latency.warm_up);
    }
    for (why, count) in &latency.failures {
        let _ = writeln!(text, "  {name}: failed {count} times: {why}");
    }
    if let Some(why) = &latency.given_up {
        let _ = writeln!(text, "  {name}: given up: {why}");
    }
}

/// The ratio of `row` to the row called `base`, of first bytes (0) or ends (1).
pub fn ratio_to(record: &Record, row: &Row, base: &str, gap: f64, measure: usize) -> Option<Ratio> {
    let base = record.row(base)?;
    if base.name == row.name {
        return None;
    }
    let of = |row: &Row| {
        let latency = row.with_gap(gap)?;
        Some(if measure == 0 { latency.first_byte_us.clone() } else { latency.reaped_us.clone() })
    };
    ratio(&of(row)?, &of(base)?, &mut Random::new(record.seed))
}

/// A ratio with its interval.
pub fn shown(ratio: Ratio) -> String {
    let digits = if ratio.value < 10.0 { 2 } else { 1 };
    format!("{:.digits$} ({:.digits$}-{:.digits$})", ratio.value, ratio.low, ratio.high)
}

fn throughput(text: &mut String, record: &Record, prices: Prices) {
    let rows: Vec<&Row> = record.rows.iter().filter(|row| row.load.is_some()).collect();
    if rows.is_empty() {
        return;
    }
    let most = record.rows.iter().find(|row| row.name == PROCESS).and_then(|row| row.load.as_ref()?.knee);
    let _ = writeln!(
        text,
        "\n{:52} {:>8} {:>8} {:>9} {:>9} {:>8}  {:>9}  pays?  under 100 ms?",
        "open system: the highest rate that is kept up, per s",
        "rate",
        "/ hello",
        "median ms",
        "p99 ms",
        "closed",
        "$/million"
    );
    for row in rows {
        let Some(load) = &row.load else { continue };
        let closed = load.closed.iter().map(|closed| closed.per_second).fold(0.0, f64::max);
        let _ = write!(text, "  {:50}", row.name);
        match (answer_for(row, prices), load.at_knee()) {
            (Some(answer), Some(trial)) => {
                let more = if load.bounded { "" } else { "+" };
                let share = most.map_or_else(String::new, |most| format!("{:.3}", answer.rate / most));
                let _ = writeln!(
                    text,
                    " {:>8} {share:>8} {:>9.2} {:>9.2} {closed:>8.0}  {:>9.4}  {:5}  {}",
                    format!("{:.0}{more}", answer.rate),
                    trial.median_us / 1e3,
                    trial.p99_us / 1e3,
                    answer.million,
                    yes(answer.pays),
                    yes(answer.quick),
                );
            }
            _ => _ = writeln!(text, " {:>8}  no rate was kept up", "-"),
        }
    }
    if let Some(ceiling) = record.ceiling {
        let _ = writeln!(
            text,
            "  the generator's own ceiling is {ceiling:.0} starts/s of the static hello: what comes near it is a lower bound"
        );
    }
    let _ = writeln!(
        text,
        "  {:.2} actions/s pay for a machine of ${}/h at ${} an action; latencies count from the scheduled time; \
         \"under {MOST_MILLISECONDS} ms\" is the p99 at every rate that was kept up; + means that no higher rate was tried",
        prices.break_even(),
        prices.hour,
        decimal(prices.action)
    );
}

/// A small number without an exponent and without trailing zeros.
pub fn decimal(number: f64) -> String {
    format!("{number:.12}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn yes(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}

fn steps(text: &mut String, record: &Record) {
    if !record.steps.is_empty() {
        let total: f64 = record.steps.iter().map(|step| step.us).sum();
        let _ = writeln!(text, "\nwhere microrun's init spends its {total:.0} µs: the ten longest steps");
        let mut steps: Vec<_> = record.steps.iter().collect();
        steps.sort_by(|a, b| b.us.total_cmp(&a.us));
        for step in steps.iter().take(10) {
            let call: String = step.call.chars().take(90).collect();
            let _ = writeln!(text, "  {:>7.1}  {call}  ({})", step.us, step.field);
        }
    }
    if !record.calls.is_empty() {
        let _ = writeln!(text, "\nsystem calls under strace, which distorts their times");
        for calls in &record.calls {
            let top: Vec<String> =
                calls.top.iter().take(4).map(|(name, count, us)| format!("{name} {count}x {us:.0} µs")).collect();
            let _ = writeln!(text, "  {:30} {:>6}   {}", calls.row, calls.count, top.join(", "));
        }
    }
}

fn pool(text: &mut String, record: &Record) {
    let trials = record.rows.iter().filter_map(|row| Some((&row.name, row.load.as_ref()?.at_knee()?)));
    for (name, rate, hits) in trials.filter_map(|(name, trial)| Some((name, trial.offered, trial.hits?))) {
        let _ = writeln!(text, "  {name}: at {rate:.0} starts/s {:.0} % found a sandbox in the pool", hits * 100.0);
    }
    let Some(pool) = &record.pool else { return };
    let title = format!(
        "{} starts at once, {} sandboxes in the pool; from the burst to reaped, µs",
        pool.cold_us.len() + pool.failed[1],
        pool.size
    );
    let _ = writeln!(text, "\n{title:74} {:>6} {:>8} {:>8} {:>8}", "starts", "median", "p99", "last");
    for (name, times) in pool.bursts() {
        if let Some(summary) = Summary::of(times) {
            let (count, last) = (times.len(), times.last().copied().unwrap_or_default());
            let _ = writeln!(text, "  {name:72} {count:>6} {:>8.0} {:>8.0} {last:>8.0}", summary.median, summary.p99);
        }
    }
    let [with, without] = pool.failed;
    let _ = writeln!(text, "  failed: {with} with the pool, {without} without; PSS of the pool: {} KiB", pool.pss_kib);
}

fn growth(text: &mut String, record: &Record) {
    let mut last = "";
    for curve in &record.growth {
        if curve.with != last {
            let _ = writeln!(text, "\nspawn to reaped against {}: median µs (p99)", curve.with);
            last = &curve.with;
        }
        let points: Vec<String> = curve
            .points
            .iter()
            .map(|(count, median, p99, failed)| {
                let failed = if *failed > 0 { format!(", {failed} failed") } else { String::new() };
                format!("{count}: {median:.0} ({p99:.0}{failed})")
            })
            .collect();
        let _ = writeln!(text, "  {:30} {}", curve.row, points.join("   "));
    }
    if !record.memory.is_empty() {
        let _ = writeln!(text, "\nmemory of a container that waits, KiB");
        for memory in &record.memory {
            let pss = memory.runtime_pss_kib.map_or_else(|| "?".to_owned(), |kib| kib.to_string());
            let kernel = memory.kernel_kib.map_or_else(|| "?".to_owned(), |kib| format!("{kib:.0}"));
            let _ = writeln!(text, "  {:30} PSS of {}: {pss}; detached, all in all: {kernel}", memory.row, memory.of());
        }
    }
}
