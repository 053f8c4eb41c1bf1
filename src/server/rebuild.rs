//! `ibyok-server rebuild`: makes what is projected from the audit log anew: last uses, usage,
//! consumers. While the server is stopped; one that dies half way goes on at the next start.

use super::{PATIENCE, ServerError, Sources, vault::Vault};
use crate::{
    config::Config,
    domain::error::Failure,
    repository::{
        audit::{AuditTasks, archive::ArchiveState},
        projection::begin_again,
    },
};

/// Begins again at the log's first position, and folds it to its end. Once a part of the log has
/// left for the archive, rows that can be read are kept, and only the others are made anew.
///
/// # Errors
/// When the vault can't be opened, or its log can't be read.
pub async fn rebuild(config: &Config, sources: &Sources) -> Result<(), ServerError> {
    let vault = Vault::open(config, sources).await?;
    let rebuilt = rebuild_in(&vault, sources).await;
    vault.parts.audit.close().await;
    vault.store.close().await;
    Ok(rebuilt?)
}

async fn rebuild_in(vault: &Vault, sources: &Sources) -> Result<(), Failure> {
    let records = &vault.parts.records;
    let deadline = sources.clock.deadline(PATIENCE);
    if ArchiveState::load(records, deadline).await?.floor > 1 {
        tracing::warn!("a part of the log is archived: only rows that are gone or can't be read are made anew");
    }
    let actions = begin_again(records, deadline).await?;
    records.commit(&*sources.entropy, actions, deadline).await?;
    AuditTasks::new(&vault.parts.audit).tick().await
}
