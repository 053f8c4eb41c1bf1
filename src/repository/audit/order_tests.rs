//! Order, index and projections: everything once, whatever is lost on the way; old boots sealed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    AuditLog, AuditTasks, Commit,
    batch::{BatchKind, ChainId, batch_key, place},
    index::{self, IndexState},
    log::{self, LogState},
    reader::{self, Event},
    testing::{Fault, TinyStore, draft, log_on, org, records, soon},
};
use crate::{
    domain::{
        audit::{AuditDraft, Receipt},
        error::Reason,
        ids::{KeyId, OrgId, TokenId},
    },
    repository::{last_used, projection},
    store::{Action, Condition, Item, ItemKey, NewItem, Order},
};

/// Writes `rounds` retrievals in each of two organizations, and a mutation.
async fn write_some(log: &AuditLog, rounds: usize) -> Vec<(OrgId, Receipt)> {
    let mut receipts = Vec::new();
    for n in 0..rounds {
        for id in ["acme", "globex"] {
            let receipt = log.append(draft(id, &format!("orgs/{id}/keys/k{n}")), soon()).await.unwrap();
            receipts.push((org(id), receipt));
        }
    }
    let item = NewItem::new(ItemKey::new("T", "mutated"), BTreeMap::new());
    let ended = log.commit(vec![Action::Put(item, Condition::Any)], draft("acme", "orgs/acme/keys/m"), soon()).await;
    let Commit::Done(receipt) = ended.unwrap() else { panic!("no condition can fail") };
    receipts.push((org("acme"), receipt));
    receipts
}

/// Every event that the index of `org` leads to, oldest first.
async fn indexed(store: &Arc<TinyStore>, org: &OrgId) -> Vec<Event> {
    let records = records(store);
    let mut events = Vec::new();
    for day in index::days(&records, org, Order::Ascending, None, 100, soon()).await.unwrap() {
        let (rows, is_more) = index::rows(&records, org, day.day, Order::Ascending, None, 1_000, soon()).await.unwrap();
        assert!(!is_more);
        for row in rows {
            let batch = reader::batch(&records, &row.chain, row.batch, soon()).await.unwrap().unwrap();
            for index in row.records {
                let event = Event::of(org, &batch, index.into(), row.position).unwrap();
                assert!(event.time() >= day.from);
                events.push(event);
            }
        }
    }
    events
}

async fn assert_indexed_once(store: &Arc<TinyStore>, receipts: &[(OrgId, Receipt)]) {
    for id in ["acme", "globex"] {
        let expected: BTreeSet<String> =
            receipts.iter().filter(|(of, _)| *of == org(id)).map(|(_, receipt)| receipt.event_id()).collect();
        let events = indexed(store, &org(id)).await;
        let found: Vec<String> = events.iter().map(|event| format!("{}.{}", event.chain, event.sequence)).collect();
        assert_eq!(found.len(), expected.len());
        assert_eq!(BTreeSet::from_iter(found), expected);
        assert!(events.is_sorted_by_key(|event| event.position));
        for event in events {
            let read = reader::event(&records(store), &org(id), &event.chain, event.sequence, soon()).await;
            assert_eq!(read.unwrap(), Some(event));
        }
    }
}

/// The log's rows lead from position 1 without a gap through every batch once.
async fn assert_in_order(store: &Arc<TinyStore>) {
    let records = records(store);
    let (mut next, mut chains) = (1, BTreeMap::<ChainId, u64>::new());
    loop {
        let rows = log::rows(&records, next, 10, soon()).await.unwrap();
        if rows.is_empty() {
            break;
        }
        for row in rows {
            for (position, chain, number, hash, count) in row.batches() {
                assert_eq!(position, next);
                let last = chains.entry(chain.clone()).or_default();
                assert_eq!(number, *last + 1);
                (next, *last) = (next + 1, number);
                let batch = reader::batch(&records, chain, number, soon()).await.unwrap().unwrap();
                assert_eq!((batch.header.hash(), batch.header.count), (*hash, count));
            }
        }
    }
    assert_eq!(LogState::load(&records, soon()).await.unwrap().next, next);
    let in_store = store.tamper(|items| items.keys().filter(|key| key.sort.starts_with("B#")).count());
    assert_eq!(in_store as u64, next - 1);
}

