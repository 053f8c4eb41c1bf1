//! The global order of the log: each tick of the leased sequencer appends one row of runs. Every
//! batch gets a position, from 1 without a gap; seals have positions, too.
//!
//! A row's `runs` are in order; a run is consecutive batches of one chain: `chain`, `first`, and
//! `batches`, 36 bytes for each: its header's SHA-256 and its number of records, big-endian. Rows
//! do not cross a segment of [`SEGMENT_POSITIONS`].

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use futures_util::{StreamExt as _, stream};

use super::{
    archive::ArchiveState,
    batch::{Batch, ChainId, batch_key, batch_sort, segment_partition},
    heads::OPEN,
    tree::Hash,
};
use crate::{
    domain::{
        clock::{Deadline, Timestamp},
        error::Failure,
    },
    repository::{
        fields::{Builder, Fields, rejected},
        records::{Expected, Records, Verified},
    },
    store::{Action, Attributes, Item, ItemKey, NewItem, Order, Query, SortRange},
};

/// Positions whose rows share a partition.
pub const SEGMENT_POSITIONS: u64 = 65_536;

/// Chains that are asked at once for what they have.
pub(super) const CHAINS_AT_ONCE: usize = 16;

/// How far the order has come: `A#SEQ`/`LOG`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The next batch's position.
    pub next: u64,
    /// Records in all batches before.
    pub records: u64,
    /// The time of the last row; rows' times never go back. It is that of the clock of whoever orders the
    /// log: where that was ahead, the rows after it keep its time until the others' clocks have come there.
    pub time: Timestamp,
    /// The last batch in order of each chain that is not indexed to its end.
    pub chains: BTreeMap<ChainId, u64>,
    pub(super) revision: Option<u64>,
}

/// Consecutive batches of one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The chain.
    pub chain: ChainId,
    /// The number of its first batch.
    pub first: u64,
    /// SHA-256 of the header, and number of records, of each.
    pub batches: Vec<(Hash, u32)>,
}

/// One tick's runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRow {
    /// The position of the first batch.
    pub position: u64,
    /// When the tick was.
    pub time: Timestamp,
    /// In order.
    pub runs: Vec<Run>,
}

/// A batch in order.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its position.
    pub position: u64,
    /// When it was put in order.
    pub time: Timestamp,
    /// The batch.
    pub batch: Arc<Batch>,
}

impl LogState {
    fn key() -> ItemKey {
        ItemKey::new("A#SEQ", "LOG")
    }
    /// Reads it; before the first row it begins at position 1.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, RECORD_REJECTED.
    pub async fn load(records: &Records, deadline: Deadline) -> Result<Self, Failure> {
        let Some(item) = records.get_verified(Self::key(), deadline).await? else {
            return Ok(Self { next: 1, ..Self::default() });
        };
        Ok(Self {
            next: item.number("next")?,
            records: item.number("records")?,
            time: item.time("time")?,
            chains: chains(&item)?,
            revision: Some(item.revision()),
        })
    }
    pub(super) fn put(&self, records: &Records) -> (Action, u64) {
        let expected = self.revision.map_or(Expected::Absent, Expected::Revision);
        let attributes = Builder::new()
            .count("next", self.next)
            .count("records", self.records)
            .time("time", self.time)
            .map_of_int("chains", &chain_map(&self.chains))
            .build();
        (records.put(NewItem::new(Self::key(), attributes), expected), expected.next_revision())
    }
}

