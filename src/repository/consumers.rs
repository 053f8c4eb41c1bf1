//! Who was handed which version of a key last: a projection of the audit log in `O#org#C#key`, one
//! row for each uid that the key's name ever had, so that consumers of a destroyed key are not
//! those of another that got its name.
//!
//! A consumer is a subject, a token and a client identity. Consumers without bound, a token for
//! each request say, must not fill the store or hide the others: of one subject and client
//! [`TOKENS_MAX`] tokens are kept, and of all that [`CONSUMERS_MAX`]. Who holds an old version is
//! what is asked for, so that those with the newest go first. A row that left someone out says so,
//! for good; which ones it left out may depend on how much of the log was folded at once. A row goes
//! with its key, or [`CONSUMERS_KEPT`] after it was last used.
//!
//! Handed is what may have left, though opening it failed; and a version of which a caller learned
//! that it is still the one he has.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use prost::Message as _;

use super::{
    fields::{Builder, Fields as _, rejected},
    projection::{Change, Changes, Projection, Seen, Tally, Use, What, as_of, folded_until},
    records::Records,
};
use crate::{
    domain::{
        clock::{Deadline, Timestamp},
        error::Failure,
        ids::{KeyName, Uid},
        key::KeyRecord,
    },
    store::{Action, Condition, Item, ItemKey, NewItem},
};

/// How many consumers of a key are kept.
pub const CONSUMERS_MAX: usize = 512;
/// How many tokens of one subject and client are kept among them.
pub const TOKENS_MAX: usize = 32;
/// How long after a consumer was last seen it is kept.
pub const CONSUMERS_KEPT: Duration = Duration::from_secs(400 * 86_400);

/// Who is handed versions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// Whom the token speaks for.
    pub subject: String,
    /// The token's id.
    pub token: String,
    /// The client's identity, at most 255 bytes of it.
    pub client: String,
}

/// What it was handed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// The version.
    pub version: u32,
    /// When.
    pub time: Timestamp,
    /// Where the log says so: position, and index in the batch.
    place: (u64, u32),
}

/// Those of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consumers {
    /// In order.
    pub each: BTreeMap<Holder, Handed>,
    /// There were more than are kept.
    pub is_truncated: bool,
}

/// The consumers of the key `name` that has `uid`.
///
/// # Errors
/// STORE_UNAVAILABLE; RECORD_REJECTED for a row that can't be read: it does not say that there is
/// nobody.
pub async fn of_key(
    records: &Records,
    name: &KeyName,
    uid: &Uid,
    now: Timestamp,
    deadline: Deadline,
) -> Result<Consumers, Failure> {
    let key = row_key(name.org.as_str(), name.id.as_str(), uid.as_str());
    let Some(row) = records.get_each(&[key], deadline).await?.into_iter().next().transpose()?.flatten() else {
        return Ok(Consumers::default());
    };
    let mut consumers = read(&row).ok_or_else(|| rejected("consumers"))?;
    consumers.each.retain(|_, handed| handed.time.plus(CONSUMERS_KEPT) > now);
    Ok(consumers)
}

/// Up to when everybody who was handed something is among the consumers of its key; None: not known.
/// To be asked before they are.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn as_of_time(records: &Records, now: Timestamp, deadline: Deadline) -> Result<Option<Timestamp>, Failure> {
    folded_until(records, PROJECTION.name, now, deadline).await
}

/// Deletes the row of a key that goes. Folding the log may write it again; its uid is no other
/// key's ever.
#[must_use]
pub fn delete(record: &KeyRecord) -> Action {
    let KeyName { org, id } = &record.name;
    Action::Delete(row_key(org.as_str(), id.as_str(), record.uid.as_str()), Condition::Any)
}

fn row_key(org: &str, key: &str, uid: &str) -> ItemKey {
    ItemKey::new(format!("O#{org}#C#{key}"), uid)
}

/// The projection.
pub(super) const PROJECTION: Projection = Projection { name: "consumers", changes };

fn changes(tally: &Tally, from: u64) -> Changes<'_> {
    let mut rows = BTreeMap::<ItemKey, Fresh<'_>>::new();
    let handed = |used: &Use| matches!(used.what, What::Released | What::Checked) && used.version > 0;
    for (used, seen) in tally.uses().filter(|(used, seen)| handed(used) && seen.last.0 >= from) {
        if !used.key.is_empty() && !used.uid.is_empty() {
            rows.entry(row_key(&used.org, &used.key, &used.uid)).or_default().0.push((used, seen));
        }
    }
    rows.into_iter().map(|(key, fresh)| (key, Box::new(fresh) as Box<dyn Change>)).collect()
}

/// What one row takes in.
#[derive(Debug, Default)]
struct Fresh<'a>(Vec<(&'a Use, &'a Seen)>);

