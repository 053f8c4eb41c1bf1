//! A store in memory with faults, and a log upon it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{AuditLog, AuditSettings, batch::Batch};
use crate::{
    domain::{
        PortFuture,
        audit::{Action as AuditAction, AuditDraft},
        clock::{Clock, Deadline, SystemClock, SystemEntropy},
        ids::OrgId,
        mac::{MacKey, MacRing},
        secret::SecretKey,
    },
    repository::records::Records,
    store::{
        Action, Condition, Item, ItemKey, ItemStore, NewItem, Order, Page, Query, SharedItem, SortRange, StoreError,
        WriteId, Written,
    },
};

/// What befalls one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It happens, and its outcome is lost.
    LostAfter,
    /// It does not happen, and its outcome is lost.
    LostBefore,
    /// It is answered as lost, and happens just before the next write.
    Late,
    /// It is refused as unavailable.
    Refused,
    /// It waits for its deadline, and is withdrawn.
    Withdrawn,
    /// It meets an item that can't be read.
    Corrupt,
    /// Others want its items, all the time that it has.
    Throttled,
}

#[derive(Debug, Default)]
pub(crate) struct TinyStore {
    items: Mutex<BTreeMap<ItemKey, Item>>,
    faults: Mutex<VecDeque<Option<Fault>>>,
    late: Mutex<Vec<Vec<Action>>>,
    is_down: AtomicBool,
    /// After so many reads, what others have made of the items meanwhile.
    meanwhile: Mutex<Option<(usize, BTreeMap<ItemKey, Item>)>>,
    /// After so many reads, one that fails.
    bad_read: Mutex<Option<usize>>,
    pub(crate) probes: AtomicUsize,
    pub(crate) writes: AtomicUsize,
    /// The most bytes of records that one write deleted.
    pub(crate) deleted_most: AtomicUsize,
}

impl TinyStore {
    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults.into_iter().map(Some));
    }
    /// Lets `writes` through before the fault.
    pub(crate) fn fail_after(&self, writes: usize, fault: Fault) {
        let good = std::iter::repeat_n(None, writes);
        self.faults.lock().unwrap().extend(good.chain([Some(fault)]));
    }
    /// Forgets faults that have befallen nothing yet.
    pub(crate) fn heal(&self) {
        self.faults.lock().unwrap().clear();
    }
    pub(crate) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }
    /// Lets others change all items before the next read but `reads`.
    pub(crate) fn change_after(&self, reads: usize, items: BTreeMap<ItemKey, Item>) {
        *self.meanwhile.lock().unwrap() = Some((reads, items));
    }
    /// Lets `reads` through, and the next one fail.
    pub(crate) fn fail_read_after(&self, reads: usize) {
        *self.bad_read.lock().unwrap() = Some(reads);
    }
    /// Whether that read has failed.
    pub(crate) fn has_failed_read(&self) -> bool {
        self.bad_read.lock().unwrap().is_none()
    }
    fn read(&self) -> Result<(), StoreError> {
        self.check()?;
        let mut bad_read = self.bad_read.lock().unwrap();
        match *bad_read {
            Some(0) => {
                *bad_read = None;
                return Err(StoreError::Unavailable("a read failed".into()));
            }
            Some(reads) => *bad_read = Some(reads - 1),
            None => {}
        }
        let mut meanwhile = self.meanwhile.lock().unwrap();
        match meanwhile.take() {
            Some((0, items)) => *self.items.lock().unwrap() = items,
            later => *meanwhile = later.map(|(reads, items)| (reads - 1, items)),
        }
        Ok(())
    }
    /// What a database writer does: past every condition.
    pub(crate) fn tamper<T>(&self, with: impl FnOnce(&mut BTreeMap<ItemKey, Item>) -> T) -> T {
        with(&mut self.items.lock().unwrap())
    }
    fn check(&self) -> Result<(), StoreError> {
        if self.is_down.load(Ordering::SeqCst) { Err(StoreError::Unavailable("down".into())) } else { Ok(()) }
    }
    fn apply(&self, actions: Vec<Action>) -> Written {
        let mut items = self.items.lock().unwrap();
        for (index, action) in actions.iter().enumerate() {
            let current = items.get(action.key());
            let (Action::Put(_, condition) | Action::Delete(_, condition) | Action::Check(_, condition)) = action;
            let holds = match condition {
                Condition::Any => true,
                Condition::Absent => current.is_none(),
                Condition::Present => current.is_some(),
                Condition::Revision(revision) => current.is_some_and(|item| item.revision == *revision),
            };
            if !holds {
                return Written::Conflict { index, current: current.cloned() };
            }
        }
        let mut deleted = 0;
        for action in actions {
            match action {
                Action::Put(NewItem { key, expires, sealed, mac, attributes }, _) => {
                    let revision = items.get(&key).map_or(1, |item| item.revision + 1);
                    items.insert(key.clone(), Item { key, revision, expires, sealed, mac, attributes });
                }
                Action::Delete(key, _) => {
                    let batch = items.remove(&key).and_then(Batch::read);
                    deleted += batch.map_or(0, |batch| batch.records.iter().map(Vec::len).sum());
                }
                Action::Check(..) => {}
            }
        }
        self.deleted_most.fetch_max(deleted, Ordering::SeqCst);
        Written::Committed
    }
}

