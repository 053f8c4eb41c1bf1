//! The audit log: its writer ([`AuditLog`]), its order and index ([`AuditTasks`]), and what is read
//! of it ([`reader`]). Knows no caller's rights; the use cases filter.
//!
//! What is kept, and where:
//!
//! | partition | sort | what |
//! |---|---|---|
//! | `A#{chain}#{b / 4096}` | `B#{b}` | a batch: header ([`batch`]) and records ([`record`]), signed |
//! | `A#{chain}#{b / 4096}` | `P#{b}` | the position of a run of batches that begins with b, signed |
//! | `A#HEADS` | chain | opened, sealed; for good, signed |
//! | `A#HEADS` | `REPLICA#`boot | the beat of a server on a shared store ([`replicas`](super::replicas)) |
//! | `A#OPEN` | chain | stands until the chain is indexed to its end |
//! | `A#LOG#{segment}` | position | one tick's runs: the order of all batches, signed ([`log`]) |
//! | `A#SEQ` | `LOG`, `INDEX` | how far the order and the index have come, signed |
//! | `O#org#A#{day}` | position | the organization's records of one batch ([`index`]) |
//! | `O#org#A` | day | the days that the index has rows of |
//! | `A#ROOTS`, `A#SEQ`/`ARCHIVE` | | what stands for the part that has left ([`archive`]) |

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, Notify, Semaphore, mpsc, oneshot, watch},
    time::timeout_at,
};

use crate::{
    domain::{
        audit::{AuditDraft, Receipt},
        clock::{Clock, Deadline, Entropy},
        error::{Failure, Reason},
        ids::OrgId,
    },
    repository::{records::Records, replicas::Replicas},
    store::{Action, ITEMS_MAX, Item},
};

pub mod archive;
pub mod batch;
pub mod heads;
pub mod index;
pub mod log;
#[cfg(test)]
mod order_tests;
pub mod reader;
pub mod record;
#[cfg(test)]
mod replica_tests;
mod sequencer;
mod shared_lane;
mod tasks;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod tree;
pub mod verify;
#[cfg(test)]
mod verify_tests;
mod writer;

pub use record::{AuditRecord, RecordTime, outcome_number};
pub use tasks::AuditTasks;

use batch::LaneKind;
use shared_lane::{Note, Overflow, Request, SharedLane};
use writer::{Appended, ChainWriter, Lanes, unavailable};

/// The most actions that [`AuditLog::commit`] takes: the batch and a new chain's rows go with them.
pub const COMMIT_ACTIONS_MAX: usize = ITEMS_MAX - 3;

/// The most records that [`AuditLog::append_all`] takes: as long as records may be, they fit into an
/// empty batch.
pub const APPEND_RECORDS_MAX: usize = batch::BATCH_BYTES_MAX / record::RECORD_BYTES_MAX;

/// Where the records of single retrievals go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sink {
    /// Into the log.
    #[default]
    Log,
    /// Nowhere: what a retrieval costs beside its record is measured so. No setting leads here.
    Nowhere,
}

/// How the log is written.
#[derive(Clone, Debug)]
pub struct AuditSettings {
    /// Where the records of single retrievals go.
    pub sink: Sink,
    /// Lanes for retrievals and denials, 1 or 2.
    pub shared_lanes: usize,
    /// Mutations at one time; each has a lane of its own.
    pub mutation_lanes: usize,
    /// Records that may wait for a shared lane.
    pub queue: usize,
    /// Denials that may wait; what overflows is counted.
    pub denials: usize,
    /// The longest that one put of a shared lane may take.
    pub put_timeout: Duration,
    /// The longest that finding out a write's outcome may take.
    pub settle_timeout: Duration,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            sink: Sink::Log,
            shared_lanes: 1,
            mutation_lanes: 16,
            queue: 8_192,
            denials: 1_024,
            put_timeout: Duration::from_secs(2),
            settle_timeout: Duration::from_secs(1),
        }
    }
}

/// How a mutation ended together with its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Both are durable.
    Done(Receipt),
    /// Neither happened: the condition of the caller's action at `index` did not hold.
    Conflict {
        /// Which of the caller's actions.
        index: usize,
        /// Its item as it was then.
        current: Option<Item>,
    },
}

/// Writes the audit log. Cheap to clone; its lanes run in tasks of their own.
#[derive(Clone)]
pub struct AuditLog(Arc<Inner>);

struct Inner {
    lanes: Arc<Lanes>,
    shared: Vec<mpsc::Sender<Request>>,
    notes: mpsc::Sender<Note>,
    overflow: Arc<Overflow>,
    /// Free mutation lanes, the last used last.
    mutation: Mutex<Vec<ChainWriter>>,
    mutation_permits: Arc<Semaphore>,
    /// Wakes the sequencer of this server before its next tick.
    poked: Notify,
    /// Up to which position this server has indexed.
    indexed: watch::Sender<u64>,
}

