//! Identity bindings: `O#org#BIND` / id.

use std::time::Duration;

use super::{
    fields::{Builder, Fields as _, rejected},
    grants,
    records::{Expected, Records, Verified},
};
use crate::{
    domain::{
        binding::Binding,
        clock::Deadline,
        error::Failure,
        ids::{BindingId, OrgId},
        principal::IdentityPattern,
        token::TokenMode,
    },
    store::{Action, Item, ItemKey, NewItem, Order, Query, SortRange},
};

/// Rows asked for at once where all are wanted.
const AT_ONCE: usize = 500;

fn partition(org: &OrgId) -> String {
    format!("O#{org}#BIND")
}

/// Where the record of `binding` lives.
#[must_use]
pub fn item_key(org: &OrgId, binding: &BindingId) -> ItemKey {
    ItemKey::new(partition(org), binding.as_str())
}

/// The binding in `item`, one of `org`.
///
/// # Errors
/// RECORD_REJECTED when it is not one of ours.
pub fn decode(org: &OrgId, item: &Verified) -> Result<Binding, Failure> {
    let id = BindingId::parse("id", &item.item().key.sort);
    let identity = IdentityPattern::parse("certificate", item.text("certificate")?);
    Ok(Binding {
        id: id.map_err(|_| rejected("id"))?,
        identity: identity.map_err(|_| rejected("certificate"))?,
        grants: grants::decode(&item.maps("grants")?, org)?,
        mode: TokenMode::from_text(item.text("mode")?).ok_or_else(|| rejected("mode"))?,
        ttl_max: Duration::from_secs(item.number("ttl_max_seconds")?),
        revision: item.revision(),
    })
}

/// The put of a new binding's record.
#[must_use]
pub fn put_new(records: &Records, org: &OrgId, binding: &Binding) -> Action {
    let fields = Builder::new()
        .text("certificate", binding.identity.as_str())
        .maps("grants", grants::encode(&binding.grants))
        .text("mode", binding.mode.as_str())
        .count("ttl_max_seconds", binding.ttl_max.as_secs());
    records.put(NewItem::new(item_key(org, &binding.id), fields.build()), Expected::Absent)
}

/// At most `limit` bindings of `org` after that one, and where to go on. One whose record does not
/// verify is left out.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn page(
    records: &Records,
    org: &OrgId,
    after: Option<String>,
    limit: usize,
    deadline: Deadline,
) -> Result<(Vec<Binding>, Option<String>), Failure> {
    let (items, next) = items(records, org, after, limit, deadline).await?;
    let mut bindings = Vec::with_capacity(items.len());
    for item in items {
        match records.verify(item).and_then(|item| decode(org, &item)) {
            Ok(binding) => bindings.push(binding),
            Err(_) => tracing::warn!(%org, "a binding's record does not verify: the listing leaves it out"),
        }
    }
    Ok((bindings, next))
}

/// The binding of `org` with this id.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn find(
    records: &Records,
    org: &OrgId,
    id: &BindingId,
    deadline: Deadline,
) -> Result<Option<Binding>, Failure> {
    let item = records.get_verified(item_key(org, id), deadline).await?;
    item.map(|item| decode(org, &item)).transpose()
}

/// The bindings of `org` that are for one of these identities; one whose record does not verify
/// could be the one that is wanted.
///
/// # Errors
/// STORE_UNAVAILABLE, RECORD_REJECTED.
pub async fn matching(
    records: &Records,
    org: &OrgId,
    identities: &[String],
    deadline: Deadline,
) -> Result<Vec<Binding>, Failure> {
    let (mut bindings, mut next) = (Vec::new(), None);
    loop {
        let (items, after) = items(records, org, next, AT_ONCE, deadline).await?;
        for item in items {
            let binding = decode(org, &records.verify(item)?)?;
            if identities.iter().any(|identity| binding.identity.matches(identity)) {
                bindings.push(binding);
            }
        }
        next = after;
        if next.is_none() {
            return Ok(bindings);
        }
    }
}

async fn items(
    records: &Records,
    org: &OrgId,
    after: Option<String>,
    limit: usize,
    deadline: Deadline,
) -> Result<(Vec<Item>, Option<String>), Failure> {
    let query = Query { partition: partition(org), range: SortRange::All, order: Order::Ascending, limit, after };
    let page = records.query(query, deadline).await?;
    Ok((page.items, page.next))
}
