//! One key's versions under another KMS key, a few at a time; and the vault's own keys, which are
//! another one. What is of one alone does not end the work on the others.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};

use super::{ATTEMPTS, KMS_WORK};
use crate::{
    domain::{
        error::{Class, Failure, Reason},
        ids::{KeyName, OrgId, Uid},
        key::KeyRecord,
        scope::Scope,
        secret::KmsKeyId,
    },
    envelope::SealedValue,
    repository::{
        audit::Commit,
        keys::{self, StoredKey, StoredVersion},
    },
    service::{
        call::Call,
        vault::{
            Vault,
            create::seal_context,
            edit::{Asked, Begun, Ended, Plan},
        },
    },
};

/// Versions of one key that are read at once.
const VERSIONS_READ: usize = 16;
/// Those of them that change in one transaction, re-encrypted side by side: each has the time of all.
const VERSIONS_CHANGED: usize = 4;
/// How often one key is looked at.
const LOOKS: usize = 2;
/// What a KMS that did not answer is spared.
const PAUSE: Duration = Duration::from_secs(1);

/// Where data keys shall be.
#[derive(Debug)]
pub(super) struct Goal {
    pub(super) org: OrgId,
    pub(super) org_uid: Uid,
    /// Under that KMS key.
    pub(super) kms_key: KmsKeyId,
    /// Only counts.
    pub(super) dry_run: bool,
}

/// What became of one key.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Data keys that were re-encrypted, or would be.
    pub(super) rewrapped: u64,
    /// Why not all of them were.
    pub(super) failure: Option<Failure>,
}

/// Some versions of a key, newest first.
#[derive(Debug)]
struct Step {
    /// The key as it was found.
    record: KeyRecord,
    /// The numbers of those that were there, whatever became of them.
    seen: Vec<u32>,
    rewrapped: u64,
    /// Of one that could not be changed.
    failure: Option<Failure>,
    /// Of one of which the KMS said nothing.
    unanswered: Option<Failure>,
    next: Next,
}

#[derive(Debug)]
enum Next {
    /// Somebody else changed the key: the same again.
    Again,
    After(String),
    End,
}

impl Done {
    pub(super) fn failed(failure: Failure) -> Self {
        Self { rewrapped: 0, failure: Some(failure) }
    }
}

impl Vault {
    /// Brings the versions of one key to the goal. A key that this caller does not see, or no more, is
    /// as good as done.
    ///
    /// # Errors
    /// What is not of this key alone.
    pub(super) async fn rewrap_key(&self, call: &Call, name: &KeyName, goal: &Goal) -> Result<Done, Failure> {
        let mut done = Done::default();
        match self.walk(call, name, goal, &mut done).await {
            Err(failure) if is_of_one_key(&failure) => done.failure = Some(failure),
            ended => ended?,
        }
        Ok(done)
    }

    /// Brings what the vault itself keeps for the organization to the goal.
    ///
    /// # Errors
    /// What is not of these keys alone.
    pub(super) async fn rewrap_own(&self, call: &Call, goal: &Goal) -> Result<Done, Failure> {
        match self.rewrap_own_keys(call, goal).await {
            Ok(rewrapped) => Ok(Done { rewrapped, failure: None }),
            Err(failure) if is_of_one_key(&failure) => Ok(Done::failed(failure)),
            Err(failure) if failure.reason == Reason::KmsUnavailable => {
                self.probe(goal).await?;
                Ok(Done::failed(failure))
            }
            Err(failure) => Err(failure),
        }
    }

    async fn rewrap_own_keys(&self, call: &Call, goal: &Goal) -> Result<u64, Failure> {
        let parts = &self.parts;
        for _ in 0..ATTEMPTS {
            let call = self.at_work(call);
            let stale = parts.keyring.stale(&goal.org, &goal.kms_key, call.deadline).await?;
            let count = stale.len() as u64;
            if count == 0 || goal.dry_run {
                return Ok(count);
            }
            let until = parts.clock.deadline(KMS_WORK);
            let puts = parts.keyring.rewrapped(&goal.org, stale, &goal.kms_key, until).await?;
            let draft = call.draft(goal.org.clone(), goal.org.full_name());
            if let Commit::Done(_) = parts.audit.commit(puts, draft, call.deadline).await? {
                return Ok(count);
            }
        }
        Err(Reason::WriteConflict.into())
    }

