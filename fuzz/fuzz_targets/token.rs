//! Tokens: what is accepted was signed by this vault, says what it must, and says nothing twice.
//!
//! Three kinds of input, told apart by their first byte:
//! - `{`: a header and a payload, one a line, which are signed as they stand;
//! - `~`: changes to a good token, three bytes each: place (two, big-endian) and mask;
//! - anything else: a token as it comes.
#![no_main]

use std::sync::{Arc, LazyLock};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD as BASE64;
use ibyok::{
    authz::{
        claims::Claims,
        jwt::{self, Realm},
        verifier::TokenVerifier,
    },
    domain::{
        clock::Timestamp,
        error::Reason,
        ids::{OrgId, Subject, TokenId},
        principal::ClientCertificate,
        scope::Scope,
        secret::SecretKey,
        token::{Confirmation, TokenMode},
    },
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const SEED: [u8; 32] = [1; 32];
const NOW: i64 = 2_000;

struct Bench {
    pair: Ed25519KeyPair,
    keys: Vec<(String, [u8; 32])>,
    realm: Realm,
    certificate: ClientCertificate,
    good: String,
}

static BENCH: LazyLock<Arc<Bench>> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap();
    let keys = vec![("k1".to_owned(), pair.public_key().as_ref().try_into().unwrap())];
    let realm = Realm { issuer: "ibyok".to_owned(), audience: "ibyok".to_owned() };
    let claims = Claims {
        org: OrgId::parse("org", "acme").unwrap(),
        subject: Subject::parse("subject", "billing").unwrap(),
        token_id: TokenId::parse("id", &"0".repeat(32)).unwrap(),
        parent: None,
        mode: TokenMode::Live,
        scopes: vec![Scope::KeysRead],
        grants_sha256: [3; 32],
        confirmation: Confirmation::Identity("svc.fuzz.test".to_owned()),
        issued: Timestamp::from_seconds(1_000),
        not_before: Timestamp::from_seconds(1_000),
        expires: Timestamp::from_seconds(3_000),
        is_use_limited: false,
        signing_key: "k1".to_owned(),
    };
    let certificate = ClientCertificate {
        identities: vec!["svc.fuzz.test".to_owned()],
        sha256: [7; 32],
        not_after: Timestamp::from_seconds(1 << 40),
    };
    let good = jwt::sign(&realm, &claims, &SecretKey::new(SEED)).unwrap().expose_secret().to_owned();
    Arc::new(Bench { pair, keys, realm, certificate, good })
});

impl Bench {
    /// A verifier remembers what was good: each input meets a new one, and then what it remembers.
    fn judge(&self, token: &str) -> Option<Arc<Claims>> {
        let verifier = TokenVerifier::new("ibyok", "ibyok", 8);
        let now = Timestamp::from_seconds(NOW);
        let verify = || verifier.verify(token, self.keys.as_slice(), &self.certificate, now);
        let first = match verify() {
            Ok(claims) => Some(claims),
            Err(refused) => {
                let says_why = refused.claims.is_some();
                let is_malformed = refused.failure.reason == Reason::TokenMalformed;
                assert!(says_why != is_malformed, "whose signature held is known, and nobody else");
                None
            }
        };
        assert_eq!(verify().ok(), first, "it is judged the same again");
        let _ = jwt::is_foreign(token);
        first
    }
    fn signed(&self, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", BASE64.encode(header.as_bytes()), BASE64.encode(payload.as_bytes()));
        let signature = self.pair.sign(message.as_bytes());
        format!("{message}.{}", BASE64.encode(signature.as_ref()))
    }
}

fuzz_target!(|data: &[u8]| {
    let bench = &*BENCH;
    if let Some(edits) = data.strip_prefix(b"~") {
        let mut token = bench.good.clone().into_bytes();
        for edit in edits.chunks_exact(3) {
            let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % token.len();
            token[at] ^= edit[2];
        }
        if let Ok(token) = String::from_utf8(token) {
            assert_eq!(bench.judge(&token).is_some(), token == bench.good, "a changed token is accepted");
        }
        return;
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.split_once('\n').filter(|_| text.starts_with('{')) {
        None => assert!(bench.judge(text).is_none() || text == bench.good, "a token that nobody signed is accepted"),
        Some((header, payload)) => signed(bench, header, payload),
    }
});

/// What is signed and accepted says what a token must, in the words of the format.
fn signed(bench: &Bench, header: &str, payload: &str) {
    let token = bench.signed(header, payload);
    let Some(claims) = bench.judge(&token) else { return };
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let (header, payload) = (read(header), read(payload));
    assert_eq!(header, serde_json::json!({ "typ": "at+jwt", "alg": "EdDSA", "kid": "k1" }));
    assert_eq!((&payload["iss"], &payload["aud"]), (&"ibyok".into(), &"ibyok".into()));
    assert!(claims.not_before.seconds() <= NOW && NOW < claims.expires.seconds());
    assert!(token.len() <= jwt::JWT_MAX);

    // Signed again from what was understood it says the same: nothing in it was passed over.
    let again = jwt::sign(&bench.realm, &claims, &SecretKey::new(SEED)).unwrap();
    let again = again.expose_secret();
    assert_eq!(bench.judge(again).as_ref(), Some(&claims));
    let said = again.split('.').nth(1).map(|part| BASE64.decode(part.as_bytes()).unwrap()).unwrap();
    assert_eq!(without_defaults(serde_json::from_slice(&said).unwrap()), without_defaults(payload));

    // And no other signature will do.
    let (message, signature) = token.rsplit_once('.').unwrap();
    let mut signature = BASE64.decode(signature.as_bytes()).unwrap();
    signature[usize::from(message.len() as u8) % 64] ^= 1;
    assert!(bench.judge(&format!("{message}.{}", BASE64.encode(&signature))).is_none());
}

/// Members whose absence says the same.
fn without_defaults(mut payload: Value) -> Value {
    if let Some(members) = payload.as_object_mut() {
        members.retain(|name, value| !(name == "par" && value.is_null()));
        members.retain(|name, value| !(name == "lim" && (value.is_null() || value == &Value::Bool(false))));
    }
    payload
}
