//! Rows by which a key is found: keyed fingerprints in `O#org#FP`, and routes in
//! `O#org#R#provider:p` and `O#org#R#model:m`.

use crate::{
    domain::{
        clock::Deadline,
        error::Failure,
        ids::{Environment, KeyName, OrgId},
        key::{KeyRecord, Version},
    },
    repository::{fields::Builder, records::Records},
    store::{Action, Condition, ItemKey, NewItem, Order, Query, SortRange},
};

/// Writes the fingerprint row of a version.
#[must_use]
pub fn put_fingerprint(name: &KeyName, version: &Version) -> Action {
    let attributes = Builder::new().text("key", name.id.as_str()).int("version", version.number).build();
    Action::Put(NewItem::new(fingerprint_key(name, version), attributes), Condition::Any)
}

/// Deletes the fingerprint row of a version, if it has one.
#[must_use]
pub fn delete_fingerprint(name: &KeyName, version: &Version) -> Option<Action> {
    let has_one = !version.fingerprint.is_empty();
    has_one.then(|| Action::Delete(fingerprint_key(name, version), Condition::Any))
}

/// Whether a version of any key of `org` has this fingerprint.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn is_known(records: &Records, org: &OrgId, fingerprint: &str, deadline: Deadline) -> Result<bool, Failure> {
    let query = Query {
        partition: format!("O#{org}#FP"),
        range: SortRange::Prefix(format!("{fingerprint}#")),
        order: Order::Ascending,
        limit: 1,
        after: None,
    };
    Ok(!records.query(query, deadline).await?.items.is_empty())
}

/// Writes the route rows of a new key.
#[must_use]
pub fn put_routes(record: &KeyRecord) -> Vec<Action> {
    let attributes = || {
        let environment = record.environment.as_ref().map(Environment::as_str);
        Builder::new().text("provider", record.provider.as_str()).opt_text("environment", environment).build()
    };
    let put = |key| Action::Put(NewItem::new(key, attributes()), Condition::Any);
    route_keys(record).into_iter().map(put).collect()
}

/// Deletes the route rows of a key.
#[must_use]
pub fn delete_routes(record: &KeyRecord) -> Vec<Action> {
    route_keys(record).into_iter().map(|key| Action::Delete(key, Condition::Any)).collect()
}

/// What changes of the route rows from `before` to `after`.
#[must_use]
pub fn change_routes(before: &KeyRecord, after: &KeyRecord) -> Vec<Action> {
    let (old, new) = (delete_routes(before), put_routes(after));
    let absent = |action: &Action, others: &[Action]| others.iter().all(|other| other.key() != action.key());
    let mut actions: Vec<_> = old.iter().filter(|action| absent(action, &new)).cloned().collect();
    actions.extend(new.into_iter().filter(|action| absent(action, &old)));
    actions
}

fn fingerprint_key(name: &KeyName, version: &Version) -> ItemKey {
    let sort = format!("{}#{}#{:08}", version.fingerprint, name.id, version.number);
    ItemKey::new(format!("O#{}#FP", name.org), sort)
}

fn route_keys(record: &KeyRecord) -> Vec<ItemKey> {
    let key = |route: String| ItemKey::new(format!("O#{}#R#{route}", record.name.org), record.name.id.as_str());
    let mut keys = vec![key(format!("provider:{}", record.provider))];
    keys.extend(record.models.iter().map(|model| key(format!("model:{model}"))));
    keys
}
