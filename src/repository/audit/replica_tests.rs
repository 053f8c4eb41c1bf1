//! Several servers that write one log.

use std::{sync::Arc, time::Duration};

use super::{
    AuditLog, AuditSettings, AuditTasks,
    heads::Head,
    index::IndexState,
    testing::{draft, soon},
};
use crate::{
    domain::{
        audit::Receipt,
        clock::{SystemClock, SystemEntropy},
        mac::{MacKey, MacRing},
        secret::SecretKey,
    },
    repository::{
        audit::batch::ChainId,
        records::Records,
        replicas::{BEAT_EVERY, SILENCE, testing::Hand},
    },
    store::fake::MemoryStore,
};

struct Server {
    records: Records,
    log: AuditLog,
    tasks: AuditTasks,
    clock: Arc<Hand>,
}

impl Server {
    async fn start(store: &MemoryStore) -> Self {
        let ring = MacRing::new(("k".to_owned(), MacKey::new(&SecretKey::new([7; 32]))), []);
        let (records, clock) = (Records::new(Arc::new(store.replica()), Arc::new(ring)), Hand::new());
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
    two.clock.advance(SILENCE + BEAT_EVERY);
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
    two.clock.advance(SILENCE + BEAT_EVERY);
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
