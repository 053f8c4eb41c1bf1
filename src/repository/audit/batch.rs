//! Chains and their batches: names, the header's format, the items they are kept in. Knows no lane.
//!
//! A chain belongs to one lane of one boot of one server: `{boot}-{s|m}{n}`, 16 hex digits of the
//! boot, `s` for a shared lane and `m` for a mutation lane, and 6 hex digits that count the boot's
//! chains. Batches are numbered from 1 without a gap; the last of a closed chain is a seal.
//!
//! The header of a batch, whose SHA-256 is what the next batch and the log chain on:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format: 2 (0 and 1 begin RFC 6962's leaves and nodes) |
//! | 1 | kind: 1 records, 2 seal |
//! | 1 + n | length of the chain's name, and the name |
//! | 8 | number of the batch, big-endian |
//! | 32 | SHA-256 of the previous batch's header; zeros for the first |
//! | 32 | RFC 6962 root over the records' leaf hashes |
//! | 4 | number of records, big-endian |

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    record::Encoded,
    tree::{Hash, leaf_hash, root, sha256},
};
use crate::store::{Item, ItemKey, NewItem, Value};

/// The most records of a batch; a sequence is batch x this + index.
pub const BATCH_RECORDS_MAX: usize = 4_096;
/// The most bytes of a batch's records.
pub const BATCH_BYTES_MAX: usize = 256 << 10;
/// Batches of one chain that share a partition.
pub const SEGMENT_BATCHES: u64 = 4_096;

const FORMAT: u8 = 2;
const HEADER: &str = "header";
const RECORDS: &str = "records";

/// A chain's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(Arc<str>);

/// What a lane is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneKind {
    /// Retrievals and denials.
    Shared,
    /// One mutation at a time.
    Mutation,
}

impl ChainId {
    /// The `number`th chain of `boot`.
    pub(super) fn new(boot: &str, kind: LaneKind, number: u32) -> Self {
        let tag = match kind {
            LaneKind::Shared => 's',
            LaneKind::Mutation => 'm',
        };
        Self(format!("{boot}-{tag}{number:06x}").into())
    }
    /// Parses a chain's name; None when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let (boot, lane) = text.split_once('-')?;
        let number = lane.strip_prefix(['s', 'm'])?;
        let is_one = boot.len() == 16 && hex(boot) && (6..=8).contains(&number.len()) && hex(number);
        is_one.then(|| Self(text.into()))
    }
    /// Which boot of which server it belongs to.
    #[must_use]
    pub fn boot(&self) -> &str {
        self.0.split_once('-').map_or("", |(boot, _)| boot)
    }
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchKind {
    /// Records.
    Records,
    /// The end of its chain, without records.
    Seal,
}

/// A batch's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the batch is.
    pub kind: BatchKind,
    /// Its chain.
    pub chain: ChainId,
    /// Its number, from 1.
    pub batch: u64,
    /// The previous header's SHA-256.
    pub previous: Hash,
    /// RFC 6962 root over the leaf hashes of its records.
    pub root: Hash,
    /// How many records it has.
    pub count: u32,
}

impl Header {
    pub(super) fn of(chain: ChainId, batch: u64, previous: Hash, records: &[Encoded]) -> Self {
        let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
        let root = root(records.iter().map(|record| record.leaf));
        Self { kind: BatchKind::Records, chain, batch, previous, root, count }
    }
    /// The seal that stands where `batch` would: the same whoever places it.
    pub(super) fn seal(chain: ChainId, batch: u64, previous: Hash) -> Self {
        Self { kind: BatchKind::Seal, chain, batch, previous, root: root([]), count: 0 }
    }
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let name = self.chain.as_str().as_bytes();
        let kind = match self.kind {
            BatchKind::Records => 1,
            BatchKind::Seal => 2,
        };
        let mut bytes = Vec::with_capacity(79 + name.len());
        bytes.extend([FORMAT, kind, u8::try_from(name.len()).unwrap_or(u8::MAX)]);
        bytes.extend(name);
        bytes.extend(self.batch.to_be_bytes());
        bytes.extend(self.previous);
        bytes.extend(self.root);
        bytes.extend(self.count.to_be_bytes());
        bytes
    }
    /// The header of these bytes; None when they are not exactly one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let ([FORMAT, kind, name_len], rest) = bytes.split_first_chunk::<3>()? else { return None };
        let kind = match kind {
            1 => BatchKind::Records,
            2 => BatchKind::Seal,
            _ => return None,
        };
        let (name, rest) = rest.split_at_checked(usize::from(*name_len))?;
        let chain = ChainId::parse(std::str::from_utf8(name).ok()?)?;
        let (batch, rest) = rest.split_first_chunk::<8>()?;
        let (previous, rest) = rest.split_first_chunk::<32>()?;
        let (root, rest) = rest.split_first_chunk::<32>()?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        rest.is_empty().then(|| Self {
            kind,
            chain,
            batch: u64::from_be_bytes(*batch),
            previous: *previous,
            root: *root,
            count: u32::from_be_bytes(*count),
        })
    }
    /// Its SHA-256.
    #[must_use]
    pub fn hash(&self) -> Hash {
        sha256(&[&self.encode()])
    }
    /// Whether `item` is the batch of this very header.
    pub(super) fn is_of(&self, item: &Item) -> bool {
        matches!(item.attributes.get(HEADER), Some(Value::Bytes(bytes)) if *bytes == self.encode())
    }
}

