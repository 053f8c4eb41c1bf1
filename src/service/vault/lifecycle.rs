//! UpdateKey, DisableKey, EnableKey, DeleteKey, UndeleteKey, DestroyKey.

use std::time::Duration;

use super::{
    Destroyed, KeyView, Vault,
    create::rotation_from,
    edit::{Asked, Begun, Edit, Ended, Step, draft, remembered},
};
use crate::{
    domain::{
        clock::Timestamp,
        error::{Failure, Reason},
        ids::{KeyName, Uid},
        key::{KeyRecord, KeyState, Labels, RotationPolicy, check_labels, input},
        scope::Scope,
    },
    repository::keys::{self, due, lookup},
    service::{call::Call, mutation::Remembered},
    store::Action,
};

/// What is to be changed of a key; None: nothing of that.
#[derive(Clone, Debug, Default)]
pub struct KeyUpdate {
    /// For people.
    pub description: Option<String>,
    /// All labels.
    pub labels: Option<Labels>,
    /// All models.
    pub models: Option<Vec<String>>,
    /// The whole policy.
    pub rotation: Option<RotationPolicy>,
}

impl Vault {
    /// Changes description, labels, models and rotation policy.
    ///
    /// # Errors
    /// INVALID_FIELD, KEY_NOT_FOUND, KEY_DELETED, RESOURCE_NOT_GRANTED, ETAG_MISMATCH,
    /// WRITE_CONFLICT; those of sessions and of mutations.
    pub async fn update_key(
        &self,
        call: &Call,
        name: &KeyName,
        update: &KeyUpdate,
        etag: &str,
        request_id: &str,
    ) -> Result<KeyView, Failure> {
        call.own(&name.org, Reason::KeyNotFound)?;
        update.check()?;
        let asked = Asked { call, name, scope: Scope::KeysWrite, request_id, etag };
        self.change(asked, |permit, before, now| {
            if before.state == KeyState::Deleted {
                return Err(Reason::KeyDeleted.into());
            }
            let mut after = before.clone();
            update.apply(&mut after, now);
            // Nobody moves a key out of his own sight, nor into the reach of his other grants.
            let (full_name, environment) = (after.full_name(), after.environment.as_ref());
            if !permit.covers(&full_name, environment, &after.labels)
                || permit.gains(&full_name, environment, &before.labels, &after.labels)
            {
                return Err(Reason::ResourceNotGranted.into());
            }
            Ok(Step { rows: lookup::change_routes(&before, &after), ..Step::new(after) })
        })
        .await
    }

    /// Refuses retrieval from the next call on. `reason` stands in the audit log.
    ///
    /// # Errors
    /// INVALID_FIELD, KEY_NOT_FOUND, KEY_DELETED, ETAG_MISMATCH, WRITE_CONFLICT; those of sessions
    /// and of mutations.
    pub async fn disable_key(
        &self,
        call: &Call,
        name: &KeyName,
        reason: &str,
        etag: &str,
        request_id: &str,
    ) -> Result<KeyView, Failure> {
        call.own(&name.org, Reason::KeyNotFound)?;
        input::check_text("reason", reason, 256)?;
        let asked = Asked { call, name, scope: Scope::KeysWrite, request_id, etag };
        self.turn(asked, reason, |record, now| record.disable(now).map(|()| None)).await
    }

    /// Back to ACTIVE.
    ///
    /// # Errors
    /// KEY_NOT_FOUND, KEY_DELETED, ETAG_MISMATCH, WRITE_CONFLICT; those of sessions and of
    /// mutations.
    pub async fn enable_key(
        &self,
        call: &Call,
        name: &KeyName,
        etag: &str,
        request_id: &str,
    ) -> Result<KeyView, Failure> {
        let asked = Asked { call, name, scope: Scope::KeysWrite, request_id, etag };
        self.turn(asked, "", |record, now| record.enable(now).map(|()| None)).await
    }

