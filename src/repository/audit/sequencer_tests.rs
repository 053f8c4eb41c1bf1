//! The sequencer alone: how much goes into a row, where a row ends, and when all is in order.

use std::ops::RangeInclusive;

use super::*;
use crate::{
    repository::{
        audit::{
            batch::{Header, LaneKind, batch_item, batch_key},
            heads,
            record::Encoded,
            testing::{TinyStore, log_on, records, soon},
            tree::leaf_hash,
        },
        lease::Role,
    },
    store::{Action, Written},
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
        let lanes = Arc::clone(&log_on(&store).0.lanes);
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
        for number in numbers {
            let record = Encoded { bytes: vec![1], leaf: leaf_hash(&[1]) };
            let header = Header::of(chain.clone(), number, [0; 32], &[record]);
            self.write(vec![records.put(batch_item(&header, [vec![1]]), Expected::Absent)]).await;
        }
    }
    /// Positions and batches of the next row, and whether all is in order then.
    async fn advance(&mut self) -> (Vec<(u64, u64)>, bool) {
        let entries = self.sequencer.advance(&self.lease, soon()).await.unwrap();
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
