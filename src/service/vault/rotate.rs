//! Rotation without downtime: a new version is staged, verified, promoted; the old one lives on
//! for its grace, can be gone back to, and is destroyed at the end.

use std::time::Duration;

use super::{
    Destroyed, KeyView, Vault, VersionView,
    edit::{Asked, Begun, Edit, Ended, Plan, Step, same},
};
use crate::{
    domain::{
        clock::Timestamp,
        error::{Failure, Reason},
        ids::{KeyName, VersionName, VersionSelector},
        key::{AuthScheme, KeyKind, KeyRecord, input},
        provider::Warning,
        scope::Scope,
        secret::ProviderKey,
    },
    repository::{
        keys::{self, StoredKey, StoredVersion, lookup},
        orgs::{self, OrgRecord},
    },
    service::{call::Call, mutation::Remembered},
};

/// A new value to be staged.
#[derive(Debug)]
pub struct AddVersion {
    /// Of which key.
    pub name: KeyName,
    /// The value.
    pub secret: ProviderKey,
    /// Empty: that of the CURRENT version.
    pub base_url: String,
    /// None: that of the CURRENT version.
    pub auth_scheme: Option<AuthScheme>,
    /// Empty asks for nothing.
    pub etag: String,
    /// Makes it happen once.
    pub request_id: String,
}

/// A staged version and the advice that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// The version.
    pub version: VersionView,
    /// Advice.
    pub warnings: Vec<Warning>,
}

/// A version to become CURRENT.
#[derive(Clone, Debug)]
pub struct Promote {
    /// Which.
    pub name: VersionName,
    /// How long the old one lives on; None: as the key's policy says, else 24 hours.
    pub grace: Option<Duration>,
    /// Whether a PENDING one will do.
    pub allow_unverified: bool,
    /// Empty asks for nothing.
    pub etag: String,
    /// Makes it happen once.
    pub request_id: String,
}

/// A destroyed version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestroyedVersion {
    /// What is left of it.
    pub version: VersionView,
    /// When no backup brings it back.
    pub destroyed: Destroyed,
}

impl Vault {
    /// Stages a new value as PENDING; CURRENT is untouched.
    ///
    /// # Errors
    /// INVALID_FIELD, KEY_NOT_FOUND, KEY_DELETED, TOO_MANY_VERSIONS, ETAG_MISMATCH,
    /// WRITE_CONFLICT; those of sessions, of mutations and of sealing.
    pub async fn add_version(&self, call: &Call, request: AddVersion) -> Result<Added, Failure> {
        let AddVersion { name, request_id, etag, .. } = &request;
        call.own(&name.org, Reason::KeyNotFound)?;
        request.check(&self.settings.plain_http_hosts)?;
        let asked = Asked { call, name, scope: Scope::KeysRotate, request_id, etag };
        let mut edit = match self.begin(asked, &[orgs::item_key(&name.org)]).await? {
            Begun::Fresh(edit) => edit,
            Begun::Before(remembered, found) => {
                return self.added_before(call, remembered, found.map(|found| *found)).await;
            }
        };
        let org = edit.more.pop().flatten().ok_or(Reason::OrgNotFound)?;
        let org = orgs::decode(&self.parts.records.verify(org)?)?;
        loop {
            let planned = self.addition(&edit, &org, &request).await;
            match self.finish(&mut edit, planned).await? {
                Ended::Done(_, added) => return Ok(added),
                Ended::Again => {}
                Ended::Before(remembered) => {
                    let found = self.read_again(&edit.permit, asked).await?;
                    return self.added_before(call, remembered, found).await;
                }
            }
        }
    }

    async fn addition(&self, edit: &Edit<'_>, org: &OrgRecord, request: &AddVersion) -> Result<(Plan, Added), Failure> {
        let (call, AddVersion { name, secret, .. }) = (edit.call(), request);
        let StoredKey { record: before, sealed } = edit.key()?;
        self.check_kind(&before, secret)?;
        let (base_url, auth_scheme) = request.place(&before);
        let (mut version, warnings) = self.version(call, &before, secret, base_url, auth_scheme).await?;
        let mut after = before.clone();
        // A refusal costs no data key.
        after.add_version(version.clone(), version.created)?;
        let value = self.seal(call, org, &before, after.last_version, secret).await?;
        version.kms_key.clone_from(&value.wrapped.kms_key_id.0);
        let mut after = before;
        let added = after.add_version(version.clone(), version.created)?.pop().ok_or(Reason::Internal)?;
        let stored = StoredVersion::new(after.uid.clone(), added.clone(), Some(value.to_bytes()));
        let mut plan = Plan::new(after, vec![stored], sealed);
        plan.version = Some(added.number);
        plan.rows.push(lookup::put_fingerprint(name, &added));
        plan.codes = warnings.iter().map(|warning| warning.code().to_owned()).collect();
        Ok((plan, Added { version: VersionView { name: name.clone(), version: added }, warnings }))
    }

