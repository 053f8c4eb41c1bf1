//! Provider keys, use case by use case, on real parts: what is stored, seen, changed, destroyed.

use std::time::Duration;

use ibyok::{
    domain::{
        error::Reason,
        ids::{ProviderId, VersionName},
        key::{AuthScheme, KeyKind, KeyState, RotationPolicy, Stage},
        provider::Warning,
        token::{GrantText, TokenMode},
    },
    service::vault::{AddVersion, CreateKey, KeyUpdate},
};

use crate::fixture::{
    Fixture, all_scopes,
    keys::{GROQ, Setting, add, create, name, new_key, reason, retrieve, secret, setting, sorts, value, vault},
    scopes,
};

#[tokio::test]
async fn a_key_is_stored_seen_and_retrieved() {
    let Setting { fixture, vault, org, admin } = setting().await;
    let created = create(&vault, &admin, new_key(&org, "groq-prod", GROQ)).await.unwrap();
    let record = &created.key.record;
    assert_eq!(record.provider.as_str(), "groq");
    assert_eq!((record.kind, record.state, record.revision), (KeyKind::Live, KeyState::Active, 1));
    assert_eq!(record.base_url, "https://api.groq.com/openai/v1");
    assert_eq!(record.current().unwrap().preview, "gsk_a...B3d9".replace("B3d9", &GROQ[GROQ.len() - 4..]));
    assert_eq!(record.current().unwrap().fingerprint.len(), 32);
    assert_eq!(record.current().unwrap().kms_key, "fake:primary");
    assert!(created.warnings.is_empty());

    let seen = vault.key(&admin.call("GetKey"), &name(&org, "groq-prod")).await.unwrap();
    assert_eq!(&seen.record, record);
    let retrieved = retrieve(&vault, &admin, "groq-prod").await.unwrap();
    assert_eq!(value(&retrieved), GROQ);
    assert_eq!(retrieved.version, "orgs/acme/keys/groq-prod/versions/1");
    assert_eq!(retrieved.cache_ttl, Duration::from_secs(300));
    assert!(!retrieved.is_mock);

    let made = fixture.recorded("key.create");
    assert_eq!(made.len(), 1);
    assert_eq!((made[0].resource.as_str(), made[0].revision), ("orgs/acme/keys/groq-prod", 1));
    assert_eq!(made[0].details["provider"], "groq");
    let read = fixture.recorded("key.retrieve");
    assert_eq!(read.len(), 1);
    assert_eq!((read[0].purpose.as_str(), read[0].details["version"].as_str()), ("test", "1"));
    for item in fixture.memory().dump() {
        assert!(!format!("{item:?}").contains(GROQ), "no plaintext at rest");
    }
}

#[tokio::test]
async fn the_same_holds_on_a_database_file() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::sqlite(&dir.path().join("vault.db")).await;
    let org = fixture.org("acme", false, None).await;
    let (vault, admin) = (vault(&fixture), fixture.admin(&org).await);
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    assert_eq!(add(&vault, &admin, "k", "gsk_second").await.unwrap(), 2);
    assert_eq!(value(&retrieve(&vault, &admin, "k").await.unwrap()), GROQ);
    assert_eq!(value(&retrieve(&vault, &admin, "k/versions/2").await.unwrap()), "gsk_second");
    let gone = vault.destroy_key(&admin.call("DestroyKey"), &name(&org, "k"), "", "").await.unwrap();
    assert!(gone.irrecoverable > gone.time);
    assert_eq!(reason(retrieve(&vault, &admin, "k").await), Reason::KeyNotFound);
}

#[tokio::test]
async fn a_name_is_taken_once_and_validate_only_writes_nothing() {
    let Setting { fixture, vault, org, admin } = setting().await;
    let request = CreateKey { validate_only: true, ..new_key(&org, "k", GROQ) };
    let made = fixture.kms.calls().generate;
    let would = create(&vault, &admin, request).await.unwrap();
    assert_eq!((would.key.record.revision, would.key.record.versions.len()), (0, 1));
    assert!(fixture.partition("O#acme#K#k").is_empty());
    assert_eq!(fixture.kms.calls().generate, made, "nothing is sealed");
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    assert_eq!(reason(create(&vault, &admin, new_key(&org, "k", GROQ)).await), Reason::KeyExists);
    let again = CreateKey { validate_only: true, ..new_key(&org, "k", GROQ) };
    assert_eq!(reason(create(&vault, &admin, again).await), Reason::KeyExists);
}

