//! The log's work in the background, under the sequencer's lease: batches in order, the
//! organizations' index, projections, and the seals of boots that are gone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    AuditLog,
    archive::{format::Chains, last_root},
    batch::{BatchKind, ChainId, Header},
    heads::Head,
    index::Indexer,
    log::{Entry, entries, open_chains},
    reader::find_head,
    sequencer::{Advanced, Sequencer},
    writer::{Lanes, place_seal},
};
use crate::{
    domain::error::{Failure, Reason},
    repository::{
        lease::{Lease, Role, tell_failure},
        projection::Projections,
        replicas::BEAT_EVERY,
    },
    store::Action,
};

/// How often the log is put in order.
const TICK: Duration = Duration::from_millis(250);
/// The same where several servers share a store: it is asked for each chain of the others.
const SHARED_TICK: Duration = Duration::from_secs(1);
/// The longest that is waited after ticks that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// How long one step of a tick may take.
const STEP: Duration = Duration::from_secs(5);
/// The longest that is waited after folding failed: what follows from the log can wait, the log can't.
const AFTER_FOLD_FAILURE: Duration = Duration::from_secs(60);
/// How long a tick may read the log for projections that are behind: what is fresh comes first.
const CATCH_UP: Duration = Duration::from_millis(50);

/// The log's background work; one of these for each server.
#[derive(Debug)]
pub struct AuditTasks {
    log: AuditLog,
    lease: Option<Lease>,
    /// When chains of servers that are gone are looked for again; None: no more.
    past_due: Option<Instant>,
    sequencer: Sequencer,
    indexer: Indexer,
    projections: Projections,
    fold_failed: Option<FoldFailed>,
}

/// That folding failed.
#[derive(Clone, Copy, Debug)]
struct FoldFailed {
    /// It is not tried before then.
    until: Option<Instant>,
    /// How long the wait until then is.
    wait: Duration,
}

impl AuditTasks {
    /// That of `log`.
    #[must_use]
    pub fn new(log: &AuditLog) -> Self {
        let lanes = || Arc::clone(&log.0.lanes);
        Self {
            log: log.clone(),
            lease: None,
            past_due: Some(log.0.lanes.clock.instant()),
            sequencer: Sequencer::new(lanes()),
            indexer: Indexer::new(lanes()),
            projections: Projections::default(),
            fold_failed: None,
        }
    }

