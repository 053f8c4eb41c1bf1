//! Mutations: once by request_id, with their audit record in the same transaction.
//!
//! A use case asks for [`Mutations::idempotency`], adds its item to the session's one read, asks
//! [`Mutations::prior`] of what came back, and commits with [`Mutations::commit`]. What it refuses
//! because of anything that it read, it refuses through [`Mutations::refused`].
//!
//! The memory of a request is a row with a MAC, good for 24 hours. Its name is an HMAC under a key
//! of the organization, so that who reads the database learns no request_id, and so is the digest
//! of the request, so that he can't try out contents. It has a MAC because a replay answers what
//! the row names: a planted row must not choose that.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{call::Call, keyring::Keyring};
use crate::{
    domain::{
        audit::{AuditDraft, Receipt},
        clock::Clock,
        error::{Failure, Reason},
        ids::{OrgId, RequestId, Uid},
        mac::{MacKey, TAG_LEN},
    },
    repository::{
        audit::{AuditLog, Commit},
        fields::{self, Fields as _},
        records::{Expected, Records, Verified},
    },
    store::{Action, Item, ItemKey, NewItem},
};

#[cfg(test)]
mod tests;

/// How long a request is remembered.
pub const MEMORY: Duration = Duration::from_secs(86_400);

/// Where a request_id is remembered, and what its content must be.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The row: `O#org#IDEM#` HMAC(subject, method, request_id) / `R`.
    pub key: ItemKey,
    digest: [u8; TAG_LEN],
}

/// What is kept of a mutation for 24 hours to answer its replay: never a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The full name of what it made or changed.
    pub resource: String,
    /// Its uid, where a name may be given anew: a replay must not answer with another of the name.
    pub uid: Option<Uid>,
    /// Its revision after.
    pub revision: u64,
    /// Times, in microseconds since the Unix epoch, and counts.
    pub numbers: BTreeMap<String, i64>,
    /// Warning codes.
    pub codes: Vec<String>,
}

/// How a mutation ended.
#[derive(Clone, Debug)]
pub enum Mutated {
    /// It happened, and its record stands there.
    Done(Receipt),
    /// A concurrent call with the same request_id was first: answer its replay.
    Replayed(Remembered),
    /// The condition of the caller's action at `index` did not hold.
    Conflict {
        /// Which of the caller's actions.
        index: usize,
        /// Its item as it was then.
        current: Option<Item>,
    },
}

/// Runs mutations.
#[derive(Clone, Debug)]
pub struct Mutations {
    records: Records,
    keyring: Arc<Keyring>,
    audit: AuditLog,
    clock: Arc<dyn Clock>,
}

impl Mutations {
    /// With these parts.
    #[must_use]
    pub fn new(records: Records, keyring: Arc<Keyring>, audit: AuditLog, clock: Arc<dyn Clock>) -> Self {
        Self { records, keyring, audit, clock }
    }
    /// Where `request_id` of this call is remembered; None when it is empty.
    ///
    /// # Errors
    /// INVALID_FIELD for `request_id`; as [`super::keyring::Keyring::org_keys`].
    pub async fn idempotency(
        &self,
        call: &Call,
        org: &OrgId,
        request_id: &str,
    ) -> Result<Option<Idempotency>, Failure> {
        if request_id.is_empty() {
            return Ok(None);
        }
        let request_id = RequestId::parse("request_id", request_id)?;
        let keys = self.keyring.org_keys(org, call.deadline).await?;
        Ok(Some(place(&keys.idempotency, call, org, &request_id)))
    }
    /// What an earlier call with this request_id did, from the row that was read.
    ///
    /// # Errors
    /// REQUEST_ID_REUSED for another content, RECORD_REJECTED.
    pub fn prior(&self, idempotency: Option<&Idempotency>, row: Option<Item>) -> Result<Option<Remembered>, Failure> {
        let (Some(idempotency), Some(row)) = (idempotency, row) else { return Ok(None) };
        let row = self.verify(idempotency, row)?;
        if self.is_over(&row) { Ok(None) } else { idempotency.recall(&row).map(Some) }
    }
    /// What an earlier call with this request_id did, for that may be what is refused; else
    /// `failure`. What a use case read with the row or after it is no snapshot: it may have seen its
    /// own request's effect and not the row. The row is written with the effect, so it is there for
    /// whoever reads it after.
    ///
    /// # Errors
    /// `failure`; STORE_UNAVAILABLE, REQUEST_ID_REUSED, RECORD_REJECTED.
    pub async fn refused(
        &self,
        call: &Call,
        idempotency: Option<&Idempotency>,
        failure: Failure,
    ) -> Result<Remembered, Failure> {
        let Some(idempotency) = idempotency else { return Err(failure) };
        let row = self.row(call, idempotency).await?;
        self.prior(Some(idempotency), row)?.ok_or(failure)
    }
    /// Commits `actions`, the memory of the request and the audit record in one transaction.
    ///
    /// # Errors
    /// AUDIT_UNAVAILABLE, STORE_UNAVAILABLE, REQUEST_ID_REUSED, RECORD_REJECTED; WRITE_CONFLICT
    /// when the row of the request keeps changing.
    pub async fn commit(
        &self,
        call: &Call,
        idempotency: Option<&Idempotency>,
        remembered: Remembered,
        actions: Vec<Action>,
        draft: AuditDraft,
    ) -> Result<Mutated, Failure> {
        let Some(idempotency) = idempotency else {
            return Ok(match self.audit.commit(actions, draft, call.deadline).await? {
                Commit::Done(receipt) => Mutated::Done(receipt),
                Commit::Conflict { index, current } => Mutated::Conflict { index, current },
            });
        };
        let own = actions.len();
        let mut expected = Expected::Absent;
        // The second round is for a row that is past its time and was not swept yet.
        for _ in 0..ROUNDS {
            let mut all = actions.clone();
            all.push(self.records.put(self.memory(idempotency, &remembered), expected));
            let (index, current) = match self.audit.commit(all, draft.clone(), call.deadline).await? {
                Commit::Done(receipt) => return Ok(Mutated::Done(receipt)),
                Commit::Conflict { index, current } => (index, current),
            };
            // Whichever action the store names: a call with the same request_id that was first
            // made most of the others fail, too.
            let row = self.row(call, idempotency).await?;
            if let Some(prior) = self.prior(Some(idempotency), row.clone())? {
                return Ok(Mutated::Replayed(prior));
            }
            if index != own {
                return Ok(Mutated::Conflict { index, current });
            }
            expected = row.map_or(Expected::Absent, |row| Expected::Revision(row.revision));
        }
        Err(Reason::WriteConflict.into())
    }

