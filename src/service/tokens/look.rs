//! Looking at tokens: how each stands, when it was last used, and the keys that verify them.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use serde_json::json;

use super::{Call, TokenService, name_of};
use crate::{
    authz::{
        permit::Permit,
        standing::{Standing, standing},
    },
    domain::{
        clock::{Deadline, Timestamp},
        error::{Failure, Reason},
        ids::{OrgId, TokenName},
        key::Labels,
        scope::Scope,
        token::{AccessToken, TokenRecord},
    },
    repository::{last_used, records::Verified, tokens},
    service::session::Access,
    store::ItemKey,
};

/// Tokens looked at together: with their subjects, parents and uses they fit one read.
pub(super) const AT_ONCE: usize = 32;

/// A token's metadata as it is now.
#[derive(Clone, Debug)]
pub struct TokenView {
    /// Its record.
    pub record: TokenRecord,
    /// Whether it is good.
    pub standing: Standing,
    /// How often it was used, where it has uses_max.
    pub uses: u64,
    /// When it was last used; None: never, or too recently to be known.
    pub last_used: Option<Timestamp>,
}

impl TokenView {
    /// When it was revoked, by name, by subject, with its parent or with its organization's tokens.
    #[must_use]
    pub fn revoked(&self) -> Option<Timestamp> {
        match self.standing {
            Standing::Revoked(time) => time.or(self.record.revoked),
            Standing::Active | Standing::Expired => None,
        }
    }
    /// Why it is not good; None: it is.
    #[must_use]
    pub fn objection(&self) -> Option<Reason> {
        match self.standing {
            Standing::Revoked(_) => Some(Reason::TokenRevoked),
            Standing::Expired => Some(Reason::TokenExpired),
            Standing::Active if self.record.uses_max.is_some_and(|max| self.uses >= max) => Some(Reason::TokenUsedUp),
            Standing::Active => None,
        }
    }
}

/// What introspection says.
#[derive(Clone, Debug)]
pub struct Introspected {
    /// Why the token is not good; None: it is.
    pub objection: Option<Reason>,
    /// Its metadata; None where it is none of this organization's.
    pub token: Option<TokenView>,
    /// The certificate identity of the caller.
    pub client_identity: String,
}

impl TokenService {
    /// A token's metadata.
    ///
    /// # Errors
    /// TOKEN_NOT_FOUND, with the same bytes for another organization's; the reasons of sessions.
    pub async fn token(&self, call: &Call, name: &TokenName) -> Result<TokenView, Failure> {
        call.own(&name.org, Reason::TokenNotFound)?;
        let access = Access::Resource(Scope::TokensList, name.to_string());
        let session = self.parts.sessions.open(call, access, &[tokens::item_key(&name.org, &name.id)]).await?;
        let item = session.items.into_iter().next().flatten().ok_or(Reason::TokenNotFound)?;
        let record = tokens::decode(&self.parts.records.verify(item)?)?;
        if !covers(&session.permit, &record) {
            return Err(Reason::TokenNotFound.into());
        }
        self.view(record, call.deadline).await
    }

    /// The caller's own token, by which certificate it is used, and whether it is good; or another
    /// token of the same organization.
    ///
    /// # Errors
    /// The reasons of sessions. A token that is not good is an answer, no error.
    pub async fn introspect(&self, call: &Call, other: Option<&AccessToken>) -> Result<Introspected, Failure> {
        let client_identity = call.peer.certificate.primary_identity().unwrap_or_default().to_owned();
        let own = call.claims()?;
        let Some(other) = other else {
            let session = self.parts.sessions.open(call, Access::Identity, &[]).await?;
            let token = self.view(session.permit.token().clone(), call.deadline).await?;
            return Ok(Introspected { objection: token.objection(), token: Some(token), client_identity });
        };
        // Another organization's token is to this one no token at all.
        let claims = self.verifier.inspect(other.expose_secret(), &*self.parts.keyring.signing());
        let claims = claims.filter(|claims| claims.org == own.org);
        let (access, needs) = match &claims {
            None => (Access::Collection(Scope::TokensList), vec![]),
            Some(claims) if claims.token_id == own.token_id => (Access::Identity, vec![]),
            Some(claims) => {
                let name = TokenName { org: claims.org.clone(), id: claims.token_id.clone() };
                let key = tokens::item_key(&claims.org, &claims.token_id);
                (Access::Resource(Scope::TokensList, name.to_string()), vec![key])
            }
        };
        let session = self.parts.sessions.open(call, access, &needs).await?;
        let record = match session.items.into_iter().next() {
            Some(item) => item.map(|item| tokens::decode(&self.parts.records.verify(item)?)).transpose()?,
            // Nothing was looked for: it is one's own, or no token at all.
            None => Some(session.permit.token().clone()),
        };
        let record = record.filter(|record| needs.is_empty() || covers(&session.permit, record));
        // A copy whose claims are not the record's is refused wherever it is presented.
        let found = claims.zip(record).filter(|(claims, record)| claims.are_of(record));
        let Some((claims, record)) = found else {
            return Ok(Introspected { objection: Some(Reason::TokenMalformed), token: None, client_identity });
        };
        let token = self.view(record, call.deadline).await?;
        // A renewed token outlives its earlier copies.
        let objection = token.objection().or_else(|| claims.untimely(self.parts.clock.now()));
        Ok(Introspected { objection, token: Some(token), client_identity })
    }

