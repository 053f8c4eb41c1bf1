//! Items as DynamoDB's, every part in its own type, so that the console shows them:
//!
//! | attribute | type | what |
//! |---|---|---|
//! | `pk`, `sk` | text | partition and sort key |
//! | `rev` | number | revision |
//! | `exp` | number | expiry, seconds since the epoch; the attribute of the table's TTL |
//! | `sealed`, `mac` | bytes | ciphertext; the record's MAC |
//! | `wid` | bytes | the write that wrote it |
//! | `attrs` | map | the item's own attributes: text, number, boolean, bytes, list, map |
//!
//! The item's attributes stand in one map, so that no name of theirs meets one of these, and a write
//! that does not know what is there can replace them all at once. What else somebody adds to an item is no
//! part of it and is left unread.

use std::{
    collections::{HashMap, hash_map::RandomState},
    sync::LazyLock,
};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};

use crate::{
    domain::clock::Timestamp,
    store::{Attributes, Item, ItemKey, NewItem, StoreError, Value, WriteId},
};

pub(super) const PARTITION: &str = "pk";
pub(super) const SORT: &str = "sk";
pub(super) const REVISION: &str = "rev";
pub(super) const EXPIRES: &str = "exp";
pub(super) const SEALED: &str = "sealed";
pub(super) const MAC: &str = "mac";
pub(super) const WRITE_ID: &str = "wid";
pub(super) const ATTRIBUTES: &str = "attrs";

/// An item, or a part of one, as DynamoDB has it.
pub(super) type Raw = HashMap<String, AttributeValue>;

/// Those parts, in an order that is the same each time, so that a transaction that is tried again is the
/// same to the byte: DynamoDB does not say how it compares what comes under one token.
pub(super) fn raw(parts: impl IntoIterator<Item = (String, AttributeValue)>) -> Raw {
    static ORDER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let mut raw = Raw::with_hasher(ORDER.clone());
    raw.extend(parts);
    raw
}

