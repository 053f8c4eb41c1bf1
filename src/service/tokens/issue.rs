//! New tokens for named subjects, and the renewal of one's own.

use std::time::Duration;

use super::{
    Call, Issued, Made, ROUNDS, SIGNING_KEYS_MAX, Times, TokenService,
    life::{Life, Reach, renewed},
    name_of, own_confirmation,
};
use crate::{
    authz::attenuation::Holding,
    domain::{
        error::{Failure, Reason},
        ids::{OrgId, Subject, TokenId},
        scope::Scope,
        token::{Confirmation, Epoch, Grant, SubjectRecord, TokenMode, TokenRecord},
    },
    repository::{
        orgs,
        records::{Expected, Records},
        tokens,
    },
    service::{bindings::mode_in, session::Access},
    store::{Action, Item, ItemKey},
};

/// What IssueToken asks for.
#[derive(Clone, Debug)]
pub struct Issue {
    /// Whom the token shall speak for.
    pub subject: Subject,
    /// What it may do; at least one.
    pub grants: Vec<Grant>,
    /// Its life; None: the default.
    pub ttl: Option<Duration>,
    /// How far renewal may reach.
    pub max_ttl: Option<Duration>,
    /// What it is bound to; None: the caller's own identity.
    pub confirmation: Option<Confirmation>,
    /// At most 256 bytes.
    pub description: String,
    /// LIVE or MOCK; None: as the caller's.
    pub mode: Option<TokenMode>,
    /// How many releases it is good for; None: any number.
    pub uses_max: Option<u64>,
    /// Makes it happen once.
    pub request_id: String,
}

impl TokenService {
    /// A new token in the caller's organization.
    ///
    /// # Errors
    /// GRANT_TOO_WIDE, INVALID_FIELD; the reasons of sessions and mutations.
    pub async fn issue(&self, call: &Call, request: &Issue) -> Result<Issued, Failure> {
        let org = call.org()?;
        let idempotency = self.parts.mutations.idempotency(call, org, &request.request_id).await?;
        for _ in 0..ROUNDS {
            let id = TokenId::random(&*self.parts.entropy).map_err(|cause| internal().caused_by(cause))?;
            let mut needs = Ground::keys(org, &request.subject, &id);
            needs.extend(idempotency.as_ref().map(|idempotency| idempotency.key.clone()));
            let access = Access::Plain(Scope::TokensIssue, format!("orgs/{org}/tokens/*"));
            let session = self.parts.sessions.open(call, access, &needs).await?;

            let holding = Holding::of_permit(&session.permit);
            holding.permits("grants", &request.grants)?;
            let mode = holding.mode(request.mode)?;
            let may_have = |record: &TokenRecord| holding.gives(record);
            let mut items = session.items.into_iter();
            let ground = Ground::read(&self.parts.records, &mut items)?.ok_or(Reason::RecordRejected)?;
            if let Some(prior) = self.parts.mutations.prior(idempotency.as_ref(), items.next().flatten())? {
                return self.replay(call, &prior, &may_have).await;
            }

            let life =
                Life::new(&self.settings, call.time, request.ttl, Reach::Asked(request.max_ttl), holding.expires())?;
            let record = TokenRecord {
                org: org.clone(),
                id,
                subject: request.subject.clone(),
                description: request.description.clone(),
                grants: request.grants.clone().into(),
                mode: mode_in(ground.is_mock, mode, request.mode)?,
                confirmation: request.confirmation.clone().unwrap_or_else(|| own_confirmation(call)),
                created: call.time,
                expires: life.expires,
                max_expires: life.max_expires,
                issued_by: session.permit.subject().to_string(),
                signing_keys: Vec::new(),
                org_generation: ground.epoch.generation,
                subject_generation: ground.subject_generation(),
                parent: None,
                uses_max: request.uses_max,
                revoked: None,
                revision: 1,
            };
            let made = self.made(&ground, record)?;
            let mut draft = call.draft(org.clone(), name_of(&made.record).to_string());
            draft.revision = made.record.revision;
            if let Some(issued) = self.hand_out(call, idempotency.as_ref(), made, draft, &may_have).await? {
                return Ok(issued);
            }
        }
        Err(Reason::WriteConflict.into())
    }

    /// What writes a new token.
    pub(super) fn made(&self, ground: &Ground, mut record: TokenRecord) -> Result<Made, Failure> {
        let (records, key) = (&self.parts.records, self.primary()?);
        record.signing_keys.push(key.kid.clone());
        let mut actions = Vec::from(tokens::put(records, &record, Expected::Absent));
        actions.extend(tokens::new_uses(records, &record));
        actions.extend(ground.new_subject(records, &record.org, &record.subject));
        let times = Times { issued: record.created, expires: record.expires };
        Ok(Made { record, times, key, actions, uses: 0, last_used: None })
    }