    /// Soft delete; the purge is queued in the same transaction. None: there was nothing, and
    /// `allow_missing`.
    ///
    /// # Errors
    /// INVALID_FIELD, KEY_NOT_FOUND, KEY_DELETED, ETAG_MISMATCH, WRITE_CONFLICT; those of sessions
    /// and of mutations.
    pub async fn delete_key(
        &self,
        call: &Call,
        name: &KeyName,
        recovery_window: Option<Duration>,
        allow_missing: bool,
        etag: &str,
        request_id: &str,
    ) -> Result<Option<KeyView>, Failure> {
        call.own(&name.org, Reason::KeyNotFound)?;
        let window = recovery_window.unwrap_or(input::RECOVERY_DEFAULT);
        input::check_span("recovery_window", window, input::RECOVERY_MIN, input::RECOVERY_MAX)?;
        let asked = Asked { call, name, scope: Scope::KeysDelete, request_id, etag };
        let step = |record: &mut KeyRecord, now| {
            record.delete(window, now)?;
            Ok(due::put(record))
        };
        match self.turn(asked, "", step).await {
            Err(failure) if allow_missing && failure.reason == Reason::KeyNotFound => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    /// Back within the recovery window, as DISABLED.
    ///
    /// # Errors
    /// KEY_NOT_FOUND, KEY_NOT_DELETED, WRITE_CONFLICT; those of sessions and of mutations.
    pub async fn undelete_key(&self, call: &Call, name: &KeyName, request_id: &str) -> Result<KeyView, Failure> {
        let asked = Asked { call, name, scope: Scope::KeysDelete, request_id, etag: "" };
        let step = |record: &mut KeyRecord, now| {
            let row = due::delete(record);
            record.undelete(now)?;
            Ok(row)
        };
        self.turn(asked, "", step).await
    }

    /// Destroys a key for good: nothing of it is left but its records in the audit log, and the
    /// number of its last version.
    ///
    /// # Errors
    /// KEY_NOT_FOUND, ETAG_MISMATCH, WRITE_CONFLICT; those of sessions and of mutations.
    pub async fn destroy_key(
        &self,
        call: &Call,
        name: &KeyName,
        etag: &str,
        request_id: &str,
    ) -> Result<Destroyed, Failure> {
        let asked = Asked { call, name, scope: Scope::KeysDestroy, request_id, etag };
        let mut edit = match self.begin(asked, &[]).await? {
            Begun::Fresh(edit) => edit,
            Begun::Before(remembered, _) => return self.key_destroyed_before(call, name, &remembered).await,
        };
        loop {
            let record = match edit.key() {
                Ok(stored) => stored.record,
                Err(failure) => {
                    let remembered = self.refused(&edit, failure).await?;
                    return self.key_destroyed_before(call, name, &remembered).await;
                }
            };
            let now = self.parts.clock.now();
            let (versions, has_more) =
                keys::removals(&self.parts.records, &record, super::purge::VERSIONS_AT_ONCE, call.deadline).await?;
            let ended = if has_more {
                self.condemn(&mut edit, record, now).await?
            } else {
                let mut actions = keys::delete(&self.parts.records, &record);
                actions.extend(due::delete(&record));
                actions.extend(versions);
                self.commit(&mut edit, memory_of(&record, now), actions, draft(call, &record, None)).await?
            };
            match ended {
                None => {}
                Some(Ended::Again) => continue,
                Some(Ended::Done(record, ())) => self.purge_condemned(call, name, &record.uid).await?,
                Some(Ended::Before(remembered)) => return self.key_destroyed_before(call, name, &remembered).await,
            }
            return Ok(self.destroyed(now));
        }
    }

    /// Turns a key with more versions than one transaction takes into one whose purge is due: it
    /// is as good as absent from now on, and whoever comes first removes the rest.
    async fn condemn(&self, edit: &mut Edit<'_>, record: KeyRecord, now: Timestamp) -> Result<Option<Ended>, Failure> {
        let old = due::delete(&record);
        let call = edit.call();
        let mut after = record;
        after.state = KeyState::Deleted;
        (after.deleted, after.purges, after.updated) = (Some(now), Some(now), now);
        let mut actions = vec![keys::put(&self.parts.records, &after, None), keys::listing::put(&after)];
        actions.extend(due::put(&after));
        actions.extend(old.filter(|old| actions.iter().all(|action| action.key() != old.key())));
        let ended = self.commit(edit, memory_of(&after, now), actions, draft(call, &after, None)).await?;
        Ok(Some(ended.unwrap_or_else(|| Ended::Done(Box::new(after), ()))))
    }

    async fn purge_condemned(&self, call: &Call, name: &KeyName, uid: &Uid) -> Result<(), Failure> {
        let now = self.parts.clock.now();
        let draft = call.draft(name.org.clone(), name.to_string());
        super::purge::purge(&self.parts, name, Some(uid), now, draft, None, call.deadline).await.map(|_| ())
    }

    async fn key_destroyed_before(
        &self,
        call: &Call,
        name: &KeyName,
        remembered: &Remembered,
    ) -> Result<Destroyed, Failure> {
        // The first call may have ended between condemning and removing.
        let uid = remembered.uid.as_ref().ok_or(Reason::RecordRejected)?;
        self.purge_condemned(call, name, uid).await?;
        let time = remembered.numbers.get("destroy_time").ok_or(Reason::RecordRejected)?;
        Ok(self.destroyed(Timestamp::from_micros(*time)))
    }

    /// A change of the record alone, and of the janitor's queue.
    async fn turn(
        &self,
        asked: Asked<'_>,
        purpose: &str,
        step: impl Fn(&mut KeyRecord, Timestamp) -> Result<Option<Action>, Reason>,
    ) -> Result<KeyView, Failure> {
        self.change(asked, |_, mut after, now| {
            let row = step(&mut after, now)?;
            Ok(Step { rows: row.into_iter().collect(), purpose: purpose.to_owned(), ..Step::new(after) })
        })
        .await
    }
}

impl KeyUpdate {
    fn check(&self) -> Result<(), Failure> {
        if let Some(description) = &self.description {
            input::check_text("key.description", description, 1_024)?;
        }
        if let Some(labels) = &self.labels {
            check_labels("key.labels", labels)?;
        }
        if let Some(models) = &self.models {
            input::check_models("key.models", models)?;
        }
        Ok(self.rotation.as_ref().map_or(Ok(()), |rotation| input::check_rotation("key.rotation", rotation))?)
    }
    fn apply(&self, record: &mut KeyRecord, now: Timestamp) {
        if let Some(description) = &self.description {
            record.description.clone_from(description);
        }
        if let Some(labels) = &self.labels {
            record.labels.clone_from(labels);
        }
        if let Some(models) = &self.models {
            record.models.clone_from(models);
        }
        if let Some(rotation) = self.rotation {
            record.rotation = rotation_from(rotation, now);
        }
        record.updated = now;
    }
}

fn memory_of(record: &KeyRecord, now: Timestamp) -> Remembered {
    let numbers = [("destroy_time".to_owned(), now.micros())].into();
    Remembered { numbers, ..remembered(record, None, Vec::new()) }
}
