//! Verification: what is whole is intact; whatever is changed, dropped or swapped is named.

use std::sync::Arc;

use super::{
    AuditTasks,
    batch::{Batch, ChainId, batch_item, batch_key, sequence},
    heads::Head,
    testing::{TinyStore, draft, log_on, records, soon},
    verify::{Break, Step, Verifier},
};
use crate::{
    domain::clock::SystemClock,
    repository::records::Expected,
    store::{Action, Item, ItemKey, NewItem, Value},
};

async fn verdict(store: &Arc<TinyStore>) -> (Step, u64) {
    let mut verifier = Verifier::new(records(store), Arc::new(SystemClock));
    loop {
        let step = verifier.step().await.unwrap();
        if step != Step::Going {
            assert!(verifier.checked <= verifier.total);
            return (step, verifier.checked);
        }
    }
}

async fn problem(store: &Arc<TinyStore>) -> Break {
    let (step, _) = verdict(store).await;
    let Step::Broken(at) = step else { panic!("{step:?}") };
    at
}

/// A log of `ordered` batches in order and `tail` that are not; the chain of both.
async fn log_of(ordered: usize, tail: usize) -> (Arc<TinyStore>, super::AuditLog, ChainId) {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let mut tasks = AuditTasks::new(&log);
    let mut chain = None;
    for n in 0..ordered + tail {
        if n == ordered {
            tasks.tick().await.unwrap();
        }
        let receipt = log.append(draft("acme", &format!("orgs/acme/keys/k{n}")), soon()).await.unwrap();
        chain = ChainId::parse(&receipt.chain);
    }
    if tail == 0 {
        tasks.tick().await.unwrap();
    }
    (store, log, chain.unwrap())
}

/// Puts `item` there with a MAC that holds: what only a thief of the record key can.
fn forge(store: &Arc<TinyStore>, new: NewItem) {
    let Action::Put(new, _) = records(store).put(new, Expected::Absent) else { unreachable!() };
    let NewItem { key, expires, sealed, mac, attributes } = new;
    store.tamper(|items| items.insert(key.clone(), Item { key, revision: 1, expires, sealed, mac, attributes }));
}

#[tokio::test]
async fn a_whole_log_is_intact_at_every_stage() {
    for (ordered, tail) in [(0, 0), (0, 1), (3, 0), (40, 40), (5, 16)] {
        let (step, checked) = match (ordered, tail) {
            (0, 0) => verdict(&Arc::default()).await,
            _ => {
                let (store, _log, _) = log_of(ordered, tail).await;
                verdict(&store).await
            }
        };
        assert_eq!((step, checked), (Step::Intact, (ordered + tail) as u64));
    }
    let (store, log, _) = log_of(3, 3).await;
    log.close().await;
    assert_eq!(verdict(&store).await, (Step::Intact, 6));
    AuditTasks::new(&log).tick().await.unwrap();
    assert_eq!(verdict(&store).await, (Step::Intact, 6));
}

#[tokio::test]
async fn a_changed_batch_is_named() {
    for number in 1..=40 {
        let (store, _log, chain) = log_of(20, 20).await;
        store.tamper(|items| {
            let batch = items.get_mut(&batch_key(&chain, number)).unwrap();
            let Some(Value::List(list)) = batch.attributes.get_mut("records") else { unreachable!() };
            let Value::Bytes(bytes) = &mut list[0] else { unreachable!() };
            bytes[30] ^= 1;
        });
        let expected =
            Break { chain: Some(chain), sequence: sequence(number, 0), problem: "the batch's MAC does not hold" };
        assert_eq!(problem(&store).await, expected);
    }
}

#[tokio::test]
async fn a_dropped_batch_is_named() {
    for number in 1..40 {
        let (store, _log, chain) = log_of(20, 20).await;
        store.tamper(|items| items.remove(&batch_key(&chain, number)));
        let expected = Break { chain: Some(chain), sequence: sequence(number, 0), problem: "the batch is missing" };
        assert_eq!(problem(&store).await, expected);
    }
}

