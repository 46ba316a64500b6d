//! Where a byte is in a text.

/// Where `byte` is first: as memchr(3), of which musl's looks at eight bytes at a time. A library would look for something better by CPUID,
/// for 40 µs in a virtual machine (docs/startup.md).
#[cfg(target_arch = "x86_64")]
pub fn find(text: &[u8], byte: u8) -> Option<usize> {
    let (blocks, rest) = text.as_chunks::<16>();
    let found = blocks.iter().enumerate().find_map(|(index, block)| {
        let found = equal(block, byte);
        (found != 0).then(|| index * block.len() + found.trailing_zeros() as usize)
    });
    found.or_else(|| Some(text.len() - rest.len() + rest.iter().position(|other| *other == byte)?))
}

/// Where two bytes are one after the other first.
#[cfg(target_arch = "x86_64")]
pub fn find_pair(text: &[u8], [first, second]: [u8; 2]) -> Option<usize> {
    let behind = text.get(1..)?;
    let (blocks, rest) = behind.as_chunks::<16>();
    // Of as many bytes: the last byte of the text is in none of these.
    let (before, _) = text.as_chunks::<16>();
    let found = before.iter().zip(blocks).enumerate().find_map(|(index, (block, next))| {
        let found = equal(block, first) & equal(next, second);
        (found != 0).then(|| index * block.len() + found.trailing_zeros() as usize)
    });
    let from = behind.len() - rest.len();
    found.or_else(|| Some(from + text.get(from..)?.windows(2).position(|pair| pair == [first, second])?))
}

/// Which of the bytes are `byte`: a bit for each, the lowest for the first.
#[cfg(target_arch = "x86_64")]
fn equal(block: &[u8; 16], byte: u8) -> i32 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
    // SAFETY: every x86-64 processor has SSE2; a block need not be aligned.
    unsafe {
        let block = _mm_loadu_si128(block.as_ptr().cast());
        _mm_movemask_epi8(_mm_cmpeq_epi8(block, _mm_set1_epi8(byte.cast_signed())))
    }
}

/// As above: memchr(3).
#[cfg(not(target_arch = "x86_64"))]
pub fn find(text: &[u8], byte: u8) -> Option<usize> {
    // SAFETY: it looks at that many bytes, and answers with the address of one of them, or null.
    let found = unsafe { libc::memchr(text.as_ptr().cast(), i32::from(byte), text.len()) };
    (!found.is_null()).then(|| found.addr() - text.as_ptr().addr())
}

/// As above.
#[cfg(not(target_arch = "x86_64"))]
pub fn find_pair(text: &[u8], pair: [u8; 2]) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = find(text.get(from..)?, pair[0]) {
        if text.get(from + found + 1) == Some(&pair[1]) {
            return Some(from + found);
        }
        from += found + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{find, find_pair};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_where_it_is(text in prop::collection::vec(0_u8..4, 0..200), byte in 0_u8..5) {
            prop_assert_eq!(find(&text, byte), text.iter().position(|other| *other == byte));
        }

        #[test]
        fn a_pair_is_where_it_is(text in prop::collection::vec(0_u8..4, 0..100), first in 0_u8..5, second in 0_u8..5) {
            let expected = text.windows(2).position(|pair| pair == [first, second]);
            prop_assert_eq!(find_pair(&text, [first, second]), expected);
        }

        #[test]
        fn a_pair_is_found_in_a_long_text(length in 0_usize..300, place in 0_usize..300) {
            let mut text = vec![b'k'; length];
            if let Some(byte) = text.get_mut(place) {
                *byte = b'm';
            }
            prop_assert_eq!(find_pair(&text, *b"km"), (1..length).contains(&place).then(|| place - 1));
        }

        #[test]
        fn it_is_found_in_a_long_text(length in 0_usize..300, place in 0_usize..300) {
            let mut text = vec![b' '; length];
            if let Some(byte) = text.get_mut(place) {
                *byte = b'k';
            }
            prop_assert_eq!(find(&text, b'k'), (place < length).then_some(place));
        }
    }
}
