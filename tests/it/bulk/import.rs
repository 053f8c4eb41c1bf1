//! What becomes of the items of an import: as of keys that are created one by one.

use std::time::Duration;

use ibyok::{domain::clock::Clock as _, grpc::pb, repository::audit::AuditRecord};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Open, events, import, import_all, item, items, listed, new_key, retrieved, secret, status, value};
use crate::harness::{Caller, ORG, Vault, reason, within};

#[tokio::test(flavor = "multi_thread")]
async fn every_item_is_stored_recorded_and_answered_in_order() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let answers = import_all(&admin, items("k", 60)).await;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(status(answer), (0, ""));
        let key = answer.key.as_ref().unwrap();
        assert_eq!((key.name.as_str(), key.provider.as_str()), (&*format!("orgs/acme/keys/k-{n}"), "openai"));
        assert!(key.preview.starts_with("sk-pr") && answer.warnings.is_empty());
        assert_eq!(retrieved(&admin, &format!("k-{n}")).await, value(n));
    }
    let mut recorded = events(&admin, "key.import").await;
    recorded.sort();
    let mut expected: Vec<_> = (0..60).map(|n| (1, String::new(), format!("orgs/acme/keys/k-{n}"))).collect();
    expected.sort();
    assert_eq!(recorded, expected, "one record for each");
    vault.stop().await;
}

#[tokio::test]
async fn an_import_of_nothing_ends_well_and_one_item_is_answered_before_the_next_is_sent() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    assert_eq!(import_all(&admin, Vec::new()).await, []);
    let mut open = Open::new(&admin).await;
    for (n, item) in items("k", 3).into_iter().enumerate() {
        assert_eq!(open.ask(item).await.unwrap().unwrap().index, n as i64);
    }
    drop(open.send);
    assert!(open.answers.message().await.unwrap().is_none(), "it ends with its last message");
    vault.stop().await;
}

/// What CreateKey says of it.
async fn refusal(admin: &Caller, key: pb::CreateKeyRequest) -> Status {
    admin.keys().create_key(key).await.unwrap_err()
}

#[tokio::test]
async fn a_bad_item_is_refused_as_alone_and_ends_nothing() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    admin.keys().create_key(new_key("there", 1)).await.unwrap();
    let plain = || pb::CreateKeyRequest { provider: "openai".into(), ..new_key("new", 2) };
    let reused = || pb::CreateKeyRequest { request_id: "reused".into(), ..plain() };
    admin.keys().create_key(pb::CreateKeyRequest { key_id: "other".into(), ..reused() }).await.unwrap();
    import_all(&admin, vec![item(pb::CreateKeyRequest { key_id: "another".into(), ..reused() })]).await;
    let bad = [
        new_key("there", 3),
        reused(),
        pb::CreateKeyRequest { key_id: "No".into(), ..plain() },
        pb::CreateKeyRequest { parent: "orgs/rival".into(), ..plain() },
        pb::CreateKeyRequest { secret: None, ..plain() },
        pb::CreateKeyRequest { secret: secret("x".repeat(16_385)), ..plain() },
        pb::CreateKeyRequest { provider: "nobody".into(), ..plain() },
        pb::CreateKeyRequest { provider: String::new(), secret: secret("of no shape"), ..plain() },
        pb::CreateKeyRequest { provider: String::new(), secret: secret("0123456789abcdef".repeat(2)), ..plain() },
        pb::CreateKeyRequest { base_url: "http://evil.example".into(), ..plain() },
        pb::CreateKeyRequest { description: "d".repeat(1_025), ..plain() },
        pb::CreateKeyRequest { kind: 77, ..plain() },
    ];
    let mut sent = Vec::new();
    for (n, key) in bad.iter().enumerate() {
        sent.push(item(key.clone()));
        sent.push(item(new_key(&format!("good-{n}"), 100 + n)));
    }
    sent.push(pb::ImportKeysRequest::default());
    let answers = import_all(&admin, sent).await;
    for (key, pair) in bad.into_iter().zip(answers.chunks(2)) {
        let alone = refusal(&admin, key).await;
        let details = alone.get_error_details();
        let status_of_item = pair[0].status.clone().unwrap();
        assert!(pair[0].key.is_none());
        assert_eq!(status_of_item.code, alone.code() as i32);
        assert_eq!((&status_of_item.reason, &*status_of_item.message), (&reason(&alone), alone.message()));
        let fields = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
        let fields: Vec<_> = fields.into_iter().map(|at| (at.field, at.description)).collect();
        let of_item = status_of_item.field_violations.into_iter().map(|at| (at.field, at.description));
        assert_eq!(of_item.collect::<Vec<_>>(), fields);
        let metadata = &details.error_info().unwrap().metadata;
        assert_eq!(&status_of_item.metadata.into_iter().collect::<std::collections::HashMap<_, _>>(), metadata);
        assert_eq!(status(&pair[1]), (0, ""));
    }
    let last = answers.last().unwrap().status.as_ref().unwrap();
    assert_eq!((last.reason.as_str(), last.field_violations[0].field.as_str()), ("INVALID_FIELD", "key"));
    assert_eq!(listed(&admin).await.len(), 3 + 12);
    vault.stop().await;
}

