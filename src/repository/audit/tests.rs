//! The writer: durable receipts, fences, lost outcomes, a store that goes and comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    APPEND_RECORDS_MAX, AuditLog, AuditSettings, Commit, LANE_DEPTH,
    batch::{BATCH_BYTES_MAX, Batch, BatchKind, ChainId, Header, LaneKind, batch_item, batch_key, place},
    heads::Head,
    reader,
    testing::{Fault, TinyStore, draft, log_on, org, records, soon},
    tree::leaf_hash,
    writer::{Appended, ChainWriter},
};
use crate::{
    domain::{
        audit::{AuditDraft, Receipt},
        clock::{Clock, SystemClock, Timestamp},
        error::Reason,
    },
    repository::records::Expected,
    store::{Action, Condition, ItemKey, NewItem, Value},
};

async fn all_batches(store: &Arc<TinyStore>, chain: &str) -> Vec<Batch> {
    let chain = ChainId::parse(chain).unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = reader::batch(&records(store), &chain, batches.len() as u64 + 1, soon()).await.unwrap() {
        batches.push(batch);
    }
    batches
}

async fn assert_found(store: &Arc<TinyStore>, receipt: &Receipt) {
    let (batch, index) = place(receipt.sequence);
    let chain = ChainId::parse(&receipt.chain).unwrap();
    let batch = reader::batch(&records(store), &chain, batch, soon()).await.unwrap().unwrap();
    assert_eq!(leaf_hash(&batch.records[index]), receipt.leaf_hash);
}

fn assert_chained(batches: &[Batch]) {
    let mut previous = [0; 32];
    for (batch, number) in batches.iter().zip(1..) {
        assert_eq!((batch.header.batch, batch.header.previous), (number, previous));
        assert!(batch.is_sound());
        previous = batch.header.hash();
    }
}

fn new_item(sort: &str) -> NewItem {
    NewItem::new(ItemKey::new("T", sort), BTreeMap::from([("v".to_owned(), Value::Int(1))]))
}

fn create(sort: &str) -> Vec<Action> {
    vec![Action::Put(new_item(sort), Condition::Absent)]
}

fn done(commit: Commit) -> Receipt {
    let Commit::Done(receipt) = commit else { panic!("{commit:?}") };
    receipt
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_get_distinct_receipts_and_one_sound_chain() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64 {
        let log = log.clone();
        tasks.spawn(async move {
            let mut receipts = Vec::new();
            for n in 0..16 {
                let draft = draft("acme", &format!("orgs/acme/keys/k{task}-{n}"));
                receipts.push(log.append(draft, soon()).await.unwrap());
            }
            receipts
        });
    }
    let receipts: Vec<Receipt> = tasks.join_all().await.into_iter().flatten().collect();
    let ids: BTreeSet<String> = receipts.iter().map(Receipt::event_id).collect();
    assert_eq!(ids.len(), 64 * 16);
    for receipt in &receipts {
        assert_found(&store, receipt).await;
    }
    let batches = all_batches(&store, &receipts[0].chain).await;
    assert_chained(&batches);
    assert_eq!(batches.iter().map(|batch| batch.records.len()).sum::<usize>(), 64 * 16);
    assert!(batches.len() < 64 * 16, "records share batches");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_belong_together_share_a_batch_whatever_else_is_written() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let long = |name: String| AuditDraft { purpose: "p".repeat(2_000), ..draft("acme", &name) };
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..24 {
        let log = log.clone();
        tasks.spawn(async move {
            if task % 2 == 0 {
                return vec![log.append(draft("acme", &format!("one-{task}")), soon()).await.unwrap()];
            }
            // Two of them do not fit into one batch.
            let drafts: Vec<_> = (0..APPEND_RECORDS_MAX).map(|n| long(format!("many-{task}-{n}"))).collect();
            log.append_all(drafts, soon()).await.unwrap()
        });
    }
    let receipts = tasks.join_all().await;
    for together in &receipts {
        let (first, index) = place(together[0].sequence);
        let expected: Vec<_> = (index..index + together.len()).map(|index| (first, index)).collect();
        assert_eq!(together.iter().map(|receipt| place(receipt.sequence)).collect::<Vec<_>>(), expected);
        for receipt in together {
            assert_found(&store, receipt).await;
        }
    }
    let batches = all_batches(&store, &receipts[0][0].chain).await;
    assert_chained(&batches);
    let sizes = batches.iter().map(|batch| batch.records.iter().map(Vec::len).sum::<usize>());
    assert!(sizes.max().unwrap() <= BATCH_BYTES_MAX);
    assert_eq!(batches.iter().map(|batch| batch.records.len()).sum::<usize>(), 12 + 12 * APPEND_RECORDS_MAX);
    log.close().await;
}