#[tokio::test]
async fn everything_is_put_in_order_and_indexed_once() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let mut tasks = AuditTasks::new(&log);
    let mut receipts = Vec::new();
    for rounds in [5, 1, 70] {
        receipts.extend(write_some(&log, rounds).await);
        let before = log.snapshot(soon()).await.unwrap();
        assert!(!before.unindexed.is_empty());
        tasks.tick().await.unwrap();
        let after = log.snapshot(soon()).await.unwrap();
        assert_eq!(after.unindexed, []);
        assert_eq!(*log.indexed().borrow(), after.position);
        assert_indexed_once(&store, &receipts).await;
        assert_in_order(&store).await;
    }
    log.close().await;
    tasks.tick().await.unwrap();
    assert_in_order(&store).await;
    tasks.tick().await.unwrap();
    let index = IndexState::load(&records(&store), soon()).await.unwrap();
    assert!(index.chains.is_empty(), "sealed chains are finished");
    assert_eq!(log::open_chains(&records(&store), soon()).await.unwrap(), []);
}

#[tokio::test]
async fn a_lost_write_of_order_or_index_changes_nothing() {
    for fault in [Fault::LostAfter, Fault::LostBefore, Fault::Late, Fault::Refused] {
        // The writes of a tick: lease, order, index, projection.
        for failing in 0..4 {
            let store = Arc::new(TinyStore::default());
            let log = log_on(&store);
            let mut tasks = AuditTasks::new(&log);
            let mut receipts = write_some(&log, 3).await;
            store.fail_after(failing, fault);
            tasks.tick().await.unwrap_err();
            // What comes meanwhile is put in order before the index has what was there already.
            receipts.extend(write_some(&log, 1).await);
            while tasks.tick().await.is_err() {}
            assert_indexed_once(&store, &receipts).await;
            assert_in_order(&store).await;
            assert_eq!(log.snapshot(soon()).await.unwrap().unindexed, []);
        }
    }
}

#[tokio::test]
async fn an_overtaken_sequencer_writes_nothing_more() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let (mut first, mut second) = (AuditTasks::new(&log), AuditTasks::new(&log));
    let mut receipts = write_some(&log, 2).await;
    first.tick().await.unwrap();
    second.tick().await.unwrap();
    receipts.extend(write_some(&log, 2).await);
    let before = store.tamper(|items| items.clone());
    first.tick().await.unwrap_err();
    assert_eq!(store.tamper(|items| items.clone()), before);
    second.tick().await.unwrap();
    assert_indexed_once(&store, &receipts).await;
    assert_in_order(&store).await;
}

#[tokio::test]
async fn a_start_seals_the_chains_of_boots_that_are_gone() {
    let store = Arc::new(TinyStore::default());
    let old = log_on(&store);
    let receipts = write_some(&old, 2).await;
    let new = log_on(&store);
    AuditTasks::new(&new).tick().await.unwrap();
    for chain in receipts.iter().map(|(_, receipt)| receipt.chain.as_str()).collect::<BTreeSet<_>>() {
        let chain = ChainId::parse(chain).unwrap();
        let last = reader::find_head(&records(&store), &chain, 0, soon()).await.unwrap().unwrap();
        assert_eq!(last.header.kind, BatchKind::Seal);
        let (heads, _) = reader::heads(&records(&store), None, soon()).await.unwrap();
        let head = heads.iter().find(|head| head.chain == chain).unwrap();
        assert_eq!(head.sealed, Some(last.header.batch));
    }
    assert_in_order(&store).await;
    // The old boot, were it still alive, is fenced and says so by a new chain.
    let late = old.append(draft("acme", "late"), soon()).await.unwrap();
    assert!(receipts.iter().all(|(_, receipt)| receipt.chain != late.chain));
}

