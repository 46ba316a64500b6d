//! Values of D-Bus (D-Bus specification, "Type System"): their wire form, and the text form in which annotations give
//! them.

use serde::{Serialize, Serializer};
use std::fmt;

/// A value that a unit property can have.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // named after the types of the specification
pub enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Str(String),
    Path(String),
    /// The elements' signature, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

// Two floats are compared in tests alone, and there by their bits.
impl Eq for Value {}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, open, values: &[Self], close| {
            write!(f, "{open}")?;
            for (index, value) in values.iter().enumerate() {
                write!(f, "{}{value}", if index == 0 { "" } else { ", " })?;
            }
            write!(f, "{close}")
        };
        match self {
            Self::Byte(v) => write!(f, "{v}"),
            Self::Bool(v) => write!(f, "{v}"),
            Self::I16(v) => write!(f, "{v}"),
            Self::U16(v) => write!(f, "{v}"),
            Self::I32(v) => write!(f, "{v}"),
            Self::U32(v) => write!(f, "{v}"),
            Self::I64(v) => write!(f, "{v}"),
            Self::U64(v) => write!(f, "{v}"),
            Self::F64(v) => write!(f, "{v}"),
            Self::Str(v) | Self::Path(v) => write!(f, "{v:?}"),
            Self::Array(_, values) => list(f, '[', values, ']'),
            Self::Struct(values) => list(f, '(', values, ')'),
            Self::Variant(value) => write!(f, "<{value}>"),
        }
    }
}

impl Value {
    /// A string.
    pub fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    /// An array of bytes.
    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Array("y".to_owned(), bytes.iter().map(|byte| Self::Byte(*byte)).collect())
    }

    /// The text of a string or path; nothing for other types.
    pub fn into_text(self) -> String {
        match self {
            Self::Str(text) | Self::Path(text) => text,
            _ => String::new(),
        }
    }

    /// The type, as the specification spells it.
    pub fn signature(&self) -> String {
        match self {
            Self::Byte(_) => "y".to_owned(),
            Self::Bool(_) => "b".to_owned(),
            Self::I16(_) => "n".to_owned(),
            Self::U16(_) => "q".to_owned(),
            Self::I32(_) => "i".to_owned(),
            Self::U32(_) => "u".to_owned(),
            Self::I64(_) => "x".to_owned(),
            Self::U64(_) => "t".to_owned(),
            Self::F64(_) => "d".to_owned(),
            Self::Str(_) => "s".to_owned(),
            Self::Path(_) => "o".to_owned(),
            Self::Array(element, _) => format!("a{element}"),
            Self::Struct(fields) => format!("({})", fields.iter().map(Self::signature).collect::<String>()),
            Self::Variant(_) => "v".to_owned(),
        }
    }

    /// Appends the value in wire form (little endian).
    pub fn encode(&self, out: &mut Vec<u8>) {
        fn put<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
            align(out, N);
            out.extend_from_slice(&bytes);
        }
        match self {
            Self::Byte(v) => out.push(*v),
            Self::Bool(v) => put(out, u32::from(*v).to_le_bytes()),
            Self::I16(v) => put(out, v.to_le_bytes()),
            Self::U16(v) => put(out, v.to_le_bytes()),
            Self::I32(v) => put(out, v.to_le_bytes()),
            Self::U32(v) => put(out, v.to_le_bytes()),
            Self::I64(v) => put(out, v.to_le_bytes()),
            Self::U64(v) => put(out, v.to_le_bytes()),
            Self::F64(v) => put(out, v.to_le_bytes()),
            Self::Str(v) | Self::Path(v) => {
                put(out, (v.len() as u32).to_le_bytes());
                out.extend_from_slice(v.as_bytes());
                out.push(0);
            }
            Self::Array(element, values) => encode_array(out, element, values),
            Self::Struct(fields) => {
                align(out, 8);
                fields.iter().for_each(|field| field.encode(out));
            }
            Self::Variant(value) => {
                encode_signature(out, &value.signature());
                value.encode(out);
            }
        }
    }

    /// Seconds as microseconds, for properties that systemd documents in the one and takes in the other.
    pub fn seconds_to_microseconds(&self) -> Option<Self> {
        const MICROSECONDS: u64 = 1_000_000;
        let seconds = match *self {
            Self::Byte(v) => u64::from(v),
            Self::U16(v) => u64::from(v),
            Self::U32(v) => u64::from(v),
            Self::U64(v) => v,
            Self::I16(v) => u64::try_from(v).ok()?,
            Self::I32(v) => u64::try_from(v).ok()?,
            Self::I64(v) => u64::try_from(v).ok()?,
            Self::F64(v) if v >= 0.0 => return Some(Self::U64((v * MICROSECONDS as f64) as u64)),
            _ => return None,
        };
        seconds.checked_mul(MICROSECONDS).map(Self::U64)
    }
}

