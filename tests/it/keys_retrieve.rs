//! RetrieveKey: nothing leaves without its record, nothing is opened that need not be.

use ibyok::{
    domain::{
        error::Reason,
        ids::{ProviderId, VersionName},
        key::KeyKind,
        secret::KmsKeyId,
        token::{GrantText, TokenMode},
    },
    kms::fake::{FakeKms, Fault as KmsFault},
    service::vault::{CreateKey, Retrieve},
    store::fake::{Fault, WriteFault},
};

use crate::{
    fixture::keys::{GROQ, Setting, add, create, name, new_key, reason, retrieve, setting, value},
    fixture::{Caller, all_scopes, scopes},
};

fn asked(caller: &Caller, text: &str) -> Retrieve {
    let name = VersionName::parse("name", text, &caller.claims.org).unwrap();
    Retrieve { name, purpose: String::new(), if_version_not: String::new(), mock: false }
}

#[tokio::test]
async fn one_read_one_record_one_unwrap() {
    let Setting { fixture, vault, org, admin } = setting().await;
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    retrieve(&vault, &admin, "k").await.unwrap();
    let (reads, writes, kms) =
        (fixture.memory().faults().reads(), fixture.memory().faults().writes(), fixture.kms.calls());
    retrieve(&vault, &admin, "k").await.unwrap();
    assert_eq!(fixture.memory().faults().reads() - reads, 1);
    assert_eq!(fixture.memory().faults().writes() - writes, 1);
    assert_eq!(fixture.kms.calls().unwrap - kms.unwrap, 1);
}

#[tokio::test]
async fn a_failing_kms_releases_nothing_and_leaves_a_second_record() {
    let Setting { fixture, vault, org, admin } = setting().await;
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    fixture.kms.fail(Some(KmsFault::Unavailable));
    let failure = retrieve(&vault, &admin, "k").await.unwrap_err();
    assert_eq!(failure.reason, Reason::KmsUnavailable);
    assert!(failure.retry_after.is_some());
    fixture.kms.fail(None);
    fixture.kms.disable(&KmsKeyId(FakeKms::PRIMARY.to_owned()));
    assert_eq!(reason(retrieve(&vault, &admin, "k").await), Reason::KmsKeyDisabled);
    fixture.parts.audit.close().await;
    assert_eq!(fixture.recorded("key.retrieve").len(), 2);
    let failed = fixture.recorded("key.retrieve.failed");
    let mut reasons: Vec<_> = failed.iter().map(|record| record.reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["KMS_KEY_DISABLED", "KMS_UNAVAILABLE"]);
    assert!(failed.iter().all(|record| record.details["event"].contains('.')), "it names the first record");
}

#[tokio::test]
async fn a_failing_audit_log_releases_nothing() {
    let Setting { fixture, vault, org, admin } = setting().await;
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    fixture.memory().faults().break_writes(WriteFault::Refused(Fault::Unavailable));
    assert_eq!(reason(retrieve(&vault, &admin, "k").await), Reason::AuditUnavailable);
    assert!(fixture.recorded("key.retrieve").is_empty());
    fixture.memory().faults().mend();
    fixture.memory().faults().break_reads(Fault::Unavailable);
    assert_eq!(reason(retrieve(&vault, &admin, "k").await), Reason::StoreUnavailable);
}

