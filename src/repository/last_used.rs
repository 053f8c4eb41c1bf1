//! When a key or a token was last used: a projection of the audit log in `O#org#LU`. A key is used
//! when its value leaves or a client learns that the one it has is current; a token whenever a
//! record names it; a token's row goes [`TOKENS_KEPT`] after its last use.

use std::{collections::BTreeMap, time::Duration};

use super::{
    fields::{Builder, Fields},
    projection::{Change, Changes, Projection, Seen, Tally, What, as_of},
    records::Records,
};
use crate::{
    domain::{
        clock::{Deadline, Timestamp},
        error::Failure,
        ids::{KeyId, KeyName, OrgId, TokenId},
    },
    store::{Action, Condition, ITEMS_MAX, Item, ItemKey, NewItem},
};

/// How long after a token was last used that is kept: tokens without bound come and go.
pub const TOKENS_KEPT: Duration = Duration::from_secs(400 * 86_400);

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
        found.extend(items.into_iter().flatten().flatten().filter_map(|item| Some((item.key.clone(), time(&item)?))));
    }
    Ok(wanted.iter().map(|key| found.get(key).copied()).collect())
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

fn time(row: &Item) -> Option<Timestamp> {
    row.attributes.time("used").ok()
}

/// The projection.
pub(super) const PROJECTION: Projection = Projection { name: "last-used", changes };

fn changes(tally: &Tally, from: u64) -> Changes<'_> {
    let mut rows = BTreeMap::<ItemKey, LastUse>::new();
    let mut add = |org: &str, row: String, seen: &Seen| {
        let (time, as_of) = (seen.latest, seen.last.0);
        if as_of >= from {
            let last = rows.entry(ItemKey::new(partition(org), row)).or_insert(LastUse { time, as_of });
            *last = LastUse { time: last.time.max(time), as_of: last.as_of.max(as_of) };
        }
    };
    for (used, seen) in tally.uses() {
        if matches!(used.what, What::Released | What::Checked) && KeyId::parse("key", &used.key).is_ok() {
            add(&used.org, key_row(&used.key), seen);
        }
    }
    for (used, seen) in tally.tokens() {
        add(&used.org, token_row(&used.token), seen);
    }
    rows.into_iter().map(|(key, last)| (key, Box::new(last) as Box<dyn Change>)).collect()
}

/// A last use, and the position of the batch that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LastUse {
    time: Timestamp,
    as_of: u64,
}

impl Change for LastUse {
    fn row(&self, key: &ItemKey, before: Option<&Item>) -> Option<NewItem> {
        let before = before.and_then(|row| Some(Self { time: time(row)?, as_of: as_of(row)? }));
        if before.is_some_and(|before| before.as_of >= self.as_of) {
            return None;
        }
        // Times of a log are not in its order.
        let time = before.map_or(self.time, |before| before.time.max(self.time));
        let attributes = Builder::new().time("used", time).count("as_of", self.as_of).build();
        // Whole days, so that it does not matter when the row is written. A key's row goes with it.
        let day_end = Timestamp::from_seconds(time.day().saturating_add(1).saturating_mul(86_400));
        let expires = key.sort.starts_with("T#").then(|| day_end.plus(TOKENS_KEPT));
        Some(NewItem { expires, ..NewItem::new(key.clone(), attributes) })
    }
}
