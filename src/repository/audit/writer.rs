//! One lane's hand on its chain: batches in order, one write in flight, and what to do when a
//! write is fenced or its outcome unknown. Knows neither queues nor callers.
//!
//! A write whose outcome is unknown leaves the lane in doubt. Before its next batch the lane places
//! a seal where the doubtful batch would stand: if that batch is there, the chain goes on behind
//! it; if the seal is, the batch never happened and never will, and the lane opens a new chain.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use super::{
    AuditSettings,
    batch::{ChainId, Header, LaneKind, batch_item, batch_key},
    heads,
    record::Encoded,
    tree::Hash,
};
use crate::{
    domain::{
        clock::{Clock, Deadline, Entropy, Timestamp, random},
        error::{Failure, Reason},
    },
    repository::{
        records::{Expected, Records},
        replicas::Replicas,
    },
    store::{Action, Item, StoreError, WriteId, Written},
};

/// What the lanes of one boot share.
pub(super) struct Lanes {
    pub(super) records: Records,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) settings: AuditSettings,
    /// 16 hex digits, new for each start.
    pub(super) boot: String,
    pub(super) replicas: Replicas,
    chains: AtomicU32,
    is_writable: AtomicBool,
    /// The last batch of each of this boot's chains that no lane is in doubt about.
    heads: Mutex<BTreeMap<ChainId, u64>>,
}

impl Lanes {
    pub(super) fn new(
        records: Records,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        settings: AuditSettings,
    ) -> Result<Self, Failure> {
        let boot = random::<8>(&*entropy).map_err(|error| Failure::new(Reason::Internal).caused_by(error))?;
        let boot = data_encoding::HEXLOWER.encode(&boot);
        let replicas = Replicas::new(records.clone(), Arc::clone(&clock), Arc::clone(&entropy), boot.clone());
        Ok(Self {
            records,
            clock,
            entropy,
            settings,
            boot,
            replicas,
            chains: AtomicU32::new(0),
            is_writable: AtomicBool::new(true),
            heads: Mutex::default(),
        })
    }
    pub(super) fn is_writable(&self) -> bool {
        self.is_writable.load(Ordering::Relaxed)
    }
    pub(super) fn set_writable(&self, is_writable: bool) {
        if self.is_writable.swap(is_writable, Ordering::Relaxed) != is_writable {
            tracing::warn!(is_writable, "the audit log's state changed");
        }
    }
    /// The last batch of `chain`, when this process knows it for sure.
    pub(super) fn head(&self, chain: &ChainId) -> Option<u64> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).get(chain).copied()
    }
    fn set_head(&self, chain: &ChainId, batch: Option<u64>) {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        match batch {
            Some(batch) => heads.insert(chain.clone(), batch),
            None => heads.remove(chain),
        };
    }
    /// [`Records::commit`].
    pub(super) async fn commit(&self, actions: Vec<Action>, deadline: Deadline) -> Result<(), Failure> {
        self.records.commit(&*self.entropy, actions, deadline).await
    }
    pub(super) async fn write(&self, actions: Vec<Action>, deadline: Deadline) -> Result<Written, StoreError> {
        let id = random::<16>(&*self.entropy).map_err(|error| StoreError::Unavailable(error.into()))?;
        self.records.store().write(WriteId(id), actions, deadline).await
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").field("boot", &self.boot).finish_non_exhaustive()
    }
}

/// How a batch ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Appended {
    /// It is durable, as that batch of that chain.
    Done { chain: ChainId, batch: u64 },
    /// Nothing happened: the condition of the caller's action did not hold.
    Conflict { index: usize, current: Option<Item> },
}

/// A chain and the place of its next batch.
#[derive(Debug)]
struct Chain {
    id: ChainId,
    opened: Timestamp,
    next: u64,
    previous: Hash,
    /// When its last batch was written.
    written: Timestamp,
}

impl Chain {
    fn new(lanes: &Lanes, kind: LaneKind) -> Self {
        let number = lanes.chains.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let id = ChainId::new(&lanes.boot, kind, number);
        let now = lanes.clock.now();
        Self { id, opened: now, next: 1, previous: [0; 32], written: now }
    }
    /// Whether it may have been sealed so long ago that the seal has left for the archive: nothing
    /// would be in the way of a batch in its place then, and nobody would ever look for it there.
    fn is_stale(&self, now: Timestamp) -> bool {
        self.next > 1 && now.since(self.written) > STALE
    }
    /// Its row is written with its first batch, and has revision 1 from then on.
    fn revision(&self) -> Option<u64> {
        (self.next > 1).then_some(1)
    }
}