#[tokio::test]
async fn records_that_belong_together_are_written_or_refused_together() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    assert_eq!(log.append_all(Vec::new(), soon()).await.unwrap(), []);
    let drafts = |count| vec![draft("acme", "a"); count];
    let refused = log.append_all(drafts(APPEND_RECORDS_MAX + 1), soon()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Internal);
    store.set_down(true);
    assert_eq!(log.append_all(drafts(3), soon()).await.unwrap_err().reason, Reason::AuditUnavailable);
    store.set_down(false);
    let receipts = log.append_all(drafts(3), soon()).await.unwrap();
    assert_eq!(receipts.len(), 3);
    log.close().await;
    assert_eq!(log.append_all(drafts(3), soon()).await.unwrap_err().reason, Reason::AuditUnavailable);
}

/// A log whose lane finds a seal where its second batch would stand, and the receipt of its first.
async fn fenced() -> (Arc<TinyStore>, AuditLog, Receipt) {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let first = log.append(draft("acme", "a"), soon()).await.unwrap();
    let chain = ChainId::parse(&first.chain).unwrap();
    let last = reader::batch(&records(&store), &chain, 1, soon()).await.unwrap().unwrap();
    let seal = batch_item(&Header::seal(chain, 2, last.header.hash()), []);
    let fence = records(&store).put(seal, Expected::Absent);
    records(&store).store().write(crate::store::WriteId([1; 16]), vec![fence], soon()).await.unwrap();
    (store, log, first)
}

#[tokio::test]
async fn a_fenced_lane_goes_on_with_a_new_chain() {
    let (store, log, first) = fenced().await;

    let second = log.append(draft("acme", "b"), soon()).await.unwrap();
    assert_ne!(second.chain, first.chain);
    assert_eq!(second.sequence, 4_096);
    assert_found(&store, &second).await;

    let third = done(log.commit(create("x"), draft("acme", "c"), soon()).await.unwrap());
    assert_found(&store, &third).await;
}

#[tokio::test]
async fn a_batch_that_never_came_is_not_taken_for_the_seal_that_another_put_in_its_place() {
    let (store, log, first) = fenced().await;

    store.fail([Fault::LostBefore]);
    let second = log.append(draft("acme", "b"), soon()).await.unwrap();
    assert_ne!(second.chain, first.chain);
    assert_found(&store, &second).await;
}

#[tokio::test]
async fn a_lost_answer_of_a_batch_that_is_there_is_no_loss() {
    for fault in [Fault::LostAfter, Fault::Late] {
        let store = Arc::new(TinyStore::default());
        let log = log_on(&store);
        store.fail([fault]);
        let first = log.append(draft("acme", "a"), soon()).await.unwrap();
        let second = log.append(draft("acme", "b"), soon()).await.unwrap();
        assert_eq!((first.sequence, second.sequence), (4_096, 8_192), "{fault:?}");
        assert_eq!(first.chain, second.chain);
        let batches = all_batches(&store, &first.chain).await;
        assert_chained(&batches);
        assert_eq!(batches.len(), 2, "written once");
    }
}

