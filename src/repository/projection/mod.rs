//! Projections of the audit log: what it says, added up so that it can be asked for. One read of
//! the log serves all of them (`Tally`); each has rows of its own, and a watermark in
//! `PROJ`/name.
//!
//! A row holds its absolute total, and `as_of`, the position of the last batch that was applied to
//! it; only later batches are. So a crash between two writes loses and doubles nothing: what is
//! folded again changes no row that has it. The watermark says where to resume, no more. What a row
//! says depends on the records and their order alone, never on how many were folded at once: rows
//! that are rebuilt from nothing are equal.
//!
//! Rows are not signed: nothing is decided by them, and [`begin_again`] makes them anew. A rebuild
//! of a log that is whole begins a new generation: a row of an older one counts as absent to who
//! writes, and is read until it is written over. Once a part of the log has left for the archive,
//! what a row says of it can't be told again: then the generation stays, a row takes in only what
//! is behind its `as_of`, and only what is gone or can't be read is made anew, from what is left.
//!
//! What is added up is written when the last writing has been paid for nineteen times over by
//! waiting: the projections take about a twentieth of a writer's time at most, whatever is stored.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use super::{
    audit::{
        archive::ArchiveState,
        log::{Entry, LogState, is_in_order, open_chains},
    },
    consumers,
    fields::{Builder, Fields as _},
    last_used,
    lease::Lease,
    records::{Expected, Records},
    usage,
};
use crate::{
    domain::{
        clock::{Deadline, Timestamp},
        error::Failure,
    },
    store::{Action, Condition, ITEMS_MAX, Item, ItemKey, NewItem, WRITE_BYTES_MAX, limits::item_bytes},
};

mod event;
mod tally;
#[cfg(test)]
mod tests;

pub(super) use event::What;
pub(super) use tally::{Seen, Tally, Use};

/// Every projection.
const PROJECTIONS: [Projection; 3] = [last_used::PROJECTION, usage::PROJECTION, consumers::PROJECTION];

/// The names of their watermarks in `PROJ`.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PROJECTIONS.into_iter().map(|projection| projection.name)
}

/// The most rows of one write: the lease and the watermarks go with the last.
const ROWS_MAX: usize = ITEMS_MAX - 1 - PROJECTIONS.len();
/// The most bytes of rows of one write: what is left is for lease, watermarks and their like.
const BYTES_MAX: usize = WRITE_BYTES_MAX - (64 << 10);
/// How many rows are read at once: of the largest, within what one read may bring.
const READ_AT_ONCE: usize = 32;
/// Beyond so much in memory it is written, whether it is time or not.
const TALLY_MAX: usize = 50_000;
/// The same of counts, one for each use and batch: 16 MB.
const COUNTS_MAX: usize = 1_000_000;
/// The longest that what is added up waits to be written.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// One projection.
pub(super) struct Projection {
    /// Its watermark's name.
    pub(super) name: &'static str,
    /// What a tally's records, from a position on, change in its rows.
    pub(super) changes: for<'a> fn(&'a Tally, u64) -> Changes<'a>,
}

/// What changes in each row.
pub(super) type Changes<'a> = BTreeMap<ItemKey, Box<dyn Change + 'a>>;

/// What changes in one row.
pub(super) trait Change: Send + Sync + fmt::Debug {
    /// The row with it, in place of `before`; None: it is in it already. Its `as_of` is the
    /// position of the last batch that counts for this row.
    fn row(&self, key: &ItemKey, before: Option<&Item>) -> Option<NewItem>;
}

/// The position of the last batch that was applied to a row.
pub(super) fn as_of(row: &Item) -> Option<u64> {
    row.attributes.number("as_of").ok()
}

/// What makes every projection begin again at the first position of the log that is left, the next
/// time that it is folded: to be written while nobody folds.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn begin_again(records: &Records, deadline: Deadline) -> Result<Vec<Action>, Failure> {
    let marks = Watermark::load_all(records, deadline).await?;
    let floor = ArchiveState::load(records, deadline).await?.floor;
    let end = LogState::load(records, deadline).await?.next;
    let begin = |mark: Watermark| {
        // A watermark that was lost meanwhile forgot its generation: the log's end, which only
        // rises, is beyond any that its rows have.
        let generation = if floor > 1 { mark.generation } else { end.max(mark.generation + 1) };
        Watermark { generation, until: None, ..mark }.put(records, floor).0
    };
    Ok(marks.into_iter().map(begin).collect())
}

