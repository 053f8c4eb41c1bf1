//! What every change of a key has in common: admitted once, remembered by request_id, judged by
//! etag, tried again when another writer was faster, and committed with its record.

use std::collections::BTreeMap;

use super::{KeyView, Vault, absent};
use crate::{
    authz::permit::Permit,
    domain::{
        audit::AuditDraft,
        clock::Timestamp,
        error::{Failure, Reason},
        ids::{Environment, KeyName},
        key::{self, KeyRecord, Stage, Version},
        scope::Scope,
    },
    repository::keys::{self, StoredKey, StoredVersion, listing},
    service::{
        call::Call,
        mutation::{Idempotency, Mutated, Remembered},
        session::Access,
    },
    store::{Action, Item, ItemKey},
};

/// How often a change is judged anew because another writer was faster.
const ATTEMPTS: u32 = 5;

/// Which change of which key is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) call: &'a Call,
    pub(super) name: &'a KeyName,
    pub(super) scope: Scope,
    pub(super) request_id: &'a str,
    /// Empty asks for nothing.
    pub(super) etag: &'a str,
}

/// How a change begins.
pub(super) enum Begun<'a> {
    /// It has not happened yet.
    Fresh(Box<Edit<'a>>),
    /// It happened already; the key as it is now, if it still is.
    Before(Remembered, Option<Box<StoredKey>>),
}

/// A change under way.
pub(super) struct Edit<'a> {
    asked: Asked<'a>,
    pub(super) permit: Permit,
    idempotency: Option<Idempotency>,
    /// The key as it was last read; None: there is none.
    found: Option<StoredKey>,
    /// What else was asked for with it.
    pub(super) more: Vec<Option<Item>>,
    attempts: u32,
}

/// What a step makes of a key's record.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) after: KeyRecord,
    /// The versions whose own records change.
    pub(super) changed: Vec<Version>,
    /// Rows of other kinds.
    pub(super) rows: Vec<Action>,
    /// Which version it is about.
    pub(super) version: Option<u32>,
    /// What the caller said of it, for the record.
    pub(super) purpose: String,
}

/// What a change writes.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) after: KeyRecord,
    /// The versions' own records.
    pub(super) versions: Vec<StoredVersion>,
    /// The sealed value of the version that is CURRENT after.
    pub(super) sealed: Option<Vec<u8>>,
    /// Rows of other kinds.
    pub(super) rows: Vec<Action>,
    /// Which version it is about.
    pub(super) version: Option<u32>,
    /// What the caller said of it, for the record.
    pub(super) purpose: String,
    /// Warning codes, for a replay.
    pub(super) codes: Vec<String>,
}

/// How a try ended.
pub(super) enum Ended<T = ()> {
    /// It happened; the record as it is now, and what the caller planned with it.
    Done(Box<KeyRecord>, T),
    /// Another writer was faster: judge the key anew.
    Again,
    /// A concurrent call with the same request_id was first.
    Before(Remembered),
}

