//! When a key or a token was last used: a projection of the audit log in `O#org#LU`.
//!
//! A row holds the absolute time and `as_of`, the position of the last batch that was applied to
//! it; only later batches are, so that folding the log again changes nothing, and rebuilt rows are
//! equal. A key is used when its value leaves or a client learns that the one it has is current; a
//! token whenever a record names it. The rows are not signed: they decide nothing.

use std::collections::BTreeMap;

use super::{
    audit::{AuditRecord, log::Entry},
    fields::{Builder, Fields},
    lease::Lease,
    records::{Expected, Records},
};
use crate::{
    domain::{
        audit::{Action as Done, Outcome},
        clock::{Deadline, Timestamp},
        error::Failure,
        ids::{KeyId, KeyName, OrgId, TokenId},
    },
    store::{Action, Condition, ITEMS_MAX, Item, ItemKey, NewItem},
};

/// When each of `keys` was last retrieved, in order; None: never, or not folded yet.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn keys(
    records: &Records,
    org: &OrgId,
    keys: &[KeyId],
    deadline: Deadline,
) -> Result<Vec<Option<Timestamp>>, Failure> {
    times(records, org, keys.iter().map(|key| key_row(key.as_str())), deadline).await
}

/// When each of `tokens` was last used, in order; None: never, or not folded yet.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn tokens(
    records: &Records,
    org: &OrgId,
    tokens: &[TokenId],
    deadline: Deadline,
) -> Result<Vec<Option<Timestamp>>, Failure> {
    times(records, org, tokens.iter().map(|token| token_row(token.as_str())), deadline).await
}

/// Deletes the row of a key that goes. Folding the log may write it again, with a time before that
/// of any later key of the name.
#[must_use]
pub fn delete_key(key: &KeyName) -> Action {
    Action::Delete(ItemKey::new(partition(key.org.as_str()), key_row(key.id.as_str())), Condition::Any)
}

async fn times(
    records: &Records,
    org: &OrgId,
    rows: impl Iterator<Item = String>,
    deadline: Deadline,
) -> Result<Vec<Option<Timestamp>>, Failure> {
    let wanted: Vec<ItemKey> = rows.map(|row| ItemKey::new(partition(org.as_str()), row)).collect();
    // A store reads distinct keys.
    let mut distinct = wanted.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let mut found = BTreeMap::new();
    for keys in distinct.chunks(ITEMS_MAX) {
        // A last use that can't be read is not known: what it is of is shown without it.
        let items = records.get_each(keys, deadline).await?;
        found.extend(items.into_iter().flatten().flatten().filter_map(|item| Some((item.key.clone(), used(&item)?))));
    }
    Ok(wanted.iter().map(|key| found.get(key).map(|used| used.time)).collect())
}

fn partition(org: &str) -> String {
    format!("O#{org}#LU")
}
fn key_row(key: &str) -> String {
    format!("K#{key}")
}
fn token_row(token: &str) -> String {
    let hash = super::audit::tree::sha256(&[token.as_bytes()]);
    format!("T#{}", data_encoding::HEXLOWER.encode(&hash))
}

/// A last use, and the position up to which it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Used {
    time: Timestamp,
    as_of: u64,
}

fn used(item: &Item) -> Option<Used> {
    Some(Used { time: item.attributes.time("used").ok()?, as_of: item.attributes.number("as_of").ok()? })
}

/// What the batches say was used when, by row.
#[derive(Debug, Default)]
pub(super) struct Fold(BTreeMap<ItemKey, Used>);

