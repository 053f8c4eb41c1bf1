//! BatchRetrieveKeys on real parts: what it costs, and that each name is decided as RetrieveKey
//! decides it.

use std::time::Duration;

use ibyok::{
    domain::{
        error::{Failure, Reason},
        ids::{VersionName, VersionSelector},
        token::{GrantText, TokenMode},
    },
    kms::fake::Fault as KmsFault,
    service::vault::{AddVersion, BatchRetrieve, Promote, Retrieved, Vault},
    store::fake::{Fault, WriteFault},
};

use crate::{
    fixture::keys::{GROQ, Setting, add, create, name, new_key, reason, retrieve, secret, setting, value},
    fixture::{Caller, all_scopes, scopes},
};

type Results = Vec<Result<Retrieved, Failure>>;

async fn batch<T: AsRef<str>>(vault: &Vault, caller: &Caller, names: &[T]) -> Result<Results, Failure> {
    let own = &caller.claims.org;
    let parsed = |text: &T| VersionName::parse("name", text.as_ref(), own).map_err(Failure::from);
    let request = BatchRetrieve { names: names.iter().map(parsed).collect(), purpose: "batch".into() };
    vault.batch_retrieve(&caller.call("BatchRetrieveKeys"), request).await
}

fn groq(n: usize) -> String {
    format!("gsk_{n:04}{}", "aB3d".repeat(12))
}

/// A vault with the keys `k-0` and so on.
async fn with_keys(count: usize) -> (Setting, Vec<String>) {
    let setting = setting().await;
    let names: Vec<_> = (0..count).map(|n| format!("k-{n}")).collect();
    for (n, id) in names.iter().enumerate() {
        create(&setting.vault, &setting.admin, new_key(&setting.org, id, &groq(n))).await.unwrap();
    }
    (setting, names)
}

async fn promote(vault: &Vault, caller: &Caller, id: &str, grace: Option<Duration>) {
    let name = VersionName { key: name(&caller.claims.org, id), version: VersionSelector::Pending };
    let request = Promote { name, grace, allow_unverified: true, etag: String::new(), request_id: String::new() };
    vault.promote_version(&caller.call("PromoteKeyVersion"), &request).await.unwrap();
}

#[tokio::test]
async fn forty_names_are_one_read_and_one_batch_of_records() {
    let (Setting { fixture, vault, admin, .. }, names) = with_keys(40).await;
    let faults = || (fixture.memory().faults().reads(), fixture.memory().faults().writes());
    batch(&vault, &admin, &names[..1]).await.unwrap();
    let (before, unwraps) = (faults(), fixture.kms.calls().unwrap);
    let results = batch(&vault, &admin, &names).await.unwrap();
    assert_eq!((faults().0 - before.0, faults().1 - before.1), (1, 1));
    assert_eq!(fixture.kms.calls().unwrap - unwraps, 40);
    let mut places = Vec::new();
    for (n, result) in results.iter().enumerate() {
        let retrieved = result.as_ref().unwrap();
        assert_eq!(value(retrieved), groq(n));
        assert_eq!(retrieved.version, format!("orgs/acme/keys/k-{n}/versions/1"));
        places.push((retrieved.receipt.chain.clone(), retrieved.receipt.sequence));
    }
    let (chain, first) = places[0].clone();
    assert_eq!(first % 4_096, 0);
    assert_eq!(places, (0..40).map(|n| (chain.clone(), first + n)).collect::<Vec<_>>(), "one batch, in order");
    let recorded = fixture.recorded("key.retrieve");
    assert_eq!(recorded.len(), 41);
    for n in 0..40 {
        let name = format!("orgs/acme/keys/k-{n}");
        let of_key = recorded.iter().filter(|record| record.resource == name);
        let purposes: Vec<_> = of_key.map(|record| (record.purpose.as_str(), &*record.details["version"])).collect();
        assert!(purposes.iter().all(|found| *found == ("batch", "1")) && !purposes.is_empty());
    }
}

#[tokio::test]
async fn the_answer_is_that_of_retrieve_key() {
    let (Setting { vault, admin, .. }, names) = with_keys(2).await;
    let results = batch(&vault, &admin, &names).await.unwrap();
    for (text, result) in names.iter().zip(results) {
        let (one, alone) = (result.unwrap(), retrieve(&vault, &admin, text).await.unwrap());
        assert_eq!(value(&one), value(&alone));
        assert_eq!(
            (one.version, one.provider, one.base_url, one.auth_scheme, one.cache_ttl, one.is_mock),
            (alone.version, alone.provider, alone.base_url, alone.auth_scheme, alone.cache_ttl, alone.is_mock)
        );
    }
}

