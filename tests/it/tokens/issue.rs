//! Issue, renew, list, look.

use std::collections::BTreeSet;

use ibyok::{
    domain::{
        error::Reason,
        ids::{TokenId, TokenName},
        scope::Scope,
        token::{Confirmation, TokenMode, TokenRecord},
    },
    repository::{records::Expected, tokens},
    service::{
        session::Access,
        tokens::{Issue, ListTokens},
    },
    store::{ItemStore as _, WriteId},
};

use super::harness::*;

#[tokio::test]
async fn an_issued_token_is_admitted_to_what_it_was_granted_and_no_more() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let reader = vault.token(&admin, "reader", grants_in("acme", &["keys:read"], &["orgs/acme/keys/a*"])).await;
    let read = |name: &str| Access::Resource(Scope::KeysRead, name.to_owned());
    let session = vault.open(&reader, "RetrieveKey", read("orgs/acme/keys/ab")).await.unwrap();
    assert_eq!(session.permit.subject(), &subject("reader"));
    assert_eq!(session.permit.token().issued_by, ADMIN);
    assert_eq!(reason(vault.open(&reader, "RetrieveKey", read("orgs/acme/keys/b")).await), Reason::ResourceNotGranted);
    let write = Access::Resource(Scope::KeysWrite, "orgs/acme/keys/ab".into());
    assert_eq!(reason(vault.open(&reader, "CreateKey", write).await), Reason::ScopeMissing);
}

#[tokio::test]
async fn the_defaults_are_an_hour_a_day_of_renewals_and_the_callers_identity() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let issued = vault.issue(&admin, &request("a", grants(&["keys:read"]))).await.unwrap();
    let record = issued.token.record;
    assert_eq!(record.confirmation, Confirmation::Identity(ADMIN.into()));
    assert_eq!(record.mode, TokenMode::Live);
    assert_eq!(record.grants[0].resources[0].as_str(), "orgs/acme/**");
    let lives = |until| record.created.since(Default::default()).as_secs().abs_diff(until);
    assert_eq!(lives(record.expires.seconds() as u64), 3_600);
    assert_eq!(lives(record.max_expires.seconds() as u64), 86_400);
}

#[tokio::test]
async fn nobody_issues_wider_than_he_holds() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let narrow = grants_in("acme", &["tokens:issue", "keys:read"], &["orgs/acme/keys/a*", "orgs/acme/tokens/*"]);
    let issuer = vault.token(&admin, "issuer", narrow).await;
    assert!(
        vault.issue(&issuer, &request("x", grants_in("acme", &["keys:read"], &["orgs/acme/keys/ab"]))).await.is_ok()
    );
    for wider in [
        request("x", grants_in("acme", &["keys:write"], &["orgs/acme/keys/ab"])),
        request("x", grants_in("acme", &["keys:read"], &["orgs/acme/keys/*"])),
        request("x", grants(&["keys:read"])),
        Issue { ttl: Some(span(2 * 86_400)), ..request("x", grants_in("acme", &["keys:read"], &["orgs/acme/keys/a"])) },
        Issue {
            max_ttl: Some(span(2 * 86_400)),
            ..request("x", grants_in("acme", &["keys:read"], &["orgs/acme/keys/a"]))
        },
    ] {
        assert_eq!(reason(vault.issue(&issuer, &wider).await), Reason::GrantTooWide, "{wider:?}");
    }
    // One that may only issue for itself can't use a pattern that misses the new token's name.
    let blind = vault.token(&admin, "blind", grants_in("acme", &["tokens:issue"], &["orgs/acme/keys/*"])).await;
    let same = request("x", grants_in("acme", &["tokens:issue"], &["orgs/acme/keys/*"]));
    assert_eq!(reason(vault.issue(&blind, &same).await), Reason::ResourceNotGranted);
}