#[tokio::test]
async fn refusals_are_recorded_one_by_one() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    admin.keys().create_key(new_key("there", 1)).await.unwrap();
    let skipped = pb::ImportKeysRequest { skip_existing: true, ..item(new_key("there", 2)) };
    let elsewhere = item(pb::CreateKeyRequest { parent: "orgs/rival".into(), ..new_key("k", 4) });
    import_all(&admin, vec![item(new_key("there", 2)), skipped, elsewhere, item(new_key("k", 3))]).await;
    let there = "orgs/acme/keys/there".to_owned();
    let mut expected = vec![
        (1, String::new(), "orgs/acme/keys/k".to_owned()),
        (2, "KEY_EXISTS".to_owned(), there.clone()),
        (2, "KEY_EXISTS".to_owned(), there),
        (2, "ORG_NOT_FOUND".to_owned(), "orgs/rival/keys/k".to_owned()),
    ];
    expected.sort();
    // A refusal's record is not waited for.
    let mut recorded = Vec::new();
    within("a record of each refusal", async {
        while recorded.len() < expected.len() {
            recorded = events(&admin, "key.import").await;
        }
    })
    .await;
    recorded.sort();
    assert_eq!(recorded, expected);
    vault.stop().await;
}

#[tokio::test]
async fn what_is_there_is_skipped_where_that_is_asked() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let team = |name: &str| [("team".to_owned(), name.to_owned())].into();
    for (id, n, labels) in [("mine", 1, team("a")), ("theirs", 2, team("b")), ("gone", 3, team("a"))] {
        admin.keys().create_key(pb::CreateKeyRequest { labels, ..new_key(id, n) }).await.unwrap();
    }
    let gone = pb::DeleteKeyRequest { name: "gone".into(), ..Default::default() };
    admin.keys().delete_key(gone).await.unwrap();
    let grant = pb::Grant { scopes: vec!["keys:write".into()], labels: team("a"), ..Default::default() };
    let request = pb::IssueTokenRequest { subject: "importer".into(), grants: vec![grant], ..Default::default() };
    let importer = vault.issue(&admin, "spiffe://ibyok.test/importer", request).await;

    let exists = (Code::AlreadyExists as i32, "KEY_EXISTS");
    let skips = |dry: bool| {
        let key = move |id: &str| pb::CreateKeyRequest { labels: team("a"), validate_only: dry, ..new_key(id, 9) };
        let keys = ["mine", "theirs", "gone", "new"].map(key);
        keys.map(|key| pb::ImportKeysRequest { skip_existing: true, ..item(key) }).to_vec()
    };
    for (dry, there) in [(true, 3), (false, 4)] {
        let answers = import_all(&importer, skips(dry)).await;
        let told: Vec<_> = answers.iter().map(status).collect();
        assert_eq!(told, [(0, "KEY_EXISTS"), exists, exists, (0, "")]);
        let skipped = answers[0].key.as_ref().unwrap();
        assert_eq!((skipped.name.as_str(), skipped.etag.ends_with(".1")), ("orgs/acme/keys/mine", true));
        assert!(answers[1].key.is_none() && answers[2].key.is_none());
        assert_eq!(listed(&admin).await.len(), there);
    }
    assert_eq!(retrieved(&admin, "mine").await, value(1), "it was left as it is");
    vault.stop().await;
}

