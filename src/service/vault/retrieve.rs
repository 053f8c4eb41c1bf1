//! RetrieveKey: one read, then the audit record and the KMS at once; a value leaves only when both
//! succeeded.

use std::time::Duration;

use super::{Vault, absent, create::seal_context, edit::details};
use crate::{
    authz::permit::Permit,
    domain::{
        audit::{Action, AuditDraft, Outcome, Receipt},
        clock::Timestamp,
        error::{Failure, Reason},
        ids::{VersionName, VersionSelector},
        key::{AuthScheme, KeyKind, KeyRecord, Stage, Version, input},
        scope::Scope,
        secret::ProviderKey,
        token::TokenMode,
    },
    envelope::SealedValue,
    repository::{
        audit::Commit,
        fields::rejected,
        keys::{self, StoredKey},
        tokens::{self, Uses},
    },
    service::{call::Call, session::Access},
    store::Item,
};

/// A value is asked for.
#[derive(Clone, Debug)]
pub struct Retrieve {
    /// Which.
    pub name: VersionName,
    /// What for; kept in the audit log.
    pub purpose: String,
    /// The version's name or number that the caller has already; empty: none.
    pub if_version_not: String,
    /// Whether a made-up value will do.
    pub mock: bool,
}

/// A value that may leave: its record is durable.
#[derive(Debug)]
pub struct Retrieved {
    /// The value; None where the caller has it already.
    pub secret: Option<ProviderKey>,
    /// The version's full name.
    pub version: String,
    /// Whose key it is.
    pub provider: String,
    /// Where it is good.
    pub base_url: String,
    /// How it is shown there.
    pub auth_scheme: AuthScheme,
    /// How long a client may keep it in memory.
    pub cache_ttl: Duration,
    /// Whether the value is made up.
    pub is_mock: bool,
    /// Where its record stands.
    pub receipt: Receipt,
}

/// A version that may be handed out, and its sealed value.
struct Chosen {
    version: Version,
    sealed: Vec<u8>,
}

impl Vault {
    /// Decrypts one version just in time.
    ///
    /// # Errors
    /// INVALID_FIELD, KEY_NOT_FOUND, VERSION_NOT_FOUND, KEY_DISABLED, KEY_DELETED, KEY_EXPIRED,
    /// KEY_HAS_NO_SECRET, NO_CURRENT_VERSION, VERSION_RETIRED, VERSION_DESTROYED,
    /// ADMIN_KEY_NEEDS_SCOPE, TOKEN_USED_UP, AUDIT_UNAVAILABLE; those of sessions and of opening.
    pub async fn retrieve_key(&self, call: &Call, request: &Retrieve) -> Result<Retrieved, Failure> {
        let name = &request.name.key;
        call.own(&name.org, Reason::KeyNotFound)?;
        input::check_text("purpose", &request.purpose, 256)?;
        let known = known_version(request)?;
        let mut needs = vec![keys::meta_key(&name.org, &name.id)];
        if let VersionSelector::Number(number) = request.name.version {
            needs.push(keys::version_key(&name.org, &name.id, number));
        }
        let access = Access::AnyOf(&[Scope::KeysRead, Scope::KeysReadAdmin], name.to_string());
        let session = self.parts.sessions.open(call, access, &needs).await?;
        let mut items = session.items.into_iter();
        let (meta, own) = (items.next().flatten(), items.next().flatten());

        let stored = self.covered(&session.permit, name, meta)?.ok_or_else(absent)?;
        check_scope(&session.permit, &stored.record)?;
        let now = self.parts.clock.now();
        stored.record.check_retrievable(now)?;
        let number = stored.record.select(request.name.version, now)?;
        let record = stored.record.clone();
        let chosen = self.choose(call, stored, number, own, now).await?;

        let draft = AuditDraft {
            purpose: request.purpose.clone(),
            details: details(&record, Some(number)),
            ..call.draft(name.org.clone(), record.full_name())
        };
        if known == Some(number) {
            let draft = AuditDraft { action: Action::KeyCheck, ..draft };
            let receipt = self.parts.audit.append(draft, call.deadline).await?;
            return Ok(self.retrieved(&record, &chosen.version, None, false, receipt));
        }
        let (uses, permit) = (session.uses, &session.permit);
        if request.mock || permit.mode() == TokenMode::Mock {
            let draft = AuditDraft { action: Action::KeyRetrieveMock, ..draft };
            let receipt = self.record(call, permit, uses, draft).await?;
            let value = self.providers.mock_value(&record.provider, &record.full_name(), number);
            let secret = ProviderKey::parse("secret", value).map_err(|_| Reason::Internal)?;
            return Ok(self.retrieved(&record, &chosen.version, Some(secret), true, receipt));
        }
        let (secret, receipt) = self.release(call, permit, uses, &record, &chosen, draft).await?;
        Ok(self.retrieved(&record, &chosen.version, Some(secret), false, receipt))
    }