impl Vault {
    /// Admits a change and reads its key and `more`.
    pub(super) async fn begin<'a>(&self, asked: Asked<'a>, more: &[ItemKey]) -> Result<Begun<'a>, Failure> {
        let Asked { call, name, .. } = asked;
        call.own(&name.org, Reason::KeyNotFound)?;
        let idempotency = self.parts.mutations.idempotency(call, &name.org, asked.request_id).await?;
        let mut needs = vec![keys::meta_key(&name.org, &name.id)];
        needs.extend(idempotency.as_ref().map(|idempotency| idempotency.key.clone()));
        needs.extend_from_slice(more);
        let session = self.parts.sessions.open(call, Access::Resource(asked.scope, name.to_string()), &needs).await?;
        let mut items = session.items.into_iter();
        let meta = items.next().flatten();
        let row = idempotency.as_ref().and_then(|_| items.next().flatten());
        let found = self.covered(&session.permit, name, meta)?;
        if let Some(remembered) = self.parts.mutations.prior(idempotency.as_ref(), row)? {
            // What is read at once is no snapshot: the row may be younger than the key beside it.
            let found = self.read_again(&session.permit, asked).await?;
            return Ok(Begun::Before(remembered, found.map(Box::new)));
        }
        let edit = Edit { asked, permit: session.permit, idempotency, found, more: items.collect(), attempts: 0 };
        Ok(Begun::Fresh(Box::new(edit)))
    }

    /// Admits a change, commits what `step` makes of the key's record, and answers the key as it is
    /// now. A replay answers the same.
    pub(super) async fn change(
        &self,
        asked: Asked<'_>,
        step: impl Fn(&Permit, KeyRecord, Timestamp) -> Result<Step, Failure>,
    ) -> Result<KeyView, Failure> {
        let mut edit = match self.begin(asked, &[]).await? {
            Begun::Fresh(edit) => edit,
            Begun::Before(remembered, found) => {
                return self.key_before(asked.call, &remembered, found.map(|found| *found)).await;
            }
        };
        loop {
            let planned = self.stepped(&edit, &step).await;
            match self.finish(&mut edit, planned).await? {
                Ended::Done(record, ()) => return Ok(self.view(asked.call, *record).await),
                Ended::Again => {}
                Ended::Before(remembered) => {
                    let found = self.read_again(&edit.permit, asked).await?;
                    return self.key_before(asked.call, &remembered, found).await;
                }
            }
        }
    }

    async fn stepped(
        &self,
        edit: &Edit<'_>,
        step: impl Fn(&Permit, KeyRecord, Timestamp) -> Result<Step, Failure>,
    ) -> Result<(Plan, ()), Failure> {
        let stored = edit.key()?;
        let Step { after, changed, version, rows, purpose } =
            step(&edit.permit, stored.record.clone(), self.parts.clock.now())?;
        let plan = self.plan(edit.asked.call, stored, after, changed).await?;
        Ok((Plan { version, rows, purpose, ..plan }, ()))
    }

    /// What a replay of a change of the whole key answers: the key as it is now.
    async fn key_before(
        &self,
        call: &Call,
        remembered: &Remembered,
        found: Option<StoredKey>,
    ) -> Result<KeyView, Failure> {
        Ok(self.view(call, same(remembered, found)?.record).await)
    }

    /// Commits what was planned in place of what `edit` found, or answers why nothing was.
    pub(super) async fn finish<T>(
        &self,
        edit: &mut Edit<'_>,
        planned: Result<(Plan, T), Failure>,
    ) -> Result<Ended<T>, Failure> {
        let (plan, more) = match planned {
            Ok(planned) => planned,
            // The versions were read after the record, and may have gone with their key meanwhile.
            Err(failure) if failure.reason == Reason::RecordRejected && self.is_outrun(edit).await? => {
                return Ok(Ended::Again);
            }
            Err(failure) => return self.refused(edit, failure).await.map(Ended::Before),
        };
        let records = &self.parts.records;
        let record = &plan.after;
        let name = record.name.clone();
        let mut actions = vec![keys::put(records, record, plan.sealed)];
        actions.extend(plan.versions.iter().map(|version| keys::put_version(records, &name, version)));
        actions.push(listing::put(record));
        actions.extend(plan.rows);
        let draft = AuditDraft { purpose: plan.purpose, ..draft(edit.asked.call, record, plan.version) };
        let remembered = remembered(record, plan.version, plan.codes);
        match self.commit(edit, remembered, actions, draft).await? {
            Some(ended) => Ok(ended),
            None => {
                let revision = record.revision.saturating_add(1);
                Ok(Ended::Done(Box::new(KeyRecord { revision, ..plan.after }), more))
            }
        }
    }

    /// What the same request did already, if that is why it is refused.
    pub(super) async fn refused(&self, edit: &Edit<'_>, failure: Failure) -> Result<Remembered, Failure> {
        self.parts.mutations.refused(edit.asked.call, edit.idempotency.as_ref(), failure).await
    }

    /// Commits `actions`, the first of which is the key's record. None: it happened.
    pub(super) async fn commit<T>(
        &self,
        edit: &mut Edit<'_>,
        remembered: Remembered,
        actions: Vec<Action>,
        draft: AuditDraft,
    ) -> Result<Option<Ended<T>>, Failure> {
        let (call, idempotency) = (edit.asked.call, edit.idempotency.as_ref());
        match self.parts.mutations.commit(call, idempotency, remembered, actions, draft).await? {
            Mutated::Done(_) => Ok(None),
            Mutated::Replayed(remembered) => Ok(Some(Ended::Before(remembered))),
            Mutated::Conflict { .. } => {
                self.is_outrun(edit).await?;
                Ok(Some(Ended::Again))
            }
        }
    }

    /// Reads the key again, to be judged anew: whether it is another than was found before.
    async fn is_outrun(&self, edit: &mut Edit<'_>) -> Result<bool, Failure> {
        edit.attempts += 1;
        if edit.attempts >= ATTEMPTS {
            return Err(Reason::WriteConflict.into());
        }
        let revision = |found: &Option<StoredKey>| found.as_ref().map(|stored| stored.record.revision);
        let before = revision(&edit.found);
        edit.found = self.read_again(&edit.permit, edit.asked).await?;
        Ok(revision(&edit.found) != before)
    }

    /// The key as it is now.
    pub(super) async fn read_again(&self, permit: &Permit, asked: Asked<'_>) -> Result<Option<StoredKey>, Failure> {
        let meta = [keys::meta_key(&asked.name.org, &asked.name.id)];
        let items = self.parts.records.get(&meta, asked.call.deadline).await?;
        self.covered(permit, asked.name, super::first(items))
    }

    /// The plan of a step of the record's own: it names the versions that change, which are read
    /// to be written again.
    pub(super) async fn plan(
        &self,
        call: &Call,
        before: StoredKey,
        after: KeyRecord,
        changed: Vec<Version>,
    ) -> Result<Plan, Failure> {
        let numbers: Vec<_> = changed.iter().map(|version| version.number).collect();
        let mut versions = keys::versions(&self.parts.records, &before.record, &numbers, call.deadline).await?;
        for (stored, version) in versions.iter_mut().zip(changed) {
            if version.stage == Stage::Destroyed {
                stored.sealed = None;
            }
            stored.version = version;
        }
        let current = after.current().map(|version| version.number);
        let sealed = match current {
            None => None,
            Some(number) if before.record.current().map(|version| version.number) == Some(number) => before.sealed,
            Some(number) => {
                let promoted = versions.iter().find(|stored| stored.version.number == number);
                Some(promoted.and_then(|stored| stored.sealed.clone()).ok_or(Reason::RecordRejected)?)
            }
        };
        Ok(Plan::new(after, versions, sealed))
    }
}