#[tokio::test]
async fn a_dry_run_stores_nothing_and_says_what_would_be() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let dry = |n: usize| item(pb::CreateKeyRequest { validate_only: true, ..new_key(&format!("k-{n}"), n) });
    let mut sent: Vec<_> = (0..10).map(dry).collect();
    sent.push(item(pb::CreateKeyRequest { validate_only: true, ..new_key("No", 1) }));
    let placeholder = pb::CreateKeyRequest {
        validate_only: true,
        provider: "openai".into(),
        secret: secret("your-api-key-here"),
        ..new_key("p", 1)
    };
    sent.push(item(placeholder));
    let answers = import_all(&admin, sent).await;
    for answer in &answers[..10] {
        let key = answer.key.as_ref().unwrap();
        assert_eq!((status(answer), key.provider.as_str(), key.etag.as_str()), ((0, ""), "openai", ""));
    }
    assert_eq!(status(&answers[10]), (Code::InvalidArgument as i32, "INVALID_FIELD"));
    assert!(!answers[11].warnings.is_empty());
    assert!(listed(&admin).await.is_empty());
    assert!(events(&admin, "key.import").await.iter().all(|(outcome, ..)| *outcome != 1));
    vault.stop().await;
}

/// Several items run at once, and yet the first of a name is the one that is stored.
#[tokio::test(flavor = "multi_thread")]
async fn items_that_have_something_in_common_are_decided_in_order() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let mut sent = Vec::new();
    // The first is long: it takes the longest to store.
    let long = |name: usize| format!("sk-proj-{name:08}{}", "aB3d".repeat(4_000));
    for name in 0..12 {
        for n in 0..4 {
            let key = new_key(&format!("k-{name}"), 10 * name + n);
            let first =
                || pb::CreateKeyRequest { provider: "openai".into(), secret: secret(long(name)), ..key.clone() };
            sent.push(item(if n == 0 { first() } else { key }));
        }
    }
    for (n, answer) in import_all(&admin, sent).await.iter().enumerate() {
        let expected = if n % 4 == 0 { (0, "") } else { (Code::AlreadyExists as i32, "KEY_EXISTS") };
        assert_eq!(status(answer), expected, "item {n}");
    }
    for name in 0..12 {
        assert!(retrieved(&admin, &format!("k-{name}")).await == long(name));
    }
    // One value under many names: the first is new, the others are warned of.
    let same = (0..12).map(|n| item(new_key(&format!("same-{n}"), 777))).collect();
    for (n, answer) in import_all(&admin, same).await.iter().enumerate() {
        let codes: Vec<_> = answer.warnings.iter().map(|warning| warning.code.as_str()).collect();
        assert_eq!(codes, if n == 0 { vec![] } else { vec!["DUPLICATE_SECRET"] }, "item {n}");
    }
    // One request, many times.
    let again = vec![items("once", 1).remove(0); 12];
    let answers = import_all(&admin, again).await;
    let uids: Vec<_> = answers.iter().map(|answer| answer.key.as_ref().unwrap().uid.clone()).collect();
    assert!(uids.iter().all(|uid| *uid == uids[0]));
    vault.stop().await;
}

