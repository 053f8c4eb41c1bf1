//! The first start, organizations, and the state of the server.

use std::sync::atomic::Ordering;

use ibyok::{
    domain::{
        error::Reason,
        ids::Environment,
        scope::Scope,
        secret::KmsKeyId,
        token::{Grant, TokenMode},
    },
    kms::fake::Fault as KmsFault,
    service::{
        orgs::{CreateOrg, UpdateOrg},
        session::Access,
        tokens::{Issue, Revoke},
    },
    store::fake::{Fault, WriteFault},
};

use super::harness::*;

fn create(id: &str) -> CreateOrg {
    CreateOrg {
        id: org(id),
        display_name: "Beta".into(),
        kms_key: None,
        is_mock: false,
        admin_identity: identity("beta.test"),
        request_id: String::new(),
    }
}

#[tokio::test]
async fn the_administrators_certificate_enters_both_organizations_of_a_new_vault() {
    let vault = Vault::new().await;
    let system = vault.exchange_as(&vault.nobody(&[ADMIN]), "system").await.unwrap().token.record;
    let acme = vault.exchange_as(&vault.nobody(&[ADMIN]), "acme").await.unwrap().token.record;
    let scopes = |record: &ibyok::domain::token::TokenRecord| record.grants[0].scopes.clone();
    assert!(Scope::ALL.iter().filter(|scope| scope.is_system_only()).all(|scope| scopes(&system).contains(scope)));
    assert!(!scopes(&system).contains(&Scope::KeysRead));
    assert_eq!(scopes(&acme), Scope::ordinary().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_store_that_has_a_vault_takes_no_second() {
    let vault = Vault::new().await;
    let before = vault.store.dump();
    let again = initialize(&vault.clock, &vault.store, &vault.kms, false).await;
    assert_eq!(reason(again), Reason::AlreadyInitialized);
    assert_eq!(vault.store.dump(), before);
}

#[tokio::test]
async fn the_first_start_is_recorded_in_its_own_transaction() {
    let vault = Vault::new().await;
    assert_eq!(vault.store.faults().writes(), 1);
    let records = vault.store.dump().into_iter().filter(|item| item.key.sort.starts_with("B#"));
    let records: Vec<_> = records.map(|item| format!("{:?}", item.attributes)).collect();
    let text = format!("{:?}", b"server.init").replace(['[', ']'], "");
    assert!(records.len() == 1 && records[0].contains(&text));
}

#[tokio::test]
async fn a_first_start_that_failed_can_be_tried_again() {
    let clock = std::sync::Arc::new(ibyok::domain::clock::ShiftedClock::default());
    let time: std::sync::Arc<dyn ibyok::domain::clock::Clock> = std::sync::Arc::<_>::clone(&clock) as _;
    let store = ibyok::store::fake::MemoryStore::new(time);
    let kms = ibyok::kms::fake::FakeKms::new();
    kms.fail(Some(KmsFault::Unavailable));
    assert_eq!(reason(initialize(&clock, &store, &kms, false).await), Reason::KmsUnavailable);
    kms.fail(None);
    store.faults().break_writes(WriteFault::Refused(Fault::Unavailable));
    assert_eq!(reason(initialize(&clock, &store, &kms, false).await), Reason::AuditUnavailable);
    assert!(store.dump().is_empty());
    store.faults().mend();
    store.faults().fail_writes([WriteFault::UnknownDone]);
    initialize(&clock, &store, &kms, false).await.unwrap();
}

#[tokio::test]
async fn a_new_organization_is_its_administrators_alone() {
    let vault = Vault::new().await;
    let system = vault.enter(ADMIN, "system").await;
    let call = |who: &Who| vault.call(who, "CreateOrg", "beta");
    let request = CreateOrg { request_id: "r".into(), ..create("beta") };
    let made = vault.orgs.create(&call(&system), &request).await.unwrap();
    assert_eq!(vault.orgs.create(&call(&system), &request).await.unwrap(), made, "a replay");
    assert_eq!(reason(vault.orgs.create(&call(&system), &create("beta")).await), Reason::OrgExists);
    assert_eq!(reason(vault.orgs.create(&call(&system), &create("system")).await), Reason::OrgExists);

    let beta = vault.enter("beta.test", "beta").await;
    let admin = vault.admin().await;
    for stranger in [&beta, &admin] {
        assert_eq!(reason(vault.orgs.create(&call(stranger), &create("gamma")).await), Reason::ScopeMissing);
    }
    assert_eq!(reason(vault.exchange_as(&vault.nobody(&[ADMIN]), "beta").await), Reason::ExchangeRefused);
    let issued = vault.issue(&beta, &request_in_beta()).await.unwrap();
    assert_eq!(issued.token.record.org, org("beta"));

    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = vault.orgs.list(&vault.call(&system, "ListOrgs", ""), 2, &page_token).await.unwrap();
        ids.extend(page.orgs.iter().map(|org| org.id.to_string()));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(ids, ["acme", "beta", "system"]);
}

fn request_in_beta() -> Issue {
    request("x", grants_in("beta", &["keys:read"], &[]))
}

#[tokio::test]
async fn an_organization_changes_its_name_and_a_kms_key_that_works() {
    let vault = Vault::new().await;
    let system = vault.enter(ADMIN, "system").await;
    let update = |display_name: Option<&str>, kms_key: Option<Option<&str>>, id: &'static str| {
        let call = vault.call(&system, "UpdateOrg", &format!("{display_name:?}{kms_key:?}"));
        let request = UpdateOrg {
            id: org(id),
            display_name: display_name.map(str::to_owned),
            kms_key: kms_key.map(|key| key.map(|key| KmsKeyId(key.to_owned()))),
            request_id: String::new(),
        };
        let orgs = &vault.orgs;
        async move { orgs.update(&call, &request).await }
    };
    let named = update(Some("Acme, Inc."), None, "acme").await.unwrap();
    assert_eq!((named.display_name.as_str(), named.kms_key, named.revision), ("Acme, Inc.", None, 2));
    let keyed = update(None, Some(Some("fake:other")), "acme").await.unwrap();
    assert_eq!((keyed.display_name.as_str(), keyed.kms_key.unwrap().0.as_str()), ("Acme, Inc.", "fake:other"));
    vault.kms.disable(&KmsKeyId("fake:other".into()));
    assert_eq!(reason(update(None, Some(Some("fake:other")), "acme").await), Reason::KmsKeyDisabled);
    assert_eq!(reason(update(None, Some(Some("fake:unknown")), "acme").await), Reason::KmsKeyRefused);
    assert_eq!(update(None, Some(None), "acme").await.unwrap().kms_key, None);
    assert_eq!(reason(update(None, None, "nowhere").await), Reason::OrgNotFound);
    let long = "x".repeat(257);
    assert_eq!(update(Some(&long), None, "acme").await.unwrap_err().fields[0].field, "org.display_name");
}

#[tokio::test]
async fn in_a_mock_organization_every_token_is_mock() {
    let vault = Vault::with(true).await;
    let admin = vault.admin().await;
    assert_eq!(admin.claims.as_ref().unwrap().mode, TokenMode::Mock);
    let issued = vault.issue(&admin, &request("a", grants(&["keys:read"]))).await.unwrap();
    assert_eq!(issued.token.record.mode, TokenMode::Mock);
    let live = Issue { mode: Some(TokenMode::Live), ..request("a", grants(&["keys:read"])) };
    assert_eq!(reason(vault.issue(&admin, &live).await), Reason::GrantTooWide);
    vault.bind(&admin, "b", "b.test", grants(&["keys:read"])).await.unwrap();
    let entered = vault.enter("b.test", "acme").await;
    assert_eq!(entered.claims.unwrap().mode, TokenMode::Mock);
}

#[tokio::test]
async fn a_mock_token_changes_nothing_outside_a_mock_organization() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let all: Vec<_> = Scope::ordinary().map(Scope::as_str).collect();
    let mock = Issue { mode: Some(TokenMode::Mock), ..request("m", grants(&all)) };
    let issued = vault.issue(&admin, &mock).await.unwrap();
    let mock = vault.present(&admin, &issued.access_token).unwrap();
    assert_eq!(reason(vault.issue(&mock, &request("x", grants(&["keys:read"]))).await), Reason::MockTokenMutation);
    let create = Access::Resource(Scope::KeysWrite, "orgs/acme/keys/a".into());
    assert_eq!(reason(vault.open(&mock, "CreateKey", create).await), Reason::MockTokenMutation);
    let read = Access::Resource(Scope::KeysRead, "orgs/acme/keys/a".into());
    assert_eq!(vault.open(&mock, "RetrieveKey", read).await.unwrap().permit.mode(), TokenMode::Mock);
    vault.tokens.renew(&vault.call(&mock, "RenewToken", ""), None, "").await.unwrap();
}