impl<'a> Edit<'a> {
    pub(super) fn call(&self) -> &'a Call {
        self.asked.call
    }
    /// The key as it was last read, if the etag is still its own.
    pub(super) fn key(&self) -> Result<StoredKey, Failure> {
        let found = self.found.clone().ok_or_else(absent)?;
        key::check_etag(&found.record, self.asked.etag)?;
        Ok(found)
    }
}

impl Step {
    pub(super) fn new(after: KeyRecord) -> Self {
        Self { after, changed: Vec::new(), rows: Vec::new(), version: None, purpose: String::new() }
    }
}

impl Plan {
    pub(super) fn new(after: KeyRecord, versions: Vec<StoredVersion>, sealed: Option<Vec<u8>>) -> Self {
        Self { after, versions, sealed, rows: Vec::new(), version: None, purpose: String::new(), codes: Vec::new() }
    }
}

/// The record of a change that makes `record`, which still has the revision before.
pub(super) fn draft(call: &Call, record: &KeyRecord, version: Option<u32>) -> AuditDraft {
    AuditDraft {
        details: details(record, version),
        revision: record.revision.saturating_add(1),
        ..call.draft(record.name.org.clone(), record.full_name())
    }
}

/// What the audit log says of a key.
pub(super) fn details(record: &KeyRecord, version: Option<u32>) -> BTreeMap<&'static str, String> {
    let mut details = BTreeMap::from([("provider", record.provider.to_string()), ("uid", record.uid.to_string())]);
    details.extend(record.environment.as_ref().map(Environment::to_string).map(|text| ("environment", text)));
    details.extend(version.map(|number| ("version", number.to_string())));
    details
}

/// The key that an earlier call made or changed: one that got its name since is another.
pub(super) fn same(remembered: &Remembered, found: Option<StoredKey>) -> Result<StoredKey, Failure> {
    found.filter(|found| remembered.uid.as_ref() == Some(&found.record.uid)).ok_or_else(absent)
}

/// What is kept of a change that makes `record`, which still has the revision before.
pub(super) fn remembered(record: &KeyRecord, version: Option<u32>, codes: Vec<String>) -> Remembered {
    Remembered {
        resource: record.full_name(),
        uid: Some(record.uid.clone()),
        revision: record.revision.saturating_add(1),
        numbers: version.map(|number| ("version".to_owned(), i64::from(number))).into_iter().collect(),
        codes,
    }
}
