//! Reading the log as callers do: every event once, only one's own, and streams that end in time.

mod pages;
mod retention;
mod stream;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;

use self::world::World;
use super::*;
use crate::{
    domain::audit::{Action, AuditDraft, Outcome, Receipt},
    repository::audit::{AuditSettings, AuditTasks, batch::batch_key},
    store::{self, ItemKey},
};

const LIST: &str = "/ibyok.v1.Audit/ListAuditEvents";
const GET: &str = "/ibyok.v1.Audit/GetAuditEvent";
const STREAM: &str = "/ibyok.v1.Audit/StreamAuditEvents";
const VERIFY: &str = "/ibyok.v1.Audit/VerifyAuditLog";

fn ids(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| format!("{}.{}", event.chain, event.sequence)).collect()
}

fn filtered(filter: EventFilter) -> EventQuery {
    EventQuery { filter, ..EventQuery::default() }
}

#[tokio::test]
async fn pages_hold_every_event_once_whatever_is_indexed_meanwhile() {
    for (indexed, unindexed, page_size) in [(0, 0, 3), (0, 7, 3), (7, 0, 3), (30, 30, 7), (30, 30, 1_000), (3, 3, 1)] {
        let world = World::new().await;
        let mut tasks = AuditTasks::new(&world.parts.audit);
        let mut expected = BTreeSet::new();
        for n in 0..indexed + unindexed {
            if n == indexed {
                tasks.tick().await.unwrap();
            }
            world.append(world.draft("globex", "keys/theirs")).await;
            let draft = world.draft("acme", &format!("keys/k{n}"));
            // Other lanes have chains of their own.
            let receipt = if n % 3 == 0 {
                let item = store::NewItem::new(ItemKey::new("T", n.to_string()), BTreeMap::new());
                let actions = vec![store::Action::Put(item, store::Condition::Any)];
                match world.parts.audit.commit(actions, draft, world.deadline()).await.unwrap() {
                    crate::repository::audit::Commit::Done(receipt) => receipt,
                    conflict => panic!("{conflict:?}"),
                }
            } else {
                world.append(draft).await
            };
            expected.insert(receipt.event_id());
        }
        if unindexed == 0 {
            tasks.tick().await.unwrap();
        }
        let call = world.call("acme", LIST, &[]).await;
        let tasks = tokio::sync::Mutex::new(tasks);
        // Between two pages more is written, and what was not indexed is.
        let between = async || {
            world.append(world.draft("acme", "keys/later")).await;
            tasks.lock().await.tick().await.unwrap();
        };
        let events = world.list_between(&call, EventQuery::default(), page_size, between).await;
        assert_eq!(events.len(), expected.len(), "{indexed} {unindexed} {page_size}");
        assert_eq!(BTreeSet::from_iter(ids(&events)), expected);
        let (ends, index) = events.split_at(events.iter().position(|event| event.position > 0).unwrap_or(events.len()));
        assert!(ends.is_sorted_by(|newer, older| newer.time() >= older.time()));
        assert!(index.is_sorted_by(|newer, older| newer.position > older.position));
        assert!(events.iter().all(|event| event.record.org == "acme"));
    }
}

