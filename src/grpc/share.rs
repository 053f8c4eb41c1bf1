//! Places that callers share: calls, streams, connections. Whoever holds many gets no more while few
//! are left, so that nobody fills them alone. Knows neither what a place is for nor who a holder is.
//!
//! The rule is that of dynamic thresholds (Choudhury and Hahne, "Dynamic Queue Length Thresholds for
//! Shared-Memory Packet Switches", IEEE/ACM Transactions on Networking 6, 1998): a holder may take a
//! place while he holds fewer than a multiple of those that are free. Alone he gets his share of
//! all; each other who holds many makes it smaller; and some are always free for who holds none.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What one holder alone may hold of all places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    percent: usize,
}

impl Share {
    /// `percent` of the places, 1 to 100; with 100 nobody is held back.
    #[must_use]
    pub const fn new(percent: u8) -> Self {
        let percent = match percent {
            0 => 1,
            101.. => 100,
            percent => percent,
        };
        Self { percent: percent as usize }
    }
    fn allows(self, held: usize, free: usize) -> bool {
        held.saturating_mul(100 - self.percent) < free.saturating_mul(self.percent)
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::new(50)
    }
}

/// As what somebody holds a place; a call is held by several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder<'a> {
    /// Whoever has this certificate.
    Certificate(&'a [u8; 32]),
    /// An organization; the empty name: calls that belong to none.
    Org(&'a str),
    /// Whoever is at this address.
    Address([u8; 16]),
}

/// So many locks: a call holds one for the time of one look into a table, never across work.
const SHARDS: usize = 32;

/// Places, and how many each holder has.
#[derive(Debug)]
pub(super) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: usize,
    share: Share,
    taken: AtomicUsize,
    /// The name of a holder is its keyed hash: no name is kept or copied, and nobody can choose one
    /// that meets another's. Who holds nothing has no entry, so there are never more than places.
    names: RandomState,
    held: [Mutex<HashMap<u64, usize>>; SHARDS],
}

impl Pool {
    pub(super) fn new(places: usize, share: Share) -> Self {
        let held = std::array::from_fn(|_| Mutex::default());
        Self(Arc::new(Inner { places, share, taken: AtomicUsize::new(0), names: RandomState::new(), held }))
    }

    /// A place for `holder`: None when there is none, or none for him.
    pub(super) fn take(&self, holder: Holder<'_>) -> Option<Taken> {
        let one_more = |taken: usize| (taken < self.0.places).then_some(taken.saturating_add(1));
        self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        // From here on dropping it gives the place back.
        let mut taken = Taken { pool: Arc::clone(&self.0), holders: [None; HOLDERS_MAX] };
        taken.is_for(holder).then_some(taken)
    }
}

/// As how many holders a place is held at most.
const HOLDERS_MAX: usize = 2;

/// A place; free again when dropped.
#[derive(Debug)]
pub(super) struct Taken {
    pool: Arc<Inner>,
    holders: [Option<u64>; HOLDERS_MAX],
}

impl Taken {
    /// Whether the place may be `holder`'s instead; it is then, and no longer that of who has it.
    pub(super) fn pass_to(&mut self, holder: Holder<'_>) -> bool {
        self.leave();
        self.is_for(holder)
    }

    fn leave(&mut self) {
        for name in self.holders.iter_mut().filter_map(Option::take) {
            let mut shard = self.pool.shard(name);
            match shard.get_mut(&name) {
                Some(held) if *held > 1 => *held -= 1,
                _ => drop(shard.remove(&name)),
            }
        }
    }

    /// Whether the place may be `holder`'s, too; it is then.
    pub(super) fn is_for(&mut self, holder: Holder<'_>) -> bool {
        let pool = &self.pool;
        let Some(slot) = self.holders.iter_mut().find(|slot| slot.is_none()) else { return false };
        // This place counts as free still: it is judged whether he may take it.
        let free = pool.places.saturating_sub(pool.taken.load(Ordering::Relaxed)).saturating_add(1);
        let name = pool.names.hash_one(holder);
        let mut shard = pool.shard(name);
        let held = shard.get(&name).copied().unwrap_or_default();
        if !pool.share.allows(held, free) {
            return false;
        }
        shard.insert(name, held.saturating_add(1));
        *slot = Some(name);
        true
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.leave();
        self.pool.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    #[expect(clippy::indexing_slicing, reason = "a remainder of SHARDS is below it")]
    fn shard(&self, name: u64) -> MutexGuard<'_, HashMap<u64, usize>> {
        let at = usize::try_from(name % SHARDS as u64).unwrap_or_default();
        self.held[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(pool: &Pool, holder: Holder<'_>) -> Vec<Taken> {
        std::iter::from_fn(|| pool.take(holder)).collect()
    }

    #[test]
    fn alone_one_gets_his_share_and_the_rest_stays_free_for_others() {
        let pool = Pool::new(100, Share::new(50));
        let noisy = hold(&pool, Holder::Org("noisy"));
        assert_eq!(noisy.len(), 50);
        let second = hold(&pool, Holder::Org("second"));
        assert_eq!(second.len(), 25);
        assert!(pool.take(Holder::Org("noisy")).is_none());
        // However many there are who want all, one who holds none finds a place.
        let crowd: Vec<_> = (0..20_u8).map(|n| hold(&pool, Holder::Address([n; 16]))).collect();
        assert!(crowd.iter().take(4).all(|held| !held.is_empty()));
        drop((noisy, second, crowd));
        assert_eq!(hold(&pool, Holder::Org("noisy")).len(), 50);
    }

    #[test]
    fn a_place_of_two_counts_for_both_and_is_given_back_to_both() {
        let pool = Pool::new(10, Share::new(50));
        let certificates = [[1; 32], [2; 32]];
        let taken = |n: usize| {
            let mut taken = pool.take(Holder::Certificate(&certificates[n]))?;
            taken.is_for(Holder::Org("acme")).then_some(taken)
        };
        let mut held: Vec<_> = (0..3).map(|_| taken(0).unwrap()).collect();
        held.extend((0..2).map(|_| taken(1).unwrap()));
        assert!(taken(1).is_none(), "the organization has its share");
        let mut other = pool.take(Holder::Certificate(&certificates[1])).unwrap();
        assert!(other.is_for(Holder::Org("rival")), "and another has not");
        drop((held, other));
        assert!(pool.0.held.iter().all(|shard| shard.lock().unwrap().is_empty()), "nobody is remembered");
        assert_eq!(pool.0.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_place_is_given_and_none_is_not_and_a_whole_share_holds_nobody_back() {
        assert_eq!(hold(&Pool::new(1, Share::new(1)), Holder::Org("a")).len(), 1);
        assert!(hold(&Pool::new(0, Share::default()), Holder::Org("a")).is_empty());
        assert_eq!(hold(&Pool::new(7, Share::new(100)), Holder::Org("a")).len(), 7);
        assert_eq!(Share::new(0), Share::new(1));
    }

    #[test]
    fn threads_that_take_and_give_back_leave_nothing_behind() {
        let pool = Pool::new(64, Share::new(50));
        std::thread::scope(|scope| {
            for n in 0..8_u8 {
                let pool = &pool;
                scope.spawn(move || {
                    for _ in 0..2_000 {
                        let held: Vec<_> = (0..5).filter_map(|_| pool.take(Holder::Address([n % 3; 16]))).collect();
                        assert!(pool.0.taken.load(Ordering::Relaxed) <= 64);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(pool.0.taken.load(Ordering::Relaxed), 0);
        assert!(pool.0.held.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }
}
