//! Where a byte is in a text.

/// Where `byte` is first: as memchr(3), of which musl's looks at eight bytes at a time. A library would look for something better by CPUID,
/// for 40 µs in a virtual machine (docs/startup.md).
#[cfg(target_arch = "x86_64")]
pub fn find(text: &[u8], byte: u8) -> Option<usize> {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
    let (blocks, rest) = text.as_chunks::<16>();
    let in_block = |block: &[u8; 16]| {
        // SAFETY: every x86-64 processor has SSE2; a block need not be aligned.
        let found = unsafe {
            let block = _mm_loadu_si128(block.as_ptr().cast());
            _mm_movemask_epi8(_mm_cmpeq_epi8(block, _mm_set1_epi8(byte.cast_signed())))
        };
        (found != 0).then(|| found.trailing_zeros() as usize)
    };
    let found = blocks.iter().enumerate().find_map(|(index, block)| Some(index * block.len() + in_block(block)?));
    found.or_else(|| Some(text.len() - rest.len() + rest.iter().position(|other| *other == byte)?))
}

/// As above: memchr(3).
#[cfg(not(target_arch = "x86_64"))]
pub fn find(text: &[u8], byte: u8) -> Option<usize> {
    // SAFETY: it looks at that many bytes, and answers with the address of one of them, or null.
    let found = unsafe { libc::memchr(text.as_ptr().cast(), i32::from(byte), text.len()) };
    (!found.is_null()).then(|| found.addr() - text.as_ptr().addr())
}

#[cfg(test)]
mod tests {
    use super::find;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_where_it_is(text in prop::collection::vec(0_u8..4, 0..200), byte in 0_u8..5) {
            prop_assert_eq!(find(&text, byte), text.iter().position(|other| *other == byte));
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
