//! The page of `--report`: one HTML file that needs nothing else.

pub mod svg;
pub mod verdict;

use super::provider::{Prices, answer_for};
use super::record::{Curve, Kind, Record, Row, gap_title};
use super::stage::{ECHO, MICRORUN, PROCESS};
use super::stats::Summary;
use super::table::{mark, notes, ratio_to, shown};
use std::fmt::Write;
use svg::{Bar, Line, escaped, plain};
use verdict::{PAPER, throughput_ratio, verdict};

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn html(record: &Record, prices: Prices) -> String {
    let date = record.date.get(..10).unwrap_or_default();
    let machine = |what: &str| {
        record.machine.iter().find(|(name, _)| name == what).map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let mut page = format!(
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>\
         <title>How long an isolated Hello takes</title><style>{STYLE}</style>\
         <h1>How long an isolated “Hello” takes</h1><p class='soft'>{date} · {} · Linux {}</p><p class='verdict'>{}</p>",
        escaped(machine("machine")),
        escaped(machine("kernel")),
        escaped(&verdict(record, prices))
    );
    figure(&mut page, record);
    paper(&mut page, record);
    latencies(&mut page, record);
    throughput(&mut page, record, prices);
    steps(&mut page, record);
    growth(&mut page, record);
    pool(&mut page, record);
    memory(&mut page, record);
    provenance(&mut page, record);
    page
}

/// The figure in the paper's form, as a file for itself: latency left, throughput right.
pub fn figure_file(record: &Record) -> String {
    let ((left, left_height), (right, right_height)) = (latency_bars(record), throughput_bars(record));
    let machine = record.machine.iter().find(|(name, _)| name == "machine");
    let machine = machine.map(|(_, value)| value.as_str()).unwrap_or_default();
    let footer = format!("microrun bench, {}, {machine}", record.date.get(..10).unwrap_or_default());
    svg::file(&left, &right, left_height.max(right_height), STYLE, &footer)
}

fn colour(row: &Row) -> &'static str {
    if is_ours(row) {
        return "ours";
    }
    match row.kind {
        Kind::Process => "process",
        Kind::Unikernel => "unikernel",
        Kind::Container => "container",
        Kind::Floor => "floor",
        Kind::Engine => "engine",
        Kind::Peer => "peer",
    }
}

fn first_gap(record: &Record) -> f64 {
    record.gaps().first().copied().unwrap_or(0.0)
}

/// Engines would make dots of all others: they have bars of their own.
fn latency_bars(record: &Record) -> (String, f64) {
    let bars = bars_of(record, |row| row.kind != Kind::Engine);
    svg::bars("Latency: spawn to reaped, median (line: to p99)", &bars)
}

/// Engines, and what they are to be seen beside.
fn engine_bars(record: &Record) -> Option<(String, f64)> {
    record.rows.iter().find(|row| row.kind == Kind::Engine)?;
    let bars = bars_of(record, |row| row.kind == Kind::Engine || [ECHO, MICRORUN, "runc"].contains(&row.name.as_str()));
    Some(svg::bars("With an engine: spawn to reaped, median", &bars))
}

fn bars_of(record: &Record, wanted: impl Fn(&Row) -> bool) -> Vec<Bar> {
    let gap = first_gap(record);
    let bar = |row: &Row| {
        let [_, Some(summary)] = row.with_gap(gap)?.summaries() else { return None };
        let ratio = ratio_to(record, row, ECHO, gap, 1);
        let ratio = ratio.map_or_else(String::new, |ratio| format!(" · {} × echo", plain(ratio.value)));
        Some(Bar {
            label: row.name.clone(),
            value: summary.median / 1e3,
            up_to: Some(summary.p99 / 1e3),
            note: format!("{} ms{ratio}", plain(summary.median / 1e3)),
            colour: colour(row),
        })
    };
    record.rows.iter().filter(|row| wanted(row)).filter_map(bar).collect()
}

fn throughput_bars(record: &Record) -> (String, f64) {
    let bar = |row: &Row| {
        let load = row.load.as_ref()?;
        let knee = load.knee?;
        let ratio = throughput_ratio(record, row, ECHO).filter(|_| row.name != ECHO);
        let ratio = ratio.map_or_else(String::new, |ratio| format!(" · {} × echo", plain(ratio)));
        let more = if load.bounded { "" } else { " or more" };
        Some(Bar {
            label: row.name.clone(),
            value: knee,
            up_to: None,
            note: format!("{} /s{more}{ratio}", plain(knee)),
            colour: colour(row),
        })
    };
    let bars: Vec<Bar> = record.rows.iter().filter_map(bar).collect();
    svg::bars("Throughput: starts a second that are kept up", &bars)
}

