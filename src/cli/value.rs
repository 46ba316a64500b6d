//! Values that the command line writes as engines and Go programs do.

use crate::error::{Error, Kind, Result};
use nix::sys::signal::Signal;
use std::time::Duration;

/// Whether `--format` asks for JSON instead of a table.
///
/// # Errors
/// It asks for something else.
pub fn is_json(format: Option<&str>) -> Result<bool> {
    match format {
        None | Some("table") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(Error::new(Kind::Usage, format!("invalid format option {other:?}: give table or json"))),
    }
}

/// A signal by number ("9") or name ("KILL", "SIGKILL", "sigkill", "RTMIN+3").
///
/// # Errors
/// There is no such signal.
pub fn signal(text: &str) -> Result<i32> {
    let known = |number: &i32| (0..=LAST_REAL_TIME).contains(number);
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = text.parse().ok().or_else(|| named_signal(name));
    number.filter(known).ok_or_else(|| {
        Error::new(Kind::Usage, format!("unknown signal {text:?}: give a number or a name such as KILL or SIGKILL"))
    })
}

fn named_signal(name: &str) -> Option<i32> {
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return in_real_time(FIRST_REAL_TIME, offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return in_real_time(LAST_REAL_TIME, offset);
    }
    match name {
        "CLD" => Some(libc::SIGCHLD),
        "IOT" => Some(libc::SIGIOT),
        "POLL" => Some(libc::SIGPOLL),
        _ => format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32),
    }
}

fn in_real_time(base: i32, offset: &str) -> Option<i32> {
    let number = if offset.is_empty() { base } else { base.checked_add(offset.parse().ok()?)? };
    (FIRST_REAL_TIME..=LAST_REAL_TIME).contains(&number).then_some(number)
}

/// What programs mean by SIGRTMIN and SIGRTMAX (signal(7)): glibc's numbers, whatever C library this program is linked with. musl begins at 35.
const FIRST_REAL_TIME: i32 = 34;
const LAST_REAL_TIME: i32 = 64;

/// A duration as Go writes it: "300ms", "1.5h", "1m30s". Zero and less make no sense where one is asked for.
///
/// # Errors
/// It is malformed, zero, or too long.
pub fn duration(name: &str, text: &str) -> Result<Duration> {
    go_duration(text).filter(|duration| !duration.is_zero()).ok_or_else(|| {
        let problem = format!("invalid value {text:?} for flag --{name}: give a duration above 0, such as 5s or 1m30s");
        Error::new(Kind::Usage, problem)
    })
}

fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit = &rest[end..];
        let unit = &unit[..unit.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(unit.len())];
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[end + unit.len()..];
    }
    Some(total)
}

/// An amount of memory in bytes: "-1" (no limit), "1048576", "512k", "1.5GiB", "2 gb". Units are powers of 1024.
///
/// # Errors
/// It is malformed, negative, or more than 2^63 - 1 bytes.
pub fn bytes(name: &str, text: &str) -> Result<i64> {
    if text == "-1" {
        return Ok(-1);
    }
    binary_size(text).ok_or_else(|| {
        let problem =
            format!("invalid value for {name}: {text:?}: give bytes, an amount such as 512M, or -1 for no limit");
        Error::new(Kind::Usage, problem)
    })
}

fn binary_size(text: &str) -> Option<i64> {
    let end = text.rfind(|letter: char| letter.is_ascii_digit())? + 1;
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if unit != "i" && unit != "ib" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let factor = 1i64 << (10 * power);
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(factor).filter(|bytes| *bytes >= 0);
    }
    let fraction: f64 = number.parse().ok()?;
    let bytes = fraction * factor as f64;
    // 2^63 itself is the first float that does not fit.
    (0.0..9_223_372_036_854_775_808.0).contains(&bytes).then_some(bytes as i64)
}

/// "UID" or "UID:GID", both decimal numbers from 0 to 2^32 - 2 (the highest one means "no change" to the kernel).
///
/// # Errors
/// It is anything else. "1" read as user 0 has been an escape (CVE-2026-30892), so this parser takes nothing but digits.
pub fn user(text: &str) -> Result<(u32, Option<u32>)> {
    let number = |what: &str, digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse().ok().filter(|number| plain && *number != u32::MAX);
        number.ok_or_else(|| {
            Error::new(Kind::Usage, format!("bad {what}: {text:?}: give --user UID or UID:GID in numbers"))
        })
    };
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number("uid", uid)?, Some(number("gid", gid)?))),
        None => Ok((number("uid", text)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        let known = [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("0", 0), ("Usr1", 10), ("CLD", 17)];
        for (text, number) in known {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        for (text, number) in [("RTMIN", 34), ("RTMIN+3", 37), ("SIGRTMAX-1", 63), ("RTMAX", 64)] {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        for text in ["", "SIG", "SIGSIGKILL", "-9", "65", "9x", "RTMIN-1", "RTMAX+1", "NOSUCH", "99999999999"] {
            assert_eq!(signal(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn durations() {
        let known = [("5s", 5000), ("300ms", 300), ("1m30s", 90_000), ("1.5h", 5_400_000), ("+2s", 2000), (".5s", 500)];
        for (text, milliseconds) in known {
            assert_eq!(duration("interval", text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        for text in ["", "0", "0s", "5", "-1s", "s", "1.2.3s", "5 s", "1d", "99999999999999999999h"] {
            assert_eq!(duration("interval", text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn amounts_of_memory() {
        let known = [
            ("-1", -1),
            ("0", 0),
            ("1048576", 1 << 20),
            ("512k", 512 << 10),
            ("512KB", 512 << 10),
            ("1.5GiB", 3 << 29),
            ("2 gb", 2 << 30),
            ("7b", 7),
            ("1p", 1 << 50),
            ("9223372036854775807", i64::MAX),
        ];
        for (text, number) in known {
            assert_eq!(bytes("memory", text).unwrap(), number, "{text}");
        }
        for text in ["", "-2", "k", "1x", "1i", "1ib", "1bb1", "1  k", "9223372036854775808", "8192p", "nan"] {
            assert_eq!(bytes("memory", text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn users_are_numbers_and_nothing_else() {
        assert_eq!(user("1").unwrap(), (1, None));
        assert_eq!(user("1:2").unwrap(), (1, Some(2)));
        assert_eq!(user("4294967294:0").unwrap(), (4_294_967_294, Some(0)));
        for text in
            ["", ":", "1:", ":1", "root", "1:root", "+1", "-1", " 1", "1 ", "0x1", "1:2:3", "4294967295", "4294967296"]
        {
            assert_eq!(user(text).unwrap_err().kind(), Kind::Usage, "{text:?}");
        }
    }
}
