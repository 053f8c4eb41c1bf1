//! Items that were read lately, as they are in the file: ciphertext and metadata, never more. This
//! process is the file's only writer, so that the memory can be exact: the writer forgets what a
//! transaction touches before it commits, and nothing of that is remembered again until it ended.
//! It saves the retrieval path its four look-ups, their decoding and their MACs.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use quick_cache::{Weighter, sync::Cache};

use crate::store::{ItemKey, SharedItem, limits};

/// About how many bytes are kept, as the items weigh on disk; what is made of them weighs as much
/// again and more.
const BYTES_MAX: u64 = 4 << 20;
/// About how many items these are.
const ITEMS: usize = 4_096;
/// What is larger is no record of a hot path.
const ITEM_BYTES_MAX: usize = 16 << 10;
/// The memory's own cost of an item.
const OVERHEAD: u64 = 256;
/// A transaction stands in the way only of keys that share one of these with its own.
const GATES: usize = 256;

/// The memory.
#[derive(Debug)]
pub(super) struct ItemCache {
    items: Cache<ItemKey, SharedItem, Weight>,
    gates: [Mutex<Gate>; GATES],
    hasher: RandomState,
}

/// What stands between a read of the file and remembering it.
#[derive(Debug, Default)]
struct Gate {
    /// Transactions that are changing one of its keys.
    writing: u32,
    /// Transactions that ever began to.
    began: u64,
}

/// A read of the file that may be remembered if nothing was written meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look(Option<u64>);

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<ItemKey, SharedItem> for Weight {
    fn weight(&self, _: &ItemKey, item: &SharedItem) -> u64 {
        OVERHEAD.saturating_add(u64::try_from(limits::bytes_of(item)).unwrap_or(u64::MAX))
    }
}

impl ItemCache {
    pub(super) fn new() -> Self {
        Self {
            items: Cache::with_weighter(ITEMS, BYTES_MAX, Weight),
            gates: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }

    /// The item at `key`, if it is remembered.
    pub(super) fn get(&self, key: &ItemKey) -> Option<SharedItem> {
        self.items.get(key)
    }

    /// Before `key` is read from the file.
    pub(super) fn look(&self, key: &ItemKey) -> Look {
        let gate = self.gate(key);
        Look((gate.writing == 0).then_some(gate.began))
    }

    /// After it was read.
    pub(super) fn remember(&self, look: Look, item: &SharedItem) {
        if limits::bytes_of(item) > ITEM_BYTES_MAX {
            return;
        }
        let gate = self.gate(&item.key);
        if gate.writing == 0 && look.0 == Some(gate.began) {
            self.items.insert(item.key.clone(), item.clone());
        }
    }

    /// Before a transaction that touches `keys` commits: forgets them until [`Self::end`].
    pub(super) fn begin<'a>(&self, keys: impl Iterator<Item = &'a ItemKey>) {
        for key in keys {
            let mut gate = self.gate(key);
            gate.writing = gate.writing.saturating_add(1);
            gate.began = gate.began.wrapping_add(1);
            self.items.remove(key);
        }
    }

    /// After that transaction, however it ended.
    pub(super) fn end<'a>(&self, keys: impl Iterator<Item = &'a ItemKey>) {
        for key in keys {
            let mut gate = self.gate(key);
            gate.writing = gate.writing.saturating_sub(1);
        }
    }

    /// Runs a transaction that may touch any key.
    pub(super) fn forget_while<T>(&self, run: impl FnOnce() -> T) -> T {
        for gate in &self.gates {
            let mut gate = lock(gate);
            gate.writing = gate.writing.saturating_add(1);
            gate.began = gate.began.wrapping_add(1);
        }
        self.items.clear();
        let outcome = run();
        for gate in &self.gates {
            let mut gate = lock(gate);
            gate.writing = gate.writing.saturating_sub(1);
        }
        outcome
    }

    fn gate(&self, key: &ItemKey) -> MutexGuard<'_, Gate> {
        // One byte of the hash names one of 256 gates.
        let [place, ..] = self.hasher.hash_one(key).to_le_bytes();
        let [first, ..] = &self.gates;
        lock(self.gates.get(usize::from(place)).unwrap_or(first))
    }
}

fn lock(gate: &Mutex<Gate>) -> MutexGuard<'_, Gate> {
    gate.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
