//! One unambiguous string of bytes from many: what is hashed, authenticated or bound is written so.

/// `parts`, each prefixed by its length as 8 bytes, big-endian.
#[must_use]
pub fn length_prefixed<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        push(&mut out, part);
    }
    out
}

/// Adds `part` to `out`, prefixed by its length as 8 bytes, big-endian.
pub fn push(out: &mut Vec<u8>, part: &[u8]) {
    out.extend_from_slice(&(part.len() as u64).to_be_bytes());
    out.extend_from_slice(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_part_ends_is_part_of_the_bytes() {
        let framed = |parts: &[&[u8]]| length_prefixed(parts.iter().copied());
        assert_eq!(framed(&[b"ab"]), [0, 0, 0, 0, 0, 0, 0, 2, b'a', b'b']);
        let all: [&[&[u8]]; 5] = [&[b"ab", b"c"], &[b"a", b"bc"], &[b"abc"], &[b"abc", b""], &[b"", b"abc"]];
        for (i, one) in all.iter().enumerate() {
            for other in &all[i + 1..] {
                assert_ne!(framed(one), framed(other));
            }
        }
    }
}
