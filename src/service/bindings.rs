//! Identity bindings: which client certificate may exchange itself for which grants.

use std::{sync::Arc, time::Duration};

use super::{
    Parts,
    call::Call,
    mutation::{Mutated, Remembered},
    page_token::PageScope,
    session::Access,
    tokens::{ROUNDS, TokenSettings, checked},
};
use crate::{
    authz::attenuation::{Holding, too_wide},
    domain::{
        binding::Binding,
        error::{Failure, Reason},
        ids::{BindingName, Name, OrgId},
        key::Labels,
        principal::IdentityPattern,
        scope::Scope,
        token::{Grant, TokenMode},
    },
    repository::{bindings, orgs},
    store::{Action, Condition},
};

/// What CreateIdentityBinding asks for.
#[derive(Clone, Debug)]
pub struct CreateBinding {
    /// `orgs/{org}/bindings/{id}`
    pub name: BindingName,
    /// The certificate identities that it is for.
    pub identity: IdentityPattern,
    /// What they may have, at most; at least one.
    pub grants: Vec<Grant>,
    /// LIVE or MOCK; None: as the caller's.
    pub mode: Option<TokenMode>,
    /// The longest life of a token, renewals included; None: the default life of tokens.
    pub ttl_max: Option<Duration>,
    /// Makes it happen once.
    pub request_id: String,
}

/// A page of bindings.
#[derive(Debug)]
pub struct BindingPage {
    /// In order of their ids.
    pub bindings: Vec<Binding>,
    /// Empty at the end.
    pub next_page_token: String,
}

/// The use cases of identity bindings.
#[derive(Clone, Debug)]
pub struct BindingService {
    parts: Parts,
    settings: Arc<TokenSettings>,
}

impl BindingService {
    /// On those parts, for tokens made by those settings.
    #[must_use]
    pub fn new(parts: Parts, settings: TokenSettings) -> Self {
        Self { parts, settings: Arc::new(settings) }
    }

    /// A new binding, never wider than the caller's token.
    ///
    /// # Errors
    /// GRANT_TOO_WIDE, BINDING_EXISTS, INVALID_FIELD; the reasons of sessions and mutations.
    pub async fn create(&self, call: &Call, request: &CreateBinding) -> Result<Binding, Failure> {
        let name = &request.name;
        call.own(&name.org, Reason::OrgNotFound)?;
        let idempotency = self.parts.mutations.idempotency(call, &name.org, &request.request_id).await?;
        let mut needs = vec![orgs::item_key(&name.org)];
        needs.extend(idempotency.as_ref().map(|idempotency| idempotency.key.clone()));
        let access = Access::Plain(Scope::BindingsWrite, name.to_string());
        let session = self.parts.sessions.open(call, access, &needs).await?;

        let holding = Holding::of_permit(&session.permit);
        holding.permits("binding.grants", &request.grants)?;
        let mode = holding.mode(request.mode)?;
        let ttl_max = self.ttl_max(request.ttl_max, holding.life())?;
        let mut items = session.items.into_iter();
        let org = self.parts.records.verify(items.next().flatten().ok_or(Reason::RecordRejected)?)?;
        let mode = mode_in(orgs::decode(&org)?.is_mock, mode, request.mode)?;
        if self.parts.mutations.prior(idempotency.as_ref(), items.next().flatten())?.is_some() {
            return self.read(call, name).await;
        }

        let (identity, grants) = (request.identity.clone(), request.grants.clone());
        let binding = Binding { id: name.id.clone(), identity, grants, mode, ttl_max, revision: 1 };
        let put = bindings::put_new(&self.parts.records, &name.org, &binding);
        // A replay needs to know no more than that there was a request: it reads what became of it.
        let remembered = Remembered::default();
        let mut draft = call.draft(name.org.clone(), name.to_string());
        draft.revision = 1;
        match self.parts.mutations.commit(call, idempotency.as_ref(), remembered, vec![put], draft).await? {
            Mutated::Done(_) => Ok(binding),
            Mutated::Replayed(_) => self.read(call, name).await,
            Mutated::Conflict { .. } => Err(Reason::BindingExists.into()),
        }
    }

