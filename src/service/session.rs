//! Opens a call's session: ONE read of {token, subject, epoch, parent token if any, and what the
//! call needs}, then admission.

use std::{sync::Arc, time::Duration};

use super::{call::Call, keyring::SigningKeys};
pub use crate::authz::permit::Access;
use crate::{
    authz::{
        claims::Claims,
        exchange::{Assertion, ExchangePermit, admit_exchange},
        permit::{Evidence, Permit, admit},
        verifier::VerifyingKeys,
    },
    domain::{
        clock::{Clock, Deadline, Timestamp},
        error::{Failure, Reason},
        ids::{BindingId, OrgId, TokenId},
        token::{Epoch, SubjectRecord, TokenMode, TokenRecord},
    },
    repository::{
        bindings, orgs,
        records::{Records, Verified},
        tokens::{self, Uses},
    },
    store::{Item, ItemKey, SharedItem},
};

/// How often a call that stays open opens its session again.
pub const REOPEN_EVERY: Duration = Duration::from_secs(2);
/// How long that may take.
const REOPEN_WITHIN: Duration = Duration::from_millis(2_500);

/// An admitted call and the items that it asked for.
#[derive(Debug)]
pub struct Session<I = Item> {
    /// Proof of authorization.
    pub permit: Permit,
    /// What was needed, in order; MACs not yet looked at.
    pub items: Vec<Option<I>>,
    /// The token's count of uses, where it has uses_max: each release must
    /// [`spend`](tokens::spend) one.
    pub uses: Option<Uses>,
}

/// Opens sessions.
#[derive(Clone, Debug)]
pub struct Sessions {
    records: Records,
    clock: Arc<dyn Clock>,
}

impl VerifyingKeys for SigningKeys {
    fn public_key(&self, kid: &str) -> Option<&[u8; 32]> {
        self.iter().find(|key| key.kid == kid).map(|key| &key.public)
    }
}

impl Sessions {
    /// On those records and by that clock.
    #[must_use]
    pub fn new(records: Records, clock: Arc<dyn Clock>) -> Self {
        Self { records, clock }
    }

    /// Reads and admits. The time that counts is the clock's, not the call's: a stream opens its
    /// session again and again.
    ///
    /// # Errors
    /// The UNAUTHENTICATED and PERMISSION_DENIED reasons, STORE_UNAVAILABLE, RECORD_REJECTED.
    pub async fn open(&self, call: &Call, access: Access, needs: &[ItemKey]) -> Result<Session, Failure> {
        let Session { permit, items, uses } = self.open_shared(call, access, needs).await?;
        Ok(Session { permit, items: items.into_iter().map(|item| item.map(SharedItem::into_item)).collect(), uses })
    }

    /// [`Self::open`] without copies of what the store has in memory: for the path of a retrieval.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_shared(
        &self,
        call: &Call,
        access: Access,
        needs: &[ItemKey],
    ) -> Result<Session<SharedItem>, Failure> {
        let claims = call.claims()?;
        // A mock token may always renew itself, which changes nothing but itself.
        let is_mock_mutation =
            claims.mode == TokenMode::Mock && call.method.kind.is_mutation() && !matches!(access, Access::Identity);
        let mut reading = Reading(Vec::with_capacity(6));
        let standing = StandingKeys::of(claims, &mut reading);
        let uses = claims.is_use_limited.then(|| reading.add(tokens::uses_key(&claims.org, &claims.token_id)));
        let org = is_mock_mutation.then(|| reading.add(orgs::item_key(&claims.org)));
        let needs: Vec<_> = needs.iter().map(|key| reading.add(key.clone())).collect();
        let read = reading.get(&self.records, call.deadline).await?;

        let found = standing.find(&read)?;
        let permit = admit(found.evidence(claims, call, self.clock.as_ref()), &access)?;
        if let Some(org) = org {
            let org = read.verified(org)?.ok_or(Reason::RecordRejected)?;
            if !orgs::decode(&org)?.is_mock {
                return Err(Reason::MockTokenMutation.into());
            }
        }
        let uses = match uses {
            Some(uses) => tokens::decode_uses(permit.token(), read.verified(uses)?.as_ref())?,
            None => None,
        };
        Ok(Session { permit, items: needs.into_iter().map(|at| read.item(at).cloned()).collect(), uses })
    }

    /// Why the session of a call that stays open no longer opens, once it does not: it is opened
    /// again `every` so often, and looked at when it `ends`.
    pub async fn closed(&self, mut call: Call, access: Access, mut ends: Timestamp, every: Duration) -> Failure {
        loop {
            tokio::time::sleep(every.min(ends.since(self.clock.now()))).await;
            if ends <= self.clock.now() {
                return Reason::TokenExpired.into();
            }
            call.deadline = self.clock.deadline(REOPEN_WITHIN);
            match self.open(&call, access.clone(), &[]).await {
                Ok(session) => ends = session.permit.ends(),
                Err(failure) => return failure,
            }
        }
    }

    /// Admits an exchange of the call's client certificate into `org`. `token_id` is the id that
    /// the new token will have.
    ///
    /// # Errors
    /// EXCHANGE_REFUSED with the same bytes for no such organization and no binding;
    /// STORE_UNAVAILABLE, RECORD_REJECTED.
    pub async fn open_exchange(
        &self,
        call: &Call,
        org: &OrgId,
        token_id: &TokenId,
        choice: Option<&BindingId>,
    ) -> Result<ExchangePermit, Failure> {
        let epoch = self.records.get_verified(tokens::epoch_key(org, token_id), call.deadline).await?;
        let epoch = epoch.as_ref().map(tokens::decode_epoch).transpose()?;
        let (peer, deadline) = (&call.peer, call.deadline);
        let bindings = match choice {
            Some(id) => bindings::find(&self.records, org, id, deadline).await?.into_iter().collect(),
            None => bindings::matching(&self.records, org, &peer.certificate.identities, deadline).await?,
        };
        let assertion = Assertion::Certificate { peer, bindings: &bindings, choice, now: self.clock.now() };
        admit_exchange(org, epoch.as_ref(), assertion)
    }

    /// Admits an exchange of the token with these claims, which the call's peer presents, for a
    /// narrower one in `org`.
    ///
    /// # Errors
    /// EXCHANGE_REFUSED, the UNAUTHENTICATED reasons, GRANT_TOO_WIDE for a second level;
    /// STORE_UNAVAILABLE, RECORD_REJECTED.
    pub async fn open_token_exchange(
        &self,
        call: &Call,
        org: &OrgId,
        claims: &Claims,
    ) -> Result<ExchangePermit, Failure> {
        let mut reading = Reading::default();
        let standing = StandingKeys::of(claims, &mut reading);
        let read = reading.get(&self.records, call.deadline).await?;
        let found = standing.find(&read)?;
        let assertion = Assertion::Token(found.evidence(claims, call, self.clock.as_ref()));
        admit_exchange(org, Some(&found.epoch), assertion)
    }
}

