//! Hashes of the audit log: RFC 6962's leaves and roots over SHA-256. Knows nothing of records.

use aws_lc_rs::digest;

/// A SHA-256.
pub type Hash = [u8; 32];

/// SHA-256 of `parts`, one after the other.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    hash
}

/// The leaf hash of `record`: SHA-256(0x00 || record).
#[must_use]
pub fn leaf_hash(record: &[u8]) -> Hash {
    sha256(&[&[0], record])
}

/// The Merkle tree hash of `leaves`, in order; that of none is the SHA-256 of nothing.
#[must_use]
pub fn root(leaves: impl IntoIterator<Item = Hash>) -> Hash {
    // Complete subtrees from the left, each with its number of leaves, sizes strictly falling.
    let mut subtrees: Vec<(usize, Hash)> = Vec::new();
    for leaf in leaves {
        let mut right = (1, leaf);
        while let Some((size, left)) = subtrees.pop_if(|(size, _)| *size == right.0) {
            right = (size + right.0, node(&left, &right.1));
        }
        subtrees.push(right);
    }
    let mut hashes = subtrees.into_iter().rev().map(|(_, hash)| hash);
    match hashes.next() {
        None => sha256(&[]),
        Some(last) => hashes.fold(last, |right, left| node(&left, &right)),
    }
}

fn node(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6962, section 2.1, word by word.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => sha256(&[]),
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node(&by_definition(&leaves[..split]), &by_definition(&leaves[split..]))
            }
        }
    }

    #[test]
    fn roots_are_those_of_the_rfc() {
        let leaves: Vec<Hash> = (0_u8..70).map(|n| leaf_hash(&[n])).collect();
        for count in 0..leaves.len() {
            assert_eq!(root(leaves[..count].iter().copied()), by_definition(&leaves[..count]), "{count}");
        }
    }

    #[test]
    fn the_published_vectors_hold() {
        // From the reference implementation of Certificate Transparency: its inputs and roots.
        let inputs: [&[u8]; 8] = [
            &[],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        let hex = |hash: Hash| data_encoding::HEXLOWER.encode(&hash);
        assert_eq!(hex(root([])), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(
            hex(root(inputs.map(leaf_hash))),
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
        );
    }
}