#[tokio::test]
async fn a_replay_answers_the_same_token_and_another_content_is_refused() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let request = Issue { request_id: "r1".into(), uses_max: Some(3), ..request("a", grants(&["keys:read"])) };
    let first = vault.issue(&admin, &request).await.unwrap();
    vault.clock.advance(span(10));
    let again = vault.issue(&admin, &request).await.unwrap();
    assert_eq!(again.access_token.expose_secret(), first.access_token.expose_secret());
    assert_eq!(again.token.record, first.token.record);
    let other = Issue { description: "other".into(), ..request.clone() };
    assert_eq!(reason(vault.issue(&admin, &other).await), Reason::RequestIdReused);

    // The same bytes also after the token was renewed and the signing key rotated, until the key
    // that signed them is withdrawn.
    let holder = vault.present(&admin, &first.access_token).unwrap();
    let (keyring, deadline) = (&vault.parts.keyring, vault.call(&admin, "GetJwks", "").deadline);
    keyring.rotate_signing_key(&vault.parts.audit, span(90 * 86_400), deadline).await.unwrap();
    vault.tokens.renew(&vault.call(&holder, "RenewToken", ""), Some(span(7_200)), "").await.unwrap();
    let again = vault.issue(&admin, &request).await.unwrap();
    assert_eq!(again.access_token.expose_secret(), first.access_token.expose_secret());
    assert!(again.token.record.expires > first.token.record.expires, "the record is as it is now");
    let kid = &holder.claims.unwrap().signing_key;
    assert!(keyring.withdraw_signing_key(&vault.parts.audit, kid, deadline).await.unwrap());
    // The issuer's own token was signed by it, too.
    let admin = vault.admin().await;
    assert_eq!(reason(vault.issue(&admin, &request).await), Reason::SigningKeyWithdrawn);
}

#[tokio::test]
async fn a_replay_by_another_token_of_the_subject_hands_out_nothing_that_it_could_not_have() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let all = grants(&["tokens:issue", "keys:read"]);
    let present = |issued: ibyok::service::tokens::Issued| vault.present(&admin, &issued.access_token).unwrap();
    let strong = present(vault.issue(&admin, &request("a", all.clone())).await.unwrap());
    let brief = Issue { max_ttl: Some(span(3_600)), ..request("a", all.clone()) };
    let brief = present(vault.issue(&admin, &brief).await.unwrap());
    let mock = Issue { mode: Some(TokenMode::Mock), ..request("a", all) };
    let mock = present(vault.issue(&admin, &mock).await.unwrap());

    // Renewal: one's own token or none.
    let renew = |who: &Who| {
        let call = vault.call(who, "RenewToken", "");
        let tokens = &vault.tokens;
        async move { tokens.renew(&call, None, "r").await }
    };
    let renewed = renew(&strong).await.unwrap();
    for other in [&brief, &mock] {
        assert_eq!(reason(renew(other).await), Reason::RequestIdReused);
    }
    assert_eq!(renew(&strong).await.unwrap().access_token.expose_secret(), renewed.access_token.expose_secret());

    // Issue: what the caller could be given now, or nothing.
    let made = Issue { request_id: "i".into(), ..request("b", grants(&["keys:read"])) };
    let first = vault.issue(&strong, &made).await.unwrap();
    assert_eq!(reason(vault.issue(&brief, &made).await), Reason::GrantTooWide);
    assert!(vault.issue(&mock, &made).await.is_err());
    let again = vault.issue(&strong, &made).await.unwrap();
    assert_eq!(again.access_token.expose_secret(), first.access_token.expose_secret());
}

#[tokio::test]
async fn renewals_of_two_tokens_that_race_with_one_request_id_do_not_swap_tokens() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let (one, other) = (
        vault.token(&admin, "a", grants(&["keys:read"])).await,
        vault.token(&admin, "a", grants(&["keys:list"])).await,
    );
    let replica = vault.replica().await;
    // The first hangs at its commit; the second, on another replica, is answered before it.
    vault.store.faults().stall_writes();
    let call = vault.call(&one, "RenewToken", "");
    let renewing = vault.tokens.renew(&call, None, "r");
    let overtaking = async {
        while vault.store.faults().waiting() == 0 {
            tokio::task::yield_now().await;
        }
        replica.tokens.renew(&replica.call(&other, "RenewToken", ""), None, "r").await.unwrap();
        vault.store.faults().release();
    };
    let (renewed, ()) = tokio::join!(renewing, overtaking);
    assert_eq!(reason(renewed), Reason::RequestIdReused);
}

