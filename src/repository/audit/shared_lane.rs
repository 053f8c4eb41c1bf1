//! A shared lane: a task that writes what queued while its last write was in flight as one batch.
//! No timer: at rest a record is written at once, under load batches form by themselves.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    UNSEALED,
    batch::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, LaneKind, sequence},
    record::{Encoded, RECORD_BYTES_MAX, encode},
    writer::{Appended, ChainWriter, Lanes},
};
use crate::domain::{
    audit::{Action, AuditDraft, Outcome, Receipt},
    error::Failure,
    ids::OrgId,
};

/// How often a lane that could not write tries again by itself.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How often a batch lets calls that are ready go first: bounds what one record waits for others.
const READY_ROUNDS: usize = 8;

/// What a shared lane is asked.
pub(super) enum Request {
    /// To write a record and say where it stands; None: it could not.
    Append(Encoded, oneshot::Sender<Option<Receipt>>),
    /// To write records in one batch, and say where each stands; None: it could not.
    AppendAll(Vec<Encoded>, oneshot::Sender<Option<Vec<Receipt>>>),
    /// To write what is queued, seal the chain and end.
    Close(oneshot::Sender<()>),
}

/// A denial: nobody waits for its record.
pub(super) enum Note {
    /// One with a record of its own.
    Denial(OrgId, Encoded),
    /// The first that is only counted since the last count was taken: a lane at rest has to know.
    Counted,
}

/// Denials that were not written one by one, counted for each organization.
#[derive(Debug, Default)]
pub(super) struct Overflow(Mutex<BTreeMap<OrgId, u64>>);

impl Overflow {
    /// Counts; whether nothing was counted before.
    pub(super) fn add(&self, org: OrgId, count: u64) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = counts.is_empty();
        let total = counts.entry(org).or_default();
        *total = total.saturating_add(count);
        was_empty
    }
    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
    fn take(&self, most: usize) -> Vec<(OrgId, u64)> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(entry) = counts.pop_first()
        {
            taken.push(entry);
        }
        taken
    }
}

/// For whom a record of the batch was written, or, of a caller of many, so many records.
enum Waiter {
    Caller(oneshot::Sender<Option<Receipt>>),
    CallerOf(usize, oneshot::Sender<Option<Vec<Receipt>>>),
    Nobody(OrgId, u64),
}

#[derive(Default)]
struct Gathered {
    records: Vec<Encoded>,
    waiters: Vec<Waiter>,
    bytes: usize,
}

impl Gathered {
    fn has_room(&self) -> bool {
        self.has_room_for(1, RECORD_BYTES_MAX)
    }
    fn has_room_for(&self, records: usize, bytes: usize) -> bool {
        self.records.len() + records <= BATCH_RECORDS_MAX && self.bytes + bytes <= BATCH_BYTES_MAX
    }
    fn push(&mut self, record: Encoded, waiter: Waiter) {
        self.bytes += record.bytes.len();
        self.records.push(record);
        self.waiters.push(waiter);
    }
    fn push_all(&mut self, records: Vec<Encoded>, caller: oneshot::Sender<Option<Vec<Receipt>>>) {
        self.bytes += bytes_of(&records);
        self.waiters.push(Waiter::CallerOf(records.len(), caller));
        self.records.extend(records);
    }
}

fn bytes_of(records: &[Encoded]) -> usize {
    records.iter().map(|record| record.bytes.len()).sum()
}

/// The task of one shared lane.
pub(super) struct SharedLane {
    lanes: Arc<Lanes>,
    writer: ChainWriter,
    requests: mpsc::Receiver<Request>,
    /// What did not fit into the last batch: it begins the next.
    held: Option<Request>,
    notes: mpsc::Receiver<Note>,
    overflow: Arc<Overflow>,
    closing: Option<oneshot::Sender<()>>,
}

impl SharedLane {
    pub(super) fn new(
        lanes: Arc<Lanes>,
        requests: mpsc::Receiver<Request>,
        notes: mpsc::Receiver<Note>,
        overflow: Arc<Overflow>,
    ) -> Self {
        let writer = ChainWriter::new(Arc::clone(&lanes), LaneKind::Shared);
        Self { lanes, writer, requests, held: None, notes, overflow, closing: None }
    }