    /// PENDING to VERIFIED, with the caller's evidence. A bare key name means its pending version.
    ///
    /// # Errors
    /// INVALID_FIELD, KEY_NOT_FOUND, VERSION_NOT_FOUND, VERSION_NOT_PENDING, KEY_DELETED,
    /// WRITE_CONFLICT; those of sessions and of mutations.
    pub async fn verify_version(
        &self,
        call: &Call,
        name: &VersionName,
        evidence: &str,
        request_id: &str,
    ) -> Result<VersionView, Failure> {
        call.own(&name.key.org, Reason::KeyNotFound)?;
        input::check_text("evidence", evidence, 256)?;
        let asked = Asked { call, name: &name.key, scope: Scope::KeysRotate, request_id, etag: "" };
        let mut edit = match self.begin(asked, &[]).await? {
            Begun::Fresh(edit) => edit,
            Begun::Before(remembered, found) => {
                return self.version_before(call, &remembered, found.map(|found| *found)).await;
            }
        };
        loop {
            let planned = self.verification(&edit, name.version, evidence).await;
            match self.finish(&mut edit, planned).await? {
                Ended::Done(record, number) => return view_listed(&record, number),
                Ended::Again => {}
                Ended::Before(remembered) => {
                    let found = self.read_again(&edit.permit, asked).await?;
                    return self.version_before(call, &remembered, found).await;
                }
            }
        }
    }

    async fn verification(
        &self,
        edit: &Edit<'_>,
        version: VersionSelector,
        evidence: &str,
    ) -> Result<(Plan, u32), Failure> {
        let stored = edit.key()?;
        let now = self.parts.clock.now();
        let mut after = stored.record.clone();
        let number = known(&after, version, now)?;
        let changed = after.verify_version(number, now)?;
        let mut plan = self.plan(edit.call(), stored, after, changed).await?;
        for version in &mut plan.versions {
            evidence.clone_into(&mut version.evidence);
        }
        plan.version = Some(number);
        evidence.clone_into(&mut plan.purpose);
        Ok((plan, number))
    }

    /// VERIFIED to CURRENT; the old CURRENT becomes PREVIOUS for the grace period. A bare key name
    /// means its pending version.
    ///
    /// # Errors
    /// INVALID_FIELD, KEY_NOT_FOUND, VERSION_NOT_FOUND, VERSION_NOT_VERIFIED, VERSION_WRONG_STAGE,
    /// KEY_DELETED, ETAG_MISMATCH, WRITE_CONFLICT; those of sessions and of mutations.
    pub async fn promote_version(&self, call: &Call, request: &Promote) -> Result<KeyView, Failure> {
        let Promote { name, request_id, etag, .. } = request;
        call.own(&name.key.org, Reason::KeyNotFound)?;
        if let Some(grace) = request.grace {
            input::check_span("grace", grace, Duration::ZERO, input::GRACE_MAX)?;
        }
        let asked = Asked { call, name: &name.key, scope: Scope::KeysRotate, request_id, etag };
        self.change(asked, |_, mut after, now| {
            let number = known(&after, name.version, now)?;
            let grace = request.grace.or(after.rotation.grace).unwrap_or(input::GRACE_DEFAULT);
            let changed = after.promote_version(number, grace, request.allow_unverified, now)?;
            Ok(Step { changed, version: Some(number), ..Step::new(after) })
        })
        .await
    }

    /// PREVIOUS back to CURRENT.
    ///
    /// # Errors
    /// KEY_NOT_FOUND, VERSION_NOT_PREVIOUS, KEY_DELETED, ETAG_MISMATCH, WRITE_CONFLICT; those of
    /// sessions and of mutations.
    pub async fn roll_back_version(
        &self,
        call: &Call,
        name: &KeyName,
        etag: &str,
        request_id: &str,
    ) -> Result<KeyView, Failure> {
        let asked = Asked { call, name, scope: Scope::KeysRotate, request_id, etag };
        self.change(asked, |_, mut after, now| {
            let changed = after.roll_back(now)?;
            let version = after.current().map(|version| version.number);
            Ok(Step { changed, version, ..Step::new(after) })
        })
        .await
    }

    /// Destroys one version's ciphertext at once, wherever it stands.
    ///
    /// # Errors
    /// KEY_NOT_FOUND, VERSION_NOT_FOUND, VERSION_DESTROYED, ETAG_MISMATCH, WRITE_CONFLICT; those of
    /// sessions and of mutations.
    pub async fn destroy_version(
        &self,
        call: &Call,
        name: &VersionName,
        etag: &str,
        request_id: &str,
    ) -> Result<DestroyedVersion, Failure> {
        let asked = Asked { call, name: &name.key, scope: Scope::KeysDestroy, request_id, etag };
        let mut edit = match self.begin(asked, &[]).await? {
            Begun::Fresh(edit) => edit,
            Begun::Before(remembered, found) => {
                return self.destroyed_before(call, &remembered, found.map(|found| *found)).await;
            }
        };
        loop {
            let planned = self.destruction(&edit, name).await;
            match self.finish(&mut edit, planned).await? {
                Ended::Done(_, destroyed) => return Ok(destroyed),
                Ended::Again => {}
                Ended::Before(remembered) => {
                    let found = self.read_again(&edit.permit, asked).await?;
                    return self.destroyed_before(call, &remembered, found).await;
                }
            }
        }
    }

