//! The store in memory fails as it is told to.

use ibyok::store::fake::{Fault, WriteFault};

use super::*;

fn memory() -> MemoryStore {
    MemoryStore::new(Arc::new(SystemClock))
}

async fn write(store: &MemoryStore, sort: &str) -> Result<Written, StoreError> {
    store.write(write_id(), vec![put(&key("p", sort), 1, Condition::Absent)], soon()).await
}

fn has(store: &MemoryStore, sort: &str) -> bool {
    store.dump().iter().any(|item| item.key.sort == sort)
}

#[tokio::test]
async fn writes_fail_in_the_order_of_the_script() {
    let store = memory();
    store.faults().fail_writes([
        WriteFault::Refused(Fault::Unavailable),
        WriteFault::Refused(Fault::Throttled),
        WriteFault::UnknownLost,
        WriteFault::UnknownDone,
    ]);
    assert!(matches!(write(&store, "a").await, Err(StoreError::Unavailable(_))));
    assert!(matches!(write(&store, "a").await, Err(StoreError::Throttled)));
    assert_eq!(write(&store, "a").await.unwrap(), Written::Unknown);
    assert!(!has(&store, "a"));
    assert_eq!(write(&store, "a").await.unwrap(), Written::Unknown);
    assert!(has(&store, "a"));
    assert_eq!(write(&store, "b").await.unwrap(), Written::Committed);
    assert_eq!(store.faults().writes(), 5);
}

#[tokio::test]
async fn a_broken_store_fails_until_it_is_mended() {
    let store = memory();
    store.faults().break_down(Fault::Unavailable);
    for _ in 0..3 {
        assert!(matches!(write(&store, "a").await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.get(&[key("p", "a")], soon()).await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.query(every("p"), soon()).await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.status(soon()).await, Err(StoreError::Unavailable(_))));
    }
    store.faults().mend();
    assert_eq!(write(&store, "a").await.unwrap(), Written::Committed);
    assert!(store.status(soon()).await.is_ok());
    store.faults().fail_reads([Fault::Throttled]);
    assert!(matches!(store.get(&[key("p", "a")], soon()).await, Err(StoreError::Throttled)));
    assert!(store.get(&[key("p", "a")], soon()).await.is_ok());
}

#[tokio::test]
async fn a_stalled_write_waits_for_its_release() {
    let store = memory();
    store.faults().stall_writes();
    let (written, ()) = tokio::join!(write(&store, "a"), async {
        while store.faults().waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!has(&store, "a"));
        store.faults().release();
    });
    assert_eq!(written.unwrap(), Written::Committed);
    assert_eq!(write(&store, "b").await.unwrap(), Written::Committed);
}

#[tokio::test]
async fn a_write_stalled_past_its_deadline_is_unknown_and_lands_late() {
    let store = memory();
    store.faults().stall_writes();
    let late = SystemClock.deadline(Duration::from_millis(5));
    let action = put(&key("p", "a"), 1, Condition::Absent);
    assert_eq!(store.write(write_id(), vec![action], late).await.unwrap(), Written::Unknown);
    assert!(!has(&store, "a"));
    store.faults().release();
    assert!(has(&store, "a"));
}

#[tokio::test]
async fn replicas_share_items_but_no_faults() {
    let store = memory();
    let other = store.replica();
    assert!(store.is_exclusive());
    assert!(!other.is_exclusive());
    store.faults().break_down(Fault::Unavailable);
    assert_eq!(write(&other, "a").await.unwrap(), Written::Committed);
    assert!(has(&store, "a"));
}