    /// Runs it until `stop`, and then once more, so that seals are indexed: cancel `stop` after
    /// [`AuditLog::close`].
    pub async fn run(mut self, stop: CancellationToken) {
        let tick = if self.log.replicas().is_alone() { TICK } else { SHARED_TICK };
        let mut wait = Duration::ZERO;
        loop {
            let is_last = stop.is_cancelled();
            let pace = if is_last { Pace::Last } else { Pace::Gentle };
            wait = match self.paced_tick(pace).await {
                Ok(true) => Duration::ZERO,
                Ok(false) => tick,
                Err(failure) => {
                    tell_failure(&failure, wait > tick, "the audit log is not put in order");
                    wait.max(tick).saturating_mul(2).min(AFTER_FAILURE)
                }
            };
            if is_last {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.log.0.poked.notified(), if wait == tick => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Puts everything in order that is there, indexes and folds it.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, RECORD_REJECTED; the next tick begins where this one ended.
    pub async fn tick(&mut self) -> Result<(), Failure> {
        self.paced_tick(Pace::Whole).await.map(|_| ())
    }

    /// Takes the lease, and gives what must hold of every write under it; None while another server
    /// that lives has it.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, RECORD_REJECTED; WRITE_CONFLICT when another was faster.
    pub async fn lead(&mut self) -> Result<Option<Action>, Failure> {
        Ok(self.leased().await?.map(|lease| lease.check()))
    }

    async fn leased(&mut self) -> Result<Option<Lease>, Failure> {
        if self.lease.is_none() {
            let lanes = &self.log.0.lanes;
            self.lease = lanes.replicas.take(Role::Sequencer, lanes.clock.deadline(STEP)).await?;
        }
        Ok(self.lease.clone())
    }

    /// One tick; whether there may be more to do at once.
    async fn paced_tick(&mut self, pace: Pace) -> Result<bool, Failure> {
        let ended = self.run_tick(pace).await;
        if ended.is_err() {
            self.lease = None;
            let kept = (self.past_due, self.fold_failed);
            *self = Self::new(&self.log);
            (self.past_due, self.fold_failed) = kept;
        }
        ended
    }

    async fn run_tick(&mut self, pace: Pace) -> Result<bool, Failure> {
        let Some(lease) = self.leased().await? else { return Ok(false) };
        let lanes = Arc::clone(&self.log.0.lanes);
        let deadline = || lanes.clock.deadline(STEP);
        let now = lanes.clock.instant();
        if self.past_due.is_some_and(|due| due <= now) {
            seal_past(&lanes).await?;
            // Where this server is alone, nobody dies beside it.
            self.past_due = now.checked_add(BEAT_EVERY).filter(|_| !lanes.replicas.is_alone());
        }
        loop {
            let Advanced { entries: fresh, is_more } = self.sequencer.advance(&lease, deadline()).await?;
            let end = loop {
                let (position, is_more) = self.indexer.advance(&lease, &fresh, deadline()).await?;
                self.log.0.indexed.send_if_modified(|indexed| std::mem::replace(indexed, position) != position);
                if !is_more {
                    break position;
                }
            };
            self.try_fold(&lanes, &lease, (&fresh, end), pace).await?;
            // Others may write on and on: between two rows there is a look at what else is due.
            if !is_more || pace == Pace::Gentle {
                return Ok(is_more);
            }
        }
    }

    /// Folds, unless that failed just now. What hinders it does not hold up the order of the log:
    /// only who wants everything done is told.
    async fn try_fold(
        &mut self,
        lanes: &Lanes,
        lease: &Lease,
        found: (&[Entry], u64),
        pace: Pace,
    ) -> Result<(), Failure> {
        let now = lanes.clock.instant();
        let rests = self.fold_failed.and_then(|failed| failed.until).is_some_and(|until| now < until);
        if rests && pace == Pace::Gentle {
            return Ok(());
        }
        let Err(failure) = self.fold(lanes, lease, found, pace).await else {
            self.fold_failed = None;
            return Ok(());
        };
        self.projections = Projections::default();
        if pace == Pace::Whole {
            return Err(failure);
        }
        // The lease may be lost: the next tick asks for another.
        if failure.reason == Reason::WriteConflict {
            self.lease = None;
        }
        let wait = self.fold_failed.map_or(AFTER_FAILURE, |failed| failed.wait.saturating_mul(2));
        let wait = wait.min(AFTER_FOLD_FAILURE);
        self.fold_failed = Some(FoldFailed { until: now.checked_add(wait), wait });
        tracing::warn!(
            error = &failure as &dyn std::error::Error,
            "last uses, usage and consumers do not follow the audit log"
        );
        Ok(())
    }

    /// Takes in `fresh`, and what stands in the log before it, up to position `end`; writes what
    /// comes of it, as far as it is time for that.
    async fn fold(
        &mut self,
        lanes: &Lanes,
        lease: &Lease,
        (fresh, end): (&[Entry], u64),
        pace: Pace,
    ) -> Result<(), Failure> {
        let (records, deadline) = (&lanes.records, || lanes.clock.deadline(STEP));
        let began = lanes.clock.instant();
        loop {
            let next = self.projections.next(records, deadline()).await?;
            if next > end {
                // All that is in order is taken.
                if let Some(until) = self.sequencer.until() {
                    self.projections.reached(until);
                }
                break;
            }
            if fresh.first().is_some_and(|entry| entry.position <= next) {
                self.projections.take(fresh);
            } else {
                let read = entries(records, next, deadline()).await?;
                if read.is_empty() {
                    break;
                }
                self.projections.take(&read);
            }
            if self.projections.is_full() {
                self.write_projections(lanes, lease).await?;
            }
            if pace != Pace::Whole && lanes.clock.instant().saturating_duration_since(began) > CATCH_UP {
                break;
            }
        }
        if pace != Pace::Gentle || self.projections.is_due(lanes.clock.instant()) {
            self.write_projections(lanes, lease).await?;
        }
        Ok(())
    }

    async fn write_projections(&mut self, lanes: &Lanes, lease: &Lease) -> Result<(), Failure> {
        let began = lanes.clock.instant();
        let deadline = || lanes.clock.deadline(STEP);
        let write = |actions| lanes.commit(actions, deadline());
        self.projections.write(&lanes.records, lease, write, lanes.clock.now(), deadline).await?;
        let now = lanes.clock.instant();
        self.projections.rest(now, now.saturating_duration_since(began));
        Ok(())
    }
}

/// How eagerly a tick folds the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// So that it disturbs nobody; the rest is for later ticks.
    Gentle,
    /// The same, but what was read is written: nobody comes after.
    Last,
    /// Everything that is there.
    Whole,
}

/// Seals the chains that servers left open which are gone: every earlier one, where this one is alone.
async fn seal_past(lanes: &Lanes) -> Result<(), Failure> {
    let deadline = || lanes.clock.deadline(STEP);
    let mut past = open_chains(&lanes.records, deadline()).await?;
    lanes.replicas.look(deadline()).await?;
    past.retain(|chain| !lanes.replicas.is_alive(chain.boot()));
    let needed: Vec<_> = past.iter().map(ChainId::boot).collect();
    lanes.replicas.forget_dead(&needed, deadline()).await?;
    if past.is_empty() {
        return Ok(());
    }
    let archived = match last_root(&lanes.records, deadline()).await {
        Ok(root) => root.map(|root| root.open).unwrap_or_default(),
        // Chains of which nothing is left can't be sealed then; the others are.
        Err(failure) if failure.reason == Reason::RecordRejected => {
            tracing::error!("the last root of the archive does not verify");
            Chains::default()
        }
        Err(failure) => return Err(failure),
    };
    for chain in past {
        match seal_chain(lanes, &chain, &archived).await {
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

/// `archived`: the last batches that have left of the chains that go on.
async fn seal_chain(lanes: &Lanes, chain: &ChainId, archived: &Chains) -> Result<(), Failure> {
    const ATTEMPTS: usize = 5;
    for _ in 0..ATTEMPTS {
        let deadline = lanes.clock.deadline(STEP);
        let row = lanes.records.get_verified(Head::key(chain), deadline).await?;
        let head = row.as_ref().and_then(Head::read).ok_or(Reason::RecordRejected)?;
        if head.sealed.is_some() {
            return Ok(());
        }
        let left = archived.get(chain);
        let last = find_head(&lanes.records, chain, left.map_or(0, |left| left.last), deadline).await?;
        let (last, hash) = match (last, left) {
            (Some(last), _) if last.header.kind == BatchKind::Seal => return Ok(()),
            (Some(last), _) => (last.header.batch, last.header.hash()),
            (None, Some(left)) => (left.last, left.hash),
            (None, None) => return Err(Reason::RecordRejected.into()),
        };
        let seal = Header::seal(chain.clone(), last + 1, hash);
        // A late batch of that boot may have come first: then the seal goes behind it.
        if place_seal(lanes, &seal, head.opened, Some(head.revision)).await?.is_none() {
            return Ok(());
        }
    }
    Err(Reason::AuditUnavailable.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::ids::KeyId,
        repository::{
            audit::{
                batch::{batch_item, batch_key},
                index::IndexState,
                reader,
                testing::{TinyStore, draft, log_on, org, records, soon},
            },
            last_used,
            records::Expected,
        },
        store::{ItemKey, Written},
    };

    #[tokio::test]
    async fn what_hinders_folding_does_not_hold_up_the_order() {
        let store = Arc::new(TinyStore::default());
        let log = log_on(&store);
        let mut tasks = AuditTasks::new(&log);
        log.append(draft("acme", "orgs/acme/keys/k1"), soon()).await.unwrap();
        tasks.tick().await.unwrap();
        let mark = ItemKey::new("PROJ", "usage");
        let sound = store.tamper(|items| items[&mark].clone());
        store.tamper(|items| items.get_mut(&mark).unwrap().mac = None);
        let mut tasks = AuditTasks::new(&log);
        for position in 3..6 {
            log.append(draft("acme", "orgs/acme/keys/k2"), soon()).await.unwrap();
            tasks.paced_tick(Pace::Gentle).await.unwrap();
            assert_eq!(IndexState::load(&records(&store), soon()).await.unwrap().next, position);
        }
        assert_eq!(tasks.fold_failed.unwrap().wait, AFTER_FAILURE, "it is not tried again at once");
        // Who asks for all of it is told.
        assert_eq!(tasks.tick().await.unwrap_err().reason, Reason::RecordRejected);

        store.tamper(|items| items.insert(mark, sound));
        tasks.paced_tick(Pace::Last).await.unwrap();
        let keys = [KeyId::parse("key", "k2").unwrap()];
        let used = last_used::keys(&records(&store), &org("acme"), &keys, soon()).await.unwrap();
        assert!(used[0].is_some());
        assert!(tasks.fold_failed.is_none());
    }

    #[tokio::test]
    async fn a_gentle_tick_ends_with_one_row() {
        let store = Arc::new(TinyStore::default());
        let log = log_on(&store);
        for _ in 0..70 {
            log.append(draft("acme", "orgs/acme/keys/k1"), soon()).await.unwrap();
        }
        let mut tasks = AuditTasks::new(&log);
        assert!(tasks.paced_tick(Pace::Gentle).await.unwrap(), "there is more");
        assert_eq!(IndexState::load(&records(&store), soon()).await.unwrap().next, 65);
        assert!(!tasks.paced_tick(Pace::Gentle).await.unwrap());
        assert_eq!(IndexState::load(&records(&store), soon()).await.unwrap().next, 71);
    }

    /// The seal of a chain whose row was not as its lane had left it stands there alone.
    #[tokio::test]
    async fn nothing_is_placed_behind_a_seal_that_its_row_does_not_know() {
        let store = Arc::new(TinyStore::default());
        let receipt = log_on(&store).append(draft("acme", "orgs/acme/keys/k1"), soon()).await.unwrap();
        let chain = ChainId::parse(&receipt.chain).unwrap();
        let last = reader::batch(&records(&store), &chain, 1, soon()).await.unwrap().unwrap();
        let seal = batch_item(&Header::seal(chain.clone(), 2, last.header.hash()), []);
        let put = records(&store).put(seal, Expected::Absent);
        let log = log_on(&store);
        assert_eq!(log.0.lanes.write(vec![put], soon()).await.unwrap(), Written::Committed);
        AuditTasks::new(&log).tick().await.unwrap();
        assert!(store.tamper(|items| !items.contains_key(&batch_key(&chain, 3))));
    }
}
