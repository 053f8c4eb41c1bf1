//! The log's work in the background, under the sequencer's lease: batches in order, the
//! organizations' index, projections, and the seals of boots that are gone.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    AuditLog,
    batch::{BatchKind, ChainId, Header},
    heads::Head,
    index::Indexer,
    log::{Entry, Sequencer, entries, open_chains},
    reader::find_head,
    writer::{Lanes, place_seal},
};
use crate::{
    domain::error::{Failure, Reason},
    repository::{
        last_used::{Fold, Watermark},
        lease::{Lease, Role},
    },
    store::Written,
};

/// How often the log is put in order.
const TICK: Duration = Duration::from_millis(250);
/// The longest that is waited after ticks that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// How long one step of a tick may take.
const STEP: Duration = Duration::from_secs(5);

/// The log's background work; one of these for each server.
#[derive(Debug)]
pub struct AuditTasks {
    log: AuditLog,
    lease: Option<Lease>,
    is_past_sealed: bool,
    sequencer: Sequencer,
    indexer: Indexer,
    folded: Option<Watermark>,
}

impl AuditTasks {
    /// That of `log`.
    #[must_use]
    pub fn new(log: &AuditLog) -> Self {
        let lanes = || Arc::clone(&log.0.lanes);
        Self {
            log: log.clone(),
            lease: None,
            is_past_sealed: false,
            sequencer: Sequencer::new(lanes()),
            indexer: Indexer::new(lanes()),
            folded: None,
        }
    }

    /// Runs it until `stop`, and then once more, so that seals are indexed: cancel `stop` after
    /// [`AuditLog::close`].
    pub async fn run(mut self, stop: CancellationToken) {
        let mut wait = Duration::ZERO;
        loop {
            let is_last = stop.is_cancelled();
            wait = match self.tick().await {
                Ok(()) => TICK,
                Err(failure) => {
                    tracing::warn!(error = &failure as &dyn std::error::Error, "the audit log is not put in order");
                    wait.max(TICK).saturating_mul(2).min(AFTER_FAILURE)
                }
            };
            if is_last {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.log.0.poked.notified(), if wait == TICK => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Puts everything in order that is there, indexes and folds it.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, RECORD_REJECTED; the next tick begins where this one ended.
    pub async fn tick(&mut self) -> Result<(), Failure> {
        let ended = self.run_tick().await;
        if ended.is_err() {
            self.lease = None;
            *self = Self { is_past_sealed: self.is_past_sealed, ..Self::new(&self.log) };
        }
        ended
    }

    async fn run_tick(&mut self) -> Result<(), Failure> {
        let lanes = Arc::clone(&self.log.0.lanes);
        let deadline = || lanes.clock.deadline(STEP);
        let lease = match &self.lease {
            Some(lease) => lease.clone(),
            None => {
                let role = Role::Sequencer;
                let taken = Lease::take(&lanes.records, &*lanes.entropy, role, &lanes.boot, deadline()).await?;
                let Some(lease) = taken else { return Ok(()) };
                self.lease.insert(lease).clone()
            }
        };
        if !self.is_past_sealed {
            seal_past(&lanes).await?;
            self.is_past_sealed = true;
        }
        loop {
            let fresh = self.sequencer.advance(&lease, deadline()).await?;
            loop {
                let (position, is_more) = self.indexer.advance(&lease, &fresh, deadline()).await?;
                self.log.0.indexed.send_if_modified(|indexed| std::mem::replace(indexed, position) != position);
                if !is_more {
                    break;
                }
            }
            while self.fold(&lanes, &lease, &fresh).await? {}
            if fresh.is_empty() {
                return Ok(());
            }
        }
    }

    /// Folds `fresh`, or what stands in the log before it; whether there may be more.
    async fn fold(&mut self, lanes: &Lanes, lease: &Lease, fresh: &[Entry]) -> Result<bool, Failure> {
        let (records, deadline) = (&lanes.records, lanes.clock.deadline(STEP));
        let watermark = match self.folded.take() {
            Some(watermark) => watermark,
            None => Watermark::load(records, deadline).await?,
        };
        let is_next = fresh.first().is_some_and(|entry| entry.position == watermark.next);
        let read = if is_next { Vec::new() } else { entries(records, watermark.next, deadline).await? };
        let entries = if is_next { fresh } else { &read };
        let Some(last) = entries.last() else {
            self.folded = Some(watermark);
            return Ok(false);
        };
        let (put, moved) = watermark.put(records, last.position + 1);
        let write = |actions| async move {
            match lanes.write(actions, deadline).await? {
                Written::Committed => Ok(()),
                Written::Conflict { .. } => Err(Reason::WriteConflict.into()),
                Written::Unknown => Err(Reason::StoreUnavailable.into()),
            }
        };
        Fold::of(entries).write(records, lease, put, write, deadline).await?;
        self.folded = Some(moved);
        Ok(!is_next)
    }
}

/// Seals the chains that earlier boots left open: on an exclusive store they are gone for good.
async fn seal_past(lanes: &Lanes) -> Result<(), Failure> {
    let deadline = || lanes.clock.deadline(STEP);
    for chain in open_chains(&lanes.records, deadline()).await? {
        if chain.boot() == lanes.boot {
            continue;
        }
        match seal_chain(lanes, &chain).await {
            Ok(()) => {}
            // One broken chain does not hold up the others; verification says what is wrong with it.
            Err(failure) if failure.reason == Reason::RecordRejected => {
                tracing::error!(%chain, "a chain of an earlier boot does not verify and can't be sealed");
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

async fn seal_chain(lanes: &Lanes, chain: &ChainId) -> Result<(), Failure> {
    const ATTEMPTS: usize = 5;
    for _ in 0..ATTEMPTS {
        let deadline = lanes.clock.deadline(STEP);
        let row = lanes.records.get_verified(Head::key(chain), deadline).await?;
        let head = row.as_ref().and_then(Head::read).ok_or(Reason::RecordRejected)?;
        if head.sealed.is_some() {
            return Ok(());
        }
        let Some(last) = find_head(&lanes.records, chain, 0, deadline).await? else {
            return Err(Reason::RecordRejected.into());
        };
        if last.header.kind == BatchKind::Seal {
            return Ok(());
        }
        let seal = Header::seal(chain.clone(), last.header.batch + 1, last.header.hash());
        // A late batch of that boot may have come first: then the seal goes behind it.
        if place_seal(lanes, &seal, head.opened, Some(head.revision)).await?.is_none() {
            return Ok(());
        }
    }
    Err(Reason::AuditUnavailable.into())
}