impl Fold {
    /// Of these batches, which follow one another.
    pub(super) fn of(entries: &[Entry]) -> Self {
        let mut fold = Self::default();
        for entry in entries {
            let records = entry.batch.records.iter().filter_map(|bytes| AuditRecord::read(bytes));
            records.for_each(|record| fold.apply(&record, entry.position));
        }
        fold
    }
    fn apply(&mut self, record: &AuditRecord, position: u64) {
        if OrgId::parse("org", &record.org).is_err() {
            return;
        }
        let key = used_key(record).map(key_row);
        let token = (!record.token_id.is_empty()).then(|| token_row(&record.token_id));
        for row in [key, token].into_iter().flatten() {
            let used = Used { time: record.timestamp(), as_of: position };
            let entry = self.0.entry(ItemKey::new(partition(&record.org), row)).or_insert(used);
            *entry = Used { time: entry.time.max(used.time), as_of: position };
        }
    }

    /// Writes the rows that are behind; the last write carries `last`, too.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE; WRITE_CONFLICT when the lease is lost or a row was changed meanwhile.
    pub(super) async fn write<W>(
        self,
        records: &Records,
        lease: &Lease,
        last: Action,
        write: impl Fn(Vec<Action>) -> W,
        deadline: Deadline,
    ) -> Result<(), Failure>
    where
        W: Future<Output = Result<(), Failure>>,
    {
        const ROWS_MAX: usize = ITEMS_MAX - 2;
        let keys: Vec<ItemKey> = self.0.keys().cloned().collect();
        let mut chunks = keys.chunks(ROWS_MAX).peekable();
        if chunks.peek().is_none() {
            return write(vec![lease.check(), last]).await;
        }
        let mut last = Some(last);
        while let Some(keys) = chunks.next() {
            let items = records.get(keys, deadline).await?;
            let mut actions = vec![lease.check()];
            actions.extend(keys.iter().zip(items).filter_map(|(key, item)| self.put(key, item)));
            if chunks.peek().is_none() {
                actions.extend(last.take());
            }
            write(actions).await?;
        }
        Ok(())
    }

    fn put(&self, key: &ItemKey, item: Option<Item>) -> Option<Action> {
        let fresh = self.0.get(key)?;
        let before = item.as_ref().and_then(used);
        if before.is_some_and(|before| before.as_of >= fresh.as_of) {
            return None;
        }
        let time = before.map_or(fresh.time, |before| before.time.max(fresh.time));
        let attributes = Builder::new().time("used", time).count("as_of", fresh.as_of).build();
        let condition = item.map_or(Condition::Absent, |item| Condition::Revision(item.revision));
        Some(Action::Put(NewItem::new(key.clone(), attributes), condition))
    }
}

/// The key that this record says was used.
fn used_key(record: &AuditRecord) -> Option<&str> {
    const USES: [Done; 3] = [Done::KeyRetrieve, Done::KeyAcquire, Done::KeyCheck];
    if record.ended() != Some(Outcome::Allowed) || !USES.iter().any(|action| action.as_str() == record.action) {
        return None;
    }
    let rest = record.resource.strip_prefix("orgs/")?.strip_prefix(record.org.as_str())?.strip_prefix("/keys/")?;
    rest.split('/').next().filter(|key| KeyId::parse("key", key).is_ok())
}

/// How far the projection has come: `PROJ`/`last-used`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watermark {
    /// The next position to be folded.
    pub(super) next: u64,
    revision: Option<u64>,
}

impl Watermark {
    fn key() -> ItemKey {
        ItemKey::new("PROJ", "last-used")
    }
    pub(super) async fn load(records: &Records, deadline: Deadline) -> Result<Self, Failure> {
        let Some(item) = records.get_verified(Self::key(), deadline).await? else {
            return Ok(Self { next: 1, revision: None });
        };
        Ok(Self { next: item.number("next")?, revision: Some(item.revision()) })
    }
    /// Moved on to `next`.
    pub(super) fn put(self, records: &Records, next: u64) -> (Action, Self) {
        let expected = self.revision.map_or(Expected::Absent, Expected::Revision);
        let item = NewItem::new(Self::key(), Builder::new().count("next", next).build());
        (records.put(item, expected), Self { next, revision: Some(expected.next_revision()) })
    }
}
