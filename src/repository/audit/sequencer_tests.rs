//! The sequencer alone: how much goes into a row, where a row ends, and when all is in order.

use std::{ops::RangeInclusive, time::Duration};

use super::*;
use crate::{
    domain::{
        PortFuture,
        clock::{Clock as _, SystemEntropy},
        mac::{MacKey, MacRing},
        secret::SecretKey,
    },
    repository::{
        audit::{
            AuditLog, AuditSettings,
            batch::{Header, LaneKind, batch_item, batch_key},
            heads,
            record::Encoded,
            testing::{TinyStore, log_on, records, soon},
            tree::leaf_hash,
        },
        lease::Role,
        records::Records,
        replicas::testing::Hand,
    },
    store::{Action, ItemKey, ItemStore, Page, Query, SharedItem, StoreError, WriteId, Written},
};

struct World {
    store: Arc<TinyStore>,
    sequencer: Sequencer,
    lease: Lease,
}

impl World {
    /// The order has come so far.
    async fn at(next: u64, chains: &[(&ChainId, u64)]) -> Self {
        let store = Arc::new(TinyStore::default());
        let log = log_on(&store);
        Self::with(store, &log, next, chains).await
    }
    /// The same in a log upon `store`.
    async fn with(store: Arc<TinyStore>, log: &AuditLog, next: u64, chains: &[(&ChainId, u64)]) -> Self {
        let lanes = Arc::clone(&log.0.lanes);
        let lease = lanes.replicas.take(Role::Sequencer, soon()).await.unwrap();
        let chains = chains.iter().map(|(chain, last)| ((*chain).clone(), *last)).collect();
        let state = LogState { next, chains, ..LogState::default() };
        let world = Self { store, sequencer: Sequencer::new(lanes), lease: lease.unwrap() };
        world.write(vec![state.put(&records(&world.store)).0]).await;
        world
    }
    async fn write(&self, actions: Vec<Action>) {
        assert_eq!(self.sequencer.lanes.write(actions, soon()).await.unwrap(), Written::Committed);
    }
    /// A chain that nobody has in hand, with batches of one record.
    async fn write_chain(&self, chain: &ChainId, numbers: RangeInclusive<u64>) {
        let records = records(&self.store);
        self.write(heads::announce(&records, chain, Timestamp::default()).into()).await;
        self.write_batches(chain, numbers).await;
    }
    async fn write_batches(&self, chain: &ChainId, numbers: RangeInclusive<u64>) {
        let records = records(&self.store);
        for number in numbers {
            let record = Encoded { bytes: vec![1], leaf: leaf_hash(&[1]) };
            let header = Header::of(chain.clone(), number, [0; 32], &[record]);
            self.write(vec![records.put(batch_item(&header, [vec![1]]), Expected::Absent)]).await;
        }
    }
    /// Positions and batches of the next row, and whether all is in order then.
    async fn advance(&mut self) -> (Vec<(u64, u64)>, bool) {
        let entries = self.sequencer.advance(&self.lease, soon()).await.unwrap().entries;
        let places = entries.iter().map(|entry| (entry.position, entry.batch.header.batch)).collect();
        (places, self.sequencer.until().is_some())
    }
}

fn chain(number: u32) -> ChainId {
    ChainId::new("0123456789abcdef", LaneKind::Shared, number)
}

#[tokio::test]
async fn a_chain_goes_on_in_its_next_segment() {
    let end = SEGMENT_BATCHES;
    let mut world = World::at(7, &[(&chain(1), end - 3)]).await;
    world.write_chain(&chain(1), end - 2..=end + 1).await;
    assert_eq!(world.advance().await, (vec![(7, end - 2), (8, end - 1)], false));
    assert_eq!(world.advance().await, (vec![(9, end), (10, end + 1)], true));
    assert_eq!(world.advance().await, (vec![], true));
}

#[tokio::test]
async fn a_row_ends_with_its_segment() {
    let end = SEGMENT_POSITIONS;
    let mut world = World::at(end - 2, &[]).await;
    world.write_chain(&chain(1), 1..=4).await;
    assert_eq!(world.advance().await.0, [(end - 2, 1), (end - 1, 2)]);
    assert_eq!(world.advance().await.0, [(end, 3), (end + 1, 4)]);
}

