//! Retention: moves what is old of the audit log into the archive, in the background, under a lease
//! of its own. Nothing here stops the vault: what does not work is told to the log and to the status.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    domain::clock::{Clock, Deadline, Timestamp},
    repository::{
        audit::{
            AuditLog,
            archive::{Archived, Archiver, Directory, Trouble},
        },
        lease::{Lease, Role},
    },
    service::Parts,
};

/// How long after the start the first look is: projections that are new begin first.
const FIRST: Duration = Duration::from_secs(1);
/// How often it is looked whether something has grown old.
const PAUSE: Duration = Duration::from_secs(10);
/// How long is waited after the archive failed, at first and at most: each time a file may be written.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));
/// The longest that taking the lease may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the archive stands, for the status: a sentence, good or bad.
#[derive(Clone, Debug)]
pub struct ArchiveStatus(Arc<Mutex<Result<String, String>>>);

impl ArchiveStatus {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Ok("nothing has been archived since the start".to_owned()))))
    }
    /// What was found last.
    ///
    /// # Errors
    /// Why nothing leaves, for people.
    pub fn now(&self) -> Result<String, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn set(&self, found: Result<String, String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

/// What is kept from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Turn {
    lease: Option<Lease>,
    /// Nothing can leave before then.
    waits: Option<Timestamp>,
}

/// The background task.
#[derive(Clone, Debug)]
pub struct Retention {
    archiver: Archiver,
    audit: AuditLog,
    clock: Arc<dyn Clock>,
    directory: Directory,
    status: ArchiveStatus,
}

impl Retention {
    /// What of the parts' log is older than `retention` leaves for `directory`.
    #[must_use]
    pub fn new(parts: &Parts, directory: Directory, retention: Duration) -> Self {
        Self {
            archiver: Archiver::new(&parts.audit, directory.clone(), retention),
            audit: parts.audit.clone(),
            clock: Arc::clone(&parts.clock),
            directory,
            status: ArchiveStatus::new(),
        }
    }
    /// How it stands.
    #[must_use]
    pub fn status(&self) -> ArchiveStatus {
        self.status.clone()
    }

    /// Looks now and then until `cancel`, while it has the lease.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut turn = Turn::default();
        let mut pause = FIRST;
        let mut after_failure = AFTER_FAILURE.0;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            // Told even when nothing is old: a directory that has gone is noticed in time.
            let trouble = if let Err(problem) = self.directory.look() {
                pause = PAUSE;
                problem
            } else if let Err(trouble) = self.round(&mut turn).await {
                (pause, after_failure) = (after_failure, longer(after_failure));
                trouble.to_string()
            } else {
                (pause, after_failure) = (PAUSE, AFTER_FAILURE.0);
                continue;
            };
            // Whoever was overtaken asks for a new term.
            turn.lease = None;
            tracing::warn!(trouble, "nothing leaves for the audit archive; the log keeps it");
            self.status.set(Err(trouble));
        }
    }

    /// Moves everything that is old enough.
    pub(super) async fn round(&self, turn: &mut Turn) -> Result<(), Trouble> {
        if let Some(until) = turn.waits {
            self.tell_waiting(until);
            if self.clock.now() < until {
                return Ok(());
            }
        }
        turn.waits = None;
        let lease = &mut turn.lease;
        if lease.is_none() {
            *lease = self.audit.replicas().take(Role::Archivist, self.deadline()).await?;
        }
        let Some(lease) = lease else { return Ok(()) };
        loop {
            match self.archiver.step(Some(&lease.check())).await? {
                Archived::Nothing => break,
                Archived::Waits(until) => {
                    tracing::warn!(
                        seconds = until.since(self.clock.now()).as_secs(),
                        "a record's time is ahead of its place in the audit log: nothing is archived before it is old"
                    );
                    self.tell_waiting(until);
                    turn.waits = Some(until);
                    return Ok(());
                }
                Archived::Completed => {}
                Archived::File(file) => {
                    tracing::info!(first = file.first, last = file.last, records = file.records, "archived");
                    self.status.set(Ok(format!("archived up to position {}", file.last)));
                }
            }
        }
        if self.status.now().is_err() {
            self.status.set(Ok("the archive takes records again".to_owned()));
        }
        Ok(())
    }

    fn tell_waiting(&self, until: Timestamp) {
        let until = Timestamp::from_seconds(until.seconds());
        self.status
            .set(Ok(format!("a record's time is ahead of its place in the log: nothing is archived before {until}")));
    }
    fn deadline(&self) -> Deadline {
        self.clock.deadline(PATIENCE)
    }
}

/// How long is waited after one more failure than the one behind which it was `pause`.
pub(super) fn longer(pause: Duration) -> Duration {
    (pause * 2).min(AFTER_FAILURE.1)
}
