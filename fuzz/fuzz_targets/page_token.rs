//! Page and resume tokens: whatever is made of those that were given out, only they themselves open,
//! for whom and for what they were given out.
#![no_main]

use std::{sync::Arc, sync::LazyLock, time::Duration};

use arbitrary::Arbitrary;
use ibyok::{
    authz::methods::METHODS,
    domain::{
        clock::{Clock, SystemClock},
        error::Reason,
        ids::{OrgId, Subject},
    },
    kms::fake::FakeKms,
    service::{
        keyring::Keyring,
        page_token::{PageScope, PageTokens},
        sealing::Sealer,
    },
    store::fake::MemoryStore,
};
use ibyok_fuzz::{
    dice::Dice,
    edits::{Edit, apply},
};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Any text.
    Any(&'a str, Question<'a>),
    /// A token after some changes: of its text, or of the bytes that the text stands for.
    Changed { place: &'a [u8], asked: Question<'a>, asks: Option<Question<'a>>, of_bytes: bool, edits: Vec<Edit> },
}

/// A listing.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Question<'a> {
    org: bool,
    subject: bool,
    method: u8,
    filter: &'a [u8],
}

static ORGS: LazyLock<[OrgId; 2]> = LazyLock::new(|| ["acme", "acme-b"].map(|org| OrgId::parse("org", org).unwrap()));
static SUBJECTS: LazyLock<[Subject; 2]> =
    LazyLock::new(|| ["billing", "b"].map(|name| Subject::parse("subject", name).unwrap()));

static TOKENS: LazyLock<PageTokens> = LazyLock::new(|| {
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(Dice::new(1)));
    let sealer = Sealer::new(Arc::new(FakeKms::new()), Arc::<Dice>::clone(&entropy));
    let store = Arc::new(MemoryStore::new(Arc::<SystemClock>::clone(&clock)));
    let deadline = clock.deadline(Duration::from_secs(60));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let made = Keyring::create(store, sealer, Arc::<Dice>::clone(&entropy), clock, deadline);
    let (keyring, _) = runtime.block_on(made).unwrap();
    PageTokens::new(Arc::new(keyring), entropy)
});

impl<'a> Question<'a> {
    fn scope(&self) -> PageScope<'a> {
        PageScope {
            org: &ORGS[usize::from(self.org)],
            subject: &SUBJECTS[usize::from(self.subject)],
            method: METHODS[usize::from(self.method) % METHODS.len()].path,
            filter: self.filter,
        }
    }
    fn is(&self, other: &Self) -> bool {
        let (one, other) = (self.scope(), other.scope());
        (one.org, one.subject, one.method, one.filter) == (other.org, other.subject, other.method, other.filter)
    }
}

fn open(question: &Question<'_>, token: &str) -> Option<Vec<u8>> {
    match TOKENS.open(&question.scope(), "page_token", token) {
        Ok(place) => Some(place),
        Err(failure) => {
            assert_eq!(failure.reason, Reason::InvalidPageToken);
            assert_eq!(failure.fields.len(), 1);
            None
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Any(text, question) => assert_eq!(open(&question, text), None, "a token that nobody sealed opens"),
        Input::Changed { place, asked, asks, of_bytes, edits } => {
            let asks = asks.unwrap_or(asked);
            let seal = |place| TOKENS.seal(&asked.scope(), place).unwrap();
            let (good, other) = (seal(place), seal(b"another place"));
            let changed = if of_bytes {
                let bytes = |text: &str| data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
                data_encoding::BASE64URL_NOPAD.encode(&apply(&edits, &bytes(&good), &bytes(&other)))
            } else {
                match String::from_utf8(apply(&edits, good.as_bytes(), other.as_bytes())) {
                    Ok(text) => text,
                    // No text comes over the wire that is none.
                    Err(_) => return,
                }
            };
            let expected = match &changed {
                _ if !asks.is(&asked) => None,
                text if *text == good => Some(place.to_vec()),
                text if *text == other => Some(b"another place".to_vec()),
                _ => None,
            };
            assert_eq!(open(&asks, &changed), expected);
        }
    }
});