    /// Looks at all versions. One that the key lists must be there: its value may stand in the key's
    /// own record, which only the change of the version brings along.
    async fn walk(&self, call: &Call, name: &KeyName, goal: &Goal, done: &mut Done) -> Result<(), Failure> {
        for _ in 0..LOOKS {
            if goal.dry_run {
                done.rewrapped = 0;
            }
            let is_whole = self.look(call, name, goal, done).await?;
            if is_whole || done.failure.is_some() {
                return Ok(());
            }
            // What was not there may have gone with its key meanwhile, which the next look shows.
        }
        Err(Failure::new(Reason::RecordRejected).caused_by("a version that the key lists is not there"))
    }

    /// Whether all versions were there that the key listed.
    async fn look(&self, call: &Call, name: &KeyName, goal: &Goal, done: &mut Done) -> Result<bool, Failure> {
        let (mut after, mut listed, mut seen) = (None, None, BTreeSet::new());
        let (mut conflicts, mut has_waited) = (0, false);
        loop {
            let Some(step) = self.step(&self.at_work(call), name, goal, after.clone()).await? else { return Ok(true) };
            listed.get_or_insert_with(|| step.record.versions.iter().map(|version| version.number).collect());
            seen.extend(step.seen);
            done.rewrapped += step.rewrapped;
            if let Some(failure) = &step.unanswered {
                self.probe(goal).await?;
                if !has_waited {
                    has_waited = true;
                    tokio::time::sleep(failure.retry_after.unwrap_or(PAUSE)).await;
                    continue;
                }
            }
            if let Some(failure) = step.failure.or(step.unanswered) {
                done.failure.get_or_insert(failure);
            }
            match step.next {
                Next::Again if conflicts + 1 < ATTEMPTS => {
                    conflicts += 1;
                    continue;
                }
                Next::Again => return Err(Reason::WriteConflict.into()),
                Next::After(place) => after = Some(place),
                Next::End => break,
            }
            (conflicts, has_waited) = (0, false);
        }
        Ok(listed.unwrap_or_else(BTreeSet::new).is_subset(&seen))
    }

    /// Changes the next few versions after that place. None: there is no such key for this caller.
    async fn step(
        &self,
        call: &Call,
        name: &KeyName,
        goal: &Goal,
        after: Option<String>,
    ) -> Result<Option<Step>, Failure> {
        let asked = Asked { call, name, scope: Scope::KeysRewrap, request_id: "", etag: "" };
        let begun = match self.begin(asked, &[]).await {
            Err(failure) if failure.reason == Reason::ResourceNotGranted => return Ok(None),
            begun => begun?,
        };
        let Begun::Fresh(mut edit) = begun else { return Err(Reason::Internal.into()) };
        let stored = match edit.key() {
            Err(failure) if failure.reason == Reason::KeyNotFound => return Ok(None),
            stored => stored?,
        };
        let records = &self.parts.records;
        let (versions, next) = keys::each_version(records, &stored.record, VERSIONS_READ, after, call.deadline).await?;
        let (mut step, stale) = Step::of(&stored, versions, next, goal);
        if stale.is_empty() || goal.dry_run {
            step.rewrapped = stale.len() as u64;
            return Ok(Some(step));
        }
        let rewrapped = self.re_encrypted(&stored.record, stale, &mut step, goal).await;
        let count = rewrapped.len() as u64;
        if count > 0 {
            match self.finish(&mut edit, Ok((plan(stored, rewrapped), ()))).await? {
                Ended::Done(..) => step.rewrapped = count,
                Ended::Again => step.next = Next::Again,
                Ended::Before(_) => return Err(Reason::Internal.into()),
            }
        }
        Ok(Some(step))
    }

