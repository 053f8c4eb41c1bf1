//! Changes to a text or blob that was good.

use arbitrary::Arbitrary;

/// One change. Places count from the start and wrap around.
#[derive(Arbitrary, Clone, Debug)]
pub enum Edit {
    /// Another byte.
    Xor(u16, u8),
    /// A byte more.
    Insert(u16, u8),
    /// A byte less.
    Remove(u16),
    /// No more than so many.
    Cut(u16),
    /// More of them.
    Append(Vec<u8>),
    /// The same part of another good one.
    Splice(u16, u16),
}

/// `good` with all of `edits` in turn; `other` is what parts are taken from.
pub fn apply(edits: &[Edit], good: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for edit in edits.iter().take(8) {
        let place = |at: u16, len: usize| usize::from(at) % len.max(1);
        match edit {
            Edit::Xor(at, mask) => {
                let at = place(*at, bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= mask;
                }
            }
            Edit::Insert(at, byte) => bytes.insert(place(*at, bytes.len() + 1), *byte),
            Edit::Remove(at) if !bytes.is_empty() => {
                bytes.remove(place(*at, bytes.len()));
            }
            Edit::Remove(_) => {}
            Edit::Cut(at) => bytes.truncate(place(*at, bytes.len() + 1)),
            Edit::Append(more) => bytes.extend_from_slice(&more[..more.len().min(64)]),
            Edit::Splice(from, to) => {
                let (from, to) = (place(*from, bytes.len() + 1), place(*to, bytes.len() + 1));
                for at in from.min(to)..from.max(to) {
                    if let Some(byte) = other.get(at) {
                        bytes[at] = *byte;
                    }
                }
            }
        }
    }
    bytes
}
