//! Items that carry a MAC: who can write the database still can't make himself an admin.
//!
//! The MAC's bytes are the length of the key's id (one byte), the id, and a tag of 32 bytes. The
//! tag is HMAC-SHA-256 (RFC 2104) over a list of byte strings, each prefixed by its length as 8
//! bytes, big-endian:
//! 1. `ibyok record 1`
//! 2. the partition
//! 3. the sort key
//! 4. the revision, 8 bytes
//! 5. the expiry in seconds, 8 bytes; nothing when there is none
//! 6. one byte: whether there is a sealed value
//! 7. the sealed value
//! 8. the attributes, as a map
//!
//! A value is written as its type (one byte) and then: 1 text or 4 bytes: length, content; 2
//! number: 8 bytes; 3 truth: one byte; 5 list: count and values; 6 map: count, then for each name,
//! in bytewise order, its length, the name, the value. Lengths, counts and numbers are 8 bytes,
//! big-endian. That is no adapter's encoding, so that a record can move between databases.
//!
//! Such items are written only with Absent or Revision(n), so that the writer knows the revision
//! that he signs.

use std::sync::Arc;

use super::fields::Fields;
use crate::{
    domain::{
        clock::{Deadline, Entropy, Timestamp, random},
        error::{Failure, Reason},
        framing,
        mac::{MacRing, TAG_LEN},
    },
    store::{
        Action, Attributes, Condition, Item, ItemKey, ItemStore, NewItem, Page, Query, SharedItem, StoreError, Value,
        WriteId, Written,
    },
};

#[cfg(test)]
mod tests;

/// An item whose MAC held. Decoders of records take only this; [`Fields`] reads its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified(Item);

impl Verified {
    /// The item.
    #[must_use]
    pub fn item(&self) -> &Item {
        &self.0
    }
    /// The item.
    #[must_use]
    pub fn into_item(self) -> Item {
        self.0
    }
    /// Its revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.revision
    }
    /// Its sealed value.
    ///
    /// # Errors
    /// RECORD_REJECTED when it has none.
    pub fn sealed(&self) -> Result<&[u8], Failure> {
        self.0.sealed.as_deref().ok_or_else(|| rejected("there is no sealed value"))
    }
}

impl Fields for Verified {
    fn attributes(&self) -> &Attributes {
        &self.0.attributes
    }
}

/// Under which condition a MAC'd item is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// There must be none.
    Absent,
    /// It must have this revision.
    Revision(u64),
}

impl Expected {
    /// The revision that the item has once it is written.
    #[must_use]
    pub fn next_revision(self) -> u64 {
        match self {
            Self::Absent => 1,
            Self::Revision(revision) => revision.saturating_add(1),
        }
    }
}

impl From<Expected> for Condition {
    fn from(expected: Expected) -> Self {
        match expected {
            Expected::Absent => Self::Absent,
            Expected::Revision(revision) => Self::Revision(revision),
        }
    }
}

/// The store, and the keys that sign its records.
#[derive(Clone, Debug)]
pub struct Records {
    store: Arc<dyn ItemStore>,
    ring: Arc<MacRing>,
}

