//! Secrets to look for, in each form in which they could lie somewhere.

use std::collections::BTreeMap;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use regex::bytes::{Regex, RegexBuilder};

/// The longest piece of a secret that is looked for: who holds more of it holds this.
const PIECE_MAX: usize = 48;

/// What is looked for, all at once.
pub struct Needles {
    names: BTreeMap<Vec<u8>, String>,
    regex: Regex,
}

impl Needles {
    /// Of these secrets, by name.
    pub fn of(secrets: &[(String, Vec<u8>)]) -> Self {
        let mut names = BTreeMap::new();
        for (name, secret) in secrets {
            for (form, bytes) in forms(middle(secret)) {
                names.insert(bytes, format!("{name}, {form}"));
            }
        }
        // One alternation of literals is one automaton, however many there are.
        let pattern: Vec<_> = names.keys().map(|bytes| escaped(bytes)).collect();
        let regex = RegexBuilder::new(&pattern.join("|")).unicode(false).size_limit(1 << 28).build().unwrap();
        Self { names, regex }
    }

    /// The length of the longest.
    pub fn longest(&self) -> usize {
        self.names.keys().map(Vec::len).max().unwrap_or_default()
    }

    /// What is there of them, by name and form.
    pub fn found_in<'a>(&'a self, haystack: &'a [u8]) -> impl Iterator<Item = (&'a str, usize)> {
        self.regex.find_iter(haystack).map(|found| (self.names[found.as_bytes()].as_str(), found.start()))
    }
}

/// The middle: a preview shows some of both ends, at most a third.
fn middle(secret: &[u8]) -> &[u8] {
    let quarter = secret.len() / 4;
    let middle = &secret[quarter..secret.len() - quarter];
    let spare = middle.len().saturating_sub(PIECE_MAX) / 2;
    &middle[spare..middle.len() - spare]
}

/// As it is; in hex; as Rust prints bytes; in Base64 of both alphabets, wherever in a longer text it stands.
fn forms(secret: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut forms = vec![
        ("raw".to_owned(), secret.to_vec()),
        ("hex".to_owned(), HEXLOWER.encode(secret).into_bytes()),
        ("HEX".to_owned(), HEXUPPER.encode(secret).into_bytes()),
        ("list".to_owned(), format!("{secret:?}").trim_matches(['[', ']']).as_bytes().to_vec()),
    ];
    for offset in 0..3 {
        let shifted = [&vec![0; offset][..], secret].concat();
        for (name, encoding) in [("base64", BASE64_NOPAD), ("base64url", BASE64URL_NOPAD)] {
            let text = encoding.encode(&shifted);
            // The characters that depend on this secret alone.
            let (first, whole) = ((offset * 8).div_ceil(6), shifted.len() * 8 / 6);
            forms.push((format!("{name} at {offset}"), text.as_bytes()[first..whole].to_vec()));
        }
    }
    forms
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

#[test]
fn every_form_of_a_secret_is_found_wherever_it_stands() {
    let secret = b"sk-proj-0123456789/+?>~abcdefghijklmnopqrstuvwxyz\xff\xfe\xfdABCDEFGHIJKL".to_vec();
    let needles = Needles::of(&[("one".to_owned(), secret.clone()), ("two".to_owned(), vec![7; 40])]);
    for before in 0..9 {
        let text = [&vec![b'x'; before][..], &secret, b"tail"].concat();
        let encoded = [
            text.clone(),
            format!("{text:?}").into_bytes(),
            HEXLOWER.encode(&text).into_bytes(),
            HEXUPPER.encode(&text).into_bytes(),
            data_encoding::BASE64.encode(&text).into_bytes(),
            data_encoding::BASE64URL.encode(&text).into_bytes(),
            BASE64URL_NOPAD.encode(&text).into_bytes(),
        ];
        for text in encoded {
            let found: Vec<_> = needles.found_in(&text).map(|(name, _)| name).collect();
            assert!(matches!(&found[..], [name] if name.starts_with("one, ")), "{found:?}");
        }
    }
    assert_eq!(needles.found_in(b"sk-proj-0123456789 and so on").count(), 0, "the ends may be seen");
}