    /// The public signing keys as a JWK set (RFC 7517; RFC 8037 for Ed25519).
    #[must_use]
    pub fn jwks(&self) -> String {
        let keys = self.parts.keyring.signing();
        let keys = keys.iter().map(|key| {
            let x = BASE64URL_NOPAD.encode(&key.public);
            json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key.kid, "x": x})
        });
        json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
    }

    pub(super) async fn view(&self, record: TokenRecord, deadline: Deadline) -> Result<TokenView, Failure> {
        let org = record.org.clone();
        let views = self.views(&org, vec![record], deadline).await?;
        views.into_iter().next().ok_or_else(|| Reason::Internal.into())
    }

    /// How each of at most [`AT_ONCE`] tokens stands, in order.
    pub(super) async fn views(
        &self,
        org: &OrgId,
        records: Vec<TokenRecord>,
        deadline: Deadline,
    ) -> Result<Vec<TokenView>, Failure> {
        let Some(first) = records.first() else { return Ok(Vec::new()) };
        let epoch_key = tokens::epoch_key(org, &first.id);
        let mut keys = vec![epoch_key.clone()];
        for record in &records {
            keys.push(tokens::subject_key(org, &record.subject));
            keys.extend(record.parent.iter().map(|parent| tokens::item_key(org, parent)));
            keys.extend(record.uses_max.map(|_| tokens::uses_key(org, &record.id)));
        }
        keys.sort_unstable();
        keys.dedup();
        let read = self.parts.records.get_each(&keys, deadline).await?;
        // One record that does not verify must not hide the others: it counts as missing.
        let verified = read.into_iter().map(|item| self.parts.records.verify(item.ok()??).ok());
        let found: BTreeMap<ItemKey, Verified> =
            keys.into_iter().zip(verified).filter_map(|(key, item)| Some((key, item?))).collect();
        let epoch = tokens::decode_epoch(found.get(&epoch_key).ok_or(Reason::RecordRejected)?)?;

        let ids: Vec<_> = records.iter().map(|record| record.id.clone()).collect();
        let last_used = last_used::tokens(&self.parts.records, org, &ids, deadline).await?;
        let now = self.parts.clock.now();
        let view = |(record, last_used): (TokenRecord, _)| {
            let subject = found.get(&tokens::subject_key(org, &record.subject));
            let subject = subject.and_then(|item| tokens::decode_subject(item).ok());
            let parent = record.parent.as_ref().and_then(|parent| found.get(&tokens::item_key(org, parent)));
            let parent = parent.and_then(|item| tokens::decode(item).ok());
            let uses = tokens::decode_uses(&record, found.get(&tokens::uses_key(org, &record.id)));
            TokenView {
                standing: standing(&record, parent.as_ref(), subject.as_ref(), &epoch, now),
                uses: uses.ok().flatten().map_or(0, |uses| uses.count),
                record,
                last_used,
            }
        };
        Ok(records.into_iter().zip(last_used).map(view).collect())
    }
}

/// Tokens have neither environment nor labels: a grant that demands one covers none.
pub(super) fn covers(permit: &Permit, record: &TokenRecord) -> bool {
    permit.covers(&name_of(record).to_string(), None, &Labels::new())
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{at, view},
        *,
    };

    fn with(standing: Standing) -> TokenView {
        TokenView { standing, ..view() }
    }

    #[test]
    fn a_token_that_stands_no_more_says_why() {
        assert_eq!(view().objection(), None);
        assert_eq!(with(Standing::Revoked(None)).objection(), Some(Reason::TokenRevoked));
        assert_eq!(with(Standing::Expired).objection(), Some(Reason::TokenExpired));
        for (uses_max, expected) in [(1, Some(Reason::TokenUsedUp)), (2, Some(Reason::TokenUsedUp)), (3, None)] {
            let counted = TokenRecord { uses_max: Some(uses_max), ..view().record };
            assert_eq!(TokenView { record: counted, ..view() }.objection(), expected, "2 of {uses_max}");
        }
    }

    #[test]
    fn the_time_of_a_revocation_is_that_of_what_revoked_it() {
        assert_eq!((view().revoked(), with(Standing::Expired).revoked()), (None, None));
        assert_eq!(with(Standing::Revoked(Some(at(7)))).revoked(), Some(at(7)));
        let by_name = TokenRecord { revoked: Some(at(8)), ..view().record };
        assert_eq!(TokenView { record: by_name, ..with(Standing::Revoked(None)) }.revoked(), Some(at(8)));
    }
}
