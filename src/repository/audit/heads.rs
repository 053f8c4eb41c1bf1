//! The rows that lead to every chain: `A#HEADS`/chain says when a chain was opened and where it
//! was sealed, for good; `A#OPEN`/chain stands while the index has not reached the chain's end.

use std::collections::BTreeMap;

use super::batch::ChainId;
use crate::{
    domain::clock::Timestamp,
    repository::records::{Expected, Records, Verified},
    store::{Action, Condition, ItemKey, NewItem, Value},
};

/// The partition of the chains.
pub(super) const HEADS: &str = "A#HEADS";
/// The partition of the chains that are not indexed to their end.
pub(super) const OPEN: &str = "A#OPEN";

/// What `A#HEADS` says of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The chain.
    pub chain: ChainId,
    /// When its lane opened it.
    pub opened: Timestamp,
    /// The number of its seal; None while it is open.
    pub sealed: Option<u64>,
    /// The row's revision.
    pub revision: u64,
}

impl Head {
    /// Where the row of `chain` is.
    #[must_use]
    pub fn key(chain: &ChainId) -> ItemKey {
        ItemKey::new(HEADS, chain.as_str())
    }
    /// The row in `item`; None when it is not one.
    #[must_use]
    pub fn read(item: &Verified) -> Option<Self> {
        let item = item.item();
        let chain = ChainId::parse(&item.key.sort)?;
        let Some(Value::Int(opened)) = item.attributes.get("opened") else { return None };
        let sealed = match item.attributes.get("sealed") {
            None => None,
            Some(Value::Int(batch)) => Some(u64::try_from(*batch).ok()?),
            Some(_) => return None,
        };
        Some(Self { chain, opened: Timestamp::from_micros(*opened), sealed, revision: item.revision })
    }
    /// Whether `key` of `A#HEADS` is a chain's row: whoever writes the database can put anything there.
    pub(super) fn is_row(key: &ItemKey) -> bool {
        ChainId::parse(&key.sort).is_some()
    }
}

/// The rows that announce a new chain, for the transaction of its first batch.
pub(super) fn announce(records: &Records, chain: &ChainId, opened: Timestamp) -> [Action; 2] {
    let open = NewItem::new(ItemKey::new(OPEN, chain.as_str()), BTreeMap::new());
    [records.put(row(chain, opened, None), Expected::Absent), Action::Put(open, Condition::Any)]
}

/// The rows that say that `chain` ends with batch `sealed`. `revision`: of its row, None when the
/// chain was never announced.
pub(super) fn close(
    records: &Records,
    chain: &ChainId,
    opened: Timestamp,
    sealed: u64,
    revision: Option<u64>,
) -> Vec<Action> {
    let expected = revision.map_or(Expected::Absent, Expected::Revision);
    let mut actions = vec![records.put(row(chain, opened, Some(sealed)), expected)];
    if revision.is_none() {
        let open = NewItem::new(ItemKey::new(OPEN, chain.as_str()), BTreeMap::new());
        actions.push(Action::Put(open, Condition::Any));
    }
    actions
}

fn row(chain: &ChainId, opened: Timestamp, sealed: Option<u64>) -> NewItem {
    let mut attributes = BTreeMap::from([("opened".to_owned(), Value::Int(opened.micros()))]);
    if let Some(batch) = sealed {
        attributes.insert("sealed".to_owned(), Value::Int(i64::try_from(batch).unwrap_or(i64::MAX)));
    }
    NewItem::new(Head::key(chain), attributes)
}
