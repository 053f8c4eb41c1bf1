//! The adapters that the settings name.

use std::{path::Path, sync::Arc, time::Duration};

use super::{ServerError, Sources};
use crate::{
    config::{ArchiveConfig, AuditConfig, Config, KmsConfig, ProviderConfig, StoreConfig},
    domain::{
        clock::{Clock, Timestamp},
        provider::Providers,
    },
    kms::{KeyWrapper, local::LocalKeyWrapper},
    repository::audit::archive::Directory,
    service::sealing::Sealer,
    store::{
        ItemStore,
        sqlite::{OpenError, SqliteStore},
    },
};

/// The store, as the adapter that it is: closing and sweeping are no part of the port.
#[derive(Clone, Debug)]
pub(super) enum Store {
    Sqlite(Arc<SqliteStore>),
}

type OpenSqlite = fn(&Path, Arc<dyn Clock>) -> Result<SqliteStore, OpenError>;

impl Store {
    /// The store of a vault that is there; where there is none, nothing is made.
    pub(super) fn open(config: &StoreConfig, sources: &Sources) -> Result<Self, ServerError> {
        Self::of(config, sources, SqliteStore::open)
    }
    /// The store that `init` makes a vault in: a new one, if there is none.
    pub(super) fn open_or_make(config: &StoreConfig, sources: &Sources) -> Result<Self, ServerError> {
        Self::of(config, sources, SqliteStore::open_or_make)
    }
    fn of(config: &StoreConfig, sources: &Sources, open: OpenSqlite) -> Result<Self, ServerError> {
        let StoreConfig::Sqlite { path } = config;
        let store = open(path, Arc::clone(&sources.clock)).map_err(|error| match error {
            OpenError::Absent(path) => ServerError::NoVault(path),
            error => ServerError::setting("store.path", error),
        })?;
        Ok(Self::Sqlite(Arc::new(store)))
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

/// Where the old part of the audit log goes and how old that is; None: it is kept for ever.
pub(super) fn archive(config: &AuditConfig) -> Result<Option<(Directory, Duration)>, ServerError> {
    let Some(ArchiveConfig { retention, dir }) = &config.archive else { return Ok(None) };
    let directory = Directory::new(dir.clone());
    directory.look().map_err(|problem| ServerError::setting("audit.archive_dir", problem))?;
    Ok(Some((directory, *retention)))
}

/// Looks at everything that the settings name, and opens nothing for writing.
pub(super) fn problems(config: &Config, sources: &Sources) -> Vec<ServerError> {
    let mut problems = Vec::new();
    problems.extend(sealer(&config.kms, sources).err());
    problems.extend(providers(&config.providers).err());
    problems.extend(archive(&config.audit).err());
    let StoreConfig::Sqlite { path } = &config.store;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if directory.is_some_and(|directory| !directory.is_dir()) {
        problems.push(ServerError::setting("store.path", "its directory does not exist"));
    }
    problems
}
