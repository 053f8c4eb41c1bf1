use super::*;
use crate::{
    authz::{
        fixtures::{Case, KID, acme, grant, keys, peer, public, seconds, seed},
        jwt::sign,
    },
    domain::principal::Peer,
};

fn verifier() -> TokenVerifier {
    TokenVerifier::new("ibyok", "vault", 8)
}
fn token(change: impl FnOnce(&mut Claims)) -> String {
    let mut claims = Case::with(vec![grant()]).claims;
    change(&mut claims);
    let realm = Realm { issuer: "ibyok".into(), audience: "vault".into() };
    sign(&realm, &claims, &seed(1)).unwrap().expose_secret().to_owned()
}

#[test]
fn times_and_binding_are_checked_on_every_call() {
    let verifier = verifier();
    let jwt = token(|_| {});
    let verify = |peer: &Peer, now| verifier.verify(&jwt, keys().as_slice(), &peer.certificate, seconds(now));
    let mut stranger = peer();
    stranger.certificate = Arc::new(ClientCertificate { identities: vec![], ..(*stranger.certificate).clone() });
    // Twice: the second time the signature is remembered.
    for _ in 0..2 {
        assert_eq!(verify(&peer(), 1000).unwrap().org, acme());
        assert_eq!(verify(&peer(), 4599).unwrap().org, acme());
        for (peer, now, reason) in [
            (peer(), 999, Reason::TokenNotYetValid),
            (peer(), 4600, Reason::TokenExpired),
            (stranger.clone(), 2000, Reason::TokenCertificateMismatch),
        ] {
            let refused = verify(&peer, now).unwrap_err();
            assert_eq!(refused.failure.reason, reason);
            assert_eq!(refused.claims.unwrap().org, acme(), "{reason:?} is recorded in its organization");
        }
    }
}

#[test]
fn a_token_bound_to_a_certificate_is_good_with_that_one_alone() {
    let jwt = token(|claims| claims.confirmation = Confirmation::Certificate([7; 32]));
    let mut renewed = peer();
    let certificate = ClientCertificate { sha256: [8; 32], ..(*renewed.certificate).clone() };
    renewed.certificate = Arc::new(certificate);
    assert!(verifier().verify(&jwt, keys().as_slice(), &peer().certificate, seconds(2000)).is_ok());
    let refused = verifier().verify(&jwt, keys().as_slice(), &renewed.certificate, seconds(2000)).unwrap_err();
    assert_eq!(refused.failure.reason, Reason::TokenCertificateMismatch);
}

#[test]
fn a_withdrawn_key_empties_the_memory() {
    let verifier = verifier();
    let (one, two) = (token(|_| {}), token(|claims| claims.issued = seconds(1001)));
    for jwt in [&one, &two] {
        assert!(verifier.inspect(jwt, keys().as_slice()).is_some());
    }
    assert_eq!(verifier.memory.len(), 2);
    let left = &keys()[1..];
    assert!(verifier.inspect(&one, left).is_none());
    assert_eq!(verifier.memory.len(), 0);
    assert!(verifier.inspect(&two, left).is_none());
    // Another key under the same id is another key.
    assert!(verifier.inspect(&one, keys().as_slice()).is_some());
    let replaced = [(KID.to_owned(), public(3))];
    assert!(verifier.inspect(&one, replaced.as_slice()).is_none());
}

#[test]
fn the_memory_is_bounded_and_keeps_only_what_held() {
    let verifier = verifier();
    for n in 0..100 {
        let jwt = token(|claims| claims.issued = seconds(n));
        assert!(verifier.inspect(&jwt, keys().as_slice()).is_some());
        assert!(verifier.inspect(&format!("{jwt}A"), keys().as_slice()).is_none());
    }
    assert!(verifier.memory.len() <= 8);
}

#[test]
fn what_is_no_token_yields_no_claims() {
    for jwt in ["", "a.b.c", &"a".repeat(5000), &token(|claims| claims.signing_key = "k3".into())] {
        let refused = verifier().verify(jwt, keys().as_slice(), &peer().certificate, seconds(2000)).unwrap_err();
        assert_eq!((refused.failure.reason, refused.claims), (Reason::TokenMalformed, None));
    }
    let other = TokenVerifier::new("ibyok", "another", 8);
    assert!(other.inspect(&token(|_| {}), keys().as_slice()).is_none());
}
