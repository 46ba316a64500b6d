//! What was shown and what was not, in words.

use super::super::provider::{Prices, answer_for};
use super::super::record::{Kind, Record, Row};
use super::super::stage::{ECHO, MICRORUN, OVERLAY};
use super::super::table::{ratio_to, shown};

/// A row of Figure 3 of Koller and Williams, HotOS 2017 (4 cores, Linux 3.10), as ratios to its bare process, which took 5.8 ms
/// and of which 329 a second were started.
#[derive(Debug, Clone, Copy)]
pub struct Paper {
    /// What it was.
    pub name: &'static str,
    /// Which rows here are the same thing.
    pub here: &'static [&'static str],
    /// Latency.
    pub latency: &'static str,
    /// Throughput, where the paper has it.
    pub throughput: Option<&'static str>,
}

/// The paper's figure.
pub const PAPER: [Paper; 5] = [
    Paper { name: "bare process (echo)", here: &[ECHO], latency: "1", throughput: Some("1") },
    Paper {
        name: "unikernel on KVM (ukvm)",
        here: &["unikernel: ukvm", "solo5-hvt"],
        latency: "1.34",
        throughput: Some("0.59"),
    },
    Paper { name: "runc, rootfs made before", here: &["runc", MICRORUN], latency: "4", throughput: Some("0.07") },
    Paper {
        name: "runc, overlayfs for each start",
        here: &["runc + overlay", "microrun + overlay"],
        latency: "8.1",
        throughput: None,
    },
    Paper {
        name: "Docker, Alpine",
        here: &["docker: runc", "docker: microrun"],
        latency: "100s of ms",
        throughput: None,
    },
];

/// With fewer rounds than this a single disturbance moves a median.
const FEW: usize = 50;

/// The ratio of the highest rates that were kept up.
pub fn throughput_ratio(record: &Record, row: &Row, base: &str) -> Option<f64> {
    let knee = |row: &Row| row.load.as_ref()?.knee;
    Some(knee(row)? / knee(record.row(base)?)?)
}

/// One paragraph.
pub fn verdict(record: &Record, prices: Prices) -> String {
    let rounds =
        record.rows.iter().flat_map(|row| &row.latency).map(|latency| latency.reaped_us.len()).max().unwrap_or(0);
    let few = if rounds < FEW { ", too few to trust the last digits" } else { "" };
    let mut said = vec![format!("Measured on {} CPUs in {rounds} rounds{few}.", record.cpus)];
    if let Some(load) = record.busy() {
        said.push(format!("The machine was busy when it began (load {load}): medians and rates say little then."));
    }
    match record.row(MICRORUN) {
        Some(row) => said.extend(of_microrun(record, row, prices)),
        None => said.push("microrun did not take part.".to_owned()),
    }
    let unikernel = record.rows.iter().find(|row| row.kind == Kind::Unikernel && ratio_of(record, row).is_some());
    said.push(match unikernel.and_then(|row| Some((row, ratio_of(record, row)?))) {
        Some((row, ratio)) => {
            format!("The unikernel of this run ({}) took {} times the bare process.", row.name, shown(ratio))
        }
        None => {
            "No unikernel took part here: against one, only the paper's ratios speak, from another machine.".to_owned()
        }
    });
    let engines = of_engines(record);
    let above = if engines.is_some() { "and what engines keep up" } else { "and what an engine adds above a runtime" };
    said.extend(engines);
    said.push(format!(
        "Not shown: other machines and kernels, actions that do more than say Hello, images, networks that lead \
         somewhere, {above}."
    ));
    if record.interrupted {
        said.push("The measurement was interrupted.".to_owned());
    }
    said.join(" ")
}

fn ratio_of(record: &Record, row: &Row) -> Option<super::super::stats::Ratio> {
    ratio_to(record, row, ECHO, *record.gaps().first()?, 1)
}

/// What the same action takes by way of engines.
fn of_engines(record: &Record) -> Option<String> {
    let gap = *record.gaps().first()?;
    let of = |row: &Row| {
        let [_, Some(summary)] = row.with_gap(gap)?.summaries() else { return None };
        Some(format!("{} {:.0} ms", row.name, summary.median / 1e3))
    };
    let engines = record.rows.iter().filter(|row| row.kind == Kind::Engine);
    let took: Vec<String> = engines.filter_map(of).collect();
    (!took.is_empty()).then(|| format!("By way of an engine the same action took: {}.", took.join(", ")))
}

fn of_microrun(record: &Record, row: &Row, prices: Prices) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(ratio) = ratio_of(record, row) {
        let side = if ratio.high < 1.34 {
            "below the 1.34 of the paper's unikernel"
        } else if ratio.low > 1.34 {
            "above the 1.34 of the paper's unikernel"
        } else {
            "as far as the samples say no different from the 1.34 of the paper's unikernel"
        };
        said.push(format!(
            "A container of microrun, from spawn to reaped, took {} times the bare process (/bin/echo): {side}; the paper's \
             runc took 4.0 times.",
            shown(ratio)
        ));
    }
    // Who makes an overlayfs for each start does more than microrun does here.
    let others = record.rows.iter().filter(|other| {
        let is_like = !other.name.starts_with(MICRORUN) && !other.name.ends_with(OVERLAY);
        other.kind == Kind::Container && other.isolation.is_empty() && is_like
    });
    let gap = record.gaps().first().copied().unwrap_or(0.0);
    let compared: Vec<String> = others
        .filter_map(|other| {
            let ratio = ratio_to(record, other, MICRORUN, gap, 1)?;
            Some(format!("{} took {} times as long as microrun", other.name, shown(ratio)))
        })
        .collect();
    if !compared.is_empty() {
        said.push(format!("In the same rounds, with the same config.json: {}.", compared.join("; ")));
    }
    if let Some(answer) = answer_for(row, prices) {
        let share = throughput_ratio(record, row, ECHO).map_or_else(String::new, |share| {
            format!(", {share:.2} of the bare process (the paper's unikernel: 0.59)")
        });
        said.push(format!(
            "It kept up {:.0} starts a second{share}; {:.2} a second {} for the machine, and 99 in 100 starts {} 100 ms at \
             every rate that it kept up.",
            answer.rate,
            prices.break_even(),
            if answer.pays { "pay, so it pays" } else { "would pay, so it does not pay" },
            if answer.quick { "took less than" } else { "did not take less than" }
        ));
    }
    said
}
