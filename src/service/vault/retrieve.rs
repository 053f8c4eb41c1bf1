//! RetrieveKey: one read, then the audit record and the KMS at once; a value leaves only when both
//! succeeded.

use std::{sync::Arc, time::Duration};

use super::{Vault, absent, create::seal_context, edit::details};
use crate::{
    authz::permit::Permit,
    domain::{
        audit::{Action, AuditDraft, Outcome, Receipt},
        clock::Timestamp,
        error::{Failure, Reason},
        ids::{KeyName, VersionName, VersionSelector},
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
    store::{Item, ItemKey, SharedItem},
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

/// A version that may be handed out: the CURRENT one as it stands in the key's record, or another
/// with its own sealed value.
pub(super) struct Chosen {
    stored: Arc<StoredKey>,
    pub(super) number: u32,
    other: Option<(Version, Vec<u8>)>,
}

impl Chosen {
    pub(super) fn record(&self) -> &KeyRecord {
        &self.stored.record
    }
    fn parts(&self) -> Result<(&Version, &[u8]), Failure> {
        match &self.other {
            Some((version, sealed)) => Ok((version, sealed)),
            None => {
                let current = self.stored.record.current().ok_or(Reason::NoCurrentVersion)?;
                Ok((current, self.stored.sealed.as_deref().ok_or_else(|| rejected("sealed"))?))
            }
        }
    }
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
        let access = Access::AnyOf(&[Scope::KeysRead, Scope::KeysReadAdmin], name.full_name());
        let session = self.parts.sessions.open_shared(call, access, &needs).await?;
        let mut items = session.items.into_iter();
        let (meta, own) = (items.next().flatten(), items.next().flatten());

        let now = self.parts.clock.now();
        let stored = self.readable(&session.permit, name, meta.as_ref(), now)?;
        let number = stored.record.select(request.name.version, now)?;
        let own = own.map(SharedItem::into_item);
        let own = match unread_version(&stored.record, number, own.as_ref()) {
            Some(key) => super::first(self.parts.records.get(&[key], call.deadline).await?),
            None => own,
        };
        let chosen = self.choose(stored, number, own, now)?;
        let draft = || retrieval(call, chosen.record(), number, &request.purpose);
        if known == Some(number) {
            let draft = AuditDraft { action: Action::KeyCheck, ..draft() };
            let receipt = self.parts.audit.append(draft, call.deadline).await?;
            return self.retrieved(&chosen, None, false, receipt);
        }
        let (mut uses, permit) = (session.uses, &session.permit);
        if request.mock || permit.mode() == TokenMode::Mock {
            let draft = AuditDraft { action: Action::KeyRetrieveMock, ..draft() };
            let receipt = self.record(call, permit, &mut uses, draft).await?;
            let secret = self.made_up(chosen.record(), number)?;
            return self.retrieved(&chosen, Some(secret), true, receipt);
        }
        let (secret, receipt) = self.release(call, permit, &mut uses, &chosen, draft).await?;
        self.retrieved(&chosen, Some(secret), false, receipt)
    }

    /// The key in `meta`, if somebody with this permit may be handed a value of it at `now`.
    pub(super) fn readable(
        &self,
        permit: &Permit,
        name: &KeyName,
        meta: Option<&SharedItem>,
        now: Timestamp,
    ) -> Result<Arc<StoredKey>, Failure> {
        let stored = keys::open_shared(&self.parts.records, permit.org(), &name.id, meta.ok_or_else(absent)?)?;
        if stored.record.is_purged(now) {
            return Err(absent());
        }
        check_scope(permit, &stored.record)?;
        stored.record.check_retrievable(now)?;
        Ok(stored)
    }

    /// The version and its sealed value: the CURRENT one's came with the record, another's is in
    /// `own`.
    pub(super) fn choose(
        &self,
        stored: Arc<StoredKey>,
        number: u32,
        own: Option<Item>,
        now: Timestamp,
    ) -> Result<Chosen, Failure> {
        let record = &stored.record;
        if record.current().is_some_and(|version| version.number == number) {
            return Ok(Chosen { stored, number, other: None });
        }
        let own = keys::open_version(&self.parts.records, record, number, own.ok_or(Reason::VersionNotFound)?)?;
        // The record may have been read before the version was destroyed.
        if own.version.stage == Stage::Destroyed {
            return Err(Reason::VersionDestroyed.into());
        }
        let sealed = own.sealed.ok_or_else(|| rejected("sealed"))?;
        let version = record.reconcile(own.version, now);
        match version.stage {
            Stage::Retired => Err(Reason::VersionRetired.into()),
            _ => Ok(Chosen { stored, number, other: Some((version, sealed)) }),
        }
    }

    /// Writes the record and opens the value, at once; both must succeed. A limited token's use
    /// is counted in the transaction of the record, before anything is opened.
    async fn release(
        &self,
        call: &Call,
        permit: &Permit,
        uses: &mut Option<Uses>,
        chosen: &Chosen,
        draft: impl Fn() -> AuditDraft,
    ) -> Result<(ProviderKey, Receipt), Failure> {
        let (recorded, opened) = if uses.is_some() {
            let receipt = self.record(call, permit, uses, draft()).await?;
            (Ok(receipt), self.open(call, chosen).await)
        } else {
            let recording = self.parts.audit.append(draft(), call.deadline);
            tokio::join!(recording, self.open(call, chosen))
        };
        let receipt = recorded?;
        match opened {
            Ok(secret) => Ok((secret, receipt)),
            Err(failure) => Err(self.unopened(failure, draft(), &receipt)),
        }
    }

    /// Records that what `receipt` says may have left did not.
    pub(super) fn unopened(&self, failure: Failure, draft: AuditDraft, receipt: &Receipt) -> Failure {
        let mut failed = AuditDraft {
            action: Action::KeyRetrieveFailed,
            outcome: Outcome::Failed,
            reason: Some(failure.reason),
            ..draft
        };
        failed.details.insert("event", receipt.event_id());
        // Nothing was released: the record of it need not be waited for.
        self.parts.audit.note(failed);
        failure.recorded()
    }

    /// A value of the right shape that opens nothing.
    pub(super) fn made_up(&self, record: &KeyRecord, number: u32) -> Result<ProviderKey, Failure> {
        let value = self.providers.mock_value(&record.provider, &record.full_name(), number);
        ProviderKey::parse("secret", value).map_err(|_| Reason::Internal.into())
    }

    /// Opens a value; whoever does so has its record written, or writes it meanwhile.
    pub(super) async fn open(&self, call: &Call, chosen: &Chosen) -> Result<ProviderKey, Failure> {
        let (version, sealed) = chosen.parts()?;
        let sealed = SealedValue::from_bytes(sealed)?;
        let context = seal_context(chosen.record(), version.number);
        let opened = self.parts.sealer.open(&sealed, &context, call.deadline).await?;
        ProviderKey::from_opened(opened).map_err(|_| Reason::SealedValueRejected.into())
    }

    /// Writes the record of a release, with the use of a limited token in the same transaction;
    /// `uses` is what is left after it.
    pub(super) async fn record(
        &self,
        call: &Call,
        permit: &Permit,
        uses: &mut Option<Uses>,
        draft: AuditDraft,
    ) -> Result<Receipt, Failure> {
        // Each round somebody's release is counted: who comes last of many waits for all of them.
        while !self.parts.clock.left(call.deadline).is_zero() {
            let Some(left) = &uses else { return self.parts.audit.append(draft, call.deadline).await };
            let spend = tokens::spend(&self.parts.records, left)?;
            match self.parts.audit.commit(vec![spend], draft.clone(), call.deadline).await? {
                Commit::Done(receipt) => {
                    *uses = uses.take().map(Uses::spent);
                    return Ok(receipt);
                }
                Commit::Conflict { .. } => {
                    let read = tokens::read_uses(&self.parts.records, permit.org(), permit.token(), call.deadline);
                    *uses = Some(read.await?.ok_or_else(|| rejected("uses"))?);
                }
            }
        }
        Err(Reason::WriteConflict.into())
    }

    pub(super) fn retrieved(
        &self,
        chosen: &Chosen,
        secret: Option<ProviderKey>,
        is_mock: bool,
        receipt: Receipt,
    ) -> Result<Retrieved, Failure> {
        let (record, (version, _)) = (chosen.record(), chosen.parts()?);
        let now = self.parts.clock.now();
        let ends = [version.retires, record.expires].into_iter().flatten().map(|end| end.since(now));
        Ok(Retrieved {
            secret,
            version: record.version_name(version.number),
            provider: record.provider.to_string(),
            base_url: version.base_url.clone(),
            auth_scheme: version.auth_scheme.clone(),
            cache_ttl: ends.fold(self.settings.cache_ttl, Duration::min),
            is_mock,
            receipt,
        })
    }
}

/// Where version `number` of `record` is kept, if it is neither the CURRENT one, which came with the
/// record, nor `own`, which was read.
pub(super) fn unread_version(record: &KeyRecord, number: u32, own: Option<&Item>) -> Option<ItemKey> {
    let is_current = record.current().is_some_and(|version| version.number == number);
    let is_unread = !is_current && own.is_none();
    is_unread.then(|| keys::version_key(&record.name.org, &record.name.id, number))
}

/// The record of a retrieval.
pub(super) fn retrieval(call: &Call, record: &KeyRecord, number: u32, purpose: &str) -> AuditDraft {
    AuditDraft {
        purpose: purpose.to_owned(),
        details: details(record, Some(number)),
        ..call.draft(record.name.org.clone(), record.full_name())
    }
}

/// Ordinary keys take keys:read, administration keys keys:read-admin: one grant must hold it and
/// cover the key. Where none covers it, the answer is that of absence.
fn check_scope(permit: &Permit, record: &KeyRecord) -> Result<(), Failure> {
    let is_admin = record.kind == KeyKind::ProviderAdmin;
    let needed = if is_admin { Scope::KeysReadAdmin } else { Scope::KeysRead };
    let (full_name, environment) = (record.full_name(), record.environment.as_ref());
    if permit.covers_with(needed, &full_name, environment, &record.labels) {
        return Ok(());
    }
    if !permit.covers(&full_name, environment, &record.labels) {
        return Err(absent());
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