impl Records {
    /// Records of `store` under `ring`.
    #[must_use]
    pub fn new(store: Arc<dyn ItemStore>, ring: Arc<MacRing>) -> Self {
        Self { store, ring }
    }
    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ItemStore> {
        &self.store
    }
    /// A put that signs `item` at the revision that it will have. Its expiry is cut to whole
    /// seconds.
    #[must_use]
    pub fn put(&self, mut item: NewItem, expected: Expected) -> Action {
        item.expires = item.expires.map(|expires| Timestamp::from_seconds(expires.seconds()));
        item.mac = sign(&self.ring, &item, expected.next_revision());
        Action::Put(item, expected.into())
    }
    /// Lets `item` through if its MAC holds.
    ///
    /// # Errors
    /// RECORD_REJECTED.
    pub fn verify(&self, item: Item) -> Result<Verified, Failure> {
        if is_signed(&self.ring, &item) { Ok(Verified(item)) } else { Err(rejected("its MAC does not hold")) }
    }
    /// Reads items; their MACs are not looked at here, each is verified when it is decoded.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn get(&self, keys: &[ItemKey], deadline: Deadline) -> Result<Vec<Option<Item>>, Failure> {
        let items = self.store.get(keys, deadline).await?;
        Ok(items.into_iter().map(|item| item.map(SharedItem::into_item)).collect())
    }
    /// [`Self::get`] without a copy where the store has an item in memory: for the path of a
    /// retrieval.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn get_shared(&self, keys: &[ItemKey], deadline: Deadline) -> Result<Vec<Option<SharedItem>>, Failure> {
        Ok(self.store.get(keys, deadline).await?)
    }
    /// What `decode` makes of the record in `item`, if its MAC holds. Both happen once for as long
    /// as the store has the item in memory: the keys of the MACs stay for the server's life.
    ///
    /// # Errors
    /// RECORD_REJECTED; those of `decode`.
    pub fn decoded<T: Send + Sync + 'static>(
        &self,
        item: &SharedItem,
        decode: impl FnOnce(Verified) -> Result<T, Failure>,
    ) -> Result<Arc<T>, Failure> {
        item.made(|item| decode(self.verify(item.clone())?))
    }
    /// Reads items of which one that can't be read must not hide the others: a listing's.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE; in the place of an item RECORD_REJECTED.
    pub async fn get_each(
        &self,
        keys: &[ItemKey],
        deadline: Deadline,
    ) -> Result<Vec<Result<Option<Item>, Failure>>, Failure> {
        match self.get(keys, deadline).await {
            Ok(items) => return Ok(items.into_iter().map(Ok).collect()),
            // The store does not say which.
            Err(failure) if failure.reason == Reason::RecordRejected => {}
            Err(failure) => return Err(failure),
        }
        let mut each = Vec::with_capacity(keys.len());
        for key in keys {
            each.push(match self.get(std::slice::from_ref(key), deadline).await {
                Ok(items) => Ok(items.into_iter().next().flatten()),
                Err(failure) if failure.reason == Reason::RecordRejected => Err(failure),
                Err(failure) => return Err(failure),
            });
        }
        Ok(each)
    }
    /// Reads one item and lets it through if its MAC holds.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, RECORD_REJECTED.
    pub async fn get_verified(&self, key: ItemKey, deadline: Deadline) -> Result<Option<Verified>, Failure> {
        let keys = [key];
        let items = self.get(&keys, deadline).await?;
        let Some(item) = items.into_iter().next().flatten() else { return Ok(None) };
        if !keys.contains(&item.key) {
            return Err(rejected("it is not the item that was asked for"));
        }
        self.verify(item).map(Some)
    }
    /// Writes `actions` of which none is expected to meet another state than it says.
    ///
    /// # Errors
    /// WRITE_CONFLICT when one did, and nothing happened; STORE_UNAVAILABLE when that is so, or not known.
    pub async fn commit(&self, entropy: &dyn Entropy, actions: Vec<Action>, deadline: Deadline) -> Result<(), Failure> {
        let id = random::<16>(entropy).map_err(|error| Failure::new(Reason::Internal).caused_by(error))?;
        match self.store.write(WriteId(id), actions, deadline).await? {
            Written::Committed => Ok(()),
            Written::Conflict { .. } => Err(Reason::WriteConflict.into()),
            Written::Unknown => Err(Reason::StoreUnavailable.into()),
        }
    }
    /// Reads a page.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn query(&self, query: Query, deadline: Deadline) -> Result<Page, Failure> {
        Ok(self.store.query(query, deadline).await?)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let failure = match error {
            StoreError::Unavailable(_) | StoreError::Throttled => {
                Self::new(Reason::StoreUnavailable).retry_after(std::time::Duration::from_secs(1))
            }
            StoreError::Contract(_) => Self::new(Reason::Internal),
            StoreError::Corrupt(_) => Self::new(Reason::RecordRejected),
        };
        failure.caused_by(error)
    }
}

