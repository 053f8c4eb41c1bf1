//! RewrapKeys: data keys under another KMS key, key by key along the listing. What they seal is not
//! opened. Each key's change is a mutation of its own with its record, so that a cut leaves nothing
//! half done, and what is under the KMS key already is passed over, so that going on or beginning
//! anew does nothing twice.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream};
use prost::Message as _;

use super::{
    Vault,
    edit::{Asked, Begun, Ended, Plan},
};
use crate::{
    authz::permit::Permit,
    domain::{
        audit::{AuditDraft, Outcome},
        error::{Class, Failure, Reason},
        ids::{KeyName, OrgId},
        key::Labels,
        scope::Scope,
        secret::KmsKeyId,
        token::TokenMode,
    },
    envelope::SealedValue,
    repository::{
        audit::Commit,
        keys::{self, StoredKey, StoredVersion, listing},
        orgs,
    },
    service::{
        call::Call,
        page_token::PageScope,
        session::{Access, Session},
    },
};

/// Keys between two reports.
const KEYS_AT_ONCE: usize = 16;
/// Keys that are changed at a time: half of the lanes that mutations have.
const CHANGES_MAX: usize = 8;
/// Versions of one key that change in one transaction.
const VERSIONS_AT_ONCE: usize = 16;
/// How long the work on one key may take.
const WORK: Duration = Duration::from_millis(2_500);
/// How often the vault's own keys are tried again because something else changed them.
const ATTEMPTS: usize = 5;

/// Which data keys are to be brought under which KMS key.
#[derive(Clone, Debug)]
pub struct Rewrap {
    /// Whose.
    pub org: OrgId,
    /// Under which; None: the organization's own, or else the server's.
    pub kms_key: Option<KmsKeyId>,
    /// Only counts.
    pub dry_run: bool,
    /// Where an earlier call of the same request ended; empty: from the beginning.
    pub resume_token: String,
}

/// How far it has come.
#[derive(Debug)]
pub struct Rewrapped {
    /// Keys that were looked at.
    pub done: u64,
    /// Keys that there were at the beginning of this call.
    pub total: u64,
    /// Keys that could not be changed.
    pub failed: u64,
    /// Data keys that were re-encrypted, or would be; those of the vault itself too.
    pub rewrapped: u64,
    /// The failures since the last report, each with the key's full name.
    pub failures: Vec<(String, Failure)>,
    /// Where to go on; empty at the end.
    pub resume_token: String,
}

/// What a resume token seals.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Cursor {
    /// The listing's row that was done last.
    #[prost(string, tag = "1")]
    after: String,
    #[prost(uint64, tag = "2")]
    done: u64,
    #[prost(uint64, tag = "3")]
    failed: u64,
    #[prost(uint64, tag = "4")]
    rewrapped: u64,
}

/// A rewrap under way.
struct Running {
    vault: Vault,
    call: Call,
    permit: Permit,
    target: KmsKeyId,
    dry_run: bool,
    cursor: Cursor,
    /// None before the listing was counted.
    total: Option<u64>,
    is_over: bool,
}

impl Vault {
    /// Re-encrypts the data keys of every key of the organization that the caller may rewrap, those of
    /// retired versions and deleted keys too; and, for whom may do so with all of its keys, what the
    /// vault itself keeps for the organization. The stream reports now and then, and at the end.
    ///
    /// # Errors
    /// ORG_NOT_FOUND, INVALID_PAGE_TOKEN, MOCK_TOKEN_MUTATION, KMS_UNAVAILABLE, KMS_KEY_DISABLED,
    /// KMS_KEY_REFUSED; those of sessions. The stream ends with the first failure that is not of one
    /// key: the store's, the KMS's, the log's, the session's.
    pub async fn rewrap(
        &self,
        call: Call,
        request: Rewrap,
    ) -> Result<impl Stream<Item = Result<Rewrapped, Failure>> + Send + use<>, Failure> {
        call.own(&request.org, Reason::OrgNotFound)?;
        let needs = [orgs::item_key(&request.org)];
        let session = self.parts.sessions.open(&call, access(&request.org), &needs).await?;
        let Session { permit, items, .. } = session;
        let org = super::first(items).ok_or(Reason::OrgNotFound)?;
        let org = orgs::decode(&self.parts.records.verify(org)?)?;
        if permit.mode() == TokenMode::Mock && !org.is_mock {
            return Err(Reason::MockTokenMutation.into());
        }
        let kms_key = request.kms_key.or_else(|| org.kms_key.clone());
        let target = self.parts.sealer.resolve(kms_key.as_ref(), &org.id, &org.uid, call.deadline).await?;
        let mut running = Running {
            vault: self.clone(),
            call,
            permit,
            target,
            dry_run: request.dry_run,
            cursor: Cursor::default(),
            total: None,
            is_over: false,
        };
        running.cursor = running.cursor(&request.resume_token)?;
        Ok(stream::try_unfold(running, |mut running| async move {
            let report = running.next().await?;
            Ok(report.map(|report| (report, running)))
        }))
    }

