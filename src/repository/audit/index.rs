//! The organizations' index: `O#org#A#{day}`/position says which records of a batch are the
//! organization's; `O#org#A`/day says that the day has rows, and how far back its records' times
//! go. The day is that of the batch's row in the log, so that days and positions rise together, and
//! a rebuilt index is equal.
//!
//! A row's `records` are 2 bytes each, big-endian, rising. The index is not signed: who reads
//! it checks each record that it leads to.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    batch::{BatchKind, ChainId},
    heads::OPEN,
    log::{Entry, chain_map, chains, entries, position_sort},
    record::Whose,
    writer::Lanes,
};
use crate::{
    domain::{
        clock::{Deadline, Timestamp},
        error::Failure,
        ids::OrgId,
    },
    repository::{
        fields::{Builder, Fields, rejected},
        lease::Lease,
        records::{Expected, Records},
    },
    store::{Action, Condition, Item, ItemKey, NewItem, Order, Page, Query, SortRange},
};

/// The most index rows of one write; lease, state, days and finished chains go with them.
const ROWS_MAX: usize = 40;

/// How far the index has come: `A#SEQ`/`INDEX`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexState {
    /// The next position to be indexed.
    pub next: u64,
    /// The last indexed batch of each chain that is not indexed to its end.
    pub chains: BTreeMap<ChainId, u64>,
    revision: Option<u64>,
}

/// Which records of a batch are the organization's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRow {
    /// The batch's position.
    pub position: u64,
    /// Its chain.
    pub chain: ChainId,
    /// Its number.
    pub batch: u64,
    /// The indexes of the organization's records, rising.
    pub records: Vec<u16>,
}

/// A day that has rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexDay {
    /// Days since the Unix epoch.
    pub day: u64,
    /// The earliest time of its records.
    pub from: Timestamp,
}

impl IndexState {
    fn key() -> ItemKey {
        ItemKey::new("A#SEQ", "INDEX")
    }
    /// Reads it; before the first row it begins at position 1.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, RECORD_REJECTED.
    pub async fn load(records: &Records, deadline: Deadline) -> Result<Self, Failure> {
        let Some(item) = records.get_verified(Self::key(), deadline).await? else {
            return Ok(Self { next: 1, ..Self::default() });
        };
        Ok(Self { next: item.number("next")?, chains: chains(&item)?, revision: Some(item.revision()) })
    }
    fn put(&self, records: &Records) -> (Action, u64) {
        let expected = self.revision.map_or(Expected::Absent, Expected::Revision);
        let attributes = Builder::new().count("next", self.next).map_of_int("chains", &chain_map(&self.chains)).build();
        (records.put(NewItem::new(Self::key(), attributes), expected), expected.next_revision())
    }
}

impl IndexRow {
    fn put(&self, org: &OrgId, day: u64) -> Action {
        let records: Vec<u8> = self.records.iter().flat_map(|index| index.to_be_bytes()).collect();
        let attributes = Builder::new()
            .text("chain", self.chain.as_str())
            .count("batch", self.batch)
            .bytes("records", records)
            .build();
        let key = ItemKey::new(row_partition(org, day), position_sort(self.position));
        Action::Put(NewItem::new(key, attributes), Condition::Any)
    }
    fn read(item: &Item) -> Result<Self, Failure> {
        let (indexes, []) = item.attributes.bytes("records")?.as_chunks::<2>() else {
            return Err(rejected("records"));
        };
        Ok(Self {
            position: item.key.sort.parse().map_err(|_| rejected("position"))?,
            chain: ChainId::parse(item.attributes.text("chain")?).ok_or_else(|| rejected("chain"))?,
            batch: item.attributes.number("batch")?,
            records: indexes.iter().map(|index| u16::from_be_bytes(*index)).collect(),
        })
    }
}