fn figure(page: &mut String, record: &Record) {
    page.push_str("<h2>The figure</h2><div class='charts'>");
    for (bars, height) in
        [Some(latency_bars(record)), Some(throughput_bars(record)), engine_bars(record)].into_iter().flatten()
    {
        let _ = write!(page, "<figure>{}</figure>", svg::image(&bars, height, "bars"));
    }
    page.push_str("</div>");
}

fn paper(page: &mut String, record: &Record) {
    page.push_str(
        "<h2>Beside the paper</h2><p class='soft'>Ratios to the bare process of the same machine. The paper: Koller and \
         Williams, “Will Serverless End the Dominance of Linux in the Cloud?”, HotOS 2017, Figure 3; 4 cores, Linux 3.10, \
         5.8 ms and 329 a second for the bare process.</p><div class='scroll'><table><tr><th>paper</th><th>latency</th>\
         <th>throughput</th><th class='left'>here</th><th>latency</th><th>throughput</th></tr>",
    );
    let gap = first_gap(record);
    for paper in PAPER {
        let throughput = paper.throughput.unwrap_or("–");
        let mut left = format!("<td>{}</td><td>{}</td><td>{throughput}</td>", paper.name, paper.latency);
        let rows: Vec<&Row> = paper.here.iter().filter_map(|name| record.row(name)).collect();
        if rows.is_empty() {
            let _ = write!(page, "<tr>{left}<td class='left soft'>not measured here</td><td></td><td></td></tr>");
        }
        for row in rows {
            let latency =
                if row.name == ECHO { Some("1".to_owned()) } else { ratio_to(record, row, ECHO, gap, 1).map(shown) };
            let throughput = throughput_ratio(record, row, ECHO).map(plain);
            let _ = write!(
                page,
                "<tr{}>{left}<td class='left'>{}</td><td>{}</td><td>{}</td></tr>",
                ours(row),
                escaped(&row.name),
                latency.unwrap_or_else(|| "–".to_owned()),
                throughput.unwrap_or_else(|| "–".to_owned())
            );
            left = "<td></td><td></td><td></td>".to_owned();
        }
    }
    page.push_str("</table></div>");
}

fn ours(row: &Row) -> &'static str {
    if is_ours(row) { " class='ours'" } else { "" }
}

/// Whether a container of microrun is started, by itself or by an engine.
fn is_ours(row: &Row) -> bool {
    row.name.starts_with(MICRORUN) || (row.kind == Kind::Engine && row.name.contains(": microrun"))
}

fn latencies(page: &mut String, record: &Record) {
    page.push_str("<h2>Latency</h2><div class='charts'>");
    for gap in record.gaps() {
        let strip = |row: &Row| {
            let latency = row.with_gap(gap)?;
            let [_, Some(summary)] = latency.summaries() else { return None };
            let samples = latency.reaped_us.iter().flatten().map(|us| us / 1e3).collect();
            Some((row.name.clone(), samples, summary.median / 1e3, colour(row)))
        };
        let rows: Vec<_> = record.rows.iter().filter_map(strip).collect();
        let _ = write!(
            page,
            "<figure>{}<figcaption>Spawn to reaped, {}: every start a stroke, the median a thick one</figcaption></figure>",
            svg::strips(&rows, "ms"),
            gap_title(gap)
        );
    }
    page.push_str("</div>");
    for gap in record.gaps() {
        for (measure, title) in ["Spawn to first byte", "Spawn to reaped"].into_iter().enumerate() {
            latency_table(page, record, gap, measure, title);
        }
    }
}