impl LogRow {
    fn at(position: u64) -> ItemKey {
        ItemKey::new(format!("A#LOG#{}", position / SEGMENT_POSITIONS), position_sort(position))
    }
    pub(super) fn put(&self, records: &Records) -> Action {
        let runs = self.runs.iter().map(|run| {
            let batches = run.batches.iter().flat_map(|(hash, count)| hash.iter().copied().chain(count.to_be_bytes()));
            Builder::new()
                .text("chain", run.chain.as_str())
                .count("first", run.first)
                .bytes("batches", batches.collect::<Vec<u8>>())
                .build()
        });
        let attributes = Builder::new().time("time", self.time).maps("runs", runs).build();
        records.put(NewItem::new(self.key(), attributes), Expected::Absent)
    }
    fn read(item: &Verified) -> Result<Self, Failure> {
        let position = item.item().key.sort.parse().map_err(|_| rejected("position"))?;
        let runs = item.maps("runs")?.into_iter().map(read_run).collect::<Result<_, Failure>>()?;
        Ok(Self { position, time: item.time("time")?, runs })
    }
    /// Where it is kept.
    pub(super) fn key(&self) -> ItemKey {
        Self::at(self.position)
    }
    /// The position after its last batch.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.runs.iter().fold(self.position, |end, run| end + run.batches.len() as u64)
    }
    /// Its batches in order: position, chain, number, header's SHA-256, number of records.
    pub fn batches(&self) -> impl Iterator<Item = (u64, &ChainId, u64, &Hash, u32)> {
        let batches = self.runs.iter().flat_map(|run| {
            (run.first..).zip(&run.batches).map(move |(number, (hash, count))| (&run.chain, number, hash, *count))
        });
        (self.position..)
            .zip(batches)
            .map(|(position, (chain, number, hash, count))| (position, chain, number, hash, count))
    }
}

fn read_run(run: &Attributes) -> Result<Run, Failure> {
    let chain = ChainId::parse(run.text("chain")?).ok_or_else(|| rejected("chain"))?;
    let (chunks, []) = run.bytes("batches")?.as_chunks::<36>() else { return Err(rejected("batches")) };
    let batch = |chunk: &[u8; 36]| {
        let (hash, count) = chunk.split_first_chunk::<32>()?;
        Some((*hash, u32::from_be_bytes(count.try_into().ok()?)))
    };
    let batches = chunks.iter().map(batch).collect::<Option<_>>().ok_or_else(|| rejected("batches"))?;
    Ok(Run { chain, first: run.number("first")?, batches })
}

/// The rows from the one that holds position `from` on, at most `limit`; none at the end. What has
/// left for the archive is passed over.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn rows(records: &Records, from: u64, limit: usize, deadline: Deadline) -> Result<Vec<LogRow>, Failure> {
    if let Some(rows) = segment_rows(records, from, limit, deadline).await? {
        return Ok(rows);
    }
    // The segment is empty: either it begins here, or it has left.
    let floor = ArchiveState::load(records, deadline).await?.floor;
    if floor <= from {
        return Ok(Vec::new());
    }
    Ok(segment_rows(records, floor, limit, deadline).await?.unwrap_or_default())
}

/// The same in the segment of `from`; None when it has no row at all.
async fn segment_rows(
    records: &Records,
    from: u64,
    limit: usize,
    deadline: Deadline,
) -> Result<Option<Vec<LogRow>>, Failure> {
    let partition = LogRow::at(from).partition;
    let query = |range, order, limit| Query { partition: partition.clone(), range, order, limit, after: None };
    let here = SortRange::Between(position_sort(0), position_sort(from));
    let first = records.query(query(here, Order::Descending, 1), deadline).await?.items.into_iter().next();
    let has_before = first.is_some();
    let begin = first.map_or_else(|| position_sort(from), |row| row.key.sort);
    let rest = SortRange::Between(begin, position_sort(u64::MAX));
    let page = records.query(query(rest, Order::Ascending, limit), deadline).await?;
    if !has_before && page.items.is_empty() {
        return Ok(None);
    }
    let rows = page.items.into_iter().map(|item| LogRow::read(&records.verify(item)?));
    rows.filter(|row| row.as_ref().map_or(true, |row| row.end() > from)).collect::<Result<_, _>>().map(Some)
}

/// The batches from position `from` on, or, where that has left for the archive, from the first that
/// is left; some of them; none at the end.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub(super) async fn entries(records: &Records, from: u64, deadline: Deadline) -> Result<Vec<Entry>, Failure> {
    let Some(entries) = entries_from(records, from, deadline).await? else {
        let floor = ArchiveState::load(records, deadline).await?.floor;
        let entries = if from < floor { entries_from(records, floor, deadline).await? } else { None };
        return entries.ok_or_else(|| rejected("batch"));
    };
    Ok(entries)
}

