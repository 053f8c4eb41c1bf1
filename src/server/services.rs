//! The services, each with its limits, behind one router.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use tokio::sync::watch;

use super::{ServerError, vault::Vault};
use crate::{
    config::Config,
    grpc::{
        IMPORT_MESSAGE_MAX, MESSAGE_MAX,
        admin::AdminService,
        audit::AuditService,
        gate::Gate,
        health,
        key_groups::KeyGroupsService,
        key_vault::KeyVaultService,
        listener::tls::Trust,
        pb::{
            admin_server::AdminServer, audit_server::AuditServer, key_groups_server::KeyGroupsServer,
            key_vault_server::KeyVaultServer, tokens_server::TokensServer,
        },
        reflection,
        routes::Routes,
        sizes::BySize,
        tokens::TokensService,
    },
    service::{
        audit::{AuditReader, retention::Retention},
        bindings::BindingService,
        orgs::OrgService,
        status::StatusService,
        tokens::{TokenService, TokenSettings},
        usage::UsageService,
        vault::{Vault as KeyUseCases, VaultSettings},
    },
};

/// The services whose health is reported by name.
const NAMES: &[&str] = &["ibyok.v1.Tokens", "ibyok.v1.Audit", "ibyok.v1.Admin"];
/// Those of them that release provider keys.
const RELEASING: &[&str] = &["ibyok.v1.KeyVault", "ibyok.v1.KeyGroups"];

/// Every service of the contract, health and reflection.
pub(super) fn routes(
    vault: &Vault,
    config: &Config,
    gate: &Gate,
    condition: health::Condition,
    certificate_not_after: Arc<AtomicI64>,
) -> Result<Routes, ServerError> {
    let parts = || vault.parts.clone();
    let keys = KeyUseCases::new(parts(), Arc::clone(&vault.providers), key_settings(config));
    let tokens = TokenService::new(parts(), token_settings(config));
    let bindings = BindingService::new(parts(), token_settings(config));
    let orgs = OrgService::new(parts(), config.tokens.ttl_longest);
    let archive = vault.retention.as_ref().map(Retention::status);
    let status = StatusService::new(parts(), certificate_not_after).with_archive(archive);

    let keys = KeyVaultServer::new(KeyVaultService::new(gate.clone(), keys, UsageService::new(parts())));
    let imports = keys.clone().max_decoding_message_size(IMPORT_MESSAGE_MAX);
    let keys = BySize::new(keys.max_decoding_message_size(MESSAGE_MAX), imports, "/ibyok.v1.KeyVault/ImportKeys");
    let groups = KeyGroupsServer::new(KeyGroupsService::new(gate.clone()));
    let tokens = TokensServer::new(TokensService::new(gate.clone(), tokens, bindings));
    let audit = AuditServer::new(AuditService::new(gate.clone(), AuditReader::new(parts())));
    let admin = AdminServer::new(AdminService::new(gate.clone(), orgs, status));
    let routes = Routes::default()
        .add_service(health::service(NAMES, RELEASING, condition))
        .add_service(keys)
        .add_service(groups.max_decoding_message_size(MESSAGE_MAX))
        .add_service(tokens.max_decoding_message_size(MESSAGE_MAX))
        .add_service(audit.max_decoding_message_size(MESSAGE_MAX))
        .add_service(admin.max_decoding_message_size(MESSAGE_MAX));
    reflection::add_to(routes).map_err(|error| ServerError::Reflection(error.to_string()))
}

/// The end of the server's certificate, in seconds since the Unix epoch, kept as the status
/// service reads it: now, and what moves it.
pub(super) fn certificate_expiry(
    mut trust: watch::Receiver<Trust>,
) -> (Arc<AtomicI64>, impl Future<Output = ()> + Send + 'static) {
    let seconds = Arc::new(AtomicI64::new(trust.borrow_and_update().not_after.seconds()));
    let moved = Arc::clone(&seconds);
    let keep = async move {
        while trust.changed().await.is_ok() {
            moved.store(trust.borrow_and_update().not_after.seconds(), Ordering::Relaxed);
        }
    };
    (seconds, keep)
}

fn key_settings(config: &Config) -> VaultSettings {
    VaultSettings {
        cache_ttl: config.keys.cache_ttl,
        plain_http_hosts: config.providers.plain_hosts.clone(),
        backup_retention: config.keys.backup_retention,
    }
}

fn token_settings(config: &Config) -> TokenSettings {
    let tokens = &config.tokens;
    TokenSettings {
        issuer: tokens.issuer.clone(),
        audience: tokens.audience.clone(),
        ttl_default: tokens.ttl_default,
        ttl_longest: tokens.ttl_longest,
    }
}
