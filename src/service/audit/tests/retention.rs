//! Retention: what it moves and says, and when it looks again.

use tempfile::TempDir;

use super::{
    super::retention::{Retention, Turn, longer},
    *,
};
use crate::repository::audit::archive::Directory;

const DAY: Duration = Duration::from_secs(86_400);

/// A vault with one record, which says that it is of `ahead` later, put in order four days ago; what
/// is older than a day leaves.
async fn four_days_later(ahead: Duration) -> (World, TempDir, Retention) {
    let (world, folder) = (World::new().await, TempDir::new().unwrap());
    let draft = world.draft("acme", "keys/k");
    world.append(AuditDraft { time: draft.time.plus(ahead), ..draft }).await;
    AuditTasks::new(&world.parts.audit).tick().await.unwrap();
    world.clock.advance(DAY * 4);
    let retention = Retention::new(&world.parts, Directory::new(folder.path().to_owned()), DAY);
    (world, folder, retention)
}

fn files(folder: &TempDir) -> usize {
    std::fs::read_dir(folder.path()).unwrap().count()
}

#[tokio::test]
async fn what_has_left_is_told() {
    let (_world, folder, retention) = four_days_later(Duration::ZERO).await;
    let told = || retention.status().now();
    assert_eq!(told(), Ok("nothing has been archived since the start".to_owned()));
    retention.round(&mut Turn::default()).await.unwrap();
    assert_eq!((told(), files(&folder)), (Ok("archived up to position 1".to_owned()), 1));
}

#[tokio::test]
async fn until_a_record_is_old_it_is_told_and_not_looked_at_again() {
    let (world, folder, retention) = four_days_later(DAY * 10).await;
    let mut turn = Turn::default();
    retention.round(&mut turn).await.unwrap();
    let told = retention.status().now().unwrap();
    assert!(told.starts_with("a record's time is ahead of its place in the log"), "{told}");
    let reads = world.store.faults().reads();
    retention.round(&mut turn).await.unwrap();
    assert_eq!((retention.status().now(), world.store.faults().reads()), (Ok(told), reads));
    world.clock.advance(DAY * 10);
    retention.round(&mut turn).await.unwrap();
    assert_eq!((retention.status().now(), files(&folder)), (Ok("archived up to position 1".to_owned()), 1));
}

#[test]
fn each_failure_is_waited_for_twice_as_long_up_to_ten_minutes() {
    let minute = Duration::from_secs(60);
    assert_eq!(
        [minute, minute * 2, minute * 8, minute * 10].map(longer).map(|pause| pause.as_secs() / 60),
        [2, 4, 10, 10]
    );
}