#[tokio::test]
async fn who_may_not_import_is_refused_before_the_first_item() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let issue = async |scope: &str, mode: pb::TokenMode| {
        let grant = pb::Grant { scopes: vec![scope.into()], ..Default::default() };
        let request =
            pb::IssueTokenRequest { subject: "w".into(), grants: vec![grant], mode: mode.into(), ..Default::default() };
        vault.issue(&admin, "spiffe://ibyok.test/w", request).await
    };
    for (scope, mode, expected) in [
        ("keys:list", pb::TokenMode::Live, "SCOPE_MISSING"),
        ("keys:write", pb::TokenMode::Mock, "MOCK_TOKEN_MUTATION"),
    ] {
        let (answered, refusal) = import(&issue(scope, mode).await, items("k", 3)).await;
        assert_eq!((answered.len(), reason(&refusal.unwrap()).as_str()), (0, expected));
    }
    // What is not granted is refused alone.
    let resources = vec![format!("orgs/{ORG}/keys/k-1")];
    let grant = pb::Grant { scopes: vec!["keys:write".into()], resources, ..Default::default() };
    let request = pb::IssueTokenRequest { subject: "one".into(), grants: vec![grant], ..Default::default() };
    let one = vault.issue(&admin, "spiffe://ibyok.test/one", request).await;
    let answers = import_all(&one, items("k", 3)).await;
    let refused = (Code::PermissionDenied as i32, "RESOURCE_NOT_GRANTED");
    assert_eq!(answers.iter().map(status).collect::<Vec<_>>(), [refused, (0, ""), refused]);
    vault.stop().await;
}

/// The token's rate slows an import down; it refuses none of its items.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_waits_for_its_rate() {
    let vault = Vault::start_with("[limits]\ntoken_rate = 2\n").await;
    let admin = vault.admin().await;
    let answers = import_all(&admin, items("k", 12)).await;
    assert!(answers.iter().all(|answer| status(answer) == (0, "")));
    // They did count: the burst is gone, and who comes now has to wait.
    let mut refused = 0;
    for _ in 0..3 {
        if let Err(status) = admin.keys().list_providers(pb::ListProvidersRequest {}).await {
            assert_eq!(reason(&status), "RATE_LIMITED");
            refused += 1;
        }
    }
    assert!(refused > 0, "items are calls");
    vault.stop().await;
}

#[tokio::test]
async fn the_client_imports_and_tells_what_became_of_each() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let client = super::batch_wire::client(&vault, &admin).await;
    admin.keys().create_key(new_key("there", 1)).await.unwrap();
    let key = |id: &str| ibyok_client::pb::CreateKeyRequest {
        key_id: id.into(),
        secret: Some(ibyok_client::ProviderKey::new(value(5)).into()),
        ..Default::default()
    };
    let item = |id: &str| ibyok_client::pb::ImportKeysRequest { key: Some(key(id)), skip_existing: true };
    let items = ["new", "there", "No"].map(item);
    assert!(!format!("{items:?}").contains(&value(5)));
    let mut import = client.import_keys(tokio_stream::iter(items)).await.unwrap();
    let first = import.next().await.unwrap().unwrap();
    assert_eq!((first.index, first.outcome.unwrap().is_skipped), (0, false));
    assert!(import.next().await.unwrap().unwrap().outcome.unwrap().is_skipped);
    let refused = import.next().await.unwrap().unwrap().outcome.unwrap_err();
    assert_eq!(refused.field_violations()[0].field, "key_id");
    assert!(import.next().await.unwrap().is_none());
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_recorded_with_its_own_time_and_not_that_of_the_stream() {
    const LATER: Duration = Duration::from_secs(600);
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let began = vault.clock.now();
    let mut open = Open::new(&admin).await;
    assert_eq!(status(&open.ask(item(new_key("k", 1))).await.unwrap().unwrap()), (0, ""));
    vault.clock.advance(LATER);
    let refused = open.ask(item(new_key("k", 2))).await.unwrap().unwrap();
    assert_eq!(status(&refused), (Code::AlreadyExists as i32, "KEY_EXISTS"));
    let recorded = within("the refusal's record", async {
        loop {
            let events = admin.audit_events(pb::ListAuditEventsRequest::default()).await;
            if let Some(event) = events.into_iter().find(|event| event.reason == "KEY_EXISTS") {
                break AuditRecord::read(&event.record).unwrap();
            }
        }
    });
    assert!(recorded.await.timestamp() >= began.plus(LATER));
    drop(open);
    vault.stop().await;
}