#[tokio::test]
async fn a_version_that_the_caller_has_is_not_sent_again() {
    let Setting { fixture, vault, org, admin } = setting().await;
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    add(&vault, &admin, "k", "gsk_next").await.unwrap();
    let kms = fixture.kms.calls();
    for known in ["orgs/acme/keys/k/versions/1", "k/versions/1", "1"] {
        let request = Retrieve { if_version_not: known.into(), ..asked(&admin, "k") };
        let answer = vault.retrieve_key(&admin.call("RetrieveKey"), &request).await.unwrap();
        assert!(answer.secret.is_none(), "{known}");
        assert_eq!(answer.version, "orgs/acme/keys/k/versions/1");
    }
    assert_eq!(fixture.kms.calls(), kms);
    assert_eq!((fixture.recorded("key.check").len(), fixture.recorded("key.retrieve").len()), (3, 0));
    let request = Retrieve { if_version_not: "2".into(), ..asked(&admin, "k") };
    assert_eq!(value(&vault.retrieve_key(&admin.call("RetrieveKey"), &request).await.unwrap()), GROQ);
    let request = Retrieve { if_version_not: "orgs/acme/keys/other/versions/1".into(), ..asked(&admin, "k") };
    let failure = vault.retrieve_key(&admin.call("RetrieveKey"), &request).await.unwrap_err();
    assert_eq!(failure.fields[0].field, "if_version_not");
}

#[tokio::test]
async fn a_new_key_is_never_taken_for_a_destroyed_one_of_its_name() {
    let Setting { vault, org, admin, .. } = setting().await;
    let key = name(&org, "k");
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    add(&vault, &admin, "k", "gsk_next").await.unwrap();
    let first = retrieve(&vault, &admin, "k").await.unwrap();
    vault.destroy_key(&admin.call("DestroyKey"), &key, "", "").await.unwrap();
    // An entry without a value in between keeps the number for the next.
    let provider = Some(ProviderId::parse("provider", "ollama").unwrap());
    create(&vault, &admin, CreateKey { secret: None, provider, ..new_key(&org, "k", GROQ) }).await.unwrap();
    assert_eq!(reason(retrieve(&vault, &admin, "k/versions/2").await), Reason::KeyHasNoSecret);
    vault.destroy_key(&admin.call("DestroyKey"), &key, "", "").await.unwrap();
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    let request = Retrieve { if_version_not: first.version, ..asked(&admin, "k") };
    let answer = vault.retrieve_key(&admin.call("RetrieveKey"), &request).await.unwrap();
    assert_eq!((value(&answer), answer.version.as_str()), (GROQ, "orgs/acme/keys/k/versions/3"));
    for number in [1, 2, 4] {
        let gone = retrieve(&vault, &admin, &format!("k/versions/{number}")).await;
        assert_eq!(reason(gone), Reason::VersionNotFound, "{number}");
    }
    assert_eq!(value(&retrieve(&vault, &admin, "k/versions/3").await.unwrap()), GROQ);
    // Two creators of one name: what is left of the old key goes to one of them.
    vault.destroy_key(&admin.call("DestroyKey"), &key, "", "").await.unwrap();
    let (one, other) = tokio::join!(
        create(&vault, &admin, new_key(&org, "k", GROQ)),
        create(&vault, &admin, new_key(&org, "k", GROQ))
    );
    assert_eq!(u8::from(one.is_ok()) + u8::from(other.is_ok()), 1);
    assert_eq!(retrieve(&vault, &admin, "k").await.unwrap().version, "orgs/acme/keys/k/versions/4");
}

#[tokio::test]
async fn mock_answers_are_made_up_always_the_same_and_never_touch_the_kms() {
    let Setting { fixture, vault, org, admin } = setting().await;
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    let kms = fixture.kms.calls();
    let mock = fixture.token(&org, vec![all_scopes()], TokenMode::Mock, None).await;
    let first = retrieve(&vault, &mock, "k").await.unwrap();
    assert!(first.is_mock && value(&first).starts_with("gsk_MOCK"));
    let request = Retrieve { mock: true, ..asked(&admin, "k") };
    let asked_for = vault.retrieve_key(&admin.call("RetrieveKey"), &request).await.unwrap();
    assert_eq!(value(&asked_for), value(&first));
    assert_eq!(fixture.kms.calls(), kms);
    assert_eq!(fixture.recorded("key.retrieve.mock").len(), 2);
    assert!(fixture.recorded("key.retrieve").is_empty());
    vault.disable_key(&admin.call("DisableKey"), &name(&org, "k"), "", "", "").await.unwrap();
    assert_eq!(reason(retrieve(&vault, &mock, "k").await), Reason::KeyDisabled, "the same checks");
}

