//! The janitor's queue: `DUE#day#0..f`, rows `time#org#kind#id`, written in the transaction that
//! makes something due. The rows carry no MAC: what they name is read and verified before it is
//! touched. Their sort keys say all that is needed, so that one whose content is damaged is done, too.
//! `PROJ`/`janitor` says before which day nothing is left; a row that can't be done is put off to a
//! later day, so that it holds up no mark.

use aws_lc_rs::digest;

use crate::{
    domain::{
        clock::{Deadline, Timestamp},
        error::Failure,
        ids::{KeyId, KeyName, OrgId, Uid},
        key::KeyRecord,
    },
    repository::{
        fields::{Builder, Fields},
        records::{Expected, Records},
    },
    store::{Action, Attributes, Condition, Item, ItemKey, NewItem, Order, Query, SortRange},
};

/// How many partitions a day is spread over.
pub const BUCKETS: u8 = 16;

/// A key to be purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The row.
    pub row: ItemKey,
    /// The key.
    pub name: KeyName,
    /// Which key of that name; None when the row's content can't be read.
    pub uid: Option<Uid>,
}

/// Where the janitor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Before this day nothing is left.
    pub day: i64,
    /// The item's revision.
    pub revision: u64,
}

/// Writes the row of a deleted key; None for one that is not to be purged.
#[must_use]
pub fn put(record: &KeyRecord) -> Option<Action> {
    let time = record.purges?;
    let attributes = attributes(&record.name, Some(&record.uid), time);
    Some(Action::Put(NewItem::new(row_key(&record.name, time), attributes), Condition::Any))
}

/// Deletes the row of a deleted key, if it has one.
#[must_use]
pub fn delete(record: &KeyRecord) -> Option<Action> {
    let time = record.purges?;
    Some(Action::Delete(row_key(&record.name, time), Condition::Any))
}

/// Puts a row off: it is found again at `until`, wherever the mark stands by then.
#[must_use]
pub fn put_off(due: &Due, until: Timestamp) -> [Action; 2] {
    let attributes = attributes(&due.name, due.uid.as_ref(), until);
    [
        Action::Delete(due.row.clone(), Condition::Any),
        Action::Put(NewItem::new(row_key(&due.name, until), attributes), Condition::Any),
    ]
}

/// What is due on `day` in `bucket` at `now`, at most `limit`, and where to go on.
///
/// # Errors
/// STORE_UNAVAILABLE. A row whose sort key names no key is left out.
pub async fn page(
    records: &Records,
    day: i64,
    bucket: u8,
    now: Timestamp,
    limit: usize,
    after: Option<String>,
    deadline: Deadline,
) -> Result<(Vec<Due>, Option<String>), Failure> {
    let query = Query {
        partition: format!("DUE#{day}#{bucket:x}"),
        // The row of this very microsecond ends in its organization, hence the tilde.
        range: SortRange::Between("0".to_owned(), format!("{}~", sortable(now))),
        order: Order::Ascending,
        limit,
        after,
    };
    let page = records.query(query, deadline).await?;
    Ok((page.items.iter().filter_map(due).collect(), page.next))
}

/// Up to which day nothing is left; None: nobody looked yet.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn mark(records: &Records, deadline: Deadline) -> Result<Option<Mark>, Failure> {
    let Some(item) = records.get_verified(mark_key(), deadline).await? else { return Ok(None) };
    Ok(Some(Mark { day: item.int("day")?, revision: item.revision() }))
}

/// Moves the mark, or makes it.
#[must_use]
pub fn put_mark(records: &Records, before: Option<Mark>, day: i64) -> Action {
    let expected = before.map_or(Expected::Absent, |mark| Expected::Revision(mark.revision));
    records.put(NewItem::new(mark_key(), Builder::new().int("day", day).build()), expected)
}

fn mark_key() -> ItemKey {
    ItemKey::new("PROJ", "janitor")
}

fn due(item: &Item) -> Option<Due> {
    let mut parts = item.key.sort.splitn(4, '#');
    let (Some(_), Some(org), Some("key"), Some(id)) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        tracing::error!(sort = item.key.sort, "a row of the janitor's queue names no key");
        return None;
    };
    let name = KeyName { org: OrgId::parse("org", org).ok()?, id: KeyId::parse("id", id).ok()? };
    Some(Due { row: item.key.clone(), name, uid: item.attributes.text("uid").ok().map(Uid::stored) })
}

fn attributes(name: &KeyName, uid: Option<&Uid>, time: Timestamp) -> Attributes {
    Builder::new()
        .text("kind", "key")
        .text("org", name.org.as_str())
        .text("id", name.id.as_str())
        .opt_text("uid", uid.map(Uid::as_str))
        .time("time", time)
        .build()
}

fn row_key(name: &KeyName, time: Timestamp) -> ItemKey {
    let hash = digest::digest(&digest::SHA256, name.to_string().as_bytes());
    let bucket = hash.as_ref().first().map_or(0, |byte| byte % BUCKETS);
    let sort = format!("{}#{}#key#{}", sortable(time), name.org, name.id);
    ItemKey::new(format!("DUE#{}#{bucket:x}", time.day()), sort)
}

fn sortable(time: Timestamp) -> String {
    format!("{:020}", time.micros().max(0))
}
