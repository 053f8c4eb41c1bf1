//! The CURRENT version of a key is a register with one writer and many readers: its history, seen
//! through several servers, must be linearizable. With one writer whose numbers rise that is so exactly
//! when no read is older than what was acknowledged before it began, none is newer than what was begun
//! before it ended, and of two reads that do not overlap the later one is not older (Lamport, "On
//! Interprocess Communication", Distributed Computing 1, 1986). And every value that was released has
//! its record.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::future::join_all;
use ibyok::grpc::pb;

use super::{SERVERS, admins, serve, stop};
use crate::{
    dice::Dice,
    harness::{Caller, reason},
};

const KEYS: usize = 2;
const ROTATIONS: usize = 10;

/// A logical time for the whole test: the order in which things were seen to happen.
#[derive(Default)]
struct Ticks(AtomicU64);

impl Ticks {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// What happened to one key: that it was to be so, or was seen to be, from then to then.
#[derive(Clone, Copy, Debug)]
struct Event {
    began: u64,
    ended: u64,
    number: u32,
}

#[derive(Default)]
struct History {
    writes: Vec<Event>,
    reads: Vec<Event>,
    receipts: BTreeSet<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_linearizable_through_all_servers_and_each_release_has_its_record() {
    let mut dice = Dice::new();
    let vaults = serve(&mut dice).await;
    let callers = admins(&vaults).await;
    let ticks = Arc::new(Ticks::default());
    let histories = (0..KEYS).map(|n| one_key(format!("k{n}"), callers.clone(), Arc::clone(&ticks), dice.split()));
    let histories = join_all(histories).await;
    let mut recorded = BTreeSet::new();
    let filter = pb::AuditFilter { actions: vec!["key.retrieve".into()], ..Default::default() };
    let mut request = pb::ListAuditEventsRequest { filter: Some(filter), page_size: 200, ..Default::default() };
    loop {
        let page = match callers[1].audit().list_audit_events(request.clone()).await {
            Ok(page) => page.into_inner(),
            Err(status) if reason(&status) == "STORE_UNAVAILABLE" => continue,
            Err(status) => panic!("{status:?}"),
        };
        recorded.extend(page.events.into_iter().map(|event| event.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    for history in histories {
        assert!(history.reads.len() > ROTATIONS, "too few reads to show anything");
        history.assert_linearizable();
        let missing: Vec<_> = history.receipts.difference(&recorded).collect();
        assert!(missing.is_empty(), "released without a record: {missing:?}");
    }
    drop(callers);
    stop(vaults).await;
}

/// Rotates a key through one server after the other while every server is read.
async fn one_key(id: String, callers: Vec<Caller>, ticks: Arc<Ticks>, mut dice: Dice) -> History {
    let value = |number: u32| Some(pb::SecretValue { text: format!("sk-proj-{id}-{number:040}") });
    let create = pb::CreateKeyRequest {
        key_id: id.clone(),
        provider: "openai".into(),
        secret: value(1),
        request_id: format!("{id}-create"),
        ..Default::default()
    };
    while callers[0].keys().create_key(create.clone()).await.is_err() {}
    let mut history = History::default();
    let is_over = Arc::new(AtomicBool::new(false));
    let readers = callers
        .iter()
        .map(|caller| tokio::spawn(read(caller.clone(), id.clone(), Arc::clone(&ticks), Arc::clone(&is_over))));
    let readers: Vec<_> = readers.collect();
    for number in 2..2 + u32::try_from(ROTATIONS).unwrap() {
        let add = pb::AddKeyVersionRequest {
            name: id.clone(),
            secret: value(number),
            request_id: format!("{id}-add-{number}"),
            ..Default::default()
        };
        while callers[dice.below(SERVERS)].keys().add_key_version(add.clone()).await.is_err() {}
        let promote = pb::PromoteKeyVersionRequest {
            name: format!("{id}/versions/{number}"),
            allow_unverified: true,
            request_id: format!("{id}-promote-{number}"),
            ..Default::default()
        };
        let began = ticks.next();
        // An answer that was lost is asked for again, from any server: it happened once.
        while callers[dice.below(SERVERS)].keys().promote_key_version(promote.clone()).await.is_err() {}
        history.writes.push(Event { began, ended: ticks.next(), number });
    }
    is_over.store(true, Ordering::SeqCst);
    for reader in readers {
        let (reads, receipts) = reader.await.unwrap();
        history.reads.extend(reads);
        history.receipts.extend(receipts);
    }
    history
}

async fn read(
    caller: Caller,
    id: String,
    ticks: Arc<Ticks>,
    is_over: Arc<AtomicBool>,
) -> (Vec<Event>, BTreeSet<String>) {
    let (mut reads, mut receipts) = (Vec::new(), BTreeSet::new());
    while !is_over.load(Ordering::SeqCst) {
        let began = ticks.next();
        let request = pb::RetrieveKeyRequest { name: id.clone(), ..Default::default() };
        let answer = match caller.keys().retrieve_key(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                assert!(reason(&status).ends_with("_UNAVAILABLE"), "{status:?}");
                continue;
            }
        };
        let number = answer.key_version.rsplit('/').next().unwrap().parse().unwrap();
        assert_eq!(answer.secret.unwrap().text, format!("sk-proj-{id}-{number:040}"), "the value is of its version");
        reads.push(Event { began, ended: ticks.next(), number });
        let receipt = answer.receipt.unwrap();
        receipts.insert(format!("{}.{}", receipt.chain, receipt.sequence));
    }
    (reads, receipts)
}

impl History {
    fn assert_linearizable(&self) {
        for read in &self.reads {
            let acknowledged = self.writes.iter().filter(|write| write.ended < read.began).map(|write| write.number);
            let begun = self.writes.iter().filter(|write| write.began < read.ended).map(|write| write.number);
            let (least, most) = (acknowledged.max().unwrap_or(1), begun.max().unwrap_or(1));
            assert!((least..=most).contains(&read.number), "{read:?} is not of {least} to {most}");
        }
        let mut by_end = self.reads.clone();
        by_end.sort_by_key(|read| read.ended);
        let mut by_begin = self.reads.clone();
        by_begin.sort_by_key(|read| read.began);
        let (mut ended, mut newest) = (by_end.into_iter().peekable(), 1);
        for read in by_begin {
            while let Some(before) = ended.next_if(|before| before.ended < read.began) {
                newest = newest.max(before.number);
            }
            assert!(read.number >= newest, "{read:?} is older than {newest}, which was read before it began");
        }
    }
}

#[test]
fn histories_that_no_register_has_are_found() {
    let event = |began, ended, number| Event { began, ended, number };
    let writes = vec![event(10, 20, 2), event(30, 40, 3)];
    let is_good = |reads: Vec<Event>| {
        let history = History { writes: writes.clone(), reads, receipts: BTreeSet::new() };
        std::panic::catch_unwind(|| history.assert_linearizable()).is_ok()
    };
    assert!(is_good(vec![event(1, 2, 1), event(11, 12, 2), event(5, 15, 1), event(31, 32, 2), event(35, 36, 3)]));
    assert!(!is_good(vec![event(21, 22, 1)]), "older than what was acknowledged");
    assert!(!is_good(vec![event(1, 2, 2)]), "newer than what was begun");
    assert!(!is_good(vec![event(31, 32, 3), event(33, 34, 2)]), "new, then old");
    assert!(is_good(vec![event(31, 34, 3), event(33, 36, 2)]), "at the same time");
}