/// What became of a doubtful batch.
#[derive(Debug, PartialEq, Eq)]
enum Settled {
    /// It is there.
    Landed,
    /// It is not, and can't come any more.
    Never,
}

/// One lane's writer.
#[derive(Debug)]
pub(super) struct ChainWriter {
    lanes: Arc<Lanes>,
    kind: LaneKind,
    chain: Chain,
    /// The header of a batch of `chain.next` whose outcome is not known.
    doubt: Option<Header>,
}

/// A lane that wrote nothing for so long goes on in a new chain: half of the shortest retention.
const STALE: Duration = Duration::from_secs(43_200);

/// How often one batch is tried: the first time, after a fence, after a settled doubt.
const ATTEMPTS: usize = 3;

impl ChainWriter {
    /// A lane on a chain of its own; nothing is written before its first batch.
    pub(super) fn new(lanes: Arc<Lanes>, kind: LaneKind) -> Self {
        let chain = Chain::new(&lanes, kind);
        Self { lanes, kind, chain, doubt: None }
    }

    /// Writes `actions` and a batch of `records` in one transaction.
    ///
    /// # Errors
    /// AUDIT_UNAVAILABLE when it did not happen or is not known to have; INTERNAL for actions that
    /// break the store's contract; RECORD_REJECTED when one of them met an item that can't be read;
    /// STORE_UNAVAILABLE when too many wanted their items at once.
    pub(super) async fn append(
        &mut self,
        actions: &[Action],
        records: &[Encoded],
        deadline: Deadline,
    ) -> Result<Appended, Failure> {
        let ended = self.attempt(actions, records, deadline).await;
        match &ended {
            Ok(_) => self.lanes.set_writable(true),
            Err(failure) if failure.reason == Reason::AuditUnavailable && self.is_at_fault(deadline) => {
                self.lanes.set_writable(false);
            }
            Err(_) => {}
        }
        ended
    }

    /// Whether a failure says something of the log: a mutation's deadline is its caller's, and that
    /// he gave it too little time does not.
    fn is_at_fault(&self, deadline: Deadline) -> bool {
        self.doubt.is_some() || self.kind == LaneKind::Shared || !self.lanes.clock.left(deadline).is_zero()
    }

    async fn attempt(
        &mut self,
        actions: &[Action],
        records: &[Encoded],
        deadline: Deadline,
    ) -> Result<Appended, Failure> {
        let mut failure = unavailable();
        for _ in 0..ATTEMPTS {
            self.settle().await?;
            if self.chain.is_stale(self.lanes.clock.now()) {
                self.seal().await?;
            }
            if self.lanes.clock.left(deadline).is_zero() {
                break;
            }
            let header = Header::of(self.chain.id.clone(), self.chain.next, self.chain.previous, records);
            let batch = header.batch;
            let write = self.transaction(actions, &header, records);
            // Set before the write, so that a task that ends in the middle of it leaves the doubt.
            self.doubt = Some(header);
            match self.lanes.write(write, deadline).await {
                Ok(Written::Committed) => return Ok(self.landed()),
                Ok(Written::Conflict { index, current }) if index < actions.len() => {
                    self.doubt = None;
                    return Ok(Appended::Conflict { index, current });
                }
                Ok(Written::Conflict { .. }) => {
                    tracing::warn!(chain = %self.chain.id, batch, "fenced: the lane opens a new chain");
                    self.open_new();
                }
                Ok(Written::Unknown) => {
                    if self.settle().await? == Some(Settled::Landed) {
                        return Ok(Appended::Done { chain: self.chain.id.clone(), batch });
                    }
                }
                // An error means that nothing happened and nothing will: the batch's place is free.
                Err(error) => {
                    self.doubt = None;
                    // A caller's items, which others may want at the same time, say nothing of the log:
                    // the batch's own place is this lane's alone.
                    let is_of_actions =
                        matches!(error, StoreError::Corrupt(_) | StoreError::Throttled) && !actions.is_empty();
                    if is_of_actions || matches!(error, StoreError::Contract(_)) {
                        return Err(error.into());
                    }
                    failure = lost(error);
                }
            }
        }
        Err(failure)
    }

    /// Clears a doubt; afterwards there is none.
    ///
    /// # Errors
    /// AUDIT_UNAVAILABLE while it can't be cleared.
    pub(super) async fn clear_doubt(&mut self) -> Result<(), Failure> {
        self.settle().await.map(|_| ())
    }

