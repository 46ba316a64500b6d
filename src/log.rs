//! What is said to the user and to engines: warnings, errors and, with `--debug`, what is being done.
//!
//! The lines have the form that engines parse: logrus text or JSON, one line each. They go to standard error, or to the file
//! of `--log`; errors go to standard error as well then, as runc's do. Init does not log: it has no stdio.

use crate::clock;
use crate::error::{Doing, Result};
use std::fmt::{Display, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `time="…" level=error msg="…"`
    #[default]
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`
    Json,
}

struct Log {
    format: Format,
    debug: bool,
    file: Option<File>,
}

static LOG: OnceLock<Log> = OnceLock::new();
static DEFAULT: Log = Log { format: Format::Text, debug: false, file: None };

/// Says where and how to log, once, before anything is logged. `debug` turns [`debug`] on.
///
/// # Errors
/// `file` cannot be opened for appending.
pub fn set_up(file: Option<&Path>, format: Format, debug: bool) -> Result<()> {
    let file = match file {
        Some(path) => {
            // Others may read it, whatever the umask, and not write.
            let opened = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
            Some(opened.doing(|| format!("open {}", path.display()))?)
        }
        None => None,
    };
    set_up_in(file, format, debug);
    Ok(())
}

/// As [`set_up`], with a file that is open.
pub fn set_up_in(file: Option<File>, format: Format, debug: bool) {
    // A second set-up would be a mistake in this program; the first one stays.
    let _ = LOG.set(Log { format, debug, file });
}

/// An error that standard error has been told already: for the file of `--log` alone.
pub fn record(message: impl Display) {
    let log = current();
    if log.file.is_some() {
        log.line("error", &message.to_string());
    }
}

/// An error, the one that ends the program.
pub fn error(message: impl Display) {
    let log = current();
    log.line("error", &message.to_string());
    if log.file.is_some() {
        to_stderr(&format!("{message}\n"));
    }
}

/// Something that the user should know and that stops nothing.
pub fn warn(message: impl Display) {
    current().line("warning", &message.to_string());
}

/// A warning as a line of text, to be shown by another process.
pub fn warning_line(message: impl Display) -> String {
    format_line(Format::Text, "warning", &message.to_string(), &clock::now())
}

/// Shows lines that [`warning_line`] has made.
pub fn show(lines: &str) {
    to_stderr(lines);
}

/// What is being done, for `--debug`; `message` is computed only then.
pub fn debug<D: Display>(message: impl FnOnce() -> D) {
    let log = current();
    if log.debug {
        log.line("debug", &message().to_string());
    }
}

/// Whether [`debug`] writes anything.
pub fn is_debug() -> bool {
    current().debug
}

fn current() -> &'static Log {
    LOG.get().unwrap_or(&DEFAULT)
}

impl Log {
    fn line(&self, level: &str, message: &str) {
        let line = format_line(self.format, level, message, &clock::now());
        match &self.file {
            // One write(2) for each line: several processes append to one file.
            Some(file) if write_to(file, line.as_bytes()).is_ok() => {}
            _ => to_stderr(&line),
        }
    }
}

fn write_to(mut file: &File, text: &[u8]) -> io::Result<()> {
    file.write_all(text)
}

fn to_stderr(text: &str) {
    // Nobody is left to be told that standard error is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn format_line(format: Format, level: &str, message: &str, time: &str) -> String {
    match format {
        Format::Text => format!("time=\"{time}\" level={level} msg={}\n", quoted(message)),
        Format::Json => {
            let message = serde_json::Value::from(message);
            format!("{{\"level\":\"{level}\",\"msg\":{message},\"time\":\"{time}\"}}\n")
        }
    }
}

/// `text` in double quotes, as Go's %q writes it.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            control if control.is_ascii_control() => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\x{:02x}", u32::from(control));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_logrus_lines() {
        let line = |format| format_line(format, "error", "exec: \"sh\": not\nfound\u{7}", "2026-01-01T00:00:00Z");
        assert_eq!(
            line(Format::Text),
            "time=\"2026-01-01T00:00:00Z\" level=error msg=\"exec: \\\"sh\\\": not\\nfound\\x07\"\n"
        );
        assert_eq!(
            line(Format::Json),
            "{\"level\":\"error\",\"msg\":\"exec: \\\"sh\\\": not\\nfound\\u0007\",\"time\":\"2026-01-01T00:00:00Z\"}\n"
        );
    }
}