/// Pads `out` with zeros to a multiple of `alignment`.
pub fn align(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment), 0);
}

/// Appends a signature in wire form.
pub fn encode_signature(out: &mut Vec<u8>, signature: &str) {
    out.push(signature.len() as u8);
    out.extend_from_slice(signature.as_bytes());
    out.push(0);
}

fn encode_array(out: &mut Vec<u8>, element: &str, values: &[Value]) {
    align(out, 4);
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    // The padding before the first element does not count, and is there even if there is none.
    align(out, alignment(element));
    let start = out.len();
    values.iter().for_each(|value| value.encode(out));
    let length = (out.len() - start) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

/// Reads a value in the text form of GVariant, as annotations give it: `true`, `'text'`, `uint64 5`, `['a', 'b']`.
///
/// # Errors
/// Text of another form, as one phrase.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { rest: text.trim(), depth: 0 };
    let value = parser.value(None)?;
    if !parser.rest.is_empty() {
        return Err(format!("{:?} follows the value", parser.rest));
    }
    if value.signature().len() > MAX_SIGNATURE { Err("its type is too long".to_owned()) } else { Ok(value) }
}

/// The specification's limits of a type: how deep arrays and structs are nested, and the bytes of a signature, whose
/// length is one byte on the wire ("Summary of types").
const MAX_DEPTH: u32 = 32;
const MAX_SIGNATURE: usize = 255;

struct Parser<'a> {
    rest: &'a str,
    /// How many lists are open.
    depth: u32,
}

