//! Random calls: the adapter answers as a plain map would.

use std::collections::BTreeMap;

use proptest::{prelude::*, test_runner::TestRunner};

use super::*;

type Model = BTreeMap<(String, String), (u64, i64)>;

#[derive(Clone, Debug)]
enum Call {
    Write(Vec<(Kind, ItemKey, Condition)>),
    Get(Vec<ItemKey>),
    Query(Query),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Put(i64),
    Delete,
    Check,
}

/// Runs random calls on fresh stores from `open` and on the model.
pub(crate) fn agrees<F: Future<Output = Fixture>>(open: impl Fn() -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    let calls = prop::collection::vec(call(), 1..40);
    TestRunner::new(config)
        .run(&calls, |calls| {
            runtime.block_on(async {
                let fixture = open().await;
                let mut model = Model::new();
                for call in calls {
                    step(&fixture, &mut model, call).await?;
                }
                Ok(())
            })
        })
        .unwrap();
}

async fn step(fixture: &Fixture, model: &mut Model, call: Call) -> Result<(), TestCaseError> {
    match call {
        Call::Write(parts) => {
            let wanted = write(model, &parts);
            let actions = parts.into_iter().map(|(kind, key, condition)| match kind {
                Kind::Put(number) => put(&key, number, condition),
                Kind::Delete => delete(&key, condition),
                Kind::Check => check(&key, condition),
            });
            prop_assert_eq!(fixture.write(actions.collect()).await.unwrap(), wanted);
        }
        Call::Get(keys) => {
            let wanted: Vec<_> = keys.iter().map(|key| item(model, key)).collect();
            prop_assert_eq!(fixture.get(&keys).await, wanted);
        }
        Call::Query(query) => {
            let page = fixture.query(query.clone()).await;
            let wanted = query_all(model, &query);
            prop_assert_eq!(&page.items[..], &wanted[..wanted.len().min(query.limit)]);
            prop_assert!(page.next.is_some() || page.items.len() == wanted.len());
            prop_assert_eq!(fixture.all(query).await, wanted);
        }
    }
    Ok(())
}

fn write(model: &mut Model, parts: &[(Kind, ItemKey, Condition)]) -> Written {
    let place = |key: &ItemKey| (key.partition.clone(), key.sort.clone());
    for (index, (_, key, condition)) in parts.iter().enumerate() {
        let holds = match (condition, model.get(&place(key))) {
            (Condition::Any, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => true,
            (Condition::Revision(wanted), Some((revision, _))) => wanted == revision,
            _ => false,
        };
        if !holds {
            return Written::Conflict { index, current: item(model, key) };
        }
    }
    for (kind, key, _) in parts {
        match kind {
            Kind::Put(number) => {
                let revision = model.get(&place(key)).map_or(1, |(revision, _)| revision + 1);
                model.insert(place(key), (revision, *number));
            }
            Kind::Delete => drop(model.remove(&place(key))),
            Kind::Check => {}
        }
    }
    Written::Committed
}

fn item(model: &Model, key: &ItemKey) -> Option<Item> {
    let (revision, number) = *model.get(&(key.partition.clone(), key.sort.clone()))?;
    let NewItem { key, expires, sealed, mac, attributes } = numbered(key.clone(), number);
    Some(Item { key, revision, expires, sealed, mac, attributes })
}

fn query_all(model: &Model, query: &Query) -> Vec<Item> {
    let covered = |sort: &str| match &query.range {
        SortRange::All => true,
        SortRange::Prefix(prefix) => sort.starts_with(prefix),
        SortRange::Between(first, last) => first.as_str() <= sort && sort <= last.as_str(),
    };
    let beyond = |sort: &str| match (&query.after, query.order) {
        (None, _) => true,
        (Some(after), Order::Ascending) => sort > after.as_str(),
        (Some(after), Order::Descending) => sort < after.as_str(),
    };
    let places = model.keys().filter(|(p, s)| *p == query.partition && covered(s) && beyond(s));
    let mut items: Vec<_> = places.filter_map(|(p, s)| item(model, &key(p, s))).collect();
    if query.order == Order::Descending {
        items.reverse();
    }
    items
}

fn sort() -> impl Strategy<Value = String> {
    "[ab#\0\u{10ffff}]{1,3}"
}

fn item_key() -> impl Strategy<Value = ItemKey> {
    ("[pq]", sort()).prop_map(|(partition, sort)| ItemKey { partition, sort })
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        4 => Just(Condition::Any),
        2 => Just(Condition::Absent),
        1 => Just(Condition::Present),
        1 => (1_u64..4).prop_map(Condition::Revision),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let kind = prop_oneof![3 => any::<i64>().prop_map(Kind::Put), 1 => Just(Kind::Delete), 1 => Just(Kind::Check)];
    let parts = prop::collection::hash_map(item_key(), (kind, condition()), 1..5);
    let range = prop_oneof![
        Just(SortRange::All),
        "[ab#\u{10ffff}]{0,2}".prop_map(SortRange::Prefix),
        (sort(), sort()).prop_map(|(first, last)| SortRange::Between(first, last)),
    ];
    let order = prop_oneof![Just(Order::Ascending), Just(Order::Descending)];
    let query = ("[pq]", range, order, 1_usize..6, prop::option::of(sort()));
    prop_oneof![
        3 => parts.prop_map(|parts| {
            Call::Write(parts.into_iter().map(|(key, (kind, condition))| (kind, key, condition)).collect())
        }),
        1 => prop::collection::hash_set(item_key(), 1..12).prop_map(|keys| Call::Get(keys.into_iter().collect())),
        2 => query.prop_map(|(partition, range, order, limit, after)| {
            Call::Query(Query { partition, range, order, limit, after })
        }),
    ]
}
