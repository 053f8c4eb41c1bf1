//! Exchange and identity bindings.

use ibyok::{
    domain::{
        error::Reason,
        ids::{BindingId, BindingName},
        token::{AccessToken, Confirmation},
    },
    service::{
        bindings::CreateBinding,
        tokens::{Exchange, Issue, Issued, Subject},
    },
};

use super::harness::*;

fn by_certificate(into: &str) -> Exchange {
    Exchange {
        subject: Subject::Certificate,
        org: org(into),
        binding: None,
        grants: None,
        ttl: None,
        request_id: String::new(),
    }
}
fn by_token(who: &Who) -> Exchange {
    Exchange { subject: Subject::Token(AccessToken::new(who.jwt.clone())), ..by_certificate("acme") }
}
async fn exchange(vault: &Vault, who: &Who, exchange: Exchange) -> Result<Issued, ibyok::domain::error::Failure> {
    let call = vault.call(&Who { claims: None, ..who.clone() }, "ExchangeToken", &format!("{exchange:?}"));
    vault.tokens.exchange(&call, &exchange).await
}

#[tokio::test]
async fn a_certificate_becomes_a_token_of_its_binding() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    vault.bind(&admin, "billing", "spiffe://test/ns/*", grants(&["keys:read", "keys:list"])).await.unwrap();
    let who = vault.nobody(&["spiffe://test/ns/billing"]);
    let issued = exchange(&vault, &who, by_certificate("acme")).await.unwrap();
    let record = &issued.token.record;
    assert_eq!(record.subject, subject("spiffe://test/ns/billing"));
    assert_eq!(record.confirmation, Confirmation::Identity("spiffe://test/ns/billing".into()));
    assert_eq!(record.issued_by, "orgs/acme/bindings/billing");
    assert_eq!(record.grants.to_vec(), grants(&["keys:read", "keys:list"]));
    assert_eq!(record.max_expires.since(record.created).as_secs().abs_diff(3_600), 1, "whole seconds of an hour");
    vault.stands(&vault.present(&who, &issued.access_token).unwrap()).await.unwrap();

    let narrow = Exchange { grants: Some(grants(&["keys:list"])), ttl: Some(span(60)), ..by_certificate("acme") };
    assert_eq!(exchange(&vault, &who, narrow).await.unwrap().token.record.grants.to_vec(), grants(&["keys:list"]));
    let wide = Exchange { grants: Some(grants(&["keys:write"])), ..by_certificate("acme") };
    assert_eq!(reason(exchange(&vault, &who, wide).await), Reason::GrantTooWide);
    let long = Exchange { ttl: Some(span(3_700)), ..by_certificate("acme") };
    assert_eq!(reason(exchange(&vault, &who, long).await), Reason::GrantTooWide);

    // Another certificate does not get in with that token.
    let thief = vault.nobody(&["spiffe://test/ns/thief"]);
    let stolen = vault.present(&thief, &issued.access_token).map(|_| ());
    assert_eq!(reason(stolen), Reason::TokenCertificateMismatch);
}

#[tokio::test]
async fn a_binding_that_is_named_is_the_only_one_that_is_read() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    vault.bind(&admin, "a", "spiffe://test/*", grants(&["keys:read"])).await.unwrap();
    let id = |id: &str| BindingId::parse("b", id).unwrap();
    let key = ibyok::repository::bindings::item_key(&org("acme"), &id("admin"));
    let mut item = vault.store.dump().into_iter().find(|item| item.key == key).unwrap();
    item.revision += 1;
    vault.store.tamper(item);
    let who = vault.nobody(&["spiffe://test/x"]);
    let named = Exchange { binding: Some(id("a")), ..by_certificate("acme") };
    assert_eq!(exchange(&vault, &who, named).await.unwrap().token.record.issued_by, "orgs/acme/bindings/a");
    assert_eq!(reason(exchange(&vault, &who, by_certificate("acme")).await), Reason::RecordRejected);
}

#[tokio::test]
async fn no_organization_and_no_binding_answer_the_same() {
    let vault = Vault::new().await;
    let who = vault.nobody(&["spiffe://test/stranger"]);
    let expected = seen(exchange(&vault, &who, by_certificate("acme")).await);
    for into in ["nowhere", "system"] {
        assert_eq!(seen(exchange(&vault, &who, by_certificate(into)).await), expected, "{into}");
    }
    // A request_id changes nothing of it.
    for into in ["acme", "nowhere"] {
        let with_id = Exchange { request_id: "r".into(), ..by_certificate(into) };
        assert_eq!(seen(exchange(&vault, &who, with_id).await), expected, "{into}");
    }
    let admin = vault.nobody(&[ADMIN]);
    let other = Exchange { binding: Some(BindingId::parse("b", "other").unwrap()), ..by_certificate("acme") };
    assert_eq!(seen(exchange(&vault, &admin, other).await), expected);
}

