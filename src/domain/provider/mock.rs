//! Made-up keys: deterministic, of the provider's shape, and plainly not real.

use aws_lc_rs::digest;

/// The template where a row has none.
pub(super) const DEFAULT: &str = "MOCK{36}";

const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// `template` with each `{n}` replaced by n letters and digits that follow from `name` and
/// `version`.
pub(super) fn value(template: &str, name: &str, version: u32) -> String {
    let mut letters = Letters { seed: format!("ibyok mock {version} {name}"), block: 0, left: Vec::new() };
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let (count, after) = after.split_once('}').unwrap_or((after, ""));
        let count = count.parse::<u8>().unwrap_or(0);
        text.extend((0..count).filter_map(|_| letters.next()));
        rest = after;
    }
    text.push_str(rest);
    text
}

struct Letters {
    seed: String,
    block: u32,
    left: Vec<u8>,
}

impl Iterator for Letters {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        if self.left.is_empty() {
            self.block = self.block.checked_add(1)?;
            let input = format!("{} {}", self.block, self.seed);
            self.left = digest::digest(&digest::SHA256, input.as_bytes()).as_ref().to_vec();
        }
        let index = usize::from(self.left.pop()? % 32);
        ALPHABET.get(index).copied().map(char::from)
    }
}
