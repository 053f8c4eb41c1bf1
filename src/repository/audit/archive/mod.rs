//! What of the log has left for the archive: the state, the roots that stand in its place, and who
//! moves it there ([`Archiver`]). Knows neither settings nor a rhythm.
//!
//! The log leaves by its order: what is archived is always all positions below one, the *floor*, of
//! every chain and organization. A file (`format`) holds whole rows of the order: of one day, of
//! one segment and at most about [`FILE_BATCHES_MAX`] batches, so that its bounds follow from the
//! log alone and an interrupted run writes the same file again. A day leaves as a whole, once it and
//! every record of it is older than the retention, and the index and every projection have passed
//! it.
//!
//! In this order, each step durable before the next, and each good to be done again:
//! 1. the file is written and synchronised;
//! 2. it is read back and checked: structure, counts, leaves, roots, headers, chains, digest;
//! 3. one transaction writes its root, moves the floor, and records `audit.archive`: from here on no
//!    reader sees what is below;
//! 4. batches, runs, rows of the order and of the index, and rows of chains that ended are deleted,
//!    some at a time; the state says how far.
//!
//! | partition | sort | what |
//! |---|---|---|
//! | `A#ROOTS` | first position | root of a file: last position, records, time of its last row, its digest and that of the file before; number and header hash of the last batch of each chain that goes on, and of each that ended in it; signed |
//! | `A#SEQ` | `ARCHIVE` | the floor, how far the deletion has come, records below the floor, time of the last row below it; signed |
//!
//! Projections: what is below the floor can't be folded again. A projection's rows hold absolute
//! totals and stay; a rebuild begins at the floor and adds to them what is behind their `as_of`, no
//! more. A projection that is new begins at the floor, and knows nothing of the time before, and so
//! does a row that was lost. The projection's name stands in `projection::names`: nothing leaves that it has not passed.

use crate::{
    domain::{
        clock::{Deadline, Timestamp},
        error::Failure,
    },
    repository::{
        fields::{Builder, Fields, rejected},
        records::{Expected, Records, Verified},
    },
    store::{Action, Attributes, ItemKey, NewItem, Order, Query, SortRange},
};

use super::{batch::ChainId, log::position_sort, tree::Hash};

mod archiver;
mod directory;
pub mod format;
pub mod offline;
#[cfg(test)]
mod tests;

pub use archiver::{Archived, Archiver, Trouble};
pub use directory::{Directory, Entry};

use format::{ChainEnd, Chains, Summary};

/// Behind so many batches a file ends with the row that it has come to.
pub const FILE_BATCHES_MAX: u64 = 16_384;

/// The partition of the roots.
const ROOTS: &str = "A#ROOTS";

/// How much has left: `A#SEQ`/`ARCHIVE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveState {
    /// The first position that is left.
    pub floor: u64,
    /// The first position that is not deleted yet; at most the floor.
    pub deleted: u64,
    /// Records below the floor.
    pub records: u64,
    /// The time of the last row below the floor; None when nothing has left.
    pub until: Option<Timestamp>,
    revision: Option<u64>,
}

impl ArchiveState {
    fn key() -> ItemKey {
        ItemKey::new("A#SEQ", "ARCHIVE")
    }
    /// Reads it; before the first file the floor is position 1.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, RECORD_REJECTED.
    pub async fn load(records: &Records, deadline: Deadline) -> Result<Self, Failure> {
        let Some(item) = records.get_verified(Self::key(), deadline).await? else {
            return Ok(Self { floor: 1, deleted: 1, records: 0, until: None, revision: None });
        };
        Ok(Self {
            floor: item.number("floor")?,
            deleted: item.number("deleted")?,
            records: item.number("records")?,
            until: Some(item.time("until")?),
            revision: Some(item.revision()),
        })
    }
    fn put(&self, records: &Records) -> Action {
        let expected = self.revision.map_or(Expected::Absent, Expected::Revision);
        let attributes = Builder::new()
            .count("floor", self.floor)
            .count("deleted", self.deleted)
            .count("records", self.records)
            .time("until", self.until.unwrap_or_default())
            .build();
        records.put(NewItem::new(Self::key(), attributes), expected)
    }
    /// As it is once that put is committed.
    fn written(self) -> Self {
        let expected = self.revision.map_or(Expected::Absent, Expected::Revision);
        Self { revision: Some(expected.next_revision()), ..self }
    }
}

