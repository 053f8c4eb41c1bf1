//! `ibyok-server rebuild`: makes what is projected from the audit log anew: last uses, usage,
//! consumers. While every server is stopped; one that dies half way goes on at the next start.

use std::time::Duration;

use super::{
    PATIENCE, ServerError, Sources,
    tasks::{beat, withdraw},
    vault::Vault,
};
use crate::{
    config::Config,
    domain::error::{Failure, Reason},
    repository::{
        audit::{AuditTasks, archive::ArchiveState},
        projection::begin_again,
        replicas::{BEAT_EVERY, SILENCE},
    },
    store::Action,
};

/// How often the lease is asked for.
const ASK: Duration = Duration::from_secs(1);
/// By then it is known whether the lease's holder lives.
const ASKED: Duration = Duration::from_secs(SILENCE.as_secs() + 2 * BEAT_EVERY.as_secs());

/// Begins again at the log's first position, and folds it to its end. Once a part of the log has
/// left for the archive, rows that can be read are kept, and only the others are made anew.
///
/// # Errors
/// When the vault can't be opened, its log can't be read, or a server of it runs.
pub async fn rebuild(config: &Config, sources: &Sources) -> Result<(), ServerError> {
    let vault = Vault::open(config, sources).await?;
    let parts = &vault.parts;
    let beating = tokio::spawn(beat(parts.clone()));
    let rebuilt = rebuild_in(&vault, sources).await;
    parts.audit.close().await;
    beating.abort();
    withdraw(parts).await;
    vault.store.close().await;
    rebuilt
}

async fn rebuild_in(vault: &Vault, sources: &Sources) -> Result<(), ServerError> {
    let records = &vault.parts.records;
    let mut tasks = AuditTasks::new(&vault.parts.audit);
    let led = tokio::time::timeout(ASKED, lead(&mut tasks)).await;
    let lease = led.map_err(|_| ServerError::Running)??;
    let deadline = sources.clock.deadline(PATIENCE);
    if ArchiveState::load(records, deadline).await?.floor > 1 {
        tracing::warn!("a part of the log is archived: only rows that are gone or can't be read are made anew");
    }
    let mut actions = begin_again(records, deadline).await?;
    actions.push(lease);
    records.commit(&*sources.entropy, actions, deadline).await?;
    Ok(tasks.tick().await?)
}

/// Waits until no server that lives orders the log.
async fn lead(tasks: &mut AuditTasks) -> Result<Action, Failure> {
    loop {
        match tasks.lead().await {
            Ok(Some(lease)) => return Ok(lease),
            Ok(None) => {}
            Err(failure) if failure.reason == Reason::WriteConflict => {}
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(ASK).await;
    }
}
