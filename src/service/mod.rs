//! The use cases. Knows neither tonic nor the generated types nor an AWS crate.

use std::sync::Arc;

use crate::{
    domain::{
        clock::{Clock, Entropy},
        error::{Failure, Reason},
    },
    repository::{audit::AuditLog, records::Records},
};

pub mod audit;
pub mod bindings;
pub mod call;
mod filling;
pub mod init;
pub mod janitor;
pub mod keyring;
pub mod mutation;
pub mod orgs;
pub mod page_token;
pub mod sealing;
pub mod session;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod tokens;
pub mod usage;
pub mod vault;

/// What every use case works with; made once by the composition root, cheap to clone.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The store, with record MACs.
    pub records: Records,
    /// The vault's own keys.
    pub keyring: Arc<keyring::Keyring>,
    /// KMS and envelope.
    pub sealer: sealing::Sealer,
    /// The audit log's writer.
    pub audit: AuditLog,
    /// Admission.
    pub sessions: session::Sessions,
    /// Idempotent, audited writes.
    pub mutations: mutation::Mutations,
    /// Page and resume tokens.
    pub pages: Arc<page_token::PageTokens>,
}

/// The place in a listing that `token` names; None at its beginning.
fn place(parts: &Parts, scope: &page_token::PageScope<'_>, token: &str) -> Result<Option<String>, Failure> {
    if token.is_empty() {
        return Ok(None);
    }
    let place = parts.pages.open(scope, "page_token", token)?;
    String::from_utf8(place).map(Some).map_err(|_| Reason::InvalidPageToken.into())
}

/// The token of the page that begins after `place`; empty at the end of the listing.
fn page_token(parts: &Parts, scope: &page_token::PageScope<'_>, place: Option<String>) -> Result<String, Failure> {
    place.map_or_else(|| Ok(String::new()), |place| parts.pages.seal(scope, place.as_bytes()))
}
