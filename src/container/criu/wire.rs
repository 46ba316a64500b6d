//! Protocol buffers, as much of them as CRIU's messages need (protobuf.dev/programming-guides/encoding): numbers and
//! strings of bytes.

use std::path::Path;

/// The wire type of numbers.
const VARINT: u64 = 0;
/// The wire type of 8 bytes.
const FIXED64: u64 = 1;
/// The wire type of strings, bytes and messages.
const LENGTH: u64 = 2;
/// The wire type of 4 bytes.
const FIXED32: u64 = 5;

/// A message in the making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// The field number `field`: an integer, boolean or enumerator. Negative ones take ten bytes.
    pub fn number(&mut self, field: u32, value: i64) -> &mut Self {
        self.tag(field, VARINT);
        self.varint(value.cast_unsigned());
        self
    }

    /// The field number `field`: a string.
    pub fn bytes(&mut self, field: u32, value: &[u8]) -> &mut Self {
        self.tag(field, LENGTH);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// The field number `field`: a path.
    pub fn path(&mut self, field: u32, value: &Path) -> &mut Self {
        self.bytes(field, std::os::unix::ffi::OsStrExt::as_bytes(value.as_os_str()))
    }

    /// The field number `field`: a message.
    pub fn message(&mut self, field: u32, value: &Self) -> &mut Self {
        self.bytes(field, &value.0)
    }

    /// As it is sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn tag(&mut self, field: u32, kind: u64) {
        self.varint(u64::from(field) << 3 | kind);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// An integer, boolean or enumerator.
    Number(i64),
    /// A string or a message.
    Bytes(&'a [u8]),
}

/// The fields of a message in their order; `None` in the place of the rest when that is not one.
#[derive(Debug, Clone)]
pub struct Fields<'a>(&'a [u8]);

/// Reads `message`.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields(message)
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            VARINT => Value::Number(self.varint()?.cast_signed()),
            LENGTH => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            FIXED64 => Value::Bytes(self.take(8)?),
            FIXED32 => Value::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((u32::try_from(tag >> 3).ok()?, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u32, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_guide() {
        let mut message = Message::default();
        message.number(1, 150).bytes(2, b"testing");
        assert_eq!(message.as_bytes(), [8, 0x96, 1, 0x12, 7, b't', b'e', b's', b't', b'i', b'n', b'g']);
        let mut negative = Message::default();
        negative.number(1, -2);
        assert_eq!(negative.as_bytes(), [8, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            sent in proptest::collection::vec((1u32..0x1fff_ffff, any::<i64>(), any::<Vec<u8>>(), any::<bool>()), 0..8)
        ) {
            let mut message = Message::default();
            for (field, number, bytes, is_number) in &sent {
                if *is_number { message.number(*field, *number) } else { message.bytes(*field, bytes) };
            }
            let read: Vec<_> = fields(message.as_bytes()).collect();
            let written: Vec<_> = sent.iter().map(|(field, number, bytes, is_number)| {
                Some((*field, if *is_number { Value::Number(*number) } else { Value::Bytes(bytes) }))
            }).collect();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn whatever_comes_has_an_end(bytes: Vec<u8>) {
            prop_assert!(fields(&bytes).count() <= bytes.len());
        }
    }
}