    /// Runs until it is closed, or until every handle of the log is gone.
    pub(super) async fn run(mut self) {
        loop {
            let mut batch = Gathered::default();
            let is_probe = !self.lanes.is_writable() || !self.overflow.is_empty();
            let mut is_abandoned = false;
            if let Some(held) = self.held.take() {
                self.take(held, &mut batch);
            } else if self.closing.is_none() {
                tokio::select! {
                    request = self.requests.recv() => match request {
                        Some(request) => self.take(request, &mut batch),
                        None => is_abandoned = true,
                    },
                    Some(note) = self.notes.recv() => match note {
                        Note::Denial(org, record) => batch.push(record, Waiter::Nobody(org, 1)),
                        // It waits for others, but not for ever.
                        Note::Counted => continue,
                    },
                    () = tokio::time::sleep(PROBE_EVERY), if is_probe => self.probe().await,
                }
            }
            self.gather_ready(&mut batch).await;
            self.write(batch).await;
            let is_done = self.held.is_none() && self.requests.is_empty() && self.notes.is_empty();
            if (self.closing.is_some() || is_abandoned) && is_done {
                break;
            }
        }
        if let Err(failure) = self.writer.seal().await {
            tracing::warn!(error = &failure as &dyn std::error::Error, "{UNSEALED}");
        }
        if let Some(closed) = self.closing {
            let _ = closed.send(());
        }
    }

    fn take(&mut self, request: Request, batch: &mut Gathered) {
        match request {
            // A caller who no longer waits was answered AUDIT_UNAVAILABLE, and nothing was released.
            Request::Append(_, caller) if caller.is_closed() => {}
            Request::Append(record, caller) => batch.push(record, Waiter::Caller(caller)),
            Request::AppendAll(_, caller) if caller.is_closed() => {}
            Request::AppendAll(records, caller) if batch.has_room_for(records.len(), bytes_of(&records)) => {
                batch.push_all(records, caller);
            }
            Request::AppendAll(..) => self.held = Some(request),
            Request::Close(closed) => {
                self.requests.close();
                self.notes.close();
                self.closing = Some(closed);
            }
        }
    }

    /// Takes what is queued, and lets calls that are ready to run go first as long as they bring more: a
    /// put costs about the same for one record and for many. Where nobody is ready, this is no wait.
    async fn gather_ready(&mut self, batch: &mut Gathered) {
        for _ in 0..READY_ROUNDS {
            let gathered = batch.records.len();
            tokio::task::yield_now().await;
            self.gather(batch);
            if batch.records.len() == gathered {
                break;
            }
        }
    }

    fn gather(&mut self, batch: &mut Gathered) {
        while batch.has_room()
            && self.held.is_none()
            && let Ok(request) = self.requests.try_recv()
        {
            self.take(request, batch);
        }
        while batch.has_room()
            && let Ok(note) = self.notes.try_recv()
        {
            if let Note::Denial(org, record) = note {
                batch.push(record, Waiter::Nobody(org, 1));
            }
        }
        while batch.has_room() && self.lanes.is_writable() {
            let Some((org, count)) = self.overflow.take(1).pop() else { break };
            match encode(self.overflow_draft(org.clone(), count), &*self.lanes.entropy) {
                Ok(record) => batch.push(record, Waiter::Nobody(org, count)),
                Err(_) => {
                    let _ = self.overflow.add(org, count);
                    break;
                }
            }
        }
    }

    async fn write(&mut self, batch: Gathered) {
        if batch.records.is_empty() {
            return;
        }
        let deadline = self.lanes.clock.deadline(self.lanes.settings.put_timeout);
        let ended = self.writer.append(&[], &batch.records, deadline).await;
        let (chain, number) = match ended {
            Ok(Appended::Done { chain, batch }) => (chain, batch),
            Ok(Appended::Conflict { .. }) | Err(_) => return self.refuse(batch, ended.err()),
        };
        let mut receipts = batch.records.iter().enumerate().map(|(index, record)| Receipt {
            chain: chain.to_string(),
            sequence: sequence(number, index),
            leaf_hash: record.leaf,
        });
        for waiter in batch.waiters {
            match waiter {
                Waiter::Caller(caller) => drop(caller.send(receipts.next())),
                Waiter::CallerOf(count, caller) => drop(caller.send(Some(receipts.by_ref().take(count).collect()))),
                Waiter::Nobody(..) => drop(receipts.next()),
            }
        }
    }