    /// These versions under the goal's KMS key, at the same time; without those that failed, as `step`
    /// then says.
    async fn re_encrypted(
        &self,
        record: &KeyRecord,
        stale: Vec<(StoredVersion, SealedValue)>,
        step: &mut Step,
        goal: &Goal,
    ) -> Vec<(StoredVersion, SealedValue)> {
        let until = self.parts.clock.deadline(KMS_WORK);
        let re_encrypt = |(version, sealed): (StoredVersion, SealedValue)| -> BoxFuture<'_, _> {
            async move {
                let context = seal_context(record, version.version.number);
                (version, self.parts.sealer.rewrap(sealed, &context, &goal.kms_key, until).await)
            }
            .boxed()
        };
        let all: Vec<_> = stale.into_iter().map(re_encrypt).collect();
        let mut rewrapped = Vec::new();
        for (version, sealed) in join_all(all).await {
            match sealed {
                Ok(sealed) => rewrapped.push((version, sealed)),
                Err(failure) if failure.reason == Reason::KmsUnavailable => step.unanswered = Some(failure),
                Err(failure) => step.failure = Some(failure),
            }
        }
        rewrapped
    }

    /// Says that the KMS answers with the goal's KMS key: that it said nothing of one key is then that
    /// key's own failure.
    ///
    /// # Errors
    /// KMS_UNAVAILABLE, KMS_KEY_DISABLED, KMS_KEY_REFUSED.
    async fn probe(&self, goal: &Goal) -> Result<(), Failure> {
        let until = self.parts.clock.deadline(KMS_WORK);
        self.parts.sealer.resolve(Some(&goal.kms_key), &goal.org, &goal.org_uid, until).await.map(|_| ())
    }
}

impl Step {
    /// Of versions that were read, and those of them that are to be changed in it.
    fn of(
        stored: &StoredKey,
        versions: Vec<Result<StoredVersion, Failure>>,
        next: Option<String>,
        goal: &Goal,
    ) -> (Self, Vec<(StoredVersion, SealedValue)>) {
        let next = next.map_or(Next::End, Next::After);
        let record = stored.record.clone();
        let mut step = Self { record, seen: Vec::new(), rewrapped: 0, failure: None, unanswered: None, next };
        let mut stale: Vec<(StoredVersion, SealedValue)> = Vec::new();
        for version in versions {
            match version.and_then(apart) {
                Err(failure) => step.failure = Some(failure),
                Ok((version, Some(sealed))) if sealed.wrapped.kms_key_id != goal.kms_key => {
                    if let Some((last, _)) = stale.get(VERSIONS_CHANGED - 1).filter(|_| !goal.dry_run) {
                        let KeyName { org, id } = &stored.record.name;
                        step.next = Next::After(keys::version_key(org, id, last.version.number).sort);
                        break;
                    }
                    step.seen.push(version.version.number);
                    stale.push((version, sealed));
                }
                Ok((version, _)) => step.seen.push(version.version.number),
            }
        }
        (step, stale)
    }
}

/// A version and its sealed value; None once destroyed.
fn apart(version: StoredVersion) -> Result<(StoredVersion, Option<SealedValue>), Failure> {
    let sealed = version.sealed.as_deref().map(SealedValue::from_bytes).transpose()?;
    Ok((version, sealed))
}

/// The change of these versions, whose sealed values are new.
fn plan(stored: StoredKey, rewrapped: Vec<(StoredVersion, SealedValue)>) -> Plan {
    let StoredKey { mut record, sealed: mut inline } = stored;
    let mut versions = Vec::with_capacity(rewrapped.len());
    for (mut version, sealed) in rewrapped {
        let number = version.version.number;
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
    Plan::new(record, versions, inline)
}

/// Whether a failure says something of this key only, so that the others can go on.
fn is_of_one_key(failure: &Failure) -> bool {
    match failure.reason {
        // The KMS key that it is under: the one that it shall be under was tried before.
        Reason::KmsKeyDisabled | Reason::KmsKeyRefused | Reason::WriteConflict | Reason::AdminKeyNeedsScope => true,
        reason => reason.class() == Class::DataLoss,
    }
}