    /// A page of the caller's organization's bindings that his grants cover.
    ///
    /// # Errors
    /// INVALID_PAGE_TOKEN; the reasons of sessions.
    pub async fn list(&self, call: &Call, page_size: usize, page_token: &str) -> Result<BindingPage, Failure> {
        let org = call.org()?;
        let session = self.parts.sessions.open(call, Access::Collection(Scope::BindingsList), &[]).await?;
        let permit = &session.permit;
        let scope = PageScope { org, subject: permit.subject(), method: call.method.path, filter: b"" };
        let after = super::place(&self.parts, &scope, page_token)?;
        let (mut bindings, next) = bindings::page(&self.parts.records, org, after, page_size, call.deadline).await?;
        bindings.retain(|binding| permit.covers(&name_of(org, binding).to_string(), None, &Labels::new()));
        Ok(BindingPage { bindings, next_page_token: super::page_token(&self.parts, &scope, next)? })
    }

    /// Deletes a binding. Tokens that were exchanged by it stay good.
    ///
    /// # Errors
    /// BINDING_NOT_FOUND, with the same bytes for another organization's; the reasons of sessions
    /// and mutations.
    pub async fn delete(&self, call: &Call, name: &BindingName, request_id: &str) -> Result<(), Failure> {
        call.own(&name.org, Reason::BindingNotFound)?;
        let idempotency = self.parts.mutations.idempotency(call, &name.org, request_id).await?;
        let key = bindings::item_key(&name.org, &name.id);
        let mut needs = vec![key.clone()];
        needs.extend(idempotency.as_ref().map(|idempotency| idempotency.key.clone()));
        for _ in 0..ROUNDS {
            let access = Access::Resource(Scope::BindingsWrite, name.to_string());
            let session = self.parts.sessions.open(call, access, &needs).await?;
            let mut items = session.items.into_iter();
            let item = items.next().flatten();
            if self.parts.mutations.prior(idempotency.as_ref(), items.next().flatten())?.is_some() {
                return Ok(());
            }
            if !session.permit.covers(&name.to_string(), None, &Labels::new()) {
                return Err(Reason::BindingNotFound.into());
            }
            let Some(item) = item else {
                let absent = Reason::BindingNotFound.into();
                return self.parts.mutations.refused(call, idempotency.as_ref(), absent).await.map(|_| ());
            };
            // What can't be read any more can still be deleted.
            let revision = item.revision;
            let actions = vec![Action::Delete(key.clone(), Condition::Revision(revision))];
            let remembered = Remembered::default();
            let mut draft = call.draft(name.org.clone(), name.to_string());
            draft.revision = revision;
            match self.parts.mutations.commit(call, idempotency.as_ref(), remembered, actions, draft).await? {
                Mutated::Done(_) | Mutated::Replayed(_) => return Ok(()),
                Mutated::Conflict { .. } => {}
            }
        }
        Err(Reason::WriteConflict.into())
    }

    async fn read(&self, call: &Call, name: &BindingName) -> Result<Binding, Failure> {
        let key = bindings::item_key(&name.org, &name.id);
        let item = self.parts.records.get_verified(key, call.deadline).await?;
        bindings::decode(&name.org, &item.ok_or(Reason::BindingNotFound)?)
    }

    /// A binding outlives its maker's token, so it is measured by the whole life of that token.
    fn ttl_max(&self, asked: Option<Duration>, life: Duration) -> Result<Duration, Failure> {
        match asked {
            None => Ok(self.settings.ttl_default.min(life)),
            Some(ttl_max) if checked("binding.ttl_max", &self.settings, ttl_max)? > life => {
                Err(too_wide("binding.ttl_max"))
            }
            Some(ttl_max) => Ok(ttl_max),
        }
    }
}

/// The mode of what is made in an organization: in a mock organization everything is MOCK.
pub(super) fn mode_in(is_mock: bool, mode: TokenMode, asked: Option<TokenMode>) -> Result<TokenMode, Failure> {
    match (is_mock, asked) {
        (true, Some(TokenMode::Live)) => Err(too_wide("mode")),
        (true, _) => Ok(TokenMode::Mock),
        (false, _) => Ok(mode),
    }
}

fn name_of(org: &OrgId, binding: &Binding) -> BindingName {
    Name { org: org.clone(), id: binding.id.clone() }
}
