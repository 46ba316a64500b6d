//! Lists of CPUs and memory nodes: "0-3,7" (cpuset(7), "List format").

use crate::error::{Error, Result};

/// More CPUs than any kernel is built for; a list beyond that is a slip.
const HIGHEST: usize = 8191;

/// The list as a bit mask, 64 numbers a word.
///
/// # Errors
/// When `text` is no such list, which names `field`.
pub fn parse(field: &str, text: &str) -> Result<Vec<u64>> {
    let wrong = || Error::config(field, format!("{text:?} is no list of numbers: write it as \"0-3,7\""));
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number <= HIGHEST).ok_or_else(wrong);
    let mut mask = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(wrong());
        }
        for bit in first..=last {
            if mask.len() <= bit / 64 {
                mask.resize(bit / 64 + 1, 0u64);
            }
            if let Some(word) = mask.get_mut(bit / 64) {
                *word |= 1 << (bit % 64);
            }
        }
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_numbers() {
        assert_eq!(parse("f", "0-3,7").unwrap(), [0x8f]);
        assert_eq!(parse("f", "64").unwrap(), [0, 1]);
        assert_eq!(parse("f", "0,0-0").unwrap(), [1]);
    }

    #[test]
    fn junk_is_refused_with_the_field() {
        for text in ["", "a", "3-1", "1,,2", "-", "1-", "99999", "18446744073709551616"] {
            let error = parse("process.execCPUAffinity.final", text).unwrap_err().to_string();
            assert!(error.contains("process.execCPUAffinity.final"), "{error}");
        }
    }
}
