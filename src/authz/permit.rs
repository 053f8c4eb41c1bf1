//! The proof of authorization. Only [`admit`] makes a [`Permit`], and it decides from the records
//! that were read for this very call; a claim alone admits nobody.

use std::sync::Arc;

use super::{
    attenuation::is_subset,
    claims::Claims,
    standing::{Standing, standing},
    verifier::is_bound_to,
};
use crate::domain::{
    clock::Timestamp,
    error::{Failure, Reason},
    ids::{Environment, OrgId, Subject, TokenId},
    key::Labels,
    principal::Peer,
    scope::Scope,
    token::{Epoch, Grant, SubjectRecord, TokenMode, TokenRecord},
};

/// What a call asks to do.
#[derive(Clone, Debug)]
pub enum Access {
    /// `scope` on the resource of this full name: decided before it is looked at. A name that ends
    /// with `/*` asks for the whole collection.
    Resource(Scope, String),
    /// [`Self::Resource`], where it is known to have neither environment nor labels, so that a
    /// grant that demands one does not cover it: a collection, an organization, the server.
    Plain(Scope, String),
    /// Any one of these scopes on the resource of this full name; see [`Permit::covers_with`].
    AnyOf(&'static [Scope], String),
    /// `scope` on whatever of a collection the grants cover; each item is asked by
    /// [`Permit::covers`].
    Collection(Scope),
    /// Nothing but a valid token.
    Identity,
}

/// What a call is admitted on: its claims, the records as they are now, who calls, and when.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// What the token says.
    pub claims: &'a Claims,
    /// Its record; None: there is none.
    pub token: Option<&'a Arc<TokenRecord>>,
    /// The record of the token that it was exchanged from; None: there is none.
    pub parent: Option<&'a TokenRecord>,
    /// Its subject's record; None: there is none.
    pub subject: Option<&'a SubjectRecord>,
    /// Its organization's epoch.
    pub epoch: &'a Epoch,
    /// Who calls.
    pub peer: &'a Peer,
    /// When.
    pub now: Timestamp,
}

/// A call was admitted: these grants of its token hold the scope, are good from its network and,
/// where a resource was named, cover its name.
#[derive(Clone, Debug)]
pub struct Permit {
    token: Arc<TokenRecord>,
    parent_ends: Option<Timestamp>,
    ends: Timestamp,
    satisfied: Vec<usize>,
}

/// Admits a call, or says why not: the token's standing first, then scope, resource, network. One
/// grant must satisfy all three.
///
/// # Errors
/// The UNAUTHENTICATED and PERMISSION_DENIED reasons.
pub fn admit(evidence: Evidence<'_>, access: &Access) -> Result<Permit, Failure> {
    let (token, ends) = present(evidence)?;
    let satisfied = decide(&token.grants, evidence.peer, access)?;
    let parent_ends = evidence.parent.map(|parent| parent.expires);
    Ok(Permit { token: Arc::clone(token), parent_ends, ends, satisfied })
}

/// The token's record, if the token is good for this peer now, and the end of its life: its own,
/// its parent's or its claims', whichever comes first.
pub(super) fn present(evidence: Evidence<'_>) -> Result<(&Arc<TokenRecord>, Timestamp), Failure> {
    let Evidence { claims, peer, now, .. } = evidence;
    let token = evidence.token.ok_or(Reason::TokenRevoked)?;
    if !claims.are_of(token) {
        return Err(Reason::TokenMalformed.into());
    }
    if !is_bound_to(&token.confirmation, &peer.certificate) {
        return Err(Reason::TokenCertificateMismatch.into());
    }
    if peer.certificate.is_expired(now) {
        return Err(Reason::CertificateExpired.into());
    }
    match standing(token, evidence.parent, evidence.subject, evidence.epoch, now) {
        Standing::Active => {}
        Standing::Revoked(_) => return Err(Reason::TokenRevoked.into()),
        Standing::Expired => return Err(Reason::TokenExpired.into()),
    }
    if let Some(reason) = claims.untimely(now) {
        return Err(reason.into());
    }
    let parent_ends = evidence.parent.map_or(token.expires, |parent| parent.expires);
    Ok((token, token.expires.min(parent_ends).min(claims.expires)))
}