fn latency_table(page: &mut String, record: &Record, gap: f64, measure: usize, title: &str) {
    let _ = write!(
        page,
        "<details{}><summary>{title}, {}, µs</summary><div class='scroll'><table><tr><th></th><th>starts</th><th>failed</th>\
         <th>min</th><th>median</th><th>p99</th><th>/ static hello</th><th>/ echo</th></tr>",
        if measure == 1 && gap == first_gap(record) { " open" } else { "" },
        gap_title(gap)
    );
    let measured = record.rows.iter().filter(|row| row.with_gap(gap).is_some());
    let notes = notes(measured);
    for row in &record.rows {
        let Some(latency) = row.with_gap(gap) else { continue };
        let _ = write!(
            page,
            "<tr{}><td>{}{}</td><td>{}</td><td>{}</td>",
            ours(row),
            escaped(&row.name),
            mark(&notes, row),
            if latency.given_up.is_some() { latency.warm_up } else { latency.starts() },
            latency.failed() + latency.warm_up_failures
        );
        match latency.summaries()[measure] {
            Some(summary) => {
                let _ = write!(
                    page,
                    "<td>{:.0}</td><td>{:.0}</td><td>{:.0}</td>",
                    summary.min, summary.median, summary.p99
                );
                for base in [PROCESS, ECHO] {
                    let ratio = ratio_to(record, row, base, gap, measure).map_or_else(String::new, shown);
                    let _ = write!(page, "<td>{ratio}</td>");
                }
                page.push_str("</tr>");
            }
            None => {
                let why = latency.given_up.as_deref().unwrap_or("no start succeeded");
                let _ = write!(page, "<td colspan='5' class='left wide'>{}</td></tr>", escaped(why));
            }
        }
    }
    page.push_str("</table></div>");
    for (at, note) in notes.iter().enumerate() {
        let _ = write!(page, "<p class='soft'>[{}] {}</p>", at + 1, escaped(note));
    }
    page.push_str("</details>");
}

fn throughput(page: &mut String, record: &Record, prices: Prices) {
    if record.rows.iter().all(|row| row.load.is_none()) {
        return;
    }
    page.push_str(
        "<h2>Throughput</h2><p class='soft'>An open system: starts at a given rate, whatever comes back. Filled: completions \
         were 95 % of the offer or more. Dashed: all of it.</p><div class='charts small'>",
    );
    for row in &record.rows {
        let Some(load) = row.load.as_ref().filter(|load| !load.open.is_empty()) else { continue };
        let mut trials = load.open.clone();
        // Of a rate that was tried twice, the better trial.
        trials.sort_by(|a, b| a.offered.total_cmp(&b.offered).then(b.completed.total_cmp(&a.completed)));
        trials.dedup_by(|next, first| next.offered == first.offered);
        let point = |trial: &super::record::Trial| {
            let note = format!(
                "{} offered, {} completed, p99 {} ms",
                plain(trial.offered),
                plain(trial.completed),
                plain(trial.p99_us / 1e3)
            );
            (trial.offered, trial.completed, trial.kept_up, note)
        };
        let line = Line { name: row.name.clone(), points: trials.iter().map(point).collect(), colour: colour(row) };
        let _ = write!(
            page,
            "<figure>{}<figcaption>{}</figcaption></figure>",
            svg::lines(&[line], &[], true, "completed a second, against offered a second"),
            escaped(&row.name)
        );
    }
    page.push_str("</div>");
    provider(page, record, prices);
}

fn provider(page: &mut String, record: &Record, prices: Prices) {
    let _ = write!(
        page,
        "<p>The provider’s question: {:.2} actions a second pay for a machine of ${} an hour at ${} an action, and a start \
         should take less than 100 ms whatever the load.</p><div class='scroll'><table><tr><th></th><th>a second</th>\
         <th>median ms</th><th>p99 ms</th><th>closed loop, a second</th><th>a million cost</th><th>pays</th>\
         <th>p99 under 100 ms</th></tr>",
        prices.break_even(),
        prices.hour,
        super::table::decimal(prices.action)
    );
    for row in &record.rows {
        let Some(load) = &row.load else { continue };
        let _ = write!(page, "<tr{}><td>{}</td>", ours(row), escaped(&row.name));
        let closed = load.closed.iter().map(|closed| closed.per_second).fold(0.0, f64::max);
        match (answer_for(row, prices), load.at_knee()) {
            (Some(answer), Some(trial)) => {
                let yes = |is| if is { "yes" } else { "no" };
                let _ = write!(
                    page,
                    "<td>{:.0}</td><td>{}</td><td>{}</td><td>{closed:.0}</td><td>${:.4}</td><td>{}</td><td>{}</td></tr>",
                    answer.rate,
                    plain(trial.median_us / 1e3),
                    plain(trial.p99_us / 1e3),
                    answer.million,
                    yes(answer.pays),
                    yes(answer.quick)
                );
            }
            _ => page.push_str("<td colspan='7' class='left'>no rate was kept up</td></tr>"),
        }
    }
    page.push_str("</table></div>");
    if let Some(ceiling) = record.ceiling {
        let _ = write!(
            page,
            "<p class='soft'>The generator itself brings about {ceiling:.0} starts a second of the static hello on this \
             machine: what comes near that is a lower bound.</p>"
        );
    }
}

