//! RewrapKeys: data keys under another KMS key, key by key along the listing. What they seal is not
//! opened. Each key's change is a mutation of its own with its record, so that a cut leaves nothing
//! half done, and what is under the KMS key already is passed over, so that going on or beginning
//! anew does nothing twice.

use std::{collections::HashSet, time::Duration};

use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream};
use prost::Message as _;

use self::one_key::{Done, Goal};
use super::Vault;
use crate::{
    authz::permit::Permit,
    domain::{
        audit::{AuditDraft, Outcome},
        error::{Failure, Reason},
        ids::{KeyId, KeyName, OrgId},
        key::Labels,
        scope::Scope,
        secret::KmsKeyId,
        token::TokenMode,
    },
    repository::{
        keys::listing::{self, Row},
        orgs,
    },
    service::{
        call::Call,
        page_token::PageScope,
        session::{Access, Session},
    },
};

mod one_key;

/// Keys between two reports.
const KEYS_AT_ONCE: usize = 16;
/// Keys that are changed at a time: half of the lanes that mutations have.
const CHANGES_MAX: usize = 8;
/// How long the work may take that a transaction ends.
const WORK: Duration = Duration::from_millis(2_500);
/// How long of it the KMS may take.
const KMS_WORK: Duration = Duration::from_millis(1_500);
/// How often keys are tried again because somebody else changed them.
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
    goal: Goal,
    cursor: Cursor,
    /// None before the listing was counted.
    total: Option<u64>,
    is_over: bool,
    /// What was logged of failures: of each kind the first.
    logged: HashSet<Reason>,
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
        let kms_key = request.kms_key.or(org.kms_key);
        let kms_key = self.parts.sealer.resolve(kms_key.as_ref(), &org.id, &org.uid, call.deadline).await?;
        let mut running = Running {
            vault: self.clone(),
            call,
            permit,
            goal: Goal { org: org.id, org_uid: org.uid, kms_key, dry_run: request.dry_run },
            cursor: Cursor::default(),
            total: None,
            is_over: false,
            logged: HashSet::new(),
        };
        running.cursor = running.cursor(&request.resume_token)?;
        Ok(stream::try_unfold(running, |mut running| async move {
            let report = running.next().await?;
            Ok(report.map(|report| (report, running)))
        }))
    }

    /// The call as it is now, with the time that one piece of work may take: a rewrap is many of them.
    fn at_work(&self, call: &Call) -> Call {
        let clock = &self.parts.clock;
        Call { time: clock.now(), deadline: clock.deadline(WORK), ..call.clone() }
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
        let (rows, next) = listing::each(records, org, KEYS_AT_ONCE, after, deadline).await?;
        let rows: Vec<_> = rows.into_iter().filter(|row| self.is_seen(row)).collect();
        let done = rows.len() as u64;
        let failures = self.change(rows).await?;
        self.cursor.done += done;
        self.is_over = next.is_none();
        self.cursor.after = next.unwrap_or_default();
        self.report(total, failures).map(Some)
    }

    /// Brings the keys of these rows under the KMS key; those that could not be.
    async fn change(&mut self, rows: Vec<Result<Row, String>>) -> Result<Vec<(String, Failure)>, Failure> {
        let (vault, call, goal) = (&self.vault, &self.call, &self.goal);
        let change = |row: Result<Row, String>| -> BoxFuture<'_, _> {
            let key = row.map(|row| row.key).or_else(|sort| listing::key_at(&sort).ok_or(sort));
            Box::pin(async move {
                match key {
                    Ok(id) => {
                        let name = KeyName { org: goal.org.clone(), id };
                        (name.full_name(), vault.rewrap_key(call, &name, goal).await)
                    }
                    Err(sort) => (astray(&goal.org, &sort), Ok(Done::failed(Reason::RecordRejected.into()))),
                }
            })
        };
        let changes: Vec<_> = rows.into_iter().map(change).collect();
        let mut changing = stream::iter(changes).buffer_unordered(CHANGES_MAX);
        let (mut rewrapped, mut failures) = (0, Vec::new());
        while let Some((name, ended)) = changing.next().await {
            let Done { rewrapped: count, failure } = ended?;
            rewrapped += count;
            failures.extend(failure.map(|failure| (name, failure)));
        }
        drop(changing);
        self.cursor.rewrapped += rewrapped;
        self.note(&failures);
        Ok(failures)
    }

    /// Whether the caller may rewrap the key of a listing's row, as far as the row says: nobody learns
    /// how many others there are.
    fn is_seen(&self, row: &Result<Row, String>) -> bool {
        let covers = |key: &KeyId, environment, labels: &Labels| {
            let name = KeyName { org: self.permit.org().clone(), id: key.clone() };
            self.permit.covers(&name.full_name(), environment, labels)
        };
        match row {
            Ok(row) => covers(&row.key, row.environment.as_ref(), &row.labels),
            Err(sort) => {
                listing::key_at(sort).map_or_else(|| self.sees_all(), |key| covers(&key, None, &Labels::new()))
            }
        }
    }

    /// Whether the caller may rewrap all of the organization.
    fn sees_all(&self) -> bool {
        let org = self.permit.org();
        org.is_system() || self.permit.covers(&format!("{}/keys/*", org.full_name()), None, &Labels::new())
    }

    /// What the vault keeps of its own for the organization, if the caller may rewrap all of it.
    async fn own_keys(&mut self) -> Result<Vec<(String, Failure)>, Failure> {
        if !self.sees_all() {
            return Ok(Vec::new());
        }
        let Done { rewrapped, failure } = self.vault.rewrap_own(&self.call, &self.goal).await?;
        self.cursor.rewrapped += rewrapped;
        let failures: Vec<_> = failure.map(|failure| (self.goal.org.full_name(), failure)).into_iter().collect();
        self.note(&failures);
        Ok(failures)
    }

    /// Counts and records these failures, and logs what is the first of its kind with its cause.
    fn note(&mut self, failures: &[(String, Failure)]) {
        let (vault, org) = (&self.vault, self.permit.org());
        let call = vault.at_work(&self.call);
        for (name, failure) in failures {
            let reason = failure.reason;
            if self.logged.insert(reason) {
                let (key, reason, cause) = (name.as_str(), reason.as_str(), failure.causes());
                tracing::warn!(key, reason, cause, "a key was not rewrapped; others that fail so are not logged");
            }
            let draft = call.draft(org.clone(), name.as_str());
            vault.parts.audit.note(AuditDraft { outcome: Outcome::Failed, reason: Some(reason), ..draft });
        }
        self.cursor.failed += failures.len() as u64;
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
        [&[u8::from(self.goal.dry_run)], self.goal.kms_key.0.as_bytes()].concat()
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

/// What stands for a row of the listing whose place is no key's: whoever wrote it chose it.
fn astray(org: &OrgId, sort: &str) -> String {
    const SHOWN_MAX: usize = 100;
    let shown: String = sort.escape_debug().take(SHOWN_MAX).collect();
    format!("{}/keys: the row \"{shown}\" of the listing", org.full_name())
}
