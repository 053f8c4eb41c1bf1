//! A store in memory for tests: it keeps the port's contract, and fails on command as a real
//! database does. Nothing in it is durable.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::watch, time::timeout};

use super::{
    Action, Item, ItemKey, ItemStore, NewItem, Order, PAGE_BYTES_MAX, Page, Query, SharedItem, StoreError, WriteId,
    Written, limits, range::Interval,
};
use crate::domain::{
    PortFuture,
    clock::{Clock, Deadline},
};

type Items = BTreeMap<ItemKey, Stored>;

/// An item, and whether it can't be read any more.
#[derive(Clone, Debug)]
struct Stored {
    item: Item,
    is_damaged: bool,
}

impl Stored {
    fn read(&self) -> Result<Item, StoreError> {
        if self.is_damaged { Err(StoreError::Corrupt("it was damaged".into())) } else { Ok(self.item.clone()) }
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No answer: nothing happened.
    Unavailable,
    /// Throttled: nothing happened.
    Throttled,
}

/// How a write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// An error: nothing happened.
    Refused(Fault),
    /// Its reply is lost: it ran, and the caller is told Unknown.
    UnknownDone,
    /// It is lost: it never runs, and the caller is told Unknown.
    UnknownLost,
}

/// The store in memory. Clones share the items: they are the replicas' views of one database.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    items: Arc<Mutex<Items>>,
    faults: Faults,
    exclusive: bool,
}

impl MemoryStore {
    /// An empty store of one process.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let faults = Faults::default();
        Self { clock, items: Arc::default(), faults, exclusive: true }
    }

    /// The same items, as a store that other replicas use too.
    #[must_use]
    pub fn shared(self) -> Self {
        Self { exclusive: false, ..self }
    }

    /// The same items behind faults of their own: what another replica sees.
    #[must_use]
    pub fn replica(&self) -> Self {
        Self { faults: Faults::default(), exclusive: false, ..self.clone() }
    }

    /// What makes it fail.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Every item as it is now, by key: what somebody with the database in his hands sees.
    #[must_use]
    pub fn dump(&self) -> Vec<Item> {
        lock(&self.items).values().map(|stored| stored.item.clone()).collect()
    }

    /// Puts `item` there as it is, its revision included: what somebody does who can write the
    /// database.
    pub fn tamper(&self, item: Item) {
        lock(&self.items).insert(item.key.clone(), Stored { item, is_damaged: false });
    }

    /// Damages the item at `key`, if there is one: it can't be read until it is written again.
    pub fn damage(&self, key: &ItemKey) {
        if let Some(stored) = lock(&self.items).get_mut(key) {
            stored.is_damaged = true;
        }
    }

    async fn run(&self, actions: Vec<Action>, deadline: Deadline) -> Result<Written, StoreError> {
        self.faults.counts.writes.fetch_add(1, Ordering::SeqCst);
        if let Some(written) = self.stall(&actions, deadline).await {
            return Ok(written);
        }
        match self.faults.next_write() {
            Some(WriteFault::Refused(fault)) => Err(fault.into()),
            Some(WriteFault::UnknownLost) => Ok(Written::Unknown),
            Some(WriteFault::UnknownDone) => {
                apply(&mut lock(&self.items), actions)?;
                Ok(Written::Unknown)
            }
            None => apply(&mut lock(&self.items), actions),
        }
    }

    /// Waits out a stall; what is still waiting at the deadline is Unknown, and lands on release.
    async fn stall(&self, actions: &[Action], deadline: Deadline) -> Option<Written> {
        let mut stalled = self.faults.script().stalled.as_ref().map(watch::Sender::subscribe)?;
        // The end of the sender is a release, too.
        let released = async { drop(stalled.wait_for(|released| *released).await) };
        if timeout(self.clock.left(deadline), released).await.is_ok() {
            return None;
        }
        let mut script = self.faults.script();
        script.late.push((Arc::clone(&self.items), actions.to_vec()));
        if script.stalled.is_none() {
            script.land();
        }
        Some(Written::Unknown)
    }

    fn check(&self, deadline: Deadline) -> Result<(), StoreError> {
        if self.clock.left(deadline).is_zero() {
            return Err(StoreError::Unavailable("the deadline passed".into()));
        }
        Ok(())
    }

    fn check_read(&self, deadline: Deadline) -> Result<(), StoreError> {
        self.check(deadline)?;
        self.faults.counts.reads.fetch_add(1, Ordering::SeqCst);
        self.faults.next_read().map_or(Ok(()), |fault| Err(fault.into()))
    }
}