/// What stands in the place of a file's part of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The file's content.
    pub summary: Summary,
    /// The last batch of each chain that is not sealed, however long ago it was.
    pub open: Chains,
    /// The seal of each chain that ended in the file.
    pub ended: Chains,
}

impl Root {
    /// The file's name.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry { first: self.summary.first, last: self.summary.last }
    }
    fn key(first: u64) -> ItemKey {
        ItemKey::new(ROOTS, position_sort(first))
    }
    /// `chains` as they stand after the file of `summary`.
    fn new(summary: Summary, chains: Chains) -> Self {
        let (ended, open) = chains.into_iter().partition(|(_, end)| end.is_sealed);
        Self { summary, open, ended }
    }
    fn put(&self, records: &Records) -> Action {
        let ends = |chains: &Chains| {
            let end = |(chain, end): (&ChainId, &ChainEnd)| {
                Builder::new().text("chain", chain.as_str()).count("last", end.last).bytes("hash", end.hash).build()
            };
            chains.iter().map(end).collect::<Vec<_>>()
        };
        let Summary { first, last, records: count, until, previous, digest } = &self.summary;
        let attributes = Builder::new()
            .count("last", *last)
            .count("records", *count)
            .time("until", *until)
            .bytes("previous", *previous)
            .bytes("digest", *digest)
            .maps("open", ends(&self.open))
            .maps("ended", ends(&self.ended))
            .build();
        records.put(NewItem::new(Self::key(*first), attributes), Expected::Absent)
    }
    fn read(item: &Verified) -> Result<Self, Failure> {
        let summary = Summary {
            first: item.item().key.sort.parse().map_err(|_| rejected("first"))?,
            last: item.number("last")?,
            records: item.number("records")?,
            until: item.time("until")?,
            previous: item.array("previous")?,
            digest: item.array("digest")?,
        };
        let ends = |name, is_sealed| {
            let ends = item.maps(name)?.into_iter().map(|end| read_end(end, is_sealed));
            ends.collect::<Result<Chains, Failure>>()
        };
        Ok(Self { summary, open: ends("open", false)?, ended: ends("ended", true)? })
    }
}

fn read_end(end: &Attributes, is_sealed: bool) -> Result<(ChainId, ChainEnd), Failure> {
    let chain = ChainId::parse(end.text("chain")?).ok_or_else(|| rejected("chain"))?;
    let hash: Hash = end.array("hash")?;
    Ok((chain, ChainEnd { last: end.number("last")?, hash, is_sealed }))
}

/// The roots behind the one that begins with position `after`, in order, some of them; none at the
/// end.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn roots(records: &Records, after: Option<u64>, deadline: Deadline) -> Result<Vec<Root>, Failure> {
    let after = after.map(position_sort);
    read_roots(records, Order::Ascending, 100, after, deadline).await
}

/// The root of the last file; None when nothing has left.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn last_root(records: &Records, deadline: Deadline) -> Result<Option<Root>, Failure> {
    Ok(read_roots(records, Order::Descending, 1, None, deadline).await?.into_iter().next())
}

async fn read_roots(
    records: &Records,
    order: Order,
    limit: usize,
    after: Option<String>,
    deadline: Deadline,
) -> Result<Vec<Root>, Failure> {
    let query = Query { partition: ROOTS.to_owned(), range: SortRange::All, order, limit, after };
    let page = records.query(query, deadline).await?;
    page.items.into_iter().map(|item| Root::read(&records.verify(item)?)).collect()
}