#[tokio::test]
async fn a_batch_that_never_came_is_sealed_over_and_written_elsewhere() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let first = log.append(draft("acme", "a"), soon()).await.unwrap();
    store.fail([Fault::LostBefore]);
    let second = log.append(draft("acme", "b"), soon()).await.unwrap();
    assert_ne!(first.chain, second.chain);
    assert_found(&store, &second).await;
    let batches = all_batches(&store, &first.chain).await;
    assert_chained(&batches);
    assert_eq!(batches.last().unwrap().header.kind, BatchKind::Seal);
    let row = records(&store).get_verified(Head::key(&batches[0].header.chain), soon()).await.unwrap().unwrap();
    assert_eq!(Head::read(&row).unwrap().sealed, Some(2));
}

/// A mutation's deadline is its caller's: what he withdraws never happens, harms no chain, and says
/// nothing of the log.
#[tokio::test]
async fn a_write_that_did_not_happen_costs_no_chain_and_a_short_deadline_no_health() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let lanes = &log.0.lanes;
    let record = || [super::record::encode(draft("acme", "a"), &*lanes.entropy).unwrap()];
    let short = || lanes.clock.deadline(Duration::from_millis(20));
    let mut writer = ChainWriter::new(Arc::clone(lanes), LaneKind::Mutation);
    let Appended::Done { chain, batch: 1 } = writer.append(&[], &record(), soon()).await.unwrap() else { panic!() };

    store.fail([Fault::Withdrawn]);
    let failure = writer.append(&create("x"), &record(), short()).await.unwrap_err();
    assert_eq!(failure.reason, Reason::AuditUnavailable);
    assert!(log.is_writable());
    store.fail([Fault::Corrupt]);
    let failure = writer.append(&create("x"), &record(), soon()).await.unwrap_err();
    assert_eq!(failure.reason, Reason::RecordRejected);
    assert!(log.is_writable());
    store.fail([Fault::Throttled; 3]);
    let failure = writer.append(&create("x"), &record(), soon()).await.unwrap_err();
    assert_eq!(failure.reason, Reason::StoreUnavailable, "others want the caller's items");
    assert!(log.is_writable());
    store.heal();
    store.fail([Fault::Refused]);
    let done = writer.append(&create("x"), &record(), soon()).await.unwrap();
    assert_eq!(done, Appended::Done { chain: chain.clone(), batch: 2 });
    assert_chained(&all_batches(&store, chain.as_str()).await);

    // With time left it is the store that refuses; a shared lane's deadline is the log's own.
    store.fail([Fault::Refused; 3]);
    writer.append(&create("y"), &record(), soon()).await.unwrap_err();
    assert!(!log.is_writable());
    writer.append(&create("y"), &record(), soon()).await.unwrap();
    assert!(log.is_writable());
    store.fail([Fault::Withdrawn]);
    let mut shared = ChainWriter::new(Arc::clone(lanes), LaneKind::Shared);
    shared.append(&[], &record(), short()).await.unwrap_err();
    assert!(!log.is_writable());
    shared.append(&[], &record(), soon()).await.unwrap();
    store.fail([Fault::Throttled; 3]);
    let failure = shared.append(&[], &record(), soon()).await.unwrap_err();
    assert_eq!(failure.reason, Reason::AuditUnavailable, "nobody else wants a batch's place");
    assert!(!log.is_writable());
}

