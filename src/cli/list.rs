//! `microrun list`

use super::global::Global;
use super::grammar::{Flag, Verb};
use super::parse::Words;
use super::{print, print_json, value, warn};
use crate::container::manage;
use crate::container::state::Report;
use crate::container::store::Store;
use crate::error::{Error, Kind, Result};
use std::fmt::Write;
use std::fs;

/// The verb.
pub static VERB: Verb = Verb {
    name: "list",
    about: "list the containers of a --root",
    operands: "",
    count: (0, 0),
    details: "",
    flags: &[
        Flag::value("format", "FORMAT", "table (default) or json").short('f'),
        Flag::switch("quiet", "print the ids alone").short('q'),
    ],
    passes_rest: false,
    failure: 1,
    call,
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    let json = value::is_json(words.text("format")?)?;
    if global.root_is_given && !global.root.is_dir() {
        let problem = format!("open {}: no such file or directory: give --root a directory", global.root.display());
        return Err(Error::new(Kind::System, problem));
    }
    let listing = manage::list(&Store::new(&global.root))?;
    warn(listing.errors);
    let reports: Vec<Report> = listing
        .containers
        .into_iter()
        .map(|listed| Report { owner: user_name(listed.owner), ..listed.report })
        .collect();
    if words.has("quiet") {
        let ids: String = reports.iter().map(|report| format!("{}\n", report.id)).collect();
        return print(&ids);
    }
    match (json, reports.is_empty()) {
        // As runc says it, and as engines read it.
        (true, true) => print("null\n"),
        (true, false) => print_json(&reports),
        (false, _) => print(&table(&reports)),
    }
}

fn table(reports: &[Report]) -> String {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(reports.iter().map(row)).collect();
    // A column is 12 wide, or three more than what is in it.
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let widest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        (widest + 3).max(12)
    });
    let mut text = String::new();
    for row in &rows {
        let (last, others) = (&row[5], &row[..5]);
        for (cell, width) in others.iter().zip(widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{cell:width$}");
        }
        let _ = writeln!(text, "{last}");
    }
    text
}

/// The name of a user, or "#" and the number.
fn user_name(uid: u32) -> String {
    let table = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

fn row(report: &Report) -> [String; 6] {
    [
        report.id.clone(),
        report.pid.to_string(),
        report.status.to_owned(),
        report.bundle.display().to_string(),
        report.created.clone(),
        report.owner.clone(),
    ]
}