#[tokio::test]
async fn swapped_batches_are_named() {
    for first in [1, 19, 20, 30] {
        let (store, _log, chain) = log_of(20, 20).await;
        store.tamper(|items| {
            let (a, b) = (batch_key(&chain, first), batch_key(&chain, first + 1));
            let mut swap = (items.remove(&a).unwrap(), items.remove(&b).unwrap());
            (swap.0.key, swap.1.key) = (b.clone(), a.clone());
            items.extend([(b, swap.0), (a, swap.1)]);
        });
        assert_eq!(problem(&store).await.sequence, sequence(first, 0));
    }
}

#[tokio::test]
async fn even_the_record_key_does_not_help_to_rewrite_what_is_in_order() {
    let (store, _log, chain) = log_of(3, 3).await;
    for (number, expected) in [(5, 6), (2, 2)] {
        let item = store.tamper(|items| items[&batch_key(&chain, number)].clone());
        let mut batch = Batch::read(item).unwrap();
        batch.records[0][20] ^= 1;
        forge(&store, batch_item(&batch.header, batch.records.clone()));
        let at = problem(&store).await;
        assert_eq!(
            (at.sequence, at.problem),
            (sequence(number, 0), "the batch's records are not those that were hashed")
        );
        batch.header.root = super::tree::root(batch.records.iter().map(|record| super::tree::leaf_hash(record)));
        forge(&store, batch_item(&batch.header, batch.records));
        assert_eq!(problem(&store).await.sequence, sequence(expected, 0));
    }
}

#[tokio::test]
async fn rows_of_order_and_of_chains_are_missed() {
    let remove = |key: ItemKey, expected: &'static str| async move {
        let (store, _log, _) = log_of(3, 0).await;
        assert!(store.tamper(|items| items.remove(&key)).is_some());
        assert_eq!(problem(&store).await.problem, expected);
    };
    remove(ItemKey::new("A#LOG#0", format!("{:020}", 1)), "a row of the order is missing").await;

    let (store, _log, chain) = log_of(3, 0).await;
    store.tamper(|items| items.remove(&Head::key(&chain)));
    assert_eq!(problem(&store).await.problem, "the row of a chain is missing");

    let (store, log, chain) = log_of(3, 0).await;
    log.close().await;
    store.tamper(|items| items.remove(&batch_key(&chain, 4)));
    assert_eq!(problem(&store).await.problem, "the chain does not end with its seal");

    let (store, _log, _) = log_of(3, 0).await;
    store.tamper(|items| {
        let state = items.get_mut(&ItemKey::new("A#SEQ", "LOG")).unwrap();
        state.attributes.insert("next".into(), Value::Int(2));
    });
    assert_eq!(problem(&store).await.problem, "the record of how far the order goes does not verify");
}

#[tokio::test]
async fn a_batch_elsewhere_in_the_order_is_named() {
    for (attribute, value) in [("position", 2), ("count", 1)] {
        let (store, _log, chain) = log_of(3, 1).await;
        let change = |items: &mut std::collections::BTreeMap<ItemKey, Item>| {
            let run = items.get_mut(&super::log::run_key(&chain, 1)).unwrap();
            assert_ne!(run.attributes.insert(attribute.into(), Value::Int(value)), Some(Value::Int(value)));
            run.clone()
        };
        let run = store.tamper(change);
        let expected = Break {
            chain: Some(chain.clone()),
            sequence: sequence(1, 0),
            problem: "the batch's position does not verify",
        };
        assert_eq!(problem(&store).await, expected);
        // The record key does not help: the row of the order says otherwise.
        forge(&store, NewItem::new(run.key.clone(), run.attributes));
        assert_eq!(problem(&store).await, expected);
        store.tamper(|items| items.remove(&run.key));
        assert_eq!(problem(&store).await, expected);
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_no_verdict() {
    let (store, _log, _) = log_of(3, 0).await;
    let mut verifier = Verifier::new(records(&store), Arc::new(SystemClock));
    verifier.step().await.unwrap();
    store.set_down(true);
    verifier.step().await.unwrap_err();
}
