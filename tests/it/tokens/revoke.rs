//! Revocation is exact on every replica once it is answered.

use ibyok::{
    domain::{error::Reason, token::AccessToken},
    service::tokens::{Exchange, Issue, ListTokens, Revoke, Subject},
    store::fake::{Fault, WriteFault},
};

use super::harness::*;

async fn revoke(vault: &Vault, who: &Who, which: &Revoke, id: &str) -> Result<u64, ibyok::domain::error::Failure> {
    let call = vault.call(who, "RevokeTokens", &format!("{which:?}"));
    vault.tokens.revoke(&call, which, "why", id).await
}

async fn narrower(vault: &Vault, who: &Who) -> Who {
    let exchange = Exchange {
        subject: Subject::Token(AccessToken::new(who.jwt.clone())),
        org: org("acme"),
        binding: None,
        grants: Some(grants_in("acme", &["keys:read"], &["orgs/acme/keys/a"])),
        ttl: Some(span(60)),
        request_id: String::new(),
    };
    let nobody = Who { claims: None, ..who.clone() };
    let issued = vault.tokens.exchange(&vault.call(&nobody, "ExchangeToken", ""), &exchange).await.unwrap();
    vault.present(who, &issued.access_token).unwrap()
}

#[tokio::test]
async fn by_name_one_token_and_its_children() {
    let vault = Vault::new().await;
    let replica = vault.replica().await;
    let admin = vault.admin().await;
    let (one, other) = (
        vault.token(&admin, "a", grants(&["keys:read"])).await,
        vault.token(&admin, "a", grants(&["keys:read"])).await,
    );
    let child = narrower(&vault, &one).await;
    replica.stands(&child).await.unwrap();
    let which = Revoke::Name(name(&one));
    assert_eq!(revoke(&vault, &admin, &which, "r").await.unwrap(), 1);
    for gone in [&one, &child] {
        assert_eq!(reason(replica.stands(gone).await), Reason::TokenRevoked);
    }
    replica.stands(&other).await.unwrap();
    assert_eq!(revoke(&replica, &admin, &which, "r").await.unwrap(), 1, "a replay");
    assert_eq!(revoke(&vault, &admin, &which, "").await.unwrap(), 1, "what is revoked stays so");

    let view = vault.tokens.token(&vault.call(&admin, "GetToken", ""), &name(&child)).await.unwrap();
    assert_eq!(view.objection(), Some(Reason::TokenRevoked));
    assert!(view.revoked().is_some());
}

#[tokio::test]
async fn by_subject_all_that_were_issued_so_far() {
    let vault = Vault::new().await;
    let replica = vault.replica().await;
    let admin = vault.admin().await;
    let first = vault.token(&admin, "a", grants(&["keys:read"])).await;
    let second = vault.token(&admin, "a", grants(&["keys:read"])).await;
    let other = vault.token(&admin, "b", grants(&["keys:read"])).await;
    let which = Revoke::Subject(subject("a"));
    assert_eq!(revoke(&vault, &admin, &which, "r").await.unwrap(), 2);
    for gone in [&first, &second] {
        assert_eq!(reason(replica.stands(gone).await), Reason::TokenRevoked);
    }
    replica.stands(&other).await.unwrap();
    assert_eq!(revoke(&vault, &admin, &which, "r").await.unwrap(), 2, "a replay answers the same");
    let fresh = vault.token(&admin, "a", grants(&["keys:read"])).await;
    replica.stands(&fresh).await.unwrap();
    assert_eq!(revoke(&vault, &admin, &which, "r2").await.unwrap(), 1, "only what was live");
    assert_eq!(revoke(&vault, &admin, &Revoke::Subject(subject("never-seen")), "").await.unwrap(), 0);

    let inactive = ListTokens { show_inactive: true, subject: Some(subject("a")), ..everything() };
    let page = vault.tokens.list(&vault.call(&admin, "ListTokens", ""), &inactive).await.unwrap();
    assert!(page.tokens.len() == 3 && page.tokens.iter().all(|token| token.revoked().is_some()));
}

#[tokio::test]
async fn by_time_all_of_the_organization_that_were_created_before() {
    let vault = Vault::new().await;
    let replica = vault.replica().await;
    let admin = vault.admin().await;
    let old = vault.token(&admin, "a", grants(&["keys:read"])).await;
    let gone = vault.token(&admin, "b", grants(&["keys:read"])).await;
    let system = vault.enter(ADMIN, "system").await;
    revoke(&vault, &admin, &Revoke::Subject(subject("b")), "").await.unwrap();
    vault.clock.advance(span(10));
    let moment = vault.now();
    vault.clock.advance(span(10));
    let young = vault.token(&admin, "a", grants(&["keys:read", "tokens:revoke"])).await;
    vault.clock.advance(span(20));

    let future = Revoke::IssuedBefore(vault.now().plus(span(60)));
    let refused = revoke(&vault, &admin, &future, "").await.unwrap_err();
    assert_eq!((refused.reason, refused.fields[0].field.as_ref()), (Reason::InvalidField, "issued_before"));

    let which = Revoke::IssuedBefore(moment);
    assert_eq!(revoke(&vault, &young, &which, "r").await.unwrap(), 2, "the administrator's and the old one");
    for revoked in [&admin, &old, &gone] {
        assert_eq!(reason(replica.stands(revoked).await), Reason::TokenRevoked);
    }
    replica.stands(&young).await.unwrap();
    replica.stands(&system).await.unwrap();
    assert_eq!(revoke(&vault, &young, &which, "r").await.unwrap(), 2, "a replay answers the same");
    let call = vault.call(&vault.admin().await, "GetToken", "");
    let view = vault.tokens.token(&call, &name(&old)).await.unwrap();
    assert!(view.revoked().unwrap() > moment, "when it was revoked, not up to when");
    let earlier = Revoke::IssuedBefore(moment.minus(span(5)));
    assert_eq!(revoke(&vault, &young, &earlier, "").await.unwrap(), 0, "the time never moves back");
    assert_eq!(reason(replica.stands(&old).await), Reason::TokenRevoked);
}