/// The organization's rows of `day`, beyond position `after` in that order, at most `limit`. Rows
/// of positions that the index has not passed yet may be among them. False: there are no more.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn rows(
    records: &Records,
    org: &OrgId,
    day: u64,
    order: Order,
    after: Option<u64>,
    limit: usize,
    deadline: Deadline,
) -> Result<(Vec<IndexRow>, bool), Failure> {
    let after = after.map(position_sort);
    let query = Query { partition: row_partition(org, day), range: SortRange::All, order, limit, after };
    let Page { items, next } = records.query(query, deadline).await?;
    Ok((items.iter().map(IndexRow::read).collect::<Result<_, _>>()?, next.is_some()))
}

/// The days of the organization from `from` on in that order, `from` among them, at most `limit`.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn days(
    records: &Records,
    org: &OrgId,
    order: Order,
    from: Option<u64>,
    limit: usize,
    deadline: Deadline,
) -> Result<Vec<IndexDay>, Failure> {
    let (first, last) = (day_sort(0), day_sort(u64::MAX));
    let range = match (from.map(day_sort), order) {
        (None, _) => SortRange::All,
        (Some(from), Order::Ascending) => SortRange::Between(from, last),
        (Some(from), Order::Descending) => SortRange::Between(first, from),
    };
    let query = Query { partition: days_partition(org), range, order, limit, after: None };
    records.query(query, deadline).await?.items.iter().map(read_day).collect()
}

fn read_day(item: &Item) -> Result<IndexDay, Failure> {
    let day = item.key.sort.parse().map_err(|_| rejected("day"))?;
    Ok(IndexDay { day, from: item.attributes.time("from")? })
}

/// Where the rows of a batch are, one for each organization.
pub(super) fn row_keys(entry: &Entry) -> Vec<(OrgId, ItemKey)> {
    let day = u64::try_from(entry.time.day()).unwrap_or_default();
    let key = |org: OrgId| {
        let key = ItemKey::new(row_partition(&org, day), position_sort(entry.position));
        (org, key)
    };
    rows_of(entry).into_keys().map(key).collect()
}

/// Where a day is listed.
pub(super) fn day_key(org: &OrgId, day: u64) -> ItemKey {
    ItemKey::new(days_partition(org), day_sort(day))
}

fn row_partition(org: &OrgId, day: u64) -> String {
    format!("O#{org}#A#{day}")
}
fn days_partition(org: &OrgId) -> String {
    format!("O#{org}#A")
}
fn day_sort(day: u64) -> String {
    format!("{day:020}")
}

/// What one write of the index carries.
#[derive(Default)]
struct Chunk {
    rows: Vec<Action>,
    days: BTreeMap<(OrgId, u64), Timestamp>,
    finished: Vec<ChainId>,
}

/// Keeps the index.
#[derive(Debug)]
pub(super) struct Indexer {
    lanes: Arc<Lanes>,
    state: Option<IndexState>,
    /// The listed days of the day that is being indexed, and how far back each goes.
    listed: HashMap<(OrgId, u64), Timestamp>,
}

impl Indexer {
    pub(super) fn new(lanes: Arc<Lanes>) -> Self {
        Self { lanes, state: None, listed: HashMap::new() }
    }

    /// Indexes `fresh`, or what stands in the log before it. Answers the position up to which
    /// everything is indexed, and whether there may be more.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, RECORD_REJECTED; WRITE_CONFLICT when the lease is lost.
    pub(super) async fn advance(
        &mut self,
        lease: &Lease,
        fresh: &[Entry],
        deadline: Deadline,
    ) -> Result<(u64, bool), Failure> {
        let mut state = match self.state.take() {
            Some(state) => state,
            None => IndexState::load(&self.lanes.records, deadline).await?,
        };
        let is_next = fresh.first().is_some_and(|entry| entry.position == state.next);
        let read = if is_next { Vec::new() } else { entries(&self.lanes.records, state.next, deadline).await? };
        let entries = if is_next { fresh } else { &read };
        let mut chunk = Chunk::default();
        for entry in entries {
            let day = u64::try_from(entry.time.day()).unwrap_or_default();
            let header = &entry.batch.header;
            for (org, (row, from)) in rows_of(entry) {
                if chunk.rows.len() == ROWS_MAX {
                    // The state stays behind this batch: a row beyond it is not read.
                    state = self.write(lease, std::mem::take(&mut chunk), state, deadline).await?;
                }
                chunk.rows.push(row.put(&org, day));
                let earliest = chunk.days.entry((org, day)).or_insert(from);
                *earliest = from.min(*earliest);
            }
            state.next = entry.position + 1;
            state.chains.insert(header.chain.clone(), header.batch);
            if header.kind == BatchKind::Seal {
                state.chains.remove(&header.chain);
                chunk.finished.push(header.chain.clone());
            }
            if chunk.finished.len() == 10 {
                state = self.write(lease, std::mem::take(&mut chunk), state, deadline).await?;
            }
        }
        if !entries.is_empty() {
            state = self.write(lease, chunk, state, deadline).await?;
        }
        let next = state.next;
        self.state = Some(state);
        Ok((next - 1, !entries.is_empty() && !is_next))
    }