fn steps(page: &mut String, record: &Record) {
    let total: f64 = record.steps.iter().map(|step| step.us).sum();
    if total > 0.0 {
        let _ = write!(page, "<h2>Where microrun’s init spends {} µs</h2><div class='steps'>", plain(total));
        let mut from = 0.0;
        for step in &record.steps {
            let title = escaped(&format!("{} ({})", step.call, step.field));
            // Steps that nobody could see are left out of the drawing, not of the sum.
            if step.us >= total / 400.0 {
                let _ = write!(
                    page,
                    "<div class='step'><b>{}</b><span title='{}'>{title}</span><i style='--from:{:.2}%;--wide:{:.2}%'></i></div>",
                    plain(step.us),
                    title.replace('\'', "&#39;"),
                    from / total * 100.0,
                    step.us / total * 100.0
                );
            }
            from += step.us;
        }
        page.push_str("</div>");
    }
    if record.calls.is_empty() {
        return;
    }
    page.push_str(
        "<h2>System calls</h2><p class='soft'>Counted by strace. It slows every call down: the numbers are right, the times \
         are distorted.</p><div class='scroll'><table><tr><th></th><th>calls</th><th class='left'>the most expensive under \
         strace</th></tr>",
    );
    for calls in &record.calls {
        let top: Vec<String> =
            calls.top.iter().take(6).map(|(name, count, us)| format!("{name} {count}× {us:.0} µs")).collect();
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td class='left wide'>{}</td></tr>",
            escaped(&calls.row),
            calls.count,
            escaped(&top.join(", "))
        );
    }
    page.push_str("</table></div>");
}

fn growth(page: &mut String, record: &Record) {
    let mut kinds: Vec<&str> = Vec::new();
    record.growth.iter().for_each(|curve| {
        if !kinds.contains(&curve.with.as_str()) {
            kinds.push(&curve.with);
        }
    });
    let parallel = parallel(record);
    if kinds.is_empty() && parallel.is_empty() {
        return;
    }
    page.push_str("<h2>How the cost grows</h2><p class='soft'>Spawn to reaped, median, ms.</p><div class='charts'>");
    for kind in kinds {
        let curves: Vec<&Curve> = record.growth.iter().filter(|curve| curve.with == kind).collect();
        chart(page, record, &curves, kind);
    }
    if !parallel.is_empty() {
        chart(page, record, &parallel.iter().collect::<Vec<_>>(), "starts at the same time");
    }
    page.push_str("</div>");
}

/// The closed loops of those who are containers, as curves.
fn parallel(record: &Record) -> Vec<Curve> {
    let curve = |row: &Row| {
        let points = row.load.as_ref()?.closed.iter();
        let points: Vec<_> = points.map(|one| (one.workers, one.median_us, one.p99_us, one.failed)).collect();
        let fits = row.kind == Kind::Container && row.isolation.is_empty() && points.len() > 1;
        fits.then(|| Curve { with: "starts at the same time".to_owned(), row: row.name.clone(), points })
    };
    record.rows.iter().filter_map(curve).collect()
}

fn chart(page: &mut String, record: &Record, curves: &[&Curve], with: &str) {
    let mut counts: Vec<usize> = curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.0)).collect();
    counts.sort_unstable();
    counts.dedup();
    let labels: Vec<String> = counts.iter().map(usize::to_string).collect();
    let line = |curve: &&Curve| {
        let point = |point: &(usize, f64, f64, usize)| {
            let at = counts.iter().position(|count| *count == point.0).unwrap_or(0) as f64;
            let note = format!("{}: {} ms, p99 {} ms", point.0, plain(point.1 / 1e3), plain(point.2 / 1e3));
            (at, point.1 / 1e3, point.3 == 0, note)
        };
        let colour = record.row(&curve.row).map_or("peer", colour);
        Line { name: curve.row.clone(), points: curve.points.iter().map(point).collect(), colour }
    };
    let lines: Vec<Line> = curves.iter().map(line).filter(|line| !line.points.is_empty()).collect();
    if !lines.is_empty() {
        let _ = write!(page, "<figure>{}</figure>", svg::lines(&lines, &labels, false, &format!("ms, against {with}")));
    }
}

