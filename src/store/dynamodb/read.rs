//! Reads, all strongly consistent.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};

use super::{
    DynamoStore,
    item::{PARTITION, Raw, SORT, raw_key, read_item, read_item_or_key, text},
    tries::{Tries, Trouble},
};
use crate::{
    domain::clock::Deadline,
    store::{
        Item, ItemKey, Order, PAGE_BYTES_MAX, Page, Query, SortRange, StoreError, limits::bytes_of, range::Interval,
    },
};

/// DynamoDB ends a page at 1 MB, less at most one item; one that is shorter than this ended for
/// reasons of its own.
const SHORT_BYTES: usize = PAGE_BYTES_MAX / 2;

impl DynamoStore {
    pub(super) async fn batch_get(
        &self,
        keys: &[ItemKey],
        deadline: Deadline,
    ) -> Result<Vec<Option<Item>>, StoreError> {
        let raw = self.batch_get_raw(keys, deadline).await?;
        raw.into_iter().map(|raw| raw.map(read_item).transpose()).collect()
    }

    /// One BatchGetItem, and more only for what it left out.
    pub(super) async fn batch_get_raw(
        &self,
        keys: &[ItemKey],
        deadline: Deadline,
    ) -> Result<Vec<Option<Raw>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let places: HashMap<_, _> =
            keys.iter().zip(0..).map(|(key, place)| ((key.partition.as_str(), key.sort.as_str()), place)).collect();
        let mut found = vec![None; keys.len()];
        let mut wanted: Vec<Raw> = keys.iter().map(raw_key).collect();
        let mut tries = self.tries(deadline);
        loop {
            match self.batch_get_once(&tries, wanted.clone()).await {
                Ok((items, left_out)) => {
                    for raw in items {
                        let place =
                            place_of(&raw).and_then(|key| places.get(&key)).and_then(|at: &usize| found.get_mut(*at));
                        let place =
                            place.ok_or_else(|| StoreError::Corrupt("an item that was not asked for".into()))?;
                        *place = Some(raw);
                    }
                    if left_out.is_empty() {
                        return Ok(found);
                    }
                    wanted = left_out;
                    tries.again(Trouble::Throttled).await?;
                }
                Err(trouble) => tries.again(trouble).await?,
            }
        }
    }

    /// The items that were read, and the keys of those that were not.
    async fn batch_get_once(&self, tries: &Tries<'_>, keys: Vec<Raw>) -> Result<(Vec<Raw>, Vec<Raw>), Trouble> {
        let table = &self.table.name;
        let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
        let wanted = wanted.map_err(|error| Trouble::NotSent(error.into()))?;
        let call = self.client.batch_get_item().request_items(table, wanted);
        let output = tries.once(|_| call.send()).await?;
        let items = output.responses.into_iter().flatten().flat_map(|(_, items)| items).collect();
        let left_out = output.unprocessed_keys.into_iter().flatten().flat_map(|(_, left_out)| left_out.keys).collect();
        Ok((items, left_out))
    }

    /// A page; asks on while DynamoDB gives less than the port does.
    pub(super) async fn page(&self, query: &Query, deadline: Deadline) -> Result<Page, StoreError> {
        let mut tries = self.tries(deadline);
        let mut page = Page { items: Vec::new(), next: None };
        if is_empty(query) {
            tries.check()?;
            return Ok(page);
        }
        let mut bytes = 0_usize;
        let mut start = exclusive_start(query);
        loop {
            // One more than is answered tells whether there is more.
            let wanted = query.limit.saturating_add(1).saturating_sub(page.items.len());
            match self.query_once(&tries, query, wanted, start.clone()).await {
                Ok((items, last)) => {
                    for raw in items {
                        let item = read_item_or_key(raw)?;
                        bytes = bytes.saturating_add(bytes_of(&item));
                        page.items.push(item);
                    }
                    let is_full = page.items.len() > query.limit;
                    if is_full || last.is_none() || (bytes >= SHORT_BYTES && !page.items.is_empty()) {
                        page.items.truncate(query.limit);
                        let more = is_full || last.is_some();
                        page.next = page.items.last().filter(|_| more).map(|item| item.key.sort.clone());
                        return Ok(page);
                    }
                    start = last;
                }
                Err(trouble) => tries.again(trouble).await?,
            }
        }
    }

    /// Up to `limit` items after `start`, and where to go on.
    async fn query_once(
        &self,
        tries: &Tries<'_>,
        query: &Query,
        limit: usize,
        start: Option<Raw>,
    ) -> Result<(Vec<Raw>, Option<Raw>), Trouble> {
        let call = self
            .client
            .query()
            .table_name(&self.table.name)
            .consistent_read(true)
            .scan_index_forward(query.order == Order::Ascending)
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .set_exclusive_start_key(start)
            .expression_attribute_values(":p", text(&query.partition));
        let call = match &query.range {
            SortRange::Prefix(prefix) if !prefix.is_empty() => call
                .key_condition_expression("pk = :p AND begins_with(sk, :a)")
                .expression_attribute_values(":a", text(prefix)),
            SortRange::All | SortRange::Prefix(_) => call.key_condition_expression("pk = :p"),
            SortRange::Between(first, last) if first.is_empty() => {
                call.key_condition_expression("pk = :p AND sk <= :b").expression_attribute_values(":b", text(last))
            }
            SortRange::Between(first, last) => call
                .key_condition_expression("pk = :p AND sk BETWEEN :a AND :b")
                .expression_attribute_values(":a", text(first))
                .expression_attribute_values(":b", text(last)),
        };
        let output = tries.once(|_| call.send()).await?;
        Ok((output.items.unwrap_or_default(), output.last_evaluated_key))
    }
}

/// Whether nothing can be in it; DynamoDB refuses such ranges.
fn is_empty(query: &Query) -> bool {
    let is_before_all = matches!(&query.range, SortRange::Between(_, last) if last.is_empty());
    is_before_all || Interval::of(query).is_empty()
}

/// The exclusive start as DynamoDB takes it: it must lie in the range. One that lies before changes
/// nothing, and behind one that lies after there is nothing, which the caller has seen to.
fn exclusive_start(query: &Query) -> Option<Raw> {
    let after = query.after.as_ref()?;
    let is_within = match &query.range {
        SortRange::All => !after.is_empty(),
        SortRange::Prefix(prefix) => !after.is_empty() && after.starts_with(prefix.as_str()),
        SortRange::Between(first, last) => !after.is_empty() && first <= after && after <= last,
    };
    is_within.then(|| raw_key(&ItemKey::new(&query.partition, after)))
}

fn place_of(raw: &Raw) -> Option<(&str, &str)> {
    match (raw.get(PARTITION), raw.get(SORT)) {
        (Some(AttributeValue::S(partition)), Some(AttributeValue::S(sort))) => Some((partition, sort)),
        _ => None,
    }
}
