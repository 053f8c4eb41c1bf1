//! From a method and a token to claims: default deny. What the claims allow of a resource is
//! decided later, by the session.

use std::sync::Arc;

use http::{HeaderMap, header};

use super::rate::{Rates, TooMany};
use crate::{
    authz::{claims::Claims, jwt::JWT_MAX, methods::Requirement, verifier::Refused},
    domain::{
        PortFuture,
        clock::{Clock, Timestamp},
        error::{Failure, Reason},
        principal::Peer,
        scope::Scope,
    },
    grpc::entry::{Connection, Entry},
};

/// Checks a token's signature, times and binding.
pub trait VerifyToken: Send + Sync + std::fmt::Debug {
    /// The claims of `token`, which `peer` presents at `now`.
    ///
    /// # Errors
    /// The TOKEN_* reasons.
    fn verify(&self, token: &str, peer: &Peer, now: Timestamp) -> Result<Arc<Claims>, Refused>;
    /// Whether the key that `token` names has been learned just now, so that it is worth another
    /// look.
    fn learned<'a>(&'a self, token: &'a str) -> PortFuture<'a, bool>;
}

#[derive(Debug)]
pub(super) struct Authorizer {
    tokens: Arc<dyn VerifyToken>,
    clock: Arc<dyn Clock>,
    rates: Arc<Rates>,
}

impl Authorizer {
    pub(super) fn new(tokens: Arc<dyn VerifyToken>, clock: Arc<dyn Clock>, rates: Rates) -> Self {
        Self { tokens, clock, rates: Arc::new(rates) }
    }

    /// Lets a call of health or reflection through, for which a certificate is enough.
    pub(super) fn open(&self, connection: &Connection) -> Result<(), Failure> {
        connection.check(self.clock.now())?;
        self.stranger(&connection.peer)
    }

    /// Lets the call through and fills in its claims, or refuses it; the claims of a refused token
    /// are filled in, too, if its signature held.
    pub(super) async fn authorize(&self, entry: &mut Entry, headers: &HeaderMap) -> Result<(), Failure> {
        entry.connection.check(entry.time)?;
        if entry.method.path.is_empty() {
            self.stranger(&entry.connection.peer)?;
            return Err(Reason::MethodUnknown.into());
        }
        let needed = match entry.method.requirement {
            Requirement::Certificate => {
                self.stranger(&entry.connection.peer)?;
                return built(entry);
            }
            Requirement::Token => None,
            Requirement::AnyScope(scopes) => Some(scopes),
        };
        let claims = match self.verified(headers, entry).await {
            Ok(claims) => claims,
            Err(refused) => {
                entry.claims = refused.claims;
                return Err(refused.failure);
            }
        };
        let claims = entry.claims.insert(claims);
        if let Err(refused) = self.rates.token(claims) {
            entry.is_repeated = refused.is_repeated;
            return Err(refused.failure());
        }
        entry.rates = Some(Arc::clone(&self.rates));
        if let Some(needed) = needed
            && !needed.iter().any(|scope| claims.scopes.contains(scope))
        {
            let names: Vec<_> = needed.iter().copied().map(Scope::as_str).collect();
            return Err(Failure::new(Reason::ScopeMissing).with("scope", names.join(" or ")));
        }
        built(entry)
    }

    /// Lets one more call through of a token that was let through before.
    pub(super) fn again(&self, entry: &Entry) -> Result<(), Failure> {
        entry.connection.check(self.clock.now())?;
        let claims = entry.claims.as_ref().ok_or(Reason::TokenMissing)?;
        self.rates.token(claims).map_err(|refused| refused.failure())
    }

    /// What is no token of this vault counts against its certificate and address, before the store
    /// is asked for its key.
    async fn verified(&self, headers: &HeaderMap, entry: &Entry) -> Result<Arc<Claims>, Refused> {
        let peer = &entry.connection.peer;
        let refused = |failure| Refused { failure, claims: None };
        let (token, outcome) = match bearer(headers) {
            Ok(token) => (Some(token), self.tokens.verify(token, peer, entry.time)),
            Err(failure) => (None, Err(refused(failure))),
        };
        if !matches!(&outcome, Err(refused) if refused.claims.is_none()) {
            return outcome;
        }
        self.stranger(peer).map_err(refused)?;
        match token {
            Some(token) if self.tokens.learned(token).await => self.tokens.verify(token, peer, entry.time),
            _ => outcome,
        }
    }

    fn stranger(&self, peer: &Peer) -> Result<(), Failure> {
        self.rates.stranger(peer).map_err(|refused: TooMany| refused.failure())
    }
}

/// The one place where a method of the contract that this version does not answer is refused.
fn built(entry: &Entry) -> Result<(), Failure> {
    if entry.method.is_built { Ok(()) } else { Err(Reason::NotImplemented.into()) }
}

/// The token of the one `authorization` header.
fn bearer(headers: &HeaderMap) -> Result<&str, Failure> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(Reason::TokenMissing)?;
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Reason::TokenMalformed)?;
    let is_one = values.next().is_none() && scheme.eq_ignore_ascii_case("bearer");
    if is_one && (1..=JWT_MAX).contains(&token.len()) { Ok(token) } else { Err(Reason::TokenMalformed.into()) }
}