    async fn row(&self, call: &Call, idempotency: &Idempotency) -> Result<Option<Item>, Failure> {
        let row = self.records.get(std::slice::from_ref(&idempotency.key), call.deadline).await?;
        Ok(row.into_iter().next().flatten())
    }
    fn verify(&self, idempotency: &Idempotency, row: Item) -> Result<Verified, Failure> {
        if row.key != idempotency.key {
            return Err(Failure::new(Reason::Internal).caused_by("the row is not that of this request"));
        }
        self.records.verify(row)
    }
    fn is_over(&self, row: &Verified) -> bool {
        row.item().expires.is_none_or(|expires| expires <= self.clock.now())
    }
    fn memory(&self, idempotency: &Idempotency, remembered: &Remembered) -> NewItem {
        let attributes = fields::Builder::new()
            .bytes("digest", idempotency.digest)
            .text("resource", remembered.resource.as_str())
            .opt_text("uid", remembered.uid.as_ref().map(Uid::as_str))
            .count("revision", remembered.revision)
            .map_of_int("numbers", &remembered.numbers)
            .texts("codes", remembered.codes.iter().cloned())
            .build();
        let expires = Some(self.clock.now().plus(MEMORY));
        NewItem { expires, ..NewItem::new(idempotency.key.clone(), attributes) }
    }
}

const ROUNDS: usize = 3;

impl Idempotency {
    fn recall(&self, row: &Verified) -> Result<Remembered, Failure> {
        let digest = row.array::<TAG_LEN>("digest")?;
        aws_lc_rs::constant_time::verify_slices_are_equal(&digest, &self.digest)
            .map_err(|_| Failure::new(Reason::RequestIdReused))?;
        Ok(Remembered {
            resource: row.text("resource")?.to_owned(),
            uid: row.opt_text("uid")?.map(Uid::stored),
            revision: row.number("revision")?,
            numbers: row.map_of_int("numbers")?,
            codes: row.texts("codes")?,
        })
    }
}

/// Who calls is part of the name: the token's subject, or, where no token is asked for, the
/// certificate. So nobody meets another's request_id.
fn place(key: &MacKey, call: &Call, org: &OrgId, request_id: &RequestId) -> Idempotency {
    let (kind, caller) = match &call.claims {
        Some(claims) => ("subject", claims.subject.to_string()),
        None => ("certificate", call.peer.certificate.thumbprint()),
    };
    let parts = ["request", kind, &caller, call.method.path, request_id.as_str()];
    let name = data_encoding::HEXLOWER.encode(&key.tag(parts.map(str::as_bytes)));
    let digest = key.tag([b"content", &call.content[..]]);
    Idempotency { key: ItemKey::new(format!("O#{org}#IDEM#{name}"), "R"), digest }
}