/// Verification says where the log breaks; everywhere else it is read on.
#[tokio::test]
async fn a_batch_that_does_not_verify_is_left_out_and_hides_no_other() {
    for (is_indexed, bad, is_unreadable) in
        [(true, 2, false), (true, 2, true), (false, 4, false), (false, 4, true), (false, 2, false), (false, 0, true)]
    {
        let mut world = World::new().await;
        let mut receipts = Vec::new();
        for n in 0..5 {
            receipts.push(world.append(world.draft("acme", &format!("keys/k{n}"))).await);
        }
        if is_indexed {
            AuditTasks::new(&world.parts.audit).tick().await.unwrap();
        }
        let bad = receipts.remove(bad);
        let chain = ChainId::parse(&bad.chain).unwrap();
        let key = batch_key(&chain, bad.sequence / 4_096);
        let mut item = world.store.dump().into_iter().find(|item| item.key == key).unwrap();
        item.mac = None;
        world.store.tamper(item);
        if is_unreadable {
            world.store.damage(&key);
        }
        // A later boot: no lane knows the chain's end any more.
        let Parts { records, clock, entropy, .. } = world.parts.clone();
        world.parts.audit = AuditLog::open(records, clock, entropy, AuditSettings::default()).unwrap();
        world.reader = AuditReader::new(world.parts.clone());
        let mut tasks = AuditTasks::new(&world.parts.audit);
        tasks.tick().await.unwrap();
        receipts.push(world.append(world.draft("acme", "keys/later")).await);

        let case = format!("{is_indexed} {} {is_unreadable}", bad.sequence);
        let call = world.call("acme", LIST, &[]).await;
        let expected: BTreeSet<_> = receipts.iter().map(Receipt::event_id).collect();
        let listed = world.list(&call, EventQuery::default(), 2).await;
        assert_eq!((listed.len(), BTreeSet::from_iter(ids(&listed))), (5, expected), "{case}");
        let name = EventName::Id(bad.event_id());
        let refused = world.reader.event(&call, "", &name).await.unwrap_err();
        assert_eq!(refused.reason, Reason::RecordRejected, "{case}");

        let stop = tokio_util::sync::CancellationToken::new();
        tokio::spawn(tasks.run(stop.clone()));
        let call = world.call("acme", STREAM, &[]).await;
        let streamed = drain(world.reader.stream(call, EventQuery::default(), false).await.unwrap()).await;
        let streamed: Vec<Event> = streamed.into_iter().map(|(event, _)| event).collect();
        // What is not in order yet gets no position behind a break.
        let is_in_order =
            |receipt: &&Receipt| is_indexed || receipt.chain != bad.chain || receipt.sequence < bad.sequence;
        let expected: Vec<_> = receipts.iter().filter(is_in_order).map(Receipt::event_id).collect();
        assert_eq!(ids(&streamed), expected, "{case}");
        stop.cancel();
    }
}

#[tokio::test]
async fn a_list_reads_its_own_writes() {
    let world = World::new().await;
    let call = world.call("acme", LIST, &[]).await;
    let mut tasks = AuditTasks::new(&world.parts.audit);
    for n in 0..20 {
        let receipt = world.append(world.draft("acme", &format!("keys/k{n}"))).await;
        let page = world.reader.list(&call, &EventQuery::default(), 1).await.unwrap();
        assert_eq!(ids(&page.events), [receipt.event_id()]);
        assert_eq!(leaf_hash(&page.events[0].bytes), receipt.leaf_hash);
        if n % 4 == 0 {
            tasks.tick().await.unwrap();
        }
    }
}

#[tokio::test]
async fn filters_and_grants_leave_out_what_they_do_not_cover() {
    let world = World::new().await;
    let mut tasks = AuditTasks::new(&world.parts.audit);
    let start = world.clock.now();
    for half in 0..2 {
        for key in ["openai-a", "openai-b", "mistral"] {
            world.append(world.draft("acme", &format!("keys/{key}"))).await;
        }
        let denied = AuditDraft {
            outcome: Outcome::Denied,
            action: Action::KeyList,
            resource: String::new(),
            client_address: "192.168.0.9".into(),
            ..world.draft("acme", "")
        };
        world.append(denied).await;
        if half == 0 {
            tasks.tick().await.unwrap();
            world.clock.advance(Duration::from_secs(3 * 86_400));
        }
    }
    let call = world.call("acme", LIST, &[]).await;
    let count = async |filter| world.list(&call, filtered(filter), 2).await.len();
    let none = EventFilter::default;
    let middle = start.plus(Duration::from_secs(86_400));
    assert_eq!(count(none()).await, 8);
    assert_eq!(count(EventFilter { start: Some(middle), ..none() }).await, 4);
    assert_eq!(count(EventFilter { end: Some(middle), ..none() }).await, 4);
    assert_eq!(count(EventFilter { start: Some(start), end: Some(start), ..none() }).await, 0);
    let times: Vec<_> = world.list(&call, filtered(none()), 8).await.iter().map(Event::time).collect();
    let newest = *times.iter().max().unwrap();
    let before = times.iter().filter(|time| **time < newest).count();
    assert_eq!(count(EventFilter { end: Some(newest), ..none() }).await, before);
    assert_eq!(count(EventFilter { start: Some(newest), ..none() }).await, 8 - before);
    assert_eq!(count(EventFilter { actions: vec![Action::KeyList, Action::KeyGet], ..none() }).await, 2);
    assert_eq!(count(EventFilter { outcomes: vec![Outcome::Allowed], ..none() }).await, 6);
    assert_eq!(count(EventFilter { resource_prefix: "orgs/acme/keys/openai".into(), ..none() }).await, 4);
    assert_eq!(count(EventFilter { subject: "svc".into(), ..none() }).await, 8);
    assert_eq!(count(EventFilter { subject: "sv".into(), ..none() }).await, 0);
    assert_eq!(count(EventFilter { client_network: "192.168.0.0/16".parse().ok(), ..none() }).await, 2);
    assert_eq!(count(EventFilter { has_signals: true, ..none() }).await, 0);

    let narrow = world.call("acme", LIST, &["orgs/acme/keys/openai-*"]).await;
    assert_eq!(world.list(&narrow, EventQuery::default(), 3).await.len(), 4);
    let theirs = world.call("globex", LIST, &[]).await;
    assert_eq!(world.list(&theirs, EventQuery::default(), 3).await.len(), 0);
    let query = EventQuery { parent: "orgs/acme".into(), ..EventQuery::default() };
    assert_eq!(world.reader.list(&theirs, &query, 3).await.unwrap_err().reason, Reason::OrgNotFound);
}