    /// Brings the versions of one key under `target`; how many were not. None: this caller sees no
    /// such key, or no more.
    async fn rewrap_key(
        &self,
        call: &Call,
        name: &KeyName,
        target: &KmsKeyId,
        dry_run: bool,
    ) -> Result<Option<u64>, Failure> {
        let (mut rewrapped, mut after) = (0, None);
        loop {
            let call = &self.with_time(call);
            let asked = Asked { call, name, scope: Scope::KeysRewrap, request_id: "", etag: "" };
            let begun = match self.begin(asked, &[]).await {
                Err(failure) if failure.reason == Reason::ResourceNotGranted => return Ok(None),
                begun => begun?,
            };
            let Begun::Fresh(mut edit) = begun else { return Err(Reason::Internal.into()) };
            let next = loop {
                let stored = match edit.key() {
                    Err(failure) if failure.reason == Reason::KeyNotFound => return Ok(None),
                    stored => stored?,
                };
                let (records, place) = (&self.parts.records, after.clone());
                let page = keys::each_version(records, &stored.record, VERSIONS_AT_ONCE, place, call.deadline).await?;
                let (versions, next) = page;
                let versions = versions.into_iter().collect::<Result<Vec<_>, _>>()?;
                let stale = stale(versions, target)?;
                let count = stale.len() as u64;
                if count == 0 || dry_run {
                    rewrapped += count;
                    break next;
                }
                let plan = self.rewrap_plan(call, stored, stale, target).await?;
                match self.finish(&mut edit, plan).await? {
                    Ended::Done(_) => {
                        rewrapped += count;
                        break next;
                    }
                    Ended::Again => {}
                    Ended::Before(_) => return Err(Reason::Internal.into()),
                }
            };
            if next.is_none() {
                return Ok(Some(rewrapped));
            }
            after = next;
        }
    }

    async fn rewrap_plan(
        &self,
        call: &Call,
        stored: StoredKey,
        stale: Vec<(StoredVersion, SealedValue)>,
        target: &KmsKeyId,
    ) -> Result<Plan, Failure> {
        let StoredKey { mut record, sealed: mut inline } = stored;
        let mut versions = Vec::with_capacity(stale.len());
        for (mut version, sealed) in stale {
            let number = version.version.number;
            let context = super::create::seal_context(&record, number);
            let sealed = self.parts.sealer.rewrap(sealed, &context, target, call.deadline).await?;
            let bytes = sealed.to_bytes();
            version.version.kms_key.clone_from(&sealed.wrapped.kms_key_id.0);
            // What counts of a listed version stands in the key's record, its value too if it is CURRENT.
            if record.current().is_some_and(|current| current.number == number) {
                inline = Some(bytes.clone());
            }
            if let Some(listed) = record.versions.iter_mut().find(|listed| listed.number == number) {
                listed.kms_key.clone_from(&version.version.kms_key);
            }
            version.sealed = Some(bytes);
            versions.push(version);
        }
        Ok(Plan::new(record, versions, inline))
    }

    fn note_failed(&self, call: &Call, org: OrgId, resource: String, failure: &Failure) {
        let draft = call.draft(org, resource);
        self.parts.audit.note(AuditDraft { outcome: Outcome::Failed, reason: Some(failure.reason), ..draft });
    }

    fn with_time(&self, call: &Call) -> Call {
        Call { deadline: self.parts.clock.deadline(WORK), ..call.clone() }
    }
}