/// Whatever is put in order, indexed and sealed between two reads of a snapshot.
#[tokio::test]
async fn a_snapshot_has_every_record_once_while_others_index_and_seal() {
    let store = Arc::new(TinyStore::default());
    let (log, other) = (log_on(&store), log_on(&store));
    let mut tasks = AuditTasks::new(&other);
    tasks.tick().await.unwrap();
    let mut receipts = write_some(&log, 2).await;
    let mut stages = vec![store.tamper(|items| items.clone())];
    tasks.tick().await.unwrap();
    stages.push(store.tamper(|items| items.clone()));
    receipts.extend(write_some(&other, 1).await);
    // What is acknowledged from here on is no matter: only chains end.
    log.close().await;
    stages.push(store.tamper(|items| items.clone()));
    tasks.tick().await.unwrap();
    stages.push(store.tamper(|items| items.clone()));
    for (from, before) in stages.iter().enumerate() {
        let known = receipts.iter().filter(|(_, receipt)| {
            let (chain, (number, _)) = (ChainId::parse(&receipt.chain).unwrap(), place(receipt.sequence));
            before.contains_key(&batch_key(&chain, number))
        });
        let known: Vec<_> = known.collect();
        for (to, after) in stages.iter().enumerate().skip(from) {
            for reads in 0..16 {
                store.tamper(|items| items.clone_from(before));
                store.change_after(reads, after.clone());
                let reader = log_on(&store);
                let snapshot = reader.snapshot(soon()).await.unwrap();
                // The rest of a page is read when all is as it is then.
                store.tamper(|items| items.clone_from(after));
                store.change_after(usize::MAX, BTreeMap::new());
                for (of, receipt) in &known {
                    let (chain, (number, _)) = (ChainId::parse(&receipt.chain).unwrap(), place(receipt.sequence));
                    let rows = indexed(&store, of).await;
                    let is_indexed = |event: &&Event| event.chain == chain && event.sequence == receipt.sequence;
                    let by_index = rows.iter().filter(is_indexed).filter(|it| it.position <= snapshot.position).count();
                    let covers =
                        |end: &&reader::Unindexed| end.chain == chain && (end.cut + 1..=end.head).contains(&number);
                    let by_ends = snapshot.unindexed.iter().filter(covers).count();
                    assert_eq!(
                        by_index + by_ends,
                        1,
                        "{receipt:?} from {from} to {to} after {reads} reads: {snapshot:?}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_goes_down_hides_no_chain() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    write_some(&log, 2).await;
    let expected = log_on(&store).snapshot(soon()).await.unwrap();
    assert!(!expected.unindexed.is_empty());
    let mut reads = 0;
    loop {
        store.fail_read_after(reads);
        let snapshot = log_on(&store).snapshot(soon()).await;
        if !store.has_failed_read() {
            break assert_eq!(snapshot.unwrap(), expected);
        }
        assert_eq!(snapshot.unwrap_err().reason, Reason::StoreUnavailable);
        reads += 1;
    }
    assert!(reads > 2, "the ends of the chains were read, too");
}

#[tokio::test]
async fn no_failed_read_of_a_tick_is_taken_for_an_answer() {
    let mut reads = 0;
    loop {
        let store = Arc::new(TinyStore::default());
        let mut receipts = write_some(&log_on(&store), 2).await;
        // The chains of a boot that is gone are sealed, too.
        let log = log_on(&store);
        receipts.extend(write_some(&log, 1).await);
        let mut tasks = AuditTasks::new(&log);
        store.fail_read_after(reads);
        let ended = tasks.tick().await;
        if !store.has_failed_read() {
            break ended.unwrap();
        }
        assert_eq!(ended.unwrap_err().reason, Reason::StoreUnavailable, "after {reads} reads");
        tasks.tick().await.unwrap();
        assert_indexed_once(&store, &receipts).await;
        reads += 1;
    }
    assert!(reads > 10);
}

#[tokio::test]
async fn what_was_folded_before_is_folded_again_before_what_is_new() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    log.append(draft("acme", "orgs/acme/keys/old"), soon()).await.unwrap();
    AuditTasks::new(&log).tick().await.unwrap();
    store.tamper(|items| items.retain(|key, _| key.partition != "PROJ" && !key.partition.ends_with("#LU")));
    log.append(draft("acme", "orgs/acme/keys/new"), soon()).await.unwrap();
    AuditTasks::new(&log).tick().await.unwrap();
    let keys = ["old", "new"].map(|id| KeyId::parse("key", id).unwrap());
    let used = last_used::keys(&records(&store), &org("acme"), &keys, soon()).await.unwrap();
    assert!(used.iter().all(Option::is_some));
}

#[tokio::test]
async fn a_listed_day_goes_back_to_the_earliest_of_its_records() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let mut tasks = AuditTasks::new(&log);
    let now = draft("acme", "a").time;
    for (hours, earliest) in [(1, 1), (3, 3), (2, 3)] {
        let before = |hours: u64| now.minus(Duration::from_secs(hours * 3_600));
        log.append(AuditDraft { time: before(hours), ..draft("acme", "a") }, soon()).await.unwrap();
        tasks.tick().await.unwrap();
        let days = index::days(&records(&store), &org("acme"), Order::Ascending, None, 10, soon()).await.unwrap();
        // Should midnight pass meanwhile, there are two of them.
        assert_eq!(days.iter().map(|day| day.from).min(), Some(before(earliest)));
    }
}

#[tokio::test]
async fn who_waits_for_the_index_is_woken_when_it_goes_on_and_only_then() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let mut tasks = AuditTasks::new(&log);
    let mut indexed = log.indexed();
    for rounds in [1, 2] {
        write_some(&log, rounds).await;
        tasks.tick().await.unwrap();
        assert!(indexed.has_changed().unwrap());
        indexed.mark_unchanged();
        tasks.tick().await.unwrap();
        assert!(!indexed.has_changed().unwrap());
    }
}

#[tokio::test]
async fn what_is_not_in_order_yet_is_known_and_since_when() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let is_in_order = async || {
        let records = records(&store);
        let open = log::open_chains(&records, soon()).await.unwrap();
        log::is_in_order(&records, &open, &LogState::load(&records, soon()).await.unwrap(), soon()).await.unwrap()
    };
    let written = draft("acme", "a").time;
    write_some(&log, 2).await;
    assert!(!is_in_order().await);
    AuditTasks::new(&log).tick().await.unwrap();
    assert!(is_in_order().await);
    let later = draft("acme", "a").time;
    write_some(&log, 1).await;
    assert!(!is_in_order().await);
    let now = later.plus(Duration::from_secs(9));
    let until = projection::folded_until(&records(&store), "usage", now, soon()).await.unwrap().unwrap();
    assert!((written..=later).contains(&until), "what came since is not told of");
}

#[tokio::test]
async fn what_the_index_lost_is_indexed_again_in_one_tick() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let mut receipts = Vec::new();
    for _ in 0..50 {
        receipts.extend(write_some(&log, 1).await);
    }
    AuditTasks::new(&log).tick().await.unwrap();
    store.tamper(|items| items.retain(|key, _| key.sort != "INDEX" && !key.partition.starts_with("O#")));
    AuditTasks::new(&log).tick().await.unwrap();
    assert_indexed_once(&store, &receipts).await;
    assert_eq!(log.snapshot(soon()).await.unwrap().unindexed, []);
}

