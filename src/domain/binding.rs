//! Identity bindings: which client certificate may exchange itself for which grants.

use std::time::Duration;

use super::{
    ids::BindingId,
    principal::IdentityPattern,
    token::{Grant, TokenMode},
};

/// An identity binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its id within its organization.
    pub id: BindingId,
    /// The certificate identities that it is for.
    pub identity: IdentityPattern,
    /// What they may have, at most.
    pub grants: Vec<Grant>,
    /// LIVE or MOCK.
    pub mode: TokenMode,
    /// The longest life of a token that is exchanged by it, renewals included.
    pub ttl_max: Duration,
    /// The item's revision.
    pub revision: u64,
}