    async fn write(
        &mut self,
        lease: &Lease,
        chunk: Chunk,
        state: IndexState,
        deadline: Deadline,
    ) -> Result<IndexState, Failure> {
        let (put, revision) = state.put(&self.lanes.records);
        let mut actions = vec![lease.check(), put];
        let today = chunk.days.keys().map(|(_, day)| *day).max().unwrap_or_default();
        self.listed.retain(|(_, day), _| *day + 1 >= today);
        let days = self.unlisted(chunk.days, deadline).await?;
        actions.extend(chunk.rows);
        actions.extend(days.iter().map(|((org, day), from)| {
            let key = ItemKey::new(days_partition(org), day_sort(*day));
            Action::Put(NewItem::new(key, Builder::new().time("from", *from).build()), Condition::Any)
        }));
        actions.extend(
            chunk.finished.iter().map(|chain| Action::Delete(ItemKey::new(OPEN, chain.as_str()), Condition::Any)),
        );
        self.lanes.commit(actions, deadline).await?;
        self.listed.extend(days);
        Ok(IndexState { revision: Some(revision), ..state })
    }

    /// Those of `days` whose row is absent, or does not go back far enough.
    async fn unlisted(
        &self,
        days: BTreeMap<(OrgId, u64), Timestamp>,
        deadline: Deadline,
    ) -> Result<Vec<((OrgId, u64), Timestamp)>, Failure> {
        let days: Vec<_> =
            days.into_iter().filter(|(day, from)| self.listed.get(day).is_none_or(|listed| from < listed)).collect();
        if days.is_empty() {
            return Ok(days);
        }
        let keys: Vec<ItemKey> =
            days.iter().map(|((org, day), _)| ItemKey::new(days_partition(org), day_sort(*day))).collect();
        let items = self.lanes.records.get(&keys, deadline).await?;
        let earliest = |((day, from), item): (((OrgId, u64), Timestamp), Option<Item>)| {
            let listed = item.as_ref().map(read_day).transpose()?;
            Ok((day, listed.map_or(from, |listed| listed.from.min(from))))
        };
        days.into_iter().zip(items).map(earliest).collect()
    }
}

/// The batch's rows, one for each organization, with the earliest time of its records.
fn rows_of(entry: &Entry) -> BTreeMap<OrgId, (IndexRow, Timestamp)> {
    let header = &entry.batch.header;
    let mut rows = BTreeMap::new();
    for (bytes, index) in entry.batch.records.iter().zip(0_u16..) {
        let Some((org, time)) = Whose::read(bytes).and_then(|record| {
            let org = OrgId::parse("org", &record.org).ok()?;
            Some((org, record.timestamp()))
        }) else {
            tracing::error!(chain = %header.chain, batch = header.batch, index, "an audit record names no organization");
            continue;
        };
        let (row, earliest) = rows.entry(org).or_insert_with(|| {
            let records = Vec::new();
            (IndexRow { position: entry.position, chain: header.chain.clone(), batch: header.batch, records }, time)
        });
        row.records.push(index);
        *earliest = time.min(*earliest);
    }
    rows
}
