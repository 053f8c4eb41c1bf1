//! How often keys are retrieved and retrievals refused: a projection of the audit log.
//!
//! | partition | sort | what |
//! |---|---|---|
//! | `O#org#U#day` | `H#hour#shard` | the counts of an hour, kept for [`HOURS_KEPT`] |
//! | `O#org#U#day` | `D#shard` | the counts of the whole day, kept for [`DAYS_KEPT`] |
//!
//! Day and hour are those of the call, in UTC. A row's `cells` ([`cells`]) are its counts by key,
//! token and client; the shard, one of 16, is of the key's id. Provider and environment stand with
//! the key: they never change while it has its uid. Labels do not: they are free text, and what
//! stands in the log or is added up from it can't be taken back; who asks by label is answered by
//! the labels that the key has when he asks. So however many keys and tokens there are, a tick
//! touches at most 16 rows of an organization's hour and 16 of its day, a row has at most 400,000
//! bytes, and a day has at most 400 rows.
//!
//! A retrieval is a record that says that the value may have left; if opening it failed, a second
//! record counts as a failure. Retrievals with made-up values are not counted: nothing of a key
//! left.

use std::{collections::BTreeMap, time::Duration};

use super::{
    fields::{Builder, Fields as _},
    projection::{Change, Changes, Projection, Seen, Tally, Use, as_of},
    records::Records,
};
use crate::{
    domain::{
        clock::{Deadline, Timestamp},
        error::Failure,
        ids::OrgId,
    },
    store::{Item, ItemKey, NewItem, Order, Query, SortRange},
};

pub mod cells;
#[cfg(test)]
mod tests;

use cells::{Cell, Cells, Counts, ROOM};

/// How long the counts of an hour are kept.
pub const HOURS_KEPT: Duration = Duration::from_secs(100 * DAY_SECONDS);
/// How long the counts of a day are kept.
pub const DAYS_KEPT: Duration = Duration::from_secs(400 * DAY_SECONDS);

const DAY_SECONDS: u64 = 86_400;
const HOURS_OF_A_DAY: i64 = 24;
/// Rows of one bucket.
const SHARDS: u8 = 16;

/// How finely usage is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// By hours.
    Hour,
    /// By days.
    Day,
}

impl Bucket {
    /// How long one is.
    #[must_use]
    pub const fn span(self) -> Duration {
        match self {
            Self::Hour => Duration::from_secs(3_600),
            Self::Day => Duration::from_secs(DAY_SECONDS),
        }
    }
    /// The number of the one that `time` is in, counted from the Unix epoch.
    #[must_use]
    pub fn of(self, time: Timestamp) -> i64 {
        time.seconds().div_euclid(self.seconds())
    }
    /// When number `number` begins.
    #[must_use]
    pub fn start(self, number: i64) -> Timestamp {
        Timestamp::from_seconds(number.saturating_mul(self.seconds()))
    }
    /// How long its counts are kept.
    #[must_use]
    pub const fn kept(self) -> Duration {
        match self {
            Self::Hour => HOURS_KEPT,
            Self::Day => DAYS_KEPT,
        }
    }
    /// The first number of the day after that of number `number`.
    #[must_use]
    pub fn next_day(self, number: i64) -> i64 {
        match self {
            Self::Hour => (self.day(number) + 1) * HOURS_OF_A_DAY,
            Self::Day => number + 1,
        }
    }
    fn seconds(self) -> i64 {
        self.span().as_secs().cast_signed()
    }
    fn day(self, number: i64) -> i64 {
        match self {
            Self::Hour => number.div_euclid(HOURS_OF_A_DAY),
            Self::Day => number,
        }
    }
    /// What the sort keys of the bucket's rows begin with.
    fn prefix(self, number: i64) -> String {
        match self {
            Self::Hour => format!("H#{:02}#", number.rem_euclid(HOURS_OF_A_DAY)),
            Self::Day => "D#".to_owned(),
        }
    }
    /// The bucket of a row of `day`.
    fn number(self, day: i64, sort: &str) -> Option<i64> {
        match self {
            Self::Hour => {
                let hour: i64 = sort.strip_prefix("H#")?.get(..2)?.parse().ok()?;
                Some(day * HOURS_OF_A_DAY + hour)
            }
            Self::Day => sort.starts_with("D#").then_some(day),
        }
    }
    /// The end of the day that it is in, and as long as it is kept: all of a day leave together.
    fn expires(self, day: i64) -> Timestamp {
        Self::Day.start(day.saturating_add(1)).plus(self.kept())
    }
}

