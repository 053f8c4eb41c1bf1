//! Provider keys: `O#org#K#key` with `META` (the record and the CURRENT version's sealed value)
//! and `V#00000007` (each version's own record and sealed value), and the rows that are found by
//! something else. Of a destroyed key `LAST` is left, the last number of its versions: a client that
//! compares version names never takes the next key of that name for it. What is sealed is never
//! opened here.

use std::sync::Arc;

use crate::{
    domain::{
        clock::Deadline,
        error::Failure,
        ids::{KeyId, KeyName, OrgId, Uid},
        key::{KeyRecord, Version},
    },
    repository::{
        consumers,
        fields::{self, Builder, Fields},
        last_used,
        records::{Expected, Records, Verified},
    },
    store::{Action, Condition, Item, ItemKey, NewItem, Order, Query, SharedItem, SortRange},
};

mod codec;
pub mod due;
pub mod listing;
pub mod lookup;

/// A key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// Its record.
    pub record: KeyRecord,
    /// The CURRENT version's sealed value; None where there is no such version.
    pub sealed: Option<Vec<u8>>,
}

/// A version as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVersion {
    /// The uid of the key that it is of: a name may have belonged to another key before.
    pub key_uid: Uid,
    /// Its record; what counts of its stage the key's own record knows.
    pub version: Version,
    /// What the caller who verified it had tried.
    pub evidence: String,
    /// Its sealed value; None once destroyed.
    pub sealed: Option<Vec<u8>>,
    /// The item's revision.
    pub revision: u64,
}

impl StoredVersion {
    /// One that is not written yet.
    #[must_use]
    pub fn new(key_uid: Uid, version: Version, sealed: Option<Vec<u8>>) -> Self {
        Self { key_uid, version, evidence: String::new(), sealed, revision: 0 }
    }
}

/// The partition of a key.
#[must_use]
pub fn partition(org: &OrgId, key: &KeyId) -> String {
    ["O#", org.as_str(), "#K#", key.as_str()].concat()
}

/// Where a key's record lives.
#[must_use]
pub fn meta_key(org: &OrgId, key: &KeyId) -> ItemKey {
    ItemKey::new(partition(org, key), "META")
}

/// Whether `at` is the [`meta_key`] of `key`; made for the path of a retrieval, it builds none.
fn is_meta_key(at: &ItemKey, org: &OrgId, key: &KeyId) -> bool {
    let rest = at.partition.strip_prefix("O#").and_then(|rest| rest.strip_prefix(org.as_str()));
    at.sort == "META" && rest.and_then(|rest| rest.strip_prefix("#K#")) == Some(key.as_str())
}

/// Where a version's record lives.
#[must_use]
pub fn version_key(org: &OrgId, key: &KeyId, number: u32) -> ItemKey {
    ItemKey::new(partition(org, key), format!("V#{number:08}"))
}

/// The key in `item`, which was read for `key` of `org`; its MAC is verified here.
///
/// # Errors
/// RECORD_REJECTED.
pub fn open(records: &Records, org: &OrgId, key: &KeyId, item: Item) -> Result<StoredKey, Failure> {
    let item = expect(records, item, &meta_key(org, key))?;
    codec::key(KeyName { org: org.clone(), id: key.clone() }, item)
}

/// [`open`], verified and decoded once for all readers that share `item`.
///
/// # Errors
/// RECORD_REJECTED.
pub fn open_shared(records: &Records, org: &OrgId, key: &KeyId, item: &SharedItem) -> Result<Arc<StoredKey>, Failure> {
    if !is_meta_key(&item.key, org, key) {
        return Err(fields::rejected("key"));
    }
    records.decoded(item, |verified| codec::key(KeyName { org: org.clone(), id: key.clone() }, verified))
}

/// The version in `item`, which was read for version `number` of `record`'s key.
///
/// # Errors
/// RECORD_REJECTED.
pub fn open_version(records: &Records, record: &KeyRecord, number: u32, item: Item) -> Result<StoredVersion, Failure> {
    let item = expect(records, item, &version_key(&record.name.org, &record.name.id, number))?;
    let stored = codec::version(item)?;
    if stored.version.number != number || stored.key_uid != record.uid {
        return Err(fields::rejected("key_uid"));
    }
    Ok(stored)
}

/// Writes a key's record: Absent for revision 0, else the revision that it was read at.
#[must_use]
pub fn put(records: &Records, record: &KeyRecord, sealed: Option<Vec<u8>>) -> Action {
    let key = meta_key(&record.name.org, &record.name.id);
    let item = NewItem { sealed, ..NewItem::new(key, codec::key_attributes(record)) };
    records.put(item, expected(record.revision))
}

/// Writes a version's record: Absent for revision 0, else the revision that it was read at.
#[must_use]
pub fn put_version(records: &Records, name: &KeyName, stored: &StoredVersion) -> Action {
    let key = version_key(&name.org, &name.id, stored.version.number);
    let item = NewItem { sealed: stored.sealed.clone(), ..NewItem::new(key, codec::stored_attributes(stored)) };
    records.put(item, expected(stored.revision))
}

fn delete_version(name: &KeyName, stored: &StoredVersion) -> Vec<Action> {
    let version = &stored.version;
    let key = version_key(&name.org, &name.id, version.number);
    let mut actions = vec![Action::Delete(key, Condition::Revision(stored.revision))];
    actions.extend(lookup::delete_fingerprint(name, version));
    actions
}

/// What is left of the destroyed keys of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// The highest number of their versions; 0: there were none.
    pub last_version: u32,
    revision: u64,
}