    /// The caller's own token with a later expiry.
    ///
    /// # Errors
    /// INVALID_FIELD for `ttl`; the reasons of sessions and mutations.
    pub async fn renew(&self, call: &Call, ttl: Option<Duration>, request_id: &str) -> Result<Issued, Failure> {
        let org = call.org()?;
        let idempotency = self.parts.mutations.idempotency(call, org, request_id).await?;
        for _ in 0..ROUNDS {
            let needs: Vec<_> = idempotency.iter().map(|idempotency| idempotency.key.clone()).collect();
            let session = self.parts.sessions.open(call, Access::Identity, &needs).await?;
            let own = session.permit.token();
            let is_own = |record: &TokenRecord| {
                if name_of(record) == name_of(own) { Ok(()) } else { Err(Reason::RequestIdReused.into()) }
            };
            let row = session.items.into_iter().next().flatten();
            if let Some(prior) = self.parts.mutations.prior(idempotency.as_ref(), row)? {
                return self.replay(call, &prior, &is_own).await;
            }
            let view = self.view(own.clone(), call.deadline).await?;
            let made = self.renewal(call, own, ttl, session.permit.renewable_until())?;
            let made = Made { uses: view.uses, last_used: view.last_used, ..made };
            let mut draft = call.draft(org.clone(), name_of(&made.record).to_string());
            draft.revision = made.record.revision;
            if let Some(issued) = self.hand_out(call, idempotency.as_ref(), made, draft, &is_own).await? {
                return Ok(issued);
            }
        }
        Err(Reason::WriteConflict.into())
    }

    fn renewal(
        &self,
        call: &Call,
        token: &TokenRecord,
        ttl: Option<Duration>,
        latest: crate::domain::clock::Timestamp,
    ) -> Result<Made, Failure> {
        let (mut record, key) = (token.clone(), self.primary()?);
        let claims = call.claims()?;
        let before = claims.expires.since(claims.issued);
        record.expires = renewed(&self.settings, call.time, ttl, before, token.expires, latest)?;
        if record.signing_keys.last() != Some(&key.kid) {
            record.signing_keys.retain(|kid| *kid != key.kid);
            record.signing_keys.push(key.kid.clone());
            let excess = record.signing_keys.len().saturating_sub(SIGNING_KEYS_MAX);
            record.signing_keys.drain(..excess);
        }
        let expected = Expected::Revision(token.revision);
        let actions = Vec::from(tokens::put(&self.parts.records, &record, expected));
        record.revision = expected.next_revision();
        let times = Times { issued: call.time, expires: record.expires };
        Ok(Made { record, times, key, actions, uses: 0, last_used: None })
    }
}

fn internal() -> Failure {
    Reason::Internal.into()
}

/// What a new token stands on: its organization, epoch and subject.
pub(super) struct Ground {
    pub(super) is_mock: bool,
    pub(super) epoch: Epoch,
    subject: Option<SubjectRecord>,
}

impl Ground {
    /// What [`Self::read`] reads, in order.
    pub(super) fn keys(org: &OrgId, subject: &Subject, id: &TokenId) -> Vec<ItemKey> {
        vec![orgs::item_key(org), tokens::epoch_key(org, id), tokens::subject_key(org, subject)]
    }
    /// None where there is no such organization.
    pub(super) fn read(
        records: &Records,
        items: &mut impl Iterator<Item = Option<Item>>,
    ) -> Result<Option<Self>, Failure> {
        let mut next = || items.next().flatten().map(|item| records.verify(item)).transpose();
        let (org, epoch, subject) = (next()?, next()?, next()?);
        let (Some(org), Some(epoch)) = (org, epoch) else { return Ok(None) };
        Ok(Some(Self {
            is_mock: orgs::decode(&org)?.is_mock,
            epoch: tokens::decode_epoch(&epoch)?,
            subject: subject.as_ref().map(tokens::decode_subject).transpose()?,
        }))
    }
    /// The generation that the subject's tokens are issued under.
    pub(super) fn subject_generation(&self) -> u64 {
        self.subject.as_ref().map_or(1, |subject| subject.generation)
    }
    /// The put of the subject's record, if this is the first token of it.
    fn new_subject(&self, records: &Records, org: &OrgId, subject: &Subject) -> Option<Action> {
        if self.subject.is_some() {
            return None;
        }
        let first = SubjectRecord { generation: 1, revoked: None, revision: 0 };
        Some(tokens::put_subject(records, org, subject, &first, Expected::Absent))
    }
}
