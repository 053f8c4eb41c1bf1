//! What tests of the use cases stand on: a clock that is moved by hand, and handles on the store
//! in memory.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{
    domain::clock::{Clock, Deadline, SystemClock, SystemEntropy, Timestamp, random},
    store::{Action, Item, ItemStore as _, WriteId, Written, fake::MemoryStore},
};

/// An empty store; its deadlines are real ones.
pub(crate) fn store() -> MemoryStore {
    MemoryStore::new(Arc::new(SystemClock))
}

/// Writes to `store` past every use case, though not past its conditions.
pub(crate) async fn write(store: &MemoryStore, actions: Vec<Action>) -> Written {
    store.write(WriteId(random(&SystemEntropy).unwrap()), actions, in_time()).await.unwrap()
}

/// The one item whose sort key begins so.
pub(crate) fn find(store: &MemoryStore, sort: &str) -> Item {
    let found: Vec<_> = store.dump().into_iter().filter(|item| item.key.sort.starts_with(sort)).collect();
    assert_eq!(found.len(), 1, "{sort}");
    found[0].clone()
}

/// A clock that stands until it is moved, monotonic time with it.
#[derive(Debug)]
pub(crate) struct TestClock {
    start: Instant,
    passed: Mutex<Duration>,
}

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { start: SystemClock.instant(), passed: Mutex::default() })
    }
    pub(crate) fn advance(&self, span: Duration) {
        *self.passed.lock().unwrap() += span;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_800_000_000).plus(*self.passed.lock().unwrap())
    }
    fn instant(&self) -> Instant {
        self.start + *self.passed.lock().unwrap()
    }
}

/// A deadline that no test meets.
pub(crate) fn in_time() -> Deadline {
    SystemClock.deadline(Duration::from_secs(60))
}
