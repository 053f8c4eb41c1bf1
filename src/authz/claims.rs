//! What a verified token says; not yet what its holder may do.

use crate::domain::{
    clock::Timestamp,
    error::Reason,
    ids::{OrgId, Subject, TokenId},
    scope::Scope,
    token::{Confirmation, TokenMode, TokenRecord},
};

/// The claims of a token whose signature, times and binding held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `org`
    pub org: OrgId,
    /// `sub`
    pub subject: Subject,
    /// `jti`
    pub token_id: TokenId,
    /// `par`: the token that it was exchanged from.
    pub parent: Option<TokenId>,
    /// `mode`
    pub mode: TokenMode,
    /// `scp`: the union of its grants' scopes.
    pub scopes: Vec<Scope>,
    /// `gnt`, the grants' hash: SHA-256 of their canonical bytes.
    pub grants_sha256: [u8; 32],
    /// `cnf`: what it is bound to.
    pub confirmation: Confirmation,
    /// `iat`
    pub issued: Timestamp,
    /// `nbf`
    pub not_before: Timestamp,
    /// `exp`
    pub expires: Timestamp,
    /// `lim`: its uses are counted.
    pub is_use_limited: bool,
    /// The header's `kid`.
    pub signing_key: String,
}

impl Claims {
    /// Whether they are those of this record: signed for it, and by a key that it knows.
    #[must_use]
    pub fn are_of(&self, token: &TokenRecord) -> bool {
        self.token_id == token.id
            && self.org == token.org
            && self.subject == token.subject
            && self.mode == token.mode
            && self.parent == token.parent
            && self.confirmation == token.confirmation
            && self.is_use_limited == token.uses_max.is_some()
            && self.grants_sha256 == *token.grants.sha256()
            && token.signing_keys.contains(&self.signing_key)
    }
    /// Why this copy of the token is not good at `now` by its own times; None: it is.
    #[must_use]
    pub fn untimely(&self, now: Timestamp) -> Option<Reason> {
        if now < self.not_before {
            Some(Reason::TokenNotYetValid)
        } else if now >= self.expires {
            Some(Reason::TokenExpired)
        } else {
            None
        }
    }
}
