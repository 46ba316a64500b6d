//! `microrun pool`

use super::global::Global;
use super::grammar::{Flag, Verb};
use super::parse::Words;
use super::pool_config::Config;
use super::{launching, print, value};
use crate::container::prepare::Options;
use crate::container::sealed;
use crate::container::store::Store;
use crate::error::{Error, Kind, Result};
use crate::plan::Wait;
use crate::pool::{self, Settings};
use serde_json::Value;
use std::fmt::Write;
use std::path::PathBuf;

/// The verb.
pub static VERB: Verb = Verb {
    name: "pool",
    about: "keep sandboxes ready, so that run finds them made",
    operands: "serve [<bundle>/...] | status | fill <bundle>/... | drain <bundle>/...",
    count: (1, usize::MAX),
    details: "\
serve runs a pool, which keeps --size sandboxes of each bundle ready: all that config.json asks for is done, up to
the execution of the program. `run <bundle>/` uses one if there is one that fits, and starts cold otherwise.

status says what there is, fill has the pool keep sandboxes of more bundles, drain has it give them up.

What --size, --parts, --max, --memory, --cpu, --rate and --idle say of serve can be written into a file as well, as in
{\"size\": 8, \"memory\": \"64M\", \"bundles\": [\"/srv/one\", {\"path\": \"/srv/other\", \"size\": 2}]}. The command line counts
for more.",
    flags: &[
        Flag::value("socket", "PATH", "where the pool listens (default: $MICRORUN_POOL, or /run/microrun-pool/socket)"),
        Flag::value("config", "FILE", "read what serve is to do from FILE (default: /etc/microrun/pool.json, if it is there)"),
        Flag::value("size", "N", "how many sandboxes of each bundle (default: 4)"),
        Flag::value(
            "parts",
            "N",
            "how many network namespaces, and cgroups of each bundle, for who finds no sandbox (default: 0)",
        ),
        Flag::switch("reuse-netns", "use network namespaces again that a container could not change and did not use"),
        Flag::switch(
            "reuse-namespaces",
            "the same, and mount and IPC namespaces that a container could neither change nor use",
        ),
        Flag::value("max", "N", "the most sandboxes of all bundles together (default: 1024)"),
        Flag::value("memory", "BYTES", "the most memory that those and parts may take, such as 64M (default: no limit)"),
        Flag::value("cpu", "PERCENT", "the share of a CPU that making sandboxes and parts may take (default: 100, no limit)"),
        Flag::value("rate", "N", "the most sandboxes and parts that are made in a second (default: no limit)"),
        Flag::value("idle", "SECONDS", "give up a bundle that nobody has asked for so long (default: never)"),
        Flag::value("format", "FORMAT", "what status prints: table (default) or json").short('f'),
    ],
    passes_rest: false,
    failure: 1,
    call,
};

fn call(global: &Global, words: &Words) -> Result<u8> {
    let socket = words.path("socket").or_else(pool::socket).unwrap_or_else(|| PathBuf::from(pool::SOCKET));
    let bundles: Vec<PathBuf> = words.operands().iter().skip(1).map(PathBuf::from).collect();
    match words.operand(0)? {
        Some(verb @ ("fill" | "drain")) if bundles.is_empty() => Err(Error::new(
            Kind::Usage,
            format!("pool {verb}: names no bundle: give the paths of those that are meant"),
        )),
        Some("status") if !bundles.is_empty() => {
            Err(Error::new(Kind::Usage, "pool status: takes no bundle: it tells of all that the pool has"))
        }
        Some("serve") => serve(global, words, socket, bundles),
        Some("status") => {
            let is_json = value::is_json(words.text("format")?)?;
            let status = pool::ask(&socket, pool::Wish::Status)?;
            if is_json { print(&format!("{status}\n")) } else { print(&table(&status)?) }
        }
        Some("fill") => {
            let size = Config::default().size(words)?;
            bundles.iter().try_for_each(|bundle| pool::ask(&socket, pool::Wish::Fill(bundle, size)).map(drop))?;
            Ok(0)
        }
        Some("drain") => {
            bundles.iter().try_for_each(|bundle| pool::ask(&socket, pool::Wish::Drain(bundle)).map(drop))?;
            Ok(0)
        }
        _ => Err(Error::new(Kind::Usage, "give one of serve, status, fill and drain: see pool --help")),
    }
}

fn serve(global: &Global, words: &Words, socket: PathBuf, bundles: Vec<PathBuf>) -> Result<u8> {
    let config = Config::read(words)?;
    let directory = socket.parent().map(|parent| parent.join("parked")).unwrap_or_default();
    let furnished = words.has("reuse-namespaces");
    let reuse_networks = furnished || words.has("reuse-netns");
    let settings = Settings {
        options: Options {
            store: Store::new(directory),
            wait: Wait::Lease { filtered: false, networked: reuse_networks, furnished, shared: false },
            ..launching::bare(global, "", PathBuf::new())
        },
        bundles: config.bundles(words, bundles)?,
        pace: config.pace(words)?,
        idle: config.idle(words)?,
        bounds: config.bounds(words)?,
        parts: config.parts(words)?,
        reuse_networks,
        socket,
    };
    sealed::ensure(None)?;
    pool::serve(settings)?;
    Ok(0)
}

/// What a pool says of itself, for people.
fn table(status: &str) -> Result<String> {
    let wrong = || Error::new(Kind::System, "the pool's answer is not understood: it is of another version");
    let status: Value = serde_json::from_str(status).map_err(|_| wrong())?;
    let bundles = status["bundles"].as_array().ok_or_else(wrong)?;
    let head = ["READY", "WANTED", "MAKING", "SERVED", "MISSED", "EACH", "BUNDLE"].map(str::to_owned);
    let row = |bundle: &Value| {
        let number = |name: &str| bundle[name].to_string();
        let each = bundle["memoryOfEach"].as_u64().map_or_else(|| "-".to_owned(), kib);
        let path = bundle["bundle"].as_str().unwrap_or_default().to_owned();
        [number("ready"), number("wanted"), number("beingMade"), number("served"), number("missed"), each, path]
    };
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(bundles.iter().map(row)).collect();
    let mut text = String::new();
    for row in &rows {
        let (path, numbers) = (&row[6], &row[..6]);
        for (column, cell) in numbers.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
            // Writing to a String cannot fail.
            let _ = write!(text, "{cell:>width$}   ");
        }
        let _ = writeln!(text, "{path}");
    }
    let failures = bundles.iter().filter_map(|bundle| Some((bundle["bundle"].as_str()?, bundle["failure"].as_str()?)));
    failures.for_each(|(path, why)| text += &format!("\n{path}: {why}\n"));
    let most =
        status["limits"]["memory"].as_u64().map_or_else(String::new, |most| format!(" of at most {}", kib(most)));
    let memory = kib(status["memory"].as_u64().unwrap_or(0));
    if let Some(parts) = status["parts"].as_object() {
        let number = |name: &str| parts.get(name).map_or_else(String::new, Value::to_string);
        let (networks, cgroups, making) = (number("networks"), number("cgroups"), number("beingMade"));
        let (lent, pending) = (number("lent"), number("pending"));
        let memory = kib(parts.get("memory").and_then(Value::as_u64).unwrap_or(0));
        let _ = writeln!(
            text,
            "\nparts: {networks} network namespaces, {cgroups} cgroups, {memory}, {making} being made; {lent} lent, {pending} to be removed"
        );
        if let Some(why) = parts.get("failure").and_then(Value::as_str) {
            let _ = writeln!(text, "parts: {why}");
        }
    }
    let (running, pending) = (&status["running"], &status["pending"]);
    let _ = writeln!(text, "\nmemory: {memory}{most}; containers running: {running}, to be removed: {pending}");
    let limits = &status["limits"];
    let cpu = limits["cpu"].as_u64().filter(|cpu| *cpu < 100).map(|cpu| format!("{cpu} % of a CPU"));
    let rate = limits["rate"].as_u64().map(|rate| format!("{rate} a second"));
    let bounds: Vec<String> = cpu.into_iter().chain(rate).collect();
    let bounds = if bounds.is_empty() { String::new() } else { format!("; at most {}", bounds.join(" and ")) };
    let (made, seconds) = (&status["made"], status["cpuSeconds"].as_f64().unwrap_or(0.0));
    let _ = writeln!(text, "made: {made} in {seconds:.1} s of CPU time{bounds}");
    Ok(text)
}