/// Nested deeper than any record of ours.
const DEPTH_MAX: usize = 16;

fn rejected(why: &'static str) -> Failure {
    Failure::new(Reason::RecordRejected).caused_by(why)
}

/// The parts of an item that the MAC covers.
struct Signed<'a> {
    key: &'a ItemKey,
    revision: u64,
    expires: Option<Timestamp>,
    sealed: Option<&'a [u8]>,
    attributes: &'a Attributes,
}

impl Signed<'_> {
    /// Gives the parts to `then`; None for what no record of ours can be.
    fn with_parts<T>(&self, then: impl FnOnce([&[u8]; 8]) -> T) -> Option<T> {
        let expires = match self.expires {
            None => Vec::new(),
            // A fraction of a second is not signed, so there must be none.
            Some(time) if Timestamp::from_seconds(time.seconds()) != time => return None,
            Some(time) => time.seconds().to_be_bytes().to_vec(),
        };
        let mut attributes = Vec::new();
        push_map(&mut attributes, self.attributes, DEPTH_MAX)?;
        Some(then([
            b"ibyok record 1",
            self.key.partition.as_bytes(),
            self.key.sort.as_bytes(),
            &self.revision.to_be_bytes(),
            &expires,
            &[u8::from(self.sealed.is_some())],
            self.sealed.unwrap_or_default(),
            &attributes,
        ]))
    }
}

/// The MAC; None for an item that can't have one, which no reader then lets through.
fn sign(ring: &MacRing, item: &NewItem, revision: u64) -> Option<Vec<u8>> {
    let (id, key) = ring.primary()?;
    let signed = Signed {
        key: &item.key,
        revision,
        expires: item.expires,
        sealed: item.sealed.as_deref(),
        attributes: &item.attributes,
    };
    let tag = signed.with_parts(|parts| key.tag(parts))?;
    Some([&[u8::try_from(id.len()).ok()?], id.as_bytes(), &tag].concat())
}

fn is_signed(ring: &MacRing, item: &Item) -> bool {
    let signed = Signed {
        key: &item.key,
        revision: item.revision,
        expires: item.expires,
        sealed: item.sealed.as_deref(),
        attributes: &item.attributes,
    };
    let split = || {
        let (len, rest) = item.mac.as_deref()?.split_first()?;
        let (id, tag) = rest.split_at_checked(usize::from(*len))?;
        let key = ring.get(std::str::from_utf8(id).ok()?)?;
        (tag.len() == TAG_LEN).then_some((key, tag))
    };
    split().and_then(|(key, tag)| signed.with_parts(|parts| key.verify(parts, tag))).unwrap_or(false)
}

fn push_value(out: &mut Vec<u8>, value: &Value, depth: usize) -> Option<()> {
    match value {
        Value::Text(text) => {
            out.push(1);
            framing::push(out, text.as_bytes());
        }
        Value::Int(int) => {
            out.push(2);
            out.extend_from_slice(&int.to_be_bytes());
        }
        Value::Bool(bool) => out.extend_from_slice(&[3, u8::from(*bool)]),
        Value::Bytes(bytes) => {
            out.push(4);
            framing::push(out, bytes);
        }
        Value::List(list) => {
            let depth = depth.checked_sub(1)?;
            out.push(5);
            out.extend_from_slice(&(list.len() as u64).to_be_bytes());
            for value in list {
                push_value(out, value, depth)?;
            }
        }
        Value::Map(map) => push_map(out, map, depth.checked_sub(1)?)?,
    }
    Some(())
}

fn push_map(out: &mut Vec<u8>, map: &Attributes, depth: usize) -> Option<()> {
    out.push(6);
    out.extend_from_slice(&(map.len() as u64).to_be_bytes());
    for (name, value) in map {
        framing::push(out, name.as_bytes());
        push_value(out, value, depth)?;
    }
    Some(())
}
