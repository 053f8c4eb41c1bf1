//! The provider table: rows of any configuration, and behind a line `---` a text of which it is asked
//! whose key or model it is. The answer is drawn from the table and never from the text.
#![no_main]

use std::{collections::BTreeSet, sync::LazyLock};

use ibyok::domain::{
    provider::{Candidate, Confidence, Providers},
    secret::ProviderKey,
};
use libfuzzer_sys::fuzz_target;

static EMBEDDED: LazyLock<Providers> = LazyLock::new(|| Providers::load(None).unwrap());

fuzz_target!(|text: &str| {
    let (extra, asked) = text.split_once("\n---\n").unwrap_or(("", text));
    if extra.is_empty() {
        ask(&EMBEDDED, "", asked);
        return;
    }
    match Providers::load(Some(extra)) {
        Ok(providers) => ask(&providers, extra, asked),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn ask(providers: &Providers, extra: &str, asked: &str) {
    check(providers, &providers.detect_model(asked));
    let Ok(secret) = ProviderKey::parse("secret", asked.to_owned()) else { return };
    let found = providers.detect_secret(&secret);
    check(providers, &found);
    assert!(found.is_sorted_by(|one, next| one.confidence >= next.confidence), "{found:?}");
    let certain = found.iter().filter(|candidate| candidate.confidence == Confidence::Certain).count();
    assert!(certain == 0 || found.len() == 1, "one is certain beside others: {found:?}");
    assert_eq!(providers.detect_secret(&secret), found, "the answer is the same again");

    // Whitespace around a key is no part of its shape.
    let padded = format!(" {asked}\t");
    if let Ok(padded) = ProviderKey::parse("secret", padded) {
        assert_eq!(providers.detect_secret(&padded), found);
    }
    let said = format!("{found:?} {:?}", providers.kind_of(&secret));
    assert!(asked.len() < 24 || extra.contains(asked) || !said.contains(asked), "the answer repeats the key");
    for provider in providers.all() {
        let _ = providers.warnings(&secret, &provider.id);
        // A name of any form stands in what is made up, and what is made up says so.
        let mock = providers.mock_value(&provider.id, asked, 1);
        assert!(mock.contains("MOCK"), "{mock}");
        assert_eq!(providers.mock_value(&provider.id, asked, 1), mock);
    }
}

fn check(providers: &Providers, found: &[Candidate]) {
    let ids: BTreeSet<_> = found.iter().map(|candidate| &candidate.provider).collect();
    assert_eq!(ids.len(), found.len(), "a provider is named twice");
    assert!(ids.iter().all(|id| providers.get(id).is_some()), "a provider without a row");
}
