//! The adapters that the settings name.

use std::sync::Arc;

use super::{ServerError, Sources};
use crate::{
    config::{Config, KmsConfig, ProviderConfig, StoreConfig},
    domain::{clock::Timestamp, provider::Providers},
    kms::{KeyWrapper, local::LocalKeyWrapper},
    service::sealing::Sealer,
    store::{ItemStore, sqlite::SqliteStore},
};

/// The store, as the adapter that it is: closing and sweeping are no part of the port.
#[derive(Clone, Debug)]
pub(super) enum Store {
    Sqlite(Arc<SqliteStore>),
}

impl Store {
    pub(super) fn open(config: &StoreConfig, sources: &Sources) -> Result<Self, ServerError> {
        let StoreConfig::Sqlite { path } = config;
        let store = SqliteStore::open(path, Arc::clone(&sources.clock));
        store.map(|store| Self::Sqlite(Arc::new(store))).map_err(|error| ServerError::setting("store.path", error))
    }
    pub(super) fn port(&self) -> Arc<dyn ItemStore> {
        let Self::Sqlite(store) = self;
        Arc::<SqliteStore>::clone(store)
    }
    /// Deletes some of what expired before `now`; answers whether there may be more.
    pub(super) async fn sweep(&self, now: Timestamp) -> Result<bool, crate::store::StoreError> {
        const AT_ONCE: usize = 500;
        let Self::Sqlite(store) = self;
        store.sweep_expired(now, AT_ONCE).await.map(|swept| swept == AT_ONCE)
    }
    pub(super) async fn close(&self) {
        let Self::Sqlite(store) = self;
        if let Err(error) = store.close().await {
            tracing::warn!(%error, "the store was not closed cleanly; the next start completes it");
        }
    }
}

pub(super) fn sealer(config: &KmsConfig, sources: &Sources) -> Result<Sealer, ServerError> {
    let entropy = || Arc::clone(&sources.entropy);
    let wrapper = match config {
        KmsConfig::LocalFile { path } => {
            LocalKeyWrapper::from_file(path, entropy()).map_err(|error| ServerError::setting("kms.key_file", error))?
        }
        KmsConfig::LocalKey { text } => {
            let text = std::str::from_utf8(text.expose_secret()).unwrap_or_default();
            LocalKeyWrapper::from_hex(text, entropy())
                .map_err(|_| ServerError::setting("IBYOK_MASTER_KEY", "must be 64 hex digits"))?
        }
    };
    let wrapper: Arc<dyn KeyWrapper> = Arc::new(wrapper);
    Ok(Sealer::new(wrapper, entropy()))
}

/// The embedded provider table, and what the settings add to it.
pub(super) fn providers(config: &ProviderConfig) -> Result<Providers, ServerError> {
    let setting = |error: &dyn std::fmt::Display| ServerError::setting("providers.file", error);
    let extra = config.file.as_ref().map(std::fs::read_to_string).transpose().map_err(|error| setting(&error))?;
    Providers::load(extra.as_deref()).map_err(|error| setting(&error))
}

/// Looks at everything that the settings name, and opens nothing for writing.
pub(super) fn problems(config: &Config, sources: &Sources) -> Vec<ServerError> {
    let mut problems = Vec::new();
    problems.extend(sealer(&config.kms, sources).err());
    problems.extend(providers(&config.providers).err());
    let StoreConfig::Sqlite { path } = &config.store;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if directory.is_some_and(|directory| !directory.is_dir()) {
        problems.push(ServerError::setting("store.path", "its directory does not exist"));
    }
    problems
}
