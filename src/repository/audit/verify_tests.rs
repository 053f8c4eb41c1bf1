//! Verification: what is whole is intact; whatever is changed, dropped or swapped is named.

use std::sync::Arc;

use super::{
    AuditTasks,
    batch::{Batch, ChainId, Header, SEGMENT_BATCHES, batch_item, batch_key, sequence},
    heads::{HEADS, Head},
    log::{SEGMENT_POSITIONS, position_sort, rows},
    reader::{event, find_head, heads},
    testing::{TinyStore, draft, log_on, org, records, soon},
    verify::{Break, Step, Verifier},
};
use crate::{
    domain::{
        clock::{SystemClock, Timestamp},
        error::Reason,
    },
    repository::{fields::Builder, records::Expected},
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
    let expected =
        Break { chain: Some(chain), sequence: sequence(4, 0), problem: "the chain does not end with its seal" };
    assert_eq!(problem(&store).await, expected);

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
async fn what_is_no_chains_row_is_passed_over() {
    let (store, _log, _) = log_of(3, 1).await;
    let (expected, _) = heads(&records(&store), None, soon()).await.unwrap();
    let key = ItemKey::new(HEADS, "no chain");
    let item = Item { key: key.clone(), revision: 1, expires: None, sealed: None, mac: None, attributes: [].into() };
    store.tamper(|items| items.insert(key, item));
    assert_eq!(heads(&records(&store), None, soon()).await.unwrap().0, expected);
    assert_eq!(verdict(&store).await, (Step::Intact, 4));
}

#[tokio::test]
async fn what_is_not_in_order_yet_has_no_position() {
    let (store, _log, chain) = log_of(3, 2).await;
    for (number, position) in [(1, 1), (3, 3), (4, 0), (5, 0)] {
        let found = event(&records(&store), &org("acme"), &chain, sequence(number, 0), soon()).await.unwrap();
        assert_eq!(found.unwrap().position, position);
    }
}

#[tokio::test]
async fn the_last_batch_is_found_beyond_the_end_of_a_segment() {
    let (store, _log, chain) = log_of(1, 0).await;
    let first = Batch::read(store.tamper(|items| items[&batch_key(&chain, 1)].clone())).unwrap();
    for last in [SEGMENT_BATCHES - 2, SEGMENT_BATCHES - 1, SEGMENT_BATCHES, SEGMENT_BATCHES + 1] {
        let header = Header { batch: last, ..first.header.clone() };
        forge(&store, batch_item(&header, first.records.clone()));
        let head = find_head(&records(&store), &chain, 1, soon()).await.unwrap().unwrap();
        assert_eq!(head.header.batch, last);
        assert_eq!(find_head(&records(&store), &chain, last, soon()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_reader_goes_on_behind_the_segments_that_have_left() {
    let (store, _log, _) = log_of(3, 0).await;
    let row = store.tamper(|items| items.remove(&ItemKey::new("A#LOG#0", position_sort(1))).unwrap());
    let floor = SEGMENT_POSITIONS + 7;
    forge(&store, NewItem::new(ItemKey::new("A#LOG#1", position_sort(floor)), row.attributes));
    let left = Builder::new().count("floor", floor).count("deleted", floor).count("records", 3);
    let left = left.time("until", Timestamp::default()).build();
    forge(&store, NewItem::new(ItemKey::new("A#SEQ", "ARCHIVE"), left));
    for (from, expected) in [(1, Some(floor)), (8, Some(floor)), (floor, Some(floor)), (2 * SEGMENT_POSITIONS, None)] {
        let rows = rows(&records(&store), from, 10, soon()).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.position).next(), expected, "from {from}");
    }
}

#[tokio::test]
async fn a_read_that_fails_is_no_verdict() {
    let (store, _log, chain) = log_of(3, 3).await;
    for is_broken in [false, true] {
        if is_broken {
            store.tamper(|items| items.remove(&batch_key(&chain, 2)));
        }
        let mut reads = 0;
        loop {
            store.fail_read_after(reads);
            let mut verifier = Verifier::new(records(&store), Arc::new(SystemClock));
            let ended = loop {
                match verifier.step().await {
                    Ok(Step::Going) => {}
                    ended => break ended,
                }
            };
            if !store.has_failed_read() {
                assert_eq!(ended.unwrap() == Step::Intact, !is_broken);
                break;
            }
            assert_eq!(ended.unwrap_err().reason, Reason::StoreUnavailable, "after {reads} reads");
            reads += 1;
        }
        assert!(reads > 3);
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

#[tokio::test]
async fn more_that_has_left_than_was_ever_in_order_is_named() {
    let (more, missing) =
        ("more has left for the archive than was ever put in order", "a root of the archive is missing");
    // Position 4 is the next, and there are 3 records.
    for (floor, left, expected) in [(5, 3, more), (4, 4, more), (1, 1, missing), (2, 0, missing)] {
        let (store, _log, _) = log_of(3, 0).await;
        let left = Builder::new().count("floor", floor).count("deleted", floor).count("records", left);
        let left = left.time("until", Timestamp::default()).build();
        forge(&store, NewItem::new(ItemKey::new("A#SEQ", "ARCHIVE"), left));
        assert_eq!(problem(&store).await.problem, expected, "{floor}");
    }
}

#[tokio::test]
async fn a_seal_elsewhere_than_its_row_says_is_named() {
    for is_closed in [false, true] {
        let (store, log, chain) = log_of(3, 0).await;
        if is_closed {
            log.close().await;
        }
        let row = store.tamper(|items| items[&Head::key(&chain)].clone());
        let mut attributes = row.attributes;
        attributes.insert("sealed".into(), Value::Int(3));
        forge(&store, NewItem::new(row.key, attributes));
        assert_eq!(problem(&store).await.problem, "the chain does not end with its seal", "{is_closed}");
    }
}

#[tokio::test]
async fn a_chain_without_a_batch_is_named() {
    let (store, _log, chain) = log_of(3, 0).await;
    let row = store.tamper(|items| items[&Head::key(&chain)].clone());
    let empty = ChainId::parse("0123456789abcdef-s000001").unwrap();
    forge(&store, NewItem::new(Head::key(&empty), row.attributes));
    let expected = Break { chain: Some(empty), sequence: sequence(1, 0), problem: "the chain has no batch" };
    assert_eq!(problem(&store).await, expected);
}

#[tokio::test]
async fn what_is_written_meanwhile_is_no_break() {
    for more in [1, 30] {
        let (store, log, _) = log_of(3, 2).await;
        let before = store.tamper(|items| items.clone());
        for n in 0..more {
            log.append(draft("acme", &format!("orgs/acme/keys/more{n}")), soon()).await.unwrap();
        }
        let after = store.tamper(|items| items.clone());
        let mut seen = std::collections::BTreeSet::new();
        for reads in 0..16 {
            store.tamper(|items| *items = before.clone());
            store.change_after(reads, after.clone());
            let (step, checked) = verdict(&store).await;
            assert_eq!(step, Step::Intact, "after {reads} reads");
            seen.insert(checked);
        }
        assert!(seen.contains(&(5 + more)), "{seen:?}");
    }
}