#[tokio::test]
async fn first_tokens_of_one_subject_may_be_issued_at_once() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let request = request("new", grants(&["keys:read"]));
    let issued = futures_util::future::join_all((0..4).map(|_| vault.issue(&admin, &request))).await;
    for issued in issued {
        vault.stands(&vault.present(&admin, &issued.unwrap().access_token).unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn renewal_keeps_everything_but_the_expiry() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let issue = Issue { max_ttl: Some(span(7_000)), uses_max: Some(2), ..request("a", grants(&["keys:read"])) };
    let first = vault.issue(&admin, &issue).await.unwrap();
    let holder = vault.present(&admin, &first.access_token).unwrap();
    vault.clock.advance(span(3_000));
    let renew = |who: &Who, id: &'static str| {
        let call = vault.call(who, "RenewToken", "");
        let tokens = &vault.tokens;
        async move { tokens.renew(&call, None, id).await }
    };
    let renewed = renew(&holder, "r").await.unwrap();
    let (before, after) = (&first.token.record, &renewed.token.record);
    assert_eq!((after.id.clone(), &after.grants, after.uses_max), (before.id.clone(), &before.grants, Some(2)));
    assert_eq!((after.created, after.max_expires), (before.created, before.max_expires));
    assert_eq!(after.expires.since(before.expires).as_secs(), 3_000);
    let replayed = renew(&holder, "r").await.unwrap();
    assert_eq!(replayed.access_token.expose_secret(), renewed.access_token.expose_secret());

    // Both copies are good, each until its own expiry; renewal ends at max_expire_time.
    let fresh = vault.present(&admin, &renewed.access_token).unwrap();
    vault.stands(&holder).await.unwrap();
    vault.stands(&fresh).await.unwrap();
    vault.clock.advance(span(700));
    assert_eq!(reason(vault.stands(&holder).await), Reason::TokenExpired);
    assert_eq!(reason(vault.present(&admin, &first.access_token).map(|_| ())), Reason::TokenExpired);
    let last = renew(&fresh, "").await.unwrap();
    assert_eq!(last.token.record.expires, before.max_expires);
    vault.clock.advance(span(3_400));
    assert_eq!(reason(vault.present(&admin, &last.access_token).map(|_| ())), Reason::TokenExpired);
}

#[tokio::test]
async fn a_renewal_that_names_no_life_is_for_as_long_as_before() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    for seconds in [600, 7_200] {
        let issue = Issue { ttl: Some(span(seconds)), ..request("a", grants(&["keys:read"])) };
        let holder = vault.present(&admin, &vault.issue(&admin, &issue).await.unwrap().access_token).unwrap();
        vault.clock.advance(span(300));
        let renewed = vault.tokens.renew(&vault.call(&holder, "RenewToken", ""), None, "").await.unwrap();
        let life = renewed.token.record.expires.since(vault.now()).as_secs();
        assert!(life.abs_diff(seconds) <= 1, "{life} for {seconds}");
    }
}

