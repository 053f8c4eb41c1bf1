//! The listing of an organization's keys: `O#org#KEYS`, a row `provider#key` for each. The rows
//! carry no MAC: they say where to look, the records say what is there.

use crate::{
    domain::{
        clock::Deadline,
        error::Failure,
        ids::{Environment, KeyId, OrgId, ProviderId},
        key::{KeyKind, KeyRecord, KeyState, Labels},
    },
    repository::{
        fields::{Builder, Fields, rejected},
        records::Records,
    },
    store::{Action, Condition, Item, ItemKey, NewItem, Order, Query, SortRange},
};

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its place in the listing.
    pub sort: String,
    /// The key.
    pub key: KeyId,
    /// Its provider.
    pub provider: ProviderId,
    /// Its state.
    pub state: KeyState,
    /// Its labels.
    pub labels: Labels,
}

/// Writes the row of `record`.
#[must_use]
pub fn put(record: &KeyRecord) -> Action {
    let attributes = Builder::new()
        .text("key", record.name.id.as_str())
        .text("provider", record.provider.as_str())
        .text("state", record.state.as_str())
        .bool("tripwire", record.kind == KeyKind::Tripwire)
        .opt_text("environment", record.environment.as_ref().map(Environment::as_str))
        .opt_text("preview", record.current().map(|version| &version.preview))
        .map_of_text("labels", &record.labels)
        .opt_time("rotation_next", record.rotation.next)
        .opt_time("expires", record.expires)
        .opt_time("purges", record.purges)
        .build();
    Action::Put(NewItem::new(item_key(record), attributes), Condition::Any)
}

/// Deletes the row of `record`.
#[must_use]
pub fn delete(record: &KeyRecord) -> Action {
    Action::Delete(item_key(record), Condition::Any)
}

/// A page of the rows, of one provider or of all, and where the next begins.
///
/// # Errors
/// STORE_UNAVAILABLE. A row that can't be read is left out.
pub async fn page(
    records: &Records,
    org: &OrgId,
    provider: Option<&ProviderId>,
    limit: usize,
    after: Option<String>,
    deadline: Deadline,
) -> Result<(Vec<Row>, Option<String>), Failure> {
    let range = provider.map_or(SortRange::All, |provider| SortRange::Prefix(format!("{provider}#")));
    let query = Query { partition: format!("O#{org}#KEYS"), range, order: Order::Ascending, limit, after };
    let page = records.query(query, deadline).await?;
    Ok((page.items.iter().filter_map(|item| row(item).ok()).collect(), page.next))
}

fn item_key(record: &KeyRecord) -> ItemKey {
    ItemKey::new(format!("O#{}#KEYS", record.name.org), format!("{}#{}", record.provider, record.name.id))
}

fn row(item: &Item) -> Result<Row, Failure> {
    let attributes = &item.attributes;
    Ok(Row {
        sort: item.key.sort.clone(),
        key: KeyId::parse("key", attributes.text("key")?).map_err(|_| rejected("key"))?,
        provider: ProviderId::parse("provider", attributes.text("provider")?).map_err(|_| rejected("provider"))?,
        state: KeyState::from_text(attributes.text("state")?).ok_or_else(|| rejected("state"))?,
        labels: attributes.map_of_text("labels")?,
    })
}