#[tokio::test]
async fn while_the_store_is_down_appends_fail_and_then_work_again() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let before = log.append(draft("acme", "a"), soon()).await.unwrap();
    store.set_down(true);
    for _ in 0..3 {
        let failure = log.append(draft("acme", "b"), soon()).await.unwrap_err();
        assert_eq!(failure.reason, Reason::AuditUnavailable);
        assert!(failure.retry_after.is_some());
        assert_eq!(
            log.commit(create("x"), draft("acme", "c"), soon()).await.unwrap_err().reason,
            Reason::AuditUnavailable
        );
    }
    assert!(!log.is_writable());
    log.note(draft("globex", "denied"));
    log.append(draft("acme", "takes the note along"), soon()).await.unwrap_err();
    store.set_down(false);
    while !log.is_writable() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = log.append(draft("acme", "d"), soon()).await.unwrap();
    done(log.commit(create("x"), draft("acme", "e"), soon()).await.unwrap());
    log.close().await;
    assert_chained(&all_batches(&store, &before.chain).await);
    assert_chained(&all_batches(&store, &after.chain).await);
    assert_eq!(overflow(&store), [("globex".to_owned(), "1".to_owned())]);
}

/// Organization and count of every overflow record.
fn overflow(store: &TinyStore) -> Vec<(String, String)> {
    let items: Vec<_> = store.tamper(|items| items.values().cloned().collect());
    let records = items.into_iter().filter_map(Batch::read).flat_map(|batch| batch.records);
    let records = records.map(|bytes| super::AuditRecord::read(&bytes).unwrap());
    let overflows = records.filter(|record| record.action == "audit.denials.overflow");
    let denied = super::record::outcome_number(crate::domain::audit::Outcome::Denied);
    overflows
        .inspect(|record| assert_eq!(record.outcome, denied))
        .map(|record| (record.org, record.details["count"].clone()))
        .collect()
}

#[tokio::test]
async fn a_commits_actions_and_record_stand_or_fall_together() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let first = done(log.commit(create("a"), draft("acme", "a"), soon()).await.unwrap());
    let actions = [create("b"), create("a")].concat();
    let refused = log.commit(actions, draft("acme", "b"), soon()).await.unwrap();
    let Commit::Conflict { index: 1, current: Some(current) } = refused else { panic!("{refused:?}") };
    assert_eq!(current.key, ItemKey::new("T", "a"));
    let second = done(log.commit(create("c"), draft("acme", "c"), soon()).await.unwrap());
    assert_eq!((first.chain, first.sequence), (second.chain.clone(), 4_096));
    assert_eq!(second.sequence, 8_192, "the refused one's sequence is used again");
    assert_eq!(all_batches(&store, &second.chain).await.len(), 2);
    assert!(store.tamper(|items| !items.contains_key(&ItemKey::new("T", "b"))));
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_happens_once() {
    for fault in [Fault::LostAfter, Fault::LostBefore, Fault::Late, Fault::Refused] {
        let store = Arc::new(TinyStore::default());
        let log = log_on(&store);
        done(log.commit(create("a"), draft("acme", "a"), soon()).await.unwrap());
        store.fail([fault]);
        let receipt = done(log.commit(create("b"), draft("acme", "b"), soon()).await.unwrap());
        assert_found(&store, &receipt).await;
        assert_eq!(store.tamper(|items| items[&ItemKey::new("T", "b")].revision), 1, "{fault:?}");
        let again = log.commit(create("b"), draft("acme", "b"), soon()).await.unwrap();
        assert!(matches!(again, Commit::Conflict { index: 0, .. }), "{fault:?}: {again:?}");
    }
}

#[tokio::test]
async fn a_commit_runs_to_its_end_without_its_caller() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    {
        let mut call = Box::pin(log.commit(create("a"), draft("acme", "a"), soon()));
        // Polled once: the task of the log has been started, and the caller goes away.
        assert!(futures_util::poll!(&mut call).is_pending());
    }
    log.close().await;
    assert!(store.tamper(|items| items.contains_key(&ItemKey::new("T", "a"))));
}

