//! What runs beside the calls, until the server stops.

use std::{error::Error, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{PATIENCE, Store, vault::Vault};
use crate::{
    domain::clock::Clock,
    repository::{audit::AuditTasks, replicas::BEAT_EVERY},
    service::{Parts, audit::retention::Retention, janitor::Janitor},
};

/// How often health looks whether records can be written.
const LOOK: Duration = Duration::from_millis(250);
/// How often health looks whether the KMS can be used.
const KMS: Duration = Duration::from_secs(10);
/// How often the keys are read again, and rotated when it is time.
const KEYS: Duration = Duration::from_secs(60);
/// How often expired items are deleted.
const SWEEP: Duration = Duration::from_secs(60);
/// The longest that one round of a task may take.
const ROUND: Duration = Duration::from_secs(10);
/// After how long a task that a defect ended begins again.
const AFTER_DEFECT: Duration = Duration::from_secs(1);
/// After how long a beat that failed is tried again.
const BEAT_AGAIN: Duration = Duration::from_secs(1);
/// How long the last batches have to be put in order at the end; who comes after goes on with them.
const LAST_ORDER: Duration = Duration::from_secs(5);

/// The tasks of a server that runs.
#[derive(Debug)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    stop_health: CancellationToken,
    kms: watch::Receiver<bool>,
    sequencer: JoinHandle<()>,
    stop_sequencer: CancellationToken,
}

impl Tasks {
    /// Starts what the vault needs done.
    pub(super) fn start(vault: &Vault, longest_token_life: Duration, serving: &watch::Sender<bool>) -> Self {
        let parts = &vault.parts;
        let stop_sequencer = CancellationToken::new();
        let sequencer = tokio::spawn(keep_running("sequencer", stop_sequencer.clone(), {
            let (audit, stop) = (parts.audit.clone(), stop_sequencer.clone());
            move || AuditTasks::new(&audit).run(stop.clone())
        }));
        let stop = CancellationToken::new();
        let stop_health = stop.child_token();
        // A server that can't use its KMS has not come here.
        let (usable, kms) = watch::channel(true);
        let tasks = Self { tracker: TaskTracker::new(), stop, stop_health, kms, sequencer, stop_sequencer };
        tasks.keep("KMS", parts, move |parts| watch_kms(parts, usable.clone()));
        let (stop, serving) = (tasks.stop_health.clone(), serving.clone());
        tasks.keep_until(stop, "health", parts, move |parts| health(parts, serving.clone()));
        tasks.keep("beat", parts, beat);
        tasks.keep("keys", parts, move |parts| keys(parts, longest_token_life));
        let store = vault.store.clone();
        tasks.keep("sweep", parts, move |parts| sweep(store.clone(), parts.clock));
        let stop = tasks.stop.clone();
        tasks.keep("janitor", parts, move |parts| purge(parts, stop.clone()));
        if let Some(retention) = vault.retention.clone() {
            let stop = tasks.stop.clone();
            tasks.keep("archivist", parts, move |_| archive(retention.clone(), stop.clone()));
        }
        tasks
    }

    /// Runs what `begin` makes of `parts` until the server stops, whatever defect ends it meanwhile.
    fn keep<F>(&self, task: &'static str, parts: &Parts, begin: impl FnMut(Parts) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.keep_until(self.stop.clone(), task, parts, begin);
    }

    fn keep_until<F>(
        &self,
        stop: CancellationToken,
        task: &'static str,
        parts: &Parts,
        mut begin: impl FnMut(Parts) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let parts = parts.clone();
        self.spawn_until(stop.clone(), keep_running(task, stop, move || begin(parts.clone())));
    }

    /// Runs `task` until it ends or the server stops.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_until(self.stop.clone(), task);
    }

    /// Whether the KMS can be used.
    pub(super) fn kms(&self) -> watch::Receiver<bool> {
        self.kms.clone()
    }

    /// From here on whoever drains says what health is.
    pub(super) fn stop_health(&self) {
        self.stop_health.cancel();
    }

    fn spawn_until(&self, stop: CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Ends everything in order: what writes, then the audit log, which is flushed and sealed, then
    /// what puts the log in order, so that the seals are in it. Whatever of it was not done in time,
    /// the other servers are told that this one has ended.
    pub(super) async fn stop(mut self, parts: &Parts) {
        self.stop.cancel();
        self.tracker.close();
        let sealing = async {
            self.tracker.wait().await;
            parts.audit.close().await;
        };
        if tokio::time::timeout(PATIENCE, sealing).await.is_err() {
            tracing::warn!("the audit log was not sealed in time; the next start, or another server, seals it");
        }
        self.stop_sequencer.cancel();
        if tokio::time::timeout(LAST_ORDER, &mut self.sequencer).await.is_err() {
            self.sequencer.abort();
            tracing::info!("the end of the audit log is not in order yet; the next start, or another server, does it");
        }
        withdraw(parts).await;
    }
}