#[tokio::test]
async fn administration_keys_take_their_own_scope() {
    let Setting { fixture, vault, org, admin } = setting().await;
    let shape = format!("sk-admin-{0}T3BlbkFJ{0}", "aB3d9".repeat(4));
    let created = create(&vault, &admin, new_key(&org, "adm", &shape)).await.unwrap();
    assert_eq!(created.key.record.kind, KeyKind::ProviderAdmin);
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    let reader = fixture.token(&org, vec![scopes(&["keys:read"])], TokenMode::Live, None).await;
    let admin_reader = fixture.token(&org, vec![scopes(&["keys:read-admin"])], TokenMode::Live, None).await;
    let refused = retrieve(&vault, &reader, "adm").await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.metadata),
        (Reason::AdminKeyNeedsScope, vec![("scope", "keys:read-admin".to_owned())])
    );
    assert_eq!(value(&retrieve(&vault, &admin_reader, "adm").await.unwrap()), shape);
    assert_eq!(reason(retrieve(&vault, &admin_reader, "k").await), Reason::ScopeMissing);
    // Grants never combine: the one that reads administration keys is for another key.
    let other = GrantText { resources: vec!["orgs/acme/keys/other".into()], ..scopes(&["keys:read-admin"]) };
    let split = fixture.token(&org, vec![scopes(&["keys:read"]), other], TokenMode::Live, None).await;
    assert_eq!(reason(retrieve(&vault, &split, "adm").await), Reason::AdminKeyNeedsScope);
}

#[tokio::test]
async fn a_limited_token_is_good_for_so_many_releases_and_no_more() {
    let Setting { fixture, vault, org, admin } = setting().await;
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    let limited = fixture.token(&org, vec![all_scopes()], TokenMode::Live, Some(5)).await;
    let calls = (0..9).map(|_| {
        let (vault, limited) = (vault.clone(), limited.clone());
        tokio::spawn(async move { retrieve(&vault, &limited, "k").await })
    });
    let mut released = 0;
    for call in calls.collect::<Vec<_>>() {
        match call.await.unwrap() {
            Ok(_) => released += 1,
            Err(failure) => assert!(matches!(failure.reason, Reason::TokenUsedUp | Reason::WriteConflict)),
        }
    }
    while retrieve(&vault, &limited, "k").await.is_ok() {
        released += 1;
    }
    assert_eq!(released, 5);
    assert_eq!(fixture.recorded("key.retrieve").len(), 5, "no release without its record, and no record without");
    assert_eq!(reason(retrieve(&vault, &limited, "k").await), Reason::TokenUsedUp);
}

#[tokio::test]
async fn what_was_tampered_with_does_not_open() {
    let Setting { fixture, vault, org, admin } = setting().await;
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    create(&vault, &admin, new_key(&org, "l", &GROQ.replace("d9", "d8"))).await.unwrap();
    let of = |key: &str| {
        let items = fixture.partition(&format!("O#acme#K#{key}"));
        items.into_iter().find(|item| item.key.sort == "META").unwrap()
    };
    let (mine, other) = (of("k"), of("l"));
    let mut swapped = mine.clone();
    swapped.sealed.clone_from(&other.sealed);
    fixture.memory().tamper(swapped);
    assert_eq!(reason(retrieve(&vault, &admin, "k").await), Reason::RecordRejected);
    let mut moved = other;
    moved.key = mine.key.clone();
    fixture.memory().tamper(moved);
    assert_eq!(reason(retrieve(&vault, &admin, "k").await), Reason::RecordRejected);
    fixture.memory().tamper(mine);
    assert_eq!(value(&retrieve(&vault, &admin, "k").await.unwrap()), GROQ);
}