#[tokio::test]
async fn closing_writes_what_is_queued_and_seals_every_chain() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let receipt = log.append(draft("acme", "a"), soon()).await.unwrap();
    let mutation = done(log.commit(create("a"), draft("acme", "b"), soon()).await.unwrap());
    log.note(draft("acme", "denied"));
    log.close().await;
    for (chain, records) in [(&receipt.chain, 2), (&mutation.chain, 1)] {
        let batches = all_batches(&store, chain).await;
        assert_chained(&batches);
        assert_eq!(batches.iter().map(|batch| batch.records.len()).sum::<usize>(), records);
        assert_eq!(batches.last().unwrap().header.kind, BatchKind::Seal);
        let row = store.tamper(|items| items[&Head::key(&ChainId::parse(chain).unwrap())].clone());
        assert_eq!(row.attributes["sealed"], Value::Int(batches.len() as i64));
    }
    assert_eq!(log.append(draft("acme", "c"), soon()).await.unwrap_err().reason, Reason::AuditUnavailable);
    assert!(log.commit(create("z"), draft("acme", "c"), soon()).await.is_err());
}

#[tokio::test]
async fn denials_beyond_the_queue_are_counted_for_each_organization() {
    let store = Arc::new(TinyStore::default());
    let settings = AuditSettings { denials: 2, ..AuditSettings::default() };
    let clock = Arc::new(SystemClock);
    let entropy = Arc::new(crate::domain::clock::SystemEntropy);
    let log = AuditLog::open(records(&store), clock, entropy, settings).unwrap();
    // Nothing is awaited here, so the lane's task does not run in between.
    (0..5).for_each(|_| log.note(draft("acme", "denied")));
    (0..3).for_each(|_| log.note(draft("globex", "denied")));
    log.count(&org("initech"));
    log.close().await;
    let counted = BTreeSet::from_iter(overflow(&store));
    let expected = [("acme", "3"), ("globex", "3"), ("initech", "1")];
    assert_eq!(counted, expected.map(|(org, count)| (org.to_owned(), count.to_owned())).into());
}

/// As many as fill a batch are written; what is counted beside them waits for no other record.
#[tokio::test]
async fn a_full_batch_leaves_the_overflow_for_the_next() {
    let store = Arc::new(TinyStore::default());
    let long =
        || AuditDraft { time: Timestamp::from_seconds(1), purpose: "p".repeat(1_000), ..draft("acme", "denied") };
    let each = super::record::encode(long(), &crate::domain::clock::SystemEntropy).unwrap().bytes.len();
    let denials = (BATCH_BYTES_MAX - super::record::RECORD_BYTES_MAX) / each + 1;
    let settings = AuditSettings { denials, ..AuditSettings::default() };
    let entropy = Arc::new(crate::domain::clock::SystemEntropy);
    let log = AuditLog::open(records(&store), Arc::new(SystemClock), entropy, settings).unwrap();
    (0..denials + 3).for_each(|_| log.note(long()));
    while overflow(&store).is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(overflow(&store), [("acme".to_owned(), "3".to_owned())]);
    let items: Vec<_> = store.tamper(|items| items.values().cloned().collect());
    let batches: Vec<_> = items.into_iter().filter_map(Batch::read).map(|batch| batch.records.len()).collect();
    assert_eq!(batches, [denials, 1]);
    log.close().await;
}

#[tokio::test]
async fn a_lane_that_has_no_doubt_is_not_writable_before_the_store_answers() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    store.set_down(true);
    log.append(draft("acme", "a"), soon()).await.unwrap_err();
    while store.probes.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!log.is_writable());
}

/// Nobody appends: the lane itself learns what became of its batch before it is writable again.
#[tokio::test]
async fn a_lane_in_doubt_is_not_writable_before_the_doubt_is_cleared() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let first = log.append(draft("acme", "a"), soon()).await.unwrap();
    store.fail([Fault::LostBefore, Fault::Refused]);
    log.append(draft("acme", "b"), soon()).await.unwrap_err();
    while !log.is_writable() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(all_batches(&store, &first.chain).await.last().unwrap().header.kind, BatchKind::Seal);
}

#[tokio::test]
async fn a_lane_that_wrote_nothing_leaves_no_chain() {
    let store = Arc::new(TinyStore::default());
    log_on(&store).close().await;
    assert!(store.tamper(|items| items.is_empty()));
}