#[tokio::test]
async fn last_uses_are_folded_and_equal_when_rebuilt() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let mut tasks = AuditTasks::new(&log);
    for _ in 0..3 {
        write_some(&log, 3).await;
        tasks.tick().await.unwrap();
    }
    let mut denied = draft("acme", "orgs/acme/keys/denied");
    denied.outcome = crate::domain::audit::Outcome::Denied;
    denied.token_id = "1".repeat(32);
    let time = denied.time;
    log.append(denied, soon()).await.unwrap();
    tasks.tick().await.unwrap();

    let key = |id: &str| KeyId::parse("key", id).unwrap();
    let token = |digit: &str| TokenId::parse("token", &digit.repeat(32)).unwrap();
    let records = records(&store);
    let keys = [key("k0"), key("denied"), key("k0")];
    let used = last_used::keys(&records, &org("acme"), &keys, soon()).await.unwrap();
    assert!(used[0].is_some() && used[0] == used[2]);
    assert_eq!(used[1], None, "a refused retrieval is no use of the key");
    let tokens = [token("1"), token("2")];
    assert_eq!(last_used::tokens(&records, &org("acme"), &tokens, soon()).await.unwrap(), [Some(time), None]);

    let rows = |items: &mut BTreeMap<ItemKey, Item>| -> Vec<_> {
        let rows = items.values().filter(|item| item.key.partition.ends_with("#LU"));
        rows.map(|item| (item.key.clone(), item.attributes.clone())).collect()
    };
    let before = store.tamper(rows);
    assert!(!before.is_empty());
    store.tamper(|items| items.retain(|key, _| key.partition != "PROJ" && !key.partition.ends_with("#LU")));
    AuditTasks::new(&log).tick().await.unwrap();
    assert_eq!(store.tamper(rows), before);
    // Folding again what is folded changes nothing.
    store.tamper(|items| items.retain(|key, _| key.partition != "PROJ"));
    AuditTasks::new(&log).tick().await.unwrap();
    assert_eq!(store.tamper(rows), before);
}

#[tokio::test]
async fn a_batch_of_many_organizations_is_indexed_whole() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    // All of them queue before the lane's task runs: one batch.
    (0..150).for_each(|n| log.note(draft(&format!("org{n}"), "denied")));
    log.append(draft("acme", "orgs/acme/keys/a"), soon()).await.unwrap();
    AuditTasks::new(&log).tick().await.unwrap();
    for n in 0..150 {
        let events = indexed(&store, &org(&format!("org{n}"))).await;
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].position, 1);
    }
}