/// A time by which the servers' clocks may not agree on what was before it.
#[tokio::test]
async fn by_a_time_just_now_all_that_were_issued_so_far() {
    let vault = Vault::new().await;
    let replica = vault.replica().await;
    let admin = vault.admin().await;
    let moment = vault.now();
    vault.clock.advance(span(10));
    let young = vault.token(&admin, "a", grants(&["keys:read"])).await;
    vault.clock.advance(span(19));
    let revoker = vault.admin().await;
    let which = Revoke::IssuedBefore(moment);
    assert_eq!(revoke(&vault, &revoker, &which, "r").await.unwrap(), 3);
    for gone in [&admin, &young, &revoker] {
        assert_eq!(reason(replica.stands(gone).await), Reason::TokenRevoked);
    }
    let again = revoke(&vault, &revoker, &which, "r").await;
    assert_eq!(reason(again), Reason::TokenRevoked, "its own caller's, so there is no replay");
    let fresh = vault.admin().await;
    replica.stands(&fresh).await.unwrap();
    assert_eq!(revoke(&vault, &fresh, &which, "").await.unwrap(), 1, "only what was live");
}

#[tokio::test]
async fn whoever_may_revoke_one_may_not_revoke_all() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let pattern = format!("orgs/acme/tokens/{}", name(&admin).id);
    let limited = vault.token(&admin, "x", grants_in("acme", &["tokens:revoke"], &[&pattern])).await;
    for wide in [Revoke::Subject(subject("a")), Revoke::IssuedBefore(vault.now()), Revoke::Name(name(&limited))] {
        assert_eq!(reason(revoke(&vault, &limited, &wide, "").await), Reason::ResourceNotGranted);
    }
    assert_eq!(revoke(&vault, &limited, &Revoke::Name(name(&admin)), "").await.unwrap(), 1);
}

#[tokio::test]
async fn another_organizations_token_is_absent() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let system = vault.enter(ADMIN, "system").await;
    let mut absent = name(&admin);
    absent.id = ibyok::domain::ids::TokenId::parse("id", &"0".repeat(32)).unwrap();
    let expected = seen(revoke(&vault, &admin, &Revoke::Name(absent), "").await);
    assert_eq!(seen(revoke(&vault, &admin, &Revoke::Name(name(&system)), "").await), expected);
    vault.stands(&system).await.unwrap();
}

#[tokio::test]
async fn a_lost_reply_does_not_revoke_twice() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let one = vault.token(&admin, "a", grants(&["keys:read"])).await;
    vault.store.faults().fail_writes([WriteFault::UnknownDone]);
    assert_eq!(revoke(&vault, &admin, &Revoke::Subject(subject("a")), "r").await.unwrap(), 1);
    assert_eq!(reason(vault.stands(&one).await), Reason::TokenRevoked);
    let fresh = vault.token(&admin, "a", grants(&["keys:read"])).await;
    assert_eq!(revoke(&vault, &admin, &Revoke::Subject(subject("a")), "r").await.unwrap(), 1);
    vault.stands(&fresh).await.unwrap();
}

#[tokio::test]
async fn what_is_done_is_answered_though_nothing_can_be_read_any_more() {
    let vault = Vault::new().await;
    let admin = vault.admin().await;
    let counted = Issue { uses_max: Some(3), ..request("a", grants(&["keys:read"])) };
    let held = vault.present(&admin, &vault.issue(&admin, &counted).await.unwrap().access_token).unwrap();
    // Reads end between the commit's start and its end.
    let breaking = || async {
        while vault.store.faults().waiting() == 0 {
            tokio::task::yield_now().await;
        }
        vault.store.faults().break_reads(Fault::Unavailable);
        vault.store.faults().release();
    };
    vault.store.faults().stall_writes();
    let (issued, ()) = tokio::join!(vault.issue(&admin, &counted), breaking());
    assert_eq!(issued.unwrap().token.objection(), None);
    vault.store.faults().mend();

    vault.store.faults().stall_writes();
    let call = vault.call(&held, "RenewToken", "");
    let (renewed, ()) = tokio::join!(vault.tokens.renew(&call, None, ""), breaking());
    assert_eq!(renewed.unwrap().token.objection(), None);
    vault.store.faults().mend();

    for which in [Revoke::Subject(subject("a")), Revoke::IssuedBefore(vault.now())] {
        vault.store.faults().stall_writes();
        let (revoked, ()) = tokio::join!(revoke(&vault, &admin, &which, ""), breaking());
        assert_eq!(revoked.unwrap(), 0, "as far as the count came");
        vault.store.faults().mend();
    }
    assert_eq!(reason(vault.stands(&held).await), Reason::TokenRevoked);
}
