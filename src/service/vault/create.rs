//! CreateKey.

use std::time::Duration;

use super::{Created, Vault, edit};
use crate::{
    authz::permit::Permit,
    domain::{
        clock::Timestamp,
        error::{Failure, Reason},
        ids::{Environment, KeyId, KeyName, OrgId, ProviderId, Uid},
        key::{
            AuthScheme, KeyKind, KeyRecord, KeyState, Labels, RotationPolicy, Stage, Version, check_labels, input,
            preview::preview,
        },
        provider::{Candidate, Confidence, Provider, Warning},
        scope::Scope,
        secret::ProviderKey,
    },
    envelope::{Purpose, SealContext, SealedValue},
    repository::{
        keys::{self, Left, StoredVersion, listing, lookup},
        orgs::{self, OrgRecord},
    },
    service::{
        call::Call,
        mutation::{Idempotency, Mutated, Remembered},
        session::Access,
    },
    store::{Action, Item, ItemKey},
};

/// A key to be stored.
#[derive(Debug)]
pub struct CreateKey {
    /// Where.
    pub org: OrgId,
    /// Under which id.
    pub id: KeyId,
    /// The value; None for an entry without one.
    pub secret: Option<ProviderKey>,
    /// Whose key it is; None: as its shape says.
    pub provider: Option<ProviderId>,
    /// Empty: the provider's.
    pub base_url: String,
    /// None: the provider's.
    pub auth_scheme: Option<AuthScheme>,
    /// For people.
    pub description: String,
    /// Labels.
    pub labels: Labels,
    /// Models.
    pub models: Vec<String>,
    /// When it is to be rotated.
    pub rotation: RotationPolicy,
    /// How long it is good.
    pub ttl: Option<Duration>,
    /// Where it is for.
    pub environment: Option<Environment>,
    /// None: as its shape says, else LIVE.
    pub kind: Option<KeyKind>,
    /// Only say what would be.
    pub validate_only: bool,
    /// Makes it happen once.
    pub request_id: String,
}

impl Vault {
    /// Stores a key; its first version becomes CURRENT.
    ///
    /// # Errors
    /// INVALID_FIELD, PROVIDER_AMBIGUOUS, ORG_IS_SYSTEM, KEY_EXISTS, RESOURCE_NOT_GRANTED; those
    /// of sessions, of mutations and of sealing.
    pub async fn create_key(&self, call: &Call, request: CreateKey) -> Result<Created, Failure> {
        call.own(&request.org, Reason::OrgNotFound)?;
        if request.org.is_system() {
            return Err(Reason::OrgIsSystem.into());
        }
        let name = KeyName { org: request.org.clone(), id: request.id.clone() };
        let request_id = if request.validate_only { "" } else { &request.request_id };
        let idempotency = self.parts.mutations.idempotency(call, &name.org, request_id).await?;
        let KeyName { org, id } = &name;
        let mut needs = vec![orgs::item_key(org), keys::meta_key(org, id), keys::left_key(org, id)];
        needs.extend(idempotency.as_ref().map(|idempotency| idempotency.key.clone()));
        let access = Access::Resource(Scope::KeysWrite, name.to_string());
        let session = self.parts.sessions.open(call, access, &needs).await?;
        let mut items = session.items.into_iter();
        let mut next = || items.next().flatten();
        let (org, meta, left, row) = (next(), next(), next(), next());
        if let Some(remembered) = self.parts.mutations.prior(idempotency.as_ref(), row)? {
            // What is read at once is no snapshot: the row may be younger than the key beside it.
            let meta = self.read_one(call, keys::meta_key(&name.org, &name.id)).await?;
            return self.created_before(call, &session.permit, &name, remembered, meta).await;
        }
        let org = orgs::decode(&self.parts.records.verify(org.ok_or(Reason::OrgNotFound)?)?)?;
        let left = keys::open_left(&self.parts.records, &name.org, &name.id, left)?;
        let draft = self.draft(&org, name.clone(), left, &request)?;
        if !session.permit.covers(&draft.full_name(), draft.environment.as_ref(), &draft.labels) {
            return Err(Reason::ResourceNotGranted.into());
        }
        if meta.is_some() {
            let refused = self.parts.mutations.refused(call, idempotency.as_ref(), Reason::KeyExists.into());
            let remembered = refused.await?;
            return self.created_before(call, &session.permit, &name, remembered, meta).await;
        }
        self.store(call, &org, (draft, left), request, idempotency.as_ref(), &session.permit).await
    }