#[tokio::test]
async fn a_shape_that_does_not_tell_needs_a_provider_and_answers_candidates() {
    let Setting { vault, org, admin, .. } = setting().await;
    let hex = "0a9f".repeat(8);
    let failure = create(&vault, &admin, new_key(&org, "k", &hex)).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ProviderAmbiguous);
    assert_eq!(failure.metadata, [("candidates", "mistral,azure-openai,assemblyai".to_owned())]);
    assert_eq!(failure.fields[0].field, "provider");
    let named = |id: &str, provider: &str| CreateKey {
        provider: Some(ProviderId::parse("provider", provider).unwrap()),
        ..new_key(&org, id, &hex)
    };
    create(&vault, &admin, named("k", "mistral")).await.unwrap();
    let failure = create(&vault, &admin, named("l", "azure-openai")).await.unwrap_err();
    assert_eq!(failure.fields[0].field, "base_url", "an Azure key needs its resource's endpoint");
    let failure = create(&vault, &admin, named("l", "no-such")).await.unwrap_err();
    assert_eq!(failure.fields[0].field, "provider");
    let at = CreateKey { base_url: "https://x.openai.azure.com".into(), ..named("l", "azure-openai") };
    let created = create(&vault, &admin, at).await.unwrap();
    assert_eq!(created.key.record.auth_scheme.header, "api-key");
    assert_eq!(created.warnings, [Warning::DuplicateSecret]);
}

#[tokio::test]
async fn entries_without_a_key_and_with_their_own_place() {
    let Setting { vault, org, admin, .. } = setting().await;
    let entry = |id: &str, provider: &str, base_url: &str| CreateKey {
        secret: None,
        provider: Some(ProviderId::parse("provider", provider).unwrap()),
        base_url: base_url.to_owned(),
        ..new_key(&org, id, "x")
    };
    let created = create(&vault, &admin, entry("ollama", "ollama", "")).await.unwrap();
    assert_eq!(created.key.record.base_url, "http://localhost:11434");
    assert!(created.key.record.versions.is_empty());
    assert_eq!(reason(retrieve(&vault, &admin, "ollama").await), Reason::KeyHasNoSecret);
    let failure = create(&vault, &admin, entry("openai", "openai", "")).await.unwrap_err();
    assert_eq!(failure.fields[0].field, "secret");
    let failure = create(&vault, &admin, entry("plain", "custom", "http://llm.example")).await.unwrap_err();
    assert_eq!(failure.fields[0].field, "base_url");
    let scheme = AuthScheme { header: "x-token".into(), prefix: "T ".into(), extra_headers: [].into() };
    let custom = CreateKey {
        secret: Some(secret("anything")),
        auth_scheme: Some(scheme.clone()),
        ..entry("custom", "custom", "https://llm.example/v1")
    };
    create(&vault, &admin, custom).await.unwrap();
    let retrieved = retrieve(&vault, &admin, "custom").await.unwrap();
    assert_eq!((retrieved.base_url.as_str(), retrieved.auth_scheme), ("https://llm.example/v1", scheme));
}

#[tokio::test]
async fn a_replay_answers_the_same_and_happens_once() {
    let Setting { fixture, vault, org, admin } = setting().await;
    let request = |value: &str| CreateKey { request_id: "r-1".into(), ..new_key(&org, "k", value) };
    let call = admin.call_with("CreateKey", 1);
    let padded = format!("{GROQ}\n");
    let first = vault.create_key(&call, request(&padded)).await.unwrap();
    assert_eq!(first.warnings, [Warning::SurroundingWhitespace]);
    let again = vault.create_key(&call, request(&padded)).await.unwrap();
    assert_eq!(again.key.record, first.key.record);
    assert_eq!(again.warnings, first.warnings);
    assert_eq!(fixture.recorded("key.create").len(), 1);
    let other = vault.create_key(&admin.call_with("CreateKey", 2), request(GROQ)).await;
    assert_eq!(reason(other), Reason::RequestIdReused);
    assert_eq!(value(&retrieve(&vault, &admin, "k").await.unwrap()), padded, "stored as given");

    let disable = |content| (admin.call_with("DisableKey", content), name(&org, "k"));
    let (call, key) = disable(3);
    let first = vault.disable_key(&call, &key, "why", "", "r-2").await.unwrap();
    let again = vault.disable_key(&call, &key, "why", "", "r-2").await.unwrap();
    assert_eq!(again.record.revision, first.record.revision);
    assert_eq!(fixture.recorded("key.disable").len(), 1);
    assert_eq!(fixture.recorded("key.disable")[0].purpose, "why");
}