/// Where the records are that a token stands by.
struct StandingKeys {
    token: usize,
    subject: usize,
    epoch: usize,
    parent: Option<usize>,
}

impl StandingKeys {
    fn of(claims: &Claims, reading: &mut Reading) -> Self {
        let Claims { org, subject, token_id, parent, .. } = claims;
        let [token, epoch] = tokens::item_and_epoch_keys(org, token_id);
        Self {
            token: reading.add(token),
            subject: reading.add(tokens::subject_key(org, subject)),
            epoch: reading.add(epoch),
            parent: parent.as_ref().map(|parent| reading.add(tokens::item_key(org, parent))),
        }
    }
    fn find(&self, read: &Read<'_>) -> Result<Found, Failure> {
        let parent = self.parent.map(|at| read.decoded(at, tokens::decode)).transpose()?.flatten();
        Ok(Found {
            token: read.decoded(self.token, tokens::decode)?,
            subject: read.decoded(self.subject, tokens::decode_subject)?,
            epoch: read.decoded(self.epoch, tokens::decode_epoch)?.ok_or(Reason::RecordRejected)?,
            parent,
        })
    }
}

/// The records that a token stands by.
struct Found {
    token: Option<Arc<TokenRecord>>,
    subject: Option<Arc<SubjectRecord>>,
    epoch: Arc<Epoch>,
    parent: Option<Arc<TokenRecord>>,
}

impl Found {
    fn evidence<'a>(&'a self, claims: &'a Claims, call: &'a Call, clock: &dyn Clock) -> Evidence<'a> {
        Evidence {
            claims,
            token: self.token.as_ref(),
            parent: self.parent.as_deref(),
            subject: self.subject.as_deref(),
            epoch: &self.epoch,
            peer: &call.peer,
            now: clock.now(),
        }
    }
}

/// Distinct keys to be read at once: the store takes none twice.
#[derive(Default)]
struct Reading(Vec<ItemKey>);

impl Reading {
    fn add(&mut self, key: ItemKey) -> usize {
        self.0.iter().position(|known| *known == key).unwrap_or_else(|| {
            self.0.push(key);
            self.0.len() - 1
        })
    }
    async fn get(self, records: &Records, deadline: Deadline) -> Result<Read<'_>, Failure> {
        Ok(Read { items: records.get_shared(&self.0, deadline).await?, records })
    }
}

struct Read<'a> {
    items: Vec<Option<SharedItem>>,
    records: &'a Records,
}

impl Read<'_> {
    fn item(&self, at: usize) -> Option<&SharedItem> {
        self.items.get(at)?.as_ref()
    }
    fn verified(&self, at: usize) -> Result<Option<Verified>, Failure> {
        self.item(at).map(|item| self.records.verify(Item::clone(item))).transpose()
    }
    /// What the record there says, verified and decoded once for all calls that share it.
    fn decoded<T: Send + Sync + 'static>(
        &self,
        at: usize,
        decode: impl Fn(&Verified) -> Result<T, Failure>,
    ) -> Result<Option<Arc<T>>, Failure> {
        self.item(at).map(|item| self.records.decoded(item, |verified| decode(&verified))).transpose()
    }
}