    async fn store(
        &self,
        call: &Call,
        org: &OrgRecord,
        (mut record, left): (KeyRecord, Left),
        request: CreateKey,
        idempotency: Option<&Idempotency>,
        permit: &Permit,
    ) -> Result<Created, Failure> {
        let mut warnings = Vec::new();
        let mut sealed = None;
        if let Some(secret) = &request.secret {
            let (base_url, auth_scheme) = (record.base_url.clone(), record.auth_scheme.clone());
            let (mut version, advice) = self.version(call, &record, secret, base_url, auth_scheme).await?;
            if !request.validate_only {
                let value = self.seal(call, org, &record, record.first_version, secret).await?;
                version.kms_key.clone_from(&value.wrapped.kms_key_id.0);
                sealed = Some(value.to_bytes());
            }
            warnings = advice;
            let (now, rotation) = (record.created, record.rotation);
            record.add_version(version, now)?;
            record.promote_version(record.first_version, Duration::ZERO, true, now)?;
            record.rotation = rotation;
        }
        if request.validate_only {
            return Ok(Created { key: self.view_used(call, record, None), warnings });
        }
        let mut actions = self.creation(&record, sealed);
        actions.push(keys::take_left(&record.name, left));
        let version = record.current().map(|version| version.number);
        let codes = warnings.iter().map(|warning| warning.code().to_owned()).collect();
        let remembered = edit::remembered(&record, version, codes);
        let draft = edit::draft(call, &record, version);
        match self.parts.mutations.commit(call, idempotency, remembered, actions, draft).await? {
            Mutated::Done(_) => {
                record.revision = 1;
                Ok(Created { key: self.view_used(call, record, None), warnings })
            }
            Mutated::Conflict { index: 0, .. } => Err(Reason::KeyExists.into()),
            Mutated::Conflict { .. } => Err(Reason::WriteConflict.into()),
            Mutated::Replayed(remembered) => {
                let meta = [keys::meta_key(&record.name.org, &record.name.id)];
                let items = self.parts.records.get(&meta, call.deadline).await?;
                self.created_before(call, permit, &record.name, remembered, super::first(items)).await
            }
        }
    }

    /// Everything that is written for a new key; its record comes first.
    fn creation(&self, record: &KeyRecord, sealed: Option<Vec<u8>>) -> Vec<Action> {
        let (records, key_uid) = (&self.parts.records, &record.uid);
        let mut actions = vec![keys::put(records, record, sealed.clone()), listing::put(record)];
        for version in &record.versions {
            let stored = StoredVersion::new(key_uid.clone(), version.clone(), sealed.clone());
            actions.push(keys::put_version(records, &record.name, &stored));
            actions.push(lookup::put_fingerprint(&record.name, version));
        }
        actions.extend(lookup::put_routes(record));
        actions
    }

    async fn created_before(
        &self,
        call: &Call,
        permit: &Permit,
        name: &KeyName,
        remembered: Remembered,
        meta: Option<Item>,
    ) -> Result<Created, Failure> {
        let stored = edit::same(&remembered, self.covered(permit, name, meta)?)?;
        let warnings = remembered.codes.iter().filter_map(|code| Warning::from_code(code)).collect();
        Ok(Created { key: self.view(call, stored.record).await, warnings })
    }

    /// The record without versions.
    fn draft(&self, org: &OrgRecord, name: KeyName, left: Left, request: &CreateKey) -> Result<KeyRecord, Failure> {
        let provider = self.provider(request)?;
        request.check(provider, &self.settings.plain_http_hosts)?;
        let now = self.parts.clock.now();
        let uid = Uid::random(&*self.parts.entropy).map_err(|error| Failure::new(Reason::Internal).caused_by(error))?;
        let shape = request.secret.as_ref().and_then(|secret| self.providers.kind_of(secret));
        Ok(KeyRecord {
            name,
            uid,
            org_uid: org.uid.clone(),
            provider: provider.id.clone(),
            kind: kind(request.kind, shape),
            environment: request.environment.clone(),
            state: KeyState::Active,
            base_url: if request.base_url.is_empty() { provider.base_url.clone() } else { request.base_url.clone() },
            auth_scheme: request.auth_scheme.clone().unwrap_or_else(|| provider.auth_scheme.clone()),
            description: request.description.clone(),
            labels: request.labels.clone(),
            models: request.models.clone(),
            rotation: rotation_from(request.rotation, now),
            created: now,
            updated: now,
            expires: request.ttl.map(|ttl| now.plus(ttl)),
            deleted: None,
            purges: None,
            versions: Vec::new(),
            first_version: left.last_version.checked_add(1).ok_or(Reason::TooManyVersions)?,
            last_version: left.last_version,
            revision: 0,
        })
    }

    async fn read_one(&self, call: &Call, key: ItemKey) -> Result<Option<Item>, Failure> {
        Ok(super::first(self.parts.records.get(&[key], call.deadline).await?))
    }