impl ItemStore for TinyStore {
    fn get<'a>(
        &'a self,
        keys: &'a [ItemKey],
        _: Deadline,
    ) -> PortFuture<'a, Result<Vec<Option<SharedItem>>, StoreError>> {
        Box::pin(async move {
            self.read()?;
            assert!(keys.len() <= 100);
            let items = self.items.lock().unwrap();
            Ok(keys.iter().map(|key| items.get(key).cloned().map(SharedItem::from)).collect())
        })
    }
    fn query(&self, query: Query, _: Deadline) -> PortFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move {
            self.read()?;
            let items = self.items.lock().unwrap();
            let fits = |sort: &str| match &query.range {
                SortRange::All => true,
                SortRange::Prefix(prefix) => sort.starts_with(prefix.as_str()),
                SortRange::Between(from, to) => (from.as_str()..=to.as_str()).contains(&sort),
            };
            let mut found: Vec<Item> = items
                .values()
                .filter(|item| item.key.partition == query.partition && fits(&item.key.sort))
                .cloned()
                .collect();
            if query.order == Order::Descending {
                found.reverse();
            }
            if let Some(after) = &query.after {
                found.retain(|item| match query.order {
                    Order::Ascending => item.key.sort > *after,
                    Order::Descending => item.key.sort < *after,
                });
            }
            let is_more = found.len() > query.limit;
            found.truncate(query.limit);
            let next = found.last().filter(|_| is_more).map(|item| item.key.sort.clone());
            Ok(Page { items: found, next })
        })
    }
    fn write(&self, _: WriteId, actions: Vec<Action>, by: Deadline) -> PortFuture<'_, Result<Written, StoreError>> {
        Box::pin(async move {
            self.writes.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            self.check()?;
            assert!((1..=100).contains(&actions.len()));
            for late in std::mem::take(&mut *self.late.lock().unwrap()) {
                self.apply(late);
            }
            let fault = self.faults.lock().unwrap().pop_front().flatten();
            Ok(match fault {
                None => self.apply(actions),
                Some(Fault::LostBefore) => Written::Unknown,
                Some(Fault::LostAfter) => {
                    self.apply(actions);
                    Written::Unknown
                }
                Some(Fault::Late) => {
                    self.late.lock().unwrap().push(actions);
                    Written::Unknown
                }
                Some(Fault::Refused) => return Err(StoreError::Unavailable("refused".into())),
                Some(Fault::Withdrawn) => {
                    tokio::time::sleep_until(by.instant().into()).await;
                    return Err(StoreError::Unavailable("the deadline passed".into()));
                }
                Some(Fault::Throttled) => return Err(StoreError::Throttled),
                Some(Fault::Corrupt) => return Err(StoreError::Corrupt("no item of ours".into())),
            })
        })
    }
    fn is_exclusive(&self) -> bool {
        true
    }
    fn status(&self, _: Deadline) -> PortFuture<'_, Result<String, StoreError>> {
        Box::pin(async move {
            self.probes.fetch_add(1, Ordering::SeqCst);
            self.check().map(|()| "fine".to_owned())
        })
    }
}

pub(crate) fn records(store: &Arc<TinyStore>) -> Records {
    let ring = MacRing::new(("k1".into(), MacKey::new(&SecretKey::new([7; 32]))), []);
    Records::new(Arc::<TinyStore>::clone(store), Arc::new(ring))
}

pub(crate) fn log_on(store: &Arc<TinyStore>) -> AuditLog {
    AuditLog::open(records(store), Arc::new(SystemClock), Arc::new(SystemEntropy), AuditSettings::default()).unwrap()
}

pub(crate) fn soon() -> Deadline {
    SystemClock.deadline(Duration::from_secs(60))
}

pub(crate) fn org(id: &str) -> OrgId {
    OrgId::parse("org", id).unwrap()
}

/// A retrieval of `resource` in `org`.
pub(crate) fn draft(id: &str, resource: &str) -> AuditDraft {
    AuditDraft {
        resource: resource.into(),
        subject: "svc".into(),
        token_id: "0".repeat(32),
        client_identity: "svc.example".into(),
        client_address: "127.0.0.1".into(),
        ..AuditDraft::of_server(org(id), SystemClock.now(), AuditAction::KeyRetrieve)
    }
}
