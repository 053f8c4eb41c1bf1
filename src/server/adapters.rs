//! The adapters that the settings name.

use std::{path::Path, sync::Arc, time::Duration};

use super::{PATIENCE, ServerError, Sources};
use crate::{
    aws,
    config::{ArchiveConfig, AuditConfig, AwsConfig, AwsKmsConfig, Config, KmsConfig, ProviderConfig, StoreConfig},
    domain::{
        clock::{Clock, Timestamp},
        provider::Providers,
        secret::KmsKeyId,
    },
    kms::{
        KeyWrapper,
        aws::{AwsKeyWrapper, Keys, Unfit},
        local::LocalKeyWrapper,
    },
    repository::audit::archive::Directory,
    service::sealing::Sealer,
    store::{
        ItemStore,
        dynamodb::{DynamoStore, TableError, TableSettings},
        sqlite::{OpenError, SqliteStore},
    },
};

/// The store, as the adapter that it is: closing and sweeping are no part of the port.
#[derive(Clone, Debug)]
pub(super) enum Store {
    Sqlite(Arc<SqliteStore>),
    DynamoDb(Arc<DynamoStore>),
}

type OpenSqlite = fn(&Path, Arc<dyn Clock>) -> Result<SqliteStore, OpenError>;

impl Store {
    /// The store of a vault that is there; where there is none, nothing is made.
    pub(super) async fn open(config: &StoreConfig, sources: &Sources) -> Result<Self, ServerError> {
        Self::of(config, sources, SqliteStore::open).await
    }
    /// The store that `init` makes a vault in: a new file, if there is none. A table is there before:
    /// making one is a command of its own.
    pub(super) async fn open_or_make(config: &StoreConfig, sources: &Sources) -> Result<Self, ServerError> {
        Self::of(config, sources, SqliteStore::open_or_make).await
    }
    async fn of(config: &StoreConfig, sources: &Sources, open: OpenSqlite) -> Result<Self, ServerError> {
        match config {
            StoreConfig::Sqlite { path } => {
                let store = open(path, Arc::clone(&sources.clock)).map_err(|error| match error {
                    OpenError::Absent(path) => ServerError::NoVault(path),
                    error => ServerError::setting("store.path", error),
                })?;
                Ok(Self::Sqlite(Arc::new(store)))
            }
            StoreConfig::DynamoDb { table, kms_key, aws } => {
                let store = dynamodb((table, kms_key.as_ref()), aws, sources).await?;
                check_table(&store, aws, sources).await?;
                Ok(Self::DynamoDb(Arc::new(store)))
            }
        }
    }
    pub(super) fn port(&self) -> Arc<dyn ItemStore> {
        match self {
            Self::Sqlite(store) => Arc::<SqliteStore>::clone(store),
            Self::DynamoDb(store) => Arc::<DynamoStore>::clone(store),
        }
    }
    /// Deletes some of what expired before `now`; answers whether there may be more. DynamoDB does it
    /// by itself.
    pub(super) async fn sweep(&self, now: Timestamp) -> Result<bool, crate::store::StoreError> {
        const AT_ONCE: usize = 500;
        match self {
            Self::Sqlite(store) => store.sweep_expired(now, AT_ONCE).await.map(|swept| swept == AT_ONCE),
            Self::DynamoDb(_) => Ok(false),
        }
    }
    pub(super) async fn close(&self) {
        let Self::Sqlite(store) = self else { return };
        if let Err(error) = store.close().await {
            tracing::warn!(%error, "the store was not closed cleanly; the next start completes it");
        }
    }
}

/// The table's store, not looked at yet.
pub(super) async fn dynamodb(
    (table, kms_key): (&str, Option<&String>),
    aws: &AwsConfig,
    sources: &Sources,
) -> Result<DynamoStore, ServerError> {
    let sdk = sdk_config(aws, sources).await;
    if sdk.region().is_none() {
        let problem = "needed: neither it, nor AWS_REGION, nor a profile names a region";
        return Err(ServerError::setting("store.region", problem));
    }
    let table = TableSettings { name: table.to_owned(), kms_key: kms_key.cloned() };
    Ok(DynamoStore::new(&sdk, table, Arc::clone(&sources.clock), Arc::clone(&sources.entropy)))
}