/// What the log is told of a chain that its own server could not seal.
const UNSEALED: &str = "a chain stays unsealed: the next start, or another server, seals it";

/// Behind so many records the next shared lane is used: about 64 KB, beyond which a put gets slow.
const LANE_DEPTH: usize = 200;

impl AuditLog {
    /// Opens the log for a new boot of this server: its lanes' tasks start now, nothing is written
    /// before the first record.
    ///
    /// # Errors
    /// When the random source gives nothing.
    pub fn open(
        records: Records,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        settings: AuditSettings,
    ) -> Result<Self, Failure> {
        let lanes = Arc::new(Lanes::new(records, clock, entropy, settings)?);
        let settings = &lanes.settings;
        let overflow = Arc::new(Overflow::default());
        let (notes, noted) = mpsc::channel(settings.denials.max(1));
        let mut noted = Some(noted);
        let shared = (0..settings.shared_lanes.max(1)).map(|_| {
            let (requests, requested) = mpsc::channel(settings.queue.max(1));
            // Denials go to the first lane alone.
            let notes = noted.take().unwrap_or_else(|| mpsc::channel(1).1);
            let lane = SharedLane::new(Arc::clone(&lanes), requested, notes, Arc::clone(&overflow));
            tokio::spawn(lane.run());
            requests
        });
        let shared = shared.collect();
        let mutation_permits = Arc::new(Semaphore::new(settings.mutation_lanes.max(1)));
        let mutation = Mutex::default();
        let (poked, indexed) = (Notify::new(), watch::Sender::new(0));
        Ok(Self(Arc::new(Inner { lanes, shared, notes, overflow, mutation, mutation_permits, poked, indexed })))
    }

    /// This start's id, 16 hex digits: for whom leases are taken.
    #[must_use]
    pub fn boot(&self) -> &str {
        &self.0.lanes.boot
    }

    /// This server among those of its vault.
    #[must_use]
    pub fn replicas(&self) -> &Replicas {
        &self.0.lanes.replicas
    }

    /// Appends a record on a shared lane; durable on return.
    ///
    /// # Errors
    /// AUDIT_UNAVAILABLE: nothing may be released then.
    pub async fn append(&self, draft: AuditDraft, deadline: Deadline) -> Result<Receipt, Failure> {
        let record = record::encode(draft, &*self.0.lanes.entropy).map_err(no_entropy)?;
        if self.0.lanes.settings.sink == Sink::Nowhere {
            return Ok(Receipt { chain: String::new(), sequence: 0, leaf_hash: record.leaf });
        }
        let (answer, answered) = oneshot::channel();
        let durable = async {
            self.shared_lane()?.send(Request::Append(record, answer)).await.ok()?;
            answered.await.ok().flatten()
        };
        timeout_at(deadline.instant().into(), durable).await.ok().flatten().ok_or_else(unavailable)
    }

    /// Appends records on a shared lane, all in one batch; durable on return. Each has its receipt,
    /// in order.
    ///
    /// # Errors
    /// AUDIT_UNAVAILABLE: none of them may be released then. INTERNAL for more than
    /// [`APPEND_RECORDS_MAX`], which no batch is sure to hold.
    pub async fn append_all(&self, drafts: Vec<AuditDraft>, deadline: Deadline) -> Result<Vec<Receipt>, Failure> {
        if drafts.is_empty() {
            return Ok(Vec::new());
        }
        if drafts.len() > APPEND_RECORDS_MAX {
            return Err(Failure::new(Reason::Internal).caused_by("too many records at once"));
        }
        let entropy = &*self.0.lanes.entropy;
        let records: Result<Vec<_>, _> = drafts.into_iter().map(|draft| record::encode(draft, entropy)).collect();
        let records = records.map_err(no_entropy)?;
        let (answer, answered) = oneshot::channel();
        let durable = async {
            self.shared_lane()?.send(Request::AppendAll(records, answer)).await.ok()?;
            answered.await.ok().flatten()
        };
        timeout_at(deadline.instant().into(), durable).await.ok().flatten().ok_or_else(unavailable)
    }

    /// Queues a denial's record without waiting; what overflows the bounded queue is counted, and
    /// the count recorded.
    pub fn note(&self, draft: AuditDraft) {
        let org = draft.org.clone();
        let noted = match record::encode(draft, &*self.0.lanes.entropy) {
            Ok(record) => self.0.notes.try_send(Note::Denial(org.clone(), record)).is_ok(),
            Err(_) => false,
        };
        if !noted {
            self.count(&org);
        }
    }