/// The wall behind a pool that is empty.
fn pool(page: &mut String, record: &Record) {
    let Some(pool) = &record.pool else { return };
    let count = pool.cold_us.len() + pool.failed[1];
    let _ = write!(
        page,
        "<h2>When the pool runs dry</h2><p class='soft'>{count} starts at once by the library, of which the pool has {} \
         ready; it builds more meanwhile. Who finds none starts cold. Failed: {} with the pool, {} without. The pool’s \
         process takes {} KiB.</p><div class='charts'><figure>",
        pool.size, pool.failed[0], pool.failed[1], pool.pss_kib
    );
    let line = |((name, times), colour): ((&'static str, &[f64]), &'static str)| {
        let point =
            |(at, us): (usize, &f64)| (at as f64 + 1.0, us / 1e3, true, format!("{}: {} ms", at + 1, plain(us / 1e3)));
        Line { name: name.to_owned(), points: times.iter().enumerate().map(point).collect(), colour }
    };
    let lines = pool.bursts().into_iter().zip(["ours", "unikernel", "container"]).map(line);
    let lines: Vec<Line> = lines.filter(|line| !line.points.is_empty()).collect();
    page.push_str(&svg::lines(&lines, &[], false, "ms from the burst to reaped, against how many have ended"));
    page.push_str(
        "</figure></div><div class='scroll'><table><tr><th></th><th>starts</th><th>median ms</th><th>p99 ms</th>\
         <th>last ms</th></tr>",
    );
    for (name, times) in pool.bursts() {
        if let Some(summary) = Summary::of(times) {
            let last = times.last().copied().unwrap_or_default();
            let [median, p99, last] = [summary.median, summary.p99, last].map(|us| plain(us / 1e3));
            let _ = write!(
                page,
                "<tr><td>{name}</td><td>{}</td><td>{median}</td><td>{p99}</td><td>{last}</td></tr>",
                times.len()
            );
        }
    }
    page.push_str("</table></div>");
}

fn memory(page: &mut String, record: &Record) {
    if record.memory.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Memory of a container that waits</h2><div class='scroll'><table><tr><th></th><th class='left'>PSS of</th>\
         <th>KiB</th><th>detached, all in all, KiB</th></tr>",
    );
    for memory in &record.memory {
        let pss = memory.runtime_pss_kib.map_or_else(|| "–".to_owned(), |kib| kib.to_string());
        let all = memory.kernel_kib.map_or_else(|| "–".to_owned(), plain);
        let _ = write!(
            page,
            "<tr><td>{}</td><td class='left'>{}</td><td>{pss}</td><td>{all}</td></tr>",
            escaped(&memory.row),
            memory.of()
        );
    }
    page.push_str("</table></div>");
}

fn provenance(page: &mut String, record: &Record) {
    page.push_str("<h2>The machine</h2><div class='scroll'><table>");
    for (what, value) in &record.machine {
        let _ = write!(page, "<tr><td>{}</td><td class='left wide'>{}</td></tr>", escaped(what), escaped(value));
    }
    page.push_str("</table></div><h2>Who was measured</h2><div class='scroll'><table>");
    for row in &record.rows {
        let _ = write!(
            page,
            "<tr><td>{}</td><td class='left wide'><code>{}</code><br>{}</td></tr>",
            escaped(&row.name),
            escaped(&row.command),
            escaped(&row.version)
        );
    }
    page.push_str("</table></div>");
    for (title, lines) in [("Skipped", &record.skipped), ("Left behind", &record.left)] {
        let lines = if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") };
        let _ = write!(page, "<h2>{title}</h2><p>{}</p>", escaped(&lines).replace('\n', "<br>"));
    }
    let config = serde_json::to_string_pretty(&record.config).unwrap_or_default();
    let _ = write!(
        page,
        "<details><summary>config.json, hash {}</summary><pre>{}</pre></details><p class='soft'>{} · seed {} · every number \
         of this page is in record.json beside it.</p></html>",
        record.config_hash,
        escaped(&config),
        escaped(&record.command.join(" ")),
        record.seed
    );
}

#[cfg(test)]
mod tests {
    use super::super::record::{Calls, Closed, Latency, Load, Memory, Pool, Step, Trial};
    use super::*;

    fn row(name: &str, kind: Kind, us: f64) -> Row {
        let reaped: Vec<Option<f64>> = (0..40).map(|n| Some(us + f64::from(n))).collect();
        let trial = |offered, kept_up| Trial { offered, completed: offered, p99_us: us, kept_up, ..Trial::default() };
        Row {
            name: name.into(),
            kind,
            isolation: String::new(),
            command: "a <b>".into(),
            version: String::new(),
            latency: vec![Latency { first_byte_us: reaped.clone(), reaped_us: reaped, ..Latency::default() }],
            load: Some(Load {
                closed: vec![Closed { workers: 1, ..Closed::default() }, Closed { workers: 2, ..Closed::default() }],
                open: vec![trial(1e6 / us, true), trial(2e6 / us, false)],
                knee: Some(1e6 / us),
                bounded: true,
            }),
        }
    }

