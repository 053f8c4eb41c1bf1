//! Several servers that write one log.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    AuditLog, AuditSettings, AuditTasks,
    heads::Head,
    index::IndexState,
    testing::{draft, soon},
};
use crate::{
    domain::{
        PortFuture,
        audit::Receipt,
        clock::{Clock as _, Deadline, SystemClock, SystemEntropy},
        mac::{MacKey, MacRing},
        secret::SecretKey,
    },
    repository::{
        audit::batch::ChainId,
        records::Records,
        replicas::{BEAT_EVERY, SILENCE, testing::Hand},
    },
    store::{Action, ItemKey, ItemStore, Page, Query, SharedItem, StoreError, WriteId, Written, fake::MemoryStore},
};

struct Server {
    records: Records,
    log: AuditLog,
    tasks: AuditTasks,
    clock: Arc<Hand>,
}

impl Server {
    async fn start(store: &MemoryStore) -> Self {
        Self::on(Arc::new(store.replica())).await
    }
    async fn on(store: Arc<dyn ItemStore>) -> Self {
        let ring = MacRing::new(("k".to_owned(), MacKey::new(&SecretKey::new([7; 32]))), []);
        let (records, clock) = (Records::new(store, Arc::new(ring)), Hand::new());
        let settings = AuditSettings::default();
        let log = AuditLog::open(records.clone(), clock.clone(), Arc::new(SystemEntropy), settings).unwrap();
        log.replicas().beat(soon()).await.unwrap();
        Self { tasks: AuditTasks::new(&log), records, log, clock }
    }
    async fn append(&self) -> Receipt {
        self.log.append(draft("acme", "orgs/acme/keys/k"), soon()).await.unwrap()
    }
    async fn tick(&mut self) {
        self.tasks.tick().await.unwrap();
    }
    /// So much time passes for it, in which it beats.
    async fn live(&self, span: Duration) {
        let end = self.clock.instant() + span;
        while self.clock.instant() < end {
            self.clock.advance(BEAT_EVERY);
            self.log.replicas().beat(soon()).await.unwrap();
        }
    }
    /// Batches that are in order and indexed.
    async fn indexed(&self) -> u64 {
        IndexState::load(&self.records, soon()).await.unwrap().next - 1
    }
    async fn sealed(&self, receipt: &Receipt) -> Option<u64> {
        let chain = ChainId::parse(&receipt.chain).unwrap();
        let row = self.records.get_verified(Head::key(&chain), soon()).await.unwrap();
        Head::read(&row.unwrap()).unwrap().sealed
    }
}

#[tokio::test]
async fn one_orders_what_all_write_and_another_goes_on_when_it_dies() {
    let store = MemoryStore::new(Arc::new(SystemClock));
    let (mut one, mut two) = (Server::start(&store).await, Server::start(&store).await);
    let of_one = one.append().await;
    let of_two = two.append().await;
    assert_ne!(of_one.chain, of_two.chain);
    one.tick().await;
    assert_eq!(one.indexed().await, 2, "those of both");
    two.tick().await;
    assert_eq!(two.sealed(&of_one).await, None, "it lives");

    one.append().await;
    two.append().await;
    // It is killed: nobody seals its chain, orders the log, or beats for it.
    drop(one);
    two.tick().await;
    assert_eq!(two.indexed().await, 2, "the lease is left to it for a while");
    two.live(SILENCE + BEAT_EVERY).await;
    two.tick().await;
    assert_eq!(two.indexed().await, 5, "a record of each, and a seal");
    assert_eq!(two.sealed(&of_one).await, Some(3));
    assert_eq!(two.sealed(&of_two).await, None);
    two.clock.advance(BEAT_EVERY + Duration::from_millis(1));
    two.tick().await;
    let beats = store.dump().into_iter().filter(|item| item.key.sort.starts_with("REPLICA#")).count();
    assert_eq!(beats, 1, "nothing is left of the dead");
}

#[tokio::test]
async fn a_server_that_stalled_is_fenced_and_goes_on_in_a_new_chain() {
    let store = MemoryStore::new(Arc::new(SystemClock));
    let (mut one, mut two) = (Server::start(&store).await, Server::start(&store).await);
    let before = one.append().await;
    one.tick().await;
    two.tick().await;
    two.live(SILENCE + BEAT_EVERY).await;
    two.tick().await;
    assert_eq!(two.sealed(&before).await, Some(2), "it was taken for dead");

    let after = one.append().await;
    assert_ne!(before.chain, after.chain);
    assert_eq!(one.sealed(&after).await, None);
    // What it ordered before it is told that it lost the lease is refused; then it leaves it to the other.
    one.tasks.tick().await.unwrap_err();
    one.log.replicas().beat(soon()).await.unwrap();
    one.tick().await;
    two.tick().await;
    assert_eq!(two.indexed().await, 3);
    assert_eq!(two.sealed(&after).await, None, "it beats again");
}

/// A store to which another server writes whenever something is put in order.
#[derive(Debug)]
struct Busy {
    store: MemoryStore,
    other: AuditLog,
}

impl ItemStore for Busy {
    fn get<'a>(
        &'a self,
        keys: &'a [ItemKey],
        by: Deadline,
    ) -> PortFuture<'a, Result<Vec<Option<SharedItem>>, StoreError>> {
        self.store.get(keys, by)
    }
    fn query(&self, query: Query, by: Deadline) -> PortFuture<'_, Result<Page, StoreError>> {
        self.store.query(query, by)
    }
    fn write(&self, id: WriteId, actions: Vec<Action>, by: Deadline) -> PortFuture<'_, Result<Written, StoreError>> {
        Box::pin(async move {
            let is_row = actions.iter().any(|action| action.key().partition.starts_with("A#LOG#"));
            let written = self.store.write(id, actions, by).await;
            if is_row {
                self.other.append(draft("acme", "orgs/acme/keys/k"), soon()).await.unwrap();
            }
            written
        })
    }
    fn is_exclusive(&self) -> bool {
        self.store.is_exclusive()
    }
    fn status(&self, by: Deadline) -> PortFuture<'_, Result<String, StoreError>> {
        self.store.status(by)
    }
}

#[tokio::test]
async fn while_others_write_on_and_on_the_dead_are_sealed_and_the_server_can_stop() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let store = MemoryStore::new(Arc::new(SystemClock));
    let (dead, other) = (Server::start(&store).await, Server::start(&store).await);
    let of_dead = dead.append().await;
    let mut one = Server::on(Arc::new(Busy { store: store.replica(), other: other.log.clone() })).await;
    tokio::time::timeout(PATIENCE, one.tick()).await.expect("the tick ends");
    drop(dead);
    one.live(SILENCE + BEAT_EVERY).await;
    other.log.replicas().beat(soon()).await.unwrap();
    tokio::time::timeout(PATIENCE, one.tick()).await.expect("the tick ends");
    assert_eq!(one.sealed(&of_dead).await, Some(2));

    let (tasks, stop) = (std::mem::replace(&mut one.tasks, AuditTasks::new(&one.log)), CancellationToken::new());
    let running = tokio::spawn(tasks.run(stop.clone()));
    other.append().await;
    stop.cancel();
    tokio::time::timeout(PATIENCE, running).await.expect("it ends").unwrap();
}