/// Where batch `batch` of `chain` is kept.
#[must_use]
pub fn batch_key(chain: &ChainId, batch: u64) -> ItemKey {
    ItemKey::new(segment_partition(chain, batch), batch_sort(batch))
}

/// The partition that batch `batch` of `chain` shares with its neighbours.
pub(super) fn segment_partition(chain: &ChainId, batch: u64) -> String {
    format!("A#{chain}#{}", batch / SEGMENT_BATCHES)
}

/// The sort key of batch `batch`: bytewise in order of number.
pub(super) fn batch_sort(batch: u64) -> String {
    format!("B#{batch:016}")
}

/// The sequence of record `index` of `batch`.
#[must_use]
pub fn sequence(batch: u64, index: usize) -> u64 {
    batch * BATCH_RECORDS_MAX as u64 + index as u64
}

/// Batch and index of a sequence.
#[must_use]
pub fn place(sequence: u64) -> (u64, usize) {
    let size = BATCH_RECORDS_MAX as u64;
    (sequence / size, usize::try_from(sequence % size).unwrap_or_default())
}

/// The item of a batch, not yet signed.
pub(super) fn batch_item(header: &Header, records: impl IntoIterator<Item = Vec<u8>>) -> NewItem {
    let records = records.into_iter().map(Value::Bytes).collect();
    let attributes = BTreeMap::from([
        (HEADER.to_owned(), Value::Bytes(header.encode())),
        (RECORDS.to_owned(), Value::List(records)),
    ]);
    NewItem::new(batch_key(&header.chain, header.batch), attributes)
}

/// A stored batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its header.
    pub header: Header,
    /// Its records, as they were hashed.
    pub records: Vec<Vec<u8>>,
}