    async fn destruction(&self, edit: &Edit<'_>, name: &VersionName) -> Result<(Plan, DestroyedVersion), Failure> {
        let call = edit.call();
        let stored = edit.key()?;
        let now = self.parts.clock.now();
        let number = known(&stored.record, name.version, now)?;
        let own = keys::versions(&self.parts.records, &stored.record, &[number], call.deadline).await?;
        let own = own.into_iter().next().ok_or(Reason::VersionNotFound)?.version;
        let fingerprint = lookup::delete_fingerprint(&name.key, &own);
        let mut after = stored.record.clone();
        let changed = after.destroy_version(own, now)?;
        let left = changed.first().cloned().ok_or(Reason::Internal)?;
        let mut plan = self.plan(call, stored, after, changed).await?;
        plan.version = Some(number);
        plan.rows.extend(fingerprint);
        let version = VersionView { name: name.key.clone(), version: left };
        Ok((plan, DestroyedVersion { version, destroyed: self.destroyed(now) }))
    }

    /// An administration key has a kind, and a scope to read it, of its own: no version makes one of
    /// another key. A decoy refuses it, too, or it would be known by taking it.
    fn check_kind(&self, before: &KeyRecord, secret: &ProviderKey) -> Result<(), Failure> {
        if before.kind == KeyKind::ProviderAdmin || self.providers.kind_of(secret) != Some(KeyKind::ProviderAdmin) {
            return Ok(());
        }
        Err(Failure::invalid("secret", "an administration key: store it as a key of its own, of kind PROVIDER_ADMIN"))
    }

    async fn added_before(
        &self,
        call: &Call,
        remembered: Remembered,
        found: Option<StoredKey>,
    ) -> Result<Added, Failure> {
        let version = self.version_before(call, &remembered, found).await?;
        let warnings = remembered.codes.iter().filter_map(|code| Warning::from_code(code)).collect();
        Ok(Added { version, warnings })
    }

    async fn destroyed_before(
        &self,
        call: &Call,
        remembered: &Remembered,
        found: Option<StoredKey>,
    ) -> Result<DestroyedVersion, Failure> {
        let version = self.version_before(call, remembered, found).await?;
        let time = version.version.destroyed.ok_or(Reason::VersionNotFound)?;
        Ok(DestroyedVersion { version, destroyed: self.destroyed(time) })
    }

    /// What a replay of a change of a version answers: the version as it is now.
    async fn version_before(
        &self,
        call: &Call,
        remembered: &Remembered,
        found: Option<StoredKey>,
    ) -> Result<VersionView, Failure> {
        let record = same(remembered, found)?.record;
        let number = remembered.numbers.get("version").and_then(|number| u32::try_from(*number).ok());
        let number = number.ok_or(Reason::RecordRejected)?;
        let stored = keys::versions(&self.parts.records, &record, &[number], call.deadline).await?;
        let stored = stored.into_iter().next().ok_or(Reason::VersionNotFound)?;
        let version = record.reconcile(stored.version, self.parts.clock.now());
        Ok(VersionView { name: record.name, version })
    }
}

impl AddVersion {
    fn check(&self, plain_hosts: &[String]) -> Result<(), Failure> {
        if !self.base_url.is_empty() {
            input::check_base_url("base_url", &self.base_url, plain_hosts)?;
        }
        if let Some(scheme) = &self.auth_scheme {
            input::check_auth_scheme("auth_scheme", scheme)?;
        }
        Ok(())
    }
    fn place(&self, before: &KeyRecord) -> (String, AuthScheme) {
        let base_url = if self.base_url.is_empty() { &before.base_url } else { &self.base_url };
        (base_url.clone(), self.auth_scheme.as_ref().unwrap_or(&before.auth_scheme).clone())
    }
}

/// The number of a version that is there or was.
fn known(record: &KeyRecord, selector: VersionSelector, now: Timestamp) -> Result<u32, Failure> {
    record.select(selector, now).map_err(|reason| match reason {
        Reason::KeyHasNoSecret => Reason::VersionNotFound.into(),
        reason => reason.into(),
    })
}

fn view_listed(record: &KeyRecord, number: u32) -> Result<VersionView, Failure> {
    let version = record.version(number).cloned().ok_or(Reason::VersionNotFound)?;
    Ok(VersionView { name: record.name.clone(), version })
}
