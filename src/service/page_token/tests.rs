use super::*;
use crate::domain::clock::SystemEntropy;

struct Listing {
    org: OrgId,
    subject: Subject,
}

impl Listing {
    fn new() -> Self {
        Self { org: OrgId::parse("org", "acme").unwrap(), subject: Subject::parse("sub", "billing").unwrap() }
    }
    fn scope(&self) -> PageScope<'_> {
        PageScope { org: &self.org, subject: &self.subject, method: "/ibyok.v1.KeyVault/ListKeys", filter: b"f" }
    }
}

fn page_key(kid: &str) -> PageKey {
    PageKey { kid: kid.to_owned(), key: SecretKey::random(&SystemEntropy).unwrap() }
}

const KID: &str = "abcdefghijklmnopqrstuvwxyz";

#[test]
fn a_place_comes_back_under_the_newest_and_under_older_keys() {
    let listing = Listing::new();
    let old = page_key(KID);
    for place in [&b""[..], b"openai#prod", &[0xff; 1_024]] {
        let token = seal(&old, &SystemEntropy, &listing.scope(), place).unwrap();
        assert_eq!(token.len(), (place.len() + 72) * 4 / 3 + usize::from(!(place.len() + 72).is_multiple_of(3)));
        let pages =
            [page_key("newer"), PageKey { kid: old.kid.clone(), key: SecretKey::new(*old.key.expose_secret()) }];
        assert_eq!(open(&pages, &listing.scope(), &token).unwrap(), place);
        assert_eq!(open(&pages[..1], &listing.scope(), &token), None);
    }
}

#[test]
fn it_is_good_for_one_listing_alone() {
    let listing = Listing::new();
    let pages = [page_key(KID)];
    let here = listing.scope();
    let token = seal(&pages[0], &SystemEntropy, &here, b"place").unwrap();
    let (org, subject) = (OrgId::parse("org", "other").unwrap(), Subject::parse("sub", "other").unwrap());
    let elsewhere = [
        PageScope { org: &org, ..here.clone() },
        PageScope { subject: &subject, ..here.clone() },
        PageScope { method: "/ibyok.v1.Tokens/ListTokens", ..here.clone() },
        PageScope { filter: b"g", ..here.clone() },
        PageScope { filter: b"", ..here.clone() },
    ];
    for scope in elsewhere {
        assert_eq!(open(&pages, &scope, &token), None, "{scope:?}");
    }
    assert!(open(&pages, &here, &token).is_some());
}

#[test]
fn every_bit_counts_and_it_is_written_one_way() {
    let listing = Listing::new();
    let pages = [page_key(KID), page_key("other")];
    let token = seal(&pages[0], &SystemEntropy, &listing.scope(), b"place").unwrap();
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(&pages, &listing.scope(), &BASE64URL_NOPAD.encode(&flipped)), None, "bit {bit}");
    }
    for len in 0..token.len() {
        assert_eq!(open(&pages, &listing.scope(), &token[..len]), None, "length {len}");
    }
    for other in [format!("{token}="), format!("{token}A"), format!(" {token}"), "\u{e9}".to_owned()] {
        assert_eq!(open(&pages, &listing.scope(), &other), None, "{other}");
    }
}

#[test]
fn no_two_tokens_are_alike_and_none_shows_its_place() {
    let listing = Listing::new();
    let page = page_key(KID);
    let token = || seal(&page, &SystemEntropy, &listing.scope(), b"a-place-to-be-hidden").unwrap();
    assert_ne!(token(), token());
    let bytes = BASE64URL_NOPAD.decode(token().as_bytes()).unwrap();
    assert!(!bytes.windows(7).any(|part| part == b"a-place"));
}

proptest::proptest! {
    #[test]
    fn any_text_is_no_token(text: String, bytes: Vec<u8>) {
        let (listing, pages) = (Listing::new(), [page_key("")]);
        proptest::prop_assert_eq!(open(&pages, &listing.scope(), &text), None);
        let framed = BASE64URL_NOPAD.encode(&[&[FORMAT, 0], &bytes[..]].concat());
        proptest::prop_assert_eq!(open(&pages, &listing.scope(), &framed), None);
    }
}
