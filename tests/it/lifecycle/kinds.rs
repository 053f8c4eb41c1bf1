//! Entries and callers that are not the ordinary ones: made-up values, decoys, administration keys,
//! entries without a key, entries with an address of their own.

use super::*;

async fn issue(vault: &Vault, issuer: &Caller, name: &str, scopes: &[&str], mode: pb::TokenMode) -> Caller {
    let request = pb::IssueTokenRequest {
        subject: name.to_owned(),
        grants: vec![grant(scopes)],
        mode: mode.into(),
        ..Default::default()
    };
    vault.issue(issuer, &format!("spiffe://ibyok.test/{name}"), request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mock_caller_never_gets_a_real_value() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let real = openai("real");
    create(&admin, "openai", &real).await;
    let mock = issue(&vault, &admin, "mock", &["keys:read", "keys:write", "tokens:issue"], pb::TokenMode::Mock).await;
    let asked = || pb::RetrieveKeyRequest { name: "openai".to_owned(), mock: true, ..Default::default() };
    let by_request = admin.keys().retrieve_key(asked()).await.unwrap().into_inner();
    let by_token = retrieve(&mock, "openai").await.unwrap();
    let texts = [&by_request, &by_token].map(|answer| {
        assert!(answer.mock);
        answer.secret.as_ref().unwrap().text.clone()
    });
    assert_eq!(texts[0], texts[1], "made up, and always the same");
    assert!(texts[0].starts_with("sk-") && texts[0].contains("MOCK") && texts[0] != real, "{}", texts[0]);
    assert_eq!(events(&admin, "key.retrieve.mock").await.len(), 2);
    assert_eq!(value(&admin, "openai").await, real);

    let new = pb::CreateKeyRequest { key_id: "x".to_owned(), secret: secret(&openai("x")), ..Default::default() };
    let made = mock.keys().create_key(new).await;
    assert_eq!(refused(made), (Code::PermissionDenied, "MOCK_TOKEN_MUTATION".to_owned()));
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mock_organization_is_made_up_throughout() {
    let vault = Vault::start().await;
    let operator = vault.operator().await;
    let identity = "spiffe://ibyok.test/trial";
    let org = pb::CreateOrgRequest {
        org_id: "trial".to_owned(),
        admin_identity: identity.to_owned(),
        org: Some(pb::Org { mock: true, ..Default::default() }),
        ..Default::default()
    };
    assert!(operator.admin().create_org(org).await.unwrap().into_inner().org.unwrap().mock);
    let trial = vault.exchange(identity, "trial").await;
    let real = openai("real");
    create(&trial, "openai", &real).await;
    let answer = retrieve(&trial, "openai").await.unwrap();
    assert!(answer.mock && answer.secret.as_ref().unwrap().text.contains("MOCK"));
    rotate(&trial, "openai", &openai("next"), true).await;
    assert!(value(&trial, "openai").await.contains("MOCK"));
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoy_looks_like_any_other_key_to_who_may_not_read_the_log() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let decoy = openai("decoy");
    let request = pb::CreateKeyRequest {
        key_id: "openai".to_owned(),
        secret: secret(&decoy),
        kind: pb::KeyKind::Tripwire.into(),
        ..Default::default()
    };
    admin.keys().create_key(request).await.unwrap();
    let reader = issue(&vault, &admin, "reader", &["keys:read", "keys:list"], pb::TokenMode::Live).await;
    assert_eq!(key(&admin, "openai").await.kind(), pb::KeyKind::Tripwire);
    assert_eq!(key(&reader, "openai").await.kind(), pb::KeyKind::Live);
    let listed = reader.keys().list_keys(pb::ListKeysRequest::default()).await.unwrap().into_inner().keys;
    assert_eq!(listed[0].kind(), pb::KeyKind::Live);
    assert_eq!(value(&reader, "openai").await, decoy);
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administration_key_takes_its_own_scope() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let text = format!("sk-admin-{}T3BlbkFJ{}", "a".repeat(58), "b".repeat(58));
    // Whatever it is called: its shape says what it is.
    let request = pb::CreateKeyRequest {
        key_id: "root".to_owned(),
        secret: secret(&text),
        kind: pb::KeyKind::Live.into(),
        ..Default::default()
    };
    let created = admin.keys().create_key(request).await.unwrap().into_inner();
    assert_eq!(created.key.unwrap().kind(), pb::KeyKind::ProviderAdmin);
    create(&admin, "openai", &openai("live")).await;
    let reader = issue(&vault, &admin, "reader", &["keys:read"], pb::TokenMode::Live).await;
    let keeper = issue(&vault, &admin, "keeper", &["keys:read-admin"], pb::TokenMode::Live).await;
    assert_eq!(refused(retrieve(&reader, "root").await), (Code::PermissionDenied, "ADMIN_KEY_NEEDS_SCOPE".to_owned()));
    assert_eq!(value(&keeper, "root").await, text);
    assert_eq!(refused(retrieve(&keeper, "openai").await), (Code::PermissionDenied, "SCOPE_MISSING".to_owned()));
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_may_have_no_key_and_an_address_of_its_own() {
    let vault = Vault::start().await;
    let admin = vault.admin().await;
    let local = pb::CreateKeyRequest {
        key_id: "local".to_owned(),
        provider: "ollama".to_owned(),
        base_url: "http://127.0.0.1:11434".to_owned(),
        ..Default::default()
    };
    let key = admin.keys().create_key(local).await.unwrap().into_inner().key.unwrap();
    assert!(key.versions.is_empty() && key.preview.is_empty());
    assert_eq!(key.base_url, "http://127.0.0.1:11434");
    assert_eq!(refused(retrieve(&admin, "local").await), (Code::FailedPrecondition, "KEY_HAS_NO_SECRET".to_owned()));

    let scheme = |header: &str| pb::AuthScheme {
        header: header.to_owned(),
        prefix: "Key ".to_owned(),
        extra_headers: [("x-team".to_owned(), "a".to_owned())].into(),
    };
    let custom = |base_url: &str| pb::CreateKeyRequest {
        key_id: "custom".to_owned(),
        provider: "custom".to_owned(),
        secret: secret("a-value-of-no-shape-0123456789"),
        base_url: base_url.to_owned(),
        auth_scheme: Some(scheme("x-my-key")),
        ..Default::default()
    };
    for plain in ["", "http://llm.example", "ftp://llm.example", "llm.example"] {
        let refusal = admin.keys().create_key(custom(plain)).await;
        assert_eq!(refused(refusal), (Code::InvalidArgument, "INVALID_FIELD".to_owned()), "{plain}");
    }
    admin.keys().create_key(custom("https://llm.example/v1")).await.unwrap();
    let answer = retrieve(&admin, "custom").await.unwrap();
    assert_eq!((answer.base_url.as_str(), answer.auth_scheme), ("https://llm.example/v1", Some(scheme("x-my-key"))));

    // Where a value goes changes with a new value only, and with it alone.
    let add = pb::AddKeyVersionRequest {
        name: "custom".to_owned(),
        secret: secret("another-value-of-no-shape-0123456789"),
        base_url: "https://new.example/v1".to_owned(),
        auth_scheme: Some(scheme("x-new-key")),
        ..Default::default()
    };
    admin.keys().add_key_version(add).await.unwrap();
    let current = retrieve(&admin, "custom").await.unwrap();
    let pending = retrieve(&admin, &version("custom", "pending")).await.unwrap();
    assert_eq!(
        (current.base_url.as_str(), pending.base_url.as_str()),
        ("https://llm.example/v1", "https://new.example/v1")
    );
    assert_eq!(pending.auth_scheme, Some(scheme("x-new-key")));
    let update = pb::UpdateKeyRequest {
        key: Some(pb::Key {
            name: "custom".to_owned(),
            base_url: "https://evil.example".to_owned(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["base_url".to_owned()] }),
        ..Default::default()
    };
    let refusal = admin.keys().update_key(update).await;
    assert_eq!(refused(refusal), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    vault.stop().await;
}