#[tokio::test]
async fn versions_cost_a_second_read_only_where_their_numbers_are_not_known() {
    let (Setting { fixture, vault, admin, .. }, _) = with_keys(3).await;
    for id in ["k-0", "k-1"] {
        add(&vault, &admin, id, "gsk_second").await.unwrap();
        promote(&vault, &admin, id, None).await;
        add(&vault, &admin, id, "gsk_third").await.unwrap();
    }
    let reads = || fixture.memory().faults().reads();
    let texts = |results: Results| -> Vec<_> {
        results.iter().map(|result| value(result.as_ref().unwrap()).to_owned()).collect()
    };
    let before = reads();
    let numbered = ["k-0/versions/1", "k-0/versions/2", "k-0/versions/3", "k-1", "k-0/versions/1"];
    let found = texts(batch(&vault, &admin, &numbered).await.unwrap());
    assert_eq!(found, [&*groq(0), "gsk_second", "gsk_third", "gsk_second", &*groq(0)]);
    assert_eq!(reads() - before, 1);
    let before = reads();
    let by_stage = ["k-0/versions/previous", "k-1/versions/pending", "k-2", "k-0/versions/previous", "k-0/versions/1"];
    let found = texts(batch(&vault, &admin, &by_stage).await.unwrap());
    assert_eq!(found, [&*groq(0), "gsk_third", &*groq(2), &*groq(0), &*groq(0)]);
    assert_eq!(reads() - before, 2, "one more for all of them");
}

#[tokio::test]
async fn no_names_and_too_many_are_refused() {
    let (Setting { vault, admin, .. }, names) = with_keys(1).await;
    for count in [0, 41, 200] {
        let failure = batch(&vault, &admin, &vec![&names[0]; count]).await.unwrap_err();
        assert_eq!((failure.reason, failure.fields[0].field.as_ref()), (Reason::InvalidField, "names"));
    }
    assert_eq!(batch(&vault, &admin, &vec![&names[0]; 40]).await.unwrap().len(), 40);
}

/// Keys in every state in which one may be, and the names that find them so.
async fn in_every_state(setting: &Setting) -> Vec<&'static str> {
    let Setting { fixture, vault, org, admin } = setting;
    for id in ["good", "disabled", "deleted", "expired", "rotated", "elsewhere", "labelled", "damaged"] {
        let mut request = new_key(org, id, GROQ);
        request.ttl = (id == "expired").then(|| Duration::from_secs(60));
        request.labels = if id == "labelled" { [("team".into(), "b".into())].into() } else { [].into() };
        create(vault, admin, request).await.unwrap();
    }
    let mut bare = new_key(org, "bare", GROQ);
    (bare.secret, bare.provider) = (None, Some(ibyok::domain::ids::ProviderId::parse("provider", "ollama").unwrap()));
    create(vault, admin, bare).await.unwrap();
    vault.disable_key(&admin.call("DisableKey"), &name(org, "disabled"), "", "", "").await.unwrap();
    vault.delete_key(&admin.call("DeleteKey"), &name(org, "deleted"), None, false, "", "").await.unwrap();
    add(vault, admin, "rotated", "gsk_second").await.unwrap();
    promote(vault, admin, "rotated", Some(Duration::ZERO)).await;
    let request = AddVersion {
        name: name(org, "rotated"),
        secret: secret("gsk_third"),
        base_url: String::new(),
        auth_scheme: None,
        etag: String::new(),
        request_id: String::new(),
    };
    vault.add_version(&admin.call("AddKeyVersion"), request).await.unwrap();
    let third = VersionName { key: name(org, "rotated"), version: VersionSelector::Number(3) };
    vault.destroy_version(&admin.call("DestroyKeyVersion"), &third, "", "").await.unwrap();
    let items = fixture.partition("O#acme#K#damaged");
    let mut meta = items.into_iter().find(|item| item.key.sort == "META").unwrap();
    meta.sealed.as_mut().unwrap()[20] ^= 1;
    fixture.memory().tamper(meta);
    fixture.clock.advance(Duration::from_secs(61));
    vec![
        "good",
        "absent",
        "disabled",
        "deleted",
        "expired",
        "bare",
        "rotated/versions/1",
        "rotated/versions/2",
        "rotated/versions/3",
        "rotated/versions/9",
        "rotated/versions/previous",
        "rotated/versions/pending",
        "damaged",
        "elsewhere",
        "labelled",
        "orgs/rival/keys/good",
        "good/versions/1",
    ]
}

