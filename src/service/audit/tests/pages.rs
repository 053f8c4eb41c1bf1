//! Where pages end: within a batch, at the edge of a day, where one has looked at enough.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use super::*;
use crate::domain::clock::SystemClock;

#[tokio::test]
async fn a_page_that_ends_within_a_batch_is_gone_on_from_there() {
    for (is_indexed, page_size) in [(false, 1), (false, 2), (false, 4), (true, 1), (true, 2), (true, 4)] {
        let world = World::new().await;
        let mut expected = BTreeSet::new();
        for batch in 0..3 {
            let drafts = (0..5).map(|n| world.draft("acme", &format!("keys/k{batch}{n}"))).collect();
            let receipts = world.parts.audit.append_all(drafts, world.deadline()).await.unwrap();
            expected.extend(receipts.iter().map(Receipt::event_id));
            world.append(world.draft("globex", "keys/theirs")).await;
        }
        if is_indexed {
            AuditTasks::new(&world.parts.audit).tick().await.unwrap();
        }
        let call = world.call("acme", LIST, &[]).await;
        let events = world.list(&call, EventQuery::default(), page_size).await;
        let case = format!("{is_indexed} {page_size}");
        assert_eq!((events.len(), BTreeSet::from_iter(ids(&events))), (15, expected), "{case}");
    }
}

/// The clock of the server that made it was ahead of that of the one that put it in order.
#[tokio::test]
async fn what_is_listed_on_the_day_before_its_own_is_found() {
    let world = World::new().await;
    let tomorrow = Timestamp::from_seconds((world.clock.now().day() + 1) * 86_400);
    let receipt = world.append(AuditDraft { time: tomorrow, ..world.draft("acme", "keys/ahead") }).await;
    AuditTasks::new(&world.parts.audit).tick().await.unwrap();
    let call = world.call("acme", LIST, &[]).await;
    let filter = EventFilter { start: Some(tomorrow), ..EventFilter::default() };
    assert_eq!(ids(&world.list(&call, filtered(filter), 10).await), [receipt.event_id()]);
}

#[tokio::test]
async fn a_page_holds_everything_where_that_is_little() {
    let world = World::new().await;
    for n in 0..60 {
        world.append(world.draft("acme", &format!("keys/k{n}"))).await;
    }
    AuditTasks::new(&world.parts.audit).tick().await.unwrap();
    let call = world.call("acme", LIST, &[]).await;
    let page = world.reader.list(&call, &EventQuery::default(), 100).await.unwrap();
    assert_eq!((page.events.len(), page.next_page_token.as_str()), (60, ""));
}

/// However little of it the caller may see, each page gets on.
#[tokio::test]
async fn a_page_over_much_that_is_not_seen_ends() {
    const EVENTS: usize = 1_000;
    for is_indexed in [false, true] {
        let world = World::new().await;
        for n in 0..EVENTS {
            world.append(world.draft("acme", &format!("keys/k{n}"))).await;
        }
        let mut tasks = AuditTasks::new(&world.parts.audit);
        while is_indexed && !world.parts.audit.snapshot(world.deadline()).await.unwrap().unindexed.is_empty() {
            tasks.tick().await.unwrap();
        }
        let call = world.call("acme", LIST, &["orgs/acme/keys/k0"]).await;
        let before = world.store.faults().reads();
        let page = world.reader.list(&call, &EventQuery::default(), 10).await.unwrap();
        let reads = world.store.faults().reads() - before;
        assert!(page.events.is_empty() && reads < 600, "{} events, {reads} reads", page.events.len());
        let query = EventQuery { token: page.next_page_token, ..EventQuery::default() };
        assert_eq!(world.list(&call, query, 10).await.len(), 1);
    }
}

#[tokio::test]
async fn a_page_gets_on_however_many_chains_have_an_end() {
    let world = World::new().await;
    let Parts { records, clock, entropy, .. } = &world.parts;
    let (mut boots, mut newest) = (Vec::new(), String::new());
    for n in 0..500 {
        let settings = AuditSettings::default();
        let boot = AuditLog::open(records.clone(), Arc::clone(clock), Arc::clone(entropy), settings).unwrap();
        let draft = world.draft("acme", &format!("keys/k{n}"));
        newest = boot.append(draft, world.deadline()).await.unwrap().event_id();
        boots.push(boot);
    }
    let call = world.call("acme", LIST, &[]).await;
    let page = world.reader.list(&call, &EventQuery::default(), 1).await.unwrap();
    assert_eq!(ids(&page.events), [newest]);
}

#[tokio::test]
async fn of_a_long_end_of_a_chain_ever_more_is_read_at_once() {
    let world = World::new().await;
    let mut expected = Vec::new();
    for n in 0..100 {
        expected.insert(0, world.append(world.draft("acme", &format!("keys/k{n}"))).await.event_id());
    }
    let call = world.call("acme", LIST, &[]).await;
    let before = world.store.faults().reads();
    let page = world.reader.list(&call, &EventQuery::default(), 100).await.unwrap();
    let reads = world.store.faults().reads() - before;
    assert_eq!((ids(&page.events), page.next_page_token.as_str()), (expected, ""));
    assert!(reads < 30, "{reads} reads of 100 batches");
}

/// A clock by which each look at it takes a while.
#[derive(Debug)]
struct Hasty(Instant, AtomicU32);

impl Clock for Hasty {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }
    fn instant(&self) -> Instant {
        self.0 + Duration::from_millis(100) * self.1.fetch_add(1, Ordering::SeqCst)
    }
}

/// Short pages in time are worth more than none: half of the time is kept for the answer.
#[tokio::test]
async fn a_page_that_takes_long_is_short_and_is_gone_on_from_there() {
    for is_indexed in [false, true] {
        let world = World::new().await;
        for n in 0..200 {
            world.append(world.draft("acme", &format!("keys/k{n}"))).await;
        }
        if is_indexed {
            AuditTasks::new(&world.parts.audit).tick().await.unwrap();
        }
        let Parts { records, audit, .. } = world.parts.clone();
        let clock = Arc::new(Hasty(SystemClock.instant(), AtomicU32::new(0)));
        let source = Source { records, audit, clock: clock.clone() };
        let (org, filter) = (OrgId::parse("org", "acme").unwrap(), EventFilter::default());
        let (mut at, mut pages, mut events) = (None, 0, 0);
        loop {
            let deadline = clock.deadline(Duration::from_secs(1));
            let wanted = list::Wanted { org: &org, filter: &filter, sees: &|_| true, most: 500, deadline };
            let (found, next) = list::page(&source, &wanted, at).await.unwrap();
            (pages, events) = (pages + 1, events + found.len());
            if next.is_none() {
                break;
            }
            assert!(pages < 100, "it does not get on");
            at = next;
        }
        assert_eq!(events, 200);
        assert!(pages > 1, "it was not short");
    }
}