#[tokio::test]
async fn a_row_has_so_many_runs_and_batches_and_the_rest_comes_next() {
    // How many chains, batches of each, and how many of them come with each row.
    let (runs, each) = (u32::try_from(RUNS_MAX).unwrap(), CHAIN_BATCHES_MAX);
    for (chains, batches, expected) in
        [(runs + 1, 1, [RUNS_MAX, 1]), (2, each + 6, [2 * each, 12]), (9, each, [BATCHES_MAX, 9 * each - BATCHES_MAX])]
    {
        let mut world = World::at(1, &[]).await;
        for number in 1..=chains {
            world.write_chain(&chain(number), 1..=batches as u64).await;
        }
        let (first, is_all) = world.advance().await;
        assert_eq!((first.len(), is_all), (expected[0], false), "{chains} chains");
        let (second, is_all) = world.advance().await;
        assert_eq!(second.len(), expected[1], "{chains} chains");
        let is_all = is_all || world.advance().await == (vec![], true);
        assert!(is_all, "{chains} chains");
    }
}

#[tokio::test]
async fn nothing_behind_a_batch_that_is_missing_is_put_in_order() {
    let mut world = World::at(1, &[]).await;
    world.write_chain(&chain(1), 1..=5).await;
    world.store.tamper(|items| items.remove(&batch_key(&chain(1), 3)));
    assert_eq!(world.advance().await, (vec![(1, 1), (2, 2)], false));
    assert_eq!(world.advance().await, (vec![], false));
}

/// A store in which a second passes with each query.
#[derive(Debug)]
struct Slow {
    store: Arc<TinyStore>,
    clock: Arc<Hand>,
}

impl ItemStore for Slow {
    fn get<'a>(
        &'a self,
        keys: &'a [ItemKey],
        by: Deadline,
    ) -> PortFuture<'a, Result<Vec<Option<SharedItem>>, StoreError>> {
        self.store.get(keys, by)
    }
    fn query(&self, query: Query, by: Deadline) -> PortFuture<'_, Result<Page, StoreError>> {
        self.clock.advance(Duration::from_secs(1));
        self.store.query(query, by)
    }
    fn write(&self, id: WriteId, actions: Vec<Action>, by: Deadline) -> PortFuture<'_, Result<Written, StoreError>> {
        self.store.write(id, actions, by)
    }
    fn is_exclusive(&self) -> bool {
        true
    }
    fn status(&self, by: Deadline) -> PortFuture<'_, Result<String, StoreError>> {
        self.store.status(by)
    }
}

#[tokio::test]
async fn of_many_chains_each_has_its_turn_and_all_is_in_order_once_all_were_asked() {
    const CHAINS: u32 = 40;
    let (store, clock) = (Arc::<TinyStore>::default(), Hand::new());
    let ring = MacRing::new(("k1".into(), MacKey::new(&SecretKey::new([7; 32]))), []);
    let slow = Records::new(Arc::new(Slow { store: Arc::clone(&store), clock: clock.clone() }), Arc::new(ring));
    let settings = AuditSettings::default();
    let log = AuditLog::open(slow, clock.clone(), Arc::new(SystemEntropy), settings).unwrap();
    let mut world = World::with(store, &log, 1, &[]).await;
    for number in 1..=CHAINS {
        world.write_chain(&chain(number), 1..=1).await;
    }
    let began = clock.now();
    let (mut found, mut passes) = (0, 0);
    loop {
        let by = clock.deadline(Duration::from_secs(5));
        let advanced = world.sequencer.advance(&world.lease, by).await.unwrap();
        found += advanced.entries.len();
        passes += 1;
        if passes == 1 {
            assert!(advanced.is_more && found < 40, "there was no time for all");
            // Behind where it has come to, and before.
            world.write_batches(&chain(1), 2..=2).await;
            world.write_batches(&chain(CHAINS), 2..=2).await;
        }
        if !advanced.is_more {
            break;
        }
        assert_eq!(world.sequencer.until(), None, "not all were asked");
    }
    assert_eq!(found, 41, "what came behind it is for the next round");
    let until = world.sequencer.until().unwrap();
    assert!(began <= until && until <= clock.now());
    let next = world.sequencer.advance(&world.lease, clock.deadline(Duration::from_secs(3_600))).await.unwrap();
    assert_eq!((next.entries.len(), next.is_more), (1, false));
}
