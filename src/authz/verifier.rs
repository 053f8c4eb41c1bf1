//! Verifies tokens: signature, times and binding. Signatures that held are remembered; times and
//! binding are checked on every call.

use std::{fmt, sync::Arc};

use aws_lc_rs::digest;
use quick_cache::sync::Cache;

use super::{
    claims::Claims,
    jwt::{JWT_MAX, Realm, Unverified},
};
use crate::domain::{
    clock::Timestamp,
    error::{Failure, Reason},
    principal::ClientCertificate,
    token::Confirmation,
};

/// The public signing keys of one moment; a withdrawn one is not among them.
pub trait VerifyingKeys {
    /// The Ed25519 public key of that id.
    fn public_key(&self, kid: &str) -> Option<&[u8; 32]>;
}

impl VerifyingKeys for [(String, [u8; 32])] {
    fn public_key(&self, kid: &str) -> Option<&[u8; 32]> {
        self.iter().find(|(id, _)| id == kid).map(|(_, key)| key)
    }
}

/// A refused token. Where its signature held, the claims tell whose log the refusal belongs in.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub failure: Failure,
    /// What it says, if this vault signed it.
    pub claims: Option<Arc<Claims>>,
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        refused.failure
    }
}

/// Verifies tokens of one issuer and audience.
pub struct TokenVerifier {
    realm: Realm,
    memory: Cache<[u8; 32], Arc<Signed>>,
}

/// A token whose signature held under this key.
struct Signed {
    claims: Arc<Claims>,
    public: [u8; 32],
}

impl TokenVerifier {
    /// Tokens of `issuer` for `audience`; at most `remembered` of them are kept in memory.
    #[must_use]
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>, remembered: usize) -> Self {
        let realm = Realm { issuer: issuer.into(), audience: audience.into() };
        Self { realm, memory: Cache::new(remembered) }
    }

    /// The claims of `jwt`, which the holder of `certificate` presents at `now`.
    ///
    /// # Errors
    /// TOKEN_MALFORMED; TOKEN_EXPIRED, TOKEN_NOT_YET_VALID and TOKEN_CERTIFICATE_MISMATCH with the
    /// claims.
    pub fn verify<K: VerifyingKeys + ?Sized>(
        &self,
        jwt: &str,
        keys: &K,
        certificate: &ClientCertificate,
        now: Timestamp,
    ) -> Result<Arc<Claims>, Refused> {
        let malformed = || Refused { failure: Reason::TokenMalformed.into(), claims: None };
        let claims = self.inspect(jwt, keys).ok_or_else(malformed)?;
        match objection(&claims, certificate, now) {
            None => Ok(claims),
            Some(reason) => Err(Refused { failure: reason.into(), claims: Some(claims) }),
        }
    }

    /// The claims of `jwt` if this vault signed it, whoever presents it and whenever.
    pub fn inspect<K: VerifyingKeys + ?Sized>(&self, jwt: &str, keys: &K) -> Option<Arc<Claims>> {
        if jwt.len() > JWT_MAX {
            return None;
        }
        let id = sha256(jwt);
        if let Some(signed) = self.memory.get(&id) {
            if keys.public_key(&signed.claims.signing_key) == Some(&signed.public) {
                return Some(Arc::clone(&signed.claims));
            }
            // Its key was withdrawn: nothing that was checked before counts any more.
            self.memory.clear();
        }
        let token = Unverified::parse(jwt)?;
        let public = *keys.public_key(token.kid())?;
        let claims = Arc::new(token.verify(&public, &self.realm)?);
        self.memory.insert(id, Arc::new(Signed { claims: Arc::clone(&claims), public }));
        Some(claims)
    }
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier").field("realm", &self.realm).finish_non_exhaustive()
    }
}

/// Whether `certificate` shows what `confirmation` asks for.
#[must_use]
pub fn is_bound_to(confirmation: &Confirmation, certificate: &ClientCertificate) -> bool {
    match confirmation {
        Confirmation::Certificate(sha256) => certificate.sha256 == *sha256,
        Confirmation::Identity(identity) => certificate.bears(identity),
    }
}

fn objection(claims: &Claims, certificate: &ClientCertificate, now: Timestamp) -> Option<Reason> {
    if !is_bound_to(&claims.confirmation, certificate) {
        Some(Reason::TokenCertificateMismatch)
    } else {
        claims.untimely(now)
    }
}

fn sha256(text: &str) -> [u8; 32] {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests;