#[tokio::test]
async fn a_list_pages_filters_and_shows_how_each_token_stands() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let mut subjects = BTreeSet::new();
    for n in 0..7 {
        let named = format!("s{}", n % 2);
        subjects.insert(named.clone());
        vault.token(&admin, &named, grants(&["keys:read"])).await;
    }
    let list = |request: ListTokens| {
        let call = vault.call(&admin, "ListTokens", "");
        let tokens = &vault.tokens;
        async move { tokens.list(&call, &request).await }
    };
    let all = list(everything()).await.unwrap();
    assert_eq!((all.tokens.len(), all.next_page_token.as_str()), (8, ""), "seven and the administrator's own");

    let (mut paged, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = list(ListTokens { page_size: 3, page_token, ..everything() }).await.unwrap();
        assert!(page.tokens.len() <= 3);
        paged.extend(page.tokens.into_iter().map(|token| token.record.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, all.tokens.iter().map(|token| token.record.id.clone()).collect::<Vec<_>>());

    let of = |named: &str| ListTokens { subject: Some(subject(named)), ..everything() };
    assert_eq!(list(of("s1")).await.unwrap().tokens.len(), 3);
    let first = list(ListTokens { page_size: 1, ..of("s0") }).await.unwrap();
    let stolen = ListTokens { page_size: 1, page_token: first.next_page_token, ..of("s1") };
    assert_eq!(reason(list(stolen).await), Reason::InvalidPageToken, "a page token is good for its filter alone");

    let later = ListTokens { not_used_since: Some(vault.now()), ..everything() };
    assert_eq!(list(later).await.unwrap().tokens.len(), 8, "never used is not used since");
    vault.clock.advance(span(3_601));
    let admin = vault.admin().await;
    let call = vault.call(&admin, "ListTokens", "");
    assert_eq!(vault.tokens.list(&call, &everything()).await.unwrap().tokens.len(), 1);
    let inactive = ListTokens { show_inactive: true, ..everything() };
    assert_eq!(vault.tokens.list(&call, &inactive).await.unwrap().tokens.len(), 9);
}

#[tokio::test]
async fn a_page_that_finds_nothing_ends_after_2000_rows_and_the_next_goes_on() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let call = vault.call(&admin, "ListTokens", "");
    let own = vault.tokens.token(&vault.call(&admin, "GetToken", ""), &name(&admin)).await.unwrap().record;
    let crowd: Vec<_> = (0..2_100_u32).collect();
    for (some, write) in crowd.chunks(50).zip(0..) {
        let record = |n: &u32| TokenRecord { id: TokenId::parse("id", &format!("{n:032x}")).unwrap(), ..own.clone() };
        let puts = some.iter().flat_map(|n| tokens::put(&vault.parts.records, &record(n), Expected::Absent));
        vault.store.write(WriteId([write; 16]), puts.collect(), call.deadline).await.unwrap();
    }
    let list = async |page_token| {
        let asked = ListTokens { page_size: 10, page_token, subject: Some(subject("nobody")), ..everything() };
        let page = vault.tokens.list(&call, &asked).await.unwrap();
        assert!(page.tokens.is_empty());
        page.next_page_token
    };
    let next = list(String::new()).await;
    assert_ne!(next, "");
    assert_eq!(list(next).await, "");
}

#[tokio::test]
async fn a_list_survives_a_record_that_was_tampered_with() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let victim = vault.token(&admin, "victim", grants(&["keys:read"])).await;
    vault.token(&admin, "other", grants(&["keys:read"])).await;
    let key = tokens::item_key(&org("acme"), &name(&victim).id);
    let mut item = vault.store.dump().into_iter().find(|item| item.key == key).unwrap();
    item.revision += 1;
    vault.store.tamper(item);
    let page = vault.tokens.list(&vault.call(&admin, "ListTokens", ""), &everything()).await.unwrap();
    assert_eq!(page.tokens.len(), 2);
    assert_eq!(
        reason(vault.tokens.token(&vault.call(&admin, "GetToken", ""), &name(&victim)).await),
        Reason::RecordRejected
    );
}

#[tokio::test]
async fn absent_foreign_and_uncovered_tokens_answer_the_same() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let foreign = vault.enter(ADMIN, "system").await;
    let absent = TokenName::parse("name", &"0".repeat(32), &org("acme")).unwrap();
    let get = |who: &Who, token: TokenName| {
        let call = vault.call(who, "GetToken", "");
        let tokens = &vault.tokens;
        async move { tokens.token(&call, &token).await }
    };
    let expected = seen(get(&admin, absent.clone()).await);
    assert_eq!(seen(get(&admin, name(&foreign)).await), expected);
    let elsewhere = TokenName { org: org("nowhere"), ..absent };
    assert_eq!(seen(get(&admin, elsewhere).await), expected);
    assert_eq!(get(&admin, name(&admin)).await.unwrap().record.subject, subject(ADMIN));

    // Tokens have no environment: a grant that demands one covers none.
    let mut limited = grants(&["tokens:list", "tokens:revoke"]);
    limited[0].environments = vec![ibyok::domain::ids::Environment::parse("e", "production").unwrap()];
    let limited = vault.token(&admin, "limited", limited).await;
    assert_eq!(seen(get(&limited, name(&admin)).await), expected);
    let page = vault.tokens.list(&vault.call(&limited, "ListTokens", ""), &everything()).await.unwrap();
    assert!(page.tokens.is_empty());
}