#[tokio::test]
async fn what_is_foreign_absent_or_outside_the_grant_answers_alike() {
    let Setting { fixture, vault, org, admin } = setting().await;
    let rival = fixture.org("rival", false, None).await;
    let stranger = fixture.admin(&rival).await;
    let labelled = CreateKey { labels: [("team".into(), "a".into())].into(), ..new_key(&org, "k", GROQ) };
    create(&vault, &admin, labelled).await.unwrap();
    let labels = GrantText { labels: [("team".into(), "b".into())].into(), ..all_scopes() };
    let other_team = fixture.token(&org, vec![labels], TokenMode::Live, None).await;
    let staging = GrantText { environments: vec!["staging".into()], ..all_scopes() };
    let staging = fixture.token(&org, vec![staging], TokenMode::Live, None).await;
    for (caller, text) in [
        (&stranger, "orgs/acme/keys/k"),
        (&stranger, "orgs/acme/keys/absent"),
        (&admin, "orgs/nowhere/keys/k"),
        (&admin, "absent"),
        (&other_team, "k"),
        (&staging, "k"),
    ] {
        let failure = retrieve(&vault, caller, text).await.unwrap_err();
        assert_eq!(failure.reason, Reason::KeyNotFound, "{text}");
        assert!(failure.metadata.is_empty() && failure.fields.is_empty());
        let key = VersionName::parse("name", text, &caller.claims.org).unwrap().key;
        assert_eq!(reason(vault.key(&caller.call("GetKey"), &key).await), Reason::KeyNotFound);
        let gone = vault.destroy_key(&caller.call("DestroyKey"), &key, "", "").await;
        assert_eq!(reason(gone), Reason::KeyNotFound, "{text}");
    }
    assert_eq!(value(&retrieve(&vault, &admin, "k").await.unwrap()), GROQ);
    let moved = create(&vault, &other_team, new_key(&org, "l", GROQ)).await;
    assert_eq!(reason(moved), Reason::ResourceNotGranted, "nobody makes what he can't see");
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_minds_the_etag() {
    let Setting { fixture, vault, org, admin } = setting().await;
    let made = CreateKey { models: vec!["a".into(), "b".into()], ..new_key(&org, "k", GROQ) };
    let created = create(&vault, &admin, made).await.unwrap().key.record;
    let update = KeyUpdate {
        labels: Some([("team".into(), "x".into())].into()),
        models: Some(vec!["b".into(), "c".into()]),
        rotation: Some(RotationPolicy { period: Some(Duration::from_secs(86_400)), ..RotationPolicy::default() }),
        ..KeyUpdate::default()
    };
    let (call, key) = (admin.call("UpdateKey"), name(&org, "k"));
    let updated = vault.update_key(&call, &key, &update, &created.etag(), "").await.unwrap().record;
    assert_eq!((updated.revision, updated.labels["team"].as_str()), (2, "x"));
    assert_eq!(updated.rotation.next, Some(updated.updated.plus(Duration::from_secs(86_400))));
    let stale = vault.update_key(&call, &key, &update, &created.etag(), "").await;
    assert_eq!(reason(stale), Reason::EtagMismatch);
    assert!(fixture.partition("O#acme#R#model:a").is_empty());
    assert_eq!(fixture.partition("O#acme#R#model:c").len(), 1);
    assert_eq!(value(&retrieve(&vault, &admin, "k").await.unwrap()), GROQ);

    let labels = GrantText { labels: [("team".into(), "x".into())].into(), ..all_scopes() };
    let team = fixture.token(&org, vec![labels], TokenMode::Live, None).await;
    let away = KeyUpdate { labels: Some([("team".into(), "y".into())].into()), ..KeyUpdate::default() };
    let moved = vault.update_key(&team.call("UpdateKey"), &key, &away, "", "").await;
    assert_eq!(reason(moved), Reason::ResourceNotGranted);
}

#[tokio::test]
async fn a_disabled_deleted_or_expired_key_is_not_retrieved() {
    let Setting { fixture, vault, org, admin } = setting().await;
    let key = name(&org, "k");
    create(&vault, &admin, CreateKey { ttl: Some(Duration::from_secs(7_200)), ..new_key(&org, "k", GROQ) })
        .await
        .unwrap();
    vault.disable_key(&admin.call("DisableKey"), &key, "", "", "").await.unwrap();
    assert_eq!(reason(retrieve(&vault, &admin, "k").await), Reason::KeyDisabled);
    vault.enable_key(&admin.call("EnableKey"), &key, "", "").await.unwrap();
    let window = Some(Duration::from_secs(3_600));
    let call = admin.call("DeleteKey");
    let deleted = vault.delete_key(&call, &key, window, false, "", "").await.unwrap().unwrap().record;
    assert_eq!(deleted.purges, deleted.deleted.map(|time| time.plus(Duration::from_secs(3_600))));
    assert_eq!(reason(retrieve(&vault, &admin, "k").await), Reason::KeyDeleted);
    let back = vault.undelete_key(&admin.call("UndeleteKey"), &key, "").await.unwrap().record;
    assert_eq!((back.state, back.purges), (KeyState::Disabled, None));
    vault.enable_key(&admin.call("EnableKey"), &key, "", "").await.unwrap();
    assert_eq!(value(&retrieve(&vault, &admin, "k").await.unwrap()), GROQ);
    fixture.clock.advance(Duration::from_secs(7_200));
    assert_eq!(reason(retrieve(&vault, &admin, "k").await), Reason::KeyExpired);
    let missing = vault.delete_key(&call, &name(&org, "none"), None, true, "", "").await.unwrap();
    assert!(missing.is_none());
    assert_eq!(reason(vault.delete_key(&call, &name(&org, "none"), None, false, "", "").await), Reason::KeyNotFound);
    let short = vault.delete_key(&call, &key, Some(Duration::from_secs(60)), false, "", "").await.unwrap_err();
    assert_eq!(short.fields[0].field, "recovery_window");
}

#[tokio::test]
async fn only_its_last_number_is_left_of_a_destroyed_key() {
    let Setting { fixture, vault, org, admin } = setting().await;
    let key = name(&org, "k");
    create(&vault, &admin, CreateKey { models: vec!["m".into()], ..new_key(&org, "k", GROQ) }).await.unwrap();
    for _ in 0..3 {
        add(&vault, &admin, "k", "gsk_another").await.unwrap();
    }
    vault.delete_key(&admin.call("DeleteKey"), &key, None, false, "", "").await.unwrap();
    let before = fixture.memory().dump().len();
    let call = admin.call_with("DestroyKey", 9);
    let destroyed = vault.destroy_key(&call, &key, "", "r").await.unwrap();
    assert!(fixture.memory().dump().len() < before);
    for item in fixture.memory().dump() {
        let at = format!("{:?}", item.key);
        let is_memory = at.contains("IDEM") || at.contains("A#") || item.key.sort == "LAST";
        assert!(is_memory || (!at.contains("K#k") && !at.contains("groq#k") && !at.contains("#k#")), "{at}");
        assert!(!item.key.partition.contains("#R#") && !item.key.partition.starts_with("DUE"), "{at}");
    }
    assert_eq!(vault.destroy_key(&call, &key, "", "r").await.unwrap(), destroyed);
    let again = create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    assert!(again.warnings.is_empty(), "no fingerprint of the old one is left");
    let record = again.key.record;
    assert_eq!((record.first_version, record.last_version), (5, 5), "no number of a name is given twice");
    assert!(!sorts(&fixture.partition("O#acme#K#k")).contains(&"LAST"));
}

#[tokio::test]
async fn a_key_with_hundreds_of_versions_is_destroyed_too() {
    let Setting { fixture, vault, org, admin } = setting().await;
    let key = name(&org, "k");
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    for number in 2..=120 {
        assert_eq!(add(&vault, &admin, "k", &format!("gsk_{number}")).await.unwrap(), number);
        let text = format!("k/versions/{number}");
        let name = VersionName::parse("name", &text, &org).unwrap();
        let request = ibyok::service::vault::Promote {
            name,
            grace: Some(Duration::ZERO),
            allow_unverified: true,
            etag: String::new(),
            request_id: String::new(),
        };
        vault.promote_version(&admin.call("PromoteKeyVersion"), &request).await.unwrap();
    }
    vault.destroy_key(&admin.call("DestroyKey"), &key, "", "").await.unwrap();
    assert_eq!(sorts(&fixture.partition("O#acme#K#k")), ["LAST"]);
    assert!(fixture.partition("O#acme#FP").is_empty());
    assert_eq!((fixture.recorded("key.destroy").len(), fixture.recorded("key.purge").len()), (1, 1));
}

#[tokio::test]
async fn concurrent_changes_all_happen() {
    let Setting { fixture, vault, org, admin } = setting().await;
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    let changes = (0..4).map(|n| {
        let (vault, call, key) = (vault.clone(), admin.call("UpdateKey"), name(&org, "k"));
        tokio::spawn(async move {
            let update = KeyUpdate { description: Some(n.to_string()), ..KeyUpdate::default() };
            vault.update_key(&call, &key, &update, "", "").await
        })
    });
    for change in changes.collect::<Vec<_>>() {
        change.await.unwrap().unwrap();
    }
    let now = vault.key(&admin.call("GetKey"), &name(&org, "k")).await.unwrap().record;
    assert_eq!(now.revision, 5);
    let mut revisions: Vec<_> = fixture.recorded("key.update").iter().map(|record| record.revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [2, 3, 4, 5]);
}

#[tokio::test]
async fn mock_tokens_and_the_organization_system_store_nothing() {
    let Setting { fixture, vault, org, admin } = setting().await;
    let mock = fixture.token(&org, vec![all_scopes()], TokenMode::Mock, None).await;
    assert_eq!(reason(create(&vault, &mock, new_key(&org, "k", GROQ)).await), Reason::MockTokenMutation);
    let play = fixture.org("play", true, None).await;
    let player = fixture.token(&play, vec![all_scopes()], TokenMode::Mock, None).await;
    create(&vault, &player, new_key(&play, "k", GROQ)).await.unwrap();
    let system = fixture.org("system", false, None).await;
    let operator = fixture.token(&system, vec![scopes(&["keys:write"])], TokenMode::Live, None).await;
    assert_eq!(reason(create(&vault, &operator, new_key(&system, "k", GROQ)).await), Reason::OrgIsSystem);
    let elsewhere = create(&vault, &admin, new_key(&play, "k", GROQ)).await;
    assert_eq!(reason(elsewhere), Reason::OrgNotFound);
}

#[tokio::test]
async fn a_decoy_looks_live_to_who_may_not_read_the_audit_log() {
    let Setting { fixture, vault, org, admin } = setting().await;
    create(&vault, &admin, CreateKey { kind: Some(KeyKind::Tripwire), ..new_key(&org, "k", GROQ) }).await.unwrap();
    let lister = fixture.token(&org, vec![scopes(&["keys:list", "keys:read"])], TokenMode::Live, None).await;
    let key = name(&org, "k");
    assert_eq!(vault.key(&admin.call("GetKey"), &key).await.unwrap().record.kind, KeyKind::Tripwire);
    assert_eq!(vault.key(&lister.call("GetKey"), &key).await.unwrap().record.kind, KeyKind::Live);
    assert_eq!(value(&retrieve(&vault, &lister, "k").await.unwrap()), GROQ, "it answers its decoy");
}

#[tokio::test]
async fn the_organizations_own_kms_key_seals() {
    let fixture = Fixture::new().await;
    let org = fixture.org("acme", false, Some("fake:other")).await;
    let (vault, admin) = (vault(&fixture), fixture.admin(&org).await);
    let created = create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    let current = created.key.record.current().unwrap().clone();
    assert_eq!((current.stage, current.kms_key.as_str()), (Stage::Current, "fake:other"));
    assert_eq!(value(&retrieve(&vault, &admin, "k").await.unwrap()), GROQ);
}

#[tokio::test]
async fn writing_labels_opens_no_other_grant_of_the_token() {
    let Setting { fixture, vault, org, admin } = setting().await;
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    let guarded = GrantText { labels: [("team".into(), "a".into())].into(), ..scopes(&["keys:read"]) };
    let writer = fixture.token(&org, vec![scopes(&["keys:write"]), guarded.clone()], TokenMode::Live, None).await;
    let (call, key) = (writer.call("UpdateKey"), name(&org, "k"));
    let mine = KeyUpdate { labels: Some(guarded.labels.clone()), ..KeyUpdate::default() };
    assert_eq!(reason(vault.update_key(&call, &key, &mine, "", "").await), Reason::ResourceNotGranted);
    assert_eq!(reason(retrieve(&vault, &writer, "k").await), Reason::KeyNotFound);
    let other = KeyUpdate { labels: Some([("team".into(), "b".into())].into()), ..KeyUpdate::default() };
    vault.update_key(&call, &key, &other, "", "").await.unwrap();

    let all = vec![scopes(&["keys:write"]), guarded, scopes(&["keys:read"])];
    let reader = fixture.token(&org, all, TokenMode::Live, None).await;
    vault.update_key(&reader.call("UpdateKey"), &key, &mine, "", "").await.unwrap();
    assert_eq!(value(&retrieve(&vault, &reader, "k").await.unwrap()), GROQ);
}

#[tokio::test]
async fn a_replay_never_answers_with_another_key_of_the_name() {
    let Setting { fixture, vault, org, admin } = setting().await;
    let key = name(&org, "k");
    let (created, added, updated) =
        (admin.call_with("CreateKey", 1), admin.call_with("AddKeyVersion", 2), admin.call_with("UpdateKey", 3));
    let deleted = admin.call_with("DeleteKey", 5);
    let make = || CreateKey { request_id: "r-1".into(), ..new_key(&org, "k", GROQ) };
    let stage = || AddVersion {
        name: key.clone(),
        secret: secret("gsk_second"),
        base_url: String::new(),
        auth_scheme: None,
        etag: String::new(),
        request_id: "r-2".into(),
    };
    let update = KeyUpdate { description: Some("d".into()), ..KeyUpdate::default() };
    vault.create_key(&created, make()).await.unwrap();
    vault.add_version(&added, stage()).await.unwrap();
    vault.update_key(&updated, &key, &update, "", "r-3").await.unwrap();
    vault.delete_key(&deleted, &key, None, true, "", "r-5").await.unwrap();
    let destroy = admin.call_with("DestroyKey", 4);
    vault.destroy_key(&destroy, &key, "", "r-4").await.unwrap();

    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    add(&vault, &admin, "k", "gsk_third").await.unwrap();
    assert_eq!(reason(vault.create_key(&created, make()).await), Reason::KeyNotFound);
    assert_eq!(reason(vault.add_version(&added, stage()).await), Reason::KeyNotFound);
    assert_eq!(reason(vault.update_key(&updated, &key, &update, "", "r-3").await), Reason::KeyNotFound);
    assert_eq!(vault.delete_key(&deleted, &key, None, true, "", "r-5").await.unwrap(), None);

    let window = Duration::from_secs(3_600);
    vault.delete_key(&admin.call("DeleteKey"), &key, Some(window), false, "", "").await.unwrap();
    fixture.clock.advance(window);
    vault.destroy_key(&destroy, &key, "", "r-4").await.unwrap();
    assert!(!fixture.partition("O#acme#K#k").is_empty(), "it is left to its own purge");
}

#[tokio::test]
async fn the_fingerprint_of_an_unreadable_version_goes_with_the_key() {
    let Setting { fixture, vault, org, admin } = setting().await;
    create(&vault, &admin, new_key(&org, "k", GROQ)).await.unwrap();
    let mut items = fixture.partition("O#acme#K#k").into_iter();
    let mut version = items.find(|item| item.key.sort == "V#00000001").unwrap();
    version.mac = None;
    fixture.memory().tamper(version);
    assert_eq!(fixture.partition("O#acme#FP").len(), 1);
    vault.destroy_key(&admin.call("DestroyKey"), &name(&org, "k"), "", "").await.unwrap();
    assert!(fixture.partition("O#acme#FP").is_empty());
}