/// What an AWS client is made from.
async fn sdk_config(config: &AwsConfig, sources: &Sources) -> aws_config::SdkConfig {
    let AwsConfig { region, endpoint, fips, dual_stack } = config.clone();
    let sdk = aws::sdk_config(&aws::Settings { region, endpoint, fips, dual_stack }).await;
    match &sources.aws_keys {
        Some(keys) => keys.of(sdk),
        None => sdk,
    }
}

/// Refuses a table that no vault can use.
async fn check_table(store: &DynamoStore, aws: &AwsConfig, sources: &Sources) -> Result<(), ServerError> {
    let report = store.inspect(sources.clock.deadline(PATIENCE)).await;
    let report = report.map_err(|error| table_error(error, aws))?;
    for warning in &report.warnings {
        tracing::warn!("store.table: {}: {warning}", report.table);
    }
    if report.problems.is_empty() {
        return Ok(());
    }
    let (table, problems) = (report.table, report.problems.join("; "));
    let hint = "see `ibyok-server table check --config FILE`";
    Err(ServerError::setting("store.table", format!("{table}: {problems}; {hint}")))
}

/// A table that is not there, or that AWS does not let this server see, and the setting to look at.
pub(super) fn table_error(error: TableError, aws: &AwsConfig) -> ServerError {
    let setting = match error {
        TableError::Absent(_) => {
            let hint = "correct store.table or store.region, or make it with `ibyok-server table create --config FILE`";
            return ServerError::setting("store.table", format!("{error}: {hint}"));
        }
        TableError::Credentials(_) => "store.kind",
        TableError::Refused(_) => "store.table",
        TableError::Unavailable(_) if aws.endpoint.is_some() => "store.endpoint",
        TableError::Unavailable(_) => "store.region",
    };
    ServerError::setting(setting, error)
}

/// The KMS that the settings name, whose primary key can be used.
pub(super) async fn sealer(config: &KmsConfig, sources: &Sources) -> Result<Sealer, ServerError> {
    let entropy = || Arc::clone(&sources.entropy);
    let wrapper: Arc<dyn KeyWrapper> = match config {
        KmsConfig::LocalFile { path } => Arc::new(
            LocalKeyWrapper::from_file(path, entropy()).map_err(|error| ServerError::setting("kms.key_file", error))?,
        ),
        KmsConfig::LocalKey { text } => {
            let text = std::str::from_utf8(text.expose_secret()).unwrap_or_default();
            let wrapper = LocalKeyWrapper::from_hex(text, entropy());
            Arc::new(wrapper.map_err(|_| ServerError::setting("IBYOK_MASTER_KEY", "must be 64 hex digits"))?)
        }
        KmsConfig::Aws(config) => Arc::new(aws_kms(config, sources).await.map_err(unfit)?),
    };
    Ok(Sealer::new(wrapper, entropy()))
}

async fn aws_kms(config: &AwsKmsConfig, sources: &Sources) -> Result<AwsKeyWrapper, Unfit> {
    let sdk = sdk_config(&config.aws, sources).await;
    let keys = Keys { primary: KmsKeyId(config.key_id.clone()), recovery: config.recovery_regions.clone() };
    let wrapper = AwsKeyWrapper::new(&sdk, keys, Arc::clone(&sources.clock))?;
    let found = wrapper.check(sources.clock.deadline(PATIENCE)).await?;
    tracing::info!("{found}");
    Ok(wrapper)
}

fn unfit(unfit: Unfit) -> ServerError {
    ServerError::setting(unfit.setting, unfit.problem)
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
pub(super) async fn problems(config: &Config, sources: &Sources) -> Vec<ServerError> {
    let mut problems = Vec::new();
    problems.extend(sealer(&config.kms, sources).await.err());
    problems.extend(providers(&config.providers).err());
    problems.extend(archive(&config.audit).err());
    problems.extend(store(&config.store, sources).await.err());
    problems
}

/// Looks whether there is a place for the store: the directory of its file, or its table.
async fn store(config: &StoreConfig, sources: &Sources) -> Result<(), ServerError> {
    match config {
        StoreConfig::Sqlite { path } => {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            match directory.is_some_and(|directory| !directory.is_dir()) {
                true => Err(ServerError::setting("store.path", "its directory does not exist")),
                false => Ok(()),
            }
        }
        StoreConfig::DynamoDb { table, kms_key, aws } => {
            let store = dynamodb((table, kms_key.as_ref()), aws, sources).await?;
            check_table(&store, aws, sources).await
        }
    }
}