#[tokio::test]
async fn the_state_of_the_server_names_what_does_not_work() {
    let vault = Vault::new().await;
    let system = vault.enter(ADMIN, "system").await;
    let failing = || async {
        let status = vault.status.status(&vault.call(&system, "GetServerStatus", "")).await.unwrap();
        assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(status.checks.len(), 4);
        let failing = status.checks.into_iter().filter(|check| !check.is_ok);
        failing.map(|check| (check.name, check.hint.is_empty())).collect::<Vec<_>>()
    };
    assert_eq!(failing().await, []);
    vault.kms.fail(Some(KmsFault::Unavailable));
    vault.certificate_not_after.store(vault.now().seconds() + 86_400, Ordering::Relaxed);
    assert_eq!(failing().await, [("kms", false), ("certificate", false)]);
    let admin = vault.admin().await;
    let refused = vault.status.status(&vault.call(&admin, "GetServerStatus", "")).await;
    assert_eq!(reason(refused), Reason::ScopeMissing);
}

/// Each of these is of a whole organization or of the server, which have neither labels nor
/// environment.
#[tokio::test]
async fn a_grant_that_is_limited_by_label_or_environment_covers_nothing_that_has_neither() {
    let vault = Vault::new().await;
    let (admin, system) = (vault.admin().await, vault.enter(ADMIN, "system").await);
    let limits: [fn(&mut Grant); 2] = [
        |grant| grant.environments = vec![Environment::parse("e", "production").unwrap()],
        |grant| drop(grant.labels.insert("team".to_owned(), "a".to_owned())),
    ];
    for limit in limits {
        let limited = |of, scopes: &[&str]| {
            let mut grants = grants_in(of, scopes, &[]);
            limit(&mut grants[0]);
            grants
        };
        let scopes = ["tokens:issue", "tokens:revoke", "bindings:write", "keys:read"];
        let who = vault.token(&admin, "limited", limited("acme", &scopes)).await;
        let narrow = || limited("acme", &["keys:read"]);
        assert_eq!(reason(vault.issue(&who, &request("x", narrow())).await), Reason::ResourceNotGranted);
        let bound = vault.bind(&who, "b", "spiffe://test/x", narrow()).await;
        assert_eq!(reason(bound), Reason::ResourceNotGranted);
        for which in [Revoke::Subject(subject("limited")), Revoke::IssuedBefore(vault.now())] {
            let call = vault.call(&who, "RevokeTokens", "");
            assert_eq!(reason(vault.tokens.revoke(&call, &which, "", "").await), Reason::ResourceNotGranted);
        }

        let who = vault.issue(&system, &request("limited", limited("system", &["admin"]))).await.unwrap();
        let who = vault.present(&system, &who.access_token).unwrap();
        let made = vault.orgs.create(&vault.call(&who, "CreateOrg", ""), &create("beta")).await;
        assert_eq!(reason(made), Reason::ResourceNotGranted);
        let update = |id| UpdateOrg { id: org(id), display_name: None, kms_key: None, request_id: String::new() };
        for id in ["acme", "nowhere"] {
            let updated = vault.orgs.update(&vault.call(&who, "UpdateOrg", ""), &update(id)).await;
            assert_eq!(reason(updated), Reason::ResourceNotGranted, "{id}");
        }
        let seen = vault.status.status(&vault.call(&who, "GetServerStatus", "")).await;
        assert_eq!(reason(seen), Reason::ResourceNotGranted);
    }
}