/// What makes a [`MemoryStore`] fail. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    script: Arc<Mutex<Script>>,
    counts: Arc<Counts>,
}

impl Faults {
    /// The next writes fail so, one after the other.
    pub fn fail_writes(&self, faults: impl IntoIterator<Item = WriteFault>) {
        self.script().writes.extend(faults);
    }

    /// The next reads, gets and queries alike, fail so, one after the other.
    pub fn fail_reads(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script().reads.extend(faults);
    }

    /// Every call fails so until [`Faults::mend`].
    pub fn break_down(&self, fault: Fault) {
        let mut script = self.script();
        script.all_reads = Some(fault);
        script.all_writes = Some(WriteFault::Refused(fault));
    }

    /// Every write fails so until [`Faults::mend`]; reads don't.
    pub fn break_writes(&self, fault: WriteFault) {
        self.script().all_writes = Some(fault);
    }

    /// Every read fails so until [`Faults::mend`]; writes don't.
    pub fn break_reads(&self, fault: Fault) {
        self.script().all_reads = Some(fault);
    }

    /// Writes wait from now on, until [`Faults::release`]. A write whose deadline passes meanwhile
    /// is Unknown, and runs on release, before those that still wait.
    pub fn stall_writes(&self) {
        self.script().stalled.get_or_insert_with(|| watch::Sender::new(false));
    }

    /// Lets the waiting writes go.
    pub fn release(&self) {
        let mut script = self.script();
        script.land();
        if let Some(stalled) = script.stalled.take() {
            stalled.send_replace(true);
        }
    }

    /// Nothing fails any more; what waits is released.
    pub fn mend(&self) {
        self.release();
        *self.script() = Script::default();
    }

    /// How many gets and queries there were, failed ones included.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.counts.reads.load(Ordering::SeqCst)
    }

    /// How many writes there were, failed ones included.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.counts.writes.load(Ordering::SeqCst)
    }

    /// How many writes wait in a stall now: tests wait for it instead of sleeping.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.script().stalled.as_ref().map_or(0, watch::Sender::receiver_count)
    }

    fn next_write(&self) -> Option<WriteFault> {
        let mut script = self.script();
        script.writes.pop_front().or(script.all_writes)
    }

    fn next_read(&self) -> Option<Fault> {
        let mut script = self.script();
        script.reads.pop_front().or(script.all_reads)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.script)
    }
}

#[derive(Debug, Default)]
struct Counts {
    reads: AtomicU64,
    writes: AtomicU64,
}

#[derive(Debug, Default)]
struct Script {
    writes: VecDeque<WriteFault>,
    reads: VecDeque<Fault>,
    all_writes: Option<WriteFault>,
    all_reads: Option<Fault>,
    stalled: Option<watch::Sender<bool>>,
    late: Vec<(Arc<Mutex<Items>>, Vec<Action>)>,
}

impl Script {
    /// Runs what was given up as Unknown while it waited; nobody hears how it ended.
    fn land(&mut self) {
        for (items, actions) in self.late.drain(..) {
            let _ = apply(&mut lock(&items), actions);
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unavailable => Self::Unavailable("a fault was asked for".into()),
            Fault::Throttled => Self::Throttled,
        }
    }
}

