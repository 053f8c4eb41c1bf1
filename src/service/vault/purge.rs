//! Removes a key whose purge is due: its versions in as many transactions as they need, and last
//! its own record, with the audit record of it. Begun anywhere, it can be finished by anyone.

use super::edit;
use crate::{
    domain::{
        audit::{Action as Done, AuditDraft},
        clock::{Deadline, Timestamp, random},
        error::{Failure, Reason},
        ids::{KeyName, Uid},
        key::KeyRecord,
    },
    repository::{
        audit::Commit,
        keys::{self, due},
    },
    service::Parts,
    store::{Action, Condition, WriteId, Written},
};

/// How many versions leave in one transaction: two items each, beside at most 40 others.
pub(super) const VERSIONS_AT_ONCE: usize = 25;

/// How often a purge begins anew because somebody else wrote, or because the fence did not hold.
const CONFLICTS_MAX: u32 = 4;

/// Purges the key `name` (and only the one of `uid`, if that is given) if it is due. `draft` is
/// who does it; `fence` must hold for each write. Answers whether the key is gone by it.
///
/// # Errors
/// STORE_UNAVAILABLE, AUDIT_UNAVAILABLE, RECORD_REJECTED; WRITE_CONFLICT when the fence did not
/// hold or others keep writing.
pub async fn purge(
    parts: &Parts,
    name: &KeyName,
    uid: Option<&Uid>,
    now: Timestamp,
    draft: AuditDraft,
    fence: Option<Action>,
    deadline: Deadline,
) -> Result<bool, Failure> {
    let mut conflicts = 0;
    while conflicts < CONFLICTS_MAX {
        let Some(record) = condemned(parts, name, uid, now, deadline).await? else { return Ok(false) };
        let (versions, has_more) = keys::removals(&parts.records, &record, VERSIONS_AT_ONCE, deadline).await?;
        let mut actions = Vec::new();
        if has_more {
            let meta = keys::meta_key(&name.org, &name.id);
            actions.push(Action::Check(meta, Condition::Revision(record.revision)));
        } else {
            actions.extend(keys::delete(&parts.records, &record));
            actions.extend(due::delete(&record));
        }
        actions.extend(versions);
        actions.extend(fence.clone());
        if has_more {
            let id = random(&*parts.entropy).map_err(|error| Failure::new(Reason::Internal).caused_by(error))?;
            // A lost outcome is no matter: the next round reads what is left.
            let written = parts.records.store().write(WriteId(id), actions, deadline).await?;
            conflicts += u32::from(written != Written::Committed);
            continue;
        }
        let details = edit::details(&record, None);
        let revision = record.revision.saturating_add(1);
        let draft = AuditDraft { action: Done::KeyPurge, details, revision, ..draft.clone() };
        if let Commit::Done(_) = parts.audit.commit(actions, draft, deadline).await? {
            return Ok(true);
        }
        conflicts += 1;
    }
    Err(Reason::WriteConflict.into())
}

/// The key, if its purge is due.
async fn condemned(
    parts: &Parts,
    name: &KeyName,
    uid: Option<&Uid>,
    now: Timestamp,
    deadline: Deadline,
) -> Result<Option<KeyRecord>, Failure> {
    let meta = [keys::meta_key(&name.org, &name.id)];
    let Some(item) = super::first(parts.records.get(&meta, deadline).await?) else { return Ok(None) };
    let record = keys::open(&parts.records, &name.org, &name.id, item)?.record;
    let is_meant = uid.is_none_or(|uid| *uid == record.uid);
    Ok((is_meant && record.is_purged(now)).then_some(record))
}
