//! Each write fails, in each way; each time the next start completes what was begun.

use super::*;
use crate::repository::audit::testing::Fault;

/// Writes of `work` whose `n`th fails: whether it came so far.
async fn fails_at(world: &World, n: usize, fault: Fault) -> bool {
    let log = world.boot().await;
    let before = world.store.writes.load(std::sync::atomic::Ordering::SeqCst);
    world.store.fail_after(n, fault);
    // What it says of it counts for nothing: an outcome that was lost may be a success.
    let _ = world.archive_only(&log, DAY).await;
    world.store.writes.load(std::sync::atomic::Ordering::SeqCst) - before > n
}

#[tokio::test]
async fn whatever_write_fails_nothing_is_lost_and_nothing_doubled() {
    for fault in [Fault::Refused, Fault::LostBefore, Fault::LostAfter, Fault::Late] {
        let mut n = 0;
        loop {
            let world = World::filled().await;
            if !fails_at(&world, n, fault).await {
                break;
            }
            // The verification holds in between, too: only the deletion is behind.
            world.verdict().await.unwrap();
            let log = world.boot().await;
            world.archive(&log).await.unwrap();
            world.assert_whole().await;
            n += 1;
        }
        assert!(n >= 12, "{n} writes failed by {fault:?}: there are more");
    }
}

#[tokio::test]
async fn a_crash_at_any_write_of_a_crash_is_survived_too() {
    let mut n = 0;
    loop {
        let world = World::filled().await;
        let mut failed = false;
        for again in [n, n / 2, 1, 0] {
            failed |= fails_at(&world, again, Fault::LostAfter).await;
        }
        let log = world.boot().await;
        // A fault that nobody met until now.
        while world.archive(&log).await.is_err() {}
        world.assert_whole().await;
        if !failed || n > 40 {
            break;
        }
        n += 3;
    }
    assert!(n > 10);
}

#[tokio::test]
async fn a_file_without_its_root_is_taken_up_again() {
    let world = World::filled().await;
    let log = world.boot().await;
    // All tries of the take-over fail: the file is there, and the log still has everything.
    world.store.fail([Fault::Refused, Fault::Refused, Fault::Refused]);
    world.archive_only(&log, DAY).await.unwrap_err();
    let (entries, _) = world.directory().entries().unwrap();
    assert_eq!(entries.len(), 1);
    let file = world.dir.path().join(entries[0].name());
    let content = std::fs::read(&file).unwrap();
    assert!(all_roots(&records(&world.store), soon()).await.unwrap().is_empty());
    let report = verify(&world.directory(), 1, Some(&[])).unwrap();
    assert_eq!((report.problems.len(), report.notes.len()), (0, 1));
    assert_eq!(world.archive(&world.boot().await).await.unwrap(), 3);
    assert_eq!(std::fs::read(file).unwrap(), content);
    world.assert_whole().await;
}

#[tokio::test]
async fn a_file_of_that_name_with_another_content_is_never_written_over() {
    let world = World::filled().await;
    let log = world.boot().await;
    world.store.fail([Fault::Refused, Fault::Refused, Fault::Refused]);
    world.archive_only(&log, DAY).await.unwrap_err();
    let (entries, _) = world.directory().entries().unwrap();
    let file = world.dir.path().join(entries[0].name());
    let mut other = std::fs::read(&file).unwrap();
    other[30] ^= 1;
    // Whole in itself, and not what the log holds: the digest of the file before is another.
    let end = other.len() - 32;
    let digest = tree::sha256(&[&other[..end]]);
    other[end..].copy_from_slice(&digest);
    for content in [b"something".to_vec(), other] {
        std::fs::write(&file, &content).unwrap();
        let trouble = world.archive(&log).await.unwrap_err().to_string();
        assert!(trouble.starts_with(&entries[0].name()), "{trouble}");
        assert_eq!(std::fs::read(&file).unwrap(), content);
        assert!(all_roots(&records(&world.store), soon()).await.unwrap().is_empty());
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(world.archive(&log).await.unwrap(), 3);
    world.assert_whole().await;
}

#[tokio::test]
async fn what_a_crash_left_unfinished_is_written_anew() {
    let world = World::filled().await;
    std::fs::write(world.dir.path().join("unfinished.part"), "half").unwrap();
    assert_eq!(world.archive(&world.boot().await).await.unwrap(), 3);
    world.assert_whole().await;
    assert!(!world.dir.path().join("unfinished.part").exists());
}