/// The same; None when a batch is missing: it may just be leaving.
async fn entries_from(records: &Records, from: u64, deadline: Deadline) -> Result<Option<Vec<Entry>>, Failure> {
    const AT_ONCE: usize = 32;
    let rows = rows(records, from, AT_ONCE, deadline).await?;
    let wanted = rows.iter().flat_map(|row| {
        row.batches().map(|(position, chain, number, ..)| (position, row.time, batch_key(chain, number)))
    });
    let wanted: Vec<_> = wanted.filter(|(position, ..)| *position >= from).take(AT_ONCE).collect();
    if wanted.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let keys: Vec<ItemKey> = wanted.iter().map(|(.., key)| key.clone()).collect();
    let items = records.get(&keys, deadline).await?;
    let entry = |((position, time, _), item): ((u64, Timestamp, ItemKey), Option<Item>)| {
        let Some(item) = item else { return Ok(None) };
        let batch = read_sound(records, item)?;
        Ok(Some(Entry { position, time, batch: Arc::new(batch) }))
    };
    wanted.into_iter().zip(items).map(entry).collect()
}

/// The batch in `item`, if its MAC and its hashes hold.
pub(super) fn read_sound(records: &Records, item: Item) -> Result<Batch, Failure> {
    let batch = Batch::read(records.verify(item)?.into_item());
    batch.filter(Batch::is_sound).ok_or_else(|| rejected("batch"))
}

/// Where the position of a run is kept that begins with batch `first` of `chain`.
pub(super) fn run_key(chain: &ChainId, first: u64) -> ItemKey {
    ItemKey::new(segment_partition(chain, first), run_sort(first))
}

/// The same within the partition of its segment.
pub(super) fn run_sort(first: u64) -> String {
    format!("P#{first:016}")
}

/// The position of a run's first batch and the number of its batches, of the item at its
/// [`run_key`].
pub(super) fn read_position(records: &Records, item: Item) -> Result<(u64, u64), Failure> {
    let item = records.verify(item)?;
    Ok((item.number("position")?, item.number("count")?))
}

/// A position as a sort key: bytewise in order of number.
pub(super) fn position_sort(position: u64) -> String {
    format!("{position:020}")
}

pub(super) fn chain_map(chains: &BTreeMap<ChainId, u64>) -> BTreeMap<String, i64> {
    chains.iter().map(|(chain, last)| (chain.to_string(), i64::try_from(*last).unwrap_or(i64::MAX))).collect()
}

pub(super) fn chains(item: &Verified) -> Result<BTreeMap<ChainId, u64>, Failure> {
    let chain = |(chain, last): (String, i64)| Some((ChainId::parse(&chain)?, u64::try_from(last).ok()?));
    item.map_of_int("chains")?.into_iter().map(chain).collect::<Option<_>>().ok_or_else(|| rejected("chains"))
}

/// Whether nothing is recorded in the chains `open` that `state` does not have in order.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub(in crate::repository) async fn is_in_order(
    records: &Records,
    open: &[ChainId],
    state: &LogState,
    deadline: Deadline,
) -> Result<bool, Failure> {
    let behind = open.iter().map(|chain| {
        let last = state.chains.get(chain).copied().unwrap_or_default();
        records.query(batches_after(chain, last, 1), deadline)
    });
    let behind: Vec<_> = behind.collect();
    let mut behind = pin!(stream::iter(behind).buffered(CHAINS_AT_ONCE));
    while let Some(found) = behind.next().await {
        if !found?.items.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The batches of `chain` behind batch `last`, within a segment.
pub(super) fn batches_after(chain: &ChainId, last: u64, limit: usize) -> Query {
    Query {
        partition: segment_partition(chain, last + 1),
        range: SortRange::Between(batch_sort(last + 1), batch_sort(u64::MAX)),
        order: Order::Ascending,
        limit,
        after: None,
    }
}

/// The chains that are not indexed to their end.
pub(in crate::repository) async fn open_chains(records: &Records, deadline: Deadline) -> Result<Vec<ChainId>, Failure> {
    let mut chains = Vec::new();
    let mut after = None;
    loop {
        let query = Query {
            partition: OPEN.to_owned(),
            range: SortRange::All,
            order: Order::Ascending,
            limit: 1_000,
            after: after.take(),
        };
        let page = records.query(query, deadline).await?;
        chains.extend(page.items.iter().filter_map(|item| ChainId::parse(&item.key.sort)));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(chains),
        }
    }
}