impl Running {
    /// The next report; None when the last was given.
    async fn next(&mut self) -> Result<Option<Rewrapped>, Failure> {
        if self.is_over {
            return Ok(None);
        }
        let (records, org) = (&self.vault.parts.records, self.permit.org());
        let Some(total) = self.total else {
            let deadline = || self.vault.parts.clock.deadline(WORK);
            let total = listing::count(records, org, |row| self.is_seen(row), deadline).await?;
            self.total = Some(total);
            let failures = if self.cursor.after.is_empty() { self.own_keys().await? } else { Vec::new() };
            return self.report(total, failures).map(Some);
        };
        let (after, deadline) = (&self.cursor.after, self.vault.parts.clock.deadline(WORK));
        let after = Some(after.clone()).filter(|after| !after.is_empty());
        let (rows, next) = listing::page(records, org, None, KEYS_AT_ONCE, after, deadline).await?;
        let mut failures = Vec::new();
        let (vault, call, target, dry_run) = (&self.vault, &self.call, &self.target, self.dry_run);
        let seen = rows.into_iter().filter(|row| self.is_seen(row));
        let change = |row: listing::Row| -> BoxFuture<'_, _> {
            let name = KeyName { org: org.clone(), id: row.key };
            Box::pin(async move {
                let ended = vault.rewrap_key(call, &name, target, dry_run).await;
                (name, ended)
            })
        };
        let changes: Vec<_> = seen.map(change).collect();
        let mut changing = stream::iter(changes).buffer_unordered(CHANGES_MAX);
        let (mut done, mut rewrapped) = (0, 0);
        while let Some((name, ended)) = changing.next().await {
            done += 1;
            match ended {
                Ok(count) => rewrapped += count.unwrap_or_default(),
                Err(failure) if is_of_one_key(&failure) => {
                    vault.note_failed(call, name.org.clone(), name.full_name(), &failure);
                    failures.push((name.full_name(), failure));
                }
                Err(failure) => return Err(failure),
            }
        }
        drop(changing);
        self.cursor.done += done;
        self.cursor.rewrapped += rewrapped;
        self.cursor.failed += failures.len() as u64;
        self.is_over = next.is_none();
        self.cursor.after = next.unwrap_or_default();
        self.report(total, failures).map(Some)
    }

    /// Whether the caller may rewrap the key of a listing's row, as far as the row says: nobody learns
    /// how many others there are.
    fn is_seen(&self, row: &listing::Row) -> bool {
        let name = KeyName { org: self.permit.org().clone(), id: row.key.clone() };
        self.permit.covers(&name.full_name(), row.environment.as_ref(), &row.labels)
    }

    /// What the vault keeps of its own for the organization, if the caller may rewrap all of it.
    async fn own_keys(&mut self) -> Result<Vec<(String, Failure)>, Failure> {
        let org = self.permit.org().clone();
        let all = format!("{}/keys/*", org.full_name());
        if !org.is_system() && !self.permit.covers(&all, None, &Labels::new()) {
            return Ok(Vec::new());
        }
        for _ in 0..ATTEMPTS {
            let call = self.vault.with_time(&self.call);
            let parts = &self.vault.parts;
            let puts = match parts.keyring.rewrapped(&org, &self.target, call.deadline).await {
                Err(failure) if is_of_one_key(&failure) => {
                    self.vault.note_failed(&call, org.clone(), org.full_name(), &failure);
                    self.cursor.failed += 1;
                    return Ok(vec![(org.full_name(), failure)]);
                }
                puts => puts?,
            };
            let count = puts.len() as u64;
            let is_done = count == 0 || self.dry_run || {
                let draft = call.draft(org.clone(), org.full_name());
                matches!(parts.audit.commit(puts, draft, call.deadline).await?, Commit::Done(_))
            };
            if is_done {
                self.cursor.rewrapped += count;
                return Ok(Vec::new());
            }
        }
        Err(Reason::WriteConflict.into())
    }

    fn report(&self, total: u64, failures: Vec<(String, Failure)>) -> Result<Rewrapped, Failure> {
        let Cursor { done, failed, rewrapped, .. } = self.cursor;
        // Before the first key there is nothing to go on from: what was done is passed over.
        let is_place = !self.is_over && !self.cursor.after.is_empty();
        let resume_token = match is_place {
            true => self.vault.parts.pages.seal(&self.scope(&self.filter()), &self.cursor.encode_to_vec())?,
            false => String::new(),
        };
        Ok(Rewrapped { done, total, failed, rewrapped, failures, resume_token })
    }

    fn cursor(&self, resume_token: &str) -> Result<Cursor, Failure> {
        if resume_token.is_empty() {
            return Ok(Cursor::default());
        }
        let place = self.vault.parts.pages.open(&self.scope(&self.filter()), "resume_token", resume_token)?;
        Cursor::decode(&*place).map_err(|_| Reason::InvalidPageToken.into())
    }

    /// A resume token is good for the same KMS key, and a dry run's for a dry run.
    fn filter(&self) -> Vec<u8> {
        [&[u8::from(self.dry_run)], self.target.0.as_bytes()].concat()
    }

    fn scope<'a>(&'a self, filter: &'a [u8]) -> PageScope<'a> {
        let permit = &self.permit;
        PageScope { org: permit.org(), subject: permit.subject(), method: self.call.method.path, filter }
    }
}

/// The keys of the organization, each asked again by itself. The organization system has none but the
/// vault's own, which are for who operates the vault.
fn access(org: &OrgId) -> Access {
    match org.is_system() {
        true => Access::Plain(Scope::Admin, format!("{}/orgs/{org}", org.full_name())),
        false => Access::Collection(Scope::KeysRewrap),
    }
}

/// Those of `versions` whose data keys are under another KMS key than `target`.
fn stale(versions: Vec<StoredVersion>, target: &KmsKeyId) -> Result<Vec<(StoredVersion, SealedValue)>, Failure> {
    let mut stale = Vec::new();
    for version in versions {
        let Some(sealed) = version.sealed.as_deref().map(SealedValue::from_bytes).transpose()? else { continue };
        if sealed.wrapped.kms_key_id != *target {
            stale.push((version, sealed));
        }
    }
    Ok(stale)
}

/// Whether a failure says something of this key only, so that the others can go on.
fn is_of_one_key(failure: &Failure) -> bool {
    match failure.reason {
        // The KMS key that it is under: the one that it shall be under was tried before.
        Reason::KmsKeyDisabled | Reason::KmsKeyRefused | Reason::WriteConflict | Reason::AdminKeyNeedsScope => true,
        reason => reason.class() == Class::DataLoss,
    }
}
