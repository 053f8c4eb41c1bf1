//! What runs beside the calls, until the server stops.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{PATIENCE, Store, vault::Vault};
use crate::{
    domain::clock::Clock,
    repository::{audit::AuditTasks, replicas::BEAT_EVERY},
    service::{Parts, janitor::Janitor},
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
        let sequencer = tokio::spawn(AuditTasks::new(&parts.audit).run(stop_sequencer.clone()));
        let stop = CancellationToken::new();
        let stop_health = stop.child_token();
        // A server that can't use its KMS has not come here.
        let (usable, kms) = watch::channel(true);
        let tasks = Self { tracker: TaskTracker::new(), stop, stop_health, kms, sequencer, stop_sequencer };
        tasks.spawn(watch_kms(parts.clone(), usable));
        tasks.spawn_until(tasks.stop_health.clone(), health(parts.clone(), serving.clone()));
        tasks.spawn(beat(parts.clone()));
        tasks.spawn(keys(parts.clone(), longest_token_life));
        tasks.spawn(sweep(vault.store.clone(), Arc::clone(&parts.clock)));
        tasks.spawn(purge(parts.clone(), tasks.stop.clone()));
        if let Some(retention) = vault.retention.clone() {
            let stop = tasks.stop.clone();
            tasks.spawn(async move { retention.run(stop).await });
        }
        tasks
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
    /// what puts the log in order, so that the seals are in it.
    pub(super) async fn stop(self, parts: &Parts) {
        self.stop.cancel();
        self.tracker.close();
        let ending = async {
            self.tracker.wait().await;
            parts.audit.close().await;
            self.stop_sequencer.cancel();
            // A panic of it has been logged by the hook.
            let _ = self.sequencer.await;
            if let Err(failure) = parts.audit.replicas().withdraw(parts.clock.deadline(ROUND)).await {
                tracing::warn!(
                    reason = failure.reason.as_str(),
                    "the other servers will find out that this one has ended"
                );
            }
        };
        if tokio::time::timeout(PATIENCE, ending).await.is_err() {
            tracing::warn!("the audit log was not sealed in time; the next start seals it");
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
async fn beat(parts: Parts) {
    let replicas = parts.audit.replicas();
    while !replicas.is_alone() {
        tokio::time::sleep(BEAT_EVERY).await;
        if let Err(failure) = replicas.beat(parts.clock.deadline(BEAT_EVERY)).await {
            tracing::warn!(
                reason = failure.reason.as_str(),
                "a beat failed: the other servers may take this one for dead"
            );
        }
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
            Err(failure) => tracing::warn!(reason = failure.reason.as_str(), "the keys could not be read again"),
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