/// What is wrong with an item that can't be read; never what is in it.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` of the item is missing or not of its type")]
struct Unread(&'static str);

/// The key alone.
pub(super) fn raw_key(key: &ItemKey) -> Raw {
    raw([(PARTITION.to_owned(), text(&key.partition)), (SORT.to_owned(), text(&key.sort))])
}

/// Everything of `item` but its key and revision.
pub(super) fn raw_parts(id: WriteId, item: &NewItem) -> impl Iterator<Item = (&'static str, AttributeValue)> {
    let expires = item.expires.map(|at| (EXPIRES, number(at.seconds())));
    let sealed = item.sealed.as_deref().map(|it| (SEALED, bytes(it)));
    let mac = item.mac.as_deref().map(|it| (MAC, bytes(it)));
    let always = [(WRITE_ID, bytes(&id.0)), (ATTRIBUTES, map(&item.attributes))];
    [expires, sealed, mac].into_iter().flatten().chain(always)
}

/// `item` at `revision`, whole.
pub(super) fn raw_item(id: WriteId, item: &NewItem, revision: u64) -> Raw {
    let mut raw = raw_key(&item.key);
    raw.insert(REVISION.to_owned(), number(revision));
    raw.extend(raw_parts(id, item).map(|(name, value)| (name.to_owned(), value)));
    raw
}

/// The item that `raw` is.
pub(super) fn read_item(mut raw: Raw) -> Result<Item, StoreError> {
    let mut item = Item::unreadable(read_key(&mut raw)?);
    read_parts(&mut item, raw)?;
    Ok(item)
}

/// The item that `raw` is, or that it can't be read.
pub(super) fn read_item_or_key(mut raw: Raw) -> Result<Item, StoreError> {
    let mut item = Item::unreadable(read_key(&mut raw)?);
    Ok(if read_parts(&mut item, raw).is_ok() { item } else { Item::unreadable(item.key) })
}

fn read_parts(item: &mut Item, mut raw: Raw) -> Result<(), StoreError> {
    item.revision = read_revision(&raw).ok_or_else(|| corrupt(REVISION))?;
    item.expires = read_expiry(raw.remove(EXPIRES))?;
    item.sealed = read_bytes(raw.remove(SEALED), SEALED)?;
    item.mac = read_bytes(raw.remove(MAC), MAC)?;
    item.attributes = match raw.remove(ATTRIBUTES).and_then(read_value) {
        Some(Value::Map(attributes)) => attributes,
        _ => return Err(corrupt(ATTRIBUTES)),
    };
    Ok(())
}

/// Takes the key, which every item of a table has.
fn read_key(raw: &mut Raw) -> Result<ItemKey, StoreError> {
    let mut part = |name| match raw.remove(name) {
        Some(AttributeValue::S(text)) => Ok(text),
        _ => Err(corrupt(name)),
    };
    Ok(ItemKey { partition: part(PARTITION)?, sort: part(SORT)? })
}

/// None: it has none that can be read.
pub(super) fn read_revision(raw: &Raw) -> Option<u64> {
    match raw.get(REVISION) {
        Some(AttributeValue::N(digits)) => digits.parse().ok(),
        _ => None,
    }
}

/// Whether the write `id` wrote it.
pub(super) fn is_of(id: WriteId, raw: &Raw) -> bool {
    matches!(raw.get(WRITE_ID), Some(AttributeValue::B(wid)) if wid.as_ref() == id.0)
}

pub(super) fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

pub(super) fn number(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn bytes(bytes: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

fn map(values: &Attributes) -> AttributeValue {
    AttributeValue::M(raw(values.iter().map(|(name, value)| (name.clone(), raw_value(value)))))
}

fn raw_value(value: &Value) -> AttributeValue {
    match value {
        Value::Text(it) => text(it),
        Value::Int(it) => number(it),
        Value::Bool(it) => AttributeValue::Bool(*it),
        Value::Bytes(it) => bytes(it),
        Value::List(values) => AttributeValue::L(values.iter().map(raw_value).collect()),
        Value::Map(values) => map(values),
    }
}

fn read_value(raw: AttributeValue) -> Option<Value> {
    Some(match raw {
        AttributeValue::S(it) => Value::Text(it),
        AttributeValue::N(digits) => Value::Int(digits.parse().ok()?),
        AttributeValue::Bool(it) => Value::Bool(it),
        AttributeValue::B(it) => Value::Bytes(it.into_inner()),
        AttributeValue::L(values) => Value::List(values.into_iter().map(read_value).collect::<Option<_>>()?),
        AttributeValue::M(values) => {
            let one = |(name, value)| Some((name, read_value(value)?));
            Value::Map(values.into_iter().map(one).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

fn read_expiry(raw: Option<AttributeValue>) -> Result<Option<Timestamp>, StoreError> {
    let Some(raw) = raw else { return Ok(None) };
    let seconds = match raw {
        AttributeValue::N(digits) => digits.parse::<i64>().ok(),
        _ => None,
    };
    // Seconds that no timestamp holds would come back as others.
    let at = seconds.map(|seconds| (seconds, Timestamp::from_seconds(seconds)));
    let at = at.filter(|(seconds, at)| at.seconds() == *seconds).map(|(_, at)| at);
    at.map(Some).ok_or_else(|| corrupt(EXPIRES))
}

fn read_bytes(raw: Option<AttributeValue>, name: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
    match raw {
        None => Ok(None),
        Some(AttributeValue::B(bytes)) => Ok(Some(bytes.into_inner())),
        Some(_) => Err(corrupt(name)),
    }
}

fn corrupt(name: &'static str) -> StoreError {
    StoreError::Corrupt(Box::new(Unread(name)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<String>().prop_map(Value::Text),
            any::<i64>().prop_map(Value::Int),
            any::<bool>().prop_map(Value::Bool),
            any::<Vec<u8>>().prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
                prop::collection::btree_map("[a-z]{1,3}", inner, 0..4).prop_map(Value::Map),
            ]
        })
    }

    fn new_item() -> impl Strategy<Value = NewItem> {
        let bytes = || prop::option::of(any::<Vec<u8>>());
        let names = prop_oneof!["pk|sk|rev|exp|sealed|mac|wid|attrs", "[a-z]{1,3}"];
        let attributes = prop::collection::btree_map(names, value(), 0..5);
        let expires = prop::option::of((-9_000_000_000_000_i64..9_000_000_000_000).prop_map(Timestamp::from_seconds));
        (bytes(), bytes(), attributes, expires).prop_map(|(sealed, mac, attributes, expires)| NewItem {
            key: ItemKey::new("p", "s"),
            expires,
            sealed,
            mac,
            attributes,
        })
    }

    proptest! {
        #[test]
        fn an_item_comes_back_as_it_was(item in new_item(), revision in 1_u64..=i64::MAX.unsigned_abs()) {
            let id = WriteId([7; 16]);
            let raw = raw_item(id, &item, revision);
            prop_assert!(is_of(id, &raw) && !is_of(WriteId([8; 16]), &raw));
            let NewItem { key, expires, sealed, mac, attributes } = item;
            prop_assert_eq!(read_item(raw).unwrap(), Item { key, revision, expires, sealed, mac, attributes });
        }

        /// However an item is made up, DynamoDB's count of it is within its limit when the port's is.
        #[test]
        fn the_ports_count_of_an_item_is_never_less_than_dynamodbs(item in new_item()) {
            let ours = crate::store::limits::item_bytes(
                &item.key,
                item.sealed.as_deref(),
                item.mac.as_deref(),
                &item.attributes,
            );
            let theirs = charged_map(&raw_item(WriteId([0; 16]), &item, u64::MAX));
            prop_assert!(theirs <= ours + OVERHEAD, "{} of {}", theirs, ours);
        }
    }

    /// What the names, revision, expiry, write id and the outer map cost at most.
    const OVERHEAD: usize = 100;
    /// 400 KB, as DynamoDB counts.
    const ITEM_MAX: usize = 400 << 10;
    const _: () = assert!(crate::store::ITEM_BYTES_MAX + OVERHEAD <= ITEM_MAX);
    /// 4 MB, as DynamoDB counts, for a transaction of a hundred.
    const _: () = assert!(crate::store::WRITE_BYTES_MAX + crate::store::ITEMS_MAX * OVERHEAD <= 4 << 20);

    /// The rules of "DynamoDB item sizes and formats".
    fn charged(value: &AttributeValue) -> usize {
        match value {
            AttributeValue::S(text) => text.len(),
            AttributeValue::N(digits) => {
                let figures = digits.trim_start_matches('-').len();
                figures.div_ceil(2) + 1 + usize::from(digits.starts_with('-'))
            }
            AttributeValue::B(bytes) => bytes.as_ref().len(),
            AttributeValue::L(values) => values.iter().map(|value| charged(value) + 1).sum::<usize>() + 3,
            AttributeValue::M(values) => charged_map(values) + values.len() + 3,
            _ => 1,
        }
    }

    fn charged_map(values: &Raw) -> usize {
        values.iter().map(|(name, value)| name.len() + charged(value)).sum()
    }

    #[test]
    fn a_part_that_is_missing_or_of_another_type_is_corrupt() {
        let item = NewItem {
            expires: Some(Timestamp::from_seconds(1)),
            sealed: Some(vec![1]),
            mac: Some(vec![2]),
            ..NewItem::new(ItemKey::new("p", "s"), Attributes::new())
        };
        let whole = || raw_item(WriteId([0; 16]), &item, 1);
        assert!(read_item(whole()).is_ok());
        for name in [PARTITION, SORT, REVISION, EXPIRES, SEALED, MAC, ATTRIBUTES] {
            let mut raw = whole();
            raw.insert(name.to_owned(), AttributeValue::Null(true));
            assert!(matches!(read_item(raw), Err(StoreError::Corrupt(_))), "{name}");
        }
        for (name, value) in [
            (REVISION, number("-1")),
            (REVISION, number("1.5")),
            (EXPIRES, number("1.5")),
            (EXPIRES, number(i64::MAX)),
            (ATTRIBUTES, AttributeValue::M(Raw::from([("n".into(), number("1e400"))]))),
            (ATTRIBUTES, AttributeValue::M(Raw::from([("set".into(), AttributeValue::Ss(vec!["a".into()]))]))),
        ] {
            let mut raw = whole();
            raw.insert(name.to_owned(), value);
            assert!(matches!(read_item(raw), Err(StoreError::Corrupt(_))), "{name}");
        }
        let mut raw = whole();
        raw.insert("added by hand".into(), number(1));
        assert!(read_item(raw).is_ok());
    }
}