#[tokio::test]
async fn each_name_is_refused_as_retrieve_key_refuses_it() {
    let setting = setting().await;
    let names = in_every_state(&setting).await;
    let Setting { fixture, vault, org, admin } = &setting;
    let labels = [("team".to_owned(), "a".to_owned())].into();
    let granted = |names: &[&str]| names.iter().map(|name| format!("orgs/acme/keys/{name}")).collect();
    let narrow = vec![
        GrantText { resources: granted(&["good", "absent", "bare"]), ..scopes(&["keys:read"]) },
        GrantText { resources: granted(&["labelled"]), labels, ..scopes(&["keys:read"]) },
        GrantText {
            resources: granted(&["elsewhere"]),
            client_cidrs: vec!["192.0.2.0/24".into()],
            ..scopes(&["keys:read"])
        },
    ];
    let narrow = fixture.token(org, narrow, TokenMode::Live, None).await;
    for caller in [admin, &narrow] {
        let results = batch(vault, caller, &names).await.unwrap();
        let mut refused = std::collections::BTreeSet::new();
        for (text, result) in names.iter().zip(results) {
            let told = |outcome: Result<Retrieved, Failure>| {
                outcome
                    .map(|retrieved| value(&retrieved).to_owned())
                    .map_err(|failure| (failure.reason, failure.metadata, failure.fields, failure.retry_after))
            };
            let (one, alone) = (told(result), told(retrieve(vault, caller, text).await));
            assert_eq!(one, alone, "{text}");
            refused.extend(one.err().map(|(reason, ..)| reason.as_str()));
        }
        assert!(refused.len() >= if std::ptr::eq(caller, admin) { 9 } else { 4 }, "{refused:?}");
    }
}

#[tokio::test]
async fn administration_keys_are_handed_out_one_at_a_time() {
    let Setting { vault, org, admin, .. } = setting().await;
    let shape = format!("sk-admin-{0}T3BlbkFJ{0}", "aB3d9".repeat(4));
    create(&vault, &admin, new_key(&org, "adm", &shape)).await.unwrap();
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    let mut results = batch(&vault, &admin, &["adm", "k"]).await.unwrap();
    assert_eq!(value(results.pop().unwrap().as_ref().unwrap()), GROQ);
    let failure = results.pop().unwrap().unwrap_err();
    assert_eq!(failure.reason, Reason::AdminKeyNeedsScope);
    assert_eq!(failure.metadata, [("scope", "keys:read-admin".to_owned())]);
    assert_eq!(value(&retrieve(&vault, &admin, "adm").await.unwrap()), shape);
}