    /// The version and where its sealed value is: the CURRENT one's came with the record.
    async fn choose(
        &self,
        call: &Call,
        stored: StoredKey,
        number: u32,
        own: Option<Item>,
        now: Timestamp,
    ) -> Result<Chosen, Failure> {
        let record = &stored.record;
        if let Some(current) = record.current().filter(|version| version.number == number) {
            let sealed = stored.sealed.ok_or_else(|| rejected("sealed"))?;
            return Ok(Chosen { version: current.clone(), sealed });
        }
        let own = match own {
            Some(own) => own,
            None => {
                let key = [keys::version_key(&record.name.org, &record.name.id, number)];
                let items = self.parts.records.get(&key, call.deadline).await?;
                super::first(items).ok_or(Reason::VersionNotFound)?
            }
        };
        let own = keys::open_version(&self.parts.records, record, number, own)?;
        // The record may have been read before the version was destroyed.
        if own.version.stage == Stage::Destroyed {
            return Err(Reason::VersionDestroyed.into());
        }
        let sealed = own.sealed.ok_or_else(|| rejected("sealed"))?;
        let version = record.reconcile(own.version, now);
        match version.stage {
            Stage::Retired => Err(Reason::VersionRetired.into()),
            _ => Ok(Chosen { version, sealed }),
        }
    }

    /// Writes the record and opens the value, at once; both must succeed. A limited token's use
    /// is counted in the transaction of the record, before anything is opened.
    async fn release(
        &self,
        call: &Call,
        permit: &Permit,
        uses: Option<Uses>,
        record: &KeyRecord,
        chosen: &Chosen,
        draft: AuditDraft,
    ) -> Result<(ProviderKey, Receipt), Failure> {
        let (recorded, opened) = if uses.is_some() {
            let receipt = self.record(call, permit, uses, draft.clone()).await?;
            (Ok(receipt), self.open(call, record, chosen).await)
        } else {
            let recording = self.parts.audit.append(draft.clone(), call.deadline);
            tokio::join!(recording, self.open(call, record, chosen))
        };
        let receipt = recorded?;
        match opened {
            Ok(secret) => Ok((secret, receipt)),
            Err(failure) => {
                let mut failed = AuditDraft {
                    action: Action::KeyRetrieveFailed,
                    outcome: Outcome::Failed,
                    reason: Some(failure.reason),
                    ..draft
                };
                failed.details.insert("event", receipt.event_id());
                // Nothing was released: the record of it need not be waited for.
                self.parts.audit.note(failed);
                Err(failure.recorded())
            }
        }
    }

    async fn open(&self, call: &Call, record: &KeyRecord, chosen: &Chosen) -> Result<ProviderKey, Failure> {
        let sealed = SealedValue::from_bytes(&chosen.sealed)?;
        let context = seal_context(record, chosen.version.number);
        let opened = self.parts.sealer.open(&sealed, &context, call.deadline).await?;
        ProviderKey::from_opened(opened).map_err(|_| Reason::SealedValueRejected.into())
    }

    /// Writes the record of a release, with the use of a limited token in the same transaction.
    async fn record(
        &self,
        call: &Call,
        permit: &Permit,
        mut uses: Option<Uses>,
        draft: AuditDraft,
    ) -> Result<Receipt, Failure> {
        // Each round somebody's release is counted: who comes last of many waits for all of them.
        while !self.parts.clock.left(call.deadline).is_zero() {
            let Some(left) = &uses else { return self.parts.audit.append(draft, call.deadline).await };
            let spend = tokens::spend(&self.parts.records, left)?;
            match self.parts.audit.commit(vec![spend], draft.clone(), call.deadline).await? {
                Commit::Done(receipt) => return Ok(receipt),
                Commit::Conflict { .. } => {
                    uses = tokens::read_uses(&self.parts.records, permit.org(), permit.token(), call.deadline).await?;
                    if uses.is_none() {
                        return Err(rejected("uses"));
                    }
                }
            }
        }
        Err(Reason::WriteConflict.into())
    }

    fn retrieved(
        &self,
        record: &KeyRecord,
        version: &Version,
        secret: Option<ProviderKey>,
        is_mock: bool,
        receipt: Receipt,
    ) -> Retrieved {
        let now = self.parts.clock.now();
        let ends = [version.retires, record.expires].into_iter().flatten().map(|end| end.since(now));
        Retrieved {
            secret,
            version: record.version_name(version.number),
            provider: record.provider.to_string(),
            base_url: version.base_url.clone(),
            auth_scheme: version.auth_scheme.clone(),
            cache_ttl: ends.fold(self.settings.cache_ttl, Duration::min),
            is_mock,
            receipt,
        }
    }
}

/// Ordinary keys take keys:read, administration keys keys:read-admin: one grant must hold it and
/// cover the key.
fn check_scope(permit: &Permit, record: &KeyRecord) -> Result<(), Failure> {
    let is_admin = record.kind == KeyKind::ProviderAdmin;
    let needed = if is_admin { Scope::KeysReadAdmin } else { Scope::KeysRead };
    if permit.covers_with(needed, &record.full_name(), record.environment.as_ref(), &record.labels) {
        return Ok(());
    }
    let reason = if is_admin { Reason::AdminKeyNeedsScope } else { Reason::ScopeMissing };
    Err(Failure::new(reason).with("scope", needed.as_str()))
}

/// The number of the version that the caller has.
fn known_version(request: &Retrieve) -> Result<Option<u32>, Failure> {
    let text = request.if_version_not.as_str();
    if text.is_empty() {
        return Ok(None);
    }
    let key = &request.name.key;
    let number = text.strip_prefix(&format!("{key}/versions/")).or(text.strip_prefix(&format!("{}/versions/", key.id)));
    let number = number.unwrap_or(text).parse().ok().filter(|number| *number > 0);
    number.map(Some).ok_or_else(|| {
        Failure::invalid("if_version_not", "the key_version of an earlier answer for this key, or its number")
    })
}
