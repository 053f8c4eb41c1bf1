use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::*;
use crate::{
    domain::clock::{Clock as _, SystemClock, Timestamp},
    store::{Action, Attributes, Condition, Item, ItemStore as _, NewItem, WriteId, Written, sqlite::SqliteStore},
};

fn item(revision: u64) -> SharedItem {
    SharedItem::from(Item { revision, ..Item::unreadable(ItemKey::new("p", "s")) })
}

#[test]
fn nothing_is_remembered_of_a_key_that_was_written_since_it_was_read() {
    let (cache, item) = (ItemCache::new(), item(1));
    let key = &item.key;
    let look = cache.look(key);
    cache.remember(look, &item);
    assert_eq!(cache.get(key), Some(item.clone()));
    let before = cache.look(key);
    cache.begin([key].into_iter());
    assert_eq!(cache.get(key), None, "forgotten before the commit");
    let meanwhile = cache.look(key);
    cache.remember(before, &item);
    cache.remember(meanwhile, &item);
    assert_eq!(cache.get(key), None);
    cache.end([key].into_iter());
    cache.remember(before, &item);
    cache.remember(meanwhile, &item);
    assert_eq!(cache.get(key), None, "read before or during the write");
    cache.remember(cache.look(key), &item);
    assert!(cache.get(key).is_some());
    cache.forget_while(|| assert_eq!(cache.get(key), None));
    assert_eq!(cache.get(key), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_reader_ever_sees_less_than_was_acknowledged_or_than_he_saw_before() {
    const WRITES: u64 = 400;
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open_or_make(&directory.path().join("vault.db"), Arc::new(SystemClock)).unwrap());
    let (acknowledged, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let soon = || SystemClock.deadline(Duration::from_secs(60));
    let key = ItemKey::new("p", "s");
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (store, key) = (Arc::clone(&store), key.clone());
            let (acknowledged, done) = (Arc::clone(&acknowledged), Arc::clone(&done));
            tokio::spawn(async move {
                let (mut seen, mut reads) = (0, 0_u64);
                while !done.load(Ordering::SeqCst) {
                    let least = acknowledged.load(Ordering::SeqCst).max(seen);
                    let found = store.get(std::slice::from_ref(&key), soon()).await.unwrap().remove(0);
                    seen = found.map_or(0, |item| item.revision);
                    assert!(seen >= least, "{seen} after {least}");
                    reads += 1;
                    tokio::task::yield_now().await;
                }
                reads
            })
        })
        .collect();
    for revision in 0..WRITES {
        let condition = if revision == 0 { Condition::Absent } else { Condition::Revision(revision) };
        let put = Action::Put(NewItem::new(key.clone(), Attributes::new()), condition);
        let written = store.write(WriteId([0; 16]), vec![put], soon()).await.unwrap();
        assert_eq!(written, Written::Committed);
        acknowledged.store(revision + 1, Ordering::SeqCst);
        if revision % 50 == 0 {
            store.sweep_expired(Timestamp::default(), 10).await.unwrap();
        }
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > WRITES, "it read all the time");
    }
}
