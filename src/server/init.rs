//! `ibyok-server init`: a new vault, with the organization `system`, the first organization, and in
//! each a binding by which the administrator's certificate exchanges itself for a token. There is no
//! first password.

use std::sync::Arc;

use super::{PATIENCE, ServerError, Sources, Store, adapters, vault};
use crate::{
    config::Config,
    domain::{error::Reason, ids::OrgId, principal::IdentityPattern},
    service::{
        init::{Initialize, initialize},
        keyring::Keyring,
        sealing::Sealer,
    },
    store::Action,
};

/// What is made.
#[derive(Clone, Debug)]
pub struct Init {
    /// The first organization.
    pub org: OrgId,
    /// Who administrates it, and the whole vault.
    pub admin: IdentityPattern,
}

/// Makes the vault in the store that the settings name.
///
/// # Errors
/// When there is one already; when the store or the KMS does not work.
pub async fn init(config: &Config, init: &Init, sources: &Sources) -> Result<(), ServerError> {
    if init.org.is_system() {
        return Err(ServerError::setting("--org", "another name than system, which is made anyway"));
    }
    let sealer = adapters::sealer(&config.kms, sources).await?;
    let store = Store::open_or_make(&config.store, sources).await?;
    let deadline = sources.clock.deadline(PATIENCE);
    let (clock, entropy) = (Arc::clone(&sources.clock), Arc::clone(&sources.entropy));
    let made = match Keyring::create(store.port(), sealer.clone(), entropy, clock, deadline).await {
        Ok(created) => make(config, init, sources, created, (&store, sealer)).await,
        Err(failure) => Err(failure.into()),
    };
    store.close().await;
    made
}

async fn make(
    config: &Config,
    init: &Init,
    sources: &Sources,
    (keyring, keys): (Keyring, Vec<Action>),
    (store, sealer): (&Store, Sealer),
) -> Result<(), ServerError> {
    let parts = vault::parts(keyring, sealer, store, config, sources)?;
    let request = Initialize {
        org: init.org.clone(),
        is_mock: false,
        admin_identity: init.admin.clone(),
        ttl_longest: config.tokens.ttl_longest,
    };
    let made = initialize(&parts, keys, &request, sources.clock.deadline(PATIENCE)).await;
    parts.audit.close().await;
    match made {
        Err(failure) if failure.reason == Reason::AlreadyInitialized => Err(ServerError::Initialised),
        made => Ok(made?),
    }
}
