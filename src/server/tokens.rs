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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::clock::SystemEntropy,
        kms::fake::FakeKms,
        repository::{
            audit::{AuditLog, AuditSettings},
            records::Records,
        },
        service::{
            sealing::Sealer,
            testing::{self, TestClock, in_time, write},
        },
    };

    /// A token whose header names `kid`; its signature is looked at by nobody here.
    fn jwt(header: &str) -> String {
        format!("{}.e30.c2ln", BASE64URL_NOPAD.encode(header.as_bytes()))
    }
    fn header(kid: &str) -> String {
        format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#)
    }

    #[test]
    fn a_kid_is_what_the_header_names_and_no_longer_than_one_is() {
        assert_eq!(kid(&jwt(&header("k1"))).unwrap(), "k1");
        assert_eq!(kid(&jwt(&header(&"k".repeat(64)))).unwrap().len(), 64);
        for text in [jwt(&header(&"k".repeat(65))), jwt("{}"), jwt(r#"{"kid":1}"#), "k1".to_owned(), ".".to_owned()] {
            assert_eq!(kid(&text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_key_that_another_replica_made_is_learned_once() {
        let (store, kms, clock) = (testing::store(), FakeKms::new(), TestClock::new());
        let entropy = || Arc::new(SystemEntropy);
        let sealer = || Sealer::new(Arc::new(kms.clone()), entropy());
        let time = || Arc::<TestClock>::clone(&clock) as Arc<dyn Clock>;
        let port = || Arc::new(store.clone());
        let (other, rows) = Keyring::create(port(), sealer(), entropy(), time(), in_time()).await.unwrap();
        write(&store, rows).await;
        let own = Keyring::load(port(), sealer(), entropy(), time(), in_time()).await.unwrap().unwrap();
        let old = own.signing()[0].kid.clone();
        let config = TokenConfig {
            issuer: "ibyok".to_owned(),
            audience: "vault".to_owned(),
            ttl_default: LOOK,
            ttl_longest: LOOK,
        };
        let tokens = Tokens::new(&config, Arc::new(own), time());

        let records = Records::new(port(), other.records());
        let audit = AuditLog::open(records, time(), entropy(), AuditSettings::default()).unwrap();
        let new = other.rotate_signing_key(&audit, LOOK, in_time()).await.unwrap();
        clock.advance(LOOK);
        assert!(!tokens.learned(&jwt(&header(&old))).await, "known before");
        assert!(!tokens.learned("garbage").await);
        assert!(tokens.learned(&jwt(&header(&new))).await);
        assert!(!tokens.learned(&jwt(&header(&new))).await, "known by now");
        clock.advance(LOOK);
        assert!(!tokens.learned(&jwt(&header("made-up"))).await);
    }
}
