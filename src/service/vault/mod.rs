//! Provider keys: store, see, retrieve, rotate, retire. Which organization a call is for, its
//! [`Permit`] says; what is not covered by it answers as if it were not there.

use std::{sync::Arc, time::Duration};

use super::{Parts, call::Call};
use crate::{
    authz::permit::Permit,
    domain::{
        clock::{Deadline, Timestamp},
        error::{Failure, Reason},
        ids::{KeyName, OrgId},
        key::{KeyKind, KeyRecord, Version},
        provider::{Providers, Warning},
        scope::Scope,
        secret::ProviderKey,
    },
    repository::{
        keys::{self, StoredKey},
        last_used,
    },
    store::Item,
};

mod batch;
mod create;
mod edit;
mod import;
mod lifecycle;
mod list;
pub mod purge;
mod read;
mod retrieve;
mod rewrap;
mod rotate;

pub use batch::{BatchRetrieve, NAMES_MAX};
pub use create::CreateKey;
pub use import::Imported;
pub use lifecycle::KeyUpdate;
pub use list::{KeyFilter, ListKeys, Listed};
pub use read::{ListVersions, ListedVersions};
pub use retrieve::{Retrieve, Retrieved};
pub use rewrap::{Rewrap, Rewrapped};
pub use rotate::{AddVersion, Added, DestroyedVersion, Promote};

/// What an operator sets.
#[derive(Clone, Debug)]
pub struct VaultSettings {
    /// How long a client may keep a retrieved value in memory.
    pub cache_ttl: Duration,
    /// Hosts besides this machine whose base URLs may be plain http.
    pub plain_http_hosts: Vec<String>,
    /// How long backups of the database are kept: after that nothing brings a destroyed key back.
    pub backup_retention: Duration,
}

impl Default for VaultSettings {
    fn default() -> Self {
        Self {
            cache_ttl: Duration::from_secs(300),
            plain_http_hosts: Vec::new(),
            backup_retention: Duration::from_secs(35 * 86_400),
        }
    }
}

/// A key as a caller may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyView {
    /// Its record; a decoy looks LIVE to who may not read the audit log.
    pub record: KeyRecord,
    /// When it was last retrieved, as far as the log is folded.
    pub last_used: Option<Timestamp>,
    /// The time at which the stages count.
    pub as_of: Timestamp,
}

/// A version as a caller may see it; its stage is the one that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionView {
    /// The key.
    pub name: KeyName,
    /// The version.
    pub version: Version,
}

/// A stored key and the advice that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The key.
    pub key: KeyView,
    /// Advice.
    pub warnings: Vec<Warning>,
}

/// When a key or a version was destroyed, and when no backup brings it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destroyed {
    /// When.
    pub time: Timestamp,
    /// From when on it is irrecoverable.
    pub irrecoverable: Timestamp,
}

/// The use cases of provider keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Vault {
    parts: Parts,
    providers: Arc<Providers>,
    settings: Arc<VaultSettings>,
}

impl Vault {
    /// With these parts.
    #[must_use]
    pub fn new(parts: Parts, providers: Arc<Providers>, settings: VaultSettings) -> Self {
        Self { parts, providers, settings: Arc::new(settings) }
    }

    /// The key in `item`, if the permit covers it; else the answer is that of absence.
    fn covered(&self, permit: &Permit, name: &KeyName, item: Option<Item>) -> Result<Option<StoredKey>, Failure> {
        covered(&self.parts, permit, name, item)
    }

    /// `record` as the caller may see it, with its last use where that is known.
    async fn view(&self, call: &Call, record: KeyRecord) -> KeyView {
        let (org, ids) = (&record.name.org, [record.name.id.clone()]);
        // The last use is a projection that lags; a key is answered without it rather than not.
        let used = last_used::keys(&self.parts.records, org, &ids, call.deadline).await.unwrap_or_default();
        self.view_used(call, record, used.into_iter().next().flatten())
    }

    fn view_used(&self, call: &Call, mut record: KeyRecord, last_used: Option<Timestamp>) -> KeyView {
        let sees_decoys = call.claims.as_ref().is_some_and(|claims| claims.scopes.contains(&Scope::AuditRead));
        if record.kind == KeyKind::Tripwire && !sees_decoys {
            record.kind = KeyKind::Live;
        }
        // What is older was a use of a destroyed key that had its name.
        let last_used = last_used.filter(|used| *used >= record.created);
        KeyView { record, last_used, as_of: self.parts.clock.now() }
    }

    /// The keyed fingerprint of `secret` within `org`; whitespace around it does not count.
    async fn fingerprint(&self, org: &OrgId, secret: &ProviderKey, deadline: Deadline) -> Result<String, Failure> {
        let keys = self.parts.keyring.org_keys(org, deadline).await?;
        let tag = keys.fingerprint.tag([b"provider key".as_slice(), secret.expose_secret().trim().as_bytes()]);
        Ok(data_encoding::HEXLOWER.encode(tag.first_chunk::<16>().unwrap_or(&[0; 16])))
    }

    fn destroyed(&self, time: Timestamp) -> Destroyed {
        Destroyed { time, irrecoverable: time.plus(self.settings.backup_retention) }
    }
}

/// The key in `item`, if it is there for who has this permit.
pub(super) fn covered(
    parts: &Parts,
    permit: &Permit,
    name: &KeyName,
    item: Option<Item>,
) -> Result<Option<StoredKey>, Failure> {
    let Some(item) = item else { return Ok(None) };
    let stored = keys::open(&parts.records, permit.org(), &name.id, item)?;
    Ok(is_seen(parts, permit, &stored.record).then_some(stored))
}

/// Whether there is still such a key for who has this permit.
fn is_seen(parts: &Parts, permit: &Permit, record: &KeyRecord) -> bool {
    !record.is_purged(parts.clock.now())
        && permit.covers(&record.full_name(), record.environment.as_ref(), &record.labels)
}

/// The first of the items that a session read.
fn first(items: Vec<Option<Item>>) -> Option<Item> {
    items.into_iter().next().flatten()
}

fn absent() -> Failure {
    Reason::KeyNotFound.into()
}
