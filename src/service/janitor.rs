//! The janitor: purges deleted keys when their time has come, with a record of each. Which replica
//! does it, a lease decides.

use std::{error::Error, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Parts, vault::purge};
use crate::{
    domain::{
        audit::{Action as Done, AuditDraft},
        clock::{Deadline, Timestamp, random},
        error::{Failure, Reason},
        ids::KeyName,
    },
    repository::{
        keys::due::{self, Due},
        lease::{Lease, Role, tell_failure},
    },
    store::{Action, Condition, WriteId, Written},
};

/// How often the janitor looks.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest that the work on one key may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How far back it looks when nobody looked before: the longest recovery window and more.
const FIRST_LOOK_DAYS: i64 = 100;
/// When a key whose record does not verify is tried again: once it does, it is purged.
const PUT_OFF: Duration = Duration::from_secs(3_600);
/// Rows read at once.
const PAGE: usize = 50;

/// Purges what is due.
#[derive(Clone, Debug)]
pub struct Janitor {
    parts: Parts,
}

impl Janitor {
    /// With these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts }
    }

    /// Looks at the queue now and then until `cancel`, while it has the lease.
    pub async fn run(&self, cancel: CancellationToken) {
        let (mut lease, mut has_failed) = (None, false);
        loop {
            let ended = self.round(&mut lease).await;
            if let Err(failure) = &ended {
                // Whoever was overtaken asks for a new term.
                lease = None;
                tell_failure(failure, has_failed, "what is due is not purged");
            }
            has_failed = ended.is_err();
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    async fn round(&self, lease: &mut Option<Lease>) -> Result<(), Failure> {
        if lease.is_none() {
            *lease = self.parts.audit.replicas().take(Role::Janitor, self.deadline()).await?;
        }
        let Some(lease) = lease else { return Ok(()) };
        self.run_once(self.parts.clock.now(), Some(&lease.check())).await.map(|_| ())
    }

    /// Purges what is due at `now`; `fence` must hold for each write. Answers how many keys went.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, WRITE_CONFLICT when the fence did not hold, RECORD_REJECTED for the
    /// janitor's own mark. What else fails for one key is logged and tried again: in the next round, or
    /// in an hour when its record does not verify.
    pub async fn run_once(&self, now: Timestamp, fence: Option<&Action>) -> Result<u64, Failure> {
        let mark = due::mark(&self.parts.records, self.deadline()).await?;
        // The day before stays in sight: a row may be written while its day ends.
        let last = now.day().saturating_sub(1);
        let mut done_to = last;
        let mut purged = 0;
        for day in mark.map_or(last.saturating_sub(FIRST_LOOK_DAYS), |mark| mark.day)..=now.day() {
            for bucket in 0..due::BUCKETS {
                let (gone, is_clean) = self.sweep(day, bucket, now, fence).await?;
                purged += gone;
                if !is_clean {
                    done_to = done_to.min(day);
                }
            }
        }
        if mark.is_none_or(|mark| mark.day < done_to) {
            self.write([due::put_mark(&self.parts.records, mark, done_to)], fence).await?;
        }
        Ok(purged)
    }

    /// One partition of the queue: how many keys went, and whether nothing due is left.
    async fn sweep(
        &self,
        day: i64,
        bucket: u8,
        now: Timestamp,
        fence: Option<&Action>,
    ) -> Result<(u64, bool), Failure> {
        let (mut gone, mut is_clean, mut after) = (0, true, None);
        loop {
            let (rows, next) = due::page(&self.parts.records, day, bucket, now, PAGE, after, self.deadline()).await?;
            for row in rows {
                match self.purge(&row, now, fence).await {
                    Ok(true) => gone += 1,
                    Ok(false) => {}
                    Err(failure) => {
                        let key = row.name.to_string();
                        tracing::warn!(key, error = &failure as &dyn Error, "a key that is due could not be purged");
                        is_clean &= self.put_off(&row, now, &failure, fence).await?;
                    }
                }
            }
            after = next;
            if after.is_none() {
                return Ok((gone, is_clean));
            }
        }
    }

    /// Whether `row`, which could not be done, is due at a later time now: what does not verify will
    /// not in the next round either, and must not keep the mark, and with it every day since, in sight.
    async fn put_off(
        &self,
        row: &Due,
        now: Timestamp,
        failure: &Failure,
        fence: Option<&Action>,
    ) -> Result<bool, Failure> {
        match failure.reason {
            Reason::RecordRejected => {
                self.write(due::put_off(row, now.plus(PUT_OFF)), fence).await?;
                Ok(true)
            }
            Reason::WriteConflict => self.check(fence).await.map(|()| false),
            _ => Ok(false),
        }
    }

    async fn purge(&self, row: &Due, now: Timestamp, fence: Option<&Action>) -> Result<bool, Failure> {
        let draft = draft(&row.name, self.parts.clock.now());
        let purge = purge::purge(&self.parts, &row.name, row.uid.as_ref(), now, draft, fence.cloned(), self.deadline());
        let is_gone = purge.await?;
        if !is_gone {
            // Undeleted, or gone before: the row has nothing to say any more.
            self.write([Action::Delete(row.row.clone(), Condition::Any)], fence).await?;
        }
        Ok(is_gone)
    }

    /// WRITE_CONFLICT when `fence` does not hold: somebody else is the janitor. Else it was the key
    /// that others keep writing.
    async fn check(&self, fence: Option<&Action>) -> Result<(), Failure> {
        match fence {
            Some(fence) => self.write([fence.clone()], None).await,
            None => Ok(()),
        }
    }

    async fn write(&self, actions: impl IntoIterator<Item = Action>, fence: Option<&Action>) -> Result<(), Failure> {
        let id = random(&*self.parts.entropy).map_err(|error| Failure::new(Reason::Internal).caused_by(error))?;
        let actions = actions.into_iter().chain(fence.cloned()).collect();
        match self.parts.records.store().write(WriteId(id), actions, self.deadline()).await? {
            Written::Conflict { .. } => Err(Reason::WriteConflict.into()),
            // A lost outcome is read again in the next round.
            Written::Committed | Written::Unknown => Ok(()),
        }
    }

    fn deadline(&self) -> Deadline {
        self.parts.clock.deadline(PATIENCE)
    }
}

/// The record of a purge: nobody called.
fn draft(name: &KeyName, now: Timestamp) -> AuditDraft {
    AuditDraft {
        resource: name.to_string(),
        purpose: "its purge time has come".to_owned(),
        ..AuditDraft::of_server(name.org.clone(), now, Done::KeyPurge)
    }
}