#[tokio::test]
async fn a_page_token_is_good_for_its_own_listing_only() {
    let world = World::new().await;
    for _ in 0..3 {
        world.append(world.draft("acme", "keys/k")).await;
    }
    let call = world.call("acme", LIST, &[]).await;
    let token = world.reader.list(&call, &EventQuery::default(), 1).await.unwrap().next_page_token;
    let with = |filter_bytes: &[u8], token: &str| EventQuery {
        filter_bytes: filter_bytes.to_vec(),
        token: token.to_owned(),
        ..EventQuery::default()
    };
    world.reader.list(&call, &with(b"", &token), 1).await.unwrap();
    for query in [with(b"other", &token), with(b"", "x")] {
        assert_eq!(world.reader.list(&call, &query, 1).await.unwrap_err().reason, Reason::InvalidPageToken);
    }
    let theirs = world.call("globex", LIST, &[]).await;
    assert_eq!(world.reader.list(&theirs, &with(b"", &token), 1).await.unwrap_err().reason, Reason::InvalidPageToken);
}

#[tokio::test]
async fn one_event_is_found_by_its_receipt_and_foreign_is_absent() {
    let world = World::new().await;
    let receipt = world.append(world.draft("acme", "keys/k")).await;
    let call = world.call("acme", GET, &[]).await;
    let id = EventName::Id(receipt.event_id());
    let place = EventName::Place(receipt.chain.clone(), receipt.sequence);
    let before = world.reader.event(&call, "", &id).await.unwrap();
    assert_eq!((before.position, leaf_hash(&before.bytes)), (0, receipt.leaf_hash));
    AuditTasks::new(&world.parts.audit).tick().await.unwrap();
    let after = world.reader.event(&call, "orgs/acme", &place).await.unwrap();
    assert_eq!(after, Event { position: 1, ..before });

    let theirs = world.call("globex", GET, &[]).await;
    let narrow = world.call("acme", GET, &["orgs/acme/keys/other"]).await;
    for (call, parent, name) in [
        (&theirs, "", id.clone()),
        (&theirs, "orgs/acme", id.clone()),
        (&narrow, "", id),
        (&call, "", EventName::Place(receipt.chain.clone(), receipt.sequence + 1)),
        (&call, "", EventName::Place(receipt.chain.clone(), receipt.sequence + 4_096)),
        (&call, "", EventName::Place("0123456789abcdef-s000001".into(), 4_096)),
        (&call, "", EventName::Id(receipt.chain)),
        (&call, "", EventName::Id("../../x.1".into())),
    ] {
        assert_eq!(
            world.reader.event(call, parent, &name).await.unwrap_err().reason,
            Reason::EventNotFound,
            "{name:?}"
        );
    }
}

/// The events of a stream that ends, and the resume token of each.
async fn drain(mut stream: Answers<Streamed>) -> Vec<(Event, String)> {
    let mut events = Vec::new();
    while let Some(streamed) = stream.next().await {
        let Streamed { item: StreamItem::Event(event), resume_token } = streamed.unwrap() else { continue };
        events.push((*event, resume_token));
    }
    events
}