    /// Counts a denial that needs no record of its own; the count is recorded within about a second.
    pub fn count(&self, org: &OrgId) {
        if self.0.overflow.add(org.clone(), 1) {
            // A lane whose queue is full is not at rest.
            let _ = self.0.notes.try_send(Note::Counted);
        }
    }

    /// Writes `actions` (at most [`COMMIT_ACTIONS_MAX`]) and their record, as a batch of its own on
    /// a mutation lane, in one transaction. `draft.revision` is what the record says. Once begun it
    /// runs to its end, whether the caller waits or not.
    ///
    /// # Errors
    /// AUDIT_UNAVAILABLE when it did not happen, or its outcome could not be read back in time;
    /// RECORD_REJECTED when one of `actions` met an item that can't be read; STORE_UNAVAILABLE when too
    /// many wanted their items at once.
    pub async fn commit(&self, actions: Vec<Action>, draft: AuditDraft, deadline: Deadline) -> Result<Commit, Failure> {
        if actions.len() > COMMIT_ACTIONS_MAX {
            return Err(Failure::new(Reason::Internal).caused_by("a mutation of too many actions"));
        }
        let record = record::encode(draft, &*self.0.lanes.entropy).map_err(no_entropy)?;
        let permit = timeout_at(deadline.instant().into(), Arc::clone(&self.0.mutation_permits).acquire_owned());
        let Ok(Ok(permit)) = permit.await else { return Err(unavailable()) };
        let log = self.clone();
        let task = tokio::spawn(async move {
            let ended = log.commit_on_lane(&actions, record, deadline).await;
            drop(permit);
            ended
        });
        match timeout_at(deadline.instant().into(), task).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(panicked)) => Err(Failure::new(Reason::Internal).caused_by(panicked)),
            Err(_) => Err(unavailable()),
        }
    }

    async fn commit_on_lane(
        &self,
        actions: &[Action],
        record: record::Encoded,
        deadline: Deadline,
    ) -> Result<Commit, Failure> {
        let lanes = &self.0.lanes;
        let free = self.0.mutation.lock().await.pop();
        let mut writer = free.unwrap_or_else(|| ChainWriter::new(Arc::clone(lanes), LaneKind::Mutation));
        let write_by = write_by(&*lanes.clock, deadline);
        let leaf_hash = record.leaf;
        let ended = writer.append(actions, &[record], write_by).await;
        self.0.mutation.lock().await.push(writer);
        Ok(match ended? {
            Appended::Done { chain, batch } => {
                Commit::Done(Receipt { chain: chain.to_string(), sequence: batch::sequence(batch, 0), leaf_hash })
            }
            Appended::Conflict { index, current } => Commit::Conflict { index, current },
        })
    }

    /// Whether records can be written now: what health says. Found out again every second while
    /// they can't.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.0.lanes.is_writable()
    }

    /// Writes what is queued and seals this boot's chains. Whoever appends afterwards is refused.
    pub async fn close(&self) {
        for lane in &self.0.shared {
            let (closed, done) = oneshot::channel();
            if lane.send(Request::Close(closed)).await.is_ok() {
                let _ = done.await;
            }
        }
        let lanes = u32::try_from(self.0.lanes.settings.mutation_lanes.max(1)).unwrap_or(u32::MAX);
        let idle = self.0.mutation_permits.acquire_many(lanes).await;
        self.0.mutation_permits.close();
        drop(idle);
        for mut writer in self.0.mutation.lock().await.drain(..) {
            if let Err(failure) = writer.seal().await {
                tracing::warn!(error = &failure as &dyn std::error::Error, "{UNSEALED}");
            }
        }
    }

    /// Asks for what is written to be put in order and indexed now; nothing is awaited.
    pub fn poke(&self) {
        self.0.poked.notify_one();
    }

    /// Changes whenever this server's sequencer has indexed more. Where another server is the
    /// sequencer it stands still: who waits on it looks by himself from time to time.
    #[must_use]
    pub fn indexed(&self) -> watch::Receiver<u64> {
        self.0.indexed.subscribe()
    }

    fn shared_lane(&self) -> Option<&mpsc::Sender<Request>> {
        let depth = |lane: &mpsc::Sender<Request>| lane.max_capacity() - lane.capacity();
        let shallow = self.0.shared.iter().find(|lane| depth(lane) < LANE_DEPTH);
        shallow.or_else(|| self.0.shared.iter().min_by_key(|lane| depth(lane)))
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AuditLog").field(&self.0.lanes).finish()
    }
}

/// When a write must have ended: a fifth of the time is kept to learn the outcome of one that was lost.
fn write_by(clock: &dyn Clock, deadline: Deadline) -> Deadline {
    clock.deadline(clock.left(deadline) * 4 / 5)
}

fn no_entropy(error: crate::domain::clock::EntropyError) -> Failure {
    Failure::new(Reason::Internal).caused_by(error)
}