/// Which of `grants` satisfy the access alone.
fn decide(grants: &[Grant], peer: &Peer, access: &Access) -> Result<Vec<usize>, Failure> {
    let (scopes, resource): (&[Scope], _) = match access {
        Access::Resource(scope, name) | Access::Plain(scope, name) => (std::slice::from_ref(scope), Some(name)),
        Access::AnyOf(scopes, name) => (scopes, Some(name)),
        Access::Collection(scope) => (std::slice::from_ref(scope), None),
        Access::Identity => return Ok((0..grants.len()).collect()),
    };
    let mut left: Vec<_> = grants
        .iter()
        .enumerate()
        .filter(|(_, grant)| scopes.iter().any(|scope| grant.scopes.contains(scope)))
        .collect();
    if left.is_empty() {
        let needed: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
        return Err(Failure::new(Reason::ScopeMissing).with("scope", needed.join(" ")));
    }
    left.retain(|(_, grant)| match resource {
        Some(name) => grant.resources.iter().any(|pattern| pattern.matches(name)),
        None => !grant.resources.is_empty(),
    });
    if matches!(access, Access::Plain(..)) {
        left.retain(|(_, grant)| grant.environments.is_empty() && grant.labels.is_empty());
    }
    if left.is_empty() {
        return Err(Reason::ResourceNotGranted.into());
    }
    let address = peer.address.to_canonical();
    left.retain(|(_, grant)| {
        grant.client_cidrs.is_empty() || grant.client_cidrs.iter().any(|network| network.contains(&address))
    });
    if left.is_empty() {
        return Err(Reason::NetworkNotGranted.into());
    }
    Ok(left.into_iter().map(|(n, _)| n).collect())
}

impl Permit {
    /// The organization that every repository call is for.
    #[must_use]
    pub fn org(&self) -> &OrgId {
        &self.token.org
    }
    /// Whom the token speaks for.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.token.subject
    }
    /// The token.
    #[must_use]
    pub fn token_id(&self) -> &TokenId {
        &self.token.id
    }
    /// LIVE or MOCK.
    #[must_use]
    pub fn mode(&self) -> TokenMode {
        self.token.mode
    }
    /// When the token's life ends as things stand: its own expiry, its parent's, or that of the
    /// presented copy, whichever comes first.
    #[must_use]
    pub fn ends(&self) -> Timestamp {
        self.ends
    }
    /// How far renewal may move the token's expiry: its own limit, and never past its parent's end.
    #[must_use]
    pub fn renewable_until(&self) -> Timestamp {
        self.parent_ends.map_or(self.token.max_expires, |parent| parent.min(self.token.max_expires))
    }
    /// The token's record as it was read for this call.
    #[must_use]
    pub fn token(&self) -> &TokenRecord {
        &self.token
    }
    /// The grants that satisfied the scope, the network and the named resource.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.satisfied.iter().filter_map(|n| self.token.grants.get(*n))
    }
    /// The permit of the same token, from the same `peer`, for `access` instead: how a call about
    /// many resources, admitted once, is decided for each of them.
    ///
    /// # Errors
    /// The PERMISSION_DENIED reasons.
    pub fn narrowed(&self, peer: &Peer, access: &Access) -> Result<Self, Failure> {
        Ok(Self { satisfied: decide(&self.token.grants, peer, access)?, ..self.clone() })
    }
    /// Whether one of those grants covers the resource of this full name, environment (None: it
    /// has none) and labels. Where not, the answer is the bytes of absence.
    #[must_use]
    pub fn covers(&self, resource: &str, environment: Option<&Environment>, labels: &Labels) -> bool {
        self.grants().any(|grant| grant_covers(grant, resource, environment, labels))
    }
    /// [`Self::covers`], by a grant that holds `scope`: after [`Access::AnyOf`], when what was read
    /// tells which of the scopes it takes.
    #[must_use]
    pub fn covers_with(
        &self,
        scope: Scope,
        resource: &str,
        environment: Option<&Environment>,
        labels: &Labels,
    ) -> bool {
        self.grants().any(|grant| grant.scopes.contains(&scope) && grant_covers(grant, resource, environment, labels))
    }
    /// Whether labels `after` instead of `before` would let the token do to this resource what it
    /// could not: some scope, or some scope from some network. Every grant counts, whether this
    /// call needed it or not: who writes labels must not open with them what another grant guards.
    #[must_use]
    pub fn gains(&self, resource: &str, environment: Option<&Environment>, before: &Labels, after: &Labels) -> bool {
        let grants = &self.token.grants;
        let had = |gained: &Grant, scope: &Scope| {
            grants.iter().any(|grant| {
                grant.scopes.contains(scope)
                    && grant_covers(grant, resource, environment, before)
                    && is_subset(&gained.client_cidrs, &grant.client_cidrs, |inner, outer| outer.contains(inner))
            })
        };
        grants
            .iter()
            .filter(|grant| grant_covers(grant, resource, environment, after))
            .any(|grant| !grant.scopes.iter().all(|scope| had(grant, scope)))
    }
}

fn grant_covers(grant: &Grant, resource: &str, environment: Option<&Environment>, labels: &Labels) -> bool {
    let in_environment = grant.environments.is_empty()
        || environment.is_some_and(|environment| grant.environments.contains(environment));
    in_environment
        && grant.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
        && grant.resources.iter().any(|pattern| pattern.matches(resource))
}

#[cfg(test)]
mod tests;