#[tokio::test]
async fn a_replayed_exchange_answers_the_same_token_to_the_same_certificate_only() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    vault.bind(&admin, "all", "spiffe://test/ns/*", grants(&["keys:read"])).await.unwrap();
    let (one, other) = (vault.nobody(&["spiffe://test/ns/a"]), vault.nobody(&["spiffe://test/ns/b"]));
    let request = || Exchange { request_id: "r".into(), ..by_certificate("acme") };
    let first = exchange(&vault, &one, request()).await.unwrap();
    let again = exchange(&vault, &one, request()).await.unwrap();
    assert_eq!(again.access_token.expose_secret(), first.access_token.expose_secret());
    let others = exchange(&vault, &other, request()).await.unwrap();
    assert_ne!(others.token.record.id, first.token.record.id);
    assert_eq!(others.token.record.subject, subject("spiffe://test/ns/b"));
}

#[tokio::test]
async fn a_token_becomes_a_narrower_one_once() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let parent = vault.token(&admin, "svc", grants(&["keys:read", "keys:list"])).await;
    let narrow = Exchange { grants: Some(grants(&["keys:read"])), ..by_token(&parent) };
    let issued = exchange(&vault, &parent, narrow).await.unwrap();
    let (child, parents) =
        (&issued.token.record, vault.tokens.token(&vault.call(&admin, "GetToken", ""), &name(&parent)).await.unwrap());
    assert_eq!((child.parent.as_ref(), &child.subject), (Some(&name(&parent).id), &subject("svc")));
    assert_eq!(child.max_expires, parents.record.expires);
    let child = vault.present(&parent, &issued.access_token).unwrap();
    vault.stands(&child).await.unwrap();
    assert_eq!(reason(exchange(&vault, &child, by_token(&child)).await), Reason::GrantTooWide, "one level");
    let renewed = vault.tokens.renew(&vault.call(&child, "RenewToken", ""), Some(span(80_000)), "").await.unwrap();
    assert_eq!(renewed.token.record.expires, parents.record.expires, "never past its parent");

    let wide = Exchange { grants: Some(grants(&["keys:write"])), ..by_token(&parent) };
    assert_eq!(reason(exchange(&vault, &parent, wide).await), Reason::GrantTooWide);
    let elsewhere = Exchange { org: org("system"), ..by_token(&parent) };
    assert_eq!(reason(exchange(&vault, &parent, elsewhere).await), Reason::ExchangeRefused);
    let thief = Who { jwt: parent.jwt.clone(), ..vault.nobody(&["spiffe://test/thief"]) };
    assert_eq!(reason(exchange(&vault, &thief, by_token(&thief)).await), Reason::TokenCertificateMismatch);
    let counted = Issue { uses_max: Some(2), ..request("svc", grants(&["keys:read"])) };
    let counted = vault.issue(&admin, &counted).await.unwrap();
    let counted = vault.present(&admin, &counted.access_token).unwrap();
    assert_eq!(reason(exchange(&vault, &counted, by_token(&counted)).await), Reason::GrantTooWide);
}

