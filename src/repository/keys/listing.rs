//! The listing of an organization's keys: `O#org#KEYS`, a row `provider#key` for each. The rows
//! carry no MAC: they say where to look, the records say what is there. A row that says otherwise than
//! its place can't be read.

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
    /// Where it is for.
    pub environment: Option<Environment>,
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
    let (rows, next) = query(records, org, range, limit, after, deadline).await?;
    Ok((rows.into_iter().filter_map(Result::ok).collect(), next))
}

/// [`page`] of all providers, with its place instead of a row that can't be read.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn each(
    records: &Records,
    org: &OrgId,
    limit: usize,
    after: Option<String>,
    deadline: Deadline,
) -> Result<(Vec<Result<Row, String>>, Option<String>), Failure> {
    query(records, org, SortRange::All, limit, after, deadline).await
}

/// The key whose row has that place; None: it is no row's.
#[must_use]
pub fn key_at(sort: &str) -> Option<KeyId> {
    sort.rsplit_once('#').and_then(|(_, id)| KeyId::parse("key", id).ok())
}

/// How many rows there are of those that `is_counted`.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn count(
    records: &Records,
    org: &OrgId,
    is_counted: impl Fn(&Result<Row, String>) -> bool,
    deadline: impl Fn() -> Deadline,
) -> Result<u64, Failure> {
    let (mut count, mut after) = (0_u64, None);
    loop {
        let (rows, next) = each(records, org, COUNTED_AT_ONCE, after, deadline()).await?;
        count = count.saturating_add(rows.iter().filter(|row| is_counted(row)).count() as u64);
        if next.is_none() {
            return Ok(count);
        }
        after = next;
    }
}

/// Rows that are read at once to be counted.
const COUNTED_AT_ONCE: usize = 1_000;

async fn query(
    records: &Records,
    org: &OrgId,
    range: SortRange,
    limit: usize,
    after: Option<String>,
    deadline: Deadline,
) -> Result<(Vec<Result<Row, String>>, Option<String>), Failure> {
    let query = Query { partition: partition(org), range, order: Order::Ascending, limit, after };
    let page = records.query(query, deadline).await?;
    let rows = page.items.into_iter().map(|item| row(&item).map_err(|_| item.key.sort));
    Ok((rows.collect(), page.next))
}

fn partition(org: &OrgId) -> String {
    format!("O#{org}#KEYS")
}

fn sort(provider: &ProviderId, key: &KeyId) -> String {
    format!("{provider}#{key}")
}

fn item_key(record: &KeyRecord) -> ItemKey {
    ItemKey::new(partition(&record.name.org), sort(&record.provider, &record.name.id))
}

fn row(item: &Item) -> Result<Row, Failure> {
    let attributes = &item.attributes;
    let key = KeyId::parse("key", attributes.text("key")?).map_err(|_| rejected("key"))?;
    let provider = ProviderId::parse("provider", attributes.text("provider")?).map_err(|_| rejected("provider"))?;
    if item.key.sort != sort(&provider, &key) {
        return Err(rejected("key"));
    }
    Ok(Row {
        sort: item.key.sort.clone(),
        key,
        provider,
        environment: attributes
            .opt_text("environment")?
            .map(|text| Environment::parse("environment", text).map_err(|_| rejected("environment")))
            .transpose()?,
        state: KeyState::from_text(attributes.text("state")?).ok_or_else(|| rejected("state"))?,
        labels: attributes.map_of_text("labels")?,
    })
}
