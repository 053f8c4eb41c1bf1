//! Exchange: a client certificate, or a wider token, for a token.

use std::time::Duration;

use super::{
    Call, Issued, ROUNDS, TokenService,
    issue::Ground,
    life::{Life, Reach},
    name_of,
};
use crate::{
    authz::{attenuation::Holding, exchange::ExchangePermit, jwt::is_foreign},
    domain::{
        error::{Failure, Reason},
        ids::{BindingId, OrgId, TokenId},
        token::{AccessToken, Grant, TokenRecord},
    },
    repository::bindings,
    service::bindings::mode_in,
    store::{Action, Condition},
};

/// What is exchanged.
#[derive(Debug)]
pub enum Subject {
    /// The client certificate of the connection.
    Certificate,
    /// A token of this vault.
    Token(AccessToken),
}

/// What ExchangeToken asks for.
#[derive(Debug)]
pub struct Exchange {
    /// What is exchanged.
    pub subject: Subject,
    /// The organization to enter.
    pub org: OrgId,
    /// Which binding, where several match.
    pub binding: Option<BindingId>,
    /// What the token may do; None: all that the binding or token gives.
    pub grants: Option<Vec<Grant>>,
    /// Its life; None: the default.
    pub ttl: Option<Duration>,
    /// Makes it happen once.
    pub request_id: String,
}

impl TokenService {
    /// A token for whoever an identity binding lets in, or a narrower one for a token.
    ///
    /// # Errors
    /// EXCHANGE_REFUSED, with the same bytes for no such organization and no binding;
    /// GRANT_TOO_WIDE, INVALID_FIELD, NOT_IMPLEMENTED for tokens of other issuers; the reasons of
    /// sessions and mutations.
    pub async fn exchange(&self, call: &Call, request: &Exchange) -> Result<Issued, Failure> {
        let org = &request.org;
        for _ in 0..ROUNDS {
            let id = TokenId::random(&*self.parts.entropy)
                .map_err(|cause| Failure::new(Reason::Internal).caused_by(cause))?;
            let permit = self.admitted(call, request, &id).await?;
            let holding = Holding::of_exchange(&permit);
            let grants = request.grants.as_deref().unwrap_or(permit.grants());
            holding.permits("grants", grants)?;
            let may_have = |record: &TokenRecord| holding.gives(record);

            // Only now: whoever has no binding learns nothing of the organization.
            let idempotency = self.parts.mutations.idempotency(call, org, &request.request_id).await?;
            let mut needs = Ground::keys(org, permit.subject(), &id);
            needs.extend(idempotency.as_ref().map(|idempotency| idempotency.key.clone()));
            let mut items = self.parts.records.get(&needs, call.deadline).await?.into_iter();
            let ground = Ground::read(&self.parts.records, &mut items)?.ok_or(Reason::ExchangeRefused)?;
            if let Some(prior) = self.parts.mutations.prior(idempotency.as_ref(), items.next().flatten())? {
                return self.replay(call, &prior, &may_have).await;
            }

            let life = Life::new(&self.settings, call.time, request.ttl, Reach::Latest, permit.expires())?;
            let record = TokenRecord {
                org: org.clone(),
                id,
                subject: permit.subject().clone(),
                description: String::new(),
                grants: grants.to_vec().into(),
                mode: mode_in(ground.is_mock, permit.mode(), None)?,
                confirmation: permit.confirmation().clone(),
                created: call.time,
                expires: life.expires,
                max_expires: life.max_expires,
                issued_by: permit.issued_by().to_owned(),
                signing_keys: Vec::new(),
                org_generation: ground.epoch.generation,
                subject_generation: ground.subject_generation(),
                parent: permit.parent().cloned(),
                uses_max: None,
                revoked: None,
                revision: 1,
            };
            let mut made = self.made(&ground, record)?;
            // A binding that was deleted meanwhile lets nobody in.
            made.actions.extend(
                permit
                    .binding()
                    .map(|(id, revision)| Action::Check(bindings::item_key(org, id), Condition::Revision(revision))),
            );
            let mut draft = call.draft(org.clone(), name_of(&made.record).to_string());
            draft.subject = made.record.subject.to_string();
            draft.token_id = made.record.parent.as_ref().map(ToString::to_string).unwrap_or_default();
            draft.revision = made.record.revision;
            if let Some(issued) = self.hand_out(call, idempotency.as_ref(), made, draft, &may_have).await? {
                return Ok(issued);
            }
        }
        Err(Reason::WriteConflict.into())
    }

    async fn admitted(&self, call: &Call, request: &Exchange, id: &TokenId) -> Result<ExchangePermit, Failure> {
        let Subject::Token(token) = &request.subject else {
            return self.parts.sessions.open_exchange(call, &request.org, id, request.binding.as_ref()).await;
        };
        let jwt = token.expose_secret();
        if is_foreign(jwt) {
            return Err(Reason::NotImplemented.into());
        }
        let now = self.parts.clock.now();
        let keys = self.parts.keyring.signing();
        let claims = self.verifier.verify(jwt, &*keys, &call.peer.certificate, now)?;
        self.parts.sessions.open_token_exchange(call, &request.org, &claims).await
    }
}