impl<'a> Parser<'a> {
    fn skip(&mut self, expected: char) -> bool {
        let rest = self.rest.trim_start();
        match rest.strip_prefix(expected) {
            Some(after) => {
                self.rest = after.trim_start();
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| c.is_whitespace() || ",])>".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    /// A value; `kind` is the type that was named before it.
    fn value(&mut self, kind: Option<&str>) -> Result<Value, String> {
        match self.rest.chars().next() {
            None => Err("the value is missing".to_owned()),
            Some('[') => self.list('[', ']').and_then(array),
            Some('(') => self.list('(', ')').map(Value::Struct),
            Some('@') => {
                let signature = self.word().trim_start_matches('@');
                let element = signature.strip_prefix('a').ok_or("only the types of arrays can be given with @")?;
                let items = self.list('[', ']')?;
                if items.iter().all(|item| item.signature() == element) {
                    Ok(Value::Array(element.to_owned(), items))
                } else {
                    Err(format!("the value is no array of type {element:?}"))
                }
            }
            Some(quote @ ('\'' | '"')) => {
                let text = self.quoted(quote)?;
                Ok(if kind == Some("objectpath") { Value::Path(text) } else { Value::Str(text) })
            }
            Some(_) => {
                let word = self.word();
                const KINDS: [&str; 10] = [
                    "byte",
                    "boolean",
                    "int16",
                    "uint16",
                    "int32",
                    "uint32",
                    "int64",
                    "uint64",
                    "double",
                    "objectpath",
                ];
                if kind.is_none() && KINDS.contains(&word) { self.value(Some(word)) } else { scalar(word, kind) }
            }
        }
    }

    fn list(&mut self, open: char, close: char) -> Result<Vec<Value>, String> {
        let mut items = Vec::new();
        if !self.skip(open) {
            return Err(format!("{open:?} is missing"));
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        while !self.skip(close) {
            items.push(self.value(None)?);
            if !self.skip(',') && !self.rest.starts_with(close) {
                return Err(format!("a comma or {close:?} is missing"));
            }
        }
        self.depth -= 1;
        Ok(items)
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        let mut letters = self.rest.char_indices().skip(1);
        while let Some((index, letter)) = letters.next() {
            match letter {
                '\\' => match letters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, other)) => text.push(other),
                    None => break,
                },
                letter if letter == quote => {
                    self.rest = self.rest[index + 1..].trim_start();
                    return Ok(text);
                }
                letter => text.push(letter),
            }
        }
        Err("a quotation mark is missing".to_owned())
    }
}

fn array(items: Vec<Value>) -> Result<Value, String> {
    let element = items.first().map(Value::signature).ok_or("an empty array needs its type, such as \"@as []\"")?;
    if items.iter().any(|item| item.signature() != element) {
        return Err("the array's elements are of different types".to_owned());
    }
    Ok(Value::Array(element, items))
}

/// A number or boolean; a bare whole number is an int32, and one with a point a double, as in GVariant.
fn scalar(word: &str, kind: Option<&str>) -> Result<Value, String> {
    let wrong = || format!("{word:?} is no {}", kind.unwrap_or("value"));
    let value = match (kind, word) {
        (None | Some("boolean"), "true") => Some(Value::Bool(true)),
        (None | Some("boolean"), "false") => Some(Value::Bool(false)),
        (None, word) if word.contains(['.', 'e', 'E']) => word.parse().ok().map(Value::F64),
        (None | Some("int32"), word) => number(word).map(Value::I32),
        (Some("byte"), word) => number(word).map(Value::Byte),
        (Some("int16"), word) => number(word).map(Value::I16),
        (Some("uint16"), word) => number(word).map(Value::U16),
        (Some("uint32"), word) => number(word).map(Value::U32),
        (Some("int64"), word) => number(word).map(Value::I64),
        (Some("uint64"), word) => number(word).map(Value::U64),
        (Some("double"), word) => word.parse().ok().map(Value::F64),
        _ => None,
    };
    value.ok_or_else(wrong)
}

fn number<T: TryFrom<i128>>(word: &str) -> Option<T> {
    let (negative, digits) = word.strip_prefix('-').map_or((false, word), |digits| (true, digits));
    let value = match digits.strip_prefix("0x") {
        Some(hexadecimal) => i128::from_str_radix(hexadecimal, 16).ok()?,
        None => digits.parse().ok()?,
    };
    T::try_from(if negative { -value } else { value }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What could be an annotation's value.
    fn text() -> impl Strategy<Value = String> {
        let part = proptest::sample::select(
            &[
                "[",
                "]",
                "(",
                ")",
                ",",
                "'",
                "\"",
                "\\",
                "@",
                "as ",
                "a(ss) ",
                "uint64 ",
                "byte ",
                "objectpath ",
                "true",
                "-",
                "0x",
                "7",
                "1.5",
                "4294967296",
                " ",
                "\u{e4}",
                "/a",
            ][..],
        );
        prop_oneof![".{0,20}", prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Any text is refused, or a value that the bus can take.
        #[test]
        fn any_text_is_a_value_or_refused(text in text()) {
            if let Ok(value) = parse(&text) {
                prop_assert!(value.signature().len() <= MAX_SIGNATURE);
                value.encode(&mut Vec::new());
                value.seconds_to_microseconds();
            }
        }
    }

    fn strings(items: &[&str]) -> Value {
        Value::Array("s".to_owned(), items.iter().copied().map(Value::str).collect())
    }

    #[test]
    fn annotations_give_values_as_text() {
        assert_eq!(parse("true"), Ok(Value::Bool(true)));
        assert_eq!(parse("'inactive-or-failed'"), Ok(Value::str("inactive-or-failed")));
        assert_eq!(parse("uint64 0x10"), Ok(Value::U64(16)));
        assert_eq!(parse(" -7 "), Ok(Value::I32(-7)));
        assert_eq!(parse("1.5"), Ok(Value::F64(1.5)));
        assert_eq!(parse("byte 7"), Ok(Value::Byte(7)));
        assert_eq!(parse("['a.service', \"b\\\"c\"]"), Ok(strings(&["a.service", "b\"c"])));
        assert_eq!(parse("@as []"), Ok(strings(&[])));
        assert_eq!(parse("[('/dev/null', 'rw')]").unwrap().signature(), "a(ss)");
        for wrong in ["", "'open", "[1, 'a']", "[]", "uint64 -1", "5 6", "[1 2]", "byte 256", "nonsense", "@i 5"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_type_is_no_larger_than_the_bus_allows() {
        let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
        assert!(parse(&nested(32)).is_ok());
        assert!(parse(&nested(33)).unwrap_err().contains("nested"));
        assert!(parse(&"[".repeat(1_000_000)).unwrap_err().contains("nested"));
        let wide = |count: usize| format!("({})", vec!["1"; count].join(","));
        assert!(parse(&wide(253)).is_ok());
        assert!(parse(&wide(254)).unwrap_err().contains("too long"));
        assert!(parse(&format!("@a{} []", "s".repeat(300))).is_err());
    }

    #[test]
    fn seconds_become_microseconds() {
        assert_eq!(Value::I32(2).seconds_to_microseconds(), Some(Value::U64(2_000_000)));
        assert_eq!(Value::F64(0.5).seconds_to_microseconds(), Some(Value::U64(500_000)));
        assert_eq!(Value::str("2").seconds_to_microseconds(), None);
        assert_eq!(Value::I32(-2).seconds_to_microseconds(), None);
    }

    #[test]
    fn the_wire_form_is_aligned() {
        let mut out = Vec::new();
        Value::Byte(1).encode(&mut out);
        Value::Array("t".into(), vec![Value::U64(2)]).encode(&mut out);
        assert_eq!(out, [1, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        let mut out = Vec::new();
        Value::Struct(vec![Value::str("a"), Value::Variant(Box::new(Value::Bool(true)))]).encode(&mut out);
        assert_eq!(out, [1, 0, 0, 0, b'a', 0, 1, b'b', 0, 0, 0, 0, 1, 0, 0, 0]);
        let mut out = vec![9];
        Value::Array("(ss)".into(), vec![]).encode(&mut out);
        assert_eq!(out, [9, 0, 0, 0, 0, 0, 0, 0]);
    }
}
