//! Lists of CPUs and memory nodes: "0-3,7" (cpuset(7), "List format").

use crate::error::{Error, Result};

/// More CPUs than any kernel is built for; a number beyond that is a slip.
const HIGHEST: usize = 8191;

/// Words of a mask that has every CPU.
pub const WORDS: usize = (HIGHEST + 1) / 64;

/// The list as a bit mask, 64 numbers a word. Spaces around a number are allowed, as are commas without one.
///
/// # Errors
/// When `text` is no such list, which names `field`.
pub fn parse(field: &str, text: &str) -> Result<Vec<u64>> {
    let wrong = || Error::config(field, format!("{text:?} is no list of numbers: write it as \"0-3,7\""));
    let number = |text: &str| {
        let text = text.trim();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<usize>().ok().filter(|number| digits && *number <= HIGHEST).ok_or_else(wrong)
    };
    let mut mask = Vec::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(wrong());
        }
        if mask.len() <= last / 64 {
            mask.resize(last / 64 + 1, 0);
        }
        for bit in first..=last {
            if let Some(word) = mask.get_mut(bit / 64) {
                *word |= 1 << (bit % 64);
            }
        }
    }
    if mask.is_empty() { Err(wrong()) } else { Ok(mask) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_numbers() {
        for (text, mask) in [
            ("0-3,7", vec![0x8f]),
            ("64", vec![0, 1]),
            ("0,0-0", vec![1]),
            (" 1 , 2 - 3 ,", vec![0xe]),
            ("63-64", vec![1 << 63, 1]),
        ] {
            assert_eq!(parse("f", text).unwrap(), mask, "{text:?}");
        }
        assert_eq!(parse("f", "8191").unwrap().len(), 128);
    }

    #[test]
    fn junk_is_refused_with_the_field() {
        for text in ["", ",", "a", "3-1", "-", "1-", "-1", "+1", "1-2-3", "8192", "18446744073709551616", "0x1"] {
            let error = parse("process.execCPUAffinity.final", text).unwrap_err().to_string();
            let sentence = format!(
                "config.json: process.execCPUAffinity.final: {text:?} is no list of numbers: write it as \"0-3,7\""
            );
            assert_eq!(error, sentence);
        }
    }
}
