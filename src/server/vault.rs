//! The parts of an open vault, in the order in which they need each other.

use std::sync::Arc;

use super::{PATIENCE, ServerError, Sources, Store, adapters};
use crate::{
    config::Config,
    domain::{error::Failure, provider::Providers},
    repository::{
        audit::{AuditLog, AuditSettings, Sink},
        records::Records,
    },
    service::{
        Parts, audit::retention::Retention, keyring::Keyring, mutation::Mutations, page_token::PageTokens,
        sealing::Sealer, session::Sessions,
    },
};

#[derive(Debug)]
pub(super) struct Vault {
    pub(super) parts: Parts,
    pub(super) providers: Arc<Providers>,
    pub(super) store: Store,
    /// What moves the old part of the audit log into its archive, where there is one.
    pub(super) retention: Option<Retention>,
}

impl Vault {
    /// Opens the vault in the store.
    pub(super) async fn open(config: &Config, sources: &Sources) -> Result<Self, ServerError> {
        let sealer = adapters::sealer(&config.kms, sources).await?;
        let providers = Arc::new(adapters::providers(&config.providers)?);
        let archive = adapters::archive(&config.audit)?;
        let store = Store::open(&config.store, sources).await?;
        let (clock, entropy) = (Arc::clone(&sources.clock), Arc::clone(&sources.entropy));
        let deadline = clock.deadline(PATIENCE);
        let keyring = Keyring::load(store.port(), sealer.clone(), entropy, clock, deadline).await;
        let keyring = match keyring {
            Ok(Some(keyring)) => keyring,
            Ok(None) => return Err(abandon(&store, ServerError::NotInitialised).await),
            Err(failure) => return Err(abandon(&store, failure.into()).await),
        };
        let parts = match parts(keyring, sealer, &store, config, sources) {
            // Before it takes or opens anything, the others must see that it lives.
            Ok(parts) => parts.audit.replicas().beat(deadline).await.map(|()| parts),
            Err(failure) => Err(failure),
        };
        match parts {
            Ok(parts) => {
                let retention = archive.map(|(directory, retention)| Retention::new(&parts, directory, retention));
                Ok(Self { parts, providers, store, retention })
            }
            Err(failure) => Err(abandon(&store, failure.into()).await),
        }
    }
}

/// Closes a store that will not be used, and answers why.
async fn abandon(store: &Store, error: ServerError) -> ServerError {
    store.close().await;
    error
}

/// What every use case works with, on those keys.
pub(super) fn parts(
    keyring: Keyring,
    sealer: Sealer,
    store: &Store,
    config: &Config,
    sources: &Sources,
) -> Result<Parts, Failure> {
    let (clock, entropy) = (Arc::clone(&sources.clock), Arc::clone(&sources.entropy));
    let keyring = Arc::new(keyring);
    let records = Records::new(store.port(), keyring.records());
    if sources.sink == Sink::Nowhere {
        tracing::error!("retrievals leave no record: this is a measurement");
    }
    let settings = AuditSettings {
        sink: sources.sink,
        shared_lanes: config.audit.shared_lanes,
        mutation_lanes: config.audit.mutation_lanes,
        ..AuditSettings::default()
    };
    let audit = AuditLog::open(records.clone(), Arc::clone(&clock), Arc::clone(&entropy), settings)?;
    let sessions = Sessions::new(records.clone(), Arc::clone(&clock));
    let mutations = Mutations::new(records.clone(), Arc::clone(&keyring), audit.clone(), Arc::clone(&clock));
    let pages = Arc::new(PageTokens::new(Arc::clone(&keyring), Arc::clone(&entropy)));
    Ok(Parts { clock, entropy, records, keyring, sealer, audit, sessions, mutations, pages })
}
