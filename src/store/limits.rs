//! What the contract allows in one call: checked by every adapter before it touches its database,
//! so that all refuse alike. Knows sizes, not meanings.

use std::collections::HashSet;

use super::{
    Action, Attributes, Condition, DEPTH_MAX, ITEM_BYTES_MAX, ITEMS_MAX, Item, ItemKey, NAME_BYTES_MAX, NewItem,
    PARTITION_BYTES_MAX, Query, SORT_BYTES_MAX, SortRange, StoreError, Value, WRITE_BYTES_MAX,
};

/// A whole number, at the most that any adapter spends on it.
const INT_BYTES: usize = 12;
/// What a list or a map costs besides what is in it.
const CONTAINER_BYTES: usize = 3;
/// What each attribute, and each element of a list or a map, costs besides itself.
const ELEMENT_BYTES: usize = 1;
/// Up to so many keys, comparing each with each is quicker than hashing.
const FEW: usize = 8;

/// Whether one `get` may read `keys`. None at all is allowed, and reads nothing.
///
/// # Errors
/// [`StoreError::Contract`].
pub fn check_get(keys: &[ItemKey]) -> Result<(), StoreError> {
    if keys.len() > ITEMS_MAX {
        return Err(StoreError::Contract("a get reads at most 100 items"));
    }
    keys.iter().try_for_each(check_key)?;
    if !distinct(keys.iter()) {
        return Err(StoreError::Contract("a get reads each item once"));
    }
    Ok(())
}

/// Whether `query` may be asked.
///
/// # Errors
/// [`StoreError::Contract`].
pub fn check_query(query: &Query) -> Result<(), StoreError> {
    check_partition(&query.partition)?;
    if query.limit == 0 {
        return Err(StoreError::Contract("a query's limit is at least 1"));
    }
    let (first, second) = match &query.range {
        SortRange::All => ("", ""),
        SortRange::Prefix(prefix) => (prefix.as_str(), ""),
        SortRange::Between(from, to) => (from.as_str(), to.as_str()),
    };
    let after = query.after.as_deref().unwrap_or_default();
    if [first, second, after].iter().any(|bound| bound.len() > SORT_BYTES_MAX) {
        return Err(StoreError::Contract("a sort key has at most 1,024 bytes"));
    }
    Ok(())
}

/// Whether one `write` may carry `actions`.
///
/// # Errors
/// [`StoreError::Contract`].
pub fn check_write(actions: &[Action]) -> Result<(), StoreError> {
    if actions.is_empty() || actions.len() > ITEMS_MAX {
        return Err(StoreError::Contract("a write has 1 to 100 actions"));
    }
    let mut bytes = 0_usize;
    for action in actions {
        check_key(action.key())?;
        bytes = bytes.saturating_add(match action {
            Action::Put(item, condition) => check_put(item, *condition)?,
            Action::Delete(key, _) | Action::Check(key, _) => key_bytes(key),
        });
    }
    if bytes > WRITE_BYTES_MAX {
        return Err(StoreError::Contract("a write has at most 4 MB"));
    }
    if !distinct(actions.iter().map(Action::key)) {
        return Err(StoreError::Contract("a write has one action for each item"));
    }
    Ok(())
}

/// The bytes of an item: keys, ciphertext, MAC, names and values, and for lists and maps a little
/// more, so that no adapter spends more on it (DynamoDB's rules for item sizes, rounded up).
#[must_use]
pub fn item_bytes(key: &ItemKey, sealed: Option<&[u8]>, mac: Option<&[u8]>, attributes: &Attributes) -> usize {
    let fixed = key_bytes(key).saturating_add(sealed.map_or(0, <[u8]>::len)).saturating_add(mac.map_or(0, <[u8]>::len));
    elements_bytes(attributes, 0).saturating_add(fixed)
}

/// The bytes of a stored item, counted alike.
pub(super) fn bytes_of(item: &Item) -> usize {
    item_bytes(&item.key, item.sealed.as_deref(), item.mac.as_deref(), &item.attributes)
}

fn check_put(item: &NewItem, condition: Condition) -> Result<usize, StoreError> {
    if item.expires.is_some_and(|at| at.micros().rem_euclid(1_000_000) != 0) {
        return Err(StoreError::Contract("an item expires at a whole second"));
    }
    if matches!(condition, Condition::Revision(revision) if i64::try_from(revision).map_or(true, |it| it == i64::MAX)) {
        return Err(StoreError::Contract("a revision fits 63 bits"));
    }
    check_named(&item.attributes, 0)?;
    let bytes = item_bytes(&item.key, item.sealed.as_deref(), item.mac.as_deref(), &item.attributes);
    if bytes > ITEM_BYTES_MAX {
        return Err(StoreError::Contract("an item has at most 400,000 bytes"));
    }
    Ok(bytes)
}

fn check_key(key: &ItemKey) -> Result<(), StoreError> {
    check_partition(&key.partition)?;
    match key.sort.len() {
        0 => Err(StoreError::Contract("a sort key is not empty")),
        1..=SORT_BYTES_MAX => Ok(()),
        _ => Err(StoreError::Contract("a sort key has at most 1,024 bytes")),
    }
}

fn check_partition(partition: &str) -> Result<(), StoreError> {
    match partition.len() {
        0 => Err(StoreError::Contract("a partition is not empty")),
        1..=PARTITION_BYTES_MAX => Ok(()),
        _ => Err(StoreError::Contract("a partition has at most 2,048 bytes")),
    }
}

