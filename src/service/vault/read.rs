//! GetKey, ListKeyVersions, DetectProvider, ListProviders: what is seen without opening anything.

use super::{KeyView, Vault, VersionView, absent, first};
use crate::{
    domain::{
        error::{Failure, Reason},
        ids::KeyName,
        provider::{Candidate, Provider},
        scope::Scope,
        secret::ProviderKey,
    },
    repository::keys,
    service::{call::Call, page_token::PageScope, session::Access},
};

/// A page of a key's versions is asked for.
#[derive(Clone, Debug)]
pub struct ListVersions {
    /// Of which key.
    pub name: KeyName,
    /// How many.
    pub page_size: usize,
    /// Where the page before ended; empty: from the newest.
    pub page_token: String,
}

/// A page of a key's versions, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedVersions {
    /// The versions.
    pub versions: Vec<VersionView>,
    /// Where the next begins; empty at the end.
    pub next_page_token: String,
}

impl Vault {
    /// A key's metadata and preview.
    ///
    /// # Errors
    /// KEY_NOT_FOUND; those of sessions.
    pub async fn key(&self, call: &Call, name: &KeyName) -> Result<KeyView, Failure> {
        call.own(&name.org, Reason::KeyNotFound)?;
        let access = Access::Resource(Scope::KeysList, name.to_string());
        let session = self.parts.sessions.open(call, access, &[keys::meta_key(&name.org, &name.id)]).await?;
        let stored = self.covered(&session.permit, name, first(session.items))?.ok_or_else(absent)?;
        Ok(self.view(call, stored.record).await)
    }

    /// A page of a key's versions.
    ///
    /// # Errors
    /// KEY_NOT_FOUND, INVALID_PAGE_TOKEN, RECORD_REJECTED; those of sessions.
    pub async fn list_versions(&self, call: &Call, request: &ListVersions) -> Result<ListedVersions, Failure> {
        let name = &request.name;
        call.own(&name.org, Reason::KeyNotFound)?;
        let access = Access::Resource(Scope::KeysList, name.to_string());
        let session = self.parts.sessions.open(call, access, &[keys::meta_key(&name.org, &name.id)]).await?;
        let record = self.covered(&session.permit, name, first(session.items))?.ok_or_else(absent)?.record;
        let filter = record.full_name();
        let (org, subject) = (session.permit.org(), session.permit.subject());
        let scope = PageScope { org, subject, method: call.method.path, filter: filter.as_bytes() };
        let after = crate::service::place(&self.parts, &scope, &request.page_token)?;
        let (stored, next) =
            keys::version_page(&self.parts.records, &record, request.page_size, after, call.deadline).await?;
        let now = self.parts.clock.now();
        let version = |stored: keys::StoredVersion| record.reconcile(stored.version, now);
        let view = |stored| VersionView { name: name.clone(), version: version(stored) };
        let next_page_token = crate::service::page_token(&self.parts, &scope, next)?;
        Ok(ListedVersions { versions: stored.into_iter().map(view).collect(), next_page_token })
    }

    /// Whose key this may be. Stores and logs nothing.
    ///
    /// # Errors
    /// Those of sessions.
    pub async fn detect_secret(&self, call: &Call, secret: &ProviderKey) -> Result<Vec<Candidate>, Failure> {
        self.parts.sessions.open(call, Access::Identity, &[]).await?;
        Ok(self.providers.detect_secret(secret))
    }

    /// Whose model this may be.
    ///
    /// # Errors
    /// Those of sessions.
    pub async fn detect_model(&self, call: &Call, model: &str) -> Result<Vec<Candidate>, Failure> {
        self.parts.sessions.open(call, Access::Identity, &[]).await?;
        Ok(self.providers.detect_model(model))
    }

    /// The provider table.
    ///
    /// # Errors
    /// Those of sessions.
    pub async fn list_providers(&self, call: &Call) -> Result<Vec<Provider>, Failure> {
        self.parts.sessions.open(call, Access::Identity, &[]).await?;
        Ok(self.providers.all().cloned().collect())
    }
}