#[tokio::test]
async fn closing_writes_more_denials_than_a_batch_holds() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    (0..600).for_each(|_| log.note(AuditDraft { purpose: "p".repeat(1_000), ..draft("acme", "denied") }));
    log.close().await;
    let items: Vec<_> = store.tamper(|items| items.values().cloned().collect());
    let batches: Vec<_> = items.into_iter().filter_map(Batch::read).map(|batch| batch.records.len()).collect();
    assert!(batches.len() > 3);
    assert_eq!(batches.iter().sum::<usize>(), 600);
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_written() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    // Each is sent when it is polled for the first time; the lane's task does not run in between.
    let mut one = Box::pin(log.append(draft("acme", "gone"), soon()));
    let mut many = Box::pin(log.append_all(vec![draft("acme", "gone"); 2], soon()));
    assert!(futures_util::poll!(&mut one).is_pending() && futures_util::poll!(&mut many).is_pending());
    drop((one, many));
    let receipt = log.append(draft("acme", "a"), soon()).await.unwrap();
    assert_eq!(all_batches(&store, &receipt.chain).await[0].records.len(), 1);
}

#[tokio::test]
async fn the_next_shared_lane_is_used_behind_so_many_records_and_not_before() {
    let store = Arc::new(TinyStore::default());
    let settings = AuditSettings { shared_lanes: 2, ..AuditSettings::default() };
    let entropy = Arc::new(crate::domain::clock::SystemEntropy);
    let log = AuditLog::open(records(&store), Arc::new(SystemClock), entropy, settings).unwrap();
    // Each is sent when it is polled for the first time; no lane's task runs in between.
    let appends = (0..=LANE_DEPTH).map(|_| log.append(draft("acme", "a"), soon()));
    let receipts = tokio::task::unconstrained(futures_util::future::join_all(appends)).await;
    let chains: Vec<_> = receipts.into_iter().map(|receipt| receipt.unwrap().chain).collect();
    assert!(chains[..LANE_DEPTH].iter().all(|chain| *chain == chains[0]));
    assert_ne!(chains[LANE_DEPTH], chains[0]);
}

#[tokio::test]
async fn every_start_has_a_name_of_its_own() {
    let store = Arc::new(TinyStore::default());
    let boots = [log_on(&store), log_on(&store)].map(|log| log.boot().to_owned());
    assert!(boots.iter().all(|boot| boot.len() == 16 && boot.bytes().all(|byte| byte.is_ascii_hexdigit())));
    assert_ne!(boots[0], boots[1]);
}

#[tokio::test]
async fn a_commit_of_too_many_actions_is_a_defect_and_harms_no_lane() {
    let store = Arc::new(TinyStore::default());
    let log = log_on(&store);
    let many = (0..98).flat_map(|n| create(&n.to_string())).collect();
    assert_eq!(log.commit(many, draft("acme", "a"), soon()).await.unwrap_err().reason, Reason::Internal);
    assert_eq!(store.writes.load(Ordering::SeqCst), 0);
    let fitting = (0..97).flat_map(|n| create(&n.to_string())).collect();
    let receipt = done(log.commit(fitting, draft("acme", "a"), soon()).await.unwrap());
    let chain = ChainId::parse(&receipt.chain).unwrap();
    assert!(store.tamper(|items| items.contains_key(&batch_key(&chain, 1))));
}

#[test]
fn a_fifth_of_a_mutations_time_is_kept_to_learn_a_lost_outcome() {
    #[derive(Debug)]
    struct Still(Instant);
    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::default()
        }
        fn instant(&self) -> Instant {
            self.0
        }
    }
    let clock = Still(SystemClock.instant());
    let after = |millis| clock.deadline(Duration::from_millis(millis));
    for (deadline, write_by) in [(0, 0), (10, 8), (2_500, 2_000)] {
        assert_eq!(super::write_by(&clock, after(deadline)), after(write_by));
    }
}
