//! The token verifier with the keyring's keys, as the front asks for it.

use std::{sync::Arc, time::Duration};

use data_encoding::BASE64URL_NOPAD;

use crate::{
    authz::{
        claims::Claims,
        verifier::{Refused, TokenVerifier},
    },
    config::TokenConfig,
    domain::{
        PortFuture,
        clock::{Clock, Timestamp},
        principal::Peer,
    },
    grpc::layers::VerifyToken,
    service::keyring::Keyring,
};

/// Tokens whose signature is remembered.
const REMEMBERED: usize = 16_384;
/// How long a key that is not known here is looked for in the store.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Tokens {
    verifier: TokenVerifier,
    keyring: Arc<Keyring>,
    clock: Arc<dyn Clock>,
}

impl Tokens {
    pub(super) fn new(config: &TokenConfig, keyring: Arc<Keyring>, clock: Arc<dyn Clock>) -> Self {
        let verifier = TokenVerifier::new(config.issuer.as_str(), config.audience.as_str(), REMEMBERED);
        Self { verifier, keyring, clock }
    }
}

impl VerifyToken for Tokens {
    fn verify(&self, token: &str, peer: &Peer, now: Timestamp) -> Result<Arc<Claims>, Refused> {
        self.verifier.verify(token, &*self.keyring.signing(), &peer.certificate, now)
    }

    /// Another replica may have made the key since.
    fn learned<'a>(&'a self, token: &'a str) -> PortFuture<'a, bool> {
        Box::pin(async move {
            let Some(kid) = kid(token) else { return false };
            if self.keyring.signing().iter().any(|key| key.kid == kid) {
                return false;
            }
            matches!(self.keyring.signing_key(&kid, self.clock.deadline(LOOK)).await, Ok(Some(_)))
        })
    }
}

/// The `kid` of a JWT's header; nothing in it is believed.
fn kid(token: &str) -> Option<String> {
    let (header, _) = token.split_once('.')?;
    let header = BASE64URL_NOPAD.decode(header.as_bytes()).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    header.get("kid")?.as_str().filter(|kid| kid.len() <= 64).map(str::to_owned)
}