#[tokio::test]
async fn a_stream_brings_everything_oldest_first_and_goes_on_where_it_was_cut() {
    let world = World::new().await;
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(AuditTasks::new(&world.parts.audit).run(stop.clone()));
    let mut expected = Vec::new();
    for n in 0..40 {
        expected.push(world.append(world.draft("acme", &format!("keys/k{n}"))).await.event_id());
        world.append(world.draft("globex", "keys/theirs")).await;
        if n == 20 {
            // The index goes on in another day.
            while !world.parts.audit.snapshot(world.deadline()).await.unwrap().unindexed.is_empty() {
                tokio::task::yield_now().await;
                world.parts.audit.poke();
            }
            world.clock.advance(Duration::from_secs(86_400));
        }
    }
    let call = world.call("acme", STREAM, &[]).await;
    let stream = async |token: &str| {
        let query = EventQuery { token: token.to_owned(), ..EventQuery::default() };
        drain(world.reader.stream(call.clone(), query, false).await.unwrap()).await
    };
    let all = stream("").await;
    let events: Vec<Event> = all.iter().map(|(event, _)| event.clone()).collect();
    assert_eq!(ids(&events), expected, "what was not indexed when it began, too");
    for (n, (_, token)) in all.iter().enumerate() {
        let rest: Vec<Event> = stream(token).await.into_iter().map(|(event, _)| event).collect();
        assert_eq!(ids(&rest), expected[n + 1..]);
    }
    let start = Some(events[30].time());
    let query = filtered(EventFilter { start, ..EventFilter::default() });
    let late = drain(world.reader.stream(call.clone(), query, false).await.unwrap()).await;
    assert_eq!(late.len(), 10);
    stop.cancel();
}

#[tokio::test]
async fn a_followed_stream_brings_what_comes_and_lives_between() {
    let mut world = World::new().await;
    world.reader.rhythm.heartbeat = Duration::from_millis(5);
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(AuditTasks::new(&world.parts.audit).run(stop.clone()));
    let call = world.call("acme", STREAM, &[]).await;
    let mut stream = world.reader.stream(call, EventQuery::default(), true).await.unwrap();
    for n in 0..5 {
        let receipt = world.append(world.draft("acme", &format!("keys/k{n}"))).await;
        let mut beats = 0;
        loop {
            let Streamed { item, resume_token } = stream.next().await.unwrap().unwrap();
            assert!(!resume_token.is_empty());
            match item {
                StreamItem::Heartbeat(_) => beats += 1,
                StreamItem::Event(event) => break assert_eq!(ids(&[*event]), [receipt.event_id()]),
            }
        }
        // Without events there are beats.
        while beats < 3 {
            let item = stream.next().await.unwrap().unwrap().item;
            assert!(matches!(item, StreamItem::Heartbeat(_)));
            beats += 1;
        }
    }
    stop.cancel();
}

#[tokio::test]
async fn a_revoked_or_expired_token_ends_its_stream() {
    for is_revoked in [true, false] {
        let mut world = World::new().await;
        world.reader.rhythm.reopen = Duration::from_millis(10);
        let call = world.call("acme", STREAM, &[]).await;
        let mut stream = world.reader.stream(call.clone(), EventQuery::default(), true).await.unwrap();
        if is_revoked {
            world.revoke(&call).await;
        } else {
            world.clock.advance(Duration::from_secs(3_600));
        }
        let expected = if is_revoked { Reason::TokenRevoked } else { Reason::TokenExpired };
        assert_eq!(stream.next().await.unwrap().unwrap_err().reason, expected);
        assert!(stream.next().await.is_none());
    }
}

#[tokio::test]
async fn a_verification_ends_with_its_verdict() {
    let world = World::new().await;
    let mut tasks = AuditTasks::new(&world.parts.audit);
    let mut receipts = Vec::new();
    for n in 0..10 {
        receipts.push(world.append(world.draft("acme", &format!("keys/k{n}"))).await);
        tasks.tick().await.unwrap();
    }
    let call = world.call("system", VERIFY, &[]).await;
    let verdict = async || {
        let answers: Vec<_> = world.reader.verify(call.clone(), "").await.unwrap().collect().await;
        let answers: Vec<Verification> = answers.into_iter().map(Result::unwrap).collect();
        assert!(answers.iter().rev().skip(1).all(|answer| !answer.is_complete));
        answers.last().cloned().unwrap()
    };
    let intact = verdict().await;
    assert!(intact.is_complete && intact.is_intact);
    assert_eq!((intact.checked, intact.total), (10, 10));
    assert_eq!((intact.first_position, intact.archived), (1, 0));

    let key = format!("B#{:016}", receipts[4].sequence / 4_096);
    let mut item = world.store.dump().into_iter().find(|item| item.key.sort == key).unwrap();
    item.attributes.remove("records");
    world.store.tamper(item);
    let broken = verdict().await;
    assert!(broken.is_complete && !broken.is_intact);
    assert_eq!((broken.bad_chain.as_str(), broken.bad_sequence), (receipts[4].chain.as_str(), receipts[4].sequence));
    assert!(!broken.problem.is_empty());

    let refused = world.reader.verify(call.clone(), "a checkpoint").await.err().unwrap();
    assert_eq!(refused.reason, Reason::NotImplemented);
    let tenant = world.call("acme", VERIFY, &[]).await;
    assert!(world.reader.verify(tenant, "").await.is_err(), "only system's tokens");
}
