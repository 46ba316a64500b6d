//! Where a member stands in a JSON text, found without parsing it.
//!
//! An engine's seccomp profile is four fifths of its config.json, and laid out for reading it is mostly spaces. Who knows its
//! text already need not have it parsed, only found.

use std::ops::Range;

/// Where the value of the member `second` of the member `first` of the object `text` is, if that is an object and there is exactly
/// one. Of a text that is not JSON it may be any part.
pub(in crate::spec) fn find(text: &[u8], first: &[u8], second: &[u8]) -> Option<Range<usize>> {
    let mut scan = Scan { text, at: 0 };
    let (mut found, mut is_second) = (None, false);
    scan.space();
    scan.members(|scan, key| {
        if key != first {
            return scan.value();
        }
        // Of two, the last one counts.
        if std::mem::replace(&mut is_second, true) {
            return None;
        }
        scan.members(|scan, key| {
            let start = scan.at;
            scan.value()?;
            if key == second && found.replace(start..scan.at).is_some() {
                return None;
            }
            Some(())
        })
    })?;
    found.filter(|found| text.get(found.start) == Some(&b'{'))
}

/// A place in a text.
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    /// Goes through the members of the object that begins here: `value` goes to the end of one. An escape in a name may stand for
    /// any name, and two of a name are one too many.
    fn members(&mut self, mut value: impl FnMut(&mut Self, &[u8]) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        loop {
            self.space();
            let start = self.at + 1;
            self.string()?;
            let key: &'a [u8] = self.text.get(start..self.at - 1)?;
            if key.contains(&b'\\') {
                return None;
            }
            self.space();
            self.take(b':')?;
            self.space();
            value(self, key)?;
            self.space();
            let last = self.text.get(self.at)?;
            self.at += 1;
            match last {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// The next eight bytes, the first lowest.
    fn word(&self) -> Option<u64> {
        self.text.get(self.at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        let is_there = self.text.get(self.at) == Some(&byte);
        self.at += 1;
        is_there.then_some(())
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.text.get(self.at) {
            self.at += 1;
            while let Some(word) = self.word() {
                let spaces = (word ^ (EACH * u64::from(b' '))).trailing_zeros() as usize / 8;
                self.at += spaces;
                if spaces < 8 {
                    break;
                }
            }
        }
    }

    /// Goes to the end of the string that begins here.
    fn string(&mut self) -> Option<()> {
        self.take(b'"')?;
        loop {
            while let Some(word) = self.word() {
                let marks = places(word, b'"') | places(word, b'\\');
                self.at += marks.trailing_zeros() as usize / 8;
                if marks != 0 {
                    break;
                }
            }
            self.at += 1;
            match self.text.get(self.at - 1)? {
                b'"' => return Some(()),
                b'\\' => self.at += 1,
                _ => {}
            }
        }
    }

    /// Goes to the end of the value that begins here.
    fn value(&mut self) -> Option<()> {
        match self.text.get(self.at)? {
            b'"' => self.string(),
            b'{' | b'[' => self.nested(),
            _ => {
                let more = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
                self.at += self.text.get(self.at..)?.iter().take_while(more).count();
                Some(())
            }
        }
    }

    /// Goes to the end of the object or array that begins here.
    fn nested(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            while let Some(word) = self.word() {
                // That makes braces of brackets, and leaves the quotes.
                let folded = word | (EACH << 5);
                let marks = places(folded, b'"') | places(folded, b'{') | places(folded, b'}');
                self.at += marks.trailing_zeros() as usize / 8;
                if marks != 0 {
                    break;
                }
            }
            match self.text.get(self.at)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

/// 1 in each byte.
const EACH: u64 = 0x0101_0101_0101_0101;

/// A word whose lowest bit that is set is in the first byte of `word` that is `byte`; 0 without one.
#[inline(always)]
fn places(word: u64, byte: u8) -> u64 {
    let zeroes = word ^ (EACH * u64::from(byte));
    zeroes.wrapping_sub(EACH) & !zeroes & (EACH << 7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    fn text_at(text: &str) -> Option<&str> {
        find(text.as_bytes(), b"linux", b"seccomp").map(|range| &text[range])
    }

    #[test]
    fn the_only_one_is_found() {
        assert_eq!(
            text_at(r#"{"a": [{"seccomp": {}}], "linux": {"x": -1.5e+3, "seccomp" : {"y": "}\"" } }}"#),
            Some(r#"{"y": "}\"" }"#)
        );
        for not in [
            r#"{"linux": {}}"#,
            r#"{"seccomp": {}}"#,
            r#"{"linux": {"seccomp": null}}"#,
            r#"{"linux": {"seccomp": {}, "seccomp": {}}}"#,
            r#"{"linux": {"seccomp": {}}, "linux": {}}"#,
            r#"{"linux": {"seccomp": {}, "\u0073eccomp": {}}}"#,
            r#"{"linux": {"seccomp": {"#,
            r#"{"linux": {"seccomp": {}"#,
            "",
        ] {
            assert_eq!(text_at(not), None, "{not}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop_oneof![Just(-0.5), Just(1e16)].prop_map(Value::from),
            "[ -~\\n\u{e9}]{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec(("[a-z\"{}]{0,9}", inner), 0..5)
                    .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_document_has_it_where_the_parser_finds_it(before in value(), around in value(), inner in value(), pretty: bool) {
            let document = json!({"a": before, "linux": {"b": around, "seccomp": {"c": inner}, "z": around}, "z": before});
            let text = if pretty { serde_json::to_string_pretty(&document)? } else { document.to_string() };
            // A name that needs an escape is nothing to be sure about.
            if let Some(found) = text_at(&text) {
                prop_assert_eq!(&serde_json::from_str::<Value>(found)?, &document["linux"]["seccomp"]);
            }
        }

        #[test]
        fn any_text_is_survived(text in "([{}\\[\\],:\"\\\\ ]|linux|seccomp|\"linux\":|\"seccomp\":|1){0,30}") {
            let _ = text_at(&text);
        }
    }
}