#[tokio::test]
async fn a_narrower_token_is_bound_as_its_parent_is() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let both = vault.nobody(&[ADMIN, "second.test"]);
    for (confirmation, holder) in [
        (Confirmation::Certificate(admin.peer.certificate.sha256), &admin),
        (Confirmation::Identity("second.test".into()), &both),
    ] {
        let parent = Issue { confirmation: Some(confirmation.clone()), ..request("a", grants(&["keys:read"])) };
        let parent = vault.present(holder, &vault.issue(&admin, &parent).await.unwrap().access_token).unwrap();
        let child = exchange(&vault, &parent, by_token(&parent)).await.unwrap();
        assert_eq!(child.token.record.confirmation, confirmation);
        vault.stands(&vault.present(holder, &child.access_token).unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn tokens_of_other_issuers_are_not_taken_yet_and_garbage_never() {
    let vault = Vault::new().await;
    let who = vault.nobody(&[ADMIN]);
    let b64 = |text: &str| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
    let oidc = format!("{}.{}.{}", b64(r#"{"alg":"RS256","typ":"JWT","kid":"1"}"#), b64("{}"), b64("s"));
    let forged = format!("{}.{}.{}", b64(r#"{"alg":"none","typ":"at+jwt","kid":"1"}"#), b64("{}"), "");
    for (jwt, expected) in [
        (oidc, Reason::NotImplemented),
        (forged, Reason::TokenMalformed),
        ("x".into(), Reason::TokenMalformed),
        (String::new(), Reason::TokenMalformed),
    ] {
        let request = Exchange { subject: Subject::Token(AccessToken::new(jwt)), ..by_certificate("acme") };
        assert_eq!(reason(exchange(&vault, &who, request).await), expected);
    }
}

#[tokio::test]
async fn bindings_are_made_listed_and_deleted_never_wider_than_their_maker() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let maker = vault.token(&admin, "maker", grants(&["bindings:write", "bindings:list", "keys:read"])).await;
    let create = |request: CreateBinding, content: &'static str| {
        let call = vault.call(&maker, "CreateIdentityBinding", content);
        let bindings = &vault.bindings;
        async move { bindings.create(&call, &request).await }
    };
    let good = |id: &str| binding(&maker, id, "spiffe://test/a", grants(&["keys:read"]));
    let made = create(CreateBinding { request_id: "r".into(), ..good("a") }, "a").await.unwrap();
    assert_eq!(made.ttl_max, span(3_600));
    let replayed = create(CreateBinding { request_id: "r".into(), ..good("a") }, "a").await.unwrap();
    assert_eq!(replayed, made);
    assert_eq!(reason(create(good("a"), "a").await), Reason::BindingExists);
    for wider in [
        binding(&maker, "b", "spiffe://test/a", grants(&["keys:write"])),
        CreateBinding { ttl_max: Some(span(2 * 86_400)), ..good("b") },
    ] {
        assert_eq!(reason(create(wider, "b").await), Reason::GrantTooWide);
    }
    let long = create(CreateBinding { ttl_max: Some(span(91 * 86_400)), ..good("b") }, "b").await.unwrap_err();
    assert_eq!(long.fields[0].field, "binding.ttl_max");

    create(good("b"), "b").await.unwrap();
    let call = vault.call(&admin, "GetToken", "");
    let own = vault.tokens.token(&call, &name(&maker)).await.unwrap().record;
    let ttl_max = own.max_expires.since(own.created);
    let made = create(CreateBinding { ttl_max: Some(ttl_max), ..good("c") }, "c").await.unwrap();
    assert_eq!(made.ttl_max, ttl_max, "its maker's whole life");
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let call = vault.call(&maker, "ListIdentityBindings", "");
        let page = vault.bindings.list(&call, 2, &page_token).await.unwrap();
        ids.extend(page.bindings.iter().map(|binding| binding.id.to_string()));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(ids, ["a", "admin", "b", "c"]);

    let delete = |id: &str, request_id: &'static str| {
        let call = vault.call(&maker, "DeleteIdentityBinding", id);
        let name = BindingName::parse("name", id, &org("acme")).unwrap();
        let bindings = &vault.bindings;
        async move { bindings.delete(&call, &name, request_id).await }
    };
    let two = vault.nobody(&["spiffe://test/a"]);
    let ambiguous = exchange(&vault, &two, by_certificate("acme")).await.unwrap_err();
    assert_eq!(ambiguous.fields[0].field, "binding");
    delete("b", "d").await.unwrap();
    delete("b", "d").await.unwrap();
    let absent = seen(delete("b", "").await);
    assert_eq!(seen(delete("orgs/system/bindings/admin", "").await), absent);
    delete("c", "").await.unwrap();
    exchange(&vault, &two, by_certificate("acme")).await.unwrap();
    delete("a", "").await.unwrap();
    assert_eq!(reason(exchange(&vault, &two, by_certificate("acme")).await), Reason::ExchangeRefused);
}

#[tokio::test]
async fn a_binding_that_is_deleted_meanwhile_lets_nobody_in() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    vault.bind(&admin, "a", "spiffe://test/a", grants(&["keys:read"])).await.unwrap();
    let who = vault.nobody(&["spiffe://test/a"]);
    // The exchange hangs at its commit; the deletion, on another replica, is answered before it.
    let replica = vault.replica().await;
    vault.store.faults().stall_writes();
    let entering = exchange(&vault, &who, by_certificate("acme"));
    let deleting = async {
        while vault.store.faults().waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let name = BindingName::parse("name", "a", &org("acme")).unwrap();
        replica.bindings.delete(&replica.call(&admin, "DeleteIdentityBinding", ""), &name, "").await.unwrap();
        vault.store.faults().release();
    };
    let (entered, ()) = tokio::join!(entering, deleting);
    assert_eq!(reason(entered), Reason::ExchangeRefused);
}
