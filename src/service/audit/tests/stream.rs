//! What fills a stream: each event once and in order, however the index goes on meanwhile.

use super::{
    super::stream::{Cursor, Pump},
    world::org,
    *,
};
use crate::repository::audit::index::IndexState;

/// In the place of a sealed token.
fn plain(cursor: &Cursor) -> Result<String, Failure> {
    Ok(format!("{cursor:?}"))
}
fn everything(_: &Event) -> bool {
    true
}

async fn append(world: &World, id: &str, count: usize) {
    for n in 0..count {
        world.append(world.draft(id, &format!("keys/k{n}"))).await;
    }
    AuditTasks::new(&world.parts.audit).tick().await.unwrap();
}

#[tokio::test]
async fn what_is_sent_ends_where_the_index_did_and_is_gone_on_from_there() {
    let world = World::new().await;
    append(&world, "acme", 60).await;
    // A lane that was idle for so long seals its chain first.
    let seal = 61;
    world.clock.advance(Duration::from_secs(86_400));
    append(&world, "acme", 3).await;
    let (answers, mut answered) = mpsc::channel(100);
    let (org, heartbeat) = (org("acme"), Duration::from_secs(60));
    let pump =
        Pump { source: &world.reader.source, org: &org, sees: &everything, seal: &plain, answers: &answers, heartbeat };
    let mut positions = || {
        let items = std::iter::from_fn(|| answered.try_recv().ok()).map(|answer| answer.unwrap().item);
        let events = items.map(|item| if let StreamItem::Event(event) = item { event.position } else { 0 });
        events.collect::<Vec<_>>()
    };
    let mut at = Cursor::from_start(None, 1);
    // The second day is listed all the time, and not all of the first one was sent.
    for (from, until) in [(1, 30), (30, 30), (30, 58), (58, 65)] {
        assert_eq!(pump.send_until(&mut at, until).await.unwrap(), from < until);
        assert_eq!(positions(), Vec::from_iter((from..until).filter(|position| *position != seal)));
    }
}

#[tokio::test]
async fn a_stream_to_the_present_end_does_not_wait_for_what_comes_later() {
    let world = World::new().await;
    let (answers, _answered) = mpsc::channel(100);
    let (org, heartbeat) = (org("acme"), Duration::from_secs(60));
    let pump =
        Pump { source: &world.reader.source, org: &org, sees: &everything, seal: &plain, answers: &answers, heartbeat };
    world.append(world.draft("acme", "keys/before")).await;
    let end = world.parts.audit.snapshot(world.deadline()).await.unwrap();
    assert!(!pump.has_passed(&end).await.unwrap());
    AuditTasks::new(&world.parts.audit).tick().await.unwrap();
    world.append(world.draft("acme", "keys/later")).await;
    assert!(pump.has_passed(&end).await.unwrap());
}

#[tokio::test]
async fn the_token_of_a_quiet_organization_moves_on() {
    let world = World::new().await;
    append(&world, "globex", 3).await;
    let (answers, mut answered) = mpsc::channel(100);
    let (org, heartbeat) = (org("acme"), Duration::from_millis(1));
    let pump =
        Pump { source: &world.reader.source, org: &org, sees: &everything, seal: &plain, answers: &answers, heartbeat };
    let first = tokio::select! {
        ended = pump.run(Cursor::from_start(None, 1), None) => panic!("{ended:?}"),
        first = answered.recv() => first.unwrap().unwrap(),
    };
    assert!(matches!(first.item, StreamItem::Heartbeat(_)));
    let indexed = IndexState::load(&world.parts.records, world.deadline()).await.unwrap().next;
    assert_eq!((indexed, first.resume_token), (4, plain(&Cursor::from_start(None, 4)).unwrap()));
}
