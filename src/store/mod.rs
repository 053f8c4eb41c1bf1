//! The database port: items in partitions, four calls, optimistic writes. Adapters differ only in
//! speed and durability; the data model above them is written once.
//!
//! The contract, one conformance test for each sentence (`tests/it/store_conformance.rs`):
//! see [`ItemStore`].

pub mod dynamodb;
pub mod fake;
pub mod limits;
mod range;
mod shared;
pub mod sqlite;

use std::{collections::BTreeMap, fmt};

pub use shared::SharedItem;

use crate::domain::{
    PortFuture,
    clock::{Deadline, Timestamp},
};

/// The most items that one [`ItemStore::get`] reads and one [`ItemStore::write`] touches.
pub const ITEMS_MAX: usize = 100;
/// The most bytes that one [`ItemStore::write`] carries.
pub const WRITE_BYTES_MAX: usize = 4_000_000;
/// The most bytes of one item, all its parts together.
pub const ITEM_BYTES_MAX: usize = 400_000;
/// The most bytes of a partition key.
pub const PARTITION_BYTES_MAX: usize = 2_048;
/// The most bytes of an attribute's name.
pub const NAME_BYTES_MAX: usize = 65_535;
/// The most bytes of a sort key.
pub const SORT_BYTES_MAX: usize = 1_024;

/// Where a page of [`ItemStore::query`] ends before its limit.
pub const PAGE_BYTES_MAX: usize = 1 << 20;
/// How deep lists and maps nest in an attribute.
pub const DEPTH_MAX: usize = 16;

/// Where an item lives. Neither part is empty; both compare bytewise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKey {
    /// The partition.
    pub partition: String,
    /// The place in the partition.
    pub sort: String,
}

impl ItemKey {
    /// The item `sort` of `partition`.
    pub fn new(partition: impl Into<String>, sort: impl Into<String>) -> Self {
        Self { partition: partition.into(), sort: sort.into() }
    }
}

/// One attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// UTF-8 text.
    Text(String),
    /// A whole number.
    Int(i64),
    /// True or false.
    Bool(bool),
    /// Any bytes.
    Bytes(Vec<u8>),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Map(BTreeMap<String, Value>),
}

/// Attributes by name.
pub type Attributes = BTreeMap<String, Value>;

/// One stored item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it lives.
    pub key: ItemKey,
    /// Assigned by the store: 1 when written with Absent, n+1 with Revision(n).
    pub revision: u64,
    /// Advisory, whole seconds since the epoch: the store sweeps it some time after.
    pub expires: Option<Timestamp>,
    /// Ciphertext, opaque to the store.
    pub sealed: Option<Vec<u8>>,
    /// Authenticates the record; see `repository::records`.
    pub mac: Option<Vec<u8>>,
    /// The rest.
    pub attributes: Attributes,
}

impl Item {
    /// What a query answers in the place of an item that can't be read: nothing but its key. It has
    /// no MAC, and no decoder of a row takes it.
    #[must_use]
    pub fn unreadable(key: ItemKey) -> Self {
        Self { key, revision: 0, expires: None, sealed: None, mac: None, attributes: Attributes::new() }
    }
}

/// An item to be written; the store gives it its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewItem {
    /// Where it shall live.
    pub key: ItemKey,
    /// Advisory; whole seconds, a fraction is refused (the record's MAC covers it).
    pub expires: Option<Timestamp>,
    /// Ciphertext.
    pub sealed: Option<Vec<u8>>,
    /// Authenticates the record.
    pub mac: Option<Vec<u8>>,
    /// The rest.
    pub attributes: Attributes,
}

impl NewItem {
    /// An item with nothing but attributes.
    #[must_use]
    pub fn new(key: ItemKey, attributes: Attributes) -> Self {
        Self { key, expires: None, sealed: None, mac: None, attributes }
    }
}

/// What must hold of the item as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing. A put with it makes revision 1 or one more than there was.
    Any,
    /// No such item.
    Absent,
    /// There is one.
    Present,
    /// There is one, of that revision.
    Revision(u64),
}

impl Condition {
    /// Whether it holds of an item at `revision`, or of its absence.
    #[must_use]
    pub fn holds(self, revision: Option<u64>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => revision.is_none(),
            Self::Present => revision.is_some(),
            Self::Revision(wanted) => revision == Some(wanted),
        }
    }
}