/// Up to when what was recorded is in the rows of the projection `name`, as `now` is; None: not
/// known. What it says holds for rows that are read after it.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub(super) async fn folded_until(
    records: &Records,
    name: &str,
    now: Timestamp,
    deadline: Deadline,
) -> Result<Option<Timestamp>, Failure> {
    // In this order, what moves meanwhile only makes it say less.
    let marks = Watermark::load_all(records, deadline).await?;
    let Some(mark) = marks.into_iter().find(|mark| mark.name == name) else { return Ok(None) };
    let open = open_chains(records, deadline).await?;
    let state = LogState::load(records, deadline).await?;
    let is_folded = mark.next >= state.next && is_in_order(records, &open, &state, deadline).await?;
    Ok(if is_folded { Some(now) } else { mark.until })
}

/// Folds the log into rows. Who drives it reads the log, holds the lease and writes.
#[derive(Debug, Default)]
pub(super) struct Projections {
    marks: Option<[Watermark; PROJECTIONS.len()]>,
    tally: Tally,
    /// The next position to be taken.
    next: u64,
    /// Everything that was recorded before then is taken; None: not known.
    until: Option<Timestamp>,
    /// Before then nothing is written, unless it must be.
    rests_until: Option<Instant>,
}

impl Projections {
    /// The next position that is wanted.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, RECORD_REJECTED.
    pub(super) async fn next(&mut self, records: &Records, deadline: Deadline) -> Result<u64, Failure> {
        if self.marks.is_none() {
            let marks = Watermark::load_all(records, deadline).await?;
            self.next = marks.iter().map(|mark| mark.next).min().unwrap_or(1);
            self.marks = Some(marks);
        }
        Ok(self.next)
    }

    /// Adds up those of `entries` that were not taken yet; they follow one another.
    pub(super) fn take(&mut self, entries: &[Entry]) {
        for entry in entries {
            if entry.position >= self.next {
                self.tally.take(entry);
                self.next = entry.position + 1;
            }
        }
    }

    /// Everything that was recorded before `until` was taken.
    pub(super) fn reached(&mut self, until: Timestamp) {
        self.until = self.until.max(Some(until));
    }

    /// Whether it is time to write.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_full() || self.rests_until.is_none_or(|until| until <= now)
    }
    /// Whether nothing more should be taken before writing.
    pub(super) fn is_full(&self) -> bool {
        self.tally.len() >= TALLY_MAX || self.tally.counts() >= COUNTS_MAX
    }
    /// What was written took `took` and ended at `now`: a fiftieth of the time may go into it.
    pub(super) fn rest(&mut self, now: Instant, took: Duration) {
        self.rests_until = now.checked_add((took * 49).min(WAIT_MAX));
    }

    /// Writes what was taken. After a failure it is to be dropped: what is stored says where to
    /// resume.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE; WRITE_CONFLICT when the lease is lost or a row was changed meanwhile.
    pub(super) async fn write<W>(
        &mut self,
        records: &Records,
        lease: &Lease,
        write: impl Fn(Vec<Action>) -> W,
        now: Timestamp,
        deadline: impl Fn() -> Deadline,
    ) -> Result<(), Failure>
    where
        W: Future<Output = Result<(), Failure>>,
    {
        let Some(marks) = self.marks.take() else { return Ok(()) };
        if marks.iter().all(|mark| mark.next >= self.next) {
            self.marks = Some(marks);
            return Ok(());
        }
        let tally = std::mem::take(&mut self.tally);
        let changes: Vec<_> = PROJECTIONS
            .iter()
            .zip(&marks)
            .flat_map(|(projection, mark)| {
                let changes = (projection.changes)(&tally, mark.next);
                changes.into_iter().map(|(key, change)| (mark.generation, key, change))
            })
            .collect();
        let mut load = Load::new(lease);
        for changes in changes.chunks(READ_AT_ONCE) {
            let keys: Vec<ItemKey> = changes.iter().map(|(_, key, _)| key.clone()).collect();
            let before = records.get_each(&keys, deadline()).await?;
            for ((generation, key, change), before) in changes.iter().zip(before) {
                let Some((row, condition)) = put(*generation, key, &**change, before, now) else { continue };
                let bytes = item_bytes(&row.key, None, None, &row.attributes);
                if !load.has_room(bytes) {
                    write(std::mem::replace(&mut load, Load::new(lease)).actions).await?;
                }
                load.add(Action::Put(row, condition), bytes);
            }
        }
        let moved = marks.map(|mark| {
            // One that is ahead of the others stays there.
            let next = mark.next.max(self.next);
            let mark = Watermark { until: mark.until.max(self.until), ..mark };
            let (put, moved) = mark.put(records, next);
            load.actions.push(put);
            moved
        });
        write(load.actions).await?;
        self.marks = Some(moved);
        Ok(())
    }
}