/// The counts of one bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Its number.
    pub number: i64,
    /// By what.
    pub cells: BTreeMap<Cell, Counts>,
}

/// The organization's first bucket from number `from` on, within its day, that anything was counted
/// in; None: there is none in that day. A row that can't be read is left out.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn first_of_day(
    records: &Records,
    org: &OrgId,
    bucket: Bucket,
    from: i64,
    now: Timestamp,
    deadline: Deadline,
) -> Result<Option<Counted>, Failure> {
    let day = bucket.day(from);
    if bucket.expires(day) <= now {
        return Ok(None);
    }
    let last = match bucket {
        Bucket::Hour => "H#~",
        Bucket::Day => "D#~",
    };
    let mut after = None;
    let mut found: Option<Counted> = None;
    loop {
        let query = Query {
            partition: partition(org.as_str(), day),
            range: SortRange::Between(bucket.prefix(from), last.to_owned()),
            order: Order::Ascending,
            limit: SHARDS.into(),
            after,
        };
        let page = records.query(query, deadline).await?;
        for row in &page.items {
            let Some(number) = bucket.number(day, &row.key.sort) else { continue };
            let counted = found.get_or_insert_with(|| Counted { number, ..Counted::default() });
            if counted.number != number {
                return Ok(found);
            }
            let cells = read(row).map(|(cells, _)| cells.into_inner()).unwrap_or_default();
            for (cell, counts) in cells {
                *counted.cells.entry(cell).or_default() += counts;
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(found),
        }
    }
}

fn partition(org: &str, day: i64) -> String {
    format!("O#{org}#U#{day}")
}

fn read(row: &Item) -> Option<(Cells, u64)> {
    Some((Cells::decode(row.attributes.bytes("cells").ok()?)?, as_of(row)?))
}

/// The projection.
pub(super) const PROJECTION: Projection = Projection { name: "usage", changes };

fn changes(tally: &Tally, from: u64) -> Changes<'_> {
    let mut rows = BTreeMap::<ItemKey, Added<'_>>::new();
    for (used, seen) in tally.uses().filter(|(_, seen)| seen.last.0 >= from) {
        let [shard, ..] = super::audit::tree::sha256(&[used.key.as_bytes()]);
        for bucket in [Bucket::Hour, Bucket::Day] {
            let day = used.hour.div_euclid(HOURS_OF_A_DAY);
            let sort = format!("{}{:x}", bucket.prefix(used.hour), shard % SHARDS);
            let row = rows.entry(ItemKey::new(partition(&used.org, day), sort));
            let row = row.or_insert_with(|| Added { from, expires: bucket.expires(day), uses: Vec::new() });
            row.uses.push((used, seen));
        }
    }
    rows.into_iter().map(|(key, added)| (key, Box::new(added) as Box<dyn Change>)).collect()
}

/// What is added to one row, in the order in which it was first seen.
#[derive(Debug)]
struct Added<'a> {
    from: u64,
    expires: Timestamp,
    uses: Vec<(&'a Use, &'a Seen)>,
}

impl Change for Added<'_> {
    fn row(&self, key: &ItemKey, before: Option<&Item>) -> Option<NewItem> {
        let (mut cells, before) = before.and_then(read).unwrap_or_default();
        let after = before.max(self.from.saturating_sub(1));
        let last = self.uses.iter().map(|(_, seen)| seen.last.0).max().filter(|last| *last > after)?;
        for (used, seen) in &self.uses {
            let count = seen.count_after(after);
            if count > 0 {
                cells.add(Cell::of(used), Counts::of(used.what, count), &ROOM);
            }
        }
        let attributes = Builder::new().count("as_of", last).bytes("cells", cells.encode()).build();
        Some(NewItem { expires: Some(self.expires), ..NewItem::new(key.clone(), attributes) })
    }
}