impl ItemStore for MemoryStore {
    fn get<'a>(
        &'a self,
        keys: &'a [ItemKey],
        deadline: Deadline,
    ) -> PortFuture<'a, Result<Vec<Option<SharedItem>>, StoreError>> {
        Box::pin(async move {
            limits::check_get(keys)?;
            self.check_read(deadline)?;
            let items = lock(&self.items);
            let read = |key| items.get(key).map(Stored::read).transpose();
            keys.iter().map(|key| Ok(read(key)?.map(SharedItem::from))).collect()
        })
    }

    fn query(&self, query: Query, deadline: Deadline) -> PortFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            limits::check_query(&query)?;
            self.check_read(deadline)?;
            Ok(page(&lock(&self.items), &query))
        })
    }

    fn write(
        &self,
        _id: WriteId,
        actions: Vec<Action>,
        deadline: Deadline,
    ) -> PortFuture<'_, Result<Written, StoreError>> {
        Box::pin(async move {
            limits::check_write(&actions)?;
            self.check(deadline)?;
            self.run(actions, deadline).await
        })
    }

    fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    fn status(&self, deadline: Deadline) -> PortFuture<'_, Result<String, StoreError>> {
        Box::pin(async move {
            self.check(deadline)?;
            let script = self.faults.script();
            match (script.all_reads, script.all_writes) {
                (Some(fault), _) | (None, Some(WriteFault::Refused(fault))) => Err(fault.into()),
                (None, _) => Ok("memory; nothing is kept".to_owned()),
            }
        })
    }
}

fn page(items: &Items, query: &Query) -> Page {
    let interval = Interval::of(query);
    if interval.is_empty() {
        return Page { items: Vec::new(), next: None };
    }
    let from = ItemKey { partition: query.partition.clone(), sort: interval.from };
    let until = match interval.until {
        Some(sort) => ItemKey { partition: query.partition.clone(), sort },
        // The least partition above this one; there no sort key is empty.
        None => ItemKey { partition: format!("{}\0", query.partition), sort: String::new() },
    };
    let found = items.range((Bound::Included(from), Bound::Excluded(until))).map(|(_, item)| item);
    match query.order {
        Order::Ascending => fill(found, query.limit),
        Order::Descending => fill(found.rev(), query.limit),
    }
}

fn fill<'a>(found: impl Iterator<Item = &'a Stored>, limit: usize) -> Page {
    let mut page = Page { items: Vec::new(), next: None };
    let mut bytes = 0_usize;
    for stored in found {
        let item = stored.read().unwrap_or_else(|_| Item::unreadable(stored.item.key.clone()));
        bytes = bytes.saturating_add(limits::bytes_of(&item));
        if page.items.len() >= limit || (bytes > PAGE_BYTES_MAX && !page.items.is_empty()) {
            page.next = page.items.last().map(|last: &Item| last.key.sort.clone());
            break;
        }
        page.items.push(item);
    }
    page
}

/// All of `actions` or nothing.
fn apply(items: &mut Items, actions: Vec<Action>) -> Result<Written, StoreError> {
    for (index, action) in actions.iter().enumerate() {
        let (Action::Put(_, condition) | Action::Delete(_, condition) | Action::Check(_, condition)) = action;
        let current = items.get(action.key());
        if !condition.holds(current.map(|stored| stored.item.revision)) {
            return Ok(Written::Conflict { index, current: current.map(Stored::read).transpose()? });
        }
    }
    for action in actions {
        match action {
            Action::Put(item, _) => put(items, item),
            Action::Delete(key, _) => drop(items.remove(&key)),
            Action::Check(..) => {}
        }
    }
    Ok(Written::Committed)
}

fn put(items: &mut Items, item: NewItem) {
    let NewItem { key, expires, sealed, mac, attributes } = item;
    let revision = items.get(&key).map_or(0, |it| it.item.revision).saturating_add(1);
    let item = Item { key, revision, expires, sealed, mac, attributes };
    items.insert(item.key.clone(), Stored { item, is_damaged: false });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