impl Change for Fresh<'_> {
    fn row(&self, key: &ItemKey, before: Option<&Item>) -> Option<NewItem> {
        let as_of = before.and_then(as_of).unwrap_or_default();
        let mut consumers = before.and_then(read).unwrap_or_default();
        let last = self.0.iter().map(|(_, seen)| seen.last.0).max().filter(|last| *last > as_of)?;
        for (used, seen) in &self.0 {
            let Use { subject, token, client, version, .. } = (*used).clone();
            let fresh = Handed { version, time: seen.last_time, place: seen.last };
            let handed = consumers.each.entry(Holder { subject, token, client }).or_insert(fresh);
            if handed.place < fresh.place {
                *handed = fresh;
            }
        }
        let consumers = bounded(consumers);
        let latest = consumers.each.values().map(|handed| handed.time).max().unwrap_or_default();
        // Whole days, so that it does not matter when the row is written.
        let expires = Timestamp::from_seconds(latest.day().saturating_add(1).saturating_mul(86_400));
        let attributes = Builder::new().count("as_of", last).bytes("consumers", encode(consumers)).build();
        Some(NewItem { expires: Some(expires.plus(CONSUMERS_KEPT)), ..NewItem::new(key.clone(), attributes) })
    }
}

/// Those that are kept: first who holds the oldest version, and of these who was seen last.
fn bounded(consumers: Consumers) -> Consumers {
    let count = consumers.each.len();
    let mut ranked: Vec<_> = consumers.each.into_iter().collect();
    ranked.sort_unstable_by_key(|(_, handed)| (handed.version, Reverse(handed.place)));
    let mut tokens = HashMap::<(String, String), usize>::new();
    let is_kept = |(holder, _): &(Holder, Handed)| {
        let count = tokens.entry((holder.subject.clone(), holder.client.clone())).or_default();
        *count += 1;
        *count <= TOKENS_MAX
    };
    let each: BTreeMap<_, _> = ranked.into_iter().filter(is_kept).take(CONSUMERS_MAX).collect();
    Consumers { is_truncated: consumers.is_truncated || each.len() < count, each }
}

fn read(row: &Item) -> Option<Consumers> {
    let Stored { names, consumers, is_truncated } = Stored::decode(row.attributes.bytes("consumers").ok()?).ok()?;
    let name = |at: u32| names.get(usize::try_from(at).ok()?).cloned();
    let consumer = |stored: StoredConsumer| {
        let holder =
            Holder { subject: name(stored.subject)?, token: name(stored.token)?, client: name(stored.client)? };
        let StoredConsumer { version, micros, position, index, .. } = stored;
        Some((holder, Handed { version, time: Timestamp::from_micros(micros), place: (position, index) }))
    };
    let each = consumers.into_iter().map(consumer).collect::<Option<_>>()?;
    Some(Consumers { each, is_truncated })
}

fn encode(Consumers { each, is_truncated }: Consumers) -> Vec<u8> {
    let texts = |holder: &Holder| [holder.subject.clone(), holder.token.clone(), holder.client.clone()];
    let names: BTreeSet<String> = each.keys().flat_map(texts).collect();
    let names: Vec<String> = names.into_iter().collect();
    let at = |text: &String| names.binary_search(text).ok().and_then(|at| u32::try_from(at).ok()).unwrap_or_default();
    let consumers = each.iter().map(|(holder, handed)| StoredConsumer {
        subject: at(&holder.subject),
        token: at(&holder.token),
        client: at(&holder.client),
        version: handed.version,
        micros: handed.time.micros(),
        position: handed.place.0,
        index: handed.place.1,
    });
    let consumers = consumers.collect();
    Stored { names, consumers, is_truncated }.encode_to_vec()
}

/// As the consumers are stored: each text once, in order.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Stored {
    #[prost(string, repeated, tag = "1")]
    names: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    consumers: Vec<StoredConsumer>,
    #[prost(bool, tag = "3")]
    is_truncated: bool,
}

/// One consumer; its texts are places among the names.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct StoredConsumer {
    #[prost(uint32, tag = "1")]
    subject: u32,
    #[prost(uint32, tag = "2")]
    token: u32,
    #[prost(uint32, tag = "3")]
    client: u32,
    #[prost(uint32, tag = "4")]
    version: u32,
    #[prost(int64, tag = "5")]
    micros: i64,
    #[prost(uint64, tag = "6")]
    position: u64,
    #[prost(uint32, tag = "7")]
    index: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumer(token: usize, version: u32, seen: u64) -> (Holder, Handed) {
        let holder = Holder { subject: "s".into(), token: format!("{token:03}"), client: "c".into() };
        (holder, Handed { version, time: Timestamp::from_seconds(9), place: (seen, 0) })
    }

    #[test]
    fn who_holds_an_old_version_is_kept_before_who_was_seen_last() {
        let (old, many) = (consumer(999, 1, 1), TOKENS_MAX as u64);
        let newer = (0..many).map(|n| consumer(n as usize, 2, 10 + n));
        let bound = bounded(Consumers { each: newer.clone().chain([old.clone()]).collect(), is_truncated: false });
        assert_eq!((bound.each.len(), bound.is_truncated), (TOKENS_MAX, true));
        assert_eq!(bound.each.get(&old.0), Some(&old.1));
        assert!(!bound.each.contains_key(&consumer(0, 2, 10).0), "of the newest the one that was seen first goes");

        // It stays known, in the store, too.
        let bound = bounded(Consumers { each: [old].into(), ..bound });
        assert!(bound.is_truncated);
        let attributes = Builder::new().bytes("consumers", encode(bound.clone())).build();
        let key = row_key("acme", "k", "u");
        let row = Item { key, revision: 1, expires: None, sealed: None, mac: None, attributes };
        assert_eq!(read(&row), Some(bound));
        assert!(!bounded(Consumers { each: newer.collect(), is_truncated: false }).is_truncated);
    }
}
