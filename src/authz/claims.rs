//! What a verified token says; not yet what its holder may do.

use crate::domain::{
    clock::Timestamp,
    ids::{OrgId, Subject, TokenId},
    scope::Scope,
    token::{Confirmation, TokenMode},
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