#[tokio::test]
async fn introspection_tells_ones_own_and_needs_a_scope_for_others() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let reader = vault.token(&admin, "reader", grants(&["keys:read"])).await;
    let jwt = |who: &Who| ibyok::domain::token::AccessToken::new(who.jwt.clone());
    let call = |who: &Who| vault.call(who, "IntrospectToken", "");

    let own = vault.tokens.introspect(&call(&reader), None).await.unwrap();
    assert_eq!((own.objection, own.client_identity.as_str()), (None, ADMIN));
    assert_eq!(own.token.unwrap().record.id, name(&reader).id);
    let own = vault.tokens.introspect(&call(&reader), Some(&jwt(&reader))).await.unwrap();
    assert_eq!(own.token.unwrap().record.id, name(&reader).id);
    let other = vault.tokens.introspect(&call(&reader), Some(&jwt(&admin))).await;
    assert_eq!(reason(other), Reason::ScopeMissing);
    let garbage = ibyok::domain::token::AccessToken::new("a.b.c".into());
    assert_eq!(reason(vault.tokens.introspect(&call(&reader), Some(&garbage)).await), Reason::ScopeMissing);

    let other = vault.tokens.introspect(&call(&admin), Some(&jwt(&reader))).await.unwrap();
    assert_eq!((other.objection, other.token.unwrap().record.subject), (None, subject("reader")));
    let foreign = vault.enter(ADMIN, "system").await;
    for nothing in [jwt(&foreign), garbage] {
        let answer = vault.tokens.introspect(&call(&admin), Some(&nothing)).await.unwrap();
        assert_eq!((answer.objection, answer.token.is_none()), (Some(Reason::TokenMalformed), true));
    }
    vault.clock.advance(span(3_601));
    let admin = vault.admin().await;
    let expired = vault.tokens.introspect(&call(&admin), Some(&jwt(&reader))).await.unwrap();
    assert_eq!(expired.objection, Some(Reason::TokenExpired));
}

#[tokio::test]
async fn introspection_judges_the_copy_that_it_is_shown() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let old = vault.token(&admin, "reader", grants(&["keys:read"])).await;
    vault.clock.advance(span(1_800));
    let renewed = vault.tokens.renew(&vault.call(&old, "RenewToken", ""), Some(span(7_200)), "").await.unwrap();
    let fresh = vault.present(&admin, &renewed.access_token).unwrap();
    vault.clock.advance(span(1_801));
    let admin = vault.admin().await;
    let jwt = ibyok::domain::token::AccessToken::new(old.jwt.clone());
    for asking in [&admin, &fresh] {
        let call = vault.call(asking, "IntrospectToken", "");
        let answer = vault.tokens.introspect(&call, Some(&jwt)).await.unwrap();
        assert_eq!((answer.objection, answer.token.is_some()), (Some(Reason::TokenExpired), true));
        let answer = vault.tokens.introspect(&call, Some(&renewed.access_token)).await.unwrap();
        assert_eq!(answer.objection, None);
    }
}

#[tokio::test]
async fn a_copy_signed_by_a_key_that_its_record_forgot_is_no_good_copy() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let old = vault.token(&admin, "reader", grants(&["keys:read"])).await;
    let (keyring, deadline) = (&vault.parts.keyring, vault.call(&admin, "GetJwks", "").deadline);
    for _ in 0..4 {
        keyring.rotate_signing_key(&vault.parts.audit, span(90 * 86_400), deadline).await.unwrap();
        vault.tokens.renew(&vault.call(&old, "RenewToken", ""), None, "").await.unwrap();
    }
    assert_eq!(reason(vault.stands(&old).await), Reason::TokenMalformed);
    let jwt = ibyok::domain::token::AccessToken::new(old.jwt.clone());
    let answer = vault.tokens.introspect(&vault.call(&admin, "IntrospectToken", ""), Some(&jwt)).await.unwrap();
    assert_eq!(answer.objection, Some(Reason::TokenMalformed));
}

#[tokio::test]
async fn the_public_keys_verify_a_token() {
    use data_encoding::BASE64URL_NOPAD;
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let jwks: serde_json::Value = serde_json::from_str(&vault.tokens.jwks()).unwrap();
    let key = &jwks["keys"][0];
    assert_eq!((key["kty"].as_str(), key["crv"].as_str(), key["d"].as_str()), (Some("OKP"), Some("Ed25519"), None));
    assert_eq!(key["kid"].as_str(), Some(admin.claims.as_ref().unwrap().signing_key.as_str()));
    let (message, signature) = admin.jwt.rsplit_once('.').unwrap();
    let public = BASE64URL_NOPAD.decode(key["x"].as_str().unwrap().as_bytes()).unwrap();
    aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, public)
        .verify(message.as_bytes(), &BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap())
        .unwrap();
}