/// The row as it is to be written, and under which condition.
fn put(
    generation: u64,
    key: &ItemKey,
    change: &(dyn Change + '_),
    before: Result<Option<Item>, Failure>,
    now: Timestamp,
) -> Option<(NewItem, Condition)> {
    let (before, condition, generation) = match before {
        Ok(Some(item)) => {
            let condition = Condition::Revision(item.revision);
            let its = item.attributes.opt_number("generation").ok().flatten().unwrap_or(0);
            // One of a later generation was there before the watermark was lost: it is kept.
            (Some(item).filter(|_| its >= generation), condition, its.max(generation))
        }
        Ok(None) => (None, Condition::Absent, generation),
        // Nothing can be told of it but that it is no row: it is written over.
        Err(_) => (None, Condition::Any, generation),
    };
    let mut row = change.row(key, before.as_ref())?;
    // What the store would sweep at once is not written.
    if row.expires.is_some_and(|expires| expires <= now) {
        return None;
    }
    if generation > 0 {
        row.attributes.extend(Builder::new().count("generation", generation).build());
    }
    Some((row, condition))
}

/// What one write carries.
struct Load {
    actions: Vec<Action>,
    bytes: usize,
}

impl Load {
    fn new(lease: &Lease) -> Self {
        Self { actions: vec![lease.check()], bytes: 0 }
    }
    fn has_room(&self, bytes: usize) -> bool {
        self.actions.len() <= ROWS_MAX && self.bytes + bytes <= BYTES_MAX
    }
    fn add(&mut self, action: Action, bytes: usize) {
        self.actions.push(action);
        self.bytes += bytes;
    }
}

/// How far a projection has come: `PROJ`/name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watermark {
    name: &'static str,
    /// The next position to be folded.
    next: u64,
    /// Counts rebuilds.
    generation: u64,
    /// Everything that was recorded before then is folded; None: not known.
    until: Option<Timestamp>,
    revision: Option<u64>,
}

impl Watermark {
    async fn load_all(records: &Records, deadline: Deadline) -> Result<[Self; PROJECTIONS.len()], Failure> {
        let fresh = PROJECTIONS.map(|Projection { name, .. }| Self {
            name,
            next: 1,
            generation: 0,
            until: None,
            revision: None,
        });
        let items = records.get(&fresh.map(|mark| ItemKey::new("PROJ", mark.name)), deadline).await?;
        let mut marks = fresh;
        for (mark, item) in marks.iter_mut().zip(items) {
            if let Some(item) = item {
                let item = records.verify(item)?;
                mark.next = item.number("next")?;
                mark.generation = item.opt_number("generation")?.unwrap_or(0);
                mark.until = item.opt_time("until")?;
                mark.revision = Some(item.revision());
            }
        }
        Ok(marks)
    }
    /// Moved to `next`.
    fn put(self, records: &Records, next: u64) -> (Action, Self) {
        let expected = self.revision.map_or(Expected::Absent, Expected::Revision);
        let generation = (self.generation > 0).then(|| i64::try_from(self.generation).unwrap_or(i64::MAX));
        let attributes =
            Builder::new().count("next", next).opt_int("generation", generation).opt_time("until", self.until).build();
        let item = NewItem::new(ItemKey::new("PROJ", self.name), attributes);
        (records.put(item, expected), Self { next, revision: Some(expected.next_revision()), ..self })
    }
}