/// Runs what `begin` makes until it ends; what a defect ended begins again, until `stop`.
async fn keep_running<F>(task: &'static str, stop: CancellationToken, mut begin: impl FnMut() -> F + Send)
where
    F: Future<Output = ()> + Send,
{
    // A panic's text may hold anything; the hook logs where it was.
    while AssertUnwindSafe(async { begin().await }).catch_unwind().await.is_err() {
        tracing::error!(task, "a task of the server ended by a defect and begins again");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AFTER_DEFECT) => {}
        }
    }
}

/// Tells health whether records can be written.
async fn health(parts: Parts, serving: watch::Sender<bool>) {
    loop {
        let is_writable = parts.audit.is_writable();
        serving.send_if_modified(|serving| std::mem::replace(serving, is_writable) != is_writable);
        tokio::time::sleep(LOOK).await;
    }
}

/// Tells the other servers of the vault that this one lives.
pub(super) async fn beat(parts: Parts) {
    let replicas = parts.audit.replicas();
    let mut pause = BEAT_EVERY;
    while !replicas.is_alone() {
        tokio::time::sleep(pause).await;
        pause = match replicas.beat(parts.clock.deadline(BEAT_EVERY)).await {
            Ok(()) => BEAT_EVERY,
            Err(failure) => {
                let error = &failure as &dyn Error;
                tracing::warn!(error, "a beat failed: the other servers may take this one for dead");
                BEAT_AGAIN
            }
        };
    }
}

/// Tells them that it has ended.
pub(super) async fn withdraw(parts: &Parts) {
    if let Err(failure) = parts.audit.replicas().withdraw(parts.clock.deadline(BEAT_EVERY)).await {
        let error = &failure as &dyn Error;
        tracing::warn!(error, "the other servers will find out that this one has ended");
    }
}

/// Tells health whether the KMS can be used, and the log when that changes.
async fn watch_kms(parts: Parts, usable: watch::Sender<bool>) {
    loop {
        tokio::time::sleep(KMS).await;
        let found = parts.sealer.kms().status(parts.clock.deadline(ROUND)).await;
        if usable.send_if_modified(|usable| std::mem::replace(usable, found.is_ok()) != found.is_ok()) {
            match found {
                Ok(found) => tracing::info!("the KMS can be used again: {found}"),
                Err(problem) => tracing::error!("the KMS can't be used: {problem}"),
            }
        }
    }
}

/// Takes in what other replicas rotated or withdrew, and rotates when it is time.
async fn keys(parts: Parts, longest_token_life: Duration) {
    loop {
        tokio::time::sleep(KEYS).await;
        let deadline = parts.clock.deadline(ROUND);
        match parts.keyring.maintain(&parts.audit, longest_token_life, deadline).await {
            Ok(Some(kid)) => tracing::info!(kid, "tokens are signed with a new key"),
            Ok(None) => {}
            Err(failure) => tracing::warn!(error = &failure as &dyn Error, "the keys could not be read again"),
        }
    }
}

/// Deletes what has expired.
async fn sweep(store: Store, clock: Arc<dyn Clock>) {
    loop {
        match store.sweep(clock.now()).await {
            Ok(true) => {}
            Ok(false) => tokio::time::sleep(SWEEP).await,
            Err(error) => {
                tracing::warn!(%error, "expired items could not be deleted");
                tokio::time::sleep(SWEEP).await;
            }
        }
    }
}

/// Purges deleted keys.
async fn purge(parts: Parts, stop: CancellationToken) {
    Janitor::new(parts).run(stop).await;
}

/// Moves what is old of the audit log into the archive.
async fn archive(retention: Retention, stop: CancellationToken) {
    retention.run(stop).await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_task_that_a_defect_ended_begins_again_until_the_server_stops() {
        let (begun, stop) = (AtomicUsize::new(0), CancellationToken::new());
        let task = keep_running("test", stop.clone(), || async {
            match begun.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("a defect"),
                1 => {}
                _ => panic!("it had ended by itself"),
            }
        });
        task.await;
        assert_eq!(begun.load(Ordering::SeqCst), 2);
        stop.cancel();
        keep_running("test", stop, || async { panic!("a defect") }).await;
    }
}