/// Names and depth of `attributes`, which themselves stand at `depth`.
fn check_named(attributes: &Attributes, depth: usize) -> Result<(), StoreError> {
    if attributes.keys().any(String::is_empty) {
        return Err(StoreError::Contract("an attribute has a name"));
    }
    if attributes.keys().any(|name| name.len() > NAME_BYTES_MAX) {
        return Err(StoreError::Contract("an attribute's name has at most 65,535 bytes"));
    }
    attributes.values().try_for_each(|value| check_value(value, depth))
}

fn check_value(value: &Value, depth: usize) -> Result<(), StoreError> {
    let deeper = depth.saturating_add(1);
    match value {
        Value::Text(_) | Value::Int(_) | Value::Bool(_) | Value::Bytes(_) => Ok(()),
        Value::List(_) | Value::Map(_) if deeper > DEPTH_MAX => {
            Err(StoreError::Contract("lists and maps nest at most 16 deep"))
        }
        Value::List(values) => values.iter().try_for_each(|value| check_value(value, deeper)),
        Value::Map(values) => check_named(values, deeper),
    }
}

/// Stops counting below the depth that [`check_value`] refuses.
fn elements_bytes(values: &Attributes, depth: usize) -> usize {
    let one = |(name, value): (&String, &Value)| {
        name.len().saturating_add(value_bytes(value, depth)).saturating_add(ELEMENT_BYTES)
    };
    values.iter().map(one).fold(0, usize::saturating_add)
}

fn value_bytes(value: &Value, depth: usize) -> usize {
    let deeper = depth.saturating_add(1);
    match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Int(_) => INT_BYTES,
        Value::Bool(_) => 1,
        Value::List(_) | Value::Map(_) if deeper > DEPTH_MAX => CONTAINER_BYTES,
        Value::List(values) => {
            let one = |value: &Value| value_bytes(value, deeper).saturating_add(ELEMENT_BYTES);
            values.iter().map(one).fold(CONTAINER_BYTES, usize::saturating_add)
        }
        Value::Map(values) => elements_bytes(values, deeper).saturating_add(CONTAINER_BYTES),
    }
}

fn key_bytes(key: &ItemKey) -> usize {
    key.partition.len().saturating_add(key.sort.len())
}

fn distinct<'a>(keys: impl ExactSizeIterator<Item = &'a ItemKey> + Clone) -> bool {
    if keys.len() <= FEW {
        let mut rest = keys;
        while let Some(key) = rest.next() {
            if rest.clone().any(|other| other == key) {
                return false;
            }
        }
        return true;
    }
    let mut seen = HashSet::with_capacity(keys.len());
    keys.into_iter().all(|key| seen.insert(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> Value {
        (0..depth).fold(Value::Int(1), |inner, _| Value::List(vec![inner]))
    }

    fn put(value: Value) -> Vec<Action> {
        let item = NewItem::new(ItemKey::new("p", "s"), Attributes::from([("a".into(), value)]));
        vec![Action::Put(item, Condition::Any)]
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        assert!(check_write(&put(nested(DEPTH_MAX))).is_ok());
        assert!(matches!(check_write(&put(nested(DEPTH_MAX + 1))), Err(StoreError::Contract(_))));
    }

    #[test]
    fn sizes_count_names_values_and_containers() {
        let map = Value::Map(Attributes::from([("xy".into(), Value::Text("abc".into()))]));
        let attributes = Attributes::from([("list".into(), Value::List(vec![Value::Int(1), map]))]);
        let bytes = item_bytes(&ItemKey::new("pp", "s"), Some(&[0; 10]), Some(&[0; 5]), &attributes);
        assert_eq!(bytes, 3 + 10 + 5 + 4 + 1 + (3 + (12 + 1) + (3 + 1 + 2 + 3) + 1));
    }

    #[test]
    fn a_repeated_key_is_found_among_few_and_many() {
        for count in [2, FEW, FEW + 1, ITEMS_MAX] {
            let mut keys: Vec<_> = (0..count).map(|n| ItemKey::new("p", n.to_string())).collect();
            assert!(check_get(&keys).is_ok());
            keys[count - 1] = keys[0].clone();
            assert!(matches!(check_get(&keys), Err(StoreError::Contract(_))), "{count}");
        }
    }

    #[test]
    fn an_attribute_without_a_name_is_refused_at_any_depth() {
        let unnamed = Value::Map(Attributes::from([(String::new(), Value::Bool(true))]));
        assert!(matches!(check_write(&put(unnamed)), Err(StoreError::Contract(_))));
    }

    #[test]
    fn a_name_ends_at_the_limit() {
        let named = |bytes| Value::Map(Attributes::from([("n".repeat(bytes), Value::Bool(true))]));
        assert!(check_write(&put(named(NAME_BYTES_MAX))).is_ok());
        assert!(matches!(check_write(&put(named(NAME_BYTES_MAX + 1))), Err(StoreError::Contract(_))));
    }

    #[test]
    fn a_revision_that_has_no_successor_is_refused() {
        let item = NewItem::new(ItemKey::new("p", "s"), Attributes::new());
        for revision in [u64::MAX, i64::MAX.unsigned_abs()] {
            let actions = [Action::Put(item.clone(), Condition::Revision(revision))];
            assert!(matches!(check_write(&actions), Err(StoreError::Contract(_))));
        }
    }
}