/// One part of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Writes the item if the condition holds.
    Put(NewItem, Condition),
    /// Deletes the item if the condition holds; deleting an absent item is no error.
    Delete(ItemKey, Condition),
    /// Only demands the condition.
    Check(ItemKey, Condition),
}

impl Action {
    /// The item that it is about.
    #[must_use]
    pub fn key(&self) -> &ItemKey {
        match self {
            Self::Put(item, _) => &item.key,
            Self::Delete(key, _) | Self::Check(key, _) => key,
        }
    }
}

/// Names one [`ItemStore::write`], so that the adapter's own retries happen once. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WriteId(pub [u8; 16]);

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// All of it is durable.
    Committed,
    /// None of it happened: the condition of the action at `index` did not hold.
    Conflict {
        /// Which action.
        index: usize,
        /// Its item as it was then.
        current: Option<Item>,
    },
    /// It may or may not have happened: read back an item of it that is never overwritten.
    Unknown,
}

/// Which sort keys a query covers; bytewise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SortRange {
    /// Every one.
    All,
    /// Those that begin so.
    Prefix(String),
    /// From the first to the second, both included.
    Between(String, String),
}

/// In which order a query answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Smallest sort key first.
    Ascending,
    /// Largest sort key first.
    Descending,
}

/// A page of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The partition.
    pub partition: String,
    /// Which sort keys.
    pub range: SortRange,
    /// In which order.
    pub order: Order,
    /// At most so many items; at least 1.
    pub limit: usize,
    /// Exclusive start: the sort key where the page before ended.
    pub after: Option<String>,
}

/// What a query answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Up to `limit` items, fewer only at [`PAGE_BYTES_MAX`] (1 MB) or at the end.
    pub items: Vec<Item>,
    /// Where to go on; None only at the end.
    pub next: Option<String>,
}

/// Why the store gave no answer. Never "absent" and never a conflict.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, is full, read-only, or the deadline passed.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It asks for fewer calls.
    #[error("the store throttles")]
    Throttled,
    /// The call breaks a limit of the contract: a defect of the caller.
    #[error("the call breaks the store's contract: {0}")]
    Contract(&'static str),
    /// What came back is not an item of ours.
    #[error("a stored item can't be read")]
    Corrupt(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The database.
///
/// - `get` reads at most [`ITEMS_MAX`] distinct keys and answers in request order. Each item is
///   linearizable; the set is not a snapshot. An unread item is an error, never None.
/// - `query` is strongly consistent, in bytewise order, with an exclusive start; it answers up to
///   `limit` items, fewer only at 1 MB, and `next` is None only at the end. It is not isolated from
///   concurrent writes. An item that can't be read is answered as [`Item::unreadable`], so that it
///   hides no other; `get` and a conflict with it are [`StoreError::Corrupt`].
/// - `write` takes 1 to [`ITEMS_MAX`] actions, one for each item, [`WRITE_BYTES_MAX`] in all; more
///   is refused as [`StoreError::Contract`]. It is atomic, and durable on return; a conflict, too,
///   is answered only after the commit that it was judged in. A [`WriteId`] covers one call's own
///   retries. An error of `write` means that nothing happened and nothing will; whatever may yet
///   land, the passing of the deadline included, is [`Written::Unknown`].
/// - Expired items may come back. Every call takes a deadline and answers by then.
pub trait ItemStore: Send + Sync + fmt::Debug {
    /// Reads items by key.
    fn get<'a>(
        &'a self,
        keys: &'a [ItemKey],
        deadline: Deadline,
    ) -> PortFuture<'a, Result<Vec<Option<SharedItem>>, StoreError>>;
    /// Reads a page of a partition.
    fn query(&self, query: Query, deadline: Deadline) -> PortFuture<'_, Result<Page, StoreError>>;
    /// Writes all of `actions`, or nothing.
    fn write(
        &self,
        id: WriteId,
        actions: Vec<Action>,
        deadline: Deadline,
    ) -> PortFuture<'_, Result<Written, StoreError>>;
    /// Whether this process alone has the store: leases are then taken at once.
    fn is_exclusive(&self) -> bool;
    /// Whether it answers and takes writes, in a sentence without secrets, for status and health.
    fn status(&self, deadline: Deadline) -> PortFuture<'_, Result<String, StoreError>>;
}