    fn record() -> Record {
        Record {
            date: "2026-01-31T00:00:00Z".into(),
            rows: vec![
                row(PROCESS, Kind::Process, 200.0),
                row(ECHO, Kind::Process, 1000.0),
                row("unikernel: ukvm", Kind::Unikernel, 1300.0),
                row(MICRORUN, Kind::Container, 1100.0),
                row("runc", Kind::Container, 20_000.0),
            ],
            steps: vec![Step { us: 3.0, call: "setsid()".into(), field: "process".into() }],
            calls: vec![Calls { row: "runc".into(), count: 7, top: vec![("read".into(), 1, 2.0)] }],
            growth: vec![Curve {
                with: "x".into(),
                row: "runc".into(),
                points: vec![(0, 1.0, 2.0, 0), (9, 3.0, 4.0, 1)],
            }],
            memory: vec![Memory { row: "runc".into(), ..Memory::default() }],
            pool: Some(Pool {
                size: 2,
                hits_us: vec![300.0, 400.0],
                misses_us: vec![900.0],
                cold_us: vec![1000.0, 2000.0, 3000.0],
                ..Pool::default()
            }),
            ..Record::default()
        }
    }

    /// Whether every element that is opened is closed, in order.
    fn is_well_formed(html: &str) -> bool {
        let mut open: Vec<String> = Vec::new();
        for tag in html.split('<').skip(1) {
            let tag = tag.split('>').next().unwrap_or_default();
            let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap_or_default().to_owned();
            if tag.starts_with('!') || tag.ends_with('/') || ["meta", "br"].contains(&name.as_str()) {
                continue;
            }
            if tag.starts_with('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else {
                open.push(name);
            }
        }
        open.is_empty()
    }

    #[test]
    fn a_page_for_itself() {
        let page = html(&record(), Prices::default());
        assert!(is_well_formed(&page));
        for bad in ["NaN", "inf%", "src=", "href=", "@import", "a <b>"] {
            assert!(!page.contains(bad), "{bad}");
        }
        for good in [
            "unikernel on KVM",
            "1.34",
            "setsid()",
            "125.23",
            "How the cost grows",
            "When the pool runs dry",
            "prefers-color-scheme: dark",
        ] {
            assert!(page.contains(good), "{good}");
        }
    }

    #[test]
    fn a_busy_machine_is_named() {
        let mut record = record();
        record.cpus = 2;
        record.machine.push(("load".into(), "1.90 9.0 9.0".into()));
        assert!(!verdict(&record, Prices::default()).contains("busy"));
        record.machine[0].1 = "2.10 0.0 0.0".into();
        assert!(verdict(&record, Prices::default()).contains("busy when it began (load 2.1)"));
    }

    #[test]
    fn a_page_of_nothing() {
        let page = html(&Record::default(), Prices::default());
        assert!(is_well_formed(&page) && !page.contains("NaN"));
    }

    #[test]
    fn the_figure_is_an_image() {
        let figure = figure_file(&record());
        assert!(is_well_formed(&figure) && figure.starts_with("<svg xmlns="));
    }

    #[test]
    fn the_verdict_compares_like_with_like() {
        let mut record = record();
        record.rows.push(row("runc + overlay", Kind::Container, 40_000.0));
        let said = verdict(&record, Prices::default());
        assert!(said.contains("runc took") && !said.contains("overlay took"), "{said}");
    }

    #[test]
    fn the_verdict_says_which_side_of_the_papers_ratio() {
        let said = verdict(&record(), Prices::default());
        assert!(
            said.contains("below the 1.34") && said.contains("it pays") && said.contains("unikernel: ukvm"),
            "{said}"
        );
        let mut slow = record();
        slow.rows.retain(|row| row.kind != Kind::Unikernel);
        for sample in slow.rows.iter_mut().filter(|row| row.name == MICRORUN).flat_map(|row| &mut row.latency) {
            sample.reaped_us.iter_mut().flatten().for_each(|us| *us *= 3.0);
        }
        let said = verdict(&slow, Prices::default());
        assert!(said.contains("above the 1.34") && said.contains("No unikernel"), "{said}");
    }
}