/// Bytes as people read them.
fn kib(bytes: u64) -> String {
    match bytes >> 10 {
        kib @ 0..10_240 => format!("{kib} KiB"),
        kib => format!("{} MiB", kib >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_table() {
        let status = r#"{"bundles": [
            {"bundle": "/srv/a", "wanted": 8, "ready": 7, "beingMade": 1, "served": 1234, "missed": 5, "memoryOfEach": 102400, "failure": null},
            {"bundle": "/srv/b b", "wanted": 64, "ready": 0, "beingMade": 0, "served": 0, "missed": 0, "memoryOfEach": null,
             "failure": "look at /srv/b b/rootfs: No such file"}],
            "running": 3, "pending": 1, "memory": 819200, "made": 1245, "cpuSeconds": 1.27,
            "parts": {"networks": 2, "cgroups": 4, "memory": 512000, "beingMade": 1, "lent": 3, "pending": 0, "failure": null},
            "limits": {"memory": 67108864, "cpu": 50, "rate": 20}}"#;
        let expected = "\
READY   WANTED   MAKING   SERVED   MISSED      EACH   BUNDLE
    7        8        1     1234        5   100 KiB   /srv/a
    0       64        0        0        0         -   /srv/b b

/srv/b b: look at /srv/b b/rootfs: No such file

parts: 2 network namespaces, 4 cgroups, 500 KiB, 1 being made; 3 lent, 0 to be removed

memory: 800 KiB of at most 64 MiB; containers running: 3, to be removed: 1
made: 1245 in 1.3 s of CPU time; at most 50 % of a CPU and 20 a second
";
        assert_eq!(table(status).unwrap(), expected);
        let nothing = r#"{"bundles": [], "running": 0, "pending": 0, "memory": 0, "made": 0, "cpuSeconds": 0.0, "limits": {"cpu": 100, "rate": null}}"#;
        assert!(
            table(nothing)
                .unwrap()
                .ends_with("\nmemory: 0 KiB; containers running: 0, to be removed: 0\nmade: 0 in 0.0 s of CPU time\n")
        );
        assert!(table("{}").is_err() && table("x").is_err());
    }
}