    fn refuse(&self, batch: Gathered, failure: Option<Failure>) {
        let error = failure.as_ref().map(|failure| failure as &dyn std::error::Error);
        tracing::warn!(records = batch.records.len(), error, "a batch of the audit log was not written");
        for waiter in batch.waiters {
            match waiter {
                Waiter::Caller(caller) => drop(caller.send(None)),
                Waiter::CallerOf(_, caller) => drop(caller.send(None)),
                Waiter::Nobody(org, count) => drop(self.overflow.add(org, count)),
            }
        }
    }

    /// Learns whether the log can be written again without a caller's record.
    async fn probe(&mut self) {
        if self.lanes.is_writable() {
            return;
        }
        let deadline = self.lanes.clock.deadline(self.lanes.settings.settle_timeout);
        let is_settled = self.writer.clear_doubt().await.is_ok();
        if is_settled && self.lanes.records.store().status(deadline).await.is_ok() {
            self.lanes.set_writable(true);
        }
    }

    fn overflow_draft(&self, org: OrgId, count: u64) -> AuditDraft {
        AuditDraft {
            outcome: Outcome::Denied,
            details: BTreeMap::from([("count", count.to_string())]),
            ..AuditDraft::of_server(org, self.lanes.clock.now(), Action::DenialsOverflow)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::audit::{
        AuditRecord,
        batch::Batch,
        testing::{TinyStore, draft, log_on, org, soon},
    };

    /// Nobody else's record comes by to take the count along.
    #[tokio::test(start_paused = true)]
    async fn what_is_counted_while_the_lane_is_at_rest_is_recorded() {
        let store = Arc::new(TinyStore::default());
        let log = log_on(&store);
        let counted = || {
            let items: Vec<_> = store.tamper(|items| items.values().cloned().collect());
            let records = items.into_iter().filter_map(Batch::read).flat_map(|batch| batch.records);
            let records = records.map(|bytes| AuditRecord::read(&bytes).unwrap());
            let counts = records.filter(|record| record.action == "audit.denials.overflow");
            counts.map(|record| record.details["count"].clone()).collect::<Vec<_>>()
        };
        log.append(draft("acme", "orgs/acme/keys/k"), soon()).await.unwrap();
        // A lane with nothing to do is at rest by then.
        tokio::time::sleep(PROBE_EVERY * 5).await;
        log.count(&org("acme"));
        log.count(&org("acme"));
        tokio::time::sleep(PROBE_EVERY * 5).await;
        assert_eq!(counted(), ["2"]);
        log.count(&org("acme"));
        tokio::time::sleep(PROBE_EVERY * 5).await;
        assert_eq!(counted(), ["2", "1"]);
    }

    #[test]
    fn a_batch_has_room_for_so_many_records_and_bytes() {
        let of = |records, bytes| Gathered {
            records: vec![Encoded { bytes: Vec::new(), leaf: [0; 32] }; records],
            waiters: Vec::new(),
            bytes,
        };
        for (records, bytes, more_records, more_bytes, has_room) in [
            (0, 0, BATCH_RECORDS_MAX, BATCH_BYTES_MAX, true),
            (BATCH_RECORDS_MAX - 1, 0, 1, 1, true),
            (BATCH_RECORDS_MAX - 1, 0, 2, 1, false),
            (BATCH_RECORDS_MAX, 0, 1, 1, false),
            (1, BATCH_BYTES_MAX - 9, 1, 9, true),
            (1, BATCH_BYTES_MAX - 9, 1, 10, false),
        ] {
            assert_eq!(of(records, bytes).has_room_for(more_records, more_bytes), has_room, "{records} {bytes}");
        }
        assert!(of(1, BATCH_BYTES_MAX - RECORD_BYTES_MAX).has_room());
        assert!(!of(1, BATCH_BYTES_MAX - RECORD_BYTES_MAX + 1).has_room());
        assert!(!of(BATCH_RECORDS_MAX, 0).has_room());
    }
}
