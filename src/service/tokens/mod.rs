//! Tokens: issue, exchange, renew, revoke, list, introspect, and the keys that verify them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Parts,
    call::Call,
    keyring::SigningKey,
    mutation::{Idempotency, Mutated, Remembered},
};
use crate::{
    authz::{
        claims::Claims,
        jwt::{Realm, sign},
        standing::Standing,
        verifier::TokenVerifier,
    },
    domain::{
        clock::Timestamp,
        error::{Failure, Reason},
        ids::{Name, OrgId, TokenName},
        token::{AccessToken, Confirmation, TokenRecord},
    },
    repository::tokens,
    store::Action,
};

mod exchange;
mod issue;
mod life;
mod list;
mod look;
mod revoke;
#[cfg(test)]
mod testing;

pub use exchange::{Exchange, Subject};
pub use issue::Issue;
pub(super) use life::checked;
pub use list::{ListTokens, TokenPage};
pub use look::{Introspected, TokenView};
pub use revoke::Revoke;

/// Tokens that the service's own verifier remembers: exchanges and introspections are few.
const REMEMBERED: usize = 1_024;
/// How often a mutation that lost a race is tried again.
pub(super) const ROUNDS: usize = 5;
/// How far replicas' clocks may differ: so much earlier than its issue a token is valid, and so long
/// no time tells which tokens were issued before it.
const SKEW: Duration = Duration::from_secs(30);
/// The signing keys that a record remembers: renewals across so many rotations keep older copies
/// of the token good.
const SIGNING_KEYS_MAX: usize = 4;

/// How tokens are made.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// `iss`
    pub issuer: String,
    /// `aud`
    pub audience: String,
    /// The life of a token where none is asked for.
    pub ttl_default: Duration,
    /// The longest life, renewals included; at most 90 days.
    pub ttl_longest: Duration,
}

/// A token just made, and its metadata.
#[derive(Debug)]
pub struct Issued {
    /// The token; this answer is the only place where it stands.
    pub access_token: AccessToken,
    /// Its metadata.
    pub token: TokenView,
}

/// The use cases of tokens.
#[derive(Clone, Debug)]
pub struct TokenService {
    parts: Parts,
    settings: Arc<TokenSettings>,
    realm: Arc<Realm>,
    verifier: Arc<TokenVerifier>,
}

impl TokenService {
    /// On those parts.
    #[must_use]
    pub fn new(parts: Parts, settings: TokenSettings) -> Self {
        let realm = Realm { issuer: settings.issuer.clone(), audience: settings.audience.clone() };
        let verifier = TokenVerifier::new(settings.issuer.clone(), settings.audience.clone(), REMEMBERED);
        Self { parts, settings: Arc::new(settings), realm: Arc::new(realm), verifier: Arc::new(verifier) }
    }

    /// The key that signs new tokens.
    fn primary(&self) -> Result<Arc<SigningKey>, Failure> {
        let keys = self.parts.keyring.signing();
        let primary = keys.iter().find(|key| key.is_primary).map(Arc::clone);
        primary.ok_or_else(|| Failure::new(Reason::Internal).caused_by("no signing key is primary"))
    }

    /// The token of `record` with this expiry. The same record, key and times give the same bytes.
    fn signed(&self, record: &TokenRecord, times: Times, key: &SigningKey) -> Result<AccessToken, Failure> {
        sign(&self.realm, &claims_of(record, times, &key.kid), &key.seed)
    }

    /// Commits a token that was made or renewed, and answers it; None: it lost a race, try again.
    async fn hand_out(
        &self,
        call: &Call,
        idempotency: Option<&Idempotency>,
        made: Made,
        draft: crate::domain::audit::AuditDraft,
        may_have: MayHave<'_>,
    ) -> Result<Option<Issued>, Failure> {
        let Made { record, times, key, actions, uses, last_used } = made;
        let remembered = Remembered {
            resource: name_of(&record).to_string(),
            uid: None,
            revision: record.revision,
            numbers: times.remembered(),
            codes: vec![key.kid.clone()],
        };
        // Signed first: what can't be signed is not written.
        let access_token = self.signed(&record, times, &key)?;
        match self.parts.mutations.commit(call, idempotency, remembered, actions, draft).await? {
            Mutated::Done(_) => {
                // Nothing is read any more: what is done must not be answered with an error.
                let token = TokenView { record, standing: Standing::Active, uses, last_used };
                Ok(Some(Issued { access_token, token }))
            }
            Mutated::Replayed(prior) => self.replay(call, &prior, may_have).await.map(Some),
            Mutated::Conflict { .. } => Ok(None),
        }
    }