#[tokio::test]
async fn a_limited_token_releases_as_many_as_it_has_left() {
    let (Setting { fixture, vault, org, .. }, names) = with_keys(3).await;
    let limited = fixture.token(&org, vec![all_scopes()], TokenMode::Live, Some(3)).await;
    assert_eq!(batch(&vault, &limited, &names[..2]).await.unwrap().iter().flatten().count(), 2);
    let mut asked = vec!["absent".to_owned()];
    asked.extend(names);
    let unwraps = fixture.kms.calls().unwrap;
    let results = batch(&vault, &limited, &asked).await.unwrap();
    let told: Vec<_> = results.into_iter().map(|result| result.map(|it| value(&it).to_owned())).collect();
    assert_eq!(told[0].as_ref().unwrap_err().reason, Reason::KeyNotFound);
    assert_eq!(*told[1].as_ref().unwrap(), groq(0), "what is refused uses nothing up");
    for refused in &told[2..] {
        assert_eq!(refused.as_ref().unwrap_err().reason, Reason::TokenUsedUp);
    }
    assert_eq!(fixture.kms.calls().unwrap - unwraps, 1, "what may not leave is not opened");
    assert_eq!(fixture.recorded("key.retrieve").len(), 3);
    assert_eq!(reason(retrieve(&vault, &limited, "k-0").await), Reason::TokenUsedUp);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_token_is_counted_right_by_many_at_once() {
    let (Setting { fixture, vault, org, .. }, names) = with_keys(4).await;
    let limited = fixture.token(&org, vec![all_scopes()], TokenMode::Live, Some(10)).await;
    let calls = (0..5).map(|_| {
        let (vault, limited, names) = (vault.clone(), limited.clone(), names.clone());
        tokio::spawn(async move { batch(&vault, &limited, &names).await.unwrap() })
    });
    let mut released = 0;
    for call in calls.collect::<Vec<_>>() {
        for result in call.await.unwrap() {
            match result {
                Ok(_) => released += 1,
                Err(failure) => assert_eq!(failure.reason, Reason::TokenUsedUp),
            }
        }
    }
    assert_eq!((released, fixture.recorded("key.retrieve").len()), (10, 10));
}

#[tokio::test]
async fn what_does_not_open_hides_nothing_else_and_has_a_second_record() {
    let (Setting { fixture, vault, admin, .. }, names) = with_keys(3).await;
    fixture.kms.fail(Some(KmsFault::Unavailable));
    for result in batch(&vault, &admin, &names).await.unwrap() {
        let failure = result.unwrap_err();
        assert_eq!((failure.reason, failure.retry_after.is_some()), (Reason::KmsUnavailable, true));
        assert!(failure.is_recorded());
    }
    fixture.kms.fail(None);
    fixture.parts.audit.close().await;
    let events: Vec<_> = fixture.recorded("key.retrieve.failed");
    assert_eq!(events.len(), 3);
    let mut named: Vec<_> = events.iter().map(|record| record.details["event"].clone()).collect();
    named.sort();
    named.dedup();
    assert_eq!(named.len(), 3, "each names its own first record");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_hides_no_other_version() {
    let (Setting { fixture, vault, admin, .. }, _) = with_keys(2).await;
    for id in ["k-0", "k-1"] {
        add(&vault, &admin, id, "gsk_second").await.unwrap();
    }
    fixture.memory().damage(&ibyok::store::ItemKey::new("O#acme#K#k-0", "V#00000002"));
    let names = ["k-0/versions/pending", "k-1/versions/pending", "k-0"];
    let results = batch(&vault, &admin, &names).await.unwrap();
    assert_eq!(results[0].as_ref().unwrap_err().reason, Reason::RecordRejected);
    assert_eq!(value(results[1].as_ref().unwrap()), "gsk_second");
    assert_eq!(value(results[2].as_ref().unwrap()), groq(0));
}

#[tokio::test]
async fn a_failing_audit_log_releases_nothing_of_all() {
    let (Setting { fixture, vault, admin, .. }, names) = with_keys(3).await;
    fixture.memory().faults().break_writes(WriteFault::Refused(Fault::Unavailable));
    assert_eq!(reason(batch(&vault, &admin, &names).await), Reason::AuditUnavailable);
    assert!(fixture.recorded("key.retrieve").is_empty());
    fixture.memory().faults().mend();
    fixture.memory().faults().break_reads(Fault::Unavailable);
    assert_eq!(reason(batch(&vault, &admin, &names).await), Reason::StoreUnavailable);
}

#[tokio::test]
async fn a_mock_token_gets_made_up_values() {
    let (Setting { fixture, vault, org, .. }, names) = with_keys(3).await;
    let mock = fixture.token(&org, vec![all_scopes()], TokenMode::Mock, None).await;
    let kms = fixture.kms.calls();
    for (n, result) in batch(&vault, &mock, &names).await.unwrap().into_iter().enumerate() {
        let retrieved = result.unwrap();
        assert!(retrieved.is_mock && value(&retrieved).contains("MOCK") && value(&retrieved) != groq(n));
    }
    assert_eq!(fixture.kms.calls(), kms);
    assert_eq!((fixture.recorded("key.retrieve.mock").len(), fixture.recorded("key.retrieve").len()), (3, 0));
}

#[tokio::test]
async fn the_kms_is_asked_for_a_few_at_a_time() {
    let (Setting { fixture, vault, admin, .. }, names) = with_keys(40).await;
    fixture.kms.hold();
    let unwraps = fixture.kms.calls().unwrap;
    let call = tokio::spawn({
        let (vault, admin) = (vault.clone(), admin.clone());
        async move { batch(&vault, &admin, &names).await.unwrap() }
    });
    // The records are written meanwhile: by then every unwrapping that may begin has begun.
    while fixture.recorded("key.retrieve").len() < 40 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.kms.calls().unwrap - unwraps, 8);
    fixture.kms.release();
    assert_eq!(call.await.unwrap().iter().flatten().count(), 40);
}