    async fn settle(&mut self) -> Result<Option<Settled>, Failure> {
        let Some(doubtful) = self.doubt.clone() else { return Ok(None) };
        self.lanes.set_head(&self.chain.id, None);
        match self.place_seal().await? {
            Some(current) if doubtful.is_of(&current) => {
                self.landed();
                Ok(Some(Settled::Landed))
            }
            _ => {
                self.open_new();
                Ok(Some(Settled::Never))
            }
        }
    }

    async fn place_seal(&self) -> Result<Option<Item>, Failure> {
        let Chain { id, opened, next, previous, .. } = &self.chain;
        let seal = Header::seal(id.clone(), *next, *previous);
        place_seal(&self.lanes, &seal, *opened, self.chain.revision()).await
    }

    /// Closes the chain with a seal, if it was ever opened. Afterwards the lane is on a new chain.
    ///
    /// # Errors
    /// AUDIT_UNAVAILABLE; the next start, or another server, seals it then.
    pub(super) async fn seal(&mut self) -> Result<(), Failure> {
        for _ in 0..ATTEMPTS {
            if self.settle().await? == Some(Settled::Never) || self.chain.next == 1 {
                return Ok(());
            }
            match self.place_seal().await {
                Ok(_) => {
                    self.lanes.set_head(&self.chain.id, None);
                    self.open_new();
                    return Ok(());
                }
                Err(failure) => {
                    let error = &failure as &dyn std::error::Error;
                    tracing::warn!(chain = %self.chain.id, error, "the seal is not placed yet");
                }
            }
        }
        Err(unavailable())
    }

    fn transaction(&self, actions: &[Action], header: &Header, records: &[Encoded]) -> Vec<Action> {
        let mut all = Vec::with_capacity(actions.len() + 3);
        all.extend_from_slice(actions);
        let batch = batch_item(header, records.iter().map(|record| record.bytes.clone()));
        all.push(self.lanes.records.put(batch, Expected::Absent));
        if self.chain.revision().is_none() {
            all.extend(heads::announce(&self.lanes.records, &self.chain.id, self.chain.opened));
        }
        all
    }

    fn landed(&mut self) -> Appended {
        let batch = self.chain.next;
        if let Some(header) = self.doubt.take() {
            self.chain.previous = header.hash();
            self.chain.next += 1;
            self.chain.written = self.lanes.clock.now();
            self.lanes.set_head(&self.chain.id, Some(batch));
        }
        Appended::Done { chain: self.chain.id.clone(), batch }
    }

    fn open_new(&mut self) {
        self.doubt = None;
        self.lanes.set_head(&self.chain.id, None);
        self.chain = Chain::new(&self.lanes, self.kind);
    }
}

/// Puts `seal` where the next batch of its chain would stand; `revision` is that of the chain's row.
/// None: it stands there now; else what stands there in its place, or the same seal from an
/// earlier attempt.
///
/// # Errors
/// AUDIT_UNAVAILABLE when it is not known to have happened.
pub(super) async fn place_seal(
    lanes: &Lanes,
    seal: &Header,
    opened: Timestamp,
    revision: Option<u64>,
) -> Result<Option<Item>, Failure> {
    let Lanes { records, clock, settings, .. } = lanes;
    let item = || records.put(batch_item(seal, []), Expected::Absent);
    let mut actions = vec![item()];
    actions.extend(heads::close(records, &seal.chain, opened, seal.batch, revision));
    let deadline = clock.deadline(settings.settle_timeout);
    match lanes.write(actions, deadline).await.map_err(lost)? {
        Written::Committed => return Ok(None),
        Written::Unknown => return Err(unavailable()),
        Written::Conflict { index: 0, current } => return Ok(current),
        // The chain's row is gone: it was sealed, and has left for the archive since.
        Written::Conflict { current: None, .. } if revision.is_some() => return Ok(None),
        Written::Conflict { .. } => {}
    }
    // The chain's row is not as this lane left it: the doubtful batch made it, or somebody else
    // changed it. The batch's own place decides.
    let found = records.get(&[batch_key(&seal.chain, seal.batch)], deadline).await.map_err(lost)?;
    if let Some(item) = found.into_iter().flatten().next() {
        return Ok(Some(item));
    }
    match lanes.write(vec![item()], deadline).await.map_err(lost)? {
        Written::Committed => Ok(None),
        Written::Unknown => Err(unavailable()),
        Written::Conflict { current, .. } => Ok(current),
    }
}

/// AUDIT_UNAVAILABLE, worth a retry in a second.
pub(super) fn unavailable() -> Failure {
    Failure::new(Reason::AuditUnavailable).retry_after(Duration::from_secs(1))
}

fn lost(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    unavailable().caused_by(error)
}