    /// What an earlier call with the same request_id answered: the same token, signed again, and
    /// its metadata as it is now. What is remembered is a subject's, and a subject may hold several
    /// tokens: `may_have` says whether the one that calls now may have it.
    async fn replay(&self, call: &Call, prior: &Remembered, may_have: MayHave<'_>) -> Result<Issued, Failure> {
        let name = TokenName::parse("request_id", &prior.resource, &OrgId::system())?;
        let found = self.parts.records.get_verified(tokens::item_key(&name.org, &name.id), call.deadline).await?;
        let record = tokens::decode(&found.ok_or(Reason::TokenNotFound)?)?;
        may_have(&record)?;
        let kid = prior.codes.first().ok_or(Reason::RecordRejected)?;
        let key = self.parts.keyring.signing_key(kid, call.deadline).await?.ok_or(Reason::SigningKeyWithdrawn)?;
        let access_token = self.signed(&record, Times::recalled(&prior.numbers)?, &key)?;
        Ok(Issued { access_token, token: self.view(record, call.deadline).await? })
    }
}

/// Refuses a token that was made by an earlier call to a caller who could not have it made now.
type MayHave<'a> = &'a (dyn Fn(&TokenRecord) -> Result<(), Failure> + Sync);

/// A token that is about to be written.
struct Made {
    record: TokenRecord,
    times: Times,
    key: Arc<SigningKey>,
    actions: Vec<Action>,
    uses: u64,
    last_used: Option<Timestamp>,
}

/// The times of one signed copy of a token.
#[derive(Clone, Copy)]
struct Times {
    issued: Timestamp,
    expires: Timestamp,
}

impl Times {
    fn remembered(self) -> BTreeMap<String, i64> {
        [("issued".to_owned(), self.issued.micros()), ("expires".to_owned(), self.expires.micros())].into()
    }
    fn recalled(numbers: &BTreeMap<String, i64>) -> Result<Self, Failure> {
        let time = |name| numbers.get(name).copied().map(Timestamp::from_micros).ok_or(Reason::RecordRejected);
        Ok(Self { issued: time("issued")?, expires: time("expires")? })
    }
}

fn claims_of(record: &TokenRecord, times: Times, kid: &str) -> Claims {
    let mut scopes: Vec<_> = record.grants.iter().flat_map(|grant| grant.scopes.iter().copied()).collect();
    scopes.sort_unstable();
    scopes.dedup();
    Claims {
        org: record.org.clone(),
        subject: record.subject.clone(),
        token_id: record.id.clone(),
        parent: record.parent.clone(),
        mode: record.mode,
        scopes,
        grants_sha256: *record.grants.sha256(),
        confirmation: record.confirmation.clone(),
        issued: times.issued,
        not_before: times.issued.minus(SKEW),
        expires: times.expires,
        is_use_limited: record.uses_max.is_some(),
        signing_key: kid.to_owned(),
    }
}

/// `orgs/{org}/tokens/{token}`
pub(super) fn name_of(record: &TokenRecord) -> TokenName {
    Name { org: record.org.clone(), id: record.id.clone() }
}

/// What a token is bound to where nothing is named: the caller's own identity, or, where the
/// certificate bears none, the certificate.
fn own_confirmation(call: &Call) -> Confirmation {
    let certificate = &call.peer.certificate;
    match certificate.primary_identity() {
        Some(identity) => Confirmation::Identity(identity.to_owned()),
        None => Confirmation::Certificate(certificate.sha256),
    }
}