    /// The provider that is named, or else the one that the shape is certain of.
    fn provider(&self, request: &CreateKey) -> Result<&Provider, Failure> {
        let unknown = || Failure::invalid("provider", "a provider of ListProviders, or custom");
        if let Some(named) = &request.provider {
            return self.providers.get(named).ok_or_else(unknown);
        }
        let secret =
            request.secret.as_ref().ok_or_else(|| Failure::invalid("secret", "required, or name a provider"))?;
        let candidates = self.providers.detect_secret(secret);
        match candidates.as_slice() {
            [one] if one.confidence == Confidence::Certain => self.providers.get(&one.provider).ok_or_else(unknown),
            _ => Err(ambiguous(&candidates)),
        }
    }

    /// A version of `record` for `secret`, not sealed yet, and the advice that goes with it.
    pub(super) async fn version(
        &self,
        call: &Call,
        record: &KeyRecord,
        secret: &ProviderKey,
        base_url: String,
        auth_scheme: AuthScheme,
    ) -> Result<(Version, Vec<Warning>), Failure> {
        let org = &record.name.org;
        let fingerprint = self.fingerprint(org, secret, call.deadline).await?;
        let mut warnings = self.providers.warnings(secret, &record.provider);
        if lookup::is_known(&self.parts.records, org, &fingerprint, call.deadline).await? {
            warnings.push(Warning::DuplicateSecret);
        }
        let version = Version {
            number: 0,
            stage: Stage::Pending,
            preview: preview(secret),
            fingerprint,
            created: self.parts.clock.now(),
            verified: None,
            promoted: None,
            retires: None,
            destroyed: None,
            kms_key: String::new(),
            base_url,
            auth_scheme,
        };
        Ok((version, warnings))
    }

    /// Seals `secret` as version `number` of `record`, under its organization's KMS key.
    pub(super) async fn seal(
        &self,
        call: &Call,
        org: &OrgRecord,
        record: &KeyRecord,
        number: u32,
        secret: &ProviderKey,
    ) -> Result<SealedValue, Failure> {
        let context = seal_context(record, number);
        self.parts.sealer.seal(org.kms_key.as_ref(), &context, secret.expose_secret().as_bytes(), call.deadline).await
    }
}

impl CreateKey {
    fn check(&self, provider: &Provider, plain_hosts: &[String]) -> Result<(), Failure> {
        if self.secret.is_none() && !provider.is_secret_optional {
            return Err(Failure::invalid("secret", "required: this provider's entries have a key"));
        }
        if !self.base_url.is_empty() {
            input::check_base_url("base_url", &self.base_url, plain_hosts)?;
        } else if provider.base_url.is_empty() {
            return Err(Failure::invalid("base_url", "required: this provider's base URL is set for each key"));
        }
        if let Some(scheme) = &self.auth_scheme {
            input::check_auth_scheme("auth_scheme", scheme)?;
        }
        if let Some(ttl) = self.ttl {
            input::check_ttl("ttl", ttl)?;
        }
        input::check_text("description", &self.description, 1_024)?;
        check_labels("labels", &self.labels)?;
        input::check_models("models", &self.models)?;
        Ok(input::check_rotation("rotation", &self.rotation)?)
    }
}

/// `policy` with its next time, where it names a period only.
pub(super) fn rotation_from(policy: RotationPolicy, now: Timestamp) -> RotationPolicy {
    RotationPolicy { next: policy.next.or_else(|| policy.period.map(|period| now.plus(period))), ..policy }
}

/// Where the value of version `number` belongs.
pub(super) fn seal_context(record: &KeyRecord, number: u32) -> SealContext<'_> {
    SealContext {
        purpose: Purpose::ProviderKey,
        org_uid: &record.org_uid,
        resource_uid: &record.uid,
        version: number,
        org: &record.name.org,
        resource: record.name.id.as_str(),
        provider: record.provider.as_str(),
    }
}

/// A decoy stays one; otherwise an administration key is one, whatever it was called.
fn kind(named: Option<KeyKind>, shape: Option<KeyKind>) -> KeyKind {
    match (named, shape) {
        (Some(KeyKind::Tripwire), _) => KeyKind::Tripwire,
        (_, Some(shape)) => shape,
        (named, None) => named.unwrap_or(KeyKind::Live),
    }
}

fn ambiguous(candidates: &[Candidate]) -> Failure {
    let names: Vec<_> = candidates.iter().map(|found| found.provider.as_str()).collect();
    let mut failure = Failure::new(Reason::ProviderAmbiguous).with("candidates", names.join(","));
    failure.fields = Failure::invalid("provider", "required: the key's shape does not tell").fields;
    failure
}