/// Where it stands what is left of the destroyed keys of a name; absent while there is a key.
#[must_use]
pub fn left_key(org: &OrgId, key: &KeyId) -> ItemKey {
    ItemKey::new(partition(org, key), "LAST")
}

/// What `item`, read for `key` of `org`, says.
///
/// # Errors
/// RECORD_REJECTED.
pub fn open_left(records: &Records, org: &OrgId, key: &KeyId, item: Option<Item>) -> Result<Left, Failure> {
    let Some(item) = item else { return Ok(Left::default()) };
    let item = expect(records, item, &left_key(org, key))?;
    Ok(Left { last_version: item.number("last_version")?, revision: item.revision() })
}

/// Goes with the first record of a key: nobody has created or destroyed one meanwhile.
#[must_use]
pub fn take_left(name: &KeyName, left: Left) -> Action {
    let key = left_key(&name.org, &name.id);
    match left.revision {
        0 => Action::Check(key, Condition::Absent),
        revision => Action::Delete(key, Condition::Revision(revision)),
    }
}

/// Deletes a key's record and every row by which it is found, and leaves its last number; its
/// versions are deleted apart.
#[must_use]
pub fn delete(records: &Records, record: &KeyRecord) -> Vec<Action> {
    let name = &record.name;
    let mut actions = vec![Action::Delete(meta_key(&name.org, &name.id), Condition::Revision(record.revision))];
    actions.extend([listing::delete(record), last_used::delete_key(name), consumers::delete(record)]);
    actions.extend(lookup::delete_routes(record));
    if record.last_version > 0 {
        let left = Builder::new().int("last_version", record.last_version).build();
        actions.push(records.put(NewItem::new(left_key(&name.org, &name.id), left), Expected::Absent));
    }
    actions
}

/// Reads several versions of one key, in order.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED; a version that is not there counts as rejected.
pub async fn versions(
    records: &Records,
    record: &KeyRecord,
    numbers: &[u32],
    deadline: Deadline,
) -> Result<Vec<StoredVersion>, Failure> {
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let KeyName { org, id } = &record.name;
    let keys: Vec<_> = numbers.iter().map(|number| version_key(org, id, *number)).collect();
    let items = records.get(&keys, deadline).await?;
    let open = |(number, item): (&u32, Option<Item>)| {
        open_version(records, record, *number, item.ok_or_else(|| fields::rejected("version"))?)
    };
    numbers.iter().zip(items).map(open).collect()
}

/// A page of a key's versions, newest first, and where the next begins. One whose record does not
/// verify is left out.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn version_page(
    records: &Records,
    record: &KeyRecord,
    limit: usize,
    after: Option<String>,
    deadline: Deadline,
) -> Result<(Vec<StoredVersion>, Option<String>), Failure> {
    let (versions, next) = each_version(records, record, limit, after, deadline).await?;
    let sound = versions.into_iter().filter_map(|version| {
        let broken =
            |_| tracing::warn!(key = %record.name, "a version's record does not verify: the listing leaves it out");
        version.map_err(broken).ok()
    });
    Ok((sound.collect(), next))
}

/// [`version_page`], with a RECORD_REJECTED in the place of a version whose record does not verify.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn each_version(
    records: &Records,
    record: &KeyRecord,
    limit: usize,
    after: Option<String>,
    deadline: Deadline,
) -> Result<(Vec<Result<StoredVersion, Failure>>, Option<String>), Failure> {
    let query = Query {
        partition: partition(&record.name.org, &record.name.id),
        range: SortRange::Prefix("V#".to_owned()),
        order: Order::Descending,
        limit,
        after,
    };
    let page = records.query(query, deadline).await?;
    let open = |item: Item| {
        let number = item.key.sort.strip_prefix("V#").and_then(|number| number.parse().ok());
        open_version(records, record, number.ok_or_else(|| fields::rejected("number"))?, item)
    };
    Ok((page.items.into_iter().map(open).collect(), page.next))
}

/// The deletions of at most `limit` versions of a key with their fingerprint rows, and whether
/// there are more. A version that can't be read is deleted as it is.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn removals(
    records: &Records,
    record: &KeyRecord,
    limit: usize,
    deadline: Deadline,
) -> Result<(Vec<Action>, bool), Failure> {
    let query = Query {
        partition: partition(&record.name.org, &record.name.id),
        range: SortRange::Prefix("V#".to_owned()),
        order: Order::Ascending,
        limit,
        after: None,
    };
    let page = records.query(query, deadline).await?;
    let mut actions = Vec::new();
    for item in page.items {
        let key = item.key.clone();
        let number = key.sort.strip_prefix("V#").and_then(|number| number.parse().ok());
        match number.and_then(|number| open_version(records, record, number, item).ok()) {
            Some(stored) => actions.extend(delete_version(&record.name, &stored)),
            None => {
                actions.push(Action::Delete(key, Condition::Any));
                // What its own record can't tell, the key's may.
                let listed = number.and_then(|number| record.version(number));
                actions.extend(listed.and_then(|version| lookup::delete_fingerprint(&record.name, version)));
            }
        }
    }
    Ok((actions, page.next.is_some()))
}

fn expect(records: &Records, item: Item, key: &ItemKey) -> Result<Verified, Failure> {
    // The MAC binds an item to its own place; this binds the place to what was asked for.
    if item.key != *key {
        return Err(fields::rejected("key"));
    }
    records.verify(item)
}

fn expected(revision: u64) -> Expected {
    if revision == 0 { Expected::Absent } else { Expected::Revision(revision) }
}

#[cfg(test)]
mod tests;
