//! Organizations: `O#org`/`ORG`, and their listing rows in `ORGS`.

use super::{
    fields::{Builder, Fields as _, rejected},
    records::{Expected, Records},
};
use crate::{
    domain::{
        clock::{Deadline, Timestamp},
        error::Failure,
        ids::{OrgId, Uid},
        secret::KmsKeyId,
    },
    repository::records::Verified,
    store::{Action, Condition, ItemKey, NewItem, Order, Query, SortRange},
};

/// An organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrgRecord {
    /// Its id.
    pub id: OrgId,
    /// Its opaque id, which shows in the KMS's log.
    pub uid: Uid,
    /// For people.
    pub display_name: String,
    /// Its own KMS key; None: the server's primary.
    pub kms_key: Option<KmsKeyId>,
    /// Whether every one of its tokens is a mock token. Never changes.
    pub is_mock: bool,
    /// When it was made.
    pub created: Timestamp,
    /// The item's revision.
    pub revision: u64,
}

/// The partition of the listing of all organizations.
const LISTING: &str = "ORGS";

/// Where the record of `org` lives.
#[must_use]
pub fn item_key(org: &OrgId) -> ItemKey {
    ItemKey::new(format!("O#{org}"), "ORG")
}

/// The record in `item`.
///
/// # Errors
/// RECORD_REJECTED when it is not one of ours.
pub fn decode(item: &Verified) -> Result<OrgRecord, Failure> {
    let id = item.item().key.partition.strip_prefix("O#").and_then(|id| OrgId::parse("org", id).ok());
    Ok(OrgRecord {
        id: id.ok_or_else(|| rejected("partition"))?,
        uid: Uid::stored(item.text("uid")?),
        display_name: item.text("display_name")?.to_owned(),
        kms_key: item.opt_text("kms_key")?.map(|key| KmsKeyId(key.to_owned())),
        is_mock: item.bool("mock")?,
        created: item.time("created")?,
        revision: item.revision(),
    })
}

/// The put of `org`'s record.
#[must_use]
pub fn put(records: &Records, org: &OrgRecord, expected: Expected) -> Action {
    let fields = Builder::new()
        .text("uid", org.uid.as_str())
        .text("display_name", org.display_name.as_str())
        .opt_text("kms_key", org.kms_key.as_ref().map(|key| key.0.as_str()))
        .bool("mock", org.is_mock)
        .time("created", org.created);
    records.put(NewItem::new(item_key(&org.id), fields.build()), expected)
}

/// The put of a new organization's listing row.
#[must_use]
pub fn put_row(org: &OrgRecord) -> Action {
    let fields = Builder::new().time("created", org.created);
    Action::Put(NewItem::new(ItemKey::new(LISTING, org.id.as_str()), fields.build()), Condition::Absent)
}

/// The record of `org`, if there is one.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn find(records: &Records, org: &OrgId, deadline: Deadline) -> Result<Option<OrgRecord>, Failure> {
    records.get_verified(item_key(org), deadline).await?.as_ref().map(decode).transpose()
}

/// At most `limit` organizations in order of their ids, after that one, and where to go on. One
/// whose record does not verify is left out.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn page(
    records: &Records,
    after: Option<String>,
    limit: usize,
    deadline: Deadline,
) -> Result<(Vec<OrgRecord>, Option<String>), Failure> {
    let query = Query { partition: LISTING.to_owned(), range: SortRange::All, order: Order::Ascending, limit, after };
    let page = records.query(query, deadline).await?;
    let ids = page.items.iter().map(|row| OrgId::parse("org", &row.key.sort).map_err(|_| rejected("org")));
    let keys: Vec<_> = ids.map(|id| id.map(|id| item_key(&id))).collect::<Result<_, _>>()?;
    let mut orgs = Vec::with_capacity(keys.len());
    for keys in keys.chunks(crate::store::ITEMS_MAX) {
        for (key, item) in keys.iter().zip(records.get_each(keys, deadline).await?) {
            match item.and_then(|item| item.map(|item| decode(&records.verify(item)?)).transpose()) {
                Ok(org) => orgs.extend(org),
                Err(_) => tracing::warn!(partition = key.partition, "an organization's record does not verify"),
            }
        }
    }
    Ok((orgs, page.next))
}