impl Batch {
    /// The batch in `item`; None when it is none, or not the one of that place. Whether its
    /// hashes hold is [`Self::is_sound`]'s question.
    #[must_use]
    pub fn read(item: Item) -> Option<Self> {
        let Item { key, mut attributes, .. } = item;
        let (Some(Value::Bytes(header)), Some(Value::List(list))) =
            (attributes.remove(HEADER), attributes.remove(RECORDS))
        else {
            return None;
        };
        let header = Header::decode(&header)?;
        let bytes = |value| if let Value::Bytes(bytes) = value { Some(bytes) } else { None };
        let records = list.into_iter().map(bytes).collect::<Option<Vec<_>>>()?;
        let is_here = batch_key(&header.chain, header.batch) == key;
        (is_here && header.count as usize == records.len()).then_some(Self { header, records })
    }
    /// Whether its root is that of its records, and a seal has none.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        root(self.records.iter().map(|record| leaf_hash(record))) == self.header.root
            && (self.header.kind == BatchKind::Records) != self.records.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let chain = ChainId::new("0123456789abcdef", LaneKind::Shared, 1);
        let records =
            [Encoded { bytes: vec![1], leaf: leaf_hash(&[1]) }, Encoded { bytes: vec![2], leaf: leaf_hash(&[2]) }];
        Header::of(chain, 7, [9; 32], &records)
    }

    #[test]
    fn a_header_has_exactly_its_documented_bytes() {
        let bytes = header().encode();
        let hex = data_encoding::HEXLOWER.encode(&bytes);
        let name = data_encoding::HEXLOWER.encode(b"0123456789abcdef-s000001");
        let root = data_encoding::HEXLOWER.encode(&root([leaf_hash(&[1]), leaf_hash(&[2])]));
        assert_eq!(hex, format!("020118{name}0000000000000007{}{root}00000002", "09".repeat(32)));
        assert_eq!(Header::decode(&bytes), Some(header()));
        assert_eq!(header().hash(), sha256(&[&bytes]));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let bytes = header().encode();
        for len in 0..bytes.len() {
            assert_eq!(Header::decode(&bytes[..len]), None);
        }
        assert_eq!(Header::decode(&[bytes.clone(), vec![0]].concat()), None);
        for (at, byte) in [(0, 1), (1, 0), (1, 3), (2, 23), (2, 200), (3, b'G')] {
            let mut other = bytes.clone();
            other[at] = byte;
            assert_eq!(Header::decode(&other), None);
        }
    }

    #[test]
    fn a_batch_reads_back_only_from_its_own_place() {
        let new = batch_item(&header(), [vec![1], vec![2]]);
        let item =
            |key| Item { key, revision: 1, expires: None, sealed: None, mac: None, attributes: new.attributes.clone() };
        let batch = Batch::read(item(new.key.clone())).unwrap();
        assert!(batch.is_sound());
        assert_eq!(batch.records, [vec![1], vec![2]]);
        assert_eq!(Batch::read(item(batch_key(&header().chain, 8))), None);
        assert!(!Batch { records: vec![vec![2], vec![1]], ..batch }.is_sound());
        let short = batch_item(&header(), [vec![1]]).attributes;
        assert_eq!(Batch::read(Item { attributes: short, ..item(new.key.clone()) }), None);
    }

    #[test]
    fn a_seal_has_no_records_and_every_other_batch_has_some() {
        let (full, seal) = (header(), Header::seal(header().chain, 7, [9; 32]));
        let as_kind = |kind, header: &Header| Header { kind, ..header.clone() };
        let records = vec![vec![1], vec![2]];
        let is_sound = |header, records: &[Vec<u8>]| Batch { header, records: records.to_vec() }.is_sound();
        assert!(is_sound(full.clone(), &records) && is_sound(seal.clone(), &[]));
        assert!(!is_sound(as_kind(BatchKind::Seal, &full), &records));
        assert!(!is_sound(as_kind(BatchKind::Records, &seal), &[]));
        assert!(!is_sound(seal, &records) && !is_sound(full, &[]));
    }

    #[test]
    fn places_and_sequences_are_the_same_thing() {
        assert_eq!(sequence(1, 0), 4_096);
        assert_eq!(place(sequence(9, 4_095)), (9, 4_095));
        assert!(batch_sort(9) < batch_sort(10));
        assert_eq!(batch_key(&header().chain, 4_096).partition, "A#0123456789abcdef-s000001#1");
    }

    #[test]
    fn chains_are_told_from_other_text() {
        assert!(ChainId::parse("0123456789abcdef-m00000a").is_some());
        for text in [
            "",
            "0123456789abcdef",
            "0123456789abcdef-x000001",
            "0123456789abcdeF-s000001",
            "0123456789abcde-s000001",
            "0123456789abcdef0-s000001",
            "0123456789abcdef-s00001",
            "0123456789abcdef-s000000001",
            "0123456789abcdef-s00000g",
            "a-s000001#2",
        ] {
            assert_eq!(ChainId::parse(text), None, "{text}");
        }
        let shared = ChainId::new("0123456789abcdef", LaneKind::Shared, 0x0fff_ffff);
        let mutation = ChainId::new("0123456789abcdef", LaneKind::Mutation, 10);
        assert_eq!((shared.as_str(), mutation.as_str()), ("0123456789abcdef-sfffffff", "0123456789abcdef-m00000a"));
        for chain in [shared, mutation] {
            assert_eq!(ChainId::parse(chain.as_str()).as_ref(), Some(&chain));
            assert_eq!((chain.boot(), chain.to_string().as_str()), ("0123456789abcdef", chain.as_str()));
        }
    }
}
